//! Answers in the representation that the caller asked for.

use bytes::Bytes;
use hansa_machinery::Status;
use serde_json::{Value, json};
use std::sync::Arc;

use super::{
    accept::Shape,
    call::{List, Payload},
    table::Table,
};
use crate::registry::Resource;

/// Renders objects of one resource in one representation.
pub(crate) struct Renderer {
    shape: Shape,
    resource: Arc<Resource>,
    table: Option<Table>,
}

impl Renderer {
    /// `include` is the `includeObject` parameter of tables.
    pub(crate) fn new(shape: Shape, resource: Arc<Resource>, include: &str) -> Result<Self, Status> {
        let table = match &shape {
            Shape::Table(version) => Some(Table::new(&resource, version, include)?),
            _ => None,
        };
        Ok(Self { shape, resource, table })
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// One object.
    pub(crate) fn object(&mut self, payload: Payload) -> Result<Bytes, Status> {
        match (&self.shape, &mut self.table) {
            (Shape::Metadata(version), _) => Ok(partial(&payload.into_value()?, version).to_string().into()),
            (Shape::Table(_), Some(table)) => Ok(table.object(&payload.into_value()?).to_string().into()),
            _ => Ok(payload.into_bytes()),
        }
    }

    /// A list.
    pub(crate) fn list(&mut self, list: List) -> Result<Bytes, Status> {
        let mut metadata = json!({"resourceVersion": list.revision.to_string()});
        if let Some(next) = list.next {
            metadata["continue"] = next.into();
        }
        if let Some(remaining) = list.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        if let Some(table) = &self.table {
            let items = list.items.into_iter().map(Payload::into_value).collect::<Result<Vec<_>, _>>()?;
            return Ok(table.list(&items, metadata).to_string().into());
        }
        let (kind, api_version) = match &self.shape {
            Shape::Metadata(version) => {
                ("PartialObjectMetadataList".to_owned(), format!("meta.k8s.io/{version}"))
            }
            _ => (self.resource.list_kind.clone(), self.resource.api_version()),
        };
        // Stored objects are handed out as they are: a list is never parsed as a whole.
        let mut out = Vec::with_capacity(
            list.items
                .iter()
                .map(|item| match item {
                    Payload::Stored(bytes) => bytes.len() + 1,
                    Payload::Made(_) => 1024,
                })
                .sum::<usize>()
                + 256,
        );
        out.extend_from_slice(b"{\"kind\":");
        out.extend_from_slice(Value::from(kind).to_string().as_bytes());
        out.extend_from_slice(b",\"apiVersion\":");
        out.extend_from_slice(Value::from(api_version).to_string().as_bytes());
        out.extend_from_slice(b",\"metadata\":");
        out.extend_from_slice(metadata.to_string().as_bytes());
        out.extend_from_slice(b",\"items\":[");
        for (index, item) in list.items.into_iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            let item = match &self.shape {
                Shape::Metadata(version) => partial(&item.into_value()?, version).to_string().into(),
                _ => item.into_bytes(),
            };
            out.extend_from_slice(&item);
        }
        out.extend_from_slice(b"]}");
        Ok(out.into())
    }
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}

/// A `Status` of success about an object.
pub(crate) fn success(resource: &Resource, name: &str, uid: &Value) -> Value {
    let mut details = json!({"name": name, "kind": resource.name});
    if !resource.group.is_empty() {
        details["group"] = resource.group.clone().into();
    }
    if uid.is_string() {
        details["uid"] = uid.clone();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
