//! Rules of containers: names, images, ports, environment, mounts, probes, resources.

use std::collections::HashSet;

use super::at::{At, Found, config_key, environment_name, port_name};
use crate::names;

pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MODES: (i64, i64) = (0, i32::MAX as i64);

/// Fields of an object that Pods may ask for by reference.
const FIELD_PATHS: [&str; 14] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.labels",
    "metadata.annotations",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Checks the containers of a Pod; `volumes` are the names that mounts may use.
pub(super) fn all(spec: &At<'_>, volumes: &HashSet<&str>, found: &mut Found) {
    let mut seen = HashSet::new();
    let containers = spec.get("containers");
    found.require(&containers);
    let mut host_ports = HashSet::new();
    for container in containers.each() {
        check(&container, volumes, &mut seen, found);
        host_port_conflicts(&container, &mut host_ports, found);
    }
    // Init containers run one after the other: their ports do not meet.
    for container in spec.get("initContainers").each() {
        check(&container, volumes, &mut seen, found);
        host_port_conflicts(&container, &mut HashSet::new(), found);
        let restart = container.get("restartPolicy");
        found.one_of(&restart, &["Always"]);
    }
}

fn check<'a>(container: &At<'a>, volumes: &HashSet<&str>, seen: &mut HashSet<&'a str>, found: &mut Found) {
    let name = container.get("name");
    found.require_form(&name, names::dns1123_label);
    if !name.is_empty() && !seen.insert(name.text()) {
        found.duplicate(&name);
    }
    let image = container.get("image");
    if found.require(&image) && image.text().trim() != image.text() {
        found.invalid(&image, "must not have leading or trailing whitespace");
    }
    ports(&container.get("ports"), found);
    environment(&container.get("env"), found);
    environment_from(&container.get("envFrom"), found);
    mounts(&container.get("volumeMounts"), volumes, found);
    for (probe, may_repeat) in [("livenessProbe", false), ("readinessProbe", true), ("startupProbe", false)] {
        self::probe(&container.get(probe), may_repeat, found);
    }
    for hook in ["lifecycle.postStart", "lifecycle.preStop"] {
        let hook = container.get(hook);
        if hook.is_set() {
            handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], found);
        }
    }
    resources(&container.get("resources"), found);
    found.require_one_of(&container.get("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    found.one_of(&container.get("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"]);
    security(&container.get("securityContext"), found);
}

fn ports(ports: &At<'_>, found: &mut Found) {
    let mut seen = HashSet::new();
    for port in ports.each() {
        let name = port.get("name");
        let before = found.count();
        found.form(&name, port_name);
        if !name.is_empty() && before == found.count() && !seen.insert(name.text()) {
            found.duplicate(&name);
        }
        let number = port.get("containerPort");
        if found.require(&number) {
            found.port(&number);
        }
        let host = port.get("hostPort");
        if !host.is_empty() {
            found.port(&host);
        }
        found.require_one_of(&port.get("protocol"), &PROTOCOLS);
    }
}

fn host_port_conflicts(container: &At<'_>, taken: &mut HashSet<String>, found: &mut Found) {
    for port in container.get("ports").each() {
        let host = port.get("hostPort");
        if host.is_empty() {
            continue;
        }
        let number = host.int().unwrap_or_default();
        let identity = format!("{}/{}/{number}", port.get("protocol").text(), port.get("hostIP").text());
        if !taken.insert(identity.clone()) {
            found.add(crate::status::Cause::duplicate(&host.path, identity));
        }
    }
}

fn environment(env: &At<'_>, found: &mut Found) {
    const SOURCES: [&str; 5] =
        ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    for variable in env.each() {
        found.require_form(&variable.get("name"), environment_name);
        let from = variable.get("valueFrom");
        if !from.is_set() {
            continue;
        }
        match SOURCES.iter().filter(|source| from.get(source).is_set()).count() {
            0 => found.invalid_value(
                &from,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ),
            _ if !variable.get("value").is_empty() => {
                found.invalid_value(&from, "", "may not be specified when `value` is not empty");
            }
            1 => {}
            _ => found.invalid_value(&from, "", "may not have more than one field specified at a time"),
        }
        field_reference(&from.get("fieldRef"), found);
        for source in ["configMapKeyRef", "secretKeyRef"] {
            let source = from.get(source);
            if source.is_set() {
                let name = source.get("name");
                found.form_of(&name, name.text(), names::dns1123_subdomain);
                found.require_form(&source.get("key"), config_key);
            }
        }
        let resource = from.get("resourceFieldRef");
        if resource.is_set() {
            found.require(&resource.get("resource"));
        }
    }
}

pub(super) fn field_reference(reference: &At<'_>, found: &mut Found) {
    if !reference.is_set() {
        return;
    }
    let path = reference.get("fieldPath");
    let known = path.text().split_once("['").map_or(path.text(), |(base, _)| base);
    if found.require(&path) && !FIELD_PATHS.contains(&known) {
        found.invalid(
            &path,
            &format!("error converting fieldPath: field label not supported: {}", path.text()),
        );
    }
}

fn environment_from(sources: &At<'_>, found: &mut Found) {
    for source in sources.each() {
        found.form(&source.get("prefix"), environment_name);
        let (map, secret) = (source.get("configMapRef"), source.get("secretRef"));
        match (map.is_set(), secret.is_set()) {
            (false, false) => {
                found.invalid_value(sources, "", "must specify one of: `configMapRef` or `secretRef`")
            }
            (true, true) => {
                found.invalid_value(sources, "", "may not have more than one field specified at a time");
            }
            _ => {}
        }
        for reference in [map, secret].iter().filter(|reference| reference.is_set()) {
            found.require_form(&reference.get("name"), names::dns1123_subdomain);
        }
    }
}

fn mounts(mounts: &At<'_>, volumes: &HashSet<&str>, found: &mut Found) {
    let mut paths = HashSet::new();
    for mount in mounts.each() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        found.require(&name);
        if !volumes.contains(name.text()) {
            found.add(crate::status::Cause::not_found(&name.path, name.text()));
        }
        if found.require(&path) && !paths.insert(path.text()) {
            found.invalid(&path, "must be unique");
        }
        // Kubernetes leaves the index out of these two paths.
        for field in ["subPath", "subPathExpr"] {
            let at = At { path: format!("{}.{field}", mounts.path), ..mount.get(field) };
            relative_path(&at, found);
        }
    }
}

/// A path that stays below where it starts.
pub(super) fn relative_path(at: &At<'_>, found: &mut Found) {
    if at.text().starts_with('/') {
        found.invalid(at, "must be a relative path");
    }
    no_backsteps(at, found);
}

pub(super) fn no_backsteps(at: &At<'_>, found: &mut Found) {
    if at.text().split('/').any(|part| part == "..") {
        found.invalid(at, "must not contain '..'");
    }
}

fn probe(probe: &At<'_>, may_repeat: bool, found: &mut Found) {
    if !probe.is_set() {
        return;
    }
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], found);
    let counts =
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    found.non_negatives(probe, &counts);
    let success = probe.get("successThreshold");
    if !may_repeat && success.int().is_some_and(|count| count != 1) {
        found.invalid(&success, "must be 1");
    }
}

fn handler(at: &At<'_>, kinds: &[&str], found: &mut Found) {
    let given: Vec<At<'_>> = kinds.iter().map(|kind| at.get(kind)).filter(At::is_set).collect();
    if given.is_empty() {
        found.required(at, "must specify a handler type");
    }
    for (index, handler) in given.iter().enumerate() {
        if index > 0 {
            found.forbidden(handler, "may not specify more than 1 handler type");
            continue;
        }
        match handler.path.rsplit('.').next() {
            Some("exec") => {
                found.require(&handler.get("command"));
            }
            Some("httpGet") => {
                found.require(&handler.get("path"));
                found.port_or_name(&handler.get("port"));
                found.one_of(&handler.get("scheme"), &["HTTP", "HTTPS"]);
            }
            Some("tcpSocket") => found.port_or_name(&handler.get("port")),
            Some("grpc") => found.port(&handler.get("port")),
            _ => {}
        }
    }
}

/// The name of a resource that containers use, and whether it may be asked for in parts.
fn is_standard_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

fn resources(resources: &At<'_>, found: &mut Found) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    for list in [&limits, &requests] {
        for (name, at) in list.members() {
            resource_name(name, &at, found);
            let Some(quantity) = at.quantity() else { continue };
            if quantity.is_negative() {
                found.invalid_value(&at, quantity.to_string(), "must be greater than or equal to 0");
            }
            if !is_standard_resource(name) && quantity.as_millis() % 1000 != 0 {
                found.invalid_value(&at, quantity.to_string(), "must be an integer");
            }
        }
    }
    for (name, at) in requests.members() {
        let overcommits = is_standard_resource(name) && !name.starts_with("hugepages-");
        match (limits.key(name).quantity(), at.quantity()) {
            (Some(limit), Some(request)) => {
                if !overcommits && limit.as_millis() != request.as_millis() {
                    let detail = format!("must be equal to {name} limit of {limit}");
                    found.invalid_value(&requests, request.to_string(), &detail);
                } else if request.as_millis() > limit.as_millis() {
                    let detail = format!("must be less than or equal to {name} limit of {limit}");
                    found.invalid_value(&requests, request.to_string(), &detail);
                }
            }
            (None, Some(_)) if !overcommits && name.contains('/') => {
                found.required(&limits, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
}

fn resource_name(name: &str, at: &At<'_>, found: &mut Found) {
    found.form_of(at, name, names::qualified_name);
    if !name.contains('/') && !is_standard_resource(name) {
        // Resources that exist elsewhere, such as storage, are at least a type.
        if !matches!(name, "storage" | "pods" | "services") {
            found.invalid_value(at, name, "must be a standard resource type or fully qualified");
        }
        found.invalid_value(at, name, "must be a standard resource for containers");
    }
}

fn security(context: &At<'_>, found: &mut Found) {
    for field in ["runAsUser", "runAsGroup"] {
        found.between(&context.get(field), MODES.0, MODES.1);
    }
    let escalation = context.get("allowPrivilegeEscalation");
    if escalation.is_set() && !escalation.is_true() && context.get("privileged").is_true() {
        found.invalid(context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
    }
}
