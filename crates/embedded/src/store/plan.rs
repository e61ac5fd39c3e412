//! Deciding what a batch of writes does, before anything is written.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Draft, Entry, Event, EventKind, Key, WriteError};

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Absent,
    /// The object as of this revision.
    Revision(u64),
}

/// One write.
#[derive(Debug, Clone)]
pub enum Op {
    /// Creates or replaces an object.
    Put {
        /// Where.
        key: Key,
        /// What must be there.
        expect: Expect,
        /// The object.
        draft: Draft,
    },
    /// Deletes an object.
    Delete {
        /// Where.
        key: Key,
        /// What must be there.
        expect: Expect,
        /// The final state that watchers are shown.
        last: Draft,
    },
}

/// What a batch will do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The changes, at consecutive revisions.
    pub(super) events: Vec<Event>,
    /// The answer to each write in turn, to be given when the changes are durable.
    pub(super) answers: Vec<Result<Arc<Entry>, WriteError>>,
}

/// Holds each write against the committed state and the writes before it, and numbers those that pass.
pub(super) fn plan(
    ops: impl IntoIterator<Item = Op>,
    revision: u64,
    committed: impl Fn(&Key) -> Option<Arc<Entry>>,
) -> Plan {
    let mut plan = Plan::default();
    let mut pending: HashMap<Key, Option<Arc<Entry>>> = HashMap::new();
    for op in ops {
        let (key, expect, draft, delete) = match op {
            Op::Put { key, expect, draft } => (key, expect, draft, false),
            Op::Delete { key, expect, last } => (key, expect, last, true),
        };
        let current = pending.get(&key).cloned().unwrap_or_else(|| committed(&key));
        let answer = match (expect, current) {
            (Expect::Absent, Some(current)) => Err(WriteError::Exists(current)),
            (Expect::Revision(expected), current)
                if current.as_ref().map(|entry| entry.revision) != Some(expected) =>
            {
                Err(WriteError::Changed { current })
            }
            (_, previous) => {
                let revision = revision + 1 + plan.events.len() as u64;
                let entry = Arc::new(draft.fill(key.clone(), revision));
                let kind = match delete {
                    true => EventKind::Delete,
                    false => EventKind::Put { created: previous.is_none() },
                };
                pending.insert(key, (!delete).then(|| entry.clone()));
                plan.events.push(Event { kind, entry: entry.clone(), previous });
                Ok(entry)
            }
        };
        plan.answers.push(answer);
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Facts;
    use super::*;

    fn key() -> Key {
        Key::new("pods", "x", "a")
    }

    fn draft() -> Draft {
        Draft::new(&json!({}), Facts::default())
    }

    fn put(expect: Expect) -> Op {
        Op::Put { key: key(), expect, draft: draft() }
    }

    fn delete(expect: Expect) -> Op {
        Op::Delete { key: key(), expect, last: draft() }
    }

    #[test]
    fn a_write_is_held_against_those_before_it_in_its_group() {
        let ops = [
            put(Expect::Absent),
            put(Expect::Absent),
            put(Expect::Revision(8)),
            put(Expect::Revision(8)),
            delete(Expect::Revision(9)),
            delete(Expect::Revision(9)),
            put(Expect::Absent),
        ];
        let Plan { events, answers } = plan(ops, 7, |_| None);
        let revisions: Vec<_> = events.iter().map(Event::revision).collect();
        assert_eq!(revisions, [8, 9, 10, 11]);
        assert_eq!(events[0].kind, EventKind::Put { created: true });
        assert_eq!(events[1].kind, EventKind::Put { created: false });
        assert_eq!(events[2].kind, EventKind::Delete);
        assert_eq!(events[3].kind, EventKind::Put { created: true });
        assert_eq!(events[1].previous.as_ref(), Some(&events[0].entry));
        assert_eq!(events[2].previous.as_ref(), Some(&events[1].entry));
        assert_eq!(events[3].previous, None);

        let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert!(matches!(refused[0], WriteError::Exists(entry) if entry.revision == 8));
        assert!(matches!(refused[1], WriteError::Changed { current: Some(entry) } if entry.revision == 9));
        assert!(matches!(refused[2], WriteError::Changed { current: None }));
        assert_eq!((answers.len(), refused.len()), (7, 3));
    }

    #[test]
    fn a_write_is_held_against_the_committed_state() {
        let committed = Arc::new(draft().fill(key(), 5));
        let found = |_: &Key| Some(committed.clone());
        assert!(matches!(plan([put(Expect::Absent)], 7, found).answers[0], Err(WriteError::Exists(_))));
        assert!(matches!(
            plan([put(Expect::Revision(7))], 7, found).answers[0],
            Err(WriteError::Changed { .. })
        ));
        let Plan { events, .. } = plan([delete(Expect::Revision(5))], 7, found);
        assert_eq!((events[0].revision(), events[0].previous.as_ref()), (8, Some(&committed)));
    }
}
