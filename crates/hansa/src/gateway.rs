//! The gateway's listener: its certificate is kept on the host, so that every replica shows the same one, and where it is
//! reached is said there too, for `hansa kubeconfig`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use anyhow::{Context, Result};
use hansa_api::names::{FIELD_MANAGER, SYSTEM_NAMESPACE};
use hansa_gateway::Gateway;
use hansa_listener::{
    pki::{Authority, KeyedCertificate, ServingCertificate},
    serve::{self, Limits},
};
use http_body_util::BodyExt;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::kubeconfig::GATEWAY;

/// The Secret with the gateway's authority and serving certificate.
const TLS_SECRET: &str = "hansa-gateway-tls";

/// A gateway that listens.
pub(crate) struct Listening {
    /// The URL clients use.
    pub(crate) server: String,
    /// The authority they trust, PEM.
    pub(crate) ca: String,
    /// Ends when the gateway has stopped.
    pub(crate) task: JoinHandle<()>,
}

/// Serves `gateway` on `listen` until `shutdown`.
pub(crate) async fn listen(
    host: &Client,
    gateway: Gateway,
    listen: SocketAddr,
    advertise: Option<String>,
    names: &[String],
    shutdown: CancellationToken,
) -> Result<Listening> {
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen}: is something else running there? --listen takes another address")
    })?;
    let address = listener.local_addr()?;
    let server = advertise.unwrap_or_else(|| format!("https://{}", reachable(address)));
    let server = server.trim_end_matches('/').to_owned();

    let mut sans: BTreeSet<String> = ["127.0.0.1", "localhost"].map(str::to_owned).into();
    sans.extend(names.iter().cloned());
    sans.extend(host_of(&server));
    if !address.ip().is_unspecified() {
        sans.insert(address.ip().to_string());
    }
    let (authority, serving) =
        certificate(host, (SYSTEM_NAMESPACE, TLS_SECRET), "hansa-gateway", &sans).await?;
    let ca = authority.certificate_pem().to_owned();
    let tls = serve::tls_config(&authority, Arc::new(serving))?;
    announce(host, &server, &ca).await?;

    let handler = move |_peer, request: http::Request<hyper::body::Incoming>| {
        let gateway = gateway.clone();
        async move { gateway.handle(request.map(|body| body.map_err(Into::into).boxed_unsync())).await }
    };
    let task = tokio::spawn(serve::serve(listener, tls, Limits::default(), shutdown, handler));
    Ok(Listening { server, ca, task })
}

/// An address that a client on the same machine can use.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => ([0, 0, 0, 0, 0, 0, 0, 1], v6.port()).into(),
        other => other,
    }
}

/// The host in a URL, as a certificate bears it.
pub(crate) fn host_of(server: &str) -> Option<String> {
    let uri: http::Uri = server.parse().ok()?;
    Some(uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned())
}

/// The certificate kept in a Secret on the host, made anew where it is absent or no longer does, under an authority called
/// `name`. Of several replicas that make one at the same time, the first to write wins.
pub(crate) async fn certificate(
    host: &Client,
    (namespace, secret_name): (&str, &str),
    name: &str,
    sans: &BTreeSet<String>,
) -> Result<(Authority, ServingCertificate)> {
    let api = Api::<Secret>::namespaced(host.clone(), namespace);
    for _ in 0..5 {
        let kept = api
            .get_opt(secret_name)
            .await
            .with_context(|| format!("cannot read the certificate {secret_name} from the host"))?;
        let part = |secret: &Option<Secret>, key: &str| {
            let bytes = secret.as_ref()?.data.as_ref()?.get(key)?.0.clone();
            String::from_utf8(bytes).ok()
        };
        let pair = |certificate: &str, key: &str| {
            Some(KeyedCertificate { certificate: part(&kept, certificate)?, key: part(&kept, key)? })
        };
        let now = Timestamp::now();
        let authority = match pair("ca.crt", "ca.key") {
            Some(pem) => Authority::read(pem)?,
            None => Authority::generate(name, now)?,
        };
        let before = pair("tls.crt", "tls.key");
        let serving = ServingCertificate::open(&authority, before.clone(), sans, now)?;
        if before.is_some_and(|b| b.certificate == serving.keyed().certificate) {
            return Ok((authority, serving));
        }
        let data = [
            ("ca.crt", authority.keyed().certificate.clone()),
            ("ca.key", authority.keyed().key.clone()),
            ("tls.crt", serving.keyed().certificate),
            ("tls.key", serving.keyed().key),
        ];
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(secret_name.to_owned()),
                resource_version: kept.as_ref().and_then(ResourceExt::resource_version),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data.map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes()))).into()),
            ..Secret::default()
        };
        let written = match kept {
            Some(_) => api.replace(secret_name, &PostParams::default(), &secret).await,
            None => api.create(&PostParams::default(), &secret).await,
        };
        match written {
            Ok(_) => return Ok((authority, serving)),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot keep the certificate {secret_name} on the host"));
            }
        }
    }
    anyhow::bail!(
        "other replicas keep replacing the certificate {secret_name}: start them with the same names"
    )
}

async fn announce(host: &Client, server: &str, ca: &str) -> Result<()> {
    let api = Api::<ConfigMap>::namespaced(host.clone(), SYSTEM_NAMESPACE);
    let data: BTreeMap<&str, &str> = [("server", server), ("ca.crt", ca)].into();
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": GATEWAY}, "data": data});
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(GATEWAY, &params, &Patch::Apply(&object))
        .await
        .context("cannot say on the host where the gateway is")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_reached_on_the_loopback() {
        assert_eq!(reachable("0.0.0.0:7443".parse().unwrap()).to_string(), "127.0.0.1:7443");
        assert_eq!(reachable("[::]:7443".parse().unwrap()).to_string(), "[::1]:7443");
        assert_eq!(reachable("10.0.0.1:7443".parse().unwrap()).to_string(), "10.0.0.1:7443");
        assert_eq!(host_of("https://[::1]:7443").as_deref(), Some("::1"));
        assert_eq!(host_of("https://hansa.example.org").as_deref(), Some("hansa.example.org"));
    }
}
