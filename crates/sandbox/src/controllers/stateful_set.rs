//! StatefulSets: Pods with names and claims of their own, one after the other.

use std::{collections::BTreeMap, sync::Arc};

use hansa_machinery::selector::LabelSelector;
use serde_json::{Value, json};

use super::Again;
use crate::{
    client::Error,
    object::{Key, items, object_at, text},
    pod::{self, Phase, Pod, add_labels},
    stateful::{Replica, Step, Wanted, plan},
    world::{Kind, World, next_available},
};

pub(crate) const KIND: Kind =
    Kind { api_version: "apps/v1", kind: "StatefulSet", resource: "statefulsets.apps" };
const REVISION: &str = "controller-revision-hash";

/// The ordinal in a Pod's name.
fn ordinal(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    digits.parse().ok().filter(|ordinal: &i64| ordinal.to_string() == digits)
}

fn claim_name(template: &Value, pod: &str) -> String {
    format!("{}-{pod}", text(&template["metadata"]["name"]))
}

/// The Pod of one ordinal.
fn new_pod(set: &Value, template: &Value, ordinal: i64, revision: &str) -> Value {
    let name = format!("{}-{ordinal}", text(&set["metadata"]["name"]));
    let mut pod = pod::from_template(template, KIND.api_version, KIND.kind, set);
    let meta = object_at(&mut pod, &["metadata"]);
    meta.remove("generateName");
    meta.insert("name".into(), name.as_str().into());
    add_labels(
        &mut pod,
        [
            ("statefulset.kubernetes.io/pod-name", name.clone()),
            ("apps.kubernetes.io/pod-index", ordinal.to_string()),
            (REVISION, revision.to_owned()),
        ],
    );
    pod["spec"]["hostname"] = name.as_str().into();
    pod["spec"]["subdomain"] = set["spec"]["serviceName"].clone();
    if pod["spec"]["subdomain"].is_null() {
        object_at(&mut pod, &["spec"]).remove("subdomain");
    }
    // Volumes of the claims take the place of those of the same name.
    let claims = items(&set["spec"]["volumeClaimTemplates"]);
    if !claims.is_empty() {
        let kept = items(&pod["spec"]["volumes"])
            .iter()
            .filter(|volume| claims.iter().all(|claim| claim["metadata"]["name"] != volume["name"]));
        let own = claims.iter().map(|claim| {
            json!({"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": claim_name(claim, &name)}})
        });
        let volumes: Vec<Value> = own.chain(kept.cloned()).collect();
        pod["spec"]["volumes"] = volumes.into();
    }
    pod
}

/// The claims of one Pod.
fn new_claims(set: &Value, pod: &str) -> Vec<Value> {
    let claims = items(&set["spec"]["volumeClaimTemplates"]).iter().map(|template| {
        let mut claim =
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": template["spec"]});
        claim["metadata"] = json!({
            "name": claim_name(template, pod), "namespace": set["metadata"]["namespace"],
            "labels": set["spec"]["selector"]["matchLabels"],
        });
        if !template["metadata"]["annotations"].is_null() {
            claim["metadata"]["annotations"] = template["metadata"]["annotations"].clone();
        }
        claim
    });
    claims.collect()
}

fn status(set: &Value, wanted: &Wanted, pods: &[Arc<Pod>], now: jiff::Timestamp) -> Value {
    let min_ready = set["spec"]["minReadySeconds"].as_i64().unwrap_or_default();
    let count = |which: &dyn Fn(&Pod) -> bool| pods.iter().filter(|pod| which(pod)).count() as i64;
    let of = |pod: &Pod, revision: &str| {
        !pod.meta.deleting && pod.meta.labels.get(REVISION).is_some_and(|r| r == revision)
    };
    let updated = count(&|pod| of(pod, &wanted.update));
    let ready = count(&|pod| pod.data.ready && pod.data.phase == Phase::Running);
    let complete = updated == wanted.replicas && ready == wanted.replicas;
    let current = if complete { &wanted.update } else { &wanted.current };
    let mut status = json!({
        "observedGeneration": set["metadata"]["generation"],
        "collisionCount": set["status"]["collisionCount"].as_i64().unwrap_or_default(),
        "replicas": count(&|_| true),
        "availableReplicas": count(&|pod| pod.data.is_available(min_ready, now)),
        "currentRevision": current, "updateRevision": wanted.update,
    });
    for (name, count) in [
        ("readyReplicas", ready),
        ("currentReplicas", count(&|pod| of(pod, current))),
        ("updatedReplicas", updated),
    ] {
        if count > 0 {
            status[name] = count.into();
        }
    }
    status
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Again, Error> {
    let Some(set) = world.client.get(KIND.resource, &key)? else { return Ok(None) };
    let selector =
        LabelSelector::from_value(&set["spec"]["selector"]).map_err(|e| Error::of("selector", e))?;
    let mut pods = world.pods_of(KIND, &set, &selector).await?;
    let current = text(&set["status"]["currentRevision"]);
    let in_use: Vec<String> = pods
        .iter()
        .filter_map(|pod| pod.meta.labels.get(REVISION).cloned())
        .chain([current.clone()])
        .collect();
    let update = world.record_revision(KIND, &set, &in_use).await?;
    let current = if current.is_empty() { update.clone() } else { current };
    let wanted = Wanted::of(&set, &current, &update);
    let min_ready = set["spec"]["minReadySeconds"].as_i64().unwrap_or_default();
    if set["metadata"]["deletionTimestamp"].is_null() {
        let now = world.now();
        let by_ordinal: BTreeMap<i64, &Arc<Pod>> =
            pods.iter().filter_map(|pod| Some((ordinal(&key.name, &pod.meta.key.name)?, pod))).collect();
        let replicas = by_ordinal.iter().map(|(ordinal, pod)| {
            let revision = pod.meta.labels.get(REVISION).cloned().unwrap_or_default();
            let available = pod.data.is_available(min_ready, now);
            let (deleting, finished) = (pod.meta.deleting, pod.data.is_finished());
            (*ordinal, Replica { revision, available, deleting, finished })
        });
        let steps = plan(&wanted, &replicas.collect());
        let (mut made, mut gone) = (Vec::new(), Vec::new());
        for step in &steps {
            match step {
                Step::Delete(ordinal) => gone.extend(by_ordinal.get(ordinal).map(|pod| (*pod).clone())),
                Step::Create(ordinal, revision) => {
                    let template = match world.template_of(&key.namespace, revision)? {
                        Some(template) => template,
                        None => set["spec"]["template"].clone(),
                    };
                    for claim in new_claims(&set, &format!("{}-{ordinal}", key.name)) {
                        match world.client.create("persistentvolumeclaims", claim).await {
                            Err(error) if error.is_reason("AlreadyExists") => {}
                            other => drop(other?),
                        }
                    }
                    made.push(new_pod(&set, &template, *ordinal, revision));
                }
            }
        }
        world.create_pods(made).await?;
        world.delete_pods(&gone).await?;
        if !steps.is_empty() {
            pods = world.pods_of(KIND, &set, &selector).await?;
        }
    }
    let now = world.now();
    let again = next_available(&pods, min_ready, now);
    let status = status(&set, &wanted, &pods, now);
    world.report(KIND.resource, set, status).await?;
    Ok(again)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_its_name_its_claims_and_its_place_in_dns() {
        let set = json!({
            "metadata": {"name": "db", "namespace": "shop", "uid": "u"},
            "spec": {
                "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
            },
        });
        let template = json!({"metadata": {"labels": {"app": "db"}}, "spec": {"volumes": [{"name": "data"}, {"name": "x"}]}});
        let pod = new_pod(&set, &template, 2, "db-abc");
        assert_eq!(pod["metadata"]["name"], "db-2");
        assert_eq!(pod["metadata"]["labels"]["controller-revision-hash"], "db-abc");
        assert_eq!(pod["metadata"].get("generateName"), None);
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-2"}}, {"name": "x"}])
        );
        assert_eq!(new_claims(&set, "db-2")[0]["metadata"]["name"], "data-db-2");
        assert_eq!(
            (ordinal("db", "db-2"), ordinal("db", "db-x-2"), ordinal("db", "db-02")),
            (Some(2), None, None)
        );
    }
}
