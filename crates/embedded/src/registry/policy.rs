//! What Kubernetes decides per built-in resource: how it may be written, what deletion answers, which fields select.

use hansa_machinery::Status;
use serde_json::Value;

use super::Resource;

/// What happens to dependents when the caller does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// The garbage collector deletes them afterwards.
    Background,
    /// They lose their owner. Kept for the two oldest resources only.
    Orphan,
    /// Nothing depends on objects of this kind.
    Unsupported,
}

/// The resource's default propagation (`DefaultGarbageCollectionPolicy`).
pub(crate) fn default_propagation(storage: &str) -> Propagation {
    match storage {
        "replicationcontrollers" | "jobs.batch" => Propagation::Orphan,
        "events" => Propagation::Unsupported,
        _ => Propagation::Background,
    }
}

/// Whether PUT creates an absent object (`AllowCreateOnUpdate`).
pub(crate) fn creates_on_update(storage: &str) -> bool {
    matches!(
        storage,
        "runtimeclasses.node.k8s.io"
            | "rolebindings.rbac.authorization.k8s.io"
            | "clusterrolebindings.rbac.authorization.k8s.io"
            | "roles.rbac.authorization.k8s.io"
            | "clusterroles.rbac.authorization.k8s.io"
            | "leases.coordination.k8s.io"
            | "limitranges"
            | "events"
            | "services"
            | "endpoints"
    )
}

/// Whether PUT may leave out the resource version (`AllowUnconditionalUpdate`).
pub(crate) fn updates_unconditionally(resource: &Resource) -> bool {
    if resource.custom.is_some() || resource.group == "admissionregistration.k8s.io" {
        return false;
    }
    !matches!(
        &*resource.storage,
        "podcertificaterequests.certificates.k8s.io"
            | "clustertrustbundles.certificates.k8s.io"
            | "runtimeclasses.node.k8s.io"
            | "storageversionmigrations.storagemigration.k8s.io"
            | "poddisruptionbudgets.policy"
            | "csidrivers.storage.k8s.io"
            | "csistoragecapacities.storage.k8s.io"
            | "volumeattachments.storage.k8s.io"
            | "csinodes.storage.k8s.io"
            | "leases.coordination.k8s.io"
            | "customresourcedefinitions.apiextensions.k8s.io"
    )
}

/// Whether an immediate deletion answers with the object rather than a `Status` (`ReturnDeletedObject`).
pub(crate) fn returns_deleted(storage: &str) -> bool {
    matches!(
        storage,
        "csidrivers.storage.k8s.io"
            | "storageclasses.storage.k8s.io"
            | "volumeattachments.storage.k8s.io"
            | "csinodes.storage.k8s.io"
            | "volumeattributesclasses.storage.k8s.io"
            | "resourcequotas"
            | "persistentvolumes"
            | "serviceaccounts"
            | "persistentvolumeclaims"
            | "namespaces"
            | "pods"
            | "services"
            | "podtemplates"
    )
}

/// The fields by which objects of a built-in resource can be selected, besides name and namespace.
pub(crate) fn selectable_fields(storage: &str) -> &'static [&'static str] {
    match storage {
        "pods" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "nodes" => &["spec.unschedulable"],
        "namespaces" => &["status.phase"],
        "secrets" => &["type"],
        "services" => &["spec.clusterIP", "spec.type"],
        "events" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        "replicationcontrollers" | "replicasets.apps" => &["status.replicas"],
        "jobs.batch" => &["status.successful"],
        "certificatesigningrequests.certificates.k8s.io" => &["spec.signerName"],
        "clustertrustbundles.certificates.k8s.io" => &["spec.signerName"],
        _ => &[],
    }
}

/// The value of a selectable field of a built-in object, as text.
pub(crate) fn field_value(storage: &str, object: &Value, field: &str) -> String {
    let text = |value: Option<&Value>| match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let at = |path: &str| object.pointer(&format!("/{}", path.replace('.', "/")));
    match (storage, field) {
        ("nodes", "spec.unschedulable") | ("pods", "spec.hostNetwork") => match at(field) {
            Some(Value::Bool(true)) => "true".into(),
            _ => "false".into(),
        },
        ("events", "source") => {
            let component = text(at("source.component"));
            if component.is_empty() { text(at("reportingComponent")) } else { component }
        }
        ("jobs.batch", "status.successful") => {
            at("status.succeeded").map_or_else(|| "0".into(), Value::to_string)
        }
        (_, "status.replicas") => at(field).map_or_else(|| "0".into(), Value::to_string),
        _ => text(at(field)),
    }
}

/// Kubernetes' answer to a field selector on a field that cannot be selected.
pub(crate) fn unknown_field(resource: &Resource, field: &str) -> Status {
    Status::bad_request(if &*resource.storage == "jobs.batch" {
        format!("field label {field:?} not supported for Job")
    } else if resource.custom.is_some() || !selectable_fields(&resource.storage).is_empty() {
        format!("field label not supported: {field}")
    } else {
        format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    })
}
