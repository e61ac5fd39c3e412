//! The store as its users see it.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

mod cleaning;
mod concurrent;
#[cfg(target_os = "linux")]
mod crash;
mod model;
mod open;

fn key(namespace: &str, name: &str) -> Key {
    Key::new("pods", namespace, name)
}

fn project(_: &Key, object: &Value) -> Facts {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    Facts {
        uid: object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        owners: owners.filter_map(|owner| owner["uid"].as_str()).map(str::to_owned).collect(),
        ..Facts::default()
    }
}

fn object(key: &Key, value: u64) -> Value {
    json!({"metadata": {"namespace": key.namespace, "name": key.name}, "value": value})
}

fn put(key: &Key, expect: Expect, value: u64) -> Op {
    Op::Put { key: key.clone(), expect, draft: Draft::new(&object(key, value), Facts::default()) }
}

fn delete(key: &Key, revision: u64) -> Op {
    let last = Draft::new(&object(key, 0), Facts::default());
    Op::Delete { key: key.clone(), expect: Expect::Revision(revision), last }
}

fn value(entry: &Entry) -> u64 {
    let object: Value = serde_json::from_slice(&entry.object).unwrap();
    assert_eq!(object["metadata"]["resourceVersion"], json!(entry.revision.to_string()));
    object["value"].as_u64().unwrap()
}

fn names(page: &Page) -> Vec<String> {
    page.entries.iter().map(|entry| format!("{}/{}", entry.key.namespace, entry.key.name)).collect()
}

fn file() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    (directory, path)
}

#[tokio::test]
async fn a_write_is_there_after_a_restart() {
    let (_directory, path) = file();
    let store = Store::open(&path, project).unwrap();
    let (a, b) = (key("x", "a"), key("x", "b"));
    let first = store.write(put(&a, Expect::Absent, 1)).await.unwrap();
    assert_eq!(first.revision, 1);
    let second = store.write(put(&a, Expect::Revision(1), 2)).await.unwrap();
    store.write(put(&b, Expect::Absent, 3)).await.unwrap();
    store.write(delete(&b, 3)).await.unwrap();
    store.meta_put("ca", b"secret").await.unwrap();
    store.close().await;
    assert!(matches!(store.write(put(&b, Expect::Absent, 3)).await, Err(WriteError::Closed)));

    let store = Store::open(&path, project).unwrap();
    assert_eq!(store.revision(), 4);
    assert_eq!(*store.get(&a).unwrap(), *second);
    assert_eq!(store.get(&b), None);
    assert_eq!(store.meta_get("ca").unwrap(), b"secret");
    assert!(matches!(store.watch("pods", None, 3), Err(Compacted { requested: 3, oldest: 4, current: 4 })));
    let mut watch = store.watch("pods", None, 4).unwrap();
    store.write(put(&b, Expect::Absent, 5)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision(), 5);
    store.close().await;
    assert_eq!(watch.next().await, Err(WatchError::Closed));
}

#[tokio::test]
async fn a_write_that_expects_something_else_is_refused() {
    let store = Store::memory();
    let a = key("x", "a");
    assert!(matches!(
        store.write(put(&a, Expect::Revision(1), 1)).await,
        Err(WriteError::Changed { current: None })
    ));
    let entry = store.write(put(&a, Expect::Absent, 1)).await.unwrap();
    match store.write(put(&a, Expect::Absent, 2)).await {
        Err(WriteError::Exists(found)) => assert_eq!(found, entry),
        other => panic!("{other:?}"),
    }
    match store.write(delete(&a, 7)).await {
        Err(WriteError::Changed { current }) => assert_eq!(current, Some(entry)),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.revision(), 1);
}

#[tokio::test]
async fn a_list_is_paged_at_one_revision() {
    let store = Store::memory();
    for (namespace, name) in [("a", "1"), ("a", "2"), ("b", "0"), ("b", "9"), ("c", "5")] {
        store.write(put(&key(namespace, name), Expect::Absent, 1)).await.unwrap();
    }
    let first = store.list("pods", None, None, None, 2).unwrap();
    assert_eq!(names(&first), ["a/1", "a/2"]);
    assert_eq!((first.revision, first.remaining, first.more), (5, 3, true));

    store.write(delete(&key("b", "0"), 3)).await.unwrap();
    store.write(put(&key("b", "9"), Expect::Revision(4), 2)).await.unwrap();
    store.write(put(&key("b", "1"), Expect::Absent, 1)).await.unwrap();
    store.write(delete(&key("b", "1"), 8)).await.unwrap();

    let second = store.list("pods", None, Some(("a", "2")), Some(5), 2).unwrap();
    assert_eq!(names(&second), ["b/0", "b/9"]);
    assert_eq!(value(&second.entries[1]), 1);
    assert_eq!((second.revision, second.remaining, second.more), (5, 1, true));
    assert_eq!(names(&store.list("pods", Some("b"), Some(("b", "0")), Some(5), 0).unwrap()), ["b/9"]);
    assert_eq!(names(&store.list("pods", Some("b"), Some(("a", "7")), None, 0).unwrap()), ["b/9"]);
    assert_eq!(names(&store.list("pods", Some("b"), Some(("c", "0")), None, 0).unwrap()), [""; 0]);
    assert_eq!(names(&store.list("pods", None, None, Some(0), 0).unwrap()), [""; 0]);
    assert!(store.list("pods", None, None, Some(10), 0).is_err());
    assert_eq!(store.count("pods"), 4);
}

#[tokio::test]
async fn a_watch_sees_its_namespace_and_its_resource_only() {
    let store = Store::memory();
    let mut all = store.watch("pods", None, 0).unwrap();
    let mut one = store.watch("pods", Some("b"), 0).unwrap();
    let a = key("a", "1");
    let b = key("b", "1");
    store.write(put(&a, Expect::Absent, 1)).await.unwrap();
    store.write(put(&Key::new("services", "b", "1"), Expect::Absent, 1)).await.unwrap();
    store.write(put(&b, Expect::Absent, 2)).await.unwrap();
    store.write(put(&b, Expect::Revision(3), 3)).await.unwrap();
    store.write(delete(&b, 4)).await.unwrap();
    assert_eq!(all.next().await.unwrap().entry.key, a);
    let created = one.next().await.unwrap();
    assert_eq!((created.kind, created.previous), (EventKind::Put { created: true }, None));
    let updated = one.next().await.unwrap();
    assert_eq!(updated.kind, EventKind::Put { created: false });
    assert_eq!(updated.previous, Some(created.entry));
    let deleted = one.next().await.unwrap();
    assert_eq!((deleted.kind, deleted.revision()), (EventKind::Delete, 5));
    assert_eq!(deleted.previous, Some(updated.entry));
    assert_eq!(one.progress().unwrap(), 5);
}

#[tokio::test]
async fn a_quiet_watch_outlives_the_history_and_a_slow_one_does_not() {
    let store = Store::memory_with(Limits { events: 10, ..Limits::default() });
    let mut quiet = store.watch("pods", Some("quiet"), 0).unwrap();
    let mut slow = store.watch("pods", Some("busy"), 0).unwrap();
    for number in 0..20 {
        store.write(put(&key("busy", &number.to_string()), Expect::Absent, 1)).await.unwrap();
    }
    let compacted = Compacted { requested: 0, oldest: 10, current: 20 };
    assert_eq!(slow.next().await, Err(WatchError::Compacted(compacted)));
    assert_eq!(store.watch("pods", Some("new"), 0).unwrap_err(), compacted);
    assert_eq!(store.list("pods", None, None, Some(9), 0), Err(Compacted { requested: 9, ..compacted }));
    assert_eq!(store.list("pods", None, None, Some(10), 0).unwrap().entries.len(), 10);

    store.write(put(&key("quiet", "a"), Expect::Absent, 1)).await.unwrap();
    assert_eq!(quiet.next().await.unwrap().revision(), 21);
}

#[tokio::test]
async fn dropping_the_future_of_a_watch_loses_nothing() {
    let store = Store::memory();
    let mut watch = store.watch("pods", None, 0).unwrap();
    assert!(tokio::time::timeout(std::time::Duration::ZERO, watch.next()).await.is_err());
    store.write(put(&key("x", "a"), Expect::Absent, 1)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision(), 1);
}

#[tokio::test]
async fn progress_says_what_was_seen_and_no_more() {
    let store = Store::memory();
    let mut watch = store.watch("pods", Some("x"), 0).unwrap();
    assert_eq!(watch.progress().unwrap(), 0);
    store.write(put(&key("y", "a"), Expect::Absent, 1)).await.unwrap();
    assert_eq!(watch.progress().unwrap(), 1);
    store.write(put(&key("x", "a"), Expect::Absent, 1)).await.unwrap();
    store.write(put(&key("x", "b"), Expect::Absent, 1)).await.unwrap();
    store.write(put(&key("y", "b"), Expect::Absent, 1)).await.unwrap();
    assert_eq!(watch.progress().unwrap(), 1);
    watch.next().await.unwrap();
    assert_eq!(watch.progress().unwrap(), 2);
    watch.next().await.unwrap();
    assert_eq!(watch.progress().unwrap(), 4);
}

#[tokio::test]
async fn dependents_are_found_by_the_uid_of_their_owner() {
    let (_directory, path) = file();
    let mut store = Store::open(&path, project).unwrap();
    let owned = |key: &Key, expect, owners: &[&str]| {
        let owners: Vec<_> = owners.iter().map(|uid| json!({"uid": uid})).collect();
        let object = json!({"metadata": {"ownerReferences": owners}});
        Op::Put { key: key.clone(), expect, draft: Draft::new(&object, project(key, &object)) }
    };
    let (a, b, c) = (key("x", "a"), key("x", "b"), key("y", "c"));
    store.write(owned(&a, Expect::Absent, &["1"])).await.unwrap();
    store.write(owned(&b, Expect::Absent, &["1", "2"])).await.unwrap();
    store.write(owned(&c, Expect::Absent, &["2"])).await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.owned_by("1"), [a.clone(), b.clone()]);
        assert_eq!(store.owned_by("2"), [b.clone(), c.clone()]);
        assert_eq!(store.owned_by("3"), []);
        store.close().await;
        store = Store::open(&path, project).unwrap();
    }
    store.write(owned(&a, Expect::Revision(1), &[])).await.unwrap();
    store.write(delete(&b, 2)).await.unwrap();
    assert_eq!(store.owned_by("1"), []);
    assert_eq!(store.owned_by("2"), [c]);
    store.close().await;
}

#[tokio::test]
async fn the_file_stays_in_proportion_to_what_lives() {
    let (_directory, path) = file();
    let mut store = Store::open(&path, project).unwrap();
    let keys: Vec<_> = (0..8).map(|name| key("x", &name.to_string())).collect();
    let cold = store.write(put(&key("y", "cold"), Expect::Absent, 1)).await.unwrap();
    let filling = "x".repeat(100_000);
    for round in 0..40 {
        if round % 10 == 9 {
            store.close().await;
            store = Store::open(&path, project).unwrap();
        }
        let writes = keys.iter().map(|key| {
            let expect = store.get(key).map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
            let draft = Draft::new(&json!({"value": round, "filling": filling}), Facts::default());
            store.write(Op::Put { key: key.clone(), expect, draft })
        });
        for written in futures::future::join_all(writes).await {
            written.unwrap();
        }
    }
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 20_000_000, "{size} bytes for 800 kB after 32 MB were written");
    store.close().await;
    let store = Store::open(&path, project).unwrap();
    assert!(keys.iter().all(|key| value(&store.get(key).unwrap()) == 39));
    assert_eq!(store.get(&cold.key), Some(cold));
    store.close().await;
}
