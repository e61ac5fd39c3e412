//! `hansa up`: a whole host on one machine, in one process.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hansa_api::{Cluster, cluster::condition, names::ADMINS_GROUP};
use hansa_embedded::auth::{StaticToken, User};
use hansa_gateway::Gateway;
use hansa_metrics::Metrics;
use hansa_transport::Transport;
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    cli,
    data_dir::DataDir,
    gateway, get, install,
    kubeconfig::Access,
    membership,
    output::{Progress, say},
    processes::{Controllers, in_process, interrupted, leading},
    sandbox::Member,
    tower, webhook,
};

/// How long the parts may take to end after Ctrl-C.
const DRAIN: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: cli::Up) -> Result<()> {
    let started = Instant::now();
    let stop = CancellationToken::new();
    let data = DataDir::open(args.data_dir)?;
    let token = data.admin_token()?;

    let administrator = StaticToken::new(&token, User::new("admin", [ADMINS_GROUP]));
    let host = data.server("host", vec![administrator]).await?;
    let direct = args.sandbox.checked_sub(args.sandbox_agents);
    let direct = direct.context("--sandbox-agents is how many of the members of --sandbox have an agent")?;
    let members =
        (1..=args.sandbox).map(|number| Member::start(&data, number, number > direct, stop.clone()));
    let mut members = futures::future::try_join_all(members).await?;

    let transport = Transport::in_process(in_process(host.clone()));
    let client = transport.client("default");
    let webhooks = webhook::beside(&client, hansa_api::names::SYSTEM_NAMESPACE, stop.clone()).await?;
    // No webhook, of whoever, keeps the host from starting: nobody could reach it to repair the webhook.
    let starting = Transport::in_process(webhook::unasked(host.clone())).client("default");
    install::install(&starting).await.context("cannot prepare the embedded host")?;
    membership::grant_admins(&starting).await?;
    let controllers =
        Controllers::start(&client, hansa_api::names::SYSTEM_NAMESPACE, leading(), &stop).await?;
    let gateway = Gateway::new(transport, controllers.registry.clone());
    let listening = gateway::listen(&starting, gateway, args.listen, None, &[], stop.clone()).await?;
    let place = tower::Place {
        listen: args.tower_listen,
        advertise: args.tower_advertise,
        internal: None,
        names: Vec::new(),
    };
    // Nobody looks whether this replica is ready, and Ctrl-C is not to take long.
    let options = hansa_tower::Options {
        notice: Duration::ZERO,
        drain: Duration::from_secs(3),
        ..hansa_tower::Options::default()
    };
    let tower = tower::listen(&starting, place, &Metrics::default(), options, stop.clone()).await?;
    let access = Access { server: listening.server, ca: listening.ca, user: json!({"token": token}) };

    let joined = async {
        for member in &mut members {
            member.join(&starting, &data, &stop).await?;
        }
        ready(&client, &members).await
    };
    tokio::select! {
        names = joined => {
            let names = names?;
            data.write_secret("kubeconfig", &access.kubeconfig(&names).to_string())?;
            say(&welcome(started.elapsed(), &names, data.path()))?;
            tokio::select! {
                () = keep_current(&client, &controllers, &access, &data) => {}
                () = interrupted() => {}
            }
        }
        () = interrupted() => {}
    }

    stop.cancel();
    let end = async {
        controllers.stopped().await;
        // A task that panicked has ended as well.
        let _ = listening.task.await;
        let _ = tower.task.await;
        let _ = webhooks.task.await;
        for member in members {
            member.stopped().await;
        }
        host.close().await;
    };
    if tokio::time::timeout(DRAIN, end).await.is_err() {
        tracing::warn!("some parts did not end in time; what was acknowledged is on disk all the same");
    }
    Ok(())
}

/// Keeps the kubeconfig in the data directory at the clusters there are.
async fn keep_current(client: &Client, controllers: &Controllers, access: &Access, data: &DataDir) {
    let mut changes = controllers.registry.changes();
    while changes.changed().await.is_ok() {
        // Members come and go together at a start; one look after the last of them is enough.
        tokio::time::sleep(Duration::from_millis(200)).await;
        changes.mark_unchanged();
        let Ok(clusters) = get::clusters(client).await else { continue };
        let names: Vec<String> = clusters.iter().map(ResourceExt::name_any).collect();
        let text = access.kubeconfig(&names).to_string();
        if data.read("kubeconfig").as_ref() != Some(&text)
            && let Err(error) = data.write_secret("kubeconfig", &text)
        {
            tracing::warn!("{error:#}");
        }
    }
}

fn welcome(took: Duration, clusters: &[String], data: &Path) -> String {
    let member = clusters.get(1).map_or("host", String::as_str);
    format!(
        "Hansa is up in {:.2} s: {} ready\n\n  \
         export KUBECONFIG={}\n  \
         kubectl --context host apply -f examples/guestbook/\n  \
         kubectl --context {member} get deploy,svc,cm -n guestbook\n  \
         kubectl --context host get federateddeployments -n guestbook -o yaml\n\n\
         Ctrl-C stops it; the state stays in {}\n",
        took.as_secs_f64(),
        clusters.join(", "),
        data.join("kubeconfig").display(),
        data.display(),
    )
}

/// Waits until the host and every sandbox member that has not been taken out is ready; gives the names of all clusters.
async fn ready(client: &Client, members: &[Member]) -> Result<Vec<String>> {
    let mut progress = Progress::new();
    for _ in 0..1200 {
        let clusters = get::clusters(client).await?;
        let is_ready = |c: &Cluster| c.condition(condition::READY).is_some_and(|r| r.status == "True");
        let is_ours = |c: &&Cluster| c.is_host() || members.iter().any(|m| m.name == c.name_any());
        let waiting: Vec<String> =
            clusters.iter().filter(is_ours).filter(|c| !is_ready(c)).map(ResourceExt::name_any).collect();
        if waiting.is_empty() && clusters.iter().any(Cluster::is_host) {
            return Ok(clusters.iter().map(ResourceExt::name_any).collect());
        }
        if !waiting.is_empty() {
            progress.set(&format!("waiting for {}", waiting.join(", ")));
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    bail!("not every cluster became ready within 30 s; RUST_LOG=info shows why")
}
