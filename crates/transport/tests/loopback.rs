//! A transport against servers on the loopback interface.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::convert::Infallible;
use std::time::Duration;

use futures::future::join_all;
use hansa_transport::{
    Body, Credential, Endpoint, Error, Limits, Proxy, Target, Tls, Transport, Upgrade, certificate_expiry,
    empty, explain,
};
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use support::{Authority, NOW, PAST, Server, Setup, get, limits, read, target, text, trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

async fn https(authority: &Authority, max_streams: u32) -> Server {
    let identity = authority.sign("127.0.0.1", NOW);
    Server::start(Setup {
        tls: Some((authority, identity)),
        http2: true,
        max_streams,
        client_certificates: false,
    })
    .await
}

async fn plain() -> Server {
    Server::start(Setup { tls: None, http2: false, max_streams: 100, client_certificates: false }).await
}

#[tokio::test]
async fn requests_and_watches_share_one_http2_connection() {
    let authority = Authority::new();
    let server = https(&authority, 100).await;
    let transport = Transport::new(target(&server, Some(trust(&authority))), limits()).unwrap();
    let mut watch = transport.request(get("/watch?watch=true")).await.unwrap();
    assert_eq!(watch.version(), Version::HTTP_2);
    assert_eq!(watch.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "event\n");
    for answer in join_all((0..20).map(|_| transport.request(get("/healthz")))).await {
        assert_eq!(read(answer.unwrap()).await, "ok");
    }
    assert_eq!((server.connections(), transport.connections().http2), (1, 1));
}

#[tokio::test]
async fn an_answer_that_stalls_on_a_living_connection_is_given_up_and_a_watch_is_not() {
    let authority = Authority::new();
    let server = https(&authority, 100).await;
    let limits = Limits { silence: Duration::from_millis(200), ..limits() };
    let transport = Transport::new(target(&server, Some(trust(&authority))), limits).unwrap();
    let mut watch = transport.request(get("/watch?watch=true")).await.unwrap();
    // The same server, asked for something that should end.
    let mut list = transport.request(get("/watch")).await.unwrap();
    for answer in [&mut watch, &mut list] {
        assert_eq!(answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "event\n");
    }
    let error = list.body_mut().frame().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("200ms"), "{error}");
    let silent = tokio::time::timeout(Duration::from_millis(600), watch.body_mut().frame()).await;
    assert!(silent.is_err(), "a watch may be silent");
}

#[tokio::test]
async fn another_connection_is_opened_when_the_streams_of_one_have_run_out() {
    let authority = Authority::new();
    let server = https(&authority, 3).await;
    let transport = Transport::new(target(&server, Some(trust(&authority))), limits()).unwrap();
    let watches = join_all((0..7).map(|_| transport.request(get("/watch?watch=1")))).await;
    let watches: Vec<_> = watches.into_iter().map(Result::unwrap).collect();
    assert_eq!(read(transport.request(get("/healthz")).await.unwrap()).await, "ok");
    assert_eq!(server.connections(), 3);
    drop(watches);
    // Ended watches give their streams back, so that no further connection is needed.
    let again = join_all((0..5).map(|_| transport.request(get("/healthz")))).await;
    assert!(again.iter().all(Result::is_ok));
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_server_without_http2_gets_a_connection_per_request_and_keeps_it() {
    let server = plain().await;
    let transport = Transport::new(target(&server, None), limits()).unwrap();
    let _watch = transport.request(get("/watch?watch=true")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(read(transport.request(get("/healthz")).await.unwrap()).await, "ok");
        // The connection comes back when its own task has seen the end.
        tokio::time::timeout(Duration::from_secs(5), async {
            while transport.connections().idle == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
    assert_eq!(server.connections(), 2);
    assert_eq!(server.header("host"), Some(server.address.to_string()));
}

#[tokio::test]
async fn a_certificate_that_does_not_check_out_is_named_for_what_is_wrong_with_it() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = https(&authority, 100).await;
    let wrong_name = authority.sign("other.example.com", NOW);
    let expired = authority.sign("127.0.0.1", PAST);
    let setup = |identity| Setup {
        tls: Some((&authority, identity)),
        http2: true,
        max_streams: 9,
        client_certificates: false,
    };
    let wrong_name = Server::start(setup(wrong_name)).await;
    let expired = Server::start(setup(expired)).await;
    let ask = async |server: &Server, tls: Tls| {
        let transport = Transport::new(target(server, Some(tls)), limits()).unwrap();
        transport.request(get("/healthz")).await.map(|answer| answer.status())
    };
    let skip_name = Tls { skip_name: true, ..trust(&authority) };
    let skip_validity = Tls { skip_validity: true, ..trust(&authority) };
    let both = Tls { skip_name: true, skip_validity: true, ..trust(&authority) };
    assert!(matches!(ask(&good, trust(&other)).await, Err(Error::UnknownAuthority { .. })));
    assert!(matches!(ask(&wrong_name, trust(&authority)).await, Err(Error::WrongName { .. })));
    assert!(matches!(ask(&expired, trust(&authority)).await, Err(Error::CertificateExpired { .. })));
    // Each check that is left out is the only one.
    assert_eq!(ask(&wrong_name, skip_name.clone()).await, Ok(StatusCode::OK));
    assert!(matches!(ask(&expired, skip_name).await, Err(Error::CertificateExpired { .. })));
    assert_eq!(ask(&expired, skip_validity.clone()).await, Ok(StatusCode::OK));
    assert!(matches!(ask(&wrong_name, skip_validity).await, Err(Error::WrongName { .. })));
    assert_eq!(ask(&expired, both).await, Ok(StatusCode::OK));
    assert!(matches!(
        ask(&good, Tls { skip_name: true, ..trust(&other) }).await,
        Err(Error::UnknownAuthority { .. })
    ));
    assert_eq!(ask(&good, Tls { insecure: true, ..Tls::default() }).await, Ok(StatusCode::OK));
    let named = Tls { server_name: Some("other.example.com".to_owned()), ..trust(&authority) };
    assert_eq!(ask(&wrong_name, named).await, Ok(StatusCode::OK));
}

#[tokio::test]
async fn nobody_there_is_told_from_no_such_host_and_from_no_answer() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ask = async |endpoint: String| {
        let target = Target {
            endpoint: Endpoint::parse(&endpoint).unwrap(),
            tls: Tls { insecure: true, ..Tls::default() },
            proxy: None,
            credential: Credential::token("t"),
        };
        let limits = Limits { connect: Duration::from_millis(200), ..limits() };
        let transport = Transport::new(target, limits).unwrap();
        let error = transport.request(get("/healthz")).await.unwrap_err();
        // The same error comes out of a client, with the same words.
        let client = transport.client("default");
        let through_client =
            client.send(Request::get("/healthz").body(kube::client::Body::empty()).unwrap()).await;
        assert_eq!(explain(&through_client.err().unwrap()), error.to_string());
        error
    };
    assert!(matches!(ask(format!("https://{address}")).await, Error::Refused { .. }));
    assert!(matches!(ask("https://nowhere.invalid:6443".to_owned()).await, Error::Dns { .. }));
    assert!(matches!(ask(format!("https://{}", silent.local_addr().unwrap())).await, Error::Timeout { .. }));
}

#[tokio::test]
async fn many_requests_to_a_dead_server_fail_together_and_not_one_after_the_other() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target {
        endpoint: Endpoint::parse(&format!("https://{}", silent.local_addr().unwrap())).unwrap(),
        tls: Tls { insecure: true, ..Tls::default() },
        proxy: None,
        credential: Credential::token("t"),
    };
    let limits = Limits { connect: Duration::from_millis(300), ..limits() };
    let transport = Transport::new(target, limits).unwrap();
    let began = tokio::time::Instant::now();
    let answers = join_all((0..20).map(|_| transport.request(get("/healthz")))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Timeout { .. }))));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_its_absence_is_named() {
    let authority = Authority::new();
    let server = Server::start(Setup {
        tls: Some((&authority, authority.sign("127.0.0.1", NOW))),
        http2: true,
        max_streams: 100,
        client_certificates: true,
    })
    .await;
    let without = Transport::new(target(&server, Some(trust(&authority))), limits()).unwrap();
    let error = without.request(get("/healthz")).await.unwrap_err();
    assert!(matches!(error, Error::ClientCertificate { .. }), "{error:?}");
    let identity = authority.sign("client", NOW);
    assert!(certificate_expiry(&identity.certificate).is_some());
    // A certificate that comes later makes the same transport work.
    without.rotate(Credential { identity: Some(identity), ..Credential::default() }).unwrap();
    assert_eq!(without.request(get("/healthz")).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_token_that_rotates_is_used_on_the_same_connection() {
    let authority = Authority::new();
    let server = https(&authority, 100).await;
    let transport = Transport::new(target(&server, Some(trust(&authority))), limits()).unwrap();
    transport.request(get("/healthz")).await.unwrap();
    assert_eq!(server.header("authorization").as_deref(), Some("Bearer t1"));
    transport.rotate(Credential::token("t2")).unwrap();
    transport.request(get("/healthz")).await.unwrap();
    assert_eq!(server.header("authorization").as_deref(), Some("Bearer t2"));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn what_a_caller_sends_does_not_replace_the_credential_nor_steer_the_connection() {
    let server = plain().await;
    let mut given = target(&server, None);
    given.endpoint.path = "/base".to_owned();
    let transport = Transport::new(given, limits()).unwrap();
    let request = Request::get("/api?x=1")
        .header("authorization", "Bearer stolen")
        .header("connection", "x-internal, keep-alive")
        .header("x-internal", "1")
        .header("upgrade", "h2c")
        .header("host", "evil.example.com")
        .header("x-kept", "1")
        .body(empty())
        .unwrap();
    transport.request(request).await.unwrap();
    assert_eq!(server.header("authorization").as_deref(), Some("Bearer t1"));
    assert_eq!(server.header("host"), Some(server.address.to_string()));
    assert_eq!((server.header("x-internal"), server.header("upgrade")), (None, None));
    assert_eq!(server.header("x-kept").as_deref(), Some("1"));
    assert_eq!(server.seen.lock().unwrap()[0].uri, "/base/api?x=1");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = plain().await;
    let transport = Transport::new(target(&server, None), limits()).unwrap();
    assert_eq!(transport.request(get("/redirect")).await.unwrap().status(), StatusCode::FOUND);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn requests_are_bounded_and_watches_do_not_count() {
    let authority = Authority::new();
    let server = https(&authority, 100).await;
    let limits = Limits { concurrency: 1, queue: Duration::from_millis(100), ..limits() };
    let transport = Transport::new(target(&server, Some(trust(&authority))), limits).unwrap();
    let _watches = join_all((0..3).map(|_| transport.request(get("/watch?watch=true")))).await;
    let held = transport.request(get("/watch")).await.unwrap();
    let refused = transport.request(get("/healthz")).await.unwrap_err();
    assert!(matches!(refused, Error::Busy { limit: 1, .. }));
    drop(held);
    assert_eq!(read(transport.request(get("/healthz")).await.unwrap()).await, "ok");
}

fn upgrade_request(path: &str) -> Request<Body> {
    Request::post(path).header("connection", "Upgrade").header("upgrade", "SPDY/3.1").body(empty()).unwrap()
}

async fn assert_echoes(outcome: Upgrade) {
    let Upgrade::Switched(head, stream) = outcome else { panic!("not switched") };
    assert_eq!(head.headers()["upgrade"], "SPDY/3.1");
    let mut stream = TokioIo::new(stream);
    stream.write_all(b"ping").await.unwrap();
    let mut buffer = [0; 4];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"ping");
}

#[tokio::test]
async fn an_upgrade_is_handed_over_after_101_and_not_otherwise() {
    let authority = Authority::new();
    let server = https(&authority, 100).await;
    let transport = Transport::new(target(&server, Some(trust(&authority))), limits()).unwrap();
    assert_echoes(transport.upgrade(upgrade_request("/upgrade")).await.unwrap()).await;
    assert_eq!(server.header("authorization").as_deref(), Some("Bearer t1"));
    let Upgrade::Refused(response) = transport.upgrade(upgrade_request("/forbidden")).await.unwrap() else {
        panic!("switched without 101")
    };
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(read(response).await, "no");
    assert!(matches!(transport.upgrade(get("/upgrade")).await, Err(Error::InvalidRequest(_))));
}

#[tokio::test]
async fn a_server_in_process_is_called_and_upgraded_like_any_other() {
    let service = tower::service_fn(async |request: Request<Body>| {
        let mut response = Response::new(text(request.uri().path().to_owned()));
        if request.uri().path() == "/upgrade" {
            let upgrade = hyper::upgrade::on(request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut buffer = [0; 4];
                stream.read_exact(&mut buffer).await.unwrap();
                stream.write_all(&buffer).await.unwrap();
            });
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.body_mut() = empty();
            response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "SPDY/3.1".parse().unwrap());
        }
        Ok::<_, Infallible>(response)
    });
    let transport = Transport::in_process(service);
    assert_eq!(read(transport.request(get("/healthz")).await.unwrap()).await, "/healthz");
    assert_echoes(transport.upgrade(upgrade_request("/upgrade")).await.unwrap()).await;
    assert!(transport.endpoint().is_none());
}

#[tokio::test]
async fn a_kube_client_works_on_a_transport() {
    let authority = Authority::new();
    let server = https(&authority, 100).await;
    let transport = Transport::new(target(&server, Some(trust(&authority))), limits()).unwrap();
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
        kube::Api::all(transport.client("default"));
    assert_eq!(namespaces.get("kube-system").await.unwrap().metadata.uid.as_deref(), Some("u1"));
}

#[tokio::test]
async fn a_body_is_sent_whole_over_both_protocols() {
    let authority = Authority::new();
    let (fast, slow) = (https(&authority, 100).await, plain().await);
    for given in [target(&fast, Some(trust(&authority))), target(&slow, None)] {
        let transport = Transport::new(given, limits()).unwrap();
        let long = "x".repeat(3 << 20);
        let request = Request::post("/echo").body(text(long.clone())).unwrap();
        assert_eq!(read(transport.request(request).await.unwrap()).await, long);
    }
}

#[derive(Clone, Copy)]
enum Greeting {
    Nothing,
    HttpConnect,
    Socks5,
}

/// Forwards bytes to `to` after the greeting of a proxy.
async fn relay(
    to: std::net::SocketAddr,
    greeting: Greeting,
) -> (std::net::SocketAddr, tokio::task::AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut running = tokio::task::JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            running.spawn(async move {
                match greeting {
                    Greeting::Nothing => {}
                    Greeting::HttpConnect => {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            head.push(near.read_u8().await.unwrap());
                        }
                        let head = String::from_utf8(head).unwrap();
                        assert!(head.starts_with(&format!("CONNECT {to} HTTP/1.1\r\n")), "{head}");
                        // user:pass
                        if !head.contains("Proxy-Authorization: Basic dXNlcjpwYXNz\r\n") {
                            near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                                .await
                                .unwrap();
                            return;
                        }
                        near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                    }
                    Greeting::Socks5 => {
                        let mut hello = [0; 3];
                        near.read_exact(&mut hello).await.unwrap();
                        near.write_all(&[5, hello[2]]).await.unwrap();
                        assert_eq!(hello, [5, 1, 2]);
                        let mut user = [0; 11];
                        near.read_exact(&mut user).await.unwrap();
                        let right = &user == b"\x01\x04user\x04pass";
                        near.write_all(&[1, u8::from(!right)]).await.unwrap();
                        let mut request = [0; 10];
                        near.read_exact(&mut request).await.unwrap();
                        assert_eq!(request[..8], [5, 1, 0, 1, 127, 0, 0, 1]);
                        assert_eq!(request[8..], to.port().to_be_bytes());
                        near.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
                    }
                }
                let mut far = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, task.abort_handle())
}

#[tokio::test]
async fn proxies_are_gone_through_for_requests_and_upgrades() {
    let authority = Authority::new();
    let server = https(&authority, 100).await;
    for (scheme, greeting) in [("http", Greeting::HttpConnect), ("socks5", Greeting::Socks5)] {
        let (proxy, _) = relay(server.address, greeting).await;
        let mut given = target(&server, Some(trust(&authority)));
        given.proxy = Some(Proxy::parse(&format!("{scheme}://user:pass@{proxy}")).unwrap());
        let transport = Transport::new(given, limits()).unwrap();
        assert_eq!(read(transport.request(get("/healthz")).await.unwrap()).await, "ok");
        assert_echoes(transport.upgrade(upgrade_request("/upgrade")).await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_proxy_that_says_no_is_named_without_its_credentials() {
    let authority = Authority::new();
    let server = https(&authority, 100).await;
    let (proxy, _) = relay(server.address, Greeting::HttpConnect).await;
    let mut given = target(&server, Some(trust(&authority)));
    given.proxy = Some(Proxy::parse(&format!("http://user:wrong@{proxy}")).unwrap());
    let error = Transport::new(given, limits()).unwrap().request(get("/healthz")).await.unwrap_err();
    let said = error.to_string();
    assert!(
        matches!(error, Error::Proxy { .. }) && said.contains("407") && !said.contains("wrong"),
        "{said}"
    );
}

#[tokio::test]
async fn a_connection_that_was_cut_is_replaced() {
    let authority = Authority::new();
    let server = https(&authority, 100).await;
    let (address, task) = relay(server.address, Greeting::Nothing).await;
    let mut given = target(&server, Some(trust(&authority)));
    given.endpoint.port = address.port();
    let transport = Transport::new(given, limits()).unwrap();
    let mut watch = transport.request(get("/watch?watch=true")).await.unwrap();
    assert!(watch.body_mut().frame().await.unwrap().is_ok());
    task.abort();
    assert!(watch.body_mut().frame().await.unwrap().is_err());
    assert!(matches!(transport.request(get("/healthz")).await, Err(Error::Refused { .. })));
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(server.address).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        }
    });
    assert_eq!(transport.request(get("/healthz")).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_link_that_went_dead_ends_a_watch_in_bounded_time() {
    let authority = Authority::new();
    let server = https(&authority, 100).await;
    // A relay that stops passing bytes without closing anything, as a firewall that lost its state does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (dead, mut died) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(server.address).await.unwrap();
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => {}
            _ = died.changed() => {}
        }
        // Both ends stay open, and nothing passes.
        std::future::pending::<()>().await;
        drop((near, far));
    });
    let mut given = target(&server, Some(trust(&authority)));
    given.endpoint.port = port;
    let limits = Limits {
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_millis(200),
        ..limits()
    };
    let transport = Transport::new(given, limits).unwrap();
    let mut watch = transport.request(get("/watch?watch=true")).await.unwrap();
    assert!(watch.body_mut().frame().await.unwrap().is_ok());
    dead.send(true).unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), watch.body_mut().frame()).await.unwrap();
    assert!(end.unwrap().is_err());
}
