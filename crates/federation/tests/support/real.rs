//! A real cluster as a member: etcd and kube-apiserver, without nodes and controllers.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use hansa_transport::{Credential, Endpoint, Limits, Target, Tls, Transport};
use http::Request;
use tempfile::TempDir;

use super::{Cluster, eventually};

const TOKEN: &str = "a-token-of-the-test-clusters-only";

/// Programs that run, and where they keep their files. They end with it.
pub(crate) struct Real {
    pub(crate) cluster: Cluster,
    processes: Vec<Child>,
    _dir: TempDir,
}

impl Real {
    /// `None`, loudly, when there are no binaries to run; `cargo xtask test` provides them.
    pub(crate) async fn start() -> Option<Self> {
        let Some(assets) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
            eprintln!("SKIPPED: no real clusters without KUBEBUILDER_ASSETS; run `cargo xtask test`");
            return None;
        };
        let dir = TempDir::new().unwrap();
        let root = dir.path().to_owned();
        let path = |file: &str| root.join(file).to_str().unwrap().to_owned();
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(path("sa.key"), key.serialize_pem()).unwrap();
        fs::write(path("sa.pub"), key.public_key_pem()).unwrap();
        fs::write(path("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
        let (client, peer, secure) = (free_port(), free_port(), free_port());
        let etcd = format!("http://127.0.0.1:{client}");
        let start = |program: &str, flags: &[(&str, &str)]| {
            let log = File::create(path(&format!("{program}.log"))).unwrap();
            let flags = flags.iter().map(|(flag, value)| format!("--{flag}={value}"));
            let mut command = Command::new(assets.join(program));
            command.args(flags).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            command.spawn().unwrap()
        };
        let peers = format!("http://127.0.0.1:{peer}");
        let processes = vec![
            start(
                "etcd",
                &[
                    ("data-dir", &path("etcd")),
                    ("listen-client-urls", &etcd),
                    ("advertise-client-urls", &etcd),
                    ("listen-peer-urls", &peers),
                    ("unsafe-no-fsync", "true"),
                ],
            ),
            start(
                "kube-apiserver",
                &[
                    ("etcd-servers", &etcd),
                    ("bind-address", "127.0.0.1"),
                    ("secure-port", &secure.to_string()),
                    ("cert-dir", &path("certs")),
                    ("token-auth-file", &path("tokens.csv")),
                    ("authorization-mode", "RBAC"),
                    ("service-account-issuer", "https://kubernetes.default.svc"),
                    ("service-account-key-file", &path("sa.pub")),
                    ("service-account-signing-key-file", &path("sa.key")),
                    ("service-cluster-ip-range", "10.0.0.0/24"),
                    ("disable-admission-plugins", "ServiceAccount"),
                ],
            ),
        ];
        let target = Target {
            endpoint: Endpoint::parse(&format!("https://127.0.0.1:{secure}")).unwrap(),
            tls: Tls { insecure: true, ..Tls::default() },
            proxy: None,
            credential: Credential::token(TOKEN),
        };
        let transport = Transport::new(target, Limits::default()).unwrap();
        let real = Self { cluster: Cluster::behind(transport.clone()), processes, _dir: dir };
        let ready = eventually(|| async {
            let request = Request::get("/readyz").body(hansa_transport::empty()).unwrap();
            let answer = transport.request(request).await.ok()?;
            answer.status().is_success().then_some(())
        });
        let log = || fs::read_to_string(path("kube-apiserver.log")).unwrap_or_default();
        assert!(ready.await.is_some(), "the kube-apiserver does not become ready:\n{}", log());
        Some(real)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A port nobody listens on at the moment of asking, below those that the system gives to outgoing connections.
fn free_port() -> u16 {
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
