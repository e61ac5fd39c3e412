//! What a member's copy and its Pods say about how many replicas run there, and how many can (`spec/kubefed.md §2.10`).

use hansa_machinery::selector::LabelSelector;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

/// How long a Pod must have found no node before its replica is planned elsewhere: schedulers need a while, and replicas that come and go
/// help nobody.
const UNSCHEDULABLE: SignedDuration = SignedDuration::from_secs(60);

/// What is read of a copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// `spec.replicas`.
    pub replicas: i64,
    /// `status.readyReplicas`.
    pub ready: i64,
    /// `spec.selector`, as the query of a list; none if it does not tell its Pods from others'.
    pub selector: Option<String>,
}

impl Target {
    /// Reads a Deployment or ReplicaSet.
    pub fn of(object: &Value) -> Self {
        let selector = &object["spec"]["selector"];
        let selector = selector.is_object().then(|| LabelSelector::from_value(selector).ok()).flatten();
        Self {
            replicas: object["spec"]["replicas"].as_i64().unwrap_or_default(),
            ready: object["status"]["readyReplicas"].as_i64().unwrap_or_default(),
            selector: selector
                .filter(|selector| !selector.is_everything())
                .map(|selector| selector.to_string()),
        }
    }

    /// Whether every replica is ready, so that the Pods need not be asked.
    pub fn is_complete(&self) -> bool {
        self.replicas == self.ready
    }

    /// The count if [`Target::is_complete`].
    pub fn complete(&self) -> Count {
        Count { current: self.ready, ..Count::default() }
    }
}

/// What is read of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    metadata: PodMetadata,
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodMetadata {
    deletion_timestamp: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
    conditions: Option<Vec<PodCondition>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodCondition {
    r#type: String,
    status: String,
    reason: Option<String>,
    last_transition_time: Option<Timestamp>,
}

impl Pod {
    fn condition(&self, r#type: &str) -> Option<&PodCondition> {
        self.status.conditions.iter().flatten().find(|condition| condition.r#type == r#type)
    }

    /// Running with `Ready` being True: KubeFed took any `Ready` condition for it, even False (`spec/kubefed.md §6 (21)`).
    fn is_ready(&self) -> bool {
        self.status.phase == "Running" && self.condition("Ready").is_some_and(|ready| ready.status == "True")
    }

    /// Since when no node has room for it.
    fn unschedulable_since(&self) -> Option<Timestamp> {
        let scheduled = self.condition("PodScheduled").filter(|_| self.status.phase != "Running")?;
        let in_vain = scheduled.status == "False" && scheduled.reason.as_deref() == Some("Unschedulable");
        in_vain.then(|| scheduled.last_transition_time.unwrap_or(Timestamp::MAX))
    }
}

/// How many replicas run in a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many run.
    pub current: i64,
    /// How many can run, where more were tried in vain.
    pub capacity: Option<i64>,
    /// Whether some Pods are without a node, but not long enough yet to say that there is no room.
    pub undecided: bool,
}

impl Count {
    /// Counts Pods; what is being deleted counts no more.
    pub fn of(target: &Target, pods: &[Pod], now: Timestamp) -> Self {
        let alive = || pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let waits: Vec<Timestamp> = alive().filter_map(Pod::unschedulable_since).collect();
        let given_up = waits.iter().filter(|since| now.duration_since(**since) > UNSCHEDULABLE).count();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        Self {
            current: count(alive().filter(|pod| pod.is_ready()).count()),
            capacity: (given_up > 0).then(|| target.replicas.saturating_sub(count(given_up)).max(0)),
            undecided: given_up < waits.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: &str = "2030-01-01T00:10:00Z";

    fn pod(phase: &str, condition: Value) -> Value {
        json!({"metadata": {"name": "p"}, "status": {"phase": phase, "conditions": [condition]}})
    }

    fn waiting(since: &str) -> Value {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": since});
        pod("Pending", condition)
    }

    fn ready(status: &str) -> Value {
        pod("Running", json!({"type": "Ready", "status": status}))
    }

    fn count(replicas: i64, pods: Value) -> Count {
        let pods: Vec<Pod> = serde_json::from_value(pods).unwrap();
        Count::of(&Target { replicas, ready: 0, selector: None }, &pods, NOW.parse().unwrap())
    }

    #[test]
    fn a_copy_says_how_many_it_wants_has_and_which_pods_are_its_own() {
        let expressions = json!([{"key": "tier", "operator": "In", "values": ["a", "b"]}]);
        let target = Target::of(&json!({
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}, "matchExpressions": expressions}},
            "status": {"readyReplicas": 3},
        }));
        assert!(target.is_complete());
        assert_eq!(target.complete().current, 3);
        assert_eq!(target.selector.as_deref(), Some("app=web,tier in (a,b)"));
        for nothing in [json!({}), json!({"spec": {"selector": {}}})] {
            assert_eq!(Target::of(&nothing), Target { replicas: 0, ready: 0, selector: None });
        }
    }

    /// `spec/kubefed.md §6 (21)`
    #[test]
    fn a_running_pod_that_is_not_ready_does_not_count() {
        let counted = count(4, json!([ready("True"), ready("False"), ready("Unknown"), ready("True")]));
        assert_eq!(counted, Count { current: 2, capacity: None, undecided: false });
    }

    #[test]
    fn a_pod_that_is_being_deleted_does_not_count() {
        let mut leaving = ready("True");
        leaving["metadata"]["deletionTimestamp"] = NOW.into();
        assert_eq!(count(1, json!([leaving, ready("True")])).current, 1);
    }

    #[test]
    fn pods_without_a_node_for_a_minute_show_the_capacity() {
        let pods = json!([ready("True"), waiting("2030-01-01T00:08:59Z"), waiting("2030-01-01T00:00:00Z")]);
        assert_eq!(count(3, pods), Count { current: 1, capacity: Some(1), undecided: false });
    }

    #[test]
    fn pods_without_a_node_for_less_are_looked_at_again() {
        let pods = json!([
            waiting("2030-01-01T00:09:00Z"),
            waiting("2030-01-01T00:09:50Z"),
            waiting("2030-01-01T01:00:00Z")
        ]);
        assert_eq!(count(3, pods), Count { current: 0, capacity: None, undecided: true });
        let pods = json!([waiting("2030-01-01T00:09:50Z"), waiting("2030-01-01T00:00:00Z")]);
        assert_eq!(count(2, pods), Count { current: 0, capacity: Some(1), undecided: true });
    }

    #[test]
    fn a_pod_that_waits_for_another_reason_says_nothing_of_room() {
        let gated = json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastTransitionTime": "2030-01-01T00:00:00Z"});
        assert_eq!(count(1, json!([pod("Pending", gated)])), Count::default());
        assert_eq!(count(1, json!([{}, {"status": {"conditions": null}}])), Count::default());
    }

    /// `spec/kubefed.md §6 (27)`
    #[test]
    fn a_capacity_is_never_negative() {
        let long = "2030-01-01T00:00:00Z";
        assert_eq!(count(1, json!([waiting(long), waiting(long), waiting(long)])).capacity, Some(0));
    }
}
