//! The resources that Kubernetes itself defines.

use std::{collections::HashMap, sync::Arc};

use hansa_machinery::kubernetes::{self, KUBERNETES};

use super::{Resource, Subresource, definition_gvks, storage_name};

/// Subresources that reach into a running container or node, which an API server without kubelets has not.
const NEEDS_KUBELET: &[&str] = &["exec", "attach", "portforward", "proxy", "log"];

pub(super) fn resources() -> Vec<Arc<Resource>> {
    let definitions = definition_names();
    let mut resources = Vec::new();
    for group in &KUBERNETES.groups {
        for resource in &group.resources {
            let gvk = (group.group.as_str(), group.version.as_str(), resource.kind.as_str());
            let schema = definitions.get(&gvk).and_then(|name| KUBERNETES.definitions.get(name));
            let subresources =
                resource.subresources.iter().filter(|s| !NEEDS_KUBELET.contains(&s.name.as_str()));
            resources.push(Arc::new(Resource {
                group: group.group.clone(),
                version: group.version.clone(),
                name: resource.name.clone(),
                singular: resource.singular_name.clone(),
                kind: resource.kind.clone(),
                list_kind: format!("{}List", resource.kind),
                namespaced: resource.namespaced,
                verbs: resource.verbs.clone(),
                short_names: resource.short_names.clone(),
                categories: resource.categories.clone(),
                subresources: subresources.map(subresource).collect(),
                storage: storage_name(&group.group, &resource.name).into(),
                schema,
                custom: None,
            }));
        }
    }
    resources
}

fn subresource(source: &kubernetes::Resource) -> Subresource {
    Subresource {
        name: source.name.clone(),
        kind: source.kind.clone(),
        group: source.group.clone(),
        version: source.version.clone(),
        verbs: source.verbs.clone(),
    }
}

/// The definition of each (group, version, kind). Types that belong to every group, such as `DeleteOptions`, are told
/// by several and are no resource's own.
pub(crate) fn definition_names() -> HashMap<(&'static str, &'static str, &'static str), &'static str> {
    let documents = KUBERNETES.documents.as_object().into_iter().flatten();
    documents
        .flat_map(|(name, definition)| definition_gvks(definition).map(move |gvk| (gvk, name.as_str())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_builtin_has_a_schema() {
        for resource in resources() {
            if resource.is_stored() {
                assert!(resource.schema.is_some(), "{} has no schema", resource.storage);
            }
        }
    }

    #[test]
    fn what_needs_a_kubelet_is_not_offered() {
        let pods = resources().into_iter().find(|r| &*r.storage == "pods").expect("pods");
        assert!(pods.subresource("exec").is_none());
        assert!(pods.subresource("eviction").is_some());
    }
}
