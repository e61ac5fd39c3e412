//! Whole clusters in this process, reached over TLS as any other.

#![allow(unreachable_pub, dead_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_api::cluster::Cluster;
use hansa_api::settings::Health;
use hansa_cluster::{
    ControllerOptions, JoinError, JoinRequest, Options, Progress, Registry, connect, controller, join,
};
use hansa_embedded::{Server, StaticToken, Storage, User};
use hansa_transport::{Limits, Target, Transport};
use kube::api::{DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A cluster, and the kubeconfig of its administrator.
pub struct Instance {
    pub server: Server,
    pub client: Client,
    pub kubeconfig: String,
    pub port: u16,
    stop: CancellationToken,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Instance {
    pub async fn start(name: &str) -> Self {
        Self::start_at(name, 0).await
    }

    /// On a given port, so that one cluster can take the place of another.
    pub async fn start_at(name: &str, port: u16) -> Self {
        let token = format!("{name}-{}", "0123456789abcdef".repeat(4));
        let mut options = hansa_embedded::Options::new(name, Storage::Memory);
        options.sans = vec!["127.0.0.1".to_owned()];
        options.tokens = vec![StaticToken::new(&token, User::new("admin", ["hansa:admins"]))];
        let server = Server::open(options).await.unwrap();
        let binding = serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "hansa:admins" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "hansa:admins" }],
        });
        server.local().create("clusterrolebindings.rbac.authorization.k8s.io", "", binding).await.unwrap();
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        tokio::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            async move { server.serve(listener, stop).await }
        });
        use base64::Engine;
        let ca = base64::engine::general_purpose::STANDARD.encode(server.ca_pem());
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{port}"), "certificate-authority-data": ca } }],
            "users": [{ "name": "u", "user": { "token": token } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        })
        .to_string();
        let target = Target::from_kubeconfig(&kubeconfig, None).unwrap();
        let client = Transport::new(target, Limits::default()).unwrap().client("default");
        Self { server, client, kubeconfig, port, stop }
    }

    /// Stops serving, as a cluster that lost its power.
    pub fn cut(&self) {
        self.stop.cancel();
    }
}

/// A host with everything it needs, its registry and its controller.
pub struct Host {
    pub instance: Instance,
    pub registry: Registry,
    pub stop: CancellationToken,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Probes often, so that a test need not wait long.
pub fn quick() -> Health {
    Health {
        period: Duration::from_millis(100),
        timeout: Duration::from_secs(2),
        failure_threshold: 3,
        success_threshold: 1,
    }
}

pub async fn create_all(client: &Client, manifests: Vec<serde_json::Value>) {
    for manifest in manifests {
        let (group, version) = manifest["apiVersion"]
            .as_str()
            .unwrap()
            .split_once('/')
            .unwrap_or(("", manifest["apiVersion"].as_str().unwrap()));
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, manifest["kind"].as_str().unwrap()));
        let object: DynamicObject = serde_json::from_value(manifest).unwrap();
        let api: Api<DynamicObject> = match object.metadata.namespace.as_deref() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        // A definition that was made a moment ago may not be served yet.
        let mut tries = 0;
        while let Err(error) = api.create(&PostParams::default(), &object).await {
            tries += 1;
            assert!(tries < 100, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Host {
    pub async fn start() -> Self {
        let instance = Instance::start("host").await;
        // The federated types are of no concern here, and take most of the time.
        let federated = |manifest: &serde_json::Value| {
            manifest["spec"]["group"] == hansa_api::federated::GROUP
                || manifest["kind"] == "FederatedTypeConfig"
        };
        let needed = hansa_api::manifests().into_iter().filter(|manifest| !federated(manifest)).collect();
        create_all(&instance.client, needed).await;
        let stop = CancellationToken::new();
        let registry = control(&instance.client, &stop);
        Self { instance, registry, stop }
    }

    /// Ends registry and controller, and begins with new ones.
    pub async fn restart(&mut self) {
        self.stop.cancel();
        self.stop = CancellationToken::new();
        self.registry = control(&self.instance.client, &self.stop);
    }

    pub fn client(&self) -> Client {
        self.instance.client.clone()
    }

    pub fn clusters(&self) -> Api<Cluster> {
        Api::all(self.client())
    }

    pub async fn join(&self, name: &str, member: &Instance) -> Result<Cluster, JoinError> {
        let request = request(name, &member.kubeconfig);
        let mut last = Progress::Checking;
        join(self.client(), &connect(), request, |progress| last = progress).await
    }
}

pub fn request(name: &str, kubeconfig: &str) -> JoinRequest {
    JoinRequest {
        name: name.to_owned(),
        kubeconfig: kubeconfig.to_owned(),
        context: None,
        labels: BTreeMap::from([("tier".to_owned(), "edge".to_owned())]),
        provider: String::new(),
        timeout: Duration::from_secs(30),
    }
}

fn control(host: &Client, stop: &CancellationToken) -> Registry {
    let options = Options { health: quick(), leads: watch::channel(true).1, ..Options::reader() };
    let registry = Registry::start(host.clone(), options, stop.clone());
    let options = ControllerOptions { resync: Duration::from_secs(3600), ..ControllerOptions::default() };
    tokio::spawn(controller::run(host.clone(), registry.clone(), options, stop.clone()));
    registry
}

/// Waits until something holds, and says what did not.
pub async fn until<F>(what: &str, mut holds: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never came true that {what}");
}
