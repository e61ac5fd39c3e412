//! KubeFedConfig (`spec/kubefed.md §1.2`).

use hansa_machinery::{duration, field::Path, status::Cause};
use jiff::SignedDuration;
use serde_json::{Map, Value};

use super::{one_of, text};
use crate::kubefed::{KubeFedConfigSpec, feature};

const SWITCH: [&str; 2] = ["Enabled", "Disabled"];
/// Features of older versions of KubeFed. Manifests that name them keep working; they mean nothing.
const REMOVED: [&str; 2] = ["CrossClusterServiceDiscovery", "FederatedIngress"];

/// What is wrong with a KubeFedConfig; with `old`, whether it may follow that one.
pub fn config(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let (spec, path, mut found) = (&object["spec"], Path::new("spec"), Vec::new());
    let scope = path.field("scope");
    one_of(&scope, &spec["scope"], &["Cluster", "Namespaced"], &mut found);
    if let Some(old) = old
        && text(&old["spec"]["scope"]) != text(&spec["scope"])
    {
        found.push(Cause::invalid(scope, text(&spec["scope"]), "field is immutable"));
    }
    section(&path, spec, "controllerDuration", &mut found, |at, section, found| {
        for field in ["availableDelay", "unavailableDelay", "cacheSyncTimeout"] {
            period(&at.field(field), &section[field], found);
        }
    });
    section(&path, spec, "leaderElect", &mut found, leader_election);
    gates(&path.field("featureGates"), &spec["featureGates"], &mut found);
    section(&path, spec, "clusterHealthCheck", &mut found, |at, section, found| {
        for field in ["period", "timeout"] {
            period(&at.field(field), &section[field], found);
        }
        for field in ["failureThreshold", "successThreshold"] {
            count(&at.field(field), &section[field], found);
        }
    });
    section(&path, spec, "syncController", &mut found, |at, section, found| {
        count(&at.field("maxConcurrentReconciles"), &section["maxConcurrentReconciles"], found);
        one_of(&at.field("adoptResources"), &section["adoptResources"], &SWITCH, found);
    });
    section(&path, spec, "statusController", &mut found, |at, section, found| {
        count(&at.field("maxConcurrentReconciles"), &section["maxConcurrentReconciles"], found);
    });
    found
}

/// A part of the spec, which must be there.
fn section(
    path: &Path<'_>,
    spec: &Value,
    name: &str,
    found: &mut Vec<Cause>,
    check: impl FnOnce(&Path<'_>, &Value, &mut Vec<Cause>),
) {
    let at = path.field(name);
    match &spec[name] {
        Value::Null => found.push(Cause::required(at, "")),
        section => check(&at, section, found),
    }
}

fn leader_election(at: &Path<'_>, section: &Value, found: &mut Vec<Cause>) {
    let fields = ["leaseDuration", "renewDeadline", "retryPeriod"];
    let [lease, renew, retry] = fields.map(|field| period(&at.field(field), &section[field], found));
    if let (Some(lease), Some(renew)) = (lease, renew)
        && lease <= renew
    {
        let why = "leaseDuration must be greater than renewDeadline";
        found.push(Cause::invalid(at.field("leaseDuration"), section["leaseDuration"].clone(), why));
    }
    if let (Some(renew), Some(retry)) = (renew, retry)
        && renew.as_nanos().saturating_mul(10) <= retry.as_nanos().saturating_mul(12)
    {
        let why = "renewDeadline must be greater than retryPeriod*JitterFactor(1.2)";
        found.push(Cause::invalid(at.field("renewDeadline"), section["renewDeadline"].clone(), why));
    }
    // KubeFed had only the first two.
    let locks = ["configmaps", "endpoints", "leases"];
    one_of(&at.field("resourceLock"), &section["resourceLock"], &locks, found);
}

fn gates(path: &Path<'_>, gates: &Value, found: &mut Vec<Cause>) {
    let Value::Array(gates) = gates else {
        found.push(Cause::required(path, ""));
        return;
    };
    let (name_path, known) = (
        path.field("name"),
        [feature::PUSH_RECONCILER, feature::RAW_RESOURCE_STATUS_COLLECTION, feature::SCHEDULER_PREFERENCES],
    );
    let mut seen: Vec<&str> = Vec::new();
    for gate in gates {
        let name = text(&gate["name"]);
        if seen.contains(&name) {
            found.push(Cause::duplicate(name_path, name));
            continue;
        }
        seen.push(name);
        if !REMOVED.contains(&name) {
            one_of(&name_path, &gate["name"], &known, found);
        }
        one_of(&path.field("configuration"), &gate["configuration"], &SWITCH, found);
    }
}

/// A Go duration above zero; gives it where there is one.
fn period(path: &Path<'_>, value: &Value, found: &mut Vec<Cause>) -> Option<SignedDuration> {
    let Some(text) = value.as_str() else {
        found.push(Cause::required(path, ""));
        return None;
    };
    match duration::parse(text) {
        Ok(span) => {
            if span <= SignedDuration::ZERO {
                found.push(Cause::invalid(path, text, "should be greater than 0"));
            }
            Some(span)
        }
        Err(error) => {
            found.push(Cause::invalid(path, text, error.to_string()));
            None
        }
    }
}

fn count(path: &Path<'_>, value: &Value, found: &mut Vec<Cause>) {
    match value.as_i64() {
        None => found.push(Cause::required(path, "")),
        Some(count) if count <= 0 => found.push(Cause::invalid(path, count, "should be greater than 0")),
        Some(_) => {}
    }
}

/// The spec of a KubeFedConfig with every default filled in that it leaves open; `None` where it leaves none open. What is
/// there stays as it is, right or wrong: to refuse is the validating webhook's business.
pub fn defaulted(object: &Value) -> Option<Value> {
    let before = &object["spec"];
    let mut spec = match before {
        Value::Object(spec) => spec.clone(),
        Value::Null => Map::new(),
        _ => return None,
    };
    let Ok(Value::Object(mut defaults)) = serde_json::to_value(KubeFedConfigSpec::default().defaulted())
    else {
        return None;
    };
    // What a control plane serves is for its owner to say.
    defaults.remove("scope");
    let gates = defaults.remove("featureGates");
    for (name, section) in defaults {
        fill(spec.entry(name).or_insert(Value::Null), section);
    }
    if let Some(Value::Array(gates)) = gates {
        fill_gates(spec.entry("featureGates").or_insert(Value::Null), gates);
    }
    let spec = Value::Object(spec);
    (spec != *before).then_some(spec)
}

fn fill(value: &mut Value, default: Value) {
    match (value, default) {
        (value @ Value::Null, default) => *value = default,
        (Value::Object(value), Value::Object(default)) => {
            for (name, default) in default {
                fill(value.entry(name).or_insert(Value::Null), default);
            }
        }
        _ => {}
    }
}

fn fill_gates(value: &mut Value, defaults: Vec<Value>) {
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    if let Value::Array(gates) = value {
        for default in defaults {
            if !gates.iter().any(|gate| gate["name"] == default["name"]) {
                gates.push(default);
            }
        }
        gates.sort_by(|a, b| text(&a["name"]).cmp(text(&b["name"])));
    }
}
