//! Writes towards members (`spec/kubefed.md §2.6, §2.7, §5 (6)–(8), §6 (15)–(19)`): what an older KubeFed left, members that cannot do what
//! others can, and members that refuse. What depends on how a server books fields is also shown on a real kube-apiserver.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail so

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Response};
use serde_json::{Value, json};
use support::real::Real;
use support::{Cluster, World, condition, eventually, federated, on, words};

const TYPES: &str = "/apis/types.kubefed.io/v1beta1/namespaces/shop";
const CONF: &str = "/api/v1/namespaces/shop/configmaps/conf";
const WEB: &str = "/apis/apps/v1/namespaces/shop/deployments/web";

fn fed(kind: &str, name: &str) -> String {
    format!("{TYPES}/federated{kind}/{name}")
}

/// An object as KubeFed wrote it.
fn kubefeds(api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubefed.io/managed": "true"}},
    });
    for (field, value) in rest.as_object().unwrap() {
        match object.get_mut(field).and_then(Value::as_object_mut) {
            Some(there) => there.extend(value.as_object().unwrap().clone()),
            None => object[field] = value.clone(),
        }
    }
    object
}

fn deployment(app: &str, replicas: i64) -> Value {
    let labels = json!({ "app": app });
    json!({"spec": {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "nginx:1"}]}},
    }})
}

fn managers(object: &Value) -> Vec<(String, String)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries.iter().map(|entry| (text(&entry["manager"]), text(&entry["operation"]))).collect()
}

fn message(object: &Value, cluster: &str) -> String {
    let clusters = object["status"]["clusters"].as_array().cloned().unwrap_or_default();
    let found = clusters.into_iter().find(|entry| entry["name"] == cluster).unwrap_or_default();
    found["message"].as_str().unwrap_or_default().to_owned()
}

fn word(object: &Value, cluster: &str) -> String {
    words(object).remove(cluster).unwrap_or_default()
}

/// A refusal, as API servers word it.
fn status(code: u16, reason: &str, message: &str) -> Response<Value> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
    });
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn is_apply(head: &http::request::Parts) -> bool {
    head.headers.get("content-type").is_some_and(|kind| kind == "application/apply-patch+yaml")
}

/// Waits until nobody has written anything to a cluster for a while.
async fn quiet(cluster: &Cluster) {
    let quiet = eventually(|| async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.door.writes().is_empty().then_some(())
    });
    assert!(quiet.await.is_some(), "somebody writes without end");
}

/// Counts the requests for a path, watches aside.
fn spy(cluster: &Cluster, path: &'static str) -> impl Fn() -> Vec<String> + use<> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    cluster.door.answer(move |head| {
        if head.uri.path().starts_with(path) {
            log.lock().unwrap().push(head.method.to_string());
        }
        None
    });
    move || std::mem::take(&mut seen.lock().unwrap())
}

async fn take_over_what_kubefed_put(world: &mut World) {
    world.namespace("shop").await;
    world.stop().await; // or what KubeFed put would be nobody's, until its federated object is there
    let m1 = world.member("m1");
    let object = kubefeds(
        "v1",
        "ConfigMap",
        "conf",
        json!({
            "metadata": {"labels": {"kubefed.io/managed": "true", "stale": "1", "app": "web"}},
            "data": {"key": "1", "stale": "1"},
        }),
    );
    m1.write_as("controller-manager", Method::POST, None, &object).await;
    let theirs = json!({"metadata": {"labels": {"theirs": "1"}, "annotations": {"theirs": "1"}}, "data": {"theirs": "1"}});
    m1.write_as("kubectl-edit", Method::PATCH, Some(CONF), &theirs).await;

    // The write that drops fields is the first of ours.
    let template = json!({"metadata": {"labels": {"app": "web"}}, "data": {"key": "2"}});
    let spec = json!({"template": template, "placement": on(&["m1"])});
    world.host.create(&federated("ConfigMap", "shop", "conf", spec)).await;
    world.run();
    let m1 = world.member("m1");
    world.propagated(&fed("configmaps", "conf")).await;
    let copy = m1.get(CONF).await.unwrap();
    assert_eq!(copy["data"], json!({"key": "2", "theirs": "1"}), "{copy:#}");
    assert_eq!(
        copy["metadata"]["labels"],
        json!({"app": "web", "kubefed.io/managed": "true", "theirs": "1"})
    );
    assert_eq!(copy["metadata"]["annotations"], json!({"theirs": "1"}));
    let owners = managers(&copy);
    assert!(owners.contains(&("kubefed".into(), "Apply".into())), "{owners:?}");
    assert!(!owners.contains(&("controller-manager".into(), "Update".into())), "{owners:?}");

    // Another program of that name keeps what it writes from now on.
    let theirs = json!({"data": {"again": "1"}});
    m1.write_as("controller-manager", Method::PATCH, Some(CONF), &theirs).await;
    quiet(m1).await;
    let asked = spy(m1, CONF);
    world.host.patch(&fed("configmaps", "conf"), json!({"spec": {"template": {"data": {"key": "3"}}}})).await;
    m1.until(CONF, |copy| copy["data"]["key"] == "3").await;
    world.propagated(&fed("configmaps", "conf")).await;
    // What is ours costs one request and no look.
    assert_eq!(asked(), ["PATCH"]);
    assert_eq!(m1.get(CONF).await.unwrap()["data"]["again"], "1");
    m1.door.mend();
}

async fn keep_what_the_member_decides_of_what_kubefed_put(world: &mut World) {
    world.stop().await;
    let m1 = world.member("m1");
    // An autoscaler has the say of one, KubeFed alone of the other; the template says 1 of both.
    let deployments = [("web", 7), ("own", 3)];
    for (name, replicas) in deployments {
        let object = kubefeds("apps/v1", "Deployment", name, deployment(name, 3));
        m1.write_as("controller-manager", Method::POST, None, &object).await;
        let path = format!("/apis/apps/v1/namespaces/shop/deployments/{name}");
        if replicas != 3 {
            let scaled = json!({"spec": {"replicas": replicas}});
            m1.write_as("autoscaler", Method::PATCH, Some(&path), &scaled).await;
        }
        let mut template = deployment(name, 1);
        template["spec"]["paused"] = true.into();
        let spec = json!({"template": template, "placement": on(&["m1"]), "retainReplicas": true});
        world.host.create(&federated("Deployment", "shop", name, spec)).await;
    }
    // What cannot be taken away again, as it is immutable.
    let token = json!({"type": "example.org/token", "data": {"a": "MQ==", "stale": "MQ=="}});
    m1.write_as("controller-manager", Method::POST, None, &kubefeds("v1", "Secret", "key", token)).await;
    let spec = json!({"template": {"data": {"a": "Mg=="}}, "placement": on(&["m1"])});
    world.host.create(&federated("Secret", "shop", "key", spec)).await;

    world.run();
    let m1 = world.member("m1");
    for (name, replicas) in deployments {
        world.propagated(&fed("deployments", name)).await;
        let copy = m1.get(&format!("/apis/apps/v1/namespaces/shop/deployments/{name}")).await.unwrap();
        assert_eq!((&copy["spec"]["paused"], &copy["spec"]["replicas"]), (&json!(true), &json!(replicas)));
        assert!(!managers(&copy).contains(&("controller-manager".into(), "Update".into())), "{copy:#}");
    }
    // It stays, and the rest is written all the same.
    world.propagated(&fed("secrets", "key")).await;
    let copy = m1.get("/api/v1/namespaces/shop/secrets/key").await.unwrap();
    assert_eq!((&copy["data"], &copy["type"]), (&json!({"a": "Mg=="}), &json!("example.org/token")));
}

/// What a server filled in when KubeFed created an object is booked on KubeFed too; giving it up must not lose it.
async fn leave_what_the_server_filled_in(world: &mut World) {
    world.stop().await;
    let labels = json!({"app": "web"});
    let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}], "restartPolicy": "Always"}});
    let mut once = pod.clone();
    once["spec"]["restartPolicy"] = "Never".into();
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]);
    let templates = [
        ("v1", "Service", json!({"spec": {"type": "NodePort", "selector": labels, "ports": [{"port": 80}]}})),
        ("v1", "ServiceAccount", json!({})),
        ("batch/v1", "Job", json!({"spec": {"template": once}})),
        ("apps/v1", "ReplicaSet", json!({"spec": {"selector": {"matchLabels": labels}, "template": pod}})),
        (
            "networking.k8s.io/v1",
            "Ingress",
            json!({"spec": {"rules": [{"host": "a.test", "http": {"paths": paths}}]}}),
        ),
    ];
    let mut before = Vec::new();
    for (api_version, kind, template) in &templates {
        let object = kubefeds(api_version, kind, "full", template.clone());
        let copy = world.member("m1").write_as("controller-manager", Method::POST, None, &object).await;
        let mut template = template.clone();
        template["metadata"] = json!({"labels": {"new": "1"}});
        let spec = json!({"template": template, "placement": on(&["m1"])});
        world.host.create(&federated(kind, "shop", "full", spec)).await;
        before.push(copy);
    }
    let old = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "old", "labels": {
        "kubefed.io/managed": "true", "stale": "1", "kubesphere.io/workspace": "w",
    }}});
    world.member("m1").write_as("controller-manager", Method::POST, None, &old).await;
    world.host.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "old"}})).await;
    let spec = json!({"template": {"metadata": {"labels": {"new": "1"}}}, "placement": on(&["m1"])});
    world.host.create(&federated("Namespace", "old", "old", spec)).await;
    world.run();
    world.propagated("/apis/types.kubefed.io/v1beta1/namespaces/old/federatednamespaces/old").await;
    // KubeSphere's controllers go by KubeFed's name, and keep what is theirs.
    let copy = world.member("m1").get("/api/v1/namespaces/old").await.unwrap();
    let labels = json!({
        "kubefed.io/managed": "true", "kubernetes.io/metadata.name": "old", "kubesphere.io/workspace": "w", "new": "1",
    });
    assert_eq!(copy["metadata"]["labels"], labels);
    for ((api_version, kind, _), before) in templates.iter().zip(before) {
        let plural = hansa_api::federated::plural(kind);
        world.propagated(&fed(&plural, "full")).await;
        let prefix = if api_version.contains('/') { "apis" } else { "api" };
        let path = format!("/{prefix}/{api_version}/namespaces/shop/{plural}/full");
        let copy = world.member("m1").get(&path).await.unwrap();
        assert_eq!(copy["metadata"]["labels"]["new"], "1");
        assert_eq!(copy["spec"], before["spec"], "{kind}");
        let owners = managers(&copy);
        assert!(owners.contains(&("kubefed".into(), "Apply".into())), "{kind}: {owners:?}");
        assert!(!owners.contains(&("controller-manager".into(), "Update".into())), "{kind}: {owners:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_kubefed_put_is_taken_over() {
    let mut world = World::start(1).await;
    take_over_what_kubefed_put(&mut world).await;
    keep_what_the_member_decides_of_what_kubefed_put(&mut world).await;
    leave_what_the_server_filled_in(&mut world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_kubefed_put_is_taken_over_on_a_real_cluster() {
    let Some(real) = Real::start().await else { return };
    let mut world = World::of(vec![real.cluster.clone()]).await;
    take_over_what_kubefed_put(&mut world).await;
    keep_what_the_member_decides_of_what_kubefed_put(&mut world).await;
    leave_what_the_server_filled_in(&mut world).await;
    world.stop().await;
}

/// A copy whose recorded version is current is right: taking it over waits for the next write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kubefed_put_and_recorded_is_left_alone_until_it_changes() {
    let mut world = World::start(1).await;
    world.namespace("shop").await;
    let spec = json!({"template": {"data": {"key": "1", "stale": "1"}}, "placement": on(&["m1"])});
    world.host.create(&federated("ConfigMap", "shop", "conf", spec)).await;
    world.propagated(&fed("configmaps", "conf")).await;
    let record = "/apis/core.kubefed.io/v1alpha1/namespaces/shop/propagatedversions/configmap-conf";
    world.host.until(record, |record| !record["status"]["clusterVersions"][0].is_null()).await;
    world.stop().await;

    // The same object, as if KubeFed had made it all.
    let m1 = world.member("m1");
    m1.delete(CONF).await;
    let object = kubefeds("v1", "ConfigMap", "conf", json!({"data": {"key": "1", "stale": "1"}}));
    let copy = m1.write_as("controller-manager", Method::POST, None, &object).await;
    let version = format!("rv:{}", copy["metadata"]["resourceVersion"].as_str().unwrap());
    let status = format!("{record}/status");
    let versions = json!([{"clusterName": "m1", "version": version}]);
    world.host.patch(&status, json!({"status": {"clusterVersions": versions}})).await;
    m1.door.writes();
    world.run();
    // It is awake: another object arrives.
    let spec = json!({"template": {}, "placement": on(&["m1"])});
    world.host.create(&federated("ConfigMap", "shop", "other", spec)).await;
    world.propagated(&fed("configmaps", "other")).await;
    let m1 = world.member("m1");
    assert_eq!(m1.door.writes(), ["PATCH /api/v1/namespaces/shop/configmaps/other"]);

    world
        .host
        .patch(&fed("configmaps", "conf"), json!({"spec": {"template": {"data": {"stale": null}}}}))
        .await;
    let copy = m1.until(CONF, |copy| copy["data"].get("stale").is_none()).await;
    assert_eq!(copy["data"], json!({"key": "1"}));
    world.stop().await;
}

/// The control plane may end at any moment, between taking over and writing as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_over_that_was_cut_short_is_finished_by_whoever_comes_next() {
    let mut world = World::start(1).await;
    world.namespace("shop").await;
    world.stop().await;
    let m1 = world.member("m1");
    let object = kubefeds("v1", "ConfigMap", "conf", json!({"data": {"key": "1", "stale": "1"}}));
    m1.write_as("controller-manager", Method::POST, None, &object).await;
    let spec = json!({"template": {"data": {"key": "1"}}, "placement": on(&["m1"])});
    world.host.create(&federated("ConfigMap", "shop", "conf", spec)).await;
    m1.door.answer(|head| {
        (is_apply(head) && head.uri.path() == CONF).then(|| status(500, "InternalError", "not now"))
    });
    world.run();
    let m1 = world.member("m1");
    let taken = m1.until(CONF, |copy| managers(copy).contains(&("kubefed".into(), "Apply".into()))).await;
    assert_eq!(taken["data"], json!({"key": "1", "stale": "1"}));
    world.stop().await;
    world.member("m1").door.mend();
    world.run();
    let copy = world.member("m1").until(CONF, |copy| copy["data"].get("stale").is_none()).await;
    assert_eq!(copy["data"], json!({"key": "1"}));
    world.stop().await;
}

/// Answers as a server does that has never heard of apply.
fn forget_apply(cluster: &Cluster) -> impl Fn() -> usize + use<> {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    cluster.door.answer(move |head| {
        is_apply(head).then(|| {
            *count.lock().unwrap() += 1;
            status(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
        })
    });
    move || *asked.lock().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_server_side_apply_is_written_to_as_kubefed_did() {
    let mut world = World::start(2).await;
    let m1 = world.member("m1");
    let asked = forget_apply(m1);
    world.namespace("shop").await;
    let spec = json!({
        "template": {"metadata": {"labels": {"app": "web"}}, "data": {"key": "1"}}, "placement": on(&["m1", "m2"]),
    });
    world.host.create(&federated("ConfigMap", "shop", "conf", spec)).await;
    world.propagated(&fed("configmaps", "conf")).await;
    let copy = m1.get(CONF).await.unwrap();
    assert_eq!((&copy["data"]["key"], &copy["metadata"]["labels"]["app"]), (&json!("1"), &json!("web")));

    // `spec/kubefed.md §6 (18)`: what others put on it is not wiped, and a field of the template's own goes when it is dropped.
    let owner = json!({"apiVersion": "v1", "kind": "Namespace", "name": "shop", "uid": m1.get("/api/v1/namespaces/shop").await.unwrap()["metadata"]["uid"]});
    let theirs = json!({"metadata": {
        "labels": {"theirs": "1"}, "annotations": {"theirs": "1"}, "finalizers": ["example.org/theirs"], "ownerReferences": [owner],
    }});
    m1.patch(CONF, theirs).await;
    world
        .host
        .patch(&fed("configmaps", "conf"), json!({"spec": {"template": {"data": {"key": null, "new": "1"}}}}))
        .await;
    let copy = m1.until(CONF, |copy| copy["data"]["new"] == "1").await;
    assert_eq!(copy["data"], json!({"new": "1"}));
    assert_eq!(
        copy["metadata"]["labels"],
        json!({"app": "web", "kubefed.io/managed": "true", "theirs": "1"})
    );
    assert_eq!(copy["metadata"]["annotations"]["theirs"], "1");
    assert_eq!(copy["metadata"]["finalizers"], json!(["example.org/theirs"]));
    assert_eq!(copy["metadata"]["ownerReferences"][0]["name"], "shop");

    // Once per type and connection it is asked whether it can.
    assert_eq!(asked(), 2, "for a Namespace and for a ConfigMap");
    world.propagated(&fed("configmaps", "conf")).await;
    quiet(m1).await;
    m1.patch(CONF, json!({"metadata": {"finalizers": null}})).await;
    world.host.delete(&fed("configmaps", "conf")).await;
    m1.until_gone(CONF).await;
    world.host.until_gone(&fed("configmaps", "conf")).await;
    assert_eq!(asked(), 2);
    world.stop().await;
}

async fn put_and_keep_what_the_member_decided(world: &World) {
    let m1 = world.member("m1");
    let _asked = forget_apply(m1);
    world.namespace("shop").await;
    let ports = json!([{"name": "http", "port": 80}]);
    let template = json!({"spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": ports}});
    let spec = json!({"template": template, "placement": on(&["m1"])});
    world.host.create(&federated("Service", "shop", "web", spec)).await;
    world.propagated(&fed("services", "web")).await;
    let service = "/api/v1/namespaces/shop/services/web";
    let before = m1.get(service).await.unwrap();
    assert!(before["spec"]["ports"][0]["nodePort"].is_i64() && before["spec"]["clusterIP"].is_string());
    world
        .host
        .patch(
            &fed("services", "web"),
            json!({"spec": {"template": {"spec": {"selector": {"app": "next"}}}}}),
        )
        .await;
    let after = m1.until(service, |copy| copy["spec"]["selector"]["app"] == "next").await;
    for field in ["clusterIP", "clusterIPs", "ports"] {
        assert_eq!(after["spec"][field], before["spec"][field]);
    }

    let mut template = deployment("web", 1);
    template["spec"]["paused"] = false.into();
    let spec = json!({"template": template, "placement": on(&["m1"]), "retainReplicas": true});
    world.host.create(&federated("Deployment", "shop", "web", spec)).await;
    world.propagated(&fed("deployments", "web")).await;
    m1.patch(WEB, json!({"spec": {"replicas": 7}})).await;
    world
        .host
        .patch(&fed("deployments", "web"), json!({"spec": {"template": {"spec": {"paused": true}}}}))
        .await;
    let copy = m1.until(WEB, |copy| copy["spec"]["paused"] == true).await;
    assert_eq!(copy["spec"]["replicas"], 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_server_side_apply_keeps_addresses_ports_and_replicas() {
    let mut world = World::start(1).await;
    put_and_keep_what_the_member_decided(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_server_side_apply_keeps_addresses_ports_and_replicas_on_a_real_cluster() {
    let Some(real) = Real::start().await else { return };
    let mut world = World::of(vec![real.cluster.clone()]).await;
    put_and_keep_what_the_member_decided(&world).await;
    world.stop().await;
}

/// `spec/kubefed.md §6 (19)`: a conflict cost KubeFed five seconds and a word in the status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_is_settled_at_once_and_not_told() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    let conflict = |head: &http::request::Parts, left: &Mutex<u32>| {
        let writes = matches!(head.method, Method::PUT | Method::PATCH) && head.uri.path() == CONF;
        let mut left = left.lock().unwrap();
        let refuses = writes && *left > 0;
        *left -= u32::from(refuses);
        refuses.then(|| status(409, "Conflict", "the object has been modified; please apply your changes"))
    };
    let spec = json!({"template": {"data": {"key": "1"}}, "placement": on(&["m1", "m2"])});
    world.host.create(&federated("ConfigMap", "shop", "conf", spec)).await;
    world.propagated(&fed("configmaps", "conf")).await;
    let left = Arc::new([Mutex::new(2), Mutex::new(2)]);
    let (first, second) = (left.clone(), left.clone());
    world.member("m1").door.answer(move |head| conflict(head, &first[0]));
    world.member("m2").door.answer(move |head| {
        if is_apply(head) {
            return Some(status(415, "UnsupportedMediaType", "unknown format"));
        }
        conflict(head, &second[1])
    });
    world.host.patch(&fed("configmaps", "conf"), json!({"spec": {"template": {"data": {"key": "2"}}}})).await;
    let object = world.propagated(&fed("configmaps", "conf")).await;
    assert_eq!((word(&object, "m1"), word(&object, "m2")), (String::new(), String::new()));
    for (number, member) in ["m1", "m2"].into_iter().enumerate() {
        assert_eq!(*left[number].lock().unwrap(), 0);
        assert_eq!(world.member(member).get(CONF).await.unwrap()["data"]["key"], "2");
    }
    let events = world.host.get("/api/v1/namespaces/shop/events").await.unwrap();
    assert!(!events.to_string().contains("UpdateInClusterFailed"), "{events:#?}");
    world.stop().await;
}

/// The reasons of the events about a federated object.
async fn reasons(world: &World, name: &str) -> Vec<String> {
    let events = world.host.get("/api/v1/namespaces/shop/events").await.unwrap();
    let events = events["items"].as_array().cloned().unwrap_or_default();
    let about = events.iter().filter(|event| event["involvedObject"]["name"] == name);
    about.map(|event| event["reason"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn make_anew_what_cannot_be_changed(world: &World) {
    let (web, m1) = (fed("deployments", "web"), world.member("m1"));
    world.namespace("shop").await;
    let spec = json!({"template": deployment("web", 1), "placement": on(&["m1"])});
    world.host.create(&federated("Deployment", "shop", "web", spec)).await;
    world.propagated(&web).await;
    let uid = m1.get(WEB).await.unwrap()["metadata"]["uid"].clone();

    // `spec/kubefed.md §5 (8)`: the field is named, and nobody tries again and again.
    world.host.patch(&web, json!({"spec": {"template": deployment("next", 1)}})).await;
    let object = world.host.until(&web, |object| word(object, "m1") == "UpdateFailed").await;
    let told = message(&object, "m1");
    assert!(told.contains("spec.selector") && told.contains("kubefed.io/recreate=true"), "{told}");
    quiet(m1).await;
    assert_eq!(m1.get(WEB).await.unwrap()["metadata"]["uid"], uid);

    // The annotation opts in, and is acted on at once.
    world.host.patch(&web, json!({"metadata": {"annotations": {"kubefed.io/recreate": "true"}}})).await;
    let copy = m1.until(WEB, |copy| copy["metadata"]["uid"] != uid).await;
    assert_eq!(copy["spec"]["selector"]["matchLabels"]["app"], "next");
    let object = world.propagated(&web).await;
    assert_eq!(word(&object, "m1"), "");
    let told = eventually(|| async {
        reasons(world, "web").await.contains(&"RecreateInCluster".into()).then_some(())
    });
    assert!(told.await.is_some(), "{:?}", reasons(world, "web").await);

    // What could not be created again is not deleted.
    let uid = copy["metadata"]["uid"].clone();
    let mut template = deployment("third", 1);
    template["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    world.host.patch(&web, json!({"spec": {"template": template}})).await;
    let object = world.host.until(&web, |object| word(object, "m1") == "UpdateFailed").await;
    assert_eq!(m1.get(WEB).await.unwrap()["metadata"]["uid"], uid, "{}", message(&object, "m1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_immutable_field_is_named_and_an_annotation_has_the_copy_made_anew() {
    let mut world = World::start(1).await;
    make_anew_what_cannot_be_changed(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_immutable_field_is_named_and_an_annotation_has_the_copy_made_anew_on_a_real_cluster() {
    let Some(real) = Real::start().await else { return };
    let mut world = World::of(vec![real.cluster.clone()]).await;
    make_anew_what_cannot_be_changed(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lingers_is_created_again_when_it_is_gone_and_only_once() {
    let mut world = World::start(1).await;
    let (web, m1) = (fed("deployments", "web"), world.member("m1"));
    world.namespace("shop").await;
    let mut object = federated(
        "Deployment",
        "shop",
        "web",
        json!({"template": deployment("web", 1), "placement": on(&["m1"])}),
    );
    object["metadata"]["annotations"] = json!({"kubefed.io/recreate": "true"});
    world.host.create(&object).await;
    world.propagated(&web).await;
    m1.patch(WEB, json!({"metadata": {"finalizers": ["example.org/lingers"]}})).await;
    let uid = m1.get(WEB).await.unwrap()["metadata"]["uid"].clone();
    world.host.patch(&web, json!({"spec": {"template": deployment("next", 1)}})).await;
    m1.until(WEB, |copy| !copy["metadata"]["deletionTimestamp"].is_null()).await;
    world.host.until(&web, |object| word(object, "m1") == "WaitingForRemoval").await;
    m1.patch(WEB, json!({"metadata": {"finalizers": null}})).await;
    let copy = m1.until(WEB, |copy| copy["metadata"]["uid"] != uid).await;
    world.propagated(&web).await;
    quiet(m1).await;

    // A member that refuses what was just made anew does not have us make it anew for ever.
    let uid = copy["metadata"]["uid"].clone();
    m1.door.answer(move |head| {
        let forced = head.uri.query().is_some_and(|query| query.contains("force=true"));
        (is_apply(head) && forced && head.uri.path() == WEB).then(|| {
            let mut refusal = status(422, "Invalid", "Deployment is invalid");
            let cause = json!({"field": "spec.selector", "message": "Invalid value: {}: field is immutable"});
            refusal.body_mut()["details"] = json!({ "causes": [cause] });
            refusal
        })
    });
    m1.patch(WEB, json!({"spec": {"replicas": 9}})).await;
    let object = world.host.until(&web, |object| word(object, "m1") == "UpdateFailed").await;
    assert!(message(&object, "m1").contains("already for this generation"), "{}", message(&object, "m1"));
    quiet(m1).await;
    assert_eq!(m1.get(WEB).await.unwrap()["metadata"]["uid"], uid);
    world.stop().await;
}

/// `spec/kubefed.md §6 (17)`: KubeFed left the Pods of a Job behind, and heeded the annotation only when the federated object went.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_options_hold_for_a_shrunk_placement_and_nothing_is_left_behind_by_default() {
    let mut world = World::start(1).await;
    world.namespace("shop").await;
    let m1 = world.member("m1");
    let job = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}}}});
    for (name, annotations, stays) in [
        ("default", json!({}), false),
        ("orphan", json!({"kubefed.io/deleteoption": "{\"propagationPolicy\":\"Orphan\"}"}), true),
    ] {
        let mut object = federated("Job", "shop", name, json!({"template": job, "placement": on(&["m1"])}));
        object["metadata"]["annotations"] = annotations;
        world.host.create(&object).await;
        world.propagated(&fed("jobs", name)).await;
        let path = format!("/apis/batch/v1/namespaces/shop/jobs/{name}");
        let uid = m1.get(&path).await.unwrap()["metadata"]["uid"].clone();
        let dependent = format!("/api/v1/namespaces/shop/configmaps/of-{name}");
        m1.create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": format!("of-{name}"), "namespace": "shop",
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}],
        }}))
        .await;
        world.host.patch(&fed("jobs", name), json!({"spec": {"placement": on(&[])}})).await;
        m1.until_gone(&path).await;
        if stays {
            let left = m1.until(&dependent, |left| left["metadata"]["ownerReferences"].is_null()).await;
            assert_eq!(left["metadata"]["deletionTimestamp"], Value::Null);
        } else {
            m1.until_gone(&dependent).await;
        }
    }
    world.stop().await;
}

/// `spec/kubefed.md §5 (2)`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_serve_the_type_hurts_nobody_else() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    let overrides =
        json!([{"clusterName": "m2", "clusterOverrides": [{"path": "/apiVersion", "value": "apps/v9"}]}]);
    let spec =
        json!({"template": deployment("web", 1), "placement": on(&["m1", "m2"]), "overrides": overrides});
    world.host.create(&federated("Deployment", "shop", "web", spec)).await;
    let object =
        world.host.until(&fed("deployments", "web"), |object| word(object, "m2") == "CreationFailed").await;
    let told = message(&object, "m2");
    assert!(told.contains("does not serve apps/v9 Deployment"), "{told}");
    world.member("m1").until(WEB, |_| true).await;
    let object = world.host.until(&fed("deployments", "web"), |object| words(object).len() == 2).await;
    assert_eq!(
        (word(&object, "m1"), condition(&object, "Propagation").1),
        (String::new(), "CheckClusters".into())
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_says_when_it_refuses_is_told_and_when_it_relents_all_is_well() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    let m2 = world.member("m2");
    for (name, code, reason, words) in [
        ("policy", 403, "Forbidden", "admission webhook \"policy.test\" denied the request: no Fridays"),
        ("disk", 507, "", "insufficient storage"),
        ("etcd", 500, "InternalError", "etcdserver: mvcc: database space exceeded"),
        ("busy", 429, "TooManyRequests", "Too many requests, please try again later."),
    ] {
        m2.door.answer(move |head| {
            let conf =
                head.uri.path().ends_with(&format!("/configmaps/{name}")) && head.method == Method::PATCH;
            conf.then(|| {
                let mut refusal = status(code, reason, words);
                if code == 429 {
                    // As an overloaded server says it: in a header and in plain words.
                    refusal.headers_mut().insert("retry-after", "1".parse().unwrap());
                    *refusal.body_mut() = Value::String(words.to_owned());
                }
                refusal
            })
        });
        let spec = json!({"template": {"data": {"a": "1"}}, "placement": on(&["m1", "m2"])});
        world.host.create(&federated("ConfigMap", "shop", name, spec)).await;
        let path = fed("configmaps", name);
        let object = world.host.until(&path, |object| word(object, "m2") == "CreationFailed").await;
        assert!(message(&object, "m2").contains(words), "{}", message(&object, "m2"));
        assert_eq!(word(&object, "m1"), "");
        m2.door.mend();
        world.propagated(&path).await;
        m2.until(&format!("/api/v1/namespaces/shop/configmaps/{name}"), |_| true).await;
    }
    world.stop().await;
}
