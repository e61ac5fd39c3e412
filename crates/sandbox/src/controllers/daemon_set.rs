//! DaemonSets: one Pod on each node.

use std::sync::Arc;

use hansa_machinery::selector::LabelSelector;
use serde_json::{Value, json};

use super::Again;
use crate::{
    client::Error,
    daemon::{bind, plan, tolerations},
    object::{Key, object_at},
    pod::{self, Pod, add_labels},
    schedule::daemon_belongs,
    world::{Kind, World, next_available},
};

pub(crate) const KIND: Kind = Kind { api_version: "apps/v1", kind: "DaemonSet", resource: "daemonsets.apps" };
const REVISION: &str = "controller-revision-hash";

/// The nodes that are to have a Pod.
fn nodes(world: &World, set: &Value) -> Vec<String> {
    let mut spec = set["spec"]["template"]["spec"].clone();
    let tolerations = tolerations(&spec);
    object_at(&mut spec, &[]).insert("tolerations".into(), tolerations.into());
    let nodes = world.nodes.all(|node| !node.meta.deleting && daemon_belongs(&spec, node));
    nodes.iter().map(|node| node.meta.key.name.clone()).collect()
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Again, Error> {
    let Some(set) = world.client.get(KIND.resource, &key)? else { return Ok(None) };
    let selector =
        LabelSelector::from_value(&set["spec"]["selector"]).map_err(|e| Error::of("selector", e))?;
    let mut pods = world.pods_of(KIND, &set, &selector).await?;
    let of_hash = |hash: &String| format!("{}-{hash}", key.name);
    let in_use: Vec<String> =
        pods.iter().filter_map(|pod| pod.meta.labels.get(REVISION).map(of_hash)).collect();
    let update = world.record_revision(KIND, &set, &in_use).await?;
    let hash = update.rsplit('-').next().unwrap_or_default().to_owned();
    let min_ready = set["spec"]["minReadySeconds"].as_i64().unwrap_or_default();
    let decide = |pods: &[Arc<Pod>]| {
        let now = world.now();
        let is_current = |pod: &Pod| pod.meta.labels.get(REVISION) == Some(&hash);
        plan(&set, &nodes(&world, &set), pods, is_current, |pod| pod.data.is_available(min_ready, now))
    };
    let mut plan = decide(&pods);
    if set["metadata"]["deletionTimestamp"].is_null() && !(plan.create.is_empty() && plan.delete.is_empty()) {
        let new = |node: &String| {
            let mut pod = pod::from_template(&set["spec"]["template"], KIND.api_version, KIND.kind, &set);
            add_labels(
                &mut pod,
                [
                    (REVISION, hash.clone()),
                    ("pod-template-generation", set["metadata"]["generation"].to_string()),
                ],
            );
            bind(&mut pod, node);
            pod
        };
        world.delete_pods(&plan.delete).await?;
        world.create_pods(plan.create.iter().map(new).collect()).await?;
        pods = world.pods_of(KIND, &set, &selector).await?;
        plan = decide(&pods);
    }
    let mut status = json!({"observedGeneration": set["metadata"]["generation"]});
    const ALWAYS: &[&str] =
        &["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"];
    for (name, count) in plan.counts {
        if count > 0 || ALWAYS.contains(&name) {
            status[name] = count.into();
        }
    }
    let again = next_available(&pods, min_ready, world.now());
    world.report(KIND.resource, set, status).await?;
    Ok(again)
}
