//! What the agent lets through to its API server.
//!
//! The tower checks its callers; this is the second of two locks, on the member's own side. Only Kubernetes API paths in origin form pass, the
//! identity is the agent's own whatever the request says, and `system:masters`, which no RBAC can limit, is never impersonated
//! (`spec/security-checklist.md` 1, 3, 4).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};

/// The paths that are the API's, each alone or with what is below it. Not `/logs`: those are files of the control plane's machine.
const ROOTS: [&str; 9] =
    ["api", "apis", "openapi", "version", "healthz", "livez", "readyz", "metrics", ".well-known"];
/// The longest path and query; kube-apiserver's own limit for a whole head is a megabyte, and this is many label selectors.
const MAX_URI: usize = 128 * 1024;
/// The protocols of `exec`, `attach` and `port-forward`.
const PROTOCOLS: [&str; 2] = ["websocket", "spdy/3.1"];
/// A group that is above RBAC.
const MASTERS: &str = "system:masters";

/// Why a request is not let through.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// A method that is none of the API's.
    #[error("the agent lets no {0} requests through")]
    Method(Method),
    /// The target is not a path.
    #[error("the agent serves its own API server only: the target must be a path")]
    NotOrigin,
    /// The target is too long.
    #[error("the request's target is longer than {MAX_URI} bytes")]
    TooLong,
    /// The path is written so that two readers may understand it differently.
    #[error(
        "the path contains an empty segment, a dot segment, a backslash, or an escape that stands for one; write it plainly"
    )]
    Ambiguous,
    /// The path is none of the API's; said as an API server says it of a path that it does not know.
    #[error("the server could not find the requested resource")]
    Path,
    /// An upgrade to something that the API does not speak.
    #[error("the agent lets upgrades to websocket and SPDY/3.1 through, and no others")]
    Upgrade,
    /// An identity that is written in a way the API server may not understand as it was meant.
    #[error(
        "the request's impersonation headers are not such as Kubernetes clients write: {0} is unknown, or stands there more often than once"
    )]
    Impersonation(HeaderName),
    /// The group above RBAC.
    #[error("the agent never impersonates the group {MASTERS}")]
    Masters,
}

impl Refusal {
    /// The status code and Kubernetes' reason for it.
    pub fn code(&self) -> (u16, &'static str) {
        match self {
            Self::Method(_) => (405, "MethodNotAllowed"),
            Self::NotOrigin | Self::Ambiguous | Self::Upgrade | Self::Impersonation(_) => (400, "BadRequest"),
            Self::TooLong => (414, "RequestURITooLong"),
            Self::Path => (404, "NotFound"),
            Self::Masters => (403, "Forbidden"),
        }
    }
}

/// What kind of answer a request that was let through wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// An ordinary one.
    Plain,
    /// A change of protocols.
    Upgrade,
}

/// Checks a request and takes out of it what is for the agent and not for the API server.
pub fn check<B>(request: &mut Request<B>) -> Result<Passed, Refusal> {
    method(request.method())?;
    target(request.uri())?;
    let passed = upgrade(request.headers_mut())?;
    identity(request.headers_mut())?;
    Ok(passed)
}

fn method(method: &Method) -> Result<(), Refusal> {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    if known.contains(method) { Ok(()) } else { Err(Refusal::Method(method.clone())) }
}

fn target(uri: &Uri) -> Result<(), Refusal> {
    if uri.scheme().is_some() || uri.authority().is_some() || !uri.path().starts_with('/') {
        return Err(Refusal::NotOrigin);
    }
    if uri.path_and_query().is_some_and(|target| target.as_str().len() > MAX_URI) {
        return Err(Refusal::TooLong);
    }
    let path = uri.path();
    if is_ambiguous(path) {
        return Err(Refusal::Ambiguous);
    }
    let root = path[1..].split('/').next().unwrap_or_default();
    if ROOTS.contains(&root) { Ok(()) } else { Err(Refusal::Path) }
}

/// Whether readers of a path may disagree about it: about its segments, or about where it leads.
fn is_ambiguous(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    if path.contains('\\') || ["%2f", "%5c", "%2e", "%00", "%25"].iter().any(|escape| lower.contains(escape))
    {
        return true;
    }
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        // A slash at the end is how some clients write a collection.
        let empty = segment.is_empty() && (segments.peek().is_some() || path == "//");
        if empty || segment == "." || segment == ".." {
            return true;
        }
    }
    false
}

/// Takes out the headers that are about the connection (RFC 9110 §7.6.1), but for those of an upgrade.
fn upgrade(headers: &mut HeaderMap) -> Result<Passed, Refusal> {
    let wanted: Vec<HeaderValue> = headers.get_all(header::UPGRADE).iter().cloned().collect();
    strip(headers);
    let protocol = match wanted.as_slice() {
        [] => return Ok(Passed::Plain),
        [one] => one,
        _ => return Err(Refusal::Upgrade),
    };
    let known = protocol.to_str().is_ok_and(|text| PROTOCOLS.contains(&text.to_ascii_lowercase().as_str()));
    if !known {
        return Err(Refusal::Upgrade);
    }
    headers.insert(header::UPGRADE, protocol.clone());
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    Ok(Passed::Upgrade)
}

/// Takes out the headers that are about one connection, also those that `Connection` names.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        // Who is impersonated is checked, not dropped at the word of another header: that would run the request with the agent's own rights.
        if !is_impersonation(&name) {
            headers.remove(name);
        }
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ] {
        headers.remove(name);
    }
}

fn normal(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

fn is_impersonation(name: &HeaderName) -> bool {
    normal(name).starts_with("impersonate-")
}

/// The agent's credential takes the place of the caller's; whom the request acts as must be said as Kubernetes clients say it.
fn identity(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = normal(name);
            name == "authorization" || name == "cookie" || name.starts_with("x-remote-")
        })
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
    for name in headers.keys().filter(|name| is_impersonation(name)) {
        let single = ["impersonate-user", "impersonate-uid"].contains(&name.as_str());
        let known = single
            || name == "impersonate-group"
            || name.as_str().strip_prefix("impersonate-extra-").is_some_and(|key| !key.is_empty());
        if !known || (single && headers.get_all(name).iter().count() > 1) {
            return Err(Refusal::Impersonation(name.clone()));
        }
    }
    let masters =
        |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(MASTERS.as_bytes());
    if headers.get_all("impersonate-group").iter().any(masters) {
        return Err(Refusal::Masters);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(target: &str) -> Request<()> {
        Request::get(target).body(()).unwrap()
    }

    fn with(headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::get("/api/v1/pods");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn paths_of_the_api_are_let_through() {
        for target in [
            "/api",
            "/api/v1/namespaces/a/pods/b/exec?command=ls&stdout=true",
            "/apis/",
            "/apis/apps/v1/deployments?watch=true",
            "/openapi/v3/apis/apps/v1?hash=1",
            "/version",
            "/healthz",
            "/livez?verbose",
            "/readyz/ping",
            "/metrics",
            "/.well-known/openid-configuration",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "/api/v1/namespaces/a/services/https:b:443/proxy/",
        ] {
            assert_eq!(check(&mut get(target)), Ok(Passed::Plain), "{target}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        for (target, refusal) in [
            ("/", Refusal::Path),
            ("/logs/kube-apiserver.log", Refusal::Path),
            ("/apiserver", Refusal::Path),
            ("/API/v1", Refusal::Path),
            ("/kapis/x", Refusal::Path),
            ("/debug/pprof/heap", Refusal::Path),
            ("/%61pi/v1", Refusal::Path),
            ("//api", Refusal::Ambiguous),
            ("//", Refusal::Ambiguous),
            ("/api//v1", Refusal::Ambiguous),
            ("/api/../logs", Refusal::Ambiguous),
            ("/api/./v1", Refusal::Ambiguous),
            ("/api/v1/..", Refusal::Ambiguous),
            ("/api/%2e%2E/logs", Refusal::Ambiguous),
            ("/api/v1%2Fpods", Refusal::Ambiguous),
            ("/api/v1%5cpods", Refusal::Ambiguous),
            ("/api/v1%252fpods", Refusal::Ambiguous),
            ("/api/v1%00", Refusal::Ambiguous),
            ("https://169.254.169.254/api", Refusal::NotOrigin),
            ("http://localhost/api", Refusal::NotOrigin),
        ] {
            assert_eq!(check(&mut get(target)), Err(refusal), "{target}");
        }
        let authority = Request::builder().method("GET").uri("localhost:10250").body(()).unwrap();
        assert_eq!(check(&mut { authority }), Err(Refusal::NotOrigin));
        let long = format!("/api?{}", "x".repeat(MAX_URI.min(60_000)));
        assert_eq!(check(&mut get(&long)), Ok(Passed::Plain));
        for method in [Method::CONNECT, Method::TRACE, "PROPFIND".parse().unwrap()] {
            let mut request = Request::builder().method(method.clone()).uri("/api").body(()).unwrap();
            assert_eq!(check(&mut request), Err(Refusal::Method(method)));
        }
    }

    #[test]
    fn the_callers_credentials_and_hops_are_taken_out() {
        let mut request = with(&[
            ("Authorization", "Bearer stolen"),
            ("authorization", "Basic again"),
            ("Proxy-Authorization", "Basic x"),
            ("Cookie", "a=b"),
            ("X-Remote-User", "admin"),
            ("x_remote_group", "system:masters"),
            ("Connection", "keep-alive, X-Secret"),
            ("X-Secret", "1"),
            ("Keep-Alive", "5"),
            ("TE", "trailers"),
            ("Transfer-Encoding", "chunked"),
            ("Accept", "application/json"),
            ("User-Agent", "kubectl"),
        ]);
        assert_eq!(check(&mut request), Ok(Passed::Plain));
        let mut left: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "user-agent"]);
    }

    #[test]
    fn an_upgrade_keeps_what_it_needs_and_nothing_else_is_upgraded_to() {
        for protocol in ["SPDY/3.1", "websocket", "WebSocket"] {
            let mut request = with(&[
                ("Connection", "keep-alive, Upgrade"),
                ("Upgrade", protocol),
                ("Sec-WebSocket-Key", "k"),
                ("X-Stream-Protocol-Version", "v5.channel.k8s.io"),
            ]);
            assert_eq!(check(&mut request), Ok(Passed::Upgrade));
            assert_eq!(request.headers()["upgrade"], protocol);
            assert_eq!(request.headers()["connection"], "Upgrade");
            assert_eq!(request.headers().len(), 4);
        }
        for protocol in ["h2c", "TLS/1.0", "websocket, h2c", ""] {
            assert_eq!(check(&mut with(&[("Upgrade", protocol)])), Err(Refusal::Upgrade), "{protocol:?}");
        }
        let twice = &mut with(&[("Upgrade", "websocket"), ("Upgrade", "h2c")]);
        assert_eq!(check(twice), Err(Refusal::Upgrade));
    }

    #[test]
    fn impersonation_passes_as_clients_write_it_and_never_to_masters() {
        let mut plain = with(&[
            ("Impersonate-User", "jane"),
            ("Impersonate-Group", "dev"),
            ("Impersonate-Group", "system:authenticated"),
            ("Impersonate-Uid", "1"),
            ("Impersonate-Extra-Scopes", "a"),
        ]);
        assert_eq!(check(&mut plain), Ok(Passed::Plain));
        assert_eq!(plain.headers().len(), 5);
        for value in ["system:masters", " system:masters ", "SYSTEM:Masters"] {
            let group = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            let mut request = with(&[("Impersonate-User", "jane"), ("Impersonate-Group", "dev")]);
            request.headers_mut().append("impersonate-group", group);
            assert_eq!(check(&mut request), Err(Refusal::Masters), "{value:?}");
        }
        for headers in [
            &[("Impersonate-User", "a"), ("Impersonate-User", "b")][..],
            &[("Impersonate_User", "a")],
            &[("Impersonate-Groups", "a")],
            &[("Impersonate-Extra-", "a")],
            // Dropped by a header of its own, it would leave the agent's rights.
            &[("Connection", "Impersonate-User"), ("Impersonate-User", "a"), ("Impersonate-Userx", "a")],
        ] {
            assert!(matches!(check(&mut with(headers)), Err(Refusal::Impersonation(_))), "{headers:?}");
        }
        let mut named = with(&[("Connection", "Impersonate-User"), ("Impersonate-User", "a")]);
        assert_eq!(check(&mut named), Ok(Passed::Plain));
        assert_eq!(named.headers()["impersonate-user"], "a");
    }

    proptest! {
        /// However a path is read, what was let through stays below its root: decoding and normalising change nothing about that.
        #[test]
        fn what_passes_stays_below_its_root(path in "/(api|apis|version|x)?([/.%\\\\a-f0-9A-F2]{0,12})") {
            let Ok(uri) = path.parse::<Uri>() else { return Ok(()) };
            if target(&uri).is_err() {
                return Ok(());
            }
            let mut decoded = path.clone();
            for (escape, byte) in [("%2f", "/"), ("%2F", "/"), ("%2e", "."), ("%2E", "."), ("%5c", "/"), ("%5C", "/")] {
                decoded = decoded.replace(escape, byte);
            }
            let mut depth = 0_i32;
            for segment in decoded.trim_start_matches('/').split('/') {
                depth += match segment { "" | "." => 0, ".." => -1, _ => 1 };
                prop_assert!(depth > 0, "{}", path);
            }
            let root = decoded.trim_start_matches('/').split('/').next().unwrap_or_default();
            prop_assert!(ROOTS.contains(&root), "{}", path);
        }

        /// No header of a caller makes the API server believe in a credential that is not the agent's.
        #[test]
        fn no_credential_of_a_caller_passes(name in "(authorization|proxy-authorization|cookie|x-remote-[a-z]{1,5})", capitals: u32, value in "[a-z]{1,8}") {
            let case = |(i, c): (usize, char)| if capitals >> (i % 32) & 1 == 1 { c.to_ascii_uppercase() } else { c };
            let name: String = name.chars().enumerate().map(case).collect();
            let mut request = get("/api");
            request.headers_mut().insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            prop_assert_eq!(check(&mut request), Ok(Passed::Plain));
            prop_assert!(request.headers().is_empty());
        }
    }
}
