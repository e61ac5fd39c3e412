//! Writes to one member: server-side apply, and deletion under preconditions (`spec/kubefed.md §2.6, §2.7`).

use std::time::Duration;

use hansa_api::names;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, ObjectMeta};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time;

use crate::federated::{DeleteOptions, Propagation};
use crate::key::Key;
use crate::overrides::OverrideError;
use crate::plan::{Action, Copy, Observation};
use crate::report::{Failure, Outcome};
use crate::status::Word;
use crate::template::TemplateError;
use hansa_cluster::Marks;

/// How long one member may take over one step.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a step is tried again at once because the object changed under it.
const TRIES: usize = 4;

/// A copy in one member, and what may be done to it.
#[derive(Clone)]
pub(crate) struct Target {
    /// The member's API.
    pub(crate) client: Client,
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
}

/// What a step came to, and what is therefore known of the copy.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// What it came to.
    pub(crate) outcome: Outcome,
    /// What the member said the copy is now.
    pub(crate) copy: Option<Observation>,
}

impl From<Outcome> for Done {
    fn from(outcome: Outcome) -> Self {
        let copy = (outcome == Outcome::Gone).then_some(Observation::Absent);
        Self { outcome, copy }
    }
}

type Step<T> = Result<T, Failure>;

impl Target {
    /// The API that a copy is reached by; a template may ask for another version of the type.
    fn api(&self, api_version: Option<&str>) -> Api<DynamicObject> {
        let mut resource = self.resource.clone();
        if let Some(api_version) = api_version {
            resource.version = api_version.rsplit('/').next().unwrap_or(api_version).to_owned();
            resource.api_version = api_version.to_owned();
        }
        if self.namespaced {
            Api::namespaced_with(self.client.clone(), &self.key.namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    /// Creates or updates the copy; `compute` makes its body, from the live object where `needs_live`.
    pub(crate) async fn write(
        &self,
        action: Action,
        needs_live: bool,
        compute: impl Fn(Option<&Value>) -> Result<Value, TemplateError>,
    ) -> Done {
        let (failed, timed_out) = match action {
            Action::Create => (Word::CreationFailed, Word::CreationTimedOut),
            _ => (Word::UpdateFailed, Word::UpdateTimedOut),
        };
        let write = async {
            match action {
                Action::Create => self.create(needs_live, compute).await,
                _ if needs_live => self.update_from_live(failed, compute).await,
                _ => self
                    .apply(&body(compute(None))?, true)
                    .await
                    .map_err(|error| failure(failed, "apply", &error)),
            }
        };
        match time::timeout(PATIENCE, write).await {
            Ok(Ok(metadata)) => {
                let copy = observed(metadata);
                Done { outcome: Outcome::Applied(copy.version()), copy: Some(Observation::Present(copy)) }
            }
            Ok(Err(failure)) => Outcome::Failed(failure).into(),
            Err(_) => timeout(timed_out).into(),
        }
    }

    async fn apply(&self, body: &Value, force: bool) -> kube::Result<ObjectMeta> {
        let params = PatchParams { force, ..PatchParams::apply(names::FIELD_MANAGER_FEDERATION) };
        let api = self.api(body["apiVersion"].as_str());
        Ok(api.patch_metadata(&self.key.name, &params, &Patch::Apply(body)).await?.metadata)
    }

    /// Without force, so that an object that is there already, and says anything else, is noticed before it is touched.
    async fn create(
        &self,
        needs_live: bool,
        compute: impl Fn(Option<&Value>) -> Result<Value, TemplateError>,
    ) -> Step<ObjectMeta> {
        let body = body(compute(None))?;
        let api = self.api(body["apiVersion"].as_str());
        let refused = if self.adopt {
            match self.apply(&body, false).await {
                Ok(metadata) => return Ok(metadata),
                Err(error) if matches!(code(&error), Some(409 | 422)) => Some(error),
                Err(error) => return Err(failure(Word::CreationFailed, "create", &error)),
            }
        } else {
            None
        };
        let live = api.get_metadata_opt(&self.key.name).await;
        let Some(live) = live.map_err(|error| failure(Word::RetrievalFailed, "read", &error))? else {
            return match refused {
                Some(error) => Err(failure(Word::CreationFailed, "create", &error)),
                None => self
                    .apply(&body, false)
                    .await
                    .map_err(|error| failure(Word::CreationFailed, "create", &error)),
            };
        };
        match live.labels().get(names::LABEL_MANAGED).map(String::as_str) {
            Some(names::MANAGED_FALSE) => return Err(forbidden_by_label()),
            Some(names::MANAGED_TRUE) => {}
            _ if self.adopt || live.uid().is_some_and(|uid| self.host_namespace.as_deref() == Some(&uid)) => {
            }
            _ => {
                let message = "an object of this name exists in the cluster and KubeFedConfig's adoptResources is Disabled; \
                               delete it there, or label it kubefed.io/managed=true";
                return Err(refusal(Word::AlreadyExists, message));
            }
        }
        if needs_live {
            return self.update_from_live(Word::UpdateFailed, compute).await;
        }
        self.apply(&body, true).await.map_err(|error| failure(Word::UpdateFailed, "adopt", &error))
    }

    /// Under the resourceVersion that was read, as what is carried over must still be what is live when it is written.
    async fn update_from_live(
        &self,
        failed: Word,
        compute: impl Fn(Option<&Value>) -> Result<Value, TemplateError>,
    ) -> Step<ObjectMeta> {
        for attempt in 1.. {
            let live = self.api(None).get_opt(&self.key.name).await;
            let live = live.map_err(|error| failure(Word::FieldRetentionFailed, "read", &error))?;
            let Some(live) = live else {
                return self
                    .apply(&body(compute(None))?, true)
                    .await
                    .map_err(|error| failure(failed, "apply", &error));
            };
            if live.labels().get(names::LABEL_MANAGED).is_some_and(|label| label == names::MANAGED_FALSE) {
                return Err(forbidden_by_label());
            }
            let live = serde_json::to_value(live).map_err(|error| {
                refusal(Word::FieldRetentionFailed, format!("the live object cannot be read: {error}"))
            })?;
            let mut body = body(compute(Some(&live)))?;
            body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            match self.apply(&body, true).await {
                Err(error) if code(&error) == Some(409) && attempt < TRIES => {}
                other => return other.map_err(|error| failure(failed, "apply", &error)),
            }
        }
        Err(refusal(failed, "the object changes faster than it can be written"))
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
            Ok(Err((what, error))) => Outcome::Failed(failure(failed, what, &error)),
            Err(_) => timeout(timed_out),
        };
        outcome.into()
    }

    /// Deletes exactly the object that was seen with the managed label: the preconditions hold it to that. If it changed meanwhile,
    /// it is looked at again.
    async fn delete(&self, seen: Option<&Copy>) -> Result<Outcome, (&'static str, kube::Error)> {
        let api = self.api(None);
        let mut seen = seen.map(|copy| (copy.uid.clone(), copy.resource_version.clone()));
        let mut last = None;
        for _ in 0..TRIES {
            let (uid, version) = match seen.take() {
                Some(seen) => seen,
                None => {
                    let live = api.get_metadata_opt(&self.key.name).await.map_err(|error| ("read", error))?;
                    let Some(live) = live else { return Ok(Outcome::Gone) };
                    let managed = live
                        .labels()
                        .get(names::LABEL_MANAGED)
                        .is_some_and(|label| label == names::MANAGED_TRUE);
                    let uid = live.uid().unwrap_or_default();
                    let is_hosts = self.host_namespace.as_deref() == Some(&*uid);
                    match live.metadata.deletion_timestamp {
                        _ if !managed => return Ok(Outcome::Gone),
                        Some(_) if is_hosts => return Ok(Outcome::Gone),
                        Some(_) => return Ok(Outcome::Removing),
                        None if is_hosts => return self.unlabel(Some(&uid)).await,
                        None => (uid, live.resource_version().unwrap_or_default()),
                    }
                }
            };
            match api.delete(&self.key.name, &self.delete_params(uid, version)).await {
                Ok(answer) if answer.is_right() => return Ok(Outcome::Gone),
                Ok(_) => return Ok(Outcome::Removing),
                Err(error) if code(&error) == Some(404) => return Ok(Outcome::Gone),
                Err(error) if code(&error) == Some(409) => last = Some(error),
                Err(error) => return Err(("delete", error)),
            }
        }
        match last {
            Some(error) => Err(("delete", error)),
            None => Ok(Outcome::Removing),
        }
    }

    fn delete_params(&self, uid: String, version: String) -> DeleteParams {
        let options = &self.delete_options;
        DeleteParams {
            grace_period_seconds: options.grace_period_seconds,
            propagation_policy: Some(match options.propagation {
                Propagation::Background => PropagationPolicy::Background,
                Propagation::Foreground => PropagationPolicy::Foreground,
                Propagation::Orphan => PropagationPolicy::Orphan,
            }),
            preconditions: Some(Preconditions {
                uid: Some(options.uid.clone().unwrap_or(uid)),
                resource_version: Some(options.resource_version.clone().unwrap_or(version)),
            }),
            ..DeleteParams::default()
        }
    }

    async fn unlabel(&self, uid: Option<&str>) -> Result<Outcome, (&'static str, kube::Error)> {
        let mut metadata = json!({"labels": {names::LABEL_MANAGED: null}});
        if let Some(uid) = uid {
            metadata["uid"] = uid.into();
        }
        let params = PatchParams {
            field_manager: Some(names::FIELD_MANAGER_FEDERATION.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        match self.api(None).patch_metadata(&self.key.name, &params, &patch).await {
            Ok(_) => Ok(Outcome::Gone),
            Err(error) if code(&error) == Some(404) => Ok(Outcome::Gone),
            Err(error) => Err(("take the managed label off", error)),
        }
    }
}

fn observed(metadata: ObjectMeta) -> Copy {
    Copy {
        marks: Marks::of_metadata(&metadata),
        generation: metadata.generation.unwrap_or_default(),
        deleting: metadata.deletion_timestamp.is_some(),
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
    }
}

fn body(computed: Result<Value, TemplateError>) -> Step<Value> {
    computed.map_err(|error| {
        let word = match error {
            TemplateError::Override(_) => Word::ApplyOverridesFailed,
            TemplateError::Shape(_) | TemplateError::Group { .. } => Word::ComputeResourceFailed,
        };
        refusal(word, message(&error))
    })
}

fn message(error: &TemplateError) -> String {
    match error {
        TemplateError::Override(OverrideError::Apply(_)) => {
            format!("{error}; add the parent of the path to the template, or correct the path")
        }
        _ => error.to_string(),
    }
}

fn refusal(word: Word, message: impl Into<String>) -> Failure {
    Failure { word, message: message.into(), maybe_written: false }
}

fn forbidden_by_label() -> Failure {
    let message = "the object in the cluster has the label kubefed.io/managed=false, which forbids taking it over; remove the label to allow it";
    refusal(Word::ManagedLabelFalse, message)
}

fn timeout(word: Word) -> Outcome {
    let message = format!("the cluster did not answer within {} s", PATIENCE.as_secs());
    Outcome::Failed(Failure { word, message, maybe_written: true })
}

fn failure(word: Word, what: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => {
            let message = format!("cannot {what} the object: {}", status.message);
            // A 5xx may come from a proxy that gave up while the member went on.
            Failure { word, message, maybe_written: status.code >= 500 }
        }
        error => Failure { word, message: format!("cannot {what} the object: {error}"), maybe_written: true },
    }
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
