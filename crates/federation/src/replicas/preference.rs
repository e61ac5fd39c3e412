//! A ReplicaSchedulingPreference as it is kept.

use hansa_api::scheduling::ReplicaSchedulingPreferenceSpec;
use serde_json::Value;

/// The federated kinds whose replicas can be scheduled, and the FederatedTypeConfigs they come from.
pub(super) const KINDS: [(&str, &str); 2] =
    [("FederatedDeployment", "deployments.apps"), ("FederatedReplicaSet", "replicasets.apps")];

/// A ReplicaSchedulingPreference, projected.
#[derive(Debug)]
pub(super) struct Preference {
    /// `metadata.uid`.
    pub(super) uid: String,
    /// What it asks for, or why that cannot be read.
    pub(super) spec: Result<ReplicaSchedulingPreferenceSpec, String>,
    /// Whether it is being deleted; what it brought about stays.
    pub(super) deleting: bool,
}

impl Preference {
    pub(super) fn project(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let spec = serde_json::from_value(object["spec"].clone()).map_err(|error| error.to_string());
        Self {
            uid: metadata["uid"].as_str().unwrap_or_default().to_owned(),
            spec,
            deleting: !metadata["deletionTimestamp"].is_null(),
        }
    }

    /// The kind it is about, if that is one whose replicas can be scheduled.
    pub(super) fn kind(&self) -> Option<&'static str> {
        let asked = &self.spec.as_ref().ok()?.target_kind;
        KINDS.iter().map(|(kind, _)| *kind).find(|kind| kind == asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_preference_is_read_and_what_cannot_be_read_says_why() {
        let preference = Preference::project(&json!({
            "metadata": {"uid": "u"},
            "spec": {"targetKind": "FederatedReplicaSet", "totalReplicas": 9, "clusters": {"*": {"weight": 1}, "m1": {"maxReplicas": 2}}},
        }));
        assert_eq!((preference.kind(), preference.uid.as_str()), (Some("FederatedReplicaSet"), "u"));
        assert_eq!(preference.spec.unwrap().clusters["m1"].max_replicas, Some(2));
        let broken = Preference::project(
            &json!({"spec": {"targetKind": "FederatedDeployment", "totalReplicas": "many"}}),
        );
        assert!(broken.kind().is_none() && broken.spec.unwrap_err().contains("many"));
    }

    #[test]
    fn only_deployments_and_replica_sets_are_scheduled() {
        for kind in ["FederatedStatefulSet", "Deployment", "federateddeployment", ""] {
            let object = json!({"spec": {"targetKind": kind, "totalReplicas": 1}});
            assert_eq!(Preference::project(&object).kind(), None, "{kind}");
        }
    }
}
