//! Members that the host cannot reach, each behind a wall of its own: one real cluster and one embedded one, whose agents dial the host's tower
//! and nothing else. Then cables are pulled, and processes die.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

#[path = "support/network.rs"]
mod network;
mod support;

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use network::{HOST, Network};
use serde_json::json;
use support::{
    Kubectl,
    embedded::{self, Embedded},
    eventually,
    process::Process,
    real::{self, Cluster},
    same,
};
use tempfile::TempDir;

const LISTEN: &str = "127.0.0.1:7443";

struct Walled {
    host: Option<Embedded>,
    real: Cluster,
    embedded: Embedded,
    agents: Vec<(&'static str, Process)>,
    dir: TempDir,
    // Last, so that the namespaces go when nobody is in them any more.
    network: Network,
}

fn up(data: &Path) -> Embedded {
    Embedded::start_at(data, LISTEN, &format!("{HOST}:7444"))
}

impl Walled {
    fn start(assets: &Path) -> Option<Self> {
        let network = Network::start(2)?;
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (host, real, embedded) = std::thread::scope(|scope| {
            let host = scope.spawn(|| network.on("host", || up(&path("host/data"))));
            let real = scope.spawn(|| network.on("m1", || Cluster::start("m1", &path("m1"), assets)));
            let embedded = network.on("m2", || Embedded::start_in(&path("m2/data"), LISTEN, 1));
            (host.join().unwrap(), real.join().unwrap(), embedded)
        });
        let mut walled = Self { host: Some(host), real, embedded, agents: Vec::new(), dir, network };
        for member in ["m1", "m2"] {
            let invited = walled.hansa(&["join", member, "--agent"]);
            walled.network.on(member, || walled.direct(member).apply("", &invited));
            walled.agent(member);
        }
        Some(walled)
    }

    fn hansa(&self, args: &[&str]) -> String {
        let kubeconfig = &self.host.as_ref().unwrap().data.join("kubeconfig");
        let output = self.network.on("host", || embedded::hansa(kubeconfig, args));
        assert!(output.status.success(), "hansa {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// kubectl beside the member, as somebody who never heard of Hansa.
    fn direct(&self, member: &str) -> Kubectl {
        match member {
            "m1" => self.real.kubectl.clone(),
            _ => Kubectl::new(&self.embedded.data.join("member1.kubeconfig")),
        }
    }

    /// One more agent of a member.
    fn agent(&mut self, member: &'static str) {
        let logs = self.dir.path().join(format!("{member}-agents"));
        std::fs::create_dir_all(&logs).unwrap();
        let kubectl = self.direct(member);
        let agent = self.network.on(member, || real::agent(&kubectl, member, &logs));
        self.agents.push((member, agent));
    }

    fn agents_of(&mut self, member: &str) -> impl Iterator<Item = &mut Process> {
        self.agents.iter_mut().filter(move |(of, _)| *of == member).map(|(_, agent)| agent)
    }

    fn host_kubectl(&self) -> Kubectl {
        Kubectl::new(&self.host.as_ref().unwrap().data.join("kubeconfig"))
    }

    /// kubectl on the host's machine, through the gateway.
    fn kubectl(&self, context: &str, args: &[&str]) -> Result<String, String> {
        self.network.on("host", || self.host_kubectl().try_run(context, args))
    }

    fn apply(&self, manifest: &str) {
        self.network.on("host", || self.host_kubectl().apply("host", manifest));
    }

    fn condition(&self, cluster: &str, condition: &str) -> Result<String, String> {
        let path = format!("jsonpath={{.status.conditions[?(@.type==\"{condition}\")].status}}");
        self.kubectl("host", &["get", "clusters.cluster.kubesphere.io", cluster, "-o", &path])
    }

    fn until(&self, cluster: &str, condition: &str, status: &str) {
        let started = Instant::now();
        eventually(&format!("{condition} of {cluster} is {status}"), || {
            same(self.condition(cluster, condition)?, status.to_owned())
        });
        eprintln!("    {condition} of {cluster} is {status} after {:.1} s", started.elapsed().as_secs_f64());
    }

    fn text(&self, member: &str) -> Result<String, String> {
        self.network.on(member, || self.direct(member).field("", "walls", "cm/letter", ".data.text"))
    }

    /// Writes a letter to both members; the members need not be there.
    fn write(&self, text: &str) {
        let members: Vec<_> = ["m1", "m2"].iter().map(|name| json!({ "name": name })).collect();
        let letter = json!({
            "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedConfigMap",
            "metadata": {"name": "letter", "namespace": "walls"},
            "spec": {"template": {"data": {"text": text}}, "placement": {"clusters": members}},
        });
        self.apply(&letter.to_string());
    }

    fn arrives(&self, member: &str, text: &str) {
        eventually(&format!("the letter arrives at {member}"), || same(self.text(member)?, text.to_owned()));
    }
}

type Scenario = (&'static str, fn(&mut Walled));

#[test]
fn members_behind_walls_are_members_like_any_other() {
    let Some(assets) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
        eprintln!("SKIPPED: no real clusters without KUBEBUILDER_ASSETS; run `cargo xtask test`");
        return;
    };
    let Some(mut walled) = Walled::start(&assets) else { return };
    let scenarios: [Scenario; 9] = [
        ("the agents join, and the members are ready", joined),
        ("nothing passes but the agents' connections", nothing_else_passes),
        ("objects propagate, and kubectl sees them live", everything_works),
        ("a token that was used is good for nobody else", replay),
        ("a pulled cable is noticed, hurts one member, and is made good", pulled),
        ("an agent that hangs is noticed, and goes on where it was", hung),
        ("a cable that is loose for a while leaves nothing behind", flapping),
        ("a tower that is killed is found again", tower_killed),
        ("of two agents one dies, and nobody notices", two_agents),
    ];
    for (name, scenario) in scenarios {
        let started = Instant::now();
        eprintln!("  {name} …");
        scenario(&mut walled);
        eprintln!("  {name}: ok in {:.1} s", started.elapsed().as_secs_f64());
    }
}

fn joined(w: &mut Walled) {
    for member in ["m1", "m2"] {
        w.until(member, "AgentAvailable", "True");
        w.until(member, "Ready", "True");
    }
    let version = w.kubectl("m1", &["version", "-o", "json"]).unwrap();
    assert!(version.contains("serverVersion"), "{version}");
}

fn nothing_else_passes(w: &mut Walled) {
    let network = &w.network;
    assert!(network.reaches("m1", &format!("{HOST}:7444")), "the tower is reached");
    for (from, to) in [
        ("m1", format!("{HOST}:7443")),
        ("m1", "10.77.1.1:7443".to_owned()),
        ("m1", "10.77.2.2:7443".to_owned()),
        ("m2", "10.77.1.2:6443".to_owned()),
        ("host", "10.77.1.2:6443".to_owned()),
        ("host", "10.77.2.2:7443".to_owned()),
    ] {
        assert!(!network.reaches(from, &to), "{from} reaches {to}");
    }
    // The API server of m1, wherever it listens, is not there for the host; nor does an agent listen anywhere.
    let kubeconfig = std::fs::read_to_string(&w.real.kubectl.kubeconfig).unwrap();
    let config: serde_json::Value = serde_json::from_str(&kubeconfig).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let port = server.rsplit(':').next().unwrap();
    assert!(network.reaches("m1", &format!("127.0.0.1:{port}")));
    assert!(!network.reaches("host", &format!("10.77.1.2:{port}")));
    assert!(!network.reaches("host", &format!("127.0.0.1:{port}")));
    let listeners = network.on("m1", || Command::new("ss").args(["-ltnp"]).output().unwrap());
    let listeners = String::from_utf8_lossy(&listeners.stdout).into_owned();
    let agent = w.agents_of("m1").next().unwrap().id();
    assert!(listeners.contains(port), "{listeners}");
    assert!(!listeners.contains(&format!("pid={agent},")), "{listeners}");
}

fn everything_works(w: &mut Walled) {
    w.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "walls"}}).to_string());
    let namespace = json!({
        "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedNamespace",
        "metadata": {"name": "walls", "namespace": "walls"},
        "spec": {"placement": {"clusters": [{"name": "m1"}, {"name": "m2"}]}},
    });
    w.apply(&namespace.to_string());
    for member in ["m1", "m2"] {
        w.write("hello");
        w.arrives(member, "hello");
        let through =
            w.kubectl(member, &["get", "cm", "letter", "-n", "walls", "-o", "jsonpath={.data.text}"]);
        assert_eq!(through.unwrap(), "hello");
        // A watch through the tunnel is told at once what changes.
        let args = ["get", "cm", "letter", "-n", "walls", "-w", "-o", "jsonpath={.data.text}{\"\\n\"}"];
        let mut command = w.host_kubectl().command(member, &args);
        let mut watch = w.network.on("host", || command.stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        assert!(!lines.next().unwrap().unwrap().is_empty());
        let news = format!("news for {member}");
        w.write(&news);
        assert!(lines.any(|line| line.unwrap() == news));
        watch.kill().unwrap();
        watch.wait().unwrap();
    }
}

fn replay(w: &mut Walled) {
    // The Secret of m1's invitation, in the hands of somebody with a cluster of their own.
    let thief = w.dir.path().join("thief");
    std::fs::create_dir_all(&thief).unwrap();
    let secret = w
        .network
        .on("m1", || w.direct("m1").json("", &["get", "secret", "agent-join", "-n", "hansa-agent"]).unwrap());
    for (file, content) in secret["data"].as_object().unwrap() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        std::fs::write(thief.join(file), STANDARD.decode(content.as_str().unwrap()).unwrap()).unwrap();
    }
    let kubeconfig = w.direct("m2").kubeconfig;
    let mut command = Command::new(embedded::binary());
    command.args(["agent", "--credential-secret", "thief", "--join-dir"]).arg(&thief);
    command.arg("--kubeconfig").arg(&kubeconfig);
    let mut process = w.network.on("m2", || Process::start("thief", &thief, &mut command));
    eventually("the thief is told that the token was used", || {
        process.check()?;
        let said = process.output();
        said.contains("hansa join m1 --agent").then_some(()).ok_or(said)
    });
    eventually("the host's people are told", || {
        let events = w.kubectl("host", &["get", "events", "-A", "-o", "jsonpath={.items[*].reason}"])?;
        events.contains("JoinTokenReplayed").then_some(()).ok_or(events)
    });
    assert_eq!(w.condition("m1", "Ready").unwrap(), "True");
}

fn pulled(w: &mut Walled) {
    w.network.pull(2);
    w.until("m2", "AgentAvailable", "False");
    w.until("m2", "Ready", "False");
    assert_eq!(w.condition("m1", "Ready").unwrap(), "True");
    w.write("while m2 is away");
    w.arrives("m1", "while m2 is away");
    // kubectl is told to try again in a moment, and does until its own time is up.
    w.kubectl("m2", &["get", "ns", "--request-timeout=2s"]).unwrap_err();
    w.network.plug(2);
    w.until("m2", "Ready", "True");
    w.arrives("m2", "while m2 is away");
}

fn signal(process: &Process, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn hung(w: &mut Walled) {
    let agent = w.agents_of("m1").next().unwrap();
    signal(agent, "STOP");
    w.until("m1", "AgentAvailable", "False");
    w.write("while the agent hangs");
    w.arrives("m2", "while the agent hangs");
    let agent = w.agents_of("m1").next().unwrap();
    signal(agent, "CONT");
    w.until("m1", "Ready", "True");
    w.arrives("m1", "while the agent hangs");
}

fn flapping(w: &mut Walled) {
    for round in 0..8 {
        w.network.pull(1);
        w.write(&format!("round {round}"));
        w.network.plug(1);
    }
    w.arrives("m1", "round 7");
    w.arrives("m2", "round 7");
    w.until("m1", "Ready", "True");
}

fn tower_killed(w: &mut Walled) {
    let mut host = w.host.take().unwrap();
    host.process.kill();
    let data = host.data.clone();
    drop(host);
    w.host = Some(w.network.on("host", || up(&data)));
    for member in ["m1", "m2"] {
        w.until(member, "Ready", "True");
    }
    w.write("after the tower");
    w.arrives("m1", "after the tower");
    w.arrives("m2", "after the tower");
}

fn two_agents(w: &mut Walled) {
    w.agent("m1");
    eventually("both agents of m1 are connected", || {
        let leases = w.kubectl("host", &["get", "leases", "-n", "kube-federation-system", "-o", "json"])?;
        leases.contains("\\\"m1\\\":2").then_some(()).ok_or(leases)
    });
    w.agents_of("m1").next().unwrap().kill();
    for _ in 0..20 {
        w.kubectl("m1", &["get", "ns", "walls"]).unwrap();
    }
    assert_eq!(w.condition("m1", "Ready").unwrap(), "True");
    w.write("from the other agent");
    w.arrives("m1", "from the other agent");
}
