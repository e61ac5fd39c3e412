//! The words of a federated object's status, and what is to be said in them (`spec/kubefed.md §1.8, §2.6`).
//!
//! KubeFed says one condition, `Propagation`, and one word per member. Beside them stand the conditions `Propagated` and `Available`, of the
//! object and of each member. What stands there already is [`crate::reported`]; what is to be written in its place, [`crate::conditions`].

use std::collections::BTreeMap;
use std::sync::Arc;

pub use crate::conditions::Written;
pub use crate::reported::Reported;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$word_doc])* $word),+ }

        impl $name {
            /// The word as the API has it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$word => stringify!($word)),+ }
            }

            /// Reads the word back; `None` for one that is not ours.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $(stringify!($word) => Some(Self::$word),)+ _ => None }
            }
        }
    };
}

words! {
    /// Why propagation as a whole is not done: the reason of the `Propagation` condition.
    Reason {
        /// See the members' entries.
        CheckClusters,
        /// The registered clusters could not be read.
        ClusterRetrievalFailed,
        /// `spec.placement` cannot be understood; nothing is changed anywhere.
        ComputePlacementFailed,
        /// There is no FederatedNamespace for the object's namespace.
        NamespaceNotFederated,
    }
}

words! {
    /// What is wrong, or still to do, in one member.
    Word {
        /// The copy was asked to go and is still there.
        WaitingForRemoval,
        /// The member does not answer or is not well.
        ClusterNotReady,
        /// The placement names a cluster that is not registered; KubeFed ignores such a name silently.
        ClusterNotFound,
        /// The member's objects of this type cannot be watched.
        CachedRetrievalFailed,
        /// The copy cannot be computed from the template.
        ComputeResourceFailed,
        /// The overrides of this member cannot be applied.
        ApplyOverridesFailed,
        /// The copy could not be created.
        CreationFailed,
        /// The copy could not be changed.
        UpdateFailed,
        /// The copy could not be deleted.
        DeletionFailed,
        /// The managed label could not be taken off.
        LabelRemovalFailed,
        /// The live object could not be read.
        RetrievalFailed,
        /// An object of that name exists and may not be adopted.
        AlreadyExists,
        /// What the member retains could not be read.
        FieldRetentionFailed,
        /// The recorded versions could not be read.
        VersionRetrievalFailed,
        /// There is no client for the member.
        ClientRetrievalFailed,
        /// The live object's label forbids adoption.
        ManagedLabelFalse,
        /// The member did not answer a creation in time.
        CreationTimedOut,
        /// The member did not answer a change in time.
        UpdateTimedOut,
        /// The member did not answer a deletion in time.
        DeletionTimedOut,
        /// The member did not answer the removal of the label in time.
        LabelRemovalTimedOut,
    }
}

words! {
    /// How the copy of one member is, and of the object as a whole: the reason of an `Available` condition.
    Availability {
        /// It does what it is there for.
        Available,
        /// It is on its way.
        Progressing,
        /// It says that it is not ready.
        NotReady,
        /// It says whether it is ready, and that it does not know.
        Undecided,
        /// It will not get there by itself.
        Failed,
        /// It is being deleted in the member.
        Terminating,
        /// It is not what the federated object says, so how it is means nothing.
        NotPropagated,
        /// The member has not shown how it is since it became what it should be.
        NotObserved,
        /// The member is not ready, so nobody knows.
        ClusterNotReady,
        /// There is no member for it to be available in.
        NoClusterSelected,
    }
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// `True`.
    True,
    /// `False`.
    False,
    /// `Unknown`.
    Unknown,
}

impl Truth {
    /// As the API has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }

    /// Reads it back.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::True, Self::False, Self::Unknown].into_iter().find(|truth| truth.as_str() == text)
    }
}

impl From<bool> for Truth {
    fn from(truth: bool) -> Self {
        if truth { Self::True } else { Self::False }
    }
}

impl Availability {
    /// The status of the condition.
    pub fn truth(self) -> Truth {
        match self {
            Self::Available => Truth::True,
            Self::Undecided | Self::NotObserved | Self::ClusterNotReady => Truth::Unknown,
            _ => Truth::False,
        }
    }
}

impl Reason {
    /// The same for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::CheckClusters => "some clusters are not done",
            Self::ClusterRetrievalFailed => "the registered clusters cannot be read",
            Self::ComputePlacementFailed => {
                "spec.placement cannot be understood; nothing is changed anywhere"
            }
            Self::NamespaceNotFederated => {
                "the namespace has no FederatedNamespace of the same name; create one"
            }
        }
    }
}

/// What is known of how a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Nothing at the moment: what was reported of the same generation still holds.
    Unheard,
    /// This, with what is missing.
    Seen(Availability, Arc<str>),
}

/// What is known of a copy's own status (`spec/kubefed.md §2.8`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Remote {
    /// It is not collected.
    #[default]
    NotCollected,
    /// Nothing at the moment: what was collected before still holds.
    Unheard,
    /// The copy has none, though objects of its type have one.
    Missing,
    /// This, or that it has none and needs none.
    Known(Option<RawStatus>),
}

/// A status as it is collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawStatus {
    /// Its JSON.
    pub json: Arc<[u8]>,
    /// Of what it says; never 0.
    pub hash: u64,
}

/// What is to be reported of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Nothing, if all is well.
    pub word: Option<Word>,
    /// What happened, for people; KubeFed has only the word.
    pub message: String,
    /// How the copy is; `None` of a member that is not selected and only being cleaned.
    pub sight: Option<Sight>,
    /// The status of the copy.
    pub remote: Remote,
}

/// What is to be reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Propagation {
    /// The generation that was worked on.
    pub generation: i64,
    /// Nothing, if propagation is done.
    pub reason: Option<Reason>,
    /// The selected members and those still being cleaned.
    pub clusters: BTreeMap<String, ClusterStatus>,
    /// Whether copies of this type say how they are; of others every one that is propagated is available, and no entry says so.
    pub has_health: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `spec/kubefed.md §1.8`: every status string of KubeFed's, and one of ours.
    #[test]
    fn words_are_spelled_as_kubefed_spells_them() {
        let words = [
            "WaitingForRemoval",
            "ClusterNotReady",
            "CachedRetrievalFailed",
            "ComputeResourceFailed",
            "ApplyOverridesFailed",
            "CreationFailed",
            "UpdateFailed",
            "DeletionFailed",
            "LabelRemovalFailed",
            "RetrievalFailed",
            "AlreadyExists",
            "FieldRetentionFailed",
            "VersionRetrievalFailed",
            "ClientRetrievalFailed",
            "ManagedLabelFalse",
            "CreationTimedOut",
            "UpdateTimedOut",
            "DeletionTimedOut",
            "LabelRemovalTimedOut",
            "ClusterNotFound",
        ];
        for word in words {
            assert_eq!(Word::parse(word).map(Word::as_str), Some(word));
        }
        for reason in
            ["CheckClusters", "ClusterRetrievalFailed", "ComputePlacementFailed", "NamespaceNotFederated"]
        {
            assert_eq!(Reason::parse(reason).map(Reason::as_str), Some(reason));
        }
    }
}
