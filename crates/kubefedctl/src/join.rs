//! `join` as kubefedctl does it: an account with its rights in the member, its token and a KubeFedCluster on the host
//! (`spec/kubefed.md §3`).

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_api::kubefed::{KubeFedClusterSpec, Scope, SecretReference, TlsValidation};
use hansa_api::names::{ANNOTATION_TLS_SERVER_NAME, KUBEFED_CONFIG};
use hansa_api::time::ByteString;
use hansa_api::{KubeFedCluster, KubeFedConfig};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::error::is_code;
use crate::member::Member;
use crate::{Error, Host};

/// How long the member may take to issue the token.
const TOKEN: Duration = Duration::from_secs(30);
/// How often it is looked for.
const POLL: Duration = Duration::from_millis(200);

/// A cluster that joins.
pub struct Join {
    /// Its name in the federation.
    pub name: String,
    /// What the host is called in the names of what is made in the member.
    pub host_name: String,
    /// The Secret on the host that gets the token; the server makes up a name if there is none.
    pub secret_name: Option<String>,
    /// Refuse to touch what is there already.
    pub error_on_existing: bool,
    /// The way to it.
    pub member: Member,
}

/// The ServiceAccount in the member, and its token Secret.
pub(crate) fn account(cluster: &str, host: &str) -> String {
    format!("{cluster}-{host}")
}

/// The role of the account: on all of the cluster, or in the namespace of the control plane.
pub(crate) fn role(account: &str) -> String {
    format!("kubefed-controller-manager:{account}")
}

/// The role by which an account that is bound to a namespace may still see whether the cluster is well.
pub(crate) fn health_role(account: &str, namespace: &str) -> String {
    format!("kubefed-controller-manager:{namespace}:healthcheck-{account}")
}

/// What is made in the member, in this order.
fn in_member(account: &str, namespace: &str, scope: Scope) -> Vec<Value> {
    const RBAC: &str = "rbac.authorization.k8s.io/v1";
    let everything = json!({ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] });
    let subjects = json!([{ "kind": "ServiceAccount", "name": account, "namespace": namespace }]);
    // A role and its binding share a name, and a namespace if the role has one.
    let granted = |kind: &str, metadata: Value, rules: Value| {
        let role_ref =
            json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": metadata["name"] });
        [
            json!({ "apiVersion": RBAC, "kind": kind, "metadata": metadata, "rules": rules }),
            json!({ "apiVersion": RBAC, "kind": format!("{kind}Binding"), "metadata": metadata,
                "subjects": subjects, "roleRef": role_ref }),
        ]
    };
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": account, "namespace": namespace,
                "annotations": { "kubernetes.io/enforce-mountable-secrets": "true" } },
            "automountServiceAccountToken": false,
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": { "name": account, "namespace": namespace,
                "annotations": { "kubernetes.io/service-account.name": account } },
        }),
    ];
    match scope {
        Scope::Cluster => {
            let rules = json!([everything, { "nonResourceURLs": ["*"], "verbs": ["get"] }]);
            objects.extend(granted("ClusterRole", json!({ "name": role(account) }), rules));
        }
        Scope::Namespaced => {
            let metadata = json!({ "name": role(account), "namespace": namespace });
            objects.extend(granted("Role", metadata, json!([everything])));
            // kubefedctl says `Get`, which no verb is (`spec/kubefed.md §6 (5)`).
            let rules = json!([
                { "nonResourceURLs": ["/healthz"], "verbs": ["get"] },
                { "apiGroups": [""], "resources": ["nodes"], "verbs": ["list"] },
            ]);
            let metadata = json!({ "name": health_role(account, namespace) });
            objects.extend(granted("ClusterRole", metadata, rules));
        }
    }
    objects
}

/// Joins a cluster. What would be in the way is looked for before anything is written, so that a refusal leaves nothing behind.
pub async fn join(host: &Host, join: &Join) -> Result<(), Error> {
    let namespace = host.namespace.as_str();
    let configs = Api::<KubeFedConfig>::namespaced(host.client.clone(), namespace);
    let config =
        configs.get_opt(KUBEFED_CONFIG).await.map_err(Error::doing("cannot read the KubeFedConfig"))?;
    let missing = || Error::NoConfig { name: KUBEFED_CONFIG, namespace: namespace.to_owned() };
    let scope = config.ok_or_else(missing)?.spec.scope;

    let account = account(&join.name, &join.host_name);
    let objects = in_member(&account, namespace, scope);
    if join.error_on_existing {
        refuse_existing(host, join, &objects).await?;
    }
    if host.dry_run {
        return Ok(());
    }
    let client = &join.member.client;
    let home = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
    put(client, &home).await?;
    for object in &objects {
        put(client, object).await?;
    }
    let mut credentials = token(client, namespace, &account).await?;
    let token = credentials.remove("token").unwrap_or_default();
    let secret = put_secret(host, join, token).await?;

    let reached = &join.member.reached;
    let spec = KubeFedClusterSpec {
        api_endpoint: reached.server.clone(),
        ca_bundle: reached.ca().or_else(|| credentials.remove("ca.crt")),
        secret_ref: SecretReference { name: secret },
        disabled_tls_validations: if reached.insecure { vec![TlsValidation::All] } else { Vec::new() },
        proxy_url: reached.proxy.clone(),
    };
    let mut cluster = KubeFedCluster::new(&join.name, spec);
    cluster.metadata.namespace = Some(namespace.to_owned());
    if !reached.tls_server_name.is_empty() {
        let name = (ANNOTATION_TLS_SERVER_NAME.to_owned(), reached.tls_server_name.clone());
        cluster.metadata.annotations = Some(BTreeMap::from([name]));
    }
    put(&host.client, &serde_json::to_value(cluster).unwrap_or_default()).await
}

async fn refuse_existing(host: &Host, join: &Join, in_member: &[Value]) -> Result<(), Error> {
    let refuse = |what: String, place: &str| Error::Exists { what, place: place.to_owned() };
    for object in in_member {
        let (api, described) = api(&join.member.client, object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if api.get_opt(name).await.map_err(Error::doing(format!("cannot look for {described}")))?.is_some() {
            return Err(refuse(described, &join.name));
        }
    }
    let looking = || Error::doing("cannot look at the host");
    let clusters = Api::<KubeFedCluster>::namespaced(host.client.clone(), &host.namespace);
    if clusters.get_opt(&join.name).await.map_err(looking())?.is_some() {
        return Err(refuse(format!("KubeFedCluster {:?}", join.name), "the host"));
    }
    if let Some(name) = &join.secret_name {
        let secrets = Api::<Secret>::namespaced(host.client.clone(), &host.namespace);
        if secrets.get_opt(name).await.map_err(looking())?.is_some() {
            return Err(refuse(format!("Secret {name:?}"), "the host"));
        }
    }
    Ok(())
}

/// The API of one object, and its kind and name for people. The kinds here have regular plurals.
fn api(client: &Client, object: &Value) -> (Api<DynamicObject>, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, version) = match object["apiVersion"].as_str().unwrap_or_default().split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), text(&object["apiVersion"])),
    };
    let gvk = GroupVersionKind { group, version, kind: text(&object["kind"]) };
    let resource = ApiResource::from_gvk(&gvk);
    let described = format!("{} {:?}", gvk.kind, text(&object["metadata"]["name"]));
    let api = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    (api, described)
}

/// Makes an object, or brings the one that is there to what it should be.
async fn put(client: &Client, object: &Value) -> Result<(), Error> {
    let (api, described) = api(client, object);
    let doing = |verb: &str| Error::doing(format!("cannot {verb} {described}"));
    let made: DynamicObject = serde_json::from_value(object.clone())
        .map_err(|error| Error::File(format!("{described} is not an object: {error}")))?;
    let name = made.name_any();
    match api.create(&PostParams::default(), &made).await {
        Err(error) if is_code(&error, 409) => {}
        outcome => return outcome.map(drop).map_err(doing("create")),
    }
    let found = api.get(&name).await.map_err(doing("read"))?;
    // What a binding binds cannot be changed.
    if object.get("roleRef").is_some_and(|role| found.data.get("roleRef") != Some(role)) {
        api.delete(&name, &DeleteParams::default()).await.map_err(doing("replace"))?;
        return api.create(&PostParams::default(), &made).await.map(drop).map_err(doing("replace"));
    }
    api.patch(&name, &PatchParams::default(), &Patch::Merge(object)).await.map(drop).map_err(doing("update"))
}

/// Waits for the member's token controller; gives the data of the Secret.
async fn token(
    client: &Client,
    namespace: &str,
    account: &str,
) -> Result<BTreeMap<String, ByteString>, Error> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let deadline = Instant::now() + TOKEN;
    loop {
        let secret = secrets.get_opt(account).await;
        let secret = secret.map_err(Error::doing("cannot read the token of the ServiceAccount"))?;
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        if data.get("token").is_some_and(|token| !token.0.is_empty()) {
            return Ok(data);
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout(format!(
                "the member issued no token for ServiceAccount {namespace}/{account} within {TOKEN:?}; check that its \
                 kube-controller-manager runs"
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Puts the token into a Secret on the host; gives its name.
async fn put_secret(host: &Host, join: &Join, token: ByteString) -> Result<String, Error> {
    let doing = || Error::doing("cannot keep the token on the host");
    let data = json!({ "token": token });
    let name = match &join.secret_name {
        Some(name) => Some(name.clone()),
        None => {
            // A cluster that joins again goes on with the Secret it has.
            let clusters = Api::<KubeFedCluster>::namespaced(host.client.clone(), &host.namespace);
            let found = clusters.get_opt(&join.name).await.map_err(doing())?;
            found.map(|cluster| cluster.spec.secret_ref.name)
        }
    };
    match name {
        Some(name) => {
            let metadata = json!({ "name": name, "namespace": host.namespace });
            let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data });
            put(&host.client, &secret).await?;
            Ok(name)
        }
        None => {
            let mut secret =
                Secret { data: Some(BTreeMap::from([("token".to_owned(), token)])), ..Secret::default() };
            secret.metadata.generate_name = Some(format!("{}-", join.name));
            let secrets = Api::<Secret>::namespaced(host.client.clone(), &host.namespace);
            let made = secrets.create(&PostParams::default(), &secret).await.map_err(doing())?;
            Ok(made.name_any())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(objects: &[Value]) -> Vec<(&str, &str)> {
        objects
            .iter()
            .map(|object| (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap()))
            .collect()
    }

    /// `spec/kubefed.md §3`: what join makes in a member, with a control plane for all namespaces.
    #[test]
    fn an_account_of_a_cluster_scoped_control_plane_may_do_everything() {
        let objects = in_member("m1-host", "fed", Scope::Cluster);
        let role = "kubefed-controller-manager:m1-host";
        assert_eq!(
            kinds(&objects),
            [
                ("ServiceAccount", "m1-host"),
                ("Secret", "m1-host"),
                ("ClusterRole", role),
                ("ClusterRoleBinding", role)
            ]
        );
        assert_eq!(objects[2]["rules"][1], json!({"nonResourceURLs": ["*"], "verbs": ["get"]}));
        assert_eq!(objects[3]["roleRef"]["name"], role);
        assert_eq!(objects[3]["subjects"][0]["namespace"], "fed");
    }

    /// `spec/kubefed.md §3`, and `§6 (5)`.
    #[test]
    fn an_account_of_a_namespaced_control_plane_stays_in_its_namespace() {
        let objects = in_member("m1-host", "fed", Scope::Namespaced);
        let role = "kubefed-controller-manager:m1-host";
        let health = "kubefed-controller-manager:fed:healthcheck-m1-host";
        assert_eq!(
            kinds(&objects)[2..],
            [("Role", role), ("RoleBinding", role), ("ClusterRole", health), ("ClusterRoleBinding", health)]
        );
        assert_eq!(objects[2]["metadata"]["namespace"], "fed");
        assert!(objects[4]["metadata"].get("namespace").is_none());
        assert_eq!(objects[4]["rules"][0]["verbs"], json!(["get"]));
    }
}
