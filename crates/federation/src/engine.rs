//! The sync engine of one federated type: observe, plan, act, report (`spec/kubefed.md §2.4–2.7`).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hansa_cluster::Registry;
use hansa_cluster::feed::{Feed, Object};
use hansa_metrics::{self as metrics, Metrics};
use kube::Client;
use kube::api::{Api, DynamicObject};
use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bodies::Bodies;
use crate::cache::{Cache, Change};
use crate::collect::Collector;
use crate::dispatch::Memory;
use crate::events::{About, Recorder, Severity};
use crate::federated::Federated;
use crate::key::Key;
use crate::members::Members;
use crate::placement::Gate;
use crate::plan::{self, Ignored, Knowledge, Member, Observation, Plan, Situation};
use crate::queue::Queue;
use crate::records::Records;
use crate::state::State;
use crate::types::TypeConfig;
use crate::version::Record;

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
    /// Whether the statuses of the copies are passed on as they are, for the types that ask for it.
    pub(crate) raw_status: bool,
    /// How many objects of a type are worked on at once.
    pub(crate) concurrency: usize,
    /// How long a look waits for its members before it reports without the slow ones.
    pub(crate) patience: Duration,
    /// How long a deletion waits for members that are away.
    pub(crate) overdue: Duration,
    /// How many bytes of whole objects all engines keep.
    pub(crate) bodies: Arc<AtomicUsize>,
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
    pub(crate) collector: Collector,
    pub(crate) queue: Queue<Key>,
    pub(crate) bodies: Bodies,
    pub(crate) states: Mutex<HashMap<Key, State>>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) steps: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    pub(crate) counted: metrics::Controller,
}

impl Engine {
    /// An engine that has not begun.
    pub(crate) fn new(types: TypeConfig, shared: Arc<Shared>, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            bodies: Bodies::new(shared.bodies.clone()),
            collector: Collector::new(&types, &shared),
            members: Members::new(shared.registry.clone(), &types, shared.only_namespace.as_deref()),
            counted: shared.metrics.controller(&types.federated.kind.to_lowercase(), shared.concurrency),
            types,
            shared,
            cache: Arc::default(),
            host_namespaces: Cache::default(),
            queue: Queue::default(),
            states: Mutex::default(),
            memory: Arc::default(),
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
            let project = |object: &Object<'_>, before: Option<&Federated>| {
                Federated::read(&self.types, object, before)
            };
            let changed = |change: Change<'_, Federated>| self.federated_changed(change);
            let feed = self.feed(&self.federated_api(None));
            self.cache.watch(feed, project, changed, self.shutdown.clone()).await;
        };
        let host_namespaces = async {
            if self.types.is_namespaces() {
                let uid = |object: &Object<'_>, _: Option<&String>| Some(object.meta.uid.to_string());
                let changed = |change: Change<'_, String>| match change {
                    Change::Put(key, ..) | Change::Gone(key, _) => {
                        self.queue.add(self.types.federated_of(key))
                    }
                    Change::Synced => self.look_at_all(),
                };
                let api = Api::all_with(self.shared.host.clone(), &self.types.target);
                let feed = self.feed(&api).only_metadata();
                self.host_namespaces.watch(feed, uid, changed, self.shutdown.clone()).await;
            }
        };
        let engine = self.clone();
        let changed = move |key: Key| engine.queue.add(engine.types.federated_of(&key));
        let members =
            self.members.run(changed, || self.look_at_all(), || self.queue.is_busy(), self.shutdown.clone());
        if self.types.enabled {
            self.collect();
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

    fn federated_changed(&self, change: Change<'_, Federated>) {
        match change {
            Change::Put(key, ..) | Change::Gone(key, _) if !self.types.enabled => self.announce(key),
            Change::Put(key, object, before) => {
                let former = before.filter(|before| before.uid != *object.meta.uid);
                former.into_iter().for_each(|former| self.shared.records.forget(&former.uid));
                let is_new = before.is_none_or(|before| before.generation != object.meta.generation);
                if is_new && self.is_to_be_written(key) {
                    self.bodies.put(key, object.raw);
                }
                self.announce(key);
                self.queue.add(key.clone());
            }
            Change::Gone(key, former) => {
                self.shared.records.forget(&former.uid);
                self.bodies.take(key);
                self.announce(key);
                self.queue.add(key.clone());
            }
            Change::Synced => {
                self.announce(&Key::new("", ""));
                self.look_at_all();
            }
        }
    }

    /// Whether members are surely to be written to: a first reading finds thousands of objects, of which hardly any is.
    fn is_to_be_written(&self, key: &Key) -> bool {
        let Some(federated) = self.cache.get(key) else { return false };
        let record = self.shared.records.get(&federated.uid);
        record.is_none_or(|record| record.hashes != federated.hashes)
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

    pub(crate) fn look_at_all(&self) {
        self.cache.keys().into_iter().for_each(|key| self.queue.add(key));
        self.members.keys().into_iter().for_each(|key| self.queue.add(self.types.federated_of(&key)));
        self.shared.records.debts.keys(&self.types.name).into_iter().for_each(|key| self.queue.add(key));
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
        let (counted, began) = (self.counted.begin(), Instant::now());
        // What it was put off for is seen to now; whatever this look puts off stays put off.
        self.queue.put_off_no_more(key);
        let body = self.bodies.take(key);
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
            (Plan::Work(work), None) => self.disown(key, &work, &seen).await,
        }
        self.forget(key, self.cache.get(key).as_deref());
        self.come_back(key, began);
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
        // Of a thousand members a few matter to an object: those it is to be on, and those it is or may be on.
        let holders = self.members.holders(&target);
        let debt = self.shared.records.debts.of(&self.types.name, key);
        let is_owed = |name: &str| debt.as_ref().is_some_and(|debt| debt.clusters.contains_key(name));
        let placement = federated.and_then(|federated| federated.placement.as_ref().ok());
        let matters = |name: &str, member: &hansa_cluster::Member| {
            holders.iter().any(|holder| **holder == *name)
                || is_owed(name)
                || record.is_some_and(|record| record.clusters.contains(name))
                || placement.is_some_and(|placement| placement.selects(name, &member.labels))
        };
        let mut observed = BTreeMap::new();
        let members = {
            let mut states = lock(&self.states);
            let mut state = states.get_mut(key);
            let is_remembered =
                |name: &str| state.as_ref().is_some_and(|state| state.members.contains_key(name));
            let members: Vec<_> = snapshot
                .members
                .iter()
                .filter(|(name, member)| matters(name, member) || is_remembered(name))
                .collect();
            let members = members.into_iter();
            let members = members.map(|(name, member)| {
                let raw = self.members.observe(name, &target);
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
            debt: debt.as_deref(),
            is_overdue: federated.is_some_and(|federated| self.is_overdue(key, federated)),
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

    /// Whether a deletion has waited long enough for members that are away; if not, it is looked at again when it has.
    fn is_overdue(&self, key: &Key, federated: &Federated) -> bool {
        if !federated.deleting {
            return false;
        }
        let mut states = lock(&self.states);
        let state = states.entry(key.clone()).or_default();
        state.uid.clone_from(&federated.uid);
        state.deleting.get_or_insert_with(Instant::now).elapsed() >= self.shared.overdue
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

    fn feed(&self, api: &Api<DynamicObject>) -> Feed {
        Feed::new(self.shared.host.clone(), api.resource_url())
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

    /// Forgets what need not be remembered any more: of an object at rest, that is everything.
    fn forget(&self, key: &Key, federated: Option<&Federated>) {
        let mut states = lock(&self.states);
        if let Some(state) = states.get_mut(key)
            && state.is_over(
                federated.map(|federated| (&*federated.uid, &*federated.resource_version)),
                Instant::now(),
            )
        {
            states.remove(key);
            // A roll-out has a state for each object; afterwards hardly any has one.
            if states.len() < states.capacity() / 8 {
                states.shrink_to_fit();
            }
        }
    }

    /// Sees to it that the object is looked at again when something is to be tried again.
    fn come_back(&self, key: &Key, began: Instant) {
        let next = {
            let states = lock(&self.states);
            let state = states.get(key);
            let members = state.map(|state| state.members.values()).into_iter().flatten();
            let members = members
                .filter(|member| !member.in_flight)
                .flat_map(|member| [member.retry(), member.believed_until()]);
            let overdue = state.and_then(|state| state.deleting).map(|since| since + self.shared.overdue);
            // What was due when this look began has been looked at, and to no avail; what has become due since has not.
            members.chain([overdue]).flatten().filter(|at| *at > began).min()
        };
        if let Some(next) = next {
            self.queue.add_after(key.clone(), next.saturating_duration_since(Instant::now()));
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
