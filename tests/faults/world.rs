//! A federation of two members with several controller managers, what was asked of it, and whether it is so.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::Path,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use hansa_api::{TargetType, federated};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::{JoinHandle, block_in_place};

use crate::{
    cluster::{Cluster, Direct},
    managers::{Call, Manager},
    wishes::{Identity, Kind, Wish, copy_path, federated_path, identity, name, same, text, wish, words},
};

mod check;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(90);
const SYSTEM: &str = "/apis/core.kubefed.io/v1beta1/namespaces/kube-federation-system";
const DEBTS: &str = "/apis/core.kubefed.io/v1alpha1/namespaces/kube-federation-system/propagatedversions";
/// The ServiceAccount in each member that Hansa is there.
pub const ACCOUNT: &str = "hansa-of-the-host";
pub const BOTH: &[&str] = &["m1", "m2"];

pub struct World {
    pub host: Cluster,
    members: BTreeMap<&'static str, Cluster>,
    pub managers: Vec<Manager>,
    call: Call,
    /// What was asked for, and is not asked to go.
    ledger: BTreeMap<String, Wish>,
    /// What the ledger was when all was well last, and each copy then.
    settled: (BTreeMap<String, Wish>, BTreeMap<(String, String), Identity>),
    /// Objects that the tests wrote themselves in a member since then.
    touched: BTreeSet<String>,
    marker: u64,
    random: u64,
    dir: TempDir,
}

impl World {
    /// In memory, where there is such a directory: what a test stores need not outlive the machine.
    pub async fn embedded() -> Self {
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let [host, m1, m2] = ["host", "m1", "m2"].map(|name| Cluster::embedded(name, dir.path()));
        let (host, m1, m2) = tokio::join!(host, m1, m2);
        Self::of(host, [m1, m2], dir).await
    }

    /// `None`, loudly, where there are no programs to run.
    pub async fn real() -> Option<Self> {
        let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS") else {
            eprintln!("SKIPPED: no real clusters without KUBEBUILDER_ASSETS; run `cargo xtask test`");
            return None;
        };
        let dir = TempDir::new().unwrap();
        let [host, m1, m2] =
            ["host", "m1", "m2"].map(|name| Cluster::real(name, dir.path(), assets.clone().into()));
        let (host, m1, m2) = tokio::join!(host, m1, m2);
        Some(Self::of(host, [m1, m2], dir).await)
    }

    async fn of(host: Cluster, members: [Cluster; 2], dir: TempDir) -> Self {
        let path = |file: &str| dir.path().join(file);
        host.install(dir.path());
        let call = Call {
            kubeconfig: path("host-through-link.kubeconfig"),
            config: path("kubefedconfig.yaml"),
            logs: dir.path().to_owned(),
        };
        std::fs::write(&call.kubeconfig, host.kubeconfig(true)).unwrap();
        std::fs::write(&call.config, config().to_string()).unwrap();
        let mut world = Self {
            host,
            members: members.map(|member| (member.name, member)).into(),
            managers: Vec::new(),
            call,
            ledger: BTreeMap::new(),
            settled: Default::default(),
            touched: BTreeSet::new(),
            marker: 0,
            // A fixed sequence, so that a failure can be repeated; the moments are arbitrary to the program all the same.
            random: 0x2545_f491_4f6c_dd1d,
            dir,
        };
        world.register().await;
        world.define().await;
        world.together().await;
        world.people().await;
        world.settle().await;
        world
    }

    /// Registers the members as KubeFed does, each under the address of its link.
    async fn register(&self) {
        for (name, member) in &self.members {
            let token = member.issue_token(ACCOUNT).await;
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{name}-secret")},
                "stringData": {"token": token}});
            self.host.create("/api/v1/namespaces/kube-federation-system/secrets", &secret).await;
            let cluster = json!({
                "apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedCluster", "metadata": {"name": name},
                "spec": {"apiEndpoint": format!("https://127.0.0.1:{}", member.link.port),
                    "caBundle": member.authority(), "secretRef": {"name": format!("{name}-secret")}},
            });
            self.host.create(&format!("{SYSTEM}/kubefedclusters"), &cluster).await;
        }
    }

    /// Defines the custom resource everywhere, and federates it.
    async fn define(&mut self) {
        for name in BOTH {
            self.define_widgets(name).await;
        }
        let target = TargetType {
            group: "example.org".into(),
            version: "v1".into(),
            kind: "Widget".into(),
            plural_name: "widgets".into(),
            ..TargetType::default()
        };
        self.host.create(CRDS, &federated::crd(&target, false, &[])).await;
        let config = serde_json::to_value(federated::type_config(&target)).unwrap();
        self.host.create(&format!("{SYSTEM}/federatedtypeconfigs"), &config).await;
        self.until("the federated type is served", async |w| w.host.list(Kind::Widget.federated()).await)
            .await;
    }

    /// Defines the custom resource in a member.
    pub async fn define_widgets(&mut self, member: &'static str) {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"key": {"type": "string"}}}}});
        let crd = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": WIDGETS},
            "spec": {
                "group": "example.org", "scope": "Namespaced",
                "names": {"kind": "Widget", "listKind": "WidgetList", "plural": "widgets", "singular": "widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        });
        self.member(member).create(CRDS, &crd).await;
        self.until("the type is served", async |w| {
            w.member(member).list("/apis/example.org/v1/widgets").await
        })
        .await;
    }

    /// Takes the custom resource from a member, and everything of that type.
    pub async fn undefine_widgets(&mut self, member: &'static str) {
        self.member(member).delete(&format!("{CRDS}/{WIDGETS}")).await;
        self.until("the type is gone", async |w| {
            match w.member(member).get(&format!("{CRDS}/{WIDGETS}")).await? {
                None => Ok(()),
                Some(_) => Err("it is there".to_owned()),
            }
        })
        .await;
    }

    /// What there is to be disturbed: a namespace, objects that are propagated and that nobody changes, in every member one that was never
    /// Hansa's, and one that no longer is.
    async fn people(&mut self) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        self.host.create("/api/v1/namespaces", &namespace).await;
        let federated = json!({"apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedNamespace",
            "metadata": {"name": "shop"}, "spec": {"placement": {"clusterSelector": {}}}});
        self.host
            .create("/apis/types.kubefed.io/v1beta1/namespaces/shop/federatednamespaces", &federated)
            .await;
        for name in BOTH {
            self.until("the namespace is everywhere", async |w| {
                w.member(name).get("/api/v1/namespaces/shop").await?.ok_or("not yet".to_owned())
            })
            .await;
            let witness = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "witness"}, "data": {"key": "theirs"}});
            self.member(name).create(Kind::ConfigMap.copies(), &witness).await;
        }
        self.ask("orphan", Some(wish("left", BOTH))).await;
        self.is_right().await;
        let orphan = json!({"metadata": {"annotations": {"kubefed.io/orphan": "true"}}});
        self.host.patch(&federated_path("orphan"), &orphan).await;
        self.ask("orphan", None).await;
        for number in 0..5 {
            self.ask(&format!("still{number}"), Some(wish("1", BOTH).but("m2", "one"))).await;
        }
        self.ask("widget", Some(wish("1", BOTH))).await;
        self.ask("widget-here", Some(wish("1", &["m1"]))).await;
    }

    pub fn member(&self, name: &str) -> &Cluster {
        &self.members[name]
    }

    pub fn member_mut(&mut self, name: &str) -> &mut Cluster {
        self.members.get_mut(name).unwrap()
    }

    /// Where files of the tests go.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts one more controller manager.
    pub fn start_manager<'a>(
        &mut self,
        name: &str,
        flags: &[&str],
        envs: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
    ) {
        self.managers.push(Manager::start(name, &self.call, flags, envs));
    }

    /// Ends all controller managers in good order.
    pub async fn dismiss(&mut self) {
        for mut manager in self.managers.drain(..) {
            block_in_place(|| manager.process.interrupt());
        }
    }

    /// From now on there is one controller manager, which need not lead to work.
    pub async fn alone(&mut self) {
        self.dismiss().await;
        self.start_manager("alone", &["--no-leader-election"], []);
    }

    /// From now on there are two, of which one leads.
    pub async fn together(&mut self) {
        self.dismiss().await;
        for name in ["a", "b"] {
            self.start_manager(name, &[], []);
        }
    }

    /// A number below `below`.
    pub fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Asks again and again until there is an answer. Meanwhile whichever manager has ended is started again.
    pub async fn until<T>(&mut self, what: &str, mut ask: impl AsyncFnMut(&Self) -> Result<T, String>) -> T {
        let began = Instant::now();
        loop {
            for manager in &mut self.managers {
                if manager.process.check().is_err() {
                    manager.process.start_again();
                }
            }
            let asked = Instant::now();
            match ask(self).await {
                Ok(answer) => return answer,
                Err(last) if began.elapsed() > PATIENCE => panic!("{what}: not after {PATIENCE:?}: {last}"),
                Err(_) => {
                    // What is costly to ask is asked less often, so that there is something left for those who are asked.
                    tokio::time::sleep((asked.elapsed() * 2).max(Duration::from_millis(20))).await;
                }
            }
        }
    }

    /// The manager that leads.
    pub async fn leader(&mut self) -> usize {
        self.until("somebody leads", async |w| {
            for (index, manager) in w.managers.iter().enumerate() {
                if manager.leads().await {
                    return Ok(index);
                }
            }
            Err("nobody does".to_owned())
        })
        .await
    }

    /// Waits until so many operations more are done in the members, or there is nothing left to do.
    pub async fn dispatches(&mut self, operations: u64) {
        let (mut left, mut before, mut asked) = (operations, self.dispatched().await, 0_u32);
        self.until(&format!("{operations} operations are done"), async |w| {
            let now = w.dispatched().await;
            // Whoever has ended and begun again counts from the beginning.
            left = left.saturating_sub(now.saturating_sub(before));
            before = now;
            asked += 1;
            match left == 0 || (asked % 64 == 0 && w.check().await.is_ok()) {
                true => Ok(()),
                false => Err(format!("{left} are not")),
            }
        })
        .await;
    }

    async fn dispatched(&self) -> u64 {
        let mut sum = 0;
        for manager in &self.managers {
            sum += manager.dispatched().await;
        }
        sum
    }

    /// Kills the leader: it has no chance to tidy up.
    pub async fn kill_leader(&mut self) {
        let leader = self.leader().await;
        self.managers[leader].process.kill();
    }

    /// What a user asks of the host: that an object is so, or that it is not.
    pub async fn ask(&mut self, name: &str, wish: Option<Wish>) {
        self.ask_all(&[name.to_owned()], |_| wish.clone()).await;
    }

    /// The same of several.
    pub async fn ask_all(&mut self, names: &[String], wish: impl Fn(&str) -> Option<Wish>) {
        self.begin_to_ask(names, wish).await.unwrap();
    }

    /// Begins to ask the same of several, a few at a time.
    pub fn begin_to_ask(&mut self, names: &[String], wish: impl Fn(&str) -> Option<Wish>) -> JoinHandle<()> {
        let mut asked = Vec::new();
        for name in names {
            let wish = wish(name);
            let was_there = match &wish {
                Some(wish) => self.ledger.insert(name.clone(), wish.clone()),
                None => self.ledger.remove(name),
            };
            asked.push((Direct::clone(&self.host), name.clone(), wish, was_there.is_some()));
        }
        let ask = async |(host, name, wish, was_there): (Direct, String, Option<Wish>, bool)| {
            let (kind, path) = (Kind::of(&name), federated_path(&name));
            match wish {
                Some(wish) if was_there => host.patch(&path, &json!({ "spec": wish.spec(kind) })).await,
                Some(wish) => {
                    let object = json!({"apiVersion": "types.kubefed.io/v1beta1", "kind": format!("Federated{kind:?}"),
                        "metadata": {"name": name}, "spec": wish.spec(kind)});
                    host.create(kind.federated(), &object).await;
                }
                None => host.delete(&path).await,
            }
        };
        tokio::spawn(stream::iter(asked).for_each_concurrent(8, ask))
    }

    /// Changes an object in a member behind Hansa's back.
    pub async fn meddle(&mut self, member: &str, name: &str, patch: Option<Value>) {
        let path = copy_path(name);
        match patch {
            Some(patch) => self.member(member).patch(&path, &patch).await,
            None => self.member(member).delete(&path).await,
        }
        self.touched.insert(name.to_owned());
    }

    /// Of these, what is there may be another than before.
    pub fn lost(&mut self, names: &[&str]) {
        self.touched.extend(names.iter().map(|&name| name.to_owned()));
    }

    /// Waits until a member is, or is not, Ready.
    pub async fn ready(&mut self, member: &str, is: bool) {
        let path = format!("{SYSTEM}/kubefedclusters/{member}");
        self.until(&format!("{member} is ready: {is}"), async |w| {
            let cluster = w.host.get(&path).await?.unwrap_or_default();
            let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let says = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
            same("Ready", &conditions.iter().any(says), &is)
        })
        .await;
    }

    /// Waits until the status of an object has this word for a member; gives the object.
    pub async fn says(&mut self, name: &str, member: &str, word: &str) -> Value {
        self.until(&format!("{name} says {word} of {member}"), async |w| {
            let object = w.host.get(&federated_path(name)).await?.unwrap_or_default();
            same("it", &words(&object).get(member).map(String::as_str), &Some(word)).map(|()| object)
        })
        .await
    }

    /// Waits until a member has of an object what it is to have.
    pub async fn arrives(&mut self, member: &str, name: &str) {
        let wanted = self.ledger.get(name).and_then(|wish| wish.on(member)).map(str::to_owned);
        self.until(&format!("{name} in {member} is {wanted:?}"), async |w| {
            let copy = w.member(member).get(&copy_path(name)).await?;
            let value = copy.as_ref().and_then(|copy| copy.pointer(Kind::of(name).field())).map(text);
            same(name, &value, &wanted)
        })
        .await;
    }

    /// The identities of all that is in a member, by name.
    pub async fn in_member(&self, member: &str) -> Result<BTreeMap<String, Identity>, String> {
        let mut found = BTreeMap::new();
        for kind in Kind::ALL {
            let copies = self.member(member).list(kind.copies()).await?;
            let copies = copies.iter().filter(|copy| !IGNORED.contains(&&*name(copy)));
            found.extend(copies.map(|copy| (name(copy), identity(copy))));
        }
        Ok(found)
    }

    /// The names of the members in which something is owed.
    pub async fn owed(&self) -> Result<BTreeMap<String, Vec<String>>, String> {
        let records = self.host.list(DEBTS).await?;
        let debts = records.iter().filter_map(|record| {
            let debt: Value =
                serde_json::from_str(record["metadata"]["annotations"]["kubefed.io/owed"].as_str()?).ok()?;
            let clusters = debt["clusters"].as_object()?.keys().cloned().collect();
            Some((text(&debt["name"]), clusters))
        });
        Ok(debts.collect())
    }
}

/// What each cluster has by itself, and what the tests have go through.
const IGNORED: [&str; 2] = ["kube-root-ca.crt", "marker"];
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "widgets.example.org";
/// Little patience in everything, and as much with the lock as a busy machine needs.
fn config() -> Value {
    json!({
        "apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedConfig", "metadata": {"name": "kubefed"},
        "spec": {
            "scope": "Cluster",
            "leaderElect": {"leaseDuration": "7s", "renewDeadline": "6s", "retryPeriod": "300ms", "resourceLock": "leases"},
            "controllerDuration": {"availableDelay": "1s", "unavailableDelay": "3s"},
            "clusterHealthCheck": {"period": "300ms", "timeout": "1s", "failureThreshold": 3, "successThreshold": 1},
        },
    })
}
