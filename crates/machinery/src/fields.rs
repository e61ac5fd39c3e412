//! Sets of fields, as `metadata.managedFields` records who owns what (`fieldsV1`).
//!
//! The format is that of Kubernetes' structured merge: a tree of objects whose keys are path elements (`f:<name>`,
//! `k:{"<key>":<value>}`, `v:<value>`, `i:<index>`) and in which `.` says that the place itself is in the set.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt::{self, Display},
};

use serde_json::{Map, Number, Value, json};

/// How deep objects and sets may nest; what lies deeper is treated as one leaf. With the few levels that
/// `managedFields` adds, it stays below the limit of JSON decoders.
pub const MAX_DEPTH: usize = 100;

/// One step of a path.
#[derive(Clone, Debug)]
pub enum Element {
    /// A member of an object.
    Field(String),
    /// The item of a list that has these key fields, sorted by name.
    Key(Vec<(String, Value)>),
    /// The item of a set that has this value.
    Value(Value),
    /// The item at this position.
    Index(i64),
}

/// Why `fieldsV1` could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// Neither an element nor `.`.
    #[error("{0:?} is not a path element: it must start with f:, k:, v: or i:")]
    Element(String),
    /// A node is not an object.
    #[error("expected an object at {0:?}")]
    Node(String),
    /// Nested deeper than any object may be.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    Depth,
}

impl Element {
    /// A member of an object.
    pub fn field(name: impl Into<String>) -> Self {
        Self::Field(name.into())
    }

    /// Reads `f:name`, `k:{…}`, `v:…` or `i:…`. `None` for kinds of elements that a later version may define.
    fn decode(text: &str) -> Result<Option<Self>, FieldsError> {
        let wrong = || FieldsError::Element(text.to_owned());
        let Some((kind, rest)) = text.split_once(':').filter(|(kind, _)| kind.len() == 1) else {
            return Err(wrong());
        };
        Ok(Some(match kind {
            "f" => Self::Field(rest.to_owned()),
            "v" => Self::Value(serde_json::from_str(rest).map_err(|_| wrong())?),
            "k" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).map_err(|_| wrong())?;
                let mut keys: Vec<_> = keys.into_iter().collect();
                keys.sort_by(|a, b| a.0.cmp(&b.0));
                Self::Key(keys)
            }
            "i" => Self::Index(rest.parse().map_err(|_| wrong())?),
            _ => return Ok(None),
        }))
    }

    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => {
                let keys: Vec<_> =
                    keys.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
                format!("k:{{{}}}", keys.join(","))
            }
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                let pairs = a.iter().zip(b).map(|((m, x), (n, y))| m.cmp(n).then_with(|| compare(x, y)));
                pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
            }
            (Self::Value(a), Self::Value(b)) => compare(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Element {}

/// As Kubernetes prints paths: `.spec.containers[name="web"].ports[containerPort=80,protocol="TCP"]`.
impl Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: Vec<_> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// Orders any two JSON values; numbers by what they mean, so that 1 and 1.0 are the same key.
pub fn compare(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let items = a.iter().zip(b).map(|(x, y)| compare(x, y));
            items.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let members = a.iter().zip(b).map(|((m, x), (n, y))| m.cmp(n).then_with(|| compare(x, y)));
            members.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    match (a.as_i64(), b.as_i64(), a.as_u64(), b.as_u64()) {
        (Some(a), Some(b), ..) => a.cmp(&b),
        (.., Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
    }
}

/// A set of fields. The whole object is never a member of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    nodes: BTreeMap<Element, Node>,
}

/// One place in a [`Set`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Whether the place itself is in the set.
    pub member: bool,
    /// What is in the set below it.
    pub children: Set,
}

impl Node {
    /// A place that is in the set, with nothing below it.
    pub fn leaf() -> Self {
        Self { member: true, children: Set::default() }
    }

    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl Set {
    /// Reads a set from `fieldsV1`.
    pub fn decode(fields: &Value) -> Result<Self, FieldsError> {
        fn node(key: &str, value: &Value, depth: usize) -> Result<Node, FieldsError> {
            let members = value.as_object().ok_or_else(|| FieldsError::Node(key.to_owned()))?;
            if depth > MAX_DEPTH {
                return Err(FieldsError::Depth);
            }
            let mut out = Node::default();
            for (key, value) in members {
                if key == "." {
                    out.member = true;
                } else if let Some(element) = Element::decode(key)? {
                    out.children.put(element, node(key, value, depth + 1)?);
                }
            }
            out.member |= out.children.is_empty();
            Ok(out)
        }
        Ok(node("", fields, 0)?.children)
    }

    /// Writes the set as `fieldsV1`.
    pub fn encode(&self) -> Value {
        let nodes = self.nodes.iter().map(|(element, node)| {
            let mut value = node.children.encode();
            if let (true, false, Value::Object(members)) = (node.member, node.children.is_empty(), &mut value)
            {
                members.insert(".".to_owned(), json!({}));
            }
            (element.encode(), value)
        });
        Value::Object(nodes.collect())
    }

    /// Builds a set of these paths.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a [Element]>) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(path);
        }
        set
    }

    /// Builds a set of paths that consist of field names only.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<_> = path.iter().map(|name| Element::field(*name)).collect();
            set.insert(&path);
        }
        set
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds one path; not its parents.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let node = self.nodes.entry(first.clone()).or_default();
        match rest {
            [] => node.member = true,
            rest => node.children.insert(rest),
        }
    }

    /// Adds what is at and below `element`.
    pub fn put(&mut self, element: Element, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.nodes.entry(element) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(node);
            }
            std::collections::btree_map::Entry::Occupied(mut place) => {
                let old = std::mem::take(&mut place.get_mut().children);
                place.insert(Node {
                    member: place.get().member || node.member,
                    children: old.union(node.children),
                });
            }
        }
    }

    /// What is at and below `element`.
    pub fn get(&self, element: &Element) -> Option<&Node> {
        self.nodes.get(element)
    }

    /// The places directly below the root.
    pub fn nodes(&self) -> impl Iterator<Item = (&Element, &Node)> {
        self.nodes.iter()
    }

    /// Whether `path` itself is in the set.
    pub fn has(&self, path: &[Element]) -> bool {
        match path.split_first() {
            None => false,
            Some((first, [])) => self.nodes.get(first).is_some_and(|node| node.member),
            Some((first, rest)) => self.nodes.get(first).is_some_and(|node| node.children.has(rest)),
        }
    }

    /// All paths of the set; those of one level before what is below them.
    pub fn paths(&self) -> Vec<Vec<Element>> {
        fn walk(set: &Set, prefix: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
            for (element, _) in set.nodes.iter().filter(|(_, node)| node.member) {
                out.push(prefix.iter().chain([element]).cloned().collect());
            }
            for (element, node) in &set.nodes {
                prefix.push(element.clone());
                walk(&node.children, prefix, out);
                prefix.pop();
            }
        }
        let mut out = Vec::new();
        walk(self, &mut Vec::new(), &mut out);
        out
    }

    /// What is in either set.
    pub fn union(mut self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        for (element, node) in other.nodes {
            self.put(element, node);
        }
        self
    }

    /// What is in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(|element, node| {
            let other = other.nodes.get(element)?;
            let children = node.children.intersection(&other.children);
            Some(Node { member: node.member && other.member, children })
        })
    }

    /// What is in this set and not in the other. A member of the other takes nothing away below itself.
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(|element, node| {
            Some(match other.nodes.get(element) {
                None => node.clone(),
                Some(other) => {
                    let children = node.children.difference(&other.children);
                    Node { member: node.member && !other.member, children }
                }
            })
        })
    }

    /// What is neither in the other set nor below one of its members.
    pub fn recursive_difference(&self, other: &Self) -> Self {
        self.combine(|element, node| match other.nodes.get(element) {
            None => Some(node.clone()),
            Some(other) if other.member => None,
            Some(other) => {
                let children = node.children.recursive_difference(&other.children);
                Some(Node { member: node.member, children })
            }
        })
    }

    /// The members that have nothing below them.
    pub fn leaves(&self) -> Self {
        self.combine(|_, node| {
            let member = node.member && node.children.is_empty();
            Some(Node { member, children: node.children.leaves() })
        })
    }

    /// A set made of what `of` leaves of each node.
    fn combine(&self, of: impl Fn(&Element, &Node) -> Option<Node>) -> Self {
        let nodes =
            self.nodes.iter().filter_map(|(element, node)| Some((element.clone(), of(element, node)?)));
        Self { nodes: nodes.filter(|(_, node)| !node.is_empty()).collect() }
    }
}

/// A path as Kubernetes prints it.
pub fn path_to_string(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(value: Value) -> Set {
        Set::decode(&value).unwrap()
    }

    #[test]
    fn a_set_is_read_and_written_as_kubernetes_does() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:containers": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                "f:finalizers": {"v:\"a\"": {}, "v:1": {}},
                "f:list": {"i:3": {}},
            },
        });
        assert_eq!(set(fields.clone()).encode(), fields);
        let labels = [Element::field("metadata"), Element::field("labels")];
        assert!(set(fields.clone()).has(&labels));
        assert!(!set(fields.clone()).has(&labels[..1]));
        let paths: Vec<_> = set(fields).paths().iter().map(|path| path_to_string(path)).collect();
        assert_eq!(
            paths,
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.containers[containerPort=80,protocol=\"TCP\"]",
                ".spec.containers[containerPort=80,protocol=\"TCP\"].containerPort",
                ".spec.finalizers[=1]",
                ".spec.finalizers[=\"a\"]",
                ".spec.list[3]",
            ]
        );
    }

    #[test]
    fn elements_of_a_later_version_are_passed_over_and_nonsense_is_refused() {
        assert_eq!(set(json!({"x:new": {}, "f:a": {}})), set(json!({"f:a": {}})));
        for wrong in [
            json!({"nonsense": {}}),
            json!({"k:[]": {}}),
            json!({"v:{": {}}),
            json!({"i:x": {}}),
            json!({"f:a": 1}),
        ] {
            assert!(Set::decode(&wrong).is_err(), "{wrong}");
        }
        let mut deep = json!({});
        for _ in 0..MAX_DEPTH + 1 {
            deep = json!({ "f:a": deep });
        }
        assert_eq!(Set::decode(&deep), Err(FieldsError::Depth));
    }

    #[test]
    fn differences_take_away_below_a_member_only_when_recursive() {
        let all = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let a = set(json!({"f:a": {}}));
        assert_eq!(all.difference(&a), set(json!({"f:a": {"f:b": {}}, "f:c": {}})));
        assert_eq!(all.recursive_difference(&a), set(json!({"f:c": {}})));
        assert_eq!(all.leaves(), set(json!({"f:a": {"f:b": {}}, "f:c": {}})));
    }

    #[test]
    fn numbers_that_mean_the_same_are_the_same_key() {
        let key = |value| Element::Key(vec![("port".to_owned(), value)]);
        assert_eq!(key(json!(80)), key(json!(80.0)));
        assert!(key(json!(80)) < key(json!("80")));
    }

    pub(crate) fn any_set() -> impl Strategy<Value = Set> {
        let element = prop_oneof![
            "[a-c]".prop_map(Element::Field),
            (0i64..3).prop_map(Element::Index),
            (0i64..3).prop_map(|n| Element::Value(json!(n))),
            "[a-c]".prop_map(|n| Element::Key(vec![("name".to_owned(), json!(n))])),
        ];
        let path = proptest::collection::vec(element, 1..4);
        proptest::collection::vec(path, 0..8).prop_map(|paths| Set::of(paths.iter().map(Vec::as_slice)))
    }

    proptest! {
        #[test]
        fn sets_obey_the_laws_of_sets(a in any_set(), b in any_set()) {
            prop_assert_eq!(&Set::decode(&a.encode()).unwrap(), &a);
            let union = a.clone().union(b.clone());
            prop_assert_eq!(&union, &b.clone().union(a.clone()));
            prop_assert_eq!(a.difference(&b).union(a.intersection(&b)), a.clone());
            prop_assert_eq!(union.difference(&b), a.difference(&b));
            prop_assert!(a.difference(&a).is_empty());
            for path in union.paths() {
                prop_assert_eq!(a.intersection(&b).has(&path), a.has(&path) && b.has(&path));
                prop_assert_eq!(a.difference(&b).has(&path), a.has(&path) && !b.has(&path));
            }
        }
    }
}
