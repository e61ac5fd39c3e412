//! Requests whose refusals say when to come again: the client proper reads a refusal's body and drops its `Retry-After` header, which is
//! all that an overloaded API server or a proxy in front of it sends.

use http::Request;
use http::header::RETRY_AFTER;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use kube::core::response::StatusDetails;
use serde::de::DeserializeOwned;

/// Sends a request; a refusal is always a `Status`, and has `details.retryAfterSeconds` if the member named a pause in any way.
pub(super) async fn send<T: DeserializeOwned>(client: &Client, request: Request<Vec<u8>>) -> kube::Result<T> {
    let response = client.send(request.map(Body::from)).await?;
    let (head, body) = response.into_parts();
    let bytes = body.collect_bytes().await?;
    if head.status.is_success() {
        return serde_json::from_slice(&bytes).map_err(kube::Error::SerdeError);
    }
    let pause = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Err(kube::Error::Api(Box::new(refusal(head.status.as_u16(), &bytes, pause))))
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
