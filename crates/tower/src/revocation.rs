//! Who is let in no longer loses the sessions they have: the Clusters and the join records are watched, and whatever changes
//! is looked at again (`spec/security-checklist.md`, line 8).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use hansa_api::names;
use hansa_cluster::{
    agents::{self, AgentError},
    feed::{Feed, Step},
};
use kube::Client;
use tokio::{sync::Notify, time::sleep};

use crate::{Shared, sessions::Sessions};

/// Looks at the host at once.
const AT_ONCE: usize = 8;
/// How soon what could not be found out is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The clusters to be looked at: a set, so that it never holds more than there are clusters.
#[derive(Debug, Default)]
struct Due {
    clusters: Mutex<BTreeSet<String>>,
    some: Notify,
}

impl Due {
    fn add(&self, clusters: impl IntoIterator<Item = String>) {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner).extend(clusters);
        self.some.notify_one();
    }

    async fn take(&self) -> BTreeSet<String> {
        loop {
            let taken = std::mem::take(&mut *self.clusters.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
            self.some.notified().await;
        }
    }
}

/// Watches, for as long as it is polled.
pub(crate) async fn follow(tower: &Shared, host: Client) {
    let due = Due::default();
    let clusters = Feed::new(host.clone(), "/apis/cluster.kubesphere.io/v1alpha1/clusters").only_metadata();
    let secrets = format!("/api/v1/namespaces/{}/secrets", names::SYSTEM_NAMESPACE);
    let records = Feed::new(host.clone(), secrets)
        .selecting(format!("{}=true", names::LABEL_KUBESPHERE_MANAGED))
        .only_metadata();
    let sessions = &tower.sessions;
    let cluster = |step: Step<'_>| {
        if let Step::Gone(object) = &step {
            sessions.forget(&object.meta.name);
            tower.metrics.forget(&object.meta.name);
        }
        tell(step, sessions, &due, |name| Some(name.to_owned()));
    };
    let record = |step: Step<'_>| tell(step, sessions, &due, |name| cluster_of(name).map(str::to_owned));
    tokio::join!(clusters.follow(cluster), records.follow(record), work(sessions, &due, &host));
}

/// The cluster whose join record is called so.
fn cluster_of(secret: &str) -> Option<&str> {
    let suffix = names::agent_record("");
    secret.strip_suffix(&suffix).filter(|cluster| !cluster.is_empty())
}

fn tell(step: Step<'_>, sessions: &Sessions, due: &Due, of: impl Fn(&str) -> Option<String>) {
    match step {
        Step::Put(object) | Step::Gone(object) => due.add(of(&object.meta.name)),
        // What went while nobody watched is in no listing.
        Step::Complete => due.add(sessions.clusters()),
        Step::Failed(error) => tracing::warn!(%error, "whom the host lets in cannot be followed"),
        Step::Begin | Step::Listed(_) => {}
    }
}

async fn work(sessions: &Sessions, due: &Due, host: &Client) {
    loop {
        let clusters = due.take().await;
        let keys = clusters.into_iter().flat_map(|cluster| {
            let keys = sessions.keys(&cluster).into_iter();
            keys.map(move |key| (cluster.clone(), key))
        });
        let failed: Vec<String> = stream::iter(keys)
            .map(|(cluster, key)| look(sessions, host, cluster, key))
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if !failed.is_empty() {
            // A host that cannot be asked is no reason to shut anybody out.
            sleep(RETRY).await;
            due.add(failed);
        }
    }
}

/// Ends the sessions of a key that is accepted no longer; gives the cluster back if that could not be found out.
async fn look(sessions: &Sessions, host: &Client, cluster: String, key: Arc<[u8]>) -> Option<String> {
    match agents::stays(host, &cluster, &key).await {
        Ok(()) => None,
        Err(AgentError::Closed(closed)) => {
            let ended = sessions.revoke(&cluster, &key);
            if ended > 0 {
                tracing::info!(cluster, ended, reason = closed.reason(), "agents are let in no longer");
            }
            None
        }
        Err(error) => {
            tracing::warn!(cluster, %error, "it cannot be told whether the agents may stay");
            Some(cluster)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_belongs_to_the_cluster_in_its_name() {
        assert_eq!(cluster_of("m1-agent"), Some("m1"));
        assert_eq!(cluster_of("a-agent-agent"), Some("a-agent"));
        for other in ["-agent", "m1-secret", "agent", ""] {
            assert_eq!(cluster_of(other), None);
        }
    }

    #[tokio::test]
    async fn what_is_due_twice_is_looked_at_once() {
        let due = Due::default();
        due.add(["a".to_owned(), "b".to_owned()]);
        due.add(["a".to_owned()]);
        assert_eq!(due.take().await.into_iter().collect::<Vec<_>>(), ["a", "b"]);
        due.add(None);
        let (taken, ()) = tokio::join!(due.take(), async { due.add(["c".to_owned()]) });
        assert_eq!(taken.len(), 1);
    }
}
