//! The agent on a member that the host cannot reach.
//!
//! It dials out to the tower ([`Error`] says what can go wrong), proves who it is with a credential of its own, and serves its API server down
//! the connection. What decides is pure: [`backoff`] and [`replicas`] (when to dial), [`credential`] (what to do for a certificate), [`guard`]
//! (what is let through), [`proxy`] (which way). What acts is thin: `dial`, `keeper`, `store`, `upstream`, and [`Agent`], which is the loop.
//!
//! The agent reaches its own API server and nothing else, and its credential there never leaves the member.

pub mod backoff;
pub mod credential;
mod dial;
mod error;
pub mod guard;
pub mod join;
mod keeper;
pub mod member;
mod observe;
pub mod proxy;
pub mod replicas;
mod run;
mod store;
mod upstream;

use std::sync::Arc;
use std::time::SystemTime;

pub use error::Error;
pub use observe::{Observer, Standing};
pub use run::{Agent, Settings};
pub use store::StoreError;

/// The clock on the wall, which certificates are held against.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;
