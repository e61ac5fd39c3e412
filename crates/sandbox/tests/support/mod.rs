//! A sandbox on an API server in memory, and ways to wait for what it does.
#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::time::Duration;

use hansa_embedded::{
    DeleteOptions, Local, Options as ServerOptions, PatchKind, Server, Storage,
    local::{Change, Select},
};
use hansa_sandbox::{Options, Sandbox};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const NAMESPACE: &str = "shop";

pub(crate) struct Cluster {
    pub(crate) server: Server,
    pub(crate) local: Local,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

pub(crate) fn options() -> Options {
    Options { run_time: Duration::from_millis(100), ..Options::default() }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::with(options()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let server = Server::open(ServerOptions::new("member", Storage::Memory)).await.unwrap();
        let cluster = Self::on(server, options);
        cluster
            .create(
                "namespaces",
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
            )
            .await;
        cluster
    }

    pub(crate) fn on(server: Server, options: Options) -> Self {
        let stop = CancellationToken::new();
        let task = Sandbox::start(&server, options, stop.clone());
        Self { local: server.local(), server, stop, task }
    }

    /// Stops the controllers; the API server goes on.
    pub(crate) async fn stop(self) -> Server {
        self.stop.cancel();
        self.task.await.unwrap();
        self.server
    }

    pub(crate) async fn create(&self, resource: &str, mut object: Value) -> Value {
        let namespace = if resource == "namespaces" { "" } else { NAMESPACE };
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        self.local.create(resource, namespace, object).await.unwrap()
    }

    pub(crate) async fn patch(&self, resource: &str, name: &str, patch: Value) -> Value {
        self.local.patch(resource, "", NAMESPACE, name, PatchKind::Merge, patch).await.unwrap()
    }

    pub(crate) async fn delete(&self, resource: &str, name: &str) {
        self.local.delete(resource, NAMESPACE, name, &DeleteOptions::default()).await.unwrap();
    }

    pub(crate) fn list(&self, resource: &str, labels: &str) -> Vec<Value> {
        let select = Select { labels: labels.to_owned(), ..Select::default() };
        self.local.list(resource, NAMESPACE, &select).unwrap().items
    }

    /// Waits until the objects of a resource are as wanted, looking after each change.
    pub(crate) async fn until(
        &self,
        resource: &str,
        labels: &str,
        wanted: impl Fn(&[Value]) -> bool,
    ) -> Vec<Value> {
        let select = Select { labels: labels.to_owned(), ..Select::default() };
        let look = async {
            let revision = self.local.list(resource, NAMESPACE, &select).unwrap().revision;
            let mut changes = self.local.watch(resource, NAMESPACE, &select, revision).unwrap();
            loop {
                let objects = self.list(resource, labels);
                if wanted(&objects) {
                    return objects;
                }
                let _: Change = changes.next().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(objects) => objects,
            Err(_) => {
                let state: Vec<_> =
                    ["pods", resource].map(|r| serde_json::to_string(&self.list(r, "")).unwrap()).into();
                panic!("{resource} {labels} never became as wanted:\n{}", state.join("\n"))
            }
        }
    }

    /// Waits until one object is as wanted.
    pub(crate) async fn when(&self, resource: &str, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let is_it = |object: &&Value| object["metadata"]["name"] == name;
        let objects =
            self.until(resource, "", |objects| objects.iter().find(is_it).is_some_and(&wanted)).await;
        objects.iter().find(is_it).unwrap().clone()
    }
}

pub(crate) fn condition(object: &Value, kind: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    Some(conditions.iter().find(|condition| condition["type"] == kind)?["status"].as_str()?.to_owned())
}

pub(crate) fn is_running(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && condition(pod, "Ready").as_deref() == Some("True")
}

pub(crate) fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
    })
}

pub(crate) fn deployment(name: &str, replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(image)},
    })
}

/// What `kubectl rollout status` waits for.
pub(crate) fn is_rolled_out(deployment: &Value) -> bool {
    let (status, replicas) = (&deployment["status"], deployment["spec"]["replicas"].as_i64().unwrap());
    let count = |name: &str| status[name].as_i64().unwrap_or_default();
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && count("updatedReplicas") == replicas
        && count("replicas") == replicas
        && count("availableReplicas") == replicas
        && (replicas == 0 || condition(deployment, "Available").as_deref() == Some("True"))
}
