//! The addresses behind a Service: its Endpoints and EndpointSlices.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{
    object::{fingerprint, items, owner_reference, text},
    pod::Pod,
};

/// How many endpoints one slice holds (`--max-endpoints-per-slice`).
const PER_SLICE: usize = 100;
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Who manages our slices: the name of Kubernetes' own controller, whose work this is.
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A port of a Service as one Pod serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    name: String,
    protocol: String,
    number: i64,
    app_protocol: Option<String>,
}

impl Port {
    fn to_value(&self, with_empty_name: bool) -> Value {
        let mut port = json!({"port": self.number, "protocol": self.protocol});
        if with_empty_name || !self.name.is_empty() {
            port["name"] = self.name.as_str().into();
        }
        if let Some(app_protocol) = &self.app_protocol {
            port["appProtocol"] = app_protocol.as_str().into();
        }
        port
    }
}

/// The Service's ports on one Pod; a named target port is looked up among its containers'.
fn ports(service: &Value, pod: &Pod) -> Vec<Port> {
    let found = items(&service["spec"]["ports"]).iter().filter_map(|port| {
        let number = match &port["targetPort"] {
            Value::String(name) => pod.data.ports.get(name).copied()?,
            Value::Null | Value::Number(_) => {
                port["targetPort"].as_i64().filter(|number| *number > 0).or_else(|| port["port"].as_i64())?
            }
            _ => return None,
        };
        Some(Port {
            name: text(&port["name"]),
            protocol: port["protocol"].as_str().unwrap_or("TCP").to_owned(),
            number,
            app_protocol: port["appProtocol"].as_str().map(str::to_owned),
        })
    });
    found.collect()
}

/// Pods that have an address and are not over.
fn serving<'a>(service: &'a Value, pods: &'a [Arc<Pod>]) -> impl Iterator<Item = (&'a Arc<Pod>, bool)> {
    let publish = service["spec"]["publishNotReadyAddresses"] == true;
    let pods = pods.iter().filter(|pod| !pod.data.ip.is_empty() && !pod.data.is_finished());
    pods.map(move |pod| (pod, publish || (pod.data.ready && !pod.meta.deleting)))
}

fn target(pod: &Pod) -> Value {
    json!({"kind": "Pod", "namespace": pod.meta.key.namespace, "name": pod.meta.key.name, "uid": pod.meta.uid})
}

fn hostname<'a>(service: &Value, pod: &'a Pod) -> Option<&'a str> {
    let within = service["metadata"]["name"] == pod.data.subdomain.as_str();
    (within && !pod.data.hostname.is_empty()).then_some(pod.data.hostname.as_str())
}

/// The Endpoints of a Service (deprecated, and still read by many).
pub(crate) fn endpoints(service: &Value, pods: &[Arc<Pod>]) -> Value {
    let mut subsets: BTreeMap<Vec<Port>, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for (pod, ready) in serving(service, pods) {
        let mut address = json!({"ip": pod.data.ip, "nodeName": pod.data.node, "targetRef": target(pod)});
        if let Some(hostname) = hostname(service, pod) {
            address["hostname"] = hostname.into();
        }
        let (readies, others) = subsets.entry(ports(service, pod)).or_default();
        if ready {
            readies.push(address);
        } else if !pod.meta.deleting {
            others.push(address);
        }
    }
    let subsets = subsets.into_iter().filter(|(_, (ready, others))| !ready.is_empty() || !others.is_empty());
    let subsets: Vec<Value> = subsets
        .map(|(ports, (ready, others))| {
            let mut subset = json!({});
            for (name, mut addresses) in [("addresses", ready), ("notReadyAddresses", others)] {
                addresses.sort_by_key(|address| text(&address["ip"]));
                if !addresses.is_empty() {
                    subset[name] = addresses.into();
                }
            }
            if !ports.is_empty() {
                subset["ports"] = ports.iter().map(|port| port.to_value(false)).collect();
            }
            subset
        })
        .collect();
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert("endpoints.kubernetes.io/managed-by".into(), "endpoint-controller".into());
    if service["spec"]["clusterIP"] == "None" {
        labels.insert("service.kubernetes.io/headless".into(), "".into());
    }
    let mut endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": service["metadata"]["name"], "namespace": service["metadata"]["namespace"], "labels": labels,
        },
    });
    if !subsets.is_empty() {
        endpoints["subsets"] = subsets.into();
    }
    endpoints
}

/// The EndpointSlices of a Service. Their names follow from the ports and their place, so that few change.
pub(crate) fn slices(
    service: &Value,
    pods: &[Arc<Pod>],
    zone_of: impl Fn(&str) -> Option<String>,
) -> Vec<Value> {
    let mut groups: BTreeMap<Vec<Port>, Vec<Value>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (pod, ready) in serving(service, pods).filter(|(pod, _)| seen.insert(pod.data.ip.clone())) {
        let mut endpoint = json!({
            "addresses": [pod.data.ip], "nodeName": pod.data.node, "targetRef": target(pod),
            "conditions": {"ready": ready, "serving": pod.data.ready, "terminating": pod.meta.deleting},
        });
        if let Some(zone) = zone_of(&pod.data.node) {
            endpoint["zone"] = zone.into();
        }
        if let Some(hostname) = hostname(service, pod) {
            endpoint["hostname"] = hostname.into();
        }
        groups.entry(ports(service, pod)).or_default().push(endpoint);
    }
    if groups.is_empty() {
        groups.insert(Vec::new(), Vec::new());
    }
    let name = text(&service["metadata"]["name"]);
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.as_str().into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service["spec"]["clusterIP"] == "None" {
        labels.insert("service.kubernetes.io/headless".into(), "".into());
    }
    let mut slices = Vec::new();
    for (ports, endpoints) in groups {
        let chunks: Vec<&[Value]> =
            if endpoints.is_empty() { vec![&[]] } else { endpoints.chunks(PER_SLICE).collect() };
        for (position, endpoints) in chunks.into_iter().enumerate() {
            let ports: Vec<Value> = ports.iter().map(|port| port.to_value(true)).collect();
            let suffix = fingerprint(&json!([service["metadata"]["uid"], ports, position]));
            slices.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    // A Service's name has at most 63 characters, a slice's 253.
                    "name": format!("{name}-{:08x}", suffix >> 32),
                    "namespace": service["metadata"]["namespace"],
                    "labels": labels,
                    "ownerReferences": [owner_reference("v1", "Service", service)],
                },
                "endpoints": endpoints,
                "ports": ports,
            }));
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodFacts;

    fn pod(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
        let data = PodFacts {
            ip: ip.into(),
            ready,
            node: "n".into(),
            ports: [("http".to_owned(), 8080)].into(),
            ..PodFacts::default()
        };
        let mut pod = Pod { meta: Default::default(), data };
        pod.meta.key.name = name.to_owned();
        Arc::new(pod)
    }

    fn service() -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {"ports": [{"name": "web", "port": 80, "targetPort": "http"}, {"name": "x", "port": 81}]},
        })
    }

    #[test]
    fn ready_pods_are_addresses_and_others_are_told_apart() {
        let endpoints = endpoints(&service(), &[pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false)]);
        let subset = &endpoints["subsets"][0];
        assert_eq!(subset["addresses"][0]["ip"], "10.0.0.1");
        assert_eq!(subset["notReadyAddresses"][0]["targetRef"]["name"], "b");
        assert_eq!(
            subset["ports"],
            json!([{"name": "web", "port": 8080, "protocol": "TCP"}, {"name": "x", "port": 81, "protocol": "TCP"}])
        );
        let mut service = service();
        service["spec"]["publishNotReadyAddresses"] = true.into();
        let published = super::endpoints(&service, &[pod("b", "10.0.0.2", false)]);
        assert_eq!(published["subsets"][0]["addresses"][0]["ip"], "10.0.0.2");
    }

    #[test]
    fn slices_are_bounded_and_keep_their_names() {
        let pods: Vec<_> = (0..150).map(|n| pod(&format!("p{n}"), &format!("10.0.1.{n}"), true)).collect();
        let zone = |_: &str| Some("z".to_owned());
        let slices = slices(&service(), &pods, zone);
        assert_eq!(
            slices.iter().map(|slice| items(&slice["endpoints"]).len()).collect::<Vec<_>>(),
            [100, 50]
        );
        assert_ne!(slices[0]["metadata"]["name"], slices[1]["metadata"]["name"]);
        let fewer = super::slices(&service(), &pods[..1], zone);
        assert_eq!(fewer[0]["metadata"]["name"], slices[0]["metadata"]["name"]);
        assert_eq!(fewer[0]["endpoints"][0]["zone"], "z");
        assert_eq!(
            super::slices(&service(), &[], zone).len(),
            1,
            "a Service without Pods has one empty slice"
        );
    }
}
