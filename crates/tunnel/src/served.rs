//! The agent's end: it answers requests.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Empty};

use crate::driver::{self, Accept};
use crate::exchange::{Exchange, Incoming, SendError, Stream};
use crate::head::{decode_request, encode_response};
use crate::state::{Role, Shared};
use crate::{Body, Duplex, Error, Settings, Traffic};

/// Answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request. The future is dropped when the host gives the request up.
    fn handle(&self, request: Request<Body>) -> impl Future<Output = Reply> + Send;
}

/// The answer to a request.
pub enum Reply {
    /// An answer; its body streams.
    Response(Response<Body>),
    /// A change of protocols: the head of the answer (101), and the other end of the bytes that follow.
    Switch(Response<()>, Box<dyn Duplex>),
}

/// The agent's end of a connection. Clones share it.
#[derive(Clone)]
pub struct Served {
    shared: Arc<Shared>,
}

impl Served {
    /// Takes a connection up. The future moves its bytes and must be spawned; it ends with the connection.
    pub fn start<Io: Duplex, H: Handler>(
        io: Io,
        settings: Settings,
        handler: H,
    ) -> (Self, impl Future<Output = Result<(), Error>> + Send) {
        let shared = Arc::new(Shared::new(Role::Agent, settings));
        let requests = Requests { shared: shared.clone(), handler };
        (Self { shared: shared.clone() }, driver::run(io, shared, requests))
    }

    /// Tells the host to send no new requests; the connection ends when the last that is under way has ended.
    pub fn drain(&self) {
        driver::drain(&self.shared);
    }

    /// Ends the connection at once, with what is under way on it.
    pub fn close(&self) {
        driver::close(&self.shared, "it was closed");
    }

    /// Whether the host may send new requests.
    pub fn is_open(&self) -> bool {
        self.shared.lock().is_open()
    }

    /// How many requests are under way.
    pub fn streams(&self) -> usize {
        self.shared.lock().count()
    }

    /// How many replicas the host has, as it said last.
    pub fn replicas(&self) -> Option<usize> {
        self.shared.lock().replicas().map(|count| count as usize)
    }

    /// Ends when the connection has.
    pub async fn closed(&self) {
        self.shared.ended.cancelled().await;
    }

    /// What has passed on the connection.
    pub fn traffic(&self) -> Traffic {
        self.shared.lock().traffic()
    }
}

struct Requests<H> {
    shared: Arc<Shared>,
    handler: H,
}

impl<H: Handler> Accept for Requests<H> {
    fn accept(&self, stream: u32, head: Bytes) -> Result<(), Error> {
        let request = decode_request(head)?;
        let exchange = Arc::new(Exchange::new(self.shared.clone(), stream));
        // What follows a request for an upgrade are the bytes after it.
        let body = if request.headers().contains_key(header::UPGRADE) {
            Empty::new().map_err(|never| match never {}).boxed_unsync()
        } else {
            Incoming::new(exchange.clone(), request.headers()).map_err(Into::into).boxed_unsync()
        };
        let request = request.map(|()| body);
        let handler = self.handler.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = exchange.given_up() => {}
                () = answer(&exchange, handler.handle(request)) => {}
            }
        });
        Ok(())
    }
}

async fn answer(exchange: &Arc<Exchange>, reply: impl Future<Output = Reply> + Send) {
    match reply.await {
        Reply::Response(response) => {
            let (parts, body) = response.into_parts();
            let ends = body.is_end_stream();
            let response = Response::from_parts(parts, ());
            match encode_response(&response) {
                Ok(head) => exchange.respond(head, ends),
                Err(error) => return exchange.give_up(&error.to_string()),
            }
            if ends {
                exchange.flush();
            } else if let Err(SendError::Body(error)) = exchange.send_body(body).await {
                // A body that broke must not look like one that ended.
                exchange.give_up(&format!("the member's answer broke off: {error}"));
            }
        }
        Reply::Switch(response, mut far) => {
            match encode_response(&response) {
                Ok(head) => exchange.respond(head, false),
                Err(error) => return exchange.give_up(&error.to_string()),
            }
            exchange.flush();
            let mut near = Stream::new(exchange.clone());
            // Either side may go at any moment; that is how sessions end.
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("streams", &self.streams()).finish_non_exhaustive()
    }
}
