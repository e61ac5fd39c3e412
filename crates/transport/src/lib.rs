//! One API server as a [`tower::Service`].
//!
//! Whoever talks to a cluster does it through a [`Transport`], mostly by [`Transport::client`]. Behind it is TLS to a real API server,
//! directly or through a proxy, or a function call into a server in this process. HTTP/2 carries requests and watches on few connections;
//! upgrades (`exec`, `attach`, `port-forward`) have an HTTP/1.1 connection each.

mod body;
mod credential;
mod dial;
mod endpoint;
mod error;
mod in_process;
pub mod kubeconfig;
mod pool;
mod rate;
mod tls;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use hyper::upgrade::Upgraded;
use tokio::sync::Semaphore;
use tower::Service;

pub use body::{Body, boxed, collect, empty, holding};
pub use credential::{Credential, Identity};
pub use dial::{Io, Patience, reach};
pub use endpoint::{Endpoint, EndpointError, Proxy, ProxyError};
pub use error::{BoxError, Error, explain};
pub use kubeconfig::{KubeconfigError, Target};
pub use rate::Rate;
pub use tls::{Tls, TlsError, certificate_expiry};

use crate::body::Held;
use crate::dial::Route;
use crate::pool::Pool;

/// The bounds of a [`Transport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a connection may take to be made.
    pub connect: Duration,
    /// How long it may take until an answer begins; longer than an API server's own limit of a minute.
    pub response: Duration,
    /// How long an answer may be silent, but for watches and followed logs over HTTP/2. Watches end by themselves before this.
    pub silence: Duration,
    /// How long a request may wait for its turn.
    pub queue: Duration,
    /// How many requests may be under way at once, watches and followed logs not counted.
    pub concurrency: usize,
    /// How many requests are made in a second, if that is bounded; watches count when they begin.
    pub rate: Option<Rate>,
    /// How often an HTTP/2 connection is tested.
    pub ping_interval: Duration,
    /// How long the answer to a test may take.
    pub ping_timeout: Duration,
    /// How many bytes of one answer may wait for a reader that does not read, over HTTP/2.
    pub stream_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            response: Duration::from_secs(65),
            silence: Duration::from_secs(330),
            queue: Duration::from_secs(30),
            concurrency: 100,
            rate: None,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            stream_window: 1 << 20,
        }
    }
}

/// The connections of a [`Transport`], but for those of HTTP/1.1 requests under way and of upgrades.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// HTTP/2 connections.
    pub http2: usize,
    /// HTTP/1.1 connections that wait for the next request.
    pub idle: usize,
}

/// One API server. Clones share its connections.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

enum Inner {
    Remote(Box<Remote>),
    InProcess(in_process::InProcess),
}

struct Remote {
    pool: Arc<Pool>,
    tls: Tls,
    credential: ArcSwap<Credential>,
    limits: Limits,
    requests: Arc<Semaphore>,
    gate: Option<Box<rate::Gate>>,
}

/// What an API server answers when it is asked to upgrade.
pub enum Upgrade {
    /// It changed protocols (101): the head of its answer, and the stream.
    Switched(Response<()>, Upgraded),
    /// It did not. The connection is not used again.
    Refused(Response<Body>),
}

/// A response that is on its way.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;
/// The answer to an upgrade that is on its way.
pub type UpgradeFuture = Pin<Box<dyn Future<Output = Result<Upgrade, Error>> + Send>>;

impl Transport {
    /// A transport to what `target` says. Nothing is dialled yet.
    pub fn new(target: Target, limits: Limits) -> Result<Self, TlsError> {
        let Target { endpoint, tls, proxy, credential } = target;
        let config = request_config(&endpoint, &tls, &credential)?;
        let route = Route { endpoint, proxy, server_name: tls.server_name.clone() };
        let remote = Remote {
            pool: Arc::new(Pool::new(route, limits, config)),
            tls,
            credential: ArcSwap::from_pointee(credential),
            limits,
            requests: Arc::new(Semaphore::new(limits.concurrency)),
            gate: limits.rate.map(|rate| Box::new(rate::Gate::new(rate))),
        };
        Ok(Self { inner: Arc::new(Inner::Remote(Box::new(remote))) })
    }

    /// A transport that is a function call into a server in this process.
    pub fn in_process<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self { inner: Arc::new(Inner::InProcess(in_process::InProcess::new(service))) }
    }

    /// Where the API server is; `None` for one in this process.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match &*self.inner {
            Inner::Remote(remote) => Some(&remote.pool.route().endpoint),
            Inner::InProcess(_) => None,
        }
    }

    /// From now on requests are made with `credential`. What is under way goes on with the former one. Connections are made anew only if the
    /// client certificate is another one.
    pub fn rotate(&self, credential: Credential) -> Result<(), TlsError> {
        let Inner::Remote(remote) = &*self.inner else { return Ok(()) };
        let former = remote.credential.load_full();
        if former.identity != credential.identity {
            remote.pool.replace_tls(request_config(&remote.pool.route().endpoint, &remote.tls, &credential)?);
        }
        remote.credential.store(Arc::new(credential));
        Ok(())
    }

    /// A client on this transport. It must be made inside a runtime.
    pub fn client(&self, default_namespace: &str) -> kube::Client {
        kube::Client::new(self.clone(), default_namespace)
    }

    /// The connections that are open.
    pub fn connections(&self) -> Connections {
        match &*self.inner {
            Inner::Remote(remote) => remote.pool.connections(),
            Inner::InProcess(_) => Connections::default(),
        }
    }

    /// Sends a request whose URI is a path on the API server. The answer begins within [`Limits::response`]; redirects are not followed.
    pub fn request<B>(&self, request: Request<B>) -> ResponseFuture
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Box::pin(self.clone().send(request.map(boxed)))
    }

    async fn send(self, request: Request<Body>) -> Result<Response<Body>, Error> {
        match &*self.inner {
            Inner::InProcess(server) => server.call(request).await,
            Inner::Remote(remote) => {
                let limit = remote.limits.response;
                tokio::time::timeout(limit, remote.request(request)).await.unwrap_or_else(|_| {
                    Err(Error::Timeout { endpoint: remote.pool.endpoint().to_string(), after: limit })
                })
            }
        }
    }

    /// Asks for an upgrade, which `request`'s `Connection` and `Upgrade` headers name. The stream is handed over only after a 101.
    pub fn upgrade<B>(&self, request: Request<B>) -> UpgradeFuture
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Box::pin(self.clone().switch(request.map(boxed)))
    }

    async fn switch(self, request: Request<Body>) -> Result<Upgrade, Error> {
        if !request.headers().contains_key(header::UPGRADE) {
            return Err(Error::InvalidRequest("it has no Upgrade header".to_owned()));
        }
        let (response, endpoint) = match &*self.inner {
            Inner::InProcess(server) => (server.upgrade(request).await?, "in process".to_owned()),
            Inner::Remote(remote) => {
                let limit = remote.limits.response;
                let endpoint = remote.pool.endpoint().to_string();
                let response = tokio::time::timeout(limit, remote.upgrade(request))
                    .await
                    .unwrap_or_else(|_| Err(Error::Timeout { endpoint: endpoint.clone(), after: limit }))?;
                (response, endpoint)
            }
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Upgrade::Refused(response.map(boxed)));
        }
        let (mut parts, body) = response.into_parts();
        let mut switched = Response::new(body);
        *switched.extensions_mut() = std::mem::take(&mut parts.extensions);
        let stream = hyper::upgrade::on(switched).await.map_err(|error| Error::Lost {
            endpoint,
            reason: format!("it did not change protocols: {error}"),
        })?;
        Ok(Upgrade::Switched(Response::from_parts(parts, ()), stream))
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.endpoint() {
            Some(endpoint) => write!(f, "Transport({endpoint})"),
            None => f.write_str("Transport(in process)"),
        }
    }
}

fn request_config(
    endpoint: &Endpoint,
    tls: &Tls,
    credential: &Credential,
) -> Result<Option<Arc<rustls::ClientConfig>>, TlsError> {
    if !endpoint.tls {
        return Ok(None);
    }
    tls::config(tls, credential.identity.as_ref(), &[b"h2", b"http/1.1"]).map(Some)
}

impl Remote {
    async fn request(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        let long = is_long_running(request.uri());
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        self.address(&mut request)?;
        remove_hop_by_hop(request.headers_mut());
        let permit = if long {
            None
        } else {
            let turn = self.requests.clone().acquire_owned();
            match tokio::time::timeout(self.limits.queue, turn).await {
                Ok(Ok(permit)) => Some(permit),
                _ => {
                    return Err(Error::Busy {
                        endpoint: self.pool.endpoint().to_string(),
                        limit: self.limits.concurrency,
                    });
                }
            }
        };
        self.pool.send(request, Held { permit, ..Held::default() }).await
    }

    async fn upgrade(&self, mut request: Request<Body>) -> Result<Response<hyper::body::Incoming>, Error> {
        self.address(&mut request)?;
        let credential = self.credential.load_full();
        let config = if self.pool.route().endpoint.tls {
            let config = tls::config(&self.tls, credential.identity.as_ref(), &[b"http/1.1"]);
            Some(config.map_err(|error| Error::InvalidRequest(error.to_string()))?)
        } else {
            None
        };
        let stream = dial::dial(self.pool.route(), config.as_ref(), self.limits.connect).await?;
        pool::send_alone(stream, self.pool.endpoint(), pool::origin(request, &self.pool)).await
    }

    /// Puts the endpoint's path before the request's and our credential in place of whatever the caller sent.
    fn address(&self, request: &mut Request<Body>) -> Result<(), Error> {
        let base = &self.pool.route().endpoint.path;
        if !base.is_empty() {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let uri: Uri = format!("{base}{path}")
                .parse()
                .map_err(|_| Error::InvalidRequest("its path does not parse".to_owned()))?;
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        headers.remove(header::AUTHORIZATION);
        if let Some(value) = self.credential.load().header() {
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(())
    }
}

/// Whether a request stays open for as long as its caller likes: watches, and followed logs.
fn is_long_running(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split('&').any(|pair| {
        matches!(
            pair,
            "watch"
                | "watch="
                | "watch=1"
                | "watch=true"
                | "watch=True"
                | "watch=TRUE"
                | "watch=t"
                | "follow=true"
                | "follow=1"
        )
    }) || uri.path().contains("/watch/")
}

/// RFC 9110 §7.6.1.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value: &HeaderValue| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ] {
        headers.remove(name);
    }
}

impl<B> Service<Request<B>> for Transport
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        self.request(request)
    }
}
