//! `hansa up --sandbox 2` as a user starts it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

use super::{Federation, Kubectl, eventually, free_port, process::Process};

/// The program under test: cargo's own build of it, or the one that `HANSA` names.
pub fn binary() -> PathBuf {
    let named = std::env::var_os("HANSA").or(option_env!("CARGO_BIN_EXE_hansa").map(Into::into));
    PathBuf::from(named.expect("HANSA names the program to run"))
}

pub struct Embedded {
    pub process: Process,
    pub data: PathBuf,
    pub listen: String,
    kubectl: Kubectl,
    direct: BTreeMap<String, Kubectl>,
    _dir: Option<TempDir>,
}

impl Embedded {
    pub fn start() -> Self {
        Self::start_some(0)
    }

    /// Both members are connected by agent.
    pub fn start_with_agents() -> Self {
        Self::start_some(2)
    }

    fn start_some(agents: usize) -> Self {
        let dir = TempDir::new().unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let mut up = Self::start_with(&dir.path().join("data"), &listen, 2, agents);
        up._dir = Some(dir);
        up
    }

    /// Starts on a data directory that may have been used before, and waits until it says that it is up.
    pub fn start_in(data: &Path, listen: &str, members: usize) -> Self {
        Self::start_with(data, listen, members, 0)
    }

    /// The same, where the last `agents` of the members are connected by agent.
    pub fn start_with(data: &Path, listen: &str, members: usize, agents: usize) -> Self {
        Self::start_told(data, listen, (members, agents), &["--tower-listen", "127.0.0.1:0"])
    }

    /// A host without members of its own, whose tower listens at an address.
    pub fn start_at(data: &Path, listen: &str, tower: &str) -> Self {
        Self::start_told(data, listen, (0, 0), &["--tower-listen", tower])
    }

    /// Two members, both by agent, whose tower is reached at `address`.
    pub fn start_behind(data: &Path, listen: &str, tower: &str, address: &str) -> Self {
        let told = ["--tower-listen", tower, "--tower-advertise", address];
        Self::start_told(data, listen, (2, 2), &told)
    }

    fn start_told(data: &Path, listen: &str, (members, agents): (usize, usize), told: &[&str]) -> Self {
        std::fs::create_dir_all(data.parent().unwrap()).unwrap();
        let logs = data.parent().unwrap();
        let before = std::fs::read_to_string(logs.join("up.log")).unwrap_or_default().len();
        let mut command = Command::new(binary());
        command.args(["up", "--sandbox", &members.to_string(), "--sandbox-agents", &agents.to_string()]);
        command.args(["--listen", listen, "--data-dir"]).arg(data).args(told);
        let mut process = Process::start("up", logs, &mut command);
        eventually("hansa up", || {
            process.check().unwrap_or_else(|e| panic!("{e}"));
            process.output()[before..].contains("Hansa is up").then_some(()).ok_or_else(|| process.output())
        });
        let kubectl = Kubectl::new(&data.join("kubeconfig"));
        let member = |i| format!("member{i}");
        let direct =
            (1..=members).map(|i| (member(i), Kubectl::new(&data.join(format!("{}.kubeconfig", member(i))))));
        Self {
            process,
            data: data.to_owned(),
            listen: listen.to_owned(),
            kubectl,
            direct: direct.collect(),
            _dir: None,
        }
    }
}

impl Federation for Embedded {
    fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    fn direct(&self, member: &str) -> &Kubectl {
        &self.direct[member]
    }

    fn run_pods(&self, _member: &str, _namespace: &str) {}

    fn hansa(&self, args: &[&str]) -> Output {
        hansa(&self.kubectl.kubeconfig, args)
    }
}

pub fn hansa(kubeconfig: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(args).env("KUBECONFIG", kubeconfig);
    command.output().unwrap()
}
