//! Both ends of a connection, on a stream in memory.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail so

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hansa_tunnel::frame::{Header, Kind, Violation};
use hansa_tunnel::{Answer, Body, Budget, Error, Handler, Host, Reply, Served, Settings};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<hansa_tunnel::BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

fn full(text: impl Into<Bytes>) -> Body {
    boxed(Full::new(text.into()))
}

/// Answers by path: `/echo` with the request, `/endless` without end, `/never` not at all, `/broken` with half an answer, `/refuse` without
/// reading, `/shout` by changing protocols.
#[derive(Clone, Default)]
struct Member {
    /// Requests under way.
    busy: Arc<AtomicUsize>,
}

struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn endless(busy: Busy) -> Body {
    let chunk = Bytes::from(vec![b'x'; 100_000]);
    boxed(StreamBody::new(futures::stream::unfold(busy, move |busy| {
        let chunk = chunk.clone();
        async move { Some((Ok::<_, Error>(Frame::data(chunk)), busy)) }
    })))
}

impl Handler for Member {
    async fn handle(&self, request: Request<Body>) -> Reply {
        self.busy.fetch_add(1, Ordering::SeqCst);
        let busy = Busy(self.busy.clone());
        let body = match request.uri().path() {
            "/echo" => request.into_body(),
            "/endless" => endless(busy),
            "/never" => {
                std::future::pending::<()>().await;
                full("")
            }
            "/broken" => {
                let pieces = [Ok(Frame::data(Bytes::from("half"))), Err("the cable was pulled")];
                boxed(StreamBody::new(futures::stream::iter(pieces)))
            }
            "/refuse" => {
                let mut response = Response::new(full("no"));
                *response.status_mut() = StatusCode::FORBIDDEN;
                return Reply::Response(response);
            }
            "/shout" => {
                let (near, mut far) = duplex(1000);
                tokio::spawn(async move {
                    let mut text = [0; 5];
                    while far.read_exact(&mut text).await.is_ok() {
                        far.write_all(&text.to_ascii_uppercase()).await.unwrap();
                    }
                });
                let head = Response::builder().status(101).header("upgrade", "shout").body(()).unwrap();
                return Reply::Switch(head, Box::new(near));
            }
            path => full(path.to_owned()),
        };
        Reply::Response(Response::builder().header("x-from", "member").body(body).unwrap())
    }
}

struct Pair {
    host: Host,
    agent: Served,
    member: Member,
    ends: [JoinHandle<Result<(), Error>>; 2],
}

fn connect(settings: Settings) -> Pair {
    let (near, far) = duplex(64 << 10);
    let member = Member::default();
    let (host, host_end) = Host::start(near, settings.clone());
    let (agent, agent_end) = Served::start(far, settings, member.clone());
    Pair { host, agent, member, ends: [tokio::spawn(host_end), tokio::spawn(agent_end)] }
}

fn get(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(boxed(Empty::new())).unwrap()
}

async fn answer(host: &Host, request: Request<Body>) -> Response<Body> {
    match host.send(request).await.unwrap() {
        Answer::Response(response) => response,
        Answer::Switched(..) => panic!("it changed protocols"),
    }
}

async fn text(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

async fn until(condition: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_request_is_answered() {
    let pair = connect(Settings::default());
    let response = answer(&pair.host, get("/api/v1/pods?limit=1")).await;
    assert_eq!(response.headers()["x-from"], "member");
    assert_eq!(text(response).await, b"/api/v1/pods");
    until(|| pair.host.streams() == 0 && pair.agent.streams() == 0).await;
    assert_eq!(pair.host.traffic().opened, 1);
}

#[tokio::test]
async fn bodies_larger_than_every_window_pass_in_both_directions() {
    let pair = connect(Settings::default());
    let body: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let request = Request::post("/echo").body(full(body.clone())).unwrap();
    assert_eq!(text(answer(&pair.host, request).await).await, body);
}

#[tokio::test]
async fn many_requests_at_once_do_not_mix() {
    let pair = connect(Settings::default());
    let requests = (0..500).map(|n| {
        let host = pair.host.clone();
        tokio::spawn(async move {
            let body = vec![n as u8; 1000 + n * 100];
            let request = Request::post("/echo").body(full(body.clone())).unwrap();
            assert_eq!(text(answer(&host, request).await).await, body);
        })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.unwrap();
    }
    until(|| pair.host.streams() == 0 && pair.agent.streams() == 0).await;
}

#[tokio::test]
async fn readers_that_never_read_stall_only_themselves_and_cost_a_window_each() {
    let settings = Settings { budget: Budget::new(1 << 20), ..Settings::default() };
    let pair = connect(settings.clone());
    let mut stalled = Vec::new();
    for _ in 0..128 {
        stalled.push(answer(&pair.host, get("/endless")).await);
    }
    // Uploads whose reader never reads.
    for _ in 0..128 {
        let busy = Busy(Arc::new(AtomicUsize::new(1)));
        let host = pair.host.clone();
        let upload = Request::post("/never").body(endless(busy)).unwrap();
        tokio::spawn(async move { host.send(upload).await.map(drop) });
    }
    until(|| pair.agent.streams() == 256).await;
    for _ in 0..100 {
        assert_eq!(text(answer(&pair.host, get("/ok")).await).await, b"/ok");
    }
    let bound = 256 * u64::from(settings.window) + (4 << 20);
    assert!(pair.host.traffic().received + pair.host.traffic().sent < bound);
}

#[tokio::test]
async fn whoever_goes_away_ends_the_request_on_the_member() {
    let pair = connect(Settings::default());
    let response = answer(&pair.host, get("/endless")).await;
    let host = pair.host.clone();
    let waiting = tokio::spawn(async move { host.send(get("/never")).await.map(drop) });
    until(|| pair.member.busy.load(Ordering::SeqCst) == 2).await;
    drop(response);
    waiting.abort();
    until(|| pair.member.busy.load(Ordering::SeqCst) == 0 && pair.agent.streams() == 0).await;
    assert_eq!(pair.host.streams(), 0);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer_that_ended() {
    let pair = connect(Settings::default());
    let response = answer(&pair.host, get("/broken")).await;
    let error = response.into_body().collect().await.unwrap_err();
    assert!(error.to_string().contains("the cable was pulled"), "{error}");
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_been_read() {
    let pair = connect(Settings::default());
    let busy = Busy(Arc::new(AtomicUsize::new(1)));
    let response = answer(&pair.host, Request::post("/refuse").body(endless(busy)).unwrap()).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(text(response).await, b"no");
    until(|| pair.host.streams() == 0 && pair.agent.streams() == 0).await;
}

#[tokio::test]
async fn an_upgrade_becomes_bytes_in_both_directions() {
    let pair = connect(Settings::default());
    let request =
        Request::builder().uri("/shout").header("upgrade", "shout").body(boxed(Empty::new())).unwrap();
    let Answer::Switched(head, mut stream) = pair.host.send(request).await.unwrap() else {
        panic!("refused")
    };
    assert_eq!(head.headers()["upgrade"], "shout");
    for _ in 0..3 {
        stream.write_all(b"hello").await.unwrap();
        let mut shouted = [0; 5];
        stream.read_exact(&mut shouted).await.unwrap();
        assert_eq!(&shouted, b"HELLO");
    }
    drop(stream);
    until(|| pair.agent.streams() == 0).await;
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_ordinary_answer() {
    let pair = connect(Settings::default());
    let request =
        Request::builder().uri("/plain").header("upgrade", "shout").body(boxed(Empty::new())).unwrap();
    let Answer::Response(response) = pair.host.send(request).await.unwrap() else { panic!("it switched") };
    assert_eq!(text(response).await, b"/plain");
    until(|| pair.host.streams() == 0 && pair.agent.streams() == 0).await;
}

#[tokio::test]
async fn a_protocol_that_is_changed_unasked_is_refused() {
    let pair = connect(Settings::default());
    assert!(matches!(pair.host.send(get("/shout")).await, Err(Error::Reset(_))));
}

#[tokio::test]
async fn over_the_limit_of_streams_a_request_is_refused_at_once() {
    let pair = connect(Settings { streams: 3, ..Settings::default() });
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(answer(&pair.host, get("/endless")).await);
    }
    assert_eq!(pair.host.send(get("/more")).await.err(), Some(Error::Busy(3)));
    held.pop();
    assert_eq!(text(answer(&pair.host, get("/more")).await).await, b"/more");
}

#[tokio::test]
async fn whoever_drains_takes_nothing_new_and_lets_the_rest_end() {
    let pair = connect(Settings::default());
    let request =
        Request::builder().uri("/shout").header("upgrade", "shout").body(boxed(Empty::new())).unwrap();
    let Answer::Switched(_, mut stream) = pair.host.send(request).await.unwrap() else { panic!("refused") };
    pair.agent.drain();
    until(|| !pair.host.is_open()).await;
    assert_eq!(pair.host.send(get("/more")).await.err(), Some(Error::Draining));
    stream.write_all(b"still").await.unwrap();
    let mut shouted = [0; 5];
    stream.read_exact(&mut shouted).await.unwrap();
    drop(stream);
    let [host, agent] = pair.ends;
    assert_eq!((host.await.unwrap(), agent.await.unwrap()), (Ok(()), Ok(())));
}

#[tokio::test]
async fn an_answer_that_came_whole_is_read_to_its_end_after_the_connection_has_ended() {
    let pair = connect(Settings::default());
    let response = answer(&pair.host, Request::post("/echo").body(full("whole")).unwrap()).await;
    pair.agent.drain();
    pair.host.closed().await;
    assert_eq!(text(response).await, b"whole");
}

#[tokio::test]
async fn the_agent_learns_how_many_replicas_the_host_has() {
    let pair = connect(Settings::default());
    assert_eq!(pair.agent.replicas(), None);
    for count in [2, 3, 1] {
        pair.host.say_replicas(count);
        until(|| pair.agent.replicas() == Some(count)).await;
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_fails_everything_on_it_at_once() {
    let pair = connect(Settings::default());
    let response = answer(&pair.host, get("/endless")).await;
    let host = pair.host.clone();
    let waiting = tokio::spawn(async move { host.send(get("/never")).await.map(drop) });
    until(|| pair.agent.streams() == 2).await;
    pair.ends[1].abort();
    assert!(matches!(waiting.await.unwrap(), Err(Error::Lost(_))));
    assert!(response.into_body().collect().await.is_err());
    pair.host.closed().await;
    assert!(matches!(pair.host.send(get("/x")).await, Err(Error::Lost(_))));
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed_by_both_ends_within_their_patience() {
    let settings = Settings::default();
    let patience = settings.ping_interval + settings.ping_timeout;
    // Two links whose far ends hold the line and say nothing.
    let (near, _held) = duplex(64 << 10);
    let (host, end) = Host::start(near, settings.clone());
    // What is to be said waits for the greeting, and does nothing meanwhile.
    host.say_replicas(3);
    let began = tokio::time::Instant::now();
    assert_eq!(end.await, Err(Error::Silent(patience)));
    assert!(began.elapsed() <= patience + Duration::from_secs(1));
    let (near, _held) = duplex(64 << 10);
    let (_agent, end) = Served::start(near, settings, Member::default());
    assert_eq!(end.await, Err(Error::Silent(patience)));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_stays() {
    let pair = connect(Settings::default());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(pair.host.is_open() && pair.agent.is_open());
    assert!(pair.host.traffic().silence < Duration::from_secs(5));
    assert!(pair.host.traffic().round_trip.is_some());
}

/// One end, and the raw bytes of the other.
struct Raw {
    io: DuplexStream,
    end: JoinHandle<Result<(), Error>>,
}

fn raw_host(settings: Settings) -> (Host, Raw) {
    let (near, io) = duplex(1 << 20);
    let (host, end) = Host::start(near, settings);
    (host, Raw { io, end: tokio::spawn(end) })
}

fn raw_agent(settings: Settings) -> Raw {
    let (near, io) = duplex(1 << 20);
    let (_, end) = Served::start(near, settings, Member::default());
    Raw { io, end: tokio::spawn(end) }
}

impl Raw {
    async fn say(&mut self, kind: Kind, end: bool, stream: u32, payload: &[u8]) {
        let header = Header { size: payload.len(), kind, end, stream };
        self.io.write_all(&header.encode()).await.unwrap();
        self.io.write_all(payload).await.unwrap();
    }

    async fn hello(&mut self) {
        let payload = [1u32, 65_536, 100].map(u32::to_be_bytes).concat();
        self.say(Kind::Hello, false, 0, &payload).await;
    }

    async fn violation(self) -> Violation {
        match self.end.await.unwrap() {
            Err(Error::Violation(violation)) => violation,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_agent_that_asks_the_host_for_anything_is_cut_off() {
    let (_host, mut raw) = raw_host(Settings::default());
    raw.hello().await;
    raw.say(Kind::Request, true, 1, b"").await;
    assert_eq!(raw.violation().await, Violation::Stream(Kind::Request, 1));
}

#[tokio::test]
async fn answers_to_what_was_not_asked_are_a_violation() {
    let (_host, mut raw) = raw_host(Settings::default());
    raw.hello().await;
    raw.say(Kind::Response, true, 7, b"").await;
    assert_eq!(raw.violation().await, Violation::Stream(Kind::Response, 7));
}

#[tokio::test]
async fn whoever_sends_more_than_the_window_is_cut_off() {
    let (host, mut raw) = raw_host(Settings { window: 1000, ..Settings::default() });
    raw.hello().await;
    let waiting = tokio::spawn(async move { host.send(get("/")).await.map(drop) });
    raw.io.read_exact(&mut [0; 30]).await.unwrap();
    raw.say(Kind::Data, false, 1, &[0; 1001]).await;
    assert_eq!(raw.violation().await, Violation::Window(1));
    assert!(matches!(waiting.await.unwrap(), Err(Error::Violation(_))));
}

#[tokio::test]
async fn a_body_in_the_smallest_pieces_costs_no_more_than_its_bytes() {
    let (host, mut raw) = raw_host(Settings::default());
    raw.hello().await;
    let asking = host.clone();
    let waiting = tokio::spawn(async move { asking.send(get("/")).await });
    raw.io.read_exact(&mut [0; 30]).await.unwrap();
    raw.say(Kind::Response, false, 1, &[0, 200, 0, 0]).await;
    let mut pieces = Vec::new();
    for _ in 0..50_000 {
        pieces.extend_from_slice(&Header { size: 1, kind: Kind::Data, end: false, stream: 1 }.encode());
        pieces.push(b'x');
    }
    raw.io.write_all(&pieces).await.unwrap();
    raw.say(Kind::Data, true, 1, &[]).await;
    let Ok(Answer::Response(response)) = waiting.await.unwrap() else { panic!("no answer") };
    let mut body = response.into_body();
    // Nobody reads before all of it has come.
    until(|| host.traffic().received > 450_000).await;
    let (mut bytes, mut count) = (0, 0);
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().into_data().unwrap().len();
        count += 1;
    }
    assert_eq!(bytes, 50_000);
    assert!(count < 100, "{count} pieces");
}

#[tokio::test]
async fn more_streams_than_there_was_leave_for_are_a_violation() {
    let mut raw = raw_agent(Settings { streams: 2, ..Settings::default() });
    raw.hello().await;
    for stream in 1..=3 {
        let mut head = vec![3];
        head.extend_from_slice(b"GET");
        head.extend_from_slice(&6u32.to_be_bytes());
        head.extend_from_slice(b"/never");
        head.extend_from_slice(&[0, 0]);
        raw.say(Kind::Request, true, stream, &head).await;
    }
    assert_eq!(raw.violation().await, Violation::Streams(2));
}

#[tokio::test]
async fn another_version_and_anything_before_the_greeting_are_refused() {
    let mut raw = raw_agent(Settings::default());
    raw.say(Kind::Ping, false, 0, &[0; 8]).await;
    assert_eq!(raw.violation().await, Violation::Turn(Kind::Ping));
    let mut raw = raw_agent(Settings::default());
    raw.say(Kind::Hello, false, 0, &[2u32, 0, 0].map(u32::to_be_bytes).concat()).await;
    assert_eq!(raw.violation().await, Violation::Version(2));
}

#[tokio::test]
async fn a_flood_of_pings_that_are_not_waited_for_costs_one_answer() {
    let mut raw = raw_agent(Settings::default());
    raw.hello().await;
    let mut flood = Vec::new();
    for _ in 0..50_000u64 {
        flood.extend_from_slice(&Header { size: 8, kind: Kind::Ping, end: false, stream: 0 }.encode());
        flood.extend_from_slice(&[7; 8]);
    }
    // The other end reads nothing meanwhile; what is owed does not grow.
    raw.io.write_all(&flood).await.unwrap();
    assert!(!raw.end.is_finished());
}
