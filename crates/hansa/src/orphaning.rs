//! `hansa orphaning-deletion`.

use anyhow::Result;
use clap::{Args, Subcommand};
use hansa_kubefedctl::Orphaning as Action;

use crate::{kubefedctl::Global, output::say};

#[derive(Debug, Args)]
pub(crate) struct Orphaning {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Keep the members' copies when the federated object is deleted
    Enable(Object),
    /// Delete the members' copies with the federated object
    Disable(Object),
    /// Tell whether the copies will be kept
    Status(Object),
}

#[derive(Debug, Args)]
struct Object {
    /// The federated type, by any of its names
    #[arg(value_name = "TYPE")]
    type_name: String,
    /// The federated object
    name: String,
    /// Its namespace [default: that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    global: Global,
}

impl Orphaning {
    /// The same, on a host that is found otherwise.
    pub(crate) fn map(mut self, change: impl Fn(Global) -> Result<Global>) -> Result<Self> {
        let (What::Enable(object) | What::Disable(object) | What::Status(object)) = &mut self.what;
        object.global = change(object.global.clone())?;
        Ok(self)
    }
}

pub(crate) async fn run(args: Orphaning) -> Result<()> {
    let (action, object) = match args.what {
        What::Enable(object) => (Action::Enable, object),
        What::Disable(object) => (Action::Disable, object),
        What::Status(object) => (Action::Status, object),
    };
    let host = object.global.host().await?;
    let namespace = object.global.namespace(object.namespace.as_deref());
    let warn = |warning: String| eprintln!("{warning}");
    let is_on = hansa_kubefedctl::orphaning(&host, action, &object.type_name, &namespace, &object.name, warn);
    let is_on = is_on.await?;
    match action {
        Action::Status => say(if is_on { "Enabled\n" } else { "Disabled\n" }),
        Action::Enable | Action::Disable => Ok(()),
    }
}
