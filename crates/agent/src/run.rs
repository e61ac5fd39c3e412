//! The loop: dial, serve, and dial again, until told to stop.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hansa_tunnel::Served;
use http::HeaderValue;
use rand::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::Clock;
use crate::dial::{Connection, Dialler};
use crate::error::Error;
use crate::join::Sources;
use crate::keeper::Keeper;
use crate::member::Member;
use crate::observe::{self, Observer, Record};
use crate::proxy::Proxies;
use crate::replicas::{Keep, Replicas, Session};
use crate::store::Store;
use crate::upstream::Upstream;

/// How often it is looked whether a tower that is about to stop has said so.
const LOOK: Duration = Duration::from_secs(1);
/// The same trouble is logged no more often than this.
const REPEAT: Duration = Duration::from_secs(60);

/// What an agent is told.
#[derive(Clone)]
pub struct Settings {
    /// Where it finds what to join.
    pub sources: Sources,
    /// The proxies on the way to the tower.
    pub proxies: Proxies,
    /// The namespace on the member in which its credential is kept.
    pub namespace: String,
    /// The Secret in it.
    pub secret: String,
    /// The bounds of each connection.
    pub tunnel: hansa_tunnel::Settings,
    /// Requests and upgrades that may be under way at once.
    pub requests: usize,
    /// How long requests under way may take to end once the agent is told to stop.
    pub drain: Duration,
    /// The clock on the wall.
    pub clock: Clock,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("sources", &self.sources)
            .field("proxies", &self.proxies)
            .finish_non_exhaustive()
    }
}

/// An agent that is ready to run.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    member: Arc<Member>,
    record: Record,
    observer: Observer,
}

type Dialling = Pin<Box<dyn Future<Output = (Keeper, Result<Connection, Error>)> + Send>>;

/// Connections that are served.
#[derive(Default)]
struct Tunnels {
    drivers: JoinSet<(Session, Result<(), hansa_tunnel::Error>)>,
    /// By session; those that take no new requests any more as well.
    served: BTreeMap<Session, Served>,
}

impl Agent {
    /// An agent of the cluster whose API server `member` is.
    pub fn new(settings: Settings, member: Member) -> Self {
        let (record, observer) = observe::channel();
        Self { settings, member: Arc::new(member), record, observer }
    }

    /// A way to see how it stands.
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// Connects and serves until `stop`, then lets what is under way end. Nothing that goes wrong ends it.
    pub async fn run(self, mut rng: impl Rng + Send, stop: CancellationToken) {
        // Says which process this is, so that a replica of the tower knows one that it has.
        let instance = format!("{:032x}", rng.random::<u128>());
        let instance = HeaderValue::try_from(instance).unwrap_or_else(|_| HeaderValue::from_static("agent"));
        let store = Store::new(&self.settings.namespace, &self.settings.secret);
        let mut keeper = Some(Keeper::new(store, self.settings.clock.clone(), rng.random()));
        let upstream = Upstream::new(self.member.clone(), self.settings.requests);
        let mut replicas = Replicas::new(Instant::now());
        let mut tunnels = Tunnels::default();
        let mut dialling: Option<Dialling> = None;
        let mut complained: Option<Instant> = None;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let keep_fresh = self.member.keep_fresh();
        tokio::pin!(keep_fresh);
        loop {
            self.record.stands(replicas.len(), replicas.wanted());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = tunnels.drivers.join_next(), if !tunnels.drivers.is_empty() => {
                    // A driver that panicked says no number; its connection is closed, which is seen below.
                    if let Ok((session, outcome)) = ended {
                        self.ended(session, outcome, &mut tunnels);
                        replicas.ended(session, Instant::now(), &mut rng);
                    }
                }
                (back, outcome) = next(&mut dialling) => {
                    dialling = None;
                    keeper = Some(back);
                    match outcome {
                        Ok(connection) => {
                            complained = None;
                            self.serve(connection, &mut replicas, &mut tunnels, &upstream, &mut rng);
                        }
                        Err(error) => {
                            self.failed(&error, &mut replicas, &mut complained, &mut rng);
                            if let (Some(keeper), Error::Denied { .. } | Error::ClientCertificate { .. }) = (&mut keeper, &error) {
                                keeper.doubt();
                            }
                        }
                    }
                }
                () = sleep_until(replicas.dial_at()), if keeper.is_some() => {
                    dialling = keeper.take().map(|keeper| self.dial(keeper, instance.clone()));
                }
                _ = look.tick(), if !tunnels.served.is_empty() => {
                    // A tower that is about to stop is replaced before its last stream has ended.
                    let gone: Vec<Session> =
                        tunnels.served.iter().filter(|(_, served)| !served.is_open()).map(|(session, _)| *session).collect();
                    for session in gone {
                        replicas.ended(session, Instant::now(), &mut rng);
                    }
                    // Of replicas that have not heard of each other yet, the one that knows more is right.
                    let open = tunnels.served.values().filter(|served| served.is_open());
                    if let Some(count) = open.filter_map(Served::replicas).max() {
                        replicas.told(count, Instant::now(), &mut rng);
                    }
                }
                () = &mut keep_fresh => {}
            }
        }
        drop(dialling);
        self.drain(tunnels).await;
        self.record.stands(0, replicas.wanted());
    }

    /// One try to connect, with everything that it needs, so that it runs beside the loop.
    fn dial(&self, mut keeper: Keeper, instance: HeaderValue) -> Dialling {
        let (settings, member) = (self.settings.clone(), self.member.clone());
        Box::pin(async move {
            let outcome = async {
                let join = settings.sources.read()?;
                let proxy = settings.proxies.on_the_way_to(&join.tower);
                let turn = keeper.next_turn();
                let kept = keeper.ready(&member.transport(), &join, proxy).await?;
                let dialler = Dialler { join: &join, kept: &kept, proxy, clock: &settings.clock, turn };
                dialler.connect(&instance).await
            };
            let outcome = outcome.await;
            (keeper, outcome)
        })
    }

    fn serve(
        &self,
        connection: Connection,
        replicas: &mut Replicas,
        tunnels: &mut Tunnels,
        upstream: &Upstream,
        rng: &mut impl Rng,
    ) {
        let Connection { io, replica, replicas: wanted } = connection;
        let Keep::As(session) = replicas.connected(replica.as_deref(), wanted, Instant::now(), rng) else {
            // Letting go of it closes it.
            return;
        };
        let (served, driver) = Served::start(io, self.settings.tunnel.clone(), upstream.clone());
        tracing::info!(
            replica = replica.as_deref().unwrap_or("unnamed"),
            connections = replicas.len(),
            replicas = replicas.wanted(),
            "connected to the tower"
        );
        self.record.connected(session, &served);
        tunnels.served.insert(session, served);
        tunnels.drivers.spawn(async move { (session, driver.await) });
    }

    fn ended(&self, session: Session, outcome: Result<(), hansa_tunnel::Error>, tunnels: &mut Tunnels) {
        tunnels.served.remove(&session);
        self.record.ended(session);
        match outcome {
            Ok(()) => tracing::info!("the tower ended the connection"),
            Err(error) => tracing::warn!(%error, "the connection to the tower ended"),
        }
    }

    fn failed(
        &self,
        error: &Error,
        replicas: &mut Replicas,
        complained: &mut Option<Instant>,
        rng: &mut impl Rng,
    ) {
        let now = Instant::now();
        if let Error::Duplicate { replica, replicas: wanted, .. } = error {
            replicas.duplicate(replica.as_deref(), *wanted, now, rng);
            return;
        }
        replicas.failed(error.retry_after(), now, rng);
        let again = replicas.dial_at().saturating_duration_since(now);
        if self.record.is_news(error)
            || complained.is_none_or(|at| now.saturating_duration_since(at) >= REPEAT)
        {
            *complained = Some(now);
            tracing::warn!(%error, ?again, "not connected");
        } else {
            tracing::debug!(%error, ?again, "not connected");
        }
        self.record.failed(error);
    }

    /// Tells the towers to send nothing new, and waits until what is under way has ended, but not for ever.
    async fn drain(&self, mut tunnels: Tunnels) {
        for served in tunnels.served.values() {
            served.drain();
        }
        let all = async {
            while let Some(ended) = tunnels.drivers.join_next().await {
                if let Ok((session, _)) = ended {
                    tunnels.served.remove(&session);
                    self.record.ended(session);
                }
            }
        };
        if timeout(self.settings.drain, all).await.is_err() {
            let streams: usize = tunnels.served.values().map(Served::streams).sum();
            tracing::warn!(streams, "what is still under way is cut off");
        }
    }
}

async fn next(dialling: &mut Option<Dialling>) -> (Keeper, Result<Connection, Error>) {
    match dialling {
        Some(dialling) => dialling.await,
        None => pending().await,
    }
}
