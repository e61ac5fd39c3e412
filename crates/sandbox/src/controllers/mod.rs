//! The controllers: each takes a key, looks, decides with a pure function, and writes what is missing.

pub(crate) mod cron_job;
pub(crate) mod daemon_set;
pub(crate) mod deployment;
pub(crate) mod job;
pub(crate) mod kubelet;
pub(crate) mod nodes;
pub(crate) mod replica_set;
pub(crate) mod scheduler;
pub(crate) mod service;
pub(crate) mod stateful_set;
pub(crate) mod volume;

use std::{future::Future, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};

use crate::{client::Error, object::Key, queue::Queue, world::World};

/// How often whatever cannot be done for now is tried again without anything having changed.
pub(crate) type Again = Option<Duration>;

/// Works on keys for ever, on up to `workers` at a time.
pub(crate) async fn run<F>(
    name: &'static str,
    queue: Arc<Queue>,
    workers: usize,
    reconcile: impl Fn(Key) -> F,
) where
    F: Future<Output = Result<Again, Error>>,
{
    let work = async |key: Key| match reconcile(key.clone()).await {
        Ok(again) => {
            queue.done(&key);
            if let Some(again) = again {
                queue.add_after(key, again);
            }
        }
        Err(error) => {
            if error.is_passing() {
                tracing::debug!(controller = name, %key, %error, "will try again");
            } else {
                tracing::warn!(controller = name, %key, %error, "will try again");
            }
            queue.failed(&key);
        }
    };
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            key = queue.next(), if running.len() < workers => running.push(work(key)),
            Some(()) = running.next() => {}
        }
    }
}

/// A reconciliation of `world`, to be given to [`run`].
pub(crate) fn of<F>(world: Arc<World>, reconcile: impl Fn(Arc<World>, Key) -> F) -> impl Fn(Key) -> F {
    move |key| reconcile(world.clone(), key)
}
