//! Which clusters have an agent connected, from the Leases of the tower's replicas: pure functions.
//!
//! A Lease counts for as long as it was seen to change within its duration, by our own clock: the clocks of two machines are never
//! compared, and a Lease that is seen for the first time counts as new.

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_api::names;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

/// A Lease that has not been renewed for so long after its end is of a replica that will not come back; it may be removed.
const ABANDONED: Duration = Duration::from_secs(60);
/// What a Lease lasts that does not say it.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// No Lease lasts longer, whatever it says.
const LONGEST: Duration = Duration::from_secs(60);

/// What the Lease of a tower replica says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The replica's id.
    pub id: String,
    /// How long it counts after a renewal.
    pub lasts: Duration,
    /// How many sessions it has with the agents of each cluster.
    pub agents: BTreeMap<String, u32>,
    /// Changes with each renewal.
    renewal: String,
    version: Option<String>,
}

impl Replica {
    /// Reads a Lease; `None` if it is not that of a tower replica.
    pub fn of(lease: &Lease) -> Option<Self> {
        let id = lease.metadata.labels.as_ref()?.get(names::LABEL_TOWER_REPLICA)?.clone();
        let spec = lease.spec.clone().unwrap_or_default();
        let said = lease
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(names::ANNOTATION_TOWER_AGENTS))
            .cloned()
            .unwrap_or_default();
        let agents: BTreeMap<String, u32> = serde_json::from_str(&said).unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = seconds.filter(|seconds| *seconds > 0).map_or(DEFAULT_DURATION, Duration::from_secs);
        let renewed = spec.renew_time.map(|time| time.0.as_nanosecond());
        Some(Self {
            id,
            lasts: lasts.min(LONGEST),
            agents: agents.into_iter().filter(|(_, sessions)| *sessions > 0).collect(),
            renewal: format!("{renewed:?} {said}"),
            version: lease.metadata.resource_version.clone(),
        })
    }
}

/// A replica, and when its Lease was last seen to change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sight {
    replica: Replica,
    since: Instant,
    /// Whether it was given its time anew without having been renewed.
    forgiven: bool,
}

impl Sight {
    fn ends(&self) -> Instant {
        self.since + self.replica.lasts
    }
}

/// The agents of one cluster that are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Connections, over all replicas of the tower.
    pub sessions: u32,
    /// Replicas of the tower that have at least one.
    pub replicas: u32,
}

/// What has been seen of the tower's Leases, by their names.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    seen: BTreeMap<String, Sight>,
}

impl Sightings {
    /// Takes note of all Leases that there are at `now`.
    pub fn observe<'a>(&mut self, leases: impl IntoIterator<Item = (&'a String, &'a Replica)>, now: Instant) {
        let former = std::mem::take(&mut self.seen);
        for (name, replica) in leases {
            let same = former.get(name).filter(|sight| sight.replica.renewal == replica.renewal);
            let (since, forgiven) = same.map_or((now, false), |sight| (sight.since, sight.forgiven));
            self.seen.insert(name.clone(), Sight { replica: replica.clone(), since, forgiven });
        }
    }

    /// Gives the Leases that counted at `then` their time anew, once: renewals cannot be told from their absence while the host is away.
    pub fn forgive(&mut self, then: Instant, now: Instant) {
        for sight in self.seen.values_mut().filter(|sight| then < sight.ends() && !sight.forgiven) {
            sight.since = now;
            sight.forgiven = true;
        }
    }

    fn live(&self, now: Instant) -> impl Iterator<Item = &Replica> {
        self.seen.values().filter(move |sight| now < sight.ends()).map(|sight| &sight.replica)
    }

    /// How many replicas of the tower there are.
    pub fn replicas(&self, now: Instant) -> usize {
        self.live(now).count()
    }

    /// The clusters with an agent.
    pub fn agents(&self, now: Instant) -> BTreeMap<String, Sessions> {
        let mut clusters: BTreeMap<String, Sessions> = BTreeMap::new();
        for (cluster, sessions) in self.live(now).flat_map(|replica| &replica.agents) {
            let entry = clusters.entry(cluster.clone()).or_default();
            entry.sessions = entry.sessions.saturating_add(*sessions);
            entry.replicas += 1;
        }
        clusters
    }

    /// When the next Lease that counts ends unless it is renewed.
    pub fn next_end(&self, now: Instant) -> Option<Instant> {
        self.seen.values().map(Sight::ends).filter(|end| *end > now).min()
    }

    /// Leases of replicas that will not come back, with the version that was seen.
    pub fn abandoned(&self, now: Instant) -> Vec<(String, Option<String>)> {
        let long_gone = self.seen.iter().filter(|(_, sight)| now >= sight.ends() + ABANDONED);
        long_gone.map(|(name, sight)| (name.clone(), sight.replica.version.clone())).collect()
    }

    /// When the next Lease becomes one that is abandoned.
    pub fn next_abandoned(&self, now: Instant) -> Option<Instant> {
        self.seen.values().map(|sight| sight.ends() + ABANDONED).filter(|end| *end > now).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn lease(renewed: i64, agents: &str) -> Replica {
        let lease = json!({
            "metadata": {
                "name": "hansa-tower-a", "resourceVersion": "5",
                "labels": { names::LABEL_TOWER_REPLICA: "a" }, "annotations": { names::ANNOTATION_TOWER_AGENTS: agents },
            },
            "spec": { "leaseDurationSeconds": 10, "renewTime": format!("2026-01-01T00:00:{renewed:02}.000000Z") },
        });
        Replica::of(&serde_json::from_value(lease).unwrap()).unwrap()
    }

    fn named(pairs: &[(&str, Replica)]) -> BTreeMap<String, Replica> {
        pairs.iter().map(|(name, replica)| ((*name).to_owned(), replica.clone())).collect()
    }

    fn start() -> (Instant, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (start, move |seconds| start + Duration::from_secs(seconds))
    }

    #[test]
    fn a_lease_says_which_agents_are_there() {
        let replica = lease(1, r#"{"m1":2,"m2":0}"#);
        assert_eq!(replica.lasts, Duration::from_secs(10));
        assert_eq!(replica.agents, BTreeMap::from([("m1".to_owned(), 2)]));
        // One that cannot be read says that there are none, and one that is of somebody else is none.
        assert_eq!(lease(1, "[1").agents, BTreeMap::new());
        let other: Lease =
            serde_json::from_value(json!({ "metadata": { "name": "kube-scheduler" } })).unwrap();
        assert_eq!(Replica::of(&other), None);
    }

    #[test]
    fn a_lease_counts_until_it_was_not_seen_to_change_for_its_duration() {
        let (_, at) = start();
        let mut sightings = Sightings::default();
        sightings.observe(&named(&[("a", lease(1, r#"{"m1":1}"#))]), at(0));
        // Seen again, not renewed.
        sightings.observe(&named(&[("a", lease(1, r#"{"m1":1}"#))]), at(6));
        assert_eq!(sightings.agents(at(9)).len(), 1);
        assert_eq!(sightings.next_end(at(9)), Some(at(10)));
        assert_eq!(sightings.agents(at(10)).len(), 0);
        // It was only late.
        sightings.observe(&named(&[("a", lease(4, r#"{"m1":1}"#))]), at(11));
        assert_eq!(sightings.agents(at(20)).len(), 1);
    }

    #[test]
    fn an_agent_is_there_while_one_replica_has_it() {
        let (_, at) = start();
        let mut sightings = Sightings::default();
        let (a, b) = (lease(1, r#"{"m1":1,"m2":3}"#), lease(2, r#"{"m1":2}"#));
        sightings.observe(&named(&[("a", a.clone()), ("b", b.clone())]), at(0));
        assert_eq!(sightings.agents(at(1))["m1"], Sessions { sessions: 3, replicas: 2 });
        assert_eq!(sightings.replicas(at(1)), 2);
        sightings.observe(&named(&[("b", b)]), at(2));
        assert_eq!(
            sightings.agents(at(2)),
            BTreeMap::from([("m1".into(), Sessions { sessions: 2, replicas: 1 })])
        );
    }

    #[test]
    fn a_host_that_was_away_is_no_reason_to_hold_a_lease_for_ended_but_it_is_one_only_once() {
        let (_, at) = start();
        let mut sightings = Sightings::default();
        sightings.observe(&named(&[("a", lease(1, r#"{"m1":1}"#))]), at(0));
        sightings.forgive(at(9), at(30));
        assert_eq!(sightings.agents(at(39)).len(), 1);
        sightings.forgive(at(39), at(40));
        assert_eq!(sightings.agents(at(40)).len(), 0);
        // A renewal earns it again; one that had ended is not brought back.
        sightings.observe(&named(&[("a", lease(2, r#"{"m1":1}"#))]), at(50));
        sightings.forgive(at(60), at(61));
        assert_eq!(sightings.agents(at(61)).len(), 0);
        sightings.forgive(at(59), at(61));
        assert_eq!(sightings.agents(at(70)).len(), 1);
    }

    #[test]
    fn a_lease_is_abandoned_long_after_it_has_ended() {
        let (_, at) = start();
        let mut sightings = Sightings::default();
        sightings.observe(&named(&[("a", lease(1, "{}"))]), at(0));
        assert_eq!(sightings.next_abandoned(at(0)), Some(at(70)));
        assert!(sightings.abandoned(at(69)).is_empty());
        assert_eq!(sightings.abandoned(at(70)), [("a".to_owned(), Some("5".to_owned()))]);
    }

    proptest! {
        /// Whatever is renewed, lost and seen again in whatever order: what counts was seen to change within its duration, and nothing counts that is not there.
        #[test]
        fn what_counts_was_renewed_lately(
            steps in proptest::collection::vec((0..8u64, proptest::collection::btree_map("[ab]", 0..3i64, 0..3)), 1..30),
        ) {
            let (start, at) = start();
            let (mut sightings, mut now) = (Sightings::default(), 0);
            let mut model: BTreeMap<String, (i64, u64)> = BTreeMap::new();
            for (pause, leases) in steps {
                now += pause;
                let there: BTreeMap<String, Replica> = leases
                    .iter()
                    .map(|(name, renewed)| (name.clone(), lease(*renewed, &format!(r#"{{"of-{name}":1}}"#))))
                    .collect();
                sightings.observe(&there, at(now));
                model = leases
                    .into_iter()
                    .map(|(name, renewed)| {
                        let since = model.get(&name).filter(|(former, _)| *former == renewed).map_or(now, |(_, since)| *since);
                        (name, (renewed, since))
                    })
                    .collect();
                for later in [0, 5, 10] {
                    let expected: Vec<String> = model
                        .iter()
                        .filter(|(_, (_, since))| now + later < since + 10)
                        .map(|(name, _)| format!("of-{name}"))
                        .collect();
                    let found: Vec<String> = sightings.agents(at(now + later)).into_keys().collect();
                    prop_assert_eq!(found, expected);
                }
                prop_assert!(sightings.next_end(start).is_some() == sightings.seen.values().any(|sight| sight.ends() > start));
            }
        }
    }
}
