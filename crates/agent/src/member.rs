//! The agent's own API server, and what the agent is there. Both are read again from time to time, since tokens, authorities and kubeconfigs
//! are replaced while the agent runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hansa_transport::{Credential, Endpoint, Limits, Target, Tls, TlsError, Transport, kubeconfig};
use tokio::time::Instant;

use crate::join;

/// Where a Pod finds its ServiceAccount (Kubernetes: "Accessing the API from within a Pod").
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How often the credential is read again unless something is wrong with it; kubelets renew tokens long before they end.
const REFRESH: Duration = Duration::from_secs(60);
/// How often it is read again at most when the API server does not accept it.
const HURRY: Duration = Duration::from_secs(1);
/// Bytes of one answer that wait for a reader that does not read. Many readers may stall, and the agent is to stay small.
const STREAM_WINDOW: u32 = 256 * 1024;

/// How the API server is found.
#[derive(Clone, Debug)]
pub enum Source {
    /// As a Pod finds it.
    Pod {
        /// The directory of the ServiceAccount: `token` and `ca.crt`.
        directory: PathBuf,
        /// `KUBERNETES_SERVICE_HOST`.
        host: String,
        /// `KUBERNETES_SERVICE_PORT`.
        port: String,
    },
    /// As a kubeconfig says.
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// The context in it; the current one if none is given.
        context: Option<String>,
    },
}

/// Why the API server cannot be found.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum MemberError {
    /// Neither inside a cluster nor told where one is.
    #[error(
        "this is not a Pod (KUBERNETES_SERVICE_HOST is not set): give --kubeconfig with the cluster that is to be a member"
    )]
    Nowhere,
    /// A file cannot be read.
    #[error("cannot read {path}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The kubeconfig cannot be used.
    #[error("{file}: {reason}", file = file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The address cannot be used.
    #[error(transparent)]
    Address(#[from] hansa_transport::EndpointError),
    /// TLS cannot be set up.
    #[error("the agent's own API server: {0}")]
    Tls(#[from] TlsError),
}

impl Source {
    /// The Pod's own cluster, by its environment.
    pub fn pod(get: impl Fn(&str) -> Option<String>) -> Result<Self, MemberError> {
        let variable = |name| get(name).filter(|value| !value.is_empty()).ok_or(MemberError::Nowhere);
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        Ok(Self::Pod { directory: SERVICE_ACCOUNT.into(), host, port })
    }

    fn read(&self) -> Result<Target, MemberError> {
        let text = |path: &Path| {
            join::read(path)
                .map_err(|error| MemberError::File { path: path.to_owned(), reason: error.to_string() })
        };
        match self {
            Self::Pod { directory, host, port } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                Ok(Target {
                    endpoint: Endpoint::parse(&format!("https://{host}:{port}"))?,
                    tls: Tls { ca: Some(text(&directory.join("ca.crt"))?.into_bytes()), ..Tls::default() },
                    proxy: None,
                    credential: Credential::token(text(&directory.join("token"))?.trim()),
                })
            }
            Self::Kubeconfig { file, context } => {
                let directory = match file.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                let fail = |error: hansa_transport::KubeconfigError| MemberError::Kubeconfig {
                    file: file.clone(),
                    reason: error.to_string(),
                };
                let flat = kubeconfig::flatten(&text(file)?, directory, context.as_deref()).map_err(fail)?;
                Target::from_kubeconfig(&flat, None).map_err(fail)
            }
        }
    }
}

/// The agent's own API server.
pub struct Member {
    source: Source,
    limits: Limits,
    current: ArcSwap<Current>,
    read: Mutex<Instant>,
}

struct Current {
    target: Target,
    transport: Transport,
}

impl Member {
    /// The API server that `source` names, asked for at most `requests` things at once.
    pub fn new(source: Source, requests: usize) -> Result<Self, MemberError> {
        let limits = Limits { concurrency: requests, stream_window: STREAM_WINDOW, ..Limits::default() };
        let target = source.read()?;
        let transport = Transport::new(target.clone(), limits)?;
        let current = ArcSwap::from_pointee(Current { target, transport });
        Ok(Self { source, limits, current, read: Mutex::new(Instant::now()) })
    }

    /// The way to it.
    pub fn transport(&self) -> Transport {
        self.current.load().transport.clone()
    }

    /// Reads again how it is reached. What cannot be read is as it was.
    pub fn refresh(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let outcome = self.source.read().and_then(|target| self.replace(target));
        if let Err(error) = outcome {
            tracing::warn!(%error, "cannot read again how the API server is reached; nothing changes");
        }
    }

    fn replace(&self, target: Target) -> Result<(), MemberError> {
        let current = self.current.load_full();
        if current.target == target {
            return Ok(());
        }
        // An empty token is a file that is being written.
        if target.credential.token.as_deref() == Some("") {
            return Ok(());
        }
        let same_way =
            Target { credential: current.target.credential.clone(), ..target.clone() } == current.target;
        let transport = if same_way {
            current.transport.rotate(target.credential.clone())?;
            current.transport.clone()
        } else {
            Transport::new(target.clone(), self.limits)?
        };
        self.current.store(Arc::new(Current { target, transport }));
        Ok(())
    }

    /// The API server did not accept the credential: a newer one may be there.
    pub(crate) fn not_accepted(&self) {
        let before = *self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if before.elapsed() >= HURRY {
            self.refresh();
        }
    }

    /// Reads again from time to time, for ever.
    pub async fn keep_fresh(&self) {
        loop {
            tokio::time::sleep(REFRESH).await;
            self.refresh();
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Member").field(&self.transport()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A ServiceAccount's directory, with a certificate that parses.
    fn mounted() -> (tempfile::TempDir, Source) {
        let directory = tempfile::tempdir().unwrap();
        write_authority(&directory);
        fs::write(directory.path().join("token"), "first\n").unwrap();
        let source = Source::Pod {
            directory: directory.path().to_owned(),
            host: "fd00::1".into(),
            port: "443".into(),
        };
        (directory, source)
    }

    fn write_authority(directory: &tempfile::TempDir) {
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        fs::write(directory.path().join("ca.crt"), authority.pem()).unwrap();
    }

    fn token(member: &Member) -> Option<String> {
        member.current.load().target.credential.token.clone()
    }

    #[test]
    fn a_token_that_is_replaced_is_used_and_one_that_goes_is_kept() {
        let (directory, source) = mounted();
        let member = Member::new(source, 8).unwrap();
        assert_eq!(member.transport().endpoint().unwrap().to_string(), "https://[fd00::1]:443");
        assert_eq!(token(&member).as_deref(), Some("first"));
        let file = directory.path().join("token");
        fs::write(&file, "second\n").unwrap();
        member.refresh();
        assert_eq!(token(&member).as_deref(), Some("second"));
        fs::write(&file, "").unwrap();
        member.refresh();
        fs::remove_file(&file).unwrap();
        member.refresh();
        assert_eq!(token(&member).as_deref(), Some("second"));
    }

    #[test]
    fn an_authority_that_is_replaced_makes_another_way() {
        let (directory, source) = mounted();
        let member = Member::new(source, 8).unwrap();
        let before = member.current.load_full();
        write_authority(&directory);
        member.refresh();
        assert_ne!(before.target.tls, member.current.load().target.tls);
    }

    #[test]
    fn a_kubeconfig_is_read_again_as_well() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config");
        let write = |token: &str| {
            let text = format!(
                "current-context: c\nclusters: [{{name: k, cluster: {{server: 'https://a:1', insecure-skip-tls-verify: true}}}}]\n\
                 users: [{{name: u, user: {{token: {token}}}}}]\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n"
            );
            fs::write(&file, text).unwrap();
        };
        write("one");
        let source = Source::Kubeconfig { file: file.clone(), context: None };
        let member = Member::new(source, 8).unwrap();
        write("two");
        member.refresh();
        assert_eq!(token(&member).as_deref(), Some("two"));
    }

    #[test]
    fn outside_a_cluster_it_is_said_what_to_give() {
        let error = Source::pod(|_| None).unwrap_err().to_string();
        assert!(error.contains("--kubeconfig"), "{error}");
        let missing = Source::Kubeconfig { file: "/nonexistent".into(), context: None };
        assert!(Member::new(missing, 8).unwrap_err().to_string().contains("/nonexistent"));
    }
}
