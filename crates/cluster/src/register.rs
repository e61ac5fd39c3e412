//! The registration of a Cluster on the host: a KubeFedCluster and the Secret with its token (`spec/kubesphere-multicluster.md §1.6`).

use std::collections::BTreeMap;

use hansa_api::cluster::Cluster;
use hansa_api::kubefed::KubeFedCluster;
use hansa_api::names;
use hansa_api::time::ByteString;
use hansa_transport::Target;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Which kubeconfig a registration was made with: the UID and version of its Secret.
const ANNOTATION_MADE_WITH: &str = "cluster.kubesphere.io/kubeconfig-version";

/// A registration that is there.
pub(crate) struct Registered {
    pub(crate) marker: String,
    cluster: KubeFedCluster,
}

/// The registration of a member; `None` unless both its objects are there.
pub(crate) async fn read(host: &Client, name: &str) -> Result<Option<Registered>, kube::Error> {
    let clusters: Api<KubeFedCluster> = Api::namespaced(host.clone(), names::SYSTEM_NAMESPACE);
    let Some(cluster) = clusters.get_opt(name).await? else { return Ok(None) };
    let secrets: Api<Secret> = Api::namespaced(host.clone(), names::SYSTEM_NAMESPACE);
    let Some(secret) = secrets.get_opt(&cluster.spec.secret_ref.name).await? else { return Ok(None) };
    let marker = secret.annotations().get(ANNOTATION_MADE_WITH).cloned().unwrap_or_default();
    Ok(Some(Registered { marker, cluster }))
}

/// What the KubeFedCluster of a Cluster is to say.
fn desired(cluster: &Cluster, uid: &str, target: &Target) -> Value {
    let name = cluster.name_any();
    let mut labels: BTreeMap<String, String> = cluster.labels().clone();
    labels.remove(names::LABEL_HOST);
    let mut spec = json!({
        "apiEndpoint": target.endpoint.to_string(),
        "secretRef": { "name": names::token_secret(&name) },
    });
    if let Some(ca) = &target.tls.ca {
        spec["caBundle"] = json!(ByteString(ca.clone()));
    }
    if target.tls.insecure {
        spec["disabledTLSValidations"] = json!(["*"]);
    }
    if let Some(proxy) = &target.proxy {
        spec["proxyURL"] = json!(proxy.url());
    }
    let mut metadata = json!({
        "name": name, "namespace": names::SYSTEM_NAMESPACE, "labels": labels,
        "annotations": { names::ANNOTATION_UID: uid },
    });
    if let Some(server_name) = &target.tls.server_name {
        metadata["annotations"][names::ANNOTATION_TLS_SERVER_NAME] = json!(server_name);
    }
    json!({ "apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedCluster", "metadata": metadata, "spec": spec })
}

/// Registers a member: the Secret first, so that the KubeFedCluster is never seen without it.
pub(crate) async fn write(
    host: &Client,
    cluster: &Cluster,
    uid: &str,
    target: &Target,
    token: &str,
    marker: &str,
) -> Result<(), kube::Error> {
    let name = names::token_secret(&cluster.name_any());
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": name,
            "labels": { names::LABEL_KUBESPHERE_MANAGED: "true" },
            "annotations": { ANNOTATION_MADE_WITH: marker },
        },
        "data": { "token": ByteString(token.as_bytes().to_vec()) },
    });
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    let secrets: Api<Secret> = Api::namespaced(host.clone(), names::SYSTEM_NAMESPACE);
    secrets.patch(&name, &parameters, &Patch::Apply(secret)).await?;
    apply(host, cluster, uid, target).await
}

async fn apply(host: &Client, cluster: &Cluster, uid: &str, target: &Target) -> Result<(), kube::Error> {
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    let clusters: Api<KubeFedCluster> = Api::namespaced(host.clone(), names::SYSTEM_NAMESPACE);
    clusters.patch(&cluster.name_any(), &parameters, &Patch::Apply(desired(cluster, uid, target))).await?;
    Ok(())
}

/// Writes the KubeFedCluster again if it does not say what it is to.
pub(crate) async fn sync(
    host: &Client,
    cluster: &Cluster,
    uid: &str,
    target: &Target,
    registered: &Registered,
) -> Result<(), kube::Error> {
    if says(&registered.cluster, &desired(cluster, uid, target)) {
        Ok(())
    } else {
        apply(host, cluster, uid, target).await
    }
}

/// Whether a KubeFedCluster says all that is desired, and holds no label from us that is desired no longer. Labels of others are theirs.
fn says(there: &KubeFedCluster, desired: &Value) -> bool {
    let Ok(wanted) = serde_json::from_value::<KubeFedCluster>(desired.clone()) else { return false };
    let within = |part: &BTreeMap<String, String>, whole: &BTreeMap<String, String>| {
        part.iter().all(|(key, value)| whole.get(key) == Some(value))
    };
    there.spec == wanted.spec
        && within(wanted.annotations(), there.annotations())
        && within(wanted.labels(), there.labels())
        && owned_labels(there).iter().all(|key| wanted.labels().contains_key(key))
}

/// The labels that we have applied, as the API server remembers.
fn owned_labels(there: &KubeFedCluster) -> Vec<String> {
    there
        .managed_fields()
        .iter()
        .filter(|entry| entry.manager.as_deref() == Some(names::FIELD_MANAGER))
        .filter_map(|entry| entry.fields_v1.as_ref()?.0.pointer("/f:metadata/f:labels")?.as_object())
        .flat_map(|labels| labels.keys().filter_map(|key| key.strip_prefix("f:")).map(str::to_owned))
        .collect()
}

/// Takes a registration away.
pub(crate) async fn remove(host: &Client, name: &str) -> Result<(), kube::Error> {
    let clusters: Api<KubeFedCluster> = Api::namespaced(host.clone(), names::SYSTEM_NAMESPACE);
    delete(&clusters, name).await?;
    let secrets: Api<Secret> = Api::namespaced(host.clone(), names::SYSTEM_NAMESPACE);
    delete(&secrets, &names::token_secret(name)).await
}

/// Deletes an object that may be gone already.
pub(crate) async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), kube::Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    match api.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        let text = r#"{"current-context":"c","clusters":[{"name":"c","cluster":{"server":"https://a:6443","certificate-authority-data":"YQ=="}}],
            "users":[{"name":"u","user":{"token":"t"}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}"#;
        Target::from_kubeconfig(text, None).unwrap()
    }

    fn cluster(labels: Value) -> Cluster {
        serde_json::from_value(json!({ "metadata": { "name": "m", "labels": labels }, "spec": {} })).unwrap()
    }

    fn kubefed(object: &Value) -> KubeFedCluster {
        serde_json::from_value(object.clone()).unwrap()
    }

    #[test]
    fn a_registration_is_written_again_only_where_it_differs() {
        let wanted = desired(&cluster(json!({ "tier": "edge" })), "u1", &target());
        let mut there = wanted.clone();
        there["metadata"]["labels"]["theirs"] = json!("x");
        there["metadata"]["managedFields"] = json!([
            { "manager": "hansa", "fieldsV1": { "f:metadata": { "f:labels": { "f:tier": {} } } } },
            { "manager": "kubectl", "fieldsV1": { "f:metadata": { "f:labels": { "f:theirs": {} } } } },
        ]);
        assert!(says(&kubefed(&there), &wanted));
        for (pointer, value) in [
            ("/metadata/labels/tier", json!("core")),
            ("/metadata/annotations/cluster.kubesphere.io~1uid", json!("u2")),
            ("/spec/apiEndpoint", json!("https://b:6443")),
        ] {
            let mut other = there.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            assert!(!says(&kubefed(&other), &wanted), "{pointer}");
        }
        // A label that was taken from the Cluster is to go.
        let without = desired(&cluster(json!({})), "u1", &target());
        assert!(!says(&kubefed(&there), &without));
    }

    #[test]
    fn the_registration_holds_no_credential() {
        let shown = desired(&cluster(json!({})), "u1", &target()).to_string();
        assert!(!shown.contains("\"t\""), "{shown}");
    }
}
