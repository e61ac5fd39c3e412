//! What the members have of one type: a metadata watch in each, shared by all who need it.
//!
//! Each object is projected at the door into a few words ([`Observed`]), and an object that several members have is named once: 100,000 copies
//! of 10,000 objects take some ten megabytes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hansa_api::names;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use tokio_util::sync::CancellationToken;

use crate::feed::{Feed, Meta, Step};
use crate::marks::Marks;
use crate::member::Member;
use crate::registry::{Registry, lock};

/// The name of an object within its type; the namespace of a cluster-scoped object is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace, or empty.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
}

impl ObjectKey {
    /// A key.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// `metadata.resourceVersion`.
    pub resource_version: ResourceVersion,
    /// `metadata.generation`; 0 if there is none.
    pub generation: i64,
    /// `metadata.uid`.
    pub uid: Uid,
    /// The label `kubefed.io/managed`: `true`, `false`, or none.
    pub managed: Option<bool>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Whether federation has applied it, by server-side apply.
    pub applied: bool,
    /// Its labels and annotations.
    pub marks: Marks,
}

/// A resourceVersion, kept small: nearly all are decimal numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceVersion(Result<u64, Box<str>>);

impl ResourceVersion {
    /// Reads a resourceVersion.
    pub fn new(text: &str) -> Self {
        match text.parse::<u64>() {
            Ok(number) if number.to_string() == text => Self(Ok(number)),
            _ => Self(Err(text.into())),
        }
    }
}

impl ResourceVersion {
    /// The number that it nearly always is.
    pub fn number(&self) -> Option<u64> {
        self.0.as_ref().ok().copied()
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(number) => write!(f, "{number}"),
            Err(text) => f.write_str(text),
        }
    }
}

/// A UID, kept small: nearly all are UUIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uid(Result<[u8; 16], Box<str>>);

impl Uid {
    /// Reads a UID.
    pub fn new(text: &str) -> Self {
        let hex: String = text.split('-').collect();
        let parsed = u128::from_str_radix(&hex, 16).map(|number| Self(Ok(number.to_be_bytes())));
        match parsed {
            Ok(uid) if uid.to_string() == text => uid,
            _ => Self(Err(text.into())),
        }
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(number) => {
                let hex = format!("{:032x}", u128::from_be_bytes(*number));
                write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            }
            Err(text) => f.write_str(text),
        }
    }
}

/// What is known of one object in one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The member has it.
    Present(Observed),
    /// The member does not have it, or it does not carry the label.
    Absent,
    /// The objects of this type in the member have not been read yet; with the last error, if one is why.
    Unknown(Option<Arc<str>>),
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An object in a member came, changed or went.
    Object {
        /// The member.
        member: Arc<str>,
        /// The object.
        key: Arc<ObjectKey>,
    },
    /// The objects of a member cannot be read, for another reason than before.
    Failed {
        /// The member.
        member: Arc<str>,
    },
    /// The objects of a member have all been read.
    Synced {
        /// The member.
        member: Arc<str>,
    },
}

/// Called with each change. It must not wait: it puts a key into a queue of its own that holds each key once.
pub type Subscriber = Arc<dyn Fn(&Change) + Send + Sync>;

/// What the members have of one type. The watches go on for as long as there is a handle; clones are handles to the same.
#[derive(Clone)]
pub struct Informers {
    table: Arc<Table>,
}

/// A subscription; it ends when it is dropped.
pub struct Subscription {
    table: std::sync::Weak<Table>,
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            lock(&table.subscribers).retain(|(number, _)| *number != self.number);
        }
    }
}

impl Informers {
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self { table }
    }

    /// Has `subscriber` called with every change from now on. What is there already is to be looked up.
    pub fn subscribe(&self, subscriber: Subscriber) -> Subscription {
        let mut subscribers = lock(&self.table.subscribers);
        let number = subscribers.last().map_or(0, |(number, _)| number + 1);
        subscribers.push((number, subscriber));
        Subscription { table: Arc::downgrade(&self.table), number }
    }

    /// Whether the objects of a member have all been read.
    pub fn synced(&self, member: &str) -> bool {
        self.table.read().members.get(member).is_some_and(|state| state.synced)
    }

    /// One object in one member.
    pub fn get(&self, member: &str, namespace: &str, name: &str) -> Lookup {
        let rows = self.table.read();
        match rows.members.get(member) {
            Some(state) if state.synced => {
                let found = rows.held(namespace, name).iter().find(|held| held.slot == state.slot);
                found.map_or(Lookup::Absent, |held| Lookup::Present(held.observed.clone()))
            }
            state => Lookup::Unknown(state.and_then(|state| state.error.clone())),
        }
    }

    /// The members that have an object, whether all their objects have been read or not.
    pub fn holders(&self, namespace: &str, name: &str) -> Vec<Arc<str>> {
        let rows = self.table.read();
        let name_of = |held: &Held| rows.names.get(held.slot as usize).cloned();
        rows.held(namespace, name).iter().filter_map(name_of).collect()
    }

    /// How many objects there are in all members together.
    pub fn count(&self) -> usize {
        self.table.read().objects.values().map(Vec::len).sum()
    }

    /// The names of all objects that some member has.
    pub fn keys(&self) -> Vec<Arc<ObjectKey>> {
        self.table.read().objects.keys().cloned().collect()
    }
}

/// What one member has of an object.
struct Held {
    slot: u32,
    observed: Observed,
}

#[derive(Default)]
struct Rows {
    objects: BTreeMap<Arc<ObjectKey>, Vec<Held>>,
    members: BTreeMap<Arc<str>, MemberState>,
    /// Every member there ever was; its place is the number by which its objects are found.
    names: Vec<Arc<str>>,
}

struct MemberState {
    slot: u32,
    connection: u64,
    ready: bool,
    /// Whether the watch failed since it was begun; it may then be waiting to try again.
    failed: bool,
    synced: bool,
    error: Option<Arc<str>>,
    stop: CancellationToken,
}

/// The objects of one type in all members.
pub(crate) struct Table {
    rows: RwLock<Rows>,
    subscribers: Mutex<Vec<(u64, Subscriber)>>,
    stop: CancellationToken,
}

impl Drop for Table {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Table {
    pub(crate) fn start(
        registry: Registry,
        target: ApiResource,
        namespace: Option<String>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let table =
            Arc::new(Self { rows: RwLock::default(), subscribers: Mutex::default(), stop: stop.clone() });
        // The tasks hold the table weakly, so that it ends with its last handle.
        let weak = Arc::downgrade(&table);
        let mut changes = registry.changes();
        tokio::spawn(async move {
            loop {
                changes.mark_unchanged();
                match weak.upgrade() {
                    Some(table) => table.follow(&registry, &target, namespace.as_deref()),
                    None => return,
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                }
            }
        });
        table
    }

    fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: &Change) {
        let subscribers: Vec<Subscriber> =
            lock(&self.subscribers).iter().map(|(_, subscriber)| subscriber.clone()).collect();
        subscribers.iter().for_each(|subscriber| subscriber(change));
    }

    /// Has one watch per member that can be reached. A member that is not ready keeps its watch, which tries again by itself, and what was known
    /// of it.
    fn follow(self: &Arc<Self>, registry: &Registry, target: &ApiResource, namespace: Option<&str>) {
        let snapshot = registry.members();
        if !snapshot.synced {
            return;
        }
        let mut begin = Vec::new();
        {
            let mut rows = self.write();
            let gone: Vec<Arc<str>> = rows
                .members
                .keys()
                .filter(|name| !snapshot.members.contains_key(&***name))
                .cloned()
                .collect();
            for name in gone {
                if let Some(state) = rows.members.remove(&name) {
                    state.stop.cancel();
                    rows.forget(state.slot, |_| true);
                }
            }
            for (name, member) in &snapshot.members {
                let Some(client) = member.client.clone() else { continue };
                let name: Arc<str> = name.as_str().into();
                if let Some(state) =
                    rows.members.get_mut(&name).filter(|state| state.connection == member.connection)
                {
                    // A member that is back is read at once, not when its watch has waited long enough.
                    let is_back = member.ready && !state.ready && state.failed;
                    state.ready = member.ready;
                    if !is_back {
                        continue;
                    }
                }
                // What the former connection showed is kept until the new one has shown all, but no longer taken for certain.
                if let Some(state) = rows.members.remove(&name) {
                    state.stop.cancel();
                }
                let stop = self.stop.child_token();
                let state = MemberState {
                    slot: rows.slot(&name),
                    connection: member.connection,
                    ready: member.ready,
                    failed: false,
                    synced: false,
                    error: None,
                    stop: stop.clone(),
                };
                rows.members.insert(name.clone(), state);
                begin.push((name, Member::clone(member), client, stop));
            }
        }
        for (name, member, client, stop) in begin {
            let api: Api<DynamicObject> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, target),
                None => Api::all_with(client.clone(), target),
            };
            let selector = format!("{}={}", names::LABEL_MANAGED, names::MANAGED_TRUE);
            let feed = Feed::new(client, api.resource_url()).selecting(selector).only_metadata();
            let watch = Watch { table: Arc::downgrade(self), member: name, connection: member.connection };
            tokio::spawn(async move { stop.clone().run_until_cancelled(watch.follow(feed)).await });
        }
    }

    /// Changes rows of a member on behalf of the watch of one connection; a watch that has been replaced changes nothing.
    fn edit<C: IntoIterator<Item = Change>>(
        &self,
        member: &Arc<str>,
        connection: u64,
        edit: impl FnOnce(&mut Rows, u32) -> C,
    ) {
        let changes = {
            let mut rows = self.write();
            match rows.members.get(member).filter(|state| state.connection == connection) {
                Some(state) => {
                    let slot = state.slot;
                    edit(&mut rows, slot)
                }
                None => return,
            }
        };
        changes.into_iter().for_each(|change| self.tell(&change));
    }
}

impl Rows {
    fn slot(&mut self, member: &Arc<str>) -> u32 {
        let slot = self.names.iter().position(|name| name == member).unwrap_or(self.names.len());
        if slot == self.names.len() {
            self.names.push(member.clone());
        }
        u32::try_from(slot).unwrap_or(u32::MAX)
    }

    fn held(&self, namespace: &str, name: &str) -> &[Held] {
        self.objects.get(&ObjectKey::new(namespace, name)).map(Vec::as_slice).unwrap_or_default()
    }

    fn put(&mut self, slot: u32, key: ObjectKey, mut observed: Observed) -> Option<Arc<ObjectKey>> {
        let entry = match self.objects.entry(Arc::new(key)) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(Vec::with_capacity(1)),
        };
        let key = entry.key().clone();
        let held = entry.into_mut();
        // The copies of one object mostly bear the same marks.
        let marks = held.iter().map(|held| &held.observed.marks).find(|marks| **marks == observed.marks);
        if let Some(marks) = marks.filter(|marks| !marks.is_shared(&observed.marks)) {
            observed.marks = marks.clone();
        }
        match held.iter_mut().find(|held| held.slot == slot) {
            Some(former) if former.observed == observed => return None,
            Some(former) => former.observed = observed,
            None => {
                // Doubling would leave a hundred thousand empty places.
                if held.len() == held.capacity() {
                    held.reserve_exact(held.len() / 4 + 1);
                }
                held.push(Held { slot, observed });
            }
        }
        Some(key)
    }

    /// Removes the objects of a member that `which` chooses; returns their names.
    fn forget(&mut self, slot: u32, which: impl Fn(&ObjectKey) -> bool) -> Vec<Arc<ObjectKey>> {
        let mut gone = Vec::new();
        self.objects.retain(|key, held| {
            if which(key) && held.iter().any(|held| held.slot == slot) {
                held.retain(|held| held.slot != slot);
                gone.push(key.clone());
            }
            !held.is_empty()
        });
        gone
    }

    fn remove(&mut self, slot: u32, key: &ObjectKey) -> Option<Arc<ObjectKey>> {
        let name = self.objects.get_key_value(key).map(|(name, _)| name.clone())?;
        let held = self.objects.get_mut(key)?;
        let before = held.len();
        held.retain(|held| held.slot != slot);
        let after = held.len();
        if after == 0 {
            self.objects.remove(key);
        }
        (after < before).then_some(name)
    }
}

fn key(meta: &Meta<'_>) -> ObjectKey {
    ObjectKey::new(&meta.namespace, &meta.name)
}

fn observed(meta: &Meta<'_>) -> Observed {
    let managed = meta.labels().find(|(key, _)| *key == names::LABEL_MANAGED);
    Observed {
        resource_version: ResourceVersion::new(&meta.resource_version),
        generation: meta.generation,
        uid: Uid::new(&meta.uid),
        managed: managed.and_then(|(_, value)| value.parse().ok()),
        deleting: meta.is_deleting(),
        applied: meta.is_applied_by(names::FIELD_MANAGER_FEDERATION),
        marks: Marks::new(meta.labels(), meta.annotations()),
    }
}

/// Whether federation has applied an object with these `managedFields`, by server-side apply.
pub fn is_applied(entries: &[ManagedFieldsEntry]) -> bool {
    entries.iter().any(|entry| {
        entry.operation.as_deref() == Some("Apply")
            && entry.manager.as_deref() == Some(names::FIELD_MANAGER_FEDERATION)
            && entry.subresource.is_none()
    })
}

/// The watch of one member.
struct Watch {
    table: std::sync::Weak<Table>,
    member: Arc<str>,
    connection: u64,
}

impl Watch {
    async fn follow(self, feed: Feed) {
        let mut listed = HashSet::new();
        feed.follow(|step| self.take(&mut listed, step)).await;
    }

    fn take(&self, listed: &mut HashSet<ObjectKey>, step: Step<'_>) {
        let Self { member, connection, .. } = self;
        let Some(table) = self.table.upgrade() else { return };
        let object = |key| Change::Object { member: member.clone(), key };
        match step {
            Step::Begin => listed.clear(),
            Step::Listed(found) => {
                listed.insert(key(&found.meta));
                table.edit(member, *connection, |rows, slot| {
                    rows.put(slot, key(&found.meta), observed(&found.meta)).map(object)
                });
            }
            Step::Complete => {
                let listed = std::mem::take(listed);
                table.edit(member, *connection, |rows, slot| {
                    let gone = rows.forget(slot, |key| !listed.contains(key));
                    if let Some(state) = rows.members.get_mut(member) {
                        state.synced = true;
                        state.error = None;
                    }
                    let synced = Change::Synced { member: member.clone() };
                    gone.into_iter().map(object).chain(Some(synced)).collect::<Vec<_>>()
                });
            }
            Step::Put(found) => table.edit(member, *connection, |rows, slot| {
                rows.put(slot, key(&found.meta), observed(&found.meta)).map(object)
            }),
            Step::Gone(found) => {
                table.edit(member, *connection, |rows, slot| rows.remove(slot, &key(&found.meta)).map(object))
            }
            Step::Failed(error) => {
                tracing::debug!(%member, %error, "the watch of a member was interrupted; trying again");
                let said: Arc<str> = error.to_string().into();
                table.edit(member, *connection, |rows, _| {
                    let state = rows.members.get_mut(member)?;
                    let is_news = !state.synced && state.error.as_ref() != Some(&said);
                    state.error = Some(said);
                    state.failed = true;
                    is_news.then(|| Change::Failed { member: member.clone() })
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(version: &str) -> Observed {
        Observed {
            resource_version: ResourceVersion::new(version),
            generation: 1,
            uid: Uid::new(""),
            managed: Some(true),
            deleting: false,
            applied: true,
            marks: Marks::default(),
        }
    }

    #[test]
    fn versions_and_uids_come_out_as_they_went_in() {
        for text in ["", "0", "7", "007", "18446744073709551615", "18446744073709551616", "abc"] {
            assert_eq!(ResourceVersion::new(text).to_string(), text);
        }
        for text in [
            "",
            "0a1b2c3d-0000-4000-8000-0123456789ab",
            "0A1B2C3D-0000-4000-8000-0123456789ab",
            "u1",
            "-",
            "+1",
        ] {
            assert_eq!(Uid::new(text).to_string(), text);
        }
        assert!(Uid::new("0a1b2c3d-0000-4000-8000-0123456789ab").0.is_ok());
    }

    #[test]
    fn an_object_is_named_once_however_many_members_have_it() {
        let mut rows = Rows::default();
        let key = ObjectKey::new("shop", "web");
        let first = rows.put(1, key.clone(), observed("1")).unwrap();
        let second = rows.put(2, key.clone(), observed("2")).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        // What is already known is no change.
        assert_eq!(rows.put(2, key.clone(), observed("2")), None);
        assert_eq!(rows.remove(1, &key), Some(first));
        assert_eq!(rows.remove(1, &key), None);
        assert_eq!(rows.forget(2, |_| true).len(), 1);
        assert!(rows.objects.is_empty());
    }

    #[test]
    fn a_copy_takes_little_room() {
        assert!(size_of::<Held>() <= 80, "{}", size_of::<Held>());
    }
}
