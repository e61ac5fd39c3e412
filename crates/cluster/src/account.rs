//! A ServiceAccount of the control plane with its rights and its token: one on each member, and one on the host for each member behind the tower.

use std::time::Duration;

use hansa_api::names;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::remote::{Problem, apply, delete, step};

/// How long the cluster may take to issue the token.
const TOKEN: Duration = Duration::from_secs(30);

/// A ServiceAccount in the system namespace.
pub(crate) struct Account {
    /// Its name, and that of the Secret with its token.
    pub(crate) name: String,
    /// The name of its ClusterRole and its ClusterRoleBinding.
    pub(crate) role: String,
    /// What it may do.
    pub(crate) rules: Value,
}

impl Account {
    /// Makes it and its rights, where they are not there as they should be. `doing` says what failed if that fails.
    pub(crate) async fn make(&self, client: &Client, doing: &str) -> Result<(), Problem> {
        let (account, role, namespace) = (&self.name, &self.role, names::SYSTEM_NAMESPACE);
        let meta =
            |name: &str| json!({ "name": name, "labels": { names::LABEL_KUBESPHERE_MANAGED: "true" } });
        apply::<ServiceAccount>(
            &Api::namespaced(client.clone(), namespace),
            doing,
            account,
            json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(account),
                "automountServiceAccountToken": false,
            }),
        )
        .await?;
        apply::<ClusterRole>(
            &Api::all(client.clone()),
            doing,
            role,
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": meta(role),
                "rules": self.rules,
            }),
        )
        .await?;
        apply::<ClusterRoleBinding>(
            &Api::all(client.clone()),
            doing,
            role,
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": meta(role),
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
                "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace }],
            }),
        )
        .await?;
        Ok(())
    }

    /// Its token, for which the cluster's token controller is waited for.
    pub(crate) async fn token(&self, client: &Client, doing: &str) -> Result<String, Problem> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {
                "name": self.name,
                "labels": { names::LABEL_KUBESPHERE_MANAGED: "true" },
                "annotations": { "kubernetes.io/service-account.name": self.name },
            },
        });
        apply::<Secret>(&secrets, doing, &self.name, secret).await?;
        let deadline = Instant::now() + TOKEN;
        let mut pause = Duration::from_millis(10);
        loop {
            if let Some(token) = token(client, &self.name).await? {
                return Ok(token);
            }
            if Instant::now() >= deadline {
                return Err(Problem::new(
                    "TokenNotIssued",
                    format!(
                        "the cluster issued no token for ServiceAccount {}/{} within {TOKEN:?}; check that its kube-controller-manager runs",
                        names::SYSTEM_NAMESPACE,
                        self.name
                    ),
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

/// The token of the ServiceAccount `name`, if it has been issued.
pub(crate) async fn token(client: &Client, name: &str) -> Result<Option<String>, Problem> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let secret = step("the token of the ServiceAccount cannot be read", secrets.get_opt(name)).await?;
    let token = secret.and_then(|secret| secret.data).and_then(|mut data| data.remove("token"));
    Ok(token.and_then(|token| String::from_utf8(token.0).ok()).filter(|token| !token.is_empty()))
}

/// Removes what [`Account::make`] and [`Account::token`] made; its rights go first.
pub(crate) async fn remove(client: &Client, name: &str, role: &str) -> Result<(), Problem> {
    let namespace = names::SYSTEM_NAMESPACE;
    delete::<ClusterRoleBinding>(&Api::all(client.clone()), role).await?;
    delete::<ClusterRole>(&Api::all(client.clone()), role).await?;
    delete::<Secret>(&Api::namespaced(client.clone(), namespace), name).await?;
    delete::<ServiceAccount>(&Api::namespaced(client.clone(), namespace), name).await
}
