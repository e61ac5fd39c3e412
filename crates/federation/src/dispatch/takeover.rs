//! Taking over what an older KubeFed wrote by PUT (`spec/kubefed.md §2.6`).
//!
//! A server books what is written by PUT on its writer, as an update. Applying the same fields makes us an owner beside it, and a
//! field that the template no longer names would stay for ever. So, before the first apply, what is booked on KubeFed is booked on us
//! as applied; the apply then removes whatever it does not name. It happens once in an object's life: where an entry of ours is, nothing
//! is taken, as other programs may go by the same name as KubeFed's and are not to lose anything a second time.

use hansa_api::names;
use hansa_cluster::is_applied;
use hansa_machinery::fields::{Element, Set};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use serde_json::Value;

/// The names that KubeFed wrote under, which are those of its program: in its image, by itself, and as it is built from source; and
/// our own name, as we write by PUT where nothing can be applied.
pub(super) const MANAGERS: [&str; 4] =
    ["controller-manager", "hyperfed", "kubefed-controller-manager", names::FIELD_MANAGER_FEDERATION];

/// What is not taken over. KubeFed never set the first three of itself, and kept those it found; the others are what a server may have
/// filled in when KubeFed created the object, and what nobody gives back once they are gone.
const LEFT: [&[&str]; 6] = [
    &["metadata", "annotations"],
    &["metadata", "finalizers"],
    &["metadata", "ownerReferences"],
    &["spec", "ingressClassName"],
    &["spec", "storageClassName"],
    &["status"],
];

/// KubeSphere's labels are its own controllers', which go by the name `controller-manager` as KubeFed's does.
const KUBESPHERE: &str = "kubesphere.io/";

/// What of an entry's fields is not taken over.
fn left_of(fields: &Set) -> Set {
    let mut left = Set::of_fields(&LEFT);
    let place = ["metadata", "labels"].map(Element::field);
    let labels = place.iter().try_fold(fields, |set, element| Some(&set.get(element)?.children));
    for (element, _) in labels.into_iter().flat_map(Set::nodes) {
        if matches!(element, Element::Field(name) if name.contains(KUBESPHERE)) {
            left.insert(&[&place[..], std::slice::from_ref(element)].concat());
        }
    }
    left
}

/// The `managedFields` in which what `managers` own by updates, but for what is in `besides`, is what we applied; `None` if there is
/// nothing to take over, or an entry that cannot be understood.
pub(super) fn migrate(
    entries: &[ManagedFieldsEntry],
    managers: &[&str],
    besides: &Set,
) -> Option<Vec<ManagedFieldsEntry>> {
    if is_applied(entries) {
        return None;
    }
    let (mut taken, mut newest) = (Set::default(), None::<&ManagedFieldsEntry>);
    let mut kept = Vec::new();
    for entry in entries {
        let theirs = entry.operation.as_deref() == Some("Update")
            && entry.manager.as_deref().is_some_and(|manager| managers.contains(&manager))
            && entry.subresource.is_none();
        if !theirs {
            kept.push(entry.clone());
            continue;
        }
        let fields = Set::decode(entry.fields_v1.as_ref().map_or(&Value::Null, |fields| &fields.0)).ok()?;
        let ours = fields.recursive_difference(&left_of(&fields)).recursive_difference(besides);
        let rest = fields.difference(&ours);
        if !rest.is_empty() {
            kept.push(ManagedFieldsEntry { fields_v1: Some(FieldsV1(rest.encode())), ..entry.clone() });
        }
        if newest.is_none_or(|newest| newest.time < entry.time) {
            newest = Some(entry);
        }
        taken = taken.union(ours);
    }
    let newest = newest.filter(|_| !taken.is_empty())?;
    kept.push(ManagedFieldsEntry {
        manager: Some(names::FIELD_MANAGER_FEDERATION.to_owned()),
        operation: Some("Apply".to_owned()),
        fields_v1: Some(FieldsV1(taken.encode())),
        ..newest.clone()
    });
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn entry(manager: &str, operation: &str, time: &str, fields: Value) -> ManagedFieldsEntry {
        serde_json::from_value(json!({
            "manager": manager, "operation": operation, "apiVersion": "v1", "time": time,
            "fieldsType": "FieldsV1", "fieldsV1": fields,
        }))
        .unwrap()
    }

    fn fields(of: &[ManagedFieldsEntry], manager: &str) -> Value {
        let found = of.iter().find(|entry| entry.manager.as_deref() == Some(manager)).unwrap();
        found.fields_v1.clone().unwrap().0
    }

    const EARLY: &str = "2022-01-01T00:00:00Z";
    const LATE: &str = "2023-01-01T00:00:00Z";

    #[test]
    fn what_kubefed_put_becomes_what_we_applied_and_all_else_stays() {
        let entries = [
            entry(
                "controller-manager",
                "Update",
                EARLY,
                json!({
                    "f:data": {".": {}, "f:a": {}},
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                }),
            ),
            entry("kubectl-edit", "Update", LATE, json!({"f:data": {"f:theirs": {}}})),
        ];
        let migrated = migrate(&entries, &MANAGERS, &Set::default()).unwrap();
        assert_eq!(migrated[0], entries[1]);
        let ours = &migrated[1];
        assert_eq!(
            (ours.manager.as_deref(), ours.operation.as_deref(), ours.fields_type.as_deref()),
            (Some("kubefed"), Some("Apply"), Some("FieldsV1"))
        );
        assert_eq!(ours.fields_v1, entries[0].fields_v1);
        assert_eq!(migrated.len(), 2);
        assert_eq!(migrate(&migrated, &MANAGERS, &Set::default()), None, "it happens once");
    }

    #[test]
    fn several_names_of_kubefeds_come_to_one_set() {
        let entries = [
            entry(
                "hyperfed",
                "Update",
                LATE,
                json!({"f:spec": {"f:a": {}, "f:list": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}}}}}),
            ),
            entry(
                "controller-manager",
                "Update",
                EARLY,
                json!({"f:spec": {"f:b": {}, "f:list": {"k:{\"name\":\"x\"}": {"f:image": {}}}}}),
            ),
        ];
        let migrated = migrate(&entries, &MANAGERS, &Set::default()).unwrap();
        let united = json!({"f:spec": {
            "f:a": {}, "f:b": {}, "f:list": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}, "f:image": {}}},
        }});
        assert_eq!(fields(&migrated, "kubefed"), united);
        assert_eq!(migrated[0].time, entries[0].time, "as of the later of them");
    }

    #[test]
    fn what_kubefed_only_found_or_a_server_filled_in_is_left() {
        let fields_v1 = json!({
            "f:metadata": {"f:annotations": {".": {}, "f:a": {}}, "f:finalizers": {"v:\"x\"": {}}, "f:labels": {"f:app": {}, "f:kubesphere.io/workspace": {}}},
            "f:spec": {"f:ingressClassName": {}, "f:rules": {}},
        });
        let entries = [entry("controller-manager", "Update", EARLY, fields_v1)];
        let migrated = migrate(&entries, &MANAGERS, &Set::default()).unwrap();
        assert_eq!(
            fields(&migrated, "kubefed"),
            json!({"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:rules": {}}})
        );
        assert_eq!(
            fields(&migrated, "controller-manager"),
            json!({
                "f:metadata": {
                    "f:annotations": {".": {}, "f:a": {}}, "f:finalizers": {"v:\"x\"": {}},
                    "f:labels": {"f:kubesphere.io/workspace": {}},
                },
                "f:spec": {"f:ingressClassName": {}},
            })
        );
    }

    #[test]
    fn there_is_nothing_to_take_from_others_from_sub_resources_or_after_us() {
        let some = json!({"f:data": {"f:a": {}}});
        let status = ManagedFieldsEntry {
            subresource: Some("status".into()),
            ..entry("controller-manager", "Update", EARLY, some.clone())
        };
        let theirs = entry("controller-manager", "Update", LATE, some.clone());
        for entries in [
            vec![],
            vec![entry("kube-controller-manager", "Update", EARLY, some.clone())],
            vec![entry("controller-manager", "Apply", EARLY, some.clone())],
            vec![status],
            vec![entry("kubefed", "Apply", EARLY, some.clone()), theirs],
            vec![entry("controller-manager", "Update", EARLY, json!({"nonsense": {}}))],
            vec![entry(
                "controller-manager",
                "Update",
                EARLY,
                json!({"f:metadata": {"f:annotations": {"f:a": {}}}}),
            )],
        ] {
            assert_eq!(migrate(&entries, &MANAGERS, &Set::default()), None, "{entries:?}");
        }
    }

    #[test]
    fn a_field_that_cannot_be_given_up_is_left_and_the_rest_is_taken() {
        let entries = [entry(
            "hyperfed",
            "Update",
            EARLY,
            json!({"f:type": {}, "f:spec": {"f:a": {"f:b": {}}, "f:c": {}}}),
        )];
        let migrated = migrate(&entries, &MANAGERS, &Set::of_fields(&[&["type"], &["spec", "a"]])).unwrap();
        assert_eq!(fields(&migrated, "kubefed"), json!({"f:spec": {"f:c": {}}}));
        assert_eq!(fields(&migrated, "hyperfed"), json!({"f:type": {}, "f:spec": {"f:a": {"f:b": {}}}}));
    }

    proptest! {
        /// No field gets lost, and none that was not KubeFed's becomes ours.
        #[test]
        fn fields_only_change_hands(
            owned in proptest::collection::vec((0..4_usize, proptest::collection::btree_set("[a-d]", 1..4)), 1..6),
        ) {
            let managers = ["controller-manager", "hyperfed", "kubectl-edit", "hpa"];
            let entries: Vec<_> = owned.iter().map(|(manager, names)| {
                let fields: serde_json::Map<_, _> = names.iter().map(|name| (format!("f:{name}"), json!({}))).collect();
                entry(managers[*manager], "Update", EARLY, json!({"f:spec": fields}))
            }).collect();
            let all = |entries: &[ManagedFieldsEntry], of: &dyn Fn(&str) -> bool| {
                entries.iter().filter(|entry| of(entry.manager.as_deref().unwrap_or_default()))
                    .map(|entry| Set::decode(&entry.fields_v1.as_ref().unwrap().0).unwrap())
                    .fold(Set::default(), Set::union)
            };
            let is_kubefeds = |name: &str| MANAGERS.contains(&name);
            let migrated = migrate(&entries, &MANAGERS, &Set::default()).unwrap_or(entries.clone());
            prop_assert_eq!(all(&migrated, &is_kubefeds), all(&entries, &is_kubefeds));
            prop_assert_eq!(all(&migrated, &|name| !is_kubefeds(name)), all(&entries, &|name| !is_kubefeds(name)));
            prop_assert_eq!(migrate(&migrated, &MANAGERS, &Set::default()), None);
        }
    }
}
