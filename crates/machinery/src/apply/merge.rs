//! Comparing, merging and pruning typed values.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use serde_json::{Map, Value};

use super::typed::{Shape, Type, items, members};
use crate::fields::{self, Element, MAX_DEPTH, Node, Set};

/// What changed from one object to another.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) removed: Set,
    pub(super) modified: Set,
    pub(super) added: Set,
}

static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

#[derive(Default)]
struct ChangesAt {
    removed: Node,
    modified: Node,
    added: Node,
}

impl ChangesAt {
    fn put(&mut self, element: &Element, child: ChangesAt) {
        self.removed.children.put(element.clone(), child.removed);
        self.modified.children.put(element.clone(), child.modified);
        self.added.children.put(element.clone(), child.added);
    }
}

impl Changes {
    /// The fields that differ between `old` and `new`.
    pub(super) fn between(of: &Type, old: &Value, new: &Value) -> Self {
        let ChangesAt { removed, modified, added } = compare(of, Some(old), Some(new), 0);
        Self { removed: removed.children, modified: modified.children, added: added.children }
    }

    /// The same without the fields in `ignored` and all below them.
    pub(super) fn without(self, ignored: &Set) -> Self {
        Self {
            removed: self.removed.recursive_difference(ignored),
            modified: self.modified.recursive_difference(ignored),
            added: self.added.recursive_difference(ignored),
        }
    }
}

/// Whether two values mean the same: as JSON, with numbers compared as numbers.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    a == b || fields::compare(a, b).is_eq()
}

fn compare(of: &Type, old: Option<&Value>, new: Option<&Value>, depth: usize) -> ChangesAt {
    let mut out = ChangesAt::default();
    let shape = |value: Option<&Value>| {
        value.map(|value| if depth > MAX_DEPTH { Shape::Leaf } else { of.shape(value) })
    };
    let (before, after) = (shape(old), shape(new));
    // Where the shape itself changed, both sides have something to say: the old about what is gone.
    let first = before.filter(|before| after.is_some_and(|after| after != *before));
    if let Some(first) = first {
        visit(first, of, old, new, depth, &mut out);
    }
    let leaf = after.or(before).is_none_or(|shape| visit(shape, of, old, new, depth, &mut out));
    if !leaf {
        match (old, new) {
            (None, Some(_)) => out.added.member = true,
            (Some(_), None) => out.removed.member = true,
            _ => {}
        }
    }
    out
}

/// Compares as `shape`; answers whether the place turned out to be a leaf.
fn visit(
    shape: Shape,
    of: &Type,
    old: Option<&Value>,
    new: Option<&Value>,
    depth: usize,
    out: &mut ChangesAt,
) -> bool {
    let (l, r) = (old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null));
    match shape {
        Shape::Map if !members(l).is_empty() || !members(r).is_empty() => {
            let (l, r) = (members(l), members(r));
            let names: BTreeSet<&String> = l.keys().chain(r.keys()).collect();
            for name in names {
                let member = of.member(name).of;
                let absent = if member.is_always_present() { Some(&*EMPTY) } else { None };
                let child = compare(&member, l.get(name).or(absent), r.get(name).or(absent), depth + 1);
                out.put(&Element::field(name), child);
            }
            false
        }
        Shape::List if !items(l).is_empty() || !items(r).is_empty() => {
            let (Some(l), Some(r)) = (of.index(items(l)), of.index(items(r))) else {
                leaf(old, new, out);
                return true;
            };
            compare_items(&of.item(), l, r, depth, out);
            false
        }
        _ => {
            leaf(old, new, out);
            true
        }
    }
}

fn leaf(old: Option<&Value>, new: Option<&Value>, out: &mut ChangesAt) {
    match (old, new) {
        (None, Some(_)) => out.added.member = true,
        (Some(_), None) => out.removed.member = true,
        (Some(old), Some(new)) => out.modified.member |= !same(old, new),
        (None, None) => {}
    }
}

type Indexed<'a> = Vec<(Element, &'a Value)>;

fn compare_items(of: &Type, old: Indexed<'_>, new: Indexed<'_>, depth: usize, out: &mut ChangesAt) {
    let mut by_element: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for (element, value) in old {
        by_element.entry(element).or_default().0.push(value);
    }
    for (element, value) in new {
        by_element.entry(element).or_default().1.push(value);
    }
    for (element, (old, new)) in by_element {
        let mut at = ChangesAt::default();
        match (old.as_slice(), new.as_slice()) {
            ([] | [_], [] | [_]) => at = compare(of, old.first().copied(), new.first().copied(), depth + 1),
            // Several items that cannot be told apart are one leaf.
            ([_, _, ..], [_, _, ..]) => {
                at.modified.member = old.len() != new.len() || old.iter().zip(&new).any(|(a, b)| !same(a, b));
            }
            ([_, _, ..], _) => {
                if let Some(new) = new.first() {
                    at = compare(of, None, Some(new), depth + 1);
                }
                at.removed.member = true;
            }
            (_, _) => {
                if let Some(old) = old.first() {
                    at = compare(of, Some(old), None, depth + 1);
                }
                at.added.member = true;
            }
        }
        out.put(&element, at);
    }
}

/// `live` with everything `applied` says, which wins where both say something.
pub(super) fn merge(of: &Type, live: &Value, applied: &Value) -> Value {
    merge_at(of, live, applied, 0)
}

fn merge_at(of: &Type, live: &Value, applied: &Value, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return applied.clone();
    }
    match of.shape(applied) {
        Shape::Map if !members(live).is_empty() => {
            let mut out = members(live).into_owned();
            for (name, value) in members(applied).iter() {
                let merged = match out.get(name) {
                    Some(live) => merge_at(&of.member(name).of, live, value, depth + 1),
                    None => value.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        Shape::List if !items(live).is_empty() => match (of.index(items(live)), of.index(items(applied))) {
            (Some(live), Some(applied)) => Value::Array(merge_items(&of.item(), &live, &applied, depth)),
            _ => applied.clone(),
        },
        _ => applied.clone(),
    }
}

/// Merges two lists so that the order of the applied one holds among its items, and items only the live one has
/// stay next to their neighbours.
fn merge_items(of: &Type, live: &Indexed<'_>, applied: &Indexed<'_>, depth: usize) -> Vec<Value> {
    let mut in_live: BTreeMap<&Element, Option<&Value>> = BTreeMap::new();
    for (element, value) in live {
        // Items that cannot be told apart are not merged with but replaced by an applied one.
        in_live.entry(element).and_modify(|found| *found = None).or_insert(Some(value));
    }
    let in_applied: BTreeSet<&Element> = applied.iter().map(|(element, _)| element).collect();
    let mut shared =
        applied.iter().map(|(element, _)| element).filter(|element| in_live.contains_key(element));
    let mut next_shared = shared.next();
    let mut done = BTreeSet::new();
    let (mut l, mut a) = (0, 0);
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    while l < live.len() || a < applied.len() {
        if let (Some((element, _)), Some((wanted, _))) = (live.get(l), applied.get(a))
            && element != wanted
            && in_applied.contains(element)
            && next_shared.is_some_and(|next| next != element)
        {
            l += 1; // its turn comes with the applied list
            continue;
        }
        if let Some((element, value)) = live.get(l) {
            if !in_applied.contains(element) {
                out.push((*value).clone());
                l += 1;
                continue;
            }
            if done.contains(element) || applied.get(a).is_some_and(|(wanted, _)| wanted == element) {
                l += 1;
            }
        }
        if let Some((element, value)) = applied.get(a) {
            done.insert(element);
            out.push(match in_live.get(element) {
                Some(Some(live)) => merge_at(of, live, value, depth + 1),
                _ => (*value).clone(),
            });
            a += 1;
            if next_shared == Some(element) {
                next_shared = shared.next();
            }
        }
    }
    out
}

/// `value` without the members of `set`. What becomes empty thereby stays, lists as `empty`: somebody may own that it
/// is there.
pub(super) fn remove(of: &Type, value: &Value, set: &Set, empty: &Value) -> Value {
    if set.is_empty() {
        return value.clone();
    }
    let keep = |element: &Element, of: &Type, value: &Value| match set.get(element) {
        None => Some(value.clone()),
        Some(node) if node.member => None,
        Some(node) => Some(remove(of, value, &node.children, empty)),
    };
    match (of.shape(value), value) {
        (Shape::Map, Value::Object(members)) => {
            let kept = members.iter().filter_map(|(name, value)| {
                Some((name.clone(), keep(&Element::field(name), &of.member(name).of, value)?))
            });
            Value::Object(kept.collect())
        }
        (Shape::List, Value::Array(items)) => {
            let Some(index) = of.index(items) else { return value.clone() };
            let item = of.item();
            let kept: Vec<_> =
                index.iter().filter_map(|(element, value)| keep(element, &item, value)).collect();
            if kept.is_empty() { empty.clone() } else { kept.into() }
        }
        _ => value.clone(),
    }
}
