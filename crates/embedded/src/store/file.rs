//! The database file.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde_json::Value;

use super::{Entry, Event, EventKind, Facts, Key, OpenError, WriteError};

/// The format of the file; to be raised with every change that an older version would misread.
const FORMAT: u64 = 1;

/// What pages are cached for writing; reads are served from memory anyway.
const CACHE: usize = 8 << 20;

/// Counters of the store itself.
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const FORMAT_COUNTER: &str = "format";
const REVISION_COUNTER: &str = "revision";

/// Small values of the store's users.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// The objects: (resource, namespace, name) to (revision, JSON).
const OBJECTS: TableDefinition<(&str, &str, &str), (u64, &[u8])> = TableDefinition::new("objects");

/// Tells the facts of an object that is read back.
pub type Projector = fn(&Key, &Value) -> Facts;

/// The database file, open and locked.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    database: Database,
}

/// Everything in it.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) revision: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) meta: HashMap<String, Vec<u8>>,
}

/// What is committed together.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    pub(super) events: &'a [Event],
    pub(super) meta: &'a [(String, Vec<u8>)],
}

impl File {
    /// Opens the file, which is made when there is none.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        guarded(path, || {
            if !path.try_exists().map_err(|error| from_io(path, error))? {
                create(path)?;
            }
            let file = Self { path: path.to_owned(), database: database(path)? };
            match file.counter(FORMAT_COUNTER)? {
                Some(FORMAT) => Ok(file),
                Some(found) if found > FORMAT => {
                    Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT })
                }
                _ => Err(OpenError::NotOurs { path: path.to_owned() }),
            }
        })
    }

    /// The revision of the last commit.
    pub(super) fn revision(&self) -> Result<u64, OpenError> {
        guarded(&self.path, || Ok(self.counter(REVISION_COUNTER)?.unwrap_or(0)))
    }

    fn counter(&self, name: &str) -> Result<Option<u64>, OpenError> {
        let read = || -> Result<_, redb::Error> {
            match self.database.begin_read()?.open_table(COUNTERS) {
                Ok(counters) => Ok(counters.get(name)?.map(|value| value.value())),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        read().map_err(|error| from_redb(&self.path, error))
    }

    /// Reads everything.
    pub(super) fn load(&self, projector: Projector) -> Result<Contents, OpenError> {
        guarded(&self.path, || {
            let revision = self.revision()?;
            let read = || -> Result<_, redb::Error> {
                let transaction = self.database.begin_read()?;
                let mut meta = HashMap::new();
                for row in transaction.open_table(META)?.iter()? {
                    let (name, value) = row?;
                    meta.insert(name.value().to_owned(), value.value().to_owned());
                }
                let mut entries = Vec::new();
                let mut last: Arc<str> = "".into();
                for row in transaction.open_table(OBJECTS)?.iter()? {
                    let (key, value) = row?;
                    let (resource, namespace, name) = key.value();
                    if *last != *resource {
                        last = resource.into();
                    }
                    let (revision, object) = value.value();
                    entries.push((
                        Key::new(last.clone(), namespace, name),
                        revision,
                        Bytes::copy_from_slice(object),
                    ));
                }
                Ok((entries, meta))
            };
            let (entries, meta) = read().map_err(|error| from_redb(&self.path, error))?;
            let entries = entries.into_iter().map(|(key, revision, object)| {
                let value = serde_json::from_slice(&object).map_err(|error| OpenError::Corrupt {
                    path: self.path.clone(),
                    detail: format!("{key} is not JSON: {error}"),
                })?;
                let facts = projector(&key, &value);
                Ok(Entry { key, revision, object, facts })
            });
            Ok(Contents { revision, entries: entries.collect::<Result<_, _>>()?, meta })
        })
    }

    /// Makes a batch durable. After an error the file has to be opened again, and either holds the whole batch or
    /// nothing of it.
    pub(super) fn commit(&self, batch: &Batch<'_>) -> Result<(), WriteError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            if let Some(last) = batch.events.last() {
                let mut objects = transaction.open_table(OBJECTS)?;
                for Event { kind, entry, .. } in batch.events {
                    let Key { resource, namespace, name } = &entry.key;
                    let key = (&**resource, &**namespace, &**name);
                    match kind {
                        EventKind::Put { .. } => objects.insert(key, (entry.revision, &entry.object[..]))?,
                        EventKind::Delete => objects.remove(key)?,
                    };
                }
                transaction.open_table(COUNTERS)?.insert(REVISION_COUNTER, last.revision())?;
            }
            if !batch.meta.is_empty() {
                let mut meta = transaction.open_table(META)?;
                for (name, value) in batch.meta {
                    meta.insert(&**name, &**value)?;
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| from_redb(&self.path, error).into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn database(path: &Path) -> Result<Database, OpenError> {
    // A file that was damaged is to be refused, not trusted.
    let database = Builder::new().set_cache_size(CACHE).set_check_integrity_on_open(true).open(path);
    database.map_err(|error| from_redb(path, error.into()))
}

/// Makes an empty store beside the path and moves it there, so that a crash leaves no half-made one.
fn create(path: &Path) -> Result<(), OpenError> {
    let refused = |error| from_io(path, error);
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(refused)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".new.{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let make = || -> Result<(), redb::Error> {
        let database = Builder::new().set_cache_size(CACHE).create(&unfinished)?;
        let transaction = database.begin_write()?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(META)?;
        let mut counters = transaction.open_table(COUNTERS)?;
        counters.insert(FORMAT_COUNTER, FORMAT)?;
        counters.insert(REVISION_COUNTER, 0)?;
        drop(counters);
        transaction.commit()?;
        database.close()?;
        Ok(())
    };
    let made = make().map_err(|error| from_redb(path, error)).and_then(|()| {
        // A link, unlike a renaming, never replaces what another process put there meanwhile.
        match fs::hard_link(&unfinished, path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(refused(error)),
            _ => fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(refused),
        }
    });
    let removed = fs::remove_file(&unfinished);
    made.and_then(|()| removed.map_err(refused))
}

/// The database library may panic on a file that was damaged by others.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(OpenError::Corrupt {
            path: path.to_owned(),
            detail: "its pages contradict each other".to_owned(),
        })
    })
}

fn from_redb(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => OpenError::Locked { path },
        redb::Error::Io(source) if source.kind() == ErrorKind::InvalidData => OpenError::NotOurs { path },
        redb::Error::Io(source) => from_io(&path, source),
        redb::Error::Corrupted(detail) => OpenError::Corrupt { path, detail },
        redb::Error::TableTypeMismatch { .. } | redb::Error::UpgradeRequired(_) => {
            OpenError::NotOurs { path }
        }
        other => OpenError::Io { path, source: io::Error::other(other) },
    }
}

fn from_io(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            OpenError::Full { path, source }
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory => {
            OpenError::NotWritable { path, source }
        }
        _ => OpenError::Io { path, source },
    }
}
