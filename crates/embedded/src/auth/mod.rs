//! Who asks, and what they may do: authentication, RBAC, impersonation, reviews, ServiceAccount tokens.

pub mod impersonate;
pub mod rbac;
pub mod user;

pub use user::User;
