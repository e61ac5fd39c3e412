//! What all controllers share: the caches, the client, and the ways Pods are claimed, made and deleted.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use hansa_machinery::selector::LabelSelector;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    Options,
    cache::{Cache, Kept, Project},
    client::{Client, Deletion, Error},
    deployment::rollout::SetFacts,
    object::{Key, Labels, Meta, items, labels, owner_reference, revision, short_hash},
    pod::{Claim, Pod, PodFacts, claim},
    schedule::NodeFacts,
};

/// How many writes of one controller are under way at a time.
const WRITES: usize = 16;

/// What is kept of a Service: whom it selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    pub(crate) selector: Labels,
}

impl ServiceFacts {
    pub(crate) fn selects(&self, of: &Labels) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(name, value)| of.get(name) == Some(value))
    }
}

impl Project for ServiceFacts {
    fn project(service: &Value) -> Self {
        Self { selector: labels(&service["spec"]["selector"]) }
    }
}

/// What is kept of a claim: whether it has a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClaimFacts {
    pub(crate) bound: bool,
}

impl Project for ClaimFacts {
    fn project(claim: &Value) -> Self {
        Self { bound: claim["status"]["phase"] == "Bound" }
    }
}

/// What is kept of a ControllerRevision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RevisionFacts {
    pub(crate) number: i64,
    pub(crate) template: u64,
}

impl Project for RevisionFacts {
    fn project(revision: &Value) -> Self {
        let template = crate::object::fingerprint(&revision["data"]["spec"]["template"]);
        Self { number: revision["revision"].as_i64().unwrap_or_default(), template }
    }
}

/// What all controllers share.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) options: Options,
    pub(crate) pods: Arc<Cache<PodFacts>>,
    pub(crate) nodes: Arc<Cache<NodeFacts>>,
    pub(crate) replica_sets: Arc<Cache<SetFacts>>,
    pub(crate) deployments: Arc<Cache<()>>,
    pub(crate) stateful_sets: Arc<Cache<()>>,
    pub(crate) daemon_sets: Arc<Cache<()>>,
    pub(crate) revisions: Arc<Cache<RevisionFacts>>,
    pub(crate) jobs: Arc<Cache<()>>,
    pub(crate) cron_jobs: Arc<Cache<()>>,
    pub(crate) services: Arc<Cache<ServiceFacts>>,
    pub(crate) slices: Arc<Cache<()>>,
    pub(crate) claims: Arc<Cache<ClaimFacts>>,
}

/// A kind of object that owns others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) resource: &'static str,
}

impl World {
    pub(crate) fn new(client: Client, options: Options) -> Arc<Self> {
        Arc::new(Self {
            client,
            options,
            pods: Cache::new("pods"),
            nodes: Cache::new("nodes"),
            replica_sets: Cache::new("replicasets.apps"),
            deployments: Cache::new("deployments.apps"),
            stateful_sets: Cache::new("statefulsets.apps"),
            daemon_sets: Cache::new("daemonsets.apps"),
            revisions: Cache::new("controllerrevisions.apps"),
            jobs: Cache::new("jobs.batch"),
            cron_jobs: Cache::new("cronjobs.batch"),
            services: Cache::new("services"),
            slices: Cache::new("endpointslices.discovery.k8s.io"),
            claims: Cache::new("persistentvolumeclaims"),
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Waits until every cache has its first list.
    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.replica_sets.synced().await;
        self.deployments.synced().await;
        self.stateful_sets.synced().await;
        self.daemon_sets.synced().await;
        self.revisions.synced().await;
        self.jobs.synced().await;
        self.cron_jobs.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
        self.claims.synced().await;
    }

    /// The Pods of an owner. It adopts those that its selector takes and nobody controls, and lets go of its own that
    /// the selector does not take any more.
    pub(crate) async fn pods_of(
        &self,
        kind: Kind,
        owner: &Value,
        selector: &LabelSelector,
    ) -> Result<Vec<Arc<Pod>>, Error> {
        let meta = Meta::of(owner);
        let of = |pod: &Pod| claim(pod, &meta.uid, selector.matches(&pod.meta.labels));
        let mut latest = 0;
        for pod in self
            .pods
            .of_namespace(&meta.key.namespace, |pod| matches!(of(pod), Claim::Adopt | Claim::Release))
        {
            let owners = match of(&pod) {
                Claim::Adopt if !meta.deleting => {
                    json!([owner_reference(kind.api_version, kind.kind, owner)])
                }
                Claim::Release => Value::Null,
                _ => continue,
            };
            latest = latest.max(self.reown("pods", &pod.meta, owners).await?);
        }
        self.pods.caught_up(latest).await?;
        Ok(self.pods.of_namespace(&meta.key.namespace, |pod| of(pod) == Claim::Mine))
    }

    /// Changes the owners of an object that is still as it was seen.
    pub(crate) async fn reown(
        &self,
        resource: &'static str,
        meta: &Meta,
        owners: Value,
    ) -> Result<u64, Error> {
        let patch = json!({"metadata": {
            "ownerReferences": owners, "uid": meta.uid, "resourceVersion": meta.revision.to_string(),
        }});
        Ok(revision(&self.client.merge(resource, &meta.key, &patch).await?))
    }

    /// Makes Pods and waits until they are seen.
    pub(crate) async fn create_pods(&self, pods: Vec<Value>) -> Result<(), Error> {
        let made = stream::iter(pods.into_iter().map(|pod| self.client.create("pods", pod)));
        let made: Vec<Value> = made.buffer_unordered(WRITES).try_collect().await?;
        let latest = made.iter().map(revision).max().unwrap_or_default();
        self.pods.caught_up(latest).await
    }

    /// Deletes Pods, as they were seen, and waits until that is seen.
    pub(crate) async fn delete_pods(&self, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let gone = stream::iter(pods.iter().cloned().map(|pod| async move {
            let how = Deletion { uid: Some(&pod.meta.uid), ..Deletion::default() };
            self.client.delete("pods", &pod.meta.key, how).await?;
            self.pods.forgotten(&pod.meta.key, &pod.meta.uid).await
        }));
        gone.buffer_unordered(WRITES).try_collect().await
    }

    /// Writes the status of an object, if it says anything new.
    pub(crate) async fn report(
        &self,
        resource: &'static str,
        mut object: Value,
        status: Value,
    ) -> Result<(), Error> {
        if object["status"] == status {
            return Ok(());
        }
        object["status"] = status;
        self.client.replace_status(resource, object).await.map(|_| ())
    }

    /// Records a template among its owner's ControllerRevisions: the name of the one that holds it.
    pub(crate) async fn record_revision(
        &self,
        kind: Kind,
        owner: &Value,
        in_use: &[String],
    ) -> Result<String, Error> {
        let meta = Meta::of(owner);
        let mut template = owner["spec"]["template"].clone();
        template["$patch"] = "replace".into();
        let print = crate::object::fingerprint(&template);
        let mut known =
            self.revisions.of_namespace(&meta.key.namespace, |known| known.meta.is_controlled_by(&meta.uid));
        known.sort_by_key(|known| known.data.number);
        let newest = known.last().map(|known| known.data.number).unwrap_or_default();
        let name = match known.iter().rev().find(|known| known.data.template == print) {
            Some(same) => {
                if same.data.number < newest {
                    let patch = json!({"revision": newest + 1});
                    let written =
                        self.client.merge("controllerrevisions.apps", &same.meta.key, &patch).await?;
                    self.revisions.caught_up(revision(&written)).await?;
                }
                same.meta.key.name.clone()
            }
            None => {
                let hash = short_hash(&template, owner["status"]["collisionCount"].as_i64());
                let name = format!("{}-{hash}", meta.key.name);
                let mut labels = owner["spec"]["template"]["metadata"]["labels"].clone();
                if !labels.is_object() {
                    labels = json!({});
                }
                labels["controller-revision-hash"] = hash.into();
                let written = self.client.create(
                    "controllerrevisions.apps",
                    json!({
                        "apiVersion": "apps/v1", "kind": "ControllerRevision",
                        "metadata": {
                            "name": name, "namespace": meta.key.namespace, "labels": labels,
                            "ownerReferences": [owner_reference(kind.api_version, kind.kind, owner)],
                        },
                        "data": {"spec": {"template": template}},
                        "revision": newest + 1,
                    }),
                );
                self.revisions.caught_up(revision(&written.await?)).await?;
                name
            }
        };
        let keep =
            usize::try_from(owner["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10)).unwrap_or_default();
        let idle = known
            .iter()
            .filter(|known| known.meta.key.name != name && !in_use.contains(&known.meta.key.name));
        let idle: Vec<&Arc<Kept<RevisionFacts>>> = idle.collect();
        for old in idle.iter().take(idle.len().saturating_sub(keep)) {
            self.client.delete("controllerrevisions.apps", &old.meta.key, Deletion::default()).await?;
        }
        Ok(name)
    }

    /// The template that a ControllerRevision holds.
    pub(crate) fn template_of(&self, namespace: &str, name: &str) -> Result<Option<Value>, Error> {
        let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
        let revision = self.client.get("controllerrevisions.apps", &key)?;
        Ok(revision.map(|mut revision| {
            let mut template = revision["data"]["spec"]["template"].take();
            template.as_object_mut().map(|template| template.remove("$patch"));
            template
        }))
    }
}

/// When the first of these Pods that are ready becomes available.
pub(crate) fn next_available(pods: &[Arc<Pod>], min_ready: i64, now: Timestamp) -> Option<Duration> {
    let waiting = pods.iter().filter(|pod| pod.data.ready && !pod.data.is_available(min_ready, now));
    let left = waiting.map(|pod| min_ready - now.duration_since(pod.data.ready_since).as_secs());
    left.min().map(|seconds| Duration::from_secs(seconds.max(1).unsigned_abs()))
}

/// The zone that a node says it is in.
pub(crate) fn zone_of(world: &World, node: &str) -> Option<String> {
    let key = Key { namespace: String::new(), name: node.to_owned() };
    world.nodes.get(&key)?.meta.labels.get("topology.kubernetes.io/zone").cloned()
}

/// Names of the claims that a Pod's volumes need.
pub(crate) fn claims_of(spec: &Value) -> impl Iterator<Item = &str> {
    items(&spec["volumes"]).iter().filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
}
