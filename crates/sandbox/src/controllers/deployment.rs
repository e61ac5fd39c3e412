//! Deployments: ReplicaSets by revision, and a rollout from one to the next.

use std::{collections::BTreeMap, sync::Arc};

use hansa_machinery::selector::LabelSelector;
use serde_json::{Value, json};

use super::Again;
use crate::{
    cache::Kept,
    client::{Deletion, Error},
    deployment::{
        rollout::{
            DESIRED, HASH_LABEL, MAX, Plan, REVISION, Set, SetFacts, Wanted, plan, template_fingerprint,
        },
        status::{Happened, is_same, status},
    },
    object::{Key, Meta, object_at, owner_reference, revision, short_hash, text},
    world::{Kind, World},
};

pub(crate) const KIND: Kind =
    Kind { api_version: "apps/v1", kind: "Deployment", resource: "deployments.apps" };
const SETS: &str = "replicasets.apps";

/// Annotations of a Deployment that are not its ReplicaSets'.
const OWN_ANNOTATIONS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The annotations that a ReplicaSet of this Deployment has at this revision.
fn annotations(deployment: &Value, wanted: &Wanted, revision: i64) -> BTreeMap<String, String> {
    let mut annotations = crate::object::labels(&deployment["metadata"]["annotations"]);
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    annotations.insert(REVISION.into(), revision.to_string());
    annotations.extend(sizes(wanted));
    annotations
}

fn sizes(wanted: &Wanted) -> [(String, String); 2] {
    [(DESIRED.into(), wanted.replicas.to_string()), (MAX.into(), wanted.most().to_string())]
}

/// The ReplicaSet of the Deployment's template.
fn new_set(deployment: &Value, wanted: &Wanted, size: i64, revision: i64) -> Value {
    let spec = &deployment["spec"];
    let hash = short_hash(&spec["template"], deployment["status"]["collisionCount"].as_i64());
    let mut template = spec["template"].clone();
    object_at(&mut template, &["metadata", "labels"]).insert(HASH_LABEL.into(), hash.as_str().into());
    let mut selector = spec["selector"].clone();
    object_at(&mut selector, &["matchLabels"]).insert(HASH_LABEL.into(), hash.as_str().into());
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", text(&deployment["metadata"]["name"])),
            "namespace": deployment["metadata"]["namespace"],
            "labels": template["metadata"]["labels"],
            "annotations": annotations(deployment, wanted, revision),
            "ownerReferences": [owner_reference(KIND.api_version, KIND.kind, deployment)],
        },
        "spec": {"replicas": size, "selector": selector, "template": template},
    });
    if let Some(seconds) = spec["minReadySeconds"].as_i64().filter(|seconds| *seconds > 0) {
        set["spec"]["minReadySeconds"] = seconds.into();
    }
    set
}

fn as_set(kept: &Kept<SetFacts>) -> Set {
    Set { name: kept.meta.key.name.clone(), created: kept.meta.created, facts: kept.data.clone() }
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Again, Error> {
    let Some(mut deployment) = world.client.get(KIND.resource, &key)? else { return Ok(None) };
    let selector =
        LabelSelector::from_value(&deployment["spec"]["selector"]).map_err(|e| Error::of("selector", e))?;
    let meta = Meta::of(&deployment);
    if meta.deleting || selector.is_everything() {
        return Ok(None);
    }
    adopt(&world, &deployment, &meta, &selector).await?;
    let sets = || -> Vec<Set> {
        let sets =
            world.replica_sets.of_namespace(&key.namespace, |set| set.meta.is_controlled_by(&meta.uid));
        sets.iter().filter(|set| !set.meta.deleting).map(|set| as_set(set)).collect()
    };
    let wanted = Wanted::of(&deployment);
    let before = sets();
    let plan = plan(&wanted, &before);
    let mut happened = Happened::Nothing;
    if let Some(size) = plan.create {
        happened = Happened::Created;
        if !create(&world, &mut deployment, &wanted, size, plan.revision).await? {
            return Ok(Some(std::time::Duration::ZERO));
        }
    }
    let latest = carry_out(&world, &deployment, &wanted, &before, &plan).await?;
    world.replica_sets.caught_up(latest).await?;

    let sets = sets();
    if wanted.new_set(&sets).is_some() {
        let annotation = text(&deployment["metadata"]["annotations"][REVISION]);
        if annotation != plan.revision.to_string() {
            let annotations = object_at(&mut deployment, &["metadata", "annotations"]);
            annotations.insert(REVISION.into(), plan.revision.to_string().into());
            deployment = world.client.replace(KIND.resource, deployment).await?;
        }
    }
    let (status, again) = status(&deployment, &wanted, &sets, happened, world.now());
    if !is_same(&deployment["status"], &status) {
        world.report(KIND.resource, deployment, status).await?;
    }
    Ok(again)
}

/// Takes ReplicaSets that the selector accepts and nobody controls, and lets go of those it does not accept.
async fn adopt(
    world: &World,
    deployment: &Value,
    meta: &Meta,
    selector: &LabelSelector,
) -> Result<(), Error> {
    let mut latest = 0;
    for set in world.replica_sets.of_namespace(&meta.key.namespace, |set| !set.meta.deleting) {
        let owners = match (&set.meta.controller, selector.matches(&set.meta.labels)) {
            (None, true) => json!([owner_reference(KIND.api_version, KIND.kind, deployment)]),
            (Some(owner), false) if owner.uid == meta.uid => Value::Null,
            _ => continue,
        };
        latest = latest.max(world.reown(SETS, &set.meta, owners).await?);
    }
    world.replica_sets.caught_up(latest).await
}

/// Makes the new ReplicaSet. If another object has its name, the next name is tried: the answer is then `false`.
async fn create(
    world: &World,
    deployment: &mut Value,
    wanted: &Wanted,
    size: i64,
    at_revision: i64,
) -> Result<bool, Error> {
    let set = new_set(deployment, wanted, size, at_revision);
    let key = crate::object::key(&set);
    let error = match world.client.create(SETS, set).await {
        Ok(made) => {
            world.replica_sets.caught_up(revision(&made)).await?;
            return Ok(true);
        }
        Err(error) if error.is_reason("AlreadyExists") => error,
        Err(error) => return Err(error),
    };
    let Some(other) = world.client.get(SETS, &key)? else { return Err(error) };
    let same = template_fingerprint(&other["spec"]["template"]) == wanted.template;
    if same && Meta::of(&other).is_controlled_by(&text(&deployment["metadata"]["uid"])) {
        world.replica_sets.caught_up(revision(&other)).await?;
        return Ok(true);
    }
    let mut status = deployment["status"].clone();
    object_at(&mut status, &[]).insert(
        "collisionCount".into(),
        (deployment["status"]["collisionCount"].as_i64().unwrap_or_default() + 1).into(),
    );
    world.report(KIND.resource, deployment.clone(), status).await?;
    Ok(false)
}

/// Scales, annotates and deletes ReplicaSets as planned; the revision of the last write.
async fn carry_out(
    world: &World,
    deployment: &Value,
    wanted: &Wanted,
    sets: &[Set],
    plan: &Plan,
) -> Result<u64, Error> {
    let mut latest = 0;
    let new = wanted.new_set(sets).map(|set| set.name.as_str());
    for set in sets {
        let is_new = new == Some(set.name.as_str());
        let size = plan.scale.get(&set.name);
        if size.is_none() && !is_new {
            continue;
        }
        let key = Key { namespace: text(&deployment["metadata"]["namespace"]), name: set.name.clone() };
        let Some(live) = world.client.get(SETS, &key)? else { continue };
        let mut changed = live.clone();
        let notes = object_at(&mut changed, &["metadata", "annotations"]);
        if is_new && !wanted.paused {
            notes.extend(
                annotations(deployment, wanted, plan.revision).into_iter().map(|(k, v)| (k, v.into())),
            );
        }
        if let Some(size) = size {
            notes.extend(sizes(wanted).map(|(k, v)| (k, v.into())));
            changed["spec"]["replicas"] = (*size).into();
        }
        let min_ready = deployment["spec"]["minReadySeconds"].as_i64().unwrap_or_default();
        if is_new && changed["spec"]["minReadySeconds"].as_i64().unwrap_or_default() != min_ready {
            changed["spec"]["minReadySeconds"] = min_ready.into();
        }
        if changed != live {
            latest = latest.max(revision(&world.client.replace(SETS, changed).await?));
        }
    }
    for name in &plan.delete {
        let key = Key { namespace: text(&deployment["metadata"]["namespace"]), name: name.clone() };
        world.client.delete(SETS, &key, Deletion::default()).await?;
    }
    Ok(latest)
}
