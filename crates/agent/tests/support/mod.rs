//! A tower and a member for an agent to stand between: both real servers on the loopback, with what a test wants to know and to spoil.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod links;
mod member;
mod tower;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hansa_agent::join::Sources;
use hansa_agent::member::{Member, Source};
use hansa_agent::proxy::Proxies;
use hansa_agent::{Agent, Clock, Observer, Settings, Standing};
use hansa_tunnel::{Answer, Body, Host};
use http::Request;
use http_body_util::{BodyExt, Full};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use links::{Forwarder, balancer, connect_proxy};
pub use member::Cluster;
pub use tower::{Odd, Options, Tower};

/// Longer than anything here takes on a slow machine; nothing is decided by it.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("it never came to this: {what}"))
}

/// Asks again until there is an answer.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    soon(what, async {
        loop {
            match look() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await
}

/// An agent's machine: the files that a manifest mounts, and what may differ from the usual.
pub struct Machine {
    pub directory: tempfile::TempDir,
    pub proxies: Proxies,
    pub clock: Clock,
    pub drain: Duration,
    pub requests: usize,
    seed: u64,
}

/// An agent that runs.
pub struct Running {
    pub observer: Observer,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Machine {
    /// One whose manifest names `tower`, under its own address.
    pub fn new(tower: &Tower) -> Self {
        let machine = Self {
            directory: tempfile::tempdir().unwrap(),
            proxies: Proxies::default(),
            clock: Arc::new(SystemTime::now),
            drain: Duration::from_secs(20),
            requests: 256,
            seed: 1,
        };
        machine.write("tower", &format!("https://{}", tower.address));
        machine.write("cluster", "m2");
        machine.write("ca.crt", tower.authority());
        machine.write("token", &tower.token());
        machine
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn clock_off_by(&mut self, days: i64) {
        let by = Duration::from_secs(days.unsigned_abs() * 86_400);
        self.clock = Arc::new(move || if days < 0 { SystemTime::now() - by } else { SystemTime::now() + by });
    }

    /// Starts an agent here, for `cluster`.
    pub fn start(&mut self, cluster: &Cluster) -> Running {
        fs::create_dir_all(self.path("account")).unwrap();
        self.write("account/ca.crt", &cluster.authority());
        self.write("account/token", cluster.token());
        let source = Source::Pod {
            directory: self.path("account"),
            host: cluster.address.ip().to_string(),
            port: cluster.address.port().to_string(),
        };
        self.start_with(source)
    }

    pub fn start_with(&mut self, source: Source) -> Running {
        let settings = Settings {
            sources: Sources { directory: self.directory.path().to_owned(), ..Sources::default() },
            proxies: self.proxies.clone(),
            namespace: "hansa-agent".to_owned(),
            secret: "agent-credential".to_owned(),
            tunnel: hansa_tunnel::Settings::default(),
            requests: self.requests,
            drain: self.drain,
            clock: self.clock.clone(),
        };
        let agent = Agent::new(settings, Member::new(source, self.requests).unwrap());
        self.seed += 1;
        let (observer, stop) = (agent.observer(), CancellationToken::new());
        let task = tokio::spawn(agent.run(StdRng::seed_from_u64(self.seed), stop.clone()));
        Running { observer, stop, task }
    }
}

impl Running {
    pub async fn until(&mut self, what: &str, wanted: impl FnMut(&Standing) -> bool) -> Standing {
        soon(what, self.observer.until(wanted)).await.expect("the agent runs")
    }

    pub async fn connected(&mut self) -> Standing {
        self.until("it is connected", |standing| standing.connections > 0).await
    }

    /// What it says is wrong, once something is.
    pub async fn trouble(&mut self) -> String {
        let standing = self.until("there is trouble", |standing| standing.trouble.is_some()).await;
        standing.trouble.unwrap().to_string()
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    pub async fn ended(mut self) {
        soon("the agent has ended", &mut self.task).await.unwrap();
    }

    /// As a process that is killed.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn get(target: &str) -> Request<Body> {
    Request::get(target).body(body("")).unwrap()
}

pub fn post(target: &str, object: &Value) -> Request<Body> {
    Request::post(target).header("content-type", "application/json").body(body(object.to_string())).unwrap()
}

/// The code and the JSON of an answer.
pub async fn ask(host: &Host, request: Request<Body>) -> (u16, Value) {
    let answer = soon("there is an answer", host.send(request)).await.unwrap();
    let Answer::Response(response) = answer else { panic!("it switched") };
    let code = response.status().as_u16();
    let bytes = soon("the answer ends", response.into_body().collect()).await.unwrap().to_bytes();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
}
