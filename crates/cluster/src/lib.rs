//! The registry of members: `Cluster` and `KubeFedCluster` objects become live members with a client, health, version and identity, and one
//! shared informer per (member, type).

mod conditions;
pub mod controller;
mod events;
pub mod health;
pub mod identity;
pub mod informer;
mod join;
pub mod leader;
mod listed;
mod marks;
mod member;
mod reconcile;
mod register;
mod registry;
mod remote;

pub use controller::ControllerOptions;
pub use informer::{Change, Informers, Lookup, ObjectKey, Observed, Subscription};
pub use join::{JoinError, JoinRequest, Progress, UnjoinError, examine, join, unjoin, update, valid_name};
pub use marks::Marks;
pub use member::Member;
pub use registry::{Connect, Options, Registry, Snapshot, connect};
pub use remote::Problem;
