//! The way to the tower: TCP or a proxy, TLS 1.3 that trusts the pinned authority and nothing else, and what is said over it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hansa_transport::{Endpoint, Io, Patience, Proxy, boxed, collect, reach};
use hansa_tunnel::handshake::{
    CONNECT, INSTANCE, Issued, JOIN, JoinRequest, RENEW, REPLICA, REPLICAS, RenewRequest, SUBPROTOCOL,
};
use hansa_tunnel::websocket::{self, WebSocket};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Clock;
use crate::credential::{CredentialError, Kept, authorities};
use crate::error::{Attempt, Error};
use crate::join::{Join, Token};

/// How long it may take from the first packet until the tower has answered.
const LIMIT: Duration = Duration::from_secs(10);
/// What the kernel takes for a dead link.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest answer: a certificate and an authority are a few kilobytes.
const MAX_ANSWER: usize = 64 * 1024;
/// hyper's least is half of it; the head of an answer must fit.
const HEAD_BUFFER: usize = 16 * 1024;
const USER_AGENT: &str = concat!("hansa-agent/", env!("CARGO_PKG_VERSION"));

/// A way to one tower with what is to be said there.
pub(crate) struct Dialler<'a> {
    pub(crate) join: &'a Join,
    pub(crate) kept: &'a Kept,
    pub(crate) proxy: Option<&'a Proxy>,
    pub(crate) clock: &'a Clock,
    /// Which of the addresses of the tower's name is dialled first.
    pub(crate) turn: usize,
}

/// The stream that a tunnel runs on.
pub(crate) type Connected = WebSocket<TokioIo<Upgraded>>;

/// A connection that the tower accepted.
pub(crate) struct Connection {
    pub(crate) io: Connected,
    pub(crate) replica: Option<String>,
    pub(crate) replicas: Option<usize>,
}

impl Dialler<'_> {
    /// Exchanges the join token for a certificate.
    pub(crate) async fn redeem(&self, token: &Token) -> Result<Kept, Error> {
        let request = JoinRequest {
            cluster: self.join.cluster.clone(),
            token: token.secret().to_owned(),
            certificate_request: self.kept.request()?,
        };
        let issued: Issued =
            self.within(self.post(JOIN, &request, false)).await.map_err(|error| match error {
                Error::Denied { tower, cluster, message } => Error::Token { tower, cluster, message },
                other => other,
            })?;
        Ok(self.kept.with(issued.certificate, issued.authority, Some(token.digest()))?)
    }

    /// Asks for the next certificate with the present one.
    pub(crate) async fn renew(&self) -> Result<Kept, Error> {
        let request = RenewRequest { certificate_request: self.kept.request()? };
        let issued: Issued = self.within(self.post(RENEW, &request, true)).await?;
        Ok(self.kept.with(issued.certificate, issued.authority, None)?)
    }

    /// Opens a connection for a tunnel.
    pub(crate) async fn connect(&self, instance: &HeaderValue) -> Result<Connection, Error> {
        self.within(self.upgrade(instance)).await
    }

    fn attempt(&self) -> Attempt<'_> {
        Attempt { tower: &self.join.tower, cluster: &self.join.cluster, now: (self.clock)() }
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(LIMIT, work)
            .await
            .unwrap_or_else(|_| Err(Error::Timeout { tower: self.join.tower.to_string(), after: LIMIT }))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        message: &impl Serialize,
        identified: bool,
    ) -> Result<T, Error> {
        let text = serde_json::to_vec(message)
            .map_err(|error| CredentialError::Make(format!("it cannot be written: {error}")))?;
        let request = self
            .request("POST", path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(text)))
            .map_err(|error| self.odd(&error))?;
        let response = self.send(request, identified).await?;
        if response.status() != StatusCode::OK && response.status() != StatusCode::CREATED {
            return Err(self.refusal(response).await);
        }
        let body =
            collect(boxed(response.into_body()), MAX_ANSWER).await.map_err(|error| self.odd(&error))?;
        // What does not parse is not repeated: it is whatever somebody between us and the tower wrote.
        serde_json::from_slice(&body).map_err(|_| self.odd(&"its answer is not what a tower says"))
    }

    async fn upgrade(&self, instance: &HeaderValue) -> Result<Connection, Error> {
        let key = websocket::key();
        let request = self
            .request("GET", CONNECT)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
            .header(INSTANCE, instance)
            .body(Full::default())
            .map_err(|error| self.odd(&error))?;
        let mut response = self.send(request, true).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response).await);
        }
        is_websocket(response.headers(), &websocket::accept_of(&key)).map_err(|reason| self.odd(&reason))?;
        let (replica, replicas) = replicas(response.headers());
        let io = hyper::upgrade::on(&mut response).await.map_err(|error| self.attempt().hyper(&error))?;
        Ok(Connection { io: WebSocket::client(TokioIo::new(io)), replica, replicas })
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let Endpoint { path: base, .. } = &self.join.tower;
        Request::builder()
            .method(method)
            .uri(format!("{base}{path}"))
            .header(header::HOST, self.join.tower.authority())
            .header(header::USER_AGENT, USER_AGENT)
    }

    /// Sends one request on a connection of its own.
    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        identified: bool,
    ) -> Result<Response<Incoming>, Error> {
        let stream = self.tls(identified).await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.attempt().hyper(&error))?;
        // It ends with the answer, or when it is handed over to the tunnel, or when the request is given up.
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|error| self.attempt().hyper(&error))
    }

    async fn tls(&self, identified: bool) -> Result<TlsStream<Box<dyn Io>>, Error> {
        let tower = &self.join.tower;
        let config = self.config(identified)?;
        let name = ServerName::try_from(tower.host.clone()).map_err(|error| self.odd(&error))?;
        let patience = Patience { connect: LIMIT, silence: SILENCE, turn: self.turn };
        let io = reach(tower, self.proxy, patience).await.map_err(|error| self.attempt().way(error))?;
        TlsConnector::from(config).connect(name, io).await.map_err(|error| self.attempt().io(&error))
    }

    /// TLS 1.3, the pinned authorities alone, and the agent's certificate.
    fn config(&self, identified: bool) -> Result<Arc<ClientConfig>, Error> {
        let setup = |reason: String| Error::Tls { tower: self.join.tower.to_string(), reason };
        let mut roots = RootCertStore::empty();
        let pinned = authorities(Some(self.kept), self.join);
        let (pinned, _) = roots.add_parsable_certificates(
            CertificateDer::pem_slice_iter(pinned.as_bytes()).filter_map(Result::ok),
        );
        if pinned == 0 {
            let cluster = &self.join.cluster;
            return Err(setup(format!(
                "the authority that this agent was given holds no certificate; apply a fresh manifest: hansa join {cluster} --agent"
            )));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let time = Arc::new(Time(self.clock.clone()));
        let builder = ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| setup(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match self.kept.certificate.as_deref().filter(|_| identified) {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
                let chain = chain.filter_map(Result::ok).collect();
                let key = PrivateKeyDer::from_pem_slice(self.kept.key.as_bytes())
                    .map_err(|_| CredentialError::Make("the kept key does not parse".to_owned()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| setup(error.to_string()))?
            }
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn odd(&self, reason: &dyn fmt::Display) -> Error {
        Error::NotATower { tower: self.join.tower.to_string(), reason: reason.to_string() }
    }

    /// What the tower means by an answer that is not what was asked for.
    async fn refusal(&self, response: Response<Incoming>) -> Error {
        let status = response.status();
        let (replica, replicas) = replicas(response.headers());
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let body = collect(response.into_body().map_err(Into::into).boxed_unsync(), MAX_ANSWER).await;
        let said: Option<Value> = body.ok().and_then(|body| serde_json::from_slice(&body).ok());
        let is_status = said.as_ref().is_some_and(|said| said["kind"] == "Status");
        let message = said.as_ref().and_then(|said| said["message"].as_str()).map(plain);
        let (tower, cluster) = (self.join.tower.to_string(), self.join.cluster.clone());
        let message = message.unwrap_or_else(|| format!("it answered {status}"));
        match status {
            StatusCode::CONFLICT => Error::Duplicate { tower, replica, replicas },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Error::Unavailable { tower, message, retry_after }
            }
            status if status.is_client_error() && is_status => Error::Denied { tower, cluster, message },
            status if status.is_server_error() && is_status => {
                Error::Unavailable { tower, message, retry_after }
            }
            status if status.is_redirection() => {
                self.odd(&"it answered with a redirection, which is not followed")
            }
            status => self.odd(&format!("it answered {status}")),
        }
    }
}

/// A message of somebody else's, on one line and not without end.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

fn replicas(headers: &HeaderMap) -> (Option<String>, Option<usize>) {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    (text(REPLICA).map(plain), text(REPLICAS).and_then(|text| text.parse().ok()))
}

/// RFC 6455 §4.1: whether the answer is to our question, and for the protocol that we speak.
fn is_websocket(headers: &HeaderMap, expected: &str) -> Result<(), &'static str> {
    let is = |name, text: &str| {
        headers.get(name).is_some_and(|value: &HeaderValue| {
            value
                .to_str()
                .is_ok_and(|value| value.split(',').any(|each| each.trim().eq_ignore_ascii_case(text)))
        })
    };
    if !is(header::UPGRADE, "websocket") || !is(header::CONNECTION, "upgrade") {
        return Err("it changed to another protocol than WebSocket");
    }
    if headers.get(header::SEC_WEBSOCKET_ACCEPT).is_none_or(|value| value != expected) {
        return Err("its Sec-WebSocket-Accept does not answer our key");
    }
    if headers.get(header::SEC_WEBSOCKET_PROTOCOL).is_none_or(|value| value != SUBPROTOCOL) {
        return Err(
            "it did not choose the tunnel's subprotocol; tower and agent may be too far apart in version",
        );
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err("it chose an extension that was not offered");
    }
    Ok(())
}

/// The agent's clock, as TLS asks it.
struct Time(Clock);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let now = (self.0)().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(now))
    }
}
