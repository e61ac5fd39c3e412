//! CertificateSigningRequests: who may ask, approve and sign, and what is signed for
//! `kubernetes.io/kube-apiserver-client`.

use base64::{Engine, engine::general_purpose::STANDARD};
use hansa_listener::pki::{Authority, Request};
use hansa_machinery::{Status, status::Cause};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    escalation::Write,
    rbac::{Attributes, Policy, Target},
    user::MASTERS,
};

/// The API group.
pub(crate) const GROUP: &str = "certificates.k8s.io";
/// The resource.
pub(crate) const RESOURCE: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MAX_VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 365);
const MIN_VALIDITY: SignedDuration = SignedDuration::from_mins(10);

/// Puts into a request what only the server may say: who asks, and that nothing is decided yet; and keeps an update to
/// what its subresource is about.
pub(crate) fn prepare(write: &Write<'_>, now: Timestamp) -> Value {
    let mut new = write.new.clone();
    let Some(old) = write.old else {
        let spec = &mut new["spec"];
        if !spec.is_object() {
            return new;
        }
        let user = write.user.to_value();
        for field in ["username", "uid", "groups", "extra"] {
            match user.get(field) {
                Some(value) => spec[field] = value.clone(),
                None => drop(spec.as_object_mut().map(|spec| spec.remove(field))),
            }
        }
        new["status"] = json!({});
        return new;
    };
    new["spec"] = old["spec"].clone();
    match write.subresource {
        "status" => {
            // What was decided is not the signer's to change.
            let decided: Vec<Value> = conditions(old).filter(|c| is_decision(c)).cloned().collect();
            for condition in new["status"]["conditions"].as_array_mut().into_iter().flatten() {
                if let Some(was) = decided.iter().find(|was| was["type"] == condition["type"]) {
                    *condition = was.clone();
                }
            }
        }
        "approval" => {
            let conditions = new["status"]["conditions"].take();
            new["status"] = old["status"].clone();
            if !new["status"].is_object() {
                new["status"] = json!({});
            }
            new["status"]["conditions"] = conditions;
        }
        _ => {
            new["status"] = old["status"].clone();
            return new;
        }
    }
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for condition in new["status"]["conditions"].as_array_mut().into_iter().flatten() {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = time.as_str().into();
        }
        if condition["lastTransitionTime"].is_null() {
            let same =
                |was: &&Value| was["type"] == condition["type"] && was["status"] == condition["status"];
            let since = conditions(old).find(same).map(|was| was["lastTransitionTime"].clone());
            condition["lastTransitionTime"] =
                since.filter(Value::is_string).unwrap_or_else(|| time.as_str().into());
        }
    }
    new
}

/// Refuses requests that are no requests or ask for mastery, and decisions by those who may not decide.
///
/// # Errors
/// 403 and 422.
pub(crate) fn admit(policy: &Policy, write: &Write<'_>) -> Result<(), Status> {
    let name = write.new["metadata"]["name"].as_str().unwrap_or(write.name);
    let forbidden = |why: &str| Status::forbidden(GROUP, RESOURCE, name, why);
    let invalid = |reason, field: &str, message: String| {
        let cause = Cause { reason, field: field.to_owned(), message };
        Status::invalid(GROUP, "CertificateSigningRequest", name, vec![cause])
    };
    let Some(old) = write.old else {
        let request = parse(write.new)
            .map_err(|why| invalid("FieldValueInvalid", "spec.request", format!("Invalid value: {why}")))?;
        if write.new["spec"]["signerName"] == CLIENT_SIGNER {
            let subject = request.subject().map_err(|e| forbidden(&format!("failed to parse CSR: {e}")))?;
            if subject.groups.iter().any(|group| group == MASTERS) {
                return Err(forbidden(&format!(
                    "use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"
                )));
            }
        }
        return Ok(());
    };
    let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
    let may = |verb: &str| {
        let any = format!("{}/*", signer.split('/').next().unwrap_or_default());
        [signer, &any].into_iter().any(|name| {
            let target =
                Target::Resource { group: GROUP, resource: "signers", subresource: "", namespace: "", name };
            policy.authorize(&Attributes { user: write.user, verb, target }).allowed
        })
    };
    let protected =
        |why: &str| invalid("FieldValueForbidden", "status.conditions", format!("Forbidden: {why}"));
    for kind in ["Approved", "Denied", "Failed"] {
        let of = |object| conditions(object).filter(move |c| c["type"] == kind).count();
        if of(write.new) < of(old) {
            return Err(protected(&format!("updates may not remove a condition of type {kind:?}")));
        }
        if write.subresource != "approval" && kind != "Failed" && of(write.new) > of(old) {
            return Err(protected(&format!("updates may not add a condition of type {kind:?}")));
        }
    }
    let has = |object, kind: &str| conditions(object).any(|c| c["type"] == kind);
    if has(write.new, "Approved") && has(write.new, "Denied") {
        let why =
            "Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive".to_owned();
        return Err(invalid("FieldValueInvalid", "status.conditions", why));
    }
    let (was, is) = (&old["status"]["certificate"], &write.new["status"]["certificate"]);
    if was != is && (write.subresource != "status" || was.is_string()) {
        let why = "Forbidden: updates may not modify existing certificate content".to_owned();
        return Err(invalid("FieldValueForbidden", "status.certificate", why));
    }
    match write.subresource {
        "approval" if !may("approve") => {
            Err(forbidden(&format!("user not permitted to approve requests with signerName {signer:?}")))
        }
        "status" if (was != is || !conditions(old).eq(conditions(write.new))) && !may("sign") => {
            Err(forbidden(&format!("user not permitted to sign requests with signerName {signer:?}")))
        }
        _ => Ok(()),
    }
}

/// The status of a request that is ours to sign and was approved: with its certificate, or why there is none.
pub(crate) fn sign(request: &Value, authority: &Authority, now: Timestamp) -> Option<Value> {
    let has = |kind: &str| conditions(request).any(|c| c["type"] == kind && c["status"] == "True");
    let ours = request["spec"]["signerName"] == CLIENT_SIGNER;
    let open =
        has("Approved") && !has("Denied") && !has("Failed") && !request["status"]["certificate"].is_string();
    if !ours || !open {
        return None;
    }
    let mut status = request["status"].clone();
    match certificate(request, authority, now) {
        Ok(certificate) => status["certificate"] = STANDARD.encode(certificate).into(),
        Err(why) => {
            let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let failed = json!({
                "type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why,
                "lastUpdateTime": time, "lastTransitionTime": time,
            });
            status["conditions"].as_array_mut()?.push(failed);
        }
    }
    Some(status)
}

fn certificate(request: &Value, authority: &Authority, now: Timestamp) -> Result<String, String> {
    let spec = &request["spec"];
    let usages: Vec<&str> =
        spec["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if let Some(foreign) = usages.iter().find(|usage| !allowed.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {foreign}"));
    }
    if !usages.contains(&"client auth") {
        return Err("missing required usage for client certificate: client auth".to_owned());
    }
    let wanted = parse(request)?;
    // Checked when it was created as well; whoever changed the stored object since gains nothing.
    let subject = wanted.subject().map_err(|e| e.to_string())?;
    if subject.groups.iter().any(|group| group == MASTERS) {
        return Err(format!("the group {MASTERS} cannot be certified"));
    }
    if wanted.asks_for_more_than_a_client_certificate() {
        return Err(
            "the request asks for names, usages or authority that a client certificate has not".to_owned()
        );
    }
    let validity = match spec["expirationSeconds"].as_i64() {
        Some(seconds) => SignedDuration::from_secs(seconds).clamp(MIN_VALIDITY, MAX_VALIDITY),
        None => MAX_VALIDITY,
    };
    let encipherment = usages.contains(&"key encipherment");
    authority.sign_request(&wanted, encipherment, validity, now).map_err(|e| e.to_string())
}

fn parse(request: &Value) -> Result<Request, String> {
    let pem = request["spec"]["request"].as_str().and_then(|text| STANDARD.decode(text).ok());
    Request::parse(&pem.ok_or("the request is not base64")?).map_err(|e| e.to_string())
}

fn conditions(request: &Value) -> impl Iterator<Item = &Value> {
    request["status"]["conditions"].as_array().into_iter().flatten()
}

fn is_decision(condition: &Value) -> bool {
    condition["type"] == "Approved" || condition["type"] == "Denied"
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use hansa_listener::pki::read_certificate;

    use super::*;
    use crate::auth::{User, rbac::Kind};

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    fn csr(name: &str, group: &str, sans: &[&str], usages: &[&str]) -> Value {
        let sans: Vec<String> = sans.iter().map(|san| (*san).to_owned()).collect();
        let mut parameters = CertificateParams::new(sans).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.distinguished_name.push(DnType::OrganizationName, group);
        let pem = parameters.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        json!({
            "metadata": {"name": "r"},
            "spec": {"signerName": CLIENT_SIGNER, "usages": usages, "request": STANDARD.encode(pem), "expirationSeconds": 3600},
        })
    }

    fn approved(mut csr: Value) -> Value {
        csr["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]);
        csr
    }

    fn write<'a>(user: &'a User, subresource: &'a str, new: &'a Value, old: Option<&'a Value>) -> Write<'a> {
        Write { user, group: GROUP, resource: RESOURCE, subresource, namespace: "", name: "r", new, old }
    }

    #[test]
    fn an_approved_request_is_signed_for_what_it_asks() {
        let authority = Authority::generate("test", now()).unwrap();
        let request = approved(csr("bob", "dev", &[], &["client auth", "digital signature"]));
        let status = sign(&request, &authority, now()).unwrap();
        let pem = STANDARD.decode(status["certificate"].as_str().unwrap()).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        let (subject, until) = read_certificate(&block.contents).unwrap();
        assert_eq!((subject.name.as_str(), &subject.groups[..]), ("bob", &["dev".to_owned()][..]));
        assert_eq!(until, now().as_second() + 3600);
    }

    #[test]
    fn only_open_requests_for_our_signer_are_looked_at() {
        let authority = Authority::generate("test", now()).unwrap();
        let request = csr("bob", "dev", &[], &["client auth"]);
        assert_eq!(sign(&request, &authority, now()), None);
        for (field, value) in [
            ("/spec/signerName", json!("kubernetes.io/kubelet-serving")),
            (
                "/status/conditions",
                json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]),
            ),
            (
                "/status/conditions",
                json!([{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]),
            ),
            ("/status/conditions", json!([{"type": "Approved", "status": "False"}])),
        ] {
            let mut request = approved(request.clone());
            *request.pointer_mut(field).unwrap() = value;
            assert_eq!(sign(&request, &authority, now()), None, "{request}");
        }
        let mut signed = approved(request);
        signed["status"]["certificate"] = json!("x");
        assert_eq!(sign(&signed, &authority, now()), None);
    }

    #[test]
    fn an_approved_request_that_asks_for_too_much_fails() {
        let authority = Authority::generate("test", now()).unwrap();
        for request in [
            csr("bob", MASTERS, &[], &["client auth"]),
            csr("bob", "dev", &["evil.example"], &["client auth"]),
            csr("bob", "dev", &[], &["client auth", "server auth"]),
            csr("bob", "dev", &[], &["digital signature"]),
            csr("", "dev", &[], &["client auth"]),
        ] {
            let status = sign(&approved(request), &authority, now()).unwrap();
            assert!(status["certificate"].is_null());
            assert_eq!(status["conditions"][1]["type"], "Failed");
        }
    }

    #[test]
    fn nobody_asks_in_another_s_name_or_for_mastery() {
        let bob = User::new("bob", ["dev"]);
        let mut request = csr("x", "dev", &[], &["client auth"]);
        request["spec"]["username"] = json!("admin");
        request["spec"]["uid"] = json!("0");
        request["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        let prepared = prepare(&write(&bob, "", &request, None), now());
        assert_eq!(
            (&prepared["spec"]["username"], &prepared["spec"]["groups"]),
            (&json!("bob"), &json!(["dev"]))
        );
        assert_eq!((&prepared["spec"]["uid"], &prepared["status"]), (&Value::Null, &json!({})));
        let policy = Policy::default();
        admit(&policy, &write(&bob, "", &prepared, None)).unwrap();
        let mastery = csr("x", MASTERS, &[], &["client auth"]);
        assert_eq!(admit(&policy, &write(&bob, "", &mastery, None)).unwrap_err().code, 403);
        request["spec"]["request"] = json!("bm90IGEgcmVxdWVzdA==");
        assert_eq!(admit(&policy, &write(&bob, "", &request, None)).unwrap_err().code, 422);
    }

    #[test]
    fn approving_and_signing_need_the_signer_s_permission() {
        let mut policy = Policy::default();
        for (user, verb, signer) in [("ann", "approve", CLIENT_SIGNER), ("sam", "sign", "kubernetes.io/*")] {
            let rule = json!({"apiGroups": [GROUP], "resources": ["signers"], "resourceNames": [signer], "verbs": [verb]});
            let role = json!({"rules": [rule]}).to_string();
            policy.put(Kind::ClusterRole, "", user, role.as_bytes()).unwrap();
            let binding = json!({"roleRef": {"kind": "ClusterRole", "name": user}, "subjects": [{"kind": "User", "name": user}]});
            policy.put(Kind::ClusterRoleBinding, "", user, binding.to_string().as_bytes()).unwrap();
        }
        let old = csr("x", "dev", &[], &["client auth"]);
        let yes = approved(old.clone());
        let mut signed = yes.clone();
        signed["status"]["certificate"] = json!("YQ==");
        for user in ["ann", "sam", "eve"] {
            let user = User::new(user, [""; 0]);
            let allowed = |subresource, new: &Value, old: &Value| {
                admit(&policy, &write(&user, subresource, new, Some(old))).is_ok()
            };
            assert_eq!(allowed("approval", &yes, &old), user.name == "ann");
            assert_eq!(allowed("status", &signed, &yes), user.name == "sam");
            assert!(!allowed("status", &yes, &old), "nobody approves through status");
            assert!(!allowed("", &yes, &old));
            assert!(!allowed("approval", &signed, &yes), "nor signs through approval");
            assert!(!allowed("approval", &old, &yes), "what was decided stays decided");
        }
    }

    #[test]
    fn an_update_keeps_to_its_subresource() {
        let bob = User::new("bob", [""; 0]);
        let old = approved(csr("x", "dev", &[], &["client auth"]));
        let mut new = csr("y", "ops", &[], &["client auth"]);
        new["status"] =
            json!({"certificate": "YQ==", "conditions": [{"type": "Approved", "status": "True"}]});
        let main = prepare(&write(&bob, "", &new, Some(&old)), now());
        assert_eq!((&main["spec"], &main["status"]), (&old["spec"], &old["status"]));
        let approval = prepare(&write(&bob, "approval", &new, Some(&old)), now());
        assert_eq!((&approval["spec"], &approval["status"]["certificate"]), (&old["spec"], &Value::Null));
        assert_eq!(approval["status"]["conditions"][0]["lastUpdateTime"], "2026-06-01T00:00:00Z");
        let status = prepare(&write(&bob, "status", &new, Some(&old)), now());
        assert_eq!((&status["spec"], &status["status"]["certificate"]), (&old["spec"], &json!("YQ==")));
    }
}
