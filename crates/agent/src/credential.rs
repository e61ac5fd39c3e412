//! The agent's own credential: a key that never leaves the member, and the short-lived certificate that the tower gives for it.
//!
//! ```text
//! nothing ──make a key──► key ──redeem the token──► certificate ──renew──► certificate …
//! ```
//! The key is kept before it is used, so that an answer that was lost can be asked for again: the same token with the same key is redeemed twice.

use std::fmt;
use std::time::{Duration, SystemTime};

use hansa_tunnel::handshake::{ORGANISATION, agent_name};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::join::Join;

/// A certificate is renewed when so much of its life has passed, at least and at most: agents that joined together renew apart.
const RENEWAL: (f64, f64) = (0.33, 0.43);

/// What the agent keeps. Its `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// The cluster it is the credential of.
    pub cluster: String,
    /// The private key, PEM.
    pub key: String,
    /// The certificate, PEM, once there is one.
    pub certificate: Option<String>,
    /// The tower's authority as the tower gave it with the certificate, PEM.
    pub authority: Option<String>,
    /// The digest of the token that was redeemed.
    pub redeemed: Option<String>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("cluster", &self.cluster)
            .field("certificate", &self.certificate)
            .field("redeemed", &self.redeemed)
            .finish_non_exhaustive()
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key is made, and kept before anything else is done.
    MakeKey,
    /// The join token is exchanged for a certificate.
    Redeem,
    /// The certificate is used, and a newer one is asked for with it.
    Renew,
    /// The certificate is used; it is to be renewed at that time.
    Use(SystemTime),
    /// There is no way to a certificate.
    Stuck(Stuck),
}

/// Why there is no way to a certificate.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Stuck {
    /// Nothing to begin with.
    #[error(
        "this agent has neither a certificate nor a join token; apply a fresh manifest: hansa join {0} --agent"
    )]
    NoToken(String),
    /// The certificate has ended.
    #[error(
        "this agent's certificate ended at {ended} and this machine's clock says {now}; set the clock if it is wrong, else apply a fresh manifest: hansa join {cluster} --agent"
    )]
    Ended {
        /// The cluster.
        cluster: String,
        /// When.
        ended: jiff::Timestamp,
        /// By this machine's clock.
        now: jiff::Timestamp,
    },
}

/// What there is to do with what is `kept`. `spread` (0 to 1) sets apart agents that joined at the same time; `refused` is the digest of a token
/// that the tower did not take, which is not tried again while there is a certificate that can be used.
pub fn step(kept: Option<&Kept>, join: &Join, refused: Option<&str>, now: SystemTime, spread: f64) -> Step {
    let Some(kept) = kept.filter(|kept| kept.cluster == join.cluster) else { return Step::MakeKey };
    let token = join.token.as_ref().map(|token| token.digest());
    let redeem = |stuck| if token.is_some() { Step::Redeem } else { Step::Stuck(stuck) };
    let certificate = kept.certificate.as_deref().and_then(|pem| Certificate::read(pem).ok());
    let Some(certificate) = certificate.filter(|certificate| certificate.is_of(&kept.key, &join.cluster))
    else {
        return redeem(Stuck::NoToken(join.cluster.clone()));
    };
    let fresh = token.is_some() && token != kept.redeemed;
    if fresh && token.as_deref() != refused {
        return Step::Redeem;
    }
    if now >= certificate.until {
        let (ended, now) = (timestamp(certificate.until), timestamp(now));
        return redeem(Stuck::Ended { cluster: join.cluster.clone(), ended, now });
    }
    let renew_at = certificate.renew_at(spread);
    if now >= renew_at { Step::Renew } else { Step::Use(renew_at) }
}

/// The authorities that the tower's certificate may be of, PEM: the manifest's, and the one that the tower gave under it, for as long as no new
/// manifest has come.
pub fn authorities(kept: Option<&Kept>, join: &Join) -> String {
    let given = kept.filter(|kept| {
        let token = join.token.as_ref().map(|token| token.digest());
        kept.cluster == join.cluster && (token.is_none() || token == kept.redeemed)
    });
    match given.and_then(|kept| kept.authority.as_deref()) {
        Some(authority) if authority.trim() != join.authority.trim() => {
            format!("{}\n{authority}", join.authority)
        }
        _ => join.authority.clone(),
    }
}

/// A time as it is shown.
pub(crate) fn timestamp(time: SystemTime) -> jiff::Timestamp {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX);
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// What is read of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// From when it holds.
    pub from: SystemTime,
    /// Until when it holds.
    pub until: SystemTime,
    /// The subject's common name.
    pub common_name: String,
    public_key: Vec<u8>,
}

/// Why a key, a request or a certificate cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialError {
    /// It is no certificate.
    #[error("the tower's answer is no certificate that can be read: {0}")]
    Unreadable(String),
    /// It is a certificate of another.
    #[error(
        "the tower's answer is a certificate for {0:?}, or for another key than this agent's; it is not used"
    )]
    Foreign(String),
    /// The library refused.
    #[error("cannot make a key or a certificate request: {0}")]
    Make(String),
}

impl Certificate {
    /// Reads the first certificate in `pem`.
    pub fn read(pem: &str) -> Result<Self, CredentialError> {
        let unreadable = |error: String| CredentialError::Unreadable(error);
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unreadable(error.to_string()))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|error| unreadable(error.to_string()))?;
        let at = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
            SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_secs(seconds))
                .ok_or_else(|| unreadable("its period is out of range".to_owned()))
        };
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Ok(Self {
            from: at(parsed.validity().not_before)?,
            until: at(parsed.validity().not_after)?,
            common_name: name.unwrap_or_default().to_owned(),
            public_key: parsed.public_key().raw.to_vec(),
        })
    }

    fn is_of(&self, key: &str, cluster: &str) -> bool {
        let own = KeyPair::from_pem(key).is_ok_and(|key| key.subject_public_key_info() == self.public_key);
        own && self.common_name == agent_name(cluster)
    }

    /// When it is to be renewed.
    fn renew_at(&self, spread: f64) -> SystemTime {
        let life = self.until.duration_since(self.from).unwrap_or_default();
        let part = RENEWAL.0 + (RENEWAL.1 - RENEWAL.0) * spread.clamp(0.0, 1.0);
        self.from.checked_add(life.mul_f64(part)).unwrap_or(self.until)
    }
}

impl Kept {
    /// A new key for `cluster` (P-256).
    pub fn make(cluster: &str) -> Result<Self, CredentialError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| CredentialError::Make(error.to_string()))?;
        Ok(Self {
            cluster: cluster.to_owned(),
            key: key.serialize_pem(),
            certificate: None,
            authority: None,
            redeemed: None,
        })
    }

    /// The request for a certificate, PEM: who it is for and nothing besides.
    pub fn request(&self) -> Result<String, CredentialError> {
        let make = |error: rcgen::Error| CredentialError::Make(error.to_string());
        let key = KeyPair::from_pem(&self.key).map_err(make)?;
        let mut parameters = CertificateParams::new(Vec::new()).map_err(make)?;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, ORGANISATION);
        subject.push(DnType::CommonName, agent_name(&self.cluster));
        parameters.distinguished_name = subject;
        parameters.serialize_request(&key).and_then(|request| request.pem()).map_err(make)
    }

    /// With what the tower gave, after it was looked at: the certificate must be for this agent and its key.
    pub fn with(
        &self,
        certificate: String,
        authority: String,
        redeemed: Option<String>,
    ) -> Result<Self, CredentialError> {
        let read = Certificate::read(&certificate)?;
        if !read.is_of(&self.key, &self.cluster) {
            return Err(CredentialError::Foreign(read.common_name.chars().take(100).collect()));
        }
        let redeemed = redeemed.or_else(|| self.redeemed.clone());
        Ok(Self { certificate: Some(certificate), authority: Some(authority), redeemed, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::Issuer;

    use super::*;
    use crate::join::Token;

    const DAY: Duration = Duration::from_secs(86_400);

    fn join(token: Option<&str>) -> Join {
        Join {
            tower: hansa_transport::Endpoint::parse("https://tower").unwrap(),
            cluster: "m2".to_owned(),
            authority: "MANIFEST".to_owned(),
            token: token.map(Token::new),
        }
    }

    /// A certificate of seven days from the first of June 2026, for what `of` asks for.
    fn issue(of: &Kept) -> String {
        let issuer = Issuer::new(CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, agent_name(&of.cluster));
        parameters.not_before = rcgen::date_time_ymd(2026, 6, 1);
        parameters.not_after = rcgen::date_time_ymd(2026, 6, 8);
        parameters.signed_by(&KeyPair::from_pem(&of.key).unwrap(), &issuer).unwrap().pem()
    }

    fn june(days: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH
            + Duration::from_secs(1_780_272_000 - 1000 * 86_400)
            + DAY.mul_f64(1000.0 + days)
    }

    fn joined(token: &str) -> Kept {
        let kept = Kept::make("m2").unwrap();
        kept.with(issue(&kept), "GIVEN".to_owned(), Some(Token::new(token).digest())).unwrap()
    }

    #[test]
    fn the_key_comes_first_then_the_token_then_the_certificate() {
        let (now, token) = (june(0.5), join(Some("t")));
        assert_eq!(step(None, &token, None, now, 0.0), Step::MakeKey);
        let kept = Kept::make("m2").unwrap();
        assert_eq!(step(Some(&kept), &token, None, now, 0.0), Step::Redeem);
        assert!(matches!(step(Some(&joined("t")), &token, None, now, 0.0), Step::Use(_)));
        assert_eq!(step(Some(&kept), &join(None), None, now, 0.0), Step::Stuck(Stuck::NoToken("m2".into())));
    }

    #[test]
    fn a_certificate_is_renewed_when_less_than_two_thirds_are_left_and_not_by_all_at_once() {
        let (kept, join) = (joined("t"), join(Some("t")));
        let at = |days, spread| step(Some(&kept), &join, None, june(days), spread);
        assert!(matches!(at(2.2, 0.0), Step::Use(_)));
        assert_eq!(at(2.4, 0.0), Step::Renew);
        assert!(matches!(at(2.4, 1.0), Step::Use(_)));
        assert_eq!(at(3.1, 1.0), Step::Renew);
        // A clock that is behind renews nothing; whether the certificate is valid is for the tower to say.
        assert!(matches!(at(-400.0, 0.5), Step::Use(_)));
    }

    #[test]
    fn a_certificate_that_ended_needs_a_token_or_a_person() {
        let kept = joined("t");
        assert_eq!(step(Some(&kept), &join(Some("t")), None, june(8.0), 0.5), Step::Redeem);
        let Step::Stuck(stuck) = step(Some(&kept), &join(None), None, june(8.0), 0.5) else { panic!() };
        let said = stuck.to_string();
        assert!(
            said.contains("ended at 2026-06-08T00:00:00Z")
                && said.contains("clock says 2026-06-09T00:00:00Z")
        );
        assert!(said.contains("hansa join m2 --agent"), "{said}");
    }

    #[test]
    fn a_new_manifest_is_taken_up_and_one_that_is_refused_costs_nothing_that_works() {
        let kept = joined("old");
        let new = join(Some("new"));
        assert_eq!(step(Some(&kept), &new, None, june(0.5), 0.0), Step::Redeem);
        let refused = Token::new("new").digest();
        assert!(matches!(step(Some(&kept), &new, Some(&refused), june(0.5), 0.0), Step::Use(_)));
        assert_eq!(step(Some(&kept), &new, Some(&refused), june(9.0), 0.0), Step::Redeem);
    }

    #[test]
    fn a_credential_of_another_cluster_is_not_used() {
        let kept = Kept { cluster: "m1".to_owned(), ..joined("t") };
        assert_eq!(step(Some(&kept), &join(Some("t")), None, june(0.5), 0.0), Step::MakeKey);
        // Nor is a certificate that says another name, or that is for another key.
        let renamed = Kept { cluster: "m1".to_owned(), ..joined("t") };
        let other = Join { cluster: "m1".to_owned(), ..join(Some("t")) };
        assert_eq!(step(Some(&renamed), &other, None, june(0.5), 0.0), Step::Redeem);
        let rekeyed = Kept { key: Kept::make("m2").unwrap().key, ..joined("t") };
        assert_eq!(step(Some(&rekeyed), &join(Some("t")), None, june(0.5), 0.0), Step::Redeem);
    }

    #[test]
    fn what_the_tower_gives_is_looked_at() {
        let kept = Kept::make("m2").unwrap();
        let foreign = issue(&Kept::make("m2").unwrap());
        assert_eq!(
            kept.with(foreign, String::new(), None),
            Err(CredentialError::Foreign("hansa:agent:m2".to_owned()))
        );
        let renamed = issue(&Kept { cluster: "m1".to_owned(), ..kept.clone() });
        assert!(matches!(kept.with(renamed, String::new(), None), Err(CredentialError::Foreign(_))));
        let nothing = kept.with("x".to_owned(), String::new(), None);
        assert!(matches!(nothing, Err(CredentialError::Unreadable(_))));
    }

    #[test]
    fn the_request_says_who_it_is_for_and_nothing_else() {
        use x509_parser::certification_request::X509CertificationRequest;
        use x509_parser::prelude::FromDer;
        let pem = Kept::make("m2").unwrap().request().unwrap();
        let der = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
        request.verify_signature().unwrap();
        let info = &request.certification_request_info;
        assert_eq!(info.subject.to_string(), "O=hansa:agents, CN=hansa:agent:m2");
        assert_eq!(info.iter_attributes().count(), 0);
    }

    #[test]
    fn the_towers_own_word_about_its_authority_holds_until_a_new_manifest() {
        let kept = joined("t");
        assert_eq!(authorities(Some(&kept), &join(Some("t"))), "MANIFEST\nGIVEN");
        assert_eq!(authorities(Some(&kept), &join(None)), "MANIFEST\nGIVEN");
        assert_eq!(authorities(Some(&kept), &join(Some("new"))), "MANIFEST");
        assert_eq!(authorities(None, &join(Some("t"))), "MANIFEST");
    }

    #[test]
    fn a_key_is_never_shown() {
        let kept = Kept::make("m2").unwrap();
        assert!(kept.key.contains("PRIVATE KEY"));
        assert!(!format!("{kept:?}").contains("PRIVATE KEY"));
    }

    proptest! {
        /// Time only ever leads from use to renewal to the end.
        #[test]
        fn the_steps_follow_in_order(spread in 0.0_f64..1.0, mut days in proptest::collection::vec(-10.0_f64..20.0, 2..10)) {
            days.sort_by(f64::total_cmp);
            let kept = joined("t");
            let rank = |days| match step(Some(&kept), &join(Some("t")), None, june(days), spread) {
                Step::Use(_) => 0,
                Step::Renew => 1,
                Step::Redeem => 2,
                other => panic!("{other:?}"),
            };
            let ranks: Vec<i32> = days.into_iter().map(rank).collect();
            prop_assert!(ranks.is_sorted());
        }
    }
}
