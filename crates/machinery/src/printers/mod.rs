//! The columns and cells of built-in kinds, as `kubectl get` shows them (Kubernetes `pkg/printers/internalversion`).
//!
//! Kinds that are not here have no columns of their own in Kubernetes either: [`Printer::minimal`].

mod admission;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod config;
mod events;
mod extensions;
mod flowcontrol;
mod networking;
mod nodes;
mod pods;
mod rbac;
mod services;
mod storage;

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    duration,
    quantity::Quantity,
    selector::LabelSelector,
    table::{self, Column, ListRows, OBJECT_META, Printer, RowOf},
};

/// How a built-in kind is printed; [`None`] if it has no columns of its own.
pub fn table(group: &str, kind: &str) -> Option<Printer> {
    let sheet = match group {
        "" => match kind {
            "Pod" => &pods::POD,
            "PodTemplate" => &apps::POD_TEMPLATE,
            "ReplicationController" => &apps::REPLICATION_CONTROLLER,
            "Service" => &services::SERVICE,
            "Endpoints" => &services::ENDPOINTS,
            "ConfigMap" => &config::CONFIG_MAP,
            "Secret" => &config::SECRET,
            "ServiceAccount" => &config::SERVICE_ACCOUNT,
            "Namespace" => &config::NAMESPACE,
            "ResourceQuota" => &config::RESOURCE_QUOTA,
            "Node" => &nodes::NODE,
            "ComponentStatus" => &nodes::COMPONENT_STATUS,
            "Event" => &events::EVENT,
            "PersistentVolume" => &storage::PERSISTENT_VOLUME,
            "PersistentVolumeClaim" => &storage::PERSISTENT_VOLUME_CLAIM,
            _ => return None,
        },
        "events.k8s.io" => match kind {
            "Event" => &events::EVENT,
            _ => return None,
        },
        "apps" => match kind {
            "Deployment" => &apps::DEPLOYMENT,
            "ReplicaSet" => &apps::REPLICA_SET,
            "StatefulSet" => &apps::STATEFUL_SET,
            "DaemonSet" => &apps::DAEMON_SET,
            "ControllerRevision" => &apps::CONTROLLER_REVISION,
            _ => return None,
        },
        "batch" => match kind {
            "Job" => &batch::JOB,
            "CronJob" => &batch::CRON_JOB,
            _ => return None,
        },
        "autoscaling" => match kind {
            "HorizontalPodAutoscaler" => &autoscaling::HORIZONTAL_POD_AUTOSCALER,
            "Scale" => &autoscaling::SCALE,
            _ => return None,
        },
        "policy" => match kind {
            "PodDisruptionBudget" => &autoscaling::POD_DISRUPTION_BUDGET,
            _ => return None,
        },
        "networking.k8s.io" => match kind {
            "Ingress" => &networking::INGRESS,
            "IngressClass" => &networking::INGRESS_CLASS,
            "NetworkPolicy" => &networking::NETWORK_POLICY,
            "ServiceCIDR" => &networking::SERVICE_CIDR,
            "IPAddress" => &networking::IP_ADDRESS,
            _ => return None,
        },
        "discovery.k8s.io" => match kind {
            "EndpointSlice" => &services::ENDPOINT_SLICE,
            _ => return None,
        },
        "storage.k8s.io" => match kind {
            "StorageClass" => &storage::STORAGE_CLASS,
            "VolumeAttributesClass" => &storage::VOLUME_ATTRIBUTES_CLASS,
            "VolumeAttachment" => &storage::VOLUME_ATTACHMENT,
            "CSINode" => &storage::CSI_NODE,
            "CSIDriver" => &storage::CSI_DRIVER,
            _ => return None,
        },
        "rbac.authorization.k8s.io" => match kind {
            "RoleBinding" => &rbac::ROLE_BINDING,
            "ClusterRoleBinding" => &rbac::CLUSTER_ROLE_BINDING,
            _ => return None,
        },
        "admissionregistration.k8s.io" => match kind {
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => &admission::WEBHOOKS,
            "ValidatingAdmissionPolicy" => &admission::VALIDATING_POLICY,
            "MutatingAdmissionPolicy" => &admission::MUTATING_POLICY,
            "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
                &admission::POLICY_BINDING
            }
            _ => return None,
        },
        "certificates.k8s.io" => match kind {
            "CertificateSigningRequest" => &certificates::CERTIFICATE_SIGNING_REQUEST,
            "ClusterTrustBundle" => &certificates::CLUSTER_TRUST_BUNDLE,
            "PodCertificateRequest" => &certificates::POD_CERTIFICATE_REQUEST,
            _ => return None,
        },
        "apiextensions.k8s.io" => match kind {
            "CustomResourceDefinition" => &extensions::CUSTOM_RESOURCE_DEFINITION,
            _ => return None,
        },
        "coordination.k8s.io" => match kind {
            "Lease" => &nodes::LEASE,
            _ => return None,
        },
        "scheduling.k8s.io" => match kind {
            "PriorityClass" => &nodes::PRIORITY_CLASS,
            _ => return None,
        },
        "node.k8s.io" => match kind {
            "RuntimeClass" => &nodes::RUNTIME_CLASS,
            _ => return None,
        },
        "flowcontrol.apiserver.k8s.io" => match kind {
            "FlowSchema" => &flowcontrol::FLOW_SCHEMA,
            "PriorityLevelConfiguration" => &flowcontrol::PRIORITY_LEVEL,
            _ => return None,
        },
        "storagemigration.k8s.io" => match kind {
            "StorageVersionMigration" => &storage::STORAGE_VERSION_MIGRATION,
            _ => return None,
        },
        _ => return None,
    };
    Some(sheet.printer())
}

/// The printer of a kind as it is written down.
struct Sheet {
    columns: &'static [Heading],
    row: RowOf,
    list: Option<ListRows>,
}

impl Sheet {
    const fn new(columns: &'static [Heading], row: RowOf) -> Self {
        Self { columns, row, list: None }
    }

    fn printer(&self) -> Printer {
        Printer::built_in(self.columns.iter().map(Heading::column).collect(), self.row, self.list)
    }
}

/// A column as it is written down: its description is a text or that of a field in Kubernetes' schemas.
struct Heading {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    about: About,
    priority: i64,
}

enum About {
    Text(&'static str),
    Field(&'static str, &'static str),
}

impl Heading {
    /// A column with a description of its own.
    const fn new(name: &'static str, about: &'static str) -> Self {
        Self { name, kind: "string", format: "", about: About::Text(about), priority: 0 }
    }

    /// A column described as the field of a type below `io.k8s.api.`; without a field, as the type itself.
    const fn of(name: &'static str, schema: &'static str, field: &'static str) -> Self {
        Self { name, kind: "string", format: "", about: About::Field(schema, field), priority: 0 }
    }

    const fn integer(self) -> Self {
        Self { kind: "integer", ..self }
    }

    const fn boolean(self) -> Self {
        Self { kind: "boolean", ..self }
    }

    const fn date(self) -> Self {
        Self { kind: "date", ..self }
    }

    const fn format(self, format: &'static str) -> Self {
        Self { format, ..self }
    }

    const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }

    fn column(&self) -> Column {
        let description = match self.about {
            About::Text(text) => text.to_owned(),
            About::Field(OBJECT_META, field) => table::description(OBJECT_META, field),
            About::Field(schema, field) => table::description(&format!("io.k8s.api.{schema}"), field),
        };
        Column {
            name: self.name.into(),
            kind: self.kind.into(),
            format: self.format.into(),
            description,
            priority: self.priority,
        }
    }
}

const NAME: Heading = Heading::of("Name", OBJECT_META, "name").format("name");
const AGE: Heading = Heading::of("Age", OBJECT_META, "creationTimestamp");
const CONTAINERS: Heading = Heading::new("Containers", "Names of each container in the template.");
const IMAGES: Heading = Heading::new("Images", "Images referenced by each container in the template.");

/// The text at a JSON pointer, or none.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a JSON pointer, or a stand-in for none.
fn text_or<'a>(object: &'a Value, pointer: &str, none: &'a str) -> &'a str {
    non_empty(text(object, pointer), none)
}

fn non_empty<'a>(text: &'a str, none: &'a str) -> &'a str {
    if text.is_empty() { none } else { text }
}

/// The number at a JSON pointer, or 0.
fn int(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The flag at a JSON pointer, if it is set.
fn flag(object: &Value, pointer: &str) -> Option<bool> {
    object.pointer(pointer).and_then(Value::as_bool)
}

/// The list at a JSON pointer, or an empty one.
fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// How many entries the list or map at a JSON pointer has.
fn count(object: &Value, pointer: &str) -> i64 {
    let length = match object.pointer(pointer) {
        Some(Value::Array(items)) => items.len(),
        Some(Value::Object(fields)) => fields.len(),
        _ => 0,
    };
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Whether something stands at a JSON pointer.
fn has(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).is_some_and(|value| !value.is_null())
}

/// The cell of the `Age` column.
fn age(object: &Value, now: Timestamp) -> Value {
    since(text(object, "/metadata/creationTimestamp"), now).into()
}

fn since(time: &str, now: Timestamp) -> String {
    duration::age(time, now)
}

/// A quantity in canonical form; an absent one is zero, as in Go.
fn quantity(value: Option<&Value>) -> String {
    let Some(value) = value else { return "0".into() };
    Quantity::from_value(value)
        .map_or_else(|_| value.as_str().unwrap_or("0").into(), |quantity| quantity.to_string())
}

/// A number or a text (`intstr.IntOrString`), or a stand-in for none.
fn int_or_text(value: Option<&Value>, none: &str) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => none.into(),
    }
}

/// The status of the condition `kind`, or none.
fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = list(object, "/status/conditions");
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .map_or("", |condition| text(condition, "/status"))
}

/// A map as `a=b,c=d`, or `<none>`.
fn labels(map: &Value) -> String {
    let mut pairs: Vec<_> = map.as_object().into_iter().flatten().collect();
    pairs.sort_by_key(|(key, _)| *key);
    let mut out = String::new();
    for (key, value) in pairs {
        let comma = if out.is_empty() { "" } else { "," };
        let _ = write!(out, "{comma}{key}={}", value.as_str().unwrap_or_default());
    }
    non_empty(&out, "<none>").to_owned()
}

/// A label selector object in the query form, or `<none>`.
fn selector(selector: &Value) -> String {
    let selector = LabelSelector::from_value(selector).map_or_else(|_| "<error>".into(), |s| s.to_string());
    non_empty(&selector, "<none>").to_owned()
}

/// The names and images of containers.
fn containers(pod_spec: Option<&Value>) -> [Value; 2] {
    let containers = pod_spec.map_or(&[][..], |spec| list(spec, "/containers"));
    ["/name", "/image"]
        .map(|field| join(containers.iter().map(|container| text(container, field)), ",").into())
}

fn join<'a>(parts: impl Iterator<Item = &'a str>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}

/// The first three of a list and how many more there are, or `<unset>`.
fn abridged<'a>(items: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 3;
    let items: Vec<&str> = items.collect();
    match items.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{} + {more} more...", items[..SHOWN].join(",")),
        _ => non_empty(&items.join(","), "<unset>").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::KUBERNETES;

    #[test]
    fn every_row_has_a_cell_for_each_column_even_of_an_empty_object() {
        for group in &KUBERNETES.groups {
            for resource in &group.resources {
                let Some(printer) = table(&group.group, &resource.kind) else { continue };
                let object = serde_json::json!({"metadata": {"name": "x"}});
                let row = printer.rows(&[&object], true, Timestamp::UNIX_EPOCH).remove(0);
                // An IPAddress has one more in Kubernetes, too.
                let extra = usize::from(resource.kind == "IPAddress");
                assert_eq!(row.cells.len(), printer.columns.len() + extra, "{}", resource.kind);
                for column in &printer.columns {
                    assert!(
                        !column.description.is_empty() || UNDESCRIBED.contains(&column.name.as_str()),
                        "{} {}",
                        resource.kind,
                        column.name
                    );
                }
            }
        }
    }

    /// Kubernetes looks this one up where it is not.
    const UNDESCRIBED: &[&str] = &["Handler"];
}
