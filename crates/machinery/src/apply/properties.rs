use proptest::prelude::*;

use super::*;

/// Every kind of place there is, twice nested.
fn schema() -> Schema {
    let item = json!({"type": "object", "properties": {
        "key": {"type": "string"}, "kind": {"type": "string", "default": "k"}, "a": {"type": "integer"},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    }});
    Schema::structural(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "scalar": {"type": "integer"},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "atomic": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "integer"}},
        "list": {"type": "array", "items": {"type": "integer"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key", "kind"], "items": item},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}}}))
}

fn small_map() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-c]", 0..3i64, 0..3).prop_map(|map| json!(map))
}

fn config() -> impl Strategy<Value = Value> {
    let set = proptest::collection::btree_set(0..4i64, 0..4).prop_shuffle_set();
    let keyed = proptest::collection::btree_map("[a-d]", (proptest::option::of(0..3i64), small_map()), 0..4);
    let keyed = keyed.prop_map(|items| {
        let items = items.into_iter().map(|(key, (a, map))| match a {
            Some(a) => json!({"key": key, "a": a, "map": map}),
            None => json!({"key": key, "kind": "other", "map": map}),
        });
        items.collect::<Vec<_>>()
    });
    let any = (small_map(), proptest::collection::vec(0..3i64, 0..3))
        .prop_map(|(map, list)| json!({"map": map, "list": list}));
    let parts = (
        proptest::option::of((0..3i64).prop_map(|n| json!(n))),
        proptest::option::of(small_map()),
        proptest::option::of(small_map()),
        proptest::option::of(proptest::collection::vec(0..3i64, 0..3).prop_map(|list| json!(list))),
        proptest::option::of(set),
        proptest::option::of(keyed.prop_shuffle().prop_map(|list| json!(list))),
        proptest::option::of(any),
    );
    parts.prop_map(|(scalar, map, atomic, list, set, keyed, any)| {
        let parts = [
            ("scalar", scalar), ("map", map), ("atomic", atomic), ("list", list), ("set", set), ("keyed", keyed), ("any", any),
        ];
        let spec: serde_json::Map<_, _> =
            parts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        // A label, so that every config owns something: objects without owners are not tracked.
        json!({"apiVersion": "v1", "kind": "Test", "metadata": {"name": "x", "labels": {"a": "b"}}, "spec": spec})
    })
}

trait ShuffleSet {
    fn prop_shuffle_set(self) -> BoxedStrategy<Value>;
}

impl<S: Strategy<Value = std::collections::BTreeSet<i64>> + 'static> ShuffleSet for S {
    fn prop_shuffle_set(self) -> BoxedStrategy<Value> {
        self.prop_map(|set| set.into_iter().collect::<Vec<_>>())
            .prop_shuffle()
            .prop_map(|list| json!(list))
            .boxed()
    }
}

fn manager(name: &str, time: usize) -> Manager {
    Manager {
        name: name.to_owned(),
        subresource: String::new(),
        api_version: "v1".to_owned(),
        time: format!("2026-01-01T00:00:{time:02}Z"),
        has_status: true,
    }
}

/// Any JSON, to be thrown at everything.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3i64).prop_map(Value::from),
        "[a-c]".prop_map(Value::from),
    ];
    let names = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("map"),
        Just("set"),
        Just("keyed"),
        Just("any"),
        Just("key"),
        Just("labels"),
        Just("managedFields"),
        Just("finalizers"),
        Just("apiVersion"),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_result_holds_all_that_was_applied_and_applying_again_is_no_change(
        configs in proptest::collection::vec((config(), 0..3usize, any::<bool>()), 1..8)
    ) {
        let schema = schema();
        let of = Type::Root(Some(schema.clone()));
        let mut live: Option<Value> = None;
        for (step, (config, who, by_update)) in configs.into_iter().enumerate() {
            let me = manager(&format!("m{who}"), step);
            if by_update {
                let mut next = config.clone();
                if let Some(managed) = live.as_ref().and_then(|live| live["metadata"].get("managedFields")) {
                    next["metadata"]["managedFields"] = managed.clone();
                }
                let after = update(Some(&schema), live.as_ref(), next, &me);
                prop_assert_eq!(&after["spec"], &config["spec"]);
                let again = update(Some(&schema), Some(&after), after.clone(), &manager("else", 59));
                prop_assert_eq!(&again, &after);
                live = Some(after);
                continue;
            }
            let after = apply(Some(&schema), live.as_ref(), &config, &me, true).unwrap();
            // All that was applied is there, as it was applied.
            let Changes { removed, modified, .. } = Changes::between(&of, &config, &split(after.clone()).0);
            prop_assert!(removed.is_empty() && modified.is_empty(), "{removed:?} {modified:?}");
            // It is owned, and the same again is neither a conflict nor a change.
            let again = apply(Some(&schema), Some(&after), &config, &manager(&me.name, 59), false).unwrap();
            prop_assert_eq!(&again, &after);
            live = Some(after);
        }
    }

    #[test]
    fn what_only_one_manager_applied_goes_when_it_applies_nothing(mine in config(), theirs in config()) {
        let schema = schema();
        let (me, other) = (manager("me", 0), manager("other", 1));
        let nothing = json!({"apiVersion": "v1", "kind": "Test", "metadata": {"name": "x"}});
        let alone = apply(Some(&schema), None, &theirs, &other, false).unwrap();
        let both = apply(Some(&schema), Some(&alone), &mine, &me, true).unwrap();
        let left = apply(Some(&schema), Some(&both), &nothing, &me, false).unwrap();
        let of = Type::Root(Some(schema));
        // What is left is owned by the other, except for places that are nobody's because they hold nothing.
        let managed = Managed::decode(&left["metadata"]["managedFields"]).unwrap();
        prop_assert!(managed.0.keys().all(|identity| identity.manager == "other"));
        let owned = managed.0.values().fold(Set::default(), |all, entry| all.union(entry.fields.clone()));
        let leaves = field_set(&of, &left).difference(&NEVER_OWNED).leaves();
        prop_assert!(leaves.difference(&with_named_fields(&of, &owned)).is_empty());
    }

    #[test]
    fn merging_and_comparing_agree(old in config(), new in config()) {
        let of = Type::Root(Some(schema()));
        let merged = merge(&of, &old, &new);
        prop_assert!(same(&merge(&of, &merged, &new), &merged));
        let changes = Changes::between(&of, &old, &merged);
        let said = field_set(&of, &new);
        prop_assert!(changes.modified.difference(&said).is_empty());
        prop_assert!(Changes::between(&of, &merged, &merged).modified.is_empty());
    }

    #[test]
    fn nothing_makes_it_panic(live in any_json(), new in any_json(), typed in any::<bool>(), force in any::<bool>()) {
        let schema = typed.then(schema);
        let me = manager("me", 0);
        let stored = update(schema.as_ref(), Some(&live), new.clone(), &me);
        let _ = update(schema.as_ref(), None, stored, &me);
        let mut config = new;
        if let Some(config) = config.as_object_mut() {
            config.insert("apiVersion".to_owned(), "v1".into());
        }
        let _ = apply(schema.as_ref(), Some(&live), &config, &me, force);
        let _ = apply(schema.as_ref(), None, &config, &manager("kubectl", 0), force);
    }
}
