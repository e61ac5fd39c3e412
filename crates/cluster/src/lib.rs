//! The registry of members: `Cluster` and `KubeFedCluster` objects become live members with a client, health, version and identity, and one
//! shared informer per (member, type).

mod events;
pub mod health;
pub mod informer;
mod marks;
mod member;
mod registry;

pub use informer::{Change, Informers, Lookup, ObjectKey, Observed};
pub use marks::Marks;
pub use member::Member;
pub use registry::{Connect, Options, Registry, Snapshot, connect};
