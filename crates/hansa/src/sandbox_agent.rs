//! The agent of a sandbox member: it runs in this process, and otherwise joins, dials and serves as one on the member would, with the rights
//! that the manifest gives it there.

use std::{path::PathBuf, sync::Arc, time::Duration, time::SystemTime};

use anyhow::{Context, Result};
use hansa_agent::{
    Agent, Settings,
    join::Sources,
    member::{Member, Source},
    proxy::Proxies,
};
use hansa_api::{Cluster, names};
use hansa_cluster::agents::{self, Terms, announcement};
use hansa_transport::{Limits, Target, Transport, explain};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{data_dir::DataDir, install};

/// Requests under way at once.
const REQUESTS: usize = 1024;
/// How long the agent's token on the member is good, in seconds; it is made anew at each start.
const TOKEN: i64 = 365 * 24 * 3600;
/// How long what is under way may take to end.
const DRAIN: Duration = Duration::from_secs(2);

/// The member's side of an agent: where its things are kept, and the administrator's way to the member.
pub(crate) struct Site<'a> {
    pub(crate) name: &'a str,
    pub(crate) data: &'a DataDir,
    /// The administrator's kubeconfig.
    pub(crate) kubeconfig: &'a str,
}

impl Site<'_> {
    fn file(&self, kind: &str) -> String {
        format!("{}.agent.{kind}", self.name)
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.data.path().join(self.file(kind))
    }

    fn administrator(&self) -> Result<Client> {
        let target = Target::from_kubeconfig(self.kubeconfig, None)?;
        Ok(Transport::new(target, Limits::default())?.client("default"))
    }

    /// What `hansa join --agent` and `kubectl apply` do for a member, but that the agent is no Pod.
    pub(crate) async fn join(&self, host: &Client, labels: &[(&str, &str)]) -> Result<()> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let terms = Terms::default();
        let mut rng = StdRng::from_os_rng();
        let invited = agents::invite(host, self.name, labels, &terms, Timestamp::now(), &mut rng);
        let invitation =
            invited.await.with_context(|| format!("cannot invite the agent of {}", self.name))?;
        let provider = Patch::Merge(json!({"spec": {"provider": "sandbox"}}));
        Api::<Cluster>::all(host.clone()).patch(self.name, &PatchParams::default(), &provider).await?;
        let member = self.administrator()?;
        for object in agents::manifest(&invitation) {
            if object["kind"] != "Deployment" {
                install::create_absent(&member, object).await?;
            }
        }
        self.data.write_secret(&self.file("token"), invitation.token.reveal())
    }

    /// Starts the agent, unless its cluster was taken out.
    pub(crate) async fn start(
        &self,
        host: &Client,
        stop: CancellationToken,
    ) -> Result<Option<JoinHandle<()>>> {
        if Api::<Cluster>::all(host.clone()).get_opt(self.name).await?.is_none() {
            return Ok(None);
        }
        let tower = announcement::read(host).await?.context("no tower has said where it is")?;
        self.data.write_secret(&self.file("crt"), &tower.ca)?;
        self.data.write_secret(&self.file("kubeconfig"), &self.credential().await?.to_string())?;
        let settings = Settings {
            sources: Sources {
                directory: self.data.path().to_owned(),
                tower: Some(tower.server),
                cluster: Some(self.name.to_owned()),
                authority: Some(self.path("crt")),
                token: Some(self.path("token")),
            },
            proxies: Proxies::default(),
            namespace: names::AGENT_NAMESPACE.to_owned(),
            secret: names::AGENT_CREDENTIAL.to_owned(),
            tunnel: hansa_tunnel::Settings { streams: REQUESTS, ..hansa_tunnel::Settings::default() },
            requests: REQUESTS,
            drain: DRAIN,
            clock: Arc::new(SystemTime::now),
        };
        let source = Source::Kubeconfig { file: self.path("kubeconfig"), context: None };
        let agent = Agent::new(settings, Member::new(source, REQUESTS)?);
        Ok(Some(tokio::spawn(agent.run(StdRng::from_os_rng(), stop))))
    }

    /// The administrator's kubeconfig, with the agent's own ServiceAccount in the administrator's place.
    async fn credential(&self) -> Result<Value> {
        let accounts = Api::<ServiceAccount>::namespaced(self.administrator()?, names::AGENT_NAMESPACE);
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let issued = accounts.create_token_request(names::AGENT, &PostParams::default(), &request).await;
        let issued = issued.map_err(|error| {
            anyhow::anyhow!("{} gives its agent no token: {}", self.name, explain(&error))
        })?;
        let token = issued.status.with_context(|| format!("{} gives its agent no token", self.name))?.token;
        let mut config: Value = serde_json::from_str(self.kubeconfig)?;
        config["users"][0]["user"] = json!({ "token": token });
        Ok(config)
    }
}
