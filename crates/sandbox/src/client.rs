//! The API server as the controllers use it.

use hansa_embedded::{
    DeleteOptions, Local, PatchKind, Propagation, Server,
    local::{self, Changes, Select},
};
use hansa_machinery::Status;
use serde_json::{Value, json};

use crate::object::Key;

/// Who the controllers are in `managedFields`.
const MANAGER: &str = "kube-controller-manager";

/// Why a controller could not go on; it tries again later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused.
    #[error("{what}: {status}")]
    Api { what: String, status: Box<Status> },
    /// The cache of this resource does not show what was written.
    #[error("the cache of {0} is behind")]
    Behind(&'static str),
    /// A watch ended.
    #[error("the watch of {resource} ended: {why}")]
    Ended { resource: &'static str, why: String },
}

impl Error {
    pub(crate) fn of(what: impl Into<String>, status: Status) -> Self {
        Self::Api { what: what.into(), status: Box::new(status) }
    }

    pub(crate) fn is_reason(&self, reason: &str) -> bool {
        matches!(self, Self::Api { status, .. } if status.reason == reason)
    }

    /// Whether it is part of several writers working at once.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Api { status, .. } => {
                matches!(status.reason, "Conflict" | "NotFound" | "AlreadyExists" | "Expired")
            }
            Self::Behind(_) | Self::Ended { .. } => true,
        }
    }
}

/// How an object is to be deleted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deletion<'a> {
    /// Only the object of this UID.
    pub(crate) uid: Option<&'a str>,
    /// Seconds until it must be gone.
    pub(crate) grace: Option<i64>,
    /// What happens to its dependents, if not what is usual.
    pub(crate) propagation: Option<Propagation>,
}

/// One event of a watch.
#[derive(Debug)]
pub(crate) enum Change {
    Put(Value),
    Gone(Value),
}

/// A watch of all objects of a resource.
pub(crate) struct Watch {
    resource: &'static str,
    changes: Changes,
}

impl Watch {
    pub(crate) async fn next(&mut self) -> Result<Change, Error> {
        let ended = |why: String| Error::Ended { resource: self.resource, why };
        let change = self.changes.next().await.map_err(|e| ended(e.to_string()))?;
        let object = serde_json::from_slice(&change.entry().object).map_err(|e| ended(e.to_string()))?;
        Ok(match change {
            local::Change::Added(_) | local::Change::Modified(_) => Change::Put(object),
            local::Change::Deleted(_) => Change::Gone(object),
        })
    }
}

/// A client in the same process.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    local: Local,
}

fn place(object: &Value) -> String {
    crate::object::key(object).namespace
}

impl Client {
    pub(crate) fn new(server: &Server) -> Self {
        Self { local: server.local().as_manager(MANAGER) }
    }

    pub(crate) fn get(&self, resource: &str, key: &Key) -> Result<Option<Value>, Error> {
        match self.local.get(resource, &key.namespace, &key.name) {
            Ok(object) => Ok(Some(object)),
            Err(status) if status.code == 404 => Ok(None),
            Err(status) => Err(Error::of(format!("getting {resource} {key}"), status)),
        }
    }

    /// All objects, and the revision to watch from.
    pub(crate) fn list(&self, resource: &str) -> Result<(Vec<Value>, u64), Error> {
        let list = self.local.list(resource, "", &Select::default());
        let list = list.map_err(|status| Error::of(format!("listing {resource}"), status))?;
        Ok((list.items, list.revision))
    }

    pub(crate) fn watch(&self, resource: &'static str, from: u64) -> Result<Watch, Error> {
        let changes = self.local.watch(resource, "", &Select::default(), from);
        let changes = changes.map_err(|status| Error::of(format!("watching {resource}"), status))?;
        Ok(Watch { resource, changes })
    }

    pub(crate) async fn create(&self, resource: &str, object: Value) -> Result<Value, Error> {
        let what = || format!("creating one of {resource}");
        self.local.create(resource, &place(&object), object).await.map_err(|status| Error::of(what(), status))
    }

    /// Writes an object, if nobody else did since it was read.
    pub(crate) async fn replace(&self, resource: &str, object: Value) -> Result<Value, Error> {
        let what = format!("updating {resource} {}", crate::object::key(&object));
        self.local.update(resource, &place(&object), object).await.map_err(|status| Error::of(what, status))
    }

    /// Writes an object's status, if nobody else wrote the object since it was read.
    pub(crate) async fn replace_status(&self, resource: &str, object: Value) -> Result<Value, Error> {
        let what = format!("updating the status of {resource} {}", crate::object::key(&object));
        self.local
            .update_status(resource, &place(&object), object)
            .await
            .map_err(|status| Error::of(what, status))
    }

    pub(crate) async fn merge(&self, resource: &str, key: &Key, patch: &Value) -> Result<Value, Error> {
        let patched =
            self.local.patch(resource, "", &key.namespace, &key.name, PatchKind::Merge, patch.clone()).await;
        patched.map_err(|status| Error::of(format!("patching {resource} {key}"), status))
    }

    /// Deletes an object; that there is none (any more) is as good.
    pub(crate) async fn delete(&self, resource: &str, key: &Key, how: Deletion<'_>) -> Result<(), Error> {
        let mut options = DeleteOptions::default();
        options.grace_period_seconds = how.grace;
        options.propagation = how.propagation;
        options.uid = how.uid.map(str::to_owned);
        match self.local.delete(resource, &key.namespace, &key.name, &options).await {
            Ok(_) => Ok(()),
            Err(status) if status.code == 404 => Ok(()),
            Err(status) => Err(Error::of(format!("deleting {resource} {key}"), status)),
        }
    }

    /// Puts a Pod on a node.
    pub(crate) async fn bind(&self, key: &Key, uid: &str, node: &str) -> Result<(), Error> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let bound = self.local.create("bindings", &key.namespace, binding).await;
        bound.map(drop).map_err(|status| Error::of(format!("binding {key} to {node}"), status))
    }
}
