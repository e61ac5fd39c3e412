//! From an `AdmissionReview` with a request to one with the answer. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use hansa_api::{
    validation,
    webhooks::{DEFAULT_CONFIG, VALIDATE_CLUSTER, VALIDATE_CONFIG, VALIDATE_TYPE_CONFIG},
};
use hansa_machinery::{Status, status::Cause};
use serde_json::{Value, json};

const GROUP: &str = "core.kubefed.io";

/// Whether a webhook is at this path.
pub(crate) fn serves(path: &str) -> bool {
    [DEFAULT_CONFIG, VALIDATE_CLUSTER, VALIDATE_CONFIG, VALIDATE_TYPE_CONFIG].contains(&path)
}

/// The answer of the webhook at `path` to a question. What cannot be read is not allowed.
pub fn review(path: &str, body: &[u8]) -> Value {
    let review: Value = match serde_json::from_slice(body) {
        Ok(review) => review,
        Err(error) => {
            let why = Status::bad_request(format!("the body is not an AdmissionReview: {error}"));
            return answer(&Value::Null, Err(why));
        }
    };
    let request = &review["request"];
    if !request.is_object() {
        return answer(&review, Err(Status::bad_request("the AdmissionReview has no request")));
    }
    let outcome = match path {
        DEFAULT_CONFIG => default(request),
        VALIDATE_CLUSTER => judge(request, "kubefedclusters", |request, object| {
            validation::cluster_shape(object).map_err(undecodable)?;
            // Of other subresources the spec is judged, as KubeFed has it.
            match request["subResource"] == "status" {
                true => Ok(validation::cluster_status(object)),
                false => Ok(validation::cluster(object)),
            }
        }),
        VALIDATE_CONFIG => judge(request, "kubefedconfigs", |request, object| {
            validation::config_shape(object).map_err(undecodable)?;
            let old = (request["operation"] == "UPDATE").then_some(&request["oldObject"]);
            old.map_or(Ok(()), validation::config_shape).map_err(undecodable)?;
            Ok(validation::config(object, old))
        }),
        VALIDATE_TYPE_CONFIG => judge(request, "federatedtypeconfigs", |request, object| {
            validation::type_config_shape(object).map_err(undecodable)?;
            match request["subResource"].as_str().unwrap_or_default() {
                "" => Ok(validation::type_config(object)),
                _ => Ok(validation::type_config_status(object)),
            }
        }),
        _ => Err(Status::bad_request(format!("there is no webhook at {path}"))),
    };
    answer(&review, outcome)
}

/// The request is allowed; with `Some`, after this patch.
type Outcome = Result<Option<Value>, Status>;

fn undecodable(error: validation::Misshapen) -> Status {
    Status::bad_request(error.to_string())
}

/// Judges a create or update of the resource; everything else is none of the webhook's business.
fn judge(
    request: &Value,
    resource: &str,
    problems: impl FnOnce(&Value, &Value) -> Result<Vec<Cause>, Status>,
) -> Outcome {
    let concerns = matches!(request["operation"].as_str(), Some("CREATE" | "UPDATE"))
        && request["resource"]["group"] == GROUP
        && request["resource"]["resource"] == resource;
    if !concerns {
        return Ok(None);
    }
    let causes = problems(request, &request["object"])?;
    if causes.is_empty() {
        return Ok(None);
    }
    Err(Status { causes, ..Status::new(403, "Forbidden", "") })
}

/// Fills in the defaults of a KubeFedConfig: one replacement of the whole spec.
fn default(request: &Value) -> Outcome {
    let object = &request["object"];
    validation::config_shape(object).map_err(undecodable)?;
    let spec = validation::defaulted(object);
    Ok(spec.map(|spec| json!([{"op": "replace", "path": "/spec", "value": spec}])))
}

fn answer(review: &Value, outcome: Outcome) -> Value {
    let older = review["apiVersion"].as_str().filter(|version| *version == "admission.k8s.io/v1beta1");
    let version = older.unwrap_or("admission.k8s.io/v1");
    let uid = review["request"]["uid"].as_str().unwrap_or_default();
    let mut response = json!({"uid": uid, "allowed": outcome.is_ok()});
    match outcome {
        Ok(None) => {}
        Ok(Some(patch)) => {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(patch.to_string()).into();
        }
        Err(mut status) => {
            if !status.causes.is_empty() {
                status.message = validation::summary(&status.causes);
            }
            response["status"] = status.to_value();
        }
    }
    json!({"kind": "AdmissionReview", "apiVersion": version, "response": response})
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "this is how tests fail")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATHS: [&str; 4] = [DEFAULT_CONFIG, VALIDATE_CLUSTER, VALIDATE_CONFIG, VALIDATE_TYPE_CONFIG];

    fn question(resource: &str, operation: &str, object: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "7-7", "operation": operation, "object": object,
            "resource": {"group": GROUP, "version": "v1beta1", "resource": resource}}})
    }

    fn ask(path: &str, question: &Value) -> Value {
        let mut answer = review(path, question.to_string().as_bytes());
        assert_eq!(answer["response"]["uid"], "7-7");
        answer["response"].take()
    }

    #[test]
    fn a_rejection_is_forbidden_with_every_field_that_is_wrong() {
        let question = question("kubefedclusters", "CREATE", json!({"spec": {"apiEndpoint": "ftp://a"}}));
        let response = ask(VALIDATE_CLUSTER, &question);
        assert_eq!(response["allowed"], false);
        let status = &response["status"];
        assert_eq!((&status["code"], &status["reason"]), (&json!(403), &json!("Forbidden")));
        assert_eq!(
            status["message"],
            "[spec.apiEndpoint: Unsupported value: \"ftp\": supported values: \"http\", \"https\", \
             spec.secretRef.name: Required value]"
        );
        assert_eq!(status["details"]["causes"][1]["field"], "spec.secretRef.name");
    }

    #[test]
    fn an_object_that_does_not_decode_is_a_bad_request() {
        for (path, resource, object) in [
            (VALIDATE_CLUSTER, "kubefedclusters", json!({"spec": []})),
            (VALIDATE_CONFIG, "kubefedconfigs", json!("x")),
            (VALIDATE_TYPE_CONFIG, "federatedtypeconfigs", json!({"status": {"observedGeneration": "1"}})),
            (DEFAULT_CONFIG, "kubefedconfigs", json!({"spec": {"clusterHealthCheck": {"period": 3}}})),
        ] {
            let response = ask(path, &question(resource, "CREATE", object));
            assert_eq!(response["allowed"], false, "{path}");
            let status = &response["status"];
            assert_eq!((&status["code"], &status["reason"]), (&json!(400), &json!("BadRequest")), "{path}");
        }
    }

    #[test]
    fn the_status_is_judged_apart_from_the_spec() {
        let status = json!({"observedGeneration": 1, "propagationController": "running"});
        let mut wrong = question("federatedtypeconfigs", "UPDATE", json!({"status": status}));
        wrong["request"]["subResource"] = "status".into();
        let response = ask(VALIDATE_TYPE_CONFIG, &wrong);
        let message = response["status"]["message"].as_str().unwrap();
        assert!(
            message.starts_with("status.propagationController: Unsupported value: \"running\""),
            "{message}"
        );
        let mut fine =
            question("kubefedclusters", "UPDATE", json!({"spec": {}, "status": {"conditions": []}}));
        fine["request"]["subResource"] = "status".into();
        assert_eq!(ask(VALIDATE_CLUSTER, &fine)["allowed"], true);
    }

    /// spec/kubefed.md §6 (31): KubeFed's webhook read `dryRun` without looking whether it was there.
    #[test]
    fn a_request_that_does_not_say_whether_it_is_a_dry_run_is_answered() {
        for path in PATHS {
            let response = ask(path, &question("kubefedconfigs", "CREATE", json!({})));
            assert!(response["allowed"].is_boolean());
        }
    }

    #[test]
    fn defaults_are_one_replacement_of_the_spec() {
        let question = |spec: Value| question("kubefedconfigs", "CREATE", json!({"spec": spec}));
        let response = ask(DEFAULT_CONFIG, &question(json!({"scope": "Cluster"})));
        assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
        let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let patch: Value = serde_json::from_slice(&patch).unwrap();
        assert_eq!(patch.as_array().unwrap().len(), 1);
        assert_eq!((&patch[0]["op"], &patch[0]["path"]), (&json!("replace"), &json!("/spec")));
        let whole = patch[0]["value"].clone();
        assert_eq!(
            (&whole["scope"], &whole["clusterHealthCheck"]["period"]),
            (&json!("Cluster"), &json!("10s"))
        );
        let again = ask(DEFAULT_CONFIG, &question(whole));
        assert!(again["patch"].is_null(), "a whole spec needs no patch");
    }

    #[test]
    fn a_scope_cannot_be_changed() {
        let config = |scope: &str| {
            let spec = validation::defaulted(&json!({"spec": {"scope": scope}})).unwrap();
            json!({"spec": spec})
        };
        let mut change = question("kubefedconfigs", "UPDATE", config("Namespaced"));
        change["request"]["oldObject"] = config("Cluster");
        let response = ask(VALIDATE_CONFIG, &change);
        assert!(response["status"]["message"].as_str().unwrap().contains("spec.scope"), "{response}");
        change["request"]["oldObject"] = config("Namespaced");
        assert_eq!(ask(VALIDATE_CONFIG, &change)["allowed"], true);
    }

    #[test]
    fn what_is_none_of_its_business_passes() {
        let deletion = question("kubefedclusters", "DELETE", Value::Null);
        assert_eq!(ask(VALIDATE_CLUSTER, &deletion)["allowed"], true);
        assert_eq!(ask(VALIDATE_CLUSTER, &question("pods", "CREATE", json!([])))["allowed"], true);
    }

    #[test]
    fn an_answer_is_in_the_version_of_the_question() {
        let mut older = question("pods", "CREATE", json!({}));
        older["apiVersion"] = "admission.k8s.io/v1beta1".into();
        assert_eq!(review(PATHS[1], older.to_string().as_bytes())["apiVersion"], "admission.k8s.io/v1beta1");
        assert_eq!(review(PATHS[1], b"{}")["apiVersion"], "admission.k8s.io/v1");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(|float| json!(float)),
            ".{0,10}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            let word =
                prop_oneof![Just("spec"), Just("status"), Just("metadata"), Just("conditions"), Just("x")];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((word, inner), 0..5)
                    .prop_map(|members| members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_answered_with_the_uid_of_its_request(
            path in prop::sample::select(PATHS.to_vec()), uid in ".{0,40}", object in any_json(), old in any_json(),
            sub in any_json(), operation in prop_oneof![Just(json!("CREATE")), Just(json!("UPDATE")), any_json()],
            resource in prop::sample::select(vec!["kubefedclusters", "kubefedconfigs", "federatedtypeconfigs"]),
        ) {
            let question = json!({"request": {"uid": uid, "object": object, "oldObject": old, "subResource": sub,
                "operation": operation, "resource": {"group": GROUP, "resource": resource}}});
            let answer = review(path, question.to_string().as_bytes());
            prop_assert_eq!(&answer["response"]["uid"], &json!(uid));
            prop_assert!(answer["response"]["allowed"].is_boolean());
        }

        #[test]
        fn any_bytes_are_answered(path in prop::sample::select(PATHS.to_vec()), body in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(&review(path, &body)["response"]["allowed"], &json!(false));
        }
    }
}
