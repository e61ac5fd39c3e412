//! What can go wrong, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::Entry;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path} is in use by another process: stop that one, or choose another data directory", path = path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file or its directory cannot be written.
    #[error("{path} cannot be written ({source}): give this user write access, or choose another data directory", path = path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no room on the disk.
    #[error("no space is left for {path} ({source}): free some and start again; nothing was lost", path = path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was written by a newer version.
    #[error(
        "{path} has format {found}, but this version knows only up to {known}: use the version that wrote it or a newer one; the file was left as it is",
        path = path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format the file has.
        found: u64,
        /// The newest format that is understood.
        known: u64,
    },
    /// It is some other file.
    #[error("{path} was not written by this program: move it away, or choose another data directory", path = path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged.
    #[error("{path} is damaged ({detail}): restore it from a backup; the file was left as it is", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Anything else the system refused.
    #[error("{path} could not be opened: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a write was refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// It was to be created, but it exists.
    #[error("{} already exists", .0.key)]
    Exists(Arc<Entry>),
    /// It was expected at a revision that it does not have.
    #[error("the object is not at the revision that the write expected")]
    Changed {
        /// What there is; `None` when it is gone.
        current: Option<Arc<Entry>>,
    },
    /// There is no room on the disk; nothing acknowledged is lost, and writes succeed again once there is.
    #[error(
        "no space is left for the store: free some; reads go on, and writes too as soon as there is space"
    )]
    Full,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The disk failed: whether the write will be there after a restart is not known, and until then none is taken.
    #[error("the store could not be written: {0}; once the disk is sound, restart")]
    Io(Arc<io::Error>),
}

impl From<OpenError> for WriteError {
    /// What an error of the file means for the writes that hit it.
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Full { .. } => Self::Full,
            other => Self::Io(Arc::new(io::Error::other(other))),
        }
    }
}

/// The revision asked for is not served: its history is gone, or it lies in the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("revision {requested} is not available: history reaches from {oldest} to {current}")]
pub struct Compacted {
    /// The revision asked for.
    pub requested: u64,
    /// The oldest revision that is served.
    pub oldest: u64,
    /// The newest.
    pub current: u64,
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watcher was too slow: events it had not read are gone.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
