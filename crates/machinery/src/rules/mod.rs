//! What Kubernetes refuses in objects of built-in kinds, with its own messages: the validation of
//! `k8s.io/kubernetes/pkg/apis/*/validation` that users meet, at creation and at change.

mod apps;
mod at;
mod batch;
mod config;
mod container;
mod crd;
mod metadata;
mod network;
mod pod;
mod policy;
mod rbac;
mod service;
mod storage;
mod volume;

use serde_json::Value;

use self::at::{At, Found};
use crate::status::Cause;

/// Everything that is wrong with an object, after its defaults are filled in; with `old`, also what may not change.
/// Kinds that are not built in have no rules here, beyond those of their metadata.
pub fn validate(group: &str, kind: &str, new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let object = At::root(new);
    let old = old.map(At::root);
    let found = &mut Found::default();
    metadata::check(group, kind, &object, old.as_ref(), found);
    let rules: fn(&At<'_>, Option<&At<'_>>, &mut Found) = match (group, kind) {
        ("", "Pod") => pod::pod,
        ("", "PodTemplate") => |o, _, found| pod::template(&o.get("template"), found),
        ("", "ReplicationController") => apps::replication_controller,
        ("", "Service") => service::service,
        ("", "Endpoints") => service::endpoints,
        ("", "ConfigMap") => config::config_map,
        ("", "Secret") => config::secret,
        ("", "Node") => config::node,
        ("", "Event") => config::event,
        ("", "ResourceQuota") => policy::resource_quota,
        ("", "LimitRange") => policy::limit_range,
        ("", "PersistentVolumeClaim") => storage::claim,
        ("", "PersistentVolume") => storage::volume,
        ("apps", "Deployment") => apps::deployment,
        ("apps", "ReplicaSet") => apps::replica_set,
        ("apps", "StatefulSet") => apps::stateful_set,
        ("apps", "DaemonSet") => apps::daemon_set,
        ("apps", "ControllerRevision") => |o, old, found| found.immutable(o, old, &["data"]),
        ("batch", "Job") => batch::job,
        ("batch", "CronJob") => batch::cron_job,
        ("networking.k8s.io", "Ingress") => network::ingress,
        ("networking.k8s.io", "IngressClass") => network::ingress_class,
        ("networking.k8s.io", "NetworkPolicy") => network::policy,
        ("discovery.k8s.io", "EndpointSlice") => service::endpoint_slice,
        ("rbac.authorization.k8s.io", "Role") => rbac::role,
        ("rbac.authorization.k8s.io", "ClusterRole") => rbac::cluster_role,
        ("rbac.authorization.k8s.io", "RoleBinding") => rbac::role_binding,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => rbac::cluster_role_binding,
        ("storage.k8s.io", "StorageClass") => storage::class,
        ("autoscaling", "HorizontalPodAutoscaler") => policy::autoscaler,
        ("policy", "PodDisruptionBudget") => policy::disruption_budget,
        ("scheduling.k8s.io", "PriorityClass") => policy::priority_class,
        ("coordination.k8s.io", "Lease") => policy::lease,
        (
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration",
        ) => policy::webhooks,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::definition,
        _ => |_, _, _| {},
    };
    rules(&object, old.as_ref(), found);
    found.take()
}
