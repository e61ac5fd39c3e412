//! `controller-manager` as KubeFed's users and scripts know it (`spec/kubefed.md §0 (12)(14), §2.1, §4`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

#[path = "../crates/cluster/tests/support/mod.rs"]
mod instance;
mod support;

use std::{
    env,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hansa_api::kubefed::KubeFedCluster;
use hansa_transport::{Limits, Target, Transport};
use instance::{Instance, until};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Node, Secret, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};
use support::{embedded, free_port, process::Process, real};
use tempfile::TempDir;

/// How long the lock of these tests holds: short for a test, and long enough for a machine that is busy with others.
const LEASE: Duration = Duration::from_secs(8);
const NAMESPACE: &str = "kube-federation-system";
const LOCK: &str = "kubefed-controller-manager";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// A cluster of either kind, with the kubeconfig of an administrator who has a token.
struct Cluster {
    client: Client,
    kubeconfig: String,
    _kept: Kept,
}

enum Kept {
    Embedded { _instance: Instance },
    Real { _cluster: real::Cluster },
}

impl Cluster {
    async fn embedded(name: &str) -> Self {
        let instance = Instance::start(name).await;
        let (client, kubeconfig) = (instance.client.clone(), instance.kubeconfig.clone());
        Self { client, kubeconfig, _kept: Kept::Embedded { _instance: instance } }
    }

    /// `None`, loudly, when there are no binaries to run.
    async fn real(name: &'static str, dir: &Path) -> Option<Self> {
        let Some(assets) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
            eprintln!("SKIPPED: no real clusters without KUBEBUILDER_ASSETS; run `cargo xtask test`");
            return None;
        };
        let (dir, file) = (dir.join(name), dir.join(format!("{name}.token.kubeconfig")));
        let start = move || real::Cluster::start(name, &dir, &assets);
        let cluster = tokio::task::spawn_blocking(start).await.unwrap();
        let kubeconfig = std::fs::read_to_string(cluster.token_kubeconfig(&file)).unwrap();
        let target = Target::from_kubeconfig(&kubeconfig, None).unwrap();
        let client = Transport::new(target, Limits::default()).unwrap().client("default");
        Some(Self { client, kubeconfig, _kept: Kept::Real { _cluster: cluster } })
    }

    fn write(&self, file: &Path) -> PathBuf {
        std::fs::write(file, &self.kubeconfig).unwrap();
        file.to_owned()
    }

    fn field(&self, pointer: &str) -> String {
        let config: Value = serde_json::from_str(&self.kubeconfig).unwrap();
        config.pointer(pointer).and_then(Value::as_str).unwrap().to_owned()
    }

    fn dynamic(&self, version: &str, kind: &str, plural: &str, namespace: &str) -> Api<DynamicObject> {
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.rsplit('/').next().unwrap().to_owned(),
            api_version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        match namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    /// Who has the lock, if anybody.
    async fn holder(&self, kind: &str) -> String {
        let (version, kind, plural) = match kind {
            "leases" => ("coordination.k8s.io/v1", "Lease", "leases"),
            "endpoints" => ("v1", "Endpoints", "endpoints"),
            _ => ("v1", "ConfigMap", "configmaps"),
        };
        let Ok(Some(lock)) = self.dynamic(version, kind, plural, NAMESPACE).get_opt(LOCK).await else {
            return String::new();
        };
        let record = lock.metadata.annotations.as_ref().and_then(|all| all.get(LEADER));
        match record {
            Some(record) => {
                serde_json::from_str::<Value>(record).unwrap()["holderIdentity"].as_str().unwrap().to_owned()
            }
            None => lock.data["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// A host that `hansa install` prepared, and a directory for what runs beside it.
struct Host {
    cluster: Cluster,
    kubeconfig: PathBuf,
    dir: TempDir,
    health: u16,
    metrics: u16,
}

impl Host {
    async fn embedded() -> Self {
        Self::prepare(Cluster::embedded("host").await, TempDir::new().unwrap())
    }

    async fn real() -> Option<Self> {
        let dir = TempDir::new().unwrap();
        Some(Self::prepare(Cluster::real("host", dir.path()).await?, dir))
    }

    fn prepare(cluster: Cluster, dir: TempDir) -> Self {
        let kubeconfig = cluster.write(&dir.path().join("host.kubeconfig"));
        let installed = embedded::hansa(&kubeconfig, &["install"]);
        assert!(installed.status.success(), "{installed:?}");
        symlink(embedded::binary(), dir.path().join("controller-manager")).unwrap();
        Self { cluster, kubeconfig, dir, health: free_port(), metrics: free_port() }
    }

    /// A KubeFedConfig in a file.
    fn config(&self, spec: Value) -> PathBuf {
        let file = self.dir.path().join("kubefedconfig.yaml");
        let config = json!({"apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedConfig",
            "metadata": {"name": "kubefed", "namespace": "elsewhere"}, "spec": spec});
        std::fs::write(&file, config.to_string()).unwrap();
        file
    }

    /// Leader election and health with little patience.
    fn quick(&self, lock: &str) -> PathBuf {
        self.config(quick_spec(lock))
    }

    /// `controller-manager`, called as a script calls it.
    fn command(&self, kubeconfig: &Path) -> Command {
        let mut command = Command::new(self.dir.path().join("controller-manager"));
        command
            .arg(format!("-kubeconfig={}", kubeconfig.display()))
            .args(["--kubefed-namespace", NAMESPACE, "--v=2", "--logtostderr", "--alsologtostderr=false"])
            .arg(format!("--healthz-addr=127.0.0.1:{}", self.health))
            .arg(format!("--metrics-addr=127.0.0.1:{}", self.metrics))
            .env_remove("DEFAULT_KUBEFED_SCOPE")
            .env_remove("RUST_LOG");
        command
    }

    fn start(&self, name: &str, config: Option<&Path>) -> Process {
        let mut command = self.command(&self.kubeconfig);
        if let Some(config) = config {
            command.arg("--kubefed-config").arg(config);
        }
        Process::start(name, self.dir.path(), &mut command)
    }

    /// KubeFed's own controller manager, or `None`, loudly, when there is none to run.
    fn genuine(&self, name: &str, config: &Path) -> Option<Process> {
        let Some(assets) = env::var_os("HANSA_KUBEFED_ASSETS").map(PathBuf::from) else {
            eprintln!("SKIPPED: no genuine KubeFed without HANSA_KUBEFED_ASSETS; run `cargo xtask test`");
            return None;
        };
        let mut command = Command::new(assets.join("kubefed-controller-manager"));
        command
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .args(["--kubefed-namespace", NAMESPACE, "--v=4"])
            .arg("--kubefed-config")
            .arg(config)
            .arg(format!("--healthz-addr=127.0.0.1:{}", free_port()))
            .arg(format!("--metrics-addr=127.0.0.1:{}", free_port()));
        Some(Process::start(name, self.dir.path(), &mut command))
    }

    /// Registers a member as `kubefedctl join` leaves it.
    async fn register(&self, name: &str, member: &Cluster, token: &str) {
        let secrets: Api<Secret> = Api::namespaced(self.cluster.client.clone(), NAMESPACE);
        let secret = json!({"metadata": {"name": format!("{name}-abcde")}, "stringData": {"token": token}});
        secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
        let cluster = json!({
            "apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedCluster",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"apiEndpoint": member.field("/clusters/0/cluster/server"), "secretRef": {"name": format!("{name}-abcde")},
                "caBundle": member.field("/clusters/0/cluster/certificate-authority-data")},
        });
        let clusters: Api<KubeFedCluster> = Api::namespaced(self.cluster.client.clone(), NAMESPACE);
        clusters.create(&PostParams::default(), &serde_json::from_value(cluster).unwrap()).await.unwrap();
    }

    async fn kubefed_cluster(&self, name: &str) -> KubeFedCluster {
        let clusters: Api<KubeFedCluster> = Api::namespaced(self.cluster.client.clone(), NAMESPACE);
        clusters.get(name).await.unwrap()
    }

    /// Federates a namespace, and a ConfigMap in it, to all members.
    async fn federate(&self, namespace: &str) {
        let everywhere = json!({"clusterSelector": {}});
        let post = PostParams::default();
        let make = async |api: Api<DynamicObject>, object: Value| {
            api.create(&post, &serde_json::from_value(object).unwrap()).await.unwrap();
        };
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        make(self.cluster.dynamic("v1", "Namespace", "namespaces", ""), object).await;
        for (kind, plural, name, template) in [
            ("FederatedNamespace", "federatednamespaces", namespace, json!({})),
            ("FederatedConfigMap", "federatedconfigmaps", "settings", json!({"data": {"a": "b"}})),
        ] {
            let api = self.cluster.dynamic("types.kubefed.io/v1beta1", kind, plural, namespace);
            let object = json!({"apiVersion": "types.kubefed.io/v1beta1", "kind": kind,
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"template": template, "placement": everywhere}});
            make(api, object).await;
        }
    }
}

fn quick_spec(lock: &str) -> Value {
    json!({
        "scope": "Cluster",
        "leaderElect": {"leaseDuration": "8s", "renewDeadline": "6s", "retryPeriod": "500ms", "resourceLock": lock},
        "controllerDuration": {"availableDelay": "20s", "unavailableDelay": "60s", "cacheSyncTimeout": "5m"},
        "clusterHealthCheck": {"period": "500ms", "timeout": "2s", "failureThreshold": 3, "successThreshold": 1},
        "syncController": {"maxConcurrentReconciles": 1, "adoptResources": "Enabled"},
        "statusController": {"maxConcurrentReconciles": 1},
        "featureGates": [
            {"name": "PushReconciler", "configuration": "Enabled"},
            {"name": "RawResourceStatusCollection", "configuration": "Disabled"},
            {"name": "SchedulerPreferences", "configuration": "Enabled"},
        ],
    })
}

async fn says(process: &mut Process, words: &str) {
    let waited = async {
        while !process.output().contains(words) {
            if let Err(error) = process.check() {
                panic!("it never said {words:?}: {error}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waited).await;
    assert!(waited.is_ok(), "{} never said {words:?}:\n{}", process.name, process.output());
}

/// Waits until a process has ended; gives its exit code and what it said.
async fn ends(process: &mut Process) -> String {
    let mut last = String::new();
    for _ in 0..3000 {
        if let Err(error) = process.check() {
            return error;
        }
        last = process.output();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} goes on:\n{last}", process.name);
}

/// One plain HTTP request.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The value of one series.
fn metric(port: u16, series: &str) -> Option<f64> {
    let text = get(port, "/metrics")?;
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `spec/kubefed.md §0 (14)`: flags, lines in their order, endpoints; and an end that gives the lock back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_started_kubefed_starts_hansa() {
    let host = Host::embedded().await;
    let mut process = host.start("cm", None);
    let lines = [
        format!("Using valid KubeFedConfig \"{NAMESPACE}/kubefed\""),
        "promoted as leader".to_owned(),
        "Starting cluster controller".to_owned(),
    ];
    for line in &lines {
        says(&mut process, line).await;
    }
    let output = process.output();
    let places: Vec<_> = lines.iter().map(|line| output.find(line.as_str()).unwrap()).collect();
    assert!(places.is_sorted(), "{output}");
    for path in ["/healthz", "/livez", "/readyz"] {
        until("the endpoint serves", async || {
            get(host.health, path).is_some_and(|answer| answer.ends_with("OK"))
        })
        .await;
    }
    assert!(get(host.metrics, "/metrics").unwrap().contains("text/plain; version=0.0.4"));
    assert_eq!(metric(host.metrics, "hansa_leader"), Some(1.0));
    let name = host.cluster.holder("configmaps").await;
    let (machine, unique) = name.rsplit_once('_').unwrap();
    assert!(!machine.is_empty() && unique.len() >= 32, "{name}");

    assert!(process.interrupt().success());
    assert_eq!(host.cluster.holder("configmaps").await, "", "the lock was given back");
}

#[test]
fn the_version_is_told_without_a_host() {
    let dir = TempDir::new().unwrap();
    let link = dir.path().join("controller-manager");
    symlink(embedded::binary(), &link).unwrap();
    let hyperfed = dir.path().join("hyperfed");
    symlink(embedded::binary(), &hyperfed).unwrap();
    for (program, args) in
        [(&link, &["--version"][..]), (&hyperfed, &["controller-manager", "-version", "-v", "4"])]
    {
        let output = Command::new(program).args(args).env("HOME", dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains(env!("CARGO_PKG_VERSION")), "{output:?}");
    }
    let refused = Command::new(&link).arg("--nonsense").output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

/// `spec/kubefed.md §2.1 (3)`, for each kind of lock. Both have the same ports (`§0 (14)`): the second goes on without, and has them when they are
/// free.
async fn the_other_takes_over(host: Host, lock: &str) {
    let config = host.quick(lock);
    let mut first = host.start("first", Some(&config));
    says(&mut first, "promoted as leader").await;
    until("the first serves its metrics", async || metric(host.metrics, "hansa_leader") == Some(1.0)).await;
    let leader = host.cluster.holder(lock).await;
    assert_ne!(leader, "");
    let mut second = host.start("second", Some(&config));
    says(&mut second, "metrics cannot be served").await;
    says(&mut second, "Using valid KubeFedConfig").await;
    // Longer than the lease holds without being renewed.
    tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
    assert_eq!(host.cluster.holder(lock).await, leader);
    assert!(!second.output().contains("promoted as leader"), "two lead");

    first.kill();
    says(&mut second, "promoted as leader").await;
    assert_ne!(host.cluster.holder(lock).await, leader);
    until("the second serves its metrics", async || metric(host.metrics, "hansa_leader") == Some(1.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_the_other_takes_over_by_config_map() {
    the_other_takes_over(Host::embedded().await, "configmaps").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_the_other_takes_over_by_endpoints() {
    the_other_takes_over(Host::embedded().await, "endpoints").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_the_other_takes_over_by_lease() {
    the_other_takes_over(Host::embedded().await, "leases").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_the_other_takes_over_on_a_real_host() {
    if let Some(host) = Host::real().await {
        the_other_takes_over(host, "configmaps").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_loses_the_lock_ends_and_says_so_by_its_exit() {
    let host = Host::embedded().await;
    let config = host.quick("configmaps");
    let mut process = host.start("cm", Some(&config));
    says(&mut process, "promoted as leader").await;
    let locks: Api<ConfigMap> = Api::namespaced(host.cluster.client.clone(), NAMESPACE);
    let record = json!({"holderIdentity": "thief", "leaseDurationSeconds": 15, "acquireTime": "2026-01-01T00:00:00Z",
        "renewTime": "2026-01-01T00:00:00Z", "leaderTransitions": 9});
    let theft = json!({"metadata": {"annotations": {LEADER: record.to_string()}}});
    locks.patch(LOCK, &PatchParams::default(), &Patch::Merge(theft)).await.unwrap();
    let end = ends(&mut process).await;
    assert!(end.contains("exit status: 1") && end.contains("lost lease"), "{end}");
    assert_eq!(host.cluster.holder("configmaps").await, "thief", "what is another's is not given back");
}

/// A genuine KubeFed and ours stand for the same lock (`spec/kubefed.md §2.1 (3)`).
async fn kubefed_and_hansa_never_lead_both(host: Host) {
    let config = host.quick("configmaps");
    let Some(mut kubefed) = host.genuine("kubefed", &config) else { return };
    says(&mut kubefed, "promoted as leader").await;
    let theirs = host.cluster.holder("configmaps").await;
    let mut ours = host.start("hansa", Some(&config));
    says(&mut ours, "Using valid KubeFedConfig").await;
    tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
    assert!(!ours.output().contains("promoted as leader"), "{}", ours.output());
    assert_eq!(host.cluster.holder("configmaps").await, theirs);

    kubefed.kill();
    says(&mut ours, "promoted as leader").await;
    let leader = host.cluster.holder("configmaps").await;
    let mut again = host.genuine("kubefed-again", &config).unwrap();
    says(&mut again, "is held by").await;
    tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
    assert!(!again.output().contains("promoted as leader"), "{}", again.output());
    assert_eq!(host.cluster.holder("configmaps").await, leader);
    assert!(ours.interrupt().success());
    says(&mut again, "promoted as leader").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genuine_kubefed_and_hansa_never_lead_both() {
    kubefed_and_hansa_never_lead_both(Host::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genuine_kubefed_and_hansa_never_lead_both_on_a_real_host() {
    if let Some(host) = Host::real().await {
        kubefed_and_hansa_never_lead_both(host).await;
    }
}

/// `spec/kubefed.md §1.2`: where there is no KubeFedConfig it is made; one that cannot work ends the process and names the field; and a scope is
/// never changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_is_made_checked_and_never_replaced() {
    let host = Host::embedded().await;
    let configs =
        host.cluster.dynamic("core.kubefed.io/v1beta1", "KubeFedConfig", "kubefedconfigs", NAMESPACE);
    configs.delete("kubefed", &Default::default()).await.unwrap();
    // From a file nothing is written to the host.
    let file = host.quick("configmaps");
    let mut process = host.start("file", Some(&file));
    says(&mut process, "promoted as leader").await;
    assert!(configs.get_opt("kubefed").await.unwrap().is_none());
    assert!(process.interrupt().success());

    let scoped = |scope: &str| {
        let mut command = host.command(&host.kubeconfig);
        command.env("DEFAULT_KUBEFED_SCOPE", scope);
        command
    };
    let mut process = Process::start("absent", host.dir.path(), &mut scoped("Namespaced"));
    says(&mut process, "promoted as leader").await;
    let made = configs.get("kubefed").await.unwrap();
    assert_eq!(made.data["spec"]["scope"], "Namespaced");
    assert_eq!(made.data["spec"]["leaderElect"]["resourceLock"], "configmaps");
    assert_eq!(made.data["spec"]["clusterHealthCheck"]["failureThreshold"], 3);
    assert!(process.interrupt().success());

    let mut process = Process::start("differs", host.dir.path(), &mut scoped("Cluster"));
    let end = ends(&mut process).await;
    assert!(end.contains("exit status: 1") && end.contains("DEFAULT_KUBEFED_SCOPE"), "{end}");
    assert_eq!(configs.get("kubefed").await.unwrap().metadata.uid, made.metadata.uid);

    for (name, edit, field) in [
        ("lease", json!({"leaderElect": {"leaseDuration": "1s"}}), "spec.leaderElect.leaseDuration"),
        ("lock", json!({"leaderElect": {"resourceLock": "files"}}), "spec.leaderElect.resourceLock"),
        (
            "zero",
            json!({"syncController": {"maxConcurrentReconciles": 0}}),
            "spec.syncController.maxConcurrentReconciles",
        ),
    ] {
        let mut spec = quick_spec("configmaps");
        for (section, fields) in edit.as_object().unwrap() {
            for (key, value) in fields.as_object().unwrap() {
                spec[section][key] = value.clone();
            }
        }
        let file = host.config(spec);
        let end = ends(&mut host.start(name, Some(&file))).await;
        assert!(end.contains("exit status: 1") && end.contains(field), "{end}");
    }
}

/// `spec/kubefed.md §4` under exactly the rights that KubeFed's chart gives (`§0 (12)`): the lock, Secrets by `get` alone, no Cluster objects;
/// tokens that rotate (`§6 (3)`), zones (`§6 (4)`), and metrics that move.
async fn kubefeds_rights_are_enough(host: Host, member: Cluster) {
    let kubeconfig = with_kubefeds_rights(&host).await;
    let nodes: Api<Node> = Api::all(member.client.clone());
    for (name, zone) in [("n1", "b"), ("n2", "a")] {
        let labels = json!({"topology.kubernetes.io/zone": zone, "topology.kubernetes.io/region": "north"});
        let node = json!({"metadata": {"name": name, "labels": labels}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    }
    host.register("m1", &member, "a-token-that-is-wrong").await;
    let mut command = host.command(&kubeconfig);
    command.arg("--kubefed-config").arg(host.quick("configmaps"));
    let mut process = Process::start("cm", host.dir.path(), &mut command);
    says(&mut process, "Starting cluster controller").await;
    says(&mut process, "Secrets may not be watched").await;
    says(&mut process, "only KubeFedClusters are members").await;
    until("a member with a wrong token is offline", async || {
        metric(host.metrics, "kubefedcluster_total{state=\"offline\",cluster=\"m1\"}") == Some(1.0)
    })
    .await;
    assert!(host.kubefed_cluster("m1").await.status.unwrap().zones.is_empty());

    let secrets: Api<Secret> = Api::namespaced(host.cluster.client.clone(), NAMESPACE);
    let token = json!({"stringData": {"token": member.field("/users/0/user/token")}});
    secrets.patch("m1-abcde", &PatchParams::default(), &Patch::Merge(token)).await.unwrap();
    until("a token that was rotated is picked up", async || {
        metric(host.metrics, "kubefedcluster_total{state=\"ready\",cluster=\"m1\"}") == Some(1.0)
    })
    .await;
    until("zones and region are those of the nodes", async || {
        let status = host.kubefed_cluster("m1").await.status.unwrap();
        status.zones == ["a", "b"] && status.region.as_deref() == Some("north")
    })
    .await;

    host.federate("shop").await;
    let copies: Api<ConfigMap> = Api::namespaced(member.client.clone(), "shop");
    until("the copy is there", async || matches!(copies.get_opt("settings").await, Ok(Some(_)))).await;
    let controller = "controller=\"federatedconfigmap\"";
    for series in [
        "joined_cluster_total".to_owned(),
        "cluster_health_status_duration_seconds_count".to_owned(),
        "cluster_client_connection_duration_seconds_count".to_owned(),
        "reconcile_federated_resources_duration_seconds_count".to_owned(),
        "dispatch_operation_duration_seconds_count{action=\"create\"}".to_owned(),
        format!("controller_runtime_reconcile_duration_seconds_count{{{controller}}}"),
        format!("controller_runtime_reconcile_quantile_seconds_count{{{controller}}}"),
        format!("controller_runtime_reconcile_time_seconds_count{{{controller}}}"),
        format!("controller_runtime_reconcile_total{{{controller},result=\"success\"}}"),
        format!("controller_runtime_max_concurrent_reconciles{{{controller}}}"),
        "hansa_member_request_duration_seconds_count{cluster=\"m1\"}".to_owned(),
        "process_resident_memory_bytes".to_owned(),
    ] {
        let moves = async || metric(host.metrics, &series).is_some_and(|value| value > 0.0);
        until(&format!("{series} moves"), moves).await;
    }
    for series in [
        format!("controller_runtime_active_workers{{{controller}}}"),
        format!("controller_runtime_reconcile_errors_total{{{controller}}}"),
        "join_cluster_duration_seconds_count".to_owned(),
        "unjoin_cluster_duration_seconds_count".to_owned(),
    ] {
        assert!(metric(host.metrics, &series).is_some(), "{series} is missing");
    }
    process.check().unwrap();
}

/// A kubeconfig of KubeFed's ServiceAccount, with the rules of its chart and no others.
async fn with_kubefeds_rights(host: &Host) -> PathBuf {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let all = ["get", "watch", "list", "update", "patch"];
    let create = [&all[..], &["create"]].concat();
    let rules = [
        rule("scheduling.kubefed.io", &["*"], &all),
        rule("core.kubefed.io", &["*"], &create),
        rule("types.kubefed.io", &["*"], &all),
        rule("", &["namespaces"], &["get", "watch", "list"]),
        rule("", &["events"], &["get", "create", "update", "patch"]),
    ];
    let own =
        [rule("", &["configmaps"], &["get", "create", "update", "patch"]), rule("", &["secrets"], &["get"])];
    let rbac = "rbac.authorization.k8s.io/v1";
    let subject = json!([{"kind": "ServiceAccount", "name": "kubefed-controller", "namespace": NAMESPACE}]);
    let role =
        |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    for (kind, plural, namespace, object) in [
        ("ClusterRole", "clusterroles", "", json!({"metadata": {"name": "kubefed-role"}, "rules": rules})),
        ("Role", "roles", NAMESPACE, json!({"metadata": {"name": "kubefed-config-role"}, "rules": own})),
        (
            "ClusterRoleBinding",
            "clusterrolebindings",
            "",
            json!({
            "metadata": {"name": "kubefed-rolebinding"}, "roleRef": role("ClusterRole", "kubefed-role"), "subjects": subject}),
        ),
        (
            "RoleBinding",
            "rolebindings",
            NAMESPACE,
            json!({
            "metadata": {"name": "kubefed-config-rolebinding"}, "roleRef": role("Role", "kubefed-config-role"), "subjects": subject}),
        ),
    ] {
        let mut object = object;
        object["apiVersion"] = json!(rbac);
        object["kind"] = json!(kind);
        let api = host.cluster.dynamic(rbac, kind, plural, namespace);
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(host.cluster.client.clone(), NAMESPACE);
    let account = json!({"metadata": {"name": "kubefed-controller"}});
    accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
    let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
    let token =
        accounts.create_token_request("kubefed-controller", &PostParams::default(), &request).await.unwrap();
    let mut config: Value = serde_json::from_str(&host.cluster.kubeconfig).unwrap();
    config["users"][0]["user"] = json!({"token": token.status.unwrap().token});
    let file = host.dir.path().join("kubefed-controller.kubeconfig");
    std::fs::write(&file, config.to_string()).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_of_kubefeds_chart_are_enough() {
    kubefeds_rights_are_enough(Host::embedded().await, Cluster::embedded("m1").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_of_kubefeds_chart_are_enough_on_real_clusters() {
    let dir = TempDir::new().unwrap();
    let (host, member) = tokio::join!(Host::real(), Cluster::real("m1", dir.path()));
    if let (Some(host), Some(member)) = (host, member) {
        kubefeds_rights_are_enough(host, member).await;
    }
}

/// `spec/kubefed.md §0 (14)`: nobody reads what it says, and it works all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_or_closed_stderr_never_blocks() {
    let host = Host::embedded().await;
    let config = host.quick("configmaps");
    let mut command = host.command(&host.kubeconfig);
    command.arg("--kubefed-config").arg(&config).env("RUST_LOG", "trace");
    // A pipe that is never read: everything it can hold is written long before the process leads.
    let mut child =
        command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    until("it leads", async || !host.cluster.holder("configmaps").await.is_empty()).await;
    until("it serves", async || get(host.health, "/readyz").is_some_and(|answer| answer.ends_with("OK")))
        .await;
    let leads = host.cluster.holder("configmaps").await;
    // The other end is closed.
    drop(child.stderr.take());
    tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
    assert_eq!(host.cluster.holder("configmaps").await, leads);
    assert!(child.try_wait().unwrap().is_none(), "it ended because nobody listened");
    child.kill().unwrap();
    child.wait().unwrap();
}
