//! Objects as a real server stored them. `golden/defaults.json` was recorded from kube-apiserver 1.37.2: each `given`
//! object was created (as a dry run) and the answer kept, but for its UID, times, resource version and managed fields, and
//! for what allocation and admission add: the addresses of Services, protecting finalizers, the taint of a new Node.

use hansa_machinery::{defaults, kubernetes::KUBERNETES, structural};
use serde_json::Value;

fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                differences(
                    &format!("{path}.{key}"),
                    &a.get(key).cloned().unwrap_or_default(),
                    &b.get(key).cloned().unwrap_or_default(),
                    found,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, found);
            }
        }
        (a, b) if a != b => found.push(format!("{path}: ours {a}, theirs {b}")),
        _ => {}
    }
}

#[test]
fn built_in_objects_are_stored_as_kubernetes_stores_them() {
    let golden: Vec<Value> = serde_json::from_str(include_str!("golden/defaults.json")).unwrap();
    let mut found = Vec::new();
    for case in &golden {
        let mut object = case["given"].clone();
        let (version, kind) =
            (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap().to_owned());
        let group = version.split_once('/').map_or("", |(group, _)| group).to_owned();
        let schema = KUBERNETES.schema(&group, &kind).unwrap();
        assert_eq!(structural::decode_errors(&schema, &object), Vec::<String>::new());
        assert_eq!(structural::unknown_fields(&schema, &object), Vec::<String>::new());
        defaults::apply(&group, &kind, &mut object);
        let once = object.clone();
        defaults::apply(&group, &kind, &mut object);
        assert_eq!(object, once, "defaulting twice is defaulting once");
        object["metadata"]["uid"] = "UID".into();
        if KUBERNETES
            .groups
            .iter()
            .any(|g| g.group == group && g.resources.iter().any(|r| r.kind == kind && r.namespaced))
        {
            object["metadata"]["namespace"] = "default".into();
        }
        defaults::prepare_create(&group, &kind, &mut object);
        object["metadata"].as_object_mut().unwrap().remove("uid");
        differences(&format!("{kind} {}", object["metadata"]["name"]), &object, &case["stored"], &mut found);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Each line of `golden/decode.jsonl` is an object of a built-in kind and why the same server could not read it.
#[test]
fn values_of_wrong_types_are_refused_in_the_words_of_go() {
    for line in include_str!("golden/decode.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let object = &case["object"];
        let kind = object["kind"].as_str().unwrap();
        let schema = KUBERNETES.schema(if kind == "Deployment" { "apps" } else { "" }, kind).unwrap();
        let errors = structural::decode_errors(&schema, object);
        assert_eq!(errors.first().map(String::as_str), case["message"].as_str(), "{object}");
    }
}
