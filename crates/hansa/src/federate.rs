//! `hansa federate`.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args};
use hansa_kubefedctl::{Federation, Request};

use crate::{
    kubefedctl::{self, Global},
    output::say,
};

#[derive(Debug, Args)]
pub(crate) struct Federate {
    /// The type of the object, by any of its names
    #[arg(value_name = "TYPE", required_unless_present = "filename", conflicts_with = "filename")]
    type_name: Option<String>,
    /// The object
    #[arg(value_name = "NAME", required_unless_present = "filename")]
    name: Option<String>,
    /// The object's namespace [default: that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Print the federated objects instead of creating them
    #[arg(short, long, value_name = "FORMAT", value_parser = ["yaml"])]
    output: Option<String>,
    /// Enable types that are not, before their objects are federated
    #[arg(short = 't', long, conflicts_with = "output", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value_t = false, hide_default_value = true, hide_possible_values = true,
        action = ArgAction::Set)]
    enable_type: bool,
    /// Of a namespace: federate everything in it as well
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false,
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set)]
    contents: bool,
    /// Print the federated objects of the objects in this file, or `-`; no cluster is asked
    #[arg(short, long, value_name = "FILE")]
    pub(crate) filename: Option<PathBuf>,
    /// Of the contents: not these types or groups
    #[arg(short, long, value_name = "NAME", value_delimiter = ',')]
    skip_api_resources: Vec<String>,
    #[command(flatten)]
    pub(crate) global: Global,
}

pub(crate) async fn run(args: Federate) -> Result<()> {
    let note = |text: String| eprintln!("note: {text}");
    if let Some(file) = &args.filename {
        let federated = hansa_kubefedctl::from_documents(&read(file)?)
            .with_context(|| format!("cannot federate {}", file.display()))?;
        for dropped in federated.iter().filter(|federated| !federated.dropped.is_empty()) {
            let name = &dropped.object["metadata"]["name"];
            note(format!("annotations of {name} are not in its template: {}", dropped.dropped.join(", ")));
        }
        return kubefedctl::print(federated.iter().map(|federated| &federated.object));
    }
    let (Some(type_name), Some(name)) = (args.type_name, args.name) else {
        bail!("name a type and an object");
    };
    let request = Request {
        type_name,
        namespace: args.global.namespace(args.namespace.as_deref()),
        name,
        enable_type: args.enable_type,
        contents: args.contents,
        skip: args.skip_api_resources,
        print: args.output.is_some(),
    };
    let host = args.global.host().await?;
    let federation = Federation::look(&host, &request, note).await?;
    if request.print {
        return kubefedctl::print(federation.objects());
    }
    let tell = |line: String| drop(say(&format!("{line}\n")));
    Ok(federation.create(&host, tell).await?)
}

fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    match file == Path::new("-") {
        true => io::stdin().read_to_string(&mut text).map(drop),
        false => fs::read_to_string(file).map(|read| text = read),
    }
    .with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}
