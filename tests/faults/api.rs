//! A member's API changes, does not know us any more, or refuses.

use serde_json::{Value, json};

use crate::{
    hooks::{Hooks, configuration},
    wishes::{Kind, copy_path, identity, wish, words},
    world::{ACCOUNT, BOTH, World},
};

/// `spec/kubefed.md §5 (2)`: with the type go all its objects in that member, and nothing else anywhere.
pub async fn a_type_that_is_deleted_and_made_anew_concerns_its_member_alone(w: &mut World) {
    w.undefine_widgets("m1").await;
    w.lost(&["widget", "widget-here"]);
    w.until("it is told that the type is gone", async |w| {
        let object = w.host.get(&format!("{}/widget", Kind::Widget.federated())).await?.unwrap_or_default();
        let words = words(&object);
        let is_told = words.get("m1").is_some_and(|word| !word.is_empty()) && words["m2"].is_empty();
        if is_told { Ok(()) } else { Err(format!("{words:?}")) }
    })
    .await;
    w.ask("widget", Some(wish("without", BOTH))).await;
    w.ask("beside", Some(wish("1", BOTH))).await;
    w.arrives("m2", "widget").await;
    w.arrives("m1", "beside").await;
    w.define_widgets("m1").await;
}

/// `spec/kubefed.md §6 (3)`: the token is taken away, and some time later there is a new one.
pub async fn credentials_that_are_rotated_lose_nothing(w: &mut World) {
    for name in ["updated", "deleted"] {
        w.ask(name, Some(wish("before", BOTH))).await;
    }
    w.settle().await;
    let before = w.in_member("m1").await.unwrap();
    let secret = "/api/v1/namespaces/kube-federation-system/secrets/m1-secret";
    let former = w.member("m1").issued_token(ACCOUNT).await.unwrap();
    w.member("m1").revoke_token(ACCOUNT).await;
    w.until("the former token is refused", async |w| match w.member("m1").answers(&former).await {
        401 => Ok(()),
        code => Err(code.to_string()),
    })
    .await;
    w.ready("m1", false).await;
    w.ask("updated", Some(wish("after", BOTH))).await;
    w.ask("deleted", None).await;
    w.ask("created", Some(wish("after", BOTH))).await;
    for name in ["updated", "deleted", "created"] {
        w.arrives("m2", name).await;
    }
    w.says("updated", "m1", "ClusterNotReady").await;
    assert_eq!(w.in_member("m1").await.unwrap(), before);
    let token = w.member("m1").issue_token(ACCOUNT).await;
    assert_ne!(token, former);
    w.host.patch(secret, &json!({"stringData": {"token": token}})).await;
    w.ready("m1", true).await;
}

/// Somebody's own rule in a member: objects may be made there, and neither changed nor deleted.
pub async fn a_refusal_is_told_and_concerns_its_member_alone(w: &mut World) {
    let hooks = Hooks::start().await;
    let mut hook = hooks.hook("fridays", "/deny");
    hook["rules"][0]["operations"] = json!(["UPDATE", "DELETE"]);
    hook["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}});
    let mut absent = hook.clone();
    absent["clientConfig"] = json!({"url": "https://127.0.0.1:1/"});
    let webhook = |hook: Value| {
        vec![("validatingwebhookconfigurations", configuration("Validating", "fridays", &[hook]))]
    };
    let mut rules =
        vec![(webhook(hook), "denied the request: no"), (webhook(absent), "failed calling webhook")];
    if w.host.is_real() {
        rules.push((policy(), "nothing is changed on Fridays"));
    }
    for (number, (objects, told)) in rules.iter().enumerate() {
        for name in ["updated", "deleted"] {
            w.ask(name, Some(wish(format!("{number} before"), BOTH))).await;
        }
        w.settle().await;
        for (plural, object) in objects {
            w.member("m1").create(&format!("{ADMISSION}/{plural}"), object).await;
        }
        // A real API server takes a moment to notice.
        w.until("the rule holds", async |w| {
            let dry_run = format!("{}?dryRun=All", copy_path("witness"));
            let refusal = w.member("m1").try_patch(&dry_run, &json!({"data": {"key": "ours"}})).await;
            if refusal.as_ref().is_err_and(|refusal| refusal.contains(told)) {
                Ok(())
            } else {
                Err(format!("{refusal:?}"))
            }
        })
        .await;
        let before = w.in_member("m1").await.unwrap();
        w.ask("updated", Some(wish(format!("{number} after"), BOTH))).await;
        w.ask("deleted", None).await;
        w.ask(&format!("created{number}"), Some(wish("1", BOTH))).await;
        for name in ["updated", "deleted"] {
            w.arrives("m2", name).await;
        }
        w.arrives("m1", &format!("created{number}")).await;
        for (name, word) in [("updated", "UpdateFailed"), ("deleted", "DeletionFailed")] {
            let object = w.says(name, "m1", word).await;
            assert!(object["status"].to_string().contains(told), "{}", object["status"]);
            let copy = w.member("m1").get(&copy_path(name)).await.unwrap();
            assert_eq!(copy.as_ref().map(identity).as_ref(), before.get(name), "{name}");
        }
        for (plural, _) in objects {
            w.member("m1").delete(&format!("{ADMISSION}/{plural}/fridays")).await;
        }
        w.settle().await;
    }
}

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

/// The same as a policy of the API server's own: its collections, and what is made there.
fn policy() -> Vec<(&'static str, Value)> {
    let object = |kind: &str, spec: Value| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": "fridays"}, "spec": spec})
    };
    let rule = json!({"operations": ["UPDATE", "DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]});
    let policy = object(
        "ValidatingAdmissionPolicy",
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}},
            "validations": [{"expression": "false", "message": "nothing is changed on Fridays"}],
        }),
    );
    let binding = object(
        "ValidatingAdmissionPolicyBinding",
        json!({"policyName": "fridays", "validationActions": ["Deny"]}),
    );
    vec![("validatingadmissionpolicies", policy), ("validatingadmissionpolicybindings", binding)]
}
