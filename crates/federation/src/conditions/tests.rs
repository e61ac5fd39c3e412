use super::*;
use crate::status::{RawStatus, Word};
use proptest::prelude::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn seen(availability: Availability) -> Option<Sight> {
    let detail = if availability == Availability::Available { "" } else { "1 of 2 replicas are available" };
    Some(Sight::Seen(availability, detail.into()))
}

fn cluster(word: Option<Word>, sight: Option<Sight>) -> ClusterStatus {
    let message = word.map_or(String::new(), |word| format!("it is {word:?}"));
    ClusterStatus { word, message, sight, ..ClusterStatus::default() }
}

fn of(clusters: &[(&str, ClusterStatus)]) -> Propagation {
    let clusters = clusters.iter().map(|(name, cluster)| ((*name).to_owned(), cluster.clone()));
    let clusters: std::collections::BTreeMap<_, _> = clusters.collect();
    let reason = clusters.values().any(|cluster| cluster.word.is_some()).then_some(Reason::CheckClusters);
    Propagation { generation: 2, reason, clusters, has_health: true }
}

fn wanted(words: &[(&str, Option<Word>)]) -> Propagation {
    let clusters: Vec<_> = words
        .iter()
        .map(|(name, word)| {
            let availability = word.map_or(Availability::Available, |_| Availability::NotPropagated);
            (*name, cluster(*word, seen(availability)))
        })
        .collect();
    of(&clusters)
}

fn written(wanted: &Propagation, over: Option<&Value>, second: i64) -> Option<Value> {
    let reported = over.and_then(Reported::parse);
    let written = wanted.over(reported.as_ref(), at(second))?;
    let object = json!({ "status": written.status });
    assert_eq!(Reported::parse(&object).as_ref(), Some(&written.reads_as));
    Some(object)
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == kind).unwrap()
}

/// As a CRD of KubeFed's own leaves it.
fn pruned(object: &Value) -> Value {
    let mut object = object.clone();
    let remove = |value: &mut Value, fields: &[&str]| {
        for field in fields {
            value.as_object_mut().unwrap().remove(*field);
        }
    };
    for condition in object["status"]["conditions"].as_array_mut().unwrap() {
        remove(condition, &["message", "observedGeneration"]);
    }
    for cluster in object["status"]["clusters"].as_array_mut().unwrap() {
        remove(cluster, &["message", "conditions"]);
    }
    object
}

#[test]
fn a_first_status_is_written_sorted_and_without_words_where_all_is_well() {
    let status = written(&wanted(&[("b", None), ("a", Some(Word::CreationFailed))]), None, 0).unwrap();
    let now = "2023-11-14T22:13:20Z";
    assert_eq!(
        status["status"],
        json!({
            "observedGeneration": 2,
            "conditions": [
                {"type": "Propagation", "status": "False", "reason": "CheckClusters", "lastUpdateTime": now, "lastTransitionTime": now},
                {"type": "Propagated", "status": "False", "reason": "CheckClusters", "observedGeneration": 2, "lastTransitionTime": now,
                    "message": "1 of 2 clusters are not done: a: CreationFailed: it is CreationFailed"},
                {"type": "Available", "status": "False", "reason": "NotPropagated", "observedGeneration": 2, "lastTransitionTime": now,
                    "message": "available in 1 of 2 clusters: a: NotPropagated: 1 of 2 replicas are available"},
            ],
            "clusters": [
                {"name": "a", "status": "CreationFailed", "message": "it is CreationFailed", "conditions": [
                    {"type": "Propagated", "status": "False", "reason": "CreationFailed", "message": "it is CreationFailed", "lastTransitionTime": now},
                    {"type": "Available", "status": "False", "reason": "NotPropagated", "message": "1 of 2 replicas are available", "lastTransitionTime": now},
                ]},
                {"name": "b", "conditions": [
                    {"type": "Propagated", "status": "True", "lastTransitionTime": now},
                    {"type": "Available", "status": "True", "reason": "Available", "lastTransitionTime": now},
                ]},
            ],
        })
    );
}

#[test]
fn what_is_already_said_is_not_written_again() {
    for wanted in [
        wanted(&[("a", Some(Word::CreationFailed)), ("b", None)]),
        wanted(&[]),
        of(&[
            ("a", cluster(None, seen(Availability::Progressing))),
            ("b", cluster(Some(Word::WaitingForRemoval), None)),
        ]),
        Propagation { has_health: false, ..wanted(&[("a", None)]) },
    ] {
        let first = written(&wanted, None, 0).unwrap();
        assert_eq!(written(&wanted, Some(&first), 9), None);
    }
}

#[test]
fn what_was_pruned_is_no_difference() {
    let wanted = of(&[
        ("a", cluster(Some(Word::CreationFailed), seen(Availability::NotPropagated))),
        ("b", cluster(None, seen(Availability::Progressing))),
    ]);
    let first = pruned(&written(&wanted, None, 0).unwrap());
    assert_eq!(written(&wanted, Some(&first), 9), None);
    let Some(Sight::Seen(..)) = wanted.clusters["b"].sight else { panic!() };
    // And after a restart, while nothing is known of the copies.
    let mut unheard = wanted;
    unheard.clusters.get_mut("b").unwrap().sight = Some(Sight::Unheard);
    assert_eq!(written(&unheard, Some(&first), 9), None);
}

#[test]
fn the_status_of_an_older_hansa_or_of_kubefed_is_completed() {
    let mut first = written(&wanted(&[("a", None)]), None, 0).unwrap();
    first["status"]["conditions"].as_array_mut().unwrap().truncate(1);
    first["status"]["clusters"][0].as_object_mut().unwrap().remove("conditions");
    let second = written(&wanted(&[("a", None)]), Some(&first), 9).unwrap();
    assert_eq!(condition(&second, "Propagation")["lastTransitionTime"], "2023-11-14T22:13:20Z");
    assert_eq!(condition(&second, "Available")["lastTransitionTime"], "2023-11-14T22:13:29Z");
}

#[test]
fn a_transition_time_moves_with_its_own_condition_only() {
    let first = written(&wanted(&[("a", None)]), None, 0).unwrap();
    let second = written(&wanted(&[("a", None), ("b", None)]), Some(&first), 5).unwrap();
    let times = |object: &Value, kind: &str| condition(object, kind)["lastTransitionTime"].clone();
    assert_eq!(times(&second, "Propagation"), "2023-11-14T22:13:20Z");
    // `spec/kubefed.md §6 (12)`: the update time moves with every write.
    assert_eq!(condition(&second, "Propagation")["lastUpdateTime"], "2023-11-14T22:13:25Z");
    let progressing = of(&[
        ("a", cluster(None, seen(Availability::Progressing))),
        ("b", cluster(None, seen(Availability::Available))),
    ]);
    let third = written(&progressing, Some(&second), 7).unwrap();
    assert_eq!(times(&third, "Available"), "2023-11-14T22:13:27Z");
    assert_eq!(times(&third, "Propagated"), "2023-11-14T22:13:20Z");
    let entry = |place: usize, kind: usize| {
        third["status"]["clusters"][place]["conditions"][kind]["lastTransitionTime"].clone()
    };
    assert_eq!((entry(0, 0), entry(0, 1)), (json!("2023-11-14T22:13:20Z"), json!("2023-11-14T22:13:27Z")));
    assert_eq!((entry(1, 0), entry(1, 1)), (json!("2023-11-14T22:13:25Z"), json!("2023-11-14T22:13:25Z")));
    let fourth = written(&wanted(&[("a", Some(Word::UpdateFailed))]), Some(&third), 8).unwrap();
    assert_eq!(times(&fourth, "Propagation"), "2023-11-14T22:13:28Z");
}

#[test]
fn a_new_generation_is_reported_and_nothing_is_true_of_it_before_it_is_observed() {
    let first = written(&wanted(&[("a", None)]), None, 0).unwrap();
    let mut next = Propagation { generation: 3, ..wanted(&[("a", None)]) };
    next.clusters.get_mut("a").unwrap().sight = Some(Sight::Unheard);
    let second = written(&next, Some(&first), 1).unwrap();
    let available = condition(&second, "Available");
    assert_eq!((&available["status"], &available["reason"]), (&json!("Unknown"), &json!("NotObserved")));
    assert_eq!(available["observedGeneration"], 3);
    assert_eq!(condition(&second, "Propagated")["status"], "True");
}

#[test]
fn what_is_not_known_is_left_as_it_was_said() {
    let before = of(&[
        ("a", cluster(None, seen(Availability::Progressing))),
        ("b", cluster(None, seen(Availability::Available))),
    ]);
    let first = written(&before, None, 0).unwrap();
    let unheard =
        of(&[("a", cluster(None, Some(Sight::Unheard))), ("b", cluster(None, Some(Sight::Unheard)))]);
    assert_eq!(written(&unheard, Some(&first), 1), None);
}

#[test]
fn false_outweighs_unknown_and_a_member_that_is_only_cleaned_does_not_count() {
    let available = |clusters: &[(&str, ClusterStatus)]| {
        let object = written(&of(clusters), None, 0).unwrap();
        let available = condition(&object, "Available").clone();
        (available["status"].as_str().unwrap().to_owned(), available["reason"].as_str().unwrap().to_owned())
    };
    let copy = |availability| cluster(None, seen(availability));
    let (well, late, away) =
        (Availability::Available, Availability::Progressing, Availability::ClusterNotReady);
    let is = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    assert_eq!(available(&[("a", copy(well)), ("b", copy(well))]), is("True", "Available"));
    assert_eq!(available(&[("a", copy(away)), ("b", copy(late))]), is("False", "Progressing"));
    assert_eq!(available(&[("a", copy(away)), ("b", copy(well))]), is("Unknown", "ClusterNotReady"));
    let cleaned = cluster(Some(Word::WaitingForRemoval), None);
    assert_eq!(available(&[("a", cleaned.clone()), ("b", copy(well))]), is("True", "Available"));
    assert_eq!(available(&[("a", cleaned)]), is("False", "NoClusterSelected"));
}

#[test]
fn only_the_first_few_clusters_are_named() {
    let words: Vec<(String, Option<Word>)> =
        (1..=5).map(|n| (format!("c{n}"), Some(Word::UpdateFailed))).collect();
    let words: Vec<(&str, Option<Word>)> = words.iter().map(|(name, word)| (name.as_str(), *word)).collect();
    let object = written(&wanted(&words), None, 0).unwrap();
    let message = condition(&object, "Propagated")["message"].as_str().unwrap();
    assert!(
        message.starts_with("5 of 5 clusters are not done: c1: ") && message.ends_with("and 2 more"),
        "{message}"
    );
}

fn raw(status: &Value) -> Remote {
    let json = serde_json::to_vec(status).unwrap().into();
    Remote::Known(Some(RawStatus { json, hash: crate::collect::normal::hash_of(status) }))
}

fn with_remote(remote: Remote) -> Propagation {
    of(&[("a", ClusterStatus { remote, ..cluster(None, seen(Availability::Available)) })])
}

#[test]
fn a_remote_status_is_passed_on_and_not_again_for_the_form_of_its_numbers() {
    let first = written(&with_remote(raw(&json!({"replicas": 3, "x": {"y": [1.5]}}))), None, 0).unwrap();
    assert_eq!(first["status"]["clusters"][0]["remoteStatus"], json!({"replicas": 3, "x": {"y": [1.5]}}));
    assert_eq!(
        written(&with_remote(raw(&json!({"x": {"y": [1.5]}, "replicas": 3.0}))), Some(&first), 1),
        None
    );
    let second =
        with_remote(raw(&json!({"replicas": 4}))).over(Reported::parse(&first).as_ref(), at(1)).unwrap();
    assert!(!second.urgent, "it may wait a moment");
    // Turned off, it goes.
    let third = written(&with_remote(Remote::NotCollected), Some(&first), 2).unwrap();
    assert_eq!(third["status"]["clusters"][0].get("remoteStatus"), None);
}

/// `spec/kubefed.md §2.8, §6 (13)`.
#[test]
fn a_selected_cluster_without_a_status_is_to_be_checked_unless_its_type_has_none() {
    let reason =
        |remote| condition(&written(&with_remote(remote), None, 0).unwrap(), "Propagation")["reason"].clone();
    assert_eq!(reason(Remote::Missing), "CheckClusters");
    assert_eq!(reason(Remote::Unheard), "CheckClusters");
    assert_eq!(reason(raw(&json!({}))), Value::Null);
    assert_eq!(reason(Remote::Known(None)), Value::Null);
    assert_eq!(reason(Remote::NotCollected), Value::Null);
    let object = written(&with_remote(Remote::Missing), None, 0).unwrap();
    assert_eq!(condition(&object, "Propagated")["status"], "True", "the copy itself is as it should be");
}

#[test]
fn a_remote_status_that_is_not_known_now_is_kept() {
    let first = written(&with_remote(raw(&json!({"replicas": 3}))), None, 0).unwrap();
    assert_eq!(written(&with_remote(Remote::Unheard), Some(&first), 1), None);
    for before in [Remote::Known(None), Remote::Missing] {
        let before = written(&with_remote(before), None, 0).unwrap();
        assert_eq!(written(&with_remote(Remote::Unheard), Some(&before), 1), None);
    }
    let away = of(&[(
        "a",
        ClusterStatus {
            remote: Remote::Unheard,
            ..cluster(Some(Word::ClusterNotReady), seen(Availability::ClusterNotReady))
        },
    )]);
    let mut second = away.over(Reported::parse(&first).as_ref(), at(1)).unwrap();
    assert_eq!(second.keeps, ["a"]);
    second.keep(&first);
    assert_eq!(second.status["clusters"][0]["remoteStatus"], json!({"replicas": 3}));
    assert_eq!(Reported::parse(&json!({"status": second.status})).as_ref(), Some(&second.reads_as));
}

#[test]
fn foreign_words_are_overwritten() {
    let first = written(&wanted(&[("a", None)]), None, 0).unwrap();
    for (pointer, value) in [
        ("/status/clusters/0/status", "Sideways"),
        ("/status/conditions/0/status", "Maybe"),
        ("/status/conditions/1/status", "Maybe"),
        ("/status/clusters/0/conditions/1/reason", "Maybe"),
    ] {
        let mut foreign = first.clone();
        match foreign.pointer_mut(pointer) {
            Some(place) => *place = value.into(),
            None => foreign["status"]["clusters"][0]["status"] = value.into(),
        }
        assert!(written(&wanted(&[("a", None)]), Some(&foreign), 1).is_some(), "{pointer}");
    }
}

#[test]
fn an_entry_takes_some_forty_bytes() {
    assert!(size_of::<ReportedCluster>() <= 40, "{}", size_of::<ReportedCluster>());
}

fn any_cluster() -> impl Strategy<Value = ClusterStatus> {
    let words = prop::option::of(prop::sample::select(vec![
        Word::CreationFailed,
        Word::ClusterNotReady,
        Word::WaitingForRemoval,
    ]));
    let sights = prop::option::of(prop_oneof![
        Just(Sight::Unheard),
        prop::sample::select(vec![
            Availability::Available,
            Availability::Progressing,
            Availability::Undecided
        ])
        .prop_map(|availability| seen(availability).unwrap()),
    ]);
    let remotes = prop_oneof![
        Just(Remote::NotCollected),
        Just(Remote::Missing),
        Just(Remote::Known(None)),
        (0..3).prop_map(|n| raw(&json!({ "n": n }))),
    ];
    (words, sights, remotes)
        .prop_map(|(word, sight, remote)| ClusterStatus { remote, ..cluster(word, sight) })
}

fn any_propagation() -> impl Strategy<Value = Propagation> {
    (1_i64..3, prop::collection::btree_map("[abc]", any_cluster(), 0..4), any::<bool>()).prop_map(
        |(generation, clusters, has_health)| {
            let reason =
                clusters.values().any(|cluster| cluster.word.is_some()).then_some(Reason::CheckClusters);
            Propagation { generation, reason, clusters, has_health }
        },
    )
}

proptest! {
    /// Whatever stands there: what is written is what was meant, and is not written a second time, pruned or not.
    #[test]
    fn writing_is_idempotent(first in any_propagation(), second in any_propagation(), prune in any::<bool>()) {
        let mut before = json!({ "status": first.over(None, at(0)).unwrap().status });
        if prune {
            before = pruned(&before);
        }
        if let Some(written) = second.over(Reported::parse(&before).as_ref(), at(1)) {
            let mut after = json!({ "status": written.status });
            let read = Reported::parse(&after);
            prop_assert_eq!(read.as_ref(), Some(&written.reads_as));
            prop_assert!(second.over(read.as_ref(), at(2)).is_none());
            if prune {
                after = pruned(&after);
            }
            prop_assert!(second.over(Reported::parse(&after).as_ref(), at(3)).is_none());
        }
    }
}
