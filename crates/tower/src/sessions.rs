//! The sessions with agents: who has one, which of several serves a request, and who waits for one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hansa_metrics::Agents;
use hansa_tunnel::Host;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// An agent that was heard within this time is there; between two pings it is silent for less.
const HEARD: Duration = Duration::from_secs(6);
/// For how long it is remembered that a cluster had an agent, so that requests wait for it to come back.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Every session of this replica. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: usize,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    members: HashMap<String, Member>,
}

#[derive(Debug, Default)]
struct Member {
    sessions: Vec<Session>,
    /// When the last session ended.
    left: Option<Instant>,
    /// What sessions that have ended had sent and received and nobody was told yet.
    rest: (u64, u64),
    /// Whether there is something to tell of it: it had a session, and its cluster is not gone since.
    is_told: bool,
}

#[derive(Debug)]
struct Session {
    id: u64,
    instance: String,
    key: Arc<[u8]>,
    /// The tunnel, once it stands.
    host: Option<Host>,
    revoked: CancellationToken,
    told: (u64, u64),
}

/// Why an agent gets no session here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// This process of the agent has one already.
    Already,
    /// The cluster has as many as it may.
    Full,
}

/// A session that is being made, and then the session. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    sessions: Sessions,
    cluster: String,
    id: u64,
    revoked: CancellationToken,
}

impl Sessions {
    /// None yet; a cluster may have at most `limit`.
    pub(crate) fn new(limit: usize) -> Self {
        let changed = watch::channel(()).0;
        Self { inner: Arc::new(Inner { limit, state: Mutex::default(), changed }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is made by one statement, so a panic elsewhere leaves nothing half done.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of every session that comes or goes.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }

    /// A place for a session with the process `instance` of the agent that holds `key`. It is taken before the host is asked
    /// about the agent, so that a revocation in between finds it.
    pub(crate) fn reserve(&self, cluster: &str, instance: &str, key: &[u8]) -> Result<Reservation, Taken> {
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        let member = state.members.entry(cluster.to_owned()).or_default();
        for same in member.sessions.iter().filter(|session| session.instance == instance) {
            match same.host.as_ref().map(|host| (host.traffic().silence < HEARD, host.is_open())) {
                None | Some((true, true)) => return Err(Taken::Already),
                // It takes no new requests; those under way are left to end.
                Some((true, false)) => {}
                // The agent gave this connection up, and we have only not noticed yet.
                Some((false, _)) => same.revoked.cancel(),
            }
        }
        let counting = member.sessions.iter().filter(|session| session.counts()).count();
        // Those that only wait for their last requests to end are bounded as well, for agents that would gather them.
        if counting >= self.inner.limit || member.sessions.len() >= self.inner.limit.saturating_mul(4) {
            return Err(Taken::Full);
        }
        let revoked = CancellationToken::new();
        let instance = instance.to_owned();
        let session =
            Session { id, instance, key: key.into(), host: None, revoked: revoked.clone(), told: (0, 0) };
        member.sessions.push(session);
        Ok(Reservation { sessions: self.clone(), cluster: cluster.to_owned(), id, revoked })
    }

    /// The session with the fewest requests under way, of those that take new ones.
    pub(crate) fn pick(&self, cluster: &str) -> Option<Host> {
        let state = self.lock();
        let sessions = state.members.get(cluster)?.sessions.iter();
        let open = sessions.filter(|session| session.counts()).filter_map(|session| session.host.as_ref());
        open.min_by_key(|host| host.streams()).cloned()
    }

    /// Whether the cluster had a session a moment ago, or is about to have one.
    pub(crate) fn expects(&self, cluster: &str, now: Instant) -> bool {
        self.lock().members.get(cluster).is_some_and(|member| {
            let recently = member.left.is_some_and(|left| now.duration_since(left) < REMEMBERED);
            recently || !member.sessions.is_empty()
        })
    }

    /// How many sessions of each cluster take requests.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        let state = self.lock();
        let serves = |session: &&Session| session.host.is_some() && session.counts();
        let count = |member: &Member| member.sessions.iter().filter(serves).count();
        let counts = state.members.iter().map(|(cluster, member)| (cluster.clone(), count(member)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// The clusters that have sessions, or are about to.
    pub(crate) fn clusters(&self) -> Vec<String> {
        let state = self.lock();
        let some = state.members.iter().filter(|(_, member)| !member.sessions.is_empty());
        some.map(|(cluster, _)| cluster.clone()).collect()
    }

    /// The keys of a cluster's agents.
    pub(crate) fn keys(&self, cluster: &str) -> BTreeSet<Arc<[u8]>> {
        let state = self.lock();
        let sessions = state.members.get(cluster).into_iter().flat_map(|member| &member.sessions);
        sessions.map(|session| session.key.clone()).collect()
    }

    /// Ends every session of the agent that holds `key`; gives how many there were.
    pub(crate) fn revoke(&self, cluster: &str, key: &[u8]) -> usize {
        let state = self.lock();
        let sessions = state.members.get(cluster).into_iter().flat_map(|member| &member.sessions);
        let of_key = sessions.filter(|session| *session.key == *key && !session.revoked.is_cancelled());
        of_key.inspect(|session| session.revoked.cancel()).count()
    }

    /// Nothing more is told of a cluster that is gone.
    pub(crate) fn forget(&self, cluster: &str) {
        if let Some(member) = self.lock().members.get_mut(cluster) {
            member.is_told = false;
        }
    }

    fn hosts(&self) -> Vec<Host> {
        let state = self.lock();
        let sessions = state.members.values().flat_map(|member| &member.sessions);
        sessions.filter_map(|session| session.host.clone()).collect()
    }

    /// Has every agent connect elsewhere; what is under way goes on.
    pub(crate) fn drain(&self) {
        self.hosts().iter().for_each(Host::drain);
    }

    /// Tells every agent how many replicas of the tower there are.
    pub(crate) fn say_replicas(&self, count: usize) {
        self.hosts().iter().for_each(|host| host.say_replicas(count));
    }

    /// Ends every session.
    pub(crate) fn close(&self) {
        self.lock().members.values().flat_map(|m| &m.sessions).for_each(|session| session.revoked.cancel());
    }

    /// Resolves when there is no session left.
    pub(crate) async fn ended(&self) {
        let mut changes = self.changes();
        // The sender lives as long as we do, so this ends with the condition only.
        drop(changes.wait_for(|()| self.clusters().is_empty()).await);
    }

    /// How the agents of each cluster are, with the bytes since this was last asked.
    pub(crate) fn sample(&self, now: Instant) -> Vec<(String, Agents)> {
        let mut state = self.lock();
        let told = state.members.iter_mut().filter(|(_, member)| member.is_told);
        let samples = told.map(|(cluster, member)| (cluster.clone(), member.sample())).collect();
        state.members.retain(|_, member| {
            let is_remembered = member.left.is_some_and(|left| now.duration_since(left) < REMEMBERED);
            !member.sessions.is_empty() || is_remembered
        });
        samples
    }
}

impl Member {
    fn sample(&mut self) -> Agents {
        let (sent, received) = std::mem::take(&mut self.rest);
        let mut agents = Agents { sent, received, ..Agents::default() };
        for session in &mut self.sessions {
            let (sent, received) = session.news();
            agents.sent += sent;
            agents.received += received;
            if let Some(host) = &session.host {
                agents.connected += 1;
                agents.streams += host.streams();
                agents.silence = agents.silence.max(host.traffic().silence);
            }
        }
        agents
    }
}

impl Session {
    /// Whether requests can be sent on it, now or once it stands.
    fn counts(&self) -> bool {
        !self.revoked.is_cancelled() && self.host.as_ref().is_none_or(Host::is_open)
    }

    /// The bytes sent and received since this was last asked.
    fn news(&mut self) -> (u64, u64) {
        let Some(host) = &self.host else { return (0, 0) };
        let traffic = host.traffic();
        let before = std::mem::replace(&mut self.told, (traffic.sent, traffic.received));
        (traffic.sent.saturating_sub(before.0), traffic.received.saturating_sub(before.1))
    }
}

impl Reservation {
    /// The tunnel stands.
    pub(crate) fn fill(&self, host: Host) {
        let mut state = self.sessions.lock();
        if let Some(member) = state.members.get_mut(&self.cluster)
            && let Some(session) = member.sessions.iter_mut().find(|session| session.id == self.id)
        {
            session.host = Some(host);
            member.is_told = true;
        }
        drop(state);
        self.sessions.inner.changed.send_replace(());
    }

    /// Resolves when the agent is let in no longer, or another session takes the place of this one.
    pub(crate) async fn revoked(&self) {
        self.revoked.cancelled().await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.sessions.lock();
        if let Some(member) = state.members.get_mut(&self.cluster)
            && let Some(at) = member.sessions.iter().position(|session| session.id == self.id)
        {
            let mut session = member.sessions.swap_remove(at);
            let (sent, received) = session.news();
            member.rest = (member.rest.0 + sent, member.rest.1 + received);
            if session.host.is_some() {
                member.left = Some(Instant::now());
            } else if member.sessions.is_empty() && member.left.is_none() {
                state.members.remove(&self.cluster);
            }
        }
        drop(state);
        self.sessions.inner.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use hansa_tunnel::Settings;
    use tokio::io::DuplexStream;

    use super::*;

    fn tunnel() -> (Host, DuplexStream) {
        let (near, far) = tokio::io::duplex(4096);
        let (host, driver) = Host::start(near, Settings::default());
        tokio::spawn(driver);
        (host, far)
    }

    #[tokio::test]
    async fn a_process_of_an_agent_has_one_session_and_a_cluster_only_so_many() {
        let sessions = Sessions::new(2);
        let first = sessions.reserve("m", "a", b"k").unwrap();
        assert_eq!(sessions.reserve("m", "a", b"k").unwrap_err(), Taken::Already);
        let (host, _far) = tunnel();
        first.fill(host);
        assert_eq!(sessions.reserve("m", "a", b"k").unwrap_err(), Taken::Already);
        let second = sessions.reserve("m", "b", b"k").unwrap();
        assert_eq!(sessions.reserve("m", "c", b"k").unwrap_err(), Taken::Full);
        assert!(sessions.reserve("n", "a", b"k").is_ok());
        drop(second);
        assert!(sessions.reserve("m", "c", b"k").is_ok());
        assert_eq!(sessions.counts(), BTreeMap::from([("m".to_owned(), 1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_comes_back_takes_the_place_of_its_silent_connection() {
        let sessions = Sessions::new(1);
        let first = sessions.reserve("m", "a", b"k").unwrap();
        let (near, _far) = tokio::io::duplex(4096);
        let (host, _driver) = Host::start(near, Settings::default());
        first.fill(host);
        tokio::time::advance(HEARD).await;
        let second = sessions.reserve("m", "a", b"k").unwrap();
        first.revoked().await;
        drop((first, second));
        assert!(sessions.clusters().is_empty());
    }

    #[tokio::test]
    async fn a_closed_connection_is_not_chosen_and_its_place_is_free() {
        let sessions = Sessions::new(2);
        let (a, b) = (sessions.reserve("m", "a", b"k").unwrap(), sessions.reserve("m", "b", b"k").unwrap());
        assert!(sessions.pick("m").is_none(), "a session that does not stand yet serves nobody");
        let ((one, _far1), (two, _far2)) = (tunnel(), tunnel());
        a.fill(one.clone());
        b.fill(two.clone());
        one.close();
        one.closed().await;
        for _ in 0..4 {
            assert!(sessions.pick("m").is_some_and(|host| host.is_open()));
        }
        two.drain();
        assert!(sessions.pick("m").is_none() && sessions.counts().is_empty());
        let again = sessions.reserve("m", "b", b"k").unwrap();
        let revoked = tokio::time::timeout(Duration::ZERO, b.revoked()).await;
        assert!(revoked.is_err(), "what is under way on the former connection goes on");
        let (host, _far3) = tunnel();
        again.fill(host);
        assert_eq!(sessions.counts()["m"], 1);
    }

    #[tokio::test]
    async fn a_revocation_finds_what_is_being_made_and_only_that_key() {
        let sessions = Sessions::new(9);
        let making = sessions.reserve("m", "a", b"old").unwrap();
        let other = sessions.reserve("m", "b", b"new").unwrap();
        let (host, _far) = tunnel();
        other.fill(host);
        assert_eq!(sessions.keys("m").len(), 2);
        assert_eq!((sessions.revoke("m", b"old"), sessions.revoke("m", b"old")), (1, 0));
        making.revoked().await;
        let (host, _far) = tunnel();
        making.fill(host);
        drop(other);
        assert!(sessions.pick("m").is_none(), "what was revoked before it stood never serves");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_is_expected_back_for_a_while() {
        let sessions = Sessions::new(9);
        let now = Instant::now();
        assert!(!sessions.expects("m", now));
        let never = sessions.reserve("m", "a", b"k").unwrap();
        assert!(sessions.expects("m", now));
        drop(never);
        assert!(!sessions.expects("m", now), "who was not let in is not expected");
        let session = sessions.reserve("m", "a", b"k").unwrap();
        let (near, _far) = tokio::io::duplex(64);
        session.fill(Host::start(near, Settings::default()).0);
        drop(session);
        assert!(sessions.expects("m", Instant::now()));
        assert!(!sessions.expects("m", Instant::now() + REMEMBERED));
        sessions.sample(Instant::now() + REMEMBERED);
        assert!(sessions.lock().members.is_empty());
    }
}
