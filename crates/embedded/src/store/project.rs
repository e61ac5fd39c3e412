//! Telling the facts of objects that are read back.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::thread;

use bytes::Bytes;
use serde_json::Value;

use super::{Entry, Facts, Key};

/// Tells the facts of an object.
pub type Projector = fn(&Key, &Value) -> Facts;

/// An object as it is read back: its key, its revision and its JSON.
pub(super) type Object = (Key, u64, Bytes);

/// An object that is not JSON.
#[derive(Debug, thiserror::Error)]
#[error("{key} is not JSON: {source}")]
pub(super) struct NotJson {
    key: Key,
    source: serde_json::Error,
}

/// Parses all objects for their facts. That is most of what a start takes, so it is shared out among the processors.
pub(super) fn project(objects: &[Object], projector: Projector) -> Result<Vec<Entry>, NotJson> {
    let one = |(key, revision, object): &Object| {
        let value = serde_json::from_slice(object).map_err(|source| NotJson { key: key.clone(), source })?;
        let facts = projector(key, &value);
        Ok(Entry { key: key.clone(), revision: *revision, object: object.clone(), facts })
    };
    let share = objects.len().div_ceil(thread::available_parallelism().map_or(1, NonZeroUsize::get)).max(1);
    let parts: Result<Vec<Vec<_>>, _> = thread::scope(|scope| {
        let parts: Vec<_> = objects
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(one).collect::<Result<Vec<_>, _>>()))
            .collect();
        parts.into_iter().map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    Ok(parts?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(count: u64) -> Vec<Object> {
        (0..count)
            .map(|n| (Key::new("pods", "x", n.to_string()), n, Bytes::from(format!("{{\"n\":{n}}}"))))
            .collect()
    }

    fn facts(_: &Key, object: &Value) -> Facts {
        Facts { uid: object["n"].to_string(), ..Facts::default() }
    }

    #[test]
    fn every_object_gets_its_own_facts() {
        for count in [0, 1, 2, 3, 17, 100] {
            let entries = project(&objects(count), facts).unwrap();
            assert_eq!(entries.len() as u64, count);
            for entry in entries {
                assert_eq!(entry.facts.uid, entry.key.name);
                assert_eq!(entry.facts.uid, entry.revision.to_string());
            }
        }
    }

    #[test]
    fn an_object_that_is_not_json_is_named() {
        let mut objects = objects(10);
        objects[7].2 = Bytes::from_static(b"{");
        let error = project(&objects, facts).unwrap_err();
        assert!(error.to_string().starts_with("pods/x/7 is not JSON"), "{error}");
    }
}
