//! The embedded API server beside a real `etcd` and `kube-apiserver`, on the same requests over the same client.

use std::{env, path::PathBuf, time::Duration};

use hansa_transport::Transport;
use http::Method;
use tempfile::TempDir;

use crate::{
    client::{block_on, config_map, load, namespace, send, transport},
    figure, percentile,
    support::{embedded::Embedded, free_port, real::Cluster},
};

const TIME: Duration = Duration::from_secs(4);

pub fn run() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let embedded = Embedded::start_in(&data, &format!("127.0.0.1:{}", free_port()), 1);
    let mut rows = vec![("embedded", block_on(measure(&transport(&data.join("member1.kubeconfig"), None))))];
    drop(embedded);
    if let Some(assets) = env::var_os("KUBEBUILDER_ASSETS") {
        let cluster = Cluster::start_durable("real", &dir.path().join("real"), &PathBuf::from(assets));
        rows.push((
            "kube-apiserver + etcd",
            block_on(measure(&transport(&cluster.kubectl.kubeconfig, None))),
        ));
    }
    let reference = rows.last().map(|(_, figures)| figures.clone()).unwrap_or_default();
    for (server, figures) in &rows {
        for ((name, rate, p99), (_, other, _)) in figures.iter().zip(&reference) {
            let ratio = if rows.len() > 1 && *server == "embedded" {
                format!(", {:.1} x the real one", rate / other)
            } else {
                String::new()
            };
            figure("server", &format!("{server}: {name}"), &format!("{rate:.0}/s, p99 {p99:.1} ms{ratio}"));
        }
    }
}

async fn measure(server: &Transport) -> Vec<(String, f64, f64)> {
    namespace(server, "bench").await;
    let mut figures = Vec::new();
    for workers in [1, 64, 256] {
        let (rate, latencies) = load(workers, TIME, |n| async move {
            let body = config_map(&format!("c{workers}-{n}"));
            send(server, Method::POST, "/api/v1/namespaces/bench/configmaps", &body).await;
        })
        .await;
        figures.push((format!("durable creates, {workers} at once"), rate, percentile(&latencies, 0.99)));
    }
    for workers in [1, 64] {
        let (rate, latencies) = load(workers, TIME, |n| async move {
            let path = format!("/api/v1/namespaces/bench/configmaps/c1-{}", n % 100);
            send(server, Method::GET, &path, "").await;
        })
        .await;
        figures.push((format!("gets, {workers} at once"), rate, percentile(&latencies, 0.99)));
    }
    let (rate, latencies) = load(4, TIME, |_| async move {
        send(server, Method::GET, "/api/v1/namespaces/bench/configmaps?limit=500", "").await;
    })
    .await;
    figures.push(("lists of 500, 4 at once".to_owned(), rate, percentile(&latencies, 0.99)));
    figures
}
