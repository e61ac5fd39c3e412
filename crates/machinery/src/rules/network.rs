//! Rules of Ingresses, IngressClasses and NetworkPolicies.

use super::{
    at::{At, Found, parse_cidr},
    metadata,
};
use crate::names;

pub(super) fn ingress(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    let (default, rules) = (spec.get("defaultBackend"), spec.get("rules"));
    if rules.is_empty() && !default.is_set() {
        found.invalid_value(
            &spec,
            serde_json::Value::Null,
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if default.is_set() {
        backend(&default, found);
    }
    for rule in rules.each() {
        host(&rule.get("host"), found);
        let http = rule.get("http");
        if http.is_set() && found.require(&http.get("paths")) {
            http.get("paths").each().for_each(|path| ingress_path(&path, found));
        }
    }
    for tls in spec.get("tls").each() {
        for host in tls.get("hosts").each() {
            let form = if host.text().contains('*') { wildcard } else { names::dns1123_subdomain };
            found.form_of(&host, host.text(), form);
        }
    }
    found.form(&spec.get("ingressClassName"), names::dns1123_subdomain);
}

fn host(at: &At<'_>, found: &mut Found) {
    if at.is_empty() {
        return;
    }
    if at.text().parse::<std::net::IpAddr>().is_ok() {
        return found.invalid(at, "must be a DNS name, not an IP address");
    }
    let form = if at.text().contains('*') { wildcard } else { names::dns1123_subdomain };
    found.form_of(at, at.text(), form);
}

fn wildcard(name: &str) -> Vec<String> {
    let fits = name.strip_prefix("*.").is_some_and(|rest| names::dns1123_subdomain(rest).is_empty());
    match fits {
        true => Vec::new(),
        false => vec![
            r"a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        ],
    }
}

fn ingress_path(at: &At<'_>, found: &mut Found) {
    let (path, kind) = (at.get("path"), at.get("pathType"));
    match kind.text() {
        "Exact" | "Prefix" => {
            if !path.text().starts_with('/') {
                found.invalid(&path, "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.text().contains(part) {
                    found.invalid(&path, &format!("must not contain '{part}'"));
                }
            }
            for end in ["/..", "/."] {
                if path.text().ends_with(end) {
                    found.invalid(&path, &format!("cannot end with '{end}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.text().starts_with('/') {
                found.invalid(&path, "must be an absolute path");
            }
        }
        "" => found.required(&kind, "pathType must be specified"),
        _ => found.not_supported(&kind, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(&at.get("backend"), found);
}

fn backend(at: &At<'_>, found: &mut Found) {
    let (service, resource) = (at.get("service"), at.get("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => found.invalid_value(at, "", "cannot set both resource and service backends"),
        (false, false) => found.invalid_value(at, "", "resource or service backend is required"),
        (false, true) => {
            found.require(&resource.get("kind"));
            found.require(&resource.get("name"));
        }
        (true, false) => {
            found.require_form(&service.get("name"), names::dns1123_label);
            let (name, number) = (service.get("port.name"), service.get("port.number"));
            match (name.is_empty(), number.is_empty()) {
                (false, false) => found.invalid_value(at, "", "cannot set both port name & port number"),
                (true, true) => found.required(at, "port name or number is required"),
                (false, true) => found.form_of(&name, name.text(), super::at::port_name),
                (true, false) => found.port(&number),
            }
        }
    }
}

pub(super) fn ingress_class(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let controller = o.get("spec.controller");
    if found.require(&controller) {
        // A domain and a path.
        let domain = controller.text().split('/').next().unwrap_or_default();
        if controller.text().len() > 250 {
            found.add(crate::status::Cause::too_long(&controller.path, 250));
        }
        match controller.text().contains('/') {
            true => found.form_of(&controller, domain, names::dns1123_subdomain),
            false => found.invalid(&controller, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
        }
    }
    found.immutable(&o.get("spec"), old.map(|old| old.get("spec")).as_ref(), &["controller"]);
}

pub(super) fn policy(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    metadata::selector(&spec.get("podSelector"), found);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(direction).each() {
            rule.get("ports").each().for_each(|port| policy_port(&port, found));
            rule.get(peers).each().for_each(|peer| policy_peer(&peer, found));
        }
    }
    for kind in spec.get("policyTypes").each() {
        found.one_of(&kind, &["Ingress", "Egress"]);
    }
}

fn policy_port(at: &At<'_>, found: &mut Found) {
    let (port, end) = (at.get("port"), at.get("endPort"));
    found.one_of(&at.get("protocol"), &["TCP", "UDP", "SCTP"]);
    if port.is_set() {
        found.port_or_name(&port);
    }
    if !end.is_set() {
        return;
    }
    match (port.int(), end.int().unwrap_or_default()) {
        (None, _) if port.is_set() => found.invalid(&end, "may not be specified when `port` is non-numeric"),
        (None, _) => found.invalid(&end, "may not be specified when `port` is not specified"),
        (Some(start), last) if last < start => found.invalid(&end, "must be greater than or equal to `port`"),
        _ => found.port(&end),
    }
}

fn policy_peer(at: &At<'_>, found: &mut Found) {
    let (block, pods, namespaces) = (at.get("ipBlock"), at.get("podSelector"), at.get("namespaceSelector"));
    for selector in [&pods, &namespaces] {
        metadata::selector(selector, found);
    }
    if block.is_set() {
        ip_block(&block, found);
        if pods.is_set() || namespaces.is_set() {
            found.forbidden(at, "may not specify both ipBlock and another peer");
        }
    } else if !pods.is_set() && !namespaces.is_set() {
        found.required(at, "must specify a peer");
    }
}

fn ip_block(block: &At<'_>, found: &mut Found) {
    let cidr = block.get("cidr");
    if !found.require(&cidr) {
        return;
    }
    found.cidr(&cidr);
    let Some((network, length)) = parse_cidr(cidr.text()) else { return };
    for except in block.get("except").each() {
        match parse_cidr(except.text()) {
            None => found.cidr(&except),
            Some((address, inner)) => {
                let same_family = cidr.text().contains(':') == except.text().contains(':');
                let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
                if !same_family || inner <= length || address & mask != network & mask {
                    found.invalid(&except, "must be a strict subset of `cidr`");
                }
            }
        }
    }
}
