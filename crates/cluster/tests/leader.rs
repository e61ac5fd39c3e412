//! Who leads, and who no longer does.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hansa_api::kubefed::ResourceLock;
use hansa_api::settings::Settings;
use hansa_cluster::leader::{Candidate, lead};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use support::{Instance, until};
use tokio_util::sync::CancellationToken;

fn candidate(identity: &str) -> Candidate {
    Candidate {
        lock: ResourceLock::Leases,
        namespace: "default".to_owned(),
        lease_duration: Duration::from_secs(1),
        renew_deadline: Duration::from_millis(700),
        retry_period: Duration::from_millis(50),
        ..Candidate::new(identity, &Settings::default())
    }
}

/// A candidate at work: who leads now, how many lead at once, and the most there ever were.
#[derive(Clone, Default)]
struct Ballot {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    terms: Arc<AtomicUsize>,
}

impl Ballot {
    fn stand(
        &self,
        instance: &Instance,
        identity: &str,
    ) -> (CancellationToken, tokio::task::JoinHandle<bool>) {
        let (ballot, stop) = (self.clone(), CancellationToken::new());
        let work = async move |term: CancellationToken| {
            let now = ballot.now.fetch_add(1, Ordering::SeqCst) + 1;
            ballot.most.fetch_max(now, Ordering::SeqCst);
            ballot.terms.fetch_add(1, Ordering::SeqCst);
            term.cancelled().await;
            ballot.now.fetch_sub(1, Ordering::SeqCst);
        };
        let task = tokio::spawn(lead(instance.client.clone(), candidate(identity), stop.clone(), work));
        (stop, task)
    }

    fn terms(&self) -> usize {
        self.terms.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_at_a_time_and_the_next_follows_when_it_stops() {
    let instance = Instance::start("host").await;
    let ballot = Ballot::default();
    let (first, led) = ballot.stand(&instance, "a");
    until("a leads", async || ballot.terms() == 1).await;
    let (second, follows) = ballot.stand(&instance, "b");
    let leases: Api<Lease> = Api::namespaced(instance.client.clone(), "default");
    let holder = async || {
        let lease = leases.get("kubefed-controller-manager").await.unwrap();
        lease.spec.unwrap().holder_identity.unwrap()
    };
    // Longer than the lease holds: it is renewed, and b waits.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((ballot.terms(), holder().await.as_str()), (1, "a"));
    first.cancel();
    assert!(!led.await.unwrap(), "giving a lease back is not losing it");
    until("b leads", async || ballot.terms() == 2).await;
    assert_eq!(holder().await, "b");
    second.cancel();
    assert!(!follows.await.unwrap());
    assert_eq!(ballot.most.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_renew_stops_before_its_lease_has_run_out() {
    let instance = Instance::start("host").await;
    let ballot = Ballot::default();
    let (_stop, led) = ballot.stand(&instance, "a");
    until("a leads", async || ballot.terms() == 1).await;
    instance.cut();
    assert!(tokio::time::timeout(Duration::from_secs(10), led).await.unwrap().unwrap());
    assert_eq!(ballot.now.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_lease_was_taken_stops() {
    let instance = Instance::start("host").await;
    let ballot = Ballot::default();
    let (_stop, led) = ballot.stand(&instance, "a");
    until("a leads", async || ballot.terms() == 1).await;
    let leases: Api<Lease> = Api::namespaced(instance.client.clone(), "default");
    let theft = serde_json::json!({ "spec": { "holderIdentity": "thief" } });
    leases.patch("kubefed-controller-manager", &PatchParams::default(), &Patch::Merge(theft)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(10), led).await.unwrap().unwrap());
}
