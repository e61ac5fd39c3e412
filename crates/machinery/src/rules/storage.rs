//! Rules of PersistentVolumeClaims, PersistentVolumes and StorageClasses.

use serde_json::Value;

use super::{
    at::{At, Found},
    metadata, volume as sources,
};
use crate::names;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub(super) fn claim(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    claim_spec(&spec, found);
    let Some(old) = old else { return };
    let bound = o.get("status.phase").text() == "Bound";
    let old_spec = old.get("spec");
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(map) = spec.as_object_mut() {
            if old_spec.get("volumeName").is_empty() {
                map.remove("volumeName");
            }
            // A claim that was made before there was a default class may be given it later.
            if old_spec.get("storageClassName").value.is_null() {
                map.remove("storageClassName");
            }
            if bound {
                map.remove("volumeAttributesClassName");
            }
        }
        if bound
            && let Some(requests) = spec.pointer_mut("/resources/requests").and_then(Value::as_object_mut)
        {
            requests.remove("storage");
        }
        spec
    };
    if fixed(spec.value) != fixed(old_spec.value) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        found.forbidden(&spec, detail);
    }
    let size = |o: &At<'_>, path: &str| o.get(path).quantity().map(|q| q.as_millis());
    let requested = "spec.resources.requests.storage";
    let shrinks = size(o, requested) < size(old, requested);
    if shrinks && size(o, requested) <= size(old, "status.capacity.storage") {
        found.forbidden(&o.get(requested), "field can not be less than status.capacity");
    }
}

pub(super) fn claim_spec(spec: &At<'_>, found: &mut Found) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        found.required(&modes, "at least 1 access mode is required");
    }
    access_modes(&modes, found);
    metadata::selector(&spec.get("selector"), found);
    let size =
        At { path: format!("{}.resources[storage]", spec.path), ..spec.get("resources.requests.storage") };
    match size.quantity() {
        None => found.required(&size, ""),
        Some(quantity) if quantity.is_zero() || quantity.is_negative() => {
            found.invalid_value(&size, quantity.to_string(), "must be greater than zero");
        }
        Some(_) => {}
    }
    found.form(&spec.get("storageClassName"), names::dns1123_subdomain);
    found.one_of(&spec.get("volumeMode"), &["Block", "Filesystem"]);
}

fn access_modes(modes: &At<'_>, found: &mut Found) {
    for mode in modes.each().filter(|mode| !ACCESS_MODES.contains(&mode.text())) {
        found.add(crate::status::Cause::not_supported(&modes.path, mode.text(), ACCESS_MODES));
    }
}

pub(super) fn volume(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    const OTHER: [&str; 12] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
        "flexVolume",
        "local",
        "portworxVolume",
    ];
    let spec = o.get("spec");
    let modes = spec.get("accessModes");
    found.require(&modes);
    access_modes(&modes, found);
    let capacity = spec.get("capacity");
    found.require(&capacity);
    if capacity.value.as_object().is_none_or(|map| map.len() != 1 || !map.contains_key("storage")) {
        found.add(crate::status::Cause::not_supported(&capacity.path, capacity.value.clone(), ["storage"]));
    }
    for (_, size) in capacity.members() {
        if let Some(quantity) = size.quantity().filter(|q| q.is_zero() || q.is_negative()) {
            found.invalid_value(&size, quantity.to_string(), "must be greater than zero");
        }
    }
    found.one_of(&spec.get("persistentVolumeReclaimPolicy"), &["Delete", "Recycle", "Retain"]);
    found.one_of(&spec.get("volumeMode"), &["Block", "Filesystem"]);
    found.form(&spec.get("storageClassName"), names::dns1123_subdomain);
    let kinds: Vec<&String> = spec
        .value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
        .filter(|key| !OTHER[..9].contains(&key.as_str()))
        .collect();
    match kinds.as_slice() {
        [] => found.required(&spec, "must specify a volume type"),
        [_] => {}
        [_, more @ ..] => {
            for kind in more {
                found.forbidden(&spec.get(kind), "may not specify more than 1 volume type");
            }
        }
    }
    if spec.get("hostPath").is_set() {
        sources::host_path(&spec.get("hostPath"), found);
    }
    // The source of a volume does not change under its claim.
    if let Some(old) = old.map(|old| old.get("spec")) {
        let changed = kinds.iter().any(|kind| spec.get(kind).value != old.get(kind).value);
        if changed {
            let detail = "spec.persistentvolumesource is immutable after creation";
            found.forbidden(&At { path: "spec.persistentvolumesource".into(), ..spec.clone() }, detail);
        }
        found.immutable(&spec, Some(&old), &["volumeMode"]);
    }
}

pub(super) fn class(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let provisioner = o.get("provisioner");
    if found.require(&provisioner) {
        found.form_of(&provisioner, &provisioner.text().to_lowercase(), names::qualified_name);
    }
    let parameters = o.get("parameters");
    for (key, _) in parameters.members().filter(|(key, _)| key.is_empty()) {
        found.invalid_value(&parameters, key, "field can not be empty.");
    }
    found.one_of(&o.get("reclaimPolicy"), &["Delete", "Retain"]);
    found.require_one_of(&o.get("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
    found.immutable(o, old, &["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"]);
}
