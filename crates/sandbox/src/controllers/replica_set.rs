//! ReplicaSets: as many Pods as asked for.

use std::sync::Arc;

use hansa_machinery::selector::LabelSelector;
use serde_json::{Value, json};

use super::Again;
use crate::{
    client::Error,
    object::{Key, items},
    pod::{self, Pod, is_active, template_labels},
    world::{Kind, World, next_available},
};

pub(crate) const KIND: Kind =
    Kind { api_version: "apps/v1", kind: "ReplicaSet", resource: "replicasets.apps" };
/// At most so many Pods are made or deleted before looking again (`BurstReplicas`).
const BURST: usize = 500;

/// How many Pods to make, and which to delete.
fn plan(replicas: i64, pods: &[Arc<Pod>]) -> (usize, Vec<Arc<Pod>>) {
    let mut active: Vec<_> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
    let wanted = usize::try_from(replicas).unwrap_or_default();
    if active.len() <= wanted {
        return ((wanted - active.len()).min(BURST), Vec::new());
    }
    pod::rank_for_deletion(&mut active);
    let surplus = (active.len() - wanted).min(BURST);
    (0, active.into_iter().take(surplus).collect())
}

/// The status that these Pods make.
fn status(set: &Value, pods: &[Arc<Pod>], now: jiff::Timestamp) -> Value {
    let min_ready = set["spec"]["minReadySeconds"].as_i64().unwrap_or_default();
    let labels = template_labels(&set["spec"]["template"]);
    let active: Vec<_> = pods.iter().filter(|pod| is_active(pod)).collect();
    let count = |which: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| which(pod)).count();
    let leaving = pods.iter().filter(|pod| pod.meta.deleting && !pod.data.is_finished()).count();
    let mut status = json!({
        "observedGeneration": set["metadata"]["generation"], "replicas": active.len(), "terminatingReplicas": leaving,
    });
    for (name, count) in [
        ("fullyLabeledReplicas", count(&|pod| labels.iter().all(|(k, v)| pod.meta.labels.get(k) == Some(v)))),
        ("readyReplicas", count(&|pod| pod.data.ready)),
        ("availableReplicas", count(&|pod| pod.data.is_available(min_ready, now))),
    ] {
        if count > 0 {
            status[name] = count.into();
        }
    }
    if !items(&set["status"]["conditions"]).is_empty() {
        status["conditions"] = set["status"]["conditions"].clone();
    }
    status
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Again, Error> {
    let Some(set) = world.client.get(KIND.resource, &key)? else { return Ok(None) };
    let selector =
        LabelSelector::from_value(&set["spec"]["selector"]).map_err(|e| Error::of("selector", e))?;
    let mut pods = world.pods_of(KIND, &set, &selector).await?;
    if set["metadata"]["deletionTimestamp"].is_null() {
        let (missing, surplus) = plan(set["spec"]["replicas"].as_i64().unwrap_or(1), &pods);
        let template = &set["spec"]["template"];
        let new = || pod::from_template(template, KIND.api_version, KIND.kind, &set);
        if missing > 0 {
            world.create_pods((0..missing).map(|_| new()).collect()).await?;
        }
        if !surplus.is_empty() {
            world.delete_pods(&surplus).await?;
        }
        if missing > 0 || !surplus.is_empty() {
            pods = world.pods_of(KIND, &set, &selector).await?;
        }
    }
    let now = world.now();
    let again = next_available(&pods, set["spec"]["minReadySeconds"].as_i64().unwrap_or_default(), now);
    let status = status(&set, &pods, now);
    world.report(KIND.resource, set, status).await?;
    Ok(again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{Phase, PodFacts};

    fn pod(phase: Phase, ready: bool, deleting: bool) -> Arc<Pod> {
        let data = PodFacts { phase, ready, ..PodFacts::default() };
        let mut pod = Pod { meta: Default::default(), data };
        pod.meta.deleting = deleting;
        Arc::new(pod)
    }

    #[test]
    fn pods_that_are_over_or_leaving_are_replaced() {
        let pods = [
            pod(Phase::Running, true, false),
            pod(Phase::Failed, false, false),
            pod(Phase::Running, true, true),
        ];
        assert_eq!(plan(3, &pods).0, 2);
        let (_, surplus) = plan(0, &pods);
        assert_eq!(surplus, [pods[0].clone()]);
        let status = status(&json!({}), &pods, jiff::Timestamp::now());
        assert_eq!(
            (&status["replicas"], &status["readyReplicas"], &status["terminatingReplicas"]),
            (&json!(1), &json!(1), &json!(1))
        );
    }
}
