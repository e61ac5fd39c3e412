//! Real sockets on loopback: who gets in, who does not, and who cannot harm the others.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use hansa_listener::{
    pki::{Authority, ServingCertificate},
    serve::tls_config,
};
use http::{HeaderMap, header::AUTHORIZATION};
use http_body::Frame;
use http_body_util::{Empty, Full, StreamBody};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::{SignedDuration, Timestamp};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{
    auth::{Auth, Settings, StaticToken, User, token},
    store::{Draft, Expect, Facts, Key, Op, Store},
};

struct Running {
    auth: Auth,
    store: Store,
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// A listener that answers with the user it took the caller for.
async fn start(limits: Limits) -> Running {
    let store = Store::memory();
    let tokens = vec![StaticToken::new("right", User::new("bob", ["dev"]))];
    let settings = Settings { name: "test".into(), tokens, ..Settings::default() };
    let auth = Auth::open(store.clone(), settings).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let whoami = auth.clone();
    let tls = auth.tls_config();
    let handler = move |peer: Peer, mut request: Request<Incoming>| {
        let user = whoami.authenticate(peer.certificate.as_deref(), request.headers_mut());
        async move {
            let user = match user {
                Ok(user) => user,
                Err(status) => return refusal(&status),
            };
            assert!(!request.headers().contains_key(AUTHORIZATION));
            let body = match request.uri().path() {
                "/slow" => {
                    sleep(Duration::from_millis(300)).await;
                    full("slow")
                }
                "/endless" => {
                    let first = futures::stream::iter([Ok(Frame::data(Bytes::from("first")))]);
                    BodyExt::boxed_unsync(StreamBody::new(first.chain(futures::stream::pending())))
                }
                _ => full(&user.to_value().to_string()),
            };
            Response::new(body)
        }
    };
    let task = tokio::spawn(serve(listener, tls, limits, stop.clone(), handler));
    Running { auth, store, address, stop, task }
}

fn full(text: &str) -> Body {
    Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {}).boxed_unsync()
}

/// A client's TLS: what it trusts, and the certificate it has.
fn client(ca: &str, certificate: Option<&(String, String)>, alpn: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match certificate {
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    TlsConnector::from(Arc::new(config))
}

impl Running {
    async fn dial(&self, connector: TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
    }

    async fn send(
        &self,
        alpn: &str,
        certificate: Option<&(String, String)>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>, Box<dyn std::error::Error>> {
        let io = TokioIo::new(self.dial(client(self.auth.ca_pem(), certificate, alpn)).await?);
        let target = if alpn == "h2" { format!("https://127.0.0.1{path}") } else { path.to_owned() };
        let mut request = Request::get(target).header("host", "127.0.0.1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new())?;
        if alpn == "h2" {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Ok(sender.send_request(request).await?)
        } else {
            let (mut sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Ok(sender.send_request(request).await?)
        }
    }

    async fn whoami(
        &self,
        alpn: &str,
        certificate: Option<&(String, String)>,
        token: Option<&str>,
    ) -> (u16, Value) {
        let header = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> =
            header.iter().map(|value| ("authorization", value.as_str())).collect();
        let response = self.send(alpn, certificate, "/", &headers).await.unwrap();
        let code = response.status().as_u16();
        (code, serde_json::from_slice(&response.collect().await.unwrap().to_bytes()).unwrap())
    }

    async fn create(&self, resource: &str, uid: &str) -> Key {
        let key = Key::new(resource, "a", "sa");
        let object = json!({"metadata": {"name": "sa", "namespace": "a", "uid": uid}});
        let draft = Draft::new(&object, Facts { uid: uid.to_owned(), ..Facts::default() });
        self.store.write(Op::Put { key: key.clone(), expect: Expect::Absent, draft }).await.unwrap();
        key
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn issue(auth: &Auth) -> (String, String) {
    auth.issue_client_certificate("carol", &["ops".into(), "qa".into()], SignedDuration::from_hours(1))
        .unwrap()
}

#[tokio::test]
async fn a_caller_is_who_its_credential_says_over_http_1_and_2() {
    let server = start(Limits::default()).await;
    let certificate = issue(&server.auth);
    server.create("serviceaccounts", "u1").await;
    let token = server.auth.token_request("a", "sa", &json!({})).unwrap();
    let token = token["status"]["token"].as_str().unwrap();
    for alpn in ["h2", "http/1.1"] {
        let (code, user) = server.whoami(alpn, None, Some("right")).await;
        assert_eq!((code, user["username"].as_str()), (200, Some("bob")));
        assert_eq!(user["groups"], json!(["dev", "system:authenticated"]));
        let (_, user) = server.whoami(alpn, Some(&certificate), None).await;
        assert_eq!(user["username"], "carol");
        assert_eq!(user["groups"], json!(["ops", "qa", "system:authenticated"]));
        let (_, user) = server.whoami(alpn, None, None).await;
        assert_eq!(user, json!({"username": "system:anonymous", "groups": ["system:unauthenticated"]}));
        let (_, user) = server.whoami(alpn, None, Some(token)).await;
        assert_eq!((&user["username"], &user["uid"]), (&json!("system:serviceaccount:a:sa"), &json!("u1")));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_credential_is_refused_with_a_status_and_never_made_anonymous() {
    let server = start(Limits::default()).await;
    let certificate = issue(&server.auth);
    let account = server.create("serviceaccounts", "u1").await;
    let issued = server.auth.token_request("a", "sa", &json!({})).unwrap();
    let revoked = issued["status"]["token"].as_str().unwrap().to_owned();
    let foreign = server.auth.token_request("a", "sa", &json!({"spec": {"audiences": ["vault"]}})).unwrap();
    let foreign = foreign["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(server.whoami("h2", None, Some(&revoked)).await.0, 200);
    assert_eq!(server.whoami("h2", None, Some(&foreign)).await.0, 401);
    // The same name with another uid is another ServiceAccount.
    let expect = Expect::Revision(server.store.get(&account).unwrap().revision);
    let last = Draft::new(&json!({}), Facts::default());
    server.store.write(Op::Delete { key: account, expect, last }).await.unwrap();
    assert_eq!(server.whoami("h2", None, Some(&revoked)).await.0, 401);
    server.create("serviceaccounts", "u2").await;
    let (_, stranger) = token::TokenKey::generate().unwrap();
    let stranger = stranger.sign(&token::Claims::default()).unwrap();
    for token in ["wrong", "right2", "", "a.b.c", &revoked, &stranger] {
        for alpn in ["h2", "http/1.1"] {
            let (code, status) = server.whoami(alpn, None, Some(token)).await;
            assert_eq!(
                (code, status["kind"].as_str(), status["reason"].as_str()),
                (401, Some("Status"), Some("Unauthorized"))
            );
            assert_eq!(
                server.whoami(alpn, Some(&certificate), Some(token)).await.0,
                401,
                "beside a good certificate"
            );
        }
    }
    let basic = server.send("h2", None, "/", &[("authorization", "Basic Ym9iOnJpZ2h0")]).await.unwrap();
    assert_eq!(basic.status(), 401);
    server.stop().await;
}

#[tokio::test]
async fn both_sides_refuse_certificates_of_another_authority() {
    let server = start(Limits::default()).await;
    let other = Auth::open(Store::memory(), Settings::default()).await.unwrap();
    let forged = issue(&other);
    for alpn in ["h2", "http/1.1"] {
        assert!(server.send(alpn, Some(&forged), "/", &[]).await.is_err());
        assert!(server.dial(client(other.ca_pem(), None, alpn)).await.is_err());
    }
    let expired = server.auth.issue_client_certificate("carol", &[], SignedDuration::from_secs(-1)).unwrap();
    assert!(server.send("h2", Some(&expired), "/", &[]).await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn plaintext_gets_no_http_answer() {
    let server = start(Limits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    drop(timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap());
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    server.stop().await;
}

#[tokio::test]
async fn whoever_stalls_is_dropped_and_harms_nobody() {
    let quick = Duration::from_millis(200);
    let server = start(Limits { handshake: quick, head: quick, ..Limits::default() }).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(&[0x16, 3, 1]).await.unwrap();
    let mut head = server.dial(client(server.auth.ca_pem(), None, "http/1.1")).await.unwrap();
    head.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    assert_eq!(server.whoami("http/1.1", None, None).await.0, 200, "others are served meanwhile");
    let mut rest = Vec::new();
    let patience = Duration::from_secs(5);
    drop(timeout(patience, silent.read_to_end(&mut rest)).await.unwrap());
    drop(timeout(patience, half.read_to_end(&mut rest)).await.unwrap());
    drop(timeout(patience, head.read_to_end(&mut rest)).await.unwrap());
    assert_eq!(server.whoami("h2", None, None).await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn more_connections_than_allowed_wait_their_turn() {
    let server = start(Limits { connections: 1, ..Limits::default() }).await;
    let first = server.dial(client(server.auth.ca_pem(), None, "http/1.1")).await.unwrap();
    let second = server.dial(client(server.auth.ca_pem(), None, "http/1.1"));
    let mut second = Box::pin(second);
    assert!(timeout(Duration::from_millis(100), second.as_mut()).await.is_err());
    drop(first);
    drop(timeout(Duration::from_secs(5), second).await.unwrap().unwrap());
    server.stop().await;
}

#[tokio::test]
async fn stopping_ends_watches_at_once_and_lets_requests_finish() {
    let server = start(Limits::default()).await;
    let mut watches = Vec::new();
    for alpn in ["h2", "http/1.1"] {
        let mut body = server.send(alpn, None, "/endless?watch=true", &[]).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        watches.push(body);
    }
    let stop = async {
        sleep(Duration::from_millis(100)).await;
        server.stop.cancel();
    };
    let (slow, ()) = tokio::join!(server.send("http/1.1", None, "/slow", &[]), stop);
    assert_eq!(slow.unwrap().collect().await.unwrap().to_bytes(), "slow");
    for watch in watches {
        assert!(watch.collect().await.unwrap().to_bytes().is_empty(), "a clean end");
    }
    let started = Instant::now();
    server.task.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn stopping_does_not_wait_longer_than_the_drain_for_anybody() {
    let server = start(Limits { drain: Duration::from_millis(100), ..Limits::default() }).await;
    let endless = server.send("http/1.1", None, "/endless", &[]).await.unwrap();
    server.stop.cancel();
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
    assert!(endless.collect().await.is_err(), "cut off, and the client can tell");
}

#[tokio::test]
async fn the_target_of_a_request_is_a_path() {
    let server = start(Limits::default()).await;
    for target in ["http://elsewhere/api", "https://127.0.0.1/api", "*"] {
        let mut stream = server.dial(client(server.auth.ca_pem(), None, "http/1.1")).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{target}: {}", String::from_utf8_lossy(&answer));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_replaced_serving_certificate_is_presented_to_the_next_connection() {
    let now = Timestamp::now();
    let authority = Authority::generate("test", now).unwrap();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let serving = Arc::new(ServingCertificate::open(&authority, None, &names(&["127.0.0.1"]), now).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let tls = tls_config(&authority, serving.clone()).unwrap();
    let task = tokio::spawn(serve(listener, tls, Limits::default(), stop.clone(), |_, _| async {
        Response::new(full(""))
    }));
    let presented = async || {
        let connector = client(authority.certificate_pem(), None, "h2");
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = connector.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let before = presented().await;
    serving.renew(&authority, &names(&["127.0.0.1", "example.org"]), now).unwrap().unwrap();
    assert_ne!(presented().await, before);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn keys_and_certificates_outlive_the_server_and_static_tokens_claim_no_mastery() {
    let store = Store::memory();
    let first = Auth::open(store.clone(), Settings::default()).await.unwrap();
    let revision = store.revision();
    let certificate = issue(&first);
    let again = Auth::open(store.clone(), Settings::default()).await.unwrap();
    assert_eq!((again.ca_pem(), again.jwks()), (first.ca_pem(), first.jwks()));
    assert_eq!(store.revision(), revision);
    let der = CertificateDer::from_pem_slice(certificate.0.as_bytes()).unwrap();
    let user = again.authenticate(Some(&der), &mut HeaderMap::new()).unwrap();
    assert_eq!(user.name, "carol");
    let master = StaticToken::new("t", User::new("eve", ["system:masters"]));
    let refused = Auth::open(store, Settings { tokens: vec![master], ..Settings::default() }).await;
    assert!(refused.unwrap_err().to_string().contains("system:masters"));
}
