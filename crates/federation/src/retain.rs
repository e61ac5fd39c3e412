//! What a member keeps of its own when its copy is written (`spec/kubefed.md §2.6`), told in terms of server-side apply.
//!
//! Server-side apply leaves alone what is not applied: annotations, finalizers, labels and owners set by others, a Service's addresses
//! and node ports, a ServiceAccount's secrets. What is left to do concerns fields that the *template* names and that the member
//! owns nevertheless: they are applied as they are live, or not at all if somebody else manages them.

use serde_json::{Map, Value};

/// Whether computing the copy of a member needs the live object: the template names a field that the member decides.
pub fn needs_live(group: &str, kind: &str, desired: &Value, retain_replicas: bool) -> bool {
    let spec = &desired["spec"];
    if (group, kind) == ("", "Service") {
        let port = |port: &Value| !port["nodePort"].is_null();
        return ["clusterIP", "clusterIPs", "healthCheckNodePort"]
            .iter()
            .any(|field| !spec[*field].is_null())
            || spec["ports"].as_array().is_some_and(|ports| ports.iter().any(port));
    }
    retain_replicas && !spec["replicas"].is_null()
}

/// Carries what the member decides from the live object into the copy to apply.
pub fn retain(
    group: &str,
    kind: &str,
    desired: &mut Value,
    live: &Value,
    retain_replicas: bool,
    manager: &str,
) {
    let Some(spec) = desired.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if (group, kind) == ("", "Service") {
        service(spec, &live["spec"]);
    } else if retain_replicas && spec.contains_key("replicas") {
        // Applying what another manager owns, even with the live value, would make us a rival of the autoscaler.
        if applied_by(live, manager, "f:replicas") && !live["spec"]["replicas"].is_null() {
            spec.insert("replicas".into(), live["spec"]["replicas"].clone());
        } else {
            spec.remove("replicas");
        }
    }
}

fn service(spec: &mut Map<String, Value>, live: &Value) {
    for field in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
        if !is_unset(&live[field]) && spec.contains_key(field) {
            spec.insert(field.into(), live[field].clone());
        }
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if !port["nodePort"].is_null()
            && let Some(node_port) = node_port(live, port)
        {
            port["nodePort"] = node_port;
        }
    }
}

/// Makes the copy one that can be written by PUT, which takes away what it does not name: whatever KubeFed retained
/// (`spec/kubefed.md §2.6`), and what it wiped and should not have (§6 (18)). Overrides have been applied, and prevail.
pub fn complete(group: &str, kind: &str, desired: &mut Value, live: &Value) {
    if let (Some(there), Some(metadata)) =
        (live["metadata"].as_object(), desired.get_mut("metadata").and_then(Value::as_object_mut))
    {
        let wanted = std::mem::replace(metadata, there.clone());
        for (field, value) in wanted {
            match (metadata.get_mut(&field).and_then(Value::as_object_mut), value) {
                (Some(there), Value::Object(value)) => there.extend(value),
                (_, Value::Null) => {}
                (_, value) => drop(metadata.insert(field, value)),
            }
        }
    }
    let mut keep = |place: &[&str]| {
        let (Some((last, parents)), Some(there)) = (place.split_last(), at(live, place)) else { return };
        let parent = parents.iter().try_fold(&mut *desired, |value, field| value.get_mut(*field));
        if let Some(parent) = parent.and_then(Value::as_object_mut)
            && parent.get(*last).is_none_or(is_unset)
        {
            parent.insert((*last).to_owned(), there.clone());
        }
    };
    keep(&["status"]);
    match (group, kind) {
        ("", "ServiceAccount") => {
            keep(&["secrets"]);
            keep(&["imagePullSecrets"]);
        }
        ("", "Service") => complete_service(desired, live),
        _ => keep(&["spec", "replicas"]),
    }
}

/// Addresses and ports that a Service of its type can have.
fn complete_service(desired: &mut Value, live: &Value) {
    let Some(spec) = desired.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let live = &live["spec"];
    let r#type = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP").to_owned();
    let mut fields = Vec::new();
    if r#type != "ExternalName" {
        fields.extend(["clusterIP", "clusterIPs"]);
    }
    if r#type == "LoadBalancer" {
        fields.push("healthCheckNodePort");
    }
    for field in fields {
        if !is_unset(&live[field]) && spec.get(field).is_none_or(is_unset) {
            spec.insert(field.into(), live[field].clone());
        }
    }
    if !matches!(&*r#type, "NodePort" | "LoadBalancer") {
        return;
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if is_unset(&port["nodePort"])
            && let Some(node_port) = node_port(live, port)
            && let Some(port) = port.as_object_mut()
        {
            port.insert("nodePort".into(), node_port);
        }
    }
}

fn at<'a>(value: &'a Value, place: &[&str]) -> Option<&'a Value> {
    let found = place.iter().try_fold(value, |value, field| value.get(*field))?;
    (!is_unset(found)).then_some(found)
}

/// What servers take for a field that was not given.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Array(items) => items.is_empty(),
        Value::Object(_) | Value::Bool(_) => false,
    }
}

/// The node port that the member gave to this port of a Service.
fn node_port(live: &Value, port: &Value) -> Option<Value> {
    let identity = |port: &Value| {
        // A port without a protocol is a TCP port; comparing the raw values would lose its node port.
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        (port["name"].as_str().unwrap_or_default().to_owned(), protocol, port["port"].as_i64())
    };
    let wanted = identity(port);
    let mut ports = live["ports"].as_array().into_iter().flatten();
    let found = ports.find(|port| identity(port) == wanted)?;
    (!found["nodePort"].is_null()).then(|| found["nodePort"].clone())
}

/// Whether `manager` owns, by server-side apply, a field of the live object's spec.
fn applied_by(live: &Value, manager: &str, field: &str) -> bool {
    let entries = live["metadata"]["managedFields"].as_array();
    entries.into_iter().flatten().any(|entry| {
        entry["manager"] == manager
            && entry["operation"] == "Apply"
            && entry["fieldsV1"]["f:spec"].get(field).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn deployment(replicas: i64, owner: &str, operation: &str) -> Value {
        let fields = json!({"f:spec": {"f:replicas": {}}});
        json!({"spec": {"replicas": replicas}, "metadata": {"managedFields": [
            {"manager": owner, "operation": operation, "fieldsV1": fields},
        ]}})
    }

    #[test]
    fn replicas_that_an_autoscaler_owns_are_not_applied() {
        let mut desired = json!({"spec": {"replicas": 1, "paused": true}});
        assert!(needs_live("apps", "Deployment", &desired, true));
        retain("apps", "Deployment", &mut desired, &deployment(7, "hpa", "Update"), true, "kubefed");
        assert_eq!(desired, json!({"spec": {"paused": true}}));
    }

    #[test]
    fn replicas_that_only_we_own_are_applied_as_they_are_live() {
        let mut desired = json!({"spec": {"replicas": 1}});
        retain("apps", "Deployment", &mut desired, &deployment(7, "kubefed", "Apply"), true, "kubefed");
        assert_eq!(desired["spec"]["replicas"], 7);
    }

    #[test]
    fn replicas_are_the_templates_unless_retained() {
        let mut desired = json!({"spec": {"replicas": 1}});
        assert!(!needs_live("apps", "Deployment", &desired, false));
        retain("apps", "Deployment", &mut desired, &deployment(7, "hpa", "Update"), false, "kubefed");
        assert_eq!(desired["spec"]["replicas"], 1);
    }

    #[test]
    fn a_service_keeps_its_addresses_and_node_ports() {
        let mut desired = json!({"spec": {
            "clusterIP": "10.0.0.1", "healthCheckNodePort": 1,
            "ports": [{"port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30081}, {"port": 82}],
        }});
        assert!(needs_live("", "Service", &desired, false));
        let live = json!({"spec": {
            "clusterIP": "10.9.9.9", "clusterIPs": ["10.9.9.9"], "healthCheckNodePort": 0,
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 31000}, {"port": 81, "protocol": "TCP", "nodePort": 31001}],
        }});
        retain("", "Service", &mut desired, &live, false, "kubefed");
        assert_eq!(
            desired,
            json!({"spec": {
                "clusterIP": "10.9.9.9", "healthCheckNodePort": 1,
                "ports": [{"port": 80, "nodePort": 31000}, {"name": "b", "port": 81, "nodePort": 30081}, {"port": 82}],
            }})
        );
    }

    #[test]
    fn a_service_that_names_nothing_of_the_members_needs_no_look() {
        assert!(!needs_live("", "Service", &json!({"spec": {"ports": [{"port": 80}]}}), false));
        assert!(!needs_live("", "ServiceAccount", &json!({"secrets": [{"name": "a"}]}), true));
        assert!(!needs_live("serving.example.org", "Service", &json!({"spec": {"clusterIP": "x"}}), false));
    }

    /// `spec/kubefed.md §2.6, §6 (18)`.
    #[test]
    fn a_put_keeps_what_others_put_on_the_object() {
        let live = json!({
            "metadata": {
                "name": "web", "resourceVersion": "7", "uid": "u", "finalizers": ["x/y"], "ownerReferences": [{"uid": "o"}],
                "labels": {"app": "old", "theirs": "stays"}, "annotations": {"theirs": "stays"},
            },
            "spec": {"replicas": 7, "paused": true}, "status": {"replicas": 7},
        });
        let mut desired = json!({
            "metadata": {"name": "web", "labels": {"app": "web"}, "annotations": {"ours": "1"}}, "spec": {"image": "a"},
        });
        complete("apps", "Deployment", &mut desired, &live);
        assert_eq!(
            desired,
            json!({
                "metadata": {
                    "name": "web", "resourceVersion": "7", "uid": "u", "finalizers": ["x/y"], "ownerReferences": [{"uid": "o"}],
                    "labels": {"app": "web", "theirs": "stays"}, "annotations": {"theirs": "stays", "ours": "1"},
                },
                "spec": {"replicas": 7, "image": "a"}, "status": {"replicas": 7},
            })
        );
        let again = desired.clone();
        complete("apps", "Deployment", &mut desired, &live);
        assert_eq!(desired, again);
    }

    /// `spec/kubefed.md §2.6`: the table of what is retained, by kind.
    #[test]
    fn a_put_keeps_what_the_member_decided() {
        let completed = |kind: &str, mut desired: Value, live: Value| {
            complete("", kind, &mut desired, &live);
            desired.as_object_mut().unwrap().remove("metadata");
            desired
        };
        let given = json!([{"name": "token"}]);
        let account = |secrets: Value| completed("ServiceAccount", secrets, json!({"secrets": given}));
        assert_eq!(account(json!({})), json!({"secrets": given}));
        assert_eq!(account(json!({"secrets": []})), json!({"secrets": given}));
        assert_eq!(account(json!({"secrets": [{"name": "mine"}]})), json!({"secrets": [{"name": "mine"}]}));

        let live = json!({"spec": {
            "clusterIP": "10.9.9.9", "clusterIPs": ["10.9.9.9"], "healthCheckNodePort": 32000,
            "ports": [{"name": "a", "port": 80, "protocol": "TCP", "nodePort": 31000}, {"name": "u", "port": 80, "protocol": "UDP", "nodePort": 31001}],
        }});
        let service =
            |spec: Value| completed("Service", json!({ "spec": spec }), live.clone())["spec"].clone();
        // The trap: KubeFed compared the protocols as they were written, and lost the node port of a port that names none.
        assert_eq!(
            service(
                json!({"type": "NodePort", "ports": [{"name": "a", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"}, {"name": "new", "port": 81}]})
            ),
            json!({
                "type": "NodePort", "clusterIP": "10.9.9.9", "clusterIPs": ["10.9.9.9"],
                "ports": [
                    {"name": "a", "port": 80, "nodePort": 31000},
                    {"name": "u", "port": 80, "protocol": "UDP", "nodePort": 31001},
                    {"name": "new", "port": 81},
                ],
            })
        );
        assert_eq!(service(json!({"type": "LoadBalancer", "clusterIP": ""}))["healthCheckNodePort"], 32000);
        assert_eq!(service(json!({"type": "LoadBalancer", "clusterIP": ""}))["clusterIP"], "10.9.9.9");
        assert_eq!(
            service(json!({"type": "ExternalName", "externalName": "x.test"})),
            json!({"type": "ExternalName", "externalName": "x.test"})
        );
        assert_eq!(service(json!({"ports": [{"name": "a", "port": 80}]}))["ports"][0].get("nodePort"), None);
    }

    /// Any JSON, with the names that matter among its keys.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-1..3_i64).prop_map(Value::from),
            "(TCP|NodePort|LoadBalancer|ExternalName|x?)".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let name = "(metadata|labels|spec|ports|port|nodePort|type|clusterIP|replicas|secrets|a)";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::hash_map(name, inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// A template may be anything; completing it twice is completing it once.
        #[test]
        fn completing_is_harmless_and_done_once(
            desired in any_json(), live in any_json(), kind in "(Service|ServiceAccount|ConfigMap)",
        ) {
            let mut once = desired;
            complete("", &kind, &mut once, &live);
            let mut twice = once.clone();
            complete("", &kind, &mut twice, &live);
            prop_assert_eq!(once, twice);
        }
    }
}
