//! Placement: which members an object belongs on (`spec/kubefed.md §2.5`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hansa_machinery::selector::{LabelSelector, Requirement};
use serde_json::Value;

use crate::intern::intern;

/// What `spec.placement` asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Placement {
    /// Exactly the clusters of these names; the empty list is an answer too: none.
    Clusters(Names),
    /// Every cluster whose labels match; `{}` is every cluster.
    Selector(LabelSelector),
    /// Neither list nor selector: no cluster.
    Nowhere,
}

/// Names of clusters, sorted; ten thousand objects name the same few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Box<[Arc<str>]>);

impl Names {
    /// Whether a name is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.binary_search_by(|known| (**known).cmp(name)).is_ok()
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }
}

impl<S: AsRef<str>> FromIterator<S> for Names {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        let names: BTreeSet<Arc<str>> = names.into_iter().map(|name| intern(name.as_ref())).collect();
        Self(names.into_iter().collect())
    }
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
                let names = clusters.iter().map(|c| c["name"].as_str());
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
        self.judge(name, labels).selects()
    }

    /// What it says of a cluster.
    fn judge(&self, name: &str, labels: &BTreeMap<String, String>) -> Verdict<'_> {
        match self {
            Self::Clusters(names) if names.contains(name) => Verdict::Listed,
            Self::Clusters(_) => Verdict::NotListed,
            Self::Selector(selector) if selector.is_nothing() => Verdict::Nowhere,
            Self::Selector(selector) => match selector.unmet(labels) {
                None => Verdict::Matched(selector),
                Some(requirement) => Verdict::Unmatched(requirement),
            },
            Self::Nowhere => Verdict::Nowhere,
        }
    }
}

/// What a placement says of one cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict<'a> {
    /// Its name is listed.
    Listed,
    /// There is a list, and its name is not on it.
    NotListed,
    /// The selector matches its labels.
    Matched(&'a LabelSelector),
    /// This, which the selector requires, its labels do not meet.
    Unmatched(&'a Requirement),
    /// There is neither list nor selector.
    Nowhere,
}

impl Verdict<'_> {
    /// Whether the cluster is selected.
    pub fn selects(self) -> bool {
        matches!(self, Self::Listed | Self::Matched(_))
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
        selection.unknown = names.iter().map(str::to_owned).collect();
    }
    for (name, labels) in members {
        selection.unknown.remove(name);
        if explain(placement, name, labels, gate)?.is_chosen() {
            selection.clusters.insert(name.to_owned());
        }
    }
    (gate != Gate::Unknown).then_some(selection)
}

/// Why a registered cluster is or is not chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Explanation<'a> {
    /// What the placement of the object says.
    pub own: Verdict<'a>,
    /// What its namespace says.
    pub namespace: Narrowing<'a>,
}

/// What the namespace of an object says of one cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Narrowing<'a> {
    /// Nothing.
    Open,
    /// What the placement of the FederatedNamespace says.
    Within(Verdict<'a>),
    /// No: there is no FederatedNamespace.
    NotFederated,
}

impl Explanation<'_> {
    /// Whether the cluster is chosen.
    pub fn is_chosen(&self) -> bool {
        let within = match self.namespace {
            Narrowing::Open => true,
            Narrowing::Within(verdict) => verdict.selects(),
            Narrowing::NotFederated => false,
        };
        within && self.own.selects()
    }
}

/// Explains what becomes of one registered cluster; `None` while the gate is not known. This is what [`resolve`] decides by.
pub fn explain<'a>(
    placement: &'a Placement,
    name: &str,
    labels: &BTreeMap<String, String>,
    gate: Gate<'a>,
) -> Option<Explanation<'a>> {
    let namespace = match gate {
        Gate::Unknown => return None,
        Gate::Open => Narrowing::Open,
        Gate::Within(namespace) => Narrowing::Within(namespace.judge(name, labels)),
        Gate::NotFederated => Narrowing::NotFederated,
    };
    Some(Explanation { own: placement.judge(name, labels), namespace })
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

    #[test]
    fn an_explanation_names_the_requirement_that_failed() {
        let expressions = json!([{"key": "gpu", "operator": "Exists"}, {"key": "region", "operator": "In", "values": ["us"]}]);
        let placement = parse(json!({"clusterSelector": {"matchExpressions": expressions}})).unwrap();
        let of = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            match explain(&placement, "c1", &labels, Gate::Open).unwrap().own {
                Verdict::Unmatched(requirement) => requirement.to_string(),
                other => format!("{}", other.selects()),
            }
        };
        assert_eq!(of(&[("region", "us")]), "gpu");
        assert_eq!(of(&[("gpu", ""), ("region", "eu")]), "region in (us)");
        assert_eq!(of(&[("gpu", ""), ("region", "us")]), "true");
    }

    fn any_placement() -> impl Strategy<Value = Value> {
        let requirement =
            ("a|b", "In|NotIn|Exists|DoesNotExist", "x|y").prop_map(|(key, operator, value)| {
                let values = if operator.ends_with("In") { json!([value]) } else { json!([]) };
                json!({"key": key, "operator": operator, "values": values})
            });
        prop_oneof![
            Just(Value::Null),
            proptest::collection::vec("c[1-5]".prop_map(|name| json!({ "name": name })), 0..4)
                .prop_map(|names| json!({ "clusters": names })),
            proptest::collection::vec(requirement, 0..3)
                .prop_map(|all| json!({"clusterSelector": {"matchExpressions": all}})),
        ]
    }

    proptest! {
        /// For each cluster the explanation says what the resolution does, and gives a reason that holds.
        #[test]
        fn explanations_agree_with_the_resolution(
            own in any_placement(),
            namespace in any_placement(),
            gate in 0_usize..4,
            members in proptest::collection::btree_map("c[1-5]", proptest::collection::btree_map("a|b", "x|y", 0..3), 0..5),
        ) {
            let (own, namespace) = (parse(own).unwrap(), parse(namespace).unwrap());
            let gate = [Gate::Open, Gate::Within(&namespace), Gate::NotFederated, Gate::Unknown][gate];
            let selection = resolve(&own, members.iter().map(|(n, l)| (n.as_str(), l)), gate);
            prop_assert_eq!(selection.is_none(), gate == Gate::Unknown);
            for (name, labels) in &members {
                let explanation = explain(&own, name, labels, gate);
                prop_assert_eq!(explanation.map(|e| e.is_chosen()), selection.as_ref().map(|s| s.clusters.contains(name)));
                match (explanation.map(|e| e.own), &own) {
                    (None, _) => {}
                    (Some(Verdict::Matched(selector)), _) => prop_assert!(selector.matches(labels)),
                    (Some(Verdict::Unmatched(requirement)), Placement::Selector(selector)) => {
                        prop_assert!(!selector.matches(labels) && selector.requirements().contains(requirement));
                        prop_assert!(!LabelSelector::new(vec![requirement.clone()]).matches(labels));
                    }
                    (Some(Verdict::Listed), Placement::Clusters(names)) => prop_assert!(names.contains(name)),
                    (Some(Verdict::NotListed), Placement::Clusters(names)) => prop_assert!(!names.contains(name)),
                    (Some(verdict), placement) => prop_assert!(verdict == Verdict::Nowhere && *placement == Placement::Nowhere),
                }
            }
        }

        #[test]
        fn a_gate_never_widens(listed in proptest::collection::btree_set("c[1-5]", 0..4), gate in proptest::collection::btree_set("c[1-5]", 0..4)) {
            let members = members();
            let members = || members.iter().map(|(n, l)| (n.as_str(), l));
            let placement = Placement::Clusters(listed.iter().collect());
            let open = resolve(&placement, members(), Gate::Open).unwrap();
            let gate = Placement::Clusters(gate.iter().collect());
            let within = resolve(&placement, members(), Gate::Within(&gate)).unwrap();
            prop_assert!(within.clusters.is_subset(&open.clusters));
            prop_assert_eq!(open.clusters.len() + open.unknown.len(), listed.len());
        }
    }
}
