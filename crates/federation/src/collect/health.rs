//! Whether an object does what it is there for, from its status alone: pure rules per kind, in the manner of the ecosystem's kstatus.
//!
//! They are asked of a member's copy; whether the copy is that of the present template is another question (see [`super`]).

use kube::core::ApiResource;
use serde_json::{Map, Value};

use crate::status::Availability::{self, Available, Failed, NotReady, Progressing, Terminating, Undecided};

/// How much of what an object says of itself is kept.
const LONGEST: usize = 160;

/// Where the availability of a kind comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// There is nothing to wait for: what is propagated is available. Nothing is watched for it.
    Propagation,
    /// The status, by a rule for the kind.
    Kind,
    /// The usual conditions, if the type has a status, which only the members know.
    Conditions,
}

/// Where the availability of a type comes from.
pub(crate) fn source(target: &ApiResource) -> Source {
    match (target.group.as_str(), target.kind.as_str()) {
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job")
        | ("", "Pod" | "ReplicationController" | "Service" | "PersistentVolumeClaim")
        | ("apiextensions.k8s.io", "CustomResourceDefinition")
        | ("apiregistration.k8s.io", "APIService") => Source::Kind,
        (group, _) if is_kubernetes(group) => Source::Propagation,
        _ => Source::Conditions,
    }
}

/// Kubernetes' own groups whose names have a suffix; others with the same suffix are defined by CRDs.
const SUFFIXED: [&str; 15] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// Whether a group is Kubernetes' own.
pub(crate) fn is_kubernetes(group: &str) -> bool {
    !group.contains('.') || SUFFIXED.contains(&group)
}

/// Whether objects of a type of Kubernetes' own never have a status (`spec/kubefed.md §6 (13)`).
pub(crate) fn never_has_status(target: &ApiResource) -> bool {
    match (target.group.as_str(), target.kind.as_str()) {
        ("", kind) => matches!(
            kind,
            "ConfigMap" | "Secret" | "ServiceAccount" | "Endpoints" | "Event" | "LimitRange" | "PodTemplate"
        ),
        ("apps", kind) => kind == "ControllerRevision",
        ("networking.k8s.io", kind) => matches!(kind, "NetworkPolicy" | "IngressClass" | "IPAddress"),
        ("storage.k8s.io", kind) => kind != "VolumeAttachment",
        ("admissionregistration.k8s.io", kind) => {
            kind.ends_with("Configuration") || kind.ends_with("Binding")
        }
        ("rbac.authorization.k8s.io" | "scheduling.k8s.io" | "coordination.k8s.io" | "node.k8s.io", _) => {
            true
        }
        ("discovery.k8s.io" | "events.k8s.io", _) => true,
        _ => false,
    }
}

/// What an object is for the rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// `metadata.generation`, 0 without one.
    pub(crate) generation: i64,
    /// Whether it is being deleted.
    pub(crate) deleting: bool,
    /// The fields of `spec` that matter here.
    pub(crate) spec: &'a Map<String, Value>,
    /// `status`, null without one.
    pub(crate) status: &'a Value,
}

/// Whether an object is available, and what is missing if it is not.
pub(crate) fn of(target: &ApiResource, subject: Subject<'_>) -> (Availability, String) {
    if subject.deleting {
        return (Terminating, "it is being deleted".to_owned());
    }
    let source = source(target);
    if source == Source::Propagation {
        return available();
    }
    if subject.status["observedGeneration"].as_i64().is_some_and(|observed| observed < subject.generation) {
        return progressing(format!("its controller has not observed generation {} yet", subject.generation));
    }
    let found = match target.kind.as_str() {
        _ if source == Source::Conditions => return subject.conditions(),
        "Deployment" => subject.deployment(),
        "ReplicaSet" | "ReplicationController" => subject.replica_set(),
        "StatefulSet" => subject.stateful_set(),
        "DaemonSet" => subject.daemon_set(),
        "Job" => subject.job(),
        "Pod" => subject.pod(),
        "Service" => subject.service(),
        "PersistentVolumeClaim" => subject.claim(),
        "CustomResourceDefinition" => subject.must("Established"),
        _ => subject.must("Available"),
    };
    match found {
        Ok(()) => available(),
        Err((availability, detail)) => (availability, shortened(detail)),
    }
}

fn available() -> (Availability, String) {
    (Available, String::new())
}

fn progressing(detail: String) -> (Availability, String) {
    (Progressing, shortened(detail))
}

fn shortened(detail: String) -> String {
    if detail.chars().nth(LONGEST).is_none() {
        return detail;
    }
    detail.chars().take(LONGEST).chain(['…']).collect()
}

/// What is missing.
type Verdict = Result<(), (Availability, String)>;

fn enough(have: i64, want: i64, what: &str) -> Verdict {
    if have < want {
        return Err((Progressing, format!("{} of {want} replicas are {what}", have.max(0))));
    }
    Ok(())
}

impl Subject<'_> {
    fn count(&self, field: &str) -> i64 {
        self.status[field].as_i64().unwrap_or_default()
    }

    fn replicas(&self) -> i64 {
        self.spec.get("replicas").and_then(Value::as_i64).unwrap_or(1)
    }

    fn strategy(&self) -> &Value {
        self.spec.get("updateStrategy").unwrap_or(&Value::Null)
    }

    fn condition(&self, wanted: &str) -> Option<(&str, String)> {
        let conditions = self.status["conditions"].as_array()?;
        let condition = conditions.iter().find(|condition| condition["type"] == wanted)?;
        let texts = [&condition["reason"], &condition["message"]].into_iter().filter_map(Value::as_str);
        let texts: Vec<_> = texts.filter(|text| !text.is_empty()).collect();
        Some((condition["status"].as_str().unwrap_or_default(), texts.join(": ")))
    }

    /// A condition that says that something went wrong for good.
    fn not(&self, wrong: &str) -> Verdict {
        match self.condition(wrong) {
            Some(("True", text)) => Err((Failed, format!("{wrong}: {text}"))),
            _ => Ok(()),
        }
    }

    fn must(&self, right: &str) -> Verdict {
        match self.condition(right) {
            Some(("True", _)) => Ok(()),
            Some((_, text)) => Err((NotReady, format!("it is not {right}: {text}"))),
            None => Err((Progressing, format!("it does not say yet whether it is {right}"))),
        }
    }

    /// Its controller has said something.
    fn reported(&self) -> Verdict {
        if self.status["observedGeneration"].is_i64() {
            return Ok(());
        }
        Err((Progressing, "its controller has not reported yet".to_owned()))
    }

    fn deployment(&self) -> Verdict {
        if let Some(("False", text)) = self.condition("Progressing")
            && text.starts_with("ProgressDeadlineExceeded")
        {
            return Err((Failed, text));
        }
        self.reported()?;
        let (want, updated) = (self.replicas(), self.count("updatedReplicas"));
        enough(updated, want, "updated")?;
        let old = self.count("replicas").saturating_sub(updated);
        if old > 0 {
            return Err((Progressing, format!("{old} old replicas are still there")));
        }
        enough(self.count("availableReplicas"), want, "available")
    }

    fn replica_set(&self) -> Verdict {
        self.not("ReplicaFailure")?;
        self.reported()?;
        enough(self.count("availableReplicas"), self.replicas(), "available")
    }

    fn stateful_set(&self) -> Verdict {
        self.reported()?;
        let (want, strategy) = (self.replicas(), self.strategy());
        let ready =
            if self.status["availableReplicas"].is_i64() { "availableReplicas" } else { "readyReplicas" };
        if strategy["type"] != "OnDelete" {
            let partition = strategy["rollingUpdate"]["partition"].as_i64().unwrap_or_default();
            if self.status["currentRevision"] != self.status["updateRevision"] {
                enough(self.count("updatedReplicas"), want.saturating_sub(partition).max(0), "updated")?;
            }
        }
        enough(self.count(ready), want, "available")
    }

    fn daemon_set(&self) -> Verdict {
        self.reported()?;
        let want = self.count("desiredNumberScheduled");
        if self.strategy()["type"] != "OnDelete" {
            enough(self.count("updatedNumberScheduled"), want, "updated")?;
        }
        enough(self.count("numberAvailable"), want, "available")
    }

    fn job(&self) -> Verdict {
        self.not("Failed")?;
        match self.condition("Complete") {
            Some(("True", _)) => Ok(()),
            _ if self.spec.get("suspend") == Some(&Value::Bool(true)) => {
                Err((Progressing, "it is suspended".to_owned()))
            }
            _ => Err((Progressing, "it is not complete".to_owned())),
        }
    }

    fn pod(&self) -> Verdict {
        match self.status["phase"].as_str() {
            Some("Succeeded") => Ok(()),
            Some("Failed") => {
                let text = self.status["message"].as_str().or(self.status["reason"].as_str());
                Err((Failed, text.unwrap_or("its phase is Failed").to_owned()))
            }
            Some("Running") => self.must("Ready"),
            phase => Err((Progressing, format!("its phase is {}", phase.unwrap_or("unknown")))),
        }
    }

    fn service(&self) -> Verdict {
        let is_balanced = self.spec.get("type").is_some_and(|kind| kind == "LoadBalancer");
        let has_address =
            self.status["loadBalancer"]["ingress"].as_array().is_some_and(|found| !found.is_empty());
        if is_balanced && !has_address {
            return Err((Progressing, "its load balancer has no address yet".to_owned()));
        }
        Ok(())
    }

    fn claim(&self) -> Verdict {
        match self.status["phase"].as_str() {
            Some("Bound") => Ok(()),
            Some("Lost") => Err((Failed, "its volume is lost".to_owned())),
            phase => Err((Progressing, format!("its phase is {}", phase.unwrap_or("unknown")))),
        }
    }

    /// A type that is not Kubernetes' own says by its conditions how it is, or else has nothing to wait for.
    fn conditions(&self) -> (Availability, String) {
        for (kind, availability) in [("Stalled", Failed), ("Reconciling", Progressing)] {
            if let Some(("True", text)) = self.condition(kind) {
                return (availability, shortened(format!("{kind}: {text}")));
            }
        }
        for kind in ["Ready", "Available"] {
            let Some((status, text)) = self.condition(kind) else { continue };
            return match status {
                "True" => available(),
                "False" => (NotReady, shortened(format!("its condition {kind} is False: {text}"))),
                _ => (Undecided, shortened(format!("its condition {kind} is Unknown: {text}"))),
            };
        }
        available()
    }
}

#[cfg(test)]
mod tests;
