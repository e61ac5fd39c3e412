//! The status of a federated object: one condition, and one word per member (`spec/kubefed.md §1.8, §2.6`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// What is to be reported of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Nothing, if all is well.
    pub word: Option<Word>,
    /// What happened, for people; KubeFed has only the word.
    pub message: String,
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
}

/// What stands in the status of a federated object, as far as it matters for what is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    generation: i64,
    condition: Option<Condition>,
    /// Sorted by name.
    clusters: Box<[ReportedCluster]>,
}

/// Name, word and message of one member.
type ReportedCluster = (Arc<str>, Option<Word>, Option<Box<str>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    status: bool,
    reason: Option<Reason>,
    updated: Option<Timestamp>,
    transitioned: Option<Timestamp>,
}

impl Reported {
    /// Reads the status of a federated object; anything that we would not have written reads as something to overwrite.
    pub fn parse(federated: &Value) -> Option<Self> {
        let status = federated.get("status")?;
        let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let time = |value: &Value| value.as_str()?.parse().ok();
        let condition =
            conditions.iter().find(|condition| condition["type"] == "Propagation").and_then(|condition| {
                let reason = condition["reason"].as_str().filter(|reason| !reason.is_empty());
                Some(Condition {
                    status: condition["status"] == "True",
                    reason: match reason {
                        None => None,
                        Some(reason) => Some(Reason::parse(reason)?),
                    },
                    updated: time(&condition["lastUpdateTime"]),
                    transitioned: time(&condition["lastTransitionTime"]),
                })
            });
        let mut clusters = Vec::new();
        for entry in status["clusters"].as_array().into_iter().flatten() {
            let word = match entry["status"].as_str().filter(|word| !word.is_empty()) {
                None => None,
                Some(word) => Some(Word::parse(word)?),
            };
            clusters.push((entry["name"].as_str()?.into(), word, entry["message"].as_str().map(Into::into)));
        }
        clusters.sort();
        let generation = status["observedGeneration"].as_i64().unwrap_or_default();
        Some(Self { generation, condition, clusters: clusters.into() })
    }

    /// The entry of a member.
    pub fn cluster(&self, name: &str) -> Option<ClusterStatus> {
        let (_, word, message) = self.clusters.iter().find(|(cluster, ..)| &**cluster == name)?;
        Some(ClusterStatus { word: *word, message: message.as_deref().unwrap_or_default().to_owned() })
    }

    /// The reason of the condition.
    pub fn reason(&self) -> Option<Reason> {
        self.condition.as_ref().and_then(|condition| condition.reason)
    }

    /// Whether this says of the members what `wanted` does. A message that is missing where a word is present was pruned by a CRD
    /// of KubeFed's own, which does not know messages: that is no difference, or it would be one for ever.
    fn same_clusters(&self, wanted: &Propagation) -> bool {
        self.clusters.len() == wanted.clusters.len()
            && self.clusters.iter().zip(&wanted.clusters).all(
                |((name, word, message), (wanted_name, wanted))| {
                    let same_message = message.as_deref().is_none_or(|message| *message == wanted.message);
                    **name == **wanted_name && *word == wanted.word && same_message
                },
            )
    }
}

impl Propagation {
    /// The status to write in place of `reported`, and what it reads as afterwards; `None` if that says it already.
    pub fn over(&self, reported: Option<&Reported>, now: Timestamp) -> Option<(Value, Reported)> {
        let old = reported.and_then(|reported| reported.condition.as_ref());
        let ok = self.reason.is_none();
        let same_condition = old.is_some_and(|old| old.status == ok && old.reason == self.reason);
        let same = reported.is_some_and(|old| old.generation == self.generation && old.same_clusters(self));
        if same && same_condition {
            return None;
        }
        let now = now.round(jiff::Unit::Second).unwrap_or(now);
        let transitioned = old.filter(|_| same_condition).and_then(|old| old.transitioned).unwrap_or(now);
        let mut condition = json!({
            "type": "Propagation", "status": if ok { "True" } else { "False" },
            "lastUpdateTime": now.to_string(), "lastTransitionTime": transitioned.to_string(),
        });
        if let Some(reason) = self.reason {
            condition["reason"] = reason.as_str().into();
        }
        let clusters = self.clusters.iter().map(|(name, cluster)| {
            let mut entry = json!({ "name": name });
            if let Some(word) = cluster.word {
                entry["status"] = word.as_str().into();
            }
            if !cluster.message.is_empty() {
                entry["message"] = cluster.message.as_str().into();
            }
            entry
        });
        let status = json!({
            "observedGeneration": self.generation,
            "conditions": [condition],
            "clusters": clusters.collect::<Vec<_>>(),
        });
        let text =
            |cluster: &ClusterStatus| (!cluster.message.is_empty()).then(|| cluster.message.as_str().into());
        let clusters =
            self.clusters.iter().map(|(name, cluster)| (name.as_str().into(), cluster.word, text(cluster)));
        let condition = Condition {
            status: ok,
            reason: self.reason,
            updated: Some(now),
            transitioned: Some(transitioned),
        };
        let reported = Reported {
            generation: self.generation,
            condition: Some(condition),
            clusters: clusters.collect(),
        };
        Some((status, reported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn wanted(words: &[(&str, Option<Word>)]) -> Propagation {
        let clusters = words.iter().map(|(name, word)| {
            (
                (*name).to_owned(),
                ClusterStatus {
                    word: *word,
                    message: word.map_or(String::new(), |w| format!("it is {w:?}")),
                },
            )
        });
        let reason = words.iter().any(|(_, word)| word.is_some()).then_some(Reason::CheckClusters);
        Propagation { generation: 2, reason, clusters: clusters.collect() }
    }

    fn written(wanted: &Propagation, over: Option<&Value>, second: i64) -> Option<Value> {
        let reported = over.and_then(Reported::parse);
        let (status, reads_as) = wanted.over(reported.as_ref(), at(second))?;
        let object = json!({ "status": status });
        assert_eq!(Reported::parse(&object).as_ref(), Some(&reads_as));
        Some(object)
    }

    #[test]
    fn a_first_status_is_written_sorted_and_without_words_where_all_is_well() {
        let status = written(&wanted(&[("b", None), ("a", Some(Word::CreationFailed))]), None, 0).unwrap();
        assert_eq!(
            status["status"],
            json!({
                "observedGeneration": 2,
                "conditions": [{
                    "type": "Propagation", "status": "False", "reason": "CheckClusters",
                    "lastUpdateTime": "2023-11-14T22:13:20Z", "lastTransitionTime": "2023-11-14T22:13:20Z",
                }],
                "clusters": [{"name": "a", "status": "CreationFailed", "message": "it is CreationFailed"}, {"name": "b"}],
            })
        );
    }

    #[test]
    fn what_is_already_said_is_not_written_again() {
        let wanted = wanted(&[("a", Some(Word::CreationFailed)), ("b", None)]);
        let first = written(&wanted, None, 0).unwrap();
        assert_eq!(written(&wanted, Some(&first), 9), None);
    }

    #[test]
    fn a_pruned_message_is_no_difference() {
        let wanted = wanted(&[("a", Some(Word::CreationFailed))]);
        let mut first = written(&wanted, None, 0).unwrap();
        first["status"]["clusters"][0].as_object_mut().unwrap().remove("message");
        assert_eq!(written(&wanted, Some(&first), 9), None);
    }

    #[test]
    fn the_transition_time_moves_with_the_condition_only() {
        let first = written(&wanted(&[("a", None)]), None, 0).unwrap();
        let second = written(&wanted(&[("a", None), ("b", None)]), Some(&first), 5).unwrap();
        let condition = &second["status"]["conditions"][0];
        assert_eq!(
            (&condition["lastTransitionTime"], &condition["lastUpdateTime"]),
            (&json!("2023-11-14T22:13:20Z"), &json!("2023-11-14T22:13:25Z"))
        );
        let third = written(&wanted(&[("a", Some(Word::UpdateFailed))]), Some(&second), 7).unwrap();
        assert_eq!(third["status"]["conditions"][0]["lastTransitionTime"], "2023-11-14T22:13:27Z");
    }

    #[test]
    fn a_new_generation_is_reported() {
        let first = written(&wanted(&[("a", None)]), None, 0).unwrap();
        assert!(written(&Propagation { generation: 3, ..wanted(&[("a", None)]) }, Some(&first), 1).is_some());
    }

    #[test]
    fn foreign_words_are_overwritten() {
        let mut first = written(&wanted(&[("a", None)]), None, 0).unwrap();
        first["status"]["clusters"][0]["status"] = "Sideways".into();
        assert!(written(&wanted(&[("a", None)]), Some(&first), 1).is_some());
    }

    #[test]
    fn words_are_spelled_as_kubefed_spells_them() {
        for word in ["WaitingForRemoval", "ManagedLabelFalse", "LabelRemovalTimedOut", "ApplyOverridesFailed"]
        {
            assert_eq!(Word::parse(word).map(Word::as_str), Some(word));
        }
    }
}
