//! Bodies, and what is held until they end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use crate::error::{BoxError, Error};

/// A body of any kind.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Any body as a [`Body`].
pub fn boxed<B>(body: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// A body with nothing in it.
pub fn empty() -> Body {
    boxed(http_body_util::Empty::new())
}

/// A body with which something is held until it has ended or nobody wants it any more.
pub fn holding<T: Send + Unpin + 'static>(body: Body, held: T) -> Body {
    Holding { body, _held: held }.boxed_unsync()
}

struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> HttpBody for Holding<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The whole of a body that must not be longer than `limit`.
pub async fn collect(mut body: Body, limit: usize) -> Result<Bytes, BoxError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if whole.len() + data.len() > limit {
                return Err(format!("the answer is longer than {limit} bytes").into());
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// What is given back when a response has ended or nobody wants it any more.
#[derive(Default)]
pub(crate) struct Held {
    /// The stream of an HTTP/2 connection. Only its being held matters.
    #[allow(dead_code)]
    pub(crate) stream: Option<Arc<()>>,
    /// The place among the requests under way.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// Called at the end of the body, but not if it is dropped before: gives an HTTP/1.1 connection back.
    pub(crate) at_end: Option<Box<dyn FnOnce() + Send>>,
}

/// A response body that holds something, and that gives up on a link that has gone silent.
pub(crate) struct Answer {
    inner: Incoming,
    held: Held,
    silence: Option<(Duration, Pin<Box<Sleep>>)>,
    endpoint: Arc<str>,
}

impl Answer {
    pub(crate) fn new(inner: Incoming, held: Held, silence: Option<Duration>, endpoint: Arc<str>) -> Self {
        let silence = silence.map(|limit| (limit, Box::pin(tokio::time::sleep(limit))));
        let mut answer = Self { inner, held, silence, endpoint };
        if answer.inner.is_end_stream() {
            answer.end();
        }
        answer
    }

    fn end(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.silence = None;
        if let Some(at_end) = held.at_end {
            at_end();
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            if let Some((limit, sleep)) = &mut this.silence {
                sleep.as_mut().reset(Instant::now() + *limit);
            }
            return match frame {
                None => {
                    this.end();
                    Poll::Ready(None)
                }
                Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(Err(error)) => {
                    this.held = Held::default();
                    Poll::Ready(Some(Err(Error::lost(&this.endpoint, &error))))
                }
            };
        }
        let Some((limit, sleep)) = &mut this.silence else { return Poll::Pending };
        ready!(sleep.as_mut().poll(cx));
        let error = Error::Timeout { endpoint: this.endpoint.to_string(), after: *limit };
        this.silence = None;
        this.held = Held::default();
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
