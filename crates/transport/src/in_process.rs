//! A server in this process.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryFutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tower::{Service, ServiceExt};

use crate::body::{Body, boxed};
use crate::error::{BoxError, Error};

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

pub(crate) struct InProcess {
    call: Arc<dyn Fn(Request<Body>) -> Answer + Send + Sync>,
}

impl InProcess {
    pub(crate) fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let call = move |request| -> Answer {
            let answer = service.clone().oneshot(request);
            Box::pin(
                answer
                    .map_ok(|response| response.map(boxed))
                    .map_err(|error| Error::InProcess(error.into().to_string())),
            )
        };
        Self { call: Arc::new(call) }
    }

    pub(crate) fn call(&self, request: Request<Body>) -> Answer {
        (self.call)(request)
    }

    /// An upgrade needs two ends of a stream, so it goes over one in memory.
    pub(crate) async fn upgrade(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let call = self.call.clone();
        let serve = hyper::service::service_fn(move |request: Request<Incoming>| call(request.map(boxed)));
        tokio::spawn(async move {
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), serve);
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "in-process connection ended");
            }
        });
        let failed = |error: hyper::Error| Error::InProcess(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(near)).await.map_err(failed)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "in-process connection ended");
            }
        });
        let mut request = request;
        request
            .headers_mut()
            .entry(http::header::HOST)
            .or_insert(http::HeaderValue::from_static("in-process"));
        sender.send_request(request).await.map_err(failed)
    }
}
