//! What a request may write of an object, and what the server fills in: `hansa_machinery::defaults` knows the kinds, here
//! stands what needs to know the request.

use hansa_machinery::defaults;
use serde_json::{Map, Value, json};

use super::{call::Call, metadata};
use crate::{admission, registry::custom};

/// Prepares a new object: status, generation and what its kind's strategy decides.
pub(crate) fn prepare_create(call: &Call, object: &mut Value) {
    match &call.resource.custom {
        Some(custom) => defaults::prepare_custom_create(custom.status, object),
        None => defaults::prepare_create(&call.resource.group, &call.resource.kind, object),
    }
    if &*call.resource.storage == custom::DEFINITIONS {
        let mut finalizers = metadata::finalizers(object).into_iter().map(Value::from).collect::<Vec<_>>();
        if !finalizers.iter().any(|f| f == custom::CLEANUP_FINALIZER) {
            finalizers.push(custom::CLEANUP_FINALIZER.into());
        }
        object["metadata"]["finalizers"] = finalizers.into();
    }
    admission::prepare(call, object, None);
}

/// Limits an update to the part that its (sub)resource writes.
pub(crate) fn prepare_update(call: &Call, object: &mut Value, live: &Value) {
    let (resource, subresource) = (&call.resource, call.subresource.as_str());
    match (&resource.custom, subresource) {
        (Some(custom), "" | "status") => {
            defaults::prepare_custom_update(custom.status, subresource == "status", object, live);
        }
        (None, "" | "status") => {
            defaults::prepare_update(&resource.group, &resource.kind, subresource, object, live);
            if &*resource.storage == custom::DEFINITIONS && subresource.is_empty() {
                store_version(object);
            }
        }
        (_, "finalize") => keep_only(object, live, |kept, object| {
            put_in(kept, "spec", "finalizers", object["spec"].get("finalizers").cloned());
        }),
        (_, "approval") => keep_only(object, live, |kept, object| {
            put_in(kept, "status", "conditions", object["status"].get("conditions").cloned());
        }),
        (_, "ephemeralcontainers") => keep_only(object, live, |kept, object| {
            put_in(kept, "spec", "ephemeralContainers", object["spec"].get("ephemeralContainers").cloned());
        }),
        (_, "resize") => keep_only(object, live, |kept, object| {
            let wanted = object["spec"]["containers"].as_array().cloned().unwrap_or_default();
            for container in kept["spec"]["containers"].as_array_mut().into_iter().flatten() {
                if let Some(wanted) = wanted.iter().find(|w| w["name"] == container["name"]) {
                    for field in ["resources", "resizePolicy"] {
                        put(container, field, wanted.get(field).cloned());
                    }
                }
            }
        }),
        _ => {}
    }
    admission::prepare(call, object, Some(live));
}

fn keep_only(object: &mut Value, live: &Value, part: impl Fn(&mut Value, &Value)) {
    let mut kept = live.clone();
    part(&mut kept, object);
    put_in(&mut kept, "metadata", "managedFields", object["metadata"].get("managedFields").cloned());
    *object = kept;
}

fn put(object: &mut Value, field: &str, value: Option<Value>) {
    if let Value::Object(map) = object {
        match value {
            Some(value) if !value.is_null() => drop(map.insert(field.to_owned(), value)),
            _ => drop(map.remove(field)),
        }
    }
}

fn put_in(object: &mut Value, parent: &str, field: &str, value: Option<Value>) {
    if value.is_some() && !object[parent].is_object() {
        object[parent] = Value::Object(Map::new());
    }
    if let Some(parent) = object.get_mut(parent) {
        put(parent, field, value);
    }
}

/// The version that objects are stored in from now on is remembered in a definition's status.
fn store_version(object: &mut Value) {
    let versions = object["spec"]["versions"].as_array().into_iter().flatten();
    let storage =
        versions.filter(|v| v["storage"] == true).find_map(|v| v["name"].as_str()).map(str::to_owned);
    let mut stored = object["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
    if let Some(storage) = storage
        && !stored.iter().any(|v| *v == *storage)
    {
        stored.push(storage.into());
        if !object["status"].is_object() {
            object["status"] = json!({});
        }
        object["status"]["storedVersions"] = stored.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_versions_grow_with_the_storage_version() {
        let mut crd = json!({"spec": {"versions": [{"name": "v2", "storage": true}]}, "status": {"storedVersions": ["v1"]}});
        store_version(&mut crd);
        assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v2"]));
    }
}
