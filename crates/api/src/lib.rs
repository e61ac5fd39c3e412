//! Kubernetes types that Hansa owns or serves: CRDs, conditions, well-known names
