//! Why the agent is not connected, said so that whoever reads its log can act on it. No secret is in any of it.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use hansa_transport::{Endpoint, Error as Way};
use rustls::{AlertDescription, CertificateError};

use crate::credential::{CredentialError, Stuck, timestamp};
use crate::join::JoinError;
use crate::store::StoreError;

/// Why the agent is not connected to its tower.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The agent does not know what to join.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// There is no way to a credential.
    #[error(transparent)]
    Stuck(#[from] Stuck),
    /// A credential could not be made, or was not ours.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The member's own API server does not keep the credential.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name does not resolve.
    #[error("{tower}: the tower's name does not resolve; check it, and this machine's DNS")]
    Dns {
        /// The tower.
        tower: String,
    },
    /// Nobody listens.
    #[error("{tower}: connection refused; check the address and the port, and that `hansa tower` runs there")]
    Refused {
        /// The tower.
        tower: String,
    },
    /// The network says no, or breaks.
    #[error(
        "{tower}: not reachable ({reason}); check the address, and the network and firewalls between this cluster and it"
    )]
    Unreachable {
        /// The tower.
        tower: String,
        /// What the system said.
        reason: String,
    },
    /// No answer in time.
    #[error(
        "{tower}: no answer within {after:?}; check the address and the firewalls on the way, and whether a proxy is needed (HTTPS_PROXY)"
    )]
    Timeout {
        /// The tower.
        tower: String,
        /// How long it was waited.
        after: Duration,
    },
    /// The proxy does not let us through.
    #[error(
        "proxy {proxy}: {reason}; check HTTPS_PROXY and NO_PROXY, and that the proxy allows CONNECT to {tower}"
    )]
    Proxy {
        /// The proxy, without credentials.
        proxy: String,
        /// The tower.
        tower: String,
        /// What it said.
        reason: String,
    },
    /// The tower's certificate is of another authority.
    #[error(
        "{tower}: the tower's certificate is not of the authority that this agent was given; if the tower's authority was replaced, apply a fresh manifest: hansa join {cluster} --agent; if it was not, somebody is in between"
    )]
    UnknownAuthority {
        /// The tower.
        tower: String,
        /// The cluster.
        cluster: String,
    },
    /// The tower's certificate has ended, or this machine's clock is ahead.
    #[error(
        "{tower}: the tower's certificate has expired{at}; this machine's clock says {now}: set it if it is wrong, else renew the tower's certificate"
    )]
    Expired {
        /// The tower.
        tower: String,
        /// When it ended.
        at: String,
        /// This machine's time.
        now: jiff::Timestamp,
    },
    /// The tower's certificate has not begun, so that this machine's clock is behind.
    #[error(
        "{tower}: the tower's certificate is not valid yet{at}; this machine's clock says {now}: set it, it is probably behind"
    )]
    NotYetValid {
        /// The tower.
        tower: String,
        /// When it begins.
        at: String,
        /// This machine's time.
        now: jiff::Timestamp,
    },
    /// The tower's certificate is for other names.
    #[error(
        "{tower}: the tower's certificate is not for {host}{names}; use one of its names, or start the tower with --tls-names {host}"
    )]
    WrongName {
        /// The tower.
        tower: String,
        /// The name that was dialled.
        host: String,
        /// What the certificate is for, if it says.
        names: String,
    },
    /// The tower does not take the agent's certificate.
    #[error(
        "{tower}: the tower refused this agent's certificate ({reason}); this machine's clock says {now}: set it if it is wrong, else apply a fresh manifest: hansa join {cluster} --agent"
    )]
    ClientCertificate {
        /// The tower.
        tower: String,
        /// The alert.
        reason: String,
        /// The cluster.
        cluster: String,
        /// This machine's time.
        now: jiff::Timestamp,
    },
    /// Another failure of TLS.
    #[error(
        "{tower}: no TLS 1.3 connection ({reason}); check that the port is the tower's, and that nothing on the way opens TLS"
    )]
    Tls {
        /// The tower.
        tower: String,
        /// What failed.
        reason: String,
    },
    /// Whoever answered is no tower.
    #[error(
        "{tower}: what answers there is not the tower ({reason}); check the address and its path, and that what is in front of the tower passes WebSockets"
    )]
    NotATower {
        /// The tower.
        tower: String,
        /// What was wrong.
        reason: String,
    },
    /// The tower refuses the join token.
    #[error(
        "{tower}: the tower refused the join token: {message}; ask for a new manifest: hansa join {cluster} --agent"
    )]
    Token {
        /// The tower.
        tower: String,
        /// The cluster.
        cluster: String,
        /// What the tower said.
        message: String,
    },
    /// The tower refuses the agent.
    #[error(
        "{tower}: the tower refused this agent: {message}; if the cluster is still to be a member, apply a fresh manifest: hansa join {cluster} --agent"
    )]
    Denied {
        /// The tower.
        tower: String,
        /// The cluster.
        cluster: String,
        /// What the tower said.
        message: String,
    },
    /// The tower cannot now.
    #[error("{tower}: the tower cannot take this agent now: {message}")]
    Unavailable {
        /// The tower.
        tower: String,
        /// What the tower said.
        message: String,
        /// How long to wait at least, if it said.
        retry_after: Option<Duration>,
    },
    /// This replica of the tower has a connection of this agent.
    #[error("{tower}: this replica of the tower has a connection of this agent already")]
    Duplicate {
        /// The tower.
        tower: String,
        /// Which replica it is.
        replica: Option<String>,
        /// How many there are.
        replicas: Option<usize>,
    },
    /// The tunnel ended.
    #[error("{tower}: {reason}")]
    Ended {
        /// The tower.
        tower: String,
        /// Why.
        reason: hansa_tunnel::Error,
    },
}

/// Who dials whom, and when: what errors speak of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) tower: &'a Endpoint,
    pub(crate) cluster: &'a str,
    pub(crate) now: SystemTime,
}

impl Attempt<'_> {
    pub(crate) fn way(&self, error: Way) -> Error {
        let tower = self.tower.to_string();
        match error {
            Way::Dns { endpoint } if endpoint == tower => Error::Dns { tower },
            Way::Refused { endpoint } if endpoint == tower => Error::Refused { tower },
            Way::Unreachable { endpoint, reason } if endpoint == tower => {
                Error::Unreachable { tower, reason }
            }
            Way::Timeout { after, .. } => Error::Timeout { tower, after },
            Way::Proxy { proxy, reason, .. } => Error::Proxy { proxy, tower, reason },
            // What failed was the way to the proxy.
            Way::Dns { endpoint } => {
                Error::Proxy { proxy: endpoint, tower, reason: "its name does not resolve".to_owned() }
            }
            Way::Refused { endpoint } => {
                Error::Proxy { proxy: endpoint, tower, reason: "connection refused".to_owned() }
            }
            Way::Unreachable { endpoint, reason } => Error::Proxy { proxy: endpoint, tower, reason },
            other => Error::Proxy { proxy: "on the way".to_owned(), tower, reason: other.to_string() },
        }
    }

    /// What broke while TLS was set up or spoken.
    pub(crate) fn io(&self, error: &std::io::Error) -> Error {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(error) => self.tls(error),
            None => Error::Unreachable { tower: self.tower.to_string(), reason: error.to_string() },
        }
    }

    pub(crate) fn hyper(&self, error: &hyper::Error) -> Error {
        let mut source = error.source();
        while let Some(inner) = source {
            if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                return self.io(io);
            }
            source = inner.source();
        }
        if error.is_parse() || error.is_parse_too_large() {
            return Error::NotATower { tower: self.tower.to_string(), reason: error.to_string() };
        }
        Error::Unreachable { tower: self.tower.to_string(), reason: error.to_string() }
    }

    fn tls(&self, error: &rustls::Error) -> Error {
        let (tower, now) = (self.tower.to_string(), timestamp(self.now));
        let cluster = self.cluster.to_owned();
        let at = |time: &rustls::pki_types::UnixTime, word: &str| {
            let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
            time.map(|time| format!(" ({word} {})", timestamp(time))).unwrap_or_default()
        };
        match error {
            rustls::Error::InvalidCertificate(reason) => match reason {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Error::UnknownAuthority { tower, cluster }
                }
                CertificateError::Expired => Error::Expired { tower, at: String::new(), now },
                CertificateError::ExpiredContext { not_after, .. } => {
                    Error::Expired { tower, at: at(not_after, "on"), now }
                }
                CertificateError::NotValidYet => Error::NotYetValid { tower, at: String::new(), now },
                CertificateError::NotValidYetContext { not_before, .. } => {
                    Error::NotYetValid { tower, at: at(not_before, "before"), now }
                }
                CertificateError::NotValidForName => {
                    Error::WrongName { tower, host: self.tower.host.clone(), names: String::new() }
                }
                CertificateError::NotValidForNameContext { presented, .. } => {
                    let names = if presented.is_empty() {
                        String::new()
                    } else {
                        let shown: Vec<&str> = presented.iter().take(10).map(String::as_str).collect();
                        format!(" but for {}", shown.join(", "))
                    };
                    Error::WrongName { tower, host: self.tower.host.clone(), names }
                }
                other => Error::Tls { tower, reason: other.to_string() },
            },
            rustls::Error::AlertReceived(
                alert @ (AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRequired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::DecryptError
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied),
            ) => Error::ClientCertificate { tower, reason: format!("{alert:?}"), cluster, now },
            other => Error::Tls { tower, reason: other.to_string() },
        }
    }
}

impl Error {
    /// How long the tower asked to wait at least.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
