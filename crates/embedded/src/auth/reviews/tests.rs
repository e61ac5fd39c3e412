use super::*;
use crate::{
    auth::{Settings, StaticToken, rbac::GROUP},
    store::{Draft, Expect, Facts, Key, Op, Store},
};

async fn auth() -> Auth {
    let store = Store::memory();
    let put = async |resource: &str, namespace: &str, name: &str, object: Value| {
        let resource =
            if resource.ends_with("accounts") { resource.to_owned() } else { format!("{resource}.{GROUP}") };
        let facts = Facts { uid: "u1".into(), ..Facts::default() };
        let key = Key::new(resource, namespace, name);
        store
            .write(Op::Put { key, expect: Expect::Absent, draft: Draft::new(&object, facts) })
            .await
            .unwrap();
    };
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"], "verbs": ["get"]},
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
    ]);
    put("clusterroles", "", "reader", json!({"rules": rules})).await;
    let bind = |role: &str| json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "Group", "name": "dev"}]});
    put("rolebindings", "a", "b", bind("reader")).await;
    put("clusterrolebindings", "", "b", bind("reader")).await;
    put("rolebindings", "broken", "b", bind("gone")).await;
    put("serviceaccounts", "a", "sa", json!({})).await;
    let tokens = vec![StaticToken::new("right", User::new("bob", ["dev"]))];
    Auth::open(store, Settings { tokens, ..Settings::default() }).await.unwrap()
}

fn ask(
    auth: &Auth,
    user: &User,
    group: &str,
    resource: &str,
    namespace: &str,
    spec: Value,
) -> Result<Value, Status> {
    auth.review(user, (group, resource), namespace, &json!({"spec": spec})).unwrap()
}

fn pod(name: &str, namespace: &str) -> Value {
    json!({"verb": "get", "resource": "pods", "name": name, "namespace": namespace})
}

#[tokio::test]
async fn access_reviews_answer_for_whom_they_are_asked() {
    let auth = auth().await;
    let (dev, nobody) = (User::new("bob", ["dev"]), User::new("eve", [""; 0]));
    let own = |user: &User, spec: Value| {
        ask(&auth, user, AUTHORIZATION, "selfsubjectaccessreviews", "", spec).unwrap()["status"].clone()
    };
    let attributes = |name| json!({"resourceAttributes": pod(name, "a")});
    let status = own(&dev, attributes("p"));
    assert_eq!(status["allowed"], true);
    assert_eq!(
        status["reason"],
        "RBAC: allowed by ClusterRoleBinding \"b\" of ClusterRole \"reader\" to Group \"dev\""
    );
    assert_eq!(own(&dev, attributes("q")), json!({"allowed": false}));
    assert_eq!(own(&nobody, attributes("p"))["allowed"], false);
    let path = json!({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}});
    assert_eq!(own(&dev, path)["allowed"], true);
    let missing = own(&dev, json!({"resourceAttributes": pod("q", "broken")}));
    assert!(missing["reason"].as_str().unwrap().contains("\"gone\" not found"), "{missing}");

    let subject = |groups: Value| json!({"user": "x", "groups": groups, "resourceAttributes": pod("p", "a")});
    for (resource, namespace) in [("subjectaccessreviews", ""), ("localsubjectaccessreviews", "a")] {
        let of = |groups| ask(&auth, &nobody, AUTHORIZATION, resource, namespace, subject(groups)).unwrap();
        assert_eq!(of(json!(["dev"]))["status"]["allowed"], true);
        assert_eq!(of(json!(["ops"]))["status"]["allowed"], false);
    }
}

#[tokio::test]
async fn access_reviews_without_a_clear_question_are_invalid() {
    let auth = auth().await;
    let user = User::new("bob", ["dev"]);
    for (resource, namespace, spec) in [
        ("selfsubjectaccessreviews", "", json!({})),
        ("selfsubjectaccessreviews", "", Value::Null),
        ("selfsubjectaccessreviews", "", json!({"resourceAttributes": {}, "nonResourceAttributes": {}})),
        ("subjectaccessreviews", "", json!({"resourceAttributes": {}})),
        ("localsubjectaccessreviews", "b", json!({"user": "x", "resourceAttributes": pod("p", "a")})),
        ("localsubjectaccessreviews", "a", json!({"user": "x", "nonResourceAttributes": {"path": "/"}})),
    ] {
        let refused = ask(&auth, &user, AUTHORIZATION, resource, namespace, spec.clone());
        assert_eq!(refused.unwrap_err().code, 422, "{resource} {spec}");
    }
    let bad = ask(&auth, &user, AUTHORIZATION, "subjectaccessreviews", "", json!({"user": 1}));
    assert_eq!(bad.unwrap_err().code, 400);
    assert!(auth.review(&user, ("", "pods"), "", &json!({})).is_none());
}

#[tokio::test]
async fn a_rules_review_lists_what_a_user_may_do_in_a_namespace() {
    let auth = auth().await;
    let list = |namespace: &str| {
        let user = User::new("bob", ["dev"]);
        let spec = json!({ "namespace": namespace });
        ask(&auth, &user, AUTHORIZATION, "selfsubjectrulesreviews", "", spec)
    };
    let status = list("a").unwrap()["status"].clone();
    let rule = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"]});
    assert_eq!(status["resourceRules"], json!([rule, rule]), "from the cluster and from the namespace");
    assert_eq!(status["nonResourceRules"][0], json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]}));
    assert_eq!(list("c").unwrap()["status"]["resourceRules"], json!([rule]));
    assert!(list("broken").unwrap()["status"]["evaluationError"].as_str().unwrap().contains("gone"));
    assert_eq!(list("").unwrap_err().code, 400);
}

#[tokio::test]
async fn a_token_review_tells_whose_a_token_is_and_for_whom() {
    let auth = auth().await;
    let user = User::new("x", [""; 0]);
    let review = |token: &str, audiences: Value| {
        let spec = json!({"token": token, "audiences": audiences});
        ask(&auth, &user, AUTHENTICATION, "tokenreviews", "", spec)
    };
    let status = |token: &str, audiences: Value| review(token, audiences).unwrap()["status"].clone();
    let account = auth.token_request("a", "sa", &json!({"spec": {"audiences": ["vault"]}})).unwrap();
    let account = account["status"]["token"].as_str().unwrap();
    let good = status("right", json!([]));
    assert_eq!((&good["authenticated"], &good["user"]["username"]), (&json!(true), &json!("bob")));
    assert_eq!(good["audiences"], json!([ISSUER]));
    let good = status(account, json!(["vault", "other"]));
    assert_eq!(
        (&good["user"]["username"], &good["audiences"]),
        (&json!("system:serviceaccount:a:sa"), &json!(["vault"]))
    );
    for (token, audiences) in [("wrong", json!([])), (account, json!([])), ("right", json!(["vault"]))] {
        let bad = status(token, audiences);
        assert!(
            bad["authenticated"].is_null() && bad["user"] == json!({}) && bad["error"].is_string(),
            "{bad}"
        );
    }
    assert_eq!(review("", json!([])).unwrap_err().code, 400);
}

#[tokio::test]
async fn a_self_review_shows_who_one_is() {
    let auth = auth().await;
    let mut user = User::new("bob", ["dev"]);
    user.extra.insert("k".into(), vec!["v".into()]);
    let info = &ask(&auth, &user, AUTHENTICATION, "selfsubjectreviews", "", json!({})).unwrap()["status"]["userInfo"];
    assert_eq!(info, &json!({"username": "bob", "groups": ["dev"], "extra": {"k": ["v"]}}));
}
