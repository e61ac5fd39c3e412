use std::collections::BTreeMap;

use super::*;
use crate::version::Hashes;
use proptest::prelude::*;
use serde_json::json;

fn labels(region: &str) -> BTreeMap<String, String> {
    [("region".to_owned(), region.to_owned())].into()
}

fn named(name: &str) -> Cluster<'_> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    Cluster { name, labels: &NONE }
}

fn overrides(entries: Value) -> Overrides {
    Overrides::parse(&federated(entries))
}

fn federated(entries: Value) -> Value {
    json!({"spec": {"template": {}, "overrides": entries}})
}

/// The copy of cluster `name`, which lies in `region`.
fn copy(entries: Value, name: &str, region: &str, mut object: Value) -> Result<Value, OverrideError> {
    overrides(entries).apply(Cluster { name, labels: &labels(region) }, &mut object).map(|()| object)
}

fn eu() -> Value {
    json!({"matchLabels": {"region": "eu"}})
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 1, "template": {"spec": {
        "containers": [{"name": "web", "image": "nginx:1", "args": ["a"]}, {"name": "log", "image": "log:1"}],
    }}}})
}

fn one(operations: Value) -> Overrides {
    Overrides::parse(&json!({"spec": {"overrides": [{"clusterName": "c1", "clusterOverrides": operations}]}}))
}

fn applied(operations: Value, mut object: Value) -> Result<Value, OverrideError> {
    one(operations).apply(named("c1"), &mut object).map(|()| object)
}

#[test]
fn replace_is_the_default_and_creates_a_missing_key() {
    let got = applied(json!([{"path": "/spec/replicas", "value": 3}]), json!({"spec": {}}));
    assert_eq!(got, Ok(json!({"spec": {"replicas": 3}})));
    let got = applied(json!([{"path": "/metadata/labels", "value": {"a": "b"}}]), json!({"metadata": {}}));
    assert_eq!(got, Ok(json!({"metadata": {"labels": {"a": "b"}}})));
}

#[test]
fn other_clusters_are_left_as_they_are() {
    let mut object = json!({"spec": {"replicas": 1}});
    one(json!([{"path": "/spec/replicas", "value": 3}])).apply(named("c2"), &mut object).unwrap();
    assert_eq!(object, json!({"spec": {"replicas": 1}}));
}

#[test]
fn a_bad_override_hurts_its_own_cluster_alone() {
    let overrides = Overrides::parse(&json!({"spec": {"overrides": [
        {"clusterName": "bad", "clusterOverrides": [{"path": "/kind", "value": "Pod"}]},
        {"clusterName": "good", "clusterOverrides": [{"path": "/spec", "value": 1}]},
        {"clusterName": "missing", "clusterOverrides": [{"op": "remove", "path": "/spec/none"}]},
    ]}}));
    let mut object = json!({"spec": {}});
    assert_eq!(
        overrides.apply(named("bad"), &mut object),
        Err(OverrideError::Forbidden { at: "[0].clusterOverrides[0]".into(), path: "/kind".into() })
    );
    assert!(matches!(overrides.apply(named("missing"), &mut object.clone()), Err(OverrideError::Apply(_))));
    assert_eq!(overrides.apply(named("good"), &mut object), Ok(()));
    assert_eq!(object, json!({"spec": 1}));
}

#[test]
fn a_cluster_named_twice_is_refused_for_that_cluster() {
    let entry = json!({"clusterName": "c1", "clusterOverrides": []});
    let overrides = Overrides::parse(&json!({"spec": {"overrides": [entry, entry, {"clusterName": "c2"}]}}));
    let error = overrides.apply(named("c1"), &mut json!({})).unwrap_err();
    assert_eq!(error, OverrideError::DuplicateCluster { at: "[1]".into(), cluster: "c1".into() });
    assert_eq!(overrides.apply(named("c2"), &mut json!({})), Ok(()));
}

#[test]
fn a_path_overridden_twice_is_refused() {
    let got =
        applied(json!([{"path": "/a", "value": 1}, {"op": "add", "path": "/a", "value": 2}]), json!({}));
    assert!(matches!(got, Err(OverrideError::DuplicatePath { .. })));
}

#[test]
fn identity_cannot_be_overridden_however_it_is_spelled() {
    let paths = [
        "",
        "/",
        "kind",
        "/kind",
        "x/kind",
        "/metadata",
        "/metadata/name",
        "/metadata/namespace",
        "/metadata/generateName",
        "/metadata/uid",
        "/metadata/resourceVersion",
        "/metadata/managedFields/0",
        "/metadata/name/x",
        "/metadata/",
    ];
    for path in paths {
        let got = applied(json!([{"path": path, "value": "x"}]), json!({"metadata": {}}));
        assert_eq!(
            got,
            Err(OverrideError::Forbidden { at: "[0].clusterOverrides[0]".into(), path: path.into() }),
            "{path}"
        );
    }
    assert!(applied(json!([{"path": "/apiVersion", "value": "apps/v1"}]), json!({})).is_ok());
}

#[test]
fn operations_other_than_the_three_are_refused() {
    for op in ["move", "copy", "test", "Replace"] {
        let got = applied(json!([{"op": op, "path": "/a", "from": "/b", "value": 1}]), json!({"b": 1}));
        assert_eq!(
            got,
            Err(OverrideError::Operation { at: "[0].clusterOverrides[0]".into(), op: op.into() })
        );
    }
}

#[test]
fn malformed_lists_are_errors() {
    assert!(
        Overrides::parse(&json!({"spec": {"overrides": "x"}})).apply(named("c1"), &mut json!({})).is_err()
    );
    assert!(
        Overrides::parse(&json!({"spec": {"overrides": [{}]}})).apply(named("c1"), &mut json!({})).is_err()
    );
    assert!(applied(json!("x"), json!({})).is_err());
    assert!(applied(json!(["x"]), json!({})).is_err());
}

#[test]
fn overrides_that_reach_into_metadata_are_known() {
    assert!(one(json!([{"path": "/metadata/labels/a", "value": "b"}])).of_metadata().is_some());
    assert!(one(json!([{"path": "/spec/template/metadata", "value": {}}])).of_metadata().is_none());
    let merging = |patch: Value| {
        overrides(json!([{"clusterSelector": {}, "strategicMergePatch": patch}])).of_metadata()
    };
    assert!(merging(json!({"metadata": {"labels": {"a": "b"}}, "spec": {}})).is_some());
    assert!(merging(json!({"spec": {}})).is_none());
}

#[test]
fn a_selector_is_for_every_cluster_it_matches() {
    let entries =
        json!([{"clusterSelector": eu(), "clusterOverrides": [{"path": "/spec/replicas", "value": 3}]}]);
    assert_eq!(copy(entries.clone(), "c1", "eu", deployment()).unwrap()["spec"]["replicas"], 3);
    assert_eq!(copy(entries, "c2", "us", deployment()), Ok(deployment()));
}

#[test]
fn the_general_comes_before_the_particular_whatever_the_order_of_the_list() {
    let to = |value: u32| json!([{"path": "/spec/replicas", "value": value}]);
    let entries = json!([
        {"clusterName": "c1", "clusterOverrides": to(9)},
        {"clusterSelector": {}, "clusterOverrides": to(2)},
        {"clusterSelector": eu(), "clusterOverrides": to(3)},
    ]);
    for (name, region, replicas) in [("c1", "eu", 9), ("c2", "eu", 3), ("c3", "us", 2)] {
        assert_eq!(
            copy(entries.clone(), name, region, deployment()).unwrap()["spec"]["replicas"],
            replicas,
            "{name}"
        );
    }
}

#[test]
fn in_an_entry_the_merge_patch_comes_before_the_json_patch() {
    let entries = json!([{
        "clusterName": "c1",
        "clusterOverrides": [{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "c"}],
        "strategicMergePatch": {"spec": {"template": {"spec": {"containers": [{"name": "web", "args": ["b"]}]}}}},
    }]);
    let after = copy(entries, "c1", "", deployment()).unwrap();
    assert_eq!(after["spec"]["template"]["spec"]["containers"][0]["args"], json!(["b", "c"]));
}

#[test]
fn lists_of_built_in_kinds_merge_by_their_keys() {
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "log", "$patch": "delete"}, {"name": "web", "image": "nginx:2"}, {"name": "new", "image": "new:1"},
    ]}}}});
    let entries = json!([{"clusterSelector": eu(), "strategicMergePatch": patch}]);
    let containers =
        copy(entries, "c1", "eu", deployment()).unwrap()["spec"]["template"]["spec"]["containers"].take();
    let by_name = |name: &str| containers.as_array().unwrap().iter().find(|c| c["name"] == name).cloned();
    assert_eq!(by_name("web"), Some(json!({"name": "web", "image": "nginx:2", "args": ["a"]})));
    assert_eq!((by_name("new").is_some(), by_name("log")), (true, None));
}

#[test]
fn custom_kinds_merge_as_json_and_know_no_directives() {
    let crontab = json!({"apiVersion": "example.org/v1", "kind": "CronTab", "metadata": {}, "spec": {"jobs": [{"name": "a"}], "old": 1}});
    let entries = |patch: Value| json!([{"clusterName": "c1", "strategicMergePatch": patch}]);
    let patch = json!({"spec": {"jobs": [{"name": "b"}], "old": null}});
    let after = copy(entries(patch), "c1", "", crontab.clone()).unwrap();
    assert_eq!(after["spec"], json!({"jobs": [{"name": "b"}]}));
    for directive in [
        json!({"$patch": "delete"}),
        json!({"jobs": [{"name": "a", "$patch": "delete"}]}),
        json!({"$setElementOrder/jobs": []}),
    ] {
        let error =
            copy(entries(json!({ "spec": directive })), "c1", "", crontab.clone()).unwrap_err().to_string();
        assert!(
            error.starts_with("spec.overrides[0].strategicMergePatch") && error.contains("CronTab"),
            "{error}"
        );
    }
}

#[test]
fn a_merge_patch_cannot_change_the_identity() {
    for (patch, place) in [
        (json!("x"), "strategicMergePatch must be an object"),
        (json!({"kind": "Pod"}), "\"kind\""),
        (json!({"kind": null}), "\"kind\""),
        (json!({"$patch": "replace"}), "\"$patch\""),
        (json!({"$retainKeys": ["spec"]}), "\"$retainKeys\""),
        (json!({"apiVersion": null}), "strategicMergePatch.apiVersion must be a string"),
        (json!({"metadata": null}), "strategicMergePatch.metadata must be an object"),
        (json!({"metadata": {"name": "x"}}), "\"metadata.name\""),
        (json!({"metadata": {"namespace": null}}), "\"metadata.namespace\""),
        (json!({"metadata": {"$patch": "delete"}}), "\"metadata.$patch\""),
        (
            json!({"metadata": {"$setElementOrder/managedFields": []}}),
            "\"metadata.$setElementOrder/managedFields\"",
        ),
    ] {
        let entries = json!([{"clusterName": "other"}, {"clusterName": "c1", "strategicMergePatch": patch}]);
        let error = copy(entries.clone(), "c1", "", deployment()).unwrap_err().to_string();
        assert!(
            error.starts_with("spec.overrides[1].strategicMergePatch") && error.contains(place),
            "{error}"
        );
        assert_eq!(copy(entries, "c2", "", deployment()), Ok(deployment()), "it concerns nobody else");
    }
    for patch in [
        json!({"apiVersion": "apps/v1"}),
        json!({"metadata": {"labels": null, "ownerReferences": [], "annotations": {"a": "b"}}}),
    ] {
        assert!(
            copy(json!([{"clusterName": "c1", "strategicMergePatch": patch}]), "c1", "", deployment())
                .is_ok()
        );
    }
}

/// What may be wrong is given to nobody whom it may be meant for, and to nobody else is it denied.
#[test]
fn an_entry_must_say_whom_it_is_for_in_one_way() {
    let is_for = |entry: &Value, name: &str, region: &str| {
        copy(json!([{"clusterName": "x"}, entry]), name, region, json!({})).map_err(|e| e.to_string())
    };
    let both = json!({"clusterName": "c1", "clusterSelector": eu()});
    let error = is_for(&both, "c1", "us").unwrap_err();
    assert!(error.contains("spec.overrides[1] has both clusterName and clusterSelector"), "{error}");
    assert!(is_for(&both, "c2", "eu").is_err());
    assert_eq!(is_for(&both, "c2", "us"), Ok(json!({})));
    for (nobody_knows, says) in [
        (json!({}), "spec.overrides[1] must have a clusterName or a clusterSelector"),
        (json!({"clusterName": 1}), "spec.overrides[1].clusterName must be"),
        (json!({"clusterSelector": "eu"}), "spec.overrides[1].clusterSelector is not a label selector"),
        (
            json!({"clusterSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}),
            "spec.overrides[1].clusterSelector",
        ),
    ] {
        let error = is_for(&nobody_knows, "c9", "").unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    // Go clients write the empty name where there is none.
    let unnamed =
        json!({"clusterName": "", "clusterSelector": eu(), "clusterOverrides": [{"path": "/a", "value": 1}]});
    assert_eq!(is_for(&unnamed, "c1", "eu"), Ok(json!({"a": 1})));
    assert_eq!(is_for(&json!({"clusterName": ""}), "c1", "eu"), Ok(json!({})), "as in KubeFed");
}

#[test]
fn the_overrides_version_is_kubefeds_until_something_new_is_used() {
    let version = |entries: Value| Hashes::of(&federated(entries)).overrides.to_string();
    let patch = json!([{"path": "/data", "value": {"foo": "baz"}}]);
    let kubefeds = "e32ea1ae695d85e0d5dd5ffe2ada9feb";
    assert_eq!(version(json!([{"clusterName": "c1", "clusterOverrides": patch}])), kubefeds);
    let unused = json!([{"clusterName": "c1", "clusterOverrides": patch, "clusterSelector": null, "strategicMergePatch": null}]);
    assert_eq!(version(unused), kubefeds);
    let used = [
        json!({"clusterName": "c1", "clusterOverrides": patch, "strategicMergePatch": {}}),
        json!({"clusterName": "c1", "clusterOverrides": patch, "strategicMergePatch": {"data": {"a": "1"}}}),
        json!({"clusterOverrides": patch, "clusterSelector": {}}),
        json!({"clusterOverrides": patch, "clusterSelector": eu()}),
        json!({"clusterName": "c1", "clusterOverrides": patch}),
    ];
    let versions: BTreeSet<String> = used.iter().map(|entry| version(json!([entry]))).collect();
    assert_eq!(versions.len(), used.len(), "each says something else");
}

#[test]
fn which_selectors_match_is_told_by_the_labels() {
    let selectors =
        overrides(json!([{"clusterName": "c1"}, {"clusterSelector": eu()}, {"clusterSelector": {}}]))
            .selectors();
    assert_eq!(selectors.choose(&labels("eu")).to_string(), "1,2");
    assert_eq!(selectors.choose(&labels("us")).to_string(), "2");
    assert_ne!(selectors.choose(&labels("eu")).fingerprint(), selectors.choose(&labels("us")).fingerprint());
    assert!(one(json!([])).selectors().choose(&labels("eu")).is_empty());
}

fn entry() -> impl Strategy<Value = Value> {
    let target = prop_oneof![
        "c[1-3]".prop_map(|name| json!({ "clusterName": name })),
        "eu|us".prop_map(|region| json!({"clusterSelector": {"matchLabels": {"region": region}}})),
        Just(json!({"clusterSelector": {}})),
    ];
    let merge = prop_oneof![
        Just(Value::Null),
        (0..9_u8).prop_map(|n| json!({"spec": {"replicas": n, "template": {"spec": {"containers": [{"name": "web", "image": format!("i:{n}")}]}}}})),
        "[a-z$]{1,9}|kind|metadata".prop_map(|field| json!({ field: {"name": "x", "labels": {"a": "b"}} })),
        "[a-z$]{1,9}|name|uid|labels".prop_map(|field| json!({"metadata": { field: {"a": "b"} }})),
    ];
    let path = "/spec/[a-z]{1,3}|/metadata/labels|/metadata/[a-z]{0,9}|/kind[/a-z]{0,3}|[a-z/~01]{0,6}";
    let operation = ("add|remove|replace", path)
        .prop_map(|(op, path)| json!({"op": op, "path": path, "value": {"v": op}}));
    (target, merge, proptest::collection::vec(operation, 0..3)).prop_map(|(mut entry, merge, operations)| {
        entry["strategicMergePatch"] = merge;
        entry["clusterOverrides"] = operations.into();
        entry
    })
}

proptest! {
    /// The laws of order: entries for others change nothing, and the rest is the merge of selectors in the order of the list, then the name.
    #[test]
    fn a_cluster_is_given_the_entries_that_are_for_it_the_particular_last(entries in proptest::collection::vec(entry(), 0..5), name in "c[1-3]", region in "eu|us") {
        let is_for = |entry: &&Value| entry["clusterName"] == *name || overrides(json!([entry])).entries.iter().any(|e| e.selects(&labels(&region)));
        let (named, selected): (Vec<&Value>, Vec<&Value>) = entries.iter().filter(is_for).partition(|entry| entry["clusterName"] == *name);
        let got = copy(json!(entries), &name, &region, deployment());
        if named.len() + selected.len() == 0 {
            prop_assert_eq!(got, Ok(deployment()), "without an entry for it a cluster has exactly the template");
        } else if named.len() < 2 {
            let one_by_one = selected.into_iter().chain(named).try_fold(deployment(), |object, entry| copy(json!([entry]), &name, &region, object));
            prop_assert_eq!(got.ok(), one_by_one.ok());
        } else {
            prop_assert!(got.is_err(), "a cluster that is named twice");
        }
    }

    #[test]
    fn no_entry_changes_the_identity(entries in proptest::collection::vec(entry(), 0..4), region in "eu|us") {
        if let Ok(after) = copy(json!(entries), "c1", &region, deployment()) {
            prop_assert_eq!(&after["kind"], "Deployment");
            prop_assert_eq!(&after["metadata"]["name"], "web");
            let known = ["name", "labels", "annotations", "finalizers", "ownerReferences"];
            prop_assert!(after["metadata"].as_object().unwrap().keys().all(|field| known.contains(&field.as_str())));
        }
    }

    #[test]
    fn merging_twice_is_merging_once(entry in entry(), region in "eu|us") {
        let mut entry = entry;
        entry["clusterOverrides"] = Value::Null;
        let merged = |object| copy(json!([entry]), "c1", &region, object);
        // A field that the kind does not have is refused where it is met again, as by kubectl.
        if let Ok(once) = merged(deployment()) && let Ok(twice) = merged(once.clone()) {
            prop_assert_eq!(twice, once);
        }
    }

    #[test]
    fn the_part_about_metadata_makes_the_same_metadata(entries in proptest::collection::vec(entry(), 0..4), region in "eu|us") {
        let all = overrides(json!(entries));
        let labels = labels(&region);
        let cluster = Cluster { name: "c1", labels: &labels };
        let mut whole = deployment();
        if all.apply(cluster, &mut whole).is_ok() {
            let mut part = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
            if let Some(overrides) = all.of_metadata() {
                prop_assert_eq!(overrides.apply(cluster, &mut part), Ok(()));
            }
            prop_assert_eq!(&part["metadata"], &whole["metadata"]);
        }
    }
}

proptest! {
    #[test]
    fn no_override_changes_the_identity(path in "[a-z/~01]{0,12}|/metadata/[a-z]{0,9}|/kind[/a-z]{0,3}", op in "add|remove|replace") {
        let object = json!({"kind": "ConfigMap", "metadata": {"name": "n", "namespace": "ns", "labels": {}}, "data": {}});
        if let Ok(after) = applied(json!([{"op": op, "path": path, "value": "x"}]), object.clone()) {
            prop_assert_eq!(&after["kind"], &object["kind"]);
            prop_assert_eq!(&after["metadata"]["name"], &object["metadata"]["name"]);
            prop_assert_eq!(&after["metadata"]["namespace"], &object["metadata"]["namespace"]);
        }
    }
}
