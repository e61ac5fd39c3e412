//! Objects are created, read, changed and deleted as on a real Kubernetes API server.

mod support;

use serde_json::{Value, json};
use support::{Client, config_map, deployment};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let client = Client::new().await;
    let created = client.post(MAPS, &config_map("a", json!({"k": "v"}))).await.expect(201);
    let meta = &created["metadata"];
    assert!(
        meta["uid"].is_string()
            && meta["creationTimestamp"].is_string()
            && meta["resourceVersion"].is_string()
    );
    assert_eq!(meta["namespace"], "default");
    assert_eq!(meta["managedFields"][0]["operation"], "Update");
    client.post(MAPS, &config_map("a", json!({}))).await.refused(409, "AlreadyExists");
    assert_eq!(client.get(&format!("{MAPS}/a")).await.expect(200), created);

    let mut changed = created.clone();
    changed["data"]["k"] = "w".into();
    let updated = client.put(&format!("{MAPS}/a"), &changed).await.expect(200);
    assert_ne!(updated["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    let stale = client.put(&format!("{MAPS}/a"), &changed).await.refused(409, "Conflict");
    assert_eq!(
        stale["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to \
         the latest version and try again"
    );
    let same = client.put(&format!("{MAPS}/a"), &updated).await.expect(200);
    assert_eq!(
        same["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"],
        "nothing changed"
    );

    let gone = client.delete(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(gone["details"]["uid"], created["metadata"]["uid"]);
    let absent = client.get(&format!("{MAPS}/a")).await.refused(404, "NotFound");
    assert_eq!(absent["message"], "configmaps \"a\" not found");
}

#[tokio::test]
async fn a_deployment_gets_its_defaults_and_its_generation_counts_changes_of_the_spec() {
    let client = Client::new().await;
    let created = client.post(DEPLOYMENTS, &deployment("web", 2)).await.expect(201);
    assert_eq!(created["spec"]["strategy"]["type"], "RollingUpdate");
    assert_eq!(created["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{DEPLOYMENTS}/web");
    let labelled =
        client.patch("merge", &path, &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = client.patch("merge", &path, &json!({"spec": {"replicas": 3}})).await.expect(200);
    assert_eq!(scaled["metadata"]["generation"], 2);
    let with_status = client.patch("merge", &path, &json!({"status": {"replicas": 9}})).await.expect(200);
    assert_eq!(with_status["status"].get("replicas"), None, "the status is a subresource");
    let status = client
        .patch(
            "merge",
            &format!("{path}/status"),
            &json!({"status": {"replicas": 3}, "spec": {"replicas": 7}}),
        )
        .await;
    let status = status.expect(200);
    assert_eq!((&status["status"]["replicas"], &status["spec"]["replicas"]), (&json!(3), &json!(3)));
}

#[tokio::test]
async fn every_kind_of_patch_works() {
    let client = Client::new().await;
    client.post(DEPLOYMENTS, &deployment("web", 1)).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web");
    let patched =
        client.patch("json", &path, &json!([{"op": "replace", "path": "/spec/replicas", "value": 4}])).await;
    assert_eq!(patched.expect(200)["spec"]["replicas"], 4);
    let sidecar =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "side:1"}]}}}});
    let patched = client.patch("strategic", &path, &sidecar).await.expect(200);
    assert_eq!(patched["spec"]["template"]["spec"]["containers"].as_array().map(Vec::len), Some(2));
    let applied = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 5}});
    client.patch("apply", &path, &applied).await.refused(422, "Invalid");
    let conflict =
        client.patch("apply", &format!("{path}?fieldManager=me"), &applied).await.refused(409, "Conflict");
    assert_eq!(conflict["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced =
        client.patch("apply", &format!("{path}?fieldManager=me&force=true"), &applied).await.expect(200);
    assert_eq!(forced["spec"]["replicas"], 5);
    client.patch("text/plain", &path, &json!({})).await.refused(415, "UnsupportedMediaType");
    client.patch("merge", &format!("{DEPLOYMENTS}/none"), &json!({})).await.refused(404, "NotFound");
}

#[tokio::test]
async fn apply_creates_what_is_not_there() {
    let client = Client::new().await;
    let path = format!("{MAPS}/a?fieldManager=me");
    let created = client.patch("apply", &path, &config_map("a", json!({"k": "v"}))).await.expect(201);
    assert_eq!(created["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = client.patch("apply", &path, &config_map("a", json!({"k": "v"}))).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_dry_run_answers_and_stores_nothing() {
    let client = Client::new().await;
    client.post(&format!("{MAPS}?dryRun=All"), &config_map("a", json!({}))).await.expect(201);
    client.get(&format!("{MAPS}/a")).await.refused(404, "NotFound");
    client.post(MAPS, &config_map("a", json!({"k": "v"}))).await.expect(201);
    let patched = client
        .patch("merge", &format!("{MAPS}/a?dryRun=All"), &json!({"data": {"k": "w"}}))
        .await
        .expect(200);
    assert_eq!(patched["data"]["k"], "w");
    client.delete(&format!("{MAPS}/a?dryRun=All")).await.expect(200);
    assert_eq!(client.get(&format!("{MAPS}/a")).await.expect(200)["data"]["k"], "v");
}

#[tokio::test]
async fn names_are_generated() {
    let client = Client::new().await;
    let object = json!({"metadata": {"generateName": "job-"}});
    let first = client.post(MAPS, &object).await.expect(201);
    let second = client.post(MAPS, &object).await.expect(201);
    assert!(first["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("job-") && n.len() == 9));
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    client.post(MAPS, &json!({"metadata": {}})).await.refused(422, "Invalid");
}

#[tokio::test]
async fn bad_input_is_refused_with_the_reason() {
    let client = Client::new().await;
    for (content_type, body, code, reason) in [
        ("application/json", "{", 400, "BadRequest"),
        ("application/yaml", "a: [", 400, "BadRequest"),
        ("application/json", "[]", 400, "BadRequest"),
        ("application/json", r#"{"kind":"Pod","apiVersion":"v1"}"#, 400, "BadRequest"),
        ("application/json", r#"{"kind":"ConfigMap","apiVersion":"v2"}"#, 400, "BadRequest"),
        ("application/json", r#"{"metadata":{"name":"a"},"data":{"k":1}}"#, 400, "BadRequest"),
        ("application/json", r#"{"metadata":{"name":"a","namespace":"other"}}"#, 400, "BadRequest"),
        ("application/vnd.kubernetes.protobuf", "k8s", 400, "BadRequest"),
        ("application/cbor", "k8s", 415, "UnsupportedMediaType"),
    ] {
        let answer = client.send("POST", MAPS, &[("content-type", content_type)], body).await;
        assert_eq!(
            (answer.code, answer.body["reason"].as_str()),
            (code, Some(reason)),
            "{body}: {:#}",
            answer.body
        );
    }
    client
        .post("/api/v1/namespaces/none/configmaps", &config_map("a", json!({})))
        .await
        .refused(404, "NotFound");
    client.get("/api/v1/nothings").await.refused(404, "NotFound");
    client.post(&format!("{MAPS}/a"), &config_map("a", json!({}))).await.refused(405, "MethodNotAllowed");
    client.put(MAPS, &config_map("a", json!({}))).await.refused(405, "MethodNotAllowed");
    client.delete("/api/v1/namespaces").await.refused(405, "MethodNotAllowed");
    client.get("/api/v1/namespaces/default/configmaps/a/b/c").await.refused(404, "NotFound");
    client.get("/api/v1/namespaces/default/configmaps/..%2fsecrets").await.refused(400, "BadRequest");
    client.get("/apis/none.example/v1/things").await.expect(404);
    client
        .send("GET", MAPS, &[("accept", "application/vnd.kubernetes.protobuf")], "")
        .await
        .refused(406, "NotAcceptable");
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let client = Client::new().await;
    let mut large = deployment("a", 1);
    large["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "A", "value": "x".repeat(1_600_000)}]);
    let refused = client.post(DEPLOYMENTS, &large).await.refused(413, "RequestEntityTooLarge");
    assert_eq!(refused["message"], "Request entity too large: limit is 1572864");
    let larger = config_map("a", json!({"k": "x".repeat(3_200_000)}));
    let refused = client.post(MAPS, &larger).await.refused(413, "RequestEntityTooLarge");
    assert_eq!(refused["message"], "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn unknown_fields_are_dropped_warned_about_or_refused_as_asked() {
    let client = Client::new().await;
    let object = json!({"metadata": {"name": "a"}, "colour": "red"});
    let strict =
        client.post(&format!("{MAPS}?fieldValidation=Strict"), &object).await.refused(400, "BadRequest");
    assert_eq!(
        strict["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"colour\""
    );
    let answer = client.post(&format!("{MAPS}?fieldValidation=Warn"), &object).await;
    assert_eq!(answer.headers["warning"], r#"299 - "unknown field \"colour\"""#);
    assert_eq!(answer.expect(201).get("colour"), None);
    let twice = r#"{"metadata":{"name":"b"},"data":{"k":"1","k":"2"}}"#;
    let strict = client
        .send("POST", &format!("{MAPS}?fieldValidation=Strict"), &[], twice)
        .await
        .refused(400, "BadRequest");
    assert!(strict["message"].as_str().is_some_and(|m| m.contains("duplicate field \"data.k\"")), "{strict}");
    assert!(
        client
            .send("POST", &format!("{MAPS}?fieldValidation=Ignore"), &[], twice)
            .await
            .headers
            .get("warning")
            .is_none()
    );
}

#[tokio::test]
async fn concurrent_patches_without_a_version_all_succeed() {
    let client = Client::new().await;
    client.post(MAPS, &config_map("a", json!({}))).await.expect(201);
    let patches = (0..16).map(|i| {
        let client = &client;
        async move {
            client
                .patch("merge", &format!("{MAPS}/a"), &json!({"data": {format!("k{i}"): "v"}}))
                .await
                .expect(200);
        }
    });
    futures::future::join_all(patches).await;
    assert_eq!(
        client.get(&format!("{MAPS}/a")).await.expect(200)["data"].as_object().map(|d| d.len()),
        Some(16)
    );
}

#[tokio::test]
async fn finalizers_hold_a_deletion_until_they_are_gone() {
    let client = Client::new().await;
    let mut object = config_map("a", json!({}));
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.post(MAPS, &object).await.expect(201);
    let path = format!("{MAPS}/a");
    let deleting = client.delete(&path).await.expect(200);
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/new"]}});
    client.patch("merge", &path, &more).await.refused(422, "Invalid");
    client.patch("merge", &path, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    client.get(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn preconditions_protect_from_deleting_something_else() {
    let client = Client::new().await;
    let created = client.post(MAPS, &config_map("a", json!({}))).await.expect(201);
    let path = format!("{MAPS}/a");
    client.delete_with(&path, &json!({"preconditions": {"uid": "other"}})).await.refused(409, "Conflict");
    client
        .delete_with(&path, &json!({"preconditions": {"resourceVersion": "1"}}))
        .await
        .refused(409, "Conflict");
    client
        .delete_with(&path, &json!({"preconditions": {"uid": created["metadata"]["uid"]}}))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let client = Client::new().await;
    for (name, color) in [("a", "red"), ("b", "red"), ("c", "blue")] {
        let mut object = config_map(name, json!({}));
        object["metadata"]["labels"] = json!({"color": color});
        client.post(MAPS, &object).await.expect(201);
    }
    let deleted = client.delete(&format!("{MAPS}?labelSelector=color%3Dred")).await.expect(200);
    assert_eq!(deleted["items"].as_array().map(Vec::len), Some(2));
    client.get(&format!("{MAPS}/c")).await.expect(200);
}

#[tokio::test]
async fn services_get_addresses_of_their_own() {
    let client = Client::new().await;
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}});
    let path = "/api/v1/namespaces/default/services";
    let first = client.post(path, &service("a")).await.expect(201);
    let address = first["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let mut same = service("b");
    same["spec"]["clusterIP"] = address.clone().into();
    client.post(path, &same).await.refused(422, "Invalid");
    client.delete(&format!("{path}/a")).await.expect(200);
    client.post(path, &same).await.expect(201);
    let updated = client.put(&format!("{path}/b"), &service("b")).await.expect(200);
    assert_eq!(updated["spec"]["clusterIP"], address, "an update that leaves it out keeps it");
    assert_eq!(client.get(&format!("{path}/kubernetes")).await.expect(200)["spec"]["clusterIP"], "10.96.0.1");
}

#[tokio::test]
async fn scale_shows_and_sets_the_replicas() {
    let client = Client::new().await;
    client.post(DEPLOYMENTS, &deployment("web", 2)).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web/scale");
    let mut scale = client.get(&path).await.expect(200);
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!("Scale"), &json!(2), &json!("app=web"))
    );
    scale["spec"]["replicas"] = 5.into();
    client.put(&path, &scale).await.expect(200);
    assert_eq!(client.get(&format!("{DEPLOYMENTS}/web")).await.expect(200)["spec"]["replicas"], 5);
    client.put(&path, &scale).await.refused(409, "Conflict");
    let patched = client.patch("merge", &path, &json!({"spec": {"replicas": 1}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 1);
    client.patch("merge", &path, &json!({"spec": {"replicas": -1}})).await.refused(422, "Invalid");
}

#[tokio::test]
async fn secrets_fold_their_string_data() {
    let client = Client::new().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    let created = client.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    assert_eq!(
        (created["data"]["password"].as_str(), created.get("stringData")),
        (Some("aHVudGVyMg=="), None)
    );
    assert_eq!(created["type"], "Opaque");
}

#[tokio::test]
async fn what_needs_a_kubelet_says_so() {
    let client = Client::new().await;
    let answer = client.get("/api/v1/namespaces/default/pods/p/log").await;
    assert_eq!(answer.code, 501);
    assert!(answer.body["message"].as_str().is_some_and(|m| m.contains("kubelet")));
}

#[tokio::test]
async fn rights_are_checked_before_anything_is_told() {
    let client = Client::new().await;
    let nobody = client.as_user(hansa_embedded::User::new("bob", ["system:authenticated"]));
    let refused = nobody.get(&format!("{MAPS}/a")).await.refused(403, "Forbidden");
    let message = "configmaps \"a\" is forbidden: User \"bob\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    assert_eq!(refused["message"], message);
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let allowed: Value =
        client.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await.expect(201);
    assert_eq!(allowed["status"]["allowed"], true);
}
