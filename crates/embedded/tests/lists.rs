//! Lists and watches keep Kubernetes' promises about revisions, pages, selectors and bookmarks.

mod support;

use serde_json::{Value, json};
use support::{Client, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn with_maps(names: &[&str]) -> Client {
    let client = Client::new().await;
    client.until(&format!("{MAPS}/kube-root-ca.crt"), |a| a.code == 200).await;
    for name in names {
        let mut object = config_map(name, json!({}));
        object["metadata"]["labels"] = json!({"app": "x", "name": name});
        client.post(MAPS, &object).await.expect(201);
    }
    client
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|i| i["metadata"]["name"].as_str()).collect()
}

#[tokio::test]
async fn a_list_is_paged_at_one_revision() {
    let client = with_maps(&["a", "b", "c", "d", "e"]).await;
    let selector = "labelSelector=app%3Dx";
    let first = client.get(&format!("{MAPS}?limit=2&{selector}")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    client.delete(&format!("{MAPS}/c")).await.expect(200);
    let next = first["metadata"]["continue"].as_str().expect("more").to_owned();
    let second = client.get(&format!("{MAPS}?limit=2&{selector}&continue={next}")).await.expect(200);
    assert_eq!(names(&second), ["c", "d"], "the page shows the revision of the first one");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let next = second["metadata"]["continue"].as_str().expect("more");
    let last = client.get(&format!("{MAPS}?limit=2&{selector}&continue={next}")).await.expect(200);
    assert_eq!((names(&last), last["metadata"].get("continue")), (vec!["e"], None));
    let everything = client.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(everything["metadata"]["remainingItemCount"], 3);
    client.get(&format!("{MAPS}?limit=2&continue=nonsense")).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn selectors_choose() {
    let client = with_maps(&["a", "b", "c"]).await;
    let list = client.get(&format!("{MAPS}?labelSelector=name+in+(a,b),app%3Dx")).await.expect(200);
    assert_eq!(names(&list), ["a", "b"]);
    let list = client.get(&format!("{MAPS}?fieldSelector=metadata.name%3Db")).await.expect(200);
    assert_eq!(names(&list), ["b"]);
    let refused = client.get(&format!("{MAPS}?fieldSelector=data.x%3Db")).await.refused(400, "BadRequest");
    assert_eq!(
        refused["message"],
        "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
    client.get(&format!("{MAPS}?labelSelector=%3D%3D")).await.refused(400, "BadRequest");
    let everywhere =
        client.get("/api/v1/configmaps?fieldSelector=metadata.namespace%3Ddefault").await.expect(200);
    assert_eq!(names(&everywhere), ["a", "b", "c", "kube-root-ca.crt"]);
}

#[tokio::test]
async fn pods_are_selected_by_their_node_and_phase() {
    let client = Client::new().await;
    let path = "/api/v1/namespaces/default/pods";
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        client.post(path, &pod).await.expect(201);
    }
    let list = client
        .get(&format!("{path}?fieldSelector=spec.nodeName%3Dn1,status.phase%3DPending"))
        .await
        .expect(200);
    assert_eq!(names(&list), ["a"]);
}

#[tokio::test]
async fn resource_versions_mean_what_kubernetes_says() {
    let client = with_maps(&["a"]).await;
    let before = client.get(MAPS).await.expect(200)["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    client.post(MAPS, &config_map("b", json!({}))).await.expect(201);
    let exact =
        client.get(&format!("{MAPS}?resourceVersion={before}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!(names(&exact), ["a", "kube-root-ca.crt"]);
    let newer = client
        .get(&format!("{MAPS}?resourceVersion={before}&resourceVersionMatch=NotOlderThan"))
        .await
        .expect(200);
    assert_eq!(names(&newer), ["a", "b", "kube-root-ca.crt"]);
    client.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await.refused(422, "Invalid");
    client.get(&format!("{MAPS}?resourceVersion=999999")).await.refused(504, "Timeout");
    client.get(&format!("{MAPS}?resourceVersion=abc")).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn a_watch_tells_every_change_in_order() {
    let client = with_maps(&["a"]).await;
    let version =
        client.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].as_str().expect("one").to_owned();
    let mut watch =
        client.watch(&format!("{MAPS}?watch=true&resourceVersion={version}&labelSelector=app%3Dx")).await;
    let label = |value: Value| json!({"metadata": {"labels": {"app": value}}});
    client.patch("merge", &format!("{MAPS}/a"), &json!({"data": {"k": "v"}})).await.expect(200);
    let left = client.patch("merge", &format!("{MAPS}/a"), &label(json!("y"))).await.expect(200);
    client.patch("merge", &format!("{MAPS}/a"), &label(json!("x"))).await.expect(200);
    client.delete(&format!("{MAPS}/a")).await.expect(200);
    let told = |kind: &str| (kind.to_owned(), "a".to_owned());
    assert_eq!(watch.told().await, told("MODIFIED"));
    let gone = watch.next().await.expect("a frame");
    assert_eq!(gone["type"], "DELETED", "it left the selection");
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    assert_eq!(watch.told().await, told("ADDED"));
    assert_eq!(watch.told().await, told("DELETED"));
}

#[tokio::test]
async fn a_watch_from_nowhere_starts_with_what_there_is() {
    let client = with_maps(&["a", "b"]).await;
    let mut watch = client.watch(&format!("{MAPS}?watch=1&labelSelector=app%3Dx&timeoutSeconds=1")).await;
    assert_eq!(watch.told().await, ("ADDED".into(), "a".into()));
    assert_eq!(watch.told().await, ("ADDED".into(), "b".into()));
}

#[tokio::test]
async fn a_streaming_list_ends_with_a_bookmark() {
    let client = with_maps(&["a"]).await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = client.watch(&format!("{MAPS}?{query}&labelSelector=app%3Dx")).await;
    assert_eq!(watch.told().await, ("ADDED".into(), "a".into()));
    let bookmark = watch.next().await.expect("a frame");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    client.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.refused(422, "Invalid");
}

#[tokio::test]
async fn a_watch_with_bookmarks_ends_with_one() {
    let client = with_maps(&["a"]).await;
    let query = "watch=1&resourceVersion=0&allowWatchBookmarks=true&timeoutSeconds=1&labelSelector=app%3Dx";
    let mut watch = client.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.told().await.0, "ADDED");
    assert_eq!(watch.told().await.0, "BOOKMARK");
}

#[tokio::test]
async fn tables_and_metadata_are_sent_on_request() {
    let client = with_maps(&["a"]).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let answer = client.send("GET", &format!("{MAPS}/a"), &[("accept", table)], "").await.expect(200);
    assert_eq!(answer["kind"], "Table");
    let columns: Vec<_> =
        answer["columnDefinitions"].as_array().expect("columns").iter().map(|c| c["name"].clone()).collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(answer["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = client.send("GET", MAPS, &[("accept", metadata)], "").await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0]["metadata"]["name"].is_string() && list["items"][0].get("data").is_none());
}

#[tokio::test]
async fn large_lists_are_compressed_for_those_who_take_it() {
    let client = Client::new().await;
    for i in 0..3 {
        client.post(MAPS, &config_map(&format!("m{i}"), json!({"k": "x".repeat(80_000)}))).await.expect(201);
    }
    let answer = client.raw("GET", MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let answer = client.raw("GET", MAPS, &[], "").await;
    assert!(answer.headers().get("content-encoding").is_none());
}
