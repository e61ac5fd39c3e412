//! Namespaces and what is configured in them.

use serde_json::Value;

use super::{AGE, Heading, NAME, Sheet, age, count, quantity, text};
use crate::table::name_of;

pub(super) static NAMESPACE: Sheet =
    Sheet::new(&[NAME, Heading::new("Status", "The status of the namespace"), AGE], |object, now| {
        vec![name_of(object), text(object, "/status/phase").into(), age(object, now)].into()
    });

pub(super) static CONFIG_MAP: Sheet =
    Sheet::new(&[NAME, Heading::of("Data", "core.v1.ConfigMap", "data"), AGE], |object, now| {
        let entries = count(object, "/data") + count(object, "/binaryData");
        vec![name_of(object), entries.into(), age(object, now)].into()
    });

pub(super) static SECRET: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Type", "core.v1.Secret", "type"),
        Heading::of("Data", "core.v1.Secret", "data"),
        AGE,
    ],
    |object, now| {
        vec![name_of(object), text(object, "/type").into(), count(object, "/data").into(), age(object, now)]
            .into()
    },
);

pub(super) static SERVICE_ACCOUNT: Sheet =
    Sheet::new(&[NAME, AGE], |object, now| vec![name_of(object), age(object, now)].into());

pub(super) static RESOURCE_QUOTA: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new(
            "Request",
            "Request represents a minimum amount of cpu/memory that a container may consume.",
        ),
        Heading::new(
            "Limit",
            "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
        ),
        AGE,
    ],
    |object, now| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        let mut hard: Vec<_> =
            object.pointer("/status/hard").and_then(Value::as_object).into_iter().flatten().collect();
        hard.sort_by_key(|(resource, _)| *resource);
        for (resource, hard) in hard {
            let used = object.pointer("/status/used").and_then(|used| used.get(resource));
            let cell = if resource.starts_with("limits.") { &mut limits } else { &mut requests };
            cell.push(format!("{resource}: {}/{}", quantity(used), quantity(Some(hard))));
        }
        vec![name_of(object), requests.join(", ").into(), limits.join(", ").into(), age(object, now)].into()
    },
);
