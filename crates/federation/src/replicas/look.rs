//! One look at one preference: read, count, schedule, write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hansa_api::scheduling::ReplicaSchedulingPreferenceSpec;
use hansa_cluster::{Member, Snapshot};
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::capacity::Count;
use super::controller::{Scheduled, Shared};
use super::edit;
use super::preference::{KINDS, Preference};
use super::read::Reading;
use super::schedule::{self, Standing};
use super::standing::{Note, Outcome, SOON, report, standing};
use crate::engine::lock;
use crate::events::{About, Severity};
use crate::key::Key;
use crate::placement::{self, Gate, Placement, PlacementError};

/// When to look again after somebody else wrote at the same time.
const AT_ONCE: Duration = Duration::from_millis(100);

/// What is remembered of one preference, to ask and to say things once.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The generation of the federated object that was last looked at.
    pub(super) generation: Option<i64>,
    readings: BTreeMap<String, Reading>,
    /// The capacities last seen, for when a member cannot be.
    capacities: BTreeMap<String, i64>,
    said: BTreeSet<Note>,
}

/// Why a look ended early.
enum Stop {
    /// There is nothing to schedule; the next change will say so.
    Idle,
    /// It must be tried again.
    Failed(String, kube::Error),
    /// The user has to change something.
    Told(Note),
}

impl Shared {
    /// Makes a federated object say what its preference asks for; returns when to look again.
    pub(super) async fn look(&self, key: &Key) -> Option<Duration> {
        let Some(preference) = self.preferences.get(key).filter(|preference| !preference.deleting) else {
            // What was scheduled stays (`spec/kubefed.md §2.10`).
            lock(&self.memories).remove(key);
            return None;
        };
        let outcome = match self.schedule(key, &preference).await {
            Ok(outcome) => outcome,
            Err(Stop::Idle) => Outcome::default(),
            Err(Stop::Told(note)) => Outcome { notes: [note].into(), again: None },
            // Somebody else wrote at the same time, or deleted the object.
            Err(Stop::Failed(_, kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                return Some(AT_ONCE);
            }
            Err(Stop::Failed(what, error)) => {
                tracing::warn!(preference = %key, %error, "{what}; trying again");
                let note = Note { reason: "SchedulingFailed", message: format!("{what}: {error}") };
                Outcome { notes: [note].into(), again: Some(SOON) }
            }
        };
        let new: Vec<Note> = {
            let mut memories = lock(&self.memories);
            let said = &mut memories.entry(key.clone()).or_default().said;
            let new = outcome.notes.difference(said).cloned().collect();
            *said = outcome.notes;
            new
        };
        for note in new {
            self.event(key, &preference, Severity::Warning, note.reason, note.message);
        }
        outcome.again
    }

    async fn schedule(&self, key: &Key, preference: &Preference) -> Result<Outcome, Stop> {
        let spec = preference.spec.as_ref().map_err(|error| {
            Stop::Told(Note {
                reason: "InvalidPreference",
                message: format!("the preference cannot be read: {error}"),
            })
        })?;
        // KubeFed looked at it every ten seconds and said nothing (`spec/kubefed.md §6 (28)`).
        let kind = preference.kind().ok_or_else(|| {
            let kinds = KINDS.map(|(kind, _)| kind).join(" or ");
            let message = format!("spec.targetKind must be {kinds}, not {:?}", spec.target_kind);
            Stop::Told(Note { reason: "InvalidTargetKind", message })
        })?;
        let scheduled = lock(&self.types).get(kind).cloned().ok_or(Stop::Idle)?;
        let snapshot = self.registry.members();
        if !snapshot.synced {
            return Err(Stop::Idle);
        }
        let api = self.api(&scheduled.types.federated, Some(&key.namespace));
        let federated = api.get_opt(&key.name).await;
        let federated =
            federated.map_err(failed("the federated object cannot be read"))?.ok_or(Stop::Idle)?;
        let federated = serde_json::to_value(federated).unwrap_or_default();
        if !federated["metadata"]["deletionTimestamp"].is_null() {
            return Err(Stop::Idle);
        }
        let mut outcome = Outcome::default();
        let taking_part = self.taking_part(key, spec, &scheduled, &federated, &snapshot).await?;
        if taking_part.is_empty() {
            if snapshot.members.is_empty() {
                return Err(Stop::Idle);
            }
            // KubeFed left the object where it was (`spec/kubefed.md §6 (25)`); but that no cluster is selected was asked for as plainly as
            // that one is not, and is what the selector alone would do.
            let message = "no cluster is selected by both spec.placement.clusterSelector of the object and its FederatedNamespace: it is \
                           placed nowhere";
            outcome.note("NoClusterSelected", message.to_owned());
        }
        let standings =
            self.standings(key, &scheduled, &federated, &snapshot, &taking_part, &mut outcome).await;
        let is_seen = |standing: &Standing| matches!(standing, Standing::Seen { .. });
        if !taking_part.is_empty() && !standings.values().any(is_seen) {
            // No member can be seen: nothing better than what stands can be said.
            return Ok(outcome);
        }
        let schedule = schedule::schedule(spec, &key.to_string(), &standings);
        let mut generation = federated["metadata"]["generation"].as_i64();
        if let Some(edited) = edit::edited(&federated, &schedule) {
            let written = self.write(&scheduled, key, edited).await?;
            generation = written.metadata.generation;
            let shares: Vec<String> =
                schedule.iter().map(|(cluster, number)| format!("{cluster}: {number}")).collect();
            let shares = if shares.is_empty() { "none".to_owned() } else { shares.join(", ") };
            self.event(
                key,
                preference,
                Severity::Normal,
                "ReplicasScheduled",
                format!("Replicas of clusters: {shares}"),
            );
        }
        lock(&self.memories).entry(key.clone()).or_default().generation = generation;
        Ok(outcome)
    }

    async fn write(&self, scheduled: &Scheduled, key: &Key, edited: Value) -> Result<DynamicObject, Stop> {
        let what = "the federated object cannot be written";
        let edited: DynamicObject =
            serde_json::from_value(edited).map_err(|error| failed(what)(kube::Error::SerdeError(error)))?;
        let api = self.api(&scheduled.types.federated, Some(&key.namespace));
        let params = PostParams {
            field_manager: Some(hansa_api::names::FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        api.replace(&key.name, &params, &edited).await.map_err(failed(what))
    }

    /// The members that take part: all that are registered, or those that the selectors of the object and its namespace choose. Whether
    /// one is ready is not asked here (`spec/kubefed.md §6 (29)`).
    async fn taking_part(
        &self,
        key: &Key,
        spec: &ReplicaSchedulingPreferenceSpec,
        scheduled: &Scheduled,
        federated: &Value,
        snapshot: &Snapshot,
    ) -> Result<BTreeSet<String>, Stop> {
        if !spec.intersect_with_cluster_selector {
            return Ok(snapshot.members.keys().cloned().collect());
        }
        let namespace = match &scheduled.namespaces {
            None => None,
            Some(resource) => {
                let api = self.api(resource, Some(&key.namespace));
                let read = api.get_opt(&key.namespace).await;
                read.map_err(failed("the FederatedNamespace cannot be read"))?
            }
        };
        let namespace =
            namespace.map(|namespace| selector(&namespace.data)).transpose().map_err(unreadable)?;
        let gate = match &namespace {
            Some(placement) => Gate::Within(placement),
            None if self.options.only_namespace.is_some() => Gate::Open,
            None => Gate::NotFederated,
        };
        let placement = selector(federated).map_err(unreadable)?;
        let members = snapshot.members.iter().map(|(name, member)| (name.as_str(), &member.labels));
        Ok(placement::resolve(&placement, members, gate).unwrap_or_default().clusters)
    }

    /// What is known of each member that takes part. A member that cannot be seen and that the object is not placed on does not: it gets
    /// its share when it is there.
    async fn standings(
        &self,
        key: &Key,
        scheduled: &Scheduled,
        federated: &Value,
        snapshot: &Snapshot,
        taking_part: &BTreeSet<String>,
        outcome: &mut Outcome,
    ) -> BTreeMap<String, Standing> {
        let (former, mut capacities) = {
            let memories = lock(&self.memories);
            let memory = memories.get(key);
            (
                memory.map(|m| m.readings.clone()).unwrap_or_default(),
                memory.map(|m| m.capacities.clone()).unwrap_or_default(),
            )
        };
        let members: Vec<&Arc<Member>> =
            taking_part.iter().filter_map(|name| snapshot.members.get(name)).collect();
        let target = &scheduled.types.target;
        let read = members.iter().map(|member| {
            self.reader.read(member, &scheduled.informers, target, key, former.get(&member.name))
        });
        let readings = futures::future::join_all(read).await;
        let told = edit::told(federated, &placed(federated, snapshot));
        let mut standings = BTreeMap::new();
        for (member, reading) in members.iter().zip(&readings) {
            let name = &member.name;
            match reading {
                Reading::Counted { count: Count { capacity: Some(capacity), .. }, .. } => {
                    capacities.insert(name.clone(), *capacity);
                }
                Reading::Counted { .. } | Reading::Absent => drop(capacities.remove(name)),
                Reading::Unknown(_) => {}
            }
            let absence = lock(&self.absences).get(name).map(Instant::elapsed).filter(|_| !member.ready);
            let delay = self.options.unavailable_delay;
            let told = told.get(name).copied();
            let standing = standing(reading, told, capacities.get(name).copied(), absence, delay);
            report(name, reading, member.ready, standing, delay, outcome);
            if let (Some(Standing::Away { .. }), Some(absence)) = (standing, absence) {
                outcome.again(delay.saturating_sub(absence) + AT_ONCE);
            }
            standings.extend(standing.map(|standing| (name.clone(), standing)));
        }
        let readings = members.iter().map(|member| member.name.clone()).zip(readings).collect();
        let mut memories = lock(&self.memories);
        let memory = memories.entry(key.clone()).or_default();
        (memory.readings, memory.capacities) = (readings, capacities);
        standings
    }

    fn event(
        &self,
        key: &Key,
        preference: &Preference,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let about = About {
            api_version: "scheduling.kubefed.io/v1alpha1".to_owned(),
            kind: "ReplicaSchedulingPreference".to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: preference.uid.clone(),
        };
        self.events.record(about, severity, reason, message);
    }
}

/// The registered clusters an object is placed on as it stands, whatever its namespace allows.
fn placed(federated: &Value, snapshot: &Snapshot) -> BTreeSet<String> {
    let Ok(placement) = Placement::parse(federated) else { return BTreeSet::new() };
    let members = snapshot.members.iter().map(|(name, member)| (name.as_str(), &member.labels));
    placement::resolve(&placement, members, Gate::Open).unwrap_or_default().clusters
}

/// What the selector of an object chooses; the list of clusters is the scheduler's own.
fn selector(object: &Value) -> Result<Placement, PlacementError> {
    Placement::parse(
        &json!({"spec": {"placement": {"clusterSelector": object["spec"]["placement"]["clusterSelector"]}}}),
    )
}

fn unreadable(error: PlacementError) -> Stop {
    Stop::Told(Note { reason: "ComputePlacementFailed", message: error.to_string() })
}

fn failed(what: &str) -> impl Fn(kube::Error) -> Stop {
    move |error| Stop::Failed(what.to_owned(), error)
}
