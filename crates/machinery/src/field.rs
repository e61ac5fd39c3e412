//! Paths of fields and what can be wrong with them, in the words of `k8s.io/apimachinery/pkg/util/validation/field`.

use std::fmt;

use serde_json::{Value, json};

use crate::status::Cause;

/// Where a value stands in an object. A chain on the stack: it costs nothing until a message needs it.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The object itself; shown as Go shows a nil path.
    pub const ROOT: Self = Self { parent: None, step: Step::Root };

    /// A path that starts at the field `name`.
    pub fn new(name: &'a str) -> Self {
        Self { parent: None, step: Step::Field(name) }
    }

    /// `self.name`
    pub fn field<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    /// `self[key]`
    pub fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    /// `self[index]`
    pub fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// Whether this is the object itself.
    pub fn is_root(&self) -> bool {
        matches!(self.step, Step::Root)
    }

    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
        }
        match self.step {
            Step::Root => {}
            Step::Field(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Key(key) => {
                out.push('[');
                out.push_str(key);
                out.push(']');
            }
            Step::Index(index) => {
                out.push('[');
                out.push_str(&index.to_string());
                out.push(']');
            }
        }
    }

    /// The path as text, empty for the root.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            text if text.is_empty() => f.write_str("<nil>"),
            text => f.write_str(&text),
        }
    }
}

fn cause(reason: &'static str, field: impl fmt::Display, message: String) -> Cause {
    Cause { reason, field: field.to_string(), message }
}

/// `What: value: detail`, without the detail where there is none.
fn with_value(what: &str, value: &Value, detail: &str) -> String {
    let shown = show(value);
    if detail.is_empty() { format!("{what}: {shown}") } else { format!("{what}: {shown}: {detail}") }
}

fn with_detail(what: &str, detail: &str) -> String {
    if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
}

/// How many of `what`: `1 item`, `2 items`.
fn count(number: i64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

impl Cause {
    /// A value that must be there is not.
    pub fn required(field: impl fmt::Display, detail: &str) -> Self {
        cause("FieldValueRequired", field, with_detail("Required value", detail))
    }

    /// A value that breaks a rule.
    pub fn invalid(field: impl fmt::Display, value: impl Into<Value>, detail: impl AsRef<str>) -> Self {
        cause("FieldValueInvalid", field, with_value("Invalid value", &value.into(), detail.as_ref()))
    }

    /// A value of the wrong type.
    pub fn type_invalid(field: impl fmt::Display, value: impl Into<Value>, detail: impl AsRef<str>) -> Self {
        cause("FieldValueTypeInvalid", field, with_value("Invalid value", &value.into(), detail.as_ref()))
    }

    /// A value that is none of `supported`.
    pub fn not_supported<S: AsRef<str>>(
        field: impl fmt::Display,
        value: impl Into<Value>,
        supported: impl IntoIterator<Item = S>,
    ) -> Self {
        let supported: Vec<String> = supported.into_iter().map(|s| quote(s.as_ref())).collect();
        let detail = match supported.as_slice() {
            [] => String::new(),
            some => format!("supported values: {}", some.join(", ")),
        };
        cause("FieldValueNotSupported", field, with_value("Unsupported value", &value.into(), &detail))
    }

    /// A value that appears twice where it may appear once.
    pub fn duplicate(field: impl fmt::Display, value: impl Into<Value>) -> Self {
        cause("FieldValueDuplicate", field, with_value("Duplicate value", &value.into(), ""))
    }

    /// A value that refers to something that does not exist.
    pub fn not_found(field: impl fmt::Display, value: impl Into<Value>) -> Self {
        cause("FieldValueNotFound", field, with_value("Not found", &value.into(), ""))
    }

    /// A value that is not allowed here.
    pub fn forbidden(field: impl fmt::Display, detail: &str) -> Self {
        cause("FieldValueForbidden", field, with_detail("Forbidden", detail))
    }

    /// A text of more than `max` bytes.
    pub fn too_long(field: impl fmt::Display, max: i64) -> Self {
        let detail = format!("may not be more than {}", count(max, "byte"));
        cause("FieldValueTooLong", field, with_detail("Too long", &detail))
    }

    /// `actual` items where at most `max` are allowed.
    pub fn too_many(field: impl fmt::Display, actual: i64, max: i64) -> Self {
        let detail = format!("must have at most {}", count(max, "item"));
        cause("FieldValueTooMany", field, with_value("Too many", &json!(actual), &detail))
    }
}

/// A value in a message: text as Go's `%q`, everything else as JSON.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Number(number) => show_number(number),
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

/// A number as Go's `%v` writes it: integers plainly, floats as `%g`.
pub fn show_number(number: &serde_json::Number) -> String {
    match (number.as_i64(), number.as_f64()) {
        (Some(integer), _) => integer.to_string(),
        (None, Some(float)) => show_float(float),
        (None, None) => number.to_string(),
    }
}

/// Go's `%v` of a `float64`: the shortest digits, with an exponent below 1e-4 and from 1e6 on.
pub fn show_float(float: f64) -> String {
    let scientific = format!("{float:e}");
    let exponent = scientific.split_once('e').and_then(|(_, e)| e.parse::<i32>().ok()).unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return format!("{float}");
    }
    let mantissa = scientific.split('e').next().unwrap_or_default();
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Text as Go's `strconv.Quote` writes it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_kubernetes_writes_it() {
        let spec = Path::new("spec");
        let containers = spec.field("containers");
        let first = containers.index(0);
        assert_eq!(first.field("name").to_string(), "spec.containers[0].name");
        assert_eq!(spec.field("labels").key("a.b/c").to_string(), "spec.labels[a.b/c]");
        assert_eq!(Path::ROOT.field("spec").to_string(), "spec");
        assert_eq!(Path::ROOT.to_string(), "<nil>");
    }

    #[test]
    fn a_cause_is_worded_as_kubernetes_words_it() {
        let message = |cause: Cause| format!("{} {}", cause.field, cause.message);
        assert_eq!(message(Cause::required("a", "")), "a Required value");
        assert_eq!(message(Cause::invalid("a", "x\n", "no")), "a Invalid value: \"x\\n\": no");
        assert_eq!(message(Cause::invalid("a", 1.5, "no")), "a Invalid value: 1.5: no");
        assert_eq!(message(Cause::duplicate("a", json!({"k": 1}))), "a Duplicate value: {\"k\":1}");
        let unsupported = Cause::not_supported("a", "x", ["b", "c"]);
        assert_eq!(message(unsupported), "a Unsupported value: \"x\": supported values: \"b\", \"c\"");
        assert_eq!(message(Cause::too_long("a", 1)), "a Too long: may not be more than 1 byte");
        assert_eq!(message(Cause::too_many("a", 3, 2)), "a Too many: 3: must have at most 2 items");
    }

    #[test]
    fn floats_are_written_as_go_writes_them() {
        for (float, text) in [
            (1.5, "1.5"),
            (0.0, "0"),
            (100_000.0, "100000"),
            (1e6, "1e+06"),
            (0.00001, "1e-05"),
            (-2.5e30, "-2.5e+30"),
        ] {
            assert_eq!(show_float(float), text);
        }
    }
}
