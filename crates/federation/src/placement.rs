//! Placement: which members an object belongs on (`spec/kubefed.md §2.5`).

use std::collections::{BTreeMap, BTreeSet};

use hansa_machinery::selector::LabelSelector;
use serde_json::Value;

/// What `spec.placement` asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Placement {
    /// Exactly the clusters of these names; the empty list is an answer too: none.
    Clusters(BTreeSet<String>),
    /// Every cluster whose labels match; `{}` is every cluster.
    Selector(LabelSelector),
    /// Neither list nor selector: no cluster.
    Nowhere,
}

/// Why `spec.placement` cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// The field has another shape than the API gives it.
    #[error("spec.placement.{field} must be {expected}")]
    Shape {
        /// The field below `spec.placement`.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// The label selector is not one.
    #[error("spec.placement.clusterSelector is not a label selector: {0}")]
    Selector(String),
}

impl Placement {
    /// Reads `spec.placement` of a federated object; `clusters` that is present, even empty, wins over the selector.
    pub fn parse(federated: &Value) -> Result<Self, PlacementError> {
        let placement = &federated["spec"]["placement"];
        match &placement["clusters"] {
            Value::Null => {}
            Value::Array(clusters) => {
                let names = clusters.iter().map(|c| c["name"].as_str().map(str::to_owned));
                let expected = "a list of objects with a name";
                return names
                    .collect::<Option<_>>()
                    .map(Self::Clusters)
                    .ok_or(PlacementError::Shape { field: "clusters", expected });
            }
            _ => return Err(PlacementError::Shape { field: "clusters", expected: "a list" }),
        }
        match &placement["clusterSelector"] {
            Value::Null => Ok(Self::Nowhere),
            selector @ Value::Object(_) => LabelSelector::from_value(selector)
                .map(Self::Selector)
                .map_err(|status| PlacementError::Selector(status.message)),
            _ => Err(PlacementError::Shape { field: "clusterSelector", expected: "an object" }),
        }
    }

    /// Whether a cluster is asked for, registered or not, before its namespace narrows that.
    pub(crate) fn selects(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Clusters(names) => names.contains(name),
            Self::Selector(selector) => selector.matches(labels),
            Self::Nowhere => false,
        }
    }
}

/// How the namespace of an object narrows its placement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate<'a> {
    /// Not at all: the target is cluster-scoped, or the control plane is and no FederatedNamespace is there.
    Open,
    /// To the placement of its FederatedNamespace.
    Within(&'a Placement),
    /// To nothing: there is no FederatedNamespace.
    NotFederated,
    /// Whether there is a FederatedNamespace is not known yet.
    Unknown,
}

/// The members an object belongs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Registered clusters that are selected, ready or not.
    pub clusters: BTreeSet<String>,
    /// Names in `spec.placement.clusters` that no registered cluster has.
    pub unknown: BTreeSet<String>,
}

/// Resolves a placement against the registered clusters and their labels; `None` while the gate is not known.
pub fn resolve<'a>(
    placement: &Placement,
    members: impl IntoIterator<Item = (&'a str, &'a BTreeMap<String, String>)>,
    gate: Gate<'_>,
) -> Option<Selection> {
    let mut selection = Selection::default();
    if let Placement::Clusters(names) = placement {
        selection.unknown.clone_from(names);
    }
    for (name, labels) in members {
        selection.unknown.remove(name);
        let within = match gate {
            Gate::Unknown => return None,
            Gate::Open => true,
            Gate::Within(namespace) => namespace.selects(name, labels),
            Gate::NotFederated => false,
        };
        if within && placement.selects(name, labels) {
            selection.clusters.insert(name.to_owned());
        }
    }
    (gate != Gate::Unknown).then_some(selection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(placement: Value) -> Result<Placement, PlacementError> {
        Placement::parse(&json!({"spec": {"placement": placement}}))
    }

    fn members() -> BTreeMap<String, BTreeMap<String, String>> {
        [("c1", "eu"), ("c2", "us"), ("c3", "eu")]
            .map(|(name, region)| {
                (name.to_owned(), BTreeMap::from([("region".to_owned(), region.to_owned())]))
            })
            .into()
    }

    fn select(placement: Value, gate: Gate<'_>) -> Selection {
        let members = members();
        let members = members.iter().map(|(n, l)| (n.as_str(), l));
        resolve(&parse(placement).unwrap(), members, gate).unwrap()
    }

    fn names(selection: &Selection) -> Vec<&str> {
        selection.clusters.iter().map(String::as_str).collect()
    }

    #[test]
    fn listed_clusters_are_selected_and_unregistered_ones_reported() {
        let selection = select(json!({"clusters": [{"name": "c2"}, {"name": "gone"}]}), Gate::Open);
        assert_eq!(names(&selection), ["c2"]);
        assert_eq!(selection.unknown, BTreeSet::from(["gone".to_owned()]));
    }

    #[test]
    fn an_empty_list_selects_nothing_and_beats_the_selector() {
        assert_eq!(names(&select(json!({"clusters": [], "clusterSelector": {}}), Gate::Open)), [""; 0]);
    }

    #[test]
    fn a_null_list_leaves_it_to_the_selector() {
        let placement = json!({"clusters": null, "clusterSelector": {"matchLabels": {"region": "eu"}}});
        assert_eq!(names(&select(placement, Gate::Open)), ["c1", "c3"]);
    }

    #[test]
    fn an_empty_selector_selects_all_and_a_null_one_none() {
        assert_eq!(names(&select(json!({"clusterSelector": {}}), Gate::Open)), ["c1", "c2", "c3"]);
        assert_eq!(names(&select(json!({"clusterSelector": null}), Gate::Open)), [""; 0]);
        assert_eq!(names(&select(Value::Null, Gate::Open)), [""; 0]);
    }

    #[test]
    fn match_expressions_are_honoured() {
        let expressions = json!([{"key": "region", "operator": "NotIn", "values": ["us"]}]);
        assert_eq!(
            names(&select(json!({"clusterSelector": {"matchExpressions": expressions}}), Gate::Open)),
            ["c1", "c3"]
        );
    }

    #[test]
    fn the_federated_namespace_narrows_the_placement() {
        let namespace = parse(json!({"clusters": [{"name": "c1"}]})).unwrap();
        let placement = json!({"clusters": [{"name": "c1"}, {"name": "c2"}]});
        assert_eq!(names(&select(placement, Gate::Within(&namespace))), ["c1"]);
    }

    #[test]
    fn without_a_federated_namespace_nothing_is_selected() {
        let selection = select(json!({"clusters": [{"name": "c1"}]}), Gate::NotFederated);
        assert_eq!(names(&selection), [""; 0]);
        assert!(selection.unknown.is_empty());
    }

    #[test]
    fn an_unknown_namespace_is_no_answer() {
        let placement = parse(json!({"clusterSelector": {}})).unwrap();
        assert_eq!(resolve(&placement, [], Gate::Unknown), None);
        let members = members();
        assert_eq!(resolve(&placement, members.iter().map(|(n, l)| (n.as_str(), l)), Gate::Unknown), None);
    }

    #[test]
    fn a_placement_of_another_shape_is_an_error_and_not_nowhere() {
        for bad in [
            json!({"clusters": "c1"}),
            json!({"clusters": ["c1"]}),
            json!({"clusterSelector": "region=eu"}),
            json!({"clusterSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}),
        ] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_gate_never_widens(listed in proptest::collection::btree_set("c[1-5]", 0..4), gate in proptest::collection::btree_set("c[1-5]", 0..4)) {
            let members = members();
            let members = || members.iter().map(|(n, l)| (n.as_str(), l));
            let placement = Placement::Clusters(listed.clone());
            let open = resolve(&placement, members(), Gate::Open).unwrap();
            let gate = Placement::Clusters(gate);
            let within = resolve(&placement, members(), Gate::Within(&gate)).unwrap();
            prop_assert!(within.clusters.is_subset(&open.clusters));
            prop_assert_eq!(open.clusters.len() + open.unknown.len(), listed.len());
        }
    }
}
