//! The committed state in memory: what is, and for a while what was.
//!
//! Current entries are kept per resource, in order. One bounded history of events serves watches and lists at an
//! exact revision: a list in the past is the present with the later events undone.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch::Sender;

use super::log::weight;
use super::{Compacted, Entry, Event, EventKind, Key, Page};

/// How finely the age of the history is known.
const TICK: Duration = Duration::from_secs(1);

/// How many events expire at once, lest the first write after a quiet time keeps readers waiting.
const EXPIRE: usize = 1000;

/// How much history is kept; whichever bound is reached first counts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events.
    pub events: usize,
    /// Bytes of the objects that are kept only for it.
    pub bytes: usize,
    /// Their age.
    pub age: Duration,
}

impl Default for Limits {
    /// Enough for a client that pages or reconnects; etcd's usual compaction is five minutes as well.
    fn default() -> Self {
        Self { events: 50_000, bytes: 32 << 20, age: Duration::from_secs(300) }
    }
}

/// The whole committed state.
pub(super) struct State {
    pub(super) revision: u64,
    pub(super) closed: bool,
    pub(super) meta: HashMap<String, Vec<u8>>,
    limits: Limits,
    /// The revision at start: what came before is not known.
    floor: u64,
    collections: HashMap<Arc<str>, Collection>,
    dependents: HashMap<String, BTreeSet<Key>>,
    /// What the current entries take on disk.
    bytes: u64,
    history: VecDeque<Event>,
    history_bytes: usize,
    /// When which revision was reached, coarsely.
    clock: VecDeque<(Instant, u64)>,
    /// The newest revision that is too old to keep.
    expired: u64,
}

type Names = BTreeMap<String, Arc<Entry>>;

/// The objects of one resource.
struct Collection {
    namespaces: BTreeMap<String, Names>,
    all: Lane,
    lanes: HashMap<String, Lane>,
}

/// The events of one resource, or of one namespace of it, and those who wait for more.
pub(super) struct Lane {
    events: VecDeque<Event>,
    /// The newest event that was dropped: a watch can start from here.
    floor: u64,
    pub(super) signal: Sender<()>,
}

impl Lane {
    fn new(floor: u64) -> Self {
        Self { events: VecDeque::new(), floor, signal: Sender::new(()) }
    }

    /// The events after a revision, oldest first.
    pub(super) fn after(
        &self,
        revision: u64,
        current: u64,
    ) -> Result<impl Iterator<Item = &Event>, Compacted> {
        if revision < self.floor {
            return Err(Compacted { requested: revision, oldest: self.floor, current });
        }
        let start = self.events.partition_point(|event| event.revision() <= revision);
        Ok(self.events.range(start..))
    }

    /// Adds an event of the batch that began after `before`, and notes whom it wakes.
    fn push(&mut self, event: &Event, before: u64, signals: &mut Vec<Sender<()>>) {
        let first = self.events.back().is_none_or(|last| last.revision() <= before);
        if first && self.signal.receiver_count() > 0 {
            signals.push(self.signal.clone());
        }
        self.events.push_back(event.clone());
    }

    fn idle(&self) -> bool {
        self.events.is_empty() && self.signal.receiver_count() == 0
    }

    /// Drops the oldest event, which is the one at this revision.
    fn forget(&mut self, revision: u64) {
        self.events.pop_front();
        self.floor = revision;
        if self.events.len() * 4 < self.events.capacity() {
            self.events.shrink_to(self.events.len() * 2);
        }
    }
}

impl Collection {
    fn new(floor: u64) -> Self {
        Self { namespaces: BTreeMap::new(), all: Lane::new(floor), lanes: HashMap::new() }
    }

    fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Entry>> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// Current entries in order, from behind a place on.
    fn entries<'a>(&'a self, scope: Scope<'a>) -> impl Iterator<Item = &'a Arc<Entry>> {
        let Scope { namespace, after } = scope;
        let from =
            namespace.or(after.map(|(namespace, _)| namespace)).map_or(Bound::Unbounded, Bound::Included);
        let upto = namespace.map_or(Bound::Unbounded, Bound::Included);
        self.namespaces.range::<str, _>((from, upto)).flat_map(move |(namespace, names)| {
            let start = match after.map(|(last, name)| (last.cmp(namespace), name)) {
                Some((Ordering::Greater, _)) => None,
                Some((Ordering::Equal, name)) => Some(Bound::Excluded(name)),
                Some((Ordering::Less, _)) | None => Some(Bound::Unbounded),
            };
            start
                .map(|start| names.range::<str, _>((start, Bound::Unbounded)).map(|(_, entry)| entry))
                .into_iter()
                .flatten()
        })
    }

    fn lane(&self, namespace: Option<&str>) -> Option<&Lane> {
        namespace.map_or(Some(&self.all), |namespace| self.lanes.get(namespace))
    }

    fn lane_or_new(&mut self, namespace: Option<&str>) -> &mut Lane {
        match namespace {
            None => &mut self.all,
            Some(namespace) => {
                self.lanes.entry(namespace.to_owned()).or_insert_with(|| Lane::new(self.all.floor))
            }
        }
    }
}

/// Which entries of a resource a list covers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// One namespace, or all.
    pub(super) namespace: Option<&'a str>,
    /// Only what comes behind this namespace and name.
    pub(super) after: Option<(&'a str, &'a str)>,
}

impl Scope<'_> {
    fn contains(&self, key: &Key) -> bool {
        self.namespace.is_none_or(|namespace| namespace == key.namespace)
            && self.after.is_none_or(|after| after < key.place())
    }
}

/// What a batch of events leaves to do once the state is unlocked.
#[derive(Default)]
pub(super) struct Applied {
    /// Those who wait for the events.
    pub(super) signals: Vec<Sender<()>>,
    /// What fell out of the history, to be freed.
    pub(super) forgotten: Vec<Event>,
}

impl State {
    /// The state at start.
    pub(super) fn new(
        limits: Limits,
        revision: u64,
        entries: impl IntoIterator<Item = Entry>,
        meta: HashMap<String, Vec<u8>>,
    ) -> Self {
        let mut state = Self {
            revision,
            closed: false,
            meta,
            limits,
            floor: revision,
            collections: HashMap::new(),
            dependents: HashMap::new(),
            bytes: 0,
            history: VecDeque::new(),
            history_bytes: 0,
            clock: VecDeque::new(),
            expired: 0,
        };
        for entry in entries {
            let entry = Arc::new(entry);
            state.account(None, Some(&entry));
            let names = state
                .collection(&entry.key.resource)
                .namespaces
                .entry(entry.key.namespace.clone())
                .or_default();
            names.insert(entry.key.name.clone(), entry);
        }
        state
    }

    fn collection(&mut self, resource: &Arc<str>) -> &mut Collection {
        self.collections.entry(resource.clone()).or_insert_with(|| Collection::new(self.floor))
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.collections.get(&key.resource)?.get(&key.namespace, &key.name)
    }

    pub(super) fn count(&self, resource: &str) -> usize {
        self.collections
            .get(resource)
            .map_or(0, |collection| collection.namespaces.values().map(BTreeMap::len).sum())
    }

    /// The bytes that the current entries take on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The objects that name this uid as an owner.
    pub(super) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Key> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// The lane that a watch reads.
    pub(super) fn lane(&self, resource: &str, namespace: Option<&str>) -> Option<&Lane> {
        self.collections.get(resource)?.lane(namespace)
    }

    pub(super) fn lane_or_new(&mut self, resource: &Arc<str>, namespace: Option<&str>) -> &mut Lane {
        self.collection(resource).lane_or_new(namespace)
    }

    /// Gives up the lane of a namespace when nothing is in it and nobody waits for it.
    pub(super) fn release_lane(&mut self, resource: &str, namespace: &str) {
        if let Some(collection) = self.collections.get_mut(resource)
            && collection.lanes.get(namespace).is_some_and(Lane::idle)
        {
            collection.lanes.remove(namespace);
        }
    }

    /// All lanes, for telling everybody that the store is closed.
    pub(super) fn signals(&self) -> Vec<Sender<()>> {
        let lanes = |collection: &Collection| {
            let namespaced = collection.lanes.values().map(|lane| lane.signal.clone());
            namespaced.chain([collection.all.signal.clone()]).collect::<Vec<_>>()
        };
        self.collections.values().flat_map(lanes).collect()
    }

    /// Makes committed events visible, all at once.
    pub(super) fn apply(&mut self, events: Vec<Event>, now: Instant) -> Applied {
        let mut applied = Applied::default();
        let Some(before) = events.first().map(|first| first.revision() - 1) else { return applied };
        for event in events {
            self.revision = event.revision();
            self.history_bytes += event.weight();
            self.history.push_back(event.clone());
            let live = (event.kind != EventKind::Delete).then_some(&event.entry);
            self.account(event.previous.as_deref(), live.map(Arc::as_ref));

            let Key { resource, namespace, name } = &event.entry.key;
            let collection = self.collection(resource);
            match live {
                Some(entry) => {
                    let names = collection.namespaces.entry(namespace.clone()).or_default();
                    names.insert(name.clone(), entry.clone());
                }
                None => {
                    if let Some(names) = collection.namespaces.get_mut(namespace) {
                        names.remove(name);
                        if names.is_empty() {
                            collection.namespaces.remove(namespace);
                        }
                    }
                }
            }
            let namespace = Some(namespace.as_str()).filter(|namespace| !namespace.is_empty());
            collection.all.push(&event, before, &mut applied.signals);
            if namespace.is_some() {
                collection.lane_or_new(namespace).push(&event, before, &mut applied.signals);
            }
        }
        if self.clock.back().is_none_or(|(then, _)| now.duration_since(*then) >= TICK) {
            self.clock.push_back((now, self.revision));
        }
        applied.forgotten = self.forget(now);
        applied
    }

    /// Keeps what is known over all entries: `before` is no more, `after` is what came in its place.
    fn account(&mut self, before: Option<&Entry>, after: Option<&Entry>) {
        self.bytes = self.bytes + after.map_or(0, weight) - before.map_or(0, weight);
        if before.map(|entry| &entry.facts.owners) == after.map(|entry| &entry.facts.owners) {
            return;
        }
        for (entry, owner) in
            before.iter().flat_map(|entry| entry.facts.owners.iter().map(move |owner| (entry, owner)))
        {
            if let Some(keys) = self.dependents.get_mut(owner) {
                keys.remove(&entry.key);
                if keys.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
        for (entry, owner) in
            after.iter().flat_map(|entry| entry.facts.owners.iter().map(move |owner| (entry, owner)))
        {
            self.dependents.entry(owner.clone()).or_default().insert(entry.key.clone());
        }
    }

    /// Drops the oldest history until it is within its limits.
    fn forget(&mut self, now: Instant) -> Vec<Event> {
        while let Some((_, revision)) =
            self.clock.pop_front_if(|(then, _)| now.duration_since(*then) > self.limits.age)
        {
            self.expired = revision;
        }
        let mut forgotten = Vec::new();
        while let Some(oldest) = self.history.front()
            && (self.history.len() > self.limits.events
                || self.history_bytes > self.limits.bytes
                || (oldest.revision() <= self.expired && forgotten.len() < EXPIRE))
        {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= oldest.weight();
            let Key { resource, namespace, .. } = &oldest.entry.key;
            if let Some(collection) = self.collections.get_mut(resource) {
                collection.all.forget(oldest.revision());
                if let Some(lane) = collection.lanes.get_mut(namespace) {
                    lane.forget(oldest.revision());
                    if lane.idle() {
                        collection.lanes.remove(namespace);
                    }
                }
            }
            forgotten.push(oldest);
        }
        forgotten
    }

    /// Entries of a resource in order, now or as they were at a revision.
    pub(super) fn list(
        &self,
        resource: &str,
        scope: Scope<'_>,
        at: Option<u64>,
        limit: usize,
    ) -> Result<Page, Compacted> {
        let revision = at.unwrap_or(self.revision);
        let refused = |oldest| Compacted { requested: revision, oldest, current: self.revision };
        if revision > self.revision {
            return Err(refused(self.floor));
        }
        let Some(collection) = self.collections.get(resource) else {
            return if revision < self.floor {
                Err(refused(self.floor))
            } else {
                Ok(Page { revision, ..Page::default() })
            };
        };
        // What the later events replaced: the first of them for a key tells what it was.
        let mut was = BTreeMap::new();
        if revision < self.revision {
            for event in
                collection.lane(scope.namespace).unwrap_or(&collection.all).after(revision, self.revision)?
            {
                let key = &event.entry.key;
                if scope.contains(key) {
                    was.entry(key.place()).or_insert(event.previous.as_ref());
                }
            }
        }
        let unchanged = collection.entries(scope).filter(|entry| !was.contains_key(&entry.key.place()));
        let mut entries = merge(unchanged, was.values().copied().flatten());
        let limit = if limit == 0 { usize::MAX } else { limit };
        let page = entries.by_ref().take(limit).cloned().collect();
        let remaining = entries.count() as u64;
        Ok(Page { entries: page, revision, remaining, more: remaining > 0 })
    }
}

/// Merges two ordered runs of entries without common keys.
fn merge<'a>(
    left: impl Iterator<Item = &'a Arc<Entry>>,
    right: impl Iterator<Item = &'a Arc<Entry>>,
) -> impl Iterator<Item = &'a Arc<Entry>> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(l), Some(r)) if r.key < l.key => right.next(),
        (None, _) => right.next(),
        _ => left.next(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Draft, Facts};
    use super::*;

    fn event(namespace: &str, revision: u64, size: usize) -> Event {
        let key = Key::new("pods", namespace, revision.to_string());
        let entry = Draft::new(&json!({"filling": "x".repeat(size)}), Facts::default()).fill(key, revision);
        Event { kind: EventKind::Put { created: true }, entry: Arc::new(entry), previous: None }
    }

    /// The oldest revision that a list of all can be made for.
    fn oldest(state: &State) -> u64 {
        let everything = Scope { namespace: None, after: None };
        (0..=state.revision).find(|at| state.list("pods", everything, Some(*at), 0).is_ok()).unwrap()
    }

    fn state(limits: Limits) -> State {
        State::new(limits, 0, [], HashMap::new())
    }

    #[test]
    fn the_history_is_bounded_by_the_number_of_events() {
        let mut state = state(Limits { events: 3, ..Limits::default() });
        let now = Instant::now();
        let forgotten = state.apply((1..=5).map(|revision| event("x", revision, 0)).collect(), now).forgotten;
        assert_eq!(forgotten.iter().map(Event::revision).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(oldest(&state), 2);
    }

    #[test]
    fn the_history_is_bounded_by_the_bytes_it_alone_keeps() {
        let mut state = state(Limits { bytes: 10_000, ..Limits::default() });
        let now = Instant::now();
        state.apply((1..=10).map(|revision| event("x", revision, 4000)).collect(), now);
        assert_eq!(oldest(&state), 0);
        let replace = |state: &mut State, revision: u64| {
            let previous = state.history.back().map(|event| event.entry.clone());
            state.apply(vec![Event { previous, ..event("x", revision, 4000) }], now);
        };
        replace(&mut state, 11);
        replace(&mut state, 12);
        assert_eq!(oldest(&state), 0);
        replace(&mut state, 13);
        assert_eq!(oldest(&state), 11);
    }

    #[test]
    fn the_history_is_bounded_by_its_age() {
        let mut state = state(Limits { age: Duration::from_secs(60), ..Limits::default() });
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        state.apply(vec![event("x", 1, 0)], start);
        state.apply(vec![event("x", 2, 0)], after(30));
        assert_eq!(oldest(&state), 0);
        state.apply(vec![event("x", 3, 0)], after(61));
        assert_eq!(oldest(&state), 1);
        state.apply(vec![event("x", 4, 0)], after(300));
        assert_eq!(oldest(&state), 3);
    }

    #[test]
    fn much_history_expires_by_and_by() {
        let mut state = state(Limits { age: Duration::from_secs(60), ..Limits::default() });
        let (start, count) = (Instant::now(), EXPIRE as u64 + 10);
        let later = start + Duration::from_secs(100);
        state.apply((1..=count).map(|revision| event("x", revision, 0)).collect(), start);
        assert_eq!(state.apply(vec![event("x", count + 1, 0)], later).forgotten.len(), EXPIRE);
        assert_eq!(state.apply(vec![event("x", count + 2, 0)], later).forgotten.len(), 10);
        assert_eq!(oldest(&state), count);
    }

    #[test]
    fn only_those_who_wait_for_an_event_are_woken() {
        let mut state = state(Limits::default());
        let resource: Arc<str> = "pods".into();
        let all = state.lane_or_new(&resource, None).signal.subscribe();
        let one = state.lane_or_new(&resource, Some("x")).signal.subscribe();
        let _other = state.lane_or_new(&resource, Some("y")).signal.subscribe();
        let _unrelated = state.lane_or_new(&"services".into(), Some("x")).signal.subscribe();
        let applied = state.apply(vec![event("x", 1, 0), event("z", 2, 0), event("x", 3, 0)], Instant::now());
        assert_eq!(applied.signals.len(), 2);
        for signal in applied.signals {
            signal.send_replace(());
        }
        assert!(all.has_changed().unwrap() && one.has_changed().unwrap());
    }

    #[test]
    fn a_namespace_that_is_no_longer_watched_is_forgotten() {
        let mut state = state(Limits { events: 1, ..Limits::default() });
        let resource: Arc<str> = "pods".into();
        drop(state.lane_or_new(&resource, Some("never")).signal.subscribe());
        state.release_lane("pods", "never");
        state.apply(vec![event("x", 1, 0), event("y", 2, 0)], Instant::now());
        assert_eq!(state.collections["pods"].lanes.keys().collect::<Vec<_>>(), ["y"]);
    }
}
