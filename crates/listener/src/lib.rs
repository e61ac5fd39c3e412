//! What answers at an address: a TLS listener that protects itself, and the certificates it shows and asks for.
//!
//! [`serve`] accepts, shakes hands and hands requests over; [`pki`] is the authority behind the certificates of both sides.
//! Neither knows what the requests are for.

pub mod pki;
pub mod serve;

/// The body of an answer.
pub type Body =
    http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, Box<dyn std::error::Error + Send + Sync>>;
