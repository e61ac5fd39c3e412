//! How many replicas each ReplicaSet of a Deployment is to have next (the Deployment controller's strategy, scaling and
//! clean-up rules, as documented for `apps/v1` Deployments).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    cache::Project,
    object::{fingerprint, scaled, text},
};

pub(crate) const HASH_LABEL: &str = "pod-template-hash";
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// What is kept of a ReplicaSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetFacts {
    /// `spec.replicas`.
    pub(crate) size: i64,
    pub(crate) actual: i64,
    pub(crate) ready: i64,
    pub(crate) available: i64,
    pub(crate) terminating: i64,
    pub(crate) settled: bool,
    /// Of the template without the hash label.
    pub(crate) template: u64,
    pub(crate) revision: i64,
    pub(crate) desired: Option<i64>,
    pub(crate) max: Option<i64>,
}

impl Project for SetFacts {
    fn project(set: &Value) -> Self {
        let count = |name: &str| set["status"][name].as_i64().unwrap_or_default();
        let annotation = |name: &str| text(&set["metadata"]["annotations"][name]).parse().ok();
        Self {
            size: set["spec"]["replicas"].as_i64().unwrap_or(1),
            actual: count("replicas"),
            ready: count("readyReplicas"),
            available: count("availableReplicas"),
            terminating: count("terminatingReplicas"),
            settled: set["status"]["observedGeneration"].as_i64() >= set["metadata"]["generation"].as_i64(),
            template: template_fingerprint(&set["spec"]["template"]),
            revision: annotation(REVISION).unwrap_or_default(),
            desired: annotation(DESIRED),
            max: annotation(MAX),
        }
    }
}

/// By which a Deployment's template is found among its ReplicaSets.
pub(crate) fn template_fingerprint(template: &Value) -> u64 {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    fingerprint(&template)
}

/// One ReplicaSet of the Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    pub(crate) facts: SetFacts,
}

/// How Pods are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// All at once, with none running in between.
    Recreate,
    /// A few at a time.
    RollingUpdate { surge: i64, unavailable: i64 },
}

/// What a Deployment's spec asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) replicas: i64,
    pub(crate) strategy: Strategy,
    pub(crate) paused: bool,
    pub(crate) template: u64,
    pub(crate) history: i64,
}

impl Wanted {
    pub(crate) fn of(deployment: &Value) -> Self {
        let spec = &deployment["spec"];
        let replicas = spec["replicas"].as_i64().unwrap_or(1);
        let rolling = &spec["strategy"]["rollingUpdate"];
        let quarter = Value::from("25%");
        let or_quarter = |value: &'_ Value| if value.is_null() { quarter.clone() } else { value.clone() };
        let strategy = if spec["strategy"]["type"] == "Recreate" {
            Strategy::Recreate
        } else {
            let surge = scaled(&or_quarter(&rolling["maxSurge"]), replicas, true);
            let unavailable = scaled(&or_quarter(&rolling["maxUnavailable"]), replicas, false);
            // Neither more nor fewer would be a standstill.
            let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
            Strategy::RollingUpdate { surge, unavailable: unavailable.min(replicas) }
        };
        Self {
            replicas,
            strategy,
            paused: spec["paused"] == true,
            template: template_fingerprint(&spec["template"]),
            history: spec["revisionHistoryLimit"].as_i64().unwrap_or(10),
        }
    }

    pub(crate) fn surge(&self) -> i64 {
        match self.strategy {
            Strategy::RollingUpdate { surge, .. } => surge,
            Strategy::Recreate => 0,
        }
    }

    pub(crate) fn unavailable(&self) -> i64 {
        match self.strategy {
            Strategy::RollingUpdate { unavailable, .. } => unavailable,
            Strategy::Recreate => 0,
        }
    }

    /// The most Pods there may be at a time, as noted on the ReplicaSets.
    pub(crate) fn most(&self) -> i64 {
        self.replicas + self.surge()
    }

    /// The ReplicaSet of the current template: of several, the oldest.
    pub(crate) fn new_set<'a>(&self, sets: &'a [Set]) -> Option<&'a Set> {
        let new = sets.iter().filter(|set| set.facts.template == self.template);
        new.min_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)))
    }
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Make the ReplicaSet of the current template, of this size.
    pub(crate) create: Option<i64>,
    /// New sizes.
    pub(crate) scale: BTreeMap<String, i64>,
    /// ReplicaSets beyond the history that is kept.
    pub(crate) delete: Vec<String>,
    /// The revision of the current template.
    pub(crate) revision: i64,
}

/// Decides the next step of a rollout.
pub(crate) fn plan(wanted: &Wanted, sets: &[Set]) -> Plan {
    let new = wanted.new_set(sets);
    let is_new = |set: &Set| new.is_some_and(|new| new.name == set.name);
    let old: Vec<&Set> = sets.iter().filter(|set| !is_new(set)).collect();
    let newest_old = old.iter().map(|set| set.facts.revision).max().unwrap_or_default();
    let revision = new.map_or(0, |new| new.facts.revision).max(newest_old + 1);
    let mut plan = Plan { revision, ..Plan::default() };

    let active: Vec<&Set> = sets.iter().filter(|set| set.facts.size > 0).collect();
    let scaling =
        active.iter().any(|set| set.facts.desired.is_some_and(|desired| desired != wanted.replicas));
    if wanted.paused || scaling {
        plan.scale = scale(wanted, sets, new);
        return plan;
    }
    match wanted.strategy {
        Strategy::Recreate => recreate(wanted, new, &old, &mut plan),
        Strategy::RollingUpdate { surge, unavailable } => {
            roll(wanted, new, &old, surge, unavailable, &mut plan)
        }
    }
    if new.is_some_and(|new| new.facts.available >= wanted.replicas && new.facts.settled) {
        plan.delete = beyond_history(wanted, &old);
    }
    plan
}

fn recreate(wanted: &Wanted, new: Option<&Set>, old: &[&Set], plan: &mut Plan) {
    for set in old.iter().filter(|set| set.facts.size > 0) {
        plan.scale.insert(set.name.clone(), 0);
    }
    if old.iter().any(|set| {
        set.facts.size > 0 || set.facts.actual > 0 || set.facts.terminating > 0 || !set.facts.settled
    }) {
        return;
    }
    match new {
        None => plan.create = Some(wanted.replicas),
        Some(new) if new.facts.size != wanted.replicas => {
            plan.scale.insert(new.name.clone(), wanted.replicas);
        }
        Some(_) => {}
    }
}

fn roll(wanted: &Wanted, new: Option<&Set>, old: &[&Set], surge: i64, unavailable: i64, plan: &mut Plan) {
    let total: i64 = old.iter().chain(new.iter()).map(|set| set.facts.size).sum();
    let size = new.map_or(0, |new| new.facts.size);
    let grown = if size >= wanted.replicas {
        wanted.replicas
    } else {
        let room = (wanted.replicas + surge - total).max(0);
        size + room.min(wanted.replicas - size)
    };
    let Some(new) = new else {
        plan.create = Some(grown);
        return;
    };
    if grown != size {
        plan.scale.insert(new.name.clone(), grown);
    }

    // Old Pods go as far as enough are left; those that do not run go first.
    let least = wanted.replicas - unavailable;
    let not_yet = grown - new.facts.available.min(grown);
    let mut spare = total - size + grown - least - not_yet;
    let mut by_age = old.to_vec();
    by_age.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    let mut sizes: BTreeMap<&str, i64> =
        by_age.iter().map(|set| (set.name.as_str(), set.facts.size)).collect();
    for set in &by_age {
        let unhealthy = (set.facts.size - set.facts.available).clamp(0, spare.max(0));
        if let Some(size) = sizes.get_mut(set.name.as_str()) {
            *size -= unhealthy;
            spare -= unhealthy;
        }
    }
    let available: i64 =
        old.iter().map(|set| set.facts.available.min(set.facts.size)).sum::<i64>() + new.facts.available;
    let mut spare = spare.min(available - least);
    for set in &by_age {
        if let Some(size) = sizes.get_mut(set.name.as_str()) {
            let less = (*size).clamp(0, spare.max(0));
            *size -= less;
            spare -= less;
        }
    }
    for set in old {
        if let Some(size) = sizes.get(set.name.as_str()).filter(|size| **size != set.facts.size) {
            plan.scale.insert(set.name.clone(), *size);
        }
    }
}

/// The Deployment was scaled: the ReplicaSets follow, in proportion if several have Pods.
fn scale(wanted: &Wanted, sets: &[Set], new: Option<&Set>) -> BTreeMap<String, i64> {
    let mut active: Vec<&Set> = sets.iter().filter(|set| set.facts.size > 0).collect();
    let latest = || new.or_else(|| sets.iter().max_by_key(|set| (set.created, &set.name)));
    let changed = |sizes: Vec<(&Set, i64)>| -> BTreeMap<String, i64> {
        let changed = sizes.into_iter().filter(|(set, size)| {
            set.facts.size != *size || (*size > 0 && set.facts.desired != Some(wanted.replicas))
        });
        changed.map(|(set, size)| (set.name.clone(), size)).collect()
    };
    match active.as_slice() {
        [] => return changed(latest().map(|set| (set, wanted.replicas)).into_iter().collect()),
        [only] => return changed(vec![(only, wanted.replicas)]),
        _ => {}
    }
    if let Some(new) =
        new.filter(|new| new.facts.size == wanted.replicas && new.facts.available == wanted.replicas)
    {
        let old = active.iter().filter(|set| set.name != new.name);
        return changed(old.map(|set| (*set, 0)).chain([(new, wanted.replicas)]).collect());
    }
    let total: i64 = active.iter().map(|set| set.facts.size).sum();
    let allowed = if wanted.replicas > 0 { wanted.most() } else { 0 };
    let mut left = allowed - total;
    active.sort_by(|a, b| {
        let by_age = a.created.cmp(&b.created);
        b.facts.size.cmp(&a.facts.size).then(if left > 0 { by_age.reverse() } else { by_age })
    });
    let mut sizes: Vec<(&Set, i64)> = Vec::new();
    for set in active {
        let before = set.facts.max.filter(|max| *max > 0).unwrap_or(total).max(1);
        let share = (set.facts.size * allowed * 2 + before) / (before * 2) - set.facts.size;
        let share = if left > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        left -= share;
        sizes.push((set, set.facts.size + share));
    }
    if let Some((_, size)) = sizes.first_mut() {
        *size = (*size + left).max(0);
    }
    changed(sizes)
}

fn beyond_history(wanted: &Wanted, old: &[&Set]) -> Vec<String> {
    let empty = |set: &&&Set| set.facts.size == 0 && set.facts.actual == 0 && set.facts.settled;
    let mut empty: Vec<&&Set> = old.iter().filter(empty).collect();
    empty.sort_by_key(|set| (set.facts.revision, set.created));
    let keep = usize::try_from(wanted.history).unwrap_or_default();
    let excess = old.len().saturating_sub(keep);
    empty.into_iter().take(excess).map(|set| set.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const NEW: u64 = 1;

    fn wanted(replicas: i64, surge: i64, unavailable: i64) -> Wanted {
        let strategy = Strategy::RollingUpdate { surge, unavailable };
        Wanted { replicas, strategy, paused: false, template: NEW, history: 2 }
    }

    fn set(name: &str, template: u64, size: i64, available: i64) -> Set {
        Set {
            name: name.to_owned(),
            created: Timestamp::from_second(10 - i64::try_from(template).unwrap()).unwrap(),
            facts: SetFacts {
                size,
                available,
                actual: size,
                settled: true,
                template,
                revision: 9 - i64::try_from(template).unwrap(),
                ..SetFacts::default()
            },
        }
    }

    fn scale(sizes: &[(&str, i64)]) -> BTreeMap<String, i64> {
        sizes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
    }

    #[test]
    fn a_first_set_is_made_at_full_size_and_a_second_within_the_surge() {
        assert_eq!(plan(&wanted(3, 1, 0), &[]).create, Some(3));
        let plan = plan(&wanted(3, 1, 0), &[set("old", 2, 3, 3)]);
        assert_eq!((plan.create, plan.revision), (Some(1), 8));
    }

    #[test]
    fn old_pods_go_only_when_new_ones_are_available() {
        let sets = [set("old", 2, 3, 3), set("new", NEW, 1, 0)];
        assert_eq!(plan(&wanted(3, 1, 0), &sets).scale, scale(&[]));
        let sets = [set("old", 2, 3, 3), set("new", NEW, 1, 1)];
        assert_eq!(plan(&wanted(3, 1, 0), &sets).scale, scale(&[("old", 2)]));
    }

    #[test]
    fn old_pods_that_do_not_run_go_at_once() {
        let sets = [set("old", 2, 3, 0), set("new", NEW, 1, 0)];
        let sizes = plan(&wanted(3, 1, 1), &sets).scale;
        assert!(sizes["old"] < 3, "{sizes:?}");
    }

    #[test]
    fn recreate_waits_until_nothing_is_left() {
        let recreate = Wanted { strategy: Strategy::Recreate, ..wanted(3, 0, 0) };
        let mut old = set("old", 2, 3, 3);
        assert_eq!(plan(&recreate, std::slice::from_ref(&old)).scale, scale(&[("old", 0)]));
        old.facts.size = 0;
        assert_eq!(plan(&recreate, std::slice::from_ref(&old)).create, None, "its Pods are still there");
        old.facts.actual = 0;
        assert_eq!(plan(&recreate, &[old]).create, Some(3));
    }

    #[test]
    fn scaling_during_a_rollout_is_in_proportion_and_works_while_paused() {
        let mut sets = [set("old", 2, 8, 8), set("new", NEW, 5, 2)];
        for set in &mut sets {
            set.facts.desired = Some(10);
            set.facts.max = Some(13);
        }
        let scaled = plan(&wanted(15, 5, 2), &sets).scale;
        assert_eq!(scaled.values().sum::<i64>(), 20);
        assert_eq!(scaled, scale(&[("new", 8), ("old", 12)]));
        let paused = Wanted { paused: true, ..wanted(5, 1, 0) };
        assert_eq!(plan(&paused, &[set("old", 2, 3, 3)]).scale, scale(&[("old", 5)]));
    }

    #[test]
    fn going_back_takes_the_old_set_with_a_new_revision_and_history_is_bounded() {
        let sets = [set("new", NEW, 3, 3), set("a", 2, 0, 0), set("b", 3, 0, 0), set("c", 4, 0, 0)];
        let plan = plan(&wanted(3, 1, 0), &sets);
        assert_eq!(plan.delete, ["c"]);
        let mut back = wanted(3, 1, 0);
        back.template = 3;
        let plan = super::plan(&back, &sets);
        assert_eq!((plan.create, plan.revision), (None, 9));
    }

    proptest! {
        /// Whatever happens in between, neither too many nor too few are asked for, and it ends.
        #[test]
        fn a_rollout_stays_within_its_bounds_and_ends(
            replicas in 0..9i64, surge in 0..4i64, unavailable in 0..4i64, seed in any::<u64>()
        ) {
            let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable }.min(replicas);
            let wanted = wanted(replicas, surge, unavailable);
            let mut sets = vec![set("old", 2, replicas, replicas), set("older", 3, 0, 0)];
            sets[0].facts.desired = Some(replicas);
            let mut random = seed;
            for _ in 0..200 {
                let plan = plan(&wanted, &sets);
                if let Some(size) = plan.create {
                    sets.push(Set { facts: SetFacts { desired: Some(replicas), ..set("new", NEW, size, 0).facts }, ..set("new", NEW, size, 0) });
                }
                for set in &mut sets {
                    if let Some(size) = plan.scale.get(&set.name) {
                        set.facts.size = *size;
                        set.facts.available = set.facts.available.min(*size);
                    }
                }
                let total: i64 = sets.iter().map(|set| set.facts.size).sum();
                let available: i64 = sets.iter().map(|set| set.facts.available).sum();
                prop_assert!(total <= replicas + surge, "{total} {sets:?}");
                prop_assert!(available >= replicas - unavailable, "{available} {sets:?}");
                // Some of the new Pods become available.
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                for set in &mut sets {
                    set.facts.available = (set.facts.available + (random >> 60).min(2) as i64).min(set.facts.size);
                    set.facts.actual = set.facts.size;
                }
            }
            let new = sets.iter().find(|set| set.name == "new").unwrap();
            prop_assert_eq!(new.facts.size, replicas);
            prop_assert!(sets.iter().all(|set| set.name == "new" || set.facts.size == 0));
        }
    }
}
