//! Schemas of Kubernetes types: those that Kubernetes publishes (OpenAPI v3 with `$ref`s) and those of CRDs
//! (structural schemas) in one model, which validation, pruning, merging and server-side apply all walk.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use serde_json::Value;

use crate::structural::{Checks, Expressions, LazyRules};

/// How deep schemas and objects may nest: what a JSON reader lets through. Everything that walks them stops here.
pub const MAX_DEPTH: usize = 128;

/// How a list behaves when two writers meet (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType<'a> {
    /// Replaced as a whole. The default.
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects told apart by these keys.
    Map(&'a [String]),
}

/// Schemas by name, as OpenAPI v3 `components.schemas`.
#[derive(Debug, Default)]
pub struct Definitions {
    nodes: HashMap<String, Arc<Node>>,
    /// For each definition a node that refers to it.
    references: HashMap<String, Arc<Node>>,
}

impl Definitions {
    /// Reads `components.schemas`.
    pub fn new(schemas: &Value) -> Arc<Self> {
        let schemas = || schemas.as_object().into_iter().flatten();
        let refer = |name: &String| Arc::new(Node { reference: Some(name.clone()), ..Node::default() });
        Arc::new(Self {
            nodes: schemas().map(|(name, schema)| (name.clone(), Arc::new(Node::new(schema)))).collect(),
            references: schemas().map(|(name, _)| (name.clone(), refer(name))).collect(),
        })
    }

    /// The schema called `name`, such as `io.k8s.api.apps.v1.Deployment`.
    pub fn get(self: &Arc<Self>, name: &str) -> Option<Schema> {
        Some(Schema { node: self.references.get(name)?.clone(), definitions: self.clone(), rules: None })
    }
}

/// One schema node with its children still unresolved.
#[derive(Debug, Default)]
pub struct Node {
    reference: Option<String>,
    /// `type`: `object`, `array`, `string`, `integer`, `number`, `boolean`, or empty for any.
    pub kind: String,
    /// `format`, such as `int32`.
    pub format: String,
    properties: BTreeMap<String, Arc<Node>>,
    additional: Option<Arc<Node>>,
    items: Option<Arc<Node>>,
    list_type: String,
    list_map_keys: Vec<String>,
    atomic_map: bool,
    /// Names that must be present.
    pub required: Vec<String>,
    /// The value of an absent field.
    pub default: Option<Value>,
    /// May be `null`.
    pub nullable: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded_resource: bool,
    /// `x-kubernetes-patch-merge-key`.
    pub patch_merge_key: Option<String>,
    /// `x-kubernetes-patch-strategy`: `merge`, `replace`, `retainKeys`, comma-separated.
    pub patch_strategy: String,
    /// Everything else that validation needs: `enum`, `pattern`, `minimum`, `maxItems`, `oneOf`,
    /// `x-kubernetes-validations`, …; the node as it was written, without `properties`, `items` and descriptions.
    pub rest: serde_json::Map<String, Value>,
    checks: OnceLock<Checks>,
}

impl Node {
    /// Reads a schema. What nests deeper than [`MAX_DEPTH`] is left out.
    pub fn new(schema: &Value) -> Self {
        Self::at_depth(schema, 0)
    }

    fn at_depth(schema: &Value, depth: usize) -> Self {
        let text = |key: &str| schema[key].as_str().unwrap_or_default().to_owned();
        let flag = |key: &str| schema[key].as_bool().unwrap_or_default();
        let strings = |key: &str| -> Vec<String> {
            schema[key]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect()
        };
        let child = |value: &Value| {
            (value.is_object() && depth < MAX_DEPTH).then(|| Arc::new(Self::at_depth(value, depth + 1)))
        };
        // Kubernetes wraps a reference that carries a default or description of its own in a one-element allOf.
        let reference = schema["$ref"].as_str().or_else(|| match schema["allOf"].as_array()?.as_slice() {
            [one] => one["$ref"].as_str(),
            _ => None,
        });
        const STRUCTURE: &[&str] =
            &["properties", "items", "additionalProperties", "description", "default", "$ref"];
        let rest = schema.as_object().into_iter().flatten();
        let rest = rest.filter(|(key, _)| !STRUCTURE.contains(&key.as_str()));
        Self {
            reference: reference.map(|r| r.rsplit('/').next().unwrap_or_default().to_owned()),
            kind: text("type"),
            format: text("format"),
            properties: schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(name, value)| Some((name.clone(), child(value)?)))
                .collect(),
            additional: match &schema["additionalProperties"] {
                Value::Bool(true) => Some(Arc::default()),
                other => child(other),
            },
            items: child(&schema["items"]),
            list_type: text("x-kubernetes-list-type"),
            list_map_keys: strings("x-kubernetes-list-map-keys"),
            atomic_map: schema["x-kubernetes-map-type"] == "atomic",
            required: strings("required"),
            default: schema.get("default").cloned(),
            nullable: flag("nullable"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            int_or_string: flag("x-kubernetes-int-or-string") || schema["format"] == "int-or-string",
            embedded_resource: flag("x-kubernetes-embedded-resource"),
            patch_merge_key: schema["x-kubernetes-patch-merge-key"].as_str().map(str::to_owned),
            patch_strategy: text("x-kubernetes-patch-strategy"),
            rest: rest.map(|(k, v)| (k.clone(), v.clone())).collect(),
            checks: OnceLock::new(),
        }
    }

    /// What validation checks, compiled at first use.
    pub(crate) fn checks(&self) -> &Checks {
        self.checks.get_or_init(|| Checks::new(&self.rest))
    }
}

/// A schema that can be walked: a node together with what its references mean. Cheap to clone.
///
/// Attributes of the *field* (default, patch strategy, list type) are those of [`Schema::field`]; attributes of the
/// *type* come from the node the reference leads to, [`Schema::target`].
#[derive(Clone, Debug)]
pub struct Schema {
    node: Arc<Node>,
    definitions: Arc<Definitions>,
    /// The CEL rules of a whole CRD schema, if it has any.
    rules: Option<Arc<LazyRules>>,
}

impl Schema {
    /// A self-contained schema, as in a CRD version's `schema.openAPIV3Schema`.
    pub fn structural(schema: &Value) -> Self {
        let rules = LazyRules::of(schema).map(Arc::new);
        Self { node: Arc::new(Node::new(schema)), definitions: Arc::default(), rules }
    }

    /// A schema without definitions around a node.
    pub(crate) fn of(node: Arc<Node>) -> Self {
        Self { node, definitions: Arc::default(), rules: None }
    }

    /// The CEL rules of a whole CRD schema, compiled at first use.
    pub(crate) fn rules(&self) -> Option<&Expressions> {
        self.rules.as_ref().map(|rules| rules.compiled())
    }

    /// Whether this is one of Kubernetes' own types, which a real server decodes into Go structs.
    pub fn is_built_in(&self) -> bool {
        !self.definitions.nodes.is_empty()
    }

    /// The node as it stands at the field, before its reference is followed.
    pub fn field(&self) -> &Node {
        &self.node
    }

    /// The node that says what the type is.
    pub fn target(&self) -> &Node {
        let mut node = &self.node;
        // No published chain is longer than two; the bound is for definitions that refer to each other.
        for _ in 0..8 {
            match node.reference.as_ref().and_then(|name| self.definitions.nodes.get(name)) {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// The name of the definition this schema refers to.
    pub fn reference(&self) -> Option<&str> {
        self.node.reference.as_deref()
    }

    /// The end of that name which says which type it is: `apps.v1.Deployment`.
    pub fn type_name(&self) -> Option<&str> {
        let name = self.reference()?;
        let start = name.rmatch_indices('.').nth(2).map_or(0, |(at, _)| at + 1);
        Some(&name[start..])
    }

    fn child(&self, node: &Arc<Node>) -> Self {
        Self { node: node.clone(), definitions: self.definitions.clone(), rules: None }
    }

    /// The schema of the property `name`, if it is declared.
    pub fn property(&self, name: &str) -> Option<Self> {
        self.target().properties.get(name).map(|node| self.child(node))
    }

    /// All declared properties.
    pub fn properties(&self) -> impl Iterator<Item = (&str, Self)> {
        self.target().properties.iter().map(|(name, node)| (name.as_str(), self.child(node)))
    }

    /// The schema of undeclared properties, if they are allowed by `additionalProperties`.
    pub fn additional(&self) -> Option<Self> {
        self.target().additional.as_ref().map(|node| self.child(node))
    }

    /// The schema of a list's items.
    pub fn items(&self) -> Option<Self> {
        self.target().items.as_ref().map(|node| self.child(node))
    }

    /// The schema of the member `name` of an object, declared or not.
    pub fn member(&self, name: &str) -> Option<Self> {
        self.property(name).or_else(|| self.additional())
    }

    /// How two writers of this list meet.
    pub fn list_type(&self) -> ListType<'_> {
        let node = if self.node.list_type.is_empty() { self.target() } else { &*self.node };
        match node.list_type.as_str() {
            "set" => ListType::Set,
            "map" => ListType::Map(&node.list_map_keys),
            _ => ListType::Atomic,
        }
    }

    /// Whether this map is replaced as a whole (`x-kubernetes-map-type: atomic`).
    pub fn is_atomic_map(&self) -> bool {
        self.node.atomic_map || self.target().atomic_map
    }

    /// Whether unknown members survive and nothing is known about them.
    pub fn is_opaque(&self) -> bool {
        let target = self.target();
        target.kind.is_empty()
            && target.properties.is_empty()
            && target.additional.is_none()
            && target.items.is_none()
    }
}
