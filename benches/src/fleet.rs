//! A host and many members on the loopback, in this process and in memory, and the bare loop that writes to them what the
//! controllers write.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::future::join_all;
use hansa_api::names;
use hansa_embedded::{
    Options, Server, Storage,
    auth::{StaticToken, User},
};
use hansa_transport::{Transport, boxed};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::client::transport;

/// What asks this program to be the bare loop.
pub const BARE: &str = "bare-loop";
/// The namespace that everything is in.
pub const NAMESPACE: &str = "bench";
/// As many objects are worked on at once as `hansa controller-manager` does.
const AT_ONCE: usize = 32;
/// The administrator's, on all of them.
pub const TOKEN: &str = "a-token-of-the-measured-clusters-only";
const SYSTEM: &str = names::SYSTEM_NAMESPACE;

/// One cluster.
pub struct Cluster {
    pub server: Server,
    pub kubeconfig: PathBuf,
    /// Its URL.
    pub address: String,
}

/// A host with registered members.
pub struct Fleet {
    pub host: Cluster,
    pub members: Vec<Cluster>,
    stop: CancellationToken,
}

impl Cluster {
    pub async fn start(name: &str, dir: &Path, stop: &CancellationToken) -> Self {
        let mut options = Options::new(name, Storage::Memory);
        options.tokens = vec![StaticToken::new(TOKEN, User::new("admin", [names::ADMINS_GROUP]))];
        let server = Server::open(options).await.unwrap();
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": names::ADMINS_BINDING},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": names::ADMINS_GROUP}],
        });
        let bindings = "clusterrolebindings.rbac.authorization.k8s.io";
        server.local().create(bindings, "", binding).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let (serving, stop) = (server.clone(), stop.clone());
        tokio::spawn(async move { serving.serve(listener, stop).await });
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "clusters": [{"name": name, "cluster": {
                "server": address, "certificate-authority-data": STANDARD.encode(server.ca_pem())}}],
            "users": [{"name": name, "user": {"token": TOKEN}}],
        });
        let kubeconfig = dir.join(format!("{name}.kubeconfig"));
        fs::write(&kubeconfig, config.to_string()).unwrap();
        Self { server, kubeconfig, address }
    }

    pub async fn create(&self, resource: &str, namespace: &str, object: Value) -> Value {
        self.server.local().create(resource, namespace, object).await.unwrap()
    }

    /// How many writes the cluster has seen.
    pub fn revision(&self) -> u64 {
        self.server.store().revision()
    }
}

/// The names of the members.
pub fn member(number: usize) -> String {
    format!("m{number:03}")
}

/// A FederatedConfigMap of about a kibibyte on the named members.
pub fn federated(name: &str, members: impl IntoIterator<Item = usize>, text: &str) -> Value {
    let clusters: Vec<Value> = members.into_iter().map(|number| json!({"name": member(number)})).collect();
    json!({
        "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"template": {"data": {"text": text}}, "placement": {"clusters": clusters}},
    })
}

impl Fleet {
    /// Starts a prepared host, `members` registered members, and the bench's namespace federated to all of them.
    pub async fn start(dir: &Path, members: usize) -> Self {
        let stop = CancellationToken::new();
        let host = Cluster::start("host", dir, &stop).await;
        let starts = (0..members).map(|number| {
            let stop = stop.clone();
            async move { Cluster::start(&member(number), dir, &stop).await }
        });
        let members: Vec<Cluster> = join_all(starts).await;
        for crd in hansa_api::crds() {
            host.create("customresourcedefinitions.apiextensions.k8s.io", "", crd).await;
        }
        for crd in hansa_api::crds() {
            established(&host, crd["metadata"]["name"].as_str().unwrap()).await;
        }
        for object in hansa_api::defaults() {
            let resource = match object["kind"].as_str().unwrap() {
                "Namespace" => "namespaces",
                "KubeFedConfig" => "kubefedconfigs.core.kubefed.io",
                _ => "federatedtypeconfigs.core.kubefed.io",
            };
            host.create(resource, SYSTEM, object).await;
        }
        for (number, cluster) in members.iter().enumerate() {
            let name = member(number);
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": SYSTEM},
                "data": {"token": STANDARD.encode(TOKEN)}});
            host.create("secrets", SYSTEM, secret).await;
            let registration = json!({
                "apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedCluster",
                "metadata": {"name": name, "namespace": SYSTEM},
                "spec": {"apiEndpoint": cluster.address, "caBundle": STANDARD.encode(cluster.server.ca_pem()),
                    "secretRef": {"name": name}},
            });
            host.create("kubefedclusters.core.kubefed.io", SYSTEM, registration).await;
        }
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        host.create("namespaces", "", namespace.clone()).await;
        let mut federated = federated(NAMESPACE, [], "");
        federated["kind"] = "FederatedNamespace".into();
        federated["spec"] = json!({"placement": {"clusterSelector": {}}});
        host.create("federatednamespaces.types.kubefed.io", NAMESPACE, federated).await;
        Self { host, members, stop }
    }

    /// Creates federated objects on the host.
    pub async fn federate(&self, objects: impl IntoIterator<Item = Value>) {
        let objects: Vec<Value> = objects.into_iter().collect();
        for chunk in objects.chunks(256) {
            let creations = chunk.iter().map(|object| {
                self.host.create("federatedconfigmaps.types.kubefed.io", NAMESPACE, object.clone())
            });
            join_all(creations).await;
        }
    }

    /// How many ConfigMaps the members have, all together.
    pub fn copies(&self) -> usize {
        self.members.iter().map(|member| member.server.store().count("configmaps")).sum()
    }

    /// How many writes the members have seen, all together.
    pub fn member_writes(&self) -> u64 {
        self.members.iter().map(Cluster::revision).sum()
    }

    /// Runs the bare loop over `objects` objects on `placements` members each, in a process of its own; says how many copies it
    /// wrote a second.
    pub async fn bare(&self, dir: &Path, objects: usize, placements: usize) -> f64 {
        for member in &self.members {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
            member.create("namespaces", "", namespace).await;
        }
        let all = self.members.len();
        let placed: Vec<Vec<usize>> = (0..objects).map(|n| spread(n, placements, all)).collect();
        let text = text(0);
        self.federate(
            placed.iter().enumerate().map(|(n, on)| federated(&format!("o{n}"), on.iter().copied(), &text)),
        )
        .await;
        let plan = dir.join("bare.json");
        let members: Vec<&Path> = self.members.iter().map(|member| member.kubeconfig.as_path()).collect();
        fs::write(
            &plan,
            json!({"host": self.host.kubeconfig, "members": members, "placed": placed}).to_string(),
        )
        .unwrap();
        let before = self.copies();
        let started = Instant::now();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.arg(BARE).arg(&plan);
        assert!(tokio::task::spawn_blocking(move || child.status()).await.unwrap().unwrap().success());
        (self.copies() - before) as f64 / started.elapsed().as_secs_f64()
    }

    /// Ends the clusters.
    pub async fn end(self) {
        self.stop.cancel();
        join_all(self.members.iter().chain([&self.host]).map(|cluster| cluster.server.close())).await;
    }
}

async fn established(host: &Cluster, resource: &str) {
    let select = hansa_embedded::local::Select::default();
    while host.server.local().list(resource, "", &select).is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// On which members object `number` is: all members have as many, and neighbours share few.
pub fn spread(number: usize, placements: usize, members: usize) -> Vec<usize> {
    (0..placements).map(|i| (number + i * members / placements) % members).collect()
}

/// About a kibibyte that says which edition it is.
pub fn text(edition: usize) -> String {
    format!("{edition}-{}", "x".repeat(900))
}

/// The bare loop: for each object the requests that its propagation takes, with the concurrency of the controllers, and nothing
/// decided or watched.
pub fn bare(plan: &Path) {
    let plan: Value = serde_json::from_slice(&fs::read(plan).unwrap()).unwrap();
    crate::client::block_on(async {
        let open = |path: &Value| transport(Path::new(path.as_str().unwrap()), None);
        let host = open(&plan["host"]);
        let members: Arc<Vec<Transport>> =
            Arc::new(plan["members"].as_array().unwrap().iter().map(open).collect());
        let placed: Vec<Vec<usize>> = serde_json::from_value(plan["placed"].clone()).unwrap();
        let next = AtomicUsize::new(0);
        let work = (0..AT_ONCE).map(|_| async {
            while let Some((number, on)) =
                Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, placed.get(n)?)))
            {
                propagate(&host, &members, number, on).await;
            }
        });
        join_all(work).await;
    });
}

async fn propagate(host: &Transport, members: &[Transport], number: usize, on: &[usize]) {
    let name = format!("o{number}");
    let federated =
        format!("/apis/types.kubefed.io/v1beta1/namespaces/{NAMESPACE}/federatedconfigmaps/{name}");
    let versions = format!("/apis/core.kubefed.io/v1alpha1/namespaces/{NAMESPACE}/propagatedversions");
    let merge = "application/merge-patch+json";
    let finalizer = json!({"metadata": {"finalizers": [names::FINALIZER_SYNC]}});
    request(host, Method::PATCH, &federated, merge, &finalizer).await;
    let copy = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"text": text(0)},
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {names::LABEL_MANAGED: names::MANAGED_TRUE}},
    });
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/{name}?fieldManager=kubefed&force=false");
    let apply = "application/apply-patch+yaml";
    join_all(on.iter().map(|member| request(&members[*member], Method::PATCH, &path, apply, &copy))).await;
    let version = json!({"apiVersion": "core.kubefed.io/v1alpha1", "kind": "PropagatedVersion",
        "metadata": {"name": format!("configmap-{name}"), "namespace": NAMESPACE}});
    request(host, Method::POST, &versions, "application/json", &version).await;
    let each = |entry: &dyn Fn(&String) -> Value| -> Vec<Value> {
        on.iter().map(|number| entry(&member(*number))).collect()
    };
    let status = json!({"status": {
        "templateVersion": "0123456789abcdef0123456789abcdef", "overridesVersion": "0123456789abcdef0123456789abcdef",
        "clusterVersions": each(&|name| json!({"clusterName": name, "version": "rv:1000"}))}});
    request(host, Method::PATCH, &format!("{versions}/configmap-{name}/status"), merge, &status).await;
    let status = json!({"status": {"observedGeneration": 1, "clusters": each(&|name| json!({"name": name})),
        "conditions": [{"type": "Propagation", "status": "True", "lastUpdateTime": "2026-01-01T00:00:00Z",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    request(host, Method::PATCH, &format!("{federated}/status"), merge, &status).await;
}

async fn request(to: &Transport, method: Method, path: &str, kind: &str, body: &Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
        .body(boxed(Full::from(body.to_string())))
        .unwrap();
    let response = to.request(request).await.unwrap();
    let status = response.status();
    let answer = response.into_body().collect().await.unwrap().to_bytes();
    // Read as a client reads it.
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert!(status.is_success(), "{path}: {answer}");
}
