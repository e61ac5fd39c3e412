//! The tower: it redeems one token for one key, renews, and keeps the tunnels of those who show its certificates.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hansa_listener::pki::{Authority, Request as Csr, ServingCertificate, Subject, read_certificate};
use hansa_listener::serve::{Limits, Peer, refusal, serve, tls_config};
use hansa_machinery::Status;
use hansa_tunnel::handshake::{
    CONNECT, INSTANCE, Issued, JOIN, JoinRequest, RENEW, REPLICA, REPLICAS, RenewRequest, SUBPROTOCOL,
    cluster_of,
};
use hansa_tunnel::websocket::{self, WebSocket};
use hansa_tunnel::{Body, Host};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What may differ from the usual.
#[derive(Clone)]
pub struct Options {
    /// When its serving certificate was issued; it holds for a year.
    pub serving_from: Timestamp,
    /// What its serving certificate is for.
    pub names: Vec<String>,
    /// When the agents' certificates seem to have been issued, and how long they hold.
    pub issued: (SignedDuration, SignedDuration),
    /// Answers the handshake without the right key, subprotocol or status.
    pub odd: Option<Odd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    Accept,
    Subprotocol,
    Ok,
    Redirect,
    Garbage,
    Busy,
    Silence,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            serving_from: Timestamp::now(),
            names: vec!["127.0.0.1".to_owned(), "tower.test".to_owned()],
            issued: (SignedDuration::ZERO, SignedDuration::from_hours(24 * 7)),
            odd: None,
        }
    }
}

/// What the replicas of a tower share.
pub struct Shared {
    authority: Authority,
    options: Mutex<Options>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: String,
    redeemed: Option<(String, String)>,
    joins: usize,
    renewals: usize,
    tunnels: Vec<(String, String, Host)>,
    replicas: usize,
}

/// One replica.
pub struct Tower {
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
    pub replica: String,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Tower {
    pub async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let shared = Arc::new(Shared {
            authority: Authority::generate("hansa-tower", Timestamp::now()).unwrap(),
            options: Mutex::new(options),
            state: Mutex::new(State { token: "join-t0ken".to_owned(), replicas: 1, ..State::default() }),
        });
        Self::replica_of(shared, "a").await
    }

    pub async fn replica_of(shared: Arc<Shared>, replica: &str) -> Self {
        let mut tower = Self {
            address: ([127, 0, 0, 1], 0).into(),
            shared,
            replica: replica.to_owned(),
            stop: CancellationToken::new(),
            task: None,
        };
        tower.listen().await;
        tower
    }

    /// Serves, at the same port as before if there was one.
    pub async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        self.stop = CancellationToken::new();
        let options = self.shared.options.lock().unwrap().clone();
        let names: BTreeSet<String> = options.names.iter().cloned().collect();
        let serving = self.shared.authority.issue_serving(&names, options.serving_from).unwrap();
        let tls = tls_config(&self.shared.authority, Arc::new(ServingCertificate::given(serving).unwrap()))
            .unwrap();
        let (shared, replica) = (self.shared.clone(), self.replica.clone());
        let handler = move |peer: Peer, request: Request<Incoming>| {
            let (shared, replica) = (shared.clone(), replica.clone());
            async move { handle(shared, replica, peer, request).await.unwrap_or_else(|status| refusal(&status)) }
        };
        let limits = Limits { drain: Duration::ZERO, ..Limits::default() };
        self.task = Some(tokio::spawn(serve(listener, tls, limits, self.stop.clone(), handler)));
    }

    /// As a process that is killed: nobody listens, and connections break.
    pub async fn kill(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            task.await.unwrap();
        }
        let mut state = self.shared.state.lock().unwrap();
        state.tunnels.retain(|(replica, _, host)| {
            if *replica == self.replica {
                host.close();
            }
            *replica != self.replica
        });
    }

    pub fn set(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.shared.options.lock().unwrap());
    }

    pub fn authority(&self) -> &str {
        self.shared.authority.certificate_pem()
    }

    pub fn token(&self) -> String {
        self.shared.state.lock().unwrap().token.clone()
    }

    /// A new token for the same cluster.
    pub fn invite(&self, token: &str) {
        self.shared.state.lock().unwrap().token = token.to_owned();
    }

    pub fn set_replicas(&self, replicas: usize) {
        self.shared.state.lock().unwrap().replicas = replicas;
    }

    pub fn joins(&self) -> usize {
        self.shared.state.lock().unwrap().joins
    }

    pub fn renewals(&self) -> usize {
        self.shared.state.lock().unwrap().renewals
    }

    /// The tunnels to this replica that are open.
    pub fn hosts(&self) -> Vec<Host> {
        let state = self.shared.state.lock().unwrap();
        let own =
            state.tunnels.iter().filter(|(replica, _, host)| *replica == self.replica && host.is_open());
        own.map(|(_, _, host)| host.clone()).collect()
    }

    /// A tunnel, once there is one.
    pub async fn host(&self) -> Host {
        super::eventually("the tower has a tunnel", || self.hosts().pop()).await
    }
}

impl Drop for Tower {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn handle(
    shared: Arc<Shared>,
    replica: String,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    match request.uri().path() {
        JOIN => {
            let asked: JoinRequest = read(request).await?;
            let csr = checked(&asked.certificate_request, &asked.cluster)?;
            let mut state = shared.state.lock().unwrap();
            let key = public_key(&asked.certificate_request);
            let again = state
                .redeemed
                .as_ref()
                .is_some_and(|(token, holder)| *token == asked.token && *holder == key);
            let known = state.token == asked.token;
            let used = state.redeemed.as_ref().is_some_and(|(token, _)| *token == asked.token);
            if !again && (used || !known) {
                let message = if used {
                    "the join token has been used by another agent"
                } else {
                    "the join token is not valid"
                };
                return Err(Status::new(403, "JoinTokenReplayed", message));
            }
            state.redeemed = Some((asked.token, key));
            state.joins += 1;
            drop(state);
            issue(&shared, &csr)
        }
        RENEW => {
            let cluster = cluster(&peer)?;
            let asked: RenewRequest = read(request).await?;
            let csr = checked(&asked.certificate_request, &cluster)?;
            shared.state.lock().unwrap().renewals += 1;
            issue(&shared, &csr)
        }
        CONNECT => {
            cluster(&peer)?;
            connect(&shared, &replica, request).await
        }
        _ => Err(Status::new(404, "NotFound", "nothing is there")),
    }
}

async fn read<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Result<T, Status> {
    let bytes = request.into_body().collect().await.map_err(Status::internal)?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| Status::bad_request(error.to_string()))
}

fn cluster(peer: &Peer) -> Result<String, Status> {
    let der = peer.certificate.as_ref().ok_or_else(Status::unauthorized)?;
    let (subject, _) = read_certificate(der).map_err(|_| Status::unauthorized())?;
    cluster_of(&subject.name).map(str::to_owned).ok_or_else(Status::unauthorized)
}

fn checked(pem: &str, cluster: &str) -> Result<Csr, Status> {
    let csr = Csr::parse(pem.as_bytes()).map_err(|error| Status::bad_request(error.to_string()))?;
    let subject: &Subject = csr.subject().map_err(|error| Status::bad_request(error.to_string()))?;
    if cluster_of(&subject.name) != Some(cluster) || csr.asks_for_more_than_a_client_certificate() {
        return Err(Status::bad_request("the certificate request asks for something else"));
    }
    Ok(csr)
}

fn public_key(request: &str) -> String {
    use x509_parser::prelude::{FromDer, X509CertificationRequest};
    let (_, pem) = x509_parser::pem::parse_x509_pem(request.as_bytes()).unwrap();
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).unwrap();
    format!("{:?}", request.certification_request_info.subject_pki.raw)
}

fn issue(shared: &Shared, csr: &Csr) -> Result<Response<Body>, Status> {
    let (from, life) = shared.options.lock().unwrap().issued;
    let certificate = shared
        .authority
        .sign_request(csr, false, life, Timestamp::now() + from)
        .map_err(|error| Status::internal(error.to_string()))?;
    let issued = Issued { certificate, authority: shared.authority.certificate_pem().to_owned() };
    Ok(Response::new(super::body(serde_json::to_vec(&issued).unwrap())))
}

async fn connect(
    shared: &Arc<Shared>,
    replica: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let odd = shared.options.lock().unwrap().odd;
    let plain = |code: u16, name: &str, value: &str| {
        Ok(Response::builder().status(code).header(name, value).body(super::body("hello")).unwrap())
    };
    match odd {
        Some(Odd::Ok) => return plain(200, "x", "y"),
        Some(Odd::Redirect) => return plain(307, "location", "https://elsewhere/"),
        Some(Odd::Garbage) => return plain(403, "x", "y"),
        Some(Odd::Busy) => {
            let mut response = refusal(&Status::unavailable("too many agents connect at once"));
            response.headers_mut().insert(header::RETRY_AFTER, 1.into());
            return Ok(response);
        }
        Some(Odd::Silence) => std::future::pending().await,
        _ => {}
    }
    let mut accept = websocket::accept(request.headers(), SUBPROTOCOL)
        .map_err(|error| Status::bad_request(error.to_string()))?;
    if odd == Some(Odd::Accept) {
        accept = websocket::accept_of("another key").parse().unwrap();
    }
    let instance = request.headers()[INSTANCE].to_str().unwrap().to_owned();
    let state = shared.state.lock().unwrap();
    let replicas = state.replicas.to_string();
    let is_same = |(other, known, host): &(String, String, Host)| {
        other == replica && *known == instance && host.is_open()
    };
    let response = Response::builder().header(REPLICA, replica).header(REPLICAS, replicas);
    if state.tunnels.iter().any(is_same) {
        return Ok(response.status(409).body(super::body("")).unwrap());
    }
    drop(state);
    let (shared, replica) = (shared.clone(), replica.to_owned());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = WebSocket::server(TokioIo::new(upgraded.await.unwrap()));
        let (host, driver) = Host::start(io, hansa_tunnel::Settings::default());
        shared.state.lock().unwrap().tunnels.push((replica, instance, host));
        let _ = driver.await;
    });
    let subprotocol = if odd == Some(Odd::Subprotocol) { "other" } else { SUBPROTOCOL };
    Ok(response
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .header(header::SEC_WEBSOCKET_PROTOCOL, subprotocol)
        .body(super::body(""))
        .unwrap())
}
