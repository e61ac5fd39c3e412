//! Members that are connected by agent: who may join as one, and what is known of those that have (`spec/tunnel.md`).

pub mod announcement;
mod invitation;
mod manifest;
pub mod record;
pub mod sessions;
mod store;
mod watch;

pub use announcement::Announcement;
pub use invitation::{InviteError, Terms, invite, invite_again};
pub use manifest::{Invitation, default_image, manifest, yaml};
pub use record::{Record, Redeemed, Refusal, Token};
pub(crate) use store::ensure;
pub use store::{AgentError, Closed, accepts, admit, mint, open, record_of, redeem, retain, stays};
pub use watch::{Tower, follow};
