//! What a Kubernetes API server fills in for objects of built-in kinds, and what it decides itself.
//!
//! Kubernetes' defaults belong to types, wherever they occur: a probe in a Pod, in a Deployment's template, in a CronJob's
//! job's template. So one walk along the schema applies the published defaults and, from a table by type, the
//! `SetDefaults_*` functions of `k8s.io/kubernetes/pkg/apis`.

mod prepare;
mod types;

use serde_json::{Map, Value};

pub use prepare::{prepare_create, prepare_custom_create, prepare_custom_update, prepare_update};

use crate::{
    kubernetes::KUBERNETES,
    schema::{MAX_DEPTH, Schema},
    structural,
};

type Object = Map<String, Value>;

/// Brings an object of a built-in kind into the form a real server stores: nulls and empty optional lists and maps are
/// gone, and every default is filled in. Kinds that are not built in are left alone.
pub fn apply(group: &str, kind: &str, object: &mut Value) {
    if let Some(schema) = KUBERNETES.schema(group, kind) {
        structural::normalize(&schema, object);
        walk(&schema, object, 0);
        structural::normalize(&schema, object);
    }
}

fn walk(schema: &Schema, value: &mut Value, depth: usize) {
    if depth >= MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, property) in schema.properties() {
                if let Some(default) = &property.field().default
                    && !map.contains_key(name)
                    && is_written(schema, name, default)
                {
                    map.insert(name.to_owned(), default.clone());
                }
            }
            if let Some(set_defaults) = schema.type_name().and_then(types::defaults_of) {
                set_defaults(map);
            }
            for (name, member) in map.iter_mut() {
                if let Some(inner) = schema.member(name) {
                    walk(&inner, member, depth + 1);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items() {
                list.iter_mut().for_each(|item| walk(&items, item, depth + 1));
            }
        }
        _ => {}
    }
}

/// Whether Go writes a published default: some empty ones belong to optional fields, which are left out when empty.
fn is_written(owner: &Schema, name: &str, default: &Value) -> bool {
    let optional_name =
        name == "name" && *default == "" && !owner.target().required.iter().any(|r| r == name);
    !(optional_name || (name == "minReadySeconds" && *default == 0))
}

/// Whether a field has the zero value of its Go type, which is as good as absent.
fn is_zero(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_f64() == Some(0.0),
        Some(Value::Bool(flag)) => !flag,
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
    }
}

/// Small helpers on the object at hand.
trait Fields {
    /// Sets a field that is absent (a nil pointer in Go).
    fn absent(&mut self, key: &str, value: impl Into<Value>);
    /// Sets a field that is absent or zero (a plain value in Go).
    fn zero(&mut self, key: &str, value: impl Into<Value>);
    /// The text of a field, empty if it has none.
    fn text(&self, key: &str) -> &str;
    /// The object in a field, made if there is none.
    fn object(&mut self, key: &str) -> &mut Object;
    /// The objects in a list.
    fn each(&mut self, key: &str) -> impl Iterator<Item = &mut Object>;
}

impl Fields for Object {
    fn absent(&mut self, key: &str, value: impl Into<Value>) {
        if self.get(key).is_none_or(Value::is_null) {
            self.insert(key.to_owned(), value.into());
        }
    }

    fn zero(&mut self, key: &str, value: impl Into<Value>) {
        if is_zero(self.get(key)) {
            self.insert(key.to_owned(), value.into());
        }
    }

    fn text(&self, key: &str) -> &str {
        self.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    #[allow(clippy::panic)] // Unreachable: the entry was made an object the line before.
    fn object(&mut self, key: &str) -> &mut Object {
        let entry = self.entry(key).or_insert_with(|| Value::Object(Object::new()));
        if !entry.is_object() {
            *entry = Value::Object(Object::new());
        }
        match entry {
            Value::Object(map) => map,
            _ => unreachable!("an object"),
        }
    }

    fn each(&mut self, key: &str) -> impl Iterator<Item = &mut Object> {
        self.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
    }
}
