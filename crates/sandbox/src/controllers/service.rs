//! Services: Endpoints and EndpointSlices that follow their Pods, and an address for load balancers.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::Again;
use crate::{
    client::{Deletion, Error},
    endpoints::{SERVICE_NAME, endpoints, slices},
    object::{Key, fingerprint, items, revision},
    world::{World, zone_of},
};

const SLICES: &str = "endpointslices.discovery.k8s.io";

/// An address from the network that is set aside for benchmarks (RFC 2544), which leads nowhere.
fn load_balancer_address(service: &Value) -> String {
    let [.., a, b] = fingerprint(&service["metadata"]["uid"]).to_be_bytes();
    format!("198.18.{a}.{b}")
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Again, Error> {
    let Some(service) = world.client.get("services", &key)? else {
        // Slices go with their owner; Endpoints have none.
        world.client.delete("endpoints", &key, Deletion::default()).await?;
        return Ok(None);
    };
    if !service["metadata"]["deletionTimestamp"].is_null() {
        return Ok(None);
    }
    if service["spec"]["type"] == "LoadBalancer"
        && items(&service["status"]["loadBalancer"]["ingress"]).is_empty()
    {
        let mut status = service["status"].clone();
        crate::object::object_at(&mut status, &["loadBalancer"])
            .insert("ingress".into(), json!([{"ip": load_balancer_address(&service), "ipMode": "VIP"}]));
        world.report("services", service.clone(), status).await?;
    }
    let Some(facts) = world.services.get(&key) else { return Ok(None) };
    if facts.data.selector.is_empty() {
        return Ok(None);
    }
    let mut pods = world.pods.of_namespace(&key.namespace, |pod| facts.data.selects(&pod.meta.labels));
    pods.sort_by(|a, b| a.meta.key.cmp(&b.meta.key));

    let wanted = endpoints(&service, &pods);
    match world.client.get("endpoints", &key)? {
        None => drop(world.client.create("endpoints", wanted).await?),
        Some(live) => {
            let mut next = live.clone();
            next["metadata"]["labels"] = wanted["metadata"]["labels"].clone();
            next["subsets"] = wanted["subsets"].clone();
            if next["subsets"].is_null() {
                crate::object::object_at(&mut next, &[]).remove("subsets");
            }
            if next != live {
                world.client.replace("endpoints", next).await?;
            }
        }
    }

    let of_service = |labels: &BTreeMap<String, String>| labels.get(SERVICE_NAME) == Some(&key.name);
    let uid = crate::object::text(&service["metadata"]["uid"]);
    let known = world.slices.of_namespace(&key.namespace, |slice| {
        of_service(&slice.meta.labels) && slice.meta.is_controlled_by(&uid)
    });
    let wanted = slices(&service, &pods, |node| zone_of(&world, node));
    let mut latest = 0;
    for slice in &wanted {
        let slice_key = crate::object::key(slice);
        let written = match world.client.get(SLICES, &slice_key)? {
            None => Some(world.client.create(SLICES, slice.clone()).await?),
            Some(live) => {
                let mut next = live.clone();
                next["metadata"]["labels"] = slice["metadata"]["labels"].clone();
                next["endpoints"] = slice["endpoints"].clone();
                next["ports"] = slice["ports"].clone();
                if next == live { None } else { Some(world.client.replace(SLICES, next).await?) }
            }
        };
        latest = latest.max(written.as_ref().map(revision).unwrap_or_default());
    }
    for slice in
        known.iter().filter(|known| wanted.iter().all(|slice| crate::object::key(slice) != known.meta.key))
    {
        world.client.delete(SLICES, &slice.meta.key, Deletion::default()).await?;
        world.slices.forgotten(&slice.meta.key, &slice.meta.uid).await?;
    }
    world.slices.caught_up(latest).await?;
    Ok(None)
}
