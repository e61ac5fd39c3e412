//! Which Pods of a DaemonSet to make and to delete next.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use crate::{
    object::{items, object_at, scaled},
    pod::Pod,
};

/// What to do, and the numbers of the status.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Nodes that lack their Pod.
    pub(crate) create: Vec<String>,
    pub(crate) delete: Vec<Arc<Pod>>,
    pub(crate) counts: BTreeMap<&'static str, i64>,
}

/// Decides with the nodes that are to have a Pod, the Pods there are, and which of them are current and available.
pub(crate) fn plan(
    set: &Value,
    nodes: &[String],
    pods: &[Arc<Pod>],
    is_current: impl Fn(&Pod) -> bool,
    is_available: impl Fn(&Pod) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        by_node.entry(pod.data.target.as_str()).or_default().push(pod);
    }
    // The Pod that counts for a node: the oldest that is not on its way out.
    let mut serving: Vec<&Arc<Pod>> = Vec::new();
    let mut scheduled = 0;
    for node in nodes {
        let mut pods = by_node.remove(node.as_str()).unwrap_or_default();
        scheduled += i64::from(!pods.is_empty());
        pods.sort_by_key(|pod| (pod.data.is_finished(), pod.meta.created, pod.meta.key.name.clone()));
        let mut staying = pods.into_iter().filter(|pod| !pod.meta.deleting);
        match staying.next() {
            Some(pod) if pod.data.is_finished() => plan.delete.push(pod.clone()),
            Some(pod) => serving.push(pod),
            None => {}
        }
        plan.delete.extend(staying.cloned());
    }
    let misplaced: Vec<&Arc<Pod>> =
        by_node.into_iter().filter(|(node, _)| !node.is_empty()).flat_map(|(_, pods)| pods).collect();
    plan.delete.extend(misplaced.iter().filter(|pod| !pod.meta.deleting).map(|pod| (*pod).clone()));

    let occupied = |node: &&String| pods.iter().any(|pod| pod.data.target == **node);
    plan.create = nodes.iter().filter(|node| !occupied(node)).cloned().collect();

    let desired = i64::try_from(nodes.len()).unwrap_or(i64::MAX);
    let count = |which: &dyn Fn(&Pod) -> bool| serving.iter().filter(|pod| which(pod)).count() as i64;
    let available = count(&|pod| is_available(pod));
    plan.counts = BTreeMap::from([
        ("desiredNumberScheduled", desired),
        ("currentNumberScheduled", scheduled),
        ("numberMisscheduled", misplaced.len() as i64),
        ("numberReady", count(&|pod| pod.data.ready)),
        ("numberAvailable", available),
        ("numberUnavailable", desired - available),
        ("updatedNumberScheduled", count(&|pod| is_current(pod))),
    ]);

    let strategy = &set["spec"]["updateStrategy"];
    if strategy["type"] != "OnDelete" {
        let most = &strategy["rollingUpdate"]["maxUnavailable"];
        let most = if most.is_null() { 1 } else { scaled(most, desired, true).max(1) };
        let mut old: Vec<_> = serving.iter().filter(|pod| !is_current(pod)).collect();
        old.sort_by_key(|pod| is_available(pod));
        let mut budget = most - (desired - available);
        for pod in old {
            // One that is not available costs nothing to replace.
            if is_available(pod) {
                budget -= 1;
                if budget < 0 {
                    break;
                }
            }
            plan.delete.push((*pod).clone());
        }
    }
    plan
}

/// Binds a daemon's Pod to its node, which may have any of the troubles that daemons live with.
pub(crate) fn bind(pod: &mut Value, node: &str) {
    let terms = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
    let affinity = object_at(pod, &["spec", "affinity", "nodeAffinity"]);
    affinity
        .insert("requiredDuringSchedulingIgnoredDuringExecution".into(), json!({"nodeSelectorTerms": terms}));
    let tolerations = tolerations(&pod["spec"]);
    pod["spec"]["tolerations"] = tolerations.into();
}

/// The Pod spec's tolerations with those that every daemon has.
pub(crate) fn tolerations(spec: &Value) -> Vec<Value> {
    const TROUBLES: &[(&str, &str)] = &[
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    let mut tolerations = items(&spec["tolerations"]).to_vec();
    for (trouble, effect) in TROUBLES {
        let toleration =
            json!({"key": format!("node.kubernetes.io/{trouble}"), "operator": "Exists", "effect": effect});
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    tolerations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodFacts;

    fn pod(name: &str, node: &str, ready: bool) -> Arc<Pod> {
        let mut pod = Pod { meta: Default::default(), data: PodFacts::default() };
        pod.meta.key.name = name.to_owned();
        pod.data.target = node.to_owned();
        pod.data.ready = ready;
        Arc::new(pod)
    }

    fn nodes(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn deleted(plan: &Plan) -> Vec<&str> {
        plan.delete.iter().map(|pod| pod.meta.key.name.as_str()).collect()
    }

    #[test]
    fn each_node_gets_one_and_other_nodes_none() {
        let pods = [pod("a1", "a", true), pod("a2", "a", true), pod("z", "z", true)];
        let plan = plan(&json!({}), &nodes(&["a", "b"]), &pods, |_| true, |pod| pod.data.ready);
        assert_eq!(plan.create, ["b"]);
        assert_eq!(deleted(&plan), ["a2", "z"]);
        assert_eq!((plan.counts["desiredNumberScheduled"], plan.counts["numberMisscheduled"]), (2, 1));
    }

    #[test]
    fn an_update_replaces_no_more_than_may_be_missing() {
        let pods = [pod("a", "a", true), pod("b", "b", true), pod("c", "c", false)];
        let set = json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}}});
        let names = nodes(&["a", "b", "c"]);
        let old = plan(&set, &names, &pods, |_| false, |pod| pod.data.ready);
        assert_eq!(deleted(&old), ["c"]);
        let two = json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}});
        assert_eq!(deleted(&plan(&two, &names, &pods, |_| false, |pod| pod.data.ready)), ["c", "a"]);
        let by_hand = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}});
        assert!(deleted(&plan(&by_hand, &names, &pods, |_| false, |pod| pod.data.ready)).is_empty());
    }
}
