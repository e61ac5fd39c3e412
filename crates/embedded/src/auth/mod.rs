//! Who asks, and what they may do: authentication, RBAC, impersonation, reviews, ServiceAccount tokens, certificates.

pub(crate) mod aggregation;
pub mod authenticate;
pub(crate) mod bootstrap;
pub(crate) mod certificates;
pub mod escalation;
pub mod impersonate;
pub(crate) mod index;
pub mod rbac;
pub mod reviews;
pub mod rules;
pub(crate) mod service_account;
pub mod token;
pub(crate) mod token_secret;
pub(crate) mod upkeep;
pub mod user;

use std::{collections::BTreeSet, sync::Arc};

use hansa_listener::{
    pki::{Authority, KeyedCertificate, PkiError, ServingCertificate, Subject},
    serve,
};
use hansa_machinery::Status;
use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use rustls::{ServerConfig, pki_types::CertificateDer};
use serde_json::{Value, json};

use crate::store::{Store, WriteError};
use authenticate::Rejected;
pub use authenticate::StaticToken;
pub use escalation::Write;
use index::Index;
use rbac::{Attributes, Decision, Policy};
use service_account::Tokens;
use token::{ISSUER, KeyError, TokenKey};
pub use user::User;

const AUTHORITY: &str = "certificate-authority";
const SERVING: &str = "serving-certificate";
const TOKEN_KEY: &str = "service-account-key";

/// Names under which every server is reached, besides those asked for.
const OWN_NAMES: [&str; 7] = [
    "127.0.0.1",
    "::1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// Why the security of a server cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The store did not keep a key.
    #[error("a new key could not be kept: {0}")]
    Keep(#[from] WriteError),
    /// A certificate cannot be made or read.
    #[error(transparent)]
    Certificate(#[from] PkiError),
    /// The signing key cannot be made or read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What was kept is not what it should be.
    #[error("the kept {what} does not parse ({source}): restore the data from a backup")]
    Kept {
        /// Its name in the store.
        what: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A static token that may do everything.
    #[error(
        "the static token of {user:?} must not carry the group system:masters: bind another group to cluster-admin, or use a client certificate"
    )]
    Masters {
        /// Its user.
        user: String,
    },
}

/// What a server's security needs to be told.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Names the cluster in its authority's certificate.
    pub name: String,
    /// Host names and addresses under which clients reach the server, besides loopback and `kubernetes.default.svc`.
    pub sans: Vec<String>,
    /// Bearer tokens that are good as long as the server runs.
    pub tokens: Vec<StaticToken>,
}

/// The security of one server: its keys, and every decision about who may do what. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Auth {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    statics: Vec<StaticToken>,
    tokens: Tokens,
    index: Index,
    authority: Authority,
    serving: Arc<ServingCertificate>,
    tls: Arc<ServerConfig>,
    sans: BTreeSet<String>,
}

impl Auth {
    /// Takes up the keys that the store keeps, or makes them.
    ///
    /// # Errors
    /// When a key cannot be made, kept or read back, or a static token claims too much.
    pub async fn open(store: Store, settings: Settings) -> Result<Self, AuthError> {
        let masters = settings.tokens.iter().find(|token| token.user.is_in(user::MASTERS));
        if let Some(StaticToken { user, .. }) = masters {
            return Err(AuthError::Masters { user: user.name.clone() });
        }
        let now = Timestamp::now();
        let sans: BTreeSet<String> = OWN_NAMES.into_iter().map(str::to_owned).chain(settings.sans).collect();
        let mut keep: Vec<(&str, Vec<u8>)> = Vec::new();
        let authority = match kept::<KeyedCertificate>(&store, AUTHORITY)? {
            Some(kept) => Authority::read(kept)?,
            None => {
                let authority = Authority::generate(&format!("{}-ca", settings.name), now)?;
                keep.push((AUTHORITY, json!(authority.keyed()).to_string().into()));
                authority
            }
        };
        let before = kept::<KeyedCertificate>(&store, SERVING)?;
        let serving = ServingCertificate::open(&authority, before.clone(), &sans, now)?;
        let current = serving.keyed();
        if before.is_none_or(|before| before.certificate != current.certificate) {
            keep.push((SERVING, json!(current).to_string().into()));
        }
        let key = match store.meta_get(TOKEN_KEY) {
            Some(kept) => TokenKey::read(&kept)?,
            None => {
                let (kept, key) = TokenKey::generate()?;
                keep.push((TOKEN_KEY, kept));
                key
            }
        };
        // All at once, so that they share one commit.
        futures::future::try_join_all(keep.iter().map(|(name, value)| store.meta_put(name, value))).await?;
        let serving = Arc::new(serving);
        let shared = Shared {
            tls: serve::tls_config(&authority, serving.clone())?,
            statics: settings.tokens,
            tokens: Tokens::new(store.clone(), key),
            index: Index::new(store.clone()),
            store,
            authority,
            serving,
            sans,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The user of a request, whose `Authorization` header is taken out. No credential means `system:anonymous`.
    ///
    /// # Errors
    /// 401 for every credential that is not good; what was wrong stays with the server.
    pub fn authenticate(
        &self,
        certificate: Option<&CertificateDer<'_>>,
        headers: &mut HeaderMap,
    ) -> Result<User, Status> {
        let mut user = || {
            let token = authenticate::take_token(headers)?;
            let by_token = token.map(|token| self.bearer(&token, &[ISSUER.to_owned()])).transpose()?;
            let by_certificate =
                certificate.map(|der| authenticate::certificate(der, Timestamp::now())).transpose()?;
            Ok(by_certificate.or(by_token.map(|(user, _)| user)).unwrap_or_else(User::anonymous))
        };
        user().map_err(|rejected: Rejected| {
            tracing::debug!(%rejected, "unauthorized");
            Status::unauthorized()
        })
    }

    fn bearer(&self, token: &str, audiences: &[String]) -> Result<(User, Vec<String>), Rejected> {
        authenticate::bearer(token, &self.shared.statics, &self.shared.tokens, audiences, Timestamp::now())
    }

    /// The user a request runs as, after its `Impersonate-*` headers, which are taken out.
    ///
    /// # Errors
    /// 400 and 403 as [`impersonate::impersonate`].
    pub fn impersonate(&self, caller: User, headers: &mut HeaderMap) -> Result<User, Status> {
        impersonate::impersonate(caller, headers, |attributes| self.decide(attributes))
    }

    /// Whether a request is allowed by the roles and bindings that are committed now.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        self.policy().authorize(attributes)
    }

    /// [`Auth::decide`], with the refusal as the answer to send.
    ///
    /// # Errors
    /// 403 in Kubernetes' words.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let Decision { allowed, reason } = self.decide(attributes);
        if allowed { Ok(()) } else { Err(attributes.forbidden(&reason)) }
    }

    /// The roles and bindings that are committed now.
    pub fn policy(&self) -> Arc<Policy> {
        self.shared.index.policy()
    }

    /// The object of a write with what only the server may say in it, where there is such: who requests a certificate.
    /// To be called before validation.
    pub fn prepare(&self, write: &Write<'_>) -> Option<Value> {
        is_certificate_request(write).then(|| certificates::prepare(write, Timestamp::now()))
    }

    /// Refuses writes that would give the writer or others more rights than the writer holds. To be called with every
    /// object of a built-in group, in its final form, before it is stored.
    ///
    /// # Errors
    /// 403, 422, or 404 for a binding of a role that does not exist.
    pub fn admit(&self, write: &Write<'_>) -> Result<(), Status> {
        if is_certificate_request(write) {
            return certificates::admit(&self.policy(), write);
        }
        match write.group {
            rbac::GROUP => escalation::check(&self.policy(), write),
            _ => Ok(()),
        }
    }

    /// Answers `create` of `serviceaccounts/{name}/token`.
    ///
    /// # Errors
    /// As Kubernetes: 400, 404, 409, 422.
    pub fn token_request(&self, namespace: &str, name: &str, body: &Value) -> Result<Value, Status> {
        self.shared.tokens.request(namespace, name, body, Timestamp::now())
    }

    /// The document at `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0 §3).
    pub fn openid_configuration(&self) -> Value {
        json!({
            "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The document at `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        self.shared.tokens.key().jwks()
    }

    /// The authority's certificate in PEM.
    pub fn ca_pem(&self) -> &str {
        self.shared.authority.certificate_pem()
    }

    /// A client certificate for `user` with its key, both in PEM.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn issue_client_certificate(
        &self,
        user: &str,
        groups: &[String],
        validity: SignedDuration,
    ) -> Result<(String, String), PkiError> {
        let subject = Subject { name: user.to_owned(), groups: groups.to_vec() };
        let issued = self.shared.authority.issue_client(&subject, validity, Timestamp::now())?;
        Ok((issued.certificate, issued.key))
    }

    /// The TLS side of this server's listeners.
    pub fn tls_config(&self) -> Arc<ServerConfig> {
        self.shared.tls.clone()
    }

    /// The status of a certificate request after a look at it, if it is for us to sign and approved.
    pub(crate) fn sign_request(&self, request: &Value) -> Option<Value> {
        certificates::sign(request, &self.shared.authority, Timestamp::now())
    }

    /// The token that a Secret holds for a ServiceAccount.
    pub(crate) fn secret_token(
        &self,
        namespace: &str,
        secret: &str,
        account: &str,
        uid: &str,
    ) -> Result<String, Status> {
        self.shared.tokens.for_secret(namespace, secret, account, uid)
    }

    /// Replaces the serving certificate if it is near its end. Listeners take it up by themselves.
    ///
    /// # Errors
    /// When it cannot be made or kept; the old one stays in use.
    pub async fn renew_serving_certificate(&self) -> Result<bool, AuthError> {
        let Shared { serving, authority, sans, store, .. } = &*self.shared;
        let Some(renewed) = serving.renew(authority, sans, Timestamp::now())? else { return Ok(false) };
        store.meta_put(SERVING, json!(renewed).to_string().as_bytes()).await?;
        Ok(true)
    }
}

fn is_certificate_request(write: &Write<'_>) -> bool {
    (write.group, write.resource) == (certificates::GROUP, certificates::RESOURCE)
}

fn kept<T: serde::de::DeserializeOwned>(store: &Store, what: &'static str) -> Result<Option<T>, AuthError> {
    let value = store.meta_get(what);
    value
        .map(|value| serde_json::from_slice(&value))
        .transpose()
        .map_err(|source| AuthError::Kept { what, source })
}
