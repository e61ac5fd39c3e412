//! Uniqueness in lists of type `set` and `map`, as `apiserver/schema/listtype` checks it.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::{
    field::Path,
    schema::{ListType, MAX_DEPTH, Schema},
    status::Cause,
};

/// Adds a cause for each item that stands twice in a set, or twice under the same keys in a map.
pub(super) fn check(schema: &Schema, value: &Value, path: Path<'_>, depth: usize, causes: &mut Vec<Cause>) {
    if depth >= MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, member) in map {
                if let Some(property) = schema.property(key) {
                    check(&property, member, path.field(key), depth + 1, causes);
                } else if let Some(additional) = schema.additional() {
                    check(&additional, member, path.key(key), depth + 1, causes);
                }
            }
        }
        Value::Array(list) => {
            match schema.list_type() {
                ListType::Set => {
                    causes.extend(repeated(list).map(|i| Cause::duplicate(path.index(i), list[i].clone())));
                }
                ListType::Map(keys) => check_map(keys, list, path, causes),
                ListType::Atomic => {}
            }
            if let Some(items) = schema.items() {
                for (index, item) in list.iter().enumerate() {
                    check(&items, item, path.index(index), depth + 1, causes);
                }
            }
        }
        _ => {}
    }
}

fn check_map(keys: &[String], list: &[Value], path: Path<'_>, causes: &mut Vec<Cause>) {
    let misfit = list.iter().position(|item| !item.is_object() && !item.is_null());
    if let Some(index) = misfit {
        let detail = "must be an object for an array of list-type map";
        causes.push(Cause::invalid(path.index(index), list[index].clone(), detail));
        return;
    }
    let of_item = |item: &Value| -> Value {
        let present = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
        Value::Object(present.collect::<Map<_, _>>())
    };
    let identities: Vec<Value> = list.iter().map(of_item).collect();
    causes.extend(repeated(&identities).map(|i| Cause::duplicate(path.index(i), identities[i].clone())));
}

/// The second place of each value that stands more than once.
fn repeated(list: &[Value]) -> impl Iterator<Item = usize> {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(list.len());
    let repeats = list.iter().enumerate().filter(move |(_, value)| {
        let times = seen.entry(value.to_string()).or_default();
        *times += 1;
        *times == 2
    });
    repeats.map(|(index, _)| index).collect::<Vec<_>>().into_iter()
}
