//! How an object is read whose status alone matters: past its spec, which is the larger part of it.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// The fields of `spec` that say what a status is to be held against; all others are skipped while reading.
const KEPT: [&str; 5] = ["replicas", "type", "updateStrategy", "suspend", "restartPolicy"];
/// An object as its watch shows it: what it is called, what of its spec a status is held against, and its status.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Shown {
    /// Name, namespace, resourceVersion, generation and deletionTimestamp; nothing else is read.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// A few fields of `spec`, as an object.
    #[serde(default, deserialize_with = "kept")]
    pub spec: Map<String, Value>,
    /// `status`; `None` if there is none.
    #[serde(default)]
    pub status: Option<Value>,
}

fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Lean {
        name: Option<String>,
        namespace: Option<String>,
        resource_version: Option<String>,
        generation: Option<i64>,
        deletion_timestamp: Option<Time>,
    }
    let lean = Lean::deserialize(from)?;
    Ok(ObjectMeta {
        name: lean.name,
        namespace: lean.namespace,
        resource_version: lean.resource_version,
        generation: lean.generation,
        deletion_timestamp: lean.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

/// Reads a few fields of an object; anything that is not an object has none of them.
fn kept<'de, D: Deserializer<'de>>(from: D) -> Result<Map<String, Value>, D::Error> {
    struct Fields;

    impl<'de> Visitor<'de> for Fields {
        type Value = Map<String, Value>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a spec")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
            let mut fields = Map::new();
            while let Some(name) = from.next_key::<String>()? {
                if KEPT.contains(&&*name) {
                    fields.insert(name, from.next_value()?);
                } else {
                    from.next_value::<IgnoredAny>()?;
                }
            }
            Ok(fields)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
            while from.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Map::new())
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Map::new())
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(Map::new())
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok(Map::new())
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok(Map::new())
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok(Map::new())
        }

        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok(Map::new())
        }
    }

    from.deserialize_any(Fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_a_status_is_held_against_is_read() {
        let shown: Shown = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "shop", "generation": 3, "resourceVersion": "7", "labels": {"a": "b"},
                "managedFields": [{"manager": "x", "fieldsV1": {}}]},
            "spec": {"replicas": 2, "template": {"spec": {"containers": []}}},
            "status": {"replicas": 1},
        }))
        .unwrap();
        assert_eq!(shown.metadata.generation, Some(3));
        assert_eq!((shown.metadata.labels, shown.metadata.managed_fields), (None, None));
        assert_eq!(Value::from(shown.spec), json!({"replicas": 2}));
        assert_eq!(shown.status, Some(json!({"replicas": 1})));
    }

    #[test]
    fn a_spec_of_any_shape_is_read() {
        for spec in [json!(null), json!([1, [2]]), json!("s"), json!(1), json!(-1), json!(1.5), json!(true)] {
            let shown: Shown =
                serde_json::from_value(json!({"metadata": {"name": "x"}, "spec": spec})).unwrap();
            assert!(shown.spec.is_empty() && shown.status.is_none());
        }
        let shown: Shown = serde_json::from_value(json!({"metadata": {"name": "x"}, "status": {}})).unwrap();
        assert_eq!(shown.status, Some(json!({})));
    }
}
