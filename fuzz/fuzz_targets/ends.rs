//! Both ends of a connection, each against a peer that says anything.
#![no_main]

use bytes::Bytes;
use hansa_tunnel::{Body, Handler, Host, Reply, Served, Settings};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncWriteExt, duplex};

#[derive(Clone)]
struct Member;

impl Handler for Member {
    async fn handle(&self, request: Request<Body>) -> Reply {
        let read = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Reply::Response(Response::new(Full::new(read).map_err(|never| match never {}).boxed_unsync()))
    }
}

fuzz_target!(|data: &[u8]| {
    let hello = [&[0, 0, 12, 0, 0, 0, 0, 0][..], &[0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 9]].concat();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (near, mut far) = duplex(1 << 20);
        let (_served, end) = Served::start(near, Settings::default(), Member);
        far.write_all(&hello).await.unwrap();
        far.write_all(data).await.unwrap();
        far.shutdown().await.unwrap();
        assert!(end.await.is_err());

        let (near, mut far) = duplex(1 << 20);
        let (host, end) = Host::start(near, Settings::default());
        let request = Request::new(Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync());
        far.write_all(&hello).await.unwrap();
        far.write_all(data).await.unwrap();
        far.shutdown().await.unwrap();
        let (sent, ended) = tokio::join!(host.send(request), end);
        drop(sent);
        assert!(ended.is_err());
    });
});
