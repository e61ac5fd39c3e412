//! The types a cluster serves, and finding one by any of its names.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use hansa_api::federated::TargetType;
use hansa_api::kubefed::ResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;

use crate::Error;

/// Group versions asked about at once.
const AT_ONCE: usize = 8;

/// A type that a cluster serves, in one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// The type.
    pub target: TargetType,
    /// Its name for one object, as `deployment`.
    pub singular: String,
    /// Short names, as `deploy`.
    pub short_names: Vec<String>,
    /// What can be done with its objects.
    pub verbs: Vec<String>,
    /// Whether this is the version in which the server prefers to speak of the type.
    pub preferred: bool,
}

impl Resource {
    /// Whether `name` is one of its names: the plural, the singular, the kind, a short name, or `plural.group`.
    pub fn is_called(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        name == self.target.plural_name
            || name == self.singular
            || name == self.target.kind.to_lowercase()
            || name == self.target.qualified_plural()
            || self.short_names.iter().any(|short| short.to_lowercase() == name)
    }

    /// Whether its objects can be read as a list and made anew, as those that can be federated are.
    pub fn holds_objects(&self) -> bool {
        ["list", "create"].iter().all(|verb| self.verbs.iter().any(|found| found == verb))
    }
}

/// Why a type was not found by its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Nothing is called so.
    #[error("the host serves no type called {name:?}{}", in_version(.version.as_deref()))]
    NotFound {
        /// The name.
        name: String,
        /// The version asked for.
        version: Option<String>,
    },
    /// Several types are called so.
    #[error("several types are called {name:?}: {}; give one of these names", found.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// Their names with their groups.
        found: Vec<String>,
    },
}

fn in_version(version: Option<&str>) -> String {
    version.map(|version| format!(" in version {version}")).unwrap_or_default()
}

/// Finds a type by any of its names. One of the core group wins over all others, since its name cannot be qualified; without a
/// `version` it is found in the one the server prefers.
pub fn lookup<'a>(
    resources: &'a [Resource],
    name: &str,
    version: Option<&str>,
) -> Result<&'a Resource, LookupError> {
    let in_version = |resource: &&Resource| match version {
        Some(version) => resource.target.version == version,
        None => resource.preferred,
    };
    let found: BTreeMap<(&str, &str), &Resource> = resources
        .iter()
        .filter(in_version)
        .filter(|resource| resource.is_called(name))
        .map(|resource| ((resource.target.group.as_str(), resource.target.plural_name.as_str()), resource))
        .collect();
    let mut types = found.values();
    match (types.next(), types.next()) {
        (Some(first), Some(_)) if !first.target.group.is_empty() => Err(LookupError::Ambiguous {
            name: name.to_owned(),
            found: found.values().map(|resource| resource.target.qualified_plural()).collect(),
        }),
        // The empty group sorts before all others.
        (Some(first), _) => Ok(first),
        (None, _) => {
            Err(LookupError::NotFound { name: name.to_owned(), version: version.map(str::to_owned) })
        }
    }
}

/// Everything a cluster serves, but for subresources. A group that cannot be asked about, as when the server behind it is away, is left out with a
/// warning.
pub async fn served(client: &Client) -> Result<Vec<Resource>, Error> {
    let asking = || Error::doing("cannot ask which types the host serves");
    let core = client.list_core_api_versions().await.map_err(asking())?;
    let groups = client.list_api_groups().await.map_err(asking())?;
    let core = core.versions.into_iter().map(|version| (String::new(), version.clone(), version));
    let others = groups.groups.into_iter().flat_map(|group| {
        let preferred = group.preferred_version.map(|version| version.version);
        group.versions.into_iter().map(move |version| {
            let preferred = preferred.clone().unwrap_or_else(|| version.version.clone());
            (group.name.clone(), version.version, preferred)
        })
    });
    let lists = stream::iter(core.chain(others).collect::<Vec<_>>())
        .map(|(group, version, preferred)| async move {
            let list = match group.as_str() {
                "" => client.list_core_api_resources(&version).await,
                group => client.list_api_group_resources(&format!("{group}/{version}")).await,
            };
            (group, version, preferred, list)
        })
        .buffered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let mut resources = Vec::new();
    for (group, version, preferred, list) in lists {
        match list {
            Ok(list) => resources.extend(of_list(&group, &version, version == preferred, list)),
            Err(error) => tracing::warn!(group, version, %error, "the types of a group cannot be told"),
        }
    }
    Ok(prefer(resources))
}

fn of_list(
    group: &str,
    version: &str,
    preferred: bool,
    list: APIResourceList,
) -> impl Iterator<Item = Resource> {
    list.resources.into_iter().filter(|resource| !resource.name.contains('/')).map(move |resource| Resource {
        target: TargetType {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: resource.kind,
            plural_name: resource.name,
            scope: if resource.namespaced { ResourceScope::Namespaced } else { ResourceScope::Cluster },
        },
        singular: resource.singular_name,
        short_names: resource.short_names.unwrap_or_default(),
        verbs: resource.verbs,
        preferred,
    })
}

/// A type that its group's preferred version does not have is preferred in the first version that has it.
fn prefer(mut resources: Vec<Resource>) -> Vec<Resource> {
    let name = |resource: &Resource| (resource.target.group.clone(), resource.target.plural_name.clone());
    let mut first = BTreeMap::new();
    for (index, resource) in resources.iter().enumerate() {
        let kept = first.entry(name(resource)).or_insert(index);
        if resource.preferred {
            *kept = index;
        }
    }
    for resource in &mut resources {
        resource.preferred = false;
    }
    for index in first.into_values() {
        resources[index].preferred = true;
    }
    resources
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn resource(group: &str, version: &str, kind: &str, plural: &str, short: &[&str]) -> Resource {
        Resource {
            target: TargetType {
                group: group.to_owned(),
                version: version.to_owned(),
                kind: kind.to_owned(),
                plural_name: plural.to_owned(),
                scope: ResourceScope::Namespaced,
            },
            singular: kind.to_lowercase(),
            short_names: short.iter().map(|name| (*name).to_owned()).collect(),
            verbs: ["list", "create"].map(str::to_owned).to_vec(),
            preferred: true,
        }
    }

    fn cluster() -> Vec<Resource> {
        let mut old = resource("apps", "v1beta1", "Deployment", "deployments", &["deploy"]);
        old.preferred = false;
        vec![
            resource("", "v1", "Service", "services", &["svc"]),
            resource("", "v1", "Event", "events", &["ev"]),
            resource("events.k8s.io", "v1", "Event", "events", &["ev"]),
            resource("apps", "v1", "Deployment", "deployments", &["deploy"]),
            old,
            resource("serving.knative.dev", "v1", "Service", "services", &["kservice"]),
            resource("one.example.org", "v1", "Backup", "backups", &[]),
            resource("two.example.org", "v1", "Backup", "backups", &[]),
        ]
    }

    #[test]
    fn a_type_is_found_by_each_of_its_names() {
        let resources = cluster();
        for name in ["deployments", "deployment", "Deployment", "deploy", "DEPLOY", "deployments.apps"] {
            assert_eq!(lookup(&resources, name, None).unwrap().target.version, "v1", "{name}");
        }
    }

    #[test]
    fn the_core_group_wins_and_others_are_named_with_their_group() {
        let resources = cluster();
        assert_eq!(lookup(&resources, "services", None).unwrap().target.group, "");
        assert_eq!(lookup(&resources, "event", None).unwrap().target.group, "");
        let other = lookup(&resources, "services.serving.knative.dev", None).unwrap();
        assert_eq!(other.target.group, "serving.knative.dev");
    }

    #[test]
    fn a_name_of_several_types_is_refused_with_the_names_that_would_do() {
        let error = lookup(&cluster(), "backups", None).unwrap_err().to_string();
        assert!(error.contains("backups.one.example.org, backups.two.example.org"), "{error}");
        assert!(lookup(&cluster(), "backups.two.example.org", None).is_ok());
    }

    #[test]
    fn a_version_that_is_not_preferred_is_found_when_it_is_named() {
        assert_eq!(lookup(&cluster(), "deployments", Some("v1beta1")).unwrap().target.version, "v1beta1");
        let error = lookup(&cluster(), "deployments", Some("v7")).unwrap_err().to_string();
        assert!(error.contains("deployments") && error.contains("v7"), "{error}");
    }

    #[test]
    fn a_type_that_only_an_older_version_has_is_preferred_there() {
        let mut only_old = resource("batch", "v1beta1", "CronJob", "cronjobs", &[]);
        only_old.preferred = false;
        let mut old_job = resource("batch", "v1beta1", "Job", "jobs", &[]);
        old_job.preferred = false;
        let all = prefer(vec![old_job, only_old, resource("batch", "v1", "Job", "jobs", &[])]);
        let preferred: Vec<bool> = all.iter().map(|resource| resource.preferred).collect();
        assert_eq!(preferred, [false, true, true]);
    }
}
