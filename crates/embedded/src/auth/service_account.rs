//! ServiceAccount tokens and what they are bound to: TokenRequest, and whether a token is still good.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hansa_machinery::{Status, status::Cause};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    authenticate::Rejected,
    token::{Bound, Claims, ISSUER, LEGACY_ISSUER, Legacy, Reference, TokenKey},
    user::{User, service_account_name},
};
use crate::store::{Entry, Key, Store};

/// How far clocks may differ.
const LEEWAY: SignedDuration = SignedDuration::from_mins(1);
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// Verified signatures remembered; a signature costs more than all else a small request does.
const REMEMBERED: usize = 1024;

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";

/// Issues and verifies the tokens of one cluster's ServiceAccounts.
#[derive(Debug)]
pub(crate) struct Tokens {
    store: Store,
    key: TokenKey,
    remembered: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl Tokens {
    pub(crate) fn new(store: Store, key: TokenKey) -> Self {
        Self { store, key, remembered: Mutex::default() }
    }

    pub(crate) fn key(&self) -> &TokenKey {
        &self.key
    }

    /// The user of a token, and for which of `audiences` it is good. What it is bound to is looked up each time.
    pub(crate) fn verify(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(User, Vec<String>), Rejected> {
        let claims = self.claims(token).ok_or(Rejected::Unknown)?;
        let get = |resource: &str, namespace: &str, name: &str| {
            self.store.get(&Key::new(resource, namespace, name))
        };
        judge(&claims, token, audiences, now, get)
    }

    fn claims(&self, token: &str) -> Option<Arc<Claims>> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let lock = || self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = lock().get(&hash) {
            return Some(claims.clone());
        }
        let claims = Arc::new(self.key.verify(token)?);
        let mut remembered = lock();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(hash, claims.clone());
        Some(claims)
    }

    /// The token that a Secret of type `kubernetes.io/service-account-token` holds.
    pub(crate) fn for_secret(
        &self,
        namespace: &str,
        secret: &str,
        name: &str,
        uid: &str,
    ) -> Result<String, Status> {
        let legacy = Legacy {
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        };
        let sub = service_account_name(namespace, name);
        let claims = Claims { iss: LEGACY_ISSUER.to_owned(), sub, legacy: Some(legacy), ..Claims::default() };
        self.key.sign(&claims).map_err(Status::internal)
    }

    /// Answers a TokenRequest for the ServiceAccount `name`.
    ///
    /// # Errors
    /// As `serviceaccounts/token` of Kubernetes: what does not fit the URL, the ServiceAccount or the bound object.
    pub(crate) fn request(
        &self,
        namespace: &str,
        name: &str,
        body: &Value,
        now: Timestamp,
    ) -> Result<Value, Status> {
        let get = |resource: &str, name: &str, namespace: &str| {
            let found = self.store.get(&Key::new(resource, namespace, name));
            found.ok_or_else(|| Status::not_found("", resource, name))
        };
        let account = get("serviceaccounts", name, namespace)?;
        let request = Wanted::read(body, namespace, name, &account.facts.uid)?;
        let mut bound = Bound {
            namespace: namespace.to_owned(),
            serviceaccount: Reference { name: name.to_owned(), uid: account.facts.uid.clone() },
            ..Bound::default()
        };
        if let Some(object) = &request.spec.bound_object_ref {
            let entry = match (object.api_version.as_str(), object.kind.as_str()) {
                ("v1" | "", "Pod") => get("pods", &object.name, namespace)?,
                ("v1" | "", "Secret") => get("secrets", &object.name, namespace)?,
                ("v1" | "", "Node") => get("nodes", &object.name, "")?,
                (version, kind) => {
                    let what = format!("cannot bind token to object of type {version}, Kind={kind}");
                    return Err(Status::bad_request(what));
                }
            };
            if !object.uid.is_empty() && object.uid != entry.facts.uid {
                let why = format!(
                    "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                    object.uid
                );
                return Err(Status::conflict("", &object.kind, &object.name, &why));
            }
            let reference = Reference { name: object.name.clone(), uid: entry.facts.uid.clone() };
            match object.kind.as_str() {
                "Pod" => {
                    let pod: Value = serde_json::from_slice(&entry.object).map_err(Status::internal)?;
                    if pod["spec"]["serviceAccountName"] != name {
                        return Err(Status::bad_request(format!(
                            "cannot bind token for serviceaccount {name:?} to pod running with different serviceaccount name."
                        )));
                    }
                    bound.node =
                        pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()).map(|node| {
                            let uid = get("nodes", node, "").map(|node| node.facts.uid.clone());
                            Reference { name: node.to_owned(), uid: uid.unwrap_or_default() }
                        });
                    bound.pod = Some(reference);
                }
                "Secret" => bound.secret = Some(reference),
                _ => bound.node = Some(reference),
            }
        }
        let seconds = request.spec.expiration_seconds;
        let audiences = request.spec.audiences;
        let until = now.as_second().saturating_add(seconds);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: service_account_name(namespace, name),
            aud: audiences.clone(),
            exp: Some(until),
            iat: Some(now.as_second()),
            nbf: Some(now.as_second()),
            jti: Some(uuid::Uuid::new_v4().to_string()),
            bound: Some(bound),
            legacy: None,
        };
        let token = self.key.sign(&claims).map_err(Status::internal)?;
        let time = |second| Timestamp::from_second(second).map(|t| t.to_string()).unwrap_or_default();
        let mut answer = json!({
            "kind": KIND, "apiVersion": "authentication.k8s.io/v1",
            "metadata": {
                "name": name, "namespace": namespace, "uid": account.facts.uid,
                "creationTimestamp": time(now.as_second()),
            },
            "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": null},
            "status": {"token": token, "expirationTimestamp": time(until)},
        });
        if let Some(object) = body["spec"].get("boundObjectRef") {
            answer["spec"]["boundObjectRef"] = object.clone();
        }
        Ok(answer)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    audiences: Vec<String>,
    expiration_seconds: i64,
    bound_object_ref: Option<Object>,
}

impl Default for Spec {
    fn default() -> Self {
        Self { audiences: Vec::new(), expiration_seconds: DEFAULT_SECONDS, bound_object_ref: None }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    kind: String,
    api_version: String,
    name: String,
    uid: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
}

/// A TokenRequest that fits its URL and its bounds.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wanted {
    metadata: Metadata,
    spec: Spec,
}

impl Wanted {
    fn read(body: &Value, namespace: &str, name: &str, uid: &str) -> Result<Self, Status> {
        let mut wanted: Self = Self::deserialize(body)
            .map_err(|error| Status::bad_request(format!("the TokenRequest cannot be read: {error}")))?;
        let invalid = |field: &str, value: String, why: &str| {
            let message = format!("Invalid value: {value}: {why}");
            let cause = Cause { reason: "FieldValueInvalid", field: field.to_owned(), message };
            Err(Status::invalid(GROUP, KIND, name, vec![cause]))
        };
        let given = &wanted.metadata;
        if !given.name.is_empty() && given.name != name {
            let why = "must match the service account name if specified";
            return invalid("metadata.name", format!("{:?}", given.name), why);
        }
        if !given.namespace.is_empty() && given.namespace != namespace {
            let why = "must match the service account namespace if specified";
            return invalid("metadata.namespace", format!("{:?}", given.namespace), why);
        }
        if !given.uid.is_empty() && given.uid != uid {
            let why = format!(
                "the UID in the token request ({}) does not match the UID of the service account ({uid})",
                given.uid
            );
            return Err(Status::conflict(GROUP, KIND, name, &why));
        }
        let seconds = wanted.spec.expiration_seconds;
        let why = match seconds {
            ..MIN_SECONDS => Some("may not specify a duration less than 10 minutes"),
            MIN_SECONDS..=MAX_SECONDS => None,
            _ => Some("may not specify a duration larger than 2^32 seconds"),
        };
        if let Some(why) = why {
            return invalid("spec.expirationSeconds", seconds.to_string(), why);
        }
        if wanted.spec.audiences.is_empty() {
            wanted.spec.audiences.push(ISSUER.to_owned());
        }
        Ok(wanted)
    }
}

/// Whether a token with a good signature is good now, for any of `audiences`.
fn judge(
    claims: &Claims,
    token: &str,
    audiences: &[String],
    now: Timestamp,
    get: impl Fn(&str, &str, &str) -> Option<Arc<Entry>>,
) -> Result<(User, Vec<String>), Rejected> {
    let now_seconds = now.as_second();
    if claims.exp.is_some_and(|exp| now_seconds > exp.saturating_add(LEEWAY.as_secs())) {
        return Err(Rejected::Expired);
    }
    let begins = claims.nbf.into_iter().chain(claims.iat).max();
    if begins.is_some_and(|begins| now_seconds.saturating_add(LEEWAY.as_secs()) < begins) {
        return Err(Rejected::Early);
    }
    let alive = |resource: &str, namespace: &str, reference: &Reference, since: Timestamp| {
        let entry = get(resource, namespace, &reference.name).ok_or(Rejected::Revoked)?;
        let same = entry.facts.uid == reference.uid && !reference.uid.is_empty();
        if same && !deleted_before(&entry, since) { Ok(entry) } else { Err(Rejected::Revoked) }
    };
    let mut user;
    let own = match (&claims.bound, &claims.legacy, claims.iss.as_str()) {
        (Some(bound), None, ISSUER) => {
            let Bound { namespace, serviceaccount, pod, secret, node } = bound;
            let name = &serviceaccount.name;
            // What is being deleted stays good until its time, as a Pod needs its token to stop in good order.
            let since = now - LEEWAY;
            if claims.exp.is_none() || claims.sub != service_account_name(namespace, name) {
                return Err(Rejected::Unknown);
            }
            alive("serviceaccounts", namespace, serviceaccount, since)?;
            if let Some(secret) = secret {
                alive("secrets", namespace, secret, since)?;
            }
            user = User::service_account(namespace, name, &serviceaccount.uid);
            let mut tell = |key: &str, value: &str| {
                if !value.is_empty() {
                    user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
                }
            };
            if let Some(pod) = pod {
                alive("pods", namespace, pod, since)?;
                tell("pod-name", &pod.name);
                tell("pod-uid", &pod.uid);
            }
            if let Some(node) = node {
                if pod.is_none() {
                    alive("nodes", "", node, since)?;
                }
                tell("node-name", &node.name);
                tell("node-uid", &node.uid);
            }
            if let Some(id) = &claims.jti {
                tell("credential-id", &format!("JTI={id}"));
            }
            claims.aud.clone()
        }
        (None, Some(Legacy { namespace, secret, name, uid }), LEGACY_ISSUER) => {
            if claims.sub != service_account_name(namespace, name) {
                return Err(Rejected::Unknown);
            }
            let account = Reference { name: name.clone(), uid: uid.clone() };
            alive("serviceaccounts", namespace, &account, Timestamp::MAX)?;
            let entry = get("secrets", namespace, secret).filter(|entry| !entry.facts.deleting);
            let kept: Value = serde_json::from_slice(&entry.ok_or(Rejected::Revoked)?.object)
                .map_err(|_| Rejected::Revoked)?;
            let kept =
                STANDARD.decode(kept["data"]["token"].as_str().unwrap_or_default()).unwrap_or_default();
            if !bool::from(kept.ct_eq(token.as_bytes())) {
                return Err(Rejected::Revoked);
            }
            user = User::service_account(namespace, name, uid);
            // These tokens name no audience: they are for the API server.
            vec![ISSUER.to_owned()]
        }
        _ => return Err(Rejected::Unknown),
    };
    let good: Vec<String> = audiences.iter().filter(|audience| own.contains(audience)).cloned().collect();
    if good.is_empty() { Err(Rejected::Audience) } else { Ok((user, good)) }
}

/// Whether the object is being deleted and was due before `since`.
fn deleted_before(entry: &Entry, since: Timestamp) -> bool {
    if !entry.facts.deleting {
        return false;
    }
    let object: Value = serde_json::from_slice(&entry.object).unwrap_or_default();
    let due = object["metadata"]["deletionTimestamp"].as_str().and_then(|due| due.parse::<Timestamp>().ok());
    due.is_none_or(|due| due < since)
}

#[cfg(test)]
mod tests;
