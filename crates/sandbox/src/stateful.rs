//! Which Pods of a StatefulSet to make and to delete next.

use std::collections::BTreeMap;

use serde_json::Value;

/// What a StatefulSet's spec asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) first: i64,
    pub(crate) replicas: i64,
    /// All at once rather than one after the other.
    pub(crate) parallel: bool,
    /// Pods change only when the user deletes them.
    pub(crate) on_delete: bool,
    pub(crate) partition: i64,
    /// The revision that Pods below the partition have.
    pub(crate) current: String,
    pub(crate) update: String,
}

impl Wanted {
    pub(crate) fn of(set: &Value, current: &str, update: &str) -> Self {
        let spec = &set["spec"];
        Self {
            first: spec["ordinals"]["start"].as_i64().unwrap_or_default(),
            replicas: spec["replicas"].as_i64().unwrap_or(1),
            parallel: spec["podManagementPolicy"] == "Parallel",
            on_delete: spec["updateStrategy"]["type"] == "OnDelete",
            partition: spec["updateStrategy"]["rollingUpdate"]["partition"].as_i64().unwrap_or_default(),
            current: current.to_owned(),
            update: update.to_owned(),
        }
    }

    fn ordinals(&self) -> std::ops::Range<i64> {
        self.first..self.first.saturating_add(self.replicas)
    }

    fn revision_of(&self, ordinal: i64) -> &str {
        if ordinal < self.first + self.partition { &self.current } else { &self.update }
    }
}

/// What is there of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) revision: String,
    pub(crate) available: bool,
    pub(crate) deleting: bool,
    /// Succeeded or failed: to be replaced.
    pub(crate) finished: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the Pod of this ordinal at this revision.
    Create(i64, String),
    /// Delete the Pod of this ordinal.
    Delete(i64),
}

/// The steps to take now; the rest follows when these have had their effect.
pub(crate) fn plan(wanted: &Wanted, replicas: &BTreeMap<i64, Replica>) -> Vec<Step> {
    let mut steps = Vec::new();
    let healthy = |replica: &Replica| replica.available && !replica.deleting;
    for ordinal in wanted.ordinals() {
        match replicas.get(&ordinal) {
            None => steps.push(Step::Create(ordinal, wanted.revision_of(ordinal).to_owned())),
            Some(replica) if replica.finished && !replica.deleting => steps.push(Step::Delete(ordinal)),
            Some(replica) if healthy(replica) || wanted.parallel => continue,
            Some(_) => return steps,
        }
        if !wanted.parallel {
            return steps;
        }
    }
    // Those that are not wanted go from the highest down.
    for (ordinal, replica) in
        replicas.iter().rev().filter(|(ordinal, _)| !wanted.ordinals().contains(ordinal))
    {
        if !replica.deleting {
            steps.push(Step::Delete(*ordinal));
        }
        if !wanted.parallel {
            return steps;
        }
    }
    if wanted.on_delete || !steps.is_empty() {
        return steps;
    }
    for ordinal in wanted.ordinals().rev().filter(|ordinal| *ordinal >= wanted.first + wanted.partition) {
        let Some(replica) = replicas.get(&ordinal) else { return steps };
        if replica.revision != wanted.update && !replica.deleting {
            return vec![Step::Delete(ordinal)];
        }
        if !healthy(replica) {
            return steps;
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(replicas: i64) -> Wanted {
        Wanted { replicas, current: "a".into(), update: "a".into(), ..Wanted::default() }
    }

    fn replica(revision: &str, available: bool) -> Replica {
        Replica { revision: revision.into(), available, ..Replica::default() }
    }

    fn there(replicas: &[Replica]) -> BTreeMap<i64, Replica> {
        (0..).zip(replicas.iter().cloned()).collect()
    }

    fn create(ordinal: i64) -> Step {
        Step::Create(ordinal, "a".into())
    }

    #[test]
    fn replicas_come_one_after_the_other_unless_parallel() {
        assert_eq!(plan(&wanted(3), &there(&[])), [create(0)]);
        assert_eq!(plan(&wanted(3), &there(&[replica("a", false)])), []);
        assert_eq!(plan(&wanted(3), &there(&[replica("a", true)])), [create(1)]);
        let parallel = Wanted { parallel: true, ..wanted(3) };
        assert_eq!(plan(&parallel, &there(&[])), [create(0), create(1), create(2)]);
    }

    #[test]
    fn the_highest_goes_first_and_only_when_all_below_are_well() {
        let three = [replica("a", true), replica("a", true), replica("a", true)];
        assert_eq!(plan(&wanted(1), &there(&three)), [Step::Delete(2)]);
        let mut leaving = three.clone();
        leaving[2].deleting = true;
        assert_eq!(plan(&wanted(1), &there(&leaving)), []);
        let mut ill = three;
        ill[0].available = false;
        assert_eq!(plan(&wanted(1), &there(&ill)), []);
    }

    #[test]
    fn an_update_goes_from_the_highest_down_to_the_partition() {
        let updated = Wanted { update: "b".into(), partition: 1, ..wanted(3) };
        let all_old = [replica("a", true), replica("a", true), replica("a", true)];
        assert_eq!(plan(&updated, &there(&all_old)), [Step::Delete(2)]);
        assert_eq!(plan(&updated, &there(&all_old[..2])), [Step::Create(2, "b".into())]);
        let coming = [replica("a", true), replica("a", true), replica("b", false)];
        assert_eq!(plan(&updated, &there(&coming)), []);
        let done = [replica("a", true), replica("b", true), replica("b", true)];
        assert_eq!(plan(&updated, &there(&done)), []);
        assert_eq!(plan(&updated, &there(&[])), [Step::Create(0, "a".into())], "below the partition");
        let by_hand = Wanted { on_delete: true, ..updated };
        assert_eq!(plan(&by_hand, &there(&all_old)), []);
    }
}
