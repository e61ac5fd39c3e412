//! Field selectors.

use std::fmt;

use crate::status::Status;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field, such as `metadata.name`.
    pub field: String,
    /// The value it must or must not have.
    pub value: String,
    /// Whether it must not have it.
    pub negated: bool,
}

/// Which values of fields are wanted: all terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Reads the query form: `metadata.name=a,status.phase!=Running`, with `\` before `,`, `=` and `\` in values.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut parts = Vec::new();
        let (mut start, mut escaped) = (0, false);
        for (index, char) in text.char_indices() {
            match char {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                ',' => {
                    parts.push(&text[start..index]);
                    start = index + 1;
                }
                _ => {}
            }
        }
        parts.push(&text[start..]);
        parts.sort_unstable();
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        let terms = parts.map(|part| {
            let misunderstood =
                || Status::bad_request(format!("invalid selector: '{text}'; can't understand '{part}'"));
            let at = part.find("!=").into_iter().chain(part.find('=')).min().ok_or_else(misunderstood)?;
            let (field, rest) = part.split_at(at);
            let negated = rest.starts_with("!=");
            let value = rest.strip_prefix("!=").or(rest.strip_prefix("==")).or(rest.strip_prefix('='));
            let value = unescape(value.ok_or_else(misunderstood)?)?;
            Ok(FieldTerm { field: field.into(), value, negated })
        });
        let mut terms = terms.collect::<Result<Vec<FieldTerm>, Status>>()?;
        // As in Kubernetes, a lone operator restricts nothing.
        terms.retain(|term| !(term.field.is_empty() && term.value.is_empty()));
        Ok(Self { terms })
    }

    /// Whether an object is selected whose fields `lookup` tells; an unknown field counts as empty.
    pub fn matches(&self, lookup: impl Fn(&str) -> Option<String>) -> bool {
        self.terms.iter().all(|term| (lookup(&term.field).unwrap_or_default() == term.value) != term.negated)
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `field` must have, if the selector demands one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().find(|term| term.field == field && !term.negated)?;
        Some(&term.value)
    }

    /// The terms, for a resource to check which fields it knows.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, FieldTerm { field, value, negated }) in self.terms.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            let (comma, not) = (if index > 0 { "," } else { "" }, if *negated { "!" } else { "" });
            write!(out, "{comma}{field}{not}={value}")?;
        }
        Ok(())
    }
}

fn unescape(value: &str) -> Result<String, Status> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    let message = format!("invalid field selector: invalid escape sequence: {sequence}");
                    return Err(Status::bad_request(message));
                }
            },
            ',' | '=' => {
                let message =
                    format!("invalid field selector: unescaped character in value: {}", u32::from(char));
                return Err(Status::bad_request(message));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn field_selectors_select() {
        let fields = |field: &str| match field {
            "metadata.name" => Some("a,=\\b".to_owned()),
            "status.phase" => Some("Running".to_owned()),
            _ => None,
        };
        let matches = |text: &str| FieldSelector::parse(text).unwrap().matches(fields);
        assert!(
            matches("")
                && matches(",")
                && matches("status.phase=Running")
                && matches("status.phase==Running")
        );
        assert!(matches("status.phase!=Failed,metadata.name=a\\,\\=\\\\b") && matches("other="));
        assert!(!matches("status.phase!=Running") && !matches("status.phase=") && !matches("other!="));
        let selector = FieldSelector::parse("b!=2,a=1").unwrap();
        assert_eq!((selector.exact("a"), selector.exact("b")), (Some("1"), None));
        assert_eq!(selector.to_string(), "a=1,b!=2");
        for bad in ["a", "a=b=c", "a=\\x", "a=\\", "a>1"] {
            assert_eq!(FieldSelector::parse(bad).unwrap_err().code, 400, "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn field_selectors_read_back_what_they_print(text in "([a-c](=|!=|==)(x|y|\\\\,|\\\\=|\\\\\\\\)*|,|\\PC){0,5}") {
            if let Ok(selector) = FieldSelector::parse(&text) {
                let again = FieldSelector::parse(&selector.to_string());
                let sorted = |s: &FieldSelector| { let mut t: Vec<_> = s.terms.iter().map(|t| format!("{t:?}")).collect(); t.sort(); t };
                prop_assert_eq!(again.as_ref().map(sorted), Ok(sorted(&selector)));
            }
        }
    }
}
