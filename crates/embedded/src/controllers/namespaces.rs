//! Namespaces: what each one is furnished with, and how one ends.

use std::{collections::BTreeMap, time::Duration};

use hansa_machinery::Status;
use serde_json::{Value, json};

use crate::{
    DeleteOptions, Server,
    api::metadata,
    local::{Change, Local, Select},
};

/// How long to wait before looking again at a namespace whose objects have finalizers.
const AGAIN: Duration = Duration::from_millis(250);

/// Empties namespaces that are being deleted, then lets them go.
pub(crate) async fn run(server: Server) {
    let local = server.local().as_manager("kube-controller-manager");
    loop {
        if let Err(error) = follow(&local).await {
            tracing::warn!(%error, "namespaces: trying again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn follow(local: &Local) -> Result<(), Status> {
    let everything = Select::default();
    let (entries, revision) = local.entries("namespaces", "", &everything)?;
    let mut ending: Vec<String> =
        entries.iter().filter(|e| e.facts.deleting).map(|e| e.key.name.clone()).collect();
    let mut changes = local.watch("namespaces", "", &everything, revision)?;
    loop {
        let mut left = Vec::new();
        for name in ending {
            if !finish(local, &name).await? {
                left.push(name);
            }
        }
        ending = left;
        let change = if ending.is_empty() {
            Some(changes.next().await)
        } else {
            tokio::time::timeout(AGAIN, changes.next()).await.ok()
        };
        match change {
            Some(Ok(Change::Added(entry) | Change::Modified(entry)))
                if entry.facts.deleting && !ending.contains(&entry.key.name) =>
            {
                ending.push(entry.key.name.clone());
            }
            Some(Err(_)) => return Ok(()),
            _ => {}
        }
    }
}

/// Deletes what is left in a namespace; tells whether the namespace is done with.
async fn finish(local: &Local, name: &str) -> Result<bool, Status> {
    let namespace = match local.get("namespaces", "", name) {
        Ok(namespace) => namespace,
        Err(status) if status.code == 404 => return Ok(true),
        Err(status) => return Err(status),
    };
    if !metadata::is_deleting(&namespace) {
        return Ok(true);
    }
    let Content { remaining, finalizers } = empty(local, name).await?;
    let updated = with_conditions(&namespace, &remaining, &finalizers, &metadata::now());
    let result = if remaining.is_empty() {
        let mut done = updated;
        let kept =
            done["spec"]["finalizers"].as_array().into_iter().flatten().filter(|f| **f != "kubernetes");
        done["spec"]["finalizers"] = kept.cloned().collect::<Vec<_>>().into();
        local.update_subresource("namespaces", "finalize", "", done).await
    } else if updated != namespace {
        local.update_status("namespaces", "", updated).await
    } else {
        return Ok(false);
    };
    match result {
        Ok(_) => Ok(remaining.is_empty()),
        Err(status) if status.code == 404 => Ok(true),
        // Changed in between: look again.
        Err(status) if status.code == 409 => Ok(false),
        Err(status) => Err(status),
    }
}

struct Content {
    /// How many objects of which resource are left.
    remaining: BTreeMap<String, usize>,
    /// Which finalizers keep how many of them.
    finalizers: BTreeMap<String, usize>,
}

async fn empty(local: &Local, namespace: &str) -> Result<Content, Status> {
    let catalogue = local.server().registry().catalogue();
    let mut content = Content { remaining: BTreeMap::new(), finalizers: BTreeMap::new() };
    for resource in catalogue.all_stored().filter(|r| r.namespaced) {
        let (entries, _) = local.entries(&resource.storage, namespace, &Select::default())?;
        for entry in entries {
            if !entry.facts.deleting {
                let options = DeleteOptions {
                    uid: Some(entry.facts.uid.clone()),
                    propagation: Some(crate::Propagation::Background),
                    ..DeleteOptions::default()
                };
                match local.delete(&resource.storage, namespace, &entry.key.name, &options).await {
                    Ok(_) => {}
                    Err(status) if matches!(status.code, 404 | 409) => {}
                    Err(status) => return Err(status),
                }
            }
            if let Ok(object) = local.get(&resource.storage, namespace, &entry.key.name) {
                *content.remaining.entry(resource.storage.to_string()).or_default() += 1;
                for finalizer in metadata::finalizers(&object) {
                    *content.finalizers.entry(finalizer.to_owned()).or_default() += 1;
                }
            }
        }
    }
    Ok(content)
}

/// The namespace with the conditions that tell how far its end is (`NamespaceDeletion…`).
fn with_conditions(
    namespace: &Value,
    remaining: &BTreeMap<String, usize>,
    finalizers: &BTreeMap<String, usize>,
    now: &str,
) -> Value {
    let listed = |counts: &BTreeMap<String, usize>, unit: &str| -> String {
        counts
            .iter()
            .map(|(what, count)| format!("{what} {unit} {count} resource instances"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (content, finalizing);
    let mut updated = namespace.clone();
    for (kind, status, reason, message) in [
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        if remaining.is_empty() {
            ("NamespaceContentRemaining", "False", "ContentRemoved", "All content successfully removed")
        } else {
            content = format!("Some resources are remaining: {}", listed(remaining, "has"));
            ("NamespaceContentRemaining", "True", "SomeResourcesRemain", content.as_str())
        },
        if finalizers.is_empty() {
            (
                "NamespaceFinalizersRemaining",
                "False",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            )
        } else {
            finalizing = format!(
                "Some content in the namespace has finalizers remaining: {}",
                listed(finalizers, "in")
            );
            ("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", finalizing.as_str())
        },
    ] {
        let mut conditions = updated["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let since = conditions
            .iter()
            .find(|c| c["type"] == kind && c["status"] == status)
            .map_or_else(|| now.into(), |c| c["lastTransitionTime"].clone());
        let condition = json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since});
        match conditions.iter_mut().find(|c| c["type"] == kind) {
            Some(slot) => *slot = condition,
            None => conditions.push(condition),
        }
        updated["status"]["conditions"] = conditions.into();
    }
    updated
}

/// Gives every namespace the default ServiceAccount and the cluster's certificate authority, and gives them back when
/// somebody takes them away.
pub(crate) async fn furnish(server: Server) {
    let local = server.local().as_manager("kube-controller-manager");
    loop {
        if let Err(error) = furnish_all(&local).await {
            tracing::warn!(%error, "namespace contents: trying again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn furnish_all(local: &Local) -> Result<(), Status> {
    let everything = Select::default();
    let authority = Select { fields: "metadata.name=kube-root-ca.crt".to_owned(), ..Select::default() };
    let account = Select { fields: "metadata.name=default".to_owned(), ..Select::default() };
    let (entries, revision) = local.entries("namespaces", "", &everything)?;
    let mut namespaces = local.watch("namespaces", "", &everything, revision)?;
    let mut authorities = local.watch("configmaps", "", &authority, revision)?;
    let mut accounts = local.watch("serviceaccounts", "", &account, revision)?;
    for entry in entries {
        if !entry.facts.deleting {
            furnish_one(local, &entry.key.name).await?;
        }
    }
    loop {
        let namespace = tokio::select! {
            change = namespaces.next() => match change {
                Ok(Change::Added(entry)) => entry.key.name.clone(),
                Ok(_) => continue,
                Err(_) => return Ok(()),
            },
            change = authorities.next() => match change {
                Ok(Change::Added(_)) => continue,
                Ok(change) => change.entry().key.namespace.clone(),
                Err(_) => return Ok(()),
            },
            change = accounts.next() => match change {
                Ok(Change::Deleted(entry)) => entry.key.namespace.clone(),
                Ok(_) => continue,
                Err(_) => return Ok(()),
            },
        };
        furnish_one(local, &namespace).await?;
    }
}

async fn furnish_one(local: &Local, namespace: &str) -> Result<(), Status> {
    // A namespace that ends, or is gone already, gets nothing new.
    match local.entry("namespaces", "", namespace) {
        Some(entry) if !entry.facts.deleting => {}
        _ => return Ok(()),
    }
    if local.entry("serviceaccounts", namespace, "default").is_none() {
        settle(local.create("serviceaccounts", namespace, json!({"metadata": {"name": "default"}})).await)?;
    }
    let certificate = local.server().ca_pem();
    let map = json!({
        "metadata": {
            "name": "kube-root-ca.crt",
            "annotations": {
                "kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using \
                                              internal endpoints such as the internal service IP or \
                                              kubernetes.default.svc. No other usage is guaranteed across distributions of \
                                              Kubernetes clusters.",
            },
        },
        "data": {"ca.crt": certificate},
    });
    match local.get("configmaps", namespace, "kube-root-ca.crt") {
        Ok(found) if found["data"] == map["data"] => Ok(()),
        Ok(_) => settle(local.update("configmaps", namespace, map).await),
        Err(status) if status.code == 404 => settle(local.create("configmaps", namespace, map).await),
        Err(status) => Err(status),
    }
}

/// Others may be as fast, and the namespace may end at any time.
fn settle(result: Result<Value, Status>) -> Result<(), Status> {
    match result {
        Err(status) if matches!(status.code, 403 | 404 | 409) => Ok(()),
        other => other.map(drop),
    }
}
