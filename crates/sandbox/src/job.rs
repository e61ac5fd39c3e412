//! Which Pods of a Job to make and to delete next, and whether it is over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    object::{Condition, is_true, items, set_condition, stamp, time},
    pod::{Phase, Pod, is_active},
};

const FIRST_BACK_OFF: i64 = 10;
const LAST_BACK_OFF: i64 = 600;

/// What to do, and the status to report.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Pods to make; each with its completion index, if the Job has such.
    pub(crate) create: Vec<Option<i64>>,
    pub(crate) delete: Vec<Arc<Pod>>,
    pub(crate) status: Value,
    /// When there will be something to do without anything else happening.
    pub(crate) again: Option<Duration>,
    /// The Job has been over for as long as it was to be kept.
    pub(crate) remove: bool,
}

/// Whether a Job's status says that it is over.
pub(crate) fn is_over(status: &Value) -> bool {
    is_true(status, "Complete") || is_true(status, "Failed")
}

/// Decides with all Pods that the Job controls.
pub(crate) fn plan(job: &Value, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let (spec, old) = (&job["spec"], &job["status"]);
    let mut plan = Plan { status: if old.is_object() { old.clone() } else { json!({}) }, ..Plan::default() };
    if is_over(old) {
        plan.delete = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
        plan.again = left_to_keep(spec, old, now);
        plan.remove = plan.again.is_some_and(|left| left.is_zero());
        return plan;
    }
    let completions = spec["completions"].as_i64();
    let parallelism = spec["parallelism"].as_i64().unwrap_or(1);
    let limit = spec["backoffLimit"].as_i64().unwrap_or(6);
    let indexed = spec["completionMode"] == "Indexed";
    let suspended = spec["suspend"] == true;
    let started = time(&old["startTime"]).filter(|_| !suspended).unwrap_or(now);

    let active: Vec<_> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
    let of_phase = |phase: Phase| pods.iter().filter(move |pod| pod.data.phase == phase);
    let done: BTreeSet<i64> =
        of_phase(Phase::Succeeded).filter_map(|pod| pod.data.completion_index).collect();
    // Pods that somebody cleaned up stay counted.
    let at_least = |name: &str, count: usize| {
        old[name].as_i64().unwrap_or_default().max(i64::try_from(count).unwrap_or(i64::MAX))
    };
    let finished = if indexed { done.len() } else { of_phase(Phase::Succeeded).count() };
    let succeeded = at_least("succeeded", finished);
    let failed = at_least("failed", of_phase(Phase::Failed).count());
    let restarts: i64 = active.iter().map(|pod| pod.data.restarts).sum();
    let in_place = spec["template"]["spec"]["restartPolicy"] == "OnFailure";

    let deadline = spec["activeDeadlineSeconds"].as_i64().map(SignedDuration::from_secs);
    let left = deadline.map(|deadline| deadline - now.duration_since(started));
    let over = if failed > limit || (in_place && restarts > 0 && restarts >= limit) {
        Some(Err(("BackoffLimitExceeded", "Job has reached the specified backoff limit")))
    } else if !suspended && left.is_some_and(|left| left <= SignedDuration::ZERO) {
        Some(Err(("DeadlineExceeded", "Job was active longer than specified deadline")))
    } else if completions.map_or(succeeded > 0 && active.is_empty(), |completions| succeeded >= completions) {
        Some(Ok(()))
    } else {
        None
    };

    if over.is_some() || suspended {
        plan.delete = active.clone();
    } else {
        let wanted = match completions {
            Some(completions) => parallelism.min(completions - succeeded),
            None if succeeded > 0 => i64::try_from(active.len()).unwrap_or(i64::MAX).min(parallelism),
            None => parallelism,
        };
        let wanted = usize::try_from(wanted).unwrap_or_default();
        let wait = back_off(pods, now);
        if active.len() > wanted {
            let mut surplus = active.clone();
            crate::pod::rank_for_deletion(&mut surplus);
            plan.delete = surplus.into_iter().take(active.len() - wanted).collect();
        } else if active.len() < wanted {
            match wait {
                Some(wait) => plan.again = Some(wait),
                None => {
                    plan.create = missing(
                        indexed.then_some(completions).flatten(),
                        &active,
                        &done,
                        wanted - active.len(),
                    )
                }
            }
        }
        if let Some(left) = left.and_then(|left| Duration::try_from(left).ok()) {
            plan.again = Some(plan.again.map_or(left, |again| again.min(left)));
        }
    }

    let mut conditions = items(&old["conditions"]).to_vec();
    let mut set = |kind: &str, status: bool, reason: &str, message: &str| {
        set_condition(&mut conditions, &Condition { kind, status, reason, message: message.to_owned() }, now);
    };
    match &over {
        Some(Ok(())) => {
            let message = "Reached expected number of succeeded pods";
            set("SuccessCriteriaMet", true, "CompletionsReached", message);
            set("Complete", true, "CompletionsReached", message);
            plan.status["completionTime"] = stamp(now).into();
        }
        Some(Err((reason, message))) => {
            set("FailureTarget", true, reason, message);
            set("Failed", true, reason, message);
        }
        None if suspended => set("Suspended", true, "JobSuspended", "Job suspended"),
        None if is_true(old, "Suspended") => set("Suspended", false, "JobResumed", "Job resumed"),
        None => {}
    }
    let status = &mut plan.status;
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
    if suspended {
        status.as_object_mut().map(|status| status.remove("startTime"));
    } else if old["startTime"].is_null() {
        status["startTime"] = stamp(now).into();
    }
    let running = if over.is_some() || suspended { 0 } else { active.len() };
    let ready = if running == 0 { 0 } else { active.iter().filter(|pod| pod.data.ready).count() };
    let mut count = |name: &str, count: i64, always: bool| {
        if count > 0 || always {
            status[name] = count.into();
        } else {
            status.as_object_mut().map(|status| status.remove(name));
        }
    };
    count("active", running as i64, false);
    count("ready", ready as i64, true);
    count("succeeded", succeeded, false);
    count("failed", failed, false);
    if indexed {
        status["completedIndexes"] = ranges(&done).into();
    }
    status["uncountedTerminatedPods"] = json!({});
    plan
}

/// How long a Job that is over is still kept, if not for ever.
fn left_to_keep(spec: &Value, status: &Value, now: Timestamp) -> Option<Duration> {
    let keep = SignedDuration::from_secs(spec["ttlSecondsAfterFinished"].as_i64()?);
    let failed =
        crate::object::condition(status, "Failed").and_then(|failed| time(&failed["lastTransitionTime"]));
    let ended = time(&status["completionTime"]).or(failed)?;
    Some(Duration::try_from(keep - now.duration_since(ended)).unwrap_or_default())
}

/// How long to wait after failures before the next try.
fn back_off(pods: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let ended = |phase: Phase| {
        pods.iter().filter(move |pod| pod.data.phase == phase).filter_map(|pod| pod.data.finished)
    };
    let last_success = ended(Phase::Succeeded).max();
    let failures: Vec<Timestamp> =
        ended(Phase::Failed).filter(|at| last_success.is_none_or(|last| *at > last)).collect();
    let last = failures.iter().max()?;
    let wait = (FIRST_BACK_OFF << (failures.len() - 1).min(8)).min(LAST_BACK_OFF);
    let left = SignedDuration::from_secs(wait) - now.duration_since(*last);
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}

/// The Pods to make: of an indexed Job, those of the lowest indexes that neither run nor are done.
fn missing(
    indexed: Option<i64>,
    active: &[Arc<Pod>],
    done: &BTreeSet<i64>,
    count: usize,
) -> Vec<Option<i64>> {
    let Some(completions) = indexed else { return vec![None; count] };
    let running: BTreeSet<i64> = active.iter().filter_map(|pod| pod.data.completion_index).collect();
    let free = (0..completions).filter(|index| !running.contains(index) && !done.contains(index));
    free.take(count).map(Some).collect()
}

/// `0,2-4`.
fn ranges(indexes: &BTreeSet<i64>) -> String {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let text = ranges.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    text.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodFacts;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(phase: Phase, finished: i64) -> Arc<Pod> {
        let data = PodFacts { phase, finished: (finished > 0).then(|| at(finished)), ..PodFacts::default() };
        Arc::new(Pod { meta: Default::default(), data })
    }

    fn job(spec: Value) -> Value {
        json!({"spec": spec, "status": {"startTime": "1970-01-01T00:00:00Z"}})
    }

    #[test]
    fn as_many_run_as_are_still_to_complete() {
        let job = job(json!({"completions": 5, "parallelism": 3}));
        assert_eq!(plan(&job, &[], at(1)).create.len(), 3);
        let pods = [
            pod(Phase::Succeeded, 1),
            pod(Phase::Succeeded, 1),
            pod(Phase::Succeeded, 1),
            pod(Phase::Running, 0),
        ];
        assert_eq!(plan(&job, &pods, at(1)).create.len(), 1);
    }

    #[test]
    fn it_completes_once_and_is_removed_when_its_time_is_up() {
        let mut job = job(json!({"completions": 1, "ttlSecondsAfterFinished": 10}));
        let plan = |job: &Value, second| super::plan(job, &[pod(Phase::Succeeded, 1)], at(second));
        job["status"] = plan(&job, 2).status;
        assert!(is_true(&job["status"], "Complete") && job["status"]["succeeded"] == 1);
        let waiting = plan(&job, 5);
        assert_eq!(
            (&waiting.status, waiting.again, waiting.remove),
            (&job["status"], Some(Duration::from_secs(7)), false)
        );
        assert!(plan(&job, 12).remove);
    }

    #[test]
    fn failures_back_off_and_too_many_are_the_end() {
        let job = job(json!({"completions": 1, "backoffLimit": 1}));
        let first = plan(&job, &[pod(Phase::Failed, 10)], at(12));
        assert_eq!((first.create.len(), first.again), (0, Some(Duration::from_secs(8))));
        assert_eq!(plan(&job, &[pod(Phase::Failed, 10)], at(20)).create.len(), 1);
        let end = plan(&job, &[pod(Phase::Failed, 10), pod(Phase::Failed, 20)], at(21));
        assert!(is_true(&end.status, "Failed"));
    }

    #[test]
    fn a_deadline_and_suspension_stop_what_runs() {
        let late = plan(
            &job(json!({"completions": 1, "activeDeadlineSeconds": 5})),
            &[pod(Phase::Running, 0)],
            at(5),
        );
        assert_eq!(
            (late.delete.len(), late.status["conditions"][0]["reason"].as_str()),
            (1, Some("DeadlineExceeded"))
        );
        let suspended =
            plan(&job(json!({"completions": 1, "suspend": true})), &[pod(Phase::Running, 0)], at(5));
        assert_eq!((suspended.delete.len(), suspended.status.get("startTime")), (1, None));
    }

    #[test]
    fn an_indexed_job_fills_the_gaps() {
        let indexed = |phase, index| {
            let data = PodFacts { phase, completion_index: Some(index), ..PodFacts::default() };
            Arc::new(Pod { meta: Default::default(), data })
        };
        let job = job(json!({"completions": 6, "parallelism": 3, "completionMode": "Indexed"}));
        let done = |index| indexed(Phase::Succeeded, index);
        let plan = plan(&job, &[done(0), indexed(Phase::Running, 1), done(2), done(3)], at(1));
        assert_eq!(plan.create, [Some(4), Some(5)]);
        assert_eq!(plan.status["completedIndexes"], "0,2,3");
    }
}
