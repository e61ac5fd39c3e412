//! Sessions come, serve and go: several agents, several towers, revocation, and an end in good order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use std::time::Duration;

use hansa_tower::Options;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use support::{ADMIN, Agent, Host, PATIENCE, Replica, asking, member::member, quick, read, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

async fn serves(tower: &Replica, cluster: &str) -> bool {
    tower.get(ADMIN, &format!("/clusters/{cluster}/api"), &[]).await.status == 200
}

#[tokio::test]
async fn of_several_agents_any_serves_and_one_that_dies_takes_only_its_own_requests() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let agent = Agent::join(&host, &tower, "m1").await;
    let (one, two) = (member("one"), member("two"));
    let first = agent.connect(&tower, "i1", one.clone()).await.unwrap();
    until("it serves", async || serves(&tower, "m1").await).await;
    let watch = tower.send(None, asking("GET", ADMIN, "/clusters/m1/api/watch", &[])).await.unwrap();
    assert!(one.has_been_asked("/api/watch"));
    let second = agent.connect(&tower, "i2", two.clone()).await.unwrap();
    // The one with fewer requests under way is chosen.
    until("the other serves as well", async || {
        tower.get(ADMIN, "/clusters/m1/api", &[]).await.body["member"] == "two"
    })
    .await;
    let mut other =
        tower.send(None, asking("GET", ADMIN, "/clusters/m1/api/watch", &[])).await.unwrap().into_body();
    assert!(two.has_been_asked("/api/watch"));
    assert_eq!(other.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    first.kill();
    assert!(
        timeout(PATIENCE, watch.into_body().collect()).await.unwrap().is_err(),
        "cut off, and it can be told"
    );
    until("the rest go on", async || serves(&tower, "m1").await).await;
    assert!(
        timeout(Duration::from_millis(100), other.frame()).await.is_err(),
        "the other's watch is as it was"
    );
    drop(second);
}

/// Line 8: revoked on delete, and at once.
#[tokio::test]
async fn sessions_end_when_their_cluster_goes() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let (m1, m2) = (Agent::join(&host, &tower, "m1").await, Agent::join(&host, &tower, "m2").await);
    let session = m1.connect(&tower, "i1", member("m1")).await.unwrap();
    let other = m2.connect(&tower, "i1", member("m2")).await.unwrap();
    until("they serve", async || serves(&tower, "m1").await && serves(&tower, "m2").await).await;
    host.clusters().delete("m1", &DeleteParams::default()).await.unwrap();
    timeout(PATIENCE, session.served.closed()).await.unwrap();
    assert!(!serves(&tower, "m1").await);
    assert!(other.served.is_open() && serves(&tower, "m2").await);
    until("nothing more is said of it", async || !tower.metrics.text().contains("cluster=\"m1\"")).await;
}

/// Lines 8 and 9: a new agent shuts the former out.
#[tokio::test]
async fn sessions_end_when_another_agent_joins_in_their_place() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let old = Agent::join(&host, &tower, "m1").await;
    let session = old.connect(&tower, "i1", member("old")).await.unwrap();
    until("it serves", async || serves(&tower, "m1").await).await;
    let new = Agent::join(&host, &tower, "m1").await;
    timeout(PATIENCE, session.served.closed()).await.unwrap();
    let _new = new.connect(&tower, "i1", member("new")).await.unwrap();
    until("the new one serves", async || {
        tower.get(ADMIN, "/clusters/m1/api", &[]).await.body["member"] == "new"
    })
    .await;
}

#[tokio::test]
async fn sessions_stay_while_their_cluster_is_being_removed_and_end_when_it_is_direct() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let agent = Agent::join(&host, &tower, "m1").await;
    let session = agent.connect(&tower, "i1", member("m1")).await.unwrap();
    until("it serves", async || serves(&tower, "m1").await).await;
    let patch = async |patch: serde_json::Value| {
        let merge = Patch::Merge(&patch);
        host.clusters().patch("m1", &PatchParams::default(), &merge).await.unwrap();
    };
    patch(json!({"metadata": {"finalizers": ["finalizer.cluster.kubesphere.io"]}})).await;
    host.clusters().delete("m1", &DeleteParams::default()).await.unwrap();
    let Err(refused) = agent.connect(&tower, "i2", member("m1")).await else { panic!("a new session") };
    refused.refused(403, "ClusterLeaving");
    assert!(serves(&tower, "m1").await, "what is to be cleaned up is reached");
    patch(json!({"spec": {"connection": {"type": "direct"}}})).await;
    timeout(PATIENCE, session.served.closed()).await.unwrap();
}

#[tokio::test]
async fn a_request_waits_for_an_agent_that_was_there_a_moment_ago() {
    let host = Host::start().await;
    let tower = host.tower(Options { wait: PATIENCE, ..quick() }).await;
    let agent = Agent::join(&host, &tower, "m1").await;
    let first = agent.connect(&tower, "i1", member("m1")).await.unwrap();
    until("it serves", async || serves(&tower, "m1").await).await;
    first.kill();
    until("it is noticed", async || host.leases().await.iter().all(|lease| lease.1 == json!({}))).await;
    let back = async {
        // The request is there before the agent is.
        tokio::task::yield_now().await;
        agent.connect(&tower, "i2", member("back")).await.unwrap()
    };
    let (reply, _session) = tokio::join!(tower.get(ADMIN, "/clusters/m1/api", &[]), back);
    assert_eq!(reply.body["member"], "back", "{reply:?}");
    assert!(tower.metrics.text().contains("hansa_tower_wait_duration_seconds_count"));
}

#[tokio::test]
async fn a_request_does_not_wait_for_ever() {
    let host = Host::start().await;
    let tower = host.tower(Options { wait: Duration::from_millis(50), ..quick() }).await;
    let agent = Agent::join(&host, &tower, "m1").await;
    let first = agent.connect(&tower, "i1", member("m1")).await.unwrap();
    until("it serves", async || serves(&tower, "m1").await).await;
    first.kill();
    until("it is told", async || {
        let reply = tower.get(ADMIN, "/clusters/m1/api", &[]).await;
        reply.status == 503 && reply.headers.contains_key("retry-after")
    })
    .await;
}

#[tokio::test]
async fn a_replica_says_in_its_lease_whose_agents_it_has() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    until("there is a Lease", async || host.leases().await.len() == 1).await;
    until("it is ready", async || tower.ask(None, asking("GET", "", "/readyz", &[])).await.status == 200)
        .await;
    let agent = Agent::join(&host, &tower, "m1").await;
    let one = agent.connect(&tower, "i1", member("m1")).await.unwrap();
    let two = agent.connect(&tower, "i2", member("m1")).await.unwrap();
    let said = async |wanted: serde_json::Value| {
        until("it is said", async || host.leases().await.iter().all(|lease| lease.1 == wanted)).await;
    };
    said(json!({"m1": 2})).await;
    until("it is counted", async || tower.metrics.text().contains("hansa_tower_agents{cluster=\"m1\"} 2"))
        .await;
    one.kill();
    said(json!({"m1": 1})).await;
    two.kill();
    said(json!({})).await;
    tower.stop.cancel();
    until("a replica that stops takes its Lease along", async || host.leases().await.is_empty()).await;
}

#[tokio::test]
async fn replicas_know_of_each_other_and_requests_wait_at_the_one_without_the_agent() {
    let host = Host::start().await;
    let first = host.tower(Options { wait: PATIENCE, ..quick() }).await;
    let agent = Agent::join(&host, &first, "m1").await;
    let _at_first = agent.connect(&first, "i1", member("m1")).await.unwrap();
    until("it is said", async || host.leases().await.iter().any(|lease| lease.1 == json!({"m1": 1}))).await;

    let second = host.tower(Options { wait: PATIENCE, ..quick() }).await;
    until("both are there", async || host.leases().await.len() == 2).await;
    let ready = async || second.ask(None, asking("GET", "", "/readyz", &[])).await.status == 200;
    assert!(!ready().await, "the agent of the other is not here yet");
    let late = async {
        until("the agent learns that there are two", async || {
            let reply = first.post(None, "/agent/v1/join", &json!({})).await;
            reply.headers["hansa-tower-replicas"] == "2"
        })
        .await;
        agent.connect(&second, "i1", member("m1")).await.unwrap()
    };
    let knows = async {
        // Until the second has heard of the first, it says at once that nobody is there.
        loop {
            let reply = second.get(ADMIN, "/clusters/m1/api", &[]).await;
            if reply.status == 200 {
                break;
            }
            reply.refused(503, "ServiceUnavailable");
        }
    };
    let (_at_second, served) = tokio::join!(late, timeout(PATIENCE, knows));
    served.unwrap();
    until("it is ready", ready).await;
}

#[tokio::test]
async fn a_tower_that_stops_lets_go_in_good_order() {
    let host = Host::start().await;
    let options = Options { notice: Duration::from_millis(500), drain: PATIENCE, ..Options::default() };
    let tower = host.tower(options).await;
    let agent = Agent::join(&host, &tower, "m1").await;
    let m1 = member("m1");
    let session = agent.connect(&tower, "i1", m1.clone()).await.unwrap();
    until("it serves", async || serves(&tower, "m1").await).await;
    let slow = tower.send(None, asking("GET", ADMIN, "/clusters/m1/api/slow", &[]));
    let watch =
        tower.send(None, asking("GET", ADMIN, "/clusters/m1/api/watch?watch=true", &[])).await.unwrap();
    let stop = async {
        until("it is under way", async || m1.has_been_asked("/api/slow")).await;
        tower.stop.cancel();
        until("it says that it stops", async || {
            tower.send(None, asking("GET", "", "/readyz", &[])).await.map_or(true, |r| r.status() == 503)
        })
        .await;
        if let Ok(response) = tower.send(Some(&agent.identity()), support::connecting("i2")).await {
            read(response).await.refused(503, "ServiceUnavailable");
        }
        until("the agent is told to go elsewhere", async || !session.served.is_open()).await;
        assert!(!m1.has_been_asked("/api/late"));
        m1.go.notify_one();
    };
    let (slow, ()) = tokio::join!(slow, stop);
    assert_eq!(read(slow.unwrap()).await.body, "slow", "what is under way ends as it should");
    let rest = timeout(PATIENCE, watch.into_body().collect()).await.unwrap().unwrap();
    assert_eq!(rest.to_bytes(), "first", "a watch ends cleanly, and begins elsewhere");
    timeout(PATIENCE, session.served.closed()).await.unwrap();
    until("the Lease is gone", async || host.leases().await.is_empty()).await;
}

/// Line 8: a session lasts no longer than the certificate it was opened with, and the agent is told before.
#[tokio::test]
async fn a_session_ends_with_its_certificate() {
    let host = Host::start().await;
    let lifetime = jiff::SignedDuration::from_secs(4);
    let tower = host.tower(Options { lifetime, ..quick() }).await;
    let agent = Agent::join(&host, &tower, "m1").await;
    let session = agent.connect(&tower, "i1", member("m1")).await.unwrap();
    until("it serves", async || serves(&tower, "m1").await).await;
    let watch = tower.send(None, asking("GET", ADMIN, "/clusters/m1/api/watch", &[])).await.unwrap();
    until("the agent is told to connect anew", async || !session.served.is_open()).await;
    timeout(PATIENCE, session.served.closed()).await.unwrap();
    assert!(timeout(PATIENCE, watch.into_body().collect()).await.unwrap().is_err());
    until("nobody is let in with it", async || {
        tower.send(Some(&agent.identity()), support::connecting("i2")).await.is_err()
    })
    .await;
}

/// What an agent sends after its handshake is not believed either.
#[tokio::test]
async fn an_agent_that_sends_garbage_loses_its_session_and_nobody_else_does() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let (m1, m2) = (Agent::join(&host, &tower, "m1").await, Agent::join(&host, &tower, "m2").await);
    let _well = m2.connect(&tower, "i1", member("m2")).await.unwrap();
    let garbage: [&[u8]; 4] = [
        // A frame of another kind, one without a mask, one of a length beyond all bounds, and noise in a well-formed one.
        &[0x81, 0x80, 0, 0, 0, 0],
        &[0x82, 1, 0],
        &[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        &[0x82, 0x8c, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ];
    for bytes in garbage {
        let response = tower.send(Some(&m1.identity()), support::connecting("i1")).await.unwrap();
        assert_eq!(response.status(), 101);
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        drop(timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the tower hangs up"));
        until("its place is free", async || {
            host.leases().await.iter().all(|lease| lease.1 == json!({"m2": 1}))
        })
        .await;
        assert!(serves(&tower, "m2").await);
    }
}
