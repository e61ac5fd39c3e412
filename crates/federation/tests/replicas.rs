//! The replica scheduler end to end: embedded clusters in this process, whose Deployments and Pods are as far as the test says.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail so

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::{Cluster, World, condition, eventually, federated, on};

const FED_WEB: &str = "/apis/types.kubefed.io/v1beta1/namespaces/shop/federateddeployments/web";
const RSP: &str = "/apis/scheduling.kubefed.io/v1alpha1/namespaces/shop/replicaschedulingpreferences/web";
const WEB: &str = "/apis/apps/v1/namespaces/shop/deployments/web";
const SYSTEM: &str = "/apis/core.kubefed.io/v1beta1/namespaces/kube-federation-system";
const LONG_AGO: &str = "2020-01-01T00:00:00Z";

fn deployment(placement: Value) -> Value {
    let labels = json!({"app": "web"});
    let template = json!({
        "metadata": {"labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "nginx:1"}]}},
        },
    });
    federated("Deployment", "shop", "web", json!({"template": template, "placement": placement}))
}

fn preference(total: i64, more: Value) -> Value {
    let mut spec = json!({"targetKind": "FederatedDeployment", "totalReplicas": total});
    spec.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    json!({
        "apiVersion": "scheduling.kubefed.io/v1alpha1", "kind": "ReplicaSchedulingPreference",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": spec,
    })
}

/// A federation with the federated Deployment `shop/web`.
async fn shop(members: usize, placement: Value) -> World {
    let world = World::start(members).await;
    world.namespace("shop").await;
    world.host.create(&deployment(placement)).await;
    world
}

/// What the overrides of a federated object tell each cluster.
fn told(object: &Value) -> BTreeMap<String, i64> {
    let mut told = BTreeMap::new();
    for entry in object["spec"]["overrides"].as_array().into_iter().flatten() {
        let operations = entry["clusterOverrides"].as_array().unwrap();
        let number = operations.iter().find(|operation| operation["path"] == "/spec/replicas");
        told.extend(
            number.map(|n| (entry["clusterName"].as_str().unwrap().to_owned(), n["value"].as_i64().unwrap())),
        );
    }
    told
}

fn placed(object: &Value) -> Vec<&str> {
    let clusters = object["spec"]["placement"]["clusters"].as_array();
    clusters.into_iter().flatten().map(|cluster| cluster["name"].as_str().unwrap()).collect()
}

/// Waits until the clusters are told just this, and are what the object is placed on.
async fn scheduled(world: &World, wanted: &[(&str, i64)]) -> Value {
    let numbers: BTreeMap<String, i64> =
        wanted.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect();
    let names: Vec<&str> = numbers.keys().map(String::as_str).collect();
    world.host.until(FED_WEB, |object| told(object) == numbers && placed(object) == names).await
}

/// The member brings its copy to the state it asks for, but for `missing` replicas.
async fn runs(member: &Cluster, wanted: i64, missing: i64) {
    let copy = member.until(WEB, |copy| copy["spec"]["replicas"] == wanted).await;
    let ready = copy["spec"]["replicas"].as_i64().unwrap() - missing;
    member
        .patch(&format!("{WEB}/status"), json!({"status": {"replicas": wanted, "readyReplicas": ready}}))
        .await;
}

/// A Pod of the Deployment, in the given phase and with the given condition.
async fn pod(member: &Cluster, name: &str, phase: &str, condition: Value) {
    let labels = json!({"app": "web"});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {"containers": [{"name": "web", "image": "nginx:1"}]},
    });
    member.create(&pod).await;
    let status = json!({"status": {"phase": phase, "conditions": [condition]}});
    member.patch(&format!("/api/v1/namespaces/shop/pods/{name}/status"), status).await;
}

/// Five replicas, for two of which there has been no room for long.
async fn lacks_room(member: &Cluster) {
    for number in 0..3 {
        pod(member, &format!("web-{number}"), "Running", json!({"type": "Ready", "status": "True"})).await;
    }
    for number in 3..5 {
        let waits = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": LONG_AGO});
        pod(member, &format!("web-{number}"), "Pending", waits).await;
    }
    runs(member, 5, 2).await;
}

/// The events of the preference with this reason, as soon as there is one.
async fn said(world: &World, reason: &str) -> Vec<Value> {
    let events = eventually(|| async {
        let events = world.host.get("/api/v1/namespaces/shop/events").await?["items"].as_array()?.clone();
        let about = |event: &Value| {
            event["involvedObject"]["kind"] == "ReplicaSchedulingPreference" && event["reason"] == reason
        };
        Some(events.into_iter().filter(about).collect::<Vec<_>>()).filter(|events| !events.is_empty())
    });
    events.await.unwrap_or_else(|| panic!("no event {reason}"))
}

/// How often the spec of the federated object was written since this was last asked.
fn rewrites(world: &World) -> usize {
    world.host.door.writes().iter().filter(|write| *write == &format!("PUT {FED_WEB}")).count()
}

async fn ready(world: &World, member: &str, is: &str) {
    let path = format!("{SYSTEM}/kubefedclusters/{member}");
    world.host.until(&path, |cluster| (condition(cluster, "Ready").0 == "True") == (is == "True")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_divided_by_weight_and_written_only_when_a_number_changes() {
    let mut world = shop(3, on(&["m1"])).await;
    let move_all = json!({"rebalance": true});
    world.host.create(&preference(9, move_all)).await;
    scheduled(&world, &[("m1", 3), ("m2", 3), ("m3", 3)]).await;
    for name in ["m1", "m2", "m3"] {
        runs(world.member(name), 3, 0).await;
    }
    assert_eq!(
        said(&world, "ReplicasScheduled").await[0]["message"],
        "Replicas of clusters: m1: 3, m2: 3, m3: 3"
    );

    // Progress in the members changes no number; the next change of the preference is one write.
    rewrites(&world);
    for name in ["m1", "m2"] {
        runs(world.member(name), 3, 1).await;
    }
    let weights = json!({"*": {"weight": 1}, "m3": {"weight": 2, "maxReplicas": 5}});
    world.host.patch(RSP, json!({"spec": {"totalReplicas": 12, "clusters": weights}})).await;
    scheduled(&world, &[("m1", 3), ("m2", 4), ("m3", 5)]).await;
    assert_eq!(rewrites(&world), 1);
    for (name, number) in [("m1", 3), ("m2", 4), ("m3", 5)] {
        runs(world.member(name), number, 0).await;
    }

    // A control plane that starts again finds everything right; a cluster that joins gets its share.
    world.stop().await;
    world.host.door.writes();
    world.join("m4", Cluster::start("m4").await).await;
    world.run();
    scheduled(&world, &[("m1", 3), ("m2", 3), ("m3", 5), ("m4", 1)]).await;
    assert_eq!(rewrites(&world), 1);

    // Without its preference the object stays as it is (`spec/kubefed.md §2.10`).
    world.host.delete(RSP).await;
    world.host.until_gone(RSP).await;
    world.host.patch(FED_WEB, json!({"spec": {"template": {"spec": {"paused": true}}}})).await;
    world
        .member("m2")
        .until(WEB, |copy| copy["spec"]["paused"] == true && copy["spec"]["replicas"] == 3)
        .await;
    assert_eq!(rewrites(&world), 0);
    world.stop().await;
}

/// `spec/kubefed.md §6 (23), (26)`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_stays_where_it_is_unless_there_is_too_much_of_it() {
    let mut world = shop(2, on(&[])).await;
    let image = json!({"path": "/spec/template/spec/containers/0/image", "value": "nginx:2"});
    let overrides = json!([
        {"clusterName": "m2", "clusterOverrides": [image]},
        {"clusterName": "elsewhere", "clusterOverrides": [image, {"path": "/spec/replicas", "value": 7}]},
    ]);
    world.host.patch(FED_WEB, json!({"spec": {"overrides": overrides}})).await;
    world.host.create(&preference(10, json!({"clusters": {"m1": {"weight": 4}, "m2": {"weight": 1}}}))).await;
    scheduled(&world, &[("m1", 8), ("m2", 2)]).await;
    runs(world.member("m1"), 8, 0).await;
    runs(world.member("m2"), 2, 0).await;

    // Equal weights from now on: nothing moves, growth evens out, and on the way down both give up their part.
    world.host.patch(RSP, json!({"spec": {"clusters": {"m1": {"weight": 1}}}})).await;
    world.host.patch(RSP, json!({"spec": {"totalReplicas": 12}})).await;
    scheduled(&world, &[("m1", 8), ("m2", 4)]).await;
    runs(world.member("m2"), 4, 0).await;
    world.host.patch(RSP, json!({"spec": {"totalReplicas": 6}})).await;
    let object = scheduled(&world, &[("m1", 3), ("m2", 3)]).await;
    runs(world.member("m1"), 3, 0).await;

    // The user's own overrides are as they were.
    let replicas = |number: i64| json!({"path": "/spec/replicas", "value": number});
    let expected = json!([
        {"clusterName": "m2", "clusterOverrides": [image, replicas(3)]},
        {"clusterName": "elsewhere", "clusterOverrides": [image]},
        {"clusterName": "m1", "clusterOverrides": [replicas(3)]},
    ]);
    assert_eq!(object["spec"]["overrides"], expected);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_without_room_run_elsewhere() {
    let mut world = shop(2, on(&[])).await;
    world.host.create(&preference(10, json!({"rebalance": true}))).await;
    scheduled(&world, &[("m1", 5), ("m2", 5)]).await;
    runs(world.member("m2"), 5, 0).await;
    lacks_room(world.member("m1")).await;
    // What m1 has no room for runs on m2, and on m1 as well should there be room again.
    scheduled(&world, &[("m1", 5), ("m2", 7)]).await;
    assert!(
        said(&world, "InsufficientCapacity").await[0]["message"]
            .as_str()
            .unwrap()
            .contains("\"m1\" has room for 3")
    );
    // If nothing may move back, m1 is not told to wait for room.
    world.host.patch(RSP, json!({"spec": {"rebalance": false}})).await;
    runs(world.member("m2"), 7, 0).await;
    scheduled(&world, &[("m1", 3), ("m2", 7)]).await;
    world.stop().await;
}

/// `spec/kubefed.md §6 (29)`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_briefly_away_keeps_its_replicas() {
    let mut world = shop(2, on(&[])).await;
    world.host.create(&preference(10, json!({"rebalance": true}))).await;
    scheduled(&world, &[("m1", 5), ("m2", 5)]).await;
    for name in ["m1", "m2"] {
        runs(world.member(name), 5, 0).await;
    }
    rewrites(&world);
    world.member("m2").door.cut();
    ready(&world, "m2", "False").await;
    assert!(
        said(&world, "ClusterNotReady").await[0]["message"]
            .as_str()
            .unwrap()
            .contains("keeps its 5 replicas")
    );
    assert_eq!(rewrites(&world), 0);

    // What is new goes to who is there, and is shared when the other is back.
    world.host.patch(RSP, json!({"spec": {"totalReplicas": 20}})).await;
    scheduled(&world, &[("m1", 15), ("m2", 5)]).await;
    world.member("m2").door.mend();
    scheduled(&world, &[("m1", 10), ("m2", 10)]).await;
    world.stop().await;
}

/// `spec/kubefed.md §6 (29)`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stays_away_is_stood_in_for_and_its_copy_is_left_alone() {
    let mut world = shop(2, on(&[])).await;
    world.stop().await;
    let delay = json!({"spec": {"controllerDuration": {"unavailableDelay": "1s"}}});
    world.host.patch(&format!("{SYSTEM}/kubefedconfigs/kubefed"), delay).await;
    world.run();
    world.host.create(&preference(10, json!({}))).await;
    scheduled(&world, &[("m1", 5), ("m2", 5)]).await;
    for name in ["m1", "m2"] {
        runs(world.member(name), 5, 0).await;
    }
    let uid = world.member("m2").get(WEB).await.unwrap()["metadata"]["uid"].clone();
    world.member("m2").door.cut();
    scheduled(&world, &[("m1", 10), ("m2", 5)]).await;
    said(&world, "ReplicasTakenOver").await;
    runs(world.member("m1"), 10, 0).await;

    // A control plane that starts again does not begin to wait again, and takes nothing from m1.
    world.stop().await;
    rewrites(&world);
    world.run();
    said(&world, "ReplicasTakenOver").await;
    world.host.patch(RSP, json!({"spec": {"totalReplicas": 12}})).await;
    scheduled(&world, &[("m1", 12), ("m2", 5)]).await;
    assert_eq!(rewrites(&world), 1);
    world.host.patch(RSP, json!({"spec": {"totalReplicas": 10}})).await;
    scheduled(&world, &[("m1", 10), ("m2", 5)]).await;

    world.member("m2").door.mend();
    scheduled(&world, &[("m1", 5), ("m2", 5)]).await;
    assert_eq!(world.member("m2").get(WEB).await.unwrap()["metadata"]["uid"], uid);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_replicas_cannot_be_counted_keeps_them_and_delays_the_others_by_its_time_out_only() {
    let mut world = shop(2, on(&[])).await;
    world.host.create(&preference(10, json!({"rebalance": true}))).await;
    scheduled(&world, &[("m1", 5), ("m2", 5)]).await;
    runs(world.member("m1"), 5, 0).await;
    // It is well by its probe, and its Pods are asked for, as none is ready yet.
    world.member("m2").until(WEB, |copy| copy["spec"]["replicas"] == 5).await;
    world.member("m2").door.mute();
    world.host.patch(RSP, json!({"spec": {"totalReplicas": 20}})).await;
    scheduled(&world, &[("m1", 15), ("m2", 5)]).await;
    assert!(said(&world, "CountFailed").await[0]["message"].as_str().unwrap().contains("keeps the 5"));
    world.member("m2").door.mend();
    scheduled(&world, &[("m1", 10), ("m2", 10)]).await;
    world.stop().await;
}

/// `spec/kubefed.md §6 (25)`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_selectors_of_object_and_namespace_narrow_the_clusters_if_asked_to() {
    let selector = |names: &[&str]| json!({"clusterSelector": {"matchExpressions": [{"key": "name", "operator": "In", "values": names}]}});
    let mut world = shop(3, selector(&["m1", "m2"])).await;
    world.host.create(&preference(6, json!({"intersectWithClusterSelector": true}))).await;
    let object = scheduled(&world, &[("m1", 3), ("m2", 3)]).await;
    assert_eq!(object["spec"]["placement"]["clusterSelector"], selector(&["m1", "m2"])["clusterSelector"]);
    for name in ["m1", "m2"] {
        runs(world.member(name), 3, 0).await;
    }
    let fed_shop = "/apis/types.kubefed.io/v1beta1/namespaces/shop/federatednamespaces/shop";
    world
        .host
        .patch(fed_shop, json!({"spec": {"placement": {"clusterSelector": {"matchLabels": {"name": "m2"}}}}}))
        .await;
    world.host.patch(RSP, json!({"spec": {"totalReplicas": 8}})).await;
    scheduled(&world, &[("m2", 8)]).await;

    // No cluster at all is an answer, and said aloud.
    world.host.patch(FED_WEB, json!({"spec": {"placement": selector(&["m9"])}})).await;
    scheduled(&world, &[]).await;
    said(&world, "NoClusterSelected").await;
    world.host.patch(FED_WEB, json!({"spec": {"placement": selector(&["m2"])}})).await;
    scheduled(&world, &[("m2", 8)]).await;
    world.stop().await;
}

/// `spec/kubefed.md §6 (24), (28)`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_is_not_scheduled_is_said_once_and_nothing_is_written() {
    let mut world = shop(2, on(&["m1"])).await;
    world.propagated(FED_WEB).await;
    rewrites(&world);
    world.host.create(&preference(4, json!({"targetKind": "FederatedStatefulSet"}))).await;
    let events = said(&world, "InvalidTargetKind").await;
    assert!(events[0]["message"].as_str().unwrap().contains("FederatedDeployment or FederatedReplicaSet"));
    // Another look, which a label of a cluster asks for, says nothing more.
    world
        .host
        .patch(&format!("{SYSTEM}/kubefedclusters/m1"), json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    world.host.patch(RSP, json!({"spec": {"targetKind": "FederatedDeployment"}})).await;
    scheduled(&world, &[("m1", 2), ("m2", 2)]).await;
    assert_eq!(rewrites(&world), 1);
    let events = said(&world, "InvalidTargetKind").await;
    assert_eq!((events.len(), events[0]["count"].as_i64()), (1, Some(1)));
    // A cluster that gets nothing keeps its copy, as with KubeFed.
    world.host.patch(RSP, json!({"spec": {"clusters": {"m1": {"weight": 1}}}})).await;
    scheduled(&world, &[("m1", 4), ("m2", 0)]).await;
    world.member("m2").until(WEB, |copy| copy["spec"]["replicas"] == 0).await;
    world.stop().await;
}

/// `spec/kubefed.md §2.10`: a type is scheduled while it is propagated, and if there is the type of namespaces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_scheduled_while_their_type_is_propagated() {
    let mut world = shop(1, on(&[])).await;
    let config = format!("{SYSTEM}/federatedtypeconfigs/deployments.apps");
    let propagates = |is: &str| json!({"spec": {"propagation": is}});
    world.host.patch(&config, propagates("Disabled")).await;
    world.host.until(&config, |config| config["status"]["propagationController"] == "NotRunning").await;
    world.host.create(&preference(3, json!({}))).await;
    rewrites(&world);
    world.host.patch(&config, propagates("Enabled")).await;
    scheduled(&world, &[("m1", 3)]).await;
    assert_eq!(rewrites(&world), 1);
    world.stop().await;

    // The gate is read when the control plane starts.
    let gates =
        json!({"spec": {"featureGates": [{"name": "SchedulerPreferences", "configuration": "Disabled"}]}});
    world.host.patch(&format!("{SYSTEM}/kubefedconfigs/kubefed"), gates).await;
    world.host.patch(RSP, json!({"spec": {"totalReplicas": 5}})).await;
    world.run();
    world.host.patch(FED_WEB, json!({"spec": {"template": {"spec": {"paused": true}}}})).await;
    world
        .member("m1")
        .until(WEB, |copy| copy["spec"]["paused"] == true && copy["spec"]["replicas"] == 3)
        .await;
    assert_eq!(rewrites(&world), 0);
    world.stop().await;
}

/// `spec/kubefed.md §2.1` item 2: a control plane of one namespace schedules there, and needs no FederatedNamespace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_control_plane_of_one_namespace_replica_sets_are_scheduled_there() {
    const NAMESPACE: &str = "kube-federation-system";
    let mut world = World::start(2).await;
    world.stop().await;
    let path = format!("{SYSTEM}/kubefedconfigs/kubefed");
    world.host.delete(&path).await;
    world
        .host
        .create(&json!({
            "apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedConfig",
            "metadata": {"name": "kubefed", "namespace": NAMESPACE}, "spec": {"scope": "Namespaced"},
        }))
        .await;
    for member in world.members.values() {
        member
            .create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
            .await;
    }
    world.run();
    let mut object = deployment(json!({"clusterSelector": {"matchLabels": {"name": "m2"}}}));
    object["kind"] = "FederatedReplicaSet".into();
    let asked = json!({"targetKind": "FederatedReplicaSet", "intersectWithClusterSelector": true});
    let mut preference = preference(3, asked);
    for object in [&mut object, &mut preference] {
        object["metadata"]["namespace"] = NAMESPACE.into();
        world.host.create(object).await;
    }
    let federated = format!("/apis/types.kubefed.io/v1beta1/namespaces/{NAMESPACE}/federatedreplicasets/web");
    let object = world.host.until(&federated, |object| !told(object).is_empty()).await;
    assert_eq!((told(&object), placed(&object)), ([("m2".to_owned(), 3)].into(), vec!["m2"]));
    let copy = format!("/apis/apps/v1/namespaces/{NAMESPACE}/replicasets/web");
    world.member("m2").until(&copy, |copy| copy["spec"]["replicas"] == 3).await;
    assert_eq!(world.member("m1").get(&copy).await, None);
    world.stop().await;
}
