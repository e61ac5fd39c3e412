//! What the store keeps: keys, encoded objects and the facts that selection needs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

/// Where an object lives: resource, namespace and name, ordered in that way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The resource with its group, such as `pods` or `deployments.apps`.
    pub resource: Arc<str>,
    /// The namespace; empty for a cluster-scoped object.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// The key of one object.
    pub fn new(resource: impl Into<Arc<str>>, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }

    /// Where it stands among the objects of its resource.
    pub(super) fn place(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{}/{}", self.resource, self.name),
            namespace => write!(f, "{}/{namespace}/{}", self.resource, self.name),
        }
    }
}

/// One version of one object.
#[derive(PartialEq)]
pub struct Entry {
    /// Where it lives.
    pub key: Key,
    /// The revision of the write that made this version: its `resourceVersion`.
    pub revision: u64,
    /// The object as JSON, `metadata.resourceVersion` included.
    pub object: Bytes,
    /// What selection and garbage collection need to know without parsing the object.
    pub facts: Facts,
}

impl fmt::Debug for Entry {
    /// Says nothing of the object, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.revision)
    }
}

/// What selection and garbage collection need to know of an object without parsing it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// The fields that a field selector may name.
    pub fields: BTreeMap<String, String>,
    /// `metadata.uid`.
    pub uid: String,
    /// The uids in `metadata.ownerReferences`.
    pub owners: Vec<String>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
}

/// An object encoded but for its `metadata.resourceVersion`, which is known only when the write is put in order.
///
/// Encoding happens where the request is served, so that the one thread that orders all writes only copies bytes.
#[derive(Clone)]
pub struct Draft {
    encoded: Vec<u8>,
    gap: usize,
    facts: Facts,
}

impl fmt::Debug for Draft {
    /// Says nothing of the object, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.encoded.len())
    }
}

const METADATA: &str = "metadata";
const RESOURCE_VERSION: &str = "resourceVersion";

impl Draft {
    /// Encodes an object; a `metadata.resourceVersion` it has is left out.
    pub fn new(object: &Value, facts: Facts) -> Self {
        let empty = serde_json::Map::new();
        let metadata = object.get(METADATA).and_then(Value::as_object).unwrap_or(&empty);
        let mut encoded = Vec::with_capacity(1024);
        encoded.push(b'{');
        for (name, value) in
            object.as_object().into_iter().flatten().filter(|(name, _)| name.as_str() < METADATA)
        {
            member(&mut encoded, name, value);
        }
        name_of(&mut encoded, METADATA);
        encoded.push(b'{');
        for (name, value) in metadata.iter().filter(|(name, _)| name.as_str() < RESOURCE_VERSION) {
            member(&mut encoded, name, value);
        }
        name_of(&mut encoded, RESOURCE_VERSION);
        encoded.push(b'"');
        let gap = encoded.len();
        encoded.push(b'"');
        for (name, value) in metadata.iter().filter(|(name, _)| name.as_str() > RESOURCE_VERSION) {
            member(&mut encoded, name, value);
        }
        encoded.push(b'}');
        for (name, value) in
            object.as_object().into_iter().flatten().filter(|(name, _)| name.as_str() > METADATA)
        {
            member(&mut encoded, name, value);
        }
        encoded.push(b'}');
        Self { encoded, gap, facts }
    }

    /// How many bytes the object takes, but for the revision.
    pub fn size(&self) -> usize {
        self.encoded.len()
    }

    /// The entry that this draft becomes at a revision.
    pub(super) fn fill(self, key: Key, revision: u64) -> Entry {
        let digits = revision.to_string();
        let mut object = Vec::with_capacity(self.encoded.len() + digits.len());
        object.extend_from_slice(&self.encoded[..self.gap]);
        object.extend_from_slice(digits.as_bytes());
        object.extend_from_slice(&self.encoded[self.gap..]);
        Entry { key, revision, object: object.into(), facts: self.facts }
    }
}

/// Appends `"name":value`, after a comma unless it comes first in its object.
fn member(out: &mut Vec<u8>, name: &str, value: &Value) {
    name_of(out, name);
    out.extend_from_slice(value.to_string().as_bytes());
}

fn name_of(out: &mut Vec<u8>, name: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.extend_from_slice(Value::from(name).to_string().as_bytes());
    out.push(b':');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(object: Value, revision: u64) -> Value {
        let entry = Draft::new(&object, Facts::default()).fill(Key::new("pods", "a", "b"), revision);
        serde_json::from_slice(&entry.object).unwrap()
    }

    #[test]
    fn the_revision_becomes_the_resource_version() {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "zeta": [1, {"a": "\"}"}],
            "metadata": {"name": "b", "resourceVersion": "3", "uid": "u", "labels": {}}
        });
        let mut expected = object.clone();
        expected["metadata"]["resourceVersion"] = json!("18446744073709551615");
        assert_eq!(filled(object, u64::MAX), expected);
    }

    #[test]
    fn an_object_without_metadata_gets_it() {
        assert_eq!(filled(json!({}), 7), json!({"metadata": {"resourceVersion": "7"}}));
        assert_eq!(filled(json!({"a": 1}), 7), json!({"a": 1, "metadata": {"resourceVersion": "7"}}));
        assert_eq!(
            filled(json!({"metadata": {"z": 1}, "zz": 2}), 7),
            json!({"metadata": {"resourceVersion": "7", "z": 1}, "zz": 2})
        );
    }

    #[test]
    fn members_are_encoded_in_the_order_of_their_names() {
        let draft = Draft::new(
            &json!({"kind": "A", "spec": 1, "metadata": {"name": "n", "uid": "u"}}),
            Facts::default(),
        );
        let entry = draft.fill(Key::new("as", "", "n"), 12);
        assert_eq!(
            &entry.object[..],
            br#"{"kind":"A","metadata":{"name":"n","resourceVersion":"12","uid":"u"},"spec":1}"#
        );
    }
}
