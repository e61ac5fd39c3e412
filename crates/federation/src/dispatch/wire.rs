//! The requests that there are a hundred thousand of. They go without the client proper, which costs each a turn in its queue, and which
//! of a refusal reads the body and drops `Retry-After`, all that an overloaded API server or a proxy in front of it sends.

use std::collections::BTreeMap;

use bytes::Bytes;
use hansa_api::names;
use hansa_transport::Transport;
use http::Request;
use http::header::RETRY_AFTER;
use http_body_util::Full;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Time};
use kube::core::response::StatusDetails;
use kube::core::{ObjectMeta, Status};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The largest answer that is read: an API server keeps no object half as large.
const LARGEST: usize = 16 << 20;

/// Sends a request; a refusal is always a `Status`, and has `details.retryAfterSeconds` if the member named a pause in any way.
pub(super) async fn send<T: DeserializeOwned>(
    transport: &Transport,
    request: Request<Vec<u8>>,
) -> kube::Result<T> {
    let response = transport.request(request.map(|body| Full::from(Bytes::from(body)))).await;
    let (head, body) = response.map_err(|error| kube::Error::Service(error.into()))?.into_parts();
    let bytes = hansa_transport::collect(body, LARGEST).await.map_err(kube::Error::Service)?;
    if head.status.is_success() {
        return serde_json::from_slice(&bytes).map_err(kube::Error::SerdeError);
    }
    let pause = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Err(kube::Error::Api(Box::new(refusal(head.status.as_u16(), &bytes, pause))))
}

/// What matters of the answer to an apply: a list of who owns what would be the larger part of it, and that we have applied is known.
#[derive(Deserialize)]
pub(super) struct Applied {
    metadata: AppliedMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AppliedMeta {
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl From<Applied> for ObjectMeta {
    fn from(Applied { metadata }: Applied) -> Self {
        let ours = ManagedFieldsEntry {
            manager: Some(names::FIELD_MANAGER_FEDERATION.to_owned()),
            operation: Some("Apply".to_owned()),
            ..ManagedFieldsEntry::default()
        };
        Self {
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            generation: metadata.generation,
            deletion_timestamp: metadata.deletion_timestamp,
            labels: metadata.labels,
            annotations: metadata.annotations,
            managed_fields: Some(vec![ours]),
            ..Self::default()
        }
    }
}

fn refusal(code: u16, body: &[u8], pause: Option<u32>) -> Status {
    let mut status = serde_json::from_slice::<Status>(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        let message = if text.is_empty() { format!("HTTP status {code}") } else { text.to_owned() };
        Status::failure(&message, "")
    });
    status.code = code;
    if let Some(pause) = pause {
        let details = status.details.get_or_insert_with(|| StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        });
        if details.retry_after_seconds == 0 {
            details.retry_after_seconds = pause;
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_taken_from_the_body_or_else_from_the_header() {
        let pause = |status: Status| status.details.map(|details| details.retry_after_seconds);
        let text = refusal(429, b"Too many requests, please try again later.\n", Some(7));
        assert_eq!(text.message, "Too many requests, please try again later.");
        assert_eq!((text.code, pause(text)), (429, Some(7)));
        let body = br#"{"kind":"Status","status":"Failure","message":"m","code":503,"details":{"retryAfterSeconds":2}}"#;
        assert_eq!(pause(refusal(503, body, Some(9))), Some(2));
        assert_eq!(pause(refusal(503, b"", None)), None);
        assert_eq!(refusal(502, b"", None).message, "HTTP status 502");
    }
}
