//! Removing fields a schema does not know, as `apiserver/schema/pruning` and Go's typed decoding do it.

use std::sync::LazyLock;

use serde_json::Value;

use crate::{
    kubernetes::KUBERNETES,
    schema::{MAX_DEPTH, Node, Schema},
};

/// Which object is pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prune {
    /// The value is a whole resource: `apiVersion`, `kind` and `metadata` are known without being declared.
    pub resource_root: bool,
}

impl Prune {
    /// A whole resource.
    pub const RESOURCE: Self = Self { resource_root: true };
}

/// Removes the fields the schema does not know and returns their paths, sorted.
pub fn prune(schema: &Schema, value: &mut Value, options: Prune) -> Vec<String> {
    let mut walk = Walk { unknown: Vec::new(), path: String::new() };
    walk.visit(Some(schema), value, Mode { resource: options.resource_root, ..Mode::default() }, 0);
    walk.finish()
}

/// The paths of the fields the schema does not know, sorted; strict field validation reports each as
/// `unknown field "PATH"`.
pub fn unknown_fields(schema: &Schema, value: &Value) -> Vec<String> {
    // Finding and removing are one walk, so that they cannot disagree; strict validation is the rarer case.
    prune(schema, &mut value.clone(), Prune::RESOURCE)
}

/// The metadata of every resource that does not declare it: that of a custom or embedded one.
static OBJECT_META: LazyLock<Option<Schema>> =
    LazyLock::new(|| KUBERNETES.definitions.get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"));

/// What the place of a value says about its members, besides its schema.
#[derive(Clone, Copy, Default)]
struct Mode {
    /// It is a resource.
    resource: bool,
    /// It is an item of a list that preserves unknown fields.
    preserve: bool,
}

struct Walk {
    unknown: Vec<String>,
    path: String,
}

impl Walk {
    fn finish(mut self) -> Vec<String> {
        self.unknown.sort();
        self.unknown
    }

    fn at<T>(&mut self, step: impl FnOnce(&mut String), visit: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        step(&mut self.path);
        let result = visit(self);
        self.path.truncate(length);
        result
    }

    fn at_key<T>(&mut self, key: &str, visit: impl FnOnce(&mut Self) -> T) -> T {
        let step = |path: &mut String| {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(key);
        };
        self.at(step, visit)
    }

    fn at_index<T>(&mut self, index: usize, visit: impl FnOnce(&mut Self) -> T) -> T {
        self.at(|path| path.push_str(&format!("[{index}]")), visit)
    }

    fn record(&mut self, key: &str) {
        let path = self.at_key(key, |walk| walk.path.clone());
        self.unknown.push(path);
    }

    /// `schema` is `None` below a field nothing is known about: no member survives there.
    fn visit(&mut self, schema: Option<&Schema>, value: &mut Value, mode: Mode, depth: usize) {
        if depth >= MAX_DEPTH {
            return;
        }
        let preserve = mode.preserve || schema.is_some_and(keeps_unknown);
        let declares_metadata = schema.is_some_and(Schema::is_built_in);
        let resource =
            !declares_metadata && (mode.resource || schema.is_some_and(|s| s.target().embedded_resource));
        let inside = depth + 1;
        match value {
            Value::Object(map) => {
                let mut dropped = Vec::new();
                for (key, member) in map.iter_mut() {
                    let inner = match key.as_str() {
                        "apiVersion" | "kind" if resource => continue,
                        "metadata" if resource => OBJECT_META.clone(),
                        _ => schema.and_then(|s| s.member(key)),
                    };
                    match inner {
                        Some(inner) => {
                            self.at_key(key, |walk| {
                                walk.visit(Some(&inner), member, Mode::default(), inside)
                            });
                        }
                        None if preserve => {}
                        None => dropped.push(key.clone()),
                    }
                }
                for key in dropped {
                    map.remove(&key);
                    self.record(&key);
                }
            }
            Value::Array(list) => {
                let items = schema.and_then(Schema::items);
                if preserve && items.is_none() {
                    return;
                }
                for (index, item) in list.iter_mut().enumerate() {
                    let mode = Mode { resource: false, preserve };
                    self.at_index(index, |walk| walk.visit(items.as_ref(), item, mode, inside));
                }
            }
            _ => {}
        }
    }
}

/// Whether undeclared members survive. A built-in type without members of its own (`RawExtension`, `FieldsV1`, `JSON`)
/// holds anything.
fn keeps_unknown(schema: &Schema) -> bool {
    let target: &Node = schema.target();
    target.preserve_unknown
        || schema.is_built_in()
            && schema.properties().next().is_none()
            && schema.additional().is_none()
            && schema.items().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::KUBERNETES;
    use serde_json::json;

    fn pruned(schema: Value, mut value: Value) -> (Value, Vec<String>) {
        let schema = Schema::structural(&schema);
        let unknown = prune(&schema, &mut value, Prune::RESOURCE);
        let once = value.clone();
        assert!(prune(&schema, &mut value, Prune::RESOURCE).is_empty(), "pruning again finds nothing");
        assert_eq!(once, value);
        (value, unknown)
    }

    #[test]
    fn unknown_fields_are_removed_and_named() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {}}}},
        }}}});
        let object = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n", "odd": 1}, "zed": 1, "spec": {
            "a": "b", "foo": {"deep": 1}, "list": [{"x": "", "y": 1}], "map": {"k": {"x": 1, "z": 2}},
        }});
        let (kept, unknown) = pruned(schema, object);
        assert_eq!(unknown, ["metadata.odd", "spec.foo", "spec.list[0].y", "spec.map.k.z", "zed"]);
        let expected = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "spec": {
            "a": "b", "list": [{"x": ""}], "map": {"k": {"x": 1}},
        }});
        assert_eq!(kept, expected);
    }

    #[test]
    fn preserved_unknown_fields_survive_and_declared_ones_below_them_are_pruned() {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "known": {"type": "object", "properties": {"a": {"type": "string"}}},
        }});
        let (kept, unknown) = pruned(schema, json!({"any": {"thing": [1]}, "known": {"a": "", "b": 1}}));
        assert_eq!(kept, json!({"any": {"thing": [1]}, "known": {"a": ""}}));
        assert_eq!(unknown, ["known.b"]);
    }

    #[test]
    fn items_of_a_list_that_preserves_unknown_fields_keep_theirs() {
        let schema = json!({"type": "object", "properties": {"list": {
            "type": "array", "x-kubernetes-preserve-unknown-fields": true,
            "items": {"type": "object", "properties": {"a": {"type": "object"}}},
        }}});
        let (kept, unknown) = pruned(schema, json!({"list": [{"a": {"b": 1}, "c": {"d": 1}}]}));
        assert_eq!(kept, json!({"list": [{"a": {}, "c": {"d": 1}}]}));
        assert_eq!(unknown, ["list[0].a.b"]);
    }

    #[test]
    fn an_embedded_resource_keeps_its_metadata() {
        let schema = json!({"type": "object", "properties": {"template": {
            "type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}},
        }}});
        let template =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"a": 1}, "b": 1});
        let (kept, unknown) = pruned(schema, json!({"template": template}));
        let expected = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}});
        assert_eq!(kept, json!({"template": expected}));
        assert_eq!(unknown, ["template.b", "template.spec.a"]);
    }

    #[test]
    fn below_a_value_of_the_wrong_type_nothing_is_known() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        let (kept, unknown) = pruned(schema, json!({"a": [{"b": 1}]}));
        assert_eq!(kept, json!({"a": [{}]}));
        assert_eq!(unknown, ["a[0].b"]);
    }

    #[test]
    fn unknown_fields_of_built_in_types_are_found_through_references() {
        let schema = KUBERNETES.definitions.get("io.k8s.api.apps.v1.Deployment").unwrap();
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "bad": 1,
            "metadata": {"name": "d", "labels": {"any": "thing"}, "nope": 1, "managedFields": [{"fieldsV1": {"f:x": {}}}]},
            "spec": {"replicsa": 1, "template": {"spec": {"containers": [{"name": "c", "imagee": "i"}]}}},
        });
        let unknown = ["bad", "metadata.nope", "spec.replicsa", "spec.template.spec.containers[0].imagee"];
        assert_eq!(unknown_fields(&schema, &deployment), unknown);
    }
}
