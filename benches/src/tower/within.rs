//! Parts that need a network of their own: this program runs itself again in a namespace, which ends with it.

use std::{env, fs, process::Command};

use super::{
    clients::{program, skipped},
    delayed, shaped,
    tunnels::is_root,
};
use crate::support::{eventually, process::Process};

/// What asks this program to be a part that is in a namespace.
const WITHIN: &str = "within-a-namespace";

const PARTS: &[(&str, fn())] = &[("delay", delayed::within), ("shaped", shaped::within)];

/// Is such a part, if that is what was asked for.
pub fn run(args: &[String]) -> bool {
    let [within, part] = args else { return false };
    let Some((_, run)) = PARTS.iter().find(|(name, _)| within == WITHIN && name == part) else {
        return false;
    };
    ip(&["link", "set", "lo", "up"]);
    run();
    true
}

/// Runs a part in a network namespace, as root of it.
pub fn enter(part: &str) {
    if program("ip").is_none() {
        return skipped(&format!("tower {part}"), "there is no ip: apt-get install iproute2");
    }
    let mut unshare = Command::new("unshare");
    unshare.arg("--net");
    if !is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let allowed = Command::new("unshare").args(unshare.get_args()).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        return skipped(&format!("tower {part}"), "this user may not make network namespaces");
    }
    let ended = unshare.arg(env::current_exe().unwrap()).args([WITHIN, part]).status().unwrap();
    assert!(ended.success(), "tower {part}: {ended}");
}

/// The ip program.
pub fn ip(args: &[&str]) {
    configure("ip", args).unwrap_or_else(|why| panic!("ip {args:?}: {why}"));
}

/// Runs a program that configures the network.
pub fn configure(name: &str, args: &[&str]) -> Result<(), String> {
    let path = program(name).ok_or("there is no such program: apt-get install iproute2")?;
    let output = Command::new(path).args(args).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// A second namespace, for as long as this is held.
pub struct Beyond {
    process: Process,
}

impl Beyond {
    pub fn new(logs: &std::path::Path) -> Self {
        let mut hold = Command::new("unshare");
        let process = Process::start("beyond", logs, hold.args(["--net", "sleep", "infinity"]));
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        let own = namespace("self").unwrap();
        eventually("a second namespace", || {
            namespace(&process.id().to_string()).ok().filter(|found| *found != own).ok_or("not yet")
        });
        Self { process }
    }

    pub fn id(&self) -> String {
        self.process.id().to_string()
    }

    /// What goes before a command that is to run in it.
    pub fn prefix(&self) -> Vec<String> {
        ["nsenter", "--net", "--target", &self.id()].map(str::to_owned).into()
    }
}
