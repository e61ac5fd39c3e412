//! What the server serves: built-in resources and those that CustomResourceDefinitions define, in one catalogue that is
//! replaced as a whole when a definition changes.

mod builtin;
pub(crate) mod custom;
pub(crate) mod names;
pub(crate) mod policy;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use hansa_machinery::Schema;
use serde_json::Value;
use tokio::sync::watch;

pub(crate) use builtin::definition_names;
pub(crate) use custom::Custom;

/// A subresource that is served.
#[derive(Clone, Debug)]
pub(crate) struct Subresource {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) group: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) verbs: Vec<String>,
}

/// One resource in one served version.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    /// The plural name in URLs.
    pub(crate) name: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) subresources: Vec<Subresource>,
    /// The name its objects are stored under, the same for all versions: `pods`, `deployments.apps`.
    pub(crate) storage: Arc<str>,
    /// The schema of its objects in this version.
    pub(crate) schema: Option<Schema>,
    /// What only resources defined by a CustomResourceDefinition have.
    pub(crate) custom: Option<Custom>,
}

impl Resource {
    /// `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Whether the resource answers to `verb`.
    pub(crate) fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    pub(crate) fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether a watch of the other can go on with this one: the same resource, its objects shown in the same way.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        match (&self.custom, &other.custom) {
            (None, None) => true,
            (Some(a), Some(b)) => a.uid == b.uid && self.kind == other.kind && a.published == b.published,
            _ => false,
        }
    }

    /// Whether objects are persisted at all; reviews and bindings are not.
    pub(crate) fn is_stored(&self) -> bool {
        self.allows("get") && self.allows("create")
    }
}

/// `v1`, `apps/v1`.
pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `pods`, `deployments.apps`.
pub(crate) fn storage_name(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

/// The resources served at one moment.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    /// Grows with each change; documents derived from the catalogue are cached by it.
    pub(crate) generation: u64,
    /// By group, then version in order of preference, then resources by name.
    pub(crate) groups: Vec<Group>,
    by_storage: BTreeMap<Arc<str>, Arc<Resource>>,
}

/// An API group with its versions, the preferred one first.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) versions: Vec<(String, BTreeMap<String, Arc<Resource>>)>,
}

impl Catalogue {
    fn new(generation: u64, resources: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let mut by_storage: BTreeMap<Arc<str>, Arc<Resource>> = BTreeMap::new();
        for resource in resources {
            let group = match groups.iter().position(|g| g.name == resource.group) {
                Some(at) => &mut groups[at],
                None => {
                    groups.push(Group { name: resource.group.clone(), versions: Vec::new() });
                    let last = groups.len() - 1;
                    &mut groups[last]
                }
            };
            let versions = match group.versions.iter().position(|(v, _)| *v == resource.version) {
                Some(at) => &mut group.versions[at].1,
                None => {
                    group.versions.push((resource.version.clone(), BTreeMap::new()));
                    let last = group.versions.len() - 1;
                    &mut group.versions[last].1
                }
            };
            versions.insert(resource.name.clone(), resource.clone());
            let preferred = by_storage.get(&resource.storage);
            if preferred.is_none_or(|p| names::prefers(&resource.version, &p.version)) {
                by_storage.insert(resource.storage.clone(), resource);
            }
        }
        for group in &mut groups {
            group.versions.sort_by(|(a, _), (b, _)| names::compare_versions(b, a));
        }
        Self { generation, groups, by_storage }
    }

    /// The resources of one group version.
    pub(crate) fn version(&self, group: &str, version: &str) -> Option<&BTreeMap<String, Arc<Resource>>> {
        let group = self.groups.iter().find(|g| g.name == group)?;
        group.versions.iter().find(|(v, _)| v == version).map(|(_, resources)| resources)
    }

    /// The resource that a URL names.
    pub(crate) fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.version(group, version)?.get(plural)
    }

    /// Whether anything answers below this URL: a resource, or a built-in group to say that it has none of this name.
    /// Where nothing does, kube-apiserver's answer is a bare page, which makes clients add what they asked for.
    pub(crate) fn routes(&self, group: &str, version: &str, plural: &str) -> bool {
        self.version(group, version).is_some_and(|resources| {
            resources.contains_key(plural) || resources.values().any(|resource| resource.custom.is_none())
        })
    }

    /// The preferred version of the resource stored under this name.
    pub(crate) fn stored(&self, storage: &str) -> Option<&Arc<Resource>> {
        self.by_storage.get(storage)
    }

    /// The resource whose objects have this `apiVersion` and `kind`.
    pub(crate) fn kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resources = self.version(group, version)?;
        resources.values().find(|r| r.kind == kind && r.is_stored())
    }

    /// Each stored resource once, in its preferred version.
    pub(crate) fn all_stored(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_storage.values().filter(|r| r.is_stored())
    }
}

/// The catalogue of the moment, and news of its changes.
#[derive(Debug)]
pub(crate) struct Registry {
    current: RwLock<Arc<Catalogue>>,
    builtin: Vec<Arc<Resource>>,
    generation: watch::Sender<u64>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let builtin = builtin::resources();
        let catalogue = Arc::new(Catalogue::new(1, builtin.iter().cloned()));
        Self { current: RwLock::new(catalogue), builtin, generation: watch::Sender::new(1) }
    }

    /// The resources served now.
    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves the built-in resources and exactly these custom ones from now on.
    pub(crate) fn set_custom(&self, custom: impl IntoIterator<Item = Arc<Resource>>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let generation = current.generation + 1;
        *current = Arc::new(Catalogue::new(generation, self.builtin.iter().cloned().chain(custom)));
        self.generation.send_replace(generation);
    }

    /// Tells each new generation of the catalogue.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}

/// The names of the definitions that describe `apiVersion`s and `kind`s in Kubernetes' published schemas.
pub(crate) fn definition_gvks(definition: &Value) -> impl Iterator<Item = (&str, &str, &str)> {
    let gvks = definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
    gvks.filter_map(|gvk| Some((gvk["group"].as_str()?, gvk["version"].as_str()?, gvk["kind"].as_str()?)))
}
