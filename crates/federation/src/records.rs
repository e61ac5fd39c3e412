//! The recorded versions: `PropagatedVersion` and `ClusterPropagatedVersion` objects (`spec/kubefed.md §1.4, §2.5`).
//!
//! They are read once, found by the UID of the federated object that owns them, and from then on written only: this controller is
//! their one writer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hansa_api::{ClusterPropagatedVersion, PropagatedVersion, names};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::debts::Debts;
use crate::host;
use crate::intern::intern;
use crate::key::Key;
use crate::types::TypeConfig;
use crate::version::{self, Record};

/// Every recorded version.
pub(crate) struct Records {
    host: Client,
    /// What is owed for objects that are gone; it is recorded in the same kind of object.
    pub(crate) debts: Debts,
    by_owner: Mutex<HashMap<String, Entry>>,
    loaded: AtomicBool,
}

#[derive(Clone, Debug)]
struct Entry {
    record: Arc<Record>,
    /// Whether the API has it as it is here.
    saved: bool,
    /// The name of the object that the API has for it, unless it is the usual one.
    at: Place,
}

/// Where a record is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere yet.
    Nowhere,
    /// Under the name that KubeFed gives it.
    Usual,
    /// Under the name with the group in it, as the usual one is taken (`spec/kubefed.md §6` (15)).
    WithGroup,
}

/// Whose versions they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<'a> {
    /// The type.
    pub(crate) types: &'a TypeConfig,
    /// The federated object.
    pub(crate) key: &'a Key,
    /// Its UID.
    pub(crate) uid: &'a str,
}

impl Records {
    /// Nothing is known yet.
    pub(crate) fn new(host: Client, system_namespace: &str) -> Self {
        Self {
            debts: Debts::new(host.clone(), system_namespace),
            host,
            by_owner: Mutex::default(),
            loaded: AtomicBool::new(false),
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.by_owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all recorded versions; until this has succeeded once, nothing is known of any.
    pub(crate) async fn load(&self, namespace: Option<&str>) -> kube::Result<()> {
        let namespaced = ApiResource::erase::<PropagatedVersion>(&());
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(self.host.clone(), namespace, &namespaced),
            None => Api::all_with(self.host.clone(), &namespaced),
        };
        self.load_from(&api).await?;
        if namespace.is_none() {
            let cluster = ApiResource::erase::<ClusterPropagatedVersion>(&());
            self.load_from(&Api::all_with(self.host.clone(), &cluster)).await?;
        }
        self.loaded.store(true, Ordering::Release);
        Ok(())
    }

    async fn load_from(&self, api: &Api<DynamicObject>) -> kube::Result<()> {
        let mut params = ListParams::default().limit(500);
        loop {
            let page = api.list(&params).await?;
            for object in page.items {
                if self.debts.learn(&object) {
                    continue;
                }
                let Some(owner) = object.owner_references().first().map(|owner| owner.uid.clone()) else {
                    continue;
                };
                let is_usual = object.owner_references().first().is_some_and(|owner| {
                    let kind = owner.kind.strip_prefix("Federated").unwrap_or(&owner.kind);
                    object.name_any() == version::record_name(kind, &owner.name)
                });
                let at = if is_usual { Place::Usual } else { Place::WithGroup };
                let record = compact(Record::parse(&object.data));
                self.entries().insert(owner, Entry { record, saved: true, at });
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    /// Whether [`Records::load`] has succeeded.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// What was written for a federated object.
    pub(crate) fn get(&self, uid: &str) -> Option<Arc<Record>> {
        self.entries().get(uid).map(|entry| entry.record.clone())
    }

    /// Notes versions without writing them yet.
    pub(crate) fn remember(&self, uid: &str, record: Record) {
        let record = compact(record);
        let mut entries = self.entries();
        match entries.get_mut(uid) {
            Some(entry) if entry.record == record => {}
            Some(entry) => (entry.record, entry.saved) = (record, false),
            None if record.clusters.is_empty() => {}
            None => {
                entries.insert(uid.to_owned(), Entry { record, saved: false, at: Place::Nowhere });
            }
        }
    }

    /// Forgets what was written for a federated object that is gone; the API's garbage collector deletes the object.
    pub(crate) fn forget(&self, uid: &str) {
        self.entries().remove(uid);
    }

    /// Records versions; writes only what differs from what the API has. What cannot be written is remembered nevertheless.
    pub(crate) async fn save(&self, owner: Owner<'_>, record: Record) -> kube::Result<()> {
        self.remember(owner.uid, record);
        let (record, at) = match self.entries().get(owner.uid) {
            Some(entry) if !entry.saved => (entry.record.clone(), entry.at.clone()),
            _ => return Ok(()),
        };
        let at = self.write(owner, &record, at).await?;
        if let Some(entry) = self.entries().get_mut(owner.uid) {
            entry.at = at;
            entry.saved = entry.record == record;
        }
        Ok(())
    }

    async fn write(&self, owner: Owner<'_>, record: &Record, mut at: Place) -> kube::Result<Place> {
        let Owner { types, key, .. } = owner;
        let resource = if types.federated_namespaced {
            ApiResource::erase::<PropagatedVersion>(&())
        } else {
            ApiResource::erase::<ClusterPropagatedVersion>(&())
        };
        let api: Api<DynamicObject> = if types.federated_namespaced {
            Api::namespaced_with(self.host.clone(), &key.namespace, &resource)
        } else {
            Api::all_with(self.host.clone(), &resource)
        };
        let status = json!({ "status": record.status() });
        loop {
            let was_there = at != Place::Nowhere;
            if !was_there {
                at = create(&api, &resource, owner).await?;
            }
            match host::patch_status(&self.host, api.resource_url(), &at.name(owner), &status).await {
                Err(kube::Error::Api(error)) if error.code == 404 && was_there => at = Place::Nowhere,
                other => return other.map(|_| at),
            }
        }
    }
}

/// A record in no more room than it needs.
fn compact(mut record: Record) -> Arc<Record> {
    record.clusters = record.clusters.compact(|name| intern(&name));
    Arc::new(record)
}

impl Place {
    fn name(&self, owner: Owner<'_>) -> String {
        let target = &owner.types.target;
        match self {
            Self::Nowhere | Self::Usual => version::record_name(&target.kind, &owner.key.name),
            Self::WithGroup => {
                let group = if target.group.is_empty() { "core" } else { &target.group };
                version::record_name(&format!("{}.{group}", target.kind), &owner.key.name)
            }
        }
    }
}

/// A status is dropped when an object is created, so it is created first and then told its status.
async fn create(api: &Api<DynamicObject>, resource: &ApiResource, owner: Owner<'_>) -> kube::Result<Place> {
    let Owner { types, key, uid } = owner;
    let reference = json!({
        "apiVersion": types.federated.api_version, "kind": types.federated.kind, "name": &*key.name, "uid": uid,
    });
    let params = PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let mut taken = None;
    for place in [Place::Usual, Place::WithGroup] {
        let name = place.name(owner);
        let mut object = DynamicObject::new(&name, resource).data(Value::Object(serde_json::Map::new()));
        object.metadata.namespace = Some(key.namespace.to_string()).filter(|namespace| !namespace.is_empty());
        object.metadata.owner_references = serde_json::from_value(json!([reference])).ok();
        match api.create(&params, &object).await {
            Err(kube::Error::Api(error)) if error.code == 409 => {}
            other => return other.map(|_| place),
        }
        // What is there was left by an earlier object of the same name, or belongs to one of another group with the same kind.
        let live = api.get(&name).await?;
        let theirs = live.owner_references().iter().find(|other| other.uid != uid);
        if let Some(theirs) = theirs.filter(|theirs| theirs.api_version != types.federated.api_version) {
            taken = Some(format!("{name} holds the versions of {} {}", theirs.api_version, theirs.kind));
            continue;
        }
        let patch =
            json!({"metadata": {"ownerReferences": [reference], "resourceVersion": live.resource_version()}});
        return api
            .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map(|_| place);
    }
    let message = taken.unwrap_or_default();
    Err(kube::Error::Api(kube::core::Status::failure(&message, "Conflict").with_code(409).boxed()))
}
