//! One authorised request for API objects, and what it is answered with.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hansa_machinery::Status;
use serde_json::{Value, json};

use super::query::Query;
use crate::{
    auth::User,
    registry::{Catalogue, Resource},
    server::Server,
    store::{Entry, Key},
};

/// One authorised request for API objects. HTTP requests and in-process callers meet here.
pub(crate) struct Call {
    pub(crate) server: Server,
    pub(crate) user: User,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) query: Query,
    pub(crate) user_agent: String,
    /// Whether no admission webhook is asked about it.
    pub(crate) unasked: bool,
    /// Warnings for the caller, to be sent as headers.
    pub(crate) warnings: Mutex<Vec<String>>,
}

/// What a request for API objects is answered with.
pub(crate) enum Answer {
    /// One object.
    Object { code: u16, object: Payload },
    /// A list.
    List(List),
    /// `Status` of success, or any other object that no caller wants in another shape.
    Plain { code: u16, value: Value },
    /// A stream of events.
    Watch(Box<super::watch::Watching>),
}

/// An object: as stored, or made for this answer.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Stored(Bytes),
    Made(Value),
}

impl Payload {
    /// The object, parsed.
    pub(crate) fn into_value(self) -> Result<Value, Status> {
        match self {
            Self::Stored(bytes) => parse(&bytes),
            Self::Made(value) => Ok(value),
        }
    }

    /// The object, encoded.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Stored(bytes) => bytes,
            Self::Made(value) => value.to_string().into(),
        }
    }
}

/// A page of a list.
pub(crate) struct List {
    pub(crate) items: Vec<Payload>,
    pub(crate) revision: u64,
    pub(crate) next: Option<String>,
    pub(crate) remaining: Option<u64>,
}

impl Answer {
    pub(crate) fn ok(object: Payload) -> Self {
        Self::Object { code: 200, object }
    }

    pub(crate) fn made(code: u16, value: Value) -> Self {
        Self::Object { code, object: Payload::Made(value) }
    }

    /// The answer as one JSON value; a watch has none.
    pub(crate) fn into_value(self) -> Result<Value, Status> {
        match self {
            Self::Object { object, .. } => object.into_value(),
            Self::Plain { value, .. } => Ok(value),
            Self::List(list) => {
                let items = list.items.into_iter().map(Payload::into_value).collect::<Result<Vec<_>, _>>()?;
                Ok(json!({"items": items, "metadata": {"resourceVersion": list.revision.to_string()}}))
            }
            Self::Watch(_) => Err(Status::internal("a watch has no single answer")),
        }
    }
}

impl Call {
    /// The key of the object the URL names.
    pub(crate) fn key(&self) -> Key {
        self.key_of(&self.name)
    }

    /// The key of another object of the same resource and namespace.
    pub(crate) fn key_of(&self, name: &str) -> Key {
        let namespace = if self.resource.namespaced { self.namespace.clone() } else { String::new() };
        Key { resource: self.resource.storage.clone(), namespace, name: name.to_owned() }
    }

    /// The object the URL names.
    pub(crate) fn entry(&self) -> Result<Arc<Entry>, Status> {
        self.server.store().get(&self.key()).ok_or_else(|| self.not_found(&self.name))
    }

    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.resource.group, &self.resource.name, name)
    }

    pub(crate) fn conflict(&self, why: &str) -> Status {
        Status::conflict(&self.resource.group, &self.resource.name, &self.name, why)
    }

    /// Tells the caller something that does not stop the request.
    pub(crate) fn warn(&self, warning: impl Into<String>) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning.into());
    }

    /// The stored object as this request's version of the resource shows it.
    pub(crate) fn show(&self, entry: &Entry) -> Result<Payload, Status> {
        super::convert::show(&self.resource, entry)
    }
}

/// Parses what the store holds.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes)
        .map_err(|e| Status::internal(format!("a stored object does not parse: {e}")))
}
