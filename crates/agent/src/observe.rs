//! What the agent says about itself: how it stands, and numbers for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hansa_tunnel::Served;
use tokio::sync::watch;

use crate::error::Error;
use crate::replicas::Session;

/// How the agent stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Connections to replicas of the tower.
    pub connections: usize,
    /// Replicas that there are, as far as the tower said.
    pub replicas: usize,
    /// Why the last try to connect failed, until one goes well.
    pub trouble: Option<Error>,
}

/// Sees how an agent stands while it runs. Clones see the same.
#[derive(Clone, Debug)]
pub struct Observer {
    standing: watch::Receiver<Standing>,
    counts: Arc<Mutex<Counts>>,
}

/// What has been counted.
#[derive(Debug, Default)]
struct Counts {
    live: BTreeMap<Session, Served>,
    sent: u64,
    received: u64,
    streams: u64,
    connected: u64,
    failed: u64,
}

/// The agent's own end of an [`Observer`].
#[derive(Debug)]
pub(crate) struct Record {
    standing: watch::Sender<Standing>,
    counts: Arc<Mutex<Counts>>,
}

pub(crate) fn channel() -> (Record, Observer) {
    let (standing, seen) = watch::channel(Standing::default());
    let counts = Arc::new(Mutex::default());
    (Record { standing, counts: counts.clone() }, Observer { standing: seen, counts })
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    pub(crate) fn stands(&self, connections: usize, replicas: usize) {
        self.standing.send_if_modified(|standing| {
            let changed = (standing.connections, standing.replicas) != (connections, replicas);
            (standing.connections, standing.replicas) = (connections, replicas);
            changed
        });
    }

    pub(crate) fn connected(&self, session: Session, tunnel: &Served) {
        let mut counts = lock(&self.counts);
        counts.connected += 1;
        counts.live.insert(session, tunnel.clone());
        drop(counts);
        self.trouble(None);
    }

    pub(crate) fn failed(&self, error: &Error) {
        lock(&self.counts).failed += 1;
        self.trouble(Some(error.clone()));
    }

    /// Whether it is another trouble than before is the answer.
    pub(crate) fn is_news(&self, error: &Error) -> bool {
        self.standing.borrow().trouble.as_ref() != Some(error)
    }

    fn trouble(&self, trouble: Option<Error>) {
        self.standing.send_if_modified(|standing| {
            let changed = standing.trouble != trouble;
            standing.trouble = trouble;
            changed
        });
    }

    /// A connection has ended: what passed on it is added to what passed before.
    pub(crate) fn ended(&self, session: Session) {
        let mut counts = lock(&self.counts);
        let Some(tunnel) = counts.live.remove(&session) else { return };
        let traffic = tunnel.traffic();
        counts.sent += traffic.sent;
        counts.received += traffic.received;
        counts.streams += traffic.opened;
    }
}

impl Observer {
    /// How the agent stands now.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Waits until the agent stands so that `wanted` is true; `None` if it ends before.
    pub async fn until(&mut self, wanted: impl FnMut(&Standing) -> bool) -> Option<Standing> {
        self.standing.wait_for(wanted).await.ok().map(|standing| standing.clone())
    }

    /// The numbers, in Prometheus' text format (version 0.0.4).
    pub fn metrics(&self) -> String {
        let standing = self.standing();
        let counts = lock(&self.counts);
        let live = || counts.live.values();
        let traffic =
            |part: fn(&hansa_tunnel::Traffic) -> u64| live().map(|each| part(&each.traffic())).sum::<u64>();
        let silence = live().map(|each| each.traffic().silence.as_secs_f64()).fold(0.0, f64::max);
        let streams: usize = live().map(Served::streams).sum();
        let mut text = String::new();
        let mut say = |name: &str, kind: &str, help: &str, value: f64| {
            let _ = write!(
                text,
                "# HELP hansa_agent_{name} {help}\n# TYPE hansa_agent_{name} {kind}\nhansa_agent_{name} {value}\n"
            );
        };
        say("connections", "gauge", "Connections to replicas of the tower.", standing.connections as f64);
        say(
            "replicas",
            "gauge",
            "Replicas of the tower that there are, as far as it said.",
            standing.replicas as f64,
        );
        say("connects_total", "counter", "Connections that were made.", counts.connected as f64);
        say("failures_total", "counter", "Tries to connect that failed.", counts.failed as f64);
        say("streams", "gauge", "Requests and upgrades under way.", streams as f64);
        let opened = counts.streams + traffic(|traffic| traffic.opened);
        say("streams_total", "counter", "Requests and upgrades that came from the tower.", opened as f64);
        let sent = counts.sent + traffic(|traffic| traffic.sent);
        say("sent_bytes_total", "counter", "Bytes sent to the tower.", sent as f64);
        let received = counts.received + traffic(|traffic| traffic.received);
        say("received_bytes_total", "counter", "Bytes received from the tower.", received as f64);
        say("silence_seconds", "gauge", "How long the most silent connection has been silent.", silence);
        text
    }
}
