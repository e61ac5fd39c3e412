//! A federated object as it is kept: what decisions need, without its template (a large one costs ten times its text as JSON values).

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

use hansa_api::names;
use hansa_cluster::feed::Object;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::intern::intern;
use crate::overrides::{Cluster, Overrides, Selectors};
use crate::placement::{Placement, PlacementError};
use crate::status::Reported;
use crate::template;
use crate::types::TypeConfig;
use crate::version::Hashes;
use hansa_cluster::Marks;

/// A federated object, projected.
#[derive(Clone, Debug)]
pub struct Federated {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Whether it has a deletionTimestamp.
    pub deleting: bool,
    /// `metadata.finalizers`.
    pub finalizers: Box<[Arc<str>]>,
    /// Whether its copies are to stay when it is deleted.
    pub orphan: bool,
    /// Whether a copy that cannot be changed may be deleted and created again.
    pub recreate: bool,
    /// How its copies are to be deleted.
    pub delete_options: Option<Box<DeleteOptions>>,
    /// What its status says.
    pub reported: Option<Reported>,
    spec: Arc<Spec>,
}

/// What follows from `spec` alone, which most changes of an object leave as it is.
#[derive(Debug)]
pub struct Spec {
    /// Where it is to be.
    pub placement: Result<Placement, PlacementError>,
    /// What it is to be.
    pub hashes: Hashes,
    /// Whether the template has finalizers, which are dropped.
    pub drops_finalizers: bool,
    /// Which overrides a member's labels choose.
    pub selectors: Selectors,
    marks: Marks,
    tailored: Option<Box<Tailored>>,
}

impl Deref for Federated {
    type Target = Spec;

    fn deref(&self) -> &Spec {
        &self.spec
    }
}

/// What the metadata of copies is made from, where overrides reach into it.
#[derive(Clone, Debug)]
struct Tailored {
    types: TypeConfig,
    base: Value,
    overrides: Overrides,
}

impl Federated {
    /// Projects a federated object.
    pub fn project(types: &TypeConfig, object: &Value) -> Self {
        Self::with(object, Arc::new(Spec::project(types, object)))
    }

    /// Projects a federated object in its encoded form. What follows from its spec is taken from its earlier state, if that has the same
    /// generation; then the spec is not even read.
    pub(crate) fn read(types: &TypeConfig, object: &Object<'_>, before: Option<&Self>) -> Option<Self> {
        #[derive(Deserialize)]
        struct WithoutSpec {
            metadata: Value,
            status: Option<Value>,
        }
        let meta = &object.meta;
        let is_same = |before: &&Self| {
            before.uid == meta.uid && before.generation == meta.generation && meta.generation != 0
        };
        match before.filter(is_same) {
            Some(before) => {
                let WithoutSpec { metadata, status } = serde_json::from_str(object.raw).ok()?;
                let mut object = json!({ "metadata": metadata });
                if let Some(status) = status {
                    object["status"] = status;
                }
                Some(Self::with(&object, before.spec.clone()))
            }
            None => Some(Self::project(types, &serde_json::from_str(object.raw).ok()?)),
        }
    }

    fn with(object: &Value, spec: Arc<Spec>) -> Self {
        let metadata = &object["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let annotation = |name: &str| metadata["annotations"][name].as_str();
        let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
        Self {
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            generation: metadata["generation"].as_i64().unwrap_or_default(),
            deleting: !metadata["deletionTimestamp"].is_null(),
            finalizers: finalizers.filter_map(|f| f.as_str().map(intern)).collect(),
            orphan: annotation(names::ANNOTATION_ORPHAN) == Some("true"),
            recreate: annotation(names::ANNOTATION_RECREATE) == Some("true"),
            delete_options: annotation(names::ANNOTATION_DELETE_OPTION)
                .map(|text| Box::new(DeleteOptions::parse(text))),
            reported: Reported::parse(object),
            spec,
        }
    }

    /// Whether our finalizer is on it.
    pub fn is_held(&self) -> bool {
        self.finalizers.iter().any(|finalizer| **finalizer == *names::FINALIZER_SYNC)
    }
}

impl Spec {
    fn project(types: &TypeConfig, object: &Value) -> Self {
        let overrides = Overrides::parse(object);
        let base = template::base(types, object).unwrap_or_default();
        let tailored = overrides.of_metadata().map(|overrides| {
            let base =
                json!({"apiVersion": base["apiVersion"], "kind": base["kind"], "metadata": base["metadata"]});
            Box::new(Tailored { types: types.clone(), base, overrides })
        });
        Self {
            placement: Placement::parse(object),
            hashes: Hashes::of(object),
            drops_finalizers: template::has_finalizers(object),
            selectors: overrides.selectors(),
            marks: Marks::of(&base),
            tailored,
        }
    }

    /// The labels and annotations that the copy of a member is to have.
    pub fn marks(&self, cluster: Cluster<'_>) -> Cow<'_, Marks> {
        let tailored = self.tailored.as_deref().and_then(|Tailored { types, base, overrides }| {
            template::finish(types, base.clone(), overrides, cluster).ok()
        });
        tailored.map_or(Cow::Borrowed(&self.marks), |copy| Cow::Owned(Marks::of(&copy)))
    }
}

/// What `kubefed.io/deleteoption` may say (`spec/kubefed.md §1.7`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace_period_seconds: Option<u32>,
    /// `propagationPolicy`; `Background` unless given, as a Job would otherwise leave its Pods behind.
    pub propagation: Propagation,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
}

/// What becomes of the dependents of a deleted copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    #[default]
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

impl DeleteOptions {
    fn parse(text: &str) -> Self {
        let options: Value = serde_json::from_str(text).unwrap_or_default();
        let precondition = |field: &str| options["preconditions"][field].as_str().map(str::to_owned);
        Self {
            grace_period_seconds: options["gracePeriodSeconds"]
                .as_u64()
                .and_then(|seconds| seconds.try_into().ok()),
            propagation: match options["propagationPolicy"].as_str() {
                Some("Foreground") => Propagation::Foreground,
                Some("Orphan") => Propagation::Orphan,
                _ => Propagation::Background,
            },
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::tests::deployments;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn a_federated_object_is_read() {
        let federated = Federated::project(
            &deployments(),
            &json!({
                "metadata": {
                    "uid": "u", "resourceVersion": "7", "generation": 2, "finalizers": ["a", "kubefed.io/sync-controller"],
                    "annotations": {"kubefed.io/orphan": "true", "kubefed.io/deleteoption": "{\"gracePeriodSeconds\":5,\"propagationPolicy\":\"Orphan\"}"},
                },
                "spec": {"placement": {"clusters": []}},
            }),
        );
        assert!(federated.is_held() && federated.orphan && !federated.deleting);
        let options = federated.delete_options.unwrap();
        assert_eq!((options.grace_period_seconds, options.propagation), (Some(5), Propagation::Orphan));
    }

    #[test]
    fn a_nonsensical_delete_option_is_no_option() {
        for text in ["", "{", "[]", "{\"gracePeriodSeconds\":-1}"] {
            assert_eq!(DeleteOptions::parse(text), DeleteOptions::default());
        }
    }

    #[test]
    fn marks_follow_the_overrides_of_a_cluster() {
        let federated = Federated::project(
            &deployments(),
            &json!({
                "metadata": {"name": "web", "namespace": "shop"},
                "spec": {
                    "template": {"metadata": {"labels": {"a": "1"}}},
                    "overrides": [{"clusterName": "c2", "clusterOverrides": [{"path": "/metadata/labels/a", "value": "2"}]}],
                },
            }),
        );
        let live =
            |a: &str| Marks::of(&json!({"metadata": {"labels": {"a": a, "kubefed.io/managed": "true"}}}));
        let marks = |name| federated.marks(Cluster { name, labels: &BTreeMap::new() }).into_owned();
        assert!(live("1").contain(&marks("c1")) && !live("2").contain(&marks("c1")));
        assert!(live("2").contain(&marks("c2")) && !live("1").contain(&marks("c2")));
    }

    #[test]
    fn marks_follow_the_labels_of_a_cluster() {
        let selector = json!({"matchLabels": {"region": "eu"}});
        let federated = Federated::project(
            &deployments(),
            &json!({
                "metadata": {"name": "web", "namespace": "shop"},
                "spec": {
                    "template": {"metadata": {"annotations": {"a": "1"}}},
                    "overrides": [
                        {"clusterSelector": selector, "strategicMergePatch": {"metadata": {"annotations": {"a": "2"}}, "spec": {"paused": true}}},
                        {"clusterName": "c3", "clusterOverrides": [{"path": "/metadata/annotations/a", "value": "3"}]},
                    ],
                },
            }),
        );
        let live = |a: &str| {
            Marks::of(
                &json!({"metadata": {"annotations": {"a": a}, "labels": {"kubefed.io/managed": "true"}}}),
            )
        };
        for (name, region, expected) in
            [("c1", "us", "1"), ("c2", "eu", "2"), ("c3", "us", "3"), ("c3", "eu", "3")]
        {
            let labels = [("region".to_owned(), region.to_owned())].into();
            assert!(
                live(expected).contain(&federated.marks(Cluster { name, labels: &labels })),
                "{name} in {region}"
            );
            assert_eq!(federated.selectors.choose(&labels).is_empty(), region == "us");
        }
    }
}
