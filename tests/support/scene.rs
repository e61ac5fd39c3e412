//! kubectl at one member, over one of its two protocols, and what the two ends of a stream are made of.
#![allow(unreachable_pub, missing_docs, reason = "for one test")]

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
};

use serde_json::json;

use crate::support::{Kubectl, eventually, kubelet::NODE, process::Process};

/// One member as somebody sees it through the gateway, with the protocol that kubectl streams by.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub gateway: &'a Kubectl,
    pub member: &'a str,
    pub direct: &'a Kubectl,
    pub websocket: bool,
    pub files: &'a Path,
    pub node: &'a Process,
}

impl Scene<'_> {
    /// A Pod that repeats what it hears.
    pub fn run_pod(self) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "echo", "namespace": "default"},
            "spec": {"nodeName": NODE, "containers": [{
                "name": "main", "image": "none", "stdin": true,
                "command": ["sh", "-c", "echo first; echo second >&2; while read -r line; do echo \"$line\"; done"],
            }]},
        });
        eventually("a Pod is accepted", || {
            let made = self.gateway.run(self.member, &["apply", "-f", "-"], &pod.to_string());
            made.status.success().then_some(()).ok_or(made)
        });
        self.gateway.ok(self.member, &["wait", "pod/echo", "--for=condition=Ready", "--timeout=60s"]);
    }

    pub fn command(self, args: &[&str]) -> Command {
        let mut command = self.gateway.command(self.member, args);
        for variable in ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"] {
            command.env(variable, self.websocket.to_string());
        }
        command
    }

    /// A kubectl that runs on, its output in a file.
    pub fn start(self, name: &str, args: &[&str]) -> Process {
        let name = format!("{name}-{}", if self.websocket { "websocket" } else { "spdy" });
        Process::start(&name, self.files, &mut self.command(args))
    }

    pub fn spawn(self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs to the end with `input`, of which not a byte is looked at.
    pub fn run(self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.spawn(args);
        let mut stdin = child.stdin.take().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap()
        })
    }

    /// How many commands and forwarded ports the member's API server has taken from WebSockets.
    pub fn translated(self) -> [u64; 2] {
        let metrics = self.direct.ok("", &["get", "--raw", "/metrics"]);
        ["apiserver_stream_translator_requests_total{", "apiserver_stream_tunnel_requests_total{"].map(
            |name| {
                let lines = metrics.lines().filter(|line| line.starts_with(name));
                lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
            },
        )
    }

    /// Says a line to the Pod's process.
    pub fn speak(self, line: &str) {
        let mut attached = self.spawn(&["attach", "-i", "echo"]);
        let mut stdin = attached.stdin.take().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut heard = String::new();
        hear(attached.stdout.as_mut().unwrap(), &mut heard, line);
        attached.kill().unwrap();
        attached.wait().unwrap();
    }
}

/// Reads on until `wanted` has been said.
pub fn hear(from: &mut impl Read, heard: &mut String, wanted: &str) {
    let mut buffer = [0; 256];
    while !heard.contains(wanted) {
        let read = from.read(&mut buffer).unwrap();
        assert!(read > 0, "it ended without {wanted:?}: {heard:?}");
        heard.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

/// Bytes without a pattern that a chunk or a frame could hide behind.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

pub fn says(process: &Process, wanted: &str) {
    eventually(&format!("{} says {wanted:?}", process.name), || {
        let output = process.output();
        output.contains(wanted).then_some(()).ok_or(output)
    });
}

/// A request to a local port, told as HTTP/1.1 and read to its end.
pub fn http(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The local port that kubectl has told after `before`.
pub fn port(process: &Process, before: &str) -> u16 {
    eventually(&format!("{} tells its port", process.name), || {
        let output = process.output();
        let told = output.split_once(before).and_then(|(_, after)| after.split_once(char::is_whitespace));
        told.and_then(|(port, _)| port.parse().ok()).ok_or(output)
    })
}

/// A server that hands each connection to `serve`, until the test ends.
pub fn server(serve: fn(TcpStream) -> std::io::Result<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    port
}

/// How many bytes a process has written.
pub fn written(process: u32) -> u64 {
    let told = fs::read_to_string(format!("/proc/{process}/io")).unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.unwrap().parse().unwrap()
}
