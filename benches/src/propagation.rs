//! From a write on the host to the object on the tenth member, beside a bare loop that writes the same to the members.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures::future::join_all;
use hansa_transport::{Transport, empty};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{
    client::{block_on, config_map, namespace, send, transport},
    figure, percentile,
    support::{embedded::Embedded, free_port},
};

const MEMBERS: usize = 10;
const ONE_BY_ONE: usize = 200;
const AT_ONCE: usize = 500;

pub fn run() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let _up = Embedded::start_in(&data, &format!("127.0.0.1:{}", free_port()), MEMBERS);
    block_on(measure(&data));
}

async fn measure(data: &Path) {
    let host = transport(&data.join("kubeconfig"), Some("host"));
    let members: Vec<Transport> =
        (1..=MEMBERS).map(|i| transport(&data.join(format!("member{i}.kubeconfig")), None)).collect();
    namespace(&host, "bench").await;
    let placement =
        json!({"clusters": (1..=MEMBERS).map(|i| json!({"name": format!("member{i}")})).collect::<Vec<_>>()});
    let federated = |kind: &str, name: &str, template: Value| {
        json!({"apiVersion": "types.kubefed.io/v1beta1", "kind": kind, "metadata": {"name": name, "namespace": "bench"},
            "spec": {"template": template, "placement": placement}})
        .to_string()
    };
    let url = |plural: &str| format!("/apis/types.kubefed.io/v1beta1/namespaces/bench/{plural}");
    send(
        &host,
        Method::POST,
        &url("federatednamespaces"),
        &federated("FederatedNamespace", "bench", json!({})),
    )
    .await;

    let (sender, mut arrivals) = mpsc::channel(1024);
    for member in members.clone() {
        tokio::spawn(watch(member, sender.clone()));
    }
    // The namespace has arrived when a bare write into it succeeds; the watches are open when they tell of that write.
    join_all(members.iter().map(|m| until_written(m, "opening"))).await;
    arrived(&mut arrivals, "opening").await;

    let mut bare = Vec::new();
    let mut through = Vec::new();
    for n in 0..ONE_BY_ONE {
        let name = format!("bare-{n}");
        let started = Instant::now();
        join_all(members.iter().map(|m| create(m, &name))).await;
        bare.push(started.elapsed().as_secs_f64() * 1000.0);
        arrived(&mut arrivals, &name).await;

        let name = format!("one-{n}");
        let body = federated("FederatedConfigMap", &name, json!({"data": {"text": "x".repeat(900)}}));
        let started = Instant::now();
        send(&host, Method::POST, &url("federatedconfigmaps"), &body).await;
        arrived(&mut arrivals, &name).await;
        through.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    bare.sort_by(f64::total_cmp);
    through.sort_by(f64::total_cmp);
    for (name, times) in
        [("from the host's write to the tenth member", &through), ("a bare loop over ten members", &bare)]
    {
        let (p50, p99) = (percentile(times, 0.5), percentile(times, 0.99));
        figure("propagation", name, &format!("p50 {p50:.1} ms, p99 {p99:.1} ms"));
    }

    let started = Instant::now();
    let writes = (0..AT_ONCE).map(|n| async move { (n, format!("flood-bare-{n}")) });
    let names: Vec<String> = join_all(writes).await.into_iter().map(|(_, name)| name).collect();
    for chunk in names.chunks(32) {
        join_all(chunk.iter().flat_map(|name| members.iter().map(move |m| create(m, name)))).await;
    }
    let bare = (AT_ONCE * MEMBERS) as f64 / started.elapsed().as_secs_f64();
    drain(&mut arrivals, "flood-bare-", AT_ONCE * MEMBERS).await;

    let started = Instant::now();
    let bodies: Vec<String> = (0..AT_ONCE)
        .map(|n| {
            federated("FederatedConfigMap", &format!("flood-{n}"), json!({"data": {"text": "x".repeat(900)}}))
        })
        .collect();
    let host_writes = async {
        for chunk in bodies.chunks(32) {
            join_all(chunk.iter().map(|body| {
                send(
                    &host,
                    Method::POST,
                    "/apis/types.kubefed.io/v1beta1/namespaces/bench/federatedconfigmaps",
                    body,
                )
            }))
            .await;
        }
    };
    tokio::join!(host_writes, drain(&mut arrivals, "flood-", AT_ONCE * MEMBERS));
    let rate = (AT_ONCE * MEMBERS) as f64 / started.elapsed().as_secs_f64();
    figure(
        "propagation",
        "placements a second, 500 objects on ten members",
        &format!("{rate:.0}/s, {:.2} of the bare loop's {bare:.0}/s", rate / bare),
    );
}

async fn create(member: &Transport, name: &str) {
    send(member, Method::POST, "/api/v1/namespaces/bench/configmaps", &config_map(name)).await;
}

async fn until_written(member: &Transport, name: &str) {
    for _ in 0..600 {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/api/v1/namespaces/bench/configmaps")
            .header("content-type", "application/json")
            .body(hansa_transport::boxed(http_body_util::Full::from(config_map(name))))
            .unwrap();
        if member.request(request).await.unwrap().status().is_success() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the namespace did not reach a member");
}

/// Waits until `name` has arrived on every member.
async fn arrived(arrivals: &mut mpsc::Receiver<String>, name: &str) {
    drain(arrivals, name, MEMBERS).await;
}

async fn drain(arrivals: &mut mpsc::Receiver<String>, prefix: &str, count: usize) {
    let mut seen = 0;
    while seen < count {
        let name = tokio::time::timeout(Duration::from_secs(120), arrivals.recv())
            .await
            .expect("arrives in time")
            .unwrap();
        seen += usize::from(name.starts_with(prefix));
    }
}

/// Tells the name of every ConfigMap that is added to the namespace.
async fn watch(member: Transport, arrivals: mpsc::Sender<String>) {
    let request =
        Request::builder().uri("/api/v1/configmaps?watch=true&timeoutSeconds=600").body(empty()).unwrap();
    let mut body = member.request(request).await.unwrap().into_body();
    let mut buffer = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap();
            if event["type"] == "ADDED" && event["object"]["metadata"]["namespace"] == "bench" {
                let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if arrivals.send(name).await.is_err() {
                    return;
                }
            }
        }
    }
}
