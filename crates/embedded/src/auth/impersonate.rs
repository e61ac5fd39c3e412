//! Acting as somebody else: the `Impersonate-*` headers.

use std::collections::BTreeMap;

use hansa_machinery::Status;
use http::{HeaderMap, HeaderName};

use super::{
    rbac::{Attributes, Decision, Target},
    user::{
        ANONYMOUS, AUTHENTICATED, MASTERS, UNAUTHENTICATED, User, service_account_groups,
        split_service_account_name,
    },
};

const PREFIX: &str = "impersonate-";
const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// What a caller asks to be.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    user: String,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Headers that only a proxy in front may set. Nothing here believes them, and nobody behind shall.
pub fn is_internal(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is = |prefix: &str| {
        name.len() >= prefix.len()
            && name.bytes().zip(prefix.bytes()).all(|(n, p)| n == p || p == b'-' && n == b'_')
    };
    is(PREFIX) || is("x-remote-")
}

/// Takes every header that [`is_internal`] out.
pub fn strip(headers: &mut HeaderMap) {
    let internal: Vec<HeaderName> = headers.keys().filter(|name| is_internal(name)).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
}

fn values(headers: &HeaderMap, name: &HeaderName) -> Result<Vec<String>, Status> {
    let text = |value: &http::HeaderValue| match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Status::bad_request(format!("the header {name} is not UTF-8"))),
    };
    headers.get_all(name).iter().map(text).collect()
}

fn single(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Status> {
    match values(headers, &HeaderName::from_static(name))?.as_slice() {
        [] => Ok(None),
        [one] if !one.is_empty() => Ok(Some(one.clone())),
        // Which of several a proxy in front meant cannot be known.
        _ => Err(Status::bad_request(format!("the header {name} must be given once and not be empty"))),
    }
}

fn wish(headers: &HeaderMap) -> Result<Option<Wish>, Status> {
    let user = single(headers, USER)?;
    let uid = single(headers, UID)?;
    let groups = values(headers, &HeaderName::from_static(GROUP))?;
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            extra.entry(percent_decode(key)).or_default().extend(values(headers, name)?);
        }
    }
    match user {
        Some(user) => Ok(Some(Wish { user, uid, groups, extra })),
        None if uid.is_none() && groups.is_empty() && extra.is_empty() => Ok(None),
        None => {
            Err(Status::bad_request("groups, a uid or extra were requested without impersonating a user"))
        }
    }
}

/// Decodes `%xx`; a key that is not well encoded is taken as it stands.
fn percent_decode(key: &str) -> String {
    let mut out = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            out.push(first);
            rest = tail;
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|&c| char::from(c).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return key.to_owned() };
        out.push((high * 16 + low) as u8);
        rest = &tail[2..];
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

/// The user a request runs as. Each part of the wish must be allowed to `caller`; the headers are taken out.
///
/// As the impersonation filter of `k8s.io/apiserver`, and stricter in one point: `system:masters` can be
/// impersonated only by its members.
///
/// # Errors
/// 400 for a wish that makes no sense, 403 for one that is not allowed.
pub fn impersonate(
    caller: User,
    headers: &mut HeaderMap,
    authorize: impl Fn(&Attributes<'_>) -> Decision,
) -> Result<User, Status> {
    let wish = wish(headers)?;
    strip(headers);
    let Some(wish) = wish else { return Ok(caller) };
    let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let target = Target::Resource { group, resource, subresource, namespace, name };
        let attributes = Attributes { user: &caller, verb: "impersonate", target };
        let Decision { allowed, reason } = authorize(&attributes);
        if allowed { Ok(()) } else { Err(attributes.forbidden(&reason)) }
    };
    const AUTHENTICATION: &str = "authentication.k8s.io";
    let mut groups = wish.groups.clone();
    match split_service_account_name(&wish.user) {
        Some((namespace, name)) => {
            check("", "serviceaccounts", "", namespace, name)?;
            if groups.is_empty() {
                groups.extend(service_account_groups(namespace));
            }
        }
        None => check("", "users", "", "", &wish.user)?,
    }
    for group in &wish.groups {
        if group == MASTERS && !caller.is_in(MASTERS) {
            return Err(Status::forbidden("", "groups", group, "only its members may impersonate it"));
        }
        check("", "groups", "", "", group)?;
    }
    for (key, value) in wish.extra.iter().flat_map(|(key, values)| values.iter().map(move |v| (key, v))) {
        check(AUTHENTICATION, "userextras", key, "", value)?;
    }
    if let Some(uid) = &wish.uid {
        check(AUTHENTICATION, "uids", "", "", uid)?;
    }
    let has = |group: &str| groups.iter().any(|g| g == group);
    if wish.user == ANONYMOUS {
        if !has(UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !has(AUTHENTICATED) && !has(UNAUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    tracing::debug!(caller = %caller.name, user = %wish.user, "impersonation");
    Ok(User { name: wish.user, uid: wish.uid.unwrap_or_default(), groups, extra: wish.extra })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    /// Impersonates with everything allowed but what `denied` names, and lists what was asked.
    fn run(
        caller: &User,
        pairs: &[(&'static str, &str)],
        denied: &str,
    ) -> (Result<User, Status>, Vec<String>) {
        let asked = RefCell::new(Vec::new());
        let result = impersonate(caller.clone(), &mut headers(pairs), |attributes| {
            let Target::Resource { group, resource, subresource, namespace, name } = attributes.target else {
                unreachable!()
            };
            assert_eq!((attributes.verb, attributes.user), ("impersonate", caller));
            let text = [group, resource, subresource, namespace, name].join("|");
            let allowed = text != denied;
            asked.borrow_mut().push(text);
            Decision { allowed, reason: String::new() }
        });
        (result, asked.into_inner())
    }

    fn caller() -> User {
        User::new("proxy", [AUTHENTICATED])
    }

    #[test]
    fn every_part_of_the_wish_is_authorised_by_itself() {
        let pairs = [
            ("Impersonate-User", "bob"),
            ("IMPERSONATE-GROUP", "dev"),
            ("Impersonate-Group", "ops"),
            ("Impersonate-Uid", "u1"),
            ("Impersonate-Extra-Acme.com%2FProject", "p1"),
            ("Impersonate-Extra-Acme.com%2FProject", "p2"),
        ];
        let (user, asked) = run(&caller(), &pairs, "");
        let expected = [
            "|users|||bob",
            "|groups|||dev",
            "|groups|||ops",
            "authentication.k8s.io|userextras|acme.com/project||p1",
            "authentication.k8s.io|userextras|acme.com/project||p2",
            "authentication.k8s.io|uids|||u1",
        ];
        assert_eq!(asked, expected);
        let user = user.unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("bob", "u1"));
        assert_eq!(user.groups, ["dev", "ops", AUTHENTICATED]);
        assert_eq!(user.extra["acme.com/project"], ["p1", "p2"]);
        for denied in expected {
            let status = run(&caller(), &pairs, denied).0.unwrap_err();
            assert_eq!(status.code, 403, "{denied}");
        }
    }

    #[test]
    fn a_service_account_brings_its_groups_unless_groups_are_given() {
        let sa = ("Impersonate-User", "system:serviceaccount:a:b");
        let (user, asked) = run(&caller(), &[sa], "");
        assert_eq!(asked, ["|serviceaccounts||a|b"]);
        assert_eq!(
            user.unwrap().groups,
            ["system:serviceaccounts", "system:serviceaccounts:a", AUTHENTICATED]
        );
        let (user, _) = run(&caller(), &[sa, ("Impersonate-Group", "dev")], "");
        assert_eq!(user.unwrap().groups, ["dev", AUTHENTICATED]);
    }

    #[test]
    fn the_group_of_the_authenticated_is_added_as_kubernetes_adds_it() {
        let user = |pairs: &[(&'static str, &str)]| run(&caller(), pairs, "").0.unwrap().groups;
        assert_eq!(user(&[("Impersonate-User", ANONYMOUS)]), [UNAUTHENTICATED]);
        let groups = user(&[("Impersonate-User", "bob"), ("Impersonate-Group", UNAUTHENTICATED)]);
        assert_eq!(groups, [UNAUTHENTICATED]);
        let groups = user(&[("Impersonate-User", "bob"), ("Impersonate-Group", AUTHENTICATED)]);
        assert_eq!(groups, [AUTHENTICATED]);
    }

    #[test]
    fn only_members_of_masters_impersonate_masters() {
        let pairs = [("Impersonate-User", "bob"), ("Impersonate-Group", MASTERS)];
        assert_eq!(run(&caller(), &pairs, "").0.unwrap_err().code, 403);
        assert!(run(&User::local(), &pairs, "").0.unwrap().is_in(MASTERS));
    }

    #[test]
    fn a_wish_without_a_user_or_with_two_is_refused() {
        for pairs in [
            &[("Impersonate-Group", "dev")][..],
            &[("Impersonate-Uid", "u")],
            &[("Impersonate-Extra-x", "u")],
            &[("Impersonate-User", "")],
            &[("Impersonate-User", "a"), ("impersonate-user", "b")],
            &[("Impersonate-User", "a"), ("Impersonate-Uid", "1"), ("Impersonate-Uid", "2")],
            &[("Impersonate-User", "\u{fffd}a"), ("Impersonate-Group", "\u{fffd}"), ("Impersonate-Uid", "")],
        ] {
            assert_eq!(run(&caller(), pairs, "").0.unwrap_err().code, 400, "{pairs:?}");
        }
        let mut map = HeaderMap::new();
        map.insert("impersonate-user", HeaderValue::from_bytes(b"\xff").unwrap());
        let refused = impersonate(caller(), &mut map, |_| Decision { allowed: true, reason: String::new() });
        assert_eq!(refused.unwrap_err().code, 400);
    }

    #[test]
    fn every_internal_header_is_taken_out_however_it_is_written() {
        let mut map = headers(&[
            ("Impersonate-User", "bob"),
            ("impersonate_user", "eve"),
            ("Impersonate-Future", "x"),
            ("X-Remote-User", "root"),
            ("x_remote_group", "system:masters"),
            ("X-REMOTE-Extra-a", "b"),
            ("accept", "*/*"),
        ]);
        let user = impersonate(caller(), &mut map, |_| Decision { allowed: true, reason: String::new() });
        assert_eq!(user.unwrap().name, "bob");
        assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
