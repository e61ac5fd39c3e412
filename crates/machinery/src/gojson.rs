//! JSON exactly as Go's `encoding/json` writes it.
//!
//! `PropagatedVersion` holds MD5 sums of such text and other programs compute them again (`spec/kubefed.md` §0.1), so
//! every byte counts: keys sorted by bytes, no spaces, HTML characters and line separators escaped, floats in Go's form.

use std::fmt::Write;

use md5::{Digest, Md5};
use serde_json::{Number, Value};

/// The text of `value` as Go's `json.Marshal` writes it.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

/// The lower-case hexadecimal MD5 sum of the text and a newline, as `json.Encoder` writes it: KubeFed's version hash
/// (`spec/kubefed.md` §2.5).
pub fn md5_hex(value: &Value) -> String {
    let mut text = to_string(value);
    text.push('\n');
    Md5::digest(text.as_bytes()).iter().fold(String::with_capacity(32), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The value with every number turned into a float64, as Go decodes JSON into an `interface{}`: what KubeFed does with
/// the values of overrides (`spec/kubefed.md` §0.2).
pub fn through_float64(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(items) => items.into_iter().map(through_float64).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key, through_float64(value))).collect()
        }
        other => other,
    }
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            // Sorted here as well, because a dependency may switch serde_json to insertion order.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| key.as_bytes());
            out.push('{');
            for (index, (key, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(out, key);
                out.push(':');
                write_value(out, value);
            }
            out.push('}');
        }
    }
}

fn write_number(out: &mut String, number: &Number) {
    match number.as_f64() {
        Some(float) if number.is_f64() => out.push_str(&json_float(float)),
        _ => {
            let _ = write!(out, "{number}");
        }
    }
}

/// The shortest text of a float as `encoding/json` has it: an exponent only below 1e-6 and from 1e21 on.
fn json_float(float: f64) -> String {
    match exponent_form(float) {
        Some((mantissa, exponent)) if !(-6..21).contains(&exponent) => format!("{mantissa}e{exponent:+}"),
        _ => float.to_string(),
    }
}

/// The text of a float as Go's `fmt` prints it (`%v`): an exponent of two digits below 1e-4 and from 1e6 on.
pub(crate) fn printed_float(float: f64) -> String {
    match exponent_form(float) {
        Some((mantissa, exponent)) if !(-4..6).contains(&exponent) => format!("{mantissa}e{exponent:+03}"),
        _ => float.to_string(),
    }
}

/// The shortest digits of a float and its decimal exponent.
fn exponent_form(float: f64) -> Option<(String, i32)> {
    let text = format!("{float:e}");
    let (mantissa, exponent) = text.split_once('e')?;
    Some((mantissa.to_owned(), exponent.parse().ok()?))
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(char));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hashes_are_those_of_kubefed() {
        let vectors = [
            (json!({"spec": {"foo": null}}), "a5b8d4352d5aed51c51b93900258ccf3"),
            (json!({}), "8a80554c91d9fca8acb82f023de02f11"),
            (json!({"data": {"foo": "bar"}}), "4682012eb72f035cfe2b227efe7ca8c8"),
            (json!({"overrides": null}), "2979b7538b527abe06492021841caf47"),
            (
                json!({"overrides": [{"clusterName": "c1", "clusterOverrides": [{"path": "/data", "value": {"foo": "baz"}}]}]}),
                "e32ea1ae695d85e0d5dd5ffe2ada9feb",
            ),
        ];
        for (value, hash) in vectors {
            assert_eq!(md5_hex(&value), hash, "{value}");
        }
    }

    #[test]
    fn floats_have_the_form_of_go() {
        let vectors = [
            (1.0, "1"),
            (-0.0, "-0"),
            (0.5, "0.5"),
            (0.000001, "0.000001"),
            (0.00000123, "0.00000123"),
            (1e-7, "1e-7"),
            (-1.25e-10, "-1.25e-10"),
            (1e20, "100000000000000000000"),
            (123456789012345680000.0, "123456789012345680000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
        ];
        for (float, text) in vectors {
            assert_eq!(to_string(&json!(float)), text);
        }
        assert_eq!(to_string(&json!([u64::MAX, i64::MIN])), "[18446744073709551615,-9223372036854775808]");
        assert_eq!(
            to_string(&through_float64(json!({"n": 9007199254740993_u64}))),
            r#"{"n":9007199254740992}"#
        );
    }

    #[test]
    fn text_is_escaped_for_html_and_scripts() {
        let value =
            json!({"b<": "a>&\u{2028}\u{2029}\u{7f}é\u{1}\u{8}\u{c}\n\r\t\"\\/", "a": [true, null, {}]});
        let text = "{\"a\":[true,null,{}],\"b\\u003c\":\"a\\u003e\\u0026\\u2028\\u2029\u{7f}é\\u0001\\b\\f\\n\\r\\t\\\"\\\\/\"}";
        assert_eq!(to_string(&value), text);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // Few digits: serde_json reads longer fractions exactly only with its feature `float_roundtrip`.
            any::<i16>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    /// Integral floats lose their fraction, so numbers are compared by what they mean.
    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|b| same(v, b)))
            }
            (a, b) => a == b,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn floats_lose_nothing(float in any::<f64>().prop_filter("JSON has finite numbers only", |f| f.is_finite())) {
            prop_assert_eq!(to_string(&json!(float)).parse(), Ok(float));
            prop_assert_eq!(printed_float(float).parse(), Ok(float));
        }

        #[test]
        fn what_is_written_reads_back(value in any_json()) {
            let text = to_string(&value);
            let back: Value = serde_json::from_str(&text).unwrap();
            prop_assert!(same(&value, &back), "{value} became {text}");
            prop_assert_eq!(to_string(&back), text);
        }
    }
}
