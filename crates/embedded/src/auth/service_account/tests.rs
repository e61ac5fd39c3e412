use super::*;
use crate::store::{Draft, Expect, Facts, Op};

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

struct World {
    store: Store,
    tokens: Tokens,
}

impl World {
    async fn new() -> Self {
        let store = Store::memory();
        let tokens = Tokens::new(store.clone(), TokenKey::generate().unwrap().1);
        let world = Self { store, tokens };
        world.put("serviceaccounts", "a", "sa", "u1", json!({})).await;
        world
    }

    async fn put(&self, resource: &str, namespace: &str, name: &str, uid: &str, mut object: Value) {
        object["metadata"]["uid"] = uid.into();
        let deleting = object["metadata"]["deletionTimestamp"].is_string();
        let facts = Facts { uid: uid.into(), deleting, ..Facts::default() };
        let key = Key::new(resource, namespace, name);
        let found = self.store.get(&key);
        let expect = found.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
        self.store.write(Op::Put { key, expect, draft: Draft::new(&object, facts) }).await.unwrap();
    }

    async fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let key = Key::new(resource, namespace, name);
        let expect = Expect::Revision(self.store.get(&key).unwrap().revision);
        let last = Draft::new(&json!({}), Facts::default());
        self.store.write(Op::Delete { key, expect, last }).await.unwrap();
    }

    fn issue(&self, spec: Value) -> String {
        let answer = self.tokens.request("a", "sa", &json!({ "spec": spec }), now()).unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    fn verify(&self, token: &str) -> Result<User, Rejected> {
        self.at(token, now())
    }

    fn at(&self, token: &str, now: Timestamp) -> Result<User, Rejected> {
        self.tokens.verify(token, &[ISSUER.to_owned()], now).map(|(user, _)| user)
    }
}

fn bound(kind: &str, name: &str) -> Value {
    json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}})
}

#[tokio::test]
async fn a_token_is_good_from_its_issue_to_its_expiry() {
    let world = World::new().await;
    let token = world.issue(json!({"expirationSeconds": 600}));
    let user = world.verify(&token).unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:a:sa", "u1"));
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    assert!(user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("JTI="));
    let after = |seconds| now() + SignedDuration::from_secs(seconds);
    world.at(&token, after(600 + 59)).unwrap();
    assert_eq!(world.at(&token, after(600 + 61)), Err(Rejected::Expired));
    assert_eq!(world.at(&token, after(-61)), Err(Rejected::Early));
}

#[tokio::test]
async fn a_token_dies_with_what_it_is_bound_to() {
    let world = World::new().await;
    world.put("secrets", "a", "s", "u2", json!({})).await;
    world.put("pods", "a", "p", "u3", json!({"spec": {"serviceAccountName": "sa", "nodeName": "n"}})).await;
    world.put("nodes", "", "n", "u4", json!({})).await;
    let pod = world.issue(bound("Pod", "p"));
    let extra = world.verify(&pod).unwrap().extra;
    for (key, value) in [("pod-name", "p"), ("pod-uid", "u3"), ("node-name", "n"), ("node-uid", "u4")] {
        assert_eq!(extra[&format!("authentication.kubernetes.io/{key}")], [value]);
    }
    for (resource, namespace, kind, name) in
        [("secrets", "a", "Secret", "s"), ("nodes", "", "Node", "n"), ("pods", "a", "Pod", "p")]
    {
        let token = world.issue(bound(kind, name));
        world.verify(&token).unwrap();
        world.delete(resource, namespace, name).await;
        assert_eq!(world.verify(&token), Err(Rejected::Revoked), "{kind}");
        world.put(resource, namespace, name, "another", json!({"spec": {"serviceAccountName": "sa"}})).await;
        assert_eq!(world.verify(&token), Err(Rejected::Revoked), "another {kind} of the same name");
    }
    let token = world.issue(json!({}));
    world.put("serviceaccounts", "a", "sa", "u9", json!({})).await;
    assert_eq!(world.verify(&token), Err(Rejected::Revoked));
    world.delete("serviceaccounts", "a", "sa").await;
    assert_eq!(world.verify(&token), Err(Rejected::Revoked));
}

#[tokio::test]
async fn a_terminating_pod_keeps_its_token_until_its_time() {
    let world = World::new().await;
    let pod = |due: Option<&str>| json!({"spec": {"serviceAccountName": "sa"}, "metadata": {"deletionTimestamp": due}});
    world.put("pods", "a", "p", "u3", pod(None)).await;
    let token = world.issue(bound("Pod", "p"));
    world.put("pods", "a", "p", "u3", pod(Some("2026-06-01T00:00:30Z"))).await;
    world.verify(&token).unwrap();
    world.put("pods", "a", "p", "u3", pod(Some("2026-05-31T23:58:00Z"))).await;
    assert_eq!(world.verify(&token), Err(Rejected::Revoked));
}

#[tokio::test]
async fn a_token_is_good_for_its_audiences_only() {
    let world = World::new().await;
    let token = world.issue(json!({"audiences": ["vault", "x"]}));
    let verify = |audiences: &[&str]| {
        let audiences: Vec<String> = audiences.iter().map(|a| (*a).to_owned()).collect();
        world.tokens.verify(&token, &audiences, now()).map(|(_, good)| good)
    };
    assert_eq!(verify(&["x", "y"]), Ok(vec!["x".to_owned()]));
    assert_eq!(verify(&["y"]), Err(Rejected::Audience));
    assert_eq!(verify(&[]), Err(Rejected::Audience));
    assert_eq!(world.verify(&token), Err(Rejected::Audience));
}

#[tokio::test]
async fn a_secret_s_token_is_good_while_the_secret_holds_it() {
    let world = World::new().await;
    let token = world.tokens.for_secret("a", "s", "sa", "u1").unwrap();
    assert_eq!(world.verify(&token), Err(Rejected::Revoked), "nobody holds it yet");
    let data = |token: &str| json!({"data": {"token": STANDARD.encode(token)}});
    world.put("secrets", "a", "s", "u2", data(&token)).await;
    let much_later = now() + SignedDuration::from_hours(24 * 3650);
    assert_eq!(world.at(&token, much_later).unwrap().name, "system:serviceaccount:a:sa");
    world.put("secrets", "a", "s", "u2", data("other")).await;
    assert_eq!(world.verify(&token), Err(Rejected::Revoked));
    world.put("secrets", "a", "s", "u2", data(&token)).await;
    world.put("serviceaccounts", "a", "sa", "u9", json!({})).await;
    assert_eq!(world.verify(&token), Err(Rejected::Revoked));
}

#[tokio::test]
async fn claims_that_do_not_fit_together_are_refused_though_well_signed() {
    let world = World::new().await;
    let good = world.tokens.key.verify(&world.issue(json!({}))).unwrap();
    let legacy = Legacy { namespace: "a".into(), secret: "s".into(), name: "sa".into(), uid: "u1".into() };
    let other = "system:serviceaccount:kube-system:root".to_owned();
    for claims in [
        Claims { exp: None, ..good.clone() },
        Claims { sub: other.clone(), ..good.clone() },
        Claims { bound: None, ..good.clone() },
        Claims { iss: LEGACY_ISSUER.into(), ..good.clone() },
        Claims { legacy: Some(legacy.clone()), ..good.clone() },
        Claims { sub: other, bound: None, legacy: Some(legacy), iss: LEGACY_ISSUER.into(), ..good.clone() },
    ] {
        let token = world.tokens.key.sign(&claims).unwrap();
        assert_eq!(world.verify(&token), Err(Rejected::Unknown), "{claims:?}");
    }
}

#[tokio::test]
async fn a_request_that_does_not_fit_is_refused_as_kubernetes_refuses_it() {
    let world = World::new().await;
    world.put("pods", "a", "p", "u3", json!({"spec": {"serviceAccountName": "other"}})).await;
    world.put("secrets", "a", "s", "u2", json!({})).await;
    let spec = |spec: Value| json!({ "spec": spec });
    for (body, code) in [
        (spec(json!({"expirationSeconds": 599})), 422),
        (spec(json!({"expirationSeconds": (1i64 << 32) + 1})), 422),
        (json!({"metadata": {"name": "x"}}), 422),
        (json!({"metadata": {"namespace": "x"}}), 422),
        (json!({"metadata": {"uid": "x"}}), 409),
        (spec(bound("Pod", "p")), 400),
        (spec(bound("Pod", "none")), 404),
        (spec(bound("ConfigMap", "x")), 400),
        (
            spec(json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "s", "uid": "x"}})),
            409,
        ),
        (spec(json!({"audiences": "x"})), 400),
    ] {
        assert_eq!(world.tokens.request("a", "sa", &body, now()).unwrap_err().code, code, "{body}");
    }
    assert_eq!(world.tokens.request("a", "none", &json!({}), now()).unwrap_err().code, 404);
    let answer = world.tokens.request("a", "sa", &json!({}), now()).unwrap();
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
    assert_eq!(answer["status"]["expirationTimestamp"], "2026-06-01T01:00:00Z");
}
