//! A queue of keys: each waits at most once, is worked on by at most one worker, and may be put off.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{self, Instant};

/// Room for so many keys is kept, however few there are.
const ROOMY: usize = 1_024;

/// The queue; its size is bounded by the number of distinct keys.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    waiting: HashSet<K>,
    active: HashSet<K>,
    /// Added while active: to be worked on again.
    again: HashSet<K>,
    delayed: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    serial: u64,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            active: HashSet::new(),
            again: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            serial: 0,
        };
        Self { state: Mutex::new(state), wake: Notify::new() }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a key, to be worked on as soon as possible.
    pub(crate) fn add(&self, key: K) {
        self.state().push(key);
        self.wake.notify_one();
    }

    /// Adds a key after a delay; of several delays the shortest holds.
    pub(crate) fn add_after(&self, key: K, delay: Duration) {
        let at = Instant::now() + delay;
        let mut state = self.state();
        if let Some(due) = state.due.get(&key).copied() {
            if due.0 <= at {
                return;
            }
            state.delayed.remove(&due);
        }
        state.serial += 1;
        let due = (at, state.serial);
        state.due.insert(key.clone(), due);
        state.delayed.insert(due, key);
        drop(state);
        self.wake.notify_one();
    }

    /// Takes back an [`Queue::add_after`] that has not come due.
    pub(crate) fn put_off_no_more(&self, key: &K) {
        let mut state = self.state();
        if let Some(due) = state.due.remove(key) {
            state.delayed.remove(&due);
        }
    }

    /// The next key; it is the caller's until [`Queue::done`].
    pub(crate) async fn next(&self) -> K {
        loop {
            let next_due = {
                let mut state = self.state();
                state.ripen(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.active.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.keys().next().map(|(at, _)| *at)
            };
            match next_due {
                Some(at) => {
                    let _ = time::timeout_at(at, self.wake.notified()).await;
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// Whether a key waits for a worker.
    pub(crate) fn is_busy(&self) -> bool {
        !self.state().ready.is_empty()
    }

    /// How many keys wait for a worker.
    pub(crate) fn len(&self) -> usize {
        self.state().ready.len()
    }

    /// Gives a key back; if it was added meanwhile, it is next in line again.
    pub(crate) fn done(&self, key: &K) {
        let mut state = self.state();
        state.active.remove(key);
        if state.ready.is_empty() && state.ready.capacity() > ROOMY {
            state.give_room_back();
        }
        if state.again.remove(key) {
            state.push(key.clone());
            drop(state);
            self.wake.notify_one();
        }
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// After a flood of keys.
    fn give_room_back(&mut self) {
        self.ready.shrink_to_fit();
        self.waiting.shrink_to_fit();
        self.again.shrink_to_fit();
        self.due.shrink_to_fit();
    }

    fn push(&mut self, key: K) {
        if self.active.contains(&key) {
            self.again.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn ripen(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            self.due.remove(&key);
            self.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue<&'static str> {
        Queue::default()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once() {
        let queue = queue();
        for key in ["a", "b", "a"] {
            queue.add(key);
        }
        assert_eq!((queue.next().await, queue.next().await), ("a", "b"));
        assert!(time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_it_is_worked_on_comes_again_afterwards() {
        let queue = queue();
        queue.add("a");
        let key = queue.next().await;
        queue.add("a");
        assert!(time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
        queue.done(&key);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_delays_the_shorter_holds() {
        let queue = queue();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("a", Duration::from_secs(2));
        queue.add_after("a", Duration::from_secs(5));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 2);
        queue.done(&"a");
        assert!(time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_worker_is_woken_by_an_earlier_key() {
        let queue = std::sync::Arc::new(queue());
        queue.add_after("late", Duration::from_secs(9));
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.add("early");
        assert_eq!(worker.await.unwrap(), "early");
    }

    #[tokio::test]
    async fn several_workers_share_the_keys() {
        let queue = std::sync::Arc::new(Queue::default());
        let workers = (0..4).map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while let Ok(key) = time::timeout(Duration::from_millis(200), queue.next()).await {
                    seen.push(key);
                    queue.done(&key);
                }
                seen
            })
        });
        let workers: Vec<_> = workers.collect();
        (0..100).for_each(|key| queue.add(key));
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.await.unwrap());
        }
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }
}
