//! What certificates and certificate requests say, and client certificates.
//!
//! Client certificates are encoded here because groups are repeated `O` attributes, which the certificate library
//! cannot express, and because a requested subject must be taken over byte for byte.

use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::ParsedExtension,
    pem::Pem,
    prelude::{FromDer, X509Certificate},
    x509::X509Name,
};
use yasna::{
    DERWriter, Tag, construct_der,
    models::{GeneralizedTime, ObjectIdentifier, UTCTime},
};

use super::PkiError;

/// The larger of these would only slow the parser down.
const REQUEST_LIMIT: usize = 64 * 1024;

/// The user that the subject of a certificate names, as Kubernetes reads it: `CN` the name, each `O` a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The user.
    pub name: String,
    /// Its groups.
    pub groups: Vec<String>,
}

impl Subject {
    fn read(name: &X509Name<'_>) -> Result<Self, &'static str> {
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            a.as_str().map(str::to_owned).map_err(|_| "an attribute is not text")
        };
        let names: Vec<String> = name.iter_common_name().map(text).collect::<Result<_, _>>()?;
        let groups = name.iter_organization().map(text).collect::<Result<_, _>>()?;
        match <[String; 1]>::try_from(names) {
            Ok([name]) if !name.is_empty() => Ok(Self { name, groups }),
            _ => Err("exactly one common name is needed"),
        }
    }

    /// The subject as a `Name`.
    fn encode(&self) -> Vec<u8> {
        construct_der(|w| {
            w.write_sequence(|w| {
                let mut attribute = |oid: &[u64], text: &str| {
                    w.next().write_set(|w| {
                        w.next().write_sequence(|w| {
                            w.next().write_oid(&ObjectIdentifier::from_slice(oid));
                            w.next().write_utf8_string(text);
                        });
                    });
                };
                self.groups.iter().for_each(|group| attribute(&[2, 5, 4, 10], group));
                attribute(&[2, 5, 4, 3], &self.name);
            });
        })
    }
}

/// The subject of a certificate and when it ends (seconds since 1970).
///
/// # Errors
/// When it is no certificate, or its subject names no user.
pub fn read_certificate(der: &[u8]) -> Result<(Subject, i64), PkiError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| PkiError::Parse(e.to_string()))?;
    let subject = Subject::read(certificate.subject()).map_err(PkiError::Subject)?;
    Ok((subject, certificate.validity().not_after.timestamp()))
}

/// The key that a certificate certifies (SubjectPublicKeyInfo, DER).
///
/// # Errors
/// When it is no certificate.
pub fn public_key(der: &[u8]) -> Result<Vec<u8>, PkiError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| PkiError::Parse(e.to_string()))?;
    Ok(certificate.public_key().raw.to_vec())
}

/// A certificate request whose signature proves that its sender holds the key.
pub struct Request {
    subject: Result<Subject, &'static str>,
    /// How many attributes the subject has, those that name neither user nor group among them.
    subject_length: usize,
    raw_subject: Vec<u8>,
    public_key: Vec<u8>,
    attributes: usize,
    foreign_extension: bool,
}

impl Request {
    /// Reads one PEM block `CERTIFICATE REQUEST`.
    ///
    /// # Errors
    /// What is wrong with it, or that its signature does not match.
    pub fn parse(pem: &[u8]) -> Result<Self, PkiError> {
        let bad = |what: &str| PkiError::Parse(what.to_owned());
        if pem.len() > REQUEST_LIMIT {
            return Err(bad("the request is too large"));
        }
        let mut blocks = Pem::iter_from_buffer(pem);
        let (Some(Ok(block)), None) = (blocks.next(), blocks.next()) else {
            return Err(bad("exactly one PEM block is needed"));
        };
        if block.label != "CERTIFICATE REQUEST" && block.label != "NEW CERTIFICATE REQUEST" {
            return Err(bad("PEM block type must be CERTIFICATE REQUEST"));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(&block.contents).map_err(|e| bad(&e.to_string()))?;
        if !rest.is_empty() {
            return Err(bad("bytes follow the request"));
        }
        request.verify_signature().map_err(|_| bad("the signature does not match"))?;
        let info = &request.certification_request_info;
        // A client certificate has no names but its subject and is no authority, so nothing else may be asked for.
        let allowed = |extension: &ParsedExtension<'_>| match extension {
            ParsedExtension::KeyUsage(_) => true,
            ParsedExtension::BasicConstraints(basic) => !basic.ca,
            ParsedExtension::ExtendedKeyUsage(eku) => {
                let foreign = eku.any
                    || eku.server_auth
                    || eku.code_signing
                    || eku.email_protection
                    || eku.time_stamping
                    || eku.ocsp_signing
                    || !eku.other.is_empty();
                eku.client_auth && !foreign
            }
            _ => false,
        };
        Ok(Self {
            subject: Subject::read(&info.subject),
            subject_length: info.subject.iter_attributes().count(),
            attributes: info.attributes().len(),
            raw_subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            foreign_extension: request.requested_extensions().is_some_and(|mut all| !all.all(allowed)),
        })
    }

    /// The user asked for.
    ///
    /// # Errors
    /// When the subject names none.
    pub fn subject(&self) -> Result<&Subject, PkiError> {
        self.subject.as_ref().map_err(|why| PkiError::Subject(why))
    }

    /// Whether it asks for exactly this subject and for nothing beside: no other attribute, no name, no extension.
    pub fn is_only_for(&self, subject: &Subject) -> bool {
        self.subject.as_ref() == Ok(subject)
            && self.subject_length == subject.groups.len() + 1
            && self.attributes == 0
    }

    /// The key to be certified (SubjectPublicKeyInfo, DER).
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Whether it asks for more than a client certificate has: other names, other usages, authority.
    pub fn asks_for_more_than_a_client_certificate(&self) -> bool {
        self.foreign_extension
    }
}

/// What a client certificate certifies.
pub(crate) struct Client {
    raw_subject: Vec<u8>,
    public_key: Vec<u8>,
    pub(crate) key_encipherment: bool,
}

impl Client {
    pub(crate) fn new(subject: &Subject, key: &KeyPair) -> Self {
        let public_key = key.subject_public_key_info();
        Self { raw_subject: subject.encode(), public_key, key_encipherment: false }
    }

    pub(crate) fn requested(request: &Request, key_encipherment: bool) -> Self {
        let Request { raw_subject, public_key, .. } = request;
        Self { raw_subject: raw_subject.clone(), public_key: public_key.clone(), key_encipherment }
    }

    /// Encodes and signs the certificate (RFC 5280 §4.1): a client of TLS and nothing else.
    pub(crate) fn sign(
        &self,
        issuer: &[u8],
        issuer_key_id: &[u8],
        key: &impl SigningKey,
        (not_before, not_after): (Timestamp, Timestamp),
    ) -> Result<Vec<u8>, PkiError> {
        // Positive, and not so small that encodings would differ.
        let mut serial: [u8; 16] = rand::random();
        serial[0] = serial[0] & 0x7f | 0x40;
        let body = construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
                w.next().write_bigint_bytes(&serial, true);
                algorithm(w.next());
                w.next().write_der(issuer);
                w.next().write_sequence(|w| {
                    time(w.next(), not_before);
                    time(w.next(), not_after);
                });
                w.next().write_der(&self.raw_subject);
                w.next().write_der(&self.public_key);
                w.next().write_tagged(Tag::context(3), |w| {
                    w.write_sequence(|w| {
                        extension(w.next(), 19, true, |w| w.write_sequence(|_| ()));
                        // digitalSignature, keyEncipherment
                        let (bits, count) = if self.key_encipherment { (0xa0, 3) } else { (0x80, 1) };
                        extension(w.next(), 15, true, |w| w.write_bitvec_bytes(&[bits], count));
                        extension(w.next(), 37, false, |w| {
                            w.write_sequence(|w| {
                                let client_auth = [1, 3, 6, 1, 5, 5, 7, 3, 2];
                                w.next().write_oid(&ObjectIdentifier::from_slice(&client_auth));
                            });
                        });
                        extension(w.next(), 35, false, |w| {
                            w.write_sequence(|w| {
                                w.next()
                                    .write_tagged_implicit(Tag::context(0), |w| w.write_bytes(issuer_key_id));
                            });
                        });
                    });
                });
            });
        });
        let signature = key.sign(&body)?;
        Ok(construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_der(&body);
                algorithm(w.next());
                w.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        }))
    }
}

/// ecdsa-with-SHA256
fn algorithm(w: DERWriter<'_>) {
    w.write_sequence(|w| w.next().write_oid(&ObjectIdentifier::from_slice(&[1, 2, 840, 10045, 4, 3, 2])));
}

fn extension(w: DERWriter<'_>, id: u64, critical: bool, value: impl FnOnce(DERWriter<'_>)) {
    w.write_sequence(|w| {
        w.next().write_oid(&ObjectIdentifier::from_slice(&[2, 5, 29, id]));
        if critical {
            w.next().write_bool(true);
        }
        w.next().write_bytes(&construct_der(value));
    });
}

/// Times before 2050 are `UTCTime`, others `GeneralizedTime` (RFC 5280 §4.1.2.5).
fn time(w: DERWriter<'_>, at: Timestamp) {
    let text = at.strftime("%Y%m%d%H%M%SZ").to_string();
    match UTCTime::parse(text.as_bytes().get(2..).unwrap_or_default()) {
        Some(utc) if text.as_str() < "2050" => w.write_utctime(&utc),
        _ => {
            if let Some(general) = GeneralizedTime::parse(text.as_bytes()) {
                w.write_generalized_time(&general);
            }
        }
    }
}
