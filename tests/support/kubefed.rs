//! The genuine programs of KubeFed, and this project's own in their stead.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use super::{Kubectl, embedded, process::Process};

/// The directory with the genuine programs; `None`, loudly, where there are none. `cargo xtask test` provides them.
pub fn assets() -> Option<PathBuf> {
    let dir = env::var_os("HANSA_KUBEFED_ASSETS").map(PathBuf::from);
    if dir.is_none() {
        eprintln!("SKIPPED: no genuine KubeFed without HANSA_KUBEFED_ASSETS; run `cargo xtask test`");
    }
    dir
}

/// kubefedctl: a client with a kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubefedctl {
    program: PathBuf,
    kubeconfig: PathBuf,
    pub genuine: bool,
}

impl Kubefedctl {
    pub fn genuine(assets: &Path, kubeconfig: &Path) -> Self {
        Self { program: assets.join("kubefedctl"), kubeconfig: kubeconfig.to_owned(), genuine: true }
    }

    /// The program under test, under the name of kubefedctl, which it is given in `dir`.
    pub fn ours(dir: &Path, kubeconfig: &Path) -> Self {
        let program = dir.join("kubefedctl");
        if !program.exists() {
            std::os::unix::fs::symlink(embedded::binary(), &program).unwrap();
        }
        Self { program, kubeconfig: kubeconfig.to_owned(), genuine: false }
    }

    pub fn run(&self, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(&self.program);
        command.args(args).env("KUBECONFIG", &self.kubeconfig);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {}: {e}", self.program.display()));
        // Whoever does not read what it is given has ended, and says why.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        self.ok_with(args, "")
    }

    pub fn ok_with(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {args:?}: {err}", self.program.display());
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args, "");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{} {args:?} should fail but said: {err}", self.program.display());
        err
    }
}

/// A kubeconfig with the named contexts, each taken from the current or named context of another one.
pub fn merge(file: &Path, contexts: &[(&str, &Path, Option<&str>)]) -> Kubectl {
    let mut merged = json!({"apiVersion": "v1", "kind": "Config", "current-context": contexts[0].0,
        "clusters": [], "contexts": [], "users": []});
    for (name, from, context) in contexts {
        let from: Value = serde_json::from_str(&std::fs::read_to_string(from).unwrap()).unwrap();
        let current = context.or(from["current-context"].as_str()).unwrap();
        let entry = |list: &str, name: &Value| {
            let list = from[list].as_array().unwrap();
            list.iter().find(|entry| entry["name"] == *name).unwrap().clone()
        };
        let context = entry("contexts", &current.into())["context"].clone();
        let mut push = |list: &str, field: &str, value: Value| {
            merged[list].as_array_mut().unwrap().push(json!({"name": name, field: value}));
        };
        push("clusters", "cluster", entry("clusters", &context["cluster"])["cluster"].clone());
        push("users", "user", entry("users", &context["user"])["user"].clone());
        push("contexts", "context", json!({"cluster": name, "user": name}));
    }
    std::fs::write(file, merged.to_string()).unwrap();
    Kubectl::new(file)
}

/// The genuine controller manager, under the name it has in its image: what it writes as follows from that.
pub fn controller_manager(assets: &Path, dir: &Path, kubeconfig: &Path, config: &Path) -> Process {
    let program = dir.join("controller-manager");
    if !program.exists() {
        std::os::unix::fs::symlink(assets.join("kubefed-controller-manager"), &program).unwrap();
    }
    let mut command = Command::new(program);
    command.arg("--kubeconfig").arg(kubeconfig).arg("--kubefed-config").arg(config).args([
        "--kubefed-namespace=kube-federation-system".to_owned(),
        format!("--healthz-addr=127.0.0.1:{}", super::free_port()),
        format!("--metrics-addr=127.0.0.1:{}", super::free_port()),
    ]);
    Process::start("genuine-controller-manager", dir, &mut command)
}
