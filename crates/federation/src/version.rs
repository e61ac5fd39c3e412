//! Versions: what was written where, so that a member is written to only when that changes something
//! (`spec/kubefed.md §1.4, §2.5`).

use std::fmt;
use std::sync::Arc;

use hansa_cluster::ResourceVersion;
use hansa_machinery::gojson;
use serde_json::{Value, json};

use crate::overrides::{self, Chosen};

/// The state of one object in one member, as `PropagatedVersion` records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// `gen:N`: the object has a generation.
    Generation(i64),
    /// `rv:V`: it has none.
    Resource(ResourceVersion),
    /// `gen:N;overrides=0,2`: one of the above, made with the overrides that selectors chose for the member as its labels were. A member
    /// that no selector chooses for has a version as KubeFed writes it.
    Chosen(Box<(Version, Chosen)>),
}

/// What stands between a version and the overrides that were chosen.
const CHOSEN: &str = ";overrides=";

impl Version {
    /// Something was or may have been written, but what is there now is not the present state. No live object has generation 0, so
    /// this never equals a live version; it keeps the cluster on the record, and with it in what is cleaned up.
    pub const STALE: Self = Self::Generation(0);

    /// The version of a live object.
    pub fn of(generation: i64, resource_version: &str) -> Self {
        match generation {
            0 => Self::Resource(ResourceVersion::new(resource_version)),
            generation => Self::Generation(generation),
        }
    }

    /// The version of a live object that was made, or would now be made, with these of the overrides.
    #[must_use]
    pub fn with(self, chosen: Chosen) -> Self {
        if chosen.is_empty() { self } else { Self::Chosen(Box::new((self, chosen))) }
    }

    /// Reads a recorded version; what cannot be read is [`Version::STALE`], as it equals no live version either.
    pub fn parse(text: &str) -> Self {
        if let Some((version, chosen)) = text.rsplit_once(CHOSEN) {
            return Chosen::parse(chosen).map_or(Self::STALE, |chosen| Self::parse(version).with(chosen));
        }
        if let Some(version) = text.strip_prefix("rv:") {
            return Self::Resource(ResourceVersion::new(version));
        }
        text.strip_prefix("gen:").and_then(|n| n.parse().ok()).map_or(Self::STALE, Self::Generation)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generation(generation) => write!(f, "gen:{generation}"),
            Self::Resource(version) => write!(f, "rv:{version}"),
            Self::Chosen(parts) => write!(f, "{}{CHOSEN}{}", parts.0, parts.1),
        }
    }
}

/// The two hashes that say which desired state the recorded versions belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashes {
    /// Of `spec.template`; empty without one.
    pub template: Digest,
    /// Of `spec.overrides` in struct form; empty without a spec.
    pub overrides: Digest,
}

/// A hash as it is written, kept small: it is an MD5 in hexadecimal, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest(Written);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Written {
    #[default]
    Nothing,
    Md5([u8; 16]),
    Other(Box<str>),
}

impl From<&str> for Digest {
    fn from(text: &str) -> Self {
        let number = u128::from_str_radix(text, 16).ok().filter(|number| format!("{number:032x}") == text);
        Self(match (text, number) {
            ("", _) => Written::Nothing,
            (_, Some(number)) => Written::Md5(number.to_be_bytes()),
            (other, None) => Written::Other(other.into()),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Written::Nothing => Ok(()),
            Written::Md5(bytes) => write!(f, "{:032x}", u128::from_be_bytes(*bytes)),
            Written::Other(text) => f.write_str(text),
        }
    }
}

impl Hashes {
    /// The hashes of a federated object.
    pub fn of(federated: &Value) -> Self {
        let template = match federated["spec"].get("template") {
            None => Digest::default(),
            Some(template) => Digest::from(&*gojson::md5_hex(template)),
        };
        let overrides = match federated.get("spec") {
            None => Digest::default(),
            Some(_) => Digest::from(&*gojson::md5_hex(&overrides::canonical(federated))),
        };
        Self { template, overrides }
    }
}

/// The status of a `PropagatedVersion`: which desired state was written, and what each member made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The desired state that `clusters` is about.
    pub hashes: Hashes,
    /// The version each cluster had when it was last known to be right.
    pub clusters: Clusters,
}

/// A version for each of some clusters, sorted by name; a hundred thousand of them are kept, so it is a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clusters(Vec<(Arc<str>, Version)>);

impl Clusters {
    fn find(&self, cluster: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(name, _)| (**name).cmp(cluster))
    }

    /// The version of a cluster.
    pub fn get(&self, cluster: &str) -> Option<&Version> {
        self.find(cluster).ok().and_then(|at| self.0.get(at)).map(|(_, version)| version)
    }

    /// Whether a cluster has a version.
    pub fn contains(&self, cluster: &str) -> bool {
        self.find(cluster).is_ok()
    }

    /// Gives a cluster a version.
    pub fn insert(&mut self, cluster: Arc<str>, version: Version) {
        match self.find(&cluster) {
            Ok(at) => self.0[at].1 = version,
            Err(at) => self.0.insert(at, (cluster, version)),
        }
    }

    /// Forgets a cluster.
    pub fn remove(&mut self, cluster: &str) {
        if let Ok(at) = self.find(cluster) {
            self.0.remove(at);
        }
    }

    /// Forgets the clusters that `keep` does not hold.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    /// The clusters and their versions.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Version)> {
        self.0.iter().map(|(name, version)| (name, version))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same, with each name taken from `names`, in no more room than it needs.
    pub(crate) fn compact(mut self, names: impl Fn(Arc<str>) -> Arc<str>) -> Self {
        self.0.iter_mut().for_each(|(name, _)| *name = names(name.clone()));
        self.0.shrink_to_fit();
        self
    }
}

impl FromIterator<(Arc<str>, Version)> for Clusters {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Version)>>(clusters: I) -> Self {
        let mut all = Self::default();
        clusters.into_iter().for_each(|(name, version)| all.insert(name, version));
        all
    }
}

impl Record {
    /// Reads the status of a `PropagatedVersion` object.
    pub fn parse(object: &Value) -> Self {
        let status = &object["status"];
        let text = |field: &str| Digest::from(status[field].as_str().unwrap_or_default());
        let clusters = status["clusterVersions"].as_array().into_iter().flatten().filter_map(|entry| {
            let version = entry["version"].as_str().filter(|version| !version.is_empty())?;
            Some((entry["clusterName"].as_str()?.into(), Version::parse(version)))
        });
        Self {
            hashes: Hashes { template: text("templateVersion"), overrides: text("overridesVersion") },
            clusters: clusters.collect(),
        }
    }

    /// The status to write.
    pub fn status(&self) -> Value {
        let versions = self.clusters.iter();
        let versions =
            versions.map(|(name, version)| json!({"clusterName": &**name, "version": version.to_string()}));
        json!({
            "templateVersion": self.hashes.template.to_string(),
            "overridesVersion": self.hashes.overrides.to_string(),
            "clusterVersions": versions.collect::<Vec<_>>(),
        })
    }

    /// Whether what is live in a cluster is what this record says was right there for the desired state `hashes`.
    pub fn is_current(&self, hashes: &Hashes, cluster: &str, live: &Version) -> bool {
        self.hashes == *hashes && self.clusters.get(cluster) == Some(live)
    }

    /// The record for the desired state `hashes`: when that changed, no version is right any more, yet each cluster stays on the
    /// record, because something of ours may be there.
    #[must_use]
    pub fn moved_to(&self, hashes: &Hashes) -> Self {
        let mut record = self.clone();
        if record.hashes != *hashes {
            record.hashes = hashes.clone();
            record.clusters.0.iter_mut().for_each(|(_, version)| *version = Version::STALE);
        }
        record
    }
}

/// The name of the `PropagatedVersion` of a federated object (`spec/kubefed.md §1.4`).
pub fn record_name(target_kind: &str, federated_name: &str) -> String {
    format!("{}-{federated_name}", target_kind.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hashes_are_those_of_kubefed() {
        for (value, expected) in [
            (json!({"spec": {"foo": null}}), "a5b8d4352d5aed51c51b93900258ccf3"),
            (json!({}), "8a80554c91d9fca8acb82f023de02f11"),
            (json!({"data": {"foo": "bar"}}), "4682012eb72f035cfe2b227efe7ca8c8"),
            (json!({"overrides": null}), "2979b7538b527abe06492021841caf47"),
        ] {
            assert_eq!(gojson::md5_hex(&value), expected, "{value}");
        }
    }

    #[test]
    fn the_overrides_version_is_the_hash_of_the_struct() {
        let federated = json!({"spec": {"overrides": [
            {"clusterOverrides": [{"value": {"foo": "baz"}, "op": "", "path": "/data"}], "clusterName": "c1"},
        ]}});
        assert_eq!(Hashes::of(&federated).overrides.to_string(), "e32ea1ae695d85e0d5dd5ffe2ada9feb");
    }

    #[test]
    fn absent_parts_have_their_own_versions() {
        assert_eq!(Hashes::of(&json!({})), Hashes::default());
        let empty = Hashes::of(&json!({"spec": {}}));
        assert_eq!(
            (empty.template.to_string().as_str(), empty.overrides.to_string().as_str()),
            ("", "2979b7538b527abe06492021841caf47")
        );
        assert_ne!(Hashes::of(&json!({"spec": {"overrides": []}})).overrides, empty.overrides);
    }

    #[test]
    fn numbers_in_overrides_are_floats_and_in_templates_are_not() {
        let with = |value: Value| {
            json!({"spec": {
                "template": {"n": value},
                "overrides": [{"clusterName": "c", "clusterOverrides": [{"path": "/n", "value": value}]}],
            }})
        };
        let big = Hashes::of(&with(json!(9_007_199_254_740_993_i64)));
        let near = Hashes::of(&with(json!(9_007_199_254_740_992_i64)));
        assert_eq!(big.overrides, near.overrides);
        assert_ne!(big.template, near.template);
    }

    #[test]
    fn versions_read_back_as_written() {
        let chosen = |text| Version::of(3, "17").with(Chosen::parse(text).unwrap());
        for version in
            [Version::of(3, "17"), Version::of(0, "17"), Version::STALE, chosen("0"), chosen("2,11")]
        {
            assert_eq!(Version::parse(&version.to_string()), version);
        }
        assert_eq!(chosen("0,2").to_string(), "gen:3;overrides=0,2");
        for nonsense in ["nonsense", "gen:3;overrides=x", "gen:3;overrides=", "rv:1;overrides=-1"] {
            assert_eq!(Version::parse(nonsense), Version::STALE, "{nonsense}");
        }
    }

    #[test]
    fn a_record_reads_back_as_written_and_is_sorted() {
        let status = json!({"templateVersion": "t", "overridesVersion": "o", "clusterVersions": [
            {"clusterName": "b", "version": "gen:2"}, {"clusterName": "a", "version": "rv:9"}, {"clusterName": "c", "version": ""},
        ]});
        let record = Record::parse(&json!({ "status": status }));
        let sorted =
            json!([{"clusterName": "a", "version": "rv:9"}, {"clusterName": "b", "version": "gen:2"}]);
        assert_eq!(record.status()["clusterVersions"], sorted);
        assert_eq!(Record::parse(&json!({"status": record.status()})), record);
    }

    #[test]
    fn a_changed_desired_state_makes_every_version_stale_but_forgets_no_cluster() {
        let old = Hashes { template: "1".into(), overrides: "2".into() };
        let new = Hashes { template: "3".into(), overrides: "2".into() };
        let record = Record {
            hashes: old.clone(),
            clusters: [("a".into(), Version::Generation(4))].into_iter().collect(),
        };
        assert!(record.is_current(&old, "a", &Version::Generation(4)));
        assert!(!record.is_current(&old, "a", &Version::Generation(5)));
        assert!(!record.is_current(&new, "a", &Version::Generation(4)));
        let moved = record.moved_to(&new);
        assert_eq!(moved.clusters.get("a"), Some(&Version::STALE));
        assert!(!moved.is_current(&new, "a", &Version::Generation(4)));
        assert_eq!(record.moved_to(&old), record);
    }

    proptest! {
        #[test]
        fn any_recorded_text_is_read_without_harm(text in "([0-9a-f]{31,33}|.{0,20})") {
            let _ = Version::parse(&text);
            prop_assert_eq!(Digest::from(&*text).to_string(), text);
        }
    }
}
