//! What agents ask: to join, to renew their certificate, to connect. Everything is decided before a connection is changed into
//! a tunnel, and from the certificate alone (`spec/security-checklist.md`, lines 9, 10 and 12).

use std::{pin::pin, sync::Arc, time::Duration};

use hansa_access::route::is_cluster_name;
use hansa_cluster::agents::{self, AgentError};
use hansa_listener::{pki::Request as CertificateRequest, serve::Peer};
use hansa_machinery::Status;
use hansa_transport::Body;
use hansa_tunnel::{
    Host,
    handshake::{self, Issued, JoinRequest, RenewRequest},
    websocket::{self, WebSocket},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Shared, answers,
    identity::{self, Agent},
    sessions::{Reservation, Taken},
};

/// The largest body of a request: a certificate request takes a few hundred bytes.
const BODY: usize = 16 * 1024;
/// How long before its certificate ends an agent is asked to connect anew with its next one.
const NOTICE: Duration = Duration::from_secs(300);
/// How long a connection that is being closed may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);

/// Answers a request below `/agent/`.
pub(crate) async fn handle(
    tower: &Arc<Shared>,
    peer: &Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let asked = async {
        match (request.method(), request.uri().path()) {
            (&Method::POST, handshake::JOIN) => join(tower, peer, request).await,
            (&Method::POST, handshake::RENEW) => renew(tower, peer, request).await,
            (&Method::GET, handshake::CONNECT) => connect(tower, peer, request).await,
            (_, handshake::JOIN | handshake::RENEW | handshake::CONNECT) => {
                Err(Status::new(405, "MethodNotAllowed", "agents do not ask this by this method"))
            }
            _ => Err(Status::no_such_resource()),
        }
    };
    // The body is read and the host is asked in it: neither may keep a connection of a stranger open.
    timeout(tower.options.handshake, asked)
        .await
        .unwrap_or_else(|_| Err(Status::new(408, "Timeout", "the request took too long; try again")))
}

async fn join(tower: &Shared, peer: &Peer, request: Request<Incoming>) -> Result<Response<Body>, Status> {
    tower.attempts.count(peer.address.ip(), Instant::now()).map_err(|wait| {
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        Status::too_many_requests(
            "there were too many attempts to join from this address; try again later",
            seconds,
        )
    })?;
    let JoinRequest { cluster, token, certificate_request } = read(request).await?;
    if !is_cluster_name(&cluster) {
        return Err(Status::bad_request("the name of the cluster is none that a cluster can have"));
    }
    let certificate = identity::requested(&certificate_request, &cluster)?;
    let _turn = tower.joins.acquire().await;
    let now = Timestamp::now();
    let key = certificate.public_key();
    agents::redeem(&tower.host, &cluster, &token, key, now)
        .await
        .map_err(|error| refused(&cluster, &error))?;
    tracing::info!(cluster, "an agent has joined");
    issue(tower, &certificate, now)
}

async fn renew(tower: &Shared, peer: &Peer, request: Request<Incoming>) -> Result<Response<Body>, Status> {
    let agent = identity::agent(peer.certificate.as_deref().map(AsRef::as_ref))?;
    let RenewRequest { certificate_request } = read(request).await?;
    let certificate = identity::requested(&certificate_request, &agent.cluster)?;
    if certificate.public_key() != agent.key {
        return Err(Status::bad_request(
            "a certificate is renewed for the key it has; another key joins anew",
        ));
    }
    let let_in = agents::accepts(&tower.host, &agent.cluster, &agent.key).await;
    let_in.map_err(|error| refused(&agent.cluster, &error))?;
    issue(tower, &certificate, Timestamp::now())
}

fn issue(tower: &Shared, request: &CertificateRequest, now: Timestamp) -> Result<Response<Body>, Status> {
    let certificate = tower.authority.sign_request(request, false, tower.options.lifetime, now);
    let certificate = certificate.map_err(Status::internal)?;
    answers::json(&Issued { certificate, authority: tower.authority.certificate_pem().to_owned() })
}

async fn connect(
    tower: &Arc<Shared>,
    peer: &Peer,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let began = Instant::now();
    let agent = identity::agent(peer.certificate.as_deref().map(AsRef::as_ref))?;
    if tower.draining.is_cancelled() {
        return Err(Status {
            retry_after_seconds: 1,
            ..Status::unavailable("this tower is about to stop; connect again, to another one")
        });
    }
    let instance = instance(request.headers())?;
    let accept = websocket::accept(request.headers(), handshake::SUBPROTOCOL)
        .map_err(|refused| Status::bad_request(refused.to_string()))?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or_else(|| {
        Status::bad_request("this connection cannot become a WebSocket: HTTP/1.1 is needed")
    })?;
    let session =
        tower.sessions.reserve(&agent.cluster, &instance, &agent.key).map_err(|taken| match taken {
            Taken::Already => {
                Status::new(409, "AlreadyExists", "this agent is connected to this replica already")
            }
            Taken::Full => Status {
                retry_after_seconds: 30,
                ..Status::unavailable("the cluster has as many agents connected as it may")
            },
        })?;
    let let_in = agents::accepts(&tower.host, &agent.cluster, &agent.key).await;
    let_in.map_err(|error| refused(&agent.cluster, &error))?;

    let serving = tower.clone();
    tower.tasks.spawn(async move { serve(&serving, agent, session, upgrade, began).await });
    let mut response = Response::new(hansa_transport::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(handshake::SUBPROTOCOL));
    Ok(response)
}

/// Keeps a session until its tunnel ends, its agent is let in no longer, or its certificate ends.
async fn serve(tower: &Shared, agent: Agent, session: Reservation, upgrade: OnUpgrade, began: Instant) {
    let cluster = agent.cluster.as_str();
    let Ok(Ok(io)) = timeout(tower.options.handshake, upgrade).await else {
        return tracing::debug!(cluster, "an agent went before its tunnel stood");
    };
    let (host, driver) = Host::start(WebSocket::server(TokioIo::new(io)), tower.options.tunnel.clone());
    session.fill(host.clone());
    // There may be more than when it was let in.
    host.say_replicas(tower.replicas().count(Instant::now()));
    if tower.draining.is_cancelled() {
        host.drain();
    }
    tower.metrics.connected(began.elapsed());
    tracing::info!(cluster, "an agent is connected");
    let mut driver = pin!(driver);
    let ends = async {
        let left = Duration::try_from(agent.until.duration_since(Timestamp::now())).unwrap_or_default();
        let notice = NOTICE.min(left / 4);
        sleep(left - notice).await;
        host.drain();
        sleep(notice).await;
    };
    let ended = tokio::select! {
        ended = driver.as_mut() => ended,
        why = async {
            tokio::select! {
                () = session.revoked() => "it was closed here",
                () = ends => "its certificate ended",
            }
        } => {
            host.close();
            tracing::info!(cluster, why, "a tunnel is closed");
            timeout(FAREWELL, driver).await.unwrap_or(Ok(()))
        }
    };
    match ended {
        Ok(()) => tracing::info!(cluster, "an agent has disconnected"),
        Err(error) => tracing::warn!(cluster, %error, "the tunnel to an agent is lost"),
    }
}

/// Which process of the agent it is.
fn instance(headers: &HeaderMap) -> Result<String, Status> {
    let mut values = headers.get_all(handshake::INSTANCE).iter();
    let value = values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok());
    let is_word = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let refused =
        || Status::bad_request(format!("the header {} names no process of an agent", handshake::INSTANCE));
    value.filter(is_word).map(str::to_owned).ok_or_else(refused)
}

async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Status> {
    let body = Limited::new(request.into_body(), BODY).collect().await;
    let body = body.map_err(|_| Status::too_large("the request is too large, or broke off"))?.to_bytes();
    // What stands in it is secret, so the error does not repeat it.
    serde_json::from_slice(&body)
        .map_err(|_| Status::bad_request("the request is not the JSON that is expected here"))
}

fn refused(cluster: &str, error: &AgentError) -> Status {
    let (code, reason) = match error {
        AgentError::Token(refusal) => (403, refusal.reason()),
        AgentError::Closed(closed) => (403, closed.reason()),
        AgentError::Host(_) | AgentError::Busy => (503, "ServiceUnavailable"),
    };
    tracing::info!(cluster, %error, "an agent is refused");
    let retry_after_seconds = if code == 503 { 2 } else { 0 };
    Status { retry_after_seconds, ..Status::new(code, reason, error.to_string()) }
}

/// What every answer to an agent bears: which replica it is, and how many there are.
pub(crate) fn introduce(tower: &Shared, headers: &mut HeaderMap) {
    if let Ok(replica) = HeaderValue::from_str(&tower.replica) {
        headers.insert(handshake::REPLICA, replica);
    }
    headers.insert(handshake::REPLICAS, tower.replicas().count(Instant::now()).into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_one_word() {
        let named = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(handshake::INSTANCE, value.parse().unwrap());
            }
            instance(&headers).ok()
        };
        assert_eq!(named(&["a-1"]).as_deref(), Some("a-1"));
        for odd in [&[][..], &[""], &["a", "b"], &["a b"], &[&"a".repeat(65)]] {
            assert_eq!(named(odd), None, "{odd:?}");
        }
    }
}
