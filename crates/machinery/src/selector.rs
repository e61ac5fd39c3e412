//! Label and field selectors.

mod field;

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

pub use field::{FieldSelector, FieldTerm};

use crate::{names, status::Status};

/// How a requirement tests a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `a in (x,y)`
    In,
    /// `a notin (x,y)`
    NotIn,
    /// `a=x`
    Equals,
    /// `a==x`
    DoubleEquals,
    /// `a!=x`
    NotEquals,
    /// `a`
    Exists,
    /// `!a`
    DoesNotExist,
    /// `a>1`
    GreaterThan,
    /// `a<1`
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// The test.
    pub operator: Operator,
    /// What it is tested against; sorted.
    pub values: Vec<String>,
}

impl Requirement {
    /// A requirement, checked as Kubernetes checks it.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, Status> {
        use Operator::*;
        let mut problems = Vec::new();
        let key_problems = names::qualified_name(key);
        if !key_problems.is_empty() {
            problems.push(format!("key: Invalid value: {key:?}: {}", key_problems.join("; ")));
        }
        let complaint = match operator {
            In | NotIn if values.is_empty() => Some("for 'in', 'notin' operators, values set can't be empty"),
            Equals | DoubleEquals | NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Exists | DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            GreaterThan | LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        if let Some(complaint) = complaint {
            problems.push(format!("values: Invalid value: {values:?}: {complaint}"));
        }
        for (index, value) in values.iter().enumerate() {
            if matches!(operator, GreaterThan | LessThan) && value.parse::<i64>().is_err() {
                let problem = "for 'Gt', 'Lt' operators, the value must be an integer";
                problems.push(format!("values[{index}]: Invalid value: {value:?}: {problem}"));
            }
            let found = names::label_value(value);
            if !found.is_empty() {
                problems
                    .push(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", found.join("; ")));
            }
        }
        match problems.as_slice() {
            [] => Ok(Self { key: key.into(), operator, values }),
            [one] => Err(Status::bad_request(one.clone())),
            many => Err(Status::bad_request(format!("[{}]", many.join(", ")))),
        }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        use Operator::*;
        let listed = |value: &str| self.values.iter().any(|v| v == value);
        match (self.operator, value) {
            (Exists, value) => value.is_some(),
            (DoesNotExist, value) => value.is_none(),
            (NotIn | NotEquals, None) => true,
            (_, None) => false,
            (In | Equals | DoubleEquals, Some(value)) => listed(value),
            (NotIn | NotEquals, Some(value)) => !listed(value),
            (GreaterThan | LessThan, Some(value)) => {
                let limit = self.values.first().and_then(|limit| limit.parse::<i64>().ok());
                let (Ok(value), Some(limit)) = (value.parse::<i64>(), limit) else { return false };
                if self.operator == GreaterThan { value > limit } else { value < limit }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Exists => write!(out, "{key}"),
            Operator::DoesNotExist => write!(out, "!{key}"),
            Operator::Equals => write!(out, "{key}={values}"),
            Operator::DoubleEquals => write!(out, "{key}=={values}"),
            Operator::NotEquals => write!(out, "{key}!={values}"),
            Operator::GreaterThan => write!(out, "{key}>{values}"),
            Operator::LessThan => write!(out, "{key}<{values}"),
            Operator::In => write!(out, "{key} in ({values})"),
            Operator::NotIn => write!(out, "{key} notin ({values})"),
        }
    }
}

/// Which labels are wanted: all requirements must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Selects every object.
    pub fn everything() -> Self {
        Self { requirements: Vec::new(), nothing: false }
    }

    /// Selects no object.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// A selector of these requirements.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        for requirement in &mut requirements {
            requirement.values.sort();
            requirement.values.dedup();
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Reads the query form: `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let tokens = tokens(text).map_err(Status::bad_request)?;
        Parser { tokens, position: 0 }.selector().map(Self::new).map_err(Status::bad_request)
    }

    /// Reads a `metav1.LabelSelector` object: absent (`null`) selects nothing, empty selects everything.
    pub fn from_value(selector: &Value) -> Result<Self, Status> {
        let fields = match selector {
            Value::Null => return Ok(Self::nothing()),
            Value::Object(fields) => fields,
            _ => return Err(Status::bad_request("a label selector must be an object")),
        };
        let mut requirements = Vec::new();
        match fields.get("matchLabels") {
            None | Some(Value::Null) => {}
            Some(Value::Object(labels)) => {
                for (key, value) in labels {
                    let value = value.as_str().ok_or_else(|| {
                        Status::bad_request(format!("matchLabels: the value of {key:?} must be a string"))
                    })?;
                    requirements.push(Requirement::new(key, Operator::Equals, vec![value.into()])?);
                }
            }
            Some(_) => return Err(Status::bad_request("matchLabels must be an object")),
        }
        match fields.get("matchExpressions") {
            None | Some(Value::Null) => {}
            Some(Value::Array(expressions)) => {
                for expression in expressions {
                    requirements.push(requirement_from_value(expression)?);
                }
            }
            Some(_) => return Err(Status::bad_request("matchExpressions must be a list")),
        }
        Ok(Self::new(requirements))
    }

    /// A selector for exactly these labels, as a ReplicationController or Service writes it (a plain map).
    pub fn from_map(labels: &Value) -> Self {
        let labels = labels.as_object().into_iter().flatten();
        Self::new(
            labels
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    operator: Operator::Equals,
                    values: vec![value.as_str().unwrap_or_default().to_owned()],
                })
                .collect(),
        )
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Whether labels known through `lookup` are selected.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| requirement.matches(lookup(&requirement.key)))
    }

    /// Whether an object with these JSON `metadata.labels` is selected.
    pub fn matches_value(&self, labels: &Value) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    /// The first requirement that these labels do not meet. A selector that selects nothing has none.
    pub fn unmet(&self, labels: &BTreeMap<String, String>) -> Option<&Requirement> {
        let value = |key: &str| labels.get(key).map(String::as_str);
        self.requirements.iter().find(|requirement| !requirement.matches(value(&requirement.key)))
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether no object can be selected, because there was no selector.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requirements: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        out.write_str(&requirements.join(","))
    }
}

fn requirement_from_value(expression: &Value) -> Result<Requirement, Status> {
    let operator = match expression["operator"].as_str().unwrap_or_default() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            return Err(Status::bad_request(format!("{other:?} is not a valid label selector operator")));
        }
    };
    let key = expression["key"].as_str().unwrap_or_default();
    let text = |value: &Value| {
        value.as_str().map(str::to_owned).ok_or_else(|| {
            Status::bad_request(format!("matchExpressions: the values of {key:?} must be strings"))
        })
    };
    let values = expression["values"].as_array().into_iter().flatten().map(text).collect::<Result<_, _>>()?;
    Requirement::new(key, operator, values)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Symbol(symbol) => symbol,
            Self::End => "",
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    const SYMBOLS: &[&str] = &["==", "!=", "=", "!", "(", ")", ",", ">", "<"];
    let special = |c: char| "=!(),<>".contains(c);
    let space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(space);
        if rest.is_empty() {
            tokens.push(Token::End);
            return Ok(tokens);
        }
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let end = rest.find(|c| special(c) || space(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].into()));
            rest = &rest[end..];
        }
    }
}

/// The grammar of label selectors. `in` and `notin` are operators only where an operator can stand.
struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.position).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.position += 1;
        token
    }

    fn selector(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) | Token::Symbol("!") => {
                    let requirement = self.requirement();
                    requirements
                        .push(requirement.map_err(|error| format!("unable to parse requirement: {error}"))?);
                    match self.next() {
                        Token::End => return Ok(requirements),
                        Token::Symbol(",") => {
                            if !matches!(self.peek(), Token::Word(_) | Token::Symbol("!")) {
                                let found = self.peek().text();
                                return Err(format!("found '{found}', expected: identifier after ','"));
                            }
                        }
                        other => {
                            return Err(format!(
                                "found '{}', expected: ',' or 'end of string'",
                                other.text()
                            ));
                        }
                    }
                }
                Token::End => return Ok(requirements),
                other => {
                    return Err(format!(
                        "found '{}', expected: !, identifier, or 'end of string'",
                        other.text()
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut token = self.next();
        let absent = token == Token::Symbol("!");
        if absent {
            token = self.next();
        }
        let Token::Word(key) = token else {
            return Err(format!("found '{}', expected: identifier", token.text()));
        };
        let problems = names::qualified_name(&key);
        if !problems.is_empty() {
            // Kubernetes prints the path of the field, which a query has not.
            return Err(format!("<nil>: Invalid value: {key:?}: {}", problems.join("; ")));
        }
        let make =
            |operator, values| Requirement::new(&key, operator, values).map_err(|status| status.message);
        if absent {
            return make(Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return make(Operator::Exists, Vec::new());
        }
        let token = self.next();
        let operator = match token.text() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            "=" => Operator::Equals,
            "==" => Operator::DoubleEquals,
            "!=" => Operator::NotEquals,
            ">" => Operator::GreaterThan,
            "<" => Operator::LessThan,
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => match self.peek() {
                Token::End | Token::Symbol(",") => vec![String::new()],
                _ => match self.next() {
                    Token::Word(word) => vec![word],
                    other => return Err(format!("found '{}', expected: identifier", other.text())),
                },
            },
        };
        make(operator, values)
    }

    /// `(a,b)`, where a value may be empty.
    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) => values.push(self.next().text().to_owned()),
                Token::Symbol("," | ")") => values.push(String::new()),
                other if values.is_empty() => {
                    return Err(format!("found '{}', expected: ',', ')' or identifier", other.text()));
                }
                other => return Err(format!("found '{}', expected: ',', or identifier", other.text())),
            }
            match self.next() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => break,
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.into(), value.into())).collect()
    }

    #[test]
    fn label_selectors_select_as_those_of_kubernetes() {
        let cases = [
            ("", "", true),
            ("", "x=y", true),
            ("x=y", "x=y", true),
            ("x==y", "x=y", true),
            ("x=y,z=w", "x=y,z=w", true),
            ("x=y", "x=z", false),
            ("x!=y", "z=w", true),
            ("x!=y,z!=w", "x=z,z=a", true),
            ("x!=y", "x=y", false),
            ("x=", "x=", true),
            ("x=", "", false),
            ("x!=", "x=", false),
            ("notin in (in,notin)", "notin=in", true),
            ("x in (a,b)", "x=b", true),
            ("x in (a,,b)", "x=", true),
            ("x in ()", "x=", true),
            ("x in (a,b)", "x=c", false),
            ("x notin (a,b)", "x=c", true),
            ("x notin (a,b)", "", true),
            ("x notin (a,b)", "x=a", false),
            ("x", "x=", true),
            ("x", "y=", false),
            ("!x", "y=", true),
            ("! x", "x=", false),
            ("x>1", "x=2", true),
            ("x>1", "x=1", false),
            ("x<1", "x=0", true),
            ("x>1", "x=two", false),
            (" a.b/c = d , e ", "a.b/c=d,e=", true),
        ];
        for (selector, given, expected) in cases {
            let parsed = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
            assert_eq!(parsed.matches(&labels(given)), expected, "{selector} on {given}");
        }
        assert!(LabelSelector::parse("").unwrap().is_everything());
        assert_eq!(LabelSelector::parse("z, b in (y,x),a!=1").unwrap().to_string(), "a!=1,b in (x,y),z");
    }

    #[test]
    fn label_selectors_that_are_wrong_are_explained() {
        let cases = [
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a==>b", "unable to parse requirement: found '>', expected: identifier"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            (
                "x>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "a/b/c=d",
                "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must consist",
            ),
            ("a=-", "unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label must be"),
        ];
        for (selector, message) in cases {
            let status = LabelSelector::parse(selector).unwrap_err();
            assert_eq!(status.code, 400);
            assert!(status.message.contains(message), "{selector}: {}", status.message);
        }
    }

    #[test]
    fn selector_objects_select() {
        let select = |selector: Value, given: &str| {
            LabelSelector::from_value(&selector).unwrap().matches(&labels(given))
        };
        assert!(!select(json!(null), "a=b"));
        assert!(select(json!({}), "a=b"));
        assert!(select(json!({"matchLabels": {"a": "b"}}), "a=b,c=d"));
        assert!(!select(json!({"matchLabels": {"a": "b", "c": "e"}}), "a=b,c=d"));
        let expressions = json!({"matchExpressions": [
            {"key": "a", "operator": "In", "values": ["x", "b"]}, {"key": "c", "operator": "NotIn", "values": ["x"]},
            {"key": "e", "operator": "Exists"}, {"key": "f", "operator": "DoesNotExist", "values": []}]});
        assert!(select(expressions.clone(), "a=b,e="));
        assert!(!select(expressions, "a=b,e=,f="));
        for bad in [
            json!([]),
            json!({"matchLabels": {"a": 1}}),
            json!({"matchLabels": {"-": "a"}}),
            json!({"matchExpressions": {}}),
            json!({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}),
            json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
            json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
            json!({"matchExpressions": [{"key": "a", "operator": "In", "values": [1]}]}),
        ] {
            assert!(LabelSelector::from_value(&bad).is_err(), "{bad}");
        }
        assert!(LabelSelector::from_map(&json!({"a": "b"})).matches(&labels("a=b")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn label_selectors_read_back_what_they_print(text in "((!|)[a-c](|=|==|!=|>1|<2)(x|y|)|[a-c] (in|notin) \\([xy,]{0,4}\\)|,| |in|\\PC){0,5}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}
