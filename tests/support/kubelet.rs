//! A node for a real cluster: the stand-in for a kubelet that `xtask/kubernetes/kubelet` is.

use std::{env, path::PathBuf, process::Command};

use super::{eventually, process::Process, real::Cluster};

/// The one node's name, which a Pod that shall run says in `nodeName`.
pub const NODE: &str = "node";

/// The program, or `None` where there is none.
pub fn program() -> Option<PathBuf> {
    let built = || Some(PathBuf::from(env::var_os("KUBEBUILDER_ASSETS")?).join("kubelet-stand-in"));
    let named = env::var_os("HANSA_KUBELET").map(PathBuf::from);
    let found = named.or_else(built).filter(|program| program.is_file());
    if found.is_none() {
        assert!(
            env::var_os("HANSA_REQUIRE_REAL_CLUSTERS").is_none(),
            "there is no kubelet for the real clusters; run `cargo xtask test`"
        );
        eprintln!("SKIPPED: no Pods run without a kubelet; run `cargo xtask test`");
    }
    found
}

/// Starts it and waits until its node is ready.
pub fn start(program: &PathBuf, cluster: &Cluster) -> Process {
    let root = cluster.dir.join("kubelet");
    std::fs::create_dir_all(&root).unwrap();
    let mut command = Command::new(program);
    for (flag, file) in [
        ("--kubeconfig", "admin.kubeconfig"),
        ("--root", "kubelet"),
        ("--tls-cert-file", "server.crt"),
        ("--tls-private-key-file", "server.key"),
        ("--client-ca-file", "ca.crt"),
    ] {
        command.arg(flag).arg(cluster.dir.join(file));
    }
    let mut process = Process::start("kubelet", &root, command.args(["--node", NODE]));
    eventually("a node is ready", || {
        process.check().unwrap_or_else(|e| panic!("{e}"));
        process.output().contains("is ready").then_some(()).ok_or_else(|| process.output())
    });
    process
}
