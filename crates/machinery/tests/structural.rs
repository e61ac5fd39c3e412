//! Custom objects as a real server judged them. `golden/structural.json` was recorded from kube-apiserver 1.37.2: a schema
//! and, for each `spec`, what was stored or the causes of the refusal.

use hansa_machinery::{
    Schema,
    structural::{self, Prune},
};
use serde_json::{Value, json};

#[test]
fn custom_objects_are_judged_as_kubernetes_judges_them() {
    let golden: Value = serde_json::from_str(include_str!("golden/structural.json")).unwrap();
    let schema = Schema::structural(&golden["schema"]);
    let mut wrong = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let mut object = json!({"apiVersion": "golden.io/v1", "kind": "Test", "metadata": {"name": "t"}, "spec": case["spec"]});
        structural::prune(&schema, &mut object, Prune::RESOURCE);
        structural::default(&schema, &mut object);
        let found = structural::validate(&schema, &object);
        let mut ours: Vec<_> = found.into_iter().map(|c| (c.field, c.reason.to_owned(), c.message)).collect();
        let theirs = case["causes"].as_array().into_iter().flatten();
        let text = |cause: &Value, key: &str| cause[key].as_str().unwrap().to_owned();
        let mut theirs: Vec<_> =
            theirs.map(|c| (text(c, "field"), text(c, "reason"), text(c, "message"))).collect();
        ours.sort();
        theirs.sort();
        let stored = case.get("stored").is_none_or(|stored| *stored == without_whole_floats(&object["spec"]));
        if ours != theirs || !stored {
            wrong.push(format!(
                "{}\n  ours   {ours:?}\n  theirs {theirs:?}\n  {}",
                case["spec"], object["spec"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A real server writes 1.0 as 1, as Go does; here that is done where objects are encoded.
fn without_whole_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64().filter(|float| float.fract() == 0.0) {
            Some(float) => json!(float as i64),
            None => value.clone(),
        },
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| (k.clone(), without_whole_floats(v)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(without_whole_floats).collect(),
        other => other.clone(),
    }
}
