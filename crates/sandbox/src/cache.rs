//! What a controller knows of one resource: a small projection of each object, kept current by a watch.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::watch;

use crate::{
    client::{Change, Client, Error},
    object::{Key, Meta},
};

/// How long a controller waits to see its own write before it tries again later.
const CATCH_UP: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);

/// What is kept of an object besides its metadata.
pub(crate) trait Project: PartialEq + Send + Sync + Sized + 'static {
    fn project(object: &Value) -> Self;
}

impl Project for () {
    fn project(_: &Value) {}
}

/// An object as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept<T> {
    pub(crate) meta: Meta,
    pub(crate) data: T,
}

impl<T: Project> Kept<T> {
    pub(crate) fn of(object: &Value) -> Self {
        Self { meta: Meta::of(object), data: T::project(object) }
    }
}

/// Told of each change: what was and what is.
pub(crate) type Listener<T> = Box<dyn Fn(Option<&Kept<T>>, Option<&Kept<T>>) + Send + Sync>;

struct State<T> {
    entries: BTreeMap<Key, Arc<Kept<T>>>,
    revision: u64,
    synced: bool,
}

/// The cache of one resource.
pub(crate) struct Cache<T> {
    resource: &'static str,
    state: RwLock<State<T>>,
    seen: watch::Sender<()>,
}

impl<T: Project> Cache<T> {
    pub(crate) fn new(resource: &'static str) -> Arc<Self> {
        let state = RwLock::new(State { entries: BTreeMap::new(), revision: 0, synced: false });
        Arc::new(Self { resource, state, seen: watch::Sender::new(()) })
    }

    fn read<R>(&self, look: impl FnOnce(&State<T>) -> R) -> R {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Kept<T>>> {
        self.read(|state| state.entries.get(key).cloned())
    }

    /// All objects of a namespace that `which` accepts.
    pub(crate) fn of_namespace(
        &self,
        namespace: &str,
        which: impl Fn(&Kept<T>) -> bool,
    ) -> Vec<Arc<Kept<T>>> {
        let from = Key { namespace: namespace.to_owned(), name: String::new() };
        self.read(|state| {
            let entries = state.entries.range((Bound::Included(from), Bound::Unbounded));
            let entries = entries.take_while(|(key, _)| key.namespace == namespace).map(|(_, kept)| kept);
            entries.filter(|kept| which(kept)).cloned().collect()
        })
    }

    /// All objects that `which` accepts.
    pub(crate) fn all(&self, which: impl Fn(&Kept<T>) -> bool) -> Vec<Arc<Kept<T>>> {
        self.read(|state| state.entries.values().filter(|kept| which(kept)).cloned().collect())
    }

    async fn until(&self, reached: impl Fn(&State<T>) -> bool) {
        let mut seen = self.seen.subscribe();
        while !self.read(&reached) {
            if seen.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits for the first list.
    pub(crate) async fn synced(&self) {
        self.until(|state| state.synced).await;
    }

    /// Waits until a write of this process is seen, so that the next decision rests on it.
    pub(crate) async fn caught_up(&self, revision: u64) -> Result<(), Error> {
        let wait = self.until(|state| state.revision >= revision);
        tokio::time::timeout(CATCH_UP, wait).await.map_err(|_| Error::Behind(self.resource))
    }

    /// Waits until the object of this UID is gone or on its way out.
    pub(crate) async fn forgotten(&self, key: &Key, uid: &str) -> Result<(), Error> {
        let wait = self.until(|state| {
            state.entries.get(key).is_none_or(|kept| kept.meta.uid != uid || kept.meta.deleting)
        });
        tokio::time::timeout(CATCH_UP, wait).await.map_err(|_| Error::Behind(self.resource))
    }

    fn put(&self, object: &Value, listeners: &[Listener<T>]) {
        let kept = Arc::new(Kept::of(object));
        let old = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.revision = state.revision.max(kept.meta.revision);
            state.entries.insert(kept.meta.key.clone(), kept.clone())
        };
        self.seen.send_replace(());
        listeners.iter().for_each(|listener| listener(old.as_deref(), Some(&kept)));
    }

    fn remove(&self, key: &Key, revision: u64, listeners: &[Listener<T>]) {
        let old = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.revision = state.revision.max(revision);
            state.entries.remove(key)
        };
        self.seen.send_replace(());
        if let Some(old) = old {
            listeners.iter().for_each(|listener| listener(Some(&old), None));
        }
    }

    /// Lists and watches for ever.
    pub(crate) async fn run(self: Arc<Self>, client: Client, listeners: Vec<Listener<T>>) {
        loop {
            if let Err(error) = self.follow(&client, &listeners).await {
                tracing::debug!(resource = self.resource, %error, "watch ended, listing again");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow(&self, client: &Client, listeners: &[Listener<T>]) -> Result<(), Error> {
        let (objects, revision) = client.list(self.resource)?;
        let mut gone: Vec<Key> = self.read(|state| state.entries.keys().cloned().collect());
        for object in &objects {
            let key = crate::object::key(object);
            if let Ok(position) = gone.binary_search(&key) {
                gone.remove(position);
            }
            self.put(object, listeners);
        }
        drop(objects);
        for key in gone {
            self.remove(&key, revision, listeners);
        }
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.revision = state.revision.max(revision);
            state.synced = true;
        }
        self.seen.send_replace(());
        let mut changes = client.watch(self.resource, revision)?;
        loop {
            match changes.next().await? {
                Change::Put(object) => self.put(&object, listeners),
                Change::Gone(object) => {
                    self.remove(&crate::object::key(&object), crate::object::revision(&object), listeners);
                }
            }
        }
    }
}
