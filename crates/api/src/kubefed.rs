//! `core.kubefed.io/v1beta1`: KubeFedCluster, KubeFedConfig, FederatedTypeConfig (`spec/kubefed.md §1.1–1.3`).

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::{Base64, ByteString, DateTime, Duration, GoDuration, Time};

/// A member as propagation sees it: an endpoint and the Secret to reach it with.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "core.kubefed.io",
    version = "v1beta1",
    kind = "KubeFedCluster",
    plural = "kubefedclusters",
    singular = "kubefedcluster",
    shortname = "kfc",
    namespaced,
    status = "KubeFedClusterStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"kubernetes-version","type":"string","jsonPath":".status.kubernetesVersion"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct KubeFedClusterSpec {
    /// The member's API server: a host name, an IP, either with a port, or a URL.
    #[serde(rename = "apiEndpoint")]
    #[schemars(length(min = 1))]
    pub api_endpoint: String,
    /// The certificates that the member's server certificate is checked against, PEM.
    #[serde(rename = "caBundle", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Base64>")]
    pub ca_bundle: Option<ByteString>,
    /// The Secret, in the same namespace, whose `token` the member is reached with.
    pub secret_ref: SecretReference,
    /// Checks to leave out when the member's certificate is verified.
    #[serde(rename = "disabledTLSValidations", default, skip_serializing_if = "Vec::is_empty")]
    pub disabled_tls_validations: Vec<TlsValidation>,
    /// The proxy on the way to the member: `http`, `https` or `socks5`.
    #[serde(rename = "proxyURL", default, skip_serializing_if = "String::is_empty")]
    pub proxy_url: String,
}

/// The name of a Secret in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecretReference {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A check of a server certificate that can be left out; `*` must stand alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsValidation {
    /// No verification at all.
    #[serde(rename = "*")]
    All,
    /// The name in the certificate need not be the one that was dialled.
    SubjectName,
    /// The certificate may be outside its period.
    ValidityPeriod,
}

/// What was observed of a member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeFedClusterStatus {
    /// One entry per condition type: `Ready`, `Offline`, `ConfigMalformed`.
    #[serde(default)]
    pub conditions: Vec<KubeFedClusterCondition>,
    /// The zones of the member's nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// The region of the member's nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The member's Kubernetes version, as `v1.34.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_version: Option<String>,
}

/// One condition of a [`KubeFedCluster`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeFedClusterCondition {
    /// See [`condition`].
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["Ready", "Offline", "ConfigMalformed"]))]
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// When the member was last looked at, as far as it was written down.
    #[schemars(with = "DateTime")]
    pub last_probe_time: Time,
    /// When `status` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub last_transition_time: Option<Time>,
    /// A word for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What happened and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The condition types of a [`KubeFedCluster`].
pub mod condition {
    /// The member answers and says it is well.
    pub const READY: &str = "Ready";
    /// The member does not answer.
    pub const OFFLINE: &str = "Offline";
    /// No client can be made from what the KubeFedCluster and its Secret say.
    pub const CONFIG_MALFORMED: &str = "ConfigMalformed";
}

impl KubeFedCluster {
    /// Ready is: a condition `Ready` with status `True` exists (`spec/kubefed.md §2.2`).
    pub fn is_ready(&self) -> bool {
        self.status.as_ref().is_some_and(|status| {
            status.conditions.iter().any(|c| c.r#type == condition::READY && c.status == "True")
        })
    }
}

/// The settings of the federation; exactly the one named [`crate::names::KUBEFED_CONFIG`] is read.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "core.kubefed.io",
    version = "v1beta1",
    kind = "KubeFedConfig",
    plural = "kubefedconfigs",
    singular = "kubefedconfig",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"Scope","type":"string","jsonPath":".spec.scope"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct KubeFedConfigSpec {
    /// Whether the control plane serves all namespaces or only its own. It cannot be changed.
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "scope is immutable"}]))]
    pub scope: Scope,
    /// Delays of the reaction to clusters that come and go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_duration: Option<ControllerDuration>,
    /// The timing of leader election.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_elect: Option<LeaderElect>,
    /// Features that can be turned on and off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feature_gates: Vec<FeatureGate>,
    /// How the health of members is probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_health_check: Option<ClusterHealthCheck>,
    /// Settings of propagation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_controller: Option<SyncController>,
    /// Settings of status collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_controller: Option<StatusController>,
}

/// The reach of a control plane, or of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// All namespaces; a resource without a namespace.
    #[default]
    Cluster,
    /// The control plane's namespace only; a resource inside namespaces.
    Namespaced,
}

macro_rules! durations {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),+ $(,)? } $($rest:tt)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$field_doc])*
            #[serde(skip_serializing_if = "Option::is_none")]
            #[schemars(with = "Option<GoDuration>")]
            pub $field: Option<Duration>,)+
            $($rest)*
        }
    };
}

durations! {
    /// Delays of the reaction to clusters that come and go.
    ControllerDuration {
        /// Wait before reconciling on a cluster that became ready; 20 s.
        available_delay,
        /// Wait before giving up on a cluster that is no longer ready; 60 s.
        unavailable_delay,
        /// How long a cache may take to fill; 5 min.
        cache_sync_timeout,
    }
}

durations! {
    /// The timing of leader election.
    LeaderElect {
        /// How long a lease holds without being renewed; 15 s.
        lease_duration,
        /// How long the leader tries to renew before it gives up; 10 s.
        renew_deadline,
        /// The pause between two tries; 5 s.
        retry_period,
    }
    /// The kind of object that is the lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_lock: Option<ResourceLock>,
}

durations! {
    /// How the health of members is probed.
    ClusterHealthCheck {
        /// The pause between two probes; 10 s.
        period,
        /// How long a probe may take; 3 s.
        timeout,
    }
    /// Consecutive failed probes after which a ready member is no longer ready; 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub failure_threshold: Option<i64>,
    /// Consecutive good probes after which a member is ready again; 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub success_threshold: Option<i64>,
}

/// The kind of object that is the leader's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResourceLock {
    /// A ConfigMap.
    ConfigMaps,
    /// An Endpoints object.
    Endpoints,
    /// A Lease; KubeFed did not know it.
    Leases,
}

/// One feature and whether it is on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeatureGate {
    /// The feature.
    pub name: String,
    /// Whether it is on.
    pub configuration: Switch,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Switch {
    /// On.
    Enabled,
    /// Off.
    Disabled,
}

/// The features that [`KubeFedConfig`] can turn on and off.
pub mod feature {
    /// The replica scheduler.
    pub const SCHEDULER_PREFERENCES: &str = "SchedulerPreferences";
    /// Propagation.
    pub const PUSH_RECONCILER: &str = "PushReconciler";
    /// Gathering the members' `.status` as it is.
    pub const RAW_RESOURCE_STATUS_COLLECTION: &str = "RawResourceStatusCollection";
}

/// Settings of propagation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SyncController {
    /// How many objects of a type are worked on at once; 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrent_reconciles: Option<i64>,
    /// Whether objects that exist in a member are taken over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopt_resources: Option<Switch>,
}

/// Settings of status collection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusController {
    /// How many objects of a type are worked on at once; 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrent_reconciles: Option<i64>,
}

/// Tells the federation about one type: what is propagated, and the federated type that says where and how.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "core.kubefed.io",
    version = "v1beta1",
    kind = "FederatedTypeConfig",
    plural = "federatedtypeconfigs",
    singular = "federatedtypeconfig",
    shortname = "ftc",
    namespaced,
    status = "FederatedTypeConfigStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct FederatedTypeConfigSpec {
    /// The type that appears in the members.
    pub target_type: ApiResource,
    /// Whether objects of the type are propagated.
    pub propagation: Switch,
    /// The type that carries template, placement and overrides.
    pub federated_type: ApiResource,
    /// The type that carries the gathered status, where that is a type of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_type: Option<ApiResource>,
    /// Whether the members' status is gathered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_collection: Option<Switch>,
}

/// A type of the Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiResource {
    /// The API group; empty for the core group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The version in the group.
    pub version: String,
    /// The kind, as `ConfigMap`.
    pub kind: String,
    /// The plural, as `configmaps`.
    pub plural_name: String,
    /// Whether objects of the type live in namespaces.
    pub scope: ResourceScope,
}

/// Whether objects of a type live in namespaces.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum ResourceScope {
    /// They do not.
    Cluster,
    /// They do.
    #[default]
    Namespaced,
}

impl ApiResource {
    /// `group/version`, or `version` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `plural.group`, or `plural` for the core group: the name of a FederatedTypeConfig for this target.
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() {
            self.plural_name.clone()
        } else {
            format!("{}.{}", self.plural_name, self.group)
        }
    }

    /// Whether objects of the type live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == ResourceScope::Namespaced
    }

    /// The same, as a client takes it.
    pub fn to_kube(&self) -> kube::core::ApiResource {
        kube::core::ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version: self.api_version(),
            kind: self.kind.clone(),
            plural: self.plural_name.clone(),
        }
    }
}

/// What became of a [`FederatedTypeConfig`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FederatedTypeConfigStatus {
    /// The generation this status speaks of.
    #[schemars(range(min = 0))]
    pub observed_generation: i64,
    /// Whether objects of the type are being propagated.
    pub propagation_controller: ControllerStatus,
    /// Whether status is being gathered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_controller: Option<ControllerStatus>,
}

/// Whether a controller runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ControllerStatus {
    /// It runs.
    Running,
    /// It does not.
    NotRunning,
}
