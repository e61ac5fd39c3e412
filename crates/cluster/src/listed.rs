//! What a watch has told of the objects of one type.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;

/// Objects by name, as a watch tells them. They go only when the watch, or a whole list, says so.
pub(crate) struct Listed<T> {
    pub(crate) known: BTreeMap<String, T>,
    listing: BTreeMap<String, T>,
    pub(crate) synced: bool,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), listing: BTreeMap::new(), synced: false }
    }
}

impl<T: PartialEq> Listed<T> {
    /// Returns whether something that is known changed.
    pub(crate) fn apply<K: kube::ResourceExt>(
        &mut self,
        event: Event<K>,
        project: impl Fn(K) -> Option<T>,
    ) -> bool {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => {
                let name = object.name_any();
                if let Some(value) = project(object) {
                    self.listing.insert(name, value);
                }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listing);
                let first = !std::mem::replace(&mut self.synced, true);
                let changed = listed != self.known;
                self.known = listed;
                return first || changed;
            }
            Event::Apply(object) => {
                let name = object.name_any();
                return match project(object) {
                    Some(value) if self.known.get(&name) != Some(&value) => {
                        self.known.insert(name, value);
                        true
                    }
                    Some(_) => false,
                    None => self.known.remove(&name).is_some(),
                };
            }
            Event::Delete(object) => return self.known.remove(&object.name_any()).is_some(),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.resource_version = Some(version.to_owned());
        object
    }

    fn version(object: ConfigMap) -> Option<String> {
        object.metadata.resource_version
    }

    #[test]
    fn objects_go_when_a_whole_list_says_so_and_not_before() {
        let mut listed = Listed::default();
        assert!(!listed.apply(Event::Init, version));
        assert!(!listed.apply(Event::InitApply(object("a", "1")), version));
        assert!(!listed.synced);
        assert!(listed.apply(Event::InitDone, version));
        assert!(listed.apply(Event::Apply(object("b", "2")), version));
        assert!(!listed.apply(Event::Apply(object("b", "2")), version));
        // A list that breaks off halfway changes nothing.
        listed.apply(Event::Init, version);
        listed.apply(Event::InitApply(object("b", "3")), version);
        listed.apply(Event::Init, version);
        assert_eq!(listed.known.keys().collect::<Vec<_>>(), ["a", "b"]);
        listed.apply(Event::InitApply(object("b", "3")), version);
        assert!(listed.apply(Event::InitDone, version));
        assert_eq!(listed.known.into_iter().collect::<Vec<_>>(), [("b".to_owned(), "3".to_owned())]);
    }

    #[test]
    fn an_empty_first_list_is_a_change() {
        let mut listed: Listed<String> = Listed::default();
        listed.apply(Event::<ConfigMap>::Init, version);
        assert!(listed.apply(Event::<ConfigMap>::InitDone, version));
        listed.apply(Event::<ConfigMap>::Init, version);
        assert!(!listed.apply(Event::<ConfigMap>::InitDone, version));
    }
}
