//! A server in memory and a client that speaks to it without sockets.

// A test's means to fail is to panic.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

use bytes::Bytes;
use hansa_embedded::{Body, Options, Server, Storage, User};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

pub struct Client {
    pub server: Server,
    pub user: User,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{:#}", self.body);
        self.body
    }

    #[track_caller]
    pub fn refused(self, code: u16, reason: &str) -> Value {
        assert_eq!((self.code, self.body["reason"].as_str()), (code, Some(reason)), "{:#}", self.body);
        assert_eq!(self.body["kind"], "Status");
        self.body
    }
}

pub fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

impl Client {
    pub async fn new() -> Self {
        let server = Server::open(Options::new("test", Storage::Memory)).await.expect("the server opens");
        Self { server, user: User::new("admin", ["system:masters", "system:authenticated"]) }
    }

    pub fn as_user(&self, user: User) -> Self {
        Self { server: self.server.clone(), user }
    }

    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        bytes: impl Into<Bytes>,
    ) -> http::Response<Body> {
        let mut request =
            Request::builder().method(Method::from_bytes(method.as_bytes()).expect("a method")).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.server.handle(self.user.clone(), request.body(body(bytes)).expect("a request")).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        bytes: impl Into<Bytes>,
    ) -> Answer {
        let response = self.raw(method, path, headers, bytes).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Answer {
        self.send("PUT", path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], "").await
    }

    pub async fn delete_with(&self, path: &str, options: &Value) -> Answer {
        self.send("DELETE", path, &[("content-type", "application/json")], options.to_string()).await
    }

    pub async fn patch(&self, kind: &str, path: &str, patch: &Value) -> Answer {
        let content_type = match kind {
            "json" => "application/json-patch+json",
            "merge" => "application/merge-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            "apply" => "application/apply-patch+yaml",
            other => other,
        };
        self.send("PATCH", path, &[("content-type", content_type)], patch.to_string()).await
    }

    /// Asks again until `done`, for as long as a slow machine may take.
    pub async fn until(&self, path: &str, done: impl Fn(&Answer) -> bool) -> Answer {
        for _ in 0..2000 {
            let answer = self.get(path).await;
            if done(&answer) {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{path} never became as expected: {:#}", self.get(path).await.body);
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Frames {
        let response = self.raw("GET", path, &[], "").await;
        assert_eq!(response.status(), 200);
        Frames { body: response.into_body(), buffer: Vec::new() }
    }
}

pub struct Frames {
    body: Body,
    buffer: Vec<u8>,
}

impl Frames {
    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a JSON frame"));
            }
            let wait = tokio::time::timeout(std::time::Duration::from_secs(20), self.body.frame());
            let frame = wait.await.expect("a frame in time")?.expect("no error");
            self.buffer.extend_from_slice(frame.data_ref().expect("data"));
        }
    }

    /// The type and name of the next frame.
    pub async fn told(&mut self) -> (String, String) {
        let frame = self.next().await.expect("a frame");
        (
            frame["type"].as_str().unwrap_or_default().to_owned(),
            frame["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

pub fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub fn deployment(name: &str, replicas: u64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "registry.example/app:1"}]},
            },
        },
    })
}

/// A definition of `widgets.example.com`, namespaced, with everything a definition can have.
pub fn widgets() -> Value {
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "minimum": 1},
                    "color": {"type": "string", "default": "blue"},
                    "replicas": {"type": "integer"},
                },
            },
            "status": {
                "type": "object",
                "properties": {"replicas": {"type": "integer"}, "phase": {"type": "string"}},
            },
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [
                {
                    "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                    "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                    "selectableFields": [{"jsonPath": ".spec.color"}],
                },
                {"name": "v1beta1", "served": true, "storage": false, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    })
}
