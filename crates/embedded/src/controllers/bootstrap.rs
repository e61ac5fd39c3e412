//! What every cluster has from the start.

use hansa_machinery::Status;
use serde_json::{Value, json};

use crate::{PatchKind, Server, auth::upkeep, local::Local};

/// The namespaces of every cluster.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes what is missing. Nothing that exists is changed.
pub(crate) async fn run(server: &Server) -> Result<(), Status> {
    let local = server.local().as_manager("kube-apiserver");
    for name in NAMESPACES {
        ensure(&local, "namespaces", "", json!({"metadata": {"name": name}})).await?;
    }
    let address = server.options().service_cidr.first().to_string();
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    });
    ensure(&local, "services", "default", service).await?;
    advertise(server, &local).await?;
    upkeep::bootstrap(server).await
}

/// Tells where the `kubernetes` Service leads, if that is known.
async fn advertise(server: &Server, local: &Local) -> Result<(), Status> {
    let Some(address) = server.options().advertise else { return Ok(()) };
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    // Kubernetes refuses loopback addresses in both: a server that listens there only is reached by its own machine.
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        return Ok(());
    }
    let (ip, port) = (address.ip().to_string(), address.port());
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family, "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    for (resource, object) in [("endpoints", endpoints), ("endpointslices.discovery.k8s.io", slice)] {
        local.patch(resource, "", "default", "kubernetes", PatchKind::Apply, object).await?;
    }
    Ok(())
}

async fn ensure(local: &Local, resource: &str, namespace: &str, object: Value) -> Result<(), Status> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if local.entry(resource, namespace, name).is_some() {
        return Ok(());
    }
    match local.create(resource, namespace, object).await {
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        other => other.map(drop),
    }
}
