//! How replicas are divided: KubeFed's planner, number for number (`spec/kubefed.md §2.10`, steps a to e).
//!
//! Users' workloads stand where this put them, so nothing here is improved; what is mended is mended around it, in
//! [`super::schedule`]. Given negative numbers it does what the original does, short of running for ever.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What one cluster asks for, and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// No fewer than this, if there are enough.
    pub min: i64,
    /// No more than this.
    pub max: Option<i64>,
    /// The part of what remains.
    pub weight: i64,
    /// How many run now; `None` if the cluster does not have the object.
    pub current: Option<i64>,
    /// How many can run, where more were tried in vain.
    pub capacity: Option<i64>,
}

/// What is to be divided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand<'a> {
    /// The sum.
    pub total: i64,
    /// Whether running replicas may move.
    pub rebalance: bool,
    /// `<namespace>/<name>` of the object: it decides which of several equal clusters comes first, so that not all objects prefer
    /// the same.
    pub key: &'a str,
}

/// Who gets how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How many a cluster is to run.
    pub replicas: BTreeMap<String, i64>,
    /// How many more it should have, should it find room for them.
    pub overflow: BTreeMap<String, i64>,
}

impl Plan {
    /// What a cluster is told to have.
    pub fn told(&self, cluster: &str) -> i64 {
        let of = |map: &BTreeMap<String, i64>| map.get(cluster).copied().unwrap_or_default();
        of(&self.replicas).saturating_add(of(&self.overflow))
    }
}

/// A cluster while the plan is made.
struct Candidate<'a> {
    name: &'a str,
    share: &'a Share,
    /// A negative weight would have its cluster give back what the others then share out for ever.
    weight: i64,
    planned: i64,
    /// Of what is planned, how many were given only because they run there; they count against the shares to come.
    preallocated: i64,
    full: bool,
}

/// Divides replicas among clusters; a cluster without a share gets none.
pub fn plan<'a>(
    demand: &Demand<'_>,
    clusters: impl IntoIterator<Item = (&'a str, Option<&'a Share>)>,
) -> Plan {
    let mut plan = Plan::default();
    let mut candidates = Vec::new();
    for (name, share) in clusters {
        plan.replicas.insert(name.to_owned(), 0);
        candidates.extend(share.map(|share| Candidate {
            name,
            share,
            weight: share.weight.max(0),
            planned: 0,
            preallocated: 0,
            full: false,
        }));
    }
    candidates.sort_by_cached_key(|candidate| (Reverse(candidate.weight), hash(candidate.name, demand.key)));
    let mut remaining = demand.total;
    for Candidate { share, planned, .. } in &mut candidates {
        *planned = at_most(share.min.min(remaining), share.capacity);
        remaining = remaining.saturating_sub(*planned);
    }
    if !demand.rebalance {
        keep_what_runs(&mut candidates, &mut remaining);
    }
    divide(&mut candidates, &mut remaining, &mut plan.overflow);
    if !demand.rebalance {
        // What has found its place elsewhere need not wait here for room.
        plan.overflow.values_mut().for_each(|overflow| *overflow = (*overflow).min(remaining));
        plan.overflow.retain(|_, overflow| *overflow > 0);
    }
    plan.replicas.extend(candidates.iter().map(|candidate| (candidate.name.to_owned(), candidate.planned)));
    plan
}

/// Step c: what runs stays where it is, as far as the bounds and the sum allow.
fn keep_what_runs(candidates: &mut [Candidate<'_>], remaining: &mut i64) {
    for candidate in candidates {
        let running = candidate.share.current.filter(|current| *current > candidate.planned);
        let Some(running) = running else { continue };
        let target = at_most(at_most(running, candidate.share.max), candidate.share.capacity);
        let extra = target.saturating_sub(candidate.planned).min(*remaining).max(0);
        *remaining = remaining.saturating_sub(extra);
        candidate.preallocated = extra;
        candidate.planned = candidate.planned.saturating_add(extra);
    }
}

/// Step d: what remains is given by weight, round by round, until it is gone or everybody is full.
fn divide(candidates: &mut [Candidate<'_>], remaining: &mut i64, overflow: &mut BTreeMap<String, i64>) {
    let mut modified = true;
    while modified && *remaining > 0 {
        modified = false;
        let before = *remaining;
        let weights: i128 = open(candidates).map(|candidate| i128::from(candidate.weight)).sum();
        if weights <= 0 {
            return;
        }
        let mut filled = false;
        for candidate in open(candidates) {
            let due = due(before, candidate.weight, weights).min(*remaining);
            let used = due.min(candidate.preallocated);
            candidate.preallocated -= used;
            let start = candidate.planned;
            let mut total = start.saturating_add(due - used);
            if let Some(max) = candidate.share.max.filter(|max| total > *max) {
                total = max;
                candidate.full = true;
            }
            if let Some(capacity) = candidate.share.capacity.filter(|capacity| total > *capacity) {
                overflow.insert(candidate.name.to_owned(), total.saturating_sub(capacity));
                total = capacity;
                candidate.full = true;
            }
            filled |= candidate.full;
            *remaining = remaining.saturating_sub(total.saturating_sub(start));
            candidate.planned = total;
            modified |= used > 0 || total > start;
        }
        if modified && !filled && *remaining == before {
            skip(candidates, before, weights);
        }
    }
}

/// After a round in which everybody only used up what was preallocated, as many more rounds as will be the same: a million
/// replicas that stay are not counted one by one.
fn skip(candidates: &mut [Candidate<'_>], remaining: i64, weights: i128) {
    let due = |candidate: &Candidate<'_>| due(remaining, candidate.weight, weights).min(remaining);
    let rounds =
        open(candidates).filter(|c| due(c) > 0).map(|c| c.preallocated / due(c)).min().unwrap_or_default();
    for candidate in open(candidates) {
        candidate.preallocated -= rounds.saturating_mul(due(candidate));
    }
}

fn open<'c, 'a>(candidates: &'c mut [Candidate<'a>]) -> impl Iterator<Item = &'c mut Candidate<'a>> {
    candidates.iter_mut().filter(|candidate| !candidate.full)
}

/// The part of `remaining` that a weight is due, rounded up.
fn due(remaining: i64, weight: i64, weights: i128) -> i64 {
    let due = (i128::from(remaining) * i128::from(weight) + weights - 1) / weights;
    i64::try_from(due).unwrap_or(if due < 0 { i64::MIN } else { i64::MAX })
}

fn at_most(number: i64, bound: Option<i64>) -> i64 {
    bound.map_or(number, |bound| number.min(bound))
}

/// FNV-1 (not 1a) of the cluster and the object, 32 bits.
fn hash(cluster: &str, key: &str) -> u32 {
    cluster
        .bytes()
        .chain(key.bytes())
        .fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte))
}

#[cfg(test)]
mod tests;
