//! What a request is about: its verb and the resource its path names.
//!
//! The grammar is that of Kubernetes' `RequestInfoFactory`. The path is canonicalised once, here: forms that two readers
//! could understand differently are refused (`spec/security-checklist.md`, line 4).

use percent_encoding::percent_decode_str;

use crate::{selector::FieldSelector, status::Status};

/// A request, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; `proxy` for the old
    /// `/proxy/` prefix; for a path that is no resource, the HTTP method in lower case.
    pub verb: String,
    /// `api`, `apis`, or empty for a path that is no resource.
    pub prefix: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The namespace; for a namespace object, its own name.
    pub namespace: String,
    /// The plural resource name.
    pub resource: String,
    /// The object's name; for a list or watch, the name its field selector asks for.
    pub name: String,
    /// `status`, `scale`, …
    pub subresource: String,
    /// The segments from the resource on: resource, name, subresource and what follows it.
    pub parts: Vec<String>,
    /// The decoded, canonical path.
    pub path: String,
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// The `labelSelector` of a list, watch or deletecollection, unparsed.
    pub label_selector: Option<String>,
    /// The `fieldSelector` of a list, watch or deletecollection, unparsed.
    pub field_selector: Option<String>,
}

/// Subresources of a namespace, which are not resources inside it.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

impl RequestInfo {
    /// Understands a request from its method, its raw path and its raw query.
    pub fn parse(method: &str, path: &str, query: &str) -> Result<Self, Status> {
        let path = canonical(path)?;
        let segments: Vec<&str> = path.trim_matches('/').split('/').filter(|s| !s.is_empty()).collect();
        let mut info = Self { verb: method.to_ascii_lowercase(), path: path.clone(), ..Self::default() };
        let rest = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                (info.prefix, info.version) = ("api".into(), (*version).into());
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                (info.prefix, info.group, info.version) = ("apis".into(), (*group).into(), (*version).into());
                rest
            }
            _ => return Ok(info),
        };
        info.is_resource = true;

        let mut verb_in_path = false;
        let mut rest = rest;
        if let [special @ ("proxy" | "watch"), after @ ..] = rest {
            if after.is_empty() {
                return Err(Status::bad_request(format!(
                    "the path {path:?} names no resource after {special:?}"
                )));
            }
            (info.verb, verb_in_path, rest) = ((*special).into(), true, after);
        } else {
            info.verb = match method {
                "POST" => "create",
                "GET" | "HEAD" => "get",
                "PUT" => "update",
                "PATCH" => "patch",
                "DELETE" => "delete",
                _ => "",
            }
            .into();
        }

        if let ["namespaces", namespace, after @ ..] = rest {
            info.namespace = (*namespace).into();
            if after.first().is_some_and(|part| !NAMESPACE_SUBRESOURCES.contains(part)) {
                rest = after;
            }
        }
        let part = |index: usize| rest.get(index).map_or_else(String::new, |part| (*part).to_owned());
        (info.resource, info.name) = (part(0), part(1));
        if info.verb != "proxy" {
            info.subresource = part(2);
        }
        info.parts = rest.iter().map(|part| (*part).to_owned()).collect();
        info.refine(&query_pairs(query), verb_in_path);
        Ok(info)
    }

    /// Settles what depends on the query: a `get` or `delete` without a name is about a collection.
    fn refine(&mut self, query: &[(String, String)], verb_in_path: bool) {
        let first = |key: &str| query.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
        let field_selector = first("fieldSelector");
        if self.name.is_empty() && self.verb == "get" {
            // An empty value switches a flag on, as Kubernetes converts query parameters to booleans.
            self.verb =
                if first("watch").is_some_and(|flag| is_true(&flag)) { "watch" } else { "list" }.into();
            let selector = field_selector.as_deref().and_then(|text| FieldSelector::parse(text).ok());
            if let Some(name) = selector.as_ref().and_then(|selector| selector.exact("metadata.name"))
                && is_path_segment(name)
            {
                self.name = name.into();
            }
        }
        if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".into();
        }
        if !verb_in_path && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            self.field_selector = field_selector;
            self.label_selector = first("labelSelector");
        }
    }

    /// `deployments.apps`, or `pods` for the core group.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
}

/// Whether a query flag is on: Kubernetes takes everything but `false` and `0` for yes.
pub fn is_true(flag: &str) -> bool {
    !flag.eq_ignore_ascii_case("false") && flag != "0"
}

/// The decoded pairs of a query.
pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// Whether a name can stand as one path segment (Kubernetes' `IsPathSegmentName`).
pub fn is_path_segment(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%'])
}

/// The path, decoded once. Refused are all forms that another reader could resolve to a different path: absolute-form
/// targets, empty and dot segments, encoded or literal separators and backslashes, control characters, and what would
/// still be encoded after decoding.
pub fn canonical(path: &str) -> Result<String, Status> {
    let refuse =
        |why: &str| Err(Status::bad_request(format!("the request path {path:?} is not canonical: {why}")));
    let Some(tail) = path.strip_prefix('/') else {
        return refuse("it must begin with \"/\"");
    };
    let mut decoded = String::with_capacity(path.len());
    let segments: Vec<&str> = tail.split('/').collect();
    for (index, segment) in segments.iter().enumerate() {
        let Ok(text) = percent_decode_str(segment).decode_utf8() else {
            return refuse("it is not UTF-8 once decoded");
        };
        // One trailing slash is common and means the same path.
        if text.is_empty() && index + 1 < segments.len() {
            return refuse("it has an empty segment");
        }
        if text == "." || text == ".." {
            return refuse("it has a dot segment");
        }
        if text.contains(['/', '\\']) {
            return refuse("it has an encoded separator or a backslash in a segment");
        }
        if text.contains('%') {
            return refuse("it is malformed or encoded twice");
        }
        if text.contains(char::is_control) {
            return refuse("it has a control character");
        }
        if text.contains(['?', '#']) && !segment.contains('%') {
            return refuse("it has a query or a fragment");
        }
        decoded.push('/');
        decoded.push_str(&text);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// verb, prefix, group, version, namespace, resource, name, subresource
    fn brief(method: &str, path: &str, query: &str) -> String {
        let info = RequestInfo::parse(method, path, query).unwrap();
        assert!(info.is_resource, "{path}");
        let fields = [
            info.verb,
            info.prefix,
            info.group,
            info.version,
            info.namespace,
            info.resource,
            info.name,
            info.subresource,
        ];
        fields.map(|f| if f.is_empty() { "-".into() } else { f }).join(" ")
    }

    #[test]
    fn resource_paths_are_understood_as_kubernetes_does() {
        let cases = [
            ("GET", "/api/v1/namespaces", "", "list api - v1 - namespaces - -"),
            ("GET", "/api/v1/namespaces/", "", "list api - v1 - namespaces - -"),
            ("GET", "/api/v1/namespaces/other", "", "get api - v1 other namespaces other -"),
            (
                "PUT",
                "/api/v1/namespaces/other/finalize",
                "",
                "update api - v1 other namespaces other finalize",
            ),
            ("PATCH", "/api/v1/namespaces/other/status", "", "patch api - v1 other namespaces other status"),
            ("GET", "/api/v1/namespaces/other/pods", "", "list api - v1 other pods - -"),
            ("GET", "/api/v1/namespaces/other/pods", "watch", "watch api - v1 other pods - -"),
            ("GET", "/api/v1/namespaces/other/pods", "watch=true", "watch api - v1 other pods - -"),
            ("GET", "/api/v1/namespaces/other/pods", "watch=False", "list api - v1 other pods - -"),
            ("GET", "/api/v1/namespaces/other/pods", "watch=0", "list api - v1 other pods - -"),
            ("HEAD", "/api/v1/namespaces/other/pods/foo", "", "get api - v1 other pods foo -"),
            ("GET", "/api/v1/pods", "fieldSelector=metadata.name%3Dfoo", "list api - v1 - pods foo -"),
            ("GET", "/api/v1/pods", "fieldSelector=metadata.name%3D..", "list api - v1 - pods - -"),
            (
                "GET",
                "/api/v1/pods",
                "fieldSelector=metadata.name%3Da,spec.nodeName%3Db",
                "list api - v1 - pods a -",
            ),
            ("DELETE", "/api/v1/namespaces/other/pods", "", "deletecollection api - v1 other pods - -"),
            ("DELETE", "/api/v1/namespaces/other/pods/foo", "", "delete api - v1 other pods foo -"),
            (
                "POST",
                "/api/v1/namespaces/other/pods/foo/eviction",
                "",
                "create api - v1 other pods foo eviction",
            ),
            ("GET", "/api/v1/namespaces/other/pods/foo/proxy/a/b", "", "get api - v1 other pods foo proxy"),
            ("GET", "/api/v1/watch/namespaces/other/pods", "", "watch api - v1 other pods - -"),
            ("GET", "/api/v1/watch/pods", "", "watch api - v1 - pods - -"),
            ("GET", "/api/v1/proxy/namespaces/other/pods/foo/x", "", "proxy api - v1 other pods foo -"),
            (
                "PUT",
                "/apis/apps/v1/namespaces/n/deployments/d/scale",
                "",
                "update apis apps v1 n deployments d scale",
            ),
            (
                "GET",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "",
                "get apis rbac.authorization.k8s.io v1 - clusterroles system:node -",
            ),
            ("OPTIONS", "/api/v1/pods", "", "- api - v1 - pods - -"),
        ];
        for (method, path, query, expected) in cases {
            assert_eq!(brief(method, path, query), expected, "{method} {path}?{query}");
        }
    }

    #[test]
    fn other_paths_are_no_resources() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/api/v1/",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/healthz",
            "/openapi/v3/apis/apps/v1",
        ] {
            let info = RequestInfo::parse("GET", path, "").unwrap();
            assert!(!info.is_resource, "{path}");
            assert_eq!((info.verb.as_str(), info.resource.as_str()), ("get", ""), "{path}");
        }
        assert!(RequestInfo::parse("GET", "/api/v1/watch", "").is_err());
        assert!(RequestInfo::parse("GET", "/api/v1/proxy/", "").is_err());
    }

    #[test]
    fn selectors_are_kept_for_collections_only() {
        let query = "labelSelector=a%3Db&fieldSelector=spec.x%3Dy";
        let info = RequestInfo::parse("GET", "/api/v1/pods", query).unwrap();
        assert_eq!(info.label_selector.as_deref(), Some("a=b"));
        assert_eq!(info.field_selector.as_deref(), Some("spec.x=y"));
        let info = RequestInfo::parse("GET", "/api/v1/namespaces/n/pods/p", query).unwrap();
        assert_eq!(info.label_selector, None);
        let info = RequestInfo::parse("GET", "/api/v1/watch/pods", query).unwrap();
        assert_eq!(info.field_selector, None);
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        let bad = [
            "",
            "api/v1/pods",
            "http://host/api/v1/pods",
            "*",
            "//api/v1/pods",
            "/api//v1/pods",
            "/api/v1/pods//",
            "/api/v1/namespaces/a/../b/pods",
            "/api/v1/namespaces/%2e%2e/b",
            "/api/v1/namespaces/.%2E/b",
            "/api/v1/./pods",
            "/api/v1/namespaces/a%2fb/pods",
            "/api/v1/namespaces/a%2Fb/pods",
            "/api/v1/namespaces/a%5cb/pods",
            "/api/v1/namespaces/a\\b/pods",
            "/api/v1/namespaces/a%252fb/pods",
            "/api/v1/namespaces/a%00b/pods",
            "/api/v1/namespaces/a%zz/pods",
            "/api/v1/namespaces/a%/pods",
            "/api/v1/namespaces/%ff/pods",
            "/api/v1/pods?watch=1",
            "/api/v1/pods#x",
        ];
        for path in bad {
            let status = RequestInfo::parse("GET", path, "").unwrap_err();
            assert_eq!((status.code, status.reason), (400, "BadRequest"), "{path}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn no_path_makes_the_parser_panic(method in "[A-Z]{0,7}", path in "(/|%|\\.|[a-z%/.]|api|apis|namespaces|watch|proxy|\\PC){0,12}", query in "\\PC{0,24}") {
            if let Ok(info) = RequestInfo::parse(&method, &format!("/{path}"), &query) {
                prop_assert!(!info.path.contains("//") && !info.path.split('/').any(|s| s == ".."));
                prop_assert_eq!(canonical(&info.path).ok(), if info.path.contains(['?', '#']) { None } else { Some(info.path.clone()) });
            }
        }
    }
}
