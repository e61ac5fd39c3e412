//! A simulated member: an embedded API server with nodes on which Pods run, and the workload controllers that make
//! Deployments available.
//!
//! It is a cluster as far as its API tells: what is created runs to the state a healthy cluster would show, and what
//! cannot run says why. No container is started.

mod cache;
mod client;
mod controllers;
mod cron;
mod daemon;
mod deployment;
mod endpoints;
mod image;
mod job;
mod kubelet;
mod object;
mod pod;
mod queue;
mod schedule;
mod stateful;
mod volumes;
mod wiring;
mod world;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use hansa_embedded::Server;
use hansa_machinery::kubernetes::KUBERNETES;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::{Cache, Listener, Project},
    client::{Client, Error},
    controllers::{
        cron_job, daemon_set, deployment as deployments, job as jobs, kubelet as kubelets, nodes, of,
        replica_set, run, scheduler, service, stateful_set, volume,
    },
    wiring::Queues,
    world::World,
};

/// How many objects of one kind are worked on at a time.
const WORKERS: usize = 8;
const RETRY: Duration = Duration::from_secs(1);

/// What the simulated cluster is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes there are; at most 250.
    pub nodes: usize,
    /// What their names begin with.
    pub node_prefix: String,
    /// The region they are in, spread over three zones.
    pub region: String,
    /// The CPUs of each node, as a quantity.
    pub cpu: String,
    /// The memory of each node, as a quantity.
    pub memory: String,
    /// How many Pods each node takes.
    pub pods: u32,
    /// The Kubernetes release the kubelets say they are, such as `1.37.2`.
    pub version: String,
    /// How long a container runs that is to end and does not say when.
    pub run_time: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            node_prefix: "node".to_owned(),
            region: "sandbox".to_owned(),
            cpu: "8".to_owned(),
            memory: "32Gi".to_owned(),
            pods: 110,
            version: KUBERNETES.version.clone(),
            run_time: Duration::from_secs(1),
        }
    }
}

impl Options {
    fn node_name(&self, n: usize) -> String {
        format!("{}-{n}", self.node_prefix)
    }
}

/// The controllers of a simulated cluster.
#[derive(Debug)]
pub struct Sandbox;

impl Sandbox {
    /// Runs nodes and controllers on `server` until `shutdown`; the task ends when all of them have stopped.
    ///
    /// A start after a stop goes on from what the API server holds, and writes nothing that is already right.
    pub fn start(server: &Server, options: Options, shutdown: CancellationToken) -> JoinHandle<()> {
        let world = World::new(Client::new(server), options);
        tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = operate(world, &mut tasks) => {}
            }
            tasks.shutdown().await;
        })
    }
}

/// Everything that runs, for ever.
async fn operate(world: Arc<World>, tasks: &mut JoinSet<()>) {
    while let Err(error) = prepare(&world).await {
        tracing::warn!(%error, "the sandbox's nodes could not be made, will try again");
        tokio::time::sleep(RETRY).await;
    }
    let queues = Arc::new(Queues::default());
    for cache in caches(&world, &queues) {
        tasks.spawn(cache);
    }
    world.synced().await;
    for controller in controllers(&world, &queues) {
        tasks.spawn(controller);
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a part of the sandbox ended");
        }
    }
}

async fn prepare(world: &World) -> Result<(), Error> {
    nodes::ensure(&world.client, &world.options, world.now()).await?;
    match world.client.create("storageclasses.storage.k8s.io", volumes::storage_class()).await {
        Err(error) if !error.is_reason("AlreadyExists") => Err(error),
        _ => Ok(()),
    }
}

type Task = BoxFuture<'static, ()>;

fn caches(world: &Arc<World>, queues: &Arc<Queues>) -> Vec<Task> {
    fn cache<T: Project>(world: &Arc<World>, cache: &Arc<Cache<T>>, listeners: Vec<Listener<T>>) -> Task {
        Box::pin(cache.clone().run(world.client.clone(), listeners))
    }
    let q = queues;
    vec![
        cache(world, &world.nodes, vec![wiring::nodes(world, q)]),
        cache(world, &world.pods, vec![wiring::owners(q), wiring::pods(world, q)]),
        cache(
            world,
            &world.replica_sets,
            vec![wiring::itself(&q.replica_sets), wiring::owners(q), wiring::orphaned_sets(world, q)],
        ),
        cache(world, &world.deployments, vec![wiring::itself(&q.deployments)]),
        cache(world, &world.stateful_sets, vec![wiring::itself(&q.stateful_sets)]),
        cache(world, &world.daemon_sets, vec![wiring::itself(&q.daemon_sets)]),
        cache(world, &world.revisions, vec![wiring::owners(q)]),
        cache(world, &world.jobs, vec![wiring::itself(&q.jobs), wiring::owners(q)]),
        cache(world, &world.cron_jobs, vec![wiring::itself(&q.cron_jobs)]),
        cache(world, &world.services, vec![wiring::itself(&q.services)]),
        cache(world, &world.slices, Vec::new()),
        cache(world, &world.claims, vec![wiring::itself(&q.volumes), wiring::claims(world, q)]),
    ]
}

fn controllers(world: &Arc<World>, queues: &Arc<Queues>) -> Vec<Task> {
    let addresses = Arc::new(kubelets::Addresses::default());
    let kubelet = move |world, key| kubelets::reconcile(world, addresses.clone(), key);
    let q = queues;
    vec![
        // One decision at a time: each must know what the last one took.
        Box::pin(run("scheduler", q.scheduler.clone(), 1, of(world.clone(), scheduler::reconcile))),
        Box::pin(run("kubelet", q.kubelet.clone(), WORKERS, of(world.clone(), kubelet))),
        Box::pin(run(
            "replicaset",
            q.replica_sets.clone(),
            WORKERS,
            of(world.clone(), replica_set::reconcile),
        )),
        Box::pin(run(
            "deployment",
            q.deployments.clone(),
            WORKERS,
            of(world.clone(), deployments::reconcile),
        )),
        Box::pin(run(
            "statefulset",
            q.stateful_sets.clone(),
            WORKERS,
            of(world.clone(), stateful_set::reconcile),
        )),
        Box::pin(run("daemonset", q.daemon_sets.clone(), WORKERS, of(world.clone(), daemon_set::reconcile))),
        Box::pin(run("job", q.jobs.clone(), WORKERS, of(world.clone(), jobs::reconcile))),
        Box::pin(run("cronjob", q.cron_jobs.clone(), 1, of(world.clone(), cron_job::reconcile))),
        Box::pin(run("endpoints", q.services.clone(), WORKERS, of(world.clone(), service::reconcile))),
        // One at a time, so that no volume is given to two claims.
        Box::pin(run("volume", q.volumes.clone(), 1, of(world.clone(), volume::reconcile))),
    ]
}
