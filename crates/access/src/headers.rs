//! Which headers cross. What a caller may not say about itself is removed whole, whatever its spelling, and
//! rebuilt from the identity the gateway established (`spec/security-checklist.md`, lines 1 and 3).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::identity::Identity;

/// Whether a header by this name could be taken by anybody behind us for a statement about who is asking.
fn claims_identity(name: &str) -> bool {
    // Some servers treat `_` as `-`, so both spellings of a claim are one.
    let name = name.to_ascii_lowercase().replace('_', "-");
    const PREFIXES: &[&str] = &["impersonate-", "x-remote-", "x-forwarded-", "x-kubesphere-", "x-hansa-"];
    const NAMES: &[&str] = &[
        "authorization",
        "proxy-authorization",
        "cookie",
        "forwarded",
        "x-real-ip",
        "x-original-url",
        "x-rewrite-url",
    ];
    PREFIXES.iter().any(|p| name.starts_with(p)) || NAMES.contains(&name.as_str())
}

/// Headers of one hop (RFC 9110 §7.6.1), except those of an upgrade.
fn is_hop_by_hop(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.contains(&name)
}

/// Removes what must not cross, in either direction. Keeps `Connection: Upgrade` and `Upgrade` if `upgrade` is set.
fn strip_hop(headers: &mut HeaderMap, upgrade: bool) {
    let kept = upgrade.then(|| headers.get(header::UPGRADE).cloned()).flatten();
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        .collect();
    for name in listed {
        headers.remove(name);
    }
    retain(headers, |name| !is_hop_by_hop(name));
    if let Some(protocol) = kept {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

fn retain(headers: &mut HeaderMap, keep: impl Fn(&str) -> bool) {
    let dropped: Vec<HeaderName> = headers.keys().filter(|name| !keep(name.as_str())).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
}

/// Makes a caller's headers those of a request on behalf of `identity`.
pub fn towards_cluster(headers: &mut HeaderMap, identity: &Identity, upgrade: bool) {
    stripped(headers, upgrade);
    identity.impersonate(headers);
}

/// Takes from a caller's headers everything that says who asks, for a request under the identity of whoever carries it out.
pub fn stripped(headers: &mut HeaderMap, upgrade: bool) {
    strip_hop(headers, upgrade);
    retain(headers, |name| !claims_identity(name));
    headers.remove(header::HOST);
}

/// Cleans a cluster's answer: a member speaks to the gateway, not to the caller's connection or cookie jar.
pub fn towards_caller(headers: &mut HeaderMap, upgrade: bool) {
    strip_hop(headers, upgrade);
    retain(headers, |name| {
        !matches!(name, "set-cookie" | "strict-transport-security" | "alt-svc" | "www-authenticate")
    });
}

/// Whether a request asks for another protocol on its connection (RFC 9110 §7.8).
pub fn asks_to_upgrade(headers: &HeaderMap) -> bool {
    let tokens = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    headers.contains_key(header::UPGRADE)
        && tokens.flat_map(|v| v.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    fn alice() -> Identity {
        Identity {
            name: "alice".into(),
            groups: vec!["dev".into(), "system:masters".into()],
            ..Identity::default()
        }
    }

    #[test]
    fn claims_of_the_caller_never_cross_in_any_spelling() {
        let mut map = headers(&[
            ("Impersonate-User", "root"),
            ("IMPERSONATE-GROUP", "system:masters"),
            ("impersonate_user", "root"),
            ("Impersonate-Extra-Scopes", "all"),
            ("Impersonate-Uid", "0"),
            ("X-Remote-User", "root"),
            ("x_remote_group", "system:masters"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("Authorization", "Bearer secret"),
            ("Cookie", "a=b"),
            ("Accept", "application/json"),
        ]);
        towards_cluster(&mut map, &alice(), false);
        let mut left: Vec<_> = map.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["accept=application/json", "impersonate-group=dev", "impersonate-user=alice"]);
    }

    #[test]
    fn headers_listed_in_connection_are_dropped_with_it() {
        let mut map = headers(&[
            ("Connection", "close, X-Secret, impersonate-user"),
            ("Connection", "te"),
            ("X-Secret", "1"),
            ("TE", "trailers"),
            ("Transfer-Encoding", "chunked"),
            ("Accept", "a"),
        ]);
        towards_cluster(&mut map, &alice(), false);
        assert!(map.get("x-secret").is_none() && map.get("te").is_none() && map.get("connection").is_none());
        // What Connection lists can not remove the identity either: it is written last.
        assert_eq!(map["impersonate-user"], "alice");
    }

    #[test]
    fn an_upgrade_keeps_its_two_headers_and_no_more() {
        let mut map = headers(&[("Connection", "Upgrade, X-A"), ("Upgrade", "SPDY/3.1"), ("X-A", "1")]);
        towards_cluster(&mut map, &alice(), true);
        assert_eq!(map["connection"], "Upgrade");
        assert_eq!(map["upgrade"], "SPDY/3.1");
        assert!(map.get("x-a").is_none());
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(asks_to_upgrade(&headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket")
        ])));
        assert!(!asks_to_upgrade(&headers(&[("connection", "keep-alive"), ("upgrade", "websocket")])));
        assert!(!asks_to_upgrade(&headers(&[("connection", "upgrade")])));
    }

    #[test]
    fn a_cluster_can_not_set_cookies_or_ask_for_a_login() {
        let mut map = headers(&[("Set-Cookie", "a=b"), ("WWW-Authenticate", "Basic"), ("Content-Type", "x")]);
        towards_caller(&mut map, false);
        assert_eq!(map.len(), 1);
    }
}
