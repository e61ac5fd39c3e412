//! The nodes themselves.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    Options,
    client::{Client, Error},
    object::{Condition, Key, is_true, set_condition},
};

/// How many nodes the addresses reach for.
const MOST: usize = 250;

/// The n-th node, counted from 1.
fn node(options: &Options, n: usize) -> Value {
    let name = options.node_name(n);
    let zone =
        format!("{}-{}", options.region, char::from(b'a' + u8::try_from((n - 1) % 3).unwrap_or_default()));
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/region": options.region, "topology.kubernetes.io/zone": zone,
                "node.kubernetes.io/instance-type": "sandbox",
            },
        },
        "spec": {
            "podCIDR": format!("10.244.{n}.0/24"), "podCIDRs": [format!("10.244.{n}.0/24")],
            "providerID": format!("sandbox://{name}"),
        },
    })
}

/// What the kubelet of the n-th node reports.
fn status(options: &Options, n: usize, old: &Value, now: Timestamp) -> Value {
    let capacity = json!({
        "cpu": options.cpu, "memory": options.memory, "pods": options.pods.to_string(), "ephemeral-storage": "100Gi",
    });
    let version = format!("v{}", options.version);
    let name = options.node_name(n);
    let machine = crate::object::short_hash(&json!(name), None);
    let mut conditions = crate::object::items(&old["conditions"]).to_vec();
    let mut set = |kind, status, reason, message: &str| {
        set_condition(&mut conditions, &Condition { kind, status, reason, message: message.to_owned() }, now);
    };
    set("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available");
    set("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure");
    set("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available");
    set("Ready", true, "KubeletReady", "kubelet is posting ready status");
    json!({
        "capacity": capacity, "allocatable": capacity, "conditions": conditions,
        "addresses": [
            {"type": "InternalIP", "address": format!("172.18.0.{}", n + 1)}, {"type": "Hostname", "address": name},
        ],
        "nodeInfo": {
            "architecture": "amd64", "operatingSystem": "linux", "kernelVersion": "6.12.0", "osImage": "Hansa sandbox",
            "containerRuntimeVersion": "containerd://2.1.0", "kubeletVersion": version, "kubeProxyVersion": "",
            "bootID": machine, "machineID": machine, "systemUUID": machine,
        },
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    })
}

/// Makes the nodes that are missing, and makes those that are there report what they have.
pub(crate) async fn ensure(client: &Client, options: &Options, now: Timestamp) -> Result<(), Error> {
    for n in 1..=options.nodes.min(MOST) {
        let key = Key { namespace: String::new(), name: options.node_name(n) };
        let live = match client.get("nodes", &key)? {
            Some(live) => live,
            None => client.create("nodes", node(options, n)).await?,
        };
        let next = status(options, n, &live["status"], now);
        let parts = ["capacity", "allocatable", "nodeInfo", "addresses"];
        let right =
            parts.iter().all(|part| live["status"][part] == next[part]) && is_true(&live["status"], "Ready");
        if !right {
            let mut live = live;
            live["status"] = next;
            client.replace_status("nodes", live).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_differ_in_name_zone_address_and_range() {
        let options = Options::default();
        let (one, two) = (node(&options, 1), node(&options, 2));
        for path in ["/metadata/name", "/metadata/labels/topology.kubernetes.io~1zone", "/spec/podCIDR"] {
            assert!(one.pointer(path).is_some() && one.pointer(path) != two.pointer(path), "{path}");
        }
        let status = status(&options, 1, &Value::Null, Timestamp::now());
        assert!(is_true(&status, "Ready"));
        assert_eq!(status["allocatable"]["cpu"], "8");
    }
}
