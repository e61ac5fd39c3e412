//! Members, asked for a preview: one that does not answer is waited for once.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use hansa_api::KubeFedCluster;
use kube::Client;
use tokio::time;

/// How a member is reached; the error is for people.
pub type Connect = Arc<dyn Fn(KubeFedCluster) -> BoxFuture<'static, Result<Client, String>> + Send + Sync>;

/// How members are asked.
#[derive(Clone)]
pub struct Reach {
    /// How they are reached.
    pub connect: Connect,
    /// How long each may take to answer one request; one that did not answer is not asked again.
    pub patience: Duration,
}

/// A ready member; an error that means that it cannot be reached is remembered.
pub(super) struct Link {
    client: Result<Client, String>,
    patience: Duration,
    lost: OnceLock<String>,
}

/// Why a member did not do what it was asked.
pub(super) enum Trouble {
    /// It answered, and this was the answer.
    Answer(Box<kube::core::Status>),
    /// It did not answer as a cluster does.
    Lost(String),
}

impl Link {
    pub(super) async fn new(reach: &Reach, cluster: &KubeFedCluster) -> Self {
        let client = (reach.connect)(cluster.clone()).await;
        Self { client, patience: reach.patience, lost: OnceLock::new() }
    }

    /// Asks, unless it was asked before and did not answer.
    pub(super) async fn ask<T>(
        &self,
        request: impl AsyncFnOnce(Client) -> kube::Result<T>,
    ) -> Result<T, Trouble> {
        if let Some(why) = self.lost.get() {
            return Err(Trouble::Lost(why.clone()));
        }
        let client = self.client.clone().map_err(Trouble::Lost)?;
        let why = match time::timeout(self.patience, request(client)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(kube::Error::Api(status))) => return Err(Trouble::Answer(status)),
            Ok(Err(error)) => hansa_transport::explain(&error),
            Err(_) => format!("the cluster did not answer within {:?}", self.patience),
        };
        Err(Trouble::Lost(self.lost.get_or_init(|| why).clone()))
    }
}

impl Trouble {
    /// What it was, for people.
    pub(super) fn told(self) -> String {
        match self {
            Trouble::Answer(status) => hansa_transport::explain(&kube::Error::Api(status)),
            Trouble::Lost(why) => why,
        }
    }
}
