//! `orphaning-deletion`: whether the members' copies stay when a federated object is deleted.

use hansa_api::federated;
use hansa_api::names::ANNOTATION_ORPHAN;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::resources::{lookup, served};
use crate::{Error, Host};

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphaning {
    /// The copies will stay.
    Enable,
    /// The copies will go.
    Disable,
    /// Only tell.
    Status,
}

/// Does it for one federated object; gives whether the copies stay from now on. `warn` is told what may be a mistake.
pub async fn orphaning(
    host: &Host,
    action: Orphaning,
    type_name: &str,
    namespace: &str,
    name: &str,
    mut warn: impl FnMut(String),
) -> Result<bool, Error> {
    let resources = served(&host.client).await?;
    let target = &lookup(&resources, type_name, None)?.target;
    if target.group != federated::GROUP || !target.kind.starts_with("Federated") {
        let name = target.qualified_plural();
        warn(format!("Warning: {name}/{} might not be a federated resource", target.version));
    }
    let api: Api<DynamicObject> = match target.is_namespaced() {
        true => Api::namespaced_with(host.client.clone(), namespace, &target.to_kube()),
        false => Api::all_with(host.client.clone(), &target.to_kube()),
    };
    let described = format!("{} {name:?}", target.kind);
    let object = api.get(name).await.map_err(Error::doing(format!("cannot read {described}")))?;
    let is_on = object.annotations().get(ANNOTATION_ORPHAN).is_some_and(|value| value == "true");
    let wanted = match action {
        Orphaning::Enable => true,
        Orphaning::Disable => false,
        Orphaning::Status => is_on,
    };
    if wanted != is_on && !host.dry_run {
        let value = if wanted { Value::from("true") } else { Value::Null };
        let patch = json!({ "metadata": { "annotations": { ANNOTATION_ORPHAN: value } } });
        let patched = api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.map_err(Error::doing(format!("cannot annotate {described}")))?;
    }
    Ok(wanted)
}
