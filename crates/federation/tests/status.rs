//! The status of federated objects end to end: embedded clusters in this process, whose copies say what a test has them say.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail so

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{World, condition, eventually, federated, on, words};
use tokio::time::Instant;

const TYPES: &str = "/apis/types.kubefed.io/v1beta1/namespaces/shop";
const SYSTEM: &str = "/apis/core.kubefed.io/v1beta1/namespaces/kube-federation-system";
const WEB: &str = "/apis/apps/v1/namespaces/shop/deployments/web";
const WIDGET: &str = "/apis/example.org/v1/namespaces/shop/widgets/w";

fn fed_web() -> String {
    format!("{TYPES}/federateddeployments/web")
}

fn deployment() -> Value {
    let labels = json!({"app": "web"});
    let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "nginx:1"}]}});
    federated(
        "Deployment",
        "shop",
        "web",
        json!({
            "template": {"spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}},
            "placement": on(&["m1", "m2"]),
        }),
    )
}

/// What a Deployment's controller says when its one replica is available.
async fn available(world: &World, member: &str, generation: i64) {
    let status = json!({"observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1});
    world.member(member).patch(&format!("{WEB}/status"), json!({ "status": status })).await;
}

async fn says(world: &World, path: &str, kind: &str, status: &str, reason: &str) -> Value {
    world.host.until(path, |object| condition(object, kind) == (status.to_owned(), reason.to_owned())).await
}

fn whole(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == kind).unwrap().clone()
}

fn remote(object: &Value, member: &str) -> Value {
    let clusters = object["status"]["clusters"].as_array().cloned().unwrap_or_default();
    clusters.into_iter().find(|cluster| cluster["name"] == member).unwrap_or_default()["remoteStatus"].clone()
}

/// Restarts the control plane with raw statuses collected of some types.
async fn collect_raw(world: &mut World, configs: &[&str]) {
    world.stop().await;
    let gates = json!([{"name": "RawResourceStatusCollection", "configuration": "Enabled"}]);
    world
        .host
        .patch(&format!("{SYSTEM}/kubefedconfigs/kubefed"), json!({"spec": {"featureGates": gates}}))
        .await;
    for config in configs {
        let path = format!("{SYSTEM}/federatedtypeconfigs/{config}");
        world.host.patch(&path, json!({"spec": {"statusCollection": "Enabled"}})).await;
    }
    world.run();
}

/// Defines a type with a status of its own, on the host and on every member.
async fn define_widgets(world: &World) {
    let target = hansa_api::TargetType {
        group: "example.org".into(),
        version: "v1".into(),
        kind: "Widget".into(),
        plural_name: "widgets".into(),
        ..Default::default()
    };
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"kind": "Widget", "listKind": "WidgetList", "plural": "widgets", "singular": "widget"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": any, "status": any}}},
            }],
        },
    });
    for member in world.members.values() {
        member.define(&crd).await;
    }
    world.host.define(&hansa_api::federated::crd(&target, false, &[])).await;
    world.host.create(&serde_json::to_value(hansa_api::federated::type_config(&target)).unwrap()).await;
}

fn widget() -> Value {
    federated("Widget", "shop", "w", json!({"template": {"spec": {"size": 4}}, "placement": on(&["m1"])}))
}

fn fed_widget() -> String {
    format!("{TYPES}/federatedwidgets/w")
}

fn writes(world: &World) -> Vec<String> {
    world.members.values().chain([&world.host]).flat_map(|cluster| cluster.door.writes()).collect()
}

/// Waits until nobody has written anything for a while.
async fn quiet(world: &World) {
    let quiet = eventually(|| async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        writes(world).is_empty().then_some(())
    });
    assert!(quiet.await.is_some(), "somebody writes without end");
}

async fn a_restart_writes_nothing(world: &mut World) {
    quiet(world).await;
    world.stop().await;
    writes(world);
    world.run();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(writes(world), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_available_when_each_member_says_so_of_its_present_generation() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    world.host.create(&deployment()).await;
    let object = says(&world, &fed_web(), "Available", "False", "Progressing").await;
    let propagated = whole(&object, "Propagated");
    assert_eq!(
        (&propagated["status"], &propagated["message"]),
        (&json!("True"), &json!("propagated to 2 clusters"))
    );
    let cluster = &object["status"]["clusters"][0];
    assert_eq!(cluster["conditions"][0]["type"], "Propagated");
    assert_eq!(cluster["conditions"][1]["message"], "its controller has not reported yet");

    available(&world, "m1", 1).await;
    let is_half = |object: &Value| {
        whole(object, "Available")["message"]
            .as_str()
            .is_some_and(|m| m.starts_with("available in 1 of 2 clusters: m2: "))
    };
    world.host.until(&fed_web(), is_half).await;
    available(&world, "m2", 1).await;
    let object = says(&world, &fed_web(), "Available", "True", "Available").await;
    let first = whole(&object, "Available");
    assert_eq!(first["observedGeneration"], object["metadata"]["generation"]);

    // A changed template takes it back until the members have observed that.
    world.host.patch(&fed_web(), json!({"spec": {"template": {"spec": {"minReadySeconds": 1}}}})).await;
    let object = world.host.until(&fed_web(), |object| condition(object, "Available").0 != "True").await;
    assert_eq!(whole(&object, "Available")["observedGeneration"], object["metadata"]["generation"]);
    for member in ["m1", "m2"] {
        world.member(member).until(WEB, |copy| copy["metadata"]["generation"] == 2).await;
        available(&world, member, 2).await;
    }
    says(&world, &fed_web(), "Available", "True", "Available").await;

    // Of a member that is away nobody knows.
    world.member("m2").door.cut();
    let object = says(&world, &fed_web(), "Available", "Unknown", "ClusterNotReady").await;
    assert_eq!(words(&object)["m2"], "ClusterNotReady");
    world.member("m2").door.mend();
    says(&world, &fed_web(), "Available", "True", "Available").await;

    // What has no workload is available once it is there; nowhere, nothing is.
    let conf = json!({"template": {"data": {"a": "b"}}, "placement": on(&["m1"])});
    world.host.create(&federated("ConfigMap", "shop", "conf", conf)).await;
    let path = format!("{TYPES}/federatedconfigmaps/conf");
    says(&world, &path, "Available", "True", "Available").await;
    world.host.patch(&path, json!({"spec": {"placement": on(&[])}})).await;
    says(&world, &path, "Available", "False", "NoClusterSelected").await;
    says(&world, &path, "Propagated", "True", "Propagated").await;
    a_restart_writes_nothing(&mut world).await;
    world.stop().await;
}

/// `spec/kubefed.md §2.8, §6 (13)`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_status_is_passed_on_as_it_is_and_kept_while_the_member_is_away() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    define_widgets(&world).await;
    collect_raw(&mut world, &["widgets.example.org", "configmaps", "deployments.apps"]).await;
    let conf = json!({"template": {"data": {"a": "b"}}, "placement": on(&["m1"])});
    world.host.create(&federated("ConfigMap", "shop", "conf", conf)).await;
    world.host.create(&widget()).await;
    world.propagated(&format!("{TYPES}/federatedconfigmaps/conf")).await;
    let m1 = world.member("m1");
    m1.until(WIDGET, |_| true).await;
    says(&world, &fed_widget(), "Propagation", "False", "CheckClusters").await;
    says(&world, &fed_widget(), "Propagated", "True", "Propagated").await;

    let status = json!({"size": 4, "ratio": 0.5, "nested": {"list": [1, "two", {"three": 3}]}, "conditions": [{"type": "Ready", "status": "True"}]});
    m1.patch(&format!("{WIDGET}/status"), json!({ "status": status })).await;
    let object = world.host.until(&fed_widget(), |object| remote(object, "m1") == status).await;
    assert_eq!(condition(&object, "Propagation").0, "True");
    says(&world, &fed_widget(), "Available", "True", "Available").await;
    a_restart_writes_nothing(&mut world).await;

    world.member("m1").door.cut();
    world.host.until(&fed_widget(), |object| words(object)["m1"] == "ClusterNotReady").await;
    assert_eq!(remote(&world.host.get(&fed_widget()).await.unwrap(), "m1"), status);
    // The next control plane has never heard of it.
    world.stop().await;
    world.run();
    world.host.patch(&fed_widget(), json!({"spec": {"template": {"spec": {"size": 5}}}})).await;
    let is_observed =
        |object: &Value| object["status"]["observedGeneration"] == object["metadata"]["generation"];
    let object = world.host.until(&fed_widget(), is_observed).await;
    assert_eq!((&*words(&object)["m1"], remote(&object, "m1")), ("ClusterNotReady", status));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_changes_its_mind_all_the_time_does_not_flood_the_host() {
    let mut world = World::start(1).await;
    world.namespace("shop").await;
    define_widgets(&world).await;
    collect_raw(&mut world, &["widgets.example.org"]).await;
    world.host.create(&widget()).await;
    let m1 = world.member("m1");
    m1.until(WIDGET, |_| true).await;
    m1.patch(&format!("{WIDGET}/status"), json!({"status": {"number": -1}})).await;
    world.host.until(&fed_widget(), |object| remote(object, "m1")["number"] == -1).await;
    quiet(&world).await;
    let (begun, mut number) = (Instant::now(), 0_u64);
    while begun.elapsed() < Duration::from_secs(3) {
        m1.patch(&format!("{WIDGET}/status"), json!({"status": {"number": number}})).await;
        number += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.host.until(&fed_widget(), |object| remote(object, "m1")["number"] == number - 1).await;
    let path = format!("{}/status", fed_widget());
    let written = world.host.door.writes().iter().filter(|write| write.ends_with(&path)).count();
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(written <= seconds + 2, "{written} writes in {seconds} s");
    assert!(u64::try_from(written).unwrap() < number, "there was something to spare");
    world.stop().await;
}

/// Manifests of KubeFed's own have CRDs that prune what they do not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_crds_of_kubefed_itself_make_no_endless_writing() {
    let mut world = World::start(2).await;
    for crd in hansa_api::crds() {
        let mut crd = crd;
        let name = crd["metadata"]["name"].as_str().unwrap().to_owned();
        if !name.ends_with(".types.kubefed.io") {
            continue;
        }
        let path = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties";
        let status = crd.pointer_mut(path).unwrap();
        for (place, fields) in [
            ("/conditions/items/properties", &["message", "observedGeneration"][..]),
            ("/clusters/items/properties", &["message", "conditions", "remoteStatus"]),
        ] {
            let properties = status.pointer_mut(place).unwrap().as_object_mut().unwrap();
            fields.iter().for_each(|field| drop(properties.remove(*field)));
        }
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        world.host.patch(&path, json!({"spec": {"versions": crd["spec"]["versions"]}})).await;
    }
    world.namespace("shop").await;
    collect_raw(&mut world, &["deployments.apps"]).await;
    let overrides =
        json!([{"clusterName": "m2", "clusterOverrides": [{"path": "/spec/none/deep", "value": 1}]}]);
    let mut object = deployment();
    object["spec"]["overrides"] = overrides;
    world.host.create(&object).await;
    let is_told = |object: &Value| words(object).get("m2").is_some_and(|word| word == "ApplyOverridesFailed");
    let object = world.host.until(&fed_web(), is_told).await;
    assert_eq!(object["status"]["clusters"][1].get("message"), None, "it is pruned");
    quiet(&world).await;
    available(&world, "m1", 1).await;
    world.host.patch(&fed_web(), json!({"spec": {"overrides": null}})).await;
    available_on_both(&world).await;
    quiet(&world).await;
    world.stop().await;
}

async fn available_on_both(world: &World) {
    world.member("m2").until(WEB, |_| true).await;
    available(world, "m2", 1).await;
    says(world, &fed_web(), "Available", "True", "Available").await;
}

/// `spec/kubefed.md §1.5, §2.8, §0 (16), §6 (30)`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_have_a_status_object_of_their_own_where_that_is_asked_for() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    let config = format!("{SYSTEM}/federatedtypeconfigs/services");
    let states = |config: &Value| {
        let state = |name: &str| config["status"][name].as_str().unwrap_or_default().to_owned();
        (state("propagationController"), state("statusController"))
    };
    let is = |propagation: &str, status: &str| (propagation.to_owned(), status.to_owned());
    world.host.until(&config, |config| states(config) == is("Running", "NotRunning")).await;
    let status_type = json!({"kind": "FederatedServiceStatus", "group": "core.kubefed.io", "version": "v1alpha1",
        "pluralName": "federatedservicestatuses", "scope": "Namespaced"});
    world
        .host
        .patch(&config, json!({"spec": {"statusCollection": "Enabled", "statusType": status_type}}))
        .await;
    world.host.until(&config, |config| states(config) == is("Running", "Running")).await;

    let service =
        json!({"spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]}});
    let spec = json!({"template": service, "placement": on(&["m1"])});
    let federated = world.host.create(&federated("Service", "shop", "web", spec)).await;
    let path = "/apis/core.kubefed.io/v1alpha1/namespaces/shop/federatedservicestatuses/web";
    let is_whole = |object: &Value| {
        let entries = object["clusterStatus"].as_array().unwrap();
        entries.len() == 2 && entries.iter().all(|entry| entry["status"].is_object())
    };
    let object = world.host.until(path, is_whole).await;
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], federated["metadata"]["uid"]);
    let names = |object: &Value| [0, 1].map(|n| object["clusterStatus"][n]["clusterName"].clone());
    assert_eq!(names(&object), ["m1", "m2"]);
    says(&world, &format!("{TYPES}/federatedservices/web"), "Available", "False", "Progressing").await;

    let address = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}});
    world
        .member("m1")
        .patch("/api/v1/namespaces/shop/services/web/status", json!({ "status": address }))
        .await;
    world
        .host
        .until(path, |object| {
            object["clusterStatus"][0]["status"]["loadBalancer"]["ingress"][0]["ip"] == "10.0.0.1"
        })
        .await;
    says(&world, &format!("{TYPES}/federatedservices/web"), "Available", "True", "Available").await;
    a_restart_writes_nothing(&mut world).await;
    world.stop().await;
}

/// `spec/kubefed.md §2.6`: the reasons, where they come from. Those of failures are in the unit tests of the events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_told_by_events_with_kubefeds_reasons() {
    let mut world = World::start(1).await;
    world.namespace("shop").await;
    let conf = |name: &str, metadata: Value| {
        let template = json!({"metadata": metadata, "data": {"a": "b"}});
        federated("ConfigMap", "shop", name, json!({"template": template, "placement": on(&["m1"])}))
    };
    let path = |name: &str| format!("{TYPES}/federatedconfigmaps/{name}");
    let copy = |name: &str| format!("/api/v1/namespaces/shop/configmaps/{name}");
    let m1 = world.member("m1");
    world.host.create(&conf("one", json!({"finalizers": ["example.org/mine"]}))).await;
    world.host.create(&conf("two", json!({}))).await;
    for name in ["one", "two"] {
        world.propagated(&path(name)).await;
    }
    world.host.patch(&path("one"), json!({"spec": {"template": {"data": {"a": "c"}}}})).await;
    let object = m1.until(&copy("one"), |copy| copy["data"]["a"] == "c").await;
    assert_eq!(object["metadata"].get("finalizers"), None);
    m1.patch(&copy("one"), json!({"metadata": {"finalizers": ["example.org/theirs"]}})).await;
    world.host.delete(&path("one")).await;
    m1.until(&copy("one"), |copy| copy["metadata"]["deletionTimestamp"].is_string()).await;
    world.host.patch(&path("two"), json!({"metadata": {"annotations": {"kubefed.io/orphan": "true"}}})).await;
    world.host.delete(&path("two")).await;
    world.host.until_gone(&path("two")).await;
    world.host.create(&federated("Namespace", "shop", "other", json!({"placement": on(&["m1"])}))).await;
    world
        .host
        .create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lonely"}}))
        .await;
    let mut lonely = conf("one", json!({}));
    lonely["metadata"]["namespace"] = "lonely".into();
    world.host.create(&lonely).await;
    m1.door.stall();
    world.host.create(&conf("three", json!({}))).await;
    for (reason, severity, namespace, name) in [
        ("CreateInCluster", "Normal", "shop", "one"),
        ("UpdateInCluster", "Normal", "shop", "one"),
        ("DeleteInCluster", "Normal", "shop", "one"),
        ("WaitForRemovalInCluster", "Normal", "shop", "one"),
        ("FinalizersNotSupported", "Warning", "shop", "one"),
        ("RemoveManagedLabelFromInCluster", "Normal", "shop", "two"),
        ("OperationTimeoutError", "Warning", "shop", "three"),
        ("InvalidName", "Warning", "shop", "other"),
        ("NamespaceNotFederated", "Warning", "lonely", "one"),
    ] {
        let told = eventually(|| async {
            let events = world.host.get(&format!("/api/v1/namespaces/{namespace}/events")).await?;
            let is_it = |event: &&Value| {
                event["reason"] == reason
                    && event["type"] == severity
                    && event["involvedObject"]["name"] == name
            };
            events["items"].as_array()?.iter().find(is_it).cloned()
        });
        let event = told.await.unwrap_or_else(|| panic!("no event {reason} tells of {name}"));
        let kind = event["involvedObject"]["kind"].as_str().unwrap().to_lowercase();
        assert_eq!(event["source"]["component"], format!("{kind}-controller"));
    }
    m1.door.mend();
    m1.patch(&copy("one"), json!({"metadata": {"finalizers": null}})).await;
    world.host.until_gone(&path("one")).await;
    world.stop().await;
}
