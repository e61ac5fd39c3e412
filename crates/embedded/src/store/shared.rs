//! The committed state as readers, watchers and the writer share it.

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tokio::sync::watch::Sender;

use super::Event;
use super::state::{Applied, State};

/// The state behind a lock that is held for microseconds: to read, or to make a batch visible that is already durable.
pub(super) struct Shared {
    state: RwLock<State>,
}

impl fmt::Debug for Shared {
    /// Says nothing of the objects, some of which are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("revision", &self.read().revision).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self { state: RwLock::new(state) }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a committed batch visible and returns those to wake, which is best done last.
    pub(super) fn publish(&self, events: Vec<Event>, meta: Vec<(String, Vec<u8>)>) -> Vec<Sender<()>> {
        let Applied { signals, forgotten } = {
            let mut state = self.write();
            state.meta.extend(meta);
            state.apply(events, Instant::now())
        };
        // Freed without the lock.
        drop(forgotten);
        signals
    }

    /// Marks the store as closed and wakes everybody.
    pub(super) fn close(&self) {
        let signals = {
            let mut state = self.write();
            state.closed = true;
            state.signals()
        };
        wake(&signals);
    }
}

pub(super) fn wake(signals: &[Sender<()>]) {
    for signal in signals {
        signal.send_replace(());
    }
}
