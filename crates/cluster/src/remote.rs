//! What joining leaves on a member: a ServiceAccount with its token and its rights, and the administrators' binding
//! (`spec/kubefed.md §3`, `spec/kubesphere-multicluster.md §1.6`).

use std::time::Duration;

use hansa_api::names;
use hansa_transport::{Target, Transport, explain};
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Connect;
use crate::account::{self, Account};
use crate::member;

/// How long each step on a member may take.
const STEP: Duration = Duration::from_secs(10);

/// What went wrong on the way to a member or on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// A word for programs.
    pub reason: &'static str,
    /// What happened and what to do.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    pub(crate) fn from_client(doing: &str, error: &kube::Error) -> Self {
        let reason = match error {
            kube::Error::Api(status) if status.code == 401 => "Unauthorized",
            kube::Error::Api(status) if status.code == 403 => "Forbidden",
            kube::Error::Api(_) => "RequestFailed",
            kube::Error::SerdeError(_) => "NotKubernetes",
            _ => "Unreachable",
        };
        Self::new(reason, format!("{doing}: {}", explain(error)))
    }
}

/// Runs one step on a member within bounded time.
pub(crate) async fn step<T>(
    doing: &str,
    work: impl Future<Output = Result<T, kube::Error>> + Send,
) -> Result<T, Problem> {
    match tokio::time::timeout(STEP, work).await {
        Ok(outcome) => outcome.map_err(|error| Problem::from_client(doing, &error)),
        Err(_) => Err(Problem::new("Unreachable", format!("{doing}: no answer within {STEP:?}"))),
    }
}

/// A cluster that was reached by its kubeconfig.
pub(crate) struct Remote {
    pub(crate) client: Client,
    pub(crate) transport: Transport,
}

impl Remote {
    pub(crate) fn connect(connect: &Connect, target: Target) -> Result<Self, Problem> {
        let transport =
            connect(target).map_err(|error| Problem::new("InvalidKubeconfig", error.to_string()))?;
        Ok(Self { client: transport.client("default"), transport })
    }

    /// Who answers.
    pub(crate) async fn uid(&self) -> Result<String, Problem> {
        let uid = step("the cluster cannot be identified", member::uid(self.client.clone())).await?;
        if uid.is_empty() {
            return Err(Problem::new(
                "NotKubernetes",
                "the cluster cannot be identified: its namespace kube-system has no UID",
            ));
        }
        Ok(uid)
    }

    /// Makes everything that is needed and is not there, and returns the token.
    pub(crate) async fn join(&self, cluster: &str) -> Result<String, Problem> {
        let doing = "joining needs the rights of cluster-admin on the cluster";
        let namespace = names::SYSTEM_NAMESPACE;
        apply::<Namespace>(
            &Api::all(self.client.clone()),
            doing,
            namespace,
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }),
        )
        .await?;
        let account = Account {
            name: names::service_account(cluster),
            role: names::cluster_role(cluster),
            rules: json!([
                { "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] },
                { "nonResourceURLs": ["*"], "verbs": ["*"] },
            ]),
        };
        account.make(&self.client, doing).await?;
        self.bind_administrators().await?;
        account.token(&self.client, doing).await
    }

    /// The binding of [`names::ADMINS_GROUP`]. One that is there already, made by whomever, stays as it is and is not ours to remove.
    async fn bind_administrators(&self) -> Result<(), Problem> {
        let bindings: Api<ClusterRoleBinding> = Api::all(self.client.clone());
        let binding: ClusterRoleBinding = serde_json::from_value(json!({
            "metadata": { "name": names::ADMINS_BINDING, "labels": { names::LABEL_KUBESPHERE_MANAGED: "true" } },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": names::ADMINS_GROUP }],
        }))
        .map_err(|error| Problem::new("Internal", error.to_string()))?;
        let doing = "the administrators' group cannot be bound";
        match step(doing, bindings.get_opt(names::ADMINS_BINDING)).await? {
            Some(_) => Ok(()),
            None => match bindings.create(&PostParams::default(), &binding).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                outcome => outcome.map(|_| ()).map_err(|error| Problem::from_client(doing, &error)),
            },
        }
    }
}

/// Removes what [`Remote::join`] made, but for the namespace, in which there may be things of others. Workloads are left alone.
pub(crate) async fn leave(client: &Client, cluster: &str) -> Result<(), Problem> {
    account::remove(client, &names::service_account(cluster), &names::cluster_role(cluster)).await?;
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let ours = step("clean-up", bindings.get_opt(names::ADMINS_BINDING)).await?.is_some_and(|binding| {
        binding.metadata.labels.is_some_and(|labels| labels.contains_key(names::LABEL_KUBESPHERE_MANAGED))
    });
    if ours {
        delete::<ClusterRoleBinding>(&bindings, names::ADMINS_BINDING).await?;
    }
    Ok(())
}

/// Server-side apply, which changes nothing where nothing is to be changed.
pub(crate) async fn apply<K>(api: &Api<K>, doing: &str, name: &str, object: Value) -> Result<K, Problem>
where
    K: Clone + DeserializeOwned + std::fmt::Debug + Serialize,
{
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    step(doing, api.patch(name, &parameters, &Patch::Apply(object))).await
}

/// Deletes an object that may be gone already.
pub(crate) async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), Problem>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let parameters = DeleteParams::default();
    let work = async {
        match api.delete(name, &parameters).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            outcome => outcome.map(|_| ()),
        }
    };
    step("clean-up", work).await
}

/// How many nodes a cluster has, without reading them: the server counts those it left out.
pub(crate) async fn count_nodes(client: Client) -> Option<i32> {
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(client);
    let mut parameters = ListParams::default().limit(1);
    let mut count = 0;
    loop {
        let page = tokio::time::timeout(STEP, nodes.list(&parameters)).await.ok()?.ok()?;
        count += i32::try_from(page.items.len()).ok()?;
        if let Some(remaining) = page.metadata.remaining_item_count {
            return Some(count.saturating_add(i32::try_from(remaining).ok()?));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            None => return Some(count),
            Some(token) => parameters = ListParams::default().limit(500).continue_token(&token),
        }
    }
}
