//! Measures the store: one JSON line per figure. `cargo bench -p hansa-embedded --bench store`
//!
//! Arguments choose figures by a part of their name; the file lies in `TMPDIR`, whose disk is what is measured.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hansa_embedded::store::{Draft, Expect, Facts, Key, Op, Store};
use serde_json::{Value, json};

type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const OBJECTS: u64 = 10_000;
const SPAN: Duration = Duration::from_secs(4);

fn main() -> Result {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let directory = tempfile::tempdir()?;
    if chosen("fsync") {
        fsync(directory.path())?;
    }
    for writers in [1, 64, 256] {
        if chosen("writes") {
            runtime.block_on(writes(directory.path(), writers))?;
        }
    }
    if chosen("restart") {
        runtime.block_on(restart(directory.path()))?;
    }
    if chosen("gets") || chosen("lists") || chosen("resident") {
        runtime.block_on(reads())?;
    }
    if chosen("watches") {
        runtime.block_on(watches())?;
    }
    Ok(())
}

fn key(number: u64) -> Key {
    static RESOURCE: std::sync::OnceLock<Arc<str>> = std::sync::OnceLock::new();
    let resource = RESOURCE.get_or_init(|| "deployments.apps".into()).clone();
    Key::new(resource, format!("namespace-{}", number % 100), format!("name-{number}"))
}

fn facts(_: &Key, object: &Value) -> Facts {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    Facts {
        labels: labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect(),
        uid: object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        ..Facts::default()
    }
}

/// A small Deployment as an API server keeps it.
fn deployment(number: u64, turn: u64) -> Value {
    let name = format!("name-{number}");
    let labels = json!({"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "guestbook"});
    let container = json!({
        "name": "web", "image": format!("registry.example.org/guestbook/web:1.{turn}"), "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "TURN", "value": turn.to_string()}, {"name": "BACKEND", "value": "http://backend:8080"}],
        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
        "resources": {"limits": {"memory": "128Mi"}, "requests": {"cpu": "100m", "memory": "64Mi"}},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    });
    let owned = json!({"f:replicas": {}, "f:selector": {}, "f:template": {"f:metadata": {"f:labels": {".": {},
        "f:app.kubernetes.io/name": {}, "f:app.kubernetes.io/part-of": {}}}, "f:spec": {"f:containers": {
        "k:{\"name\":\"web\"}": {".": {}, "f:env": {}, "f:image": {}, "f:name": {}, "f:ports": {}, "f:resources": {}}}}}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": name, "namespace": key(number).namespace, "generation": turn, "labels": labels,
            "creationTimestamp": "2026-01-01T00:00:00Z", "uid": format!("6a9a2f9b-5d9b-4d7e-9b58-{number:012x}"),
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "apiVersion": "apps/v1",
                "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": owned}}],
        },
        "spec": {
            "replicas": 3, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": labels}, "spec": {
                "containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            }},
        },
        "status": {"observedGeneration": turn, "replicas": 3, "readyReplicas": 3, "conditions": [
            {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"}]},
    })
}

fn draft(number: u64, turn: u64) -> Draft {
    let object = deployment(number, turn);
    Draft::new(&object, facts(&key(number), &object))
}

fn report(figure: Value) {
    println!("{figure}");
}

/// What the disk does at best: one small append and a sync at a time.
fn fsync(directory: &Path) -> Result {
    let mut file = std::fs::File::create(directory.join("fsync"))?;
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < Duration::from_secs(1) {
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    report(json!({"figure": "fsync", "per_second": count as f64 / start.elapsed().as_secs_f64()}));
    Ok(())
}

/// Each writer creates objects and then updates them at random, one write after the other.
async fn writes(directory: &Path, writers: u64) -> Result {
    let path = directory.join(format!("writes-{writers}"));
    let store = Store::open(&path, facts)?;
    let (start, written, busy) = (Instant::now(), proc("io", "write_bytes:")?, processor()?);
    let share = OBJECTS / writers;
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                let draft = draft(writer, 0);
                let mut random = writer + 1;
                while start.elapsed() < SPAN {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let number = writer * share + (random >> 33) % share;
                    let key = key(number);
                    let expect =
                        store.get(&key).map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
                    let begun = Instant::now();
                    store.write(Op::Put { key, expect, draft: draft.clone() }).await?;
                    latencies.push(begun.elapsed());
                }
                Ok::<_, hansa_embedded::store::WriteError>(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let elapsed = start.elapsed().as_secs_f64();
    latencies.sort();
    let percentile =
        |part: f64| latencies.get((latencies.len() as f64 * part) as usize).map(Duration::as_secs_f64);
    let written = written.zip(proc("io", "write_bytes:")?).map(|(before, after)| after - before);
    let busy = busy.zip(processor()?).map(|(before, after)| (after - before).as_secs_f64());
    let objects = store.count("deployments.apps");
    store.close().await;
    report(json!({
        "figure": "durable writes", "writers": writers, "per_second": latencies.len() as f64 / elapsed,
        "p50_ms": percentile(0.5).map(|s| s * 1e3), "p99_ms": percentile(0.99).map(|s| s * 1e3),
        "p999_ms": percentile(0.999).map(|s| s * 1e3),
        "disk_bytes_per_write": written.map(|bytes| bytes / latencies.len() as u64), "object_bytes": draft(0, 0).size(),
        "processor_us_per_write": busy.map(|busy| busy * 1e6 / latencies.len() as f64),
        "objects": objects, "file_mb": std::fs::metadata(&path)?.len() as f64 / 1e6,
    }));
    Ok(())
}

/// Opening a store with all objects in it.
async fn restart(directory: &Path) -> Result {
    let path = directory.join("restart");
    let store = Store::open(&path, facts)?;
    fill(&store).await?;
    store.close().await;
    let start = Instant::now();
    let store = Store::open(&path, facts)?;
    report(json!({"figure": "restart", "objects": OBJECTS, "ms": start.elapsed().as_secs_f64() * 1e3}));
    store.close().await;
    Ok(())
}

async fn fill(store: &Store) -> Result {
    for group in 0..OBJECTS / 100 {
        let writes = (group * 100..group * 100 + 100).map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .write(Op::Put { key: key(number), expect: Expect::Absent, draft: draft(number, 0) })
                    .await
            })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await??;
        }
    }
    Ok(())
}

async fn reads() -> Result {
    let before = resident()?;
    let store = Store::memory();
    fill(&store).await?;
    if let (Some(before), Some(after)) = (before, resident()?) {
        report(json!({
            "figure": "resident bytes per object, history included", "objects": OBJECTS, "object_bytes": draft(0, 0).size(),
            "bytes": (after.saturating_sub(before)) / OBJECTS,
        }));
    }
    let busy = Arc::new(AtomicU64::new(1));
    let writer = {
        let (store, busy) = (store.clone(), busy.clone());
        tokio::spawn(async move {
            for turn in 0.. {
                if busy.load(Ordering::Relaxed) == 0 {
                    break;
                }
                let key = key(turn % OBJECTS);
                let expect = store.get(&key).map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
                store.write(Op::Put { key, expect, draft: draft(turn % OBJECTS, turn) }).await?;
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            Ok::<_, hansa_embedded::store::WriteError>(())
        })
    };
    let (start, mut gets) = (Instant::now(), 0u64);
    while start.elapsed() < Duration::from_secs(1) {
        for number in 0..1000 {
            std::hint::black_box(store.get(&key((gets + number) * 7919 % OBJECTS)));
        }
        gets += 1000;
        tokio::task::yield_now().await;
    }
    report(
        json!({"figure": "gets while writing", "per_second": gets as f64 / start.elapsed().as_secs_f64()}),
    );
    for (name, at) in [("lists of all", None), ("lists of all in the past", Some(store.revision()))] {
        let (start, mut lists) = (Instant::now(), 0u64);
        while start.elapsed() < Duration::from_secs(1) {
            std::hint::black_box(store.list("deployments.apps", None, None, at, 0)?);
            lists += 1;
            tokio::task::yield_now().await;
        }
        let each = start.elapsed().as_secs_f64() * 1e3 / lists as f64;
        report(json!({"figure": name, "objects": OBJECTS, "ms": each}));
    }
    busy.store(0, Ordering::Relaxed);
    writer.await??;
    Ok(())
}

/// Ten thousand watches: of one resource, so that each write wakes all; and of a namespace each, so that it wakes one.
async fn watches() -> Result {
    const WATCHERS: u64 = 10_000;
    for (name, apart) in [("watches of one resource", false), ("watches of a namespace each", true)] {
        let store = Store::memory();
        let seen = Arc::new(AtomicU64::new(0));
        let before = resident()?;
        let resource: Arc<str> = "deployments.apps".into();
        for number in 0..WATCHERS {
            let namespace = format!("namespace-{number}");
            let mut watch = store.watch(resource.clone(), apart.then_some(namespace.as_str()), 0)?;
            let seen = seen.clone();
            tokio::spawn(async move {
                while watch.next().await.is_ok() {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let after = resident()?;
        let (writes, expected) = if apart { (WATCHERS, WATCHERS) } else { (50, 50 * WATCHERS) };
        let start = Instant::now();
        for number in 0..writes {
            let key = Key::new(resource.clone(), format!("namespace-{number}"), "name");
            store.write(Op::Put { key, expect: Expect::Absent, draft: draft(number, 0) }).await?;
        }
        let written = start.elapsed();
        while seen.load(Ordering::Relaxed) < expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        report(json!({
            "figure": name, "watches": WATCHERS, "writes": writes,
            "writes_per_second": writes as f64 / written.as_secs_f64(),
            "events_per_second": expected as f64 / start.elapsed().as_secs_f64(),
            "resident_bytes_per_watch": after.zip(before).map(|(after, before)| after.saturating_sub(before) / WATCHERS),
        }));
        store.close().await;
    }
    Ok(())
}

/// The resident memory of this process, where the system tells.
fn resident() -> Result<Option<u64>> {
    Ok(proc("status", "VmRSS:")?.map(|kilobytes| kilobytes * 1024))
}

/// What the system says of this process in `/proc`.
fn proc(file: &str, field: &str) -> Result<Option<u64>> {
    let Ok(text) = std::fs::read_to_string(format!("/proc/self/{file}")) else { return Ok(None) };
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    Ok(line.and_then(|line| line.split_whitespace().next()).map(str::parse).transpose()?)
}

/// The processor time this process took, where the system tells.
fn processor() -> Result<Option<Duration>> {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return Ok(None) };
    // The fields behind the name, which is in parentheses; times count hundredths of a second.
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let [Some(user), Some(system)] = [11, 12].map(|at| fields.get(at)) else { return Ok(None) };
    Ok(Some(Duration::from_millis(10 * (user.parse::<u64>()? + system.parse::<u64>()?))))
}
