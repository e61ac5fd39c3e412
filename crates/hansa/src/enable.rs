//! `hansa enable`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use hansa_kubefedctl::{Directive, Enabling};

use crate::{
    kubefedctl::{self, Global},
    output::say,
};

#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct Enable {
    /// The type: its plural, singular, kind or short name, or its plural and group, as deployments.apps
    #[arg(required_unless_present = "filename")]
    name: Option<String>,
    /// The group of the federated type
    #[arg(long, value_name = "GROUP", default_value = hansa_api::federated::GROUP)]
    federated_group: String,
    /// The version of the federated type
    #[arg(long, value_name = "VERSION", default_value = hansa_api::federated::VERSION)]
    federated_version: String,
    /// The version of the type [default: the one the host prefers]
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Print the objects instead of creating them
    #[arg(short, long, value_name = "FORMAT", value_parser = ["yaml"])]
    output: Option<String>,
    /// Take all of this from a file with an EnableTypeDirective
    #[arg(short, long, value_name = "FILE", conflicts_with = "name")]
    filename: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) global: Global,
}

impl Enable {
    fn directive(&self) -> Result<Directive> {
        if let Some(file) = &self.filename {
            let text = fs::read_to_string(file);
            let text = text.with_context(|| format!("cannot read {}", file.display()))?;
            return Directive::parse(&text).with_context(|| file.display().to_string());
        }
        Ok(Directive {
            version: self.version.clone().filter(|version| !version.is_empty()),
            federated_group: self.federated_group.clone(),
            federated_version: self.federated_version.clone(),
            ..Directive::new(self.name.as_deref().unwrap_or_default())
        })
    }
}

pub(crate) async fn run(args: Enable) -> Result<()> {
    let directive = args.directive()?;
    let host = args.global.host().await?;
    let mut enabling = Enabling::look(&host, &directive).await?;
    if args.output.is_some() {
        // Where it will be is for whoever applies it to say.
        enabling.config.metadata.namespace = None;
        return kubefedctl::print([&serde_json::to_value(&enabling.config)?, &enabling.crd]);
    }
    let tell = |line: String| drop(say(&format!("{line}\n")));
    Ok(hansa_kubefedctl::enable(&host, &enabling, tell).await?)
}
