//! Leader election by a Lease, with client-go's timing.
//!
//! Whether a lease has run out is judged by how long it has been seen unchanged, by our own clock: the clocks of two machines are never
//! compared. Whoever loses the lease is told by a cancelled token before anybody else can have it.

use std::time::Duration;

use hansa_api::settings::Settings;
use hansa_transport::explain;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One candidate for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The namespace of the Lease.
    pub namespace: String,
    /// The name of the Lease.
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
    /// A candidate for the controllers' lease, with the timing of a KubeFedConfig.
    pub fn new(identity: impl Into<String>, settings: &Settings) -> Self {
        Self {
            namespace: hansa_api::names::SYSTEM_NAMESPACE.to_owned(),
            name: "kubefed-controller-manager".to_owned(),
            identity: identity.into(),
            lease_duration: settings.lease_duration,
            renew_deadline: settings.renew_deadline,
            retry_period: settings.retry_period,
        }
    }
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Create,
    /// It is ours, or nobody's, or has run out.
    Write,
    /// Somebody else has it.
    Wait,
}

/// What was seen of the lease of another, and since when it has not changed.
#[derive(Clone, Debug, PartialEq)]
struct Sight {
    spec: LeaseSpec,
    since: Instant,
}

fn decide(lease: Option<&LeaseSpec>, sight: Option<&Sight>, identity: &str, now: Instant) -> Step {
    let Some(lease) = lease else { return Step::Create };
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    if holder.is_empty() || holder == identity {
        return Step::Write;
    }
    let holds = Duration::from_secs(
        u64::try_from(lease.lease_duration_seconds.unwrap_or_default()).unwrap_or_default(),
    );
    match sight {
        Some(sight) if sight.spec == *lease && now >= sight.since + holds => Step::Write,
        _ => Step::Wait,
    }
}

/// The lease that we write: with the time of acquisition, and the count of changes of hand, as client-go keeps them.
fn claim(former: Option<&LeaseSpec>, candidate: &Candidate, now: k8s_openapi::jiff::Timestamp) -> LeaseSpec {
    let ours = former.filter(|former| former.holder_identity.as_deref() == Some(&candidate.identity));
    let transitions = former.and_then(|former| former.lease_transitions).unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(candidate.identity.clone()),
        lease_duration_seconds: Some(
            i32::try_from(candidate.lease_duration.as_secs().max(1)).unwrap_or(i32::MAX),
        ),
        acquire_time: ours.and_then(|ours| ours.acquire_time.clone()).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if former.is_some() && ours.is_none() {
            transitions.saturating_add(1)
        } else {
            transitions
        }),
        ..former.cloned().unwrap_or_default()
    }
}

/// Waits until `candidate` leads, and runs `work` for as long as it does. The token that `work` gets is cancelled when the lease is lost or
/// `stop` is; `work` must end soon after. Returns whether the lease was lost.
pub async fn lead<W, F>(client: Client, candidate: Candidate, stop: CancellationToken, work: W) -> bool
where
    W: FnOnce(CancellationToken) -> F,
    F: Future<Output = ()>,
{
    let leases: Api<Lease> = Api::namespaced(client, &candidate.namespace);
    if stop.run_until_cancelled(acquire(&leases, &candidate)).await.is_none() {
        return false;
    }
    tracing::info!(identity = %candidate.identity, "promoted as leader");
    let term = stop.child_token();
    let fence = term.clone();
    let lost = async {
        let lost = fence.run_until_cancelled(hold(&leases, &candidate)).await.is_some();
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
    } else if let Err(error) = release(&leases, &candidate).await {
        tracing::debug!(error = %explain(&error), "the lease could not be given back; the next leader waits until it has run out");
    }
    lost
}

/// Runs [`lead`] beside `leads`, which says at any time whether this process leads.
pub async fn announce(leads: &watch::Sender<bool>, term: CancellationToken) {
    leads.send_replace(true);
    term.cancelled().await;
    leads.send_replace(false);
}

async fn acquire(leases: &Api<Lease>, candidate: &Candidate) {
    let mut sight: Option<Sight> = None;
    loop {
        match attempt(leases, candidate, &mut sight).await {
            Ok(Attempt::Ours) => return,
            Ok(Attempt::Theirs | Attempt::Raced) => {}
            Err(error) => {
                tracing::debug!(error = %explain(&error), "the lease could not be had; trying again")
            }
        }
        tokio::time::sleep(candidate.retry_period).await;
    }
}

/// Renews until the deadline passes without success.
async fn hold(leases: &Api<Lease>, candidate: &Candidate) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(candidate.retry_period).await;
        let deadline = renewed + candidate.renew_deadline;
        let began = Instant::now();
        match tokio::time::timeout_at(deadline, attempt(leases, candidate, &mut None)).await {
            // The lease counts from before the request: from then on others may have seen it.
            Ok(Ok(Attempt::Ours)) => renewed = began,
            Ok(Ok(Attempt::Theirs)) => return,
            Ok(Ok(Attempt::Raced)) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %explain(&error), "the lease could not be renewed; trying again")
            }
            Err(_) => return,
        }
        if Instant::now() >= deadline && renewed != began {
            return;
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
    leases: &Api<Lease>,
    candidate: &Candidate,
    sight: &mut Option<Sight>,
) -> Result<Attempt, kube::Error> {
    let lease = leases.get_opt(&candidate.name).await?;
    let spec = lease.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
    let step = decide(spec.as_ref(), sight.as_ref(), &candidate.identity, Instant::now());
    let mine = claim(spec.as_ref(), candidate, k8s_openapi::jiff::Timestamp::now());
    let written = match (step, lease) {
        (Step::Write, Some(lease)) => {
            // Written with the version that was read, so that of two who try one fails.
            let lease = Lease { spec: Some(mine), ..lease };
            leases.replace(&candidate.name, &PostParams::default(), &lease).await
        }
        (Step::Create, _) | (Step::Write, None) => {
            let metadata = ObjectMeta { name: Some(candidate.name.clone()), ..ObjectMeta::default() };
            leases.create(&PostParams::default(), &Lease { metadata, spec: Some(mine) }).await
        }
        (Step::Wait, _) => {
            if let Some(spec) = spec.filter(|spec| sight.as_ref().is_none_or(|sight| sight.spec != *spec)) {
                *sight = Some(Sight { spec, since: Instant::now() });
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

/// Gives the lease back, so that the next leader need not wait.
async fn release(leases: &Api<Lease>, candidate: &Candidate) -> Result<(), kube::Error> {
    let Some(mut lease) = leases.get_opt(&candidate.name).await? else { return Ok(()) };
    if let Some(spec) =
        lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&candidate.identity))
    {
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        leases.replace(&candidate.name, &PostParams::default(), &lease).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(identity: &str) -> Candidate {
        Candidate::new(identity, &Settings::default())
    }

    fn stamp(seconds: i64) -> k8s_openapi::jiff::Timestamp {
        k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_lease_is_taken_only_when_it_has_been_seen_unchanged_for_its_whole_duration() {
        let theirs = claim(None, &candidate("them"), stamp(1));
        let renewed = claim(Some(&theirs), &candidate("them"), stamp(2));
        let start = Instant::now();
        let sight = Sight { spec: theirs.clone(), since: start };
        let at = |seconds| start + Duration::from_secs(seconds);
        for (lease, sight, who, now, expected) in [
            (None, None, "us", at(0), Step::Create),
            (Some(&theirs), None, "them", at(0), Step::Write),
            (Some(&theirs), None, "us", at(99), Step::Wait),
            (Some(&theirs), Some(&sight), "us", at(14), Step::Wait),
            (Some(&theirs), Some(&sight), "us", at(15), Step::Write),
            (Some(&renewed), Some(&sight), "us", at(99), Step::Wait),
        ] {
            assert_eq!(decide(lease, sight, who, now), expected);
        }
        let free = LeaseSpec { holder_identity: Some(String::new()), ..theirs };
        assert_eq!(decide(Some(&free), None, "us", start), Step::Write);
    }

    #[test]
    fn changes_of_hand_are_counted_and_renewals_are_not() {
        let first = claim(None, &candidate("a"), stamp(1));
        let renewed = claim(Some(&first), &candidate("a"), stamp(2));
        let taken = claim(Some(&renewed), &candidate("b"), stamp(3));
        assert_eq!((first.lease_transitions, renewed.lease_transitions), (Some(0), Some(0)));
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(taken.acquire_time, Some(MicroTime(stamp(3))));
    }
}
