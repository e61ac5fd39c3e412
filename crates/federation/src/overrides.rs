//! Overrides: how one member's copy differs from the template (`spec/kubefed.md §2.5`, §0 items 2 and 3).

use std::collections::{BTreeMap, BTreeSet};

use hansa_machinery::gojson;
use hansa_machinery::json_patch::{self, Operation};
use serde_json::{Map, Value, json};

/// What an override may touch below `/metadata`; the rest is identity, which the federation decides.
const METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

/// Why the overrides of one cluster cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    /// `spec.overrides` has another shape than the API gives it.
    #[error("spec.overrides{at} must be {expected}")]
    Shape {
        /// The place below `spec.overrides`.
        at: String,
        /// What must stand there.
        expected: &'static str,
    },
    /// Two entries of `spec.overrides` name the same cluster: which one holds is not defined.
    #[error("cluster {0:?} appears twice in spec.overrides; merge the two entries")]
    DuplicateCluster(String),
    /// Two operations of one cluster have the same path.
    #[error("path {path:?} is overridden twice for cluster {cluster:?}; keep one of the two")]
    DuplicatePath {
        /// The cluster.
        cluster: String,
        /// The path.
        path: String,
    },
    /// The path belongs to the identity of the object.
    #[error("path {0:?} must not be overridden")]
    ForbiddenPath(String),
    /// Only `add`, `remove` and `replace` are operations of an override.
    #[error("operation {0:?} is not one of add, remove, replace")]
    Operation(String),
    /// The template does not have what the override wants to change.
    #[error("override cannot be applied to the template: {0}")]
    Apply(String),
}

/// The overrides of one federated object, by cluster; what is wrong for one cluster concerns that cluster alone.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    clusters: BTreeMap<String, Result<Vec<Operation>, OverrideError>>,
    broken: Option<OverrideError>,
}

impl Overrides {
    /// Reads `spec.overrides` of a federated object.
    pub fn parse(federated: &Value) -> Self {
        let mut overrides = Self::default();
        match &federated["spec"]["overrides"] {
            Value::Null => {}
            Value::Array(entries) => {
                entries.iter().enumerate().for_each(|(i, entry)| overrides.add(i, entry))
            }
            _ => overrides.broken = Some(OverrideError::Shape { at: String::new(), expected: "a list" }),
        }
        overrides
    }

    fn add(&mut self, index: usize, entry: &Value) {
        let Some(cluster) = entry["clusterName"].as_str() else {
            // Nobody can say whom this entry was meant for, so nobody is given an object it may belong to.
            let at = format!("[{index}].clusterName");
            self.broken = Some(OverrideError::Shape { at, expected: "the name of a cluster" });
            return;
        };
        let operations = if self.clusters.contains_key(cluster) {
            Err(OverrideError::DuplicateCluster(cluster.to_owned()))
        } else {
            operations(index, cluster, &entry["clusterOverrides"])
        };
        self.clusters.insert(cluster.to_owned(), operations);
    }

    /// The clusters that have overrides, sound or not.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        self.clusters.keys().map(String::as_str)
    }

    /// Whether the overrides of a cluster reach into its copy's metadata.
    pub fn touch_metadata(&self, cluster: &str) -> bool {
        let Some(Ok(operations)) = self.clusters.get(cluster) else { return false };
        operations.iter().any(|op| segments(&op.path).next().as_deref() == Some("metadata"))
    }

    /// Applies the overrides of a cluster to its copy.
    pub fn apply(&self, cluster: &str, object: &mut Value) -> Result<(), OverrideError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        match self.clusters.get(cluster) {
            None => Ok(()),
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(operations)) => {
                json_patch::apply(object, operations).map_err(|error| OverrideError::Apply(error.to_string()))
            }
        }
    }
}

fn operations(index: usize, cluster: &str, list: &Value) -> Result<Vec<Operation>, OverrideError> {
    let at = |rest: &str| format!("[{index}].clusterOverrides{rest}");
    let list = match list {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => return Err(OverrideError::Shape { at: at(""), expected: "a list" }),
    };
    let mut paths = BTreeSet::new();
    let mut operations = Vec::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        let shape = |expected| OverrideError::Shape { at: at(&format!("[{i}]")), expected };
        let path = item["path"].as_str().ok_or_else(|| shape("an object with a path"))?;
        let op = match &item["op"] {
            Value::Null => "replace",
            Value::String(op) if op.is_empty() => "replace",
            Value::String(op) if matches!(op.as_str(), "add" | "remove" | "replace") => op,
            other => return Err(OverrideError::Operation(other.as_str().unwrap_or("?").to_owned())),
        };
        if forbidden(path) {
            return Err(OverrideError::ForbiddenPath(path.to_owned()));
        }
        if !paths.insert(path) {
            return Err(OverrideError::DuplicatePath { cluster: cluster.to_owned(), path: path.to_owned() });
        }
        let value = (op != "remove").then(|| item["value"].clone());
        operations.push(Operation { op: op.to_owned(), path: path.to_owned(), from: None, value });
    }
    Ok(operations)
}

/// The decoded segments of a JSON pointer; what stands before the first `/` is ignored, as the patches are applied so.
fn segments(path: &str) -> impl Iterator<Item = String> {
    path.split('/').skip(1).map(|segment| segment.replace("~1", "/").replace("~0", "~"))
}

fn forbidden(path: &str) -> bool {
    let mut segments = segments(path);
    match segments.next().as_deref() {
        None | Some("kind" | "") => true,
        Some("metadata") => !segments.next().is_some_and(|field| METADATA.contains(&field.as_str())),
        _ => false,
    }
}

/// `spec.overrides` in the form whose hash is the overrides version: the Go struct, with numbers as float64
/// (`spec/kubefed.md §0` items 1 and 2).
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
    json!({ "clusterName": entry["clusterName"].as_str().unwrap_or_default(), "clusterOverrides": operations })
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(operations: Value) -> Overrides {
        Overrides::parse(
            &json!({"spec": {"overrides": [{"clusterName": "c1", "clusterOverrides": operations}]}}),
        )
    }

    fn applied(operations: Value, mut object: Value) -> Result<Value, OverrideError> {
        one(operations).apply("c1", &mut object).map(|()| object)
    }

    #[test]
    fn replace_is_the_default_and_creates_a_missing_key() {
        let got = applied(json!([{"path": "/spec/replicas", "value": 3}]), json!({"spec": {}}));
        assert_eq!(got, Ok(json!({"spec": {"replicas": 3}})));
        let got =
            applied(json!([{"path": "/metadata/labels", "value": {"a": "b"}}]), json!({"metadata": {}}));
        assert_eq!(got, Ok(json!({"metadata": {"labels": {"a": "b"}}})));
    }

    #[test]
    fn other_clusters_are_left_as_they_are() {
        let mut object = json!({"spec": {"replicas": 1}});
        one(json!([{"path": "/spec/replicas", "value": 3}])).apply("c2", &mut object).unwrap();
        assert_eq!(object, json!({"spec": {"replicas": 1}}));
    }

    #[test]
    fn a_bad_override_hurts_its_own_cluster_alone() {
        let overrides = Overrides::parse(&json!({"spec": {"overrides": [
            {"clusterName": "bad", "clusterOverrides": [{"path": "/kind", "value": "Pod"}]},
            {"clusterName": "good", "clusterOverrides": [{"path": "/spec", "value": 1}]},
            {"clusterName": "missing", "clusterOverrides": [{"op": "remove", "path": "/spec/none"}]},
        ]}}));
        let mut object = json!({"spec": {}});
        assert_eq!(overrides.apply("bad", &mut object), Err(OverrideError::ForbiddenPath("/kind".into())));
        assert!(matches!(overrides.apply("missing", &mut object.clone()), Err(OverrideError::Apply(_))));
        assert_eq!(overrides.apply("good", &mut object), Ok(()));
        assert_eq!(object, json!({"spec": 1}));
    }

    #[test]
    fn a_cluster_named_twice_is_refused_for_that_cluster() {
        let entry = json!({"clusterName": "c1", "clusterOverrides": []});
        let overrides =
            Overrides::parse(&json!({"spec": {"overrides": [entry, entry, {"clusterName": "c2"}]}}));
        assert_eq!(overrides.apply("c1", &mut json!({})), Err(OverrideError::DuplicateCluster("c1".into())));
        assert_eq!(overrides.apply("c2", &mut json!({})), Ok(()));
    }

    #[test]
    fn a_path_overridden_twice_is_refused() {
        let got =
            applied(json!([{"path": "/a", "value": 1}, {"op": "add", "path": "/a", "value": 2}]), json!({}));
        assert!(matches!(got, Err(OverrideError::DuplicatePath { .. })));
    }

    #[test]
    fn identity_cannot_be_overridden_however_it_is_spelled() {
        let paths = [
            "",
            "/",
            "kind",
            "/kind",
            "x/kind",
            "/metadata",
            "/metadata/name",
            "/metadata/namespace",
            "/metadata/generateName",
            "/metadata/uid",
            "/metadata/resourceVersion",
            "/metadata/managedFields/0",
            "/metadata/name/x",
            "/metadata/",
        ];
        for path in paths {
            let got = applied(json!([{"path": path, "value": "x"}]), json!({"metadata": {}}));
            assert_eq!(got, Err(OverrideError::ForbiddenPath(path.into())), "{path}");
        }
        assert!(applied(json!([{"path": "/apiVersion", "value": "apps/v1"}]), json!({})).is_ok());
    }

    #[test]
    fn operations_other_than_the_three_are_refused() {
        for op in ["move", "copy", "test", "Replace"] {
            let got = applied(json!([{"op": op, "path": "/a", "from": "/b", "value": 1}]), json!({"b": 1}));
            assert_eq!(got, Err(OverrideError::Operation(op.into())));
        }
    }

    #[test]
    fn malformed_lists_are_errors() {
        assert!(Overrides::parse(&json!({"spec": {"overrides": "x"}})).apply("c1", &mut json!({})).is_err());
        assert!(Overrides::parse(&json!({"spec": {"overrides": [{}]}})).apply("c1", &mut json!({})).is_err());
        assert!(applied(json!("x"), json!({})).is_err());
        assert!(applied(json!(["x"]), json!({})).is_err());
    }

    #[test]
    fn overrides_that_reach_into_metadata_are_known() {
        assert!(one(json!([{"path": "/metadata/labels/a", "value": "b"}])).touch_metadata("c1"));
        assert!(!one(json!([{"path": "/spec/template/metadata", "value": {}}])).touch_metadata("c1"));
    }

    proptest! {
        #[test]
        fn no_override_changes_the_identity(path in "[a-z/~01]{0,12}|/metadata/[a-z]{0,9}|/kind[/a-z]{0,3}", op in "add|remove|replace") {
            let object = json!({"kind": "ConfigMap", "metadata": {"name": "n", "namespace": "ns", "labels": {}}, "data": {}});
            if let Ok(after) = applied(json!([{"op": op, "path": path, "value": "x"}]), object.clone()) {
                prop_assert_eq!(&after["kind"], &object["kind"]);
                prop_assert_eq!(&after["metadata"]["name"], &object["metadata"]["name"]);
                prop_assert_eq!(&after["metadata"]["namespace"], &object["metadata"]["namespace"]);
            }
        }
    }
}
