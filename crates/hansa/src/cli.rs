//! The command line: what can be said, and nothing of what is done.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use hansa_metrics::Bind;

use crate::{disable, enable, federate, invite, kubefedctl, membership, orphaning};

/// Control plane for federations of Kubernetes clusters.
#[derive(Debug, Parser)]
#[command(name = "hansa", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole host on this machine: an embedded cluster, the controllers and the gateway
    Up(Up),
    /// Run the controllers beside an existing host cluster; so does this program under the name controller-manager
    #[command(
        disable_version_flag = true,
        after_help = "klog's flags (-v N, --logtostderr, --vmodule, …) are accepted; -v N sets how much is logged."
    )]
    ControllerManager(ControllerManager),
    /// Run the gateway beside an existing host cluster: one address for every cluster
    Apiserver(Apiserver),
    /// Run the tower beside an existing host cluster: agents dial it, and their clusters are reached through it
    Tower(Tower),
    /// Run KubeFed's admission webhooks beside an existing host cluster
    Webhook(crate::webhook::Webhook),
    /// Run the agent on a member that the host cannot reach: it dials out to the host's tower
    Agent(Agent),
    /// Prepare a cluster to be the host: its CRDs and default objects
    Install {
        #[command(flatten)]
        host: HostArgs,
    },
    /// Make a cluster a member: directly with its kubeconfig, or with --agent by an agent that dials out from it
    Join(Join),
    /// Take a member out of the federation; its workloads stay as they are
    Unjoin(Unjoin),
    /// Have a type propagated: makes its federated type and turns propagation on
    Enable(enable::Enable),
    /// Have a type propagated no longer
    Disable(disable::Disable),
    /// Make a federated object from an object, or from everything in a namespace
    Federate(federate::Federate),
    /// Keep the members' copies of an object that is deleted on the host, or not
    OrphaningDeletion(orphaning::Orphaning),
    /// Do as kubefedctl does, with its commands and flags; so does this program under the name kubefedctl
    Kubefedctl(kubefedctl::Kubefedctl),
    /// Show what the host knows
    Get(Get),
    /// Show what applying federated objects would change on which member, before it does
    #[command(
        after_help = "Exits with 0 if nothing would change, 1 if something would, and 2 if a member could not be asked or refuses the change."
    )]
    Plan(Plan),
    /// Explain what the control plane decides
    Explain {
        #[command(subcommand)]
        what: ExplainWhat,
    },
    /// Print a kubeconfig with a context for every cluster, all through the host
    Kubeconfig(Kubeconfig),
    /// Print the manifests a host cluster needs before its first start
    Manifests(Manifests),
    /// Print the version of this program and of the host
    Version(Version),
    /// Print a completion script
    Completions {
        /// The shell to complete in
        shell: Shell,
    },
}

/// How a command finds the host, as kubectl finds its cluster.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct HostArgs {
    /// The kubeconfig that leads to the host [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context in it that is the host [default: `host` if there is one, else the current context]
    #[arg(long, visible_alias = "host-cluster-context", value_name = "NAME")]
    pub(crate) context: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for people
    #[default]
    Table,
    /// A table with more columns
    Wide,
    Json,
    Yaml,
    /// Only the names
    Name,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct OutputArgs {
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Run this many simulated members as well, and join them
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=64))]
    pub(crate) sandbox: u8,
    /// Connect this many of them by agent, as clusters are that the host cannot reach
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) sandbox_agents: u8,
    /// Where the state is kept [default: $XDG_DATA_HOME/hansa, else ~/.local/share/hansa]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where the gateway listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7443")]
    pub(crate) listen: SocketAddr,
    /// Where the tower listens, which the agents of members dial
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7444")]
    pub(crate) tower_listen: SocketAddr,
    /// The URL under which agents reach the tower [default: where it listens]
    #[arg(long, value_name = "URL")]
    pub(crate) tower_advertise: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ControllerManager {
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// The address of the host's API server, in place of the one in the kubeconfig
    #[arg(long, value_name = "URL")]
    pub(crate) master: Option<String>,
    /// The namespace of the federation's own objects [default: that of the Pod's ServiceAccount, else
    /// kube-federation-system]
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) kubefed_namespace: Option<String>,
    /// Read the KubeFedConfig from this file and not from the host; for tests
    #[arg(long, value_name = "FILE")]
    pub(crate) kubefed_config: Option<PathBuf>,
    /// Where to serve /healthz, /livez and /readyz, over HTTP; 0 is nowhere
    #[arg(long, value_name = "ADDRESS", default_value = ":8080")]
    pub(crate) healthz_addr: Bind,
    /// Where to serve /metrics, over HTTP; 0 is nowhere
    #[arg(long, value_name = "ADDRESS", default_value = ":9090")]
    pub(crate) metrics_addr: Bind,
    /// Make at most so many requests a second to the host [default: no limit]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) rest_config_qps: Option<f64>,
    /// Make at most so many requests to the host at once, while --rest-config-qps holds in the long run
    /// [default: no limit]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) rest_config_burst: Option<u32>,
    /// Print the version of this program
    #[arg(long)]
    pub(crate) version: bool,
    /// Act without waiting to be the leader; only for a single instance
    #[arg(long)]
    pub(crate) no_leader_election: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Apiserver {
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7443")]
    pub(crate) listen: SocketAddr,
    /// The address that clients use, for the kubeconfigs that `hansa kubeconfig` prints [default: https://LISTEN]
    #[arg(long, value_name = "URL")]
    pub(crate) advertise: Option<String>,
    /// Names and addresses for the serving certificate, beside those of --listen and --advertise
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) tls_names: Vec<String>,
    /// The namespace of the federation's own objects
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-federation-system")]
    pub(crate) kubefed_namespace: String,
}

#[derive(Debug, Args)]
pub(crate) struct Tower {
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    pub(crate) listen: SocketAddr,
    /// The address that agents dial [default: https://LISTEN]
    #[arg(long, value_name = "URL")]
    pub(crate) advertise: Option<String>,
    /// The address under which the host's own components reach the tower [default: that of --advertise]
    #[arg(long, value_name = "URL")]
    pub(crate) internal: Option<String>,
    /// Names and addresses for the serving certificate, beside those of --listen, --advertise and --internal
    #[arg(long, visible_alias = "names", value_name = "NAME", value_delimiter = ',')]
    pub(crate) tls_names: Vec<String>,
    /// Where to serve /metrics, over HTTP; 0 is nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "0")]
    pub(crate) metrics_listen: Bind,
}

#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// The directory with what the manifest of `hansa join NAME --agent` gives: the files tower, cluster, ca.crt and token
    #[arg(long, env = "HANSA_JOIN_DIR", value_name = "DIR", default_value = hansa_agent::join::JOIN_DIRECTORY)]
    pub(crate) join_dir: PathBuf,
    /// The address of the tower [default: the file tower in --join-dir]
    #[arg(long, env = "HANSA_TOWER", value_name = "URL")]
    pub(crate) tower: Option<String>,
    /// The name of this cluster on the host [default: the file cluster in --join-dir]
    #[arg(long, env = "HANSA_CLUSTER", value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// The authority of the tower's certificate, PEM [default: the file ca.crt in --join-dir]
    #[arg(long, env = "HANSA_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The join token [default: the file token in --join-dir]
    #[arg(long, env = "HANSA_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The kubeconfig that leads to this cluster [default: the ServiceAccount of the Pod]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context in --kubeconfig [default: the current context]
    #[arg(long, requires = "kubeconfig", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace on this cluster in which the agent keeps its credential
    #[arg(long, env = "HANSA_NAMESPACE", value_name = "NAME", default_value = "hansa-agent")]
    pub(crate) namespace: String,
    /// The Secret in which the agent keeps its credential
    #[arg(long, env = "HANSA_CREDENTIAL_SECRET", value_name = "NAME", default_value = "agent-credential")]
    pub(crate) credential_secret: String,
    /// Where to serve /metrics, /healthz and /readyz, over HTTP; 0 is nowhere
    #[arg(long, env = "HANSA_METRICS_LISTEN", value_name = "ADDRESS", default_value = "0")]
    pub(crate) metrics_listen: Bind,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The name the member gets
    pub(crate) name: String,
    /// The member's own kubeconfig, with a user who may administer it
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the member: in --kubeconfig if given, else in the kubeconfig of the host [default: the current
    /// context of --kubeconfig, or NAME]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster_context: Option<String>,
    /// The kubeconfig that leads to the host [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) host_kubeconfig: Option<PathBuf>,
    /// The context in it that is the host [default: `host` if there is one, else the current context]
    #[arg(long, visible_alias = "host-cluster-context", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Labels of the member, for placements by selector
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(crate) labels: Vec<String>,
    /// Give a cluster that is a member already a new kubeconfig
    #[arg(long, conflicts_with = "labels")]
    pub(crate) update: bool,
    /// How long to wait until the member is ready, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) by_agent: invite::AgentFlags,
    #[command(flatten)]
    pub(crate) kubefedctl: membership::JoinFlags,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Unjoin {
    /// The member's name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// How long to wait until the member is out, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) kubefedctl: membership::UnjoinFlags,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(subcommand)]
    pub(crate) what: GetWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GetWhat {
    /// The host and its members
    #[command(visible_alias = "cluster")]
    Clusters {
        /// Only these
        names: Vec<String>,
        #[command(flatten)]
        host: HostArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Federated objects on the host, and where the control plane keeps its own.
#[derive(Debug, Args)]
pub(crate) struct FederatedArgs {
    /// The namespace of the objects [default: that of the context, else `default`]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// The namespace of the federation's own objects
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-federation-system")]
    pub(crate) kubefed_namespace: String,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// TYPE NAME of an object on the host, for what is still to be done about it
    #[arg(value_names = ["TYPE", "NAME"], num_args = 2, required_unless_present = "files", conflicts_with = "files")]
    pub(crate) object: Vec<String>,
    /// Objects as they are to be applied: a file, a directory, or - for the input stream
    #[arg(short, long = "filename", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Ask the members with the control plane's own credentials, not with yours through the gateway
    #[arg(long)]
    pub(crate) direct: bool,
    /// How long a member may take to answer a request, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) of: FederatedArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExplainWhat {
    /// Why an object is or is not on each cluster
    Placement {
        /// The type: deployments.apps, federateddeployment, fdeploy, …
        #[arg(value_name = "TYPE")]
        r#type: String,
        /// The name of the federated object
        name: String,
        #[command(flatten)]
        of: FederatedArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Kubeconfig {
    /// The data directory of `hansa up`, if that is the host
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "context"])]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// json or yaml
    #[arg(short, long, value_enum, default_value = "yaml", value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Manifests {
    /// Write one file an object into this directory instead of printing
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Only this program; do not ask the host
    #[arg(long)]
    pub(crate) client: bool,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
