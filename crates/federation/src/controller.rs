//! FederatedTypeConfigs: which types are federated, each with an engine of its own (`spec/kubefed.md §2.3`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hansa_api::kubefed::{Scope, Switch, feature};
use hansa_api::{FederatedTypeConfig, KubeFedConfig, names};
use hansa_cluster::Registry;
use hansa_cluster::feed::Feed;
use hansa_metrics::Metrics;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cache::{self, Cache};
use crate::engine::{Engine, Shared};
use crate::events::Recorder;
use crate::key::Key;
use crate::records::Records;
use crate::replicas::{self, Scheduler};
use crate::types::{NAMESPACES, TypeConfig, TypeConfigError};

/// How the controllers are to work.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of the control plane's own objects.
    pub namespace: String,
    /// How many objects of a type are worked on at once, unless KubeFedConfig asks for more.
    pub concurrency: usize,
    /// How long an object waits for slow members before its status is written without them; they are not given up.
    pub patience: Duration,
    /// How long the deletion of an object waits for members that are away, before what is to be done there is written down and
    /// the object goes: `unavailableDelay` of the KubeFedConfig.
    pub overdue: Duration,
    /// The KubeFedConfig, if it was read already; otherwise the host's is read.
    pub config: Option<KubeFedConfig>,
    /// What is counted.
    pub metrics: Metrics,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace: names::SYSTEM_NAMESPACE.to_owned(),
            concurrency: 32,
            patience: Duration::from_secs(2),
            overdue: Duration::from_secs(60),
            config: None,
            metrics: Metrics::default(),
        }
    }
}

/// The federation controllers of one host.
pub struct Controller {
    host: Client,
    registry: Registry,
    options: Options,
}

/// A FederatedTypeConfig, projected.
#[derive(Debug)]
struct Config {
    types: Result<TypeConfig, TypeConfigError>,
    generation: i64,
    deleting: bool,
    finalizers: Vec<String>,
    resource_version: String,
    status: Value,
}

impl Config {
    fn project(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
        Self {
            types: TypeConfig::parse(object),
            generation: metadata["generation"].as_i64().unwrap_or_default(),
            deleting: !metadata["deletionTimestamp"].is_null(),
            finalizers: finalizers.filter_map(|finalizer| finalizer.as_str().map(str::to_owned)).collect(),
            resource_version: metadata["resourceVersion"].as_str().unwrap_or_default().to_owned(),
            status: object["status"].clone(),
        }
    }

    /// The type to run an engine for, if one is to run (`spec/kubefed.md §2.3`): a namespaced type needs the type of namespaces; a
    /// control plane of one namespace does not federate what is cluster-scoped. FederatedNamespaces are read in any case, as they narrow
    /// the placement of the other types.
    fn wanted(&self, has_namespaces: bool, only_namespace: bool) -> Option<TypeConfig> {
        let mut types = self.types.as_ref().ok().filter(|_| !self.deleting)?.clone();
        types.enabled &= if types.target_namespaced { has_namespaces } else { !only_namespace };
        (types.enabled || types.is_namespaces()).then_some(types)
    }
}

struct Running {
    types: TypeConfig,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(r#type = %self.types.name, %error, "a sync engine ended abnormally");
        }
    }
}

impl Controller {
    /// The controllers of `host`, whose members are in `registry`.
    pub fn new(host: Client, registry: Registry, options: Options) -> Self {
        Self { host, registry, options }
    }

    /// Runs until `shutdown`; then every engine has stopped.
    pub async fn run(self, shutdown: CancellationToken) {
        let settings = persist("the KubeFedConfig", || self.settings());
        let Some(settings) = shutdown.run_until_cancelled(settings).await else { return };
        let scheduler = settings.scheduler.clone().map(|options| {
            let scheduler = Scheduler::new(self.host.clone(), self.registry.clone(), options);
            tokio::spawn(scheduler.run(shutdown.child_token()))
        });
        self.propagate(settings, shutdown).await;
        if let Some(Err(error)) = futures::future::OptionFuture::from(scheduler).await {
            tracing::error!(%error, "the replica scheduler ended abnormally");
        }
    }

    async fn propagate(&self, settings: Settings, shutdown: CancellationToken) {
        if !settings.propagates {
            tracing::info!("propagation is turned off by the feature gate {}", feature::PUSH_RECONCILER);
            return shutdown.cancelled().await;
        }
        let stop = shutdown.child_token();
        let (events, writer) = Recorder::new(self.host.clone());
        let shared = Arc::new(Shared {
            host: self.host.clone(),
            registry: self.registry.clone(),
            records: Records::new(self.host.clone(), &self.options.namespace),
            overdue: self.options.overdue,
            events,
            system_namespace: self.options.namespace.clone(),
            only_namespace: settings.only_namespace,
            adopt: settings.adopt,
            raw_status: settings.raw_status,
            concurrency: self.options.concurrency.max(settings.concurrency),
            patience: self.options.patience,
            bodies: Arc::default(),
            metrics: self.options.metrics.clone(),
            namespaces: Mutex::default(),
            namespace_changes: broadcast::channel(1_024).0,
        });
        let load =
            persist("the propagated versions", || shared.records.load(shared.only_namespace.as_deref()));
        if shutdown.run_until_cancelled(load).await.is_none() {
            return;
        }
        let configs = Cache::default();
        let changed = Notify::new();
        let resource = ApiResource::erase::<FederatedTypeConfig>(&());
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.host.clone(), &self.options.namespace, &resource);
        let feed = Feed::new(self.host.clone(), api.resource_url());
        let watch =
            configs.watch(feed, cache::wholly(Config::project), |_| changed.notify_one(), stop.clone());
        tokio::join!(watch, writer.run(stop.clone()), self.follow(&api, &configs, &changed, &shared, &stop));
    }

    async fn settings(&self) -> kube::Result<Settings> {
        if let Some(config) = &self.options.config {
            return Ok(Settings::of(Some(config), &self.options.namespace));
        }
        let api: Api<KubeFedConfig> = Api::namespaced(self.host.clone(), &self.options.namespace);
        let config = api.get_opt(names::KUBEFED_CONFIG).await?;
        tracing::info!(
            found = config.is_some(),
            "using KubeFedConfig \"{}/{}\"",
            self.options.namespace,
            names::KUBEFED_CONFIG
        );
        Ok(Settings::of(config.as_ref(), &self.options.namespace))
    }

    /// Starts and stops engines as the FederatedTypeConfigs say.
    async fn follow(
        &self,
        api: &Api<DynamicObject>,
        configs: &Cache<Config>,
        changed: &Notify,
        shared: &Arc<Shared>,
        stop: &CancellationToken,
    ) {
        let mut running: BTreeMap<String, Running> = BTreeMap::new();
        let mut retry = None;
        loop {
            let pause = async {
                match retry.take() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = changed.notified() => {}
                () = pause => {}
            }
            if !configs.is_synced() {
                continue;
            }
            let entries = configs.entries();
            let has_namespaces = shared.only_namespace.is_some()
                || entries.iter().any(|(key, config)| {
                    &*key.name == NAMESPACES && !config.deleting && config.types.is_ok()
                });
            let gone: Vec<String> = running
                .keys()
                .filter(|name| !entries.iter().any(|(key, _)| *key.name == ***name))
                .cloned()
                .collect();
            for name in gone {
                if let Some(engine) = running.remove(&name) {
                    engine.stop().await;
                }
            }
            for (key, config) in &entries {
                if let Err(error) =
                    self.reconcile(api, key, config, has_namespaces, shared, stop, &mut running).await
                {
                    tracing::warn!(config = %key.name, %error, "the FederatedTypeConfig cannot be updated; trying again");
                    retry = Some(Duration::from_secs(1));
                }
            }
        }
        let engines = std::mem::take(&mut running).into_values().map(Running::stop);
        futures::future::join_all(engines).await;
    }

    #[allow(clippy::too_many_arguments)]
    async fn reconcile(
        &self,
        api: &Api<DynamicObject>,
        key: &Key,
        config: &Config,
        has_namespaces: bool,
        shared: &Arc<Shared>,
        stop: &CancellationToken,
        running: &mut BTreeMap<String, Running>,
    ) -> kube::Result<()> {
        let name = &*key.name;
        if let Err(error) = &config.types {
            tracing::warn!(config = name, %error, "the FederatedTypeConfig cannot be used");
        }
        let wanted = config.wanted(has_namespaces, shared.only_namespace.is_some());
        if running.get(name).is_some_and(|engine| Some(&engine.types) != wanted.as_ref())
            && let Some(engine) = running.remove(name)
        {
            tracing::info!(config = name, "stopping propagation");
            engine.stop().await;
        }
        if config.deleting {
            return finalize(api, name, config, false).await;
        }
        let is_running = wanted.as_ref().is_some_and(|types| types.enabled);
        if shared.only_namespace.is_none() || is_running {
            finalize(api, name, config, true).await?;
        }
        let collects = wanted.as_ref().is_some_and(|types| types.service_status(shared.raw_status).is_some());
        if let Some(types) = wanted
            && !running.contains_key(name)
        {
            tracing::info!(config = name, propagates = types.enabled, "starting");
            let stop = stop.child_token();
            let engine = Engine::new(types.clone(), shared.clone(), stop.clone());
            let task = tokio::spawn(engine.run());
            running.insert(name.to_owned(), Running { types, stop, task });
        }
        let state = |runs| if runs { "Running" } else { "NotRunning" };
        let status = json!({
            "observedGeneration": config.generation,
            "propagationController": state(is_running),
            "statusController": state(collects),
        });
        if config.status == status {
            return Ok(());
        }
        let params =
            PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        api.patch_status(name, &params, &Patch::Merge(json!({ "status": status }))).await.map(drop)
    }
}

/// Adds or removes the finalizer of a FederatedTypeConfig.
async fn finalize(api: &Api<DynamicObject>, name: &str, config: &Config, add: bool) -> kube::Result<()> {
    let mut finalizers = config.finalizers.clone();
    if finalizers.iter().any(|finalizer| finalizer == names::FINALIZER_TYPE_CONFIG) == add {
        return Ok(());
    }
    finalizers.retain(|finalizer| finalizer != names::FINALIZER_TYPE_CONFIG);
    if add {
        finalizers.push(names::FINALIZER_TYPE_CONFIG.to_owned());
    }
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": config.resource_version}});
    match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        // The watch is behind; it will call again with what is there now.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop),
    }
}

/// What of KubeFedConfig concerns propagation (`spec/kubefed.md §1.2`).
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    only_namespace: Option<String>,
    adopt: bool,
    raw_status: bool,
    concurrency: usize,
    propagates: bool,
    /// How replicas are scheduled, if they are.
    scheduler: Option<replicas::Options>,
}

impl Settings {
    fn of(config: Option<&KubeFedConfig>, namespace: &str) -> Self {
        let spec = config.map(|config| &config.spec);
        let sync = spec.and_then(|spec| spec.sync_controller.as_ref());
        let is = |name: &str, wanted: Switch| {
            let mut gates = spec.into_iter().flat_map(|spec| &spec.feature_gates);
            gates.any(|gate| gate.name == name && gate.configuration == wanted)
        };
        Self {
            only_namespace: spec.filter(|spec| spec.scope == Scope::Namespaced).map(|_| namespace.to_owned()),
            adopt: sync.and_then(|sync| sync.adopt_resources) != Some(Switch::Disabled),
            raw_status: is(feature::RAW_RESOURCE_STATUS_COLLECTION, Switch::Enabled),
            concurrency: sync
                .and_then(|sync| sync.max_concurrent_reconciles)
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or_default(),
            propagates: !is(feature::PUSH_RECONCILER, Switch::Disabled),
            scheduler: replicas::Options::of(config, namespace),
        }
    }
}

/// Tries until it works: nothing can be decided before.
async fn persist<T, F: Future<Output = kube::Result<T>>>(what: &str, attempt: impl Fn() -> F) -> T {
    let mut pause = Duration::from_millis(100);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => {
                tracing::warn!(%error, "{what} cannot be read from the host; trying again in {pause:?}")
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::tests::type_config;

    fn config(mut object: Value, edit: impl Fn(&mut Value)) -> Config {
        edit(&mut object);
        Config::project(&object)
    }

    fn deployments(edit: impl Fn(&mut Value)) -> Config {
        config(type_config("deployments.apps", "Deployment", "v1", ["Namespaced"; 2]), edit)
    }

    fn wants(config: &Config, has_namespaces: bool, only_namespace: bool) -> bool {
        config.wanted(has_namespaces, only_namespace).is_some_and(|types| types.enabled)
    }

    #[test]
    fn federated_namespaces_are_read_even_where_namespaces_are_not_propagated() {
        let namespaces = |propagation: &str| {
            config(type_config("namespaces", "Namespace", "v1", ["Cluster", "Namespaced"]), |object| {
                object["spec"]["propagation"] = propagation.into();
            })
        };
        assert!(wants(&namespaces("Enabled"), true, false));
        for (propagation, only_namespace) in [("Disabled", false), ("Enabled", true)] {
            assert_eq!(
                namespaces(propagation).wanted(true, only_namespace).map(|types| types.enabled),
                Some(false)
            );
        }
    }

    fn cluster_roles() -> Config {
        config(
            type_config("clusterroles.rbac.authorization.k8s.io", "ClusterRole", "v1", ["Cluster"; 2]),
            |_| (),
        )
    }

    #[test]
    fn a_namespaced_type_needs_the_type_of_namespaces() {
        assert!(wants(&deployments(|_| ()), true, false));
        assert!(!wants(&deployments(|_| ()), false, false));
        assert!(wants(&cluster_roles(), false, false));
    }

    #[test]
    fn a_control_plane_of_one_namespace_federates_no_cluster_scoped_type() {
        assert!(!wants(&cluster_roles(), true, true));
        assert!(wants(&deployments(|_| ()), true, true));
    }

    #[test]
    fn what_is_disabled_or_deleted_or_malformed_does_not_run() {
        assert!(!wants(&deployments(|o| o["spec"]["propagation"] = "Disabled".into()), true, false));
        assert!(!wants(&deployments(|o| o["metadata"]["deletionTimestamp"] = "x".into()), true, false));
        assert!(!wants(&deployments(|o| o["spec"]["targetType"]["kind"] = Value::Null), true, false));
    }

    #[test]
    fn settings_have_kubefeds_defaults() {
        let default = Settings::of(None, "ns");
        let scheduler = replicas::Options::of(None, "ns");
        let expected = Settings {
            only_namespace: None,
            adopt: true,
            raw_status: false,
            concurrency: 0,
            propagates: true,
            scheduler,
        };
        assert_eq!(default, expected);
        let config: KubeFedConfig = serde_json::from_value(json!({"metadata": {"name": "kubefed"}, "spec": {
            "scope": "Namespaced",
            "syncController": {"adoptResources": "Disabled", "maxConcurrentReconciles": 3},
            "featureGates": [
                {"name": "PushReconciler", "configuration": "Disabled"},
                {"name": "RawResourceStatusCollection", "configuration": "Enabled"},
            ],
        }}))
        .unwrap();
        let settings = Settings::of(Some(&config), "ns");
        let scheduler = replicas::Options::of(Some(&config), "ns");
        assert!(scheduler.is_some());
        let expected = Settings {
            only_namespace: Some("ns".into()),
            adopt: false,
            raw_status: true,
            concurrency: 3,
            propagates: false,
            scheduler,
        };
        assert_eq!(settings, expected);
    }
}
