//! Versions of custom resources. Conversion strategy `None`: all versions show the same object, each with its own
//! `apiVersion` and through its own schema. Built-in resources have one version.

use std::borrow::Cow;

use hansa_machinery::{
    Status,
    structural::{self, Prune},
};
use serde::Deserialize;
use serde_json::Value;

use super::call::{Payload, parse};
use crate::{registry::Resource, store::Entry};

/// Whether the encoded object can be handed out in this version as it is: it was written in this version and through
/// the definition as it is now.
fn is_current(resource: &Resource, entry: &Entry) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head<'a> {
        #[serde(borrow)]
        api_version: Cow<'a, str>,
    }
    let Some(custom) = &resource.custom else { return true };
    let head = || serde_json::from_slice::<Head<'_>>(&entry.object);
    entry.revision > custom.since && head().is_ok_and(|head| head.api_version == resource.api_version())
}

/// A stored object as this version of the resource shows it.
pub(crate) fn show(resource: &Resource, entry: &Entry) -> Result<Payload, Status> {
    if is_current(resource, entry) {
        return Ok(Payload::Stored(entry.object.clone()));
    }
    show_value(resource, entry).map(Payload::Made)
}

/// The same, parsed.
pub(crate) fn show_value(resource: &Resource, entry: &Entry) -> Result<Value, Status> {
    let mut value = parse(&entry.object)?;
    if !is_current(resource, entry) {
        convert(resource, &mut value);
    }
    Ok(value)
}

/// Makes a parsed object one of this version: pruned and defaulted by the version's schema, as it is on every read.
pub(crate) fn convert(resource: &Resource, value: &mut Value) {
    let Some(custom) = &resource.custom else { return };
    value["apiVersion"] = resource.api_version().into();
    if let Some(schema) = &resource.schema {
        if !custom.preserve_unknown {
            structural::prune(schema, value, Prune::RESOURCE);
        }
        structural::default(schema, value);
    }
}
