//! Rules of Services, Endpoints and EndpointSlices.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    at::{At, Found},
    container::PROTOCOLS,
    metadata,
};
use crate::{names, status::Cause};

pub(super) fn service(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    let kind = spec.get("type");
    let of_type = |name: &str| kind.text() == name;
    let addresses = spec.get("clusterIPs");
    let headless = spec.get("clusterIP").text() == "None";
    if let Some(old) = old {
        update(&spec, &old.get("spec"), found);
    }
    match kind.text() {
        "ExternalName" => {
            let set = ["clusterIPs", "ipFamilies", "ipFamilyPolicy"]
                .into_iter()
                .filter(|f| !spec.get(f).is_empty());
            for field in set {
                found.forbidden(&spec.get(field), "may not be set for ExternalName services");
            }
            if !spec.get("clusterIP").is_empty() && addresses.is_empty() {
                found.forbidden(&addresses, "may not be set for ExternalName services");
            }
            let name = spec.get("externalName");
            if found.require(&name) {
                found.form_of(&name, name.text().trim_end_matches('.'), names::dns1123_subdomain);
            }
        }
        _ if spec.get("ports").is_empty() && !headless => found.required(&spec.get("ports"), ""),
        "NodePort" | "LoadBalancer" if headless => {
            let first = At { path: format!("{}[0]", addresses.path), ..spec.get("clusterIP") };
            found.invalid(&first, &format!("may not be set to 'None' for {} services", kind.text()));
        }
        _ => {}
    }
    found.require_one_of(&kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    ports(&spec, found);
    metadata::labels(&spec.get("selector"), found);
    affinity(&spec, found);
    if !of_type("ExternalName") {
        cluster_addresses(&spec, found);
    }
    spec.get("externalIPs").each().for_each(|address| found.ip(&address));
    let ranges = At { path: "spec.LoadBalancerSourceRanges".into(), ..spec.get("loadBalancerSourceRanges") };
    match of_type("LoadBalancer") {
        true => ranges
            .each()
            .for_each(|range| found.cidr(&At { value: &Value::from(range.text().trim()), ..range })),
        false if !ranges.is_empty() => {
            found.forbidden(&ranges, "may only be used when `type` is 'LoadBalancer'");
        }
        false => {}
    }
    traffic(&spec, found);
}

fn ports(spec: &At<'_>, found: &mut Found) {
    let ports = spec.get("ports");
    let many = ports.each().count() > 1;
    let kind = spec.get("type").text();
    let (mut seen_names, mut seen_ports, mut seen_nodes) = (HashSet::new(), HashSet::new(), HashSet::new());
    for port in ports.each() {
        let [name, number, protocol, target, node, app] =
            ["name", "port", "protocol", "targetPort", "nodePort", "appProtocol"]
                .map(|field| port.get(field));
        match name.is_empty() {
            true if many => found.required(&name, ""),
            true => {}
            false => {
                found.form(&name, names::dns1123_label);
                if !seen_names.insert(name.text()) {
                    found.duplicate(&name);
                }
            }
        }
        found.port(&number);
        found.require_one_of(&protocol, &PROTOCOLS);
        found.port_or_name(&target);
        found.form(&app, names::qualified_name);
        if matches!(kind, "ClusterIP" | "") && !node.is_empty() {
            found.forbidden(&node, "may not be used when `type` is 'ClusterIP'");
        }
        if !seen_ports.insert((number.int(), protocol.text())) {
            // Shown as Kubernetes keeps it: by protocol and port alone.
            let key = serde_json::json!({"Name": "", "Protocol": protocol.text(), "AppProtocol": null,
                "Port": number.value, "TargetPort": 0, "NodePort": 0});
            found.add(Cause::duplicate(&port.path, key));
        }
        if !node.is_empty() && !seen_nodes.insert((node.int(), protocol.text())) {
            let key = serde_json::json!({"Name": "", "Protocol": protocol.text(), "AppProtocol": null,
                "Port": 0, "TargetPort": 0, "NodePort": node.value});
            found.add(Cause::duplicate(&port.path, key));
        }
    }
}

fn affinity(spec: &At<'_>, found: &mut Found) {
    let affinity = spec.get("sessionAffinity");
    found.require_one_of(&affinity, &["ClientIP", "None"]);
    let timeout = spec.get("sessionAffinityConfig.clientIP.timeoutSeconds");
    if affinity.text() == "ClientIP" && timeout.int().is_some_and(|seconds| seconds <= 0 || seconds > 86_400)
    {
        found.invalid(&timeout, "must be greater than 0 and less than 86400");
    }
}

fn cluster_addresses(spec: &At<'_>, found: &mut Found) {
    let (one, all) = (spec.get("clusterIP"), spec.get("clusterIPs"));
    // The server fills the list from the single address before it asks here; a list that is given leads with it.
    if !all.is_empty() && all.each().next().is_some_and(|first| first.text() != one.text()) {
        match one.is_empty() {
            true => found.invalid(&all, "must be empty when `clusterIP` is not specified"),
            false => found.invalid(&all, "first value must match `clusterIP`"),
        }
    }
    let single = At { path: format!("{}[0]", all.path), ..one.clone() };
    let addresses: Vec<At<'_>> = match all.is_empty() {
        true if one.is_empty() => Vec::new(),
        true => vec![single],
        false => all.each().collect(),
    };
    for (index, address) in addresses.iter().enumerate() {
        match address.text() {
            "None" if index == 0 && addresses.len() > 1 => {
                found.invalid(&all, "'None' must be the first and only value");
            }
            "None" if index == 0 => {}
            _ => found.ip(address),
        }
    }
    for family in spec.get("ipFamilies").each() {
        found.one_of(&family, &["IPv4", "IPv6"]);
    }
    found.one_of(&spec.get("ipFamilyPolicy"), &["PreferDualStack", "RequireDualStack", "SingleStack"]);
}

fn traffic(spec: &At<'_>, found: &mut Found) {
    const LOCALITY: [&str; 2] = ["Cluster", "Local"];
    let kind = spec.get("type").text();
    let external = matches!(kind, "NodePort" | "LoadBalancer") || !spec.get("externalIPs").is_empty();
    let policy = spec.get("externalTrafficPolicy");
    if !policy.is_empty() {
        match external {
            true => found.one_of(&policy, &LOCALITY),
            false => found.invalid(&policy, "may only be set for externally-accessible services"),
        }
    }
    let health = spec.get("healthCheckNodePort");
    let checked = kind == "LoadBalancer" && policy.text() == "Local";
    if !health.is_empty() && !checked {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        found.invalid(&health, detail);
    }
    found.one_of(&spec.get("internalTrafficPolicy"), &LOCALITY);
    found.one_of(&spec.get("trafficDistribution"), &["PreferClose", "PreferSameZone", "PreferSameNode"]);
    for field in ["loadBalancerClass", "allocateLoadBalancerNodePorts"].map(|field| spec.get(field)) {
        if field.is_set() && kind != "LoadBalancer" {
            found.forbidden(&field, "may only be used when `type` is 'LoadBalancer'");
        }
    }
}

/// An address that is given stays, unless the Service had or gets none by its type.
fn update(new: &At<'_>, old: &At<'_>, found: &mut Found) {
    if [new, old].iter().any(|spec| spec.get("type").text() == "ExternalName") {
        return;
    }
    let first = |spec: &At<'_>| match spec.get("clusterIPs").each().next() {
        Some(first) => first.text().to_owned(),
        None => spec.get("clusterIP").text().to_owned(),
    };
    let (now, then) = (first(new), first(old));
    let all = new.get("clusterIPs");
    if !then.is_empty() && now != then {
        let at = At { path: format!("{}[0]", all.path), ..all };
        found.invalid(&at, "may not change once set");
    }
}

pub(super) fn endpoints(o: &At<'_>, _: Option<&At<'_>>, found: &mut Found) {
    for subset in o.get("subsets").each() {
        let lists = ["addresses", "notReadyAddresses"].map(|list| subset.get(list));
        if lists.iter().all(At::is_empty) {
            found.required(&subset, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in lists.iter().flat_map(At::each) {
            let ip = address.get("ip");
            found.ip(&ip);
            special_address(&ip, found);
            found.form(&address.get("hostname"), names::dns1123_label);
            found.form(&address.get("nodeName"), names::dns1123_subdomain);
        }
        let many = subset.get("ports").each().count() > 1;
        for port in subset.get("ports").each() {
            let name = port.get("name");
            if many && name.is_empty() {
                found.required(&name, "");
            }
            found.form(&name, names::dns1123_label);
            found.port(&port.get("port"));
            found.require_one_of(&port.get("protocol"), &PROTOCOLS);
        }
    }
}

/// Addresses that mean one host only are no endpoints.
fn special_address(at: &At<'_>, found: &mut Found) {
    use std::net::IpAddr;
    let Ok(ip) = at.text().parse::<IpAddr>() else { return found.invalid(at, "must be a valid IP address") };
    let (local, multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[0] == 224 && v4.octets()[1..3] == [0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] == 0xff02),
    };
    for (wrong, detail) in [
        (ip.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)"),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ] {
        if wrong {
            found.invalid(at, detail);
        }
    }
}

pub(super) fn endpoint_slice(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let kind = o.get("addressType");
    found.require_one_of(&kind, &["FQDN", "IPv4", "IPv6"]);
    found.immutable(o, old, &["addressType"]);
    for endpoint in o.get("endpoints").each() {
        let addresses = endpoint.get("addresses");
        found.require(&addresses);
        for address in addresses.each() {
            match kind.text() {
                "FQDN" => found.form_of(&address, address.text(), names::dns1123_subdomain),
                _ => {
                    found.ip(&address);
                    special_address(&address, found);
                }
            }
        }
        found.form(&endpoint.get("hostname"), names::dns1123_label);
    }
    let mut seen = HashSet::new();
    for port in o.get("ports").each() {
        let name = port.get("name");
        found.form(&name, names::dns1123_label);
        if !seen.insert(name.text()) {
            found.add(Cause::duplicate(&name.path, name.text()));
        }
        found.one_of(&port.get("protocol"), &PROTOCOLS);
        if port.get("port").is_set() {
            found.port(&port.get("port"));
        }
    }
}
