//! What a Deployment's status says of its rollout (`kubectl rollout status` reads it).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::rollout::{Set, Wanted};
use crate::object::{condition, items, stamp, time};

/// What happened in this pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    Nothing,
    Created,
}

/// The status of a Deployment as it is now, and when it will be different by itself.
pub(crate) fn status(
    deployment: &Value,
    wanted: &Wanted,
    sets: &[Set],
    happened: Happened,
    now: Timestamp,
) -> (Value, Option<Duration>) {
    let old = &deployment["status"];
    let new = wanted.new_set(sets);
    let sum = |count: fn(&Set) -> i64| sets.iter().map(count).sum::<i64>();
    let available = sum(|set| set.facts.available);
    let counts = [
        ("replicas", sum(|set| set.facts.actual)),
        ("updatedReplicas", new.map_or(0, |new| new.facts.actual)),
        ("readyReplicas", sum(|set| set.facts.ready)),
        ("availableReplicas", available),
        ("unavailableReplicas", (sum(|set| set.facts.size) - available).max(0)),
        ("terminatingReplicas", sum(|set| set.facts.terminating)),
    ];
    let mut status = json!({"observedGeneration": deployment["metadata"]["generation"]});
    if !old["collisionCount"].is_null() {
        status["collisionCount"] = old["collisionCount"].clone();
    }
    for (name, count) in counts {
        if count > 0 || name == "terminatingReplicas" {
            status[name] = count.into();
        }
    }

    let mut conditions = Conditions { list: items(&old["conditions"]).to_vec(), now };
    if available >= wanted.replicas - wanted.unavailable() {
        conditions.set(
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        );
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set("Available", "False", "MinimumReplicasUnavailable", message);
    }
    let again = progress(deployment, wanted, new, &status, happened, &mut conditions);
    status["conditions"] = conditions.list.into();
    (status, again)
}

struct Conditions {
    list: Vec<Value>,
    now: Timestamp,
}

impl Conditions {
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let old = condition_of(&self.list, kind);
        if old.is_some_and(|old| {
            old["status"] == status && old["reason"] == reason && old["message"] == message
        }) {
            return;
        }
        self.touch(kind, status, reason, message);
    }

    /// Sets the condition with a new `lastUpdateTime`, by which the progress deadline is measured.
    fn touch(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let old = condition_of(&self.list, kind);
        let since = old.filter(|old| old["status"] == status).map(|old| old["lastTransitionTime"].clone());
        let new = json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastUpdateTime": stamp(self.now),
            "lastTransitionTime": since.unwrap_or_else(|| stamp(self.now).into()),
        });
        match self.list.iter_mut().find(|condition| condition["type"] == kind) {
            Some(condition) => *condition = new,
            None => self.list.push(new),
        }
    }
}

fn condition_of<'a>(list: &'a [Value], kind: &str) -> Option<&'a Value> {
    list.iter().find(|condition| condition["type"] == kind)
}

fn progress(
    deployment: &Value,
    wanted: &Wanted,
    new: Option<&Set>,
    status: &Value,
    happened: Happened,
    conditions: &mut Conditions,
) -> Option<Duration> {
    let (spec, old) = (&deployment["spec"], &deployment["status"]);
    let deadline =
        spec["progressDeadlineSeconds"].as_i64().filter(|seconds| *seconds < i64::from(i32::MAX))?;
    let kind = "Progressing";
    let reason = |conditions: &Conditions| {
        condition_of(&conditions.list, kind).map(|condition| crate::object::text(&condition["reason"]))
    };
    match reason(conditions).as_deref() {
        Some("DeploymentPaused") if !wanted.paused => {
            conditions.set(kind, "Unknown", "DeploymentResumed", "Deployment is resumed");
        }
        Some("DeploymentPaused" | "ProgressDeadlineExceeded") => {}
        _ if wanted.paused => conditions.set(kind, "Unknown", "DeploymentPaused", "Deployment is paused"),
        _ => {}
    }
    if wanted.paused {
        return None;
    }
    let name = new.map(|new| new.name.as_str()).unwrap_or_default();
    match (happened, reason(conditions)) {
        (Happened::Created, _) => {
            conditions.touch(
                kind,
                "True",
                "NewReplicaSetCreated",
                &format!("Created new replica set {name:?}"),
            );
        }
        (_, None) if new.is_some() => {
            conditions.touch(kind, "True", "FoundNewReplicaSet", &format!("Found new replica set {name:?}"));
        }
        _ => {}
    }
    let count = |status: &Value, name: &str| status[name].as_i64().unwrap_or_default();
    let all = |names: [&str; 3]| names.iter().all(|name| count(status, name) == wanted.replicas);
    let complete = new.is_some_and(|new| new.facts.settled && new.facts.size == wanted.replicas)
        && all(["updatedReplicas", "replicas", "availableReplicas"]);
    let was_complete = reason(conditions).as_deref() == Some("NewReplicaSetAvailable")
        && count(status, "replicas") == count(status, "updatedReplicas");
    if complete {
        let message = format!("ReplicaSet {name:?} has successfully progressed.");
        conditions.set(kind, "True", "NewReplicaSetAvailable", &message);
        return None;
    }
    if was_complete {
        return None;
    }
    let waiting = |status: &Value| count(status, "replicas") - count(status, "updatedReplicas");
    let advanced = count(status, "updatedReplicas") > count(old, "updatedReplicas")
        || waiting(status) < waiting(old)
        || count(status, "readyReplicas") > count(old, "readyReplicas")
        || count(status, "availableReplicas") > count(old, "availableReplicas");
    if advanced && happened == Happened::Nothing {
        conditions.touch(kind, "True", "ReplicaSetUpdated", &format!("ReplicaSet {name:?} is progressing."));
    }
    let updated =
        condition_of(&conditions.list, kind).and_then(|condition| time(&condition["lastUpdateTime"]))?;
    if reason(conditions).as_deref() == Some("ProgressDeadlineExceeded") {
        return None;
    }
    let left = SignedDuration::from_secs(deadline) - conditions.now.duration_since(updated);
    if left > SignedDuration::ZERO {
        return Some(Duration::try_from(left).unwrap_or_default());
    }
    let message = format!("ReplicaSet {name:?} has timed out progressing.");
    conditions.set(kind, "False", "ProgressDeadlineExceeded", &message);
    None
}

/// Whether two statuses say the same.
pub(crate) fn is_same(old: &Value, new: &Value) -> bool {
    let strip = |status: &Value| {
        let mut status = status.clone();
        if let Some(status) = status.as_object_mut() {
            status.retain(|_, value| *value != 0);
        }
        status
    };
    condition(old, "Available").is_some() && strip(old) == strip(new)
}

#[cfg(test)]
mod tests {
    use super::{super::rollout::SetFacts, *};
    use crate::object::text;

    fn set(actual: i64, available: i64) -> Set {
        Set {
            name: "web-1".to_owned(),
            created: Timestamp::default(),
            facts: SetFacts {
                size: 2,
                actual,
                ready: available,
                available,
                settled: true,
                template: Wanted::of(&deployment()).template,
                ..SetFacts::default()
            },
        }
    }

    fn deployment() -> Value {
        json!({"metadata": {"generation": 1}, "spec": {"replicas": 2, "progressDeadlineSeconds": 60, "template": {}}})
    }

    fn pass(deployment: &mut Value, set: Set, happened: Happened, second: i64) -> (String, Option<u64>) {
        let now = Timestamp::from_second(second).unwrap();
        let (status, again) = status(deployment, &Wanted::of(deployment), &[set], happened, now);
        deployment["status"] = status;
        let condition = condition(&deployment["status"], "Progressing").unwrap();
        (text(&condition["reason"]), again.map(|again| again.as_secs()))
    }

    #[test]
    fn a_rollout_is_told_from_creation_to_completion_and_then_stays() {
        let mut deployment = deployment();
        assert_eq!(
            pass(&mut deployment, set(0, 0), Happened::Created, 0),
            ("NewReplicaSetCreated".into(), Some(60))
        );
        assert_eq!(
            pass(&mut deployment, set(2, 1), Happened::Nothing, 10),
            ("ReplicaSetUpdated".into(), Some(60))
        );
        assert_eq!(
            pass(&mut deployment, set(2, 2), Happened::Nothing, 20),
            ("NewReplicaSetAvailable".into(), None)
        );
        let before = deployment.clone();
        pass(&mut deployment, set(2, 2), Happened::Nothing, 900);
        assert_eq!(before, deployment);
        pass(&mut deployment, set(2, 1), Happened::Nothing, 999);
        assert_eq!(condition(&deployment["status"], "Available").unwrap()["status"], "False");
        assert_eq!(
            condition(&deployment["status"], "Progressing").unwrap()["reason"],
            "NewReplicaSetAvailable"
        );
    }

    #[test]
    fn a_rollout_without_progress_runs_into_its_deadline() {
        let mut deployment = deployment();
        pass(&mut deployment, set(0, 0), Happened::Created, 0);
        assert_eq!(
            pass(&mut deployment, set(0, 0), Happened::Nothing, 59),
            ("NewReplicaSetCreated".into(), Some(1))
        );
        assert_eq!(
            pass(&mut deployment, set(0, 0), Happened::Nothing, 60),
            ("ProgressDeadlineExceeded".into(), None)
        );
        assert_eq!(
            pass(&mut deployment, set(2, 1), Happened::Nothing, 61),
            ("ReplicaSetUpdated".into(), Some(60))
        );
    }
}
