//! What a manifest gives the agent: where the tower is, what it is to be known by, and the token to join with.
//!
//! It is read afresh each time the agent dials, so that a manifest that is applied again takes effect by itself.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hansa_transport::{Endpoint, EndpointError};
use sha2::{Digest, Sha256};

/// Where a Pod finds the Secret `agent-join`.
pub const JOIN_DIRECTORY: &str = "/var/run/hansa/agent-join";
/// Larger than any of the files.
const MAX_FILE: u64 = 256 * 1024;

/// Where each part of a [`Join`] is found: what is given by itself goes before the file of the directory.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The directory with the files `tower`, `cluster`, `ca.crt` and `token`.
    pub directory: PathBuf,
    /// The tower's address.
    pub tower: Option<String>,
    /// The cluster's name on the host.
    pub cluster: Option<String>,
    /// The file with the tower's authority.
    pub authority: Option<PathBuf>,
    /// The file with the join token.
    pub token: Option<PathBuf>,
}

/// What the agent joins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Where the tower is.
    pub tower: Endpoint,
    /// The cluster's name on the host.
    pub cluster: String,
    /// The authority of the tower's certificate, PEM.
    pub authority: String,
    /// The join token; without one an agent can go on but not begin.
    pub token: Option<Token>,
}

/// A join token. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token that `text` is.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// For the one message that carries it.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }

    /// What it is remembered by (SHA-256, hexadecimal).
    pub fn digest(&self) -> String {
        Sha256::digest(self.0.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Why the agent does not know what to join.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JoinError {
    /// A file that must be there is not, or cannot be read.
    #[error("cannot read {what} from {path}: {reason}; give {flag}, or apply the manifest of `hansa join NAME --agent`", path = path.display())]
    File {
        /// What stands in it.
        what: &'static str,
        /// The flag that gives it otherwise.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file holds nothing.
    #[error("{path} is empty; it should hold {what}: apply the manifest of `hansa join NAME --agent` again", path = path.display())]
    Empty {
        /// What should stand in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The tower's address cannot be used.
    #[error("the tower's address: {0}")]
    Address(#[from] EndpointError),
    /// The tower's address is not HTTPS.
    #[error("the tower's address {0} is not https: the agent speaks to a tower over TLS only")]
    Plaintext(Endpoint),
    /// The name is none that a cluster can have.
    #[error("{0:?} is not the name of a cluster: small letters, digits, and dashes or dots between them")]
    Name(String),
}

impl Sources {
    /// What there is to join with now.
    pub fn read(&self) -> Result<Join, JoinError> {
        let text = |given: &Option<String>, file, what, flag| match given {
            Some(given) => Ok(given.trim().to_owned()),
            None => required(&self.directory.join(file), what, flag),
        };
        let tower =
            Endpoint::parse(&text(&self.tower, "tower", "the tower's address", "--tower (HANSA_TOWER)")?)?;
        if !tower.tls {
            return Err(JoinError::Plaintext(tower));
        }
        let cluster = text(&self.cluster, "cluster", "the cluster's name", "--cluster (HANSA_CLUSTER)")?;
        if !is_name(&cluster) {
            return Err(JoinError::Name(cluster.chars().take(256).collect()));
        }
        let file = |given: &Option<PathBuf>, name| match given {
            Some(given) => given.clone(),
            None => self.directory.join(name),
        };
        let what = "the authority of the tower's certificate";
        let authority = required(&file(&self.authority, "ca.crt"), what, "--ca-file (HANSA_CA_FILE)")? + "\n";
        let token = file(&self.token, "token");
        let token = match (read(&token), &self.token) {
            (Ok(text), _) => Some(Token::new(&text)).filter(|token| !token.0.is_empty()),
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound => None,
            (Err(error), _) => {
                return Err(JoinError::File {
                    what: "the join token",
                    flag: "--token-file (HANSA_TOKEN_FILE)",
                    path: token,
                    reason: error.to_string(),
                });
            }
        };
        Ok(Join { tower, cluster, authority, token })
    }
}

fn required(path: &Path, what: &'static str, flag: &'static str) -> Result<String, JoinError> {
    let text = read(path).map_err(|error| JoinError::File {
        what,
        flag,
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    match text.trim() {
        "" => Err(JoinError::Empty { what, path: path.to_owned() }),
        text => Ok(text.to_owned()),
    }
}

/// A small text file, whole.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other(format!("it is longer than {MAX_FILE} bytes")));
    }
    fs::read_to_string(path)
}

/// RFC 1123, as Kubernetes names objects.
fn is_name(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    name.len() <= 253
        && edge(name.as_bytes().first())
        && edge(name.as_bytes().last())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(files: &[(&str, &str)]) -> (tempfile::TempDir, Sources) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let sources = Sources { directory: directory.path().to_owned(), ..Sources::default() };
        (directory, sources)
    }

    const WHOLE: [(&str, &str); 4] = [
        ("tower", "https://tower.example.org:7444\n"),
        ("cluster", "m2"),
        ("ca.crt", "PEM\n"),
        ("token", "s3cret\n"),
    ];

    #[test]
    fn a_mounted_secret_says_everything() {
        let (_directory, sources) = mounted(&WHOLE);
        let join = sources.read().unwrap();
        assert_eq!(join.tower.to_string(), "https://tower.example.org:7444");
        assert_eq!((join.cluster.as_str(), join.authority.as_str()), ("m2", "PEM\n"));
        assert_eq!(join.token, Some(Token::new("s3cret")));
        assert!(!format!("{join:?}").contains("s3cret"));
        assert_eq!(
            Token::new("s3cret").digest(),
            "1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0"
        );
    }

    #[test]
    fn what_is_given_by_itself_goes_first() {
        let (directory, mut sources) = mounted(&WHOLE);
        let other = directory.path().join("other");
        fs::write(&other, "fresh").unwrap();
        sources.tower = Some("https://10.0.0.1".to_owned());
        sources.cluster = Some("m3".to_owned());
        sources.token = Some(other);
        let join = sources.read().unwrap();
        assert_eq!((join.tower.host.as_str(), join.cluster.as_str()), ("10.0.0.1", "m3"));
        assert_eq!(join.token, Some(Token::new("fresh")));
    }

    #[test]
    fn a_token_may_be_gone_once_it_was_used() {
        let (_directory, sources) = mounted(&WHOLE[..3]);
        assert_eq!(sources.read().unwrap().token, None);
        let missing = Sources { token: Some("/nonexistent".into()), ..sources };
        assert!(missing.read().unwrap_err().to_string().contains("--token-file"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_what_to_do() {
        for (change, expected) in [
            (("tower", ""), "is empty; it should hold the tower's address"),
            (("tower", "http://a"), "over TLS only"),
            (("tower", "ftp://a"), "give it as https://HOST:PORT"),
            (("cluster", "M2/../x"), "is not the name of a cluster"),
            (("ca.crt", " \n"), "apply the manifest"),
        ] {
            let mut files = WHOLE;
            files.iter_mut().filter(|(name, _)| *name == change.0).for_each(|file| *file = change);
            let (_directory, sources) = mounted(&files);
            let error = sources.read().unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
        }
        let error = Sources { directory: "/nonexistent".into(), ..Sources::default() }.read().unwrap_err();
        assert!(error.to_string().contains("give --tower (HANSA_TOWER)"), "{error}");
    }
}
