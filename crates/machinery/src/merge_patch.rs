//! JSON Merge Patch (RFC 7396), with the one liberty that Kubernetes' library takes: objects inside a list lose their
//! `null` members, too, unless the list takes the place of an object.

use serde_json::{Map, Value};

/// Deeper than anything serde_json parses, so that no request is treated differently; only a guard for the stack.
const MAX_DEPTH: usize = 128;

/// Merges `patch` into `target`: `null` removes, objects merge, everything else replaces.
pub fn apply(target: &mut Value, patch: &Value) {
    merge(target, patch, MAX_DEPTH);
}

fn merge(target: &mut Value, patch: &Value, depth: usize) {
    let (Value::Object(changes), true) = (patch, depth > 0) else {
        let listed = patch.is_array() && !target.is_object();
        *target = patch.clone();
        if listed {
            remove_nulls(target, depth);
        }
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.as_str()).or_insert(Value::Null), change, depth - 1);
        }
    }
}

/// Removes the `null` members of all objects in a value; items of lists stay.
fn remove_nulls(value: &mut Value, depth: usize) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match value {
        Value::Object(fields) => {
            fields.retain(|_, member| !member.is_null());
            fields.values_mut().for_each(|member| remove_nulls(member, depth));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| remove_nulls(item, depth)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc_hold() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, expected) in cases {
            apply(&mut target, &patch);
            assert_eq!(target, expected, "patch {patch}");
        }
    }

    #[test]
    fn lists_lose_the_nulls_of_their_objects_as_in_kubernetes() {
        let list = json!([{"b": null, "c": [{"d": null}, null]}, null]);
        let cases = [
            (json!({}), json!({"a": [{"c": [{}, null]}, null]})),
            (json!({"a": [1]}), json!({"a": [{"c": [{}, null]}, null]})),
            (json!({"a": {}}), json!({"a": list})),
        ];
        for (mut target, expected) in cases {
            apply(&mut target, &json!({"a": list}));
            assert_eq!(target, expected);
        }
    }

    #[test]
    fn a_patch_of_any_depth_ends() {
        let deep = (0..1000).fold(json!(1), |inner, _| json!({"a": inner}));
        let mut target = json!({});
        apply(&mut target, &deep);
        assert_eq!(target, deep);
    }
}
