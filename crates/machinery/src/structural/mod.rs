//! What an OpenAPI schema means for an object: which fields are kept, which are filled in, which are wrong. The behaviour
//! is that of `k8s.io/apiextensions-apiserver/pkg/apiserver/schema` for CRDs and of Go's JSON decoding for built-in types.

mod check;
mod condition;
mod decode;
mod default;
mod expressions;
mod formats;
mod lists;
mod pattern;
mod prune;
mod validate;

pub use check::check_schema;
pub use condition::Condition;
pub use decode::{decode_errors, normalize};
pub use default::default;
pub use prune::{Prune, prune, unknown_fields};
pub use validate::{validate, validate_update};

pub(crate) use expressions::{Expressions, LazyRules};
pub(crate) use pattern::compile_pattern;
pub(crate) use validate::Checks;
