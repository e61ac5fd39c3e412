//! From an HTTP request to its answer: path, limits, impersonation, authorisation, verb, representation.

use std::{
    io::Write,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use futures::{FutureExt, stream};
use hansa_listener::serve;
use hansa_machinery::{Status, path::RequestInfo};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Body, Server, Unasked,
    api::{
        accept::{self, Shape},
        call::{Answer, Call},
        decode::{self, Document, Format},
        options::{DeleteOptions, WriteOptions},
        patch::{self, PatchKind},
        query::Query,
        render::Renderer,
    },
    auth::{
        User,
        rbac::{Attributes, Target},
    },
    discovery,
};

/// The largest request body, as kube-apiserver has it.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// How long a request may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers smaller than this are not compressed.
const MIN_COMPRESSED: usize = 128 * 1024;

impl Server {
    /// Answers a request of an authenticated user. A bug in a handler becomes a 500 and stops nothing else.
    pub async fn handle(&self, user: User, request: Request<Body>) -> Response<Body> {
        match AssertUnwindSafe(self.answer(user, request)).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => refusal(&status),
            Err(_) => {
                tracing::error!("a request handler panicked");
                refusal(&Status::internal("the request handler failed; this is a bug"))
            }
        }
    }

    async fn answer(&self, user: User, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        let query_text = parts.uri.query().unwrap_or_default();
        let info = RequestInfo::parse(parts.method.as_str(), parts.uri.path(), query_text)?;
        let query = Query::parse(query_text);
        let user = self.auth().impersonate(user, &mut parts.headers)?;
        self.auth().authorize(&attributes(&user, &info))?;
        let accept = header_text(&parts.headers, header::ACCEPT);
        if !info.is_resource {
            return discovery::answer(self, &info, &accept, &parts.headers);
        }
        if !self.registry().catalogue().routes(&info.group, &info.version, &info.resource) {
            return Ok(text(404, "404 page not found\n"));
        }
        let watching = info.verb == "watch";
        let mutating = !matches!(info.verb.as_str(), "get" | "list" | "watch");
        let permit = self.admit(watching, mutating).await?;
        let gzip = header_text(&parts.headers, header::ACCEPT_ENCODING)
            .split(',')
            .any(|e| e.trim().starts_with("gzip"));
        let content_type = header_text(&parts.headers, header::CONTENT_TYPE);
        let user_agent = header_text(&parts.headers, header::USER_AGENT);
        let mut call = self.call(user, &info, query, user_agent)?;
        call.unasked = parts.extensions.get::<Unasked>().is_some();
        if let Some(warning) = call.resource.custom.as_ref().and_then(|c| c.deprecation.as_deref()) {
            call.warn(warning);
        }
        let shape = accept::shape(&accept)?;
        let answer = match self.perform(&call, &info.verb, &content_type, body).await {
            Ok(answer) => answer,
            Err(status) => return Ok(with_warnings(refusal(&status), &call)),
        };
        let response = respond(answer, shape, &call, permit, gzip)?;
        Ok(with_warnings(response, &call))
    }

    /// A place among the requests that are served at a time. A burst waits its turn for a moment, as it would under
    /// Kubernetes' priority and fairness; what is more than a burst is turned away.
    async fn admit(&self, watching: bool, mutating: bool) -> Result<OwnedSemaphorePermit, Status> {
        let inner = self.inner();
        let slots: &Arc<Semaphore> = match (watching, mutating) {
            (true, _) => &inner.watches,
            (_, true) => &inner.writes,
            _ => &inner.reads,
        };
        if let Ok(permit) = slots.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let refused = || {
            Status::too_many_requests(
                "the server has received too many requests and has asked us to try again later",
                1,
            )
        };
        let _place = inner.waiting.try_acquire().map_err(|_| refused())?;
        match tokio::time::timeout(PATIENCE, slots.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(refused()),
        }
    }

    /// The resource a request names, with everything else about the request.
    fn call(&self, user: User, info: &RequestInfo, query: Query, user_agent: String) -> Result<Call, Status> {
        let catalogue = self.registry().catalogue();
        let found = catalogue.resource(&info.group, &info.version, &info.resource).cloned();
        let resource = found.ok_or_else(Status::no_such_resource)?;
        // `namespaces` is cluster-scoped although its URLs name a namespace.
        let is_namespaces = &*resource.storage == "namespaces";
        if !info.namespace.is_empty() && !resource.namespaced && !is_namespaces
            || info.parts.len() > 3
            || resource.namespaced
                && info.namespace.is_empty()
                && !matches!(info.verb.as_str(), "list" | "watch")
        {
            return Err(Status::no_such_resource());
        }
        let needs_name = matches!(info.verb.as_str(), "get" | "update" | "patch" | "delete");
        if needs_name == info.name.is_empty()
            && info.subresource.is_empty()
            && (needs_name || info.verb == "create")
        {
            return Err(Status::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            ));
        }
        // A field selector for one name makes it part of the request for authorisation only.
        let listing = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
        Ok(Call {
            server: self.clone(),
            user,
            catalogue,
            subresource: info.subresource.clone(),
            namespace: if resource.namespaced { info.namespace.clone() } else { String::new() },
            name: if listing { String::new() } else { info.name.clone() },
            resource,
            query,
            user_agent,
            unasked: false,
            warnings: Mutex::default(),
        })
    }

    async fn perform(
        &self,
        call: &Call,
        verb: &str,
        content_type: &str,
        body: Body,
    ) -> Result<Answer, Status> {
        call.check_verb(verb)?;
        match verb {
            "get" if call.subresource == "scale" => call.get_scale(),
            "get" => call.get(),
            "list" => call.list(),
            "watch" => call.watch(),
            "create" => {
                let options = WriteOptions::parse(&call.query, &call.user_agent, "CreateOptions", false)?;
                let document = read_document(body, content_type, call).await?;
                call.create_any(document, &options).await
            }
            "update" => {
                let options = WriteOptions::parse(&call.query, &call.user_agent, "UpdateOptions", false)?;
                let document = read_document(body, content_type, call).await?;
                if call.subresource == "scale" {
                    return call.update_scale(document, &options).await;
                }
                call.update(document, &options).await
            }
            "patch" => {
                let custom = call.resource.custom.is_some();
                let kind = PatchKind::of(content_type, custom)?;
                let apply = kind == PatchKind::Apply;
                let options = WriteOptions::parse(&call.query, &call.user_agent, "PatchOptions", apply)?;
                let document = patch::parse(kind, &read_body(body).await?)?;
                if call.subresource == "scale" {
                    return call.patch_scale(kind, document, &options).await;
                }
                call.patch(kind, document, options).await
            }
            "delete" | "deletecollection" => {
                let bytes = read_body(body).await?;
                let given = match bytes.is_empty() {
                    true => None,
                    // Options are of Kubernetes' own kinds, whatever they are for.
                    false => Some(
                        decode::parse(Format::of(content_type, false)?, &bytes)
                            .map_err(Status::bad_request)?
                            .value,
                    ),
                };
                let options = DeleteOptions::parse(given.as_ref(), &call.query)?;
                match verb {
                    "delete" => call.delete(&options).await,
                    _ => call.delete_collection(&options).await,
                }
            }
            _ => Err(Status::method_not_allowed(&call.resource.group, &call.resource.name, verb)),
        }
    }
}

impl Call {
    /// Whether the (sub)resource knows the verb.
    fn check_verb(&self, verb: &str) -> Result<(), Status> {
        let unknown = || Status::method_not_allowed(&self.resource.group, &self.resource.name, verb);
        if self.subresource.is_empty() {
            return if self.resource.allows(verb) { Ok(()) } else { Err(unknown()) };
        }
        match self.resource.subresource(&self.subresource) {
            Some(sub) if sub.verbs.iter().any(|v| v == verb) => Ok(()),
            Some(_) => Err(unknown()),
            None if matches!(
                self.subresource.as_str(),
                "exec" | "attach" | "portforward" | "proxy" | "log"
            ) =>
            {
                Err(Status::new(
                    501,
                    "NotImplemented",
                    format!(
                        "{} of {} needs a kubelet, and this cluster has none",
                        self.subresource, self.resource.name
                    ),
                ))
            }
            None => Err(Status::no_such_resource()),
        }
    }

    /// Answers any `POST`.
    pub(crate) async fn create_any(
        &self,
        document: Document,
        options: &WriteOptions,
    ) -> Result<Answer, Status> {
        if !self.subresource.is_empty() {
            self.create_subresource(document, options).await
        } else if self.resource.is_stored() {
            self.create(document, options).await
        } else {
            self.create_transient(document, options).await
        }
    }
}

fn attributes<'a>(user: &'a User, info: &'a RequestInfo) -> Attributes<'a> {
    let target = if info.is_resource {
        Target::Resource {
            group: &info.group,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
        }
    } else {
        Target::Path(&info.path)
    };
    Attributes { user, verb: &info.verb, target }
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> String {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

async fn read_body(mut body: Body) -> Result<Bytes, Status> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Status::bad_request(format!("the request body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > MAX_BODY {
            return Err(Status::too_large(format!("Request entity too large: limit is {MAX_BODY}")));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

async fn read_document(body: Body, content_type: &str, call: &Call) -> Result<Document, Status> {
    let format = Format::of(content_type, call.resource.custom.is_some())?;
    let bytes = read_body(body).await?;
    decode::parse(format, &bytes).map_err(|why| match format {
        Format::Protobuf => call.undecodable(&why),
        _ => call.undecodable(&format!("couldn't get version/kind; json parse error: {why}")),
    })
}

fn respond(
    answer: Answer,
    shape: Shape,
    call: &Call,
    permit: OwnedSemaphorePermit,
    gzip: bool,
) -> Result<Response<Body>, Status> {
    // A subresource such as scale or a Status has no other representation.
    let shape = if call.subresource == "scale" { Shape::Whole } else { shape };
    let mut renderer = Renderer::new(shape, call.resource.clone(), call.query.text("includeObject"))?;
    match answer {
        Answer::Object { code, object } => Ok(json_response(code, renderer.object(object)?, gzip)),
        Answer::List(list) => Ok(json_response(200, renderer.list(list)?, gzip)),
        Answer::Plain { code, value } => Ok(json_response(code, value.to_string().into(), gzip)),
        Answer::Watch(mut watching) => {
            watching.permit = Some(permit);
            let frames = stream::unfold((watching, renderer), |(mut watching, mut renderer)| async move {
                let frame = watching.next(&mut renderer).await?;
                Some((Ok(Frame::data(frame)), (watching, renderer)))
            });
            let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
            set_headers(&mut response);
            Ok(response)
        }
    }
}

fn set_headers(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
}

/// A JSON answer, compressed if it is large and the caller takes it so.
pub(crate) fn json_response(code: u16, body: Bytes, gzip: bool) -> Response<Body> {
    let compressed = (gzip && body.len() >= MIN_COMPRESSED).then(|| {
        let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
        encoder.write_all(&body).and_then(|()| encoder.finish()).ok()
    });
    let compressed = compressed.flatten();
    let is_compressed = compressed.is_some();
    let body = compressed.map_or(body, Bytes::from);
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set_headers(&mut response);
    if is_compressed {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

/// A body that is known as a whole.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The answer to a request that failed.
pub(crate) fn refusal(status: &Status) -> Response<Body> {
    let mut response = serve::refusal(status);
    if status.retry_after_seconds > 0
        && let Ok(seconds) = HeaderValue::from_str(&status.retry_after_seconds.to_string())
    {
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

/// How much text all warnings of one answer may have.
const MAX_WARNINGS: usize = 4096;

fn with_warnings(mut response: Response<Body>, call: &Call) -> Response<Body> {
    let warnings = std::mem::take(&mut *call.warnings.lock().unwrap_or_else(PoisonError::into_inner));
    let mut length = 0;
    let mut told = std::collections::BTreeSet::new();
    for warning in warnings {
        length += warning.len();
        if length > MAX_WARNINGS || !told.insert(warning.clone()) {
            continue;
        }
        // RFC 7234 §5.5: 299, no agent, a quoted string.
        let text: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// A JSON document as an answer.
pub(crate) fn document(value: &Value) -> Response<Body> {
    json_response(200, value.to_string().into(), false)
}

/// Text as an answer.
pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
