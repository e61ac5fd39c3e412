//! Custom resources: defined, served, converted, changed and taken away at run time.

mod support;

use serde_json::{Value, json};
use support::{Client, widgets};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

async fn with_widgets() -> Client {
    let client = Client::new().await;
    client.post(DEFINITIONS, &widgets()).await.expect(201);
    established(&client, "widgets.example.com").await;
    client
}

async fn established(client: &Client, name: &str) {
    client
        .until(&format!("{DEFINITIONS}/{name}"), |a| {
            a.body["status"]["conditions"]
                .as_array()
                .is_some_and(|c| c.iter().any(|c| c["type"] == "Established" && c["status"] == "True"))
        })
        .await;
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn objects_are_pruned_defaulted_and_validated() {
    let client = with_widgets().await;
    let created = client.post(WIDGETS, &widget("a", json!({"size": 3, "shape": "round"}))).await;
    assert_eq!(created.headers["warning"], r#"299 - "unknown field \"spec.shape\"""#);
    let created = created.expect(201);
    assert_eq!(created["spec"], json!({"size": 3, "color": "blue"}));
    assert_eq!(created["metadata"]["generation"], 1);
    let refused = client.post(WIDGETS, &widget("b", json!({"size": 0}))).await.refused(422, "Invalid");
    assert_eq!(
        refused["message"],
        "Widget.example.com \"b\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"
    );
    client.post(WIDGETS, &widget("b", json!({}))).await.refused(422, "Invalid");
    let strict = client
        .post(&format!("{WIDGETS}?fieldValidation=Strict"), &widget("b", json!({"size": 1, "x": 1})))
        .await;
    strict.refused(400, "BadRequest");
    client.patch("strategic", &format!("{WIDGETS}/a"), &json!({})).await.refused(415, "UnsupportedMediaType");
}

#[tokio::test]
async fn status_and_scale_are_subresources_where_defined() {
    let client = with_widgets().await;
    let mut object = widget("a", json!({"size": 1, "replicas": 2}));
    object["status"] = json!({"phase": "Great"});
    let created = client.post(WIDGETS, &object).await.expect(201);
    assert_eq!(created.get("status"), None);
    let status = client
        .patch("merge", &format!("{WIDGETS}/a/status"), &json!({"status": {"phase": "Ready", "replicas": 2}}))
        .await;
    assert_eq!(status.expect(200)["metadata"]["generation"], 1);
    let scale = client.get(&format!("{WIDGETS}/a/scale")).await.expect(200);
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(2), &json!(2)));
    client.patch("merge", &format!("{WIDGETS}/a/scale"), &json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(client.get(&format!("{WIDGETS}/a")).await.expect(200)["spec"]["replicas"], 5);
    client
        .get("/apis/example.com/v1beta1/namespaces/default/widgets/a/status")
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn all_versions_show_the_same_object() {
    let client = with_widgets().await;
    client.post(WIDGETS, &widget("a", json!({"size": 1}))).await.expect(201);
    let older = client.get("/apis/example.com/v1beta1/namespaces/default/widgets/a").await.expect(200);
    assert_eq!((&older["apiVersion"], &older["spec"]["size"]), (&json!("example.com/v1beta1"), &json!(1)));
    let list = client.get("/apis/example.com/v1beta1/widgets").await.expect(200);
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1beta1");
}

#[tokio::test]
async fn selectable_fields_and_printer_columns_work() {
    let client = with_widgets().await;
    client.post(WIDGETS, &widget("a", json!({"size": 1, "color": "red"}))).await.expect(201);
    client.post(WIDGETS, &widget("b", json!({"size": 7}))).await.expect(201);
    let list = client.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await.expect(200);
    assert_eq!(list["items"][0]["metadata"]["name"], "b");
    client.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D1")).await.refused(400, "BadRequest");
    let table = client
        .send("GET", WIDGETS, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "")
        .await
        .expect(200);
    assert_eq!(table["rows"][1]["cells"], json!(["b", 7]));
}

#[tokio::test]
async fn a_changed_definition_is_served_at_once() {
    let client = with_widgets().await;
    client.post(WIDGETS, &widget("a", json!({"size": 1}))).await.expect(201);
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let new = json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mood", "value": {"type": "string", "default": "good"}}]);
    client.patch("json", &path, &new).await.expect(200);
    let shown = client.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!(shown["spec"]["mood"], "good", "older objects are defaulted when they are read");
    let discovery = client.get("/apis/example.com/v1").await.expect(200);
    let names: Vec<_> =
        discovery["resources"].as_array().expect("a list").iter().map(|r| r["name"].clone()).collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    assert!(client.get("/openapi/v3/apis/example.com/v1").await.expect(200)["components"]["schemas"]["com.example.v1.Widget"].is_object());
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let client = with_widgets().await;
    let mut held = widget("a", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.post(WIDGETS, &held).await.expect(201);
    client.post(WIDGETS, &widget("b", json!({"size": 1}))).await.expect(201);
    let path = format!("{DEFINITIONS}/widgets.example.com");
    client.delete(&path).await.expect(200);
    client.until(&format!("{WIDGETS}/b"), |a| a.code == 404).await;
    client.post(WIDGETS, &widget("c", json!({"size": 1}))).await.refused(405, "MethodNotAllowed");
    client
        .patch("merge", &format!("{WIDGETS}/a"), &json!({"metadata": {"finalizers": null}}))
        .await
        .expect(200);
    client.until(&path, |a| a.code == 404).await;
    assert_eq!(client.get(WIDGETS).await.expect(404), "404 page not found\n");
    client.get("/apis/example.com").await.refused(404, "NotFound");
    client.post(DEFINITIONS, &widgets()).await.expect(201);
    established(&client, "widgets.example.com").await;
    assert_eq!(client.get(WIDGETS).await.expect(200)["items"], json!([]), "nothing comes back");
}

#[tokio::test]
async fn names_in_use_are_not_accepted_twice() {
    let client = with_widgets().await;
    let mut other = widgets();
    other["metadata"]["name"] = "gadgets.example.com".into();
    other["spec"]["names"] =
        json!({"plural": "gadgets", "singular": "gadget", "kind": "Widget", "listKind": "WidgetList"});
    client.post(DEFINITIONS, &other).await.expect(201);
    let path = format!("{DEFINITIONS}/gadgets.example.com");
    let refused = client
        .until(&path, |a| {
            a.body["status"]["conditions"]
                .as_array()
                .is_some_and(|c| c.iter().any(|c| c["type"] == "NamesAccepted"))
        })
        .await;
    assert!(
        refused.body["status"]["conditions"].to_string().contains("is already in use"),
        "{:#}",
        refused.body
    );
    client.get("/apis/example.com/v1/gadgets").await.expect(404);
    client.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
    established(&client, "gadgets.example.com").await;
}

#[tokio::test]
async fn server_side_apply_works_on_custom_resources() {
    let client = with_widgets().await;
    let applied = client
        .patch("apply", &format!("{WIDGETS}/a?fieldManager=one"), &widget("a", json!({"size": 1})))
        .await;
    applied.expect(201);
    let conflict = client
        .patch("apply", &format!("{WIDGETS}/a?fieldManager=two"), &widget("a", json!({"size": 2})))
        .await;
    conflict.refused(409, "Conflict");
}
