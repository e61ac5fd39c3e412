//! One cluster of either kind, as the tests see it: asked directly, reached by Hansa through a link, stopped and started again.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    time::Duration,
};

use hansa_embedded::{Options, Server, StaticToken, Storage, User};
use hansa_transport::{Limits, Target, Transport, collect};
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, block_in_place},
};
use tokio_util::sync::CancellationToken;

use crate::support::{free_port, link::Link, real};

const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

pub struct Cluster {
    /// What Hansa reaches it through.
    pub link: Link,
    /// An administrator's, past the link.
    kubeconfig: Value,
    direct: Direct,
    back: Back,
}

/// An administrator's way to a cluster, past the link.
#[derive(Clone)]
pub struct Direct {
    pub name: &'static str,
    transport: Transport,
    client: kube::Client,
}

impl Deref for Cluster {
    type Target = Direct;

    fn deref(&self) -> &Direct {
        &self.direct
    }
}

enum Back {
    Embedded(Box<Embedded>),
    Real(real::Cluster),
}

/// An embedded server that keeps its data in a file.
struct Embedded {
    options: Options,
    port: u16,
    running: Option<(Server, CancellationToken, JoinHandle<()>)>,
}

impl Embedded {
    async fn start(&mut self) {
        let server = Server::open(self.options.clone()).await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let stop = CancellationToken::new();
        let (serving, until) = (server.clone(), stop.clone());
        let task = tokio::spawn(async move { serving.serve(listener, until).await });
        self.running = Some((server, stop, task));
    }

    async fn stop(&mut self) {
        let (server, stop, task) = self.running.take().unwrap();
        stop.cancel();
        task.await.unwrap();
        server.close().await;
    }
}

/// What of a cluster stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// The API server.
    Api,
    /// The API server and the storage behind it.
    All,
}

impl Cluster {
    pub async fn embedded(name: &'static str, dir: &Path) -> Self {
        let token = format!("{name}-{}", "0123456789abcdef".repeat(4));
        let mut options = Options::new(name, Storage::File(dir.join(format!("{name}.redb"))));
        options.sans = vec!["127.0.0.1".to_owned()];
        options.tokens = vec![StaticToken::new(&token, User::new("admin", ["hansa:admins"]))];
        let mut embedded = Embedded { options, port: free_port(), running: None };
        embedded.start().await;
        let (server, ..) = embedded.running.as_ref().unwrap();
        let binding =
            binding("hansa:admins", json!({"kind": "Group", "name": "hansa:admins", "apiGroup": RBAC}));
        server.local().create("clusterrolebindings.rbac.authorization.k8s.io", "", binding).await.unwrap();
        let kubeconfig = kubeconfig(embedded.port, &base64(server.ca_pem().as_bytes()), &token);
        Self::of(name, kubeconfig, Back::Embedded(Box::new(embedded))).await
    }

    /// A real cluster. Its ConfigMaps are watched in etcd itself, so that the history of these ends where etcd's does.
    pub async fn real(name: &'static str, dir: &Path, assets: PathBuf) -> Self {
        let dir = dir.to_owned();
        let start = move || {
            let flags = ["--watch-cache-sizes=configmaps#0"];
            let cluster = real::Cluster::start_flagged(name, &dir.join(name), &assets, &flags);
            let file = cluster.token_kubeconfig(&dir.join(format!("{name}.kubeconfig")));
            (cluster, std::fs::read_to_string(file).unwrap())
        };
        let (cluster, kubeconfig) = tokio::task::spawn_blocking(start).await.unwrap();
        Self::of(name, serde_json::from_str(&kubeconfig).unwrap(), Back::Real(cluster)).await
    }

    async fn of(name: &'static str, kubeconfig: Value, back: Back) -> Self {
        let server = kubeconfig["clusters"][0]["cluster"]["server"].as_str().unwrap();
        let link = Link::to(server.rsplit(':').next().unwrap().parse().unwrap()).await;
        let transport = transport(&kubeconfig);
        let direct = Direct { name, client: transport.client("default"), transport };
        Self { link, kubeconfig, direct, back }
    }

    pub fn is_real(&self) -> bool {
        matches!(self.back, Back::Real(_))
    }

    /// The authority of its certificates, in base64.
    pub fn authority(&self) -> &Value {
        &self.kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"]
    }

    /// An administrator's kubeconfig, directly or through the link.
    pub fn kubeconfig(&self, through_link: bool) -> String {
        let mut config = self.kubeconfig.clone();
        if through_link {
            config["clusters"][0]["cluster"]["server"] =
                format!("https://127.0.0.1:{}", self.link.port).into();
        }
        config.to_string()
    }

    /// Ends it at once.
    pub async fn stop(&mut self, part: Part) {
        match &mut self.back {
            Back::Embedded(embedded) => embedded.stop().await,
            Back::Real(cluster) => {
                cluster.program("kube-apiserver").kill();
                if part == Part::All {
                    cluster.program("etcd").kill();
                }
            }
        }
    }

    /// Starts what was stopped, with the same data and at the same port.
    pub async fn start(&mut self) {
        match &mut self.back {
            Back::Embedded(embedded) => embedded.start().await,
            Back::Real(cluster) => {
                let etcd = cluster.program("etcd");
                if etcd.check().is_err() {
                    etcd.start_again();
                }
                cluster.program("kube-apiserver").start_again();
            }
        }
        for _ in 0..3000 {
            if let Back::Real(cluster) = &mut self.back {
                cluster.program("kube-apiserver").check().unwrap();
            }
            let request = Request::get("/readyz").body(hansa_transport::empty()).unwrap();
            if self.transport.request(request).await.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} is not ready again after a minute", self.name);
    }

    /// Has it forget what happened: a watch of `path` cannot go on from `version`, and is told so. A real cluster has its etcd compacted
    /// and defragmented; an embedded server remembers nothing from before its start.
    pub async fn forget(&mut self, path: &str, version: &str) {
        if let Back::Real(cluster) = &self.back {
            let etcd = &cluster.etcd;
            let status = post(etcd, "/v3/maintenance/status", json!({})).await;
            let revision = &status["header"]["revision"];
            post(etcd, "/v3/kv/compaction", json!({"revision": revision, "physical": true})).await;
            post(etcd, "/v3/maintenance/defragment", json!({})).await;
        }
        // What is watched through the API server's own cache is forgotten with that.
        if self.watched_from(path, version).await != 410 {
            self.stop(Part::Api).await;
            self.start().await;
        }
        for _ in 0..3000 {
            match self.watched_from(path, version).await {
                410 => return,
                // The cache is not filled yet.
                429 => tokio::time::sleep(Duration::from_millis(20)).await,
                code => panic!("{path} of {} is watched from {version}: {code}", self.name),
            }
        }
        panic!("{path} of {} is not to be watched", self.name);
    }

    /// What becomes of a watch of `path` that begins at `version`: 200, or the code of the refusal, as a status or as its first event.
    async fn watched_from(&self, path: &str, version: &str) -> u64 {
        let query = format!("watch=true&timeoutSeconds=1&resourceVersion={version}");
        let request = Request::get(format!("{path}?{query}")).body(hansa_transport::empty()).unwrap();
        let answer = self.transport.request(request).await.unwrap();
        let code = answer.status().as_u16();
        let body = collect(answer.into_body(), 16 << 20).await.unwrap();
        let first = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let event: Value = serde_json::from_slice(first).unwrap_or_default();
        if event["type"] == "ERROR" { event["object"]["code"].as_u64().unwrap() } else { code.into() }
    }

    /// The code with which it answers somebody who has this token.
    pub async fn answers(&self, token: &str) -> u16 {
        let mut config = self.kubeconfig.clone();
        config["users"][0]["user"] = json!({"token": token});
        let request = Request::get("/api/v1/namespaces").body(hansa_transport::empty()).unwrap();
        transport(&config).request(request).await.unwrap().status().as_u16()
    }

    /// Makes a ServiceAccount that may do everything, if there is none, and a Secret with a token of it; returns the token.
    pub async fn issue_token(&self, account: &str) -> String {
        let home = "/api/v1/namespaces/kube-system";
        if self.get(&format!("{home}/serviceaccounts/{account}")).await.unwrap().is_none() {
            let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
            self.create(&format!("{home}/serviceaccounts"), &object).await;
            let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": "kube-system"});
            self.create(&format!("/apis/{RBAC}/v1/clusterrolebindings"), &binding(account, subject)).await;
        }
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": account, "annotations": {"kubernetes.io/service-account.name": account}},
        });
        self.create(&format!("{home}/secrets"), &secret).await;
        for _ in 0..3000 {
            if let Some(token) = self.issued_token(account).await {
                return token;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} issues no token", self.name);
    }

    /// The token that was issued, if there is one.
    pub async fn issued_token(&self, account: &str) -> Option<String> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let secret = self.get(&format!("/api/v1/namespaces/kube-system/secrets/{account}")).await.unwrap()?;
        Some(String::from_utf8(STANDARD.decode(secret["data"]["token"].as_str()?).unwrap()).unwrap())
    }

    /// Takes the ServiceAccount's token away, and every right with it.
    pub async fn revoke_token(&self, account: &str) {
        self.delete(&format!("/api/v1/namespaces/kube-system/secrets/{account}")).await;
    }

    /// Installs what a host has.
    pub fn install(&self, dir: &Path) {
        let file = dir.join("install.kubeconfig");
        std::fs::write(&file, self.kubeconfig(false)).unwrap();
        let installed = block_in_place(|| crate::support::embedded::hansa(&file, &["install"]));
        assert!(installed.status.success(), "{installed:?}");
    }
}

impl Direct {
    async fn send(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<Value, kube::Error> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request =
            Request::builder().method(method).uri(path).header("content-type", kind).body(body).unwrap();
        self.client.request(request).await
    }

    /// The object or list at a path, or `None` where there is none.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, String> {
        match self.send(Method::GET, path, JSON, &Value::Null).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(format!("GET {path} of {}: {error}", self.name)),
        }
    }

    /// The items of a collection, by name.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, String> {
        let list = self.get(path).await?.ok_or(format!("{path} is not served by {}", self.name))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    pub async fn create(&self, path: &str, object: &Value) {
        self.done("POST", path, self.send(Method::POST, path, JSON, object).await);
    }

    /// The version of a collection as it is now.
    pub async fn version_of(&self, path: &str) -> String {
        let list = self.get(path).await.unwrap().unwrap();
        list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    }

    pub async fn patch(&self, path: &str, patch: &Value) {
        self.done("PATCH", path, self.send(Method::PATCH, path, MERGE, patch).await);
    }

    /// Applies a merge patch; the error is what the server said.
    pub async fn try_patch(&self, path: &str, patch: &Value) -> Result<(), String> {
        self.send(Method::PATCH, path, MERGE, patch).await.map(drop).map_err(|error| error.to_string())
    }

    pub async fn delete(&self, path: &str) {
        self.done("DELETE", path, self.send(Method::DELETE, path, JSON, &Value::Null).await);
    }

    fn done(&self, verb: &str, path: &str, outcome: Result<Value, kube::Error>) {
        if let Err(error) = outcome {
            panic!("{verb} {path} of {}: {error}", self.name);
        }
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn binding(name: &str, subject: Value) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"}, "subjects": [subject],
    })
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

fn kubeconfig(port: u16, authority: &str, token: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "certificate-authority-data": authority}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    })
}

fn transport(kubeconfig: &Value) -> Transport {
    let target = Target::from_kubeconfig(&kubeconfig.to_string(), None).unwrap();
    Transport::new(target, Limits::default()).unwrap()
}

/// Asks etcd's gateway.
async fn post(etcd: &str, path: &str, body: Value) -> Value {
    let address = etcd.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = body.to_string();
    let head = format!("POST {path} HTTP/1.0\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{path}: {answer}");
    serde_json::from_str(body).unwrap()
}
