//! What a host needs before the control plane can work: CRDs, then the objects that are there by default.

use serde_json::{Value, json};

use crate::kubefed::{KubeFedConfig, KubeFedConfigSpec};
use crate::{Cluster, FederatedTypeConfig, KubeFedCluster, ReplicaSchedulingPreference};
use crate::{ClusterPropagatedVersion, FederatedServiceStatus, PropagatedVersion};
use crate::{crd, federated, names};

/// Every CRD, in a fixed order.
pub fn crds() -> Vec<Value> {
    let mut crds = vec![
        crd::derived::<Cluster>(false),
        crd::whole::<ClusterPropagatedVersion>(
            "ClusterPropagatedVersion",
            "clusterpropagatedversions",
            "Cluster",
            true,
        ),
        crd::whole::<FederatedServiceStatus>(
            "FederatedServiceStatus",
            "federatedservicestatuses",
            "Namespaced",
            false,
        ),
        crd::derived::<FederatedTypeConfig>(true),
        crd::derived::<KubeFedCluster>(true),
        crd::derived::<KubeFedConfig>(false),
        crd::whole::<PropagatedVersion>("PropagatedVersion", "propagatedversions", "Namespaced", true),
        crd::derived::<ReplicaSchedulingPreference>(false),
    ];
    crds.extend(
        federated::default_types().iter().map(|t| federated::crd(&t.target, t.has_replicas, t.short_names)),
    );
    crds
}

/// The objects that are there by default: the system namespace, the KubeFedConfig, a FederatedTypeConfig for each default type. They are to be
/// created where they are absent, and left as they are where somebody changed them.
pub fn defaults() -> Vec<Value> {
    let mut config = KubeFedConfig::new(names::KUBEFED_CONFIG, KubeFedConfigSpec::default().defaulted());
    config.metadata.namespace = Some(names::SYSTEM_NAMESPACE.to_owned());
    let mut defaults = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names::SYSTEM_NAMESPACE}}),
        serde_json::to_value(config).unwrap_or_default(),
    ];
    defaults.extend(
        federated::default_types()
            .iter()
            .map(|t| serde_json::to_value(federated::type_config(&t.target)).unwrap_or_default()),
    );
    defaults
}

/// [`crds`], then [`defaults`].
pub fn manifests() -> Vec<Value> {
    crds().into_iter().chain(defaults()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules for a structural schema that can be told from the schema alone (Kubernetes: "Specifying a structural schema").
    fn assert_structural(schema: &Value, path: &str) {
        let preserves = schema.get("x-kubernetes-preserve-unknown-fields").is_some();
        assert!(schema.get("type").is_some() || preserves, "{path} has no type: {schema}");
        for forbidden in [
            "$ref",
            "definitions",
            "oneOf",
            "anyOf",
            "allOf",
            "not",
            "nullable",
            "default",
            "deprecated",
            "title",
        ] {
            assert!(schema.get(forbidden).is_none(), "{path} has {forbidden}");
        }
        assert!(
            !(schema.get("properties").is_some() && schema.get("additionalProperties").is_some()),
            "{path} has properties and additionalProperties"
        );
        if schema["type"] == "array" {
            assert!(schema.get("items").is_some(), "{path} has no items");
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            assert_structural(property, &format!("{path}.{name}"));
        }
        for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            let name = required.as_str().unwrap();
            assert!(properties.unwrap().contains_key(name), "{path} requires {name}, which it does not have");
        }
        if let Some(items) = schema.get("items") {
            assert_structural(items, &format!("{path}[]"));
        }
        if let Some(values) = schema.get("additionalProperties") {
            assert_structural(values, &format!("{path}.*"));
        }
    }

    #[test]
    fn every_schema_is_structural() {
        for crd in crds() {
            let name = crd["metadata"]["name"].as_str().unwrap().to_owned();
            let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
            assert_structural(schema, &name);
            for column in
                crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().into_iter().flatten()
            {
                assert!(column["jsonPath"].as_str().unwrap().starts_with('.'), "{name}: {column}");
            }
        }
    }

    #[test]
    fn names_scopes_and_subresources_are_those_of_the_originals() {
        let table: Vec<(String, String, String, bool)> = crds()
            .iter()
            .map(|crd| {
                (
                    crd["metadata"]["name"].as_str().unwrap().to_owned(),
                    crd["spec"]["versions"][0]["name"].as_str().unwrap().to_owned(),
                    crd["spec"]["scope"].as_str().unwrap().to_owned(),
                    crd.pointer("/spec/versions/0/subresources/status").is_some(),
                )
            })
            .collect();
        for (name, version, scope, status) in [
            ("clusters.cluster.kubesphere.io", "v1alpha1", "Cluster", false),
            ("kubefedclusters.core.kubefed.io", "v1beta1", "Namespaced", true),
            ("kubefedconfigs.core.kubefed.io", "v1beta1", "Namespaced", false),
            ("federatedtypeconfigs.core.kubefed.io", "v1beta1", "Namespaced", true),
            ("propagatedversions.core.kubefed.io", "v1alpha1", "Namespaced", true),
            ("clusterpropagatedversions.core.kubefed.io", "v1alpha1", "Cluster", true),
            ("federatedservicestatuses.core.kubefed.io", "v1alpha1", "Namespaced", false),
            ("replicaschedulingpreferences.scheduling.kubefed.io", "v1alpha1", "Namespaced", false),
            ("federateddeployments.types.kubefed.io", "v1beta1", "Namespaced", true),
            ("federatednamespaces.types.kubefed.io", "v1beta1", "Namespaced", true),
            ("federatedclusterroles.types.kubefed.io", "v1beta1", "Cluster", true),
        ] {
            let expected = (name.to_owned(), version.to_owned(), scope.to_owned(), status);
            assert!(table.contains(&expected), "{expected:?} is not in {table:#?}");
        }
        assert_eq!(table.len(), 18);
    }

    #[test]
    fn the_manifests_are_the_same_each_time() {
        assert_eq!(
            serde_json::to_string(&manifests()).unwrap(),
            serde_json::to_string(&manifests()).unwrap()
        );
        assert_eq!(defaults().len(), 12);
    }

    #[test]
    fn fields_that_must_be_given_are_required_and_no_others() {
        let required = |name: &str, path: &str| {
            let crd = crds().into_iter().find(|crd| crd["metadata"]["name"] == name).unwrap();
            crd.pointer(&format!("/spec/versions/0/schema/openAPIV3Schema{path}/required")).cloned()
        };
        let sorted = |value: Option<Value>| {
            let mut names: Vec<String> = serde_json::from_value(value.unwrap_or_else(|| json!([]))).unwrap();
            names.sort();
            names
        };
        assert_eq!(
            sorted(required("kubefedclusters.core.kubefed.io", "/properties/spec")),
            ["apiEndpoint", "secretRef"]
        );
        assert_eq!(sorted(required("kubefedconfigs.core.kubefed.io", "/properties/spec")), ["scope"]);
        assert_eq!(
            sorted(required("federatedtypeconfigs.core.kubefed.io", "/properties/spec")),
            ["federatedType", "propagation", "targetType"]
        );
        assert_eq!(
            sorted(required(
                "federatedtypeconfigs.core.kubefed.io",
                "/properties/spec/properties/targetType"
            )),
            ["kind", "pluralName", "scope", "version"]
        );
        assert_eq!(
            sorted(required("propagatedversions.core.kubefed.io", "/properties/status")),
            ["overridesVersion", "templateVersion"]
        );
        assert_eq!(sorted(required("clusters.cluster.kubesphere.io", "/properties/spec")), [""; 0]);
    }

    /// What kubefedctl writes is read and written again without loss.
    #[test]
    fn objects_of_kubefed_round_trip() {
        let cluster = json!({
            "apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedCluster",
            "metadata": {"name": "c1", "namespace": "kube-federation-system"},
            "spec": {"apiEndpoint": "https://10.0.0.1:6443", "caBundle": "YQ==", "secretRef": {"name": "c1-abc"},
                "disabledTLSValidations": ["SubjectName", "ValidityPeriod"], "proxyURL": "socks5://p:1080"},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": "2022-01-02T03:04:05Z",
                "lastTransitionTime": "2022-01-02T03:04:05Z", "reason": "ClusterReady", "message": "/healthz responded with ok"}],
                "kubernetesVersion": "v1.24.0"}
        });
        let typed: KubeFedCluster = serde_json::from_value(cluster.clone()).unwrap();
        assert!(typed.is_ready());
        assert_eq!(serde_json::to_value(typed).unwrap(), cluster);

        let version = json!({
            "apiVersion": "core.kubefed.io/v1alpha1", "kind": "PropagatedVersion",
            "metadata": {"name": "deployment-web", "namespace": "a"},
            "status": {"templateVersion": "t", "overridesVersion": "o",
                "clusterVersions": [{"clusterName": "c1", "version": "gen:2"}]}
        });
        let typed: PropagatedVersion = serde_json::from_value(version.clone()).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap(), version);

        let preference = json!({
            "apiVersion": "scheduling.kubefed.io/v1alpha1", "kind": "ReplicaSchedulingPreference",
            "metadata": {"name": "web", "namespace": "a"},
            "spec": {"targetKind": "FederatedDeployment", "totalReplicas": 9,
                "clusters": {"*": {"weight": 1}, "c1": {"minReplicas": 1, "maxReplicas": 4, "weight": 2}}},
            "status": {}
        });
        let typed: ReplicaSchedulingPreference = serde_json::from_value(preference.clone()).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap(), preference);
    }
}
