//! Defaulting, as `apiserver/schema/defaulting` does it.

use serde_json::{Map, Value};

use crate::schema::{MAX_DEPTH, Schema};

/// Fills absent fields with their defaults. A `null` where the schema allows none is replaced by the default, and
/// removed where there is no default.
pub fn default(schema: &Schema, value: &mut Value) {
    walk(schema, value, 0);
}

fn is_stray_null(schema: &Schema, value: &Value) -> bool {
    value.is_null() && !schema.field().nullable && !schema.target().nullable
}

fn walk(schema: &Schema, value: &mut Value, depth: usize) {
    if depth >= MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            drop_stray_nulls(schema, map);
            for (name, property) in schema.properties() {
                if let Some(default) = &property.field().default
                    && map.get(name).is_none_or(|old| is_stray_null(&property, old))
                {
                    map.insert(name.to_owned(), default.clone());
                }
            }
            for (name, member) in map.iter_mut() {
                let Some(inner) = schema.member(name) else { continue };
                if let Some(default) = &inner.field().default
                    && is_stray_null(&inner, member)
                {
                    *member = default.clone();
                }
                walk(&inner, member, depth + 1);
            }
        }
        Value::Array(list) => {
            let Some(items) = schema.items() else { return };
            for item in list {
                if let Some(default) = &items.field().default
                    && is_stray_null(&items, item)
                {
                    *item = default.clone();
                }
                walk(&items, item, depth + 1);
            }
        }
        _ => {}
    }
}

fn drop_stray_nulls(schema: &Schema, map: &mut Map<String, Value>) {
    if map.values().any(Value::is_null) {
        map.retain(|name, value| {
            !value.is_null()
                || schema
                    .member(name)
                    .is_none_or(|s| !is_stray_null(&s, value) || s.field().default.is_some())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn defaulted(schema: Value, mut value: Value) -> Value {
        let schema = Schema::structural(&schema);
        default(&schema, &mut value);
        let once = value.clone();
        default(&schema, &mut value);
        assert_eq!(once, value, "defaulting again changes nothing");
        value
    }

    #[test]
    fn absent_fields_get_their_defaults_at_every_level() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string", "default": "A"},
            "b": {"type": "object", "default": {}, "properties": {"c": {"type": "integer", "default": 1}}},
            "d": {"type": "object", "properties": {"e": {"type": "string", "default": "E"}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"default": true}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"default": 0}}}},
        }});
        assert_eq!(defaulted(schema.clone(), json!({})), json!({"a": "A", "b": {"c": 1}}));
        assert_eq!(
            defaulted(schema, json!({"a": "z", "d": {}, "list": [{}, {"x": false}], "map": {"k": {}}})),
            json!({"a": "z", "b": {"c": 1}, "d": {"e": "E"}, "list": [{"x": true}, {"x": false}], "map": {"k": {"x": 0}}})
        );
    }

    #[test]
    fn a_null_is_replaced_kept_or_removed() {
        let schema = json!({"type": "object", "properties": {
            "defaulted": {"type": "string", "default": "D"},
            "nullable": {"type": "string", "nullable": true, "default": "N"},
            "plain": {"type": "string"},
        }});
        let nulls = json!({"defaulted": null, "nullable": null, "plain": null, "unknown": null});
        assert_eq!(defaulted(schema, nulls), json!({"defaulted": "D", "nullable": null, "unknown": null}));
    }

    #[test]
    fn a_scalar_where_an_object_is_expected_is_left_to_validation() {
        let schema = json!({"type": "object", "properties": {"a": {"default": 1}}});
        assert_eq!(defaulted(schema, json!("text")), json!("text"));
    }
}
