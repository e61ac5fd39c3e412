use super::*;
use crate::kubernetes::KUBERNETES;

fn deployment() -> Schema {
    KUBERNETES.definitions.get("io.k8s.api.apps.v1.Deployment").unwrap()
}

fn at(name: &str, time: &str) -> Manager {
    Manager {
        name: name.to_owned(),
        subresource: String::new(),
        api_version: "apps/v1".to_owned(),
        time: time.to_owned(),
        has_status: true,
    }
}

fn by(name: &str) -> Manager {
    at(name, "2026-01-01T00:00:00Z")
}

fn web(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
}

fn containers(containers: Value) -> Value {
    web(json!({"template": {"spec": {"containers": containers}}}))
}

fn applied(live: Option<&Value>, object: &Value, who: &str) -> Value {
    apply(Some(&deployment()), live, object, &by(who), false).unwrap()
}

fn updated(live: Option<&Value>, object: Value, who: &str) -> Value {
    update(Some(&deployment()), live, object, &by(who))
}

/// What `who` owns of `object`, as printed paths.
fn owned(object: &Value, who: &str) -> Vec<String> {
    let managed = Managed::decode(&object["metadata"]["managedFields"]).unwrap();
    let entries = managed.0.iter().filter(|(identity, _)| identity.manager == who);
    entries.flat_map(|(_, entry)| entry.fields.paths()).map(|path| path_to_string(&path)).collect()
}

#[test]
fn the_first_apply_creates_and_owns_what_it_says() {
    let object = applied(
        None,
        &web(json!({"replicas": 2, "template": {"metadata": {"labels": {"app": "web"}}}})),
        "me",
    );
    assert_eq!(object["spec"]["replicas"], 2);
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "me", "operation": "Apply", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {"f:metadata": {"f:labels": {"f:app": {}}}}}},
        }])
    );
}

#[test]
fn applying_the_same_again_changes_nothing_not_even_times() {
    let config = web(json!({"replicas": 2}));
    let object = applied(None, &config, "me");
    let again =
        apply(Some(&deployment()), Some(&object), &config, &at("me", "2030-01-01T00:00:00Z"), false).unwrap();
    assert_eq!(again, object);
}

#[test]
fn a_field_of_another_manager_is_a_conflict_until_forced() {
    let live = updated(None, web(json!({"replicas": 1, "paused": true})), "kubectl-client-side-apply");
    let error =
        apply(Some(&deployment()), Some(&live), &web(json!({"replicas": 3})), &by("me"), false).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    assert_eq!(
        error.causes,
        [Cause {
            reason: "FieldManagerConflict",
            field: ".spec.replicas".to_owned(),
            message: "conflict with \"kubectl-client-side-apply\" using apps/v1".to_owned(),
        }]
    );

    let forced =
        apply(Some(&deployment()), Some(&live), &web(json!({"replicas": 3})), &by("me"), true).unwrap();
    assert_eq!(forced["spec"], json!({"replicas": 3, "paused": true}));
    assert_eq!(owned(&forced, "me"), [".spec.replicas"]);
    assert_eq!(owned(&forced, "kubectl-client-side-apply"), [".spec.paused"]);
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let a = applied(None, &web(json!({"replicas": 1, "paused": true})), "a");
    let b = updated(
        Some(&a),
        {
            let mut b = a.clone();
            b["spec"]["minReadySeconds"] = 5.into();
            b
        },
        "b",
    );
    let config = web(json!({"replicas": 2, "paused": false, "minReadySeconds": 6}));
    let error = apply(Some(&deployment()), Some(&b), &config, &by("me"), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .spec.paused\n- .spec.replicas\n\
         conflicts with \"b\" using apps/v1:\n- .spec.minReadySeconds"
    );
    assert_eq!(error.causes.len(), 3);
}

#[test]
fn managers_that_agree_share_a_field_and_the_last_one_removes_it() {
    let config = web(json!({"replicas": 2, "paused": true}));
    let a = applied(None, &config, "a");
    let both = applied(Some(&a), &config, "b");
    assert_eq!(owned(&both, "a"), owned(&both, "b"));
    let b_only = applied(Some(&both), &web(json!({"replicas": 2})), "a");
    assert_eq!(b_only["spec"]["paused"], true, "b still owns it");
    let nobody = applied(Some(&b_only), &web(json!({"replicas": 2})), "b");
    assert_eq!(nobody["spec"], json!({"replicas": 2}));
}

#[test]
fn what_others_set_stays_when_a_manager_stops_applying() {
    let live = applied(None, &web(json!({"replicas": 2})), "me");
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 7.into();
    scaled["metadata"]["uid"] = "u".into();
    let scaled = updated(Some(&live), scaled, "hpa");
    assert_eq!(owned(&scaled, "me"), [] as [&str; 0]);
    let after = applied(Some(&scaled), &web(json!({"paused": true})), "me");
    assert_eq!(after["spec"], json!({"replicas": 7, "paused": true}));
    assert_eq!(after["metadata"]["uid"], "u");
}

#[test]
fn items_of_keyed_lists_are_merged_added_and_removed_one_by_one() {
    let live = applied(
        None,
        &containers(json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}])),
        "me",
    );
    let live = applied(Some(&live), &containers(json!([{"name": "sidecar", "image": "s:1"}])), "mesh");
    let names = |object: &Value| -> Vec<String> {
        let list = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&live), ["a", "b", "sidecar"]);
    let after =
        applied(Some(&live), &containers(json!([{"name": "c"}, {"name": "a", "image": "a:2"}])), "me");
    assert_eq!(names(&after), ["c", "a", "sidecar"]);
    assert_eq!(after["spec"]["template"]["spec"]["containers"][1]["image"], "a:2");
    assert!(
        owned(&after, "mesh").contains(&".spec.template.spec.containers[name=\"sidecar\"].image".to_owned())
    );
}

#[test]
fn ports_are_told_apart_by_number_and_protocol_which_is_tcp_unless_said() {
    let with = |ports: Value| containers(json!([{"name": "a", "ports": ports}]));
    let live =
        applied(None, &with(json!([{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}])), "me");
    assert!(owned(&live, "me").contains(
        &".spec.template.spec.containers[name=\"a\"].ports[containerPort=53,protocol=\"TCP\"]".to_owned()
    ));
    let after =
        applied(Some(&live), &with(json!([{"containerPort": 53, "protocol": "TCP", "name": "dns"}])), "me");
    assert_eq!(
        after["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 53, "protocol": "TCP", "name": "dns"}])
    );
}

#[test]
fn an_applied_config_that_does_not_fit_its_schema_is_refused_with_the_place() {
    let refused =
        |config: &Value| apply(Some(&deployment()), None, config, &by("me"), false).unwrap_err().message;
    let prefix = "failed to create typed patch object (shop/web; apps/v1, Kind=Deployment): ";
    let twice = containers(json!([{"name": "a"}, {"name": "a"}]));
    assert_eq!(
        refused(&twice),
        format!("{prefix}.spec.template.spec.containers: duplicate entries for key [name=\"a\"]")
    );
    assert_eq!(
        refused(&web(json!({"replica": 1}))),
        format!("{prefix}.spec.replica: field not declared in schema")
    );
    assert_eq!(
        refused(&web(json!({"replicas": "1"}))),
        format!("{prefix}.spec.replicas: expected numeric (int or float), got string")
    );
    let mut managed = web(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    assert_eq!(refused(&managed), "metadata.managedFields must be nil");
    let other = json!({"apiVersion": "apps/v1beta1", "kind": "Deployment"});
    assert!(refused(&other).starts_with("Incorrect version specified in apply patch."));
    let mut deep = json!(1);
    for _ in 0..120 {
        deep = json!({ "a": deep });
    }
    let deep = json!({"apiVersion": "apps/v1", "x": deep});
    assert!(apply(None, None, &deep, &by("me"), false).unwrap_err().message.contains("nested deeper"));
}

#[test]
fn finalizers_are_a_set_and_labels_a_map_whatever_the_type() {
    let object = |finalizers: Value, labels: Value| {
        json!({
            "apiVersion": "apps/v1", "kind": "Anything",
            "metadata": {"name": "x", "finalizers": finalizers, "labels": labels}, "list": [1, 2],
        })
    };
    let one = apply(None, None, &object(json!(["a"]), json!({"a": "1"})), &by("a"), false).unwrap();
    let mut two = object(json!(["b"]), json!({"b": "1"}));
    two.as_object_mut().unwrap().remove("list");
    let two = apply(None, Some(&one), &two, &by("b"), false).unwrap();
    assert_eq!(two["metadata"]["finalizers"], json!(["a", "b"]));
    assert_eq!(two["metadata"]["labels"], json!({"a": "1", "b": "1"}));
    let error =
        apply(None, Some(&two), &json!({"apiVersion": "apps/v1", "list": [1]}), &by("b"), false).unwrap_err();
    assert!(error.message.ends_with("conflict with \"a\": .list"), "{}", error.message);
}

#[test]
fn an_object_nobody_applied_belongs_to_before_first_apply() {
    let live = web(json!({"replicas": 1}));
    let after =
        apply(Some(&deployment()), Some(&live), &web(json!({"paused": true})), &by("me"), false).unwrap();
    assert_eq!(owned(&after, "before-first-apply"), [".spec.replicas"]);
    assert_eq!(owned(&after, "me"), [".spec.paused"]);
}

#[test]
fn status_is_owned_through_its_subresource_alone() {
    let mut config = web(json!({"replicas": 1}));
    config["status"] = json!({"replicas": 1});
    let object = applied(None, &config, "me");
    assert_eq!(owned(&object, "me"), [".spec.replicas"]);
    let status = Manager { subresource: "status".to_owned(), ..by("kubelet") };
    let mut live = web(json!({"replicas": 1}));
    live["metadata"] = object["metadata"].clone();
    let mut reported = live.clone();
    reported["status"] = json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
    let reported = update(Some(&deployment()), Some(&live), reported, &status);
    assert_eq!(reported["metadata"]["managedFields"][1]["subresource"], "status");
    assert_eq!(
        owned(&reported, "kubelet"),
        [
            ".status.conditions",
            ".status.replicas",
            ".status.conditions[type=\"Available\"]",
            ".status.conditions[type=\"Available\"].status",
            ".status.conditions[type=\"Available\"].type",
        ]
    );
}

#[test]
fn an_update_takes_what_it_changes_and_others_lose_what_it_removes() {
    let live = updated(None, web(json!({"replicas": 1, "paused": true, "minReadySeconds": 1})), "a");
    let mut next = live.clone();
    next["spec"] = json!({"replicas": 2, "minReadySeconds": 1});
    let after = update(Some(&deployment()), Some(&live), next, &at("b", "2027-01-01T00:00:00Z"));
    assert_eq!(owned(&after, "a"), [".spec.minReadySeconds"]);
    assert_eq!(owned(&after, "b"), [".spec.replicas"]);
    assert_eq!(after["metadata"]["managedFields"][0]["time"], "2026-01-01T00:00:00Z", "a did nothing since");
    assert_eq!(after["metadata"]["managedFields"][1]["time"], "2027-01-01T00:00:00Z");
    let same = update(Some(&deployment()), Some(&after), after.clone(), &at("c", "2028-01-01T00:00:00Z"));
    assert_eq!(same, after);
}

#[test]
fn a_client_that_knows_nothing_of_managed_fields_does_not_destroy_them() {
    let live = updated(None, web(json!({"replicas": 1})), "a");
    let after = updated(Some(&live), web(json!({"replicas": 1})), "old-client");
    assert_eq!(after["metadata"]["managedFields"], live["metadata"]["managedFields"]);
    let mut nonsense = live.clone();
    nonsense["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Guess"}]);
    let after = updated(Some(&live), nonsense, "confused");
    assert_eq!(after["metadata"]["managedFields"], live["metadata"]["managedFields"]);
}

#[test]
fn managed_fields_can_be_reset_and_are_tracked_again_from_the_next_apply() {
    let live = updated(None, web(json!({"replicas": 1})), "a");
    for reset in [json!([]), json!([{}])] {
        let mut next = live.clone();
        next["metadata"]["managedFields"] = reset;
        let after = updated(Some(&live), next, "b");
        assert_eq!(after["metadata"].get("managedFields"), None);
        let mut again = after.clone();
        again["spec"]["replicas"] = 2.into();
        assert_eq!(updated(Some(&after), again, "b")["metadata"].get("managedFields"), None);
        assert_eq!(owned(&applied(Some(&after), &web(json!({"paused": true})), "c"), "c"), [".spec.paused"]);
    }
}

#[test]
fn managed_fields_given_by_the_user_are_taken_as_they_are() {
    let live = updated(None, web(json!({"replicas": 1})), "kubectl-client-side-apply");
    let mut migrated = live.clone();
    migrated["metadata"]["managedFields"][0]["manager"] = "kubectl".into();
    migrated["metadata"]["managedFields"][0]["operation"] = "Apply".into();
    assert_eq!(updated(Some(&live), migrated.clone(), "kubectl"), migrated);
    let gone = applied(Some(&migrated), &web(json!({"paused": true})), "kubectl");
    assert_eq!(gone["spec"], json!({"paused": true}));
}

#[test]
fn kubectl_takes_over_from_its_own_client_side_apply() {
    let config = web(json!({"replicas": 1, "paused": true}));
    let mut first = config.clone();
    first["metadata"]["annotations"] = json!({ LAST_APPLIED: config.to_string() });
    let live = updated(None, first, "kubectl-client-side-apply");
    let next = web(json!({"replicas": 3}));
    assert!(apply(Some(&deployment()), Some(&live), &next, &by("other"), false).is_err());
    let after = applied(Some(&live), &next, "kubectl");
    assert_eq!(after["spec"]["replicas"], 3);
    let last: Value =
        serde_json::from_str(after["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap()).unwrap();
    assert_eq!(last, next);
}

#[test]
fn more_than_ten_updaters_are_put_together() {
    let mut object = updated(None, web(json!({"replicas": 1})), "m0");
    for n in 0..15 {
        let mut next = object.clone();
        next["metadata"]["labels"][format!("l{n}")] = "x".into();
        object = update(
            Some(&deployment()),
            Some(&object),
            next,
            &at(&format!("m{n}"), &format!("2026-01-01T00:00:{n:02}Z")),
        );
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    assert!(owned(&object, "ancient-changes").contains(&".metadata.labels.l5".to_owned()));
    assert!(!owned(&object, "ancient-changes").contains(&".metadata.labels.l6".to_owned()));
}

#[test]
fn emptied_maps_disappear() {
    let mut config = web(json!({"replicas": 1}));
    config["metadata"]["labels"] = json!({"a": "1"});
    let live = applied(None, &config, "me");
    assert_eq!(applied(Some(&live), &web(json!({"replicas": 1})), "me")["metadata"].get("labels"), None);
}
