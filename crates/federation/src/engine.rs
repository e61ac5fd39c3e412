//! The sync engine of one federated type: observe, plan, act, report (`spec/kubefed.md §2.4–2.7`).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hansa_cluster::Registry;
use hansa_metrics::{self as metrics, Metrics};
use kube::Client;
use kube::api::{Api, DynamicObject};
use serde_json::Value;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::{Cache, Change};
use crate::events::{About, Recorder, Severity};
use crate::federated::Federated;
use crate::key::Key;
use crate::members::Members;
use crate::placement::Gate;
use crate::plan::{self, Ignored, Knowledge, Member, Observation, Plan, Situation};
use crate::queue::Queue;
use crate::records::Records;
use crate::state::{MemberState, State};
use crate::types::TypeConfig;
use crate::version::Record;

/// How many whole federated objects are kept between their arrival and the look at them; others are read again.
const BODIES: usize = 256;
/// How often the copies in members are counted.
const COUNT: Duration = Duration::from_secs(15);

/// What all engines share.
pub(crate) struct Shared {
    pub(crate) host: Client,
    pub(crate) registry: Registry,
    pub(crate) records: Records,
    pub(crate) events: Recorder,
    /// The namespace of the control plane.
    pub(crate) system_namespace: String,
    /// The one namespace that is federated, if the control plane is not cluster-wide.
    pub(crate) only_namespace: Option<String>,
    /// Whether objects that exist in a member are taken over.
    pub(crate) adopt: bool,
    /// How many objects of a type are worked on at once.
    pub(crate) concurrency: usize,
    /// How long a look waits for its members before it reports without the slow ones.
    pub(crate) patience: Duration,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// The FederatedNamespaces, while their type is federated.
    pub(crate) namespaces: Mutex<Option<Arc<Cache<Federated>>>>,
    /// Says in which namespace the FederatedNamespace changed; an empty name is any.
    pub(crate) namespace_changes: broadcast::Sender<Arc<str>>,
}

/// What the watch of each member shows of one object, and over which connection.
pub(crate) type Seen = BTreeMap<String, (u64, Observation)>;

/// The engine of one type.
pub(crate) struct Engine {
    pub(crate) types: TypeConfig,
    pub(crate) shared: Arc<Shared>,
    pub(crate) cache: Arc<Cache<Federated>>,
    /// The UIDs of the host's namespaces, for the type of namespaces.
    pub(crate) host_namespaces: Cache<String>,
    pub(crate) members: Members,
    pub(crate) queue: Queue<Key>,
    pub(crate) bodies: Mutex<HashMap<Key, Arc<Value>>>,
    pub(crate) states: Mutex<HashMap<Key, State>>,
    pub(crate) steps: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    pub(crate) counted: metrics::Controller,
}

impl Engine {
    /// An engine that has not begun.
    pub(crate) fn new(types: TypeConfig, shared: Arc<Shared>, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            members: Members::new(shared.registry.clone(), &types, shared.only_namespace.as_deref()),
            counted: shared.metrics.controller(&types.federated.kind.to_lowercase(), shared.concurrency),
            types,
            shared,
            cache: Arc::default(),
            host_namespaces: Cache::default(),
            queue: Queue::default(),
            bodies: Mutex::default(),
            states: Mutex::default(),
            steps: TaskTracker::new(),
            shutdown,
        })
    }

    /// Works until it is told to stop; then waits for nothing but the writes under way to be dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        if self.types.is_namespaces() {
            *lock(&self.shared.namespaces) = Some(self.cache.clone());
        }
        let federated = async {
            let project = |object: &Value| Federated::project(&self.types, object);
            let changed = |change: Change<'_>| self.federated_changed(change);
            self.cache.watch(self.federated_api(None), project, changed, self.shutdown.clone()).await;
        };
        let host_namespaces = async {
            if self.types.is_namespaces() {
                let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                let changed = |change: Change<'_>| match change {
                    Change::Put(key, _) | Change::Gone(key) => self.queue.add(self.types.federated_of(key)),
                    Change::Synced => self.look_at_all(),
                };
                let api = Api::all_with(self.shared.host.clone(), &self.types.target);
                self.host_namespaces.watch(api, uid, changed, self.shutdown.clone()).await;
            }
        };
        let engine = self.clone();
        let changed = move |key: Key| engine.queue.add(engine.types.federated_of(&key));
        let members =
            self.members.run(changed, || self.look_at_all(), || self.queue.is_busy(), self.shutdown.clone());
        if self.types.enabled {
            tokio::join!(
                federated,
                host_namespaces,
                members,
                self.namespace_changes(),
                self.work(),
                self.count()
            );
        } else {
            federated.await;
        }
        if self.types.is_namespaces() {
            *lock(&self.shared.namespaces) = None;
        }
        self.steps.close();
        self.steps.wait().await;
    }

    fn federated_changed(&self, change: Change<'_>) {
        match change {
            Change::Put(key, _) | Change::Gone(key) if !self.types.enabled => self.announce(key),
            Change::Put(key, object) => {
                // The first reading finds thousands, of which hardly any needs a write.
                let mut bodies = lock(&self.bodies);
                if self.cache.is_synced() && (bodies.len() < BODIES || bodies.contains_key(key)) {
                    bodies.insert(key.clone(), Arc::new(object.clone()));
                }
                drop(bodies);
                self.announce(key);
                self.queue.add(key.clone());
            }
            Change::Gone(key) => {
                lock(&self.bodies).remove(key);
                self.announce(key);
                self.queue.add(key.clone());
            }
            Change::Synced => {
                self.announce(&Key::new("", ""));
                self.look_at_all();
            }
        }
    }

    fn announce(&self, key: &Key) {
        if self.types.is_namespaces() {
            let _ = self.shared.namespace_changes.send(key.namespace.clone());
        }
    }

    async fn namespace_changes(&self) {
        if !self.types.target_namespaced {
            return;
        }
        let mut changes = self.shared.namespace_changes.subscribe();
        while let Some(change) = self.shutdown.run_until_cancelled(changes.recv()).await {
            match change {
                Ok(namespace) if !namespace.is_empty() => {
                    self.cache.keys_in(&namespace).into_iter().for_each(|key| self.queue.add(key));
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => self.look_at_all(),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn look_at_all(&self) {
        self.cache.keys().into_iter().for_each(|key| self.queue.add(key));
        self.members.keys().into_iter().for_each(|key| self.queue.add(self.types.federated_of(&key)));
    }

    async fn work(self: &Arc<Self>) {
        let slots = Arc::new(Semaphore::new(self.shared.concurrency.max(1)));
        while let Some(Ok(slot)) = self.shutdown.run_until_cancelled(slots.clone().acquire_owned()).await {
            let Some(key) = self.shutdown.run_until_cancelled(self.queue.next()).await else { return };
            self.counted.queued(self.queue.len());
            let engine = self.clone();
            self.steps.spawn(async move {
                let look = engine.look(&key);
                engine.shutdown.run_until_cancelled(look).await;
                engine.queue.done(&key);
                drop(slot);
            });
        }
    }

    /// Counts the copies, now and then.
    async fn count(&self) {
        let count = async {
            loop {
                self.counted.placed(self.members.count());
                tokio::time::sleep(COUNT).await;
            }
        };
        self.shutdown.run_until_cancelled(count).await;
    }

    /// One look at one federated object.
    async fn look(self: &Arc<Self>, key: &Key) {
        let counted = self.counted.begin();
        let body = lock(&self.bodies).remove(key);
        let federated = self.cache.get(key);
        self.absorb(key, federated.as_deref());
        let record = federated.as_ref().and_then(|federated| self.shared.records.get(&federated.uid));
        let (plan, seen) = self.plan(key, federated.as_deref(), record.as_deref());
        let waits = matches!(plan, Plan::Wait(_));
        match (plan, federated) {
            (Plan::Wait(missing), _) => tracing::trace!(r#type = %self.types.name, %key, ?missing, "waiting"),
            (Plan::Ignore(Ignored::InvalidName), Some(federated)) => {
                let message = format!(
                    "a FederatedNamespace must have the name of its namespace, {:?}",
                    &*key.namespace
                );
                self.event(key, &federated, Severity::Warning, "InvalidName", message);
            }
            (Plan::Ignore(_), _) => {}
            (Plan::Work(work), Some(federated)) => self.act(key, &federated, &work, body, &seen).await,
            (Plan::Work(work), None) => {
                self.disown(key, &work, &seen).await;
                self.forget(key);
            }
        }
        self.come_back(key);
        counted.finish(if waits { metrics::Outcome::NotSynced } else { self.outcome(key) });
    }

    /// What came of a look, for those who count.
    fn outcome(&self, key: &Key) -> metrics::Outcome {
        let states = lock(&self.states);
        let members = || states.get(key).map(|state| state.members.values()).into_iter().flatten();
        match () {
            () if members().any(|member| member.retry().is_some()) => metrics::Outcome::Error,
            () if members().any(|member| member.in_flight) => metrics::Outcome::NeedsRecheck,
            () => metrics::Outcome::Success,
        }
    }

    /// Makes the plan, from what the watches show and what the members answered since.
    fn plan(&self, key: &Key, federated: Option<&Federated>, record: Option<&Record>) -> (Plan, Seen) {
        let target = self.types.target_of(key);
        let snapshot = self.shared.registry.members();
        let now = Instant::now();
        let mut found = self.members.observe(&target);
        let mut observed = BTreeMap::new();
        let members = {
            let mut states = lock(&self.states);
            let mut state = states.get_mut(key);
            let members = snapshot.members.iter().map(|(name, member)| {
                let raw = found.remove(name.as_str()).unwrap_or(Observation::Unsynced(None));
                let copy = match state.as_mut().and_then(|state| state.members.get_mut(name)) {
                    Some(state) => state.believe(raw.clone(), now),
                    None => raw.clone(),
                };
                observed.insert(name.clone(), (member.connection, raw));
                (name.clone(), Member { labels: &member.labels, ready: member.ready, copy })
            });
            members.collect::<BTreeMap<_, _>>()
        };
        let namespaces = lock(&self.shared.namespaces).clone();
        let namespace =
            namespaces.as_ref().and_then(|cache| cache.get(&Key::new(&key.namespace, &key.namespace)));
        let host_namespace = self.host_namespace(key);
        let situation = Situation {
            types: &self.types,
            key,
            system_namespace: &self.shared.system_namespace,
            federated: if self.cache.is_synced() { Knowledge::Known(federated) } else { Knowledge::Unknown },
            gate: self.gate(namespaces.as_deref(), namespace.as_deref()),
            record: if self.shared.records.is_loaded() {
                Knowledge::Known(record)
            } else {
                Knowledge::Unknown
            },
            members: if snapshot.synced { Knowledge::Known(&members) } else { Knowledge::Unknown },
            host_namespace: match &host_namespace {
                Knowledge::Known(uid) => Knowledge::Known(uid.as_deref()),
                Knowledge::Unknown => Knowledge::Unknown,
            },
        };
        let plan = match federated {
            Some(federated) if federated.deleting && !self.is_held(key, federated) => {
                Plan::Ignore(Ignored::NotHeld)
            }
            _ => plan::plan(&situation),
        };
        (plan, observed)
    }

    fn gate<'a>(&self, cache: Option<&Cache<Federated>>, namespace: Option<&'a Federated>) -> Gate<'a> {
        if !self.types.target_namespaced {
            return Gate::Open;
        }
        let is_only = self.shared.only_namespace.is_some();
        match (cache, namespace) {
            (_, Some(namespace)) => match &namespace.placement {
                Ok(placement) => Gate::Within(placement),
                Err(_) => Gate::Unknown,
            },
            (Some(cache), None) if !cache.is_synced() => Gate::Unknown,
            (_, None) if is_only => Gate::Open,
            (Some(_), None) => Gate::NotFederated,
            (None, None) => Gate::Unknown,
        }
    }

    pub(crate) fn host_namespace(&self, key: &Key) -> Knowledge<Option<String>> {
        if !self.types.is_namespaces() || !self.host_namespaces.is_synced() {
            return Knowledge::Unknown;
        }
        Knowledge::Known(self.host_namespaces.get(&self.types.target_of(key)).map(|uid| uid.as_ref().clone()))
    }

    /// The API of the federated type; `namespace` is that of one object, `None` is all that are federated.
    pub(crate) fn federated_api(&self, namespace: Option<&str>) -> Api<DynamicObject> {
        let host = self.shared.host.clone();
        match namespace.or(self.shared.only_namespace.as_deref()).filter(|_| self.types.federated_namespaced)
        {
            Some(namespace) => Api::namespaced_with(host, namespace, &self.types.federated),
            None => Api::all_with(host, &self.types.federated),
        }
    }

    /// Forgets an object that is gone, once nothing is under way for it.
    fn forget(&self, key: &Key) {
        let mut states = lock(&self.states);
        let Some(state) = states.get_mut(key) else { return };
        if !state.uid.is_empty() {
            self.shared.records.forget(&std::mem::take(&mut state.uid));
        }
        if state.members.values().all(MemberState::is_idle) {
            states.remove(key);
        }
    }

    /// Sees to it that the object is looked at again when something is to be tried again.
    fn come_back(&self, key: &Key) {
        let now = Instant::now();
        let next = {
            let states = lock(&self.states);
            let members = states.get(key).map(|state| state.members.values()).into_iter().flatten();
            members
                .filter(|member| !member.in_flight)
                .flat_map(|member| [member.retry(), member.believed_until()])
                .flatten()
                .min()
        };
        if let Some(next) = next {
            self.queue.add_after(key.clone(), next.saturating_duration_since(now));
        }
    }

    pub(crate) fn event(
        &self,
        key: &Key,
        federated: &Federated,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let about = About {
            api_version: self.types.federated.api_version.clone(),
            kind: self.types.federated.kind.clone(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: federated.uid.clone(),
        };
        self.shared.events.record(about, severity, reason, message);
    }
}

/// A lock that outlives the panic of another holder: what it guards is replaced whole, never left half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
