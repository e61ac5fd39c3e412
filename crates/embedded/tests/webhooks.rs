//! Admission webhooks are called as kube-apiserver calls them.

// A test's means to fail is to panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/hooks.rs"]
#[allow(unreachable_pub, reason = "shared with the end-to-end tests")]
mod hooks;
mod support;

use hooks::{Hooks, configuration};
use serde_json::{Value, json};
use support::{Client, config_map, deployment, widgets};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";

async fn configure(client: &Client, kind: &str, name: &str, webhooks: &[Value]) {
    let path = format!("{CONFIGURATIONS}/{}webhookconfigurations", kind.to_lowercase());
    client.post(&path, &configuration(kind, name, webhooks)).await.expect(201);
}

fn with(mut hook: Value, field: &str, value: Value) -> Value {
    hook[field] = value;
    hook
}

#[tokio::test]
async fn a_denial_reaches_the_caller_and_nothing_is_stored() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    configure(&client, "Validating", "v", &[hooks.hook("deny", "/deny")]).await;
    let refused = client.post(MAPS, &config_map("a", json!({}))).await.refused(403, "Forbidden");
    assert_eq!(refused["message"], "admission webhook \"deny.hooks.test\" denied the request: no");
    client.get(&format!("{MAPS}/a")).await.refused(404, "NotFound");
    client
        .post(
            "/api/v1/namespaces",
            &json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "n"}}),
        )
        .await
        .expect(201);
}

/// Security checklist 16: admission fails closed.
#[tokio::test]
async fn a_webhook_that_cannot_be_asked_refuses_unless_its_policy_says_otherwise() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    let strangers = Hooks::start().await;
    let unreachable =
        with(hooks.hook("x", "/allow"), "clientConfig", json!({"url": "https://127.0.0.1:1/x"}));
    let untrusted = with(hooks.hook("x", "/allow"), "clientConfig", {
        let mut config = hooks.hook("x", "/allow")["clientConfig"].clone();
        config["caBundle"] = strangers.hook("x", "/")["clientConfig"]["caBundle"].clone();
        config
    });
    let nowhere = json!({"service": {"namespace": "default", "name": "absent", "path": "/x"}});
    let nowhere = with(hooks.hook("x", "/allow"), "clientConfig", nowhere);
    let slow = with(hooks.hook("x", "/hang"), "timeoutSeconds", json!(1));
    for (hook, why) in [
        (unreachable, "connection refused"),
        (untrusted, "tls: failed to verify certificate"),
        (nowhere, "Post \"https://absent.default.svc:443/x?timeout=10s\": services \"absent\" not found"),
        (slow, "context deadline exceeded"),
        (
            hooks.hook("x", "/broken"),
            "an error on the server (\"boom\") has prevented the request from succeeding",
        ),
        (hooks.hook("x", "/lie"), "received invalid webhook response: expected response.uid="),
    ] {
        for kind in ["Mutating", "Validating"] {
            configure(&client, kind, "closed", std::slice::from_ref(&hook)).await;
            let refused = client.post(MAPS, &config_map("a", json!({}))).await.refused(500, "InternalError");
            let message = refused["message"].as_str().unwrap();
            assert!(
                message.starts_with("Internal error occurred: failed calling webhook \"x.hooks.test\": "),
                "{message}"
            );
            assert!(message.contains(why), "{message} should tell {why}");
            let path = format!("{CONFIGURATIONS}/{}webhookconfigurations/closed", kind.to_lowercase());
            client.delete(&path).await.expect(200);
        }
        configure(&client, "Mutating", "open", &[with(hook, "failurePolicy", json!("Ignore"))]).await;
        client.post(MAPS, &config_map("a", json!({}))).await.expect(201);
        client.delete(&format!("{MAPS}/a")).await.expect(200);
        client.delete(&format!("{CONFIGURATIONS}/mutatingwebhookconfigurations/open")).await.expect(200);
    }
}

#[tokio::test]
async fn mutating_webhooks_are_asked_in_order_and_what_they_make_is_validated_and_owned_by_nobody_else() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    configure(&client, "Mutating", "b", &[hooks.hook("second", "/set/data.k/2")]).await;
    configure(&client, "Mutating", "a", &[hooks.hook("first", "/set/data.k/one")]).await;
    configure(&client, "Validating", "v", &[hooks.hook("judge", "/allow")]).await;
    let refused = client.post(MAPS, &config_map("a", json!({"k": "v"}))).await;
    assert_eq!(refused.code, 500, "a number is no text: {:#}", refused.body);
    client.delete(&format!("{CONFIGURATIONS}/mutatingwebhookconfigurations/b")).await.expect(200);
    hooks.seen();
    configure(&client, "Mutating", "b", &[hooks.hook("second", "/set/data.k/two")]).await;
    let created = client.post(MAPS, &config_map("a", json!({"k": "v"}))).await.expect(201);
    assert_eq!(created["data"]["k"], "two");
    let seen: Vec<(String, Value)> = hooks
        .seen()
        .into_iter()
        .map(|(path, request)| (path, request["object"]["data"]["k"].clone()))
        .collect();
    let expected = [("/set/data.k/one", "v"), ("/set/data.k/two", "one"), ("/allow", "two")];
    assert_eq!(seen, expected.map(|(path, value)| (path.to_owned(), json!(value))));
}

#[tokio::test]
async fn a_webhook_changes_nothing_that_only_the_server_writes() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    let changes = [
        "/set/metadata.uid/x",
        "/set/metadata.creationTimestamp/2000-01-01T00:00:00Z",
        "/set/metadata.generation/9",
    ];
    let webhooks: Vec<Value> =
        changes.iter().enumerate().map(|(n, path)| hooks.hook(&format!("h{n}"), path)).collect();
    let created = client.post(MAPS, &config_map("a", json!({}))).await.expect(201);
    configure(&client, "Mutating", "m", &webhooks).await;
    let mut wanted = created.clone();
    wanted["data"] = json!({"k": "v"});
    let updated = client.put(&format!("{MAPS}/a"), &wanted).await.expect(200);
    for field in ["uid", "creationTimestamp", "generation"] {
        assert_eq!(updated["metadata"][field], created["metadata"][field]);
    }
    let moved = hooks.hook("move", "/set/metadata.namespace/kube-system");
    configure(&client, "Mutating", "n", &[moved]).await;
    client.put(&format!("{MAPS}/a"), &updated).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn a_webhook_that_asks_for_it_sees_what_later_ones_changed() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    let first = with(hooks.hook("first", "/allow"), "reinvocationPolicy", json!("IfNeeded"));
    configure(&client, "Mutating", "m", &[first, hooks.hook("second", "/set/data.k/new")]).await;
    client.post(MAPS, &config_map("a", json!({"k": "old"}))).await.expect(201);
    let values: Vec<Value> =
        hooks.seen().into_iter().map(|(_, request)| request["object"]["data"]["k"].clone()).collect();
    assert_eq!(values, ["old", "old", "new"]);
    client.post(MAPS, &config_map("b", json!({"k": "new"}))).await.expect(201);
    assert_eq!(hooks.seen().len(), 2, "nothing changed, nobody is asked again");
}

#[tokio::test]
async fn every_way_to_write_is_asked_about() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    client.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &widgets()).await.expect(201);
    client.until("/apis/example.com/v1/widgets", |answer| answer.code == 200).await;
    let rules = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"], "scope": "Namespaced"}]);
    let mut hook = with(hooks.hook("all", "/allow"), "rules", rules);
    hook["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": "default"}});
    hook["objectSelector"] = json!({"matchExpressions": [{"key": "quiet", "operator": "DoesNotExist"}]});
    configure(&client, "Validating", "v", &[hook]).await;

    let path = "/apis/example.com/v1/namespaces/default/widgets";
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"size": 1}});
    let mut live = client.post(path, &widget).await.expect(201);
    live["spec"]["size"] = 2.into();
    client.put(&format!("{path}/a"), &live).await.expect(200);
    client.patch("merge", &format!("{path}/a"), &json!({"spec": {"size": 3}})).await.expect(200);
    client
        .patch("apply", &format!("{path}/b?fieldManager=m"), &{
            let mut other = widget.clone();
            other["metadata"]["name"] = "b".into();
            other
        })
        .await
        .expect(201);
    client
        .patch("merge", &format!("{path}/a/status"), &json!({"status": {"phase": "Well"}}))
        .await
        .expect(200);
    client.patch("merge", &format!("{path}/a/scale"), &json!({"spec": {"replicas": 4}})).await.expect(200);
    client.delete(&format!("{path}/b?dryRun=All")).await.expect(200);
    client.delete(&format!("{path}/a")).await.expect(200);
    client.delete(path).await.expect(200);
    let told: Vec<String> = hooks
        .seen()
        .iter()
        .map(|(_, request)| {
            let text = |field: &str| request[field].as_str().unwrap_or("-").to_owned();
            let state = |field: &str| if request[field].is_null() { "none" } else { "some" };
            format!(
                "{} {} {} {} {} {}",
                text("operation"),
                text("name"),
                text("subResource"),
                request["kind"]["kind"].as_str().unwrap(),
                state("object"),
                state("oldObject")
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "CREATE a - Widget some none",
            "UPDATE a - Widget some some",
            "UPDATE a - Widget some some",
            "CREATE b - Widget some none",
            "UPDATE a status Widget some some",
            "UPDATE a scale Scale some some",
            "DELETE b - Widget none some",
            "DELETE a - Widget none some",
            "DELETE b - Widget none some",
        ]
    );
    let quiet = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "q", "labels": {"quiet": "yes"}}});
    client.post(MAPS, &quiet).await.expect(201);
    client
        .post("/api/v1/namespaces/kube-system/configmaps", &config_map("elsewhere", json!({})))
        .await
        .expect(201);
    assert_eq!(hooks.seen(), [], "selectors leave these out");
}

#[tokio::test]
async fn a_question_says_all_there_is_to_know() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    configure(&client, "Validating", "v", &[hooks.hook("v", "/allow")]).await;
    client.post(&format!("{MAPS}?dryRun=All&fieldManager=me"), &config_map("a", json!({}))).await.expect(201);
    let (_, request) = hooks.seen().remove(0);
    let names = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    assert_eq!((&request["kind"], &request["requestKind"]), (&names, &names));
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&request["name"], &request["namespace"]), (&json!("a"), &json!("default")));
    assert_eq!(
        request["userInfo"],
        json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]})
    );
    assert_eq!(request["dryRun"], true);
    let options = json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me", "dryRun": ["All"]});
    assert_eq!(request["options"], options);
    assert_eq!(request["object"]["kind"], "ConfigMap");
}

#[tokio::test]
async fn an_equivalent_version_is_shown_to_a_webhook_that_knows_only_that_one() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    client.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &widgets()).await.expect(201);
    client.until("/apis/example.com/v1/widgets", |answer| answer.code == 200).await;
    let rules = json!([{"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v1beta1"], "resources": ["widgets"]}]);
    configure(
        &client,
        "Mutating",
        "m",
        &[with(hooks.hook("old", "/set/spec.size/5"), "rules", rules.clone())],
    )
    .await;
    let exact = with(with(hooks.hook("exact", "/deny"), "rules", rules), "matchPolicy", json!("Exact"));
    configure(&client, "Validating", "v", &[exact]).await;
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"size": 1}});
    let created = client.post("/apis/example.com/v1/namespaces/default/widgets", &widget).await.expect(201);
    assert_eq!((&created["apiVersion"], &created["spec"]["size"]), (&json!("example.com/v1"), &json!(5)));
    let (_, request) = hooks.seen().remove(0);
    assert_eq!(
        (&request["kind"]["version"], &request["requestKind"]["version"]),
        (&json!("v1beta1"), &json!("v1"))
    );
    assert_eq!(request["object"]["apiVersion"], "example.com/v1beta1");
}

#[tokio::test]
async fn what_a_webhook_makes_of_a_scale_is_what_is_scaled_to() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    let rules = json!([{"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments/scale"]}]);
    configure(&client, "Mutating", "m", &[with(hooks.hook("cap", "/set/spec.replicas/3"), "rules", rules)])
        .await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    client.post(path, &deployment("web", 1)).await.expect(201);
    let scaled = client
        .patch("merge", &format!("{path}/web/scale"), &json!({"spec": {"replicas": 9}}))
        .await
        .expect(200);
    assert_eq!(scaled["spec"]["replicas"], 3);
    assert_eq!(client.get(&format!("{path}/web")).await.expect(200)["spec"]["replicas"], 3);
}

#[tokio::test]
async fn warnings_reach_the_caller() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    configure(&client, "Validating", "v", &[hooks.hook("w", "/warn")]).await;
    let answer = client.post(MAPS, &config_map("a", json!({}))).await;
    assert_eq!(answer.headers["warning"], "299 - \"mind the gap\"");
}

#[tokio::test]
async fn an_update_that_lost_a_race_while_a_webhook_thought_is_a_conflict() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    let live = client.post(MAPS, &config_map("a", json!({}))).await.expect(201);
    let slow =
        with(with(hooks.hook("slow", "/hang"), "timeoutSeconds", json!(1)), "failurePolicy", json!("Ignore"));
    let slow = with(slow, "objectSelector", json!({"matchLabels": {"slow": "yes"}}));
    configure(&client, "Validating", "v", &[slow]).await;
    let mut mine = live.clone();
    mine["metadata"]["labels"] = json!({"slow": "yes"});
    let path = format!("{MAPS}/a");
    let (mine, other) = tokio::join!(client.put(&path, &mine), async {
        while hooks.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        client.patch("merge", &path, &json!({"data": {"k": "theirs"}})).await
    });
    other.expect(200);
    mine.refused(409, "Conflict");
}

/// A broken webhook could not be repaired otherwise.
#[tokio::test]
async fn no_webhook_is_asked_about_webhook_configurations() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    let rules =
        json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    configure(&client, "Validating", "v", &[with(hooks.hook("all", "/deny"), "rules", rules)]).await;
    client.post(MAPS, &config_map("a", json!({}))).await.refused(403, "Forbidden");
    configure(&client, "Mutating", "m", &[hooks.hook("m", "/allow")]).await;
    client.delete(&format!("{CONFIGURATIONS}/validatingwebhookconfigurations/v")).await.expect(200);
    client.post(MAPS, &config_map("a", json!({}))).await.expect(201);
}

/// A host that starts must get as far as serving, or nobody could repair the webhook that keeps it from it.
#[tokio::test]
async fn what_a_host_writes_before_it_serves_is_not_asked_about() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    configure(&client, "Validating", "v", &[hooks.hook("all", "/deny")]).await;
    let mut request = http::Request::post(MAPS)
        .header("content-type", "application/json")
        .body(support::body(config_map("a", json!({})).to_string()))
        .unwrap();
    request.extensions_mut().insert(hansa_embedded::Unasked);
    let response = client.server.handle(client.user.clone(), request).await;
    assert_eq!(response.status(), 201);
    assert_eq!(hooks.seen(), []);
}

#[tokio::test]
async fn match_conditions_decide_who_is_asked_and_one_that_decides_nothing_refuses() {
    let (client, hooks) = (Client::new().await, Hooks::start().await);
    let conditional = |expression: &str, policy: &str| {
        let conditions = json!([{"name": "x", "expression": expression}]);
        with(with(hooks.hook("c", "/deny"), "matchConditions", conditions), "failurePolicy", json!(policy))
    };
    let path = format!("{CONFIGURATIONS}/validatingwebhookconfigurations");
    for odd in ["object.", "authorizer.group('').resource('pods').check('get').allowed()"] {
        let odd = configuration("Validating", "v", &[conditional(odd, "Fail")]);
        let refused = client.post(&path, &odd).await.refused(422, "Invalid");
        assert_eq!(refused["details"]["causes"][0]["field"], "webhooks[0].matchConditions[0].expression");
    }
    for (expression, policy, code) in [
        ("object.metadata.name == 'a' && request.userInfo.username == 'admin'", "Fail", 403),
        ("object.metadata.name == 'b'", "Fail", 201),
        ("object.data.absent == 'b'", "Fail", 403),
        ("object.data.absent == 'b'", "Ignore", 201),
    ] {
        configure(&client, "Validating", "v", &[conditional(expression, policy)]).await;
        let map = config_map("a", json!({}));
        client.post(&format!("{MAPS}?dryRun=All"), &map).await.expect(code);
        client.delete(&format!("{path}/v")).await.expect(200);
    }
}
