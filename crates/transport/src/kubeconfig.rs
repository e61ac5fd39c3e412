//! Kubeconfigs: how a user says where a cluster is and what it is reached with.
//!
//! A kubeconfig that somebody gave us is data. It must not make the control plane run a program or read a file of its own, so those are
//! refused; and no error repeats what stands in it, since that may be a credential.

use std::path::Path;

use base64::Engine;
use kube::config::{AuthInfo, Cluster, Kubeconfig, KubeconfigError as ParseError};
use secrecy::ExposeSecret;

use crate::credential::{Credential, Identity};
use crate::endpoint::{Endpoint, EndpointError, Proxy, ProxyError};
use crate::tls::Tls;

/// Larger than any kubeconfig, smaller than what a Secret holds.
pub const MAX_KUBECONFIG: usize = 1 << 20;

/// How one cluster is reached, as far as it can be said in plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub endpoint: Endpoint,
    /// How its certificate is checked.
    pub tls: Tls,
    /// The proxy on the way.
    pub proxy: Option<Proxy>,
    /// What it is reached with.
    pub credential: Credential,
}

/// Why a kubeconfig cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum KubeconfigError {
    /// Too long to be one.
    #[error(
        "the kubeconfig is longer than {MAX_KUBECONFIG} bytes; give the entries of one cluster only (kubectl config view --minify --flatten)"
    )]
    TooLong,
    /// It does not parse.
    #[error("the kubeconfig does not parse{0}; it must be YAML with clusters, users and contexts")]
    Syntax(String),
    /// No context was named and none is current.
    #[error("the kubeconfig has no current-context; set one, or name the context to use{0}")]
    NoContext(String),
    /// An entry that is referred to is missing.
    #[error("the kubeconfig has no {kind} {name:?}{have}")]
    Missing {
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// What was looked for.
        name: String,
        /// What there is.
        have: String,
    },
    /// No address.
    #[error("the kubeconfig names no server for cluster {0:?}; set clusters[].cluster.server")]
    NoServer(String),
    /// The address does not parse.
    #[error("in the kubeconfig: {0}")]
    Endpoint(#[from] EndpointError),
    /// The proxy does not parse.
    #[error("in the kubeconfig: {0}")]
    Proxy(#[from] ProxyError),
    /// A field is not base64.
    #[error("the kubeconfig's {0} is not base64")]
    Base64(&'static str),
    /// A program is to be run.
    #[error(
        "the kubeconfig wants to run a program to sign in ({0}), which the control plane does not do; give a kubeconfig with a token or a client certificate, such as that of a ServiceAccount"
    )]
    Plugin(&'static str),
    /// A file is to be read.
    #[error(
        "the kubeconfig refers to a file in {field}; give its content instead (kubectl config view --minify --flatten --raw)"
    )]
    File {
        /// Where.
        field: &'static str,
    },
    /// A file cannot be read.
    #[error("the kubeconfig refers to {path} in {field}, which cannot be read: {reason}")]
    Unreadable {
        /// Where.
        field: &'static str,
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// Acting as somebody else.
    #[error(
        "the kubeconfig acts as another user (as, as-groups); give a kubeconfig that signs in as the user it means"
    )]
    Impersonation,
    /// Half a client certificate.
    #[error("the kubeconfig has only one of client-certificate-data and client-key-data; give both")]
    HalfIdentity,
    /// Nothing to sign in with.
    #[error("the kubeconfig has no credential for user {0:?}; give a token or a client certificate")]
    NoCredential(String),
}

fn parse(text: &str) -> Result<Kubeconfig, KubeconfigError> {
    if text.len() > MAX_KUBECONFIG {
        return Err(KubeconfigError::TooLong);
    }
    Kubeconfig::from_yaml(text).map_err(|error| {
        // The parser's own words show the line they speak of.
        let place = match &error {
            ParseError::Parse(inner) => inner.location(),
            _ => None,
        };
        let place = place.map(|place| format!(" (line {}, column {})", place.line(), place.column()));
        KubeconfigError::Syntax(place.unwrap_or_default())
    })
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.take(20).collect();
    if names.is_empty() { String::new() } else { format!("; it has: {}", names.join(", ")) }
}

fn select<'a>(
    config: &'a Kubeconfig,
    context: Option<&str>,
) -> Result<(&'a str, &'a Cluster, &'a str, Option<&'a AuthInfo>), KubeconfigError> {
    let contexts = || names(config.contexts.iter().map(|context| context.name.as_str()));
    let name = context
        .or(config.current_context.as_deref())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| KubeconfigError::NoContext(contexts()))?;
    let missing = |kind, name: &str, have| KubeconfigError::Missing { kind, name: name.to_owned(), have };
    let context = config
        .contexts
        .iter()
        .find(|context| context.name == name)
        .and_then(|context| context.context.as_ref())
        .ok_or_else(|| missing("context", name, contexts()))?;
    let cluster = config
        .clusters
        .iter()
        .find(|cluster| cluster.name == context.cluster)
        .and_then(|cluster| cluster.cluster.as_ref())
        .ok_or_else(|| {
            missing(
                "cluster",
                &context.cluster,
                names(config.clusters.iter().map(|cluster| cluster.name.as_str())),
            )
        })?;
    let user = context.user.as_deref().unwrap_or_default();
    let auth = match config.auth_infos.iter().find(|auth| auth.name == user) {
        Some(auth) => auth.auth_info.as_ref(),
        None if user.is_empty() => None,
        None => {
            return Err(missing(
                "user",
                user,
                names(config.auth_infos.iter().map(|auth| auth.name.as_str())),
            ));
        }
    };
    Ok((&context.cluster, cluster, user, auth))
}

fn decode(field: &'static str, text: &str) -> Result<Vec<u8>, KubeconfigError> {
    let text: String = text.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| KubeconfigError::Base64(field))
}

/// An optional text that counts only if there is something in it.
fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

impl Target {
    /// Reads the cluster that `context` (or the current context) of a kubeconfig names.
    pub fn from_kubeconfig(text: &str, context: Option<&str>) -> Result<Self, KubeconfigError> {
        let config = parse(text)?;
        let (cluster_name, cluster, user, auth) = select(&config, context)?;
        let server = given(cluster.server.as_deref())
            .ok_or_else(|| KubeconfigError::NoServer(cluster_name.to_owned()))?;
        let ca = match given(cluster.certificate_authority_data.as_deref()) {
            Some(data) => Some(decode("certificate-authority-data", data)?),
            None if given(cluster.certificate_authority.as_deref()).is_some() => {
                return Err(KubeconfigError::File { field: "certificate-authority" });
            }
            None => None,
        };
        let credential = auth.map(credential).transpose()?.unwrap_or_default();
        if credential == Credential::default() {
            return Err(KubeconfigError::NoCredential(user.to_owned()));
        }
        Ok(Self {
            endpoint: Endpoint::parse(server)?,
            tls: Tls {
                ca,
                insecure: cluster.insecure_skip_tls_verify.unwrap_or_default(),
                server_name: given(cluster.tls_server_name.as_deref()).map(str::to_owned),
                ..Tls::default()
            },
            proxy: given(cluster.proxy_url.as_deref()).map(Proxy::parse).transpose()?,
            credential,
        })
    }
}

fn credential(auth: &AuthInfo) -> Result<Credential, KubeconfigError> {
    if auth.exec.is_some() {
        return Err(KubeconfigError::Plugin("exec"));
    }
    if auth.auth_provider.is_some() {
        return Err(KubeconfigError::Plugin("auth-provider"));
    }
    let groups = auth.impersonate_groups.as_ref().is_some_and(|groups| !groups.is_empty());
    if groups
        || given(auth.impersonate.as_deref()).is_some()
        || given(auth.impersonate_uid.as_deref()).is_some()
    {
        return Err(KubeconfigError::Impersonation);
    }
    let token = auth.token.as_ref().map(|token| token.expose_secret()).filter(|token| !token.is_empty());
    if token.is_none() && given(auth.token_file.as_deref()).is_some() {
        return Err(KubeconfigError::File { field: "tokenFile" });
    }
    let key = auth.client_key_data.as_ref().map(|key| key.expose_secret()).filter(|key| !key.is_empty());
    let certificate = given(auth.client_certificate_data.as_deref());
    if certificate.is_none() && given(auth.client_certificate.as_deref()).is_some() {
        return Err(KubeconfigError::File { field: "client-certificate" });
    }
    if key.is_none() && given(auth.client_key.as_deref()).is_some() {
        return Err(KubeconfigError::File { field: "client-key" });
    }
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Identity {
            certificate: decode("client-certificate-data", certificate)?,
            key: decode("client-key-data", key)?,
        }),
        (None, None) => None,
        _ => return Err(KubeconfigError::HalfIdentity),
    };
    let basic = given(auth.username.as_deref()).map(|user| {
        let password = auth.password.as_ref().map(|password| password.expose_secret().to_owned());
        (user.to_owned(), password.unwrap_or_default())
    });
    Ok(Credential { token: token.map(str::to_owned), basic, identity })
}

/// The part of a kubeconfig that speaks of one context, so that credentials for other clusters stay where they are.
pub fn minify(text: &str, context: Option<&str>) -> Result<String, KubeconfigError> {
    let config = parse(text)?;
    let (_, cluster, _, auth) = select(&config, context)?;
    Ok(single(cluster, &auth.cloned().unwrap_or_default()))
}

fn single(cluster: &Cluster, auth: &AuthInfo) -> String {
    let flat = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "member",
        "clusters": [{ "name": "member", "cluster": cluster }],
        "users": [{ "name": "member", "user": auth }],
        "contexts": [{ "name": "member", "context": { "cluster": "member", "user": "member" } }],
    });
    // JSON is YAML.
    flat.to_string()
}

/// The part of a user's own kubeconfig that speaks of one context, with the content of the files it refers to in their place. Relative paths
/// are taken from `directory`, as kubectl does.
pub fn flatten(text: &str, directory: &Path, context: Option<&str>) -> Result<String, KubeconfigError> {
    let config = parse(text)?;
    let (_, cluster, _, auth) = select(&config, context)?;
    let read = |field: &'static str, file: &str| {
        let path = directory.join(file);
        std::fs::read(&path).map_err(|error| KubeconfigError::Unreadable {
            field,
            path: path.display().to_string(),
            reason: error.to_string(),
        })
    };
    let encode = |bytes: Vec<u8>| base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut cluster = cluster.clone();
    if let Some(file) = cluster.certificate_authority.take().filter(|file| !file.is_empty())
        && given(cluster.certificate_authority_data.as_deref()).is_none()
    {
        cluster.certificate_authority_data = Some(encode(read("certificate-authority", &file)?));
    }
    let mut auth = auth.cloned().unwrap_or_default();
    if let Some(file) = auth.client_certificate.take().filter(|file| !file.is_empty())
        && given(auth.client_certificate_data.as_deref()).is_none()
    {
        auth.client_certificate_data = Some(encode(read("client-certificate", &file)?));
    }
    if let Some(file) = auth.client_key.take().filter(|file| !file.is_empty())
        && auth.client_key_data.is_none()
    {
        auth.client_key_data = Some(encode(read("client-key", &file)?).into());
    }
    if let Some(file) = auth.token_file.take().filter(|file| !file.is_empty())
        && auth.token.is_none()
    {
        let token = String::from_utf8_lossy(&read("tokenFile", &file)?).trim().to_owned();
        auth.token = Some(token.into());
    }
    Ok(single(&cluster, &auth))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster: {cluster}\nusers:\n- name: u\n  user: {user}\n\
             contexts:\n- name: c\n  context: {{cluster: k, user: u}}\n"
        )
    }

    #[test]
    fn a_kubeconfig_says_where_and_with_what() {
        let text = config(
            "{server: 'https://10.0.0.1:6443', certificate-authority-data: YQ==, tls-server-name: kubernetes, proxy-url: 'http://p:3128'}",
            "{token: t}",
        );
        let target = Target::from_kubeconfig(&text, None).unwrap();
        assert_eq!(target.endpoint.to_string(), "https://10.0.0.1:6443");
        assert_eq!(target.tls.ca.as_deref(), Some(b"a".as_slice()));
        assert_eq!(target.tls.server_name.as_deref(), Some("kubernetes"));
        assert_eq!(target.credential, Credential::token("t"));
        assert_eq!(target.proxy.unwrap().to_string(), "http://p:3128");
    }

    #[test]
    fn what_cannot_or_must_not_be_used_is_refused() {
        let server = "{server: 'https://a:1'}";
        for (text, expected) in [
            ("{".to_owned(), "does not parse"),
            ("a: [1, 2".to_owned(), "does not parse"),
            ("apiVersion: v1\nkind: Config\n".to_owned(), "no current-context"),
            (config("{}", "{token: t}"), "names no server"),
            (config("{server: 'https://a:x'}", "{token: t}"), "not the address"),
            (
                config("{server: 'https://a', certificate-authority: /etc/ca}", "{token: t}"),
                "refers to a file in certificate-authority",
            ),
            (config("{server: 'https://a', certificate-authority-data: '%'}", "{token: t}"), "not base64"),
            (config("{server: 'https://a', proxy-url: 'x'}", "{token: t}"), "proxy URL"),
            (config(server, "{exec: {command: rm, apiVersion: v1}}"), "wants to run a program"),
            (config(server, "{auth-provider: {name: gcp}}"), "wants to run a program"),
            (config(server, "{tokenFile: /etc/shadow}"), "refers to a file in tokenFile"),
            (
                config(server, "{client-certificate: /a, client-key: /b}"),
                "refers to a file in client-certificate",
            ),
            (config(server, "{client-certificate-data: YQ==}"), "only one of"),
            (config(server, "{token: t, as: admin}"), "acts as another user"),
            (config(server, "{}"), "no credential"),
            ("x".repeat(MAX_KUBECONFIG + 1), "longer than"),
        ] {
            let error = Target::from_kubeconfig(&text, None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error =
            Target::from_kubeconfig(&config(server, "{token: t}"), Some("other")).unwrap_err().to_string();
        assert!(error.contains("no context \"other\"; it has: c"), "{error}");
    }

    #[test]
    fn an_error_does_not_repeat_what_stands_in_it() {
        let text = "users:\n- name: u\n  user: {token: s3cret\nclusters: [";
        let error = Target::from_kubeconfig(text, None).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }

    #[test]
    fn only_the_chosen_context_is_kept() {
        let text = "current-context: a\nclusters: [{name: a, cluster: {server: 'https://a:1'}}, {name: b, cluster: {server: 'https://b:1'}}]\n\
                    users: [{name: a, user: {token: ta}}, {name: b, user: {token: tb}}]\n\
                    contexts: [{name: a, context: {cluster: a, user: a}}, {name: b, context: {cluster: b, user: b}}]";
        let small = minify(text, Some("b")).unwrap();
        assert!(!small.contains("ta"), "{small}");
        let target = Target::from_kubeconfig(&small, None).unwrap();
        assert_eq!(
            (target.endpoint.to_string().as_str(), target.credential),
            ("https://b:1", Credential::token("tb"))
        );
    }

    #[test]
    fn flattening_puts_files_in_their_place() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.crt"), "CA").unwrap();
        std::fs::write(directory.path().join("token"), "t\n").unwrap();
        let text = config("{server: 'https://a:1', certificate-authority: ca.crt}", "{tokenFile: token}");
        let flat = flatten(&text, directory.path(), None).unwrap();
        let target = Target::from_kubeconfig(&flat, None).unwrap();
        assert_eq!(target.tls.ca.as_deref(), Some(b"CA".as_slice()));
        assert_eq!(target.credential, Credential::token("t"));
        let missing = config("{server: 'https://a:1', certificate-authority: nothing.crt}", "{token: t}");
        assert!(
            flatten(&missing, directory.path(), None).unwrap_err().to_string().contains("cannot be read")
        );
    }
}
