//! Rules of Pods and Pod templates.

use serde_json::Value;

use super::{
    at::{At, Found},
    container, metadata, volume,
};
use crate::names;

pub(super) const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn pod(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let new_spec = o.get("spec");
    spec(&new_spec, found);
    if let Some(old) = old {
        update(&new_spec, &old.get("spec"), found);
    }
}

/// A template: labels, annotations and a specification.
pub(super) fn template(template: &At<'_>, found: &mut Found) {
    metadata::labels(&template.get("metadata.labels"), found);
    spec(&template.get("spec"), found);
}

fn spec(spec: &At<'_>, found: &mut Found) {
    let volumes = volume::all(&spec.get("volumes"), found);
    container::all(spec, &volumes, found);
    found.require_one_of(&spec.get("restartPolicy"), &["Always", "OnFailure", "Never"]);
    let dns = spec.get("dnsPolicy");
    found.require_one_of(&dns, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    let config = spec.get("dnsConfig");
    if dns.text() == "None" && !config.is_set() {
        found.required(&config, "must provide `dnsConfig` when `dnsPolicy` is None");
    }
    config.get("nameservers").each().for_each(|server| found.ip(&server));
    metadata::labels(&spec.get("nodeSelector"), found);
    for name in ["serviceAccountName", "nodeName", "runtimeClassName", "priorityClassName"] {
        found.form(&spec.get(name), names::dns1123_subdomain);
    }
    for name in ["hostname", "subdomain"] {
        found.form(&spec.get(name), names::dns1123_label);
    }
    found.between(&spec.get("activeDeadlineSeconds"), 1, i64::from(i32::MAX));
    found.non_negative(&spec.get("terminationGracePeriodSeconds"));
    tolerations(&spec.get("tolerations"), found);
    affinity(&spec.get("affinity"), found);
    spread(&spec.get("topologySpreadConstraints"), found);
    for alias in spec.get("hostAliases").each() {
        found.ip(&alias.get("ip"));
        alias
            .get("hostnames")
            .each()
            .for_each(|name| found.form_of(&name, name.text(), names::dns1123_subdomain));
    }
    for gate in spec.get("schedulingGates").each() {
        found.form_of(&gate.get("name"), gate.get("name").text(), names::qualified_name);
    }
    security(&spec.get("securityContext"), found);
}

fn security(context: &At<'_>, found: &mut Found) {
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        found.between(&context.get(field), 0, i64::from(i32::MAX));
    }
    for sysctl in context.get("sysctls").each() {
        let name = sysctl.get("name");
        let part = |part: &str| {
            let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
            ends(part.bytes().next()) && ends(part.bytes().last()) && part.bytes().all(inner)
        };
        if found.require(&name) && !(name.text().len() <= 253 && name.text().split(['.', '/']).all(part)) {
            let detail = r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            found.invalid(&name, detail);
        }
    }
}

fn tolerations(tolerations: &At<'_>, found: &mut Found) {
    for toleration in tolerations.each() {
        let [key, operator, value, effect] =
            ["key", "operator", "value", "effect"].map(|f| toleration.get(f));
        found.form(&key, names::qualified_name);
        if key.is_empty() && operator.text() != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            found.invalid_value(&operator, operator.text(), detail);
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            found.invalid_value(&effect, effect.text(), detail);
        }
        match operator.text() {
            "" | "Equal" => found.label_value(&value),
            "Exists" if !value.is_empty() => {
                found.invalid_value(
                    &operator,
                    value.text(),
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            _ => found.one_of(&operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            found.one_of(&effect, &TAINT_EFFECTS);
        }
    }
}

fn affinity(affinity: &At<'_>, found: &mut Found) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let weight = |preference: &At<'_>, found: &mut Found| {
        let weight = preference.get("weight");
        if !(1..=100).contains(&weight.int().unwrap_or_default()) {
            found.invalid(&weight, "must be in the range 1-100");
        }
    };
    let nodes = affinity.get("nodeAffinity");
    let required = nodes.get(REQUIRED);
    let terms = required.get("nodeSelectorTerms");
    if required.is_set() && terms.is_empty() {
        found.required(&terms, "must have at least one node selector term");
    }
    nodes.get(PREFERRED).each().for_each(|preference| weight(&preference, found));
    for pods in ["podAffinity", "podAntiAffinity"].map(|name| affinity.get(name)) {
        pods.get(REQUIRED).each().for_each(|term| affinity_term(&term, found));
        for preference in pods.get(PREFERRED).each() {
            weight(&preference, found);
            affinity_term(&preference.get("podAffinityTerm"), found);
        }
    }
}

fn affinity_term(term: &At<'_>, found: &mut Found) {
    metadata::selector(&term.get("labelSelector"), found);
    let key = term.get("topologyKey");
    if key.is_empty() {
        found.required(&key, "can not be empty");
    }
    for problem in names::qualified_name(key.text()) {
        found.invalid_value(&key, key.text(), &problem);
    }
}

fn spread(constraints: &At<'_>, found: &mut Found) {
    for constraint in constraints.each() {
        let (skew, key) = (constraint.get("maxSkew"), constraint.get("topologyKey"));
        if skew.int().unwrap_or_default() <= 0 {
            found.invalid(&skew, "must be greater than zero");
        }
        if key.is_empty() {
            found.required(&key, "can not be empty");
        }
        found.one_of(&constraint.get("whenUnsatisfiable"), &["DoNotSchedule", "ScheduleAnyway"]);
        metadata::selector(&constraint.get("labelSelector"), found);
    }
}

/// What may change in a Pod: images, a shorter deadline, more tolerations, fewer gates.
fn update(new: &At<'_>, old: &At<'_>, found: &mut Found) {
    const CHANGEABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    for list in ["containers", "initContainers"] {
        let (now, then) = (new.get(list), old.get(list));
        if now.each().count() != then.each().count() {
            found.forbidden(&now, "pod updates may not add or remove containers");
            return;
        }
    }
    let deadline = new.get("activeDeadlineSeconds");
    match (deadline.int(), old.get("activeDeadlineSeconds").int()) {
        (Some(now), Some(then)) if now > then => {
            found.invalid(&deadline, "must be less than or equal to previous value");
            return;
        }
        (None, Some(_)) => found.invalid(&deadline, "must not update from a positive integer to nil value"),
        _ => {}
    }
    let tolerations = new.get("tolerations");
    let without_seconds = |at: &At<'_>| {
        let mut value = at.value.clone();
        if let (Some(map), "NoExecute") = (value.as_object_mut(), at.get("effect").text()) {
            map.remove("tolerationSeconds");
        }
        value
    };
    let now: Vec<Value> = tolerations.each().map(|t| without_seconds(&t)).collect();
    if old.get("tolerations").each().any(|then| !now.contains(&without_seconds(&then))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        found.forbidden(&tolerations, detail);
    }
    let gates = old.get("schedulingGates");
    for gate in new.get("schedulingGates").each() {
        let name = gate.get("name");
        if !gates.each().any(|then| then.get("name").text() == name.text()) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", name.text());
            found.forbidden(&name, &detail);
        }
    }
    let fixed = |spec: &Value, gated: bool| {
        let mut spec = spec.clone();
        for list in ["containers", "initContainers"] {
            for container in spec
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
                .filter_map(Value::as_object_mut)
            {
                container.remove("image");
            }
        }
        if let Some(spec) = spec.as_object_mut() {
            for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
                spec.remove(field);
            }
            if gated {
                spec.remove("nodeSelector");
                if let Some(affinity) = spec.get_mut("affinity").and_then(Value::as_object_mut) {
                    affinity.remove("nodeAffinity");
                }
            }
        }
        spec
    };
    let gated = !gates.is_empty();
    if fixed(new.value, gated) != fixed(old.value, gated) {
        found.forbidden(new, CHANGEABLE);
    }
}
