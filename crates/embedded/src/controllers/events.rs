//! Events are kept for an hour.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::{DeleteOptions, Server, local::Select};

/// kube-apiserver's `--event-ttl`.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How often old ones are looked for.
const INTERVAL: Duration = Duration::from_secs(300);

/// Deletes Events that nobody renewed for an hour.
pub(crate) async fn run(server: Server) {
    let local = server.local();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Ok((entries, _)) = local.entries("events", "", &Select::default()) else { continue };
        let now = Timestamp::now();
        for entry in entries {
            let Ok(event) = serde_json::from_slice::<Value>(&entry.object) else { continue };
            if is_old(&event, now) {
                let options = DeleteOptions {
                    resource_version: Some(entry.revision.to_string()),
                    ..DeleteOptions::default()
                };
                // One that was renewed in between stays.
                drop(local.delete("events", &entry.key.namespace, &entry.key.name, &options).await);
            }
        }
    }
}

fn is_old(event: &Value, now: Timestamp) -> bool {
    let times = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    let times = times.iter().filter_map(|path| event.pointer(path)?.as_str()?.parse::<Timestamp>().ok());
    let age = times.max().map(|time| now.duration_since(time));
    age.is_some_and(|age| age.as_secs() > LIFETIME.as_secs().cast_signed())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_old_an_hour_after_it_was_last_seen() {
        let now: Timestamp = "2030-01-01T10:00:00Z".parse().expect("a time");
        let event = |last: &str| json!({"metadata": {"creationTimestamp": "2030-01-01T00:00:00Z"}, "lastTimestamp": last});
        assert!(is_old(&event("2030-01-01T08:59:00Z"), now));
        assert!(!is_old(&event("2030-01-01T09:30:00Z"), now));
        assert!(!is_old(&json!({}), now), "what says nothing about time is left alone");
    }
}
