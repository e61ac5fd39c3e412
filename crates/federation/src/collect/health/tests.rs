use super::*;
use proptest::prelude::*;
use serde_json::json;

fn target(group: &str, kind: &str) -> ApiResource {
    ApiResource {
        group: group.into(),
        version: "v1".into(),
        api_version: "v1".into(),
        kind: kind.into(),
        plural: String::new(),
    }
}

fn judged(group: &str, kind: &str, generation: i64, spec: &Value, status: &Value) -> (Availability, String) {
    let spec = spec.as_object().cloned().unwrap_or_default();
    of(&target(group, kind), Subject { generation, deleting: false, spec: &spec, status })
}

fn condition(kind: &str, status: &str) -> Value {
    json!({"conditions": [{"type": kind, "status": status, "reason": "Because", "message": "of this"}]})
}

#[test]
fn each_kind_is_available_when_its_status_says_so() {
    let rows = [
        (
            "apps",
            "Deployment",
            json!({"replicas": 2}),
            json!({}),
            Progressing,
            "its controller has not reported yet",
        ),
        (
            "apps",
            "Deployment",
            json!({"replicas": 2}),
            json!({"observedGeneration": 1}),
            Progressing,
            "generation 2",
        ),
        (
            "apps",
            "Deployment",
            json!({"replicas": 2}),
            json!({"observedGeneration": 2, "updatedReplicas": 1}),
            Progressing,
            "1 of 2 replicas are updated",
        ),
        (
            "apps",
            "Deployment",
            json!({"replicas": 2}),
            json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2}),
            Progressing,
            "1 old replicas",
        ),
        (
            "apps",
            "Deployment",
            json!({"replicas": 2}),
            json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}),
            Progressing,
            "1 of 2 replicas are available",
        ),
        (
            "apps",
            "Deployment",
            json!({"replicas": 2}),
            json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}),
            Available,
            "",
        ),
        ("apps", "Deployment", json!({"replicas": 0}), json!({"observedGeneration": 2}), Available, ""),
        (
            "apps",
            "Deployment",
            json!({}),
            json!({"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}),
            Failed,
            "ProgressDeadlineExceeded",
        ),
        (
            "apps",
            "ReplicaSet",
            json!({"replicas": 1}),
            json!({"observedGeneration": 2, "availableReplicas": 1}),
            Available,
            "",
        ),
        (
            "apps",
            "ReplicaSet",
            json!({"replicas": 1}),
            condition("ReplicaFailure", "True"),
            Failed,
            "Because: of this",
        ),
        ("", "ReplicationController", json!({}), json!({"observedGeneration": 2}), Progressing, "0 of 1"),
        (
            "apps",
            "StatefulSet",
            json!({"replicas": 2}),
            json!({"observedGeneration": 2, "currentRevision": "a", "updateRevision": "b", "updatedReplicas": 1, "readyReplicas": 2}),
            Progressing,
            "1 of 2 replicas are updated",
        ),
        (
            "apps",
            "StatefulSet",
            json!({"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}}}),
            json!({"observedGeneration": 2, "currentRevision": "a", "updateRevision": "b", "updatedReplicas": 1, "readyReplicas": 2}),
            Available,
            "",
        ),
        (
            "apps",
            "StatefulSet",
            json!({"replicas": 2, "updateStrategy": {"type": "OnDelete"}}),
            json!({"observedGeneration": 2, "currentRevision": "a", "updateRevision": "b", "availableReplicas": 2}),
            Available,
            "",
        ),
        (
            "apps",
            "DaemonSet",
            json!({}),
            json!({"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2}),
            Progressing,
            "2 of 3",
        ),
        ("apps", "DaemonSet", json!({}), json!({"observedGeneration": 2}), Available, ""),
        ("batch", "Job", json!({}), json!({"active": 1}), Progressing, "not complete"),
        ("batch", "Job", json!({"suspend": true}), json!({}), Progressing, "suspended"),
        ("batch", "Job", json!({}), condition("Complete", "True"), Available, ""),
        ("batch", "Job", json!({}), condition("Failed", "True"), Failed, "Because"),
        ("", "Pod", json!({}), json!({"phase": "Pending"}), Progressing, "Pending"),
        (
            "",
            "Pod",
            json!({}),
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False", "reason": "Late"}]}),
            NotReady,
            "Late",
        ),
        (
            "",
            "Pod",
            json!({}),
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
            Available,
            "",
        ),
        ("", "Pod", json!({}), json!({"phase": "Succeeded"}), Available, ""),
        ("", "Pod", json!({}), json!({"phase": "Failed", "reason": "Evicted"}), Failed, "Evicted"),
        ("", "Service", json!({"type": "ClusterIP"}), json!({"loadBalancer": {}}), Available, ""),
        (
            "",
            "Service",
            json!({"type": "LoadBalancer"}),
            json!({"loadBalancer": {}}),
            Progressing,
            "no address",
        ),
        (
            "",
            "Service",
            json!({"type": "LoadBalancer"}),
            json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}),
            Available,
            "",
        ),
        ("", "PersistentVolumeClaim", json!({}), json!({"phase": "Bound"}), Available, ""),
        ("", "PersistentVolumeClaim", json!({}), json!({"phase": "Lost"}), Failed, "lost"),
        (
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            json!({}),
            condition("Established", "True"),
            Available,
            "",
        ),
        (
            "apiregistration.k8s.io",
            "APIService",
            json!({}),
            condition("Available", "False"),
            NotReady,
            "of this",
        ),
        ("", "ConfigMap", json!({}), json!(null), Available, ""),
        ("example.org", "Widget", json!({}), json!(null), Available, ""),
        ("example.org", "Widget", json!({}), condition("Ready", "True"), Available, ""),
        ("example.org", "Widget", json!({}), condition("Ready", "False"), NotReady, "Because: of this"),
        (
            "example.org",
            "Widget",
            json!({}),
            condition("Available", "Unknown"),
            Undecided,
            "Available is Unknown",
        ),
        ("example.org", "Widget", json!({}), condition("Stalled", "True"), Failed, "Stalled"),
        ("example.org", "Widget", json!({}), condition("Reconciling", "True"), Progressing, "Reconciling"),
        (
            "example.org",
            "Widget",
            json!({}),
            json!({"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}),
            Progressing,
            "generation 2",
        ),
    ];
    for (group, kind, spec, status, expected, part) in rows {
        let (found, detail) = judged(group, kind, 2, &spec, &status);
        assert!(found == expected && detail.contains(part), "{kind} {spec} {status}: {found:?} {detail:?}");
        assert_eq!(found == Available, detail.is_empty());
    }
}

#[test]
fn what_is_being_deleted_is_not_available() {
    let (found, _) = of(
        &target("", "ConfigMap"),
        Subject { generation: 0, deleting: true, spec: &Map::new(), status: &Value::Null },
    );
    assert_eq!(found, Terminating);
}

#[test]
fn a_kind_without_workload_costs_no_watch() {
    for (group, kind) in [("", "ConfigMap"), ("", "Namespace"), ("rbac.authorization.k8s.io", "ClusterRole")]
    {
        assert_eq!(source(&target(group, kind)), Source::Propagation);
    }
    assert_eq!(source(&target("example.org", "Deployment")), Source::Conditions);
    assert_eq!(source(&target("gateway.networking.k8s.io", "Gateway")), Source::Conditions);
}

/// `spec/kubefed.md §6 (13)`.
#[test]
fn types_that_never_have_a_status_are_known() {
    let never = ["ConfigMap", "Secret", "ServiceAccount"].map(|kind| ("", kind));
    for (group, kind) in never.into_iter().chain([("rbac.authorization.k8s.io", "ClusterRole")]) {
        assert!(never_has_status(&target(group, kind)), "{kind}");
    }
    for (group, kind) in [
        ("", "Service"),
        ("", "Namespace"),
        ("apps", "Deployment"),
        ("apps", "ReplicaSet"),
        ("batch", "Job"),
        ("networking.k8s.io", "Ingress"),
        ("example.org", "ConfigMap"),
    ] {
        assert!(!never_has_status(&target(group, kind)), "{kind}");
    }
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof!["True", "False", "Ready", "Running", "[a-z]{0,300}"].prop_map(Value::from),
    ];
    let names = prop::sample::select(vec![
        "conditions",
        "type",
        "status",
        "message",
        "replicas",
        "updatedReplicas",
        "availableReplicas",
        "phase",
        "observedGeneration",
        "loadBalancer",
        "ingress",
        "updateStrategy",
        "rollingUpdate",
        "partition",
    ]);
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone(), inner, 0..6).prop_map(|map| map
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #[test]
    fn no_status_is_too_odd_to_be_judged(spec in anything(), status in anything(), kind in 0_usize..11) {
        let kinds = [
            ("apps", "Deployment"), ("apps", "ReplicaSet"), ("apps", "StatefulSet"), ("apps", "DaemonSet"), ("batch", "Job"),
            ("", "Pod"), ("", "Service"), ("", "PersistentVolumeClaim"), ("example.org", "Widget"),
            ("apiextensions.k8s.io", "CustomResourceDefinition"), ("apiregistration.k8s.io", "APIService"),
        ];
        let (_, detail) = judged(kinds[kind].0, kinds[kind].1, 1, &spec, &status);
        prop_assert!(detail.chars().count() <= LONGEST + 1);
    }
}
