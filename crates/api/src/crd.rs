//! CustomResourceDefinitions from the types, as plain JSON.

use kube::CustomResourceExt;
use kube::core::schema::{OptionalEnum, OptionalIntOrString, StructuralSchemaRewriter};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use schemars::transform::AddNullable;
use serde_json::{Map, Value, json};

/// The CRD of a derived type. With `status` the type has a status subresource.
pub(crate) fn derived<T: CustomResourceExt>(status: bool) -> Value {
    let mut crd = serde_json::to_value(T::crd()).unwrap_or_default();
    crd["metadata"] = json!({ "name": T::crd_name() });
    for version in crd["spec"]["versions"].as_array_mut().into_iter().flatten() {
        if let Some(root) = version.pointer_mut("/schema/openAPIV3Schema") {
            normalize(root);
            complete(root);
        }
        if let Some(version) = version.as_object_mut() {
            if !status {
                version.remove("subresources");
            }
            if version.get("additionalPrinterColumns").is_some_and(|columns| columns == &json!([])) {
                version.remove("additionalPrinterColumns");
            }
        }
    }
    if let Some(names) = crd.pointer_mut("/spec/names").and_then(Value::as_object_mut) {
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        names.insert("listKind".to_owned(), format!("{kind}List").into());
        for list in ["shortNames", "categories"] {
            if names.get(list).is_some_and(|value| value == &json!([])) {
                names.remove(list);
            }
        }
    }
    crd
}

/// The CRD of a type of `core.kubefed.io/v1alpha1`, whose schema is the whole object's.
pub(crate) fn whole<T: JsonSchema>(kind: &str, plural: &str, scope: &str, status: bool) -> Value {
    let generator = SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(AddNullable::default())
        .with_transform(StructuralSchemaRewriter)
        .with_transform(OptionalEnum)
        .with_transform(OptionalIntOrString)
        .into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    normalize(&mut schema);
    complete(&mut schema);
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("required");
    }
    definition("core.kubefed.io", names(kind, plural, &[]), scope, "v1alpha1", schema, status, json!([]))
}

/// A CRD with one version.
pub(crate) fn definition(
    group: &str,
    names: Value,
    scope: &str,
    version: &str,
    schema: Value,
    status: bool,
    columns: Value,
) -> Value {
    let plural = names["plural"].as_str().unwrap_or_default().to_owned();
    let mut version =
        json!({ "name": version, "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } });
    if status {
        version["subresources"] = json!({ "status": {} });
    }
    if columns.as_array().is_some_and(|columns| !columns.is_empty()) {
        version["additionalPrinterColumns"] = columns;
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": { "group": group, "names": names, "scope": scope, "versions": [version] },
    })
}

/// The names of a custom resource, as an API server would complete them.
pub(crate) fn names(kind: &str, plural: &str, short_names: &[&str]) -> Value {
    let mut names = json!({ "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase() });
    if !short_names.is_empty() {
        names["shortNames"] = json!(short_names);
    }
    names
}

/// Puts what every object has at the root of its schema.
fn complete(root: &mut Value) {
    for field in ["apiVersion", "kind"] {
        root["properties"][field] = json!({ "type": "string" });
    }
    root["properties"]["metadata"] = json!({ "type": "object" });
    if let Some(root) = root.as_object_mut() {
        root.remove("title");
    }
}

/// Takes out what the derivation adds and the original schemas do not have: defaults from Rust's `Default` (an API server would write
/// them into objects), `nullable` (an API server drops nulls by itself), and Rust's own integer formats.
fn normalize(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if is_schema(map) {
                map.remove("default");
                map.remove("nullable");
                if map.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint"))
                {
                    map.remove("format");
                }
            }
            map.values_mut().for_each(normalize);
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        // `minimum: 1.0` is written as people write it.
        Value::Number(number) => {
            if let Some(whole) =
                number.as_f64().filter(|n| number.is_f64() && n.fract() == 0.0 && n.abs() < 1e15)
            {
                *schema = Value::from(whole as i64);
            }
        }
        _ => {}
    }
}

/// A map with a `type` that is a word is a schema and not a map of properties.
fn is_schema(map: &Map<String, Value>) -> bool {
    map.get("type").is_some_and(Value::is_string)
        || map.contains_key("x-kubernetes-int-or-string")
        || map.contains_key("enum")
}
