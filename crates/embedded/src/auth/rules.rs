//! Whether rules cover other rules: the base of escalation prevention and of role reconciliation.

use std::collections::BTreeMap;

use super::rbac::{Rule, path_matches};

/// Rules are compared in their smallest parts. More parts than this are refused rather than compared: a
/// role of a few kilobytes can describe billions of them.
const PARTS_LIMIT: usize = 16_384;

/// Rules that break down into too many parts to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rules combine too many groups, resources, names and verbs: use * or split the role")]
pub struct TooMany;

/// The parts of `wanted` that `held` does not allow; empty when all are covered.
///
/// # Errors
/// When `wanted` has too many parts.
pub fn uncovered(held: &[&Rule], wanted: &[Rule]) -> Result<Vec<Rule>, TooMany> {
    let size = |rule: &Rule| {
        let names = rule.resource_names.len().max(1);
        let resources = [rule.api_groups.len(), rule.resources.len(), names];
        let resources = resources.into_iter().try_fold(rule.verbs.len(), usize::checked_mul)?;
        resources.checked_add(rule.verbs.len().checked_mul(rule.non_resource_urls.len())?)
    };
    let total = wanted.iter().try_fold(0usize, |sum, rule| sum.checked_add(size(rule)?));
    if total.is_none_or(|total| total > PARTS_LIMIT) {
        return Err(TooMany);
    }
    let parts = wanted.iter().flat_map(parts);
    Ok(parts.filter(|part| !held.iter().any(|rule| covers(rule, part))).collect())
}

/// A rule in pieces of one verb, one group, one resource and at most one name, or of one verb and one path.
fn parts(rule: &Rule) -> Vec<Rule> {
    let one = |text: &String| vec![text.clone()];
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let part = Rule {
                    api_groups: one(group),
                    resources: one(resource),
                    verbs: one(verb),
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    parts.push(part);
                } else {
                    let named = |name| Rule { resource_names: one(name), ..part.clone() };
                    parts.extend(rule.resource_names.iter().map(named));
                }
            }
        }
        let path = |url| Rule { non_resource_urls: one(url), verbs: one(verb), ..Rule::default() };
        parts.extend(rule.non_resource_urls.iter().map(path));
    }
    parts
}

/// Whether `rule` allows all that `part` allows.
fn covers(rule: &Rule, part: &Rule) -> bool {
    let all = |held: &[String], wanted: &[String]| wanted.iter().all(|item| held.contains(item));
    let any_or_all = |held: &[String], wanted: &[String]| held.iter().any(|h| h == "*") || all(held, wanted);
    let resource = |wanted: &String| {
        rule.resources.iter().any(|held| {
            held == "*"
                || held == wanted
                || wanted.split_once('/').is_some_and(|(_, sub)| held.strip_prefix("*/") == Some(sub))
        })
    };
    let path = |wanted: &String| rule.non_resource_urls.iter().any(|held| path_matches(held, wanted));
    let names = rule.resource_names.is_empty()
        || !part.resource_names.is_empty() && all(&rule.resource_names, &part.resource_names);
    any_or_all(&rule.verbs, &part.verbs)
        && any_or_all(&rule.api_groups, &part.api_groups)
        && part.resources.iter().all(resource)
        && part.non_resource_urls.iter().all(path)
        && names
}

/// Missing parts for people: those that differ only in their verb in one line, sorted.
pub fn describe(missing: Vec<Rule>) -> String {
    let mut merged: BTreeMap<Rule, Vec<String>> = BTreeMap::new();
    for mut part in missing {
        let verbs = std::mem::take(&mut part.verbs);
        merged.entry(part).or_default().extend(verbs);
    }
    let quoted = |list: &[String]| list.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" ");
    let mut lines: Vec<String> = merged
        .into_iter()
        .map(|(rule, verbs)| {
            let fields = [
                ("APIGroups", &rule.api_groups),
                ("Resources", &rule.resources),
                ("NonResourceURLs", &rule.non_resource_urls),
                ("ResourceNames", &rule.resource_names),
                ("Verbs", &verbs),
            ];
            let fields = fields.into_iter().filter(|(_, list)| !list.is_empty());
            let fields: Vec<String> =
                fields.map(|(name, list)| format!("{name}:[{}]", quoted(list))).collect();
            format!("{{{}}}", fields.join(", "))
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let list = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect();
        Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            ..Rule::default()
        }
    }

    fn urls(verbs: &[&str], urls: &[&str]) -> Rule {
        let urls = urls.iter().map(|url| (*url).to_owned()).collect();
        Rule { non_resource_urls: urls, ..rule(verbs, &[], &[], &[]) }
    }

    #[test]
    fn covering_follows_kubernetes() {
        let held = [
            rule(&["get", "list"], &[""], &["pods", "*/scale"], &[]),
            rule(&["*"], &["apps"], &["*"], &[]),
            rule(&["update"], &[""], &["secrets"], &["a"]),
            urls(&["get"], &["/healthz", "/logs/*"]),
        ];
        let held: Vec<&Rule> = held.iter().collect();
        for (wanted, covered) in [
            (rule(&["get"], &[""], &["pods"], &[]), true),
            (rule(&["get"], &[""], &["pods"], &["x"]), true),
            (rule(&["get"], &[""], &["pods/log"], &[]), false),
            (rule(&["get"], &[""], &["replicationcontrollers/scale"], &[]), true),
            (rule(&["*"], &[""], &["pods"], &[]), false),
            (rule(&["*"], &["apps"], &["deployments/status"], &["x"]), true),
            (rule(&["get"], &["apps", ""], &["pods"], &[]), true),
            (rule(&["get"], &["*"], &["pods"], &[]), false),
            (rule(&["update"], &[""], &["secrets"], &["a"]), true),
            (rule(&["update"], &[""], &["secrets"], &["a", "b"]), false),
            (rule(&["update"], &[""], &["secrets"], &[]), false),
            (urls(&["get"], &["/logs/kubelet"]), true),
            (urls(&["get"], &["/logs/*"]), true),
            (urls(&["get"], &["/*"]), false),
            (urls(&["post"], &["/healthz"]), false),
        ] {
            assert_eq!(
                uncovered(&held, std::slice::from_ref(&wanted)).unwrap().is_empty(),
                covered,
                "{wanted:?}"
            );
        }
    }

    #[test]
    fn rules_of_billions_of_parts_are_refused_without_counting_them_out() {
        let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let bomb = Rule {
            api_groups: many.clone(),
            resources: many.clone(),
            verbs: many.clone(),
            resource_names: many.clone(),
            non_resource_urls: many,
        };
        assert_eq!(uncovered(&[], &vec![bomb; 100]), Err(TooMany));
    }

    #[test]
    fn missing_parts_are_described_in_one_line_per_resource() {
        let wanted = [rule(&["get", "list"], &["apps"], &["deployments"], &[]), urls(&["get"], &["/x"])];
        assert_eq!(
            describe(uncovered(&[], &wanted).unwrap()),
            "{APIGroups:[\"apps\"], Resources:[\"deployments\"], Verbs:[\"get\" \"list\"]}\n{NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}"
        );
    }
}
