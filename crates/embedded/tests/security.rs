//! The security of a whole server: who may do what, and what nobody may.

// A helper of tests may panic as tests do.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use hansa_embedded::{Options, Server, StaticToken, Storage, User};
use serde_json::{Value, json};
use support::Client;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn user(name: &str) -> User {
    User::new(name, ["system:authenticated"])
}

async fn grant(admin: &Client, namespace: &str, name: &str, rules: Value) {
    let base = format!("{RBAC}/namespaces/{namespace}");
    admin
        .post(&format!("{base}/roles"), &json!({"metadata": {"name": name}, "rules": rules}))
        .await
        .expect(201);
    let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
    let binding = json!({"metadata": {"name": name}, "roleRef": role_ref, "subjects": [subject]});
    admin.post(&format!("{base}/rolebindings"), &binding).await.expect(201);
}

async fn namespace(admin: &Client, name: &str) {
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await.expect(201);
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

#[tokio::test]
async fn everything_is_refused_until_a_rule_allows_it_and_the_refusal_tells_nothing() {
    let admin = Client::new().await;
    namespace(&admin, "a").await;
    admin.post("/api/v1/namespaces/a/configmaps", &config_map("there")).await.expect(201);
    let bob = admin.as_user(user("bob"));
    let there = bob.get("/api/v1/namespaces/a/configmaps/there").await.refused(403, "Forbidden");
    let absent = bob.get("/api/v1/namespaces/a/configmaps/gone").await.refused(403, "Forbidden");
    assert_eq!(there.to_string().replace("there", "gone"), absent.to_string());
    bob.get("/api/v1/namespaces/none/configmaps/x").await.refused(403, "Forbidden");
    bob.get("/apis/no.such.group/v1/things").await.refused(403, "Forbidden");
    assert_eq!(
        bob.get("/api/v1/namespaces/a/pods").await.refused(403, "Forbidden")["message"],
        "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"a\""
    );
    grant(&admin, "a", "bob", json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]))
        .await;
    bob.get("/api/v1/namespaces/a/configmaps/there").await.expect(200);
    bob.get("/api/v1/namespaces/a/configmaps/gone").await.refused(404, "NotFound");
    bob.get("/api/v1/namespaces/a/configmaps").await.refused(403, "Forbidden");
    bob.get("/api/v1/namespaces/default/configmaps/there").await.refused(403, "Forbidden");
    bob.delete("/api/v1/namespaces/a/configmaps/there").await.refused(403, "Forbidden");
    admin.delete(&format!("{RBAC}/namespaces/a/rolebindings/bob")).await.expect(200);
    bob.get("/api/v1/namespaces/a/configmaps/there").await.refused(403, "Forbidden");
}

#[tokio::test]
async fn anonymous_callers_see_health_and_version_only() {
    let nobody = Client::new().await.as_user(User::anonymous());
    for path in ["/version", "/readyz", "/livez", "/healthz"] {
        assert_eq!(nobody.get(path).await.code, 200, "{path}");
    }
    for path in
        ["/api", "/apis", "/openapi/v3", "/api/v1/namespaces", "/.well-known/openid-configuration", "/"]
    {
        nobody.get(path).await.refused(403, "Forbidden");
    }
}

/// Checklist 19: every user against every namespace, verb and resource, by the rules as they were granted.
#[tokio::test]
async fn nobody_reaches_another_s_namespace_with_any_verb() {
    let admin = Client::new().await;
    let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    for name in ["a", "b"] {
        namespace(&admin, name).await;
        grant(&admin, name, &format!("owner-{name}"), all.clone()).await;
        admin.post(&format!("/api/v1/namespaces/{name}/configmaps"), &config_map("x")).await.expect(201);
    }
    for (of, on) in [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")] {
        let owner = admin.as_user(user(&format!("owner-{of}")));
        let own = of == on;
        let base = format!("/api/v1/namespaces/{on}/configmaps");
        let one = format!("{base}/x");
        let json = &[("content-type", "application/json")][..];
        let merge = &[("content-type", "application/merge-patch+json")][..];
        for (method, path, headers, body) in [
            ("GET", one.clone(), &[][..], String::new()),
            ("GET", base.clone(), &[], String::new()),
            ("GET", format!("{base}?limit=1&fieldSelector=metadata.name%3Dx"), &[], String::new()),
            ("PATCH", one.clone(), merge, json!({"data": {"k": of}}).to_string()),
            ("PUT", one.clone(), json, config_map("x").to_string()),
            ("POST", base.clone(), json, config_map("new").to_string()),
            ("DELETE", format!("{base}/new"), &[], String::new()),
            ("DELETE", format!("{base}?labelSelector=none"), &[], String::new()),
        ] {
            let answer = owner.send(method, &path, headers, body).await;
            assert_eq!(answer.code == 403, !own, "owner of {of}: {method} {path} -> {}", answer.code);
            assert_eq!(answer.code < 300, own, "owner of {of}: {method} {path} -> {:#}", answer.body);
        }
        if !own {
            // Nor by a detour over paths that mean something else to somebody on the way.
            for path in [
                format!("/api/v1/namespaces/{of}/../{on}/configmaps/x"),
                format!("/api/v1/namespaces/{of}%2f..%2f{on}/configmaps/x"),
                format!("/api/v1//namespaces/{on}/configmaps/x"),
                "/api/v1/configmaps".to_owned(),
                format!("/api/v1/namespaces/{on}/configmaps/x?namespace={of}"),
            ] {
                let code = owner.get(&path).await.code;
                assert!(matches!(code, 400 | 403 | 404), "{path} -> {code}");
            }
        }
    }
}

#[tokio::test]
async fn an_update_that_creates_needs_the_right_to_create() {
    let admin = Client::new().await;
    let lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/x";
    let rules = |verbs: &[&str]| json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs}]);
    grant(&admin, "default", "bob", rules(&["get", "update", "patch"])).await;
    let bob = admin.as_user(user("bob"));
    let object = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x"}, "spec": {}});
    bob.put(lease, &object).await.refused(403, "Forbidden");
    bob.patch("apply", &format!("{lease}?fieldManager=m"), &object).await.refused(403, "Forbidden");
    admin.get(lease).await.refused(404, "NotFound");
    grant(&admin, "default", "eve", rules(&["create", "update"])).await;
    admin.as_user(user("eve")).put(lease, &object).await.expect(201);
    bob.patch("merge", lease, &json!({"spec": {"holderIdentity": "bob"}})).await.expect(200);
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold_by_any_kind_of_write() {
    let admin = Client::new().await;
    namespace(&admin, "a").await;
    let own = json!([
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    ]);
    // `*` on roles would include escalate and bind.
    let mut own = own;
    own[0]["verbs"] = json!(["create", "get", "update", "patch", "delete"]);
    grant(&admin, "a", "bob", own).await;
    let bob = admin.as_user(user("bob"));
    let roles = format!("{RBAC}/namespaces/a/roles");
    let role = |verbs: &[&str]| {
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]);
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": rules})
    };
    bob.post(&roles, &role(&["get", "delete"])).await.refused(403, "Forbidden");
    bob.post(&roles, &role(&["get"])).await.expect(201);
    let one = format!("{roles}/r");
    bob.put(&one, &role(&["*"])).await.refused(403, "Forbidden");
    bob.patch("merge", &one, &json!({"rules": role(&["*"])["rules"]})).await.refused(403, "Forbidden");
    let more = json!([{"op": "add", "path": "/rules/0/verbs/-", "value": "delete"}]);
    bob.patch("json", &one, &more).await.refused(403, "Forbidden");
    bob.patch("strategic", &one, &json!({"rules": role(&["*"])["rules"]})).await.refused(403, "Forbidden");
    bob.patch("apply", &format!("{one}?fieldManager=m&force=true"), &role(&["*"]))
        .await
        .refused(403, "Forbidden");
    assert_eq!(admin.get(&one).await.expect(200)["rules"][0]["verbs"], json!(["get"]));
    let bind = |kind: &str, name: &str| {
        let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"});
        let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        json!({"metadata": {"name": format!("b-{name}")}, "roleRef": role_ref, "subjects": [subject]})
    };
    let bindings = format!("{RBAC}/namespaces/a/rolebindings");
    bob.post(&bindings, &bind("ClusterRole", "cluster-admin")).await.refused(403, "Forbidden");
    bob.post(&bindings, &bind("ClusterRole", "absent")).await.refused(404, "NotFound");
    bob.post(&bindings, &bind("Role", "r")).await.expect(201);
    bob.post(&format!("{RBAC}/clusterrolebindings"), &bind("ClusterRole", "view"))
        .await
        .refused(403, "Forbidden");
}

#[tokio::test]
async fn impersonation_lends_the_rights_of_another_and_takes_one_s_own_away() {
    let admin = Client::new().await;
    namespace(&admin, "a").await;
    grant(&admin, "a", "bob", json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}])).await;
    let rules = json!([
        {"apiGroups": [""], "resources": ["users"], "resourceNames": ["bob", "eve"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]},
    ]);
    admin
        .post(&format!("{RBAC}/clusterroles"), &json!({"metadata": {"name": "proxy"}, "rules": rules}))
        .await
        .expect(201);
    let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "proxy"});
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "proxy"});
    let binding = json!({"metadata": {"name": "proxy"}, "roleRef": role_ref, "subjects": [subject]});
    admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.expect(201);
    let proxy = admin.as_user(user("proxy"));
    let get = async |path: &str, headers: &[(&str, &str)]| proxy.send("GET", path, headers, "").await;
    let pods = "/api/v1/namespaces/a/pods";
    get(pods, &[]).await.refused(403, "Forbidden");
    get(pods, &[("impersonate-user", "bob")]).await.expect(200);
    get(pods, &[("Impersonate-User", "eve")]).await.refused(403, "Forbidden");
    get("/api/v1/nodes", &[]).await.expect(200);
    get("/api/v1/nodes", &[("impersonate-user", "bob")]).await.refused(403, "Forbidden");
    get(pods, &[("impersonate-user", "root")]).await.refused(403, "Forbidden");
    get(pods, &[("impersonate-user", "bob"), ("impersonate-uid", "1")]).await.refused(403, "Forbidden");
    get(pods, &[("impersonate-group", "dev")]).await.refused(400, "BadRequest");
    let masters = [("impersonate-user", "bob"), ("impersonate-group", "system:masters")];
    get("/api/v1/nodes", &masters).await.refused(403, "Forbidden");
    // Headers of a trusted front proxy, and spellings that some proxies let through, mean nothing here.
    for headers in [
        [("x-remote-user", "admin"), ("x-remote-group", "system:masters")],
        [("impersonate_user", "admin"), ("impersonate_group", "system:masters")],
    ] {
        get("/api/v1/secrets", &headers).await.refused(403, "Forbidden");
    }
}

#[tokio::test]
async fn a_token_secret_is_filled_works_and_goes_with_its_service_account() {
    let admin = Client::new().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    admin.post("/api/v1/namespaces/default/serviceaccounts", &config_map("sa")).await.expect(201);
    let annotations = json!({"kubernetes.io/service-account.name": "sa"});
    let secret = json!({"type": "kubernetes.io/service-account-token", "metadata": {"name": "t", "annotations": annotations}});
    admin.post(secrets, &secret).await.expect(201);
    let one = format!("{secrets}/t");
    let filled = admin.until(&one, |answer| answer.body["data"]["token"].is_string()).await.body;
    assert!(filled["data"]["ca.crt"].is_string() && filled["data"]["namespace"].is_string());
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = json!({"spec": {"token": decode(&filled)}});
    let status = admin.post(reviews, &review).await.expect(201)["status"].clone();
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:sa");
    admin.delete("/api/v1/namespaces/default/serviceaccounts/sa").await.expect(200);
    admin.until(&one, |answer| answer.code == 404).await;
    assert!(admin.post(reviews, &review).await.expect(201)["status"]["authenticated"].is_null());
}

fn decode(secret: &Value) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    String::from_utf8(STANDARD.decode(secret["data"]["token"].as_str().unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_request_issues_a_token_that_dies_with_its_service_account() {
    let admin = Client::new().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin.post(accounts, &config_map("sa")).await.expect(201);
    let asked =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let issued = admin.post(&format!("{accounts}/sa/token"), &asked).await.expect(201);
    let review = json!({"spec": {"token": issued["status"]["token"]}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    assert_eq!(admin.post(reviews, &review).await.expect(201)["status"]["authenticated"], true);
    admin.delete(&format!("{accounts}/sa")).await.expect(200);
    assert!(admin.post(reviews, &review).await.expect(201)["status"]["authenticated"].is_null());
    admin.post(&format!("{accounts}/sa/token"), &asked).await.refused(404, "NotFound");
}

#[tokio::test]
async fn an_approved_certificate_request_is_signed_and_a_forged_one_is_not() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let admin = Client::new().await;
    let csrs = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = |name: &str, group: &str| {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "carol");
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        let pem = parameters.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        json!({
            "metadata": {"name": name},
            "spec": {
                "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
                "request": STANDARD.encode(pem), "username": "somebody-else",
            },
        })
    };
    admin.post(csrs, &request("masters", "system:masters")).await.refused(403, "Forbidden");
    let mut object = admin.post(csrs, &request("good", "dev")).await.expect(201);
    assert_eq!(object["spec"]["username"], "admin");
    object["status"]["conditions"] =
        json!([{"type": "Approved", "status": "True", "reason": "Test", "message": "yes"}]);
    let bob = admin.as_user(user("bob"));
    bob.put(&format!("{csrs}/good/approval"), &object).await.refused(403, "Forbidden");
    admin.put(&format!("{csrs}/good/approval"), &object).await.expect(200);
    let signed =
        admin.until(&format!("{csrs}/good"), |answer| answer.body["status"]["certificate"].is_string()).await;
    let pem = STANDARD.decode(signed.body["status"]["certificate"].as_str().unwrap()).unwrap();
    assert!(pem.starts_with(b"-----BEGIN CERTIFICATE-----"));
}

#[tokio::test]
async fn an_aggregating_role_follows_what_it_gathers() {
    let admin = Client::new().await;
    let roles = format!("{RBAC}/clusterroles");
    let labels = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    let rules = json!([{"apiGroups": ["example.org"], "resources": ["things"], "verbs": ["get"]}]);
    admin
        .post(&roles, &json!({"metadata": {"name": "things", "labels": labels}, "rules": rules}))
        .await
        .expect(201);
    for name in ["view", "edit", "admin"] {
        let gathered = |role: &Value| role["rules"].as_array().is_some_and(|all| all.contains(&rules[0]));
        admin.until(&format!("{roles}/{name}"), |answer| gathered(&answer.body)).await;
    }
    admin.delete(&format!("{roles}/things")).await.expect(200);
    let gone = |role: &Value| !role["rules"].as_array().is_some_and(|all| all.contains(&rules[0]));
    admin.until(&format!("{roles}/view"), |answer| gone(&answer.body)).await;
}

#[tokio::test]
async fn a_restart_finds_its_policy_in_order_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options::new("test", Storage::File(dir.path().join("state")));
    let first = Server::open(options()).await.unwrap();
    let client = Client { server: first.clone(), user: User::new("admin", ["system:masters"]) };
    let version = async |client: &Client| {
        let list = client.get(&format!("{RBAC}/clusterroles")).await.expect(200);
        assert!(list["items"].as_array().unwrap().len() > 25);
        list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    };
    // Until the controllers have nothing left to do.
    let mut before = version(&client).await;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = version(&client).await;
        if now == before {
            break;
        }
        before = now;
    }
    let ca = first.ca_pem();
    first.close().await;
    drop((first, client));
    let again = Server::open(options()).await.unwrap();
    assert_eq!(again.ca_pem(), ca);
    let client = Client { server: again.clone(), user: User::new("admin", ["system:masters"]) };
    assert_eq!(version(&client).await, before);
    again.close().await;
}

#[tokio::test]
async fn static_tokens_claim_no_mastery_and_a_first_start_is_quick() {
    let started = Instant::now();
    let server = Server::open(Options::new("test", Storage::Memory)).await.unwrap();
    eprintln!("first start in {:?}", started.elapsed());
    drop(server);
    let token = StaticToken::new("t", User::new("eve", ["system:masters"]));
    let refused =
        Server::open(Options { tokens: vec![token], ..Options::new("test", Storage::Memory) }).await;
    assert!(refused.unwrap_err().to_string().contains("system:masters"));
}
