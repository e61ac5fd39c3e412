//! Questions about identity and rights, which are asked by creating objects that nobody keeps.

use hansa_machinery::{Status, status::Cause};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Auth,
    rbac::{Attributes, Target},
    token::ISSUER,
    user::User,
};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

impl Auth {
    /// Answers the creation of a review; `None` when the resource is none.
    pub fn review(
        &self,
        user: &User,
        (group, resource): (&str, &str),
        namespace: &str,
        body: &Value,
    ) -> Option<Result<Value, Status>> {
        Some(match (group, resource) {
            (AUTHENTICATION, "tokenreviews") => self.token_review(body),
            (AUTHENTICATION, "selfsubjectreviews") => Ok(self_subject_review(user, Timestamp::now())),
            (AUTHORIZATION, "selfsubjectrulesreviews") => self.rules_review(user, body),
            (AUTHORIZATION, "subjectaccessreviews") => self.access_review(Asked::Subject, user, body),
            (AUTHORIZATION, "localsubjectaccessreviews") => {
                self.access_review(Asked::Local(namespace), user, body)
            }
            (AUTHORIZATION, "selfsubjectaccessreviews") => self.access_review(Asked::Own, user, body),
            _ => return None,
        })
    }

    fn token_review(&self, body: &Value) -> Result<Value, Status> {
        let spec: TokenSpec = read(&body["spec"])?;
        if spec.token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = if spec.audiences.is_empty() { vec![ISSUER.to_owned()] } else { spec.audiences };
        let status = match self.bearer(&spec.token, &audiences) {
            Ok((user, audiences)) => {
                json!({"authenticated": true, "user": user.to_value(), "audiences": audiences})
            }
            Err(rejected) => json!({"user": {}, "error": rejected.to_string()}),
        };
        Ok(answer(body, status))
    }

    fn rules_review(&self, user: &User, body: &Value) -> Result<Value, Status> {
        let namespace = body["spec"]["namespace"].as_str().unwrap_or_default();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let policy = self.policy();
        let (rules, missing) = policy.rules(user, namespace);
        let mut resources = Vec::new();
        let mut paths = Vec::new();
        for rule in rules {
            if !rule.resources.is_empty() {
                let mut shown =
                    json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
                if !rule.resource_names.is_empty() {
                    shown["resourceNames"] = rule.resource_names.as_slice().into();
                }
                resources.push(shown);
            }
            if !rule.non_resource_urls.is_empty() {
                paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
            }
        }
        let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
        if !missing.is_empty() {
            status["evaluationError"] = missing.join(", ").into();
        }
        Ok(answer(body, status))
    }

    fn access_review(&self, asked: Asked<'_>, user: &User, body: &Value) -> Result<Value, Status> {
        let spec: AccessSpec = read(&body["spec"])?;
        spec.check(asked, &body["metadata"]["namespace"])?;
        let subject;
        let user = match asked {
            Asked::Own => user,
            Asked::Subject | Asked::Local(_) => {
                let AccessSpec { user, groups, uid, extra, .. } = &spec;
                let (name, uid) = (user.clone(), uid.clone());
                let extra = extra.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
                subject = User { name, uid, groups: groups.clone().unwrap_or_default(), extra };
                &subject
            }
        };
        let (verb, target) = match (&spec.resource_attributes, &spec.non_resource_attributes) {
            (Some(r), _) => {
                let Resource { group, resource, subresource, namespace, name, verb } = r;
                (verb, Target::Resource { group, resource, subresource, namespace, name })
            }
            (None, Some(path)) => (&path.verb, Target::Path(&path.path)),
            (None, None) => {
                return Err(Status::internal("an access review without a question passed validation"));
            }
        };
        let decision = self.decide(&Attributes { user, verb, target });
        let mut status = json!({"allowed": decision.allowed});
        if !decision.reason.is_empty() {
            status["reason"] = decision.reason.into();
        }
        Ok(answer(body, status))
    }
}

/// Whose rights are asked for.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Own,
    Subject,
    Local(&'a str),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenSpec {
    token: String,
    audiences: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AccessSpec {
    user: String,
    uid: String,
    groups: Option<Vec<String>>,
    extra: Option<std::collections::BTreeMap<String, Vec<String>>>,
    resource_attributes: Option<Resource>,
    non_resource_attributes: Option<Path>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resource {
    group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    verb: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Path {
    path: String,
    verb: String,
}

impl AccessSpec {
    fn check(&self, asked: Asked<'_>, metadata_namespace: &Value) -> Result<(), Status> {
        let mut causes = Vec::new();
        let mut invalid = |field: &str, message: String| {
            causes.push(Cause { reason: "FieldValueInvalid", field: field.to_owned(), message });
        };
        if self.resource_attributes.is_some() == self.non_resource_attributes.is_some() {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            invalid("spec", format!("Invalid value: null: {why}"));
        }
        let no_subject = self.user.is_empty() && self.groups.as_ref().is_none_or(Vec::is_empty);
        if !matches!(asked, Asked::Own) && no_subject {
            invalid(
                "spec.user",
                "Invalid value: \"\": at least one of user or group must be specified".to_owned(),
            );
        }
        if let Asked::Local(namespace) = asked {
            let given = metadata_namespace.as_str().unwrap_or_default();
            if !given.is_empty() && given != namespace {
                return Err(Status::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            if let Some(resource) = self.resource_attributes.as_ref().filter(|r| r.namespace != namespace) {
                let why = format!("Invalid value: {:?}: must match metadata.namespace", resource.namespace);
                invalid("spec.resourceAttributes.namespace", why);
            }
            if self.non_resource_attributes.is_some() {
                let why = "Invalid value: {}: disallowed on this kind of request".to_owned();
                invalid("spec.nonResourceAttributes", why);
            }
        }
        let kind = match asked {
            Asked::Own => "SelfSubjectAccessReview",
            Asked::Subject => "SubjectAccessReview",
            Asked::Local(_) => "LocalSubjectAccessReview",
        };
        if causes.is_empty() { Ok(()) } else { Err(Status::invalid(AUTHORIZATION, kind, "", causes)) }
    }
}

fn read<T: for<'de> Deserialize<'de> + Default>(spec: &Value) -> Result<T, Status> {
    let spec = Option::<T>::deserialize(spec);
    Ok(spec.map_err(|e| Status::bad_request(format!("spec cannot be read: {e}")))?.unwrap_or_default())
}

/// The review with its answer.
fn answer(body: &Value, status: Value) -> Value {
    let mut body = body.clone();
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    body["status"] = status;
    body
}

fn self_subject_review(user: &User, now: Timestamp) -> Value {
    json!({
        "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()},
        "status": {"userInfo": user.to_value()},
    })
}

#[cfg(test)]
mod tests;
