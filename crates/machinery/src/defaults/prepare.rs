//! What the registry strategies of Kubernetes do to an object before it is validated: generations, status, and the
//! fields a user does not decide (`k8s.io/kubernetes/pkg/registry/*/strategy.go`).

use serde_json::{Map, Value, json};

use super::{Fields, Object, is_zero, walk};
use crate::{kubernetes::KUBERNETES, structural};

/// How much of an object counts as what the user asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Generation {
    /// It has no generation.
    None,
    /// 1 at creation, and never more.
    One,
    /// Raised when this field changes.
    Field(&'static str),
    /// Raised when the specification or an annotation changes.
    SpecOrAnnotations,
    /// Raised when anything but the metadata and the status changes, or a label.
    Everything,
}

fn generation(group: &str, kind: &str) -> Generation {
    match (group, kind) {
        ("apps", "Deployment") => Generation::SpecOrAnnotations,
        ("apps", "DaemonSet" | "ReplicaSet" | "StatefulSet")
        | ("batch", "Job" | "CronJob")
        | ("", "ReplicationController" | "Pod")
        | ("networking.k8s.io", "Ingress" | "IngressClass" | "NetworkPolicy")
        | ("policy", "PodDisruptionBudget")
        | ("autoscaling", "HorizontalPodAutoscaler")
        | ("flowcontrol.apiserver.k8s.io", _)
        | ("apiextensions.k8s.io", "CustomResourceDefinition") => Generation::Field("spec"),
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => Generation::Field("webhooks"),
        ("admissionregistration.k8s.io", _) => Generation::Field("spec"),
        ("", "PodTemplate") => Generation::Field("template"),
        ("discovery.k8s.io", "EndpointSlice") => Generation::Everything,
        ("scheduling.k8s.io", "PriorityClass") => Generation::One,
        _ => Generation::None,
    }
}

/// Whether users cannot set the status of a new object, and only the status subresource changes it.
fn owns_status(group: &str, kind: &str) -> bool {
    // A kubelet creates its Node with a status, and an Event has none.
    (group, kind) != ("", "Node")
        && KUBERNETES.schema(group, kind).is_some_and(|schema| schema.property("status").is_some())
}

/// Prepares a new object of a built-in kind, after its defaults and its name and UID are there.
pub fn prepare_create(group: &str, kind: &str, object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    if generation(group, kind) == Generation::None {
        map.object("metadata").remove("generation");
    } else {
        map.object("metadata").insert("generation".into(), 1.into());
    }
    if owns_status(group, kind) {
        reset_status(group, kind, map);
    }
    match (group, kind) {
        ("", "Namespace") => {
            map.object("status").insert("phase".into(), "Active".into());
            let finalizers = map.object("spec").entry("finalizers").or_insert_with(|| json!([]));
            if let Some(list) = finalizers.as_array_mut().filter(|list| !list.contains(&json!("kubernetes")))
            {
                list.push("kubernetes".into());
            }
            name_label(map);
        }
        ("", "Pod") => {
            admit_pod(map.object("spec"));
            let qos = quality_of_service(map);
            let status = map.object("status");
            status.insert("phase".into(), "Pending".into());
            status.insert("qosClass".into(), qos.into());
            if !is_zero(map.object("spec").get("schedulingGates")) {
                let gated = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates", "lastProbeTime": null}]);
                map.object("status").insert("conditions".into(), gated);
            }
        }
        ("", "Secret") => fold_string_data(map),
        ("", "PersistentVolumeClaim") => mirror_data_source(map),
        ("batch", "Job") => generate_selector(map),
        ("apps", "DaemonSet") => set_template_generation(map, 1),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            if let Some(stored) = storage_version(map) {
                let status = map.object("status");
                status.insert("storedVersions".into(), json!([stored]));
            }
        }
        _ => {}
    }
}

/// Prepares a changed object of a built-in kind, or of one of its subresources (`status`; empty for the object itself).
pub fn prepare_update(group: &str, kind: &str, subresource: &str, object: &mut Value, old: &Value) {
    let (Some(map), Some(old)) = (object.as_object_mut(), old.as_object()) else { return };
    match subresource {
        "" => {}
        "status" => return keep_all_but_status(group, kind, map, old),
        _ => return,
    }
    if KUBERNETES.schema(group, kind).is_some_and(|schema| schema.property("status").is_some()) {
        keep(map, old, "status");
    }
    match (group, kind) {
        ("", "Namespace") => {
            let finalizers = old.get("spec").and_then(|spec| spec.get("finalizers")).cloned();
            match finalizers {
                Some(finalizers) => map.object("spec").insert("finalizers".into(), finalizers),
                None => map.object("spec").remove("finalizers"),
            };
            name_label(map);
        }
        ("", "Secret") => {
            fold_string_data(map);
            let kind = old.text("type").to_owned();
            map.zero("type", kind);
        }
        ("", "Service") => drop_fields_of_old_type(map, old),
        ("", "PersistentVolumeClaim") => mirror_data_source(map),
        ("", "Pod") => tolerate_trouble_for_a_while(map.object("spec")),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            if let Some(stored) = storage_version(map) {
                let versions = map.object("status").entry("storedVersions").or_insert_with(|| json!([]));
                if let Some(list) = versions.as_array_mut().filter(|list| !list.iter().any(|v| *v == *stored))
                {
                    list.push(stored.into());
                }
            }
        }
        ("apps", "DaemonSet") => {
            let template = |o: &Object| o.get("spec").and_then(|spec| spec.get("template")).cloned();
            let annotation = old
                .get("metadata")
                .and_then(|m| m.get("annotations"))
                .and_then(|a| a.get(TEMPLATE_GENERATION));
            let last =
                annotation.and_then(Value::as_str).and_then(|text| text.parse::<i64>().ok()).unwrap_or(1);
            set_template_generation(map, last + i64::from(template(map) != template(old)));
        }
        _ => {}
    }
    let changed = |key: &str| map.get(key) != old.get(key);
    let metadata_changed = |key: &str| {
        let of =
            |o: &Object| o.get("metadata").and_then(|m| m.get(key)).filter(|v| !is_zero(Some(v))).cloned();
        of(map) != of(old)
    };
    let raised = match generation(group, kind) {
        Generation::None | Generation::One => false,
        Generation::Field(key) => changed(key),
        Generation::SpecOrAnnotations => changed("spec") || metadata_changed("annotations"),
        Generation::Everything => {
            map.keys().chain(old.keys()).any(|key| key != "metadata" && changed(key))
                || metadata_changed("labels")
        }
    };
    set_generation(map, old, raised);
}

/// How a DaemonSet's template generation is written in `apps/v1`.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn set_template_generation(map: &mut Object, generation: i64) {
    let annotations = map.object("metadata").object("annotations");
    annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
}

/// Prepares a new custom object.
pub fn prepare_custom_create(has_status_subresource: bool, object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    if has_status_subresource {
        map.remove("status");
    }
    map.object("metadata").insert("generation".into(), 1.into());
}

/// Prepares a changed custom object, or a change of its status.
pub fn prepare_custom_update(has_status_subresource: bool, of_status: bool, object: &mut Value, old: &Value) {
    let (Some(map), Some(old)) = (object.as_object_mut(), old.as_object()) else { return };
    if of_status {
        let managed = map.object("metadata").remove("managedFields");
        let status = map.remove("status");
        map.clone_from(old);
        restore(map, "status", status);
        restore(map.object("metadata"), "managedFields", managed);
        return;
    }
    if has_status_subresource {
        keep(map, old, "status");
    }
    let raised = map.keys().chain(old.keys()).any(|key| key != "metadata" && map.get(key) != old.get(key));
    set_generation(map, old, raised);
}

fn restore(map: &mut Object, key: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.remove(key),
    };
}

fn keep(map: &mut Object, old: &Object, key: &str) {
    restore(map, key, old.get(key).cloned());
}

/// The old generation, one more if it is `raised`.
fn set_generation(map: &mut Object, old: &Object, raised: bool) {
    let generation = old.get("metadata").and_then(|m| m.get("generation")).and_then(Value::as_i64);
    let next = generation.map(|generation| generation + i64::from(raised)).or(raised.then_some(1));
    restore(map.object("metadata"), "generation", next.map(Value::from));
}

fn keep_all_but_status(group: &str, kind: &str, map: &mut Object, old: &Object) {
    for key in map.keys().chain(old.keys()).cloned().collect::<Vec<_>>() {
        if !matches!(key.as_str(), "status" | "metadata" | "apiVersion" | "kind") {
            keep(map, old, &key);
        }
    }
    let metadata = old.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    keep(map.object("metadata"), &metadata, "generation");
    match (group, kind) {
        ("", "Pod") => {
            keep(map.object("metadata"), &metadata, "ownerReferences");
            let qos = old.get("status").and_then(|s| s.get("qosClass")).cloned();
            if let Some(qos) = qos {
                map.object("status").zero("qosClass", qos);
            }
        }
        ("apps", "Deployment") => keep(map.object("metadata"), &metadata, "labels"),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            let managed = map.object("metadata").remove("managedFields");
            map.insert("metadata".into(), metadata.into());
            restore(map.object("metadata"), "managedFields", managed);
        }
        _ => {}
    }
}

/// The empty status, as Go writes it.
fn reset_status(group: &str, kind: &str, map: &mut Object) {
    map.remove("status");
    let Some(schema) = KUBERNETES.schema(group, kind).and_then(|schema| schema.property("status")) else {
        return;
    };
    let Some(mut status) = schema.field().default.clone() else { return };
    walk(&schema, &mut status, 0);
    structural::normalize(&schema, &mut status);
    map.insert("status".into(), status);
}

fn storage_version(map: &mut Object) -> Option<String> {
    let mut versions = map.object("spec").each("versions");
    versions.find(|v| v.get("storage") == Some(&Value::Bool(true))).map(|v| v.text("name").to_owned())
}

fn name_label(map: &mut Object) {
    let metadata = map.object("metadata");
    let name = metadata.text("name").to_owned();
    metadata.object("labels").insert("kubernetes.io/metadata.name".into(), name.into());
}

/// `stringData` is a way to write `data`; it is never stored.
fn fold_string_data(map: &mut Object) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let Some(Value::Object(text)) = map.remove("stringData") else { return };
    let data = map.object("data");
    for (key, value) in text {
        data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
    }
    if data.is_empty() {
        map.remove("data");
    }
}

/// `dataSource` and `dataSourceRef` say the same, if they can.
fn mirror_data_source(map: &mut Object) {
    let spec = map.object("spec");
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => spec.insert("dataSourceRef".into(), source),
        (None, Some(source)) if is_zero(source.get("namespace")) => spec.insert("dataSource".into(), source),
        _ => None,
    };
}

/// A Job selects its Pods by its UID, unless its user says how.
fn generate_selector(map: &mut Object) {
    if map.object("spec").get("manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let metadata = map.object("metadata");
    let (name, uid) = (metadata.text("name").to_owned(), metadata.text("uid").to_owned());
    let spec = map.object("spec");
    let labels = spec.object("template").object("metadata").object("labels");
    let given = labels.clone();
    for key in ["job-name", "batch.kubernetes.io/job-name"] {
        labels.absent(key, name.clone());
    }
    for key in ["controller-uid", "batch.kubernetes.io/controller-uid"] {
        labels.absent(key, uid.clone());
    }
    let labels = labels.clone();
    spec.object("selector").object("matchLabels").absent("batch.kubernetes.io/controller-uid", uid);
    // A Job without labels of its own has those of its template, the generated ones too.
    let own = map.object("metadata").object("labels");
    if *own == given || own.is_empty() {
        *own = labels;
    }
}

/// Fields that belong to the type a Service no longer has and that its user did not change.
fn drop_fields_of_old_type(map: &mut Object, old: &Object) {
    let empty = Map::new();
    let was = old.get("spec").and_then(Value::as_object).unwrap_or(&empty);
    let (old_type, spec) = (was.text("type"), map.object("spec"));
    let new_type = spec.text("type").to_owned();
    let has_port = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let mut drop = |needed: bool, keys: &[&str]| {
        for key in keys.iter().filter(|_| !needed) {
            if spec.get(*key) == was.get(*key) {
                spec.remove(*key);
            }
        }
    };
    drop(
        old_type == "ExternalName" || new_type != "ExternalName",
        &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"],
    );
    let is_balancer = new_type == "LoadBalancer" || old_type != "LoadBalancer";
    drop(is_balancer, &["healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    let external = has_port(&new_type) || !is_zero(was.get("externalIPs"));
    drop(external || !has_port(old_type), &["externalTrafficPolicy"]);
    if has_port(old_type) && !has_port(&new_type) {
        let ports: Vec<Value> = was.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
        let same = |port: &Object| {
            ports.iter().any(|p| p["nodePort"] == *port.get("nodePort").unwrap_or(&Value::Null))
        };
        if spec.each("ports").all(|port| same(port)) {
            spec.each("ports").for_each(|port| {
                port.remove("nodePort");
            });
        }
    }
    if new_type != "LoadBalancer" {
        map.object("status").insert("loadBalancer".into(), json!({}));
    }
}

/// What the admission plugins `Priority` and `DefaultTolerationSeconds`, always on, add to a Pod. The priority of a class
/// of the user's own is in that class.
fn admit_pod(spec: &mut Object) {
    match spec.text("priorityClassName") {
        "" => spec.absent("priority", 0),
        "system-cluster-critical" => spec.absent("priority", 2_000_000_000),
        "system-node-critical" => spec.absent("priority", 2_000_001_000),
        _ => {}
    }
    spec.absent("preemptionPolicy", "PreemptLowerPriority");
    tolerate_trouble_for_a_while(spec);
}

/// A Pod stays for five minutes on a node in trouble, unless it says otherwise.
fn tolerate_trouble_for_a_while(spec: &mut Object) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerates = |t: &Object| {
            matches!(t.text("key"), "") && t.text("operator") == "Exists" || t.text("key") == key
        };
        let effect = |t: &Object| matches!(t.text("effect"), "" | "NoExecute");
        if !spec.each("tolerations").any(|t| tolerates(t) && effect(t)) {
            let list = spec.entry("tolerations").or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                let seconds = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
                list.push(seconds);
            }
        }
    }
}

/// `Guaranteed` when every container's requests equal its limits for CPU and memory, `BestEffort` when none asks for
/// either, else `Burstable`.
fn quality_of_service(map: &mut Object) -> &'static str {
    let spec = map.object("spec");
    let mut classes = Vec::new();
    let class_of = |resources: Option<&Value>| {
        let of = |list: &str| -> Vec<(&'static str, Value)> {
            let list = resources.and_then(|r| r.get(list));
            let quantity = |name: &'static str| Some((name, list?.get(name)?.clone()));
            ["cpu", "memory"].into_iter().filter_map(quantity).filter(|(_, q)| q != "0").collect()
        };
        match (of("requests"), of("limits")) {
            (requests, limits) if requests.is_empty() && limits.is_empty() => "BestEffort",
            (requests, limits) if limits.len() == 2 && (requests == limits || requests.is_empty()) => {
                "Guaranteed"
            }
            _ => "Burstable",
        }
    };
    if let Some(resources) = spec.get("resources").filter(|r| !is_zero(Some(r))) {
        return class_of(Some(resources));
    }
    for list in ["initContainers", "containers"] {
        classes.extend(spec.each(list).map(|container| class_of(container.get("resources"))));
    }
    match classes.split_first() {
        None => "BestEffort",
        Some((first, rest)) if rest.iter().all(|class| class == first) => first,
        Some(_) => "Burstable",
    }
}
