//! The store against a model that keeps every state it ever had.

use std::collections::BTreeMap;

use futures::FutureExt;
use proptest::prelude::*;

use super::*;

/// What the history holds at most.
const HISTORY: u64 = 16;

type Place = (String, String);
type Snapshot = BTreeMap<Place, (u64, u64)>;

#[derive(Debug, Clone)]
enum Action {
    Put { place: usize, right: bool },
    Delete { place: usize, right: bool },
    List { back: u64, namespace: Option<usize>, after: Option<usize>, limit: usize },
    Watch { back: u64, namespace: Option<usize> },
    Follow,
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    let namespace = || proptest::option::of(0usize..3);
    let right = || proptest::bool::weighted(0.8);
    prop_oneof![
        8 => (0usize..6, right()).prop_map(|(place, right)| Action::Put { place, right }),
        4 => (0usize..6, right()).prop_map(|(place, right)| Action::Delete { place, right }),
        4 => (0u64..24, namespace(), proptest::option::of(0usize..6), 0usize..4)
            .prop_map(|(back, namespace, after, limit)| Action::List { back, namespace, after, limit }),
        3 => (0u64..24, namespace()).prop_map(|(back, namespace)| Action::Watch { back, namespace }),
        3 => Just(Action::Follow),
        1 => Just(Action::Restart),
    ]
}

fn namespace(number: usize) -> String {
    format!("n{number}")
}

fn place(number: usize) -> Place {
    (namespace(number % 3), format!("o{}", number / 2))
}

/// The part of a state that is in a namespace.
fn within(state: &Snapshot, namespace: Option<&str>) -> Snapshot {
    let inside = |place: &Place| namespace.is_none_or(|namespace| place.0 == namespace);
    state.iter().filter(|(place, _)| inside(place)).map(|(place, entry)| (place.clone(), *entry)).collect()
}

fn described(entry: &Entry) -> (Place, (u64, u64)) {
    ((entry.key.namespace.clone(), entry.key.name.clone()), (entry.revision, value(entry)))
}

struct Run {
    path: Option<PathBuf>,
    store: Store,
    /// The state at each revision.
    states: Vec<Snapshot>,
    started: u64,
    followed: Watch,
}

impl Run {
    fn open(path: Option<&Path>) -> Store {
        let limits = Limits { events: HISTORY as usize, ..Limits::default() };
        path.map_or_else(
            || Store::memory_with(limits),
            |path| Store::open_with(path, project, limits).unwrap(),
        )
    }

    fn new(path: Option<PathBuf>) -> Self {
        let store = Self::open(path.as_deref());
        let followed = store.watch("pods", None, 0).unwrap();
        Self { path, store, states: vec![Snapshot::new()], started: 0, followed }
    }

    fn revision(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    /// Whether a revision has to be served, must not be, or may be.
    fn served(&self, revision: u64) -> Option<bool> {
        match revision {
            early if early < self.started => Some(false),
            late if late + HISTORY >= self.revision() => Some(true),
            _ => None,
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Put { place: number, right } => self.write(place(number), right, true).await,
            Action::Delete { place: number, right } => self.write(place(number), right, false).await,
            Action::List { back, namespace: number, after, limit } => {
                self.list(
                    self.revision().saturating_sub(back),
                    number.map(namespace),
                    after.map(place),
                    limit,
                );
            }
            Action::Watch { back, namespace: number } => {
                let (from, namespace) = (self.revision().saturating_sub(back), number.map(namespace));
                match self.store.watch("pods", namespace.as_deref(), from) {
                    Ok(mut watch) => {
                        assert_ne!(self.served(from), Some(false));
                        assert_eq!(self.follow(&mut watch, namespace.as_deref(), from), Ok(()));
                    }
                    Err(compacted) => {
                        assert_ne!(self.served(from), Some(true));
                        assert_eq!((compacted.requested, compacted.current), (from, self.revision()));
                    }
                }
            }
            Action::Follow => {
                let mut watch = self.store.watch("pods", None, self.revision()).unwrap();
                std::mem::swap(&mut watch, &mut self.followed);
                let from = watch.progress().map(|_| ());
                if let Err(error) = from {
                    assert!(matches!(error, WatchError::Compacted(_)));
                } else {
                    let first = self.drain(&mut watch);
                    self.check(&first, None);
                }
            }
            Action::Restart => {
                let Some(path) = &self.path else { return };
                self.store.close().await;
                let mut last = None;
                while let Some(end) = self.followed.next().now_or_never() {
                    last = Some(end);
                    if matches!(last, Some(Err(_))) {
                        break;
                    }
                }
                assert!(matches!(last, Some(Err(_))), "a watch of a closed store has to end");
                self.store = Self::open(Some(path));
                self.started = self.revision();
                self.followed = self.store.watch("pods", None, self.started).unwrap();
            }
        }
        assert_eq!(self.store.revision(), self.revision());
    }

    async fn write(&mut self, place: Place, right: bool, keep: bool) {
        let mut state = self.states.last().unwrap().clone();
        let key = key(&place.0, &place.1);
        let current = state.get(&place).map(|(revision, _)| *revision);
        let revision = self.revision() + 1;
        let expect = match (current, right) {
            (Some(current), true) => Expect::Revision(current),
            (None, true) if keep => Expect::Absent,
            (None, _) => Expect::Revision(revision),
            (Some(_), false) if keep => Expect::Absent,
            (Some(current), false) => Expect::Revision(current + 1),
        };
        let op = match keep {
            true => put(&key, expect, revision * 10),
            false => {
                Op::Delete { key: key.clone(), expect, last: Draft::new(&object(&key, 0), Facts::default()) }
            }
        };
        match self.store.write(op).await {
            Ok(entry) => {
                assert!(right && (keep || current.is_some()));
                assert_eq!(entry.revision, revision);
                match keep {
                    true => state.insert(place, (revision, revision * 10)),
                    false => state.remove(&place),
                };
                self.states.push(state);
            }
            Err(WriteError::Exists(entry)) => {
                assert_eq!((expect, Some(entry.revision)), (Expect::Absent, current));
            }
            Err(WriteError::Changed { current: found }) => {
                assert_eq!(found.as_ref().map(|entry| entry.revision), current);
                assert!(matches!(expect, Expect::Revision(expected) if Some(expected) != current));
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(
            self.store.get(&key).map(|entry| described(&entry).1),
            self.states.last().unwrap().get(&(key.namespace, key.name)).copied()
        );
    }

    fn list(&self, at: u64, namespace: Option<String>, after: Option<Place>, limit: usize) {
        let behind = after.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let mut expected: Vec<_> =
            within(&self.states[at as usize], namespace.as_deref()).into_iter().collect();
        expected.retain(|(place, _)| after.as_ref().is_none_or(|after| after < place));
        let rest = expected.split_off(if limit == 0 { expected.len() } else { limit.min(expected.len()) });
        match self.store.list("pods", namespace.as_deref(), behind, Some(at), limit) {
            Ok(page) => {
                assert!(at == self.revision() || self.served(at) != Some(false));
                let found: Vec<_> = page.entries.iter().map(|entry| described(entry)).collect();
                assert_eq!((found, page.revision), (expected, at));
                assert_eq!((page.remaining, page.more), (rest.len() as u64, !rest.is_empty()));
            }
            Err(compacted) => {
                assert_ne!(self.served(at), Some(true));
                assert_eq!((compacted.requested, compacted.current), (at, self.revision()));
            }
        }
    }

    fn drain(&self, watch: &mut Watch) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = watch.next().now_or_never() {
            events.push(event.unwrap());
        }
        assert_eq!(watch.progress(), Ok(self.revision()));
        events
    }

    /// Reads a watch to its end and holds every event against the states before and after it.
    fn follow(&self, watch: &mut Watch, namespace: Option<&str>, from: u64) -> Result<(), WatchError> {
        let events = self.drain(watch);
        self.check(&events, namespace);
        let mut state = within(&self.states[from as usize], namespace);
        for event in &events {
            let (place, entry) = described(&event.entry);
            match event.kind {
                EventKind::Put { .. } => state.insert(place, entry),
                EventKind::Delete => state.remove(&place),
            };
            assert_eq!(state, within(&self.states[event.revision() as usize], namespace));
        }
        assert_eq!(state, within(self.states.last().unwrap(), namespace));
        Ok(())
    }

    fn check(&self, events: &[Event], namespace: Option<&str>) {
        for event in events {
            let (place, entry) = described(&event.entry);
            assert!(namespace.is_none_or(|namespace| namespace == place.0));
            let (before, after) =
                (&self.states[event.revision() as usize - 1], &self.states[event.revision() as usize]);
            assert_eq!(event.previous.as_ref().map(|entry| described(entry).1), before.get(&place).copied());
            match event.kind {
                EventKind::Put { created } => {
                    assert_eq!((Some(&entry), created), (after.get(&place), !before.contains_key(&place)));
                }
                EventKind::Delete => assert!(!after.contains_key(&place)),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_store_behaves_as_a_list_of_all_its_states(
        durable in proptest::bool::weighted(0.3),
        actions in proptest::collection::vec(action(), 1..80),
    ) {
        let (_directory, path) = file();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new(durable.then_some(path));
            for action in actions {
                run.act(action).await;
            }
            run.store.close().await;
        });
    }
}
