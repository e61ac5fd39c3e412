//! Kubernetes' own resources and schemas, as data that Kubernetes publishes with its source
//! (`cargo xtask openapi` regenerates it).

use std::{
    collections::HashMap,
    io::Read,
    sync::{Arc, LazyLock},
};

use serde::Deserialize;
use serde_json::Value;

use crate::schema::{Definitions, Schema};

/// One group version of the built-in API.
#[derive(Debug, Deserialize)]
pub struct Group {
    /// The API group; empty for the core group.
    pub group: String,
    /// The one version served.
    pub version: String,
    /// Its resources.
    pub resources: Vec<Resource>,
}

/// One built-in resource, as discovery describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// The plural name in the URL.
    pub name: String,
    /// The singular name that kubectl accepts.
    pub singular_name: String,
    /// The kind of its objects.
    pub kind: String,
    /// The group of `kind` where it is not the resource's own (`Scale` of `autoscaling`).
    #[serde(default)]
    pub group: Option<String>,
    /// The version of `kind` where it is not the resource's own.
    #[serde(default)]
    pub version: Option<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// The verbs it answers to.
    pub verbs: Vec<String>,
    /// Abbreviations for kubectl.
    #[serde(default)]
    pub short_names: Vec<String>,
    /// Groups of resources such as `all`.
    #[serde(default)]
    pub categories: Vec<String>,
    /// `status`, `scale`, …
    #[serde(default)]
    pub subresources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Document {
    version: String,
    groups: Vec<Group>,
    schemas: Value,
}

/// The built-in API of one Kubernetes release.
#[derive(Debug)]
pub struct Kubernetes {
    /// The release, such as `1.37.2`.
    pub version: String,
    /// Its stable groups.
    pub groups: Vec<Group>,
    /// Its schemas as documents, for publication.
    pub documents: Value,
    /// Its schemas, to be walked.
    pub definitions: Arc<Definitions>,
    kinds: HashMap<String, HashMap<String, String>>,
}

impl Kubernetes {
    /// The schema of a kind of a group, in the version that is served.
    pub fn schema(&self, group: &str, kind: &str) -> Option<Schema> {
        self.definitions.get(self.kinds.get(group)?.get(kind)?)
    }
}

/// The names of the definitions of all kinds, by group and kind.
fn kinds(groups: &[Group], schemas: &Value) -> HashMap<String, HashMap<String, String>> {
    let mut kinds: HashMap<String, HashMap<String, String>> = HashMap::new();
    for (name, schema) in schemas.as_object().into_iter().flatten() {
        // Options are listed with every group that takes them; an object is of one kind.
        let Some([gvk]) = schema["x-kubernetes-group-version-kind"].as_array().map(Vec::as_slice) else {
            continue;
        };
        let served = |group: &&Group| gvk["group"] == group.group && gvk["version"] == group.version;
        if let (Some(group), Some(kind)) = (groups.iter().find(served), gvk["kind"].as_str()) {
            kinds.entry(group.group.clone()).or_default().insert(kind.to_owned(), name.clone());
        }
    }
    kinds
}

static DATA: &[u8] = include_bytes!("../data/kubernetes.json.gz");

/// The built-in API. Read once; the data is part of the program and checked by a test.
#[allow(clippy::expect_used)]
pub static KUBERNETES: LazyLock<Kubernetes> = LazyLock::new(|| {
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(DATA).read_to_end(&mut json).expect("embedded data is gzip");
    let Document { version, groups, schemas } = serde_json::from_slice(&json).expect("embedded data is JSON");
    let (kinds, definitions) = (kinds(&groups, &schemas), Definitions::new(&schemas));
    Kubernetes { version, groups, definitions, kinds, documents: schemas }
});
