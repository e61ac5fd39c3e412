//! Rules of Deployments, ReplicaSets, StatefulSets, DaemonSets and ReplicationControllers.

use super::{
    at::{At, Found},
    metadata, pod,
};
use crate::{names, selector::LabelSelector};

/// The selector of a workload and the template it has to match.
fn selector_and_template(spec: &At<'_>, kind: &str, found: &mut Found) {
    let selector = spec.get("selector");
    let mut usable = true;
    if !selector.is_set() {
        found.required(&selector, "");
    } else {
        usable = metadata::selector(&selector, found);
        if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
            found.invalid(&selector, &format!("empty selector is invalid for {kind}"));
        }
    }
    let template = spec.get("template");
    match LabelSelector::from_value(selector.value) {
        Ok(_) if !usable => found.invalid(&selector, "invalid label selector"),
        Err(_) => found.invalid(&selector, "invalid label selector"),
        Ok(selector) => {
            matches_template(&selector, &template, found);
            pod::template(&template, found);
        }
    }
}

pub(super) fn matches_template(selector: &LabelSelector, template: &At<'_>, found: &mut Found) {
    let labels = template.get("metadata.labels");
    if !selector.is_everything() && !selector.matches_value(labels.value) {
        found.invalid(&labels, "`selector` does not match template `labels`");
    }
}

/// Pods of a workload that runs for ever restart always and have no deadline.
fn runs_for_ever(template: &At<'_>, found: &mut Found) {
    let restart = template.get("spec.restartPolicy");
    let known = matches!(restart.text(), "OnFailure" | "Never");
    if known {
        found.not_supported(&restart, &["Always"]);
    }
    let deadline = template.get("spec.activeDeadlineSeconds");
    if deadline.is_set() {
        found.forbidden(&deadline, "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}

pub(super) fn deployment(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    found.non_negatives(
        &spec,
        &["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
    );
    selector_and_template(&spec, "deployment", found);
    runs_for_ever(&spec.get("template"), found);
    let strategy = spec.get("strategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "Recreate" if rolling.is_set() => {
            found.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_set() => {
            found.required(&rolling, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            found.int_or_percent(&unavailable);
            found.int_or_percent(&surge);
            if is_zero(&unavailable) && is_zero(&surge) {
                found.invalid(&unavailable, "may not be 0 when `maxSurge` is 0");
            }
            found.at_most_100_percent(&unavailable);
        }
        _ => {
            let supported = ["Recreate", "RollingUpdate"];
            found.add(crate::status::Cause::not_supported(&strategy.path, strategy.value.clone(), supported));
        }
    }
    let (deadline, ready) =
        (spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds").int().unwrap_or_default());
    if deadline.int().is_some_and(|deadline| deadline <= ready) {
        found.invalid(&deadline, "must be greater than minReadySeconds");
    }
    found.immutable(&spec, old.map(|old| old.get("spec")).as_ref(), &["selector"]);
}

/// 0, or 0 %.
fn is_zero(at: &At<'_>) -> bool {
    at.int() == Some(0)
        || at.text().strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok()) == Some(0)
}

pub(super) fn replica_set(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    found.non_negatives(&spec, &["replicas", "minReadySeconds"]);
    selector_and_template(&spec, "replicaset", found);
    runs_for_ever(&spec.get("template"), found);
    found.immutable(&spec, old.map(|old| old.get("spec")).as_ref(), &["selector"]);
}

pub(super) fn stateful_set(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    let policy = spec.get("podManagementPolicy");
    if found.require(&policy) && !matches!(policy.text(), "OrderedReady" | "Parallel") {
        found.invalid(&policy, "must be 'OrderedReady' or 'Parallel'");
    }
    let strategy = spec.get("updateStrategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "" => found.required(&strategy.get("type"), ""),
        "OnDelete" if rolling.is_set() => {
            found.invalid(&rolling, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            found.non_negative(&rolling.get("partition"));
            found.int_or_percent(&rolling.get("maxUnavailable"));
        }
        _ => found.invalid(&strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    for when in ["whenDeleted", "whenScaled"] {
        found.one_of(&retention.get(when), &["Retain", "Delete"]);
    }
    found.non_negatives(&spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"]);
    found.non_negative(&spec.get("ordinals.start"));
    found.form(&spec.get("serviceName"), names::dns1123_label);
    selector_and_template(&spec, "statefulset", found);
    runs_for_ever(&spec.get("template"), found);
    let fixed = ["selector", "volumeClaimTemplates", "serviceName", "podManagementPolicy"];
    found.immutable(&spec, old.map(|old| old.get("spec")).as_ref(), &fixed);
}

pub(super) fn daemon_set(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    selector_and_template(&spec, "daemonset", found);
    runs_for_ever(&spec.get("template"), found);
    found.non_negatives(&spec, &["minReadySeconds", "revisionHistoryLimit"]);
    let strategy = spec.get("updateStrategy");
    match strategy.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = strategy.get("rollingUpdate");
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            found.int_or_percent(&unavailable);
            found.int_or_percent(&surge);
            match (is_zero(&unavailable), is_zero(&surge)) {
                (true, true) => found.required(&unavailable, "cannot be 0 when maxSurge is 0"),
                (false, false) => found.invalid(&surge, "may not be set when maxUnavailable is non-zero"),
                _ => {}
            }
            found.at_most_100_percent(&unavailable);
        }
        _ => {
            let supported = ["RollingUpdate", "OnDelete"];
            found.add(crate::status::Cause::not_supported(&strategy.path, strategy.value.clone(), supported));
        }
    }
    found.immutable(&spec, old.map(|old| old.get("spec")).as_ref(), &["selector"]);
}

pub(super) fn replication_controller(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    found.non_negatives(&spec, &["replicas", "minReadySeconds"]);
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    found.require(&selector);
    if !template.is_set() {
        return found.required(&template, "");
    }
    matches_template(&LabelSelector::from_map(selector.value), &template, found);
    pod::template(&template, found);
    runs_for_ever(&template, found);
}
