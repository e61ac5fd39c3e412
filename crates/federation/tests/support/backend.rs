//! A cluster: an embedded API server in memory, called in process.

use std::convert::Infallible;

use hansa_embedded::{Options, Server, Storage, User};
use hansa_transport::{Body, Transport};
use http::Request;

/// Starts an empty cluster.
pub(crate) async fn start(name: &str) -> Transport {
    let server = Server::open(Options::new(name, Storage::Memory)).await.unwrap();
    Transport::in_process(tower::service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.handle(User::local(), request).await) }
    }))
}
