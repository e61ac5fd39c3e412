//! The long-running parts, put together for one process or for several.

use std::{convert::Infallible, time::Duration};

use anyhow::{Context, Result, bail};
use hansa_api::{kubefed::Scope, names};
use hansa_cluster::{
    ControllerOptions, Options, Registry,
    leader::{self, Candidate},
};
use hansa_embedded::{Body, Server, auth::User};
use hansa_federation::Controller;
use hansa_gateway::Gateway;
use hansa_metrics::{Metrics, Ready};
use hansa_transport::{Limits, Rate};
use http::{Request, Response};
use kube::Client;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli,
    config::{self, Config},
    gateway,
    host::own_namespace,
    output,
};

/// How long the parts may take to end when the process is asked to.
const DRAIN: Duration = Duration::from_secs(8);

/// What the controllers of a host work with.
pub(crate) struct Setup {
    /// The namespace of the federation's own objects.
    pub(crate) namespace: String,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
}

/// The controllers of a host, running.
pub(crate) struct Controllers {
    /// The members, for whoever else needs them.
    pub(crate) registry: Registry,
    tasks: Vec<JoinHandle<()>>,
}

impl Controllers {
    /// Starts them as the host's KubeFedConfig says, until `stop`.
    pub(crate) async fn start(
        host: &Client,
        namespace: &str,
        leads: watch::Receiver<bool>,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let config = config::load(host, namespace, None).await?;
        let setup = Setup { namespace: namespace.to_owned(), config, metrics: Metrics::default() };
        Ok(Self::start_with(host, &setup, leads, stop))
    }

    fn start_with(
        host: &Client,
        setup: &Setup,
        leads: watch::Receiver<bool>,
        stop: &CancellationToken,
    ) -> Self {
        tracing::info!("Starting cluster controller");
        let options = Options {
            namespace: setup.namespace.clone(),
            health: setup.config.settings.health,
            leads,
            metrics: setup.metrics.clone(),
            ..Options::reader()
        };
        let registry = Registry::start(host.clone(), options, stop.clone());
        let options = hansa_federation::Options {
            namespace: setup.namespace.clone(),
            config: Some(setup.config.config.clone()),
            metrics: setup.metrics.clone(),
            overdue: setup.config.settings.unavailable_delay,
            ..hansa_federation::Options::default()
        };
        let federation = Controller::new(host.clone(), registry.clone(), options);
        let mut tasks = vec![tokio::spawn(federation.run(stop.clone()))];
        // Clusters are of the whole host, so of several federations on one host exactly one takes care of them.
        if setup.namespace == names::SYSTEM_NAMESPACE {
            let clusters = hansa_cluster::controller::run(
                host.clone(),
                registry.clone(),
                ControllerOptions { metrics: setup.metrics.clone(), ..ControllerOptions::default() },
                stop.clone(),
            );
            tasks.push(tokio::spawn(clusters));
        }
        Self { registry, tasks }
    }

    /// Waits until they have stopped.
    pub(crate) async fn stopped(self) {
        for task in self.tasks {
            // A task that panicked has ended as well.
            let _ = task.await;
        }
    }
}

/// For a process that is the only one of its kind.
pub(crate) fn leading() -> watch::Receiver<bool> {
    watch::channel(true).1
}

/// An embedded server as a function call with all rights, for the parts that are the control plane itself.
pub(crate) fn in_process(
    server: Server,
) -> impl tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync {
    tower::service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move { Ok(server.handle(User::local(), request).await) }
    })
}

/// Resolves at Ctrl-C or when the process is asked to end.
pub(crate) async fn interrupted() {
    let asked = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = asked => {}
    }
}

/// `hansa controller-manager` (`spec/kubefed.md §2`).
pub(crate) async fn controller_manager(args: cli::ControllerManager) -> Result<()> {
    if args.version {
        let version = env!("CARGO_PKG_VERSION");
        return output::say(&format!(
            "Hansa controller-manager version: {version} (the API of KubeFed v0.10.0)\n"
        ));
    }
    let (metrics, ready, stop) = (Metrics::default(), Ready::default(), CancellationToken::new());
    tokio::spawn(hansa_metrics::serve_health(args.healthz_addr.clone(), ready.clone(), stop.clone()));
    tokio::spawn(hansa_metrics::serve_metrics(args.metrics_addr.clone(), metrics.clone(), stop.clone()));
    let work = run(&args, metrics, &ready, &stop);
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        () = interrupted() => {
            stop.cancel();
            // The lock is given back, if the host lets us.
            tokio::time::timeout(DRAIN, work).await.unwrap_or(Ok(()))
        }
    }
}

/// Runs the controllers while this process leads. Whoever loses the lead ends, so that nothing it began can go on
/// beside its successor.
async fn run(
    args: &cli::ControllerManager,
    metrics: Metrics,
    ready: &Ready,
    stop: &CancellationToken,
) -> Result<()> {
    let limits = Limits { concurrency: 1024, rate: rate(args), ..Limits::default() };
    let host = args.host.transport_to(args.master.as_deref(), limits)?.client("default");
    let namespace = args.kubefed_namespace.clone().or_else(own_namespace);
    let namespace = namespace.unwrap_or_else(|| names::SYSTEM_NAMESPACE.to_owned());
    let config = config::load(&host, &namespace, args.kubefed_config.as_deref()).await?;
    ready.set();
    match config.settings.scope {
        Scope::Cluster => tracing::info!("KubeFed will target all namespaces"),
        Scope::Namespaced => tracing::info!("KubeFed will be limited to the {namespace:?} namespace"),
    }
    let candidate =
        Candidate { namespace: namespace.clone(), ..Candidate::new(identity(), &config.settings) };
    let setup = Setup { namespace, config, metrics };
    let work = async |term: CancellationToken| {
        setup.metrics.leads(true);
        Controllers::start_with(&host, &setup, leading(), &term).stopped().await;
        setup.metrics.leads(false);
    };
    if args.no_leader_election {
        work(stop.clone()).await;
        return Ok(());
    }
    match leader::lead(host.clone(), candidate, stop.clone(), work).await {
        true => bail!("lost lease: another instance may lead now"),
        false => Ok(()),
    }
}

/// The bound on requests to the host, if one was asked for; the other half of it is then KubeFed's.
fn rate(args: &cli::ControllerManager) -> Option<Rate> {
    if args.rest_config_qps.is_none() && args.rest_config_burst.is_none() {
        return None;
    }
    Rate::new(args.rest_config_qps.unwrap_or(100.0), args.rest_config_burst.unwrap_or(200))
}

/// Who this process is among its replicas, as KubeFed names itself (`spec/kubefed.md §2.1`).
fn identity() -> String {
    let host = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let random: u128 = rand::random();
    format!("{}_{random:032x}", host.as_deref().map_or("hansa", str::trim))
}

/// `hansa apiserver`.
pub(crate) async fn apiserver(args: cli::Apiserver) -> Result<()> {
    let transport = args.host.transport()?;
    let host = transport.client("default");
    let stop = CancellationToken::new();
    let settings = config::read(&host, &args.kubefed_namespace).await?;
    // Members are probed here as well, since this process decides by itself where it can send a request; only the leading
    // controller manager writes down what it finds.
    let options = Options { namespace: args.kubefed_namespace, health: settings.health, ..Options::reader() };
    let registry = Registry::start(host.clone(), options, stop.clone());
    let gateway = Gateway::new(transport, registry);
    let listening =
        gateway::listen(&host, gateway, args.listen, args.advertise, &args.tls_names, stop.clone()).await?;
    tracing::info!(server = listening.server, "the gateway is up");
    interrupted().await;
    stop.cancel();
    listening.task.await.context("the gateway ended abnormally")
}
