//! The verbs of the API on objects.

pub(crate) mod accept;
pub(crate) mod body;
pub(crate) mod call;
pub(crate) mod convert;
mod create;
pub(crate) mod decode;
mod delete;
mod get;
pub(crate) mod list;
pub(crate) mod metadata;
pub(crate) mod options;
pub(crate) mod patch;
pub(crate) mod query;
pub(crate) mod render;
mod scale;
pub(crate) mod strategy;
mod subresources;
mod table;
mod update;
pub(crate) mod watch;
pub(crate) mod write;
