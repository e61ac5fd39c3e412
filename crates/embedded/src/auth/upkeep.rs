//! What keeps the objects that security is about in order: the default policy, aggregated roles, tokens in Secrets,
//! certificate requests, and the serving certificate.

use std::{collections::HashMap, time::Duration};

use futures::FutureExt;
use hansa_machinery::Status;
use serde_json::{Value, json};

use super::{
    Auth, aggregation,
    bootstrap::{self, Change},
    certificates,
    rbac::{GROUP, Kind},
    token_secret::{self, Verdict},
};
use crate::{
    DeleteOptions, PatchKind, Server,
    local::{self, Changes, Local, Select},
    store::Entry,
};

/// How long a controller waits after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the serving certificate is looked at.
const RENEWAL: Duration = Duration::from_secs(6 * 3600);

/// Brings the default roles and bindings up to date. Writes nothing when they are.
///
/// # Errors
/// When an object cannot be written.
pub(crate) async fn bootstrap(server: &Server) -> Result<(), Status> {
    let local = server.local().as_manager("kube-apiserver");
    let mut existing = HashMap::new();
    for kind in Kind::ALL {
        let (entries, _) = local.entries(&resource(kind), "", &Select::default())?;
        for entry in entries {
            let key = (kind, entry.key.namespace.clone(), entry.key.name.clone());
            existing.insert(key, parse(&entry)?);
        }
    }
    let changes = bootstrap::changes(&existing)?;
    // All at once, so that they share commits.
    let written = changes.into_iter().map(|(kind, change)| write(&local, resource(kind), change));
    futures::future::try_join_all(written).await.map(drop)
}

fn resource(kind: Kind) -> String {
    format!("{}.{GROUP}", kind.resource())
}

async fn write(local: &Local, resource: String, change: Change) -> Result<(), Status> {
    let (Change::Create(object) | Change::Update(object) | Change::Recreate(object)) = &change;
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    match change {
        Change::Create(object) => local.create(&resource, &namespace, object).await?,
        Change::Update(object) => local.update(&resource, &namespace, object).await?,
        Change::Recreate(object) => {
            local.delete(&resource, &namespace, &name, &DeleteOptions::default()).await?;
            local.create(&resource, &namespace, object).await?
        }
    };
    Ok(())
}

/// Starts the controllers.
pub(crate) fn start(server: &Server) {
    server.spawn(again(server.clone(), "clusterrole-aggregation-controller", aggregate));
    server.spawn(again(server.clone(), "kube-controller-manager", keep_token_secrets));
    server.spawn(again(server.clone(), "kube-controller-manager", sign_requests));
    server.spawn(renew(server.auth().clone()));
}

/// Runs a controller for ever. It returns when it has lost track of changes.
async fn again<F: Future<Output = Result<(), Status>>>(
    server: Server,
    manager: &str,
    run: impl Fn(Local) -> F,
) {
    loop {
        if let Err(error) = run(server.local().as_manager(manager)).await {
            tracing::warn!(%error, "a security controller tries again");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn renew(auth: Auth) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        match auth.renew_serving_certificate().await {
            Ok(true) => tracing::info!("the serving certificate was renewed"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the serving certificate cannot be renewed"),
        }
    }
}

/// Follows ClusterRoles and lets aggregating ones gather.
async fn aggregate(local: Local) -> Result<(), Status> {
    let resource = resource(Kind::ClusterRole);
    loop {
        let (entries, revision) = local.entries(&resource, "", &Select::default())?;
        let roles = entries.iter().map(|entry| parse(entry)).collect::<Result<Vec<_>, _>>()?;
        let outdated = aggregation::outdated(roles.iter().filter_map(aggregation::Role::read).collect());
        let mut changes = local.watch(&resource, "", &Select::default(), revision)?;
        for (name, rules) in outdated {
            let patch = json!({
                "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
                "metadata": {"name": name}, "rules": rules,
            });
            local.patch(&resource, "", "", &name, PatchKind::Apply, patch).await?;
        }
        if settle(&mut changes).await.is_none() {
            return Ok(());
        }
    }
}

/// Waits for a change and takes those that come with it; `None` when the watch has ended.
async fn settle(changes: &mut Changes) -> Option<local::Change> {
    let mut last = changes.next().await.ok()?;
    while let Some(next) = changes.next().now_or_never() {
        last = next.ok()?;
    }
    Some(last)
}

/// Follows token Secrets and ServiceAccounts: fills the one, and lets them go with the other.
async fn keep_token_secrets(local: Local) -> Result<(), Status> {
    let tokens = Select { fields: format!("type={}", token_secret::TYPE), ..Select::default() };
    let (secrets, from) = local.entries("secrets", "", &tokens)?;
    let mut secret_changes = local.watch("secrets", "", &tokens, from)?;
    let mut account_changes = local.watch("serviceaccounts", "", &Select::default(), from)?;
    for secret in secrets {
        keep_token_secret(&local, &secret).await?;
    }
    loop {
        let (secret, namespace) = tokio::select! {
            change = secret_changes.next() => match change {
                Ok(local::Change::Added(entry) | local::Change::Modified(entry)) => (Some(entry), None),
                Ok(local::Change::Deleted(_)) => (None, None),
                Err(_) => return Ok(()),
            },
            change = account_changes.next() => match change {
                Ok(change) => (None, Some(change.entry().key.namespace.clone())),
                Err(_) => return Ok(()),
            },
        };
        if let Some(secret) = secret {
            keep_token_secret(&local, &secret).await?;
        }
        if let Some(namespace) = namespace {
            for secret in local.entries("secrets", &namespace, &tokens)?.0 {
                keep_token_secret(&local, &secret).await?;
            }
        }
    }
}

async fn keep_token_secret(local: &Local, entry: &Entry) -> Result<(), Status> {
    let (namespace, name) = (&entry.key.namespace, &entry.key.name);
    let auth = local.server().auth();
    let account =
        |account: &str| local.entry("serviceaccounts", namespace, account).map(|e| e.facts.uid.clone());
    let result = match token_secret::judge(&parse(entry)?, account, auth.ca_pem(), |account, uid| {
        auth.secret_token(namespace, name, account, uid)
    })? {
        Verdict::Keep => return Ok(()),
        Verdict::Fill(secret) => local.update("secrets", namespace, secret).await,
        Verdict::Delete => {
            let options = DeleteOptions { uid: Some(entry.facts.uid.clone()), ..DeleteOptions::default() };
            local.delete("secrets", namespace, name, &options).await
        }
    };
    unless_raced(result)
}

/// Follows certificate requests and signs those that are ours and approved.
async fn sign_requests(local: Local) -> Result<(), Status> {
    let resource = format!("{}.{}", certificates::RESOURCE, certificates::GROUP);
    let (requests, from) = local.entries(&resource, "", &Select::default())?;
    let mut changes = local.watch(&resource, "", &Select::default(), from)?;
    let mut open = requests;
    loop {
        for entry in open.drain(..) {
            let mut request = parse(&entry)?;
            if let Some(status) = local.server().auth().sign_request(&request) {
                request["status"] = status;
                unless_raced(local.update_status(&resource, "", request).await)?;
            }
        }
        match changes.next().await {
            Ok(local::Change::Added(entry) | local::Change::Modified(entry)) => open.push(entry),
            Ok(local::Change::Deleted(_)) => {}
            Err(_) => return Ok(()),
        }
    }
}

/// Whoever was faster made a change that comes to us as well.
fn unless_raced(result: Result<Value, Status>) -> Result<(), Status> {
    match result {
        Err(status) if status.code == 409 || status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

fn parse(entry: &Entry) -> Result<Value, Status> {
    serde_json::from_slice(&entry.object)
        .map_err(|e| Status::internal(format!("the stored {} does not parse: {e}", entry.key)))
}
