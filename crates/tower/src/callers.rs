//! A caller's request on its way to a member: `https://<tower>/clusters/<name>/…`.
//!
//! It runs in the member as the agent, so the right to reach the member is all rights the agent has there, and nothing the caller
//! says about who asks may pass. Three things need a right of their own beside the method's: to have it run as somebody else
//! (`impersonate`), to change the protocol, because a GET may then be a shell (`create`), and to be led on into the member's network
//! (`proxy`). `spec/security-checklist.md`, lines 1 to 4, 6, 17, 18 and 20.

use std::sync::Arc;

use hansa_access::{
    Identity, Question,
    answer::{cleaned, unavailable},
    bearer,
    headers::{asks_to_upgrade, stripped, towards_cluster},
    impersonation,
    route::{HOST, Route, route, verb},
};
use hansa_listener::serve::Peer;
use hansa_machinery::Status;
use hansa_transport::{Body, holding};
use hansa_tunnel::{Answer, Host, Stream};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use crate::{
    Shared,
    answers::{bad_gateway, failed, timed_out},
    limits::{Over, Places},
    pipe,
};

/// Answers a request for a member.
pub(crate) async fn handle(
    tower: &Arc<Shared>,
    peer: &Peer,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let caller = tower.reviews.authenticate(bearer(request.headers())?).await?;
    peer.known();
    let Route { cluster, path } = route(request.uri().path())?;
    if cluster == HOST {
        return Err(Status::no_such_resource());
    }
    let wanted = impersonation::requested(request.headers())?.map(|(wanted, _)| wanted);
    let wanted = match wanted {
        Some(wanted) if !wanted.is_expressible() => {
            return Err(Status::bad_request("the name to impersonate cannot be said in a header"));
        }
        wanted => wanted,
    };
    let upgrade = asks_to_upgrade(request.headers());
    authorize(tower, &caller, verb(request.method())?, &cluster).await?;
    let further = [(upgrade, "create"), (is_proxy(&path), "proxy"), (wanted.is_some(), "impersonate")];
    for (_, verb) in further.into_iter().filter(|(asked, _)| *asked) {
        authorize(tower, &caller, verb, &cluster).await?;
    }

    let under = wanted.as_ref().map_or("", |wanted| &wanted.name);
    let entered = tower.under_way.enter(&format!("{}\n{under}", caller.name), &cluster);
    let (pending, places) = entered.map_err(|over| match over {
        Over::Caller => {
            Status::too_many_requests("you have as many requests under way as you may; try again later", 1)
        }
        Over::Member => unavailable(&cluster, "as many requests are under way to it as may be"),
    })?;

    let caller = request.extensions_mut().remove::<OnUpgrade>();
    if upgrade && caller.is_none() {
        return Err(Status::bad_request("this connection cannot be upgraded: HTTP/1.1 is needed"));
    }
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    *request.uri_mut() = format!("{path}{query}")
        .parse::<Uri>()
        .map_err(|_| Status::bad_request("the path is not one a cluster could have"))?;
    request.extensions_mut().clear();
    match &wanted {
        Some(wanted) => towards_cluster(request.headers_mut(), wanted, upgrade),
        None => stripped(request.headers_mut(), upgrade),
    }

    let host = session(tower, &cluster).await?;
    let began = Instant::now();
    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    let answer = timeout(tower.options.answer, host.send(request)).await;
    let answer = answer.map_err(|_| timed_out(&cluster))?.map_err(|error| {
        tracing::info!(cluster, %error, "a request did not get through");
        failed(&cluster, &error)
    })?;
    drop(pending);
    tower.metrics.answered(began.elapsed());
    match (answer, caller) {
        (Answer::Switched(response, member), Some(caller)) if upgrade => {
            tower.tasks.spawn(join(caller, member, places));
            Ok(cleaned(response.map(|()| hansa_transport::empty()), true))
        }
        (Answer::Switched(..), _) => Err(bad_gateway(&cluster, "it changed the protocol unasked")),
        (Answer::Response(response), _) => match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => Err(bad_gateway(&cluster, "it changed the protocol unasked")),
            // What was refused is the agent's credential: the caller's was accepted here.
            StatusCode::UNAUTHORIZED => {
                Err(bad_gateway(&cluster, "it no longer accepts the credential of its agent"))
            }
            _ => Ok(cleaned(response, false).map(|body| holding(body, places))),
        },
    }
}

/// Whether the caller may reach this member in this way. One that does not exist is refused with the same words as one that is
/// forbidden, and after the same question.
async fn authorize(tower: &Shared, caller: &Identity, verb: &str, cluster: &str) -> Result<(), Status> {
    let question = Question {
        verb: verb.to_owned(),
        group: "cluster.kubesphere.io",
        resource: "clusters".to_owned(),
        subresource: "tunnel".to_owned(),
        namespace: String::new(),
        name: cluster.to_owned(),
    };
    if tower.reviews.allows(caller, question).await? {
        return Ok(());
    }
    let why = format!(
        "User {:?} cannot {verb} resource \"clusters/tunnel\" in API group \"cluster.kubesphere.io\"",
        caller.name
    );
    Err(Status::forbidden("cluster.kubesphere.io", "clusters", cluster, &why))
}

/// A session with an agent of the cluster. Where one is expected, the request waits for it.
async fn session(tower: &Shared, cluster: &str) -> Result<Host, Status> {
    let mut changes = tower.sessions.changes();
    if let Some(host) = tower.sessions.pick(cluster) {
        return Ok(host);
    }
    let none = || {
        unavailable(
            cluster,
            "no agent of it is connected; `kubectl logs` of the agent on the cluster says why",
        )
    };
    let now = Instant::now();
    if tower.draining.is_cancelled()
        || !(tower.sessions.expects(cluster, now) || tower.replicas().has(cluster, now))
    {
        return Err(none());
    }
    let found = async {
        loop {
            if changes.changed().await.is_err() {
                return None;
            }
            if let Some(host) = tower.sessions.pick(cluster) {
                return Some(host);
            }
        }
    };
    let found = timeout(tower.options.wait, found).await.ok().flatten();
    tower.metrics.waited(now.elapsed());
    found.ok_or_else(none)
}

/// Joins the two upgraded connections until one of them ends.
async fn join(caller: OnUpgrade, member: Stream, _places: Places) {
    if let Ok(caller) = caller.await {
        // Either side may go at any moment; that is how sessions end.
        let _ = pipe::join(TokioIo::new(caller), member).await;
    }
}

/// Whether the path leads through the member's API server to something else: a Service, a Pod or a Node in the member's network.
fn is_proxy(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let of = |kind: &str| matches!(kind, "services" | "pods" | "nodes");
    match segments.as_slice() {
        // `…/proxy` of an object, and the older form that names it the other way round (`/api/v1/proxy/…`).
        ["api", _, "namespaces", _, kind, _, "proxy", ..] | ["api", _, kind, _, "proxy", ..] => of(kind),
        ["api", _, "proxy", ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line 17: the way into a member's network is told from its API.
    #[test]
    fn what_leads_on_into_the_network_is_recognised() {
        for path in [
            "/api/v1/namespaces/a/services/https:b:443/proxy/x",
            "/api/v1/namespaces/a/pods/b/proxy",
            "/api/v1/nodes/n/proxy/logs",
            "/api/v1/proxy/namespaces/a/services/b",
        ] {
            assert!(is_proxy(path), "{path}");
        }
        for path in [
            "/api/v1/namespaces/proxy/pods/proxy",
            "/api/v1/namespaces/a/pods/b/log",
            "/apis/apps/v1/namespaces/a/deployments/b/proxy",
            "/api/v1/nodes/proxy",
            "/",
        ] {
            assert!(!is_proxy(path), "{path}");
        }
    }
}
