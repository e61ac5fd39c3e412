//! The frames of a connection: eight bytes of header, then a payload.
//!
//! ```text
//!  0      3      4      8
//!  +------+------+------+----------
//!  | size | kind |stream| payload      big-endian; the top bit of `kind` ends the sender's half of the stream
//!  +------+------+------+----------
//! ```

use bytes::{Buf, Bytes, BytesMut};

/// The size of a header, in bytes.
pub const HEADER: usize = 8;
/// The largest payload of [`Kind::Data`], in bytes: small enough for streams to take turns, large enough for headers to cost nothing.
pub const MAX_DATA: usize = 64 << 10;
/// The largest head of a request or an answer, in bytes: impersonated groups may be many.
pub const MAX_HEAD: usize = 512 << 10;
/// The longest reason of a reset, in bytes.
pub const MAX_REASON: usize = 1024;
/// The version of the protocol, which both ends say first.
pub const VERSION: u32 = 1;

const END: u8 = 0x80;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first frame of each end: its version, its window and its bound of streams.
    Hello = 0,
    /// The head of a request; opens a stream.
    Request = 1,
    /// The head of an answer.
    Response = 2,
    /// A piece of a body.
    Data = 3,
    /// How many more bytes the other end may send on the stream.
    Credit = 4,
    /// The stream is given up, and why.
    Reset = 5,
    /// Asks for a sign of life.
    Ping = 6,
    /// The sign of life, with what the question bore.
    Pong = 7,
    /// No stream is taken any more; those there are go on.
    GoAway = 8,
    /// The host's end says how many replicas of it there are, so that the agent connects to each.
    Replicas = 9,
}

/// What a peer did that the protocol does not allow. The connection ends with it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Violation {
    /// A kind of frame that is not known.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// A frame of a size that its kind cannot have.
    #[error("a {0:?} frame of {1} bytes")]
    Size(Kind, usize),
    /// A frame for a stream that belongs to the connection, or the other way round.
    #[error("a {0:?} frame for stream {1}")]
    Stream(Kind, u32),
    /// A frame that has no place at this moment.
    #[error("a {0:?} frame out of turn")]
    Turn(Kind),
    /// A head that does not parse.
    #[error("the head of a message does not parse: {0}")]
    Head(&'static str),
    /// More bytes than there was leave for.
    #[error("more bytes on stream {0} than there was leave for")]
    Window(u32),
    /// More streams than there was leave for.
    #[error("more streams than the {0} there was leave for")]
    Streams(usize),
    /// A version that this end does not speak.
    #[error("version {0} of the protocol; this end speaks version {VERSION}")]
    Version(u32),
    /// What came is not a WebSocket frame that may come.
    #[error("a WebSocket frame that cannot be: {0}")]
    WebSocket(&'static str),
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload.
    pub size: usize,
    /// What it is for.
    pub kind: Kind,
    /// Whether the sender's half of the stream ends with it.
    pub end: bool,
    /// The stream; 0 for the connection.
    pub stream: u32,
}

impl Header {
    /// The header as it is sent.
    pub fn encode(self) -> [u8; HEADER] {
        let size = (self.size as u32).to_be_bytes();
        let kind = self.kind as u8 | if self.end { END } else { 0 };
        let stream = self.stream.to_be_bytes();
        [size[1], size[2], size[3], kind, stream[0], stream[1], stream[2], stream[3]]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// When no frame begins so. Nothing of the size that it claims is reserved before this is known.
    pub fn decode(bytes: [u8; HEADER]) -> Result<Self, Violation> {
        let size = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let kind = match bytes[3] & !END {
            0 => Kind::Hello,
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Data,
            4 => Kind::Credit,
            5 => Kind::Reset,
            6 => Kind::Ping,
            7 => Kind::Pong,
            8 => Kind::GoAway,
            9 => Kind::Replicas,
            _ => return Err(Violation::Kind(bytes[3])),
        };
        let end = bytes[3] & END != 0;
        let stream = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let fits = match kind {
            Kind::Hello => size == 12,
            Kind::Request | Kind::Response => size <= MAX_HEAD,
            Kind::Data => size <= MAX_DATA,
            Kind::Credit | Kind::Replicas => size == 4,
            Kind::Reset => size <= MAX_REASON,
            Kind::Ping | Kind::Pong => size == 8,
            Kind::GoAway => size == 0,
        };
        if !fits {
            return Err(Violation::Size(kind, size));
        }
        let of_connection =
            matches!(kind, Kind::Hello | Kind::Ping | Kind::Pong | Kind::GoAway | Kind::Replicas);
        if of_connection != (stream == 0) {
            return Err(Violation::Stream(kind, stream));
        }
        if end && !matches!(kind, Kind::Request | Kind::Response | Kind::Data) {
            return Err(Violation::Kind(bytes[3]));
        }
        Ok(Self { size, kind, end, stream })
    }
}

/// What was read: a whole frame, or as much of a [`Kind::Data`] frame as is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The header; of a part of a frame, `size` and `end` are the part's own.
    pub header: Header,
    /// The payload.
    pub payload: Bytes,
}

/// Payloads shorter than this are copied out of the buffer they arrived in, so that one that is kept does not keep the whole buffer.
const COPIED: usize = 8 << 10;

/// Cuts what arrives into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The header of the frame whose payload is being read, with what is left of its size.
    current: Option<Header>,
}

impl Decoder {
    /// The next piece, if enough of it is there.
    ///
    /// # Errors
    /// When what arrived is no frame.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Piece>, Violation> {
        let header = match self.current {
            Some(header) => header,
            None => {
                let Some(bytes) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
                let header = Header::decode(*bytes)?;
                buffer.advance(HEADER);
                header
            }
        };
        let there = buffer.len().min(header.size);
        if there < header.size && (header.kind != Kind::Data || there == 0) {
            self.current = Some(header);
            return Ok(None);
        }
        let left = header.size - there;
        let payload = if there < COPIED {
            let copy = Bytes::copy_from_slice(&buffer[..there]);
            buffer.advance(there);
            copy
        } else {
            buffer.split_to(there).freeze()
        };
        self.current = (left > 0).then_some(Header { size: left, ..header });
        Ok(Some(Piece { header: Header { size: there, end: header.end && left == 0, ..header }, payload }))
    }

    /// How many bytes of the current frame are missing; 0 between frames.
    pub fn missing(&self) -> usize {
        self.current.map_or(0, |header| header.size)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_that_cannot_be_are_refused_by_their_header_alone() {
        let decode = |size: u32, kind: u8, stream: u32| {
            let (size, stream) = (size.to_be_bytes(), stream.to_be_bytes());
            Header::decode([size[1], size[2], size[3], kind, stream[0], stream[1], stream[2], stream[3]])
        };
        assert_eq!(decode(MAX_DATA as u32 + 1, 3, 1), Err(Violation::Size(Kind::Data, MAX_DATA + 1)));
        assert_eq!(decode(MAX_HEAD as u32 + 1, 1, 1), Err(Violation::Size(Kind::Request, MAX_HEAD + 1)));
        assert_eq!(decode(0, 10, 1), Err(Violation::Kind(10)));
        assert_eq!(decode(8, 6, 1), Err(Violation::Stream(Kind::Ping, 1)));
        assert_eq!(decode(5, 3, 0), Err(Violation::Stream(Kind::Data, 0)));
        assert_eq!(decode(4, 4 | END, 1), Err(Violation::Kind(4 | END)));
        assert_eq!(decode(3, 4, 1), Err(Violation::Size(Kind::Credit, 3)));
    }

    fn frames() -> impl Strategy<Value = Vec<(Header, Vec<u8>)>> {
        let payload = prop::collection::vec(any::<u8>(), 0..20_000);
        let frame = (0u8..4, any::<bool>(), 1u32.., payload).prop_map(|(kind, end, stream, mut payload)| {
            let kind = [Kind::Data, Kind::Request, Kind::Reset, Kind::Credit][kind as usize];
            payload.truncate(match kind {
                Kind::Reset => MAX_REASON,
                Kind::Credit => 4,
                _ => usize::MAX,
            });
            if kind == Kind::Credit {
                payload.resize(4, 0);
            }
            let end = end && matches!(kind, Kind::Data | Kind::Request);
            (Header { size: payload.len(), kind, end, stream }, payload)
        });
        prop::collection::vec(frame, 0..6)
    }

    proptest! {
        /// However the bytes are cut on their way, the same frames come out.
        #[test]
        fn frames_survive_any_cutting(frames in frames(), cuts in prop::collection::vec(1usize..9000, 1..20)) {
            let mut wire = Vec::new();
            for (header, payload) in &frames {
                wire.extend_from_slice(&header.encode());
                wire.extend_from_slice(payload);
            }
            let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
            let mut found: Vec<(Header, Vec<u8>)> = Vec::new();
            let (mut at, mut cuts, mut whole) = (0, cuts.iter().cycle(), true);
            while at < wire.len() {
                let next = (at + cuts.next().unwrap()).min(wire.len());
                buffer.extend_from_slice(&wire[at..next]);
                at = next;
                while let Some(piece) = decoder.next(&mut buffer).unwrap() {
                    if whole {
                        found.push((piece.header, piece.payload.to_vec()));
                    } else {
                        let (header, payload) = found.last_mut().unwrap();
                        payload.extend_from_slice(&piece.payload);
                        header.size += piece.payload.len();
                        header.end = piece.header.end;
                    }
                    whole = decoder.missing() == 0;
                }
            }
            prop_assert_eq!(found, frames);
            prop_assert!(buffer.is_empty());
        }

        /// Garbage ends in an error or in frames, never in a panic, and nothing is kept beyond what arrived.
        #[test]
        fn garbage_does_no_harm(garbage in prop::collection::vec(any::<u8>(), 0..4000)) {
            let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::from(&garbage[..]));
            let mut seen = 0;
            while let Ok(Some(piece)) = decoder.next(&mut buffer) {
                seen += piece.payload.len();
            }
            prop_assert!(seen <= garbage.len());
        }
    }
}
