//! Obtains pinned Kubernetes binaries.
/// The Kubernetes release that the tests run against and whose API documents are embedded.
pub const KUBERNETES_VERSION: &str = "1.37.2";
