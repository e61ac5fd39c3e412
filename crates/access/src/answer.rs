//! Answers: our own, and a cluster's made fit for the caller.

use std::error::Error;

use bytes::Bytes;
use hansa_machinery::Status;
use hansa_transport::Body;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};

use crate::headers;

/// A `Status` as an answer.
pub fn status(status: &Status) -> Response<Body> {
    let mut response = text(&status.to_value().to_string());
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status.retry_after_seconds > 0 {
        headers.insert(header::RETRY_AFTER, status.retry_after_seconds.into());
    }
    if status.code == 401 {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hansa\""));
    }
    response
}

/// 200 with a line of text.
pub fn text(text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// 503 with a time to try again, naming the cluster.
pub fn unavailable(cluster: &str, why: &str) -> Status {
    Status {
        retry_after_seconds: 5,
        ..Status::unavailable(format!("cluster {cluster:?} is not available: {why}"))
    }
}

/// A cluster's answer without what is not meant for the caller; `upgrade` keeps what an upgrade needs.
pub fn cleaned(response: Response<Body>, upgrade: bool) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    parts.extensions.clear();
    parts.version = http::Version::default();
    headers::towards_caller(&mut parts.headers, upgrade);
    Response::from_parts(parts, body)
}

/// An error with its causes, for the log.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
