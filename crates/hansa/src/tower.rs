//! `hansa tower`: the server that agents dial, with a certificate that every replica shows, announced on the host.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use hansa_api::names::SYSTEM_NAMESPACE;
use hansa_cluster::agents::announcement::{self, Announcement};
use hansa_listener::serve::tls_config;
use hansa_metrics::Metrics;
use hansa_tower::{Options, Tower};
use hansa_transport::explain;
use kube::Client;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    cli,
    gateway::{certificate, host_of, reachable},
    processes::interrupted,
};

/// The Secret with the tower's authority, which signs agents too, and its serving certificate.
const TLS_SECRET: &str = "hansa-tower-tls";

/// Where a tower is.
pub(crate) struct Place {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// The URL agents dial; by default where it listens.
    pub(crate) advertise: Option<String>,
    /// The URL under which the host's own components reach it; by default the same.
    pub(crate) internal: Option<String>,
    /// Further names and addresses for its certificate.
    pub(crate) names: Vec<String>,
}

/// A tower that listens.
pub(crate) struct Listening {
    /// The URL agents dial.
    pub(crate) server: String,
    /// Ends when the tower has let go of everything.
    pub(crate) task: JoinHandle<()>,
}

/// Serves a replica of the tower until `stop`.
pub(crate) async fn listen(
    host: &Client,
    place: Place,
    metrics: &Metrics,
    options: Options,
    stop: CancellationToken,
) -> Result<Listening> {
    let listener = TcpListener::bind(place.listen).await.with_context(|| {
        format!(
            "cannot listen on {}: is something else running there? --listen takes another address (of hansa up: --tower-listen)",
            place.listen
        )
    })?;
    let address = listener.local_addr()?;
    let url = |url: String| url.trim_end_matches('/').to_owned();
    let server = url(place.advertise.unwrap_or_else(|| format!("https://{}", reachable(address))));
    let internal = place.internal.map_or_else(|| server.clone(), url);

    let mut sans: BTreeSet<String> = ["127.0.0.1", "localhost"].map(str::to_owned).into();
    sans.extend(place.names);
    for url in [&server, &internal] {
        sans.insert(host_of(url).with_context(|| format!("{url:?} is no URL with a host"))?);
    }
    if !address.ip().is_unspecified() {
        sans.insert(address.ip().to_string());
    }
    let secret = (SYSTEM_NAMESPACE, TLS_SECRET);
    let (authority, serving) = certificate(host, secret, "hansa-tower", &sans).await?;
    let tls = tls_config(&authority, Arc::new(serving))?;
    let said = Announcement { server: server.clone(), internal, ca: authority.certificate_pem().to_owned() };
    let tower = Tower::new(host.clone(), authority, metrics, options, &mut rand::rng());
    let task = tokio::spawn(tower.serve(listener, tls, stop));
    // Only now that it listens is anybody sent here.
    announcement::publish(host, &said)
        .await
        .map_err(|error| anyhow::anyhow!("cannot say on the host where the tower is: {}", explain(&error)))?;
    Ok(Listening { server, task })
}

/// `hansa tower`.
pub(crate) async fn run(args: cli::Tower) -> Result<()> {
    let host = args.host.client()?;
    let (metrics, stop) = (Metrics::default(), CancellationToken::new());
    tokio::spawn(hansa_metrics::serve_metrics(args.metrics_listen, metrics.clone(), stop.child_token()));
    let place = Place {
        listen: args.listen,
        advertise: args.advertise,
        internal: args.internal,
        names: args.tls_names,
    };
    let listening = listen(&host, place, &metrics, Options::default(), stop.clone()).await?;
    tracing::info!(server = listening.server, "the tower is up");
    interrupted().await;
    stop.cancel();
    listening.task.await.context("the tower ended abnormally")
}
