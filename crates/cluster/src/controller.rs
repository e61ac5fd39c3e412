//! The cluster controller: `Cluster` objects become registered members (`spec/kubesphere-multicluster.md §1.5, §1.6`).
//!
//! Each Cluster has a task of its own, so that one that does not answer costs the others nothing. The host's own object is made here and made
//! again if somebody removes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hansa_api::cluster::{Cluster, ClusterSpec, Connection, ConnectionType};
use hansa_api::names;
use hansa_metrics::Metrics;
use hansa_transport::{Target, explain};
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agents::{self, Tower};
use crate::listed::Listed;
use crate::reconcile::{self, Cause};
use crate::{Connect, Registry, member};

/// The settings of the controller.
#[derive(Clone)]
pub struct ControllerOptions {
    /// The name of the host's own Cluster.
    pub host_name: String,
    /// How the host itself is reached, if that is known: shown in its Cluster, and used if it is to be a member of its own federation.
    pub host: Option<Target>,
    /// How members are reached.
    pub connect: Connect,
    /// How often a Cluster that is well is looked at again: node count, certificate expiry.
    pub resync: Duration,
    /// What is counted.
    pub metrics: Metrics,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            host_name: names::HOST_CLUSTER.to_owned(),
            host: None,
            connect: crate::connect(),
            resync: Duration::from_secs(120),
            metrics: Metrics::default(),
        }
    }
}

/// What the tasks share.
pub(crate) struct Shared {
    pub(crate) host: Client,
    pub(crate) host_uid: String,
    pub(crate) registry: Registry,
    pub(crate) options: ControllerOptions,
    /// The tower, through which clusters are reached that are connected by agent.
    pub(crate) tower: watch::Receiver<Arc<Tower>>,
    /// All Clusters, for questions of identity.
    pub(crate) clusters: std::sync::RwLock<BTreeMap<String, Arc<Cluster>>>,
}

struct Kept {
    tell: watch::Sender<Arc<Cluster>>,
    stop: CancellationToken,
}

/// Runs the controller until `stop`. Exactly one process may run it (see [`crate::leader`]).
pub async fn run(host: Client, registry: Registry, options: ControllerOptions, stop: CancellationToken) {
    if stop.run_until_cancelled(control(host, registry, options, stop.clone())).await.is_none() {
        tracing::debug!("the cluster controller has stopped");
    }
}

async fn control(host: Client, registry: Registry, options: ControllerOptions, stop: CancellationToken) {
    let mut pause = Duration::from_millis(100);
    let mut complaint = String::new();
    let host_uid = loop {
        match member::uid(host.clone()).await {
            Ok(uid) => break uid,
            Err(error) => {
                let text = explain(&error);
                if text != complaint {
                    tracing::warn!(
                        error = text,
                        "the host cannot be identified, so no Cluster is taken in; trying again"
                    );
                    complaint = text;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(30));
            }
        }
    };
    // What is said of a Cluster depends on its member, so nothing is said before the members are known.
    let mut changes = registry.changes();
    while !registry.members().synced {
        if changes.changed().await.is_err() {
            return;
        }
    }
    let api: Api<Cluster> = Api::all(host.clone());
    let tower = agents::follow(host.clone(), stop.clone());
    let shared =
        Arc::new(Shared { host, host_uid, registry, options, tower, clusters: std::sync::RwLock::default() });
    let mut events = watcher(api.clone(), watcher::Config::default()).default_backoff().boxed();
    let mut clusters: Listed<Arc<Cluster>> = Listed::default();
    let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
    complaint.clear();
    while let Some(event) = events.next().await {
        match event {
            Err(error) => complain(&mut complaint, &error),
            Ok(event) => {
                if !clusters.apply(event, |cluster| Some(Arc::new(cluster))) || !clusters.synced {
                    continue;
                }
                *shared.clusters.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
                    clusters.known.clone();
                if !clusters.known.values().any(|cluster| cluster.is_host()) {
                    ensure_host(&shared, &api, clusters.known.get(&shared.options.host_name)).await;
                }
                settle(&shared, &clusters.known, &mut kept, &stop);
            }
        }
    }
}

/// Says once what keeps Clusters from being watched. A host of KubeFed alone has no such type, and its chart gives no right to it
/// (`spec/kubefed.md §0 (12)`): there is nothing to do then, and nothing amiss.
fn complain(complaint: &mut String, error: &watcher::Error) {
    let text = error.to_string();
    if text == *complaint {
        return;
    }
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
            tracing::info!(
                "Cluster objects are not served here, or may not be read ({}): only KubeFedClusters are members",
                status.message
            );
        }
        _ => tracing::warn!(%error, "the Clusters of the host cannot be watched; trying again"),
    }
    *complaint = text;
}

fn settle(
    shared: &Arc<Shared>,
    clusters: &BTreeMap<String, Arc<Cluster>>,
    kept: &mut BTreeMap<String, Kept>,
    stop: &CancellationToken,
) {
    kept.retain(|name, task| {
        let there = clusters.contains_key(name);
        if !there {
            task.stop.cancel();
        }
        there
    });
    for (name, cluster) in clusters {
        match kept.get(name) {
            Some(task) => {
                task.tell.send_if_modified(|told| {
                    let differs = told != cluster;
                    *told = cluster.clone();
                    differs
                });
            }
            None => {
                let (tell, told) = watch::channel(cluster.clone());
                let stop = stop.child_token();
                tokio::spawn(task(shared.clone(), name.clone(), told, stop.clone()));
                kept.insert(name.clone(), Kept { tell, stop });
            }
        }
    }
}

/// The host's own Cluster: made where there is none, and given back its label where it was lost (in the original it was not repaired).
async fn ensure_host(shared: &Shared, api: &Api<Cluster>, namesake: Option<&Arc<Cluster>>) {
    let outcome = match namesake {
        Some(cluster)
            if cluster.spec.connection.kubeconfig.is_some() || has_identity_of_another(cluster, shared) =>
        {
            tracing::error!(
                cluster = %cluster.name_any(),
                "a member has the name of the host's own Cluster; remove it (hansa unjoin), or give the host another name"
            );
            return;
        }
        Some(cluster) => {
            let patch = serde_json::json!({ "metadata": { "labels": { names::LABEL_HOST: "" } } });
            api.patch(
                &cluster.name_any(),
                &kube::api::PatchParams::default(),
                &kube::api::Patch::Merge(patch),
            )
            .await
        }
        None => api.create(&PostParams::default(), &host_cluster(&shared.options)).await,
    };
    match outcome {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => tracing::warn!(error = %explain(&error), "the Cluster of the host cannot be written"),
    }
}

fn has_identity_of_another(cluster: &Cluster, shared: &Shared) -> bool {
    cluster.status.as_ref().is_some_and(|status| !status.uid.is_empty() && status.uid != shared.host_uid)
}

fn host_cluster(options: &ControllerOptions) -> Cluster {
    let spec = ClusterSpec {
        enable: true,
        provider: "hansa".to_owned(),
        connection: Connection {
            r#type: Some(ConnectionType::Direct),
            kubernetes_api_endpoint: options
                .host
                .as_ref()
                .map(|host| host.endpoint.to_string())
                .unwrap_or_default(),
            ..Connection::default()
        },
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::new(&options.host_name, spec);
    let owned = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    };
    cluster.metadata.labels = owned(&[(names::LABEL_HOST, ""), (names::LABEL_KUBESPHERE_MANAGED, "true")]);
    cluster.metadata.annotations = owned(&[(
        names::ANNOTATION_DESCRIPTION,
        "The host of this federation. Use it to manage clusters, and run workloads on members.",
    )]);
    cluster.metadata.finalizers = Some(vec![names::FINALIZER_CLUSTER.to_owned()]);
    cluster
}

/// Looks at one Cluster whenever it, or what is known of its member, changes, and when it is time again.
async fn task(
    shared: Arc<Shared>,
    name: String,
    mut told: watch::Receiver<Arc<Cluster>>,
    stop: CancellationToken,
) {
    let mut changes = shared.registry.changes();
    let mut tower = shared.tower.clone();
    let mut memory = reconcile::Memory::default();
    let mut cause = Cause::Changed;
    loop {
        let cluster = told.borrow_and_update().clone();
        changes.mark_unchanged();
        tower.mark_unchanged();
        let seen = reconcile::seen(&shared, &name);
        let work = reconcile::reconcile(&shared, &cluster, &mut memory, cause);
        let Some(after) = stop.run_until_cancelled(work).await else { return };
        let due = tokio::time::sleep(after);
        tokio::pin!(due);
        cause = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = &mut due => break Cause::Due,
                changed = told.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break Cause::Changed;
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if reconcile::seen(&shared, &name) != seen {
                        break Cause::Changed;
                    }
                }
                changed = tower.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if reconcile::seen(&shared, &name) != seen {
                        break Cause::Changed;
                    }
                }
            }
        };
    }
}
