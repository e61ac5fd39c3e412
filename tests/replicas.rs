//! Replicas that follow a ReplicaSchedulingPreference, as a user sees it with kubectl, on embedded clusters and on real ones
//! (`spec/kubefed.md §2.10`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use serde_json::json;
use support::{Federation, embedded::Embedded, eventually, real::Real, same};

const MEMBERS: [&str; 2] = ["member1", "member2"];
const NAMESPACE: &str = "division";

#[test]
fn on_embedded_clusters() {
    let federation = Embedded::start();
    replicas_follow_the_preference(&federation);
}

#[test]
fn on_real_clusters() {
    if let Some(federation) = Real::start() {
        replicas_follow_the_preference(&federation);
        what_has_no_room_runs_elsewhere(&federation);
    }
}

/// Waits until each member's own Deployment has so many replicas, all of them ready.
fn run(f: &dyn Federation, numbers: [u32; 2]) {
    for (member, number) in MEMBERS.into_iter().zip(numbers) {
        let field = |path: &str| f.kubectl().field(member, NAMESPACE, "deploy/web", path);
        eventually("the member is told its share", || same(field(".spec.replicas")?, number.to_string()));
        eventually("its share runs", || {
            f.run_pods(member, NAMESPACE);
            same(
                field(".status.readyReplicas")?,
                if number == 0 { String::new() } else { number.to_string() },
            )
        });
    }
}

fn prefer(f: &dyn Federation, spec: serde_json::Value) {
    f.kubectl().merge(
        "host",
        NAMESPACE,
        "replicaschedulingpreference/web",
        &json!({ "spec": spec }).to_string(),
    );
}

fn replicas_follow_the_preference(f: &dyn Federation) {
    let clusters: Vec<_> = MEMBERS.iter().map(|name| json!({ "name": name })).collect();
    let named = |name: &str| json!({"name": name, "namespace": NAMESPACE});
    let labels = json!({"app": "web"});
    let template = json!({"spec": {
        "replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "nginx:1.27-alpine"}]}},
    }});
    for object in [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        json!({
            "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedNamespace", "metadata": named(NAMESPACE),
            "spec": {"placement": {"clusters": clusters}},
        }),
        json!({
            "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedDeployment", "metadata": named("web"),
            "spec": {"template": template, "placement": {"clusters": []}},
        }),
        json!({
            "apiVersion": "scheduling.kubefed.io/v1alpha1", "kind": "ReplicaSchedulingPreference", "metadata": named("web"),
            "spec": {
                "targetKind": "FederatedDeployment", "totalReplicas": 6,
                "clusters": {"member1": {"weight": 1}, "member2": {"weight": 2}},
            },
        }),
    ] {
        f.kubectl().apply("host", &object.to_string());
    }
    run(f, [2, 4]);
    eventually("the user is told", || {
        let events = f.kubectl().try_run("host", &["get", "events", "-n", NAMESPACE])?;
        same(events.contains("ReplicasScheduled"), true)
    });
    // Equal weights move nothing that runs; growth goes to who has less, and both give up their part.
    prefer(f, json!({"totalReplicas": 10, "clusters": {"member1": {"weight": 1}, "member2": {"weight": 1}}}));
    run(f, [5, 5]);
    prefer(f, json!({"totalReplicas": 4}));
    run(f, [2, 2]);
}

/// No scheduler runs beside the real API servers, so that what it would say is said for it.
fn what_has_no_room_runs_elsewhere(f: &dyn Federation) {
    prefer(f, json!({"totalReplicas": 8}));
    for member in MEMBERS {
        let replicas = || f.kubectl().field(member, NAMESPACE, "deploy/web", ".spec.replicas");
        eventually("the member is told its share", || same(replicas()?, "4".to_owned()));
    }
    let member1 = f.direct("member1");
    let pending = || {
        let pods = member1.json("", &["get", "pods", "-n", NAMESPACE])?;
        let pods = pods["items"].as_array().unwrap().clone();
        let names = pods.iter().filter(|pod| pod["status"]["phase"] == "Pending");
        let names: Vec<String> =
            names.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        same(names.len(), 2).map(|()| names)
    };
    let status = json!({"status": {"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]}});
    for pod in eventually("the new Pods wait", pending) {
        let status = status.to_string();
        let patch =
            ["patch", "pod", &pod, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", &status];
        member1.ok("", &patch);
    }
    // member2 comes up meanwhile, and takes over what member1 has no room for.
    eventually("member2 runs the rest", || {
        f.run_pods("member2", NAMESPACE);
        let of = |member| f.kubectl().field(member, NAMESPACE, "deploy/web", ".spec.replicas");
        same((of("member1")?, of("member2")?), ("2".to_owned(), "6".to_owned()))
    });
}
