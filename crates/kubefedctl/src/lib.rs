//! kubefedctl's commands (`spec/kubefed.md §3`): what is decided is pure, and what is done goes through a `kube::Client`.

mod contents;
mod disable;
mod enable;
mod error;
mod federate;
mod join;
mod member;
mod orphaning;
mod resources;
mod schema;
mod unjoin;

use hansa_api::names;
use kube::Client;

pub use contents::{Federation, Request};
pub use disable::disable;
pub use enable::{Directive, Enabling, Refused, enable};
pub use error::Error;
pub use federate::{Federated, documents, federated, from_documents, guess};
pub use join::{Join, join};
pub use member::{Member, client};
pub use orphaning::{Orphaning, orphaning};
pub use resources::{LookupError, Resource, lookup, served};
pub use unjoin::{Unjoin, unjoin};

/// The cluster that carries the control plane, and how the commands treat it.
#[derive(Clone)]
pub struct Host {
    /// The way to it.
    pub client: Client,
    /// The namespace of the control plane's own objects.
    pub namespace: String,
    /// Look, and write nothing.
    pub dry_run: bool,
}

impl Host {
    /// A host whose control plane is in the usual namespace.
    pub fn new(client: Client) -> Self {
        Self { client, namespace: names::SYSTEM_NAMESPACE.to_owned(), dry_run: false }
    }
}
