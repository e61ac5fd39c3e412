//! Admission: KubeFed's rules as kubectl meets them, and webhooks in general, on `hansa up` and on a real kube-apiserver.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

#[path = "../crates/embedded/tests/support/hooks.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the embedded server")]
mod hooks;
mod support;

use std::{env, path::PathBuf, process::Command};

use hooks::{Hooks, configuration};
use serde_json::{Value, json};
use support::{
    Federation, Kubectl,
    embedded::{Embedded, binary, hansa},
    eventually, free_port,
    process::Process,
    real::Cluster,
    same,
};
use tempfile::TempDir;

const CORE: &str = "core.kubefed.io/v1beta1";

#[test]
fn on_an_embedded_host() {
    let dir = TempDir::new().unwrap();
    let up = Embedded::start_in(&dir.path().join("data"), &format!("127.0.0.1:{}", free_port()), 0);
    kubefeds_rules(up.kubectl(), "host");
    webhooks_in_general(up.kubectl(), "host");
}

#[test]
fn on_a_real_kube_apiserver() {
    let Some(assets) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
        eprintln!("SKIPPED: no real cluster without KUBEBUILDER_ASSETS; run `cargo xtask test`");
        return;
    };
    let dir = TempDir::new().unwrap();
    let host = Cluster::start("host", &dir.path().join("host"), &assets);
    let installed = hansa(&host.kubectl.kubeconfig, &["install"]);
    assert!(installed.status.success(), "{installed:?}");
    let listen = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(binary());
    command.args(["webhook", "--listen", &listen, "--url", &format!("https://{listen}"), "--kubeconfig"]);
    let mut webhook = Process::start("webhook", dir.path(), command.arg(&host.kubectl.kubeconfig));
    eventually("the webhooks are registered", || {
        webhook.check().unwrap_or_else(|e| panic!("{e}"));
        host.kubectl
            .try_run("", &["get", "validatingwebhookconfigurations", "validations.core.kubefed.io"])?;
        host.kubectl.try_run("", &["get", "mutatingwebhookconfigurations", "mutation.core.kubefed.io"])
    });
    kubefeds_rules(&host.kubectl, "");
    webhooks_in_general(&host.kubectl, "");
}

/// The configuration a killed process leaves behind leads nowhere; the next one's own first writes must not wait for it, nor
/// for anybody else's webhook.
#[test]
fn a_host_that_was_killed_starts_again_with_webhooks_at_another_port() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let listen = format!("127.0.0.1:{}", free_port());
    let url = |k: &Kubectl| {
        let configuration = ["get", "mutatingwebhookconfigurations", "mutation.core.kubefed.io"];
        k.json("host", &configuration).unwrap()["webhooks"][0]["clientConfig"]["url"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut up = Embedded::start_in(&data, &listen, 0);
    let before = url(up.kubectl());
    up.kubectl().ok("host", &["delete", "kubefedconfig", "kubefed", "-n", "kube-federation-system"]);
    // Somebody's own webhook, gone for good, that would refuse everything.
    let blocker = json!({
        "name": "blocker.hooks.test", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}],
    });
    up.kubectl().apply("host", &configuration("Validating", "blocker", &[blocker]).to_string());
    up.process.kill();
    let up = Embedded::start_in(&data, &listen, 0);
    up.kubectl().ok("host", &["delete", "validatingwebhookconfiguration", "blocker"]);
    assert_ne!(url(up.kubectl()), before);
    let made = up.kubectl().field("host", "kube-federation-system", "kubefedconfig/kubefed", ".spec.scope");
    assert_eq!(made.unwrap(), "Cluster");
    let refused = up.kubectl().fails_with("host", &["apply", "-f", "-"], &bad_cluster());
    assert!(refused.contains("spec.apiEndpoint"), "{refused}");
}

fn bad_cluster() -> String {
    json!({"apiVersion": CORE, "kind": "KubeFedCluster", "metadata": {"name": "bad", "namespace": "kube-federation-system"},
        "spec": {"apiEndpoint": "ftp://example.org", "secretRef": {"name": "s"}}})
    .to_string()
}

fn config(name: &str, spec: Value) -> String {
    json!({"apiVersion": CORE, "kind": "KubeFedConfig", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
        .to_string()
}

fn kubefeds_rules(k: &Kubectl, context: &str) {
    let apply = ["apply", "-f", "-"];
    let refused = |manifest: &str, words: &[&str]| {
        eventually("a bad object is refused", || {
            let output = k.run(context, &["apply", "--dry-run=server", "-f", "-"], manifest);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            let all = !output.status.success() && words.iter().all(|word| told.contains(word));
            all.then_some(()).ok_or(told)
        });
    };
    refused(
        &bad_cluster(),
        &[
            "(Forbidden)",
            "admission webhook \"kubefedclusters.core.kubefed.io\" denied the request: spec.apiEndpoint: Unsupported value: \"ftp\"",
        ],
    );
    let type_config = json!({"apiVersion": CORE, "kind": "FederatedTypeConfig",
        "metadata": {"name": "wrong", "namespace": "kube-federation-system"},
        "spec": {
            "targetType": {"version": "v1", "kind": "Thing", "pluralName": "things", "scope": "Namespaced"},
            "propagation": "Enabled",
            "federatedType": {"group": "flat", "version": "v1", "kind": "FederatedThing", "pluralName": "federatedthings",
                "scope": "Namespaced"}}});
    refused(
        &type_config.to_string(),
        &[
            "federatedtypeconfigs.core.kubefed.io",
            "metadata.name: Invalid value: \"wrong\"",
            "spec.federatedType.group",
        ],
    );
    let gate = json!([{"name": "Unheard", "configuration": "Enabled"}]);
    refused(&config("odd", json!({"scope": "Cluster", "featureGates": gate})), &["spec.featureGates.name"]);

    // Everything left open is filled in; removed features and leases are no mistakes.
    let gates = json!([{"name": "FederatedIngress", "configuration": "Enabled"}]);
    let given = config(
        "mine",
        json!({"scope": "Cluster", "featureGates": gates, "leaderElect": {"resourceLock": "leases"}}),
    );
    eventually("a KubeFedConfig gets its defaults", || {
        k.run(context, &apply, &given).status.success().then_some(()).ok_or(())
    });
    for (path, value) in [
        (".spec.clusterHealthCheck.period", "10s"),
        (".spec.leaderElect.leaseDuration", "15s"),
        (".spec.leaderElect.resourceLock", "leases"),
        (
            ".spec.featureGates[*].name",
            "FederatedIngress PushReconciler RawResourceStatusCollection SchedulerPreferences",
        ),
    ] {
        assert_eq!(k.field(context, "default", "kubefedconfig/mine", path).unwrap(), value);
    }
    let patch = |kind: &str, patch: &str| {
        k.fails(context, &["patch", "-n", "default", "kubefedconfig/mine", kind, "-p", patch])
    };
    let changed = patch("--type=merge", r#"{"spec":{"scope":"Namespaced"}}"#);
    assert!(changed.contains("spec.scope"), "{changed}");
    let removed = patch("--type=json", r#"[{"op":"remove","path":"/spec/clusterHealthCheck/period"}]"#);
    assert!(removed.contains("spec.clusterHealthCheck.period: Required value"), "{removed}");
    let status =
        json!({"status": {"observedGeneration": -1, "propagationController": "Running"}}).to_string();
    let args = [
        "patch",
        "-n",
        "kube-federation-system",
        "ftc/secrets",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ];
    assert!(k.fails(context, &args).contains("status.observedGeneration"));
    k.ok(context, &["delete", "-n", "default", "kubefedconfig/mine"]);
}

/// What both API servers answer, word for word, when webhooks deny, change, dawdle and fail.
fn webhooks_in_general(k: &Kubectl, context: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let hooks = runtime.block_on(Hooks::start());
    for (name, labels) in [("watched", json!({"hooks": "yes"})), ("free", json!({}))] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        k.apply(context, &namespace.to_string());
    }
    let hook = |name: &str, path: &str, more: Value| {
        let mut hook = hooks.hook(name, path);
        hook["namespaceSelector"] = json!({"matchLabels": {"hooks": "yes"}});
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        hook
    };
    // What kubectl prints for the creation of a ConfigMap while exactly this webhook is there.
    let create = |namespace: &str| {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "given"}});
        let args = ["create", "--dry-run=server", "-n", namespace, "-f", "-", "-o", "jsonpath={.data.k}"];
        let output = k.run(context, &args, &map.to_string());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        format!(
            "{}|{}",
            text(&output.stdout),
            text(&output.stderr).replace("error when creating \"STDIN\": ", "")
        )
    };
    let failed = "|Error from server (InternalError): Internal error occurred: failed calling webhook";
    let url = &hooks.url;
    let cases = [
        (
            "Validating",
            hook("deny", "/deny", json!({})),
            "|Error from server (Forbidden): admission webhook \"deny.hooks.test\" denied the request: no"
                .to_owned(),
        ),
        (
            "Mutating",
            hook("deny", "/deny", json!({})),
            "|Error from server (Forbidden): admission webhook \"deny.hooks.test\" denied the request: no"
                .to_owned(),
        ),
        ("Mutating", hook("set", "/set/data.k/changed", json!({})), "changed|".to_owned()),
        (
            "Mutating",
            hook("number", "/set/data.k/7", json!({})),
            "|Error from server (InternalError): Internal error occurred".to_owned(),
        ),
        (
            "Validating",
            hook("set", "/set/data.k/changed", json!({})),
            format!(
                "{failed} \"set.hooks.test\": received invalid webhook response: validating webhook may not return response.patch"
            ),
        ),
        (
            "Validating",
            hook("slow", "/hang", json!({"timeoutSeconds": 1})),
            format!(
                "{failed} \"slow.hooks.test\": failed to call webhook: Post \"{url}/hang?timeout=1s\": context deadline exceeded"
            ),
        ),
        (
            "Mutating",
            hook("broken", "/broken", json!({})),
            format!(
                "{failed} \"broken.hooks.test\": failed to call webhook: an error on the server (\"boom\") has prevented the request from succeeding"
            ),
        ),
        (
            "Validating",
            hook("lie", "/lie", json!({})),
            format!("{failed} \"lie.hooks.test\": received invalid webhook response: expected response.uid="),
        ),
        (
            "Validating",
            hook("gone", "/x", json!({"clientConfig": {"url": "https://127.0.0.1:1/x"}})),
            format!(
                "{failed} \"gone.hooks.test\": failed to call webhook: Post \"https://127.0.0.1:1/x?timeout=10s\": dial tcp 127.0.0.1:1: connect: connection refused"
            ),
        ),
        ("Validating", hook("warn", "/warn", json!({})), "given|Warning: mind the gap".to_owned()),
        (
            "Validating",
            hook(
                "when",
                "/deny",
                json!({"matchConditions": [{"name": "x", "expression": "object.data.k == 'given' && request.operation == 'CREATE'"}]}),
            ),
            "|Error from server (Forbidden): admission webhook \"when.hooks.test\" denied the request: no"
                .to_owned(),
        ),
        (
            "Validating",
            hook(
                "unsure",
                "/warn",
                json!({"matchConditions": [{"name": "x", "expression": "object.data.absent == 'given'"}]}),
            ),
            "|Error from server (Forbidden): configmaps \"a\" is forbidden: ".to_owned(),
        ),
    ];
    let name = "generic.hooks.test";
    for (kind, webhook, expected) in cases {
        k.apply(context, &configuration(kind, name, std::slice::from_ref(&webhook)).to_string());
        // A real API server takes a moment to notice.
        eventually(&format!("{kind} {webhook}"), || {
            let told = create("watched");
            told.starts_with(&expected).then_some(()).ok_or(format!("{told:?}, wanted {expected:?}"))
        });
        let outside = create("free");
        assert_eq!(outside, "given|", "a namespace that is not selected");
        k.ok(context, &["delete", &format!("{kind}WebhookConfiguration"), name]);
        eventually("without the webhook all is well", || same(create("watched"), "given|".to_owned()));
    }
    let ignored = hook("broken", "/broken", json!({"failurePolicy": "Ignore"}));
    let denied = hook(
        "deny",
        "/deny",
        json!({"rules": [
        {"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}),
    );
    k.apply(context, &configuration("Validating", name, &[ignored, denied]).to_string());
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept", "namespace": "watched"}});
    k.apply(context, &map.to_string());
    eventually("a deletion is denied", || {
        let output = k.run(context, &["delete", "--dry-run=server", "-n", "watched", "cm", "kept"], "");
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        same(
            told,
            "Error from server (Forbidden): admission webhook \"deny.hooks.test\" denied the request: no"
                .to_owned(),
        )
    });
    k.ok(context, &["delete", "ValidatingWebhookConfiguration", name]);
}
