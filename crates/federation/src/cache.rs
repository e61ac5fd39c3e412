//! What is known of one type on the host: a watch that projects each object at the door and remembers when it has read them all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
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
pub(crate) enum Change<'a> {
    /// An object came or changed; with the whole of it.
    Put(&'a Key, &'a Value),
    /// An object went.
    Gone(&'a Key),
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

    /// Watches a type until `shutdown`; `changed` is called after the cache has the change.
    ///
    /// A list that fails leaves the cache as it was: an object goes only when a whole list, or the watch, says so.
    pub(crate) async fn watch(
        &self,
        api: Api<DynamicObject>,
        project: impl Fn(&Value) -> T,
        mut changed: impl FnMut(Change<'_>),
        shutdown: CancellationToken,
    ) {
        let config = watcher::Config::default().page_size(100);
        let url = api.resource_url().to_owned();
        let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
        let mut listed = BTreeSet::new();
        let mut complaint = String::new();
        while let Some(Some(event)) = shutdown.run_until_cancelled(stream.next()).await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    if let Some((key, object)) = read(object) {
                        listed.insert(key.clone());
                        self.put(&key, &object, &project, &mut changed);
                    }
                }
                Ok(watcher::Event::InitDone) => {
                    let gone = self.keys().into_iter().filter(|key| !listed.contains(key));
                    gone.for_each(|key| self.remove(&key, &mut changed));
                    listed.clear();
                    complaint.clear();
                    if !self.synced.swap(true, Ordering::AcqRel) {
                        changed(Change::Synced);
                    }
                }
                Ok(watcher::Event::Apply(object)) => {
                    if let Some((key, object)) = read(object) {
                        self.put(&key, &object, &project, &mut changed);
                    }
                }
                Ok(watcher::Event::Delete(object)) => {
                    if let Some((key, _)) = read(object) {
                        self.remove(&key, &mut changed);
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != complaint {
                        tracing::warn!(%url, %error, "the host cannot be watched; trying again");
                        complaint = error;
                    }
                    continue;
                }
            }
        }
    }

    fn put(
        &self,
        key: &Key,
        object: &Value,
        project: impl Fn(&Value) -> T,
        changed: &mut impl FnMut(Change<'_>),
    ) {
        let projected = Arc::new(project(object));
        self.write().insert(key.clone(), projected);
        changed(Change::Put(key, object));
    }

    fn remove(&self, key: &Key, changed: &mut impl FnMut(Change<'_>)) {
        self.write().remove(key);
        changed(Change::Gone(key));
    }
}

fn read(mut object: DynamicObject) -> Option<(Key, Value)> {
    // Nothing that is decided here depends on them, and they are often the larger half.
    object.metadata.managed_fields = None;
    let name = object.metadata.name.as_deref()?;
    let key = Key::new(object.metadata.namespace.as_deref().unwrap_or_default(), name);
    match serde_json::to_value(object) {
        Ok(value) => Some((key, value)),
        Err(error) => {
            tracing::warn!(%key, %error, "an object of the host cannot be read");
            None
        }
    }
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
