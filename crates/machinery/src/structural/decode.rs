//! What Go's decoding makes of JSON for a built-in type: which values do not fit, and what is left out when the object is
//! written again.

use serde_json::Value;

use crate::{
    quantity::Quantity,
    schema::{MAX_DEPTH, Schema},
};

/// The values that do not fit their Go types, worded as Go's JSON decoder words the first of them:
/// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`. A server refuses
/// the object with 400 because of the first.
pub fn decode_errors(schema: &Schema, value: &Value) -> Vec<String> {
    let mut walk = Walk { errors: Vec::new(), path: Vec::new() };
    walk.visit(schema, value, "", 0);
    walk.errors
}

const QUANTITY: &str = "api.resource.Quantity";

struct Walk {
    errors: Vec<String>,
    path: Vec<String>,
}

impl Walk {
    fn visit(&mut self, schema: &Schema, value: &Value, owner: &str, depth: usize) {
        if depth >= MAX_DEPTH {
            self.errors.push(format!("json: {} nests deeper than {MAX_DEPTH} levels", self.path.join(".")));
            return;
        }
        // Null leaves a Go value as it is.
        let has_form = schema.target().int_or_string || schema.type_name() == Some(QUANTITY);
        if value.is_null() || (schema.is_opaque() && !has_form) || is_free_form(schema) {
            return;
        }
        if let Some(expected) = mismatch(schema, value) {
            self.errors.push(self.worded(value, owner, &expected));
            return;
        }
        if let Some(error) = unreadable(schema, value) {
            self.errors.push(error);
            return;
        }
        match value {
            Value::Object(map) => {
                let owner = go_name(schema).unwrap_or_else(|| owner.to_owned());
                for (key, member) in map {
                    let Some(inner) = schema.member(key) else { continue };
                    // Keys of maps are not part of the path Go reports.
                    let declared = schema.property(key).is_some();
                    if declared {
                        self.path.push(key.clone());
                    }
                    self.visit(&inner, member, &owner, depth + 1);
                    if declared {
                        self.path.pop();
                    }
                }
            }
            Value::Array(list) => {
                let Some(items) = schema.items() else { return };
                list.iter().for_each(|item| self.visit(&items, item, owner, depth + 1));
            }
            _ => {}
        }
    }

    fn worded(&self, value: &Value, owner: &str, expected: &str) -> String {
        let actual = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if expected != "string" && !expected.contains('.') => {
                format!("number {number}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let actual = if expected.starts_with("int") || expected.starts_with("float") {
            actual
        } else {
            actual.split(' ').next().unwrap_or_default().to_owned()
        };
        if self.path.is_empty() {
            return format!("json: cannot unmarshal {actual} into Go value of type {expected}");
        }
        let path = self.path.join(".");
        format!("json: cannot unmarshal {actual} into Go struct field {owner}.{path} of type {expected}")
    }
}

/// Text that has to be read further: quantities, times and bytes.
fn unreadable(schema: &Schema, value: &Value) -> Option<String> {
    match schema.type_name() {
        Some(QUANTITY) => Quantity::from_value(value).err().map(|error| error.to_string()),
        Some("meta.v1.Time" | "meta.v1.MicroTime") => {
            let text = value.as_str()?;
            text.parse::<jiff::Timestamp>().err()?;
            let shown = crate::field::quote(text);
            let fraction = if schema.type_name() == Some("meta.v1.MicroTime") { ".000000" } else { "" };
            let layout = format!("\"2006-01-02T15:04:05{fraction}Z07:00\"");
            Some(format!("parsing time {shown} as {layout}: cannot parse {shown} as \"2006\""))
        }
        _ if schema.target().format == "byte" => {
            use base64::{DecodeError, Engine, engine::general_purpose::STANDARD};
            // Go ignores line breaks in base64.
            let text = value.as_str()?.replace(['\r', '\n'], "");
            let at = match STANDARD.decode(&text).err()? {
                DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
                _ => text.len() / 4 * 4,
            };
            Some(format!("illegal base64 data at input byte {at}"))
        }
        _ => None,
    }
}

/// The name of a definition as Go writes it: `io.k8s.api.apps.v1.DeploymentSpec` is `DeploymentSpec` as an owner.
fn go_name(schema: &Schema) -> Option<String> {
    Some(schema.reference()?.rsplit('.').next()?.to_owned())
}

/// `io.k8s.api.apps.v1.DeploymentSpec` as `v1.DeploymentSpec`.
fn go_type(reference: &str) -> String {
    let mut parts = reference.rsplit('.');
    let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("{package}.{name}")
}

/// Types that read any JSON themselves.
fn is_free_form(schema: &Schema) -> bool {
    schema.reference().is_some_and(|name| name.ends_with(".RawExtension") || name.ends_with(".FieldsV1"))
}

/// The Go type expected, if the value does not fit it.
fn mismatch(schema: &Schema, value: &Value) -> Option<String> {
    let target = schema.target();
    if schema.type_name() == Some(QUANTITY) {
        return None;
    }
    if target.int_or_string {
        // `IntOrString` reads a string, and an int32 of everything else.
        let fits = value.is_string() || value.as_i64().is_some_and(|i| i32::try_from(i).is_ok());
        return (!fits).then(|| "int32".to_owned());
    }
    let fits = match (target.kind.as_str(), value) {
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) | ("array", Value::Array(_)) => true,
        ("object", Value::Object(_)) | ("number", Value::Number(_)) => true,
        ("integer", Value::Number(number)) => match target.format.as_str() {
            "int32" => number.as_i64().is_some_and(|i| i32::try_from(i).is_ok()),
            _ => number.as_i64().is_some(),
        },
        ("", _) => true,
        _ => false,
    };
    (!fits).then(|| expected(schema))
}

fn expected(schema: &Schema) -> String {
    let target = schema.target();
    match (schema.reference(), target.kind.as_str(), target.format.as_str()) {
        (Some(reference), "object" | "", _) => go_type(reference),
        (_, "string", "byte") => "[]uint8".to_owned(),
        (_, "integer", "int32") => "int32".to_owned(),
        (_, "integer", _) => "int64".to_owned(),
        (_, "number", _) => "float64".to_owned(),
        (_, "boolean", _) => "bool".to_owned(),
        (_, "array", _) => {
            format!("[]{}", schema.items().map_or_else(|| "interface {}".to_owned(), |i| expected(&i)))
        }
        (_, "object", _) => {
            let value = schema.additional().map_or_else(|| "interface {}".to_owned(), |a| expected(&a));
            format!("map[string]{value}")
        }
        _ => "string".to_owned(),
    }
}

/// Brings an object of a built-in type into the form a real server would store after decoding and encoding it: nulls and
/// empty optional lists and maps are left out.
pub fn normalize(schema: &Schema, value: &mut Value) {
    normalize_at(schema, value, 0);
}

fn normalize_at(schema: &Schema, value: &mut Value, depth: usize) {
    if depth >= MAX_DEPTH || is_free_form(schema) || schema.is_opaque() {
        return;
    }
    match value {
        Value::Object(map) => {
            let is_struct = schema.properties().next().is_some();
            let target = schema.target();
            map.retain(|key, member| {
                let Some(inner) = schema.property(key) else {
                    return !is_struct || !member.is_null();
                };
                let empty = match member {
                    Value::Null => true,
                    Value::Array(list) => list.is_empty(),
                    Value::Object(members) => members.is_empty() && inner.additional().is_some(),
                    Value::Bool(false) => is_omitted_zero(schema, key),
                    Value::Number(number) if number.as_i64() == Some(0) => is_omitted_zero(schema, key),
                    Value::String(text) if text.is_empty() => is_omitted_zero(schema, key),
                    _ => false,
                };
                !empty || (!member.is_null() && target.required.contains(key))
            });
            for (key, member) in map.iter_mut() {
                if let Some(inner) = schema.member(key) {
                    zero_for_null(&inner, member);
                    canonical(&inner, member);
                    normalize_at(&inner, member, depth + 1);
                }
            }
        }
        Value::Array(list) => {
            let Some(items) = schema.items() else { return };
            for item in list {
                zero_for_null(&items, item);
                canonical(&items, item);
                normalize_at(&items, item, depth + 1);
            }
        }
        _ => {}
    }
}

/// Whether Go leaves out a field that is false, 0 or "": only where it is no pointer, which schemas do not tell. These are
/// the ones people write out.
fn is_omitted_zero(owner: &Schema, key: &str) -> bool {
    const NEVER_POINTERS: [&str; 24] = [
        "clusterIP",
        "externalName",
        "generateName",
        "healthCheckNodePort",
        "hostIP",
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "hostPort",
        "initialDelaySeconds",
        "loadBalancerIP",
        "minReadySeconds",
        "nodePort",
        "paused",
        "priorityClassName",
        "publishNotReadyAddresses",
        "serviceAccountName",
        "stdin",
        "stdinOnce",
        "subPath",
        "subPathExpr",
        "tty",
        "unschedulable",
        "workingDir",
    ];
    let target = owner.target();
    !target.required.iter().any(|name| name == key)
        && (NEVER_POINTERS.contains(&key)
            || matches!(
                (owner.type_name(), key),
                (Some("core.v1.EnvVar"), "value") | (Some("core.v1.VolumeMount"), "readOnly")
            ))
}

/// Quantities and times have one way to be written.
fn canonical(schema: &Schema, value: &mut Value) {
    match schema.type_name() {
        Some(QUANTITY) => {
            if let Ok(quantity) = Quantity::from_value(value) {
                *value = quantity.to_string().into();
            }
        }
        Some("meta.v1.Time") => {
            // Nearly all times come from machines and are written so already.
            if let Some(text) = value.as_str().filter(|text| !(text.len() == 20 && text.ends_with('Z')))
                && let Ok(time) = text.parse::<jiff::Timestamp>()
            {
                *value = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
            }
        }
        _ => {}
    }
}

/// A null among the items of a list or the values of a map is the zero value of its Go type.
fn zero_for_null(schema: &Schema, value: &mut Value) {
    if value.is_null() {
        *value = match schema.target().kind.as_str() {
            "string" => "".into(),
            "integer" | "number" => 0.into(),
            "boolean" => false.into(),
            "object" => Value::Object(Default::default()),
            _ => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::KUBERNETES;
    use serde_json::json;

    fn deployment() -> Schema {
        KUBERNETES.definitions.get("io.k8s.api.apps.v1.Deployment").unwrap()
    }

    #[test]
    fn values_of_wrong_types_are_reported_as_go_reports_them() {
        let table = [
            (
                json!({"spec": {"replicas": "3"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"paused": 1}}),
                "json: cannot unmarshal number into Go struct field DeploymentSpec.spec.paused of type bool",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"image": {}}]}}}}),
                "json: cannot unmarshal object into Go struct field Container.spec.template.spec.containers.image of type string",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": {}}}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
            ),
            (
                json!({"spec": []}),
                "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
            ),
            (json!([]), "json: cannot unmarshal array into Go value of type v1.Deployment"),
        ];
        for (object, expected) in table {
            let errors = decode_errors(&deployment(), &object);
            assert_eq!(errors, [expected], "{object}");
        }
    }

    #[test]
    fn quantities_and_ports_read_text_and_numbers() {
        let object = json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}},
            "template": {"spec": {"containers": [{"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}, "env": null}]}}}});
        assert_eq!(decode_errors(&deployment(), &object), Vec::<String>::new());
    }

    #[test]
    fn what_go_would_not_write_again_is_left_out() {
        let mut object = json!({"metadata": {"labels": {}, "annotations": {"a": null}, "creationTimestamp": null},
            "spec": {"replicas": null, "selector": {"matchLabels": {}},
            "template": {"spec": {"volumes": [], "containers": [], "securityContext": {}}}}});
        normalize(&deployment(), &mut object);
        let expected = json!({"metadata": {"annotations": {"a": ""}},
            "spec": {"selector": {}, "template": {"spec": {"containers": [], "securityContext": {}}}}});
        assert_eq!(object, expected);
    }
}
