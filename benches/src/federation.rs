//! The controllers at the size of the design: a hundred members, ten thousand federated objects, a hundred thousand copies.

use std::{
    env,
    path::Path,
    time::{Duration, Instant},
};

use hansa_embedded::local::Select;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{
    client::block_on,
    controllers::Controllers,
    figure,
    fleet::{Fleet, NAMESPACE, federated, spread, text},
    percentile, real_federation,
};

const PLACEMENTS: usize = 10;
const CHANGES: usize = 100;
/// How many objects the bare loop writes.
const BARE_OBJECTS: usize = 2_000;

pub fn run() {
    block_on(measure(number("MEMBERS", 100), number("OBJECTS", 10_000)));
    real_federation::run();
}

fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn say(name: &str, value: &str) {
    figure("federation", name, value);
}

async fn measure(members: usize, objects: usize) {
    let dir = TempDir::new().unwrap();
    let fleet = Fleet::start(dir.path(), members).await;
    let bare = fleet.bare(dir.path(), BARE_OBJECTS.min(objects), PLACEMENTS).await;
    fleet.end().await;

    let fleet = Fleet::start(dir.path(), members).await;
    fleet
        .federate((0..objects).map(|n| federated(&format!("o{n}"), spread(n, PLACEMENTS, members), &text(0))))
        .await;
    // The namespaces go ahead, so that both loops write the same.
    let before = fleet.copies();
    let mut controllers = Controllers::hansa(&fleet.host.kubeconfig, dir.path());
    let mut began = None;
    let total = objects * PLACEMENTS;
    let mut marks = Vec::new();
    while fleet.copies() - before < total {
        controllers.process.check().unwrap_or_else(|error| panic!("{error}"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let copies = fleet.copies() - before;
        if copies > 0 {
            let began = began.get_or_insert_with(Instant::now);
            marks.push((began.elapsed().as_secs_f64(), copies));
        }
    }
    let (took, copies) = marks.last().copied().unwrap_or_default();
    let rate = copies as f64 / took;
    say(
        &format!("first roll-out of {total} copies"),
        &format!("{took:.1} s, {rate:.0}/s, {:.2} of the bare loop's {bare:.0}/s", rate / bare),
    );
    say("peak resident during the roll-out", &controllers.memory("VmHWM"));
    let cpu = controllers.at_rest().await;
    say("processor time of the controllers for it", &format!("{cpu:.1} s"));
    say("resident, steady", &controllers.resident());
    let (idle, resident) = controllers.idle(Duration::from_secs(30)).await;
    say("at rest for 30 s: processor, resident", &format!("{idle:.1} millicores, {resident}"));

    change(&fleet, members).await;
    restart(&fleet, controllers, dir.path(), members).await;
    fleet.end().await;
}

/// One object on every member, whose template changes again and again.
async fn change(fleet: &Fleet, members: usize) {
    let (sender, mut arrivals) = mpsc::channel(members * 2);
    let select = Select { fields: "metadata.name=wide".to_owned(), ..Select::default() };
    for member in &fleet.members {
        let mut changes =
            member.server.local().watch("configmaps", NAMESPACE, &select, member.revision()).unwrap();
        let sender = sender.clone();
        tokio::spawn(async move {
            while changes.next().await.is_ok() && sender.send(Instant::now()).await.is_ok() {}
        });
    }
    fleet.federate([federated("wide", 0..members, &text(0))]).await;
    let mut times = Vec::new();
    for edition in 0..=CHANGES {
        let started = Instant::now();
        if edition > 0 {
            let patch = json!({"spec": {"template": {"data": {"text": text(edition)}}}});
            patched(fleet, "wide", &patch).await;
        }
        let mut last = started;
        for _ in 0..members {
            last = tokio::time::timeout(Duration::from_secs(60), arrivals.recv()).await.unwrap().unwrap();
        }
        // The first is a creation.
        if edition > 0 {
            times.push((last - started).as_secs_f64() * 1000.0);
        }
    }
    times.sort_by(f64::total_cmp);
    say(
        &format!("one changed template reaches {members} members"),
        &format!("p50 {:.0} ms, p99 {:.0} ms", percentile(&times, 0.5), percentile(&times, 0.99)),
    );
}

async fn patched(fleet: &Fleet, name: &str, patch: &serde_json::Value) {
    let local = fleet.host.server.local();
    let resource = "federatedconfigmaps.types.kubefed.io";
    local
        .patch(resource, "", NAMESPACE, name, hansa_embedded::PatchKind::Merge, patch.clone())
        .await
        .unwrap();
}

/// Stops the controllers, changes one object, starts them again: nothing else may be written.
async fn restart(fleet: &Fleet, mut controllers: Controllers, dir: &Path, members: usize) {
    // An orderly end gives the lease back, so that the successor need not wait until it has run out.
    controllers.process.interrupt();
    let patch = json!({"spec": {"template": {"data": {"text": "after the restart"}}}});
    patched(fleet, "o0", &patch).await;
    let (written, hosts) = (fleet.member_writes(), fleet.host.revision());
    let started = Instant::now();
    let mut controllers = Controllers::hansa(&fleet.host.kubeconfig, dir);
    while fleet.member_writes() < written + PLACEMENTS as u64 {
        controllers.process.check().unwrap_or_else(|error| panic!("{error}"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let changed = started.elapsed().as_secs_f64();
    let cpu = controllers.at_rest().await;
    let steady = started.elapsed().as_secs_f64() - 1.0;
    say(
        &format!("restart with {members} members: the one change made meanwhile arrives, at rest"),
        &format!("{changed:.1} s, {steady:.1} s, {cpu:.1} s of processor time"),
    );
    let (writes, hosts) =
        (fleet.member_writes() - written - PLACEMENTS as u64, fleet.host.revision() - hosts);
    say("writes to members besides that change, writes to the host", &format!("{writes}, {hosts}"));
    say(
        "resident after the restart, peak",
        &format!("{}, {}", controllers.resident(), controllers.memory("VmHWM")),
    );
}
