//! Loopback servers: TLS or plain, HTTP/2 or HTTP/1.1, with what a test wants to know about each request.

#![allow(unreachable_pub)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use hansa_transport::{Body, Credential, Endpoint, Identity, Limits, Target, Tls, boxed, empty};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// An authority and what it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: Vec<u8>,
    der: rustls::pki_types::CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem().into_bytes(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    pub fn sign(&self, name: &str, years: (i32, i32)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate: certificate.pem().into_bytes(), key: key.serialize_pem().into_bytes() }
    }
}

pub const NOW: (i32, i32) = (2020, 2100);
pub const PAST: (i32, i32) = (2001, 2002);

/// What a server is.
pub struct Setup<'a> {
    pub tls: Option<(&'a Authority, Identity)>,
    pub http2: bool,
    pub max_streams: u32,
    pub client_certificates: bool,
}

/// A server and what it saw.
pub struct Server {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub seen: Arc<Mutex<Vec<http::request::Parts>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(setup: Setup<'_>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = setup.tls.map(|(authority, identity)| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .unwrap();
            let builder = if setup.client_certificates {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der.clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            } else {
                builder.with_no_client_auth()
            };
            use rustls::pki_types::pem::PemObject;
            let chain =
                vec![rustls::pki_types::CertificateDer::from_pem_slice(&identity.certificate).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(&identity.key).unwrap();
            let mut config = builder.with_single_cert(chain, key).unwrap();
            config.alpn_protocols = if setup.http2 {
                vec![b"h2".to_vec(), b"http/1.1".to_vec()]
            } else {
                vec![b"http/1.1".to_vec()]
            };
            TlsAcceptor::from(Arc::new(config))
        });
        let connections = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (count, log) = (connections.clone(), seen.clone());
        let task = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, log) = (acceptor.clone(), log.clone());
                running.spawn(async move {
                    let service = hyper::service::service_fn(move |request| answer(request, log.clone()));
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    builder.http2().max_concurrent_streams(setup.max_streams);
                    match acceptor {
                        None => {
                            let _ =
                                builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                        }
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            let _ =
                                builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                        }
                    }
                });
            }
        });
        Self { address, connections, seen, task }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        Some(seen.last()?.headers.get(name)?.to_str().unwrap().to_owned())
    }
}

pub fn text(text: impl Into<Bytes>) -> Body {
    boxed(Full::new(text.into()))
}

async fn answer(
    request: Request<Incoming>,
    log: Arc<Mutex<Vec<http::request::Parts>>>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let mut copy = Request::new(()).into_parts().0;
    copy.method = parts.method.clone();
    copy.uri = parts.uri.clone();
    copy.version = parts.version;
    copy.headers = parts.headers.clone();
    log.lock().unwrap().push(copy);
    let respond = |status: StatusCode, body| {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        Ok(response)
    };
    match path.as_str() {
        "/watch" => {
            // One event at once, and then nothing for ever.
            let first = futures::stream::once(async {
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"event\n")))
            });
            respond(StatusCode::OK, boxed(StreamBody::new(first.chain(futures::stream::pending()))))
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            respond(StatusCode::OK, empty())
        }
        "/echo" => {
            let body = body.collect().await.unwrap().to_bytes();
            respond(StatusCode::OK, text(body))
        }
        "/redirect" => {
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert("location", "http://169.254.169.254/".parse().unwrap());
            Ok(response)
        }
        "/upgrade" => {
            let mut request = Request::from_parts(parts, body);
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let Ok(stream) = upgrade.await else { return };
                let mut stream = TokioIo::new(stream);
                let mut buffer = [0; 4];
                stream.read_exact(&mut buffer).await.unwrap();
                stream.write_all(&buffer).await.unwrap();
            });
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "SPDY/3.1".parse().unwrap());
            Ok(response)
        }
        "/api/v1/namespaces/kube-system" => respond(
            StatusCode::OK,
            text(r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"kube-system","uid":"u1"}}"#),
        ),
        "/forbidden" => respond(StatusCode::FORBIDDEN, text("no")),
        _ => respond(StatusCode::OK, text("ok")),
    }
}

pub fn target(server: &Server, tls: Option<Tls>) -> Target {
    let scheme = if tls.is_some() { "https" } else { "http" };
    Target {
        endpoint: Endpoint::parse(&format!("{scheme}://{}", server.address)).unwrap(),
        tls: tls.unwrap_or_default(),
        proxy: None,
        credential: Credential::token("t1"),
    }
}

pub fn trust(authority: &Authority) -> Tls {
    Tls { ca: Some(authority.pem.clone()), ..Tls::default() }
}

pub fn limits() -> Limits {
    Limits { connect: Duration::from_secs(5), response: Duration::from_secs(5), ..Limits::default() }
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(path).body(empty()).unwrap()
}

pub async fn read(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
