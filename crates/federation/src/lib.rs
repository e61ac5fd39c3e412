//! KubeFed: placement, overrides, versions, and the controllers around them.
//!
//! What decides is pure: [`plan`] says what to do about one federated object, from [`placement`], the recorded [`version`]s and what is
//! observed in the members; [`template`], [`overrides`] and [`retain`] say what a member's copy looks like; [`report`] and [`status`] say what
//! came of it; [`replicas`] divides replicas among members. The contract is `spec/kubefed.md`.

mod act;
mod bodies;
mod cache;
mod collect;
mod conditions;
mod controller;
mod debts;
mod dispatch;
mod engine;
mod events;
pub mod explain;
pub mod federated;
mod host;
mod intern;
pub mod key;
mod members;
pub mod overrides;
pub mod placement;
pub mod plan;
pub mod preview;
mod queue;
mod records;
pub mod replicas;
pub mod report;
mod reported;
pub mod retain;
mod state;
pub mod status;
pub mod template;
pub mod types;
pub mod version;

pub use controller::{Controller, Options};
pub use debts::Debt;
