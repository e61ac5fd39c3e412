//! The `controller-manager` processes: killed by the tests, and started again by them whenever one has ended, as a kubelet does.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{embedded, free_port, process::Process};

pub struct Manager {
    pub process: Process,
    metrics: u16,
}

/// What every instance is called with.
pub struct Call {
    pub kubeconfig: PathBuf,
    pub config: PathBuf,
    pub logs: PathBuf,
}

impl Manager {
    pub fn start<'a>(
        name: &str,
        call: &Call,
        flags: &[&str],
        envs: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
    ) -> Self {
        let metrics = free_port();
        let path = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        let mut command = Command::new(embedded::binary());
        command
            .arg("controller-manager")
            .args([path("kubeconfig", &call.kubeconfig), path("kubefed-config", &call.config)])
            .args(["--healthz-addr=0".to_owned(), format!("--metrics-addr=127.0.0.1:{metrics}")])
            .args(flags)
            .env_remove("RUST_LOG")
            .envs(envs);
        Self { process: Process::start(name, &call.logs, &mut command), metrics }
    }

    /// The sum of all series whose name and labels begin with `series`; `None` if there is none, or no answer.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).await.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        let values = text.lines().filter(|line| line.starts_with(series));
        values.map(|line| line.rsplit(' ').next()?.trim().parse::<f64>().ok()).sum()
    }

    pub async fn leads(&self) -> bool {
        self.metric("hansa_leader").await == Some(1.0)
    }

    /// How many operations in members it has been through.
    pub async fn dispatched(&self) -> u64 {
        let counted = self.metric("dispatch_operation_duration_seconds_count").await.unwrap_or_default();
        format!("{counted}").parse().unwrap()
    }
}
