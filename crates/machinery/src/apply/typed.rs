//! What a schema says about one place of an object, as far as ownership of fields is concerned.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::{
    fields::{Element, MAX_DEPTH, Node, Set},
    kubernetes::KUBERNETES,
    schema::{ListType, Schema},
};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

/// The type of a place.
#[derive(Clone, Debug)]
pub(super) enum Type {
    /// An object with a schema, whose metadata is Kubernetes' own whatever the schema says.
    Root(Option<Schema>),
    /// Declared. `open`: undeclared members are allowed, because this or an enclosing schema preserves them.
    Known { schema: Schema, open: bool },
    /// Undeclared: objects are merged member by member, lists are replaced.
    Deduced,
    /// Replaced as a whole.
    Atomic,
}

/// How a value at a place is owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// As a whole.
    Leaf,
    /// Member by member.
    Map,
    /// Item by item.
    List,
}

/// A member's type.
pub(super) struct Member {
    pub(super) of: Type,
    /// Named in the schema, as opposed to a key of a map.
    pub(super) declared: bool,
    /// The schema does not allow it.
    pub(super) unknown: bool,
}

impl Type {
    fn known(schema: Schema, open: bool) -> Self {
        if schema.reference() == Some(RAW_EXTENSION) {
            return Self::Atomic;
        }
        // Types that are referred to are closed or open by themselves.
        let inherited = open && schema.reference().is_none();
        let open = inherited || schema.field().preserve_unknown || schema.target().preserve_unknown;
        Self::Known { schema, open }
    }

    /// How `value` is owned at a place of this type. A value that does not fit its type is a leaf.
    pub(super) fn shape(&self, value: &Value) -> Shape {
        let map = |atomic: bool| match value {
            Value::Object(_) | Value::Null if !atomic => Shape::Map,
            _ => Shape::Leaf,
        };
        match self {
            Self::Atomic => Shape::Leaf,
            Self::Root(_) | Self::Deduced => map(false),
            Self::Known { schema, .. } => match (schema.target().kind.as_str(), value) {
                ("array", Value::Array(_) | Value::Null) | ("", Value::Array(_)) => {
                    match schema.list_type() {
                        ListType::Atomic => Shape::Leaf,
                        ListType::Set | ListType::Map(_) => Shape::List,
                    }
                }
                ("object" | "", _) => map(schema.is_atomic_map()),
                _ => Shape::Leaf,
            },
        }
    }

    /// The type of the member `name`.
    pub(super) fn member(&self, name: &str) -> Member {
        let object_meta = || KUBERNETES.definitions.get(OBJECT_META).map(|schema| Self::known(schema, false));
        let declared = |of| Member { of, declared: true, unknown: false };
        let undeclared = |unknown| Member { of: Self::Deduced, declared: false, unknown };
        match (self, name) {
            (Self::Root(_), "metadata") => declared(object_meta().unwrap_or(Self::Deduced)),
            (Self::Root(_), "apiVersion" | "kind") => declared(Self::Deduced),
            (Self::Root(Some(schema)), _) => Self::known(schema.clone(), false).member(name),
            (Self::Known { schema, .. }, "metadata") if schema.target().embedded_resource => {
                declared(object_meta().unwrap_or(Self::Deduced))
            }
            (Self::Known { schema, open }, _) => {
                if let Some(property) = schema.property(name) {
                    return declared(Self::known(property, *open));
                }
                match schema.additional() {
                    Some(additional) => {
                        Member { of: Self::known(additional, *open), declared: false, unknown: false }
                    }
                    None => undeclared(!open && schema.properties().next().is_some()),
                }
            }
            (Self::Root(None) | Self::Deduced | Self::Atomic, _) => undeclared(false),
        }
    }

    /// Whether Kubernetes keeps this place even where an object does not mention it, as it does with the parts that
    /// make up a built-in kind: its coming and going is nobody's doing.
    pub(super) fn is_always_present(&self) -> bool {
        let Self::Known { schema, .. } = self else { return false };
        let default = schema.field().default.as_ref().and_then(Value::as_object);
        schema.reference().is_some() && default.is_some_and(Map::is_empty)
    }

    /// The type of a list's items.
    pub(super) fn item(&self) -> Self {
        match self {
            Self::Known { schema, open } => {
                schema.items().map_or(Self::Atomic, |items| Self::known(items, *open))
            }
            _ => Self::Atomic,
        }
    }

    /// The type of the place an element leads to.
    fn child(&self, element: &Element) -> Member {
        match element {
            Element::Field(name) => self.member(name),
            _ => Member { of: self.item(), declared: false, unknown: false },
        }
    }

    /// What tells this item of an associative list from the others.
    fn element(&self, item: &Value) -> Result<Element, String> {
        let Self::Known { schema, .. } = self else { return Err("not an associative list".to_owned()) };
        match (schema.list_type(), item) {
            (ListType::Map(keys), Value::Object(members)) => {
                let items = schema.items();
                let default = |key: &str| {
                    let property = items.as_ref()?.property(key)?;
                    property.field().default.clone().or_else(|| property.target().default.clone())
                };
                let mut found: Vec<(String, Value)> = keys
                    .iter()
                    .filter_map(|key| {
                        Some((key.clone(), members.get(key).cloned().or_else(|| default(key))?))
                    })
                    .collect();
                if found.is_empty() {
                    let keys = keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(" ");
                    return Err(format!(
                        "associative list with keys has an element that omits all key fields [{keys}] (and doesn't \
                         have default values for any key fields)"
                    ));
                }
                found.sort_by(|a, b| a.0.cmp(&b.0));
                Ok(Element::Key(found))
            }
            (ListType::Map(_), Value::Null) => {
                Err("associative list with keys may not have a null element".to_owned())
            }
            (ListType::Map(_), _) => {
                Err("associative list with keys may not have non-map elements".to_owned())
            }
            (_, Value::Object(_)) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            (_, Value::Array(_)) => Err("not supported: associative list with lists as elements".to_owned()),
            (_, Value::Null) => {
                Err("associative list without keys has an element that's an explicit null".to_owned())
            }
            (_, scalar) => Ok(Element::Value(scalar.clone())),
        }
    }

    /// The items of an associative list with what tells them apart; `None` if some item has no such thing.
    pub(super) fn index<'a>(&self, items: &'a [Value]) -> Option<Vec<(Element, &'a Value)>> {
        items.iter().map(|item| Some((self.element(item).ok()?, item))).collect()
    }
}

/// The members of an object; of nothing for whatever is none.
pub(super) fn members(value: &Value) -> Cow<'_, Map<String, Value>> {
    value.as_object().map_or_else(|| Cow::Owned(Map::new()), Cow::Borrowed)
}

/// The items of a list; none for whatever is no list.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// All fields of `value`: what its author says something about.
pub(super) fn field_set(of: &Type, value: &Value) -> Set {
    node(of, value, 0).children
}

fn node(of: &Type, value: &Value, depth: usize) -> Node {
    let mut out = Node::default();
    if depth > MAX_DEPTH {
        return Node::leaf();
    }
    match of.shape(value) {
        Shape::Leaf => out.member = true,
        Shape::Map => {
            for (name, value) in members(value).iter() {
                let member = of.member(name);
                let mut child = node(&member.of, value, depth + 1);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                child.member |= empty || !member.declared;
                out.children.put(Element::field(name), child);
            }
        }
        Shape::List => {
            let Some(index) = of.index(items(value)) else { return Node::leaf() };
            let mut seen = std::collections::BTreeMap::new();
            for (element, _) in &index {
                *seen.entry(element.clone()).or_insert(0usize) += 1;
            }
            let item = of.item();
            for (element, value) in index {
                // Of items that cannot be told apart, only that they are there is owned.
                let alone = seen.get(&element) == Some(&1);
                let children = if alone { node(&item, value, depth + 1).children } else { Set::default() };
                out.children.put(element, Node { member: true, children });
            }
        }
    }
    out
}

/// The set with every declared field that has something in the set below it.
pub(super) fn with_named_fields(of: &Type, set: &Set) -> Set {
    let mut out = Set::default();
    for (element, node) in set.nodes() {
        let child = of.child(element);
        let member = node.member || (child.declared && !node.children.is_empty());
        out.put(element.clone(), Node { member, children: with_named_fields(&child.of, &node.children) });
    }
    out
}

/// Everything in `value` that its type does not allow, as Kubernetes words it.
pub(super) fn check(of: &Type, value: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    check_at(of, value, &mut Vec::new(), &mut errors);
    errors
}

fn check_at(of: &Type, value: &Value, path: &mut Vec<Element>, errors: &mut Vec<String>) {
    let say = |path: &[Element], what: &str, errors: &mut Vec<String>| {
        let path = crate::fields::path_to_string(path);
        errors.push(if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") });
    };
    if path.len() > MAX_DEPTH {
        return say(path, &format!("nested deeper than {MAX_DEPTH} levels"), errors);
    }
    if let Some(what) = misfit(of, value) {
        return say(path, &what, errors);
    }
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let member = of.member(name);
                path.push(Element::field(name));
                if member.unknown {
                    say(path, "field not declared in schema", errors);
                } else {
                    check_at(&member.of, value, path, errors);
                }
                path.pop();
            }
        }
        Value::Array(values) => {
            let associative = of.shape(value) == Shape::List;
            let item = if matches!(of, Type::Deduced) { Type::Deduced } else { of.item() };
            let mut seen = std::collections::BTreeSet::new();
            for (position, value) in values.iter().enumerate() {
                let element =
                    if associative { of.element(value) } else { Ok(Element::Index(position as i64)) };
                let element = match element {
                    Ok(element) => element,
                    Err(what) => return say(path, &format!("element {position}: {what}"), errors),
                };
                if !seen.insert(element.clone()) {
                    say(path, &format!("duplicate entries for key {element}"), errors);
                }
                path.push(element);
                check_at(&item, value, path, errors);
                path.pop();
            }
        }
        _ => {}
    }
}

/// How a value fails to be of its type, its members left aside.
fn misfit(of: &Type, value: &Value) -> Option<String> {
    let expected = match of {
        Type::Root(_) => "map",
        Type::Deduced | Type::Atomic => return None,
        Type::Known { schema, .. } => match schema.target() {
            target if target.int_or_string => return None,
            target => match target.kind.as_str() {
                "object" => "map",
                "array" => "list",
                "string" => "string",
                "boolean" => "boolean",
                "integer" | "number" => "numeric (int or float)",
                _ => return None,
            },
        },
    };
    let (fits, got) = match value {
        Value::Null => (true, "nil"),
        Value::Bool(_) => (expected == "boolean", "bool"),
        Value::Number(_) => (expected == "numeric (int or float)", "number"),
        Value::String(_) => (expected == "string", "string"),
        Value::Array(_) => (expected == "list", "[]interface {}"),
        Value::Object(_) => (expected == "map", "map[string]interface {}"),
    };
    (!fits).then(|| format!("expected {expected}, got {got}"))
}
