//! The TLS listener: accepts, shakes hands, speaks HTTP/1.1 and HTTP/2, and lets go in good order. No plaintext mode.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hansa_machinery::Status;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

use crate::{
    Body,
    pki::{Authority, PkiError, ServingCertificate},
};

/// What a listener bears before it protects itself.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How long an HTTP/1.1 connection may take to send a request's head, idle time included.
    pub head: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// How often an HTTP/2 peer is asked for a sign of life, and how long it may take to answer.
    pub ping: (Duration, Duration),
    /// How long requests under way may take to end once the listener stops.
    pub drain: Duration,
    /// What is borne of those who have not shown who they are; `None` for a listener that serves anybody.
    pub strangers: Option<Strangers>,
}

/// The bounds for connections whose other end is not known yet: they are known once they show a client certificate, or once
/// the handler calls [`Peer::known`].
#[derive(Clone, Copy, Debug)]
pub struct Strangers {
    /// How many at once; one more is closed unheard, so that those who stall keep nobody waiting.
    pub at_once: usize,
    /// How long one may stay unknown, counted from the end of its handshake.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(60),
            streams: 512,
            ping: (Duration::from_secs(30), Duration::from_secs(20)),
            drain: Duration::from_secs(5),
            strangers: None,
        }
    }
}

/// What a client may send on one stream of HTTP/2, and on all of a connection together, before it is read. The second is far
/// more than the first, so that uploads which nobody reads do not stop the others on their connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
/// What an HTTP/1.1 connection may hold of a head that comes or of an answer that nobody takes, in bytes.
const BUFFER: usize = 128 * 1024;
/// What the kernel may hold of what was not sent yet, in bytes.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;
/// The largest head of an HTTP/2 request: impersonated groups may be many.
const HEAD_LIMIT: u32 = 256 * 1024;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// The client certificate, verified against the listener's authority.
    pub certificate: Option<Arc<CertificateDer<'static>>>,
    stranger: Stranger,
}

impl Peer {
    /// Says that the other end has shown who it is, so that its connection may stay ([`Limits::strangers`]).
    pub fn known(&self) {
        self.stranger.known();
    }
}

/// The place of a connection among those that are not known yet.
#[derive(Clone, Debug)]
struct Stranger(Arc<(Mutex<Option<OwnedSemaphorePermit>>, CancellationToken)>);

impl Stranger {
    fn new(place: Option<OwnedSemaphorePermit>) -> Self {
        Self(Arc::new((Mutex::new(place), CancellationToken::new())))
    }

    fn known(&self) {
        if !self.0.1.is_cancelled() {
            self.0.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.0.1.cancel();
        }
    }

    /// Resolves when the connection has been unknown for too long.
    async fn overdue(&self, strangers: Option<Strangers>) {
        match strangers {
            Some(strangers) => {
                if timeout(strangers.time, self.0.1.cancelled()).await.is_ok() {
                    std::future::pending().await
                }
            }
            None => std::future::pending().await,
        }
    }
}

/// The TLS side of a listener: TLS 1.2 or newer, client certificates of `authority` optional.
///
/// # Errors
/// When the TLS library refuses the authority.
pub fn tls_config(
    authority: &Authority,
    serving: Arc<ServingCertificate>,
) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| PkiError::Parse(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(serving);
    set_protocols(&mut config);
    Ok(Arc::new(config))
}

/// The TLS side of a listener that asks nobody for a certificate.
///
/// # Errors
/// When the TLS library has no protocol to speak.
pub fn anonymous_tls_config(serving: Arc<ServingCertificate>) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(serving);
    set_protocols(&mut config);
    Ok(Arc::new(config))
}

fn set_protocols(config: &mut ServerConfig) {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would carry a client certificate that nobody verified again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

/// Serves connections until `shutdown`, then until those under way have ended or [`Limits::drain`] has passed.
pub async fn serve<H, F>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    limits: Limits,
    shutdown: CancellationToken,
    handler: H,
) where
    H: Fn(Peer, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let strangers = limits.strangers.map(|strangers| Arc::new(Semaphore::new(strangers.at_once)));
    let connections = TaskTracker::new();
    while let Some((stream, address, slot)) = accept(&listener, &slots, &shutdown).await {
        let place = match strangers.clone().map(Semaphore::try_acquire_owned) {
            Some(Err(_)) => {
                tracing::debug!(%address, "closed unheard: too many connections are of strangers");
                continue;
            }
            place => place.and_then(Result::ok),
        };
        let stranger = Stranger::new(place);
        let (acceptor, handler, shutdown) = (acceptor.clone(), handler.clone(), shutdown.clone());
        connections.spawn(async move {
            connection(stream, address, stranger, acceptor, limits, shutdown, handler).await;
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The next connection, with its slot; `None` on shutdown.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let next = async {
        let slot = slots.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, address)) => return Some((stream, address, slot)),
                Err(error) => {
                    // Out of descriptors, or the peer was gone already: neither is cured by trying at once.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(next).await.flatten()
}

/// The kernel keeps little for a peer that does not read: its own bound, some megabytes for each, puts a machine under memory pressure at a
/// hundred such peers.
fn hold_little(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
}

async fn connection<H, F>(
    stream: TcpStream,
    address: SocketAddr,
    stranger: Stranger,
    acceptor: TlsAcceptor,
    limits: Limits,
    shutdown: CancellationToken,
    handler: H,
) where
    H: Fn(Peer, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    drop(stream.set_nodelay(true));
    hold_little(&stream);
    let shake = shutdown.run_until_cancelled(timeout(limits.handshake, acceptor.accept(stream)));
    let stream = match shake.await {
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err(error))) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Some(Err(_)) => return tracing::debug!(%address, "TLS handshake timed out"),
        None => return,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.map(|der| Arc::new(der.clone().into_owned()));
    if certificate.is_some() {
        stranger.known();
    }
    let peer = Peer { address, certificate, stranger: stranger.clone() };

    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(HEAD_LIMIT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(limits.ping.0)
        .keep_alive_timeout(limits.ping.1);
    let stopping = shutdown.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let ends = ends_on_shutdown(request.uri()).then(|| stopping.clone());
        let answer = refuse_odd_target(&request).err().map(|status| refusal(&status));
        let handled = answer.is_none().then(|| handler(peer.clone(), request));
        async move {
            let response = match (answer, handled) {
                (None, Some(handled)) => handled.await,
                (answer, _) => answer.unwrap_or_else(|| refusal(&Status::internal("no answer"))),
            };
            Ok::<_, Infallible>(
                response.map(|body| Outgoing { body, end: ends.map(|t| Box::pin(t.cancelled_owned())) }),
            )
        }
    });
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = pin!(served.into_owned());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stranger.overdue(limits.strangers) => {
            return tracing::debug!(%address, "closed: it has not shown in time who it is");
        }
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(limits.drain, connection).await {
                Ok(ended) => ended,
                Err(_) => return tracing::debug!(%address, "closed with requests under way"),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection ended");
    }
}

/// Refuses targets that are not the path of a resource on this server (RFC 9112 §3.2.2–4).
fn refuse_odd_target<B>(request: &Request<B>) -> Result<(), Status> {
    let uri = request.uri();
    if request.method() == Method::CONNECT
        || request.version() < Version::HTTP_2 && (uri.scheme().is_some() || uri.authority().is_some())
        || !uri.path().starts_with('/')
    {
        return Err(Status::bad_request("the request target must be a path on this server"));
    }
    Ok(())
}

/// Whether the answer is a stream without an end of its own.
fn ends_on_shutdown(uri: &http::Uri) -> bool {
    let asked = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
        matches!(key, "watch" | "follow") && !matches!(value, "false" | "0")
    };
    uri.path().split('/').nth(3) == Some("watch")
        || uri.path().split('/').nth(4) == Some("watch")
        || uri.query().is_some_and(|query| query.split('&').any(asked))
}

/// A body on its way out, which ends when the listener stops if it would not by itself.
struct Outgoing {
    body: Body,
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// A body that broke. A type of its own, because the compiler cannot see a boxed error through to the connection.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Broken(Box<dyn std::error::Error + Send + Sync>);

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let ended = |end: &mut Pin<Box<WaitForCancellationFutureOwned>>| end.as_mut().poll(cx).is_ready();
        if polled.is_pending() && self.end.as_mut().is_some_and(ended) {
            return Poll::Ready(None);
        }
        polled.map_err(Broken)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer that is a `Status`.
pub fn refusal(status: &Status) -> Response<Body> {
    let body = Full::new(Bytes::from(status.to_value().to_string()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
