//! What can go wrong in a command.

use std::time::Duration;

use hansa_transport::explain;

use crate::enable::Refused;
use crate::resources::LookupError;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A cluster did not do what it was asked.
    #[error("{doing}: {}", explain(.error))]
    Request {
        /// What was being done, and to what.
        doing: String,
        /// What came back; it is told in full above.
        error: Box<kube::Error>,
    },
    /// A type was not found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// A type cannot be enabled.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A file cannot be read as what it should be.
    #[error("{0}")]
    File(String),
    /// Flags or arguments that do not go together.
    #[error("{0}")]
    Usage(String),
    /// There is no control plane where one is expected.
    #[error(
        "there is no KubeFedConfig {name:?} in the namespace {namespace:?}: does a control plane run there?"
    )]
    NoConfig {
        /// The name looked for.
        name: &'static str,
        /// Where.
        namespace: String,
    },
    /// Something is there already that was to be made.
    #[error("{what} exists already in {place}; --error-on-existing=false brings it to what it should be")]
    Exists {
        /// What.
        what: String,
        /// In which cluster.
        place: String,
    },
    /// The type is not federated.
    #[error("there is no FederatedTypeConfig {0:?}; --enable-type makes one before the object is federated")]
    NotEnabled(String),
    /// Federated objects would be lost.
    #[error(
        "the CRD {0:?} cannot be deleted while there are objects of it; remove them first, or leave --delete-crd out"
    )]
    InUse(String),
    /// Something did not happen in time.
    #[error("{0}")]
    Timeout(String),
}

impl Error {
    /// For `map_err`, with what was being done.
    pub(crate) fn doing(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |error| Self::Request { doing, error: Box::new(error) }
    }
}

/// Whether a request failed with this HTTP status.
pub(crate) fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// How often a server that asks for patience is asked, as Go's client does.
const ATTEMPTS: usize = 10;
/// The pause between, which such servers name.
const PAUSE: Duration = Duration::from_secs(1);

/// Asks again where a server is not ready to answer yet, as for a type that was made a moment ago.
pub(crate) async fn patiently<T>(attempt: impl AsyncFn() -> kube::Result<T>) -> kube::Result<T> {
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(error) if is_code(&error, 429) => tokio::time::sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
    attempt().await
}
