//! What stays open: logs that are followed, commands and terminals in Pods, forwarded ports, watches. The stock kubectl
//! asks for them through the gateway; real API servers and a node's streaming server answer, one member connected by
//! kubeconfig and the other by its agent, over WebSocket as kubectl does by itself and over SPDY as older ones do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use scene::{Scene, hear, http, noise, port, says, server, written};
use serde_json::json;
use support::{
    Federation, Kubectl, eventually, kubelet,
    process::Process,
    real::{self, By, Real},
    same,
};
use tempfile::TempDir;

#[test]
fn streams_arrive_whole_from_every_kind_of_member() {
    let Some(program) = kubelet::program() else { return };
    let Some(mut real) = Real::start_by([By::Kubeconfig, By::Agent]) else { return };
    let members = ["member1", "member2"];
    let nodes = members.map(|member| kubelet::start(&program, real.member(member)));
    let files = members.map(|_| TempDir::new().unwrap());
    let agent = real.take("member2-agent");
    let scene = |index: usize| Scene {
        gateway: real.kubectl(),
        member: members[index],
        direct: real.direct(members[index]),
        websocket: false,
        files: files[index].path(),
        node: &nodes[index],
    };
    thread::scope(|scope| {
        for scene in [scene(0), scene(1)] {
            scope.spawn(move || all(scene));
        }
    });
    reader(scene(1));
    lost(scene(1), agent);
}

fn all(spdy: Scene<'_>) {
    spdy.run_pod();
    follow_logs(spdy);
    watch(spdy);
    proxy(spdy);
    for scene in [spdy, Scene { websocket: true, ..spdy }] {
        let before = scene.translated();
        exec(scene);
        terminal(scene);
        attach(scene);
        forward(scene);
        copy(scene);
        stall(scene);
        // kubectl falls back to SPDY without a word, so the API server is asked what it saw.
        let [commands, ports] = scene.translated();
        assert_eq!(commands > before[0], scene.websocket, "commands over WebSocket at {}", scene.member);
        assert_eq!(ports > before[1], scene.websocket, "ports over WebSocket at {}", scene.member);
    }
}

fn follow_logs(scene: Scene<'_>) {
    let at_once = scene.run(&["logs", "echo"], b"");
    let mut lines: Vec<_> = at_once.stdout.split(|b| *b == b'\n').collect();
    lines.sort_unstable();
    assert_eq!(lines, [b"".as_slice(), b"first", b"second"], "{at_once:?}");

    let mut logs = scene.start("logs", &["logs", "-f", "echo"]);
    says(&logs, "first\n");
    for line in ["third", "fourth"] {
        // Each line is heard before the next is said, so nothing on the way may hold one back until there is more.
        scene.speak(line);
        says(&logs, &format!("{line}\n"));
    }
    logs.interrupt();
    says(scene.node, "the reader of default/echo has gone");
}

fn attach(scene: Scene<'_>) {
    // Two at once, as two people look at one process: both hear it.
    let listener = scene.start("attach", &["attach", "echo"]);
    let hello = format!("hello by {}", listener.name);
    eventually("the listener is attached", || {
        scene.speak(&hello);
        listener.output().contains(&hello).then_some(()).ok_or_else(|| listener.output())
    });
}

fn watch(scene: Scene<'_>) {
    let mut watch = scene.start("watch", &["get", "configmaps", "-w", "-o", "name"]);
    for name in ["seen-first", "seen-second"] {
        scene.direct.ok("", &["create", "configmap", name]);
        says(&watch, &format!("configmap/{name}\n"));
    }
    watch.interrupt();
}

fn proxy(scene: Scene<'_>) {
    // A server with a path, as a member's is here, needs the flag.
    let proxy = scene.start("proxy", &["proxy", "--port=0", "--append-server-path"]);
    let port = port(&proxy, "Starting to serve on 127.0.0.1:");
    let log = http(port, "/api/v1/namespaces/default/pods/echo/log");
    assert!(log.starts_with("HTTP/1.1 200") && log.contains("first\n"), "{log}");
}

fn exec(scene: Scene<'_>) {
    let spoken = scene.run(&["exec", "echo", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], b"");
    assert_eq!(spoken.status.code(), Some(7), "{spoken:?}");
    assert_eq!(spoken.stdout, b"out\n", "{spoken:?}");
    assert!(spoken.stderr.starts_with(b"err\n"), "{spoken:?}");

    let sent = noise(5_000_000);
    let back = scene.run(&["exec", "-i", "echo", "--", "cat"], &sent);
    assert!(back.status.success(), "{:?}", String::from_utf8_lossy(&back.stderr));
    assert!(back.stdout == sent, "{} bytes came back of {}, or others", back.stdout.len(), sent.len());

    let nobody = scene.run(&["exec", "nobody", "--", "true"], b"");
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    assert!(String::from_utf8_lossy(&nobody.stderr).contains(r#"pods "nobody" not found"#), "{nobody:?}");
}

/// `kubectl exec -it` in a terminal of its own, whose size must arrive at the other one.
fn terminal(scene: Scene<'_>) {
    let kubectl = scene.command(&["exec", "-it", "echo", "--", "sh"]);
    let quote = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
    let line: Vec<_> = std::iter::once(kubectl.get_program()).chain(kubectl.get_args()).map(quote).collect();
    let mut script = Command::new("script");
    script.args(["-qec", &format!("stty rows 45 cols 123; exec {}", line.join(" ")), "/dev/null"]);
    script.envs(kubectl.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("SHELL", "/bin/sh");
    let mut child =
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The size comes on a stream of its own, when it comes; what is typed is echoed, so the answers are computed.
    stdin.write_all(b"until stty size | grep -q '45 123'; do sleep 0.1; done; tty\n").unwrap();
    stdin
        .write_all(
            b"(trap 'echo caught $((7 * 9)); exit' INT; echo sum $((40 + 2)); while :; do sleep 0.1; done)\n",
        )
        .unwrap();
    let (stdout, mut text) = (child.stdout.as_mut().unwrap(), String::new());
    hear(stdout, &mut text, "sum 42\r\n");
    assert!(text.contains("/dev/pts/"), "{text}");
    // Ctrl-C is for the command there, not for kubectl here.
    stdin.write_all(b"\x03").unwrap();
    hear(stdout, &mut text, "caught 63\r\n");
    stdin.write_all(b"exit 3\n").unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(3), "{text}");
}

fn forward(scene: Scene<'_>) {
    let web = server(|mut stream| {
        let _ = stream.read(&mut [0; 4096])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n")
    });
    let echo = server(|mut stream| std::io::copy(&mut stream.try_clone()?, &mut stream).map(drop));
    let name = |port: u16| format!(":{port}");
    let args = ["port-forward", "echo", &name(web), &name(echo)];
    let mut forward = scene.start("port-forward", &args);
    let local = |remote: u16| {
        eventually("kubectl port-forward listens", || {
            let output = forward.output();
            let end = format!(" -> {remote}\n");
            let line = output.split_inclusive('\n').find_map(|line| {
                line.strip_prefix("Forwarding from 127.0.0.1:")?.strip_suffix(&end)?.parse::<u16>().ok()
            });
            line.ok_or(output)
        })
    };
    let (web, echo) = (local(web), local(echo));
    for _ in 0..3 {
        let answer = http(web, "/");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhello\n"), "{answer}");
    }
    // Both ways at once, and three connections side by side; an end of sending is not an end of receiving.
    let sent = noise(3_000_000);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(("127.0.0.1", echo)).unwrap();
                let mut writer = stream.try_clone().unwrap();
                let sent = &sent;
                thread::scope(|scope| {
                    scope.spawn(move || {
                        writer.write_all(sent).unwrap();
                        writer.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).unwrap();
                    assert!(back == *sent, "{} bytes came back of {}, or others", back.len(), sent.len());
                });
            });
        }
    });
    forward.interrupt();
}

fn copy(scene: Scene<'_>) {
    let path = |name: &str| scene.files.join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(path("there")).unwrap();
    fs::write(path("there/bulk"), noise(2_000_000)).unwrap();
    fs::write(path("there/small"), "small\n").unwrap();
    let _ = fs::remove_dir_all(path("back"));
    for (from, to) in [(path("there"), "echo:.".to_owned()), ("echo:there".to_owned(), path("back"))] {
        let copied = scene.run(&["cp", &from, &to], b"");
        assert!(copied.status.success(), "{from} to {to}: {copied:?}");
    }
    for file in ["bulk", "small"] {
        let [there, back] = ["there", "back"].map(|dir| fs::read(path(&format!("{dir}/{file}"))).unwrap());
        assert!(there == back, "{file}: {} bytes there, {} back", there.len(), back.len());
    }
}

/// Somebody who does not read what they asked for costs the others nothing: the far end is held back, nothing piles up
/// on the way, and when they go it hears of that.
fn stall(scene: Scene<'_>) {
    let marker = if scene.websocket { "stalled-websocket" } else { "stalled-spdy" };
    let endless = format!("echo $$ > {marker}; exec cat /dev/zero");
    let mut stalled = scene.spawn(&["exec", "echo", "--", "sh", "-c", &endless]);
    let process = eventually("the endless command runs", || {
        let read = scene.run(&["exec", "echo", "--", "cat", marker], b"");
        String::from_utf8_lossy(&read.stdout).trim().parse::<u32>().map_err(|_| read)
    });
    let mut history = Vec::new();
    eventually("the endless command is held back", || {
        history.push(written(process));
        let last = &history[history.len().saturating_sub(20)..];
        let still = last.len() == 20 && last[0] > 0 && last.iter().all(|bytes| *bytes == last[0]);
        still.then_some(()).ok_or(last[0])
    });
    // What the sockets of this many hops may hold; without a limit it would be more at once.
    assert!(history[history.len() - 1] < 128 << 20, "{history:?}");
    let other = scene.run(&["exec", "-i", "echo", "--", "cat"], &noise(1_000_000));
    assert_eq!(other.stdout.len(), 1_000_000, "{:?}", String::from_utf8_lossy(&other.stderr));
    stalled.kill().unwrap();
    stalled.wait().unwrap();
    eventually("the endless command ends with its reader", || {
        same(Path::new(&format!("/proc/{process}")).exists(), false)
    });
}

/// At the tower a caller without impersonation acts as the agent, who may do everything; who may only read there must
/// not run anything, although over WebSocket a command begins with a GET.
fn reader(scene: Scene<'_>) {
    let host = scene.gateway;
    host.ok("host", &["create", "serviceaccount", "reader", "-n", "default"]);
    let named = format!("--resource-name={}", scene.member);
    let resource = "--resource=clusters.cluster.kubesphere.io/tunnel";
    host.ok("host", &["create", "clusterrole", "reader", "--verb=get", resource, &named]);
    let subject = "--serviceaccount=default:reader";
    host.ok("host", &["create", "clusterrolebinding", "reader", "--clusterrole=reader", subject]);
    let token = host.ok("host", &["create", "token", "reader", "-n", "default"]);
    let tower =
        host.json("host", &["get", "configmap", "hansa-tower", "-n", "kube-federation-system"]).unwrap();
    let [server, authority] = ["server", "ca.crt"].map(|key| tower["data"][key].as_str().unwrap().to_owned());
    let file = |name: &str| scene.files.join(name);
    fs::write(file("tower.crt"), authority).unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {
            "server": format!("{server}/clusters/{}", scene.member), "certificate-authority": file("tower.crt")}}],
        "users": [{"name": "u", "user": {"token": token.trim()}}],
    });
    fs::write(file("tower.kubeconfig"), config.to_string()).unwrap();
    let tower = Kubectl::new(&file("tower.kubeconfig"));
    for websocket in [false, true] {
        let scene = Scene { gateway: &tower, member: "", websocket, ..scene };
        let read = scene.run(&["logs", "echo"], b"");
        assert!(read.status.success(), "{read:?}");
        for args in [&["exec", "echo", "--", "echo", "ran"][..], &["attach", "echo"]] {
            let refused = scene.run(args, b"");
            assert!(!refused.status.success() && refused.stdout.is_empty(), "{args:?}: {refused:?}");
            assert!(String::from_utf8_lossy(&refused.stderr).contains("orbidden"), "{args:?}: {refused:?}");
        }
    }
}

/// An agent dies: what went through it ends at once, never as if it were whole, and the next agent takes up the work.
fn lost(spdy: Scene<'_>, mut agent: Process) {
    let websocket = Scene { websocket: true, ..spdy };
    let logs = spdy.spawn(&["logs", "-f", "echo"]);
    let watch = spdy.spawn(&["get", "configmaps", "-w", "-o", "name"]);
    let mut open = vec![("logs", logs), ("watch", watch)];
    for (name, scene) in [("exec by SPDY", spdy), ("exec by WebSocket", websocket)] {
        open.push((name, scene.spawn(&["exec", "-i", "echo", "--", "cat"])));
        open.last_mut().unwrap().1.stdin.as_mut().unwrap().write_all(b"are you there?\n").unwrap();
    }
    for (name, child) in &mut open {
        let read = child.stdout.as_mut().unwrap().read(&mut [0; 256]).unwrap();
        assert!(read > 0, "{name} is not open");
    }
    agent.kill();
    for (name, mut child) in open {
        let status = eventually(&format!("{name} ends with the agent"), || {
            child.try_wait().unwrap().ok_or("still running")
        });
        // Of a watch and of SPDY kubectl takes every end for a good one (kubernetes/kubectl#1726).
        let tells = !["watch", "exec by SPDY"].contains(&name);
        assert!(!status.success() || !tells, "{name}: {:?}", child.wait_with_output());
    }
    let _agent = real::agent(spdy.direct, "member2", spdy.files);
    for scene in [spdy, websocket] {
        eventually("the next agent is connected", || {
            let again = scene.run(&["exec", "echo", "--", "echo", "again"], b"");
            if again.stdout == b"again\n" { Ok(()) } else { Err(again) }
        });
    }
}
