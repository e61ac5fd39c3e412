//! What goes beyond KubeFed, where a control plane stops and members fail: embedded clusters in this process.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail so

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hansa_federation::key::Key;
use hansa_federation::preview::{self, Effect, Host, Proposal, Reach};
use serde_json::{Value, json};
use support::{Cluster, World, federated, on};

const SYSTEM: &str = "/apis/core.kubefed.io/v1beta1/namespaces/kube-federation-system";
const CONF: &str = "/api/v1/namespaces/shop/configmaps/conf";
const FED_CONF: &str = "/apis/types.kubefed.io/v1beta1/namespaces/shop/federatedconfigmaps/conf";
const RECORD: &str = "/apis/core.kubefed.io/v1alpha1/namespaces/shop/propagatedversions/configmap-conf";

fn config_map(data: &str, placement: Value, overrides: Value) -> Value {
    federated(
        "ConfigMap",
        "shop",
        "conf",
        json!({"template": {"data": {"a": data}}, "placement": placement, "overrides": overrides}),
    )
}

async fn label(world: &World, member: &str, tier: Option<&str>) {
    let path = format!("{SYSTEM}/kubefedclusters/{member}");
    world.host.patch(&path, json!({"metadata": {"labels": {"tier": tier}}})).await;
}

/// The hashes say nothing of a member's labels; the record does, so that a restart neither writes what is right nor misses what is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_relabelled_while_the_control_plane_is_down_is_given_its_overrides_and_nobody_else_is_written_to()
 {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    label(&world, "m1", Some("gold")).await;
    let gold = json!({"matchLabels": {"tier": "gold"}});
    let overrides = json!([{"clusterSelector": gold, "strategicMergePatch": {"data": {"a": "gold"}}}]);
    world.host.create(&config_map("plain", on(&["m1", "m2"]), overrides)).await;
    let says = |member: &Cluster, text: &'static str| {
        let member = member.clone();
        async move { member.until(CONF, move |object| object["data"]["a"] == text).await }
    };
    says(world.member("m1"), "gold").await;
    says(world.member("m2"), "plain").await;
    world.propagated(FED_CONF).await;
    let version = |object: &Value, chosen: &str| {
        format!("rv:{}{chosen}", object["metadata"]["resourceVersion"].as_str().unwrap())
    };
    let (m1, m2) = (world.member("m1").get(CONF).await.unwrap(), world.member("m2").get(CONF).await.unwrap());
    let expected = json!([
        {"clusterName": "m1", "version": version(&m1, ";overrides=0")},
        {"clusterName": "m2", "version": version(&m2, "")},
    ]);
    world.host.until(RECORD, |record| record["status"]["clusterVersions"] == expected).await;

    world.stop().await;
    label(&world, "m2", Some("gold")).await;
    world.member("m1").door.writes();
    world.run();
    says(world.member("m2"), "gold").await;
    let record = world
        .host
        .until(RECORD, |record| {
            record["status"]["clusterVersions"][1]["version"].as_str().unwrap().ends_with(";overrides=0")
        })
        .await;
    assert_eq!(record["status"]["clusterVersions"][0], expected[0]);
    assert_eq!(world.member("m1").door.writes(), [""; 0]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_cannot_be_asked_is_told_of_and_costs_a_preview_of_the_others_nothing() {
    let mut world = World::start(4).await;
    world.namespace("shop").await;
    world.host.create(&config_map("old", on(&["m1", "m2", "m3"]), Value::Null)).await;
    world.propagated(FED_CONF).await;
    let host = Host::read(world.host.transport.client("default"), "kube-federation-system").await.unwrap();
    world.stop().await;
    world.member("m2").door.cut();
    world.member("m3").door.stall();
    let members: BTreeMap<_, _> =
        world.members.iter().map(|(name, member)| (name.clone(), member.transport.clone())).collect();
    let connect = move |cluster: hansa_api::KubeFedCluster| {
        let client = members[&cluster.metadata.name.unwrap()].client("default");
        async move { Ok(client) }.boxed()
    };
    let reach = Reach { connect: Arc::new(connect), patience: Duration::from_secs(2) };
    let everywhere = on(&["m1", "m2", "m3", "m4"]);
    let bad = json!([{"clusterName": "m4", "clusterOverrides": [{"op": "remove", "path": "/data/none"}]}]);
    let proposal = |wanted| Proposal {
        types: host.find_type("fcm").unwrap().clone(),
        key: Key::new("shop", "conf"),
        wanted,
    };
    let wanted = config_map("new", everywhere, bad);
    let previews = preview::preview(&host, &reach, vec![proposal(Some(wanted)), proposal(None)]).await;

    let told = |preview: &preview::Preview| {
        preview.clusters.iter().map(|o| (o.cluster.clone(), o.effect)).collect::<Vec<_>>()
    };
    let expect = |effects: [Effect; 4]| {
        ["m1", "m2", "m3", "m4"].map(str::to_owned).into_iter().zip(effects).collect::<Vec<_>>()
    };
    let [planned, standing] = previews.as_slice() else { panic!("{previews:?}") };
    assert_eq!(
        told(planned),
        expect([Effect::Change, Effect::Unknown, Effect::Unknown, Effect::Refused]),
        "{planned:?}"
    );
    assert_eq!(planned.clusters[0].after.as_ref().unwrap()["data"]["a"], "new");
    assert!(planned.clusters[2].message.contains("did not answer"), "{planned:?}");
    assert!(planned.clusters[3].message.contains("spec.overrides[0].clusterOverrides"), "{planned:?}");
    assert_eq!(told(standing)[0].1, Effect::Nothing, "as it stands nothing is to be done: {standing:?}");

    // Nothing was changed, neither here nor there.
    assert_eq!(world.host.get(FED_CONF).await.unwrap()["spec"]["template"]["data"]["a"], "old");
    assert_eq!(world.member("m1").get(CONF).await.unwrap()["data"]["a"], "old");
    assert_eq!(world.member("m4").get(CONF).await, None);
}
