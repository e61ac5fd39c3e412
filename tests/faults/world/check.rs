//! Whether everything is as it was asked to be, stands still, and has been left alone where nobody asked for anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use serde_json::json;

use super::{BOTH, IGNORED, World};
use crate::wishes::{Identity, Kind, copy_path, federated_path, identity, name, same, text, wish, words};

const RECORDS: &str = "/apis/core.kubefed.io/v1alpha1/namespaces/shop/propagatedversions";

impl World {
    /// Waits until the host has what was asked of it and says that it is so, and until it is.
    pub async fn is_right(&mut self) {
        self.until("everything is as it was asked to be", async |w| w.check().await).await;
    }

    pub(super) async fn check(&self) -> Result<(), String> {
        for (member, cluster) in &self.members {
            let (mut found, mut others) = (BTreeMap::new(), BTreeMap::new());
            for kind in Kind::ALL {
                for copy in cluster.list(kind.copies()).await? {
                    let name = name(&copy);
                    let is_ours = copy["metadata"]["labels"]["kubefed.io/managed"] == "true";
                    if !IGNORED.contains(&&*name) {
                        let value = copy.pointer(kind.field()).map(text).unwrap_or_default();
                        if is_ours {
                            found.insert(name, value)
                        } else {
                            others.insert(name, value)
                        };
                    }
                }
            }
            let wanted = self
                .ledger
                .iter()
                .filter_map(|(name, wish)| Some((name.clone(), wish.on(member)?.to_owned())));
            equal(&format!("in {member}"), &found, &wanted.collect())?;
            let bystanders =
                [("witness", "theirs"), ("orphan", "left")].map(|(k, v)| (k.to_owned(), v.to_owned()));
            // The first thing that is right is the orphan itself, before it is one.
            if !self.ledger.contains_key("orphan") {
                equal(&format!("not ours in {member}"), &others, &bystanders.into())?;
            }
        }
        let mut asked = BTreeMap::new();
        for kind in Kind::ALL {
            for object in self.host.list(kind.federated()).await? {
                let name = name(&object);
                let Some(wish) = self.ledger.get(&name) else {
                    if IGNORED.contains(&&*name) {
                        continue;
                    }
                    return Err(format!("{name} is on the host and was not asked for"));
                };
                same(&name, &object["spec"], &wish.spec(kind))?;
                let well = wish.clusters.iter().map(|cluster| (cluster.to_string(), String::new())).collect();
                same(&name, &words(&object), &well)?;
                same(&name, &object["status"]["observedGeneration"], &object["metadata"]["generation"])?;
                asked.insert(format!("{kind:?}-{name}").to_lowercase(), well.into_keys().collect::<Vec<_>>());
            }
        }
        if asked.len() != self.ledger.len() {
            return Err(format!("of {} objects the host has {}", self.ledger.len(), asked.len()));
        }
        let mut recorded = BTreeMap::new();
        for record in self.host.list(RECORDS).await? {
            let clusters = record["status"]["clusterVersions"].as_array().into_iter().flatten();
            let clusters = clusters.map(|version| text(&version["clusterName"])).collect();
            recorded.insert(name(&record), clusters);
        }
        // What is recorded of objects that are gone is left to the host's garbage collector, which takes its time.
        recorded.retain(|name, _| asked.contains_key(name));
        equal("recorded versions", &recorded, &asked)?;
        same("owed", &self.owed().await?, &BTreeMap::new())
    }

    /// Waits until everything is as it was asked to be and stands still; then, of what nobody asked to change, nothing has been written since
    /// the last time, and of what is there still, nothing was made anew.
    pub async fn settle(&mut self) {
        self.is_right().await;
        let mut copies;
        loop {
            copies = self.versions(false).await;
            let before = self.versions(true).await;
            for _ in 0..2 {
                self.mark().await;
            }
            if self.versions(true).await == before {
                break;
            }
            // What is still written comes to an end, or this does not.
            self.is_right().await;
        }
        let (ledger, former) = &self.settled;
        for ((member, name), (uid, version)) in former {
            if self.touched.contains(name) {
                continue;
            }
            let now = copies.get(&(member.clone(), name.clone()));
            let is_asked = self.ledger.get(name) != ledger.get(name);
            match now {
                Some((now, _)) if is_asked => assert_eq!(now, uid, "{name} in {member} was made anew"),
                None if is_asked => {}
                now => assert_eq!(
                    now,
                    Some(&(uid.clone(), version.clone())),
                    "{name} in {member} was touched though nobody asked for that"
                ),
            }
        }
        self.settled = (self.ledger.clone(), copies);
        self.touched.clear();
    }

    /// The identities of all copies and bystanders, and of what is on the host if that is asked for.
    async fn versions(&mut self, with_host: bool) -> BTreeMap<(String, String), Identity> {
        self.until("everything can be listed", async |w| {
            let mut all = BTreeMap::new();
            for member in w.members.keys() {
                let found = w.in_member(member).await?;
                all.extend(found.into_iter().map(|(name, identity)| ((member.to_string(), name), identity)));
            }
            if with_host {
                for path in [Kind::ConfigMap.federated(), Kind::Widget.federated(), RECORDS] {
                    let objects = w.host.list(path).await?;
                    let is_asked = |name: &str| w.ledger.keys().any(|asked| name.ends_with(&**asked));
                    let objects = objects.iter().filter(|object| is_asked(&name(object)));
                    all.extend(objects.map(|object| ((path.to_owned(), name(object)), identity(object))));
                }
            }
            Ok(all)
        })
        .await
    }

    /// Has something go through everything: an object is changed and arrives, and each member is probed twice.
    async fn mark(&mut self) {
        self.marker += 1;
        let value = self.marker.to_string();
        let spec = wish(&value, BOTH).spec(Kind::ConfigMap);
        let path = federated_path("marker");
        if self.marker == 1 {
            let object = json!({"apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedConfigMap",
                "metadata": {"name": "marker"}, "spec": spec});
            self.host.create(Kind::ConfigMap.federated(), &object).await;
        } else {
            self.host.patch(&path, &json!({ "spec": spec })).await;
        }
        for member in BOTH {
            self.until("the marker arrives", async |w| {
                let copy = w.member(member).get(&copy_path("marker")).await?.unwrap_or_default();
                same("marker", &text(&copy["data"]["key"]), &value)
            })
            .await;
        }
        self.probes(4.0).await;
    }

    /// Waits until the members have been probed so many times.
    pub async fn probes(&mut self, times: f64) {
        let leader = self.leader().await;
        let probes = "cluster_health_status_duration_seconds_count";
        let before = self.managers[leader].metric(probes).await.unwrap_or_default();
        self.until("the members are probed", async |w| {
            let now = w.managers[leader].metric(probes).await.ok_or("the leader has ended")?;
            // Another process counts from the beginning.
            if now >= before + times || now < before { Ok(()) } else { Err(format!("{}", now - before)) }
        })
        .await;
    }
}

/// `Ok` if the two are the same; else what is different.
fn equal<T: PartialEq + Debug>(
    what: &str,
    found: &BTreeMap<String, T>,
    wanted: &BTreeMap<String, T>,
) -> Result<(), String> {
    let names: BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    let mut wrong = names.into_iter().filter(|name| found.get(*name) != wanted.get(*name));
    let Some(first) = wrong.next() else { return Ok(()) };
    let (is, should) = (found.get(first), wanted.get(first));
    Err(format!("{what}: {first} is {is:?} and should be {should:?}; {} more are wrong", wrong.count()))
}
