//! What every cluster has from the start.

use hansa_machinery::Status;
use serde_json::{Value, json};

use crate::{Server, auth::upkeep, local::Local};

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
    upkeep::bootstrap(server).await
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
