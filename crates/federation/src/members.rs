//! What the members have of one type, in the words of the plan.

use std::sync::Arc;
use std::time::Duration;

use hansa_cluster::{Change, Informers, Lookup, Registry};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::key::Key;
use crate::plan::{Copy, Observation};
use crate::types::TypeConfig;

/// Two looks at everything are at least so far apart, and the second begins when the first has ended: many members become known at
/// once when the control plane starts.
const PAUSE: Duration = Duration::from_millis(200);

/// The copies of one type in all members.
pub(crate) struct Members {
    registry: Registry,
    informers: Informers,
}

impl Members {
    pub(crate) fn new(registry: Registry, types: &TypeConfig, only_namespace: Option<&str>) -> Self {
        let informers = registry.informers(&types.target, only_namespace.filter(|_| types.target_namespaced));
        Self { registry, informers }
    }

    /// What is known of a copy in one member.
    pub(crate) fn observe(&self, member: &str, key: &Key) -> Observation {
        match self.informers.get(member, &key.namespace, &key.name) {
            Lookup::Unknown(why) => Observation::Unsynced(why.map(|why| why.to_string())),
            Lookup::Absent => Observation::Absent,
            Lookup::Present(observed) => Observation::Present(Copy {
                uid: observed.uid.to_string(),
                resource_version: observed.resource_version.to_string(),
                generation: observed.generation,
                deleting: observed.deleting,
                applied: observed.applied,
                marks: observed.marks,
            }),
        }
    }

    /// The members that have a copy.
    pub(crate) fn holders(&self, key: &Key) -> Vec<Arc<str>> {
        self.informers.holders(&key.namespace, &key.name)
    }

    /// How many copies there are, in all members together.
    pub(crate) fn count(&self) -> usize {
        self.informers.count()
    }

    /// The names of all copies.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.informers.keys().iter().map(|key| Key::new(&key.namespace, &key.name)).collect()
    }

    /// Calls `changed` with each copy that changes, and `all` when a member was read whole or became another: ready, relabelled,
    /// reached anew, registered or gone.
    pub(crate) async fn run(
        &self,
        changed: impl Fn(Key) + Send + Sync + 'static,
        all: impl Fn(),
        is_busy: impl Fn() -> bool,
        shutdown: CancellationToken,
    ) {
        let synced = Arc::new(Notify::new());
        let (informers, tell) = (self.informers.clone(), synced.clone());
        let _subscription = self.informers.subscribe(Arc::new(move |change: &Change| match change {
            // While a member is being read, nothing can be said of its copies; afterwards all are looked at.
            Change::Object { member, key } if informers.synced(member) => {
                changed(Key::new(&key.namespace, &key.name))
            }
            Change::Object { .. } => {}
            Change::Synced { .. } | Change::Failed { .. } => tell.notify_one(),
        }));
        let mut changes = self.registry.changes();
        let mut before = Vec::new();
        loop {
            changes.mark_unchanged();
            let snapshot = self.registry.members();
            let members = snapshot.members.iter();
            let now: Vec<_> = members
                .map(|(name, member)| (name.clone(), member.ready, member.connection, member.labels.clone()))
                .collect();
            if before != now {
                before = now;
                synced.notify_one();
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = synced.notified() => {
                    all();
                    let rest = async {
                        tokio::time::sleep(PAUSE).await;
                        while is_busy() {
                            tokio::time::sleep(PAUSE).await;
                        }
                    };
                    if shutdown.run_until_cancelled(rest).await.is_none() {
                        return;
                    }
                }
            }
        }
    }
}
