//! `update`: PUT of a whole object.

use hansa_machinery::Status;
use serde_json::Value;

use super::{
    call::{Answer, Call},
    decode::Document,
    options::WriteOptions,
    write::{Change, written},
};
use crate::registry::policy;

struct Replace {
    object: Value,
    has_version: bool,
}

impl Change for Replace {
    fn desired(&self, _: &Call, _: Option<&Value>) -> Result<Value, Status> {
        Ok(self.object.clone())
    }

    fn creates(&self, call: &Call) -> bool {
        policy::creates_on_update(&call.resource.storage)
    }

    fn retries(&self) -> bool {
        !self.has_version
    }
}

impl Call {
    /// Answers `PUT`.
    pub(crate) async fn update(&self, document: Document, options: &WriteOptions) -> Result<Answer, Status> {
        let object = self.object(document, options)?;
        let has_version =
            !matches!(object["metadata"]["resourceVersion"].as_str().unwrap_or_default(), "" | "0");
        let (payload, created) = self.modify(&Replace { object, has_version }, options).await?;
        Ok(written(payload, created))
    }
}
