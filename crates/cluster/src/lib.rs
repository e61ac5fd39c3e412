//! The registry of members: `Cluster` and `KubeFedCluster` objects become live members with a client, health, version and identity, and one
//! shared informer per (member, type).

mod account;
pub mod agents;
mod conditions;
pub mod controller;
mod events;
pub mod feed;
pub mod health;
pub mod identity;
pub mod informer;
mod join;
pub mod leader;
mod listed;
mod lock;
mod marks;
mod member;
mod places;
mod reconcile;
mod register;
mod registry;
mod remote;
pub mod statuses;
mod tokens;
mod tunnelled;

pub use controller::ControllerOptions;
pub use informer::{
    Change, Informers, Lookup, ObjectKey, Observed, ResourceVersion, Subscription, Uid, is_applied,
};
pub use join::{JoinError, JoinRequest, Progress, UnjoinError, examine, join, unjoin, update, valid_name};
pub use marks::Marks;
pub use member::{Member, target_of};
pub use registry::{Connect, Options, Registry, Snapshot, connect};
pub use remote::Problem;
pub use statuses::{Shown, Sighting, Statuses};
