//! Whole federated objects between their arrival and the look at them, so that they need not be read again to be propagated.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::key::Key;

/// How many bytes are kept at the most, over all types; what finds no room is read again when it is needed.
const ROOM: usize = 16 << 20;

/// The bodies of one type; `used` is what all types use together.
#[derive(Debug)]
pub(crate) struct Bodies {
    texts: Mutex<HashMap<Key, Box<str>>>,
    used: Arc<AtomicUsize>,
}

impl Bodies {
    pub(crate) fn new(used: Arc<AtomicUsize>) -> Self {
        Self { texts: Mutex::default(), used }
    }

    fn texts(&self) -> MutexGuard<'_, HashMap<Key, Box<str>>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a body, in place of an earlier one, if there is room.
    pub(crate) fn put(&self, key: &Key, body: &str) {
        self.take(key);
        if self.used.load(Ordering::Relaxed).saturating_add(body.len()) > ROOM {
            return;
        }
        self.used.fetch_add(body.len(), Ordering::Relaxed);
        self.texts().insert(key.clone(), body.into());
    }

    /// Gives a body away, if it is there.
    pub(crate) fn take(&self, key: &Key) -> Option<Box<str>> {
        let mut texts = self.texts();
        let body = texts.remove(key)?;
        if texts.is_empty() {
            texts.shrink_to_fit();
        }
        self.used.fetch_sub(body.len(), Ordering::Relaxed);
        Some(body)
    }
}

impl Drop for Bodies {
    fn drop(&mut self) {
        let left: usize = self.texts().values().map(|body| body.len()).sum();
        self.used.fetch_sub(left, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_there_is_room_for_and_what_is_taken_makes_room() {
        let used = Arc::default();
        let (one, other) = (Bodies::new(Arc::clone(&used)), Bodies::new(Arc::clone(&used)));
        let large = "x".repeat(ROOM / 2);
        let key = |name| Key::new("n", name);
        one.put(&key("a"), &large);
        one.put(&key("a"), &large);
        other.put(&key("a"), &large);
        other.put(&key("b"), "x");
        assert_eq!((used.load(Ordering::Relaxed), other.take(&key("b"))), (ROOM, None));
        assert!(one.take(&key("a")).is_some() && one.take(&key("a")).is_none());
        other.put(&key("b"), "x");
        assert_eq!(other.take(&key("b")).as_deref(), Some("x"));
        drop(other);
        assert_eq!(used.load(Ordering::Relaxed), 0);
    }
}
