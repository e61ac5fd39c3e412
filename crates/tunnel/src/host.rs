//! The host's end: it sends requests.

use std::future::poll_fn;
use std::sync::Arc;

use http::{Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use crate::driver::{self, NoRequests};
use crate::exchange::{Exchange, Incoming, SendError, Stream};
use crate::head::{decode_response, encode_request};
use crate::state::{Role, Shared};
use crate::{Body, Duplex, Error, Settings, Traffic};

/// The host's end of one connection of an agent. Clones share it.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

/// What came of a request.
pub enum Answer {
    /// An answer; its body streams.
    Response(Response<Body>),
    /// The agent's side changed protocols (101): the head of its answer, and the bytes that follow.
    Switched(Response<()>, Stream),
}

impl Host {
    /// Takes a connection up. The future moves its bytes and must be spawned; it ends with the connection.
    pub fn start<Io: Duplex>(
        io: Io,
        settings: Settings,
    ) -> (Self, impl Future<Output = Result<(), Error>> + Send) {
        let shared = Arc::new(Shared::new(Role::Host, settings));
        (Self { shared: shared.clone() }, driver::run(io, shared, NoRequests))
    }

    /// Sends a request whose URI is a path on the member's API server, and waits for the head of the answer. A request with an `Upgrade` header
    /// may be answered by [`Answer::Switched`]; its own body is not sent then.
    ///
    /// # Errors
    /// When the connection is lost, takes no more streams, or the agent gives the request up. Whoever drops the future gives it up.
    pub async fn send(&self, request: Request<Body>) -> Result<Answer, Error> {
        let head = encode_request(&request)?;
        let upgrade = request.headers().contains_key(header::UPGRADE);
        let body = request.into_body();
        let ends = !upgrade && body.is_end_stream();
        let stream = poll_fn(|cx| self.shared.lock().poll_open(cx, &head, ends)).await?;
        let exchange = Arc::new(Exchange::new(self.shared.clone(), stream));
        let mut sending = (!upgrade && !ends).then(|| Box::pin(send(exchange.clone(), body)));
        let head = poll_fn(|cx| {
            if let Some(body) = sending.as_mut()
                && body.as_mut().poll(cx).is_ready()
            {
                sending = None;
            }
            exchange.flush();
            exchange.poll_head(cx)
        });
        let response = decode_response(head.await?)?;
        if let Some(rest) = sending {
            // The answer began before the request had ended; what is left of it goes on its own.
            tokio::spawn(rest);
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if !upgrade {
                return Err(Error::Reset("it changed the protocol unasked".to_owned()));
            }
            return Ok(Answer::Switched(response, Stream::new(exchange)));
        }
        if upgrade {
            exchange.finish();
        }
        let body = Incoming::new(exchange, response.headers());
        Ok(Answer::Response(response.map(|()| body.map_err(Into::into).boxed_unsync())))
    }

    /// How many requests are under way.
    pub fn streams(&self) -> usize {
        self.shared.lock().count()
    }

    /// Whether requests can be sent.
    pub fn is_open(&self) -> bool {
        self.shared.lock().is_open()
    }

    /// Sends no new requests; the connection ends when the last that is under way has ended.
    pub fn drain(&self) {
        driver::drain(&self.shared);
    }

    /// Ends the connection at once, with what is under way on it.
    pub fn close(&self) {
        driver::close(&self.shared, "it was closed");
    }

    /// Tells the agent how many replicas of this end there are.
    pub fn say_replicas(&self, count: usize) {
        self.shared.lock().say_replicas(u32::try_from(count).unwrap_or(u32::MAX));
        self.shared.driver.wake();
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

async fn send(exchange: Arc<Exchange>, body: Body) {
    match exchange.send_body(body).await {
        // Without the rest of its body the request means something else than was said.
        Err(SendError::Body(error)) => exchange.give_up(&format!("the request's body broke: {error}")),
        // Whoever waits for the answer learns why the stream was given up.
        Ok(()) | Err(SendError::Tunnel) => {}
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("streams", &self.streams()).finish_non_exhaustive()
    }
}
