//! From an endpoint to a byte stream: TCP, a proxy if there is one, TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::endpoint::{Endpoint, Proxy, ProxyKind};
use crate::error::Error;
use crate::tls::{self, Tls};

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A stream to an API server, and whether it speaks HTTP/2.
pub(crate) struct Stream {
    pub(crate) io: Box<dyn Io>,
    pub(crate) http2: bool,
}

/// Where to, and which way.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) endpoint: Endpoint,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) server_name: Option<String>,
}

/// How a stream is dialled that is not an API server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long it may take until the stream is there.
    pub connect: Duration,
    /// How long a peer may acknowledge nothing until the kernel takes it for dead.
    pub silence: Duration,
    /// Which of the addresses of a name is tried first, counted round: whoever counts up meets all that are behind the name.
    pub turn: usize,
}

/// A byte stream to `endpoint`, through `proxy` if there is one, and without TLS to the endpoint: for other protocols than an API server's.
pub async fn reach(
    endpoint: &Endpoint,
    proxy: Option<&Proxy>,
    patience: Patience,
) -> Result<Box<dyn Io>, Error> {
    let shown = endpoint.to_string();
    let connect = async {
        match proxy {
            None => {
                let mut addresses = resolve(&endpoint.host, endpoint.port, &shown).await?;
                let count = addresses.len().max(1);
                addresses.rotate_left(patience.turn % count);
                // One that swallows everything leaves time for the next.
                let each = patience.connect / u32::try_from(count).unwrap_or(u32::MAX);
                let stream = first(&addresses, each, &shown).await?;
                guard(&stream, patience.silence);
                Ok(Box::new(stream) as Box<dyn Io>)
            }
            Some(proxy) => through(proxy, endpoint, Some(patience.silence)).await,
        }
    };
    tokio::time::timeout(patience.connect, connect)
        .await
        .unwrap_or_else(|_| Err(Error::Timeout { endpoint: shown.clone(), after: patience.connect }))
}

/// Has the kernel notice a dead peer, where it can; whoever uses the stream has heartbeats of their own.
fn guard(stream: &TcpStream, silence: Duration) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(silence / 2).with_interval(silence / 6);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(silence));
}

/// Dials within `timeout`. `config` decides which protocols are offered.
pub(crate) async fn dial(
    route: &Route,
    config: Option<&Arc<ClientConfig>>,
    timeout: Duration,
) -> Result<Stream, Error> {
    tokio::time::timeout(timeout, connect(route, config))
        .await
        .unwrap_or_else(|_| Err(Error::Timeout { endpoint: route.endpoint.to_string(), after: timeout }))
}

async fn connect(route: &Route, config: Option<&Arc<ClientConfig>>) -> Result<Stream, Error> {
    let shown = route.endpoint.to_string();
    let io: Box<dyn Io> = match &route.proxy {
        None => Box::new(tcp(&route.endpoint.host, route.endpoint.port, &shown).await?),
        Some(proxy) => through(proxy, &route.endpoint, None).await?,
    };
    let Some(config) = config.filter(|_| route.endpoint.tls) else {
        return Ok(Stream { io, http2: false });
    };
    let name = route.server_name.as_deref().unwrap_or(&route.endpoint.host);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| Error::InvalidRequest(format!("{name:?} is neither a host name nor an IP address")))?;
    let stream = TlsConnector::from(config.clone())
        .connect(name, io)
        .await
        .map_err(|error| Error::tls(&shown, &error))?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Stream { io: Box::new(stream), http2 })
}

async fn tcp(host: &str, port: u16, shown: &str) -> Result<TcpStream, Error> {
    first(&resolve(host, port, shown).await?, Duration::MAX, shown).await
}

async fn resolve(host: &str, port: u16, shown: &str) -> Result<Vec<SocketAddr>, Error> {
    let found = tokio::net::lookup_host((host, port)).await;
    Ok(found.map_err(|_| Error::Dns { endpoint: shown.to_owned() })?.collect())
}

/// What the kernel may hold of what was not sent yet, in bytes.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// The first of the addresses that answers, each within `limit`.
async fn first(addresses: &[SocketAddr], limit: Duration, shown: &str) -> Result<TcpStream, Error> {
    let mut last = Error::Dns { endpoint: shown.to_owned() };
    for address in addresses {
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Requests are written whole; waiting to fill a packet only adds latency.
                let _ = stream.set_nodelay(true);
                // What a server that does not read has not been sent yet waits with its sender, and not in the kernel.
                #[cfg(target_os = "linux")]
                let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
                return Ok(stream);
            }
            Ok(Err(error)) => last = Error::connect(shown, &error),
            Err(_) => last = Error::Timeout { endpoint: shown.to_owned(), after: limit },
        }
    }
    Err(last)
}

async fn through(
    proxy: &Proxy,
    endpoint: &Endpoint,
    silence: Option<Duration>,
) -> Result<Box<dyn Io>, Error> {
    let shown = proxy.to_string();
    let stream = tcp(&proxy.host, proxy.port, &shown).await?;
    if let Some(silence) = silence {
        guard(&stream, silence);
    }
    let mut io: Box<dyn Io> = Box::new(stream);
    if proxy.kind == ProxyKind::Https {
        let setup =
            |reason: String| Error::Proxy { proxy: shown.clone(), endpoint: endpoint.to_string(), reason };
        let config =
            tls::config(&Tls::default(), None, &[b"http/1.1"]).map_err(|error| setup(error.to_string()))?;
        let name = ServerName::try_from(proxy.host.clone()).map_err(|error| setup(error.to_string()))?;
        let stream =
            TlsConnector::from(config).connect(name, io).await.map_err(|error| Error::tls(&shown, &error))?;
        io = Box::new(stream);
    }
    let outcome = match proxy.kind {
        ProxyKind::Socks5 => socks5(&mut io, proxy, endpoint).await,
        _ => http_connect(&mut io, proxy, endpoint).await,
    };
    outcome.map_err(|reason| Error::Proxy { proxy: shown, endpoint: endpoint.to_string(), reason })?;
    Ok(io)
}

const MAX_PROXY_HEAD: usize = 16 * 1024;

/// RFC 9110 §9.3.6. The head of the answer is read byte by byte, so that nothing of what follows is swallowed.
async fn http_connect(io: &mut Box<dyn Io>, proxy: &Proxy, endpoint: &Endpoint) -> Result<(), String> {
    let authority = endpoint.authority();
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some((user, password)) = &proxy.user {
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        request.push_str(&format!("Proxy-Authorization: Basic {encoded}\r\n"));
    }
    request.push_str("\r\n");
    let failed = |error: std::io::Error| error.to_string();
    io.write_all(request.as_bytes()).await.map_err(failed)?;
    io.flush().await.map_err(failed)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_PROXY_HEAD {
            return Err("its answer is too long".to_owned());
        }
        head.push(io.read_u8().await.map_err(failed)?);
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    match line.split_whitespace().nth(1) {
        Some(code) if line.starts_with("HTTP/1.") && code.len() == 3 && code.starts_with('2') => Ok(()),
        _ => Err(format!("it answered {:?}", line.chars().take(100).collect::<String>())),
    }
}

/// RFC 1928 and RFC 1929; the proxy resolves the name.
async fn socks5(io: &mut Box<dyn Io>, proxy: &Proxy, endpoint: &Endpoint) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let method: u8 = if proxy.user.is_some() { 2 } else { 0 };
    io.write_all(&[5, 1, method]).await.map_err(failed)?;
    let mut answer = [0; 2];
    io.read_exact(&mut answer).await.map_err(failed)?;
    if answer != [5, method] {
        return Err("it does not accept this way of signing in".to_owned());
    }
    if let Some((user, password)) = &proxy.user {
        let mut message = vec![1];
        for part in [user, password] {
            message.push(
                u8::try_from(part.len()).map_err(|_| "the user name or password is too long".to_owned())?,
            );
            message.extend_from_slice(part.as_bytes());
        }
        io.write_all(&message).await.map_err(failed)?;
        io.read_exact(&mut answer).await.map_err(failed)?;
        if answer[1] != 0 {
            return Err("it refused the user name or password".to_owned());
        }
    }
    let mut message = vec![5, 1, 0];
    match endpoint.host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(address)) => {
            message.push(1);
            message.extend_from_slice(&address.octets());
        }
        Ok(std::net::IpAddr::V6(address)) => {
            message.push(4);
            message.extend_from_slice(&address.octets());
        }
        Err(_) => {
            message.push(3);
            message
                .push(u8::try_from(endpoint.host.len()).map_err(|_| "the host name is too long".to_owned())?);
            message.extend_from_slice(endpoint.host.as_bytes());
        }
    }
    message.extend_from_slice(&endpoint.port.to_be_bytes());
    io.write_all(&message).await.map_err(failed)?;
    let mut head = [0; 4];
    io.read_exact(&mut head).await.map_err(failed)?;
    if head[0] != 5 || head[1] != 0 {
        return Err(format!("it refused the connection (code {})", head[1]));
    }
    let address = match head[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(io.read_u8().await.map_err(failed)?),
        _ => return Err("its answer does not parse".to_owned()),
    };
    let mut rest = vec![0; address + 2];
    io.read_exact(&mut rest).await.map_err(failed)?;
    Ok(())
}
