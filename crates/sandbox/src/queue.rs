//! A queue of keys: each at most once, never worked on twice at a time, and again later when work on it failed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::object::Key;

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Key>,
    /// What is in `ready`.
    waiting: BTreeSet<Key>,
    running: BTreeSet<Key>,
    /// Added while running: to be run again.
    dirty: BTreeSet<Key>,
    delayed: BTreeSet<(Instant, Key)>,
    failures: BTreeMap<Key, u32>,
}

impl State {
    fn add(&mut self, key: Key) {
        if self.running.contains(&key) {
            self.dirty.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }
}

/// The queue of one controller. It never holds more than there are objects, since keys are not repeated.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

impl Queue {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// To be worked on as soon as possible.
    pub(crate) fn add(&self, key: Key) {
        self.with(|state| state.add(key));
        self.changed.notify_one();
    }

    /// To be worked on after some time.
    pub(crate) fn add_after(&self, key: Key, delay: Duration) {
        self.with(|state| state.delayed.insert((Instant::now() + delay, key)));
        self.changed.notify_one();
    }

    /// The next key. Whoever takes it answers with [`Queue::done`] or [`Queue::failed`].
    pub(crate) async fn next(&self) -> Key {
        loop {
            let (key, due) = self.with(|state| {
                let now = Instant::now();
                while state.delayed.first().is_some_and(|(due, _)| *due <= now) {
                    if let Some((_, key)) = state.delayed.pop_first() {
                        state.add(key);
                    }
                }
                let key = state.ready.pop_front();
                if let Some(key) = &key {
                    state.waiting.remove(key);
                    state.running.insert(key.clone());
                }
                (key, state.delayed.first().map(|(due, _)| *due))
            });
            match (key, due) {
                (Some(key), _) => return key,
                (None, Some(due)) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.changed.notified() => {}
                },
                (None, None) => self.changed.notified().await,
            }
        }
    }

    /// Work on `key` is done.
    pub(crate) fn done(&self, key: &Key) {
        self.with(|state| {
            state.failures.remove(key);
            state.running.remove(key);
            if state.dirty.remove(key) {
                state.add(key.clone());
            }
        });
        self.changed.notify_one();
    }

    /// Work on `key` failed: it comes again, later each time.
    pub(crate) fn failed(&self, key: &Key) {
        let delay = self.with(|state| {
            state.running.remove(key);
            state.dirty.remove(key);
            let failures = state.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            FIRST_RETRY.saturating_mul(1 << (*failures - 1).min(16)).min(LAST_RETRY)
        });
        self.add_after(key.clone(), delay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "n".into(), name: name.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_runs_again_when_it_was_added_while_running() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("b"));
        queue.done(&key("b"));
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
        queue.done(&key("a"));
        assert_eq!(queue.next().await, key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_later_each_time_until_one_succeeds() {
        let queue = Queue::default();
        let mut waits = Vec::new();
        queue.add(key("a"));
        for _ in 0..4 {
            let before = Instant::now();
            assert_eq!(queue.next().await, key("a"));
            waits.push(before.elapsed().as_millis());
            queue.failed(&key("a"));
        }
        assert_eq!(waits, [0, 20, 40, 80]);
        queue.next().await;
        queue.done(&key("a"));
        queue.add_after(key("a"), Duration::from_secs(5));
        let before = Instant::now();
        queue.next().await;
        assert_eq!(before.elapsed(), Duration::from_secs(5));
    }
}
