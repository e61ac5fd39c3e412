//! `create`: POST of a new object.

use hansa_machinery::Status;

use super::{
    call::{Answer, Call},
    decode::Document,
    options::WriteOptions,
    write::written,
};

impl Call {
    /// Answers `POST` to a collection.
    pub(crate) async fn create(&self, document: Document, options: &WriteOptions) -> Result<Answer, Status> {
        let object = self.object(document, options)?;
        let entry = self.insert(object, options).await?;
        Ok(written(self.show(&entry)?, true))
    }
}
