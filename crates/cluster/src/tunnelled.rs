//! A Cluster that is connected by agent: what the host needs before one can join, whether one is there, and what goes when the Cluster does.
//!
//! To everybody else it is an ordinary member: its registration leads to the tower, with a ServiceAccount of the host that may do nothing but reach this
//! one cluster. The host holds no credential of the member (`spec/security-checklist.md`, lines 11 and 12).

use std::sync::Arc;
use std::time::Duration;

use hansa_api::cluster::{Cluster, ConnectionType, condition};
use hansa_api::names;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::account::{self, Account};
use crate::agents::{self, Announcement};
use crate::conditions::Said;
use crate::controller::Shared;
use crate::events::{self, Severity};
use crate::identity;
use crate::reconcile::{self, Cause, Findings, LEAVE, Memory, SETTLED_RETRY, Way};
use crate::register;
use crate::remote::{self, Problem, Remote, delete, step};

/// The marker of a registration that leads through the tower.
pub(crate) const MARKER: &str = "tunnel";

/// What is remembered of the agent between two looks.
#[derive(Default)]
pub(crate) struct Agent {
    there: bool,
    /// When it was seen last, once it is gone.
    left: Option<Timestamp>,
    /// The kind of connection beside which nothing of the other kind was found.
    pub(crate) tidied: Option<ConnectionType>,
}

/// Looks at a Cluster that is to be reached through the tower.
pub(crate) async fn keep(
    shared: &Shared,
    cluster: &Arc<Cluster>,
    memory: &mut Memory,
    cause: Cause,
    findings: &mut Findings,
) -> Result<Duration, kube::Error> {
    let name = cluster.name_any();
    let tower = shared.tower.borrow().clone();
    // What is not known yet brings another look when it is.
    let Some(announced) = &tower.announced else { return Ok(reconcile::FIRST_RETRY) };
    let registered = register::read(&shared.host, &name).await?;
    let joined = registered.as_ref().is_some_and(|registered| registered.marker == MARKER);
    let well = joined
        && shared.registry.member(&name).is_some_and(|member| member.ready)
        && cluster.condition(condition::INITIALIZED).is_some_and(|said| said.status == "True")
        && cluster.status.as_ref().is_some_and(|status| !status.uid.is_empty());
    // What works need not be made again, and is not dialled.
    let token = if well { Ok(String::new()) } else { prepare(&shared.host, cluster).await };
    let way = token.and_then(|token| Ok((target(announced.as_ref(), &name, &token)?, token)));
    let (target, token) = match way {
        Ok(way) => way,
        Err(problem) => {
            findings.conditions.push(Said::new(
                condition::INITIALIZED,
                false,
                problem.reason,
                &problem.message,
            ));
            findings.problem(&problem);
            return Ok(if problem.reason == NO_TOWER { SETTLED_RETRY } else { reconcile::FIRST_RETRY });
        }
    };
    let initialized = "the host is prepared for an agent";
    findings.conditions.push(Said::new(condition::INITIALIZED, true, "Initialized", initialized));
    let recorded = cluster.status.as_ref().map(|status| status.uid.clone()).unwrap_or_default();
    // Until it is known whether an agent is there, what was said of it last holds.
    let told = cluster.condition(condition::AGENT_AVAILABLE).filter(|said| said.status == "False");
    let there = tower.agents.as_ref().map(|agents| agents.contains_key(&name)).or(told.map(|_| false));
    if let Some(there) = there {
        if there && !memory.agent.there {
            memory.forget_failures();
        }
        let said = memory.agent.availability(cluster, there, Timestamp::now());
        findings.conditions.push(said.clone());
        if !there && (joined || registered.is_none()) {
            let reason = if recorded.is_empty() { "AgentAwaited" } else { "AgentUnavailable" };
            findings.problem(&Problem::new(reason, said.message));
            findings.endpoint = Some(target.endpoint.to_string());
            if let Some(registered) = registered.filter(|_| cluster.spec.join_federation) {
                register::sync(&shared.host, cluster, &recorded, &target, &registered).await?;
            }
            return Ok(shared.options.resync);
        }
        if !there {
            // It was connected directly before, and is until an agent comes.
            let member = shared.registry.member(&name);
            return Ok(reconcile::readiness(shared, member.as_deref(), &recorded, memory, findings).await);
        }
    }
    let after =
        reconcile::connected(shared, cluster, memory, cause, target.clone(), Way::Tunnel { token }, findings)
            .await?;
    if well && memory.agent.tidied != Some(ConnectionType::Proxy) && tidy(shared, cluster).await? {
        memory.agent.tidied = Some(ConnectionType::Proxy);
    }
    Ok(after)
}

const NO_TOWER: &str = "NoTower";

/// The way to a member through the tower.
fn target(
    announced: Option<&Announcement>,
    name: &str,
    token: &str,
) -> Result<hansa_transport::Target, Problem> {
    let announced = announced.ok_or_else(|| {
        Problem::new(
            NO_TOWER,
            "no tower has said where it is, and agents dial it; start one on the host: hansa tower",
        )
    })?;
    announced.target(name, token).map_err(|error| {
        let message = format!(
            "the address of the tower in ConfigMap {}/{}: {error}",
            names::SYSTEM_NAMESPACE,
            names::TOWER
        );
        Problem::new("InvalidTower", message)
    })
}

/// By what the host's own components reach the cluster: nothing but that.
fn tunnel_account(cluster: &str) -> Account {
    Account {
        name: names::tunnel_account(cluster),
        role: names::tunnel_role(cluster),
        rules: json!([{
            "apiGroups": ["cluster.kubesphere.io"], "resources": ["clusters/tunnel"],
            "resourceNames": [cluster], "verbs": ["*"],
        }]),
    }
}

/// Makes what an agent needs to join, and what the host needs to reach it; gives the host's token for it.
async fn prepare(host: &Client, cluster: &Cluster) -> Result<String, Problem> {
    agents::ensure(host, cluster).await.map_err(|error| Problem::new("HostRefused", error.to_string()))?;
    let account = tunnel_account(&cluster.name_any());
    let doing = "the way through the tower cannot be made on the host";
    account.make(host, doing).await?;
    account.token(host, doing).await
}

impl Agent {
    /// What is said of the agent. Its absence is told with the moment it was seen last, in the same words until it comes back.
    fn availability(&mut self, cluster: &Cluster, there: bool, now: Timestamp) -> Said {
        if there {
            self.there = true;
            return Said::new(condition::AGENT_AVAILABLE, true, "AgentConnected", "an agent is connected");
        }
        if std::mem::take(&mut self.there) {
            self.left = Some(now);
        }
        let check = "on the cluster, see: kubectl -n hansa-agent logs deployment/hansa-agent";
        let gone = |message: String| {
            Said::new(condition::AGENT_AVAILABLE, false, "AgentDisconnected", format!("{message}; {check}"))
        };
        let shown = |at: Timestamp| format!("{at:.0}");
        match (self.left, cluster.condition(condition::AGENT_AVAILABLE)) {
            (Some(left), _) => gone(format!("no agent is connected; it was seen last at {}", shown(left))),
            (None, Some(said)) if said.status == "False" => {
                Said::new(condition::AGENT_AVAILABLE, false, &said.reason, &said.message)
            }
            // It went while nobody looked.
            (None, Some(_)) => gone(format!("no agent is connected; it was seen last before {}", shown(now))),
            (None, None) => Said::new(
                condition::AGENT_AVAILABLE,
                false,
                "NoAgent",
                format!(
                    "no agent has connected yet; `hansa join {} --agent` prints the manifest to apply on the cluster",
                    cluster.name_any()
                ),
            ),
        }
    }
}

/// Removes what was needed for the direct connection that the cluster had before, on the cluster first. Returns whether nothing remains.
async fn tidy(shared: &Shared, cluster: &Cluster) -> Result<bool, kube::Error> {
    let name = cluster.name_any();
    if reconcile::kubeconfig(shared, &name).await?.is_none() {
        return Ok(true);
    }
    let Some(client) = shared.registry.member(&name).and_then(|member| member.client.clone()) else {
        return Ok(false);
    };
    match tokio::time::timeout(LEAVE, remote::leave(&client, &name)).await {
        Ok(Ok(())) => {
            let secrets: Api<Secret> = Api::namespaced(shared.host.clone(), names::SYSTEM_NAMESPACE);
            register::delete(&secrets, &names::kubeconfig_secret(&name)).await?;
            Ok(true)
        }
        Ok(Err(problem)) => {
            tracing::warn!(cluster = %name, %problem, "what the direct connection needed is not removed yet");
            Ok(false)
        }
        Err(_) => Ok(false),
    }
}

/// Removes what the connection by agent needed, from a cluster that is reached directly now. Returns whether nothing remains.
pub(crate) async fn retire(
    shared: &Shared,
    cluster: &Cluster,
    member: Option<&Client>,
) -> Result<bool, kube::Error> {
    let name = cluster.name_any();
    let secrets: Api<Secret> = Api::namespaced(shared.host.clone(), names::SYSTEM_NAMESPACE);
    if secrets.get_opt(&names::agent_record(&name)).await?.is_none() {
        return Ok(true);
    }
    let Some(member) = member else { return Ok(false) };
    let work = async {
        remove_agent(member).await?;
        account::remove(&shared.host, &names::tunnel_account(&name), &names::tunnel_role(&name)).await
    };
    match tokio::time::timeout(LEAVE, work).await {
        Ok(Ok(())) => {
            register::delete(&secrets, &names::agent_record(&name)).await?;
            Ok(true)
        }
        Ok(Err(problem)) => {
            tracing::warn!(cluster = %name, %problem, "what the agent needed is not removed yet");
            Ok(false)
        }
        Err(_) => Ok(false),
    }
}

/// Takes a deleted Cluster's agent away, through the agent itself if it is there, and all that the host had for it. A member that is away holds nothing up.
/// Returns whether nothing remains on the host.
pub(crate) async fn leave(shared: &Shared, cluster: &Cluster) -> Result<bool, kube::Error> {
    let name = cluster.name_any();
    let secrets: Api<Secret> = Api::namespaced(shared.host.clone(), names::SYSTEM_NAMESPACE);
    let record = secrets.get_opt(&names::agent_record(&name)).await?;
    if record.is_none() && !cluster.is_proxied() {
        return Ok(true);
    }
    let began = Instant::now();
    let late = || Err(Problem::new("Unreachable", format!("no end of the clean-up within {LEAVE:?}")));
    match tokio::time::timeout(LEAVE, depart(shared, cluster)).await.unwrap_or_else(|_| late()) {
        Ok(true) => shared.options.metrics.unjoined(began.elapsed()),
        Ok(false) => {}
        Err(problem) => {
            let message = format!(
                "removed, but the agent may remain on the cluster: {problem}. There, delete namespace {0}, clusterrolebinding {1} and {2}, \
                 and clusterrole {1}",
                names::AGENT_NAMESPACE,
                names::AGENT_ROLE,
                names::AGENT_ADMINS_BINDING,
            );
            tracing::warn!(cluster = %name, "{message}");
            events::emit(&shared.host, cluster, Severity::Warning, "LeftBehind", &message);
        }
    }
    let removed =
        account::remove(&shared.host, &names::tunnel_account(&name), &names::tunnel_role(&name)).await;
    if let Err(problem) = removed {
        tracing::warn!(cluster = %name, %problem, "the host's way to the cluster is not removed yet; trying again");
        return Ok(false);
    }
    register::delete(&secrets, &names::agent_record(&name)).await?;
    Ok(true)
}

/// Cleans the member up through its agent; `false` if there was never anything.
async fn depart(shared: &Shared, cluster: &Cluster) -> Result<bool, Problem> {
    let name = cluster.name_any();
    let tower = shared.tower.borrow().clone();
    let there = tower.agents.as_ref().map(|agents| agents.contains_key(&name));
    let recorded = cluster.status.as_ref().map(|status| status.uid.as_str()).unwrap_or_default();
    match (recorded.is_empty(), there) {
        (true, Some(true)) => {
            return Err(Problem::new(
                "NotJoined",
                "an agent is connected, but it was never settled whose it is",
            ));
        }
        (true, _) => return Ok(false),
        (false, Some(false)) => return Err(Problem::new("AgentUnavailable", "no agent is connected")),
        (false, _) => {}
    }
    let token = account::token(&shared.host, &names::tunnel_account(&name)).await?;
    let token = token.ok_or_else(|| Problem::new("NoToken", "the host has no token for the tower"))?;
    let announced = tower.announced.clone().flatten();
    let remote = Remote::connect(&shared.options.connect, target(announced.as_ref(), &name, &token)?)?;
    let found = remote.uid().await?;
    if found != recorded {
        let conflict = identity::Conflict::Changed { recorded: recorded.to_owned(), found };
        return Err(Problem::new(conflict.reason(), conflict.to_string()));
    }
    remove_agent(&remote.client).await?;
    Ok(true)
}

/// Removes what the agent's manifest made. The agent may be who does it, and cannot take its own rights away before the rest: they are made dependents of
/// its namespace, and the member's garbage collector takes them with that.
async fn remove_agent(member: &Client) -> Result<(), Problem> {
    let doing = "clean-up";
    let namespaces: Api<Namespace> = Api::all(member.clone());
    let roles: Api<ClusterRole> = Api::all(member.clone());
    let bindings: Api<ClusterRoleBinding> = Api::all(member.clone());
    delete(&bindings, names::AGENT_ADMINS_BINDING).await?;
    let name = names::AGENT_ROLE;
    let Some(namespace) = step(doing, namespaces.get_opt(names::AGENT_NAMESPACE)).await? else {
        delete(&bindings, name).await?;
        return delete(&roles, name).await;
    };
    let owner = json!([{
        "apiVersion": "v1", "kind": "Namespace", "name": names::AGENT_NAMESPACE, "uid": namespace.uid(),
    }]);
    let patch = json!({ "metadata": { "ownerReferences": owner } });
    depend(&roles, name, &patch).await?;
    depend(&bindings, name, &patch).await?;
    delete(&namespaces, names::AGENT_NAMESPACE).await
}

/// Patches an object that may be gone, or never have been.
async fn depend<K>(api: &Api<K>, name: &str, patch: &Value) -> Result<(), Problem>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let parameters = PatchParams::default();
    let work = async {
        match api.patch(name, &parameters, &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            outcome => outcome.map(drop),
        }
    };
    step("clean-up", work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn cluster(agent: Option<&Said>) -> Cluster {
        let conditions: Vec<_> = agent
            .map(|said| {
                let status = if said.status { "True" } else { "False" };
                json!({ "type": said.r#type, "status": status, "reason": said.reason, "message": said.message })
            })
            .into_iter()
            .collect();
        serde_json::from_value(
            json!({ "metadata": { "name": "m" }, "spec": {}, "status": { "conditions": conditions } }),
        )
        .unwrap()
    }

    #[test]
    fn an_agents_absence_is_told_with_the_moment_it_was_seen_last_and_in_the_same_words() {
        let mut agent = Agent::default();
        let never = agent.availability(&cluster(None), false, at(0));
        assert_eq!((never.status, never.reason.as_str()), (false, "NoAgent"));
        assert!(never.message.contains("hansa join m --agent"));
        let there = agent.availability(&cluster(Some(&never)), true, at(1));
        assert!(there.status);
        let gone = agent.availability(&cluster(Some(&there)), false, at(2));
        assert_eq!(gone.reason, "AgentDisconnected");
        assert!(gone.message.contains("2027-01-15T08:00:02Z"), "{}", gone.message);
        assert_eq!(agent.availability(&cluster(Some(&gone)), false, at(9)), gone);
        // A controller that starts anew says what the former one said, and does not invent a moment.
        assert_eq!(Agent::default().availability(&cluster(Some(&gone)), false, at(99)), gone);
        assert_eq!(Agent::default().availability(&cluster(Some(&never)), false, at(99)), never);
        let missed = Agent::default().availability(&cluster(Some(&there)), false, at(99));
        assert!(missed.message.contains("seen last before"), "{}", missed.message);
    }

    #[test]
    fn the_hosts_way_to_a_cluster_leads_to_that_cluster_alone() {
        let rules = tunnel_account("m1").rules;
        assert_eq!(
            rules,
            json!([{ "apiGroups": ["cluster.kubesphere.io"], "resources": ["clusters/tunnel"], "resourceNames": ["m1"], "verbs": ["*"] }])
        );
    }
}
