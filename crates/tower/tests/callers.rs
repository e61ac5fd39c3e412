//! A caller's way to a member: who gets there, as whom, and with what (`spec/security-checklist.md`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hansa_tower::{Limits, Options, Share};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use support::{
    ADMIN, ALICE, Agent, BOB, Connected, Host, PATIENCE, ROBOT, Replica, asking,
    member::{Member, member},
    quick, read, until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// A tower with an agent of m1.
async fn start(options: Options) -> (Host, Replica, Connected, Member) {
    let host = Host::start().await;
    let tower = host.tower(options).await;
    let agent = Agent::join(&host, &tower, "m1").await;
    let m1 = member("m1");
    let connected = agent.connect(&tower, "i1", m1.clone()).await.unwrap();
    until("the agent is connected", async || tower.get(ADMIN, "/clusters/m1/api", &[]).await.status == 200)
        .await;
    (host, tower, connected, m1)
}

/// Line 2: nothing is routed before it is known who asks, and nothing is allowed that nobody allowed.
#[tokio::test]
async fn whoever_is_not_known_or_not_allowed_does_not_get_there() {
    let (_host, tower, _agent, m1) = start(quick()).await;
    m1.asked.lock().unwrap().clear();
    for path in ["/clusters/m1/api", "/clusters/absent/api", "/", "/nothing", "/clusters/m1/%2e%2e/api"] {
        for token in ["", "wrong"] {
            tower.get(token, path, &[]).await.refused(401, "Unauthorized");
        }
    }
    let twice = [("authorization", "Bearer x")];
    tower.get(ADMIN, "/clusters/m1/api", &twice).await.refused(401, "Unauthorized");
    tower.get(BOB, "/clusters/m1/api", &[]).await.refused(403, "Forbidden");
    let reply = tower.ask(None, asking("DELETE", ALICE, "/clusters/m1/api/x", &[])).await;
    reply.refused(403, "Forbidden");
    tower.ask(None, asking("TRACE", ADMIN, "/clusters/m1/api", &[])).await.refused(405, "MethodNotAllowed");
    assert!(m1.asked.lock().unwrap().is_empty());
    assert_eq!(tower.get(ALICE, "/clusters/m1/api", &[]).await.body["member"], "m1");
}

/// Line 18: whoever has no right learns nothing of what there is; whoever has one is not told that an object is absent.
#[tokio::test]
async fn an_absent_cluster_is_refused_as_a_forbidden_one() {
    let (_host, tower, _agent, _) = start(quick()).await;
    let mut answers = Vec::new();
    for cluster in ["m1", "m2", "absent", "host"] {
        let reply = tower.get(BOB, &format!("/clusters/{cluster}/api/v1/pods"), &[]).await;
        let text = reply.body.to_string().replace(cluster, "CLUSTER");
        let names: Vec<_> = reply.headers.keys().map(ToString::to_string).collect();
        answers.push((reply.status, text, names));
    }
    // The name of the host's own is no member's and is not passed on at all.
    assert_eq!(answers.pop().unwrap().0, 404);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    for cluster in ["m2", "absent"] {
        let reply = tower.get(ADMIN, &format!("/clusters/{cluster}/api/v1/pods/x"), &[]).await;
        reply.refused(503, "ServiceUnavailable");
        assert!(reply.headers.contains_key("retry-after"));
    }
}

/// Lines 1 and 3: what a caller says about who asks does not pass, nor does the caller's credential.
#[tokio::test]
async fn nothing_the_caller_says_about_itself_reaches_the_member() {
    let (_host, tower, _agent, _) = start(quick()).await;
    let sent = [
        ("accept", "application/json"),
        ("cookie", "a=b"),
        ("x-remote-user", "root"),
        ("x_remote_group", "system:masters"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=1"),
        ("proxy-authorization", "Basic x"),
        ("x-hansa-cluster", "m2"),
        ("connection", "x-secret"),
        ("x-secret", "1"),
        ("te", "trailers"),
    ];
    let reply = tower.get(ALICE, "/clusters/m1/api/v1/pods?limit=1&x=%2F", &sent).await;
    assert_eq!(reply.body["headers"], json!(["accept: application/json"]), "{reply:?}");
    assert_eq!(reply.body["uri"], "/api/v1/pods?limit=1&x=%2F");
    assert!(!reply.headers.contains_key("set-cookie"), "and the member cannot set a cookie");
}

/// Lines 1 and 3: a request runs as the agent, so whoever wants less rights must be allowed to say whose, and is never ignored.
#[tokio::test]
async fn impersonation_needs_a_right_of_its_own_and_is_rebuilt() {
    let (_host, tower, _agent, m1) = start(quick()).await;
    let jane = [("impersonate-user", "jane"), ("impersonate-group", "dev"), ("impersonate-extra-a%2fb", "c")];
    m1.asked.lock().unwrap().clear();
    tower.get(ALICE, "/clusters/m1/api", &jane).await.refused(403, "Forbidden");
    for (name, value, code) in [
        ("impersonate-group", "system:masters", 403),
        ("impersonate-user", "john", 400),
        ("impersonate_group", "x", 400),
        ("impersonate-other", "x", 400),
    ] {
        let reply = tower.get(ROBOT, "/clusters/m1/api", &[jane[0], (name, value)]).await;
        assert_eq!(reply.status, code, "{name}: {value}");
    }
    assert_eq!(tower.get(ROBOT, "/clusters/m1/api", &[jane[1]]).await.status, 400, "half a wish");
    assert!(m1.asked.lock().unwrap().is_empty());
    let listed = [jane[0], jane[1], jane[2], ("connection", "impersonate-user")];
    let reply = tower.get(ROBOT, "/clusters/m1/api", &listed).await;
    let mut headers: Vec<String> = serde_json::from_value(reply.body["headers"].clone()).unwrap();
    headers.sort();
    assert_eq!(headers, ["impersonate-extra-a%2fb: c", "impersonate-group: dev", "impersonate-user: jane"]);
}

/// Line 3: HTTP/2 carries spaces that the next hop would trim.
#[tokio::test]
async fn masters_are_not_smuggled_in_by_a_space() {
    let (_host, tower, _agent, m1) = start(quick()).await;
    m1.asked.lock().unwrap().clear();
    let io = TokioIo::new(tower.dial(None, "h2").await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let headers = [("impersonate-user", "jane"), ("impersonate-group", " system:masters")];
    let mut request = asking("GET", ROBOT, "/clusters/m1/api", &headers);
    *request.uri_mut() = "https://tower/clusters/m1/api".parse().unwrap();
    request.headers_mut().remove("host");
    let refused = match sender.send_request(request).await {
        Ok(response) => response.status() == 400,
        // Some libraries do not let such a request through at all.
        Err(_) => true,
    };
    assert!(refused && m1.asked.lock().unwrap().is_empty());
}

/// Line 4: the path says which cluster once, in one way.
#[tokio::test]
async fn a_path_that_could_be_read_in_two_ways_is_refused() {
    let (_host, tower, _agent, m1) = start(quick()).await;
    m1.asked.lock().unwrap().clear();
    for path in [
        "/clusters/m1/api/../../m2/api",
        "/clusters/m1/%2e%2e/api",
        "/clusters/m1%2fapi",
        "/clusters/m1//api",
        "/clusters/M1/api",
        "/clusters/m1/api/%00",
    ] {
        tower.get(ADMIN, path, &[]).await.refused(400, "BadRequest");
    }
    let absolute = asking("GET", ADMIN, "https://m2.example/clusters/m1/api", &[]);
    assert_eq!(tower.ask(None, absolute).await.status, 400);
    assert!(m1.asked.lock().unwrap().is_empty());
    let reply =
        tower.get(ADMIN, "/clusters/m1/api", &[("host", "m2"), ("x-original-url", "/clusters/m2")]).await;
    assert_eq!(reply.body["member"], "m1", "no header chooses");
}

/// Line 6: bytes flow both ways after a 101 and never without one.
#[tokio::test]
async fn a_connection_changes_only_if_the_member_says_so() {
    let (_host, tower, _agent, _) = start(quick()).await;
    for protocol in ["websocket", "SPDY/3.1"] {
        let upgrade = [("connection", "Upgrade"), ("upgrade", protocol)];
        let request = asking("POST", ALICE, "/clusters/m1/api/v1/exec", &upgrade);
        let response = tower.send(None, request).await.unwrap();
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["upgrade"], protocol);
        assert!(!response.headers().contains_key("set-cookie"));
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let (mut reading, mut writing) = tokio::io::split(&mut stream);
        let mut echoed = vec![0; sent.len()];
        let both = async { tokio::join!(writing.write_all(&sent), reading.read_exact(&mut echoed)) };
        let (wrote, got) = timeout(PATIENCE, both).await.unwrap();
        wrote.unwrap();
        got.unwrap();
        assert_eq!(echoed, sent);

        let request = asking("POST", ALICE, "/clusters/m1/api/refused", &upgrade);
        let response = tower.send(None, request).await.unwrap();
        assert_eq!(response.status(), 403);
        assert!(!response.headers().contains_key("upgrade"));
        assert_eq!(read(response).await.body, "no");
    }
    let text = tower.metrics.text();
    assert!(text.contains("hansa_tower_dial_duration_seconds_count"), "{text}");
}

/// A failure is a failure of the way, and is never taken for the member's word.
#[tokio::test]
async fn what_goes_wrong_beyond_the_tower_is_no_success() {
    let (_host, tower, agent, m1) = start(quick()).await;
    let reply = tower.get(ALICE, "/clusters/m1/api/unauthorized", &[]).await;
    reply.refused(502, "BadGateway");
    assert!(!reply.headers.contains_key("www-authenticate"));
    // Line 5: a redirect is passed on and not followed.
    assert_eq!(tower.get(ALICE, "/clusters/m1/api/redirect", &[]).await.status, 302);
    let whole = async {
        let broken = tower.send(None, asking("GET", ALICE, "/clusters/m1/api/broken", &[])).await.ok()?;
        broken.into_body().collect().await.ok()
    };
    assert!(whole.await.is_none(), "a broken answer does not look like a whole one");
    let waiting = tower.send(None, asking("GET", ALICE, "/clusters/m1/api/never", &[]));
    let cut = async {
        until("it is asked", async || m1.has_been_asked("/api/never")).await;
        agent.kill();
    };
    let (response, ()) = tokio::join!(waiting, cut);
    read(response.unwrap()).await.refused(502, "BadGateway");
}

#[tokio::test]
async fn an_answer_that_does_not_begin_is_waited_for_only_so_long() {
    let (_host, tower, _agent, _) = start(Options { answer: Duration::from_millis(200), ..quick() }).await;
    tower.get(ALICE, "/clusters/m1/api/never", &[]).await.refused(504, "Timeout");
}

/// Line 20: one caller does not use up a member, nor one member the tower.
#[tokio::test]
async fn over_the_limit_is_said_at_once_and_harms_nobody_else() {
    let share = |streams| Share { streams, pending: streams };
    let limits = Limits { member: share(3), caller: share(2), ..Limits::default() };
    let (host, tower, _agent, _) = start(Options { limits, ..quick() }).await;
    let tower = Arc::new(tower);
    let watch = async |token: &str| {
        let response = tower.send(None, asking("GET", token, "/clusters/m1/api/watch", &[])).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body()
    };
    let mut held = vec![watch(ALICE).await, watch(ALICE).await];
    let over = tower.get(ALICE, "/clusters/m1/api", &[]).await;
    over.refused(429, "TooManyRequests");
    assert!(over.headers.contains_key("retry-after"));
    held.push(watch(ADMIN).await);
    let over = tower.get(ROBOT, "/clusters/m1/api", &[]).await;
    over.refused(503, "ServiceUnavailable");
    assert!(over.headers.contains_key("retry-after"));
    let other = Agent::join(&host, &tower, "m2").await;
    let _other = other.connect(&tower, "i2", member("m2")).await.unwrap();
    until("others are served", async || tower.get(ADMIN, "/clusters/m2/api", &[]).await.status == 200).await;
    drop(held);
    until("what has ended is free", async || tower.get(ALICE, "/clusters/m1/api", &[]).await.status == 200)
        .await;
    assert!(tower.metrics.text().contains("hansa_tower_rejections_total{reason=\"TooManyRequests\"}"));
}

/// Line 19: every caller, cluster, method and wish, against the rule said once more.
#[tokio::test]
async fn nobody_gets_further_than_their_own_rights_through_the_tower() {
    let (host, tower, _agent, m1) = start(quick()).await;
    let m2 = member("m2");
    let other = Agent::join(&host, &tower, "m2").await;
    let _other = other.connect(&tower, "i2", m2.clone()).await.unwrap();
    until("both serve", async || tower.get(ADMIN, "/clusters/m2/api", &[]).await.status == 200).await;
    let callers: [(&str, &[&str], &[&str]); 4] = [
        (BOB, &[], &[]),
        (ALICE, &["m1"], &["get", "create"]),
        (ROBOT, &["m1"], &["*"]),
        (ADMIN, &["m1", "m2", "absent"], &["*"]),
    ];
    let methods = [
        ("GET", "get"),
        ("HEAD", "get"),
        ("POST", "create"),
        ("PUT", "update"),
        ("PATCH", "patch"),
        ("DELETE", "delete"),
    ];
    let impersonated = [("impersonate-user", "jane")];
    for (token, clusters, verbs) in callers {
        for cluster in ["m1", "m2", "absent"] {
            for (method, verb) in methods {
                for (path, headers, further) in [
                    ("/api/v1/pods", &[][..], None),
                    ("/api/v1/pods", &impersonated[..], Some("impersonate")),
                    ("/api/v1/namespaces/a/services/b/proxy/", &[][..], Some("proxy")),
                ] {
                    m1.asked.lock().unwrap().clear();
                    m2.asked.lock().unwrap().clear();
                    let has = |verb: &str| verbs.contains(&"*") || verbs.contains(&verb);
                    let may = clusters.contains(&cluster) && has(verb) && further.is_none_or(has);
                    let expected = match (may, cluster) {
                        (false, _) => 403,
                        (true, "absent") => 503,
                        (true, _) => 200,
                    };
                    let path = format!("/clusters/{cluster}{path}");
                    let response = tower.send(None, asking(method, token, &path, headers)).await.unwrap();
                    assert_eq!(response.status(), expected, "{token} {method} {path} {headers:?}");
                    let asked = |m: &Member| !m.asked.lock().unwrap().is_empty();
                    let reached = (cluster == "m1" && may, cluster == "m2" && may);
                    assert_eq!((asked(&m1), asked(&m2)), reached, "{token} {method} {path}");
                }
            }
        }
    }
}

/// A GET that becomes a shell needs more than the right to read.
#[tokio::test]
async fn whoever_may_only_read_can_not_change_the_protocol() {
    let (host, tower, _agent, m1) = start(quick()).await;
    let rule = json!({
        "apiGroups": ["cluster.kubesphere.io"], "resources": ["clusters/tunnel"], "resourceNames": ["m1"], "verbs": ["get"],
    });
    host.may("bob", rule).await;
    assert_eq!(tower.get(BOB, "/clusters/m1/api", &[]).await.status, 200);
    let upgrade = [("connection", "Upgrade"), ("upgrade", "websocket")];
    tower.get(BOB, "/clusters/m1/api/v1/exec", &upgrade).await.refused(403, "Forbidden");
    assert!(!m1.has_been_asked("/api/v1/exec"));
}

/// Line 20: uploads that the member does not read hold up nobody, not even on their own connection.
#[tokio::test]
async fn stalled_uploads_cost_the_others_on_their_connection_nothing() {
    let (_host, tower, _agent, m1) = start(quick()).await;
    let io = TokioIo::new(tower.dial(None, "h2").await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let post = |path: &str, body: Vec<u8>| {
        let mut request = asking("POST", ROBOT, path, &[]);
        *request.uri_mut() = format!("https://tower{path}").parse().unwrap();
        request.headers_mut().remove("host");
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let mut sender = sender.clone();
        async move { sender.send_request(request.map(|_| body)).await.unwrap() }
    };
    for _ in 0..16 {
        tokio::spawn(post("/clusters/m1/api/never", vec![0; 1 << 20]));
    }
    until("they are under way", async || {
        m1.asked.lock().unwrap().iter().filter(|path| *path == "/api/never").count() == 16
    })
    .await;
    let text = "x".repeat(100_000);
    let reply = timeout(PATIENCE, post("/clusters/m1/api/echo", text.clone().into_bytes())).await.unwrap();
    assert_eq!(read(reply).await.body["body"], text);
}
