//! Clients find out what is served.

mod support;

use hansa_embedded::{Concurrency, Options, Server, Storage, User};
use serde_json::{Value, json};
use support::{Client, config_map};

fn named(list: &Value, field: &str, name: &str) -> Value {
    let mut found = list.as_array().into_iter().flatten().filter(|item| item[field] == name);
    found.next().cloned().unwrap_or_default()
}

#[tokio::test]
async fn discovery_is_served_in_both_forms() {
    let client = Client::new().await;
    assert_eq!(client.get("/api").await.expect(200)["versions"], json!(["v1"]));
    let groups = client.get("/apis").await.expect(200);
    assert_eq!(named(&groups["groups"], "name", "apps")["preferredVersion"]["groupVersion"], "apps/v1");
    let core = client.get("/api/v1").await.expect(200);
    assert_eq!(named(&core["resources"], "name", "pods")["shortNames"], json!(["po"]));
    assert_eq!(named(&core["resources"], "name", "pods/eviction")["kind"], "Eviction");
    assert_eq!(
        named(&core["resources"], "name", "pods/exec"),
        Value::Null,
        "what is not served is not offered"
    );

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let answer = client.send("GET", "/apis", &[("accept", accept)], "").await;
    assert_eq!(
        answer.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let items = answer.expect(200)["items"].clone();
    let apps = items
        .as_array()
        .into_iter()
        .flatten()
        .find(|i| i["metadata"]["name"] == "apps")
        .cloned()
        .unwrap_or_default();
    let deployments = named(&apps["versions"][0]["resources"], "resource", "deployments");
    assert_eq!(deployments["responseKind"], json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
    assert_eq!(
        named(&deployments["subresources"], "subresource", "scale")["responseKind"]["group"],
        "autoscaling"
    );
    let version = client.get("/version").await.expect(200);
    assert_eq!((&version["major"], version["minor"].is_string()), (&json!("1"), true));
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(client.get(path).await.body, "ok", "{path}");
    }
}

#[tokio::test]
async fn schemas_are_found_by_their_hash_and_need_not_be_sent_again() {
    let client = Client::new().await;
    let index = client.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap_or_default().to_owned();
    let answer = client.get(&url).await;
    let tag = answer.headers["etag"].to_str().map(str::to_owned).unwrap_or_default();
    assert!(url.contains(tag.trim_matches('"')), "{url} {tag}");
    answer.expect(200);
    let again = client.send("GET", &url, &[("if-none-match", &tag)], "").await;
    assert_eq!(again.code, 304);
    let older = client.get("/openapi/v2").await.expect(200);
    assert!(older["definitions"]["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"]["$ref"].is_string());
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = client.send("GET", "/openapi/v2", &[("accept", protobuf)], "").await;
    assert_eq!(answer.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    client.send("GET", "/openapi/v2", &[("accept", "text/html")], "").await.refused(406, "NotAcceptable");
}

#[tokio::test]
async fn too_many_requests_at_once_are_turned_away_politely() {
    let mut options = Options::new("test", Storage::Memory);
    options.concurrency = Concurrency { writes: 0, waiting: 0, ..Concurrency::default() };
    let server = Server::open(options).await.unwrap_or_else(|e| panic!("{e}"));
    let client = Client { server, user: User::new("admin", ["system:masters"]) };
    let answer = client.post("/api/v1/namespaces/default/configmaps", &config_map("a", json!({}))).await;
    assert_eq!(answer.headers["retry-after"], "1");
    answer.refused(429, "TooManyRequests");
    client.get("/api/v1/namespaces").await.expect(200);
}

#[tokio::test]
async fn the_kubernetes_service_leads_to_the_server() {
    let mut options = Options::new("test", Storage::Memory);
    options.advertise = Some(([192, 0, 2, 1], 6443).into());
    let server = Server::open(options).await.unwrap_or_else(|e| panic!("{e}"));
    let client = Client { server, user: User::new("admin", ["system:masters"]) };
    let endpoints = client.get("/api/v1/namespaces/default/endpoints/kubernetes").await.expect(200);
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.1");
    client.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.expect(200);
}
