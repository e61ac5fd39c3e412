//! The families of metrics: their names, labels and buckets.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// The buckets KubeFed has for everything but reconciliations.
const DURATIONS: [f64; 21] = [
    0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 12.5, 15.0, 17.5, 20.0, 22.5, 25.0, 27.5, 30.0, 50.0,
    75.0, 100.0, 1000.0,
];
/// The buckets of `controller_runtime_reconcile_time_seconds`, as every controller on controller-runtime has them.
const RECONCILES: [f64; 40] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25,
    1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0,
    50.0, 60.0,
];
/// What passes a tunnel takes a millisecond where nothing is far away.
const DIALS: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// There is one histogram a member, so it has few buckets.
const REQUESTS: [f64; 8] = [0.005, 0.02, 0.1, 0.5, 1.0, 3.0, 10.0, 30.0];

pub(crate) type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ByController {
    pub(crate) controller: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ByResult {
    pub(crate) controller: String,
    pub(crate) result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ByAction {
    pub(crate) action: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ByCluster {
    pub(crate) state: &'static str,
    pub(crate) cluster: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ByState {
    pub(crate) state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ByMember {
    pub(crate) cluster: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ByName {
    pub(crate) name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ByDirection {
    pub(crate) cluster: String,
    pub(crate) direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ByReason {
    pub(crate) reason: &'static str,
}

pub(crate) struct Families {
    pub(crate) clusters: Family<ByCluster, Gauge>,
    pub(crate) joined: Gauge,
    pub(crate) join: Histogram,
    pub(crate) unjoin: Histogram,
    pub(crate) probes: Histogram,
    pub(crate) connections: Histogram,
    pub(crate) federated: Histogram,
    pub(crate) dispatch: Histograms<ByAction>,
    pub(crate) former_time: Histograms<ByController>,
    pub(crate) quantile_sum: Family<ByController, Gauge<f64, AtomicU64>>,
    pub(crate) quantile_count: Family<ByController, Gauge>,
    pub(crate) reconciles: Family<ByResult, Counter>,
    pub(crate) errors: Family<ByController, Counter>,
    pub(crate) time: Histograms<ByController>,
    pub(crate) workers: Family<ByController, Gauge>,
    pub(crate) active: Family<ByController, Gauge>,
    pub(crate) queue: Family<ByName, Gauge>,
    pub(crate) members: Family<ByState, Gauge>,
    pub(crate) requests: Histograms<ByMember>,
    pub(crate) placements: Family<ByController, Gauge>,
    pub(crate) leader: Gauge,
    pub(crate) agents: Family<ByMember, Gauge>,
    pub(crate) streams: Family<ByMember, Gauge>,
    pub(crate) bytes: Family<ByDirection, Counter>,
    pub(crate) silence: Family<ByMember, Gauge<f64, AtomicU64>>,
    pub(crate) handshakes: Histogram,
    pub(crate) waits: Histogram,
    pub(crate) dials: Histogram,
    pub(crate) rejections: Family<ByReason, Counter>,
}

fn durations() -> Histogram {
    Histogram::new(DURATIONS)
}

impl Families {
    /// Registers everything. Names of counters are given without `_total`, which the exposition adds.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        fn one<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
            registry.register(name, help, metric.clone());
            metric
        }
        let r = registry;
        Self {
            clusters: one(r, "kubefedcluster_total", "Whether a cluster is in a state", Family::default()),
            joined: one(r, "joined_cluster_total", "Clusters that are registered", Gauge::default()),
            join: one(r, "join_cluster_duration_seconds", "Time taken to join a cluster", durations()),
            unjoin: one(
                r,
                "unjoin_cluster_duration_seconds",
                "Time taken to take a cluster out",
                durations(),
            ),
            probes: one(
                r,
                "cluster_health_status_duration_seconds",
                "Time taken to probe the health of a cluster",
                durations(),
            ),
            connections: one(
                r,
                "cluster_client_connection_duration_seconds",
                "Time taken to make a client for a cluster",
                durations(),
            ),
            federated: one(
                r,
                "reconcile_federated_resources_duration_seconds",
                "Deprecated: time taken to reconcile a federated object",
                durations(),
            ),
            dispatch: one(
                r,
                "dispatch_operation_duration_seconds",
                "Time taken by an operation in a member",
                Family::new_with_constructor(durations as fn() -> Histogram),
            ),
            former_time: one(
                r,
                "controller_runtime_reconcile_duration_seconds",
                "Deprecated: time taken by a reconciliation",
                Family::new_with_constructor(durations as fn() -> Histogram),
            ),
            // KubeFed's summary has no quantiles either: only a sum and a count.
            quantile_sum: one(
                r,
                "controller_runtime_reconcile_quantile_seconds_sum",
                "Deprecated: time taken by all reconciliations",
                Family::default(),
            ),
            quantile_count: one(
                r,
                "controller_runtime_reconcile_quantile_seconds_count",
                "Deprecated: number of reconciliations",
                Family::default(),
            ),
            reconciles: one(
                r,
                "controller_runtime_reconcile",
                "Number of reconciliations by what came of them",
                Family::default(),
            ),
            errors: one(
                r,
                "controller_runtime_reconcile_errors",
                "Number of reconciliations that failed",
                Family::default(),
            ),
            time: one(
                r,
                "controller_runtime_reconcile_time_seconds",
                "Time taken by a reconciliation",
                Family::new_with_constructor((|| Histogram::new(RECONCILES)) as fn() -> Histogram),
            ),
            workers: one(
                r,
                "controller_runtime_max_concurrent_reconciles",
                "How many reconciliations may run at once",
                Family::default(),
            ),
            active: one(
                r,
                "controller_runtime_active_workers",
                "How many reconciliations run now",
                Family::default(),
            ),
            queue: one(r, "workqueue_depth", "How many objects wait to be looked at", Family::default()),
            members: one(r, "hansa_members", "Members by state", Family::default()),
            requests: one(
                r,
                "hansa_member_request_duration_seconds",
                "Time taken by a request to a member, answered or given up",
                Family::new_with_constructor((|| Histogram::new(REQUESTS)) as fn() -> Histogram),
            ),
            placements: one(
                r,
                "hansa_placements",
                "Copies of federated objects in members",
                Family::default(),
            ),
            leader: one(r, "hansa_leader", "Whether this process leads", Gauge::default()),
            agents: one(r, "hansa_tower_agents", "Connected agents of a cluster", Family::default()),
            streams: one(
                r,
                "hansa_tower_streams",
                "Requests under way through a cluster's agents",
                Family::default(),
            ),
            bytes: one(
                r,
                "hansa_tower_bytes",
                "Bytes that passed between tower and agents, as seen from the tower",
                Family::default(),
            ),
            silence: one(
                r,
                "hansa_tower_heartbeat_age_seconds",
                "How long ago the most silent of a cluster's agents was heard",
                Family::default(),
            ),
            handshakes: one(
                r,
                "hansa_tower_handshake_duration_seconds",
                "Time from an agent's request to connect until its tunnel stands",
                Histogram::new(REQUESTS),
            ),
            waits: one(
                r,
                "hansa_tower_wait_duration_seconds",
                "Time a request waited for an agent to connect",
                Histogram::new(REQUESTS),
            ),
            dials: one(
                r,
                "hansa_tower_dial_duration_seconds",
                "Time from sending a request down a tunnel until its answer begins",
                Histogram::new(DIALS),
            ),
            rejections: one(
                r,
                "hansa_tower_rejections",
                "What the tower refused, by reason",
                Family::default(),
            ),
        }
    }
}
