//! What a schedule changes in a federated object: its placement and the overrides of `/spec/replicas`, and nothing else.
//!
//! Whatever else the user, or a later version of the API, has put into an entry stays as it is, and entries keep their order: the hash of
//! the overrides changes only if a number does (`spec/kubefed.md §6 (23)`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// The path of the overrides that are ours.
const REPLICAS: &str = "/spec/replicas";

/// What each cluster that an object is placed on is told now: its override, or the number of the template.
pub fn told(federated: &Value, placed: &BTreeSet<String>) -> BTreeMap<String, i64> {
    let spec = &federated["spec"];
    let template = spec["template"]["spec"]["replicas"].as_i64().unwrap_or(1);
    let mut told: BTreeMap<String, i64> = placed.iter().map(|cluster| (cluster.clone(), template)).collect();
    for entry in spec["overrides"].as_array().into_iter().flatten() {
        let told = entry["clusterName"].as_str().and_then(|cluster| told.get_mut(cluster));
        let number = operations(entry).find(|operation| is_replicas(operation)).and_then(number);
        if let (Some(told), Some(number)) = (told, number) {
            *told = number;
        }
    }
    told
}

/// The federated object as it has to be; `None` if it says what is scheduled already.
///
/// It is the whole of what was read, to be written back over just that: a merge patch would have to repeat the list of overrides, and
/// lose the `null`s that users have in it.
pub fn edited(federated: &Value, schedule: &BTreeMap<String, i64>) -> Option<Value> {
    let spec = &federated["spec"];
    let clusters = placement(&spec["placement"]["clusters"], schedule);
    let overrides = spec["overrides"].as_array().cloned().unwrap_or_default();
    let wanted = overridden(overrides.clone(), schedule);
    if clusters.is_none() && wanted == overrides {
        return None;
    }
    let (mut edited, mut spec) = (fields(federated), fields(spec));
    if let Some(clusters) = clusters {
        let mut placement = fields(&federated["spec"]["placement"]);
        placement.insert("clusters".to_owned(), clusters.into());
        spec.insert("placement".to_owned(), placement.into());
    }
    if wanted != overrides {
        spec.insert("overrides".to_owned(), wanted.into());
    }
    edited.insert("spec".to_owned(), spec.into());
    Some(edited.into())
}

fn fields(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn names(clusters: &Value) -> BTreeSet<String> {
    let names = clusters.as_array().into_iter().flatten().filter_map(|cluster| cluster["name"].as_str());
    names.map(str::to_owned).collect()
}

/// `spec.placement.clusters`, if other clusters stand there than are scheduled; in which order they stand is nobody's concern.
fn placement(clusters: &Value, schedule: &BTreeMap<String, i64>) -> Option<Vec<Value>> {
    let list = clusters.as_array();
    if list.is_some_and(|list| list.len() == schedule.len()) && names(clusters).iter().eq(schedule.keys()) {
        return None;
    }
    let entry = |name: &String| {
        let present = list.into_iter().flatten().find(|cluster| cluster["name"] == **name);
        present.cloned().unwrap_or_else(|| json!({ "name": name }))
    };
    Some(schedule.keys().map(entry).collect())
}

fn overridden(mut overrides: Vec<Value>, schedule: &BTreeMap<String, i64>) -> Vec<Value> {
    let mut missing: BTreeMap<&str, i64> =
        schedule.iter().map(|(name, number)| (name.as_str(), *number)).collect();
    overrides.retain_mut(|entry| {
        let Some(cluster) = entry["clusterName"].as_str().map(str::to_owned) else { return true };
        let has_number = operations(entry).any(is_replicas);
        match (has_number, schedule.get(&cluster)) {
            (true, Some(number)) => {
                let is_first = missing.remove(cluster.as_str()).is_some();
                set(entry, is_first.then_some(*number))
            }
            (true, None) => set(entry, None),
            (false, _) => true,
        }
    });
    // A cluster that has overrides of the user's own gets the number there: it must not appear twice.
    for entry in &mut overrides {
        let Some(number) = entry["clusterName"].as_str().and_then(|cluster| missing.remove(cluster)) else {
            continue;
        };
        match &mut entry["clusterOverrides"] {
            Value::Array(operations) => operations.push(operation(number)),
            other => *other = json!([operation(number)]),
        }
    }
    for (cluster, number) in missing {
        let is_after = |entry: &Value| entry["clusterName"].as_str().is_some_and(|name| name > cluster);
        let at = overrides.iter().rposition(|entry| !is_after(entry)).map_or(0, |last| last + 1);
        overrides.insert(at, json!({"clusterName": cluster, "clusterOverrides": [operation(number)]}));
    }
    overrides
}

/// Sets the number in an entry, or takes it out; whether anything is left of the entry.
fn set(entry: &mut Value, mut number: Option<i64>) -> bool {
    let Some(operations) = entry["clusterOverrides"].as_array_mut() else { return true };
    operations.retain_mut(|operation| {
        if !is_replicas(operation) {
            return true;
        }
        // Only the first of several: twice the same path would be refused.
        let Some(wanted) = number.take() else { return false };
        if self::number(operation) != Some(wanted) {
            operation["value"] = wanted.into();
        }
        if let Some(fields) =
            operation.as_object_mut().filter(|fields| fields.get("op") == Some(&json!("remove")))
        {
            fields.remove("op");
        }
        true
    });
    let is_empty = operations.is_empty();
    let only_ours = entry.as_object().is_some_and(|fields| fields.len() == 2);
    !(is_empty && only_ours)
}

fn operation(number: i64) -> Value {
    json!({"path": REPLICAS, "value": number})
}

fn operations(entry: &Value) -> impl Iterator<Item = &Value> {
    entry["clusterOverrides"].as_array().into_iter().flatten()
}

fn is_replicas(operation: &Value) -> bool {
    operation["path"] == REPLICAS
}

/// The number an operation sets; `3.0` is 3, and what removes the field sets none.
fn number(operation: &Value) -> Option<i64> {
    let value = Some(&operation["value"]).filter(|_| operation["op"] != "remove")?;
    value.as_i64().or_else(|| value.as_f64().filter(|float| float.fract() == 0.0).map(|float| float as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(numbers: &[(&str, i64)]) -> BTreeMap<String, i64> {
        numbers.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
    }

    fn ours(cluster: &str, number: i64) -> Value {
        json!({"clusterName": cluster, "clusterOverrides": [{"path": "/spec/replicas", "value": number}]})
    }

    fn federated(clusters: &[&str], overrides: Value) -> Value {
        let clusters: Vec<Value> = clusters.iter().map(|name| json!({ "name": name })).collect();
        json!({"metadata": {"resourceVersion": "7"}, "spec": {"placement": {"clusters": clusters}, "overrides": overrides}})
    }

    /// What a federated object says after the edit, which is then done.
    fn patched(object: Value, numbers: &[(&str, i64)]) -> Value {
        let object = edited(&object, &schedule(numbers)).unwrap_or(object);
        assert_eq!(edited(&object, &schedule(numbers)), None);
        assert_eq!(object["metadata"]["resourceVersion"], "7", "written only over what was read");
        object["spec"].clone()
    }

    #[test]
    fn a_new_schedule_places_and_overrides() {
        let object = json!({"metadata": {"resourceVersion": "7"}, "spec": {}});
        let spec = patched(object, &[("m2", 3), ("m1", 0)]);
        assert_eq!(spec["placement"]["clusters"], json!([{"name": "m1"}, {"name": "m2"}]));
        assert_eq!(spec["overrides"], json!([ours("m1", 0), ours("m2", 3)]));
    }

    #[test]
    fn what_is_right_already_is_not_written_whatever_its_order() {
        let float = json!({"clusterName": "m1", "clusterOverrides": [{"path": "/spec/replicas", "value": 2.0, "op": "add"}]});
        let object = federated(&["m2", "m1"], json!([ours("m2", 3), float]));
        assert_eq!(edited(&object, &schedule(&[("m1", 2), ("m2", 3)])), None);
    }

    #[test]
    fn overrides_of_the_user_stay_where_and_as_they_are() {
        let image = json!({"path": "/spec/template/spec/containers/0/image", "value": null, "note": 1});
        let overrides = json!([
            {"clusterSelector": {"matchLabels": {"tier": "a"}}, "clusterOverrides": [{"path": "/spec/replicas", "value": 9}]},
            {"clusterName": "m3", "strategicMergePatch": {"spec": {"paused": true}}},
            {"clusterName": "m1", "clusterOverrides": [image]},
            {"clusterName": "gone", "clusterOverrides": [image, {"path": "/spec/replicas", "value": 4}]},
        ]);
        let spec = patched(federated(&[], overrides.clone()), &[("m1", 2), ("m2", 1), ("m3", 5)]);
        let mut expected = overrides;
        expected[1]["clusterOverrides"] = json!([{"path": "/spec/replicas", "value": 5}]);
        expected[2]["clusterOverrides"] = json!([image, {"path": "/spec/replicas", "value": 2}]);
        expected[3]["clusterOverrides"].as_array_mut().unwrap().pop();
        expected.as_array_mut().unwrap().push(ours("m2", 1));
        assert_eq!(spec["overrides"], expected);
    }

    /// `spec/kubefed.md §6 (23)`
    #[test]
    fn a_new_cluster_finds_its_place_and_a_gone_one_leaves_no_trace() {
        let object = federated(&["m1", "m3"], json!([ours("m1", 1), ours("m3", 3)]));
        let spec = patched(object, &[("m1", 1), ("m2", 2), ("m3", 3)]);
        assert_eq!(spec["overrides"], json!([ours("m1", 1), ours("m2", 2), ours("m3", 3)]));
        let object = federated(&["m1", "m3"], json!([ours("m1", 1), ours("m3", 3)]));
        let spec = patched(object, &[("m3", 3)]);
        assert_eq!(
            (&spec["overrides"], &spec["placement"]["clusters"]),
            (&json!([ours("m3", 3)]), &json!([{"name": "m3"}]))
        );
    }

    #[test]
    fn placement_keeps_its_selector_and_what_else_it_says_of_a_cluster() {
        let mut object = federated(&[], json!([]));
        object["spec"]["placement"] =
            json!({"clusters": [{"name": "m1", "note": 1}], "clusterSelector": {"matchLabels": {"a": "b"}}});
        let spec = patched(object, &[("m1", 1), ("m2", 1)]);
        assert_eq!(
            spec["placement"],
            json!({"clusters": [{"name": "m1", "note": 1}, {"name": "m2"}], "clusterSelector": {"matchLabels": {"a": "b"}}})
        );
    }

    #[test]
    fn nowhere_is_a_placement_too() {
        assert_eq!(
            patched(json!({"metadata": {"resourceVersion": "7"}}), &[])["placement"]["clusters"],
            json!([])
        );
        let spec = patched(federated(&["m1"], json!([ours("m1", 1)])), &[]);
        assert_eq!((&spec["placement"]["clusters"], &spec["overrides"]), (&json!([]), &json!([])));
    }

    #[test]
    fn an_override_that_removes_or_repeats_the_number_is_mended() {
        let path = "/spec/replicas";
        let operations = json!([{"path": path, "op": "remove"}, {"path": path, "value": 3}]);
        let object =
            federated(&["m1"], json!([{"clusterName": "m1", "clusterOverrides": operations}, ours("m1", 8)]));
        assert_eq!(patched(object, &[("m1", 3)])["overrides"], json!([ours("m1", 3)]));
    }

    #[test]
    fn what_a_cluster_is_told_is_its_override_or_the_template() {
        let mut object = federated(&[], json!([ours("m2", 4), ours("m3", 0)]));
        let placed = ["m1", "m2"].map(str::to_owned).into();
        assert_eq!(told(&object, &placed), schedule(&[("m1", 1), ("m2", 4)]));
        object["spec"]["template"] = json!({"spec": {"replicas": 6}});
        assert_eq!(told(&object, &placed), schedule(&[("m1", 6), ("m2", 4)]));
        assert_eq!(told(&Value::Null, &BTreeSet::new()), schedule(&[]));
    }

    #[test]
    fn nonsense_in_the_lists_is_harmless() {
        let object = federated(
            &[],
            json!([null, 1, {"clusterName": 3}, {"clusterName": "m1", "clusterOverrides": "x"}, {"clusterOverrides": [null]}]),
        );
        let spec = patched(object, &[("m1", 1)]);
        assert_eq!(spec["overrides"][3], ours("m1", 1));
    }
}
