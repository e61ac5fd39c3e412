//! The task runner: `cargo xtask up | test | k8s | bench | crds | openapi`.

mod k8s;
mod openapi;
mod peers;
mod protobuf;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask TASK

  up [ARGS]      build the optimised binary and run `hansa up --sandbox 2 ARGS`
  test [ARGS]    run every test; the end-to-end ones against embedded and against real clusters
  k8s            obtain etcd, kube-apiserver, kube-controller-manager, kubectl, KubeFed, a kubelet; print where
  bench [PARTS]  measure the budgets of the design, side by side with real peers; `bench tower PART` for one of the tunnel
  crds           regenerate deploy/ from crates/api
  openapi        regenerate crates/machinery/data and crates/embedded/data from the Kubernetes source module";

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let task = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let result = match task.to_str() {
        Some("up") => up(root, rest),
        Some("test") => test(root, rest),
        Some("k8s") => k8s(root),
        Some("bench") => bench(root, rest),
        Some("crds") => crds(root),
        Some("openapi") => openapi::run(root),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn up(root: &Path, args: Vec<OsString>) -> Result<()> {
    let [binary] = release_binaries(root, ["hansa"])?;
    run(Command::new(binary).args(["up", "--sandbox", "2"]).args(args))
}

fn test(root: &Path, args: Vec<OsString>) -> Result<()> {
    let assets = k8s::assets(root)?;
    let mut tests = cargo(root);
    tests.args(["test", "--workspace"]).args(args);
    if let Some(dir) = &assets {
        tests.env("KUBEBUILDER_ASSETS", dir);
    }
    let kubefed = k8s::kubefed(root)?;
    if let Some(dir) = &kubefed {
        tests.env("HANSA_KUBEFED_ASSETS", dir);
    }
    let kubelet = k8s::kubelet(root)?;
    if let Some(program) = &kubelet {
        tests.env("HANSA_KUBELET", program);
    }
    run(&mut tests)?;
    if kubelet.is_none() {
        eprintln!("\nSKIPPED: nothing was streamed from real clusters. Install Go, or set HANSA_KUBELET.");
    }
    if kubefed.is_none() {
        eprintln!(
            "\nSKIPPED: nothing was compared with the genuine KubeFed. Install Go, or set HANSA_KUBEFED_ASSETS."
        );
    }
    if assets.is_none() {
        eprintln!(
            "\n{0}\nSKIPPED: the end-to-end tests did not run against real clusters.\nInstall Go, or set KUBEBUILDER_ASSETS to a directory with the envtest binaries.\n{0}",
            "!".repeat(78)
        );
        if env::var_os("HANSA_REQUIRE_REAL_CLUSTERS").is_some() {
            bail!("real clusters are required here");
        }
    }
    Ok(())
}

fn k8s(root: &Path) -> Result<()> {
    let dir =
        k8s::assets(root)?.context("there is no `go` on this machine and KUBEBUILDER_ASSETS is not set")?;
    println!("{}", dir.display());
    for path in [k8s::kubefed(root)?, k8s::kubelet(root)?].into_iter().flatten() {
        println!("{}", path.display());
    }
    Ok(())
}

fn bench(root: &Path, args: Vec<OsString>) -> Result<()> {
    // Built together, so that the client that is measured and the one it is measured against have the same features.
    let [hansa, bench] = release_binaries(root, ["hansa", "hansa-benches"])?;
    let mut command = Command::new(bench);
    let tunnels = args.is_empty() || args.iter().any(|arg| arg == "tower");
    command.args(args).env("HANSA", hansa);
    if tunnels {
        match peers::rathole(root) {
            Ok(program) => drop(command.env("HANSA_BENCH_RATHOLE", program)),
            Err(error) => eprintln!("the tunnel is measured without rathole: {error:#}"),
        }
    }
    match k8s::assets(root)? {
        Some(dir) => drop(command.env("KUBEBUILDER_ASSETS", dir)),
        None => eprintln!("no real kube-apiserver on this machine: figures come without their ratio"),
    }
    if let Some(dir) = k8s::kubefed(root)? {
        command.env("HANSA_KUBEFED_ASSETS", dir);
    }
    run(&mut command)
}

/// Writes what `hansa manifests` prints, one file a CRD.
fn crds(root: &Path) -> Result<()> {
    let target = root.join("deploy");
    fs::create_dir_all(&target)?;
    run(cargo(root)
        .args(["run", "--quiet", "--package", "hansa", "--", "manifests", "--output-dir"])
        .arg(target))
}

/// Builds the packages, each of which has a program of its own name.
fn release_binaries<const N: usize>(root: &Path, packages: [&str; N]) -> Result<[PathBuf; N]> {
    let mut build = cargo(root);
    build.args(["build", "--release"]);
    for package in packages {
        build.args(["--package", package]);
    }
    run(&mut build)?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(packages.map(|name| target.join("release").join(name)))
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root);
    command
}

/// Runs to the end; a child ended by Ctrl-C is a normal end, since the terminal sends the signal to both.
fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} failed: {status}");
    }
    Ok(())
}
