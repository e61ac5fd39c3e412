//! What one end of a connection knows, without any I/O: the streams, what waits to be sent, and what a received frame changes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::task::AtomicWaker;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::frame::{Header, Kind, MAX_DATA, MAX_REASON, Piece, VERSION, Violation};
use crate::window::Window;
use crate::{Error, Settings, Traffic};

/// Bytes of one stream that wait to be written; what is beyond waits with its sender, so that streams take turns.
const STREAM_QUEUE: usize = 2 * MAX_DATA;
/// Pieces that are shorter than this are kept as one.
const SMALL: usize = 4 << 10;
/// Room that an empty collection keeps.
const SPARE_CAPACITY: usize = 64;

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It opens streams.
    Host,
    /// It answers them.
    Agent,
}

/// A frame that waits to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) header: Header,
    pub(crate) payload: Bytes,
}

/// What a received frame asks the driver to do.
pub(crate) enum Event {
    /// The agent's end: a request has come, on the stream of this number; its body follows unless it has ended.
    Accept(u32, Bytes),
}

/// One stream at this end.
struct Slot {
    began: Instant,
    /// The head of the answer, until the host's caller takes it.
    head: Option<Bytes>,
    inbox: VecDeque<Bytes>,
    window: Window,
    /// The other end has said all it had to say.
    heard_all: bool,
    /// Why the stream was given up, if it was.
    reset: Option<Error>,
    reader: Option<Waker>,
    /// Whoever answers the request, and stops when it is given up.
    owner: Option<Waker>,
    /// Nobody reads what comes.
    unread: bool,
    /// What this end may still send.
    leave: u32,
    /// Bytes of this stream among the frames that wait.
    waiting: usize,
    said_all: bool,
    /// Both ends have said all: what is left to be done with it is this end's own business.
    settled: bool,
    writer: Option<Waker>,
}

impl Slot {
    fn new(window: u32, leave: u32) -> Self {
        Self {
            began: Instant::now(),
            head: None,
            inbox: VecDeque::new(),
            window: Window::new(window),
            heard_all: false,
            reset: None,
            reader: None,
            owner: None,
            unread: false,
            leave,
            waiting: 0,
            said_all: false,
            settled: false,
            writer: None,
        }
    }

    /// Keeps what came until it is read. Many small pieces would cost more than they hold, so they become one.
    fn keep(&mut self, payload: Bytes) {
        match self.inbox.back_mut() {
            Some(last) if last.len() < SMALL && payload.len() < SMALL => {
                let last = std::mem::take(last);
                let mut joined = last.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                joined.extend_from_slice(&payload);
                self.inbox.pop_back();
                self.inbox.push_back(joined.freeze());
            }
            _ => self.inbox.push_back(payload),
        }
    }

    fn wake(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.reader.take());
        wakers.extend(self.owner.take());
        wakers.extend(self.writer.take());
    }
}

/// What the other end said of itself.
#[derive(Clone, Copy)]
struct Peer {
    window: u32,
    streams: usize,
}

/// Everything one end knows.
pub(crate) struct State {
    role: Role,
    pub(crate) settings: Settings,
    peer: Option<Peer>,
    streams: HashMap<u32, Slot>,
    /// How many of them are not settled.
    unsettled: usize,
    /// The highest stream that was opened.
    highest: u32,
    queue: VecDeque<Outgoing>,
    queued: usize,
    /// Those that wait for room in the queue, or for the other end's greeting.
    waiting: VecDeque<Waker>,
    /// A sign of life that is owed; one is enough, whatever was asked.
    pong: Option<Bytes>,
    /// How many replicas the host has: what is to be said of it, and what was said.
    replicas_to_say: Option<u32>,
    replicas: Option<u32>,
    draining: bool,
    said_goodbye: bool,
    ended: Option<Error>,
    heard: Instant,
    round_trip: Option<Duration>,
    began: Instant,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// A [`State`] that several tasks share. The lock is held for a few instructions, never across an await.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// The driver, which writes what waits.
    pub(crate) driver: AtomicWaker,
    /// Cancelled when the connection has ended.
    pub(crate) ended: CancellationToken,
}

impl Shared {
    pub(crate) fn new(role: Role, settings: Settings) -> Self {
        let mut state = State::new(role, settings);
        state.greet();
        Self { state: Mutex::new(state), driver: AtomicWaker::new(), ended: CancellationToken::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

impl State {
    fn new(role: Role, settings: Settings) -> Self {
        let now = Instant::now();
        Self {
            role,
            settings,
            peer: None,
            streams: HashMap::new(),
            unsettled: 0,
            highest: 0,
            queue: VecDeque::new(),
            queued: 0,
            waiting: VecDeque::new(),
            pong: None,
            replicas_to_say: None,
            replicas: None,
            draining: false,
            said_goodbye: false,
            ended: None,
            heard: now,
            round_trip: None,
            began: now,
            sent: 0,
            received: 0,
        }
    }

    fn greet(&mut self) {
        let mut payload = Vec::with_capacity(12);
        payload.extend_from_slice(&VERSION.to_be_bytes());
        payload.extend_from_slice(&self.settings.window.to_be_bytes());
        payload.extend_from_slice(&u32::try_from(self.settings.streams).unwrap_or(u32::MAX).to_be_bytes());
        self.push(Kind::Hello, false, 0, payload.into());
    }

    fn push(&mut self, kind: Kind, end: bool, stream: u32, payload: Bytes) {
        self.queued += payload.len();
        self.queue.push_back(Outgoing { header: Header { size: payload.len(), kind, end, stream }, payload });
    }

    // What the driver does.

    /// The next frame to write.
    pub(crate) fn next_frame(&mut self, wakers: &mut Vec<Waker>) -> Option<Outgoing> {
        if let Some(payload) = self.pong.take() {
            let header = Header { size: payload.len(), kind: Kind::Pong, end: false, stream: 0 };
            return Some(Outgoing { header, payload });
        }
        // Not before the greeting, which is the first frame of the queue.
        if self.peer.is_some()
            && let Some(count) = self.replicas_to_say.take()
        {
            let header = Header { size: 4, kind: Kind::Replicas, end: false, stream: 0 };
            return Some(Outgoing { header, payload: Bytes::copy_from_slice(&count.to_be_bytes()) });
        }
        let frame = self.queue.pop_front()?;
        self.queued -= frame.payload.len();
        if self.queue.is_empty() && self.queue.capacity() > SPARE_CAPACITY {
            self.queue.shrink_to(SPARE_CAPACITY);
        }
        if let Some(slot) = self.streams.get_mut(&frame.header.stream)
            && frame.header.kind == Kind::Data
        {
            slot.waiting -= frame.payload.len();
            wakers.extend(slot.writer.take());
        }
        // One frame makes room for about one; an empty queue has room for all.
        if self.queue.is_empty() {
            wakers.extend(self.waiting.drain(..));
        } else if self.queued < self.settings.queue {
            wakers.extend(self.waiting.pop_front());
        }
        Some(frame)
    }

    /// Whether a frame waits to be written.
    pub(crate) fn has_frames(&self) -> bool {
        let says = self.peer.is_some() && self.replicas_to_say.is_some();
        self.pong.is_some() || says || !self.queue.is_empty()
    }

    /// Asks for a sign of life.
    pub(crate) fn ping(&mut self) {
        let asked = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.push(Kind::Ping, false, 0, Bytes::copy_from_slice(&asked.to_be_bytes()));
    }

    /// When anything was heard last.
    pub(crate) fn heard(&self) -> Instant {
        self.heard
    }

    /// Notes that bytes have come.
    pub(crate) fn hear(&mut self, bytes: usize) {
        self.heard = Instant::now();
        self.received += bytes as u64;
    }

    /// Whether nothing is left to be done.
    pub(crate) fn is_done(&self) -> bool {
        self.draining && self.streams.is_empty() && self.queue.is_empty() && self.pong.is_none()
    }

    /// Whether the other end may close the connection without anybody missing anything.
    pub(crate) fn may_end(&self) -> bool {
        self.draining && self.unsettled == 0
    }

    /// The connection has ended: everybody who waits learns why.
    pub(crate) fn end(&mut self, error: Error, wakers: &mut Vec<Waker>) {
        for slot in self.streams.values_mut() {
            // What has come whole may still be read.
            if !slot.settled {
                slot.reset.get_or_insert_with(|| error.clone());
                slot.inbox.clear();
                slot.window.close(&self.settings.budget);
            }
            slot.wake(wakers);
        }
        self.ended.get_or_insert(error);
        self.queue = VecDeque::new();
        self.queued = 0;
        wakers.extend(self.waiting.drain(..));
    }

    /// Why the connection has ended, if it has.
    pub(crate) fn ended(&self) -> Option<&Error> {
        self.ended.as_ref()
    }

    /// Takes no new streams and tells the other end so.
    pub(crate) fn drain(&mut self, wakers: &mut Vec<Waker>) {
        if !std::mem::replace(&mut self.said_goodbye, true) {
            self.push(Kind::GoAway, false, 0, Bytes::new());
        }
        self.draining = true;
        wakers.extend(self.waiting.drain(..));
    }

    /// Acts on what was received.
    pub(crate) fn receive(
        &mut self,
        piece: Piece,
        wakers: &mut Vec<Waker>,
    ) -> Result<Option<Event>, Violation> {
        let stream = piece.header.stream;
        let event = self.act(piece, wakers)?;
        self.settle(stream);
        Ok(event)
    }

    fn settle(&mut self, stream: u32) {
        if let Some(slot) = self.streams.get_mut(&stream)
            && slot.heard_all
            && slot.said_all
            && !std::mem::replace(&mut slot.settled, true)
        {
            self.unsettled -= 1;
        }
    }

    fn act(&mut self, piece: Piece, wakers: &mut Vec<Waker>) -> Result<Option<Event>, Violation> {
        let Piece { header: Header { kind, end, stream, .. }, mut payload } = piece;
        let role = self.role;
        if (self.peer.is_none()) != (kind == Kind::Hello) {
            return Err(Violation::Turn(kind));
        }
        match kind {
            Kind::Hello => {
                let version = payload.get_u32();
                if version != VERSION {
                    return Err(Violation::Version(version));
                }
                let (window, streams) = (payload.get_u32(), payload.get_u32() as usize);
                self.peer = Some(Peer { window, streams });
                wakers.extend(self.waiting.drain(..));
            }
            Kind::Ping => self.pong = Some(payload),
            Kind::Pong => {
                let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.round_trip = now.checked_sub(payload.get_u64()).map(Duration::from_micros);
            }
            Kind::GoAway => {
                self.draining = true;
                wakers.extend(self.waiting.drain(..));
            }
            Kind::Replicas => {
                if role == Role::Host {
                    return Err(Violation::Turn(kind));
                }
                self.replicas = Some(payload.get_u32());
            }
            Kind::Request => return self.accept(stream, end, payload).map(Some),
            Kind::Response => {
                // The agent's end never gets answers.
                if role == Role::Agent {
                    return Err(Violation::Turn(kind));
                }
                let Some(slot) = self.known(kind, stream)? else { return Ok(None) };
                if slot.head.is_some() || slot.heard_all {
                    return Err(Violation::Turn(kind));
                }
                slot.head = Some(payload);
                slot.heard_all = end;
                wakers.extend(slot.reader.take());
            }
            Kind::Data => {
                let Some(slot) = self.known(kind, stream)? else { return Ok(None) };
                if slot.heard_all {
                    return Err(Violation::Turn(kind));
                }
                if !slot.window.receive(payload.len() as u32) {
                    return Err(Violation::Window(stream));
                }
                slot.heard_all = end;
                if !payload.is_empty() && !slot.unread {
                    slot.keep(payload);
                }
                wakers.extend(slot.reader.take());
            }
            Kind::Credit => {
                let Some(slot) = self.known(kind, stream)? else { return Ok(None) };
                let leave = slot.leave.checked_add(payload.get_u32());
                slot.leave = leave.ok_or(Violation::Window(stream))?;
                wakers.extend(slot.writer.take());
            }
            Kind::Reset => {
                let Some(slot) = self.known(kind, stream)? else { return Ok(None) };
                // An answer that is whole stays so: the agent did not want the rest of the request.
                if !(role == Role::Host && slot.heard_all) {
                    let reason = String::from_utf8_lossy(&payload).into_owned();
                    slot.reset.get_or_insert(Error::Reset(reason));
                }
                slot.heard_all = true;
                slot.said_all = true;
                slot.wake(wakers);
            }
        }
        Ok(None)
    }

    /// The stream a frame is for; `None` if this end has forgotten it, which the other end cannot know yet.
    fn known(&mut self, kind: Kind, stream: u32) -> Result<Option<&mut Slot>, Violation> {
        if stream > self.highest {
            return Err(Violation::Stream(kind, stream));
        }
        Ok(self.streams.get_mut(&stream))
    }

    fn accept(&mut self, stream: u32, end: bool, head: Bytes) -> Result<Event, Violation> {
        // Whoever is the host's end is asked for nothing; streams are numbered upwards.
        if self.role == Role::Host || stream <= self.highest {
            return Err(Violation::Stream(Kind::Request, stream));
        }
        // The host forgets a stream before this end can, and may then open another.
        if self.unsettled >= self.settings.streams {
            return Err(Violation::Streams(self.settings.streams));
        }
        self.highest = stream;
        let mut slot = Slot::new(self.settings.window, self.peer.map_or(0, |peer| peer.window));
        slot.heard_all = end;
        self.streams.insert(stream, slot);
        self.unsettled += 1;
        Ok(Event::Accept(stream, head))
    }

    // What the host's caller does.

    /// Opens a stream for a request, once there is room.
    pub(crate) fn poll_open(
        &mut self,
        cx: &Context<'_>,
        head: &Bytes,
        end: bool,
    ) -> Poll<Result<u32, Error>> {
        if let Some(error) = &self.ended {
            return Poll::Ready(Err(error.clone()));
        }
        if self.draining || self.highest == u32::MAX {
            return Poll::Ready(Err(Error::Draining));
        }
        let Some(peer) = self.peer.filter(|_| self.queued < self.settings.queue) else {
            self.wait_for_room(cx);
            return Poll::Pending;
        };
        let bound = self.settings.streams.min(peer.streams);
        if self.streams.len() >= bound {
            return Poll::Ready(Err(Error::Busy(bound)));
        }
        self.highest += 1;
        let stream = self.highest;
        let mut slot = Slot::new(self.settings.window, peer.window);
        slot.said_all = end;
        self.streams.insert(stream, slot);
        self.unsettled += 1;
        self.push(Kind::Request, end, stream, head.clone());
        Poll::Ready(Ok(stream))
    }

    /// The head of the answer, once it is there.
    pub(crate) fn poll_head(&mut self, cx: &Context<'_>, stream: u32) -> Poll<Result<Bytes, Error>> {
        let Some(slot) = self.streams.get_mut(&stream) else { return Poll::Ready(Err(self.lost())) };
        if let Some(head) = slot.head.take() {
            // An empty head stands for "taken"; a second one is out of turn.
            slot.head = Some(Bytes::new());
            return Poll::Ready(Ok(head));
        }
        if let Some(error) = &slot.reset {
            return Poll::Ready(Err(error.clone()));
        }
        wait(&mut slot.reader, cx);
        Poll::Pending
    }

    // What both ends do.

    fn wait_for_room(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push_back(cx.waker().clone());
        }
    }

    fn lost(&self) -> Error {
        self.ended.clone().unwrap_or_else(|| Error::Lost("the stream has ended".to_owned()))
    }

    /// Answers a request.
    pub(crate) fn respond(&mut self, stream: u32, head: Bytes, end: bool) {
        if let Some(slot) = self.streams.get_mut(&stream)
            && !slot.said_all
        {
            slot.said_all = end;
            self.push(Kind::Response, end, stream, head);
            self.settle(stream);
        }
    }

    /// The next bytes of a stream; `None` at its end.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &Context<'_>,
        stream: u32,
    ) -> Poll<Option<Result<Bytes, Error>>> {
        let Some(slot) = self.streams.get_mut(&stream) else { return Poll::Ready(Some(Err(self.lost()))) };
        let Some(bytes) = slot.inbox.pop_front() else {
            if let Some(error) = &slot.reset {
                return Poll::Ready(Some(Err(error.clone())));
            }
            if slot.heard_all {
                return Poll::Ready(None);
            }
            wait(&mut slot.reader, cx);
            return Poll::Pending;
        };
        if slot.inbox.is_empty() && slot.inbox.capacity() > SPARE_CAPACITY {
            slot.inbox = VecDeque::new();
        }
        if !slot.heard_all {
            let credit = slot.window.read(
                bytes.len() as u32,
                slot.began.elapsed(),
                self.round_trip,
                self.settings.max_window,
                &self.settings.budget,
            );
            if let Some(credit) = credit {
                self.push(Kind::Credit, false, stream, Bytes::copy_from_slice(&credit.to_be_bytes()));
            }
        }
        Poll::Ready(Some(Ok(bytes)))
    }

    /// Nobody will read what comes on a stream.
    pub(crate) fn ignore(&mut self, stream: u32) {
        if let Some(slot) = self.streams.get_mut(&stream) {
            slot.inbox = VecDeque::new();
            slot.unread = true;
        }
    }

    /// Which end this is.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Whether everything that comes on a stream has been read.
    pub(crate) fn is_read(&self, stream: u32) -> bool {
        let slot = self.streams.get(&stream);
        slot.is_none_or(|slot| slot.heard_all && slot.inbox.is_empty() && slot.reset.is_none())
    }

    /// Sends as much of `bytes` as there is leave for, and takes it out of them. `Ready` when something was sent;
    /// `last` ends this end's half with the last of them.
    pub(crate) fn poll_send(
        &mut self,
        cx: &Context<'_>,
        stream: u32,
        bytes: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Error>> {
        let Some(slot) = self.streams.get_mut(&stream) else { return Poll::Ready(Err(self.lost())) };
        if let Some(error) = &slot.reset {
            return Poll::Ready(Err(error.clone()));
        }
        if slot.said_all {
            return Poll::Ready(Err(Error::Lost("the stream has ended".to_owned())));
        }
        if self.queued >= self.settings.queue {
            self.wait_for_room(cx);
            return Poll::Pending;
        }
        let room = STREAM_QUEUE.saturating_sub(slot.waiting).min(slot.leave as usize).min(MAX_DATA);
        if room == 0 {
            wait(&mut slot.writer, cx);
            return Poll::Pending;
        }
        let piece = bytes.split_to(room.min(bytes.len()));
        slot.leave -= piece.len() as u32;
        slot.waiting += piece.len();
        let end = last && bytes.is_empty();
        slot.said_all = end;
        self.push(Kind::Data, end, stream, piece);
        self.settle(stream);
        Poll::Ready(Ok(()))
    }

    /// Ends this end's half of a stream.
    pub(crate) fn finish(&mut self, stream: u32) {
        if let Some(slot) = self.streams.get_mut(&stream)
            && !std::mem::replace(&mut slot.said_all, true)
        {
            self.push(Kind::Data, true, stream, Bytes::new());
            self.settle(stream);
        }
    }

    /// Registers for the moment at which the other end gives a stream up.
    pub(crate) fn poll_given_up(&mut self, cx: &Context<'_>, stream: u32) -> Poll<()> {
        match self.streams.get_mut(&stream) {
            Some(slot) if slot.reset.is_none() => {
                wait(&mut slot.owner, cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Forgets a stream; if either half has not ended, the other end is told that it is given up.
    pub(crate) fn forget(&mut self, stream: u32, reason: &str, wakers: &mut Vec<Waker>) {
        let Some(mut slot) = self.streams.remove(&stream) else { return };
        slot.wake(wakers);
        slot.window.close(&self.settings.budget);
        self.unsettled -= usize::from(!slot.settled);
        if self.streams.is_empty() {
            self.streams.shrink_to(SPARE_CAPACITY);
        }
        if self.ended.is_none() && slot.reset.is_none() && !(slot.heard_all && slot.said_all) {
            // Half of what was to be sent is nothing to anybody.
            if slot.waiting > 0 && !slot.said_all {
                let queued = &mut self.queued;
                self.queue.retain(|frame| {
                    let stale = frame.header.stream == stream && frame.header.kind == Kind::Data;
                    *queued -= if stale { frame.payload.len() } else { 0 };
                    !stale
                });
                wakers.extend(self.waiting.drain(..));
            }
            let mut cut = reason.len().min(MAX_REASON);
            while !reason.is_char_boundary(cut) {
                cut -= 1;
            }
            self.push(Kind::Reset, false, stream, Bytes::copy_from_slice(&reason.as_bytes()[..cut]));
        }
    }

    /// Has the agent told how many replicas the host has; only the last number counts.
    pub(crate) fn say_replicas(&mut self, count: u32) {
        self.replicas_to_say = Some(count);
    }

    /// How many replicas the host has, if it has said so.
    pub(crate) fn replicas(&self) -> Option<u32> {
        self.replicas
    }

    /// Whether new streams can be opened.
    pub(crate) fn is_open(&self) -> bool {
        self.ended.is_none() && !self.draining
    }

    /// How many streams there are.
    pub(crate) fn count(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.sent,
            received: self.received,
            opened: u64::from(self.highest),
            silence: self.heard.elapsed(),
            round_trip: self.round_trip,
        }
    }
}
