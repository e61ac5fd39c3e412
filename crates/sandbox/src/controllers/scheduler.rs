//! The scheduler: a node for each Pod, or the reason why there is none.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{Again, volume::are_bound};
use crate::{
    client::Error,
    object::{Condition, Key, items, set_condition},
    pod::{Pod, Resources},
    schedule::place,
    world::World,
};

/// Whether the scheduler has something to do with a Pod.
pub(crate) fn is_pending(pod: &Pod) -> bool {
    pod.data.node.is_empty() && !pod.meta.deleting && !pod.data.is_finished()
}

/// What the Pods on each node ask for.
fn used(world: &World) -> BTreeMap<String, Resources> {
    let mut used: BTreeMap<String, Resources> = BTreeMap::new();
    for pod in world.pods.all(|pod| !pod.data.node.is_empty() && !pod.data.is_finished()) {
        let on_node = used.entry(pod.data.node.clone()).or_default();
        for (name, amount) in &pod.data.requests {
            *on_node.entry(name.clone()).or_default() += amount;
        }
    }
    used
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Again, Error> {
    let Some(kept) = world.pods.get(&key).filter(|pod| is_pending(pod)) else { return Ok(None) };
    let Some(pod) = world.client.get("pods", &key)? else { return Ok(None) };
    let spec = &pod["spec"];
    let ours = matches!(spec["schedulerName"].as_str(), None | Some("default-scheduler"));
    if !spec["nodeName"].is_null() || !ours {
        return Ok(None);
    }
    let placed = if !items(&spec["schedulingGates"]).is_empty() {
        return Ok(None);
    } else if !are_bound(&world, &key.namespace, spec) {
        Err("pod has unbound immediate PersistentVolumeClaims.".to_owned())
    } else {
        let nodes = world.nodes.all(|node| node.data.ready && !node.meta.deleting);
        place(spec, &kept.data.requests, &nodes, &used(&world))
    };
    match placed {
        Ok(node) => {
            world.client.bind(&key, &kept.meta.uid, &node).await?;
            // The next decision must know of this one.
            let Some(bound) = world.client.get("pods", &key)? else { return Ok(None) };
            world.pods.caught_up(crate::object::revision(&bound)).await?;
        }
        Err(message) => {
            let status = unschedulable(&pod["status"], message, &world);
            world.report("pods", pod, status).await?;
        }
    }
    Ok(None)
}

fn unschedulable(status: &Value, message: String, world: &World) -> Value {
    let mut status = if status.is_object() { status.clone() } else { json!({"phase": "Pending"}) };
    let mut conditions = items(&status["conditions"]).to_vec();
    let condition = Condition { kind: "PodScheduled", status: false, reason: "Unschedulable", message };
    set_condition(&mut conditions, &condition, world.now());
    status["conditions"] = conditions.into();
    status
}
