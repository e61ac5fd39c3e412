//! What a reading of a member comes to, for the schedule and for the user.

use std::collections::BTreeSet;
use std::time::Duration;

use super::read::Reading;
use super::schedule::Standing;

/// When to look again while Pods are without a node, but not for long enough to tell that there is no room (`spec/kubefed.md §2.10`), or
/// a member cannot be read.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// When to look again while some member has no room: it may have found some without its copy changing.
const LATER: Duration = Duration::from_secs(60);

/// Something that the user should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Note {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What came of a look.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) notes: BTreeSet<Note>,
    pub(super) again: Option<Duration>,
}

impl Outcome {
    pub(super) fn note(&mut self, reason: &'static str, message: String) {
        self.notes.insert(Note { reason, message });
    }

    pub(super) fn again(&mut self, delay: Duration) {
        self.again = self.again.into_iter().chain(Some(delay)).min();
    }
}

/// What a reading comes to: who cannot be seen is taken to run what it was told, and after `delay` of not being ready to be lost for the time
/// being. A member that is ready but does not let itself be read is never given up: what runs there, runs.
pub(super) fn standing(
    reading: &Reading,
    told: Option<i64>,
    capacity: Option<i64>,
    absence: Option<Duration>,
    delay: Duration,
) -> Option<Standing> {
    match reading {
        Reading::Absent => Some(Standing::Seen { current: None, capacity: None }),
        Reading::Counted { count, .. } => {
            Some(Standing::Seen { current: Some(count.current), capacity: count.capacity })
        }
        Reading::Unknown(_) => told.map(|planned| match absence {
            Some(absence) if absence >= delay => Standing::Lost { planned },
            _ => Standing::Away { planned, capacity },
        }),
    }
}

/// Says what of a member the user should know, and when to look again because of it.
pub(super) fn report(
    name: &str,
    reading: &Reading,
    is_ready: bool,
    standing: Option<Standing>,
    delay: Duration,
    outcome: &mut Outcome,
) {
    match (reading, standing) {
        (Reading::Counted { count, .. }, _) => {
            if count.undecided {
                outcome.again(SOON);
            }
            if let Some(capacity) = count.capacity {
                outcome.again(LATER);
                outcome.note("InsufficientCapacity", format!("cluster {name:?} has room for {capacity} replicas only"));
            }
        }
        (Reading::Unknown(why), Some(Standing::Away { planned, .. })) if is_ready => {
            outcome.again(SOON);
            outcome.note(
                "CountFailed",
                format!("the replicas in cluster {name:?} cannot be counted; it keeps the {planned} it was told to have: {why}"),
            );
        }
        (Reading::Unknown(_), Some(Standing::Away { planned, .. })) => outcome.note(
            "ClusterNotReady",
            format!("cluster {name:?} is not ready; it keeps its {planned} replicas for up to {delay:?}"),
        ),
        (Reading::Unknown(_), Some(Standing::Lost { planned })) => outcome.note(
            "ReplicasTakenOver",
            format!(
                "cluster {name:?} has not been ready for {delay:?}; others run its replicas, and whatever runs of its own {planned} is left \
                 alone until it is back"
            ),
        ),
        (Reading::Unknown(_), _) if is_ready => outcome.again(SOON),
        (Reading::Unknown(_) | Reading::Absent, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicas::capacity::Count;

    const DELAY: Duration = Duration::from_secs(60);

    fn counted(count: Count) -> Reading {
        Reading::Counted { version: "1".to_owned(), pods: true, count }
    }

    fn unknown() -> Reading {
        Reading::Unknown("it does not answer".to_owned())
    }

    #[test]
    fn a_member_that_can_be_read_is_seen() {
        let count = Count { current: 3, capacity: Some(4), undecided: false };
        let seen = Standing::Seen { current: Some(3), capacity: Some(4) };
        assert_eq!(standing(&counted(count), None, None, None, DELAY), Some(seen));
        let absent = Standing::Seen { current: None, capacity: None };
        assert_eq!(standing(&Reading::Absent, Some(5), Some(1), None, DELAY), Some(absent));
    }

    /// `spec/kubefed.md §6 (29)`
    #[test]
    fn a_member_is_lost_only_when_it_was_not_ready_for_long() {
        let standing = |told, absence: Option<u64>| {
            standing(&unknown(), told, Some(4), absence.map(Duration::from_secs), DELAY)
        };
        let away = Some(Standing::Away { planned: 5, capacity: Some(4) });
        assert_eq!(standing(Some(5), Some(59)), away);
        assert_eq!(standing(Some(5), Some(60)), Some(Standing::Lost { planned: 5 }));
        // Ready, but not to be read.
        assert_eq!(standing(Some(5), None), away);
        // Where nothing was told, nothing is to be kept.
        assert_eq!(standing(None, Some(0)), None);
    }

    /// `spec/kubefed.md §6 (22)`: KubeFed heeded only the last of its clusters.
    #[test]
    fn whichever_member_is_undecided_everything_is_looked_at_again() {
        let undecided = counted(Count { undecided: true, ..Count::default() });
        let full = counted(Count { capacity: Some(1), ..Count::default() });
        let fine = counted(Count::default());
        for (readings, again) in [
            ([&undecided, &fine, &fine], Some(SOON)),
            ([&full, &undecided, &fine], Some(SOON)),
            ([&full, &fine, &fine], Some(LATER)),
            ([&fine, &fine, &fine], None),
        ] {
            let mut outcome = Outcome::default();
            for reading in readings {
                let standing = standing(reading, None, None, None, DELAY);
                report("m1", reading, true, standing, DELAY, &mut outcome);
            }
            assert_eq!(outcome.again, again);
        }
    }

    #[test]
    fn a_ready_member_that_cannot_be_read_is_asked_again_whether_it_was_told_anything_or_not() {
        for told in [None, Some(2)] {
            let mut outcome = Outcome::default();
            let standing = standing(&unknown(), told, None, None, DELAY);
            report("m1", &unknown(), true, standing, DELAY, &mut outcome);
            assert_eq!((outcome.again, outcome.notes.len()), (Some(SOON), told.iter().count()));
        }
    }
}
