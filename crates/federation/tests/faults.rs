//! The fault suite: whatever fails, and whenever, in the end the members are as the host says, nobody writes any more, and nothing is gone
//! that was not asked to go (`spec/kubefed.md §5, §6`; DESIGN §2).

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail so

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, Response};
use serde_json::{Value, json};
use support::{Cluster, Fate, Fuse, World, eventually, federated, on, words};

const SYSTEM: &str = "/apis/core.kubefed.io/v1beta1/namespaces/kube-federation-system";
const DEBTS: &str = "/apis/core.kubefed.io/v1alpha1/namespaces/kube-federation-system/propagatedversions";
const BOTH: [&str; 2] = ["m1", "m2"];

fn fed(name: &str) -> String {
    format!("/apis/types.kubefed.io/v1beta1/namespaces/shop/federatedconfigmaps/{name}")
}

fn copy(name: &str) -> String {
    format!("/api/v1/namespaces/shop/configmaps/{name}")
}

fn spec(value: &str, clusters: &[&str]) -> Value {
    json!({"template": {"data": {"key": value}}, "placement": on(clusters)})
}

async fn shop(members: usize) -> World {
    let world = World::start(members).await;
    world.namespace("shop").await;
    world
}

async fn create(world: &World, name: &str, value: &str, clusters: &[&str]) {
    world.host.create(&federated("ConfigMap", "shop", name, spec(value, clusters))).await;
}

async fn change(world: &World, name: &str, value: &str, clusters: &[&str]) {
    world.host.patch(&fed(name), json!({ "spec": spec(value, clusters) })).await;
}

async fn says(world: &World, name: &str, member: &str, word: &str) -> Value {
    world.host.until(&fed(name), |object| words(object).get(member).is_some_and(|said| said == word)).await
}

fn message(object: &Value, member: &str) -> String {
    let clusters = object["status"]["clusters"].as_array().unwrap();
    let cluster = clusters.iter().find(|cluster| cluster["name"] == member).unwrap();
    cluster["message"].as_str().unwrap_or_default().to_owned()
}

/// Waits until an object is, on the host and on every member, as it should be: with a value on some clusters, or not at all.
async fn is_right(world: &World, name: &str, wish: Option<(&str, &[&str])>) {
    match wish {
        Some((value, clusters)) => {
            for member in clusters {
                world.member(member).until(&copy(name), |copy| copy["data"]["key"] == value).await;
            }
            let is_said =
                |object: &Value| words(object).keys().map(String::as_str).eq(clusters.iter().copied());
            world.propagated(&fed(name)).await;
            world.host.until(&fed(name), is_said).await;
        }
        None => world.host.until_gone(&fed(name)).await,
    }
    for (member, cluster) in &world.members {
        if wish.is_none_or(|(_, clusters)| !clusters.contains(&member.as_str())) {
            cluster.until_gone(&copy(name)).await;
        }
    }
}

/// What is owed, as the names of the members for each object.
async fn debts(world: &World) -> Vec<Value> {
    let all = world.host.get(DEBTS).await.unwrap();
    let items = all["items"].as_array().unwrap().iter();
    let owed = items.filter(|item| item["metadata"]["name"].as_str().unwrap().starts_with("owed-"));
    owed.map(|item| {
        serde_json::from_str(item["metadata"]["annotations"]["kubefed.io/owed"].as_str().unwrap()).unwrap()
    })
    .collect()
}

async fn until_nothing_is_owed(world: &World) {
    let settled = eventually(|| async { debts(world).await.is_empty().then_some(()) }).await;
    assert!(settled.is_some(), "still owed: {:?}", debts(world).await);
}

/// What of an object does not change while nobody touches it.
async fn identity(cluster: &Cluster, path: &str) -> (Value, Value) {
    let metadata = cluster.get(path).await.unwrap()["metadata"].clone();
    (metadata["uid"].clone(), metadata["resourceVersion"].clone())
}

fn set(world: &World, fuse: Option<&Arc<Fuse>>) {
    world.members.values().chain([&world.host]).for_each(|cluster| cluster.door.set(fuse.cloned()));
}

/// Waits for what is to be; if the fuse that is set blows meanwhile, or did before, brings the control plane back and waits again.
async fn survive(world: &mut World, set_fuse: &mut Option<Arc<Fuse>>, wish: impl AsyncFn(&World)) {
    if let Some(fuse) = set_fuse.as_ref() {
        tokio::select! {
            () = wish(world) => {}
            () = fuse.blown() => {}
        }
        if fuse.is_blown() {
            if fuse.kills() {
                world.stop().await;
                set(world, None);
                world.run();
            }
            *set_fuse = None;
        }
    }
    wish(world).await;
}

/// What a user does to one object, one after the other, with something that happens at the n-th write it causes; whether it did happen.
async fn live_through(world: &mut World, number: usize, fate: Fate) -> bool {
    let name = format!("conf{number}");
    let mut fuse = Some(Fuse::after(number, fate));
    set(world, fuse.as_ref());
    let wishes: [Option<(&str, &[&str])>; 5] =
        [Some(("1", &BOTH)), Some(("2", &BOTH)), Some(("2", &["m1"])), Some(("3", &["m2"])), None];
    for (step, wish) in wishes.into_iter().enumerate() {
        match wish {
            Some((value, clusters)) if step == 0 => create(world, &name, value, clusters).await,
            Some((value, clusters)) => change(world, &name, value, clusters).await,
            None => world.host.delete(&fed(&name)).await,
        }
        survive(world, &mut fuse, async |world| is_right(world, &name, wish).await).await;
    }
    set(world, None);
    fuse.is_none()
}

/// At each write in turn, until there is none left.
async fn live_through_all(fate: Fate) {
    let mut world = shop(2).await;
    create(&world, "other", "1", &BOTH).await;
    is_right(&world, "other", Some(("1", &BOTH))).await;
    world.quiet().await;
    let mut others = Vec::new();
    for member in world.members.values() {
        others.push(identity(member, &copy("other")).await);
    }
    let mut number = 0;
    while live_through(&mut world, number, fate).await {
        number += 1;
        assert!(number < 60, "it writes without end");
    }
    // The finalizer, two copies, their versions (made, and told) and the status are the least for the first of the wishes alone.
    assert!(number > 12, "only {number} writes were seen");
    world.quiet().await;
    for (member, other) in world.members.values().zip(others) {
        assert_eq!(identity(member, &copy("other")).await, other);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_any_write_it_goes_on_where_it_was() {
    live_through_all(Fate::Dies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_any_write_it_goes_on_where_it_was() {
    live_through_all(Fate::DiesBefore).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_to_any_write_is_needed() {
    live_through_all(Fate::HearsNothing).await;
}

/// A world in which a deletion hardly waits for members that are away.
async fn impatient(members: usize) -> World {
    let mut world = shop(members).await;
    world.stop().await;
    world.options.overdue = Duration::from_millis(200);
    world.run();
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_write_of_a_debt_it_is_settled_all_the_same() {
    let mut world = impatient(2).await;
    for number in 0.. {
        let name = format!("conf{number}");
        create(&world, &name, "1", &BOTH).await;
        is_right(&world, &name, Some(("1", &BOTH))).await;
        let mut fuse = Some(Fuse::after(number, Fate::Dies));
        set(&world, fuse.as_ref());
        world.member("m2").door.cut();
        world.host.delete(&fed(&name)).await;
        let gone = async |world: &World| {
            world.host.until_gone(&fed(&name)).await;
            world.member("m1").until_gone(&copy(&name)).await;
        };
        survive(&mut world, &mut fuse, gone).await;
        assert!(world.member("m2").get(&copy(&name)).await.is_some());
        world.member("m2").door.mend();
        let settled = async |world: &World| {
            world.member("m2").until_gone(&copy(&name)).await;
            until_nothing_is_owed(world).await;
        };
        survive(&mut world, &mut fuse, settled).await;
        set(&world, None);
        world.ready("m2", true).await;
        if fuse.is_some() {
            assert!(number > 4, "only {number} writes were seen");
            break;
        }
    }
    world.quiet().await;
    world.stop().await;
}

/// A tenant may write PropagatedVersions in a namespace of their own; that must not have anything deleted anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_debt_that_a_tenant_made_up_is_none() {
    let mut world = impatient(2).await;
    world.stop().await;
    let owed = json!({"type": "configmaps", "namespace": "shop", "name": "prey", "clusters": {"m2": null}});
    world
        .host
        .create(&json!({
            "apiVersion": "core.kubefed.io/v1alpha1", "kind": "PropagatedVersion",
            "metadata": {"name": "owed-made-up", "namespace": "shop", "labels": {"kubefed.io/owed": "true"},
                "annotations": {"kubefed.io/owed": owed.to_string()}},
        }))
        .await;
    let prey = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"},
        "metadata": {"name": "prey", "namespace": "shop", "labels": {"kubefed.io/managed": "true"}}});
    world.member("m2").create(&prey).await;
    world.run();
    // What has no federated object is let go of, and stays.
    let is_let_go = |copy: &Value| copy["metadata"]["labels"]["kubefed.io/managed"].is_null();
    world.member("m2").until(&copy("prey"), is_let_go).await;
    world.quiet().await;
    assert!(world.member("m2").get(&copy("prey")).await.is_some());
    world.stop().await;
}

/// `spec/kubefed.md §6 (13)`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_does_not_wait_for_a_dead_member_which_is_cleaned_up_when_it_returns() {
    let mut world = impatient(2).await;
    create(&world, "conf", "1", &BOTH).await;
    is_right(&world, "conf", Some(("1", &BOTH))).await;
    let m2 = world.member("m2").clone();
    let uid = identity(&m2, &copy("conf")).await.0;
    m2.door.cut();
    world.host.delete(&fed("conf")).await;
    world.host.until_gone(&fed("conf")).await;
    world.member("m1").until_gone(&copy("conf")).await;
    let owed = json!({"type": "configmaps", "namespace": "shop", "name": "conf", "clusters": {"m2": uid}});
    assert_eq!(debts(&world).await, std::slice::from_ref(&owed));

    // It outlives the control plane, which owes it on.
    world.stop().await;
    world.run();
    world.ready("m1", true).await;
    world.quiet().await;
    assert_eq!(debts(&world).await, [owed]);
    assert!(m2.get(&copy("conf")).await.is_some());

    m2.door.mend();
    m2.until_gone(&copy("conf")).await;
    until_nothing_is_owed(&world).await;
    world.quiet().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_removed_cluster_owes_is_forgotten_and_nothing_is_done_there() {
    let mut world = impatient(2).await;
    create(&world, "conf", "1", &BOTH).await;
    is_right(&world, "conf", Some(("1", &BOTH))).await;
    let m2 = world.member("m2").clone();
    m2.door.cut();
    world.host.delete(&fed("conf")).await;
    world.host.until_gone(&fed("conf")).await;
    assert_eq!(debts(&world).await.len(), 1);
    world.host.delete(&format!("{SYSTEM}/kubefedclusters/m2")).await;
    until_nothing_is_owed(&world).await;
    m2.door.writes();
    m2.door.mend();
    world.quiet().await;
    assert_eq!(m2.get(&copy("conf")).await.unwrap()["data"]["key"], "1");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_was_made_again_is_not_deleted_for_the_debt_of_its_namesake() {
    let mut world = impatient(2).await;
    for name in ["again", "elsewhere"] {
        create(&world, name, "1", &BOTH).await;
        is_right(&world, name, Some(("1", &BOTH))).await;
    }
    let m2 = world.member("m2").clone();
    let uid = identity(&m2, &copy("again")).await.0;
    m2.door.cut();
    for name in ["again", "elsewhere"] {
        world.host.delete(&fed(name)).await;
        world.host.until_gone(&fed(name)).await;
    }
    assert_eq!(debts(&world).await.len(), 2);
    create(&world, "again", "2", &BOTH).await;
    create(&world, "elsewhere", "2", &["m1"]).await;
    for name in ["again", "elsewhere"] {
        world.member("m1").until(&copy(name), |copy| copy["data"]["key"] == "2").await;
    }
    m2.door.mend();
    is_right(&world, "again", Some(("2", &BOTH))).await;
    is_right(&world, "elsewhere", Some(("2", &["m1"]))).await;
    assert_eq!(identity(&m2, &copy("again")).await.0, uid);
    until_nothing_is_owed(&world).await;
    world.quiet().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_object_under_the_name_of_one_that_is_owed_is_let_go_of_and_stays() {
    let mut world = impatient(2).await;
    create(&world, "conf", "1", &BOTH).await;
    is_right(&world, "conf", Some(("1", &BOTH))).await;
    let m2 = world.member("m2").clone();
    m2.door.cut();
    world.host.delete(&fed("conf")).await;
    world.host.until_gone(&fed("conf")).await;
    world.stop().await;
    m2.delete(&copy("conf")).await;
    m2.create(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"key": "theirs"},
        "metadata": {"name": "conf", "namespace": "shop", "labels": {"kubefed.io/managed": "true"}},
    }))
    .await;
    world.run();
    m2.door.mend();
    let is_free = |copy: &Value| copy["metadata"]["labels"].get("kubefed.io/managed").is_none();
    let theirs = m2.until(&copy("conf"), is_free).await;
    assert_eq!(theirs["data"]["key"], "theirs");
    until_nothing_is_owed(&world).await;
    world.quiet().await;
    assert!(m2.get(&copy("conf")).await.is_some());
    world.stop().await;
}

/// The host's own namespace is not deleted, even where the host is a member and it is not known whose namespace that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_owed_goes_from_the_member_and_never_from_the_host() {
    let mut world = impatient(2).await;
    world.stop().await;
    let host = Cluster::behind(world.host.transport.clone());
    world.join("m3", host.clone()).await;
    world.run();
    let (path, shop) = (
        "/apis/types.kubefed.io/v1beta1/namespaces/shop/federatednamespaces/shop",
        "/api/v1/namespaces/shop",
    );
    let is_labelled = |namespace: &Value| namespace["metadata"]["labels"]["kubefed.io/managed"] == "true";
    host.until(shop, is_labelled).await;
    world.host.until(path, |object| words(object).len() == 3).await;
    world.propagated(path).await;
    world.stop().await;
    for name in ["m2", "m3"] {
        world.member(name).door.cut();
    }
    world.run();
    world.host.delete(path).await;
    world.host.until_gone(path).await;
    let owed = debts(&world).await;
    assert_eq!(owed.len(), 1, "{owed:?}");
    for name in ["m2", "m3"] {
        assert!(owed[0]["clusters"].get(name).is_some(), "{owed:?}");
        world.member(name).door.mend();
    }
    let m2 = world.member("m2").clone();
    let is_going = |namespace: Option<Value>| {
        namespace.is_none_or(|namespace| !namespace["metadata"]["deletionTimestamp"].is_null())
    };
    let going = eventually(|| async { is_going(m2.get(shop).await).then_some(()) }).await;
    assert!(going.is_some());
    host.until(shop, |namespace| !is_labelled(namespace)).await;
    until_nothing_is_owed(&world).await;
    world.quiet().await;
    assert!(!is_going(host.get(shop).await));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_cut_off_during_everything_is_as_it_should_be_when_it_is_back() {
    let mut world = shop(2).await;
    let names = ["updated", "shrunk", "grown", "deleted", "untouched"];
    for name in names {
        let clusters: &[&str] = if name == "grown" { &["m1"] } else { &BOTH };
        create(&world, name, "1", clusters).await;
        is_right(&world, name, Some(("1", clusters))).await;
    }
    world.quiet().await;
    let (m1, m2) = (world.member("m1"), world.member("m2"));
    let mut before = Vec::new();
    for name in ["updated", "shrunk", "deleted", "untouched"] {
        before.push((name, identity(m2, &copy(name)).await));
    }
    let untouched = identity(m1, &copy("untouched")).await;
    m2.door.cut();
    create(&world, "created", "2", &BOTH).await;
    change(&world, "updated", "2", &BOTH).await;
    change(&world, "shrunk", "2", &["m1"]).await;
    change(&world, "grown", "2", &BOTH).await;
    world.host.delete(&fed("deleted")).await;
    for name in ["created", "updated", "shrunk", "grown"] {
        m1.until(&copy(name), |copy| copy["data"]["key"] == "2").await;
    }
    m1.until_gone(&copy("deleted")).await;
    world.ready("m2", false).await;
    for name in ["created", "updated", "shrunk", "grown", "untouched", "deleted"] {
        says(&world, name, "m2", "ClusterNotReady").await;
    }
    for (name, before) in &before {
        assert_eq!(identity(m2, &copy(name)).await, *before, "{name}");
    }
    m2.door.mend();
    for name in ["created", "updated", "grown"] {
        is_right(&world, name, Some(("2", &BOTH))).await;
    }
    is_right(&world, "shrunk", Some(("2", &["m1"]))).await;
    is_right(&world, "deleted", None).await;
    is_right(&world, "untouched", Some(("1", &BOTH))).await;
    world.quiet().await;
    assert_eq!(identity(m1, &copy("untouched")).await, untouched);
    assert_eq!(identity(m2, &copy("untouched")).await, before[3].1);
    assert_eq!(identity(m2, &copy("updated")).await.0, before[0].1.0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_host_is_away_the_members_are_left_as_they_are() {
    let mut world = shop(2).await;
    for name in ["updated", "shrunk", "deleted", "untouched"] {
        create(&world, name, "1", &BOTH).await;
        is_right(&world, name, Some(("1", &BOTH))).await;
    }
    world.quiet().await;
    let m1 = world.member("m1");
    let untouched = identity(m1, &copy("untouched")).await;
    // Once while it waits, once while it comes up: of a host that cannot be read nothing follows.
    for is_started_anew in [false, true] {
        world.quiet().await;
        world.host.door.cut();
        if is_started_anew {
            world.stop().await;
            world.run();
        }
        let value = if is_started_anew { "3" } else { "2" };
        create(&world, &format!("created{value}"), value, &BOTH).await;
        change(&world, "updated", value, &BOTH).await;
        change(&world, "shrunk", value, if is_started_anew { &BOTH } else { &["m1"] }).await;
        if is_started_anew {
            world.host.delete(&fed("deleted")).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let writes: Vec<_> = world.members.values().flat_map(|member| member.door.writes()).collect();
        assert_eq!(writes, [""; 0]);
        world.host.door.mend();
        is_right(&world, &format!("created{value}"), Some((value, &BOTH))).await;
        is_right(&world, "updated", Some((value, &BOTH))).await;
        is_right(&world, "shrunk", Some((value, if is_started_anew { &BOTH } else { &["m1"] }))).await;
    }
    is_right(&world, "deleted", None).await;
    world.quiet().await;
    assert_eq!(identity(world.member("m1"), &copy("untouched")).await, untouched);
    world.stop().await;
}

/// A refusal, as API servers word it.
fn status(code: u16, reason: &str, message: &str) -> Response<Value> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
    });
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

/// From now on the cluster has no history, and its lists, which begin with nothing, break off after the first page.
fn forget_history(cluster: &Cluster, code: u16) {
    cluster.door.answer(move |head| {
        let query = head.uri.query().unwrap_or_default();
        let refusal = || Some(status(code, if code == 410 { "Expired" } else { "InternalError" }, "no more"));
        match query {
            _ if query.contains("watch=true") => Some(status(410, "Expired", "too old resource version")),
            _ if query.contains("continue=") => refusal(),
            _ if head.method == Method::GET && query.contains("limit=") => {
                let page = json!({
                    "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1", "continue": "more"}, "items": [],
                });
                Some(Response::new(page))
            }
            _ => None,
        }
    });
    cluster.door.end_watches();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_break_off_and_lost_history_delete_nothing_and_forget_nothing() {
    let mut world = shop(2).await;
    for name in ["one", "two"] {
        create(&world, name, "1", &BOTH).await;
        is_right(&world, name, Some(("1", &BOTH))).await;
    }
    world.quiet().await;
    let m1 = world.member("m1").clone();
    let one = identity(&m1, &copy("one")).await;
    for code in [410, 500] {
        for cluster in [&m1, &world.host] {
            forget_history(cluster, code);
            // What happens now is learned of late.
            world.member("m2").delete(&copy("two")).await;
            m1.patch(&copy("two"), json!({"data": {"key": "drifted"}})).await;
            tokio::time::sleep(Duration::from_millis(600)).await;
            assert!(m1.door.writes().iter().all(|write| !write.starts_with("DELETE")));
            cluster.door.mend();
            cluster.door.end_watches();
            is_right(&world, "two", Some(("1", &BOTH))).await;
            is_right(&world, "one", Some(("1", &BOTH))).await;
        }
    }
    world.quiet().await;
    assert_eq!(identity(&m1, &copy("one")).await, one);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_end_all_the_time_miss_nothing() {
    let mut world = shop(2).await;
    create(&world, "conf", "0", &BOTH).await;
    is_right(&world, "conf", Some(("0", &BOTH))).await;
    for round in 1..=10 {
        let value = round.to_string();
        let clusters: &[&str] = if round % 3 == 0 { &["m1"] } else { &BOTH };
        world.members.values().chain([&world.host]).for_each(|cluster| cluster.door.end_watches());
        change(&world, "conf", &value, clusters).await;
        world.members.values().chain([&world.host]).for_each(|cluster| cluster.door.end_watches());
        is_right(&world, "conf", Some((&value, clusters))).await;
    }
    world.quiet().await;
    world.stop().await;
}

/// A type of which the members may or may not know.
fn widgets() -> (hansa_api::TargetType, Value) {
    let target = hansa_api::TargetType {
        group: "example.org".into(),
        version: "v1".into(),
        kind: "Widget".into(),
        plural_name: "widgets".into(),
        ..Default::default()
    };
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"kind": "Widget", "listKind": "WidgetList", "plural": "widgets", "singular": "widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}},
            }}}],
        },
    });
    (target, crd)
}

/// `spec/kubefed.md §5 (2)`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_crd_is_deleted_and_made_again_is_alone_with_that() {
    const WIDGET: &str = "/apis/example.org/v1/namespaces/shop/widgets/w";
    let path = "/apis/types.kubefed.io/v1beta1/namespaces/shop/federatedwidgets/w";
    let mut world = shop(3).await;
    let (target, crd) = widgets();
    world.host.define(&hansa_api::federated::crd(&target, false, &[])).await;
    // The third never has it.
    for member in ["m1", "m2"] {
        world.member(member).define(&crd).await;
    }
    world.host.create(&serde_json::to_value(hansa_api::federated::type_config(&target)).unwrap()).await;
    let size =
        |size: u64| json!({"template": {"spec": {"size": size}}, "placement": on(&["m1", "m2", "m3"])});
    world.host.create(&federated("Widget", "shop", "w", size(1))).await;
    let said = async |wanted: [&str; 3]| {
        let is = |object: &Value| words(object).values().map(String::as_str).eq(wanted);
        world.host.until(path, is).await
    };
    said(["", "", "CachedRetrievalFailed"]).await;
    create(&world, "conf", "1", &["m1", "m2", "m3"]).await;
    is_right(&world, "conf", Some(("1", &["m1", "m2", "m3"]))).await;
    let (m1, m2) = (world.member("m1"), world.member("m2"));
    let widget = identity(m2, WIDGET).await;

    m1.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.org").await;
    m1.until_gone(WIDGET).await;
    let ails = |object: &Value| words(object).get("m1").is_some_and(|word| !word.is_empty());
    world.host.until(path, ails).await;
    assert_eq!(identity(m2, WIDGET).await, widget);
    world.host.patch(path, json!({ "spec": size(2) })).await;
    m2.until(WIDGET, |widget| widget["spec"]["size"] == 2).await;
    change(&world, "conf", "2", &["m1", "m2", "m3"]).await;
    is_right(&world, "conf", Some(("2", &["m1", "m2", "m3"]))).await;

    m1.define(&crd).await;
    m1.until(WIDGET, |widget| widget["spec"]["size"] == 2).await;
    said(["", "", "CachedRetrievalFailed"]).await;
    world.quiet().await;

    // It goes from where it is, and the third owes it: nobody can tell whether it is there.
    world.stop().await;
    world.options.overdue = Duration::from_millis(200);
    world.run();
    world.host.delete(path).await;
    for member in ["m1", "m2"] {
        world.member(member).until_gone(WIDGET).await;
    }
    world.host.until_gone(path).await;
    let owed = debts(&world).await;
    assert_eq!(owed.len(), 1, "{owed:?}");
    assert_eq!(owed[0]["clusters"], json!({"m3": null}));
    world.member("m3").define(&crd).await;
    until_nothing_is_owed(&world).await;
    world.quiet().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_member_delays_nobody_and_gets_everything() {
    let mut world = shop(2).await;
    let (m1, m2) = (world.member("m1").clone(), world.member("m2").clone());
    create(&world, "conf", "1", &BOTH).await;
    is_right(&world, "conf", Some(("1", &BOTH))).await;
    // Slow in all, yet well within what makes a member unready; then so slow that it is not Ready.
    for (pause, value) in [(Duration::from_millis(1_200), "2"), (Duration::from_secs(10), "3")] {
        m1.door.slow(pause);
        for number in 0..20 {
            create(&world, &format!("conf{value}{number}"), value, &BOTH).await;
        }
        change(&world, "conf", value, &BOTH).await;
        for number in 0..20 {
            m2.until(&copy(&format!("conf{value}{number}")), |_| true).await;
        }
        m2.until(&copy("conf"), |copy| copy["data"]["key"] == value).await;
        world.ready("m1", pause < Duration::from_secs(2)).await;
        if value == "3" {
            // A start waits for it no more than the others do.
            world.stop().await;
            world.run();
            change(&world, "conf", "4", &BOTH).await;
            m2.until(&copy("conf"), |copy| copy["data"]["key"] == "4").await;
            says(&world, "conf", "m1", "ClusterNotReady").await;
        }
    }
    m1.door.mend();
    is_right(&world, "conf", Some(("4", &BOTH))).await;
    for value in ["2", "3"] {
        for number in 0..20 {
            is_right(&world, &format!("conf{value}{number}"), Some((value, &BOTH))).await;
        }
    }
    world.quiet().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_wrong_for_a_while_cost_one_member_and_nothing_is_lost() {
    let mut world = shop(2).await;
    for name in ["updated", "deleted", "untouched"] {
        create(&world, name, "1", &BOTH).await;
        is_right(&world, name, Some(("1", &BOTH))).await;
    }
    world.quiet().await;
    let (m1, m2) = (world.member("m1").clone(), world.member("m2").clone());
    let untouched = identity(&m1, &copy("untouched")).await;
    m1.door.answer(|_| Some(status(401, "Unauthorized", "Unauthorized")));
    m1.door.end_watches();
    world.ready("m1", false).await;
    change(&world, "updated", "2", &BOTH).await;
    world.host.delete(&fed("deleted")).await;
    m2.until(&copy("updated"), |copy| copy["data"]["key"] == "2").await;
    m2.until_gone(&copy("deleted")).await;
    says(&world, "updated", "m1", "ClusterNotReady").await;
    m1.door.mend();
    is_right(&world, "updated", Some(("2", &BOTH))).await;
    is_right(&world, "deleted", None).await;
    world.quiet().await;

    // Rights that suffice for the probes and for nothing else.
    m1.door.answer(|head| {
        let refusal = || status(403, "Forbidden", "configmaps is forbidden: User \"hansa\" cannot do that");
        head.uri.path().contains("/configmaps").then(refusal)
    });
    m1.door.end_watches();
    change(&world, "updated", "3", &BOTH).await;
    m2.until(&copy("updated"), |copy| copy["data"]["key"] == "3").await;
    let object = says(&world, "updated", "m1", "UpdateFailed").await;
    assert!(message(&object, "m1").contains("cannot do that"), "{}", message(&object, "m1"));
    // A control plane that starts then cannot even read what is there.
    world.stop().await;
    world.run();
    let object = says(&world, "updated", "m1", "CachedRetrievalFailed").await;
    assert!(message(&object, "m1").contains("cannot do that"), "{}", message(&object, "m1"));
    assert_eq!(identity(&m1, &copy("untouched")).await, untouched);
    m1.door.mend();
    is_right(&world, "updated", Some(("3", &BOTH))).await;
    is_right(&world, "untouched", Some(("1", &BOTH))).await;
    world.quiet().await;
    assert_eq!(identity(&m1, &copy("untouched")).await, untouched);
    world.stop().await;
}

/// Refusals to create are in the tests of dispatch; these are of objects that are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_refuses_updates_and_deletions_says_why_and_hurts_nobody_else() {
    let mut world = shop(2).await;
    let (m1, m2) = (world.member("m1").clone(), world.member("m2").clone());
    for (name, code, reason, told) in [
        ("policy", 403, "Forbidden", "admission webhook \"policy.test\" denied the request: no Fridays"),
        ("webhook", 500, "InternalError", "failed calling webhook \"policy.test\": connection refused"),
        ("disk", 507, "", "insufficient storage"),
        ("etcd", 500, "InternalError", "etcdserver: mvcc: database space exceeded"),
        ("busy", 429, "TooManyRequests", "please try again later"),
    ] {
        create(&world, name, "1", &BOTH).await;
        is_right(&world, name, Some(("1", &BOTH))).await;
        let uid = identity(&m1, &copy(name)).await.0;
        let refuses = Arc::new(AtomicBool::new(true));
        let does = refuses.clone();
        m1.door.answer(move |head| {
            let is_write =
                head.method != Method::GET && head.uri.path().ends_with(&format!("/configmaps/{name}"));
            (is_write && does.load(Ordering::SeqCst)).then(|| {
                let mut refusal = status(code, reason, told);
                if code == 429 {
                    refusal.headers_mut().insert("retry-after", "1".parse().unwrap());
                }
                refusal
            })
        });
        change(&world, name, "2", &BOTH).await;
        m2.until(&copy(name), |copy| copy["data"]["key"] == "2").await;
        let object = says(&world, name, "m1", "UpdateFailed").await;
        assert!(message(&object, "m1").contains(told), "{}", message(&object, "m1"));
        assert_eq!(words(&object)["m2"], "");
        refuses.store(false, Ordering::SeqCst);
        is_right(&world, name, Some(("2", &BOTH))).await;
        assert_eq!(identity(&m1, &copy(name)).await.0, uid);

        refuses.store(true, Ordering::SeqCst);
        world.host.delete(&fed(name)).await;
        m2.until_gone(&copy(name)).await;
        let object = says(&world, name, "m1", "DeletionFailed").await;
        assert!(message(&object, "m1").contains(told), "{}", message(&object, "m1"));
        refuses.store(false, Ordering::SeqCst);
        is_right(&world, name, None).await;
        m1.door.mend();
    }
    world.quiet().await;
    world.stop().await;
}
