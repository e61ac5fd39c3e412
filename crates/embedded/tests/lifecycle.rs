//! What follows from a deletion: namespaces end, dependents follow their owners.

mod support;

use serde_json::{Value, json};
use support::{Client, config_map, deployment};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn owned(name: &str, owner: &Value, blocks: bool) -> Value {
    let mut object = config_map(name, json!({}));
    object["metadata"]["ownerReferences"] = json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "blockOwnerDeletion": blocks,
    }]);
    object
}

#[tokio::test]
async fn every_namespace_is_furnished() {
    let client = Client::new().await;
    client.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.expect(201);
    for path in [
        "/api/v1/namespaces/team/serviceaccounts/default",
        "/api/v1/namespaces/team/configmaps/kube-root-ca.crt",
    ] {
        client.until(path, |a| a.code == 200).await;
        client.delete(path).await.expect(200);
        client.until(path, |a| a.code == 200).await;
    }
}

#[tokio::test]
async fn a_deleted_namespace_takes_its_content_along() {
    let client = Client::new().await;
    let created = client.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.expect(201);
    assert_eq!(
        (&created["spec"]["finalizers"], &created["status"]["phase"]),
        (&json!(["kubernetes"]), &json!("Active"))
    );
    let path = "/api/v1/namespaces/team";
    let mut held = config_map("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.post(&format!("{path}/configmaps"), &held).await.expect(201);
    client.post(&format!("{path}/configmaps"), &config_map("free", json!({}))).await.expect(201);
    client.post("/apis/apps/v1/namespaces/team/deployments", &deployment("web", 1)).await.expect(201);
    assert_eq!(client.delete(path).await.expect(200)["status"]["phase"], "Terminating");
    let refused = client
        .post(&format!("{path}/configmaps"), &config_map("late", json!({})))
        .await
        .refused(403, "Forbidden");
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    client.until(&format!("{path}/configmaps/free"), |a| a.code == 404).await;
    client.until(path, |a| a.body["status"]["conditions"].to_string().contains("SomeFinalizersRemain")).await;
    client
        .patch("merge", &format!("{path}/configmaps/held"), &json!({"metadata": {"finalizers": null}}))
        .await
        .expect(200);
    client.until(path, |a| a.code == 404).await;
    client.delete("/api/v1/namespaces/kube-system").await.refused(403, "Forbidden");
}

#[tokio::test]
async fn dependents_follow_their_owner_in_the_background() {
    let client = Client::new().await;
    let owner = client.post(MAPS, &config_map("owner", json!({}))).await.expect(201);
    let child = client.post(MAPS, &owned("child", &owner, false)).await.expect(201);
    client.post(MAPS, &owned("grandchild", &child, false)).await.expect(201);
    client.delete(&format!("{MAPS}/owner")).await.expect(200);
    client.until(&format!("{MAPS}/grandchild"), |a| a.code == 404).await;
}

#[tokio::test]
async fn an_owner_can_wait_for_its_dependents() {
    let client = Client::new().await;
    let owner = client.post(MAPS, &config_map("owner", json!({}))).await.expect(201);
    let mut child = owned("child", &owner, true);
    child["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.post(MAPS, &child).await.expect(201);
    let waiting = client
        .delete_with(&format!("{MAPS}/owner"), &json!({"propagationPolicy": "Foreground"}))
        .await
        .expect(200);
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    client.until(&format!("{MAPS}/child"), |a| a.body["metadata"]["deletionTimestamp"].is_string()).await;
    client.get(&format!("{MAPS}/owner")).await.expect(200);
    client
        .patch("merge", &format!("{MAPS}/child"), &json!({"metadata": {"finalizers": null}}))
        .await
        .expect(200);
    client.until(&format!("{MAPS}/owner"), |a| a.code == 404).await;
}

#[tokio::test]
async fn orphans_lose_their_owner_and_stay() {
    let client = Client::new().await;
    let owner = client.post(MAPS, &config_map("owner", json!({}))).await.expect(201);
    client.post(MAPS, &owned("child", &owner, false)).await.expect(201);
    client.delete_with(&format!("{MAPS}/owner"), &json!({"propagationPolicy": "Orphan"})).await.expect(200);
    client.until(&format!("{MAPS}/owner"), |a| a.code == 404).await;
    let child = client.get(&format!("{MAPS}/child")).await.expect(200);
    assert_eq!(child["metadata"].get("ownerReferences"), None);
}

#[tokio::test]
async fn an_object_whose_owner_never_existed_is_collected_and_one_of_an_unknown_kind_is_not() {
    let client = Client::new().await;
    let nobody =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "none", "uid": "none"}});
    let unknown =
        json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t", "uid": "t"}});
    client.post(MAPS, &owned("kept", &unknown, false)).await.expect(201);
    client.post(MAPS, &owned("dangling", &nobody, false)).await.expect(201);
    client.until(&format!("{MAPS}/dangling"), |a| a.code == 404).await;
    client.get(&format!("{MAPS}/kept")).await.expect(200);
}

#[tokio::test]
async fn one_living_owner_is_enough() {
    let client = Client::new().await;
    let first = client.post(MAPS, &config_map("first", json!({}))).await.expect(201);
    let second = client.post(MAPS, &config_map("second", json!({}))).await.expect(201);
    let mut child = owned("child", &first, false);
    let other = owned("x", &second, false)["metadata"]["ownerReferences"][0].clone();
    child["metadata"]["ownerReferences"].as_array_mut().expect("a list").push(other);
    client.post(MAPS, &child).await.expect(201);
    client.delete(&format!("{MAPS}/first")).await.expect(200);
    let left = client
        .until(&format!("{MAPS}/child"), |a| {
            a.body["metadata"]["ownerReferences"].as_array().map(Vec::len) == Some(1)
        })
        .await;
    assert_eq!(left.body["metadata"]["ownerReferences"][0]["name"], "second");
}

#[tokio::test]
async fn a_pod_on_a_node_stops_gracefully_and_evictions_respect_budgets() {
    let client = Client::new().await;
    let path = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    client.post(path, &pod).await.expect(201);
    client
        .patch("merge", &format!("{path}/p/status"), &json!({"status": {"phase": "Running"}}))
        .await
        .expect(200);
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    client.post("/apis/policy/v1/namespaces/default/poddisruptionbudgets", &budget).await.expect(201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    client.post(&format!("{path}/p/eviction"), &eviction).await.refused(429, "TooManyRequests");
    client.delete("/apis/policy/v1/namespaces/default/poddisruptionbudgets/b").await.expect(200);
    client.post(&format!("{path}/p/eviction"), &eviction).await.expect(201);
    let stopping = client.get(&format!("{path}/p")).await.expect(200);
    assert_eq!(stopping["metadata"]["deletionGracePeriodSeconds"], 30);
    client.delete_with(&format!("{path}/p"), &json!({"gracePeriodSeconds": 0})).await.expect(200);
    client.get(&format!("{path}/p")).await.refused(404, "NotFound");
}
