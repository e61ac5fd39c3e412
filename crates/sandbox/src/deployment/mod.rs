//! What a Deployment decides.

pub(crate) mod rollout;
pub(crate) mod status;
