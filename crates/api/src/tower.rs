//! The rights of a tower on the host, and no others: its ServiceAccount and what is bound to it.

use serde_json::{Value, json};

use crate::names::{SYSTEM_NAMESPACE, TOWER};

/// The objects, in the order in which they are to be created. They are the same each time.
///
/// Secrets cannot be told apart by patterns of names, so those of the namespace are open to it; member credentials of agents are
/// not among them, because there are none on the host.
pub fn rights() -> Vec<Value> {
    let rbac = "rbac.authorization.k8s.io";
    let metadata = json!({"name": TOWER, "namespace": SYSTEM_NAMESPACE});
    let subjects = json!([{"kind": "ServiceAccount", "name": TOWER, "namespace": SYSTEM_NAMESPACE}]);
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let object = |kind: &str, metadata: &Value, rest: Value| {
        let mut object = json!({"apiVersion": format!("{rbac}/v1"), "kind": kind, "metadata": metadata});
        if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
            object.extend(rest);
        }
        object
    };
    let reference = |kind: &str, name: &str| json!({"apiGroup": rbac, "kind": kind, "name": name});
    let whole = json!({"name": "hansa:tower"});
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        object(
            "ClusterRole",
            &whole,
            json!({"rules": [
                rule("authentication.k8s.io", "tokenreviews", &["create"]),
                rule("authorization.k8s.io", "subjectaccessreviews", &["create"]),
                rule("cluster.kubesphere.io", "clusters", &["get", "list", "watch"]),
            ]}),
        ),
        object(
            "ClusterRoleBinding",
            &whole,
            json!({"roleRef": reference("ClusterRole", "hansa:tower"), "subjects": subjects}),
        ),
        object(
            "Role",
            &metadata,
            json!({"rules": [
                rule("", "secrets", &["get", "list", "watch", "create", "update"]),
                rule("", "configmaps", &["get", "create", "patch"]),
                rule("coordination.k8s.io", "leases", &["get", "list", "watch", "create", "patch", "delete"]),
            ]}),
        ),
        object("RoleBinding", &metadata, json!({"roleRef": reference("Role", TOWER), "subjects": subjects})),
        // Events about Clusters, which have no namespace, are kept in `default`.
        object(
            "Role",
            &json!({"name": TOWER, "namespace": "default"}),
            json!({"rules": [rule("", "events", &["create"])]}),
        ),
        object(
            "RoleBinding",
            &json!({"name": TOWER, "namespace": "default"}),
            json!({"roleRef": reference("Role", TOWER), "subjects": subjects}),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tower_may_not_write_clusters_nor_reach_members() {
        let text = serde_json::to_string(&rights()).unwrap();
        assert!(!text.contains('*') && !text.contains("impersonate") && !text.contains("tunnel"));
        let rights = rights();
        let clusters = rights.iter().flat_map(|o| o["rules"].as_array().cloned().unwrap_or_default());
        let clusters: Vec<Value> = clusters.filter(|rule| rule["resources"][0] == "clusters").collect();
        assert_eq!(clusters.len(), 1);
        assert_eq!(clusters[0]["verbs"], json!(["get", "list", "watch"]));
    }
}
