//! Calling a webhook: HTTPS with the authorities its configuration names, one shared HTTP/2 connection where the webhook
//! speaks it, and the words client-go has for what goes wrong.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The largest answer that is read.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// How many connections are kept.
const MAX_KEPT: usize = 64;

/// Where to send a question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// The host and port to dial.
    pub(crate) dial: (String, u16),
    /// The name that the certificate must bear.
    pub(crate) server_name: String,
    /// The URL as messages and the `Host` header show it, without a query.
    pub(crate) url: String,
    /// The authorities, PEM; those of the system without.
    pub(crate) authorities: Option<Vec<u8>>,
}

impl Target {
    /// The target of a webhook that is configured by URL.
    pub(crate) fn of_url(url: &str, authorities: Option<Vec<u8>>) -> Result<Self, String> {
        let parsed: Uri = url.parse().map_err(|error| format!("parse {url:?}: {error}"))?;
        let host = parsed.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| format!("parse {url:?}: no host in the URL"))?;
        if parsed.scheme_str() != Some("https") {
            return Err(format!("parse {url:?}: the scheme must be https"));
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self {
            dial: (host.clone(), parsed.port_u16().unwrap_or(443)),
            server_name: host,
            url: url.to_owned(),
            authorities,
        })
    }

    /// The URL as it is asked for: with the time there is.
    fn asked(&self, timeout: Duration) -> String {
        let separator = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{separator}timeout={}s", self.url, timeout.as_secs())
    }
}

type Sender = http2::SendRequest<Full<Bytes>>;

/// Calls webhooks.
#[derive(Default)]
pub(crate) struct Caller {
    kept: Mutex<HashMap<Target, Sender>>,
    system: OnceLock<Arc<RootCertStore>>,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").finish_non_exhaustive()
    }
}

impl Caller {
    /// Posts a question and gives the body of the answer.
    pub(crate) async fn post(
        &self,
        target: &Target,
        body: String,
        timeout: Duration,
    ) -> Result<Bytes, String> {
        let asked = target.asked(timeout);
        let answer = tokio::time::timeout(timeout, self.send(target, &asked, body.into())).await;
        let failed = |why: String| format!("failed to call webhook: Post {asked:?}: {why}");
        let (status, body) =
            answer.map_err(|_| failed("context deadline exceeded".into()))?.map_err(failed)?;
        match status.is_success() {
            true => Ok(body),
            false => Err(format!("failed to call webhook: {}", unsuccessful(status, &body))),
        }
    }

    async fn send(&self, target: &Target, url: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
        if let Some(mut sender) = self.kept(target)
            && sender.ready().await.is_ok()
        {
            match sender.send_request(request(&uri, true, body.clone())?).await {
                Ok(response) => return read(response).await,
                // The webhook may have been restarted since; it is asked once more, on a connection of its own.
                Err(error) => {
                    tracing::debug!(url, error = chain(&error), "a kept connection to a webhook failed");
                    self.forget(target);
                }
            }
        }
        let stream = self.connect(target).await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(30))
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| chain(&error))?;
            tokio::spawn(async move { drop(connection.await) });
            self.keep(target, &sender);
            let response = sender.send_request(request(&uri, true, body)?).await;
            return read(response.map_err(|error| chain(&error))?).await;
        }
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        let response = sender.send_request(request(&uri, false, body)?).await;
        let answer = read(response.map_err(|error| chain(&error))?).await;
        connection.abort();
        answer
    }

    fn kept(&self, target: &Target) -> Option<Sender> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(target).filter(|sender| !sender.is_closed()).cloned()
    }

    fn keep(&self, target: &Target, sender: &Sender) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, sender| !sender.is_closed());
        if kept.len() < MAX_KEPT {
            kept.insert(target.clone(), sender.clone());
        }
    }

    fn forget(&self, target: &Target) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(target);
    }

    async fn connect(&self, target: &Target) -> Result<TlsStream<TcpStream>, String> {
        let (host, port) = &target.dial;
        let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let stream =
            TcpStream::connect((host.as_str(), *port)).await.map_err(|error| match error.kind() {
                std::io::ErrorKind::ConnectionRefused => {
                    format!("dial tcp {shown}: connect: connection refused")
                }
                _ => format!("dial tcp {shown}: {error}"),
            })?;
        drop(stream.set_nodelay(true));
        let name = ServerName::try_from(target.server_name.clone())
            .map_err(|_| format!("{:?} is no name that a certificate can bear", target.server_name))?;
        let connector = TlsConnector::from(Arc::new(self.tls(target)?));
        connector.connect(name, stream).await.map_err(|error| tls_failure(&error))
    }

    fn tls(&self, target: &Target) -> Result<ClientConfig, String> {
        let roots = match &target.authorities {
            Some(pem) => Arc::new(authorities(pem)?),
            None => self.system.get_or_init(|| Arc::new(system_authorities())).clone(),
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate =
            certificate.map_err(|error| format!("unable to load root certificates: {error}"))?;
        roots.add(certificate).map_err(|error| format!("unable to load root certificates: {error}"))?;
    }
    if roots.is_empty() {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
    }
    Ok(roots)
}

fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // The system's store may hold certificates that cannot be used.
        drop(roots.add(certificate));
    }
    roots
}

fn request(uri: &Uri, whole: bool, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
    let authority = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(Method::POST)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission");
    request = match whole {
        true => request.uri(uri.clone()),
        false => request.uri(path).header(header::HOST, authority),
    };
    request.body(Full::new(body)).map_err(|error| error.to_string())
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<(StatusCode, Bytes), String> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| chain(&*error))?;
    Ok((parts.status, body.to_bytes()))
}

/// client-go's words for an answer that is no success.
fn unsuccessful(status: StatusCode, body: &[u8]) -> String {
    if let Ok(told) = serde_json::from_slice::<serde_json::Value>(body)
        && told["kind"] == "Status"
        && let Some(message) = told["message"].as_str()
    {
        return message.to_owned();
    }
    match status.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        code if code >= 500 => {
            let told = String::from_utf8_lossy(&body[..body.len().min(2048)]);
            let told = if told.trim().is_empty() { "unknown" } else { told.trim() };
            format!("an error on the server ({told:?}) has prevented the request from succeeding")
        }
        code => {
            format!("the server responded with the status code {code} but did not return more information")
        }
    }
}

fn tls_failure(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.contains("certificate") {
        true => format!("tls: failed to verify certificate: x509: {text}"),
        false => text,
    }
}

/// An error with its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_to_dial_and_whom_to_expect() {
        let target = Target::of_url("https://[::1]:8443/a?b=c", None).expect("valid");
        assert_eq!((target.dial.clone(), target.server_name.as_str()), (("::1".to_owned(), 8443), "::1"));
        assert_eq!(target.asked(Duration::from_secs(3)), "https://[::1]:8443/a?b=c&timeout=3s");
        assert_eq!(Target::of_url("https://example.org", None).expect("valid").dial.1, 443);
        for odd in ["http://example.org", "https://", "example.org", "https:// a"] {
            assert!(Target::of_url(odd, None).is_err(), "{odd}");
        }
    }

    #[tokio::test]
    async fn a_webhook_that_does_not_listen_is_reported_as_client_go_reports_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let target = Target::of_url(&format!("https://127.0.0.1:{port}/x"), None).expect("valid");
        let error = Caller::default().post(&target, String::new(), Duration::from_secs(5)).await;
        assert_eq!(
            error.expect_err("nobody listens"),
            format!(
                "failed to call webhook: Post \"https://127.0.0.1:{port}/x?timeout=5s\": dial tcp 127.0.0.1:{port}: \
                 connect: connection refused"
            )
        );
    }

    #[test]
    fn an_unsuccessful_answer_is_worded_as_client_go_words_it() {
        let told = unsuccessful(StatusCode::INTERNAL_SERVER_ERROR, b"boom");
        assert_eq!(told, "an error on the server (\"boom\") has prevented the request from succeeding");
        assert_eq!(
            unsuccessful(StatusCode::NOT_FOUND, b"404 page not found"),
            "the server could not find the requested resource"
        );
    }
}
