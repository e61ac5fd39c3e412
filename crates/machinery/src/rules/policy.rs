//! Rules of autoscalers, disruption budgets, priority classes, leases, quotas, limit ranges and webhooks.

use super::{
    at::{At, Found},
    metadata,
};
use crate::names;

pub(super) fn autoscaler(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    let metrics = spec.get("metrics");
    match least.int() {
        Some(0) => {
            let scales_from_zero = |m: At<'_>| matches!(m.get("type").text(), "Object" | "External");
            if !metrics.each().any(scales_from_zero) {
                let detail =
                    "must specify at least one Object or External metric to support scaling to zero replicas";
                found.forbidden(&metrics, detail);
            }
        }
        _ => found.non_negative(&least),
    }
    if most.int().unwrap_or_default() == 0 {
        found.required(&most, "");
    }
    if most.int().is_some_and(|most| most < 0) {
        found.invalid(&most, "must be greater than 0");
    }
    if least.int().is_some_and(|least| most.int().unwrap_or_default() < least) {
        found.invalid(&most, "must be greater than or equal to `minReplicas`");
    }
    let target = spec.get("scaleTargetRef");
    found.require_form(&target.get("kind"), names::path_segment);
    found.require_form(&target.get("name"), names::path_segment);
    let version = target.get("apiVersion");
    if !version.text().contains('/') && target.get("kind").text() != "ReplicationController" {
        found.invalid_value(&version, version.text(), "apiVersion must specify API group");
    }
    metrics.each().for_each(|m| metric(&m, found));
    for direction in ["behavior.scaleUp", "behavior.scaleDown"] {
        let window = spec.get(direction).get("stabilizationWindowSeconds");
        if window.int().is_some_and(|seconds| seconds < 0) {
            found.invalid(&window, "must be greater than or equal to zero");
        }
        if window.int().is_some_and(|seconds| seconds > 3600) {
            found.invalid(&window, "must be less than or equal to 3600");
        }
    }
}

fn metric(at: &At<'_>, found: &mut Found) {
    const KINDS: [(&str, &str); 5] = [
        ("ContainerResource", "containerResource"),
        ("External", "external"),
        ("Object", "object"),
        ("Pods", "pods"),
        ("Resource", "resource"),
    ];
    let kind = at.get("type");
    if !found.require(&kind) {
        return;
    }
    let Some((_, field)) = KINDS.iter().find(|(name, _)| *name == kind.text()) else {
        return found.not_supported(&kind, &KINDS.map(|(name, _)| name));
    };
    let source = at.get(field);
    if !source.is_set() {
        return found.required(&source, "must populate information for the given metric source");
    }
    let (name, target) = (source.get("name"), source.get("target"));
    if matches!(*field, "resource" | "containerResource") && name.is_empty() {
        found.required(&name, "must specify a resource name");
    }
    let target_kind = target.get("type");
    if target_kind.is_empty() {
        found.required(&target_kind, "must specify a metric target type");
    } else if !matches!(target_kind.text(), "Utilization" | "Value" | "AverageValue") {
        found.invalid(&target_kind, "must be either Utilization, Value, or AverageValue");
    }
    let utilization = target.get("averageUtilization");
    if utilization.int().is_some_and(|percent| percent < 1) {
        found.invalid(&utilization, "must be greater than 0");
    }
    if *field == "resource" && !utilization.is_set() && !target.get("averageValue").is_set() {
        found.required(&utilization, "must set either a target raw value or a target utilization");
    }
}

pub(super) fn disruption_budget(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if least.is_set() && most.is_set() {
        found.invalid(&spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for limit in [least, most].iter().filter(|limit| limit.is_set()) {
        found.int_or_percent(limit);
        found.at_most_100_percent(limit);
    }
    found.one_of(&spec.get("unhealthyPodEvictionPolicy"), &["AlwaysAllow", "IfHealthyBudget"]);
    metadata::selector(&spec.get("selector"), found);
}

pub(super) fn priority_class(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    const HIGHEST: i64 = 1_000_000_000;
    let (name, value) = (o.get("metadata.name"), o.get("value"));
    let system = matches!(
        (name.text(), value.int()),
        ("system-cluster-critical", Some(2_000_000_000)) | ("system-node-critical", Some(2_000_001_000))
    );
    if name.text().starts_with("system-") && !system {
        let detail = format!(
            "priority class names with 'system-' prefix are reserved for system use only. error: {} is not a known system priority class",
            name.text()
        );
        found.forbidden(&name, &detail);
    } else if !system && value.int().is_some_and(|value| value > HIGHEST) {
        found.forbidden(&value, "maximum allowed value of a user defined priority is 1000000000");
    }
    found.one_of(&o.get("preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
    let Some(old) = old else { return };
    if value.int().unwrap_or_default() != old.get("value").int().unwrap_or_default() {
        found.forbidden(&value, "may not be changed in an update.");
    }
    found.immutable(o, Some(old), &["preemptionPolicy"]);
}

pub(super) fn lease(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    let seconds = o.get("spec.leaseDurationSeconds");
    if seconds.int().is_some_and(|seconds| seconds <= 0) {
        found.invalid(&seconds, "must be greater than 0");
    }
    found.non_negative(&o.get("spec.leaseTransitions"));
}

pub(super) fn resource_quota(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    const STANDARD: [&str; 13] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "configmaps",
        "persistentvolumeclaims",
        "pods",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "services",
        "services.loadbalancers",
        "services.nodeports",
        "storage",
    ];
    for (name, at) in o.get("spec.hard").members() {
        found.form_of(&at, name, names::qualified_name);
        let base = name.trim_start_matches("requests.").trim_start_matches("limits.");
        if !name.contains('/') && !STANDARD.contains(&base) && !base.starts_with("hugepages-") {
            found.invalid_value(&at, name, "must be a standard resource type or fully qualified");
            found.invalid_value(&at, name, "must be a standard resource for quota");
        }
        if let Some(quantity) = at.quantity().filter(crate::quantity::Quantity::is_negative) {
            found.invalid_value(&at, quantity.to_string(), "must be greater than or equal to 0");
        }
    }
}

pub(super) fn limit_range(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    for limit in o.get("spec.limits").each() {
        // What must not exceed what, and how it is said.
        for (low, high, low_word, high_word, at) in [
            ("min", "max", "min", "max", "min"),
            ("min", "defaultRequest", "min", "default request", "defaultRequest"),
            ("min", "default", "min", "default", "default"),
            ("defaultRequest", "max", "default request", "max", "defaultRequest"),
            ("defaultRequest", "default", "default request", "default limit", "defaultRequest"),
            ("default", "max", "default", "max", "default"),
        ] {
            for (name, lower) in limit.get(low).members() {
                let (Some(least), Some(most)) = (lower.quantity(), limit.get(high).key(name).quantity())
                else {
                    continue;
                };
                if least.as_millis() > most.as_millis() {
                    let shown = if at == "defaultRequest" && low == "min" { &most } else { &least };
                    let detail = format!("{low_word} value {least} is greater than {high_word} value {most}");
                    found.invalid_value(&limit.get(at).key(name), shown.to_string(), &detail);
                }
            }
        }
    }
}

pub(super) fn webhooks(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    let mut seen = std::collections::HashSet::new();
    for webhook in o.get("webhooks").each() {
        let name = webhook.get("name");
        if found.require(&name) {
            let before = found.count();
            found.form_of(&name, name.text(), names::dns1123_subdomain);
            if before == found.count() && name.text().split('.').count() < 3 {
                found.invalid(&name, "should be a domain with at least three segments separated by dots");
            }
            if !seen.insert(name.text()) {
                found.duplicate(&name);
            }
        }
        webhook.get("rules").each().for_each(|rule| webhook_rule(&rule, found));
        found.one_of(&webhook.get("failurePolicy"), &["Fail", "Ignore"]);
        found.one_of(&webhook.get("matchPolicy"), &["Equivalent", "Exact"]);
        let effects = webhook.get("sideEffects");
        match effects.is_set() {
            true => found.one_of(&effects, &["None", "NoneOnDryRun"]),
            false => found.required(&effects, "must specify one of None, NoneOnDryRun"),
        }
        let timeout = webhook.get("timeoutSeconds");
        if timeout.int().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
            found.invalid(&timeout, "the timeout value must be between 1 and 30 seconds");
        }
        for selector in ["namespaceSelector", "objectSelector"] {
            metadata::selector(&webhook.get(selector), found);
        }
        review_versions(&webhook.get("admissionReviewVersions"), found);
        client_config(&webhook.get("clientConfig"), found);
    }
}

fn review_versions(versions: &At<'_>, found: &mut Found) {
    if versions.is_empty() {
        found.required(versions, "must specify one of v1, v1beta1");
    } else if !versions.each().any(|version| matches!(version.text(), "v1" | "v1beta1")) {
        found.invalid(versions, "must include at least one of v1, v1beta1");
    }
}

fn webhook_rule(rule: &At<'_>, found: &mut Found) {
    for field in ["operations", "apiGroups", "apiVersions", "resources"].map(|field| rule.get(field)) {
        found.require(&field);
        if field.each().count() > 1
            && field.each().any(|value| value.text() == "*")
            && !field.path.ends_with("resources")
        {
            found.invalid(&field, "if '*' is present, must not specify other values");
        }
    }
    for operation in rule.get("operations").each() {
        found.one_of(&operation, &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]);
    }
    found.one_of(&rule.get("scope"), &["*", "Cluster", "Namespaced"]);
}

fn client_config(config: &At<'_>, found: &mut Found) {
    const FORM: &str = "desired format: https://host[/path]";
    let (url, service) = (config.get("url"), config.get("service"));
    if url.is_set() == service.is_set() {
        found.required(config, "exactly one of url or service is required");
    }
    if url.is_set() {
        match url.text().split_once("://") {
            Some(("https", host)) if host.is_empty() || host.starts_with('/') => {
                found.invalid_value(&url, "", &format!("host must be specified; {FORM}"));
            }
            Some(("https", _)) => {}
            scheme => {
                let scheme = scheme.map_or("", |(scheme, _)| scheme);
                found.invalid_value(&url, scheme, &format!("'https' is the only allowed URL scheme; {FORM}"));
            }
        }
    }
    if service.is_set() {
        found.require(&service.get("name"));
        found.require(&service.get("namespace"));
        let port = service.get("port");
        if port.int().is_some_and(|port| !(1..=65_535).contains(&port)) {
            found.invalid(&port, "port is not valid: must be between 1 and 65535, inclusive");
        }
    }
}
