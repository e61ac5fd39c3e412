//! Certificates: an authority, the serving certificate of a listener, client certificates.

mod x509;

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::{Arc, RwLock},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde::{Deserialize, Serialize};

pub use x509::{Request, Subject, public_key, read_certificate};

/// How far certificates reach back, for clocks that run behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
const AUTHORITY_VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 3650);
const SERVING_VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 365);
/// A serving certificate is replaced when it has less than this left.
const SERVING_RENEWAL: SignedDuration = SignedDuration::from_hours(24 * 60);

/// A certificate that could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The input is not what it should be.
    #[error("cannot read the certificate or request: {0}")]
    Parse(String),
    /// The subject names no user.
    #[error("the subject of the certificate cannot be used: {0}")]
    Subject(&'static str),
    /// The library refused.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The TLS library refused the key or certificate.
    #[error("cannot use the certificate: {0}")]
    Use(#[from] rustls::Error),
}

/// A certificate with its private key, in PEM. Its `Debug` form shows only the certificate.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeyedCertificate {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

impl fmt::Debug for KeyedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCertificate").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A certificate authority (P-256), such as a cluster has.
pub struct Authority {
    pem: KeyedCertificate,
    der: CertificateDer<'static>,
    subject: Vec<u8>,
    key_id: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.pem.certificate).finish_non_exhaustive()
    }
}

fn parameters(name: &str, from: Timestamp, validity: SignedDuration) -> Result<CertificateParams, PkiError> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name.remove(DnType::CommonName);
    parameters.distinguished_name.push(DnType::CommonName, name);
    let at = |time: Timestamp| {
        let seconds = Duration::from_secs(time.as_second().try_into().unwrap_or_default());
        rcgen::date_time_ymd(1970, 1, 1) + seconds
    };
    parameters.not_before = at(from - BACKDATE);
    parameters.not_after = at(from + validity);
    Ok(parameters)
}

fn authority_parameters(name: &str, from: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut parameters = parameters(name, from, AUTHORITY_VALIDITY)?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

impl Authority {
    /// Makes a new authority; `name` tells it from others.
    ///
    /// # Errors
    /// When the key or the certificate cannot be made.
    pub fn generate(name: &str, now: Timestamp) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = authority_parameters(name, now)?.self_signed(&key)?;
        Self::read(KeyedCertificate { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Takes up the authority that was kept.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn read(pem: KeyedCertificate) -> Result<Self, PkiError> {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let key = KeyPair::from_pem(&pem.key)?;
        let der = CertificateDer::from_pem_slice(pem.certificate.as_bytes())
            .map_err(|e| PkiError::Parse(e.to_string()))?;
        let (name, subject) = {
            let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| PkiError::Parse(e.to_string()))?;
            let name = parsed.subject().iter_common_name().next().and_then(|a| a.as_str().ok());
            (name.ok_or(PkiError::Subject("no common name"))?.to_owned(), parsed.subject().as_raw().to_vec())
        };
        let parameters = authority_parameters(&name, Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24))?;
        let key_id = parameters.key_identifier(&key);
        Ok(Self { pem, der, subject, key_id, issuer: Issuer::new(parameters, key) })
    }

    /// The authority's certificate in PEM, which clients trust.
    pub fn certificate_pem(&self) -> &str {
        &self.pem.certificate
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// All there is to keep.
    pub fn keyed(&self) -> &KeyedCertificate {
        &self.pem
    }

    /// Issues a certificate for a server that is reached under the names and addresses `sans`.
    ///
    /// # Errors
    /// When a name is not a DNS name or address, or the library refuses.
    pub fn issue_serving(
        &self,
        sans: &BTreeSet<String>,
        now: Timestamp,
    ) -> Result<KeyedCertificate, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = parameters("kube-apiserver", now, SERVING_VALIDITY)?;
        for san in sans {
            parameters.subject_alt_names.push(match san.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(san.as_str().try_into()?),
            });
        }
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        Ok(KeyedCertificate { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Issues a client certificate with a new key.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn issue_client(
        &self,
        subject: &Subject,
        validity: SignedDuration,
        now: Timestamp,
    ) -> Result<KeyedCertificate, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = self.sign(&x509::Client::new(subject, &key), validity, now)?;
        Ok(KeyedCertificate { certificate, key: key.serialize_pem() })
    }

    /// Certifies the subject and key of a request whose form was checked and which was approved.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn sign_request(
        &self,
        request: &Request,
        key_encipherment: bool,
        validity: SignedDuration,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        self.sign(&x509::Client::requested(request, key_encipherment), validity, now)
    }

    fn sign(
        &self,
        client: &x509::Client,
        validity: SignedDuration,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let period = (now - BACKDATE, now + validity);
        let der = client.sign(&self.subject, &self.key_id, self.issuer.key(), period)?;
        Ok(pem("CERTIFICATE", &der))
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out + &format!("-----END {label}-----\n")
}

/// Whether a kept serving certificate must be replaced: it is not the authority's for exactly these names, or near its end.
fn needs_renewal(
    kept: &KeyedCertificate,
    authority: &Authority,
    sans: &BTreeSet<String>,
    now: Timestamp,
) -> bool {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let Ok(der) = CertificateDer::from_pem_slice(kept.certificate.as_bytes()) else { return true };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return true };
    let Ok((_, issuer)) = X509Certificate::from_der(&authority.der) else { return true };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names: BTreeSet<String> = names
        .into_iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                .ok()
                .map(|ip| ip.to_string()),
            _ => None,
        })
        .collect();
    let wanted: BTreeSet<String> = sans
        .iter()
        .map(|san| san.parse::<IpAddr>().map_or_else(|_| san.clone(), |ip| ip.to_string()))
        .collect();
    names != wanted
        || certificate.validity().not_after.timestamp() < (now + SERVING_RENEWAL).as_second()
        || certificate.validity().not_before.timestamp() > now.as_second()
        || certificate.verify_signature(Some(issuer.public_key())).is_err()
}

/// The certificate a listener presents. It can be replaced while connections are served.
#[derive(Debug)]
pub struct ServingCertificate {
    current: RwLock<(KeyedCertificate, Arc<CertifiedKey>)>,
}

impl ServingCertificate {
    /// Takes up the certificate that was kept, or issues one when there is none that will do.
    ///
    /// # Errors
    /// When the authority cannot issue it.
    pub fn open(
        authority: &Authority,
        kept: Option<KeyedCertificate>,
        sans: &BTreeSet<String>,
        now: Timestamp,
    ) -> Result<Self, PkiError> {
        let pem = match kept {
            Some(kept) if !needs_renewal(&kept, authority, sans, now) => kept,
            _ => authority.issue_serving(sans, now)?,
        };
        let key = certified(&pem)?;
        Ok(Self { current: RwLock::new((pem, key)) })
    }

    /// Presents a certificate that others issue and renew: see [`ServingCertificate::replace`].
    ///
    /// # Errors
    /// When certificate and key cannot be used.
    pub fn given(pem: KeyedCertificate) -> Result<Self, PkiError> {
        let key = certified(&pem)?;
        Ok(Self { current: RwLock::new((pem, key)) })
    }

    /// Presents another certificate from the next connection on.
    ///
    /// # Errors
    /// When certificate and key cannot be used. The old certificate stays in use.
    pub fn replace(&self, pem: KeyedCertificate) -> Result<(), PkiError> {
        let key = certified(&pem)?;
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = (pem, key);
        Ok(())
    }

    /// Replaces the certificate if it must be; the new one is to be kept.
    ///
    /// # Errors
    /// When the authority cannot issue it. The old certificate stays in use.
    pub fn renew(
        &self,
        authority: &Authority,
        sans: &BTreeSet<String>,
        now: Timestamp,
    ) -> Result<Option<KeyedCertificate>, PkiError> {
        if !needs_renewal(&self.keyed(), authority, sans, now) {
            return Ok(None);
        }
        let pem = authority.issue_serving(sans, now)?;
        let key = certified(&pem)?;
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = (pem.clone(), key);
        Ok(Some(pem))
    }

    /// The certificate in use.
    pub fn keyed(&self) -> KeyedCertificate {
        self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner).0.clone()
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner).1.clone())
    }
}

fn certified(pem: &KeyedCertificate) -> Result<Arc<CertifiedKey>, PkiError> {
    let parse = |e: rustls::pki_types::pem::Error| PkiError::Parse(e.to_string());
    let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(parse)?;
    if chain.is_empty() {
        return Err(PkiError::Parse("there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).map_err(parse)?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Arc::new(certified))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use rustls::{
        RootCertStore,
        pki_types::UnixTime,
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    };

    use super::*;

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    fn sans(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn verifier(authority: &Authority) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap()
    }

    fn verify(authority: &Authority, certificate: &str, at: Timestamp) -> Result<(), rustls::Error> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second() as u64));
        verifier(authority).verify_client_cert(&der, &[], at).map(drop)
    }

    #[test]
    fn a_client_certificate_carries_its_user_and_every_group_and_verifies() {
        let authority = Authority::generate("test", now()).unwrap();
        let subject =
            Subject { name: "bob".into(), groups: vec!["dev".into(), "ops".into(), "dev:ü".into()] };
        let issued = authority.issue_client(&subject, SignedDuration::from_hours(1), now()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        let (read, until) = read_certificate(&der).unwrap();
        assert_eq!(read, subject);
        assert_eq!(until, now().as_second() + 3600);
        verify(&authority, &issued.certificate, now()).unwrap();
        assert!(verify(&authority, &issued.certificate, now() + SignedDuration::from_hours(2)).is_err());
        let other = Authority::generate("test", now()).unwrap();
        assert!(verify(&other, &issued.certificate, now()).is_err());
        let serving = authority.issue_serving(&sans(&["localhost"]), now()).unwrap();
        assert!(
            verify(&authority, &serving.certificate, now()).is_err(),
            "a serving certificate is no client's"
        );
    }

    #[test]
    fn a_certificate_beyond_2050_verifies() {
        let authority = Authority::generate("test", "2049-12-01T00:00:00Z".parse().unwrap()).unwrap();
        let at: Timestamp = "2050-06-01T00:00:00Z".parse().unwrap();
        let subject = Subject { name: "bob".into(), groups: vec![] };
        let issued = authority.issue_client(&subject, SignedDuration::from_hours(24 * 30), at).unwrap();
        verify(&authority, &issued.certificate, at).unwrap();
    }

    #[test]
    fn an_authority_read_again_issues_certificates_that_the_first_verifies() {
        let authority = Authority::generate("test", now()).unwrap();
        let again = Authority::read(authority.keyed().clone()).unwrap();
        let subject = Subject { name: "bob".into(), groups: vec![] };
        let issued = again.issue_client(&subject, SignedDuration::from_hours(1), now()).unwrap();
        verify(&authority, &issued.certificate, now()).unwrap();
        let kept = again.issue_serving(&sans(&["localhost"]), now()).unwrap();
        assert!(!needs_renewal(&kept, &authority, &sans(&["localhost"]), now()));
    }

    #[test]
    fn a_serving_certificate_is_replaced_when_its_names_its_authority_or_its_time_demand_it() {
        let authority = Authority::generate("test", now()).unwrap();
        let names = sans(&["localhost", "127.0.0.1", "::1"]);
        let serving = ServingCertificate::open(&authority, None, &names, now()).unwrap();
        let kept = serving.keyed();
        let same = ServingCertificate::open(&authority, Some(kept.clone()), &names, now()).unwrap();
        assert_eq!(same.keyed().certificate, kept.certificate);
        assert!(serving.renew(&authority, &names, now()).unwrap().is_none());
        let late = now() + SERVING_VALIDITY - SERVING_RENEWAL + SignedDuration::from_hours(1);
        assert!(needs_renewal(&kept, &authority, &names, late));
        assert!(needs_renewal(&kept, &authority, &sans(&["localhost"]), now()));
        assert!(needs_renewal(&kept, &Authority::generate("test", now()).unwrap(), &names, now()));
        let renewed = serving.renew(&authority, &sans(&["example.org"]), now()).unwrap().unwrap();
        assert_eq!(serving.keyed().certificate, renewed.certificate);
    }

    #[test]
    fn a_request_is_signed_for_exactly_its_subject_and_key() {
        let authority = Authority::generate("test", now()).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "alice");
        parameters.distinguished_name.push(DnType::OrganizationName, "dev");
        let request = parameters.serialize_request(&key).unwrap().pem().unwrap();
        let request = Request::parse(request.as_bytes()).unwrap();
        assert!(!request.asks_for_more_than_a_client_certificate());
        let issued = authority.sign_request(&request, true, SignedDuration::from_hours(1), now()).unwrap();
        verify(&authority, &issued, now()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.as_bytes()).unwrap();
        let (subject, _) = read_certificate(&der).unwrap();
        assert_eq!(subject, Subject { name: "alice".into(), groups: vec!["dev".into()] });
    }

    #[test]
    fn a_request_is_only_for_a_subject_if_it_says_nothing_else() {
        let subject = Subject { name: "a".into(), groups: vec!["g".into()] };
        let made = |edit: fn(&mut CertificateParams)| {
            let mut parameters = CertificateParams::new(Vec::new()).unwrap();
            parameters.distinguished_name.push(DnType::CommonName, "a");
            parameters.distinguished_name.push(DnType::OrganizationName, "g");
            edit(&mut parameters);
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let request = parameters.serialize_request(&key).unwrap().pem().unwrap();
            let request = Request::parse(request.as_bytes()).unwrap();
            assert_eq!(request.public_key(), rcgen::PublicKeyData::subject_public_key_info(&key));
            request
        };
        assert!(made(|_| ()).is_only_for(&subject));
        for edit in [
            |p: &mut CertificateParams| p.distinguished_name.push(DnType::CommonName, "b"),
            |p: &mut CertificateParams| p.distinguished_name.push(DnType::OrganizationName, "h"),
            |p: &mut CertificateParams| p.distinguished_name.push(DnType::OrganizationalUnitName, "u"),
            |p: &mut CertificateParams| {
                p.subject_alt_names.push(SanType::DnsName("a.example".try_into().unwrap()));
            },
            |p: &mut CertificateParams| p.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
            |p: &mut CertificateParams| p.is_ca = IsCa::ExplicitNoCa,
        ] {
            assert!(!made(edit).is_only_for(&subject));
        }
    }

    #[test]
    fn a_request_that_is_tampered_with_or_asks_for_more_is_recognised() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut parameters = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "alice");
        let request = parameters.serialize_request(&key).unwrap();
        assert!(
            Request::parse(request.pem().unwrap().as_bytes())
                .unwrap()
                .asks_for_more_than_a_client_certificate()
        );
        let mut der = request.der().to_vec();
        let at = der.windows(5).position(|w| w == b"alice").unwrap();
        der[at] = b'A';
        assert!(Request::parse(pem("CERTIFICATE REQUEST", &der).as_bytes()).is_err());
        assert!(Request::parse(b"").is_err());
        assert!(Request::parse(pem("CERTIFICATE", request.der()).as_bytes()).is_err());
    }

    #[test]
    fn debug_output_shows_no_key() {
        let authority = Authority::generate("test", now()).unwrap();
        let serving = ServingCertificate::open(&authority, None, &sans(&["localhost"]), now()).unwrap();
        let shown = format!("{authority:?} {serving:?} {:?}", authority.keyed());
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }
}
