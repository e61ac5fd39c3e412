//! Clusters as the contexts of a user's own kubeconfig say how they are reached.

use std::path::Path;

use hansa_api::time::ByteString;
use hansa_transport::kubeconfig::flatten;
use hansa_transport::{KubeconfigError, Limits, Target, Transport};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Deserialize;
use serde_json::Value;

use crate::Error;

/// A cluster that joins or leaves, and what a KubeFedCluster will say of it.
#[derive(Clone)]
pub struct Member {
    pub(crate) client: Client,
    pub(crate) reached: Reached,
}

/// The part of a kubeconfig that outlives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Reached {
    /// Where.
    pub(crate) server: String,
    #[serde(rename = "certificate-authority-data")]
    certificate_authority: Option<String>,
    #[serde(rename = "insecure-skip-tls-verify")]
    pub(crate) insecure: bool,
    #[serde(rename = "proxy-url")]
    pub(crate) proxy: String,
    /// The name to check the server's certificate for, where it is not that of its address.
    pub(crate) tls_server_name: String,
}

impl Reached {
    /// The CA in the kubeconfig, if it brings one.
    pub(crate) fn ca(&self) -> Option<ByteString> {
        let data = self.certificate_authority.as_deref().filter(|data| !data.is_empty())?;
        serde_json::from_value(Value::from(data)).ok()
    }
}

impl Member {
    /// The cluster of a context.
    pub async fn from_kubeconfig(config: &Kubeconfig, context: &str) -> Result<Self, Error> {
        let client = client(config, context).await?;
        let flat = flat(config, context).map_err(|error| unusable(context, &error))?;
        let mut flat: Value = serde_json::from_str(&flat).map_err(|error| unusable(context, &error))?;
        let cluster = flat["clusters"][0]["cluster"].take();
        let reached = serde_json::from_value(without_nulls(cluster));
        Ok(Self { client, reached: reached.map_err(|error| unusable(context, &error))? })
    }
}

/// A client for the cluster of a context. Unlike the control plane, a command runs as the user, so programs that the kubeconfig names to sign in
/// are run, and other users are acted as.
pub async fn client(config: &Kubeconfig, context: &str) -> Result<Client, Error> {
    let target = flat(config, context).and_then(|flat| Target::from_kubeconfig(&flat, None));
    match target {
        Ok(target) => {
            let transport = Transport::new(target, Limits::default());
            Ok(transport.map_err(|error| unusable(context, &error))?.client("default"))
        }
        Err(KubeconfigError::Plugin(_) | KubeconfigError::Impersonation) => {
            let options =
                KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
            let config = kube::Config::from_custom_kubeconfig(config.clone(), &options).await;
            let config = config.map_err(|error| unusable(context, &error))?;
            Client::try_from(config).map_err(|error| unusable(context, &error))
        }
        Err(error) => Err(unusable(context, &error)),
    }
}

/// The part of the kubeconfig that speaks of the context, with the content of the files it names, whose paths are absolute in
/// a kubeconfig that was read from a file.
fn flat(config: &Kubeconfig, context: &str) -> Result<String, KubeconfigError> {
    let text = serde_json::to_string(config).unwrap_or_default();
    flatten(&text, Path::new("/"), Some(context))
}

fn unusable(context: &str, error: &dyn std::error::Error) -> Error {
    Error::File(format!("the context {context:?}: {error}"))
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, field| !field.is_null());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reached(cluster: Value) -> Reached {
        serde_json::from_value(without_nulls(cluster)).unwrap()
    }

    #[test]
    fn what_a_kubeconfig_says_of_a_cluster_is_kept() {
        let found = reached(json!({
            "server": "https://10.0.0.1:6443/k8s", "certificate-authority-data": "Y2E=", "proxy-url": null,
            "insecure-skip-tls-verify": false, "tls-server-name": "kubernetes", "certificate-authority": null,
        }));
        assert_eq!(found.ca(), Some(ByteString(b"ca".to_vec())));
        assert_eq!((found.server.as_str(), found.proxy.as_str()), ("https://10.0.0.1:6443/k8s", ""));
        assert_eq!(found.tls_server_name, "kubernetes");
        assert_eq!(reached(json!({"server": "https://a", "certificate-authority-data": ""})).ca(), None);
        assert!(reached(json!({"server": "https://a", "insecure-skip-tls-verify": true})).insecure);
    }
}
