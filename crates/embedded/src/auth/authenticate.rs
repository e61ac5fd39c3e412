//! Who is asking: client certificates, static tokens, ServiceAccount tokens, or nobody. Nothing else is believed.

use std::fmt;

use hansa_listener::pki::read_certificate;
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::{service_account::Tokens, token::ISSUER, user::User};

/// A bearer token given when the server starts, of which only the hash is known.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticToken {
    /// SHA-256 of the token. The token has at least 256 random bits, so that no slower hash is needed.
    pub sha256: [u8; 32],
    /// Who holds it.
    pub user: User,
}

impl StaticToken {
    /// Hashes a token.
    pub fn new(token: &str, user: User) -> Self {
        Self { sha256: Sha256::digest(token).into(), user }
    }
}

impl fmt::Debug for StaticToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticToken").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why a credential is not accepted. The client only learns that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Not of a kind that is accepted, or more than one.
    #[error("the Authorization header is not one bearer token")]
    Scheme,
    /// No such token.
    #[error("invalid bearer token")]
    Unknown,
    /// The time of the credential has passed.
    #[error("the credential has expired")]
    Expired,
    /// The time of the credential has not come.
    #[error("the token is not valid yet")]
    Early,
    /// The token is meant for others.
    #[error("token audiences are invalid for the target audiences")]
    Audience,
    /// What the token is bound to is gone.
    #[error("the token has been invalidated")]
    Revoked,
    /// The certificate names no user.
    #[error("the client certificate names no user")]
    Certificate,
}

/// The user of a bearer token, and for which of `audiences` it is good.
pub(super) fn bearer(
    token: &str,
    statics: &[StaticToken],
    tokens: &Tokens,
    audiences: &[String],
    now: Timestamp,
) -> Result<(User, Vec<String>), Rejected> {
    if let Some(user) = find(statics, token) {
        let own: Vec<String> = audiences.iter().filter(|a| *a == ISSUER).cloned().collect();
        return if own.is_empty() {
            Err(Rejected::Audience)
        } else {
            Ok((user.clone().authenticated(), own))
        };
    }
    tokens.verify(token, audiences, now)
}

/// Compares with every token in constant time, so that neither the place nor the length of a match shows.
fn find<'a>(statics: &'a [StaticToken], token: &str) -> Option<&'a User> {
    let hash: [u8; 32] = Sha256::digest(token).into();
    let mut found = Choice::from(0);
    let mut at = 0u32;
    for (index, known) in statics.iter().enumerate() {
        let equal = known.sha256.ct_eq(&hash);
        found |= equal;
        at.conditional_assign(&u32::try_from(index).unwrap_or(u32::MAX), equal);
    }
    bool::from(found).then(|| statics.get(at as usize).map(|known| &known.user)).flatten()
}

/// The bearer token of a request, taken out of its headers so that nobody behind sees it.
pub(super) fn take_token(headers: &mut HeaderMap) -> Result<Option<String>, Rejected> {
    let mut found: Vec<HeaderValue> = headers.get_all(header::AUTHORIZATION).iter().cloned().collect();
    headers.remove(header::AUTHORIZATION);
    let Some(value) = found.pop() else { return Ok(None) };
    if !found.is_empty() {
        return Err(Rejected::Scheme);
    }
    let text = value.to_str().map_err(|_| Rejected::Scheme)?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(Some(token.trim().to_owned()))
        }
        _ => Err(Rejected::Scheme),
    }
}

/// The user of a client certificate that TLS has verified, as long as it has not expired since.
pub(super) fn certificate(der: &CertificateDer<'_>, now: Timestamp) -> Result<User, Rejected> {
    let (subject, until) = read_certificate(der).map_err(|_| Rejected::Certificate)?;
    if now.as_second() > until {
        return Err(Rejected::Expired);
    }
    let id: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut user = User::new(subject.name, subject.groups).authenticated();
    user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("X509SHA256={id}")]);
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_token_is_found_wherever_it_stands() {
        let statics: Vec<_> =
            (0..5).map(|n| StaticToken::new(&format!("t{n}"), User::new(format!("u{n}"), [""; 0]))).collect();
        for n in 0..5 {
            assert_eq!(find(&statics, &format!("t{n}")).unwrap().name, format!("u{n}"));
        }
        assert_eq!(find(&statics, "t5"), None);
        assert_eq!(find(&statics, ""), None);
        assert_eq!(find(&[], "t0"), None);
    }

    #[test]
    fn only_one_bearer_token_is_a_credential() {
        let take = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("Authorization", HeaderValue::from_str(value).unwrap());
            }
            let token = take_token(&mut headers);
            assert!(headers.is_empty());
            token
        };
        assert_eq!(take(&[]), Ok(None));
        assert_eq!(take(&["Bearer abc"]), Ok(Some("abc".into())));
        assert_eq!(take(&["bearer  abc "]), Ok(Some("abc".into())));
        for bad in [&["Basic YTpi"][..], &["Bearer"], &["Bearer "], &["abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(take(bad), Err(Rejected::Scheme), "{bad:?}");
        }
    }

    #[test]
    fn debug_output_shows_no_hash() {
        let token = StaticToken::new("secret", User::new("bob", ["dev"]));
        let shown = format!("{token:?}");
        assert!(shown.contains("bob") && !shown.contains("sha256"), "{shown}");
    }
}
