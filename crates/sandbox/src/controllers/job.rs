//! Jobs: Pods until enough of them succeeded.

use std::sync::Arc;

use hansa_embedded::Propagation;
use serde_json::{Value, json};

use super::Again;
use crate::{
    client::{Deletion, Error},
    job::plan,
    object::{Key, items, object_at, text},
    pod::{self, add_labels},
    world::{Kind, World},
};

pub(crate) const KIND: Kind = Kind { api_version: "batch/v1", kind: "Job", resource: "jobs.batch" };
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// A Pod of the Job; of an indexed one, with its index in name, annotation, label and environment.
fn new_pod(job: &Value, index: Option<i64>) -> Value {
    let mut pod = pod::from_template(&job["spec"]["template"], KIND.api_version, KIND.kind, job);
    let (name, uid) = (text(&job["metadata"]["name"]), text(&job["metadata"]["uid"]));
    add_labels(
        &mut pod,
        [
            ("batch.kubernetes.io/job-name", name.clone()),
            ("job-name", name.clone()),
            ("batch.kubernetes.io/controller-uid", uid.clone()),
            ("controller-uid", uid),
        ],
    );
    if let Some(index) = index {
        let index = index.to_string();
        pod["metadata"]["generateName"] = format!("{name}-{index}-").into();
        pod["spec"]["hostname"] = format!("{name}-{index}").into();
        object_at(&mut pod, &["metadata", "annotations"]).insert(INDEX.into(), index.as_str().into());
        add_labels(&mut pod, [(INDEX, index.clone())]);
        for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
            let mut environment = items(&container["env"]).to_vec();
            if environment.iter().all(|variable| variable["name"] != "JOB_COMPLETION_INDEX") {
                environment.push(json!({"name": "JOB_COMPLETION_INDEX", "value": index}));
            }
            container["env"] = environment.into();
        }
    }
    pod
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Again, Error> {
    let Some(job) = world.client.get(KIND.resource, &key)? else { return Ok(None) };
    if !job["metadata"]["deletionTimestamp"].is_null() {
        return Ok(None);
    }
    let uid = text(&job["metadata"]["uid"]);
    let mine = || world.pods.of_namespace(&key.namespace, |pod| pod.meta.is_controlled_by(&uid));
    let mut plan = plan(&job, &mine(), world.now());
    if plan.remove {
        let how =
            Deletion { uid: Some(&uid), propagation: Some(Propagation::Background), ..Deletion::default() };
        world.client.delete(KIND.resource, &key, how).await?;
        return Ok(None);
    }
    if !plan.create.is_empty() || !plan.delete.is_empty() {
        world.create_pods(plan.create.iter().map(|index| new_pod(&job, *index)).collect()).await?;
        world.delete_pods(&plan.delete).await?;
        let after = crate::job::plan(&job, &mine(), world.now());
        plan.status = after.status;
    }
    world.report(KIND.resource, job, plan.status).await?;
    Ok(plan.again)
}
