//! `kubectl --as`: the caller asks to be somebody else, and the host decides whether they may, as an
//! API server would (Kubernetes: "User impersonation").

use hansa_machinery::Status;
use http::HeaderMap;

use crate::{
    identity::{Identity, SYSTEM_MASTERS},
    reviews::{Question, Reviews},
};

/// Whom the headers ask to be, and what must be allowed for it; `None` if they ask for nothing.
///
/// # Errors
/// 400 for a wish that is half one, said twice or unknown; 403 for `system:masters`.
pub fn requested(headers: &HeaderMap) -> Result<Option<(Identity, Vec<Question>)>, Status> {
    let mut wanted = Identity::default();
    let mut questions = Vec::new();
    for (name, value) in headers {
        let Some(rest) = name.as_str().strip_prefix("impersonate-") else {
            // Taken for no wish here, and for one elsewhere: `_` is `-` to some servers.
            if name.as_str().replace('_', "-").starts_with("impersonate") {
                return Err(Status::bad_request(format!("the header {name} is not one of impersonation")));
            }
            continue;
        };
        let value = value
            .to_str()
            .map_err(|_| Status::bad_request(format!("the header {name} is not text")))?
            .to_owned();
        // HTTP/2 carries it as it is, and the next hop may trim it: nobody is to be somebody else there.
        if value.trim() != value {
            return Err(Status::bad_request(format!("the header {name} begins or ends with a space")));
        }
        match rest {
            "user" if wanted.name.is_empty() => wanted.name = value,
            "group" => wanted.groups.push(value),
            "uid" if wanted.uid.is_empty() => wanted.uid = value,
            _ => match rest.strip_prefix("extra-") {
                Some(key) => wanted.extra.entry(percent_decode(key)).or_default().push(value),
                None => {
                    return Err(Status::bad_request(format!(
                        "the header {name} is not one of impersonation, or there twice"
                    )));
                }
            },
        }
    }
    if wanted == Identity::default() {
        return Ok(None);
    }
    if wanted.name.is_empty() {
        return Err(Status::bad_request("impersonation needs the header Impersonate-User"));
    }
    if wanted.groups.iter().any(|g| g == SYSTEM_MASTERS) {
        return Err(Status::forbidden("", "groups", SYSTEM_MASTERS, "this group is never impersonated"));
    }
    match wanted.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, name)) => questions.push(question("", "serviceaccounts", "", namespace, name)),
        None => questions.push(question("", "users", "", "", &wanted.name)),
    }
    questions.extend(wanted.groups.iter().map(|group| question("", "groups", "", "", group)));
    if !wanted.uid.is_empty() {
        questions.push(question("authentication.k8s.io", "uids", "", "", &wanted.uid));
    }
    for (key, values) in &wanted.extra {
        questions.extend(values.iter().map(|v| question("authentication.k8s.io", "userextras", key, "", v)));
    }
    Ok(Some((wanted, questions)))
}

fn question(group: &'static str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Question {
    Question {
        verb: "impersonate".to_owned(),
        group,
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// The identity a request runs under: the caller's own, or the one they ask for and may be.
///
/// # Errors
/// As [`requested`]; 403 where the host does not allow it, 503 where it cannot say.
pub async fn effective(reviews: &Reviews, caller: Identity, headers: &HeaderMap) -> Result<Identity, Status> {
    let Some((wanted, questions)) = requested(headers)? else { return Ok(caller) };
    for question in questions {
        let (resource, name) = (question.resource.clone(), question.name.clone());
        let group = question.group;
        if !reviews.allows(&caller, question).await? {
            let why = format!(
                "User {:?} cannot impersonate resource {resource:?} in API group {group:?}",
                caller.name
            );
            return Err(Status::forbidden(group, &resource, &name, &why));
        }
    }
    Ok(wanted)
}

/// Extra keys travel percent-encoded in header names, which `http` gives in lower case.
fn percent_decode(key: &str) -> String {
    let mut decoded = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = (*first == b'%').then(|| tail.get(..2)).flatten();
        let value = escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        decoded.push(value.unwrap_or(*first));
        rest = if value.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn every_part_of_the_wish_is_a_question_to_the_host() {
        let map = headers(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "dev"),
            ("impersonate-group", "ops"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-example.org%2fscope", "a"),
        ]);
        let (wanted, questions) = requested(&map).unwrap().unwrap();
        assert_eq!(wanted.groups, ["dev", "ops"]);
        assert_eq!(wanted.extra["example.org/scope"], ["a"]);
        let asked: Vec<_> =
            questions.iter().map(|q| format!("{}/{} {}", q.resource, q.subresource, q.name)).collect();
        assert_eq!(
            asked,
            ["users/ jane", "groups/ dev", "groups/ ops", "uids/ 7", "userextras/example.org/scope a"]
        );
    }

    #[test]
    fn a_service_account_is_asked_for_as_one() {
        let (_, questions) =
            requested(&headers(&[("impersonate-user", "system:serviceaccount:ns:sa")])).unwrap().unwrap();
        assert_eq!(
            (questions[0].resource.as_str(), questions[0].namespace.as_str()),
            ("serviceaccounts", "ns")
        );
    }

    #[test]
    fn nobody_becomes_system_masters_and_half_a_wish_is_none() {
        let masters = [("impersonate-user", "jane"), ("impersonate-group", SYSTEM_MASTERS)];
        assert_eq!(requested(&headers(&masters)).unwrap_err().code, 403);
        assert_eq!(requested(&headers(&[("impersonate-group", "dev")])).unwrap_err().code, 400);
        assert_eq!(
            requested(&headers(&[("impersonate-user", "a"), ("impersonate-user", "b")])).unwrap_err().code,
            400
        );
        assert_eq!(requested(&headers(&[("impersonate-other", "a")])).unwrap_err().code, 400);
        for odd in
            [("impersonate_group", "a"), ("impersonate", "a"), ("impersonate-group", " system:masters")]
        {
            assert_eq!(
                requested(&headers(&[("impersonate-user", "a"), odd])).unwrap_err().code,
                400,
                "{odd:?}"
            );
        }
        assert_eq!(requested(&headers(&[("accept", "a")])).unwrap(), None);
    }
}
