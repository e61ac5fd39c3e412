//! The Kubernetes types that Hansa owns or serves: custom resources, conditions and well-known names.
//!
//! Shapes, names and scopes are those of KubeSphere (`cluster.kubesphere.io`) and KubeFed (`core.kubefed.io`,
//! `scheduling.kubefed.io`, `types.kubefed.io`), so that existing manifests and clients keep working. Nothing here does
//! any I/O.

pub mod cluster;
mod crd;
pub mod federated;
pub mod kubefed;
mod manifests;
pub mod names;
pub mod propagated;
pub mod scheduling;
pub mod settings;
pub mod time;
pub mod tower;
pub mod validation;
pub mod webhooks;

pub use cluster::Cluster;
pub use federated::TargetType;
pub use kubefed::{FederatedTypeConfig, KubeFedCluster, KubeFedConfig};
pub use manifests::{crds, defaults, manifests};
pub use propagated::{ClusterPropagatedVersion, FederatedServiceStatus, PropagatedVersion};
pub use scheduling::ReplicaSchedulingPreference;
pub use settings::Settings;
