//! One connection that the agent dials and the host sends requests down.
//!
//! The roles are reversed with respect to who dialled: the host ([`Host`]) opens streams, each of which is one HTTP request and its answer, and
//! the agent ([`Served`]) answers them. Every stream has a window of its own, and the connection as a whole has none, so that a reader that
//! never reads stalls its own stream and nothing else. A request and an answer are heads and pieces of bodies; bodies are handed through as they
//! came, without being parsed again. An answer with status 101 turns its stream into bytes in both directions.
//!
//! The protocol is sans I/O in [`frame`], [`head`] and [`window`](mod@window); `state` is what one end knows; `driver` moves bytes. It runs on
//! any byte stream; [`WebSocket`](websocket::WebSocket) makes it pass through HTTP proxies.

mod driver;
mod exchange;
pub mod frame;
pub mod handshake;
pub mod head;
mod host;
mod served;
mod settings;
mod state;
pub mod websocket;
pub mod window;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::io::{AsyncRead, AsyncWrite};

pub use exchange::Stream;
pub use host::{Answer, Host};
pub use served::{Handler, Reply, Served};
pub use settings::Settings;
pub use window::Budget;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A body of any kind.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// Why a request could not be sent, or why a connection ended.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The connection broke or was closed.
    #[error("the connection between tower and agent is lost: {0}")]
    Lost(String),
    /// Nothing was heard for too long.
    #[error("nothing was heard from the other end of the tunnel for {0:?}")]
    Silent(Duration),
    /// The other end does not keep to the protocol.
    #[error("the other end of the tunnel broke the protocol: {0}")]
    Violation(#[from] frame::Violation),
    /// The connection takes no new streams, because one of its ends is about to stop.
    #[error("the connection between tower and agent is being closed; try again")]
    Draining,
    /// As many streams are open as may be.
    #[error("{0} requests are under way on the connection, and no more are taken; try again")]
    Busy(usize),
    /// The other end gave the stream up.
    #[error("the other end of the tunnel gave up: {0}")]
    Reset(String),
    /// The request or the answer cannot be said in the protocol.
    #[error("the message cannot be sent: {0}")]
    Unsayable(&'static str),
}

/// What has passed on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of frames that were sent.
    pub sent: u64,
    /// Bytes of frames that were received.
    pub received: u64,
    /// Streams that were opened.
    pub opened: u64,
    /// How long ago anything was heard.
    pub silence: Duration,
    /// The last measured round trip.
    pub round_trip: Option<Duration>,
}
