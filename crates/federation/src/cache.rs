//! What is known of one type on the host: a watch that projects each object at the door and remembers when it has read them all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hansa_cluster::feed::{Feed, Object, Step};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::key::Key;

/// The projected objects of a type.
#[derive(Debug)]
pub(crate) struct Cache<T> {
    entries: RwLock<BTreeMap<Key, Arc<T>>>,
    synced: AtomicBool,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { entries: RwLock::default(), synced: AtomicBool::new(false) }
    }
}

/// What happened to a cache.
#[derive(Clone, Debug)]
pub(crate) enum Change<'a, T> {
    /// An object came or changed; with the whole of it, and what the cache had before.
    Put(&'a Key, &'a Object<'a>, Option<&'a T>),
    /// An object went; with what the cache had.
    Gone(&'a Key, &'a T),
    /// All objects have been read for the first time.
    Synced,
}

impl<T> Cache<T> {
    /// Whether all objects have been read once. What is not in the cache is only then known to be absent.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.read().get(key).cloned()
    }

    /// The names of all objects.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.read().keys().cloned().collect()
    }

    /// The names of all objects of a namespace.
    pub(crate) fn keys_in(&self, namespace: &str) -> Vec<Key> {
        let from = Key::new(namespace, "");
        self.read()
            .range(from..)
            .map(|(key, _)| key)
            .take_while(|key| *key.namespace == *namespace)
            .cloned()
            .collect()
    }

    /// All objects.
    pub(crate) fn entries(&self) -> Vec<(Key, Arc<T>)> {
        self.read().iter().map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Key, Arc<T>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Key, Arc<T>>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a type until `shutdown`; `changed` is called after the cache has the change. `project` may make use of what it made of an
    /// earlier state of the object.
    ///
    /// A list that fails leaves the cache as it was: an object goes only when a whole list, or the watch, says so.
    pub(crate) async fn watch(
        &self,
        feed: Feed,
        project: impl Fn(&Object<'_>, Option<&T>) -> Option<T>,
        mut changed: impl FnMut(Change<'_, T>),
        shutdown: CancellationToken,
    ) {
        let mut listed = BTreeSet::new();
        let mut complaint = String::new();
        let follow = feed.follow(|step| match step {
            Step::Begin => listed.clear(),
            Step::Listed(object) => {
                let key = key(object);
                self.put(&key, object, &project, &mut changed);
                listed.insert(key);
            }
            Step::Complete => {
                let gone = self.keys().into_iter().filter(|key| !listed.contains(key));
                gone.for_each(|key| self.remove(&key, &mut changed));
                listed.clear();
                complaint.clear();
                if !self.synced.swap(true, Ordering::AcqRel) {
                    changed(Change::Synced);
                }
            }
            Step::Put(object) => self.put(&key(object), object, &project, &mut changed),
            Step::Gone(object) => self.remove(&key(object), &mut changed),
            Step::Failed(error) => {
                let error = error.to_string();
                if error != complaint {
                    tracing::warn!(path = feed.path(), %error, "the host cannot be watched; trying again");
                    complaint = error;
                }
            }
        });
        shutdown.run_until_cancelled(follow).await;
    }

    fn put(
        &self,
        key: &Key,
        object: &Object<'_>,
        project: impl Fn(&Object<'_>, Option<&T>) -> Option<T>,
        changed: &mut impl FnMut(Change<'_, T>),
    ) {
        let before = self.get(key);
        let Some(projected) = project(object, before.as_deref()) else {
            return tracing::warn!(%key, "an object of the host cannot be read");
        };
        self.write().insert(key.clone(), Arc::new(projected));
        changed(Change::Put(key, object, before.as_deref()));
    }

    fn remove(&self, key: &Key, changed: &mut impl FnMut(Change<'_, T>)) {
        let former = self.write().remove(key);
        if let Some(former) = former {
            changed(Change::Gone(key, &former));
        }
    }
}

fn key(object: &Object<'_>) -> Key {
    Key::new(&object.meta.namespace, &object.meta.name)
}

/// A projection that needs the whole of an object, and nothing of what was before.
pub(crate) fn wholly<T>(project: impl Fn(&Value) -> T) -> impl Fn(&Object<'_>, Option<&T>) -> Option<T> {
    move |object, _| whole(object).as_ref().map(&project)
}

/// The whole of an object.
pub(crate) fn whole(object: &Object<'_>) -> Option<Value> {
    serde_json::from_str(object.raw).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_of_one_namespace_are_found() {
        let cache = Cache::default();
        for (namespace, name) in [("a", "z"), ("b", "x"), ("b", "y"), ("ba", "x"), ("", "b")] {
            cache.write().insert(Key::new(namespace, name), Arc::new(()));
        }
        assert_eq!(cache.keys_in("b"), [Key::new("b", "x"), Key::new("b", "y")]);
        assert_eq!(cache.keys_in("c"), []);
    }
}
