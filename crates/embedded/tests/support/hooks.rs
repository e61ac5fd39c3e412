//! A server of webhooks, each of which does at its path what its path says, and the configurations that have it called.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hansa_listener::{
    Body,
    pki::{Authority, ServingCertificate},
    serve::{self, Limits},
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub struct Hooks {
    pub url: String,
    pub ca: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    _stop: DropGuard,
}

impl Hooks {
    pub async fn start() -> Self {
        let now = jiff::Timestamp::now();
        let authority = Authority::generate("hooks", now).unwrap();
        let serving =
            ServingCertificate::open(&authority, None, &["127.0.0.1".to_owned()].into(), now).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (stop, seen) = (CancellationToken::new(), Arc::<Mutex<Vec<(String, Value)>>>::default());
        let tls = serve::anonymous_tls_config(Arc::new(serving)).unwrap();
        let kept = seen.clone();
        let handler = move |_peer, request: Request<Incoming>| {
            let seen = kept.clone();
            async move { answer(request, &seen).await }
        };
        tokio::spawn(serve::serve(listener, tls, Limits::default(), stop.clone(), handler));
        Self { url, ca: authority.certificate_pem().to_owned(), seen, _stop: stop.drop_guard() }
    }

    /// The requests that were asked about so far, with the paths they were asked at; not those of the server's own
    /// controllers, which publish a ConfigMap in every namespace.
    pub fn seen(&self) -> Vec<(String, Value)> {
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.retain(|(_, request)| request["name"] != "kube-root-ca.crt");
        seen
    }

    /// A webhook at a path, about everything that is done to ConfigMaps.
    pub fn hook(&self, name: &str, path: &str) -> Value {
        json!({
            "name": format!("{name}.hooks.test"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": format!("{}{path}", self.url), "caBundle": STANDARD.encode(&self.ca)},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "timeoutSeconds": 10,
        })
    }
}

pub fn configuration(kind: &str, name: &str, webhooks: &[Value]) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
        "metadata": {"name": name}, "webhooks": webhooks})
}

async fn answer(request: Request<Incoming>, seen: &Mutex<Vec<(String, Value)>>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    seen.lock().unwrap().push((path.clone(), review["request"].clone()));
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    let patch = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["", "deny"] => {
            response["allowed"] = false.into();
            response["status"] = json!({"message": "no", "reason": "Forbidden", "code": 403});
            None
        }
        ["", "warn"] => {
            response["warnings"] = json!(["mind the gap"]);
            None
        }
        ["", "lie"] => {
            response["uid"] = "another".into();
            None
        }
        ["", "hang"] => std::future::pending().await,
        ["", "broken"] => return respond(500, "boom"),
        ["", "set", field, value] => {
            let value: Value = serde_json::from_str(value).unwrap_or_else(|_| (*value).into());
            Some(json!([{"op": "add", "path": format!("/{}", field.replace('.', "/")), "value": value}]))
        }
        _ => None,
    };
    if let Some(patch) = patch {
        response["patchType"] = "JSONPatch".into();
        response["patch"] = STANDARD.encode(patch.to_string()).into();
    }
    let review = json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response});
    respond(200, review.to_string())
}

fn respond(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response =
        Response::new(Full::new(text.into()).map_err(|e: Infallible| match e {}).boxed_unsync());
    *response.status_mut() = code.try_into().unwrap();
    response
}
