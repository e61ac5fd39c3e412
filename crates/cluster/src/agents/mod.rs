//! Members that are connected by agent: who may join as one, and what is known of those that have (`spec/tunnel.md`).

pub mod announcement;
pub mod record;
mod store;

pub use announcement::Announcement;
pub use record::{Record, Redeemed, Refusal, Token};
pub use store::{AgentError, Closed, accepts, admit, mint, open, record_of, redeem, retain};
