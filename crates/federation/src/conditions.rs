//! The status to write in place of the one that stands there, if it does not say the same already.
//!
//! What is not known at the moment, because the control plane has just started or a member is away, is left as it was said of the same
//! generation; of an older generation nothing is left. What a CRD of KubeFed's own has pruned is no difference, or it would be one for ever.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::reported::{Moment, Reported, ReportedCluster, Stated, Text, said, texts};
use crate::status::{Availability, ClusterStatus, Propagation, Reason, Remote, Sight, Truth};

/// How many clusters a condition's message names.
const NAMED: usize = 3;
/// How much of a cluster's message it takes.
const EXCERPT: usize = 200;

/// A status that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The status.
    pub status: Value,
    /// What it reads as.
    pub reads_as: Reported,
    /// Whether it says anything of propagation that was not said before; if not, only how the copies are has changed, and that can wait a moment.
    pub urgent: bool,
    /// The members whose `remoteStatus` has to be copied from what stands there.
    pub keeps: Vec<String>,
}

impl Written {
    /// Copies what is kept from the object as it stands on the host.
    pub fn keep(&mut self, live: &Value) {
        let entries = self.status["clusters"].as_array_mut().map_or(&mut [][..], Vec::as_mut_slice);
        for entry in
            entries.iter_mut().filter(|entry| self.keeps.iter().any(|name| entry["name"] == name.as_str()))
        {
            let former = live["status"]["clusters"].as_array().map_or(&[][..], Vec::as_slice);
            if let Some(former) = former.iter().find(|former| former["name"] == entry["name"])
                && former["remoteStatus"].is_object()
            {
                entry["remoteStatus"] = former["remoteStatus"].clone();
            }
        }
    }
}

/// What is to be said of one member, after what is not known has been filled in.
struct Entry<'a> {
    name: &'a str,
    wanted: &'a ClusterStatus,
    former: Option<&'a ReportedCluster>,
    /// How the copy is; `None` of a member that is only being cleaned, or if neither we nor the status that stands there can tell.
    availability: Option<Availability>,
    detail: Text,
    remote: u64,
}

impl Propagation {
    /// The status to write in place of `reported`; `None` if that says it already.
    pub fn over(&self, reported: Option<&Reported>, now: Timestamp) -> Option<Written> {
        let now = Moment::of(now);
        let entries: Vec<Entry<'_>> =
            self.clusters.iter().map(|(name, wanted)| self.resolve(name, wanted, reported)).collect();
        let was_whole = reported.is_some_and(|old| {
            old.generation == self.generation && old.propagation.is_some() && old.reason().is_none()
        });
        let lacks_remote = entries.iter().any(|entry| entry.lacks_remote(was_whole));
        let reason = self.reason.or(lacks_remote.then_some(Reason::CheckClusters));
        let propagated = self.propagated();
        let available = self.available(&entries, reported);
        if let Some(old) = reported
            && old.generation == self.generation
            && old.propagation.as_ref().is_some_and(|(former, _)| *former == reason)
            && is_said(old.propagated.as_ref(), &propagated)
            && is_said(old.available.as_ref(), &available)
            && self.are_said(old, &entries)
        {
            return None;
        }
        Some(self.written(&entries, reason, propagated, available, reported, now))
    }

    fn resolve<'a>(
        &self,
        name: &'a str,
        wanted: &'a ClusterStatus,
        reported: Option<&'a Reported>,
    ) -> Entry<'a> {
        let former = reported.and_then(|reported| reported.entry(name));
        let is_same_generation = reported.is_some_and(|reported| reported.generation == self.generation);
        let (availability, detail) = match &wanted.sight {
            None => (None, None),
            Some(Sight::Seen(availability, detail)) => (Some(*availability), said(detail)),
            Some(Sight::Unheard) if is_same_generation && former.is_some() => {
                let detail = former.and_then(ReportedCluster::detail).and_then(said);
                (former.and_then(|former| former.availability), detail)
            }
            Some(Sight::Unheard) => (Some(Availability::NotObserved), None),
        };
        let remote = match &wanted.remote {
            Remote::NotCollected | Remote::Missing | Remote::Known(None) => 0,
            Remote::Known(Some(status)) => status.hash,
            Remote::Unheard => reported.map_or(0, |reported| reported.remote(name)),
        };
        Entry { name, wanted, former, availability, detail, remote }
    }

    /// True when the generation is everywhere.
    fn propagated(&self) -> Stated {
        let count = self.clusters.len();
        let undone: Vec<_> = self.clusters.iter().filter(|(_, cluster)| cluster.word.is_some()).collect();
        let message = match self.reason {
            None if count == 0 => "no cluster is selected".to_owned(),
            None => format!("propagated to {}", clusters(count)),
            Some(Reason::CheckClusters) => {
                let said = undone.iter().map(|(name, cluster)| {
                    let word = cluster.word.map_or("", crate::status::Word::as_str);
                    (name.as_str(), word, cluster.message.as_str())
                });
                format!("{} of {} not done: {}", undone.len(), clusters_are(count), first(said, undone.len()))
            }
            Some(reason) => reason.text().to_owned(),
        };
        let reason = self.reason.map_or("Propagated", Reason::as_str);
        stated(Truth::from(self.reason.is_none()), reason, &message)
    }

    /// True when it is available in each selected member.
    fn available(&self, entries: &[Entry<'_>], reported: Option<&Reported>) -> Stated {
        let selected: Vec<_> = entries.iter().filter(|entry| entry.wanted.sight.is_some()).collect();
        let known = selected.iter().filter_map(|entry| Some((*entry, entry.availability?)));
        let known: Vec<_> = known.collect();
        if known.len() < selected.len() {
            // Some are as they were, and only the object as a whole remembers how that was.
            if let Some(former) = reported.and_then(|reported| reported.available.clone()) {
                return former;
            }
        }
        let missing: Vec<_> = known.iter().filter(|(_, found)| *found != Availability::Available).collect();
        if selected.is_empty() {
            let message = self.reason.map_or("no cluster is selected", Reason::text);
            return stated(Truth::False, Availability::NoClusterSelected.as_str(), message);
        }
        let available = known.len() - missing.len();
        // False outweighs Unknown: something is known to be missing.
        let worst = missing.iter().find(|(_, found)| found.truth() == Truth::False).or(missing.first());
        let Some((_, worst)) = worst else {
            let message = format!("available in {}", clusters(available));
            return stated(Truth::True, Availability::Available.as_str(), &message);
        };
        let said = missing
            .iter()
            .map(|(entry, found)| (entry.name, found.as_str(), entry.detail.as_deref().unwrap_or_default()));
        let said = first(said, missing.len());
        let message = format!("available in {available} of {}: {said}", clusters(selected.len()));
        stated(worst.truth(), worst.as_str(), &message)
    }

    /// Whether the status that stands there says of the members what is to be said.
    fn are_said(&self, old: &Reported, entries: &[Entry<'_>]) -> bool {
        let is_pruned = old.is_pruned();
        old.clusters.len() == entries.len()
            && old.clusters.iter().zip(entries).all(|(former, entry)| {
                *former.name == *entry.name
                    && former.word == entry.wanted.word
                    && former.message().is_none_or(|message| *message == entry.wanted.message)
                    && (is_pruned || !self.has_health || former.availability == entry.availability)
                    && former.detail().is_none_or(|detail| Some(detail) == entry.detail.as_deref())
                    && old.remote(&former.name) == entry.remote
            })
    }

    fn written(
        &self,
        entries: &[Entry<'_>],
        reason: Option<Reason>,
        mut propagated: Stated,
        mut available: Stated,
        reported: Option<&Reported>,
        now: Moment,
    ) -> Written {
        let is_urgent = reported.is_none_or(|old| {
            let words = |old: &Reported| {
                old.clusters
                    .iter()
                    .map(|entry| (&*entry.name, entry.word))
                    .eq(entries.iter().map(|entry| (entry.name, entry.wanted.word)))
            };
            old.generation != self.generation
                || old.reason() != reason
                || !is_said(old.propagated.as_ref(), &propagated)
                || old.available.is_none()
                || !words(old)
        });
        let since = |old: Option<&Stated>, new: &Stated| {
            old.filter(|old| old.truth == new.truth).map(|old| old.since).unwrap_or_default().or(now)
        };
        propagated.since = since(reported.and_then(|old| old.propagated.as_ref()), &propagated);
        available.since = since(reported.and_then(|old| old.available.as_ref()), &available);
        let old = reported.and_then(|old| old.propagation.as_ref());
        let moved =
            old.filter(|(old, _)| *old == reason).map(|(_, since)| *since).unwrap_or_default().or(now);
        let mut propagation = json!({
            "type": "Propagation", "status": Truth::from(reason.is_none()).as_str(),
            "lastUpdateTime": now.to_string(), "lastTransitionTime": moved.to_string(),
        });
        if let Some(reason) = reason {
            propagation["reason"] = reason.as_str().into();
        }
        let reads_as: Box<[ReportedCluster]> =
            entries.iter().map(|entry| entry.reads_as(self.has_health, now)).collect();
        let clusters: Vec<Value> =
            entries.iter().zip(&reads_as).map(|(entry, reads_as)| entry.json(reads_as)).collect();
        let condition = |kind: &str, stated: &Stated| {
            json!({
                "type": kind, "status": stated.truth.as_str(), "reason": stated.reason.as_deref(), "message": stated.message.as_deref(),
                "observedGeneration": self.generation, "lastTransitionTime": stated.since.to_string(),
            })
        };
        let status = json!({
            "observedGeneration": self.generation,
            "conditions": [propagation, condition("Propagated", &propagated), condition("Available", &available)],
            "clusters": clusters,
        });
        let has_remotes = entries.iter().any(|entry| entry.remote != 0);
        let reads_as = Reported {
            generation: self.generation,
            propagation: Some((reason, moved)),
            propagated: Some(propagated),
            available: Some(available),
            clusters: reads_as,
            remotes: entries.iter().filter(|_| has_remotes).map(|entry| entry.remote).collect(),
        };
        let keeps =
            entries.iter().filter(|entry| entry.wanted.remote == Remote::Unheard && entry.remote != 0);
        let keeps = keeps.map(|entry| entry.name.to_owned()).collect();
        Written { status, reads_as, urgent: is_urgent, keeps }
    }
}

impl Entry<'_> {
    /// Whether a member that is to have a copy shows no status of it, though there should be one. Of one that shows nothing at the moment that is
    /// so unless nothing was missing before.
    fn lacks_remote(&self, was_whole: bool) -> bool {
        let is_due = self.wanted.sight.is_some() && self.wanted.word.is_none() && self.remote == 0;
        match self.wanted.remote {
            Remote::Missing => is_due,
            Remote::Unheard => is_due && !was_whole,
            Remote::NotCollected | Remote::Known(_) => false,
        }
    }

    fn reads_as(&self, has_health: bool, now: Moment) -> ReportedCluster {
        let (word, availability) = (self.wanted.word, self.availability.filter(|_| has_health));
        let propagated = self.former.filter(|former| former.word.is_none() == word.is_none());
        let available = self.former.filter(|former| {
            former.availability.map(Availability::truth) == availability.map(Availability::truth)
        });
        ReportedCluster {
            name: crate::intern::intern(self.name),
            texts: texts(said(&self.wanted.message), self.detail.clone().filter(|_| availability.is_some())),
            propagated_since: propagated.map(|former| former.propagated_since).unwrap_or_default().or(now),
            available_since: match availability {
                Some(_) => available.map(|former| former.available_since).unwrap_or_default().or(now),
                None => Moment::default(),
            },
            word,
            availability,
        }
    }

    fn json(&self, reads_as: &ReportedCluster) -> Value {
        let mut entry = json!({ "name": self.name });
        let mut propagated = json!({
            "type": "Propagated", "status": Truth::from(reads_as.word.is_none()).as_str(),
            "lastTransitionTime": reads_as.propagated_since.to_string(),
        });
        if let Some(word) = reads_as.word {
            entry["status"] = word.as_str().into();
            propagated["reason"] = word.as_str().into();
        }
        if let Some(message) = reads_as.message() {
            entry["message"] = message.into();
            propagated["message"] = message.into();
        }
        let mut conditions = vec![propagated];
        if let Some(availability) = reads_as.availability {
            let mut available = json!({
                "type": "Available", "status": availability.truth().as_str(), "reason": availability.as_str(),
                "lastTransitionTime": reads_as.available_since.to_string(),
            });
            if let Some(detail) = reads_as.detail() {
                available["message"] = detail.into();
            }
            conditions.push(available);
        }
        entry["conditions"] = conditions.into();
        if let Remote::Known(Some(status)) = &self.wanted.remote
            && let Ok(status) = serde_json::from_slice(&status.json)
        {
            entry["remoteStatus"] = status;
        }
        entry
    }
}

/// Whether a condition that stands there says what is to be said.
fn is_said(old: Option<&Stated>, new: &Stated) -> bool {
    old.is_some_and(|old| {
        old.truth == new.truth
            && old.reason == new.reason
            && (old.message.is_none() || old.message == new.message)
    })
}

fn stated(truth: Truth, reason: &str, message: &str) -> Stated {
    Stated { truth, reason: said(reason), message: said(message), since: Moment::default() }
}

fn clusters(count: usize) -> String {
    if count == 1 { "1 cluster".to_owned() } else { format!("{count} clusters") }
}

fn clusters_are(count: usize) -> String {
    if count == 1 { "1 cluster is".to_owned() } else { format!("{count} clusters are") }
}

/// What is said of the first few of `count` clusters.
fn first<'a>(said: impl Iterator<Item = (&'a str, &'a str, &'a str)>, count: usize) -> String {
    let mut parts: Vec<String> = said
        .take(NAMED)
        .map(|(name, word, text)| {
            let text: String = text.chars().take(EXCERPT).collect();
            if text.is_empty() { format!("{name}: {word}") } else { format!("{name}: {word}: {text}") }
        })
        .collect();
    if count > NAMED {
        parts.push(format!("and {} more", count - NAMED));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests;
