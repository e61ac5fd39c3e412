//! Following changes.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch::{Receiver, Sender};

use super::shared::Shared;
use super::{Compacted, Entry, WatchError};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put {
        /// Whether it did not exist before.
        created: bool,
    },
    /// It was deleted.
    Delete,
}

/// One committed change.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The object as the change left it; for a deletion its final state, at the revision of the deletion.
    pub entry: Arc<Entry>,
    /// The object as it was before.
    pub previous: Option<Arc<Entry>>,
}

impl Event {
    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        self.entry.revision
    }

    /// The memory that keeping this event costs, about: what it replaced would be gone without it, while what it
    /// wrote is there anyway until another event replaces it.
    pub(super) fn weight(&self) -> usize {
        const OVERHEAD: usize = 128;
        let held = |entry: &Arc<Entry>| entry.object.len() + OVERHEAD;
        let deleted = (self.kind == EventKind::Delete).then_some(&self.entry);
        OVERHEAD + self.previous.iter().chain(deleted).map(held).sum::<usize>()
    }
}

/// How many events a watch takes from the history at once.
const CHUNK: usize = 32;

/// The changes of a resource, in order, from a revision on.
///
/// A watch reads the history that all share, so a slow one costs nothing; it ends with [`WatchError::Compacted`] when
/// what it would read next is no longer there.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    resource: Arc<str>,
    namespace: Option<String>,
    /// Everything up to here was taken from the history.
    position: u64,
    taken: VecDeque<Event>,
    signal: Receiver<()>,
}

impl Watch {
    pub(super) fn new(
        shared: Arc<Shared>,
        resource: Arc<str>,
        namespace: Option<&str>,
        from: u64,
    ) -> Result<Self, Compacted> {
        let signal = {
            let mut state = shared.write();
            let current = state.revision;
            let lane = state.lane_or_new(&resource, namespace);
            let signal = lane.after(from, current).map(|_| lane.signal.subscribe());
            if let (Err(_), Some(namespace)) = (&signal, namespace) {
                state.release_lane(&resource, namespace);
            }
            signal?
        };
        let namespace = namespace.map(str::to_owned);
        Ok(Self { shared, resource, namespace, position: from, taken: VecDeque::new(), signal })
    }

    /// The next change. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        loop {
            if let Some(event) = self.taken.pop_front() {
                return Ok(event);
            }
            // Before looking, so that what comes after the look wakes us.
            self.signal.borrow_and_update();
            let closed = self.take()?;
            if self.taken.is_empty() && (closed || self.signal.changed().await.is_err()) {
                return Err(WatchError::Closed);
            }
        }
    }

    /// The revision up to which [`Watch::next`] has returned everything: what a bookmark may say.
    pub fn progress(&mut self) -> Result<u64, WatchError> {
        if self.taken.is_empty() {
            self.take()?;
        }
        Ok(self.taken.front().map_or(self.position, |next| next.revision() - 1))
    }

    /// Takes the next events, if there are any; tells whether the store is closed.
    fn take(&mut self) -> Result<bool, Compacted> {
        let state = self.shared.read();
        if let Some(lane) = state.lane(&self.resource, self.namespace.as_deref()) {
            self.taken.extend(lane.after(self.position, state.revision)?.take(CHUNK).cloned());
        }
        self.position = match self.taken.back() {
            Some(last) => last.revision(),
            None => self.position.max(state.revision),
        };
        Ok(state.closed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Unsubscribed first, so that the lane can be seen to be idle.
        self.signal = Sender::new(()).subscribe();
        if let Some(namespace) = &self.namespace {
            self.shared.write().release_lane(&self.resource, namespace);
        }
    }
}
