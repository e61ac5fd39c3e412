//! Whether a webhook is about a request: rules, equivalent versions, selectors. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::hook::Hook;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

impl Operation {
    /// As `AdmissionReview` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A `RuleWithOperations`.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

impl Rule {
    pub(super) fn read(rule: &Value) -> Self {
        let texts = |field: &str| -> Vec<String> {
            let list = rule[field].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
        }
    }

    fn matches(&self, request: &Subject<'_>, version: &str) -> bool {
        let listed = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let resource = |item: &String| {
            let (resource, subresource) = item.split_once('/').unwrap_or((item, ""));
            (resource == "*" || resource == request.resource)
                && (subresource == "*" || subresource == request.subresource)
        };
        let in_scope = match self.scope.as_str() {
            "Namespaced" => request.namespaced,
            "Cluster" => !request.namespaced,
            _ => true,
        };
        in_scope
            && listed(&self.operations, request.operation.name())
            && listed(&self.groups, request.group)
            && listed(&self.versions, version)
            && self.resources.iter().any(resource)
    }
}

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) operation: Operation,
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespaced: bool,
    /// The other versions in which the same objects are served.
    pub(crate) equivalents: &'a [String],
}

/// The version in which a webhook is to see the request; `None` if its rules are not about it. An exact match comes
/// before that of an equivalent version, and an earlier rule before a later one.
pub(crate) fn version<'a>(hook: &Hook, request: &Subject<'a>) -> Option<&'a str> {
    if hook.rules.iter().any(|rule| rule.matches(request, request.version)) {
        return Some(request.version);
    }
    if !hook.equivalent {
        return None;
    }
    let equivalent = |rule: &super::rules::Rule| {
        request.equivalents.iter().find(|v| rule.matches(request, v)).map(String::as_str)
    };
    hook.rules.iter().find_map(equivalent)
}

/// Whether the selectors admit the request. `labels` are those of its namespace, `None` where it has none that counts:
/// what is neither in a namespace nor a namespace is never left out.
pub(crate) fn selected(
    hook: &Hook,
    labels: Option<&BTreeMap<String, String>>,
    object: Option<&Value>,
    old: Option<&Value>,
) -> bool {
    let labelled = |object: Option<&Value>| {
        object.is_some_and(|object| hook.objects.matches_value(&object["metadata"]["labels"]))
    };
    labels.is_none_or(|labels| hook.namespaces.matches(labels))
        && (hook.objects.is_everything() || labelled(object) || labelled(old))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hook(rule: Value, policy: &str) -> Hook {
        Hook::read(&json!({"rules": [rule], "matchPolicy": policy}))
    }

    fn rule(resources: &[&str], versions: &[&str], scope: &str) -> Value {
        json!({"operations": ["CREATE", "DELETE"], "apiGroups": ["apps"], "apiVersions": versions,
            "resources": resources, "scope": scope})
    }

    fn subject<'a>(resource: &'a str, subresource: &'a str, equivalents: &'a [String]) -> Subject<'a> {
        Subject {
            operation: Operation::Create,
            group: "apps",
            version: "v1",
            resource,
            subresource,
            namespaced: true,
            equivalents,
        }
    }

    #[test]
    fn resources_and_their_subresources_are_matched_apart() {
        for (resources, asked, matches) in [
            (vec!["deployments"], ("deployments", ""), true),
            (vec!["deployments"], ("deployments", "status"), false),
            (vec!["deployments/status"], ("deployments", "status"), true),
            (vec!["deployments/status"], ("deployments", ""), false),
            (vec!["deployments/*"], ("deployments", "scale"), true),
            (vec!["deployments/*"], ("deployments", ""), true),
            (vec!["*"], ("deployments", ""), true),
            (vec!["*"], ("deployments", "status"), false),
            (vec!["*/scale"], ("deployments", "scale"), true),
            (vec!["*/*"], ("deployments", "status"), true),
            (vec!["pods", "deployments"], ("deployments", ""), true),
        ] {
            let hook = hook(rule(&resources, &["v1"], "*"), "Exact");
            let found = version(&hook, &subject(asked.0, asked.1, &[]));
            assert_eq!(found.is_some(), matches, "{resources:?} {asked:?}");
        }
    }

    #[test]
    fn operation_group_and_scope_must_match_too() {
        let hook = hook(rule(&["*"], &["*"], "Namespaced"), "Exact");
        let request = subject("deployments", "", &[]);
        assert_eq!(version(&hook, &request), Some("v1"));
        assert_eq!(version(&hook, &Subject { operation: Operation::Update, ..request }), None);
        assert_eq!(version(&hook, &Subject { operation: Operation::Delete, ..request }), Some("v1"));
        assert_eq!(version(&hook, &Subject { group: "", ..request }), None);
        assert_eq!(version(&hook, &Subject { namespaced: false, ..request }), None);
    }

    #[test]
    fn a_rule_about_another_version_applies_where_versions_are_equivalent() {
        let equivalents = ["v1beta1".to_owned()];
        let request = subject("deployments", "", &equivalents);
        let older = rule(&["deployments"], &["v1beta1"], "*");
        assert_eq!(version(&hook(older.clone(), "Equivalent"), &request), Some("v1beta1"));
        assert_eq!(version(&hook(older, "Exact"), &request), None);
        let both = rule(&["deployments"], &["v1beta1", "v1"], "*");
        assert_eq!(version(&hook(both, "Equivalent"), &request), Some("v1"));
    }

    #[test]
    fn either_state_of_an_object_may_be_selected() {
        let hook = Hook::read(&json!({"objectSelector": {"matchLabels": {"a": "b"}},
            "namespaceSelector": {"matchLabels": {"team": "x"}}}));
        let (with, without) = (json!({"metadata": {"labels": {"a": "b"}}}), json!({"metadata": {}}));
        let team: BTreeMap<String, String> = [("team".to_owned(), "x".to_owned())].into();
        assert!(selected(&hook, Some(&team), Some(&without), Some(&with)));
        assert!(!selected(&hook, Some(&team), Some(&without), None));
        assert!(!selected(&hook, Some(&BTreeMap::new()), Some(&with), None));
        assert!(selected(&hook, None, Some(&with), None), "what has no namespace is not left out by one");
    }
}
