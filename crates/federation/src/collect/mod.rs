//! What the copies of one type are like in the members: whether they are available, and their status as it is (`spec/kubefed.md §2.8`).
//!
//! A watch with bodies is opened only for the types whose status somebody wants to know: those that have workloads, for the condition
//! `Available`, and those whose statuses are collected. All others cost nothing here.

mod glimpse;
pub(crate) mod health;
pub(crate) mod normal;
mod pace;
mod service;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use hansa_cluster::statuses::{Change, Subject};
use hansa_cluster::{ObjectKey, Sighting, Statuses};
use kube::api::DynamicObject;
use tokio::time::Instant;

use crate::conditions::Written;
use crate::engine::{Engine, Shared};
use crate::federated::Federated;
use crate::key::Key;
use crate::plan::Work;
use crate::report::{self, Outcome};
use crate::status::{Propagation, Remote, Sight};
use crate::types::TypeConfig;
use crate::version::Record;
use glimpse::Glimpse;
use health::Source;
use pace::Pace;
use service::ServiceStatuses;

/// Collects for one type.
pub(crate) struct Collector {
    source: Source,
    /// Whether statuses are collected as they are.
    raw: bool,
    /// Whether the type never has a status: then there is none to be collected, and none to be missing.
    statusless: bool,
    /// The host's CRD has no place for a `remoteStatus`.
    pruned: AtomicBool,
    services: Option<ServiceStatuses>,
    statuses: OnceLock<Statuses<Glimpse>>,
    pace: Pace,
}

/// What the members show of one object.
type Seen = BTreeMap<Arc<str>, Sighting<Glimpse>>;

impl Collector {
    /// A collector that has not begun.
    pub(crate) fn new(types: &TypeConfig, shared: &Shared) -> Self {
        let services =
            types.service_status(shared.raw_status).map(|resource| ServiceStatuses::new(shared, resource));
        Self {
            source: health::source(&types.target),
            raw: shared.raw_status && types.collects,
            statusless: health::never_has_status(&types.target),
            pruned: AtomicBool::new(false),
            services,
            statuses: OnceLock::new(),
            pace: Pace::default(),
        }
    }

    pub(crate) fn collects(&self) -> bool {
        self.raw && !self.statusless && !self.pruned.load(Ordering::Relaxed)
    }

    fn look(&self, target: &Key) -> Seen {
        self.statuses.get().map(|statuses| statuses.look(&target.namespace, &target.name)).unwrap_or_default()
    }

    /// How long a write of the status has to wait.
    pub(crate) fn hold(&self, key: &Key, written: &Written) -> Option<Duration> {
        self.pace.hold(key, written.urgent, Instant::now())
    }

    /// Learns from what became of a status that was written: if no `remoteStatus` came through, none ever will.
    pub(crate) fn learn(&self, written: &Written, object: &DynamicObject) {
        let has_remote = |clusters: Option<&Vec<serde_json::Value>>| {
            clusters.into_iter().flatten().any(|cluster| cluster["remoteStatus"].is_object())
        };
        if has_remote(written.status["clusters"].as_array())
            && !has_remote(object.data["status"]["clusters"].as_array())
            && !self.pruned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "the federated type's CRD has no status.clusters[].remoteStatus; statuses are not collected. \
                 Update the CRD with `hansa enable`"
            );
        }
    }
}

impl Engine {
    /// Begins to watch what has to be watched.
    pub(crate) fn collect(self: &Arc<Self>) {
        let collector = &self.collector;
        let raw = collector.collects() || collector.services.is_some();
        if !raw && collector.source == Source::Propagation {
            return;
        }
        let engine = Arc::downgrade(self);
        let subject = Subject {
            target: self.types.target.clone(),
            namespace: self.shared.only_namespace.clone().filter(|_| self.types.target_namespaced),
            ask: !health::is_kubernetes(&self.types.target.group),
            project: if raw { Glimpse::raw } else { Glimpse::of },
            changed: Box::new(move |change| sighted(&engine, change)),
        };
        let statuses = Statuses::start(&self.shared.registry, subject, &self.shutdown);
        let _ = collector.statuses.set(statuses);
    }

    /// The status to report of an object after a look at it.
    pub(crate) fn propagation(
        &self,
        key: &Key,
        federated: &Federated,
        work: &Work,
        outcomes: &BTreeMap<String, Outcome>,
    ) -> Propagation {
        let collector = &self.collector;
        let seen = collector.look(&self.types.target_of(key));
        let record = self.shared.records.get(&federated.uid);
        let sighting = |member: &str| collector.sighting(member, &seen, record.as_deref());
        let has_health = collector.source != Source::Propagation;
        report::status(federated.generation, work, outcomes, has_health, sighting)
    }

    /// Writes the FederatedServiceStatus, where there is one (`spec/kubefed.md §1.5`).
    pub(crate) async fn report_service(&self, key: &Key, federated: &Federated) {
        let Some(services) = &self.collector.services else { return };
        let seen = self.collector.look(&self.types.target_of(key));
        let snapshot = self.shared.registry.members();
        let ready = snapshot.members.iter().filter(|(_, member)| member.ready).map(|(name, _)| name.as_str());
        if let Some(pause) = services.report(&self.types, key, federated, ready.collect(), &seen).await {
            self.queue.add_after(key.clone(), pause);
        }
    }

    /// Whether what a member shows now is what was reported of it.
    fn is_reported(&self, key: &Key, member: &str, kept: Option<&Glimpse>) -> bool {
        let (Some(federated), Some(glimpse)) = (self.cache.get(key), kept) else { return false };
        let Some(reported) =
            federated.reported.as_ref().filter(|old| old.generation() == federated.generation)
        else {
            return false;
        };
        let collector = &self.collector;
        let hash = glimpse.status().filter(|_| collector.collects()).map_or(0, |status| status.hash);
        let is_same_health = collector.source == Source::Propagation
            || reported.entry(member).is_some_and(|entry| {
                entry.availability == Some(glimpse.availability)
                    && entry.detail().unwrap_or_default() == glimpse.detail()
            });
        collector.services.is_none() && is_same_health && reported.remote(member) == hash
    }
}

impl Collector {
    fn sighting(&self, member: &str, seen: &Seen, record: Option<&Record>) -> (Sight, Remote) {
        let sighting = seen.get(member);
        let version = record.and_then(|record| record.clusters.get(member));
        let sight = match self.source {
            Source::Propagation => Sight::Seen(crate::status::Availability::Available, "".into()),
            _ => glimpse::sight(sighting, version),
        };
        let remote = if self.collects() { glimpse::remote(sighting) } else { Remote::NotCollected };
        (sight, remote)
    }
}

/// Has an object looked at again when a member shows something new of it.
fn sighted(engine: &Weak<Engine>, change: Change<'_, Glimpse>) {
    let Some(engine) = engine.upgrade() else { return };
    let federated_of = |key: &ObjectKey| engine.types.federated_of(&Key::new(&key.namespace, &key.name));
    match change {
        Change::Object { member, key, kept } => {
            let key = federated_of(key);
            if !engine.is_reported(&key, member, kept) {
                engine.queue.add(key);
            }
        }
        Change::Statusless { .. } => engine.look_at_all(),
    }
}
