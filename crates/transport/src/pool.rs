//! The connections to one API server.
//!
//! HTTP/2 where the server speaks it: requests and watches share connections, and another is opened when the streams of those there are have
//! run out (a long watch must never block a request). HTTP/1.1 otherwise: one connection per request, kept for the next.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::body::{Answer, Body, Held, empty};
use crate::dial::{Route, Stream, dial};
use crate::error::Error;
use crate::{Connections, Limits};

/// More streams than this on one connection share one TCP window too closely.
const MAX_STREAMS: usize = 100;
/// The connection's window has room for so many streams' windows, so that stalled streams cannot use it up.
const WINDOWS: u32 = MAX_STREAMS as u32 + 28;
/// RFC 9113 §6.9.1.
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// As many as a burst of requests leaves behind; the next burst needs no handshakes.
const IDLE_HTTP1: usize = 64;
/// What an HTTP/1.1 connection may hold of an answer that nobody takes, in bytes; the head of an answer must fit.
const BUFFER: usize = 128 * 1024;
const IDLE_HTTP1_AGE: Duration = Duration::from_secs(45);

pub(crate) struct Pool {
    route: Route,
    endpoint: Arc<str>,
    limits: Limits,
    /// The TLS settings for requests, which can change when a client certificate does.
    tls: Mutex<Option<Arc<ClientConfig>>>,
    state: Mutex<State>,
    dialling: Semaphore,
}

#[derive(Default)]
struct State {
    http2: Vec<Http2>,
    idle: Vec<(http1::SendRequest<Body>, Instant)>,
    /// The server did not choose HTTP/2 when it was last dialled, so dialling in parallel makes sense.
    only_http1: bool,
    /// Counts the changes of client certificate; a connection of an earlier one is not kept.
    generation: u64,
    failed: Option<(Instant, Error)>,
}

struct Http2 {
    sender: http2::SendRequest<Body>,
    /// Every stream under way holds a clone.
    streams: Arc<()>,
    /// How many streams the server allows on the connection.
    allowed: Arc<AtomicUsize>,
}

impl Http2 {
    fn in_use(&self) -> usize {
        Arc::strong_count(&self.streams) - 1
    }

    fn capacity(&self) -> usize {
        self.allowed.load(Ordering::Relaxed).clamp(1, MAX_STREAMS)
    }
}

enum Lease {
    Http2(http2::SendRequest<Body>, Arc<()>),
    Http1(http1::SendRequest<Body>, u64),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(crate) fn new(route: Route, limits: Limits, tls: Option<Arc<ClientConfig>>) -> Self {
        let endpoint = route.endpoint.to_string().into();
        Self {
            route,
            endpoint,
            limits,
            tls: Mutex::new(tls),
            state: Mutex::default(),
            dialling: Semaphore::new(1),
        }
    }

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    pub(crate) fn endpoint(&self) -> &Arc<str> {
        &self.endpoint
    }

    pub(crate) fn tls(&self) -> Option<Arc<ClientConfig>> {
        lock(&self.tls).clone()
    }

    /// From now on connections are made with `tls`. Those there are serve what is under way on them and nothing new.
    pub(crate) fn replace_tls(&self, tls: Option<Arc<ClientConfig>>) {
        *lock(&self.tls) = tls;
        let mut state = lock(&self.state);
        state.generation += 1;
        state.http2.clear();
        state.idle.clear();
    }

    pub(crate) fn connections(&self) -> Connections {
        let state = lock(&self.state);
        let http2 = state.http2.iter().filter(|connection| !connection.sender.is_closed()).count();
        Connections { http2, idle: state.idle.len() }
    }

    fn take(&self) -> Option<Lease> {
        let mut state = lock(&self.state);
        state.http2.retain(|connection| !connection.sender.is_closed());
        // Those opened for a burst are closed when it is over, but for one.
        let mut spares = 0;
        let one_is_busy = state.http2.iter().any(|connection| connection.in_use() > 0);
        state.http2.retain(|connection| {
            let spare = connection.in_use() == 0;
            spares += usize::from(spare);
            !spare || spares <= if one_is_busy { 1 } else { 2 }
        });
        // The fullest that has room, so that the others can empty.
        let chosen = state
            .http2
            .iter()
            .filter(|c| c.in_use() < c.capacity())
            .max_by_key(|connection| connection.in_use());
        if let Some(chosen) = chosen {
            return Some(Lease::Http2(chosen.sender.clone(), chosen.streams.clone()));
        }
        let generation = state.generation;
        while let Some((sender, since)) = state.idle.pop() {
            if sender.is_ready() && since.elapsed() < IDLE_HTTP1_AGE {
                return Some(Lease::Http1(sender, generation));
            }
        }
        None
    }

    async fn checkout(&self) -> Result<Lease, Error> {
        if let Some(lease) = self.take() {
            return Ok(lease);
        }
        let began = Instant::now();
        // One dials and the others share what comes of it: a connection, or the reason why there is none.
        let turn = if lock(&self.state).only_http1 { None } else { self.dialling.acquire().await.ok() };
        if turn.is_some() {
            if let Some(lease) = self.take() {
                return Ok(lease);
            }
            if let Some((at, error)) = &lock(&self.state).failed
                && *at >= began
            {
                return Err(error.clone());
            }
        }
        let generation = lock(&self.state).generation;
        let outcome = self.open(generation).await;
        if let Err(error) = &outcome {
            lock(&self.state).failed = Some((Instant::now(), error.clone()));
        }
        outcome
    }

    async fn open(&self, generation: u64) -> Result<Lease, Error> {
        let stream = dial(&self.route, self.tls().as_ref(), self.limits.connect).await?;
        if !stream.http2 {
            lock(&self.state).only_http1 = true;
            return Ok(Lease::Http1(handshake(stream, &self.endpoint).await?, generation));
        }
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(self.limits.stream_window.min(MAX_WINDOW))
            .initial_connection_window_size(self.limits.stream_window.saturating_mul(WINDOWS).min(MAX_WINDOW))
            .initial_max_send_streams(0)
            .max_header_list_size(64 * 1024)
            .keep_alive_interval(self.limits.ping_interval)
            .keep_alive_timeout(self.limits.ping_timeout)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream.io))
            .await
            .map_err(|error| Error::lost(&self.endpoint, &error))?;
        let endpoint = self.endpoint.clone();
        let allowed = Arc::new(AtomicUsize::new(0));
        let (settled, settings) = tokio::sync::oneshot::channel();
        let mut settled = Some(settled);
        let seen = allowed.clone();
        // The driver is not woken when the server's settings arrive, so it looks for them until they have.
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        tokio::spawn(async move {
            let driver = poll_fn(|cx| {
                let outcome = Pin::new(&mut connection).poll(cx);
                while settled.is_some() {
                    let now = connection.current_max_send_streams();
                    if now > 0 {
                        seen.store(now, Ordering::Relaxed);
                        settled.take().map(|settled| settled.send(Ok(())));
                    } else if tick.poll_tick(cx).is_pending() {
                        return outcome;
                    }
                }
                seen.store(connection.current_max_send_streams(), Ordering::Relaxed);
                outcome
            });
            let outcome = driver.await;
            if let Err(error) = &outcome {
                tracing::debug!(%endpoint, %error, "connection ended");
            }
            let _ = settled.take().map(|settled| settled.send(outcome));
        });
        // Until the server has said how many streams it allows, none is opened: those above its limit would wait for others to end.
        match tokio::time::timeout(self.limits.connect, settings).await {
            Ok(Ok(Ok(()))) if allowed.load(Ordering::Relaxed) > 0 => {}
            Ok(Ok(Err(error))) => return Err(Error::lost(&self.endpoint, &error)),
            Ok(_) => {
                let reason = "it ended before HTTP/2 was set up".to_owned();
                return Err(Error::Lost { endpoint: self.endpoint.to_string(), reason });
            }
            Err(_) => {
                return Err(Error::Timeout {
                    endpoint: self.endpoint.to_string(),
                    after: self.limits.connect,
                });
            }
        }
        let streams = Arc::new(());
        let mut state = lock(&self.state);
        state.only_http1 = false;
        if state.generation == generation {
            state.http2.push(Http2 { sender: sender.clone(), streams: streams.clone(), allowed });
        }
        Ok(Lease::Http2(sender, streams))
    }

    /// Sends one request. What was certainly not sent is sent again on another connection, and so is a read whose connection broke before an
    /// answer came.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut request: Request<Body>,
        held: Held,
    ) -> Result<Response<Body>, Error> {
        let mut tries = 3;
        loop {
            tries -= 1;
            let lease = self.checkout().await?;
            let spare = repeatable(&request);
            let (outcome, mut held_now) = match lease {
                Lease::Http2(mut sender, stream) => {
                    let outcome = sender.try_send_request(absolute(request, self)).await;
                    (outcome, Held { stream: Some(stream), ..Held::default() })
                }
                Lease::Http1(mut sender, generation) => {
                    let outcome = sender.try_send_request(origin(request, self)).await;
                    let pool = Arc::downgrade(self);
                    let at_end: Box<dyn FnOnce() + Send> = Box::new(move || {
                        let Some(pool) = pool.upgrade() else { return };
                        // The connection says that it is ready only after it has seen the end itself.
                        tokio::spawn(async move {
                            if sender.ready().await.is_ok() {
                                pool.give_back(sender, generation);
                            }
                        });
                    });
                    (outcome, Held { at_end: Some(at_end), ..Held::default() })
                }
            };
            match outcome {
                Ok(response) => {
                    held_now.permit = held.permit;
                    // HTTP/2 has pings to notice a dead link; HTTP/1.1 has only the silence. What is no watch is not silent for long either
                    // way, unless the server behind a living link has stalled.
                    let waits = held_now.at_end.is_some() || held_now.permit.is_some();
                    let silence = waits.then_some(self.limits.silence);
                    return Ok(response.map(|body| {
                        crate::body::boxed(Answer::new(body, held_now, silence, self.endpoint.clone()))
                    }));
                }
                Err(mut failure) => {
                    let unsent = failure.take_message();
                    let error = failure.into_error();
                    match unsent.or(spare).filter(|_| tries > 0) {
                        Some(again) => request = again,
                        None => return Err(Error::lost(&self.endpoint, &error)),
                    }
                }
            }
        }
    }

    fn give_back(&self, sender: http1::SendRequest<Body>, generation: u64) {
        let mut state = lock(&self.state);
        if state.generation == generation && state.idle.len() < IDLE_HTTP1 {
            state.idle.push((sender, Instant::now()));
        }
    }
}

/// An HTTP/1.1 connection on a stream, with its driver running.
async fn handshake(stream: Stream, endpoint: &Arc<str>) -> Result<http1::SendRequest<Body>, Error> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream.io))
        .await
        .map_err(|error| Error::lost(endpoint, &error))?;
    let endpoint = endpoint.clone();
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%endpoint, %error, "connection ended");
        }
    });
    Ok(sender)
}

/// Sends one request on a connection of its own that can be upgraded.
pub(crate) async fn send_alone(
    stream: Stream,
    endpoint: &Arc<str>,
    request: Request<Body>,
) -> Result<Response<hyper::body::Incoming>, Error> {
    let mut sender = handshake(stream, endpoint).await?;
    sender.send_request(request).await.map_err(|error| Error::lost(endpoint, &error))
}

/// A copy of a request that may be sent twice: a read without a body.
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    if !read || !http_body::Body::is_end_stream(request.body()) {
        return None;
    }
    let mut copy = Request::new(empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// HTTP/2 takes the scheme and the authority from the URI.
fn absolute(mut request: Request<Body>, pool: &Pool) -> Request<Body> {
    let endpoint = &pool.route.endpoint;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(if endpoint.tls { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
    parts.authority = endpoint.authority().parse().ok();
    parts.path_and_query.get_or_insert_with(|| http::uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = http::Uri::from_parts(parts).unwrap_or_default();
    request.headers_mut().remove(http::header::HOST);
    *request.version_mut() = http::Version::HTTP_2;
    request
}

/// HTTP/1.1 takes the path alone, and a Host header.
pub(crate) fn origin(mut request: Request<Body>, pool: &Pool) -> Request<Body> {
    let path = request.uri().path_and_query().cloned();
    if let Some(path) = path {
        *request.uri_mut() = path.into();
    }
    *request.version_mut() = http::Version::HTTP_11;
    if let Ok(host) = http::HeaderValue::from_str(&pool.route.endpoint.authority()) {
        request.headers_mut().insert(http::header::HOST, host);
    }
    request
}
