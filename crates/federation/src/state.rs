//! What is remembered of an object between two looks at it: writes under way, failures and when to try again, and what a member
//! answered before its watch shows it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use crate::dispatch::Done;
use crate::plan::{Action, Copy, Observation};
use crate::report::{Failure, Outcome, Retry};
use crate::status::{Reported, Word};
use crate::version::Hashes;

/// The first pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause after a failure that only a change somewhere can mend.
const LATE: Duration = Duration::from_secs(300);
/// How long an answer is believed although the watch does not show it.
const BELIEF: Duration = Duration::from_secs(5);

/// One federated object.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) uid: String,
    pub(crate) members: BTreeMap<String, MemberState>,
    /// The status that was written, and the resourceVersion it made.
    pub(crate) reported: Option<(String, Reported)>,
    /// The resourceVersion that adding our finalizer made.
    pub(crate) held: Option<String>,
    /// Our finalizer was removed.
    pub(crate) released: bool,
    /// When it was first seen that it is being deleted.
    pub(crate) deleting: Option<Instant>,
}

impl State {
    /// Whether there is nothing in it that the host (the UID and resourceVersion it shows of the object now, if it shows one) and the
    /// members do not show as well.
    pub(crate) fn is_over(&mut self, shown: Option<(&str, &str)>, now: Instant) -> bool {
        match shown {
            Some((uid, _)) if !self.uid.is_empty() && uid != self.uid => {}
            Some((_, version)) => {
                self.held.take_if(|held| !is_older(version, held));
                self.reported.take_if(|(reported, _)| !is_older(version, reported));
                if self.held.is_some() || self.reported.is_some() || self.released || self.deleting.is_some()
                {
                    return false;
                }
            }
            None => {}
        }
        self.members.retain(|_, member| {
            member.assumed.take_if(|assumed| now >= assumed.until);
            !member.is_idle()
        });
        self.members.is_empty()
    }
}

/// One member's copy of it.
#[derive(Debug, Default)]
pub(crate) struct MemberState {
    pub(crate) in_flight: bool,
    pub(crate) done: Option<Finished>,
    failed: Option<Failed>,
    assumed: Option<Assumed>,
}

/// A step that came to its end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) action: Action,
    pub(crate) hashes: Hashes,
    pub(crate) basis: Basis,
    pub(crate) before: Option<String>,
    pub(crate) done: Done,
}

/// What a step was tried for; if it changes, trying again is worth while at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Basis {
    pub(crate) generation: i64,
    pub(crate) connection: u64,
    pub(crate) present: bool,
    /// Whether a copy that cannot be changed may be made anew.
    pub(crate) recreate: bool,
    /// The overrides that the member's labels choose.
    pub(crate) chosen: u64,
}

#[derive(Debug)]
struct Failed {
    failure: Failure,
    basis: Basis,
    attempts: u32,
    retry: Instant,
}

#[derive(Debug)]
struct Assumed {
    /// The resourceVersion that the watch showed when the step was taken.
    before: Option<String>,
    after: Observation,
    until: Instant,
}

impl MemberState {
    /// What to believe: what the watch shows, unless it still shows what was there before our last write.
    pub(crate) fn believe(&mut self, observed: Observation, now: Instant) -> Observation {
        let Some(assumed) = &self.assumed else { return observed };
        let shown = version(&observed);
        let stale = match (&shown, version(&assumed.after).flatten()) {
            (Some(Some(shown)), Some(after)) if is_older(shown, &after) => true,
            (Some(shown), _) => *shown == assumed.before,
            (None, _) => false,
        };
        if stale && now < assumed.until {
            return assumed.after.clone();
        }
        self.assumed = None;
        observed
    }

    /// The failure to report instead of trying, if it is too early to try again.
    pub(crate) fn holds_back(&self, basis: Basis, now: Instant) -> Option<&Failure> {
        self.failed
            .as_ref()
            .filter(|failed| failed.basis == basis && now < failed.retry)
            .map(|failed| &failed.failure)
    }

    /// When to try again.
    pub(crate) fn retry(&self) -> Option<Instant> {
        self.failed.as_ref().map(|failed| failed.retry)
    }

    /// Until when an answer is believed.
    pub(crate) fn believed_until(&self) -> Option<Instant> {
        self.assumed.as_ref().map(|assumed| assumed.until)
    }

    /// Notes how a step ended; `salt` spreads the next tries of many objects. Says whether a failure is news.
    pub(crate) fn conclude(&mut self, finished: &Finished, salt: &impl Hash, now: Instant) -> bool {
        // A write that changed nothing needs no belief: the watch shows it already.
        if let Some(after) =
            finished.done.copy.as_ref().filter(|after| version(after) != Some(finished.before.clone()))
        {
            self.assumed =
                Some(Assumed { before: finished.before.clone(), after: after.clone(), until: now + BELIEF });
        }
        let Outcome::Failed(failure) = &finished.done.outcome else {
            self.failed = None;
            return false;
        };
        let before = self.failed.take();
        let is_news = before.as_ref().is_none_or(|before| before.failure != *failure);
        let attempts =
            before.filter(|before| before.basis == finished.basis).map_or(0, |before| before.attempts + 1);
        let retry = now + pause(failure, attempts, salt);
        self.failed = Some(Failed { failure: failure.clone(), basis: finished.basis, attempts, retry });
        is_news
    }

    /// Forgets a failure that is no longer one.
    pub(crate) fn settle(&mut self) {
        self.failed = None;
    }

    /// Whether there is nothing to remember.
    pub(crate) fn is_idle(&self) -> bool {
        !self.in_flight && self.done.is_none() && self.failed.is_none() && self.assumed.is_none()
    }
}

/// The resourceVersion an observation shows; `None` if there is no observation at all.
pub(crate) fn version(observation: &Observation) -> Option<Option<String>> {
    match observation {
        Observation::Unsynced(_) => None,
        Observation::Absent => Some(None),
        Observation::Present(Copy { resource_version, .. }) => Some(Some(resource_version.clone())),
    }
}

/// Whether one resourceVersion is before another; those that are not numbers cannot be compared.
pub(crate) fn is_older(version: &str, than: &str) -> bool {
    matches!((version.parse::<u64>(), than.parse::<u64>()), (Ok(version), Ok(than)) if version < than)
}

fn pause(failure: &Failure, attempts: u32, salt: &impl Hash) -> Duration {
    let late = matches!(
        failure.word,
        Word::ManagedLabelFalse
            | Word::AlreadyExists
            | Word::ApplyOverridesFailed
            | Word::ComputeResourceFailed
    );
    if late || failure.retry == Retry::Late {
        return LATE;
    }
    let asked = match failure.retry {
        Retry::After(pause) => pause,
        Retry::Soon | Retry::Late => Duration::ZERO,
    };
    let pause = FIRST_PAUSE.saturating_mul(1 << attempts.min(16)).min(LONGEST_PAUSE);
    let mut hasher = DefaultHasher::new();
    (salt, attempts).hash(&mut hasher);
    let spread = hasher.finish() % 256;
    // Nobody comes before the time that was asked for, and not all at that time.
    asked + pause.mul_f64(0.9 + 0.2 * f64::from(u8::try_from(spread).unwrap_or_default()) / 256.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Version;
    use hansa_cluster::Marks;

    const BASIS: Basis = Basis { generation: 1, connection: 1, present: true, recreate: false, chosen: 0 };

    fn copy(version: &str) -> Observation {
        Observation::Present(Copy {
            uid: "u".into(),
            resource_version: version.into(),
            generation: 0,
            deleting: false,
            applied: true,
            marks: Marks::default(),
        })
    }

    fn finished(before: Option<&str>, outcome: Outcome, after: Option<Observation>) -> Finished {
        let done = Done { outcome, copy: after, recreated: false };
        Finished {
            action: Action::Update,
            hashes: Hashes::default(),
            basis: BASIS,
            before: before.map(str::to_owned),
            done,
        }
    }

    fn applied(before: Option<&str>, after: &str) -> Finished {
        finished(before, Outcome::Applied(Version::of(0, after)), Some(copy(after)))
    }

    fn failed(word: Word) -> Finished {
        failed_until(word, Retry::Soon)
    }

    fn failed_until(word: Word, retry: Retry) -> Finished {
        let failure = Failure { word, message: "m".into(), maybe_written: false, retry };
        finished(None, Outcome::Failed(failure), None)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_believed_until_the_watch_shows_something_new() {
        let (mut state, now) = (MemberState::default(), Instant::now());
        state.conclude(&applied(Some("1"), "2"), &"", now);
        assert_eq!(state.believe(copy("1"), now), copy("2"));
        assert_eq!(state.believe(copy("2"), now), copy("2"));
        assert_eq!(state.believe(copy("1"), now), copy("1"), "a belief that was confirmed is not held again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_host_and_members_show_need_not_be_remembered() {
        let now = Instant::now();
        let mut state = State { uid: "u".into(), held: Some("7".into()), ..State::default() };
        assert!(!state.is_over(Some(("u", "6")), now), "the host does not show the finalizer yet");
        assert!(state.is_over(Some(("u", "7")), now));
        state.members.entry("m".into()).or_default().conclude(&applied(None, "2"), &"", now);
        assert!(!state.is_over(Some(("u", "7")), now) && !state.is_over(None, now));
        assert!(state.is_over(None, now + BELIEF), "of a copy that never shows nothing is believed");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_not_believed_for_ever() {
        let (mut state, now) = (MemberState::default(), Instant::now());
        state.conclude(&applied(None, "2"), &"", now);
        assert_eq!(state.believe(Observation::Absent, now), copy("2"));
        assert_eq!(state.believe(Observation::Absent, now + BELIEF), Observation::Absent);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again_ever_later_and_at_once_when_something_changed() {
        let (mut state, now) = (MemberState::default(), Instant::now());
        let mut pauses = Vec::new();
        for attempt in 0..14 {
            assert_eq!(state.conclude(&failed(Word::CreationFailed), &"", now), attempt == 0);
            pauses.push(state.retry().unwrap() - now);
        }
        assert!(pauses.is_sorted_by(|a, b| a.as_secs_f64() * 0.99 <= b.as_secs_f64() * 1.25));
        assert!(
            pauses[0] < Duration::from_millis(150)
                && pauses[13] > Duration::from_secs(50)
                && pauses[13] < Duration::from_secs(70)
        );
        assert!(state.holds_back(BASIS, now).is_some());
        assert!(state.holds_back(Basis { generation: 2, ..BASIS }, now).is_none());
        assert!(state.holds_back(Basis { connection: 2, ..BASIS }, now).is_none());
        assert!(state.holds_back(BASIS, now + LONGEST_PAUSE * 2).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_only_a_change_can_mend_is_tried_late() {
        let (mut state, now) = (MemberState::default(), Instant::now());
        state.conclude(&failed(Word::ManagedLabelFalse), &"", now);
        assert_eq!(state.retry(), Some(now + LATE));
        state.settle();
        assert!(state.is_idle());
        state.conclude(&failed_until(Word::UpdateFailed, Retry::Late), &"", now);
        assert_eq!(state.retry(), Some(now + LATE));
        assert!(state.holds_back(Basis { recreate: true, ..BASIS }, now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_is_left_alone_for_as_long_as_it_asks() {
        let (mut state, now) = (MemberState::default(), Instant::now());
        let asked = Duration::from_secs(7);
        state.conclude(&failed_until(Word::CreationFailed, Retry::After(asked)), &"", now);
        let retry = state.retry().unwrap();
        assert!(retry > now + asked && retry < now + asked * 2);
    }
}
