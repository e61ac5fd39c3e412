//! Volumes for claims: an existing one that fits, or a new one of the claim's class.

use serde_json::{Value, json};

use crate::{
    object::{items, text},
    pod::amount,
};

/// The provisioner of the sandbox's own class.
pub(crate) const PROVISIONER: &str = "sandbox.hansa.io/local";
/// The name of that class, which is the default one.
pub(crate) const CLASS: &str = "standard";
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
pub(crate) const BOUND: &str = "pv.kubernetes.io/bind-completed";

/// The sandbox's StorageClass.
pub(crate) fn storage_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {IS_DEFAULT: "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
        "allowVolumeExpansion": true,
    })
}

/// The default class among these; of several, the newest.
pub(crate) fn default_class(classes: &[Value]) -> Option<&Value> {
    let defaults = classes.iter().filter(|class| class["metadata"]["annotations"][IS_DEFAULT] == "true");
    defaults
        .max_by_key(|class| (text(&class["metadata"]["creationTimestamp"]), text(&class["metadata"]["name"])))
}

/// Whether a volume is meant for this claim and no other.
fn is_reserved_for(volume: &Value, claim: &Value) -> bool {
    let (reference, meta) = (&volume["spec"]["claimRef"], &claim["metadata"]);
    reference["name"] == meta["name"]
        && reference["namespace"] == meta["namespace"]
        && (reference["uid"].is_null() || reference["uid"] == meta["uid"])
}

/// The existing volume for a claim: the one that is reserved for it or that it names, else the smallest that fits.
pub(crate) fn find<'a>(claim: &Value, volumes: &'a [Value]) -> Option<&'a Value> {
    let spec = &claim["spec"];
    if let Some(reserved) = volumes.iter().find(|volume| is_reserved_for(volume, claim)) {
        return Some(reserved);
    }
    let free = |volume: &&Value| {
        volume["spec"]["claimRef"].is_null() && volume["metadata"]["deletionTimestamp"].is_null()
    };
    if let Some(name) = spec["volumeName"].as_str().filter(|name| !name.is_empty()) {
        return volumes.iter().filter(free).find(|volume| volume["metadata"]["name"] == name);
    }
    let storage = |value: &Value| amount("storage", &value["storage"]);
    let wanted = storage(&spec["resources"]["requests"]);
    let fits = |volume: &&Value| {
        let offers = &volume["spec"];
        text(&offers["storageClassName"]) == text(&spec["storageClassName"])
            && items(&spec["accessModes"]).iter().all(|mode| items(&offers["accessModes"]).contains(mode))
            && storage(&offers["capacity"]) >= wanted
    };
    volumes.iter().filter(free).filter(fits).min_by_key(|volume| storage(&volume["spec"]["capacity"]))
}

/// A new volume for a claim, if the class is one of ours.
pub(crate) fn provision(claim: &Value, class: &Value) -> Option<Value> {
    if class["provisioner"] != PROVISIONER {
        return None;
    }
    let name = format!("pvc-{}", text(&claim["metadata"]["uid"]));
    let spec = &claim["spec"];
    Some(json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "accessModes": spec["accessModes"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "claimRef": reference(claim),
            "hostPath": {"path": format!("/var/lib/sandbox/{name}"), "type": "DirectoryOrCreate"},
            "persistentVolumeReclaimPolicy": class["reclaimPolicy"].as_str().unwrap_or("Delete"),
            "storageClassName": class["metadata"]["name"],
            "volumeMode": spec["volumeMode"].as_str().unwrap_or("Filesystem"),
        },
    }))
}

/// `spec.claimRef` of a volume bound to the claim.
pub(crate) fn reference(claim: &Value) -> Value {
    let meta = &claim["metadata"];
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": meta["name"], "namespace": meta["namespace"],
        "uid": meta["uid"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Value {
        json!({
            "metadata": {"name": "data", "namespace": "shop", "uid": "u"},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "slow",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        })
    }

    fn volume(name: &str, storage: &str, class: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": storage}, "storageClassName": class,
        }})
    }

    #[test]
    fn the_smallest_volume_that_fits_is_taken_and_a_reserved_one_before_all() {
        let mut volumes = vec![
            volume("big", "5Gi", "slow"),
            volume("fits", "1Gi", "slow"),
            volume("small", "1Mi", "slow"),
            volume("other", "1Gi", "x"),
        ];
        assert_eq!(find(&claim(), &volumes).unwrap()["metadata"]["name"], "fits");
        volumes[0]["spec"]["claimRef"] = json!({"name": "data", "namespace": "shop"});
        assert_eq!(find(&claim(), &volumes).unwrap()["metadata"]["name"], "big");
        volumes[0]["spec"]["claimRef"]["uid"] = "of an earlier claim".into();
        assert_eq!(find(&claim(), &volumes).unwrap()["metadata"]["name"], "fits");
    }

    #[test]
    fn a_volume_is_made_only_by_our_own_provisioner() {
        let made = provision(&claim(), &storage_class()).unwrap();
        assert_eq!(
            (made["metadata"]["name"].as_str(), &made["spec"]["claimRef"]["uid"]),
            (Some("pvc-u"), &json!("u"))
        );
        assert_eq!(provision(&claim(), &json!({"provisioner": "elsewhere"})), None);
    }

    #[test]
    fn the_default_class_is_the_one_marked_so() {
        let classes = [json!({"metadata": {"name": "a"}}), storage_class()];
        assert_eq!(default_class(&classes).unwrap()["metadata"]["name"], CLASS);
        assert_eq!(default_class(&classes[..1]), None);
    }
}
