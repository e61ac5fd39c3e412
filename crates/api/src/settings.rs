//! The settings in force: what a KubeFedConfig says, completed and checked (`spec/kubefed.md §1.2`).

use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::kubefed::{
    ClusterHealthCheck, ControllerDuration, FeatureGate, KubeFedConfigSpec, LeaderElect, ResourceLock, Scope,
    StatusController, Switch, SyncController, feature,
};

/// Why a KubeFedConfig cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// A duration or a number is not above zero.
    #[error("KubeFedConfig: spec.{0} must be greater than zero")]
    NotPositive(&'static str),
    /// The leader would lose its lease before it noticed.
    #[error(
        "KubeFedConfig: spec.leaderElect.leaseDuration must be greater than spec.leaderElect.renewDeadline"
    )]
    LeaseTooShort,
    /// The leader would give up before its second try.
    #[error(
        "KubeFedConfig: spec.leaderElect.renewDeadline must be greater than 1.2 times spec.leaderElect.retryPeriod"
    )]
    RenewTooShort,
    /// A field is not what it should be.
    #[error("KubeFedConfig: {field}: {problem}")]
    Malformed {
        /// The field, as `spec.leaderElect.resourceLock`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The same feature twice.
    #[error("KubeFedConfig: spec.featureGates names {0:?} twice; keep one of the entries")]
    DuplicateFeature(String),
}

/// What a KubeFedConfig means, with nothing left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether all namespaces are served or only the control plane's own.
    pub scope: Scope,
    /// KubeFed waited so long before it reconciled on a cluster that became ready, because it rebuilt that cluster's caches for every type
    /// meanwhile. Here a member's watches outlive its absence and each object is looked at when its own copy is known, so the wait would serve
    /// nothing: work begins at once.
    pub available_delay: Duration,
    /// KubeFed waited so long before it reconciled on a cluster that was no longer ready, so that a short absence caused no work. Here an absence
    /// causes none: nothing is taken from an absent member, and the failure threshold of the probes rides out a short one. What ends after this
    /// time is waiting: a deletion goes on without the member (what it owes is written down), and others run its scheduled replicas.
    pub unavailable_delay: Duration,
    /// KubeFed ended when a cache took longer than this to fill. Here an object that lacks the watch of one member is handled in all others,
    /// without waiting, so nothing needs to end.
    pub cache_sync_timeout: Duration,
    /// How long a lease holds without being renewed.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// The pause between two tries.
    pub retry_period: Duration,
    /// The kind of object that is the lock; beside KubeFed's two, `leases`.
    pub resource_lock: ResourceLock,
    /// Whether the replica scheduler runs (the gate SchedulerPreferences).
    pub scheduler_preferences: bool,
    /// Whether objects are propagated (the gate PushReconciler).
    pub push_reconciler: bool,
    /// Whether the members' `.status` is gathered as it is (the gate RawResourceStatusCollection).
    pub raw_resource_status_collection: bool,
    /// How members are probed.
    pub health: Health,
    /// How many objects of a type are propagated at once, at least: KubeFed's default of one made every object wait for the slowest member of the
    /// one before it, so that there are always some more.
    pub sync_concurrency: usize,
    /// Whether objects that exist in a member are taken over.
    pub adopt_resources: bool,
    /// How many objects of a type have their status gathered at once.
    pub status_concurrency: usize,
}

/// How members are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The pause between two probes.
    pub period: Duration,
    /// How long a probe may take.
    pub timeout: Duration,
    /// Consecutive failed probes after which a ready member is no longer ready.
    pub failure_threshold: u32,
    /// Consecutive good probes after which a member is ready again.
    pub success_threshold: u32,
}

const SECOND: Duration = Duration::from_secs(1);

/// The features there are, by name, and whether they are on unless said otherwise.
const FEATURES: [(&str, Switch); 3] = [
    (feature::PUSH_RECONCILER, Switch::Enabled),
    (feature::RAW_RESOURCE_STATUS_COLLECTION, Switch::Disabled),
    (feature::SCHEDULER_PREFERENCES, Switch::Enabled),
];

impl KubeFedConfigSpec {
    /// The spec of a KubeFedConfig as it came from a file or an API, which may hold anything.
    pub fn read(config: &Value) -> Result<Self, SettingsError> {
        let spec = config.get("spec").cloned().unwrap_or_default();
        serde_json::from_value(spec.clone()).map_err(|error| {
            let (field, problem) = culprit(&spec).unwrap_or_else(|| ("spec".to_owned(), error.to_string()));
            SettingsError::Malformed { field, problem }
        })
    }

    /// The spec with every field that has a default filled in, and the feature gates complete and sorted by name.
    #[must_use]
    pub fn defaulted(&self) -> Self {
        let duration = self.controller_duration.clone().unwrap_or_default();
        let leader = self.leader_elect.clone().unwrap_or_default();
        let health = self.cluster_health_check.clone().unwrap_or_default();
        let sync = self.sync_controller.clone().unwrap_or_default();
        let status = self.status_controller.clone().unwrap_or_default();
        let seconds = |given: Option<kube::core::Duration>, default: u32| {
            Some(given.unwrap_or((SECOND * default).into()))
        };
        let mut feature_gates = self.feature_gates.clone();
        for (name, configuration) in FEATURES {
            if !feature_gates.iter().any(|gate| gate.name == name) {
                feature_gates.push(FeatureGate { name: name.to_owned(), configuration });
            }
        }
        feature_gates.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            scope: self.scope,
            controller_duration: Some(ControllerDuration {
                available_delay: seconds(duration.available_delay, 20),
                unavailable_delay: seconds(duration.unavailable_delay, 60),
                cache_sync_timeout: seconds(duration.cache_sync_timeout, 300),
            }),
            leader_elect: Some(LeaderElect {
                lease_duration: seconds(leader.lease_duration, 15),
                renew_deadline: seconds(leader.renew_deadline, 10),
                retry_period: seconds(leader.retry_period, 5),
                resource_lock: leader.resource_lock.or(Some(ResourceLock::ConfigMaps)),
            }),
            feature_gates,
            cluster_health_check: Some(ClusterHealthCheck {
                period: seconds(health.period, 10),
                timeout: seconds(health.timeout, 3),
                failure_threshold: health.failure_threshold.or(Some(3)),
                success_threshold: health.success_threshold.or(Some(1)),
            }),
            sync_controller: Some(SyncController {
                max_concurrent_reconciles: sync.max_concurrent_reconciles.or(Some(1)),
                adopt_resources: sync.adopt_resources.or(Some(Switch::Enabled)),
            }),
            status_controller: Some(StatusController {
                max_concurrent_reconciles: status.max_concurrent_reconciles.or(Some(1)),
            }),
        }
    }

    /// The settings in force. Features that are not known are ignored: manifests of older KubeFed versions name some.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        let spec = self.defaulted();
        let duration = spec.controller_duration.unwrap_or_default();
        let leader = spec.leader_elect.unwrap_or_default();
        let health = spec.cluster_health_check.unwrap_or_default();
        let sync = spec.sync_controller.unwrap_or_default();
        let status = spec.status_controller.unwrap_or_default();
        for (index, gate) in spec.feature_gates.iter().enumerate() {
            if spec.feature_gates[..index].iter().any(|other| other.name == gate.name) {
                return Err(SettingsError::DuplicateFeature(gate.name.clone()));
            }
        }
        let on = |name: &str| {
            spec.feature_gates.iter().any(|gate| gate.name == name && gate.configuration == Switch::Enabled)
        };
        let settings = Settings {
            scope: spec.scope,
            available_delay: positive("controllerDuration.availableDelay", duration.available_delay)?,
            unavailable_delay: positive("controllerDuration.unavailableDelay", duration.unavailable_delay)?,
            cache_sync_timeout: positive("controllerDuration.cacheSyncTimeout", duration.cache_sync_timeout)?,
            lease_duration: positive("leaderElect.leaseDuration", leader.lease_duration)?,
            renew_deadline: positive("leaderElect.renewDeadline", leader.renew_deadline)?,
            retry_period: positive("leaderElect.retryPeriod", leader.retry_period)?,
            resource_lock: leader.resource_lock.unwrap_or(ResourceLock::ConfigMaps),
            scheduler_preferences: on(feature::SCHEDULER_PREFERENCES),
            push_reconciler: on(feature::PUSH_RECONCILER),
            raw_resource_status_collection: on(feature::RAW_RESOURCE_STATUS_COLLECTION),
            health: Health {
                period: positive("clusterHealthCheck.period", health.period)?,
                timeout: positive("clusterHealthCheck.timeout", health.timeout)?,
                failure_threshold: count("clusterHealthCheck.failureThreshold", health.failure_threshold)?,
                success_threshold: count("clusterHealthCheck.successThreshold", health.success_threshold)?,
            },
            sync_concurrency: count("syncController.maxConcurrentReconciles", sync.max_concurrent_reconciles)?
                as usize,
            adopt_resources: sync.adopt_resources != Some(Switch::Disabled),
            status_concurrency: count(
                "statusController.maxConcurrentReconciles",
                status.max_concurrent_reconciles,
            )? as usize,
        };
        if settings.lease_duration <= settings.renew_deadline {
            return Err(SettingsError::LeaseTooShort);
        }
        if settings.renew_deadline.as_millis() * 10 <= settings.retry_period.as_millis() * 12 {
            return Err(SettingsError::RenewTooShort);
        }
        Ok(settings)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scope: Scope::Cluster,
            available_delay: SECOND * 20,
            unavailable_delay: SECOND * 60,
            cache_sync_timeout: SECOND * 300,
            lease_duration: SECOND * 15,
            renew_deadline: SECOND * 10,
            retry_period: SECOND * 5,
            resource_lock: ResourceLock::ConfigMaps,
            scheduler_preferences: true,
            push_reconciler: true,
            raw_resource_status_collection: false,
            health: Health {
                period: SECOND * 10,
                timeout: SECOND * 3,
                failure_threshold: 3,
                success_threshold: 1,
            },
            sync_concurrency: 1,
            adopt_resources: true,
            status_concurrency: 1,
        }
    }
}

/// Which field makes a spec unreadable: the first that does so in an otherwise good one.
fn culprit(spec: &Value) -> Option<(String, String)> {
    let Some(fields) = spec.as_object() else {
        return Some(("spec".to_owned(), "it is not an object".to_owned()));
    };
    let Some(scope) = fields.get("scope") else {
        return Some(("spec.scope".to_owned(), "it is required: Cluster or Namespaced".to_owned()));
    };
    let wrong = |name: &str, value: Value| {
        let mut alone = Map::from_iter([("scope".to_owned(), "Cluster".into())]);
        alone.insert(name.to_owned(), value);
        serde_json::from_value::<KubeFedConfigSpec>(Value::Object(alone)).err().map(|error| error.to_string())
    };
    if let Some(problem) = wrong("scope", scope.clone()) {
        return Some(("spec.scope".to_owned(), problem));
    }
    fields.iter().find_map(|(name, value)| {
        let problem = wrong(name, value.clone())?;
        let inner = match value {
            Value::Object(inner) => inner.iter().find_map(|(key, value)| {
                let problem = wrong(name, Value::Object(Map::from_iter([(key.clone(), value.clone())])))?;
                Some((format!("spec.{name}.{key}"), problem))
            }),
            Value::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
                let problem = wrong(name, Value::Array(vec![item.clone()]))?;
                Some((format!("spec.{name}[{index}]"), problem))
            }),
            _ => None,
        };
        Some(inner.unwrap_or_else(|| (format!("spec.{name}"), problem)))
    })
}

fn positive(field: &'static str, value: Option<kube::core::Duration>) -> Result<Duration, SettingsError> {
    match value {
        Some(value) if !value.is_negative() && Duration::from(value) > Duration::ZERO => Ok(value.into()),
        _ => Err(SettingsError::NotPositive(field)),
    }
}

fn count(field: &'static str, value: Option<i64>) -> Result<u32, SettingsError> {
    match value {
        Some(value) if value > 0 => Ok(u32::try_from(value).unwrap_or(u32::MAX)),
        _ => Err(SettingsError::NotPositive(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> KubeFedConfigSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_config_with_only_a_scope_means_the_defaults() {
        let given = spec(serde_json::json!({"scope": "Cluster"}));
        assert_eq!(given.settings().unwrap(), Settings::default());
        assert_eq!(given.defaulted().settings().unwrap(), Settings::default());
        assert_eq!(given.defaulted().defaulted(), given.defaulted());
    }

    #[test]
    fn the_default_config_is_written_as_kubefed_writes_it() {
        let written =
            serde_json::to_value(spec(serde_json::json!({"scope": "Cluster"})).defaulted()).unwrap();
        assert_eq!(written["leaderElect"]["resourceLock"], "configmaps");
        assert_eq!(written["clusterHealthCheck"]["period"], "10s");
        assert_eq!(written["featureGates"][0]["name"], "PushReconciler");
        assert_eq!(written["featureGates"][1]["configuration"], "Disabled");
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (json, expected) in [
            (
                serde_json::json!({"scope": "Cluster", "clusterHealthCheck": {"period": "0s"}}),
                SettingsError::NotPositive("clusterHealthCheck.period"),
            ),
            (
                serde_json::json!({"scope": "Cluster", "clusterHealthCheck": {"timeout": "-3s"}}),
                SettingsError::NotPositive("clusterHealthCheck.timeout"),
            ),
            (
                serde_json::json!({"scope": "Cluster", "leaderElect": {"leaseDuration": "10s"}}),
                SettingsError::LeaseTooShort,
            ),
            (
                serde_json::json!({"scope": "Cluster", "leaderElect": {"retryPeriod": "9s"}}),
                SettingsError::RenewTooShort,
            ),
            (
                serde_json::json!({"scope": "Cluster", "featureGates": [
                    {"name": "X", "configuration": "Enabled"}, {"name": "X", "configuration": "Disabled"}]}),
                SettingsError::DuplicateFeature("X".to_owned()),
            ),
        ] {
            assert_eq!(spec(json).settings().unwrap_err(), expected);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (spec, field) in [
            (serde_json::json!({}), "spec.scope"),
            (serde_json::json!("x"), "spec"),
            (serde_json::json!({"scope": ""}), "spec.scope"),
            (
                serde_json::json!({"scope": "Cluster", "leaderElect": {"retryPeriod": "5s", "resourceLock": "x"}}),
                "spec.leaderElect.resourceLock",
            ),
            (
                serde_json::json!({"scope": "Cluster", "clusterHealthCheck": {"period": "soon"}}),
                "spec.clusterHealthCheck.period",
            ),
            (serde_json::json!({"scope": "Cluster", "syncController": 7}), "spec.syncController"),
            (
                serde_json::json!({"scope": "Cluster", "featureGates": [
                {"name": "PushReconciler", "configuration": "Enabled"}, {"name": "PushReconciler", "configuration": "on"}]}),
                "spec.featureGates[1]",
            ),
        ] {
            let error = KubeFedConfigSpec::read(&serde_json::json!({"spec": spec})).unwrap_err();
            assert!(error.to_string().starts_with(&format!("KubeFedConfig: {field}: ")), "{error}");
        }
        let good = serde_json::json!({"spec": {"scope": "Namespaced", "unknown": 1}});
        assert_eq!(KubeFedConfigSpec::read(&good).unwrap().scope, Scope::Namespaced);
    }

    #[test]
    fn a_feature_of_an_older_version_is_ignored() {
        let given = spec(serde_json::json!({"scope": "Namespaced", "featureGates": [
            {"name": "CrossClusterServiceDiscovery", "configuration": "Enabled"},
            {"name": "RawResourceStatusCollection", "configuration": "Enabled"}]}));
        let settings = given.settings().unwrap();
        assert!(settings.raw_resource_status_collection && settings.push_reconciler);
        assert_eq!(settings.scope, Scope::Namespaced);
    }
}
