//! A federation in one process: a host, members, the registry and the controllers, with every request to a cluster counted and cuttable.

#![allow(dead_code)] // each test file uses some of it

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use hansa_api::names;
use hansa_cluster::Registry;
use hansa_federation::{Controller, Options};
use hansa_transport::Transport;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

mod backend;
pub(crate) mod real;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One cluster and the door to it.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) transport: Transport,
    pub(crate) door: Arc<Door>,
    direct: kube::Client,
}

/// What a cluster was asked, and whether it answers.
#[derive(Default)]
pub(crate) struct Door {
    cut: AtomicBool,
    stalled: AtomicBool,
    mute: AtomicBool,
    slow: Mutex<Duration>,
    written: Mutex<Vec<String>>,
    instead: Mutex<Option<Instead>>,
    fuse: Mutex<Option<Arc<Fuse>>>,
    /// How often the open watches were ended.
    ended: tokio::sync::watch::Sender<u64>,
}

/// What becomes of the one who asks at the write for which a [`Fuse`] is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It dies when the write is done: it is never answered, nor is anything that it asks from then on.
    Dies,
    /// It dies before: the write is not done.
    DiesBefore,
    /// It lives, and does not hear that the write is done.
    HearsNothing,
}

/// Lets a number of writes pass at all the doors that it is set at, and something happen at the next.
pub(crate) struct Fuse {
    fate: Fate,
    left: AtomicI64,
    blown: CancellationToken,
}

impl Fuse {
    pub(crate) fn after(writes: usize, fate: Fate) -> Arc<Self> {
        let left = AtomicI64::new(i64::try_from(writes).unwrap());
        Arc::new(Self { fate, left, blown: CancellationToken::new() })
    }

    pub(crate) async fn blown(&self) {
        self.blown.cancelled().await;
    }

    pub(crate) fn is_blown(&self) -> bool {
        self.blown.is_cancelled()
    }

    /// Whether it is the end of who asked.
    pub(crate) fn kills(&self) -> bool {
        self.fate != Fate::HearsNothing
    }

    fn is_dead(&self) -> bool {
        self.is_blown() && self.kills()
    }
}

/// What a cluster answers instead of doing as it is asked, if anything. It sees every request.
type Instead = Arc<dyn Fn(&http::request::Parts) -> Option<http::Response<Value>> + Send + Sync>;

impl Door {
    /// From now on the cluster does not answer, and what was open is broken off.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.end_watches();
    }

    /// Ends the open watches, as a server does that shuts down.
    pub(crate) fn end_watches(&self) {
        self.ended.send_modify(|times| *times += 1);
    }

    /// From now on each request takes so long.
    pub(crate) fn slow(&self, pause: Duration) {
        *self.slow.lock().unwrap() = pause;
    }

    /// Sets a fuse.
    pub(crate) fn set(&self, fuse: Option<Arc<Fuse>>) {
        *self.fuse.lock().unwrap() = fuse;
    }

    /// From now on the cluster takes requests and does not answer those that write.
    pub(crate) fn stall(&self) {
        self.stalled.store(true, Ordering::SeqCst);
    }

    /// From now on the cluster is well, but does not answer when it is asked for Pods.
    pub(crate) fn mute(&self) {
        self.mute.store(true, Ordering::SeqCst);
    }

    /// It answers again.
    pub(crate) fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
        self.stalled.store(false, Ordering::SeqCst);
        self.mute.store(false, Ordering::SeqCst);
        self.slow(Duration::ZERO);
        *self.instead.lock().unwrap() = None;
    }

    /// From now on `instead` is asked first what to answer.
    pub(crate) fn answer(
        &self,
        instead: impl Fn(&http::request::Parts) -> Option<http::Response<Value>> + Send + Sync + 'static,
    ) {
        *self.instead.lock().unwrap() = Some(Arc::new(instead));
    }

    /// The writes since this was last asked, but for events.
    pub(crate) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.written.lock().unwrap())
    }
}

impl Cluster {
    /// A new, empty cluster.
    pub(crate) async fn start(name: &str) -> Self {
        Self::behind(backend::start(name).await)
    }

    /// A cluster that is there already.
    pub(crate) fn behind(inner: Transport) -> Self {
        let door = Arc::new(Door::default());
        let (behind, through) = (inner.clone(), door.clone());
        let service = tower::service_fn(move |request: Request<hansa_transport::Body>| {
            let (inner, door) = (behind.clone(), through.clone());
            async move {
                let path = request.uri().path().to_owned();
                let is_write =
                    !matches!(*request.method(), Method::GET | Method::HEAD) && !path.ends_with("/events");
                if door.cut.load(Ordering::SeqCst) {
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
                }
                if is_write && !path.contains("/events/") {
                    door.written.lock().unwrap().push(format!("{} {path}", request.method()));
                }
                let began = Instant::now();
                while began.elapsed() < *door.slow.lock().unwrap() {
                    sleep(Duration::from_millis(20)).await;
                }
                while is_write && door.stalled.load(Ordering::SeqCst) {
                    sleep(Duration::from_millis(20)).await;
                }
                while path.ends_with("/pods") && door.mute.load(Ordering::SeqCst) {
                    sleep(Duration::from_millis(20)).await;
                }
                let instead = door.instead.lock().unwrap().clone();
                let (head, body) = request.into_parts();
                if let Some(answer) = instead.and_then(|instead| instead(&head)) {
                    let body = |value: Value| match value {
                        Value::String(text) => text,
                        value => value.to_string(),
                    };
                    return Ok(
                        answer.map(|value| hansa_transport::boxed(http_body_util::Full::from(body(value))))
                    );
                }
                let is_watch = head.uri.query().is_some_and(|query| query.contains("watch=true"));
                let mut ended = door.ended.subscribe();
                let fuse = door.fuse.lock().unwrap().clone();
                let is_last = fuse.as_ref().is_some_and(|fuse| {
                    // What is written of the members' health depends on the hour.
                    let counts =
                        is_write && !path.contains("/events/") && !path.contains("/kubefedclusters/");
                    counts && fuse.left.fetch_sub(1, Ordering::SeqCst) == 0
                });
                if let Some(fuse) = &fuse {
                    if is_last && fuse.fate == Fate::DiesBefore {
                        fuse.blown.cancel();
                    }
                    if fuse.is_dead() {
                        return std::future::pending().await;
                    }
                }
                let request = Request::from_parts(head, body);
                let answer = inner.request(request).await.map_err(std::io::Error::other);
                if let Some(fuse) = fuse.filter(|_| is_last) {
                    fuse.blown.cancel();
                    if fuse.is_dead() {
                        return std::future::pending().await;
                    }
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
                }
                if !is_watch {
                    return answer;
                }
                answer.map(|answer| {
                    answer.map(|body| {
                        let end = async move { drop(ended.changed().await) };
                        let frames = http_body_util::BodyStream::new(body).take_until(Box::pin(end));
                        hansa_transport::boxed(http_body_util::StreamBody::new(frames))
                    })
                })
            }
        });
        Self { transport: Transport::in_process(service), door, direct: inner.client("default") }
    }

    /// Sends a request and tells what came of it.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> Result<Value, kube::Error> {
        let body = body.map(|body| serde_json::to_vec(body).unwrap()).unwrap_or_default();
        let request =
            Request::builder().method(method).uri(path).header("content-type", kind).body(body).unwrap();
        self.direct.request(request).await
    }

    /// The object at a path, if it is there.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        match self.send(Method::GET, path, "application/json", None).await {
            Ok(object) => Some(object),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("GET {path}: {error}"),
        }
    }

    /// Sends an object under the name of a field manager: by POST to where such objects are, or else by `method` to `path`.
    pub(crate) async fn write_as(
        &self,
        manager: &str,
        method: Method,
        path: Option<&str>,
        body: &Value,
    ) -> Value {
        let path = path.map_or_else(|| collection(body), str::to_owned);
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        match self.send(method, &format!("{path}?fieldManager={manager}"), kind, Some(body)).await {
            Ok(object) => object,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Creates an object.
    pub(crate) async fn create(&self, object: &Value) -> Value {
        let path = collection(object);
        match self.send(Method::POST, &path, "application/json", Some(object)).await {
            Ok(object) => object,
            Err(error) => panic!("POST {path}: {error}"),
        }
    }

    /// Creates an object unless it is there.
    pub(crate) async fn ensure(&self, object: &Value) {
        match self.send(Method::POST, &collection(object), "application/json", Some(object)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("POST {}: {error}", collection(object)),
        }
    }

    /// Applies a merge patch.
    pub(crate) async fn patch(&self, path: &str, patch: Value) -> Value {
        match self.send(Method::PATCH, path, "application/merge-patch+json", Some(&patch)).await {
            Ok(object) => object,
            Err(error) => panic!("PATCH {path}: {error}"),
        }
    }

    /// Deletes an object, if it is there.
    pub(crate) async fn delete(&self, path: &str) {
        match self.send(Method::DELETE, path, "application/json", None).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("DELETE {path}: {error}"),
        }
    }

    /// The object at a path, as soon as it is there and `is` holds of it.
    pub(crate) async fn until(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        match eventually(|| async { self.get(path).await.filter(&is) }).await {
            Some(object) => object,
            None => panic!("{path} did not become what it should; it is {:#?}", self.get(path).await),
        }
    }

    /// Waits until there is nothing at a path.
    pub(crate) async fn until_gone(&self, path: &str) {
        let gone = eventually(|| async { self.get(path).await.is_none().then_some(()) }).await;
        assert!(gone.is_some(), "{path} is still there: {:#?}", self.get(path).await);
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if Instant::now() > end {
            return None;
        }
        sleep(Duration::from_millis(15)).await;
    }
}

/// Where objects like this one are.
fn collection(object: &Value) -> String {
    let api_version = object["apiVersion"].as_str().unwrap();
    let kind = object["kind"].as_str().unwrap();
    let plural = hansa_api::federated::plural(kind);
    let prefix = if api_version.contains('/') { "apis" } else { "api" };
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{prefix}/{api_version}/namespaces/{namespace}/{plural}"),
        None => format!("/{prefix}/{api_version}/{plural}"),
    }
}

/// A federation that runs.
pub(crate) struct World {
    pub(crate) host: Cluster,
    pub(crate) members: BTreeMap<String, Cluster>,
    /// How the controllers work from their next start.
    pub(crate) options: Options,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl World {
    /// A host with the default types, and members `m1`, `m2`, … that are Ready.
    pub(crate) async fn start(members: usize) -> Self {
        let mut clusters = Vec::new();
        for number in 1..=members {
            clusters.push(Cluster::start(&format!("m{number}")).await);
        }
        Self::of(clusters).await
    }

    /// A host with the default types, and these members, called `m1`, `m2`, …
    pub(crate) async fn of(members: Vec<Cluster>) -> Self {
        let host = Cluster::start("host").await;
        for crd in hansa_api::crds() {
            host.ensure(&crd).await;
        }
        for crd in hansa_api::crds() {
            host.established(crd["metadata"]["name"].as_str().unwrap()).await;
        }
        for object in hansa_api::defaults() {
            host.ensure(&object).await;
        }
        let options = Options { patience: Duration::from_millis(500), ..Options::default() };
        let mut world = Self { host, members: BTreeMap::new(), options, running: None };
        for (number, member) in (1..).zip(members) {
            world.join(&format!("m{number}"), member).await;
        }
        world.run();
        for name in world.members.keys() {
            world.ready(name, true).await;
        }
        world
    }

    /// Registers a member, which is known to the control plane from its next start.
    pub(crate) async fn join(&mut self, name: &str, member: Cluster) {
        self.members.insert(name.to_owned(), member);
        let namespace = names::SYSTEM_NAMESPACE;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{name}-secret"), "namespace": namespace},
            "stringData": {"token": "t"},
        });
        let cluster = json!({
            "apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedCluster",
            "metadata": {"name": name, "namespace": namespace, "labels": {"name": name}},
            "spec": {"apiEndpoint": format!("https://{name}.test"), "secretRef": {"name": format!("{name}-secret")}},
        });
        self.host.ensure(&secret).await;
        self.host.ensure(&cluster).await;
    }

    /// Starts the control plane.
    pub(crate) fn run(&mut self) {
        let stop = CancellationToken::new();
        let members: BTreeMap<String, Transport> =
            self.members.iter().map(|(name, member)| (name.clone(), member.transport.clone())).collect();
        let connect = move |target: hansa_transport::Target| {
            let endpoint = target.endpoint.to_string();
            let name =
                endpoint.trim_start_matches("https://").split('.').next().unwrap_or_default().to_owned();
            Ok(members.get(&name).cloned().unwrap_or_else(nobody))
        };
        let leads = tokio::sync::watch::channel(true);
        let mut options = hansa_cluster::Options {
            connect: Arc::new(connect),
            leads: leads.1,
            ..hansa_cluster::Options::reader()
        };
        options.health.period = Duration::from_millis(200);
        options.health.timeout = Duration::from_secs(2);
        let registry = Registry::start(self.host.transport.client("default"), options, stop.clone());
        let controller =
            Controller::new(self.host.transport.client("default"), registry, self.options.clone());
        let task = tokio::spawn({
            let stop = stop.clone();
            async move {
                controller.run(stop).await;
                drop(leads.0);
            }
        });
        self.running = Some((stop, task));
    }

    /// Stops the control plane.
    pub(crate) async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    pub(crate) fn member(&self, name: &str) -> &Cluster {
        &self.members[name]
    }

    /// Makes a namespace on the host and federates it to all members.
    pub(crate) async fn namespace(&self, name: &str) {
        self.host.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await;
        let federated = federated("Namespace", name, name, json!({"placement": {"clusterSelector": {}}}));
        self.host.create(&federated).await;
        for member in self.members.values() {
            member.until(&format!("/api/v1/namespaces/{name}"), |_| true).await;
        }
    }

    /// Waits until nobody has written anything for a while.
    pub(crate) async fn quiet(&self) {
        let quiet = eventually(|| async {
            sleep(Duration::from_millis(700)).await;
            self.writes().is_empty().then_some(())
        });
        assert!(quiet.await.is_some(), "somebody writes without end");
    }

    /// The writes to any cluster since this was last asked.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.members.values().chain([&self.host]).flat_map(|cluster| cluster.door.writes()).collect()
    }

    /// Waits until a member is, or is not, Ready.
    pub(crate) async fn ready(&self, member: &str, is: bool) {
        let path = format!(
            "/apis/core.kubefed.io/v1beta1/namespaces/kube-federation-system/kubefedclusters/{member}"
        );
        self.host.until(&path, |cluster| (condition(cluster, "Ready").0 == "True") == is).await;
    }

    /// Waits until a federated object says that propagation is done.
    pub(crate) async fn propagated(&self, path: &str) -> Value {
        self.host
            .until(path, |object| {
                condition(object, "Propagation").0 == "True"
                    && object["status"]["observedGeneration"] == object["metadata"]["generation"]
            })
            .await
    }
}

impl Cluster {
    async fn established(&self, crd: &str) {
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd}");
        self.until(&path, |crd| condition(crd, "Established").0 == "True").await;
    }

    /// Defines a type.
    pub(crate) async fn define(&self, crd: &Value) {
        self.ensure(crd).await;
        self.established(crd["metadata"]["name"].as_str().unwrap()).await;
        // It is served a moment after it is established, here as in any Kubernetes.
        let spec = &crd["spec"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let [group, plural] = [&spec["group"], &spec["names"]["plural"]].map(text);
        self.until(&format!("/apis/{group}/{}/{plural}", text(&spec["versions"][0]["name"])), |_| true).await;
    }
}

/// A transport to nobody.
fn nobody() -> Transport {
    Transport::in_process(tower::service_fn(|_: Request<hansa_transport::Body>| async {
        let mut response = http::Response::new(hansa_transport::empty());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        Ok::<_, Infallible>(response)
    }))
}

/// The status and the reason of a condition.
pub(crate) fn condition(object: &Value, r#type: &str) -> (String, String) {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == r#type).unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// The status words of the clusters.
pub(crate) fn words(object: &Value) -> BTreeMap<String, String> {
    let clusters = object["status"]["clusters"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    clusters.iter().map(|cluster| (text(&cluster["name"]), text(&cluster["status"]))).collect()
}

/// A federated object.
pub(crate) fn federated(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "types.kubefed.io/v1beta1", "kind": format!("Federated{kind}"),
        "metadata": {"name": name}, "spec": spec,
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

/// A placement on the named clusters.
pub(crate) fn on(clusters: &[&str]) -> Value {
    let clusters: Vec<Value> = clusters.iter().map(|name| json!({ "name": name })).collect();
    json!({ "clusters": clusters })
}
