//! OpenAPI v3: one document per group version, with the schemas its resources refer to and the paths that clients read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hansa_machinery::kubernetes::KUBERNETES;
use serde_json::{Map, Value, json};

use crate::{
    Server,
    documents::Document,
    registry::{Catalogue, Resource, definition_names},
};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// `/openapi/v3`: where each document is. The hash in the URL lets clients keep it for good.
pub(super) fn index(server: &Server, catalogue: &Catalogue) -> Vec<u8> {
    let mut paths = Map::new();
    for group in &catalogue.groups {
        for (version, _) in &group.versions {
            let path = match group.name.as_str() {
                "" => format!("api/{version}"),
                name => format!("apis/{name}/{version}"),
            };
            if let Some(document) = document(server, catalogue, &group.name, version) {
                let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
    }
    json!({"paths": paths}).to_string().into_bytes()
}

/// The document of one group version.
pub(super) fn document(
    server: &Server,
    catalogue: &Catalogue,
    group: &str,
    version: &str,
) -> Option<Arc<Document>> {
    let resources = catalogue.version(group, version)?;
    let name = format!("v3/{group}/{version}");
    Some(server.inner().documents.get(catalogue.generation, &name, || make(group, version, resources)))
}

fn make(group: &str, version: &str, resources: &BTreeMap<String, Arc<Resource>>) -> Vec<u8> {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    for resource in resources.values() {
        add_paths(&mut paths, resource, &mut schemas);
    }
    let title = format!("Kubernetes {group} {version}");
    json!({
        "openapi": "3.0.0",
        "info": {"title": title, "version": format!("v{}", KUBERNETES.version)},
        "paths": paths,
        "components": {"schemas": schemas.all},
    })
    .to_string()
    .into_bytes()
}

/// The schemas of a document: what is referred to, and all that refers on.
#[derive(Default)]
struct Schemas {
    all: Map<String, Value>,
    seen: BTreeSet<String>,
}

impl Schemas {
    /// Adds a published definition with everything it refers to.
    fn add(&mut self, name: &str) {
        let mut todo = vec![name.to_owned()];
        while let Some(name) = todo.pop() {
            if !self.seen.insert(name.clone()) {
                continue;
            }
            let Some(schema) = KUBERNETES.documents.get(&name) else { continue };
            references(schema, &mut todo);
            self.all.insert(name, schema.clone());
        }
    }

    /// The name of the schema of a resource's objects.
    fn of(&mut self, resource: &Resource) -> String {
        let Some(custom) = &resource.custom else {
            let gvk = (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str());
            let name = definition_names().get(&gvk).map_or_else(String::new, |name| (*name).to_owned());
            self.add(&name);
            return name;
        };
        let name = custom_name(resource);
        if self.seen.insert(name.clone()) {
            let mut schema = if custom.published.is_object() {
                custom.published.clone()
            } else {
                json!({"type": "object"})
            };
            for (field, description) in [("apiVersion", API_VERSION), ("kind", KIND)] {
                if !schema["properties"][field].is_object() {
                    schema["properties"][field] = json!({"type": "string", "description": description});
                }
            }
            schema["properties"]["metadata"] = json!({
                "description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
                "allOf": [{"$ref": format!("#/components/schemas/{META}.ObjectMeta")}],
            });
            schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
            self.add(&format!("{META}.ObjectMeta"));
            self.all.insert(name.clone(), schema);
        }
        name
    }
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
                           convert recognized schemas to the latest internal value, and may reject unrecognized values. \
                           More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this \
                    from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
                    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// `com.example.stable.v1.CronTab` of `stable.example.com/v1 CronTab`.
pub(super) fn custom_name(resource: &Resource) -> String {
    let reversed: Vec<&str> = resource.group.split('.').rev().collect();
    format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
}

/// The definitions a schema refers to.
pub(super) fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(reference) if key == "$ref" => {
                        found.extend(reference.rsplit('/').next().map(str::to_owned));
                    }
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

pub(super) fn gvk(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

/// The URL of a resource's collection, and of one object.
pub(super) fn urls(resource: &Resource) -> (String, String) {
    let prefix = match resource.group.as_str() {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let collection = match resource.namespaced {
        true => format!("{prefix}/namespaces/{{namespace}}/{}", resource.name),
        false => format!("{prefix}/{}", resource.name),
    };
    (collection.clone(), format!("{collection}/{{name}}"))
}

/// The parameters whose presence clients test for before they use them.
fn parameters(verb: &str) -> Vec<Value> {
    let names: &[&str] = match verb {
        "post" | "put" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" => &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"],
        _ => &[],
    };
    let kind = |name: &str| match name {
        "force" | "orphanDependents" => "boolean",
        "gracePeriodSeconds" => "integer",
        _ => "string",
    };
    names
        .iter()
        .map(|n| json!({"name": n, "in": "query", "schema": {"type": kind(n), "uniqueItems": true}}))
        .collect()
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource, schemas: &mut Schemas) {
    let name = schemas.of(resource);
    let reference = json!({"$ref": format!("#/components/schemas/{name}")});
    let content = json!({"application/json": {"schema": reference}});
    let operation = |verb: &str, action: &str, body: bool| {
        let mut operation = json!({
            "tags": [format!("{}_{}", resource.group, resource.version)],
            "operationId": format!("{action}{}{}{}", camel(&resource.group), camel(&resource.version), resource.kind),
            "parameters": parameters(verb),
            "responses": {"200": {"description": "OK", "content": content}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(resource),
        });
        if body {
            operation["requestBody"] = json!({"content": content});
        }
        operation
    };
    let (collection, object) = urls(resource);
    let mut add = |path: &str, entries: &[(&str, &str, &str, bool)]| {
        let mut item = Map::new();
        for (verb, action, needs, body) in entries {
            if resource.allows(needs) {
                item.insert((*verb).to_owned(), operation(verb, action, *body));
            }
        }
        if !item.is_empty() {
            paths.insert(path.to_owned(), item.into());
        }
    };
    add(
        &collection,
        &[
            ("get", "list", "list", false),
            ("post", "post", "create", true),
            ("delete", "deletecollection", "deletecollection", false),
        ],
    );
    add(
        &object,
        &[
            ("get", "get", "get", false),
            ("put", "put", "update", true),
            ("patch", "patch", "patch", true),
            ("delete", "delete", "delete", false),
        ],
    );
    for sub in &resource.subresources {
        let mut item = Map::new();
        for (verb, action, needs) in [
            ("get", "get", "get"),
            ("put", "put", "update"),
            ("patch", "patch", "patch"),
            ("post", "post", "create"),
        ] {
            if sub.verbs.iter().any(|v| v == needs) {
                let mut entry = operation(verb, action, verb != "get");
                entry["x-kubernetes-group-version-kind"] = json!({
                    "group": sub.group.as_deref().unwrap_or(&resource.group),
                    "version": sub.version.as_deref().unwrap_or(&resource.version),
                    "kind": sub.kind,
                });
                item.insert(verb.to_owned(), entry);
            }
        }
        paths.insert(format!("{object}/{}", sub.name), item.into());
    }
}

fn camel(text: &str) -> String {
    let words = text.split(['.', '-']);
    words
        .map(|word| {
            let mut chars = word.chars();
            chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Registry, definition_gvks};

    fn describes(definition: &Value, resource: &Resource) -> bool {
        let own = (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str());
        definition_gvks(definition).any(|gvk| gvk == own)
    }

    #[test]
    fn a_document_is_closed_under_references() {
        let catalogue = Registry::new().catalogue();
        let resources = catalogue.version("apps", "v1").expect("apps/v1");
        let document: Value = serde_json::from_slice(&make("apps", "v1", resources)).expect("JSON");
        let mut found = Vec::new();
        references(&document, &mut found);
        for name in found {
            assert!(document["components"]["schemas"][&name].is_object(), "{name} is missing");
        }
        let deployment = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
        assert!(describes(deployment, &resources["deployments"]));
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert!(patch["parameters"].as_array().expect("a list").iter().any(|p| p["name"] == "dryRun"));
        assert!(document["components"]["schemas"].get("io.k8s.api.batch.v1.Job").is_none());
    }
}
