//! `scheduling.kubefed.io/v1alpha1 ReplicaSchedulingPreference` (`spec/kubefed.md §1.6`).

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many replicas there are in total, and how the members share them.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "scheduling.kubefed.io",
    version = "v1alpha1",
    kind = "ReplicaSchedulingPreference",
    plural = "replicaschedulingpreferences",
    singular = "replicaschedulingpreference",
    shortname = "rsp",
    namespaced,
    status = "ReplicaSchedulingPreferenceStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaSchedulingPreferenceSpec {
    /// The federated kind that is scheduled; the object has the preference's own name and namespace.
    pub target_kind: String,
    /// The sum of replicas.
    pub total_replicas: i32,
    /// Whether running replicas may move.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebalance: bool,
    /// Whether only clusters that the object's own selector chooses take part.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub intersect_with_cluster_selector: bool,
    /// The share of each cluster, by name; `*` speaks for all that are not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<String, ClusterPreferences>,
}

/// The share of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterPreferences {
    /// No fewer than this, if there are enough.
    #[serde(skip_serializing_if = "is_zero")]
    pub min_replicas: i64,
    /// No more than this; unbounded if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i64>,
    /// The part of what remains.
    #[serde(skip_serializing_if = "is_zero")]
    pub weight: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Empty, as in the original.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaSchedulingPreferenceStatus {}
