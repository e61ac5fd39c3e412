//! What holds for every input, however odd.

use std::sync::LazyLock;

use hansa_machinery::{
    Schema, defaults,
    field::Path,
    kubernetes::KUBERNETES,
    rules, strategic,
    structural::{self, Prune},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Names that mean something to a schema, an object or a patch, so that odd values stand where it matters.
fn name() -> impl Strategy<Value = String> {
    let words = [
        "type",
        "properties",
        "items",
        "additionalProperties",
        "required",
        "default",
        "enum",
        "pattern",
        "format",
        "nullable",
        "oneOf",
        "anyOf",
        "allOf",
        "not",
        "minimum",
        "maxLength",
        "multipleOf",
        "uniqueItems",
        "x-kubernetes-int-or-string",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-patch-strategy",
        "x-kubernetes-patch-merge-key",
        "x-kubernetes-validations",
        "rule",
        "$patch",
        "$retainKeys",
        "$setElementOrder/a",
        "$deleteFromPrimitiveList/a",
        "a",
        "b",
        "name",
        "metadata",
        "spec",
        "status",
        "kind",
        "apiVersion",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "selector",
        "matchLabels",
        "template",
        "containers",
        "ports",
        "env",
        "volumes",
        "resources",
        "limits",
        "cpu",
        "replicas",
        "strategy",
        "rollingUpdate",
        "data",
        "stringData",
        "rules",
        "versions",
        "names",
        "storedVersions",
        "schema",
        "openAPIV3Schema",
        "metrics",
        "schedule",
        "jobTemplate",
        "tolerations",
        "affinity",
        "webhooks",
        "clusterIP",
        "clusterIPs",
    ];
    prop_oneof![4 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => "[a-z.$/]{0,4}"]
}

fn value() -> impl Strategy<Value = Value> {
    let words = [
        "object",
        "array",
        "string",
        "integer",
        "number",
        "boolean",
        "merge",
        "replace",
        "delete",
        "map",
        "set",
        "a",
        "",
        "^a",
        "(",
        "date-time",
        "int32",
        "100%",
        "1Gi",
        "* * * * *",
        "10.0.0.0/8",
        "\u{1F600}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::vec((name(), inner), 0..5).prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

static KINDS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let kinds =
        KUBERNETES.groups.iter().flat_map(|g| g.resources.iter().map(|r| (g.group.clone(), r.kind.clone())));
    kinds.collect()
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_schema_takes_any_value(schema in value(), mut object in value(), old in value()) {
        let compiled = Schema::structural(&schema);
        let _ = structural::check_schema(Path::new("s"), &schema);
        let _ = structural::validate_update(&compiled, &object, Some(&old));
        structural::default(&compiled, &mut object);
        let defaulted = object.clone();
        structural::default(&compiled, &mut object);
        prop_assert_eq!(&object, &defaulted, "defaulting twice is defaulting once");
        structural::prune(&compiled, &mut object, Prune::RESOURCE);
        let pruned = object.clone();
        prop_assert!(structural::prune(&compiled, &mut object, Prune::RESOURCE).is_empty());
        prop_assert_eq!(object, pruned, "pruning twice is pruning once");
    }

    #[test]
    fn any_patch_is_applied_or_refused(schema in value(), target in value(), patch in value()) {
        let schema = Schema::structural(&schema);
        let _ = strategic::apply(Some(&schema), &target, &patch);
        let _ = strategic::apply(None, &target, &patch);
        let pod = KUBERNETES.schema("", "Pod");
        let _ = strategic::apply(pod.as_ref(), &json!({"spec": target}), &json!({"spec": patch}));
    }

    #[test]
    fn any_built_in_kind_takes_any_value(kind in 0..200_usize, members in prop::collection::vec((name(), value()), 0..8), old in value()) {
        let (group, kind) = &KINDS[kind % KINDS.len()];
        let mut object = Value::from(members.into_iter().collect::<Map<_, _>>());
        if let Some(schema) = KUBERNETES.schema(group, kind) {
            let _ = structural::decode_errors(&schema, &object);
            let _ = structural::unknown_fields(&schema, &object);
            let _ = structural::validate(&schema, &object);
        }
        defaults::apply(group, kind, &mut object);
        defaults::prepare_create(group, kind, &mut object);
        let _ = rules::validate(group, kind, &object, None);
        defaults::prepare_update(group, kind, "", &mut object, &old);
        defaults::prepare_update(group, kind, "status", &mut object, &old);
        let _ = rules::validate(group, kind, &object, Some(&old));
    }

    #[test]
    fn a_patch_of_an_object_onto_itself_changes_nothing(members in prop::collection::btree_map("[a-z]{1,3}", "[a-z]{0,3}", 0..5)) {
        let schema = KUBERNETES.schema("", "ConfigMap");
        let object = json!({"metadata": {"labels": members.clone()}, "data": members});
        prop_assert_eq!(strategic::apply(schema.as_ref(), &object, &object).unwrap(), object);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_rule_takes_any_value(rule in "(self|oldSelf|\\.|a|b|size\\(|\\)|\\(|\\[|\\]|==|<|&&|!|\\?|:|'|\"|1| |has\\(|all\\(x,|\\+|-){0,12}", object in value()) {
        let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": rule, "messageExpression": rule}]});
        let _ = structural::check_schema(Path::new("s"), &schema);
        let _ = structural::validate_update(&Schema::structural(&schema), &object, Some(&json!({})));
    }
}
