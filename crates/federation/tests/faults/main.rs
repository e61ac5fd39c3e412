//! The fault suite: whatever fails, and whenever, in the end the members are as the host says, nobody writes any more, and nothing is gone
//! that was not asked to go (`spec/kubefed.md §5, §6`; DESIGN §2).

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail so

mod apis;
mod away;
mod debts;
mod history;
#[path = "../support/mod.rs"]
mod support;
mod writes;

use std::time::Duration;

use http::Response;
use serde_json::{Value, json};
use support::{Cluster, World, eventually, federated, on, words};

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

/// A world in which a deletion hardly waits for members that are away.
async fn impatient(members: usize) -> World {
    let mut world = shop(members).await;
    world.stop().await;
    world.options.overdue = Duration::from_millis(200);
    world.run();
    world
}

/// A refusal, as API servers word it.
fn status(code: u16, reason: &str, message: &str) -> Response<Value> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
    });
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}
