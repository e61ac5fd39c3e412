//! What a real server says of bad objects. `golden/rules.jsonl` was recorded from kube-apiserver 1.37.2: each line has a
//! `new` object that was created, or that replaced `old`, and the causes of the answer.

use hansa_machinery::{defaults, rules, status::Cause};
use serde_json::Value;

/// Where Kubernetes shows its internal types, or a difference of them, only the words around are compared.
fn comparable(message: &str) -> String {
    for fixed in ["field is immutable", "field cannot be modified once set"] {
        if message.ends_with(fixed) {
            return fixed.to_owned();
        }
    }
    let dump = ["{\"", "[{\"", "{}"].iter().filter_map(|start| message.find(&format!(": {start}"))).min();
    match dump {
        Some(at) => {
            let detail =
                message.rfind("}: ").or_else(|| message.rfind("}]: ")).map_or("", |end| &message[end..]);
            format!("{}{}", &message[..at], detail.trim_start_matches(['}', ']']))
        }
        None => message.lines().next().unwrap_or_default().to_owned(),
    }
}

fn triples(causes: &[Cause]) -> Vec<(String, String, String)> {
    let mut triples: Vec<_> =
        causes.iter().map(|c| (c.field.clone(), c.reason.to_owned(), comparable(&c.message))).collect();
    triples.sort();
    triples.dedup();
    triples
}

#[test]
fn bad_objects_are_refused_in_the_words_of_kubernetes() {
    let mut wrong = Vec::new();
    for line in include_str!("golden/rules.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let mut object = case["new"].clone();
        let (version, kind) =
            (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap().to_owned());
        let group = version.split_once('/').map_or("", |(group, _)| group).to_owned();
        defaults::apply(&group, &kind, &mut object);
        let old = case.get("old");
        match old {
            Some(old) => defaults::prepare_update(&group, &kind, "", &mut object, old),
            None => {
                object["metadata"]["uid"] = "UID".into();
                defaults::prepare_create(&group, &kind, &mut object);
            }
        }
        let ours = triples(&rules::validate(&group, &kind, &object, old));
        let expected = case["causes"].as_array().unwrap().iter().map(|cause| {
            let text = |key: &str| cause[key].as_str().unwrap().to_owned();
            (text("field"), text("reason"), comparable(&text("message")))
        });
        let mut theirs: Vec<_> = expected.collect();
        theirs.sort();
        theirs.dedup();
        if ours != theirs {
            let only = |a: &[(String, String, String)], b: &[(String, String, String)]| {
                a.iter()
                    .filter(|x| !b.contains(x))
                    .map(|x| format!("      {x:?}"))
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            wrong.push(format!(
                "{kind} {} {}\n   ours:\n{}\n   theirs:\n{}",
                object["metadata"]["name"],
                case["new"].to_string().chars().take(300).collect::<String>(),
                only(&ours, &theirs),
                only(&theirs, &ours)
            ));
        }
    }
    assert!(wrong.is_empty(), "{} cases\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn objects_a_real_server_stored_are_fine() {
    let golden: Vec<Value> = serde_json::from_str(include_str!("golden/defaults.json")).unwrap();
    for case in golden {
        let object = &case["stored"];
        let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let mut object = object.clone();
        object["metadata"]["uid"] = "UID".into();
        assert_eq!(rules::validate(group, kind, &object, None), [], "{kind} {}", object["metadata"]["name"]);
        assert_eq!(rules::validate(group, kind, &object, Some(&object)), [], "unchanged {kind}");
    }
}
