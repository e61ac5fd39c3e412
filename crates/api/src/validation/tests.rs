//! Every rule of `spec/kubefed.md §1.1–1.3`, as tables.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn paths(causes: &[Cause]) -> Vec<String> {
    causes
        .iter()
        .map(|cause| format!("{} {}", cause.reason.trim_start_matches("FieldValue"), cause.field))
        .collect()
}

/// `object` with the value at `pointer` replaced, or removed where it is null.
fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Value::Null => drop(parent.remove(last)),
        value => drop(parent.insert(last.to_owned(), value)),
    }
    object
}

fn good_cluster() -> Value {
    json!({"metadata": {"name": "m1"}, "spec": {"apiEndpoint": "https://10.0.0.1:6443", "secretRef": {"name": "m1-secret"}},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": "2026-01-01T00:00:00Z"}]}})
}

#[test]
fn a_kubefed_cluster_is_judged_by_every_rule() {
    let good = good_cluster();
    assert_eq!(paths(&cluster(&good)), [""; 0]);
    for (pointer, value, expected) in [
        ("/spec/apiEndpoint", json!(null), "Required spec.apiEndpoint"),
        ("/spec/apiEndpoint", json!(""), "Required spec.apiEndpoint"),
        ("/spec/apiEndpoint", json!("ftp://a.b"), "NotSupported spec.apiEndpoint"),
        ("/spec/apiEndpoint", json!("https://a.b:0"), "Invalid spec.apiEndpoint"),
        ("/spec/apiEndpoint", json!("https://a.b:65536"), "Invalid spec.apiEndpoint"),
        ("/spec/apiEndpoint", json!("https://a.b:x"), "Invalid spec.apiEndpoint"),
        ("/spec/apiEndpoint", json!("a.b/path"), "Invalid spec.apiEndpoint"),
        ("/spec/apiEndpoint", json!("https://a b"), "Invalid spec.apiEndpoint"),
        ("/spec/secretRef", json!(null), "Required spec.secretRef.name"),
        ("/spec/secretRef/name", json!(""), "Required spec.secretRef.name"),
        ("/spec/secretRef/name", json!("A_b"), "Invalid spec.secretRef.name"),
        ("/spec/disabledTLSValidations", json!(["Nothing"]), "NotSupported spec.disabledTLSValidations"),
        ("/spec/disabledTLSValidations", json!(["*", "SubjectName"]), "Invalid spec.disabledTLSValidations"),
        ("/spec/proxyURL", json!("ftp://proxy"), "Invalid spec.proxyURL"),
        ("/spec/proxyURL", json!("proxy:3128"), "Invalid spec.proxyURL"),
        ("/spec/proxyURL", json!("http://proxy:x"), "Invalid spec.proxyURL"),
    ] {
        assert_eq!(paths(&cluster(&with(&good, pointer, value.clone()))), [expected], "{pointer} {value}");
    }
}

#[test]
fn what_kubefed_accepts_of_a_cluster_is_accepted() {
    let good = good_cluster();
    for (pointer, value) in [
        ("/spec/apiEndpoint", json!("member.example.com")),
        ("/spec/apiEndpoint", json!("member.example.com:6443")),
        ("/spec/apiEndpoint", json!("10.0.0.1:6443")),
        ("/spec/apiEndpoint", json!("[fd00::1]:6443")),
        ("/spec/apiEndpoint", json!("http://10.0.0.1")),
        ("/spec/apiEndpoint", json!("https://host/clusters/m1")),
        ("/spec/disabledTLSValidations", json!(["*"])),
        ("/spec/disabledTLSValidations", json!(["SubjectName", "ValidityPeriod"])),
        ("/spec/disabledTLSValidations", json!([])),
        ("/spec/proxyURL", json!("")),
        ("/spec/proxyURL", json!("socks5://proxy:1080")),
        ("/spec/proxyURL", json!("http://user:word@proxy:3128")),
        ("/spec/caBundle", json!("UEVN")),
        ("/spec/unknown", json!({"a": 1})),
    ] {
        let object = with(&good, pointer, value.clone());
        assert_eq!(cluster_shape(&object), Ok(()));
        assert_eq!(paths(&cluster(&object)), [""; 0], "{pointer} {value}");
    }
}

#[test]
fn the_status_of_a_kubefed_cluster_is_judged_by_every_rule() {
    let good = good_cluster();
    assert_eq!(paths(&cluster_status(&good)), [""; 0]);
    assert_eq!(paths(&cluster_status(&json!({}))), [""; 0]);
    for (field, value, expected) in [
        ("type", json!("Odd"), "NotSupported status.conditions[0].type"),
        ("type", json!(null), "Required status.conditions[0].type"),
        ("status", json!("true"), "NotSupported status.conditions[0].status"),
        ("lastProbeTime", json!(null), "Required status.conditions[0].lastProbeTime"),
        ("lastProbeTime", json!("0001-01-01T00:00:00Z"), "Required status.conditions[0].lastProbeTime"),
    ] {
        let mut object = good.clone();
        object["status"]["conditions"][0][field] = value;
        assert_eq!(paths(&cluster_status(&object)), [expected]);
    }
}

fn good_config() -> Value {
    let mut object = json!({"metadata": {"name": "kubefed"}, "spec": {"scope": "Cluster"}});
    object["spec"] = defaulted(&object).unwrap();
    object
}

#[test]
fn a_config_with_a_scope_and_the_defaults_is_good() {
    let good = good_config();
    assert_eq!(config_shape(&good), Ok(()));
    assert_eq!(paths(&config(&good, None)), [""; 0]);
    assert_eq!(paths(&config(&good, Some(&good))), [""; 0]);
    assert_eq!(defaulted(&good), None, "nothing is left to fill in");
    let written: crate::kubefed::KubeFedConfigSpec = serde_json::from_value(good["spec"].clone()).unwrap();
    assert_eq!(written.defaulted(), written, "the table of defaults is the one that is in force");
}

#[test]
fn a_kubefed_config_is_judged_by_every_rule() {
    let good = good_config();
    let optional = [
        "controllerDuration",
        "controllerDuration/availableDelay",
        "controllerDuration/unavailableDelay",
        "controllerDuration/cacheSyncTimeout",
        "leaderElect",
        "leaderElect/leaseDuration",
        "leaderElect/renewDeadline",
        "leaderElect/retryPeriod",
        "leaderElect/resourceLock",
        "featureGates",
        "clusterHealthCheck",
        "clusterHealthCheck/period",
        "clusterHealthCheck/timeout",
        "clusterHealthCheck/failureThreshold",
        "clusterHealthCheck/successThreshold",
        "syncController",
        "syncController/maxConcurrentReconciles",
        "syncController/adoptResources",
        "statusController",
        "statusController/maxConcurrentReconciles",
        "scope",
    ];
    for field in optional {
        let missing = with(&good, &format!("/spec/{field}"), Value::Null);
        let expected = format!("Required spec.{}", field.replace('/', "."));
        assert_eq!(paths(&config(&missing, None)), [expected]);
        if field != "scope" {
            assert_eq!(defaulted(&missing).as_ref(), Some(&good["spec"]), "{field} has a default");
        }
    }
    for (field, value, expected) in [
        ("scope", json!("Galaxy"), "NotSupported spec.scope"),
        ("controllerDuration/availableDelay", json!("0s"), "Invalid spec.controllerDuration.availableDelay"),
        (
            "controllerDuration/unavailableDelay",
            json!("-1s"),
            "Invalid spec.controllerDuration.unavailableDelay",
        ),
        (
            "controllerDuration/cacheSyncTimeout",
            json!("0"),
            "Invalid spec.controllerDuration.cacheSyncTimeout",
        ),
        ("leaderElect/leaseDuration", json!("10s"), "Invalid spec.leaderElect.leaseDuration"),
        ("leaderElect/retryPeriod", json!("8334ms"), "Invalid spec.leaderElect.renewDeadline"),
        ("leaderElect/resourceLock", json!("paper"), "NotSupported spec.leaderElect.resourceLock"),
        ("clusterHealthCheck/period", json!("0s"), "Invalid spec.clusterHealthCheck.period"),
        ("clusterHealthCheck/timeout", json!("0s"), "Invalid spec.clusterHealthCheck.timeout"),
        ("clusterHealthCheck/failureThreshold", json!(0), "Invalid spec.clusterHealthCheck.failureThreshold"),
        (
            "clusterHealthCheck/successThreshold",
            json!(-1),
            "Invalid spec.clusterHealthCheck.successThreshold",
        ),
        (
            "syncController/maxConcurrentReconciles",
            json!(0),
            "Invalid spec.syncController.maxConcurrentReconciles",
        ),
        ("syncController/adoptResources", json!("Maybe"), "NotSupported spec.syncController.adoptResources"),
        (
            "statusController/maxConcurrentReconciles",
            json!(0),
            "Invalid spec.statusController.maxConcurrentReconciles",
        ),
        (
            "featureGates",
            json!([{"name": "Odd", "configuration": "Enabled"}]),
            "NotSupported spec.featureGates.name",
        ),
        (
            "featureGates",
            json!([{"name": "PushReconciler", "configuration": "On"}]),
            "NotSupported spec.featureGates.configuration",
        ),
        (
            "featureGates",
            json!([{"name": "PushReconciler", "configuration": "Enabled"}, {"name": "PushReconciler", "configuration": "Enabled"}]),
            "Duplicate spec.featureGates.name",
        ),
    ] {
        let object = with(&good, &format!("/spec/{field}"), value.clone());
        assert_eq!(paths(&config(&object, None)), [expected], "{field} {value}");
    }
}

#[test]
fn what_kubefed_accepts_of_a_config_is_accepted_and_leases_and_removed_features_too() {
    let good = good_config();
    for (field, value) in [
        ("scope", json!("Namespaced")),
        ("leaderElect/resourceLock", json!("endpoints")),
        ("leaderElect/resourceLock", json!("leases")),
        ("leaderElect/retryPeriod", json!("8333ms")),
        ("featureGates", json!([])),
        (
            "featureGates",
            json!([{"name": "CrossClusterServiceDiscovery", "configuration": "Enabled"},
            {"name": "FederatedIngress", "configuration": "Disabled"}]),
        ),
    ] {
        let object = with(&good, &format!("/spec/{field}"), value.clone());
        assert_eq!(paths(&config(&object, None)), [""; 0], "{field} {value}");
    }
}

#[test]
fn the_scope_of_a_config_cannot_be_changed() {
    let good = good_config();
    let other = with(&good, "/spec/scope", json!("Namespaced"));
    let found = config(&other, Some(&good));
    assert_eq!(summary(&found), "spec.scope: Invalid value: \"Namespaced\": field is immutable");
}

#[test]
fn defaults_complete_what_is_there_and_change_nothing_of_it() {
    let object = json!({"spec": {"scope": "Namespaced", "clusterHealthCheck": {"period": "1m"},
        "featureGates": [{"name": "RawResourceStatusCollection", "configuration": "Enabled"}]}});
    let spec = defaulted(&object).unwrap();
    assert_eq!((&spec["scope"], &spec["clusterHealthCheck"]["period"]), (&json!("Namespaced"), &json!("1m")));
    assert_eq!(spec["clusterHealthCheck"]["timeout"], "3s");
    let gates: Vec<&str> =
        spec["featureGates"].as_array().unwrap().iter().map(|g| text(&g["name"])).collect();
    assert_eq!(gates, ["PushReconciler", "RawResourceStatusCollection", "SchedulerPreferences"]);
    assert_eq!(spec["featureGates"][1]["configuration"], "Enabled");
    assert!(defaulted(&json!({})).unwrap()["scope"].is_null(), "the scope has no default");
}

fn good_type_config() -> Value {
    json!({"metadata": {"name": "deployments.apps"}, "spec": {
        "targetType": {"group": "apps", "version": "v1", "kind": "Deployment", "pluralName": "deployments", "scope": "Namespaced"},
        "propagation": "Enabled",
        "federatedType": {"group": "types.kubefed.io", "version": "v1beta1", "kind": "FederatedDeployment",
            "pluralName": "federateddeployments", "scope": "Namespaced"}},
        "status": {"observedGeneration": 1, "propagationController": "Running"}})
}

#[test]
fn a_federated_type_config_is_judged_by_every_rule() {
    let good = good_type_config();
    assert_eq!(paths(&type_config(&good)), [""; 0]);
    for (pointer, value, expected) in [
        ("/metadata/name", json!("deployments"), "Invalid metadata.name"),
        ("/spec/targetType/version", json!(""), "Required spec.targetType.version"),
        ("/spec/targetType/version", json!("V1"), "Invalid spec.targetType.version"),
        ("/spec/targetType/kind", json!(null), "Required spec.targetType.kind"),
        ("/spec/targetType/kind", json!("1Deployment"), "Invalid spec.targetType.kind"),
        ("/spec/targetType/scope", json!("Galaxy"), "NotSupported spec.targetType.scope"),
        ("/spec/propagation", json!(null), "Required spec.propagation"),
        ("/spec/propagation", json!("On"), "NotSupported spec.propagation"),
        ("/spec/federatedType/group", json!("apps"), "Invalid spec.federatedType.group"),
        ("/spec/federatedType/group", json!(null), "Required spec.federatedType.group"),
        ("/spec/federatedType/group", json!("A.b"), "Invalid spec.federatedType.group"),
        ("/spec/federatedType/pluralName", json!("Federated"), "Invalid spec.federatedType.pluralName"),
        ("/spec/federatedType/pluralName", json!(null), "Required spec.federatedType.pluralName"),
        ("/spec/federatedType/scope", json!(null), "Required spec.federatedType.scope"),
        ("/spec/statusCollection", json!("On"), "NotSupported spec.statusCollection"),
        ("/spec/statusCollection", json!(""), "Required spec.statusCollection"),
    ] {
        assert_eq!(
            paths(&type_config(&with(&good, pointer, value.clone()))),
            [expected],
            "{pointer} {value}"
        );
    }
    let core =
        with(&with(&good, "/spec/targetType/group", Value::Null), "/metadata/name", json!("deployments"));
    assert_eq!(paths(&type_config(&core)), [""; 0]);
    let status_type = with(
        &good,
        "/spec/statusType",
        json!({"version": "v1", "kind": "S", "pluralName": "s", "scope": "Cluster"}),
    );
    assert_eq!(paths(&type_config(&status_type)), ["Required spec.statusType.group"]);
    let dashed = with(&good, "/spec/federatedType/kind", json!("FederatedTestFedTarget-1b9d6bcd-b"));
    assert_eq!(paths(&type_config(&dashed)), [""; 0], "kinds may contain dashes (spec/kubefed.md §0.18)");
}

#[test]
fn the_status_of_a_type_config_is_exactly_running_or_not() {
    let good = good_type_config();
    assert_eq!(paths(&type_config_status(&good)), [""; 0]);
    for (field, value, expected) in [
        ("observedGeneration", json!(-1), "Invalid status.observedGeneration"),
        ("propagationController", json!("running"), "NotSupported status.propagationController"),
        ("propagationController", json!(null), "Required status.propagationController"),
        ("statusController", json!("Stopped"), "NotSupported status.statusController"),
    ] {
        let object = with(&good, &format!("/status/{field}"), value);
        assert_eq!(paths(&type_config_status(&object)), [expected]);
    }
}

#[test]
fn an_object_of_another_shape_is_told_apart_from_one_that_breaks_a_rule() {
    let told = |result: Result<(), Misshapen>| result.unwrap_err().to_string();
    assert_eq!(
        told(cluster_shape(&json!({"spec": {"secretRef": "x"}}))),
        "cannot decode the object as a KubeFedCluster: spec.secretRef must be an object"
    );
    let period = json!({"spec": {"clusterHealthCheck": {"period": 10}}});
    assert!(told(config_shape(&period)).contains("spec.clusterHealthCheck.period must be a duration"));
    let time = json!({"status": {"conditions": [{"lastProbeTime": "yesterday"}]}});
    assert!(told(cluster_shape(&time)).contains("status.conditions[0].lastProbeTime"));
    assert!(told(type_config_shape(&json!([]))).contains("it must be an object"));
    assert!(told(cluster_shape(&json!({"spec": {"caBundle": "!"}}))).contains("base64"));
}

#[test]
fn several_problems_are_told_in_one_line() {
    let found = cluster(&json!({"spec": {}}));
    assert_eq!(summary(&found), "[spec.apiEndpoint: Required value, spec.secretRef.name: Required value]");
}

/// JSON made of the words the objects are made of, so that it often almost fits.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("spec"),
        Just("status"),
        Just("metadata"),
        Just("name"),
        Just("scope"),
        Just("apiEndpoint"),
        Just("secretRef"),
        Just("conditions"),
        Just("featureGates"),
        Just("targetType"),
        Just("leaderElect"),
        Just("period"),
        Just("proxyURL"),
        Just("clusterHealthCheck"),
        Just("disabledTLSValidations"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[a-z:/@\\[\\]0-9.%]{0,16}".prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|members| members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn json_of_any_shape_gets_an_answer(object in any_json(), old in any_json()) {
        for causes in [cluster(&object), cluster_status(&object), config(&object, Some(&old)), type_config(&object),
            type_config_status(&object)] {
            summary(&causes);
        }
        let _ = (cluster_shape(&object), config_shape(&object), type_config_shape(&object));
        if let Some(spec) = defaulted(&object) {
            prop_assert_eq!(defaulted(&json!({"spec": spec})), None, "defaults are filled in once");
        }
    }
}
