//! What becomes of workloads in a sandbox.
#![allow(clippy::unwrap_used)] // test code

mod support;

use serde_json::{Value, json};
use support::*;

fn names(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_deployment_becomes_available_and_can_be_scaled() {
    let cluster = Cluster::start().await;
    cluster.create("deployments.apps", deployment("web", 3, "nginx:1")).await;
    let done = cluster.when("deployments.apps", "web", is_rolled_out).await;
    assert_eq!(condition(&done, "Progressing").as_deref(), Some("True"));
    assert_eq!(done["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");

    let pods = cluster.list("pods", "app=web");
    let mut ips: Vec<_> = pods.iter().map(|pod| pod["status"]["podIP"].as_str().unwrap()).collect();
    ips.sort_unstable();
    ips.dedup();
    assert_eq!(ips.len(), 3, "each Pod has an address of its own");
    let sets = cluster.list("replicasets.apps", "");
    assert_eq!(pods[0]["metadata"]["ownerReferences"][0]["uid"], sets[0]["metadata"]["uid"]);
    let mut nodes: Vec<_> = pods.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["node-1", "node-2", "node-3"], "they are spread");

    cluster.patch("deployments.apps", "web", json!({"spec": {"replicas": 5}})).await;
    cluster.when("deployments.apps", "web", is_rolled_out).await;
    assert_eq!(cluster.list("pods", "app=web").len(), 5);
    cluster.patch("deployments.apps", "web", json!({"spec": {"replicas": 1}})).await;
    cluster.when("deployments.apps", "web", is_rolled_out).await;
    cluster.until("pods", "app=web", |pods| pods.len() == 1).await;
    assert_eq!(cluster.list("replicasets.apps", "").len(), 1);
}

#[tokio::test]
async fn a_rolling_update_keeps_enough_available_and_can_be_undone() {
    let cluster = Cluster::start().await;
    let mut web = deployment("web", 4, "nginx:1");
    web["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}});
    cluster.create("deployments.apps", web).await;
    let first = cluster.when("deployments.apps", "web", is_rolled_out).await;

    let local = cluster.local.clone();
    let watched = tokio::spawn(async move {
        let select = hansa_embedded::local::Select::default();
        let revision = local.list("deployments.apps", NAMESPACE, &select).unwrap().revision;
        let mut changes = local.watch("deployments.apps", NAMESPACE, &select, revision).unwrap();
        let mut least = i64::MAX;
        loop {
            let change = changes.next().await.unwrap();
            let deployment: Value = serde_json::from_slice(&change.entry().object).unwrap();
            least = least.min(deployment["status"]["availableReplicas"].as_i64().unwrap_or_default());
            if is_rolled_out(&deployment) {
                return least;
            }
        }
    });
    cluster.patch("deployments.apps", "web", json!({"spec": {"template": template("nginx:2")}})).await;
    let second = cluster.when("deployments.apps", "web", is_rolled_out).await;
    assert!(watched.await.unwrap() >= 3);
    assert_eq!(second["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    let pods = cluster.until("pods", "app=web", |pods| pods.len() == 4).await;
    assert!(pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "nginx:2"));

    let back = json!({"spec": {"template": first["spec"]["template"]}});
    cluster.patch("deployments.apps", "web", back).await;
    let third = cluster.when("deployments.apps", "web", is_rolled_out).await;
    assert_eq!(third["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(cluster.list("replicasets.apps", "").len(), 2, "the first ReplicaSet serves again");
}

#[tokio::test]
async fn recreate_stops_all_before_it_starts_any() {
    let cluster = Cluster::start().await;
    let mut web = deployment("web", 2, "nginx:1");
    web["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create("deployments.apps", web).await;
    cluster.when("deployments.apps", "web", is_rolled_out).await;
    cluster.patch("deployments.apps", "web", json!({"spec": {"template": template("nginx:2")}})).await;
    cluster
        .until("pods", "app=web", |pods| {
            let images: std::collections::BTreeSet<_> =
                pods.iter().map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap()).collect();
            assert!(images.len() <= 1, "{images:?}");
            pods.len() == 2 && images.contains("nginx:2") && pods.iter().all(is_running)
        })
        .await;
}

#[tokio::test]
async fn what_is_deleted_on_the_way_is_replaced_and_deletion_takes_all_along() {
    let cluster = Cluster::start().await;
    cluster.create("deployments.apps", deployment("web", 2, "nginx:1")).await;
    cluster.when("deployments.apps", "web", is_rolled_out).await;
    let pods = cluster.list("pods", "app=web");
    let gone = names(&pods)[0].to_owned();
    cluster.delete("pods", &gone).await;
    cluster
        .until("pods", "app=web", |pods| {
            pods.len() == 2 && pods.iter().all(is_running) && !names(pods).contains(&&*gone)
        })
        .await;
    let set = names(&cluster.list("replicasets.apps", ""))[0].to_owned();
    cluster.delete("replicasets.apps", &set).await;
    cluster
        .until("replicasets.apps", "", |sets| sets.len() == 1 && sets[0]["status"]["readyReplicas"] == 2)
        .await;

    cluster.delete("deployments.apps", "web").await;
    cluster.until("replicasets.apps", "", <[Value]>::is_empty).await;
    cluster.until("pods", "app=web", <[Value]>::is_empty).await;
}

#[tokio::test]
async fn what_cannot_run_says_why() {
    let small = hansa_sandbox::Options { cpu: "2".to_owned(), ..options() };
    let cluster = Cluster::with(small).await;
    let mut big = deployment("big", 4, "nginx:1");
    big["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1500m"}});
    cluster.create("deployments.apps", big).await;
    let waits = |pod: &&Value| condition(pod, "PodScheduled").as_deref() == Some("False");
    let runs = |pods: &[Value]| pods.iter().filter(|pod| is_running(pod)).count();
    let pods =
        cluster.until("pods", "app=web", |pods| pods.iter().any(|pod| waits(&pod)) && runs(pods) == 3).await;
    let waiting = pods.iter().find(waits).unwrap();
    assert_eq!(waiting["status"]["conditions"][0]["reason"], "Unschedulable");
    assert_eq!(waiting["status"]["conditions"][0]["message"], "0/3 nodes are available: 3 Insufficient cpu.");

    // Room makes it run.
    let running = pods.iter().find(|pod| is_running(pod)).unwrap();
    let set = names(&cluster.list("replicasets.apps", ""))[0].to_owned();
    assert!(running["metadata"]["name"].as_str().unwrap().starts_with(&set));
    cluster.patch("deployments.apps", "big", json!({"spec": {"replicas": 3}})).await;
    cluster.when("deployments.apps", "big", is_rolled_out).await;

    cluster
        .create(
            "pods",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "odd"}, "spec": {
                "containers": [{"name": "odd", "image": "NOT AN IMAGE"}],
            }}),
        )
        .await;
    cluster
        .when("pods", "odd", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "InvalidImageName"
        })
        .await;
}

#[tokio::test]
async fn a_stateful_set_comes_in_order_with_claims_and_updates_from_the_top() {
    let cluster = Cluster::start().await;
    cluster.create("statefulsets.apps", json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {
            "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "web"}}, "template": template("db:1"),
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            }}],
        },
    })).await;
    let ready = |count: i64| {
        move |set: &Value| {
            let status = &set["status"];
            status["readyReplicas"] == count
                && status["updatedReplicas"] == count
                && status["observedGeneration"] == set["metadata"]["generation"]
                && status["currentRevision"] == status["updateRevision"]
        }
    };
    cluster.when("statefulsets.apps", "db", ready(2)).await;
    assert_eq!(names(&cluster.list("pods", "app=web")), ["db-0", "db-1"]);
    let claims = cluster.list("persistentvolumeclaims", "");
    assert_eq!(names(&claims), ["data-db-0", "data-db-1"]);
    assert!(claims.iter().all(|claim| claim["status"]["phase"] == "Bound"));
    let volume = claims[0]["spec"]["volumeName"].as_str().unwrap();
    assert_eq!(cluster.local.get("persistentvolumes", "", volume).unwrap()["status"]["phase"], "Bound");

    cluster.patch("statefulsets.apps", "db", json!({"spec": {"template": template("db:2")}})).await;
    cluster.when("statefulsets.apps", "db", ready(2)).await;
    let pods = cluster.list("pods", "app=web");
    assert!(pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "db:2"));
    assert_eq!(cluster.list("controllerrevisions.apps", "").len(), 2);
    cluster.patch("statefulsets.apps", "db", json!({"spec": {"replicas": 1}})).await;
    cluster.until("pods", "app=web", |pods| names(pods) == ["db-0"]).await;
    assert_eq!(cluster.list("persistentvolumeclaims", "").len(), 2, "claims stay");
}

#[tokio::test]
async fn a_daemon_set_runs_on_every_node_that_takes_it() {
    let cluster = Cluster::start().await;
    cluster
        .create(
            "daemonsets.apps",
            json!({
                "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
                "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template("agent:1")},
            }),
        )
        .await;
    let all = |count: i64| {
        move |set: &Value| {
            let status = &set["status"];
            status["desiredNumberScheduled"] == count
                && status["numberAvailable"] == count
                && status["updatedNumberScheduled"] == count
        }
    };
    cluster.when("daemonsets.apps", "agent", all(3)).await;
    cluster.patch("daemonsets.apps", "agent", json!({"spec": {"template": template("agent:2")}})).await;
    cluster
        .when("daemonsets.apps", "agent", |set| {
            all(3)(set) && set["status"]["observedGeneration"] == set["metadata"]["generation"]
        })
        .await;
    let selected =
        json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-2"}}}}});
    cluster.patch("daemonsets.apps", "agent", selected).await;
    cluster
        .until("pods", "app=web", |pods| {
            pods.len() == 1 && pods[0]["spec"]["nodeName"] == "node-2" && is_running(&pods[0])
        })
        .await;
}

#[tokio::test]
async fn jobs_complete_or_fail_and_go_when_their_time_is_up() {
    let cluster = Cluster::start().await;
    let job = |name: &str, command: Value, spec: Value| {
        let mut job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox", "command": command}]}}},
        });
        job["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        job
    };
    cluster
        .create("jobs.batch", job("good", json!(["run"]), json!({"completions": 3, "parallelism": 2})))
        .await;
    let done =
        cluster.when("jobs.batch", "good", |job| condition(job, "Complete").as_deref() == Some("True")).await;
    assert_eq!(done["status"]["succeeded"], 3);
    assert_eq!(cluster.list("pods", "job-name=good").len(), 3);

    cluster.create("jobs.batch", job("bad", json!(["false"]), json!({"backoffLimit": 0}))).await;
    cluster.when("jobs.batch", "bad", |job| condition(job, "Failed").as_deref() == Some("True")).await;

    cluster.create("jobs.batch", job("brief", json!(["true"]), json!({"ttlSecondsAfterFinished": 0}))).await;
    cluster.until("jobs.batch", "", |jobs| !names(jobs).contains(&"brief")).await;
    cluster.until("pods", "job-name=brief", <[Value]>::is_empty).await;
}

#[tokio::test]
async fn the_endpoints_of_a_service_follow_its_pods() {
    let cluster = Cluster::start().await;
    cluster.create("services", json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
    })).await;
    cluster.create("deployments.apps", deployment("web", 2, "nginx:1")).await;
    let addresses = |endpoints: &Value| endpoints["subsets"][0]["addresses"].as_array().map_or(0, Vec::len);
    let endpoints = cluster.when("endpoints", "web", |endpoints| addresses(endpoints) == 2).await;
    assert_eq!(endpoints["subsets"][0]["ports"][0]["port"], 8080);
    let ready = |count: usize| {
        move |slices: &[Value]| {
            slices.len() == 1
                && slices[0]["endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == count)
        }
    };
    let slices =
        cluster.until("endpointslices.discovery.k8s.io", "kubernetes.io/service-name=web", ready(2)).await;
    assert_eq!(slices[0]["endpoints"][0]["conditions"]["ready"], true);
    cluster.when("services", "web", |service| !service["status"]["loadBalancer"]["ingress"].is_null()).await;

    cluster.patch("deployments.apps", "web", json!({"spec": {"replicas": 0}})).await;
    cluster.when("endpoints", "web", |endpoints| addresses(endpoints) == 0).await;
    cluster
        .until("endpointslices.discovery.k8s.io", "kubernetes.io/service-name=web", |slices| {
            slices.len() == 1 && slices[0]["endpoints"].as_array().is_none_or(Vec::is_empty)
        })
        .await;
    cluster.delete("services", "web").await;
    cluster
        .until("endpointslices.discovery.k8s.io", "kubernetes.io/service-name=web", <[Value]>::is_empty)
        .await;
    cluster.until("endpoints", "", |endpoints| !names(endpoints).contains(&"web")).await;
}

#[tokio::test]
async fn a_restart_goes_on_and_writes_nothing_that_is_right() {
    let cluster = Cluster::start().await;
    cluster
        .create(
            "services",
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
            }),
        )
        .await;
    cluster.create("deployments.apps", deployment("web", 3, "nginx:1")).await;
    cluster.when("deployments.apps", "web", is_rolled_out).await;
    cluster
        .until("endpoints", "", |endpoints| {
            endpoints
                .iter()
                .any(|e| e["subsets"][0]["addresses"].as_array().is_some_and(|list| list.len() == 3))
        })
        .await;
    let all = [
        "nodes",
        "pods",
        "replicasets.apps",
        "deployments.apps",
        "endpoints",
        "endpointslices.discovery.k8s.io",
    ];
    let versions = |cluster: &Cluster| -> Vec<String> {
        let objects = all.iter().flat_map(|resource| {
            cluster.local.list(resource, "", &hansa_embedded::local::Select::default()).unwrap().items
        });
        objects
            .map(|object| format!("{} {}", object["metadata"]["name"], object["metadata"]["resourceVersion"]))
            .collect()
    };
    let server = cluster.stop().await;
    let cluster = Cluster::on(server, options());
    let before = versions(&cluster);
    // Something new is worked on after all that was there.
    cluster
        .create(
            "pods",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "new"}, "spec": {
                "containers": [{"name": "c", "image": "nginx"}],
            }}),
        )
        .await;
    cluster.when("pods", "new", is_running).await;
    cluster.local.delete("pods", NAMESPACE, "new", &hansa_embedded::DeleteOptions::default()).await.unwrap();
    cluster.until("pods", "", |pods| !names(pods).contains(&"new")).await;
    assert_eq!(versions(&cluster), before);
}
