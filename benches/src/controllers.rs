//! The controllers that are measured, in a process of their own.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::support::{embedded::binary, free_port, process::Process};

/// A process that uses less than this much of a processor is at rest.
const REST: f64 = 0.05;

/// A controller manager.
pub struct Controllers {
    pub process: Process,
}

impl Controllers {
    /// Ours.
    pub fn hansa(kubeconfig: &Path, logs: &Path) -> Self {
        let mut command = Command::new(binary());
        command.arg("controller-manager").arg("--kubeconfig").arg(kubeconfig).args(ports());
        Self { process: Process::start("controller-manager", logs, &mut command) }
    }

    /// KubeFed's own.
    pub fn kubefed(program: &PathBuf, kubeconfig: &Path, logs: &Path) -> Self {
        let mut command = Command::new(program);
        command.arg("--kubeconfig").arg(kubeconfig).args(["--kubefed-namespace", "kube-federation-system"]);
        command.args(ports());
        Self { process: Process::start("kubefed-controller-manager", logs, &mut command) }
    }

    /// What is resident: of the process's own, and of its program file.
    pub fn resident(&self) -> String {
        format!("{} ({} of its own)", self.memory("VmRSS"), self.memory("RssAnon"))
    }

    /// A line of `/proc/PID/status`.
    pub fn memory(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let fields: HashMap<&str, &str> = status.lines().filter_map(|line| line.split_once(':')).collect();
        let kib = fields.get(field).and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
        format!("{:.1} MiB", kib.unwrap_or_default() / 1024.0)
    }

    /// Processor seconds used so far.
    pub fn processor(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        let ticks = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
        let ticks: u64 =
            ticks.into_iter().flatten().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        // Linux counts in hundredths, whatever its timer does.
        ticks as f64 / 100.0
    }

    /// Waits until the process has rested for a second; gives the processor seconds used until then.
    pub async fn at_rest(&self) -> f64 {
        loop {
            let before = self.processor();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let after = self.processor();
            if after - before < REST {
                return after;
            }
        }
    }

    /// Millicores used over `time`, and the memory at its end.
    pub async fn idle(&self, time: Duration) -> (f64, String) {
        let before = self.processor();
        tokio::time::sleep(time).await;
        ((self.processor() - before) / time.as_secs_f64() * 1000.0, self.resident())
    }
}

/// The flags for endpoints that are nobody else's.
fn ports() -> [String; 2] {
    ["healthz", "metrics"].map(|endpoint| format!("--{endpoint}-addr=127.0.0.1:{}", free_port()))
}
