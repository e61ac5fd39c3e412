//! `hansa agent`: the agent on a member, put together.

use std::{env, sync::Arc, time::Duration, time::SystemTime};

use anyhow::{Context, Result};
use hansa_agent::{
    Agent, Settings,
    join::Sources,
    member::{Member, Source},
    proxy::Proxies,
};
use hansa_metrics::serve_numbers;
use rand::{SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use crate::{cli, processes};

/// Requests and upgrades under way at once.
const REQUESTS: usize = 1024;
/// How long they may take to end when the agent is asked to; a Pod has thirty seconds.
const DRAIN: Duration = Duration::from_secs(25);

pub(crate) async fn run(args: cli::Agent) -> Result<()> {
    let variable = |name: &str| env::var(name).ok();
    let sources = Sources {
        directory: args.join_dir,
        tower: args.tower,
        cluster: args.cluster,
        authority: args.ca_file,
        token: args.token_file,
    };
    // What is wrong now is said now; what goes wrong later is tried again.
    let join = sources.read()?;
    let source = match args.kubeconfig {
        Some(file) => Source::Kubeconfig { file, context: args.context },
        None => Source::pod(variable)?,
    };
    let member = Member::new(source, REQUESTS)?;
    let settings = Settings {
        sources,
        proxies: Proxies::from_environment(variable).context("HTTPS_PROXY")?,
        namespace: args.namespace,
        secret: args.credential_secret,
        tunnel: hansa_tunnel::Settings { streams: REQUESTS, ..hansa_tunnel::Settings::default() },
        requests: REQUESTS,
        drain: DRAIN,
        clock: Arc::new(SystemTime::now),
    };
    tracing::info!(cluster = join.cluster, tower = %join.tower, api = ?member, "the agent starts");
    let stop = CancellationToken::new();
    let agent = Agent::new(settings, member);
    let (numbers, ready) = (agent.observer(), agent.observer());
    let serving = serve_numbers(
        args.metrics_listen,
        move || numbers.metrics(),
        move || ready.standing().connections > 0,
        stop.clone(),
    );
    tokio::spawn(serving);
    let asked = async {
        processes::interrupted().await;
        tracing::info!("asked to stop: what is under way may end; asked again, it is cut off");
        stop.cancel();
        processes::interrupted().await;
    };
    tokio::select! {
        () = agent.run(StdRng::from_os_rng(), stop.clone()) => {}
        () = asked => {}
    }
    Ok(())
}
