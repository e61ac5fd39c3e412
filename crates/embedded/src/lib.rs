//! An embedded Kubernetes API server

pub mod auth;
pub mod pki;
pub mod serve;
pub mod store;

/// The body of requests and answers.
pub type Body =
    http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, Box<dyn std::error::Error + Send + Sync>>;
