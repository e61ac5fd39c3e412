//! `get`: one object, as it is now.

use hansa_machinery::Status;

use super::{
    call::{Answer, Call},
    list::resource_version,
};

impl Call {
    /// Answers `GET …/{name}` and, for subresources that show the object itself, `GET …/{name}/status`.
    ///
    /// The store is linearizable, so any resource version that was ever given out is old enough.
    pub(crate) fn get(&self) -> Result<Answer, Status> {
        if let Some(asked) = resource_version(&self.query)? {
            let now = self.server.store().revision();
            if asked > now {
                return Err(super::list::too_new(asked, now));
            }
        }
        let entry = self.entry()?;
        self.show(&entry).map(Answer::ok)
    }
}
