//! What the end-to-end tests share: federations on both back ends, and kubectl as their client.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part of these")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

pub mod embedded;
pub mod kubectl;
pub mod kubefed;
pub mod kubelet;
pub mod link;
pub mod process;
pub mod real;

use std::{
    fmt::Debug,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub use kubectl::Kubectl;

/// A host with `member1` and `member2`, reached through its gateway.
pub trait Federation {
    /// kubectl with the contexts `host`, `member1` and `member2`, all through the gateway.
    fn kubectl(&self) -> &Kubectl;
    /// kubectl straight at a member, as somebody who never heard of Hansa.
    fn direct(&self, member: &str) -> &Kubectl;
    /// Lets the pods of a namespace become ready, where no kubelet (real or simulated) does.
    fn run_pods(&self, member: &str, namespace: &str);
    /// The `hansa` command line, pointed at the host.
    fn hansa(&self, args: &[&str]) -> std::process::Output;
}

/// Polls until `condition` gives a value; `what` is said if it does not in a minute.
pub fn eventually<T, E: Debug>(what: &str, mut condition: impl FnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(last) if started.elapsed() > Duration::from_secs(60) => {
                panic!("{what}: not after a minute: {last:?}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// `Ok` if the two are the same; for [`eventually`].
pub fn same<T: PartialEq + Debug>(found: T, wanted: T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("found {found:?}, wanted {wanted:?}")) }
}

/// The project's root folder.
pub fn root() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().find(|dir| dir.join("ARCHITECTURE.md").is_file()).unwrap().to_owned()
}

/// A port nobody listens on at the moment of asking, below those that the system gives to outgoing connections, so that none
/// of them takes it before the server it is for does.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(101);
    loop {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let port = 11_000 + u16::try_from(number).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
