//! `federate` on a host: an object, and what a namespace holds, become federated objects.

use std::time::Duration;

use hansa_api::FederatedTypeConfig;
use hansa_api::federated::{self, type_config};
use hansa_api::kubefed::FederatedTypeConfigSpec;
use hansa_machinery::names::dns1123_subdomain;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tokio::time::Instant;

use crate::enable::{Directive, Enabling, enable};
use crate::error::{is_code, patiently};
use crate::federate::{Federated, federated};
use crate::resources::{Resource, lookup, served};
use crate::{Error, Host};

/// How long a federated type may take to be served after it was enabled.
const SERVED: Duration = Duration::from_secs(10);
/// How often that is tried.
const POLL: Duration = Duration::from_millis(250);

/// Types whose objects controllers make by themselves (`spec/kubefed.md §3`).
const MADE_BY_CONTROLLERS: [&str; 4] =
    ["endpoints", "events", "events.events.k8s.io", "propagatedversions.core.kubefed.io"];
/// The ConfigMap with a cluster's own CA. Every cluster makes it in every namespace; a federated one would take their trust
/// from the members' Pods. kubefedctl federates it.
const ROOT_CA: &str = "kube-root-ca.crt";

/// What is to be federated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The type, by any of its names.
    pub type_name: String,
    /// The object's namespace, if its type has them.
    pub namespace: String,
    /// The object.
    pub name: String,
    /// Enable types that are not.
    pub enable_type: bool,
    /// Of a namespace: everything in it as well.
    pub contents: bool,
    /// Of the contents: not these types or groups.
    pub skip: Vec<String>,
    /// The objects are only to be printed, so their types need not be enabled.
    pub print: bool,
}

/// Federated objects that are to be made, of all types there are among them.
#[derive(Clone, Debug, Default)]
pub struct Federation(Vec<OfType>);

#[derive(Clone, Debug)]
struct OfType {
    types: FederatedTypeConfigSpec,
    /// The type's name, where it is still to be enabled.
    enable: Option<String>,
    federated: Vec<Federated>,
}

impl Federation {
    /// Makes the federated objects from what the host has. Nothing is written. `warn` is told what is left out.
    pub async fn look(host: &Host, request: &Request, mut warn: impl FnMut(String)) -> Result<Self, Error> {
        let resources = served(&host.client).await?;
        let resource = lookup(&resources, &request.type_name, None)?;
        let is_namespace = resource.target.qualified_plural() == "namespaces";
        if request.contents && !is_namespace {
            return Err(Error::Usage("--contents is for namespaces only".to_owned()));
        }
        let described = format!("{} {:?}", resource.target.kind, request.name);
        let object = api(&host.client, resource, &request.namespace).get(&request.name).await;
        let object = object.map_err(Error::doing(format!("cannot read {described}")))?;
        let mut found = vec![of_type(host, request, resource, vec![object], &mut warn).await?];
        if request.contents {
            for resource in contained(&resources, &request.skip) {
                let objects = list(&host.client, resource, &request.name, &mut warn).await?;
                if !objects.is_empty() {
                    found.push(of_type(host, request, resource, objects, &mut warn).await?);
                }
            }
        }
        Ok(Self(found))
    }

    /// The federated objects.
    pub fn objects(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().flat_map(|of_type| &of_type.federated).map(|federated| &federated.object)
    }

    /// Makes them on the host, types first where they are to be enabled. `say` is told what was made.
    pub async fn create(&self, host: &Host, mut say: impl FnMut(String)) -> Result<(), Error> {
        for of_type in &self.0 {
            if let Some(name) = &of_type.enable {
                let enabling = Enabling::look(host, &Directive::new(name)).await?;
                enable(host, &enabling, &mut say).await?;
            }
            let federated_type = &of_type.types.federated_type;
            for federated in &of_type.federated {
                if !host.dry_run {
                    create(&host.client, &federated_type.to_kube(), &federated.object).await?;
                }
                let metadata = &federated.object["metadata"];
                let name = metadata["name"].as_str().unwrap_or_default();
                say(format!("{}/{name} created", federated_type.qualified_plural()));
            }
        }
        Ok(())
    }
}

/// The types that are federated with a namespace: those that live in it, but for what controllers make, what is federated already, the old group
/// `extensions`, and what the user leaves out by a name of the type or by its group.
fn contained<'a>(resources: &'a [Resource], skip: &[String]) -> Vec<&'a Resource> {
    let by_controllers =
        |resource: &Resource| MADE_BY_CONTROLLERS.iter().any(|name| resource.is_called(name));
    let skipped = |resource: &Resource| {
        let mut names = skip.iter().filter(|name| !name.is_empty());
        names.any(|name| *name == resource.target.group || resource.is_called(name))
    };
    let is_federated = |resource: &Resource| {
        resource.target.group == federated::GROUP && resource.target.kind.starts_with("Federated")
    };
    let mut found: Vec<&Resource> = resources
        .iter()
        .filter(|resource| resource.preferred && resource.target.is_namespaced() && resource.holds_objects())
        .filter(|resource| resource.target.group != "extensions" && !is_federated(resource))
        .filter(|resource| !by_controllers(resource) && !skipped(resource))
        .collect();
    found.sort_by_key(|resource| resource.target.qualified_plural());
    found
}

async fn of_type(
    host: &Host,
    request: &Request,
    resource: &Resource,
    objects: Vec<DynamicObject>,
    warn: &mut impl FnMut(String),
) -> Result<OfType, Error> {
    let name = resource.target.qualified_plural();
    let configs = Api::<FederatedTypeConfig>::namespaced(host.client.clone(), &host.namespace);
    let config = match configs.get_opt(&name).await {
        Ok(config) => config,
        // What is only printed needs no control plane.
        Err(error) if request.print => {
            tracing::debug!(%error, "the FederatedTypeConfig is made up");
            None
        }
        Err(error) => {
            return Err(Error::doing(format!("cannot read the FederatedTypeConfig {name}"))(error));
        }
    };
    let (types, enable) = match config {
        Some(config) => (config.spec, None),
        None if request.enable_type => (type_config(&resource.target).spec, Some(name)),
        None if request.print => (type_config(&resource.target).spec, None),
        None => return Err(Error::NotEnabled(name)),
    };
    let mut made = Vec::new();
    for object in objects {
        let name = object.name_any();
        let object = serde_json::to_value(object).unwrap_or_default();
        let federated = federated(&types, &object);
        if !federated.dropped.is_empty() {
            let dropped = federated.dropped.join(", ");
            let kind = &resource.target.kind;
            warn(format!("annotations of {kind} {name:?} are not in its template: {dropped}"));
        }
        made.push(federated);
    }
    Ok(OfType { types, enable, federated: made })
}

fn api(client: &Client, resource: &Resource, namespace: &str) -> Api<DynamicObject> {
    match resource.target.is_namespaced() {
        true => Api::namespaced_with(client.clone(), namespace, &resource.target.to_kube()),
        false => Api::all_with(client.clone(), &resource.target.to_kube()),
    }
}

/// The objects of a type in a namespace that can be federated.
async fn list(
    client: &Client,
    resource: &Resource,
    namespace: &str,
    warn: &mut impl FnMut(String),
) -> Result<Vec<DynamicObject>, Error> {
    let name = resource.target.qualified_plural();
    let api = api(client, resource, namespace);
    let listed = match patiently(async || api.list(&ListParams::default()).await).await {
        Ok(list) => list.items,
        // A type may go between the moment the server was asked what it serves and now.
        Err(error) if is_code(&error, 404) || is_code(&error, 405) => Vec::new(),
        Err(error) => return Err(Error::doing(format!("cannot list {name} in {namespace}"))(error)),
    };
    let mut kept = Vec::new();
    for object in listed {
        let object_name = object.name_any();
        if name == "configmaps" && object_name == ROOT_CA {
            warn(format!("left out: {name} {object_name:?}, which every cluster makes for itself"));
        } else if let Some(why) = dns1123_subdomain(&object_name).first() {
            warn(format!(
                "left out: {name} {object_name:?}, whose name a federated object cannot have: {why}"
            ));
        } else {
            kept.push(object);
        }
    }
    Ok(kept)
}

/// Creates a federated object; its type may have been enabled a moment ago.
async fn create(client: &Client, types: &kube::core::ApiResource, object: &Value) -> Result<(), Error> {
    let made: DynamicObject = serde_json::from_value(object.clone())
        .map_err(|error| Error::File(format!("not an object: {error}")))?;
    let described = format!("{} {:?}", types.kind, made.name_any());
    let api: Api<DynamicObject> = match made.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, types),
        None => Api::all_with(client.clone(), types),
    };
    let deadline = Instant::now() + SERVED;
    loop {
        match patiently(async || api.create(&PostParams::default(), &made).await).await {
            Err(error) if is_code(&error, 404) && Instant::now() < deadline => {
                tokio::time::sleep(POLL).await;
            }
            outcome => {
                let doing = Error::doing(format!("cannot create {described}"));
                return outcome.map(drop).map_err(doing);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::tests::resource;
    use hansa_api::kubefed::ResourceScope;

    /// `spec/kubefed.md §3`: what `--contents` skips.
    #[test]
    fn contents_are_what_a_user_put_there() {
        let mut cluster_scoped =
            resource("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", &[]);
        cluster_scoped.target.scope = ResourceScope::Cluster;
        let mut reviews = resource("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "lsars", &[]);
        reviews.verbs = vec!["create".to_owned()];
        let mut older = resource("apps", "v1beta1", "Deployment", "deployments", &["deploy"]);
        older.preferred = false;
        let resources = [
            resource("", "v1", "ConfigMap", "configmaps", &["cm"]),
            resource("", "v1", "Endpoints", "endpoints", &["ep"]),
            resource("", "v1", "Event", "events", &["ev"]),
            resource("events.k8s.io", "v1", "Event", "events", &["ev"]),
            resource("apps", "v1", "Deployment", "deployments", &["deploy"]),
            older,
            resource("apps", "v1", "ReplicaSet", "replicasets", &["rs"]),
            resource("batch", "v1", "Job", "jobs", &[]),
            resource("extensions", "v1beta1", "Deployment", "deployments", &["deploy"]),
            resource("core.kubefed.io", "v1alpha1", "PropagatedVersion", "propagatedversions", &[]),
            resource(
                "types.kubefed.io",
                "v1beta1",
                "FederatedDeployment",
                "federateddeployments",
                &["fdeploy"],
            ),
            cluster_scoped,
            reviews,
        ];
        let names = |skip: &[&str]| -> Vec<String> {
            let skip: Vec<String> = skip.iter().map(|name| (*name).to_owned()).collect();
            contained(&resources, &skip).iter().map(|resource| resource.target.qualified_plural()).collect()
        };
        assert_eq!(names(&[]), ["configmaps", "deployments.apps", "jobs.batch", "replicasets.apps"]);
        assert_eq!(names(&["cm", "Job", ""]), ["deployments.apps", "replicasets.apps"]);
        assert_eq!(names(&["apps", "jobs.batch"]), ["configmaps"]);
    }
}
