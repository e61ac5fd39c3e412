//! One stream in the hands of those who use it: as the body of a message, or as bytes in both directions.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::state::{Role, Shared, State};
use crate::{Body, BoxError, Error};

/// A stream. When its last holder lets go of it and it has not ended in both directions, it is given up.
pub(crate) struct Exchange {
    shared: Arc<Shared>,
    stream: u32,
}

impl Exchange {
    pub(crate) fn new(shared: Arc<Shared>, stream: u32) -> Self {
        Self { shared, stream }
    }

    /// Does something with the state, then has the driver send what came of it.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.shared.lock();
        let outcome = act(&mut state);
        let is_due = state.has_frames() || state.may_end();
        drop(state);
        if is_due {
            self.shared.driver.wake();
        }
        outcome
    }

    /// Has the driver send what waits.
    pub(crate) fn flush(&self) {
        self.with(|_| ());
    }

    /// The head of the answer.
    pub(crate) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<Bytes, Error>> {
        self.shared.lock().poll_head(cx, self.stream)
    }

    /// Begins the answer; what follows, or [`Exchange::flush`], sends it.
    pub(crate) fn respond(&self, head: Bytes, end: bool) {
        self.shared.lock().respond(self.stream, head, end);
    }

    fn poll_receive(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        self.with(|state| state.poll_receive(cx, self.stream))
    }

    /// Sends of `bytes` what there is leave for; `last` ends this half of the stream with the last of them.
    fn poll_send(&self, cx: &Context<'_>, bytes: &mut Bytes, last: bool) -> Poll<Result<(), Error>> {
        self.shared.lock().poll_send(cx, self.stream, bytes, last)
    }

    pub(crate) fn finish(&self) {
        self.with(|state| state.finish(self.stream));
    }

    /// Gives the stream up, saying why.
    pub(crate) fn give_up(&self, reason: &str) {
        let mut wakers = Vec::new();
        self.with(|state| state.forget(self.stream, reason, &mut wakers));
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// Ends when the other end gives the stream up, or the connection is lost.
    pub(crate) async fn given_up(&self) {
        poll_fn(|cx| self.shared.lock().poll_given_up(cx, self.stream)).await;
    }

    fn is_read(&self) -> bool {
        self.shared.lock().is_read(self.stream)
    }

    /// Sends a body and ends this half of the stream. Trailers are not known to the Kubernetes API and do not travel.
    ///
    /// What is there at once goes out together: the driver is told only when there is much, or nothing more for now.
    pub(crate) async fn send_body(&self, mut body: Body) -> Result<(), SendError> {
        loop {
            let next = poll_fn(|cx| {
                let polled = Pin::new(&mut body).poll_frame(cx);
                if polled.is_pending() {
                    self.flush();
                }
                polled
            });
            let Some(frame) = next.await else { break };
            let Ok(mut bytes) = frame.map_err(SendError::Body)?.into_data() else { continue };
            let last = body.is_end_stream();
            while !bytes.is_empty() {
                let much = bytes.len() >= MUCH;
                let send = poll_fn(|cx| {
                    let polled = self.poll_send(cx, &mut bytes, last);
                    if polled.is_pending() {
                        self.flush();
                    }
                    polled
                });
                send.await.map_err(|_| SendError::Tunnel)?;
                if much {
                    self.flush();
                }
            }
        }
        self.finish();
        Ok(())
    }
}

/// So many bytes are worth a write of their own.
const MUCH: usize = 16 << 10;

impl Drop for Exchange {
    fn drop(&mut self) {
        self.give_up("nobody wants it any more");
    }
}

/// Which side kept a body from being sent.
pub(crate) enum SendError {
    Body(BoxError),
    Tunnel,
}

/// The body of a message that comes down a stream.
pub(crate) struct Incoming {
    exchange: Arc<Exchange>,
    /// What its head says of its length.
    length: Option<u64>,
}

impl Incoming {
    pub(crate) fn new(exchange: Arc<Exchange>, headers: &HeaderMap) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { exchange, length }
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.exchange.poll_receive(cx).map(|next| next.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_read()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Incoming {
    /// An answer that nobody reads to its end is not worth sending; a request may be answered without being read.
    fn drop(&mut self) {
        if self.exchange.is_read() {
            return;
        }
        match self.exchange.with(|state| state.role()) {
            Role::Host => self.exchange.give_up("nobody reads it any more"),
            Role::Agent => self.exchange.with(|state| state.ignore(self.exchange.stream)),
        }
    }
}

/// A stream that has become bytes in both directions.
pub struct Stream {
    exchange: Arc<Exchange>,
    /// What was received and did not fit the reader's buffer.
    rest: Bytes,
}

impl Stream {
    pub(crate) fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange, rest: Bytes::new() }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            match ready!(self.exchange.poll_receive(cx)) {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // Only what there is leave for is copied.
        let mut bytes = Bytes::copy_from_slice(&buf[..buf.len().min(crate::frame::MAX_DATA)]);
        let before = bytes.len();
        ready!(self.exchange.poll_send(cx, &mut bytes, false)).map_err(io::Error::other)?;
        self.exchange.flush();
        Poll::Ready(Ok(before - bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exchange.finish();
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({})", self.exchange.stream)
    }
}
