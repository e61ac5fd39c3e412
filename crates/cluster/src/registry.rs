//! Every registered member, and a snapshot of them for whoever decides something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use futures::StreamExt;
use hansa_api::kubefed::KubeFedCluster;
use hansa_api::settings::{Health as Thresholds, Settings};
use hansa_metrics::Metrics;
use hansa_transport::{Limits, Target, TlsError, Transport};
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::informer::{Informers, Table};
use crate::listed::Listed;
use crate::member::{self, Context, Member, Registration};
use crate::tokens::{self, Tokens};

/// How a target is turned into a transport. Other than [`connect`], it lets servers in this process be members.
pub type Connect = Arc<dyn Fn(Target) -> Result<Transport, TlsError> + Send + Sync>;

/// The way to a member over the network.
pub fn connect() -> Connect {
    Arc::new(|target| Transport::new(target, Limits::default()))
}

/// The settings of a [`Registry`].
#[derive(Clone)]
pub struct Options {
    /// Where KubeFedClusters and their Secrets are.
    pub namespace: String,
    /// How members are probed.
    pub health: Thresholds,
    /// How members are reached.
    pub connect: Connect,
    /// Whether this process is the one that writes down what it finds.
    pub leads: watch::Receiver<bool>,
    /// What is counted of the members.
    pub metrics: Metrics,
}

impl Options {
    /// The usual settings, for a process that only looks.
    pub fn reader() -> Self {
        Self {
            namespace: hansa_api::names::SYSTEM_NAMESPACE.to_owned(),
            health: Settings::default().health,
            connect: connect(),
            leads: watch::channel(false).1,
            metrics: Metrics::default(),
        }
    }
}

/// The members at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Whether all registrations have been read. Until then a member's absence means nothing.
    pub synced: bool,
    /// Every registered member, ready or not.
    pub members: BTreeMap<String, Arc<Member>>,
}

/// Every registered member, kept up to date. Clones are handles to the same.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

/// Version, plural and namespace of what is watched.
type TableKey = (String, String, Option<String>);

struct Inner {
    snapshot: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
    /// Serialises changes of the snapshot.
    change: Mutex<()>,
    connections: AtomicU64,
    tables: Mutex<BTreeMap<TableKey, Weak<Table>>>,
    stop: CancellationToken,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Begins to watch the registrations on `host`, until `stop`. It must be called inside a runtime.
    pub fn start(host: kube::Client, options: Options, stop: CancellationToken) -> Self {
        let inner = Arc::new(Inner {
            snapshot: ArcSwap::default(),
            version: watch::channel(0).0,
            change: Mutex::default(),
            connections: AtomicU64::new(0),
            tables: Mutex::default(),
            stop: stop.clone(),
        });
        let registry = Self { inner };
        tokio::spawn(supervise(registry.clone(), host, options, stop));
        registry
    }

    /// The members as they are now.
    pub fn members(&self) -> Arc<Snapshot> {
        self.inner.snapshot.load_full()
    }

    /// One member, if it is registered.
    pub fn member(&self, name: &str) -> Option<Arc<Member>> {
        self.members().members.get(name).cloned()
    }

    /// A number that changes whenever [`Registry::members`] does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    /// What the members have of one type: one watch in each, shared by all who ask for the same. `namespace` limits it.
    pub fn informers(&self, target: &kube::core::ApiResource, namespace: Option<&str>) -> Informers {
        let key = (target.api_version.clone(), target.plural.clone(), namespace.map(str::to_owned));
        let mut tables = lock(&self.inner.tables);
        tables.retain(|_, table| table.strong_count() > 0);
        if let Some(table) = tables.get(&key).and_then(Weak::upgrade) {
            return Informers::new(table);
        }
        let table = Table::start(
            self.clone(),
            target.clone(),
            namespace.map(str::to_owned),
            self.inner.stop.child_token(),
        );
        tables.insert(key, Arc::downgrade(&table));
        Informers::new(table)
    }

    fn change(&self, edit: impl FnOnce(&mut Snapshot)) {
        let _turn = lock(&self.inner.change);
        let mut snapshot = Snapshot::clone(&self.inner.snapshot.load());
        edit(&mut snapshot);
        self.inner.snapshot.store(Arc::new(snapshot));
        self.inner.version.send_modify(|version| *version += 1);
    }
}

/// A member's task, and what it is told.
struct Kept {
    tell: watch::Sender<Registration>,
    stop: CancellationToken,
}

/// Follows KubeFedClusters and Secrets, and keeps one task per member.
async fn supervise(registry: Registry, host: kube::Client, options: Options, stop: CancellationToken) {
    let clusters: Api<KubeFedCluster> = Api::namespaced(host.clone(), &options.namespace);
    let mut clusters = watcher(clusters, watcher::Config::default()).default_backoff().boxed();
    let (named, names) = watch::channel(BTreeSet::new());
    let (tell, mut told) = mpsc::channel(64);
    let secrets = Api::namespaced(host.clone(), &options.namespace);
    let follow = tokens::follow(secrets, names, options.health.period, tell);
    let mut supervisor = Supervisor {
        registry,
        host,
        options,
        stop: stop.clone(),
        clusters: Listed::default(),
        tokens: Tokens::default(),
        kept: BTreeMap::new(),
        probes: Vec::new(),
        settled: false,
    };
    let supervise = async {
        loop {
            tokio::select! {
                said = told.recv() => match said {
                    Some(said) => {
                        if supervisor.tokens.apply(said) {
                            supervisor.settle();
                        }
                    }
                    None => return,
                },
                event = clusters.next() => match event {
                    Some(Ok(event)) => {
                        if supervisor.clusters.apply(event, |cluster| Some(Arc::new(cluster))) {
                            let clusters = supervisor.clusters.known.values();
                            let names: BTreeSet<_> =
                                clusters.map(|cluster| cluster.spec.secret_ref.name.clone()).collect();
                            supervisor.tokens.keep(&names);
                            named.send_if_modified(|former| {
                                let differs = *former != names;
                                *former = names;
                                differs
                            });
                            supervisor.settle();
                        }
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, "the KubeFedClusters of the host cannot be watched; trying again");
                    }
                    None => return,
                },
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = supervise => {}
        () = follow => {}
    }
}

struct Supervisor {
    registry: Registry,
    host: kube::Client,
    options: Options,
    stop: CancellationToken,
    clusters: Listed<Arc<KubeFedCluster>>,
    tokens: Tokens,
    kept: BTreeMap<String, Kept>,
    /// The first probes of the members, until all members of the start are there.
    probes: Vec<oneshot::Receiver<()>>,
    settled: bool,
}

impl Supervisor {
    /// Makes the tasks what the host says.
    fn settle(&mut self) {
        if !self.clusters.synced {
            return;
        }
        let gone: Vec<String> =
            self.kept.keys().filter(|name| !self.clusters.known.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(kept) = self.kept.remove(&name) {
                kept.stop.cancel();
            }
            self.options.metrics.forget_member(&name);
            self.registry.change(|snapshot| {
                snapshot.members.remove(&name);
            });
        }
        let mut all = true;
        for (name, cluster) in &self.clusters.known {
            // A Secret that has not been looked at is not one that is missing.
            let Some(token) = self.tokens.get(&cluster.spec.secret_ref.name) else {
                all &= self.kept.contains_key(name);
                continue;
            };
            let registration = Registration { cluster: cluster.clone(), token };
            match self.kept.get(name) {
                Some(kept) => {
                    kept.tell.send_if_modified(|told| {
                        let differs = !told.means(&registration);
                        if differs {
                            *told = registration;
                        }
                        differs
                    });
                }
                None => {
                    let stop = self.stop.child_token();
                    let (tell, told) = watch::channel(registration);
                    let (probed, probe) = oneshot::channel();
                    if !self.settled {
                        self.probes.push(probe);
                    }
                    let context = self.context(stop.clone(), probed);
                    member::start(context, told, stop.clone());
                    self.kept.insert(name.clone(), Kept { tell, stop });
                }
            }
        }
        if all && !std::mem::replace(&mut self.settled, true) {
            let probes = std::mem::take(&mut self.probes);
            // After a start, the members that answer are ready before anything is decided on them, and those that do not are not waited for.
            let (registry, limit) = (self.registry.clone(), self.options.health.timeout);
            tokio::spawn(async move {
                let _ = tokio::time::timeout(limit, futures::future::join_all(probes)).await;
                registry.change(|snapshot| snapshot.synced = true);
            });
        }
    }

    fn context(&self, stop: CancellationToken, probed: oneshot::Sender<()>) -> Context {
        let registry = self.registry.clone();
        let counter = self.registry.clone();
        Context {
            host: self.host.clone(),
            namespace: self.options.namespace.clone(),
            thresholds: self.options.health,
            connect: self.options.connect.clone(),
            leads: self.options.leads.clone(),
            metrics: self.options.metrics.clone(),
            publish: Box::new(move |member| {
                registry.change(|snapshot| {
                    // The task of a member that was removed meanwhile does not bring it back.
                    if !stop.is_cancelled() {
                        snapshot.members.insert(member.name.clone(), Arc::new(member));
                    }
                });
            }),
            probed: Some(probed),
            next_connection: Box::new(move || counter.inner.connections.fetch_add(1, Ordering::Relaxed) + 1),
        }
    }
}
