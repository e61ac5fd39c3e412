//! `hansa manifests`: what [`crate::install`] would apply, as YAML.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    cli::Manifests,
    output::{say, yaml},
};

const GENERATED: &str = "# Generated from crates/api by `cargo xtask crds`. Do not edit.\n";

pub(crate) fn run(args: &Manifests) -> Result<()> {
    match &args.output_dir {
        Some(dir) => write(dir),
        None => {
            let documents: Result<Vec<String>> = hansa_api::manifests().iter().map(yaml).collect();
            say(&documents?.join("---\n"))
        }
    }
}

/// One file a CRD, one with all default objects, and one with the rights of a tower.
fn write(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("crds")).with_context(|| dir.display().to_string())?;
    for crd in hansa_api::crds() {
        let name = crd["metadata"]["name"].as_str().unwrap_or_default();
        fs::write(dir.join(format!("crds/{name}.yaml")), format!("{GENERATED}{}", yaml(&crd)?))?;
    }
    let defaults: Result<Vec<String>> = hansa_api::defaults().iter().map(yaml).collect();
    fs::write(dir.join("defaults.yaml"), format!("{GENERATED}{}", defaults?.join("---\n")))?;
    let tower: Result<Vec<String>> = hansa_api::tower::rights().iter().map(yaml).collect();
    fs::write(dir.join("tower.yaml"), format!("{GENERATED}{}", tower?.join("---\n")))?;
    Ok(())
}
