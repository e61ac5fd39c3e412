//! Why an object is or is not on each cluster, in words (`hansa explain placement`). What is said is what the controllers decide by
//! ([`placement::explain`]).

use std::collections::{BTreeMap, BTreeSet};

use hansa_machinery::selector::{LabelSelector, Requirement};
use serde_json::{Value, json};

use crate::key::Key;
use crate::placement::{self, Gate, Names, Narrowing, Placement, PlacementError, Verdict};
use crate::version::Record;

/// A registered cluster, as far as placement goes.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// The labels of its KubeFedCluster.
    pub labels: BTreeMap<String, String>,
    /// Whether it is Ready.
    pub ready: bool,
}

/// What the answer follows from.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The federated object.
    pub key: &'a Key,
    /// Its placement.
    pub placement: &'a Result<Placement, PlacementError>,
    /// How its namespace narrows it.
    pub gate: Gate<'a>,
    /// Every registered cluster.
    pub clusters: &'a BTreeMap<String, Cluster>,
    /// What was written where.
    pub record: Option<&'a Record>,
    /// The replicas that a ReplicaSchedulingPreference gives to clusters, if there is one.
    pub replicas: Option<&'a BTreeMap<String, i64>>,
    /// Whether the object is being deleted.
    pub deleting: bool,
}

/// What is said of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The cluster.
    pub cluster: String,
    /// Whether it is chosen; `None` where that cannot be told.
    pub chosen: Option<bool>,
    /// One word for programs.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
}

impl Answer {
    /// The answer for programs.
    pub fn to_value(&self) -> Value {
        json!({"cluster": self.cluster, "chosen": self.chosen, "reason": self.reason, "message": self.message})
    }
}

/// Explains the placement for each registered cluster and each that is named otherwise, sorted by name.
pub fn explain(question: Question<'_>) -> Vec<Answer> {
    let empty = Names::default();
    let listed = match question.placement {
        Ok(Placement::Clusters(names)) => names,
        _ => &empty,
    };
    let recorded =
        question.record.into_iter().flat_map(|record| record.clusters.iter().map(|(name, _)| &**name));
    let mut names: BTreeSet<&str> = recorded.collect();
    names.extend(question.clusters.keys().map(String::as_str).chain(listed.iter()));
    let answer = |name: &str| match question.clusters.get(name) {
        Some(cluster) => question.registered(name, cluster),
        None if listed.contains(name) => {
            let message = "listed in spec.placement.clusters, but no cluster of this name is registered";
            Answer {
                cluster: name.to_owned(),
                chosen: Some(false),
                reason: "NotRegistered",
                message: message.to_owned(),
            }
        }
        None => {
            let message = "on the record, but no longer registered; its copy is left to itself";
            Answer {
                cluster: name.to_owned(),
                chosen: Some(false),
                reason: "NotRegistered",
                message: message.to_owned(),
            }
        }
    };
    names.into_iter().map(answer).collect()
}

impl Question<'_> {
    fn registered(&self, name: &str, cluster: &Cluster) -> Answer {
        let answer = |chosen, reason, message| Answer { cluster: name.to_owned(), chosen, reason, message };
        let on_record = self.record.is_some_and(|record| record.clusters.contains(name));
        let waiting = if cluster.ready { "" } else { ", once the cluster is ready" };
        if self.deleting {
            return match on_record {
                true => answer(
                    Some(false),
                    "Deleting",
                    format!("the object is being deleted: its copy is removed{waiting}"),
                ),
                false => answer(Some(false), "Deleting", "the object is being deleted".to_owned()),
            };
        }
        let placement = match self.placement {
            Ok(placement) => placement,
            Err(error) => {
                return answer(
                    None,
                    "PlacementNotUnderstood",
                    format!("{error}; until that is corrected nothing is changed"),
                );
            }
        };
        let Some(why) = placement::explain(placement, name, &cluster.labels, self.gate) else {
            let message = format!(
                "the placement of {} cannot be understood; until that is corrected nothing is changed",
                self.namespace()
            );
            return answer(None, "NamespaceNotUnderstood", message);
        };
        let spec = "spec.placement";
        let (reason, mut message) = match (why.own.selects(), why.namespace) {
            (false, _) => sentence(why.own, &cluster.labels, spec),
            (true, Narrowing::NotFederated) => {
                let message = format!(
                    "{}, but its namespace is not federated: there is no {}",
                    sentence(why.own, &cluster.labels, spec).1,
                    self.namespace()
                );
                ("NamespaceNotFederated", message)
            }
            (true, Narrowing::Within(verdict)) if !verdict.selects() => {
                let narrowed = sentence(verdict, &cluster.labels, spec).1;
                let message = format!(
                    "{}, but not by {}: {narrowed}",
                    sentence(why.own, &cluster.labels, spec).1,
                    self.namespace()
                );
                ("NarrowedByNamespace", message)
            }
            (true, Narrowing::Within(_) | Narrowing::Open) => sentence(why.own, &cluster.labels, spec),
        };
        let chosen = why.is_chosen();
        if let (true, Some(replicas)) = (chosen, self.replicas) {
            message += &match replicas.get(name) {
                Some(1) => "; the ReplicaSchedulingPreference gives it 1 replica".to_owned(),
                Some(count) => format!("; the ReplicaSchedulingPreference gives it {count} replicas"),
                None => "; the ReplicaSchedulingPreference has given it no replicas yet".to_owned(),
            };
        }
        match (chosen, cluster.ready, on_record) {
            (true, false, _) => message += "; the cluster is not ready, and is waited for",
            (false, _, true) => message += &format!("; its copy is on the record and is removed{waiting}"),
            _ => {}
        }
        answer(Some(chosen), reason, message)
    }

    fn namespace(&self) -> String {
        format!("FederatedNamespace {0}/{0}", self.key.namespace)
    }
}

fn sentence(verdict: Verdict<'_>, labels: &BTreeMap<String, String>, field: &str) -> (&'static str, String) {
    match verdict {
        Verdict::Listed => ("Listed", format!("listed in {field}.clusters")),
        Verdict::NotListed => ("NotListed", format!("not listed in {field}.clusters")),
        Verdict::Nowhere => ("NoPlacement", format!("{field} has neither clusters nor a clusterSelector")),
        Verdict::Matched(selector) => ("SelectorMatches", matched(selector, field)),
        Verdict::Unmatched(requirement) => ("SelectorDoesNotMatch", unmatched(requirement, labels, field)),
    }
}

fn matched(selector: &LabelSelector, field: &str) -> String {
    match selector.is_everything() {
        true => format!("{field}.clusterSelector is empty, which matches every cluster"),
        false => format!("its labels match {field}.clusterSelector ({selector})"),
    }
}

fn unmatched(requirement: &Requirement, labels: &BTreeMap<String, String>, field: &str) -> String {
    let has = match labels.get(&requirement.key) {
        Some(value) => format!("its label {} is {value:?}", requirement.key),
        None => format!("it has no label {}", requirement.key),
    };
    format!("{has}, but {field}.clusterSelector requires {requirement}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Version;

    fn clusters() -> BTreeMap<String, Cluster> {
        [("c1", "eu", true), ("c2", "us", true), ("c3", "eu", false)]
            .map(|(name, region, ready)| {
                let labels = [("region".to_owned(), region.to_owned())].into();
                (name.to_owned(), Cluster { labels, ready })
            })
            .into()
    }

    fn placement(value: Value) -> Result<Placement, PlacementError> {
        Placement::parse(&json!({"spec": {"placement": value}}))
    }

    struct Case {
        placement: Value,
        gate: Option<Result<Value, ()>>,
        recorded: Vec<&'static str>,
        replicas: Option<BTreeMap<String, i64>>,
        deleting: bool,
    }

    fn case(placement: Value) -> Case {
        Case { placement, gate: None, recorded: Vec::new(), replicas: None, deleting: false }
    }

    /// `cluster chosen? reason: message`, a line each.
    fn told(case: &Case) -> Vec<String> {
        let key = Key::new("shop", "web");
        let namespace = case.gate.clone().and_then(Result::ok).map(|value| placement(value).unwrap());
        let record = Record {
            clusters: case.recorded.iter().map(|name| ((*name).into(), Version::STALE)).collect(),
            ..Record::default()
        };
        let question = Question {
            key: &key,
            placement: &placement(case.placement.clone()),
            gate: match (&case.gate, &namespace) {
                (None, _) => Gate::Open,
                (Some(_), Some(namespace)) => Gate::Within(namespace),
                (Some(_), None) => Gate::NotFederated,
            },
            clusters: &clusters(),
            record: Some(&record),
            replicas: case.replicas.as_ref(),
            deleting: case.deleting,
        };
        let line = |a: Answer| format!("{} {:?} {}: {}", a.cluster, a.chosen, a.reason, a.message);
        explain(question).into_iter().map(line).collect()
    }

    #[test]
    fn listed_and_unlisted_and_unregistered_clusters() {
        let case = Case {
            recorded: vec!["c2", "past"],
            ..case(json!({"clusters": [{"name": "c1"}, {"name": "c3"}, {"name": "typo"}]}))
        };
        assert_eq!(
            told(&case),
            [
                "c1 Some(true) Listed: listed in spec.placement.clusters",
                "c2 Some(false) NotListed: not listed in spec.placement.clusters; its copy is on the record and is removed",
                "c3 Some(true) Listed: listed in spec.placement.clusters; the cluster is not ready, and is waited for",
                "past Some(false) NotRegistered: on the record, but no longer registered; its copy is left to itself",
                "typo Some(false) NotRegistered: listed in spec.placement.clusters, but no cluster of this name is registered",
            ]
        );
    }

    #[test]
    fn a_selector_says_which_label_it_was() {
        let told = told(&case(json!({"clusterSelector": {"matchLabels": {"region": "eu"}}})));
        assert_eq!(
            told[0],
            "c1 Some(true) SelectorMatches: its labels match spec.placement.clusterSelector (region=eu)"
        );
        assert_eq!(
            told[1],
            "c2 Some(false) SelectorDoesNotMatch: its label region is \"us\", but spec.placement.clusterSelector requires region=eu"
        );
        let told = self::told(&case(
            json!({"clusterSelector": {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}}),
        ));
        assert!(
            told[0].ends_with("it has no label gpu, but spec.placement.clusterSelector requires gpu"),
            "{}",
            told[0]
        );
        assert!(
            self::told(&case(json!({"clusterSelector": {}})))[1]
                .contains("empty, which matches every cluster")
        );
        assert!(self::told(&case(json!({})))[1].contains("neither clusters nor a clusterSelector"));
    }

    #[test]
    fn a_namespace_narrows_or_forbids() {
        let all = || case(json!({"clusterSelector": {}}));
        let narrowed = told(&Case { gate: Some(Ok(json!({"clusters": [{"name": "c1"}]}))), ..all() });
        assert!(narrowed[0].starts_with("c1 Some(true)"));
        assert!(narrowed[1].starts_with("c2 Some(false) NarrowedByNamespace"), "{}", narrowed[1]);
        assert!(
            narrowed[1]
                .ends_with("but not by FederatedNamespace shop/shop: not listed in spec.placement.clusters"),
            "{}",
            narrowed[1]
        );
        let forbidden = told(&Case { gate: Some(Err(())), ..all() });
        assert!(
            forbidden.iter().all(|line| line.contains("Some(false) NamespaceNotFederated")),
            "{forbidden:?}"
        );
    }

    #[test]
    fn replicas_and_deletion_and_misunderstandings_are_told() {
        let replicas = Some([("c1".to_owned(), 1), ("c2".to_owned(), 4)].into());
        let told_of = told(&Case { replicas, ..case(json!({"clusterSelector": {}})) });
        assert!(told_of[0].ends_with("gives it 1 replica") && told_of[1].ends_with("gives it 4 replicas"));
        assert!(told_of[2].contains("no replicas yet"));
        let going =
            told(&Case { deleting: true, recorded: vec!["c3"], ..case(json!({"clusterSelector": {}})) });
        assert_eq!(
            going[2],
            "c3 Some(false) Deleting: the object is being deleted: its copy is removed, once the cluster is ready"
        );
        let odd = told(&case(json!({"clusters": "c1"})));
        assert!(
            odd.iter()
                .all(|line| line.contains("None PlacementNotUnderstood: spec.placement.clusters must be"))
        );
    }
}
