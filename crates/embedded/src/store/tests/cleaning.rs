//! Groups of writes over a log that is cleaned all the time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// One write of a group: of which object, whether a deletion, and how large.
type Step = (usize, bool, usize);

fn groups() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step =
        (0usize..12, proptest::bool::weighted(0.3), prop_oneof![9 => 0usize..600, 1 => 4000usize..9000]);
    proptest::collection::vec(proptest::collection::vec(step, 1..5), 1..40)
}

fn open(path: &Path) -> (Arc<Shared>, Writer) {
    let mut file = File::open(path).unwrap();
    file.slack = 0;
    let Contents { revision, entries, meta } = file.load(project).unwrap();
    let shared = Arc::new(Shared::new(State::new(Limits::default(), revision, entries, meta)));
    (shared.clone(), Writer::new(shared, Some(file)))
}

fn all(shared: &Shared) -> BTreeMap<Key, Arc<Entry>> {
    let page = shared.read().list("pods", Scope { namespace: None, after: None }, None, 0).unwrap();
    page.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_lives_survives_cleaning_and_nothing_else_does(groups in groups()) {
        let (_directory, path) = file();
        let (mut shared, mut writer) = open(&path);
        for (round, group) in groups.into_iter().enumerate() {
            let ops: Vec<_> = group
                .into_iter()
                .map(|(name, delete, size)| {
                    let key = key("x", &name.to_string());
                    let current = shared.read().get(&key).map(|entry| entry.revision);
                    let expect = current.map_or(Expect::Absent, Expect::Revision);
                    let draft = Draft::new(&json!({"filling": "x".repeat(size)}), Facts::default());
                    match delete && current.is_some() {
                        true => Op::Delete { key, expect, last: draft },
                        false => Op::Put { key, expect, draft },
                    }
                })
                .collect();
            let before = shared.read().revision;
            let outcome = writer.commit(ops, vec![]);
            let written: Vec<_> = outcome.writes.iter().flatten().map(|entry| entry.revision).collect();
            let after = shared.read().revision;
            prop_assert_eq!(written, (before + 1..=after).collect::<Vec<_>>());
            if round % 3 == 2 {
                let (known, revision) = (all(&shared), shared.read().revision);
                drop(writer);
                (shared, writer) = open(&path);
                prop_assert_eq!(all(&shared), known);
                prop_assert_eq!(shared.read().revision, revision);
            }
        }
    }
}
