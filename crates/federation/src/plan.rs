//! The plan: what to do about one federated object, decided from what is known and from nothing else
//! (`spec/kubefed.md §2.4–2.7`, DESIGN §2 "Absence of knowledge is never a reason to delete").
//!
//! A copy is deleted only for a positive reason: the federated object is being deleted, or its placement was read whole and
//! does not select the member; and only if it carries the managed label and is not a namespace of the host.

use std::collections::BTreeMap;

use crate::debts::Debt;
use crate::federated::Federated;
use crate::key::Key;
use crate::overrides::Cluster;
use crate::placement::{self, Gate, Selection};
use crate::status::{Reason, Word};
use crate::types::TypeConfig;
use crate::version::{Record, Version};
use hansa_cluster::Marks;

/// Something that may not have been read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge<T> {
    /// Not read yet, or not readable.
    Unknown,
    /// Read whole.
    Known(T),
}

/// What is known when the plan is made.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// The type.
    pub types: &'a TypeConfig,
    /// The name of the federated object.
    pub key: &'a Key,
    /// The namespace of the control plane itself.
    pub system_namespace: &'a str,
    /// The federated object; known to be absent is another thing than unknown.
    pub federated: Knowledge<Option<&'a Federated>>,
    /// How its namespace narrows its placement.
    pub gate: Gate<'a>,
    /// What was written where.
    pub record: Knowledge<Option<&'a Record>>,
    /// What is owed for it: it was deleted while members were away.
    pub debt: Option<&'a Debt>,
    /// Whether the deletion has waited long enough for members that are away.
    pub is_overdue: bool,
    /// The registered members that matter to it: those it is to be on, and those it is or may be on.
    pub members: Knowledge<&'a BTreeMap<String, Member<'a>>>,
    /// The UID of the host's namespace of this name, if the target is a namespace.
    pub host_namespace: Knowledge<Option<&'a str>>,
}

/// A registered member and its copy.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The labels of its KubeFedCluster.
    pub labels: &'a BTreeMap<String, String>,
    /// Whether it is Ready.
    pub ready: bool,
    /// What is known of the copy.
    pub copy: Observation,
}

/// What is known of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The member's objects of this type have not been read; with what went wrong, if that is known.
    Unsynced(Option<String>),
    /// There is no object of this name with the managed label.
    Absent,
    /// There is one.
    Present(Copy),
}

/// A copy, as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.generation`; 0 if the type has none.
    pub generation: i64,
    /// Whether it has a deletionTimestamp.
    pub deleting: bool,
    /// Whether we have applied it; if not, an older KubeFed may have written it by PUT.
    pub applied: bool,
    /// Its labels and annotations.
    pub marks: Marks,
}

impl Copy {
    /// Its version, as it is recorded.
    pub fn version(&self) -> Version {
        Version::of(self.generation, &self.resource_version)
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing yet: something must be known first.
    Wait(Missing),
    /// Nothing: this object is not ours to care for.
    Ignore(Ignored),
    /// Something, in some members.
    Work(Work),
}

/// What must be known first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The federated objects of this type.
    FederatedObjects,
    /// The registered clusters.
    Clusters,
    /// The FederatedNamespaces.
    Namespaces,
    /// The host's namespaces.
    HostNamespaces,
    /// The recorded versions.
    Versions,
}

/// Why an object is not cared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// A namespace of the system's own.
    SystemNamespace,
    /// A FederatedNamespace must be called as the namespace it lives in.
    InvalidName,
    /// It is being deleted and our finalizer is not on it.
    NotHeld,
}

/// What to do in the members, and to what end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The end.
    pub goal: Goal,
    /// One step per member concerned, sorted by member.
    pub steps: Vec<Step>,
    /// What keeps propagation as a whole from being done, whatever becomes of the steps.
    pub reason: Option<Reason>,
}

/// The end of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The copies are as the federated object says.
    Propagate,
    /// There are no copies; then our finalizer goes.
    Remove,
    /// The copies are nobody's; then our finalizer goes.
    Orphan,
    /// Copies without a federated object are nobody's.
    Disown,
}

/// What to do in one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The member.
    pub member: String,
    /// What to do.
    pub action: Action,
    /// What is reported of the member if the step goes well, or while there is nothing to do.
    pub word: Option<Word>,
    /// The same for people.
    pub message: String,
    /// Whether the placement selects the member; otherwise it is only being cleaned.
    pub selected: bool,
}

/// What to do with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make it; whether an object that is there already is adopted is decided where it is seen.
    Create,
    /// Apply it again.
    Update,
    /// Delete it.
    Delete,
    /// Look whether it is gone, and delete it if it is not: the caches say that it is, or say nothing.
    Confirm,
    /// Take the managed label off it.
    Unlabel,
    /// Write down on the host that it is to go: the member is away or does not serve the type, and the deletion cannot wait for it.
    Owe,
    /// Nothing, or nothing that can be done now.
    None,
}

impl Step {
    fn new(member: &str, action: Action) -> Self {
        Self { member: member.to_owned(), action, word: None, message: String::new(), selected: false }
    }

    fn saying(member: &str, action: Action, word: Word, message: impl Into<String>) -> Self {
        Self { word: Some(word), message: message.into(), ..Self::new(member, action) }
    }

    fn selected(self) -> Self {
        Self { selected: true, ..self }
    }
}

/// Makes the plan.
pub fn plan(situation: &Situation<'_>) -> Plan {
    let Situation { types, key, .. } = situation;
    if types.is_ignored(key, situation.system_namespace) {
        return Plan::Ignore(Ignored::SystemNamespace);
    }
    if types.is_namespaces() && key.namespace != key.name {
        return Plan::Ignore(Ignored::InvalidName);
    }
    let Knowledge::Known(federated) = situation.federated else {
        return Plan::Wait(Missing::FederatedObjects);
    };
    let Knowledge::Known(members) = situation.members else { return Plan::Wait(Missing::Clusters) };
    let Some(federated) = federated else { return disown(situation, members) };
    if federated.deleting && !federated.is_held() {
        return Plan::Ignore(Ignored::NotHeld);
    }
    if federated.deleting && federated.orphan {
        return Plan::Work(Work { goal: Goal::Orphan, steps: unlabel(members), reason: None });
    }
    let Knowledge::Known(record) = situation.record else { return Plan::Wait(Missing::Versions) };
    let host_namespace = match situation.host_namespace {
        Knowledge::Known(uid) => uid,
        Knowledge::Unknown if types.is_namespaces() => return Plan::Wait(Missing::HostNamespaces),
        Knowledge::Unknown => None,
    };
    let labels = members.iter().map(|(name, member)| (name.as_str(), member.labels));
    let selection = match &federated.placement {
        Ok(placement) => match placement::resolve(placement, labels, situation.gate) {
            Some(selection) => selection,
            None => return Plan::Wait(Missing::Namespaces),
        },
        // What was placed by an earlier, sound placement is on the record; that is enough to clean up.
        Err(_) if federated.deleting => Selection::default(),
        Err(_) => {
            let reason = Some(Reason::ComputePlacementFailed);
            return Plan::Work(Work { goal: Goal::Propagate, steps: Vec::new(), reason });
        }
    };
    let context = Context { federated, record, host_namespace, is_overdue: situation.is_overdue };
    let is_recorded = |name: &str| {
        record.is_some_and(|record| record.clusters.contains(name))
            || situation.debt.is_some_and(|debt| debt.clusters.contains_key(name))
    };
    if federated.deleting {
        let steps = members.iter().filter_map(|(name, member)| {
            let owed = selection.clusters.contains(name) || is_recorded(name);
            context.remove(name, member, owed, Finality::Final)
        });
        return Plan::Work(Work { goal: Goal::Remove, steps: steps.collect(), reason: None });
    }
    let mut steps: Vec<Step> = Vec::new();
    for (name, member) in members {
        if selection.clusters.contains(name) {
            steps.push(context.place(name, member).selected());
        } else {
            steps.extend(context.remove(name, member, is_recorded(name), Finality::Shrunk));
        }
    }
    for name in selection.unknown {
        let message =
            "no cluster of this name is registered; correct spec.placement.clusters or join the cluster";
        steps.push(Step::saying(&name, Action::None, Word::ClusterNotFound, message).selected());
    }
    steps.sort_by(|a, b| a.member.cmp(&b.member));
    let reason = (situation.gate == Gate::NotFederated).then_some(Reason::NamespaceNotFederated);
    Plan::Work(Work { goal: Goal::Propagate, steps, reason })
}

/// The label is taken off wherever it can be; a member that is away is seen to when it returns, as then its copy has no
/// federated object any more.
fn unlabel(members: &BTreeMap<String, Member<'_>>) -> Vec<Step> {
    let labelled = members.iter().filter(|(_, member)| {
        member.ready && matches!(&member.copy, Observation::Present(copy) if !copy.deleting)
    });
    labelled.map(|(name, _)| Step::new(name, Action::Unlabel)).collect()
}

/// Copies without a federated object are nobody's, unless it is owed that they go.
fn disown(situation: &Situation<'_>, members: &BTreeMap<String, Member<'_>>) -> Plan {
    let Knowledge::Known(_) = situation.record else { return Plan::Wait(Missing::Versions) };
    let steps = match (situation.debt, situation.host_namespace) {
        (None, _) => unlabel(members),
        (Some(_), Knowledge::Unknown) if situation.types.is_namespaces() => {
            return Plan::Wait(Missing::HostNamespaces);
        }
        (Some(debt), Knowledge::Known(host)) => settle(members, debt, host),
        (Some(debt), Knowledge::Unknown) => settle(members, debt, None),
    };
    Plan::Work(Work { goal: Goal::Disown, steps, reason: None })
}

/// What was owed is done where the member is back: the copy goes if it is the one that was there, and is nobody's if it is another.
fn settle(members: &BTreeMap<String, Member<'_>>, debt: &Debt, host: Option<&str>) -> Vec<Step> {
    let steps = members.iter().filter(|(_, member)| member.ready).filter_map(|(name, member)| {
        let owed = debt.clusters.get(name.as_str());
        let action = match (&member.copy, owed) {
            (Observation::Unsynced(_), _) | (Observation::Absent, None) => return None,
            (Observation::Absent, Some(_)) => Action::Confirm,
            (Observation::Present(copy), _) if copy.deleting => return None,
            (Observation::Present(copy), Some(uid))
                if uid.as_ref().is_none_or(|uid| *uid == copy.uid) && host != Some(&*copy.uid) =>
            {
                Action::Delete
            }
            (Observation::Present(_), _) => Action::Unlabel,
        };
        Some(Step::new(name, action))
    });
    steps.collect()
}

struct Context<'a> {
    federated: &'a Federated,
    record: Option<&'a Record>,
    host_namespace: Option<&'a str>,
    is_overdue: bool,
}

/// Why a copy has to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finality {
    /// The federated object is being deleted, and is gone once this is done: look twice.
    Final,
    /// The placement no longer selects the member.
    Shrunk,
}

impl Context<'_> {
    fn place(&self, name: &str, member: &Member<'_>) -> Step {
        if !member.ready {
            return not_ready(name);
        }
        match &member.copy {
            Observation::Unsynced(why) => self.unsynced(name, why.as_deref()),
            Observation::Absent => Step::new(name, Action::Create),
            Observation::Present(copy) if copy.deleting => {
                let message =
                    "the object is being deleted in the cluster; it is created again when it is gone";
                Step::saying(name, Action::None, Word::WaitingForRemoval, message)
            }
            Observation::Present(copy) if self.is_current(name, member, copy) => {
                Step::new(name, Action::None)
            }
            Observation::Present(_) => Step::new(name, Action::Update),
        }
    }

    /// `owed`: a copy of ours is or may be there.
    fn remove(&self, name: &str, member: &Member<'_>, owed: bool, finality: Finality) -> Option<Step> {
        if !member.ready {
            let is_hosts =
                matches!(&member.copy, Observation::Present(copy) if self.host_namespace == Some(&*copy.uid));
            return match finality {
                Finality::Final if is_hosts => None,
                Finality::Final if self.is_overdue => owed.then(|| Step::new(name, Action::Owe)),
                _ => owed.then(|| not_ready(name)),
            };
        }
        match &member.copy {
            // It cannot be read there, and perhaps never will: the type may not be served any more.
            Observation::Unsynced(Some(_)) if owed && finality == Finality::Final && self.is_overdue => {
                Some(Step::new(name, Action::Owe))
            }
            Observation::Unsynced(_) if owed && finality == Finality::Final => {
                Some(Step::new(name, Action::Confirm))
            }
            Observation::Unsynced(why) => owed.then(|| self.unsynced(name, why.as_deref())),
            Observation::Absent => owed.then(|| Step::new(name, Action::Confirm)),
            Observation::Present(copy) if self.host_namespace == Some(&*copy.uid) => {
                // The host's own namespace, seen as that of a member: whoever deletes it deletes the federation with it.
                (!copy.deleting).then(|| Step::new(name, Action::Unlabel))
            }
            Observation::Present(copy) => {
                let action = if copy.deleting { Action::None } else { Action::Delete };
                Some(Step::saying(
                    name,
                    action,
                    Word::WaitingForRemoval,
                    "the object is being deleted in the cluster",
                ))
            }
        }
    }

    fn is_current(&self, name: &str, member: &Member<'_>, copy: &Copy) -> bool {
        // Another label of the member may choose other overrides, although nothing else changed.
        let version = copy.version().with(self.federated.selectors.choose(member.labels));
        let current =
            self.record.is_some_and(|record| record.is_current(&self.federated.hashes, name, &version));
        // A generation says nothing of labels and annotations.
        current
            && (matches!(copy.version(), Version::Resource(_))
                || copy.marks.contain(&self.federated.marks(Cluster { name, labels: member.labels })))
    }

    /// A watch that is merely starting says nothing new; one that failed does.
    fn unsynced(&self, name: &str, why: Option<&str>) -> Step {
        if let Some(why) = why {
            let message = format!("objects of this type cannot be watched in the cluster: {why}");
            return Step::saying(name, Action::None, Word::CachedRetrievalFailed, message);
        }
        let before = self.federated.reported.as_ref().and_then(|reported| reported.cluster(name));
        match before {
            Some(before) => {
                Step { word: before.word, message: before.message, ..Step::new(name, Action::None) }
            }
            None => Step::saying(
                name,
                Action::None,
                Word::CachedRetrievalFailed,
                "the objects of the cluster are being read",
            ),
        }
    }
}

fn not_ready(name: &str) -> Step {
    Step::saying(
        name,
        Action::None,
        Word::ClusterNotReady,
        "the cluster is not ready; see the conditions of its KubeFedCluster",
    )
}

#[cfg(test)]
mod tests;
