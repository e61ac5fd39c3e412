//! Who an agent is: read from its certificate and from nothing else, and what it may ask to be certified for
//! (`spec/security-checklist.md`, lines 9 and 12).

use hansa_access::route::is_cluster_name;
use hansa_listener::pki::{Request, Subject, public_key, read_certificate};
use hansa_machinery::Status;
use hansa_tunnel::handshake::{ORGANISATION, agent_name, cluster_of};
use jiff::Timestamp;

/// What the SubjectPublicKeyInfo of a P-256 key begins with (RFC 5480 §2); the point follows, uncompressed.
const P256: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// An agent that has shown its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    /// Its cluster.
    pub(crate) cluster: String,
    /// Its key (SubjectPublicKeyInfo, DER).
    pub(crate) key: Vec<u8>,
    /// When its certificate ends.
    pub(crate) until: Timestamp,
}

fn subject(cluster: &str) -> Subject {
    Subject { name: agent_name(cluster), groups: vec![ORGANISATION.to_owned()] }
}

/// Whose certificate this is. Its chain, its usage and its time were checked when TLS was shaken hands on.
pub(crate) fn agent(certificate: Option<&[u8]>) -> Result<Agent, Status> {
    let refused = |why: &str| Status { message: why.to_owned(), ..Status::unauthorized() };
    let der = certificate.ok_or_else(|| {
        refused("an agent shows the certificate it got when it joined; one that has none joins first")
    })?;
    let read = read_certificate(der).and_then(|(subject, until)| Ok((subject, until, public_key(der)?)));
    let (shown, until, key) = read.map_err(|_| refused("the certificate cannot be read"))?;
    let cluster = cluster_of(&shown.name).filter(|cluster| is_cluster_name(cluster));
    match cluster {
        Some(cluster) if shown == subject(cluster) => Ok(Agent {
            cluster: cluster.to_owned(),
            key,
            until: Timestamp::from_second(until).map_err(|_| refused("the certificate cannot be read"))?,
        }),
        _ => Err(refused("the certificate is not one of an agent")),
    }
}

/// Checks a certificate request in full: its signature, its key, and that it says the agent of `cluster` and nothing beside.
pub(crate) fn requested(pem: &str, cluster: &str) -> Result<Request, Status> {
    let request = Request::parse(pem.as_bytes()).map_err(|error| Status::bad_request(error.to_string()))?;
    if !request.is_only_for(&subject(cluster)) {
        return Err(Status::bad_request(format!(
            "a certificate request of this agent has the subject O={ORGANISATION}, CN={} and asks for nothing else",
            agent_name(cluster)
        )));
    }
    if !request.public_key().starts_with(&P256) {
        return Err(Status::bad_request("the key of an agent is one on the curve P-256"));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use hansa_listener::pki::Authority;
    use jiff::SignedDuration;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    fn csr(name: &str, group: &str, algorithm: &'static rcgen::SignatureAlgorithm, sans: &[&str]) -> String {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::OrganizationName, group);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let names = sans.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
        parameters.subject_alt_names.extend(names);
        parameters.serialize_request(&key).unwrap().pem().unwrap()
    }

    /// Line 9: the request is checked in full.
    #[test]
    fn a_request_says_the_agent_of_its_cluster_and_nothing_else() {
        let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
        let good = csr("hansa:agent:m1", "hansa:agents", p256, &[]);
        assert!(requested(&good, "m1").is_ok());
        for bad in [
            csr("hansa:agent:m2", "hansa:agents", p256, &[]),
            csr("hansa:agent:m1", "hansa:admins", p256, &[]),
            csr("hansa:agent:m1", "system:masters", p256, &[]),
            csr("hansa:agent:m1", "hansa:agents", p256, &["tower.example"]),
            csr("hansa:agent:m1", "hansa:agents", &rcgen::PKCS_ECDSA_P384_SHA384, &[]),
            good.replacen('B', "C", 1),
            format!("{good}{good}"),
            String::new(),
        ] {
            assert_eq!(requested(&bad, "m1").err().map(|status| status.code), Some(400), "{bad}");
        }
    }

    /// Line 12: a certificate is of one cluster.
    #[test]
    fn a_certificate_names_its_cluster_or_nobody() {
        let now = Timestamp::now();
        let authority = Authority::generate("tower", now).unwrap();
        let shown = |name: &str, groups: &[&str]| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            let subject = Subject { name: name.to_owned(), groups };
            let issued = authority.issue_client(&subject, SignedDuration::from_hours(1), now).unwrap();
            agent(Some(&CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()))
        };
        let m1 = shown("hansa:agent:m1", &["hansa:agents"]).unwrap();
        assert_eq!((m1.cluster.as_str(), m1.until.as_second()), ("m1", now.as_second() + 3600));
        for (name, groups) in [
            ("hansa:agent:m1", &[][..]),
            ("hansa:agent:m1", &["hansa:agents", "hansa:admins"]),
            ("hansa:agent:../m1", &["hansa:agents"]),
            ("hansa:agent:", &["hansa:agents"]),
            ("m1", &["hansa:agents"]),
        ] {
            assert_eq!(shown(name, groups).unwrap_err().code, 401, "{name} {groups:?}");
        }
        assert_eq!(agent(None).unwrap_err().code, 401);
        assert_eq!(agent(Some(b"x")).unwrap_err().code, 401);
    }
}
