//! Which replicas of the tower the agent is connected to, and when it dials again.
//!
//! All replicas are behind one address, so the agent cannot choose: it dials until it has met as many as there are. Each answer says which
//! replica gave it and how many there are. One that was met before refuses (409), which costs a wait and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::backoff::{Backoff, between};

/// The least wait before dialling again.
const LEAST: Duration = Duration::from_millis(200);
/// What the first retry is spread over: a tower that restarts is dialled by all its agents.
const SPREAD: Duration = Duration::from_secs(2);
/// The longest wait after failures.
const MOST: Duration = Duration::from_secs(30);
/// The longest wait after meeting replicas that are held already: a balancer may always lead to the same.
const MOST_DUPLICATES: Duration = Duration::from_secs(120);
/// How soon the next replica is dialled after one was met.
const NEXT: Duration = Duration::from_millis(500);
/// How often the tower is asked whether there are more replicas than are known, at least and at most: what it says on a
/// connection may be lost with the replica that says it.
const LOOK: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(180));
/// A connection that was held for this long was a good one: what comes after it is a first failure.
const LASTING: Duration = Duration::from_secs(10);
/// More replicas than this are not believed in.
const MAX_REPLICAS: usize = 16;

/// One connection; numbers are never used twice.
pub type Session = u64;

/// What became of a connection that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is kept, under this number.
    As(Session),
    /// There is one to the same replica already: it is to be closed.
    Duplicate,
}

/// The connections that are held, and when the next is dialled.
#[derive(Debug)]
pub struct Replicas {
    held: BTreeMap<Session, Held>,
    next: Session,
    wanted: usize,
    failures: Backoff,
    duplicates: Backoff,
    dial_at: Instant,
}

#[derive(Debug)]
struct Held {
    replica: Option<String>,
    since: Instant,
}

impl Replicas {
    /// No connection yet; the first is dialled at once.
    pub fn new(now: Instant) -> Self {
        Self {
            held: BTreeMap::new(),
            next: 0,
            wanted: 1,
            failures: Backoff::new(LEAST, SPREAD, MOST),
            duplicates: Backoff::new(LEAST, SPREAD, MOST_DUPLICATES),
            dial_at: now,
        }
    }

    /// When to dial next.
    pub fn dial_at(&self) -> Instant {
        self.dial_at
    }

    /// How many connections are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no connection is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many replicas there are, as far as the tower said.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// The replicas that are held and have a name.
    pub fn held(&self) -> impl Iterator<Item = &str> {
        self.held.values().filter_map(|held| held.replica.as_deref())
    }

    /// A connection was made, to `replica` of `wanted`.
    pub fn connected(
        &mut self,
        replica: Option<&str>,
        wanted: Option<usize>,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Keep {
        if replica.is_some_and(|replica| self.held().any(|held| held == replica)) {
            self.duplicate(replica, wanted, now, rng);
            return Keep::Duplicate;
        }
        self.learn(wanted);
        self.duplicates.reset();
        let session = self.next;
        self.next += 1;
        self.held.insert(session, Held { replica: replica.map(str::to_owned), since: now });
        self.dial_at = now
            + if self.is_complete() {
                between(LOOK.0, LOOK.1, rng)
            } else {
                between(Duration::ZERO, NEXT, rng)
            };
        Keep::As(session)
    }

    /// `replica` refused because it has a connection of this agent.
    pub fn duplicate(
        &mut self,
        replica: Option<&str>,
        wanted: Option<usize>,
        now: Instant,
        rng: &mut impl Rng,
    ) {
        self.learn(wanted);
        // A replica that remembers a connection which is not there any more will notice it soon.
        let remembered = replica.is_some_and(|replica| !self.held().any(|held| held == replica));
        let wait = if remembered || self.held.is_empty() {
            self.failures.next(rng)
        } else if self.is_complete() {
            self.duplicates.reset();
            between(LOOK.0, LOOK.1, rng)
        } else {
            self.duplicates.next(rng)
        };
        self.dial_at = now + wait;
    }

    /// Dialling failed; the tower may have said how long to wait at least.
    pub fn failed(&mut self, at_least: Option<Duration>, now: Instant, rng: &mut impl Rng) {
        let wait = self.failures.next(rng);
        let asked = at_least.unwrap_or_default().min(MOST);
        // All who were told the same number would come at the same moment.
        let wait = if asked > wait { asked + between(Duration::ZERO, SPREAD, rng) } else { wait };
        self.dial_at = now + wait;
    }

    /// A connection ended.
    pub fn ended(&mut self, session: Session, now: Instant, rng: &mut impl Rng) {
        let Some(held) = self.held.remove(&session) else { return };
        if now.saturating_duration_since(held.since) >= LASTING {
            self.failures.reset();
        }
        // A replica that goes does not come back under its name, and one that was cut off may be alone: both are told by the next answer.
        self.dial_at = self.dial_at.min(now + self.failures.next(rng));
    }

    /// The tower says on a connection how many replicas there are now. All its agents hear so at once, and come one after the other.
    pub fn told(&mut self, wanted: usize, now: Instant, rng: &mut impl Rng) {
        let before = self.wanted;
        self.learn(Some(wanted));
        if self.wanted != before && !self.is_complete() {
            self.dial_at = self.dial_at.min(now + between(Duration::ZERO, SPREAD, rng));
        }
    }

    fn learn(&mut self, wanted: Option<usize>) {
        if let Some(wanted) = wanted {
            self.wanted = wanted.clamp(1, MAX_REPLICAS);
        }
    }

    fn is_complete(&self) -> bool {
        self.held.len() >= self.wanted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn start() -> (Replicas, Instant, StdRng) {
        let now = Instant::now();
        (Replicas::new(now), now, StdRng::seed_from_u64(7))
    }

    #[test]
    fn the_agent_dials_until_it_has_met_every_replica() {
        let (mut replicas, mut now, mut rng) = start();
        assert_eq!(replicas.dial_at(), now);
        assert_eq!(replicas.connected(Some("a"), Some(3), now, &mut rng), Keep::As(0));
        assert!(replicas.dial_at() <= now + NEXT);
        now = replicas.dial_at();
        replicas.duplicate(Some("a"), Some(3), now, &mut rng);
        assert!(replicas.dial_at() >= now + LEAST && replicas.dial_at() <= now + SPREAD);
        assert_eq!(replicas.connected(Some("b"), Some(3), now, &mut rng), Keep::As(1));
        assert_eq!(replicas.connected(Some("b"), Some(3), now, &mut rng), Keep::Duplicate);
        assert_eq!(replicas.connected(Some("c"), Some(3), now, &mut rng), Keep::As(2));
        assert!(replicas.dial_at() >= now + LOOK.0, "all are met");
        assert_eq!(replicas.held().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn a_tower_that_says_it_grew_is_dialled_soon_and_one_that_shrank_is_not() {
        let (mut replicas, now, mut rng) = start();
        replicas.connected(Some("a"), Some(1), now, &mut rng);
        replicas.told(1, now, &mut rng);
        assert!(replicas.dial_at() >= now + LOOK.0);
        replicas.told(2, now, &mut rng);
        assert!(replicas.dial_at() <= now + SPREAD);
        replicas.connected(Some("b"), Some(2), now, &mut rng);
        replicas.told(1, now, &mut rng);
        assert!(replicas.dial_at() >= now + LOOK.0);
    }

    #[test]
    fn duplicates_are_backed_off_more_and_more_and_never_forever() {
        let (mut replicas, now, mut rng) = start();
        replicas.connected(Some("a"), Some(2), now, &mut rng);
        for _ in 0..100 {
            replicas.duplicate(Some("a"), Some(2), now, &mut rng);
            assert!(replicas.dial_at() <= now + MOST_DUPLICATES);
        }
    }

    #[test]
    fn a_tower_that_grew_is_found_by_looking_again() {
        let (mut replicas, now, mut rng) = start();
        replicas.connected(Some("a"), Some(1), now, &mut rng);
        let later = replicas.dial_at();
        assert!(later <= now + LOOK.1);
        replicas.duplicate(Some("a"), Some(2), later, &mut rng);
        assert!(replicas.dial_at() <= later + SPREAD);
    }

    #[test]
    fn a_replica_that_went_is_replaced_within_seconds() {
        let (mut replicas, now, mut rng) = start();
        replicas.connected(Some("a"), Some(2), now, &mut rng);
        replicas.connected(Some("b"), Some(2), now, &mut rng);
        let later = now + Duration::from_secs(50);
        replicas.ended(0, later, &mut rng);
        assert!(replicas.dial_at() >= later + LEAST && replicas.dial_at() <= later + SPREAD);
        assert_eq!(replicas.len(), 1);
        // One that is still remembered by its replica is tried again soon as well.
        replicas.duplicate(Some("a"), Some(2), later, &mut rng);
        assert!(replicas.dial_at() <= later + SPREAD * 2);
    }

    #[test]
    fn connections_that_do_not_last_count_as_failures() {
        let (mut replicas, mut now, mut rng) = start();
        for _ in 0..20 {
            let Keep::As(session) = replicas.connected(Some("a"), Some(1), now, &mut rng) else { panic!() };
            now += Duration::from_secs(1);
            replicas.ended(session, now, &mut rng);
        }
        assert_eq!(replicas.failures.ceiling(), MOST);
        let Keep::As(session) = replicas.connected(Some("a"), Some(1), now, &mut rng) else { panic!() };
        now += LASTING;
        replicas.ended(session, now, &mut rng);
        assert!(replicas.dial_at() <= now + SPREAD);
    }

    #[test]
    fn a_tower_that_asks_for_patience_gets_it_but_not_for_hours() {
        let (mut replicas, now, mut rng) = start();
        replicas.failed(Some(Duration::from_secs(20)), now, &mut rng);
        assert!(replicas.dial_at() >= now + Duration::from_secs(20));
        replicas.failed(Some(Duration::from_secs(86_400)), now, &mut rng);
        assert!(replicas.dial_at() <= now + MOST + SPREAD);
    }

    #[test]
    fn a_number_of_replicas_that_cannot_be_is_not_believed() {
        let (mut replicas, now, mut rng) = start();
        replicas.connected(Some("a"), Some(usize::MAX), now, &mut rng);
        assert_eq!(replicas.wanted(), MAX_REPLICAS);
        replicas.duplicate(Some("a"), Some(0), now, &mut rng);
        assert_eq!(replicas.wanted(), 1);
    }

    proptest! {
        /// Replicas come and go, and each dial meets any of them: never two connections to one, and never silence for longer than a look.
        #[test]
        fn whatever_happens_there_is_one_connection_a_replica_and_a_next_dial(
            steps in proptest::collection::vec((0_u8..4, 0_usize..4, 0_u64..20_000), 1..200),
            seed: u64,
        ) {
            let (mut replicas, mut now, _) = start();
            let mut rng = StdRng::seed_from_u64(seed);
            for (kind, which, millis) in steps {
                now += Duration::from_millis(millis);
                let name = format!("r{which}");
                match kind {
                    0 => { replicas.connected(Some(&name), Some(which + 1), now, &mut rng); }
                    1 => replicas.duplicate(Some(&name), None, now, &mut rng),
                    2 => replicas.failed(None, now, &mut rng),
                    _ => {
                        let any = replicas.held.keys().copied().nth(which);
                        if let Some(session) = any { replicas.ended(session, now, &mut rng); }
                    }
                }
                let mut names: Vec<&str> = replicas.held().collect();
                names.sort_unstable();
                names.dedup();
                prop_assert_eq!(names.len(), replicas.len());
                prop_assert!(replicas.dial_at() <= now + LOOK.1);
                if replicas.is_empty() {
                    prop_assert!(replicas.dial_at() <= now + MOST);
                }
            }
        }
    }
}
