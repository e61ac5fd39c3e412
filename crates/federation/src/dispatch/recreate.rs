//! Making a copy anew where a member refuses to change it: asked for by the annotation `kubefed.io/recreate: "true"` on the federated
//! object, as what depends on the copy goes with it.

use hansa_api::names;
use kube::ResourceExt;

use super::refusal::{ADVICE, Trouble, failed};
use super::{Recipe, Target, Written, observed};
use crate::report::{Failure, Outcome, Retry};
use crate::status::Word;

impl Target {
    /// Deletes the copy and, if it is gone at once, creates it again; otherwise that is done when the watch says that it is gone.
    /// `refusal` is why.
    ///
    /// A namespace is never deleted for this, nor what does not carry the managed label, nor what could not be created again; and it
    /// happens once for a generation of the federated object, lest a member that changes what we create has us do it for ever.
    pub(super) async fn recreate(&self, recipe: &Recipe<'_>, refusal: Trouble) -> Result<Written, Trouble> {
        if self.is_namespace() {
            return Err(never(refusal, "a namespace is never deleted for that").into());
        }
        let Some(live) = self.live(Word::RetrievalFailed).await? else {
            return Ok(self.make(recipe).await?.into());
        };
        if live.metadata.deletion_timestamp.is_some() {
            return Ok(Written { metadata: None, recreated: false });
        }
        if live.labels().get(names::LABEL_MANAGED).is_none_or(|label| label != names::MANAGED_TRUE) {
            return Err(
                never(refusal, "the object there does not carry the label kubefed.io/managed=true").into()
            );
        }
        if let Err(trouble) = self.post(recipe, true).await
            && !trouble.is_about_the_present()
        {
            let why = format!("it could not be created again: {}", trouble.into_failure().message);
            return Err(never(refusal, &why).into());
        }
        if !self.memory.recreates(&self.member, &self.key, self.generation) {
            return Err(
                never(refusal, "that was done already for this generation of the federated object").into()
            );
        }
        match self.delete(Some(&observed(live.metadata))).await {
            Ok(Outcome::Gone) => Ok(Written { recreated: true, ..self.make(recipe).await?.into() }),
            Ok(_) => Ok(Written { metadata: None, recreated: true }),
            Err(refused) => {
                self.memory.forget(&self.member, &self.key);
                Err(refused.into())
            }
        }
    }
}

/// The failure where making the object anew is asked for, and not done.
fn never(refusal: Trouble, why: &str) -> Failure {
    let refused = refusal.into_failure().message;
    let message =
        format!("{}; it is not made anew, as {why}; take the change back", refused.trim_end_matches(ADVICE));
    Failure { retry: Retry::Late, ..failed(Word::UpdateFailed, message) }
}
