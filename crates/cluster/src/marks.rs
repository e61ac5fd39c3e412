//! Labels and annotations of an object as short hashes: enough to see, without keeping them, that something we set is gone.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use kube::core::ObjectMeta;
use serde_json::Value;

/// The labels and annotations of an object, each as a hash of key and value, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(Arc<[u32]>);

impl Marks {
    /// The marks of labels and annotations.
    pub fn new<'a>(
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let labels = labels.into_iter().map(|entry| mark(false, entry));
        let annotations = annotations.into_iter().map(|entry| mark(true, entry));
        let mut marks: Vec<u32> = labels.chain(annotations).collect();
        marks.sort_unstable();
        Self(marks.into())
    }

    /// The marks of an object's metadata.
    pub fn of_metadata(metadata: &ObjectMeta) -> Self {
        fn entries(map: Option<&BTreeMap<String, String>>) -> impl Iterator<Item = (&str, &str)> {
            map.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()))
        }
        Self::new(entries(metadata.labels.as_ref()), entries(metadata.annotations.as_ref()))
    }

    /// The marks of an object.
    pub fn of(object: &Value) -> Self {
        fn entries<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
            let entries = object["metadata"][field].as_object().into_iter().flatten();
            entries.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        }
        Self::new(entries(object, "labels"), entries(object, "annotations"))
    }

    /// Whether both are kept in the same place.
    pub(crate) fn is_shared(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether every mark of `wanted` is among these.
    pub fn contain(&self, wanted: &Self) -> bool {
        wanted.0.iter().all(|mark| self.0.binary_search(mark).is_ok())
    }
}

fn mark(annotation: bool, entry: (&str, &str)) -> u32 {
    let mut hasher = DefaultHasher::new();
    (annotation, entry).hash(&mut hasher);
    let hash = hasher.finish().to_le_bytes();
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_others_added_does_not_matter_and_what_is_gone_or_changed_does() {
        let wanted = Marks::of(&json!({"metadata": {"labels": {"a": "1"}, "annotations": {"b": "2"}}}));
        let live = |metadata: Value| Marks::of(&json!({ "metadata": metadata }));
        assert!(live(json!({"labels": {"a": "1", "x": "y"}, "annotations": {"b": "2"}})).contain(&wanted));
        assert!(!live(json!({"labels": {"a": "2"}, "annotations": {"b": "2"}})).contain(&wanted));
        assert!(!live(json!({"labels": {"a": "1"}})).contain(&wanted));
        assert!(!live(json!({"labels": {"a": "1", "b": "2"}})).contain(&wanted));
        assert!(live(json!({})).contain(&Marks::default()));
    }

    proptest! {
        #[test]
        fn a_superset_contains(labels in proptest::collection::btree_map("[a-z]{1,3}", "[a-z]{0,2}", 0..8), extra in "[a-z]{4}") {
            let all = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).chain([(extra.as_str(), "")]);
            let all = Marks::new(all, []);
            let some = Marks::new(labels.iter().map(|(k, v)| (k.as_str(), v.as_str())), []);
            prop_assert!(all.contain(&some));
            prop_assert!(!some.contain(&all));
        }
    }
}
