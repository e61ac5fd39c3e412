//! The controllers that every cluster needs whatever runs on it.

pub(crate) mod bootstrap;
pub(crate) mod definitions;
mod events;
mod garbage;
mod namespaces;

use crate::{Server, auth::upkeep};

/// Starts them all.
pub(crate) fn start(server: &Server) {
    server.spawn(definitions::run(server.clone()));
    server.spawn(garbage::run(server.clone()));
    server.spawn(namespaces::run(server.clone()));
    server.spawn(namespaces::furnish(server.clone()));
    server.spawn(events::run(server.clone()));
    upkeep::start(server);
}
