//! Which entries of `spec.overrides` a cluster is given by its labels.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use hansa_machinery::selector::LabelSelector;

/// The selectors of `spec.overrides`, each with the index of its entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors(Box<[(usize, LabelSelector)]>);

impl Selectors {
    pub(super) fn new(selectors: impl Iterator<Item = (usize, LabelSelector)>) -> Self {
        Self(selectors.collect())
    }

    /// The entries that are for a cluster with these labels.
    pub fn choose(&self, labels: &BTreeMap<String, String>) -> Chosen {
        let matching = self.0.iter().filter(|(_, selector)| selector.matches(labels));
        Chosen(matching.map(|(index, _)| *index).collect())
    }
}

/// The indices of the entries that were chosen by selector, ascending. Together with the hash of all entries they say what a cluster's
/// overrides are: the hash alone does not change when a cluster is given another label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chosen(Box<[usize]>);

impl Chosen {
    /// Reads what was written by [`fmt::Display`].
    pub fn parse(text: &str) -> Option<Self> {
        text.split(',').map(|index| index.parse().ok()).collect::<Option<_>>().map(Self)
    }

    /// Whether no entry was chosen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number that is another when something else is chosen.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, index) in self.0.iter().enumerate() {
            write!(f, "{}{index}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}
