//! The two plain HTTP endpoints of KubeFed's controller manager (`spec/kubefed.md §2`): health and metrics.
//!
//! Every other listener of Hansa speaks TLS; these two are what existing probes and scrape configurations expect, and tell nothing that needs
//! protection beyond what a network policy gives. A port that cannot be had is a warning and is tried again: two instances may share one host.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Metrics;

/// How soon a port that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// More connections than this wait; probes and scrapers have one each.
const CONNECTIONS: usize = 32;
/// How long a connection may take to ask, and may live.
const PATIENCE: Duration = Duration::from_secs(10);
const LIFETIME: Duration = Duration::from_secs(300);

/// Where to listen, as Go programs are told: `:8080`, `127.0.0.1:8080`, `localhost:8080`, `[::1]:8080`. Empty, or `0`, is nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind(Option<String>);

/// Why an address cannot be one.
#[derive(Debug, PartialEq, Eq)]
pub struct BindError(String);

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is no address to listen at; give HOST:PORT, :PORT, or 0 for none", self.0)
    }
}

impl std::error::Error for BindError {}

impl std::str::FromStr for Bind {
    type Err = BindError;

    fn from_str(text: &str) -> Result<Self, BindError> {
        if text.is_empty() || text == "0" {
            return Ok(Self(None));
        }
        match text.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => Ok(Self(Some(text.to_owned()))),
            _ => Err(BindError(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("0"))
    }
}

/// Whether a process is ready to do its work, led by another or not. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// From now on it is.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Serves `/healthz` and `/livez`, which say that the process lives, and `/readyz`, until `stop`.
pub async fn serve_health(at: Bind, ready: Ready, stop: CancellationToken) {
    let answer = move |path: &str| match path {
        "/healthz" | "/healthz/" | "/livez" | "/livez/" => Some((StatusCode::OK, "OK".to_owned(), PLAIN)),
        "/readyz" | "/readyz/" if ready.is() => Some((StatusCode::OK, "OK".to_owned(), PLAIN)),
        "/readyz" | "/readyz/" => Some((
            StatusCode::SERVICE_UNAVAILABLE,
            "the KubeFedConfig has not been read yet".to_owned(),
            PLAIN,
        )),
        _ => None,
    };
    serve("health", at, answer, stop).await;
}

/// Serves `/metrics` until `stop`.
pub async fn serve_metrics(at: Bind, metrics: Metrics, stop: CancellationToken) {
    let answer = move |path: &str| (path == "/metrics").then(|| (StatusCode::OK, metrics.text(), METRICS));
    serve("metrics", at, answer, stop).await;
}

/// Serves `/metrics`, which is what `text` says, `/healthz` and `/livez`, and `/readyz`, which is whether `ready`, until `stop`: for a process
/// whose few numbers are its own.
pub async fn serve_numbers(
    at: Bind,
    text: impl Fn() -> String + Send + Sync + 'static,
    ready: impl Fn() -> bool + Send + Sync + 'static,
    stop: CancellationToken,
) {
    let answer = move |path: &str| match path {
        "/metrics" => Some((StatusCode::OK, text(), METRICS)),
        "/healthz" | "/livez" => Some((StatusCode::OK, "OK".to_owned(), PLAIN)),
        "/readyz" if ready() => Some((StatusCode::OK, "OK".to_owned(), PLAIN)),
        "/readyz" => Some((StatusCode::SERVICE_UNAVAILABLE, "not connected".to_owned(), PLAIN)),
        _ => None,
    };
    serve("metrics", at, answer, stop).await;
}

const PLAIN: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
type Answer = (StatusCode, String, &'static str);

async fn serve(
    what: &'static str,
    at: Bind,
    answer: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
    stop: CancellationToken,
) {
    let Some(address) = at.0 else { return };
    let answer = Arc::new(answer);
    let serve = async {
        let listener = bind(what, &address).await;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely: accepting at once again would only spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let answer = answer.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let response = respond(&request, &*answer);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move {
                // However a connection ends, it is over.
                let _ = tokio::time::timeout(LIFETIME, connection).await;
                drop(place);
            });
        }
    };
    stop.run_until_cancelled(serve).await;
}

fn respond(request: &Request<Incoming>, answer: impl Fn(&str) -> Option<Answer>) -> Response<Full<Bytes>> {
    let (status, text, kind) = match *request.method() {
        Method::GET | Method::HEAD => answer(request.uri().path())
            .unwrap_or_else(|| (StatusCode::NOT_FOUND, "404 page not found\n".to_owned(), PLAIN)),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n".to_owned(), PLAIN),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// Listens, as soon as that is possible.
async fn bind(what: &str, address: &str) -> TcpListener {
    let mut warned = false;
    loop {
        match listen(address).await {
            Ok(listener) => {
                tracing::info!("serving {what} at {address}");
                return listener;
            }
            Err(error) if !warned => {
                warned = true;
                tracing::warn!(
                    "{what} cannot be served at {address} ({error}); going on without, and trying again every {RETRY:?}"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen(address: &str) -> std::io::Result<TcpListener> {
    let Some(port) = address.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()) else {
        return TcpListener::bind(address).await;
    };
    // All addresses, of both families where the machine has both.
    match TcpListener::bind(SocketAddr::from(([0u16; 8], port))).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await,
        listening => listening,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut tries = 0;
        let mut stream = loop {
            match TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(error) => {
                    tries += 1;
                    assert!(tries < 500, "{error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn addresses_are_given_as_go_programs_take_them() {
        for good in [":8080", "127.0.0.1:0", "localhost:1", "[::1]:8080", "", "0"] {
            assert!(good.parse::<Bind>().is_ok(), "{good}");
        }
        for bad in ["8080", "host", ":x", "1.2.3.4:99999"] {
            assert!(bad.parse::<Bind>().unwrap_err().to_string().contains("HOST:PORT"), "{bad}");
        }
        assert_eq!("0".parse::<Bind>(), Ok(Bind(None)));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_had_when_it_is_free_again() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let (ready, stop) = (Ready::default(), CancellationToken::new());
        let bind = Bind(Some(address.to_string()));
        let serving = tokio::spawn(serve_health(bind, ready.clone(), stop.clone()));
        tokio::task::yield_now().await;
        drop(taken);
        assert!(ask(address, "/healthz").await.ends_with("OK"));
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        ready.set();
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/other").await.starts_with("HTTP/1.1 404"));
        stop.cancel();
        serving.await.unwrap();
    }
}
