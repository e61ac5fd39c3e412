//! The JSONPath dialect of Kubernetes, as printer columns and scale paths use it: `.spec.replicas`,
//! `.metadata.labels['example\.com/x']`, `.status.conditions[?(@.type=="Ready")].status`, `[*]`, `[0]`, `[1:3]`, `..`.
//!
//! Templates (`range`, text between braces) belong to kubectl and lead nowhere.

use serde_json::{Number, Value};

use crate::gojson;

/// The longest path.
const MAX_LENGTH: usize = 2048;
/// The deepest nesting of filters and unions.
const MAX_DEPTH: usize = 8;
/// The most values looked at on the way.
const MAX_RESULTS: usize = 10_000;

/// Why a path cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPathError {
    /// It is not written as one.
    #[error("invalid JSONPath: {0}")]
    Syntax(String),
    /// It does not fit the value.
    #[error("{0}")]
    Evaluation(String),
}

fn syntax<T>(message: impl Into<String>) -> Result<T, JsonPathError> {
    Err(JsonPathError::Syntax(message.into()))
}

fn mismatch<T>(message: impl Into<String>) -> Result<T, JsonPathError> {
    Err(JsonPathError::Evaluation(message.into()))
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Field(String),
    Wildcard,
    Recursive,
    Slice {
        start: Option<i64>,
        end: Option<i64>,
        step: Option<i64>,
        single: bool,
    },
    Union(Vec<Vec<Node>>),
    Exists(Vec<Node>),
    Compare(Vec<Node>, Comparison, Vec<Node>),
    Literal(Value),
    /// A word of kubectl's templates, which means nothing in a path.
    Word(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    nodes: Vec<Node>,
}

impl JsonPath {
    /// Reads a path, with or without the braces around it.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        if text.len() > MAX_LENGTH {
            return syntax(format!("longer than {MAX_LENGTH} bytes"));
        }
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        Ok(Self { nodes: parse(inner, 0)? })
    }

    /// Every value the path leads to. Missing fields lead nowhere; a step that does not fit its value is an error.
    pub fn find<'a>(&'a self, root: &'a Value) -> Result<Vec<&'a Value>, JsonPathError> {
        walk(&self.nodes, vec![root])
    }

    /// The first value the path leads to, if it leads anywhere.
    pub fn first<'a>(&'a self, root: &'a Value) -> Option<&'a Value> {
        self.find(root).ok()?.first().copied()
    }

    /// The field names of a path that has nothing else, as `scale` and `selectableFields` demand.
    pub fn simple(&self) -> Option<Vec<&str>> {
        let name = |node: &'_ Node| matches!(node, Node::Field(_));
        if !self.nodes.iter().all(name) {
            return None;
        }
        let names = self.nodes.iter().filter_map(|node| match node {
            Node::Field(name) => Some(name.as_str()),
            _ => None,
        });
        Some(names.collect())
    }

    /// Writes `value` where a simple path points, making the objects on the way (`scale` writes `spec.replicas` so).
    pub fn set(&self, root: &mut Value, value: Value) -> Result<(), JsonPathError> {
        let names = self
            .simple()
            .ok_or_else(|| JsonPathError::Evaluation("only a path of plain fields can be written".into()))?;
        let mut place = root;
        for name in names {
            if place.is_null() {
                *place = Value::Object(serde_json::Map::new());
            }
            let Value::Object(fields) = place else {
                return mismatch(format!("the parent of {name:?} is not an object"));
            };
            place = fields.entry(name).or_insert(Value::Null);
        }
        *place = value;
        Ok(())
    }
}

/// The text kubectl and the API server print for a value: bare for scalars, JSON for the others.
pub fn print(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => gojson::printed_float(float),
            _ => number.to_string(),
        },
        Value::Array(_) | Value::Object(_) => gojson::to_string(value),
    }
}

/// Whether a character ends a field name.
fn ends_name(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

fn parse(text: &str, depth: usize) -> Result<Vec<Node>, JsonPathError> {
    if depth > MAX_DEPTH {
        return syntax(format!("nested deeper than {MAX_DEPTH}"));
    }
    let mut nodes = Vec::new();
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let after = &rest[char.len_utf8()..];
        rest = match char {
            ' ' | '@' | '$' => after,
            '[' if after.starts_with("?(") => filter(&after[2..], &mut nodes, depth)?,
            '[' => brackets(after, &mut nodes, depth)?,
            '.' if after.starts_with('.') => {
                if nodes.last() == Some(&Node::Recursive) {
                    return syntax("invalid multiple recursive descent");
                }
                nodes.push(Node::Recursive);
                let after = &after[1..];
                if after.starts_with(|c: char| c == '_' || c.is_alphanumeric()) {
                    field(after, &mut nodes)
                } else {
                    after
                }
            }
            '.' => field(after, &mut nodes),
            '"' | '\'' => {
                let (literal, after) = quoted(after, char)?;
                nodes.push(Node::Literal(literal.into()));
                after
            }
            '+' | '-' | '0'..='9' => {
                let end = after.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(after.len());
                let (number, after) = rest.split_at(end + 1);
                nodes.push(Node::Literal(number_literal(number)?));
                after
            }
            _ if char == '_' || char.is_alphanumeric() => {
                let end = rest.find(ends_name).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                match word {
                    "true" | "false" => nodes.push(Node::Literal((word == "true").into())),
                    _ => nodes.push(Node::Word(word.into())),
                }
                after
            }
            _ => return syntax(format!("unrecognized character {char:?}")),
        };
    }
    Ok(nodes)
}

fn number_literal(text: &str) -> Result<Value, JsonPathError> {
    if let Ok(integer) = text.parse::<i64>() {
        return Ok(integer.into());
    }
    let float = text.parse::<f64>().ok().and_then(Number::from_f64);
    float.map(Value::Number).ok_or_else(|| JsonPathError::Syntax(format!("cannot parse number {text}")))
}

/// Reads a field name, in which a backslash takes the meaning from the character after it.
fn field<'a>(text: &'a str, nodes: &mut Vec<Node>) -> &'a str {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    let mut plain = true;
    while let Some((index, char)) = chars.next() {
        if char == '\\' {
            plain = false;
            // A backslash itself is dropped even when escaped, as in Kubernetes.
            name.extend(chars.next().map(|(_, escaped)| escaped).filter(|escaped| *escaped != '\\'));
        } else if ends_name(char) {
            end = index;
            break;
        } else {
            name.push(char);
        }
    }
    nodes.push(if plain && name == "*" { Node::Wildcard } else { Node::Field(name) });
    &text[end..]
}

fn quoted(text: &str, quote: char) -> Result<(String, &str), JsonPathError> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((index, char)) = chars.next() {
        match char {
            _ if char == quote => return Ok((out, &text[index + 1..])),
            '\n' => break,
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, escaped)) if escaped == quote || escaped == '\\' => out.push(escaped),
                _ => return syntax("invalid escape in a quoted string"),
            },
            other => out.push(other),
        }
    }
    syntax("unterminated quoted string")
}

/// `[…]` after its opening bracket: an index, a slice, a wildcard, a quoted key, or a union of them.
fn brackets<'a>(text: &'a str, nodes: &mut Vec<Node>, depth: usize) -> Result<&'a str, JsonPathError> {
    let Some((inner, rest)) = text.split_once(']').filter(|(inner, _)| !inner.contains('\n')) else {
        return syntax("unterminated array");
    };
    if inner.contains(',') {
        let alternatives =
            inner.split(',').map(|part| parse(&format!("[{}]", part.trim_matches(' ')), depth + 1));
        nodes.push(Node::Union(alternatives.collect::<Result<_, _>>()?));
        return Ok(rest);
    }
    if let Some(key) = inner.strip_prefix('\'').and_then(|key| key.strip_suffix('\'')) {
        if key.contains('\'') {
            return syntax(format!("invalid array index {inner}"));
        }
        nodes.extend(parse(&format!(".{key}"), depth + 1)?);
        return Ok(rest);
    }
    nodes.push(slice(inner)?);
    Ok(rest)
}

fn slice(text: &str) -> Result<Node, JsonPathError> {
    let text = if text == "*" { ":" } else { text };
    let number = |part: &str| -> Result<Option<i64>, JsonPathError> {
        let digits = part.strip_prefix('-').unwrap_or(part);
        match part {
            "" => Ok(None),
            _ if digits.chars().all(|c| c.is_ascii_digit()) => {
                part.parse().map(Some).or_else(|_| syntax(format!("array index {part} is not a number")))
            }
            _ => syntax(format!("invalid array index {text}")),
        }
    };
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [start] => Ok(Node::Slice { start: number(start)?, end: None, step: None, single: true }),
        [start, end] => {
            Ok(Node::Slice { start: number(start)?, end: number(end)?, step: None, single: false })
        }
        [start, end, step] => {
            Ok(Node::Slice { start: number(start)?, end: number(end)?, step: number(step)?, single: false })
        }
        _ => syntax(format!("invalid array index {text}")),
    }
}

/// `[?(…)]` after `[?(`.
fn filter<'a>(text: &'a str, nodes: &mut Vec<Node>, depth: usize) -> Result<&'a str, JsonPathError> {
    let mut quote = None;
    let mut escaped = false;
    let mut end = None;
    for (index, char) in text.char_indices() {
        match (char, quote) {
            ('\n', _) => return syntax("unterminated filter"),
            ('"' | '\'', None) => quote = Some(char),
            (_, Some(open)) if char == open && !escaped => quote = None,
            (')', None) => {
                end = Some(index);
                break;
            }
            _ => {}
        }
        escaped = char == '\\';
    }
    let Some(end) = end else { return syntax("unterminated filter") };
    let (inner, rest) = (&text[..end], &text[end + 1..]);
    let Some(rest) = rest.strip_prefix(']') else { return syntax("unclosed array expect ]") };

    let is_operator = |c: char| "!<>=".contains(c);
    let operands = inner.find(is_operator).filter(|at| *at > 0).and_then(|at| {
        let (left, tail) = inner.split_at(at);
        let length = tail.find(|c| !is_operator(c))?;
        Some((left, &tail[..length], &tail[length..]))
    });
    nodes.push(match operands {
        None => Node::Exists(parse(inner, depth + 1)?),
        Some((left, operator, right)) => {
            let comparison = match operator {
                "==" => Comparison::Equal,
                "!=" => Comparison::NotEqual,
                "<" => Comparison::Less,
                "<=" => Comparison::LessOrEqual,
                ">" => Comparison::Greater,
                ">=" => Comparison::GreaterOrEqual,
                _ => return syntax(format!("unrecognized filter operator {operator}")),
            };
            Node::Compare(parse(left, depth + 1)?, comparison, parse(right, depth + 1)?)
        }
    });
    Ok(rest)
}

fn walk<'a>(nodes: &'a [Node], start: Vec<&'a Value>) -> Result<Vec<&'a Value>, JsonPathError> {
    nodes.iter().try_fold(start, |values, node| {
        let values = step(node, values)?;
        if values.len() > MAX_RESULTS {
            mismatch(format!("more than {MAX_RESULTS} values"))
        } else {
            Ok(values)
        }
    })
}

fn step<'a>(node: &'a Node, values: Vec<&'a Value>) -> Result<Vec<&'a Value>, JsonPathError> {
    let mut found = Vec::new();
    match node {
        Node::Literal(literal @ Value::String(_)) => found.push(literal),
        Node::Literal(literal) => found.extend(values.iter().map(|_| literal)),
        Node::Word(word) => return mismatch(format!("unrecognized identifier {word}")),
        Node::Field(name) => {
            found.extend(values.into_iter().filter_map(|value| value.as_object()?.get(name)))
        }
        Node::Wildcard => values.into_iter().for_each(|value| found.extend(children(value))),
        Node::Recursive => {
            let mut pending: Vec<&Value> = values.into_iter().rev().collect();
            while let Some(value) = pending.pop() {
                let inner: Vec<&Value> = children(value).collect();
                // Text counts as a container, of its bytes.
                if !inner.is_empty() || value.as_str().is_some_and(|text| !text.is_empty()) {
                    found.push(value);
                    pending.extend(inner.into_iter().rev());
                }
                if found.len() + pending.len() > MAX_RESULTS {
                    return mismatch(format!("more than {MAX_RESULTS} values"));
                }
            }
        }
        Node::Slice { start, end, step, single } => {
            for value in values.into_iter().filter(|value| !value.is_null()) {
                let Value::Array(items) = value else { return mismatch("an index needs a list") };
                found.extend(sliced(items, *start, *end, *step, *single)?);
            }
        }
        Node::Union(alternatives) => {
            for alternative in alternatives {
                found.extend(walk(alternative, values.clone())?);
            }
        }
        Node::Exists(path) => {
            for item in filtered(values)? {
                if walk(path, vec![item]).is_ok_and(|values| !values.is_empty()) {
                    found.push(item);
                }
            }
        }
        Node::Compare(left, comparison, right) => {
            for item in filtered(values)? {
                let (left, right) = (walk(left, vec![item])?, walk(right, vec![item])?);
                match (left.as_slice(), right.as_slice()) {
                    ([], _) | (_, []) => {}
                    ([left], [right]) => {
                        if compare(left, *comparison, right)? {
                            found.push(item);
                        }
                    }
                    _ => return mismatch("can only compare one element at a time"),
                }
            }
        }
    }
    Ok(found)
}

fn children(value: &Value) -> impl Iterator<Item = &Value> {
    let members = value.as_object().into_iter().flat_map(|fields| fields.values());
    members.chain(value.as_array().into_iter().flatten())
}

fn filtered(values: Vec<&Value>) -> Result<Vec<&Value>, JsonPathError> {
    let mut items = Vec::new();
    for value in values {
        let Value::Array(list) = value else { return mismatch("only a list can be filtered") };
        items.extend(list);
    }
    Ok(items)
}

fn sliced(
    items: &[Value],
    start: Option<i64>,
    end: Option<i64>,
    step: Option<i64>,
    single: bool,
) -> Result<impl Iterator<Item = &Value>, JsonPathError> {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let first = start.unwrap_or(0);
    // [-1] is the last item, whose end is that of the list.
    let last = if single { first.saturating_add(1) } else { end.unwrap_or(length) };
    let first = if first < 0 { first.saturating_add(length) } else { first };
    let last = if last < 0 || (last == 0 && single) { last.saturating_add(length) } else { last };
    let range = if first == last {
        0..0
    } else {
        match (usize::try_from(first), usize::try_from(last)) {
            (Ok(from), Ok(to)) if from < items.len() && to <= items.len() && from <= to => from..to,
            _ => return mismatch(format!("array index out of bounds: [{first}:{last}] of {length}")),
        }
    };
    let Some(step) = usize::try_from(step.unwrap_or(1)).ok().filter(|step| *step > 0) else {
        return mismatch("step must be > 0");
    };
    Ok(items[range].iter().step_by(step))
}

/// Compares as Go templates do: only values of one kind, and an integer and a float are two.
fn compare(left: &Value, comparison: Comparison, right: &Value) -> Result<bool, JsonPathError> {
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => left.partial_cmp(right),
        (Value::Bool(left), Value::Bool(right)) => {
            return match comparison {
                Comparison::Equal => Ok(left == right),
                Comparison::NotEqual => Ok(left != right),
                _ => mismatch("invalid type for comparison"),
            };
        }
        (Value::Number(left), Value::Number(right)) if left.is_f64() == right.is_f64() => {
            match (left.as_i64(), right.as_i64()) {
                (Some(left), Some(right)) => left.partial_cmp(&right),
                _ => left.as_f64().partial_cmp(&right.as_f64()),
            }
        }
        _ => return mismatch("incompatible types for comparison"),
    };
    Ok(match comparison {
        Comparison::Equal => order.is_some_and(|o| o.is_eq()),
        Comparison::NotEqual => !order.is_some_and(|o| o.is_eq()),
        Comparison::Less => order.is_some_and(|o| o.is_lt()),
        Comparison::LessOrEqual => order.is_some_and(|o| o.is_le()),
        Comparison::Greater => order.is_some_and(|o| o.is_gt()),
        Comparison::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object() -> Value {
        json!({
            "metadata": {"name": "x", "labels": {"a.b/c": "dotted", "plain": "p"}},
            "spec": {"replicas": 3, "ratio": 0.5, "on": true, "none": null, "list": [10, 20, 30, 40]},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "weight": 1}, {"type": "Synced", "status": "False", "weight": 2}]},
        })
    }

    fn found(path: &str) -> Result<Value, JsonPathError> {
        let object = object();
        let path = JsonPath::parse(path)?;
        Ok(path.find(&object)?.into_iter().cloned().collect())
    }

    #[test]
    fn paths_lead_where_kubernetes_says() {
        let cases = [
            (".metadata.name", json!(["x"])),
            ("{.metadata.name}", json!(["x"])),
            ("$.metadata.name", json!(["x"])),
            (r".metadata.labels.a\.b/c", json!(["dotted"])),
            (r".metadata.labels['a\.b/c']", json!(["dotted"])),
            (".metadata.labels['plain']", json!(["p"])),
            (".metadata['labels', 'name']", json!([{"a.b/c": "dotted", "plain": "p"}, "x"])),
            (".metadata.labels.*", json!(["dotted", "p"])),
            (".spec.absent.deeper", json!([])),
            (".spec.none", json!([null])),
            (".spec.none.deeper", json!([])),
            (".spec.list[0]", json!([10])),
            (".spec.list[-1]", json!([40])),
            (".spec.list[1:3]", json!([20, 30])),
            (".spec.list[1:]", json!([20, 30, 40])),
            (".spec.list[:2]", json!([10, 20])),
            (".spec.list[::2]", json!([10, 30])),
            (".spec.list[-2:-1]", json!([30])),
            (".spec.list[1:1]", json!([])),
            (".spec.list[*]", json!([10, 20, 30, 40])),
            (".spec.list[0,2]", json!([10, 30])),
            (".spec.absent[0]", json!([])),
            (".status.conditions[*].type", json!(["Ready", "Synced"])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type == 'Synced')].status", json!(["False"])),
            (".status.conditions[?(@.type!=\"Ready\")].type", json!(["Synced"])),
            (".status.conditions[?(@.weight>1)].type", json!(["Synced"])),
            (".status.conditions[?(@.weight<=1)].type", json!(["Ready"])),
            (".status.conditions[?(@.absent)].type", json!([])),
            (".status.conditions[?(@.weight)].type", json!(["Ready", "Synced"])),
            (".status.conditions[?(@.type==\")\")].type", json!([])),
            ("..type", json!(["Ready", "Synced"])),
        ];
        for (path, expected) in cases {
            assert_eq!(found(path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn paths_that_do_not_fit_are_errors() {
        for path in [
            ".spec.list[4]",
            ".spec.list[-5]",
            ".spec.list[2:1]",
            ".spec.list[0:9]",
            ".spec.list[::0]",
            ".spec[0]",
            ".spec[?(@.a)]",
            ".status.conditions[?(@.type==1)]",
            ".status.conditions[?(@.weight==1.5)]",
            ".status.conditions[?(@.weight==true)]",
            "range",
        ] {
            assert!(matches!(found(path), Err(JsonPathError::Evaluation(_))), "{path}");
        }
        for path in [
            ".spec[",
            ".spec[x]",
            ".spec[?(@.a]",
            ".spec[?(@.a)",
            ".a[1:2:3:4]",
            "\"a",
            ".....",
            "&",
            ".a[?(@.b=1)]",
            ".a[99999999999999999999]",
            ".a['b''c']",
        ] {
            assert!(matches!(JsonPath::parse(path), Err(JsonPathError::Syntax(_))), "{path}");
        }
        let nested = (0..20).fold("@.a".to_owned(), |inner, _| format!("@[?({inner})]"));
        assert!(JsonPath::parse(&nested).is_err());
        assert!(JsonPath::parse(&".a".repeat(2000)).is_err());
    }

    #[test]
    fn simple_paths_can_be_written() {
        let path = JsonPath::parse(".spec.replicas").unwrap();
        assert_eq!(path.simple(), Some(vec!["spec", "replicas"]));
        let mut value = json!({"spec": {"a": 1}});
        path.set(&mut value, json!(5)).unwrap();
        assert_eq!(value, json!({"spec": {"a": 1, "replicas": 5}}));
        let mut empty = Value::Null;
        path.set(&mut empty, json!(5)).unwrap();
        assert_eq!(empty, json!({"spec": {"replicas": 5}}));
        assert!(path.set(&mut json!({"spec": []}), json!(5)).is_err());
        assert!(JsonPath::parse(".a[0]").unwrap().set(&mut value, json!(1)).is_err());
    }

    #[test]
    fn values_print_as_go_prints_them() {
        let cases = [
            (json!("text"), "text"),
            (json!(true), "true"),
            (json!(null), "<no value>"),
            (json!(12), "12"),
            (json!(0.00001), "1e-05"),
            (json!(1234567.0), "1.234567e+06"),
            (json!(123456.0), "123456"),
            (json!({"b": [1, "<"], "a": {}}), "{\"a\":{},\"b\":[1,\"\\u003c\"]}"),
        ];
        for (value, text) in cases {
            assert_eq!(print(&value), text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn no_path_panics(path in "(\\.|\\.\\.|\\*|[a-z]{1,3}|spec|list|status|conditions|\\[|\\]|\\[\\?\\(|\\)\\]|@|==|<|\"|'|-?[0-9]{1,3}|:|,|\\\\|\\PC){0,12}") {
            if let Ok(path) = JsonPath::parse(&path) {
                let _ = path.find(&object());
            }
        }
    }
}
