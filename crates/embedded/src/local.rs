//! A client in the same process: the same pipeline as requests over HTTP (defaults, admission, validation, field
//! managers), with all rights and without encoding.

use std::sync::{Arc, Mutex};

use hansa_machinery::Status;
use serde_json::Value;

use crate::{
    api::{
        call::{Answer, Call, List as Listed},
        decode::Document,
        list::Selection,
        options::{DeleteOptions, FieldValidation, WriteOptions},
        patch::PatchKind,
        query::Query,
        watch::{Frame, transition},
    },
    auth::User,
    registry::Resource,
    server::Server,
    store::{Entry, Watch, WatchError},
};

/// An in-process client with all rights; clones share the server. Resources are named as they are stored: `pods`,
/// `deployments.apps`. The namespace is empty for cluster-scoped resources and for all namespaces.
#[derive(Clone, Debug)]
pub struct Local {
    server: Server,
    manager: String,
}

/// A list and the revision it shows: watch from there.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// The objects.
    pub items: Vec<Value>,
    /// The revision.
    pub revision: u64,
}

/// Which objects a list or watch is about.
#[derive(Clone, Debug, Default)]
pub struct Select {
    /// A label selector; empty for all.
    pub labels: String,
    /// A field selector; empty for all.
    pub fields: String,
}

/// What happened to a watched object.
#[derive(Clone, Debug)]
pub enum Change {
    /// It appeared.
    Added(Arc<Entry>),
    /// It changed.
    Modified(Arc<Entry>),
    /// It is gone, or left the selection; its last state.
    Deleted(Arc<Entry>),
}

impl Change {
    /// The object, as stored.
    pub fn entry(&self) -> &Arc<Entry> {
        match self {
            Self::Added(entry) | Self::Modified(entry) | Self::Deleted(entry) => entry,
        }
    }
}

/// A watch of one resource.
pub struct Changes {
    watch: Watch,
    selection: Selection,
    resource: Arc<Resource>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("resource", &self.resource.storage).finish_non_exhaustive()
    }
}

impl Changes {
    /// The next change. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the watch was too slow (list and watch again), or the server is closed.
    pub async fn next(&mut self) -> Result<Change, WatchError> {
        loop {
            let event = self.watch.next().await?;
            let (selection, resource) = (&self.selection, &self.resource);
            match transition(&event, |entry| selection.matches(resource, entry)) {
                Some(Frame::Added(entry)) => return Ok(Change::Added(entry)),
                Some(Frame::Modified(entry)) => return Ok(Change::Modified(entry)),
                Some(Frame::Deleted(entry) | Frame::Left(entry, _)) => return Ok(Change::Deleted(entry)),
                None => {}
            }
        }
    }
}

impl Local {
    pub(crate) fn new(server: Server) -> Self {
        Self { server, manager: "hansa".to_owned() }
    }

    /// The same client writing as this field manager.
    #[must_use]
    pub fn as_manager(&self, manager: impl Into<String>) -> Self {
        Self { server: self.server.clone(), manager: manager.into() }
    }

    /// The server this client talks to.
    pub fn server(&self) -> &Server {
        &self.server
    }

    fn call(&self, resource: &str, subresource: &str, namespace: &str, name: &str) -> Result<Call, Status> {
        let catalogue = self.server.registry().catalogue();
        let found = catalogue.stored(resource).cloned().ok_or_else(Status::no_such_resource)?;
        Ok(Call {
            server: self.server.clone(),
            user: User::local(),
            catalogue,
            namespace: if found.namespaced { namespace.to_owned() } else { String::new() },
            resource: found,
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            query: Query::default(),
            user_agent: self.manager.clone(),
            unasked: false,
            warnings: Mutex::default(),
        })
    }

    fn options(&self) -> WriteOptions {
        WriteOptions {
            manager: self.manager.clone(),
            validation: FieldValidation::Ignore,
            ..WriteOptions::default()
        }
    }

    /// One object.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        self.call(resource, "", namespace, name)?.get()?.into_value()
    }

    /// One object as it is stored, unparsed.
    pub fn entry(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.call(resource, "", namespace, name).ok()?.entry().ok()
    }

    /// The selected objects.
    ///
    /// # Errors
    /// When the resource or a selector is not known.
    pub fn list(&self, resource: &str, namespace: &str, select: &Select) -> Result<List, Status> {
        let call = self.selecting(resource, namespace, select)?;
        match call.list()? {
            Answer::List(Listed { items, revision, .. }) => {
                let items = items.into_iter().map(|item| item.into_value()).collect::<Result<_, _>>()?;
                Ok(List { items, revision })
            }
            _ => Ok(List::default()),
        }
    }

    /// The selected objects as they are stored, unparsed, and the revision this shows.
    ///
    /// # Errors
    /// As [`Local::list`].
    pub fn entries(
        &self,
        resource: &str,
        namespace: &str,
        select: &Select,
    ) -> Result<(Vec<Arc<Entry>>, u64), Status> {
        let call = self.selecting(resource, namespace, select)?;
        let selection = Selection::parse(&call.query, &call.resource)?;
        let (entries, revision, ..) = call.select(&selection, 0)?;
        Ok((entries, revision))
    }

    fn selecting(&self, resource: &str, namespace: &str, select: &Select) -> Result<Call, Status> {
        let mut call = self.call(resource, "", namespace, "")?;
        call.query =
            Query::of([("labelSelector", select.labels.clone()), ("fieldSelector", select.fields.clone())]);
        Ok(call)
    }

    /// The changes after a revision.
    ///
    /// # Errors
    /// 410 when the history does not reach back so far; otherwise as [`Local::list`].
    pub fn watch(
        &self,
        resource: &str,
        namespace: &str,
        select: &Select,
        from: u64,
    ) -> Result<Changes, Status> {
        let call = self.selecting(resource, namespace, select)?;
        let selection = Selection::parse(&call.query, &call.resource)?;
        let watch = self.server.store().watch(call.resource.storage.clone(), call.scope(), from);
        let watch = watch.map_err(|gone| crate::api::list::expired(gone.requested, gone.oldest))?;
        Ok(Changes { watch, selection, resource: call.resource.clone() })
    }

    /// Creates an object.
    ///
    /// # Errors
    /// As the API.
    pub async fn create(&self, resource: &str, namespace: &str, object: Value) -> Result<Value, Status> {
        let call = self.call(resource, "", namespace, "")?;
        let document = Document { value: object, duplicates: Vec::new() };
        call.create_any(document, &self.options()).await?.into_value()
    }

    /// Replaces an object. Its name is taken from it.
    ///
    /// # Errors
    /// As the API: 409 when the object has a resource version that is not the live one.
    pub async fn update(&self, resource: &str, namespace: &str, object: Value) -> Result<Value, Status> {
        self.update_subresource(resource, "", namespace, object).await
    }

    /// Replaces an object's status.
    ///
    /// # Errors
    /// As [`Local::update`].
    pub async fn update_status(
        &self,
        resource: &str,
        namespace: &str,
        object: Value,
    ) -> Result<Value, Status> {
        self.update_subresource(resource, "status", namespace, object).await
    }

    /// Replaces what a subresource shows.
    ///
    /// # Errors
    /// As [`Local::update`].
    pub async fn update_subresource(
        &self,
        resource: &str,
        subresource: &str,
        namespace: &str,
        object: Value,
    ) -> Result<Value, Status> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let call = self.call(resource, subresource, namespace, &name)?;
        let document = Document { value: object, duplicates: Vec::new() };
        match subresource {
            "scale" => call.update_scale(document, &self.options()).await?.into_value(),
            _ => call.update(document, &self.options()).await?.into_value(),
        }
    }

    /// Patches an object, or what a subresource shows.
    ///
    /// # Errors
    /// As the API.
    pub async fn patch(
        &self,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
        kind: PatchKind,
        patch: Value,
    ) -> Result<Value, Status> {
        let call = self.call(resource, subresource, namespace, name)?;
        let document = Document { value: patch, duplicates: Vec::new() };
        let options = WriteOptions { force: kind == PatchKind::Apply, ..self.options() };
        match subresource {
            "scale" => call.patch_scale(kind, document, &options).await?.into_value(),
            _ => call.patch(kind, document, options).await?.into_value(),
        }
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// As the API: 404 when there is none, 409 when a precondition does not hold.
    pub async fn delete(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value, Status> {
        self.call(resource, "", namespace, name)?.delete(options).await?.into_value()
    }
}
