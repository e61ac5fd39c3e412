//! What the host says of federated objects, as a user waits for it with kubectl, on embedded clusters and on real ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use serde_json::{Value, json};
use support::{Federation, embedded::Embedded, eventually, real::Real, same};

const MEMBERS: [&str; 2] = ["member1", "member2"];
const NAMESPACE: &str = "waiting";

#[test]
fn on_embedded_clusters() {
    scenario(&Embedded::start());
}

#[test]
fn on_real_clusters() {
    if let Some(federation) = Real::start() {
        scenario(&federation);
    }
}

fn scenario(f: &dyn Federation) {
    let k = f.kubectl();
    let both = json!({"clusters": MEMBERS.map(|member| json!({"name": member}))});
    k.apply(
        "host",
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}).to_string(),
    );
    federate(f, "Namespace", NAMESPACE, json!({}), &both);
    wait(f, "Propagated", &format!("federatednamespace/{NAMESPACE}")).expect("the namespace is there");

    // What has no workload is available as soon as it is there.
    federate(f, "ConfigMap", "settings", json!({"data": {"a": "1"}}), &both);
    eventually("the settings are there", || wait(f, "Available", "federatedconfigmap/settings"));
    for member in MEMBERS {
        k.ok(member, &["get", "-n", NAMESPACE, "cm/settings"]);
    }

    federate(f, "Deployment", "web", deployment("nginx:1.27"), &both);
    eventually("the deployment is there", || wait(f, "Propagated", "federateddeployment/web"));
    until_available(f);
    for member in MEMBERS {
        assert_eq!(k.field(member, NAMESPACE, "deploy/web", ".status.availableReplicas").unwrap(), "2");
    }
    let clusters = k.json("host", &["get", "-n", NAMESPACE, "federateddeployment/web"]).unwrap();
    for cluster in clusters["status"]["clusters"].as_array().unwrap() {
        for condition in cluster["conditions"].as_array().unwrap() {
            assert_eq!(condition["status"], "True", "{cluster}");
            assert!(condition["lastTransitionTime"].is_string(), "{cluster}");
        }
    }

    // After a changed template the conditions are those of the new one: to wait is to have it.
    federate(f, "Deployment", "web", deployment("nginx:1.28"), &both);
    until_available(f);
    for member in MEMBERS {
        let field = |path: &str| k.field(member, NAMESPACE, "deploy/web", path).unwrap();
        assert_eq!(field(".spec.template.spec.containers[0].image"), "nginx:1.28");
        assert_eq!(field(".status.updatedReplicas"), "2");
    }

    // What goes wrong stands in the condition.
    let overrides = r#"{"spec":{"overrides":[{"clusterName":"member2","clusterOverrides":[{"path":"/spec/none/deep","value":1}]}]}}"#;
    k.merge("host", NAMESPACE, "federateddeployment/web", overrides);
    k.ok(
        "host",
        &[
            "wait",
            "-n",
            NAMESPACE,
            "--for=condition=Propagated=False",
            "--timeout=60s",
            "federateddeployment/web",
        ],
    );
    let message = r#".status.conditions[?(@.type=="Propagated")].message"#;
    eventually("it says which cluster", || {
        let message = k.field("host", NAMESPACE, "federateddeployment/web", message)?;
        same(message.starts_with("1 of 2 clusters are not done: member2: ApplyOverridesFailed"), true)
            .map_err(|error| format!("{error}: {message}"))
    });
}

/// Waits as a user does, letting the pods run where nobody else does.
fn until_available(f: &dyn Federation) {
    eventually("it is available", || {
        MEMBERS.iter().for_each(|member| f.run_pods(member, NAMESPACE));
        wait(f, "Available", "federateddeployment/web")
    });
}

fn wait(f: &dyn Federation, condition: &str, object: &str) -> Result<String, String> {
    let condition = format!("--for=condition={condition}");
    f.kubectl().try_run("host", &["wait", "-n", NAMESPACE, &condition, "--timeout=10s", object])
}

fn federate(f: &dyn Federation, kind: &str, name: &str, template: Value, placement: &Value) {
    let object = json!({
        "apiVersion": "types.kubefed.io/v1beta1", "kind": format!("Federated{kind}"),
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"template": template, "placement": placement},
    });
    f.kubectl().apply("host", &object.to_string());
}

fn deployment(image: &str) -> Value {
    let labels = json!({"app": "web"});
    let containers = json!([{"name": "web", "image": image}]);
    let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": containers}});
    json!({"spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": pod}})
}
