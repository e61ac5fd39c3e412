//! A member's API changes, does not know us any more, or refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::{federated, on, words};
use crate::{
    BOTH, change, copy, create, debts, fed, identity, is_right, message, says, shop, status,
    until_nothing_is_owed,
};

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
