//! `kill -9` at any moment loses no acknowledged write, and a restart goes on by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use support::{embedded::Embedded, free_port};
use tempfile::TempDir;

const ROUNDS: usize = 100;
const WRITERS: usize = 4;

type Acknowledged = Arc<Mutex<BTreeMap<String, u64>>>;

#[test]
fn a_hundred_kills_lose_no_acknowledged_write() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let listen = format!("127.0.0.1:{}", free_port());
    let acknowledged = Acknowledged::default();
    let next = Arc::new(AtomicU64::new(0));
    // A fixed sequence, so that a failure can be repeated; the moments are still arbitrary to the server.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..ROUNDS {
        let mut up = Embedded::start_in(&data, &listen, 0);
        runtime.block_on(async {
            let client = client(&data).await;
            check(&client, &acknowledged, round).await;
            let writers: Vec<_> = (0..WRITERS)
                .map(|_| tokio::spawn(write(client.clone(), acknowledged.clone(), next.clone())))
                .collect();
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            tokio::time::sleep(Duration::from_millis(random % 150)).await;
            up.process.kill();
            for writer in writers {
                writer.abort();
                let _ = writer.await;
            }
        });
    }
    let up = Embedded::start_in(&data, &listen, 0);
    runtime.block_on(async { check(&client(&data).await, &acknowledged, ROUNDS).await });
    let written = acknowledged.lock().unwrap().len();
    assert!(written > ROUNDS, "only {written} writes were acknowledged: the test did not test much");
    drop(up);
}

async fn client(data: &std::path::Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(data.join("kubeconfig")).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Creates objects and updates each once, until the server is gone.
async fn write(client: Client, acknowledged: Acknowledged, next: Arc<AtomicU64>) {
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    loop {
        let name = format!("write-{}", next.fetch_add(1, Ordering::Relaxed));
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.clone());
        for version in 1..=2 {
            object.data = Some(BTreeMap::from([("version".to_owned(), version.to_string())]));
            let written = if version == 1 {
                api.create(&PostParams::default(), &object).await
            } else {
                api.replace(&name, &PostParams::default(), &object).await
            };
            let Ok(written) = written else { return };
            acknowledged.lock().unwrap().insert(name.clone(), version);
            object.metadata = written.metadata;
        }
    }
}

async fn check(client: &Client, acknowledged: &Acknowledged, round: usize) {
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let found: BTreeMap<String, u64> = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .into_iter()
        .filter_map(|o| Some((o.metadata.name?, o.data?.get("version")?.parse().ok()?)))
        .collect();
    for (name, version) in acknowledged.lock().unwrap().iter() {
        // A write whose answer was lost may be there as well; one whose answer came must be.
        assert!(
            found.get(name).is_some_and(|f| f >= version),
            "after kill {round}: {name} was acknowledged at {version} but is {:?}",
            found.get(name)
        );
    }
}
