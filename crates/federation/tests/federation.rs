//! Federation end to end: embedded clusters in this process, nothing simulated.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail so

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{World, condition, eventually, federated, on, words};

const TYPES: &str = "/apis/types.kubefed.io/v1beta1/namespaces/shop";
const SYSTEM: &str = "/apis/core.kubefed.io/v1beta1/namespaces/kube-federation-system";

fn deployment() -> Value {
    let labels = json!({"app": "web"});
    json!({
        "metadata": {"labels": labels, "annotations": {"team": "shop"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "web", "image": "nginx:1"}]},
            },
        },
    })
}

fn federated_deployment(placement: Value, overrides: Value) -> Value {
    federated(
        "Deployment",
        "shop",
        "web",
        json!({"template": deployment(), "placement": placement, "overrides": overrides}),
    )
}

const WEB: &str = "/apis/apps/v1/namespaces/shop/deployments/web";

fn fed_web() -> String {
    format!("{TYPES}/federateddeployments/web")
}

fn config_map(data: &str) -> Value {
    json!({"data": {"key": data}})
}

fn fed_config(placement: Value) -> Value {
    federated("ConfigMap", "shop", "conf", json!({"template": config_map("1"), "placement": placement}))
}

const CONF: &str = "/api/v1/namespaces/shop/configmaps/conf";

fn fed_conf() -> String {
    format!("{TYPES}/federatedconfigmaps/conf")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_reaches_its_members_with_overrides_and_follows_every_change() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    let overrides = json!([{"clusterName": "m2", "clusterOverrides": [
        {"path": "/spec/replicas", "value": 3},
        {"path": "/spec/template/spec/containers/0/image", "value": "nginx:2"},
    ]}]);
    world.host.create(&federated_deployment(on(&["m1", "m2"]), overrides)).await;
    let status = world.propagated(&fed_web()).await;
    assert_eq!(words(&status), [("m1", ""), ("m2", "")].map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    let (m1, m2) = (world.member("m1"), world.member("m2"));
    let copy = m1.get(WEB).await.unwrap();
    assert_eq!(copy["spec"]["replicas"], 1);
    assert_eq!(copy["metadata"]["labels"], json!({"app": "web", "kubefed.io/managed": "true"}));
    assert_eq!(copy["metadata"]["annotations"]["team"], "shop");
    let copy = m2.get(WEB).await.unwrap();
    assert_eq!(
        (&copy["spec"]["replicas"], &copy["spec"]["template"]["spec"]["containers"][0]["image"]),
        (&json!(3), &json!("nginx:2"))
    );

    // The recorded versions are what is live, under KubeFed's name and owner.
    let record = "/apis/core.kubefed.io/v1alpha1/namespaces/shop/propagatedversions/deployment-web";
    let record = world
        .host
        .until(record, |record| record["status"]["clusterVersions"].as_array().is_some_and(|c| c.len() == 2))
        .await;
    assert_eq!(record["metadata"]["ownerReferences"][0]["uid"], status["metadata"]["uid"]);
    assert_eq!(record["status"]["clusterVersions"][0], json!({"clusterName": "m1", "version": "gen:1"}));

    // A changed template changes the members; a changed override changes its own.
    world.host.patch(&fed_web(), json!({"spec": {"template": {"spec": {"paused": true}}}})).await;
    for member in [m1, m2] {
        member.until(WEB, |copy| copy["spec"]["paused"] == true).await;
    }
    let overrides =
        json!([{"clusterName": "m1", "clusterOverrides": [{"path": "/spec/replicas", "value": 5}]}]);
    world.host.patch(&fed_web(), json!({"spec": {"overrides": overrides}})).await;
    m1.until(WEB, |copy| copy["spec"]["replicas"] == 5).await;
    m2.until(WEB, |copy| copy["spec"]["replicas"] == 1).await;

    // Out of the placement, out of the member; and back.
    world.propagated(&fed_web()).await;
    world.host.patch(&fed_web(), json!({"spec": {"placement": on(&["m1"])}})).await;
    m2.until_gone(WEB).await;
    let status = world
        .host
        .until(&fed_web(), |object| words(object).len() == 1 && condition(object, "Propagation").0 == "True")
        .await;
    assert!(words(&status).contains_key("m1"));
    world.host.patch(&fed_web(), json!({"spec": {"placement": {"clusters": null, "clusterSelector": {"matchLabels": {"name": "m2"}}}}})).await;
    m2.until(WEB, |_| true).await;
    m1.until_gone(WEB).await;

    // Deleted on the host, deleted everywhere.
    world.host.delete(&fed_web()).await;
    m2.until_gone(WEB).await;
    world.host.until_gone(&fed_web()).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_or_deleted_on_a_member_is_repaired_and_what_others_added_stays() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    world.host.create(&federated_deployment(on(&["m1", "m2"]), Value::Null)).await;
    world.host.create(&fed_config(on(&["m1", "m2"]))).await;
    world.propagated(&fed_web()).await;
    world.propagated(&fed_conf()).await;
    let m1 = world.member("m1");

    m1.patch(WEB, json!({"spec": {"replicas": 7}})).await;
    m1.until(WEB, |copy| copy["spec"]["replicas"] == 1).await;
    m1.patch(WEB, json!({"metadata": {"labels": {"app": "other", "mine": "stays"}}})).await;
    let copy = m1.until(WEB, |copy| copy["metadata"]["labels"]["app"] == "web").await;
    assert_eq!(copy["metadata"]["labels"]["mine"], "stays");
    m1.patch(CONF, json!({"data": {"key": "2", "other": "stays"}})).await;
    let copy = m1.until(CONF, |copy| copy["data"]["key"] == "1").await;
    assert_eq!(copy["data"]["other"], "stays");

    let uid = m1.get(CONF).await.unwrap()["metadata"]["uid"].clone();
    m1.delete(CONF).await;
    m1.until(CONF, |copy| copy["metadata"]["uid"] != uid).await;
    m1.delete(WEB).await;
    m1.until(WEB, |_| true).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_writes_nothing_that_is_right_and_drift_does_not_loop() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    world.host.create(&federated_deployment(on(&["m1", "m2"]), Value::Null)).await;
    world.host.create(&fed_config(on(&["m1", "m2"]))).await;
    world.host.create(&federated("Service", "shop", "web", json!({
        "template": {"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}, "placement": on(&["m1", "m2"]),
    }))).await;
    for path in [fed_web(), fed_conf(), format!("{TYPES}/federatedservices/web")] {
        world.propagated(&path).await;
    }
    let m1 = world.member("m1");
    m1.patch(CONF, json!({"metadata": {"annotations": {"touched": "yes"}}})).await;
    let live = m1.get(CONF).await.unwrap();
    let record = "/apis/core.kubefed.io/v1alpha1/namespaces/shop/propagatedversions/configmap-conf";
    let version = format!("rv:{}", live["metadata"]["resourceVersion"].as_str().unwrap());
    world
        .host
        .until(record, |record| record["status"]["clusterVersions"][0]["version"] == version.as_str())
        .await;
    world.quiet().await;

    world.stop().await;
    let settled = |world: &World| {
        world.members.values().chain([&world.host]).flat_map(|c| c.door.writes()).collect::<Vec<_>>()
    };
    settled(&world);
    world.run();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(settled(&world), [""; 0]);

    // It is awake all the same.
    world.member("m1").delete(CONF).await;
    world.member("m1").until(CONF, |_| true).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_during_a_shrink_and_a_deletion_is_cleaned_up_when_it_returns() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    world.host.create(&fed_config(on(&["m1", "m2"]))).await;
    world.propagated(&fed_conf()).await;
    let m2 = world.member("m2");
    m2.door.cut();
    world.host.until(&format!("{SYSTEM}/kubefedclusters/m2"), |c| condition(c, "Ready").0 != "True").await;
    world.host.patch(&fed_conf(), json!({"spec": {"placement": on(&["m1"])}})).await;
    world.host.until(&fed_conf(), |c| words(c).get("m2").is_some_and(|word| word == "ClusterNotReady")).await;
    world.host.delete(&fed_conf()).await;
    world.member("m1").until_gone(CONF).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.host.get(&fed_conf()).await.is_some(), "it is not gone while a copy is left");
    assert!(m2.get(CONF).await.is_some());
    m2.door.mend();
    m2.until_gone(CONF).await;
    world.host.until_gone(&fed_conf()).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_override_or_an_unknown_cluster_hurts_nobody_else() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    let overrides =
        json!([{"clusterName": "m1", "clusterOverrides": [{"path": "/spec/none/deep", "value": 1}]}]);
    world.host.create(&federated_deployment(on(&["m1", "m2", "atlantis"]), overrides)).await;
    world.member("m2").until(WEB, |_| true).await;
    let status = world.host.until(&fed_web(), |object| words(object).len() == 3).await;
    let status_words = words(&status);
    assert_eq!(
        (&*status_words["m1"], &*status_words["m2"], &*status_words["atlantis"]),
        ("ApplyOverridesFailed", "", "ClusterNotFound")
    );
    assert_eq!(condition(&status, "Propagation"), ("False".to_owned(), "CheckClusters".to_owned()));
    let message = |name: &str| {
        let clusters = status["status"]["clusters"].as_array().unwrap();
        clusters.iter().find(|c| c["name"] == name).unwrap()["message"].as_str().unwrap().to_owned()
    };
    assert!(
        message("m1").contains("/spec/none/deep") && message("atlantis").contains("no cluster of this name")
    );
    assert_eq!(world.member("m1").get(WEB).await, None);

    world.host.patch(&fed_web(), json!({"spec": {"overrides": null, "placement": on(&["m1", "m2"])}})).await;
    world.propagated(&fed_web()).await;
    assert!(world.member("m1").get(WEB).await.is_some());

    // What a member refuses is reported in the member's own words.
    world.host.patch(&fed_web(), json!({"spec": {"template": {"spec": {"replicas": "many"}}}})).await;
    let is_refused = |object: &Value| {
        let clusters = object["status"]["clusters"].as_array().unwrap();
        clusters.iter().all(|cluster| {
            cluster["status"] == "UpdateFailed" && cluster["message"].as_str().unwrap().contains("replicas")
        })
    };
    world.host.until(&fed_web(), is_refused).await;

    // The user is told by an event, too.
    let events = eventually(|| async {
        let events = world.host.get("/api/v1/namespaces/shop/events").await?;
        let found = events["items"].as_array()?.iter().any(|event| {
            event["reason"] == "ApplyOverridesFailed"
                && event["involvedObject"]["name"] == "web"
                && event["type"] == "Warning"
        });
        found.then_some(())
    });
    assert!(events.await.is_some(), "no event tells of the bad override");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hangs_costs_the_others_nothing_and_catches_up() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    let m1 = world.member("m1");
    m1.door.stall();
    for number in 0..20 {
        let mut object = fed_config(on(&["m1", "m2"]));
        object["metadata"]["name"] = format!("conf{number}").into();
        world.host.create(&object).await;
    }
    for number in 0..20 {
        world.member("m2").until(&format!("{CONF}{number}"), |_| true).await;
    }
    let first = format!("{}0", fed_conf());
    world
        .host
        .until(&first, |object| words(object).get("m1").is_some_and(|word| word == "CreationTimedOut"))
        .await;
    m1.door.mend();
    for number in 0..20 {
        m1.until(&format!("{CONF}{number}"), |_| true).await;
        world.propagated(&format!("{}{number}", fed_conf())).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_decides_survives_a_changed_template() {
    let mut world = World::start(1).await;
    world.namespace("shop").await;
    let m1 = world.member("m1");
    let mut object = federated_deployment(on(&["m1"]), Value::Null);
    object["spec"]["retainReplicas"] = true.into();
    world.host.create(&object).await;
    let service = json!({"spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]}});
    world
        .host
        .create(&federated("Service", "shop", "head", json!({"template": service, "placement": on(&["m1"])})))
        .await;
    let service = json!({"spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80}]}});
    world
        .host
        .create(&federated("Service", "shop", "web", json!({"template": service, "placement": on(&["m1"])})))
        .await;
    world.propagated(&fed_web()).await;
    for name in ["head", "web"] {
        world.propagated(&format!("{TYPES}/federatedservices/{name}")).await;
    }
    let path = "/api/v1/namespaces/shop/services/web";
    let before = m1.get(path).await.unwrap();

    m1.patch(&format!("{WEB}/scale"), json!({"spec": {"replicas": 6}})).await;
    world.host.patch(&fed_web(), json!({"spec": {"template": {"spec": {"paused": true}}}})).await;
    let selector = json!({"spec": {"template": {"spec": {"selector": {"tier": "front"}}}}});
    for name in ["head", "web"] {
        world.host.patch(&format!("{TYPES}/federatedservices/{name}"), selector.clone()).await;
    }
    let copy = m1.until(WEB, |copy| copy["spec"]["paused"] == true).await;
    assert_eq!(copy["spec"]["replicas"], 6);
    let after = m1.until(path, |copy| copy["spec"]["selector"]["tier"] == "front").await;
    for field in ["clusterIP", "clusterIPs", "ports"] {
        assert_eq!(after["spec"][field], before["spec"][field], "{field}");
    }
    let head = m1
        .until("/api/v1/namespaces/shop/services/head", |copy| copy["spec"]["selector"]["tier"] == "front")
        .await;
    assert_eq!(head["spec"]["clusterIP"], "None");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_in_a_namespace_that_is_not_federated_waits_for_it() {
    let mut world = World::start(1).await;
    world.host.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})).await;
    world.host.create(&fed_config(on(&["m1"]))).await;
    let status = world.host.until(&fed_conf(), |object| condition(object, "Propagation").0 == "False").await;
    assert_eq!(condition(&status, "Propagation").1, "NamespaceNotFederated");
    world.host.create(&federated("Namespace", "shop", "shop", json!({"placement": on(&["m1"])}))).await;
    world.member("m1").until(CONF, |_| true).await;
    world.propagated(&fed_conf()).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphaned_copies_stay_and_lose_the_label() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    let mut object = fed_config(on(&["m1", "m2"]));
    object["metadata"]["annotations"] = json!({"kubefed.io/orphan": "true"});
    world.host.create(&object).await;
    world.propagated(&fed_conf()).await;
    world.host.delete(&fed_conf()).await;
    world.host.until_gone(&fed_conf()).await;
    for member in world.members.values() {
        let copy =
            member.until(CONF, |copy| copy["metadata"]["labels"].get("kubefed.io/managed").is_none()).await;
        assert_eq!(copy["data"]["key"], "1");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_there_is_adopted_unless_it_says_no() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    let theirs = |labels: Value| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf", "namespace": "shop", "labels": labels}, "data": {"key": "theirs"},
        })
    };
    let (m1, m2) = (world.member("m1"), world.member("m2"));
    m1.create(&theirs(json!({"mine": "stays"}))).await;
    m2.create(&theirs(json!({"kubefed.io/managed": "false"}))).await;
    world.host.create(&fed_config(on(&["m1", "m2"]))).await;
    let copy = m1.until(CONF, |copy| copy["data"]["key"] == "1").await;
    assert_eq!(copy["metadata"]["labels"], json!({"mine": "stays", "kubefed.io/managed": "true"}));
    world
        .host
        .until(&fed_conf(), |object| words(object).get("m2").is_some_and(|word| word == "ManagedLabelFalse"))
        .await;
    assert_eq!(m2.get(CONF).await.unwrap()["data"]["key"], "theirs");

    // A copy with the label, of which no federated object knows, is nobody's.
    let mut stray = theirs(json!({"kubefed.io/managed": "true"}));
    stray["metadata"]["name"] = "stray".into();
    m2.create(&stray).await;
    m2.until("/api/v1/namespaces/shop/configmaps/stray", |copy| {
        copy["metadata"].get("labels").is_none_or(|l| l == &json!({}))
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_of_the_users_own_is_federated_at_run_time() {
    let mut world = World::start(1).await;
    world.namespace("shop").await;
    let target = hansa_api::TargetType {
        group: "example.org".into(),
        version: "v1".into(),
        kind: "Widget".into(),
        plural_name: "widgets".into(),
        ..Default::default()
    };
    let widgets = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"kind": "Widget", "listKind": "WidgetList", "plural": "widgets", "singular": "widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}},
            }}}],
        },
    });
    world.host.define(&hansa_api::federated::crd(&target, false, &[])).await;
    world
        .host
        .create(&federated(
            "Widget",
            "shop",
            "w",
            json!({"template": {"spec": {"size": 4}}, "placement": on(&["m1"])}),
        ))
        .await;
    world.host.create(&serde_json::to_value(hansa_api::federated::type_config(&target)).unwrap()).await;
    let config = format!("{SYSTEM}/federatedtypeconfigs/widgets.example.org");
    world.host.until(&config, |config| config["status"]["propagationController"] == "Running").await;

    // The member does not know the type yet, and says so; once it does, the object arrives.
    let path = format!("{TYPES}/federatedwidgets/w");
    world
        .host
        .until(&path, |object| words(object).get("m1").is_some_and(|word| word == "CachedRetrievalFailed"))
        .await;
    world.member("m1").define(&widgets).await;
    let copy = world.member("m1").until("/apis/example.org/v1/namespaces/shop/widgets/w", |_| true).await;
    assert_eq!(copy["spec"]["size"], 4);
    world.propagated(&path).await;

    // Turned off, it stands still.
    world.host.patch(&config, json!({"spec": {"propagation": "Disabled"}})).await;
    world.host.until(&config, |config| config["status"]["propagationController"] == "NotRunning").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_ten_default_types_arrive_and_go() {
    let mut world = World::start(1).await;
    world.namespace("shop").await;
    let labels = json!({"app": "web"});
    let pod = |restart: &str| {
        let mut spec = json!({"containers": [{"name": "web", "image": "nginx:1"}]});
        if !restart.is_empty() {
            spec["restartPolicy"] = restart.into();
        }
        json!({"metadata": {"labels": labels}, "spec": spec})
    };
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let objects = [
        (
            "ClusterRole",
            "",
            "federatedclusterroles",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/ten",
            json!({"rules": rules}),
        ),
        (
            "ConfigMap",
            "shop",
            "federatedconfigmaps",
            "/api/v1/namespaces/shop/configmaps/ten",
            config_map("1"),
        ),
        (
            "Deployment",
            "shop",
            "federateddeployments",
            "/apis/apps/v1/namespaces/shop/deployments/ten",
            deployment(),
        ),
        (
            "Ingress",
            "shop",
            "federatedingresses",
            "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/ten",
            json!({"spec": {"defaultBackend": backend}}),
        ),
        (
            "Job",
            "shop",
            "federatedjobs",
            "/apis/batch/v1/namespaces/shop/jobs/ten",
            json!({"spec": {"template": pod("Never")}}),
        ),
        (
            "ReplicaSet",
            "shop",
            "federatedreplicasets",
            "/apis/apps/v1/namespaces/shop/replicasets/ten",
            json!({"spec": {"selector": {"matchLabels": labels}, "template": pod("")}}),
        ),
        (
            "Secret",
            "shop",
            "federatedsecrets",
            "/api/v1/namespaces/shop/secrets/ten",
            json!({"data": {"a": "Yg=="}}),
        ),
        (
            "ServiceAccount",
            "shop",
            "federatedserviceaccounts",
            "/api/v1/namespaces/shop/serviceaccounts/ten",
            json!({}),
        ),
        (
            "Service",
            "shop",
            "federatedservices",
            "/api/v1/namespaces/shop/services/ten",
            json!({"spec": {"ports": [{"port": 80}]}}),
        ),
    ];
    for (kind, namespace, ..) in &objects {
        let template = objects.iter().find(|object| object.0 == *kind).unwrap().4.clone();
        world
            .host
            .create(&federated(
                kind,
                namespace,
                "ten",
                json!({"template": template, "placement": on(&["m1"])}),
            ))
            .await;
    }
    let path = |namespace: &str, plural: &str| {
        if namespace.is_empty() {
            format!("/apis/types.kubefed.io/v1beta1/{plural}/ten")
        } else {
            format!("{TYPES}/{plural}/ten")
        }
    };
    for (_, namespace, plural, target, _) in &objects {
        world
            .member("m1")
            .until(target, |copy| copy["metadata"]["labels"]["kubefed.io/managed"] == "true")
            .await;
        world.propagated(&path(namespace, plural)).await;
    }
    world.quiet().await;
    for (_, namespace, plural, target, _) in &objects {
        world.host.delete(&path(namespace, plural)).await;
        world.member("m1").until_gone(target).await;
        world.host.until_gone(&path(namespace, plural)).await;
    }
    // The tenth: the namespace itself.
    world.host.delete(&format!("{TYPES}/federatednamespaces/shop")).await;
    let gone = world
        .member("m1")
        .until("/api/v1/namespaces/shop", |namespace| !namespace["metadata"]["deletionTimestamp"].is_null());
    tokio::select! {
        _ = gone => {}
        () = world.member("m1").until_gone("/api/v1/namespaces/shop") => {}
    }
    assert!(world.host.get("/api/v1/namespaces/shop").await.is_some());
    world.stop().await;
}

/// What a ConfigMap of the restless user is to be: its data and its clusters, or deleted.
type Wish = Option<(u64, Vec<&'static str>)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_between_any_two_writes_it_goes_on_where_it_was() {
    const OBJECTS: usize = 6;
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    let mut wishes: Vec<Wish> = vec![None; OBJECTS];
    // A fixed sequence of arbitrary numbers, so that a failure can be repeated.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..40 {
        let index = usize::try_from(next(OBJECTS as u64)).unwrap();
        let path = format!("{}{index}", fed_conf());
        let clusters =
            [vec!["m1", "m2"], vec!["m1"], vec!["m2"], vec![]][usize::try_from(next(4)).unwrap()].clone();
        let value = next(1_000);
        let spec = json!({"template": config_map(&value.to_string()), "placement": on(&clusters)});
        match world.host.get(&path).await {
            Some(object) if object["metadata"]["deletionTimestamp"].is_string() => {}
            Some(_) if next(3) == 0 => {
                world.host.delete(&path).await;
                wishes[index] = None;
            }
            Some(_) => {
                world.host.patch(&path, json!({ "spec": spec })).await;
                wishes[index] = Some((value, clusters));
            }
            None => {
                world.host.create(&federated("ConfigMap", "shop", &format!("conf{index}"), spec)).await;
                wishes[index] = Some((value, clusters));
            }
        }
        tokio::time::sleep(Duration::from_millis(next(40))).await;
        if next(2) == 0 {
            world.stop().await;
            world.run();
        }
    }
    for (index, wish) in wishes.iter().enumerate() {
        let path = format!("{}{index}", fed_conf());
        match wish {
            None => world.host.until_gone(&path).await,
            Some(_) => drop(world.propagated(&path).await),
        }
        for (name, member) in &world.members {
            let copy = format!("{CONF}{index}");
            match wish.as_ref().filter(|(_, clusters)| clusters.contains(&name.as_str())) {
                Some((value, _)) => {
                    drop(member.until(&copy, |copy| copy["data"]["key"] == value.to_string().as_str()).await);
                }
                None => member.until_gone(&copy).await,
            }
        }
    }
    world.quiet().await;
    world.stop().await;
}
