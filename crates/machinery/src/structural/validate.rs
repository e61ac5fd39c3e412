//! Validation of a value against a schema, with the messages of `k8s.io/kube-openapi/pkg/validation` as a Kubernetes API
//! server words them.

use std::{fmt::Write as _, sync::Arc};

use regex::Regex;
use serde_json::{Map, Number, Value};

use super::{compile_pattern, expressions, formats, lists};
use crate::{
    field::{Path, quote, show_float},
    schema::{MAX_DEPTH, Node, Schema},
    status::Cause,
};

/// Everything that is wrong with a value: its shape, and what the CEL rules of a CRD's schema say.
pub fn validate(schema: &Schema, value: &Value) -> Vec<Cause> {
    validate_update(schema, value, None)
}

/// Everything that is wrong with a value and was not already so: a part that equals the same part of `old` passes, so
/// that a schema may become stricter without locking up what is stored (`CRDValidationRatcheting`).
pub fn validate_update(schema: &Schema, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes: Vec<Cause> =
        check(schema, value, old, Path::ROOT, 0).faults.into_iter().map(Fault::into_cause).collect();
    if !schema.is_built_in() {
        embedded(schema, value, Path::ROOT, 0, &mut causes);
        lists::check(schema, value, Path::ROOT, 0, &mut causes);
        if let Some(rules) = schema.rules() {
            expressions::check(rules, value, old, &mut causes);
        }
    }
    causes
}

/// The part of a schema node that restricts values, read and compiled once.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    enumeration: Vec<Value>,
    pattern: Option<Pattern>,
    format: Option<formats::Check>,
    max_length: Option<i64>,
    min_length: Option<i64>,
    maximum: Option<f64>,
    exclusive_maximum: bool,
    minimum: Option<f64>,
    exclusive_minimum: bool,
    multiple_of: Option<f64>,
    max_items: Option<i64>,
    min_items: Option<i64>,
    unique_items: bool,
    max_properties: Option<i64>,
    min_properties: Option<i64>,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Schema>,
}

#[derive(Debug)]
struct Pattern {
    text: String,
    regex: Result<Regex, String>,
}

impl Checks {
    pub(crate) fn new(rest: &Map<String, Value>) -> Self {
        let get = |key: &str| rest.get(key).unwrap_or(&Value::Null);
        let schemas = |key: &str| {
            let schemas = get(key).as_array().into_iter().flatten();
            schemas.map(|schema| Schema::of(Arc::new(Node::new(schema)))).collect()
        };
        let flag = |key: &str| get(key).as_bool().unwrap_or_default();
        let kind = get("type").as_str().unwrap_or_default();
        let format = get("format").as_str().filter(|_| kind.is_empty() || kind == "string");
        let pattern = get("pattern").as_str().filter(|text| !text.is_empty());
        Self {
            enumeration: get("enum").as_array().cloned().unwrap_or_default(),
            pattern: pattern.map(|text| Pattern { text: text.to_owned(), regex: compile_pattern(text) }),
            format: format.and_then(formats::named),
            max_length: get("maxLength").as_i64(),
            min_length: get("minLength").as_i64(),
            maximum: get("maximum").as_f64(),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: get("minimum").as_f64(),
            exclusive_minimum: flag("exclusiveMinimum"),
            multiple_of: get("multipleOf").as_f64(),
            max_items: get("maxItems").as_i64(),
            min_items: get("minItems").as_i64(),
            unique_items: flag("uniqueItems"),
            max_properties: get("maxProperties").as_i64(),
            min_properties: get("minProperties").as_i64(),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: get("not").is_object().then(|| Schema::of(Arc::new(Node::new(get("not"))))),
        }
    }
}

/// One finding, kept apart from its [`Cause`] because findings are compared by their messages.
struct Fault {
    message: String,
    cause: Cause,
}

impl Fault {
    fn into_cause(self) -> Cause {
        self.cause
    }

    /// A finding about a value, with the cause in the words of the validator.
    fn invalid(path: Path<'_>, value: impl Into<Value>, message: String) -> Self {
        Self { cause: Cause::invalid(path, value, &message), message }
    }

    /// A finding Kubernetes reports about the object as a whole.
    fn general(message: String) -> Self {
        Self { cause: Cause::invalid(Path::ROOT, "", &message), message }
    }

    fn wrong_type(path: Path<'_>, expected: &str, actual: &str) -> Self {
        let message = format!("{} in body must be of type {expected}: {}", path.text(), quote(actual));
        Self { cause: Cause::type_invalid(path, actual, &message), message }
    }
}

/// What a check found, and how much of the schema agreed: of failed alternatives the one that agrees most is reported.
#[derive(Default)]
struct Outcome {
    faults: Vec<Fault>,
    matches: usize,
}

impl Outcome {
    fn add(&mut self, fault: Fault) {
        if !self.faults.iter().any(|known| known.message == fault.message) {
            self.faults.push(fault);
        }
    }

    fn merge(&mut self, other: Self) {
        self.matches += other.matches;
        other.faults.into_iter().for_each(|fault| self.add(fault));
    }

    fn is_valid(&self) -> bool {
        self.faults.is_empty()
    }
}

fn check(schema: &Schema, value: &Value, old: Option<&Value>, path: Path<'_>, depth: usize) -> Outcome {
    let mut outcome = Outcome::default();
    if depth >= MAX_DEPTH {
        outcome.add(Fault::invalid(path, "", format!("nests deeper than {MAX_DEPTH} levels")));
        return outcome;
    }
    let node = schema.target();
    let checks = node.checks();
    let type_fault = type_fault(schema, value, path);
    if !(node.kind.is_empty() && node.format.is_empty() && !node.int_or_string) {
        outcome.matches += 1 + usize::from(type_fault.is_none());
    }
    type_fault.into_iter().for_each(|fault| outcome.add(fault));
    if !value.is_null() {
        alternatives(checks, value, path, depth, &mut outcome);
        match value {
            Value::String(text) => check_text(node, checks, text, path, &mut outcome),
            Value::Number(number) => check_number(node, checks, number, path, &mut outcome),
            Value::Array(list) => check_list(schema, checks, list, path, depth, &mut outcome),
            Value::Object(map) => check_object(schema, checks, map, old, path, depth, &mut outcome),
            _ => {}
        }
        outcome.matches += 2;
    }
    if !checks.enumeration.is_empty() && !checks.enumeration.iter().any(|allowed| same(allowed, value)) {
        let shown =
            checks.enumeration.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
        let cause = Cause::not_supported(path, value.clone(), shown);
        outcome.add(Fault {
            message: format!("{} in body should be one of the listed values", path.text()),
            cause,
        });
    }
    if !outcome.is_valid() && old.is_some_and(|old| old == value) {
        outcome.faults.clear();
    }
    outcome
}

/// Equality of JSON values in which `1` is `1.0`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn type_fault(schema: &Schema, value: &Value, path: Path<'_>) -> Option<Fault> {
    let node = schema.target();
    let types: &[&str] = match node.kind.as_str() {
        _ if node.int_or_string => &["integer", "string"],
        "" => return None,
        kind => &[kind],
    };
    let (actual, format) = match value {
        Value::Null if node.nullable || schema.field().nullable => return None,
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(number) if number.as_i64().is_some() => ("integer", "int64"),
        Value::Number(_) => ("number", "float64"),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    };
    let fits = types.contains(&actual)
        || (actual == "integer" && types.contains(&"number"))
        || (types.contains(&"integer") && value.as_f64().is_some_and(is_integral));
    if fits {
        return None;
    }
    let has_format = match types {
        ["integer"] => matches!(node.format.as_str(), "int32" | "int64"),
        ["number"] => matches!(node.format.as_str(), "float" | "double"),
        ["string"] => node.checks().format.is_some(),
        _ => false,
    };
    let names_format = has_format && !matches!(value, Value::Null | Value::String(_) | Value::Array(_));
    Some(match names_format {
        true => Fault::wrong_type(path, &node.format, format),
        false => Fault::wrong_type(path, &types.join(","), actual),
    })
}

fn is_integral(number: f64) -> bool {
    number.is_finite() && number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0
}

fn check_text(node: &Node, checks: &Checks, text: &str, path: Path<'_>, outcome: &mut Outcome) {
    outcome.matches += 1;
    let at = || path.text();
    // The first rule that is broken is the one reported.
    let length = || text.chars().count() as i64;
    if let Some(max) = checks.max_length.filter(|max| length() > *max) {
        let message = format!("{} in body should be at most {max} chars long", at());
        outcome.add(Fault { cause: Cause::too_long(path, max), message });
    } else if let Some(min) = checks.min_length.filter(|min| length() < *min) {
        let message = format!("{} in body should be at least {min} chars long", at());
        outcome.add(Fault::invalid(path, text, message));
    } else if let Some(pattern) = &checks.pattern {
        match &pattern.regex {
            Ok(regex) if regex.is_match(text) => {}
            Ok(_) => {
                let message = format!("{} in body should match '{}'", at(), pattern.text);
                outcome.add(Fault::invalid(path, text, message));
            }
            Err(error) => {
                let message = format!(
                    "{} in body should match '{}, but pattern is invalid: {error}'",
                    at(),
                    pattern.text
                );
                outcome.add(Fault::invalid(path, text, message));
            }
        }
    }
    if let Some(has_format) = checks.format {
        outcome.matches += 1;
        if !has_format(text) {
            outcome.add(Fault::wrong_type(path, &node.format, text));
        }
    }
}

fn check_number(node: &Node, checks: &Checks, number: &Number, path: Path<'_>, outcome: &mut Outcome) {
    outcome.matches += 2;
    let Some(float) = number.as_f64() else { return };
    let integer = number.as_i64();
    let value = || Value::Number(number.clone());
    let in_range = match (node.kind.as_str(), node.format.as_str()) {
        ("integer", "int32") => is_integral(float) && i32::try_from(float as i64).is_ok(),
        ("integer", _) => integer.is_some() || is_integral(float),
        ("number", "float") => float.abs() <= f64::from(f32::MAX),
        _ => true,
    };
    if !in_range {
        let format = match node.format.as_str() {
            "" => "(default format)".to_owned(),
            format => format!("with format {format}"),
        };
        let message = format!("Checked value must be of type {} {format} in {}", node.kind, path.text());
        outcome.add(Fault::general(message));
    }
    // A limit is written as the value is: an integer value is compared with the limit's whole part.
    let limit = |limit: f64| if integer.is_some() { limit.trunc() } else { limit };
    let shown = |number: f64| match integer {
        Some(_) => format!("{}", number.trunc()),
        None => show_float(number),
    };
    if let Some(factor) = checks.multiple_of {
        let multiple = match integer {
            Some(integer) if factor >= 1.0 => integer % (factor as i64) == 0,
            _ if factor < 1.0 => is_integral(1.0 / factor * float),
            _ => is_integral(float / factor),
        };
        if factor <= 0.0 {
            let message = format!(
                "factor MultipleOf declared for {} must be positive: {}",
                path.text(),
                show_float(factor)
            );
            outcome.add(Fault::invalid(path, factor, message));
        } else if !multiple {
            let message = format!("{} in body should be a multiple of {}", path.text(), shown(factor));
            outcome.add(Fault::invalid(path, value(), message));
        }
    }
    let mut bound = |broken: bool, words: &str, bound: f64| {
        if broken {
            let message = format!("{} in body should be {words} {}", path.text(), shown(bound));
            outcome.add(Fault::invalid(path, value(), message));
        }
    };
    if let Some(minimum) = checks.minimum {
        match checks.exclusive_minimum {
            true => bound(float <= limit(minimum), "greater than", minimum),
            false => bound(float < limit(minimum), "greater than or equal to", minimum),
        }
    }
    if let Some(maximum) = checks.maximum {
        match checks.exclusive_maximum {
            true => bound(float >= limit(maximum), "less than", maximum),
            false => bound(float > limit(maximum), "less than or equal to", maximum),
        }
    }
}

fn check_list(
    schema: &Schema,
    checks: &Checks,
    list: &[Value],
    path: Path<'_>,
    depth: usize,
    outcome: &mut Outcome,
) {
    outcome.matches += 2;
    let size = list.len() as i64;
    if let Some(items) = schema.items() {
        for (index, item) in list.iter().enumerate() {
            outcome.merge(check(&items, item, None, path.index(index), depth + 1));
        }
    }
    if let Some(min) = checks.min_items.filter(|min| size < *min) {
        let message = format!("{} in body should have at least {min} items", path.text());
        outcome.add(Fault::invalid(path, size, message));
    }
    if let Some(max) = checks.max_items.filter(|max| size > *max) {
        let message = format!("{} in body should have at most {max} items", path.text());
        outcome.add(Fault { cause: Cause::too_many(path, size, max), message });
    }
    let repeated = || {
        let mut seen = std::collections::HashSet::new();
        !list.iter().all(|item| seen.insert(item.to_string()))
    };
    if checks.unique_items && repeated() {
        let message = format!("{} in body shouldn't contain duplicates", path.text());
        outcome.add(Fault::invalid(path, "", message));
    }
}

fn check_object(
    schema: &Schema,
    checks: &Checks,
    map: &Map<String, Value>,
    old: Option<&Value>,
    path: Path<'_>,
    depth: usize,
    outcome: &mut Outcome,
) {
    outcome.matches += 1;
    let size = map.len() as i64;
    if let Some(min) = checks.min_properties.filter(|min| size < *min) {
        let message = format!("{} in body should have at least {min} properties", path.text());
        outcome.add(Fault::invalid(path, size, message));
    }
    if let Some(max) = checks.max_properties.filter(|max| size > *max) {
        let message = format!("{} in body should have at most {max} properties", path.text());
        outcome.add(Fault { cause: Cause::too_many(path, size, max), message });
    }
    for (key, member) in map {
        if let Some(inner) = schema.member(key) {
            let old = old.and_then(|old| old.get(key));
            outcome.merge(check(&inner, member, old, path.field(key), depth + 1));
        }
    }
    for name in schema.target().required.iter().filter(|name| !map.contains_key(*name)) {
        let at = path.field(name);
        outcome.add(Fault {
            message: format!("{} in body is required", at.text()),
            cause: Cause::required(at, ""),
        });
    }
}

/// `anyOf`, `oneOf`, `allOf` and `not`, in the order Kubernetes takes them.
fn alternatives(checks: &Checks, value: &Value, path: Path<'_>, depth: usize, outcome: &mut Outcome) {
    let at = || quote(&path.text());
    let run = |schemas: &[Schema]| -> Vec<Outcome> {
        schemas.iter().map(|schema| check(schema, value, None, path, depth + 1)).collect()
    };
    // The first of those that agree most.
    let best =
        |outcomes: Vec<Outcome>| outcomes.into_iter().rev().max_by_key(|o| o.matches).unwrap_or_default();
    if !checks.any_of.is_empty() {
        let mut outcomes = run(&checks.any_of);
        match outcomes.iter().position(Outcome::is_valid) {
            Some(first) => outcome.merge(outcomes.swap_remove(first)),
            None => {
                outcome.add(Fault::general(format!("{} must validate at least one schema (anyOf)", at())));
                outcome.merge(best(outcomes));
            }
        }
    }
    if !checks.one_of.is_empty() {
        let mut outcomes = run(&checks.one_of);
        let mut message = format!("{} must validate one and only one schema (oneOf). ", at());
        match outcomes.iter().filter(|o| o.is_valid()).count() {
            1 => outcomes.into_iter().filter(Outcome::is_valid).for_each(|o| outcome.merge(o)),
            0 => {
                message.push_str("Found none valid");
                outcome.add(Fault::general(message));
                outcome.merge(best(std::mem::take(&mut outcomes)));
            }
            several => {
                let _ = write!(message, "Found {several} valid alternatives");
                outcome.add(Fault::general(message));
            }
        }
    }
    if !checks.all_of.is_empty() {
        let outcomes = run(&checks.all_of);
        let valid = outcomes.iter().filter(|o| o.is_valid()).count();
        let all = outcomes.len();
        outcomes.into_iter().for_each(|o| outcome.merge(o));
        if valid < all {
            let more = if valid == 0 { ". None validated" } else { "" };
            outcome.add(Fault::general(format!("{} must validate all the schemas (allOf){more}", at())));
        }
    }
    if let Some(not) = &checks.not
        && check(not, value, None, path, depth + 1).is_valid()
    {
        outcome.add(Fault::general(format!("{} must not validate the schema (not)", at())));
    }
    outcome.matches += 2;
}

/// What an embedded resource must say about itself (`apiserver/schema/objectmeta`).
fn embedded(schema: &Schema, value: &Value, path: Path<'_>, depth: usize, causes: &mut Vec<Cause>) {
    if depth >= MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            if schema.target().embedded_resource {
                for name in ["apiVersion", "kind"] {
                    match map.get(name) {
                        None => causes.push(Cause::required(path.field(name), "")),
                        Some(Value::String(text)) if text.is_empty() => {
                            causes.push(Cause::invalid(path.field(name), "", "must not be empty"));
                        }
                        Some(Value::String(_)) => {}
                        Some(other) => {
                            causes.push(Cause::invalid(path.field(name), other.clone(), "must be a string"));
                        }
                    }
                }
            }
            for (key, member) in map {
                if let Some(property) = schema.property(key) {
                    embedded(&property, member, path.field(key), depth + 1, causes);
                } else if let Some(additional) = schema.additional() {
                    embedded(&additional, member, path.key(key), depth + 1, causes);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items() {
                for (index, item) in list.iter().enumerate() {
                    embedded(&items, item, path.index(index), depth + 1, causes);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn messages(schema: Value, value: Value) -> Vec<String> {
        let causes = validate(&Schema::structural(&schema), &value);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    /// Validates `value` as `spec.x`.
    fn of_x(x: Value, value: Value) -> Vec<String> {
        let spec = json!({"type": "object", "properties": {"x": x}});
        messages(json!({"type": "object", "properties": {"spec": spec}}), json!({"spec": {"x": value}}))
    }

    #[test]
    fn messages_are_those_of_kubernetes() {
        let table = [
            (
                json!({"type": "integer"}),
                json!("string"),
                r#"spec.x: Invalid value: "string": spec.x in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "integer", "format": "int32"}),
                json!(true),
                r#"spec.x: Invalid value: "": spec.x in body must be of type int32: """#,
            ),
            (
                json!({"type": "integer", "format": "int32"}),
                json!(3_000_000_000_i64),
                r#"<nil>: Invalid value: "": Checked value must be of type integer with format int32 in spec.x"#,
            ),
            (
                json!({"type": "string"}),
                json!(null),
                r#"spec.x: Invalid value: "null": spec.x in body must be of type string: "null""#,
            ),
            (
                json!({"type": "string"}),
                json!({}),
                r#"spec.x: Invalid value: "object": spec.x in body must be of type string: "object""#,
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                r#"spec.x: Invalid value: "boolean": spec.x in body must be of type integer,string: "boolean""#,
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                r#"spec.x: Unsupported value: "c": supported values: "a", "b""#,
            ),
            (
                json!({"type": "string", "pattern": "^a+$"}),
                json!("b"),
                r#"spec.x: Invalid value: "b": spec.x in body should match '^a+$'"#,
            ),
            (
                json!({"type": "string", "format": "date-time"}),
                json!("b"),
                r#"spec.x: Invalid value: "b": spec.x in body must be of type date-time: "b""#,
            ),
            (
                json!({"type": "string", "maxLength": 1}),
                json!("ab"),
                "spec.x: Too long: may not be more than 1 byte",
            ),
            (
                json!({"type": "string", "minLength": 3}),
                json!("ab"),
                r#"spec.x: Invalid value: "ab": spec.x in body should be at least 3 chars long"#,
            ),
            (
                json!({"type": "integer", "maximum": 3}),
                json!(4),
                "spec.x: Invalid value: 4: spec.x in body should be less than or equal to 3",
            ),
            (
                json!({"type": "integer", "maximum": 3, "exclusiveMaximum": true}),
                json!(3),
                "spec.x: Invalid value: 3: spec.x in body should be less than 3",
            ),
            (
                json!({"type": "number", "minimum": 0.5}),
                json!(0.25),
                "spec.x: Invalid value: 0.25: spec.x in body should be greater than or equal to 0.5",
            ),
            (
                json!({"type": "integer", "multipleOf": 3}),
                json!(4),
                "spec.x: Invalid value: 4: spec.x in body should be a multiple of 3",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
                json!(["a", "b"]),
                "spec.x: Too many: 2: must have at most 1 item",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
                json!([]),
                "spec.x: Invalid value: 0: spec.x in body should have at least 1 items",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                json!([1]),
                r#"spec.x[0]: Invalid value: "integer": spec.x[0] in body must be of type string: "integer""#,
            ),
            (
                json!({"type": "object", "minProperties": 1}),
                json!({}),
                "spec.x: Invalid value: 0: spec.x in body should have at least 1 properties",
            ),
            (json!({"type": "object", "required": ["y"]}), json!({}), "spec.x.y: Required value"),
            (
                json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
                json!(["a", "b", "a", "a"]),
                r#"spec.x[2]: Duplicate value: "a""#,
            ),
            (
                json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}),
                json!([{"k": 1}, {"k": 1, "v": 2}]),
                r#"spec.x[1]: Duplicate value: {"k":1}"#,
            ),
            (
                json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
                json!({"kind": "A"}),
                "spec.x.apiVersion: Required value",
            ),
            (
                json!({"type": "object", "not": {"required": ["a"]}}),
                json!({"a": 1}),
                r#"<nil>: Invalid value: "": "spec.x" must not validate the schema (not)"#,
            ),
        ];
        for (schema, value, expected) in table {
            assert_eq!(of_x(schema, value), [expected]);
        }
    }

    #[test]
    fn a_fraction_is_no_integer() {
        let expected = [
            r#"spec.x: Invalid value: "number": spec.x in body must be of type integer: "number""#,
            r#"<nil>: Invalid value: "": Checked value must be of type integer (default format) in spec.x"#,
        ];
        assert_eq!(of_x(json!({"type": "integer"}), json!(1.5)), expected);
    }

    #[test]
    fn values_that_fit_pass() {
        let table = [
            (json!({"type": "integer"}), json!(1.0)),
            (json!({"type": "number"}), json!(1)),
            (json!({"type": "string", "nullable": true}), json!(null)),
            (json!({"x-kubernetes-int-or-string": true}), json!("10%")),
            (json!({"type": "string", "format": "made-up"}), json!("anything")),
            (json!({"type": "string", "maxLength": 2}), json!("ää")),
            (json!({"type": "integer", "enum": [1, 2]}), json!(1.0)),
            (json!({"x-kubernetes-preserve-unknown-fields": true}), json!([{"a": 1}])),
            (
                json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"]}),
                json!([{"a": 1}, {"b": 1}]),
            ),
        ];
        for (schema, value) in table {
            assert_eq!(of_x(schema.clone(), value.clone()), Vec::<String>::new(), "{schema} {value}");
        }
    }

    #[test]
    fn of_failed_alternatives_the_one_that_agrees_most_is_reported() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["c"]}, {"required": ["a", "b"], "properties": {"a": {"minimum": 2}}}]});
        let expected = [
            r#"<nil>: Invalid value: "": "spec.x" must validate one and only one schema (oneOf). Found none valid"#,
            "spec.x.a: Invalid value: 1: spec.x.a in body should be greater than or equal to 2",
        ];
        assert_eq!(of_x(schema, json!({"a": 1, "b": ""})), expected);
        let both = json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"});
        let expected = r#"<nil>: Invalid value: "": "spec.x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#;
        assert_eq!(of_x(both, json!({"a": 1, "b": 1})), [expected]);
        let any = json!({"type": "string", "anyOf": [{"maxLength": 1}, {"pattern": "^long"}]});
        assert!(of_x(any.clone(), json!("longer")).is_empty());
        let expected = [
            r#"<nil>: Invalid value: "": "spec.x" must validate at least one schema (anyOf)"#,
            "spec.x: Too long: may not be more than 1 byte",
        ];
        assert_eq!(of_x(any, json!("short")), expected);
    }

    #[test]
    fn an_unchanged_part_is_not_validated_again() {
        let schema = Schema::structural(&json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1}}}));
        let old = json!({"a": "long", "b": "x"});
        assert!(validate_update(&schema, &json!({"a": "long", "b": "y"}), Some(&old)).is_empty());
        assert_eq!(validate_update(&schema, &json!({"a": "long", "b": "yy"}), Some(&old)).len(), 1);
        assert_eq!(validate_update(&schema, &json!({"a": "longer", "b": "x"}), Some(&old)).len(), 1);
    }
}
