//! Writes to the host whose answers matter little: only their metadata is asked for, so that neither side handles whole objects.

use hansa_api::names;
use http::HeaderValue;
use http::header::ACCEPT;
use kube::Client;
use kube::api::{DynamicObject, PartialObjectMeta, Patch, PatchParams};
use kube::core::{ObjectMeta, Request};
use serde_json::Value;

const METADATA: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");

/// Merges `patch` into the status subresource of the object `name` below `collection`.
pub(crate) async fn patch_status(
    host: &Client,
    collection: &str,
    name: &str,
    patch: &Value,
) -> kube::Result<ObjectMeta> {
    let params =
        PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let request = Request::new(collection).patch_subresource("status", name, &params, &Patch::Merge(patch));
    let mut request = request.map_err(kube::Error::BuildRequest)?;
    request.headers_mut().insert(ACCEPT, METADATA);
    Ok(host.request::<PartialObjectMeta<DynamicObject>>(request).await?.metadata)
}
