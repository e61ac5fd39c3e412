//! Strategic merge patch: a patch that knows, from the schema, which lists are merged and by which key. The behaviour is
//! that of `k8s.io/apimachinery/pkg/util/strategicpatch`.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};

use crate::{
    Status,
    schema::{MAX_DEPTH, Schema},
};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies `patch` to `target`. Without a schema every list is replaced and every map merged.
pub fn apply(schema: Option<&Schema>, target: &Value, patch: &Value) -> Result<Value, Status> {
    let (Value::Object(original), Value::Object(patch)) = (target, patch) else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    let merged = merge_map(original.clone(), patch.clone(), schema, 0).map_err(Status::bad_request)?;
    Ok(Value::Object(merged))
}

type List = Vec<Value>;
type Object = Map<String, Value>;
type Merged<T> = Result<T, String>;

/// What the schema says about the field whose value is merged.
struct Rule {
    schema: Option<Schema>,
    replace: bool,
    merge: bool,
    key: Option<String>,
}

/// Looks up a map field; a field the schema does not know cannot be patched where both sides have a value.
fn rule(schema: Option<&Schema>, key: &str) -> Merged<Rule> {
    let Some(schema) = schema.filter(|schema| !schema.is_opaque()) else {
        return Ok(Rule { schema: None, replace: false, merge: false, key: None });
    };
    let has_members = schema.properties().next().is_some() || schema.additional().is_some();
    let Some(field) = schema.member(key) else {
        if !has_members {
            return Ok(Rule { schema: None, replace: false, merge: false, key: None });
        }
        let owner = schema.reference().and_then(|name| name.rsplit('.').next()).unwrap_or("map");
        return Err(format!("unable to find api field in struct {owner} for the json field {key:?}"));
    };
    let strategies = field.field().patch_strategy.clone();
    let has = |name: &str| strategies.split(',').any(|s| s == name);
    let (replace, merge) = (has("replace"), has("merge"));
    Ok(Rule { replace, merge, key: field.field().patch_merge_key.clone(), schema: Some(field) })
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.as_i64().is_some() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn expected_list(value: &Value) -> String {
    format!("expected a []interface {{}}, but received a {}", kind_of(value))
}

fn as_list(value: &Value) -> Merged<&List> {
    value.as_array().ok_or_else(|| expected_list(value))
}

fn as_map(value: &Value) -> Merged<&Object> {
    value
        .as_object()
        .ok_or_else(|| format!("expected a map[string]interface {{}}, but received a {}", kind_of(value)))
}

fn no_merge_key(map: &Object, key: &str) -> String {
    format!("map: {} does not contain declared merge key: {key}", Value::Object(map.clone()))
}

fn merge_map(
    mut original: Object,
    mut patch: Object,
    schema: Option<&Schema>,
    depth: usize,
) -> Merged<Object> {
    if depth >= MAX_DEPTH {
        return Err(format!("the patch nests deeper than {MAX_DEPTH} levels"));
    }
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => Err(format!("unknown patch type: {directive} in map: {}", Value::Object(patch))),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, schema, depth)?;
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            delete_from_list(&mut original, list, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let rule = rule(schema, &key)?;
                match rule.replace {
                    true => Some(Value::Object(new)),
                    false => Some(Value::Object(merge_map(old, new, rule.schema.as_ref(), depth + 1)?)),
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let rule = rule(schema, &key)?;
                match rule.merge {
                    true => Some(Value::Array(merge_list(old, new, &rule, depth + 1)?)),
                    false => Some(Value::Array(new)),
                }
            }
            (old, mut new) => {
                // A scalar that stays a scalar is taken as it is; everything else is new here.
                if old.is_none_or(|old| kind_of(&old) != kind_of(&new)) {
                    discard_nulls(&mut new, depth);
                }
                without_directives(new, depth)
            }
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// `$retainKeys`: of the original only these keys survive, and the patch may set no others.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Merged<()> {
    const BAD: &str = "invalid patch format of retainKeys";
    let Some(keep) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let keep = keep.as_array().ok_or(BAD)?;
    let kept = |key: &str| keep.iter().any(|k| k == key);
    let is_parallel = |key: &str| key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !is_parallel(key) && !kept(key)) {
        return Err(BAD.to_owned());
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

fn delete_from_list(original: &mut Object, key: &str, doomed: &Value) -> Merged<()> {
    match (original.get_mut(key), doomed) {
        (_, Value::Null) => {
            original.remove(key);
        }
        (Some(Value::Array(list)), Value::Array(doomed)) => {
            element_kind([list.as_slice(), doomed.as_slice()])?;
            let doomed: HashSet<String> = doomed.iter().map(Value::to_string).collect();
            list.retain(|item| !doomed.contains(&item.to_string()));
        }
        _ => {}
    }
    Ok(())
}

/// Lists that come with a `$setElementOrder`: merged, then put in that order.
fn merge_ordered_lists(
    original: &mut Object,
    patch: &mut Object,
    schema: Option<&Schema>,
    depth: usize,
) -> Merged<()> {
    let orders: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in orders {
        let Some(order) = patch.remove(&directive) else { continue };
        let Value::Array(order) = order else { return Err(expected_list(&order)) };
        let key = &directive[SET_ORDER.len()..];
        let old = original.get(key).map(|value| as_list(value).cloned()).transpose()?;
        let new = patch.get(key).map(|value| as_list(value).cloned()).transpose()?;
        let rule = rule(schema, key)?;
        let merge_key = rule.key.as_deref();
        if let Some(new) = &new {
            order_agrees(new, &order, merge_key)?;
        }
        let (before, added) = (old.clone().unwrap_or_default(), new.clone().unwrap_or_default());
        let merged = match (old, new) {
            (Some(old), None) => old,
            (None, Some(new)) => match without_directives(Value::Array(new), depth) {
                Some(Value::Array(new)) => new,
                _ => continue,
            },
            (Some(old), Some(new)) if rule.merge => merge_list(old, new, &rule, depth + 1)?,
            (Some(_), Some(new)) => new,
            (None, None) => continue,
        };
        element_kind([before.as_slice(), added.as_slice()])?;
        let arranged = arrange(merged, &order, &before, merge_key)?;
        original.insert(key.to_owned(), Value::Array(arranged));
        patch.remove(key);
    }
    Ok(())
}

/// The items of the patch list stand in the order the directive gives, and all of them stand in it.
fn order_agrees(new: &[Value], order: &[Value], merge_key: Option<&str>) -> Merged<()> {
    if new.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut order = order.iter();
    for item in new.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        loop {
            let Some(place) = order.next() else {
                let shown = Value::Array(new.to_vec());
                return Err(format!(
                    "The order in patch list:\n{shown}\n doesn't match $setElementOrder list:\n"
                ));
            };
            if identity(item, merge_key)? == identity(place, merge_key)? {
                break;
            }
        }
    }
    Ok(())
}

/// What tells an item apart: the value of its merge key, or the item itself.
fn identity<'a>(item: &'a Value, merge_key: Option<&str>) -> Merged<&'a Value> {
    match merge_key {
        None => Ok(item),
        Some(key) => {
            let map = as_map(item)?;
            map.get(key).ok_or_else(|| no_merge_key(map, key))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Elements {
    Maps,
    Scalars,
}

/// All elements of the lists are of one kind, which is not a list.
fn element_kind<const N: usize>(lists: [&[Value]; N]) -> Merged<Elements> {
    let mut items = lists.iter().flat_map(|list| list.iter());
    let Some(first) = items.next() else { return Err("no elements in any of the given slices".to_owned()) };
    if first.is_array() {
        return Err("lists of lists are not supported".to_owned());
    }
    if items.any(|item| kind_of(item) != kind_of(first)) {
        return Err("list element types are not identical".to_owned());
    }
    Ok(if first.is_object() { Elements::Maps } else { Elements::Scalars })
}

fn merge_list(original: List, patch: List, rule: &Rule, depth: usize) -> Merged<List> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    match element_kind([original.as_slice(), patch.as_slice()])? {
        Elements::Scalars => {
            let mut seen = HashSet::new();
            let both = original.iter().chain(&patch);
            let merged = both.filter(|item| seen.insert(item.to_string())).cloned().collect();
            arrange(merged, &patch, &original, None)
        }
        Elements::Maps => {
            let key = rule.key.as_deref().ok_or("cannot merge lists without merge key for struct")?;
            let (original, patch) = carry_out_directives(original, patch, key)?;
            let items = rule.schema.as_ref().and_then(Schema::items);
            let mut merged = original.clone();
            let mut places: HashMap<String, usize> = HashMap::with_capacity(merged.len());
            for (index, item) in merged.iter().enumerate() {
                if let Some(id) = item.get(key) {
                    places.entry(id.to_string()).or_insert(index);
                }
            }
            for item in &patch {
                let id = identity(item, Some(key))?.to_string();
                match places.get(&id).map(|at| (*at, merged[*at].take())) {
                    Some((at, Value::Object(old))) => {
                        let new = as_map(item)?.clone();
                        merged[at] = Value::Object(merge_map(old, new, items.as_ref(), depth + 1)?);
                    }
                    _ => {
                        places.insert(id, merged.len());
                        merged.push(item.clone());
                    }
                }
            }
            arrange(merged, &patch, &original, Some(key))
        }
    }
}

/// Items of a patch list that carry `$patch`: `delete` removes an item, `replace` the whole list. Returns what remains
/// of both lists.
fn carry_out_directives(mut original: List, patch: List, key: &str) -> Merged<(List, List)> {
    let mut plain = List::new();
    let mut doomed = HashSet::new();
    let mut replace = false;
    for item in patch {
        let map = as_map(&item)?;
        match map.get(DIRECTIVE).map(|directive| (directive, directive.as_str())) {
            None => plain.push(item),
            Some((_, Some("delete"))) => {
                let id = identity(&item, Some(key))?;
                doomed.insert(id.to_string());
            }
            Some((_, Some("replace"))) => replace = true,
            Some((_, Some("merge"))) => {
                return Err("merging lists cannot yet be specified in the patch".to_owned());
            }
            Some((other, _)) => return Err(format!("unknown patch type: {other} in map: {item}")),
        }
    }
    if !doomed.is_empty() {
        original.retain(|item| item.get(key).is_none_or(|id| !doomed.contains(&id.to_string())));
    }
    Ok(if replace { (plain, List::new()) } else { (original, plain) })
}

/// Puts items that `order` names in its order, and lets the others keep their places relative to `original`: an item
/// only the server has stands before the first ordered item it preceded.
fn arrange(merged: List, order: &[Value], original: &[Value], key: Option<&str>) -> Merged<List> {
    let places = |list: &[Value]| -> Merged<BTreeMap<String, usize>> {
        let mut places = BTreeMap::new();
        for (index, item) in list.iter().enumerate() {
            places.entry(identity(item, key)?.to_string()).or_insert(index);
        }
        Ok(places)
    };
    let (ordered_places, old_places) = (places(order)?, places(original)?);
    let (mut ordered, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let id = identity(&item, key)?.to_string();
        let old = old_places.get(&id).copied();
        match ordered_places.get(&id) {
            Some(place) => ordered.push((*place, old, item)),
            None => others.push((old, item)),
        }
    }
    ordered.sort_by_key(|(place, ..)| *place);
    others.sort_by_key(|(old, _)| old.unwrap_or(usize::MAX));
    let mut others = others.into_iter().peekable();
    let mut arranged = List::with_capacity(ordered.len());
    for (_, old, item) in ordered {
        // An item without a place in the original comes before what only the server has.
        while let Some(old) = old
            && let Some((_, server_only)) =
                others.next_if(|(place, _)| place.is_some_and(|place| place < old))
        {
            arranged.push(server_only);
        }
        arranged.push(item);
    }
    arranged.extend(others.map(|(_, item)| item));
    Ok(arranged)
}

fn discard_nulls(value: &mut Value, depth: usize) {
    if depth >= MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(|member| discard_nulls(member, depth + 1));
        }
        Value::Array(list) => list.iter_mut().for_each(|item| discard_nulls(item, depth + 1)),
        _ => {}
    }
}

/// The value without anything that carries `$patch`; `None` if it carries one itself.
fn without_directives(value: Value, depth: usize) -> Option<Value> {
    if depth >= 2 * MAX_DEPTH {
        return None;
    }
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => {
            let kept =
                map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value, depth + 1)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(
            list.into_iter().filter_map(|item| without_directives(item, depth + 1)).collect(),
        )),
        scalar => Some(scalar),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::KUBERNETES;
    use serde_json::json;

    /// A type with every kind of field: a merged list by name, a merged list of scalars, plain ones, `retainKeys` and
    /// `replace`.
    fn schema() -> Schema {
        let item = json!({"type": "object", "properties": {
            "name": {"type": "string"}, "value": {"type": "string"}, "other": {"type": "string"},
            "simple": {"type": "array", "items": {"type": "string"}, "x-kubernetes-patch-strategy": "merge"},
        }});
        Schema::structural(&json!({"type": "object", "properties": {
            "name": {"type": "string"}, "value": {"type": "string"},
            "list": {"type": "array", "items": item, "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name"},
            "atomic": {"type": "array", "items": item},
            "simple": {"type": "array", "items": {"type": "string"}, "x-kubernetes-patch-strategy": "merge"},
            "plain": {"type": "array", "items": {"type": "string"}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "retained": {"type": "object", "x-kubernetes-patch-strategy": "retainKeys", "properties": {"a": {}, "b": {}, "c": {}}},
            "replaced": {"type": "object", "x-kubernetes-patch-strategy": "replace", "properties": {"a": {}, "b": {}}},
        }}))
    }

    fn check(original: Value, patch: Value, expected: Value) {
        let merged = apply(Some(&schema()), &original, &patch).unwrap();
        assert_eq!(merged, expected, "{original} + {patch}");
    }

    fn names(list: &[&str]) -> Value {
        list.iter().map(|name| json!({"name": name})).collect()
    }

    #[test]
    fn maps_merge_and_null_removes() {
        check(json!({"name": "a"}), json!({"value": "b"}), json!({"name": "a", "value": "b"}));
        check(json!({"name": "a", "value": "b"}), json!({"name": null}), json!({"value": "b"}));
        check(json!({}), json!({"name": null, "map": {"a": null, "b": "1"}}), json!({"map": {"b": "1"}}));
        check(json!({"map": {"a": "1"}}), json!({"map": {"b": "2", "a": null}}), json!({"map": {"b": "2"}}));
        check(json!({"map": {"a": "1"}}), json!({"map": null}), json!({}));
    }

    #[test]
    fn lists_merge_by_key_or_are_replaced() {
        let original = json!({"list": [{"name": "1", "value": "a"}, {"name": "2"}]});
        let expected = json!({"list": [{"name": "3"}, {"name": "1", "value": "b"}, {"name": "2"}]});
        check(original, json!({"list": [{"name": "3"}, {"name": "1", "value": "b"}]}), expected);
        check(
            json!({"atomic": [{"name": "1"}]}),
            json!({"atomic": [{"name": "2"}]}),
            json!({"atomic": [{"name": "2"}]}),
        );
        check(json!({"plain": ["a", "b"]}), json!({"plain": ["c"]}), json!({"plain": ["c"]}));
        check(
            json!({"simple": ["a", "b"]}),
            json!({"simple": ["b", "c"]}),
            json!({"simple": ["a", "b", "c"]}),
        );
        check(
            json!({"list": [{"name": "1", "simple": ["a"]}]}),
            json!({"list": [{"name": "1", "simple": ["b"]}]}),
            json!({"list": [{"name": "1", "simple": ["b", "a"]}]}),
        );
        check(json!({"list": names(&["1"])}), json!({"list": null}), json!({}));
    }

    #[test]
    fn directives_delete_and_replace() {
        check(
            json!({"list": names(&["1", "2", "3"])}),
            json!({"list": [{"name": "2", "$patch": "delete"}]}),
            json!({"list": names(&["1", "3"])}),
        );
        check(
            json!({"list": names(&["1"])}),
            json!({"list": [{"name": "2"}, {"$patch": "replace"}]}),
            json!({"list": names(&["2"])}),
        );
        check(
            json!({"map": {"a": "1"}}),
            json!({"map": {"$patch": "replace", "b": "2"}}),
            json!({"map": {"b": "2"}}),
        );
        check(json!({"map": {"a": "1"}}), json!({"map": {"$patch": "delete"}}), json!({"map": {}}));
        check(json!({"name": "a"}), json!({"$patch": "replace", "value": "b"}), json!({"value": "b"}));
        check(
            json!({}),
            json!({"map": {"$patch": "delete"}, "list": [{"name": "1", "$patch": "delete"}]}),
            json!({"list": []}),
        );
        check(json!({"replaced": {"a": 1}}), json!({"replaced": {"b": 2}}), json!({"replaced": {"b": 2}}));
    }

    #[test]
    fn scalars_are_deleted_from_lists() {
        check(
            json!({"simple": ["a", "b", "a"]}),
            json!({"$deleteFromPrimitiveList/simple": ["a"]}),
            json!({"simple": ["b"]}),
        );
        check(
            json!({"simple": ["a", "b"]}),
            json!({"$deleteFromPrimitiveList/simple": ["a"], "simple": ["c"]}),
            json!({"simple": ["c", "b"]}),
        );
        check(json!({}), json!({"$deleteFromPrimitiveList/simple": ["a"]}), json!({}));
    }

    #[test]
    fn retained_keys_are_all_that_survive() {
        check(
            json!({"retained": {"a": 1, "b": 1}}),
            json!({"retained": {"$retainKeys": ["b", "c"], "c": 2}}),
            json!({"retained": {"b": 1, "c": 2}}),
        );
        let bad = json!({"retained": {"$retainKeys": ["a"], "b": 2}});
        let error = apply(Some(&schema()), &json!({"retained": {"a": 1}}), &bad).unwrap_err();
        assert_eq!(error.message, "invalid patch format of retainKeys");
    }

    #[test]
    fn element_order_is_kept_as_asked() {
        let order = |list: &[&str]| json!({"$setElementOrder/list": names(list)});
        check(
            json!({"list": names(&["1", "2", "3"])}),
            order(&["3", "1", "2"]),
            json!({"list": names(&["3", "1", "2"])}),
        );
        let mut patch = order(&["3", "2", "4"]);
        patch["list"] = json!([{"name": "3", "value": "x"}, {"name": "4"}]);
        let expected =
            json!({"list": [{"name": "1"}, {"name": "3", "value": "x"}, {"name": "2"}, {"name": "4"}]});
        check(json!({"list": names(&["1", "2", "3"])}), patch, expected);
        check(
            json!({"simple": ["1", "2", "3"]}),
            json!({"$setElementOrder/simple": ["3", "4", "1"], "simple": ["4"], "$deleteFromPrimitiveList/simple": ["2"]}),
            json!({"simple": ["3", "4", "1"]}),
        );
        let mut reversed = order(&["1", "2"]);
        reversed["list"] = names(&["2", "1"]);
        let error = apply(Some(&schema()), &json!({"list": names(&["1"])}), &reversed).unwrap_err();
        assert!(error.message.starts_with("The order in patch list:"), "{error}");
    }

    #[test]
    fn patches_that_make_no_sense_are_refused() {
        for (original, patch, message) in [
            (json!({}), json!({"$patch": "merge"}), "unknown patch type"),
            (
                json!({"list": names(&["1"])}),
                json!({"list": [{"value": "x"}]}),
                "does not contain declared merge key: name",
            ),
            (json!({"list": names(&["1"])}), json!({"list": ["x"]}), "list element types are not identical"),
            (json!({"nope": {}}), json!({"nope": {"a": 1}}), "unable to find api field"),
            (
                json!({"list": names(&["1"])}),
                json!({"list": [{"$patch": "merge"}]}),
                "merging lists cannot yet be specified",
            ),
            (
                json!({}),
                json!({"$setElementOrder/list": 1}),
                "expected a []interface {}, but received a int64",
            ),
        ] {
            let error = apply(Some(&schema()), &original, &patch).unwrap_err();
            assert_eq!(error.code, 400);
            assert!(error.message.contains(message), "{}", error.message);
        }
    }

    #[test]
    fn a_deployment_merges_containers_ports_and_environment_by_their_keys() {
        let schema = KUBERNETES.definitions.get("io.k8s.api.apps.v1.Deployment").unwrap();
        let with = |containers: Value| json!({"spec": {"template": {"spec": {"containers": containers}}}});
        let original = with(
            json!([{"name": "a", "image": "i:1", "args": ["x"], "env": [{"name": "E", "value": "1"}, {"name": "F"}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}]}, {"name": "b"}]),
        );
        let patch = with(
            json!([{"name": "a", "image": "i:2", "args": ["y"], "env": [{"name": "E", "value": null, "valueFrom": {}}],
            "ports": [{"containerPort": 81}], "$setElementOrder/env": [{"name": "F"}, {"name": "E"}]}]),
        );
        let expected = with(
            json!([{"name": "a", "image": "i:2", "args": ["y"], "env": [{"name": "F"}, {"name": "E", "valueFrom": {}}],
            "ports": [{"containerPort": 81}, {"containerPort": 80, "protocol": "TCP"}]}, {"name": "b"}]),
        );
        assert_eq!(apply(Some(&schema), &original, &patch).unwrap(), expected);
        let strategy = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}});
        let recreate = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(
            apply(Some(&schema), &strategy, &recreate).unwrap(),
            json!({"spec": {"strategy": {"type": "Recreate"}}})
        );
    }
}
