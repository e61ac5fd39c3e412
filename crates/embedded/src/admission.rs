//! What stands between a decoded object and the store, besides validation: namespaces, rights, shared resources.

use hansa_machinery::{Status, status::Cause};
use serde_json::Value;

use crate::{
    api::{call::Call, metadata},
    auth::{
        Write,
        rbac::{Attributes, Target},
    },
    registry::custom,
    services::Lease,
    store::Key,
};

/// Namespaces that are never deleted (`NamespaceLifecycle`).
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// Whether objects may be created here at all.
pub(crate) fn check_create(call: &Call, object: &Value) -> Result<(), Status> {
    check_namespace(call, object["metadata"]["name"].as_str().unwrap_or_default())?;
    if call.resource.custom.as_ref().is_some_and(|c| c.terminating) {
        return Err(Status::method_not_allowed(&call.resource.group, &call.resource.name, "create"));
    }
    Ok(())
}

/// Fills in what the server knows about a new object. The lease must be kept once the object is stored.
pub(crate) fn prepare_create<'a>(call: &'a Call, object: &mut Value) -> Result<Option<Lease<'a>>, Status> {
    allocate(call, object, None)
}

/// Allocates what an updated object needs anew.
pub(crate) fn prepare_update<'a>(
    call: &'a Call,
    object: &mut Value,
    live: &Value,
) -> Result<Option<Lease<'a>>, Status> {
    if call.subresource.is_empty() { allocate(call, object, Some(live)) } else { Ok(None) }
}

fn allocate<'a>(
    call: &'a Call,
    object: &mut Value,
    live: Option<&Value>,
) -> Result<Option<Lease<'a>>, Status> {
    if &*call.resource.storage != "services" {
        return Ok(None);
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let lease = call.server.inner().services.allocate(object, live);
    lease.map(Some).map_err(|causes| call.invalid(&name, causes))
}

/// What an update or deletion freed can be used by others.
pub(crate) fn freed(call: &Call, live: &Value, new: Option<&Value>) {
    if &*call.resource.storage == "services" {
        match new {
            Some(new) => call.server.inner().services.release_difference(live, new),
            None => call.server.inner().services.release(live),
        }
    }
}

/// Whether the writer may write this: nobody gives away rights they do not hold, and an update or patch that creates
/// needs the right to create.
pub(crate) fn admit(call: &Call, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    if old.is_none() && !call.name.is_empty() {
        let target = Target::Resource {
            group: &call.resource.group,
            resource: &call.resource.name,
            subresource: &call.subresource,
            namespace: &call.namespace,
            name: &call.name,
        };
        call.server.auth().authorize(&Attributes { user: &call.user, verb: "create", target })?;
    }
    call.server.auth().admit(&write(call, new, old))
}

/// Puts into an object what the server knows about its writer.
pub(crate) fn prepare(call: &Call, object: &mut Value, old: Option<&Value>) {
    if let Some(prepared) = call.server.auth().prepare(&write(call, object, old)) {
        *object = prepared;
    }
}

fn write<'a>(call: &'a Call, new: &'a Value, old: Option<&'a Value>) -> Write<'a> {
    Write {
        user: &call.user,
        group: &call.resource.group,
        resource: &call.resource.name,
        subresource: &call.subresource,
        namespace: &call.namespace,
        name: if old.is_some() { &call.name } else { "" },
        new,
        old,
    }
}

/// Objects are created only in a namespace that exists and is to stay.
fn check_namespace(call: &Call, name: &str) -> Result<(), Status> {
    if !call.resource.namespaced {
        return Ok(());
    }
    let key = Key::new("namespaces", "", call.namespace.as_str());
    let Some(entry) = call.server.store().get(&key) else {
        return Err(Status::not_found("", "namespaces", &call.namespace));
    };
    if !entry.facts.deleting {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {} because it is being terminated",
        call.namespace
    );
    let mut status = Status::forbidden(&call.resource.group, &call.resource.name, name, &why);
    status.causes = vec![Cause {
        reason: "NamespaceTerminating",
        field: "metadata.namespace".into(),
        message: format!("namespace {} is being terminated", call.namespace),
    }];
    Err(status)
}

/// Refuses the deletion of what a cluster cannot do without.
pub(crate) fn admit_delete(call: &Call, name: &str) -> Result<(), Status> {
    if &*call.resource.storage == "namespaces" && IMMORTAL.contains(&name) {
        return Err(Status::forbidden("", "namespaces", name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// Whether an object that is being deleted goes when its last finalizer does: a Namespace has finalizers in its `spec`
/// as well.
pub(crate) fn may_vanish(call: &Call, object: &Value) -> bool {
    let finalizers = || object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    metadata::finalizers(object).is_empty() && (&*call.resource.storage != "namespaces" || finalizers())
}

/// What follows from a stored change before the answer goes out: a definition that its author can use at once.
pub(crate) fn written(call: &Call) {
    if &*call.resource.storage == custom::DEFINITIONS {
        crate::controllers::definitions::reload(&call.server);
    }
}
