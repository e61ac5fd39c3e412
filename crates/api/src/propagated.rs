//! `core.kubefed.io/v1alpha1`: the records of what was propagated (`spec/kubefed.md §1.4, §1.5`).
//!
//! These types have no `spec`, so they are written out where the others are derived.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::time::AnyObject;

macro_rules! resource {
    ($kind:ident, $plural:literal, $scope:ty) => {
        impl kube::Resource for $kind {
            type DynamicType = ();
            type Scope = $scope;

            fn kind(_: &()) -> Cow<'_, str> {
                stringify!($kind).into()
            }
            fn group(_: &()) -> Cow<'_, str> {
                "core.kubefed.io".into()
            }
            fn version(_: &()) -> Cow<'_, str> {
                "v1alpha1".into()
            }
            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }

        impl $kind {
            /// An object of this type with the given metadata and nothing else.
            pub fn new(metadata: ObjectMeta) -> Self {
                Self {
                    api_version: "core.kubefed.io/v1alpha1".to_owned(),
                    kind: stringify!($kind).to_owned(),
                    metadata,
                    ..Self::default()
                }
            }
        }
    };
}

/// Which version of a namespaced federated object each member has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PropagatedVersion {
    /// `core.kubefed.io/v1alpha1`.
    #[serde(default)]
    pub api_version: String,
    /// `PropagatedVersion`.
    #[serde(default)]
    pub kind: String,
    /// Name: lower-case target kind, `-`, the federated object's name.
    #[schemars(with = "AnyObject")]
    pub metadata: ObjectMeta,
    /// The record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PropagatedVersionStatus>,
}

resource!(PropagatedVersion, "propagatedversions", NamespaceResourceScope);

/// Which version of a cluster-scoped federated object each member has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPropagatedVersion {
    /// `core.kubefed.io/v1alpha1`.
    #[serde(default)]
    pub api_version: String,
    /// `ClusterPropagatedVersion`.
    #[serde(default)]
    pub kind: String,
    /// Name: lower-case target kind, `-`, the federated object's name.
    #[schemars(with = "AnyObject")]
    pub metadata: ObjectMeta,
    /// The record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PropagatedVersionStatus>,
}

resource!(ClusterPropagatedVersion, "clusterpropagatedversions", ClusterResourceScope);

/// What was propagated, and what each member made of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PropagatedVersionStatus {
    /// The hash of the template.
    pub template_version: String,
    /// The hash of the overrides.
    pub overrides_version: String,
    /// One entry per member, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_versions: Vec<ClusterObjectVersion>,
}

/// The version of an object in one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterObjectVersion {
    /// The member.
    pub cluster_name: String,
    /// `gen:` and the generation, or `rv:` and the resourceVersion.
    pub version: String,
}

/// The gathered status of a federated Service; legacy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FederatedServiceStatus {
    /// `core.kubefed.io/v1alpha1`.
    #[serde(default)]
    pub api_version: String,
    /// `FederatedServiceStatus`.
    #[serde(default)]
    pub kind: String,
    /// Name and namespace are those of the FederatedService.
    #[schemars(with = "AnyObject")]
    pub metadata: ObjectMeta,
    /// One entry per member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_status: Vec<ServiceClusterStatus>,
}

resource!(FederatedServiceStatus, "federatedservicestatuses", NamespaceResourceScope);

/// The status of a Service in one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceClusterStatus {
    /// The member.
    pub cluster_name: String,
    /// The Service's `.status`.
    #[schemars(with = "AnyObject")]
    pub status: Value,
}
