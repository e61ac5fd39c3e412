//! Who asks, and may they: what an HTTPS API in front of clusters settles before it passes a request on.
//!
//! The order is the callers' to keep: [`bearer`] and [`Reviews::authenticate`] before anything is routed, [`route::route`],
//! [`Reviews::allows`], and [`headers::towards_cluster`] last (`spec/security-checklist.md`, lines 1 to 4 and 18).

pub mod answer;
pub mod headers;
mod identity;
pub mod impersonation;
mod recent;
mod reviews;
pub mod route;

use hansa_machinery::Status;
use http::{HeaderMap, header};

pub use identity::{Identity, SYSTEM_MASTERS};
pub use reviews::{Question, Reviews};

/// The one bearer token of a request (RFC 6750 §2.1).
///
/// # Errors
/// 401 where there is none, more than one, or something else.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Status> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Status::unauthorized()) };
    let (scheme, token) =
        value.to_str().ok().and_then(|v| v.split_once(' ')).ok_or_else(Status::unauthorized)?;
    let token = token.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= 64 * 1024 {
        Ok(token)
    } else {
        Err(Status::unauthorized())
    }
}
