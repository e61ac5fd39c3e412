//! WebSocket (RFC 6455) as a byte stream: what HTTP proxies and load balancers let through.
//!
//! Binary frames carry the bytes; where frames begin and end means nothing. Pings of proxies are answered.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::Duplex;
use crate::frame::Violation;

/// RFC 6455 §1.3.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The longest payload of a control frame (RFC 6455 §5.5).
const MAX_CONTROL: usize = 125;
/// The longest header of a frame.
const MAX_HEADER: usize = 14;

const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Why a request is no WebSocket handshake that can be taken.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a WebSocket handshake: {0}")]
pub struct Refused(pub &'static str);

/// A new nonce for `Sec-WebSocket-Key`.
pub fn key() -> String {
    STANDARD.encode(rand::random::<[u8; 16]>())
}

/// What `Sec-WebSocket-Accept` is for a key.
pub fn accept_of(key: &str) -> String {
    let text = format!("{key}{ACCEPT_SUFFIX}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    STANDARD.encode(digest)
}

/// Checks the headers of a handshake (RFC 6455 §4.2.1) that offers `subprotocol`; returns what `Sec-WebSocket-Accept` is to say.
///
/// # Errors
/// When it is no handshake, or one for something else.
pub fn accept(headers: &HeaderMap, subprotocol: &str) -> Result<HeaderValue, Refused> {
    let one = |name| {
        let mut values = headers.get_all(name).iter();
        let value = values.next().and_then(|value: &HeaderValue| value.to_str().ok());
        value.filter(|_| values.next().is_none())
    };
    let lists = |name, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(wanted))
    };
    if !lists(header::CONNECTION, "upgrade") || !lists(header::UPGRADE, "websocket") {
        return Err(Refused("it does not ask for the upgrade to websocket"));
    }
    if one(header::SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(Refused("its version is not 13"));
    }
    if !lists(header::SEC_WEBSOCKET_PROTOCOL, subprotocol) {
        return Err(Refused("it does not offer the subprotocol of this tower"));
    }
    let key = one(header::SEC_WEBSOCKET_KEY).ok_or(Refused("it has no single key"))?;
    if STANDARD.decode(key).map(|nonce| nonce.len()) != Ok(16) {
        return Err(Refused("its key is not 16 bytes in base64"));
    }
    HeaderValue::try_from(accept_of(key)).map_err(|_| Refused("its key cannot be answered"))
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    opcode: u8,
    mask: [u8; 4],
    length: u64,
    /// The size of the header itself.
    size: usize,
}

impl Header {
    /// Reads a header; `None` if more bytes are needed. `masked` is what the other end has to do (RFC 6455 §5.1).
    fn decode(bytes: &[u8], masked: bool) -> Result<Option<Self>, Violation> {
        let wrong = |what| Err(Violation::WebSocket(what));
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let opcode = first & 0x0f;
        if first & 0x70 != 0 {
            return wrong("reserved bits");
        }
        if !matches!(opcode, 0 | BINARY | CLOSE | PING | PONG) {
            return wrong("neither binary nor control");
        }
        if (second & 0x80 != 0) != masked {
            return wrong("masked by the wrong side");
        }
        let (extended, length) = match second & 0x7f {
            126 => match rest.first_chunk::<2>() {
                Some(bytes) => (2, u64::from(u16::from_be_bytes(*bytes))),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(bytes) => (8, u64::from_be_bytes(*bytes)),
                None => return Ok(None),
            },
            length => (0, u64::from(length)),
        };
        if opcode >= CLOSE && (length > MAX_CONTROL as u64 || first & 0x80 == 0) {
            return wrong("a control frame that is long or in pieces");
        }
        if length >> 63 != 0 {
            return wrong("a length beyond all bounds");
        }
        let mask = match (masked, rest[extended..].first_chunk::<4>()) {
            (false, _) => [0; 4],
            (true, Some(mask)) => *mask,
            (true, None) => return Ok(None),
        };
        Ok(Some(Self { opcode, mask, length, size: 2 + extended + if masked { 4 } else { 0 } }))
    }

    fn encode(self, masked: bool) -> ([u8; MAX_HEADER], usize) {
        let mut out = [0; MAX_HEADER];
        out[0] = 0x80 | self.opcode;
        let bit = if masked { 0x80 } else { 0 };
        let mut size = 2;
        match self.length {
            0..126 => out[1] = bit | self.length as u8,
            126..0x1_0000 => {
                out[1] = bit | 126;
                out[2..4].copy_from_slice(&(self.length as u16).to_be_bytes());
                size = 4;
            }
            _ => {
                out[1] = bit | 127;
                out[2..10].copy_from_slice(&self.length.to_be_bytes());
                size = 10;
            }
        }
        if masked {
            out[size..size + 4].copy_from_slice(&self.mask);
            size += 4;
        }
        (out, size)
    }
}

/// A WebSocket connection after its handshake, as a byte stream.
pub struct WebSocket<Io> {
    io: Io,
    /// Whether this end masks.
    is_client: bool,
    /// What was read of a header or a control frame.
    head: Vec<u8>,
    /// What is left of the payload of the frame that is being read, and its mask, turned to the next byte.
    incoming: u64,
    mask: [u8; 4],
    closed: bool,
    /// The header of a frame or a control frame that is being written.
    outgoing_head: Vec<u8>,
    /// What is left of the payload of the frame that is being written.
    outgoing: usize,
    /// The answer to a ping, which goes out between two frames.
    pong: Option<Vec<u8>>,
}

impl<Io: Duplex> WebSocket<Io> {
    /// The end that asked for the upgrade.
    ///
    /// It masks with zeros. A mask keeps a script in a browser from choosing the bytes that a proxy sees (RFC 6455 §10.3); here no script
    /// chooses, and nobody between the two ends sees below TLS.
    pub fn client(io: Io) -> Self {
        Self::new(io, true)
    }

    /// The end that granted the upgrade.
    pub fn server(io: Io) -> Self {
        Self::new(io, false)
    }

    fn new(io: Io, is_client: bool) -> Self {
        Self {
            io,
            is_client,
            head: Vec::new(),
            incoming: 0,
            mask: [0; 4],
            closed: false,
            outgoing_head: Vec::new(),
            outgoing: 0,
            pong: None,
        }
    }

    /// Reads headers and control frames until a payload begins; `false` at the end.
    fn poll_payload(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.incoming == 0 {
            if self.closed {
                return Poll::Ready(Ok(false));
            }
            let header = Header::decode(&self.head, !self.is_client).map_err(io::Error::other)?;
            // As many bytes as are certainly of this frame's header, or of this control frame.
            let wanted = match header {
                Some(header) if header.opcode < CLOSE => {
                    self.incoming = header.length;
                    self.mask = header.mask;
                    self.head = Vec::new();
                    continue;
                }
                Some(header) => {
                    let whole = header.size + header.length as usize;
                    if self.head.len() == whole {
                        self.control(header);
                        continue;
                    }
                    whole
                }
                None if self.head.len() < 2 => 2,
                None => {
                    let extended = match self.head[1] & 0x7f {
                        126 => 2,
                        127 => 8,
                        _ => 0,
                    };
                    2 + extended + if self.is_client { 0 } else { 4 }
                }
            };
            let mut bytes = [0; MAX_HEADER + MAX_CONTROL];
            let mut part = ReadBuf::new(&mut bytes[..wanted - self.head.len()]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
            if part.filled().is_empty() {
                return Poll::Ready(Ok(false));
            }
            self.head.extend_from_slice(part.filled());
        }
        Poll::Ready(Ok(true))
    }

    fn control(&mut self, header: Header) {
        let mut payload = std::mem::take(&mut self.head).split_off(header.size);
        payload.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= header.mask[at % 4]);
        match header.opcode {
            CLOSE => self.closed = true,
            PING => self.pong = Some(payload),
            _ => {}
        }
    }

    /// Writes what is left of a header and of control frames; a new frame may begin after it.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.outgoing_head.is_empty() {
                let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.outgoing_head))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.outgoing_head.drain(..written);
            }
            if self.outgoing > 0 {
                return Poll::Ready(Ok(()));
            }
            let Some(pong) = self.pong.take() else { return Poll::Ready(Ok(())) };
            let header = Header { opcode: PONG, mask: [0; 4], length: pong.len() as u64, size: 0 };
            let (head, size) = header.encode(self.is_client);
            self.outgoing_head.extend_from_slice(&head[..size]);
            self.outgoing_head.extend_from_slice(&pong);
        }
    }

    /// Begins a frame for `length` bytes if none has begun.
    fn begin(&mut self, length: usize) -> ([u8; MAX_HEADER], usize) {
        if self.outgoing > 0 {
            return ([0; MAX_HEADER], 0);
        }
        self.outgoing = length;
        Header { opcode: BINARY, mask: [0; 4], length: length as u64, size: 0 }.encode(self.is_client)
    }

    /// Accounts for bytes that were written behind `size` bytes of a new header; gives how many were payload.
    fn wrote(&mut self, written: usize, head: &[u8]) -> usize {
        let of_head = written.min(head.len());
        self.outgoing_head.extend_from_slice(&head[of_head..]);
        let payload = written - of_head;
        self.outgoing -= payload;
        payload
    }
}

impl<Io: Duplex> AsyncRead for WebSocket<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !ready!(this.poll_payload(cx))? {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let mut payload = (&mut this.io).take(this.incoming);
        ready!(Pin::new(&mut payload).poll_read(cx, buf))?;
        let got = &mut buf.filled_mut()[before..];
        if this.mask != [0; 4] {
            let mask = this.mask;
            got.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= mask[at % 4]);
            this.mask.rotate_left(got.len() % 4);
        }
        this.incoming -= got.len() as u64;
        Poll::Ready(Ok(()))
    }
}

impl<Io: Duplex> AsyncWrite for WebSocket<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_head(cx))?;
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let begun = this.outgoing > 0;
        let (head, size) = this.begin(total);
        let head = &head[..size];
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(bufs.len() + 1);
        if !begun {
            slices.push(IoSlice::new(head));
        }
        // Of a frame that has begun no more is written than it announced.
        let mut left = this.outgoing;
        for buf in bufs {
            let length = buf.len().min(left);
            if length > 0 {
                slices.push(IoSlice::new(&buf[..length]));
                left -= length;
            }
        }
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, &slices);
        match polled {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => match this.wrote(written, head) {
                // Only a part of the header was taken, which is nothing to the caller.
                0 => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                payload => Poll::Ready(Ok(payload)),
            },
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                if !begun {
                    this.outgoing = 0;
                }
                Poll::Pending
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_head(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
