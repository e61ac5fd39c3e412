//! What a member's refusal means: what to tell, and when trying again may help.

use std::time::Duration;

use hansa_machinery::fields::{Element, Set};
use kube::core::Status;

use crate::report::{Failure, Retry};
use crate::status::Word;

/// The longest pause that a member may ask for.
const LONGEST: Duration = Duration::from_secs(300);

/// What to do about a field that cannot be changed.
pub(super) const ADVICE: &str = "; take the change back, or annotate the federated object with kubefed.io/recreate=true to have the object \
                                 deleted and created anew";

/// Why a copy is not written.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is not to be, or cannot be.
    Failed(Failure),
    /// The member would not have it, or did not answer.
    Refused(Refused),
}

/// What a member said to a request.
#[derive(Debug)]
pub(super) struct Refused {
    /// What is reported.
    pub(super) word: Word,
    /// What it was asked to do, as in "cannot … the object".
    pub(super) what: &'static str,
    /// The type that it was asked for, as in `apps/v1 Deployment`.
    pub(super) of: String,
    /// What it said.
    pub(super) error: kube::Error,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl Trouble {
    /// The HTTP status of a refusal.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Failed(_) => None,
            Self::Refused(refused) => code(&refused.error),
        }
    }

    /// Whether the member refuses for nothing but that a field cannot be changed.
    pub(super) fn is_immutable(&self) -> bool {
        match self {
            Self::Refused(Refused { error: kube::Error::Api(status), .. }) => {
                immutable(status).is_some_and(|immutable| immutable.only)
            }
            _ => false,
        }
    }

    /// Whether a creation that was only tried is refused for nothing but the object that is there now, which holds the name and perhaps
    /// an address or a port.
    pub(super) fn is_about_the_present(&self) -> bool {
        match self {
            Self::Refused(Refused { error: kube::Error::Api(status), .. }) if status.code == 422 => {
                let causes =
                    status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
                !causes.is_empty() && causes.iter().all(|cause| cause.message.contains("already allocated"))
            }
            trouble => trouble.code() == Some(409),
        }
    }

    /// The fields that the member refuses to change, of those that have a plain path.
    pub(super) fn immutable_fields(&self) -> Set {
        let Self::Refused(Refused { error: kube::Error::Api(status), .. }) = self else {
            return Set::default();
        };
        let fields = immutable(status).map(|immutable| immutable.fields).unwrap_or_default();
        let plain = fields.iter().filter(|field| !field.contains('['));
        let paths: Vec<Vec<Element>> =
            plain.map(|field| field.split('.').map(Element::field).collect()).collect();
        Set::of(paths.iter().map(Vec::as_slice))
    }

    /// What to report.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Failed(failure) => failure,
            Self::Refused(refused) => refused.into_failure(),
        }
    }
}

impl Refused {
    pub(super) fn into_failure(self) -> Failure {
        let Self { word, what, of, error } = self;
        let status = match error {
            kube::Error::Api(status) => status,
            error => {
                let message = format!("cannot {what} the object: {error}");
                return Failure { word, message, maybe_written: true, retry: Retry::Soon };
            }
        };
        // A 5xx may come from a proxy that gave up while the member went on.
        let maybe_written = status.code >= 500;
        let details = status.details.as_ref();
        let pause = details.map_or(0, |details| details.retry_after_seconds);
        let retry = match pause {
            0 => Retry::Soon,
            seconds => Retry::After(Duration::from_secs(seconds.into()).min(LONGEST)),
        };
        if let Some(Immutable { fields, .. }) = immutable(&status) {
            let fields = if fields.is_empty() { "a field".to_owned() } else { fields.join(", ") };
            let message = format!("the cluster does not let {fields} be changed: {}{ADVICE}", status.message);
            return Failure { word, message, maybe_written: false, retry: Retry::Late };
        }
        let message = match status.code {
            404 if details.is_some_and(|details| details.kind == "namespaces") => {
                format!(
                    "cannot {what} the object: its namespace is not there in the cluster: {}",
                    status.message
                )
            }
            404 => format!(
                "the cluster does not serve {of}: install the type there, or take the cluster out of the placement"
            ),
            _ => format!("cannot {what} the object: {}", status.message),
        };
        Failure { word, message, maybe_written, retry }
    }
}

/// A failure that no request was made for.
pub(super) fn failed(word: Word, message: impl Into<String>) -> Failure {
    Failure { word, message: message.into(), maybe_written: false, retry: Retry::Soon }
}

/// The HTTP status of an error.
pub(super) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Fields that cannot be changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Immutable {
    /// Their names, as the server writes them.
    fields: Vec<String>,
    /// Whether that is all that is wrong.
    pub(crate) only: bool,
}

/// Reads from a refusal which fields cannot be changed; `None` if it is about something else.
pub(crate) fn immutable(status: &Status) -> Option<Immutable> {
    if status.code != 422 {
        return None;
    }
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    if causes.is_empty() {
        return says_immutable(&status.message).then(|| Immutable { fields: Vec::new(), only: true });
    }
    let (said, other): (Vec<_>, Vec<_>) = causes.iter().partition(|cause| says_immutable(&cause.message));
    let mut fields: Vec<String> = said.iter().map(|cause| cause.field.clone()).collect();
    fields.retain(|field| !field.is_empty());
    fields.dedup();
    (!said.is_empty()).then_some(Immutable { fields, only: other.is_empty() })
}

/// The words by which servers say so; what precedes the last colon may be the value, which may say anything.
fn says_immutable(message: &str) -> bool {
    let words = message.rsplit(": ").next().unwrap_or(message).to_lowercase();
    [
        "immutable",
        "may not change",
        "may not be changed",
        "cannot be changed",
        "cannot change",
        "updates to statefulset spec",
    ]
    .iter()
    .any(|phrase| words.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(code: u16, causes: Value) -> Status {
        serde_json::from_value(json!({
            "status": "Failure", "message": "it is refused", "reason": "Invalid", "code": code, "details": {"causes": causes},
        }))
        .unwrap()
    }

    fn cause(field: &str, message: &str) -> Value {
        json!({"reason": "FieldValueInvalid", "field": field, "message": message})
    }

    fn refused(status: Status) -> Failure {
        let error = kube::Error::Api(Box::new(status));
        Refused { word: Word::UpdateFailed, what: "apply", of: "apps/v9 Foo".into(), error }.into_failure()
    }

    /// `spec/kubefed.md §5 (8)`: what the servers say of the types that people federate.
    #[test]
    fn immutable_fields_are_named() {
        for (field, message) in [
            ("spec.selector", "Invalid value: {\"matchLabels\":{\"app\":\"web\"}}: field is immutable"),
            ("spec.template", "Invalid value: core.PodTemplateSpec{}: field is immutable"),
            ("spec.clusterIPs[0]", "Invalid value: [\"10.0.0.9\"]: may not change once set"),
            (
                "spec",
                "Forbidden: updates to statefulset spec for fields other than 'replicas', 'template' and 'minReadySeconds' are forbidden",
            ),
            ("spec", "Forbidden: spec is immutable after creation except resources.requests"),
            ("roleRef", "Invalid value: {\"kind\":\"Role\"}: cannot change roleRef"),
            ("data", "Forbidden: field is immutable when `immutable` is set"),
            ("spec.x", "Invalid value: \"string\": Value is immutable"),
        ] {
            let status = status(422, json!([cause(field, message)]));
            assert_eq!(
                immutable(&status),
                Some(Immutable { fields: vec![field.into()], only: true }),
                "{message}"
            );
            let failure = refused(status);
            assert!(failure.message.contains(field) && failure.message.contains("kubefed.io/recreate=true"));
            assert_eq!((failure.word, failure.retry), (Word::UpdateFailed, Retry::Late));
        }
    }

    #[test]
    fn what_is_wrong_besides_is_not_mended_by_making_the_object_anew() {
        let causes =
            json!([cause("spec.selector", "field is immutable"), cause("spec.replicas", "must be positive")]);
        let found = immutable(&status(422, causes)).unwrap();
        assert_eq!(found, Immutable { fields: vec!["spec.selector".into()], only: false });
    }

    #[test]
    fn other_refusals_are_not_about_immutable_fields() {
        let value =
            cause("metadata.labels", "Invalid value: \"immutable!\": a valid label must start with a letter");
        assert_eq!(immutable(&status(422, json!([value]))), None);
        assert_eq!(immutable(&status(403, json!([cause("spec", "field is immutable")]))), None);
        assert_eq!(immutable(&status(422, json!([]))), None);
    }

    #[test]
    fn a_missing_type_a_missing_namespace_and_words_of_a_server_are_told_apart() {
        let refusal = |code: u16, message: &str, details: Value| {
            let status = json!({"status": "Failure", "message": message, "code": code, "details": details});
            refused(serde_json::from_value(status).unwrap())
        };
        let missing = refusal(404, "404 page not found", Value::Null).message;
        assert!(missing.starts_with("the cluster does not serve apps/v9 Foo"), "{missing}");
        let namespace = refusal(404, "namespaces \"shop\" not found", json!({"kind": "namespaces"})).message;
        assert!(namespace.contains("namespace is not there"), "{namespace}");
        for (code, words) in [
            (507, "insufficient storage"),
            (500, "etcdserver: mvcc: database space exceeded"),
            (400, "admission webhook \"policy.test\" denied the request: no Fridays"),
        ] {
            let failure = refusal(code, words, Value::Null);
            assert!(failure.message.contains(words));
            assert_eq!((failure.retry, failure.maybe_written), (Retry::Soon, code >= 500));
        }
        let busy = refusal(429, "later", json!({"retryAfterSeconds": 7}));
        assert_eq!(busy.retry, Retry::After(Duration::from_secs(7)));
        let absurd = refusal(503, "later", json!({"retryAfterSeconds": 1_000_000}));
        assert_eq!(absurd.retry, Retry::After(LONGEST));
    }
}
