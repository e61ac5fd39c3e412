//! Members that the host cannot reach, each behind a wall of its own: one real cluster and one embedded one, whose agents dial the host's tower
//! and nothing else. Then cables are pulled, and processes die.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

#[path = "support/network.rs"]
mod network;
mod support;

use std::{
    env,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use network::{HOST, Network};
use serde_json::json;
use support::{
    Federation, Kubectl,
    embedded::{self, Embedded},
    eventually, free_port,
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

/// One address, and the replicas behind it in turn, as a load balancer has it.
fn balancer(replicas: Vec<u16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut turn = replicas.iter().cycle();
        for near in listener.incoming() {
            let near = near.unwrap();
            // A replica that is not there is passed over.
            let far = (&mut turn)
                .take(replicas.len())
                .find_map(|port| TcpStream::connect(("127.0.0.1", *port)).ok());
            let Some(far) = far else { continue };
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                    let _ = from.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    port
}

/// Three replicas of the tower behind one address; two of them are restarted one after the other.
#[test]
fn towers_that_are_restarted_in_turn_are_missed_by_nobody() {
    let dir = TempDir::new().unwrap();
    let ports = [free_port(), free_port(), free_port()];
    let address = format!("https://127.0.0.1:{}", balancer(ports.to_vec()));
    let data = dir.path().join("data");
    let listen = format!("127.0.0.1:{}", free_port());
    let own = format!("127.0.0.1:{}", ports[0]);
    let up = Embedded::start_behind(&data, &listen, &own, &address);
    let kubeconfig = data.join("kubeconfig");
    let tower = |number: usize| {
        let mut command = Command::new(embedded::binary());
        command.args(["tower", "--listen", &format!("127.0.0.1:{}", ports[number]), "--advertise", &address]);
        command.arg("--kubeconfig").arg(&kubeconfig);
        Process::start(&format!("tower{number}"), dir.path(), &mut command)
    };
    // Each replica has an agent of each member.
    let agents = || {
        eventually("every replica has both agents", || {
            let leases = up.kubectl().json("host", &["get", "leases", "-n", "kube-federation-system"])?;
            let agents = leases["items"].as_array().unwrap().iter();
            let agents = agents
                .filter_map(|lease| lease["metadata"]["annotations"]["tower.kubesphere.io/agents"].as_str());
            let all = r#"{"member1":1,"member2":1}"#;
            same(agents.filter(|agents| *agents == all).count(), 3)
        });
    };
    let mut towers = [tower(1), tower(2)];
    agents();

    // A watch through one replica, with the token that the host's own parts have for this cluster.
    let secret =
        ["get", "secret", "-n", "kube-federation-system", "member1-secret", "-o", "jsonpath={.data.token}"];
    let token = {
        use base64::{Engine, engine::general_purpose::STANDARD};
        String::from_utf8(STANDARD.decode(up.kubectl().ok("host", &secret)).unwrap()).unwrap()
    };
    let watch = |number: usize| {
        let server = format!("https://127.0.0.1:{}/clusters/member1", ports[number]);
        let mut command = Command::new(Kubectl::new(&dir.path().join("none")).command("", &[]).get_program());
        command.args([
            "--kubeconfig",
            "/dev/null",
            "--server",
            &server,
            "--token",
            &token,
            "--insecure-skip-tls-verify",
        ]);
        command.args(["get", "cm", "-n", "default", "-w", "-o", "jsonpath={.metadata.name}{\"\\n\"}"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "kube-root-ca.crt"));
        (child, lines)
    };
    let direct = up.direct("member1");
    for number in [1, 2] {
        // The replica that stays; of the two that are restarted, the other.
        let (mut child, mut lines) = watch(3 - number);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let mut served = 0;
                while !done.load(Ordering::Relaxed) {
                    up.kubectl().ok("member1", &["get", "ns", "default"]);
                    up.kubectl().ok("member2", &["get", "ns", "default"]);
                    served += 2;
                }
                served
            });
            let tower_of = &mut towers[number - 1];
            tower_of.interrupt();
            *tower_of = tower(number);
            agents();
            done.store(true, Ordering::Relaxed);
            let served = asked.join().unwrap();
            eprintln!("    {served} requests were served while replica {number} was away");
            assert!(served > 0);
        });
        // The watch on the replica that stayed is the same one still.
        let name = format!("after-{number}");
        direct.ok("", &["create", "cm", &name, "-n", "default"]);
        assert!(lines.any(|line| line.unwrap() == name));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
