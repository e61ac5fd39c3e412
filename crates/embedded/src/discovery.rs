//! What is served: `/api`, `/apis` in both forms, `/version`, health, and where the schemas are.

use hansa_machinery::{Status, kubernetes::KUBERNETES, path::RequestInfo};
use http::{HeaderMap, HeaderValue, Response, header};
use serde_json::{Value, json};

use crate::{
    Body, Server,
    api::accept::{self, Range},
    handle::{document, json_response, text},
    openapi,
    registry::{Catalogue, Group, Resource, api_version},
};

/// Answers a request for a path that is no API object.
pub(crate) fn answer(
    server: &Server,
    info: &RequestInfo,
    accept: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let catalogue = server.registry().catalogue();
    let path = info.path.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    if info.verb != "get" && info.verb != "head" {
        return Err(Status::no_such_resource());
    }
    match parts.as_slice() {
        [] => Ok(document(&json!({"paths": paths(&catalogue)}))),
        ["healthz" | "livez" | "readyz", rest @ ..] => health(server, rest),
        ["version"] => Ok(document(&version())),
        ["api"] => Ok(aggregated(&catalogue, accept, true).unwrap_or_else(|| {
            document(&json!({
                "kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [],
            }))
        })),
        ["apis"] => Ok(aggregated(&catalogue, accept, false).unwrap_or_else(|| {
            let groups: Vec<Value> = named(&catalogue).map(group).collect();
            document(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        })),
        ["api", version] => resources(&catalogue, "", version),
        ["apis", name] => {
            let found = named(&catalogue).find(|g| g.name == *name).ok_or_else(Status::no_such_resource)?;
            let mut group = group(found);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            Ok(document(&group))
        }
        ["apis", name, version] => resources(&catalogue, name, version),
        ["openapi", ..] => openapi::answer(server, &catalogue, &parts, accept, headers),
        [".well-known", "openid-configuration"] => Ok(document(&server.auth().openid_configuration())),
        ["openid", "v1", "jwks"] => Ok(document(&server.auth().jwks())),
        _ => Err(Status::no_such_resource()),
    }
}

fn named(catalogue: &Catalogue) -> impl Iterator<Item = &Group> {
    catalogue.groups.iter().filter(|g| !g.name.is_empty())
}

fn paths(catalogue: &Catalogue) -> Vec<String> {
    let mut paths: Vec<String> =
        ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"].map(String::from).into();
    for group in named(catalogue) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|(version, _)| format!("/apis/{}/{version}", group.name)));
    }
    paths.extend(
        ["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]
            .map(String::from),
    );
    paths
}

fn health(server: &Server, checks: &[&str]) -> Result<Response<Body>, Status> {
    if server.is_stopping() {
        return Ok(text(500, "the server is shutting down"));
    }
    match checks {
        [] | ["ping" | "etcd" | "log" | "poststarthook", ..] => Ok(text(200, "ok")),
        _ => Err(Status::no_such_resource()),
    }
}

fn version() -> Value {
    let mut numbers = KUBERNETES.version.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    json!({
        "major": major, "minor": minor,
        "gitVersion": format!("v{}+embedded", KUBERNETES.version),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, arch()),
    })
}

/// The machine, as Go names it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn group(group: &Group) -> Value {
    let versions = group
        .versions
        .iter()
        .map(|(version, _)| json!({"groupVersion": api_version(&group.name, version), "version": version}));
    let versions: Vec<Value> = versions.collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions.first()})
}

fn resources(catalogue: &Catalogue, group: &str, version: &str) -> Result<Response<Body>, Status> {
    let resources = catalogue.version(group, version).ok_or_else(Status::no_such_resource)?;
    let mut list = Vec::new();
    for resource in resources.values() {
        list.push(legacy(resource));
        for sub in &resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.name, sub.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if let (Some(group), Some(version)) = (&sub.group, &sub.version) {
                entry["group"] = group.clone().into();
                entry["version"] = version.clone().into();
            }
            list.push(entry);
        }
    }
    Ok(document(&json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version), "resources": list,
    })))
}

fn legacy(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.name, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        entry["categories"] = resource.categories.clone().into();
    }
    if resource.is_stored() {
        entry["storageVersionHash"] = storage_version_hash(resource).into();
    }
    entry
}

/// Changes when the version that objects are stored in does; clients only compare it.
fn storage_version_hash(resource: &Resource) -> String {
    use sha2::Digest;
    let version = resource.custom.as_ref().map_or(resource.version.as_str(), |c| c.storage_version.as_str());
    let digest = sha2::Sha256::digest(format!("{}/{version}/{}", resource.group, resource.kind));
    base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &digest[..8])
}

/// Aggregated discovery (`APIGroupDiscoveryList`), if the caller prefers it.
fn aggregated(catalogue: &Catalogue, accept: &str, core: bool) -> Option<Response<Body>> {
    let wanted = |range: &Range| {
        range.kind == "APIGroupDiscoveryList"
            && range.group == "apidiscovery.k8s.io"
            && matches!(range.version.as_str(), "v2" | "v2beta1")
    };
    // In the caller's order of preference: what comes first and is known is sent.
    let range = accept::ranges(accept).into_iter().find(|range| range.kind.is_empty() || wanted(range))?;
    if range.kind.is_empty() {
        return None;
    }
    let groups = catalogue.groups.iter().filter(|g| g.name.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|(version, resources)| {
                    let resources: Vec<Value> = resources.values().map(|r| discovered(r)).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            let metadata = if core {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group.name, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{}", range.version), "metadata": {},
        "items": items,
    });
    let mut response = json_response(200, body.to_string().into(), false);
    let content_type =
        format!("application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList", range.version);
    if let Ok(value) = HeaderValue::from_str(&content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    Some(response)
}

fn discovered(resource: &Resource) -> Value {
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": resource.name,
        "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        entry["categories"] = resource.categories.clone().into();
    }
    if !resource.subresources.is_empty() {
        let subresources = resource.subresources.iter().map(|sub| {
            let group = sub.group.as_deref().unwrap_or(&resource.group);
            let version = sub.version.as_deref().unwrap_or(&resource.version);
            json!({
                "subresource": sub.name, "responseKind": kind(group, version, &sub.kind), "verbs": sub.verbs,
            })
        });
        entry["subresources"] = subresources.collect();
    }
    entry
}
