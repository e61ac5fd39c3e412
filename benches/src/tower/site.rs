//! A host with a tower in a process of its own, and a member whose agents have joined already.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hansa_agent::{
    Agent, Observer, Settings,
    credential::Kept,
    join::Sources,
    member::{Member, Source},
    proxy::Proxies,
};
use hansa_api::names;
use hansa_cluster::agents::{Record, record::LIFETIME};
use hansa_listener::pki::{self, Authority};
use jiff::{SignedDuration, Timestamp};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::clients;
use crate::{
    fleet::{self, Fleet, TOKEN},
    support::{embedded::binary, eventually, free_port, process::Process},
};

/// Where the agents keep their credentials on the member.
const NAMESPACE: &str = "hansa-agent";

/// The whole site.
pub struct Site {
    pub fleet: Fleet,
    pub member: fleet::Cluster,
    pub tower: Process,
    dir: PathBuf,
    address: String,
    authority: Authority,
    stop: CancellationToken,
}

/// The name of an agent's cluster.
pub fn cluster(number: usize) -> String {
    format!("c{number:04}")
}

impl Site {
    /// Starts everything but agents.
    pub async fn start(dir: &Path) -> Self {
        let (fleet, stop) = (Fleet::start(dir, 0).await, CancellationToken::new());
        let member = fleet::Cluster::start("member", dir, &stop).await;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        member.create("namespaces", "", namespace).await;
        let address = format!("127.0.0.1:{}", free_port());
        let mut tower = tower(dir, &fleet, &address);
        let authority = loop {
            tower.check().unwrap_or_else(|error| panic!("{error}"));
            let made = fleet.host.server.local().get("secrets", names::SYSTEM_NAMESPACE, "hansa-tower-tls");
            if let Ok(secret) = made {
                break read_authority(&secret);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        fs::write(dir.join("tower-ca.pem"), authority.certificate_pem()).unwrap();
        Self { fleet, member, tower, dir: dir.to_owned(), address, authority, stop }
    }

    /// Another tower takes the place of the one that was killed.
    pub fn restart_tower(&mut self) {
        self.tower = tower(&self.dir, &self.fleet, &self.address);
    }

    /// The URL of what is at `path` of a cluster's API server.
    pub fn url(&self, number: usize, path: &str) -> String {
        format!("https://{}/clusters/{}{path}", self.address, cluster(number))
    }

    /// Waits until a cluster can be asked through the tower.
    pub async fn answers(&self, number: usize) {
        let url = self.url(number, "/version");
        let header = format!("Authorization: Bearer {TOKEN}");
        let asked = tokio::task::spawn_blocking(move || {
            eventually("an answer through the tower", || {
                let code = clients::code(&url, &header);
                if code == 200 { Ok(()) } else { Err(code) }
            });
        });
        if let Err(error) = asked.await {
            panic!("{error}: {}", self.tower.output());
        }
    }

    /// The authority of the tower's certificate, PEM.
    pub fn authority(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// Makes a Cluster on the host whose agent has redeemed its token, and keeps its credential on the member, as an agent and a
    /// tower do it together.
    pub async fn joined(&self, number: usize) {
        let name = cluster(number);
        let object = json!({
            "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster", "metadata": {"name": name},
            "spec": {"connection": {"type": "proxy"}},
        });
        let made = self.fleet.host.create("clusters.cluster.kubesphere.io", "", object).await;
        let kept = Kept::make(&name).unwrap();
        let request = pki::Request::parse(kept.request().unwrap().as_bytes()).unwrap();
        let now = Timestamp::now();
        let mut record = Record::new(made["metadata"]["uid"].as_str().unwrap());
        let token = record.mint(now, LIFETIME, &mut rand::rng());
        record.redeem(token.reveal(), request.public_key(), now).unwrap();
        let record = STANDARD.encode(serde_json::to_vec(&record).unwrap());
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": names::AGENT_RECORD_TYPE, "data": {"record": record},
            "metadata": {"name": names::agent_record(&name), "namespace": names::SYSTEM_NAMESPACE},
        });
        self.fleet.host.create("secrets", names::SYSTEM_NAMESPACE, secret).await;
        let certificate =
            self.authority.sign_request(&request, false, SignedDuration::from_hours(168), now).unwrap();
        let parts = [
            ("tls.key", kept.key.as_str()),
            ("tls.crt", &certificate),
            ("ca.crt", self.authority.certificate_pem()),
            ("cluster", &name),
            ("token.sha256", &token.digest()),
        ];
        let data: Value = parts
            .map(|(name, text)| (name.to_owned(), Value::from(STANDARD.encode(text))))
            .into_iter()
            .collect();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "data": data, "metadata": {"name": name, "namespace": NAMESPACE}});
        self.member.create("secrets", NAMESPACE, secret).await;
    }

    /// Runs the agent of a cluster in this process.
    pub fn agent(&self, number: usize) -> Observer {
        let settings = Settings {
            sources: Sources {
                directory: self.dir.clone(),
                tower: Some(format!("https://{}", self.address)),
                cluster: Some(cluster(number)),
                authority: Some(self.dir.join("tower-ca.pem")),
                token: None,
            },
            proxies: Proxies::default(),
            namespace: NAMESPACE.to_owned(),
            secret: cluster(number),
            tunnel: hansa_tunnel::Settings::default(),
            requests: 1024,
            drain: Duration::from_secs(1),
            clock: Arc::new(SystemTime::now),
        };
        let source = Source::Kubeconfig { file: self.member.kubeconfig.clone(), context: None };
        let agent = Agent::new(settings, Member::new(source, 1024).unwrap());
        let observer = agent.observer();
        tokio::spawn(agent.run(StdRng::from_os_rng(), self.stop.clone()));
        observer
    }

    /// Runs the agent of a cluster as `hansa agent`.
    pub fn agent_process(&self, number: usize) -> Process {
        let mut command = Command::new(binary());
        command
            .arg("agent")
            .arg("--join-dir")
            .arg(&self.dir)
            .arg("--kubeconfig")
            .arg(&self.member.kubeconfig);
        command.args(["--tower", &format!("https://{}", self.address), "--cluster", &cluster(number)]);
        command.arg("--ca-file").arg(self.dir.join("tower-ca.pem"));
        command.args(["--namespace", NAMESPACE, "--credential-secret", &cluster(number)]);
        Process::start("agent", &self.dir, &mut command)
    }

    /// Ends everything.
    pub async fn end(self) {
        self.stop.cancel();
        self.member.server.close().await;
        self.fleet.end().await;
    }
}

/// The authority that the tower made, which signs its agents' certificates.
fn read_authority(secret: &Value) -> Authority {
    let part = |name: &str| {
        String::from_utf8(STANDARD.decode(secret["data"][name].as_str().unwrap()).unwrap()).unwrap()
    };
    Authority::read(pki::KeyedCertificate { certificate: part("ca.crt"), key: part("ca.key") }).unwrap()
}

fn tower(dir: &Path, fleet: &Fleet, address: &str) -> Process {
    let mut command = Command::new(binary());
    command.arg("tower").arg("--kubeconfig").arg(&fleet.host.kubeconfig).args(["--listen", address]);
    Process::start("tower", dir, &mut command)
}
