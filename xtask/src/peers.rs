//! Obtains the programs of others that a benchmark compares with and no Linux distribution packages.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{cargo, k8s, run};

/// A reverse tunnel with TLS, the fastest of those that multiplex nothing.
const RATHOLE_VERSION: &str = "0.5.0";

/// The program `rathole`, built from its registry into the cache if it is not there yet.
pub(crate) fn rathole(root: &Path) -> Result<PathBuf> {
    let cache = k8s::cache_dir()?.join("peers").join(format!("rathole-{RATHOLE_VERSION}"));
    let program = cache.join("bin/rathole");
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    eprintln!("building rathole {RATHOLE_VERSION} (minutes, once)");
    let mut install = cargo(root);
    // Not among our own artefacts, which it shares nothing with.
    install.env("CARGO_TARGET_DIR", cache.join("target"));
    install.args(["install", "rathole", "--version", RATHOLE_VERSION, "--locked", "--root"]).arg(&cache);
    run(&mut install)?;
    // What it was built from is not needed any more.
    let _ = fs::remove_dir_all(cache.join("target"));
    Ok(program)
}
