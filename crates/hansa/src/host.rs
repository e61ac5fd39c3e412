//! Finding the host, as kubectl finds its cluster.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use hansa_transport::{Credential, Endpoint, Limits, Target, Transport, kubeconfig::flatten};
use kube::{Client, config::Kubeconfig};
use serde_json::json;

use crate::cli::HostArgs;

/// Where a Pod finds its ServiceAccount (Kubernetes: "Accessing the API from within a Pod").
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How often a token that lives in a file is read again; kubelets renew them long before they end.
const TOKEN_REFRESH: Duration = Duration::from_secs(60);

impl HostArgs {
    /// The kubeconfig and the name of the context in it that leads to the host.
    pub(crate) fn kubeconfig(&self) -> Result<(Kubeconfig, String)> {
        let config = match &self.kubeconfig {
            Some(file) => {
                Kubeconfig::read_from(file).with_context(|| format!("cannot read the kubeconfig {}", file.display()))?
            }
            None => Kubeconfig::read().context(
                "no kubeconfig leads to the host: give --kubeconfig, set KUBECONFIG, or start a host with `hansa up`",
            )?,
        };
        let known = |name: &str| config.contexts.iter().any(|c| c.name == name);
        let context = match &self.context {
            Some(name) if known(name) => name.clone(),
            Some(name) => {
                let names: Vec<&str> = config.contexts.iter().map(|c| c.name.as_str()).collect();
                return Err(anyhow!("there is no context {name:?}; there are: {}", names.join(", ")));
            }
            // Hansa's own kubeconfigs call the host by its name, whatever context kubectl was left in.
            None if known("host") => "host".to_owned(),
            None => config
                .current_context
                .clone()
                .context("the kubeconfig has no current context: give --context")?,
        };
        Ok((config, context))
    }

    /// The context that kubectl would use: the one named, else the current one.
    pub(crate) fn current_context(&self) -> Result<String> {
        let (config, context) = self.kubeconfig()?;
        match &self.context {
            Some(_) => Ok(context),
            None => config
                .current_context
                .context("the kubeconfig has no current context: give --host-cluster-context"),
        }
    }

    /// The text of the kubeconfig, and the context in it; none is needed where `master` is the address of the host.
    fn config(&self, master: Option<&str>) -> Result<(String, Option<String>)> {
        match self.kubeconfig() {
            Ok((config, context)) => Ok((serde_json::to_string(&config)?, Some(context))),
            // An address alone leads to a server that asks for no credentials.
            Err(_) if self.kubeconfig.is_none() && self.context.is_none() && master.is_some() => {
                Ok((anonymous(master.unwrap_or_default()), None))
            }
            // Inside a cluster without a kubeconfig, the Pod's own ServiceAccount leads to the host.
            Err(error) if self.kubeconfig.is_none() && self.context.is_none() => {
                Ok((in_cluster().ok_or(error)?, None))
            }
            Err(error) => Err(error),
        }
    }

    /// Where the host is, and with what it is reached.
    pub(crate) fn target(&self) -> Result<Target> {
        let (config, context) = self.config(None)?;
        // Paths in a kubeconfig that was read are absolute already.
        let flat = flatten(&config, Path::new("/"), context.as_deref())?;
        Ok(Target::from_kubeconfig(&flat, None)?)
    }

    /// The way to the host.
    pub(crate) fn transport(&self) -> Result<Transport> {
        self.transport_to(None, Limits { concurrency: 1024, ..Limits::default() })
    }

    /// The way to the host, at the address `master` if that is given.
    pub(crate) fn transport_to(&self, master: Option<&str>, limits: Limits) -> Result<Transport> {
        let (config, context) = self.config(master)?;
        let flat = flatten(&config, Path::new("/"), context.as_deref())?;
        let mut target = Target::from_kubeconfig(&flat, None)?;
        if let Some(master) = master {
            target.endpoint = Endpoint::parse(master).with_context(|| format!("--master {master}"))?;
        }
        let transport = Transport::new(target, limits)?;
        if let Some(file) = token_file(&config, context.as_deref()) {
            tokio::spawn(refresh_token(transport.clone(), file));
        }
        Ok(transport)
    }

    /// A client for the host.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(self.transport()?.client("default"))
    }
}

fn in_cluster() -> Option<String> {
    let server = format!(
        "https://{}:{}",
        env::var("KUBERNETES_SERVICE_HOST").ok()?,
        env::var("KUBERNETES_SERVICE_PORT").ok()?
    );
    let file = |name: &str| format!("{SERVICE_ACCOUNT}/{name}");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "host",
        "contexts": [{"name": "host", "context": {"cluster": "host", "user": "host"}}],
        "clusters": [{"name": "host", "cluster": {"server": server, "certificate-authority": file("ca.crt")}}],
        "users": [{"name": "host", "user": {"tokenFile": file("token")}}],
    });
    Some(config.to_string())
}

fn anonymous(server: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "host",
        "contexts": [{"name": "host", "context": {"cluster": "host", "user": "host"}}],
        "clusters": [{"name": "host", "cluster": {"server": server}}],
        "users": [{"name": "host", "user": {}}],
    })
    .to_string()
}

/// The namespace of the ServiceAccount of the Pod this process runs in, if it runs in one.
pub(crate) fn own_namespace() -> Option<String> {
    let text = fs::read_to_string(format!("{SERVICE_ACCOUNT}/namespace")).ok()?;
    Some(text.trim().to_owned()).filter(|namespace| !namespace.is_empty())
}

fn token_file(config: &str, context: Option<&str>) -> Option<PathBuf> {
    let config: Kubeconfig = serde_json::from_str(config).ok()?;
    let context = context.or(config.current_context.as_deref())?;
    let context = config.contexts.iter().find(|c| c.name == context)?.context.as_ref()?;
    let user =
        config.auth_infos.iter().find(|a| Some(&a.name) == context.user.as_ref())?.auth_info.as_ref()?;
    user.token_file.clone().filter(|_| user.token.is_none()).map(PathBuf::from)
}

async fn refresh_token(transport: Transport, file: PathBuf) {
    loop {
        tokio::time::sleep(TOKEN_REFRESH).await;
        match fs::read_to_string(&file) {
            Ok(token) if !token.trim().is_empty() => {
                if let Err(error) = transport.rotate(Credential::token(token.trim())) {
                    tracing::warn!(%error, "the renewed token cannot be used");
                }
            }
            Ok(_) => {
                tracing::warn!(file = %file.display(), "the token file is empty; the last token stays in use")
            }
            Err(error) => tracing::warn!(%error, file = %file.display(), "the token cannot be read again"),
        }
    }
}

/// The text of a kubeconfig file with the files it names in place of their paths; `context` must exist in it if given.
pub(crate) fn flat_kubeconfig(file: &Path, context: Option<&str>) -> Result<String> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read the kubeconfig {}", file.display()))?;
    let directory = file.parent().unwrap_or(Path::new("."));
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    match flatten(&text, directory, context) {
        Ok(flat) => Ok(flat),
        Err(error) => bail!("{}: {error}", file.display()),
    }
}
