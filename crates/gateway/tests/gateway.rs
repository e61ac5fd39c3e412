//! The gateway between real HTTP connections: an embedded host behind it, and a member that tells what it was asked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

use std::{convert::Infallible, time::Duration};

use hansa_cluster::{Options, Registry};
use hansa_embedded::{Server, StaticToken, Storage, User};
use hansa_gateway::Gateway;
use hansa_transport::{Body, Transport, boxed, empty};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

const ALICE: &str = "alice-0123456789abcdef0123456789abcdef";
const BOB: &str = "bob-0123456789abcdef0123456789abcdef";

struct Federation {
    gateway: Gateway,
    stop: CancellationToken,
}

impl Drop for Federation {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Federation {
    /// A host where alice is an administrator and bob nobody in particular, with the member `m1` and one, `gone`, that
    /// nobody answers for.
    async fn start() -> Self {
        let mut options = hansa_embedded::Options::new("host", Storage::Memory);
        let user = |token: &str, user: User| StaticToken::new(token, user);
        options.tokens =
            vec![user(ALICE, User::new("alice", ["hansa:admins"])), user(BOB, User::new("bob", ["tenants"]))];
        let host = Server::open(options).await.unwrap();
        let local = host.local();
        let crd =
            hansa_api::crds().into_iter().find(|c| c["spec"]["names"]["kind"] == "KubeFedCluster").unwrap();
        local.create("customresourcedefinitions.apiextensions.k8s.io", "", crd).await.unwrap();
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-federation-system"}});
        local.create("namespaces", "", namespace).await.unwrap();
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "admins"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "hansa:admins"}],
        });
        local.create("clusterrolebindings.rbac.authorization.k8s.io", "", binding).await.unwrap();

        let member = member().await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for (name, address) in [("m1", member), ("gone", closed)] {
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"token": "of-the-host"}});
            local.create("secrets", "kube-federation-system", secret).await.unwrap();
            let cluster = json!({
                "apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedCluster", "metadata": {"name": name},
                "spec": {"apiEndpoint": format!("http://{address}"), "secretRef": {"name": name}},
            });
            let created = async || {
                local
                    .create("kubefedclusters.core.kubefed.io", "kube-federation-system", cluster.clone())
                    .await
            };
            for _ in 0..200 {
                match created().await {
                    Ok(_) => break,
                    // The CRD is not served yet.
                    Err(status) if status.code == 404 => tokio::time::sleep(Duration::from_millis(10)).await,
                    Err(status) => panic!("{status}"),
                }
            }
        }

        let stop = CancellationToken::new();
        let transport = Transport::in_process(tower::service_fn(move |request: Request<Body>| {
            let host = host.clone();
            async move { Ok::<_, Infallible>(host.handle(User::local(), request).await) }
        }));
        let registry = Registry::start(transport.client("default"), Options::reader(), stop.clone());
        let mut changes = registry.changes();
        while !registry.members().members.get("m1").is_some_and(|m| m.ready) || !registry.members().synced {
            changes.changed().await.unwrap();
        }
        Self { gateway: Gateway::new(transport, registry), stop }
    }

    async fn get(&self, token: &str, path: &str, headers: &[(&str, &str)]) -> (StatusCode, Value) {
        let mut request = Request::builder().uri(path);
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.gateway.handle(request.body(empty()).unwrap()).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

/// A member that answers with the headers it was sent, and echoes what is written on upgraded connections.
async fn member() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request)) });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                let _ = connection.with_upgrades().await;
            });
        }
    });
    address
}

fn answer(mut request: Request<Incoming>) -> Response<Body> {
    let json = |value: Value| Response::new(boxed(Full::from(value.to_string())));
    match request.uri().path() {
        "/healthz" => Response::new(boxed(Full::from("ok"))),
        "/version" => json(
            json!({"major": "1", "minor": "37", "gitVersion": "v1.37.0", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
        ),
        "/api/v1/namespaces/kube-system" => json(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": "of-m1"}}),
        ),
        "/api/v1/unauthorized" => with_status(StatusCode::UNAUTHORIZED),
        "/api/v1/redirect" => {
            let mut response = with_status(StatusCode::FOUND);
            response.headers_mut().insert(header::LOCATION, "http://127.0.0.1:1/elsewhere".parse().unwrap());
            response.headers_mut().insert(header::SET_COOKIE, "session=stolen".parse().unwrap());
            response
        }
        "/api/v1/refuses-upgrade" => with_status(StatusCode::FORBIDDEN),
        "/api/v1/upgrade" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut buffer = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..read].to_ascii_uppercase()).await.unwrap();
                }
            });
            let mut response = with_status(StatusCode::SWITCHING_PROTOCOLS);
            response.headers_mut().insert(header::CONNECTION, "Upgrade".parse().unwrap());
            response.headers_mut().insert(header::UPGRADE, "SPDY/3.1".parse().unwrap());
            response
        }
        _ => {
            let headers = request.headers().iter().map(|(n, v)| json!([n.as_str(), v.to_str().unwrap()]));
            json(
                json!({"path": request.uri().path_and_query().unwrap().as_str(), "headers": headers.collect::<Vec<_>>()}),
            )
        }
    }
}

fn with_status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

/// What the member was told under a header's name.
fn told<'a>(answer: &'a Value, name: &str) -> Vec<&'a str> {
    let pairs = answer["headers"].as_array().unwrap().iter();
    pairs.filter(|p| p[0] == name).map(|p| p[1].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_hears_who_asks_and_nothing_the_caller_claims() {
    let f = Federation::start().await;
    let claims = [
        ("Impersonate-Extra-Scopes", "all"),
        ("X-Remote-User", "root"),
        ("x_remote_group", "system:masters"),
        ("Cookie", "a=b"),
        ("Connection", "close, X-Hop"),
        ("X-Hop", "1"),
    ];
    let (status, _) = f.get(ALICE, "/clusters/m1/api/v1/pods", &claims).await;
    assert_eq!(status, 400, "half an impersonation is refused, not dropped");
    let (status, answer) = f.get(ALICE, "/clusters/m1/api/v1/pods?limit=5", &claims[1..]).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["path"], "/api/v1/pods?limit=5");
    assert_eq!(told(&answer, "impersonate-user"), ["alice"]);
    assert_eq!(told(&answer, "impersonate-group"), ["hansa:admins"]);
    assert_eq!(told(&answer, "authorization"), ["Bearer of-the-host"]);
    for name in ["x-remote-user", "x_remote_group", "cookie", "x-hop"] {
        assert!(told(&answer, name).is_empty(), "{name} crossed: {answer}");
    }
    // The older URL form is the same request.
    let (_, answer) = f.get(ALICE, "/api/clusters/m1/v1/pods", &[]).await;
    assert_eq!(answer["path"], "/api/v1/pods");
}

#[tokio::test(flavor = "multi_thread")]
async fn impersonation_is_asked_of_the_host() {
    let f = Federation::start().await;
    let jane = [("Impersonate-User", "jane"), ("Impersonate-Group", "hansa:admins")];
    let (status, answer) = f.get(ALICE, "/clusters/m1/api", &jane).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(told(&answer, "impersonate-user"), ["jane"]);
    let (status, answer) = f.get(BOB, "/clusters/m1/api", &jane).await;
    assert_eq!(status, 403, "{answer}");
    let masters = [("Impersonate-User", "jane"), ("Impersonate-Group", "system:masters")];
    let (status, _) = f.get(ALICE, "/clusters/m1/api", &masters).await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_or_not_allowed_gets_no_further() {
    let f = Federation::start().await;
    for token in ["", "wrong"] {
        assert_eq!(f.get(token, "/clusters/m1/api", &[]).await.0, 401);
        assert_eq!(
            f.get(token, "/clusters/../m1", &[]).await.0,
            401,
            "nothing is routed before it is known who asks"
        );
    }
    assert_eq!(f.get(ALICE, "/clusters/m1/%2e%2e/api", &[]).await.0, 400);
    let words = |answer: Value, name: &str| answer.to_string().replace(name, "X");
    let (status, forbidden) = f.get(BOB, "/clusters/m1/api", &[]).await;
    assert_eq!(status, 403);
    let (status, absent) = f.get(BOB, "/clusters/atlantis/api", &[]).await;
    assert_eq!(status, 403);
    assert_eq!(words(forbidden, "m1"), words(absent, "atlantis"), "whether a cluster exists is not told");
    assert_eq!(f.get(ALICE, "/clusters/atlantis/api", &[]).await.0, 404);
    let (status, answer) = f.get(ALICE, "/clusters/gone/api", &[]).await;
    assert_eq!(status, 503);
    assert_eq!(answer["details"]["retryAfterSeconds"], 5);
    // On the host itself, its own RBAC decides.
    assert_eq!(f.get(BOB, "/clusters/host/api/v1/secrets", &[]).await.0, 403);
    assert_eq!(f.get(ALICE, "/api/v1/secrets", &[]).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_odd_answers_stay_harmless() {
    let f = Federation::start().await;
    let (status, answer) = f.get(ALICE, "/clusters/m1/api/v1/unauthorized", &[]).await;
    assert_eq!(status, 511, "a member's 401 does not log the user out: {answer}");
    let request = Request::builder()
        .uri("/clusters/m1/api/v1/redirect")
        .header(header::AUTHORIZATION, format!("Bearer {ALICE}"))
        .body(empty())
        .unwrap();
    let response = f.gateway.handle(request).await;
    assert_eq!(response.status(), 302, "a redirect is not followed");
    assert!(response.headers().get(header::SET_COOKIE).is_none());
}

/// Serves the gateway on a plain connection of the test's own and sends one upgrade request over it.
async fn upgrade(f: &Federation, path: &str) -> (TcpStream, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gateway = f.gateway.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: Request<Incoming>| {
            let gateway = gateway.clone();
            async move { Ok::<_, Infallible>(gateway.handle(request.map(boxed)).await) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let _ = connection.with_upgrades().await;
    });
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {ALICE}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_carries_both_directions() {
    let f = Federation::start().await;
    let (mut stream, head) = upgrade(&f, "/clusters/m1/api/v1/upgrade").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_ascii_lowercase().contains("upgrade: spdy/3.1"), "{head}");
    for word in ["ahoy", "hansa"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut back = vec![0; word.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, word.to_ascii_uppercase().as_bytes());
    }
    let (_, head) = upgrade(&f, "/clusters/m1/api/v1/refuses-upgrade").await;
    assert!(head.starts_with("HTTP/1.1 403"), "only a 101 is an upgrade: {head}");
}

/// A host that serves Clusters: `m2` is to be connected by agent and `m1` directly; a tower has announced itself if `tower`.
async fn with_clusters(tower: bool) -> (Gateway, Server, CancellationToken) {
    let mut options = hansa_embedded::Options::new("host", Storage::Memory);
    options.tokens = vec![
        StaticToken::new(ALICE, User::new("alice", ["hansa:admins"])),
        StaticToken::new(BOB, User::new("bob", ["tenants"])),
    ];
    let host = Server::open(options).await.unwrap();
    let local = host.local();
    for kind in ["Cluster", "KubeFedCluster"] {
        let crd = hansa_api::crds().into_iter().find(|c| c["spec"]["names"]["kind"] == kind).unwrap();
        local.create("customresourcedefinitions.apiextensions.k8s.io", "", crd).await.unwrap();
    }
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-federation-system"}});
    local.create("namespaces", "", namespace).await.unwrap();
    let group = "rbac.authorization.k8s.io";
    let bound = |name: &str, role: &str, group_name: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": group, "kind": "Group", "name": group_name}],
        })
    };
    // Bob may look at every cluster, which is not enough.
    let look = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "look"},
        "rules": [{"apiGroups": ["cluster.kubesphere.io"], "resources": ["clusters", "clusters/proxy"], "verbs": ["get", "list"]}],
    });
    local.create("clusterroles.rbac.authorization.k8s.io", "", look).await.unwrap();
    for binding in [bound("admins", "cluster-admin", "hansa:admins"), bound("look", "look", "tenants")] {
        local.create("clusterrolebindings.rbac.authorization.k8s.io", "", binding).await.unwrap();
    }
    for (name, kind) in [("m1", "direct"), ("m2", "proxy")] {
        let cluster = json!({
            "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster", "metadata": {"name": name},
            "spec": {"joinFederation": true, "connection": {"type": kind}},
        });
        let created =
            async || local.create("clusters.cluster.kubesphere.io", "", cluster.clone()).await.map(drop);
        for _ in 0..200 {
            match created().await {
                Ok(()) => break,
                Err(status) if status.code == 404 => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(status) => panic!("{status}"),
            }
        }
    }
    if tower {
        let said = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hansa-tower"},
            "data": {"server": "https://tower.example.org", "ca.crt": "PEM", "agent-image": "hansa:chosen"},
        });
        local.create("configmaps", "kube-federation-system", said).await.unwrap();
    }
    let stop = CancellationToken::new();
    let server = host.clone();
    let transport = Transport::in_process(tower::service_fn(move |request: Request<Body>| {
        let host = host.clone();
        async move { Ok::<_, Infallible>(host.handle(User::local(), request).await) }
    }));
    let registry = Registry::start(transport.client("default"), Options::reader(), stop.clone());
    (Gateway::new(transport, registry), server, stop)
}

async fn asked(gateway: &Gateway, method: &str, token: &str, path: &str) -> (u16, http::HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let response = gateway.handle(request.body(empty()).unwrap()).await;
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8(bytes.to_vec()).unwrap())
}

const MANIFEST: &str = "/kapis/cluster.kubesphere.io/v1alpha1/clusters";
const OF_TOWER: &str = "/kapis/tower.kubesphere.io/v1alpha1/deployment";

#[tokio::test]
async fn the_manifest_of_an_agent_is_given_to_who_may_change_its_cluster() {
    let (gateway, host, _stop) = with_clusters(true).await;
    let mut given = Vec::new();
    for path in [format!("{MANIFEST}/m2/agent/deployment"), format!("{OF_TOWER}?cluster=m2")] {
        let (code, headers, text) = asked(&gateway, "GET", ALICE, &path).await;
        assert_eq!(code, 200, "{text}");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(headers[header::CONTENT_TYPE], "application/yaml");
        assert!(text.contains("kind: Deployment") && text.contains("image: hansa:chosen"), "{text}");
        assert!(text.contains("tower: https://tower.example.org"));
        let token = text.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap().to_owned();
        given.push(token.trim_matches('"').to_owned());
    }
    assert_ne!(given[0], given[1], "each call gives a token of its own");
    // The host keeps neither.
    let kept = host.local().get("secrets", "kube-federation-system", "m2-agent").unwrap().to_string();
    assert!(given.iter().all(|token| !kept.contains(token)));
    assert_eq!(asked(&gateway, "POST", ALICE, &format!("{MANIFEST}/m2/agent/deployment")).await.0, 405);
    assert_eq!(asked(&gateway, "GET", ALICE, OF_TOWER).await.0, 400);
    assert_eq!(asked(&gateway, "GET", "", &format!("{MANIFEST}/m2/agent/deployment")).await.0, 401);
}

#[tokio::test]
async fn whoever_may_not_change_a_cluster_learns_nothing_and_mints_nothing() {
    let (gateway, host, _stop) = with_clusters(true).await;
    let mut answers = Vec::new();
    for name in ["m2", "m1", "absent"] {
        let (code, _, text) =
            asked(&gateway, "GET", BOB, &format!("{MANIFEST}/{name}/agent/deployment")).await;
        assert_eq!(code, 403);
        answers.push(text.replace(name, "NAME"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(host.local().get("secrets", "kube-federation-system", "m2-agent").is_err());
    // To who may, a cluster that is connected directly has no such thing, like one that is not there.
    let mut answers = Vec::new();
    for name in ["m1", "absent"] {
        let (code, _, text) = asked(&gateway, "GET", ALICE, &format!("{OF_TOWER}?cluster={name}")).await;
        assert_eq!(code, 404);
        answers.push(text.replace(name, "NAME"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn without_a_tower_there_is_no_manifest() {
    let (gateway, host, _stop) = with_clusters(false).await;
    let (code, headers, text) =
        asked(&gateway, "GET", ALICE, &format!("{MANIFEST}/m2/agent/deployment")).await;
    assert_eq!(code, 503, "{text}");
    assert!(headers.contains_key(header::RETRY_AFTER) && text.contains("hansa tower"), "{text}");
    assert!(host.local().get("secrets", "kube-federation-system", "m2-agent").is_err());
}
