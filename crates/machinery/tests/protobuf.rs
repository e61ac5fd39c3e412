//! Objects as Go encodes them. `golden/protobuf.json` was recorded with Kubernetes 1.37.2's own serializers: each object
//! as `runtime/serializer/protobuf` writes it, in base64, and as `encoding/json` does.

use std::{collections::BTreeSet, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use hansa_machinery::protobuf;
use proptest::{prelude::*, sample::Index};
use serde_json::{Map, Value};

/// Each object in protobuf and in JSON. The file is part of the test.
#[allow(clippy::unwrap_used)]
static GOLDEN: LazyLock<Vec<(Vec<u8>, Value)>> = LazyLock::new(|| {
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/protobuf.json")).unwrap();
    let bytes = |case: &Value| STANDARD.decode(case["protobuf"].as_str().unwrap()).unwrap();
    cases.into_iter().map(|case| (bytes(&case), case["json"].clone())).collect()
});

#[test]
fn objects_are_read_as_the_json_go_would_have_sent() {
    let mut wrong = Vec::new();
    for (bytes, json) in GOLDEN.iter() {
        let name = format!("{} {}", json["apiVersion"], json["kind"]);
        match protobuf::decode(bytes) {
            Ok(object) => compare(&name, Some(&told(object)), Some(&told(json.clone())), &mut wrong),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Lists each difference with its path.
fn compare(path: &str, ours: Option<&Value>, theirs: Option<&Value>, wrong: &mut Vec<String>) {
    match (ours, theirs) {
        (Some(Value::Object(ours)), Some(Value::Object(theirs))) => {
            for key in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
                compare(&format!("{path}.{key}"), ours.get(key), theirs.get(key), wrong);
            }
        }
        (Some(Value::Array(ours)), Some(Value::Array(theirs))) if ours.len() == theirs.len() => {
            for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                compare(&format!("{path}[{at}]"), Some(ours), Some(theirs), wrong);
            }
        }
        _ if ours == theirs => {}
        _ => wrong.push(format!("{path}: ours {ours:?}, Go's {theirs:?}")),
    }
}

/// An object without the nulls of fields, which say no more than their absence.
fn told(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let fields = map.into_iter().filter(|(_, value)| !value.is_null());
            fields.map(|(key, value)| (key, told(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.into_iter().map(told).collect(),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_object_does_no_harm(
        case in any::<Index>(),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6),
        end in prop::option::of(any::<Index>()),
    ) {
        let mut bytes = case.get(GOLDEN.as_slice()).0.clone();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len()));
        }
        // An answer of either kind will do.
        if let Err(error) = protobuf::decode(&bytes) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
