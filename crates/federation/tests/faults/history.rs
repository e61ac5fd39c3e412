//! Watches end, and what happened meanwhile may be forgotten.

use std::time::Duration;

use http::{Method, Response};
use serde_json::json;

use crate::support::Cluster;
use crate::{BOTH, change, copy, create, identity, is_right, shop, status};

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
