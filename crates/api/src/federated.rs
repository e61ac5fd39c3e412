//! `types.kubefed.io`: the federated types, generated from their targets (`spec/kubefed.md §1.3, §1.7`).

use serde_json::{Value, json};

use crate::crd;
use crate::kubefed::{ApiResource, FederatedTypeConfig, FederatedTypeConfigSpec, ResourceScope, Switch};
use crate::names;

/// The type whose objects appear in the members.
pub type TargetType = ApiResource;

/// The group of federated types.
pub const GROUP: &str = "types.kubefed.io";
/// The version of federated types.
pub const VERSION: &str = "v1beta1";

/// The federated type of a target. That of a Namespace lives in the namespace it speaks of.
pub fn federated_type(target: &TargetType) -> ApiResource {
    let namespace = target.group.is_empty() && target.kind == "Namespace";
    ApiResource {
        group: GROUP.to_owned(),
        version: VERSION.to_owned(),
        kind: format!("Federated{}", target.kind),
        plural_name: format!("federated{}", target.plural_name),
        scope: if namespace { ResourceScope::Namespaced } else { target.scope },
    }
}

/// The FederatedTypeConfig of a target, with propagation on.
pub fn type_config(target: &TargetType) -> FederatedTypeConfig {
    let spec = FederatedTypeConfigSpec {
        target_type: target.clone(),
        propagation: Switch::Enabled,
        federated_type: federated_type(target),
        status_type: None,
        status_collection: None,
    };
    let mut config = FederatedTypeConfig::new(&target.qualified_plural(), spec);
    config.metadata.namespace = Some(names::SYSTEM_NAMESPACE.to_owned());
    config
}

/// The CRD of the federated type of `target`. `has_replicas`: the target's `spec.replicas` is an integer. `short_names` are those of the
/// target; the federated type's have an `f` before them.
pub fn crd(target: &TargetType, has_replicas: bool, short_names: &[&str]) -> Value {
    crd_of(&federated_type(target), has_replicas, short_names)
}

/// The CRD of a federated type whose group, version or plural was chosen by hand.
pub fn crd_of(federated: &ApiResource, has_replicas: bool, target_short_names: &[&str]) -> Value {
    let short_names: Vec<String> = target_short_names.iter().map(|name| format!("f{name}")).collect();
    let short_names: Vec<&str> = short_names.iter().map(String::as_str).collect();
    let scope = match federated.scope {
        ResourceScope::Cluster => "Cluster",
        ResourceScope::Namespaced => "Namespaced",
    };
    crd::definition(
        &federated.group,
        crd::names(&federated.kind, &federated.plural_name, &short_names),
        scope,
        &federated.version,
        schema(has_replicas),
        true,
        json!([
            {"name": "Propagated", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Propagation\")].status"},
            {"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Propagation\")].reason"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
        ]),
    )
}

fn schema(has_replicas: bool) -> Value {
    let string = json!({ "type": "string" });
    let selector = json!({
        "type": "object",
        "properties": {
            "matchLabels": { "type": "object", "additionalProperties": string },
            "matchExpressions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "key": string,
                        "operator": string,
                        "values": { "type": "array", "items": string },
                    },
                    "required": ["key", "operator"],
                },
            },
        },
    });
    let mut spec = json!({
        "template": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        "placement": {
            "type": "object",
            "properties": {
                "clusters": {
                    "type": "array",
                    "items": { "type": "object", "properties": { "name": string }, "required": ["name"] },
                },
                "clusterSelector": selector,
            },
        },
        "overrides": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "clusterName": string,
                    // Beside KubeFed's own fields: overrides for all clusters that a selector matches, and as a merge patch.
                    "clusterSelector": selector,
                    "strategicMergePatch": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    "clusterOverrides": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "op": { "type": "string", "pattern": "^(add|remove|replace)?$" },
                                "path": string,
                                "value": { "x-kubernetes-preserve-unknown-fields": true },
                            },
                            "required": ["path"],
                        },
                    },
                },
            },
        },
    });
    if has_replicas {
        spec["retainReplicas"] = json!({ "type": "boolean" });
    }
    json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": string,
            "kind": string,
            "metadata": { "type": "object" },
            "spec": { "type": "object", "properties": spec },
            "status": {
                "type": "object",
                "properties": {
                    "observedGeneration": { "type": "integer", "format": "int64" },
                    "conditions": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "type": string,
                                "status": string,
                                "reason": string,
                                "message": string,
                                // `kubectl wait` takes no condition for true that is of an older generation.
                                "observedGeneration": { "type": "integer", "format": "int64" },
                                "lastUpdateTime": { "type": "string", "format": "date-time" },
                                "lastTransitionTime": { "type": "string", "format": "date-time" },
                            },
                            "required": ["type", "status"],
                        },
                    },
                    "clusters": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": string,
                                "status": string,
                                "message": string,
                                "conditions": {
                                    "type": "array",
                                    "items": {
                                        "type": "object",
                                        "properties": {
                                            "type": string,
                                            "status": string,
                                            "reason": string,
                                            "message": string,
                                            "lastTransitionTime": { "type": "string", "format": "date-time" },
                                        },
                                        "required": ["type", "status"],
                                    },
                                },
                                "remoteStatus": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                            },
                            "required": ["name"],
                        },
                    },
                },
            },
        },
    })
}

/// A type that is federated unless it is turned off.
#[derive(Clone, Debug)]
pub struct DefaultType {
    /// The type.
    pub target: TargetType,
    /// Whether `spec.replicas` is an integer.
    pub has_replicas: bool,
    /// The target's short names.
    pub short_names: &'static [&'static str],
}

/// The ten types that are federated by default (`spec/kubefed.md §1.3`), sorted by the names of their FederatedTypeConfigs.
pub fn default_types() -> Vec<DefaultType> {
    use ResourceScope::{Cluster, Namespaced};
    type Row = (
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        ResourceScope,
        bool,
        &'static [&'static str],
    );
    let rows: [Row; 10] = [
        ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", Cluster, false, &[]),
        ("", "v1", "ConfigMap", "configmaps", Namespaced, false, &["cm"]),
        ("apps", "v1", "Deployment", "deployments", Namespaced, true, &["deploy"]),
        ("networking.k8s.io", "v1", "Ingress", "ingresses", Namespaced, false, &["ing"]),
        ("batch", "v1", "Job", "jobs", Namespaced, false, &[]),
        ("", "v1", "Namespace", "namespaces", Cluster, false, &["ns"]),
        ("apps", "v1", "ReplicaSet", "replicasets", Namespaced, true, &["rs"]),
        ("", "v1", "Secret", "secrets", Namespaced, false, &[]),
        ("", "v1", "ServiceAccount", "serviceaccounts", Namespaced, false, &["sa"]),
        ("", "v1", "Service", "services", Namespaced, false, &["svc"]),
    ];
    rows.into_iter()
        .map(|(group, version, kind, plural, scope, has_replicas, short_names)| DefaultType {
            target: TargetType {
                group: group.to_owned(),
                version: version.to_owned(),
                kind: kind.to_owned(),
                plural_name: plural.to_owned(),
                scope,
            },
            has_replicas,
            short_names,
        })
        .collect()
}

/// KubeFed's plural of a kind (`spec/kubefed.md §1.3`).
pub fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    if ["s", "x", "ch", "sh", "z", "o"].iter().any(|suffix| kind.ends_with(suffix)) {
        format!("{kind}es")
    } else if let Some(stem) = kind.strip_suffix('y') {
        format!("{stem}ies")
    } else {
        format!("{kind}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default_crd(plural: &str) -> Value {
        let found = default_types().into_iter().find(|t| t.target.plural_name == plural).unwrap();
        crd(&found.target, found.has_replicas, found.short_names)
    }

    #[test]
    fn a_federated_namespace_lives_in_its_namespace() {
        assert_eq!(default_crd("namespaces")["spec"]["scope"], "Namespaced");
        assert_eq!(default_crd("clusterroles")["spec"]["scope"], "Cluster");
    }

    #[test]
    fn only_types_with_replicas_can_retain_them() {
        let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/retainReplicas";
        assert!(default_crd("deployments").pointer(path).is_some());
        assert!(default_crd("jobs").pointer(path).is_none());
    }

    #[test]
    fn names_are_those_of_kubefed() {
        let names = &default_crd("deployments")["spec"]["names"];
        assert_eq!(names["kind"], "FederatedDeployment");
        assert_eq!(names["plural"], "federateddeployments");
        assert_eq!(names["shortNames"], json!(["fdeploy"]));
        let config = type_config(&default_types()[2].target);
        assert_eq!(config.metadata.name.as_deref(), Some("deployments.apps"));
    }

    #[test]
    fn plurals_follow_kubefeds_rule() {
        for (kind, expected) in [
            ("Ingress", "ingresses"),
            ("NetworkPolicy", "networkpolicies"),
            ("Box", "boxes"),
            ("Pod", "pods"),
        ] {
            assert_eq!(plural(kind), expected);
        }
    }
}
