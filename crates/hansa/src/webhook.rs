//! The admission webhooks as a listener: `hansa webhook`, and the part of `hansa up` that serves them.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use hansa_api::{
    KubeFedConfig,
    kubefed::Scope,
    names::{FIELD_MANAGER, KUBEFED_CONFIG},
    webhooks::{Reach, Registration, SERVICE},
};
use hansa_embedded::{Server, Unasked};
use hansa_listener::{
    Body,
    pki::{Authority, KeyedCertificate, ServingCertificate},
    serve::{self, Limits},
};
use http::{Request, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use crate::{
    cli::HostArgs,
    gateway,
    processes::{in_process, interrupted},
};

/// The Secret with the authority and certificate that `hansa webhook` makes for itself.
const TLS_SECRET: &str = "hansa-webhook-tls";
/// How often a certificate that others renew is read again.
const REREAD: Duration = Duration::from_secs(30);
/// How often the host is told again where the webhooks are: without its configuration nothing would be judged.
const REPEAT: Duration = Duration::from_secs(60);

/// `hansa webhook`. Flags that KubeFed's program has mean what they mean there.
#[derive(Debug, Args)]
pub(crate) struct Webhook {
    #[command(flatten)]
    host: HostArgs,
    /// The namespace of the federation's own objects
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-federation-system")]
    kubefed_namespace: String,
    /// The port to serve HTTPS on, at every address
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    secure_port: u16,
    /// Where to listen, instead of --secure-port
    #[arg(long, value_name = "ADDRESS", conflicts_with = "secure_port")]
    listen: Option<SocketAddr>,
    /// A directory with tls.crt and tls.key, and ca.crt if the host is to be told it; they are read again as they change
    /// [default: a certificate of its own making, kept in a Secret on the host]
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// Have the host call the webhooks through this Service in --kubefed-namespace: NAME or NAME:PORT
    #[arg(long, value_name = "SERVICE", num_args = 0..=1, default_missing_value = SERVICE, conflicts_with = "url")]
    service: Option<String>,
    /// Have the host call the webhooks at this URL
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

impl Webhook {
    fn listen(&self) -> SocketAddr {
        self.listen.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, self.secure_port).into())
    }

    /// How the host is to reach the webhooks, if it is to be told.
    fn reach(&self) -> Result<Option<Reach>> {
        if let Some(url) = &self.url {
            if !url.starts_with("https://") {
                bail!("--url {url}: API servers call webhooks by https only");
            }
            return Ok(Some(Reach::Url(url.clone())));
        }
        let Some(service) = &self.service else { return Ok(None) };
        let (name, port) = match service.split_once(':') {
            Some((name, port)) => {
                (name, port.parse().with_context(|| format!("--service {service}: no port"))?)
            }
            None => (service.as_str(), 443),
        };
        Ok(Some(Reach::Service { name: name.to_owned(), port }))
    }

    /// The names the certificate must bear.
    fn names(&self, reach: Option<&Reach>) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = ["127.0.0.1", "localhost"].map(str::to_owned).into();
        match reach {
            Some(Reach::Url(url)) => names.extend(gateway::host_of(url)),
            other => {
                let name = match other {
                    Some(Reach::Service { name, .. }) => name.as_str(),
                    _ => SERVICE,
                };
                let namespace = &self.kubefed_namespace;
                names.extend([format!("{name}.{namespace}"), format!("{name}.{namespace}.svc")]);
            }
        }
        if !self.listen().ip().is_unspecified() {
            names.insert(self.listen().ip().to_string());
        }
        names
    }
}

/// `hansa webhook`.
pub(crate) async fn run(args: Webhook) -> Result<()> {
    let reach = args.reach()?;
    let stop = CancellationToken::new();
    let (serving, ca) = match &args.cert_dir {
        Some(dir) => {
            let serving = Arc::new(ServingCertificate::given(read_pair(dir)?)?);
            tokio::spawn(follow(dir.clone(), serving.clone(), stop.clone()));
            let ca = fs::read_to_string(dir.join("ca.crt"));
            // A certificate that signs itself is its own authority.
            (serving.clone(), ca.unwrap_or_else(|_| serving.keyed().certificate))
        }
        None => {
            let host = args.host.client().context(
                "the certificate is kept on the host; --cert-dir takes one from a directory instead",
            )?;
            let names = args.names(reach.as_ref());
            let kept = (args.kubefed_namespace.as_str(), TLS_SECRET);
            let (authority, serving) = gateway::certificate(&host, kept, "hansa-webhook", &names).await?;
            (Arc::new(serving), authority.certificate_pem().to_owned())
        }
    };
    let listening = listen(args.listen(), serving, stop.clone()).await?;
    tracing::info!(address = %listening.address, "the webhooks serve");
    if let Some(reach) = &reach {
        let host = args.host.client()?;
        let namespace = args.kubefed_namespace.as_str();
        let scope = scope(&host, namespace).await?;
        let configurations = Registration { namespace, scope, reach, ca: &ca }.configurations();
        register(&host, &configurations).await?;
        tracing::info!("the host calls the webhooks");
        tokio::spawn(keep_registered(host, configurations, stop.clone()));
    }
    interrupted().await;
    stop.cancel();
    listening.task.await.context("the webhooks ended abnormally")
}

/// Webhooks that listen.
pub(crate) struct Listening {
    address: SocketAddr,
    /// Ends when they have stopped.
    pub(crate) task: JoinHandle<()>,
}

async fn listen(
    address: SocketAddr,
    serving: Arc<ServingCertificate>,
    stop: CancellationToken,
) -> Result<Listening> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is something else running there? --listen takes another address")
    })?;
    let address = listener.local_addr()?;
    let tls = serve::anonymous_tls_config(serving)?;
    let handler = |_peer, request: Request<hyper::body::Incoming>| async move {
        hansa_webhook::handle(request).await.map(|body| body.map_err(|never| match never {}).boxed_unsync())
    };
    let task = tokio::spawn(serve::serve(listener, tls, Limits::default(), stop, handler));
    Ok(Listening { address, task })
}

/// Serves the webhooks of `hansa up` on the loopback and tells the host where they are, under an authority that lives as long
/// as the process. This comes before anything else is written: what the last process told the host leads nowhere now.
pub(crate) async fn beside(host: &Client, namespace: &str, stop: CancellationToken) -> Result<Listening> {
    let now = Timestamp::now();
    let authority = Authority::generate("hansa-webhook", now)?;
    let names = ["127.0.0.1".to_owned()].into();
    let serving = ServingCertificate::open(&authority, None, &names, now)?;
    let listening = listen((Ipv4Addr::LOCALHOST, 0).into(), Arc::new(serving), stop.clone()).await?;
    let reach = Reach::Url(format!("https://{}", listening.address));
    // One process is one host: there is no other control plane to keep apart from.
    let registration =
        Registration { namespace, scope: Scope::Cluster, reach: &reach, ca: authority.certificate_pem() };
    let configurations = registration.configurations();
    register(host, &configurations).await?;
    tokio::spawn(keep_registered(host.clone(), configurations, stop));
    Ok(listening)
}

/// An embedded server as a function call with all rights, for what is written before it serves: no admission webhook is asked.
pub(crate) fn unasked(
    server: Server,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + Sync
{
    in_process(server).map_request(|mut request: Request<Body>| {
        request.extensions_mut().insert(Unasked);
        request
    })
}

/// The scope of the control plane, from its KubeFedConfig; `Cluster` before there is one.
async fn scope(host: &Client, namespace: &str) -> Result<Scope> {
    let api = Api::<KubeFedConfig>::namespaced(host.clone(), namespace);
    match api.get_opt(KUBEFED_CONFIG).await {
        Ok(config) => Ok(config.map(|config| config.spec.scope).unwrap_or_default()),
        // The CRD is yet to come.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Scope::default()),
        Err(error) => Err(error).context("cannot read the KubeFedConfig"),
    }
}

async fn register(host: &Client, configurations: &[Value; 2]) -> Result<()> {
    for configuration in configurations {
        apply(host, configuration).await?;
    }
    Ok(())
}

/// Puts the configurations back where somebody removed or changed them; what is right is not written again.
async fn keep_registered(host: Client, configurations: [Value; 2], stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(REPEAT)).await.is_some() {
        if let Err(error) = register(&host, &configurations).await {
            tracing::warn!("{error:#}");
        }
    }
}

async fn apply(host: &Client, configuration: &Value) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&configuration["kind"]), text(&configuration["metadata"]["name"]));
    let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", &kind);
    let api = Api::<DynamicObject>::all_with(host.clone(), &ApiResource::from_gvk(&gvk));
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(configuration)).await;
    applied.map(drop).with_context(|| format!("cannot tell the host where the webhooks are ({kind} {name})"))
}

fn read_pair(dir: &Path) -> Result<KeyedCertificate> {
    let read = |name: &str| {
        let file = dir.join(name);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    Ok(KeyedCertificate { certificate: read("tls.crt")?, key: read("tls.key")? })
}

/// Takes up a certificate that was renewed. A pair that is half written does not match and is read again.
async fn follow(dir: PathBuf, serving: Arc<ServingCertificate>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(REREAD)).await.is_some() {
        match read_pair(&dir) {
            Ok(pair) if pair.certificate == serving.keyed().certificate => {}
            Ok(pair) => match serving.replace(pair) {
                Ok(()) => tracing::info!("the renewed certificate is in use"),
                Err(error) => tracing::warn!(%error, "the renewed certificate cannot be used"),
            },
            Err(error) => tracing::warn!("the certificate cannot be read again: {error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        webhook: Webhook,
    }

    fn parse(args: &[&str]) -> Webhook {
        Line::parse_from([&["webhook"], args].concat()).webhook
    }

    #[test]
    fn the_flags_of_kubefeds_program_mean_what_they_mean_there() {
        let args = parse(&["--secure-port=9443", "--cert-dir=/certs", "--kubeconfig=k"]);
        assert_eq!(args.listen().to_string(), "0.0.0.0:9443");
        assert_eq!(args.reach().unwrap(), None, "it registers nothing unless asked to");
        assert_eq!(parse(&[]).listen().port(), 8443);
    }

    #[test]
    fn the_certificate_bears_the_name_the_host_calls() {
        let reached = |args: &[&str]| {
            let args = parse(args);
            let reach = args.reach().unwrap();
            args.names(reach.as_ref())
        };
        assert!(reached(&["--service"]).contains("kubefed-admission-webhook.kube-federation-system.svc"));
        assert!(reached(&["--service=a:8443", "--kubefed-namespace=n"]).contains("a.n.svc"));
        assert!(reached(&["--url=https://hooks.example.org:9443/x"]).contains("hooks.example.org"));
        assert!(parse(&["--url=http://a"]).reach().is_err());
    }
}
