//! ServiceAccount tokens: JSON Web Tokens (RFC 7519) signed with ES256.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Who signs the tokens, and the audience of those that are for the API server: the name Kubernetes uses by default.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Who signs the tokens in Secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// No token of ours is longer.
const SIZE_LIMIT: usize = 16 * 1024;

/// A signing key that cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key does not parse, or none can be made.
    #[error("the ServiceAccount signing key cannot be used: {0}")]
    Key(#[from] rcgen::Error),
    /// Signing failed.
    #[error("a token cannot be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// Something of this name, as it was when the token was issued.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// What a token of TokenRequest is bound to (`kubernetes.io`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bound {
    /// The namespace of the ServiceAccount, the Pod and the Secret.
    pub namespace: String,
    /// The ServiceAccount.
    pub serviceaccount: Reference,
    /// The Pod that uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The Secret it lives and dies with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The Node of the Pod, or that it lives and dies with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
}

/// What a token in a Secret says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Legacy {
    /// The namespace of both.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// The Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    /// The ServiceAccount.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub name: String,
    /// Its uid.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
}

/// The claims of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// The issuer.
    pub iss: String,
    /// The user name.
    pub sub: String,
    /// Whom it is meant for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aud: Vec<String>,
    /// When it ends; tokens in Secrets do not end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// When it was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// When it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Its own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Of a token of TokenRequest.
    #[serde(rename = "kubernetes.io", skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// Of a token in a Secret.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub legacy: Option<Legacy>,
}

/// The key that signs the tokens of one cluster.
pub struct TokenKey {
    id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    jwk: Value,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl TokenKey {
    /// Makes a key; the bytes (PKCS #8) are what to keep.
    ///
    /// # Errors
    /// When the library cannot make one.
    pub fn generate() -> Result<(Vec<u8>, Self), KeyError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok((key.serialize_der(), Self::new(&key)))
    }

    /// Takes up a key that was kept.
    ///
    /// # Errors
    /// When it is not one.
    pub fn read(kept: &[u8]) -> Result<Self, KeyError> {
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(kept);
        Ok(Self::new(&KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)?))
    }

    fn new(key: &KeyPair) -> Self {
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info()));
        // An uncompressed point: 4, then x and y (SEC 1 §2.3.3).
        let point = key.public_key_raw();
        let coordinate =
            |range| URL_SAFE_NO_PAD.encode(point.get::<std::ops::Range<usize>>(range).unwrap_or_default());
        let (x, y) = (coordinate(1..33), coordinate(33..65));
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER, LEGACY_ISSUER]);
        validation.set_required_spec_claims(&["iss", "sub"]);
        // Times and audiences are the verifier's, which has a clock of its own.
        (validation.validate_exp, validation.validate_aud) = (false, false);
        Self {
            encoding: EncodingKey::from_ec_der(&key.serialize_der()),
            decoding: DecodingKey::from_ec_der(point),
            validation,
            jwk: json!({"use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256", "x": x, "y": y}),
            id,
        }
    }

    /// Signs a token.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let header = Header { kid: Some(self.id.clone()), typ: None, ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, claims, &self.encoding)?)
    }

    /// The claims of a token that this key signed; `None` for anything else. Says nothing about time or audience.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        if token.len() > SIZE_LIMIT
            || jsonwebtoken::decode_header(token).ok()?.kid.as_deref() != Some(&self.id)
        {
            return None;
        }
        Some(jsonwebtoken::decode(token, &self.decoding, &self.validation).ok()?.claims)
    }

    /// The public key as a JSON Web Key Set (RFC 7517), as `/openid/v1/jwks` shows it.
    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        let serviceaccount = Reference { name: "b".into(), uid: "u".into() };
        Claims {
            iss: ISSUER.into(),
            sub: "system:serviceaccount:a:b".into(),
            aud: vec![ISSUER.into()],
            exp: Some(1),
            bound: Some(Bound { namespace: "a".into(), serviceaccount, ..Bound::default() }),
            ..Claims::default()
        }
    }

    #[test]
    fn a_token_is_verified_by_its_key_alone_also_after_it_was_kept() {
        let (kept, key) = TokenKey::generate().unwrap();
        let token = key.sign(&claims()).unwrap();
        assert_eq!(key.verify(&token), Some(claims()));
        assert_eq!(TokenKey::read(&kept).unwrap().verify(&token), Some(claims()));
        assert_eq!(TokenKey::generate().unwrap().1.verify(&token), None);
    }

    #[test]
    fn a_legacy_token_keeps_its_claims() {
        let (_, key) = TokenKey::generate().unwrap();
        let legacy = Legacy { namespace: "a".into(), secret: "s".into(), name: "b".into(), uid: "u".into() };
        let claims = Claims { iss: LEGACY_ISSUER.into(), legacy: Some(legacy), ..claims() };
        assert_eq!(key.verify(&key.sign(&claims).unwrap()), Some(claims));
    }

    #[test]
    fn a_forged_token_is_refused() {
        let (kept, key) = TokenKey::generate().unwrap();
        let token = key.sign(&claims()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let body = encode(json!({"iss": ISSUER, "sub": "system:serviceaccount:kube-system:root"}));
        let unsigned = encode(json!({"alg": "none", "kid": key.id}));
        let symmetric = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::HS256) };
        let confused = jsonwebtoken::encode(&symmetric, &claims(), &EncodingKey::from_secret(&kept)).unwrap();
        for forged in [
            format!("{}.{body}.{}", parts[0], parts[2]),
            format!("{unsigned}.{}.", parts[1]),
            format!("{unsigned}.{}.{}", parts[1], parts[2]),
            confused,
            String::new(),
            "a.b.c".into(),
            "x".repeat(100_000),
        ] {
            assert_eq!(key.verify(&forged), None, "{forged:.80}");
        }
        let stranger = key.sign(&Claims { iss: "https://elsewhere".into(), ..claims() }).unwrap();
        assert_eq!(key.verify(&stranger), None);
    }

    #[test]
    fn the_published_key_verifies_tokens() {
        let (_, key) = TokenKey::generate().unwrap();
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.jwks()["keys"][0].clone()).unwrap();
        let token = key.sign(&claims()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        (validation.validate_exp, validation.validate_aud) = (false, false);
        jsonwebtoken::decode::<Claims>(&token, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap();
    }

    #[test]
    fn debug_output_shows_no_key() {
        let (_, key) = TokenKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), format!("TokenKey {{ id: {:?}, .. }}", key.id));
    }
}
