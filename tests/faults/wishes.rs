//! What is asked of the host, and what is read of objects.

use std::{collections::BTreeMap, fmt::Debug};

use serde_json::{Value, json};

/// The federated types of the tests: ConfigMaps, and the custom resource to which everything belongs whose name begins with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    ConfigMap,
    Widget,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::ConfigMap, Self::Widget];

    pub fn of(name: &str) -> Self {
        if name.starts_with("widget") { Self::Widget } else { Self::ConfigMap }
    }

    /// Where the federated objects are, on the host.
    pub const fn federated(self) -> &'static str {
        match self {
            Self::ConfigMap => "/apis/types.kubefed.io/v1beta1/namespaces/shop/federatedconfigmaps",
            Self::Widget => "/apis/types.kubefed.io/v1beta1/namespaces/shop/federatedwidgets",
        }
    }

    /// Where their copies are, in a member.
    pub fn copies(self) -> &'static str {
        match self {
            Self::ConfigMap => "/api/v1/namespaces/shop/configmaps",
            Self::Widget => "/apis/example.org/v1/namespaces/shop/widgets",
        }
    }

    /// The field that the tests give a value, and the body of an object that has it.
    pub fn field(self) -> &'static str {
        match self {
            Self::ConfigMap => "/data/key",
            Self::Widget => "/spec/key",
        }
    }

    pub fn body(self, value: &str) -> Value {
        match self {
            Self::ConfigMap => json!({"data": {"key": value}}),
            Self::Widget => json!({"spec": {"key": value}}),
        }
    }
}

pub fn federated_path(name: &str) -> String {
    format!("{}/{name}", Kind::of(name).federated())
}

pub fn copy_path(name: &str) -> String {
    format!("{}/{name}", Kind::of(name).copies())
}

/// What a federated object is to be: its value, where, and which value one member has instead.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    value: String,
    pub clusters: &'static [&'static str],
    instead: Option<(&'static str, String)>,
}

pub fn wish(value: impl ToString, clusters: &'static [&'static str]) -> Wish {
    Wish { value: value.to_string(), clusters, instead: None }
}

impl Wish {
    pub fn but(self, member: &'static str, value: &str) -> Self {
        Self { instead: Some((member, value.to_owned())), ..self }
    }

    /// What a member is to have.
    pub fn on(&self, member: &str) -> Option<&str> {
        let instead = self.instead.as_ref().filter(|(name, _)| *name == member);
        let value = instead.map_or(&*self.value, |(_, value)| value);
        self.clusters.contains(&member).then_some(value)
    }

    pub fn spec(&self, kind: Kind) -> Value {
        let on = |name: &&str| json!({ "name": name });
        let overrides: Vec<_> = self.instead.iter().map(|(member, value)| {
            json!({"clusterName": member, "clusterOverrides": [{"path": kind.field(), "value": value}]})
        }).collect();
        json!({"template": kind.body(&self.value), "overrides": overrides,
            "placement": {"clusters": self.clusters.iter().map(on).collect::<Vec<_>>()}})
    }
}

/// What of an object does not change while nobody writes it: its UID and its version.
pub type Identity = (String, String);

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn name(object: &Value) -> String {
    text(&object["metadata"]["name"])
}

pub fn identity(object: &Value) -> Identity {
    (text(&object["metadata"]["uid"]), text(&object["metadata"]["resourceVersion"]))
}

/// `Ok` if the two are the same.
pub fn same<T: PartialEq + Debug>(what: &str, found: &T, wanted: &T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: found {found:?}, wanted {wanted:?}")) }
}

/// The word of each cluster in a federated object's status.
pub fn words(object: &Value) -> BTreeMap<String, String> {
    let clusters = object["status"]["clusters"].as_array().into_iter().flatten();
    clusters.map(|cluster| (text(&cluster["name"]), text(&cluster["status"]))).collect()
}
