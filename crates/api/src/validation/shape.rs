//! Whether an object decodes at all: the fields that are there have the types that KubeFed's Go types give them. What they
//! say is judged afterwards.

use hansa_machinery::{duration, field::Path};
use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// An object that cannot be decoded.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("cannot decode the object as a {kind}: {field} must be {expected}")]
pub struct Misshapen {
    /// What it should be.
    pub kind: &'static str,
    /// The field of another type.
    pub field: String,
    /// The type it should have.
    pub expected: &'static str,
}

enum Shape {
    Text,
    Integer,
    /// A Go duration.
    Duration,
    /// RFC 3339.
    Time,
    /// Base64.
    Bytes,
    List(&'static Shape),
    Map(&'static Shape),
    Object(&'static [(&'static str, Shape)]),
}

use Shape::{Bytes, Duration, Integer, List, Map, Object, Text, Time};

const METADATA: Shape = Object(&[
    ("name", Text),
    ("namespace", Text),
    ("labels", Map(&Text)),
    ("annotations", Map(&Text)),
    ("finalizers", List(&Text)),
]);

const CLUSTER: Shape = Object(&[
    ("metadata", METADATA),
    (
        "spec",
        Object(&[
            ("apiEndpoint", Text),
            ("caBundle", Bytes),
            ("secretRef", Object(&[("name", Text)])),
            ("disabledTLSValidations", List(&Text)),
            ("proxyURL", Text),
        ]),
    ),
    (
        "status",
        Object(&[
            (
                "conditions",
                List(&Object(&[
                    ("type", Text),
                    ("status", Text),
                    ("lastProbeTime", Time),
                    ("lastTransitionTime", Time),
                    ("reason", Text),
                    ("message", Text),
                ])),
            ),
            ("kubernetesVersion", Text),
            ("zones", List(&Text)),
            ("region", Text),
        ]),
    ),
]);

const CONFIG: Shape = Object(&[
    ("metadata", METADATA),
    (
        "spec",
        Object(&[
            ("scope", Text),
            (
                "controllerDuration",
                Object(&[
                    ("availableDelay", Duration),
                    ("unavailableDelay", Duration),
                    ("cacheSyncTimeout", Duration),
                ]),
            ),
            (
                "leaderElect",
                Object(&[
                    ("leaseDuration", Duration),
                    ("renewDeadline", Duration),
                    ("retryPeriod", Duration),
                    ("resourceLock", Text),
                ]),
            ),
            ("featureGates", List(&Object(&[("name", Text), ("configuration", Text)]))),
            (
                "clusterHealthCheck",
                Object(&[
                    ("period", Duration),
                    ("timeout", Duration),
                    ("failureThreshold", Integer),
                    ("successThreshold", Integer),
                ]),
            ),
            ("syncController", Object(&[("maxConcurrentReconciles", Integer), ("adoptResources", Text)])),
            ("statusController", Object(&[("maxConcurrentReconciles", Integer)])),
        ]),
    ),
]);

const RESOURCE: Shape =
    Object(&[("group", Text), ("version", Text), ("kind", Text), ("pluralName", Text), ("scope", Text)]);

const TYPE_CONFIG: Shape = Object(&[
    ("metadata", METADATA),
    (
        "spec",
        Object(&[
            ("targetType", RESOURCE),
            ("propagation", Text),
            ("federatedType", RESOURCE),
            ("statusType", RESOURCE),
            ("statusCollection", Text),
        ]),
    ),
    (
        "status",
        Object(&[
            ("observedGeneration", Integer),
            ("propagationController", Text),
            ("statusController", Text),
        ]),
    ),
]);

impl Shape {
    /// The first field of another type, with the type it should have.
    fn misfit(&self, path: &Path<'_>, value: &Value) -> Option<(String, &'static str)> {
        let fits = match (self, value) {
            // Go leaves what is null as it is.
            (_, Value::Null) => return None,
            (Object(fields), Value::Object(object)) => {
                let mut members =
                    fields.iter().filter_map(|(name, shape)| Some((name, shape, object.get(*name)?)));
                return members.find_map(|(name, shape, value)| shape.misfit(&path.field(name), value));
            }
            (Map(shape), Value::Object(object)) => {
                return object.iter().find_map(|(key, value)| shape.misfit(&path.key(key), value));
            }
            (List(shape), Value::Array(items)) => {
                let mut items = items.iter().enumerate();
                return items.find_map(|(index, item)| shape.misfit(&path.index(index), item));
            }
            (Text, value) => value.is_string(),
            (Integer, value) => value.is_i64(),
            (Duration, Value::String(text)) => duration::parse(text).is_ok(),
            (Time, Value::String(text)) => text.parse::<jiff::Timestamp>().is_ok(),
            (Bytes, value) => ByteString::deserialize(value).is_ok(),
            _ => false,
        };
        let expected = match self {
            Text => "a string",
            Integer => "an integer",
            Duration => "a duration such as \"1m30s\"",
            Time => "a time as RFC 3339 has it",
            Bytes => "text in base64",
            List(_) => "a list",
            Map(_) | Object(_) => "an object",
        };
        (!fits).then(|| (path.text(), expected))
    }

    fn check(&self, kind: &'static str, object: &Value) -> Result<(), Misshapen> {
        let misfit = if object.is_object() {
            self.misfit(&Path::ROOT, object)
        } else {
            Some(("it".to_owned(), "an object"))
        };
        misfit.map_or(Ok(()), |(field, expected)| Err(Misshapen { kind, field, expected }))
    }
}

/// Whether an object decodes as a KubeFedCluster.
///
/// # Errors
/// Names the first field that is of another type.
pub fn cluster_shape(object: &Value) -> Result<(), Misshapen> {
    CLUSTER.check("KubeFedCluster", object)
}

/// Whether an object decodes as a KubeFedConfig.
///
/// # Errors
/// Names the first field that is of another type.
pub fn config_shape(object: &Value) -> Result<(), Misshapen> {
    CONFIG.check("KubeFedConfig", object)
}

/// Whether an object decodes as a FederatedTypeConfig.
///
/// # Errors
/// Names the first field that is of another type.
pub fn type_config_shape(object: &Value) -> Result<(), Misshapen> {
    TYPE_CONFIG.check("FederatedTypeConfig", object)
}
