//! The long-running parts, put together for one process or for several.

use std::convert::Infallible;

use anyhow::{Context, Result, bail};
use hansa_api::{KubeFedConfig, Settings, names};
use hansa_cluster::{
    ControllerOptions, Options, Registry,
    leader::{self, Candidate},
};
use hansa_embedded::{Body, Server, auth::User};
use hansa_federation::Controller;
use hansa_gateway::Gateway;
use http::{Request, Response};
use kube::{Api, Client};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{cli, gateway};

/// The controllers of a host, running.
pub(crate) struct Controllers {
    /// The members, for whoever else needs them.
    pub(crate) registry: Registry,
    tasks: [JoinHandle<()>; 2],
}

impl Controllers {
    /// Starts them as the host's KubeFedConfig says, until `stop`.
    pub(crate) async fn start(
        host: &Client,
        namespace: &str,
        leads: watch::Receiver<bool>,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let settings = settings(host, namespace).await?;
        let options =
            Options { namespace: namespace.to_owned(), health: settings.health, leads, ..Options::reader() };
        let registry = Registry::start(host.clone(), options, stop.clone());
        let options = hansa_federation::Options {
            namespace: namespace.to_owned(),
            ..hansa_federation::Options::default()
        };
        let federation = Controller::new(host.clone(), registry.clone(), options);
        let clusters = hansa_cluster::controller::run(
            host.clone(),
            registry.clone(),
            ControllerOptions::default(),
            stop.clone(),
        );
        let tasks = [tokio::spawn(clusters), tokio::spawn(federation.run(stop.clone()))];
        Ok(Self { registry, tasks })
    }

    /// Waits until they have stopped.
    pub(crate) async fn stopped(self) {
        for task in self.tasks {
            // A task that panicked has ended as well.
            let _ = task.await;
        }
    }
}

async fn settings(host: &Client, namespace: &str) -> Result<Settings> {
    let api = Api::<KubeFedConfig>::namespaced(host.clone(), namespace);
    let config = api
        .get_opt(names::KUBEFED_CONFIG)
        .await
        .context("cannot read the KubeFedConfig: has `hansa install` prepared this host?")?;
    let spec = config.map(|c| c.spec).unwrap_or_default();
    spec.settings().context("the KubeFedConfig of the host cannot be used")
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

/// `hansa controller-manager`.
pub(crate) async fn controller_manager(args: cli::ControllerManager) -> Result<()> {
    let host = args.host.transport()?.client("default");
    let stop = CancellationToken::new();
    tokio::select! {
        done = lead(&args, &host, &stop) => done,
        () = interrupted() => {
            stop.cancel();
            Ok(())
        }
    }
}

/// Runs the controllers while this process leads. Whoever loses the lead ends, so that nothing it began can go on
/// beside its successor.
async fn lead(args: &cli::ControllerManager, host: &Client, stop: &CancellationToken) -> Result<()> {
    let namespace = &args.kubefed_namespace;
    if args.no_leader_election {
        Controllers::start(host, namespace, leading(), stop).await?.stopped().await;
        return Ok(());
    }
    let settings = settings(host, namespace).await?;
    let candidate = Candidate { namespace: namespace.clone(), ..Candidate::new(identity(), &settings) };
    let work = |term: CancellationToken| async move {
        match Controllers::start(host, namespace, leading(), &term).await {
            Ok(controllers) => controllers.stopped().await,
            Err(error) => tracing::error!("{error:#}"),
        }
    };
    match leader::lead(host.clone(), candidate, stop.clone(), work).await {
        true => bail!("another instance leads now"),
        false => Ok(()),
    }
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
    let settings = settings(&host, &args.kubefed_namespace).await?;
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
