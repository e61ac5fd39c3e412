//! Kubernetes API machinery, pure: it works on JSON and knows neither a client nor a runtime.

pub mod apply;
pub mod field;
pub mod fields;
pub mod kubernetes;
pub mod schema;
pub mod status;
pub mod strategic;
pub mod structural;

pub use schema::Schema;
pub use status::Status;
