//! Request bodies: which format, read into JSON with duplicate fields told.

use std::fmt;

use hansa_machinery::{Status, protobuf};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The nesting a document may have. Kubernetes' own types stay far below.
const MAX_DEPTH: usize = 100;

/// The formats of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    /// The format a `Content-Type` names; JSON if there is none. Custom resources have no protobuf.
    pub(crate) fn of(content_type: &str, custom: bool) -> Result<Self, Status> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        match media_type.to_ascii_lowercase().as_str() {
            "" | "application/json" | "*/*" => Ok(Self::Json),
            "application/yaml" => Ok(Self::Yaml),
            "application/vnd.kubernetes.protobuf" if !custom => Ok(Self::Protobuf),
            _ => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, \
                 application/yaml{}",
                if custom { "" } else { ", application/vnd.kubernetes.protobuf" }
            ))),
        }
    }
}

/// A document and the paths of the fields it gives twice.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) value: Value,
    pub(crate) duplicates: Vec<String>,
}

/// Reads a document. The error says what is wrong with it in the parser's words.
pub(crate) fn parse(format: Format, bytes: &[u8]) -> Result<Document, String> {
    let mut duplicates = Vec::new();
    let seed = Seed { path: String::new(), depth: 0, duplicates: &mut duplicates };
    let value = match format {
        Format::Json => {
            let mut reader = serde_json::Deserializer::from_slice(bytes);
            let value = seed.deserialize(&mut reader).map_err(|e| e.to_string())?;
            reader.end().map_err(|e| e.to_string())?;
            value
        }
        Format::Protobuf => protobuf::decode(bytes).map_err(|e| e.to_string())?,
        Format::Yaml => {
            let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
            let value: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
            if depth_exceeds(&value, MAX_DEPTH) {
                return Err("the document is nested too deeply".into());
            }
            value
        }
    };
    Ok(Document { value, duplicates })
}

fn depth_exceeds(value: &Value, left: usize) -> bool {
    match value {
        _ if left == 0 => true,
        Value::Array(items) => items.iter().any(|v| depth_exceeds(v, left - 1)),
        Value::Object(map) => map.values().any(|v| depth_exceeds(v, left - 1)),
        _ => false,
    }
}

struct Seed<'a> {
    path: String,
    depth: usize,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let depth = deeper::<A::Error>(self.depth)?;
        let mut items = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, items.len());
            match access.next_element_seed(Seed { path, depth, duplicates: &mut *self.duplicates })? {
                Some(item) => items.push(item),
                None => return Ok(items.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let depth = deeper::<A::Error>(self.depth)?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let value = access.next_value_seed(Seed {
                path: path.clone(),
                depth,
                duplicates: &mut *self.duplicates,
            })?;
            if map.insert(key, value).is_some() {
                self.duplicates.push(path);
            }
        }
        Ok(map.into())
    }
}

fn deeper<E: serde::de::Error>(depth: usize) -> Result<usize, E> {
    if depth >= MAX_DEPTH { Err(E::custom("the document is nested too deeply")) } else { Ok(depth + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_fields_are_told_and_the_last_one_wins() {
        let document = parse(Format::Json, br#"{"a":{"b":1,"b":2},"c":[{"d":1,"d":1}]}"#).expect("valid");
        assert_eq!(document.value["a"]["b"], 2);
        assert_eq!(document.duplicates, ["a.b", "c[0].d"]);
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for bad in ["", "{", "{\"a\":}", "{} {}", "nul"] {
            assert!(parse(Format::Json, bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse(Format::Yaml, b"a: [").is_err());
        assert!(
            parse(Format::Json, format!("{}1{}", "[".repeat(5000), "]".repeat(5000)).as_bytes()).is_err()
        );
    }

    #[test]
    fn custom_resources_have_no_protobuf() {
        let protobuf = "application/vnd.kubernetes.protobuf";
        assert_eq!(Format::of(protobuf, false), Ok(Format::Protobuf));
        let refused = Format::of(protobuf, true).expect_err("refused");
        assert_eq!(refused.code, 415);
        assert!(refused.message.ends_with("application/json, application/yaml"), "{}", refused.message);
    }

    #[test]
    fn yaml_is_read_as_json() {
        let document = parse(Format::Yaml, b"a: 1\nb: [x, \"2\", true, null]\n").expect("valid");
        assert_eq!(document.value, serde_json::json!({"a": 1, "b": ["x", "2", true, null]}));
    }
}
