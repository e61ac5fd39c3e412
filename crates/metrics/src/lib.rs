//! What a process says about itself: metrics under KubeFed's names (`spec/kubefed.md §4`) and, with the prefix `hansa_`, under our own; and
//! the two plain HTTP endpoints that KubeFed's users scrape and probe.
//!
//! There is nothing global: a [`Metrics`] is handed to whoever has something to count. What is counted often holds its own [`Controller`] or
//! [`Member`], so that counting is an atomic addition or a short lock, and never a look-up. Label values are types, members, and a few fixed
//! words; objects never become labels.

mod exposition;
mod families;
mod process;
mod serve;
mod tower;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::families::{ByAction, ByCluster, ByController, ByMember, ByName, ByResult, ByState, Families};
pub use serve::{Bind, BindError, Ready, serve_health, serve_metrics, serve_numbers};
pub use tower::{Agents, Tower};

/// The metrics of one process. Clones are handles to the same.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    families: Families,
    dispatch: [Histogram; 3],
    members: Mutex<BTreeMap<String, State>>,
}

/// How a member is, in the words of `kubefedcluster_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is well.
    Ready,
    /// It answers and is not well, or cannot be asked.
    NotReady,
    /// It does not answer.
    Offline,
}

impl State {
    const ALL: [Self; 3] = [Self::Ready, Self::NotReady, Self::Offline];

    fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "notready",
            Self::Offline => "offline",
        }
    }
}

/// What is done in a member, in the words of `dispatch_operation_duration_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// An object is made.
    Create,
    /// An object is changed.
    Update,
    /// An object is deleted.
    Delete,
}

impl Action {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Create, "create"), (Self::Update, "update"), (Self::Delete, "delete")];
}

/// What came of a reconciliation, in the words of `controller_runtime_reconcile_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is as it should be.
    Success,
    /// Something went wrong and is tried again.
    Error,
    /// Something is under way and is looked at again.
    NeedsRecheck,
    /// Not enough is known yet.
    NotSynced,
}

impl Outcome {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Success, "success"),
        (Self::Error, "error"),
        (Self::NeedsRecheck, "needs_recheck"),
        (Self::NotSynced, "not_synced"),
    ];
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        registry.register_collector(Box::new(process::Process));
        let dispatch =
            Action::ALL.map(|(_, action)| families.dispatch.get_or_create(&ByAction { action }).clone());
        for state in State::ALL {
            families.members.get_or_create(&ByState { state: state.word() }).set(0);
        }
        Self { inner: Arc::new(Inner { registry, families, dispatch, members: Mutex::default() }) }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Everything that is counted, in Prometheus' text format (version 0.0.4).
    pub fn text(&self) -> String {
        exposition::text(&self.inner.registry)
    }

    /// Says whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.inner.families.leader.set(leads.into());
    }

    /// Something was done in a member, successfully.
    pub fn dispatched(&self, action: Action, took: Duration) {
        let index = Action::ALL.iter().position(|(each, _)| *each == action).unwrap_or_default();
        self.inner.dispatch[index].observe(took.as_secs_f64());
    }

    /// A cluster was joined.
    pub fn joined(&self, took: Duration) {
        self.inner.families.join.observe(took.as_secs_f64());
    }

    /// A cluster was taken out.
    pub fn unjoined(&self, took: Duration) {
        self.inner.families.unjoin.observe(took.as_secs_f64());
    }

    /// The counters of a controller, which works on `workers` things at most at once.
    pub fn controller(&self, name: &str, workers: usize) -> Controller {
        let families = &self.inner.families;
        let by = ByController { controller: name.to_owned() };
        let of = |outcome: &'static str| {
            let by = ByResult { controller: name.to_owned(), result: outcome };
            families.reconciles.get_or_create(&by).clone()
        };
        families.workers.get_or_create(&by).set(i64::try_from(workers).unwrap_or(i64::MAX));
        Controller {
            outcomes: Outcome::ALL.map(|(_, word)| of(word)),
            errors: families.errors.get_or_create(&by).clone(),
            time: families.time.get_or_create(&by).clone(),
            former_time: families.former_time.get_or_create(&by).clone(),
            sum: families.quantile_sum.get_or_create(&by).clone(),
            count: families.quantile_count.get_or_create(&by).clone(),
            federated: families.federated.clone(),
            active: families.active.get_or_create(&by).clone(),
            queue: families.queue.get_or_create(&ByName { name: name.to_owned() }).clone(),
            placements: families.placements.get_or_create(&by).clone(),
        }
    }

    /// The counters of a member.
    pub fn member(&self, name: &str) -> Member {
        let requests = self.inner.families.requests.get_or_create(&ByMember { cluster: name.to_owned() });
        Member { name: name.to_owned(), requests: requests.clone(), metrics: self.clone() }
    }

    /// A member is registered no longer: nothing more is said of it.
    pub fn forget_member(&self, name: &str) {
        let families = &self.inner.families;
        for state in State::ALL {
            families.clusters.remove(&ByCluster { state: state.word(), cluster: name.to_owned() });
        }
        families.requests.remove(&ByMember { cluster: name.to_owned() });
        self.count_members(|members| {
            members.remove(name);
        });
    }

    fn count_members(&self, edit: impl FnOnce(&mut BTreeMap<String, State>)) {
        let mut members = self.inner.members.lock().unwrap_or_else(PoisonError::into_inner);
        edit(&mut members);
        let families = &self.inner.families;
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for state in State::ALL {
            let number = members.values().filter(|each| **each == state).count();
            families.members.get_or_create(&ByState { state: state.word() }).set(count(number));
        }
        families.joined.set(count(members.len()));
    }
}

/// The counters of one controller.
#[derive(Clone, Debug)]
pub struct Controller {
    outcomes: [Counter; 4],
    errors: Counter,
    time: Histogram,
    former_time: Histogram,
    sum: Gauge<f64, std::sync::atomic::AtomicU64>,
    count: Gauge,
    federated: Histogram,
    active: Gauge,
    queue: Gauge,
    placements: Gauge,
}

impl Controller {
    /// A reconciliation begins; it counts as ended when what is returned is finished, or dropped.
    pub fn begin(&self) -> Reconcile<'_> {
        self.active.inc();
        Reconcile { controller: self, began: Instant::now() }
    }

    /// How many things wait to be looked at.
    pub fn queued(&self, depth: usize) {
        self.queue.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// How many copies there are in members.
    pub fn placed(&self, copies: usize) {
        self.placements.set(i64::try_from(copies).unwrap_or(i64::MAX));
    }

    fn ended(&self, outcome: Outcome, took: Duration) {
        let index = Outcome::ALL.iter().position(|(each, _)| *each == outcome).unwrap_or_default();
        self.outcomes[index].inc();
        if outcome == Outcome::Error {
            self.errors.inc();
        }
        let seconds = took.as_secs_f64();
        self.time.observe(seconds);
        self.former_time.observe(seconds);
        self.federated.observe(seconds);
        self.sum.inc_by(seconds);
        self.count.inc();
    }
}

/// A reconciliation under way.
#[derive(Debug)]
pub struct Reconcile<'a> {
    controller: &'a Controller,
    began: Instant,
}

impl Reconcile<'_> {
    /// It has ended.
    pub fn finish(self, outcome: Outcome) {
        self.controller.ended(outcome, self.began.elapsed());
    }
}

impl Drop for Reconcile<'_> {
    fn drop(&mut self) {
        self.controller.active.dec();
    }
}

/// The counters of one member.
#[derive(Clone, Debug)]
pub struct Member {
    name: String,
    requests: Histogram,
    metrics: Metrics,
}

impl Member {
    /// How the member is.
    pub fn is(&self, state: State) {
        for each in State::ALL {
            let by = ByCluster { state: each.word(), cluster: self.name.clone() };
            self.metrics.inner.families.clusters.get_or_create(&by).set((each == state).into());
        }
        self.metrics.count_members(|members| {
            members.insert(self.name.clone(), state);
        });
    }

    /// A request to the member was answered, or given up.
    pub fn requested(&self, took: Duration) {
        self.requests.observe(took.as_secs_f64());
    }

    /// The member was probed.
    pub fn probed(&self, took: Duration) {
        self.metrics.inner.families.probes.observe(took.as_secs_f64());
        self.requested(took);
    }

    /// A client for the member was made.
    pub fn connected(&self, took: Duration) {
        self.metrics.inner.families.connections.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(metrics: &Metrics, line: &str) -> bool {
        metrics.text().lines().any(|each| each == line)
    }

    #[test]
    fn kubefeds_names_are_there_before_anything_happened() {
        let metrics = Metrics::default();
        metrics.controller("federateddeployment", 4);
        metrics.member("m1").is(State::Ready);
        let text = metrics.text();
        for name in [
            "kubefedcluster_total{state=\"ready\",cluster=\"m1\"} 1",
            "kubefedcluster_total{state=\"offline\",cluster=\"m1\"} 0",
            "joined_cluster_total 1",
            "join_cluster_duration_seconds_count 0",
            "unjoin_cluster_duration_seconds_count 0",
            "cluster_health_status_duration_seconds_count 0",
            "cluster_client_connection_duration_seconds_count 0",
            "reconcile_federated_resources_duration_seconds_count 0",
            "dispatch_operation_duration_seconds_count{action=\"create\"} 0",
            "dispatch_operation_duration_seconds_count{action=\"update\"} 0",
            "dispatch_operation_duration_seconds_count{action=\"delete\"} 0",
            "controller_runtime_reconcile_duration_seconds_count{controller=\"federateddeployment\"} 0",
            "controller_runtime_reconcile_quantile_seconds_count{controller=\"federateddeployment\"} 0",
            "controller_runtime_reconcile_total{controller=\"federateddeployment\",result=\"needs_recheck\"} 0",
            "controller_runtime_reconcile_errors_total{controller=\"federateddeployment\"} 0",
            "controller_runtime_reconcile_time_seconds_count{controller=\"federateddeployment\"} 0",
            "controller_runtime_max_concurrent_reconciles{controller=\"federateddeployment\"} 4",
            "controller_runtime_active_workers{controller=\"federateddeployment\"} 0",
            "workqueue_depth{name=\"federateddeployment\"} 0",
            "hansa_members{state=\"ready\"} 1",
            "hansa_leader 0",
        ] {
            assert!(text.lines().any(|line| line == name), "{name} is not in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }

    #[test]
    fn the_text_is_what_every_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.controller("c", 1).begin().finish(Outcome::Error);
        metrics.member("m1").is(State::NotReady);
        let text = metrics.text();
        assert!(!text.contains("# EOF"));
        for line in [
            "# TYPE controller_runtime_reconcile_total counter",
            "controller_runtime_reconcile_total{controller=\"c\",result=\"error\"} 1",
            "controller_runtime_reconcile_errors_total{controller=\"c\"} 1",
            "# TYPE kubefedcluster_total gauge",
        ] {
            assert!(text.lines().any(|each| each == line), "{line} is not in\n{text}");
        }
        // Every sample belongs to a family whose type was said before, and no family appears twice.
        let mut types = BTreeMap::new();
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{name} appears twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                let known =
                    types.contains_key(name) || family.is_some_and(|family| types.contains_key(family));
                assert!(known, "{line} has no type");
            }
        }
    }

    #[test]
    fn a_reconciliation_that_is_dropped_is_no_longer_active() {
        let metrics = Metrics::default();
        let controller = metrics.controller("c", 1);
        let running = controller.begin();
        assert!(has(&metrics, "controller_runtime_active_workers{controller=\"c\"} 1"));
        drop(running);
        assert!(has(&metrics, "controller_runtime_active_workers{controller=\"c\"} 0"));
        assert!(has(&metrics, "controller_runtime_reconcile_total{controller=\"c\",result=\"success\"} 0"));
    }

    #[test]
    fn of_a_member_that_left_nothing_is_said() {
        let metrics = Metrics::default();
        let member = metrics.member("m1");
        member.is(State::Ready);
        member.is(State::Offline);
        assert!(has(&metrics, "hansa_members{state=\"offline\"} 1"));
        assert!(has(&metrics, "hansa_members{state=\"ready\"} 0"));
        metrics.forget_member("m1");
        assert!(!metrics.text().contains("m1"));
        assert!(has(&metrics, "joined_cluster_total 0"));
    }
}
