//! The host's own answers to "who is this?" and "may they?": TokenReview and SubjectAccessReview. Whatever the host
//! accepts and allows is done, and nothing else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hansa_machinery::Status;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};
use tokio::{sync::Semaphore, time::timeout};

use crate::{identity::Identity, recent::Recent};

/// How long an answer is believed: what kube-apiserver's own webhook authenticator takes for tokens that are valid.
const BELIEVED: Duration = Duration::from_secs(10);
/// How long the host may take for one review.
const PATIENCE: Duration = Duration::from_secs(10);
/// Reviews under way at once; a flood of bad tokens waits here and not in the host.
const AT_ONCE: usize = 64;

/// A question to the host's authoriser.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// `get`, `impersonate`, …
    pub verb: String,
    /// The API group.
    pub group: &'static str,
    /// The resource, such as `clusters`.
    pub resource: String,
    /// The subresource, such as `proxy`.
    pub subresource: String,
    /// The namespace, empty for a cluster-scoped resource.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

/// Asks the host, remembering its answers for some seconds.
#[derive(Clone)]
pub struct Reviews {
    inner: Arc<Inner>,
}

struct Inner {
    host: Client,
    identities: Recent<[u8; 32], Identity>,
    decisions: Recent<(String, Vec<String>, Question), bool>,
    slots: Semaphore,
}

impl Reviews {
    /// Reviews made by `host`, a client with the right to create both kinds.
    pub fn new(host: Client) -> Self {
        let identities = Recent::new(4096, BELIEVED);
        let decisions = Recent::new(16_384, BELIEVED);
        Self { inner: Arc::new(Inner { host, identities, decisions, slots: Semaphore::new(AT_ONCE) }) }
    }

    /// Whom a bearer token belongs to.
    ///
    /// # Errors
    /// 401 if to nobody, 503 if the host cannot say.
    pub async fn authenticate(&self, token: &str) -> Result<Identity, Status> {
        // Only the digest is kept, so that a core dump of the cache gives no token away.
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(identity) = self.inner.identities.get(&digest) {
            return Ok(identity);
        }
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = self.ask(review).await?.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(Status::unauthorized());
        }
        let user = status.user.unwrap_or_default();
        let identity = Identity {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        };
        if !identity.is_expressible() {
            return Err(Status::unauthorized());
        }
        self.inner.identities.put(digest, identity.clone());
        Ok(identity)
    }

    /// Whether the host's authoriser lets `identity` do this.
    ///
    /// # Errors
    /// 503 if it cannot say, which is not a yes.
    pub async fn allows(&self, identity: &Identity, question: Question) -> Result<bool, Status> {
        let key = (identity.name.clone(), identity.groups.clone(), question);
        if let Some(allowed) = self.inner.decisions.get(&key) {
            return Ok(allowed);
        }
        let question = &key.2;
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: some(&identity.name),
                uid: some(&identity.uid),
                groups: Some(identity.groups.clone()),
                extra: (!identity.extra.is_empty())
                    .then(|| identity.extra.clone().into_iter().collect::<BTreeMap<_, _>>()),
                resource_attributes: Some(ResourceAttributes {
                    verb: some(&question.verb),
                    group: some(question.group),
                    resource: some(&question.resource),
                    subresource: some(&question.subresource),
                    namespace: some(&question.namespace),
                    name: some(&question.name),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let allowed = self.ask(review).await?.status.is_some_and(|s| s.allowed && s.denied != Some(true));
        self.inner.decisions.put(key, allowed);
        Ok(allowed)
    }

    async fn ask<K>(&self, review: K) -> Result<K, Status>
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let cannot_say = || {
            Status::unavailable("the host cluster cannot be asked who you are or what you may do; try again")
        };
        let _slot = self.inner.slots.acquire().await.map_err(|_| cannot_say())?;
        let api = Api::<K>::all(self.inner.host.clone());
        let params = PostParams::default();
        match timeout(PATIENCE, api.create(&params, &review)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                tracing::warn!(%error, review = %K::kind(&()), "the host did not answer a review");
                Err(cannot_say())
            }
            Err(_) => {
                tracing::warn!(review = %K::kind(&()), "the host took too long for a review");
                Err(cannot_say())
            }
        }
    }
}
