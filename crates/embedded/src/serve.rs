//! The server behind a listener of its own.

use std::pin::pin;

use futures::future::BoxFuture;
use hansa_listener::serve::{Limits, Peer, refusal, serve};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Body, Server};

impl Server {
    /// Serves HTTPS on `listener` until `shutdown` or until the server is closed: authenticates, then
    /// [`Server::handle`].
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        let stop = shutdown.child_token();
        let server = self.clone();
        let handler = move |peer, request| server.clone().receive(peer, request);
        let mut serving =
            pin!(serve(listener, self.auth().tls_config(), Limits::default(), stop.clone(), handler));
        tokio::select! {
            () = serving.as_mut() => return,
            () = self.stopping() => stop.cancel(),
        }
        serving.await;
    }

    /// Authenticates, then handles. Boxed, because the compiler cannot see through all of it that it may be sent.
    fn receive(self, peer: Peer, mut request: Request<Incoming>) -> BoxFuture<'static, Response<Body>> {
        match self.auth().authenticate(peer.certificate.as_deref(), request.headers_mut()) {
            Ok(user) => {
                let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                Box::pin(async move { self.handle(user, request).await })
            }
            Err(status) => Box::pin(std::future::ready(refusal(&status))),
        }
    }
}

#[cfg(test)]
mod tests;
