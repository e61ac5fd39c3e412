//! The CEL rules of a CRD (`x-kubernetes-validations`), compiled once and evaluated within bounds.
//!
//! Kubernetes bounds the cost of rules by an estimate when the CRD is created, and counts steps while it evaluates. The
//! interpreter here cannot count, so each evaluation is weighed beforehand: by how deep its loops nest and how long the
//! longest list is that they can run over.

use std::{collections::BTreeMap, sync::OnceLock};

use kube_cel::{CompiledSchema, ErrorKind, ValidationError, compile_schema, validate_compiled};
use serde_json::Value;

use crate::{
    field::Path,
    schema::{ListType, MAX_DEPTH, Schema},
    status::Cause,
};

/// The longest expression. Kubernetes' own limit is the cost; the longest rules in use are some 2,000 bytes.
const MAX_EXPRESSION: usize = 8 * 1024;
/// How deep brackets nest in an expression, and how many operators stand in it: the interpreter recurses over both.
const MAX_NESTING: usize = 24;
const MAX_OPERATORS: usize = 384;
const MAX_CHOICES: usize = 48;
/// What the parser may need of the stack for an expression within these bounds, with room to spare.
const PARSER_STACK: usize = 64 << 20;
/// Steps that all rules together may take over one object.
pub(super) const BUDGET: u64 = 1_000_000;

/// The compiled rules of a schema; empty for a schema without any.
#[derive(Debug, Default)]
pub(crate) struct Expressions {
    root: Option<Node>,
    /// Why the rules could not be compiled at all; then no object passes.
    failure: Option<String>,
}

/// A schema node with rules at it or below it.
#[derive(Debug)]
struct Node {
    kind: String,
    rules: Vec<Compiled>,
    properties: BTreeMap<String, Node>,
    additional: Option<Box<Node>>,
    items: Option<Box<Node>>,
    /// The keys that tell which old item a new one was.
    keys: Option<Vec<String>>,
}

#[derive(Debug)]
struct Compiled {
    schema: CompiledSchema,
    is_transition: bool,
    /// How deep loops nest.
    loops: u32,
    message: Option<String>,
}

impl Expressions {
    /// Compiles the rules of an `openAPIV3Schema`. A rule that does not compile refuses every object, as it does in
    /// Kubernetes; [`check_schema`](super::check_schema) keeps such rules out.
    fn compile(schema: &Value) -> Self {
        match with_deep_stack(|| Node::new(schema, 0)) {
            Ok(root) => Self { root, failure: None },
            Err(failure) => Self { root: None, failure: Some(failure) },
        }
    }

    /// What the rules say about an object; with `old`, transition rules too.
    pub(super) fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut run = Run { causes: Vec::new(), budget: BUDGET };
        if let Some(failure) = &self.failure {
            run.causes.push(Cause::invalid(
                Path::ROOT,
                "",
                format!("rule compiler initialization error: {failure}"),
            ));
        }
        if let Some(root) = &self.root {
            run.visit(root, new, old, Path::ROOT, 0);
        }
        run.causes
    }
}

/// Rules that are compiled when they are first asked: parsing takes milliseconds.
#[derive(Debug)]
pub(crate) struct LazyRules {
    schema: Value,
    compiled: OnceLock<Expressions>,
}

impl LazyRules {
    /// The rules of a schema, if it has any.
    pub(crate) fn of(schema: &Value) -> Option<Self> {
        has_rules(schema, 0).then(|| Self { schema: schema.clone(), compiled: OnceLock::new() })
    }

    pub(crate) fn compiled(&self) -> &Expressions {
        self.compiled.get_or_init(|| Expressions::compile(&self.schema))
    }
}

/// Adds what the rules say, or that they were not asked: they are not about an object whose shape is wrong.
pub(super) fn check(rules: &Expressions, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    const BLOCKING: [&str; 5] = [
        "FieldValueNotSupported",
        "FieldValueRequired",
        "FieldValueTooLong",
        "FieldValueTooMany",
        "FieldValueTypeInvalid",
    ];
    const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
    match causes.iter().any(|cause| BLOCKING.contains(&cause.reason)) {
        true => causes.push(Cause::invalid(Path::ROOT, Value::Null, UNCHECKED)),
        false => causes.extend(rules.validate(new, old)),
    }
}

/// Runs the parser, whose recursion is deep, on a stack of its own.
pub(super) fn with_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("cel-compiler".into()).stack_size(PARSER_STACK);
        let thread = builder.spawn_scoped(scope, work).map_err(|error| error.to_string())?;
        thread.join().map_err(|_| "the compiler panicked".to_owned())
    })
}

fn has_rules(schema: &Value, depth: usize) -> bool {
    depth < 2 * MAX_DEPTH
        && match schema {
            Value::Object(map) => {
                map.contains_key("x-kubernetes-validations")
                    || map.values().any(|value| has_rules(value, depth + 1))
            }
            Value::Array(list) => list.iter().any(|value| has_rules(value, depth + 1)),
            _ => false,
        }
}

/// What is wrong with an expression, if anything.
pub(super) fn problem(expression: &str) -> Option<String> {
    if let Err(problem) = measure(expression) {
        return Some(problem);
    }
    let schema = serde_json::json!({"x-kubernetes-validations": [{"rule": expression}]});
    let problem =
        with_deep_stack(|| compile_schema(&schema).compilation_errors().first().map(ToString::to_string));
    problem.unwrap_or_else(Some).map(|problem| format!("compilation failed: {problem}"))
}

impl Node {
    fn new(schema: &Value, depth: usize) -> Option<Self> {
        if depth >= MAX_DEPTH / 2 || !schema.is_object() {
            return None;
        }
        let child = |schema: &Value| Self::new(schema, depth + 1);
        let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
        // Types come from the schema; the rules below it have nodes of their own.
        let mut plain = without_rules(schema, 0);
        let rules: Vec<Compiled> = rules
            .map(|rule| {
                let text = rule["rule"].as_str().unwrap_or_default();
                let measured = measure(text).and_then(|loops| {
                    measure(rule["messageExpression"].as_str().unwrap_or_default())
                        .map(|more| loops.max(more))
                });
                let (loops, rule) = match measured {
                    Ok(loops) => (loops, rule.clone()),
                    // What cannot be evaluated refuses: a rule that is always false says why.
                    Err(problem) => (0, serde_json::json!({"rule": "false", "message": problem})),
                };
                plain["x-kubernetes-validations"] = Value::Array(vec![rule.clone()]);
                let schema = compile_schema(&plain);
                let is_transition =
                    schema.validations.iter().flatten().any(|compiled| compiled.is_transition_rule);
                let message = rule["message"].as_str().map(|message| message.trim().to_owned());
                Compiled { schema, is_transition, loops, message }
            })
            .collect();
        let properties: BTreeMap<String, Self> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, schema)| Some((name.clone(), child(schema)?)))
            .collect();
        let additional = child(&schema["additionalProperties"]).map(Box::new);
        let items = child(&schema["items"]).map(Box::new);
        if rules.is_empty() && properties.is_empty() && additional.is_none() && items.is_none() {
            return None;
        }
        let keys = match Schema::structural(&without_rules(schema, 0)).list_type() {
            ListType::Map(keys) => Some(keys.to_vec()),
            _ => None,
        };
        let kind = schema["type"].as_str().unwrap_or_default().to_owned();
        Some(Self { kind, rules, properties, additional, items, keys })
    }
}

/// A schema without rules and defaults, at any depth.
fn without_rules(schema: &Value, depth: usize) -> Value {
    match schema {
        Value::Object(map) if depth < 2 * MAX_DEPTH => map
            .iter()
            .filter(|(key, _)| {
                !matches!(key.as_str(), "x-kubernetes-validations" | "default" | "description")
            })
            .map(|(key, value)| (key.clone(), without_rules(value, depth + 1)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(|item| without_rules(item, depth + 1)).collect(),
        other => other.clone(),
    }
}

struct Run {
    causes: Vec<Cause>,
    budget: u64,
}

impl Run {
    fn visit(&mut self, node: &Node, new: &Value, old: Option<&Value>, path: Path<'_>, depth: usize) {
        if depth >= MAX_DEPTH {
            return;
        }
        if !node.rules.is_empty() && !new.is_null() {
            let longest = longest(new, 0).max(old.map_or(0, |old| longest(old, 0)));
            for rule in &node.rules {
                // What was already so is not held against a change.
                if !rule.is_transition && old == Some(new) {
                    continue;
                }
                let cost = (longest + 1).saturating_pow(rule.loops).saturating_add(longest);
                let Some(rest) = self.budget.checked_sub(cost) else {
                    let detail = "validation failed due to running out of cost budget, no further validation rules will be run";
                    self.causes.push(Cause::invalid(path, node.kind.as_str(), detail));
                    self.budget = 0;
                    return;
                };
                self.budget = rest;
                if let Err(errors) = validate_compiled(&rule.schema, new, old) {
                    self.causes
                        .extend(errors.into_vec().into_iter().map(|e| cause(node, rule, new, path, e)));
                }
            }
        }
        match new {
            Value::Object(map) => {
                for (key, member) in map {
                    let old = old.and_then(|old| old.get(key));
                    if let Some(inner) = node.properties.get(key) {
                        self.visit(inner, member, old, path.field(key), depth + 1);
                    } else if let Some(inner) = &node.additional {
                        self.visit(inner, member, old, path.key(key), depth + 1);
                    }
                }
            }
            Value::Array(list) => {
                let Some(inner) = &node.items else { return };
                for (index, item) in list.iter().enumerate() {
                    let was =
                        |then: &&Value| node.keys.iter().flatten().all(|key| then.get(key) == item.get(key));
                    let before = old.filter(|_| node.keys.is_some()).and_then(Value::as_array);
                    let before = before.and_then(|before| before.iter().find(was));
                    self.visit(inner, item, before, path.index(index), depth + 1);
                }
            }
            _ => {}
        }
    }
}

fn cause(node: &Node, rule: &Compiled, value: &Value, path: Path<'_>, error: ValidationError) -> Cause {
    let field = match (path.text(), error.field_path.trim_start_matches('.')) {
        (here, "") => here,
        (here, below) if here.is_empty() => below.to_owned(),
        (here, below) => format!("{here}.{below}"),
    };
    let field = if field.is_empty() { path.to_string() } else { field };
    if error.kind != ErrorKind::ValidationFailure {
        let text = rule.message.as_deref().unwrap_or_else(|| error.rule.trim());
        let detail = format!("{} evaluating rule: {text}", error.message);
        return Cause::invalid(field, node.kind.as_str(), detail);
    }
    let detail = error.message.trim();
    match error.reason.as_deref() {
        Some("FieldValueForbidden") => Cause::forbidden(field, detail),
        Some("FieldValueRequired") => Cause::required(field, detail),
        Some("FieldValueDuplicate") if !is_collection(node) => Cause::duplicate(field, value.clone()),
        Some("FieldValueDuplicate") => {
            Cause { reason: "FieldValueDuplicate", field, message: "Duplicate value".to_owned() }
        }
        _ if is_collection(node) => {
            Cause { reason: "FieldValueInvalid", field, message: format!("Invalid value: {detail}") }
        }
        _ => Cause::invalid(field, value.clone(), detail),
    }
}

/// Objects and lists are left out of messages.
fn is_collection(node: &Node) -> bool {
    matches!(node.kind.as_str(), "object" | "array")
}

/// The length of the longest list, map or text in a value.
pub(super) fn longest(value: &Value, depth: usize) -> u64 {
    if depth >= MAX_DEPTH {
        return 0;
    }
    let size = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    match value {
        // Text is walked over a hundred times faster than a list.
        Value::String(text) => size(text.len() / 100),
        Value::Array(list) => {
            list.iter().map(|item| longest(item, depth + 1)).fold(size(list.len()), u64::max)
        }
        Value::Object(map) => {
            map.values().map(|item| longest(item, depth + 1)).fold(size(map.len()), u64::max)
        }
        _ => 0,
    }
}

/// How deep loops nest in an expression, or why it is not taken.
pub(super) fn measure(expression: &str) -> Result<u32, String> {
    const LOOPS: [&str; 12] = [
        "all",
        "exists",
        "exists_one",
        "existsOne",
        "filter",
        "map",
        "sortBy",
        "transformList",
        "transformMap",
        "transformMapEntry",
        "reduce",
        "fold",
    ];
    if expression.len() > MAX_EXPRESSION {
        return Err(format!("expressions have at most {MAX_EXPRESSION} bytes"));
    }
    let bytes = expression.as_bytes();
    let mut open: Vec<bool> = Vec::new();
    let (mut deepest, mut operators, mut choices, mut at, mut word) = (0_u32, 0, 0, 0, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' | b'\'' => at = end_of_text(bytes, at),
            b'(' | b'[' | b'{' => {
                let name = expression.get(word..at).unwrap_or_default().trim();
                open.push(byte == b'(' && LOOPS.contains(&name));
                if open.len() > MAX_NESTING {
                    return Err(format!("expressions nest at most {MAX_NESTING} levels deep"));
                }
                deepest = deepest.max(open.iter().map(|is_loop| u32::from(*is_loop)).sum());
            }
            b')' | b']' | b'}' => {
                open.pop();
            }
            b'?' => choices += 1,
            b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' | b'!' | b'&' | b'|' | b'.' => {
                operators += 1
            }
            _ => {}
        }
        if !(byte.is_ascii_alphanumeric() || byte == b'_') {
            word = at + 1;
        }
        at += 1;
    }
    match operators > MAX_OPERATORS || choices > MAX_CHOICES {
        true => Err(format!("expressions have at most {MAX_OPERATORS} operators and {MAX_CHOICES} choices")),
        false => Ok(deepest),
    }
}

/// The last byte of a quoted text that starts here.
fn end_of_text(bytes: &[u8], start: usize) -> usize {
    let quote = bytes[start];
    let raw = start > 0 && matches!(bytes[start - 1], b'r' | b'R');
    let triple = bytes.get(start..start + 3) == Some(&[quote; 3]);
    let mut at = start + if triple { 3 } else { 1 };
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if !raw => at += 1,
            byte if byte == quote && !triple => return at,
            byte if byte == quote && bytes.get(at..at + 3) == Some(&[quote; 3]) => return at + 2,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(schema: Value, new: Value, old: Option<Value>) -> Vec<String> {
        let causes = Expressions::compile(&schema).validate(&new, old.as_ref());
        causes.into_iter().map(|c| format!("{} {}: {}", &c.reason[10..], c.field, c.message)).collect()
    }

    fn object(properties: Value, rules: Value) -> Value {
        json!({"type": "object", "properties": properties, "x-kubernetes-validations": rules})
    }

    #[test]
    fn a_broken_rule_is_reported_where_and_as_it_asks() {
        let properties = json!({"min": {"type": "integer"}, "max": {"type": "integer"}});
        let rules = json!([
            {"rule": "self.min <= self.max", "message": "min above max", "fieldPath": ".min"},
            {"rule": "self.min < 10", "messageExpression": "'min is ' + string(self.min)", "reason": "FieldValueForbidden"},
            {"rule": "self.max > 0"},
        ]);
        let schema = json!({"type": "object", "properties": {"spec": object(properties, rules)}});
        let found = run(schema.clone(), json!({"spec": {"min": 12, "max": 0}}), None);
        let expected = [
            "Invalid spec.min: Invalid value: min above max",
            "Forbidden spec: Forbidden: min is 12",
            "Invalid spec: Invalid value: failed rule: self.max > 0",
        ];
        assert_eq!(found, expected);
        assert_eq!(run(schema, json!({"spec": {"min": 1, "max": 2}}), None), Vec::<String>::new());
    }

    #[test]
    fn transition_rules_see_the_old_value_and_items_by_their_keys() {
        let item = json!({"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "only up"}]});
        let schema = json!({"type": "object", "properties": {
            "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed"}]},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": item},
        }});
        let old = json!({"fixed": "a", "list": [{"k": "a", "v": 5}, {"k": "b", "v": 1}]});
        let new = json!({"fixed": "b", "list": [{"k": "b", "v": 2}, {"k": "a", "v": 4}, {"k": "c", "v": 0}]});
        let expected =
            [r#"Invalid fixed: Invalid value: "b": fixed"#, "Invalid list[1]: Invalid value: only up"];
        assert_eq!(run(schema.clone(), new.clone(), Some(old)), expected);
        assert_eq!(run(schema, new, None), Vec::<String>::new());
    }

    #[test]
    fn an_unchanged_value_is_not_judged_again() {
        let schema = object(json!({"a": {"type": "integer"}}), json!([{"rule": "self.a > 5"}]));
        assert_eq!(run(schema.clone(), json!({"a": 1}), Some(json!({"a": 1}))).len(), 0);
        assert_eq!(run(schema, json!({"a": 1}), Some(json!({"a": 2}))).len(), 1);
    }

    #[test]
    fn loops_over_too_much_run_out_of_budget() {
        let list = json!({"type": "array", "items": {"type": "integer"}});
        let rule = "self.a.all(x, self.a.all(y, self.a.all(z, x + y + z >= 0)))";
        let schema = object(json!({"a": list}), json!([{"rule": rule}]));
        let long: Value = (0..200).collect();
        let found = run(schema.clone(), json!({"a": long}), None);
        assert!(found[0].contains("running out of cost budget"), "{found:?}");
        let short: Value = (0..5).collect();
        assert_eq!(run(schema, json!({"a": short}), None), Vec::<String>::new());
    }

    #[test]
    fn expressions_are_measured_before_they_are_compiled() {
        assert_eq!(measure("self.a.all(x, x.b.exists(y, y == '(((')) && self.c.map(z, z).size() > 0"), Ok(2));
        assert_eq!(measure(r#"self.matches(r'\') && '''it's''' == "\"(" "#), Ok(0));
        assert!(measure(&"(".repeat(100)).is_err());
        assert!(measure(&"!".repeat(1000)).is_err());
        assert!(measure(&"a?b:".repeat(100)).is_err());
        assert!(measure(&"a".repeat(10_000)).is_err());
        assert!(problem("self.a >").is_some());
        assert_eq!(problem("self.a > 1"), None);
    }

    #[test]
    fn the_largest_expressions_fit_the_stack() {
        let sum = format!("{} > 0", vec!["1"; MAX_OPERATORS - 1].join("+"));
        let nested = format!("{}true{}", "(".repeat(MAX_NESTING), ")".repeat(MAX_NESTING));
        let choices = format!("{}true", "false ? false : ".repeat(MAX_CHOICES));
        let negations = format!("{}false", "!".repeat(MAX_OPERATORS - 1));
        for rule in [sum, nested, choices, negations] {
            assert_eq!(problem(&rule), None);
            let schema = object(json!({}), json!([{"rule": rule}]));
            assert_eq!(run(schema, json!({}), None), Vec::<String>::new());
        }
    }

    #[test]
    fn compiled_rules_are_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Expressions>();
    }
}
