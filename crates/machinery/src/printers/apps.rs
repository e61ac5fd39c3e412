//! Workloads that run pods for ever, and the templates and revisions they are made of.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, CONTAINERS, Heading, IMAGES, NAME, Sheet, age, containers, int, labels, list, selector, text,
};
use crate::{
    selector::LabelSelector,
    table::{Row, name_of},
};

pub(super) static DEPLOYMENT: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new("Ready", "Number of the pod with ready state"),
        Heading::of("Up-to-date", "apps.v1.DeploymentStatus", "updatedReplicas"),
        Heading::of("Available", "apps.v1.DeploymentStatus", "availableReplicas"),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        Heading::of("Selector", "apps.v1.DeploymentSpec", "selector").wide(),
    ],
    |object, now| {
        let selector = LabelSelector::from_value(&object["spec"]["selector"]);
        let mut cells = vec![
            name_of(object),
            ready(object),
            int(object, "/status/updatedReplicas").into(),
            int(object, "/status/availableReplicas").into(),
        ];
        cells.extend(tail(object, now));
        cells.push(selector.map_or_else(|_| "<invalid>".into(), |selector| selector.to_string()).into());
        cells.into()
    },
);

pub(super) static REPLICA_SET: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Desired", "apps.v1.ReplicaSetSpec", "replicas").integer(),
        Heading::of("Current", "apps.v1.ReplicaSetStatus", "replicas").integer(),
        Heading::of("Ready", "apps.v1.ReplicaSetStatus", "readyReplicas").integer(),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        Heading::of("Selector", "apps.v1.ReplicaSetSpec", "selector").wide(),
    ],
    |object, now| replicas(object, selector(&object["spec"]["selector"]), now),
);

pub(super) static REPLICATION_CONTROLLER: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Desired", "core.v1.ReplicationControllerSpec", "replicas").integer(),
        Heading::of("Current", "core.v1.ReplicationControllerStatus", "replicas").integer(),
        Heading::of("Ready", "core.v1.ReplicationControllerStatus", "readyReplicas").integer(),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        Heading::of("Selector", "core.v1.ReplicationControllerSpec", "selector").wide(),
    ],
    |object, now| replicas(object, labels(&object["spec"]["selector"]), now),
);

pub(super) static STATEFUL_SET: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new("Ready", "Number of the pod with ready state"),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
    ],
    |object, now| {
        let mut cells = vec![name_of(object), ready(object)];
        cells.extend(tail(object, now));
        cells.into()
    },
);

pub(super) static DAEMON_SET: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Desired", "apps.v1.DaemonSetStatus", "desiredNumberScheduled").integer(),
        Heading::of("Current", "apps.v1.DaemonSetStatus", "currentNumberScheduled").integer(),
        Heading::of("Ready", "apps.v1.DaemonSetStatus", "numberReady").integer(),
        Heading::of("Up-to-date", "apps.v1.DaemonSetStatus", "updatedNumberScheduled").integer(),
        Heading::of("Available", "apps.v1.DaemonSetStatus", "numberAvailable").integer(),
        Heading::of("Node Selector", "core.v1.PodSpec", "nodeSelector"),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        Heading::of("Selector", "apps.v1.DaemonSetSpec", "selector").wide(),
    ],
    |object, now| {
        let mut cells = vec![name_of(object)];
        for field in [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ] {
            cells.push(int(object, &format!("/status/{field}")).into());
        }
        cells.push(labels(&object["spec"]["template"]["spec"]["nodeSelector"]).into());
        cells.extend(tail(object, now));
        cells.push(selector(&object["spec"]["selector"]).into());
        cells.into()
    },
);

pub(super) static CONTROLLER_REVISION: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new("Controller", "Controller of the object"),
        Heading::of("Revision", "apps.v1.ControllerRevision", "revision"),
        AGE,
    ],
    |object, now| {
        let owners = list(object, "/metadata/ownerReferences");
        let controller = owners.iter().find(|owner| owner["controller"] == true).map(|owner| {
            let (kind, name) = (text(owner, "/kind").to_lowercase(), text(owner, "/name"));
            match text(owner, "/apiVersion").split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{name}"),
                None => format!("{kind}/{name}"),
            }
        });
        let controller = controller.unwrap_or_else(|| "<none>".into());
        vec![name_of(object), controller.into(), int(object, "/revision").into(), age(object, now)].into()
    },
);

pub(super) static POD_TEMPLATE: Sheet = Sheet::new(
    &[NAME, CONTAINERS, IMAGES, Heading::new("Pod Labels", "The labels for the pod template.")],
    |object, _| {
        let [names, images] = containers(object.pointer("/template/spec"));
        vec![name_of(object), names, images, labels(&object["template"]["metadata"]["labels"]).into()].into()
    },
);

fn ready(object: &Value) -> Value {
    format!("{}/{}", int(object, "/status/readyReplicas"), int(object, "/spec/replicas")).into()
}

fn replicas(object: &Value, selector: String, now: Timestamp) -> Row {
    let mut cells = vec![
        name_of(object),
        int(object, "/spec/replicas").into(),
        int(object, "/status/replicas").into(),
        int(object, "/status/readyReplicas").into(),
    ];
    cells.extend(tail(object, now));
    cells.push(selector.into());
    cells.into()
}

/// Age, containers and images.
fn tail(object: &Value, now: Timestamp) -> [Value; 3] {
    let [names, images] = containers(object.pointer("/spec/template/spec"));
    [age(object, now), names, images]
}
