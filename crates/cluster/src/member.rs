//! One member: its connection, its health, and the task that keeps both.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hansa_api::kubefed::{KubeFedCluster, KubeFedClusterCondition, TlsValidation};
use hansa_api::names;
use hansa_api::settings::Health as Thresholds;
use hansa_api::time::Time;
use hansa_metrics::Metrics;
use hansa_transport::{Body, BoxError, Credential, Endpoint, Proxy, Target, Tls, Transport, explain};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use serde_json::json;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Connect;
use crate::events::{self, Severity};
use crate::health::{self, Health, Outcome, State};
use crate::places::{self, Places};
use crate::tokens::Token;

/// A registered member, as it is at one moment.
#[derive(Clone)]
pub struct Member {
    /// The name of its KubeFedCluster.
    pub name: String,
    /// The labels of its KubeFedCluster, which placements select by.
    pub labels: BTreeMap<String, String>,
    /// Whether it is held to be well.
    pub ready: bool,
    /// Why it is not ready, as far as that is known.
    pub problem: Option<String>,
    /// A client for it; `None` where none can be made.
    pub client: Option<kube::Client>,
    /// The transport below the client.
    pub transport: Option<Transport>,
    /// The UID of its `kube-system` namespace, as far as it is known.
    pub uid: String,
    /// Its Kubernetes version, as far as it is known.
    pub version: String,
    /// Changes whenever the client was made anew.
    pub connection: u64,
    /// What is counted of it.
    pub counted: hansa_metrics::Member,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("name", &self.name)
            .field("ready", &self.ready)
            .field("uid", &self.uid)
            .field("version", &self.version)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

/// What the host says about a member.
#[derive(Clone)]
pub(crate) struct Registration {
    pub(crate) cluster: Arc<KubeFedCluster>,
    /// The token in its Secret.
    pub(crate) token: Token,
}

impl Registration {
    /// Whether two registrations come to the same; what we write down ourselves does not count.
    pub(crate) fn means(&self, other: &Self) -> bool {
        let (a, b) = (&self.cluster, &other.cluster);
        self.token == other.token
            && a.spec == b.spec
            && a.metadata.labels == b.metadata.labels
            && a.metadata.annotations == b.metadata.annotations
            && a.metadata.uid == b.metadata.uid
    }
}

/// Why no client can be made for a member.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Malformed {
    #[error("spec.apiEndpoint: {0}")]
    Endpoint(#[from] hansa_transport::EndpointError),
    #[error("spec.proxyURL: {0}")]
    Proxy(#[from] hansa_transport::ProxyError),
    #[error("Secret {0:?} does not exist or has no key \"token\"; make it, or join the cluster again")]
    NoToken(String),
    #[error("Secret {0:?} cannot be read: {1}")]
    Unreadable(String, String),
    #[error("{0}")]
    Tls(#[from] hansa_transport::TlsError),
}

/// How a registered member is reached.
pub(crate) fn target(registration: &Registration) -> Result<Target, Malformed> {
    let spec = &registration.cluster.spec;
    let secret = || spec.secret_ref.name.clone();
    let token = match &registration.token {
        Token::Given(token) if !token.trim().is_empty() => token,
        Token::Given(_) | Token::Absent => return Err(Malformed::NoToken(secret())),
        Token::Unreadable(why) => return Err(Malformed::Unreadable(secret(), why.clone())),
    };
    let disabled = |check| spec.disabled_tls_validations.contains(&check);
    let annotations = registration.cluster.metadata.annotations.as_ref();
    Ok(Target {
        endpoint: Endpoint::parse(&spec.api_endpoint)?,
        tls: Tls {
            ca: spec.ca_bundle.as_ref().map(|ca| ca.0.clone()).filter(|ca| !ca.is_empty()),
            insecure: disabled(TlsValidation::All),
            skip_name: disabled(TlsValidation::SubjectName),
            skip_validity: disabled(TlsValidation::ValidityPeriod),
            server_name: annotations.and_then(|all| all.get(names::ANNOTATION_TLS_SERVER_NAME)).cloned(),
        },
        proxy: if spec.proxy_url.is_empty() { None } else { Some(Proxy::parse(&spec.proxy_url)?) },
        credential: Credential::token(token.trim()),
    })
}

/// How a registered member is reached with `token`, for a program that asks it once; the error is for people.
pub fn target_of(cluster: &KubeFedCluster, token: Option<String>) -> Result<Target, String> {
    let token = token.map_or(Token::Absent, Token::Given);
    target(&Registration { cluster: Arc::new(cluster.clone()), token }).map_err(|error| error.to_string())
}

/// What a member's task needs besides the registration.
pub(crate) struct Context {
    pub(crate) host: kube::Client,
    pub(crate) namespace: String,
    pub(crate) thresholds: Thresholds,
    pub(crate) connect: Connect,
    /// Whether this process writes down what it finds.
    pub(crate) leads: watch::Receiver<bool>,
    pub(crate) metrics: Metrics,
    pub(crate) publish: Box<dyn Fn(Member) + Send + Sync>,
    /// Told when the first probe has ended, whatever came of it.
    pub(crate) probed: Option<oneshot::Sender<()>>,
    /// Numbers connections over all members.
    pub(crate) next_connection: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// A written status says when it was looked at last; more often than this it is not written for that alone.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// The version of a member that is well is asked for this often.
const VERSION_PERIOD: Duration = Duration::from_secs(300);
/// Where the nodes of a member are changes hardly ever, and there may be thousands of them.
const PLACES_PERIOD: Duration = Duration::from_secs(3600);
/// Nodes that cannot be read are left alone for so long.
const PLACES_RETRY: Duration = Duration::from_secs(300);

struct Task {
    context: Context,
    registration: Registration,
    target: Option<Target>,
    member: Member,
    health: Health,
    /// The conditions last read or written.
    written: Vec<KubeFedClusterCondition>,
    written_version: String,
    written_at: Option<Instant>,
    version_at: Option<Instant>,
    /// Where its nodes are, as far as that is known, what of it is written, and when they are looked at again.
    places: Places,
    written_places: Places,
    places_due: Instant,
    /// Whether the identity was read since the member was last lost: whoever comes back is asked who it is.
    identified: bool,
    malformed: Option<String>,
}

/// Publishes a member at once, and keeps it until `stop`: connects as the registration says, probes, publishes what changes, writes the
/// status.
pub(crate) fn start(
    context: Context,
    mut registrations: watch::Receiver<Registration>,
    stop: CancellationToken,
) {
    let registration = registrations.borrow_and_update().clone();
    let status = registration.cluster.status.clone().unwrap_or_default();
    let version = status.kubernetes_version.clone().unwrap_or_default();
    let places = Places { zones: status.zones.clone(), region: status.region.clone() };
    let name = registration.cluster.metadata.name.clone().unwrap_or_default();
    let mut task = Task {
        member: Member {
            name: name.clone(),
            labels: BTreeMap::new(),
            ready: false,
            problem: None,
            client: None,
            transport: None,
            uid: String::new(),
            version: version.clone(),
            connection: 0,
            counted: context.metrics.member(&name),
        },
        health: Health::resume(&status.conditions),
        written: status.conditions,
        written_version: version,
        written_at: None,
        version_at: None,
        places: places.clone(),
        written_places: places,
        places_due: Instant::now(),
        identified: false,
        malformed: None,
        target: None,
        context,
        registration,
    };
    // A restart writes nothing that is already right; the next heartbeat is due when it would have been.
    task.written_at = (!task.written.is_empty()).then(Instant::now);
    task.connect();
    task.publish();
    tokio::spawn(async move { stop.run_until_cancelled(task.run(registrations)).await });
}

/// Up to a tenth shorter, by name, so that a hundred members are not probed in the same instant.
fn jittered(period: Duration, name: &str) -> Duration {
    let sum: u32 = name.bytes().fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    period - period / 1000 * (sum % 100)
}

impl Task {
    async fn run(mut self, mut registrations: watch::Receiver<Registration>) {
        loop {
            let pause = jittered(self.context.thresholds.period, &self.member.name);
            let turn = async {
                self.probe().await;
                self.context.probed.take().map(|probed| probed.send(()));
                tokio::time::sleep(pause).await;
            };
            // A new registration is acted on at once, whatever the probe of the former one is waiting for.
            tokio::select! {
                () = turn => continue,
                changed = registrations.changed() => if changed.is_err() { return },
            }
            self.registration = registrations.borrow_and_update().clone();
            self.connect();
            self.publish();
        }
    }

    /// Makes the client what the registration says. A new token rotates in place; anything else makes a new connection.
    fn connect(&mut self) {
        let labels = self.registration.cluster.metadata.labels.clone().unwrap_or_default();
        self.member.labels = labels;
        match self.make() {
            Ok(()) => self.malformed = None,
            Err(error) => {
                self.target = None;
                self.member.client = None;
                self.member.transport = None;
                self.malformed = Some(error.to_string());
            }
        }
        self.judge();
    }

    /// The identity that was recorded when the cluster joined, if it did not only get registered.
    fn expected_uid(&self) -> Option<&str> {
        let annotations = self.registration.cluster.metadata.annotations.as_ref()?;
        annotations.get(names::ANNOTATION_UID).map(String::as_str).filter(|uid| !uid.is_empty())
    }

    /// A member whose identity is on record is ready only once it has shown it: another cluster may answer under its address.
    fn judge(&mut self) {
        let shown = self.expected_uid().is_none_or(|expected| expected == self.member.uid);
        self.member.ready = self.health.is_ready() && self.malformed.is_none() && shown;
        self.member.problem = match (self.health.state(), &self.malformed) {
            (_, Some(reason)) => Some(reason.clone()),
            (State::Ready, None) if !shown => Some("its identity has not been confirmed yet".to_owned()),
            (State::Ready, None) => None,
            (State::Unknown, None) => Some("it has not been probed yet".to_owned()),
            (State::NotReady, None) => Some("/healthz responded without ok".to_owned()),
            (State::Offline(reason) | State::Malformed(reason), None) => Some(reason.clone()),
        };
    }

    fn make(&mut self) -> Result<(), Malformed> {
        let target = target(&self.registration)?;
        if self.target.as_ref() == Some(&target) {
            return Ok(());
        }
        if let (Some(former), Some(transport)) = (&self.target, &self.member.transport) {
            let same = Target { credential: target.credential.clone(), ..former.clone() } == target;
            if same {
                transport.rotate(target.credential.clone())?;
                self.target = Some(target);
                return Ok(());
            }
        }
        let began = Instant::now();
        let transport = (self.context.connect)(target.clone())?;
        self.member.counted.connected(began.elapsed());
        self.member.client = Some(transport.client("default"));
        self.member.transport = Some(transport);
        self.member.connection = (self.context.next_connection)();
        // Another address may be another cluster.
        self.member.uid = String::new();
        self.identified = false;
        self.version_at = None;
        self.places_due = Instant::now();
        self.target = Some(target);
        Ok(())
    }

    fn publish(&self) {
        (self.context.publish)(self.member.clone());
    }

    async fn probe(&mut self) {
        let shown = |member: &Member| {
            (member.ready, member.problem.clone(), member.uid.clone(), member.version.clone())
        };
        let before = shown(&self.member);
        let former = self.health.state().clone();
        let way = self.member.transport.clone().zip(self.member.client.clone());
        let outcome = match way.filter(|_| self.malformed.is_none()) {
            Some((transport, client)) => {
                let began = Instant::now();
                let outcome = probe(transport.clone(), self.context.thresholds.timeout).await;
                self.member.counted.probed(began.elapsed());
                self.identified &= !matches!(outcome, Outcome::Unreachable(_));
                if outcome == Outcome::Ok {
                    self.identify(client, transport).await;
                }
                match self.expected_uid() {
                    Some(expected) if !self.member.uid.is_empty() && self.member.uid != expected => {
                        Outcome::Malformed(format!(
                            "another cluster answers (identity {}, expected {expected}); give a kubeconfig of the cluster that joined, or remove it \
                             (hansa unjoin {}) and join the other anew",
                            self.member.uid, self.member.name
                        ))
                    }
                    _ => outcome,
                }
            }
            None => Outcome::Malformed(self.malformed.clone().unwrap_or_default()),
        };
        self.health.observe(outcome, &self.context.thresholds);
        self.judge();
        if shown(&self.member) != before {
            self.publish();
        }
        self.member.counted.is(match self.health.state() {
            _ if self.member.ready => hansa_metrics::State::Ready,
            State::Offline(_) => hansa_metrics::State::Offline,
            _ => hansa_metrics::State::NotReady,
        });
        self.locate().await;
        self.write(&former).await;
    }

    /// Finds out where the nodes of a member that is well are (`spec/kubefed.md §6 (4)`), for the process that writes it down.
    async fn locate(&mut self) {
        let Some(client) = self.member.client.clone().filter(|_| self.member.ready) else { return };
        if !*self.context.leads.borrow() || Instant::now() < self.places_due {
            return;
        }
        let found = tokio::time::timeout(self.context.thresholds.timeout, places::read(client).boxed()).await;
        let pause = match found {
            Ok(Ok(places)) => {
                self.places = places;
                PLACES_PERIOD
            }
            // A member need not let its nodes be listed; what was known stays.
            _ => PLACES_RETRY,
        };
        self.places_due = Instant::now() + jittered(pause, &self.member.name);
    }

    /// Finds out who answers and which version it is. What cannot be found out stays as it was (`spec/kubefed.md §6`, item 2).
    async fn identify(&mut self, client: kube::Client, transport: Transport) {
        let timeout = self.context.thresholds.timeout;
        if !self.identified
            && let Ok(Ok(uid)) = tokio::time::timeout(timeout, uid(client)).await
        {
            self.member.uid = uid;
            self.identified = true;
        }
        if self.version_at.is_none_or(|at| at.elapsed() >= VERSION_PERIOD)
            && let Ok(Some(version)) = tokio::time::timeout(timeout, version(transport)).await
        {
            self.member.version = version;
            self.version_at = Some(Instant::now());
        }
    }

    async fn write(&mut self, former: &State) {
        if !*self.context.leads.borrow() {
            return;
        }
        let now = Time(k8s_openapi::jiff::Timestamp::now());
        let conditions = health::conditions(self.health.state(), &self.written, &now);
        let fresh = self.written_at.is_some_and(|at| at.elapsed() < HEARTBEAT);
        let same = health::say_the_same(&conditions, &self.written)
            && self.member.version == self.written_version
            && self.places == self.written_places;
        if conditions.is_empty() || (same && fresh) {
            return;
        }
        let mut status = json!({ "conditions": conditions });
        if !self.member.version.is_empty() {
            status["kubernetesVersion"] = json!(self.member.version);
        }
        if self.places != Places::default() {
            status["zones"] = json!(self.places.zones);
            status["region"] = json!(self.places.region);
        }
        let api: Api<KubeFedCluster> = Api::namespaced(self.context.host.clone(), &self.context.namespace);
        let patch = Patch::Merge(json!({ "status": status }));
        match api.patch_status(&self.member.name, &PatchParams::default(), &patch).boxed().await {
            Ok(_) => {
                self.written = conditions;
                self.written_version = self.member.version.clone();
                self.written_places = self.places.clone();
                self.written_at = Some(Instant::now());
            }
            Err(error) => {
                tracing::warn!(cluster = %self.member.name, error = %explain(&error), "the status of the member could not be written");
                return;
            }
        }
        if std::mem::discriminant(former) != std::mem::discriminant(self.health.state()) {
            let note = match self.health.state() {
                State::Offline(reason) => Some(("RetrievingClusterHealthFailed", reason)),
                State::Malformed(reason) => Some(("MalformedClusterConfig", reason)),
                _ => None,
            };
            if let Some((reason, message)) = note {
                let about = self.registration.cluster.as_ref();
                events::emit(&self.context.host, about, Severity::Warning, reason, message);
            }
        }
    }
}

/// `GET /healthz`.
async fn probe(transport: Transport, timeout: Duration) -> Outcome {
    let unreachable = |reason: String| Outcome::Unreachable(reason);
    let Ok(request) = http::Request::get("/healthz").body(hansa_transport::empty()) else {
        return unreachable("the probe cannot be made".to_owned());
    };
    let ask = read(&transport, request, 4096);
    match tokio::time::timeout(timeout, ask).await {
        Ok(Ok((200..=299, body))) if body.trim_ascii().eq_ignore_ascii_case(b"ok") => Outcome::Ok,
        Ok(Ok((200..=299, _))) => Outcome::NotOk,
        Ok(Ok((401, _))) => unreachable(
            "401 Unauthorized: the token in its Secret is not accepted; it may have been revoked, join the cluster again".to_owned(),
        ),
        Ok(Ok((403, _))) => {
            unreachable("403 Forbidden: the token in its Secret may not read /healthz; join the cluster again".to_owned())
        }
        Ok(Ok((code, _))) => unreachable(format!("/healthz answered {code}")),
        Ok(Err(error)) => unreachable(error.to_string()),
        Err(_) => unreachable(format!("no answer to /healthz within {timeout:?}")),
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<(u16, bytes::Bytes), BoxError>> + Send>>;

/// An answer and its body, which must not be longer than `limit`.
fn read(transport: &Transport, request: http::Request<Body>, limit: usize) -> Answer {
    let response = transport.request(request);
    Box::pin(async move {
        let response = response.await?;
        let code = response.status().as_u16();
        Ok((code, hansa_transport::collect(response.into_body(), limit).await?))
    })
}

/// The identity of a cluster: the UID of its `kube-system` namespace (`spec/kubesphere-multicluster.md §1.2`).
pub(crate) async fn uid(client: kube::Client) -> Result<String, kube::Error> {
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    Ok(namespaces.get("kube-system").await?.metadata.uid.unwrap_or_default())
}

/// The version of an API server, as `v1.34.1`.
pub(crate) async fn version(transport: Transport) -> Option<String> {
    let request = http::Request::get("/version").body(hansa_transport::empty()).ok()?;
    let (_, body) = read(&transport, request, 64 * 1024).await.ok().filter(|(code, _)| *code == 200)?;
    let version: serde_json::Value = serde_json::from_slice(&body).ok()?;
    version["gitVersion"].as_str().filter(|version| version.len() <= 128).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(spec: serde_json::Value, token: Option<&str>) -> Registration {
        let cluster = json!({"metadata": {"name": "m"}, "spec": spec});
        Registration {
            cluster: Arc::new(serde_json::from_value(cluster).unwrap()),
            token: token.map_or(Token::Absent, |token| Token::Given(token.to_owned())),
        }
    }

    #[test]
    fn a_registration_says_how_a_member_is_reached() {
        let given = registration(
            json!({"apiEndpoint": "10.0.0.1:6443", "caBundle": "YQ==", "secretRef": {"name": "s"},
                "disabledTLSValidations": ["SubjectName"], "proxyURL": "socks5://p"}),
            Some("t\n"),
        );
        let target = target(&given).unwrap();
        assert_eq!(target.endpoint.to_string(), "https://10.0.0.1:6443");
        assert!(target.tls.skip_name && !target.tls.insecure && !target.tls.skip_validity);
        assert_eq!(target.credential, Credential::token("t"));
        assert!(target.proxy.is_some());
    }

    #[test]
    fn a_malformed_registration_says_what_to_mend() {
        let spec = |endpoint: &str, proxy: &str| json!({"apiEndpoint": endpoint, "secretRef": {"name": "m-secret"}, "proxyURL": proxy});
        for (given, expected) in [
            (registration(spec("https://a", ""), None), "Secret \"m-secret\" does not exist"),
            (registration(spec("https://a", ""), Some("  ")), "Secret \"m-secret\" does not exist"),
            (registration(spec("ftp://a", ""), Some("t")), "spec.apiEndpoint"),
            (registration(spec("https://a", "a"), Some("t")), "spec.proxyURL"),
        ] {
            let error = target(&given).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// `spec/kubefed.md §2.2`: what each answer to `/healthz` means.
    #[tokio::test]
    async fn an_answer_is_read_as_kubefed_reads_it() {
        for (code, body, expected) in [
            (200, "ok", Some(Outcome::Ok)),
            (200, "OK\n", Some(Outcome::Ok)),
            (200, "not quite", Some(Outcome::NotOk)),
            (200, "", Some(Outcome::NotOk)),
            (401, "ok", None),
            (500, "ok", None),
        ] {
            let answer = tower::service_fn(move |_: http::Request<Body>| async move {
                let body = http_body_util::Full::new(bytes::Bytes::from_static(body.as_bytes()));
                let mut response = http::Response::new(body);
                *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
                Ok::<_, std::convert::Infallible>(response)
            });
            let outcome = probe(Transport::in_process(answer), Duration::from_secs(3)).await;
            match expected {
                Some(expected) => assert_eq!(outcome, expected, "{code} {body}"),
                None => {
                    assert!(matches!(outcome, Outcome::Unreachable(why) if why.contains(&code.to_string())))
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_takes_ten_seconds_to_answer_is_as_good_as_none() {
        let slow = tower::service_fn(|_: http::Request<Body>| async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            let ok = http_body_util::Full::new(bytes::Bytes::from_static(b"ok"));
            Ok::<_, std::convert::Infallible>(http::Response::new(ok))
        });
        let began = Instant::now();
        let outcome = probe(Transport::in_process(slow), Duration::from_secs(3)).await;
        assert_eq!(outcome, Outcome::Unreachable("no answer to /healthz within 3s".to_owned()));
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    }

    #[test]
    fn probes_of_many_members_are_spread() {
        let period = Duration::from_secs(10);
        let pauses: std::collections::BTreeSet<_> =
            (0..50).map(|number| jittered(period, &format!("member{number}"))).collect();
        assert!(pauses.len() > 10);
        assert!(pauses.iter().all(|pause| *pause <= period && *pause > period * 9 / 10));
    }
}
