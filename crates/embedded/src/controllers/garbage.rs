//! The garbage collector: objects whose owners are gone, owners that wait for their dependents.
//!
//! Every decision to delete rests on a live read of the owner: an owner counts as gone only when its own resource is
//! known and holds no object of that name with that uid. A kind that is not served says nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hansa_machinery::Status;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    DeleteOptions, PatchKind, Propagation, Server,
    api::metadata,
    local::Local,
    registry::{Catalogue, Resource},
    store::{Entry, EventKind, Key, WatchError},
};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Runs one worker for each resource, for as long as it is served.
pub(crate) async fn run(server: Server) {
    let local = server.local().as_manager("kube-controller-manager");
    let mut generations = server.registry().changes();
    let mut workers = JoinSet::new();
    let mut running: BTreeMap<Arc<str>, tokio::task::AbortHandle> = BTreeMap::new();
    // Counts how often events were lost: all dependents are looked at again then.
    let rescans = Arc::new(watch::Sender::new(0_u64));
    loop {
        generations.borrow_and_update();
        let catalogue = server.registry().catalogue();
        running.retain(|name, worker| {
            let served = catalogue.stored(name).is_some();
            if !served {
                worker.abort();
            }
            served
        });
        for resource in catalogue.all_stored() {
            if !running.contains_key(&resource.storage) {
                let worker = work(local.clone(), resource.storage.clone(), rescans.clone());
                running.insert(resource.storage.clone(), workers.spawn(worker));
            }
        }
        if generations.changed().await.is_err() {
            return;
        }
    }
}

async fn work(local: Local, resource: Arc<str>, rescans: Arc<watch::Sender<u64>>) {
    let mut rescan = rescans.subscribe();
    let mut delay = Duration::from_millis(100);
    loop {
        rescan.borrow_and_update();
        match follow(&local, &resource, &mut rescan).await {
            Ok(()) => delay = Duration::from_millis(100),
            Err(Trouble::Closed) => return,
            Err(Trouble::Lagged) => rescans.send_modify(|count| *count += 1),
            Err(Trouble::Failed(error)) => {
                tracing::warn!(%error, %resource, "garbage collection: trying again");
                delay = (delay * 2).min(Duration::from_secs(30));
            }
        }
        tokio::time::sleep(delay).await;
    }
}

enum Trouble {
    Closed,
    Lagged,
    Failed(Status),
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

impl From<WatchError> for Trouble {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Closed => Self::Closed,
            WatchError::Compacted(_) => Self::Lagged,
        }
    }
}

/// Looks at every object of the resource, then at each that changes.
async fn follow(
    local: &Local,
    resource: &Arc<str>,
    rescan: &mut watch::Receiver<u64>,
) -> Result<(), Trouble> {
    let store = local.server().store();
    let page =
        store.list(resource, None, None, None, 0).map_err(|gone| Status::internal(gone.to_string()))?;
    let mut changes = store.watch(resource.clone(), None, page.revision).map_err(WatchError::from)?;
    for entry in page.entries {
        examine(local, &entry).await?;
    }
    loop {
        let event = tokio::select! {
            event = changes.next() => event?,
            _ = rescan.changed() => return Ok(()),
        };
        match event.kind {
            EventKind::Put { .. } => {
                let owners_changed =
                    event.previous.as_ref().is_none_or(|p| p.facts.owners != event.entry.facts.owners);
                if event.entry.facts.deleting || owners_changed {
                    examine(local, &event.entry).await?;
                }
            }
            EventKind::Delete => {
                for key in store.owned_by(&event.entry.facts.uid) {
                    if let Some(dependent) = store.get(&key) {
                        collect(local, &dependent).await?;
                    }
                }
                // The owner may have waited for this one.
                for owner in owners(local, &event.entry)? {
                    if let Owner::Present(owner) = owner.state {
                        examine(local, &owner).await?;
                    }
                }
            }
        }
    }
}

async fn examine(local: &Local, entry: &Arc<Entry>) -> Result<(), Status> {
    if entry.facts.deleting {
        finish(local, &entry.key).await?;
    }
    if !entry.facts.owners.is_empty() {
        collect(local, entry).await?;
    }
    Ok(())
}

/// What a reference to an owner leads to.
enum Owner {
    Present(Arc<Entry>),
    /// No object of that name has that uid.
    Gone,
    /// Nothing can be said: the kind is not served, or the owner lives elsewhere.
    Unknown,
}

struct Reference {
    uid: String,
    blocks: bool,
    state: Owner,
}

fn owners(local: &Local, entry: &Entry) -> Result<Vec<Reference>, Status> {
    if entry.facts.owners.is_empty() {
        return Ok(Vec::new());
    }
    let object: Value = crate::api::call::parse(&entry.object)?;
    let catalogue = local.server().registry().catalogue();
    let references = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    Ok(references
        .map(|reference| Reference {
            uid: reference["uid"].as_str().unwrap_or_default().to_owned(),
            blocks: reference["blockOwnerDeletion"] == true,
            state: owner(local, &catalogue, entry, reference),
        })
        .collect())
}

fn owner(local: &Local, catalogue: &Catalogue, dependent: &Entry, reference: &Value) -> Owner {
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let Some(resource) = owner_resource(catalogue, text("apiVersion"), text("kind")) else {
        return Owner::Unknown;
    };
    let namespace = match (resource.namespaced, dependent.key.namespace.as_str()) {
        (false, _) => "",
        // A cluster-scoped object cannot have an owner in a namespace.
        (true, "") => return Owner::Unknown,
        (true, namespace) => namespace,
    };
    let store = local.server().store();
    let key = Key {
        resource: resource.storage.clone(),
        namespace: namespace.to_owned(),
        name: text("name").to_owned(),
    };
    match store.get(&key) {
        Some(owner) if owner.facts.uid == text("uid") => Owner::Present(owner),
        _ => {
            // A reference across namespaces has no effect while the owner lives there.
            let elsewhere = resource.namespaced
                && store.list(&resource.storage, None, None, None, 0).is_ok_and(|page| {
                    page.entries.iter().any(|e| e.facts.uid == text("uid") && e.key.namespace != namespace)
                });
            if elsewhere { Owner::Unknown } else { Owner::Gone }
        }
    }
}

/// The resource of an owner. Any version of a served kind will do: all show the same objects.
fn owner_resource(catalogue: &Catalogue, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
    if let Some(resource) = catalogue.kind(api_version, kind) {
        return Some(resource.clone());
    }
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    catalogue.all_stored().find(|r| r.group == group && r.kind == kind).cloned()
}

/// Deletes a dependent that has no owner left, or takes the references to gone owners out of it.
async fn collect(local: &Local, entry: &Arc<Entry>) -> Result<(), Status> {
    let references = owners(local, entry)?;
    if references.is_empty() {
        return Ok(());
    }
    let (mut solid, mut gone, mut waiting) = (false, Vec::new(), Vec::new());
    for reference in &references {
        match &reference.state {
            Owner::Gone => gone.push(reference.uid.as_str()),
            Owner::Present(owner) if reference.blocks && waits_for_dependents(owner)? => {
                waiting.push(reference.uid.as_str());
            }
            Owner::Present(_) | Owner::Unknown => solid = true,
        }
    }
    if gone.is_empty() && waiting.is_empty() {
        return Ok(());
    }
    if solid {
        let dropped: Vec<&str> = gone.into_iter().chain(waiting).collect();
        return drop_references(local, entry, &dropped).await;
    }
    let has_dependents = !local.server().store().owned_by(&entry.facts.uid).is_empty();
    let object = crate::api::call::parse(&entry.object)?;
    let finalizers = metadata::finalizers(&object);
    let propagation = if !waiting.is_empty() && has_dependents || finalizers.contains(&FOREGROUND) {
        Propagation::Foreground
    } else if finalizers.contains(&ORPHAN) {
        Propagation::Orphan
    } else {
        Propagation::Background
    };
    if entry.facts.deleting {
        return Ok(());
    }
    let options = DeleteOptions {
        propagation: Some(propagation),
        uid: Some(entry.facts.uid.clone()),
        resource_version: Some(entry.revision.to_string()),
        ..DeleteOptions::default()
    };
    let deleted = local.delete(&entry.key.resource, &entry.key.namespace, &entry.key.name, &options).await;
    match deleted {
        Ok(_) => Ok(()),
        // Gone, or changed: the change is looked at in its turn unless its owners stayed the same.
        Err(status) if status.code == 404 => Ok(()),
        Err(status) if status.code == 409 => match local.server().store().get(&entry.key) {
            Some(now) if now.facts.uid == entry.facts.uid && now.revision != entry.revision => {
                Box::pin(collect(local, &now)).await
            }
            _ => Ok(()),
        },
        Err(status) => Err(status),
    }
}

fn waits_for_dependents(owner: &Entry) -> Result<bool, Status> {
    if !owner.facts.deleting {
        return Ok(false);
    }
    let object = crate::api::call::parse(&owner.object)?;
    Ok(metadata::finalizers(&object).contains(&FOREGROUND))
}

/// Takes the references to these owners out of an object.
async fn drop_references(local: &Local, entry: &Arc<Entry>, uids: &[&str]) -> Result<(), Status> {
    let object = crate::api::call::parse(&entry.object)?;
    let references = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let kept: Vec<Value> =
        references.filter(|r| !uids.contains(&r["uid"].as_str().unwrap_or_default())).cloned().collect();
    let kept = if kept.is_empty() { Value::Null } else { kept.into() };
    let patch = json!({"metadata": {
        "ownerReferences": kept, "uid": entry.facts.uid, "resourceVersion": entry.revision.to_string(),
    }});
    let key = &entry.key;
    let patched = local.patch(&key.resource, "", &key.namespace, &key.name, PatchKind::Merge, patch).await;
    match patched {
        Ok(_) => Ok(()),
        Err(status) if status.code == 404 => Ok(()),
        Err(status) if status.code == 409 => match local.server().store().get(key) {
            Some(now) if now.facts.uid == entry.facts.uid && now.revision != entry.revision => {
                Box::pin(drop_references(local, &now, uids)).await
            }
            _ => Ok(()),
        },
        Err(status) => Err(status),
    }
}

/// Does what the garbage collector's finalizers of an object that is being deleted ask for.
async fn finish(local: &Local, key: &Key) -> Result<(), Status> {
    let store = local.server().store();
    let Some(entry) = store.get(key).filter(|entry| entry.facts.deleting) else { return Ok(()) };
    let object = crate::api::call::parse(&entry.object)?;
    let finalizers = metadata::finalizers(&object);
    if finalizers.contains(&ORPHAN) {
        for dependent in dependents(local, &entry) {
            drop_references(local, &dependent, &[&entry.facts.uid]).await?;
        }
        return drop_finalizer(local, key, &entry.facts.uid, ORPHAN).await;
    }
    if !finalizers.contains(&FOREGROUND) {
        return Ok(());
    }
    for dependent in dependents(local, &entry) {
        Box::pin(collect(local, &dependent)).await?;
    }
    let mut blocked = false;
    for dependent in dependents(local, &entry) {
        blocked |= owners(local, &dependent)?.iter().any(|r| r.uid == entry.facts.uid && r.blocks);
    }
    if blocked { Ok(()) } else { drop_finalizer(local, key, &entry.facts.uid, FOREGROUND).await }
}

/// The objects whose references lead to this owner.
fn dependents(local: &Local, owner: &Entry) -> Vec<Arc<Entry>> {
    let store = local.server().store();
    let keys = store.owned_by(&owner.facts.uid).into_iter();
    let near = keys.filter(|key| owner.key.namespace.is_empty() || key.namespace == owner.key.namespace);
    near.filter_map(|key| store.get(&key)).collect()
}

async fn drop_finalizer(local: &Local, key: &Key, uid: &str, finalizer: &str) -> Result<(), Status> {
    loop {
        let Some(entry) = local.server().store().get(key).filter(|e| e.facts.uid == uid) else {
            return Ok(());
        };
        let object = crate::api::call::parse(&entry.object)?;
        let kept: Vec<&str> = metadata::finalizers(&object).into_iter().filter(|f| *f != finalizer).collect();
        let kept = if kept.is_empty() { Value::Null } else { kept.into() };
        let patch = json!({"metadata": {
            "finalizers": kept, "uid": uid, "resourceVersion": entry.revision.to_string(),
        }});
        match local.patch(&key.resource, "", &key.namespace, &key.name, PatchKind::Merge, patch).await {
            Err(status) if status.code == 409 => {}
            Err(status) if status.code == 404 => return Ok(()),
            other => return other.map(drop),
        }
    }
}
