//! Writing as KubeFed did, by POST and PUT, in a member that cannot apply (`spec/kubefed.md §2.6`): it is older than Kubernetes 1.16, or
//! the type is served by a server of its own that never learned to.

use hansa_api::names;
use kube::api::{DynamicObject, PostParams};
use kube::core::{ObjectMeta, Request};
use serde_json::Value;

use super::apply::as_value;
use super::refusal::Trouble;
use super::{Recipe, TRIES, Target, wire};
use crate::plan::Action;
use crate::retain;
use crate::status::Word;

impl Target {
    /// Makes or changes the copy. A conflict is settled at once, with what is live then (`spec/kubefed.md §6 (19)`).
    pub(super) async fn write_by_put(
        &self,
        action: Action,
        recipe: &Recipe<'_>,
    ) -> Result<ObjectMeta, Trouble> {
        let mut attempt = 1;
        let mut exists = action != Action::Create;
        loop {
            let written =
                if exists { self.put(action, recipe).await } else { self.post(recipe, false).await };
            match written {
                Err(trouble) if trouble.code() == Some(409) && attempt < TRIES => exists = true,
                other => return other,
            }
            attempt += 1;
        }
    }

    /// Creates the copy, or only asks whether it could be.
    pub(super) async fn post(&self, recipe: &Recipe<'_>, dry_run: bool) -> Result<ObjectMeta, Trouble> {
        let body = recipe.body(None)?;
        let params = PostParams { dry_run, field_manager: Some(names::FIELD_MANAGER_FEDERATION.to_owned()) };
        let request = Request::new(self.path(body["apiVersion"].as_str()));
        let answer = match request.create(&params, body.to_string().into_bytes()) {
            Ok(request) => wire::send::<DynamicObject>(&self.transport, request).await,
            Err(error) => Err(kube::Error::BuildRequest(error)),
        };
        Ok(answer.map_err(|error| self.refused(Word::CreationFailed, "create", &body, error))?.metadata)
    }

    async fn put(&self, action: Action, recipe: &Recipe<'_>) -> Result<ObjectMeta, Trouble> {
        let Some(live) = self.live(Word::RetrievalFailed).await? else {
            return self.post(recipe, false).await;
        };
        if action == Action::Create {
            self.may_adopt(&live.metadata)?;
        } else {
            self.may_change(&live.metadata)?;
        }
        let there = as_value(&live)?;
        let mut body = recipe.body(Some(&there))?;
        retain::complete(&self.resource.group, &self.resource.kind, &mut body, &there);
        if body == there {
            return Ok(live.metadata);
        }
        let params =
            PostParams { dry_run: false, field_manager: Some(names::FIELD_MANAGER_FEDERATION.to_owned()) };
        let request = Request::new(self.path(body["apiVersion"].as_str()));
        let answer = match request.replace(&self.key.name, &params, body.to_string().into_bytes()) {
            Ok(request) => wire::send::<DynamicObject>(&self.transport, request).await,
            Err(error) => Err(kube::Error::BuildRequest(error)),
        };
        Ok(answer.map_err(|error| self.refused(Word::UpdateFailed, "update", &body, error))?.metadata)
    }

    /// The whole of what is there.
    pub(super) async fn live(&self, word: Word) -> Result<Option<DynamicObject>, Trouble> {
        let live = self.api(None).get_opt(&self.key.name).await;
        Ok(live.map_err(|error| self.refused(word, "read", &Value::Null, error))?)
    }
}
