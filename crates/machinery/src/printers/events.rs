//! Events, in the form of the core group and of `events.k8s.io`.

use serde_json::Value;

use super::{Heading, NAME, Sheet, has, int, non_empty, since, text};
use crate::table::name_of;

pub(super) static EVENT: Sheet = Sheet::new(
    &[
        Heading::of("Last Seen", "core.v1.Event", "lastTimestamp"),
        Heading::of("Type", "core.v1.Event", "type"),
        Heading::of("Reason", "core.v1.Event", "reason"),
        Heading::of("Object", "core.v1.Event", "involvedObject"),
        Heading::of("Subobject", "core.v1.ObjectReference", "fieldPath").wide(),
        Heading::of("Source", "core.v1.Event", "source").wide(),
        Heading::of("Message", "core.v1.Event", "message"),
        Heading::of("First Seen", "core.v1.Event", "firstTimestamp").wide(),
        Heading::of("Count", "core.v1.Event", "count").wide(),
        NAME.wide(),
    ],
    |object, now| {
        // The second name of each pair is that of events.k8s.io.
        let either = |core: &str, events: &str| non_empty(text(object, core), text(object, events));
        let about = |field: &str| {
            non_empty(
                text(object, &format!("/involvedObject/{field}")),
                text(object, &format!("/regarding/{field}")),
            )
        };
        let source = |field: &str| {
            non_empty(
                text(object, &format!("/source/{field}")),
                text(object, &format!("/deprecatedSource/{field}")),
            )
        };
        let first = either("/firstTimestamp", "/deprecatedFirstTimestamp");
        let first = non_empty(first, text(object, "/eventTime"));
        let last = non_empty(either("/lastTimestamp", "/deprecatedLastTimestamp"), first);
        let (last, count) = if has(object, "/series") {
            (text(object, "/series/lastObservedTime"), int(object, "/series/count"))
        } else {
            let count = int(object, "/count").max(int(object, "/deprecatedCount"));
            (last, count.max(1))
        };
        let kind = about("kind").to_lowercase();
        let target = if about("name").is_empty() { kind } else { format!("{kind}/{}", about("name")) };
        let component = non_empty(source("component"), either("/reportingComponent", "/reportingController"));
        let source = match non_empty(source("host"), text(object, "/reportingInstance")) {
            "" => component.to_owned(),
            instance => format!("{component}, {instance}"),
        };
        let cells: Vec<Value> = vec![
            since(last, now).into(),
            text(object, "/type").into(),
            text(object, "/reason").into(),
            target.into(),
            about("fieldPath").into(),
            source.into(),
            either("/message", "/note").trim().into(),
            since(first, now).into(),
            count.into(),
            name_of(object),
        ];
        cells.into()
    },
);
