//! The task runner: `cargo xtask up | test | bench | crds | k8s | openapi`.
mod k8s;
mod openapi;

use std::path::Path;

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    match std::env::args().nth(1).as_deref() {
        Some("openapi") => openapi::run(root),
        other => anyhow::bail!("unknown task {other:?}"),
    }
}
