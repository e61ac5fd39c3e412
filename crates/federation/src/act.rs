//! The acting half of the engine: steps in the members, and what is written on the host about them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hansa_api::names;
use hansa_cluster::Member;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use crate::conditions::Written;
use crate::debts::Debt;
use crate::dispatch::{Done, Recipe, Target};
use crate::engine::{Engine, Seen, lock};
use crate::events::{self, Severity};
use crate::federated::{DeleteOptions, Federated};
use crate::host;
use crate::key::Key;
use crate::overrides::{Cluster, Overrides};
use crate::plan::{Action, Copy, Goal, Knowledge, Observation, Step, Work};
use crate::records::Owner;
use crate::report::{self, Failure, Outcome, Retry};
use crate::state::{self, Basis, Finished};
use crate::status::{Propagation, Reason, Reported, Word};
use crate::template;

/// The pause after a host that did not do as it was asked.
const HOST_PAUSE: Duration = Duration::from_secs(1);
/// How often a finalizer is tried again at once because the object changed under it.
const TRIES: usize = 4;

/// What the copies are made from.
struct Source {
    body: Value,
    overrides: Overrides,
}

/// One step on its way to a member.
struct Attempt {
    step: Step,
    basis: Basis,
    member: Arc<Member>,
    target: Target,
    seen: Option<Copy>,
}

impl Engine {
    /// Works on a federated object that is there.
    pub(crate) async fn act(
        self: &Arc<Self>,
        key: &Key,
        federated: &Arc<Federated>,
        work: &Work,
        body: Option<Box<str>>,
        seen: &Seen,
    ) {
        if work.goal == Goal::Propagate
            && !self.is_held(key, federated)
            && let Err(error) = self.hold(key, federated, true).await
        {
            let message = format!("the finalizer cannot be added: {error}");
            self.event(key, federated, Severity::Warning, "EnsureFinalizerError", message);
            return self.queue.add_after(key.clone(), HOST_PAUSE);
        }
        let mut source = None;
        if work.steps.iter().any(|step| matches!(step.action, Action::Create | Action::Update)) {
            let body = body.and_then(|body| serde_json::from_str(&body).ok());
            let body = match body.filter(|body| is_of(body, federated)) {
                Some(body) => Some(body),
                None => self.read(key, federated).await,
            };
            let Some(body) = body else { return self.queue.add_after(key.clone(), HOST_PAUSE) };
            source = Some(Arc::new(Source { overrides: Overrides::parse(&body), body }));
        }
        let mut outcomes = self.take_steps(key, Some(federated), work, source, seen).await;
        self.owe(key, federated, work, seen, &mut outcomes).await;
        self.settle_debt(key, &outcomes).await;
        if report::releases(work, &outcomes) {
            if let Err(error) = self.hold(key, federated, false).await {
                tracing::debug!(r#type = %self.types.name, %key, %error, "the finalizer cannot be removed yet");
                self.queue.add_after(key.clone(), HOST_PAUSE);
            }
        } else if work.goal != Goal::Orphan {
            self.save(key, federated, &outcomes).await;
            self.report(key, federated, &self.propagation(key, federated, work, &outcomes)).await;
            self.report_service(key, federated).await;
        }
    }

    /// Writes down what members that are away owe, before the federated object goes.
    async fn owe(
        &self,
        key: &Key,
        federated: &Federated,
        work: &Work,
        seen: &Seen,
        outcomes: &mut BTreeMap<String, Outcome>,
    ) {
        let steps = work.steps.iter().filter(|step| step.action == Action::Owe);
        let clusters = steps.map(|step| {
            let uid = match seen.get(&step.member) {
                Some((_, Observation::Present(copy))) => Some(copy.uid.clone()),
                _ => None,
            };
            (step.member.as_str().into(), uid)
        });
        let debt = Debt { clusters: clusters.collect() };
        if debt.clusters.is_empty() {
            return;
        }
        let owed: Vec<String> = debt.clusters.keys().map(ToString::to_string).collect();
        let outcome = match self.shared.records.debts.owe(&self.types.name, key, debt).await {
            Ok(()) => {
                let message = format!(
                    "the object is deleted when these clusters are back, and forgotten if they are removed: {}",
                    owed.join(", ")
                );
                self.event(key, federated, Severity::Normal, "DeletionOwed", message);
                Outcome::Owed
            }
            Err(error) => {
                let message = format!("what is owed cannot be written down on the host: {error}");
                self.queue.add_after(key.clone(), HOST_PAUSE);
                Outcome::Failed(Failure {
                    word: Word::ClusterNotReady,
                    message,
                    maybe_written: false,
                    retry: Retry::Soon,
                })
            }
        };
        outcomes.extend(owed.into_iter().map(|member| (member, outcome.clone())));
    }

    /// Forgets what was owed where it is done, or where there is a copy as it should be, or where there is no such cluster any more.
    async fn settle_debt(&self, key: &Key, outcomes: &BTreeMap<String, Outcome>) {
        let snapshot = self.shared.registry.members();
        let is_settled = |member: &str| {
            let is_gone = snapshot.synced && !snapshot.members.contains_key(member);
            is_gone || matches!(outcomes.get(member), Some(Outcome::Gone | Outcome::Applied(_)))
        };
        if let Err(error) = self.shared.records.debts.settle(&self.types.name, key, is_settled).await {
            tracing::warn!(r#type = %self.types.name, %key, %error, "what was owed is done, which cannot be written down");
            self.queue.add_after(key.clone(), HOST_PAUSE);
        }
    }

    /// Takes the steps in all members at once, and waits for them, but not for long for any. Says what came of each.
    async fn take_steps(
        self: &Arc<Self>,
        key: &Key,
        federated: Option<&Arc<Federated>>,
        work: &Work,
        source: Option<Arc<Source>>,
        seen: &Seen,
    ) -> BTreeMap<String, Outcome> {
        let mut outcomes = BTreeMap::new();
        let mut tasks = Vec::new();
        let nobody_waits = Arc::new(AtomicBool::new(false));
        for step in work.steps.iter().filter(|step| is_taken(step)) {
            let attempt = match self.prepare(key, federated, step, seen) {
                Ok(attempt) => attempt,
                Err(outcome) => {
                    outcomes.insert(step.member.clone(), outcome);
                    continue;
                }
            };
            let (engine, key) = (self.clone(), key.clone());
            let (federated, source, nobody_waits) =
                (federated.cloned(), source.clone(), nobody_waits.clone());
            tasks.push(self.steps.spawn(async move {
                let attempt = engine.attempt(&key, federated.as_deref(), source.as_deref(), attempt);
                engine.shutdown.run_until_cancelled(attempt).await;
                if nobody_waits.load(Ordering::SeqCst) {
                    engine.queue.add(key);
                }
            }));
        }
        if !tasks.is_empty() {
            let _ = time::timeout(self.shared.patience, futures::future::join_all(tasks)).await;
            nobody_waits.store(true, Ordering::SeqCst);
        }
        for step in work.steps.iter().filter(|step| is_taken(step)) {
            if let Some(outcome) = self.conclude(key, federated.map(Arc::as_ref), &step.member, step.action) {
                outcomes.insert(step.member.clone(), outcome);
            } else {
                outcomes.entry(step.member.clone()).or_insert_with(|| still_waiting(step.action));
            }
        }
        self.settle(key, work);
        outcomes
    }

    /// A step that may be taken now, or what is to be reported instead.
    fn prepare(
        &self,
        key: &Key,
        federated: Option<&Arc<Federated>>,
        step: &Step,
        seen: &Seen,
    ) -> Result<Attempt, Outcome> {
        let snapshot = self.shared.registry.members();
        let member = snapshot.members.get(&step.member);
        let way = member
            .and_then(|member| Some((member.clone(), member.client.clone()?, member.transport.clone()?)));
        let (Some((member, client, transport)), Some((connection, observation))) =
            (way, seen.get(&step.member))
        else {
            let message =
                "there is no client for the cluster; see the conditions of its KubeFedCluster".to_owned();
            return Err(Outcome::Failed(Failure {
                word: Word::ClientRetrievalFailed,
                message,
                maybe_written: false,
                retry: Retry::Soon,
            }));
        };
        let seen = match observation {
            Observation::Present(copy) => Some(copy.clone()),
            Observation::Absent | Observation::Unsynced(_) => None,
        };
        let generation = federated.map_or(0, |federated| federated.generation);
        let recreate = federated.is_some_and(|federated| federated.recreate);
        let chosen =
            federated.map(|federated| federated.selectors.choose(&member.labels)).unwrap_or_default();
        let basis = Basis {
            generation,
            connection: *connection,
            present: seen.is_some(),
            recreate,
            chosen: chosen.fingerprint(),
        };
        let mut states = lock(&self.states);
        let state = states.entry(key.clone()).or_default();
        if let Some(federated) = federated {
            state.uid.clone_from(&federated.uid);
        }
        let state = state.members.entry(step.member.clone()).or_default();
        if state.in_flight {
            return Err(still_waiting(step.action));
        }
        if let Some(failure) = state.holds_back(basis, Instant::now()) {
            return Err(Outcome::Failed(failure.clone()));
        }
        state.in_flight = true;
        drop(states);
        let target = Target {
            member: step.member.clone(),
            client,
            transport,
            connection: *connection,
            resource: self.types.target.clone(),
            namespaced: self.types.target_namespaced,
            key: self.types.target_of(key),
            adopt: self.shared.adopt,
            host_namespace: match self.host_namespace(key) {
                Knowledge::Known(uid) => uid,
                Knowledge::Unknown => None,
            },
            delete_options: match federated {
                Some(federated) => federated.delete_options.as_deref().cloned().unwrap_or_default(),
                // What is owed is the copy that was there, not whatever has its name by now.
                None => {
                    let debt = self.shared.records.debts.of(&self.types.name, key);
                    let uid =
                        debt.and_then(|debt| debt.clusters.get(step.member.as_str()).cloned().flatten());
                    DeleteOptions { uid, ..DeleteOptions::default() }
                }
            },
            generation,
            recreate,
            memory: self.memory.clone(),
        };
        Ok(Attempt { step: step.clone(), basis, member, target, seen })
    }

    /// One step in one member, until it ends.
    async fn attempt(
        &self,
        key: &Key,
        federated: Option<&Federated>,
        source: Option<&Source>,
        attempt: Attempt,
    ) {
        let Attempt { step, basis, member, target, seen } = attempt;
        let began = Instant::now();
        let mut done = match source.filter(|_| matches!(step.action, Action::Create | Action::Update)) {
            Some(Source { body, overrides }) => {
                let cluster = Cluster { name: &step.member, labels: &member.labels };
                let make =
                    |live: Option<&Value>| template::for_member(&self.types, body, overrides, cluster, live);
                let recipe = Recipe { needs_live: template::needs_live(&self.types, body), make: &make };
                target.write(step.action, seen.as_ref(), &recipe).await
            }
            None => target.remove(step.action, seen.as_ref()).await,
        };
        if let (Outcome::Applied(version), Some(federated)) = (&mut done.outcome, federated) {
            // Recorded is what it was made with, whatever the labels are by now.
            *version = version.clone().with(federated.selectors.choose(&member.labels));
        }
        member.counted.requested(began.elapsed());
        let counts = match step.action {
            Action::Create => Some(hansa_metrics::Action::Create),
            Action::Update => Some(hansa_metrics::Action::Update),
            Action::Delete => Some(hansa_metrics::Action::Delete),
            Action::Confirm | Action::Unlabel | Action::Owe | Action::None => None,
        };
        if let Some(action) = counts.filter(|_| !matches!(done.outcome, Outcome::Failed(_))) {
            self.shared.metrics.dispatched(action, began.elapsed());
        }
        let hashes = federated.map(|federated| federated.hashes.clone()).unwrap_or_default();
        let before = seen.map(|copy| copy.resource_version);
        let mut states = lock(&self.states);
        if let Some(state) = states.get_mut(key).and_then(|state| state.members.get_mut(&step.member)) {
            state.in_flight = false;
            state.done = Some(Finished { action: step.action, hashes, basis, before, done });
        }
    }

    /// Takes note of steps that ended after the look that took them.
    pub(crate) fn absorb(&self, key: &Key, federated: Option<&Federated>) {
        let ended: Vec<(String, Action)> = {
            let states = lock(&self.states);
            let members = states.get(key).map(|state| state.members.iter()).into_iter().flatten();
            members.filter_map(|(name, state)| Some((name.clone(), state.done.as_ref()?.action))).collect()
        };
        if ended.is_empty() {
            return;
        }
        let outcomes = ended.into_iter().filter_map(|(name, action)| {
            let outcome = self.conclude(key, federated, &name, action)?;
            Some((name, outcome))
        });
        let outcomes: BTreeMap<_, _> = outcomes.collect();
        if let Some(federated) = federated {
            let before = self.shared.records.get(&federated.uid);
            let record = report::record(before.as_deref(), &federated.hashes, &outcomes, |_| true);
            self.shared.records.remember(&federated.uid, record);
        }
    }

    /// What came of the last step in a member, if it has ended since this was asked last.
    fn conclude(
        &self,
        key: &Key,
        federated: Option<&Federated>,
        member: &str,
        action: Action,
    ) -> Option<Outcome> {
        let mut states = lock(&self.states);
        let state = states.get_mut(key)?.members.get_mut(member)?;
        let finished = state.done.take()?;
        let is_news = state.conclude(&finished, &(key, member), Instant::now());
        drop(states);
        let Finished { action: taken, hashes, before, done, .. } = finished;
        if let Some(federated) = federated {
            self.tell(key, federated, member, taken, before.as_deref(), &done, is_news);
            // It was made from an older template: whatever is there now is not what should be.
            if matches!(done.outcome, Outcome::Applied(_)) && hashes != federated.hashes {
                self.queue.add(key.clone());
                return Some(still_waiting(action));
            }
        }
        Some(done.outcome)
    }

    /// Forgets the failures of members in which there is nothing to do any more.
    fn settle(&self, key: &Key, work: &Work) {
        let mut states = lock(&self.states);
        let Some(state) = states.get_mut(key) else { return };
        state.members.retain(|name, state| {
            if !work.steps.iter().any(|step| step.member == *name && step.action != Action::None) {
                state.settle();
            }
            !state.is_idle()
        });
    }

    /// Whether our finalizer is on the object, to our knowledge, which may be ahead of the watch.
    pub(crate) fn is_held(&self, key: &Key, federated: &Federated) -> bool {
        let states = lock(&self.states);
        let Some(state) = states.get(key).filter(|state| state.uid == federated.uid) else {
            return federated.is_held();
        };
        if state.released {
            return false;
        }
        let added = state
            .held
            .as_deref()
            .is_some_and(|version| state::is_older(&federated.resource_version, version));
        added || federated.is_held()
    }

    /// Adds or removes our finalizer (a JSON merge patch, `spec/kubefed.md §2.4`), under the resourceVersion it was decided for.
    async fn hold(&self, key: &Key, federated: &Federated, add: bool) -> kube::Result<()> {
        let api = self.federated_api(Some(&key.namespace));
        let params =
            PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let (mut finalizers, mut version) = (
            federated.finalizers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            federated.resource_version.clone(),
        );
        let mut attempt = 0;
        loop {
            finalizers.retain(|finalizer| finalizer != names::FINALIZER_SYNC);
            if add {
                finalizers.push(names::FINALIZER_SYNC.to_owned());
            }
            let patch =
                Patch::Merge(json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}}));
            let error = match api.patch_metadata(&key.name, &params, &patch).await {
                Ok(object) => {
                    let mut states = lock(&self.states);
                    let state = states.entry(key.clone()).or_default();
                    state.uid.clone_from(&federated.uid);
                    state.released = !add;
                    state.held = object.resource_version().filter(|_| add);
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 404 && !add => return Ok(()),
                Err(error) => error,
            };
            attempt += 1;
            if !matches!(&error, kube::Error::Api(status) if status.code == 409) || attempt == TRIES {
                return Err(error);
            }
            match api.get_metadata_opt(&key.name).await? {
                Some(live) if live.metadata.uid.as_ref() == Some(&federated.uid) => {
                    version = live.resource_version().unwrap_or_default();
                    finalizers = live.metadata.finalizers.unwrap_or_default();
                }
                _ if add => return Err(error),
                _ => return Ok(()),
            }
        }
    }

    /// Reads the whole of a federated object again, unless it is not what the plan was made for.
    async fn read(&self, key: &Key, federated: &Federated) -> Option<Value> {
        match self.federated_api(Some(&key.namespace)).get_opt(&key.name).await {
            Ok(object) => serde_json::to_value(object?).ok().filter(|body| is_of(body, federated)),
            Err(error) => {
                tracing::debug!(r#type = %self.types.name, %key, %error, "a federated object cannot be read");
                None
            }
        }
    }

    async fn save(&self, key: &Key, federated: &Federated, outcomes: &BTreeMap<String, Outcome>) {
        let before = self.shared.records.get(&federated.uid);
        let snapshot = self.shared.registry.members();
        let is_registered = |name: &str| snapshot.members.contains_key(name);
        let record = report::record(before.as_deref(), &federated.hashes, outcomes, is_registered);
        let owner = Owner { types: &self.types, key, uid: &federated.uid };
        if let Err(error) = self.shared.records.save(owner, record).await {
            // In a namespace that is going away nothing can be created any more, and nothing needs to be.
            if !federated.deleting {
                tracing::warn!(r#type = %self.types.name, %key, %error, "the propagated versions cannot be stored");
                self.queue.add_after(key.clone(), HOST_PAUSE * 5);
            }
        }
    }

    async fn report(&self, key: &Key, federated: &Federated, wanted: &Propagation) {
        let mut written = {
            let mut states = lock(&self.states);
            let state = states.get_mut(key).filter(|state| state.uid == federated.uid);
            let ahead = state.and_then(|state| {
                let is_ahead =
                    |(version, _): &(String, _)| state::is_older(&federated.resource_version, version);
                if !state.reported.as_ref().is_some_and(is_ahead) {
                    state.reported = None;
                }
                state.reported.as_ref().map(|(_, reported)| reported)
            });
            let reported = ahead.or(federated.reported.as_ref());
            let Some(written) = wanted.over(reported, Timestamp::now()) else { return };
            if let Some(pause) = self.collector.hold(key, &written) {
                return self.queue.add_after(key.clone(), pause);
            }
            self.tell_of_clusters(key, federated, wanted, reported);
            written
        };
        let api = self.federated_api(Some(&key.namespace));
        if !written.keeps.is_empty() {
            let Some(live) = self.read(key, federated).await else {
                return self.queue.add_after(key.clone(), HOST_PAUSE);
            };
            written.keep(&live);
        }
        match self.write_status(&api, key, &written).await {
            Ok(version) => {
                let mut states = lock(&self.states);
                let state = states.entry(key.clone()).or_default();
                state.uid.clone_from(&federated.uid);
                state.reported = version.map(|version| (version, written.reads_as));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                tracing::warn!(r#type = %self.types.name, %key, %error, "the status cannot be written");
                self.queue.add_after(key.clone(), HOST_PAUSE);
            }
        }
    }

    /// Writes a status; gives the version it made. The answer is read whole only where something is to be learned from it.
    async fn write_status(
        &self,
        api: &Api<DynamicObject>,
        key: &Key,
        written: &Written,
    ) -> kube::Result<Option<String>> {
        let patch = json!({ "status": written.status });
        if !self.collector.collects() {
            let metadata =
                host::patch_status(&self.shared.host, api.resource_url(), &key.name, &patch).await?;
            return Ok(metadata.resource_version);
        }
        let params =
            PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let object = api.patch_status(&key.name, &params, &Patch::Merge(patch)).await?;
        self.collector.learn(written, &object);
        Ok(object.resource_version())
    }

    /// Works on copies whose federated object is gone.
    pub(crate) async fn disown(self: &Arc<Self>, key: &Key, work: &Work, seen: &Seen) {
        let outcomes = self.take_steps(key, None, work, None, seen).await;
        self.settle_debt(key, &outcomes).await;
    }

    /// Tells of a step (`spec/kubefed.md §2.6`): of what was changed, and of failures that are new.
    #[allow(clippy::too_many_arguments)]
    fn tell(
        &self,
        key: &Key,
        federated: &Federated,
        member: &str,
        action: Action,
        before: Option<&str>,
        done: &Done,
        is_news: bool,
    ) {
        let Done { outcome, copy, recreated } = done;
        let changed =
            !matches!(copy, Some(Observation::Present(copy)) if before == Some(&*copy.resource_version));
        let told = if *recreated && !matches!(outcome, Outcome::Failed(_)) {
            Some((
                Severity::Normal,
                "RecreateInCluster",
                "Recreating, as the cluster does not let it be changed,",
            ))
        } else {
            events::of_step(action, outcome, changed, is_news)
        };
        let Some((severity, reason, doing)) = told else {
            return;
        };
        let mut message = format!(
            "{doing} {} \"{}\" in cluster {member:?}",
            self.types.target.kind,
            self.types.target_of(key)
        );
        if let Outcome::Failed(failure) = outcome {
            message = format!("{message}: {}", failure.message);
        }
        self.event(key, federated, severity, reason, message);
    }

    /// Tells of what is new in the status and no step told of.
    fn tell_of_clusters(
        &self,
        key: &Key,
        federated: &Federated,
        wanted: &Propagation,
        reported: Option<&Reported>,
    ) {
        for (name, cluster) in &wanted.clusters {
            let Some(word) = cluster.word else { continue };
            let is_news = reported
                .and_then(|reported| reported.cluster(name))
                .is_none_or(|old| old.word != cluster.word);
            if let Some((severity, reason)) = events::of_cluster(word, federated.deleting).filter(|_| is_news)
            {
                let message = format!("cluster {name:?}: {}", cluster.message);
                self.event(key, federated, severity, reason, message);
            }
        }
        if federated.drops_finalizers && reported.is_none_or(|old| old.generation() != wanted.generation) {
            let message =
                "finalizers in spec.template are not propagated: a member's own controllers add theirs";
            self.event(key, federated, Severity::Warning, "FinalizersNotSupported", message.to_owned());
        }
        let reason = wanted.reason.filter(|reason| *reason != Reason::CheckClusters);
        if let Some(reason) = reason.filter(|_| reported.and_then(Reported::reason) != wanted.reason) {
            let message = match &federated.placement {
                Err(error) => error.to_string(),
                Ok(_) => format!(
                    "namespace {:?} has no FederatedNamespace of the same name; create one",
                    &*key.namespace
                ),
            };
            self.event(key, federated, Severity::Warning, reason.as_str(), message);
        }
    }
}

/// Whether a body is that of the object the plan was made for, and as it was then.
fn is_of(body: &Value, federated: &Federated) -> bool {
    let metadata = &body["metadata"];
    metadata["uid"] == federated.uid.as_str()
        && metadata["generation"].as_i64().unwrap_or_default() == federated.generation
}

/// Whether a step is something to be done in a member.
fn is_taken(step: &Step) -> bool {
    !matches!(step.action, Action::None | Action::Owe)
}

fn still_waiting(action: Action) -> Outcome {
    let word = match action {
        Action::Create => Word::CreationTimedOut,
        Action::Update => Word::UpdateTimedOut,
        Action::Unlabel => Word::LabelRemovalTimedOut,
        Action::Delete | Action::Confirm | Action::Owe | Action::None => Word::DeletionTimedOut,
    };
    let message = "the cluster has not answered yet".to_owned();
    Outcome::Failed(Failure { word, message, maybe_written: true, retry: Retry::Soon })
}
