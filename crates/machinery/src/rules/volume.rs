//! Rules of the volumes of a Pod.

use std::collections::HashSet;

use super::{
    at::{At, Found},
    container::{field_reference, no_backsteps, relative_path},
};
use crate::names;

/// The order in which Kubernetes looks at the sources a volume may have: of two, the second is one too many.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flexVolume",
    "configMap",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "flocker",
    "downwardAPI",
    "fc",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "quobyte",
    "csi",
    "ephemeral",
    "image",
];

pub(super) const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Checks the volumes of a Pod and returns their names.
pub(super) fn all<'a>(volumes: &At<'a>, found: &mut Found) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for volume in volumes.each() {
        source(&volume, found);
        let name = volume.get("name");
        found.require_form(&name, names::dns1123_label);
        if !name.is_empty() && !seen.insert(name.text()) {
            found.duplicate(&name);
        }
    }
    seen
}

fn source(volume: &At<'_>, found: &mut Found) {
    let mut first = true;
    for kind in SOURCES {
        let source = volume.get(kind);
        if !source.is_set() {
            continue;
        }
        if !first {
            found.forbidden(&source, "may not specify more than 1 volume type");
            continue;
        }
        first = false;
        match kind {
            "hostPath" => host_path(&source, found),
            "secret" => {
                found.require(&source.get("secretName"));
                files(&source, found);
            }
            "configMap" => {
                found.require(&source.get("name"));
                files(&source, found);
            }
            "downwardAPI" => files(&source, found),
            "projected" => {
                mode(&source.get("defaultMode"), found);
                for projection in source.get("sources").each() {
                    for kind in ["secret", "configMap"].map(|kind| projection.get(kind)) {
                        if kind.is_set() {
                            found.require(&kind.get("name"));
                            files(&kind, found);
                        }
                    }
                    files(&projection.get("downwardAPI"), found);
                    let token = projection.get("serviceAccountToken");
                    if token.is_set() && found.require(&token.get("path")) {
                        relative_path(&token.get("path"), found);
                    }
                }
            }
            "persistentVolumeClaim" => {
                found.require(&source.get("claimName"));
            }
            "nfs" => {
                found.require(&source.get("server"));
                found.require(&source.get("path"));
                let path = source.get("path");
                if !path.text().starts_with('/') {
                    found.invalid(&path, "must be an absolute path");
                }
            }
            "csi" => {
                found.require(&source.get("driver"));
            }
            "ephemeral" => {
                let template = source.get("volumeClaimTemplate");
                match template.is_set() {
                    true => super::storage::claim_spec(&template.get("spec"), found),
                    false => found.required(&template, ""),
                }
            }
            _ => {}
        }
    }
}

pub(super) fn host_path(source: &At<'_>, found: &mut Found) {
    let path = source.get("path");
    if found.require(&path) {
        no_backsteps(&path, found);
    }
    found.one_of(&source.get("type"), &HOST_PATH_TYPES);
}

fn mode(at: &At<'_>, found: &mut Found) {
    if at.int().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        found.invalid(at, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// Keys laid out as files.
fn files(source: &At<'_>, found: &mut Found) {
    mode(&source.get("defaultMode"), found);
    for item in source.get("items").each() {
        let field = item.get("fieldRef");
        let from_field = field.is_set() || item.get("resourceFieldRef").is_set();
        if !from_field {
            found.require(&item.get("key"));
        }
        field_reference(&field, found);
        let path = item.get("path");
        if found.require(&path) {
            relative_path(&path, found);
        }
        mode(&item.get("mode"), found);
    }
}
