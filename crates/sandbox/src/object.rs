//! Reading and building Kubernetes objects as JSON.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// An object among those of its resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Empty for what lives in no namespace.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Labels, annotations, selectors.
pub(crate) type Labels = BTreeMap<String, String>;

/// What every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) revision: u64,
    pub(crate) generation: i64,
    pub(crate) labels: Labels,
    /// The owner that controls it.
    pub(crate) controller: Option<Owner>,
    pub(crate) created: Timestamp,
    /// Being deleted.
    pub(crate) deleting: bool,
}

/// An owner reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Meta {
    pub(crate) fn of(object: &Value) -> Self {
        let meta = &object["metadata"];
        let owners = meta["ownerReferences"].as_array().into_iter().flatten();
        let controller = owners.into_iter().find(|owner| owner["controller"] == true).map(|owner| Owner {
            kind: text(&owner["kind"]),
            name: text(&owner["name"]),
            uid: text(&owner["uid"]),
        });
        Self {
            key: key(object),
            uid: text(&meta["uid"]),
            revision: revision(object),
            generation: meta["generation"].as_i64().unwrap_or_default(),
            labels: labels(&meta["labels"]),
            controller,
            created: time(&meta["creationTimestamp"]).unwrap_or_default(),
            deleting: !meta["deletionTimestamp"].is_null(),
        }
    }

    /// Whether the object of this UID controls it.
    pub(crate) fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller.as_ref().is_some_and(|owner| owner.uid == uid)
    }
}

pub(crate) fn key(object: &Value) -> Key {
    Key { namespace: text(&object["metadata"]["namespace"]), name: text(&object["metadata"]["name"]) }
}

pub(crate) fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A map of strings.
pub(crate) fn labels(value: &Value) -> Labels {
    let members = value.as_object().into_iter().flatten();
    members.map(|(name, value)| (name.clone(), text(value))).collect()
}

/// The items of a list; none where there is no list.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// A point in time as `metav1.Time` writes it.
pub(crate) fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The object at `path`, made if there is none.
pub(crate) fn object_at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut value = value;
    for name in path {
        if !value.is_object() {
            *value = json!({});
        }
        value = &mut value[*name];
    }
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(members) => members,
        _ => unreachable!("made an object above"),
    }
}

/// A reference to the controller that owns an object (`metav1.NewControllerRef`).
pub(crate) fn owner_reference(api_version: &str, kind: &str, owner: &Value) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// One entry of `status.conditions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition<'a> {
    pub(crate) kind: &'a str,
    pub(crate) status: bool,
    pub(crate) reason: &'a str,
    pub(crate) message: String,
}

/// Puts a condition into a list of conditions; the time of transition moves only with the status.
pub(crate) fn set_condition(conditions: &mut Vec<Value>, condition: &Condition<'_>, now: Timestamp) {
    let status = if condition.status { "True" } else { "False" };
    let old = conditions.iter_mut().find(|old| old["type"] == condition.kind);
    let since = match &old {
        Some(old) if old["status"] == status => old["lastTransitionTime"].clone(),
        _ => stamp(now).into(),
    };
    let mut new = json!({"type": condition.kind, "status": status, "lastTransitionTime": since});
    if !condition.reason.is_empty() {
        new["reason"] = condition.reason.into();
    }
    if !condition.message.is_empty() {
        new["message"] = condition.message.clone().into();
    }
    match old {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// The condition of this type.
pub(crate) fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    items(&status["conditions"]).iter().find(|condition| condition["type"] == kind)
}

/// Whether a condition is True.
pub(crate) fn is_true(status: &Value, kind: &str) -> bool {
    condition(status, kind).is_some_and(|condition| condition["status"] == "True")
}

/// A number or a percentage of `of` (`intstr.GetScaledValueFromIntOrPercent`).
pub(crate) fn scaled(value: &Value, of: i64, round_up: bool) -> i64 {
    match value {
        Value::Number(number) => number.as_i64().unwrap_or_default(),
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
            let hundredfold = percent.saturating_mul(of);
            if round_up { hundredfold.saturating_add(99) / 100 } else { hundredfold / 100 }
        }
        _ => 0,
    }
}

/// A short hash of a template, in letters that make no words (`rand.SafeEncodeString`).
pub(crate) fn short_hash(value: &Value, salt: Option<i64>) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = value.to_string().into_bytes();
    if let Some(salt) = salt {
        bytes.extend(salt.to_le_bytes());
    }
    let hash =
        bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

/// A hash of a value by which two are told apart within one process.
pub(crate) fn fingerprint(value: &Value) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(value.to_string().as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = Vec::new();
        let mut condition = Condition { kind: "Ready", status: true, reason: "A", message: String::new() };
        set_condition(&mut conditions, &condition, at(1));
        condition.reason = "B";
        set_condition(&mut conditions, &condition, at(2));
        assert_eq!(
            conditions,
            [json!({
                "type": "Ready", "status": "True", "reason": "B", "lastTransitionTime": "1970-01-01T00:00:01Z"
            })]
        );
        condition.status = false;
        set_condition(&mut conditions, &condition, at(3));
        assert_eq!(conditions[0]["lastTransitionTime"], "1970-01-01T00:00:03Z");
    }

    #[test]
    fn percentages_are_rounded_up_for_surge_and_down_for_unavailable() {
        assert_eq!((scaled(&json!("25%"), 3, true), scaled(&json!("25%"), 3, false)), (1, 0));
        assert_eq!(scaled(&json!(2), 3, true), 2);
        assert_eq!(scaled(&Value::Null, 3, true), 0);
    }
}
