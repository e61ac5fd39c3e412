//! Services and where they lead.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{AGE, Heading, NAME, Sheet, abridged, age, int, join, labels, list, non_empty, text};
use crate::table::name_of;

pub(super) static SERVICE: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Type", "core.v1.ServiceSpec", "type"),
        Heading::of("Cluster-IP", "core.v1.ServiceSpec", "clusterIP"),
        Heading::of("External-IP", "core.v1.ServiceSpec", "externalIPs"),
        Heading::of("Port(s)", "core.v1.ServiceSpec", "ports"),
        AGE,
        Heading::of("Selector", "core.v1.ServiceSpec", "selector").wide(),
    ],
    |object, now| {
        let ip = non_empty(text(object, "/spec/clusterIPs/0"), text(object, "/spec/clusterIP"));
        let ports: Vec<String> = list(object, "/spec/ports").iter().map(port).collect();
        vec![
            name_of(object),
            text(object, "/spec/type").into(),
            non_empty(ip, "<none>").into(),
            external_ip(object).into(),
            non_empty(&ports.join(","), "<none>").into(),
            age(object, now),
            labels(&object["spec"]["selector"]).into(),
        ]
        .into()
    },
);

fn port(port: &Value) -> String {
    let (number, protocol) = (int(port, "/port"), text(port, "/protocol"));
    match int(port, "/nodePort") {
        node if node > 0 => format!("{number}:{node}/{protocol}"),
        _ => format!("{number}/{protocol}"),
    }
}

fn external_ip(service: &Value) -> String {
    let external = join(list(service, "/spec/externalIPs").iter().filter_map(Value::as_str), ",");
    match text(service, "/spec/type") {
        "ClusterIP" | "NodePort" => non_empty(&external, "<none>").into(),
        "LoadBalancer" => match (load_balancer(service).as_str(), external.as_str()) {
            ("", "") => "<pending>".into(),
            ("", one) | (one, "") => one.into(),
            (balancer, external) => format!("{balancer},{external}"),
        },
        "ExternalName" => text(service, "/spec/externalName").into(),
        _ => "<unknown>".into(),
    }
}

/// The addresses that a load balancer gave to a Service or Ingress.
pub(super) fn load_balancer(object: &Value) -> String {
    let ingress = list(object, "/status/loadBalancer/ingress").iter();
    let addresses = ingress.map(|ingress| non_empty(text(ingress, "/ip"), text(ingress, "/hostname")));
    let addresses: BTreeSet<&str> = addresses.filter(|address| !address.is_empty()).collect();
    join(addresses.into_iter(), ",")
}

pub(super) static ENDPOINTS: Sheet =
    Sheet::new(&[NAME, Heading::of("Endpoints", "core.v1.Endpoints", "subsets"), AGE], |object, now| {
        vec![name_of(object), endpoints(object).into(), age(object, now)].into()
    });

fn endpoints(object: &Value) -> String {
    let subsets = list(object, "/subsets");
    if subsets.is_empty() {
        return "<none>".into();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let addresses = list(subset, "/addresses").iter().map(|address| text(address, "/ip"));
        match list(subset, "/ports") {
            [] => all.extend(addresses.map(str::to_owned)),
            ports => {
                for port in ports.iter().map(|port| int(port, "/port")) {
                    all.extend(addresses.clone().map(|ip| match ip.contains(':') {
                        true => format!("[{ip}]:{port}"),
                        false => format!("{ip}:{port}"),
                    }));
                }
            }
        }
    }
    if all.is_empty() { String::new() } else { abridged(all.iter().map(String::as_str)) }
}

pub(super) static ENDPOINT_SLICE: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("AddressType", "discovery.v1.EndpointSlice", "addressType"),
        Heading::of("Ports", "discovery.v1.EndpointSlice", "ports"),
        Heading::of("Endpoints", "discovery.v1.EndpointSlice", "endpoints"),
        AGE,
    ],
    |object, now| {
        let port = |port: &Value| match (&port["port"], &port["name"]) {
            (Value::Number(number), _) => number.to_string(),
            (_, Value::String(name)) => name.clone(),
            _ => "*".into(),
        };
        let ports: Vec<String> = list(object, "/ports").iter().map(port).collect();
        let addresses = list(object, "/endpoints").iter().flat_map(|endpoint| list(endpoint, "/addresses"));
        vec![
            name_of(object),
            text(object, "/addressType").into(),
            abridged(ports.iter().map(String::as_str)).into(),
            abridged(addresses.filter_map(Value::as_str)).into(),
            age(object, now),
        ]
        .into()
    },
);
