//! Where the tower is: a ConfigMap on the host that the tower writes, and whoever sends somebody there reads afresh each time
//! (`spec/kubesphere-multicluster.md §10 (16)`: an address in a manifest is never an old one).

use std::collections::BTreeMap;

use hansa_api::names;
use hansa_transport::{Credential, Endpoint, EndpointError, Target, Tls};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

/// What the tower says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The URL agents dial, without a slash at the end.
    pub server: String,
    /// The URL under which the host's own components reach the tower.
    pub internal: String,
    /// The authority that signed the tower's certificate, PEM. Agents trust no other.
    pub ca: String,
}

impl Announcement {
    /// What a ConfigMap announces; `None` unless it names an address and an authority.
    pub fn of(map: &ConfigMap) -> Option<Self> {
        let said = |key: &str| {
            let value = map.data.as_ref()?.get(key)?.trim();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let url = |key: &str| said(key).map(|url| url.trim_end_matches('/').to_owned());
        let server = url("server")?;
        Some(Self {
            internal: url("internal").unwrap_or_else(|| server.clone()),
            server,
            ca: said("ca.crt")?,
        })
    }

    /// The way to a member through the tower, for a component of the host that holds `token`.
    pub fn target(&self, cluster: &str, token: &str) -> Result<Target, EndpointError> {
        Ok(Target {
            endpoint: Endpoint::parse(&format!("{}/clusters/{cluster}", self.internal))?,
            tls: Tls { ca: Some(format!("{}\n", self.ca).into_bytes()), ..Tls::default() },
            proxy: None,
            credential: Credential::token(token),
        })
    }
}

fn maps(host: &Client) -> Api<ConfigMap> {
    Api::namespaced(host.clone(), names::SYSTEM_NAMESPACE)
}

/// Says where the tower is. What is said already is not written again.
pub async fn publish(host: &Client, said: &Announcement) -> Result<(), kube::Error> {
    let data: BTreeMap<&str, &str> =
        [("server", said.server.as_str()), ("internal", &said.internal), ("ca.crt", &said.ca)].into();
    let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": names::TOWER }, "data": data });
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    maps(host).patch(names::TOWER, &parameters, &Patch::Apply(&object)).await.map(drop)
}

/// Where the tower is now; `None` if none has announced itself.
pub async fn read(host: &Client) -> Result<Option<Announcement>, kube::Error> {
    Ok(announced(host).await?.map(|(said, _)| said))
}

/// Where the tower is now, and the image that an administrator has named beside it for agents (key `agent-image`).
pub(crate) async fn announced(host: &Client) -> Result<Option<(Announcement, Option<String>)>, kube::Error> {
    let map = maps(host).get_opt(names::TOWER).await?;
    let image = map.as_ref().and_then(|map| map.data.as_ref()?.get("agent-image"));
    let image = image.map(|image| image.trim().to_owned()).filter(|image| !image.is_empty());
    Ok(map.as_ref().and_then(Announcement::of).map(|said| (said, image)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> ConfigMap {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    #[test]
    fn an_announcement_names_an_address_and_an_authority() {
        let whole = map(&[("server", "https://t:8443/\n"), ("ca.crt", "PEM\n")]);
        let said = Announcement::of(&whole).unwrap();
        assert_eq!((said.server.as_str(), said.internal.as_str()), ("https://t:8443", "https://t:8443"));
        for part in [map(&[("server", "https://t")]), map(&[("ca.crt", "PEM"), ("server", " ")]), map(&[])] {
            assert_eq!(Announcement::of(&part), None);
        }
    }

    #[test]
    fn the_hosts_own_components_take_the_inner_way() {
        let said = Announcement {
            server: "https://outside".into(),
            internal: "https://hansa-tower.kube-federation-system.svc:8443".into(),
            ca: "PEM".into(),
        };
        let target = said.target("m1", "t").unwrap();
        assert_eq!(
            target.endpoint.to_string(),
            "https://hansa-tower.kube-federation-system.svc:8443/clusters/m1"
        );
        assert_eq!(target.tls.ca.as_deref(), Some(&b"PEM\n"[..]));
        assert!(!target.tls.insecure && !target.tls.skip_name);
    }
}
