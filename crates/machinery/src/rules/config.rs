//! Rules of ConfigMaps, Secrets, Nodes and Events.

use serde_json::Value;

use super::{
    at::{At, Found, config_key},
    pod,
};
use crate::status::Cause;

/// The most a ConfigMap or Secret holds.
const MAX_DATA: usize = 1024 * 1024;

pub(super) fn config_map(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let (data, binary) = (o.get("data"), o.get("binaryData"));
    let mut size = 0;
    for (key, value) in data.members() {
        found.form_of(&value, key, config_key);
        if binary.value.get(key).is_some() {
            found.invalid_value(&value, key, "duplicate of key present in binaryData");
        }
        size += value.text().len();
    }
    for (key, value) in binary.members() {
        found.form_of(&value, key, config_key);
        size += decoded_size(value.text());
    }
    if size > MAX_DATA {
        found.add(Cause::too_long("[]", MAX_DATA as i64));
    }
    stays_immutable(o, old, &["data", "binaryData"], found);
}

fn decoded_size(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

/// `immutable: true` stays, and so do the contents.
fn stays_immutable(o: &At<'_>, old: Option<&At<'_>>, contents: &[&str], found: &mut Found) {
    const DETAIL: &str = "field is immutable when `immutable` is set";
    let Some(old) = old.filter(|old| old.get("immutable").is_true()) else { return };
    if !o.get("immutable").is_true() {
        found.forbidden(&o.get("immutable"), DETAIL);
    }
    for field in contents {
        let (now, then) = (o.get(field), old.get(field));
        if now.value != then.value && !(now.is_empty() && then.is_empty()) {
            found.forbidden(&now, DETAIL);
        }
    }
}

pub(super) fn secret(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let data = o.get("data");
    let mut size = 0;
    for (key, value) in data.members() {
        found.form_of(&value, key, config_key);
        size += decoded_size(value.text());
    }
    if size > MAX_DATA {
        found.add(Cause::too_long("data", MAX_DATA as i64));
    }
    found.immutable(o, old, &["type"]);
    stays_immutable(o, old, &["data"], found);
    let has = |key: &str| data.value.get(key).is_some();
    let mut need = |keys: &[&str]| {
        for key in keys.iter().filter(|key| !has(key)) {
            found.required(&data.key(key), "");
        }
    };
    match o.get("type").text() {
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"]),
        "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").is_empty() => {
            found.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => need(&["username", "password"]),
        "kubernetes.io/dockerconfigjson" => docker_config(&data.key(".dockerconfigjson"), found),
        "kubernetes.io/dockercfg" => docker_config(&data.key(".dockercfg"), found),
        "kubernetes.io/service-account-token" => {
            let account = o.get("metadata.annotations").key("kubernetes.io/service-account.name");
            found.require(&account);
        }
        _ => {}
    }
}

fn docker_config(at: &At<'_>, found: &mut Found) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    if !at.is_set() {
        return found.required(at, "");
    }
    let bytes = STANDARD.decode(at.text()).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        let first = String::from_utf8_lossy(&bytes).trim_start().chars().next();
        let detail = match first {
            Some(first) if !error.is_eof() => {
                format!("invalid character '{first}' looking for beginning of value")
            }
            _ => "unexpected end of JSON input".to_owned(),
        };
        found.invalid_value(at, "<secret contents redacted>", &detail);
    }
}

pub(super) fn node(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let taints = At { path: "metadata.taints".into(), ..o.get("spec.taints") };
    let mut seen = Vec::new();
    for taint in taints.each() {
        let (key, effect) = (taint.get("key"), taint.get("effect"));
        found.form_of(&At { value: &Value::Null, ..key.clone() }, key.text(), crate::names::qualified_name);
        found.form(&taint.get("value"), crate::names::label_value);
        found.require_one_of(&effect, &pod::TAINT_EFFECTS);
        let identity = (key.text(), effect.text());
        if seen.contains(&identity) {
            found.duplicate(&taint);
        }
        seen.push(identity);
    }
    o.get("spec.podCIDRs").each().for_each(|cidr| found.cidr(&cidr));
    let Some(old) = old else { return };
    let (cidrs, provider) = ("spec.podCIDRs", "spec.providerID");
    if !old.get(cidrs).is_empty() && old.get(cidrs).value != o.get(cidrs).value {
        found.forbidden(&o.get(cidrs), "node updates may not change podCIDR except from \"\" to valid");
    }
    if !old.get(provider).is_empty() && old.get(provider).value != o.get(provider).value {
        found.invalid(&o.get(provider), "field cannot be modified once set");
    }
}

pub(super) fn event(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let involved = o.get("involvedObject.namespace");
    let namespace = o.get("metadata.namespace").text();
    // Events about things of the cluster stand in the default namespace.
    let fits = if involved.is_empty() {
        matches!(namespace, "" | "default" | "kube-system")
    } else {
        involved.text() == namespace
    };
    if old.is_none() && !fits {
        found.invalid_value(&involved, involved.text(), "does not match event.namespace");
    }
}
