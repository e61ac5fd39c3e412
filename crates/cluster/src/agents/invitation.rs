//! Inviting a cluster: its Cluster is made where there is none, a token is minted, and the manifest for its agent can be made.

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_api::cluster::{Cluster, ClusterSpec, Connection, ConnectionType};
use hansa_api::names;
use hansa_transport::explain;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use rand::CryptoRng;

use super::announcement;
use super::manifest::{self, Invitation};
use super::record::LIFETIME;
use super::store::{self, AgentError};
use crate::valid_name;

/// How an agent is invited.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How long the token is good.
    pub lifetime: Duration,
    /// The image the agent runs from; that of the announcement, or [`manifest::default_image`], if there is none.
    pub image: Option<String>,
    /// How many agents run.
    pub replicas: u32,
    /// A ClusterRole on the cluster in place of the one that management needs.
    pub role: Option<String>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { lifetime: LIFETIME, image: None, replicas: 1, role: None }
    }
}

/// Why nobody was invited.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// The name cannot be one.
    #[error(
        "{0:?} cannot be the name of a cluster: use at most 54 lower-case letters, digits and '-', beginning and ending with a letter or digit"
    )]
    Name(String),
    /// There is no such Cluster.
    #[error("there is no cluster {0:?} that is connected by agent")]
    Absent(String),
    /// There is one that is connected directly.
    #[error(
        "cluster {0:?} is connected directly; choose another name, remove it first (hansa unjoin {0}), or set spec.connection.type of the Cluster to proxy \
         to have it change over"
    )]
    Direct(String),
    /// It is on its way out.
    #[error("cluster {0:?} is being removed; try again when it is gone")]
    Leaving(String),
    /// There is nowhere to send an agent.
    #[error(
        "no tower has said where it is, and agents dial it; start one on the host (hansa tower), or wait a moment if it is starting"
    )]
    NoTower,
    /// The token could not be made.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The host did not do what it was asked.
    #[error("the host: {0}")]
    Host(String),
}

fn host(error: &kube::Error) -> InviteError {
    InviteError::Host(explain(error))
}

/// Invites the agent of a cluster that is to be connected by one. The Cluster is made if there is none; `labels` are added to one that is there.
pub async fn invite(
    client: &Client,
    name: &str,
    labels: BTreeMap<String, String>,
    terms: &Terms,
    now: Timestamp,
    rng: &mut (impl CryptoRng + Send),
) -> Result<Invitation, InviteError> {
    if !valid_name(name) {
        return Err(InviteError::Name(name.to_owned()));
    }
    // Nothing is made that nobody could use.
    let announced = announcement::announced(client).await.map_err(|error| host(&error))?;
    if announced.is_none() {
        return Err(InviteError::NoTower);
    }
    let clusters: Api<Cluster> = Api::all(client.clone());
    let found = clusters.get_opt(name).await.map_err(|error| host(&error))?;
    match found {
        None => {
            match clusters.create(&PostParams::default(), &new_cluster(name, labels)).await {
                Ok(_) => {}
                // Somebody else makes it at this moment.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(host(&error)),
            }
        }
        Some(cluster) => {
            check(&cluster)?;
            let there = |(key, value): (&String, &String)| cluster.labels().get(key) == Some(value);
            if !labels.iter().all(there) {
                let patch = Patch::Merge(serde_json::json!({ "metadata": { "labels": labels } }));
                let patched = clusters.patch(name, &PatchParams::default(), &patch).await;
                patched.map_err(|error| host(&error))?;
            }
        }
    }
    invite_again(client, name, terms, now, rng).await
}

/// Invites the agent of a cluster whose Cluster is there already.
pub async fn invite_again(
    client: &Client,
    name: &str,
    terms: &Terms,
    now: Timestamp,
    rng: &mut (impl CryptoRng + Send),
) -> Result<Invitation, InviteError> {
    let clusters: Api<Cluster> = Api::all(client.clone());
    let cluster = clusters.get_opt(name).await.map_err(|error| host(&error))?;
    let cluster = cluster.ok_or_else(|| InviteError::Absent(name.to_owned()))?;
    check(&cluster)?;
    let announced = announcement::announced(client).await.map_err(|error| host(&error))?;
    let (tower, image) = announced.ok_or(InviteError::NoTower)?;
    let token = store::mint(client, &cluster, terms.lifetime, now, rng).await?;
    Ok(Invitation {
        cluster: name.to_owned(),
        server: tower.server,
        ca: tower.ca,
        token,
        image: terms.image.clone().or(image).unwrap_or_else(manifest::default_image),
        replicas: terms.replicas,
        role: terms.role.clone(),
    })
}

fn check(cluster: &Cluster) -> Result<(), InviteError> {
    let name = cluster.name_any();
    if cluster.is_host() || !cluster.is_proxied() {
        Err(InviteError::Direct(name))
    } else if cluster.metadata.deletion_timestamp.is_some() {
        Err(InviteError::Leaving(name))
    } else {
        Ok(())
    }
}

fn new_cluster(name: &str, labels: BTreeMap<String, String>) -> Cluster {
    let spec = ClusterSpec {
        join_federation: true,
        enable: true,
        connection: Connection { r#type: Some(ConnectionType::Proxy), ..Connection::default() },
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::new(name, spec);
    cluster.metadata.labels = Some(labels).filter(|labels| !labels.is_empty());
    cluster.metadata.finalizers = Some(vec![names::FINALIZER_CLUSTER.to_owned()]);
    cluster
}
