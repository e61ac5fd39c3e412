//! When two statuses say the same: numbers are compared as JSON has them, not as integers or floats, and null as nothing, because both may
//! come back from an API server in another form (`spec/kubefed.md §2.8`). Otherwise each would be written again and again.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

/// A hash of what a status says; 0 if it is no object, which is no status.
pub(crate) fn hash_of(status: &Value) -> u64 {
    if !status.is_object() {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    add(status, &mut hasher);
    hasher.finish().max(1)
}

fn add(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Null => {}
        Value::Bool(truth) => (1_u8, truth).hash(hasher),
        // 0.0 and -0.0 are one number.
        Value::Number(number) => (2_u8, (number.as_f64().unwrap_or_default() + 0.0).to_bits()).hash(hasher),
        Value::String(text) => (3_u8, text).hash(hasher),
        Value::Array(items) => {
            4_u8.hash(hasher);
            items.iter().filter(|item| !item.is_null()).for_each(|item| add(item, hasher));
            5_u8.hash(hasher);
        }
        Value::Object(fields) => {
            6_u8.hash(hasher);
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_by_key(|(name, _)| *name);
            for (name, value) in fields {
                name.hash(hasher);
                add(value, hasher);
            }
            7_u8.hash(hasher);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_api_server_may_change_is_no_difference() {
        let written = json!({"replicas": 3, "ratio": 2.0, "zero": -0.0, "none": null, "list": [1, null, {"a": null, "b": 1e3}]});
        let read = json!({"list": [1.0, {"b": 1000}], "ratio": 2, "replicas": 3.0, "zero": 0});
        assert_eq!(hash_of(&written), hash_of(&read));
    }

    #[test]
    fn what_says_something_else_differs() {
        let statuses = [
            json!({}),
            json!({"a": 1}),
            json!({"a": 2}),
            json!({"a": "1"}),
            json!({"a": true}),
            json!({"a": [1]}),
            json!({"a": [[1]]}),
            json!({"a": {}}),
            json!({"a": []}),
            json!({"a": ["b", "c"]}),
            json!({"a": ["bc"]}),
            json!({"a": {"b": 1}}),
            json!({"a": 1, "b": 1}),
            json!({"a": [[], 1]}),
            json!({"a": [[1], []]}),
        ];
        let mut hashes: Vec<u64> = statuses.iter().map(hash_of).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), statuses.len());
        assert!(!hashes.contains(&0));
        assert_eq!(hash_of(&Value::Null), 0);
    }
}
