//! What the gateway adds to a request for a member.

use std::time::Duration;

use http::Method;
use tempfile::TempDir;

use crate::{
    client::{block_on, load, send, transport},
    figure, percentile,
    support::{embedded::Embedded, free_port},
};

pub fn run() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let _up = Embedded::start_in(&data, &format!("127.0.0.1:{}", free_port()), 1);
    let direct = transport(&data.join("member1.kubeconfig"), None);
    let through = transport(&data.join("kubeconfig"), Some("member1"));
    let mut medians = Vec::new();
    for (name, server) in [("direct", &direct), ("through the gateway", &through)] {
        let path = "/api/v1/namespaces/kube-system";
        for workers in [1, 32] {
            let (rate, latencies) = block_on(load(workers, Duration::from_secs(4), |_| async {
                drop(send(server, Method::GET, path, "").await)
            }));
            let (p50, p99) = (percentile(&latencies, 0.5), percentile(&latencies, 0.99));
            medians.push(p50);
            figure(
                "gateway",
                &format!("get from a member {name}, {workers} at once"),
                &format!("{rate:.0}/s, p50 {p50:.2} ms, p99 {p99:.2} ms"),
            );
        }
    }
    figure(
        "gateway",
        "added by the gateway, one at a time",
        &format!("p50 {:.2} ms", medians[2] - medians[0]),
    );
}
