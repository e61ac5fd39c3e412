//! Kubernetes' protobuf encoding of its own types, read into JSON. Typed Go clients, and so `kubectl create` and
//! `kubectl auth`, send it whatever the server says it accepts.
//!
//! The messages are data from Kubernetes' source (`cargo xtask openapi` regenerates it).

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
    sync::LazyLock,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use crate::duration;

/// What every encoded object starts with.
const MAGIC: &[u8] = b"k8s\0";
/// The nesting a message may have. Kubernetes' own types stay far below.
const MAX_DEPTH: usize = 64;

/// A body that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It does not start with Kubernetes' mark.
    #[error("the body does not start with the mark of Kubernetes' protobuf encoding")]
    Mark,
    /// It ends too early, or a length or tag in it makes no sense. Says after which field.
    #[error("the body is not well-formed protobuf at {}", place(.0))]
    Malformed(String),
    /// Messages in messages beyond the limit.
    #[error("the body is nested too deeply")]
    Depth,
    /// A text is not UTF-8, embedded JSON does not parse, or a number has no JSON. Says which field.
    #[error("the body has a value that cannot be read at {}", place(.0))]
    Field(String),
    /// The kind is none of Kubernetes' own.
    #[error("no kind {kind:?} is registered for version {version:?}")]
    Kind {
        /// `apiVersion`.
        version: String,
        /// `kind`.
        kind: String,
    },
}

impl ProtobufError {
    fn malformed() -> Self {
        Self::Malformed(String::new())
    }

    fn unreadable() -> Self {
        Self::Field(String::new())
    }

    /// The error as seen from the parent of the field it is in.
    fn within(mut self, field: &str) -> Self {
        if let Self::Malformed(path) | Self::Field(path) = &mut self
            && !field.is_empty()
        {
            *path = if path.is_empty() { field.to_owned() } else { format!("{field}.{path}") };
        }
        self
    }
}

fn place(path: &str) -> &str {
    if path.is_empty() { "its beginning" } else { path }
}

/// One field: number, JSON name (empty when it is written into its parent), type, flags.
#[derive(Debug, Deserialize)]
struct Field(u32, String, String, String);

impl Field {
    fn has(&self, flag: char) -> bool {
        self.3.contains(flag)
    }

    /// Go's `omitempty` knows no empty struct, and so keeps the 0 of an `IntOrString`.
    fn omits_zero(&self) -> bool {
        self.has('o') && !self.has('p') && !is_message(&self.2)
    }
}

/// Types with a package are messages, the others scalars.
fn is_message(kind: &str) -> bool {
    kind.contains('.')
}

static DATA: &[u8] = include_bytes!("../data/protobuf.json.gz");

/// All messages by name. The data is part of the program and checked by a test.
#[allow(clippy::expect_used)]
static MESSAGES: LazyLock<HashMap<String, Vec<Field>>> = LazyLock::new(|| {
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(DATA).read_to_end(&mut json).expect("embedded data is gzip");
    serde_json::from_slice(&json).expect("embedded data is JSON")
});

/// Reads an encoded object.
///
/// # Errors
/// When it is not well-formed, or not of a kind of Kubernetes' own.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::Mark)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for part in Parts(envelope) {
        match part? {
            (1, Wire::Bytes(meta)) => {
                for part in Parts(meta) {
                    match part? {
                        (1, Wire::Bytes(text)) => version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let unknown = || ProtobufError::Kind { version: version.clone(), kind: kind.clone() };
    let name = message_of(&version, &kind).ok_or_else(unknown)?;
    let mut object = message(&name, raw, 0)?;
    let fields = object.as_object_mut().ok_or_else(unknown)?;
    fields.insert("apiVersion".into(), version.into());
    fields.insert("kind".into(), kind.into());
    Ok(object)
}

/// The message that encodes a kind.
fn message_of(version: &str, kind: &str) -> Option<String> {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let package = match group {
        "" => "k8s.io.api.core".to_owned(),
        "apiextensions.k8s.io" => "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions".to_owned(),
        group => format!("k8s.io.api.{}", group.split('.').next()?),
    };
    let own = format!("{package}.{version}.{kind}");
    // DeleteOptions and the like belong to every group.
    let common = format!("k8s.io.apimachinery.pkg.apis.meta.v1.{kind}");
    [own, common].into_iter().find(|name| MESSAGES.contains_key(name))
}

/// The value of one field on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed(u64),
}

/// The fields of a message in the order in which they come.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn part(&mut self) -> Option<(u32, Wire<'a>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
        let value = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Fixed(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed(u32::from_le_bytes(self.take(4)?.try_into().ok()?).into()),
            _ => return None,
        };
        Some((number, value))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part().ok_or_else(ProtobufError::malformed);
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

fn utf8(bytes: &[u8]) -> Result<String, ProtobufError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ProtobufError::unreadable())
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    if let Some(special) = special(name, bytes, depth) {
        return special;
    }
    let fields = MESSAGES.get(name).ok_or_else(ProtobufError::unreadable)?;
    // A message of nothing but items without a struct of its own is a bare list in JSON.
    let list = matches!(fields.as_slice(), [Field(1, json, _, flags)] if json == "items" && flags == "r");
    let mut object = Map::new();
    for part in Parts(bytes) {
        let (number, wire) = part?;
        let Some(field) = fields.iter().find(|field| field.0 == number) else { continue };
        let Field(_, json, kind, _) = field;
        if field.has('m') {
            let (key, value) = entry(kind, wire, depth).map_err(|error| error.within(json))?;
            if let Value::Object(map) = object.entry(json.clone()).or_insert_with(|| Map::new().into()) {
                map.insert(key, value);
            }
            continue;
        }
        if field.has('r') {
            if let Value::Array(items) =
                object.entry(json.clone()).or_insert_with(|| Value::Array(Vec::new()))
            {
                elements(kind, &wire, depth, items).map_err(|error| error.within(json))?;
            }
            continue;
        }
        let value = value(kind, &wire, depth).map_err(|error| error.within(json))?;
        if json.is_empty() {
            if let Value::Object(inner) = value {
                object.extend(inner);
            }
        } else if value.is_null() || field.omits_zero() && is_zero(&value) {
            object.remove(json);
        } else {
            object.insert(json.clone(), value);
        }
    }
    Ok(if list { object.remove("items").unwrap_or_else(|| Value::Array(Vec::new())) } else { object.into() })
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// One element of a list, or several integers packed together.
fn elements(kind: &str, wire: &Wire<'_>, depth: usize, items: &mut Vec<Value>) -> Result<(), ProtobufError> {
    match wire {
        Wire::Bytes(packed) if !is_message(kind) && !matches!(kind, "string" | "bytes" | "double") => {
            let mut parts = Parts(packed);
            while !parts.0.is_empty() {
                let number = parts.varint().ok_or_else(ProtobufError::malformed)?;
                items.push(value(kind, &Wire::Number(number), depth)?);
            }
        }
        wire => items.push(value(kind, wire, depth)?),
    }
    Ok(())
}

/// One entry of a map: its key is a string, its value of type `kind`.
fn entry(kind: &str, wire: Wire<'_>, depth: usize) -> Result<(String, Value), ProtobufError> {
    let Wire::Bytes(bytes) = wire else { return Err(ProtobufError::malformed()) };
    let (mut key, mut found) = (String::new(), None);
    for part in Parts(bytes) {
        match part? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => found = Some(value(kind, &wire, depth)?),
            _ => {}
        }
    }
    let empty = || match kind {
        "string" | "bytes" => Ok(Value::from("")),
        kind => value(kind, &Wire::Bytes(&[]), depth),
    };
    Ok((key, found.map_or_else(empty, Ok)?))
}

fn value(kind: &str, wire: &Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match (kind, wire) {
        ("string", Wire::Bytes(bytes)) => utf8(bytes)?.into(),
        ("bytes", Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        ("bool", Wire::Number(number)) => (*number != 0).into(),
        // Negative numbers are sign-extended to 64 bits.
        ("int32" | "int64", Wire::Number(number)) => number.cast_signed().into(),
        ("uint32" | "uint64", Wire::Number(number)) => (*number).into(),
        ("double", Wire::Fixed(bits)) => {
            double(f64::from_bits(*bits)).ok_or_else(ProtobufError::unreadable)?
        }
        (name, Wire::Bytes(bytes)) if is_message(name) => message(name, bytes, depth + 1)?,
        _ => return Err(ProtobufError::malformed()),
    })
}

/// Go writes a whole number without a point; JSON has neither infinities nor NaN.
fn double(number: f64) -> Option<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        return Some((number as i64).into());
    }
    Number::from_f64(number).map(Value::Number)
}

/// Types whose JSON is not an object of their fields.
fn special(name: &str, bytes: &[u8], depth: usize) -> Option<Result<Value, ProtobufError>> {
    let (package, short) = name.rsplit_once('.')?;
    let own =
        package.starts_with("k8s.io.apimachinery.") || package.starts_with("k8s.io.apiextensions_apiserver.");
    if !own {
        return None;
    }
    let parts = || Parts(bytes).collect::<Result<Vec<_>, _>>();
    let numbers = || -> Result<BTreeMap<u32, i64>, ProtobufError> {
        let number = |(at, wire)| {
            if let Wire::Number(number) = wire { Some((at, number.cast_signed())) } else { None }
        };
        Ok(parts()?.into_iter().filter_map(number).collect())
    };
    let raw = |wanted: u32| -> Result<Option<&[u8]>, ProtobufError> {
        let bytes = |(at, wire)| {
            if let (true, Wire::Bytes(bytes)) = (at == wanted, wire) { Some(bytes) } else { None }
        };
        Ok(parts()?.into_iter().filter_map(bytes).next_back())
    };
    let bad = ProtobufError::unreadable;
    let json = || match raw(1)? {
        None | Some([]) => Ok(Value::Null),
        Some(bytes) => serde_json::from_slice(bytes).map_err(|_| bad()),
    };
    let time = |micros: bool| {
        let numbers = numbers()?;
        let (Some(seconds), nanos) = (numbers.get(&1), numbers.get(&2).copied().unwrap_or_default()) else {
            return Ok(Value::Null);
        };
        let nanos = i32::try_from(nanos).map_err(|_| bad())?;
        let at = Timestamp::new(*seconds, nanos).map_err(|_| bad())?;
        let format = if micros { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
        Ok(at.strftime(format).to_string().into())
    };
    let child = |at: u32, kind: &str| {
        let kind = format!("{package}.{kind}");
        raw(at)?.map(|bytes| message(&kind, bytes, depth + 1)).transpose()
    };
    Some(match short {
        "Quantity" => raw(1).and_then(|text| utf8(text.unwrap_or(b"0"))).map(Value::from),
        "IntOrString" => numbers().and_then(|numbers| match numbers.get(&1) {
            Some(1) => utf8(raw(3)?.unwrap_or_default()).map(Value::from),
            _ => Ok(numbers.get(&2).copied().unwrap_or_default().into()),
        }),
        "Time" => time(false),
        "MicroTime" => time(true),
        "Duration" => numbers().map(|numbers| {
            let nanos = numbers.get(&1).copied().unwrap_or_default();
            duration::format(SignedDuration::from_nanos(nanos)).into()
        }),
        "RawExtension" | "FieldsV1" | "JSON" => json(),
        "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray" => (|| {
            let schema = |at| child(at, "JSONSchemaProps");
            if short == "JSONSchemaPropsOrBool" {
                return match schema(2)? {
                    Some(schema) => Ok(schema),
                    None => Ok((numbers()?.get(&1) == Some(&1)).into()),
                };
            }
            if let Some(schema) = schema(1)? {
                return Ok(schema);
            }
            let items = parts()?.into_iter().map(|(_, wire)| match (short, wire) {
                ("JSONSchemaPropsOrStringArray", wire) => value("string", &wire, depth),
                (_, Wire::Bytes(bytes)) => message(&format!("{package}.JSONSchemaProps"), bytes, depth + 1),
                _ => Err(bad()),
            });
            items.collect::<Result<Vec<_>, _>>().map(Value::from)
        })(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn encoded(version: &str, kind: &str, fields: &[Vec<u8>]) -> Vec<u8> {
        let meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, &fields.concat())].concat()
    }

    #[test]
    fn an_access_review_is_read() {
        let attributes = [field(1, b"default"), field(2, b"list"), field(5, b"pods"), field(7, b"")].concat();
        let body = encoded(
            "authorization.k8s.io/v1",
            "SelfSubjectAccessReview",
            &[field(1, &[]), field(2, &field(1, &attributes)), field(3, &[0x08, 0])],
        );
        assert_eq!(
            decode(&body).unwrap(),
            json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
                "spec": {"resourceAttributes": {"namespace": "default", "verb": "list", "resource": "pods"}},
                "status": {"allowed": false},
            })
        );
    }

    #[test]
    fn zero_is_kept_where_it_differs_from_absent_and_inlined_structs_dissolve() {
        let port = [
            field(1, b"http"),
            vec![3 << 3, 80],
            field(4, &[[0x08, 1].as_slice(), &field(3, b"web")].concat()),
        ];
        let service = encoded("v1", "Service", &[field(2, &field(1, &port.concat()))]);
        let expected = json!({"name": "http", "port": 80, "targetPort": "web"});
        assert_eq!(decode(&service).unwrap()["spec"]["ports"], json!([expected]));
        let deployment = encoded("apps/v1", "Deployment", &[field(2, &[0x08, 0, 5 << 3, 0])]);
        assert_eq!(
            decode(&deployment).unwrap()["spec"],
            json!({"replicas": 0}),
            "minReadySeconds has no such zero"
        );
        let source = field(2, &field(6, &field(1, b"s")));
        let pod = encoded("v1", "Pod", &[field(2, &field(1, &[field(1, b"v"), source].concat()))]);
        assert_eq!(
            decode(&pod).unwrap()["spec"]["volumes"],
            json!([{"name": "v", "secret": {"secretName": "s"}}])
        );
    }

    #[test]
    fn maps_bytes_and_bare_lists_are_read() {
        let entry = |key: &[u8], value: &[u8]| [field(1, key), field(2, value)].concat();
        let secret = encoded("v1", "Secret", &[field(2, &entry(b"k", b"\xff\x00"))]);
        assert_eq!(decode(&secret).unwrap()["data"], json!({"k": "/wA="}));
        let extra = entry(b"scopes", &[field(1, b"a"), field(1, b"b")].concat());
        let review =
            encoded("authorization.k8s.io/v1", "SubjectAccessReview", &[field(2, &field(5, &extra))]);
        assert_eq!(decode(&review).unwrap()["spec"]["extra"], json!({"scopes": ["a", "b"]}));
    }

    #[test]
    fn options_belong_to_every_group() {
        let body = encoded("apps/v1", "DeleteOptions", &[field(4, b"Foreground")]);
        assert_eq!(decode(&body).unwrap()["propagationPolicy"], "Foreground");
    }

    #[test]
    fn what_is_not_an_object_of_kubernetes_own_is_refused() {
        assert_eq!(decode(b"{}"), Err(ProtobufError::Mark));
        let cut = encoded("v1", "Pod", &[field(2, &field(2, &[0x0a, 100]))]);
        assert_eq!(decode(&cut), Err(ProtobufError::Malformed("spec.containers".into())));
        assert!(matches!(decode(&encoded("v1", "Nothing", &[])), Err(ProtobufError::Kind { .. })));
        assert!(matches!(decode(MAGIC), Err(ProtobufError::Kind { .. })));
        let text = encoded("v1", "ConfigMap", &[field(1, &field(1, b"\xff"))]);
        let refused = decode(&text).unwrap_err();
        assert_eq!(refused.to_string(), "the body has a value that cannot be read at metadata.name");
    }

    #[test]
    fn packed_numbers_are_a_list() {
        let name = "k8s.io.api.core.v1.PodSecurityContext";
        let groups = [field(4, &[1, 0xac, 0x02]), vec![4 << 3, 5]].concat();
        assert_eq!(message(name, &groups, 0).unwrap(), json!({"supplementalGroups": [1, 300, 5]}));
        assert!(message(name, &field(4, &[0x80]), 0).is_err());
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        assert_eq!(double(2.0).unwrap().to_string(), "2");
        assert_eq!(double(-0.5).unwrap().to_string(), "-0.5");
        assert_eq!((double(f64::NAN), double(f64::INFINITY)), (None, None));
    }

    #[test]
    fn nesting_without_end_is_refused() {
        // not: { not: { … } }, each a few bytes around the one before.
        let mut schema = Vec::new();
        for _ in 0..500 {
            let mut length = Vec::new();
            let mut rest = schema.len();
            while rest >= 0x80 {
                length.push((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            length.push(rest as u8);
            schema = [vec![0xe2, 0x01], length, schema].concat();
        }
        let name = "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        assert_eq!(message(name, &schema, 0), Err(ProtobufError::Depth));
    }

    #[test]
    fn every_type_a_message_refers_to_is_known() {
        const SCALARS: [&str; 8] =
            ["string", "bytes", "bool", "int32", "int64", "uint32", "uint64", "double"];
        for (name, fields) in MESSAGES.iter() {
            for Field(_, _, kind, _) in fields {
                assert!(SCALARS.contains(&kind.as_str()) || MESSAGES.contains_key(kind), "{name}: {kind}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_do_any_harm(kind in prop::sample::select(vec!["Pod", "Service", "Node", "Event"]), bytes in any::<Vec<u8>>()) {
            let meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
            let body = [MAGIC.to_vec(), field(1, &meta), field(2, &bytes[..bytes.len().min(120)])].concat();
            drop(decode(&body));
            drop(decode(&bytes));
        }
    }
}
