//! Leader election by a lock object, with client-go's timing and records (`spec/kubefed.md §2.1`).
//!
//! Whether a lock has run out is judged by how long it has been seen unchanged, by our own clock: the clocks of two machines are never
//! compared. Whoever loses the lease is told by a cancelled token before anybody else can have it.

use std::time::Duration;

use hansa_api::kubefed::ResourceLock;
use hansa_api::settings::Settings;
use hansa_transport::explain;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock::{Lock, Record};

/// How long giving the lock back may take: whoever ends does not wait for a host that hangs.
const RELEASE: Duration = Duration::from_secs(3);

/// A lock holds at least so long: the record in an annotation tells whole seconds, so that a renewal within one is not seen.
const FINEST: Duration = Duration::from_secs(2);

/// One candidate for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The kind of object that is the lock.
    pub lock: ResourceLock,
    /// The namespace of the lock.
    pub namespace: String,
    /// The name of the lock.
    pub name: String,
    /// Who we are; no two candidates may say the same.
    pub identity: String,
    /// How long a lease holds without being renewed.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up; shorter than the lease holds.
    pub renew_deadline: Duration,
    /// The pause between two tries.
    pub retry_period: Duration,
}

impl Candidate {
    /// A candidate for the controllers' lock, with the timing of a KubeFedConfig.
    pub fn new(identity: impl Into<String>, settings: &Settings) -> Self {
        Self {
            lock: settings.resource_lock,
            namespace: hansa_api::names::SYSTEM_NAMESPACE.to_owned(),
            name: "kubefed-controller-manager".to_owned(),
            identity: identity.into(),
            lease_duration: settings.lease_duration,
            renew_deadline: settings.renew_deadline,
            retry_period: settings.retry_period,
        }
    }
}

/// What to do about a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Create,
    /// It is ours, or nobody's, or has run out.
    Write,
    /// Somebody else has it.
    Wait,
}

/// What was seen of the lock of another, and since when it has not changed.
#[derive(Clone, Debug, PartialEq)]
struct Sight {
    raw: String,
    since: Instant,
}

/// The times in a record are of somebody else's clock and are not looked at. The longer of both durations counts, so that whoever was configured
/// otherwise has its time.
fn decide(lock: Option<(&Record, &str)>, sight: Option<&Sight>, candidate: &Candidate, now: Instant) -> Step {
    let Some((record, raw)) = lock else { return Step::Create };
    if record.holder_identity.is_empty() || record.holder_identity == candidate.identity {
        return Step::Write;
    }
    let said = u64::try_from(record.lease_duration_seconds).unwrap_or_default();
    let holds = Duration::from_secs(said).max(candidate.lease_duration).max(FINEST);
    match sight {
        Some(sight) if sight.raw == raw && now.saturating_duration_since(sight.since) >= holds => Step::Write,
        _ => Step::Wait,
    }
}

/// The record that we write: with the time of acquisition, and the count of changes of hand, as client-go keeps them.
fn claim(former: Option<&Record>, candidate: &Candidate, now: Timestamp) -> Record {
    let ours = former.filter(|former| former.holder_identity == candidate.identity);
    let transitions = former.map(|former| former.leader_transitions).unwrap_or_default();
    Record {
        holder_identity: candidate.identity.clone(),
        lease_duration_seconds: i32::try_from(candidate.lease_duration.as_secs().max(1)).unwrap_or(i32::MAX),
        acquire_time: ours.and_then(|ours| ours.acquire_time).or(Some(now)),
        renew_time: Some(now),
        leader_transitions: if former.is_some() && ours.is_none() {
            transitions.saturating_add(1)
        } else {
            transitions
        },
    }
}

/// Waits until `candidate` leads, and runs `work` for as long as it does. The token that `work` gets is cancelled when the lease is lost or
/// `stop` is; `work` must end soon after. Returns whether the lease was lost.
pub async fn lead<W, F>(client: Client, candidate: Candidate, stop: CancellationToken, work: W) -> bool
where
    W: FnOnce(CancellationToken) -> F,
    F: Future<Output = ()>,
{
    let lock = Lock::new(client, candidate.lock, &candidate.namespace, &candidate.name);
    let Some(since) = stop.run_until_cancelled(acquire(&lock, &candidate)).await else { return false };
    tracing::info!(identity = %candidate.identity, "promoted as leader");
    let term = stop.child_token();
    let fence = term.clone();
    let lost = async {
        let lost = fence.run_until_cancelled(hold(&lock, &candidate, since)).await.is_some();
        fence.cancel();
        lost
    };
    let ended = async {
        work(term.clone()).await;
        term.cancel();
    };
    let (lost, ()) = tokio::join!(lost, ended);
    if lost {
        tracing::error!(identity = %candidate.identity, "the lease was lost; this process leads no longer");
    } else {
        match tokio::time::timeout(RELEASE, release(&lock, &candidate)).await {
            Ok(Ok(())) => tracing::info!(identity = %candidate.identity, "the lock was given back"),
            _ => {
                tracing::info!("the lock could not be given back; the next leader waits until it has run out")
            }
        }
    }
    lost
}

/// Runs [`lead`] beside `leads`, which says at any time whether this process leads.
pub async fn announce(leads: &watch::Sender<bool>, term: CancellationToken) {
    leads.send_replace(true);
    term.cancelled().await;
    leads.send_replace(false);
}

/// Tries until the lock is had; returns when the try began that got it.
async fn acquire(lock: &Lock, candidate: &Candidate) -> Instant {
    let mut sight: Option<Sight> = None;
    let mut complaint = String::new();
    let mut complain = |text: String| {
        if text != complaint {
            tracing::warn!(
                "the leader's lock cannot be had: {text}; trying again every {:?}",
                candidate.retry_period
            );
            complaint = text;
        }
    };
    loop {
        let began = Instant::now();
        // What came back later than this may have run out meanwhile.
        match tokio::time::timeout(candidate.renew_deadline, attempt(lock, candidate, &mut sight)).await {
            Ok(Ok(Attempt::Ours)) => return began,
            Ok(Ok(Attempt::Theirs | Attempt::Raced)) => {}
            Ok(Err(error)) => complain(explain(&error)),
            Err(_) => complain(format!("the host did not answer within {:?}", candidate.renew_deadline)),
        }
        tokio::time::sleep(candidate.retry_period).await;
    }
}

/// Renews until the deadline passes without success.
async fn hold(lock: &Lock, candidate: &Candidate, mut renewed: Instant) {
    loop {
        let deadline = renewed + candidate.renew_deadline;
        tokio::time::sleep_until(deadline.min(Instant::now() + candidate.retry_period)).await;
        let began = Instant::now();
        match tokio::time::timeout_at(deadline, attempt(lock, candidate, &mut None)).await {
            // The lock counts from before the request: from then on others may have seen it.
            Ok(Ok(Attempt::Ours)) => renewed = began,
            Ok(Ok(Attempt::Theirs)) => return,
            Ok(Ok(Attempt::Raced)) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %explain(&error), "the leader's lock could not be renewed; trying again")
            }
            Err(_) => return,
        }
    }
}

/// What came of a try.
enum Attempt {
    /// The lease is ours.
    Ours,
    /// Somebody else has it.
    Theirs,
    /// Somebody wrote it at the same time; the next try tells who has it.
    Raced,
}

/// Tries once.
async fn attempt(
    lock: &Lock,
    candidate: &Candidate,
    sight: &mut Option<Sight>,
) -> Result<Attempt, kube::Error> {
    let held = lock.read().await?;
    let former = held.as_ref().map(|held| &held.record);
    let seen = held.as_ref().map(|held| (&held.record, held.raw.as_str()));
    let step = decide(seen, sight.as_ref(), candidate, Instant::now());
    let mine = claim(former, candidate, Timestamp::now());
    let written = match (step, &held) {
        (Step::Write, Some(held)) => lock.write(held, &mine).await,
        (Step::Create, _) | (Step::Write, None) => lock.create(&mine).await,
        (Step::Wait, _) => {
            let raw = held.map(|held| held.raw).unwrap_or_default();
            if sight.as_ref().is_none_or(|sight| sight.raw != raw) {
                *sight = Some(Sight { raw, since: Instant::now() });
            }
            return Ok(Attempt::Theirs);
        }
    };
    match written {
        Ok(_) => Ok(Attempt::Ours),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Attempt::Raced),
        Err(error) => Err(error),
    }
}

/// Gives the lock back, so that the next leader need not wait.
async fn release(lock: &Lock, candidate: &Candidate) -> Result<(), kube::Error> {
    let Some(held) = lock.read().await? else { return Ok(()) };
    if held.record.holder_identity == candidate.identity {
        let now = Some(Timestamp::now());
        let free = Record {
            holder_identity: String::new(),
            lease_duration_seconds: 1,
            acquire_time: now,
            renew_time: now,
            ..held.record.clone()
        };
        lock.write(&held, &free).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(identity: &str) -> Candidate {
        Candidate::new(identity, &Settings::default())
    }

    fn stamp(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn raw(record: &Record) -> String {
        serde_json::to_string(record).unwrap()
    }

    #[test]
    fn a_lock_is_taken_only_when_it_has_been_seen_unchanged_for_its_whole_duration() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // Whatever the clock of the holder says, of its first century or of the next.
        for wrong in [1, 5_000_000_000] {
            let theirs = claim(None, &candidate("them"), stamp(wrong));
            let renewed = claim(Some(&theirs), &candidate("them"), stamp(wrong + 1));
            let sight = Sight { raw: raw(&theirs), since: start };
            for (record, sight, who, now, expected) in [
                (None, None, "us", at(0), Step::Create),
                (Some(&theirs), None, "them", at(0), Step::Write),
                (Some(&theirs), None, "us", at(99), Step::Wait),
                (Some(&theirs), Some(&sight), "us", at(14), Step::Wait),
                (Some(&theirs), Some(&sight), "us", at(15), Step::Write),
                (Some(&renewed), Some(&sight), "us", at(99), Step::Wait),
            ] {
                let text = record.map(raw).unwrap_or_default();
                let lock = record.map(|record| (record, text.as_str()));
                assert_eq!(decide(lock, sight, &candidate(who), now), expected);
            }
            let free = Record { holder_identity: String::new(), ..theirs };
            assert_eq!(decide(Some((&free, "")), None, &candidate("us"), start), Step::Write);
        }
    }

    #[test]
    fn whoever_was_configured_with_a_longer_lease_has_its_time() {
        let start = Instant::now();
        let theirs = Record { lease_duration_seconds: 60, ..claim(None, &candidate("them"), stamp(1)) };
        let broken = Record { lease_duration_seconds: -1, ..theirs.clone() };
        for (record, after, expected) in [
            (&theirs, 59, Step::Wait),
            (&theirs, 60, Step::Write),
            (&broken, 14, Step::Wait),
            (&broken, 15, Step::Write),
        ] {
            let sight = Sight { raw: raw(record), since: start };
            let now = start + Duration::from_secs(after);
            assert_eq!(decide(Some((record, &raw(record))), Some(&sight), &candidate("us"), now), expected);
        }
    }

    #[test]
    fn changes_of_hand_are_counted_and_renewals_are_not() {
        let first = claim(None, &candidate("a"), stamp(1));
        let renewed = claim(Some(&first), &candidate("a"), stamp(2));
        let taken = claim(Some(&renewed), &candidate("b"), stamp(3));
        assert_eq!((first.leader_transitions, renewed.leader_transitions), (0, 0));
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(taken.leader_transitions, 1);
        assert_eq!(taken.acquire_time, Some(stamp(3)));
    }
}
