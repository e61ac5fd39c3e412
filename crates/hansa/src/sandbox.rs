//! A sandbox member of `hansa up`: a cluster in this process that is reached over TLS, or through an agent, like any other.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use hansa_api::names::{LABEL_GROUP, LABEL_REGION};
use hansa_embedded::Server;
use hansa_sandbox::Sandbox;
use jiff::SignedDuration;
use kube::Client;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{data_dir::DataDir, membership, sandbox_agent::Site};

/// How long the kubeconfig of a member is good for; it is made anew at each start.
const VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 365);

pub(crate) struct Member {
    pub(crate) name: String,
    server: Server,
    tasks: [JoinHandle<()>; 2],
    kubeconfig: String,
    region: &'static str,
    by_agent: bool,
    agent: Option<JoinHandle<()>>,
}

impl Member {
    /// Starts member `number` on what it left behind, if it ran before.
    pub(crate) async fn start(
        data: &DataDir,
        number: u8,
        by_agent: bool,
        stop: CancellationToken,
    ) -> Result<Self> {
        let name = format!("member{number}");
        let region = if number % 2 == 1 { "west" } else { "east" };
        let server = data.server(&name, Vec::new()).await?;
        let file = format!("{name}.kubeconfig");
        let listener = bind(data.read(&file).as_deref().and_then(last_port)).await?;
        let kubeconfig = kubeconfig(&name, &server, listener.local_addr()?)?;
        data.write_secret(&file, &kubeconfig)?;
        let listening = tokio::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            async move { server.serve(listener, stop).await }
        });
        let options = hansa_sandbox::Options {
            node_prefix: format!("{name}-node"),
            region: region.to_owned(),
            ..hansa_sandbox::Options::default()
        };
        let operating = Sandbox::start(&server, options, stop);
        Ok(Self { name, server, tasks: [listening, operating], kubeconfig, region, by_agent, agent: None })
    }

    /// Joins it at the first start, and says where it is now if that changed. One that was taken out stays out.
    pub(crate) async fn join(
        &mut self,
        host: &Client,
        data: &DataDir,
        stop: &CancellationToken,
    ) -> Result<()> {
        let joined = format!("{}.joined", self.name);
        let is_new = data.read(&joined).is_none();
        let labels = [(LABEL_GROUP, "demo"), (LABEL_REGION, self.region)];
        if self.by_agent {
            let site = Site { name: &self.name, data, kubeconfig: &self.kubeconfig };
            if is_new {
                site.join(host, &labels).await?;
                data.write_secret(&joined, "")?;
            }
            self.agent = site.start(host, stop.clone()).await?;
            return Ok(());
        }
        if !is_new {
            return membership::refresh(host, &self.name, &self.kubeconfig).await;
        }
        membership::create(host, &self.name, &self.kubeconfig, &labels).await?;
        data.write_secret(&joined, "")
    }

    /// Waits for its tasks and closes its state.
    pub(crate) async fn stopped(self) {
        for task in self.agent.into_iter().chain(self.tasks) {
            // A task that panicked has ended as well.
            let _ = task.await;
        }
        self.server.close().await;
    }
}

/// Listens on the port of the last start if it is free, so that kubeconfigs that were copied go on working.
async fn bind(last: Option<u16>) -> Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, last.unwrap_or(0))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen on the loopback"),
    }
}

fn last_port(kubeconfig: &str) -> Option<u16> {
    let config: Value = serde_json::from_str(kubeconfig).ok()?;
    config["clusters"][0]["cluster"]["server"].as_str()?.rsplit(':').next()?.parse().ok()
}

/// The administrator's kubeconfig, as one would bring it along for a cluster from elsewhere.
fn kubeconfig(name: &str, server: &Server, address: SocketAddr) -> Result<String> {
    let groups = ["system:masters".to_owned()];
    let (certificate, key) = server
        .auth()
        .issue_client_certificate("kubernetes-admin", &groups, VALIDITY)
        .with_context(|| format!("cannot issue a certificate for the administrator of {name}"))?;
    let data = |pem: &str| STANDARD.encode(pem);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": "kubernetes-admin"}}],
        "clusters": [{"name": name, "cluster": {
            "server": format!("https://{address}"), "certificate-authority-data": data(&server.ca_pem())}}],
        "users": [{"name": "kubernetes-admin", "user": {
            "client-certificate-data": data(&certificate), "client-key-data": data(&key)}}],
    });
    Ok(config.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_remembered_in_the_kubeconfig() {
        assert_eq!(
            last_port(r#"{"clusters":[{"cluster":{"server":"https://127.0.0.1:4711"}}]}"#),
            Some(4711)
        );
        assert_eq!(last_port("{}"), None);
        assert_eq!(last_port("damaged"), None);
    }
}
