//! A `FederatedTypeConfig` as the controllers use it (`spec/kubefed.md §1.3, §2.3`).

use hansa_api::federated;
use kube::core::ApiResource;
use serde_json::Value;

use crate::key::Key;

/// The name of the FederatedTypeConfig that every namespaced type depends on.
pub const NAMESPACES: &str = "namespaces";

/// Namespaces that are never federated, besides the system namespace (`spec/kubefed.md §0` item 19).
const NEVER_FEDERATED: [&str; 3] = ["default", "kube-system", "kube-public"];

/// One federated type: where its federated objects are, and what they become in the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeConfig {
    /// The name of the FederatedTypeConfig: `<plural>[.<group>]`.
    pub name: String,
    /// The type in the members.
    pub target: ApiResource,
    /// Whether the target is namespaced.
    pub target_namespaced: bool,
    /// The type on the host.
    pub federated: ApiResource,
    /// Whether the federated type is namespaced.
    pub federated_namespaced: bool,
    /// Whether `spec.propagation` is `Enabled`.
    pub enabled: bool,
    /// Whether `spec.statusCollection` is `Enabled`.
    pub collects: bool,
    /// The type of the objects that KubeFed's older way of collecting writes.
    pub status_type: Option<ApiResource>,
}

/// Why a FederatedTypeConfig cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeConfigError {
    /// A required field is missing or empty.
    #[error("{0} is required")]
    Missing(&'static str),
    /// A scope is neither of the two.
    #[error("{field} must be Cluster or Namespaced, not {found:?}")]
    Scope {
        /// The field.
        field: &'static str,
        /// What it says.
        found: String,
    },
    /// A federated type has the scope of its target; only namespaces differ.
    #[error("spec.federatedType.scope must be {0}, the scope of its target")]
    ScopesDiffer(&'static str),
}

impl TypeConfig {
    /// Reads a FederatedTypeConfig, filling in what KubeFed fills in (`spec/kubefed.md §1.3`).
    pub fn parse(object: &Value) -> Result<Self, TypeConfigError> {
        let name = object["metadata"]["name"].as_str().ok_or(TypeConfigError::Missing("metadata.name"))?;
        let (plural, group) = name.split_once('.').unwrap_or((name, ""));
        let spec = &object["spec"];
        let (target, target_namespaced) = resource(
            &spec["targetType"],
            ["spec.targetType.kind", "spec.targetType.version", "spec.targetType.scope"],
            group,
            plural,
        )?;
        let federated_type = &spec["federatedType"];
        let federated_plural = federated::plural(federated_type["kind"].as_str().unwrap_or_default());
        let fields = ["spec.federatedType.kind", "spec.federatedType.version", "spec.federatedType.scope"];
        let (federated, federated_namespaced) = resource(federated_type, fields, "", &federated_plural)?;
        if federated.group.is_empty() {
            return Err(TypeConfigError::Missing("spec.federatedType.group"));
        }
        let is_namespaces = target.group.is_empty() && target.plural == NAMESPACES;
        if federated_namespaced != (target_namespaced || is_namespaces) {
            return Err(TypeConfigError::ScopesDiffer(if target_namespaced || is_namespaces {
                "Namespaced"
            } else {
                "Cluster"
            }));
        }
        let enabled = spec["propagation"] == "Enabled";
        let status_type = &spec["statusType"];
        let status_plural = federated::plural(status_type["kind"].as_str().unwrap_or_default());
        let fields = ["spec.statusType.kind", "spec.statusType.version", "spec.statusType.scope"];
        let status_type = status_type
            .as_object()
            .and_then(|_| resource(status_type, fields, &federated.group, &status_plural).ok())
            .map(|(status_type, _)| status_type);
        Ok(Self {
            name: name.to_owned(),
            target,
            target_namespaced,
            federated,
            federated_namespaced,
            enabled,
            collects: spec["statusCollection"] == "Enabled",
            status_type,
        })
    }

    /// Whether this is the type of FederatedNamespaces, whose targets are the namespaces themselves.
    pub fn is_namespaces(&self) -> bool {
        self.target.group.is_empty() && self.target.plural == NAMESPACES
    }

    /// The type of the objects that the status controller writes, if it runs: KubeFed's older way of collecting, for Services only and unless
    /// `raw` statuses are collected (`spec/kubefed.md §2.8`).
    pub fn service_status(&self, raw: bool) -> Option<ApiResource> {
        self.status_type.clone().filter(|_| !raw && self.collects && self.enabled && self.name == "services")
    }

    /// The target of a federated object.
    pub fn target_of(&self, federated: &Key) -> Key {
        if self.target_namespaced { federated.clone() } else { Key::new("", &federated.name) }
    }

    /// The federated object of a target.
    pub fn federated_of(&self, target: &Key) -> Key {
        if self.is_namespaces() { Key::new(&target.name, &target.name) } else { target.clone() }
    }

    /// Whether a federated object is one that nobody may federate: a namespace of the system's own.
    pub fn is_ignored(&self, federated: &Key, system_namespace: &str) -> bool {
        self.is_namespaces()
            && (NEVER_FEDERATED.contains(&&*federated.name) || *federated.name == *system_namespace)
    }
}

fn resource(
    value: &Value,
    fields: [&'static str; 3],
    group: &str,
    plural: &str,
) -> Result<(ApiResource, bool), TypeConfigError> {
    let text = |field: &str| value[field].as_str().filter(|text| !text.is_empty());
    let kind = text("kind").ok_or(TypeConfigError::Missing(fields[0]))?;
    let version = text("version").ok_or(TypeConfigError::Missing(fields[1]))?;
    let namespaced = match text("scope") {
        Some("Namespaced") => true,
        Some("Cluster") => false,
        None => return Err(TypeConfigError::Missing(fields[2])),
        Some(found) => return Err(TypeConfigError::Scope { field: fields[2], found: found.to_owned() }),
    };
    let group = text("group").unwrap_or(group);
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let plural = text("pluralName").unwrap_or(plural).to_owned();
    Ok((
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural,
        },
        namespaced,
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn type_config(name: &str, kind: &str, version: &str, scopes: [&str; 2]) -> Value {
        json!({"metadata": {"name": name}, "spec": {
            "propagation": "Enabled",
            "targetType": {"kind": kind, "version": version, "scope": scopes[0]},
            "federatedType": {"kind": format!("Federated{kind}"), "group": "types.kubefed.io", "version": "v1beta1", "scope": scopes[1]},
        }})
    }

    pub(crate) fn deployments() -> TypeConfig {
        TypeConfig::parse(&type_config("deployments.apps", "Deployment", "v1", ["Namespaced"; 2])).unwrap()
    }

    pub(crate) fn namespaces() -> TypeConfig {
        TypeConfig::parse(&type_config("namespaces", "Namespace", "v1", ["Cluster", "Namespaced"])).unwrap()
    }

    #[test]
    fn names_and_groups_follow_from_the_name_and_the_kind() {
        let types = deployments();
        assert_eq!(
            (types.target.plural.as_str(), types.target.api_version.as_str()),
            ("deployments", "apps/v1")
        );
        assert_eq!(types.federated.plural, "federateddeployments");
        assert_eq!(namespaces().target.api_version, "v1");
    }

    /// `spec/kubefed.md §2.8`.
    #[test]
    fn the_status_controller_runs_for_services_that_ask_for_it() {
        let parse = |edit: fn(&mut Value)| {
            let mut object = type_config("services", "Service", "v1", ["Namespaced"; 2]);
            object["spec"]["statusCollection"] = "Enabled".into();
            object["spec"]["statusType"] = json!({"kind": "FederatedServiceStatus", "group": "core.kubefed.io", "version": "v1alpha1", "scope": "Namespaced"});
            edit(&mut object);
            TypeConfig::parse(&object).unwrap()
        };
        let services = parse(|_| ());
        let resource = services.service_status(false).unwrap();
        assert_eq!(
            (resource.plural.as_str(), resource.api_version.as_str()),
            ("federatedservicestatuses", "core.kubefed.io/v1alpha1")
        );
        assert_eq!(services.service_status(true), None);
        for types in [
            parse(|o| o["spec"]["statusCollection"] = "Disabled".into()),
            parse(|o| o["spec"]["statusType"] = Value::Null),
            parse(|o| o["spec"]["propagation"] = "Disabled".into()),
            parse(|o| o["metadata"]["name"] = "services.example.org".into()),
        ] {
            assert_eq!(types.service_status(false), None);
        }
    }

    #[test]
    fn a_namespace_and_its_federated_namespace_find_each_other() {
        let types = namespaces();
        assert_eq!(types.target_of(&Key::new("shop", "shop")), Key::new("", "shop"));
        assert_eq!(types.federated_of(&Key::new("", "shop")), Key::new("shop", "shop"));
        assert_eq!(deployments().target_of(&Key::new("shop", "web")), Key::new("shop", "web"));
    }

    #[test]
    fn system_namespaces_are_ignored() {
        for name in ["default", "kube-system", "kube-public", "kube-federation-system"] {
            assert!(namespaces().is_ignored(&Key::new(name, name), "kube-federation-system"));
        }
        assert!(!namespaces().is_ignored(&Key::new("shop", "shop"), "kube-federation-system"));
        assert!(!deployments().is_ignored(&Key::new("default", "default"), "kube-federation-system"));
    }

    #[test]
    fn incomplete_configurations_are_refused() {
        for (pointer, value) in [
            ("/spec/targetType/kind", Value::Null),
            ("/spec/targetType/scope", "Global".into()),
            ("/spec/federatedType/group", Value::Null),
            ("/spec/federatedType/scope", "Cluster".into()),
        ] {
            let mut object = type_config("deployments.apps", "Deployment", "v1", ["Namespaced"; 2]);
            *object.pointer_mut(pointer).unwrap() = value;
            assert!(TypeConfig::parse(&object).is_err(), "{pointer}");
        }
    }
}
