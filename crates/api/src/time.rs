//! How Kubernetes writes times, durations and bytes, as schemas and as types.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

pub use k8s_openapi::ByteString;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
pub use kube::core::Duration;

macro_rules! string_format {
    ($(#[$doc:meta])* $name:ident, $format:literal) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format })
            }
        }
    };
}

string_format!(
    /// The schema of a [`Time`].
    DateTime,
    "date-time"
);
string_format!(
    /// The schema of a [`ByteString`]: base64.
    Base64,
    "byte"
);

/// The schema of a Go duration such as `1m30s`.
#[derive(Debug)]
pub struct GoDuration;

impl JsonSchema for GoDuration {
    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 64 })
    }
}

/// The schema of a value of any shape, kept as it is.
#[derive(Debug)]
pub struct AnyObject;

impl JsonSchema for AnyObject {
    fn schema_name() -> Cow<'static, str> {
        "AnyObject".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}
