//! Hosts in networks of their own: network namespaces, with cables that can be pulled.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "it belongs to the tests")]

use std::{
    fs::File,
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The address of the host, which every member knows.
pub const HOST: &str = "10.77.0.1";

/// A host and its members. Each member has a cable to the host and no other; nobody forwards.
pub struct Network {
    prefix: String,
    members: usize,
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("ip {args:?}: {said}"))
}

impl Network {
    /// `None`, loudly, where namespaces cannot be made.
    pub fn start(members: usize) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let network = Self { prefix: format!("hansa-{}-{number}", std::process::id()), members };
        match network.build() {
            Ok(()) => Some(network),
            Err(why) => {
                let required = std::env::var_os("HANSA_REQUIRE_REAL_CLUSTERS").is_some();
                assert!(!required, "network namespaces are needed (root and iproute2): {why}");
                eprintln!("SKIPPED: no network namespaces (root and iproute2 are needed): {why}");
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let host = self.namespace("host");
        let add = |namespace: &str| {
            ip(&["netns", "add", namespace])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            // A new namespace may inherit that it forwards.
            let off = "echo 0 > /proc/sys/net/ipv4/ip_forward";
            let done = Command::new("ip").args(["netns", "exec", namespace, "sh", "-c", off]).status();
            done.is_ok_and(|done| done.success())
                .then_some(())
                .ok_or_else(|| "cannot stop forwarding".to_owned())
        };
        add(&host)?;
        ip(&["-n", &host, "addr", "add", &format!("{HOST}/32"), "dev", "lo"])?;
        for number in 1..=self.members {
            let (member, cable) = (self.namespace(&format!("m{number}")), format!("m{number}"));
            add(&member)?;
            ip(&[
                "link", "add", &cable, "netns", &host, "type", "veth", "peer", "name", "cable", "netns",
                &member,
            ])?;
            ip(&["-n", &host, "addr", "add", &format!("10.77.{number}.1/30"), "dev", &cable])?;
            ip(&["-n", &host, "link", "set", &cable, "up"])?;
            ip(&["-n", &member, "addr", "add", &format!("10.77.{number}.2/30"), "dev", "cable"])?;
            ip(&["-n", &member, "link", "set", "cable", "up"])?;
            self.route(number)?;
        }
        Ok(())
    }

    fn route(&self, number: usize) -> Result<(), String> {
        let member = self.namespace(&format!("m{number}"));
        ip(&["-n", &member, "route", "replace", &format!("{HOST}/32"), "via", &format!("10.77.{number}.1")])
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Runs something as on that host (`host`, `m1`, …), with all processes it starts.
    pub fn on<T: Send>(&self, name: &str, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace(name))).unwrap();
        std::thread::scope(|scope| {
            let moved = scope.spawn(move || {
                use std::os::fd::AsFd;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                act()
            });
            moved.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Whether that host can open a connection.
    pub fn reaches(&self, name: &str, address: &str) -> bool {
        let address: SocketAddr = address.parse().unwrap();
        self.on(name, || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    }

    /// Pulls the cable of a member: nothing passes any more, and nobody is told.
    pub fn pull(&self, number: usize) {
        // At the host's end, so that the member's own addresses and routes stay.
        ip(&["-n", &self.namespace("host"), "link", "set", &format!("m{number}"), "down"]).unwrap();
    }

    /// Plugs it in again.
    pub fn plug(&self, number: usize) {
        let host = self.namespace("host");
        ip(&["-n", &host, "link", "set", &format!("m{number}"), "up"]).unwrap();
        self.route(number).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for number in 1..=self.members {
            let _ = ip(&["netns", "del", &self.namespace(&format!("m{number}"))]);
        }
        let _ = ip(&["netns", "del", &self.namespace("host")]);
    }
}
