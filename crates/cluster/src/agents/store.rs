//! The join records on the host: one Secret per cluster that is connected by agent. Of two who write one at the same time, one wins and the other
//! looks again.

use std::time::Duration;

use hansa_api::cluster::Cluster;
use hansa_api::names;
use hansa_transport::explain;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use rand::CryptoRng;

use super::record::{Record, Redeemed, Refusal, Token};
use crate::events::{self, Severity};

/// The key of the record in its Secret.
const RECORD: &str = "record";
/// How often a write is tried against others who write at the same time.
const TRIES: usize = 8;

/// Why an agent is not let in, or a token not made.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The token is not good.
    #[error(transparent)]
    Token(#[from] Refusal),
    /// The agent has joined, and does not get in any more.
    #[error("this agent is not let in: {0}")]
    Closed(Closed),
    /// The host cannot be asked.
    #[error("the host cannot be asked about the join record: {0}; try again")]
    Host(String),
    /// Others write the record all the time.
    #[error("the join record is being written by others; try again")]
    Busy,
}

impl AgentError {
    fn host(error: &kube::Error) -> Self {
        Self::Host(explain(error))
    }
}

/// Why an agent that holds a key or a good token is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// There is no such Cluster, or it is another one under the same name.
    #[error(
        "its cluster is not a member any more; to join again, get a new manifest on the host (hansa join NAME --agent) and apply it"
    )]
    Gone,
    /// The Cluster is being removed.
    #[error("its cluster is being removed")]
    Leaving,
    /// The Cluster is connected in another way.
    #[error(
        "its cluster is connected directly; set spec.connection.type of the Cluster to proxy, or remove the agent"
    )]
    Direct,
    /// Another agent has joined since.
    #[error(
        "another agent has joined in its place; get a new manifest on the host (hansa join NAME --agent) and apply it"
    )]
    Replaced,
}

impl Closed {
    /// The word for programs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Gone => "ClusterGone",
            Self::Leaving => "ClusterLeaving",
            Self::Direct => "NotAnAgentCluster",
            Self::Replaced => "AgentReplaced",
        }
    }
}

/// Whether agents of `cluster` are let in at all, as far as the object says.
pub fn open(cluster: &Cluster) -> Result<(), Closed> {
    if cluster.is_host() || !cluster.is_proxied() {
        Err(Closed::Direct)
    } else if cluster.metadata.deletion_timestamp.is_some() {
        Err(Closed::Leaving)
    } else {
        Ok(())
    }
}

/// Whether the holder of the key `spki` (SubjectPublicKeyInfo, DER) is the agent of `cluster`, whose record is `record`, and may come in: asked at
/// each connection and each renewal.
pub fn admit(cluster: Option<&Cluster>, record: Option<&Record>, spki: &[u8]) -> Result<(), Closed> {
    cluster.map_or(Ok(()), open)?;
    retain(cluster, record, spki)
}

/// Whether the holder of the key `spki` may stay: asked of open sessions whenever the Cluster or its record changes.
///
/// The agent of a Cluster that is being removed stays until it is gone, because what was made on the member is removed through it.
pub fn retain(cluster: Option<&Cluster>, record: Option<&Record>, spki: &[u8]) -> Result<(), Closed> {
    let (Some(cluster), Some(record)) = (cluster, record) else { return Err(Closed::Gone) };
    match open(cluster) {
        Ok(()) | Err(Closed::Leaving) => {}
        Err(closed) => return Err(closed),
    }
    if record.cluster.is_empty() || cluster.metadata.uid.as_deref() != Some(&record.cluster) {
        return Err(Closed::Gone);
    }
    if record.accepts(spki) { Ok(()) } else { Err(Closed::Replaced) }
}

/// The record in a Secret; `None` where there is none that can be read, which lets nobody in.
pub fn record_of(secret: &Secret) -> Option<Record> {
    serde_json::from_slice(&secret.data.as_ref()?.get(RECORD)?.0).ok()
}

fn secrets(host: &Client) -> Api<Secret> {
    Api::namespaced(host.clone(), names::SYSTEM_NAMESPACE)
}

/// [`admit`], with what the host says now.
pub async fn accepts(host: &Client, cluster: &str, spki: &[u8]) -> Result<(), AgentError> {
    let (found, secret) = read(host, cluster).await?;
    admit(found.as_ref(), secret.as_ref().and_then(record_of).as_ref(), spki).map_err(AgentError::Closed)
}

/// [`retain`], with what the host says now.
pub async fn stays(host: &Client, cluster: &str, spki: &[u8]) -> Result<(), AgentError> {
    let (found, secret) = read(host, cluster).await?;
    retain(found.as_ref(), secret.as_ref().and_then(record_of).as_ref(), spki).map_err(AgentError::Closed)
}

/// Both objects, at the same time, so that it cannot be told by the clock which of them is not there.
async fn read(host: &Client, cluster: &str) -> Result<(Option<Cluster>, Option<Secret>), AgentError> {
    let clusters: Api<Cluster> = Api::all(host.clone());
    let (secrets, name) = (secrets(host), names::agent_record(cluster));
    let (cluster, secret) = tokio::join!(clusters.get_opt(cluster), secrets.get_opt(&name));
    let failed = |error: kube::Error| AgentError::host(&error);
    Ok((cluster.map_err(failed)?, secret.map_err(failed)?))
}

/// Spends a join token for the holder of the key `spki` (SubjectPublicKeyInfo, DER). Whoever has no good token learns nothing about the cluster, not even
/// whether there is one.
pub async fn redeem(
    host: &Client,
    cluster: &str,
    token: &str,
    spki: &[u8],
    now: Timestamp,
) -> Result<Redeemed, AgentError> {
    for _ in 0..TRIES {
        let (found, secret) = read(host, cluster).await?;
        let uid = found.as_ref().and_then(ResourceExt::uid);
        let record =
            secret.as_ref().and_then(record_of).filter(|record| uid.as_ref() == Some(&record.cluster));
        let (Some(found), Some(secret), Some(before)) = (found, secret, record) else {
            return Err(Refusal::Unknown.into());
        };
        let mut record = before.clone();
        let outcome = record.redeem(token, spki, now);
        if outcome.is_ok() {
            open(&found).map_err(AgentError::Closed)?;
        }
        if record == before {
            return Ok(outcome?);
        }
        if write(host, &found, &record, Some(&secret)).await? {
            if outcome == Err(Refusal::Replayed) {
                events::emit(
                    host,
                    &found,
                    Severity::Warning,
                    Refusal::Replayed.reason(),
                    "somebody showed the join token that the agent of this cluster had used, with another key, and was refused; the agent's manifest may \
                     have been read by others, or the agent lost its credential. A new manifest (hansa join NAME --agent) replaces both",
                );
            }
            return Ok(outcome?);
        }
    }
    Err(AgentError::Busy)
}

/// Makes a join token for `cluster`, which lasts `lifetime`. The record is made where there is none, and anew where it is of a Cluster that is gone.
pub async fn mint(
    host: &Client,
    cluster: &Cluster,
    lifetime: Duration,
    now: Timestamp,
    rng: &mut (impl CryptoRng + Send),
) -> Result<Token, AgentError> {
    open(cluster).map_err(AgentError::Closed)?;
    for _ in 0..TRIES {
        let name = names::agent_record(&cluster.name_any());
        let secret = secrets(host).get_opt(&name).await.map_err(|error| AgentError::host(&error))?;
        let mut record = current(cluster, secret.as_ref());
        let token = record.mint(now, lifetime, rng);
        if write(host, cluster, &record, secret.as_ref()).await? {
            return Ok(token);
        }
    }
    Err(AgentError::Busy)
}

/// Makes the record of `cluster` where there is none of it.
pub(crate) async fn ensure(host: &Client, cluster: &Cluster) -> Result<(), AgentError> {
    for _ in 0..TRIES {
        let name = names::agent_record(&cluster.name_any());
        let secret = secrets(host).get_opt(&name).await.map_err(|error| AgentError::host(&error))?;
        let record = current(cluster, secret.as_ref());
        if secret.as_ref().and_then(record_of).as_ref() == Some(&record)
            || write(host, cluster, &record, secret.as_ref()).await?
        {
            return Ok(());
        }
    }
    Err(AgentError::Busy)
}

/// The record of exactly this Cluster: what another left under its name, or what cannot be read, gave nobody a right.
fn current(cluster: &Cluster, secret: Option<&Secret>) -> Record {
    let uid = cluster.uid().unwrap_or_default();
    secret
        .and_then(record_of)
        .filter(|record| record.cluster == uid && !uid.is_empty())
        .unwrap_or_else(|| Record::new(&uid))
}

/// Writes a record in the place of `former`; `false` if somebody else was faster.
async fn write(
    host: &Client,
    cluster: &Cluster,
    record: &Record,
    former: Option<&Secret>,
) -> Result<bool, AgentError> {
    let name = names::agent_record(&cluster.name_any());
    let text = serde_json::to_vec(record).map_err(|error| AgentError::Host(error.to_string()))?;
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            resource_version: former.and_then(ResourceExt::resource_version),
            labels: Some([(names::LABEL_KUBESPHERE_MANAGED.to_owned(), "true".to_owned())].into()),
            // One that is made at the moment its Cluster goes does not outlive it.
            owner_references: cluster.owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some(names::AGENT_RECORD_TYPE.to_owned()),
        data: Some([(RECORD.to_owned(), ByteString(text))].into()),
        ..Secret::default()
    };
    let api = secrets(host);
    let written = match former {
        Some(_) => api.replace(&name, &PostParams::default(), &secret).await,
        None => api.create(&PostParams::default(), &secret).await,
    };
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(AgentError::host(&error)),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn cluster(uid: &str, kind: &str) -> Cluster {
        serde_json::from_value(serde_json::json!({
            "metadata": { "name": "m", "uid": uid }, "spec": { "connection": { "type": kind } },
        }))
        .unwrap()
    }

    #[test]
    fn only_the_agent_that_joined_this_very_cluster_is_let_in() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut record = Record::new("u1");
        let token =
            record.mint(now, super::super::record::LIFETIME, &mut rand::rngs::StdRng::seed_from_u64(1));
        let ours = cluster("u1", "proxy");
        assert_eq!(admit(Some(&ours), Some(&record), b"k"), Err(Closed::Replaced));
        record.redeem(token.reveal(), b"k", now).unwrap();
        let mut leaving = ours.clone();
        leaving.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        let mut nobodys = record.clone();
        nobodys.cluster.clear();
        for (cluster, record, key, expected) in [
            (Some(&ours), Some(&record), "k", Ok(())),
            (Some(&ours), Some(&record), "l", Err(Closed::Replaced)),
            (Some(&cluster("u2", "proxy")), Some(&record), "k", Err(Closed::Gone)),
            (Some(&cluster("", "proxy")), Some(&nobodys), "k", Err(Closed::Gone)),
            (Some(&cluster("u1", "direct")), Some(&record), "k", Err(Closed::Direct)),
            (Some(&leaving), Some(&record), "k", Err(Closed::Leaving)),
            (None, Some(&record), "k", Err(Closed::Gone)),
            (Some(&ours), None, "k", Err(Closed::Gone)),
        ] {
            assert_eq!(admit(cluster, record, key.as_bytes()), expected);
            // Whoever is in already stays while the Cluster is being removed, and no longer.
            let stays = if expected == Err(Closed::Leaving) { Ok(()) } else { expected };
            assert_eq!(retain(cluster, record, key.as_bytes()), stays);
        }
    }
}
