//! Whether the objects of a type have replicas, which a federated object may then leave to the members (`spec/kubefed.md §1.7`).

use hansa_api::federated::TargetType;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client};
use serde_json::Value;

use crate::Error;
use crate::error::is_code;

/// Whether `spec.replicas` of the type is an integer: by its CRD if it has one, else by the server's API documents.
pub(crate) async fn has_replicas(client: &Client, target: &TargetType) -> Result<bool, Error> {
    let name = target.qualified_plural();
    let reading = || Error::doing(format!("cannot read the schema of {name}"));
    if !target.group.is_empty() {
        let crds = Api::<CustomResourceDefinition>::all(client.clone());
        if let Some(crd) = crds.get_opt(&name).await.map_err(reading())? {
            return Ok(in_crd(&serde_json::to_value(crd).unwrap_or_default(), &target.version));
        }
    }
    let path = match target.group.as_str() {
        "" => format!("/openapi/v3/api/{}", target.version),
        group => format!("/openapi/v3/apis/{group}/{}", target.version),
    };
    let document = match document(client, &path).await {
        // Servers before 1.24 have the older document only, with all their types in it.
        Err(error) if is_code(&error, 404) => document(client, "/openapi/v2").await,
        found => found,
    };
    Ok(in_document(&document.map_err(reading())?, target))
}

async fn document(client: &Client, path: &str) -> kube::Result<Value> {
    let request = http_get(path)?;
    client.request(request).await
}

fn http_get(path: &str) -> kube::Result<http::Request<Vec<u8>>> {
    let request = http::Request::get(path).header(http::header::ACCEPT, "application/json");
    request.body(Vec::new()).map_err(kube::Error::HttpError)
}

fn in_crd(crd: &Value, version: &str) -> bool {
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
    let schema = versions
        .into_iter()
        .find(|found| found["name"] == version)
        .and_then(|found| found.pointer("/schema/openAPIV3Schema"));
    schema.is_some_and(|schema| is_int32(schema.pointer("/properties/spec/properties/replicas")))
}

fn in_document(document: &Value, target: &TargetType) -> bool {
    let schemas = document.pointer("/components/schemas").or_else(|| document.get("definitions"));
    let Some(schemas) = schemas.and_then(Value::as_object) else { return false };
    let is_target = |schema: &&Value| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.into_iter().flatten().any(|kind| {
            kind["kind"] == target.kind.as_str()
                && kind["version"] == target.version.as_str()
                && kind["group"].as_str().unwrap_or_default() == target.group
        })
    };
    let spec = schemas.values().find(is_target).and_then(|schema| schema.pointer("/properties/spec"));
    let spec = spec.map(|spec| match reference(spec) {
        Some(name) => schemas.get(name).unwrap_or(spec),
        None => spec,
    });
    spec.is_some_and(|spec| is_int32(spec.pointer("/properties/replicas")))
}

/// The name of the schema that another one stands for: directly, or with a default or a description beside it.
fn reference(schema: &Value) -> Option<&str> {
    let reference = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref"))?;
    reference.as_str()?.rsplit('/').next()
}

fn is_int32(schema: Option<&Value>) -> bool {
    schema.is_some_and(|schema| schema["type"] == "integer" && schema["format"] == "int32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hansa_api::kubefed::ResourceScope;
    use serde_json::json;

    fn target(group: &str, kind: &str) -> TargetType {
        TargetType {
            group: group.to_owned(),
            version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural_name: format!("{}s", kind.to_lowercase()),
            scope: ResourceScope::Namespaced,
        }
    }

    #[test]
    fn replicas_are_found_behind_a_reference_in_both_documents() {
        let gvk = |group: &str, kind: &str| json!([{"group": group, "version": "v1", "kind": kind}]);
        let schemas = |spec: Value| {
            json!({
                "Deployment": {"x-kubernetes-group-version-kind": gvk("apps", "Deployment"), "properties": {"spec": spec}},
                "DaemonSet": {"x-kubernetes-group-version-kind": gvk("apps", "DaemonSet"), "properties": {"spec": {"properties": {}}}},
                "io.k8s.DeploymentSpec": {"properties": {"replicas": {"type": "integer", "format": "int32"}}},
            })
        };
        let v3 = json!({"components": {"schemas":
            schemas(json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.DeploymentSpec"}], "default": {}}))}});
        let v2 = json!({"definitions": schemas(json!({"$ref": "#/definitions/io.k8s.DeploymentSpec"}))});
        for document in [v3, v2] {
            assert!(in_document(&document, &target("apps", "Deployment")));
            assert!(!in_document(&document, &target("apps", "DaemonSet")));
            assert!(!in_document(&document, &target("other.example.org", "Deployment")));
        }
        assert!(!in_document(&Value::Null, &target("apps", "Deployment")));
    }

    #[test]
    fn of_a_custom_resource_the_version_that_is_federated_counts() {
        let version = |name: &str, format: &str| {
            json!({"name": name, "schema": {"openAPIV3Schema": {"properties": {"spec": {"properties":
                {"replicas": {"type": "integer", "format": format}}}}}}})
        };
        let crd = json!({"spec": {"versions": [version("v1alpha1", "int64"), version("v1", "int32")]}});
        assert!(in_crd(&crd, "v1"));
        assert!(!in_crd(&crd, "v1alpha1"));
        assert!(!in_crd(&crd, "v2"));
    }
}
