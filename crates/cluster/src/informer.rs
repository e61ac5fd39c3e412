//! What the members have of one type: a metadata watch in each, shared by all who need it.
//!
//! Each object is projected at the door into a few words ([`Observed`]), and an object that several members have is named once: 100,000 copies
//! of 10,000 objects take some ten megabytes.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::StreamExt;
use hansa_api::names;
use kube::Api;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::core::ApiResource;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use tokio_util::sync::CancellationToken;

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
    /// Its labels and annotations.
    pub marks: Marks,
}

/// A resourceVersion, kept small: nearly all are decimal numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceVersion(Result<u64, Box<str>>);

impl ResourceVersion {
    fn new(text: &str) -> Self {
        match text.parse::<u64>() {
            Ok(number) if number.to_string() == text => Self(Ok(number)),
            _ => Self(Err(text.into())),
        }
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
pub struct Uid(Result<u128, Box<str>>);

impl Uid {
    /// Reads a UID.
    pub fn new(text: &str) -> Self {
        let hex: String = text.split('-').collect();
        let parsed = u128::from_str_radix(&hex, 16).map(|number| Self(Ok(number)));
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
                let hex = format!("{number:032x}");
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
                let held = rows.objects.get(&ObjectKey::new(namespace, name));
                let found = held.and_then(|held| held.1.iter().find(|(holder, _)| &**holder == member));
                found.map_or(Lookup::Absent, |(_, observed)| Lookup::Present(observed.clone()))
            }
            state => Lookup::Unknown(state.and_then(|state| state.error.clone())),
        }
    }

    /// One object in every member that is watched; of others nothing is known.
    pub fn look(&self, namespace: &str, name: &str) -> BTreeMap<Arc<str>, Lookup> {
        let rows = self.table.read();
        let held = rows.objects.get(&ObjectKey::new(namespace, name));
        let mut found: BTreeMap<&str, &Observed> = BTreeMap::new();
        found.extend(
            held.into_iter().flat_map(|held| &held.1).map(|(holder, observed)| (&**holder, observed)),
        );
        let look = |(member, state): (&Arc<str>, &MemberState)| {
            let lookup = match found.get(&**member) {
                _ if !state.synced => Lookup::Unknown(state.error.clone()),
                Some(observed) => Lookup::Present((*observed).clone()),
                None => Lookup::Absent,
            };
            (member.clone(), lookup)
        };
        rows.members.iter().map(look).collect()
    }

    /// One object in all members that have it, read or not.
    pub fn holders(&self, namespace: &str, name: &str) -> Vec<(Arc<str>, Observed)> {
        self.table
            .read()
            .objects
            .get(&ObjectKey::new(namespace, name))
            .map(|held| held.1.clone())
            .unwrap_or_default()
    }

    /// How many objects there are in all members together.
    pub fn count(&self) -> usize {
        self.table.read().objects.values().map(|held| held.1.len()).sum()
    }

    /// The names of all objects that some member has.
    pub fn keys(&self) -> Vec<Arc<ObjectKey>> {
        self.table.read().objects.values().map(|held| held.0.clone()).collect()
    }
}

type Held = (Arc<ObjectKey>, Vec<(Arc<str>, Observed)>);

#[derive(Default)]
struct Rows {
    objects: BTreeMap<ObjectKey, Held>,
    members: BTreeMap<Arc<str>, MemberState>,
}

struct MemberState {
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
                }
                rows.forget(&name, |_| true);
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
            let api: Api<PartialObjectMeta<DynamicObject>> = match namespace {
                Some(namespace) => Api::namespaced_with(client, namespace, target),
                None => Api::all_with(client, target),
            };
            let table = Arc::downgrade(self);
            tokio::spawn(async move {
                stop.clone().run_until_cancelled(watch(table, name, member.connection, api)).await;
            });
        }
    }

    /// Changes rows of a member on behalf of the watch of one connection; a watch that has been replaced changes nothing.
    fn edit(&self, member: &Arc<str>, connection: u64, edit: impl FnOnce(&mut Rows) -> Vec<Change>) {
        let changes = {
            let mut rows = self.write();
            if rows.members.get(member).is_none_or(|state| state.connection != connection) {
                return;
            }
            edit(&mut rows)
        };
        changes.iter().for_each(|change| self.tell(change));
    }
}

impl Rows {
    fn put(&mut self, member: &Arc<str>, key: ObjectKey, observed: Observed) -> Option<Arc<ObjectKey>> {
        let held =
            self.objects.entry(key).or_insert_with_key(|key| (Arc::new(key.clone()), Vec::with_capacity(1)));
        match held.1.iter_mut().find(|(holder, _)| holder == member) {
            Some((_, former)) if *former == observed => return None,
            Some((_, former)) => *former = observed,
            None => held.1.push((member.clone(), observed)),
        }
        Some(held.0.clone())
    }

    /// Removes the objects of a member that `which` chooses; returns their names.
    fn forget(&mut self, member: &Arc<str>, which: impl Fn(&ObjectKey) -> bool) -> Vec<Arc<ObjectKey>> {
        let mut gone = Vec::new();
        self.objects.retain(|key, held| {
            if which(key) && held.1.iter().any(|(holder, _)| holder == member) {
                held.1.retain(|(holder, _)| holder != member);
                gone.push(held.0.clone());
            }
            !held.1.is_empty()
        });
        gone
    }

    fn remove(&mut self, member: &Arc<str>, key: &ObjectKey) -> Option<Arc<ObjectKey>> {
        let held = self.objects.get_mut(key)?;
        let before = held.1.len();
        held.1.retain(|(holder, _)| holder != member);
        let (name, after) = (held.0.clone(), held.1.len());
        if after == 0 {
            self.objects.remove(key);
        }
        (after < before).then_some(name)
    }
}

fn project(object: PartialObjectMeta<DynamicObject>) -> Option<(ObjectKey, Observed)> {
    let metadata = object.metadata;
    let key = ObjectKey::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref()?);
    let managed = metadata.labels.as_ref().and_then(|labels| labels.get(names::LABEL_MANAGED));
    let observed = Observed {
        resource_version: ResourceVersion::new(metadata.resource_version.as_deref().unwrap_or_default()),
        generation: metadata.generation.unwrap_or_default(),
        uid: Uid::new(metadata.uid.as_deref().unwrap_or_default()),
        managed: managed.and_then(|value| value.parse().ok()),
        deleting: metadata.deletion_timestamp.is_some(),
        marks: Marks::of_metadata(&metadata),
    };
    Some((key, observed))
}

/// The watch of one member, which tries again by itself and waits longer each time.
async fn watch(
    table: std::sync::Weak<Table>,
    member: Arc<str>,
    connection: u64,
    api: Api<PartialObjectMeta<DynamicObject>>,
) {
    let selector = format!("{}={}", names::LABEL_MANAGED, names::MANAGED_TRUE);
    let config = watcher::Config::default().labels(&selector).page_size(500);
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut listed: HashSet<ObjectKey> = HashSet::new();
    while let Some(event) = events.next().await {
        let Some(table) = table.upgrade() else { return };
        let object = |key| Change::Object { member: member.clone(), key };
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(found)) => {
                let Some((key, observed)) = project(found) else { continue };
                listed.insert(key.clone());
                table.edit(&member, connection, |rows| {
                    rows.put(&member, key, observed).map(object).into_iter().collect()
                });
            }
            Ok(Event::InitDone) => {
                let listed = std::mem::take(&mut listed);
                table.edit(&member, connection, |rows| {
                    let gone = rows.forget(&member, |key| !listed.contains(key));
                    if let Some(state) = rows.members.get_mut(&member) {
                        state.synced = true;
                        state.error = None;
                    }
                    let synced = Change::Synced { member: member.clone() };
                    gone.into_iter().map(object).chain(Some(synced)).collect()
                });
            }
            Ok(Event::Apply(found)) => {
                let Some((key, observed)) = project(found) else { continue };
                table.edit(&member, connection, |rows| {
                    rows.put(&member, key, observed).map(object).into_iter().collect()
                });
            }
            Ok(Event::Delete(found)) => {
                let Some((key, _)) = project(found) else { continue };
                table.edit(&member, connection, |rows| {
                    rows.remove(&member, &key).map(object).into_iter().collect()
                });
            }
            Err(error) => {
                tracing::debug!(%member, %error, "the watch of a member was interrupted; trying again");
                let said: Arc<str> = describe(&error).into();
                table.edit(&member, connection, |rows| {
                    let Some(state) = rows.members.get_mut(&member) else { return Vec::new() };
                    let is_news = !state.synced && state.error.as_ref() != Some(&said);
                    state.error = Some(said);
                    state.failed = true;
                    is_news.then(|| Change::Failed { member: member.clone() }).into_iter().collect()
                });
            }
        }
    }
}

fn describe(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => hansa_transport::explain(error),
        other => other.to_string(),
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
        let (m1, m2): (Arc<str>, Arc<str>) = ("m1".into(), "m2".into());
        let key = ObjectKey::new("shop", "web");
        let first = rows.put(&m1, key.clone(), observed("1")).unwrap();
        let second = rows.put(&m2, key.clone(), observed("2")).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        // What is already known is no change.
        assert_eq!(rows.put(&m2, key.clone(), observed("2")), None);
        assert_eq!(rows.remove(&m1, &key), Some(first));
        assert_eq!(rows.remove(&m1, &key), None);
        assert_eq!(rows.forget(&m2, |_| true).len(), 1);
        assert!(rows.objects.is_empty());
    }
}
