//! OpenAPI v2 (Swagger): all schemas in one document, for older clients.

use std::sync::Arc;

use hansa_machinery::kubernetes::KUBERNETES;
use serde_json::{Map, Value, json};

use super::v3;
use crate::registry::{Catalogue, Resource, definition_names};

/// The document as JSON.
pub(super) fn document(catalogue: &Catalogue) -> Vec<u8> {
    value(catalogue).to_string().into_bytes()
}

/// The document before it is written out.
pub(super) fn value(catalogue: &Catalogue) -> Value {
    let mut definitions = Map::new();
    let mut paths = Map::new();
    for (name, schema) in KUBERNETES.documents.as_object().into_iter().flatten() {
        definitions.insert(name.clone(), older(schema, true));
    }
    let names = definition_names();
    let served = catalogue.groups.iter().flat_map(|g| g.versions.iter().flat_map(|(_, r)| r.values()));
    for resource in served {
        let name = match &resource.custom {
            None => {
                let gvk = (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str());
                names.get(&gvk).map_or_else(String::new, |name| (*name).to_owned())
            }
            Some(_) => {
                let name = v3::custom_name(resource);
                definitions.insert(name.clone(), custom(resource));
                name
            }
        };
        add_paths(&mut paths, resource, &name);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": format!("v{}", KUBERNETES.version)},
        "paths": paths,
        "definitions": definitions,
    })
}

/// The schema of a custom resource in the older form.
fn custom(resource: &Arc<Resource>) -> Value {
    let published = resource.custom.as_ref().map(|c| c.published.clone()).unwrap_or_default();
    let mut schema = if published.is_object() { older(&published, false) } else { json!({"type": "object"}) };
    for field in ["apiVersion", "kind"] {
        if !schema["properties"][field].is_object() {
            schema["properties"][field] = json!({"type": "string"});
        }
    }
    schema["properties"]["metadata"] =
        json!({"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"});
    schema["x-kubernetes-group-version-kind"] = json!([v3::gvk(resource)]);
    schema
}

/// A v3 schema in v2: references elsewhere, and without what v2 cannot say. `trusted` schemas have nothing else to lose.
fn older(schema: &Value, trusted: bool) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    // A reference with attributes of its own is wrapped in v3.
    if let Some([one]) = map.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
        && let Some(reference) = one["$ref"].as_str()
    {
        let mut out = older(&json!({"$ref": reference}), trusted);
        for field in ["description", "default"] {
            if let Some(value) = map.get(field) {
                out[field] = value.clone();
            }
        }
        return out;
    }
    let mut out = Map::new();
    for (key, value) in map {
        let value = match key.as_str() {
            "$ref" => {
                value.as_str().unwrap_or_default().replace("#/components/schemas/", "#/definitions/").into()
            }
            "properties" => {
                let members = value.as_object().into_iter().flatten();
                members
                    .map(|(name, schema)| (name.clone(), older(schema, trusted)))
                    .collect::<Map<_, _>>()
                    .into()
            }
            "items" | "additionalProperties" => older(value, trusted),
            "oneOf" | "anyOf" | "allOf" | "not" | "nullable" => continue,
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    // What may be null, or anything, has no type in v2.
    let open = map.get("nullable") == Some(&Value::Bool(true))
        || map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) && !trusted;
    if open {
        for field in ["type", "items", "properties"] {
            out.remove(field);
        }
    }
    if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        out.remove("type");
    }
    if map.get("format") == Some(&"int-or-string".into()) || map.contains_key("oneOf") && trusted {
        out.insert("type".into(), "string".into());
    }
    out.into()
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource, definition: &str) {
    let reference = json!({"$ref": format!("#/definitions/{definition}")});
    let body = json!({"name": "body", "in": "body", "required": true, "schema": reference});
    let query = |name: &str| json!({"name": name, "in": "query", "type": "string", "uniqueItems": true});
    let operation = |action: &str, parameters: Vec<Value>| {
        json!({
            "produces": ["application/json"], "consumes": ["*/*"], "parameters": parameters,
            "responses": {"200": {"description": "OK", "schema": reference}},
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": v3::gvk(resource),
        })
    };
    let write = || vec![body.clone(), query("dryRun"), query("fieldManager"), query("fieldValidation")];
    let (collection, object) = v3::urls(resource);
    let mut items = [(collection, Map::new()), (object, Map::new())];
    for (at, verb, action, needs, parameters) in [
        (0, "get", "list", "list", Vec::new()),
        (0, "post", "post", "create", write()),
        (1, "get", "get", "get", Vec::new()),
        (1, "put", "put", "update", write()),
        (1, "patch", "patch", "patch", write()),
        (1, "delete", "delete", "delete", vec![query("dryRun")]),
    ] {
        if resource.allows(needs) {
            items[at].1.insert(verb.to_owned(), operation(action, parameters));
        }
    }
    for (path, item) in items {
        if !item.is_empty() {
            paths.insert(path, item.into());
        }
    }
}
