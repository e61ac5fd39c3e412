//! Writes to one member (`spec/kubefed.md §2.6, §2.7`): by server-side apply, or as KubeFed did where nothing can be applied; deletion
//! under preconditions; and what their refusals mean.

use std::sync::Arc;
use std::time::Duration;

use hansa_api::names;
use hansa_transport::Transport;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, ObjectMeta};
use kube::{Client, Resource};
use serde_json::Value;
use tokio::time;

use crate::federated::DeleteOptions;
use crate::key::Key;
use crate::overrides::OverrideError;
use crate::plan::{Action, Copy, Observation};
use crate::report::{Failure, Outcome};
use crate::status::Word;
use crate::template::TemplateError;
use hansa_cluster::Marks;
use refusal::{Refused, Trouble, failed};

mod apply;
mod delete;
mod memory;
mod put;
mod recreate;
mod refusal;
mod takeover;
mod wire;

pub(crate) use memory::Memory;
pub(crate) use refusal::immutable;

/// How long one member may take over one step.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a step is tried again at once because the object changed under it.
const TRIES: usize = 4;

/// A copy in one member, and what may be done to it.
#[derive(Clone)]
pub(crate) struct Target {
    /// The member's name.
    pub(crate) member: String,
    /// The member's API.
    pub(crate) client: Client,
    /// The way that its client goes; most writes go it by themselves.
    pub(crate) transport: Transport,
    /// Which connection that is.
    pub(crate) connection: u64,
    /// The type of the copy.
    pub(crate) resource: ApiResource,
    /// Whether it is namespaced.
    pub(crate) namespaced: bool,
    /// Its name.
    pub(crate) key: Key,
    /// Whether an object that is there already may be taken over.
    pub(crate) adopt: bool,
    /// The UID of the host's namespace of this name, which is never deleted.
    pub(crate) host_namespace: Option<String>,
    /// How it is deleted.
    pub(crate) delete_options: DeleteOptions,
    /// The generation of the federated object.
    pub(crate) generation: i64,
    /// Whether it may be deleted and created again where it cannot be changed.
    pub(crate) recreate: bool,
    /// What is known of members from earlier writes.
    pub(crate) memory: Arc<Memory>,
}

/// How the body of a copy is made.
pub(crate) struct Recipe<'a> {
    /// Whether it is made from the live object, where there is one.
    pub(crate) needs_live: bool,
    /// Makes it.
    pub(crate) make: &'a (dyn Fn(Option<&Value>) -> Result<Value, TemplateError> + Send + Sync),
}

/// What a step came to, and what is therefore known of the copy.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// What it came to.
    pub(crate) outcome: Outcome,
    /// What the member said the copy is now.
    pub(crate) copy: Option<Observation>,
    /// Whether the copy was deleted so as to be made anew.
    pub(crate) recreated: bool,
}

/// What a write came to.
struct Written {
    /// What the member said the copy is now; nothing if it is still going, and made when it is gone.
    metadata: Option<ObjectMeta>,
    recreated: bool,
}

impl From<ObjectMeta> for Written {
    fn from(metadata: ObjectMeta) -> Self {
        Self { metadata: Some(metadata), recreated: false }
    }
}

impl From<Outcome> for Done {
    fn from(outcome: Outcome) -> Self {
        let copy = (outcome == Outcome::Gone).then_some(Observation::Absent);
        Self { outcome, copy, recreated: false }
    }
}

impl From<Written> for Done {
    fn from(Written { metadata, recreated }: Written) -> Self {
        match metadata.map(observed) {
            Some(copy) => {
                let outcome = Outcome::Applied(copy.version());
                Self { outcome, copy: Some(Observation::Present(copy)), recreated }
            }
            None => Self { recreated, ..Outcome::Removing.into() },
        }
    }
}

impl Recipe<'_> {
    fn body(&self, live: Option<&Value>) -> Result<Value, Failure> {
        (self.make)(live).map_err(|error| {
            let word = match error {
                TemplateError::Override(_) => Word::ApplyOverridesFailed,
                TemplateError::Shape(_) | TemplateError::Group { .. } => Word::ComputeResourceFailed,
            };
            failed(word, message(&error))
        })
    }
}

impl Target {
    /// Creates or updates the copy; `seen` is what the watch shows of it.
    pub(crate) async fn write(&self, action: Action, seen: Option<&Copy>, recipe: &Recipe<'_>) -> Done {
        let timed_out = match action {
            Action::Create => Word::CreationTimedOut,
            _ => Word::UpdateTimedOut,
        };
        let applied = seen.is_some_and(|copy| copy.applied);
        // Thousands of these wait at once: what is rare has its own place in memory only when it happens.
        let write = async {
            match self.make_or_change(action, applied, recipe).await {
                Err(trouble) if self.recreate && trouble.is_immutable() => {
                    Box::pin(self.recreate(recipe, trouble)).await
                }
                other => other.map(Written::from),
            }
        };
        match time::timeout(PATIENCE, write).await {
            Ok(Ok(written)) => written.into(),
            Ok(Err(trouble)) => Outcome::Failed(trouble.into_failure()).into(),
            Err(_) => timeout(timed_out).into(),
        }
    }

    /// By apply, unless the member has said that it cannot.
    async fn make_or_change(
        &self,
        action: Action,
        applied: bool,
        recipe: &Recipe<'_>,
    ) -> Result<ObjectMeta, Trouble> {
        if self.memory.applies(&self.member, self.connection) {
            match self.write_by_apply(action, applied, recipe).await {
                Err(trouble) if trouble.code() == Some(415) => {
                    self.memory.cannot_apply(&self.member, self.connection);
                }
                other => return other,
            }
        }
        Box::pin(self.write_by_put(action, recipe)).await
    }

    /// Makes a copy that is not there.
    async fn make(&self, recipe: &Recipe<'_>) -> Result<ObjectMeta, Trouble> {
        self.make_or_change(Action::Create, false, recipe).await
    }

    /// Deletes the copy, or takes the label off it, or looks whether it is gone.
    pub(crate) async fn remove(&self, action: Action, seen: Option<&Copy>) -> Done {
        let (failed, timed_out) = match action {
            Action::Unlabel => (Word::LabelRemovalFailed, Word::LabelRemovalTimedOut),
            _ => (Word::DeletionFailed, Word::DeletionTimedOut),
        };
        let remove = async {
            match action {
                Action::Unlabel => self.unlabel(seen.map(|copy| copy.uid.as_str())).await,
                _ => self.delete(seen).await,
            }
        };
        let outcome = match time::timeout(PATIENCE, remove).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(refused)) => Outcome::Failed(Refused { word: failed, ..refused }.into_failure()),
            Err(_) => timeout(timed_out),
        };
        if outcome == Outcome::Gone {
            self.memory.forget(&self.member, &self.key);
        }
        outcome.into()
    }

    /// The type of the copy; a template may ask for another version of it.
    fn resource(&self, api_version: Option<&str>) -> ApiResource {
        let mut resource = self.resource.clone();
        if let Some(api_version) = api_version {
            resource.version = api_version.rsplit('/').next().unwrap_or(api_version).to_owned();
            resource.api_version = api_version.to_owned();
        }
        resource
    }

    /// The API that a copy is reached by.
    fn api(&self, api_version: Option<&str>) -> Api<DynamicObject> {
        let resource = self.resource(api_version);
        if self.namespaced {
            Api::namespaced_with(self.client.clone(), &self.key.namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    /// Where the copies of its namespace are.
    fn path(&self, api_version: Option<&str>) -> String {
        let namespace = self.namespaced.then_some(&*self.key.namespace);
        DynamicObject::url_path(&self.resource(api_version), namespace)
    }

    fn is_namespace(&self) -> bool {
        self.resource.group.is_empty() && self.resource.kind == "Namespace"
    }

    /// Whether an object that is there, though the watch did not show it, may be made the copy.
    fn may_adopt(&self, live: &ObjectMeta) -> Result<(), Failure> {
        self.may_change(live)?;
        let managed = label(live).is_some_and(|label| label == names::MANAGED_TRUE);
        let is_hosts = live.uid.is_some() && live.uid == self.host_namespace;
        if managed || self.adopt || is_hosts {
            return Ok(());
        }
        let message = "an object of this name exists in the cluster and KubeFedConfig's adoptResources is Disabled; \
                       delete it there, or label it kubefed.io/managed=true";
        Err(failed(Word::AlreadyExists, message))
    }

    /// Whether an object may be written at all.
    fn may_change(&self, live: &ObjectMeta) -> Result<(), Failure> {
        if label(live).is_some_and(|label| label == names::MANAGED_FALSE) {
            let message = "the object in the cluster has the label kubefed.io/managed=false, which forbids taking it over; remove the label to allow it";
            return Err(failed(Word::ManagedLabelFalse, message));
        }
        Ok(())
    }

    /// What the member said to a request about the copy; `body` is what was sent, if anything.
    fn refused(&self, word: Word, what: &'static str, body: &Value, error: kube::Error) -> Refused {
        let api_version = body["apiVersion"].as_str().unwrap_or(&self.resource.api_version);
        Refused { word, what, of: format!("{api_version} {}", self.resource.kind), error }
    }
}

fn label(metadata: &ObjectMeta) -> Option<&str> {
    metadata.labels.as_ref()?.get(names::LABEL_MANAGED).map(String::as_str)
}

fn observed(metadata: ObjectMeta) -> Copy {
    Copy {
        marks: Marks::of_metadata(&metadata),
        generation: metadata.generation.unwrap_or_default(),
        deleting: metadata.deletion_timestamp.is_some(),
        applied: hansa_cluster::is_applied(metadata.managed_fields.as_deref().unwrap_or_default()),
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
    }
}

fn message(error: &TemplateError) -> String {
    match error {
        TemplateError::Override(OverrideError::Apply(_)) => {
            format!("{error}; add the parent of the path to the template, or correct the path")
        }
        _ => error.to_string(),
    }
}

fn timeout(word: Word) -> Outcome {
    let message = format!("the cluster did not answer within {} s", PATIENCE.as_secs());
    Outcome::Failed(Failure { maybe_written: true, ..failed(word, message) })
}
