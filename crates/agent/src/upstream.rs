//! From a request that came down the tunnel to the agent's own API server, and back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hansa_machinery::Status;
use hansa_transport::{Body, Error, Upgrade, boxed, empty, holding};
use hansa_tunnel::{Handler, Reply};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::guard::{self, Passed};
use crate::member::Member;

/// How soon to ask again when there are too many requests.
const RETRY_AFTER: u32 = 1;

/// Answers the requests that come down the tunnel. Clones share its limit.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    member: Arc<Member>,
    slots: Arc<Semaphore>,
    limit: usize,
}

impl Upstream {
    /// At most `limit` requests are under way at once, whichever tower they come from.
    pub(crate) fn new(member: Arc<Member>, limit: usize) -> Self {
        Self { member, slots: Arc::new(Semaphore::new(limit)), limit }
    }

    async fn plain(&self, request: Request<Body>, slot: OwnedSemaphorePermit) -> Reply {
        match self.member.transport().request(request).await {
            Ok(response) => self.answer(response, slot),
            Err(error) => refuse(&unanswered(&error)),
        }
    }

    /// What follows an upgrade is not the body of a request: the API server is asked without one, and ours is held until the end, since letting
    /// go of it says that nobody reads what comes.
    async fn switch(&self, request: Request<Body>, slot: OwnedSemaphorePermit) -> Reply {
        let (mut head, body) = request.into_parts();
        head.headers.remove(header::CONTENT_LENGTH);
        match self.member.transport().upgrade(Request::from_parts(head, empty())).await {
            Ok(Upgrade::Switched(response, stream)) => {
                let switched = Switched { stream: TokioIo::new(stream), _body: body, _slot: slot };
                Reply::Switch(response, Box::new(switched))
            }
            Ok(Upgrade::Refused(response)) => self.answer(response, slot),
            Err(error) => refuse(&unanswered(&error)),
        }
    }

    fn answer(&self, mut response: Response<Body>, slot: OwnedSemaphorePermit) -> Reply {
        if response.status() == StatusCode::UNAUTHORIZED {
            self.member.not_accepted();
        }
        guard::strip(response.headers_mut());
        Reply::Response(response.map(|body| holding(body, slot)))
    }
}

impl Handler for Upstream {
    async fn handle(&self, mut request: Request<Body>) -> Reply {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            let message = format!("{} requests are under way at this cluster's agent; try again", self.limit);
            return refuse(&Status::too_many_requests(message, RETRY_AFTER));
        };
        match guard::check(&mut request) {
            Ok(Passed::Plain) => self.plain(request, slot).await,
            Ok(Passed::Upgrade) => self.switch(request, slot).await,
            Err(refusal) => {
                let (code, reason) = refusal.code();
                refuse(&Status::new(code, reason, refusal.to_string()))
            }
        }
    }
}

/// What to say when the API server gave no answer.
fn unanswered(error: &Error) -> Status {
    let (code, reason) = match error {
        Error::Timeout { .. } => (504, "Timeout"),
        Error::Busy { .. } => (503, "ServiceUnavailable"),
        Error::InvalidRequest(_) => (400, "BadRequest"),
        _ => (502, "BadGateway"),
    };
    Status::new(code, reason, format!("the agent has no answer from its cluster's API server: {error}"))
}

fn refuse(status: &Status) -> Reply {
    let mut response = Response::new(boxed(Full::new(Bytes::from(status.to_value().to_string()))));
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status.retry_after_seconds > 0 {
        headers.insert(header::RETRY_AFTER, status.retry_after_seconds.into());
    }
    Reply::Response(response)
}

/// A changed connection that holds its place among the requests under way until it has ended.
struct Switched {
    stream: TokioIo<Upgraded>,
    _body: Body,
    _slot: OwnedSemaphorePermit,
}

impl AsyncRead for Switched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Switched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
