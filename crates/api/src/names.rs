//! Well-known names: namespaces, labels, annotations, finalizers, groups.

/// The namespace of the control plane's own objects, on the host and on each member.
pub const SYSTEM_NAMESPACE: &str = "kube-federation-system";
/// The one `KubeFedConfig` that is read (`spec/kubefed.md §1.2`).
pub const KUBEFED_CONFIG: &str = "kubefed";

/// Marks the objects that the federation manages in a member; `"false"` forbids adoption (`spec/kubefed.md §1.7`).
pub const LABEL_MANAGED: &str = "kubefed.io/managed";
/// The value of [`LABEL_MANAGED`] on a managed object.
pub const MANAGED_TRUE: &str = "true";
/// The value of [`LABEL_MANAGED`] by which a user forbids adoption.
pub const MANAGED_FALSE: &str = "false";
/// On a federated object: leave the members' copies alone when it is deleted (`spec/kubefed.md §2.7`).
pub const ANNOTATION_ORPHAN: &str = "kubefed.io/orphan";
/// On a federated object: the `DeleteOptions`, as JSON, used in the members (`spec/kubefed.md §2.7`).
pub const ANNOTATION_DELETE_OPTION: &str = "kubefed.io/deleteoption";
/// On a federated object: `"true"` has a copy deleted and made anew where a member refuses a change because a field of it is
/// immutable. KubeFed had no such thing.
pub const ANNOTATION_RECREATE: &str = "kubefed.io/recreate";
/// The finalizer of federated objects.
pub const FINALIZER_SYNC: &str = "kubefed.io/sync-controller";
/// The finalizer of FederatedTypeConfigs.
pub const FINALIZER_TYPE_CONFIG: &str = "core.kubefed.io/federated-type-config";

/// Marks the host's own `Cluster` object; its value is empty (`spec/kubesphere-multicluster.md §1.3`).
pub const LABEL_HOST: &str = "cluster-role.kubesphere.io/host";
/// Marks objects that the control plane made by itself.
pub const LABEL_KUBESPHERE_MANAGED: &str = "kubesphere.io/managed";
/// The finalizer of `Cluster` objects.
pub const FINALIZER_CLUSTER: &str = "finalizer.cluster.kubesphere.io";
/// The name of the host's `Cluster` object unless configured otherwise.
pub const HOST_CLUSTER: &str = "host";
/// The region a cluster is in.
pub const LABEL_REGION: &str = "cluster.kubesphere.io/region";
/// The group a cluster is counted to: `production`, `development`, `testing`, `demo` or any other.
pub const LABEL_GROUP: &str = "cluster.kubesphere.io/group";
/// `public` lets every tenant see the cluster.
pub const LABEL_VISIBILITY: &str = "cluster.kubesphere.io/visibility";
/// The prefix of the labels that mirror `Label` objects (cluster tags).
pub const LABEL_TAG_PREFIX: &str = "label.cluster.kubesphere.io/";
/// Touch it to have a cluster looked at again at once.
pub const ANNOTATION_SYNC_AT: &str = "kubesphere.io/syncAt";
/// A name for people.
pub const ANNOTATION_ALIAS: &str = "kubesphere.io/alias-name";
/// A description for people.
pub const ANNOTATION_DESCRIPTION: &str = "kubesphere.io/description";
/// Who made the object.
pub const ANNOTATION_CREATOR: &str = "kubesphere.io/creator";

/// On a KubeFedCluster: the name its server certificate is checked for, where it is not the host of its endpoint.
pub const ANNOTATION_TLS_SERVER_NAME: &str = "cluster.kubesphere.io/tls-server-name";

/// On a KubeFedCluster: the identity of the cluster that joined, the UID of its `kube-system` namespace. Another cluster that answers in its place is not
/// taken for it.
pub const ANNOTATION_UID: &str = "cluster.kubesphere.io/uid";

/// The group of the control plane's administrators. It is bound to `cluster-admin` on the host, on sandbox members and on joined
/// members, so that no request needs to impersonate `system:masters`.
pub const ADMINS_GROUP: &str = "hansa:admins";
/// The ClusterRoleBinding that gives [`ADMINS_GROUP`] its rights.
pub const ADMINS_BINDING: &str = "hansa:admins";
/// The field manager of propagation.
pub const FIELD_MANAGER_FEDERATION: &str = "kubefed";
/// The field manager of everything else the control plane writes.
pub const FIELD_MANAGER: &str = "hansa";

/// The ServiceAccount (and token Secret) of the control plane on a member (`spec/kubesphere-multicluster.md §1.6`).
pub fn service_account(cluster: &str) -> String {
    format!("{cluster}-kubesphere")
}

/// The ClusterRole and ClusterRoleBinding of [`service_account`] (`spec/kubefed.md §3`).
pub fn cluster_role(cluster: &str) -> String {
    format!("kubefed-controller-manager:{}", service_account(cluster))
}

/// The Secret on the host that holds the token a member is reached with (`spec/kubesphere-multicluster.md §1.6`).
pub fn token_secret(cluster: &str) -> String {
    format!("{cluster}-secret")
}

/// The Secret on the host that a `Cluster`'s kubeconfig is moved into.
pub fn kubeconfig_secret(cluster: &str) -> String {
    format!("{cluster}-kubeconfig")
}

/// The Secret on the host with the join record of a cluster that is connected by agent.
pub fn agent_record(cluster: &str) -> String {
    format!("{cluster}-agent")
}

/// The type of [`agent_record`].
pub const AGENT_RECORD_TYPE: &str = "hansa.io/agent";

/// The ConfigMap on the host that says where the tower is.
pub const TOWER: &str = "hansa-tower";
/// On the Lease of a tower replica: its id.
pub const LABEL_TOWER_REPLICA: &str = "tower.kubesphere.io/replica";
/// On the Lease of a tower replica: how many sessions it has with the agents of each cluster, as JSON.
pub const ANNOTATION_TOWER_AGENTS: &str = "tower.kubesphere.io/agents";

/// The ServiceAccount (and token Secret) on the host by which its own components reach a cluster through the tower.
pub fn tunnel_account(cluster: &str) -> String {
    format!("{cluster}-tunnel")
}

/// The ClusterRole and ClusterRoleBinding of [`tunnel_account`].
pub fn tunnel_role(cluster: &str) -> String {
    format!("hansa:tunnel:{cluster}")
}

/// The namespace of the agent on a member.
pub const AGENT_NAMESPACE: &str = "hansa-agent";
/// The agent's Deployment and ServiceAccount.
pub const AGENT: &str = "hansa-agent";
/// The ClusterRoleBinding of the agent on a member, and its ClusterRole unless it was given another.
pub const AGENT_ROLE: &str = "hansa:agent";
/// The ClusterRoleBinding of [`ADMINS_GROUP`] that comes with the agent. It is not [`ADMINS_BINDING`], which somebody else may have made, and goes with
/// the agent.
pub const AGENT_ADMINS_BINDING: &str = "hansa:agent:admins";
/// The Secret on a member with what the agent joins with.
pub const AGENT_JOIN: &str = "agent-join";
/// The Secret on a member in which the agent keeps the key and the certificate it is let in with.
pub const AGENT_CREDENTIAL: &str = "agent-credential";
/// On the agent's Pods: the digest of the token they join with.
pub const ANNOTATION_JOIN_TOKEN: &str = "hansa.io/join-token";
