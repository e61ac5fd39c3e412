use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::overrides::Chosen;
use crate::types::tests::{deployments, namespaces};
use crate::version::Hashes;

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
const SYSTEM: &str = "kube-federation-system";

/// A world in which everything is known: an object placed on c1 and c2, of three ready members without copies.
#[derive(Debug)]
struct World {
    types: TypeConfig,
    key: Key,
    federated: Option<Federated>,
    gate: Option<Value>,
    record: Option<Record>,
    members: BTreeMap<String, Member<'static>>,
    host_namespace: Option<String>,
    debt: Option<Debt>,
    is_overdue: bool,
    unknown: Vec<Missing>,
}

fn federated(types: &TypeConfig, key: &Key, metadata: Value, spec: Value) -> Federated {
    let mut object = json!({"metadata": {"name": &*key.name, "namespace": &*key.namespace, "generation": 1, "uid": "f"}, "spec": spec});
    object["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    Federated::project(types, &object)
}

fn placed_on(clusters: &[&str]) -> Value {
    let clusters: Vec<Value> = clusters.iter().map(|name| json!({ "name": name })).collect();
    json!({"template": {"metadata": {"labels": {"app": "web"}}}, "placement": {"clusters": clusters}})
}

fn held() -> Value {
    json!({"finalizers": ["kubefed.io/sync-controller"]})
}

fn deleted() -> Value {
    json!({"finalizers": ["kubefed.io/sync-controller"], "deletionTimestamp": "2026-01-01T00:00:00Z"})
}

fn copy(generation: i64) -> Observation {
    let marks = Marks::new([("app", "web"), ("kubefed.io/managed", "true"), ("other", "x")], []);
    Observation::Present(Copy {
        uid: "u".into(),
        resource_version: format!("{}", generation + 100),
        generation,
        deleting: false,
        applied: true,
        marks,
    })
}

fn going() -> Observation {
    match copy(1) {
        Observation::Present(copy) => Observation::Present(Copy { deleting: true, ..copy }),
        other => other,
    }
}

impl World {
    fn new() -> Self {
        let (types, key) = (deployments(), Key::new("shop", "web"));
        let members = ["c1", "c2", "c3"].map(|name| {
            (name.to_owned(), Member { labels: &NO_LABELS, ready: true, copy: Observation::Absent })
        });
        Self {
            federated: Some(federated(&types, &key, held(), placed_on(&["c1", "c2"]))),
            gate: Some(json!({"spec": {"placement": {"clusterSelector": {}}}})),
            record: None,
            members: members.into(),
            host_namespace: None,
            debt: None,
            is_overdue: false,
            unknown: Vec::new(),
            types,
            key,
        }
    }

    fn of_namespace() -> Self {
        let (types, key) = (namespaces(), Key::new("shop", "shop"));
        let federated = federated(&types, &key, held(), placed_on(&["c1", "c2"]));
        Self { federated: Some(federated), types, key, ..Self::new() }
    }

    fn federated(mut self, metadata: Value, spec: Value) -> Self {
        self.federated = Some(federated(&self.types, &self.key, metadata, spec));
        self
    }

    fn no_federated(mut self) -> Self {
        self.federated = None;
        self
    }

    fn copy(mut self, member: &str, copy: Observation) -> Self {
        self.members.get_mut(member).unwrap().copy = copy;
        self
    }

    fn away(mut self, member: &str) -> Self {
        self.members.get_mut(member).unwrap().ready = false;
        self
    }

    fn recorded(mut self, members: &[(&str, i64)]) -> Self {
        let hashes =
            self.federated.as_ref().map_or_else(Hashes::default, |federated| federated.hashes.clone());
        let clusters =
            members.iter().map(|(name, generation)| ((*name).into(), Version::Generation(*generation)));
        self.record = Some(Record { hashes, clusters: clusters.collect() });
        self
    }

    fn overdue(mut self) -> Self {
        self.is_overdue = true;
        self
    }

    fn owing(mut self, member: &str, uid: Option<&str>) -> Self {
        self.debt = Some(Debt { clusters: [(member.into(), uid.map(str::to_owned))].into() });
        self
    }

    fn unknown(mut self, missing: Missing) -> Self {
        self.unknown.push(missing);
        self
    }

    fn plan(&self) -> Plan {
        fn known<T>(world: &World, missing: Missing, value: T) -> Knowledge<T> {
            if world.unknown.contains(&missing) { Knowledge::Unknown } else { Knowledge::Known(value) }
        }
        let namespace = self.gate.as_ref().map(|object| placement::Placement::parse(object).unwrap());
        let gate = if self.unknown.contains(&Missing::Namespaces) {
            Gate::Unknown
        } else if self.types.is_namespaces() {
            Gate::Open
        } else {
            namespace.as_ref().map_or(Gate::NotFederated, Gate::Within)
        };
        plan(&Situation {
            types: &self.types,
            key: &self.key,
            system_namespace: SYSTEM,
            federated: known(self, Missing::FederatedObjects, self.federated.as_ref()),
            gate,
            record: known(self, Missing::Versions, self.record.as_ref()),
            members: known(self, Missing::Clusters, &self.members),
            host_namespace: known(self, Missing::HostNamespaces, self.host_namespace.as_deref()),
            debt: self.debt.as_ref(),
            is_overdue: self.is_overdue,
        })
    }

    fn work(&self) -> Work {
        match self.plan() {
            Plan::Work(work) => work,
            other => panic!("no work but {other:?}"),
        }
    }

    fn actions(&self) -> Vec<(String, Action)> {
        self.work().steps.into_iter().map(|step| (step.member, step.action)).collect()
    }

    fn assert(&self, expected: &[(&str, Action)]) {
        let expected: Vec<_> = expected.iter().map(|(name, action)| ((*name).to_owned(), *action)).collect();
        assert_eq!(self.actions(), expected);
    }

    fn word(&self, member: &str) -> Option<Word> {
        self.work().steps.into_iter().find(|step| step.member == member).and_then(|step| step.word)
    }
}

const EVERYTHING: [Missing; 5] = [
    Missing::FederatedObjects,
    Missing::Clusters,
    Missing::Namespaces,
    Missing::Versions,
    Missing::HostNamespaces,
];

#[test]
fn a_new_object_is_created_where_it_is_placed() {
    World::new().assert(&[("c1", Action::Create), ("c2", Action::Create)]);
}

#[test]
fn a_current_copy_is_left_alone() {
    let world = World::new().recorded(&[("c1", 1), ("c2", 4)]).copy("c1", copy(1)).copy("c2", copy(4));
    world.assert(&[("c1", Action::None), ("c2", Action::None)]);
    assert_eq!(world.work().reason, None);
    assert_eq!(world.word("c1"), None);
}

#[test]
fn an_edited_copy_is_applied_again() {
    World::new()
        .recorded(&[("c1", 1), ("c2", 1)])
        .copy("c1", copy(2))
        .copy("c2", copy(1))
        .assert(&[("c1", Action::Update), ("c2", Action::None)]);
}

/// The hashes are as they were, and so is the generation: that the copy is not what it should be follows from the labels alone.
#[test]
fn a_member_that_is_given_another_label_is_given_its_overrides() {
    static EU: std::sync::LazyLock<BTreeMap<String, String>> =
        std::sync::LazyLock::new(|| [("region".to_owned(), "eu".to_owned())].into());
    let mut spec = placed_on(&["c1", "c2"]);
    spec["overrides"] = json!([{"clusterSelector": {"matchLabels": {"region": "eu"}}, "strategicMergePatch": {"spec": {"replicas": 3}}}]);
    let mut world = World::new()
        .federated(held(), spec)
        .recorded(&[("c1", 1), ("c2", 1)])
        .copy("c1", copy(1))
        .copy("c2", copy(1));
    world.assert(&[("c1", Action::None), ("c2", Action::None)]);
    world.members.get_mut("c2").unwrap().labels = &EU;
    world.assert(&[("c1", Action::None), ("c2", Action::Update)]);
    let written = Version::of(1, "").with(Chosen::parse("0").unwrap());
    world.record.as_mut().unwrap().clusters.insert("c2".into(), written);
    world.assert(&[("c1", Action::None), ("c2", Action::None)]);
    world.members.get_mut("c2").unwrap().labels = &NO_LABELS;
    world.assert(&[("c1", Action::None), ("c2", Action::Update)]);
}

#[test]
fn a_lost_label_is_seen_although_the_generation_is_the_same() {
    let Observation::Present(live) = copy(1) else { unreachable!() };
    let stripped =
        Observation::Present(Copy { marks: Marks::new([("kubefed.io/managed", "true")], []), ..live });
    let world = World::new().recorded(&[("c1", 1), ("c2", 1)]).copy("c1", stripped).copy("c2", copy(1));
    world.assert(&[("c1", Action::Update), ("c2", Action::None)]);
}

#[test]
fn a_deleted_copy_is_created_again() {
    let world = World::new().recorded(&[("c1", 1), ("c2", 1)]).copy("c2", copy(1));
    world.assert(&[("c1", Action::Create), ("c2", Action::None)]);
}

#[test]
fn a_copy_that_is_on_its_way_out_is_awaited() {
    let world = World::new().recorded(&[("c1", 1), ("c2", 1)]).copy("c1", going()).copy("c2", copy(1));
    world.assert(&[("c1", Action::None), ("c2", Action::None)]);
    assert_eq!(world.word("c1"), Some(Word::WaitingForRemoval));
}

#[test]
fn a_changed_template_updates_every_copy() {
    let mut world = World::new().recorded(&[("c1", 1), ("c2", 1)]).copy("c1", copy(1)).copy("c2", copy(1));
    world.record.as_mut().unwrap().hashes.template = "other".into();
    world.assert(&[("c1", Action::Update), ("c2", Action::Update)]);
}

#[test]
fn a_shrunk_placement_deletes_the_copy_and_then_looks_whether_it_is_gone() {
    let world = World::new()
        .federated(held(), placed_on(&["c2"]))
        .recorded(&[("c1", 1), ("c2", 1)])
        .copy("c2", copy(1));
    let present = World { members: world.members.clone(), ..world }.copy("c1", copy(1));
    present.assert(&[("c1", Action::Delete), ("c2", Action::None)]);
    assert_eq!(present.word("c1"), Some(Word::WaitingForRemoval));
    present.copy("c1", Observation::Absent).assert(&[("c1", Action::Confirm), ("c2", Action::None)]);
}

#[test]
fn a_placement_shrunk_while_the_member_was_away_is_still_cleaned_up_by_the_record() {
    let shrunk = || {
        World::new()
            .federated(held(), placed_on(&["c2"]))
            .recorded(&[("c1", 1), ("c2", 1)])
            .copy("c2", copy(1))
            .away("c1")
    };
    shrunk().assert(&[("c1", Action::None), ("c2", Action::None)]);
    assert_eq!(shrunk().word("c1"), Some(Word::ClusterNotReady));
    let deleted = shrunk().federated(deleted(), placed_on(&["c2"]));
    assert_eq!(deleted.work().goal, Goal::Remove);
    deleted.assert(&[("c1", Action::None), ("c2", Action::Delete)]);
    let mut returned = deleted.copy("c1", copy(1)).copy("c2", Observation::Absent);
    returned.members.get_mut("c1").unwrap().ready = true;
    returned.assert(&[("c1", Action::Delete), ("c2", Action::Confirm)]);
}

#[test]
fn a_cluster_that_is_no_longer_registered_does_not_hold_a_deletion() {
    let mut world =
        World::new().federated(deleted(), placed_on(&["c1", "gone"])).recorded(&[("c1", 1), ("gone", 1)]);
    world.members.remove("c2");
    world.assert(&[("c1", Action::Confirm)]);
}

#[test]
fn an_unplaced_and_unrecorded_member_that_is_away_does_not_hold_a_deletion() {
    World::new().federated(deleted(), placed_on(&["c1"])).away("c3").assert(&[("c1", Action::Confirm)]);
}

#[test]
fn deletion_without_a_known_cache_goes_by_live_reads() {
    let world = World::new().federated(deleted(), placed_on(&["c1"])).copy("c1", Observation::Unsynced(None));
    world.assert(&[("c1", Action::Confirm)]);
}

#[test]
fn deletion_finds_copies_that_neither_placement_nor_record_name() {
    World::new().federated(deleted(), placed_on(&[])).copy("c3", copy(1)).assert(&[("c3", Action::Delete)]);
}

#[test]
fn deletion_cleans_up_by_the_record_when_the_placement_is_broken() {
    let mut world = World::new().federated(deleted(), json!({"placement": {"clusters": 1}}));
    assert_eq!(world.actions(), []);
    world = world.recorded(&[("c1", 1)]);
    world.assert(&[("c1", Action::Confirm)]);
}

#[test]
fn an_object_that_we_do_not_hold_is_not_ours_to_clean_up() {
    let world =
        World::new().federated(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), placed_on(&["c1"]));
    assert_eq!(world.copy("c1", copy(1)).plan(), Plan::Ignore(Ignored::NotHeld));
}

#[test]
fn orphaning_takes_the_label_off_and_waits_for_nobody() {
    let mut metadata = deleted();
    metadata["annotations"] = json!({"kubefed.io/orphan": "true"});
    let world = World::new().federated(metadata, placed_on(&["c1", "c2"])).recorded(&[("c1", 1), ("c2", 1)]);
    let world = world.copy("c1", copy(1)).copy("c2", copy(1)).copy("c3", copy(1)).away("c2");
    assert_eq!(world.work().goal, Goal::Orphan);
    world.assert(&[("c1", Action::Unlabel), ("c3", Action::Unlabel)]);
}

#[test]
fn a_copy_without_a_federated_object_is_disowned_and_never_deleted() {
    let world = World::new().no_federated().recorded(&[("c1", 1)]).copy("c1", copy(1)).copy("c2", going());
    assert_eq!(world.work().goal, Goal::Disown);
    world.assert(&[("c1", Action::Unlabel)]);
}

#[test]
fn a_namespace_that_is_not_federated_selects_nothing_and_says_so() {
    let world = World { gate: None, ..World::new() };
    assert_eq!(world.actions(), []);
    assert_eq!(world.work().reason, Some(Reason::NamespaceNotFederated));
    world.copy("c1", copy(1)).assert(&[("c1", Action::Delete)]);
}

#[test]
fn an_unregistered_cluster_in_the_placement_is_reported() {
    let world = World::new().federated(held(), placed_on(&["c1", "nowhere"]));
    world.assert(&[("c1", Action::Create), ("nowhere", Action::None)]);
    assert_eq!(world.word("nowhere"), Some(Word::ClusterNotFound));
}

#[test]
fn a_placement_that_cannot_be_read_changes_nothing() {
    let world = World::new().federated(held(), json!({"placement": {"clusters": "c1"}}));
    let world = world.recorded(&[("c1", 1)]).copy("c1", copy(1)).copy("c3", copy(1));
    assert_eq!(world.actions(), []);
    assert_eq!(world.work().reason, Some(Reason::ComputePlacementFailed));
}

#[test]
fn a_member_that_is_away_costs_the_others_nothing() {
    let world = World::new().away("c1");
    world.assert(&[("c1", Action::None), ("c2", Action::Create)]);
    assert_eq!(world.word("c1"), Some(Word::ClusterNotReady));
}

#[test]
fn an_unread_member_is_left_alone_and_says_what_it_said() {
    let world = World::new()
        .recorded(&[("c1", 1)])
        .copy("c1", Observation::Unsynced(None))
        .copy("c3", Observation::Unsynced(None));
    world.assert(&[("c1", Action::None), ("c2", Action::Create)]);
    assert_eq!(world.word("c1"), Some(Word::CachedRetrievalFailed));
    let mut reported = World::new().copy("c1", Observation::Unsynced(None));
    let status = json!({"status": {"clusters": [{"name": "c1"}]}});
    reported.federated.as_mut().unwrap().reported = crate::status::Reported::parse(&status);
    assert_eq!(reported.word("c1"), None);
    let failed = reported.copy("c1", Observation::Unsynced(Some("no such type".into())));
    assert_eq!(failed.word("c1"), Some(Word::CachedRetrievalFailed));
}

#[test]
fn an_unread_member_that_left_the_placement_is_not_forgotten() {
    let world = World::new().federated(held(), placed_on(&[])).recorded(&[("c1", 1)]);
    world
        .copy("c1", Observation::Unsynced(None))
        .copy("c3", Observation::Unsynced(None))
        .assert(&[("c1", Action::None)]);
}

#[test]
fn the_hosts_own_namespace_is_never_deleted() {
    let shrunk = |metadata| {
        let world = World::of_namespace().federated(metadata, placed_on(&[])).recorded(&[("c1", 1)]);
        World { host_namespace: Some("u".into()), ..world.copy("c1", copy(1)) }
    };
    shrunk(held()).assert(&[("c1", Action::Unlabel)]);
    shrunk(deleted()).assert(&[("c1", Action::Unlabel)]);
    assert_eq!(shrunk(deleted()).copy("c1", going()).actions(), []);
    World { host_namespace: Some("another".into()), ..shrunk(deleted()) }.assert(&[("c1", Action::Delete)]);
}

#[test]
fn system_namespaces_and_misnamed_federated_namespaces_are_ignored() {
    for name in ["default", "kube-system", "kube-public", SYSTEM] {
        let world = World { key: Key::new(name, name), ..World::of_namespace() };
        assert_eq!(world.copy("c3", copy(1)).plan(), Plan::Ignore(Ignored::SystemNamespace));
    }
    let world = World { key: Key::new("shop", "other"), ..World::of_namespace() };
    assert_eq!(world.plan(), Plan::Ignore(Ignored::InvalidName));
}

#[test]
fn nothing_is_done_while_something_needed_is_unknown() {
    for missing in EVERYTHING {
        if missing == Missing::HostNamespaces {
            assert!(matches!(World::new().unknown(missing).plan(), Plan::Work(_)));
            assert_eq!(World::of_namespace().unknown(missing).plan(), Plan::Wait(missing));
        } else {
            assert_eq!(World::new().unknown(missing).plan(), Plan::Wait(missing));
        }
    }
}

fn observation() -> impl Strategy<Value = Observation> {
    prop_oneof![
        Just(Observation::Unsynced(None)),
        Just(Observation::Unsynced(Some("x".to_owned()))),
        Just(Observation::Absent),
        (1_i64..4).prop_map(copy),
        Just(going()),
    ]
}

/// `spec/kubefed.md §5` (1): a member that is away holds up a deletion for a while, not for ever.
#[test]
fn what_a_member_that_is_away_may_have_is_owed_once_the_deletion_is_overdue() {
    let world =
        || World::new().federated(deleted(), placed_on(&["c1"])).recorded(&[("c2", 1)]).away("c2").away("c3");
    world().assert(&[("c1", Action::Confirm), ("c2", Action::None)]);
    assert_eq!(world().word("c2"), Some(Word::ClusterNotReady));
    world().overdue().assert(&[("c1", Action::Confirm), ("c2", Action::Owe)]);
    // A placement that shrank is no deletion: the record keeps the member until it is back.
    let shrunk =
        || World::new().federated(held(), placed_on(&["c1"])).recorded(&[("c2", 1)]).away("c2").overdue();
    shrunk().assert(&[("c1", Action::Create), ("c2", Action::None)]);
}

/// `spec/kubefed.md §5` (2): so does one that does not serve the type, and perhaps never will.
#[test]
fn what_a_member_cannot_tell_of_is_owed_once_the_deletion_is_overdue() {
    let unread = |why: Option<&str>| Observation::Unsynced(why.map(str::to_owned));
    let world = |why| World::new().federated(deleted(), placed_on(&["c1"])).copy("c1", unread(why));
    world(Some("not found")).assert(&[("c1", Action::Confirm)]);
    world(Some("not found")).overdue().assert(&[("c1", Action::Owe)]);
    // One that is merely being read is asked.
    world(None).overdue().assert(&[("c1", Action::Confirm)]);
}

#[test]
fn what_is_owed_is_deleted_when_the_member_is_back_unless_it_is_another_object() {
    let world = |uid| World::new().no_federated().owing("c1", uid).copy("c1", copy(1)).copy("c2", copy(1));
    world(Some("u")).assert(&[("c1", Action::Delete), ("c2", Action::Unlabel)]);
    world(None).assert(&[("c1", Action::Delete), ("c2", Action::Unlabel)]);
    world(Some("another")).assert(&[("c1", Action::Unlabel), ("c2", Action::Unlabel)]);
    world(None).away("c1").assert(&[("c2", Action::Unlabel)]);
    World::new().no_federated().owing("c1", None).assert(&[("c1", Action::Confirm)]);
    World::new().no_federated().owing("c1", None).copy("c1", going()).assert(&[]);
}

#[test]
fn an_object_that_is_made_again_takes_over_what_is_owed_for_the_former_one() {
    let world = || World::new().federated(held(), placed_on(&["c1"])).copy("c1", copy(1)).copy("c2", copy(1));
    world().owing("c1", None).assert(&[("c1", Action::Update), ("c2", Action::Delete)]);
    let away = world().owing("c3", None).away("c3").federated(deleted(), placed_on(&["c1"])).overdue();
    assert!(away.actions().contains(&("c3".to_owned(), Action::Owe)));
}

prop_compose! {
    fn world()(
        namespace in any::<bool>(),
        clusters in proptest::sample::subsequence(vec!["c1", "c2", "c3", "x"], 0..=4),
        metadata in prop_oneof![Just(held()), Just(deleted()), Just(json!({}))],
        absent in proptest::bool::weighted(0.1),
        gate in prop_oneof![Just(None), Just(Some(json!({"spec": {"placement": {"clusterSelector": {}}}}))), Just(Some(json!({})))],
        recorded in proptest::collection::vec((proptest::sample::select(vec!["c1", "c2", "c3", "y"]), 0_i64..4), 0..4),
        copies in proptest::collection::vec((observation(), any::<bool>()), 3),
        host in any::<bool>(),
        unknown in proptest::sample::subsequence(EVERYTHING.to_vec(), 0..=1),
        is_overdue in any::<bool>(),
        debt in proptest::option::of((proptest::sample::select(vec!["c1", "c2", "y"]), proptest::sample::select(vec![None, Some("u"), Some("v")]))),
    ) -> World {
        let base = if namespace { World::of_namespace() } else { World::new() };
        let mut world = base.federated(metadata, placed_on(&clusters)).recorded(&recorded);
        for ((copy, ready), member) in copies.into_iter().zip(world.members.values_mut()) {
            (member.copy, member.ready) = (copy, ready);
        }
        if absent {
            world.federated = None;
        }
        if let Some((member, uid)) = debt {
            world = world.owing(member, uid);
        }
        World { gate, unknown, is_overdue, host_namespace: host.then(|| "u".to_owned()), ..world }
    }
}

proptest! {
    #[test]
    fn no_plan_deletes_without_a_positive_reason(world in world()) {
        let Plan::Work(work) = world.plan() else { return Ok(()) };
        let federated = world.federated.as_ref();
        let selected = |name: &str| match federated.map(|f| &f.placement) {
            Some(Ok(placement::Placement::Clusters(names))) => names.contains(name),
            _ => false,
        };
        for step in &work.steps {
            let removes = matches!(step.action, Action::Delete | Action::Confirm | Action::Unlabel);
            if step.action == Action::Owe {
                let member = &world.members[&step.member];
                let is_known = member.ready && !matches!(member.copy, Observation::Unsynced(Some(_)));
                prop_assert!(world.is_overdue && federated.is_some_and(|f| f.deleting) && !is_known);
            } else if step.action != Action::None {
                prop_assert!(world.members[&step.member].ready, "a member that is away is not written to");
            }
            if removes && federated.is_some_and(|f| !f.deleting) {
                let gated = !world.types.is_namespaces() && world.gate != Some(json!({"spec": {"placement": {"clusterSelector": {}}}}));
                prop_assert!(!selected(&step.member) || gated, "a selected copy stays");
            }
            if matches!(step.action, Action::Delete) {
                let owed = world.debt.as_ref().is_some_and(|debt| debt.clusters.contains_key(step.member.as_str()));
                prop_assert!(federated.is_some() || owed, "what has no federated object is deleted only if that is owed");
                let Observation::Present(copy) = &world.members[&step.member].copy else { panic!("deleted unseen") };
                prop_assert!(world.host_namespace.as_deref() != Some(&*copy.uid) || !world.types.is_namespaces());
            }
        }
    }

    #[test]
    fn a_finalizer_outlives_every_recorded_copy(world in world()) {
        let Plan::Work(work) = world.plan() else { return Ok(()) };
        if work.goal != Goal::Remove {
            return Ok(());
        }
        for (name, member) in &world.members {
            let recorded = world.record.as_ref().is_some_and(|record| record.clusters.contains(name.as_str()));
            let host = matches!(&member.copy, Observation::Present(copy) if world.host_namespace.as_deref() == Some(&*copy.uid));
            if recorded && !host {
                prop_assert!(work.steps.iter().any(|step| step.member == *name), "{name} was forgotten");
            }
        }
    }
}
