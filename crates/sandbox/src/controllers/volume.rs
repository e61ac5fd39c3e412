//! Claims: bound to a volume, which is made if the class is the sandbox's own.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::Again;
use crate::{
    client::{Deletion, Error},
    object::{Key, items, object_at, text},
    volumes::{BOUND, default_class, find, provision, reference},
    world::World,
};

const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
const CLASSES: &str = "storageclasses.storage.k8s.io";
/// How often a claim looks for a volume, whose coming it is not told of.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Again, Error> {
    let Some(mut claim) = world.client.get(CLAIMS, &key)? else {
        return release(&world, &key).await;
    };
    if !claim["metadata"]["deletionTimestamp"].is_null() || claim["status"]["phase"] == "Bound" {
        return Ok(None);
    }
    let classes = world.client.list(CLASSES)?.0;
    if claim["spec"]["storageClassName"].is_null()
        && let Some(class) = default_class(&classes)
    {
        claim["spec"]["storageClassName"] = class["metadata"]["name"].clone();
        claim = world.client.replace(CLAIMS, claim).await?;
    }
    let volumes = world.client.list(VOLUMES)?.0;
    let class = classes.iter().find(|class| class["metadata"]["name"] == claim["spec"]["storageClassName"]);
    let mut volume = match (find(&claim, &volumes), class.and_then(|class| provision(&claim, class))) {
        (Some(volume), _) => volume.clone(),
        (None, Some(volume)) => world.client.create(VOLUMES, volume).await?,
        (None, None) => {
            let status = pending(&claim);
            world.report(CLAIMS, claim, status).await?;
            return Ok(Some(LOOK_AGAIN));
        }
    };
    if volume["spec"]["claimRef"]["uid"] != claim["metadata"]["uid"] {
        volume["spec"]["claimRef"] = reference(&claim);
        volume = world.client.replace(VOLUMES, volume).await?;
    }
    let mut status = volume["status"].clone();
    object_at(&mut status, &[]).insert("phase".into(), "Bound".into());
    let (name, spec) = (volume["metadata"]["name"].clone(), volume["spec"].clone());
    world.report(VOLUMES, volume, status).await?;

    if claim["spec"]["volumeName"] != name || claim["metadata"]["annotations"][BOUND] != "yes" {
        claim["spec"]["volumeName"] = name;
        object_at(&mut claim, &["metadata", "annotations"]).insert(BOUND.into(), "yes".into());
        claim = world.client.replace(CLAIMS, claim).await?;
    }
    let mut status = pending(&claim);
    status["phase"] = "Bound".into();
    status["accessModes"] = spec["accessModes"].clone();
    status["capacity"] = spec["capacity"].clone();
    world.report(CLAIMS, claim, status).await?;
    Ok(None)
}

fn pending(claim: &Value) -> Value {
    let mut status = if claim["status"].is_object() { claim["status"].clone() } else { json!({}) };
    if status["phase"].is_null() {
        status["phase"] = "Pending".into();
    }
    status
}

/// A claim is gone: so is its volume, or it is kept and released, as its policy says.
async fn release(world: &World, key: &Key) -> Result<Again, Error> {
    for volume in world.client.list(VOLUMES)?.0 {
        let of = &volume["spec"]["claimRef"];
        if of["name"] != key.name.as_str() || of["namespace"] != key.namespace.as_str() || of["uid"].is_null()
        {
            continue;
        }
        if volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete" {
            let uid = text(&volume["metadata"]["uid"]);
            let how = Deletion { uid: Some(&uid), ..Deletion::default() };
            world.client.delete(VOLUMES, &crate::object::key(&volume), how).await?;
        } else {
            let mut status = volume["status"].clone();
            object_at(&mut status, &[]).insert("phase".into(), "Released".into());
            world.report(VOLUMES, volume, status).await?;
        }
    }
    Ok(None)
}

/// Whether all claims of a Pod have volumes.
pub(crate) fn are_bound(world: &World, namespace: &str, spec: &Value) -> bool {
    let generated = items(&spec["volumes"]).iter().any(|volume| !volume["ephemeral"].is_null());
    let mut claims = crate::world::claims_of(spec);
    !generated
        && claims.all(|name| {
            let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
            world.claims.get(&key).is_some_and(|claim| claim.data.bound)
        })
}
