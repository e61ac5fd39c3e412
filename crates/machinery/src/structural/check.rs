//! Whether the schema of a CRD is structural, and whether what it says makes sense: the rules of
//! `apiextensions/validation` and `apiserver/schema`, with their messages.

use serde_json::Value;

use super::{Prune, compile_pattern, expressions::problem, prune, validate};
use crate::{
    field::Path,
    schema::{MAX_DEPTH, Schema},
    status::Cause,
};

/// What is wrong with an `openAPIV3Schema` that stands at `path`, such as `spec.versions[0].schema.openAPIV3Schema`.
pub fn check_schema(path: Path<'_>, schema: &Value) -> Vec<Cause> {
    let mut check = Check::default();
    if flag(schema, "nullable") {
        check.found.push(Cause::forbidden(path.field("nullable"), "nullable cannot be true at the root"));
    }
    check.node(schema, path, Place { level: Level::Root, ..Place::default() }, 0);
    check.completeness(schema, schema, path, path, 0);
    check.found.sort_by(|a, b| (&a.field, &a.message).cmp(&(&b.field, &b.message)));
    check.found.dedup();
    check.found
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    #[default]
    Field,
}

/// What the surroundings of a node say about it.
#[derive(Clone, Copy, Default)]
struct Place {
    level: Level,
    /// Inside `allOf`, `anyOf`, `oneOf` or `not`: only value validation is allowed.
    nested: bool,
    /// `type` is allowed in spite of `nested`: the two branches of an int-or-string.
    may_have_type: bool,
    /// Why a default is forbidden.
    no_default: Option<&'static str>,
    /// Describes the metadata of a resource.
    inside_metadata: bool,
}

const JUNCTORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

fn flag(schema: &Value, key: &str) -> bool {
    schema[key].as_bool().unwrap_or_default()
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or_default()
}

fn members<'a>(schema: &'a Value, key: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    schema[key].as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn is_int_or_string(branches: &Value) -> bool {
    matches!(branches.as_array().map(Vec::as_slice), Some([a, b])
        if *a == serde_json::json!({"type": "integer"}) && *b == serde_json::json!({"type": "string"}))
}

#[derive(Default)]
struct Check {
    found: Vec<Cause>,
}

impl Check {
    fn required(&mut self, path: Path<'_>, detail: &str) {
        self.found.push(Cause::required(path, detail));
    }

    fn forbidden(&mut self, path: Path<'_>, detail: &str) {
        self.found.push(Cause::forbidden(path, detail));
    }

    fn invalid(&mut self, path: Path<'_>, value: impl Into<Value>, detail: &str) {
        self.found.push(Cause::invalid(path, value, detail));
    }

    fn node(&mut self, schema: &Value, path: Path<'_>, place: Place, depth: usize) {
        if !schema.is_object() {
            return;
        }
        if depth >= MAX_DEPTH / 2 {
            self.invalid(path, "", "nests too deep");
            return;
        }
        self.unsupported(schema, path, place);
        match place.nested {
            true => self.only_values(schema, path, place),
            false => self.structure(schema, path, place),
        }
        self.extensions(schema, path);
        self.list(schema, path);
        self.rules(schema, path);
        if !place.nested {
            self.default_value(schema, path);
        }
        self.children(schema, path, place, depth);
    }

    /// Constructs of OpenAPI that no CRD may use.
    fn unsupported(&mut self, schema: &Value, path: Path<'_>, place: Place) {
        let kind = text(schema, "type");
        if kind == "null" {
            let detail = "type cannot be set to null, use nullable as an alternative";
            self.forbidden(path.field("type"), detail);
        } else if !kind.is_empty() && !TYPES.contains(&kind) {
            self.found.push(Cause::not_supported(path.field("type"), kind, TYPES));
        }
        for (name, detail) in [
            ("additionalItems", "additionalItems is not supported"),
            ("patternProperties", "patternProperties is not supported"),
            ("definitions", "definitions is not supported"),
            ("dependencies", "dependencies is not supported"),
            ("$ref", "$ref is not supported"),
            ("id", "id is not supported"),
        ] {
            if schema.get(name).is_some_and(|value| !value.is_null()) {
                self.forbidden(path.field(name), detail);
            }
        }
        if schema["items"].is_array() {
            self.forbidden(path.field("items"), "items must be a schema object and not an array");
        }
        if flag(schema, "uniqueItems") {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbidden(path.field("uniqueItems"), detail);
        }
        if members(schema, "properties").next().is_some()
            && matches!(schema["additionalProperties"], Value::Bool(false) | Value::Object(_))
        {
            let detail = "additionalProperties and properties are mutual exclusive";
            self.forbidden(path.field("additionalProperties"), detail);
        } else if schema["additionalProperties"] == false {
            self.forbidden(path.field("additionalProperties"), "additionalProperties cannot be set to false");
        }
        if let (Some(reason), true) = (place.no_default, schema.get("default").is_some()) {
            self.forbidden(path.field("default"), &format!("must not be set {reason}"));
        }
        if place.inside_metadata && flag(schema, "x-kubernetes-embedded-resource") {
            let detail = "must not be used inside of resource meta";
            self.forbidden(path.field("x-kubernetes-embedded-resource"), detail);
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && let Err(error) = compile_pattern(pattern)
        {
            let detail = format!("must be a valid regular expression, but isn't: {error}");
            self.invalid(path.field("pattern"), pattern, &detail);
        }
    }

    /// What may not stand inside a junctor.
    fn only_values(&mut self, schema: &Value, path: Path<'_>, place: Place) {
        if !text(schema, "type").is_empty() && !place.may_have_type {
            self.forbidden(path.field("type"), "must be empty to be structural");
        }
        for (name, detail) in [
            ("additionalProperties", "must be undefined to be structural"),
            ("default", "must be undefined to be structural"),
            ("title", "must be empty to be structural"),
            ("description", "must be empty to be structural"),
            ("nullable", "must be false to be structural"),
            ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
            ("x-kubernetes-embedded-resource", "must be false to be structural"),
            ("x-kubernetes-int-or-string", "must be false to be structural"),
            ("x-kubernetes-list-map-keys", "must be empty to be structural"),
            ("x-kubernetes-list-type", "must be undefined to be structural"),
            ("x-kubernetes-map-type", "must be undefined to be structural"),
            ("x-kubernetes-validations", "must be empty to be structural"),
        ] {
            let unset = |value: &Value| match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                _ => false,
            };
            if schema.get(name).is_some_and(|value| !unset(value)) {
                self.forbidden(path.field(name), detail);
            }
        }
        if schema["properties"].get("metadata").is_some() {
            let detail = "must not be specified in a nested context";
            self.forbidden(path.field("properties").key("metadata"), detail);
        }
    }

    fn structure(&mut self, schema: &Value, path: Path<'_>, place: Place) {
        let kind = text(schema, "type");
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        let int_or_string = flag(schema, "x-kubernetes-int-or-string");
        let preserves = flag(schema, "x-kubernetes-preserve-unknown-fields");
        if kind == "array" && schema["items"].is_null() {
            self.required(path.field("items"), "must be specified");
        }
        if schema["additionalProperties"].is_object() || schema["additionalProperties"].is_boolean() {
            if place.level == Level::Root {
                self.forbidden(path.field("additionalProperties"), "must not be used at the root");
            }
            if embedded {
                let detail = "must not be used if x-kubernetes-embedded-resource is set";
                self.forbidden(path.field("additionalProperties"), detail);
            }
        }
        let must_be_object = "must be object if x-kubernetes-embedded-resource is true";
        match kind {
            "" if embedded => self.required(path.field("type"), must_be_object),
            "object" => {}
            kind if embedded => self.invalid(path.field("type"), kind, must_be_object),
            "" if !int_or_string && !preserves => {
                let detail = match place.level {
                    Level::Root => "must not be empty at the root",
                    Level::Item => "must not be empty for specified array items",
                    Level::Field => "must not be empty for specified object fields",
                };
                self.required(path.field("type"), detail);
            }
            _ => {}
        }
        if place.level == Level::Root && !kind.is_empty() && kind != "object" {
            self.invalid(path.field("type"), kind, "must be object at the root");
        }
        for (other, name) in [
            (preserves, "x-kubernetes-preserve-unknown-fields"),
            (embedded, "x-kubernetes-embedded-resource"),
        ] {
            if int_or_string && other {
                self.invalid(path.field(name), true, "must be false if x-kubernetes-int-or-string is true");
            }
        }
        if embedded && !preserves && members(schema, "properties").next().is_none() {
            let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            self.required(path.field("properties"), detail);
        }
        if place.level == Level::Root || embedded {
            self.metadata(schema, path, place);
        }
    }

    /// The schema of a resource says little about the fields every resource has.
    fn metadata(&mut self, schema: &Value, path: Path<'_>, place: Place) {
        let properties = path.field("properties");
        for (name, kind, detail) in [
            ("apiVersion", "string", "must be string"),
            ("kind", "string", "must be string"),
            ("metadata", "object", "must be object"),
        ] {
            let Some(property) = schema["properties"].get(name) else { continue };
            if text(property, "type") != kind {
                self.invalid(properties.key(name).field("type"), text(property, "type"), detail);
            }
        }
        let Some(metadata) = schema["properties"].get("metadata").and_then(Value::as_object) else { return };
        let known = ["name", "generateName"];
        let only_names = metadata.iter().all(|(key, value)| match key.as_str() {
            "type" | "default" => true,
            "properties" => value.as_object().is_some_and(|p| p.keys().all(|k| known.contains(&k.as_str()))),
            _ => value.is_null(),
        });
        if place.level == Level::Root && !only_names {
            let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            self.forbidden(properties.key("metadata"), detail);
        }
    }

    fn extensions(&mut self, schema: &Value, path: Path<'_>) {
        if schema["x-kubernetes-preserve-unknown-fields"] == false {
            self.invalid(
                path.field("x-kubernetes-preserve-unknown-fields"),
                false,
                "must be true or undefined",
            );
        }
        for (name, kind, detail, supported) in [
            (
                "x-kubernetes-map-type",
                "object",
                "must be object if x-kubernetes-map-type is specified",
                &["atomic", "granular"][..],
            ),
            (
                "x-kubernetes-list-type",
                "array",
                "must be array if x-kubernetes-list-type is specified",
                &["atomic", "set", "map"][..],
            ),
        ] {
            let Some(value) = schema[name].as_str() else { continue };
            match text(schema, "type") {
                "" => self.required(path.field("type"), detail),
                actual if actual != kind => self.invalid(path.field("type"), actual, detail),
                _ => {}
            }
            if !supported.contains(&value) {
                self.found.push(Cause::not_supported(path.field(name), value, supported.iter()));
            }
        }
    }

    /// Lists of type `set` and `map`, and their keys.
    fn list(&mut self, schema: &Value, path: Path<'_>) {
        let list_type = schema["x-kubernetes-list-type"].as_str();
        let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let items = &schema["items"];
        let items_path = path.field("items");
        if !keys.is_empty() && list_type != Some("map") {
            let at = path.field("x-kubernetes-list-type");
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            match list_type {
                None => self.required(at, detail),
                Some(other) => self.invalid(at, other, detail),
            }
        }
        if matches!(list_type, Some("set" | "map")) && flag(items, "nullable") {
            let detail = format!(
                "cannot be nullable when x-kubernetes-list-type is {}",
                list_type.unwrap_or_default()
            );
            self.forbidden(items_path.field("nullable"), &detail);
        }
        if list_type == Some("set") && text(schema, "type") == "array" {
            let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
            let nested = items["x-kubernetes-list-type"].as_str();
            if text(items, "type") == "array" && nested.is_some_and(|t| t != "atomic") {
                self.invalid(items_path.field("x-kubernetes-list-type"), nested, detail);
            }
            if text(items, "type") == "object" && items["x-kubernetes-map-type"] != "atomic" {
                self.invalid(items_path.field("x-kubernetes-map-type"), nested, detail);
            }
        }
        if list_type == Some("map") {
            self.map_keys(schema, &keys, path);
        }
    }

    fn map_keys(&mut self, schema: &Value, keys: &[&str], path: Path<'_>) {
        let items = &schema["items"];
        let items_path = path.field("items");
        let keys_path = path.field("x-kubernetes-list-map-keys");
        if keys.is_empty() {
            self.required(keys_path, "must not be empty if x-kubernetes-list-type is map");
        }
        if items.is_null() {
            self.required(items_path, "must have a schema if x-kubernetes-list-type is map");
        } else if text(items, "type") != "object" {
            let detail = "must be object if parent array's x-kubernetes-list-type is map";
            self.invalid(items_path.field("type"), text(items, "type"), detail);
            return;
        }
        let properties = items_path.field("properties");
        let required = items["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (index, key) in keys.iter().enumerate() {
            let at = properties.key(key);
            match items["properties"].get(key) {
                None => {
                    self.invalid(keys_path, keys.to_vec(), "entries must all be names of item properties")
                }
                Some(property) => {
                    if matches!(text(property, "type"), "array" | "object") {
                        let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                        self.invalid(at.field("type"), text(items, "type"), detail);
                    }
                    if !required.iter().any(|name| name == key) && property.get("default").is_none() {
                        let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                        self.required(at.field("default"), detail);
                    }
                    if flag(property, "nullable") {
                        let detail =
                            "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                        self.forbidden(at.field("nullable"), detail);
                    }
                }
            }
            if keys[..index].contains(key) {
                self.invalid(keys_path, keys.to_vec(), "must not contain duplicate entries");
            }
        }
    }

    /// `x-kubernetes-validations`, but for the expressions themselves.
    fn rules(&mut self, schema: &Value, path: Path<'_>) {
        const REASONS: [&str; 4] =
            ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        let list = path.field("x-kubernetes-validations");
        let has_line_break = |s: &str| s.contains(['\n', '\r']);
        for (index, rule) in schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
            let at = list.index(index);
            let (expression, message) = (text(rule, "rule").trim(), text(rule, "message"));
            if expression.is_empty() {
                self.required(at.field("rule"), "rule is not specified");
            } else if !message.is_empty() && message.trim().is_empty() {
                self.invalid(at.field("message"), message, "must be non-empty if specified");
            } else if has_line_break(message.trim()) {
                self.invalid(at.field("message"), message, "must not contain line breaks");
            } else if has_line_break(expression) && message.is_empty() {
                self.required(at.field("message"), "message must be specified if rule contains line breaks");
            }
            for field in ["rule", "messageExpression"] {
                if let Some(problem) =
                    Some(text(rule, field).trim()).filter(|e| !e.is_empty()).and_then(problem)
                {
                    self.invalid(at.field(field), rule.clone(), &problem);
                }
            }
            let expression = text(rule, "messageExpression");
            if !expression.is_empty() && expression.trim().is_empty() {
                let detail = "messageExpression must be non-empty if specified";
                self.required(at.field("messageExpression"), detail);
            }
            if let Some(reason) = rule["reason"].as_str().filter(|reason| !REASONS.contains(reason)) {
                self.found.push(Cause::not_supported(at.field("reason"), reason, REASONS));
            }
            let field = text(rule, "fieldPath");
            if !field.is_empty() && field.trim().is_empty() {
                self.invalid(at.field("fieldPath"), field, "must be non-empty if specified");
            }
            if has_line_break(field) {
                self.invalid(at.field("fieldPath"), field, "must not contain line breaks");
            }
        }
    }

    /// A default is a valid value without unknown fields.
    fn default_value(&mut self, schema: &Value, path: Path<'_>) {
        let Some(default) = schema.get("default").filter(|default| !default.is_null()) else { return };
        let at = path.field("default");
        let compiled = Schema::structural(schema);
        if !prune(&compiled, &mut default.clone(), Prune::default()).is_empty() {
            self.invalid(at, default.clone(), "must not have unknown fields");
        }
        for cause in validate(&compiled, default) {
            let below = match cause.field.as_str() {
                "<nil>" => at.text(),
                field if field.starts_with('[') => format!("{}{field}", at.text()),
                field => format!("{}.{field}", at.text()),
            };
            self.found.push(Cause { field: below, ..cause });
        }
    }

    fn children(&mut self, schema: &Value, path: Path<'_>, place: Place, depth: usize) {
        let inner = Place { level: Level::Field, may_have_type: false, ..place };
        let is_resource = place.level == Level::Root || flag(schema, "x-kubernetes-embedded-resource");
        let properties = path.field("properties");
        for (name, property) in members(schema, "properties") {
            let mut inner = inner;
            let declares_metadata = is_resource && matches!(name, "apiVersion" | "kind" | "metadata");
            if declares_metadata && !place.nested {
                inner.inside_metadata = true;
                if place.level == Level::Root {
                    inner.no_default = Some(match name {
                        "apiVersion" => "in top-level apiVersion",
                        "kind" => "in top-level kind",
                        _ => "in top-level metadata",
                    });
                }
            }
            self.node(property, properties.key(name), inner, depth + 1);
        }
        let additional = match place.inside_metadata {
            true => Some("inside additionalProperties applying to object metadata"),
            false => place.no_default,
        };
        let at = path.field("additionalProperties");
        self.node(&schema["additionalProperties"], at, Place { no_default: additional, ..inner }, depth + 1);
        self.node(&schema["items"], path.field("items"), Place { level: Level::Item, ..inner }, depth + 1);
        // Two forms of an int-or-string may name the types.
        let int_or_string = !place.nested && flag(schema, "x-kubernetes-int-or-string");
        let nested = Place { nested: true, may_have_type: false, ..place };
        for junctor in JUNCTORS {
            let list = path.field(junctor);
            let branches = schema[junctor].as_array().into_iter().flatten();
            for (index, branch) in branches.enumerate() {
                let names_types = junctor == "anyOf"
                    && is_int_or_string(&schema["anyOf"])
                    && (int_or_string || place.may_have_type);
                let holds_types =
                    junctor == "allOf" && index == 0 && int_or_string && is_int_or_string(&branch["anyOf"]);
                let place = Place { may_have_type: names_types || holds_types, ..nested };
                self.node(branch, list.index(index), place, depth + 1);
            }
        }
        self.node(&schema["not"], path.field("not"), nested, depth + 1);
    }

    /// What a junctor restricts must be declared outside of it.
    fn completeness(&mut self, value: &Value, structure: &Value, path: Path<'_>, at: Path<'_>, depth: usize) {
        if depth >= MAX_DEPTH / 2 {
            return;
        }
        for junctor in JUNCTORS {
            let list = at.field(junctor);
            for (index, branch) in value[junctor].as_array().into_iter().flatten().enumerate() {
                self.covered(branch, structure, path, list.index(index), depth + 1);
            }
        }
        self.covered(&value["not"], structure, path, at.field("not"), depth + 1);
        if depth == 0 || std::ptr::eq(value, structure) {
            let (properties, items, additional) =
                (path.field("properties"), path.field("items"), path.field("additionalProperties"));
            for (name, property) in members(structure, "properties") {
                self.completeness(property, property, properties.key(name), properties.key(name), depth + 1);
            }
            for (child, at) in
                [(&structure["items"], items), (&structure["additionalProperties"], additional)]
            {
                if child.is_object() {
                    self.completeness(child, child, at, at, depth + 1);
                }
            }
        }
    }

    fn covered(&mut self, value: &Value, structure: &Value, path: Path<'_>, at: Path<'_>, depth: usize) {
        if !value.is_object() || depth >= MAX_DEPTH / 2 {
            return;
        }
        if !structure.is_object() {
            self.required(path, &format!("because it is defined in {at}"));
            return;
        }
        self.completeness(value, structure, path, at, depth + 1);
        self.covered(&value["items"], &structure["items"], path.field("items"), at.field("items"), depth + 1);
        let (properties, declared) = (at.field("properties"), path.field("properties"));
        for (name, property) in members(value, "properties") {
            let counterpart = &structure["properties"][name];
            self.covered(property, counterpart, declared.key(name), properties.key(name), depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(schema: Value) -> Vec<String> {
        let causes = check_schema(Path::new("s"), &schema);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn a_structural_schema_passes() {
        let schema = json!({"type": "object", "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "pattern": "^a"}}},
            "spec": {"type": "object", "required": ["a"], "properties": {
                "a": {"type": "string", "default": "x", "enum": ["x", "y"]},
                "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "port2": {"x-kubernetes-int-or-string": true,
                    "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"pattern": "^a"}]},
                "any": {"x-kubernetes-preserve-unknown-fields": true},
                "map": {"type": "object", "additionalProperties": {"type": "string"}},
                "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                    "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}},
                "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            }, "oneOf": [{"required": ["a"], "properties": {"a": {"minLength": 1}}}]},
        }});
        assert_eq!(found(schema), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_structural_is_named() {
        let of_spec = |spec: Value| json!({"type": "object", "properties": {"spec": spec}});
        let table = [
            (json!({}), "s.type: Required value: must not be empty at the root"),
            (json!({"type": "string"}), r#"s.type: Invalid value: "string": must be object at the root"#),
            (
                of_spec(json!({})),
                "s.properties[spec].type: Required value: must not be empty for specified object fields",
            ),
            (
                of_spec(json!({"type": "array"})),
                "s.properties[spec].items: Required value: must be specified",
            ),
            (
                of_spec(json!({"type": "array", "items": {}})),
                "s.properties[spec].items.type: Required value: must not be empty for specified array items",
            ),
            (
                of_spec(json!({"type": "text"})),
                r#"s.properties[spec].type: Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string""#,
            ),
            (
                of_spec(json!({"type": "object", "$ref": "#/a"})),
                "s.properties[spec].$ref: Forbidden: $ref is not supported",
            ),
            (of_spec(json!({"type": "string", "pattern": "("})), "s.properties[spec].pattern: Invalid value"),
            (
                of_spec(json!({"type": "string", "anyOf": [{"type": "string"}]})),
                "s.properties[spec].anyOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                of_spec(json!({"type": "object", "not": {"properties": {"a": {}}}})),
                "s.properties[spec].properties[a]: Required value: because it is defined in s.properties[spec].not.properties[a]",
            ),
            (
                of_spec(json!({"type": "string", "default": 1})),
                r#"s.properties[spec].default: Invalid value: "integer":"#,
            ),
            (
                of_spec(json!({"type": "object", "default": {"a": 1}})),
                r#"s.properties[spec].default: Invalid value: {"a":1}: must not have unknown fields"#,
            ),
            (
                of_spec(
                    json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "bag"}),
                ),
                r#"s.properties[spec].x-kubernetes-list-type: Unsupported value: "bag": supported values: "atomic", "set", "map""#,
            ),
            (
                of_spec(json!({"type": "object", "x-kubernetes-validations": [{"rule": " "}]})),
                "s.properties[spec].x-kubernetes-validations[0].rule: Required value: rule is not specified",
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "default": {}}}}),
                "s.properties[metadata].default: Forbidden: must not be set in top-level metadata",
            ),
        ];
        for (schema, expected) in table {
            let found = found(schema.clone());
            assert!(
                found.len() == 1 && found[0].starts_with(expected),
                "{schema}: {found:?} instead of {expected}"
            );
        }
    }
}
