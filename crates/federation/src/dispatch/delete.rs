//! Taking copies away: deletion under preconditions, and taking the label off (`spec/kubefed.md §2.7`).

use hansa_api::names;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};

use super::refusal::{Refused, code};
use super::{TRIES, Target};
use crate::federated::Propagation;
use crate::plan::Copy;
use crate::report::Outcome;
use crate::status::Word;

impl Target {
    /// Deletes exactly the object that was seen with the managed label: the preconditions hold it to that. If it changed meanwhile,
    /// it is looked at again.
    pub(super) async fn delete(&self, seen: Option<&Copy>) -> Result<Outcome, Refused> {
        let refused = |what, error| self.refused(Word::DeletionFailed, what, &Value::Null, error);
        let api = self.api(None);
        let mut seen = seen.map(|copy| (copy.uid.clone(), copy.resource_version.clone()));
        let mut last = None;
        for _ in 0..TRIES {
            let (uid, version) = match seen.take() {
                Some(seen) => seen,
                None => {
                    let live = api.get_metadata_opt(&self.key.name).await;
                    let Some(live) = live.map_err(|error| refused("read", error))? else {
                        return Ok(Outcome::Gone);
                    };
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
                Err(error) => return Err(refused("delete", error)),
            }
        }
        match last {
            Some(error) => Err(refused("delete", error)),
            None => Ok(Outcome::Removing),
        }
    }

    /// As `kubefed.io/deleteoption` says, whyever the copy is deleted (`spec/kubefed.md §6 (17)`).
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

    /// Takes the managed label off.
    pub(super) async fn unlabel(&self, uid: Option<&str>) -> Result<Outcome, Refused> {
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
            Err(error) => {
                Err(self.refused(Word::LabelRemovalFailed, "take the managed label off", &Value::Null, error))
            }
        }
    }
}
