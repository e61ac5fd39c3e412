//! One look at one `Cluster`: what is to be true of it, and what is done about it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use hansa_api::cluster::{Cluster, ClusterStatus, ConnectionType, condition};
use hansa_api::names;
use hansa_api::time::{ByteString, Time};
use hansa_transport::{Target, certificate_expiry};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::agents::Announcement;
use crate::conditions::{self, Said};
use crate::controller::Shared;
use crate::events::{self, Severity};
use crate::identity::{self, Known};
use crate::register;
use crate::remote::{self, Problem, Remote};
use crate::tunnelled::{self, Agent};

/// Why a Cluster is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Something changed.
    Changed,
    /// It is time again.
    Due,
}

/// What a task remembers between two looks.
#[derive(Default)]
pub(crate) struct Memory {
    /// The last attempt to reach the cluster by its kubeconfig that failed: with which kubeconfig, when, and why.
    failed: Option<(String, Instant, Problem)>,
    /// Consecutive failures.
    failures: u32,
    /// The problem that was last told as an event.
    told: Option<String>,
    nodes: Option<(Instant, i32)>,
    /// Since when the member has not been ready although it is registered.
    ailing: Option<Instant>,
    /// How often it has been joined again since it was last ready.
    healed: u32,
    /// The agent of a cluster that has one.
    pub(crate) agent: Agent,
}

impl Memory {
    /// What failed before is tried again at once: there is a reason to think that it works now.
    pub(crate) fn forget_failures(&mut self) {
        self.failed = None;
        self.failures = 0;
    }
}

/// How the control plane comes to be let in by a cluster.
pub(crate) enum Way {
    /// By a ServiceAccount that is made there with a kubeconfig; the marker changes with that.
    Kubeconfig { marker: String },
    /// Through the tower, with a token of the host.
    Tunnel { token: String },
}

impl Way {
    fn marker(&self) -> &str {
        match self {
            Self::Kubeconfig { marker } => marker,
            Self::Tunnel { .. } => tunnelled::MARKER,
        }
    }

    /// The token that the member is reached with from now on.
    async fn join(&self, remote: &Remote, name: &str) -> Result<String, Problem> {
        match self {
            Self::Kubeconfig { .. } => remote.join(name).await,
            Self::Tunnel { token } => Ok(token.clone()),
        }
    }
}

pub(crate) const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(120);
/// What nobody but the user can mend is looked at again this often.
pub(crate) const SETTLED_RETRY: Duration = Duration::from_secs(300);
/// A registered member that is not ready for so long is looked at by its kubeconfig, and joined again if it is there.
const HEAL_AFTER: Duration = Duration::from_secs(20);
/// How long the clean-up of a member may take when its Cluster is deleted.
pub(crate) const LEAVE: Duration = Duration::from_secs(10);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// What bears on a Cluster beside itself; a change of it is a reason to look.
#[derive(PartialEq)]
pub(crate) struct Seen {
    member: Option<(bool, Option<String>, String, String)>,
    agent: Option<bool>,
    announced: Option<Option<Announcement>>,
}

pub(crate) fn seen(shared: &Shared, name: &str) -> Seen {
    let tower = shared.tower.borrow().clone();
    Seen {
        member: shared
            .registry
            .member(name)
            .map(|member| (member.ready, member.problem.clone(), member.uid.clone(), member.version.clone())),
        agent: tower.agents.as_ref().map(|agents| agents.contains_key(name)),
        announced: tower.announced.clone(),
    }
}

/// What a look found; the status is made of it.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) conditions: Vec<Said>,
    uid: Option<String>,
    version: Option<String>,
    nodes: Option<i32>,
    pub(crate) endpoint: Option<String>,
}

impl Findings {
    pub(crate) fn problem(&mut self, problem: &Problem) {
        self.conditions.push(Said::new(condition::READY, false, problem.reason, &problem.message));
    }

    /// Says that there is what one begins with, unless that has been said in other words.
    fn identified(&mut self) {
        if self.conditions.iter().all(|said| said.r#type != condition::INITIALIZED) {
            let message = "the cluster has been identified";
            self.conditions.push(Said::new(condition::INITIALIZED, true, "Initialized", message));
        }
    }
}

/// Looks at a Cluster and does what is needed; returns when to look again. It takes bounded time whatever the member does.
pub(crate) async fn reconcile(
    shared: &Arc<Shared>,
    cluster: &Arc<Cluster>,
    memory: &mut Memory,
    cause: Cause,
) -> Duration {
    let outcome = if cluster.is_host() {
        host(shared, cluster).await
    } else if cluster.metadata.deletion_timestamp.is_some() {
        delete(shared, cluster).await
    } else {
        keep(shared, cluster, memory, cause).await
    };
    match outcome {
        Ok(after) => after,
        Err(error) => {
            // A conflict means that the object has changed, and the change brings another look.
            if !matches!(&error, kube::Error::Api(status) if status.code == 409 || status.code == 404) {
                tracing::warn!(cluster = %cluster.name_any(), error = %hansa_transport::explain(&error), "the host refused a write");
            }
            FIRST_RETRY
        }
    }
}

/// The host's own Cluster. Whoever deletes it gets it back.
async fn host(shared: &Shared, cluster: &Cluster) -> Result<Duration, kube::Error> {
    if cluster.metadata.deletion_timestamp.is_some() {
        events::emit(
            &shared.host,
            cluster,
            Severity::Warning,
            "HostIsKept",
            "the Cluster of the host cannot be removed; it is made again",
        );
        finalize(shared, cluster).await?;
        return Ok(FIRST_RETRY);
    }
    if ensure_finalizer(shared, cluster).await? {
        return Ok(FIRST_RETRY);
    }
    let mut findings = Findings {
        conditions: vec![
            Said::new(condition::INITIALIZED, true, "Initialized", "the host runs the control plane"),
            Said::new(condition::READY, true, "Ready", "the host runs the control plane"),
        ],
        uid: Some(shared.host_uid.clone()),
        version: Some(shared.host.apiserver_version().await?.git_version),
        nodes: remote::count_nodes(shared.host.clone()).await,
        endpoint: shared.options.host.as_ref().map(|target| target.endpoint.to_string()),
    };
    let federated = join_host(shared, cluster).await?;
    findings.conditions.push(federated);
    write(shared, cluster, findings).await?;
    Ok(shared.options.resync)
}

/// The host is a member of its own federation only if somebody wants it: it is there to manage the others.
async fn join_host(shared: &Shared, cluster: &Cluster) -> Result<Said, kube::Error> {
    let name = cluster.name_any();
    let registered = register::read(&shared.host, &name).await?;
    let refused =
        |problem: &Problem| Said::new(condition::FEDERATED, false, problem.reason, &problem.message);
    if !cluster.spec.join_federation {
        if registered.is_some() {
            register::remove(&shared.host, &name).await?;
        }
        return Ok(Said::new(
            condition::FEDERATED,
            false,
            "NotWanted",
            "spec.joinFederation is false: nothing is propagated to the host",
        ));
    }
    let Some(target) = shared.options.host.clone() else {
        let problem = Problem::new(
            "NoEndpoint",
            "the control plane was not told under which address members and itself reach the host",
        );
        return Ok(refused(&problem));
    };
    let joined = Said::new(condition::FEDERATED, true, "Joined", "the host is registered for propagation");
    if let Some(registered) = registered.filter(|registered| registered.marker == HOST_MARKER) {
        register::sync(&shared.host, cluster, &shared.host_uid, &target, &registered).await?;
        return Ok(joined);
    }
    let token = match Remote::connect(&shared.options.connect, target.clone()) {
        Ok(remote) => Remote { client: shared.host.clone(), ..remote }.join(&name).await,
        Err(problem) => Err(problem),
    };
    match token {
        Ok(token) => {
            register::write(&shared.host, cluster, &shared.host_uid, &target, &token, HOST_MARKER).await?;
            Ok(joined)
        }
        Err(problem) => Ok(refused(&problem)),
    }
}

/// The host has no kubeconfig that its registration could have been made with.
const HOST_MARKER: &str = "host";

/// A Cluster that is to be a member.
async fn keep(
    shared: &Shared,
    cluster: &Arc<Cluster>,
    memory: &mut Memory,
    cause: Cause,
) -> Result<Duration, kube::Error> {
    if ensure_finalizer(shared, cluster).await? {
        return Ok(FIRST_RETRY);
    }
    if stow_kubeconfig(shared, cluster).await? {
        // The write brings another look.
        return Ok(FIRST_RETRY);
    }
    let mut findings = Findings::default();
    let after = if cluster.is_proxied() {
        tunnelled::keep(shared, cluster, memory, cause, &mut findings).await?
    } else {
        direct(shared, cluster, memory, cause, &mut findings).await?
    };
    tell_problem(shared, cluster, memory, &findings);
    write(shared, cluster, findings).await?;
    Ok(after)
}

/// A Cluster that is reached by its kubeconfig.
async fn direct(
    shared: &Shared,
    cluster: &Arc<Cluster>,
    memory: &mut Memory,
    cause: Cause,
    findings: &mut Findings,
) -> Result<Duration, kube::Error> {
    let name = cluster.name_any();
    match kubeconfig(shared, &name).await? {
        None => {
            let problem = Problem::new(
                "NoKubeconfig",
                format!(
                    "there is no kubeconfig; put one into spec.connection.kubeconfig, or use: hansa join {name} --kubeconfig FILE"
                ),
            );
            findings.problem(&problem);
            Ok(SETTLED_RETRY)
        }
        Some((text, marker)) => match Target::from_kubeconfig(&text, None) {
            Err(error) => {
                findings.problem(&Problem::new("InvalidKubeconfig", error.to_string()));
                Ok(SETTLED_RETRY)
            }
            Ok(target) => {
                let way = Way::Kubeconfig { marker };
                let after = connected(shared, cluster, memory, cause, target, way, findings).await?;
                let member = shared.registry.member(&name).filter(|member| member.ready);
                if let Some(member) = member.filter(|_| memory.agent.tidied != Some(ConnectionType::Direct))
                    && tunnelled::retire(shared, cluster, member.client.as_ref()).await?
                {
                    memory.agent.tidied = Some(ConnectionType::Direct);
                }
                Ok(after)
            }
        },
    }
}

/// A Cluster of which it is known how to reach it.
pub(crate) async fn connected(
    shared: &Shared,
    cluster: &Arc<Cluster>,
    memory: &mut Memory,
    cause: Cause,
    target: Target,
    way: Way,
    findings: &mut Findings,
) -> Result<Duration, kube::Error> {
    let (name, marker) = (cluster.name_any(), way.marker());
    findings.endpoint = Some(target.endpoint.to_string());
    findings.conditions.extend(expiry(&target, SystemTime::now()));
    let recorded = cluster.status.as_ref().map(|status| status.uid.clone()).unwrap_or_default();
    let registered = register::read(&shared.host, &name).await?;
    let member = shared.registry.member(&name);
    let well = member.as_ref().is_some_and(|member| member.ready);
    if well {
        memory.healed = 0;
    }
    memory.ailing =
        if well || registered.is_none() { None } else { memory.ailing.or_else(|| Some(Instant::now())) };
    let patience = HEAL_AFTER * 2u32.saturating_pow(memory.healed.min(5));
    let ailing = memory.ailing.is_some_and(|since| since.elapsed() >= patience);
    let joined = registered.as_ref().is_some_and(|registered| registered.marker == marker);
    let wanted = cluster.spec.join_federation;

    if !wanted || !joined || recorded.is_empty() || ailing {
        // A kubeconfig that failed is tried again only when it is time.
        if cause == Cause::Changed
            && let Some((tried, at, problem)) = &memory.failed
            && tried == marker
            && let Some(rest) = retry(memory.failures, problem).checked_sub(at.elapsed())
        {
            findings.problem(problem);
            return Ok(rest);
        }
        let began = Instant::now();
        match reach(shared, cluster, &target, &recorded, findings).await {
            Ok(remote) if wanted => match way.join(&remote, &name).await {
                Ok(token) => {
                    register::write(&shared.host, cluster, &recorded, &target, &token, marker).await?;
                    shared.options.metrics.joined(began.elapsed());
                }
                Err(problem) => {
                    findings.conditions.push(Said::new(
                        condition::FEDERATED,
                        false,
                        problem.reason,
                        &problem.message,
                    ));
                    return Ok(failed(memory, marker, problem, findings));
                }
            },
            Ok(remote) => {
                if registered.is_some() {
                    register::remove(&shared.host, &name).await?;
                }
                findings.nodes = remote::count_nodes(remote.client).await;
                findings.identified();
                findings.conditions.extend([
                    Said::new(
                        condition::FEDERATED,
                        false,
                        "NotWanted",
                        "spec.joinFederation is false: nothing is propagated to the cluster",
                    ),
                    Said::new(condition::READY, true, "Ready", "the cluster answers"),
                ]);
                memory.forget_failures();
                return Ok(shared.options.resync);
            }
            Err(problem) => return Ok(failed(memory, marker, problem, findings)),
        }
        memory.forget_failures();
        memory.healed += u32::from(ailing);
        memory.ailing = None;
    } else if let Some(registered) = &registered {
        // Labels are what placements select by, so those of the registration follow those of the Cluster.
        register::sync(&shared.host, cluster, &recorded, &target, registered).await?;
    }
    findings.identified();
    let joined = "the cluster is registered for propagation";
    findings.conditions.push(Said::new(condition::FEDERATED, true, "Joined", joined));
    let member = shared.registry.member(&name);
    Ok(readiness(shared, member.as_deref(), &recorded, memory, findings).await)
}

/// Whether the registered member is ready, and what it says of itself.
pub(crate) async fn readiness(
    shared: &Shared,
    member: Option<&crate::Member>,
    recorded: &str,
    memory: &mut Memory,
    findings: &mut Findings,
) -> Duration {
    let Some(member) = member else {
        findings.problem(&Problem::new(
            "Connecting",
            "the cluster has been registered and is about to be probed",
        ));
        return FIRST_RETRY;
    };
    if !recorded.is_empty() && !member.uid.is_empty() && member.uid != recorded {
        let conflict =
            identity::Conflict::Changed { recorded: recorded.to_owned(), found: member.uid.clone() };
        findings.problem(&Problem::new(conflict.reason(), conflict.to_string()));
        return SETTLED_RETRY;
    }
    if !member.ready {
        let why = member.problem.clone().unwrap_or_else(|| "it has not been probed yet".to_owned());
        findings.problem(&Problem::new("NotReady", why));
        return HEAL_AFTER + Duration::from_secs(1);
    }
    findings.conditions.push(Said::new(condition::READY, true, "Ready", "the cluster answers and is well"));
    findings.version = Some(member.version.clone()).filter(|version| !version.is_empty());
    let fresh = memory.nodes.filter(|(at, _)| at.elapsed() < shared.options.resync / 2);
    if fresh.is_none()
        && let Some(client) = member.client.clone()
        && let Some(count) = remote::count_nodes(client).await
    {
        memory.nodes = Some((Instant::now(), count));
    }
    findings.nodes = memory.nodes.map(|(_, count)| count);
    shared.options.resync
}

/// Dials the cluster and finds out whether it may be the one it is to be. What was found out is in `findings` even where it may not.
async fn reach(
    shared: &Shared,
    cluster: &Arc<Cluster>,
    target: &Target,
    recorded: &str,
    findings: &mut Findings,
) -> Result<Remote, Problem> {
    let remote = Remote::connect(&shared.options.connect, target.clone())?;
    let uid = remote.uid().await?;
    let known = |cluster: &Cluster| Known {
        name: cluster.name_any(),
        uid: cluster.status.as_ref().map(|status| status.uid.clone()).unwrap_or_default(),
        created: cluster.creation_timestamp().map(|time| time.0.as_second()),
    };
    let mut me = known(cluster);
    me.uid = recorded.to_owned();
    // Two that join at the same moment would not see each other's record in the cache.
    let clusters: Api<Cluster> = Api::all(shared.host.clone());
    let others = clusters
        .list(&kube::api::ListParams::default())
        .await
        .map_err(|error| Problem::from_client("the other clusters cannot be read", &error))?;
    let mut others: Vec<Known> = others.items.iter().filter(|other| !other.is_host()).map(known).collect();
    // Members that were registered without a Cluster count too.
    let with_cluster = shared.clusters.read().unwrap_or_else(PoisonError::into_inner).clone();
    others.extend(
        shared
            .registry
            .members()
            .members
            .values()
            .filter(|member| !with_cluster.contains_key(&member.name) && !member.uid.is_empty())
            .map(|member| Known { name: member.name.clone(), uid: member.uid.clone(), created: None }),
    );
    identity::check(&uid, &me, &shared.host_uid, &others)
        .map_err(|conflict| Problem::new(conflict.reason(), conflict.to_string()))?;
    if recorded.is_empty() {
        // The record goes first: it is the claim that others see.
        let resource_version = cluster.resource_version();
        let patch = json!({ "metadata": { "resourceVersion": resource_version }, "status": { "uid": uid } });
        let claim = clusters.patch(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
        claim.map_err(|error| {
            Problem::from_client("the identity of the cluster cannot be recorded", &error)
        })?;
        return Err(Problem::new("Joining", "the cluster has been identified and is being joined"));
    }
    findings.version = crate::member::version(remote.transport.clone()).await;
    findings.uid = Some(uid);
    Ok(remote)
}

/// Notes a failure; returns when to try again.
fn failed(memory: &mut Memory, marker: &str, problem: Problem, findings: &mut Findings) -> Duration {
    findings.problem(&problem);
    if problem.reason == "Joining" {
        memory.failed = None;
        return Duration::from_millis(100);
    }
    memory.failures = memory.failures.saturating_add(1);
    let after = retry(memory.failures, &problem);
    memory.failed = Some((marker.to_owned(), Instant::now(), problem));
    after
}

fn retry(failures: u32, problem: &Problem) -> Duration {
    match problem.reason {
        "IsHost" | "AlreadyMember" | "IdentityChanged" | "InvalidKubeconfig" => SETTLED_RETRY,
        _ => (FIRST_RETRY * 2u32.saturating_pow(failures.saturating_sub(1).min(10))).min(LAST_RETRY),
    }
}

/// A failing condition is told as an event once.
fn tell_problem(shared: &Shared, cluster: &Cluster, memory: &mut Memory, findings: &Findings) {
    let failing = findings.conditions.iter().find(|said| said.r#type == condition::READY && !said.status);
    let failing =
        failing.filter(|said| !matches!(said.reason.as_str(), "Connecting" | "Joining" | "AgentAwaited"));
    let reason = failing.map(|said| said.reason.clone());
    if let Some(said) = failing.filter(|_| reason != memory.told) {
        events::emit(&shared.host, cluster, Severity::Warning, &said.reason, &said.message);
    }
    memory.told = reason;
}

/// `spec/kubesphere-multicluster.md §1.7`. A kubeconfig without a certificate has no such condition; an old one is taken back.
fn expiry(target: &Target, now: SystemTime) -> Option<Said> {
    let identity = target.credential.identity.as_ref()?;
    let end = certificate_expiry(&identity.certificate)?;
    let soon = end < now + WEEK;
    let since_epoch = end.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let end = k8s_openapi::jiff::Timestamp::from_second(i64::try_from(since_epoch.as_secs()).ok()?).ok()?;
    let message = if soon {
        format!(
            "the client certificate of the kubeconfig ends at {end}; give a new kubeconfig: hansa join NAME --update --kubeconfig FILE"
        )
    } else {
        format!("the client certificate of the kubeconfig ends at {end}")
    };
    let reason = if soon { "CertificateExpiresSoon" } else { "CertificateValid" };
    Some(Said::new(condition::KUBECONFIG_CERT_EXPIRES, soon, reason, message))
}

/// A kubeconfig that stands in the spec is moved into a Secret, whatever it is worth, and taken out of the annotation that `kubectl apply` leaves
/// (`spec/security-checklist.md`, line 7).
async fn stow_kubeconfig(shared: &Shared, cluster: &Cluster) -> Result<bool, kube::Error> {
    let applied = cluster.annotations().get(LAST_APPLIED).is_some_and(|text| text.contains("kubeconfig"));
    let given = cluster.spec.connection.kubeconfig.as_ref().filter(|given| !given.0.is_empty());
    if given.is_none() && !applied {
        return Ok(false);
    }
    let name = cluster.name_any();
    if let Some(given) = given {
        let secrets: Api<Secret> = Api::namespaced(shared.host.clone(), names::SYSTEM_NAMESPACE);
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": { "name": names::kubeconfig_secret(&name), "labels": { names::LABEL_KUBESPHERE_MANAGED: "true" } },
            "data": { "kubeconfig": given },
        });
        let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
        secrets.patch(&names::kubeconfig_secret(&name), &parameters, &Patch::Apply(object)).await?;
    }
    let mut patch = json!({
        "metadata": { "resourceVersion": cluster.resource_version() },
        "spec": { "connection": { "kubeconfig": null } },
    });
    if applied {
        patch["metadata"]["annotations"] = json!({ LAST_APPLIED: null });
    }
    let clusters: Api<Cluster> = Api::all(shared.host.clone());
    clusters.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(true)
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The stowed kubeconfig, and a marker that changes with it.
pub(crate) async fn kubeconfig(shared: &Shared, name: &str) -> Result<Option<(String, String)>, kube::Error> {
    let secrets: Api<Secret> = Api::namespaced(shared.host.clone(), names::SYSTEM_NAMESPACE);
    let Some(secret) = secrets.get_opt(&names::kubeconfig_secret(name)).await? else { return Ok(None) };
    let marker =
        format!("{}/{}", secret.uid().unwrap_or_default(), secret.resource_version().unwrap_or_default());
    let text = secret.data.and_then(|mut data| data.remove("kubeconfig"));
    Ok(text.map(|ByteString(bytes)| (String::from_utf8_lossy(&bytes).into_owned(), marker)))
}

/// Returns whether it had to be written, which brings another look.
async fn ensure_finalizer(shared: &Shared, cluster: &Cluster) -> Result<bool, kube::Error> {
    if cluster.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER_CLUSTER) {
        return Ok(false);
    }
    let mut finalizers = cluster.finalizers().to_vec();
    finalizers.push(names::FINALIZER_CLUSTER.to_owned());
    set_finalizers(shared, cluster, finalizers).await?;
    Ok(true)
}

async fn finalize(shared: &Shared, cluster: &Cluster) -> Result<(), kube::Error> {
    let mut finalizers = cluster.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != names::FINALIZER_CLUSTER);
    set_finalizers(shared, cluster, finalizers).await
}

async fn set_finalizers(
    shared: &Shared,
    cluster: &Cluster,
    finalizers: Vec<String>,
) -> Result<(), kube::Error> {
    if cluster.finalizers() == finalizers {
        return Ok(());
    }
    let clusters: Api<Cluster> = Api::all(shared.host.clone());
    // With the version, so that a finalizer that somebody else adds at this moment is not lost.
    let patch =
        json!({ "metadata": { "finalizers": finalizers, "resourceVersion": cluster.resource_version() } });
    clusters.patch(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A deleted Cluster: its registration goes, what we made on the member goes if it can be reached in time, and its workloads stay.
async fn delete(shared: &Shared, cluster: &Cluster) -> Result<Duration, kube::Error> {
    if !cluster.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER_CLUSTER) {
        return Ok(SETTLED_RETRY);
    }
    let name = cluster.name_any();
    register::remove(&shared.host, &name).await?;
    if let Some((text, _)) = kubeconfig(shared, &name).await?
        && let Err(problem) = leave(shared, cluster, &text).await
    {
        let message = format!(
            "removed, but ServiceAccount {}/{} and ClusterRole {} remain on the cluster: {problem}",
            names::SYSTEM_NAMESPACE,
            names::service_account(&name),
            names::cluster_role(&name)
        );
        tracing::warn!(cluster = %name, "{message}");
        events::emit(&shared.host, cluster, Severity::Warning, "LeftBehind", &message);
    }
    if !tunnelled::leave(shared, cluster).await? {
        return Ok(FIRST_RETRY);
    }
    let secrets: Api<Secret> = Api::namespaced(shared.host.clone(), names::SYSTEM_NAMESPACE);
    register::delete(&secrets, &names::kubeconfig_secret(&name)).await?;
    finalize(shared, cluster).await?;
    Ok(SETTLED_RETRY)
}

/// Only a cluster that is still the one that joined is cleaned up.
async fn leave(shared: &Shared, cluster: &Cluster, kubeconfig: &str) -> Result<(), Problem> {
    let recorded = cluster.status.as_ref().map(|status| status.uid.as_str()).unwrap_or_default();
    if recorded.is_empty() {
        return Ok(());
    }
    let target = Target::from_kubeconfig(kubeconfig, None)
        .map_err(|error| Problem::new("InvalidKubeconfig", error.to_string()))?;
    let work = async {
        let remote = Remote::connect(&shared.options.connect, target)?;
        let found = remote.uid().await?;
        if found != recorded {
            let conflict = identity::Conflict::Changed { recorded: recorded.to_owned(), found };
            return Err(Problem::new(conflict.reason(), conflict.to_string()));
        }
        remote::leave(&remote.client, &cluster.name_any()).await
    };
    let late = || Err(Problem::new("Unreachable", format!("no end of the clean-up within {LEAVE:?}")));
    let began = Instant::now();
    let left = tokio::time::timeout(LEAVE, work).await.unwrap_or_else(|_| late());
    if left.is_ok() {
        shared.options.metrics.unjoined(began.elapsed());
    }
    left
}

/// Writes what was found, if it is not what stands there.
async fn write(shared: &Shared, cluster: &Cluster, findings: Findings) -> Result<(), kube::Error> {
    let Some(patch) = patch(cluster, findings, &Time(k8s_openapi::jiff::Timestamp::now())) else {
        return Ok(());
    };
    let clusters: Api<Cluster> = Api::all(shared.host.clone());
    clusters.patch(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// The patch that makes a Cluster say what was found; `None` if it does. What was not found out stays as it is.
fn patch(cluster: &Cluster, findings: Findings, now: &Time) -> Option<Value> {
    let before = cluster.status.clone().unwrap_or_default();
    let after = ClusterStatus {
        conditions: conditions::merge(&before.conditions, &findings.conditions, now),
        uid: findings.uid.unwrap_or_else(|| before.uid.clone()),
        kubernetes_version: findings.version.unwrap_or_else(|| before.kubernetes_version.clone()),
        node_count: findings.nodes.or(before.node_count),
        ..before.clone()
    };
    let endpoint =
        findings.endpoint.filter(|endpoint| *endpoint != cluster.spec.connection.kubernetes_api_endpoint);
    if after == before && endpoint.is_none() {
        return None;
    }
    let mut patch = json!({ "metadata": { "resourceVersion": cluster.resource_version() }, "status": after });
    if let Some(endpoint) = endpoint {
        patch["spec"] = json!({ "connection": { "kubernetesAPIEndpoint": endpoint } });
    }
    Some(patch)
}
