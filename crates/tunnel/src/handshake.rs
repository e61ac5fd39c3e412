//! What tower and agent say to each other before there is a tunnel: JSON over HTTPS below `/agent/v1/`.

use http::HeaderName;
use serde::{Deserialize, Serialize};

/// The path at which a join token is exchanged for a certificate.
pub const JOIN: &str = "/agent/v1/join";
/// The path at which an agent gets its next certificate.
pub const RENEW: &str = "/agent/v1/renew";
/// The path at which an agent connects.
pub const CONNECT: &str = "/agent/v1/connect";
/// The WebSocket subprotocol of the tunnel.
pub const SUBPROTOCOL: &str = "hansa-tunnel-v1";
/// Says which process of an agent connects: random, new at each start.
pub const INSTANCE: HeaderName = HeaderName::from_static("hansa-agent-instance");
/// Says which replica of the tower answers.
pub const REPLICA: HeaderName = HeaderName::from_static("hansa-tower-replica");
/// Says how many replicas of the tower there are.
pub const REPLICAS: HeaderName = HeaderName::from_static("hansa-tower-replicas");

/// The exchange of a join token; the answer is [`Issued`].
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// The cluster the token is for.
    pub cluster: String,
    /// The token.
    pub token: String,
    /// The request for the agent's certificate (PKCS #10, PEM).
    pub certificate_request: String,
}

/// The request for the next certificate, made with the present one; the answer is [`Issued`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenewRequest {
    /// The request for the agent's certificate (PKCS #10, PEM).
    pub certificate_request: String,
}

/// A certificate for an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Issued {
    /// The certificate (PEM).
    pub certificate: String,
    /// The authority that the tower's own certificate is of (PEM).
    pub authority: String,
}

/// The common name of the agent of a cluster.
pub fn agent_name(cluster: &str) -> String {
    format!("{NAME_PREFIX}{cluster}")
}

/// The cluster whose agent has this common name.
pub fn cluster_of(name: &str) -> Option<&str> {
    name.strip_prefix(NAME_PREFIX).filter(|cluster| !cluster.is_empty())
}

const NAME_PREFIX: &str = "hansa:agent:";
/// The organisation of all agents.
pub const ORGANISATION: &str = "hansa:agents";
