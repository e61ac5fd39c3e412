//! Rules of Jobs and CronJobs.

use super::{
    apps::matches_template,
    at::{At, Found},
    metadata, pod,
};
use crate::{names, selector::LabelSelector};

pub(super) fn job(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    job_spec(&spec, found);
    let selector = spec.get("selector");
    if !selector.is_set() {
        found.required(&selector, "");
    } else {
        metadata::selector(&selector, found);
    }
    match old {
        None => generated_selector(o, &spec, found),
        Some(old) => job_update(&spec, &old.get("spec"), found),
    }
    if let Ok(selector) = LabelSelector::from_value(selector.value) {
        matches_template(&selector, &spec.get("template"), found);
    }
}

/// A selector that was to be generated is as it is generated.
fn generated_selector(o: &At<'_>, spec: &At<'_>, found: &mut Found) {
    if spec.get("manualSelector").is_true() {
        return;
    }
    let uid = o.get("metadata.uid");
    let labels = spec.get("template.metadata.labels");
    let expected = [
        ("batch.kubernetes.io/job-name", o.get("metadata.name").text()),
        ("batch.kubernetes.io/controller-uid", uid.text()),
        ("job-name", o.get("metadata.name").text()),
        ("controller-uid", uid.text()),
    ];
    for (key, value) in expected {
        let label = labels.key(key);
        if label.text() != value {
            found.invalid(&label, &format!("must be '{value}'"));
        }
    }
    let generated = serde_json::json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid.text()}});
    let selector = spec.get("selector");
    if selector.is_set() && *selector.value != generated {
        found.invalid(&selector, "`selector` not auto-generated");
    }
}

fn job_spec(spec: &At<'_>, found: &mut Found) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    found.non_negatives(spec, &counts);
    let (mode, completions) = (spec.get("completionMode"), spec.get("completions"));
    found.one_of(&mode, &["NonIndexed", "Indexed"]);
    let indexed = mode.text() == "Indexed";
    if indexed && !completions.is_set() {
        found.required(&completions, "when completion mode is Indexed");
    }
    let (per_index, failed) = (spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes"));
    for limit in [&per_index, &failed] {
        if limit.is_set() && !indexed {
            found.invalid(limit, "requires indexed completion mode");
        }
    }
    if failed.is_set() && !per_index.is_set() {
        found.required(&per_index, "when maxFailedIndexes is specified");
    }
    found.one_of(&spec.get("podReplacementPolicy"), &["Failed", "TerminatingOrFailed"]);
    pod::template(&spec.get("template"), found);
    let restart = spec.get("template.spec.restartPolicy");
    if restart.text() == "Always" {
        found.required(&restart, "valid values: \"OnFailure\", \"Never\"");
    }
}

fn job_update(new: &At<'_>, old: &At<'_>, found: &mut Found) {
    let completions = new.get("completions");
    if new.get("completionMode").text() == "Indexed" {
        let changed = completions.value != old.get("completions").value;
        if changed && completions.is_set() && completions.value != new.get("parallelism").value {
            found.invalid(&completions, "can only be modified in tandem with spec.parallelism");
        }
    } else {
        found.immutable(new, Some(old), &["completions"]);
    }
    let suspended = old.get("suspend").is_true();
    let fixed = [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    found.immutable(new, Some(old), &fixed);
    if !suspended {
        found.immutable(new, Some(old), &["template"]);
    }
}

pub(super) fn cron_job(o: &At<'_>, old: Option<&At<'_>>, found: &mut Found) {
    let spec = o.get("spec");
    let name = o.get("metadata.name");
    // A Job's name has room for a time stamp of 11 characters.
    if old.is_none() && name.text().len() > 52 {
        found.invalid(&name, "must be no more than 52 characters");
    }
    let (schedule, zone) = (spec.get("schedule"), spec.get("timeZone"));
    if found.require(&schedule) {
        if schedule.text().contains("TZ") {
            found.invalid(&schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        } else if let Some(problem) = schedule_problem(schedule.text()) {
            found.invalid(&schedule, &problem);
        }
    }
    if zone.is_set() {
        match zone.text() {
            "" => found.invalid(&zone, "timeZone must be nil or non-empty string"),
            "Local" => found.invalid(
                &zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            ),
            // A machine without a time zone database cannot tell.
            name if jiff::tz::TimeZone::get(name).is_err() && !jiff::tz::db().is_definitively_empty() => {
                found.invalid(&zone, &format!("unknown time zone {name}"));
            }
            _ => {}
        }
    }
    found.require_one_of(&spec.get("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    found.non_negatives(
        &spec,
        &["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"],
    );
    let template = spec.get("jobTemplate");
    metadata::labels(&template.get("metadata.labels"), found);
    let job = template.get("spec");
    job_spec(&job, found);
    if job.get("manualSelector").is_true() {
        found.not_supported(&job.get("manualSelector"), &["nil", "false"]);
    }
    found.form(&spec.get("jobTemplate.metadata.name"), names::dns1123_subdomain);
}

/// What is wrong with a schedule in the five fields of cron, or one of its `@` words.
fn schedule_problem(schedule: &str) -> Option<String> {
    if let Some(word) = schedule.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        let every = word.strip_prefix("every ").is_some_and(|span| crate::duration::parse(span).is_ok());
        return (!known.contains(&word) && !every).then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let bounds: [(u32, u32, &[&str]); 5] = [
        (0, 59, &[]),
        (0, 23, &[]),
        (1, 31, &[]),
        (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
        (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
    ];
    fields
        .iter()
        .zip(bounds)
        .find_map(|(field, bounds)| field.split(',').find_map(|part| range_problem(part, bounds)))
}

fn range_problem(part: &str, (least, most, words): (u32, u32, &[&str])) -> Option<String> {
    let number = |text: &str| -> Result<u32, String> {
        let word = words.iter().position(|word| text.eq_ignore_ascii_case(word));
        let word = word.and_then(|at| u32::try_from(at).ok()).map(|at| at + least);
        word.map_or_else(
            || {
                let syntax = format!(
                    "failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"
                );
                text.parse().map_err(|_| syntax)
            },
            Ok,
        )
    };
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    let (start, end) = match range {
        "*" | "?" => (least, most),
        range => match range.split_once('-') {
            None => match number(range) {
                Ok(single) => (single, if step.is_some() { most } else { single }),
                Err(problem) => return Some(problem),
            },
            Some((from, to)) => match (number(from), number(to)) {
                (Ok(from), Ok(to)) => (from, to),
                (Err(problem), _) | (_, Err(problem)) => return Some(problem),
            },
        },
    };
    match step.map(number) {
        Some(Err(problem)) => return Some(problem),
        Some(Ok(0)) => return Some(format!("step of range should be a positive number: {part}")),
        _ => {}
    }
    if start < least {
        return Some(format!("beginning of range ({start}) below minimum ({least}): {part}"));
    }
    if end > most {
        return Some(format!("end of range ({end}) above maximum ({most}): {part}"));
    }
    (start > end).then(|| format!("beginning of range ({start}) beyond end of range ({end}): {part}"))
}
