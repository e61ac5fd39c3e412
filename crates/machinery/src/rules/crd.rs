//! Rules of CustomResourceDefinitions (`k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation`).

use serde_json::Value;

use super::at::{At, Found};
use crate::{field::Path, names, structural};

pub(super) fn definition(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let (spec, name) = (o.get("spec"), o.get("metadata.name"));
    let (group, plural) = (spec.get("group"), spec.get("names.plural"));
    if name.text() != format!("{}.{}", plural.text(), group.text()) && old.is_none() {
        found.invalid(&name, "must be spec.names.plural+\".\"+spec.group");
    }
    if found.require(&group) {
        let before = found.count();
        found.form(&group, names::dns1123_subdomain);
        if before == found.count() && !group.text().contains('.') {
            found.invalid(&group, "should be a domain with at least one dot");
        }
    }
    found.require_one_of(&spec.get("scope"), &["Cluster", "Namespaced"]);
    kind_names(&spec.get("names"), found);
    versions(&spec, found);
    conversion(&spec.get("conversion"), found);
    stored_versions(o, found);
    if spec.get("preserveUnknownFields").is_true() {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        found.invalid(&spec.get("preserveUnknownFields"), detail);
    }
    let protected = |suffix: &str| group.text() == suffix || group.text().ends_with(&format!(".{suffix}"));
    let approval = o.get("metadata.annotations").key("api-approved.kubernetes.io");
    if (protected("k8s.io") || protected("kubernetes.io")) && approval.is_empty() && old.is_none() {
        let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
        found.required(&approval, detail);
    }
    if let Some(old) = old {
        let old_spec = old.get("spec");
        found.immutable(&spec, Some(&old_spec), &["group", "names.plural"]);
        if is_established(old) {
            found.immutable(&spec, Some(&old_spec), &["scope", "names.kind"]);
        }
    }
}

fn is_established(o: &At<'_>) -> bool {
    let conditions = o.get("status.conditions");
    conditions.each().any(|c| c.get("type").text() == "Established" && c.get("status").text() == "True")
}

fn kind_names(at: &At<'_>, found: &mut Found) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = at.get(field);
        if found.require(&name) {
            // Kinds are checked as if they were written in lower case.
            let lower = if field.to_lowercase().contains("kind") {
                name.text().to_lowercase()
            } else {
                name.text().to_owned()
            };
            for problem in names::dns1035_label(&lower) {
                let detail = match lower == name.text() {
                    true => problem,
                    false => format!("may have mixed case, but should otherwise match: {problem}"),
                };
                found.invalid(&name, &detail);
            }
        }
    }
    for list in ["shortNames", "categories"] {
        at.get(list).each().for_each(|name| found.form_of(&name, name.text(), names::dns1035_label));
    }
    let (kind, list) = (at.get("kind"), at.get("listKind"));
    if !kind.is_empty() && kind.text() == list.text() {
        found.invalid(&list, "kind and listKind may not be the same");
    }
}

fn versions(spec: &At<'_>, found: &mut Found) {
    let versions = spec.get("versions");
    let all: Vec<At<'_>> = versions.each().collect();
    for (index, version) in all.iter().enumerate() {
        let name = version.get("name");
        found.form_of(&name, name.text(), names::dns1035_label);
        // The first version is also shown where it stood before there were several.
        if index == 0 && !name.is_empty() {
            let first = At { path: "spec.version".into(), ..name };
            found.form_of(&first, first.text(), names::dns1035_label);
        }
        let schema = version.get("schema.openAPIV3Schema");
        if !schema.is_set() {
            found.required(&schema, "");
        }
    }
    let count = |wanted: &str| all.iter().filter(|v| v.get("name").text() == wanted).count();
    if all.iter().any(|version| count(version.get("name").text()) > 1) {
        found.invalid(&versions, "must contain unique version names");
    }
    if all.iter().filter(|version| version.get("storage").is_true()).count() != 1 {
        found.invalid(&versions, "must have exactly one version marked as storage version");
    }
    // What all versions share is reported once, where it stood before there were several.
    let mut shared = |field: &str, path: &str, check: &mut dyn FnMut(&At<'_>, &mut Found)| {
        let values: Vec<At<'_>> = all.iter().map(|version| version.get(field)).collect();
        match values.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other.value == first.value) => {
                check(&At { path: path.to_owned(), ..first.clone() }, found);
            }
            _ => values.iter().for_each(|value| check(value, found)),
        }
    };
    shared("schema.openAPIV3Schema", "spec.validation.openAPIV3Schema", &mut |schema, found| {
        if schema.is_set() {
            found.extend(structural::check_schema(Path::new(&schema.path), schema.value));
        }
    });
    shared("subresources", "spec.subresources", &mut subresources);
    shared("additionalPrinterColumns", "spec.additionalPrinterColumns", &mut |columns, found| {
        columns.each().for_each(|column| printer_column(&column, found));
    });
    let schema = all.first().map(|version| version.get("schema.openAPIV3Schema"));
    shared("selectableFields", "spec.selectableFields", &mut |fields, found| {
        for field in fields.each() {
            let path = field.get("jsonPath");
            let node = path.text().split('.').skip(1).fold(schema.as_ref().map(|s| s.value), |node, part| {
                node.and_then(|node| node["properties"].get(part))
            });
            if !node
                .is_some_and(|node| matches!(node["type"].as_str(), Some("string" | "integer" | "boolean")))
            {
                found.invalid(&path, "is an invalid path: does not refer to a valid field");
            }
        }
    });
}

/// A path of names after dots, as scale and printer columns use.
fn is_simple_path(path: &str) -> bool {
    path.starts_with('.') && path.len() > 1
}

fn subresources(at: &At<'_>, found: &mut Found) {
    let scale = at.get("scale");
    if !scale.is_set() {
        return;
    }
    for (field, below) in
        [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status"), ("labelSelectorPath", "")]
    {
        let path = scale.get(field);
        if field == "labelSelectorPath" && path.is_empty()
            || field != "labelSelectorPath" && !found.require(&path)
        {
            continue;
        }
        let has_prefix = |prefix: &str| path.text().starts_with(&format!("{prefix}."));
        if !is_simple_path(path.text()) {
            found.invalid(&path, "must be a simple json path starting with .");
        } else if below.is_empty() && !has_prefix(".spec") && !has_prefix(".status") {
            found.invalid(&path, "should be a json path under either .spec or .status");
        } else if !below.is_empty() && !has_prefix(below) {
            found.invalid(&path, &format!("should be a json path under {below}"));
        }
    }
}

fn printer_column(column: &At<'_>, found: &mut Found) {
    const FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";
    found.require(&column.get("name"));
    let (kind, format) = (column.get("type"), column.get("format"));
    if kind.is_empty() {
        found.required(&kind, "must be one of boolean,date,integer,number,string");
    } else if !matches!(kind.text(), "boolean" | "date" | "integer" | "number" | "string") {
        found.invalid(&kind, "must be one of boolean,date,integer,number,string");
    }
    if !format.is_empty() && !FORMATS.split(',').any(|known| known == format.text()) {
        found.invalid(&format, &format!("must be one of {FORMATS}"));
    }
    let path = At { path: format!("{}.JSONPath", column.path), ..column.get("jsonPath") };
    if found.require(&path) && !is_simple_path(path.text()) {
        found.invalid(&path, "must be a simple json path starting with .");
    }
}

fn conversion(conversion: &At<'_>, found: &mut Found) {
    if !conversion.is_set() {
        return;
    }
    let strategy = conversion.get("strategy");
    found.require_one_of(&strategy, &["None", "Webhook"]);
    let config = At {
        path: format!("{}.webhookClientConfig", conversion.path),
        ..conversion.get("webhook.clientConfig")
    };
    let versions = At {
        path: format!("{}.conversionReviewVersions", conversion.path),
        ..conversion.get("webhook.conversionReviewVersions")
    };
    if strategy.text() == "Webhook" {
        if !config.is_set() {
            found.required(&config, "required when strategy is set to Webhook");
        }
        found.require(&versions);
    } else {
        if config.is_set() {
            found.forbidden(&config, "should not be set when strategy is not set to Webhook");
        }
        if !versions.is_empty() {
            found.forbidden(&versions, "should not be set when strategy is not set to Webhook");
        }
    }
}

/// Objects are stored in versions that the definition still knows.
fn stored_versions(o: &At<'_>, found: &mut Found) {
    let stored = o.get("status.storedVersions");
    if stored.is_empty() {
        return found.invalid_value(&stored, Value::Null, "must have at least one stored version");
    }
    let versions: Vec<At<'_>> = o.get("spec.versions").each().collect();
    for version in versions.iter().filter(|version| version.get("storage").is_true()) {
        let name = version.get("name").text();
        if !stored.each().any(|stored| stored.text() == name) {
            found.invalid(&stored, &format!("must have the storage version {name}"));
        }
    }
    for old in stored.each() {
        if !versions.iter().any(|version| version.get("name").text() == old.text()) {
            let name = old.text();
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            found.invalid(&old, &detail);
        }
    }
}
