//! An agent between a tower and a member, all three real, on the loopback.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may fail so

mod support;

use std::fs;
use std::time::Duration;

use hansa_agent::Error;
use hansa_agent::proxy::Proxies;
use hansa_tunnel::{Answer, Host};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use support::{
    Cluster, Forwarder, Machine, Options, Running, Tower, ask, body, connect_proxy, eventually, get, post,
    soon,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CREDENTIAL: &str = "/api/v1/namespaces/hansa-agent/secrets/agent-credential";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A tower, a member, an agent between them, and the tower's end of the tunnel.
async fn joined() -> (Tower, Cluster, Machine, Running, Host) {
    let (tower, cluster) = (Tower::new().await, Cluster::new().await);
    let mut machine = Machine::new(&tower);
    let mut agent = machine.start(&cluster);
    agent.connected().await;
    let host = tower.host().await;
    (tower, cluster, machine, agent, host)
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

#[tokio::test]
async fn the_tower_reads_writes_and_watches_the_member_through_the_agent() {
    let (_tower, cluster, _machine, _agent, host) = joined().await;
    let (code, version) = ask(&host, get("/version")).await;
    assert_eq!((code, version["major"].as_str()), (200, Some("1")));
    let Answer::Response(mut watch) = host.send(get(&format!("{CONFIG_MAPS}?watch=true"))).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(watch.status(), StatusCode::OK);
    assert_eq!(ask(&host, post(CONFIG_MAPS, &config_map("one"))).await.0, 201);
    assert!(cluster.object(&format!("{CONFIG_MAPS}/one")).await.is_some());
    let mut events = String::new();
    while !events.contains("\"one\"") {
        let frame = soon("the watch tells of it", watch.body_mut().frame()).await.unwrap().unwrap();
        events.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap()));
    }
    let (code, list) = ask(&host, get(CONFIG_MAPS)).await;
    assert_eq!(code, 200);
    assert!(list["items"].as_array().unwrap().iter().any(|each| each["metadata"]["name"] == "one"));
    assert_eq!(ask(&host, get(&format!("{CONFIG_MAPS}/none"))).await.0, 404);
}

#[tokio::test]
async fn both_kinds_of_upgrade_pass() {
    let (_tower, cluster, _machine, _agent, host) = joined().await;
    for protocol in ["SPDY/3.1", "websocket"] {
        let request = Request::post("/api/v1/namespaces/default/pods/p/exec?command=cat")
            .header("Connection", "Upgrade")
            .header("Upgrade", protocol)
            .header("X-Stream-Protocol-Version", "v4.channel.k8s.io")
            .body(body(""))
            .unwrap();
        let answer = soon("it switches", host.send(request)).await.unwrap();
        let Answer::Switched(response, mut stream) = answer else { panic!("{protocol} did not switch") };
        assert_eq!(response.headers()["upgrade"], protocol);
        let seen = cluster.seen.lock().unwrap().last().unwrap().headers.clone();
        assert!(!seen.contains_key("transfer-encoding"), "the bytes that follow are not a body: {seen:?}");
        let sent = vec![b'x'; 300_000];
        let mut back = vec![0; sent.len()];
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let (written, read) =
            soon("it comes back", async { tokio::join!(write.write_all(&sent), read.read_exact(&mut back)) })
                .await;
        written.unwrap();
        read.unwrap();
        assert_eq!(back, sent);
    }
    // Where the API server does not switch, neither does the tunnel.
    let request = Request::get("/api/v1/namespaces").header("Upgrade", "websocket").body(body("")).unwrap();
    let answer = soon("there is an answer", host.send(request)).await.unwrap();
    assert!(matches!(answer, Answer::Response(response) if response.status() == StatusCode::OK));
}

#[tokio::test]
async fn what_is_none_of_the_apis_business_is_refused_by_the_agent_itself() {
    let (_tower, cluster, _machine, _agent, host) = joined().await;
    let (code, status) = ask(&host, get("/logs/kube-apiserver.log")).await;
    assert_eq!((code, status["kind"].as_str()), (404, Some("Status")));
    assert_eq!(ask(&host, get("/api/v1/../../logs")).await.0, 400);
    assert_eq!(ask(&host, get("/api/v1%2fpods")).await.0, 400);
    let masters = |name: &str| {
        Request::get("/api/v1/namespaces")
            .header("Impersonate-User", "jane")
            .header(name, "system:masters")
            .body(body(""))
            .unwrap()
    };
    let before = cluster.seen.lock().unwrap().len();
    let (code, status) = ask(&host, masters("Impersonate-Group")).await;
    assert_eq!(code, 403);
    assert!(status["message"].as_str().unwrap().contains("system:masters"), "{status}");
    let connect = Request::builder().method("CONNECT").uri("/api").body(body("")).unwrap();
    assert_eq!(ask(&host, connect).await.0, 405);
    let h2c = Request::get("/api").header("Upgrade", "h2c").body(body("")).unwrap();
    assert_eq!(ask(&host, h2c).await.0, 400);
    assert_eq!(cluster.seen.lock().unwrap().len(), before, "nothing of it reached the API server");
}

#[tokio::test]
async fn the_api_server_sees_the_agents_credential_and_nobody_elses() {
    let (_tower, cluster, _machine, _agent, host) = joined().await;
    let request = Request::get("/api/v1/namespaces")
        .header("Authorization", "Bearer of-a-caller")
        .header("X-Remote-User", "admin")
        .header("Cookie", "a=b")
        .body(body(""))
        .unwrap();
    assert_eq!(ask(&host, request).await.0, 200);
    let seen = cluster.seen.lock().unwrap();
    let last = seen.last().unwrap();
    assert_eq!(last.headers["authorization"], format!("Bearer {}", cluster.token()));
    assert!(!last.headers.contains_key("x-remote-user") && !last.headers.contains_key("cookie"));
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_and_places_come_back() {
    let (tower, cluster) = (Tower::new().await, Cluster::new().await);
    let mut machine = Machine::new(&tower);
    machine.requests = 2;
    let _agent = machine.start(&cluster);
    let host = tower.host().await;
    let watch = || host.send(get(&format!("{CONFIG_MAPS}?watch=true")));
    let held = [watch().await.unwrap(), watch().await.unwrap()];
    let (code, status) = ask(&host, get("/version")).await;
    assert_eq!((code, status["reason"].as_str()), (429, Some("TooManyRequests")));
    drop(held);
    soon("a place is free", async {
        while ask(&host, get("/version")).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_api_server_that_is_away_is_a_bad_gateway_and_comes_back() {
    let (_tower, mut cluster, _machine, _agent, host) = joined().await;
    assert_eq!(ask(&host, get("/version")).await.0, 200);
    cluster.pause().await;
    let (code, status) = ask(&host, get("/version")).await;
    assert_eq!((code, status["kind"].as_str()), (502, Some("Status")), "{status}");
    assert!(status["message"].as_str().unwrap().contains("connection"), "{status}");
    let exec = Request::post("/api/v1/namespaces/d/pods/p/exec")
        .header("Upgrade", "SPDY/3.1")
        .body(body(""))
        .unwrap();
    assert_eq!(ask(&host, exec).await.0, 502);
    cluster.listen().await;
    assert_eq!(ask(&host, get("/version")).await.0, 200);
    assert!(host.is_open(), "the tunnel had no part in it");
}

#[tokio::test]
async fn a_service_account_token_that_is_replaced_is_taken_up() {
    let (_tower, cluster, machine, _agent, host) = joined().await;
    // The first is not accepted any more; the next is there, as a kubelet writes it.
    machine.write("account/token", "no-token");
    let last =
        |cluster: &Cluster| cluster.seen.lock().unwrap().last().unwrap().headers["authorization"].clone();
    assert_eq!(ask(&host, get("/api/v1/namespaces")).await.0, 200);
    assert_eq!(last(&cluster), "Bearer first-token");
    let kubeconfig = machine.path("config");
    let write = |token: &str| {
        let text = json!({
            "current-context": "m",
            "clusters": [{"name": "m", "cluster": {"server": format!("https://{}", cluster.address), "certificate-authority": machine.path("account/ca.crt")}}],
            "users": [{"name": "m", "user": {"token": token}}],
            "contexts": [{"name": "m", "context": {"cluster": "m", "user": "m"}}],
        });
        fs::write(&kubeconfig, text.to_string()).unwrap();
    };
    write("outdated");
    let source = hansa_agent::member::Source::Kubeconfig { file: kubeconfig.clone(), context: None };
    let member = hansa_agent::member::Member::new(source, 8).unwrap();
    let code = async |member: &hansa_agent::member::Member| {
        member.transport().request(get("/api/v1/namespaces")).await.unwrap().status().as_u16()
    };
    assert_eq!(code(&member).await, 401);
    write("second-token");
    member.refresh();
    assert_eq!(code(&member).await, 200);
    assert_eq!(last(&cluster), "Bearer second-token");
}

#[tokio::test]
async fn a_token_that_is_not_accepted_is_read_again_at_once() {
    let (tower, cluster) = (Tower::new().await, Cluster::new().await);
    let mut machine = Machine::new(&tower);
    let _agent = machine.start(&cluster);
    let host = tower.host().await;
    cluster.revoke_first();
    machine.write("account/token", "second-token");
    // Tokens are not read again for every request that fails, so it may take a second.
    soon("the new token is used", async {
        while ask(&host, get("/api/v1/namespaces")).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_tower_that_is_killed_is_found_again() {
    let (mut tower, _cluster, _machine, mut agent, _host) = joined().await;
    tower.kill().await;
    agent.until("it knows", |standing| standing.connections == 0).await;
    let said = agent.trouble().await;
    assert!(said.contains("connection refused") && said.contains("hansa tower"), "{said}");
    tower.listen().await;
    agent.connected().await;
    assert_eq!(ask(&tower.host().await, get("/version")).await.0, 200);
    assert_eq!(tower.joins(), 1, "the certificate it had was enough");
}

#[tokio::test]
async fn a_link_that_goes_silent_is_noticed_and_replaced() {
    let (tower, cluster) = (Tower::new().await, Cluster::new().await);
    let link = Forwarder::to(tower.address).await;
    let mut machine = Machine::new(&tower);
    machine.write("tower", &format!("https://{}", link.address));
    let mut agent = machine.start(&cluster);
    agent.connected().await;
    let host = tower.host().await;
    link.silence(true);
    agent.until("the agent notices", |standing| standing.connections == 0).await;
    soon("so does the tower", host.closed()).await;
    link.silence(false);
    agent.connected().await;
    assert_eq!(ask(&tower.host().await, get("/version")).await.0, 200);
}

#[tokio::test]
async fn every_replica_of_a_tower_gets_a_connection() {
    let first = Tower::new().await;
    let second = Tower::replica_of(first.shared.clone(), "b").await;
    first.set_replicas(2);
    let cluster = Cluster::new().await;
    let balancer = support::balancer(vec![first.address, second.address]).await;
    let mut machine = Machine::new(&first);
    machine.write("tower", &format!("https://{balancer}"));
    let mut agent = machine.start(&cluster);
    let standing = agent.until("it has both", |standing| standing.connections == 2).await;
    assert_eq!(standing.replicas, 2);
    for tower in [&first, &second] {
        assert_eq!(tower.hosts().len(), 1, "one connection a replica");
        assert_eq!(ask(&tower.host().await, get("/version")).await.0, 200);
    }
}

#[tokio::test]
async fn a_replica_that_is_about_to_stop_is_replaced_before_its_last_stream_ends() {
    let (tower, _cluster, _machine, mut agent, host) = joined().await;
    let Answer::Response(mut watch) = host.send(get(&format!("{CONFIG_MAPS}?watch=true"))).await.unwrap()
    else {
        panic!()
    };
    host.drain();
    let next = tower.host().await;
    agent.connected().await;
    assert_eq!(ask(&next, post(CONFIG_MAPS, &config_map("two"))).await.0, 201);
    // The stream that was there goes on.
    let mut events = String::new();
    while !events.contains("\"two\"") {
        let frame = soon("the watch goes on", watch.body_mut().frame()).await.unwrap().unwrap();
        events.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap()));
    }
}

#[tokio::test]
async fn an_agent_that_is_told_to_stop_lets_what_is_under_way_end() {
    let (tower, _cluster, _machine, agent, host) = joined().await;
    let Answer::Response(mut watch) =
        host.send(get(&format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=3"))).await.unwrap()
    else {
        panic!()
    };
    agent.stop();
    eventually("the tower is told", || tower.hosts().is_empty().then_some(())).await;
    let refused = host.send(get("/version")).await;
    assert!(refused.is_err(), "nothing new is sent");
    // The watch ends as it was asked to, and not in the middle.
    while let Some(frame) = soon("the watch ends", watch.body_mut().frame()).await {
        frame.unwrap();
    }
    agent.ended().await;
}

#[tokio::test]
async fn what_does_not_end_does_not_keep_an_agent_from_stopping() {
    let (tower, cluster) = (Tower::new().await, Cluster::new().await);
    let mut machine = Machine::new(&tower);
    machine.drain = Duration::from_millis(100);
    let agent = machine.start(&cluster);
    let host = tower.host().await;
    let _watch = host.send(get(&format!("{CONFIG_MAPS}?watch=true"))).await.unwrap();
    agent.stop();
    agent.ended().await;
    soon("the tower notices", host.closed()).await;
}

#[tokio::test]
async fn the_way_leads_through_a_proxy_where_there_is_one() {
    let (tower, cluster) = (Tower::new().await, Cluster::new().await);
    let (proxy, asked) = connect_proxy(tower.address, "pr0xy").await;
    let through = |password: &str, except: &str| {
        let url = format!("http://user:{password}@{proxy}");
        let (url, except) = (url.clone(), except.to_owned());
        Proxies::from_environment(move |name| match name {
            "HTTPS_PROXY" => Some(url.clone()),
            "NO_PROXY" => Some(except.clone()),
            _ => None,
        })
        .unwrap()
    };
    let mut machine = Machine::new(&tower);
    machine.write("tower", "https://tower.test:7444");
    machine.proxies = through("wrong", "");
    let mut agent = machine.start(&cluster);
    let said = agent.trouble().await;
    assert!(said.contains("407") && said.contains("HTTPS_PROXY"), "{said}");
    assert!(!said.contains("wrong"), "{said}");
    agent.kill().await;

    machine.proxies = through("pr0xy", "");
    let mut agent = machine.start(&cluster);
    agent.connected().await;
    assert_eq!(ask(&tower.host().await, get("/version")).await.0, 200);
    assert_eq!(asked.lock().unwrap().last().unwrap(), "CONNECT tower.test:7444 HTTP/1.1");
    agent.kill().await;

    // What is exempt is dialled directly, where that name leads nowhere.
    machine.proxies = through("pr0xy", ".test");
    let said = machine.start(&cluster).trouble().await;
    assert!(said.contains("does not resolve") || said.contains("not reachable"), "{said}");
}

#[tokio::test]
async fn a_tower_of_another_authority_is_not_believed_until_a_fresh_manifest_comes() {
    let (tower, other, cluster) = (Tower::new().await, Tower::new().await, Cluster::new().await);
    let mut machine = Machine::new(&tower);
    machine.write("ca.crt", other.authority());
    let mut agent = machine.start(&cluster);
    let said = agent.trouble().await;
    assert!(said.contains("not of the authority that this agent was given"), "{said}");
    assert!(said.contains("hansa join m2 --agent"), "{said}");
    assert_eq!(tower.joins(), 0);
    machine.write("ca.crt", tower.authority());
    agent.connected().await;
}

#[tokio::test]
async fn a_tower_under_another_name_or_on_plain_http_is_named_for_what_it_is() {
    let options = Options { names: vec!["tower.example.org".to_owned()], ..Options::default() };
    let (tower, cluster) = (Tower::with(options).await, Cluster::new().await);
    let mut machine = Machine::new(&tower);
    let said = machine.start(&cluster).trouble().await;
    assert!(said.contains("is not for 127.0.0.1") && said.contains("--tls-names 127.0.0.1"), "{said}");
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    tokio::spawn({
        let address = nobody.local_addr().unwrap();
        machine.write("tower", &format!("https://{address}"));
        async move {
            let (mut stream, _) = nobody.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            std::future::pending::<()>().await;
        }
    });
    let said = machine.start(&cluster).trouble().await;
    assert!(
        said.contains("no TLS 1.3 connection") && said.contains("check that the port is the tower's"),
        "{said}"
    );
}

#[tokio::test]
async fn a_clock_that_is_wildly_wrong_is_said_to_be() {
    let (tower, cluster) = (Tower::new().await, Cluster::new().await);
    for (days, words) in [(-4000, "not valid yet"), (4000, "has expired")] {
        let mut machine = Machine::new(&tower);
        machine.clock_off_by(days);
        let said = machine.start(&cluster).trouble().await;
        assert!(said.contains(words) && said.contains("this machine's clock says"), "{said}");
    }
    assert_eq!(tower.joins(), 0);
    // The same where it is the certificate that is wrong.
    let options = Options {
        serving_from: Timestamp::now() - SignedDuration::from_hours(24 * 500),
        ..Options::default()
    };
    let old = Tower::with(options).await;
    let said = Machine::new(&old).start(&cluster).trouble().await;
    assert!(said.contains("has expired") && said.contains("renew the tower's certificate"), "{said}");
}

#[tokio::test]
async fn a_join_token_is_redeemed_once() {
    let (tower, _cluster, machine, agent, _host) = joined().await;
    agent.kill().await;
    // Another machine with the same manifest, which somebody took.
    let elsewhere = Cluster::new().await;
    let mut thief = Machine::new(&tower);
    thief.write("token", &fs::read_to_string(machine.path("token")).unwrap());
    let mut stolen = thief.start(&elsewhere);
    let said = stolen.trouble().await;
    assert!(said.contains("used by another agent") && said.contains("ask for a new manifest"), "{said}");
    assert!(!said.contains(&tower.token()), "{said}");
    assert_eq!((tower.joins(), tower.hosts().len()), (1, 0));
    let standing = stolen.observer.standing();
    assert!(matches!(standing.trouble, Some(Error::Token { .. })));
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again_with_the_same_key() {
    let (tower, cluster) = (Tower::new().await, Cluster::new().await);
    let mut machine = Machine::new(&tower);
    let mut agent = machine.start(&cluster);
    agent.connected().await;
    agent.kill().await;
    // As if the agent had died between the answer and keeping it.
    let mut secret = cluster.object(CREDENTIAL).await.unwrap();
    let key = secret["data"]["tls.key"].clone();
    for part in ["tls.crt", "ca.crt", "token.sha256"] {
        secret["data"].as_object_mut().unwrap().remove(part);
    }
    cluster.send("PUT", CREDENTIAL, &secret).await;
    let mut agent = machine.start(&cluster);
    agent.connected().await;
    assert_eq!(tower.joins(), 2);
    assert_eq!(cluster.object(CREDENTIAL).await.unwrap()["data"]["tls.key"], key);
}

#[tokio::test]
async fn agents_that_start_at_the_same_moment_share_one_key() {
    let (tower, cluster) = (Tower::new().await, Cluster::new().await);
    let mut machine = Machine::new(&tower);
    let mut agents: Vec<Running> = (0..4).map(|_| machine.start(&cluster)).collect();
    for agent in &mut agents {
        agent.connected().await;
    }
    eventually("each has its tunnel", || (tower.hosts().len() == 4).then_some(())).await;
    for host in tower.hosts() {
        assert_eq!(ask(&host, get("/version")).await.0, 200);
    }
    // One that goes costs the others nothing.
    agents.pop().unwrap().kill().await;
    eventually("its tunnel ends", || (tower.hosts().len() == 3).then_some(())).await;
    for host in tower.hosts() {
        assert_eq!(ask(&host, get("/version")).await.0, 200);
    }
}

#[tokio::test]
async fn a_restarted_agent_needs_its_token_no_more() {
    let (tower, cluster, mut machine, agent, _host) = joined().await;
    agent.kill().await;
    fs::remove_file(machine.path("token")).unwrap();
    let mut agent = machine.start(&cluster);
    agent.connected().await;
    assert_eq!(tower.joins(), 1);
}

#[tokio::test]
async fn a_certificate_that_is_past_a_third_of_its_life_is_renewed_with_the_same_key() {
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    let options = Options { issued: (days(-4), days(7)), ..Options::default() };
    let (tower, cluster) = (Tower::with(options).await, Cluster::new().await);
    let mut machine = Machine::new(&tower);
    let mut agent = machine.start(&cluster);
    agent.connected().await;
    assert_eq!((tower.joins(), tower.renewals()), (1, 1));
    let before = cluster.object(CREDENTIAL).await.unwrap();
    agent.kill().await;
    tower.set(|options| options.issued = (days(0), days(7)));
    let mut agent = machine.start(&cluster);
    agent.connected().await;
    let after = cluster.object(CREDENTIAL).await.unwrap();
    assert_eq!(before["data"]["tls.key"], after["data"]["tls.key"]);
    assert_ne!(before["data"]["tls.crt"], after["data"]["tls.crt"]);
    agent.kill().await;
    let mut agent = machine.start(&cluster);
    agent.connected().await;
    assert_eq!(tower.renewals(), 2, "a fresh one is not renewed");
}

#[tokio::test]
async fn a_certificate_that_has_ended_needs_a_fresh_manifest_and_takes_it() {
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    let options = Options { issued: (days(-20), days(7)), ..Options::default() };
    let (tower, cluster) = (Tower::with(options).await, Cluster::new().await);
    let mut machine = Machine::new(&tower);
    machine.start(&cluster).trouble().await;
    fs::remove_file(machine.path("token")).unwrap();
    let mut agent = machine.start(&cluster);
    let said = agent.trouble().await;
    assert!(said.contains("certificate ended at") && said.contains("hansa join m2 --agent"), "{said}");
    tower.set(|options| options.issued = (days(0), days(7)));
    tower.invite("another-t0ken");
    machine.write("token", "another-t0ken");
    agent.connected().await;
}

#[tokio::test]
async fn a_certificate_of_a_former_tower_is_refused_until_the_new_tower_gives_one() {
    let (_tower, cluster, mut machine, agent, _host) = joined().await;
    agent.kill().await;
    let tower = Tower::new().await;
    machine.write("tower", &format!("https://{}", tower.address));
    machine.write("ca.crt", tower.authority());
    let mut agent = machine.start(&cluster);
    let said = agent.trouble().await;
    assert!(
        said.contains("refused this agent's certificate") && said.contains("hansa join m2 --agent"),
        "{said}"
    );
    tower.invite("another-t0ken");
    machine.write("token", "another-t0ken");
    agent.connected().await;
    assert_eq!(ask(&tower.host().await, get("/version")).await.0, 200);
}

#[tokio::test]
async fn a_new_token_is_redeemed_and_a_wrong_one_leaves_what_works() {
    let (tower, cluster, mut machine, agent, _host) = joined().await;
    agent.kill().await;
    machine.write("token", "wr0ng");
    let mut agent = machine.start(&cluster);
    agent.connected().await;
    assert_eq!(tower.joins(), 1);
    agent.kill().await;
    tower.invite("another-t0ken");
    machine.write("token", "another-t0ken");
    let mut agent = machine.start(&cluster);
    agent.connected().await;
    assert_eq!(tower.joins(), 2);
}

#[tokio::test]
async fn what_is_no_tower_is_not_talked_to() {
    use support::Odd;
    let (tower, cluster) = (Tower::new().await, Cluster::new().await);
    for (odd, words) in [
        (Odd::Accept, "does not answer our key"),
        (Odd::Subprotocol, "too far apart in version"),
        (Odd::Ok, "it answered 200"),
        (Odd::Redirect, "redirection, which is not followed"),
        (Odd::Garbage, "it answered 403"),
        (Odd::Busy, "too many agents connect at once"),
    ] {
        tower.set(|options| options.odd = Some(odd));
        let said = Machine::new(&tower).start(&cluster).trouble().await;
        assert!(said.contains(words), "{odd:?}: {said}");
    }
    tower.set(|options| options.odd = Some(Odd::Silence));
    let said = Machine::new(&tower).start(&cluster).trouble().await;
    assert!(said.contains("no answer within 10s"), "{said}");
}

#[tokio::test]
async fn the_numbers_tell_of_connections_and_traffic() {
    let (mut tower, _cluster, _machine, mut agent, host) = joined().await;
    ask(&host, get("/version")).await;
    let value = |text: &str, name: &str| -> f64 {
        let line = text.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    let text = agent.observer.metrics();
    assert_eq!(value(&text, "hansa_agent_connections"), 1.0);
    assert_eq!(value(&text, "hansa_agent_streams_total"), 1.0);
    let sent = value(&text, "hansa_agent_sent_bytes_total");
    assert!(sent > 100.0);
    tower.kill().await;
    agent.until("it knows", |standing| standing.connections == 0).await;
    let text = agent.observer.metrics();
    assert!(value(&text, "hansa_agent_sent_bytes_total") >= sent, "what has passed is not forgotten");
    assert_eq!(value(&text, "hansa_agent_connections"), 0.0);
}
