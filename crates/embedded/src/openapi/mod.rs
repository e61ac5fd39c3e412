//! `/openapi/v3` and `/openapi/v2`: the schemas of what is served.

mod gnostic;
mod v2;
mod v3;

use hansa_machinery::Status;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::{
    Body, Server,
    api::accept,
    documents::Document,
    handle::{full, json_response},
    registry::Catalogue,
};

/// What the protobuf form of v2 is called, once its clients' older name with an `@` is put right.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Answers a request below `/openapi`.
pub(crate) fn answer(
    server: &Server,
    catalogue: &Catalogue,
    parts: &[&str],
    accepted: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let documents = &server.inner().documents;
    let generation = catalogue.generation;
    match parts {
        ["openapi", "v3"] => {
            let index = documents.get(generation, "v3", || v3::index(server, catalogue));
            Ok(json_response(200, index.body.clone(), false))
        }
        ["openapi", "v3", path @ ..] => {
            let (group, version) = match path {
                ["api", version] => ("", *version),
                ["apis", group, version] => (*group, *version),
                _ => return Err(Status::no_such_resource()),
            };
            let document =
                v3::document(server, catalogue, group, version).ok_or_else(Status::no_such_resource)?;
            Ok(cacheable(&document, "application/json", headers))
        }
        ["openapi", "v2"] => {
            let media_types = accept::media_types(accepted);
            let form = media_types.iter().find_map(|media_type| match media_type.as_str() {
                "application/json" | "application/*" | "*/*" => Some("application/json"),
                "application/com.github.proto-openapi.spec.v2@v1.0+protobuf" | PROTOBUF => Some(PROTOBUF),
                _ => None,
            });
            let form = form.ok_or_else(accept::not_acceptable)?;
            let document = documents.get(generation, &format!("v2 {form}"), || match form {
                PROTOBUF => gnostic::encode(&v2::value(catalogue)),
                _ => v2::document(catalogue),
            });
            let mut response = cacheable(&document, form, headers);
            response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
            Ok(response)
        }
        _ => Err(Status::no_such_resource()),
    }
}

/// A document that clients may keep: they name its content in the URL or in `If-None-Match`.
fn cacheable(document: &Document, content_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    let tag = format!("\"{}\"", document.hash);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).is_some_and(|v| v == tag);
    let mut response = if known {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let gzip = headers
            .get(header::ACCEPT_ENCODING)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.split(',').any(|e| e.trim().starts_with("gzip")));
        json_response(200, document.body.clone(), gzip)
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
