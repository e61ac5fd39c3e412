//! A federation that KubeFed has run is taken over as it is, and KubeFed could go on with what we leave.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use support::{
    Kubectl, embedded, eventually, kubefed, kubefed::Kubefedctl, process::Process, real::Cluster, same,
};
use tempfile::TempDir;

const SYSTEM: &str = "kube-federation-system";
const MEMBERS: [&str; 2] = ["m1", "m2"];
/// What is federated: the federated object, the object in the members, and the resource to watch.
const OBJECTS: [(&str, &str, &str); 4] = [
    ("federatednamespace/shop", "namespace/shop", "namespaces"),
    ("federateddeployment/web", "deployment/web", "deployments"),
    ("federatedservice/web", "service/web", "services"),
    ("federatedconfigmap/settings", "configmap/settings", "configmaps"),
];

#[test]
fn a_federation_of_kubefeds_is_taken_over_and_could_be_given_back() {
    let Some(clusters) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
        eprintln!("SKIPPED: no real clusters without KUBEBUILDER_ASSETS; run `cargo xtask test`");
        return;
    };
    let Some(assets) = kubefed::assets() else { return };
    let f = Federation::start(&clusters, assets);

    step("KubeFed runs a federation");
    let mut genuine = f.kubefed();
    f.install_kubefed();
    f.federate();
    f.is_propagated();
    f.written_as("controller-manager");
    // Somebody of the member's own adds something, before and after KubeFed's end.
    f.label("m1", "deployment/web");
    genuine.kill();
    f.label("m1", "configmap/settings");
    let versions = f.versions();
    let before = f.in_members();
    let workloads = f.workloads();

    step("Hansa takes it over");
    let watches = f.watch(&before);
    let installed = embedded::hansa(&f.host.kubectl.kubeconfig, &["install"]);
    assert!(installed.status.success(), "{installed:?}");
    let mut hansa = f.hansa();
    f.probe("first");
    f.is_propagated();
    let taken_over = f.states(&watches, &before);
    for (what, states) in &taken_over {
        // Who owns the fields is changed, and the first apply evens that out.
        assert!(states.len() <= 3, "{what:?} was written needlessly: {}", json!(states));
        let same = states.iter().all(|state| content(state) == content(&states[0]));
        assert!(same, "{what:?} was changed: {}", json!(states));
    }
    hansa.kill();
    // A second start has nothing to take over.
    let mut hansa = f.hansa();
    f.probe("second");
    f.is_propagated();
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    for (what, object) in f.in_members() {
        assert_eq!(uid(&object), uid(&before[&what]), "{what:?} was made anew");
        assert_eq!(object["spec"], before[&what]["spec"], "{what:?} was changed");
        assert_eq!(object["data"], before[&what]["data"], "{what:?} was changed");
    }
    assert_eq!(f.workloads(), workloads, "something was restarted");
    f.has_label("m1", "deployment/web");
    f.has_label("m1", "configmap/settings");
    for (object, hashes) in f.versions() {
        assert_eq!(hashes, versions[&object], "the hashes of {object} are not KubeFed's");
    }
    assert_eq!(f.states(&watches, &before), taken_over, "the second start wrote to members");

    step("what leaves the template leaves the members, and what others added stays");
    let k = &f.k;
    f.merge("federatedconfigmap/settings", json!({"data": {"a": "2", "b": null}}));
    f.merge(
        "federateddeployment/web",
        json!({"spec": {"template": {"metadata": {"labels": {"tier": null}}}}}),
    );
    for member in MEMBERS {
        eventually("the change arrives", || {
            k.field(member, "shop", "configmap/settings", ".data.a").and_then(|a| same(a, "2".into()))
        });
        eventually("a field that KubeFed wrote goes", || {
            k.field(member, "shop", "configmap/settings", ".data")
                .and_then(|d| same(d, r#"{"a":"2"}"#.into()))
        });
        eventually("a label that KubeFed wrote goes", || {
            k.field(member, "shop", "deployment/web", ".spec.template.metadata.labels")
                .and_then(|labels| same(labels, r#"{"app":"web"}"#.into()))
        });
    }
    f.has_label("m1", "deployment/web");
    f.has_label("m1", "configmap/settings");
    assert_eq!(k.field("m2", "shop", "deployment/web", ".spec.replicas").unwrap(), "3");

    step("deletion cleans up");
    k.ok("host", &["delete", "-n", "shop", "federatedservice/web", "--timeout=60s"]);
    for member in MEMBERS {
        k.absent(member, "shop", "service/web").unwrap();
    }
    f.is_propagated();
    hansa.kill();

    step("KubeFed takes it back");
    f.install_crds();
    f.objects_are_valid();
    let genuine = f.kubefed();
    f.merge("federatedconfigmap/settings", json!({"data": {"a": "3"}}));
    for member in MEMBERS {
        eventually("KubeFed goes on", || {
            k.field(member, "shop", "configmap/settings", ".data.a").and_then(|a| same(a, "3".into()))
        });
    }
    f.is_propagated();
    for object in ["federatedconfigmap/settings", "federateddeployment/web", "federatednamespace/shop"] {
        k.ok("host", &["delete", "-n", "shop", object, "--timeout=60s"]);
    }
    for member in MEMBERS {
        eventually("the namespace goes", || k.absent(member, "", "namespace/shop"));
    }
    drop(genuine);
}

fn step(what: &str) {
    eprintln!("  {what} …");
}

struct Federation {
    /// kubectl with the contexts `host`, `m1`, `m2`.
    k: Kubectl,
    host: Cluster,
    _members: [Cluster; 2],
    ctl: Kubefedctl,
    assets: PathBuf,
    dir: TempDir,
}

impl Federation {
    fn start(clusters: &Path, assets: PathBuf) -> Self {
        let dir = TempDir::new().unwrap();
        let start = |name: &'static str| {
            let (dir, clusters) = (dir.path().join(name), clusters.to_owned());
            std::thread::spawn(move || Cluster::start(name, &dir, &clusters))
        };
        let [host, m1, m2] = ["host", "m1", "m2"].map(start).map(|started| started.join().unwrap());
        let k = kubefed::merge(
            &dir.path().join("kubeconfig"),
            &[
                ("host", &host.kubectl.kubeconfig, None),
                ("m1", &m1.kubectl.kubeconfig, None),
                ("m2", &m2.kubectl.kubeconfig, None),
            ],
        );
        let ctl = Kubefedctl::genuine(&assets, &k.kubeconfig);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}});
        k.apply("host", &namespace.to_string());
        let started = Self { k, host, _members: [m1, m2], ctl, assets, dir };
        started.install_crds();
        started.k.apply("host", &config().to_string());
        started
    }

    /// KubeFed's own CRDs in place of whatever is there.
    fn install_crds(&self) {
        let crds = self.assets.join("crds.yaml");
        assert!(crds.is_file(), "{} is missing: `cargo xtask k8s` puts it there", crds.display());
        let file = crds.to_str().unwrap();
        self.k.ok("host", &["apply", "--server-side", "--force-conflicts", "-f", file]);
        self.k.ok("host", &["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
    }

    fn kubefed(&self) -> Process {
        let file = self.dir.path().join("kubefedconfig.yaml");
        fs::write(&file, config().to_string()).unwrap();
        let kubeconfig = &self.host.kubectl.kubeconfig;
        let mut process = kubefed::controller_manager(&self.assets, self.dir.path(), kubeconfig, &file);
        let before = process.output().matches("promoted as leader").count();
        eventually("the genuine controller leads", || {
            process.check()?;
            let promoted = process.output().matches("promoted as leader").count();
            (promoted > before).then_some(()).ok_or_else(|| process.output())
        });
        process
    }

    fn hansa(&self) -> Process {
        let mut command = Command::new(embedded::binary());
        command.arg("controller-manager").arg("--kubeconfig").arg(&self.host.kubectl.kubeconfig);
        Process::start("hansa", self.dir.path(), &mut command)
    }

    fn install_kubefed(&self) {
        for name in ["namespaces", "deployments.apps", "services", "configmaps"] {
            self.ctl.ok(&["enable", name]);
        }
        for member in MEMBERS {
            self.ctl.ok(&["join", member, "--cluster-context", member, "--host-cluster-context", "host"]);
            eventually("the member is ready", || {
                let path = ".status.conditions[?(@.type==\"Ready\")].status";
                let object = format!("kubefedcluster/{member}");
                self.k.field("host", SYSTEM, &object, path).and_then(|ready| same(ready, "True".into()))
            });
        }
    }

    fn federate(&self) {
        let federated = |kind: &str, name: &str, template: Value, overrides: Value| {
            json!({"apiVersion": "types.kubefed.io/v1beta1", "kind": kind, "metadata": {"name": name, "namespace": "shop"},
                "spec": {"template": template, "placement": {"clusterSelector": {}}, "overrides": overrides}})
        };
        let labels = json!({"app": "web", "tier": "front"});
        let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "nginx:1.27"}]}});
        let deployment = json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": pod},
        });
        let three =
            json!([{"clusterName": "m2", "clusterOverrides": [{"path": "/spec/replicas", "value": 3}]}]);
        let service =
            json!({"spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80}]}});
        self.k.apply("host", r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}"#);
        for object in [
            federated(
                "FederatedNamespace",
                "shop",
                json!({"metadata": {"labels": {"team": "blue"}}}),
                json!([]),
            ),
            federated("FederatedDeployment", "web", deployment, three),
            federated("FederatedService", "web", service, json!([])),
            federated("FederatedConfigMap", "settings", json!({"data": {"a": "1", "b": "2"}}), json!([])),
        ] {
            self.k.apply("host", &object.to_string());
        }
    }

    /// The federated objects that are there now.
    fn federated(&self) -> Vec<(&'static str, &'static str, Value)> {
        let get = |object: &str| self.k.json("host", &["get", "-n", "shop", object]);
        OBJECTS.into_iter().filter_map(|(f, o, _)| Some((f, o, get(f).ok()?))).collect()
    }

    /// Waits until the host says of each object that both members have it, in the version that they really have.
    fn is_propagated(&self) {
        for (federated, object, _) in self.federated() {
            eventually(&format!("{federated} is propagated"), || {
                let found = self.k.json("host", &["get", "-n", "shop", federated])?;
                let status = &found["status"];
                let clusters: BTreeSet<&str> = status["clusters"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|cluster| cluster["status"].as_str().unwrap_or_default().is_empty())
                    .filter_map(|cluster| cluster["name"].as_str())
                    .collect();
                let done = status["conditions"][0]["status"] == "True"
                    && status["observedGeneration"] == found["metadata"]["generation"]
                    && clusters == BTreeSet::from(MEMBERS);
                if !done {
                    return Err(format!("{federated}: {status}"));
                }
                let recorded = self.recorded(object)?;
                for member in MEMBERS {
                    let live = version(&self.k.json(member, &["get", "-n", "shop", object])?);
                    let versions = recorded["clusterVersions"].as_array();
                    let version = versions.and_then(|v| v.iter().find(|v| v["clusterName"] == member));
                    let version = version.map(|v| v["version"].clone()).unwrap_or_default();
                    same(version, live.into()).map_err(|e| format!("{object} in {member}: {e}"))?;
                }
                Ok(())
            });
        }
    }

    /// The status of an object's PropagatedVersion.
    fn recorded(&self, object: &str) -> Result<Value, String> {
        let name = format!("propagatedversion/{}", object.replace('/', "-"));
        Ok(self.k.json("host", &["get", "-n", "shop", &name])?["status"].take())
    }

    /// The hashes that are recorded of each object.
    fn versions(&self) -> BTreeMap<&'static str, [Value; 2]> {
        let hashes = |object: &str| {
            let recorded = self.recorded(object).unwrap();
            ["templateVersion", "overridesVersion"].map(|hash| recorded[hash].clone())
        };
        self.federated().into_iter().map(|(_, object, _)| (object, hashes(object))).collect()
    }

    fn in_members(&self) -> BTreeMap<(&'static str, &'static str), Value> {
        let args = |object| ["get", "-n", "shop", object, "--show-managed-fields"];
        let get = |member, object| self.k.json(member, &args(object)).unwrap();
        let all = MEMBERS.into_iter().flat_map(|member| OBJECTS.map(|(_, object, _)| (member, object)));
        all.map(|(member, object)| ((member, object), get(member, object))).collect()
    }

    /// What the Deployments run: a restart is a new ReplicaSet.
    fn workloads(&self) -> Vec<BTreeSet<String>> {
        let names = |member: &&str| {
            let listed = self.k.ok(member, &["get", "replicasets,pods", "-n", "shop", "-o", "name"]);
            listed.lines().map(str::to_owned).collect()
        };
        MEMBERS.iter().map(names).collect()
    }

    /// Who KubeFed writes as, which is what has to be taken over from.
    fn written_as(&self, manager: &str) {
        for ((member, object), found) in self.in_members() {
            let entries = found["metadata"]["managedFields"].as_array().unwrap();
            let is_it = |e: &Value| {
                e["manager"] == manager && e["operation"] == "Update" && e["subresource"].is_null()
            };
            assert!(entries.iter().any(is_it), "{object} in {member}: {entries:?}");
        }
    }

    fn label(&self, member: &str, object: &str) {
        let args = ["label", "-n", "shop", object, "example.org/owner=them", "--field-manager=them"];
        self.k.ok(member, &args);
    }

    fn has_label(&self, member: &str, object: &str) {
        let owner = self.k.field(member, "shop", object, ".metadata.labels.example\\.org/owner").unwrap();
        assert_eq!(owner, "them", "{object} in {member} lost what others had added");
    }

    fn merge(&self, object: &str, template: Value) {
        let patch = json!({"spec": {"template": template}});
        self.k.merge("host", "shop", object, &patch.to_string());
    }

    /// Awaits that whoever runs now propagates: what was there before has been looked at by then, since a type's objects are looked at in the
    /// order in which they were listed.
    fn probe(&self, name: &str) {
        for kind in ["FederatedConfigMap", "FederatedService", "FederatedDeployment"] {
            let spec = match kind {
                "FederatedConfigMap" => json!({"data": {"a": "b"}}),
                "FederatedService" => json!({"spec": {"ports": [{"port": 80}]}}),
                _ => {
                    json!({"spec": {"replicas": 0, "selector": {"matchLabels": {"app": "probe"}}, "template": {
                    "metadata": {"labels": {"app": "probe"}}, "spec": {"containers": [{"name": "p", "image": "p"}]}}}})
                }
            };
            let object = json!({"apiVersion": "types.kubefed.io/v1beta1", "kind": kind,
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"template": spec, "placement": {"clusterSelector": {}}}});
            self.k.apply("host", &object.to_string());
            let resource = kind.trim_start_matches("Federated").to_lowercase();
            for member in MEMBERS {
                eventually("propagation works", || {
                    self.k.try_run(member, &["get", "-n", "shop", &format!("{resource}/{name}")])
                });
            }
            let federated = format!("{}/{name}", kind.to_lowercase());
            self.k.ok("host", &["delete", "-n", "shop", &federated, "--timeout=60s"]);
        }
    }

    /// Watches each object in each member from the state that was seen.
    fn watch(&self, seen: &BTreeMap<(&'static str, &'static str), Value>) -> Vec<Watch> {
        let start = |(&(member, object), found): (&(&'static str, &'static str), &Value)| {
            let (resource, name) = object.split_once('/').unwrap();
            let (_, _, plural) = OBJECTS.into_iter().find(|(_, o, _)| *o == object).unwrap();
            let api = if resource == "deployment" { "/apis/apps/v1" } else { "/api/v1" };
            let inside = if resource == "namespace" { "" } else { "/namespaces/shop" };
            let version = found["metadata"]["resourceVersion"].as_str().unwrap();
            let path = format!(
                "{api}{inside}/{plural}?watch=true&fieldSelector=metadata.name%3D{name}&resourceVersion={version}"
            );
            let mut command = self.k.command(member, &["get", "--raw", &path]);
            let log = format!("watch-{member}-{resource}");
            Watch { what: (member, object), process: Process::start(&log, self.dir.path(), &mut command) }
        };
        seen.iter().map(start).collect()
    }

    /// The states that each object went through since, but for its status, which the member's own controllers write.
    fn states(
        &self,
        watches: &[Watch],
        before: &BTreeMap<(&'static str, &'static str), Value>,
    ) -> BTreeMap<(&'static str, &'static str), Vec<Value>> {
        let seen = |watch: &Watch| {
            let output = watch.process.output();
            let events = serde_json::Deserializer::from_str(&output).into_iter::<Value>();
            let mut states = vec![written(&before[&watch.what])];
            for event in events.map_while(Result::ok) {
                assert_eq!(event["type"], "MODIFIED", "{event}");
                states.push(written(&event["object"]));
            }
            states.dedup();
            states
        };
        let states = |watch: &Watch| {
            let (member, object) = watch.what;
            let args = ["get", "-n", "shop", object, "--show-managed-fields"];
            let live = written(&self.k.json(member, &args).unwrap());
            eventually("the watch tells the last state", || {
                let states = seen(watch);
                if states.last() == Some(&live) { Ok(states) } else { Err(json!(states).to_string()) }
            })
        };
        watches.iter().map(|watch| (watch.what, states(watch))).collect()
    }

    /// Everything the host holds, as KubeFed's CRDs see it: each object could be written again as it is.
    fn objects_are_valid(&self) {
        for (resource, namespace) in [
            ("kubefedclusters", SYSTEM),
            ("federatedtypeconfigs", SYSTEM),
            ("kubefedconfigs", SYSTEM),
            ("propagatedversions", "shop"),
            ("federatednamespaces", "shop"),
            ("federateddeployments", "shop"),
            ("federatedconfigmaps", "shop"),
        ] {
            let list = self.k.json("host", &["get", "-n", namespace, resource]).unwrap();
            assert_ne!(list["items"], json!([]), "{resource}");
            for object in list["items"].as_array().unwrap() {
                for subresource in [&["--subresource=status"][..], &[]] {
                    if resource == "kubefedconfigs" && !subresource.is_empty() {
                        continue;
                    }
                    let args = [&["replace", "--dry-run=server", "-f", "-"], subresource].concat();
                    let replaced = self.k.run("host", &args, &object.to_string());
                    assert!(replaced.status.success(), "{object}: {replaced:?}");
                }
            }
        }
    }
}

struct Watch {
    what: (&'static str, &'static str),
    process: Process,
}

/// What a write of the object itself changes, who owns it included.
fn written(object: &Value) -> Value {
    let mut object = object.clone();
    object.as_object_mut().unwrap().remove("status");
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("resourceVersion");
    if let Some(entries) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) {
        entries.retain(|entry| entry["subresource"].is_null());
    }
    object
}

/// What an object says, whoever owns it.
fn content(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object
}

/// `spec/kubefed.md §1.4`: what a version record says of an object.
fn version(object: &Value) -> String {
    match object["metadata"]["generation"].as_i64() {
        Some(generation) if generation != 0 => format!("gen:{generation}"),
        _ => format!("rv:{}", object["metadata"]["resourceVersion"].as_str().unwrap_or_default()),
    }
}

/// A KubeFedConfig as KubeFed's chart makes it, but quick.
fn config() -> Value {
    json!({
        "apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedConfig",
        "metadata": {"name": "kubefed", "namespace": SYSTEM},
        "spec": {
            "scope": "Cluster",
            "controllerDuration": {"availableDelay": "1s", "unavailableDelay": "5s", "cacheSyncTimeout": "5m"},
            "leaderElect": {"leaseDuration": "3s", "renewDeadline": "2s", "retryPeriod": "1s", "resourceLock": "configmaps"},
            "featureGates": [
                {"name": "PushReconciler", "configuration": "Enabled"},
                {"name": "RawResourceStatusCollection", "configuration": "Disabled"},
                {"name": "SchedulerPreferences", "configuration": "Enabled"},
            ],
            "clusterHealthCheck": {"period": "2s", "timeout": "1s", "failureThreshold": 3, "successThreshold": 1},
            "syncController": {"maxConcurrentReconciles": 1, "adoptResources": "Enabled"},
            "statusController": {"maxConcurrentReconciles": 1},
        },
    })
}
