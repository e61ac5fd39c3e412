//! What the members say of their objects of one type: a watch with bodies in each member, for the types whose status somebody wants to know.
//!
//! The metadata watch of [`crate::informer`] shows no status, and a whole object is large: each is read past its spec, projected at the door
//! into whatever the reader keeps of it, and dropped. What a member said last is kept while it is away.

mod shown;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use hansa_api::names;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use tokio_util::sync::CancellationToken;

use crate::feed::{Feed, Object, Step};
use crate::informer::ObjectKey;
use crate::registry::Registry;
pub use shown::Shown;

/// The longest pause between two questions whether a type has a status.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is watched, and what is kept of it.
pub struct Subject<T> {
    /// The type.
    pub target: ApiResource,
    /// The one namespace that is watched, or all.
    pub namespace: Option<String>,
    /// Whether each member is to be asked first if the type has a status there at all: of the types that are not Kubernetes' own that is not
    /// known. In a member that has none nothing is watched.
    pub ask: bool,
    /// What is kept of an object.
    pub project: fn(&ApiResource, &Shown) -> T,
    /// Told of what changed. It must not wait.
    pub changed: Changed<T>,
}

/// Called with each change.
pub type Changed<T> = Box<dyn Fn(Change<'_, T>) + Send + Sync>;

/// What changed.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a, T> {
    /// An object came, changed or went in a member whose objects have all been read; or is one of those that have been.
    Object {
        /// The member.
        member: &'a str,
        /// The object.
        key: &'a ObjectKey,
        /// What is kept of it now.
        kept: Option<&'a T>,
    },
    /// It is known of a member that the type has no status there.
    Statusless {
        /// The member.
        member: &'a str,
    },
}

/// What is known of one object in one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting<T> {
    /// The member says so.
    Shown(T),
    /// The member has no such object with the managed label.
    Absent,
    /// The objects of the member have not been read over this connection; with what it said over the last.
    Unread(Option<T>),
    /// The type has no status in this member.
    Statusless,
}

/// What the members say of the objects of one type. The watches end when it is dropped.
pub struct Statuses<T> {
    table: Arc<Table<T>>,
    stop: CancellationToken,
}

impl<T> Drop for Statuses<T> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl<T: Clone + PartialEq + Send + Sync + 'static> Statuses<T> {
    /// Begins to watch. It must be called inside a runtime.
    pub fn start(registry: &Registry, subject: Subject<T>, stop: &CancellationToken) -> Self {
        let stop = stop.child_token();
        let table = Arc::new(Table { rows: RwLock::new(Rows::default()), subject, stop: stop.clone() });
        let (weak, registry, until) = (Arc::downgrade(&table), registry.clone(), stop.clone());
        let mut changes = registry.changes();
        tokio::spawn(async move {
            loop {
                changes.mark_unchanged();
                match weak.upgrade() {
                    Some(table) => table.follow(&registry),
                    None => return,
                }
                tokio::select! {
                    () = until.cancelled() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                }
            }
        });
        Self { table, stop }
    }

    /// One object in every member that is watched; of others nothing is known.
    pub fn look(&self, namespace: &str, name: &str) -> BTreeMap<Arc<str>, Sighting<T>> {
        let rows = self.table.read();
        let held = rows.objects.get(&ObjectKey::new(namespace, name)).map_or(&[][..], Vec::as_slice);
        let look = |(name, member): (&Arc<str>, &MemberState)| {
            let kept = held.iter().find(|(holder, _)| *holder == member.number).map(|(_, kept)| kept.clone());
            let sighting = match (member.progress, kept) {
                (Progress::Statusless, _) => Sighting::Statusless,
                (Progress::Reading, kept) => Sighting::Unread(kept),
                (Progress::Read, Some(kept)) => Sighting::Shown(kept),
                (Progress::Read, None) => Sighting::Absent,
            };
            (name.clone(), sighting)
        };
        rows.members.iter().map(look).collect()
    }
}

struct Table<T> {
    rows: RwLock<Rows<T>>,
    subject: Subject<T>,
    stop: CancellationToken,
}

struct Rows<T> {
    /// What each member, by its number, shows of an object.
    objects: BTreeMap<ObjectKey, Vec<(u32, T)>>,
    members: BTreeMap<Arc<str>, MemberState>,
    next_number: u32,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), members: BTreeMap::new(), next_number: 0 }
    }
}

struct MemberState {
    number: u32,
    connection: u64,
    ready: bool,
    failed: bool,
    progress: Progress,
    stop: CancellationToken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Reading,
    Read,
    Statusless,
}

impl<T: Clone + PartialEq + Send + Sync + 'static> Table<T> {
    fn read(&self) -> RwLockReadGuard<'_, Rows<T>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows<T>> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has one watch per member that can be reached, as [`crate::informer`] has.
    fn follow(self: &Arc<Self>, registry: &Registry) {
        let snapshot = registry.members();
        if !snapshot.synced {
            return;
        }
        let mut begin = Vec::new();
        let mut rows = self.write();
        let gone: Vec<_> =
            rows.members.keys().filter(|name| !snapshot.members.contains_key(&***name)).cloned().collect();
        for name in gone {
            if let Some(state) = rows.members.remove(&name) {
                state.stop.cancel();
                rows.retain(state.number, |_| false);
            }
        }
        for (name, member) in &snapshot.members {
            let Some(client) = member.client.clone() else { continue };
            let former = rows.members.get_mut(&**name);
            let number = match former {
                Some(state) => {
                    let is_back = member.ready && !state.ready && state.failed;
                    state.ready = member.ready;
                    if state.connection == member.connection && !is_back {
                        continue;
                    }
                    state.stop.cancel();
                    state.number
                }
                None => {
                    rows.next_number += 1;
                    rows.next_number
                }
            };
            let stop = self.stop.child_token();
            let state = MemberState {
                number,
                connection: member.connection,
                ready: member.ready,
                failed: false,
                progress: Progress::Reading,
                stop: stop.clone(),
            };
            let name: Arc<str> = name.as_str().into();
            rows.members.insert(name.clone(), state);
            begin.push((Watch { table: Arc::downgrade(self), member: name, stop: stop.clone() }, client));
        }
        drop(rows);
        for (watch, client) in begin {
            tokio::spawn(async move { watch.stop.clone().run_until_cancelled(watch.run(client)).await });
        }
    }
}

impl<T> Rows<T> {
    /// Removes what one member shows of the objects that are not to be kept; returns their names.
    fn retain(&mut self, number: u32, keep: impl Fn(&ObjectKey) -> bool) -> Vec<ObjectKey> {
        let mut gone = Vec::new();
        self.objects.retain(|key, held| {
            let before = held.len();
            held.retain(|(holder, _)| *holder != number || keep(key));
            if held.len() < before {
                gone.push(key.clone());
            }
            !held.is_empty()
        });
        gone
    }
}

impl<T: PartialEq> Rows<T> {
    /// Keeps what a member shows of an object; says whether that is anything new.
    fn put(&mut self, number: u32, key: &ObjectKey, kept: T) -> bool {
        // Most members have most objects; the last of a growing vector's doublings would be half empty.
        let held = match self.objects.get_mut(key) {
            Some(held) => held,
            None => self.objects.entry(key.clone()).or_default(),
        };
        match held.iter_mut().find(|(holder, _)| *holder == number) {
            Some((_, former)) if *former == kept => return false,
            Some((_, former)) => *former = kept,
            None => {
                held.reserve_exact(1);
                held.push((number, kept));
            }
        }
        true
    }
}

/// The watch of one member over one connection.
struct Watch<T> {
    table: Weak<Table<T>>,
    member: Arc<str>,
    stop: CancellationToken,
}

impl<T: Clone + PartialEq + Send + Sync + 'static> Watch<T> {
    /// Changes what this member shows, unless the watch has been replaced meanwhile; `None` ends it.
    fn edit<R>(&self, edit: impl FnOnce(&Table<T>, &mut Rows<T>, u32) -> R) -> Option<R> {
        let table = self.table.upgrade()?;
        let mut rows = table.write();
        // A watch is told to stop under this lock, before another takes its place.
        let number = rows.members.get(&self.member).filter(|_| !self.stop.is_cancelled())?.number;
        Some(edit(&table, &mut rows, number))
    }

    /// Says what progress was made.
    fn note(&self, progress: Progress, failed: bool) -> Option<()> {
        self.edit(|_, rows, _| {
            if let Some(state) = rows.members.get_mut(&self.member) {
                (state.progress, state.failed) = (progress, failed);
            }
        })
    }

    fn tell(&self, change: Change<'_, T>) -> Option<()> {
        (self.table.upgrade()?.subject.changed)(change);
        Some(())
    }

    /// Watches, trying again by itself.
    async fn run(&self, client: Client) -> Option<()> {
        let (target, namespace, ask) = {
            let table = self.table.upgrade()?;
            (table.subject.target.clone(), table.subject.namespace.clone(), table.subject.ask)
        };
        if ask && !has_status(&client, &target).await {
            self.note(Progress::Statusless, false)?;
            return self.tell(Change::Statusless { member: &self.member });
        }
        let api: Api<DynamicObject> = match &namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &target),
            None => Api::all_with(client.clone(), &target),
        };
        let selector = format!("{}={}", names::LABEL_MANAGED, names::MANAGED_TRUE);
        let feed = Feed::new(client, api.resource_url()).selecting(selector);
        let mut listed = HashSet::new();
        // Without its table the watch is told to stop; until then there is nobody to tell.
        feed.follow(|step| _ = self.take(&target, &mut listed, step)).await;
        None
    }

    fn take(&self, target: &ApiResource, listed: &mut HashSet<ObjectKey>, step: Step<'_>) -> Option<()> {
        match step {
            Step::Begin => listed.clear(),
            Step::Listed(object) => {
                let key = key(object);
                self.put(&key, target, &shown(object)?)?;
                listed.insert(key);
            }
            Step::Complete => self.read(&std::mem::take(listed))?,
            Step::Put(object) => {
                let key = key(object);
                if let Some(kept) = self.put(&key, target, &shown(object)?)? {
                    self.tell(Change::Object { member: &self.member, key: &key, kept: Some(&kept) })?;
                }
            }
            Step::Gone(object) => {
                let key = key(object);
                if self.edit(|_, rows, number| rows.retain_one(number, &key))? {
                    self.tell(Change::Object { member: &self.member, key: &key, kept: None })?;
                }
            }
            Step::Failed(error) => {
                tracing::debug!(member = &*self.member, r#type = %target.plural, %error, "statuses cannot be watched; trying again");
                self.edit(|_, rows, _| {
                    if let Some(state) = rows.members.get_mut(&self.member) {
                        state.failed = true;
                    }
                })?;
            }
        }
        Some(())
    }

    fn put(&self, key: &ObjectKey, target: &ApiResource, shown: &Shown) -> Option<Option<T>> {
        let kept = (self.table.upgrade()?.subject.project)(target, shown);
        self.edit(|_, rows, number| rows.put(number, key, kept.clone()).then_some(kept))
    }

    /// All objects have been read.
    fn read(&self, listed: &HashSet<ObjectKey>) -> Option<()> {
        let (gone, shown) = self.edit(|_, rows, number| {
            let gone = rows.retain(number, |key| listed.contains(key));
            let shown = |key: &ObjectKey| {
                let held = rows.objects.get(key)?.iter().find(|(holder, _)| *holder == number)?;
                Some((key.clone(), held.1.clone()))
            };
            let shown: Vec<_> = listed.iter().filter_map(shown).collect();
            (gone, shown)
        })?;
        self.note(Progress::Read, false)?;
        for key in &gone {
            self.tell(Change::Object { member: &self.member, key, kept: None })?;
        }
        for (key, kept) in &shown {
            self.tell(Change::Object { member: &self.member, key, kept: Some(kept) })?;
        }
        Some(())
    }
}

impl<T> Rows<T> {
    /// Removes what a member shows of one object; says whether there was anything.
    fn retain_one(&mut self, number: u32, key: &ObjectKey) -> bool {
        let Some(held) = self.objects.get_mut(key) else { return false };
        let before = held.len();
        held.retain(|(holder, _)| *holder != number);
        let (after, is_gone) = (held.len(), held.is_empty());
        if is_gone {
            self.objects.remove(key);
        }
        after < before
    }
}

fn key(object: &Object<'_>) -> ObjectKey {
    ObjectKey::new(&object.meta.namespace, &object.meta.name)
}

fn shown(object: &Object<'_>) -> Option<Shown> {
    serde_json::from_str(object.raw).ok()
}

/// Asks a member until it says whether the type has a status there; a type that it does not know yet may still come.
async fn has_status(client: &Client, target: &ApiResource) -> bool {
    let mut pause = Duration::from_secs(1);
    loop {
        let list = client.list_api_group_resources(&target.api_version).await;
        if let Ok(list) = list
            && list.resources.iter().any(|resource| resource.name == target.plural)
        {
            let status = format!("{}/status", target.plural);
            return list.resources.iter().any(|resource| resource.name == status);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_what_is_new_and_forget_what_is_gone() {
        let mut rows = Rows::default();
        let (a, b) = (ObjectKey::new("n", "a"), ObjectKey::new("n", "b"));
        assert!(rows.put(1, &a, 'x') && rows.put(2, &a, 'y') && rows.put(1, &b, 'z'));
        assert!(!rows.put(1, &a, 'x') && rows.put(1, &a, 'w'));
        assert_eq!(rows.retain(1, |key| *key == b), std::slice::from_ref(&a));
        assert_eq!(rows.objects[&a], [(2, 'y')]);
        assert!(rows.retain_one(2, &a) && !rows.retain_one(2, &a) && !rows.objects.contains_key(&a));
    }
}
