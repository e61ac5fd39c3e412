//! What the host says, read once: everything that is needed to decide as the controllers do.

use std::collections::BTreeMap;

use hansa_api::federated::default_types;
use hansa_api::kubefed::Scope;
use hansa_api::{
    ClusterPropagatedVersion, KubeFedCluster, KubeFedConfig, PropagatedVersion, ReplicaSchedulingPreference,
    names,
};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::apply::three_way;
use crate::explain;
use crate::federated::Federated;
use crate::key::Key;
use crate::placement::{Gate, Placement, PlacementError};
use crate::types::TypeConfig;
use crate::version::{self, Record};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// kubectl's own name where it applies on the server's side.
const KUBECTL: &str = "kubectl";

/// Why the host could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A request failed.
    #[error("cannot {doing}: {}", hansa_transport::explain(.error))]
    Request {
        /// What was asked for.
        doing: String,
        /// What came of it.
        error: Box<kube::Error>,
    },
    /// An object has no name.
    #[error("{0} has no metadata.name")]
    Nameless(String),
    /// No type is called so.
    #[error("no federated type is called {given:?}; there are: {known}")]
    UnknownType {
        /// What was given.
        given: String,
        /// The names of the FederatedTypeConfigs.
        known: String,
    },
    /// There is no such object.
    #[error("there is no {kind} {key}")]
    NotFound {
        /// The federated kind.
        kind: String,
        /// The name.
        key: Key,
    },
}

fn failed(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> HostError {
    |error| HostError::Request { doing: doing.into(), error: Box::new(error) }
}

/// The host.
pub struct Host {
    pub(super) client: Client,
    pub(super) system_namespace: String,
    /// The one namespace that is federated, if the control plane is not cluster-wide.
    pub(super) only_namespace: Option<String>,
    pub(super) adopt: bool,
    pub(super) propagates: bool,
    types: Vec<TypeConfig>,
    clusters: BTreeMap<String, KubeFedCluster>,
}

/// The placement of a FederatedNamespace; `None` if there is none.
pub(super) type NamespacePlacement = Option<Result<Placement, PlacementError>>;

impl Host {
    /// Reads the types, the clusters and the settings.
    pub async fn read(client: Client, system_namespace: &str) -> Result<Self, HostError> {
        let all = ListParams::default();
        let configs: Api<DynamicObject> = Api::namespaced_with(
            client.clone(),
            system_namespace,
            &ApiResource::erase::<hansa_api::FederatedTypeConfig>(&()),
        );
        let clusters: Api<KubeFedCluster> = Api::namespaced(client.clone(), system_namespace);
        let settings: Api<KubeFedConfig> = Api::namespaced(client.clone(), system_namespace);
        let (configs, clusters, settings) =
            tokio::join!(configs.list(&all), clusters.list(&all), settings.get_opt(names::KUBEFED_CONFIG));
        let configs = configs.map_err(failed("list the FederatedTypeConfigs of the host"))?;
        let clusters = clusters.map_err(failed("list the KubeFedClusters of the host"))?;
        let settings = settings.map_err(failed("read the KubeFedConfig of the host"))?;
        let settings = settings.and_then(|config| config.spec.settings().ok()).unwrap_or_default();
        let types = configs
            .items
            .iter()
            .filter_map(|config| TypeConfig::parse(&serde_json::to_value(config).ok()?).ok());
        Ok(Self {
            client,
            system_namespace: system_namespace.to_owned(),
            only_namespace: (settings.scope == Scope::Namespaced).then(|| system_namespace.to_owned()),
            adopt: settings.adopt_resources,
            propagates: settings.push_reconciler,
            types: types.collect(),
            clusters: clusters.items.into_iter().map(|cluster| (cluster.name_any(), cluster)).collect(),
        })
    }

    /// The registered clusters.
    pub fn clusters(&self) -> &BTreeMap<String, KubeFedCluster> {
        &self.clusters
    }

    /// The type that people call so: by the target's or the federated type's kind, plural, or `plural.group`, or by a short name.
    pub fn find_type(&self, given: &str) -> Result<&TypeConfig, HostError> {
        let wanted = given.to_lowercase();
        let is_called = |types: &&TypeConfig| {
            let called = |resource: &ApiResource| {
                wanted == resource.kind.to_lowercase()
                    || wanted == resource.plural
                    || wanted == format!("{}.{}", resource.plural, resource.group)
            };
            let short = default_types()
                .into_iter()
                .filter(|default| default.target.qualified_plural() == types.name)
                .flat_map(|default| default.short_names.to_vec());
            called(&types.target)
                || called(&types.federated)
                || wanted == types.name
                || short.into_iter().any(|short| wanted == short || wanted == format!("f{short}"))
        };
        self.types.iter().find(is_called).ok_or_else(|| HostError::UnknownType {
            given: given.to_owned(),
            known: self.types.iter().map(|types| types.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The type of a federated object.
    pub fn type_of(&self, object: &Value) -> Option<&TypeConfig> {
        let group = object["apiVersion"].as_str()?.split_once('/')?.0;
        self.types
            .iter()
            .find(|types| types.federated.group == group && object["kind"] == types.federated.kind.as_str())
    }

    pub(super) fn namespaces(&self) -> Option<&TypeConfig> {
        self.types.iter().find(|types| types.is_namespaces())
    }

    fn api(&self, types: &TypeConfig, namespace: &str) -> Api<DynamicObject> {
        match types.federated_namespaced {
            true => Api::namespaced_with(self.client.clone(), namespace, &types.federated),
            false => Api::all_with(self.client.clone(), &types.federated),
        }
    }

    /// A federated object as it is.
    pub async fn federated(&self, types: &TypeConfig, key: &Key) -> Result<Value, HostError> {
        let doing = || format!("read {} {key} on the host", types.federated.kind);
        let found = self.api(types, &key.namespace).get_opt(&key.name).await.map_err(failed(doing()))?;
        let found = found.and_then(|object| serde_json::to_value(object).ok());
        found.ok_or_else(|| HostError::NotFound { kind: types.federated.kind.clone(), key: key.clone() })
    }

    /// A federated object as `kubectl apply` would make it, which the host says itself in a dry run; and what is to be known of that.
    pub(super) async fn applied(
        &self,
        types: &TypeConfig,
        key: &Key,
        wanted: &Value,
    ) -> Result<(Value, Option<String>), HostError> {
        let api = self.api(types, &key.namespace);
        let live = api
            .get_opt(&key.name)
            .await
            .map_err(failed(format!("read {} {key} on the host", types.federated.kind)))?;
        let doing = format!("apply {} {key} on the host, in a dry run", types.federated.kind);
        let Some(live) = live else {
            let object: DynamicObject = serde_json::from_value(wanted.clone()).map_err(|error| {
                HostError::Request { doing: doing.clone(), error: Box::new(kube::Error::SerdeError(error)) }
            })?;
            let params = PostParams { dry_run: true, field_manager: Some(KUBECTL.to_owned()) };
            return match api.create(&params, &object).await {
                Ok(object) => Ok((value(&object, &doing)?, None)),
                // A file may bring the namespace along, which a dry run does not make.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok((
                    wanted.clone(),
                    Some(
                        "its namespace is not on the host yet, which therefore has not checked it".to_owned(),
                    ),
                )),
                Err(error) => Err(failed(doing)(error)),
            };
        };
        let live = value(&live, &doing)?;
        let last = &live["metadata"]["annotations"][LAST_APPLIED];
        let by_server = last.is_null()
            && live["metadata"]["managedFields"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|entry| entry["manager"] == KUBECTL && entry["operation"] == "Apply");
        let answer = if by_server {
            let params = PatchParams { dry_run: true, force: true, ..PatchParams::apply(KUBECTL) };
            api.patch(&key.name, &params, &Patch::Apply(wanted)).await
        } else {
            let last = last.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
            let params = PatchParams {
                dry_run: true,
                field_manager: Some(KUBECTL.to_owned()),
                ..PatchParams::default()
            };
            api.patch(&key.name, &params, &Patch::Merge(three_way(&last, wanted, &live))).await
        };
        Ok((value(&answer.map_err(failed(doing.clone()))?, &doing)?, None))
    }

    /// What was written where for a federated object.
    pub async fn record(&self, types: &TypeConfig, key: &Key) -> Result<Option<Record>, HostError> {
        let api: Api<DynamicObject> = match types.federated_namespaced {
            true => Api::namespaced_with(
                self.client.clone(),
                &key.namespace,
                &ApiResource::erase::<PropagatedVersion>(&()),
            ),
            false => Api::all_with(self.client.clone(), &ApiResource::erase::<ClusterPropagatedVersion>(&())),
        };
        let name = version::record_name(&types.target.kind, &key.name);
        let found =
            api.get_opt(&name).await.map_err(failed(format!("read the propagated versions of {key}")))?;
        Ok(found.map(|object| Record::parse(&object.data)))
    }

    /// The placement of the FederatedNamespace that narrows an object, if its type is narrowed at all.
    pub async fn namespace_placement(
        &self,
        types: &TypeConfig,
        key: &Key,
    ) -> Result<NamespacePlacement, HostError> {
        let Some(namespaces) = self.namespaces().filter(|_| types.target_namespaced) else { return Ok(None) };
        match self.federated(namespaces, &Key::new(&key.namespace, &key.namespace)).await {
            Ok(object) => Ok(Some(Placement::parse(&object))),
            Err(HostError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How its namespace narrows the placement of an object.
    pub fn gate<'a>(&self, types: &TypeConfig, namespace: &'a NamespacePlacement) -> Gate<'a> {
        match namespace {
            _ if !types.target_namespaced => Gate::Open,
            Some(Ok(placement)) => Gate::Within(placement),
            Some(Err(_)) => Gate::Unknown,
            None if self.only_namespace.is_some() => Gate::Open,
            None => Gate::NotFederated,
        }
    }

    /// The UID of the host's namespace that a FederatedNamespace speaks of.
    pub(super) async fn host_namespace(
        &self,
        types: &TypeConfig,
        key: &Key,
    ) -> Result<Option<String>, HostError> {
        if !types.is_namespaces() {
            return Ok(None);
        }
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &types.target);
        let found = api
            .get_metadata_opt(&key.name)
            .await
            .map_err(failed(format!("read namespace {} of the host", key.name)))?;
        Ok(found.and_then(|namespace| namespace.metadata.uid))
    }

    /// Explains the placement of a federated object.
    pub async fn explain(&self, types: &TypeConfig, key: &Key) -> Result<Vec<explain::Answer>, HostError> {
        let (object, record, namespace, replicas) = tokio::try_join!(
            self.federated(types, key),
            self.record(types, key),
            self.namespace_placement(types, key),
            self.is_scheduled(types, key),
        )?;
        let federated = Federated::project(types, &object);
        let replicas = replicas.then(|| given_replicas(&object));
        let cluster = |cluster: &KubeFedCluster| explain::Cluster {
            labels: cluster.labels().clone(),
            ready: cluster.is_ready(),
        };
        let clusters = self.clusters.iter().map(|(name, found)| (name.clone(), cluster(found))).collect();
        Ok(explain::explain(explain::Question {
            key,
            placement: &federated.placement,
            gate: self.gate(types, &namespace),
            clusters: &clusters,
            record: record.as_ref(),
            replicas: replicas.as_ref(),
            deleting: federated.deleting,
        }))
    }

    /// Whether a ReplicaSchedulingPreference divides the replicas of the object.
    async fn is_scheduled(&self, types: &TypeConfig, key: &Key) -> Result<bool, HostError> {
        if !types.federated_namespaced {
            return Ok(false);
        }
        let api: Api<ReplicaSchedulingPreference> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.get_opt(&key.name).await {
            Ok(found) => {
                Ok(found.is_some_and(|preference| preference.spec.target_kind == types.federated.kind))
            }
            // The replica scheduler is a part that a host may be without.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(failed(format!("read the ReplicaSchedulingPreference {key}"))(error)),
        }
    }
}

fn value(object: &DynamicObject, doing: &str) -> Result<Value, HostError> {
    serde_json::to_value(object).map_err(|error| HostError::Request {
        doing: doing.to_owned(),
        error: Box::new(kube::Error::SerdeError(error)),
    })
}

/// The replicas that overrides give to clusters by name, which is how the replica scheduler gives them.
fn given_replicas(federated: &Value) -> BTreeMap<String, i64> {
    let entries = federated["spec"]["overrides"].as_array().into_iter().flatten();
    let given = entries.filter_map(|entry| {
        let operations = entry["clusterOverrides"].as_array()?;
        let replicas = operations.iter().find(|operation| operation["path"] == "/spec/replicas")?;
        Some((entry["clusterName"].as_str()?.to_owned(), replicas["value"].as_i64()?))
    });
    given.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_replicas_that_the_scheduler_gave_are_read_from_the_overrides() {
        let federated = json!({"spec": {"overrides": [
            {"clusterName": "c1", "clusterOverrides": [{"path": "/spec/replicas", "value": 3}]},
            {"clusterName": "c2", "clusterOverrides": [{"path": "/spec/paused", "value": true}]},
            {"clusterSelector": {}, "clusterOverrides": [{"path": "/spec/replicas", "value": 7}]},
        ]}});
        assert_eq!(given_replicas(&federated), [("c1".to_owned(), 3)].into());
    }
}
