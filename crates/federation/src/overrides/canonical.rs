//! The form of `spec.overrides` whose hash is the overrides version: the Go struct, with numbers as float64
//! (`spec/kubefed.md §0` items 1 and 2).

use hansa_machinery::gojson;
use serde_json::{Map, Value, json};

/// `spec.overrides` in the form that is hashed. Fields that KubeFed does not have are in it only where they are used, so that the hash of
/// a manifest of KubeFed's is KubeFed's.
pub fn canonical(federated: &Value) -> Value {
    let overrides = match &federated["spec"]["overrides"] {
        Value::Array(entries) => entries.iter().map(canonical_entry).collect(),
        other => other.clone(),
    };
    json!({ "overrides": overrides })
}

fn canonical_entry(entry: &Value) -> Value {
    let operations = match &entry["clusterOverrides"] {
        Value::Array(operations) => operations.iter().map(canonical_operation).collect(),
        _ => Value::Null,
    };
    let mut out = Map::new();
    out.insert("clusterName".into(), entry["clusterName"].as_str().unwrap_or_default().into());
    out.insert("clusterOverrides".into(), operations);
    for field in ["clusterSelector", "strategicMergePatch"] {
        if !entry[field].is_null() {
            out.insert(field.into(), entry[field].clone());
        }
    }
    out.into()
}

fn canonical_operation(operation: &Value) -> Value {
    let mut out = Map::new();
    if let Some(op) = operation["op"].as_str().filter(|op| !op.is_empty()) {
        out.insert("op".into(), op.into());
    }
    out.insert("path".into(), operation["path"].as_str().unwrap_or_default().into());
    if !operation["value"].is_null() {
        out.insert("value".into(), gojson::through_float64(operation["value"].clone()));
    }
    Value::Object(out)
}
