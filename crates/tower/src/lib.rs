//! The tower: the server on the host that agents dial, and through which their clusters are reached.
//!
//! An agent joins with a token, gets a certificate of its own, and connects with it (`agents`, `identity`); its connection becomes
//! a tunnel, which is a session (`sessions`) until its agent is let in no longer (`revocation`). Callers reach a cluster at
//! `/clusters/<name>/…` if the host says they may (`callers`), within bounds (`limits`). Each replica says in a Lease whose agents
//! it has (`lease`, `replicas`). The tower keeps nothing: whatever it knows is on the host or connected.

mod agents;
mod answers;
mod callers;
mod identity;
mod lease;
mod limits;
mod pipe;
mod rate;
mod replicas;
mod revocation;
mod serve;
mod sessions;

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use hansa_access::{Reviews, answer};
use hansa_listener::{pki::Authority, serve::Peer};
use hansa_machinery::Status;
use hansa_metrics::Metrics;
use hansa_transport::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use jiff::SignedDuration;
use kube::Client;
use rand::RngCore;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{limits::UnderWay, rate::Attempts, replicas::Replicas, sessions::Sessions};
pub use limits::{Limits, Share};

/// Join requests that may be under way to the host at once.
const JOINS: usize = 16;
/// How long a new replica waits for the agents that others have before it says that it is ready.
const GATHERING: Duration = Duration::from_secs(10);

/// How a tower is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The tunnels.
    pub tunnel: hansa_tunnel::Settings,
    /// What may be under way.
    pub limits: Limits,
    /// How long the certificate of an agent lasts; it is renewed well before.
    pub lifetime: SignedDuration,
    /// How long anything that comes before a tunnel may take.
    pub handshake: Duration,
    /// How long a request waits for an agent that is expected back.
    pub wait: Duration,
    /// How long it may take until an answer begins; longer than an API server's own limit of a minute.
    pub answer: Duration,
    /// Connections at once whose other end has not shown who it is.
    pub strangers: usize,
    /// For how long the tower says that it is about to stop before it does.
    pub notice: Duration,
    /// How long requests under way may take to end after that.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tunnel: hansa_tunnel::Settings::default(),
            limits: Limits::default(),
            lifetime: SignedDuration::from_hours(7 * 24),
            handshake: Duration::from_secs(10),
            wait: Duration::from_secs(5),
            answer: Duration::from_secs(65),
            strangers: 2048,
            notice: Duration::from_secs(1),
            drain: Duration::from_secs(20),
        }
    }
}

/// A replica of the tower. Clones are handles to the same.
#[derive(Clone)]
pub struct Tower {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    host: Client,
    reviews: Reviews,
    authority: Authority,
    replica: String,
    options: Options,
    sessions: Sessions,
    replicas: Mutex<Replicas>,
    under_way: UnderWay,
    attempts: Attempts,
    joins: Semaphore,
    metrics: hansa_metrics::Tower,
    /// When the Lease was first written.
    leased: OnceLock<Instant>,
    /// Set once: a replica that was ready stays so, whoever comes and goes.
    ready: OnceLock<()>,
    draining: CancellationToken,
    /// The sessions, and the connections that became something else than HTTP.
    tasks: TaskTracker,
}

impl Tower {
    /// A replica in front of `host`, which it reaches with the rights of [`hansa_api::tower::rights`]. `authority` signs the
    /// agents' certificates; `rng` makes the name that tells this replica from others.
    pub fn new(
        host: Client,
        authority: Authority,
        metrics: &Metrics,
        options: Options,
        rng: &mut impl RngCore,
    ) -> Self {
        let replica = format!("{:016x}", rng.next_u64());
        let shared = Shared {
            reviews: Reviews::new(host.clone()),
            host,
            authority,
            sessions: Sessions::new(options.limits.agents),
            replicas: Mutex::new(Replicas::new(&replica)),
            under_way: UnderWay::new(options.limits),
            attempts: Attempts::default(),
            joins: Semaphore::new(JOINS),
            metrics: metrics.tower(),
            leased: OnceLock::new(),
            ready: OnceLock::new(),
            draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
            replica,
            options,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Answers one request. A failure is a `Status`, as any Kubernetes client understands it.
    async fn handle(self, peer: Peer, request: Request<Incoming>) -> Response<Body> {
        let tower = &self.shared;
        match request.uri().path() {
            "/healthz" | "/livez" => return answer::text("ok"),
            "/readyz" => {
                return tower
                    .readiness()
                    .map_or_else(|status| answer::status(&status), |()| answer::text("ok"));
            }
            _ => {}
        }
        let is_agent = request.uri().path().starts_with("/agent/");
        let answered = match is_agent {
            true => agents::handle(tower, &peer, request).await,
            false => callers::handle(tower, &peer, request).await,
        };
        let mut response = answered.unwrap_or_else(|status| {
            tower.metrics.rejected(status.reason);
            answer::status(&status)
        });
        if is_agent {
            agents::introduce(tower, response.headers_mut());
        }
        response
    }
}

impl Shared {
    fn replicas(&self) -> MutexGuard<'_, Replicas> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Lease is there.
    fn leased(&self) {
        self.leased.get_or_init(Instant::now);
    }

    /// Whether requests can be sent here. A replica that has just started is sent none before it has the agents that the others
    /// have, so that a rolling restart leaves no cluster without a way.
    fn readiness(&self) -> Result<(), Status> {
        let not_yet = |why: &str| Err(Status::unavailable(why));
        if self.draining.is_cancelled() {
            return not_yet("the tower is about to stop");
        }
        if self.ready.get().is_some() {
            return Ok(());
        }
        let Some(leased) = self.leased.get() else {
            return not_yet("the tower cannot yet write its Lease on the host");
        };
        if leased.elapsed() < GATHERING {
            let replicas = self.replicas();
            if !replicas.is_complete() {
                return not_yet("the tower does not yet know what other replicas there are");
            }
            let here = self.sessions.counts();
            let missing = replicas
                .clusters(Instant::now())
                .into_iter()
                .filter(|cluster| !here.contains_key(*cluster))
                .count();
            if missing > 0 {
                return not_yet(&format!("the agents of {missing} clusters are not connected here yet"));
            }
        }
        self.ready.get_or_init(|| ());
        Ok(())
    }
}
