//! Cases of a division, as tables in tests and as vectors of the original.

use std::collections::BTreeMap;

use hansa_api::scheduling::ClusterPreferences;
use serde::Deserialize;

/// What is given, and what is to come out.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Case {
    #[serde(default)]
    pub(super) name: String,
    pub(super) total: i64,
    pub(super) rebalance: bool,
    pub(super) key: String,
    pub(super) preferences: BTreeMap<String, ClusterPreferences>,
    pub(super) clusters: Vec<String>,
    pub(super) current: BTreeMap<String, i64>,
    pub(super) capacity: BTreeMap<String, i64>,
    pub(super) plan: BTreeMap<String, i64>,
    pub(super) overflow: BTreeMap<String, i64>,
}

/// Reads a table of five columns: the name; the total, `move` if what runs may move and `keep` if not, and perhaps `@` the object; the
/// preferences as `cluster=weight[min..max]`; the clusters as `cluster:running/room`; and the plan as `cluster=replicas+overflow`.
pub(super) fn cases(table: &str) -> Vec<Case> {
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| case(line).unwrap_or_else(|| panic!("not a case: {line}"))).collect()
}

fn case(line: &str) -> Option<Case> {
    let mut columns = line.split('|').map(str::trim);
    let name = columns.next()?.to_owned();
    let mut demand = columns.next()?.split(' ');
    let mut case =
        Case { name, total: demand.next()?.parse().ok()?, key: "shop/web".to_owned(), ..Case::default() };
    case.rebalance = demand.next()? == "move";
    if let Some(key) = demand.next() {
        case.key = key.trim_start_matches('@').to_owned();
    }
    for word in columns.next()?.split_whitespace() {
        let (cluster, asked) = word.split_once('=')?;
        let (weight, bounds) = asked.trim_end_matches(']').split_once('[').unwrap_or((asked, ".."));
        let (min, max) = bounds.split_once("..")?;
        let preferences = ClusterPreferences {
            weight: weight.parse().ok()?,
            min_replicas: number(min).unwrap_or_default(),
            max_replicas: number(max),
        };
        case.preferences.insert(cluster.to_owned(), preferences);
    }
    for word in columns.next()?.split_whitespace() {
        let (word, room) = word.split_once('/').unwrap_or((word, ""));
        let (cluster, running) = word.split_once(':').unwrap_or((word, ""));
        case.clusters.push(cluster.to_owned());
        case.current.extend(number(running).map(|running| (cluster.to_owned(), running)));
        case.capacity.extend(number(room).map(|room| (cluster.to_owned(), room)));
    }
    for word in columns.next()?.split_whitespace() {
        let (cluster, planned) = word.split_once('=')?;
        let (planned, overflow) = planned.split_once('+').unwrap_or((planned, ""));
        case.plan.insert(cluster.to_owned(), planned.parse().ok()?);
        case.overflow.extend(number(overflow).map(|overflow| (cluster.to_owned(), overflow)));
    }
    Some(case)
}

fn number(text: &str) -> Option<i64> {
    (!text.is_empty()).then(|| text.parse().unwrap_or_else(|_| panic!("not a number: {text}")))
}
