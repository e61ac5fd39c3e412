//! Pods as the controllers know them.

use std::collections::BTreeMap;

use hansa_machinery::quantity::Quantity;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    cache::{Kept, Project},
    object::{Owner, condition, items, labels, object_at, owner_reference, text, time},
};

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// What a Pod asks of a node, or a node offers: milli-CPUs, bytes, and whatever else is counted, by name.
pub(crate) type Resources = BTreeMap<String, i128>;

/// What is kept of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) phase: Phase,
    pub(crate) ready: bool,
    pub(crate) ready_since: Timestamp,
    pub(crate) node: String,
    /// The node it is on, or the one it is made for.
    pub(crate) target: String,
    pub(crate) ip: String,
    pub(crate) hostname: String,
    pub(crate) subdomain: String,
    pub(crate) requests: Resources,
    /// Named container ports.
    pub(crate) ports: BTreeMap<String, i64>,
    pub(crate) deletion_cost: i64,
    pub(crate) restarts: i64,
    pub(crate) finished: Option<Timestamp>,
    pub(crate) completion_index: Option<i64>,
}

pub(crate) type Pod = Kept<PodFacts>;

impl Project for PodFacts {
    fn project(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let ready = condition(status, "Ready");
        let annotation = |name: &str| pod["metadata"]["annotations"][name].as_str()?.parse::<i64>().ok();
        let containers = items(&status["containerStatuses"]);
        let ended = containers.iter().filter_map(|c| time(&c["state"]["terminated"]["finishedAt"])).max();
        let ports = items(&spec["containers"]).iter().flat_map(|container| items(&container["ports"]));
        let phase = match status["phase"].as_str() {
            Some("Running") => Phase::Running,
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            _ => Phase::Pending,
        };
        Self {
            phase,
            ready: ready.is_some_and(|ready| ready["status"] == "True"),
            ready_since: ready.and_then(|ready| time(&ready["lastTransitionTime"])).unwrap_or_default(),
            target: if spec["nodeName"].is_null() {
                text(&daemons_node(spec))
            } else {
                text(&spec["nodeName"])
            },
            node: text(&spec["nodeName"]),
            ip: text(&status["podIP"]),
            hostname: text(&spec["hostname"]),
            subdomain: text(&spec["subdomain"]),
            requests: requests(spec),
            ports: ports
                .filter_map(|port| Some((port["name"].as_str()?.to_owned(), port["containerPort"].as_i64()?)))
                .collect(),
            deletion_cost: annotation("controller.kubernetes.io/pod-deletion-cost").unwrap_or_default(),
            restarts: containers.iter().filter_map(|c| c["restartCount"].as_i64()).sum(),
            finished: ended.filter(|_| phase >= Phase::Succeeded),
            completion_index: annotation("batch.kubernetes.io/job-completion-index"),
        }
    }
}

/// The one node that a daemon's Pod is made for.
fn daemons_node(spec: &Value) -> Value {
    let path = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    spec.pointer(path).cloned().unwrap_or_default()
}

impl PodFacts {
    pub(crate) fn is_finished(&self) -> bool {
        self.phase >= Phase::Succeeded
    }

    /// Ready for as long as `min_ready` seconds.
    pub(crate) fn is_available(&self, min_ready: i64, now: Timestamp) -> bool {
        self.ready && (min_ready <= 0 || now.duration_since(self.ready_since).as_secs() >= min_ready)
    }
}

/// Counts towards the replicas of a controller (`controller.IsPodActive`).
pub(crate) fn is_active(pod: &Pod) -> bool {
    !pod.meta.deleting && !pod.data.is_finished()
}

/// One amount in the unit it is counted in: thousandths of CPUs, whole of all else.
pub(crate) fn amount(resource: &str, quantity: &Value) -> i128 {
    match Quantity::from_value(quantity) {
        Ok(quantity) if resource == "cpu" => quantity.as_millis(),
        Ok(quantity) => quantity.as_units(),
        Err(_) => 0,
    }
}

/// What the containers of a Pod ask for together; a Pod counts as one of the resource `pods`.
fn requests(spec: &Value) -> Resources {
    let of = |container: &Value| -> Resources {
        let requests = container["resources"]["requests"].as_object().into_iter().flatten();
        requests.map(|(name, quantity)| (name.clone(), amount(name, quantity))).collect()
    };
    let mut sum = Resources::from([("pods".to_owned(), 1)]);
    for container in items(&spec["containers"]) {
        for (name, amount) in of(container) {
            *sum.entry(name).or_default() += amount;
        }
    }
    // Init containers run before the others, except those that stay.
    for container in items(&spec["initContainers"]) {
        for (name, amount) in of(container) {
            let total = sum.entry(name).or_default();
            *total =
                if container["restartPolicy"] == "Always" { *total + amount } else { (*total).max(amount) };
        }
    }
    for (name, amount) in of(&json!({"resources": spec["resources"]})) {
        sum.insert(name, amount);
    }
    sum
}

/// A Pod made from a template for its owner (`controller.GetPodFromTemplate`).
pub(crate) fn from_template(template: &Value, api_version: &str, kind: &str, owner: &Value) -> Value {
    let name = text(&owner["metadata"]["name"]);
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": format!("{name}-"),
            "namespace": owner["metadata"]["namespace"],
            "ownerReferences": [owner_reference(api_version, kind, owner)],
        },
        "spec": template["spec"],
    });
    for part in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][part].is_null() {
            pod["metadata"][part] = template["metadata"][part].clone();
        }
    }
    pod
}

/// Adds labels to an object.
pub(crate) fn add_labels<const N: usize>(object: &mut Value, added: [(&str, String); N]) {
    let labels = object_at(object, &["metadata", "labels"]);
    for (name, value) in added {
        labels.insert(name.to_owned(), value.into());
    }
}

/// Which Pods to delete first: those that are the least use (`controller.ActivePodsWithRanks`).
pub(crate) fn rank_for_deletion(pods: &mut [std::sync::Arc<Pod>]) {
    let rank = |pod: &Pod| {
        let (meta, facts) = (&pod.meta, &pod.data);
        let newest = |time: Timestamp| std::cmp::Reverse(time);
        (
            !facts.node.is_empty(),
            facts.phase == Phase::Running,
            facts.ready,
            facts.deletion_cost,
            facts.ready.then(|| newest(facts.ready_since)),
            std::cmp::Reverse(facts.restarts),
            newest(meta.created),
            meta.key.name.clone(),
        )
    };
    pods.sort_by_cached_key(|pod| rank(pod));
}

/// Whether a Pod belongs to an owner, could be taken by it, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Mine,
    Adopt,
    Release,
    NotMine,
}

/// What an owner with this UID and selector has to do with a Pod (`PodControllerRefManager`).
pub(crate) fn claim(pod: &Pod, uid: &str, selected: bool) -> Claim {
    match (&pod.meta.controller, selected) {
        (Some(Owner { uid: owner, .. }), true) if owner == uid => Claim::Mine,
        (Some(Owner { uid: owner, .. }), false) if owner == uid && !pod.meta.deleting => Claim::Release,
        (Some(Owner { uid: owner, .. }), _) if owner == uid => Claim::Mine,
        (None, true) if is_active(pod) => Claim::Adopt,
        _ => Claim::NotMine,
    }
}

/// The pod's labels with those of the template it is compared by.
pub(crate) fn template_labels(template: &Value) -> crate::object::Labels {
    labels(&template["metadata"]["labels"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_and_init_containers_count_only_where_they_ask_for_more() {
        let spec = json!({
            "initContainers": [
                {"resources": {"requests": {"cpu": "2", "memory": "10Mi"}}},
            ],
            "containers": [
                {"resources": {"requests": {"cpu": "250m", "memory": "64Mi"}}},
                {"resources": {"requests": {"cpu": "0.5"}}},
            ],
        });
        let requests = requests(&spec);
        assert_eq!(requests["cpu"], 2000);
        assert_eq!(requests["memory"], 64 << 20);
        assert_eq!(requests["pods"], 1);
    }

    #[test]
    fn pods_that_do_not_run_are_deleted_first_and_then_the_newest() {
        let pod = |name: &str, node: &str, ready: bool, created: i64| {
            let mut pod = Pod { meta: Default::default(), data: PodFacts::default() };
            pod.meta.key.name = name.to_owned();
            pod.meta.created = Timestamp::from_second(created).unwrap();
            pod.data.node = node.to_owned();
            pod.data.ready = ready;
            std::sync::Arc::new(pod)
        };
        let mut pods = [
            pod("old", "n", true, 1),
            pod("new", "n", true, 9),
            pod("unready", "n", false, 1),
            pod("nowhere", "", false, 0),
        ];
        rank_for_deletion(&mut pods);
        let names: Vec<_> = pods.iter().map(|pod| pod.meta.key.name.as_str()).collect();
        assert_eq!(names, ["nowhere", "unready", "new", "old"]);
    }
}
