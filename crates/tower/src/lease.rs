//! The Lease of this replica: that it lives, and whose agents it has. The cluster controller judges by it, and other replicas do.

use std::{collections::BTreeMap, time::Duration};

use hansa_api::names::{ANNOTATION_TOWER_AGENTS, LABEL_TOWER_REPLICA, SYSTEM_NAMESPACE};
use hansa_cluster::feed::{Feed, Step};
use hansa_transport::explain;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{Shared, replicas, sessions::Sessions};

/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(3);
/// How soon a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// For how long changes are gathered into one write: agents come and go together.
const GATHER: Duration = Duration::from_millis(100);
/// How long a write may take; the next one is due by then.
const PATIENCE: Duration = Duration::from_secs(3);

fn name(replica: &str) -> String {
    format!("hansa-tower-{replica}")
}

/// Keeps the Lease until `stop`, then takes it away.
pub(crate) async fn keep(tower: &Shared, stop: CancellationToken) {
    let api = Api::<Lease>::namespaced(tower.host.clone(), SYSTEM_NAMESPACE);
    let mut changes = tower.sessions.changes();
    loop {
        changes.mark_unchanged();
        let written = timeout(PATIENCE, write(&api, &tower.replica, &tower.sessions)).await;
        let pause = match written {
            Ok(Ok(())) => {
                tower.leased();
                RENEWAL
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %explain(&error), "the Lease of this tower cannot be renewed");
                RETRY
            }
            Err(_) => {
                tracing::warn!("the host takes too long to renew the Lease of this tower");
                RETRY
            }
        };
        let next = async {
            tokio::select! {
                () = sleep(pause) => {}
                Ok(()) = changes.changed() => sleep(GATHER).await,
            }
        };
        if stop.run_until_cancelled(next).await.is_none() {
            break;
        }
    }
    match timeout(PATIENCE, api.delete(&name(&tower.replica), &DeleteParams::default())).await {
        Ok(Ok(_)) => {}
        failed => tracing::debug!(?failed, "the Lease of this tower is left to expire"),
    }
}

async fn write(api: &Api<Lease>, replica: &str, sessions: &Sessions) -> Result<(), kube::Error> {
    let name = name(replica);
    let agents = serde_json::to_string(&sessions.counts()).map_err(kube::Error::SerdeError)?;
    let now = MicroTime(Timestamp::now());
    let patch = json!({
        "metadata": {"annotations": {ANNOTATION_TOWER_AGENTS: &agents}},
        "spec": {"renewTime": &now},
    });
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some(BTreeMap::from([(LABEL_TOWER_REPLICA.to_owned(), replica.to_owned())])),
            annotations: Some(BTreeMap::from([(ANNOTATION_TOWER_AGENTS.to_owned(), agents)])),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(replica.to_owned()),
            lease_duration_seconds: i32::try_from(replicas::LEASE.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}

/// Follows the Leases of the other replicas, for as long as it is polled.
pub(crate) async fn follow(tower: &Shared, host: Client) {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM_NAMESPACE}/leases");
    let feed = Feed::new(host, path).selecting(LABEL_TOWER_REPLICA);
    let mut said = 1;
    feed.follow(|step| {
        let mut replicas = tower.replicas();
        let now = Instant::now();
        match step {
            Step::Begin => replicas.begin(),
            Step::Complete => replicas.end(),
            Step::Listed(object) | Step::Put(object) => {
                if let Some(lease) = replicas::Lease::read(object.raw) {
                    replicas.put(lease, now);
                }
            }
            Step::Gone(object) => {
                if let Some(lease) = replicas::Lease::read(object.raw) {
                    replicas.gone(&lease.replica);
                }
            }
            Step::Failed(error) => {
                tracing::warn!(%error, "the Leases of the other towers cannot be followed");
            }
        }
        let count = replicas.count(now);
        drop(replicas);
        if count != std::mem::replace(&mut said, count) {
            tower.sessions.say_replicas(count);
        }
    })
    .await;
}
