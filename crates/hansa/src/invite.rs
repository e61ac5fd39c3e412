//! `hansa join --agent`: the manifest with which a cluster joins that the host cannot reach.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use hansa_cluster::agents::{self, Invitation, Terms};
use jiff::Timestamp;
use kube::Client;
use rand::SeedableRng;
use serde_json::json;

use crate::{cli::Format, output};

/// How the agent is to run; each of these asks for `--agent`.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --agent")]
pub(crate) struct AgentFlags {
    /// Print the manifest of an agent that dials out to this host, for `kubectl apply` on the member; each call gives a new token
    #[arg(long, conflicts_with_all = ["kubeconfig", "cluster_context", "update", "dry_run", "timeout"])]
    pub(crate) agent: bool,
    /// The image of the agent [default: that of the host's administrator, else this version's]
    #[arg(long, requires = "agent", value_name = "IMAGE")]
    image: Option<String>,
    /// A ClusterRole of the member for the agent, in place of all rights; people then reach the member only if it lets the agent
    /// impersonate them
    #[arg(long, requires = "agent", value_name = "NAME")]
    agent_role: Option<String>,
    /// How many agents run; any of them serves
    #[arg(long, requires = "agent", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    replicas: u32,
    /// How long the token may be used to join, as in 30m or 24h
    #[arg(long, requires = "agent", value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    expires: Duration,
}

/// The longest a token may lie about.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

fn lifetime(text: &str) -> Result<Duration> {
    let given = Duration::try_from(hansa_machinery::duration::parse(text)?)
        .context("a token cannot end before it begins")?;
    if given < Duration::from_secs(60) || given > LONGEST {
        bail!("a token is good for at least 1m and at most 720h, not {text}");
    }
    Ok(given)
}

/// Invites the agent of `name` and prints what its cluster is to apply; what people are to do with it goes to the error stream.
pub(crate) async fn run(
    host: &Client,
    name: &str,
    labels: BTreeMap<String, String>,
    flags: &AgentFlags,
    format: Format,
) -> Result<()> {
    let terms = Terms {
        lifetime: flags.expires,
        image: flags.image.clone(),
        replicas: flags.replicas,
        role: flags.agent_role.clone(),
    };
    let now = Timestamp::now();
    let mut rng = rand::rngs::StdRng::from_os_rng();
    let invitation = agents::invite(host, name, labels, &terms, now, &mut rng).await?;
    let text = match format {
        Format::Json => {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": agents::manifest(&invitation)});
            format!("{}\n", serde_json::to_string_pretty(&list)?)
        }
        _ => agents::yaml(&invitation),
    };
    output::say(&text)?;
    let until = now.checked_add(flags.expires).unwrap_or(Timestamp::MAX);
    eprint!("{}", hints(&invitation, until));
    Ok(())
}

fn hints(invitation: &Invitation, until: Timestamp) -> String {
    let Invitation { cluster, server, .. } = invitation;
    let mut text = format!(
        "# This is the manifest for the agent of {cluster:?}. Apply it on that cluster, which must be able to reach {server}:\n\
         #   hansa join {cluster} --agent | kubectl --context THAT-CLUSTER apply -f -\n\
         # Its token is good once, until {until:.0}; run this again for another. Then see: hansa get clusters\n"
    );
    if let Some(role) = &invitation.role {
        text += &format!(
            "# ClusterRole {role:?} must be on that cluster. If its agent had another role before, first:\n\
             #   kubectl --context THAT-CLUSTER delete clusterrolebinding {} {}\n",
            hansa_api::names::AGENT_ROLE,
            hansa_api::names::AGENT_ADMINS_BINDING,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_a_sensible_life() {
        assert_eq!(lifetime("90m").unwrap(), Duration::from_secs(5400));
        for wrong in ["", "1", "-1h", "59s", "721h", "soon"] {
            assert!(lifetime(wrong).is_err(), "{wrong}");
        }
    }
}
