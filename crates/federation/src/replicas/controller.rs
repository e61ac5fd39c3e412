//! The scheduler's watches and workers: what may change a schedule puts the preference into a queue.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hansa_api::{FederatedTypeConfig, KubeFedCluster, ReplicaSchedulingPreference};
use hansa_cluster::feed::Feed;
use hansa_cluster::{Change as MemberChange, Informers, Registry};
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::look::Memory;
use super::preference::{KINDS, Preference};
use super::read::Reader;
use crate::cache::{self, Cache, Change};
use crate::engine::lock;
use crate::events::Recorder;
use crate::key::Key;
use crate::queue::Queue;
use crate::types::{NAMESPACES, TypeConfig};

/// How long changes in members are gathered before they are looked at: a roll-out makes dozens of them.
const SETTLE: Duration = Duration::from_secs(1);

/// The replica scheduler of one host.
pub struct Scheduler {
    shared: Arc<Shared>,
    writer: crate::events::Writer,
}

/// What the watches and the workers share.
pub(super) struct Shared {
    pub(super) host: Client,
    pub(super) registry: Registry,
    pub(super) options: Options,
    pub(super) events: Recorder,
    pub(super) reader: Reader,
    pub(super) preferences: Cache<Preference>,
    /// The types whose replicas are scheduled, by federated kind.
    pub(super) types: Mutex<BTreeMap<String, Arc<Scheduled>>>,
    pub(super) memories: Mutex<HashMap<Key, Memory>>,
    /// Since when members are not ready.
    pub(super) absences: Mutex<BTreeMap<String, Instant>>,
    queue: Queue<Key>,
    configs: Cache<Config>,
    /// Which types are to run may have changed.
    changed: Notify,
}

/// A type whose replicas are scheduled.
pub(super) struct Scheduled {
    pub(super) types: TypeConfig,
    /// The type of FederatedNamespaces.
    pub(super) namespaces: Option<ApiResource>,
    pub(super) informers: Informers,
}

/// A FederatedTypeConfig, projected.
struct Config {
    types: Option<TypeConfig>,
    deleting: bool,
}

struct Running {
    scheduled: Arc<Scheduled>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Scheduler {
    /// The scheduler of `host`, whose members are in `registry`.
    pub fn new(host: Client, registry: Registry, options: Options) -> Self {
        let (events, writer) = Recorder::new(host.clone());
        let shared = Arc::new(Shared {
            host,
            registry,
            options,
            events,
            reader: Reader::default(),
            preferences: Cache::default(),
            types: Mutex::default(),
            memories: Mutex::default(),
            absences: Mutex::default(),
            queue: Queue::default(),
            configs: Cache::default(),
            changed: Notify::new(),
        });
        Self { shared, writer }
    }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { shared, writer } = self;
        let stop = shutdown.child_token();
        let configs = {
            let resource = ApiResource::erase::<FederatedTypeConfig>(&());
            let api = Api::namespaced_with(shared.host.clone(), &shared.options.namespace, &resource);
            let feed = shared.feed(&api);
            shared.configs.watch(
                feed,
                cache::wholly(Config::project),
                |_| shared.changed.notify_one(),
                stop.clone(),
            )
        };
        let preferences = {
            let resource = ApiResource::erase::<ReplicaSchedulingPreference>(&());
            let changed = |change: Change<'_, Preference>| {
                if let Change::Put(key, ..) | Change::Gone(key, _) = change {
                    shared.queue.add(key.clone());
                }
                shared.changed.notify_one();
            };
            let feed = shared.feed(&shared.api(&resource, None));
            shared.preferences.watch(feed, cache::wholly(Preference::project), changed, stop.clone())
        };
        let workers = (0..shared.options.concurrency.max(1)).map(|_| shared.work(&stop));
        tokio::join!(
            configs,
            preferences,
            writer.run(stop.clone()),
            shared.follow_types(&stop),
            shared.follow_members(&stop),
            futures::future::join_all(workers),
        );
    }
}

impl Config {
    fn project(object: &Value) -> Self {
        Self {
            types: TypeConfig::parse(object).ok(),
            deleting: !object["metadata"]["deletionTimestamp"].is_null(),
        }
    }

    fn usable(&self) -> Option<&TypeConfig> {
        self.types.as_ref().filter(|_| !self.deleting)
    }
}

/// The types to run, by federated kind, each with the type of FederatedNamespaces.
type Wanted = BTreeMap<&'static str, (TypeConfig, Option<ApiResource>)>;

/// Those types run that are propagated and that some preference asks for: without preferences nothing is watched. As for propagation, there
/// must be the type of namespaces, unless the control plane is that of one namespace.
fn wanted(
    config: impl Fn(&str) -> Option<Arc<Config>>,
    asked: &BTreeSet<&'static str>,
    only_namespace: bool,
) -> Wanted {
    let namespaces = config(NAMESPACES).and_then(|config| Some(config.usable()?.federated.clone()));
    let can_run = namespaces.is_some() || only_namespace;
    let wanted =
        KINDS.iter().filter(|(kind, _)| can_run && asked.contains(kind)).filter_map(|(kind, name)| {
            let config = config(name)?;
            let types = config.usable().filter(|types| types.enabled && types.federated.kind == *kind)?;
            Some((*kind, (types.clone(), namespaces.clone())))
        });
    wanted.collect()
}

impl Shared {
    /// A type on the host: in one namespace, or wherever the control plane reaches.
    pub(super) fn api(&self, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace.or(self.options.only_namespace.as_deref()) {
            Some(namespace) => Api::namespaced_with(self.host.clone(), namespace, resource),
            None => Api::all_with(self.host.clone(), resource),
        }
    }

    fn feed(&self, api: &Api<DynamicObject>) -> Feed {
        Feed::new(self.host.clone(), api.resource_url())
    }

    async fn work(&self, stop: &CancellationToken) {
        while let Some(key) = stop.run_until_cancelled(self.queue.next()).await {
            let again = stop.run_until_cancelled(Box::pin(self.look(&key))).await;
            if let Some(Some(delay)) = again {
                self.queue.add_after(key.clone(), delay);
            }
            self.queue.done(&key);
        }
    }

    /// Whether somebody wants the replicas of an object of this kind scheduled.
    fn concerns(&self, kind: &str, key: &Key) -> bool {
        self.preferences.get(key).is_some_and(|preference| preference.kind() == Some(kind))
    }

    fn look_at_all(&self, delay: Duration) {
        self.preferences.keys().into_iter().for_each(|key| self.queue.add_after(key, delay));
    }

    fn wanted(&self) -> Wanted {
        let config = |name: &str| self.configs.get(&Key::new(&self.options.namespace, name));
        let preferences = self.preferences.entries();
        let asked = preferences.iter().filter_map(|(_, preference)| preference.kind()).collect();
        wanted(config, &asked, self.options.only_namespace.is_some())
    }

    /// Starts and stops the watches of types.
    async fn follow_types(self: &Arc<Self>, stop: &CancellationToken) {
        let mut running: BTreeMap<&'static str, Running> = BTreeMap::new();
        while stop.run_until_cancelled(self.changed.notified()).await.is_some() {
            if !self.configs.is_synced() || !self.preferences.is_synced() {
                continue;
            }
            let mut wanted = self.wanted();
            let is_right = |kind: &str, running: &Running| {
                wanted.get(kind).is_some_and(|(types, namespaces)| {
                    *types == running.scheduled.types && *namespaces == running.scheduled.namespaces
                })
            };
            let wrong: Vec<_> =
                running.iter().filter(|(kind, running)| !is_right(kind, running)).map(|(k, _)| *k).collect();
            for kind in wrong {
                lock(&self.types).remove(kind);
                if let Some(running) = running.remove(kind) {
                    running.stop.cancel();
                    // A watch that panicked has ended as well.
                    let _ = running.task.await;
                }
            }
            wanted.retain(|kind, _| !running.contains_key(kind));
            for (kind, (types, namespaces)) in wanted {
                tracing::info!(kind, "scheduling replicas");
                let informers =
                    self.registry.informers(&types.target, self.options.only_namespace.as_deref());
                let scheduled = Arc::new(Scheduled { types, namespaces, informers });
                lock(&self.types).insert(kind.to_owned(), scheduled.clone());
                let stop = stop.child_token();
                let task = tokio::spawn(self.clone().follow(kind, scheduled.clone(), stop.clone()));
                running.insert(kind, Running { scheduled, stop, task });
                self.look_at_all(Duration::ZERO);
            }
        }
        for (_, running) in running {
            let _ = running.task.await;
        }
    }

    /// Follows the federated objects of a kind and their copies.
    async fn follow(self: Arc<Self>, kind: &'static str, scheduled: Arc<Scheduled>, stop: CancellationToken) {
        let shared = self.clone();
        let _subscription =
            scheduled.informers.subscribe(Arc::new(move |change: &MemberChange| match change {
                MemberChange::Object { key, .. } => {
                    let key = Key::new(&key.namespace, &key.name);
                    if shared.concerns(kind, &key) {
                        shared.queue.add_after(key, SETTLE);
                    }
                }
                MemberChange::Synced { .. } | MemberChange::Failed { .. } => shared.look_at_all(SETTLE),
            }));
        let changed = |change: Change<'_, ()>| match change {
            Change::Put(key, object, _) if self.concerns(kind, key) => {
                // Status is written often and says nothing new; what we wrote ourselves, neither.
                let known = lock(&self.memories).get(key).and_then(|memory| memory.generation);
                if known != Some(object.meta.generation) {
                    self.queue.add(key.clone());
                }
            }
            Change::Gone(key, ()) => drop(lock(&self.memories).remove(key)),
            Change::Put(..) | Change::Synced => {}
        };
        let federated: Cache<()> = Cache::default();
        let api = self.api(&scheduled.types.federated, None);
        federated.watch(self.feed(&api).only_metadata(), |_, _| Some(()), changed, stop).await;
    }

    /// Since when a member is not ready by what is written on the host.
    async fn recorded_absence(&self, member: &str) -> Option<Instant> {
        let api: Api<KubeFedCluster> = Api::namespaced(self.host.clone(), &self.options.namespace);
        let cluster = match api.get(member).await {
            Ok(cluster) => cluster,
            Err(error) => {
                tracing::debug!(member, %error, "since when a member is not ready cannot be read; taking it to be just now");
                return None;
            }
        };
        let conditions = cluster.status.map(|status| status.conditions).unwrap_or_default();
        let is_ready =
            conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True");
        let since =
            conditions.iter().filter_map(|condition| Some(condition.last_transition_time.as_ref()?.0)).max();
        let away = Duration::try_from(Timestamp::now().duration_since(since.filter(|_| !is_ready)?)).ok()?;
        Instant::now().checked_sub(away)
    }

    /// Notes since when members are not ready, and looks at everything when one changes.
    async fn follow_members(&self, stop: &CancellationToken) {
        let mut changes = self.registry.changes();
        let mut before = Vec::new();
        loop {
            changes.mark_unchanged();
            let snapshot = self.registry.members();
            let members = snapshot.members.iter();
            let now: Vec<_> = members
                .map(|(name, member)| (name.clone(), member.ready, member.connection, member.labels.clone()))
                .collect();
            if snapshot.synced && before != now {
                lock(&self.absences)
                    .retain(|name, _| snapshot.members.get(name).is_some_and(|member| !member.ready));
                for (name, ..) in now.iter().filter(|(_, ready, ..)| !ready) {
                    if lock(&self.absences).contains_key(name) {
                        continue;
                    }
                    // Who was away already when the control plane started has been away for longer than that.
                    let since = if before.is_empty() { self.recorded_absence(name).await } else { None };
                    lock(&self.absences).insert(name.clone(), since.unwrap_or_else(Instant::now));
                }
                before = now;
                self.look_at_all(Duration::ZERO);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::tests::type_config;

    fn config(name: &str, edit: impl Fn(&mut Value)) -> Option<Arc<Config>> {
        let mut object = match name {
            NAMESPACES => type_config(name, "Namespace", "v1", ["Cluster", "Namespaced"]),
            "replicasets.apps" => type_config(name, "ReplicaSet", "v1", ["Namespaced"; 2]),
            _ => type_config(name, "Deployment", "v1", ["Namespaced"; 2]),
        };
        edit(&mut object);
        Some(Arc::new(Config::project(&object)))
    }

    fn kinds(
        config: impl Fn(&str) -> Option<Arc<Config>>,
        asked: &[&'static str],
        only_namespace: bool,
    ) -> Vec<&'static str> {
        wanted(config, &asked.iter().copied().collect(), only_namespace).into_keys().collect()
    }

    const BOTH: [&str; 2] = ["FederatedDeployment", "FederatedReplicaSet"];

    #[test]
    fn only_types_that_a_preference_asks_for_run() {
        let all = |name: &str| config(name, |_| ());
        assert_eq!(kinds(all, &BOTH, false), BOTH);
        assert_eq!(kinds(all, &BOTH[1..], false), BOTH[1..]);
        assert_eq!(kinds(all, &[], false), [""; 0]);
    }

    /// `spec/kubefed.md §2.10`
    #[test]
    fn a_type_runs_while_it_is_propagated() {
        let edits: [fn(&mut Value); 4] = [
            |object| object["spec"]["propagation"] = "Disabled".into(),
            |object| object["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into(),
            |object| object["spec"]["federatedType"]["kind"] = "FederatedDaemon".into(),
            |object| object["spec"]["targetType"]["kind"] = Value::Null,
        ];
        for edit in edits {
            let configs = |name: &str| {
                config(name, |object| {
                    if name == "deployments.apps" {
                        edit(object)
                    }
                })
            };
            assert_eq!(kinds(configs, &BOTH, false), BOTH[1..]);
        }
    }

    /// `spec/kubefed.md §0` item 17, `§2.10`
    #[test]
    fn without_the_type_of_namespaces_nothing_runs_unless_there_is_but_one() {
        let configs = |name: &str| config(name, |_| ()).filter(|_| name != NAMESPACES);
        assert_eq!(kinds(configs, &BOTH, false), [""; 0]);
        assert_eq!(kinds(configs, &BOTH, true), BOTH);
    }
}
