//! What the commands of kubefedctl share, and this program in kubefedctl's stead: under its name, with its commands and flags as
//! scripts use them (`spec/kubefed.md §3`).

use std::{ffi::OsString, path::Path, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args, Subcommand};
use hansa_kubefedctl::{Host, Join, Member, Unjoin};

use crate::{
    cli::HostArgs,
    disable, enable, federate, orphaning,
    output::{say, yaml},
};

/// The flags that all of kubefedctl's commands have.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The kubeconfig that leads to the host [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context in it that is the host
    #[arg(long, visible_alias = "context", value_name = "NAME")]
    pub(crate) host_cluster_context: Option<String>,
    /// The namespace of the control plane's own objects
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-federation-system")]
    pub(crate) kubefed_namespace: String,
    /// Look, and write nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false,
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set)]
    pub(crate) dry_run: bool,
}

impl Global {
    fn args(&self) -> HostArgs {
        HostArgs { kubeconfig: self.kubeconfig.clone(), context: self.host_cluster_context.clone() }
    }

    /// The host, as all commands of this program find it.
    pub(crate) async fn host(&self) -> Result<Host> {
        let namespace = self.kubefed_namespace.clone();
        let client = match self.args().kubeconfig() {
            Ok((config, context)) => hansa_kubefedctl::client(&config, &context).await?,
            // There may be none, inside a Pod.
            Err(_) => self.args().client()?,
        };
        Ok(Host { client, namespace, dry_run: self.dry_run })
    }

    /// The namespace of objects whose namespace was not named: that of the context.
    pub(crate) fn namespace(&self, named: Option<&str>) -> String {
        let of_context = || {
            let (config, name) = self.args().kubeconfig().ok()?;
            let context = config.contexts.into_iter().find(|context| context.name == name)?;
            context.context?.namespace.filter(|namespace| !namespace.is_empty())
        };
        named.map(str::to_owned).or_else(of_context).unwrap_or_else(|| "default".to_owned())
    }

    /// kubefedctl takes the current context for the host, whatever contexts there are. Inside a Pod there may be none.
    fn in_current_context(mut self) -> Result<Self> {
        let args = self.args();
        if self.host_cluster_context.is_none() && (self.kubeconfig.is_some() || args.kubeconfig().is_ok()) {
            self.host_cluster_context = Some(args.current_context()?);
        }
        Ok(self)
    }
}

/// Prints objects as YAML documents.
pub(crate) fn print<'a>(objects: impl IntoIterator<Item = &'a serde_json::Value>) -> Result<()> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&yaml(object)?);
    }
    say(&text)
}

/// The arguments of this program, when it may have been started under the name of kubefedctl.
pub(crate) fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut given: Vec<OsString> = given.into_iter().collect();
    let name = given.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "kubefedctl") {
        given.insert(1, "kubefedctl".into());
    }
    given
}

/// kubefedctl's commands, with kubefedctl's own meaning.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct Kubefedctl {
    #[command(subcommand)]
    command: Command,
    /// How much to log, from 0 to 10
    #[arg(short, long = "v", value_name = "LEVEL", global = true, hide = true, default_value_t = 0)]
    verbosity: u8,
    /// Logs go to the error stream anyway
    #[arg(long, global = true, hide = true, num_args = 0..=1, require_equals = true, value_name = "BOOL")]
    logtostderr: Option<Option<bool>>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Register a cluster with the control plane
    Join(JoinArgs),
    /// Remove the registration of a cluster
    Unjoin(UnjoinArgs),
    /// Enable propagation of a type
    Enable(enable::Enable),
    /// Disable propagation of a type
    Disable(disable::Disable),
    /// Make a federated object from an object
    Federate(federate::Federate),
    /// Keep the members' copies of an object that is deleted on the host, or not
    OrphaningDeletion(orphaning::Orphaning),
    /// Print the version
    Version,
}

/// How a member is named and found.
#[derive(Debug, Args)]
struct MemberArgs {
    /// The name of the cluster in the federation
    cluster_name: String,
    /// The context of the cluster [default: CLUSTER_NAME]
    #[arg(long, value_name = "NAME")]
    cluster_context: Option<String>,
    /// What the host is called in the names of what is made in the cluster [default: the host's context]
    #[arg(long, value_name = "NAME")]
    host_cluster_name: Option<String>,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Args)]
struct JoinArgs {
    #[command(flatten)]
    member: MemberArgs,
    /// The Secret on the host that gets the cluster's token [default: a name is made up]
    #[arg(long, value_name = "NAME")]
    secret_name: Option<String>,
    /// Refuse to touch what is there already; =false brings it to what it should be
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true,
        action = ArgAction::Set)]
    error_on_existing: bool,
}

#[derive(Debug, Args)]
struct UnjoinArgs {
    #[command(flatten)]
    member: MemberArgs,
    /// Remove it from the host even if what is in the cluster cannot be removed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false,
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set)]
    force: bool,
}

impl Kubefedctl {
    /// What to log, in the terms of klog: from 2 on it tells what it does.
    pub(crate) fn log(&self) -> &'static str {
        match self.verbosity {
            0..2 => "warn",
            2..4 => "info",
            _ => "debug",
        }
    }
}

/// `kubefedctl`, or `hansa kubefedctl`.
pub(crate) async fn run(args: Kubefedctl) -> Result<()> {
    match args.command {
        Command::Join(args) => join(args).await,
        Command::Unjoin(args) => unjoin(args).await,
        Command::Enable(mut args) => {
            args.global = args.global.in_current_context()?;
            enable::run(args).await
        }
        Command::Disable(mut args) => {
            args.global = args.global.in_current_context()?;
            disable::run(args).await
        }
        Command::Federate(mut args) => {
            // Of a file no cluster is asked.
            if args.filename.is_none() {
                args.global = args.global.in_current_context()?;
            }
            federate::run(args).await
        }
        Command::OrphaningDeletion(args) => orphaning::run(args.map(Global::in_current_context)?).await,
        Command::Version => {
            say(&format!("kubefedctl version: hansa {}, as KubeFed v0.10.0\n", env!("CARGO_PKG_VERSION")))
        }
    }
}

/// What the host is called in the names of what is made in members: they cannot hold what contexts may.
fn host_name(args: &MemberArgs, context: &str) -> Result<String> {
    let (name, flag) = match &args.host_cluster_name {
        Some(name) => (name.as_str(), "--host-cluster-name"),
        None => (context, "the host's context"),
    };
    if name.contains([':', '/']) {
        bail!(
            "{flag} {name:?} has a ':' or a '/', which no name in the cluster can have; give --host-cluster-name"
        );
    }
    Ok(name.to_owned())
}

/// The host, what it is called, and the kubeconfig with the context of the member.
async fn parties(args: &MemberArgs) -> Result<(Host, String, kube::config::Kubeconfig, String)> {
    let global = args.global.clone().in_current_context()?;
    let (config, context) = global.args().kubeconfig()?;
    let name = host_name(args, &context)?;
    let member = args.cluster_context.clone().unwrap_or_else(|| args.cluster_name.clone());
    Ok((global.host().await?, name, config, member))
}

async fn join(args: JoinArgs) -> Result<()> {
    let (host, host_name, config, context) = parties(&args.member).await?;
    let member = Member::from_kubeconfig(&config, &context).await.context("the cluster that joins")?;
    let join = Join {
        name: args.member.cluster_name,
        host_name,
        secret_name: args.secret_name.filter(|name| !name.is_empty()),
        error_on_existing: args.error_on_existing,
        member,
    };
    Ok(hansa_kubefedctl::join(&host, &join).await?)
}

async fn unjoin(args: UnjoinArgs) -> Result<()> {
    let (host, host_name, config, context) = parties(&args.member).await?;
    let member = match Member::from_kubeconfig(&config, &context).await {
        Ok(member) => Some(member),
        Err(error) if args.force => {
            eprintln!("warning: nothing is removed from the cluster: {error}");
            None
        }
        Err(error) => return Err(error).context("the cluster that leaves"),
    };
    let unjoin = Unjoin { name: args.member.cluster_name, host_name, force: args.force, member };
    Ok(hansa_kubefedctl::unjoin(&host, &unjoin, |warning| eprintln!("warning: {warning}")).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn parsed(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(arguments(line.split(' ').map(OsString::from))).map_err(|error| error.to_string())
    }

    #[test]
    fn under_the_name_of_kubefedctl_its_commands_are_understood() {
        for line in [
            "/usr/bin/kubefedctl join m1 --cluster-context m1 --host-cluster-context host --v=2",
            "kubefedctl join m1 --host-cluster-name host --secret-name s --error-on-existing=false --dry-run",
            "kubefedctl unjoin m1 --cluster-context m1 --host-cluster-context=host --force -v 4",
            "kubefedctl enable deployments.apps --federated-group g.org --federated-version v1 --version v1 -o yaml",
            "kubefedctl enable -f directive.yaml --kubefed-namespace fed --kubeconfig k",
            "kubefedctl disable deploy --delete-crd --dry-run=false",
            "kubefedctl federate ns shop -c -t -s pods,rs --skip-api-resources ep",
            "kubefedctl federate ns shop -ct -n shop",
            "kubefedctl federate -f - -o yaml",
            "kubefedctl orphaning-deletion enable federateddeployment web -n shop --host-cluster-context host",
            "kubefedctl version",
            "hansa kubefedctl version",
            "hansa enable deploy --context host",
        ] {
            assert!(parsed(line).is_ok(), "{line}: {}", parsed(line).unwrap_err());
        }
        assert!(parsed("kubefedctl up").is_err());
        assert!(parsed("kubefedctl enable").is_err());
        assert!(parsed("kubefedctl enable deploy -f x").is_err());
        assert!(parsed("kubefedctl federate deploy web -t -o yaml").is_err());
    }

    #[test]
    fn a_context_that_cannot_stand_in_a_name_needs_another_name() {
        let Ok(Cli { command: crate::cli::Command::Kubefedctl(args) }) = parsed("kubefedctl join m1") else {
            panic!("it is kubefedctl")
        };
        let Command::Join(JoinArgs { mut member, .. }) = args.command else { panic!("it is join") };
        assert_eq!(host_name(&member, "host").unwrap(), "host");
        assert!(host_name(&member, "arn:aws:eks/c").unwrap_err().to_string().contains("--host-cluster-name"));
        member.host_cluster_name = Some("eks".to_owned());
        assert_eq!(host_name(&member, "arn:aws:eks/c").unwrap(), "eks");
    }
}
