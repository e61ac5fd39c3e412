//! What `kubectl apply` would make of an object on the host: the patch it would send.

use serde_json::{Map, Value};

/// The merge patch of a client-side apply of a custom resource: it adds and changes what `wanted` says, and removes what the last
/// apply said and `wanted` does not. What others have set in `live` stays.
pub(super) fn three_way(last: &Value, wanted: &Value, live: &Value) -> Value {
    let empty = Map::new();
    let map = |value: &'_ Value| value.as_object().cloned().unwrap_or_default();
    let (last, live) = (map(last), map(live));
    let mut patch = Map::new();
    for (field, wanted) in wanted.as_object().unwrap_or(&empty) {
        match live.get(field) {
            Some(now @ Value::Object(_)) if wanted.is_object() => {
                let inner = three_way(last.get(field).unwrap_or(&Value::Null), wanted, now);
                if inner.as_object().is_some_and(|inner| !inner.is_empty()) {
                    patch.insert(field.clone(), inner);
                }
            }
            Some(now) if now == wanted => {}
            None if wanted.is_null() => {}
            _ => {
                patch.insert(field.clone(), wanted.clone());
            }
        }
    }
    for field in last.keys() {
        if wanted.get(field).is_none() && live.contains_key(field) {
            patch.insert(field.clone(), Value::Null);
        }
    }
    patch.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hansa_machinery::merge_patch;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_others_set_stays_and_what_was_dropped_goes() {
        let last = json!({"spec": {"a": 1, "dropped": 2, "gone": 3}});
        let wanted = json!({"spec": {"a": 9, "new": {"x": 1}}});
        let live = json!({"spec": {"a": 1, "dropped": 2, "theirs": 4}, "status": {}});
        assert_eq!(
            three_way(&last, &wanted, &live),
            json!({"spec": {"a": 9, "new": {"x": 1}, "dropped": null}})
        );
        assert_eq!(three_way(&json!(null), &live, &live), json!({}));
    }

    fn object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![(0..3).prop_map(Value::from), Just(json!(["x"])), Just(json!({}))];
        leaf.prop_recursive(3, 12, 3, |inner| {
            proptest::collection::btree_map("[a-c]", inner, 0..3).prop_map(|map| json!(map))
        })
        .prop_map(|value| json!({ "spec": value }))
    }

    /// Whether everything that `wanted` says is in `object`.
    fn holds(object: &Value, wanted: &Value) -> bool {
        match wanted {
            Value::Object(fields) => {
                object.is_object()
                    && fields
                        .iter()
                        .all(|(field, wanted)| object.get(field).is_some_and(|now| holds(now, wanted)))
            }
            other => object == other,
        }
    }

    proptest! {
        #[test]
        fn afterwards_the_object_says_what_is_wanted_and_applying_again_changes_nothing(last in object(), wanted in object(), live in object()) {
            let patch = three_way(&last, &wanted, &live);
            let mut after = live;
            merge_patch::apply(&mut after, &patch);
            prop_assert!(holds(&after, &wanted), "{after}");
            prop_assert_eq!(three_way(&wanted, &wanted, &after), json!({}));
        }
    }
}
