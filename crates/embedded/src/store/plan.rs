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
