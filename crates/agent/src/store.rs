//! Where the credential is kept: a Secret on the member, in the agent's namespace. All agents of a member share it.
//!
//! Written with the version that was read, so that of two agents which begin at the same moment one writes and the other reads.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hansa_transport::{Transport, boxed, collect};
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::credential::Kept;

/// Larger than any Secret.
const MAX_ANSWER: usize = 4 << 20;
const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";
const AUTHORITY: &str = "ca.crt";
const CLUSTER: &str = "cluster";
const REDEEMED: &str = "token.sha256";

/// A Secret on the member.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    namespace: String,
    name: String,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// The credential, if there is one.
    pub(crate) kept: Option<Kept>,
    /// The whole object, which is written back with it.
    object: Option<Value>,
}

/// Why the credential cannot be kept or read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// The API server does not answer.
    #[error("the credential of this agent is kept on its own cluster, whose API server cannot be asked: {0}")]
    Unreachable(String),
    /// The API server does not know who asks.
    #[error(
        "the API server of this agent's own cluster does not accept the agent's token (401); the ServiceAccount may have been deleted: apply the manifest again"
    )]
    Unknown,
    /// The API server does not let the agent.
    #[error(
        "the API server of this agent's own cluster does not let it {doing} the Secret {secret}: {message}; the manifest of `hansa join NAME --agent` gives these rights (get, create, update)"
    )]
    Forbidden {
        /// What was not allowed.
        doing: &'static str,
        /// Which Secret.
        secret: String,
        /// What the API server said.
        message: String,
    },
    /// Another answer than one that helps.
    #[error(
        "the API server of this agent's own cluster would not {doing} the Secret {secret}: {code} {message}"
    )]
    Answer {
        /// What was not done.
        doing: &'static str,
        /// Which Secret.
        secret: String,
        /// The status code.
        code: u16,
        /// What the API server said.
        message: String,
    },
}

impl Store {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) async fn load(&self, api: &Transport) -> Result<Found, StoreError> {
        let path = format!("{}/{}", self.collection(), self.name);
        let (code, object) = ask(api, Method::GET, &path, None).await?;
        match code {
            StatusCode::OK => Ok(Found { kept: read(&object), object: Some(object) }),
            StatusCode::NOT_FOUND => Ok(Found::default()),
            code => Err(self.refused("read", code, &object)),
        }
    }

    /// Keeps a credential in place of what was found; `false` if another wrote first.
    pub(crate) async fn save(&self, api: &Transport, kept: &Kept, found: &Found) -> Result<bool, StoreError> {
        let (doing, method, path) = match found.object {
            None => ("create", Method::POST, self.collection()),
            Some(_) => ("update", Method::PUT, format!("{}/{}", self.collection(), self.name)),
        };
        let object = self.object(kept, found.object.as_ref());
        let (code, answer) = ask(api, method.clone(), &path, Some(&object)).await?;
        match code {
            StatusCode::OK | StatusCode::CREATED => Ok(true),
            StatusCode::CONFLICT => Ok(false),
            // It was deleted meanwhile.
            StatusCode::NOT_FOUND if found.object.is_some() => Ok(false),
            // Outside a cluster there may be no manifest that made the namespace.
            StatusCode::NOT_FOUND => {
                self.make_namespace(api).await?;
                match ask(api, method, &path, Some(&object)).await? {
                    (StatusCode::CREATED, _) => Ok(true),
                    (StatusCode::CONFLICT, _) => Ok(false),
                    (code, answer) => Err(self.refused(doing, code, &answer)),
                }
            }
            code => Err(self.refused(doing, code, &answer)),
        }
    }

    async fn make_namespace(&self, api: &Transport) -> Result<(), StoreError> {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}});
        match ask(api, Method::POST, "/api/v1/namespaces", Some(&namespace)).await? {
            (StatusCode::CREATED | StatusCode::CONFLICT, _) => Ok(()),
            (code, answer) => Err(self.refused("make the namespace of", code, &answer)),
        }
    }

    fn collection(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.namespace)
    }

    /// The Secret with `kept` in it, and everything else as it was.
    fn object(&self, kept: &Kept, former: Option<&Value>) -> Value {
        let mut object = former.cloned().unwrap_or_else(|| {
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                "metadata": {
                    "name": self.name,
                    "namespace": self.namespace,
                    "labels": {"app.kubernetes.io/managed-by": "hansa-agent"},
                },
            })
        });
        let parts = [
            (KEY, Some(&kept.key)),
            (CERTIFICATE, kept.certificate.as_ref()),
            (AUTHORITY, kept.authority.as_ref()),
            (CLUSTER, Some(&kept.cluster)),
            (REDEEMED, kept.redeemed.as_ref()),
        ];
        if !object["data"].is_object() {
            object["data"] = json!({});
        }
        for (name, value) in parts {
            object["data"][name] = value.map_or(Value::Null, |value| STANDARD.encode(value).into());
        }
        if let Some(data) = object["data"].as_object_mut() {
            data.retain(|_, value| !value.is_null());
        }
        object
    }

    fn refused(&self, doing: &'static str, code: StatusCode, answer: &Value) -> StoreError {
        let secret = format!("{}/{}", self.namespace, self.name);
        let message: String = answer["message"].as_str().unwrap_or_default().chars().take(500).collect();
        match code {
            StatusCode::UNAUTHORIZED => StoreError::Unknown,
            StatusCode::FORBIDDEN => StoreError::Forbidden { doing, secret, message },
            code => StoreError::Answer { doing, secret, code: code.as_u16(), message },
        }
    }
}

/// The credential in a Secret, if there is a key and it says whose it is.
fn read(object: &Value) -> Option<Kept> {
    let part = |name: &str| {
        let bytes = STANDARD.decode(object["data"][name].as_str()?).ok()?;
        String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
    };
    Some(Kept {
        cluster: part(CLUSTER)?,
        key: part(KEY)?,
        certificate: part(CERTIFICATE),
        authority: part(AUTHORITY),
        redeemed: part(REDEEMED),
    })
}

async fn ask(
    api: &Transport,
    method: Method,
    path: &str,
    object: Option<&Value>,
) -> Result<(StatusCode, Value), StoreError> {
    let unreachable = |error: String| StoreError::Unreachable(error);
    let body = object.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| unreachable(error.to_string()))?;
    let response = api.request(request).await.map_err(|error| unreachable(error.to_string()))?;
    let code = response.status();
    let body = collect(boxed(response.into_body()), MAX_ANSWER)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    // The words of an answer that is no JSON help nobody.
    Ok((code, serde_json::from_slice(&body).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        Kept {
            cluster: "m2".to_owned(),
            key: "KEY".to_owned(),
            certificate: None,
            authority: None,
            redeemed: None,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let store = Store::new("hansa-agent", "agent-credential");
        let first = store.object(&kept(), None);
        assert_eq!(read(&first), Some(kept()));
        assert_eq!(first["data"].as_object().unwrap().len(), 2);
        let whole = Kept {
            certificate: Some("CERT".to_owned()),
            authority: Some("CA".to_owned()),
            redeemed: Some("12".to_owned()),
            ..kept()
        };
        assert_eq!(read(&store.object(&whole, Some(&first))), Some(whole.clone()));
        assert_eq!(read(&store.object(&kept(), Some(&store.object(&whole, None)))), Some(kept()));
    }

    #[test]
    fn what_others_wrote_into_the_secret_stays() {
        let former =
            json!({"metadata": {"resourceVersion": "7", "labels": {"a": "b"}}, "data": {"other": "eA=="}});
        let object = Store::new("n", "s").object(&kept(), Some(&former));
        assert_eq!(object["metadata"], former["metadata"]);
        assert_eq!(object["data"]["other"], "eA==");
    }

    #[test]
    fn half_a_secret_is_none() {
        assert_eq!(read(&json!({})), None);
        assert_eq!(read(&json!({"data": {"tls.key": STANDARD.encode("k")}})), None);
        assert_eq!(read(&json!({"data": {"tls.key": "%", "cluster": STANDARD.encode("m2")}})), None);
    }
}
