//! The programs of a measurement that are ours: the two ends of the tunnel alone, and a server that holds requests.
//!
//! The tunnel alone is the crate `hansa-tunnel` between plain HTTP on one side and plain HTTP on the other, without identity and
//! rights, as its peers are measured too.

use std::{
    convert::Infallible,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use hansa_transport::{Credential, Endpoint, Limits, Target, Tls, Transport};
use hansa_tunnel::{Answer, Body, Handler, Host, Reply, Served, Settings, websocket::WebSocket};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What asks this program to be the host's end.
pub const HOST: &str = "tunnel-host";
/// What asks it to be the agent's.
pub const AGENT: &str = "tunnel-agent";
/// What asks it to be a server some of whose answers never end.
pub const HOLDER: &str = "holder";

/// What hyper and the kernel may hold of an answer that nobody takes, in bytes; as the tower's own listener has it.
const BUFFER: usize = 128 * 1024;

/// The path of a request that is answered at once.
pub const SMALL: &str = "/1k";
/// The path of an answer that begins and says nothing more.
pub const IDLE: &str = "/idle";
/// The path of an answer that never ends.
pub const ENDLESS: &str = "/endless";
/// The path of an answer to a request whose body is not read.
pub const SINK: &str = "/sink";

/// Is one of them, if that is what was asked for.
pub fn run(args: &[String]) -> bool {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [HOST, tunnel, plain, authority] => {
            crate::client::block_on(host(tunnel, plain, Path::new(authority)))
        }
        // As `hansa agent`, which is small.
        [AGENT, tunnel, upstream, authority] => one_thread(agent(tunnel, upstream, Path::new(authority))),
        [HOLDER, listen] => one_thread(hold(listen)),
        _ => return false,
    }
    true
}

fn one_thread(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

async fn host(tunnel: &str, plain: &str, authority: &Path) {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.signing_key.serialize_pem().as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![own.cert.der().clone()], key).unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let (tunnel, plain) = (TcpListener::bind(tunnel).await.unwrap(), listen(plain));
    let unfinished = authority.with_extension("new");
    fs::write(&unfinished, own.cert.pem()).unwrap();
    fs::rename(&unfinished, authority).unwrap();
    let agent: Arc<Mutex<Option<Host>>> = Arc::default();
    let connected = agent.clone();
    tokio::spawn(async move {
        loop {
            let stream = tls.accept(accept(&tunnel).await).await.unwrap();
            let (host, driver) = Host::start(WebSocket::server(stream), Settings::default());
            tokio::spawn(async move { eprintln!("the tunnel ended: {:?}", driver.await) });
            *connected.lock().unwrap_or_else(PoisonError::into_inner) = Some(host);
        }
    });
    serve(&plain, move |request| {
        let host = agent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        async move {
            let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            request.headers_mut().remove(header::HOST);
            match host?.send(request).await.ok()? {
                Answer::Response(response) => Some(response),
                Answer::Switched(..) => None,
            }
        }
    })
    .await;
}

async fn agent(tunnel: &str, upstream: &str, authority: &Path) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(tunnel).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = "localhost".try_into().unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let target = Target {
        endpoint: Endpoint::parse(upstream).unwrap(),
        tls: Tls::default(),
        proxy: None,
        credential: Credential::default(),
    };
    let upstream = Transport::new(target, Limits { concurrency: 4096, ..Limits::default() }).unwrap();
    let (_served, driver) = Served::start(WebSocket::client(stream), Settings::default(), Upstream(upstream));
    eprintln!("the tunnel ended: {:?}", driver.await);
}

/// Hands requests on.
#[derive(Clone)]
struct Upstream(Transport);

impl Handler for Upstream {
    async fn handle(&self, request: Request<Body>) -> Reply {
        Reply::Response(match self.0.request(request).await {
            Ok(mut response) => {
                for of_this_hop in [header::CONNECTION, header::TRANSFER_ENCODING] {
                    response.headers_mut().remove(of_this_hop);
                }
                response
            }
            Err(error) => {
                eprintln!("{error}");
                let mut response = Response::new(empty());
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                response
            }
        })
    }
}

async fn hold(address: &str) {
    let listener = listen(address);
    serve(&listener, |request| async move {
        let path = request.uri().path().to_owned();
        Some(Response::new(match path.as_str() {
            SMALL => whole(Bytes::from(vec![b'x'; 1024])),
            IDLE => streamed(stream::pending().boxed()),
            ENDLESS => streamed(stream::repeat(Bytes::from(vec![b'x'; 64 * 1024])).boxed()),
            // The request is held with its body, which nobody reads.
            SINK => streamed(
                stream::pending()
                    .chain(stream::once(async {
                        drop(request);
                        Bytes::new()
                    }))
                    .boxed(),
            ),
            _ => empty(),
        }))
    })
    .await;
}

fn empty() -> Body {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn streamed(chunks: stream::BoxStream<'static, Bytes>) -> Body {
    StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync()
}

fn listen(address: &str) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address.parse().unwrap()).unwrap();
    socket.listen(1024).unwrap()
}

async fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().await.unwrap();
    stream.set_nodelay(true).unwrap();
    SockRef::from(&stream).set_tcp_notsent_lowat(BUFFER as u32).unwrap();
    stream
}

/// Serves plain HTTP/1.1; where there is no answer, the connection is closed.
async fn serve<F, A>(listener: &TcpListener, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Option<Response<Body>>> + Send + 'static,
{
    loop {
        let stream = accept(listener).await;
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { answered.await.ok_or_else(|| std::io::Error::other("no answer")) }
            });
            // Clients come and go as they like.
            let _ = http1::Builder::new()
                .max_buf_size(BUFFER)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
