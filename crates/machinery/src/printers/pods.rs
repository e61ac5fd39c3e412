//! Pods: what their containers' states amount to.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    AGE, Heading, NAME, Sheet, age, condition, flag, has, int, list, non_empty, since, text, text_or,
};
use crate::table::{Row, name_of};

pub(super) static POD: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new("Ready", "The aggregate readiness state of this pod for accepting traffic."),
        Heading::new("Status", "The aggregate status of the containers in this pod."),
        Heading::new(
            "Restarts",
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
        AGE,
        Heading::of("IP", "core.v1.PodStatus", "podIP").wide(),
        Heading::of("Node", "core.v1.PodSpec", "nodeName").wide(),
        Heading::of("Nominated Node", "core.v1.PodStatus", "nominatedNodeName").wide(),
        Heading::of("Readiness Gates", "core.v1.PodSpec", "readinessGates").wide(),
    ],
    pod,
);

fn pod(object: &Value, now: Timestamp) -> Row {
    let summary = Summary::of(object);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, since(last, now)),
        _ => summary.restarts.to_string(),
    };
    let ip = non_empty(text(object, "/status/podIP"), text(object, "/status/podIPs/0/ip"));
    let gates = list(object, "/spec/readinessGates");
    let gates = if gates.is_empty() {
        "<none>".into()
    } else {
        let open =
            gates.iter().filter(|gate| condition(object, text(gate, "/conditionType")) == "True").count();
        format!("{open}/{}", gates.len())
    };
    let cells = vec![
        name_of(object),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(object, now),
        non_empty(ip, "<none>").into(),
        text_or(object, "/spec/nodeName", "<none>").into(),
        text_or(object, "/status/nominatedNodeName", "<none>").into(),
        gates.into(),
    ];
    let completed = |reason: &str, message: &str| {
        vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
    };
    let conditions = match text(object, "/status/phase") {
        "Succeeded" => completed("Succeeded", "The pod has completed successfully."),
        "Failed" => completed("Failed", "The pod failed."),
        _ => Vec::new(),
    };
    Row { cells, conditions }
}

/// What the states of a pod's containers add up to.
struct Summary<'a> {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<&'a str>,
}

impl<'a> Summary<'a> {
    fn of(pod: &'a Value) -> Self {
        let phase = text(pod, "/status/phase");
        let mut reason = text_or(pod, "/status/reason", phase).to_owned();
        let gated = |c: &&Value| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated";
        if list(pod, "/status/conditions").iter().any(|c| gated(&c)) {
            reason = "SchedulingGated".into();
        }
        let sidecars: HashMap<&str, bool> = list(pod, "/spec/initContainers")
            .iter()
            .map(|container| (text(container, "/name"), container["restartPolicy"] == "Always"))
            .collect();
        let total =
            list(pod, "/spec/containers").len() + sidecars.values().filter(|sidecar| **sidecar).count();
        let mut summary = Self { reason, ready: 0, total, restarts: 0, last_restart: None };
        let initializing = summary.add_init_containers(pod, &sidecars);
        if !initializing || condition(pod, "Initialized") == "True" {
            summary.add_containers(pod);
        }
        if has(pod, "/metadata/deletionTimestamp") {
            if text(pod, "/status/reason") == "NodeLost" {
                summary.reason = "Unknown".into();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                summary.reason = "Terminating".into();
            }
        }
        summary
    }

    /// Takes in init containers up to the first that is still at work; says whether there is one. Afterwards the
    /// restarts are those of sidecars alone if all are done.
    fn add_init_containers(&mut self, pod: &'a Value, sidecars: &HashMap<&str, bool>) -> bool {
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        let mut initializing = false;
        for (index, container) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
            let sidecar = sidecars.get(text(container, "/name")).copied().unwrap_or_default();
            self.add_restarts(container);
            if sidecar {
                sidecar_restarts += int(container, "/restartCount");
                sidecar_last = later(sidecar_last, last_finished(container));
            }
            let waiting = text(container, "/state/waiting/reason");
            if has(container, "/state/terminated") && int(container, "/state/terminated/exitCode") == 0 {
                continue;
            }
            if sidecar && flag(container, "/started") == Some(true) {
                self.ready += usize::from(flag(container, "/ready") == Some(true));
                continue;
            }
            self.reason = if has(container, "/state/terminated") {
                format!("Init:{}", termination(container))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", list(pod, "/spec/initContainers").len())
            };
            initializing = true;
            break;
        }
        if !initializing || condition(pod, "Initialized") == "True" {
            (self.restarts, self.last_restart) = (sidecar_restarts, sidecar_last);
        }
        initializing
    }

    fn add_containers(&mut self, pod: &'a Value) {
        let (mut running, mut error) = (false, None);
        for container in list(pod, "/status/containerStatuses").iter().rev() {
            self.add_restarts(container);
            let waiting = text(container, "/state/waiting/reason");
            if !waiting.is_empty() {
                self.reason = waiting.into();
            } else if has(container, "/state/terminated") {
                self.reason = termination(container);
                if int(container, "/state/terminated/exitCode") != 0 {
                    error = Some(self.reason.clone());
                }
            } else if flag(container, "/ready") == Some(true) && has(container, "/state/running") {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            if running && condition(pod, "Ready") == "True" {
                self.reason = "Running".into();
            } else if let Some(error) = error {
                self.reason = error;
            } else if running {
                self.reason = "NotReady".into();
            }
        }
    }

    fn add_restarts(&mut self, container: &'a Value) {
        self.restarts += int(container, "/restartCount");
        self.last_restart = later(self.last_restart, last_finished(container));
    }
}

fn termination(container: &Value) -> String {
    let terminated = &container["state"]["terminated"];
    match (text(terminated, "/reason"), int(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

fn last_finished(container: &Value) -> Option<&str> {
    Some(text(container, "/lastState/terminated/finishedAt")).filter(|time| !time.is_empty())
}

/// Times of one form and zone sort as text.
fn later<'a>(a: Option<&'a str>, b: Option<&'a str>) -> Option<&'a str> {
    a.max(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(mut pod: Value) -> String {
        pod["metadata"]["name"] = "p".into();
        let row = super::pod(&pod, "2026-01-01T01:00:00Z".parse().unwrap());
        let cells: Vec<&str> = row.cells.iter().map(|cell| cell.as_str().unwrap()).collect();
        cells[1..4].join(" ")
    }

    #[test]
    fn the_state_of_a_pod_is_that_of_its_containers() {
        let running = json!({"ready": true, "state": {"running": {}}});
        let exit =
            |code: i64, reason: &str| json!({"state": {"terminated": {"exitCode": code, "reason": reason}}});
        let cases = [
            (json!({"spec": {"containers": [{}, {}]}, "status": {"phase": "Pending"}}), "0/2 Pending 0"),
            (
                json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "reason": "Evicted"}}),
                "0/1 Evicted 0",
            ),
            (
                json!({"status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}}),
                "0/0 SchedulingGated 0",
            ),
            (
                json!({"spec": {"containers": [{}]}, "status": {"phase": "Running", "containerStatuses": [running]}}),
                "1/1 Running 0",
            ),
            (
                json!({"spec": {"containers": [{}]}, "status": {"phase": "Running", "containerStatuses": [
                {"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}}}]}}),
                "0/1 CrashLoopBackOff 3 (5m ago)",
            ),
            (
                json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "containerStatuses": [exit(1, "Error")]}}),
                "0/1 Error 0",
            ),
            (
                json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "containerStatuses": [exit(2, "")]}}),
                "0/1 ExitCode:2 0",
            ),
            (
                json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"signal": 9}}}]}}),
                "0/1 Signal:9 0",
            ),
            (
                json!({"spec": {"containers": [{}, {}]}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [exit(0, "Completed"), running]}}),
                "1/2 Running 0",
            ),
            (
                json!({"spec": {"containers": [{}, {}]}, "status": {"phase": "Running", "containerStatuses": [exit(0, "Completed"), running]}}),
                "1/2 NotReady 0",
            ),
            (
                json!({"spec": {"containers": [{}, {}]}, "status": {"phase": "Running", "containerStatuses": [exit(0, "Completed"), exit(1, "Error")]}}),
                "0/2 Error 0",
            ),
            (
                json!({"spec": {"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{}]}, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2, "state": {"running": {}}}]}}),
                "0/1 Init:0/2 2",
            ),
            (
                json!({"spec": {"initContainers": [{"name": "i"}], "containers": [{}]}, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}),
                "0/1 Init:ImagePullBackOff 0",
            ),
            (
                json!({"spec": {"initContainers": [{"name": "i"}], "containers": [{}]}, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 3}}}]}}),
                "0/1 Init:ExitCode:3 0",
            ),
            (
                json!({"spec": {"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{}]}, "status": {"phase": "Running",
                "initContainerStatuses": [{"name": "s", "restartCount": 1, "started": true, "ready": true, "state": {"running": {}}}], "containerStatuses": [running]}}),
                "2/2 Running 1",
            ),
            (
                json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}}),
                "0/0 Terminating 0",
            ),
            (
                json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running", "reason": "NodeLost"}}),
                "0/0 Unknown 0",
            ),
            (
                json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Succeeded"}}),
                "0/0 Succeeded 0",
            ),
        ];
        for (pod, expected) in cases {
            assert_eq!(cells(pod.clone()), expected, "{pod}");
        }
    }

    #[test]
    fn the_wide_cells_and_conditions_of_a_pod() {
        let pod = json!({
            "metadata": {"name": "p"}, "spec": {"nodeName": "n1", "readinessGates": [{"conditionType": "a"}, {"conditionType": "b"}]},
            "status": {"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "a", "status": "True"}]}});
        let row = super::pod(&pod, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row.cells[4..],
            [json!("<unknown>"), json!("10.0.0.1"), json!("n1"), json!("<none>"), json!("1/2")]
        );
        assert_eq!(row.conditions[0]["reason"], "Succeeded");
    }
}
