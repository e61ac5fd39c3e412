//! Workloads that end.

use serde_json::Value;

use super::{
    AGE, CONTAINERS, Heading, IMAGES, NAME, Sheet, age, condition, containers, count, flag, has, int,
    selector, since, text, text_or,
};
use crate::{duration, table::name_of};

pub(super) static JOB: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new("Status", "Status of the job."),
        Heading::of("Completions", "batch.v1.JobStatus", "succeeded"),
        Heading::new("Duration", "Time required to complete the job."),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        Heading::of("Selector", "batch.v1.JobSpec", "selector").wide(),
    ],
    |object, now| {
        let succeeded = int(object, "/status/succeeded");
        let completions = match (has(object, "/spec/completions"), int(object, "/spec/parallelism")) {
            (true, _) => format!("{succeeded}/{}", int(object, "/spec/completions")),
            (false, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            _ => format!("{succeeded}/1"),
        };
        let (start, end) = (text(object, "/status/startTime"), text(object, "/status/completionTime"));
        let took =
            if start.is_empty() { String::new() } else { duration::age(start, end.parse().unwrap_or(now)) };
        let [names, images] = containers(object.pointer("/spec/template/spec"));
        vec![
            name_of(object),
            job_status(object).into(),
            completions.into(),
            took.into(),
            age(object, now),
            names,
            images,
            selector(&object["spec"]["selector"]).into(),
        ]
        .into()
    },
);

fn job_status(job: &Value) -> &'static str {
    let holds = |kind| condition(job, kind) == "True";
    if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if has(job, "/metadata/deletionTimestamp") {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else if holds("FailureTarget") {
        "FailureTarget"
    } else if holds("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

pub(super) static CRON_JOB: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Schedule", "batch.v1.CronJobSpec", "schedule"),
        Heading::of("Timezone", "batch.v1.CronJobSpec", "timeZone"),
        Heading::of("Suspend", "batch.v1.CronJobSpec", "suspend").boolean(),
        Heading::of("Active", "batch.v1.CronJobStatus", "active").integer(),
        Heading::of("Last Schedule", "batch.v1.CronJobStatus", "lastScheduleTime"),
        AGE,
        CONTAINERS.wide(),
        IMAGES.wide(),
        Heading::of("Selector", "batch.v1.JobSpec", "selector").wide(),
    ],
    |object, now| {
        let suspend = match flag(object, "/spec/suspend") {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        let last = match text(object, "/status/lastScheduleTime") {
            "" => "<none>".into(),
            time => since(time, now),
        };
        let [names, images] = containers(object.pointer("/spec/jobTemplate/spec/template/spec"));
        vec![
            name_of(object),
            text(object, "/spec/schedule").into(),
            text_or(object, "/spec/timeZone", "<none>").into(),
            suspend.into(),
            count(object, "/status/active").into(),
            last.into(),
            age(object, now),
            names,
            images,
            selector(&object["spec"]["jobTemplate"]["spec"]["selector"]).into(),
        ]
        .into()
    },
);
