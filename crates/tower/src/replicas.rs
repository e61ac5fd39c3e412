//! What is known of the other replicas of the tower: from their Leases, judged by our own clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use hansa_api::names;
use serde::Deserialize;
use tokio::time::Instant;

/// How long a replica counts as alive after its Lease was last seen to be renewed; what the Leases themselves say.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// How many sessions with agents a replica has, by cluster.
pub(crate) type Agents = BTreeMap<String, usize>;

/// The other replicas.
#[derive(Debug)]
pub(crate) struct Replicas {
    own: String,
    seen: HashMap<String, Seen>,
    /// Those that a listing under way has not named yet.
    unlisted: Option<BTreeSet<String>>,
    complete: bool,
}

#[derive(Debug)]
struct Seen {
    renewed: String,
    agents: Agents,
    at: Instant,
}

/// What is read of a Lease.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) replica: String,
    pub(crate) renewed: String,
    pub(crate) agents: Agents,
}

impl Lease {
    /// The Lease in an object; `None` for one that is no replica's.
    pub(crate) fn read(raw: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Meta,
            #[serde(default)]
            spec: Spec,
        }
        #[derive(Deserialize)]
        struct Meta {
            #[serde(default)]
            labels: HashMap<String, String>,
            #[serde(default)]
            annotations: HashMap<String, String>,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec {
            #[serde(default)]
            renew_time: Option<String>,
        }
        let Object { mut metadata, spec } = serde_json::from_str(raw).ok()?;
        let told = metadata.annotations.get(names::ANNOTATION_TOWER_AGENTS);
        Some(Self {
            replica: metadata.labels.remove(names::LABEL_TOWER_REPLICA)?,
            renewed: spec.renew_time.unwrap_or_default(),
            agents: told.and_then(|told| serde_json::from_str(told).ok()).unwrap_or_default(),
        })
    }
}

impl Replicas {
    /// Nothing is known yet by the replica `own`.
    pub(crate) fn new(own: &str) -> Self {
        Self { own: own.to_owned(), seen: HashMap::new(), unlisted: None, complete: false }
    }

    /// All Leases are told from the beginning.
    pub(crate) fn begin(&mut self) {
        self.unlisted = Some(self.seen.keys().cloned().collect());
    }

    /// All Leases have been told.
    pub(crate) fn end(&mut self) {
        for replica in self.unlisted.take().into_iter().flatten() {
            self.seen.remove(&replica);
        }
        self.complete = true;
    }

    /// A Lease is there. It counts as renewed only if it says so: others may write it for other reasons.
    pub(crate) fn put(&mut self, lease: Lease, now: Instant) {
        if lease.replica == self.own {
            return;
        }
        if let Some(unlisted) = &mut self.unlisted {
            unlisted.remove(&lease.replica);
        }
        let Lease { replica, renewed, agents } = lease;
        match self.seen.get_mut(&replica) {
            Some(seen) => {
                if seen.renewed != renewed {
                    (seen.renewed, seen.at) = (renewed, now);
                }
                seen.agents = agents;
            }
            None => drop(self.seen.insert(replica, Seen { renewed, agents, at: now })),
        }
    }

    /// A Lease is gone.
    pub(crate) fn gone(&mut self, replica: &str) {
        self.seen.remove(replica);
    }

    /// Whether the Leases have been told at least once.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    fn alive(&self, now: Instant) -> impl Iterator<Item = &Seen> {
        self.seen.values().filter(move |seen| now.duration_since(seen.at) < LEASE)
    }

    /// How many replicas are alive, this one among them.
    pub(crate) fn count(&self, now: Instant) -> usize {
        1 + self.alive(now).count()
    }

    /// Whether another replica has a session with an agent of `cluster`.
    pub(crate) fn has(&self, cluster: &str, now: Instant) -> bool {
        self.alive(now).any(|seen| seen.agents.get(cluster).is_some_and(|count| *count > 0))
    }

    /// The clusters whose agents other replicas have.
    pub(crate) fn clusters(&self, now: Instant) -> BTreeSet<&str> {
        let all = self.alive(now).flat_map(|seen| &seen.agents);
        all.filter(|(_, count)| **count > 0).map(|(cluster, _)| cluster.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(replica: &str, renewed: &str, cluster: &str) -> Lease {
        Lease { replica: replica.into(), renewed: renewed.into(), agents: [(cluster.to_owned(), 1)].into() }
    }

    #[test]
    fn a_lease_is_read_and_others_are_passed_over() {
        let raw = r#"{"metadata":{"name":"x","labels":{"tower.kubesphere.io/replica":"a"},
            "annotations":{"tower.kubesphere.io/agents":"{\"m1\":2}"}},"spec":{"renewTime":"t"}}"#;
        let read = Lease::read(raw).unwrap();
        assert_eq!((read.replica.as_str(), read.renewed.as_str(), read.agents["m1"]), ("a", "t", 2));
        assert_eq!(Lease::read(r#"{"metadata":{"name":"x"},"spec":{}}"#), None);
        let odd = r#"{"metadata":{"labels":{"tower.kubesphere.io/replica":"a"},"annotations":{"tower.kubesphere.io/agents":"["}}}"#;
        assert!(Lease::read(odd).unwrap().agents.is_empty());
    }

    #[test]
    fn a_replica_lives_as_long_as_it_renews_its_lease() {
        let mut replicas = Replicas::new("own");
        let now = Instant::now();
        replicas.put(lease("own", "1", "m"), now);
        replicas.put(lease("a", "1", "m1"), now);
        assert_eq!((replicas.count(now), replicas.has("m1", now), replicas.has("m", now)), (2, true, false));
        let later = now + LEASE;
        replicas.put(lease("a", "1", "m2"), later - Duration::from_secs(1));
        assert_eq!(
            (replicas.count(later), replicas.has("m2", later)),
            (1, false),
            "it was written, not renewed"
        );
        replicas.put(lease("a", "2", "m2"), later);
        assert_eq!((replicas.count(later), replicas.clusters(later)), (2, BTreeSet::from(["m2"])));
        replicas.gone("a");
        assert_eq!(replicas.count(later), 1);
    }

    #[test]
    fn what_a_listing_does_not_name_is_gone() {
        let mut replicas = Replicas::new("own");
        let now = Instant::now();
        assert!(!replicas.is_complete());
        replicas.put(lease("a", "1", "m"), now);
        replicas.put(lease("b", "1", "m"), now);
        replicas.begin();
        replicas.put(lease("b", "1", "m"), now);
        replicas.put(lease("c", "1", "m"), now);
        assert_eq!(replicas.count(now), 4, "nothing is concluded from half a listing");
        replicas.end();
        assert_eq!((replicas.count(now), replicas.is_complete()), (3, true));
    }
}
