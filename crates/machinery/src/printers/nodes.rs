//! Nodes, and what is about them or about the cluster as a whole.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{AGE, Heading, NAME, Sheet, age, flag, int, join, list, non_empty, text, text_or};
use crate::table::{OBJECT_META, name_of};

pub(super) static NODE: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new("Status", "The status of the node"),
        Heading::new("Roles", "The roles of the node"),
        AGE,
        Heading::of("Version", "core.v1.NodeSystemInfo", "kubeletVersion"),
        Heading::of("Internal-IP", "core.v1.NodeStatus", "addresses").wide(),
        Heading::of("External-IP", "core.v1.NodeStatus", "addresses").wide(),
        Heading::of("OS-Image", "core.v1.NodeSystemInfo", "osImage").wide(),
        Heading::of("Kernel-Version", "core.v1.NodeSystemInfo", "kernelVersion").wide(),
        Heading::of("Container-Runtime", "core.v1.NodeSystemInfo", "containerRuntimeVersion").wide(),
    ],
    |object, now| {
        let ready = list(object, "/status/conditions").iter().rev().find(|c| c["type"] == "Ready");
        let mut status = String::from(match ready.map(|condition| condition["status"] == "True") {
            Some(true) => "Ready",
            Some(false) => "NotReady",
            None => "Unknown",
        });
        if flag(object, "/spec/unschedulable") == Some(true) {
            status.push_str(",SchedulingDisabled");
        }
        let info =
            |field: &str| text_or(object, &format!("/status/nodeInfo/{field}"), "<unknown>").to_owned();
        let kernel = match text(object, "/status/nodeInfo/architecture") {
            "" => info("kernelVersion"),
            architecture => format!("{} ({architecture})", info("kernelVersion")),
        };
        vec![
            name_of(object),
            status.into(),
            non_empty(&roles(object), "<none>").into(),
            age(object, now),
            text(object, "/status/nodeInfo/kubeletVersion").into(),
            address(object, "InternalIP").into(),
            address(object, "ExternalIP").into(),
            info("osImage").into(),
            kernel.into(),
            info("containerRuntimeVersion").into(),
        ]
        .into()
    },
);

fn roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let role = |(key, value): (&'_ String, &'_ Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        None => None,
    };
    let roles: BTreeSet<String> = labels.filter_map(role).filter(|role| !role.is_empty()).collect();
    join(roles.iter().map(String::as_str), ",")
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let found = list(node, "/status/addresses").iter().find(|address| address["type"] == kind);
    found.map_or("<none>", |address| text(address, "/address"))
}

pub(super) static COMPONENT_STATUS: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new("Status", "Status of the component conditions"),
        Heading::new("Message", "Message of the component conditions"),
        Heading::new("Error", "Error of the component conditions"),
    ],
    |object, _| {
        let healthy = list(object, "/conditions").iter().find(|condition| condition["type"] == "Healthy");
        let status = match healthy.map(|condition| condition["status"] == "True") {
            Some(true) => "Healthy",
            Some(false) => "Unhealthy",
            None => "Unknown",
        };
        let about = |field: &str| healthy.map_or("", |condition| text(condition, field));
        vec![name_of(object), status.into(), about("/message").into(), about("/error").into()].into()
    },
);

pub(super) static LEASE: Sheet = Sheet::new(
    &[NAME, Heading::of("Holder", "coordination.v1.LeaseSpec", "holderIdentity"), AGE],
    |object, now| vec![name_of(object), text(object, "/spec/holderIdentity").into(), age(object, now)].into(),
);

pub(super) static PRIORITY_CLASS: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Value", "scheduling.v1.PriorityClass", "value").integer(),
        Heading::of("Global-Default", "scheduling.v1.PriorityClass", "globalDefault").boolean(),
        AGE,
        Heading::of("PreemptionPolicy", "scheduling.v1.PriorityClass", "preemptionPolicy"),
    ],
    |object, now| {
        vec![
            name_of(object),
            int(object, "/value").into(),
            flag(object, "/globalDefault").unwrap_or_default().into(),
            age(object, now),
            text(object, "/preemptionPolicy").into(),
        ]
        .into()
    },
);

pub(super) static RUNTIME_CLASS: Sheet =
    Sheet::new(&[NAME, Heading::of("Handler", OBJECT_META, "handler"), AGE], |object, now| {
        vec![name_of(object), text(object, "/handler").into(), age(object, now)].into()
    });
