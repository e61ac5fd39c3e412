//! Resident memory of each part, idle and with objects, beside the real processes.

use std::{env, fs, path::PathBuf};

use http::Method;
use tempfile::TempDir;

use crate::{
    client::{block_on, config_map, load, namespace, send, transport},
    figure,
    support::{embedded::Embedded, free_port, process::Process, real::Cluster},
};

const OBJECTS: usize = 10_000;

pub fn run() {
    for members in [0, 2, 10] {
        let dir = TempDir::new().unwrap();
        let up = Embedded::start_in(&dir.path().join("data"), &format!("127.0.0.1:{}", free_port()), members);
        figure("memory", &format!("hansa up --sandbox {members}, idle"), &resident(&up.process));
    }
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let up = Embedded::start_in(&data, &format!("127.0.0.1:{}", free_port()), 1);
    fill(&data.join("member1.kubeconfig"));
    figure(
        "memory",
        &format!("hansa up --sandbox 1 with {OBJECTS} ConfigMaps of 1 KiB"),
        &resident(&up.process),
    );
    if let Some(assets) = env::var_os("KUBEBUILDER_ASSETS") {
        let cluster = Cluster::start("real", &dir.path().join("real"), &PathBuf::from(assets));
        for process in &cluster.processes {
            figure("memory", &format!("{}, idle", process.name), &resident(process));
        }
        fill(&cluster.kubectl.kubeconfig);
        for process in &cluster.processes {
            figure("memory", &format!("{} with the same objects", process.name), &resident(process));
        }
    }
}

fn fill(kubeconfig: &std::path::Path) {
    let server = transport(kubeconfig, None);
    block_on(async {
        namespace(&server, "bench").await;
        let done = load(64, std::time::Duration::from_secs(600), |n| {
            let server = &server;
            async move {
                if n < OBJECTS {
                    send(
                        server,
                        Method::POST,
                        "/api/v1/namespaces/bench/configmaps",
                        &config_map(&format!("c{n}")),
                    )
                    .await;
                } else {
                    std::future::pending().await
                }
            }
        });
        // Every worker stops at the pending future; the last object being there ends the wait.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(300), async {
            tokio::select! { _ = done => (), () = counted(&server) => () }
        })
        .await;
    });
}

/// Returns once all objects are there.
async fn counted(server: &hansa_transport::Transport) {
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let page = send(server, Method::GET, "/api/v1/namespaces/bench/configmaps?limit=1", "").await;
        let page: serde_json::Value = serde_json::from_slice(&page).unwrap();
        // The cluster's own root certificate is one object more.
        if page["metadata"]["remainingItemCount"].as_u64().unwrap_or_default() + 1 >= OBJECTS as u64 {
            return;
        }
    }
}

fn resident(process: &Process) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("VmRSS: 0 kB");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or_default();
    format!("{:.0} MiB", kib / 1024.0)
}
