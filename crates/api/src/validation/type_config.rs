//! FederatedTypeConfig (`spec/kubefed.md §1.3`).

use hansa_machinery::{field::Path, names, status::Cause};
use serde_json::Value;

use super::{form, formed, one_of, text};

const SWITCH: [&str; 2] = ["Enabled", "Disabled"];
const CONTROLLER: [&str; 2] = ["Running", "NotRunning"];

/// What is wrong with the name and the spec of a FederatedTypeConfig.
pub fn type_config(object: &Value) -> Vec<Cause> {
    let (spec, path, mut found) = (&object["spec"], Path::new("spec"), Vec::new());
    name(object, &mut found);
    api_resource(&path.field("targetType"), &spec["targetType"], &mut found);
    one_of(&path.field("propagation"), &spec["propagation"], &SWITCH, &mut found);
    federated(&path.field("federatedType"), &spec["federatedType"], &mut found);
    if !spec["statusType"].is_null() {
        federated(&path.field("statusType"), &spec["statusType"], &mut found);
    }
    if !spec["statusCollection"].is_null() {
        one_of(&path.field("statusCollection"), &spec["statusCollection"], &SWITCH, &mut found);
    }
    found
}

/// The name is the target's: `deployments.apps`, `configmaps`.
fn name(object: &Value, found: &mut Vec<Cause>) {
    let target = &object["spec"]["targetType"];
    let (plural, group, name) =
        (text(&target["pluralName"]), text(&target["group"]), text(&object["metadata"]["name"]));
    let expected = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    if name != expected {
        let metadata = Path::new("metadata");
        let why = "name must be 'TARGET_PLURAL_NAME(.TARGET_GROUP_NAME)'";
        found.push(Cause::invalid(metadata.field("name"), name, why));
    }
}

fn api_resource(path: &Path<'_>, resource: &Value, found: &mut Vec<Cause>) {
    let group = text(&resource["group"]);
    if !group.is_empty() {
        formed(&path.field("group"), group, group, names::dns1123_subdomain, found);
    }
    form(&path.field("version"), text(&resource["version"]), names::dns1035_label, found);
    let (kind, at) = (text(&resource["kind"]), path.field("kind"));
    if kind.is_empty() {
        found.push(Cause::required(at, ""));
    } else {
        formed(&at, kind, &kind.to_lowercase(), names::dns1035_label, found);
    }
    form(&path.field("pluralName"), text(&resource["pluralName"]), names::dns1035_label, found);
    one_of(&path.field("scope"), &resource["scope"], &["Cluster", "Namespaced"], found);
}

/// A type of the federation's own, which is never in the core group.
fn federated(path: &Path<'_>, resource: &Value, found: &mut Vec<Cause>) {
    let group = text(&resource["group"]);
    if group.is_empty() {
        found.push(Cause::required(path.field("group"), ""));
    } else if !group.contains('.') {
        found.push(Cause::invalid(path.field("group"), group, "should be a domain with at least one dot"));
    }
    api_resource(path, resource, found);
}

/// What is wrong with the status of a FederatedTypeConfig (`spec/kubefed.md §0.16`).
pub fn type_config_status(object: &Value) -> Vec<Cause> {
    let (status, path, mut found) = (&object["status"], Path::new("status"), Vec::new());
    let generation = status["observedGeneration"].as_i64().unwrap_or(0);
    if generation < 0 {
        let why = "must be greater than or equal to 0";
        found.push(Cause::invalid(path.field("observedGeneration"), generation, why));
    }
    let propagation = &status["propagationController"];
    one_of(&path.field("propagationController"), propagation, &CONTROLLER, &mut found);
    if !status["statusController"].is_null() {
        one_of(&path.field("statusController"), &status["statusController"], &CONTROLLER, &mut found);
    }
    found
}
