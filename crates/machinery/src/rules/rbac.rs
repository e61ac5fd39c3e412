//! Rules of Roles and their bindings.

use super::{
    at::{At, Found},
    metadata,
};
use crate::names;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn role(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    o.get("rules").each().for_each(|rule| policy_rule(&rule, true, found));
}

pub(super) fn cluster_role(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    o.get("rules").each().for_each(|rule| policy_rule(&rule, false, found));
    let aggregation = o.get("aggregationRule");
    if aggregation.is_set() {
        let selectors = aggregation.get("clusterRoleSelectors");
        if selectors.is_empty() {
            found.required(
                &selectors,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        selectors.each().for_each(|selector| {
            metadata::selector(&selector, found);
        });
    }
}

fn policy_rule(rule: &At<'_>, namespaced: bool, found: &mut Found) {
    let [verbs, groups, resources, names, urls] =
        ["verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"].map(|field| rule.get(field));
    found.require(&verbs);
    if !urls.is_empty() {
        if namespaced {
            found.invalid(&urls, "namespaced rules cannot apply to non-resource URLs");
        }
        if !groups.is_empty() || !resources.is_empty() || !names.is_empty() {
            found.invalid(&urls, "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if groups.is_empty() {
        found.required(&groups, "resource rules must supply at least one api group");
    }
    if resources.is_empty() {
        found.required(&resources, "resource rules must supply at least one resource");
    }
}

pub(super) fn role_binding(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    binding(o, old, &["Role", "ClusterRole"], false, found);
}

pub(super) fn cluster_role_binding(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    binding(o, old, &["ClusterRole"], true, found);
}

fn binding(o: &At<'_>, old: Option<&At<'_>>, kinds: &[&str], cluster_wide: bool, found: &mut Found) {
    let role = o.get("roleRef");
    found.one_of(&role.get("apiGroup"), &[GROUP]);
    found.one_of(&role.get("kind"), kinds);
    found.require_form(&role.get("name"), names::path_segment);
    found.immutable(o, old, &["roleRef"]);
    for subject in o.get("subjects").each() {
        let [kind, name, namespace, group] =
            ["kind", "name", "namespace", "apiGroup"].map(|f| subject.get(f));
        found.require(&name);
        match kind.text() {
            "ServiceAccount" => {
                found.form(&name, names::dns1123_subdomain);
                if !group.is_empty() {
                    found.not_supported(&group, &[""]);
                }
                // In a namespace, its own is meant.
                if namespace.is_empty() && cluster_wide {
                    found.required(&namespace, "");
                }
            }
            "User" | "Group" => found.one_of(&group, &[GROUP]),
            _ => found.not_supported(&kind, &["ServiceAccount", "User", "Group"]),
        }
    }
}
