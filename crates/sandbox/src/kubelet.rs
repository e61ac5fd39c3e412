//! What a kubelet would report about a Pod on its node: containers that start at once, and run or end as their
//! command plainly says.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    image,
    object::{Condition, fingerprint, is_true, items, set_condition, stamp, text, time},
};

const FIRST_BACK_OFF: i64 = 10;
const LAST_BACK_OFF: i64 = 300;

/// Where a Pod runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) host_ip: &'a str,
    pub(crate) pod_ip: &'a str,
    /// How long a container runs that is to end and does not say when.
    pub(crate) run_time: Duration,
}

/// A Pod's status as it is now, and when it will be different by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) status: Value,
    pub(crate) again: Option<Duration>,
}

/// What a container's process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Stays,
    Ends { code: i64, after: SignedDuration },
}

/// Reads what a command plainly says: `true`, `false`, and in a shell's script `sleep N` and `exit N`.
fn process(container: &Value, restarts: &str, run_time: Duration) -> Process {
    let words: Vec<&str> = items(&container["command"])
        .iter()
        .chain(items(&container["args"]))
        .filter_map(Value::as_str)
        .collect();
    let run_time = SignedDuration::try_from(run_time).unwrap_or_default();
    let ends = |code, after| Process::Ends { code, after };
    let said = match words.as_slice() {
        [one] if one.ends_with("false") => ends(1, SignedDuration::ZERO),
        [one] if one.ends_with("true") => ends(0, SignedDuration::ZERO),
        [shell, .., script] if shell.ends_with("sh") => {
            let tokens: Vec<&str> =
                script.split(|c: char| c.is_whitespace() || c == ';' || c == '&').collect();
            let number_after = |word: &str| {
                let pairs = tokens.windows(2).filter(|pair| pair[0] == word);
                pairs.filter_map(|pair| pair[1].parse::<i64>().ok()).next_back()
            };
            let after = number_after("sleep")
                .map_or(run_time, |seconds| SignedDuration::from_secs(seconds.clamp(0, 1 << 30)));
            ends(number_after("exit").unwrap_or_default(), after)
        }
        _ => ends(0, run_time),
    };
    match said {
        // What is to run always and does not plainly fail is a server.
        Process::Ends { code: 0, .. } if restarts == "Always" => Process::Stays,
        said => said,
    }
}

/// One container's next state.
struct Step {
    status: Value,
    again: Option<SignedDuration>,
}

fn step(
    container: &Value,
    old: &Value,
    pod_uid: &str,
    restarts: &str,
    place: Place<'_>,
    now: Timestamp,
) -> Step {
    let name = text(&container["name"]);
    let image = text(&container["image"]);
    let count = old["restartCount"].as_i64().unwrap_or_default();
    let id = |count: i64| {
        let id = json!([pod_uid, name, count]);
        format!("containerd://{:016x}{:016x}", fingerprint(&id), fingerprint(&json!([id, "id"])))
    };
    let mut status = json!({
        "name": name, "image": image, "imageID": "", "restartCount": count, "ready": false, "started": false,
        "state": old["state"], "lastState": if old["lastState"].is_object() { old["lastState"].clone() } else { json!({}) },
    });
    if !image::is_reference(&image) {
        let message = format!(
            "Failed to apply default image tag {image:?}: couldn't parse image name: invalid reference format"
        );
        status["state"] = json!({"waiting": {"reason": "InvalidImageName", "message": message}});
        return Step { status, again: None };
    }
    let digest = [0, 1, 2, 3].map(|part| format!("{:016x}", fingerprint(&json!([image, part])))).concat();
    status["imageID"] = format!("{}@sha256:{digest}", image.split(['@']).next().unwrap_or_default()).into();

    let process = process(container, restarts, place.run_time);
    let start = |status: &mut Value, count: i64| {
        status["restartCount"] = count.into();
        status["state"] = json!({"running": {"startedAt": stamp(now)}});
    };
    if status["state"]["running"].is_null() && status["state"]["terminated"].is_null() {
        let waiting_since = time(&status["lastState"]["terminated"]["finishedAt"]);
        match waiting_since {
            None => start(&mut status, count),
            Some(ended) => {
                let left = back_off(count) - now.duration_since(ended);
                if left > SignedDuration::ZERO {
                    return Step { status, again: Some(left) };
                }
                start(&mut status, count + 1);
            }
        }
    }
    let mut again = None;
    if let Some(started) = time(&status["state"]["running"]["startedAt"]) {
        match process {
            Process::Ends { code, after } if now.duration_since(started) >= after => {
                let count = status["restartCount"].as_i64().unwrap_or_default();
                let ended = json!({"terminated": {
                    "exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
                    "startedAt": stamp(started), "finishedAt": stamp(now), "containerID": id(count),
                }});
                if restarts == "Always" || (restarts == "OnFailure" && code != 0) {
                    let wait = back_off(count);
                    let message = format!("back-off {}s restarting failed container={name}", wait.as_secs());
                    status["lastState"] = ended;
                    status["state"] = json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}});
                    again = Some(wait);
                } else {
                    status["state"] = ended;
                }
            }
            Process::Ends { after, .. } => again = Some(after - now.duration_since(started)),
            Process::Stays => {}
        }
        if !status["state"]["running"].is_null() {
            let delay = container["readinessProbe"]["initialDelaySeconds"].as_i64().unwrap_or_default();
            let left = SignedDuration::from_secs(delay) - now.duration_since(started);
            status["started"] = true.into();
            status["ready"] = (left <= SignedDuration::ZERO).into();
            if left > SignedDuration::ZERO {
                again = Some(again.map_or(left, |again: SignedDuration| again.min(left)));
            }
        }
    }
    if status["state"]["waiting"].is_null() {
        status["containerID"] = id(status["restartCount"].as_i64().unwrap_or_default()).into();
    }
    Step { status, again }
}

/// How long a container waits after its n-th end: not at all the first time.
fn back_off(restarts: i64) -> SignedDuration {
    match restarts {
        ..=0 => SignedDuration::ZERO,
        n => SignedDuration::from_secs((FIRST_BACK_OFF << (n - 1).min(8)).min(LAST_BACK_OFF)),
    }
}

/// The next status of a Pod that is on a node and not being deleted.
pub(crate) fn report(pod: &Value, place: Place<'_>, now: Timestamp) -> Report {
    let (spec, old) = (&pod["spec"], &pod["status"]);
    let uid = text(&pod["metadata"]["uid"]);
    let restarts = spec["restartPolicy"].as_str().unwrap_or("Always");
    let previous = |list: &str, name: &Value| {
        items(&old[list]).iter().find(|status| status["name"] == *name).cloned().unwrap_or_default()
    };
    let mut again: Option<SignedDuration> = None;
    let mut soonest = |step: Option<SignedDuration>| {
        again = again.into_iter().chain(step).min();
    };

    let mut init = Vec::new();
    let mut initialized = true;
    for container in items(&spec["initContainers"]) {
        let sidecar = container["restartPolicy"] == "Always";
        let old = previous("initContainerStatuses", &container["name"]);
        // An init container that says nothing else is done at once.
        let at_once = Place { run_time: Duration::ZERO, ..place };
        let restarts = if sidecar {
            "Always"
        } else if restarts == "Never" {
            "Never"
        } else {
            "OnFailure"
        };
        let mut step = step(container, &old, &uid, restarts, at_once, now);
        let done = step.status["state"]["terminated"]["exitCode"] == 0;
        if done {
            step.status["ready"] = true.into();
        }
        initialized &= done || (sidecar && !step.status["state"]["running"].is_null());
        soonest(step.again);
        init.push(step.status);
        if !initialized {
            break;
        }
    }
    let mut containers = Vec::new();
    for container in items(&spec["containers"]) {
        if !initialized {
            containers.push(json!({
                "name": container["name"], "image": container["image"], "imageID": "", "ready": false, "started": false,
                "restartCount": 0, "lastState": {}, "state": {"waiting": {"reason": "PodInitializing"}},
            }));
            continue;
        }
        let step =
            step(container, &previous("containerStatuses", &container["name"]), &uid, restarts, place, now);
        soonest(step.again);
        containers.push(step.status);
    }

    let code = |status: &Value| status["state"]["terminated"]["exitCode"].as_i64();
    let failed_init = init.iter().any(|status| code(status).is_some_and(|code| code != 0));
    let phase = if failed_init && restarts == "Never" {
        "Failed"
    } else if !containers.is_empty() && containers.iter().all(|status| code(status).is_some()) {
        if containers.iter().all(|status| code(status) == Some(0)) { "Succeeded" } else { "Failed" }
    } else if containers
        .iter()
        .any(|status| status["state"]["waiting"].is_object() && status["lastState"]["terminated"].is_null())
    {
        "Pending"
    } else {
        "Running"
    };

    let mut status = old.clone();
    if !status.is_object() {
        status = json!({});
    }
    status["phase"] = phase.into();
    status["hostIP"] = place.host_ip.into();
    status["hostIPs"] = json!([{"ip": place.host_ip}]);
    status["podIP"] = place.pod_ip.into();
    status["podIPs"] = json!([{"ip": place.pod_ip}]);
    if status["startTime"].is_null() {
        status["startTime"] = stamp(now).into();
    }
    let unready: Vec<String> = containers
        .iter()
        .filter(|status| status["ready"] != true)
        .map(|status| text(&status["name"]))
        .collect();
    status["containerStatuses"] = containers.into();
    if !init.is_empty() {
        status["initContainerStatuses"] = init.into();
    }

    let mut conditions = items(&status["conditions"]).to_vec();
    let finished = phase == "Succeeded" || phase == "Failed";
    let gates_open = items(&spec["readinessGates"])
        .iter()
        .all(|gate| is_true(&status, gate["conditionType"].as_str().unwrap_or_default()));
    let containers_ready = unready.is_empty() && !finished;
    let (reason, message) = match (containers_ready, phase) {
        (true, _) => ("", String::new()),
        (false, "Succeeded") => ("PodCompleted", String::new()),
        (false, "Failed") => ("PodFailed", String::new()),
        (false, _) => {
            ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
        }
    };
    let mut set = |kind: &str, status: bool, reason: &str, message: &str| {
        set_condition(&mut conditions, &Condition { kind, status, reason, message: message.to_owned() }, now);
    };
    set("PodReadyToStartContainers", !finished, "", "");
    set("Initialized", initialized, if initialized { "" } else { "ContainersNotInitialized" }, "");
    set("ContainersReady", containers_ready, reason, &message);
    match containers_ready && !gates_open {
        true => set(
            "Ready",
            false,
            "ReadinessGatesNotReady",
            "the status of a pod readiness gate is not \"True\"",
        ),
        false => set("Ready", containers_ready, reason, &message),
    }
    set("PodScheduled", true, "", "");
    status["conditions"] = conditions.into();
    let again = again.map(|again| Duration::try_from(again).unwrap_or_default());
    Report { status, again }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> =
        Place { host_ip: "10.0.0.1", pod_ip: "10.244.0.2", run_time: Duration::from_secs(2) };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(restarts: &str, container: Value) -> Value {
        json!({"metadata": {"uid": "u"}, "spec": {"restartPolicy": restarts, "containers": [container]}})
    }

    fn after(pod: &mut Value, second: i64) -> (String, Option<u64>) {
        let report = report(pod, PLACE, at(second));
        pod["status"] = report.status;
        (text(&pod["status"]["phase"]), report.again.map(|again| again.as_secs()))
    }

    #[test]
    fn a_server_starts_is_ready_and_stays_so() {
        let mut pod = pod("Always", json!({"name": "web", "image": "nginx:1"}));
        assert_eq!(after(&mut pod, 5), ("Running".to_owned(), None));
        assert!(is_true(&pod["status"], "Ready"));
        assert_eq!(pod["status"]["podIP"], "10.244.0.2");
        assert_eq!(
            pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"],
            "1970-01-01T00:00:05Z"
        );
        let before = pod.clone();
        after(&mut pod, 99);
        assert_eq!(pod, before, "a restart of the sandbox writes nothing");
    }

    #[test]
    fn a_readiness_probe_delays_being_ready() {
        let mut pod = pod(
            "Always",
            json!({"name": "web", "image": "nginx", "readinessProbe": {"initialDelaySeconds": 3}}),
        );
        assert_eq!(after(&mut pod, 0), ("Running".to_owned(), Some(3)));
        assert!(!is_true(&pod["status"], "Ready"));
        assert_eq!(after(&mut pod, 3), ("Running".to_owned(), None));
        assert!(is_true(&pod["status"], "Ready"));
    }

    #[test]
    fn an_image_that_is_no_reference_never_starts() {
        let mut pod = pod("Always", json!({"name": "web", "image": "Not An Image"}));
        assert_eq!(after(&mut pod, 0), ("Pending".to_owned(), None));
        assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "InvalidImageName");
    }

    #[test]
    fn what_is_not_restarted_ends_with_the_code_its_command_says() {
        let mut good = pod("Never", json!({"name": "job", "image": "busybox"}));
        assert_eq!(after(&mut good, 0), ("Running".to_owned(), Some(2)));
        assert_eq!(after(&mut good, 2), ("Succeeded".to_owned(), None));
        let mut bad = pod(
            "Never",
            json!({"name": "job", "image": "busybox", "command": ["sh", "-c", "sleep 5; exit 3"]}),
        );
        assert_eq!(after(&mut bad, 0), ("Running".to_owned(), Some(5)));
        assert_eq!(after(&mut bad, 5), ("Failed".to_owned(), None));
        assert_eq!(bad["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    }

    #[test]
    fn what_fails_and_is_restarted_backs_off() {
        let mut pod = pod("Always", json!({"name": "web", "image": "busybox", "command": ["/bin/false"]}));
        assert_eq!(after(&mut pod, 0), ("Running".to_owned(), Some(0)));
        assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(after(&mut pod, 1), ("Running".to_owned(), Some(10)));
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
        assert_eq!(after(&mut pod, 2), ("Running".to_owned(), Some(9)));
    }
}
