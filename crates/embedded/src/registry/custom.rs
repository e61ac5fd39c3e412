//! The resources that a CustomResourceDefinition defines.

use std::sync::Arc;

use hansa_machinery::{Schema, status::Cause};
use serde_json::Value;

use super::{Resource, Subresource, names, storage_name};

/// The finalizer that keeps a definition until its objects are gone.
pub(crate) const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The storage name of the definitions themselves.
pub(crate) const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// What only custom resources have.
#[derive(Debug)]
pub(crate) struct Custom {
    /// The uid of the definition.
    pub(crate) uid: String,
    /// The revision of the definition: objects written later went through it as it is.
    pub(crate) since: u64,
    /// The version objects are stored in.
    pub(crate) storage_version: String,
    /// `additionalPrinterColumns`.
    pub(crate) columns: Value,
    /// JSON paths of the fields that select.
    pub(crate) selectable: Vec<String>,
    /// Whether `status` is a subresource, so that the main resource does not write it.
    pub(crate) status: bool,
    /// Where replicas are, if `scale` is a subresource.
    pub(crate) scale: Option<ScalePaths>,
    /// `openAPIV3Schema` as written, for publication.
    pub(crate) published: Value,
    /// `spec.preserveUnknownFields`.
    pub(crate) preserve_unknown: bool,
    /// The definition is being deleted: nothing new may be created.
    pub(crate) terminating: bool,
    /// The warning for callers of a deprecated version.
    pub(crate) deprecation: Option<String>,
}

/// Where `scale` finds its numbers in a custom resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: String,
    pub(crate) status_replicas: String,
    pub(crate) selector: Option<String>,
}

impl ScalePaths {
    /// What an object has at these paths must be what a `Scale` can say (`ValidateScaleSpec`, `ValidateScaleStatus`).
    pub(crate) fn validate(&self, object: &Value, status_only: bool) -> Vec<Cause> {
        let mut causes = Vec::new();
        let mut invalid = |path: &str, value: &str, detail: String| {
            let message = format!("Invalid value: {value}: {detail}");
            causes.push(Cause { reason: "FieldValueInvalid", field: path.to_owned(), message });
        };
        let replicas =
            (!status_only).then_some(&self.spec_replicas).into_iter().chain([&self.status_replicas]);
        for path in replicas {
            let number = at(object, path).and_then(|found| match found {
                None => Ok(0),
                Some(value) => value.as_i64().ok_or_else(|| wrong_type(path, value, "int64")),
            });
            match number {
                Err(detail) => invalid(path, "0", detail),
                Ok(n) if n < 0 => invalid(path, &n.to_string(), "should be a non-negative integer".into()),
                Ok(n) if n > i64::from(i32::MAX) => {
                    let detail = format!("should be less than or equal to {}", i32::MAX);
                    invalid(path, &n.to_string(), detail);
                }
                Ok(_) => {}
            }
        }
        if let Some(path) = &self.selector {
            match at(object, path) {
                Ok(Some(value)) if !value.is_string() => {
                    invalid(path, "\"\"", wrong_type(path, value, "string"));
                }
                Err(detail) => invalid(path, "\"\"", detail),
                Ok(_) => {}
            }
        }
        causes
    }
}

/// The value at a path such as `.spec.replicas`; below a value that is not an object there is an error.
fn at<'a>(object: &'a Value, path: &str) -> Result<Option<&'a Value>, String> {
    let (mut value, mut walked) = (object, String::new());
    for name in path.trim_start_matches('.').split('.') {
        walked = format!("{walked}.{name}");
        match value {
            Value::Null => return Ok(None),
            Value::Object(map) => match map.get(name) {
                Some(found) => value = found,
                None => return Ok(None),
            },
            other => return Err(wrong_type(&walked, other, "map[string]interface{}")),
        }
    }
    Ok(Some(value))
}

/// The complaint about a value, with the names that Go has for types.
fn wrong_type(path: &str, value: &Value, wanted: &str) -> String {
    let (shown, found) = match value {
        Value::Null => ("<nil>".into(), "<nil>"),
        Value::Bool(flag) => (flag.to_string(), "bool"),
        Value::Number(number) if number.is_f64() => (number.to_string(), "float64"),
        Value::Number(number) => (number.to_string(), "int64"),
        Value::String(text) => (text.clone(), "string"),
        Value::Array(_) => (value.to_string(), "[]interface {}"),
        Value::Object(_) => (value.to_string(), "map[string]interface {}"),
    };
    format!("{path} accessor error: {shown} is of the type {found}, expected {wanted}")
}

/// The status of the condition `kind` of a definition.
pub(crate) fn condition<'a>(definition: &'a Value, kind: &str) -> Option<&'a Value> {
    definition["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

/// Whether the definition may be served.
pub(crate) fn is_established(definition: &Value) -> bool {
    condition(definition, "Established").is_some_and(|c| c["status"] == "True")
}

/// The resources that an established definition serves, one for each served version.
pub(crate) fn resources(definition: &Value) -> Vec<Arc<Resource>> {
    if !is_established(definition) {
        return Vec::new();
    }
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| -> Vec<String> { value.as_array().into_iter().flatten().map(text).collect() };
    let group = text(&spec["group"]);
    // The accepted names are served, so that a conflict over a new name does not take the resource away.
    let accepted = &definition["status"]["acceptedNames"];
    let plural = text(&spec["names"]["plural"]);
    let kind = text(&accepted["kind"]);
    let list_kind =
        Some(text(&accepted["listKind"])).filter(|k| !k.is_empty()).unwrap_or_else(|| format!("{kind}List"));
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let storage_version =
        versions.iter().find(|v| v["storage"] == true).map(|v| text(&v["name"])).unwrap_or_default();
    let terminating = definition["metadata"]["deletionTimestamp"].is_string();
    let served = versions.iter().filter(|v| v["served"] == true);
    let served = served.map(|version| {
        let published = &version["schema"]["openAPIV3Schema"];
        let subresources = &version["subresources"];
        let scale = subresources["scale"].as_object().map(|scale| ScalePaths {
            spec_replicas: scale.get("specReplicasPath").map(text).unwrap_or_default(),
            status_replicas: scale.get("statusReplicasPath").map(text).unwrap_or_default(),
            selector: scale.get("labelSelectorPath").map(text).filter(|path| !path.is_empty()),
        });
        let status = subresources["status"].is_object();
        let name = text(&version["name"]);
        let deprecation = (version["deprecated"] == true).then(|| {
            let given = version["deprecationWarning"].as_str().map(str::to_owned);
            given.unwrap_or_else(|| format!("{group}/{name} {kind} is deprecated"))
        });
        Arc::new(Resource {
            group: group.clone(),
            name: plural.clone(),
            singular: text(&accepted["singular"]),
            kind: kind.clone(),
            list_kind: list_kind.clone(),
            namespaced: spec["scope"] != "Cluster",
            verbs: verbs(terminating),
            short_names: texts(&accepted["shortNames"]),
            categories: texts(&accepted["categories"]),
            subresources: subresources_of(&kind, status, scale.is_some()),
            storage: storage_name(&group, &plural).into(),
            schema: published.is_object().then(|| Schema::structural(published)),
            custom: Some(Custom {
                uid: text(&definition["metadata"]["uid"]),
                since: text(&definition["metadata"]["resourceVersion"]).parse().unwrap_or(u64::MAX),
                storage_version: storage_version.clone(),
                columns: version["additionalPrinterColumns"].clone(),
                selectable: version["selectableFields"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|field| text(&field["jsonPath"]).trim_start_matches('.').to_owned())
                    .collect(),
                status,
                scale,
                published: published.clone(),
                preserve_unknown: spec["preserveUnknownFields"] == true,
                terminating,
                deprecation,
            }),
            version: name,
        })
    });
    let mut served: Vec<_> = served.collect();
    served.sort_by(|a, b| names::compare_versions(&b.version, &a.version));
    served
}

/// A definition that is going away still lets its objects be read and removed.
fn verbs(terminating: bool) -> Vec<String> {
    let all = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
    all.into_iter().filter(|verb| !(terminating && *verb == "create")).map(str::to_owned).collect()
}

fn subresources_of(kind: &str, status: bool, scale: bool) -> Vec<Subresource> {
    let verbs = || ["get", "patch", "update"].map(str::to_owned).to_vec();
    let status = status.then(|| Subresource {
        name: "status".into(),
        kind: kind.to_owned(),
        group: None,
        version: None,
        verbs: verbs(),
    });
    let scale = scale.then(|| Subresource {
        name: "scale".into(),
        kind: "Scale".into(),
        group: Some("autoscaling".into()),
        version: Some("v1".into()),
        verbs: verbs(),
    });
    status.into_iter().chain(scale).collect()
}
