//! An embedded Kubernetes API server: what `kubectl`, client-go and kube-rs expect of a real one, in a library.
//!
//! A request goes [`Server::handle`] → authorisation → `api` (one verb a file) → `store`. `registry` knows the resources,
//! `controllers` does what a control plane without workloads needs, [`local`] is the way in for code in the same process.

mod admission;
mod api;
pub mod auth;
mod controllers;
mod discovery;
mod documents;
mod handle;
pub mod local;
mod openapi;
mod registry;
mod serve;
mod server;
mod services;
pub mod store;
mod webhooks;

pub use api::options::{DeleteOptions, Propagation};
pub use api::patch::PatchKind;
pub use auth::{StaticToken, User};
pub use local::Local;
pub use server::{Concurrency, OpenError, Options, Server, Storage};
pub use services::Cidr;
pub use webhooks::Unasked;

/// The body of requests and answers.
pub type Body =
    http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, Box<dyn std::error::Error + Send + Sync>>;
