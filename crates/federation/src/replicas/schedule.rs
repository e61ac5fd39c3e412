//! How many replicas each member is told to have, from what is known of the members.
//!
//! The division is KubeFed's ([`planner`]). Four things differ, all of them defects there (`spec/kubefed.md §6`):
//! - (26) With `rebalance: false`, scaling down left the first clusters as they were and emptied the others. Here every cluster gives up
//!   its part: none grows beyond its minimum, as nothing is to move, and within that the weights hold. Where no more run, or must by
//!   their minimums, than are wanted, the plan is KubeFed's: nobody's replicas move because Hansa took over.
//! - (27) Negative numbers count as 0, also a capacity: more Pods can be unschedulable than replicas are wanted, during a roll-out.
//! - A minimum above the maximum counts as the maximum; KubeFed took now the one, now the other.
//! - (29) A member that cannot be seen is not a member without replicas: see [`Standing`].

use std::collections::BTreeMap;

use hansa_api::scheduling::{ClusterPreferences, ReplicaSchedulingPreferenceSpec};

use super::planner::{self, Demand, Plan, Share};

/// What is known of a member that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its replicas were counted.
    Seen {
        /// How many run; `None` if it does not have the object.
        current: Option<i64>,
        /// How many can run, where more were tried in vain.
        capacity: Option<i64>,
    },
    /// It cannot be seen for the moment, and is taken to run what it was told: it gets nothing new, and gives up only what it would
    /// have to if it were there.
    Away {
        /// What it was told.
        planned: i64,
        /// The capacity last seen.
        capacity: Option<i64>,
    },
    /// It has not been ready for so long that its replicas are run by others meanwhile. It stays in the placement and is told what it was
    /// told before: whether its copy runs is not known, and what is not known is not deleted. When it returns, it is counted again.
    Lost {
        /// What it was told.
        planned: i64,
    },
}

/// What every member that takes part is told to have; those that have to have none are told 0 (`spec/kubefed.md §2.10`; KubeFed, too,
/// keeps them in the placement (24), so that a later increase finds the copy there).
pub fn schedule(
    preferences: &ReplicaSchedulingPreferenceSpec,
    key: &str,
    standings: &BTreeMap<String, Standing>,
) -> BTreeMap<String, i64> {
    let mut told = BTreeMap::new();
    let mut shares = BTreeMap::new();
    for (cluster, standing) in standings {
        match standing {
            Standing::Lost { planned } => drop(told.insert(cluster.clone(), (*planned).max(0))),
            other => drop(shares.insert(cluster.as_str(), share(preferences, cluster, other))),
        }
    }
    let total = i64::from(preferences.total_replicas).max(0);
    let demand = Demand { total, rebalance: preferences.rebalance, key };
    let plan = match shrunk(&demand, &shares) {
        Some(shares) => scale_down(&demand, shares),
        None => planner::plan(&demand, shares.iter().map(|(cluster, share)| (*cluster, share.as_ref()))),
    };
    told.extend(plan.replicas.keys().map(|cluster| (cluster.clone(), plan.told(cluster))));
    told
}

/// The preferences for a cluster: its own, or else those for all; no preferences at all are equal weights.
fn preferences_for<'a>(
    preferences: &'a ReplicaSchedulingPreferenceSpec,
    cluster: &str,
) -> Option<&'a ClusterPreferences> {
    const EQUAL: &ClusterPreferences = &ClusterPreferences { min_replicas: 0, max_replicas: None, weight: 1 };
    if preferences.clusters.is_empty() {
        return Some(EQUAL);
    }
    preferences.clusters.get(cluster).or_else(|| preferences.clusters.get("*"))
}

fn share(preferences: &ReplicaSchedulingPreferenceSpec, cluster: &str, standing: &Standing) -> Option<Share> {
    let asked = preferences_for(preferences, cluster)?;
    let positive = |number: Option<i64>| number.map(|number| number.max(0));
    let (current, capacity, bound) = match *standing {
        Standing::Seen { current, capacity } => (positive(current), positive(capacity), None),
        Standing::Away { planned, capacity } => {
            let planned = positive(Some(planned));
            (planned, positive(capacity), planned)
        }
        Standing::Lost { .. } => return None,
    };
    let max = positive(asked.max_replicas).into_iter().chain(bound).min();
    let min = asked.min_replicas.max(0).min(max.unwrap_or(i64::MAX));
    Some(Share { min, max, weight: asked.weight.max(0), current, capacity })
}

/// If more run, or must, than are wanted, and nothing may move: the shares, with nobody's larger than what it runs or must.
fn shrunk<'a>(
    demand: &Demand<'_>,
    shares: &BTreeMap<&'a str, Option<Share>>,
) -> Option<BTreeMap<&'a str, Option<Share>>> {
    let shrink = |share: &Share| {
        let bounds = share.max.into_iter().chain(share.capacity);
        let bound = bounds.min().unwrap_or(i64::MAX);
        let most = share.current.unwrap_or_default().max(share.min).min(bound);
        Share { max: Some(most), min: share.min.min(most), capacity: None, ..share.clone() }
    };
    let shrunk: BTreeMap<_, _> =
        shares.iter().map(|(cluster, share)| (*cluster, share.as_ref().map(shrink))).collect();
    let kept = shrunk.values().flatten().filter_map(|share| share.max).fold(0, i64::saturating_add);
    (!demand.rebalance && kept > demand.total).then_some(shrunk)
}

/// Divides by weight, and what the clusters with a weight do not take equally among those without: what runs there may stay.
fn scale_down(demand: &Demand<'_>, mut shares: BTreeMap<&str, Option<Share>>) -> Plan {
    let demand = Demand { rebalance: true, ..demand.clone() };
    let divide = |total: i64, shares: &BTreeMap<&str, Option<Share>>| {
        let demand = Demand { total, ..demand.clone() };
        planner::plan(&demand, shares.iter().map(|(cluster, share)| (*cluster, share.as_ref())))
    };
    let mut plan = divide(demand.total, &shares);
    let weightless = |share: &Option<Share>| share.as_ref().is_some_and(|share| share.weight == 0);
    shares.retain(|_, share| weightless(share));
    let others: i64 =
        plan.replicas.iter().filter(|(c, _)| !shares.contains_key(c.as_str())).map(|(_, n)| n).sum();
    shares.values_mut().flatten().for_each(|share| share.weight = 1);
    plan.replicas.extend(divide(demand.total - others, &shares).replicas);
    plan
}

#[cfg(test)]
mod tests;
