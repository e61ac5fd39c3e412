//! The contract, `spec/kubefed.md`: which test shows which row of it, and a few rows that nothing else shows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::{Value, json};
use support::{World, federated, on};

mod support;

/// Every row: the numbered traps of §0 and §6, the objects, fields, steps and commands of §1 to §3.
fn rows() -> BTreeSet<String> {
    let numbered = |section: &str, numbers: std::ops::RangeInclusive<u32>| {
        numbers.map(|number| format!("{section}.{number}")).collect::<Vec<_>>()
    };
    let named = |section: &str, names: &str| {
        names.split(' ').map(|name| format!("{section} {name}")).collect::<Vec<_>>()
    };
    let parts = [
        numbered("0", 1..=14),
        numbered("0", 16..=20), // There is no 15.
        named(
            "1",
            "KubeFedCluster KubeFedConfig FederatedTypeConfig PropagatedVersion ClusterPropagatedVersion \
             FederatedServiceStatus ReplicaSchedulingPreference Federated removed",
        ),
        named("1.1", "spec status columns validation status-validation"),
        named(
            "1.2",
            "scope availableDelay unavailableDelay cacheSyncTimeout leaseDuration renewDeadline retryPeriod resourceLock \
             featureGates period timeout failureThreshold successThreshold syncController.maxConcurrentReconciles \
             syncController.adoptResources statusController.maxConcurrentReconciles defaulting read-once created",
        ),
        named("1.3", "name spec status plurals validation default-types short-names"),
        named("1.4", "status names owner version"),
        named("1.5", "entries"),
        named("1.6", "spec unvalidated"),
        named("1.7", "schema retainReplicas status finalizer annotations label"),
        named("1.8", "conditions words retried recreate"),
        named("1.9", "paths objects rejections"),
        named("2", "flags programs"),
        numbered("2.1", 1..=4),
        named("2.2", "period malformed unreachable not-ok ok conditions tls token events"),
        named("2.3", "start stop refresh namespaces namespaced deletion"),
        named(
            "2.4",
            "federated-object host-namespace federated-namespace member-object cluster results caches stray names",
        ),
        named(
            "2.5",
            "listed selector gate namespaced template overrides retained versions record vectors floats",
        ),
        named("2.6", "not-ready unselected create adopt update events status"),
        numbered("2.7", 1..=5),
        named("2.8", "raw service"),
        named("2.9", "host elsewhere"),
        named("2.10", "manager intersect capacity a b c d e writing"),
        named("3", "join join-namespaced unjoin enable disable federate contents orphaning-deletion version"),
        numbered("6", 1..=32),
    ];
    parts.into_iter().flatten().collect()
}

/// Whether a file has a test of this name, or a part of a test that the others call, or that the suite in its folder does.
fn has(sources: &mut BTreeMap<String, String>, root: &Path, file: &str, name: &str) -> bool {
    let source = sources
        .entry(file.to_owned())
        .or_insert_with(|| fs::read_to_string(root.join(file)).unwrap_or_default());
    let Some((before, after)) = source.split_once(&format!("fn {name}(")) else { return false };
    let mut attributes = before[..before.rfind('\n').unwrap_or_default()]
        .lines()
        .rev()
        .take_while(|line| line.trim_start().starts_with(['#', '/']));
    let is_called = attributes.any(|line| line.contains("test]") || line.contains("::test("))
        || before.contains(name)
        || after.contains(&format!("{name}("));
    is_called || {
        let suite = root.join(file).with_file_name("main.rs");
        fs::read_to_string(suite).is_ok_and(|suite| suite.contains(&format!("::{name},")))
    }
}

#[test]
fn every_row_of_the_contract_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = fs::read_to_string(root.join("tests/kubefed-contract.tsv")).unwrap();
    let (mut seen, mut sources, mut wrong) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [row, says, tests] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("a line is a row, what it says, and tests: {line:?}");
        };
        if !seen.insert(row.to_owned()) || says.is_empty() {
            wrong.push(format!("{row} stands there twice, or says nothing"));
        }
        for test in tests.split(' ') {
            let (file, name) = test.split_once("::").unwrap_or_default();
            if !has(&mut sources, &root, file, name) {
                wrong.push(format!("{row}: there is no test {test}"));
            }
        }
    }
    let rows = rows();
    wrong.extend(rows.difference(&seen).map(|row| format!("{row} has no test")));
    wrong.extend(seen.difference(&rows).map(|row| format!("{row} is no row")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const TYPES: &str = "/apis/types.kubefed.io/v1beta1/namespaces/shop";

/// `spec/kubefed.md §0 (7)`: a member's namespace is made from the template of the FederatedNamespace, and what the host's namespace
/// is labelled with is no part of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_made_from_the_template_and_not_from_the_hosts_namespace() {
    let mut world = World::start(1).await;
    world
        .host
        .create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"host": "only"}}}))
        .await;
    let template = json!({"metadata": {"labels": {"team": "shop"}}});
    world
        .host
        .create(&federated(
            "Namespace",
            "shop",
            "shop",
            json!({"template": template, "placement": on(&["m1"])}),
        ))
        .await;
    let copy = world.member("m1").until("/api/v1/namespaces/shop", |_| true).await;
    let labels = &copy["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels["host"]), (&json!("shop"), &json!(null)), "{labels}");
    world.stop().await;
}

/// `spec/kubefed.md §2.2`: a member whose configuration is malformed, and one that does not answer, are told of as events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trouble_of_a_cluster_is_told_as_an_event() {
    let mut world = World::start(1).await;
    let cluster = json!({
        "apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedCluster",
        "metadata": {"name": "broken", "namespace": "kube-federation-system"},
        "spec": {"apiEndpoint": "https://broken.test", "secretRef": {"name": "nothing"}},
    });
    world.host.create(&cluster).await;
    world.member("m1").door.cut();
    let is_told = |events: &Value, name: &str, reason: &str| {
        events["items"].as_array().into_iter().flatten().any(|event| {
            event["involvedObject"]["name"] == name
                && event["reason"] == reason
                && event["source"]["component"] == "kubefedcluster-controller"
        })
    };
    let events = "/api/v1/namespaces/kube-federation-system/events";
    let both = |events: &Value| {
        is_told(events, "broken", "MalformedClusterConfig")
            && is_told(events, "m1", "RetrievingClusterHealthFailed")
    };
    world.host.until(events, both).await;
    world.stop().await;
}

/// `spec/kubefed.md §6 (7)`: KubeFed let go of what was in a namespace when its FederatedNamespace went first, and left the copies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_a_namespace_is_cleaned_up_though_its_federated_namespace_went_first() {
    let mut world = World::start(2).await;
    world.namespace("shop").await;
    let spec = json!({"template": {"data": {"a": "b"}}, "placement": on(&["m1", "m2"])});
    world.host.create(&federated("ConfigMap", "shop", "conf", spec)).await;
    let path = format!("{TYPES}/federatedconfigmaps/conf");
    world.propagated(&path).await;
    // The members keep their namespaces, so that nothing but the control plane can take the copies away.
    let namespace = format!("{TYPES}/federatednamespaces/shop");
    world.host.patch(&namespace, json!({"metadata": {"annotations": {"kubefed.io/orphan": "true"}}})).await;
    world.host.delete(&namespace).await;
    world.host.until_gone(&namespace).await;
    world.host.delete(&path).await;
    world.host.until_gone(&path).await;
    for member in world.members.values() {
        assert_eq!(member.get("/api/v1/namespaces/shop/configmaps/conf").await, None);
    }
    world.stop().await;
}

/// `spec/kubefed.md §6 (15)`: the name of a PropagatedVersion lacks the group. Where it is another object's, one with the group is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_whose_name_is_taken_is_kept_under_a_name_with_the_group() {
    let mut world = World::start(1).await;
    world.namespace("shop").await;
    let records = "/apis/core.kubefed.io/v1alpha1/namespaces/shop/propagatedversions";
    let owner = json!([{"apiVersion": "example.org/v1", "kind": "FederatedConfigMap", "name": "conf", "uid": "another"}]);
    for name in ["configmap-conf", "deployment-web"] {
        world
            .host
            .create(&json!({"apiVersion": "core.kubefed.io/v1alpha1", "kind": "PropagatedVersion",
                "metadata": {"namespace": "shop", "name": name, "ownerReferences": owner}}))
            .await;
    }
    let pod =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": pod}});
    for (kind, name, template, record) in [
        ("ConfigMap", "conf", json!({"data": {"a": "b"}}), "configmap.core-conf"),
        ("Deployment", "web", deployment, "deployment.apps-web"),
    ] {
        world
            .host
            .create(&federated(kind, "shop", name, json!({"template": template, "placement": on(&["m1"])})))
            .await;
        let kept = world
            .host
            .until(&format!("{records}/{record}"), |record| {
                record["status"]["clusterVersions"][0]["clusterName"] == "m1"
            })
            .await;
        assert_eq!(kept["metadata"]["ownerReferences"][0]["kind"], format!("Federated{kind}"));
    }
    world.stop().await;
}

const SYSTEM: &str = "/apis/core.kubefed.io/v1beta1/namespaces/kube-federation-system";

/// `spec/kubefed.md §2.3`: a type has a finalizer while it runs, and goes when it has stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_type_stops_and_is_let_go() {
    let mut world = World::start(1).await;
    let secrets = format!("{SYSTEM}/federatedtypeconfigs/secrets");
    let running =
        world.host.until(&secrets, |config| config["status"]["propagationController"] == "Running").await;
    assert_eq!(running["metadata"]["finalizers"], json!(["core.kubefed.io/federated-type-config"]));
    world.host.delete(&secrets).await;
    world.host.until_gone(&secrets).await;
    world.stop().await;
}

/// `spec/kubefed.md §1.1`: what is printed of a KubeFedCluster.
#[test]
fn a_kubefed_cluster_has_kubefeds_columns() {
    let crds = hansa_api::crds();
    let crd = crds.iter().find(|crd| crd["metadata"]["name"] == "kubefedclusters.core.kubefed.io").unwrap();
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
    let paths: BTreeMap<_, _> =
        columns.iter().map(|c| (c["name"].as_str().unwrap(), c["jsonPath"].as_str().unwrap())).collect();
    assert_eq!(paths["age"], ".metadata.creationTimestamp");
    assert!(paths["ready"].contains("Ready") && paths["ready"].ends_with(".status"), "{paths:?}");
    assert_eq!(paths["kubernetes-version"], ".status.kubernetesVersion");
}
