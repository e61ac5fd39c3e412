//! What stands in the status of a federated object, as far as it matters for what is to be written: a few dozen bytes a member.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::collect::normal;
use crate::intern::intern;
use crate::status::{Availability, ClusterStatus, Reason, Truth, Word};

/// A moment, in whole seconds; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment(u32);

impl Moment {
    pub(crate) fn of(time: Timestamp) -> Self {
        Self(u32::try_from(time.as_second()).unwrap_or_default())
    }

    fn parse(value: &Value) -> Self {
        value.as_str().and_then(|time| time.parse().ok()).map(Self::of).unwrap_or_default()
    }

    /// This moment, or another if there is none.
    pub(crate) fn or(self, other: Self) -> Self {
        if self == Self::default() { other } else { self }
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Timestamp::from_second(self.0.into()).unwrap_or_default().fmt(f)
    }
}

/// A text that may be missing: a CRD of KubeFed's own prunes what it does not know.
pub(crate) type Text = Option<Arc<str>>;

/// The status that stands on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    pub(crate) generation: i64,
    /// The reason of the condition `Propagation` and when it moved; KubeFed's own condition.
    pub(crate) propagation: Option<(Option<Reason>, Moment)>,
    pub(crate) propagated: Option<Stated>,
    pub(crate) available: Option<Stated>,
    /// Sorted by name.
    pub(crate) clusters: Box<[ReportedCluster]>,
    /// The hash of each cluster's `remoteStatus`, 0 without one; empty if there are none.
    pub(crate) remotes: Box<[u64]>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stated {
    pub(crate) truth: Truth,
    pub(crate) reason: Text,
    pub(crate) message: Text,
    pub(crate) since: Moment,
}

/// The entry of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportedCluster {
    pub(crate) name: Arc<str>,
    /// Its message, and what is missing for it to be available.
    pub(crate) texts: Option<Box<(Text, Text)>>,
    pub(crate) propagated_since: Moment,
    pub(crate) available_since: Moment,
    pub(crate) word: Option<Word>,
    pub(crate) availability: Option<Availability>,
}

impl ReportedCluster {
    pub(crate) fn message(&self) -> Option<&str> {
        self.texts.as_ref().and_then(|texts| texts.0.as_deref())
    }

    pub(crate) fn detail(&self) -> Option<&str> {
        self.texts.as_ref().and_then(|texts| texts.1.as_deref())
    }

    fn parse(entry: &Value) -> Option<Self> {
        let word = match entry["status"].as_str().filter(|word| !word.is_empty()) {
            None => None,
            Some(word) => Some(Word::parse(word)?),
        };
        let [propagated, available] = ["Propagated", "Available"].map(|kind| find(entry, kind));
        let availability = match available["reason"].as_str() {
            None => None,
            Some(reason) => Some(Availability::parse(reason)?),
        };
        Some(Self {
            name: intern(entry["name"].as_str()?),
            texts: texts(text(&entry["message"]), text(&available["message"])),
            propagated_since: Moment::parse(&propagated["lastTransitionTime"]),
            available_since: Moment::parse(&available["lastTransitionTime"]),
            word,
            availability,
        })
    }
}

/// Two texts, if there is any.
pub(crate) fn texts(message: Text, detail: Text) -> Option<Box<(Text, Text)>> {
    (message.is_some() || detail.is_some()).then(|| Box::new((message, detail)))
}

/// A text that says something.
pub(crate) fn said(text: &str) -> Text {
    (!text.is_empty()).then(|| intern(text))
}

fn text(value: &Value) -> Text {
    value.as_str().and_then(said)
}

fn find<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

impl Reported {
    /// Reads the status of a federated object; `None` if there is none, or one that we would not have written.
    pub fn parse(object: &Value) -> Option<Self> {
        let status = &object["status"];
        status.as_object()?;
        let propagation = match find(status, "Propagation") {
            Value::Null => None,
            condition => {
                let reason = match condition["reason"].as_str().filter(|reason| !reason.is_empty()) {
                    None => None,
                    Some(reason) => Some(Reason::parse(reason)?),
                };
                // Written by us or by KubeFed, it is true if there is no reason why it is not.
                if Truth::parse(condition["status"].as_str()?)? != Truth::from(reason.is_none()) {
                    return None;
                }
                Some((reason, Moment::parse(&condition["lastTransitionTime"])))
            }
        };
        let stated = |kind: &str| {
            let condition = find(status, kind);
            Some(Stated {
                truth: Truth::parse(condition["status"].as_str()?)?,
                reason: text(&condition["reason"]),
                message: text(&condition["message"]),
                since: Moment::parse(&condition["lastTransitionTime"]),
            })
        };
        let entries = status["clusters"].as_array().map_or(&[][..], Vec::as_slice);
        let mut entries: Vec<&Value> = entries.iter().collect();
        entries.sort_by_key(|entry| entry["name"].as_str());
        let remotes = if entries.iter().any(|entry| entry["remoteStatus"].is_object()) {
            entries.iter().map(|entry| normal::hash_of(&entry["remoteStatus"])).collect()
        } else {
            Box::default()
        };
        Some(Self {
            generation: status["observedGeneration"].as_i64().unwrap_or_default(),
            propagation,
            propagated: stated("Propagated"),
            available: stated("Available"),
            clusters: entries.into_iter().map(ReportedCluster::parse).collect::<Option<_>>()?,
            remotes,
        })
    }

    /// The generation that is reported on.
    pub fn generation(&self) -> i64 {
        self.generation
    }

    /// The entry of a member.
    pub fn cluster(&self, name: &str) -> Option<ClusterStatus> {
        let entry = self.entry(name)?;
        let message = entry.message().unwrap_or_default().to_owned();
        Some(ClusterStatus { word: entry.word, message, ..ClusterStatus::default() })
    }

    /// The reason of the condition `Propagation`.
    pub fn reason(&self) -> Option<Reason> {
        self.propagation.as_ref().and_then(|(reason, _)| *reason)
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&ReportedCluster> {
        let place = self.clusters.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        self.clusters.get(place)
    }

    /// The hash of a member's `remoteStatus`, 0 without one.
    pub(crate) fn remote(&self, name: &str) -> u64 {
        let place = self.clusters.binary_search_by(|entry| (*entry.name).cmp(name));
        place.ok().and_then(|place| self.remotes.get(place)).copied().unwrap_or_default()
    }

    /// Whether the entries have lost the conditions that were written with those of the object: the CRD does not know them.
    pub(crate) fn is_pruned(&self) -> bool {
        self.propagated.is_some()
            && !self.clusters.is_empty()
            && self.clusters.iter().all(|entry| entry.propagated_since == Moment::default())
    }
}
