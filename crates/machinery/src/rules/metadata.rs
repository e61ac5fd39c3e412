//! Rules every object obeys: names, labels, annotations, owners, finalizers; and label selectors.

use super::at::{At, Found};
use crate::names;

/// All annotations of an object together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

pub(super) fn check(group: &str, kind: &str, object: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let metadata = object.get("metadata");
    match old {
        None => name(group, kind, &metadata, found),
        Some(old) => {
            let old = old.get("metadata");
            let fixed = [
                "name",
                "namespace",
                "uid",
                "creationTimestamp",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
            ];
            found.immutable(&metadata, Some(&old), &fixed);
            no_new_finalizers(&metadata, &old, found);
        }
    }
    labels(&metadata.get("labels"), found);
    annotations(&metadata.get("annotations"), found);
    owners(&metadata.get("ownerReferences"), found);
    finalizers(group, &metadata.get("finalizers"), found);
}

fn name(group: &str, kind: &str, metadata: &At<'_>, found: &mut Found) {
    let form: fn(&str) -> Vec<String> = match (group, kind) {
        ("", "Namespace" | "Service") | ("apps", "StatefulSet") => names::dns1123_label,
        ("rbac.authorization.k8s.io", _) => names::path_segment,
        _ => names::dns1123_subdomain,
    };
    let generated = metadata.get("generateName");
    if !generated.is_empty() {
        for problem in names::as_prefix(form, generated.text()) {
            found.invalid(&generated, &problem);
        }
    }
    let name = metadata.get("name");
    if name.is_empty() {
        found.required(&name, "name or generateName is required");
    } else {
        found.form_of(&name, name.text(), form);
    }
}

pub(super) fn labels(labels: &At<'_>, found: &mut Found) {
    for (key, value) in labels.members() {
        found.form_of(labels, key, names::qualified_name);
        found.form_of(labels, value.text(), names::label_value);
    }
}

fn annotations(annotations: &At<'_>, found: &mut Found) {
    let mut size = 0;
    for (key, value) in annotations.members() {
        // Keys may have upper case, which the form of a prefix has not.
        for problem in names::qualified_name(&key.to_lowercase()) {
            found.invalid_value(annotations, key, &problem);
        }
        size += key.len() + value.text().len();
    }
    if size > MAX_ANNOTATIONS {
        found.add(crate::status::Cause::too_long(&annotations.path, MAX_ANNOTATIONS as i64));
    }
}

fn owners(owners: &At<'_>, found: &mut Found) {
    let mut controller: Option<String> = None;
    for owner in owners.each() {
        let version = owner.get("apiVersion");
        if version.is_empty() {
            found.invalid(&version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            let at = owner.get(field);
            if at.is_empty() {
                found.required(&at, "must not be empty");
            }
        }
        if version.text() == "v1" && owner.get("kind").text() == "Event" {
            found.invalid(&owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.get("controller").is_true() {
            let this = format!("{}/{}", owner.get("kind").text(), owner.get("name").text());
            match &controller {
                Some(other) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {other} and {this}"
                    );
                    found.invalid(owners, &detail);
                }
                None => controller = Some(this),
            }
        }
    }
}

fn finalizers(group: &str, finalizers: &At<'_>, found: &mut Found) {
    let mut names_found = Vec::new();
    for finalizer in finalizers.each() {
        let name = finalizer.text();
        names_found.push(name);
        found.form_of(finalizers, name, names::qualified_name);
        let standard = ["kubernetes", "orphan", "foregroundDeletion"].contains(&name);
        // The API server's own extension kinds know no such rule.
        let is_custom = group == "apiextensions.k8s.io" || group.contains('.') && !group.ends_with(".k8s.io");
        if !name.contains('/') && !standard && !is_custom {
            found.invalid(&finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
    if names_found.contains(&"orphan") && names_found.contains(&"foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        found.invalid(finalizers, detail);
    }
}

fn no_new_finalizers(new: &At<'_>, old: &At<'_>, found: &mut Found) {
    if !old.get("deletionTimestamp").is_set() {
        return;
    }
    let known: Vec<&str> = old.get("finalizers").each().map(|f| f.text()).collect();
    let at = new.get("finalizers");
    let added: Vec<String> =
        at.each().map(|f| f.text()).filter(|f| !known.contains(f)).map(crate::field::quote).collect();
    if !added.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        found.forbidden(&at, &detail);
    }
}

/// A label selector; says whether it can be used.
pub(super) fn selector(selector: &At<'_>, found: &mut Found) -> bool {
    let before = found.count();
    labels(&selector.get("matchLabels"), found);
    for expression in selector.get("matchExpressions").each() {
        let (operator, values) = (expression.get("operator"), expression.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                found.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                found
                    .forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => found.invalid_value(&operator, operator.text(), "not a valid selector operator"),
        }
        let key = expression.get("key");
        found.form_of(&key, key.text(), names::qualified_name);
        values.each().for_each(|value| found.form_of(&value, value.text(), names::label_value));
    }
    before == found.count()
}
