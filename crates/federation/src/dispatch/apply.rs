//! Writing by server-side apply, which leaves alone what others own (`spec/kubefed.md §6 (18)`).

use hansa_api::names;
use hansa_machinery::fields::Set;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ObjectMeta, Request};
use serde_json::{Value, json};

use super::refusal::{Trouble, failed};
use super::{Recipe, TRIES, Target, takeover, wire};
use crate::plan::Action;
use crate::status::Word;

impl Target {
    /// Makes or changes the copy. `applied`: we have applied it before.
    pub(super) async fn write_by_apply(
        &self,
        action: Action,
        applied: bool,
        recipe: &Recipe<'_>,
    ) -> Result<ObjectMeta, Trouble> {
        match action {
            Action::Create => self.create_by_apply(recipe).await,
            _ if applied && !recipe.needs_live => {
                self.update_by_apply(Word::UpdateFailed, "apply", false, recipe).await
            }
            _ => Box::pin(self.update_by_apply(Word::UpdateFailed, "apply", true, recipe)).await,
        }
    }

    /// Applies `body`, nothing more.
    pub(super) async fn apply(
        &self,
        word: Word,
        what: &'static str,
        body: &Value,
        force: bool,
    ) -> Result<ObjectMeta, Trouble> {
        let params = PatchParams { force, ..PatchParams::apply(names::FIELD_MANAGER_FEDERATION) };
        let request = Request::new(self.path(body["apiVersion"].as_str()));
        let answer = match request.patch_metadata(&self.key.name, &params, &Patch::Apply(body)) {
            Ok(request) => wire::send::<wire::Applied>(&self.transport, request).await,
            Err(error) => Err(kube::Error::BuildRequest(error)),
        };
        Ok(answer.map_err(|error| self.refused(word, what, body, error))?.into())
    }

    /// Without force, so that an object that is there already, and says anything else, is noticed before it is touched.
    async fn create_by_apply(&self, recipe: &Recipe<'_>) -> Result<ObjectMeta, Trouble> {
        let body = recipe.body(None)?;
        let refused = if self.adopt {
            match self.apply(Word::CreationFailed, "create", &body, false).await {
                Err(trouble) if matches!(trouble.code(), Some(409 | 422)) => Some(trouble),
                other => return other,
            }
        } else {
            None
        };
        let live = self.api(body["apiVersion"].as_str()).get_metadata_opt(&self.key.name).await;
        let live = live.map_err(|error| self.refused(Word::RetrievalFailed, "read", &body, error))?;
        let Some(live) = live else {
            return match refused {
                Some(trouble) => Err(trouble),
                None => self.apply(Word::CreationFailed, "create", &body, false).await,
            };
        };
        self.may_adopt(&live.metadata)?;
        let look = recipe.needs_live || may_take_over(&live.metadata);
        Box::pin(self.update_by_apply(Word::UpdateFailed, "adopt", look, recipe)).await
    }

    /// With force: what the template names is ours. A conflict is then about the object having changed meanwhile, and is settled at
    /// once (`spec/kubefed.md §6 (19)`). `look`: the live object is needed to know what to write.
    async fn update_by_apply(
        &self,
        word: Word,
        what: &'static str,
        look: bool,
        recipe: &Recipe<'_>,
    ) -> Result<ObjectMeta, Trouble> {
        let mut attempt = 1;
        loop {
            let written = if look {
                Box::pin(self.apply_over_live(word, what, recipe)).await
            } else {
                self.apply(word, what, &recipe.body(None)?, true).await
            };
            match written {
                Err(trouble) if trouble.code() == Some(409) && attempt < TRIES => attempt += 1,
                other => return other,
            }
        }
    }

    /// Under the resourceVersion that was read, as what is carried over must still be what is live when it is written.
    async fn apply_over_live(
        &self,
        word: Word,
        what: &'static str,
        recipe: &Recipe<'_>,
    ) -> Result<ObjectMeta, Trouble> {
        let Some(mut live) = self.live(Word::FieldRetentionFailed).await? else {
            return self.apply(word, what, &recipe.body(None)?, true).await;
        };
        self.may_change(&live.metadata)?;
        let before = self.take_over(&mut live).await?;
        let mut body = recipe.body(Some(&as_value(&live)?))?;
        body["metadata"]["resourceVersion"] = live.resource_version().into();
        let mut written = self.apply(word, what, &body, true).await;
        // Something that we now own and no longer name cannot be removed. Then it stays, and stays KubeFed's; if it is not clear what,
        // all that was KubeFed's does.
        let Some(before) = before else { return written };
        for all in [false, true] {
            let Err(trouble) = &written else { break };
            if trouble.code() != Some(422) {
                break;
            }
            let stays = trouble.immutable_fields();
            let narrower = takeover::migrate(&before, &takeover::MANAGERS, &stays);
            let owners = narrower.filter(|_| !all && !stays.is_empty()).unwrap_or_else(|| before.clone());
            live = self.set_owners(&live, &owners).await?;
            body["metadata"]["resourceVersion"] = live.resource_version().into();
            written = self.apply(word, what, &body, true).await;
        }
        written
    }

    /// Takes over what KubeFed wrote by PUT, if anything, and says who owned what before.
    async fn take_over(&self, live: &mut DynamicObject) -> Result<Option<Vec<ManagedFieldsEntry>>, Trouble> {
        if !may_take_over(&live.metadata) {
            return Ok(None);
        }
        let before = live.metadata.managed_fields.clone().unwrap_or_default();
        let Some(after) = takeover::migrate(&before, &takeover::MANAGERS, &Set::default()) else {
            return Ok(None);
        };
        *live = self.set_owners(live, &after).await?;
        Ok(Some(before))
    }

    /// Says who owns what in an object, if it is still the one that was read.
    async fn set_owners(
        &self,
        live: &DynamicObject,
        owners: &[ManagedFieldsEntry],
    ) -> Result<DynamicObject, Trouble> {
        let params = PatchParams {
            field_manager: Some(names::FIELD_MANAGER_FEDERATION.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({"metadata": {
            "managedFields": owners, "resourceVersion": live.metadata.resource_version, "uid": live.metadata.uid,
        }}));
        let written = self.api(None).patch(&self.key.name, &params, &patch).await;
        let of = Value::Null;
        Ok(written.map_err(|error| self.refused(Word::UpdateFailed, "take over", &of, error))?)
    }
}

/// Whether an object is one of KubeFed's that we have never applied.
fn may_take_over(metadata: &ObjectMeta) -> bool {
    let managed = metadata.labels.as_ref().and_then(|labels| labels.get(names::LABEL_MANAGED));
    let entries = metadata.managed_fields.as_deref().unwrap_or_default();
    managed.is_some_and(|managed| managed == names::MANAGED_TRUE)
        && takeover::migrate(entries, &takeover::MANAGERS, &Set::default()).is_some()
}

/// A live object as JSON.
pub(super) fn as_value(live: &DynamicObject) -> Result<Value, Trouble> {
    let value = serde_json::to_value(live).map_err(|error| {
        failed(Word::FieldRetentionFailed, format!("the live object cannot be read: {error}"))
    })?;
    Ok(value)
}
