//! What can go wrong on the way to an API server, said so that a person can act on it.

use std::time::Duration;

/// Any error, as `tower` passes it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request did not reach an API server, or its answer did not come back.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The name does not resolve.
    #[error(
        "{endpoint}: the host name does not resolve; check it, and that the DNS of the control plane knows it"
    )]
    Dns {
        /// What was dialled.
        endpoint: String,
    },
    /// Nobody listens.
    #[error("{endpoint}: connection refused; check the port, and that the API server is running there")]
    Refused {
        /// What was dialled.
        endpoint: String,
    },
    /// No answer in time.
    #[error(
        "{endpoint}: no answer within {after:?}; check the address, firewalls on the way, and that the API server is not overloaded"
    )]
    Timeout {
        /// What was dialled.
        endpoint: String,
        /// How long it was waited.
        after: Duration,
    },
    /// The network says no.
    #[error(
        "{endpoint}: not reachable ({reason}); check the address and the network between the control plane and it"
    )]
    Unreachable {
        /// What was dialled.
        endpoint: String,
        /// What the system said.
        reason: String,
    },
    /// The server's certificate is signed by nobody we were told to trust.
    #[error(
        "{endpoint}: the server's certificate is signed by an unknown authority; give the CA that signed it (certificate-authority-data, caBundle)"
    )]
    UnknownAuthority {
        /// What was dialled.
        endpoint: String,
    },
    /// The server's certificate is past its end.
    #[error("{endpoint}: the server's certificate has expired; renew it on the cluster")]
    CertificateExpired {
        /// What was dialled.
        endpoint: String,
    },
    /// The server's certificate is not valid yet.
    #[error(
        "{endpoint}: the server's certificate is not valid yet; check the clocks of the cluster and of the control plane"
    )]
    CertificateNotYetValid {
        /// What was dialled.
        endpoint: String,
    },
    /// The server's certificate is for another name.
    #[error(
        "{endpoint}: the server's certificate is not for this name; use a name it contains, or set tls-server-name"
    )]
    WrongName {
        /// What was dialled.
        endpoint: String,
    },
    /// The server does not accept our certificate.
    #[error(
        "{endpoint}: the server refused the client certificate ({reason}); renew the credential in the kubeconfig"
    )]
    ClientCertificate {
        /// What was dialled.
        endpoint: String,
        /// The alert.
        reason: String,
    },
    /// Another failure of TLS.
    #[error("{endpoint}: no TLS connection ({reason}); check that the port speaks HTTPS")]
    Tls {
        /// What was dialled.
        endpoint: String,
        /// What failed.
        reason: String,
    },
    /// The proxy on the way does not let us through.
    #[error(
        "proxy {proxy}: {reason}; check the proxy URL and that the proxy allows connections to {endpoint}"
    )]
    Proxy {
        /// The proxy, without credentials.
        proxy: String,
        /// What was to be reached.
        endpoint: String,
        /// What the proxy said.
        reason: String,
    },
    /// Too many requests to this cluster at once.
    #[error(
        "{endpoint}: {limit} requests are under way and none ended in time; try again, or raise the limit of concurrent requests"
    )]
    Busy {
        /// What was to be reached.
        endpoint: String,
        /// How many there may be.
        limit: usize,
    },
    /// The connection broke while a request was under way.
    #[error(
        "{endpoint}: the connection was lost ({reason}); the request may or may not have been carried out"
    )]
    Lost {
        /// What was dialled.
        endpoint: String,
        /// What broke.
        reason: String,
    },
    /// The request cannot be sent.
    #[error("the request cannot be sent: {0}")]
    InvalidRequest(String),
    /// The in-process server failed.
    #[error("the in-process server failed: {0}")]
    InProcess(String),
}

impl Error {
    pub(crate) fn tls(endpoint: &str, error: &std::io::Error) -> Self {
        use rustls::{AlertDescription, CertificateError};
        let endpoint = endpoint.to_owned();
        let source = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match source {
            Some(rustls::Error::InvalidCertificate(reason)) => match reason {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Self::UnknownAuthority { endpoint }
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::CertificateExpired { endpoint }
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::CertificateNotYetValid { endpoint }
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::WrongName { endpoint }
                }
                other => Self::Tls { endpoint, reason: other.to_string() },
            },
            Some(rustls::Error::AlertReceived(
                alert @ (AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRequired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied),
            )) => Self::ClientCertificate { endpoint, reason: format!("{alert:?}") },
            Some(other) => Self::Tls { endpoint, reason: other.to_string() },
            None => Self::Tls { endpoint, reason: error.to_string() },
        }
    }

    pub(crate) fn connect(endpoint: &str, error: &std::io::Error) -> Self {
        let endpoint = endpoint.to_owned();
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Self::Refused { endpoint },
            _ => Self::Unreachable { endpoint, reason: error.to_string() },
        }
    }

    pub(crate) fn lost(endpoint: &str, error: &hyper::Error) -> Self {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            if let Some(io) = inner.downcast_ref::<std::io::Error>()
                && io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
            {
                return Self::tls(endpoint, io);
            }
            reason = format!("{reason}: {inner}");
            source = inner.source();
        }
        let endpoint = endpoint.to_owned();
        // A client certificate that TLS 1.3 refuses shows up only here, as a failed read, of which HTTP/2 passes on the text alone.
        match reason.split_once("received fatal alert: ") {
            Some((_, alert)) => Self::ClientCertificate { endpoint, reason: alert.to_owned() },
            None => Self::Lost { endpoint, reason },
        }
    }
}

/// What went wrong with a request made by a `kube::Client` on a [`crate::Transport`], said so that a person can act on it.
pub fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Service(inner) => match inner.downcast_ref::<Error>() {
            Some(error) => error.to_string(),
            None => inner.to_string(),
        },
        kube::Error::Api(status) => match status.code {
            401 => "401 Unauthorized: the API server does not accept the credential; it may have expired or been revoked, give a new one"
                .to_owned(),
            403 => format!("403 Forbidden: {}; the credential needs more rights", status.message),
            _ => format!("{} {}: {}", status.code, status.reason, status.message),
        },
        kube::Error::SerdeError(_) => "the answer is not from a Kubernetes API server; check the address".to_owned(),
        other => other.to_string(),
    }
}
