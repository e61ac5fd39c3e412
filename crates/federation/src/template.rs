//! The object a member is to have: template, what the member retains, overrides, and the managed label
//! (`spec/kubefed.md §2.5`, §0 item 4).

use hansa_api::names;
use serde_json::{Map, Value};

use crate::overrides::{Cluster, OverrideError, Overrides};
use crate::retain;
use crate::types::TypeConfig;

/// Metadata that a server gives; a template that was copied from a live object must not carry it into a member.
const SERVER_GIVEN: [&str; 8] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    "selfLink",
    "generateName",
];

/// Why the copy of a member cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `spec.template` or its metadata is not an object.
    #[error("{0} must be an object")]
    Shape(&'static str),
    /// The apiVersion of the template or of an override belongs to another API group.
    #[error("apiVersion {found:?} is not of the group {group:?} of the type")]
    Group {
        /// What the copy says.
        found: String,
        /// What the type says.
        group: String,
    },
    /// The overrides of this member.
    #[error(transparent)]
    Override(#[from] OverrideError),
}

/// The copy before what a member retains and overrides: the template under the name, namespace and kind of the target.
///
/// Finalizers are dropped, as they would block the deletion of the copy by someone who has never heard of them; labels and,
/// unlike KubeFed, annotations are kept.
pub fn base(types: &TypeConfig, federated: &Value) -> Result<Value, TemplateError> {
    let mut object = match &federated["spec"]["template"] {
        Value::Null => Map::new(),
        Value::Object(template) => template.clone(),
        _ => return Err(TemplateError::Shape("spec.template")),
    };
    let mut metadata = match object.remove("metadata") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(metadata)) => metadata,
        Some(_) => return Err(TemplateError::Shape("spec.template.metadata")),
    };
    for field in SERVER_GIVEN.iter().chain(&["finalizers", "namespace"]) {
        metadata.remove(*field);
    }
    let (name, namespace) = (&federated["metadata"]["name"], &federated["metadata"]["namespace"]);
    metadata.insert("name".into(), name.clone());
    if types.target_namespaced {
        metadata.insert("namespace".into(), namespace.clone());
    }
    object.insert("metadata".into(), metadata.into());
    object.insert("kind".into(), types.target.kind.clone().into());
    if object.get("apiVersion").and_then(Value::as_str).is_none_or(str::is_empty) {
        object.insert("apiVersion".into(), types.target.api_version.clone().into());
    }
    Ok(object.into())
}

/// Whether the template has finalizers, which are not propagated.
pub fn has_finalizers(federated: &Value) -> bool {
    federated["spec"]["template"]["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

/// Whether `spec.retainReplicas` is set.
pub fn retains_replicas(federated: &Value) -> bool {
    federated["spec"]["retainReplicas"] == true
}

/// Whether the copies of this object can be computed only from what is live.
pub fn needs_live(types: &TypeConfig, federated: &Value) -> bool {
    let template = &federated["spec"]["template"];
    retain::needs_live(&types.target.group, &types.target.kind, template, retains_replicas(federated))
}

/// The copy for one member; `live` is what it has now, `None` when it is to be created.
pub fn for_member(
    types: &TypeConfig,
    federated: &Value,
    overrides: &Overrides,
    cluster: Cluster<'_>,
    live: Option<&Value>,
) -> Result<Value, TemplateError> {
    let mut object = base(types, federated)?;
    if let Some(live) = live {
        let replicas = retains_replicas(federated);
        let manager = names::FIELD_MANAGER_FEDERATION;
        retain::retain(&types.target.group, &types.target.kind, &mut object, live, replicas, manager);
    }
    finish(types, object, overrides, cluster)
}

/// What of a copy does not need the member: its overrides, the managed label, and that it still is of its type.
pub(crate) fn finish(
    types: &TypeConfig,
    mut object: Value,
    overrides: &Overrides,
    cluster: Cluster<'_>,
) -> Result<Value, TemplateError> {
    overrides.apply(cluster, &mut object)?;
    let metadata =
        object.get_mut("metadata").and_then(Value::as_object_mut).ok_or(TemplateError::Shape("metadata"))?;
    let labels = metadata.entry("labels").or_insert(Value::Null);
    if labels.is_null() {
        *labels = Value::Object(Map::new());
    }
    let labels = labels.as_object_mut().ok_or(TemplateError::Shape("metadata.labels"))?;
    labels.insert(names::LABEL_MANAGED.into(), names::MANAGED_TRUE.into());
    let found = object["apiVersion"].as_str().unwrap_or_default();
    if found.is_empty() || group_of(found) != types.target.group {
        return Err(TemplateError::Group { found: found.to_owned(), group: types.target.group.clone() });
    }
    Ok(object)
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::tests::{deployments, namespaces};
    use serde_json::json;
    use std::collections::BTreeMap;

    fn federated(template: Value, overrides: Value) -> Value {
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"template": template, "overrides": overrides}})
    }

    fn unlabelled(name: &str) -> Cluster<'_> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        Cluster { name, labels: &NONE }
    }

    fn copy(federated: &Value) -> Result<Value, TemplateError> {
        for_member(&deployments(), federated, &Overrides::parse(federated), unlabelled("c1"), None)
    }

    #[test]
    fn identity_comes_from_the_federated_object() {
        let template = json!({"kind": "Pod", "metadata": {"name": "x", "namespace": "y", "uid": "u", "generateName": "z"}});
        assert_eq!(
            copy(&federated(template, Value::Null)).unwrap(),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "web", "namespace": "shop", "labels": {"kubefed.io/managed": "true"}},
            })
        );
    }

    #[test]
    fn a_missing_template_is_an_empty_one() {
        let federated = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {}});
        assert_eq!(copy(&federated).unwrap()["metadata"]["name"], "web");
    }

    #[test]
    fn a_namespace_has_no_namespace() {
        let federated = json!({"metadata": {"name": "shop", "namespace": "shop"}, "spec": {"template": {}}});
        let copy =
            for_member(&namespaces(), &federated, &Overrides::default(), unlabelled("c1"), None).unwrap();
        assert_eq!(copy["metadata"], json!({"name": "shop", "labels": {"kubefed.io/managed": "true"}}));
        assert_eq!(copy["apiVersion"], "v1");
    }

    #[test]
    fn annotations_propagate_and_finalizers_do_not() {
        let template = json!({"metadata": {"annotations": {"a": "b"}, "finalizers": ["x/y"]}});
        let federated = federated(template, Value::Null);
        assert!(has_finalizers(&federated));
        let copy = copy(&federated).unwrap();
        assert_eq!(copy["metadata"]["annotations"], json!({"a": "b"}));
        assert_eq!(copy["metadata"].get("finalizers"), None);
    }

    #[test]
    fn the_managed_label_cannot_be_overridden_away() {
        for operations in [
            json!([{"path": "/metadata/labels", "value": {"kubefed.io/managed": "false"}}]),
            json!([{"op": "add", "path": "/metadata/labels", "value": null}]),
        ] {
            let overrides = json!([{"clusterName": "c1", "clusterOverrides": operations}]);
            assert_eq!(
                copy(&federated(json!({}), overrides)).unwrap()["metadata"]["labels"]["kubefed.io/managed"],
                "true"
            );
        }
    }

    #[test]
    fn the_version_of_the_api_may_differ_but_not_its_group() {
        assert_eq!(
            copy(&federated(json!({"apiVersion": "apps/v1beta2"}), Value::Null)).unwrap()["apiVersion"],
            "apps/v1beta2"
        );
        assert!(matches!(
            copy(&federated(json!({"apiVersion": "v1"}), Value::Null)),
            Err(TemplateError::Group { .. })
        ));
    }

    #[test]
    fn templates_of_another_shape_are_errors() {
        assert!(copy(&federated(json!("x"), Value::Null)).is_err());
        assert!(copy(&federated(json!({"metadata": "x"}), Value::Null)).is_err());
        assert!(copy(&federated(json!({"metadata": {"labels": "x"}}), Value::Null)).is_err());
    }

    #[test]
    fn retention_comes_before_overrides() {
        let mut federated = federated(
            json!({"spec": {"replicas": 1}}),
            json!([{"clusterName": "c1", "clusterOverrides": [{"path": "/spec/replicas", "value": 5}]}]),
        );
        federated["spec"]["retainReplicas"] = true.into();
        let live = json!({"spec": {"replicas": 9}});
        let overrides = Overrides::parse(&federated);
        let copy = |cluster| {
            for_member(&deployments(), &federated, &overrides, unlabelled(cluster), Some(&live)).unwrap()
        };
        assert_eq!(copy("c1")["spec"]["replicas"], 5);
        assert_eq!(copy("c2")["spec"].get("replicas"), None);
    }
}
