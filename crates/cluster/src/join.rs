//! What the command line does to take a cluster in and out.

use std::time::Duration;

use futures::StreamExt;
use hansa_api::cluster::{Cluster, ClusterCondition, ClusterSpec, Connection, ConnectionType, condition};
use hansa_api::kubefed::KubeFedCluster;
use hansa_api::names;
use hansa_api::time::ByteString;
use hansa_transport::{KubeconfigError, Target, explain};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use crate::identity::{self, Conflict, Known};
use crate::remote::{Problem, Remote};
use crate::{Connect, member, register};

/// A cluster that is to become a member.
#[derive(Clone)]
pub struct JoinRequest {
    /// Its name in the federation.
    pub name: String,
    /// Its kubeconfig. Only the part of [`JoinRequest::context`] leaves this process; files it refers to must have been read into it
    /// ([`hansa_transport::kubeconfig::flatten`]).
    pub kubeconfig: String,
    /// The context in the kubeconfig; the current one if there is none.
    pub context: Option<String>,
    /// Labels that placements can select by.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Who runs the cluster, for people.
    pub provider: String,
    /// How long to wait until the member is ready.
    pub timeout: Duration,
}

/// Why a cluster did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The name cannot be one.
    #[error(
        "{0:?} cannot be the name of a cluster: use at most 54 lower-case letters, digits and '-', beginning and ending with a letter or digit"
    )]
    Name(String),
    /// There is such a Cluster.
    #[error("there is a cluster {0:?} already; choose another name, or remove it first (hansa unjoin {0})")]
    Exists(String),
    /// There is no such Cluster.
    #[error("there is no cluster {0:?} to update; see: hansa get clusters")]
    Absent(String),
    /// The Cluster has no kubeconfig that could be another.
    #[error(
        "cluster {0:?} is connected by agent and has no kubeconfig; for a new manifest of its agent: hansa join {0} --agent"
    )]
    ByAgent(String),
    /// The kubeconfig cannot be used.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// The cluster cannot be reached, or does not let us do what is needed.
    #[error(transparent)]
    Member(#[from] Problem),
    /// It is the host, or a member already.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The host did not do what it was asked.
    #[error("the host: {0}")]
    Host(String),
    /// The Cluster was made, and is not getting ready.
    #[error(
        "cluster {name:?} was registered but cannot be used: {message} (to take it out again: hansa unjoin {name})"
    )]
    Failed {
        /// Its name.
        name: String,
        /// What its condition says.
        message: String,
    },
    /// It takes too long.
    #[error(
        "cluster {name:?} was registered but is not ready after {after:?}: {last}; see: kubectl get cluster {name} -o yaml"
    )]
    Timeout {
        /// Its name.
        name: String,
        /// How long it was waited.
        after: Duration,
        /// What its condition said last.
        last: String,
    },
}

/// What goes on while one waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The cluster is being looked at, and nothing has been written.
    Checking,
    /// The Cluster was made.
    Registered,
    /// What its condition says now.
    Waiting(String),
    /// It is a member.
    Ready {
        /// Its Kubernetes version.
        version: String,
    },
}

fn host_error(error: &kube::Error) -> JoinError {
    JoinError::Host(explain(error))
}

/// A name that can stand in a path and, with `-kubesphere` after it, be that of a ServiceAccount's label (RFC 1123).
pub fn valid_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=54).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Looks at everything that can be looked at before a cluster is taken in; nothing is written. Gives its kubeconfig, reduced to what is needed.
pub async fn examine(host: &Client, connect: &Connect, request: &JoinRequest) -> Result<String, JoinError> {
    let name = &request.name;
    if !valid_name(name) {
        return Err(JoinError::Name(name.clone()));
    }
    let target = Target::from_kubeconfig(&request.kubeconfig, request.context.as_deref())?;
    let kubeconfig = hansa_transport::kubeconfig::minify(&request.kubeconfig, request.context.as_deref())?;
    let clusters: Api<Cluster> = Api::all(host.clone());
    let there = clusters.list(&ListParams::default()).await.map_err(|error| host_error(&error))?;
    if there.items.iter().any(|cluster| cluster.name_any() == *name) {
        return Err(JoinError::Exists(name.clone()));
    }
    let remote = Remote::connect(connect, target)?;
    let found = remote.uid().await?;
    let host_uid = member::uid(host.clone()).await.map_err(|error| host_error(&error))?;
    let known = |cluster: &Cluster| Known {
        name: cluster.name_any(),
        uid: cluster.status.as_ref().map(|status| status.uid.clone()).unwrap_or_default(),
        created: None,
    };
    let others: Vec<Known> = there.items.iter().filter(|cluster| !cluster.is_host()).map(known).collect();
    let me = Known { name: name.clone(), uid: String::new(), created: None };
    identity::check(&found, &me, &host_uid, &others)?;
    may_join(&remote).await?;
    Ok(kubeconfig)
}

/// Takes a cluster in: looks at everything that can be looked at before anything is written, makes the Cluster, and waits until it is ready or says why
/// not.
pub async fn join(
    host: Client,
    connect: &Connect,
    request: JoinRequest,
    mut progress: impl FnMut(Progress),
) -> Result<Cluster, JoinError> {
    progress(Progress::Checking);
    let kubeconfig = examine(&host, connect, &request).await?;
    let name = request.name.clone();
    let clusters: Api<Cluster> = Api::all(host);
    let spec = ClusterSpec {
        join_federation: true,
        enable: true,
        provider: request.provider,
        connection: Connection {
            r#type: Some(ConnectionType::Direct),
            kubeconfig: Some(ByteString(kubeconfig.into_bytes())),
            ..Connection::default()
        },
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::new(&name, spec);
    cluster.metadata.labels = Some(request.labels).filter(|labels| !labels.is_empty());
    cluster.metadata.finalizers = Some(vec![names::FINALIZER_CLUSTER.to_owned()]);
    clusters.create(&PostParams::default(), &cluster).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 409 => JoinError::Exists(name.clone()),
        error => host_error(&error),
    })?;
    progress(Progress::Registered);
    wait(&clusters, &name, request.timeout, progress).await
}

/// Gives a member a new kubeconfig, such as one whose certificate lasts longer, and waits until it is in use. It must be of the same cluster;
/// nothing is written otherwise.
pub async fn update(
    host: Client,
    connect: &Connect,
    request: JoinRequest,
    mut progress: impl FnMut(Progress),
) -> Result<Cluster, JoinError> {
    let name = request.name;
    let target = Target::from_kubeconfig(&request.kubeconfig, request.context.as_deref())?;
    let kubeconfig = hansa_transport::kubeconfig::minify(&request.kubeconfig, request.context.as_deref())?;
    progress(Progress::Checking);
    let clusters: Api<Cluster> = Api::all(host);
    let cluster = clusters.get_opt(&name).await.map_err(|error| host_error(&error))?;
    let cluster = cluster.ok_or_else(|| JoinError::Absent(name.clone()))?;
    if cluster.is_host() {
        return Err(Conflict::IsHost.into());
    }
    if cluster.is_proxied() {
        return Err(JoinError::ByAgent(name));
    }
    let remote = Remote::connect(connect, target)?;
    let found = remote.uid().await?;
    let recorded = cluster.status.map(|status| status.uid).unwrap_or_default();
    if !recorded.is_empty() && recorded != found {
        return Err(Conflict::Changed { recorded, found }.into());
    }
    may_join(&remote).await?;
    let given = ByteString(kubeconfig.into_bytes());
    let patch = serde_json::json!({ "spec": { "connection": { "kubeconfig": given } } });
    let patched = clusters.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map_err(|error| host_error(&error))?;
    progress(Progress::Registered);
    wait(&clusters, &name, request.timeout, progress).await
}

/// Joining makes a ClusterRole with all rights, which only somebody who has them may.
async fn may_join(remote: &Remote) -> Result<(), JoinError> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some("*".to_owned()),
                resource: Some("*".to_owned()),
                verb: Some("*".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(remote.client.clone());
    let review = reviews.create(&PostParams::default(), &review).await.map_err(|error| {
        Problem::from_client("the rights of the kubeconfig's user cannot be told", &error)
    })?;
    if review.status.is_some_and(|status| status.allowed) {
        return Ok(());
    }
    let message = "the user of the kubeconfig does not have the rights of cluster-admin on the cluster, which joining needs; give a kubeconfig of an \
                   administrator (it is used to make a ServiceAccount, and to remove it)";
    Err(Problem::new("Forbidden", message).into())
}

/// What a Cluster says of its readiness.
enum Verdict {
    Ready(String),
    Failing(String),
    Underway(String),
}

fn verdict(cluster: &Cluster) -> Verdict {
    if cluster.spec.connection.kubeconfig.is_some() {
        return Verdict::Underway("the kubeconfig is being taken over".to_owned());
    }
    let ready: Option<&ClusterCondition> = cluster.condition(condition::READY);
    match ready {
        Some(ready) if ready.status == "True" => Verdict::Ready(
            cluster.status.as_ref().map(|status| status.kubernetes_version.clone()).unwrap_or_default(),
        ),
        Some(ready) => match ready.reason.as_str() {
            "Connecting" | "Joining" | "NotReady" | "Unreachable" | "NoKubeconfig" => {
                Verdict::Underway(ready.message.clone())
            }
            _ => Verdict::Failing(ready.message.clone()),
        },
        None => Verdict::Underway("waiting for the controller".to_owned()),
    }
}

async fn wait(
    clusters: &Api<Cluster>,
    name: &str,
    limit: Duration,
    mut progress: impl FnMut(Progress),
) -> Result<Cluster, JoinError> {
    let deadline = Instant::now() + limit;
    let mut stream = watcher::watch_object(clusters.clone(), name).boxed();
    let mut last =
        "waiting for the controller; check that hansa controller-manager (or hansa up) runs".to_owned();
    loop {
        let timeout = || JoinError::Timeout { name: name.to_owned(), after: limit, last: last.clone() };
        let event = tokio::time::timeout_at(deadline, stream.next()).await.map_err(|_| timeout())?;
        match event {
            Some(Ok(Some(cluster))) => match verdict(&cluster) {
                Verdict::Ready(version) => {
                    progress(Progress::Ready { version });
                    return Ok(cluster);
                }
                Verdict::Failing(message) => {
                    return Err(JoinError::Failed { name: name.to_owned(), message });
                }
                Verdict::Underway(message) => {
                    if message != last {
                        progress(Progress::Waiting(message.clone()));
                        last = message;
                    }
                }
            },
            Some(Ok(None)) => {
                let message = "it was removed again by somebody else".to_owned();
                return Err(JoinError::Failed { name: name.to_owned(), message });
            }
            // A watch that was interrupted is begun again; a moment's pause keeps it from spinning.
            Some(Err(error)) => {
                tracing::debug!(%error, "the watch of the cluster was interrupted");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            None => return Err(timeout()),
        }
    }
}

/// Why a cluster was not taken out.
#[derive(Debug, thiserror::Error)]
pub enum UnjoinError {
    /// There is none.
    #[error("there is no cluster {0:?}; see: hansa get clusters")]
    NotFound(String),
    /// It is the host.
    #[error("{0:?} is the host cluster, which cannot be removed")]
    IsHost(String),
    /// The host did not do what it was asked.
    #[error("the host: {0}")]
    Host(String),
    /// It takes too long.
    #[error(
        "cluster {name:?} is being removed but still there after {after:?}; check that hansa controller-manager (or hansa up) runs"
    )]
    Timeout {
        /// Its name.
        name: String,
        /// How long it was waited.
        after: Duration,
    },
}

/// Takes a member out, however it is: its workloads stay, and a dead member goes like any other.
pub async fn unjoin(host: Client, name: &str, limit: Duration) -> Result<(), UnjoinError> {
    let failed = |error: kube::Error| UnjoinError::Host(explain(&error));
    let clusters: Api<Cluster> = Api::all(host.clone());
    let Some(cluster) = clusters.get_opt(name).await.map_err(failed)? else {
        // One that was registered by other means (kubefedctl) has no Cluster.
        let registered: Api<KubeFedCluster> = Api::namespaced(host.clone(), names::SYSTEM_NAMESPACE);
        let Some(registered) = registered.get_opt(name).await.map_err(failed)? else {
            return Err(UnjoinError::NotFound(name.to_owned()));
        };
        let secrets =
            Api::<k8s_openapi::api::core::v1::Secret>::namespaced(host.clone(), names::SYSTEM_NAMESPACE);
        register::remove(&host, name).await.map_err(failed)?;
        return register::delete(&secrets, &registered.spec.secret_ref.name).await.map_err(failed);
    };
    if cluster.is_host() {
        return Err(UnjoinError::IsHost(name.to_owned()));
    }
    match clusters.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        outcome => outcome.map_err(failed)?,
    };
    let uid = cluster.uid();
    let deadline = Instant::now() + limit;
    let mut stream = watcher::watch_object(clusters, name).boxed();
    loop {
        match tokio::time::timeout_at(deadline, stream.next()).await {
            Err(_) => return Err(UnjoinError::Timeout { name: name.to_owned(), after: limit }),
            Ok(None | Some(Ok(None))) => return Ok(()),
            Ok(Some(Ok(Some(now)))) if now.uid() != uid => return Ok(()),
            Ok(Some(Ok(Some(_)))) => {}
            Ok(Some(Err(_))) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_stand_in_paths() {
        for name in ["m1", "a", "1", "a-b", &"a".repeat(54)] {
            assert!(valid_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a.b", "a/b", "a_b", "..", "é", &"a".repeat(55)] {
            assert!(!valid_name(name), "{name}");
        }
    }
}
