//! `cluster.kubesphere.io/v1alpha1 Cluster`: what a user says about a cluster (`spec/kubesphere-multicluster.md §1`).

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names;
use crate::time::{Base64, ByteString, DateTime, Time};

/// A cluster of the federation: the host, or a member.
///
/// There is no status subresource, as in the original: spec, status and finalizers are written through one endpoint.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cluster.kubesphere.io",
    version = "v1alpha1",
    kind = "Cluster",
    plural = "clusters",
    singular = "cluster",
    status = "ClusterStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn = r#"{"name":"Federated","type":"boolean","jsonPath":".spec.joinFederation"}"#,
    printcolumn = r#"{"name":"Provider","type":"string","jsonPath":".spec.provider"}"#,
    printcolumn = r#"{"name":"Active","type":"boolean","jsonPath":".spec.enable","priority":1}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.kubernetesVersion"}"#,
    printcolumn = r#"{"name":"Nodes","type":"integer","jsonPath":".status.nodeCount","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSpec {
    /// Whether objects are propagated to the cluster.
    pub join_federation: bool,
    /// Descriptive only; no controller reads it.
    pub enable: bool,
    /// Who runs the cluster, for people: ACK, EKS, GKE and the like.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// How the cluster is reached.
    pub connection: Connection,
    /// Whether a tunnelled API server is published through a LoadBalancer Service.
    #[serde(rename = "externalKubeAPIEnabled", skip_serializing_if = "std::ops::Not::not")]
    pub external_kube_api_enabled: bool,
    /// Settings for what is installed on the member, as YAML.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Base64>")]
    pub config: Option<ByteString>,
}

/// How a cluster's API server is reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Connection {
    /// Directly, or through the agent that dials out from the member.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub r#type: Option<ConnectionType>,
    /// The member's gateway. Filled by the tower for a cluster that is connected by agent.
    #[serde(rename = "kubesphereAPIEndpoint", skip_serializing_if = "String::is_empty")]
    pub kubesphere_api_endpoint: String,
    /// The member's API server. Filled from the kubeconfig, or by the tower.
    #[serde(rename = "kubernetesAPIEndpoint", skip_serializing_if = "String::is_empty")]
    pub kubernetes_api_endpoint: String,
    /// Where a tunnelled API server is published.
    #[serde(rename = "externalKubernetesAPIEndpoint", skip_serializing_if = "String::is_empty")]
    pub external_kubernetes_api_endpoint: String,
    /// The kubeconfig of a directly connected cluster. It is moved into a Secret as soon as it is seen.
    #[serde(skip_serializing_if = "is_empty")]
    #[schemars(with = "Option<Base64>")]
    pub kubeconfig: Option<ByteString>,
    /// The token an agent joins with. Made by the tower.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// The port the tower gave to the member's API server.
    #[serde(rename = "kubernetesAPIServerPort", skip_serializing_if = "Option::is_none")]
    pub kubernetes_api_server_port: Option<u16>,
    /// The port the tower gave to the member's gateway.
    #[serde(rename = "kubesphereAPIServerPort", skip_serializing_if = "Option::is_none")]
    pub kubesphere_api_server_port: Option<u16>,
}

fn is_empty(bytes: &Option<ByteString>) -> bool {
    bytes.as_ref().is_none_or(|bytes| bytes.0.is_empty())
}

/// `spec.connection.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionType {
    /// The host dials the member's API server.
    Direct,
    /// An agent in the member dials the host.
    Proxy,
}

/// What the control plane knows about a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// One entry per condition type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ClusterCondition>,
    /// The member's Kubernetes version, as `v1.34.1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kubernetes_version: String,
    /// The version of KubeSphere on the member, if any.
    #[serde(rename = "kubeSphereVersion", skip_serializing_if = "String::is_empty")]
    pub kubesphere_version: String,
    /// How many nodes the member has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_count: Option<i32>,
    /// The zones of the member's nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// The region of the member's nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Which parts of KubeSphere are on, on an older member.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub configz: BTreeMap<String, bool>,
    /// The UID of the member's `kube-system` namespace: the cluster's identity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// One condition of a [`Cluster`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCondition {
    /// See [`condition`].
    #[serde(rename = "type")]
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When the condition was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub last_update_time: Option<Time>,
    /// When `status` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub last_transition_time: Option<Time>,
    /// A word for programs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What happened and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The condition types of a [`Cluster`] (`spec/kubesphere-multicluster.md §1.2`).
pub mod condition {
    /// The control plane has what it needs to begin with the cluster.
    pub const INITIALIZED: &str = "Initialized";
    /// At least one agent is connected.
    pub const AGENT_AVAILABLE: &str = "AgentAvailable";
    /// The cluster is registered for propagation.
    pub const FEDERATED: &str = "Federated";
    /// The tunnelled API server is published.
    pub const EXTERNAL_ACCESS_READY: &str = "ExternalAccessReady";
    /// The cluster answers and is who it was.
    pub const READY: &str = "Ready";
    /// The client certificate of the kubeconfig ends within seven days.
    pub const KUBECONFIG_CERT_EXPIRES: &str = "KubeConfigCertExpiresInSevenDays";
}

impl Cluster {
    /// Whether this object stands for the host itself (`spec/kubesphere-multicluster.md §1.3`: the label's value is empty).
    pub fn is_host(&self) -> bool {
        self.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(names::LABEL_HOST))
    }

    /// Whether the cluster is reached through an agent that dials out from it.
    pub fn is_proxied(&self) -> bool {
        self.spec.connection.r#type == Some(ConnectionType::Proxy)
    }

    /// The condition of the given type, if there is one.
    pub fn condition(&self, r#type: &str) -> Option<&ClusterCondition> {
        self.status.as_ref()?.conditions.iter().find(|condition| condition.r#type == r#type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_kubesphere_round_trips() {
        let given = serde_json::json!({
            "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster", "metadata": {"name": "m1"},
            "spec": {
                "joinFederation": true, "enable": true, "provider": "ACK", "externalKubeAPIEnabled": true,
                "connection": {"type": "proxy", "kubesphereAPIEndpoint": "http://a:1", "kubernetesAPIEndpoint": "https://a:2",
                    "externalKubernetesAPIEndpoint": "https://b:2", "kubeconfig": "YQ==", "token": "t",
                    "kubernetesAPIServerPort": 6443, "kubesphereAPIServerPort": 80},
                "config": "YjogYw=="
            },
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "lastUpdateTime": "2026-01-02T03:04:05Z",
                    "lastTransitionTime": "2026-01-02T03:04:05Z", "reason": "Ready", "message": "m"}],
                "kubernetesVersion": "v1.34.1", "kubeSphereVersion": "v3.4.1", "nodeCount": 3, "zones": ["a"], "region": "r",
                "configz": {"devops": true}, "uid": "u"
            }
        });
        let cluster: Cluster = serde_json::from_value(given.clone()).unwrap();
        assert_eq!(serde_json::to_value(&cluster).unwrap(), given);
        assert!(!cluster.is_host());
        assert_eq!(cluster.condition(condition::READY).unwrap().status, "True");
    }

    #[test]
    fn an_empty_spec_is_accepted() {
        let cluster: Cluster = serde_json::from_str(
            r#"{"metadata":{"name":"m","labels":{"cluster-role.kubesphere.io/host":""}},"spec":{}}"#,
        )
        .unwrap();
        assert!(cluster.is_host());
        assert_eq!(cluster.spec, ClusterSpec::default());
    }
}
