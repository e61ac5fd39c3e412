//! Events on federated objects (core/v1), aggregated: the same event again only counts up (`spec/kubefed.md §2.6`).

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use crate::plan::Action;
use crate::report::Outcome;
use crate::status::Word;

/// How many events may wait to be written; more are dropped, as events must never hold up propagation.
const WAITING: usize = 1_024;
/// How many distinct events are remembered to be counted up.
const REMEMBERED: usize = 4_096;
/// How long an event is counted up instead of being written anew.
const SAME: Duration = Duration::from_secs(600);
/// How often the same event is counted up at most.
const PAUSE: Duration = Duration::from_secs(10);

/// How many events that are a matter of course are written at once, and how many a second after that: a first roll-out has a hundred
/// thousand, whose writing would take longer than the roll-out.
const BURST: u32 = 500;
const A_SECOND: u32 = 25;

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct About {
    /// `apiVersion` of the object.
    pub(crate) api_version: String,
    /// `kind` of the object.
    pub(crate) kind: String,
    /// Its namespace, or empty.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
}

/// Whether an event is a matter of course.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    /// It is.
    Normal,
    /// Somebody should look.
    Warning,
}

/// How a step in a member is told of (`spec/kubefed.md §2.6`): the severity, KubeFed's reason, and how the message begins. What changed nothing
/// and failures that are not `news` are not told of.
pub(crate) fn of_step(
    action: Action,
    outcome: &Outcome,
    changed: bool,
    news: bool,
) -> Option<(Severity, &'static str, &'static str)> {
    let (reason, doing) = match (outcome, action) {
        (Outcome::Failed(failure), _) => {
            return news.then(|| (Severity::Warning, of_failure(failure.word), failed(action)));
        }
        (Outcome::Applied(_), Action::Create) => ("CreateInCluster", "Creating"),
        (Outcome::Applied(_), _) if changed => ("UpdateInCluster", "Updating"),
        (Outcome::Removing | Outcome::Gone, Action::Delete) => ("DeleteInCluster", "Deleting"),
        (Outcome::Gone, Action::Unlabel) => {
            ("RemoveManagedLabelFromInCluster", "Removing managed label from")
        }
        _ => return None,
    };
    Some((Severity::Normal, reason, doing))
}

/// How the state of a member is told of that no step led to; `None` if the steps have told of it.
pub(crate) fn of_cluster(word: Word, deleting: bool) -> Option<(Severity, &'static str)> {
    match word {
        Word::WaitingForRemoval if deleting => Some((Severity::Normal, "WaitForRemovalInCluster")),
        Word::ClusterNotReady | Word::ClusterNotFound | Word::CachedRetrievalFailed => {
            Some((Severity::Warning, word.as_str()))
        }
        _ => None,
    }
}

fn of_failure(word: Word) -> &'static str {
    match word {
        Word::CreationFailed => "CreateInClusterFailed",
        Word::UpdateFailed => "UpdateInClusterFailed",
        Word::DeletionFailed => "DeleteInClusterFailed",
        Word::LabelRemovalFailed => "RemoveManagedLabelFromInClusterFailed",
        Word::CreationTimedOut
        | Word::UpdateTimedOut
        | Word::DeletionTimedOut
        | Word::LabelRemovalTimedOut => "OperationTimeoutError",
        word => word.as_str(),
    }
}

fn failed(action: Action) -> &'static str {
    match action {
        Action::Create => "Failed to create",
        Action::Delete => "Failed to delete",
        Action::Unlabel => "Failed to remove managed label from",
        Action::Confirm => "Failed to check for deletion of",
        Action::Owe => "Failed to write down the deletion of",
        Action::Update | Action::None => "Failed to update",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Happening {
    about: About,
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// Takes events; never waits.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(mpsc::Sender<Happening>);

impl Recorder {
    /// A recorder, and the task that writes what it takes.
    pub(crate) fn new(client: Client) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let allowance = Allowance { left: f64::from(BURST), at: Instant::now() };
        (Self(sender), Writer { client, receiver, allowance, written: HashMap::new() })
    }

    /// Something happened to a federated object.
    pub(crate) fn record(&self, about: About, severity: Severity, reason: &'static str, message: String) {
        if self.0.try_send(Happening { about, severity, reason, message }).is_err() {
            tracing::debug!(reason, "an event was dropped: too many are waiting");
        }
    }
}

/// Writes events.
pub(crate) struct Writer {
    client: Client,
    receiver: mpsc::Receiver<Happening>,
    /// For events that are a matter of course.
    allowance: Allowance,
    written: HashMap<u64, Written>,
}

/// How many more may be written now.
#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(A_SECOND);
        self.left = (self.left + gained).min(f64::from(BURST));
        self.at = now;
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }
}

#[derive(Debug)]
struct Written {
    name: String,
    count: i32,
    first: Instant,
    last: Instant,
}

impl Writer {
    /// Writes until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        while let Some(Some(happening)) = shutdown.run_until_cancelled(self.receiver.recv()).await {
            let (reason, namespace) = (happening.reason, happening.about.namespace.clone());
            if happening.severity == Severity::Normal && !self.allowance.take(Instant::now()) {
                continue;
            }
            let write = time::timeout(Duration::from_secs(10), self.write(happening));
            // A host that hangs keeps nobody who is told to stop.
            let Some(written) = shutdown.run_until_cancelled(write).await else { return };
            match written {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(reason, namespace, %error, "an event could not be written"),
                Err(_) => tracing::debug!(reason, namespace, "an event could not be written in time"),
            }
        }
    }

    async fn write(&mut self, happening: Happening) -> kube::Result<()> {
        let mut hasher = DefaultHasher::new();
        happening.hash(&mut hasher);
        let (hash, now) = (hasher.finish(), Instant::now());
        let namespace = match happening.about.namespace.as_str() {
            "" => "default".to_owned(),
            namespace => namespace.to_owned(),
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Some(written) = self.written.get_mut(&hash).filter(|written| now - written.first < SAME) {
            written.count += 1;
            if now - written.last < PAUSE {
                return Ok(());
            }
            written.last = now;
            let patch = json!({"count": written.count, "lastTimestamp": Timestamp::now().to_string()});
            match api.patch_metadata(&written.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(drop),
            }
        }
        let name = format!("{}.{hash:016x}{:x}", happening.about.name, Timestamp::now().as_microsecond());
        api.create(&PostParams::default(), &event(happening, &name, &namespace)).await?;
        if self.written.len() >= REMEMBERED {
            self.written.retain(|_, written| now - written.first < SAME);
        }
        if self.written.len() < REMEMBERED {
            self.written.insert(hash, Written { name, count: 1, first: now, last: now });
        }
        Ok(())
    }
}

fn event(happening: Happening, name: &str, namespace: &str) -> Event {
    let now = Some(Time(Timestamp::now()));
    let Happening { about, severity, reason, message } = happening;
    let component = Some(format!("{}-controller", about.kind.to_lowercase()));
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(about.api_version),
            kind: Some(about.kind),
            namespace: Some(about.namespace).filter(|namespace| !namespace.is_empty()),
            name: Some(about.name),
            uid: Some(about.uid),
            ..ObjectReference::default()
        },
        type_: Some(format!("{severity:?}")),
        reason: Some(reason.to_owned()),
        // Kubernetes takes at most 1,024 bytes.
        message: Some(message.chars().take(250).collect()),
        source: Some(EventSource { component: component.clone(), host: None }),
        reporting_component: component,
        first_timestamp: now.clone(),
        last_timestamp: now,
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_events_is_thinned_out_and_a_few_are_not() {
        let now = Instant::now();
        let mut allowance = Allowance { left: f64::from(BURST), at: now };
        assert_eq!((0..10_000).filter(|_| allowance.take(now)).count(), BURST as usize);
        let later = now + Duration::from_secs(2);
        assert_eq!((0..10_000).filter(|_| allowance.take(later)).count(), 2 * A_SECOND as usize);
    }
    use crate::report::{Failure, Retry};
    use crate::version::Version;

    fn failure(word: Word) -> Outcome {
        Outcome::Failed(Failure { word, message: "m".into(), maybe_written: false, retry: Retry::Soon })
    }

    /// `spec/kubefed.md §2.6`: each reason that a step leads to. `EnsureFinalizerError`, `InvalidName`, `FinalizersNotSupported` and the reasons of
    /// the condition are told of where they are found.
    #[test]
    fn the_reasons_of_steps_are_those_of_kubefeds_code() {
        let applied = || Outcome::Applied(Version::Generation(1));
        let rows = [
            (Action::Create, applied(), "CreateInCluster", "Creating"),
            (Action::Update, applied(), "UpdateInCluster", "Updating"),
            (Action::Delete, Outcome::Removing, "DeleteInCluster", "Deleting"),
            (Action::Delete, Outcome::Gone, "DeleteInCluster", "Deleting"),
            (
                Action::Unlabel,
                Outcome::Gone,
                "RemoveManagedLabelFromInCluster",
                "Removing managed label from",
            ),
            (Action::Create, failure(Word::CreationFailed), "CreateInClusterFailed", "Failed to create"),
            (Action::Update, failure(Word::UpdateFailed), "UpdateInClusterFailed", "Failed to update"),
            (Action::Delete, failure(Word::DeletionFailed), "DeleteInClusterFailed", "Failed to delete"),
            (
                Action::Confirm,
                failure(Word::DeletionFailed),
                "DeleteInClusterFailed",
                "Failed to check for deletion of",
            ),
            (
                Action::Unlabel,
                failure(Word::LabelRemovalFailed),
                "RemoveManagedLabelFromInClusterFailed",
                "Failed to remove managed label from",
            ),
            (Action::Create, failure(Word::CreationTimedOut), "OperationTimeoutError", "Failed to create"),
            (Action::Update, failure(Word::UpdateTimedOut), "OperationTimeoutError", "Failed to update"),
            (Action::Delete, failure(Word::DeletionTimedOut), "OperationTimeoutError", "Failed to delete"),
            (
                Action::Unlabel,
                failure(Word::LabelRemovalTimedOut),
                "OperationTimeoutError",
                "Failed to remove managed label from",
            ),
            (Action::Create, failure(Word::AlreadyExists), "AlreadyExists", "Failed to create"),
            (Action::Update, failure(Word::ManagedLabelFalse), "ManagedLabelFalse", "Failed to update"),
            (Action::Update, failure(Word::ApplyOverridesFailed), "ApplyOverridesFailed", "Failed to update"),
            (
                Action::Update,
                failure(Word::ComputeResourceFailed),
                "ComputeResourceFailed",
                "Failed to update",
            ),
            (Action::Update, failure(Word::RetrievalFailed), "RetrievalFailed", "Failed to update"),
            (
                Action::Update,
                failure(Word::ClientRetrievalFailed),
                "ClientRetrievalFailed",
                "Failed to update",
            ),
        ];
        for (action, outcome, reason, doing) in rows {
            let severity =
                if matches!(outcome, Outcome::Failed(_)) { Severity::Warning } else { Severity::Normal };
            assert_eq!(of_step(action, &outcome, true, true), Some((severity, reason, doing)));
        }
    }

    /// `spec/kubefed.md §2.6`: `UpdateInCluster` only when something was really updated.
    #[test]
    fn what_changed_nothing_and_what_was_told_already_is_not_told() {
        assert_eq!(of_step(Action::Update, &Outcome::Applied(Version::Generation(1)), false, true), None);
        assert_eq!(of_step(Action::Update, &failure(Word::UpdateFailed), true, false), None);
        assert_eq!(of_step(Action::Confirm, &Outcome::Gone, true, true), None);
    }

    #[test]
    fn a_member_that_holds_up_an_object_is_told_of() {
        assert_eq!(
            of_cluster(Word::WaitingForRemoval, true),
            Some((Severity::Normal, "WaitForRemovalInCluster"))
        );
        assert_eq!(of_cluster(Word::WaitingForRemoval, false), None);
        assert_eq!(of_cluster(Word::ClusterNotReady, false), Some((Severity::Warning, "ClusterNotReady")));
        assert_eq!(of_cluster(Word::UpdateFailed, false), None, "the step has told of it");
    }
}
