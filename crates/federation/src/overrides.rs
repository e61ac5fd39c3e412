//! Overrides: how one member's copy differs from the template (`spec/kubefed.md §2.5`, §0 items 2 and 3).
//!
//! Beside KubeFed's own form, JSON patches for a cluster by name, an entry may be for all clusters that a selector matches, and it may
//! bring a strategic merge patch (`spec/kubefed.md §5` (5)). The general comes before the particular: first the entries with a selector,
//! in the order of the list, then the one that names the cluster; within an entry first `strategicMergePatch`, then `clusterOverrides`.

mod canonical;
mod merge;
mod selectors;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use hansa_machinery::json_patch::{self, Operation};
use hansa_machinery::selector::LabelSelector;
use serde_json::Value;

pub use canonical::canonical;
pub use selectors::{Chosen, Selectors};

/// What an override may touch below `/metadata`; the rest is identity, which the federation decides.
const METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

/// Why the overrides of one cluster cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    /// `spec.overrides` has another shape than the API gives it.
    #[error("spec.overrides{at} must be {expected}")]
    Shape {
        /// The place below `spec.overrides`.
        at: String,
        /// What must stand there.
        expected: &'static str,
    },
    /// An entry says both `clusterName` and `clusterSelector`: for whom it is meant is not defined.
    #[error("spec.overrides{0} has both clusterName and clusterSelector; keep one of the two")]
    Both(String),
    /// An entry says neither `clusterName` nor `clusterSelector`.
    #[error("spec.overrides{0} must have a clusterName or a clusterSelector")]
    Neither(String),
    /// The label selector is not one.
    #[error("spec.overrides{at}.clusterSelector is not a label selector: {message}")]
    Selector {
        /// The entry.
        at: String,
        /// What is wrong with it.
        message: String,
    },
    /// Two entries of `spec.overrides` name the same cluster: which one holds is not defined.
    #[error("spec.overrides{at}: cluster {cluster:?} appears twice in spec.overrides; merge the two entries")]
    DuplicateCluster {
        /// The second entry.
        at: String,
        /// The cluster.
        cluster: String,
    },
    /// Two operations of one entry have the same path.
    #[error("spec.overrides{at}: path {path:?} is overridden twice; keep one of the two")]
    DuplicatePath {
        /// The second operation.
        at: String,
        /// The path.
        path: String,
    },
    /// The path belongs to the identity of the object.
    #[error("spec.overrides{at}: {path:?} must not be overridden")]
    Forbidden {
        /// The operation or the patch.
        at: String,
        /// The path.
        path: String,
    },
    /// Only `add`, `remove` and `replace` are operations of an override.
    #[error("spec.overrides{at}: operation {op:?} is not one of add, remove, replace")]
    Operation {
        /// The operation.
        at: String,
        /// What it says.
        op: String,
    },
    /// The template does not have what the override wants to change; with the place of the override.
    #[error("spec.overrides{0}")]
    Apply(String),
}

/// A cluster, as far as overrides tell clusters apart.
#[derive(Clone, Copy, Debug)]
pub struct Cluster<'a> {
    /// Its name.
    pub name: &'a str,
    /// The labels of its KubeFedCluster.
    pub labels: &'a BTreeMap<String, String>,
}

/// The overrides of one federated object; what is wrong in an entry concerns the clusters alone that it is or may be meant for.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    entries: Vec<Entry>,
    broken: Option<OverrideError>,
}

#[derive(Clone, Debug)]
struct Entry {
    index: usize,
    name: Option<String>,
    selector: Option<LabelSelector>,
    change: Result<Change, OverrideError>,
}

#[derive(Clone, Debug, Default)]
struct Change {
    merge: Option<Value>,
    operations: Vec<Operation>,
}

impl Entry {
    fn names(&self, cluster: &str) -> bool {
        self.name.as_deref() == Some(cluster)
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

impl Overrides {
    /// Reads `spec.overrides` of a federated object.
    pub fn parse(federated: &Value) -> Self {
        let mut overrides = Self::default();
        match &federated["spec"]["overrides"] {
            Value::Null => {}
            Value::Array(entries) => {
                entries.iter().enumerate().for_each(|(i, entry)| overrides.add(i, entry))
            }
            _ => overrides.broken = Some(OverrideError::Shape { at: String::new(), expected: "a list" }),
        }
        overrides
    }

    fn add(&mut self, index: usize, entry: &Value) {
        let (name, selector) = match addressees(index, entry) {
            Ok(found) => found,
            Err(error) => {
                // Nobody can say whom this entry was meant for, so nobody is given an object it may belong to.
                self.broken.get_or_insert(error);
                return;
            }
        };
        let at = format!("[{index}]");
        let twice = name.as_ref().filter(|name| self.entries.iter().any(|entry| entry.names(name)));
        let change = match (twice, &name, &selector) {
            (_, Some(_), Some(_)) => Err(OverrideError::Both(at)),
            (Some(cluster), ..) => Err(OverrideError::DuplicateCluster { at, cluster: cluster.clone() }),
            _ => change(&at, entry),
        };
        self.entries.push(Entry { index, name, selector, change });
    }

    /// The selectors, without what they select for.
    pub fn selectors(&self) -> Selectors {
        let selectors = self.entries.iter();
        Selectors::new(selectors.filter_map(|entry| Some((entry.index, entry.selector.clone()?))))
    }

    /// What of the overrides reaches into the metadata of copies, if any does.
    #[must_use]
    pub fn of_metadata(&self) -> Option<Self> {
        let entries: Vec<Entry> = self.entries.iter().filter_map(metadata_part).collect();
        (!entries.is_empty()).then(|| Self { entries, broken: self.broken.clone() })
    }

    /// Applies the overrides of a cluster to its copy.
    pub fn apply(&self, cluster: Cluster<'_>, object: &mut Value) -> Result<(), OverrideError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let selected = self.entries.iter().filter(|entry| entry.selects(cluster.labels));
        let named = self.entries.iter().filter(|entry| entry.names(cluster.name));
        // An entry that is for the cluster in both ways is an error, so that it does no harm that it is met twice.
        for entry in selected.chain(named) {
            let change = entry.change.as_ref().map_err(Clone::clone)?;
            let at = entry.index;
            if let Some(patch) = &change.merge {
                merge::apply(object, patch).map_err(|error| {
                    OverrideError::Apply(format!(
                        "[{at}].strategicMergePatch cannot be applied to the template: {error}"
                    ))
                })?;
            }
            json_patch::apply(object, &change.operations).map_err(|error| {
                OverrideError::Apply(format!(
                    "[{at}].clusterOverrides cannot be applied to the template: {error}"
                ))
            })?;
        }
        Ok(())
    }
}

/// Whom an entry is for. A Go client writes a `clusterName` that is not set as an empty one; alone it is, as in KubeFed, a name that no
/// cluster has.
fn addressees(index: usize, entry: &Value) -> Result<(Option<String>, Option<LabelSelector>), OverrideError> {
    let at = format!("[{index}]");
    let name = match &entry["clusterName"] {
        Value::Null => None,
        Value::String(name) => Some(name.clone()),
        _ => {
            let at = format!("{at}.clusterName");
            return Err(OverrideError::Shape { at, expected: "the name of a cluster" });
        }
    };
    let selector = match &entry["clusterSelector"] {
        Value::Null => None,
        selector => Some(
            LabelSelector::from_value(selector)
                .map_err(|status| OverrideError::Selector { at: at.clone(), message: status.message })?,
        ),
    };
    match (name, selector) {
        (None, None) => Err(OverrideError::Neither(at)),
        (name, Some(selector)) => Ok((name.filter(|name| !name.is_empty()), Some(selector))),
        (name, None) => Ok((name, None)),
    }
}

fn change(at: &str, entry: &Value) -> Result<Change, OverrideError> {
    let merge = merge::parse(&format!("{at}.strategicMergePatch"), &entry["strategicMergePatch"])?;
    let operations = operations(&format!("{at}.clusterOverrides"), &entry["clusterOverrides"])?;
    Ok(Change { merge, operations })
}

fn metadata_part(entry: &Entry) -> Option<Entry> {
    let change = entry.change.as_ref().ok()?;
    let is_metadata = |operation: &Operation| segments(&operation.path).next().as_deref() == Some("metadata");
    let operations: Vec<_> =
        change.operations.iter().filter(|operation| is_metadata(operation)).cloned().collect();
    let merge = change.merge.as_ref().and_then(merge::of_metadata);
    if operations.is_empty() && merge.is_none() {
        return None;
    }
    Some(Entry { change: Ok(Change { merge, operations }), ..entry.clone() })
}

fn operations(at: &str, list: &Value) -> Result<Vec<Operation>, OverrideError> {
    let list = match list {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => return Err(OverrideError::Shape { at: at.to_owned(), expected: "a list" }),
    };
    let mut paths = BTreeSet::new();
    let mut operations = Vec::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let Some(path) = item["path"].as_str() else {
            return Err(OverrideError::Shape { at, expected: "an object with a path" });
        };
        let op = match &item["op"] {
            Value::Null => "replace",
            Value::String(op) if op.is_empty() => "replace",
            Value::String(op) if matches!(op.as_str(), "add" | "remove" | "replace") => op,
            other => {
                return Err(OverrideError::Operation { at, op: other.as_str().unwrap_or("?").to_owned() });
            }
        };
        if forbidden(path) {
            return Err(OverrideError::Forbidden { at, path: path.to_owned() });
        }
        if !paths.insert(path) {
            return Err(OverrideError::DuplicatePath { at, path: path.to_owned() });
        }
        let value = (op != "remove").then(|| item["value"].clone());
        operations.push(Operation { op: op.to_owned(), path: path.to_owned(), from: None, value });
    }
    Ok(operations)
}

/// The decoded segments of a JSON pointer; what stands before the first `/` is ignored, as the patches are applied so.
fn segments(path: &str) -> impl Iterator<Item = String> {
    path.split('/').skip(1).map(|segment| segment.replace("~1", "/").replace("~0", "~"))
}

fn forbidden(path: &str) -> bool {
    let mut segments = segments(path);
    match segments.next().as_deref() {
        None | Some("kind" | "") => true,
        Some("metadata") => !segments.next().is_some_and(|field| METADATA.contains(&field.as_str())),
        _ => false,
    }
}
