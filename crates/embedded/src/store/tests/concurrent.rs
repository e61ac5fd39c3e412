//! Many at once.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_increment_is_lost_among_concurrent_writers() {
    const WRITERS: u64 = 16;
    const TURNS: u64 = 25;
    let (_directory, path) = file();
    let store = Store::open(&path, project).unwrap();
    let counter = key("x", "counter");
    store.write(put(&counter, Expect::Absent, 0)).await.unwrap();

    let mut watch = store.watch("pods", None, 1).unwrap();
    let watcher = tokio::spawn(async move {
        for turn in 1..=WRITERS * TURNS {
            let event = watch.next().await.unwrap();
            assert_eq!((event.revision(), value(&event.entry)), (turn + 1, turn));
            assert_eq!(value(event.previous.as_ref().unwrap()), turn - 1);
        }
    });
    let reader = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut last = 0;
            while last < WRITERS * TURNS + 1 {
                let page = store.list("pods", None, None, None, 0).unwrap();
                assert_eq!(page.entries[0].revision, page.revision);
                assert!(page.revision >= last && store.revision() >= page.revision);
                last = page.revision;
                tokio::task::yield_now().await;
            }
        })
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (store, counter) = (store.clone(), counter.clone());
            tokio::spawn(async move {
                for _ in 0..TURNS {
                    let mut current = store.get(&counter).unwrap();
                    while let Err(refused) = store
                        .write(put(&counter, Expect::Revision(current.revision), value(&current) + 1))
                        .await
                    {
                        let WriteError::Changed { current: Some(newer) } = refused else {
                            panic!("{refused}")
                        };
                        current = newer;
                    }
                }
            })
        })
        .collect();
    for task in writers.into_iter().chain([watcher, reader]) {
        task.await.unwrap();
    }
    assert_eq!(value(&store.get(&counter).unwrap()), WRITERS * TURNS);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watches_come_and_go_while_others_write() {
    let store = Store::memory_with(Limits { events: 100, ..Limits::default() });
    let watchers: Vec<_> = (0..20)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    let namespace = format!("n{}", number % 3);
                    let from = store.list("pods", Some(&namespace), None, None, 0).unwrap().revision;
                    let Ok(mut watch) = store.watch("pods", Some(&namespace), from) else { continue };
                    match watch.next().await {
                        Ok(event) => {
                            assert!(event.revision() > from && event.entry.key.namespace == namespace)
                        }
                        Err(error) => assert!(matches!(error, WatchError::Compacted(_)), "{error}"),
                    }
                }
            })
        })
        .collect();
    let mut turn = 0;
    while !watchers.iter().all(tokio::task::JoinHandle::is_finished) {
        store
            .write(put(&key(&format!("n{}", turn % 3), &turn.to_string()), Expect::Absent, turn))
            .await
            .unwrap();
        turn += 1;
        tokio::task::yield_now().await;
    }
    for watcher in watchers {
        watcher.await.unwrap();
    }
}
