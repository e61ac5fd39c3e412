//! `unjoin` as kubefedctl does it: what `join` made is removed, the member's workloads are not touched (`spec/kubefed.md §3`).

use hansa_api::KubeFedCluster;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::DeleteParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::error::is_code;
use crate::join::{account, health_role, role};
use crate::member::Member;
use crate::{Error, Host};

/// A cluster that leaves.
pub struct Unjoin {
    /// Its name in the federation.
    pub name: String,
    /// What the host is called in the names of what `join` made.
    pub host_name: String,
    /// Remove it from the host whatever becomes of what is in the member.
    pub force: bool,
    /// The way to it; with `force` there need not be one.
    pub member: Option<Member>,
}

/// Takes a cluster out. `warn` is told what could not be removed from the member, when that is not to stop it.
pub async fn unjoin(host: &Host, unjoin: &Unjoin, mut warn: impl FnMut(String)) -> Result<(), Error> {
    let clusters = Api::<KubeFedCluster>::namespaced(host.client.clone(), &host.namespace);
    let described = format!("KubeFedCluster {}/{}", host.namespace, unjoin.name);
    let cluster =
        clusters.get(&unjoin.name).await.map_err(Error::doing(format!("cannot read {described}")))?;
    if host.dry_run {
        return Ok(());
    }
    if let Some(member) = &unjoin.member {
        match leave(host, unjoin, &member.client).await {
            Err(error) if unjoin.force => warn(format!("left in the member: {error}")),
            outcome => outcome?,
        }
    }
    let secret = &cluster.spec.secret_ref.name;
    let secrets = Api::<Secret>::namespaced(host.client.clone(), &host.namespace);
    match delete(&secrets, secret).await {
        Err(error) if unjoin.force => warn(format!("left on the host: {error}")),
        outcome => outcome?,
    }
    delete(&clusters, &unjoin.name).await
}

async fn leave(host: &Host, unjoin: &Unjoin, client: &Client) -> Result<(), Error> {
    let namespace = host.namespace.as_str();
    let account = account(&unjoin.name, &unjoin.host_name);
    for name in [role(&account), health_role(&account, namespace)] {
        delete(&Api::<ClusterRoleBinding>::all(client.clone()), &name).await?;
        delete(&Api::<ClusterRole>::all(client.clone()), &name).await?;
    }
    delete(&inside::<RoleBinding>(client, namespace), &role(&account)).await?;
    delete(&inside::<Role>(client, namespace), &role(&account)).await?;
    delete(&inside::<Secret>(client, namespace), &account).await?;
    delete(&inside::<ServiceAccount>(client, namespace), &account).await?;

    // A host that is its own member keeps the namespace of the control plane.
    let uid = |client: &Client| {
        let namespaces = Api::<Namespace>::all(client.clone());
        async move {
            let found = namespaces.get_opt(namespace).await;
            let found = found.map_err(Error::doing(format!("cannot read the namespace {namespace}")))?;
            Ok::<_, Error>(found.and_then(|namespace| namespace.metadata.uid))
        }
    };
    let (hosts, members) = (uid(&host.client).await?, uid(client).await?);
    if members.is_some() && hosts != members {
        delete(&Api::<Namespace>::all(client.clone()), namespace).await?;
    }
    Ok(())
}

fn inside<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), namespace)
}

/// Deletes an object that may be gone already.
async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug + Resource<DynamicType = ()>,
{
    match api.delete(name, &DeleteParams::default()).await {
        Err(error) if is_code(&error, 404) => Ok(()),
        outcome => outcome.map(drop).map_err(Error::doing(format!("cannot delete {} {name}", K::kind(&())))),
    }
}
