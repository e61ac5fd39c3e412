//! Joining, renewing, connecting: who becomes an agent, and who does not (`spec/security-checklist.md`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use std::time::Duration;

use hansa_listener::pki::{Authority, Subject};
use hansa_tower::Options;
use hansa_tunnel::handshake::{CONNECT, JOIN, RENEW};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use rcgen::{DnType, ExtendedKeyUsagePurpose, SanType};
use serde_json::json;
use support::{Agent, Host, PATIENCE, connecting, csr, joining, key, member::member, quick, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Lines 8, 10 and 11: the host knows the token by its digest only, and of the agent's key the public half.
#[tokio::test]
async fn an_agent_joins_renews_and_connects_with_a_credential_that_only_it_has() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let (token, key) = (host.token("m1").await, key());
    let joined = tower.post(None, JOIN, &joining("m1", &token, &csr(&key, "m1", |_| ()))).await;
    assert_eq!(joined.status, 200, "{joined:?}");
    assert_eq!(joined.body["authority"], tower.ca);
    assert_eq!(joined.headers["cache-control"], "no-store");
    let certificate = joined.body["certificate"].as_str().unwrap().to_owned();
    let mut agent = Agent { cluster: "m1".into(), key, certificate };

    let renewal = json!({"certificateRequest": csr(&agent.key, "m1", |_| ())});
    let renewed = tower.post(Some(&agent.identity()), RENEW, &renewal).await;
    assert_eq!(renewed.status, 200, "{renewed:?}");
    agent.certificate = renewed.body["certificate"].as_str().unwrap().to_owned();
    let connected = agent.connect(&tower, "i1", member("m1")).await.unwrap();
    assert_eq!(connected.headers["hansa-tower-replicas"], "1");
    assert!(connected.headers["hansa-tower-replica"].len() >= 16);

    let private = agent.key.serialize_pem();
    let secrets = Api::<Secret>::all(host.client.clone()).list(&ListParams::default()).await.unwrap();
    let kept: Vec<String> = secrets
        .items
        .iter()
        .flat_map(|secret| secret.data.iter().flatten())
        .map(|(_, value)| String::from_utf8_lossy(&value.0).into_owned())
        .collect();
    assert!(kept.iter().any(|value| value.contains("sha256")), "the record is there");
    assert!(!kept.iter().any(|value| value.contains(&token) || value.contains(&private)));
}

/// Lines 8 and 9: a token is spent once, for one key and one cluster.
#[tokio::test]
async fn a_stolen_token_is_good_for_nobody_else() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let (token, ours, theirs) = (host.token("m1").await, key(), key());
    let join = async |cluster: &str, token: &str, key| {
        tower.post(None, JOIN, &joining(cluster, token, &csr(key, cluster, |_| ()))).await
    };
    join("m2", &token, &theirs).await.refused(403, "JoinTokenUnknown");
    join("absent", &token, &theirs).await.refused(403, "JoinTokenUnknown");
    join("m1", "guessed", &theirs).await.refused(403, "JoinTokenUnknown");
    assert_eq!(join("m1", &token, &ours).await.status, 200);
    join("m1", &token, &theirs).await.refused(403, "JoinTokenReplayed");
    assert_eq!(join("m1", &token, &ours).await.status, 200, "the answer may have been lost");
    let events = Api::<Event>::namespaced(host.client.clone(), "default");
    until("the theft is told", async || {
        let events = events.list(&ListParams::default()).await.unwrap();
        events.items.iter().any(|event| event.reason.as_deref() == Some("JoinTokenReplayed"))
    })
    .await;
}

/// Line 9: the request is checked in full on first issue and on renewal.
#[tokio::test]
async fn nothing_is_certified_but_the_agent_of_the_cluster() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let agent = Agent::join(&host, &tower, "m1").await;
    let token = host.token("m1").await;
    let mut torn = csr(&agent.key, "m1", |_| ());
    let at = torn.find("\nMI").unwrap() + 40;
    let other = if &torn[at..=at] == "A" { "B" } else { "A" };
    torn.replace_range(at..=at, other);
    let bad = [
        torn,
        csr(&agent.key, "m2", |_| ()),
        csr(&agent.key, "m1", |p| p.distinguished_name.push(DnType::OrganizationName, "system:masters")),
        csr(&agent.key, "m1", |p| p.distinguished_name.push(DnType::OrganizationalUnitName, "x")),
        csr(&agent.key, "m1", |p| p.subject_alt_names.push(SanType::DnsName("tower".try_into().unwrap()))),
        csr(&agent.key, "m1", |p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth)),
        "no PEM".to_owned(),
    ];
    for request in bad {
        tower.post(None, JOIN, &joining("m1", &token, &request)).await.refused(400, "BadRequest");
        let renewal = json!({"certificateRequest": request});
        tower.post(Some(&agent.identity()), RENEW, &renewal).await.refused(400, "BadRequest");
    }
    let renewal = json!({"certificateRequest": csr(&key(), "m1", |_| ())});
    tower.post(Some(&agent.identity()), RENEW, &renewal).await.refused(400, "BadRequest");
    // The token was not spent by any of it.
    assert_eq!(tower.post(None, JOIN, &joining("m1", &token, &csr(&key(), "m1", |_| ()))).await.status, 200);
}

/// Line 12: whose agent it is stands in its certificate and nowhere else.
#[tokio::test]
async fn the_agent_of_one_cluster_can_not_be_the_agent_of_another() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let m1 = Agent::join(&host, &tower, "m1").await;
    Agent::join(&host, &tower, "m2").await;
    let renewal = json!({"certificateRequest": csr(&m1.key, "m2", |_| ()), "cluster": "m2"});
    tower.post(Some(&m1.identity()), RENEW, &renewal).await.refused(400, "BadRequest");
    let mut held = Vec::new();
    for path in ["/agent/v1/connect/m2", "/agent/v1/connect?cluster=m2"] {
        let mut request = connecting("i1");
        *request.uri_mut() = path.parse().unwrap();
        request.headers_mut().insert("hansa-cluster", "m2".parse().unwrap());
        let response = tower.send(Some(&m1.identity()), request).await.unwrap();
        match response.status().as_u16() {
            101 => held.push(hyper::upgrade::on(response).await.unwrap()),
            code => assert_eq!(code, 404),
        }
    }
    assert_eq!(held.len(), 1);
    until("the session is counted for m1", async || {
        host.leases().await.iter().all(|l| l.1 == json!({"m1": 1}))
    })
    .await;
    tower.get(support::ADMIN, "/clusters/m2/api", &[]).await.refused(503, "ServiceUnavailable");
    // An agent is nobody to whom clusters are open.
    let asked = support::asking("GET", "", "/clusters/m1/api", &[]);
    tower.ask(Some(&m1.identity()), asked).await.refused(401, "Unauthorized");
}

/// Line 10: each side knows the other, or there is no connection.
#[tokio::test]
async fn a_certificate_that_is_foreign_or_over_gets_no_connection_and_none_gets_no_tunnel() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    Agent::join(&host, &tower, "m1").await;
    let other = Authority::generate("hansa-tower", Timestamp::now()).unwrap();
    for identity in [
        Agent::forged(&other, "m1", SignedDuration::from_hours(1)),
        Agent::forged(&host.authority(), "m1", SignedDuration::from_secs(-1)),
    ] {
        assert!(tower.send(Some(&identity), connecting("i1")).await.is_err());
    }
    tower.ask(None, connecting("i1")).await.refused(401, "Unauthorized");
    tower.post(None, RENEW, &json!({"certificateRequest": ""})).await.refused(401, "Unauthorized");
    // Of our authority, but of another key than the one that joined, and of nobody's agent.
    let stranger = Agent::forged(&host.authority(), "m1", SignedDuration::from_hours(1));
    tower.ask(Some(&stranger), connecting("i1")).await.refused(403, "AgentReplaced");
    let absent = Agent::forged(&host.authority(), "absent", SignedDuration::from_hours(1));
    tower.ask(Some(&absent), connecting("i1")).await.refused(403, "ClusterGone");
    let subject = Subject { name: "admin".into(), groups: vec!["hansa:admins".into()] };
    let admin =
        host.authority().issue_client(&subject, SignedDuration::from_hours(1), Timestamp::now()).unwrap();
    tower.ask(Some(&(admin.certificate, admin.key)), connecting("i1")).await.refused(401, "Unauthorized");
    // No plaintext.
    let mut stream = TcpStream::connect(tower.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    drop(timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap());
    assert!(!answer.starts_with(b"HTTP"));
}

/// Lines 8 and 9: a credential ends with its Cluster, whoever takes the Cluster's name.
#[tokio::test]
async fn a_credential_of_a_cluster_that_went_is_neither_renewed_nor_let_in() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let agent = Agent::join(&host, &tower, "m1").await;
    host.clusters().delete("m1", &DeleteParams::default()).await.unwrap();
    let renewal = json!({"certificateRequest": csr(&agent.key, "m1", |_| ())});
    let refused = async || {
        tower.post(Some(&agent.identity()), RENEW, &renewal).await.refused(403, "ClusterGone");
        tower.ask(Some(&agent.identity()), connecting("i1")).await.refused(403, "ClusterGone");
    };
    refused().await;
    host.cluster("m1").await;
    refused().await;
    // Nor when the old record is put there again.
    let token = host.token("m1").await;
    tower.ask(Some(&agent.identity()), connecting("i1")).await.refused(403, "AgentReplaced");
    assert_eq!(
        tower.post(None, JOIN, &joining("m1", &token, &csr(&key(), "m1", |_| ()))).await.status,
        200,
        "a new agent joins the new cluster"
    );
    let patch = json!({"spec": {"connection": {"type": "direct"}}});
    let merge = kube::api::Patch::Merge(&patch);
    host.clusters().patch("m2", &kube::api::PatchParams::default(), &merge).await.unwrap();
    let direct = Agent::forged(&host.authority(), "m2", SignedDuration::from_hours(1));
    tower.ask(Some(&direct), connecting("i1")).await.refused(403, "NotAnAgentCluster");
}

#[tokio::test]
async fn a_handshake_that_is_none_is_refused_before_anything_changes() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let agent = Agent::join(&host, &tower, "m1").await;
    for (header, value) in [
        ("upgrade", "h2c"),
        ("sec-websocket-version", "12"),
        ("sec-websocket-key", "short"),
        ("sec-websocket-protocol", "other"),
        ("hansa-agent-instance", "a b"),
    ] {
        let mut request = connecting("i1");
        request.headers_mut().insert(header, value.parse().unwrap());
        tower.ask(Some(&agent.identity()), request).await.refused(400, "BadRequest");
    }
    for (method, path) in [("GET", JOIN), ("GET", RENEW), ("POST", CONNECT)] {
        let asked = support::asking(method, "", path, &[]);
        tower.ask(Some(&agent.identity()), asked).await.refused(405, "MethodNotAllowed");
    }
    tower.post(None, JOIN, &json!({"cluster": "m1"})).await.refused(400, "BadRequest");
    tower.post(None, JOIN, &joining("../m1", "t", "")).await.refused(400, "BadRequest");
    let large = "x".repeat(64 * 1024);
    tower.post(None, JOIN, &joining("m1", &large, "")).await.refused(413, "RequestEntityTooLarge");

    let connected = agent.connect(&tower, "i1", member("m1")).await.unwrap();
    let Err(again) = agent.connect(&tower, "i1", member("m1")).await else { panic!("a second connection") };
    again.refused(409, "AlreadyExists");
    assert_eq!(again.headers["hansa-tower-replica"], connected.headers["hansa-tower-replica"]);
}

/// Line 20: those who have not shown who they are hold little, for a short time.
#[tokio::test]
async fn strangers_who_stall_are_dropped_and_keep_nobody_out() {
    let host = Host::start().await;
    let short = Duration::from_millis(300);
    let tower = host.tower(Options { strangers: 3, handshake: short, ..quick() }).await;
    let closes = async |mut stream: TcpStream| {
        let mut rest = Vec::new();
        // Whether it is closed or reset is all one; that it ends is what counts.
        drop(timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed"));
    };
    // One says nothing, one half a hello, one half a request; a fourth finds no place.
    let silent = TcpStream::connect(tower.address).await.unwrap();
    let mut half = TcpStream::connect(tower.address).await.unwrap();
    half.write_all(&[0x16, 3, 1]).await.unwrap();
    let mut slow = tower.dial(None, "http/1.1").await.unwrap();
    slow.write_all(b"POST /agent/v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{").await.unwrap();
    closes(TcpStream::connect(tower.address).await.unwrap()).await;
    closes(silent).await;
    closes(half).await;
    let mut rest = Vec::new();
    drop(timeout(PATIENCE, slow.read_to_end(&mut rest)).await.expect("it is closed"));
    // One that shook hands and then asks nothing.
    let mut idle = tower.dial(None, "h2").await.unwrap();
    drop(timeout(PATIENCE, idle.read_to_end(&mut rest)).await.expect("it is closed"));
    until("the others get in", async || tower.dial(None, "http/1.1").await.is_ok()).await;
}

#[tokio::test]
async fn who_tries_to_join_again_and_again_is_made_to_wait() {
    let host = Host::start().await;
    let tower = host.tower(quick()).await;
    let request = csr(&key(), "m1", |_| ());
    let refused = async {
        loop {
            let reply = tower.post(None, JOIN, &joining("m1", "guessed", &request)).await;
            if reply.status != 403 {
                break reply;
            }
        }
    };
    let reply = timeout(PATIENCE, refused).await.unwrap();
    reply.refused(429, "TooManyRequests");
    assert!(reply.headers.contains_key("retry-after"));
    assert!(tower.metrics.text().contains("hansa_tower_rejections_total{reason=\"JoinTokenUnknown\"}"));
}
