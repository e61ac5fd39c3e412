//! A host in this process, towers in front of it over real TLS, and agents that are nothing but what is said on the wire.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod member;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hansa_api::{Cluster, names};
use hansa_cluster::agents;
use hansa_embedded::{Server, StaticToken, Storage, User};
use hansa_listener::{
    pki::{Authority, ServingCertificate, Subject},
    serve::tls_config,
};
use hansa_metrics::Metrics;
use hansa_tower::{Options, Tower};
use hansa_transport::{Body, Transport, empty};
use hansa_tunnel::{
    Served, Settings,
    handshake::{INSTANCE, ORGANISATION, SUBPROTOCOL, agent_name},
    websocket::{self, WebSocket},
};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use kube::{Api, Client};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use member::Member;

/// May everything on the host.
pub const ADMIN: &str = "admin-0123456789abcdef0123456789abcdef";
/// May read and create on `m1` through the tower, and nothing else.
pub const ALICE: &str = "alice-0123456789abcdef0123456789abcdef";
/// May do everything on `m1` through the tower.
pub const ROBOT: &str = "robot-0123456789abcdef0123456789abcdef";
/// May nothing.
pub const BOB: &str = "bob-0123456789abcdef0123456789abcdef";

/// What may take long on a busy machine, and never does where nothing is wrong.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "it never came about that {what}");
}

pub struct Host {
    pub server: Server,
    pub client: Client,
    tower: Client,
    authority: String,
    key: String,
}

impl Host {
    /// A host with the clusters `m1` and `m2`, whose tower has the rights it is given and no others.
    pub async fn start() -> Self {
        let mut options = hansa_embedded::Options::new("host", Storage::Memory);
        let user = |token: &str, name: &str, groups: &[&str]| {
            StaticToken::new(token, User::new(name, groups.iter().copied()))
        };
        options.tokens = vec![
            user(ADMIN, "admin", &["hansa:admins"]),
            user(ALICE, "alice", &["dev"]),
            user(ROBOT, "robot", &[]),
            user(BOB, "bob", &["tenants"]),
        ];
        let server = Server::open(options).await.unwrap();
        let reached_as = |user: User| {
            let server = server.clone();
            Transport::in_process(tower::service_fn(move |request: Request<Body>| {
                let (server, user) = (server.clone(), user.clone());
                async move { Ok::<_, Infallible>(server.handle(user, request).await) }
            }))
            .client("default")
        };
        let account = format!("system:serviceaccount:{}:{}", names::SYSTEM_NAMESPACE, names::TOWER);
        let groups = ["system:serviceaccounts", "system:authenticated"];
        let (client, tower) = (reached_as(User::local()), reached_as(User::new(&account, groups)));
        let now = Timestamp::now();
        let keyed = Authority::generate("hansa-tower", now).unwrap().keyed().clone();
        let host = Self { server, client, tower, authority: keyed.certificate, key: keyed.key };
        let crd =
            hansa_api::crds().into_iter().find(|crd| crd["spec"]["names"]["kind"] == "Cluster").unwrap();
        host.create("customresourcedefinitions.apiextensions.k8s.io", "", crd).await;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names::SYSTEM_NAMESPACE}});
        host.create("namespaces", "", namespace).await;
        for object in hansa_api::tower::rights() {
            let resource = match object["kind"].as_str().unwrap() {
                "ServiceAccount" => "serviceaccounts".to_owned(),
                kind => format!("{}s.rbac.authorization.k8s.io", kind.to_lowercase()),
            };
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
            host.create(&resource, &namespace, object).await;
        }
        host.may("admin", json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})).await;
        let tunnel = |verbs: Value| json!({"apiGroups": ["cluster.kubesphere.io"], "resources": ["clusters/tunnel"], "resourceNames": ["m1"], "verbs": verbs});
        host.may("alice", tunnel(json!(["get", "create"]))).await;
        host.may("robot", tunnel(json!(["*"]))).await;
        host.cluster("m1").await;
        host.cluster("m2").await;
        host
    }

    pub async fn create(&self, resource: &str, namespace: &str, object: Value) -> Value {
        for _ in 0..500 {
            match self.server.local().create(resource, namespace, object.clone()).await {
                Ok(created) => return created,
                // The CRD is not served yet.
                Err(status) if status.code == 404 => sleep(Duration::from_millis(10)).await,
                Err(status) => panic!("{status}"),
            }
        }
        panic!("{resource} is never served");
    }

    pub async fn may(&self, user: &str, rule: Value) {
        let group = "rbac.authorization.k8s.io";
        let role = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": format!("test:{user}")}, "rules": [rule]});
        self.create(&format!("clusterroles.{group}"), "", role).await;
        let binding = json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": format!("test:{user}")},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": format!("test:{user}")},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        });
        self.create(&format!("clusterrolebindings.{group}"), "", binding).await;
    }

    pub async fn cluster(&self, name: &str) {
        let cluster = json!({
            "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster", "metadata": {"name": name},
            "spec": {"joinFederation": true, "connection": {"type": "proxy"}},
        });
        self.create("clusters.cluster.kubesphere.io", "", cluster).await;
    }

    pub fn clusters(&self) -> Api<Cluster> {
        Api::all(self.client.clone())
    }

    /// A new join token.
    pub async fn token(&self, cluster: &str) -> String {
        let cluster = self.clusters().get(cluster).await.unwrap();
        let lifetime = Duration::from_secs(3600);
        let mut rng: rand::rngs::StdRng = rand::SeedableRng::from_os_rng();
        let token = agents::mint(&self.client, &cluster, lifetime, Timestamp::now(), &mut rng).await;
        token.unwrap().reveal().to_owned()
    }

    pub fn authority(&self) -> Authority {
        let keyed = hansa_listener::pki::KeyedCertificate {
            certificate: self.authority.clone(),
            key: self.key.clone(),
        };
        Authority::read(keyed).unwrap()
    }

    /// Starts a replica of the tower.
    pub async fn tower(&self, options: Options) -> Replica {
        let authority = self.authority();
        let names = ["127.0.0.1".to_owned()].into();
        let serving = ServingCertificate::open(&authority, None, &names, Timestamp::now()).unwrap();
        let tls = tls_config(&authority, Arc::new(serving)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (metrics, stop) = (Metrics::default(), CancellationToken::new());
        let tower = Tower::new(self.tower.clone(), authority, &metrics, options, &mut rand::rng());
        let task = tokio::spawn(tower.serve(listener, tls, stop.clone()));
        Replica { address, ca: self.authority.clone(), metrics, stop, task }
    }

    /// The Leases of the towers: what their replicas say of their agents, by the name of the Lease.
    pub async fn leases(&self) -> Vec<(String, Value)> {
        let api = Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(
            self.client.clone(),
            names::SYSTEM_NAMESPACE,
        );
        let leases =
            api.list(&kube::api::ListParams::default().labels(names::LABEL_TOWER_REPLICA)).await.unwrap();
        let told = |lease: k8s_openapi::api::coordination::v1::Lease| {
            let text = lease.metadata.annotations.unwrap().remove(names::ANNOTATION_TOWER_AGENTS).unwrap();
            (lease.metadata.name.unwrap(), serde_json::from_str(&text).unwrap())
        };
        leases.items.into_iter().map(told).collect()
    }
}

/// Settings in which nothing is waited for long.
pub fn quick() -> Options {
    Options { notice: Duration::from_millis(50), drain: Duration::from_secs(5), ..Options::default() }
}

pub struct Replica {
    pub address: SocketAddr,
    pub ca: String,
    pub metrics: Metrics,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A certificate and its key, in PEM.
pub type Identity = (String, String);

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Reply {
    #[track_caller]
    pub fn refused(&self, code: u16, reason: &str) {
        assert_eq!((self.status.as_u16(), self.body["reason"].as_str()), (code, Some(reason)), "{self:?}");
        assert_eq!(self.body["kind"], "Status");
    }
}

impl Replica {
    pub async fn dial(
        &self,
        identity: Option<&Identity>,
        alpn: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
    }

    /// Sends a request on a connection of its own.
    pub async fn send(
        &self,
        identity: Option<&Identity>,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Box<dyn std::error::Error>> {
        let io = TokioIo::new(self.dial(identity, "http/1.1").await?);
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(timeout(PATIENCE, sender.send_request(request)).await??)
    }

    pub async fn ask(&self, identity: Option<&Identity>, request: Request<Body>) -> Reply {
        read(self.send(identity, request).await.unwrap()).await
    }

    pub async fn post(&self, identity: Option<&Identity>, path: &str, object: &Value) -> Reply {
        let body = Full::new(object.to_string().into()).map_err(|never| match never {}).boxed_unsync();
        self.ask(identity, Request::post(path).header("host", "tower").body(body).unwrap()).await
    }

    /// As a caller, by a token.
    pub async fn get(&self, token: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask(None, asking("GET", token, path, headers)).await
    }
}

pub fn asking(method: &str, token: &str, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("host", "tower");
    if !token.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(empty()).unwrap()
}

pub async fn read(response: Response<Incoming>) -> Reply {
    let (parts, body) = response.into_parts();
    let bytes = timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
    Reply { status: parts.status, headers: parts.headers, body }
}

/// An agent: a key, and what it was certified for.
pub struct Agent {
    pub cluster: String,
    pub key: KeyPair,
    pub certificate: String,
}

/// A certificate request as an agent makes it.
pub fn csr(key: &KeyPair, cluster: &str, edit: impl FnOnce(&mut CertificateParams)) -> String {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, ORGANISATION);
    parameters.distinguished_name.push(DnType::CommonName, agent_name(cluster));
    edit(&mut parameters);
    parameters.serialize_request(key).unwrap().pem().unwrap()
}

pub fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

pub fn joining(cluster: &str, token: &str, request: &str) -> Value {
    json!({"cluster": cluster, "token": token, "certificateRequest": request})
}

impl Agent {
    /// Joins with a new token.
    pub async fn join(host: &Host, tower: &Replica, cluster: &str) -> Self {
        let (token, key) = (host.token(cluster).await, key());
        let reply =
            tower.post(None, "/agent/v1/join", &joining(cluster, &token, &csr(&key, cluster, |_| ()))).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        Self {
            cluster: cluster.to_owned(),
            key,
            certificate: reply.body["certificate"].as_str().unwrap().to_owned(),
        }
    }

    /// One whose certificate another authority made, or ours at another time.
    pub fn forged(authority: &Authority, cluster: &str, lifetime: SignedDuration) -> Identity {
        let subject = Subject { name: agent_name(cluster), groups: vec![ORGANISATION.to_owned()] };
        let issued = authority.issue_client(&subject, lifetime, Timestamp::now()).unwrap();
        (issued.certificate, issued.key)
    }

    pub fn identity(&self) -> Identity {
        (self.certificate.clone(), self.key.serialize_pem())
    }

    /// Connects, and serves `member` from then on.
    pub async fn connect(&self, tower: &Replica, instance: &str, member: Member) -> Result<Connected, Reply> {
        let response = tower.send(Some(&self.identity()), connecting(instance)).await.unwrap();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(read(response).await);
        }
        let headers = response.headers().clone();
        let io = timeout(PATIENCE, hyper::upgrade::on(response)).await.unwrap().unwrap();
        let io = WebSocket::client(TokioIo::new(io));
        let (served, driver) = Served::start(io, Settings::default(), member);
        Ok(Connected { served, headers, driver: tokio::spawn(async move { drop(driver.await) }) })
    }
}

pub fn connecting(instance: &str) -> Request<Body> {
    Request::get("/agent/v1/connect")
        .header("host", "tower")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", websocket::key())
        .header("sec-websocket-protocol", SUBPROTOCOL)
        .header(INSTANCE, instance)
        .body(empty())
        .unwrap()
}

/// An agent's end of a session.
pub struct Connected {
    pub served: Served,
    pub headers: HeaderMap,
    driver: JoinHandle<()>,
}

impl Connected {
    /// The agent is killed: its connection breaks off.
    pub fn kill(self) {
        self.driver.abort();
    }
}
