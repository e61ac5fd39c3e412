//! The replica scheduler: divides the replicas of a federated Deployment or ReplicaSet among members as a
//! ReplicaSchedulingPreference of the same name asks (`spec/kubefed.md §1.6, §2.10`).
//!
//! What decides is pure: [`planner`] divides, [`schedule`] says what goes into the division for members that are there and for those
//! that are not, [`capacity`] counts, [`edit`] says what of it is written where. [`Scheduler`] watches, reads the members and writes.

pub mod capacity;
#[cfg(test)]
mod cases;
mod controller;
pub mod edit;
mod look;
pub mod planner;
mod preference;
mod read;
pub mod schedule;
mod standing;

use std::time::Duration;

use hansa_api::kubefed::{KubeFedConfig, Scope};
use hansa_api::names;

pub use controller::Scheduler;

/// How the scheduler is to work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The namespace of the control plane's own objects.
    pub namespace: String,
    /// The one namespace that is federated, if the control plane is not cluster-wide.
    pub only_namespace: Option<String>,
    /// How long a member that is not ready keeps its replicas to itself: `controllerDuration.unavailableDelay`.
    pub unavailable_delay: Duration,
    /// How many objects are worked on at once.
    pub concurrency: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace: names::SYSTEM_NAMESPACE.to_owned(),
            only_namespace: None,
            unavailable_delay: Duration::from_secs(60),
            concurrency: 16,
        }
    }
}

impl Options {
    /// What the KubeFedConfig of a control plane in `namespace` asks for; `None` where its feature gate SchedulerPreferences is off.
    pub fn of(config: Option<&KubeFedConfig>, namespace: &str) -> Option<Self> {
        let settings = config.map(|config| config.spec.settings());
        let settings = settings.and_then(Result::ok).unwrap_or_default();
        let is_namespaced = config.is_some_and(|config| config.spec.scope == Scope::Namespaced);
        settings.scheduler_preferences.then(|| Self {
            namespace: namespace.to_owned(),
            only_namespace: is_namespaced.then(|| namespace.to_owned()),
            unavailable_delay: settings.unavailable_delay,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn options(spec: serde_json::Value) -> Option<Options> {
        let config = serde_json::from_value(json!({"metadata": {"name": "kubefed"}, "spec": spec})).unwrap();
        Options::of(Some(&config), "ns")
    }

    #[test]
    fn the_feature_gate_decides_whether_replicas_are_scheduled() {
        let gate = |configuration: &str| {
            options(
                json!({"scope": "Cluster", "featureGates": [{"name": "SchedulerPreferences", "configuration": configuration}]}),
            )
        };
        assert!(gate("Enabled").is_some() && gate("Disabled").is_none());
        assert!(options(json!({"scope": "Cluster"})).is_some() && Options::of(None, "ns").is_some());
    }

    #[test]
    fn scope_and_delay_are_those_of_the_control_plane() {
        let options =
            options(json!({"scope": "Namespaced", "controllerDuration": {"unavailableDelay": "5s"}}))
                .unwrap();
        assert_eq!(options.only_namespace.as_deref(), Some("ns"));
        assert_eq!(options.unavailable_delay, Duration::from_secs(5));
        let default = Options::of(None, "ns").unwrap();
        assert_eq!((default.only_namespace, default.unavailable_delay), (None, Duration::from_secs(60)));
    }
}
