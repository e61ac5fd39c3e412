//! The forms of names in Kubernetes, with the messages that explain them (apimachinery `validation`).
//!
//! Each function returns what is wrong with a value; nothing means it is fine. Messages go into a Status as they are.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const DNS1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// The longest DNS label, label key name and label value.
pub const MAX_LABEL: usize = 63;

/// The longest DNS subdomain.
pub const MAX_SUBDOMAIN: usize = 253;

/// A lower-case DNS label (RFC 1123): the name of a namespace.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut problems = too_many_characters(value, MAX_LABEL);
    if !is_dns1123_label(value) {
        problems.push(if is_subdomain(value) {
            "must not contain dots".into()
        } else {
            form(LABEL_MESSAGE, LABEL, &["my-name", "123-abc"])
        });
    }
    problems
}

/// A lower-case DNS subdomain (RFC 1123): the name of most objects.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut problems = too_many_characters(value, MAX_SUBDOMAIN);
    if !is_subdomain(value) {
        problems.push(form(SUBDOMAIN_MESSAGE, SUBDOMAIN, &["example.com"]));
    }
    problems
}

/// A DNS label that begins with a letter (RFC 1035).
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut problems = too_many_characters(value, MAX_LABEL);
    if !(is_dns1123_label(value) && value.starts_with(|c: char| c.is_ascii_lowercase())) {
        problems.push(form(DNS1035_MESSAGE, DNS1035, &["my-name", "abc-123"]));
    }
    problems
}

/// The key of a label or annotation, the name of a finalizer or condition: `[prefix/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut problems = Vec::new();
    let name = match value.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".into());
            } else {
                problems.extend(
                    dns1123_subdomain(prefix).into_iter().map(|problem| format!("prefix part {problem}")),
                );
            }
            *name
        }
        _ => {
            let form = form(QUALIFIED_MESSAGE, QUALIFIED, EXAMPLES);
            let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {form} {tail}")];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".into());
    }
    problems.extend(too_long(name, MAX_LABEL).into_iter().map(|problem| format!("name part {problem}")));
    if !is_qualified(name) {
        problems.push(format!("name part {}", form(QUALIFIED_MESSAGE, QUALIFIED, EXAMPLES)));
    }
    problems
}

/// The value of a label.
pub fn label_value(value: &str) -> Vec<String> {
    let mut problems = too_long(value, MAX_LABEL);
    if !(value.is_empty() || is_qualified(value)) {
        problems.push(form(LABEL_VALUE_MESSAGE, LABEL_VALUE, &["MyValue", "my_value", "12345"]));
    }
    problems
}

/// A name that only has to stand in a path: RBAC objects and most kinds without a stricter rule.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    let forbidden = ["/", "%"].into_iter().filter(|part| value.contains(part));
    forbidden.map(|part| format!("may not contain '{part}'")).collect()
}

/// A prefix that `generateName` completes: judged as if it were complete, a trailing dash allowed (apimachinery
/// `maskTrailingDash`).
pub fn as_prefix(check: fn(&str) -> Vec<String>, prefix: &str) -> Vec<String> {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => check(&format!("{rest}a")),
        _ => check(prefix),
    }
}

/// DNS forms count characters, the others bytes; both mean bytes.
fn too_many_characters(value: &str, limit: usize) -> Vec<String> {
    if value.len() > limit { vec![format!("must be no more than {limit} characters")] } else { Vec::new() }
}

fn too_long(value: &str, limit: usize) -> Vec<String> {
    if value.len() > limit { vec![format!("must be no more than {limit} bytes")] } else { Vec::new() }
}

fn form(message: &str, expression: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{expression}')", examples.join(" or "))
}

fn is_dns1123_label(value: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !value.is_empty() && value.chars().all(inner) && !value.starts_with('-') && !value.ends_with('-')
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_dns1123_label)
}

fn is_qualified(value: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: char| c.is_ascii_alphanumeric();
    value.chars().all(inner) && value.starts_with(edge) && value.ends_with(edge)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    #[test]
    fn good_names_pass() {
        assert!(dns1123_label("a-1").is_empty() && dns1123_label(&"a".repeat(63)).is_empty());
        assert!(dns1123_subdomain("a.b-c.1").is_empty() && dns1123_subdomain(&"a".repeat(253)).is_empty());
        assert!(dns1035_label("a1").is_empty());
        for name in ["simple", "now-with-dashes", "1-2.3_4", "prefix.io/Name", "1.2.3.4/5678"] {
            assert!(qualified_name(name).is_empty(), "{name}");
        }
        assert!(label_value("").is_empty() && label_value("A_b.c-1").is_empty());
        assert!(path_segment("system:node").is_empty());
        assert!(as_prefix(dns1123_label, "a-").is_empty());
    }

    #[test]
    fn bad_names_are_explained_in_the_words_of_kubernetes() {
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns1123_subdomain(&"a".repeat(254)), ["must be no more than 253 characters"]);
        assert!(dns1035_label("1a")[0].contains("DNS-1035 label"));
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/").len(), 2);
        assert!(qualified_name("a/b/c")[0].starts_with("a valid label key must consist"));
        assert!(label_value("-a")[0].starts_with("a valid label must be"));
        assert_eq!(path_segment(".."), ["may not be '..'"]);
        assert_eq!(path_segment("a/%"), ["may not contain '/'", "may not contain '%'"]);
        assert!(!as_prefix(dns1123_label, "-").is_empty() && !as_prefix(dns1123_label, "a--.").is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn the_checks_agree_with_the_expressions_in_their_messages(value in "[-a-cA-C0-2._/ é]{0,6}") {
            let matches = |expression: &str| Regex::new(&format!("^({expression})$")).unwrap().is_match(&value);
            prop_assert_eq!(is_dns1123_label(&value), matches(LABEL));
            prop_assert_eq!(is_subdomain(&value), matches(SUBDOMAIN));
            prop_assert_eq!(dns1035_label(&value).is_empty(), matches(DNS1035));
            prop_assert_eq!(is_qualified(&value), matches(QUALIFIED));
            prop_assert_eq!(label_value(&value).is_empty(), matches(LABEL_VALUE));
        }
    }
}
