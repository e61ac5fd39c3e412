//! Addresses and node ports of Services: each is given out once.

use std::{
    collections::HashSet,
    fmt,
    net::Ipv4Addr,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use hansa_machinery::status::Cause;
use rand::Rng;
use serde_json::{Map, Value, json};

use crate::store::Store;

/// The node ports Kubernetes gives out by default.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

/// A text that is not a usable range of addresses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of addresses such as 10.96.0.0/16 with a prefix length from 8 to 28")]
pub struct CidrError(String);

impl Cidr {
    /// What kubeadm uses.
    pub const DEFAULT: Self = Self { base: 0x0a60_0000, prefix: 16 };

    fn size(self) -> u32 {
        1 << (32 - self.prefix)
    }

    fn contains(self, address: u32) -> bool {
        // The first address is the network, the last the broadcast address.
        address > self.base && address < self.base + (self.size() - 1)
    }

    /// The first usable address, which is that of the `kubernetes` Service.
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let prefix: u8 = prefix.parse().ok().filter(|p| (8..=28).contains(p)).ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let base = u32::from(address) & (u32::MAX << (32 - prefix));
        Ok(Self { base, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<u32>,
    ports: HashSet<u16>,
}

/// What is given out.
#[derive(Debug)]
pub(crate) struct Services {
    cidr: Cidr,
    taken: Mutex<Taken>,
}

/// Addresses and ports reserved for a write; they are free again if it does not happen.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    services: &'a Services,
    addresses: Vec<u32>,
    ports: Vec<u16>,
}

impl Lease<'_> {
    /// The write happened.
    pub(crate) fn keep(mut self) {
        self.addresses.clear();
        self.ports.clear();
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut taken = self.services.lock();
        self.addresses.iter().for_each(|a| {
            taken.addresses.remove(a);
        });
        self.ports.iter().for_each(|p| {
            taken.ports.remove(p);
        });
    }
}

impl Services {
    pub(crate) fn new(cidr: Cidr) -> Self {
        Self { cidr, taken: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns what the Services in the store have.
    pub(crate) fn load(&self, store: &Store) {
        let Ok(page) = store.list("services", None, None, None, 0) else { return };
        for entry in page.entries {
            let Ok(service) = serde_json::from_slice::<Value>(&entry.object) else { continue };
            let mut taken = self.lock();
            taken.addresses.extend(addresses(&service));
            taken.ports.extend(ports(&service));
        }
    }

    /// Frees what a Service that is gone had.
    pub(crate) fn release(&self, service: &Value) {
        let mut taken = self.lock();
        addresses(service).for_each(|a| {
            taken.addresses.remove(&a);
        });
        ports(service).for_each(|p| {
            taken.ports.remove(&p);
        });
    }

    /// Frees what an update took away from a Service.
    pub(crate) fn release_difference(&self, live: &Value, new: &Value) {
        let (addresses_left, ports_left): (HashSet<u32>, HashSet<u16>) =
            (addresses(new).collect(), ports(new).collect());
        let mut taken = self.lock();
        addresses(live).filter(|a| !addresses_left.contains(a)).for_each(|a| {
            taken.addresses.remove(&a);
        });
        ports(live).filter(|p| !ports_left.contains(p)).for_each(|p| {
            taken.ports.remove(&p);
        });
    }

    /// Gives a Service what its type needs; what the caller asks for must be free.
    pub(crate) fn allocate(
        &self,
        service: &mut Value,
        live: Option<&Value>,
    ) -> Result<Lease<'_>, Vec<Cause>> {
        if let Some(live) = live {
            inherit(service, live);
        }
        let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        let (had_addresses, had_ports): (HashSet<u32>, HashSet<u16>) =
            live.map(|live| (addresses(live).collect(), ports(live).collect())).unwrap_or_default();
        let mut lease = Lease { services: self, addresses: Vec::new(), ports: Vec::new() };
        if kind == "ExternalName" {
            return Ok(lease);
        }
        families(service)?;
        let address = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        if address != "None" {
            let address = match address.as_str() {
                "" => self.any_address(),
                given => self.this_address(given, &had_addresses),
            };
            let address = address.map_err(|cause| vec![cause])?;
            if let Some(address) = address.reserved {
                lease.addresses.push(address);
            }
            service["spec"]["clusterIP"] = address.text.clone().into();
            service["spec"]["clusterIPs"] = json!([address.text]);
        } else {
            service["spec"]["clusterIPs"] = json!(["None"]);
        }
        let wants_ports = kind == "NodePort"
            || kind == "LoadBalancer" && service["spec"]["allocateLoadBalancerNodePorts"] != false;
        for (index, port) in service["spec"]["ports"].as_array_mut().into_iter().flatten().enumerate() {
            let given = port["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
            match given {
                Some(given) if had_ports.contains(&given) || lease.ports.contains(&given) => {}
                Some(given) => {
                    self.this_port(given, index).map_err(|cause| vec![cause])?;
                    lease.ports.push(given);
                }
                None if wants_ports => {
                    let found = self.any_port(index).map_err(|cause| vec![cause])?;
                    lease.ports.push(found);
                    port["nodePort"] = found.into();
                }
                None => {}
            }
        }
        Ok(lease)
    }

    fn any_address(&self) -> Result<Address, Cause> {
        let mut taken = self.lock();
        let usable = self.cidr.size() - 2;
        let start = rand::rng().random_range(0..usable);
        let candidates = (0..usable).map(|step| self.cidr.base + 1 + (start + step) % usable);
        let found = candidates.into_iter().find(|a| !taken.addresses.contains(a) && *a != self.cidr.base + 1);
        let found = found.ok_or_else(|| Cause {
            reason: "InternalError",
            field: "spec.clusterIPs".into(),
            message: "Internal error: failed to allocate a serviceIP: range is full".into(),
        })?;
        taken.addresses.insert(found);
        Ok(Address { text: Ipv4Addr::from(found).to_string(), reserved: Some(found) })
    }

    fn this_address(&self, given: &str, had: &HashSet<u32>) -> Result<Address, Cause> {
        let refuse = |why: String| Cause {
            reason: "FieldValueInvalid",
            field: "spec.clusterIPs".into(),
            message: format!("Invalid value: [{given:?}]: failed to allocate IP {given}: {why}"),
        };
        let Ok(address) = given.parse::<Ipv4Addr>().map(u32::from) else {
            return Err(refuse("it is not an IPv4 address".into()));
        };
        if had.contains(&address) {
            return Ok(Address { text: given.to_owned(), reserved: None });
        }
        if !self.cidr.contains(address) {
            return Err(refuse(format!(
                "the provided IP ({given}) is not in the valid range. The range of valid IPs is {}",
                self.cidr
            )));
        }
        if !self.lock().addresses.insert(address) {
            return Err(refuse("provided IP is already allocated".into()));
        }
        Ok(Address { text: given.to_owned(), reserved: Some(address) })
    }

    fn any_port(&self, index: usize) -> Result<u16, Cause> {
        let mut taken = self.lock();
        let (first, last) = (*NODE_PORTS.start(), *NODE_PORTS.end());
        let count = last - first + 1;
        let start = rand::rng().random_range(0..count);
        let found = (0..count).map(|step| first + (start + step) % count).find(|p| !taken.ports.contains(p));
        let found = found.ok_or_else(|| Cause {
            reason: "InternalError",
            field: format!("spec.ports[{index}].nodePort"),
            message: "Internal error: failed to allocate a nodePort: range is full".into(),
        })?;
        taken.ports.insert(found);
        Ok(found)
    }

    fn this_port(&self, given: u16, index: usize) -> Result<(), Cause> {
        let refuse = |why: String| Cause {
            reason: "FieldValueInvalid",
            field: format!("spec.ports[{index}].nodePort"),
            message: format!("Invalid value: {given}: {why}"),
        };
        if !NODE_PORTS.contains(&given) {
            return Err(refuse(
                "provided port is not in the valid range. The range of valid ports is 30000-32767".into(),
            ));
        }
        if !self.lock().ports.insert(given) {
            return Err(refuse("provided port is already allocated".into()));
        }
        Ok(())
    }
}

struct Address {
    text: String,
    reserved: Option<u32>,
}

/// Fills in the IP families of a Service as a cluster with IPv4 alone does (`initIPFamilyFields`).
fn families(service: &mut Value) -> Result<(), Vec<Cause>> {
    let spec = &mut service["spec"];
    // Who manages the endpoints of such a Service decides which families they are of.
    let unmanaged = spec["clusterIP"] == "None" && spec["selector"].as_object().is_none_or(Map::is_empty);
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = if unmanaged { "RequireDualStack" } else { "SingleStack" }.into();
    }
    let mut found: Vec<Value> = spec["ipFamilies"].as_array().cloned().unwrap_or_default();
    if !unmanaged {
        let invalid = |field: String, value: &Value, why: &str| Cause {
            reason: "FieldValueInvalid",
            field,
            message: format!("Invalid value: {value}: {why}"),
        };
        let mut causes = Vec::new();
        if spec["ipFamilyPolicy"] == "RequireDualStack" {
            let why = "this cluster is not configured for dual-stack services";
            causes.push(invalid("spec.ipFamilyPolicy".into(), &spec["ipFamilyPolicy"], why));
        }
        for (index, family) in found.iter().enumerate().filter(|(_, family)| **family != "IPv4") {
            let field = format!("spec.ipFamilies[{index}]");
            causes.push(invalid(field, family, "not configured on this cluster"));
        }
        if !causes.is_empty() {
            return Err(causes);
        }
    }
    if found.is_empty() {
        found.push("IPv4".into());
    }
    if let ([one], true) = (found.as_slice(), unmanaged && spec["ipFamilyPolicy"] != "SingleStack") {
        let other = if one == "IPv4" { "IPv6" } else { "IPv4" };
        found.push(other.into());
    }
    spec["ipFamilies"] = found.into();
    Ok(())
}

/// An update that leaves out what was allocated keeps it, as long as its type still needs it.
fn inherit(service: &mut Value, live: &Value) {
    let external = |service: &Value| service["spec"]["type"] == "ExternalName";
    if external(service) || external(live) {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilyPolicy", "ipFamilies"] {
        let empty = match &service["spec"][field] {
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => true,
        };
        if empty && !live["spec"][field].is_null() {
            service["spec"][field] = live["spec"][field].clone();
        }
    }
    let node_ports =
        |service: &Value| matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    if !node_ports(service) || !node_ports(live) {
        return;
    }
    let old = live["spec"]["ports"].as_array().cloned().unwrap_or_default();
    for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
        if port["nodePort"].as_u64().unwrap_or(0) == 0
            && let Some(old) =
                old.iter().find(|o| o["port"] == port["port"] && o["protocol"] == port["protocol"])
            && !old["nodePort"].is_null()
        {
            port["nodePort"] = old["nodePort"].clone();
        }
    }
}

fn addresses(service: &Value) -> impl Iterator<Item = u32> {
    let given = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    given.parse::<Ipv4Addr>().ok().map(u32::from).into_iter()
}

fn ports(service: &Value) -> impl Iterator<Item = u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports.filter_map(|port| u16::try_from(port["nodePort"].as_u64()?).ok()).filter(|p| *p > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Services {
        Services::new("10.0.0.0/28".parse().expect("a range"))
    }

    #[test]
    fn no_address_is_given_out_twice_and_a_full_range_is_told() {
        let services = services();
        let mut seen = HashSet::new();
        for _ in 0..13 {
            let mut service = json!({"spec": {"type": "ClusterIP"}});
            services.allocate(&mut service, None).expect("free").keep();
            assert!(seen.insert(service["spec"]["clusterIP"].to_string()), "{seen:?}");
        }
        let mut service = json!({"spec": {"type": "ClusterIP"}});
        assert!(
            services.allocate(&mut service, None).expect_err("full")[0].message.contains("range is full")
        );
    }

    #[test]
    fn an_abandoned_write_frees_what_it_reserved() {
        let services = services();
        let mut service = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.5", "ports": [{"port": 80, "nodePort": 30080}]}});
        drop(services.allocate(&mut service.clone(), None).expect("free"));
        services.allocate(&mut service, None).expect("free again").keep();
        let refused = services.allocate(&mut service, None).expect_err("taken");
        assert!(refused[0].message.contains("already allocated"), "{refused:?}");
        services.release(&service);
        services.allocate(&mut service, None).expect("released").keep();
    }

    #[test]
    fn an_update_keeps_the_address_and_the_node_ports() {
        let services = services();
        let mut live = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        services.allocate(&mut live, None).expect("free").keep();
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        services.allocate(&mut new, Some(&live)).expect("kept").keep();
        assert_eq!(new, live);
    }

    #[test]
    fn families_are_those_of_a_cluster_with_ipv4_alone() {
        let services = services();
        let of = |spec: Value| {
            let mut service = json!({"spec": spec});
            services
                .allocate(&mut service, None)
                .map(|_| json!([service["spec"]["ipFamilyPolicy"], service["spec"]["ipFamilies"]]))
        };
        assert_eq!(of(json!({})), Ok(json!(["SingleStack", ["IPv4"]])));
        assert_eq!(
            of(json!({"ipFamilyPolicy": "PreferDualStack"})),
            Ok(json!(["PreferDualStack", ["IPv4"]]))
        );
        let selected = json!({"clusterIP": "None", "selector": {"a": "b"}});
        assert_eq!(of(selected), Ok(json!(["SingleStack", ["IPv4"]])));
        assert_eq!(of(json!({"clusterIP": "None"})), Ok(json!(["RequireDualStack", ["IPv4", "IPv6"]])));
        let refused = of(json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}));
        assert_eq!(refused.map_err(|causes| causes.len()), Err(2));
    }

    #[test]
    fn ranges_are_parsed_strictly() {
        assert_eq!("10.96.0.0/16".parse(), Ok(Cidr::DEFAULT));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/16", "10.0.0.0/30"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
