//! API priority and fairness.

use serde_json::Value;

use super::{AGE, Heading, NAME, Sheet, age, condition, int, non_empty, text, text_or};
use crate::table::name_of;

pub(super) static FLOW_SCHEMA: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("PriorityLevel", "flowcontrol.v1.PriorityLevelConfigurationReference", "name"),
        Heading::of("MatchingPrecedence", "flowcontrol.v1.FlowSchemaSpec", "matchingPrecedence"),
        Heading::of("DistinguisherMethod", "flowcontrol.v1.FlowSchemaSpec", "distinguisherMethod"),
        AGE,
        Heading::new("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
    ],
    |object, now| {
        vec![
            name_of(object),
            text(object, "/spec/priorityLevelConfiguration/name").into(),
            int(object, "/spec/matchingPrecedence").into(),
            text_or(object, "/spec/distinguisherMethod/type", "<none>").into(),
            age(object, now),
            non_empty(condition(object, "Dangling"), "?").into(),
        ]
        .into()
    },
);

pub(super) static PRIORITY_LEVEL: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Type", "flowcontrol.v1.PriorityLevelConfigurationSpec", "type"),
        Heading::of(
            "NominalConcurrencyShares",
            "flowcontrol.v1.LimitedPriorityLevelConfiguration",
            "nominalConcurrencyShares",
        ),
        Heading::of("Queues", "flowcontrol.v1.QueuingConfiguration", "queues"),
        Heading::of("HandSize", "flowcontrol.v1.QueuingConfiguration", "handSize"),
        Heading::of("QueueLengthLimit", "flowcontrol.v1.QueuingConfiguration", "queueLengthLimit"),
        AGE,
    ],
    |object, now| {
        let number = |pointer: &str| {
            let found = object.pointer(&format!("/spec/limited/{pointer}")).filter(|value| value.is_number());
            found.cloned().unwrap_or_else(|| Value::from("<none>"))
        };
        vec![
            name_of(object),
            text(object, "/spec/type").into(),
            number("nominalConcurrencyShares"),
            number("limitResponse/queuing/queues"),
            number("limitResponse/queuing/handSize"),
            number("limitResponse/queuing/queueLengthLimit"),
            age(object, now),
        ]
        .into()
    },
);
