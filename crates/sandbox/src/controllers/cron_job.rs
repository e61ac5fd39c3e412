//! CronJobs: a Job whenever the schedule is due.

use std::{sync::Arc, time::Duration};

use hansa_embedded::Propagation;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Again;
use crate::{
    client::{Deletion, Error},
    cron::{MANY, Schedule},
    job::is_over,
    object::{Key, is_true, object_at, owner_reference, stamp, text, time},
    world::{Kind, World},
};

pub(crate) const KIND: Kind = Kind { api_version: "batch/v1", kind: "CronJob", resource: "cronjobs.batch" };
const JOBS: &str = "jobs.batch";

/// The Job of one due time; its name follows from the time, so that there is never a second one.
fn new_job(cron: &Value, due: Timestamp) -> Value {
    let template = &cron["spec"]["jobTemplate"];
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "spec": template["spec"]});
    job["metadata"] = json!({
        "name": format!("{}-{}", text(&cron["metadata"]["name"]), due.as_second() / 60),
        "namespace": cron["metadata"]["namespace"],
        "ownerReferences": [owner_reference(KIND.api_version, KIND.kind, cron)],
    });
    for part in ["labels", "annotations"] {
        if !template["metadata"][part].is_null() {
            job["metadata"][part] = template["metadata"][part].clone();
        }
    }
    object_at(&mut job, &["metadata", "annotations"])
        .insert("batch.kubernetes.io/cronjob-scheduled-timestamp".into(), stamp(due).into());
    job
}

/// Finished Jobs beyond the history that is kept, oldest first.
fn beyond_history(jobs: &[Value], succeeded: bool, keep: i64) -> Vec<&Value> {
    let kind = if succeeded { "Complete" } else { "Failed" };
    let mut over: Vec<&Value> = jobs.iter().filter(|job| is_true(&job["status"], kind)).collect();
    over.sort_by_key(|job| (text(&job["status"]["startTime"]), text(&job["metadata"]["name"])));
    let excess = over.len().saturating_sub(usize::try_from(keep).unwrap_or_default());
    over.truncate(excess);
    over
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Again, Error> {
    let Some(cron) = world.client.get(KIND.resource, &key)? else { return Ok(None) };
    if !cron["metadata"]["deletionTimestamp"].is_null() {
        return Ok(None);
    }
    let (spec, uid) = (&cron["spec"], text(&cron["metadata"]["uid"]));
    let mut jobs = Vec::new();
    for kept in world.jobs.of_namespace(&key.namespace, |job| job.meta.is_controlled_by(&uid)) {
        jobs.extend(world.client.get(JOBS, &kept.meta.key)?);
    }
    let background = Deletion { propagation: Some(Propagation::Background), ..Deletion::default() };
    let limits = [
        (true, spec["successfulJobsHistoryLimit"].as_i64().unwrap_or(3)),
        (false, spec["failedJobsHistoryLimit"].as_i64().unwrap_or(1)),
    ];
    for (succeeded, keep) in limits {
        for job in beyond_history(&jobs, succeeded, keep) {
            world.client.delete(JOBS, &crate::object::key(job), background).await?;
        }
    }

    let mut status = if cron["status"].is_object() { cron["status"].clone() } else { json!({}) };
    let ended = jobs.iter().filter_map(|job| time(&job["status"]["completionTime"])).max();
    if let Some(ended) = ended.max(time(&status["lastSuccessfulTime"])) {
        status["lastSuccessfulTime"] = stamp(ended).into();
    }
    let mut active: Vec<Value> = jobs.iter().filter(|job| !is_over(&job["status"])).cloned().collect();

    let schedule = Schedule::parse(&text(&spec["schedule"]), spec["timeZone"].as_str());
    let schedule = match schedule {
        Ok(schedule) => Some(schedule),
        Err(error) => {
            tracing::warn!(%key, %error, "a CronJob that is never due");
            None
        }
    };
    let now = world.now();
    let mut again = None;
    if let Some(schedule) = schedule.filter(|_| spec["suspend"] != true) {
        let created = time(&cron["metadata"]["creationTimestamp"]).unwrap_or(now);
        let mut since = time(&status["lastScheduleTime"]).unwrap_or(created);
        let grace = spec["startingDeadlineSeconds"].as_i64();
        if let Some(deadline) = grace.and_then(|grace| now.checked_sub(SignedDuration::from_secs(grace)).ok())
        {
            since = since.max(deadline);
        }
        if let Some((due, missed)) = schedule.last_due(since, now) {
            if missed > MANY {
                tracing::debug!(%key, missed, "many starts were missed");
            }
            let policy = spec["concurrencyPolicy"].as_str().unwrap_or("Allow");
            if policy == "Replace" {
                for job in active.drain(..) {
                    world.client.delete(JOBS, &crate::object::key(&job), background).await?;
                }
            }
            if policy != "Forbid" || active.is_empty() {
                match world.client.create(JOBS, new_job(&cron, due)).await {
                    Ok(job) => active.push(job),
                    Err(error) if error.is_reason("AlreadyExists") => {}
                    Err(error) => return Err(error),
                }
                status["lastScheduleTime"] = stamp(due).into();
            }
        }
        let next = schedule.next(now).map(|next| next.duration_since(now));
        again = next.and_then(|left| Duration::try_from(left).ok());
    }
    let references = active.iter().map(|job| {
        let meta = &job["metadata"];
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "namespace": meta["namespace"],
            "uid": meta["uid"], "resourceVersion": meta["resourceVersion"],
        })
    });
    let references: Vec<Value> = references.collect();
    // The version of a Job that is still active is of no interest.
    let same = |old: &Value| {
        let uids =
            |list: &Value| crate::object::items(list).iter().map(|job| text(&job["uid"])).collect::<Vec<_>>();
        uids(old) == references.iter().map(|job| text(&job["uid"])).collect::<Vec<_>>()
    };
    if references.is_empty() {
        object_at(&mut status, &[]).remove("active");
    } else if !same(&status["active"]) {
        status["active"] = references.into();
    }
    world.report(KIND.resource, cron, status).await?;
    Ok(again)
}
