//! What a cluster is reached with.

use std::fmt;

use base64::Engine;
use http::HeaderValue;

/// A credential. Its `Debug` shows which parts there are, and none of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credential {
    /// A bearer token.
    pub token: Option<String>,
    /// A user name and password, where there is no token.
    pub basic: Option<(String, String)>,
    /// A client certificate.
    pub identity: Option<Identity>,
}

/// A client certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and those that lead to its authority.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl Credential {
    /// A bearer token.
    pub fn token(token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..Self::default() }
    }

    /// The `Authorization` header, or `None` where there is nothing to say or it cannot be said in a header.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let text = match (&self.token, &self.basic) {
            (Some(token), _) => format!("Bearer {}", token.trim()),
            (None, Some((user, password))) => {
                format!(
                    "Basic {}",
                    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
                )
            }
            (None, None) => return None,
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |there: bool| if there { "(hidden)" } else { "(none)" };
        f.debug_struct("Credential")
            .field("token", &shown(self.token.is_some()))
            .field("basic", &shown(self.basic.is_some()))
            .field("identity", &shown(self.identity.is_some()))
            .finish()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_never_shown() {
        let credential = Credential {
            token: Some("s3cret".into()),
            basic: Some(("u".into(), "p4ss".into())),
            identity: None,
        };
        let shown = format!("{credential:?} {:?}", credential.header().unwrap());
        assert!(!shown.contains("s3cret") && !shown.contains("p4ss"), "{shown}");
    }

    #[test]
    fn a_token_goes_before_a_password() {
        let both =
            Credential { token: Some("t\n".into()), basic: Some(("u".into(), "p".into())), identity: None };
        assert_eq!(both.header().unwrap(), "Bearer t");
        let basic = Credential { basic: Some(("u".into(), "p".into())), ..Credential::default() };
        assert_eq!(basic.header().unwrap(), "Basic dTpw");
        assert_eq!(Credential::default().header(), None);
        assert_eq!(Credential::token("line\nbreak").header(), None);
    }
}
