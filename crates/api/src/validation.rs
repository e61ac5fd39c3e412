//! What KubeFed's admission webhooks refuse, and what they fill in (`spec/kubefed.md §1.1–1.3`). Pure, on JSON: an object of any
//! shape gets an answer.

mod cluster;
mod config;
mod endpoint;
mod shape;
mod type_config;

use hansa_machinery::{field::Path, status::Cause};
use serde_json::Value;

pub use self::{
    cluster::{cluster, cluster_status},
    config::{config, defaulted},
    shape::{Misshapen, cluster_shape, config_shape, type_config_shape},
    type_config::{type_config, type_config_status},
};

/// Everything that is wrong, in one line as Kubernetes aggregates errors.
pub fn summary(causes: &[Cause]) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in causes {
        let line = format!("{}: {}", cause.field, cause.message);
        if !told.contains(&line) {
            told.push(line);
        }
    }
    match told.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// A text, empty where there is none.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A value that must be one of a few words.
fn one_of(path: &Path<'_>, value: &Value, accepted: &[&str], found: &mut Vec<Cause>) {
    match text(value) {
        "" => found.push(Cause::required(path, "")),
        word if accepted.contains(&word) => {}
        word => found.push(Cause::not_supported(path, word, accepted)),
    }
}

/// A text that must be there and have a form.
fn form(path: &Path<'_>, value: &str, check: fn(&str) -> Vec<String>, found: &mut Vec<Cause>) {
    if value.is_empty() {
        found.push(Cause::required(path, ""));
        return;
    }
    formed(path, value, value, check, found);
}

/// The same for a value that is checked in another form than it has.
fn formed(
    path: &Path<'_>,
    value: &str,
    checked: &str,
    check: fn(&str) -> Vec<String>,
    found: &mut Vec<Cause>,
) {
    let problems = check(checked);
    if !problems.is_empty() {
        found.push(Cause::invalid(path, value, problems.join(",")));
    }
}

#[cfg(test)]
mod tests;
