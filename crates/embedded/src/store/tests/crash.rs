//! Processes that are killed, and disks that are full. The test binary runs itself again as the process that suffers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

const ROLE: &str = "HANSA_TEST_STORE_ROLE";
const FILE: &str = "HANSA_TEST_STORE_FILE";
const TURNS: &str = "HANSA_TEST_STORE_TURNS";

const WRITERS: usize = 8;

/// Runs this binary as `role`, in a shell that first does what `setup` says.
fn suffer(role: &str, path: &Path, turns: &[u64], setup: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{setup}; exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::crash::the_process_that_suffers", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .env(FILE, path)
        .env(TURNS, turns.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other tests in processes of their own"]
async fn the_process_that_suffers() {
    let Some(path) = std::env::var_os(FILE).map(PathBuf::from) else { return };
    match std::env::var(ROLE).unwrap().as_str() {
        "writer" => write_forever(&path).await,
        "filler" => fill(&path).await,
        _ => println!("opening: {}", Store::open(&path, project).unwrap_err()),
    }
}

/// What a writer does at a turn: it puts its objects in turn, and now and then deletes one.
fn turn(objects: &BTreeMap<String, u64>, turn: u64) -> (String, Option<u64>) {
    let name = format!("object-{}", turn % 5);
    let delete = turn % 7 == 3 && objects.contains_key(&name);
    (name, (!delete).then_some(turn))
}

fn play(objects: &mut BTreeMap<String, u64>, number: u64) {
    match turn(objects, number) {
        (name, Some(value)) => objects.insert(name, value),
        (name, None) => objects.remove(&name),
    };
}

fn objects(store: &Store, writer: usize) -> BTreeMap<String, u64> {
    let page = store.list("pods", Some(&format!("writer-{writer}")), None, None, 0).unwrap();
    page.entries.iter().map(|entry| (entry.key.name.clone(), value(entry))).collect()
}

async fn write_forever(path: &Path) {
    let store = Store::open(path, project).unwrap();
    let turns = std::env::var(TURNS).unwrap();
    let filling = "x".repeat(6000);
    let writers: Vec<_> = turns
        .split(',')
        .map(|turn| turn.parse::<u64>().unwrap())
        .enumerate()
        .map(|(writer, first)| {
            let (store, filling) = (store.clone(), filling.clone());
            tokio::spawn(async move {
                let mut known = objects(&store, writer);
                for number in first.. {
                    let (name, value) = turn(&known, number);
                    let key = key(&format!("writer-{writer}"), &name);
                    let current = store.get(&key);
                    let expect = current.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
                    let draft = Draft::new(&json!({"value": value, "filling": filling}), Facts::default());
                    let op = match value {
                        Some(_) => Op::Put { key, expect, draft },
                        None => Op::Delete { key, expect, last: draft },
                    };
                    let entry = store.write(op).await.unwrap();
                    println!("acknowledged {writer} {number} {} .", entry.revision);
                    play(&mut known, number);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_process_that_is_killed_loses_nothing_acknowledged() {
    let rounds = std::env::var("HANSA_TEST_CRASHES").map_or(20, |rounds| rounds.parse().unwrap());
    let (_directory, path) = file();
    // The next turn of each writer, and what its objects are before it.
    let mut next = vec![(0u64, BTreeMap::new()); WRITERS];
    for round in 0..rounds {
        let turns: Vec<_> = next.iter().map(|(turn, _)| *turn).collect();
        let mut child = suffer("writer", &path, &turns, "true");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut acknowledged = Vec::new();
        // One time in five before or while the file is opened, else amid the stream.
        let enough = if rand::random_ratio(1, 5) { 0 } else { rand::random_range(0..400) };
        if enough == 0 {
            std::thread::sleep(Duration::from_micros(rand::random_range(0..30_000)));
        }
        acknowledged.extend(lines.by_ref().filter(|line| line.contains("acknowledged")).take(enough));
        if enough > 0 && !acknowledged.is_empty() {
            assert!(matches!(Store::open(&path, project), Err(OpenError::Locked { .. })));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(lines.filter(|line| line.contains("acknowledged")));

        let store = Store::open(&path, project).unwrap();
        let mut seen = [None; WRITERS];
        for line in acknowledged.iter().filter(|line| line.ends_with(" .")) {
            let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
            let [writer, turn, revision] = numbers[..] else { panic!("{line}") };
            seen[writer as usize] = Some(turn);
            assert!(store.revision() >= revision, "round {round}: {line}, but {}", store.revision());
        }
        for (writer, (turn, known)) in next.iter_mut().enumerate() {
            let found = objects(&store, writer);
            while seen[writer].is_some_and(|seen| *turn <= seen) {
                play(known, *turn);
                *turn += 1;
            }
            // One write may be durable that was not yet printed, and one more that was not yet acknowledged.
            for _ in 0..2 {
                if found != *known {
                    play(known, *turn);
                    *turn += 1;
                }
            }
            assert_eq!(found, *known, "round {round}, writer {writer}, acknowledged {:?}", seen[writer]);
        }
        store.close().await;
    }
    assert!(next.iter().map(|(turn, _)| turn).sum::<u64>() > 100, "the writers wrote next to nothing");
}

async fn fill(path: &Path) {
    let store = Store::open(path, project).unwrap();
    let filling = "x".repeat(60_000);
    let write = async |number: u64| {
        let draft = Draft::new(&json!({"value": number, "filling": filling}), Facts::default());
        store.write(Op::Put { key: key("x", &number.to_string()), expect: Expect::Absent, draft }).await
    };
    let mut number = 0;
    let error = loop {
        match write(number).await {
            Ok(entry) => assert_eq!(entry.revision, number + 1),
            Err(error) => break error,
        }
        number += 1;
    };
    assert!(matches!(error, WriteError::Full), "{error:?}");
    assert!(matches!(write(number).await, Err(WriteError::Full)));
    assert!(matches!(store.meta_put("m", &[7; 100_000]).await, Err(WriteError::Full)));
    assert_eq!(store.revision(), number);
    assert_eq!(store.count("pods") as u64, number);
    assert_eq!(store.meta_get("m"), None);
    println!("full after {number} .");

    std::io::stdin().read_line(&mut String::new()).unwrap();
    assert_eq!(write(number).await.unwrap().revision, number + 1);
    store.meta_put("m", b"1").await.unwrap();
    store.close().await;
    println!("recovered .");
}

#[tokio::test]
async fn a_full_disk_stops_writes_only_and_only_until_there_is_space() {
    let (_directory, path) = file();
    let mut child = suffer("filler", &path, &[], "trap '' XFSZ; ulimit -S -f 8192");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let full = lines.find(|line| line.contains("full after")).unwrap();
    let written: u64 = full.split(' ').filter_map(|word| word.parse().ok()).next().unwrap();
    assert!(written > 5, "{full}");
    let freed =
        Command::new("prlimit").args(["--pid", &child.id().to_string(), "--fsize=unlimited:"]).status();
    assert!(freed.unwrap().success());
    writeln!(child.stdin.take().unwrap()).unwrap();
    assert!(lines.any(|line| line.contains("recovered")));
    assert!(child.wait().unwrap().success());

    let store = Store::open(&path, project).unwrap();
    assert_eq!((store.revision(), store.count("pods") as u64), (written + 1, written + 1));
    assert_eq!(store.meta_get("m").unwrap(), b"1");
    store.close().await;
}

#[test]
fn a_store_that_finds_no_space_at_all_says_so_and_leaves_nothing_behind() {
    let (directory, path) = file();
    let child = suffer("opener", &path, &[], "trap '' XFSZ; ulimit -S -f 1");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("opening: no space is left for {}", path.display())), "{said}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
