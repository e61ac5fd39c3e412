//! `enable`: a federated type is made for a type, and a FederatedTypeConfig that sets propagation going.

use hansa_api::FederatedTypeConfig;
use hansa_api::federated;
use hansa_api::kubefed::ApiResource;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::resources::{Resource, lookup, served};
use crate::{Error, Host, schema};

/// What is to be enabled, and as what. As a file it is of kind `EnableTypeDirective`, which exists in files only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// The type, by any of its names.
    pub name: String,
    /// The version of it; the server's preferred one if not given.
    pub version: Option<String>,
    /// The group of the federated type.
    pub federated_group: String,
    /// The version of the federated type.
    pub federated_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DirectiveFile {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    spec: DirectiveSpec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DirectiveSpec {
    target_version: Option<String>,
    federated_group: Option<String>,
    federated_version: Option<String>,
}

impl Directive {
    /// The directive that says no more than the type's name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: None,
            federated_group: federated::GROUP.to_owned(),
            federated_version: federated::VERSION.to_owned(),
        }
    }

    /// Reads a directive from a file. kubefedctl looks at neither its kind nor its group, so files without them are read as well.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let file: DirectiveFile = serde_saphyr::from_str(text)
            .map_err(|error| Error::File(format!("not an EnableTypeDirective: {error}")))?;
        let named = |text: &str, wanted: &str| text.is_empty() || text == wanted;
        if !named(&file.kind, "EnableTypeDirective") || !named(&file.api_version, "core.kubefed.io/v1beta1") {
            let found = format!("{} of {}", file.kind, file.api_version);
            return Err(Error::File(format!(
                "wanted an EnableTypeDirective of core.kubefed.io/v1beta1, not {found}"
            )));
        }
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let new = Self::new(&file.metadata.name);
        Ok(Self {
            name: new.name,
            version: given(file.spec.target_version),
            federated_group: given(file.spec.federated_group).unwrap_or(new.federated_group),
            federated_version: given(file.spec.federated_version).unwrap_or(new.federated_version),
        })
    }
}

/// The two objects that enable a type.
#[derive(Clone, Debug, PartialEq)]
pub struct Enabling {
    /// The FederatedTypeConfig.
    pub config: FederatedTypeConfig,
    /// The CRD of the federated type.
    pub crd: Value,
}

impl Enabling {
    /// The two objects for a directive, from what the host serves. Nothing is written.
    pub async fn look(host: &Host, directive: &Directive) -> Result<Self, Error> {
        let resources = served(&host.client).await?;
        let resource = lookup(&resources, &directive.name, directive.version.as_deref())?;
        let has_replicas = schema::has_replicas(&host.client, &resource.target).await?;
        Ok(Self::generate(resource, directive, has_replicas, &host.namespace))
    }

    /// Makes the two objects for a type.
    pub fn generate(resource: &Resource, directive: &Directive, has_replicas: bool, namespace: &str) -> Self {
        let mut config = federated::type_config(&resource.target);
        config.metadata.namespace = Some(namespace.to_owned());
        config.spec.federated_type.group.clone_from(&directive.federated_group);
        config.spec.federated_type.version.clone_from(&directive.federated_version);
        let short_names: Vec<&str> = resource.short_names.iter().map(String::as_str).collect();
        let crd = federated::crd_of(&config.spec.federated_type, has_replicas, &short_names);
        Self { config, crd }
    }

    /// Whether the type can be enabled beside those that are.
    pub fn fits(&self, existing: &[FederatedTypeConfig]) -> Result<(), Refused> {
        let described =
            |resource: &ApiResource| format!("{}/{}", resource.qualified_plural(), resource.version);
        let names = |resource: &ApiResource| (resource.qualified_plural(), resource.version.clone());
        let (target, federated) = (&self.config.spec.target_type, &self.config.spec.federated_type);
        for config in existing {
            let name = config.name_any();
            let is_this = name == self.config.name_any();
            let theirs = &config.spec;
            if is_this && names(&theirs.federated_type) != names(federated) {
                return Err(Refused::FederatedTypeChanges {
                    target: described(target),
                    existing: described(&theirs.federated_type),
                    wanted: described(federated),
                });
            }
            if are_same_objects(&theirs.target_type, target) {
                let existing = described(&theirs.target_type);
                return Err(Refused::Equivalent { target: described(target), existing, config: name });
            }
            let crd = federated.qualified_plural();
            if !is_this && theirs.federated_type.qualified_plural() == crd {
                return Err(Refused::Clash { config: name, crd });
            }
        }
        Ok(())
    }
}

/// Groups that serve, or served, the very same objects under the same plural. Federating a type in two of them would have
/// two controllers write the same objects.
const SAME_OBJECTS: [(&str, &[&str]); 7] = [
    ("deployments", &["apps", "extensions"]),
    ("daemonsets", &["apps", "extensions"]),
    ("statefulsets", &["apps"]),
    ("replicasets", &["apps", "extensions"]),
    ("networkpolicies", &["networking.k8s.io", "extensions"]),
    ("podsecuritypolicies", &["policy", "extensions"]),
    ("ingresses", &["networking.k8s.io", "extensions"]),
];

/// Whether two types are the same objects under different groups or versions.
fn are_same_objects(one: &ApiResource, other: &ApiResource) -> bool {
    let groups =
        SAME_OBJECTS.iter().find(|(plural, _)| *plural == one.plural_name).map(|(_, groups)| *groups);
    let differs = (&one.group, &one.version) != (&other.group, &other.version);
    one.plural_name == other.plural_name
        && differs
        && groups.is_some_and(|groups| [one, other].iter().all(|t| groups.contains(&t.group.as_str())))
}

/// Why a type cannot be enabled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is enabled with another federated type.
    #[error(
        "{target:?} is federated as {existing:?} already and cannot become {wanted:?}; disable it first (--delete-crd removes the old type)"
    )]
    FederatedTypeChanges {
        /// The type.
        target: String,
        /// The federated type it has.
        existing: String,
        /// The one asked for.
        wanted: String,
    },
    /// The same objects are federated under another group or version.
    #[error(
        "{target:?} are the same objects as {existing:?}, which the FederatedTypeConfig {config:?} federates already"
    )]
    Equivalent {
        /// The type.
        target: String,
        /// The other one.
        existing: String,
        /// What federates it.
        config: String,
    },
    /// Another type has a federated type of the same name.
    #[error(
        "the FederatedTypeConfig {config:?} uses the federated type {crd:?} already; give this one another group (--federated-group)"
    )]
    Clash {
        /// What uses it.
        config: String,
        /// The federated type.
        crd: String,
    },
}

/// Enables a type, or brings one that is enabled up to date. `say` is told what was made.
pub async fn enable(host: &Host, new: &Enabling, mut say: impl FnMut(String)) -> Result<(), Error> {
    let (client, namespace) = (&host.client, host.namespace.as_str());
    let name = new.config.name_any();
    let crd_name = new.config.spec.federated_type.qualified_plural();
    let doing = |what: &str| Error::doing(format!("enabling {name}: cannot {what}"));

    let there = Api::<Namespace>::all(client.clone()).get_opt(namespace).await;
    if there.map_err(doing("look for the namespace of the control plane"))?.is_none() {
        return Err(Error::Usage(format!(
            "there is no namespace {namespace:?} on the host; --kubefed-namespace names that of the control plane"
        )));
    }
    let configs = Api::<FederatedTypeConfig>::namespaced(client.clone(), namespace);
    let existing = configs.list(&ListParams::default()).await.map_err(doing("list FederatedTypeConfigs"))?;
    new.fits(&existing.items)?;

    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    let crd: CustomResourceDefinition = serde_json::from_value(new.crd.clone())
        .map_err(|error| Error::Usage(format!("the CRD of {name} cannot be made: {error}")))?;
    let done = match crds.get_opt(&crd_name).await.map_err(doing("read the CRD"))? {
        None => {
            if !host.dry_run {
                crds.create(&post(), &crd).await.map_err(doing("create the CRD"))?;
            }
            "created"
        }
        Some(mut found) => {
            found.spec = crd.spec;
            if !host.dry_run {
                crds.replace(&crd_name, &post(), &found).await.map_err(doing("update the CRD"))?;
            }
            "updated"
        }
    };
    say(format!("customresourcedefinition.apiextensions.k8s.io/{crd_name} {done}"));

    let done = if existing.items.iter().any(|config| config.name_any() == name) {
        // What else somebody set in it, such as the collection of status, stays.
        let spec = json!({ "spec": new.config.spec });
        if !host.dry_run {
            configs
                .patch(&name, &PatchParams::default(), &Patch::Merge(&spec))
                .await
                .map_err(doing("update the FederatedTypeConfig"))?;
        }
        "updated"
    } else {
        if !host.dry_run {
            configs.create(&post(), &new.config).await.map_err(doing("create the FederatedTypeConfig"))?;
        }
        "created"
    };
    say(format!("federatedtypeconfig.core.kubefed.io/{name} {done} in namespace {namespace}"));
    Ok(())
}

fn post() -> PostParams {
    PostParams::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::tests::resource;

    fn deployments(version: &str) -> Resource {
        resource("apps", version, "Deployment", "deployments", &["deploy"])
    }

    fn made(resource: &Resource) -> Enabling {
        Enabling::generate(resource, &Directive::new("any"), false, "kube-federation-system")
    }

    #[test]
    fn the_objects_are_those_of_kubefed() {
        let Enabling { config, crd } =
            Enabling::generate(&deployments("v1"), &Directive::new("deploy"), true, "fed");
        let config = serde_json::to_value(config).unwrap();
        assert_eq!(config["metadata"], json!({"name": "deployments.apps", "namespace": "fed"}));
        assert_eq!(
            config["spec"],
            json!({
                "targetType": {"group": "apps", "version": "v1", "kind": "Deployment", "pluralName": "deployments", "scope": "Namespaced"},
                "propagation": "Enabled",
                "federatedType": {"group": "types.kubefed.io", "version": "v1beta1", "kind": "FederatedDeployment",
                    "pluralName": "federateddeployments", "scope": "Namespaced"},
            })
        );
        assert_eq!(crd["metadata"]["name"], "federateddeployments.types.kubefed.io");
        assert_eq!(crd["spec"]["names"]["shortNames"], json!(["fdeploy"]));
    }

    /// `spec/kubefed.md §0 (18)`: kinds with a dash, and targets in the group of the federated types.
    #[test]
    fn a_target_may_have_an_odd_kind_and_the_federated_group() {
        let odd = resource("types.kubefed.io", "v1", "TestTarget-1b9d-b", "testtargets-1b9d-b", &[]);
        let Enabling { config, crd } = made(&odd);
        assert_eq!(config.name_any(), "testtargets-1b9d-b.types.kubefed.io");
        assert_eq!(crd["metadata"]["name"], "federatedtesttargets-1b9d-b.types.kubefed.io");
        assert_eq!(crd["spec"]["names"]["kind"], "FederatedTestTarget-1b9d-b");
    }

    #[test]
    fn a_directive_says_under_which_group_and_version() {
        let text = "apiVersion: core.kubefed.io/v1beta1\nkind: EnableTypeDirective\nmetadata:\n  name: bars\nspec:\n  \
                    targetVersion: v2\n  federatedGroup: fed.example.org\n";
        let directive = Directive::parse(text).unwrap();
        let new =
            Enabling::generate(&resource("example.org", "v2", "Bar", "bars", &[]), &directive, false, "fed");
        assert_eq!(new.crd["metadata"]["name"], "federatedbars.fed.example.org");
        assert_eq!(new.config.spec.federated_type.version, "v1beta1");
        assert_eq!(directive.version.as_deref(), Some("v2"));
        assert_eq!(Directive::parse("metadata: {name: bars}").unwrap(), Directive::new("bars"));
        for wrong in ["", "metadata: {}", "kind: Deployment\nmetadata: {name: a}", "- a", "\t"] {
            assert!(matches!(Directive::parse(wrong), Err(Error::File(_))), "{wrong:?}");
        }
    }

    /// `spec/kubefed.md §3`: equivalent APIs across groups.
    #[test]
    fn the_same_objects_are_federated_once() {
        let existing = [made(&deployments("v1")).config];
        let old = made(&resource("extensions", "v1beta1", "Deployment", "deployments", &[]));
        assert!(matches!(old.fits(&existing), Err(Refused::Equivalent { .. })));
        assert!(matches!(made(&deployments("v1beta1")).fits(&existing), Err(Refused::Equivalent { .. })));
        assert_eq!(made(&deployments("v1")).fits(&existing), Ok(()));
        // The same plural in a group that has nothing to do with it is another type.
        let other = resource("example.org", "v1", "Deployment", "deployments", &[]);
        let directive =
            Directive { federated_group: "fed.example.org".to_owned(), ..Directive::new("deployments") };
        assert_eq!(Enabling::generate(&other, &directive, false, "fed").fits(&existing), Ok(()));
    }

    #[test]
    fn two_types_of_one_kind_need_two_federated_groups() {
        let existing = [made(&resource("one.org", "v1", "Bar", "bars", &[])).config];
        let other = resource("two.org", "v1", "Bar", "bars", &[]);
        assert!(matches!(made(&other).fits(&existing), Err(Refused::Clash { .. })));
    }

    #[test]
    fn a_federated_type_does_not_change_under_its_objects() {
        let existing = [made(&deployments("v1")).config];
        let directive =
            Directive { federated_version: "v1".to_owned(), ..Directive::new("deployments.apps") };
        let changed = Enabling::generate(&deployments("v1"), &directive, false, "kube-federation-system");
        let error = changed.fits(&existing).unwrap_err();
        assert!(matches!(error, Refused::FederatedTypeChanges { .. }), "{error}");
    }
}
