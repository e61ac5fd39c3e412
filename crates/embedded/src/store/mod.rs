//! Where the API server keeps its objects: all of them in memory, every acknowledged write on disk.
//!
//! One revision counts all writes. A single writer takes writes in groups, holds each against what it expects to find,
//! gives those that pass consecutive revisions and commits the group in one transaction of one file. Only then does the
//! group become visible, all at once, and its callers get their answers. Readers never wait for the disk.

mod create;
mod error;
mod file;
mod log;
mod object;
mod plan;
mod project;
mod queue;
mod shared;
mod state;
mod watch;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

pub use error::{Compacted, OpenError, WatchError, WriteError};
pub use object::{Draft, Entry, Facts, Key};
pub use plan::{Expect, Op};
pub use project::Projector;
pub use state::Limits;
pub use watch::{Event, EventKind, Watch};

use file::{Contents, File};
use queue::{QUEUE, Request};
use shared::{Shared, wake};
use state::{Scope, State};
use writer::Writer;

/// A store of objects; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    writer: Backend,
}

#[derive(Debug, Clone)]
enum Backend {
    /// Writes wait for the thread that commits them.
    Thread(mpsc::Sender<Request>),
    /// Writes are done where they are asked for: without a disk nothing is gained by a thread, and simulated time
    /// stays exact.
    Inline(Arc<Mutex<Writer>>),
}

/// A part of a list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Entries in the order of namespace and name.
    pub entries: Vec<Arc<Entry>>,
    /// The revision whose state this is: watch from here, continue here.
    pub revision: u64,
    /// How many entries follow.
    pub remaining: u64,
    /// Whether any do.
    pub more: bool,
}

impl Store {
    /// Opens the store in a file, which is made when there is none. This blocks; `projector` tells the facts of what
    /// is read back.
    pub fn open(path: impl AsRef<Path>, projector: Projector) -> Result<Self, OpenError> {
        Self::open_with(path, projector, Limits::default())
    }

    /// [`Store::open`] with other bounds on the history.
    pub fn open_with(
        path: impl AsRef<Path>,
        projector: Projector,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let file = File::open(path)?;
        let Contents { revision, entries, meta } = file.load(projector)?;
        let shared = Arc::new(Shared::new(State::new(limits, revision, entries, meta)));
        let writer = Writer::new(shared.clone(), Some(file));
        let (sender, requests) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn({
                let shared = shared.clone();
                move || queue::serve(requests, writer, &shared)
            })
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { shared, writer: Backend::Thread(sender) })
    }

    /// A store that lives as long as the process.
    pub fn memory() -> Self {
        Self::memory_with(Limits::default())
    }

    /// [`Store::memory`] with other bounds on the history.
    pub fn memory_with(limits: Limits) -> Self {
        let shared = Arc::new(Shared::new(State::new(limits, 0, [], Default::default())));
        let writer = Writer::new(shared.clone(), None);
        Self { shared, writer: Backend::Inline(Arc::new(Mutex::new(writer))) }
    }

    /// Writes; returns when the write is durable and visible. The write goes on when the future is dropped.
    pub async fn write(&self, op: Op) -> Result<Arc<Entry>, WriteError> {
        match &self.writer {
            Backend::Thread(sender) => {
                let (answer, result) = oneshot::channel();
                sender.send(Request::Write { op, answer }).await.map_err(|_| WriteError::Closed)?;
                result.await.unwrap_or(Err(WriteError::Closed))
            }
            Backend::Inline(writer) => {
                self.inline(writer, vec![op], vec![])?.pop().unwrap_or(Err(WriteError::Closed))
            }
        }
    }

    fn inline(
        &self,
        writer: &Mutex<Writer>,
        ops: Vec<Op>,
        meta: Vec<(String, Vec<u8>)>,
    ) -> Result<Vec<Result<Arc<Entry>, WriteError>>, WriteError> {
        let outcome = {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            if self.shared.read().closed {
                return Err(WriteError::Closed);
            }
            writer.commit(ops, meta)
        };
        wake(&outcome.signals);
        outcome.meta.map(|()| outcome.writes)
    }

    /// The revision of the newest visible write.
    pub fn revision(&self) -> u64 {
        self.shared.read().revision
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.shared.read().get(key).cloned()
    }

    /// A part of the objects of a resource, in the order of namespace and name: those of one namespace or all, behind
    /// the namespace and name given, now or exactly as they were at a revision. No `limit` is 0.
    pub fn list(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        at: Option<u64>,
        limit: usize,
    ) -> Result<Page, Compacted> {
        self.shared.read().list(resource, Scope { namespace: one(namespace), after }, at, limit)
    }

    /// How many objects a resource has.
    pub fn count(&self, resource: &str) -> usize {
        self.shared.read().count(resource)
    }

    /// The changes of a resource after a revision, in one namespace or all.
    pub fn watch(
        &self,
        resource: impl Into<Arc<str>>,
        namespace: Option<&str>,
        from: u64,
    ) -> Result<Watch, Compacted> {
        Watch::new(self.shared.clone(), resource.into(), one(namespace), from)
    }

    /// The objects that name this uid in their `ownerReferences`.
    pub fn owned_by(&self, uid: &str) -> Vec<Key> {
        self.shared.read().dependents(uid).cloned().collect()
    }

    /// A small durable value, such as a signing key.
    pub fn meta_get(&self, name: &str) -> Option<Vec<u8>> {
        self.shared.read().meta.get(name).cloned()
    }

    /// Keeps a small value; returns when it is durable.
    pub async fn meta_put(&self, name: &str, value: &[u8]) -> Result<(), WriteError> {
        let (name, value) = (name.to_owned(), value.to_owned());
        match &self.writer {
            Backend::Thread(sender) => {
                let (answer, result) = oneshot::channel();
                sender.send(Request::Meta { name, value, answer }).await.map_err(|_| WriteError::Closed)?;
                result.await.unwrap_or(Err(WriteError::Closed))
            }
            Backend::Inline(writer) => self.inline(writer, vec![], vec![(name, value)]).map(drop),
        }
    }

    /// Finishes the writes that were asked for, ends all watches and releases the file.
    pub async fn close(&self) {
        match &self.writer {
            Backend::Thread(sender) => {
                let (answer, closed) = oneshot::channel();
                if sender.send(Request::Close { answer }).await.is_ok() {
                    let _ = closed.await;
                }
            }
            Backend::Inline(_) => self.shared.close(),
        }
    }
}

/// The empty namespace means all of them, as in a request path without one.
fn one(namespace: Option<&str>) -> Option<&str> {
    namespace.filter(|namespace| !namespace.is_empty())
}

#[cfg(test)]
mod tests;
