//! `hansa join` and `hansa unjoin`, and the same for the sandbox members of `hansa up`.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args};
use hansa_api::{
    Cluster,
    cluster::{ClusterSpec, Connection, ConnectionType, condition},
    names::{ADMINS_BINDING, ADMINS_GROUP, FIELD_MANAGER, SYSTEM_NAMESPACE},
    time::ByteString,
};
use hansa_cluster::{JoinRequest, connect};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    cli::{self, HostArgs},
    get,
    host::flat_kubeconfig,
    invite,
    output::{self, Progress, Table},
};

/// kubefedctl's flags of `join`, for those who know them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Known from kubefedctl")]
pub(crate) struct JoinFlags {
    /// =false gives a cluster that is a member already the kubeconfig anew, as --update does
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true,
        hide_possible_values = true, action = ArgAction::Set)]
    error_on_existing: bool,
    /// Without effect: names in the member do not speak of the host
    #[arg(long, value_name = "NAME")]
    host_cluster_name: Option<String>,
    /// Without effect: the Secrets of a member have names of their own
    #[arg(long, value_name = "NAME")]
    secret_name: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

/// kubefedctl's flags of `unjoin`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Known from kubefedctl")]
pub(crate) struct UnjoinFlags {
    /// Without effect: a member that cannot be reached is taken out like any other
    #[arg(long)]
    force: bool,
    /// Without effect: the host knows how the member is reached
    #[arg(long, value_name = "NAME")]
    cluster_context: Option<String>,
    /// Without effect: names in the member do not speak of the host
    #[arg(long, value_name = "NAME")]
    host_cluster_name: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

#[derive(Debug, Args)]
struct CommonFlags {
    /// Look, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// The namespace of the control plane; Cluster objects have theirs always in the same one
    #[arg(long, value_name = "NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    kubefed_namespace: String,
}

impl CommonFlags {
    /// Says which flags that were given do nothing here; refuses what would be something else than was asked.
    fn check(&self, without_effect: &[(&str, bool)]) -> Result<()> {
        for (flag, _) in without_effect.iter().filter(|(_, given)| *given) {
            eprintln!("note: {flag} has no effect here; `hansa kubefedctl` does all that kubefedctl does");
        }
        if self.kubefed_namespace != SYSTEM_NAMESPACE {
            bail!(
                "a Cluster is served by the control plane in {SYSTEM_NAMESPACE:?}; for one in another namespace use `hansa kubefedctl`"
            );
        }
        Ok(())
    }
}

/// `hansa join`.
pub(crate) async fn join(args: cli::Join) -> Result<()> {
    let flags = &args.kubefedctl;
    flags.common.check(&[
        ("--host-cluster-name", flags.host_cluster_name.is_some()),
        ("--secret-name", flags.secret_name.is_some()),
    ])?;
    let host = HostArgs { kubeconfig: args.host_kubeconfig.clone(), context: args.context.clone() };
    if args.by_agent.agent {
        let labels = labels(&args.labels)?;
        return invite::run(&host.client()?, &args.name, labels, &args.by_agent, args.output.output).await;
    }
    let request = JoinRequest {
        name: args.name.clone(),
        kubeconfig: member_kubeconfig(&args, &host)?,
        context: None,
        labels: labels(&args.labels)?,
        provider: String::new(),
        timeout: Duration::from_secs(args.timeout),
    };
    let mut line = Progress::new();
    let say = |progress| {
        line.set(&match progress {
            hansa_cluster::Progress::Checking => format!("looking at {}", args.name),
            hansa_cluster::Progress::Registered => format!("{} is registered", args.name),
            hansa_cluster::Progress::Waiting(what) => what,
            hansa_cluster::Progress::Ready { version } => format!("{} is ready ({version})", args.name),
        });
    };
    let host = host.client()?;
    if flags.common.dry_run {
        hansa_cluster::examine(&host, &connect(), &request).await?;
        return output::say(&format!("cluster {:?} can join (dry run)\n", args.name));
    }
    let update = args.update || (!flags.error_on_existing && exists(&host, &args.name).await?);
    let cluster = match update {
        true => hansa_cluster::update(host, &connect(), request, say).await?,
        false => hansa_cluster::join(host, &connect(), request, say).await?,
    };
    drop(line);
    get::print_clusters(args.output.output, &[cluster])
}

async fn exists(host: &Client, name: &str) -> Result<bool> {
    let found = Api::<Cluster>::all(host.clone()).get_opt(name).await;
    Ok(found.context("cannot look for the cluster on the host")?.is_some())
}

/// The member's own kubeconfig: the file named, else the context of that name in the kubeconfig of the host, as
/// kubefedctl does.
fn member_kubeconfig(args: &cli::Join, host: &HostArgs) -> Result<String> {
    if let Some(file) = &args.kubeconfig {
        return flat_kubeconfig(file, args.cluster_context.as_deref());
    }
    let (config, host_context) = host.kubeconfig()?;
    let context = args.cluster_context.as_deref().unwrap_or(&args.name);
    if context == host_context || !config.contexts.iter().any(|c| c.name == context) {
        bail!(
            "which cluster is {:?}? Give its kubeconfig with --kubeconfig, or its context with --cluster-context; if this host cannot reach \
             it, use --agent",
            args.name
        );
    }
    let text = serde_json::to_string(&config)?;
    Ok(hansa_transport::kubeconfig::flatten(&text, std::path::Path::new("/"), Some(context))?)
}

fn labels(given: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) =
            text.split_once('=').with_context(|| format!("--labels takes KEY=VALUE, not {text:?}"))?;
        let wrong: Vec<String> =
            [hansa_machinery::names::qualified_name(key), hansa_machinery::names::label_value(value)]
                .concat();
        match wrong.first() {
            None => Ok((key.to_owned(), value.to_owned())),
            Some(why) => bail!("{text:?} cannot be a label: {why}"),
        }
    };
    given.iter().map(pair).collect()
}

/// `hansa unjoin`.
pub(crate) async fn unjoin(args: cli::Unjoin) -> Result<()> {
    let flags = &args.kubefedctl;
    flags.common.check(&[
        ("--force", flags.force),
        ("--cluster-context", flags.cluster_context.is_some()),
        ("--host-cluster-name", flags.host_cluster_name.is_some()),
    ])?;
    if flags.common.dry_run {
        if !exists(&args.host.client()?, &args.name).await? {
            bail!("there is no cluster {:?}; see: hansa get clusters", args.name);
        }
        return output::say(&format!("cluster {:?} would be taken out (dry run)\n", args.name));
    }
    let mut line = Progress::new();
    line.set(&format!("taking {} out", args.name));
    hansa_cluster::unjoin(args.host.client()?, &args.name, Duration::from_secs(args.timeout)).await?;
    drop(line);
    let value = json!({"name": args.name, "joined": false});
    let said = || format!("cluster {:?} is no longer a member; its workloads stay\n", args.name);
    match args.output.output {
        cli::Format::Table | cli::Format::Wide => output::say(&said()),
        format => output::print(
            format,
            &value,
            || format!("cluster.cluster.kubesphere.io/{}\n", args.name),
            Table::empty,
        ),
    }
}

/// Binds the administrators' group to `cluster-admin` on the host.
pub(crate) async fn grant_admins(host: &Client) -> Result<()> {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": ADMINS_BINDING},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": ADMINS_GROUP}],
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let api = Api::<ClusterRoleBinding>::all(host.clone());
    api.patch(ADMINS_BINDING, &params, &Patch::Apply(&binding))
        .await
        .context("cannot grant the administrators their rights")?;
    Ok(())
}

/// Makes the Cluster of a sandbox member, if there is none.
pub(crate) async fn create(
    host: &Client,
    name: &str,
    kubeconfig: &str,
    labels: &[(&str, &str)],
) -> Result<()> {
    let connection = Connection {
        r#type: Some(ConnectionType::Direct),
        kubeconfig: Some(ByteString(kubeconfig.as_bytes().to_vec())),
        ..Connection::default()
    };
    let spec = ClusterSpec {
        join_federation: true,
        enable: true,
        provider: "sandbox".to_owned(),
        connection,
        ..ClusterSpec::default()
    };
    let mut cluster = Cluster::new(name, spec);
    cluster.metadata.labels = Some(labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
    match Api::<Cluster>::all(host.clone()).create(&PostParams::default(), &cluster).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => refresh(host, name, kubeconfig).await,
        other => other.map(drop).with_context(|| format!("cannot join {name}")),
    }
}

/// Gives a member its kubeconfig anew if its address changed or its certificate is near its end; one that was taken out
/// stays out.
pub(crate) async fn refresh(host: &Client, name: &str, kubeconfig: &str) -> Result<()> {
    let api = Api::<Cluster>::all(host.clone());
    let Some(cluster) = api.get_opt(name).await? else { return Ok(()) };
    let config: Value = serde_json::from_str(kubeconfig)?;
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap_or_default();
    let expires = cluster.condition(condition::KUBECONFIG_CERT_EXPIRES).is_some_and(|c| c.status == "True");
    if cluster.spec.connection.kubernetes_api_endpoint == server && !expires {
        return Ok(());
    }
    let connection =
        json!({"kubeconfig": ByteString(kubeconfig.as_bytes().to_vec()), "kubernetesAPIEndpoint": server});
    let patch = json!({"spec": {"connection": connection}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .with_context(|| format!("cannot tell the host where {name} is"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked_before_anything_is_written() {
        let given = |text: &str| labels(&[text.to_owned()]);
        assert_eq!(given("a.b/c=d").unwrap(), BTreeMap::from([("a.b/c".to_owned(), "d".to_owned())]));
        assert!(given("novalue").unwrap_err().to_string().contains("KEY=VALUE"));
        assert!(given("bad key=1").is_err());
        assert!(given("a=not a value").is_err());
    }
}
