//! Certificate requests and trust.

use jiff::SignedDuration;
use serde_json::Value;

use super::{AGE, Heading, NAME, Sheet, age, has, int, labels, list, text, text_or};
use crate::{duration, table::name_of};

pub(super) static CERTIFICATE_SIGNING_REQUEST: Sheet = Sheet::new(
    &[
        NAME,
        AGE,
        Heading::of("SignerName", "certificates.v1.CertificateSigningRequestSpec", "signerName"),
        Heading::of("Requestor", "certificates.v1.CertificateSigningRequestSpec", "request"),
        Heading::of(
            "RequestedDuration",
            "certificates.v1.CertificateSigningRequestSpec",
            "expirationSeconds",
        ),
        Heading::of("Condition", "certificates.v1.CertificateSigningRequestStatus", "conditions"),
    ],
    |object, now| {
        let requested = match has(object, "/spec/expirationSeconds") {
            true => duration::human(SignedDuration::from_secs(int(object, "/spec/expirationSeconds"))),
            false => "<none>".into(),
        };
        vec![
            name_of(object),
            age(object, now),
            text_or(object, "/spec/signerName", "<none>").into(),
            text(object, "/spec/username").into(),
            requested.into(),
            request_condition(object).into(),
        ]
        .into()
    },
);

fn request_condition(request: &Value) -> String {
    let has_type =
        |kind: &str| list(request, "/status/conditions").iter().any(|condition| condition["type"] == kind);
    let mut parts = vec![match (has_type("Denied"), has_type("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }];
    if has_type("Failed") {
        parts.push("Failed");
    }
    if !text(request, "/status/certificate").is_empty() {
        parts.push("Issued");
    }
    parts.join(",")
}

pub(super) static CLUSTER_TRUST_BUNDLE: Sheet = Sheet::new(
    &[NAME, Heading::of("SignerName", "certificates.v1.ClusterTrustBundleSpec", "signerName")],
    |object, _| vec![name_of(object), text_or(object, "/spec/signerName", "<none>").into()].into(),
);

pub(super) static POD_CERTIFICATE_REQUEST: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("PodName", "certificates.v1.PodCertificateRequestSpec", "podName"),
        Heading::of("ServiceAccountName", "certificates.v1.PodCertificateRequestSpec", "serviceAccountName"),
        Heading::of("NodeName", "certificates.v1.PodCertificateRequestSpec", "nodeName"),
        Heading::of("SignerName", "certificates.v1.PodCertificateRequestSpec", "signerName"),
        Heading::new("State", "Is the request Pending, Issued, Denied, or Failed?"),
        Heading::of(
            "UnverifiedUserAnnotations",
            "certificates.v1.PodCertificateRequestSpec",
            "unverifiedUserAnnotations",
        ),
    ],
    |object, _| {
        let conditions = list(object, "/status/conditions").iter().map(|condition| text(condition, "/type"));
        let state = conditions.rev().find(|kind| matches!(*kind, "Issued" | "Denied" | "Failed"));
        vec![
            name_of(object),
            text(object, "/spec/podName").into(),
            text(object, "/spec/serviceAccountName").into(),
            text(object, "/spec/nodeName").into(),
            text(object, "/spec/signerName").into(),
            state.unwrap_or("Pending").into(),
            labels(&object["spec"]["unverifiedUserAnnotations"]).into(),
        ]
        .into()
    },
);
