//! What a tower is to the controller: an address that leads to the members whose agents are connected, and a Lease that says which these are.

#![allow(unreachable_pub, dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hansa_api::names;
use hansa_cluster::agents::{Announcement, announcement};
use hansa_embedded::{Server, User};
use hansa_listener::Body;
use hansa_listener::pki::{Authority, ServingCertificate};
use hansa_listener::serve::{Limits, serve, tls_config};
use http::{Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Members = Arc<Mutex<BTreeMap<String, Server>>>;

/// A tower with agents as the test says.
pub struct Tower {
    pub announced: Announcement,
    host: Client,
    members: Members,
    stop: CancellationToken,
}

impl Drop for Tower {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Tower {
    /// One that listens and has not said so.
    pub async fn start(host: &Client) -> Self {
        let now = Timestamp::now();
        let authority = Authority::generate("tower", now).unwrap();
        let names = BTreeSet::from(["127.0.0.1".to_owned(), "localhost".to_owned()]);
        let serving = ServingCertificate::open(&authority, None, &names, now).unwrap();
        let tls = tls_config(&authority, Arc::new(serving)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let (members, stop) = (Members::default(), CancellationToken::new());
        let answer = {
            let (host, members) = (host.clone(), members.clone());
            move |_, request| answer(host.clone(), members.clone(), request)
        };
        tokio::spawn(serve(listener, tls, Limits::default(), stop.clone(), answer));
        let announced =
            Announcement { internal: server.clone(), server, ca: authority.certificate_pem().to_owned() };
        Self { announced, host: host.clone(), members, stop }
    }

    pub async fn announce(&self) {
        announcement::publish(&self.host, &self.announced).await.unwrap();
    }

    /// The agent of a member comes.
    pub async fn connect(&self, cluster: &str, member: &Server) {
        self.members.lock().unwrap().insert(cluster.to_owned(), member.clone());
        self.renew(10).await;
    }

    /// The agent of a member goes.
    pub async fn disconnect(&self, cluster: &str) {
        self.members.lock().unwrap().remove(cluster);
        self.renew(10).await;
    }

    /// Writes the Lease, which lasts `seconds`.
    pub async fn renew(&self, seconds: u32) {
        let agents: BTreeMap<String, u32> =
            self.members.lock().unwrap().keys().map(|name| (name.clone(), 1)).collect();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": "hansa-tower-a", "labels": { names::LABEL_TOWER_REPLICA: "a" },
                "annotations": { names::ANNOTATION_TOWER_AGENTS: serde_json::to_string(&agents).unwrap() },
            },
            "spec": { "holderIdentity": "a", "leaseDurationSeconds": seconds, "renewTime": format!("{:.6}", Timestamp::now()) },
        });
        let leases: Api<Lease> = Api::namespaced(self.host.clone(), names::SYSTEM_NAMESPACE);
        let parameters = PatchParams::apply("tower").force();
        leases.patch("hansa-tower-a", &parameters, &Patch::Apply(lease)).await.unwrap();
    }

    /// Renews the Lease from now on, as long as the tower lives.
    pub fn keep(self: &Arc<Self>) {
        let tower = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(tower) = tower.upgrade() {
                tower.renew(10).await;
                drop(tower);
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        });
    }
}

fn refuse(code: u16) -> Response<Body> {
    let text = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code }).to_string();
    let body = http_body_util::Full::new(text.into()).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(code).header(header::CONTENT_TYPE, "application/json").body(body).unwrap()
}

async fn answer(host: Client, members: Members, request: Request<Incoming>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let token = parts.headers.remove(header::AUTHORIZATION);
    let token = token.as_ref().and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let path = parts.uri.path_and_query().unwrap().as_str();
    let Some((name, path)) = path.strip_prefix("/clusters/").and_then(|rest| rest.split_once('/')) else {
        return refuse(404);
    };
    let review = TokenReview {
        spec: TokenReviewSpec { token: token.map(str::to_owned), audiences: None },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(host.clone());
    let user = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
    let Some(user) = user.user.filter(|_| user.authenticated == Some(true)) else { return refuse(401) };
    if !allowed(&host, &user, "cluster.kubesphere.io", "clusters", "tunnel", "get", name).await {
        return refuse(403);
    }
    let Some(member) = members.lock().unwrap().get(name).cloned() else { return refuse(503) };
    parts.uri = format!("/{path}").parse::<Uri>().unwrap();
    let request = Request::from_parts(parts, body.map_err(Into::into).boxed_unsync());
    member.handle(User::service_account("hansa-agent", "hansa-agent", ""), request).await
}

/// What the host's authoriser says.
pub async fn allowed(
    host: &Client,
    user: &UserInfo,
    group: &str,
    resource: &str,
    subresource: &str,
    verb: &str,
    name: &str,
) -> bool {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username.clone(),
            groups: user.groups.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: some(group),
                resource: some(resource),
                subresource: some(subresource),
                verb: some(verb),
                name: some(name),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(host.clone());
    reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
}

/// Applies a manifest as `kubectl apply` would, to a cluster that knows all its types.
pub async fn apply(client: &Client, objects: Vec<Value>) {
    use kube::api::DynamicObject;
    use kube::core::{ApiResource, GroupVersionKind};
    for object in objects {
        let version = object["apiVersion"].as_str().unwrap();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
        let resource = ApiResource::from_gvk(&kind);
        let metadata = &object["metadata"];
        let api: Api<DynamicObject> = match metadata["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let parameters = PatchParams::apply("kubectl").force();
        let name = metadata["name"].as_str().unwrap();
        api.patch(name, &parameters, &Patch::Apply(&object)).await.unwrap();
    }
}
