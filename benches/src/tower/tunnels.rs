//! The tunnels that are compared: each takes plain HTTP on a port of the host and gives it, through TLS or SSH, to a plain server
//! beside its agent.

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    clients::{openssl, program, skipped},
    nginx::{SMALL, within},
    roles,
};
use crate::support::{eventually, free_port, process::Process};

/// Where `cargo xtask bench` says that rathole is.
const RATHOLE: &str = "HANSA_BENCH_RATHOLE";

/// A kind of tunnel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Hansa,
    Rathole,
    OpenSsh,
}

/// Where the two ends are.
pub struct Place {
    /// The address on which the host's end waits for the agent.
    pub listen: &'static str,
    /// The address under which the agent finds it.
    pub dial: &'static str,
    /// What goes before the agent's command.
    pub agent: Vec<String>,
}

/// A tunnel that stands.
pub struct Tunnel {
    pub kind: Kind,
    /// Where it takes requests, on the loopback.
    pub port: u16,
    host: Process,
    agent: Process,
}

impl Place {
    pub fn loopback() -> Self {
        Self { listen: "127.0.0.1", dial: "127.0.0.1", agent: Vec::new() }
    }
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Hansa => "hansa",
            Self::Rathole => "rathole with TLS",
            Self::OpenSsh => "OpenSSH -R",
        }
    }

    /// Those that can be run here; says which cannot.
    pub fn all() -> Vec<Self> {
        [Self::Hansa, Self::Rathole, Self::OpenSsh]
            .into_iter()
            .filter(|kind| kind.missing().map(|why| skipped(kind.name(), &why)).is_none())
            .collect()
    }

    fn missing(self) -> Option<String> {
        match self {
            Self::Hansa => None,
            Self::Rathole if env::var_os(RATHOLE).is_some_and(|path| Path::new(&path).is_file()) => None,
            Self::Rathole => Some(format!("{RATHOLE} names no program; cargo xtask bench installs it")),
            Self::OpenSsh => {
                let missing = ["sshd", "ssh", "ssh-keygen"].into_iter().find(|name| program(name).is_none());
                // Where root's sshd puts its unprivileged children; the service makes it.
                let privileges =
                    Path::new("/run/sshd").is_dir() || fs::create_dir("/run/sshd").is_ok() || !is_root();
                match (missing, privileges) {
                    (Some(name), _) => {
                        Some(format!("there is no {name}: apt-get install openssh-server openssh-client"))
                    }
                    (None, false) => Some("/run/sshd cannot be made".to_owned()),
                    (None, true) => None,
                }
            }
        }
    }

    /// Builds one up to the server at `upstream` (address and port, as the agent sees it).
    pub fn start(self, dir: &Path, place: &Place, upstream: &str) -> Tunnel {
        let dir = tempfile::Builder::new().prefix("tunnel").tempdir_in(dir).unwrap().keep();
        let (tunnel, port) = (free_port(), free_port());
        let ends = Ends { dir: &dir, place, tunnel, port, upstream };
        let (host, agent) = match self {
            Self::Hansa => ends.hansa(),
            Self::Rathole => ends.rathole(),
            Self::OpenSsh => ends.open_ssh(),
        };
        let mut tunnel = Tunnel { kind: self, port, host, agent };
        eventually(self.name(), || {
            tunnel.host.check()?;
            tunnel.agent.check()?;
            answers(port).then_some(()).ok_or_else(|| "no answer through it".to_owned())
        });
        tunnel
    }
}

impl Tunnel {
    pub fn url(&self, file: &str) -> String {
        format!("http://127.0.0.1:{}/{file}", self.port)
    }

    /// The processes of the host's end and of the agent's.
    pub fn sides(&self) -> [u32; 2] {
        [self.host.id(), self.agent.id()]
    }
}

struct Ends<'a> {
    dir: &'a Path,
    place: &'a Place,
    tunnel: u16,
    port: u16,
    upstream: &'a str,
}

impl Ends<'_> {
    fn hansa(&self) -> (Process, Process) {
        let this = env::current_exe().unwrap();
        let authority = self.dir.join("ca.pem");
        let mut host = Command::new(&this);
        host.arg(roles::HOST).arg(format!("{}:{}", self.place.listen, self.tunnel));
        host.arg(format!("127.0.0.1:{}", self.port)).arg(&authority);
        let host = Process::start("host", self.dir, &mut host);
        eventually("the host's end listens", || fs::metadata(&authority));
        let mut agent = within(&self.place.agent, &this);
        agent.arg(roles::AGENT).arg(format!("{}:{}", self.place.dial, self.tunnel));
        agent.arg(format!("http://{}", self.upstream)).arg(&authority);
        (host, Process::start("agent", self.dir, &mut agent))
    }

    fn rathole(&self) -> (Process, Process) {
        let this = PathBuf::from(env::var_os(RATHOLE).unwrap());
        let Self { dir, place, tunnel, port, upstream } = self;
        openssl(
            dir,
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
                "-keyout",
                "key.pem",
                "-out",
                "ca.pem",
            ],
        );
        openssl(
            dir,
            &[
                "pkcs12",
                "-export",
                "-inkey",
                "key.pem",
                "-in",
                "ca.pem",
                "-out",
                "identity.pfx",
                "-passout",
                "pass:bench",
            ],
        );
        let at = dir.display();
        let server = format!(
            "[server]\nbind_addr = \"{}:{tunnel}\"\ndefault_token = \"bench\"\n[server.transport]\ntype = \"tls\"\n[server.transport.tls]\npkcs12 = \"{at}/identity.pfx\"\npkcs12_password = \"bench\"\n[server.services.web]\nbind_addr = \"127.0.0.1:{port}\"\n",
            place.listen
        );
        let client = format!(
            "[client]\nremote_addr = \"{}:{tunnel}\"\ndefault_token = \"bench\"\n[client.transport]\ntype = \"tls\"\n[client.transport.tls]\ntrusted_root = \"{at}/ca.pem\"\nhostname = \"localhost\"\n[client.services.web]\nlocal_addr = \"{upstream}\"\n",
            place.dial
        );
        fs::write(dir.join("server.toml"), server).unwrap();
        fs::write(dir.join("client.toml"), client).unwrap();
        let mut host = Command::new(&this);
        host.env("RUST_LOG", "error").arg("--server").arg(dir.join("server.toml"));
        let mut agent = within(&place.agent, &this);
        agent.env("RUST_LOG", "error").arg("--client").arg(dir.join("client.toml"));
        (Process::start("host", dir, &mut host), Process::start("agent", dir, &mut agent))
    }

    fn open_ssh(&self) -> (Process, Process) {
        let Self { dir, place, tunnel, port, upstream } = self;
        for key in ["host_key", "user_key"] {
            let mut keygen = Command::new(program("ssh-keygen").unwrap());
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key));
            assert!(keygen.status().unwrap().success());
        }
        let at = dir.display();
        let config = format!(
            "Port {tunnel}\nListenAddress {}\nHostKey {at}/host_key\nAuthorizedKeysFile {at}/user_key.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nAllowTcpForwarding yes\nPidFile none\nLogLevel ERROR\n",
            place.listen
        );
        fs::write(dir.join("sshd_config"), config).unwrap();
        let mut host = Command::new(program("sshd").unwrap());
        host.args(["-D", "-e", "-f"]).arg(dir.join("sshd_config"));
        let host = Process::start("host", dir, &mut host);
        eventually("sshd listens", || TcpStream::connect((place.listen, *tunnel)));
        let mut agent = within(&place.agent, &program("ssh").unwrap());
        agent.args(["-F", "none", "-N", "-T", "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes"]);
        agent.args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        agent.args(["-o", "LogLevel=ERROR", "-i"]).arg(dir.join("user_key"));
        agent.args(["-p", &tunnel.to_string(), "-R", &format!("127.0.0.1:{port}:{upstream}"), place.dial]);
        (host, Process::start("agent", dir, &mut agent))
    }
}

/// Whether this is root, in its own namespace or in one of a user's.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut connection = TcpStream::connect(("127.0.0.1", port))?;
        connection.set_read_timeout(Some(Duration::from_secs(2)))?;
        connection.write_all(format!("GET /{SMALL} HTTP/1.1\r\nHost: bench\r\n\r\n").as_bytes())?;
        let mut head = [0; 12];
        connection.read_exact(&mut head)?;
        Ok(head == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
