//! What came of the work: the status to report, the versions to record, and whether the finalizer may go.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::plan::{Action, Goal, Step, Work};
use crate::status::{Availability, ClusterStatus, Propagation, Reason, Remote, Sight, Word};
use crate::version::{Hashes, Record, Version};

/// What became of a step that did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The copy is as it should be, at this version.
    Applied(Version),
    /// The copy was asked to go; it may still be there.
    Removing,
    /// There is no copy of ours.
    Gone,
    /// The member is away; that its copy is to go is written down on the host.
    Owed,
    /// It did not work.
    Failed(Failure),
}

/// A step that did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What is reported.
    pub word: Word,
    /// What happened and what to do.
    pub message: String,
    /// Whether the member may nevertheless have written something: it did not answer.
    pub maybe_written: bool,
    /// When trying again may help.
    pub retry: Retry,
}

/// When trying again may help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retry {
    /// Soon, and then ever later.
    #[default]
    Soon,
    /// Not before a pause that the member asked for.
    After(Duration),
    /// Not until something is changed.
    Late,
}

/// The status to report. `outcomes` has those of this pass and, for steps that were not taken now, the last failures; `sighting` says what
/// the members show of their copies.
pub fn status(
    generation: i64,
    work: &Work,
    outcomes: &BTreeMap<String, Outcome>,
    has_health: bool,
    sighting: impl Fn(&str) -> (Sight, Remote),
) -> Propagation {
    let cluster = |step: &Step| {
        let (word, message) = match outcomes.get(&step.member) {
            Some(Outcome::Failed(failure)) => (Some(failure.word), failure.message.clone()),
            Some(Outcome::Gone | Outcome::Owed) => return None,
            Some(Outcome::Removing) => {
                (Some(Word::WaitingForRemoval), "the object is being deleted in the cluster".to_owned())
            }
            _ if matches!(step.action, Action::Confirm | Action::Unlabel) => return None,
            _ => (step.word, step.message.clone()),
        };
        let mut reported = ClusterStatus { word, message, ..ClusterStatus::default() };
        if step.selected {
            let (sight, remote) = sighting(&step.member);
            reported.sight = Some(word.map_or(sight, undone));
            reported.remote = remote;
        }
        Some((step.member.clone(), reported))
    };
    let clusters: BTreeMap<_, _> = work.steps.iter().filter_map(cluster).collect();
    let unfinished = clusters.values().any(|cluster| cluster.word.is_some());
    let reason = work.reason.or(unfinished.then_some(Reason::CheckClusters));
    Propagation { generation, reason, clusters, has_health }
}

/// How a copy is that is not as it should be: what it does is not what it is there for.
fn undone(word: Word) -> Sight {
    match word {
        Word::ClusterNotReady => Sight::Seen(Availability::ClusterNotReady, "".into()),
        word => Sight::Seen(Availability::NotPropagated, crate::intern::intern(word.as_str())),
    }
}

/// The versions to record after the outcomes of one pass. Clusters that are no longer registered are forgotten; all others stay
/// until their copy is known to be gone.
pub fn record(
    before: Option<&Record>,
    hashes: &Hashes,
    outcomes: &BTreeMap<String, Outcome>,
    is_registered: impl Fn(&str) -> bool,
) -> Record {
    let mut record = before.cloned().unwrap_or_default().moved_to(hashes);
    record.clusters.retain(is_registered);
    for (name, outcome) in outcomes {
        match outcome {
            Outcome::Applied(version) => {
                record.clusters.insert(name.as_str().into(), version.clone());
            }
            Outcome::Gone | Outcome::Owed => {
                record.clusters.remove(name.as_str());
            }
            Outcome::Failed(failure) if failure.maybe_written => {
                record.clusters.insert(name.as_str().into(), Version::STALE);
            }
            Outcome::Removing | Outcome::Failed(_) => {}
        }
    }
    record
}

/// Whether the work is done so far that the finalizer may go: nothing of ours is left in any member it may have been in, or it is written
/// down that something may be.
pub fn releases(work: &Work, outcomes: &BTreeMap<String, Outcome>) -> bool {
    matches!(work.goal, Goal::Remove | Goal::Orphan)
        && work
            .steps
            .iter()
            .all(|step| matches!(outcomes.get(&step.member), Some(Outcome::Gone | Outcome::Owed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(member: &str, action: Action, word: Option<Word>) -> Step {
        Step { member: member.into(), action, word, message: String::new(), selected: true }
    }

    fn status(generation: i64, work: &Work, outcomes: &BTreeMap<String, Outcome>) -> Propagation {
        super::status(generation, work, outcomes, true, |_| (Sight::Unheard, Remote::NotCollected))
    }

    fn work(goal: Goal, steps: Vec<Step>) -> Work {
        Work { goal, steps, reason: None }
    }

    fn failed(maybe_written: bool) -> Outcome {
        Outcome::Failed(Failure {
            word: Word::CreationTimedOut,
            message: "m".into(),
            maybe_written,
            retry: Retry::Soon,
        })
    }

    fn outcomes<const N: usize>(of: [(&str, Outcome); N]) -> BTreeMap<String, Outcome> {
        of.map(|(name, outcome)| (name.to_owned(), outcome)).into()
    }

    fn hashes(template: &str) -> Hashes {
        Hashes { template: template.into(), ..Hashes::default() }
    }

    #[test]
    fn a_failure_in_one_member_is_reported_for_that_member() {
        let work =
            work(Goal::Propagate, vec![step("a", Action::Create, None), step("b", Action::Update, None)]);
        let status = status(
            3,
            &work,
            &outcomes([("a", failed(true)), ("b", Outcome::Applied(Version::Generation(1)))]),
        );
        assert_eq!(status.reason, Some(Reason::CheckClusters));
        assert_eq!(status.clusters["a"].word, Some(Word::CreationTimedOut));
        assert_eq!(status.clusters["b"].word, None);
    }

    #[test]
    fn a_removed_copy_leaves_the_status() {
        let steps = vec![
            step("a", Action::Confirm, None),
            step("b", Action::Delete, Some(Word::WaitingForRemoval)),
            step("c", Action::Unlabel, None),
        ];
        let status = status(
            1,
            &work(Goal::Propagate, steps),
            &outcomes([("a", Outcome::Gone), ("b", Outcome::Removing)]),
        );
        assert_eq!(status.clusters.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn the_finalizer_goes_when_every_copy_is_known_to_be_gone() {
        let steps =
            vec![step("a", Action::Confirm, None), step("b", Action::None, Some(Word::ClusterNotReady))];
        let work = work(Goal::Remove, steps);
        assert!(!releases(&work, &outcomes([("a", Outcome::Gone)])));
        assert!(!releases(&work, &outcomes([("a", Outcome::Gone), ("b", Outcome::Removing)])));
        assert!(releases(&work, &outcomes([("a", Outcome::Gone), ("b", Outcome::Gone)])));
        assert!(!releases(
            &Work { goal: Goal::Propagate, ..work },
            &outcomes([("a", Outcome::Gone), ("b", Outcome::Gone)])
        ));
    }

    #[test]
    fn a_cluster_stays_on_the_record_until_its_copy_is_gone() {
        let all = |_: &str| true;
        let first = record(
            None,
            &hashes("1"),
            &outcomes([
                ("a", Outcome::Applied(Version::Generation(1))),
                ("b", failed(true)),
                ("c", failed(false)),
            ]),
            all,
        );
        assert_eq!(first.status()["clusterVersions"].as_array().unwrap().len(), 2);
        let second = record(Some(&first), &hashes("2"), &outcomes([("a", Outcome::Removing)]), all);
        assert!(
            second.clusters.len() == 2
                && second.clusters.iter().all(|(_, version)| *version == Version::STALE)
        );
        let third = record(Some(&second), &hashes("2"), &outcomes([("a", Outcome::Gone)]), all);
        assert_eq!(third.clusters.len(), 1);
        assert!(record(Some(&third), &hashes("2"), &BTreeMap::new(), |_| false).clusters.is_empty());
    }
}
