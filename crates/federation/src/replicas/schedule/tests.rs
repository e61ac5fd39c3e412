use super::*;
use proptest::prelude::*;

use crate::replicas::cases::{Case, cases};

/// As in the planner's table, of equal clusters A comes first, then B and C.
const TABLE: &str = "
    no preferences are equal weights              | 6 move  |                  | A B       | A=3 B=3
    just as many as run stay where they are       | 10 keep | *=1              | A:9 B:1   | A=9 B=1
    a maximum moves what runs, as in the original | 10 keep | A=1[..4] B=1     | A:8 B:2   | A=4 B=6

    (26) fewer than run: everybody gives up a part | 6 keep | *=1              | A:5 B:5   | A=3 B=3
    (26) the case the original calls wrong        | 50 keep | *=1              | A:10 B:70 | A=10 B=40
    (26) nobody grows on the way down             | 6 keep  | *=1              | A:8 B:2   | A=4 B=2
    (26) a new cluster gets nothing on the way down | 1 keep | *=1             | A:30 B    | A=1 B=0
    (26) weights hold on the way down             | 6 keep  | A=1 B=2          | A:5 B:5   | A=2 B=4
    (26) what has no weight goes first            | 6 keep  | A=0 B=1          | A:4 B:6   | A=0 B=6
    (26) what has no weight stays if there is a rest | 8 keep | A=0 B=1        | A:4 B:6   | A=2 B=6
    (26) the rest is shared among those without   | 8 keep  | A=0 B=0 C=1      | A:4 B:4 C:4 | A=2 B=2 C=4
    (26) minimums hold on the way down            | 6 keep  | A=1 B=1[5..]     | A:5 B:5   | A=1 B=5
    (26) a minimum may grow on the way down       | 6 keep  | A=1[3..] B=1     | A:1 B:9   | A=3 B=3
    (26) maximums hold on the way down            | 6 keep  | A=1[..2] B=1     | A:5 B:5   | A=2 B=4
    (26) rooms hold on the way down               | 6 keep  | *=1              | A:5/2 B:5 | A=2 B=4
    (26) what nothing speaks for goes             | 4 keep  | A=1              | A:6 B:3   | A=4 B=0
    (26) down to nothing                          | 0 keep  | *=1              | A:6 B:3   | A=0 B=0

    (27) a negative sum is none                   | -5 move | *=1              | A B       | A=0 B=0
    (27) a negative minimum is none               | 4 move  | A=1[-2..] B=1    | A B       | A=2 B=2
    (27) a negative maximum is zero               | 4 move  | A=1[..-1] B=1    | A B       | A=0 B=4
    (27) a negative room is none                  | 4 move  | *=1              | A/-1 B    | A=0+2 B=4
    (27) a negative weight is none                | 4 move  | A=-1 B=1         | A B       | A=0 B=4
    a minimum above the maximum is the maximum    | 5 move  | A=1[5..3] B=1    | A B       | A=3 B=2
";

fn preferences(
    total: i64,
    rebalance: bool,
    clusters: &BTreeMap<String, ClusterPreferences>,
) -> ReplicaSchedulingPreferenceSpec {
    ReplicaSchedulingPreferenceSpec {
        target_kind: "FederatedDeployment".to_owned(),
        total_replicas: i32::try_from(total).unwrap(),
        rebalance,
        intersect_with_cluster_selector: false,
        clusters: clusters.clone(),
    }
}

fn scheduled(case: &Case) -> BTreeMap<String, i64> {
    let seen = |name: &String| {
        let (current, capacity) = (case.current.get(name).copied(), case.capacity.get(name).copied());
        (name.clone(), Standing::Seen { current, capacity })
    };
    let standings = case.clusters.iter().map(seen).collect();
    schedule(&preferences(case.total, case.rebalance, &case.preferences), &case.key, &standings)
}

fn expected(case: &Case) -> BTreeMap<String, i64> {
    let plan = Plan { replicas: case.plan.clone(), overflow: case.overflow.clone() };
    case.plan.keys().map(|cluster| (cluster.clone(), plan.told(cluster))).collect()
}

#[test]
fn replicas_are_scheduled_as_the_table_says() {
    for case in cases(TABLE) {
        assert_eq!(scheduled(&case), expected(&case), "{}", case.name);
    }
}

/// Whoever comes from KubeFed finds every replica where it is: only scaling down, and nonsense, differ.
#[test]
fn where_nothing_is_scaled_down_the_schedule_is_kubefeds() {
    let mut compared = 0;
    for line in include_str!("../planner/kubefed.jsonl").lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let numbers = case.current.values().chain(case.capacity.values()).chain([&case.total]);
        let sound = |asked: &ClusterPreferences| {
            asked.min_replicas >= 0 && asked.max_replicas.is_none_or(|max| max >= asked.min_replicas)
        };
        let is_sound = numbers.copied().all(|number| number >= 0)
            && case.preferences.values().all(sound)
            && !case.preferences.is_empty();
        let least = |name: &String| {
            case.preferences.get(name).or(case.preferences.get("*")).map_or(0, |asked| asked.min_replicas)
        };
        let runs = |name: &String| case.current.get(name).copied().unwrap_or_default().max(least(name));
        let shrinks = !case.rebalance && case.clusters.iter().map(runs).sum::<i64>() > case.total;
        if is_sound && !shrinks {
            compared += 1;
            assert_eq!(scheduled(&case), expected(&case), "{line}");
        }
    }
    assert!(compared >= 50, "{compared}");
}

fn standings(standings: &[(&str, Standing)]) -> BTreeMap<String, Standing> {
    standings.iter().map(|(name, standing)| ((*name).to_owned(), *standing)).collect()
}

fn seen(current: i64) -> Standing {
    Standing::Seen { current: Some(current), capacity: None }
}

fn away(planned: i64) -> Standing {
    Standing::Away { planned, capacity: None }
}

/// With equal weights, what A and B are told.
fn told(total: i64, rebalance: bool, a: Standing, b: Standing) -> [i64; 2] {
    let told = schedule(
        &preferences(total, rebalance, &BTreeMap::new()),
        "shop/web",
        &standings(&[("A", a), ("B", b)]),
    );
    [told["A"], told["B"]]
}

/// `spec/kubefed.md §6 (29)`
#[test]
fn a_member_that_is_away_keeps_its_replicas() {
    for rebalance in [true, false] {
        assert_eq!(told(10, rebalance, seen(5), away(5)), [5, 5]);
    }
    assert_eq!(told(10, false, seen(2), away(8)), [2, 8]);
}

#[test]
fn a_member_that_is_away_gets_nothing_new_and_gives_up_its_part() {
    for rebalance in [true, false] {
        assert_eq!(told(20, rebalance, seen(5), away(5)), [15, 5]);
        assert_eq!(told(2, rebalance, seen(5), away(5)), [1, 1]);
    }
}

#[test]
fn what_was_seen_of_the_room_of_a_member_holds_while_it_is_away() {
    let b = Standing::Away { planned: 5, capacity: Some(3) };
    assert_eq!(told(10, true, seen(7), b), [7, 5]);
}

#[test]
fn others_run_the_replicas_of_a_lost_member_whose_copy_stays_as_it_is() {
    for rebalance in [true, false] {
        assert_eq!(told(10, rebalance, seen(5), Standing::Lost { planned: 5 }), [10, 5]);
        // It is back, and both give up their part.
        assert_eq!(told(10, rebalance, seen(10), seen(5)), [5, 5]);
    }
}

fn a_standing() -> impl Strategy<Value = Standing> {
    let some = || proptest::option::of(-5..40i64);
    prop_oneof![
        4 => (some(), proptest::option::weighted(0.2, -5..40i64)).prop_map(|(current, capacity)| Standing::Seen { current, capacity }),
        1 => (-5..40i64, some()).prop_map(|(planned, capacity)| Standing::Away { planned, capacity }),
        1 => (-5..40i64).prop_map(|planned| Standing::Lost { planned }),
    ]
}

fn some_preferences() -> impl Strategy<Value = ClusterPreferences> {
    (-3..9i64, proptest::option::of(-3..30i64), -2..9i64).prop_map(|(min_replicas, max_replicas, weight)| {
        ClusterPreferences { min_replicas, max_replicas, weight }
    })
}

fn wild_preferences() -> impl Strategy<Value = ClusterPreferences> {
    (any::<i64>(), any::<Option<i64>>(), any::<i64>()).prop_map(|(min_replicas, max_replicas, weight)| {
        ClusterPreferences { min_replicas, max_replicas, weight }
    })
}

const NAMES: &str = "A|B|C|D|\\*";

proptest! {
    #[test]
    fn every_member_is_told_something_and_nothing_that_is_negative_or_above_its_maximum(
        total in -5..200i64,
        rebalance: bool,
        asked in proptest::collection::btree_map(NAMES, some_preferences(), 0..5),
        given in proptest::collection::btree_map("[A-D]", a_standing(), 0..5),
    ) {
        let preferences = preferences(total, rebalance, &asked);
        let told = schedule(&preferences, "shop/web", &given);
        prop_assert!(told.keys().eq(given.keys()));
        for (name, number) in &told {
            let max = preferences_for(&preferences, name).map_or(Some(0), |asked| asked.max_replicas);
            match given[name] {
                Standing::Lost { planned } => prop_assert_eq!(*number, planned.max(0)),
                Standing::Away { planned, .. } => prop_assert!((0..=planned.max(0)).contains(number)),
                Standing::Seen { .. } => prop_assert!((0..=max.unwrap_or(i64::MAX).max(0)).contains(number)),
            }
        }
    }

    #[test]
    fn no_more_are_told_than_are_asked_for_where_all_have_room(
        total in 0..200i64,
        rebalance: bool,
        asked in proptest::collection::btree_map(NAMES, some_preferences(), 0..5),
        current in proptest::collection::btree_map("[A-D]", 0..40i64, 0..5),
    ) {
        let given = current.into_iter().map(|(name, current)| (name, seen(current))).collect();
        let told = schedule(&preferences(total, rebalance, &asked), "shop/web", &given);
        prop_assert!(told.values().sum::<i64>() <= total);
    }

    /// On the way down nobody gets more than it has, all that are wanted stay, and whichever member is done first changes nothing.
    #[test]
    fn scaling_down_goes_straight_to_its_end(
        asked in proptest::collection::btree_map("A|B|C|D", 0..5i64, 4),
        running in proptest::collection::btree_map("A|B|C|D", 0..40i64, 4),
        part in 0.0..1.0f64,
        progress in proptest::collection::vec(0.0..1.0f64, 4),
    ) {
        let weights: BTreeMap<_, _> =
            asked.into_iter().map(|(name, weight)| (name, ClusterPreferences { weight, ..ClusterPreferences::default() })).collect();
        let total = (running.values().sum::<i64>() as f64 * part) as i64;
        let at = |running: &BTreeMap<String, i64>| {
            let given = running.iter().map(|(name, current)| (name.clone(), seen(*current))).collect();
            schedule(&preferences(total, false, &weights), "shop/web", &given)
        };
        let end = at(&running);
        prop_assert_eq!(end.values().sum::<i64>(), total);
        prop_assert!(end.iter().all(|(name, told)| *told <= running[name]));
        let between = running.iter().zip(&progress).map(|((name, from), progress)| {
            let (from, to) = (*from, end[name]);
            (name.clone(), from - ((from - to) as f64 * progress) as i64)
        });
        prop_assert_eq!(at(&between.collect()), end.clone());
        prop_assert_eq!(at(&end), end);
    }

    #[test]
    fn any_numbers_are_harmless(
        total: i32,
        rebalance: bool,
        asked in proptest::collection::btree_map(NAMES, wild_preferences(), 0..5),
        current in proptest::collection::btree_map("[A-D]", any::<(Option<i64>, Option<i64>)>(), 0..5),
    ) {
        let given = current.into_iter().map(|(name, (current, capacity))| (name, Standing::Seen { current, capacity })).collect();
        let told = schedule(&preferences(total.into(), rebalance, &asked), "shop/web", &given);
        prop_assert!(told.values().all(|number| *number >= 0));
    }
}
