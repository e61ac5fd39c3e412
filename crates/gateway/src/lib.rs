//! The control plane's HTTPS API: one address for every cluster, each caller with their own rights.
//!
//! Authenticate by the host's TokenReview, authorise by its SubjectAccessReview, then dispatch with impersonation, so that
//! the cluster's own RBAC decides. The order is fixed in [`Gateway::handle`]; nothing is routed before it is known who asks
//! (`spec/security-checklist.md`, line 2).

mod dispatch;
mod invitation;

use hansa_access::{
    Identity, Question, Reviews,
    answer::{self, unavailable},
    bearer, impersonation,
    route::{HOST, Route, route, verb},
};
use hansa_cluster::Registry;
use hansa_machinery::Status;
use hansa_transport::{Body, Transport};
use http::{Request, Response};

use crate::dispatch::Dispatcher;

/// The gateway: it holds no state of its own and may run any number of times.
#[derive(Clone)]
pub struct Gateway {
    host: Transport,
    client: kube::Client,
    reviews: Reviews,
    registry: Registry,
    dispatcher: Dispatcher,
}

impl Gateway {
    /// A gateway in front of `host`, which it reaches with the right to review and to impersonate, and the members of
    /// `registry`.
    pub fn new(host: Transport, registry: Registry) -> Self {
        let client = host.client("default");
        let reviews = Reviews::new(client.clone());
        Self { host, client, reviews, registry, dispatcher: Dispatcher::default() }
    }

    /// Answers one request. A failure is a `Status`, as any Kubernetes client understands it.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        if matches!(request.uri().path(), "/healthz" | "/livez") {
            return answer::text("ok");
        }
        match self.try_handle(request).await {
            Ok(response) => response,
            Err(status) => answer::status(&status),
        }
    }

    async fn try_handle(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let caller = self.reviews.authenticate(bearer(request.headers())?).await?;
        let Route { cluster, path } = route(request.uri().path())?;
        let identity = impersonation::effective(&self.reviews, caller, request.headers()).await?;
        if !identity.is_expressible() {
            return Err(Status::bad_request("the name to impersonate cannot be said in a header"));
        }
        // A member is reached by its own transport, chosen by the registry and by nothing in the request.
        let member;
        let transport = if cluster == HOST {
            if let Some(name) = invitation::asked(&path, request.uri()) {
                let (client, method) = (&self.client, request.method());
                return invitation::manifest(client, &self.reviews, &identity, method, name).await;
            }
            &self.host
        } else {
            self.authorize(&identity, request.method(), &cluster).await?;
            member = self.member(&cluster)?;
            &member
        };
        self.dispatcher.dispatch(&cluster, transport, request, &path, &identity).await
    }

    /// Whether the caller may reach this member at all. A cluster that does not exist is refused with the same words as one
    /// that is forbidden (`spec/security-checklist.md`, line 18).
    async fn authorize(
        &self,
        identity: &Identity,
        method: &http::Method,
        cluster: &str,
    ) -> Result<(), Status> {
        let verb = verb(method)?;
        let question = Question {
            verb: verb.to_owned(),
            group: "cluster.kubesphere.io",
            resource: "clusters".to_owned(),
            subresource: "proxy".to_owned(),
            namespace: String::new(),
            name: cluster.to_owned(),
        };
        if self.reviews.allows(identity, question).await? {
            return Ok(());
        }
        let why = format!(
            "User {:?} cannot {verb} resource \"clusters/proxy\" in API group \"cluster.kubesphere.io\"",
            identity.name
        );
        Err(Status::forbidden("cluster.kubesphere.io", "clusters", cluster, &why))
    }

    /// The way to a member that is ready.
    fn member(&self, cluster: &str) -> Result<Transport, Status> {
        let snapshot = self.registry.members();
        if !snapshot.synced {
            return Err(unavailable(cluster, "the gateway is still starting"));
        }
        let Some(member) = snapshot.members.get(cluster) else {
            return Err(Status::not_found("cluster.kubesphere.io", "clusters", cluster));
        };
        match &member.transport {
            Some(transport) if member.ready => Ok(transport.clone()),
            Some(_) => Err(unavailable(cluster, "it is not ready; `hansa get clusters -o wide` says why")),
            None => Err(unavailable(
                cluster,
                "its connection is not usable; `hansa get clusters -o wide` says why",
            )),
        }
    }
}
