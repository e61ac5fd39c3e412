//! ClusterRoles that gather the rules of others (`aggregationRule`).

use hansa_machinery::selector::LabelSelector;
use serde_json::Value;

use super::rbac::{Rule, rules_of};

/// A ClusterRole as aggregation sees it.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    name: String,
    labels: Value,
    /// Empty for a role that does not aggregate.
    selectors: Vec<LabelSelector>,
    rules: Vec<Rule>,
    changed: bool,
}

impl Role {
    /// A role, unless it or its selectors do not parse.
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let selectors = object["aggregationRule"]["clusterRoleSelectors"].as_array();
        Some(Self {
            name: object["metadata"]["name"].as_str()?.to_owned(),
            labels: object["metadata"]["labels"].clone(),
            selectors: selectors
                .into_iter()
                .flatten()
                .map(LabelSelector::from_value)
                .collect::<Result<_, _>>()
                .ok()?,
            rules: rules_of(object).ok()?,
            changed: false,
        })
    }
}

/// The rules that aggregating roles should have and have not.
///
/// Roles that gather each other are followed until nothing changes, at most as often as there are roles.
pub(crate) fn outdated(mut roles: Vec<Role>) -> Vec<(String, Vec<Rule>)> {
    roles.sort_by(|a, b| a.name.cmp(&b.name));
    for _ in 0..=roles.len() {
        let mut settled = true;
        for at in 0..roles.len() {
            if roles[at].selectors.is_empty() {
                continue;
            }
            let gathered = gather(&roles, at);
            // Their order means nothing, and may differ for ever between roles that gather each other.
            if sorted(&gathered) != sorted(&roles[at].rules) {
                (roles[at].rules, roles[at].changed, settled) = (gathered, true, false);
            }
        }
        if settled {
            break;
        }
    }
    roles.into_iter().filter(|role| role.changed).map(|role| (role.name, role.rules)).collect()
}

fn sorted(rules: &[Rule]) -> Vec<&Rule> {
    let mut rules: Vec<&Rule> = rules.iter().collect();
    rules.sort();
    rules
}

fn gather(roles: &[Role], at: usize) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for selector in &roles[at].selectors {
        for (_, role) in
            roles.iter().enumerate().filter(|(i, r)| *i != at && selector.matches_value(&r.labels))
        {
            for rule in &role.rules {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(name: &str, label: &str, gathers: Option<&str>, verbs: &[&str]) -> Role {
        let mut object = json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": []});
        if let Some(gathers) = gathers {
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {gathers: "true"}}]});
        }
        for verb in verbs {
            object["rules"].as_array_mut().unwrap().push(json!({"verbs": [verb]}));
        }
        Role::read(&object).unwrap()
    }

    fn verbs(rules: &[Rule]) -> String {
        rules.iter().map(|rule| rule.verbs[0].as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rules_are_gathered_through_roles_that_gather() {
        let roles = vec![
            role("admin", "x", Some("to-admin"), &["stale"]),
            role("edit", "to-admin", Some("to-edit"), &[]),
            role("view", "to-edit", Some("to-view"), &["get"]),
            role("a", "to-view", None, &["get"]),
            role("b", "to-edit", None, &["update"]),
            role("c", "to-admin", None, &["delete", "update"]),
        ];
        let outdated = outdated(roles);
        let found: Vec<_> = outdated.iter().map(|(name, rules)| (name.as_str(), verbs(rules))).collect();
        assert_eq!(found, [("admin", "delete update get".into()), ("edit", "update get".into())]);
    }

    #[test]
    fn roles_that_gather_each_other_or_themselves_come_to_rest() {
        let roles = vec![
            role("a", "x", Some("x"), &["left"]),
            role("b", "x", Some("x"), &["right"]),
            role("c", "x", None, &["get"]),
        ];
        for (_, rules) in outdated(roles) {
            assert!(verbs(&rules).contains("get"));
        }
    }

    #[test]
    fn nothing_is_outdated_when_all_is_gathered() {
        let roles = vec![role("a", "y", Some("x"), &["get"]), role("b", "x", None, &["get"])];
        assert!(outdated(roles).is_empty());
    }
}
