//! The task that moves the bytes of one end: reads and decodes, encodes and writes, and watches for silence.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::frame::{Decoder, HEADER};
use crate::state::{Event, Shared};
use crate::{Duplex, Error};

/// What is read at once, in bytes.
const READ: usize = 64 << 10;
/// What is read before it is decoded and something is written, in bytes.
const TURN: usize = 256 << 10;
/// What is written at once: bytes, and pieces.
const BATCH: usize = 256 << 10;
const PIECES: usize = 64;
/// Payloads up to this size are copied behind their header, so that small frames are one piece.
const COPIED: usize = 2 << 10;
/// How long the last bytes of a connection that ends in good order may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Takes the requests that come.
pub(crate) trait Accept: Send + 'static {
    /// A request has come on a stream.
    fn accept(&self, stream: u32, head: Bytes) -> Result<(), Error>;
}

/// The host's end is asked for nothing; the state refuses requests before they come here.
pub(crate) struct NoRequests;

impl Accept for NoRequests {
    fn accept(&self, _: u32, _: Bytes) -> Result<(), Error> {
        Ok(())
    }
}

/// Moves the bytes of a connection until it ends.
pub(crate) async fn run<Io: Duplex, A: Accept>(io: Io, shared: Arc<Shared>, accept: A) -> Result<(), Error> {
    // Whoever aborts the task ends the connection.
    let end = End(shared.clone());
    let mut driver = Driver::new(io, shared.clone(), accept);
    let mut outcome = poll_fn(|cx| driver.poll(cx)).await;
    if matches!(outcome, Err(Error::Lost(_))) && shared.lock().may_end() {
        outcome = Ok(());
    }
    let error = outcome.clone().err().unwrap_or_else(|| Error::Lost("it has ended".to_owned()));
    finish(&shared, error);
    if outcome.is_ok() {
        // What cannot be said in time is not worth waiting for.
        let farewell = poll_fn(|cx| Pin::new(&mut driver.io).poll_shutdown(cx));
        let _ = timeout(FAREWELL, farewell).await;
    }
    drop(end);
    outcome
}

struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        finish(&self.0, Error::Lost("it was closed".to_owned()));
    }
}

fn finish(shared: &Shared, error: Error) {
    let mut wakers = Vec::new();
    shared.lock().end(error, &mut wakers);
    wake(&mut wakers);
    shared.ended.cancel();
}

/// Ends a connection at once.
pub(crate) fn close(shared: &Shared, why: &str) {
    finish(shared, Error::Lost(why.to_owned()));
    shared.driver.wake();
}

/// Takes no new streams; the connection ends with the last one.
pub(crate) fn drain(shared: &Shared) {
    let mut wakers = Vec::new();
    shared.lock().drain(&mut wakers);
    wake(&mut wakers);
    shared.driver.wake();
}

fn wake(wakers: &mut Vec<Waker>) {
    wakers.drain(..).for_each(Waker::wake);
}

struct Driver<Io, A> {
    io: Io,
    shared: Arc<Shared>,
    accept: A,
    decoder: Decoder,
    input: BytesMut,
    output: Batch,
    unflushed: bool,
    wakers: Vec<Waker>,
    timer: Pin<Box<Sleep>>,
    next_ping: Instant,
    interval: Duration,
    patience: Duration,
}

impl<Io: Duplex, A: Accept> Driver<Io, A> {
    fn new(io: Io, shared: Arc<Shared>, accept: A) -> Self {
        let (interval, patience) = {
            let settings = &shared.lock().settings;
            (settings.ping_interval, settings.ping_interval + settings.ping_timeout)
        };
        let now = Instant::now();
        Self {
            io,
            shared,
            accept,
            decoder: Decoder::default(),
            input: BytesMut::new(),
            output: Batch::default(),
            unflushed: false,
            wakers: Vec::new(),
            timer: Box::pin(sleep_until(now)),
            // The first one is for the round trip.
            next_ping: now,
            interval,
            patience,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.shared.driver.register(cx.waker());
        loop {
            if let Poll::Ready(silent) = self.poll_timer(cx) {
                return Poll::Ready(Err(silent));
            }
            let wrote = self.poll_write(cx)?;
            if let Some(error) = self.shared.lock().ended() {
                return Poll::Ready(Err(error.clone()));
            }
            if wrote.is_ready() && self.shared.lock().is_done() {
                return Poll::Ready(Ok(()));
            }
            let read = self.poll_read(cx)?;
            if read.is_pending() && (wrote.is_pending() || !self.has_output()) {
                return Poll::Pending;
            }
        }
    }

    fn has_output(&self) -> bool {
        !self.output.is_empty() || self.shared.lock().has_frames()
    }

    /// Pings when it is time; `Ready` when nothing was heard for too long.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let mut state = self.shared.lock();
            let dead = state.heard() + self.patience;
            if now >= dead {
                return Poll::Ready(Error::Silent(self.patience));
            }
            if now >= self.next_ping {
                state.ping();
                self.next_ping = now + self.interval;
            }
            drop(state);
            self.timer.as_mut().reset(dead.min(self.next_ping));
        }
    }

    /// Writes what waits; `Pending` when the other end takes no more.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        let lost = |error: std::io::Error| Error::Lost(error.to_string());
        loop {
            if self.output.is_empty() {
                self.output.fill(&self.shared, &mut self.wakers);
                wake(&mut self.wakers);
                if self.output.is_empty() {
                    break;
                }
            }
            match self.output.poll_write(&mut self.io, cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(written) => match written.map_err(lost)? {
                    0 => return Err(Error::Lost("the other end reads no more".to_owned())),
                    written => {
                        self.unflushed = true;
                        self.shared.lock().sent += written as u64;
                    }
                },
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(flushed) => flushed.map_err(lost)?,
            }
            self.unflushed = false;
        }
        Ok(Poll::Ready(()))
    }

    /// Reads what is there and hands it out; `Pending` when there is nothing more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        let mut got = 0;
        let mut polled = Poll::Ready(());
        while got < TURN {
            if self.input.capacity() - self.input.len() < READ / 4 {
                self.input.reserve(READ);
            }
            let read = pin!(self.io.read_buf(&mut self.input)).poll(cx);
            match read {
                Poll::Pending => {
                    polled = Poll::Pending;
                    break;
                }
                Poll::Ready(Ok(0)) => {
                    self.hand_out(got)?;
                    return Err(Error::Lost("the other end closed it".to_owned()));
                }
                Poll::Ready(Ok(bytes)) => got += bytes,
                Poll::Ready(Err(error)) => return Err(Error::Lost(error.to_string())),
            }
        }
        if got > 0 {
            self.hand_out(got)?;
        }
        if polled.is_pending() && self.input.is_empty() {
            // An idle connection keeps no buffer.
            self.input = BytesMut::new();
        }
        Ok(polled)
    }

    fn hand_out(&mut self, got: usize) -> Result<(), Error> {
        let mut events = VecDeque::new();
        {
            let mut state = self.shared.lock();
            state.hear(got);
            while let Some(piece) = self.decoder.next(&mut self.input)? {
                events.extend(state.receive(piece, &mut self.wakers)?);
            }
        }
        wake(&mut self.wakers);
        for Event::Accept(stream, head) in events {
            self.accept.accept(stream, head)?;
        }
        Ok(())
    }
}

/// Frames on their way out.
#[derive(Default)]
struct Batch {
    pieces: VecDeque<Bytes>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Takes what waits, up to a bound.
    fn fill(&mut self, shared: &Shared, wakers: &mut Vec<Waker>) {
        let mut state = shared.lock();
        let mut small = BytesMut::new();
        let mut bytes = 0;
        while bytes < BATCH && self.pieces.len() < PIECES - 2 {
            let Some(frame) = state.next_frame(wakers) else { break };
            bytes += HEADER + frame.payload.len();
            small.extend_from_slice(&frame.header.encode());
            if frame.payload.len() <= COPIED {
                small.extend_from_slice(&frame.payload);
            } else {
                self.pieces.push_back(small.split().freeze());
                self.pieces.push_back(frame.payload);
            }
        }
        if !small.is_empty() {
            self.pieces.push_back(small.freeze());
        }
    }

    fn poll_write<Io: Duplex>(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let written = if self.pieces.len() == 1 {
            ready!(Pin::new(io).poll_write(cx, &self.pieces[0]))?
        } else {
            let mut slices = [IoSlice::new(&[]); PIECES];
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
            }
            let count = self.pieces.len().min(PIECES);
            ready!(Pin::new(io).poll_write_vectored(cx, &slices[..count]))?
        };
        let mut left = written;
        while let Some(first) = self.pieces.front_mut() {
            if left < first.len() {
                first.advance(left);
                break;
            }
            left -= first.len();
            self.pieces.pop_front();
        }
        Poll::Ready(Ok(written))
    }
}
