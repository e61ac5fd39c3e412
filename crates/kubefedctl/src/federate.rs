//! `federate`: a federated object is made from an object, for all members (`spec/kubefed.md §3`). All of it is pure.

use hansa_api::federated::{TargetType, plural};
use hansa_api::kubefed::{FederatedTypeConfigSpec, ResourceScope};
use serde_json::{Map, Value, json};

use crate::Error;

/// A federated object, and what of its origin it does not say.
#[derive(Clone, Debug, PartialEq)]
pub struct Federated {
    /// The object.
    pub object: Value,
    /// The keys of annotations that are not in its template.
    pub dropped: Vec<String>,
}

/// Makes the federated object of `object`: its template is all of it but `apiVersion`, `kind`, `status`, the metadata other than
/// labels, and what the cluster it comes from decided for itself alone.
pub fn federated(types: &FederatedTypeConfigSpec, object: &Value) -> Federated {
    let metadata = &object["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
    let target = &types.target_type;
    let is_namespace = target.kind == "Namespace" && target.group.is_empty();

    let mut made = json!({ "name": text("name") });
    if types.federated_type.is_namespaced() {
        let namespace = if is_namespace { text("name") } else { text("namespace") };
        if !namespace.is_empty() {
            made["namespace"] = namespace.into();
        }
    }
    let annotations = metadata["annotations"].as_object();
    Federated {
        object: json!({
            "apiVersion": types.federated_type.api_version(),
            "kind": types.federated_type.kind,
            "metadata": made,
            "spec": {
                "template": template(&target.kind, object),
                "placement": { "clusterSelector": { "matchLabels": {} } },
            },
        }),
        dropped: annotations.into_iter().flat_map(Map::keys).cloned().collect(),
    }
}

fn template(kind: &str, object: &Value) -> Value {
    let mut template = object.as_object().cloned().unwrap_or_default();
    for field in ["apiVersion", "kind", "status"] {
        template.remove(field);
    }
    let labels = template.remove("metadata").and_then(|mut metadata| {
        let labels = metadata.get_mut("labels").map(Value::take)?;
        labels.as_object().is_some_and(|labels| !labels.is_empty()).then_some(labels)
    });
    if let Some(labels) = labels {
        template.insert("metadata".to_owned(), json!({ "labels": labels }));
    }
    let spec = template.get_mut("spec").and_then(Value::as_object_mut);
    match (kind, spec) {
        ("Namespace", Some(spec)) => drop(spec.remove("finalizers")),
        ("ServiceAccount", _) => drop(template.remove("secrets")),
        ("Service", Some(spec)) => {
            for field in ["clusterIP", "clusterIPs"] {
                spec.remove(field);
            }
            let ports = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
            for port in ports.filter_map(Value::as_object_mut) {
                port.remove("nodePort");
            }
        }
        _ => {}
    }
    template.into()
}

/// The type of an object in a file, as far as the object itself tells: it is namespaced if it names its namespace.
pub fn guess(object: &Value) -> Option<TargetType> {
    let kind = object["kind"].as_str().filter(|kind| !kind.is_empty())?;
    let api_version = object["apiVersion"].as_str().filter(|version| !version.is_empty())?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let namespaced = object["metadata"]["namespace"].as_str().is_some_and(|namespace| !namespace.is_empty());
    Some(TargetType {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        plural_name: plural(kind),
        scope: if namespaced { ResourceScope::Namespaced } else { ResourceScope::Cluster },
    })
}

/// The objects of a file with YAML or JSON documents; empty documents are none.
pub fn documents(text: &str) -> Result<Vec<Value>, Error> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| Error::File(format!("not YAML: {error}")))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// The federated objects of the objects in a file. No cluster is asked.
pub fn from_documents(text: &str) -> Result<Vec<Federated>, Error> {
    let described = |index: usize, what: &str| Error::File(format!("document {}: {what}", index + 1));
    let federate = |(index, object): (usize, &Value)| {
        let target = guess(object).ok_or_else(|| described(index, "apiVersion and kind are required"))?;
        if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
            return Err(described(index, "metadata.name is required"));
        }
        Ok(federated(&hansa_api::federated::type_config(&target).spec, object))
    };
    documents(text)?.iter().enumerate().map(federate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(object: &Value) -> Value {
        let target = guess(object).unwrap();
        federated(&hansa_api::federated::type_config(&target).spec, object).object
    }

    #[test]
    fn the_template_keeps_labels_and_what_the_object_says() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "shop", "uid": "1", "resourceVersion": "7", "generation": 2,
                "labels": {"app": "web"}, "annotations": {"deployment.kubernetes.io/revision": "1"},
                "ownerReferences": [{"name": "o"}], "managedFields": []},
            "spec": {"replicas": 3},
            "status": {"readyReplicas": 3},
        });
        assert_eq!(
            made(&object),
            json!({
                "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedDeployment",
                "metadata": {"name": "web", "namespace": "shop"},
                "spec": {
                    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"replicas": 3}},
                    "placement": {"clusterSelector": {"matchLabels": {}}},
                },
            })
        );
        let target = hansa_api::federated::type_config(&guess(&object).unwrap()).spec;
        assert_eq!(federated(&target, &object).dropped, ["deployment.kubernetes.io/revision"]);
    }

    #[test]
    fn a_namespace_holds_its_own_federated_namespace() {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let federated = made(&object);
        assert_eq!(federated["metadata"], json!({"name": "shop", "namespace": "shop"}));
        assert_eq!(federated["spec"]["template"], json!({"spec": {}}));
    }

    #[test]
    fn what_a_cluster_decided_for_itself_stays_behind() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"], "type": "NodePort",
                "ports": [{"port": 80, "nodePort": 30080}, {"port": 81}]}});
        assert_eq!(
            made(&service)["spec"]["template"],
            json!({"spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}})
        );
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ci", "namespace": "shop"},
            "secrets": [{"name": "ci-token"}], "imagePullSecrets": [{"name": "registry"}]});
        assert_eq!(made(&account)["spec"]["template"], json!({"imagePullSecrets": [{"name": "registry"}]}));
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"}});
        assert_eq!(made(&role)["metadata"], json!({"name": "r"}));
    }

    #[test]
    fn a_file_may_hold_several_objects_and_mistakes_are_counted() {
        let object = |name: &str| {
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: n}}\n")
        };
        let text = format!("---\n{}---\n---\n{}", object("a"), object("b"));
        let names: Vec<Value> = from_documents(&text)
            .unwrap()
            .into_iter()
            .map(|federated| federated.object["metadata"]["name"].clone())
            .collect();
        assert_eq!(names, ["a", "b"]);
        let error = from_documents(&format!("{}---\nkind: X\n", object("a"))).unwrap_err().to_string();
        assert!(error.contains("document 2"), "{error}");
        for wrong in ["- 1", "a: [", "7", "apiVersion: v1\nkind: ConfigMap"] {
            assert!(from_documents(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        /// Files are read or refused, whatever is in them.
        #[test]
        fn any_file_is_read_or_refused(text in "\\PC{0,60}", yaml in "([a-z\\-]{1,4}:?[ \n\\[{&*!|>]{0,2}){0,12}") {
            for text in [&text, &yaml, &format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n{yaml}")] {
                drop(from_documents(text));
                drop(crate::Directive::parse(text));
            }
        }

        /// Nothing of a kind's own content is lost, and nothing that is not content stays, whatever an object looks like.
        #[test]
        fn content_is_kept_whatever_it_is(content in "[a-z]{1,8}", value in any::<i64>(), with_metadata in any::<bool>()) {
            prop_assume!(!["status", "metadata", "kind", "secrets"].contains(&content.as_str()));
            let mut object = json!({"apiVersion": "v1", "kind": "Thing", "status": {"a": 1}});
            object[&content] = value.into();
            if with_metadata {
                object["metadata"] = json!({"name": "n", "finalizers": ["f"]});
            }
            let template = template("Thing", &object);
            prop_assert_eq!(template, json!({ content: value }));
        }
    }
}
