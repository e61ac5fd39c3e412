//! Putting writes in order, on the disk and then in sight.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch::Sender;

use super::file::{Batch, File};
use super::log::Record;
use super::plan::{Plan, plan};
use super::shared::{Shared, wake};
use super::{Entry, Event, Op, WriteError};

/// Orders writes, and makes them durable and visible.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Disk,
}

#[derive(Debug)]
enum Disk {
    /// Nothing outlives the process.
    None,
    Open(File),
    /// The disk was full. The file has to be opened again; it may hold this batch or not.
    Full {
        path: PathBuf,
        events: Vec<Event>,
        meta: Vec<(String, Vec<u8>)>,
    },
    /// The disk failed. What the system then shows of the file need not be on the disk, so nothing is built on it.
    Broken(WriteError),
}

/// What became of a group of requests.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The answer to each write in turn.
    pub(super) writes: Vec<Result<Arc<Entry>, WriteError>>,
    /// The answer to those who put small values.
    pub(super) meta: Result<(), WriteError>,
    /// The watchers to wake once the answers are given.
    pub(super) signals: Vec<Sender<()>>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, file: Option<File>) -> Self {
        Self { shared, disk: file.map_or(Disk::None, Disk::Open) }
    }

    /// Commits a group: durable first, visible then.
    pub(super) fn commit(&mut self, ops: Vec<Op>, meta: Vec<(String, Vec<u8>)>) -> Outcome {
        let writes = ops.len();
        let failed = |error: WriteError| Outcome {
            writes: vec![Err(error.clone()); writes],
            meta: Err(error),
            signals: Vec::new(),
        };
        if let Err(error) = self.recover() {
            return failed(error);
        }
        let revision = self.shared.read().revision;
        let Plan { events, answers } = plan(ops, revision, |key| self.shared.read().get(key).cloned());
        if events.is_empty() && meta.is_empty() {
            return Outcome { writes: answers, meta: Ok(()), signals: Vec::new() };
        }
        if let Disk::Open(file) = &mut self.disk {
            let live = self.shared.read().bytes();
            let lives = |record: &Record<'_>| {
                self.shared.read().get(&record.key()).is_some_and(|entry| entry.revision == record.revision)
            };
            if let Err(error) = file.commit(&Batch { events: &events, meta: &meta, live, lives: &lives }) {
                let path = file.path().to_owned();
                tracing::error!(%error, file = %path.display(), "writing the store failed");
                self.disk = match &error {
                    WriteError::Full => Disk::Full { path, events, meta },
                    other => Disk::Broken(other.clone()),
                };
                return failed(error);
            }
        }
        Outcome { writes: answers, meta: Ok(()), signals: self.shared.publish(events, meta) }
    }

    /// Opens the file again if the disk was full.
    fn recover(&mut self) -> Result<(), WriteError> {
        let (path, events, meta) = match &mut self.disk {
            Disk::None | Disk::Open(_) => return Ok(()),
            Disk::Full { path, events, meta } => (path, events, meta),
            Disk::Broken(error) => return Err(error.clone()),
        };
        let file = File::open(path)?;
        let found = file.revision()?;
        let known = self.shared.read().revision;
        if events.last().is_some_and(|last| last.revision() == found) {
            // The commit that failed did reach the disk.
            wake(&self.shared.publish(std::mem::take(events), std::mem::take(meta)));
        } else if found != known {
            let detail =
                format!("{} is at revision {found}, not {known}: another process wrote it", path.display());
            return Err(WriteError::Io(Arc::new(io::Error::other(detail))));
        }
        tracing::info!(file = %path.display(), "the store can be written again");
        self.disk = Disk::Open(file);
        Ok(())
    }
}
