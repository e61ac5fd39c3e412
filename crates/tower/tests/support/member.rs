//! The API server behind an agent: it tells what it was asked.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use hansa_transport::Body;
use hansa_tunnel::{Handler, Reply};
use http::{Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::json;

#[derive(Clone, Default)]
pub struct Member {
    pub name: &'static str,
    /// Every path that was asked for.
    pub asked: Arc<Mutex<Vec<String>>>,
    /// Lets the answers to `/api/slow` go.
    pub go: Arc<tokio::sync::Notify>,
}

pub fn member(name: &'static str) -> Member {
    Member { name, ..Member::default() }
}

impl Member {
    pub fn has_been_asked(&self, path: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked == path)
    }
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

impl Handler for Member {
    async fn handle(&self, request: Request<Body>) -> Reply {
        let (parts, body) = request.into_parts();
        self.asked.lock().unwrap().push(parts.uri.path().to_owned());
        if parts.headers.contains_key(header::UPGRADE) && parts.uri.path() != "/api/refused" {
            let head = Response::builder()
                .status(101)
                .header("connection", "Upgrade")
                .header("upgrade", &parts.headers[header::UPGRADE])
                .header("set-cookie", "a=b");
            let (near, far) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(near);
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
            return Reply::Switch(head.body(()).unwrap(), Box::new(far));
        }
        let answer = Response::builder();
        Reply::Response(match parts.uri.path() {
            "/api/refused" => answer.status(403).body(full("no".to_owned())).unwrap(),
            "/api/unauthorized" => answer
                .status(401)
                .header("www-authenticate", "Basic")
                .body(full("the agent's credential is bad".to_owned()))
                .unwrap(),
            "/api/redirect" => {
                answer.status(302).header("location", "https://elsewhere/").body(full(String::new())).unwrap()
            }
            "/api/slow" => {
                self.go.notified().await;
                answer.body(full("slow".to_owned())).unwrap()
            }
            "/api/broken" => {
                let pieces = [Ok(Frame::data(Bytes::from("first"))), Err("the API server is gone".into())];
                answer.body(StreamBody::new(futures::stream::iter(pieces)).boxed_unsync()).unwrap()
            }
            "/api/watch" => {
                let first = futures::stream::iter([Ok(Frame::data(Bytes::from("first")))]);
                answer.body(StreamBody::new(first.chain(futures::stream::pending())).boxed_unsync()).unwrap()
            }
            "/api/never" => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                answer.body(full(String::new())).unwrap()
            }
            _ => {
                let headers: Vec<_> = parts
                    .headers
                    .iter()
                    .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                    .collect();
                let body = body.collect().await.unwrap().to_bytes();
                let told = json!({
                    "member": self.name, "method": parts.method.as_str(), "uri": parts.uri.to_string(),
                    "headers": headers, "body": String::from_utf8_lossy(&body),
                });
                answer
                    .header("set-cookie", "session=1")
                    .header("content-type", "application/json")
                    .body(full(told.to_string()))
                    .unwrap()
            }
        })
    }
}
