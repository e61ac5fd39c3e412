//! Scaling and disruption.

use serde_json::Value;

use super::{AGE, Heading, NAME, Sheet, age, int, int_or_text, list, quantity, text};
use crate::table::{OBJECT_META, name_of};

const HPA_SPEC: &str = "autoscaling.v2.HorizontalPodAutoscalerSpec";

pub(super) static HORIZONTAL_POD_AUTOSCALER: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Reference", HPA_SPEC, "scaleTargetRef"),
        Heading::of("Targets", HPA_SPEC, "metrics"),
        Heading::of("MinPods", HPA_SPEC, "minReplicas"),
        Heading::of("MaxPods", HPA_SPEC, "maxReplicas"),
        Heading::of("Replicas", "autoscaling.v2.HorizontalPodAutoscalerStatus", "currentReplicas"),
        AGE,
    ],
    |object, now| {
        let target = [text(object, "/spec/scaleTargetRef/kind"), text(object, "/spec/scaleTargetRef/name")];
        vec![
            name_of(object),
            target.join("/").into(),
            metrics(list(object, "/spec/metrics"), list(object, "/status/currentMetrics")).into(),
            int_or_text(object.pointer("/spec/minReplicas"), "<unset>").into(),
            int(object, "/spec/maxReplicas").into(),
            int(object, "/status/currentReplicas").into(),
            age(object, now),
        ]
        .into()
    },
);

fn metrics(specs: &[Value], statuses: &[Value]) -> String {
    const SHOWN: usize = 2;
    if specs.is_empty() {
        return "<none>".into();
    }
    let shown: Vec<String> =
        specs.iter().enumerate().take(SHOWN).map(|(index, spec)| metric(spec, statuses.get(index))).collect();
    match specs.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} + {more} more...", shown.join(", ")),
    }
}

/// What one metric is and should be.
fn metric(spec: &Value, status: Option<&Value>) -> String {
    let kind = text(spec, "/type");
    let field = match kind {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".into(),
    };
    let target =
        |name: &str| spec.pointer(&format!("/{field}/target/{name}")).filter(|value| !value.is_null());
    let status = status.and_then(|status| status.get(field)).filter(|status| !status.is_null());
    let current = |name: &str| status.and_then(|status| status.pointer(&format!("/current/{name}")));
    let unknown = || "<unknown>".to_owned();
    let measured = |name: &str| status.map_or_else(unknown, |_| quantity(current(name)));
    let percent = |value: Option<&Value>, none: &str| {
        value.and_then(Value::as_i64).map_or_else(|| none.to_owned(), |value| format!("{value}%"))
    };
    match (kind, target("averageValue")) {
        ("Pods", average) => format!("{}/{}", measured("averageValue"), quantity(average)),
        ("External" | "Object", Some(average)) => {
            let current = current("averageValue").map_or_else(unknown, |value| quantity(Some(value)));
            format!("{current}/{} (avg)", quantity(Some(average)))
        }
        ("External" | "Object", None) => format!("{}/{}", measured("value"), quantity(target("value"))),
        (_, Some(average)) => {
            let name = text(&spec[field], "/name");
            format!("{name}: {}/{}", measured("averageValue"), quantity(Some(average)))
        }
        (_, None) => {
            let current = percent(current("averageUtilization"), "<unknown>");
            format!(
                "{}: {current}/{}",
                text(&spec[field], "/name"),
                percent(target("averageUtilization"), "<auto>")
            )
        }
    }
}

pub(super) static SCALE: Sheet = Sheet::new(
    &[
        Heading::of("Name", OBJECT_META, "name"),
        Heading::of("Desired", "autoscaling.v1.ScaleSpec", "replicas").integer(),
        Heading::of("Available", "autoscaling.v1.ScaleStatus", "replicas").integer(),
        AGE,
    ],
    |object, now| {
        let (desired, available) = (int(object, "/spec/replicas"), int(object, "/status/replicas"));
        vec![name_of(object), desired.into(), available.into(), age(object, now)].into()
    },
);

pub(super) static POD_DISRUPTION_BUDGET: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new("Min Available", "The minimum number of pods that must be available."),
        Heading::new("Max Unavailable", "The maximum number of pods that may be unavailable."),
        Heading::new("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time.")
            .integer(),
        AGE,
    ],
    |object, now| {
        vec![
            name_of(object),
            int_or_text(object.pointer("/spec/minAvailable"), "N/A").into(),
            int_or_text(object.pointer("/spec/maxUnavailable"), "N/A").into(),
            int(object, "/status/disruptionsAllowed").into(),
            age(object, now),
        ]
        .into()
    },
);
