//! Files that cannot be opened, and what is said of them.

use std::fs;

use redb::{Database, TableDefinition};

use super::*;

#[tokio::test]
async fn a_file_in_use_is_refused() {
    let (_directory, path) = file();
    let store = Store::open(&path, project).unwrap();
    let error = Store::open(&path, project).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    store.close().await;
    Store::open(&path, project).unwrap().close().await;
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let (directory, path) = file();
    fs::write(&path, "").unwrap();
    let error = Store::open(path.join("state"), project).unwrap_err();
    assert!(matches!(error, OpenError::NotWritable { .. }), "{error:?}");

    let closed = directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let mut permissions = fs::metadata(&closed).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&closed, permissions).unwrap();
    // Nothing is closed to the superuser.
    if fs::write(closed.join("probe"), "").is_err() {
        let error = Store::open(closed.join("state"), project).unwrap_err();
        assert!(matches!(error, OpenError::NotWritable { .. }), "{error:?}");
    }
}

const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");

fn write_format(path: &Path, format: u64) {
    let database = Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(COUNTERS).unwrap().insert("format", format).unwrap();
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let (_directory, path) = file();
    Store::open(&path, project).unwrap().close().await;
    write_format(&path, 2);
    let error = Store::open(&path, project).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error:?}");
    write_format(&path, 1);
    Store::open(&path, project).unwrap().close().await;
}

#[test]
fn the_file_of_another_program_is_refused_and_left_alone() {
    let (_directory, path) = file();
    for content in ["", "apiVersion: v1\n", &"x".repeat(100_000)] {
        fs::write(&path, content).unwrap();
        let error = Store::open(&path, project).unwrap_err();
        assert!(matches!(error, OpenError::NotOurs { .. }), "{error:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<u64, u64>::new("log")).unwrap().insert(1, 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Store::open(&path, project).unwrap_err();
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error:?}");
}

#[tokio::test]
async fn damage_is_found_and_never_served() {
    let (_directory, path) = file();
    let store = Store::open(&path, project).unwrap();
    let keys: Vec<_> = (0..100).map(|name| key("x", &name.to_string())).collect();
    for written in
        futures::future::join_all(keys.iter().map(|key| store.write(put(key, Expect::Absent, 7)))).await
    {
        written.unwrap();
    }
    let good = store.list("pods", None, None, None, 0).unwrap();
    store.close().await;
    let bytes = fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let mut found = 0;
    for offset in (0..used).step_by(used / 60) {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 0x10;
        fs::write(&path, damaged).unwrap();
        match Store::open(&path, project) {
            // A page that is not in use.
            Ok(store) => {
                assert_eq!(store.list("pods", None, None, None, 0).unwrap(), good, "offset {offset}");
                store.close().await;
            }
            Err(OpenError::Corrupt { .. } | OpenError::NotOurs { .. }) => found += 1,
            Err(error) => panic!("offset {offset}: {error:?}"),
        }
    }
    assert!(found > 0);
}

#[test]
fn of_many_that_make_the_same_store_one_gets_it() {
    let (_directory, path) = file();
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| Store::open(&path, project))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(opened.iter().filter(|opened| opened.is_ok()).count(), 1, "{opened:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_the_file_and_its_directory() {
    use std::os::unix::fs::PermissionsExt;
    let (directory, _) = file();
    let path = directory.path().join("data/of/ours/state");
    Store::open(&path, project).unwrap().close().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let files: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["state"]);
}
