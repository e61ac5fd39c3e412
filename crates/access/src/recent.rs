//! Answers worth remembering for some seconds, never more than a fixed number of them.

use std::{collections::HashMap, hash::Hash, sync::Mutex, time::Duration};

use tokio::time::Instant;

/// A bounded map whose entries are forgotten after a fixed time.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    entries: Mutex<HashMap<K, (Instant, V)>>,
    capacity: usize,
    lifetime: Duration,
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    /// At most `capacity` entries, each for `lifetime`.
    pub(crate) fn new(capacity: usize, lifetime: Duration) -> Self {
        Self { entries: Mutex::default(), capacity, lifetime }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, (Instant, V)>> {
        // The map holds only what can be asked for again, so a panic elsewhere leaves nothing half done in it.
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What was remembered under `key`, if it still holds.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let now = Instant::now();
        self.lock().get(key).filter(|(until, _)| *until > now).map(|(_, value)| value.clone())
    }

    /// Remembers `value`. A full map drops what has expired and, if nothing has, everything.
    pub(crate) fn put(&self, key: K, value: V) {
        let now = Instant::now();
        let mut entries = self.lock();
        if entries.len() >= self.capacity && !entries.contains_key(&key) {
            entries.retain(|_, (until, _)| *until > now);
            if entries.len() >= self.capacity {
                entries.clear();
            }
        }
        entries.insert(key, (now + self.lifetime, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_forgotten_after_its_time() {
        let recent = Recent::new(2, Duration::from_secs(10));
        recent.put("a", 1);
        assert_eq!(recent.get(&"a"), Some(1));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(recent.get(&"a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_never_holds_more_than_it_may() {
        let recent = Recent::new(2, Duration::from_secs(10));
        for key in 0..100 {
            recent.put(key, ());
            assert!(recent.lock().len() <= 2);
        }
        assert_eq!(recent.get(&99), Some(()));
    }
}
