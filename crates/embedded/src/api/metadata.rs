//! `metadata` that the server owns: uid, timestamps, generation, generated names.

use hansa_machinery::Status;
use jiff::{Timestamp, Unit};
use rand::Rng;
use serde_json::{Map, Value, json};

/// What generated names are made of: no vowels and no look-alikes.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many random characters complete a generated name.
const SUFFIX: usize = 5;
/// How much of `generateName` is used.
const MAX_BASE: usize = 63 - SUFFIX;

/// A time as Kubernetes writes it: in whole seconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.round(Unit::Second).unwrap_or(time).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Now, in whole seconds, never in the future.
pub(crate) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A completed `generateName`.
pub(crate) fn generate_name(base: &str) -> String {
    let end = base
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|end| *end <= MAX_BASE)
        .last()
        .unwrap_or(0);
    let mut name = base[..end].to_owned();
    let mut random = rand::rng();
    name.extend((0..SUFFIX).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])));
    name
}

/// The metadata of an object, which is made an empty object if it is none.
pub(crate) fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match &mut object["metadata"] {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

/// Gives a new object its identity.
pub(crate) fn fill_new(object: &mut Value) {
    let metadata = of(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), now().into());
}

/// Puts back what no update may change.
pub(crate) fn keep_identity(object: &mut Value, live: &Value) {
    let metadata = of(object);
    metadata.remove("selfLink");
    for field in ["creationTimestamp", "generation", "deletionTimestamp"] {
        match live["metadata"].get(field) {
            Some(value) => drop(metadata.insert(field.into(), value.clone())),
            None => drop(metadata.remove(field)),
        }
    }
    if metadata.get("uid").and_then(Value::as_str).is_none_or(str::is_empty) {
        metadata.insert("uid".into(), live["metadata"]["uid"].clone());
    }
    if !live["metadata"]["deletionTimestamp"].is_null()
        && metadata.get("deletionGracePeriodSeconds").is_none_or(Value::is_null)
    {
        if let Some(grace) = live["metadata"].get("deletionGracePeriodSeconds") {
            metadata.insert("deletionGracePeriodSeconds".into(), grace.clone());
        }
    } else if live["metadata"]["deletionTimestamp"].is_null() {
        metadata.remove("deletionGracePeriodSeconds");
    }
}

/// The generation of an object.
pub(crate) fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// Whether an update changes nothing but the times in `managedFields`.
pub(crate) fn same_but_managed_times(a: &Value, b: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return a == b };
    let others = |key: &str| key != "metadata";
    if !a.iter().filter(|(k, _)| others(k)).eq(b.iter().filter(|(k, _)| others(k))) {
        return false;
    }
    let (Some(Value::Object(a)), Some(Value::Object(b))) = (a.get("metadata"), b.get("metadata")) else {
        return false;
    };
    let plain = |key: &str| !matches!(key, "managedFields" | "resourceVersion");
    a.iter().filter(|(k, _)| plain(k)).eq(b.iter().filter(|(k, _)| plain(k)))
        && same_managers(a.get("managedFields"), b.get("managedFields"))
}

/// Whether two `managedFields` differ at most in their times.
fn same_managers(a: Option<&Value>, b: Option<&Value>) -> bool {
    let entries = |v: Option<&Value>| -> Vec<Vec<(String, Value)>> {
        let list = v.and_then(Value::as_array).into_iter().flatten();
        list.map(|entry| {
            let fields = entry.as_object().into_iter().flatten();
            fields.filter(|(k, _)| *k != "time").map(|(k, v)| (k.clone(), v.clone())).collect()
        })
        .collect()
    };
    entries(a) == entries(b)
}

/// The finalizers of an object.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether deletion of the object was asked for.
pub(crate) fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Makes `metadata` of an object agree with the URL it was sent to.
pub(crate) fn match_namespace(object: &mut Value, namespace: &str) -> Result<(), Status> {
    let metadata = of(object);
    let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if given == namespace {
        if given.is_empty() {
            metadata.remove("namespace");
        }
        return Ok(());
    }
    if !given.is_empty() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    metadata.insert("namespace".into(), namespace.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_name_fits_a_label() {
        let name = generate_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generate_name(&"a".repeat(300)).len(), 63);
        assert_ne!(generate_name("x"), generate_name("x"));
    }

    #[test]
    fn an_update_keeps_what_identifies_the_object() {
        let live = json!({"metadata": {"uid": "u", "creationTimestamp": "t", "generation": 3}});
        let mut object = json!({"metadata": {"generation": 9, "deletionTimestamp": "now", "selfLink": "/x"}});
        keep_identity(&mut object, &live);
        assert_eq!(object, live);
    }

    #[test]
    fn a_foreign_namespace_is_refused() {
        let mut object = json!({"metadata": {"namespace": "a"}});
        assert_eq!(match_namespace(&mut object, "b").expect_err("other").code, 400);
        assert_eq!(match_namespace(&mut object, "").expect_err("other").code, 400);
        let mut object = json!({});
        assert_eq!(match_namespace(&mut object, "b"), Ok(()));
        assert_eq!(object["metadata"]["namespace"], "b");
    }
}
