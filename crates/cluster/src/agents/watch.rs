//! What is known of the tower, kept up to date: where it is, and which agents it has.
//!
//! A Lease is held to have ended only when it has been looked at again: a watch that was interrupted, or a host that was away, says nothing about
//! the agents.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hansa_api::names;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::announcement::Announcement;
use super::sessions::{Replica, Sessions, Sightings};
use crate::listed::Listed;

/// How long the host may take to confirm what a Lease says.
const PATIENCE: Duration = Duration::from_secs(3);
/// How soon a question that was not answered is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// The tower, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tower {
    /// Where it is; `None` until that is known, `Some(None)` if it has not said so.
    pub announced: Option<Option<Announcement>>,
    /// The clusters with an agent; `None` until that is known.
    pub agents: Option<BTreeMap<String, Sessions>>,
}

/// Keeps a [`Tower`] up to date until `stop`. It must be called inside a runtime.
pub fn follow(host: Client, stop: CancellationToken) -> watch::Receiver<Arc<Tower>> {
    let (tell, tower) = watch::channel(Arc::new(Tower::default()));
    tokio::spawn(async move {
        let work = async { tokio::join!(follow_announcement(&host, &tell), follow_leases(&host, &tell)) };
        stop.run_until_cancelled(work).await;
    });
    tower
}

fn say(tell: &watch::Sender<Arc<Tower>>, edit: impl FnOnce(&mut Tower)) {
    tell.send_if_modified(|told| {
        let mut now = Tower::clone(told);
        edit(&mut now);
        let differs = now != **told;
        if differs {
            *told = Arc::new(now);
        }
        differs
    });
}

async fn follow_announcement(host: &Client, tell: &watch::Sender<Arc<Tower>>) {
    let maps: Api<ConfigMap> = Api::namespaced(host.clone(), names::SYSTEM_NAMESPACE);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", names::TOWER));
    let mut events = watcher(maps, config).default_backoff().boxed();
    let mut listed: Listed<Announcement> = Listed::default();
    let mut complaint = String::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                complaint.clear();
                if listed.apply(event, |map| Announcement::of(&map)) && listed.synced {
                    say(tell, |tower| tower.announced = Some(listed.known.get(names::TOWER).cloned()));
                }
            }
            Err(error) => complain(&mut complaint, "the address of the tower", &error),
        }
    }
}

async fn follow_leases(host: &Client, tell: &watch::Sender<Arc<Tower>>) {
    let leases: Api<Lease> = Api::namespaced(host.clone(), names::SYSTEM_NAMESPACE);
    let config = watcher::Config::default().labels(names::LABEL_TOWER_REPLICA);
    let mut events = watcher(leases.clone(), config).default_backoff().boxed();
    let mut listed: Listed<Replica> = Listed::default();
    let mut sightings = Sightings::default();
    let mut complaint = String::new();
    // Up to when it is confirmed which Leases were renewed.
    let mut confirmed = Instant::now();
    // Whether the host was away since.
    let mut blind = false;
    let mut due: Option<Instant> = None;
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(Err(error)) => {
                    blind = true;
                    complain(&mut complaint, "the Leases of the tower", &error);
                    continue;
                }
                Some(Ok(event)) => {
                    complaint.clear();
                    if !listed.apply(event, |lease| Replica::of(&lease)) || !listed.synced {
                        continue;
                    }
                    sightings.observe(&listed.known, Instant::now());
                }
            },
            () = at(due) => match list(&leases).await {
                None => {
                    blind = true;
                    due = Some(Instant::now() + AGAIN);
                    continue;
                }
                Some(there) => {
                    let now = Instant::now();
                    listed.known = there;
                    sightings.observe(&listed.known, now);
                    if std::mem::take(&mut blind) {
                        sightings.forgive(confirmed, now);
                    }
                    confirmed = now;
                    remove(&leases, sightings.abandoned(now)).await;
                }
            },
        }
        say(tell, |tower| tower.agents = Some(sightings.agents(confirmed)));
        due = sightings.next_end(confirmed).into_iter().chain(sightings.next_abandoned(confirmed)).min();
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The Leases as the host has them now; `None` if it does not say.
async fn list(leases: &Api<Lease>) -> Option<BTreeMap<String, Replica>> {
    let parameters = ListParams::default().labels(names::LABEL_TOWER_REPLICA);
    let listed = tokio::time::timeout(PATIENCE, leases.list(&parameters)).await.ok()?.ok()?;
    Some(listed.iter().filter_map(|lease| Some((lease.name_any(), Replica::of(lease)?))).collect())
}

/// Removes Leases unless somebody wrote them meanwhile.
async fn remove(leases: &Api<Lease>, abandoned: Vec<(String, Option<String>)>) {
    for (name, version) in abandoned {
        let preconditions = Some(Preconditions { resource_version: version, uid: None });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        let removed = tokio::time::timeout(PATIENCE, leases.delete(&name, &parameters)).await;
        if matches!(removed, Ok(Ok(_))) {
            tracing::info!(lease = name, "a replica of the tower is gone; its Lease was removed");
        }
    }
}

/// Says once what keeps something from being watched.
fn complain(complaint: &mut String, what: &str, error: &watcher::Error) {
    let text = error.to_string();
    if text != *complaint {
        tracing::debug!(%error, "{what} cannot be watched; trying again");
        *complaint = text;
    }
}
