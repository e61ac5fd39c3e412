//! Which cluster a request is for, decided once from its path (`spec/kubesphere-multicluster.md` §2.1).

use hansa_machinery::Status;
use http::Method;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The cluster's name; `host` for requests that name none.
    pub cluster: String,
    /// The path as that cluster's own API server knows it.
    pub path: String,
}

/// The name under which every gateway reaches its own host.
pub const HOST: &str = "host";

/// Prefixes that the older URL form puts before `clusters`.
const API_PREFIXES: &[&str] = &["api", "apis", "kapis", "kapi"];

/// Reads `/clusters/{c}/…` and the older `/{api|apis|kapis}/clusters/{c}/…`; every other path is the host's own.
///
/// # Errors
/// 400 for a path that is not in canonical form or names no valid cluster.
///
/// Only the segment in exactly that place counts: `/apis/cluster.kubesphere.io/v1alpha1/clusters/m1` is an object on the
/// host. Paths that two parsers could read differently are refused rather than repaired.
pub fn route(path: &str) -> Result<Route, Status> {
    let suspicious = !path.starts_with('/')
        || path.contains("//")
        || path.contains('\\')
        || path.split('/').any(|s| s == "." || s == "..")
        || encoded(path).any(|byte| matches!(byte, b'/' | b'\\' | b'.' | b'%' | 0..=31 | 127));
    if suspicious {
        return Err(Status::bad_request("the path is not in canonical form"));
    }
    let rest = |segments: &[&str]| format!("/{}", segments.join("/"));
    let segments: Vec<&str> = path[1..].split('/').collect();
    let (cluster, path) = match segments.as_slice() {
        ["clusters", cluster, rest_of @ ..] => (*cluster, rest(rest_of)),
        [prefix, "clusters", cluster, rest_of @ ..] if API_PREFIXES.contains(prefix) => {
            (*cluster, rest(&[&[*prefix], rest_of].concat()))
        }
        _ => (HOST, path.to_owned()),
    };
    if !is_cluster_name(cluster) {
        return Err(Status::bad_request("the path names no valid cluster"));
    }
    Ok(Route { cluster: cluster.to_owned(), path })
}

/// The verb under which reaching a cluster by this method is authorised.
///
/// # Errors
/// 405 for a method that no Kubernetes API has.
pub fn verb(method: &Method) -> Result<&'static str, Status> {
    match method.as_str() {
        "GET" | "HEAD" | "OPTIONS" => Ok("get"),
        "POST" => Ok("create"),
        "PUT" => Ok("update"),
        "PATCH" => Ok("patch"),
        "DELETE" => Ok("delete"),
        _ => Err(Status::new(405, "MethodNotAllowed", "no Kubernetes API uses this method")),
    }
}

/// The bytes that are percent-encoded in `path`; a broken escape counts as an encoded `%`.
fn encoded(path: &str) -> impl Iterator<Item = u8> + '_ {
    let bytes = path.as_bytes();
    bytes.iter().enumerate().filter(|(_, b)| **b == b'%').map(|(at, _)| {
        let digits = bytes.get(at + 1..at + 3).and_then(|d| std::str::from_utf8(d).ok());
        digits.and_then(|d| u8::from_str_radix(d, 16).ok()).unwrap_or(b'%')
    })
}

/// Whether this can be the name of a cluster: a DNS-1123 subdomain, as every object name of their kind.
pub fn is_cluster_name(name: &str) -> bool {
    let label = |l: &str| {
        let bytes = l.as_bytes();
        !bytes.is_empty()
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(path: &str) -> (String, String) {
        let route = route(path).unwrap();
        (route.cluster, route.path)
    }

    #[test]
    fn both_url_forms_name_a_cluster() {
        let pods = ("m1".to_owned(), "/api/v1/namespaces/x/pods".to_owned());
        assert_eq!(routed("/clusters/m1/api/v1/namespaces/x/pods"), pods);
        assert_eq!(routed("/api/clusters/m1/v1/namespaces/x/pods"), pods);
        assert_eq!(routed("/apis/clusters/m1/apps/v1/deployments").1, "/apis/apps/v1/deployments");
        assert_eq!(routed("/clusters/m1"), ("m1".into(), "/".into()));
        assert_eq!(routed("/clusters/m1/version").1, "/version");
    }

    #[test]
    fn only_the_exact_place_counts() {
        for path in [
            "/apis/cluster.kubesphere.io/v1alpha1/clusters/m1",
            "/kapis/openpitrix.io/v1/workspaces/w/clusters/c/namespaces/n/applications",
            "/api/v1/namespaces/clusters/pods",
            "/clusters",
            "/",
        ] {
            assert_eq!(routed(path), (HOST.into(), path.into()));
        }
        // A second cluster segment belongs to the first cluster's own API.
        assert_eq!(routed("/clusters/m1/clusters/m2/api").1, "/clusters/m2/api");
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for path in [
            "/clusters/m1/api/../../host",
            "/clusters/m1//api",
            "/clusters/m1%2fapi",
            "/clusters/m1/%2e%2e/api",
            "/clusters/m1/api/%252e",
            "/clusters/m1/%zz",
            "/clusters/m1/%0a",
            "/clusters//api",
            "/clusters/M1/api",
            "/clusters/-/api",
            "/clusters/m1/./api",
            "clusters/m1/api",
            "http://elsewhere/api",
            "/clusters/m1\\api",
        ] {
            assert_eq!(route(path).unwrap_err().code, 400, "{path}");
        }
    }

    #[test]
    fn harmless_escapes_pass_unchanged() {
        assert_eq!(routed("/clusters/m1/api/v1/pods/a%20b").1, "/api/v1/pods/a%20b");
    }
}
