//! Which change concerns which controller.

use std::sync::Arc;

use crate::{
    cache::{Kept, Listener, Project},
    controllers::{kubelet, scheduler},
    object::Key,
    pod::{Pod, is_active},
    queue::Queue,
    schedule::Node,
    world::World,
};

/// The queues of all controllers.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    pub(crate) scheduler: Arc<Queue>,
    pub(crate) kubelet: Arc<Queue>,
    pub(crate) replica_sets: Arc<Queue>,
    pub(crate) deployments: Arc<Queue>,
    pub(crate) stateful_sets: Arc<Queue>,
    pub(crate) daemon_sets: Arc<Queue>,
    pub(crate) jobs: Arc<Queue>,
    pub(crate) cron_jobs: Arc<Queue>,
    pub(crate) services: Arc<Queue>,
    pub(crate) volumes: Arc<Queue>,
}

impl Queues {
    /// The queue of the controller of a kind of owner.
    fn of_kind(&self, kind: &str) -> Option<&Arc<Queue>> {
        match kind {
            "ReplicaSet" => Some(&self.replica_sets),
            "Deployment" => Some(&self.deployments),
            "StatefulSet" => Some(&self.stateful_sets),
            "DaemonSet" => Some(&self.daemon_sets),
            "Job" => Some(&self.jobs),
            "CronJob" => Some(&self.cron_jobs),
            _ => None,
        }
    }

    /// Tells the controllers of what an object was and is owned by.
    fn tell_owner<T>(&self, kept: &Kept<T>) {
        if let Some(owner) = &kept.meta.controller
            && let Some(queue) = self.of_kind(&owner.kind)
        {
            queue.add(Key { namespace: kept.meta.key.namespace.clone(), name: owner.name.clone() });
        }
    }
}

/// Keys of a changed object itself go to `queue`.
pub(crate) fn itself<T: Project>(queue: &Arc<Queue>) -> Listener<T> {
    let queue = queue.clone();
    Box::new(move |old, new| {
        if let Some(kept) = new.or(old) {
            queue.add(kept.meta.key.clone());
        }
    })
}

/// Keys of the owners of a changed object go to their controllers.
pub(crate) fn owners<T: Project>(queues: &Arc<Queues>) -> Listener<T> {
    let queues = queues.clone();
    Box::new(move |old, new| {
        // The owner was told when the object got one; told again unless that is as it was.
        let same = matches!((old, new), (Some(old), Some(new)) if old.meta.controller == new.meta.controller);
        new.into_iter().chain(old.filter(|_| !same)).for_each(|kept| queues.tell_owner(kept));
    })
}

/// What a change of a ReplicaSet without owner concerns: any Deployment that may take it.
pub(crate) fn orphaned_sets<T: Project>(world: &Arc<World>, queues: &Arc<Queues>) -> Listener<T> {
    let (world, queues) = (world.clone(), queues.clone());
    Box::new(move |_, new| {
        if let Some(set) = new.filter(|set| set.meta.controller.is_none()) {
            for deployment in world.deployments.of_namespace(&set.meta.key.namespace, |_| true) {
                queues.deployments.add(deployment.meta.key.clone());
            }
        }
    })
}

/// What a change of a Pod concerns besides its owner.
pub(crate) fn pods(world: &Arc<World>, queues: &Arc<Queues>) -> Listener<crate::pod::PodFacts> {
    let (world, queues) = (world.clone(), queues.clone());
    Box::new(move |old, new| {
        if let Some(pod) = new {
            if scheduler::is_pending(pod) {
                queues.scheduler.add(pod.meta.key.clone());
            }
            if kubelet::is_concerned(pod) {
                queues.kubelet.add(pod.meta.key.clone());
            }
            if pod.meta.controller.is_none() {
                orphaned_pod(&world, &queues, pod);
            }
        }
        // Room on a node: those that wait may go there.
        let runs =
            |pod: Option<&Pod>| pod.is_some_and(|pod| !pod.data.node.is_empty() && !pod.data.is_finished());
        if runs(old) && !runs(new) {
            wake_pending(&world, &queues);
        }
        services(&world, &queues, old, new);
    })
}

fn orphaned_pod(world: &World, queues: &Queues, pod: &Pod) {
    if !is_active(pod) {
        return;
    }
    let namespace = &pod.meta.key.namespace;
    for set in world.replica_sets.of_namespace(namespace, |_| true) {
        queues.replica_sets.add(set.meta.key.clone());
    }
    for set in world.stateful_sets.of_namespace(namespace, |_| true) {
        queues.stateful_sets.add(set.meta.key.clone());
    }
    for set in world.daemon_sets.of_namespace(namespace, |_| true) {
        queues.daemon_sets.add(set.meta.key.clone());
    }
}

fn wake_pending(world: &World, queues: &Queues) {
    for pod in world.pods.all(scheduler::is_pending) {
        queues.scheduler.add(pod.meta.key.clone());
    }
}

/// Tells the Services that select what the Pod was or is, if an address may have changed.
fn services(world: &World, queues: &Queues, old: Option<&Pod>, new: Option<&Pod>) {
    let address = |pod: Option<&Pod>| {
        let pod = pod?;
        let facts = &pod.data;
        Some((facts.ip.clone(), facts.ready, pod.meta.deleting, facts.is_finished(), pod.meta.labels.clone()))
    };
    if address(old) == address(new) || [old, new].into_iter().flatten().all(|pod| pod.data.ip.is_empty()) {
        return;
    }
    for pod in [old, new].into_iter().flatten() {
        let selecting = |service: &Kept<crate::world::ServiceFacts>| service.data.selects(&pod.meta.labels);
        for service in world.services.of_namespace(&pod.meta.key.namespace, selecting) {
            queues.services.add(service.meta.key.clone());
        }
    }
}

/// What a change of a node concerns: Pods that wait for one, daemons, and the Pods of a node that is gone.
pub(crate) fn nodes(world: &Arc<World>, queues: &Arc<Queues>) -> Listener<crate::schedule::NodeFacts> {
    let (world, queues) = (world.clone(), queues.clone());
    Box::new(move |old: Option<&Node>, new: Option<&Node>| {
        if let (Some(old), Some(new)) = (old, new)
            && old.data == new.data
            && old.meta.labels == new.meta.labels
        {
            return;
        }
        wake_pending(&world, &queues);
        for set in world.daemon_sets.all(|_| true) {
            queues.daemon_sets.add(set.meta.key.clone());
        }
        if let (Some(gone), None) = (old, new) {
            for pod in world.pods.all(|pod| pod.data.node == gone.meta.key.name) {
                queues.kubelet.add(pod.meta.key.clone());
            }
        }
    })
}

/// What a change of a claim concerns besides itself: Pods that wait for it.
pub(crate) fn claims(world: &Arc<World>, queues: &Arc<Queues>) -> Listener<crate::world::ClaimFacts> {
    let (world, queues) = (world.clone(), queues.clone());
    Box::new(move |_, new| {
        if let Some(claim) = new.filter(|claim| claim.data.bound) {
            for pod in world.pods.of_namespace(&claim.meta.key.namespace, scheduler::is_pending) {
                queues.scheduler.add(pod.meta.key.clone());
            }
        }
    })
}
