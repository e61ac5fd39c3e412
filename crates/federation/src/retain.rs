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
        let set = match &live[field] {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Number(number) => number.as_i64() != Some(0),
            _ => true,
        };
        if set && spec.contains_key(field) {
            spec.insert(field.into(), live[field].clone());
        }
    }
    let identity = |port: &Value| {
        // A port without a protocol is a TCP port; comparing the raw values would lose its node port.
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        (port["name"].as_str().unwrap_or_default().to_owned(), protocol, port["port"].as_i64())
    };
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if port["nodePort"].is_null() {
            continue;
        }
        let wanted = identity(port);
        let mut ports = live["ports"].as_array().into_iter().flatten();
        if let Some(node_port) = ports.find(|port| identity(port) == wanted).map(|port| &port["nodePort"])
            && !node_port.is_null()
        {
            port["nodePort"] = node_port.clone();
        }
    }
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
}
