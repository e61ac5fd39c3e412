//! The member: the embedded API server, which serves TLS, asks for a token, and has one path more, which upgrades.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hansa_embedded::auth::StaticToken;
use hansa_embedded::{Body, Server, Storage, User};
use hansa_listener::serve::{Limits, Peer, refusal, serve};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub struct Cluster {
    pub server: Server,
    pub address: SocketAddr,
    /// The heads of what was asked, as the API server saw them.
    pub seen: Arc<Mutex<Vec<http::request::Parts>>>,
    revoked: Arc<AtomicBool>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// Two tokens of the agent's ServiceAccount, so that one can follow the other.
pub const TOKENS: [&str; 2] = ["first-token", "second-token"];

impl Cluster {
    pub async fn new() -> Self {
        let mut options = hansa_embedded::Options::new("m2", Storage::Memory);
        let user = User::new("agent", ["system:authenticated"]);
        options.tokens = TOKENS.map(|token| StaticToken::new(token, user.clone())).into();
        let server = Server::open(options).await.unwrap();
        let mut cluster = Self {
            server,
            address: ([127, 0, 0, 1], 0).into(),
            seen: Arc::default(),
            revoked: Arc::default(),
            stop: CancellationToken::new(),
            task: None,
        };
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "agent"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "agent"}],
        });
        cluster.send("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
        cluster.listen().await;
        cluster
    }

    pub fn authority(&self) -> String {
        self.server.ca_pem()
    }

    pub fn token(&self) -> &'static str {
        TOKENS[0]
    }

    /// Serves, at the same port as before if there was one.
    pub async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        self.stop = CancellationToken::new();
        let (server, seen, revoked) = (self.server.clone(), self.seen.clone(), self.revoked.clone());
        let handler = move |peer: Peer, request: Request<Incoming>| {
            let first = request
                .headers()
                .get(header::AUTHORIZATION)
                .is_some_and(|value| value == "Bearer first-token");
            let refused = first && revoked.load(Ordering::SeqCst);
            let (server, seen) = (server.clone(), seen.clone());
            async move {
                if refused {
                    return refusal(&hansa_machinery::Status::unauthorized());
                }
                handle(server, seen, peer, request).await
            }
        };
        let tls = self.server.auth().tls_config();
        let limits = Limits { drain: std::time::Duration::ZERO, ..Limits::default() };
        self.task = Some(tokio::spawn(serve(listener, tls, limits, self.stop.clone(), handler)));
    }

    /// From now on the first token is not accepted.
    pub fn revoke_first(&self) {
        self.revoked.store(true, Ordering::SeqCst);
    }

    /// Writes an object, straight at the API server.
    pub async fn send(&self, method: &str, path: &str, object: &Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(super::body(object.to_string())).unwrap();
        let response = self.server.handle(User::new("admin", ["system:masters"]), request).await;
        assert!(response.status().is_success(), "{}", response.status());
    }

    /// Stops serving; connections break.
    pub async fn pause(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            task.await.unwrap();
        }
    }

    /// An object, straight from the API server.
    pub async fn object(&self, path: &str) -> Option<Value> {
        let request = Request::get(path).body(super::body("")).unwrap();
        let user = User::new("admin", ["system:masters"]);
        let response = self.server.handle(user, request).await;
        let found = response.status() == StatusCode::OK;
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        found.then(|| serde_json::from_slice(&bytes).unwrap())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn handle(
    server: Server,
    seen: Arc<Mutex<Vec<http::request::Parts>>>,
    peer: Peer,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let mut parts = Request::new(()).into_parts().0;
    parts.uri = request.uri().clone();
    parts.headers = request.headers().clone();
    seen.lock().unwrap().push(parts);
    let user = match server.auth().authenticate(peer.certificate.as_deref(), request.headers_mut()) {
        Ok(user) => user,
        Err(status) => return refusal(&status),
    };
    if request.uri().path().ends_with("/exec") {
        return exec(request);
    }
    Box::pin(server.handle(user, request.map(|body| body.map_err(Into::into).boxed_unsync()))).await
}

/// Sends back what comes, as `cat` in a Pod.
fn exec(mut request: Request<Incoming>) -> Response<Body> {
    let Some(protocol) = request.headers().get(header::UPGRADE).cloned() else {
        return refusal(&hansa_machinery::Status::bad_request("you must request an upgrade"));
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let mut response = Response::new(super::body(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, protocol);
    response.headers_mut().insert(header::CONNECTION, "Upgrade".parse().unwrap());
    response
}
