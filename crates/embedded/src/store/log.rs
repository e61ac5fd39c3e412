//! How writes are laid down in the file: records of one write each, packed into the rows of a log.
//!
//! A row is written once and never changed. Updating a tree of objects in place would rewrite a page or two for every
//! object of a commit; a row costs about what is in it. Old rows are cleaned from the front of the log: what still
//! lives in them is written again at its end, so a record always stands behind all older ones of its key, and reading
//! the log from the front gives the state.

use super::{Entry, Event, EventKind, Key};

/// One write as it stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) revision: u64,
    pub(super) resource: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// The object; `None` when it was deleted.
    pub(super) object: Option<&'a [u8]>,
}

/// A row that is not a sequence of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a row of the log is cut off or no log at all")]
pub(super) struct Malformed;

impl From<Malformed> for redb::Error {
    fn from(malformed: Malformed) -> Self {
        Self::Corrupted(malformed.to_string())
    }
}

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// A revision, a kind and four lengths.
const HEADER: usize = 8 + 1 + 4 * 4;

impl<'a> Record<'a> {
    /// The record of a change.
    pub(super) fn of(event: &'a Event) -> Self {
        let Entry { key: Key { resource, namespace, name }, revision, object, .. } = &*event.entry;
        let object = (event.kind != EventKind::Delete).then_some(&object[..]);
        Self { revision: *revision, resource, namespace, name, object }
    }

    pub(super) fn key(&self) -> Key {
        Key::new(self.resource, self.namespace, self.name)
    }

    fn parts(&self) -> [&'a [u8]; 4] {
        let object = self.object.unwrap_or_default();
        [self.resource.as_bytes(), self.namespace.as_bytes(), self.name.as_bytes(), object]
    }

    fn len(&self) -> usize {
        HEADER + self.parts().iter().map(|part| part.len()).sum::<usize>()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.push(if self.object.is_some() { PUT } else { DELETE });
        for part in self.parts() {
            // A longer part makes a row that the database refuses.
            out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        for part in self.parts() {
            out.extend_from_slice(part);
        }
    }

    fn decode(row: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (revision, rest) = row.split_first_chunk()?;
        let (kind, mut rest) = rest.split_first()?;
        let mut lengths = [0; 4];
        for length in &mut lengths {
            let (bytes, tail) = rest.split_first_chunk()?;
            *length = usize::try_from(u32::from_le_bytes(*bytes)).ok()?;
            rest = tail;
        }
        let mut parts = [&[][..]; 4];
        for (part, length) in parts.iter_mut().zip(lengths) {
            (*part, rest) = rest.split_at_checked(length)?;
        }
        let [resource, namespace, name, object] = parts;
        let record = Self {
            revision: u64::from_le_bytes(*revision),
            resource: str::from_utf8(resource).ok()?,
            namespace: str::from_utf8(namespace).ok()?,
            name: str::from_utf8(name).ok()?,
            object: match *kind {
                PUT => Some(object),
                DELETE if object.is_empty() => None,
                _ => return None,
            },
        };
        Some((record, rest))
    }
}

/// The bytes that the record of an entry takes.
pub(super) fn weight(entry: &Entry) -> u64 {
    let Key { resource, namespace, name } = &entry.key;
    (HEADER + resource.len() + namespace.len() + name.len() + entry.object.len()) as u64
}

/// The records of a row in order.
pub(super) fn records(mut row: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if row.is_empty() {
            return None;
        }
        let decoded = Record::decode(row);
        row = decoded.map_or(&[], |(_, rest)| rest);
        Some(decoded.map(|(record, _)| record).ok_or(Malformed))
    })
}

/// The smallest page of the database, and the largest that rows are made for.
const PAGE: usize = 4 << 10;
const LARGE_PAGE: usize = 128 << 10;

/// What the database adds to the only row of a page.
const PAGE_OVERHEAD: usize = 32;

/// Packs records into rows that fill pages, whose sizes are powers of two.
pub(super) fn pack(records: &[Record<'_>]) -> Vec<Vec<u8>> {
    let mut remaining: usize = records.iter().map(Record::len).sum();
    let mut rows: Vec<Vec<u8>> = Vec::new();
    let mut room = 0;
    for record in records {
        let len = record.len();
        match rows.last_mut() {
            Some(row) if len <= room => record.encode(row),
            _ => {
                let page = (remaining + PAGE_OVERHEAD).clamp(PAGE, LARGE_PAGE);
                // The largest power of two that will be full.
                let page = if page.is_power_of_two() { page } else { page.next_power_of_two() / 2 };
                room = (page - PAGE_OVERHEAD).max(len);
                let mut row = Vec::with_capacity(room.min(remaining));
                record.encode(&mut row);
                rows.push(row);
            }
        }
        room -= len;
        remaining -= len;
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (u64, String, String, String, Option<Vec<u8>>);

    fn borrowed((revision, resource, namespace, name, object): &Owned) -> Record<'_> {
        Record { revision: *revision, resource, namespace, name, object: object.as_deref() }
    }

    fn owned() -> impl Strategy<Value = Owned> {
        let object = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9000));
        (any::<u64>(), ".{0,9}", ".{0,9}", ".{0,9}", object)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_is_packed_is_read_back(all in proptest::collection::vec(owned(), 0..30)) {
            let all: Vec<_> = all.iter().map(borrowed).collect();
            let rows = pack(&all);
            let read: Result<Vec<_>, _> = rows.iter().flat_map(|row| records(row)).collect();
            prop_assert_eq!(read, Ok(all));
        }

        #[test]
        fn reading_what_is_no_row_does_not_panic(row in proptest::collection::vec(any::<u8>(), 0..100)) {
            records(&row).for_each(drop);
        }

        #[test]
        fn a_row_that_was_cut_off_is_malformed(one in owned(), cut in 1usize..9000) {
            let row = pack(&[borrowed(&one)]).remove(0);
            let cut = cut.min(row.len() - 1);
            let read: Result<Vec<_>, _> = records(&row[..row.len() - cut]).collect();
            prop_assert_eq!(read, Err(Malformed));
        }
    }

    #[test]
    fn rows_fill_their_pages() {
        let object = vec![7; 2000];
        let record =
            Record { revision: 1, resource: "pods", namespace: "n", name: "a", object: Some(&object) };
        for count in [1, 3, 64, 200, 513] {
            let rows = pack(&vec![record; count]);
            let pages: usize = rows.iter().map(|row| (row.len() + 16).next_power_of_two().max(PAGE)).sum();
            let bytes: usize = rows.iter().map(Vec::len).sum();
            assert!(pages < bytes * 5 / 4 + 2 * PAGE, "{count}: {pages} for {bytes}");
        }
    }
}
