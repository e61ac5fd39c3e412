//! `hansa disable`.

use anyhow::{Result, bail};
use clap::{ArgAction, Args};
use hansa_kubefedctl::Directive;

use crate::{kubefedctl::Global, output::say};

#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct Disable {
    /// The type, by any of its names; with its group it need not exist any more
    name: String,
    /// Delete the federated type as well
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false,
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set)]
    delete_crd: bool,
    /// The group of the federated type to delete, where there is no FederatedTypeConfig
    #[arg(long, value_name = "GROUP", default_value = hansa_api::federated::GROUP)]
    federated_group: String,
    /// The version of the type, where there is no FederatedTypeConfig
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    #[command(flatten)]
    pub(crate) global: Global,
}

pub(crate) async fn run(args: Disable) -> Result<()> {
    let given = args.version.is_some() || args.federated_group != hansa_api::federated::GROUP;
    if given && !args.delete_crd {
        bail!("--version and --federated-group are for --delete-crd only");
    }
    let directive = Directive {
        version: args.version.filter(|version| !version.is_empty()),
        federated_group: args.federated_group,
        ..Directive::new(&args.name)
    };
    let host = args.global.host().await?;
    // It may wait; each line is told when it is true.
    let tell = |line: String| drop(say(&format!("{line}\n")));
    Ok(hansa_kubefedctl::disable(&host, &directive, args.delete_crd, tell).await?)
}
