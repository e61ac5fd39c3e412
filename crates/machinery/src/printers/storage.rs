//! Volumes, claims, classes and drivers.

use serde_json::Value;

use super::{
    AGE, Heading, NAME, Sheet, age, count, flag, has, join, list, non_empty, quantity, text, text_or,
};
use crate::table::{OBJECT_META, Row, name_of};

pub(super) static PERSISTENT_VOLUME: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Capacity", "core.v1.PersistentVolumeSpec", "capacity"),
        Heading::of("Access Modes", "core.v1.PersistentVolumeSpec", "accessModes"),
        Heading::of("Reclaim Policy", "core.v1.PersistentVolumeSpec", "persistentVolumeReclaimPolicy"),
        Heading::of("Status", "core.v1.PersistentVolumeStatus", "phase"),
        Heading::of("Claim", "core.v1.PersistentVolumeSpec", "claimRef"),
        Heading::new("StorageClass", "StorageClass of the pv"),
        Heading::new("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
        Heading::of("Reason", "core.v1.PersistentVolumeStatus", "reason"),
        AGE,
        Heading::of("VolumeMode", "core.v1.PersistentVolumeSpec", "volumeMode").wide(),
    ],
    |object, now| {
        let claim = match has(object, "/spec/claimRef") {
            true => format!(
                "{}/{}",
                text(object, "/spec/claimRef/namespace"),
                text(object, "/spec/claimRef/name")
            ),
            false => String::new(),
        };
        vec![
            name_of(object),
            quantity(object.pointer("/spec/capacity/storage")).into(),
            access_modes(list(object, "/spec/accessModes")).into(),
            text(object, "/spec/persistentVolumeReclaimPolicy").into(),
            phase(object).into(),
            claim.into(),
            class(object).into(),
            text_or(object, "/spec/volumeAttributesClassName", "<unset>").into(),
            text(object, "/status/reason").into(),
            age(object, now),
            text_or(object, "/spec/volumeMode", "<unset>").into(),
        ]
        .into()
    },
);

pub(super) static PERSISTENT_VOLUME_CLAIM: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Status", "core.v1.PersistentVolumeClaimStatus", "phase"),
        Heading::of("Volume", "core.v1.PersistentVolumeClaimSpec", "volumeName"),
        Heading::of("Capacity", "core.v1.PersistentVolumeClaimStatus", "capacity"),
        Heading::of("Access Modes", "core.v1.PersistentVolumeClaimStatus", "accessModes"),
        Heading::new("StorageClass", "StorageClass of the pvc"),
        Heading::new("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
        AGE,
        Heading::of("VolumeMode", "core.v1.PersistentVolumeClaimSpec", "volumeMode").wide(),
    ],
    |object, now| {
        let volume = text(object, "/spec/volumeName");
        let (capacity, modes) = match volume {
            "" => (String::new(), String::new()),
            _ => (
                quantity(object.pointer("/status/capacity/storage")),
                access_modes(list(object, "/status/accessModes")),
            ),
        };
        vec![
            name_of(object),
            phase(object).into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            class(object).into(),
            text_or(object, "/spec/volumeAttributesClassName", "<unset>").into(),
            age(object, now),
            text_or(object, "/spec/volumeMode", "<unset>").into(),
        ]
        .into()
    },
);

fn phase(object: &Value) -> &str {
    if has(object, "/metadata/deletionTimestamp") { "Terminating" } else { text(object, "/status/phase") }
}

fn class(object: &Value) -> &str {
    let annotation = text(object, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    non_empty(annotation, text(object, "/spec/storageClassName"))
}

fn access_modes(modes: &[Value]) -> String {
    const SHORT: &[(&str, &str)] = &[
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let present = SHORT.iter().filter(|(mode, _)| modes.iter().any(|given| given == mode));
    join(present.map(|(_, short)| *short), ",")
}

pub(super) static STORAGE_CLASS: Sheet = Sheet {
    columns: &[
        NAME,
        Heading::of("Provisioner", "storage.v1.StorageClass", "provisioner"),
        Heading::of("ReclaimPolicy", "storage.v1.StorageClass", "reclaimPolicy"),
        Heading::of("VolumeBindingMode", "storage.v1.StorageClass", "volumeBindingMode"),
        Heading::of("AllowVolumeExpansion", "storage.v1.StorageClass", "allowVolumeExpansion"),
        AGE,
    ],
    row: |object, now| {
        vec![
            name_of(object),
            text(object, "/provisioner").into(),
            text_or(object, "/reclaimPolicy", "Delete").into(),
            text_or(object, "/volumeBindingMode", "Immediate").into(),
            flag(object, "/allowVolumeExpansion").unwrap_or_default().into(),
            age(object, now),
        ]
        .into()
    },
    list: Some(mark_default),
};

/// Marks the class that takes effect where several call themselves default: the youngest, then the first by name.
fn mark_default(classes: &[&Value], rows: &mut [Row]) {
    const MARKS: [&str; 2] =
        ["storageclass.kubernetes.io~1is-default-class", "storageclass.beta.kubernetes.io~1is-default-class"];
    let is_default = |class: &Value| {
        MARKS.iter().any(|mark| text(class, &format!("/metadata/annotations/{mark}")) == "true")
    };
    let rank = |class: &Value| {
        let name = text(class, "/metadata/name").to_owned();
        (text(class, "/metadata/creationTimestamp").to_owned(), std::cmp::Reverse(name))
    };
    let effective =
        classes.iter().zip(rows).filter(|(class, _)| is_default(class)).max_by_key(|(class, _)| rank(class));
    if let Some((class, row)) = effective
        && let Some(cell) = row.cells.first_mut()
    {
        *cell = format!("{} (default)", text(class, "/metadata/name")).into();
    }
}

pub(super) static VOLUME_ATTRIBUTES_CLASS: Sheet = Sheet::new(
    &[NAME, Heading::of("DriverName", "storage.v1.VolumeAttributesClass", "driverName"), AGE],
    |object, now| vec![name_of(object), text(object, "/driverName").into(), age(object, now)].into(),
);

pub(super) static VOLUME_ATTACHMENT: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Attacher", "storage.v1.VolumeAttachmentSpec", "attacher").format("name"),
        Heading::of("PV", "storage.v1.VolumeAttachmentSource", "persistentVolumeName"),
        Heading::of("Node", "storage.v1.VolumeAttachmentSpec", "nodeName"),
        Heading::of("Attached", "storage.v1.VolumeAttachmentStatus", "attached").boolean(),
        AGE,
    ],
    |object, now| {
        vec![
            name_of(object),
            text(object, "/spec/attacher").into(),
            text(object, "/spec/source/persistentVolumeName").into(),
            text(object, "/spec/nodeName").into(),
            flag(object, "/status/attached").unwrap_or_default().into(),
            age(object, now),
        ]
        .into()
    },
);

pub(super) static CSI_NODE: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new("Drivers", "Drivers indicates the number of CSI drivers registered on the node")
            .integer(),
        AGE,
    ],
    |object, now| vec![name_of(object), count(object, "/spec/drivers").into(), age(object, now)].into(),
);

pub(super) static CSI_DRIVER: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("AttachRequired", "storage.v1.CSIDriverSpec", "attachRequired").boolean(),
        Heading::of("PodInfoOnMount", "storage.v1.CSIDriverSpec", "podInfoOnMount").boolean(),
        Heading::of("StorageCapacity", "storage.v1.CSIDriverSpec", "storageCapacity").boolean(),
        Heading::of("TokenRequests", "storage.v1.CSIDriverSpec", "tokenRequests"),
        Heading::of("RequiresRepublish", "storage.v1.CSIDriverSpec", "requiresRepublish").boolean(),
        Heading::of("Modes", "storage.v1.CSIDriverSpec", "volumeLifecycleModes"),
        AGE,
    ],
    |object, now| {
        let flag =
            |field: &str, default: bool| flag(object, &format!("/spec/{field}")).unwrap_or(default).into();
        let audiences = list(object, "/spec/tokenRequests").iter().map(|request| text(request, "/audience"));
        let tokens = if has(object, "/spec/tokenRequests") { join(audiences, ",") } else { "<unset>".into() };
        let modes = join(list(object, "/spec/volumeLifecycleModes").iter().filter_map(Value::as_str), ",");
        vec![
            name_of(object),
            flag("attachRequired", true),
            flag("podInfoOnMount", false),
            flag("storageCapacity", false),
            tokens.into(),
            flag("requiresRepublish", false),
            non_empty(&modes, "<none>").into(),
            age(object, now),
        ]
        .into()
    },
);

pub(super) static STORAGE_VERSION_MIGRATION: Sheet = Sheet::new(
    &[
        Heading::of("Name", OBJECT_META, "name"),
        Heading::new("Resource", "GroupResource to migrate"),
        Heading::new("Status", "Status of the migration"),
    ],
    |object, _| {
        let resource = [text(object, "/spec/resource/resource"), text(object, "/spec/resource/group")];
        let resource = join(resource.into_iter().filter(|part| !part.is_empty()), ".");
        let stages =
            list(object, "/status/conditions").iter().filter(|condition| condition["status"] == "True");
        let stage = stages
            .map(|condition| text(condition, "/type"))
            .rfind(|kind| matches!(*kind, "Running" | "Failed" | "Succeeded"));
        vec![name_of(object), resource.into(), stage.unwrap_or("Unknown").into()].into()
    },
);
