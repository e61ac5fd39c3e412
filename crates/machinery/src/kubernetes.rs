//! Kubernetes' own resources and schemas, as data that Kubernetes publishes with its source
//! (`cargo xtask openapi` regenerates it).

use std::{
    io::Read,
    sync::{Arc, LazyLock},
};

use serde::Deserialize;
use serde_json::Value;

use crate::schema::Definitions;

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
}

static DATA: &[u8] = include_bytes!("../data/kubernetes.json.gz");

/// The built-in API. Read once; the data is part of the program and checked by a test.
#[allow(clippy::expect_used)]
pub static KUBERNETES: LazyLock<Kubernetes> = LazyLock::new(|| {
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(DATA).read_to_end(&mut json).expect("embedded data is gzip");
    let Document { version, groups, schemas } = serde_json::from_slice(&json).expect("embedded data is JSON");
    Kubernetes { version, groups, definitions: Definitions::new(&schemas), documents: schemas }
});
