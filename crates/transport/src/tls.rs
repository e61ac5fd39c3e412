//! TLS to an API server: which authorities are trusted, and which checks are left out on the user's word (`spec/kubefed.md §2.2`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::credential::Identity;

/// How a server's certificate is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that are trusted, PEM; those of the system if there are none.
    pub ca: Option<Vec<u8>>,
    /// No check at all.
    pub insecure: bool,
    /// The name in the certificate may be any.
    pub skip_name: bool,
    /// The certificate may be outside its period.
    pub skip_validity: bool,
    /// The name that the certificate is checked for, where it is not the host that is dialled.
    pub server_name: Option<String>,
}

/// Why TLS cannot be set up.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TlsError {
    /// The CA bundle has no certificate.
    #[error(
        "the CA bundle holds no certificate that can be read; give PEM, beginning with -----BEGIN CERTIFICATE-----"
    )]
    NoAuthority,
    /// There is neither a CA bundle nor a system store.
    #[error(
        "no CA is given and this system has none of its own; give the CA of the cluster (certificate-authority-data, caBundle)"
    )]
    NoSystemStore,
    /// The client certificate cannot be used.
    #[error("the client certificate or its key cannot be used: {0}; both must be PEM and belong together")]
    Identity(String),
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

fn authorities(ca: Option<&[u8]>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            let found = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
            let (added, _) = roots.add_parsable_certificates(found);
            if added == 0 {
                return Err(TlsError::NoAuthority);
            }
        }
        None => {
            let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if added == 0 {
                return Err(TlsError::NoSystemStore);
            }
        }
    }
    Ok(roots)
}

/// The configuration of a client; `alpn` are the protocols it offers.
pub(crate) fn config(
    tls: &Tls,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if tls.insecure {
        Arc::new(Verifier { checks: Checks::None, provider: provider.clone() })
    } else {
        let roots = Arc::new(authorities(tls.ca.as_deref())?);
        if tls.skip_name {
            Arc::new(Verifier {
                checks: Checks::Chain { roots, skip_validity: tls.skip_validity },
                provider: provider.clone(),
            })
        } else {
            let full = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|error| TlsError::Setup(error.to_string()))?;
            if tls.skip_validity {
                Arc::new(Verifier { checks: Checks::AnyTime(full), provider: provider.clone() })
            } else {
                full
            }
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain: Vec<_> =
                CertificateDer::pem_slice_iter(&identity.certificate).filter_map(Result::ok).collect();
            if chain.is_empty() {
                return Err(TlsError::Identity("there is no certificate in it".to_owned()));
            }
            let key = PrivateKeyDer::from_pem_slice(&identity.key)
                .map_err(|_| TlsError::Identity("there is no private key in it".to_owned()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| TlsError::Identity(error.to_string()))?
        }
    };
    // A store of sessions is made for hundreds of servers; this is for one, whose connections last.
    config.resumption = Resumption::in_memory_sessions(2);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// When the first certificate in `pem` ends.
pub fn certificate_expiry(pem: &[u8]) -> Option<SystemTime> {
    let certificate = CertificateDer::pem_slice_iter(pem).find_map(Result::ok)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The checks that are not the whole of them.
#[derive(Debug)]
enum Checks {
    None,
    Chain { roots: Arc<RootCertStore>, skip_validity: bool },
    AnyTime(Arc<WebPkiServerVerifier>),
}

#[derive(Debug)]
struct Verifier {
    checks: Checks,
    provider: Arc<CryptoProvider>,
}

/// A moment at which the certificate is valid: just after its beginning.
fn within_period(certificate: &CertificateDer<'_>) -> Result<UnixTime, rustls::Error> {
    let bad = rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| bad.clone())?;
    let begin = u64::try_from(parsed.validity().not_before.timestamp()).map_err(|_| bad)?;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(begin.saturating_add(1))))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.checks {
            Checks::None => Ok(ServerCertVerified::assertion()),
            Checks::Chain { roots, skip_validity } => {
                let now = if *skip_validity { within_period(end_entity)? } else { now };
                let parsed = ParsedCertificate::try_from(end_entity)?;
                let algorithms = self.provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
                Ok(ServerCertVerified::assertion())
            }
            Checks::AnyTime(full) => {
                let now = within_period(end_entity)?;
                full.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
