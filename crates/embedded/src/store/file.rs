//! The database file.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::create::create;
use super::log::{Record, pack, records, weight};
use super::project::{Projector, project};
use super::{Entry, Event, Key, OpenError, WriteError};

/// The format of the file; to be raised with every change that an older version would misread.
const FORMAT: u64 = 1;

/// What pages are cached for writing; reads are served from memory anyway.
const CACHE: usize = 4 << 20;

/// How many bytes the log may have beyond twice what lives, so that small stores are not cleaned all the time.
const SLACK: u64 = 4 << 20;

/// Counters of the store itself.
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const FORMAT_COUNTER: &str = "format";

/// Small values of the store's users.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// The objects, as a log of their writes: rows of records (see [`super::log`]) in the order of their numbers.
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

/// The database file, open and locked.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    database: Database,
    /// The number of the next row.
    next: u64,
    /// The bytes of all rows.
    bytes: u64,
    /// What they may be beyond twice what lives.
    pub(super) slack: u64,
}

/// Everything in it.
pub(super) struct Contents {
    pub(super) revision: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) meta: HashMap<String, Vec<u8>>,
}

/// What is committed together.
pub(super) struct Batch<'a> {
    pub(super) events: &'a [Event],
    pub(super) meta: &'a [(String, Vec<u8>)],
    /// The bytes of all objects, as [`weight`] counts them.
    pub(super) live: u64,
    /// Whether a record is the present state of its object.
    pub(super) lives: &'a dyn Fn(&Record<'_>) -> bool,
}

impl File {
    /// Opens the file, which is made when there is none.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let refused = |error| from_redb(path, error);
        guarded(path, || {
            if !path.try_exists().map_err(|error| from_io(path, error))? {
                create(path, fill).map_err(refused)?;
            }
            let database = database(path).map_err(refused)?;
            match format(&database).map_err(refused)? {
                Some(FORMAT) => {}
                Some(found) if found > FORMAT => {
                    return Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT });
                }
                _ => return Err(OpenError::NotOurs { path: path.to_owned() }),
            }
            let (next, bytes) = extent(&database).map_err(refused)?;
            Ok(Self { path: path.to_owned(), database, next, bytes, slack: SLACK })
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The revision of the last commit.
    pub(super) fn revision(&self) -> Result<u64, OpenError> {
        let read = || -> Result<u64, redb::Error> {
            let log = self.database.begin_read()?.open_table(LOG)?;
            // The newest record ends the log.
            let Some((_, row)) = log.last()? else { return Ok(0) };
            Ok(records(row.value()).last().transpose()?.map_or(0, |record| record.revision))
        };
        guarded(&self.path, || read().map_err(|error| from_redb(&self.path, error)))
    }

    /// Reads everything.
    pub(super) fn load(&self, projector: Projector) -> Result<Contents, OpenError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let mut meta = HashMap::new();
            for row in transaction.open_table(META)?.iter()? {
                let (name, value) = row?;
                meta.insert(name.value().to_owned(), value.value().to_owned());
            }
            let mut objects: HashMap<Key, (u64, Bytes)> = HashMap::new();
            for row in transaction.open_table(LOG)?.iter()? {
                for record in records(row?.1.value()) {
                    let record = record?;
                    match record.object {
                        Some(object) => {
                            objects.insert(record.key(), (record.revision, Bytes::copy_from_slice(object)))
                        }
                        None => objects.remove(&record.key()),
                    };
                }
            }
            Ok((objects, meta))
        };
        let (objects, meta) = guarded(&self.path, || read().map_err(|error| from_redb(&self.path, error)))?;
        let mut resources: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        let objects = objects.into_iter().map(|(mut key, (revision, object))| {
            // One allocation for the name of a resource, whatever the number of its objects.
            key.resource = resources.entry(key.resource.clone()).or_insert(key.resource).clone();
            (key, revision, object)
        });
        let entries = project(&objects.collect::<Vec<_>>(), projector)
            .map_err(|error| OpenError::Corrupt { path: self.path.clone(), detail: error.to_string() })?;
        Ok(Contents { revision: self.revision()?, entries, meta })
    }

    /// Makes a batch durable. After an error the file has to be opened again, and holds either the whole batch or
    /// nothing of it.
    pub(super) fn commit(&mut self, batch: &Batch<'_>) -> Result<(), WriteError> {
        let (next, bytes) =
            guarded(&self.path, || self.write(batch).map_err(|error| from_redb(&self.path, error)))?;
        (self.next, self.bytes) = (next, bytes);
        Ok(())
    }

    /// Commits a batch; returns the number of the next row and the bytes of all rows.
    fn write(&self, batch: &Batch<'_>) -> Result<(u64, u64), redb::Error> {
        let (mut next, mut bytes) = (self.next, self.bytes);
        let transaction = self.database.begin_write()?;
        if !batch.events.is_empty() {
            let mut log = transaction.open_table(LOG)?;
            let added = batch.events.iter().map(|event| weight(&event.entry)).sum::<u64>();
            let mut old = Vec::new();
            let mut cleaned = 0;
            while bytes + added > 2 * batch.live + self.slack
                && cleaned < 4 * added
                && let Some((_, row)) = log.pop_first()?
            {
                old.push(row.value().to_vec());
                let len = row.value().len() as u64;
                cleaned += len;
                bytes -= len;
            }
            // What still lives comes first: a record stands behind all older ones of its key.
            let mut all = Vec::new();
            for record in old.iter().flat_map(|row| records(row)) {
                let record = record?;
                all.extend((batch.lives)(&record).then_some(record));
            }
            all.extend(batch.events.iter().map(Record::of));
            for row in pack(&all) {
                log.insert(next, &row[..])?;
                next += 1;
                bytes += row.len() as u64;
            }
        }
        if !batch.meta.is_empty() {
            let mut meta = transaction.open_table(META)?;
            for (name, value) in batch.meta {
                meta.insert(&**name, &**value)?;
            }
        }
        transaction.commit()?;
        Ok((next, bytes))
    }
}

fn format(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(COUNTERS) {
        Ok(counters) => Ok(counters.get(FORMAT_COUNTER)?.map(|value| value.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The number of the next row and the bytes of all rows.
fn extent(database: &Database) -> Result<(u64, u64), redb::Error> {
    let mut extent = (0, 0);
    for row in database.begin_read()?.open_table(LOG)?.iter()? {
        let (number, row) = row?;
        extent = (number.value() + 1, extent.1 + row.value().len() as u64);
    }
    Ok(extent)
}

fn database(path: &Path) -> Result<Database, redb::Error> {
    // A file that was damaged is to be refused, not trusted.
    Ok(Builder::new().set_cache_size(CACHE).set_check_integrity_on_open(true).open(path)?)
}

/// What an empty store has.
fn fill(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(LOG)?;
    transaction.open_table(META)?;
    transaction.open_table(COUNTERS)?.insert(FORMAT_COUNTER, FORMAT)?;
    Ok(transaction.commit()?)
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
