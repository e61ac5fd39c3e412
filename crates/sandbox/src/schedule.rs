//! Where a Pod runs: the decision of a scheduler that knows capacity, selectors, node affinity and taints.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    cache::{Kept, Project},
    object::{Labels, items, labels, text},
    pod::{Resources, amount},
};

/// What is kept of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) allocatable: Resources,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) ready: bool,
    pub(crate) ip: String,
}

pub(crate) type Node = Kept<NodeFacts>;

/// `spec.taints[]` of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taint {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) effect: String,
}

impl Project for NodeFacts {
    fn project(node: &Value) -> Self {
        let allocatable = node["status"]["allocatable"].as_object().into_iter().flatten();
        let taints = items(&node["spec"]["taints"]).iter();
        let addresses = items(&node["status"]["addresses"]).iter();
        let mut addresses = addresses.filter(|address| address["type"] == "InternalIP");
        Self {
            allocatable: allocatable.map(|(name, value)| (name.clone(), amount(name, value))).collect(),
            taints: taints
                .map(|taint| Taint {
                    key: text(&taint["key"]),
                    value: text(&taint["value"]),
                    effect: text(&taint["effect"]),
                })
                .collect(),
            unschedulable: node["spec"]["unschedulable"] == true,
            ready: crate::object::is_true(&node["status"], "Ready"),
            ip: addresses.next().map(|address| text(&address["address"])).unwrap_or_default(),
        }
    }
}

/// Whether a toleration tolerates a taint (`v1.Toleration.ToleratesTaint`).
fn tolerates(toleration: &Value, taint: &Taint) -> bool {
    let (key, effect) = (text(&toleration["key"]), text(&toleration["effect"]));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration["operator"].as_str() {
            Some("Exists") => true,
            None | Some("" | "Equal") => toleration["value"].as_str().unwrap_or_default() == taint.value,
            Some(_) => false,
        }
}

/// The first taint that keeps the Pod away.
fn untolerated<'a>(spec: &Value, node: &'a Node) -> Option<&'a Taint> {
    let keeps_away = |taint: &&Taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
    let tolerated =
        |taint: &Taint| items(&spec["tolerations"]).iter().any(|toleration| tolerates(toleration, taint));
    node.data.taints.iter().filter(keeps_away).find(|taint| !tolerated(taint))
}

/// One requirement of a node selector term.
fn requirement_holds(requirement: &Value, of: &Labels) -> bool {
    let value = of.get(requirement["key"].as_str().unwrap_or_default());
    let values = items(&requirement["values"]);
    let listed = || value.is_some_and(|value| values.iter().any(|listed| listed == value.as_str()));
    let number = |value: &str| value.parse::<i64>().ok();
    let compared = || Some((number(value?)?, number(values.first()?.as_str()?)?));
    match requirement["operator"].as_str() {
        Some("In") => listed(),
        Some("NotIn") => !listed(),
        Some("Exists") => value.is_some(),
        Some("DoesNotExist") => value.is_none(),
        Some("Gt") => compared().is_some_and(|(value, bound)| value > bound),
        Some("Lt") => compared().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether the Pod's node selector and required node affinity accept the node.
fn affinity_holds(spec: &Value, node: &Node) -> bool {
    let selector = labels(&spec["nodeSelector"]);
    if !selector.iter().all(|(name, value)| node.meta.labels.get(name) == Some(value)) {
        return false;
    }
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    if required.is_null() {
        return true;
    }
    let fields = Labels::from([("metadata.name".to_owned(), node.meta.key.name.clone())]);
    items(&required["nodeSelectorTerms"]).iter().any(|term| {
        let (expressions, by_field) = (items(&term["matchExpressions"]), items(&term["matchFields"]));
        (!expressions.is_empty() || !by_field.is_empty())
            && expressions.iter().all(|requirement| requirement_holds(requirement, &node.meta.labels))
            && by_field.iter().all(|requirement| requirement_holds(requirement, &fields))
    })
}

/// Whether a daemon with this Pod spec belongs on the node.
pub(crate) fn daemon_belongs(spec: &Value, node: &Node) -> bool {
    affinity_holds(spec, node) && untolerated(spec, node).is_none()
}

/// What keeps the Pod off the node, in the scheduler's words.
fn obstacles(spec: &Value, requests: &Resources, node: &Node, used: Option<&Resources>) -> Vec<String> {
    let unschedulable = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    let excused = items(&spec["tolerations"]).iter().any(|toleration| tolerates(toleration, &unschedulable));
    if node.data.unschedulable && !excused {
        return vec!["node(s) were unschedulable".to_owned()];
    }
    if let Some(taint) = untolerated(spec, node) {
        return vec![format!("node(s) had untolerated taint(s) {{{}: {}}}", taint.key, taint.value)];
    }
    if !affinity_holds(spec, node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
    }
    let short = |(name, wanted): &(&String, &i128)| {
        let used = used.and_then(|used| used.get(*name)).copied().unwrap_or_default();
        let offered = node.data.allocatable.get(*name).copied().unwrap_or_default();
        **wanted > 0 && used + **wanted > offered
    };
    let insufficient = |(name, _): (&String, &i128)| match name.as_str() {
        "pods" => "Too many pods".to_owned(),
        name => format!("Insufficient {name}"),
    };
    requests.iter().filter(short).map(insufficient).collect()
}

/// The node for a Pod, or why there is none. Of those that can take it, the one with the least Pods.
pub(crate) fn place(
    spec: &Value,
    requests: &Resources,
    nodes: &[std::sync::Arc<Node>],
    used: &BTreeMap<String, Resources>,
) -> Result<String, String> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(i128, &str)> = None;
    for node in nodes {
        let name = node.meta.key.name.as_str();
        let obstacles = obstacles(spec, requests, node, used.get(name));
        if obstacles.is_empty() {
            let pods = used.get(name).and_then(|used| used.get("pods")).copied().unwrap_or_default();
            best = best.into_iter().chain([(pods, name)]).min();
        }
        for obstacle in obstacles {
            *reasons.entry(obstacle).or_default() += 1;
        }
    }
    match best {
        Some((_, name)) => Ok(name.to_owned()),
        None if nodes.is_empty() => Err("no nodes available to schedule pods".to_owned()),
        None => {
            let mut reasons: Vec<_> =
                reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            reasons.sort();
            Err(format!("0/{} nodes are available: {}.", nodes.len(), reasons.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn node(name: &str, spec: Value) -> Arc<Node> {
        Arc::new(Node::of(&json!({
            "metadata": {"name": name, "labels": {"zone": name}}, "spec": spec,
            "status": {"allocatable": {"cpu": "2", "pods": "10"}},
        })))
    }

    fn asks(cpu: i128) -> Resources {
        Resources::from([("cpu".to_owned(), cpu), ("pods".to_owned(), 1)])
    }

    #[test]
    fn a_pod_goes_where_it_fits_and_the_fewest_are() {
        let nodes = [node("a", json!({})), node("b", json!({}))];
        let used = BTreeMap::from([("a".to_owned(), asks(1500)), ("b".to_owned(), asks(100))]);
        assert_eq!(place(&json!({}), &asks(1000), &nodes, &used), Ok("b".to_owned()));
        let used = BTreeMap::from([("a".to_owned(), asks(100))]);
        assert_eq!(place(&json!({}), &asks(1000), &nodes, &used), Ok("b".to_owned()));
    }

    #[test]
    fn what_does_not_fit_is_told_in_the_schedulers_words() {
        let nodes = [
            node("a", json!({})),
            node("b", json!({"unschedulable": true})),
            node("c", json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]})),
        ];
        assert_eq!(
            place(&json!({}), &asks(3000), &nodes, &BTreeMap::new()),
            Err("0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s) {k: v}, \
                 1 node(s) were unschedulable."
                .to_owned())
        );
        let tolerant = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
        assert_eq!(place(&tolerant, &asks(1000), &nodes[2..], &BTreeMap::new()), Ok("c".to_owned()));
    }

    #[test]
    fn selectors_and_affinity_choose_the_node() {
        let nodes = [node("a", json!({})), node("b", json!({}))];
        assert_eq!(
            place(&json!({"nodeSelector": {"zone": "b"}}), &asks(1), &nodes, &BTreeMap::new()),
            Ok("b".into())
        );
        let by_name = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}],
        }}}});
        assert_eq!(place(&by_name, &asks(1), &nodes, &BTreeMap::new()), Ok("a".into()));
    }
}
