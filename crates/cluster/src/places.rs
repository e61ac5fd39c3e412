//! Where a member's nodes are: the zones and the region of its KubeFedCluster (`spec/kubefed.md §1.1, §6 (4)`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, Client, ResourceExt};

/// The labels that say where a node is, and those that said it before Kubernetes 1.17.
const ZONE: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];
const REGION: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];
const PAGE: u32 = 500;
/// More nodes than this are not looked at: they hardly bring another zone, and reading them is not free.
const PAGES: usize = 10;
const ZONES: usize = 100;

/// Where a member is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Sorted, without doubles.
    pub(crate) zones: Vec<String>,
    pub(crate) region: Option<String>,
}

/// Reads the labels of the member's nodes.
pub(crate) async fn read(client: Client) -> Result<Places, kube::Error> {
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(client);
    let mut labels = Vec::new();
    let mut parameters = ListParams::default().limit(PAGE);
    for _ in 0..PAGES {
        let page = nodes.list_metadata(&parameters).await?;
        labels.extend(page.items.iter().map(|node| node.labels().clone()));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = ListParams::default().limit(PAGE).continue_token(&token),
            None => break,
        }
    }
    Ok(of_labels(&labels))
}

/// All zones; and the region most nodes are in, of equals the first by name.
fn of_labels(nodes: &[BTreeMap<String, String>]) -> Places {
    let value = |labels: &BTreeMap<String, String>, keys: [&str; 2]| {
        keys.iter().find_map(|key| labels.get(*key)).filter(|value| !value.is_empty()).cloned()
    };
    let mut zones: Vec<String> = nodes.iter().filter_map(|labels| value(labels, ZONE)).collect();
    zones.sort();
    zones.dedup();
    zones.truncate(ZONES);
    let mut regions: BTreeMap<String, usize> = BTreeMap::new();
    for region in nodes.iter().filter_map(|labels| value(labels, REGION)) {
        *regions.entry(region).or_default() += 1;
    }
    let most = regions.values().max().copied();
    let region = regions.into_iter().find(|(_, count)| Some(*count) == most).map(|(region, _)| region);
    Places { zones, region }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn zones_and_region_are_those_of_the_nodes() {
        let nodes = [
            node(&[(ZONE[0], "b"), (REGION[0], "south")]),
            node(&[(ZONE[0], "a"), (REGION[0], "north")]),
            node(&[(ZONE[1], "a"), (REGION[1], "north")]),
            node(&[(ZONE[0], "")]),
            node(&[]),
        ];
        let expected = Places { zones: vec!["a".into(), "b".into()], region: Some("north".into()) };
        assert_eq!(of_labels(&nodes), expected);
        assert_eq!(of_labels(&nodes[..2]).region.as_deref(), Some("north"), "of equals the first by name");
        assert_eq!(of_labels(&[]), Places::default());
    }
}
