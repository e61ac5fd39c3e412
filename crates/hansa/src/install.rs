//! What a host cluster needs before the controllers can work: CRDs, then the objects that are there by default.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;

/// Requests under way at once: enough to hide a round trip, too few to trouble a host.
const AT_ONCE: usize = 8;

/// Applies the CRDs, waits until they are served, and creates the default objects that are absent.
///
/// What somebody changed in a default object stays as they left it.
pub(crate) async fn install(client: &Client) -> Result<()> {
    stream::iter(hansa_api::crds())
        .map(|crd| apply_crd(client, crd))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    let mut defaults = hansa_api::defaults().into_iter();
    // The namespace comes first; everything else lives in it.
    if let Some(namespace) = defaults.next() {
        create_absent(client, namespace).await?;
    }
    stream::iter(defaults)
        .map(|object| create_absent(client, object))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

async fn apply_crd(client: &Client, crd: Value) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let name = crd["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let params = PatchParams::apply(hansa_api::names::FIELD_MANAGER).force();
    let mut found = api
        .patch(&name, &params, &Patch::Apply(&crd))
        .await
        .with_context(|| format!("cannot apply the CRD {name}"))?;
    for _ in 0..600 {
        if established(&found) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = api.get(&name).await?;
    }
    bail!("the host does not serve {name} yet: `kubectl describe crd {name}` says why")
}

fn established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Established" && c.status == "True")
}

/// Creates an object of a kind whose plural is regular, unless it is there.
pub(crate) async fn create_absent(client: &Client, object: Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let types = object.types.clone().unwrap_or_default();
    let gvk = GroupVersionKind::try_from(&types).context("a default object without a type")?;
    // Plural names of our own kinds and of Namespace are regular.
    let resource = ApiResource::from_gvk(&gvk);
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = object.name_any();
    if api.get_opt(&name).await?.is_some() {
        return Ok(());
    }
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        other => other.map(drop).with_context(|| format!("cannot create {} {name}", gvk.kind)),
    }
}
