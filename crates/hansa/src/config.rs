//! The KubeFedConfig a process starts with (`spec/kubefed.md §1.2, §2.1`).

use std::{env, fs, path::Path};

use anyhow::{Context, Result, bail};
use hansa_api::{KubeFedConfig, Settings, kubefed::KubeFedConfigSpec, kubefed::Scope, names};
use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
    core::ApiResource,
};
use serde_json::Value;

/// The scope a federation is to have; made for tests of distributions, and still used.
const DEFAULT_SCOPE: &str = "DEFAULT_KUBEFED_SCOPE";

/// A KubeFedConfig, and what it means.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) config: KubeFedConfig,
    pub(crate) settings: Settings,
}

/// The configuration of the controllers: from `file` if there is one, which writes nothing to the host, else the host's. Where there is none it
/// is made.
pub(crate) async fn load(host: &Client, namespace: &str, file: Option<&Path>) -> Result<Config> {
    let asked = default_scope(env::var(DEFAULT_SCOPE).ok().as_deref())?;
    let found = match file {
        Some(file) => {
            let text = fs::read_to_string(file)
                .with_context(|| format!("cannot read the KubeFedConfig {}", file.display()))?;
            serde_saphyr::from_str(&text)
                .with_context(|| format!("{} is no KubeFedConfig", file.display()))?
        }
        None => find(host, namespace, asked).await?,
    };
    let said = understand(&found, namespace).with_context(|| match file {
        Some(file) => format!("the KubeFedConfig in {} cannot be used", file.display()),
        None => format!("the KubeFedConfig {} cannot be used", qualified(namespace)),
    })?;
    agrees(said.config.spec.scope, asked, namespace)?;
    tracing::info!("Using valid KubeFedConfig {}", qualified(namespace));
    Ok(said)
}

/// What the host says for processes that only look; the defaults where it says nothing.
pub(crate) async fn read(host: &Client, namespace: &str) -> Result<Settings> {
    match get(host, namespace).await? {
        Some(found) => Ok(understand(&found, namespace)?.settings),
        None => Ok(Settings::default()),
    }
}

fn qualified(namespace: &str) -> String {
    format!("\"{namespace}/{}\"", names::KUBEFED_CONFIG)
}

fn api(host: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(host.clone(), namespace, &ApiResource::erase::<KubeFedConfig>(&()))
}

async fn get(host: &Client, namespace: &str) -> Result<Option<Value>> {
    let found = api(host, namespace).get_opt(names::KUBEFED_CONFIG).await;
    let found =
        found.map_err(|error| anyhow::anyhow!(hansa_transport::explain(&error))).with_context(|| {
            format!("the KubeFedConfig {} cannot be read from the host", qualified(namespace))
        })?;
    Ok(found.map(serde_json::to_value).transpose()?)
}

async fn find(host: &Client, namespace: &str, asked: Option<Scope>) -> Result<Value> {
    if let Some(found) = get(host, namespace).await? {
        return Ok(found);
    }
    tracing::info!("creating KubeFedConfig {} with default values", qualified(namespace));
    // Complete, so that it is the same whether the webhook that would complete it is there or not.
    let spec =
        KubeFedConfigSpec { scope: asked.unwrap_or_default(), ..KubeFedConfigSpec::default() }.defaulted();
    let config = serde_json::to_value(named(spec, namespace))?;
    match api(host, namespace).create(&PostParams::default(), &serde_json::from_value(config)?).await {
        Ok(made) => Ok(serde_json::to_value(made)?),
        // Another replica was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            get(host, namespace).await?.context("the KubeFedConfig was deleted while it was being made")
        }
        Err(error) => bail!(
            "the KubeFedConfig {} cannot be made: {}; `hansa install` prepares a host",
            qualified(namespace),
            hansa_transport::explain(&error)
        ),
    }
}

fn named(spec: KubeFedConfigSpec, namespace: &str) -> KubeFedConfig {
    let mut config = KubeFedConfig::new(names::KUBEFED_CONFIG, spec);
    config.metadata.namespace = Some(namespace.to_owned());
    config
}

/// Whatever namespace a file names, it is that of this control plane.
fn understand(found: &Value, namespace: &str) -> Result<Config> {
    let spec = KubeFedConfigSpec::read(found)?;
    let settings = spec.settings()?;
    Ok(Config { config: named(spec, namespace), settings })
}

fn default_scope(text: Option<&str>) -> Result<Option<Scope>> {
    match text {
        None | Some("") => Ok(None),
        Some("Cluster") => Ok(Some(Scope::Cluster)),
        Some("Namespaced") => Ok(Some(Scope::Namespaced)),
        Some(other) => bail!("{DEFAULT_SCOPE} must be Cluster or Namespaced, not {other:?}"),
    }
}

/// KubeFed deleted a config of another scope and made a new one, whereby all that was set in it was lost, and what was federated under the former
/// scope was left to itself.
fn agrees(scope: Scope, asked: Option<Scope>, namespace: &str) -> Result<()> {
    match asked {
        Some(asked) if asked != scope => bail!(
            "the KubeFedConfig {} has the scope {scope:?}, and {DEFAULT_SCOPE} asks for {asked:?}; the scope of a federation cannot be changed: \
             unset {DEFAULT_SCOPE}, or, if nothing is federated, delete the config (kubectl delete kubefedconfig -n {namespace} {}) and start again",
            qualified(namespace),
            names::KUBEFED_CONFIG
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_config_of_another_scope_is_refused_and_never_replaced() {
        assert!(agrees(Scope::Cluster, None, "ns").is_ok());
        assert!(agrees(Scope::Namespaced, Some(Scope::Namespaced), "ns").is_ok());
        let error = agrees(Scope::Cluster, Some(Scope::Namespaced), "ns").unwrap_err().to_string();
        assert!(error.contains("ns/kubefed") && error.contains("unset DEFAULT_KUBEFED_SCOPE"), "{error}");
        assert!(default_scope(Some("cluster")).is_err());
    }

    #[test]
    fn the_namespace_of_a_file_is_not_its_own_choice() {
        let file = json!({"metadata": {"name": "x", "namespace": "y"}, "spec": {"scope": "Namespaced"}});
        let config = understand(&file, "ns").unwrap().config;
        assert_eq!(config.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(config.metadata.name.as_deref(), Some("kubefed"));
    }
}
