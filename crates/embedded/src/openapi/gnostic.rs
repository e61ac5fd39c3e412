//! The v2 document as protobuf: gnostic's `openapi.v2.Document`, the only form in which kubectl reads it.
//!
//! The field numbers are those of gnostic's `OpenAPIv2.proto`. Paths stay out: kubectl asks them only for what `/openapi/v3`
//! tells it first.

use serde_json::{Map, Value};

/// A message being written in protobuf's wire format (<https://protobuf.dev/programming-guides/encoding/>).
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    fn integer(&mut self, field: u64, number: u64) {
        self.varint(field << 3);
        self.varint(number);
    }

    fn double(&mut self, field: u64, number: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(number.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }
}

/// Encodes a v2 document that is given as JSON.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.bytes(1, text(&document["swagger"]));
    let mut info = Message::default();
    info.bytes(1, text(&document["info"]["title"]));
    info.bytes(2, text(&document["info"]["version"]));
    out.message(2, &info);
    out.message(8, &Message::default());
    if let Value::Object(definitions) = &document["definitions"] {
        out.message(9, &named(definitions));
    }
    out.0
}

/// The same bytes of a text; what is no text is empty.
fn text(value: &Value) -> &[u8] {
    value.as_str().unwrap_or_default().as_bytes()
}

/// `Definitions` and `Properties`: a repeated `NamedSchema`.
fn named(schemas: &Map<String, Value>) -> Message {
    let mut out = Message::default();
    for (name, value) in schemas {
        let mut entry = Message::default();
        entry.bytes(1, name.as_bytes());
        entry.message(2, &schema(value));
        out.message(1, &entry);
    }
    out
}

/// `Any`: a value as YAML, of which JSON is a part.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, value.to_string().as_bytes());
    out
}

/// One schema. Its depth is that of a parsed document, which the parser bounds.
fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    for (key, value) in value.as_object().into_iter().flatten() {
        match key.as_str() {
            "$ref" => out.bytes(1, text(value)),
            "format" => out.bytes(2, text(value)),
            "title" => out.bytes(3, text(value)),
            "description" => out.bytes(4, text(value)),
            "default" => out.message(5, &any(value)),
            "multipleOf" => double(&mut out, 6, value),
            "maximum" => double(&mut out, 7, value),
            "exclusiveMaximum" => boolean(&mut out, 8, value),
            "minimum" => double(&mut out, 9, value),
            "exclusiveMinimum" => boolean(&mut out, 10, value),
            "maxLength" => integer(&mut out, 11, value),
            "minLength" => integer(&mut out, 12, value),
            "pattern" => out.bytes(13, text(value)),
            "maxItems" => integer(&mut out, 14, value),
            "minItems" => integer(&mut out, 15, value),
            "uniqueItems" => boolean(&mut out, 16, value),
            "maxProperties" => integer(&mut out, 17, value),
            "minProperties" => integer(&mut out, 18, value),
            "required" => list(value).for_each(|name| out.bytes(19, text(name))),
            "enum" => list(value).for_each(|value| out.message(20, &any(value))),
            "additionalProperties" => {
                let mut item = Message::default();
                match value {
                    Value::Bool(allowed) => item.integer(2, u64::from(*allowed)),
                    of => item.message(1, &schema(of)),
                }
                out.message(21, &item);
            }
            "type" => {
                let mut item = Message::default();
                item.bytes(1, text(value));
                out.message(22, &item);
            }
            "items" => {
                let mut item = Message::default();
                item.message(1, &schema(value));
                out.message(23, &item);
            }
            "allOf" => list(value).for_each(|value| out.message(24, &schema(value))),
            // An empty message would say "an object without any field".
            "properties" => {
                if let Some(properties) = value.as_object().filter(|p| !p.is_empty()) {
                    out.message(25, &named(properties));
                }
            }
            extension if extension.starts_with("x-") => {
                let mut item = Message::default();
                item.bytes(1, extension.as_bytes());
                item.message(2, &any(value));
                out.message(31, &item);
            }
            _ => {}
        }
    }
    out
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn double(out: &mut Message, field: u64, value: &Value) {
    if let Some(number) = value.as_f64() {
        out.double(field, number);
    }
}

fn integer(out: &mut Message, field: u64, value: &Value) {
    if let Some(number) = value.as_u64() {
        out.integer(field, number);
    }
}

fn boolean(out: &mut Message, field: u64, value: &Value) {
    if let Some(flag) = value.as_bool() {
        out.integer(field, u64::from(flag));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_written_as_gnostic_reads_it() {
        let document = json!({
            "swagger": "2.0", "info": {"title": "K", "version": "v1"},
            "definitions": {"a": {"type": "object", "x-b": true}},
        });
        let schema =
            [b"\xb2\x01\x08\x0a\x06object".as_slice(), b"\xfa\x01\x0d\x0a\x03x-b\x12\x06\x12\x04true"]
                .concat();
        assert_eq!(schema.len(), 27);
        let wanted = [
            b"\x0a\x032.0\x12\x07\x0a\x01K\x12\x02v1\x42\x00".as_slice(),
            b"\x4a\x22\x0a\x20\x0a\x01a\x12\x1b",
            &schema,
        ];
        assert_eq!(encode(&document), wanted.concat());
    }

    #[test]
    fn long_texts_and_numbers_have_their_lengths() {
        let mut message = Message::default();
        message.integer(31, 300);
        message.double(7, 1.0);
        assert_eq!(message.0, b"\xf8\x01\xac\x02\x39\0\0\0\0\0\0\xf0\x3f");
        let description = "d".repeat(200);
        let encoded = schema(&json!({"description": description, "properties": {}}));
        assert_eq!(encoded.0, [b"\x22\xc8\x01", description.as_bytes()].concat());
    }
}
