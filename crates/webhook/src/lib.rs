//! KubeFed's admission webhooks (`spec/kubefed.md §1.9`): what the host's API server asks before it stores a KubeFedCluster, a
//! KubeFedConfig or a FederatedTypeConfig. What is right stands in [`hansa_api::validation`]; [`review`] puts it into the words of
//! an `AdmissionReview`, and [`handle`] into those of HTTP.

mod review;

use bytes::Bytes;
use hansa_api::webhooks::READY;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};

pub use review::review;

/// The largest question that is read: two objects of the largest size the API server takes.
const MAX_BODY: usize = 7 * 1024 * 1024;

/// Answers a request. Whatever the content type says, the body is read as JSON: API servers send nothing else.
pub async fn handle<B>(request: Request<B>) -> Response<Full<Bytes>>
where
    B: http_body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path.starts_with(READY) || path == READY.trim_end_matches('/') {
        return plain(StatusCode::OK, "ok");
    }
    if !review::serves(path) {
        return plain(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    if parts.method != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is posted\n");
    }
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return plain(StatusCode::PAYLOAD_TOO_LARGE, "the AdmissionReview is too large\n");
        }
        Err(error) => {
            tracing::debug!(%error, "an AdmissionReview could not be read");
            return plain(StatusCode::BAD_REQUEST, "the body could not be read\n");
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(review(path, &body).to_string())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let value = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "this is how tests fail")]
mod tests {
    use hansa_api::webhooks::VALIDATE_CONFIG;

    use super::*;

    async fn ask(method: &str, path: &str, body: Vec<u8>) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Full::new(Bytes::from(body))).unwrap();
        let (parts, body) = handle(request).await.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        (parts.status.as_u16(), text)
    }

    #[tokio::test]
    async fn only_what_is_served_is_answered() {
        assert_eq!(ask("GET", "/readyz/", vec![]).await.0, 200);
        assert_eq!(ask("POST", "/validate-anything", vec![]).await.0, 404);
        assert_eq!(ask("GET", VALIDATE_CONFIG, vec![]).await.0, 405);
        assert_eq!(ask("POST", VALIDATE_CONFIG, vec![b' '; MAX_BODY + 1]).await.0, 413);
        let (code, body) = ask("POST", VALIDATE_CONFIG, b"no json".to_vec()).await;
        assert_eq!(code, 200, "the answer is an AdmissionReview");
        assert!(body.contains("\"allowed\":false"), "{body}");
    }
}
