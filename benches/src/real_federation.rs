//! A host and two members that are real clusters: a thousand federated ConfigMaps and two hundred Deployments, propagated by our
//! controllers and by KubeFed's own.

use std::{
    env,
    path::PathBuf,
    time::{Duration, Instant},
};

use hansa_transport::Transport;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client::{block_on, send, transport},
    controllers::Controllers,
    figure,
    support::{embedded, eventually, real::Cluster},
};

const CONFIG_MAPS: usize = 1_000;
const DEPLOYMENTS: usize = 200;
const MEMBERS: [&str; 2] = ["member1", "member2"];

pub fn run() {
    let Some(assets) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else { return };
    let dir = TempDir::new().unwrap();
    let start = |name: &'static str| {
        let (dir, assets) = (dir.path().join(name), assets.clone());
        std::thread::spawn(move || Cluster::start_durable(name, &dir, &assets))
    };
    let clusters = ["host", "member1", "member2"].map(start).map(|cluster| cluster.join().unwrap());
    let [host, members @ ..] = &clusters;
    let admin = host.token_kubeconfig(&dir.path().join("host.kubeconfig"));
    let installed = embedded::hansa(&admin, &["install"]);
    assert!(installed.status.success(), "{installed:?}");
    let controllers = Controllers::hansa(&admin, dir.path());
    for (name, cluster) in MEMBERS.iter().zip(members) {
        let kubeconfig = cluster.kubectl.kubeconfig.to_str().unwrap();
        eventually("a member joins", || {
            let joined = embedded::hansa(&admin, &["join", name, "--kubeconfig", kubeconfig]);
            let already = String::from_utf8_lossy(&joined.stderr).contains("already");
            (joined.status.success() || already).then_some(()).ok_or(format!("{joined:?}"))
        });
    }
    drop(controllers);
    let members: Vec<Transport> =
        members.iter().map(|member| transport(&member.kubectl.kubeconfig, None)).collect();
    let host = transport(&admin, None);
    block_on(async {
        let start = || Controllers::hansa(&admin, dir.path());
        measure("ours", &host, &members, start).await;
        if let Some(kubefed) = env::var_os("HANSA_KUBEFED_ASSETS") {
            let program = PathBuf::from(kubefed).join("kubefed-controller-manager");
            let start = || Controllers::kubefed(&program, &admin, dir.path());
            measure("kubefed", &host, &members, start).await;
        }
    });
}

async fn measure(name: &str, host: &Transport, members: &[Transport], start: impl Fn() -> Controllers) {
    let namespace = format!("bench-{name}");
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    send(host, Method::POST, "/api/v1/namespaces", &body.to_string()).await;
    federate(host, &namespace, "FederatedNamespace", &namespace, &json!({})).await;
    for number in 0..CONFIG_MAPS {
        let template = json!({"data": {"text": "x".repeat(900)}});
        federate(host, &namespace, "FederatedConfigMap", &format!("c{number}"), &template).await;
    }
    for number in 0..DEPLOYMENTS {
        let labels = json!({"app": format!("d{number}")});
        let template = json!({"metadata": {"labels": labels}, "spec": {
            "replicas": 0, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "nginx:1"}]}},
        }});
        federate(host, &namespace, "FederatedDeployment", &format!("d{number}"), &template).await;
    }
    let started = Instant::now();
    let mut controllers = start();
    let wanted = members.len() * (CONFIG_MAPS + DEPLOYMENTS);
    loop {
        controllers.process.check().unwrap_or_else(|error| panic!("{error}"));
        let mut found = 0;
        for member in members {
            found += count(member, &format!("/api/v1/namespaces/{namespace}/configmaps")).await;
            found += count(member, &format!("/apis/apps/v1/namespaces/{namespace}/deployments")).await;
        }
        if found >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = started.elapsed().as_secs_f64();
    let processor = controllers.at_rest().await;
    figure(
        "federation",
        &format!("{wanted} copies on two real members, {name}"),
        &format!("{took:.1} s, {processor:.1} s of processor time, peak {}", controllers.memory("VmHWM")),
    );
}

async fn federate(host: &Transport, namespace: &str, kind: &str, name: &str, template: &Value) {
    let clusters: Vec<Value> = MEMBERS.iter().map(|name| json!({"name": name})).collect();
    let object = json!({
        "apiVersion": "types.kubefed.io/v1beta1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": template, "placement": {"clusters": clusters}},
    });
    let plural = format!("{}s", kind.to_lowercase());
    let path = format!("/apis/types.kubefed.io/v1beta1/namespaces/{namespace}/{plural}");
    send(host, Method::POST, &path, &object.to_string()).await;
}

/// How many objects there are; a cluster's own certificate is no copy.
async fn count(member: &Transport, path: &str) -> usize {
    let body = hansa_transport::empty();
    let request = http::Request::get(format!("{path}?limit=1")).body(body).unwrap();
    let response = member.request(request).await.unwrap();
    if !response.status().is_success() {
        return 0;
    }
    let page = hansa_transport::collect(response.into_body(), 1 << 20).await.unwrap();
    let page: Value = serde_json::from_slice(&page).unwrap();
    let items = page["items"].as_array().into_iter().flatten();
    let first = items.filter(|item| item["metadata"]["name"] != "kube-root-ca.crt").count();
    first + usize::try_from(page["metadata"]["remainingItemCount"].as_u64().unwrap_or_default()).unwrap()
}
