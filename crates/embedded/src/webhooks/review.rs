//! The question to a webhook and its answer: `admission.k8s.io` `AdmissionReview`. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use hansa_machinery::{
    Status,
    json_patch::{self, Operation as Step},
    status::Cause,
};
use serde_json::{Value, json};

/// A group, a version and a kind or a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) what: String,
}

impl Name {
    pub(crate) fn to_value(&self, key: &str) -> Value {
        json!({"group": self.group, "version": self.version, key: self.what})
    }
}

/// What a webhook says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// Why the request is denied, if it is.
    pub(crate) denial: Option<Status>,
    /// What it changes.
    pub(crate) patch: Vec<Step>,
    /// What it wants the caller to be told.
    pub(crate) warnings: Vec<String>,
}

/// The body of the question.
pub(crate) fn question(version: &str, request: &Value) -> String {
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request})
        .to_string()
}

/// Reads the answer to the question with this `uid`. `v1` must be answered strictly, `v1beta1` never was.
pub(crate) fn answer(
    hook: &str,
    body: &[u8],
    version: &str,
    uid: &str,
    mutating: bool,
) -> Result<Answer, String> {
    let invalid = |why: String| format!("received invalid webhook response: {why}");
    let review: Value = serde_json::from_slice(body).map_err(|error| {
        format!("failed to call webhook: couldn't get version/kind; json parse error: {error}")
    })?;
    let response = &review["response"];
    if !response.is_object() {
        return Err(invalid("webhook response was absent".to_owned()));
    }
    let (patch, kind) = (response["patch"].as_str().unwrap_or_default(), response["patchType"].as_str());
    if version == "v1" {
        check(&review, uid, mutating).map_err(invalid)?;
    }
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let mut answer = Answer {
        warnings: warnings.filter_map(Value::as_str).map(str::to_owned).collect(),
        ..Answer::default()
    };
    if response["allowed"] != true {
        answer.denial = Some(denial(hook, &response["status"]));
        return Ok(answer);
    }
    if !mutating || patch.is_empty() {
        return Ok(answer);
    }
    if let Some(kind) = kind.filter(|kind| *kind != "JSONPatch") {
        return Err(format!("unsupported patch type {kind:?}"));
    }
    let undecodable = |why: String| format!("received undecodable patch in webhook response: {why}");
    let patch = STANDARD.decode(patch).map_err(|error| undecodable(error.to_string()))?;
    let patch: Value = serde_json::from_slice(&patch).map_err(|error| undecodable(error.to_string()))?;
    if !patch.is_null() {
        answer.patch = json_patch::parse(&patch).map_err(|error| undecodable(error.to_string()))?;
    }
    Ok(answer)
}

fn check(review: &Value, uid: &str, mutating: bool) -> Result<(), String> {
    let response = &review["response"];
    let given = response["uid"].as_str().unwrap_or_default();
    if given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let (api_version, kind) =
        (review["apiVersion"].as_str().unwrap_or_default(), review["kind"].as_str().unwrap_or_default());
    if (api_version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {api_version}, Kind={kind}"
        ));
    }
    let patch = response["patch"].as_str().is_some_and(|patch| !patch.is_empty());
    let kind = response["patchType"].as_str();
    let problem = match (mutating, patch, kind) {
        (true, true, None) => "webhook returned response.patch but not response.patchType",
        (true, false, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, true, Some("")) => "webhook returned invalid response.patchType of \"\"",
        (false, true, _) => "validating webhook may not return response.patch",
        (false, false, Some(_)) => "validating webhook may not return response.patchType",
        _ => return Ok(()),
    };
    Err(problem.to_owned())
}

/// The reasons of `metav1.StatusReason`. A webhook may give any other; clients know what to do with these.
const REASONS: [&str; 17] = [
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Gone",
    "Invalid",
    "ServerTimeout",
    "Timeout",
    "TooManyRequests",
    "BadRequest",
    "MethodNotAllowed",
    "NotAcceptable",
    "RequestEntityTooLarge",
    "UnsupportedMediaType",
    "InternalError",
    "ServiceUnavailable",
];
const CAUSES: [&str; 10] = [
    "FieldValueNotFound",
    "FieldValueRequired",
    "FieldValueDuplicate",
    "FieldValueInvalid",
    "FieldValueNotSupported",
    "FieldValueForbidden",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
    "InternalError",
];

/// The answer to a request that a webhook denied.
fn denial(hook: &str, result: &Value) -> Status {
    let known = |list: &[&'static str], reason: &Value| {
        list.iter().copied().find(|known| reason == *known).unwrap_or_default()
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let denied = format!("admission webhook {hook:?} denied the request");
    let (message, reason) = (text(&result["message"]), text(&result["reason"]));
    let message = match (message.as_str(), reason.as_str()) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    // No success may come with a refusal.
    let code = result["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..=599).contains(code)).unwrap_or(400);
    let mut status = Status::new(code, known(&REASONS, &result["reason"]), message);
    let details = &result["details"];
    status.group = text(&details["group"]);
    status.kind = text(&details["kind"]);
    status.name = text(&details["name"]);
    status.retry_after_seconds =
        details["retryAfterSeconds"].as_u64().and_then(|s| s.try_into().ok()).unwrap_or(0);
    let causes = details["causes"].as_array().into_iter().flatten();
    status.causes = causes
        .map(|cause| Cause {
            reason: known(&CAUSES, &cause["reason"]),
            field: text(&cause["field"]),
            message: text(&cause["message"]),
        })
        .collect();
    status
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn review(response: Value) -> Vec<u8> {
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})
            .to_string()
            .into_bytes()
    }

    fn refused(response: Value, mutating: bool) -> String {
        answer("a.b.c", &review(response), "v1", "7", mutating).expect_err("invalid")
    }

    #[test]
    fn a_denial_is_worded_as_kubernetes_words_it() {
        for (result, code, reason, message) in [
            (json!({"message": "no", "code": 403, "reason": "Forbidden"}), 403, "Forbidden", ": no"),
            (json!({"reason": "Odd"}), 400, "", ": Odd"),
            (json!({"code": 200, "status": "Success"}), 400, "", " without explanation"),
            (Value::Null, 400, "", " without explanation"),
        ] {
            let body = review(json!({"uid": "7", "allowed": false, "status": result}));
            let denial = answer("a.b.c", &body, "v1", "7", false).expect("valid").denial.expect("denied");
            assert_eq!((denial.code, denial.reason), (code, reason));
            assert_eq!(denial.message, format!("admission webhook \"a.b.c\" denied the request{message}"));
        }
    }

    #[test]
    fn an_answer_to_another_question_or_of_another_form_is_none() {
        assert!(
            refused(json!({"uid": "8", "allowed": true}), false)
                .contains("expected response.uid=\"7\", got \"8\"")
        );
        assert!(refused(Value::Null, false).contains("webhook response was absent"));
        let patched = json!({"uid": "7", "allowed": true, "patch": "W10="});
        assert!(refused(patched.clone(), true).contains("response.patch but not response.patchType"));
        assert!(refused(patched, false).contains("validating webhook may not return response.patch"));
        let typed = json!({"uid": "7", "allowed": true, "patch": "W10=", "patchType": "Merge"});
        assert_eq!(refused(typed, true), "unsupported patch type \"Merge\"");
        let odd = json!({"uid": "7", "allowed": true, "patch": "!", "patchType": "JSONPatch"});
        assert!(refused(odd, true).starts_with("received undecodable patch"));
    }

    #[test]
    fn patch_and_warnings_are_read() {
        let patch = STANDARD.encode(r#"[{"op": "add", "path": "/a", "value": 1}]"#);
        let body = review(
            json!({"uid": "7", "allowed": true, "patch": patch, "patchType": "JSONPatch", "warnings": ["w"]}),
        );
        let answer = answer("a.b.c", &body, "v1", "7", true).expect("valid");
        assert_eq!((answer.patch.len(), answer.warnings), (1, vec!["w".to_owned()]));
    }

    proptest! {
        #[test]
        fn nothing_but_an_explicit_yes_admits(body in ".{0,80}", allowed in prop_oneof![
            Just(Value::Null), Just(json!(false)), Just(json!("true")), Just(json!(1)), Just(json!([true]))]) {
            let _ = answer("a.b.c", body.as_bytes(), "v1", "7", true);
            let denied = answer("a.b.c", &review(json!({"uid": "7", "allowed": allowed})), "v1", "7", true);
            prop_assert!(denied.expect("valid").denial.is_some());
        }
    }
}
