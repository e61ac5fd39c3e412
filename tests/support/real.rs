//! Three real clusters (etcd, kube-apiserver, kube-controller-manager), with Hansa's own processes beside the host.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Federation, Kubectl, embedded, eventually, free_port, process::Process};

const ADMIN_TOKEN: &str = "a-token-of-the-test-clusters-only";

/// One real cluster without kubelets; `kubelet::start` gives it one.
pub struct Cluster {
    pub kubectl: Kubectl,
    /// Where its files are: certificates, keys, data.
    pub dir: PathBuf,
    pub processes: Vec<Process>,
    /// Where its etcd listens, as `http://127.0.0.1:2379`.
    pub etcd: String,
}

impl Cluster {
    /// Starts a cluster whose files go below `dir`. Nothing in it outlives a test, so it does without fsync.
    pub fn start(name: &str, dir: &Path, assets: &Path) -> Self {
        Self::start_with(name, dir, assets, true, &[])
    }

    /// Starts a cluster whose kube-apiserver is given some flags more.
    pub fn start_flagged(name: &str, dir: &Path, assets: &Path, flags: &[&str]) -> Self {
        Self::start_with(name, dir, assets, true, flags)
    }

    /// Starts a cluster that writes as durably as one in production; for measurements.
    pub fn start_durable(name: &str, dir: &Path, assets: &Path) -> Self {
        Self::start_with(name, dir, assets, false, &[])
    }

    fn start_with(name: &str, dir: &Path, assets: &Path, no_fsync: bool, more: &[&str]) -> Self {
        fs::create_dir_all(dir).unwrap();
        let pki = Pki::write(dir);
        let (client, peer, secure) = (free_port(), free_port(), free_port());
        let path = |file: &str| dir.join(file).to_str().unwrap().to_owned();
        let program = |program: &str, args: Vec<String>| {
            Process::start(&format!("{name}-{program}"), dir, Command::new(assets.join(program)).args(args))
        };
        let flags =
            |pairs: &[(&str, String)]| pairs.iter().map(|(k, v)| format!("--{k}={v}")).collect::<Vec<_>>();

        let etcd = format!("http://127.0.0.1:{client}");
        let mut processes = vec![program(
            "etcd",
            flags(&[
                ("data-dir", path("etcd")),
                ("listen-client-urls", etcd.clone()),
                ("advertise-client-urls", etcd.clone()),
                ("listen-peer-urls", format!("http://127.0.0.1:{peer}")),
                ("unsafe-no-fsync", no_fsync.to_string()),
            ]),
        )];
        fs::write(dir.join("tokens.csv"), format!("{ADMIN_TOKEN},admin,admin,\"hansa:admins\"\n")).unwrap();
        let given = more.iter().map(|&flag| flag.to_owned());
        processes.push(program(
            "kube-apiserver",
            flags(&[
                ("etcd-servers", etcd.clone()),
                ("bind-address", "127.0.0.1".into()),
                // Nobody uses it, and a machine without a default route has none to find.
                ("advertise-address", "192.0.2.1".into()),
                ("secure-port", secure.to_string()),
                ("tls-cert-file", path("server.crt")),
                ("tls-private-key-file", path("server.key")),
                ("client-ca-file", path("ca.crt")),
                ("token-auth-file", path("tokens.csv")),
                ("authorization-mode", "RBAC".into()),
                ("service-account-issuer", "https://kubernetes.default.svc".into()),
                ("service-account-key-file", path("sa.pub")),
                ("service-account-signing-key-file", path("sa.key")),
                ("service-cluster-ip-range", "10.0.0.0/24".into()),
                ("kubelet-certificate-authority", path("ca.crt")),
                ("kubelet-client-certificate", path("admin.crt")),
                ("kubelet-client-key", path("admin.key")),
                ("kubelet-preferred-address-types", "InternalIP".into()),
            ])
            .into_iter()
            .chain(given)
            .collect(),
        ));
        let server = format!("https://127.0.0.1:{secure}");
        let kubeconfig = dir.join("admin.kubeconfig");
        fs::write(&kubeconfig, pki.kubeconfig(&server).to_string()).unwrap();
        let kubectl = Kubectl::new(&kubeconfig);
        eventually("a real kube-apiserver is ready", || {
            processes.iter_mut().try_for_each(Process::check)?;
            kubectl.try_run("", &["get", "--raw", "/readyz"])
        });
        processes.push(program(
            "kube-controller-manager",
            flags(&[
                ("kubeconfig", kubeconfig.to_str().unwrap().to_owned()),
                ("service-account-private-key-file", path("sa.key")),
                ("root-ca-file", path("ca.crt")),
                ("leader-elect", "false".into()),
                ("secure-port", "0".into()),
                ("kube-api-qps", "500".into()),
                ("kube-api-burst", "1000".into()),
            ]),
        ));
        // The administrators' group of the tests, as somebody who runs a cluster would set it up.
        kubectl.apply(
            "",
            &json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": "hansa:admins"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "hansa:admins"}],
            })
            .to_string(),
        );
        Self { kubectl, dir: dir.to_owned(), processes, etcd }
    }

    /// One of its programs, by name.
    pub fn program(&mut self, name: &str) -> &mut Process {
        let mut processes = self.processes.iter_mut();
        processes.find(|process| process.name.ends_with(&format!("-{name}"))).unwrap()
    }

    /// A kubeconfig of the same cluster that carries the administrator's bearer token.
    pub fn token_kubeconfig(&self, file: &Path) -> PathBuf {
        let text = fs::read_to_string(&self.kubectl.kubeconfig).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["users"][0]["user"] = json!({"token": ADMIN_TOKEN});
        fs::write(file, config.to_string()).unwrap();
        file.to_owned()
    }
}

struct Pki {
    ca: String,
    cert: String,
    key: String,
}

impl Pki {
    fn write(dir: &Path) -> Self {
        let key = || KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        let ca = CertifiedIssuer::self_signed(params, key()).unwrap();

        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let server_key = key();
        let server = CertificateParams::new(names).unwrap().signed_by(&server_key, &ca).unwrap();

        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "admin");
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        let admin_key = key();
        let admin = params.signed_by(&admin_key, &ca).unwrap();

        let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        write("ca.crt", &ca.pem());
        write("server.crt", &server.pem());
        write("server.key", &server_key.serialize_pem());
        write("admin.crt", &admin.pem());
        write("admin.key", &admin_key.serialize_pem());
        let service_accounts = key();
        write("sa.key", &service_accounts.serialize_pem());
        write("sa.pub", &service_accounts.public_key_pem());
        Self { ca: ca.pem(), cert: admin.pem(), key: admin_key.serialize_pem() }
    }

    fn kubeconfig(&self, server: &str) -> Value {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let data = |pem: &str| STANDARD.encode(pem);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": data(&self.ca)}}],
            "users": [{"name": "u", "user": {
                "client-certificate-data": data(&self.cert), "client-key-data": data(&self.key)}}],
        })
    }
}

/// One host and two members, and Hansa's `controller-manager` and `apiserver` as two processes.
pub struct Real {
    kubectl: Kubectl,
    members: [Cluster; 2],
    _host: Cluster,
    hansa: Vec<Process>,
    _dir: TempDir,
}

/// How the members are connected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    Kubeconfig,
    Agent,
}

impl Real {
    /// `None`, loudly, when there are no binaries to run; `cargo xtask test` provides them.
    pub fn start() -> Option<Self> {
        Self::start_by([By::Kubeconfig; 2])
    }

    /// The same, with a tower and agents in place of kubeconfigs.
    pub fn start_with_agents() -> Option<Self> {
        Self::start_by([By::Agent; 2])
    }

    /// The same, where each of the two members is connected in a way of its own.
    pub fn start_by(by: [By; 2]) -> Option<Self> {
        let Some(assets) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
            eprintln!("SKIPPED: no real clusters without KUBEBUILDER_ASSETS; run `cargo xtask test`");
            return None;
        };
        let dir = TempDir::new().unwrap();
        let start = |name: &'static str| {
            let (dir, assets) = (dir.path().join(name), assets.clone());
            std::thread::spawn(move || Cluster::start(name, &dir, &assets))
        };
        let [host, member1, member2] = ["host", "member1", "member2"].map(start).map(|c| c.join().unwrap());

        let admin = host.token_kubeconfig(&dir.path().join("host.kubeconfig"));
        let installed = embedded::hansa(&admin, &["install"]);
        assert!(installed.status.success(), "{installed:?}");
        let hansa = |name: &str, args: &[&str]| {
            let mut command = Command::new(embedded::binary());
            command.args(args).arg("--kubeconfig").arg(&host.kubectl.kubeconfig);
            Process::start(name, dir.path(), &mut command)
        };
        let listen = format!("127.0.0.1:{}", free_port());
        let mut processes = vec![
            hansa(
                "controller-manager",
                &["controller-manager", "--healthz-addr", "0", "--metrics-addr", "0"],
            ),
            hansa("apiserver", &["apiserver", "--listen", &listen]),
        ];
        if by.contains(&By::Agent) {
            let listen = format!("127.0.0.1:{}", free_port());
            processes.push(hansa("tower", &["tower", "--listen", &listen]));
        }
        for (member, cluster, by) in [("member1", &member1, by[0]), ("member2", &member2, by[1])] {
            let kubeconfig = cluster.kubectl.kubeconfig.to_str().unwrap();
            let label = "cluster.kubesphere.io/group=demo";
            if by == By::Agent {
                let manifest = eventually(&format!("hansa join {member} --agent"), || {
                    processes.iter_mut().try_for_each(Process::check)?;
                    let printed = embedded::hansa(&admin, &["join", member, "--agent", "--labels", label]);
                    let said = String::from_utf8_lossy(&printed.stdout).into_owned();
                    printed.status.success().then_some(said).ok_or(format!("{printed:?}"))
                });
                cluster.kubectl.apply("", &manifest);
                processes.push(agent(&cluster.kubectl, member, dir.path()));
                continue;
            }
            eventually(&format!("hansa join {member}"), || {
                processes.iter_mut().try_for_each(Process::check)?;
                let joined =
                    embedded::hansa(&admin, &["join", member, "--kubeconfig", kubeconfig, "--labels", label]);
                let already = String::from_utf8_lossy(&joined.stderr).contains("already");
                (joined.status.success() || already).then_some(()).ok_or(format!("{joined:?}"))
            });
        }
        let kubeconfig = dir.path().join("kubeconfig");
        let text = eventually("hansa kubeconfig", || {
            let printed = embedded::hansa(&admin, &["kubeconfig"]);
            printed.status.success().then(|| printed.stdout.clone()).ok_or(format!("{printed:?}"))
        });
        fs::write(&kubeconfig, text).unwrap();
        let kubectl = Kubectl::new(&kubeconfig);
        for context in ["host", "member1", "member2"] {
            eventually("the gateway serves", || kubectl.try_run(context, &["get", "namespaces"]));
        }
        Some(Self { kubectl, members: [member1, member2], _host: host, hansa: processes, _dir: dir })
    }

    /// One of Hansa's own processes, to do with as the test likes.
    pub fn take(&mut self, name: &str) -> Process {
        let index = self.hansa.iter().position(|process| process.name == name).unwrap();
        self.hansa.remove(index)
    }

    pub fn member(&self, name: &str) -> &Cluster {
        let [first, second] = &self.members;
        if name == "member1" { first } else { second }
    }
}

/// Stands in for the Pod of the Deployment that the manifest of an agent makes: the same arguments, the same files, the same ServiceAccount.
pub fn agent(kubectl: &Kubectl, name: &str, logs: &Path) -> Process {
    let namespace = "hansa-agent";
    let get = |object: &str| kubectl.json("", &["get", "-n", namespace, object]).unwrap();
    let deployment = get("deployment/hansa-agent");
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let mount = container["volumeMounts"][0]["mountPath"].as_str().unwrap();
    let secret = get(&format!("secret/{}", pod["volumes"][0]["secret"]["secretName"].as_str().unwrap()));
    let files = logs.join(format!("{name}-agent"));
    fs::create_dir_all(&files).unwrap();
    for (file, content) in secret["data"].as_object().unwrap() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        fs::write(files.join(file), STANDARD.decode(content.as_str().unwrap()).unwrap()).unwrap();
    }
    let account = pod["serviceAccountName"].as_str().unwrap();
    let token = kubectl.ok("", &["create", "token", account, "-n", namespace, "--duration", "24h"]);
    let text = fs::read_to_string(&kubectl.kubeconfig).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    let kubeconfig = files.join("kubeconfig");
    fs::write(&kubeconfig, config.to_string()).unwrap();
    let arguments = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
    let mut command = Command::new(embedded::binary());
    command.args(arguments).arg("--kubeconfig").arg(&kubeconfig);
    // A Pod has the files where the agent looks by itself.
    assert_eq!(mount, "/var/run/hansa/agent-join");
    command.env("HANSA_JOIN_DIR", &files);
    command.env_remove("HTTPS_PROXY").env_remove("https_proxy");
    Process::start(&format!("{name}-agent"), logs, &mut command)
}

impl Federation for Real {
    fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    fn direct(&self, member: &str) -> &Kubectl {
        &self.member(member).kubectl
    }

    /// Stands in for the kubelets that these clusters do not have.
    fn run_pods(&self, member: &str, namespace: &str) {
        let kubectl = self.direct(member);
        let pods = kubectl.ok("", &["get", "pods", "-n", namespace, "-o", "name"]);
        let status = json!({"status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
        .to_string();
        for pod in pods.lines() {
            // A pod may go while we look; the caller asks again anyway.
            let _ = kubectl.try_run(
                "",
                &["patch", pod, "-n", namespace, "--subresource=status", "--type=merge", "-p", &status],
            );
        }
    }

    fn hansa(&self, args: &[&str]) -> Output {
        embedded::hansa(&self.kubectl.kubeconfig, args)
    }
}
