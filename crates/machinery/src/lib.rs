//! Kubernetes API machinery, pure: it works on JSON and knows neither a client nor a runtime.

pub mod apply;
pub mod defaults;
pub mod duration;
pub mod field;
pub mod fields;
pub mod gojson;
pub mod json_patch;
pub mod jsonpath;
pub mod kubernetes;
pub mod merge_patch;
pub mod names;
pub mod path;
pub mod printers;
pub mod protobuf;
pub mod quantity;
pub mod rules;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategic;
pub mod structural;
pub mod table;

pub use schema::Schema;
pub use status::Status;
