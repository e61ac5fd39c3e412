//! The kubelets of all nodes: Pods run, end and go.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use super::Again;
use crate::{
    client::{Deletion, Error},
    kubelet::{Place, report},
    object::{Key, text},
    world::World,
};

/// Addresses that were given to Pods, for as long as nothing shows that they have them.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    given: Mutex<BTreeMap<Ipv4Addr, Key>>,
}

impl Addresses {
    /// The first free address of a node's range.
    fn give(&self, world: &World, range: &str, node: &str, key: &Key) -> Option<Ipv4Addr> {
        let (network, bits) = range.split_once('/')?;
        let (network, bits) =
            (network.parse::<Ipv4Addr>().ok()?, bits.parse::<u32>().ok().filter(|bits| *bits <= 30)?);
        let on_node = world.pods.all(|pod| pod.data.node == node && !pod.data.ip.is_empty());
        let used: std::collections::BTreeSet<Ipv4Addr> = on_node
            .iter()
            .filter(|pod| !pod.data.is_finished())
            .filter_map(|pod| pod.data.ip.parse().ok())
            .collect();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|_, key| world.pods.get(key).is_some_and(|pod| pod.data.ip.is_empty()));
        if let Some((address, _)) = given.iter().find(|(_, holder)| *holder == key) {
            return Some(*address);
        }
        // The first address is the network's, the second the node's own, the last the broadcast.
        let addresses = (2..(1u32 << (32 - bits)) - 1).map(|host| Ipv4Addr::from(u32::from(network) + host));
        let free =
            addresses.into_iter().find(|address| !used.contains(address) && !given.contains_key(address))?;
        given.insert(free, key.clone());
        Some(free)
    }
}

pub(crate) async fn reconcile(
    world: Arc<World>,
    addresses: Arc<Addresses>,
    key: Key,
) -> Result<Again, Error> {
    let Some(pod) = world.client.get("pods", &key)? else { return Ok(None) };
    let node_name = text(&pod["spec"]["nodeName"]);
    let uid = text(&pod["metadata"]["uid"]);
    let deleting = !pod["metadata"]["deletionTimestamp"].is_null();
    let gone = Deletion { uid: Some(&uid), grace: Some(0), ..Deletion::default() };
    if deleting {
        // Containers end as soon as they are told to.
        world.client.delete("pods", &key, gone).await?;
        return Ok(None);
    }
    if node_name.is_empty() || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return Ok(None);
    }
    let node_key = Key { namespace: String::new(), name: node_name.clone() };
    let Some(node) = world.client.get("nodes", &node_key)? else {
        // What ran on a node that was taken away does not run any more.
        world.client.delete("pods", &key, gone).await?;
        return Ok(None);
    };
    let Some(kept) = world.nodes.get(&node_key) else { return Err(Error::Behind("nodes")) };
    let host_ip = kept.data.ip.clone();
    let given = text(&pod["status"]["podIP"]);
    let pod_ip = if pod["spec"]["hostNetwork"] == true {
        host_ip.clone()
    } else if !given.is_empty() {
        given
    } else {
        let range = text(&node["spec"]["podCIDR"]);
        let Some(address) = addresses.give(&world, &range, &node_name, &key) else {
            tracing::warn!(%key, node = node_name, range, "no free address for a Pod");
            return Ok(Some(std::time::Duration::from_secs(5)));
        };
        address.to_string()
    };
    let place = Place { host_ip: &host_ip, pod_ip: &pod_ip, run_time: world.options.run_time };
    let next = report(&pod, place, world.now());
    world.report("pods", pod, next.status).await?;
    Ok(next.again)
}

/// Whether the kubelets have something to do with a Pod: also with one that is to go before it came to a node.
pub(crate) fn is_concerned(pod: &crate::pod::Pod) -> bool {
    pod.meta.deleting || (!pod.data.node.is_empty() && !pod.data.is_finished())
}
