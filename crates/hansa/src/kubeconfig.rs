//! The kubeconfig with one context per cluster, all through the gateway.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use hansa_api::names::SYSTEM_NAMESPACE;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config, ResourceExt,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{
    cli::{self, Format},
    get,
    output::{say, yaml},
};

/// The ConfigMap in which a gateway says where it is: `server` and `ca.crt`.
pub(crate) const GATEWAY: &str = "hansa-gateway";

/// Where `hansa up` keeps its state unless told otherwise (XDG Base Directory Specification).
pub(crate) fn default_data_dir() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    Ok(base.context("neither XDG_DATA_HOME nor HOME is set: give --data-dir")?.join("hansa"))
}

/// A gateway and a way to authenticate there.
pub(crate) struct Access {
    /// `https://host:port`.
    pub(crate) server: String,
    /// The gateway's CA, PEM; empty to trust the system's.
    pub(crate) ca: String,
    /// The `user` entry of a kubeconfig.
    pub(crate) user: Value,
}

impl Access {
    /// A kubeconfig with a context for each of `clusters`.
    pub(crate) fn kubeconfig(&self, clusters: &[String]) -> Value {
        let cluster = |name: &String| {
            let mut cluster = json!({"server": format!("{}/clusters/{name}", self.server)});
            if !self.ca.is_empty() {
                cluster["certificate-authority-data"] = STANDARD.encode(&self.ca).into();
            }
            json!({"name": name, "cluster": cluster})
        };
        let context = |name: &String| json!({"name": name, "context": {"cluster": name, "user": "hansa"}});
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": clusters.iter().map(cluster).collect::<Vec<_>>(),
            "contexts": clusters.iter().map(context).collect::<Vec<_>>(),
            "current-context": clusters.first().map_or("", String::as_str),
            "users": [{"name": "hansa", "user": self.user}],
        })
    }
}

/// `hansa kubeconfig`.
pub(crate) async fn run(args: &cli::Kubeconfig) -> Result<()> {
    let config = match data_dir(args)? {
        Some(dir) => of_data_dir(&dir).await?,
        None => of_host(&args.host).await?,
    };
    match args.output {
        Format::Json => say(&format!("{}\n", serde_json::to_string_pretty(&config)?)),
        Format::Yaml => say(&yaml(&config)?),
        Format::Table | Format::Wide | Format::Name => bail!("a kubeconfig is printed as yaml or json"),
    }
}

/// The data directory to read, if the host is one of `hansa up`: the one named, else the default one when nothing else
/// says where the host is.
fn data_dir(args: &cli::Kubeconfig) -> Result<Option<PathBuf>> {
    if let Some(dir) = &args.data_dir {
        return Ok(Some(dir.clone()));
    }
    let elsewhere =
        args.host.kubeconfig.is_some() || args.host.context.is_some() || env::var_os("KUBECONFIG").is_some();
    let default = default_data_dir()?;
    Ok((!elsewhere && default.join("kubeconfig").is_file()).then_some(default))
}

/// What `hansa up` wrote, with the clusters as they are now if it is running, else as it last knew them.
async fn of_data_dir(dir: &std::path::Path) -> Result<Value> {
    let file = dir.join("kubeconfig");
    let text = fs::read_to_string(&file).with_context(|| {
        format!("there is no host in {}: start one with `hansa up --data-dir {0}`", dir.display())
    })?;
    let stored: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))?;
    let kubeconfig: Kubeconfig = serde_json::from_value(stored.clone())?;
    let options = KubeConfigOptions { context: Some("host".to_owned()), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    match get::clusters(&Client::try_from(config)?).await {
        Ok(clusters) => {
            let first = &stored["clusters"][0]["cluster"];
            let server = first["server"].as_str().unwrap_or_default();
            let ca = first["certificate-authority-data"].as_str().unwrap_or_default();
            let access = Access {
                server: server.strip_suffix("/clusters/host").unwrap_or(server).to_owned(),
                ca: String::from_utf8(STANDARD.decode(ca)?)?,
                user: stored["users"][0]["user"].clone(),
            };
            Ok(access.kubeconfig(&clusters.iter().map(ResourceExt::name_any).collect::<Vec<_>>()))
        }
        Err(_) => Ok(stored),
    }
}

/// Asks the host where its gateway is and which clusters there are; the caller's own credentials go into the answer.
async fn of_host(host: &cli::HostArgs) -> Result<Value> {
    let (kubeconfig, context) = host.kubeconfig()?;
    let client = host.client()?;
    let gateway = Api::<ConfigMap>::namespaced(client.clone(), SYSTEM_NAMESPACE)
        .get_opt(GATEWAY)
        .await?
        .and_then(|c| c.data)
        .context("no gateway has made itself known on this host: start `hansa apiserver`")?;
    let user =
        kubeconfig.contexts.iter().find(|c| c.name == context).and_then(|c| c.context.as_ref()?.user.clone());
    let user = kubeconfig
        .auth_infos
        .iter()
        .find(|a| Some(&a.name) == user.as_ref())
        .and_then(|a| a.auth_info.as_ref());
    let user = user.with_context(|| format!("the context {context:?} has no user"))?;
    if user.token.is_none() && user.token_file.is_none() && user.exec.is_none() {
        bail!("the gateway takes bearer tokens, and the user of the context {context:?} has none");
    }
    let of = |key: &str| gateway.get(key).cloned().unwrap_or_default();
    let access = Access { server: of("server"), ca: of("ca.crt"), user: serde_json::to_value(user)? };
    let clusters = get::clusters(&client).await?;
    Ok(access.kubeconfig(&clusters.iter().map(ResourceExt::name_any).collect::<Vec<_>>()))
}
