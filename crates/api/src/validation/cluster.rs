//! KubeFedCluster (`spec/kubefed.md §1.1`).

use hansa_machinery::{field::Path, names, status::Cause};
use serde_json::Value;

use super::{endpoint, form, one_of, text};

/// What is wrong with the spec of a KubeFedCluster.
pub fn cluster(object: &Value) -> Vec<Cause> {
    let (spec, path, mut found) = (&object["spec"], Path::new("spec"), Vec::new());
    endpoint::check(&path.field("apiEndpoint"), text(&spec["apiEndpoint"]), &mut found);
    let secret = path.field("secretRef");
    form(&secret.field("name"), text(&spec["secretRef"]["name"]), names::dns1123_subdomain, &mut found);
    tls(&path.field("disabledTLSValidations"), &spec["disabledTLSValidations"], &mut found);
    proxy(&path.field("proxyURL"), text(&spec["proxyURL"]), &mut found);
    found
}

fn tls(path: &Path<'_>, disabled: &Value, found: &mut Vec<Cause>) {
    let disabled = disabled.as_array().map(Vec::as_slice).unwrap_or_default();
    for check in disabled {
        one_of(path, check, &["*", "SubjectName", "ValidityPeriod"], found);
    }
    if disabled.len() > 1 && disabled.iter().any(|check| check == "*") {
        let why = "when * is specified, it is expected to be the only option in list";
        found.push(Cause::invalid(path, disabled.to_vec(), why));
    }
}

fn proxy(path: &Path<'_>, url: &str, found: &mut Vec<Cause>) {
    if url.is_empty() {
        return;
    }
    match endpoint::Url::parse(url) {
        Err(_) => found.push(Cause::invalid(path, url, "error parsing the proxy URL")),
        Ok(parsed) if !matches!(parsed.scheme.as_str(), "http" | "https" | "socks5") => {
            let why = "proxy URL scheme must be one of: [http, https, socks5]";
            found.push(Cause::invalid(path, url, why));
        }
        Ok(_) => {}
    }
}

/// What is wrong with the status of a KubeFedCluster.
pub fn cluster_status(object: &Value) -> Vec<Cause> {
    let (status, mut found) = (Path::new("status"), Vec::new());
    let conditions = status.field("conditions");
    for (index, condition) in object["status"]["conditions"].as_array().into_iter().flatten().enumerate() {
        let path = conditions.index(index);
        let types = ["Ready", "Offline", "ConfigMalformed"];
        one_of(&path.field("type"), &condition["type"], &types, &mut found);
        one_of(&path.field("status"), &condition["status"], &["True", "False", "Unknown"], &mut found);
        if matches!(text(&condition["lastProbeTime"]), "" | "0001-01-01T00:00:00Z") {
            found.push(Cause::required(path.field("lastProbeTime"), ""));
        }
    }
    found
}
