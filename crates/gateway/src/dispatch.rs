//! One request on its way to a cluster and its answer on the way back, streamed in both directions.

use std::sync::Arc;

use hansa_access::{
    Identity,
    answer::{self, cleaned, unavailable},
    headers::{self, asks_to_upgrade},
};
use hansa_machinery::Status;
use hansa_transport::{Body, Transport, Upgrade};
use http::{Request, Response, StatusCode, Uri};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;

/// Upgraded connections (exec, attach, port-forward, watch by WebSocket) that all callers may hold at once.
const UPGRADES: usize = 4096;

/// Sends requests to clusters in the name of their callers.
#[derive(Clone)]
pub(crate) struct Dispatcher {
    upgrades: Arc<Semaphore>,
}

impl Default for Dispatcher {
    fn default() -> Self {
        Self { upgrades: Arc::new(Semaphore::new(UPGRADES)) }
    }
}

impl Dispatcher {
    /// Sends `request` to the cluster behind `transport` as `path`, on behalf of `identity`.
    pub(crate) async fn dispatch(
        &self,
        cluster: &str,
        transport: &Transport,
        mut request: Request<Body>,
        path: &str,
        identity: &Identity,
    ) -> Result<Response<Body>, Status> {
        let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
        *request.uri_mut() = format!("{path}{query}")
            .parse::<Uri>()
            .map_err(|_| Status::bad_request("the path is not one a cluster could have"))?;
        let upgrade = asks_to_upgrade(request.headers());
        let caller = request.extensions_mut().remove::<OnUpgrade>();
        // Nothing a connection of ours knows about its peer may travel on.
        request.extensions_mut().clear();
        headers::towards_cluster(request.headers_mut(), identity, upgrade);
        let failed = |error: hansa_transport::Error| {
            tracing::warn!(cluster, error = %answer::chain(&error), "a cluster could not be reached");
            unavailable(cluster, &error.to_string())
        };
        let response = if upgrade {
            match transport.upgrade(request).await.map_err(failed)? {
                Upgrade::Switched(response, stream) => return self.join(caller, response, stream),
                Upgrade::Refused(response) => response,
            }
        } else {
            transport.request(request).await.map_err(failed)?
        };
        match response.status() {
            // A cluster that switches without being asked speaks something we do not follow.
            StatusCode::SWITCHING_PROTOCOLS => Err(unavailable(cluster, "it changed the protocol unasked")),
            // The cluster refused the gateway's own credential: that is no reason to send the caller to a login page.
            StatusCode::UNAUTHORIZED => Err(Status::new(
                511,
                "NetworkAuthenticationRequired",
                format!(
                    "cluster {cluster:?} no longer accepts the host's credential: renew it with `hansa join {cluster} --update`"
                ),
            )),
            _ => Ok(cleaned(response, false)),
        }
    }

    /// Joins the two upgraded connections until one of them ends.
    fn join(
        &self,
        caller: Option<OnUpgrade>,
        response: Response<()>,
        cluster: Upgraded,
    ) -> Result<Response<Body>, Status> {
        let caller = caller
            .ok_or_else(|| Status::bad_request("this connection cannot be upgraded: HTTP/1.1 is needed"))?;
        let slot = self.upgrades.clone().try_acquire_owned();
        let slot =
            slot.map_err(|_| Status::too_many_requests("too many open sessions; try again later", 5))?;
        tokio::spawn(async move {
            let _slot = slot;
            if let Ok(caller) = caller.await {
                // Either side may go at any moment; that is how sessions end.
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(caller), &mut TokioIo::new(cluster))
                    .await;
            }
        });
        Ok(cleaned(response.map(|()| hansa_transport::empty()), true))
    }
}
