//! A deletion does not wait for ever, and what is owed is settled.

use serde_json::{Value, json};

use crate::support::{Cluster, eventually, words};
use crate::{BOTH, SYSTEM, copy, create, debts, fed, identity, impatient, is_right, until_nothing_is_owed};

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
