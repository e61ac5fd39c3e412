//! FederatedServiceStatuses, as KubeFed wrote them before it had a `remoteStatus` (`spec/kubefed.md §1.5, §2.8`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hansa_api::names;
use hansa_cluster::Sighting;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::pace::Pace;
use super::{Seen, normal};
use crate::engine::Shared;
use crate::federated::Federated;
use crate::key::Key;
use crate::types::TypeConfig;

/// The pause after a host that did not do as it was asked.
const AGAIN: Duration = Duration::from_secs(5);

/// The FederatedServiceStatuses of all FederatedServices.
pub(crate) struct ServiceStatuses {
    host: Client,
    resource: ApiResource,
    /// A hash of what stands there, once that has been read.
    known: Mutex<HashMap<Key, u64>>,
    pace: Pace,
}

impl ServiceStatuses {
    pub(crate) fn new(shared: &Shared, resource: ApiResource) -> Self {
        Self { host: shared.host.clone(), resource, known: Mutex::default(), pace: Pace::default() }
    }

    /// Writes the status of one service if it says something new; says when to try again if that has to be.
    pub(crate) async fn report(
        &self,
        types: &TypeConfig,
        key: &Key,
        federated: &Federated,
        ready: Vec<&str>,
        seen: &Seen,
    ) -> Option<Duration> {
        if federated.deleting {
            self.known().remove(key);
            return None;
        }
        match self.try_report(types, key, federated, &ready, seen).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(%key, %error, kind = %self.resource.kind, "the status of a service cannot be written");
                self.known().remove(key);
                Some(AGAIN)
            }
        }
    }

    async fn try_report(
        &self,
        types: &TypeConfig,
        key: &Key,
        federated: &Federated,
        ready: &[&str],
        seen: &Seen,
    ) -> kube::Result<Option<Duration>> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.host.clone(), &key.namespace, &self.resource);
        let known = self.known().get(key).copied();
        let live = match known {
            Some(_) => None,
            None => api.get_opt(&key.name).await?,
        };
        let former = live.as_ref().map_or(&Value::Null, |live| &live.data["clusterStatus"]);
        let Some(wanted) = entries(ready, seen, former) else { return Ok(None) };
        let wanted = json!({ "clusterStatus": wanted });
        let hash = normal::hash_of(&wanted);
        let stands = known.or_else(|| {
            Some(normal::hash_of(&json!({"clusterStatus": live.as_ref()?.data["clusterStatus"]})))
        });
        if stands == Some(hash) {
            self.known().insert(key.clone(), hash);
            return Ok(None);
        }
        if let Some(pause) = self.pace.hold(key, stands.is_none(), Instant::now()) {
            return Ok(Some(pause));
        }
        if stands.is_some() {
            let params = PatchParams {
                field_manager: Some(names::FIELD_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            match api.patch(&key.name, &params, &Patch::Merge(&wanted)).await {
                // Somebody deleted it; it is made anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(|_| self.known().insert(key.clone(), hash)).map(|_| None),
            }
        }
        let mut object = DynamicObject::new(&key.name, &self.resource).within(&key.namespace).data(wanted);
        let owner = json!({
            "apiVersion": types.federated.api_version, "kind": types.federated.kind, "name": &*key.name, "uid": federated.uid,
        });
        object.owner_references_mut().extend(serde_json::from_value(owner).ok());
        api.create(&PostParams::default(), &object).await?;
        self.known().insert(key.clone(), hash);
        Ok(None)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Key, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One entry per ready cluster, sorted, each with a `status` (`spec/kubefed.md §6 (30)`: without one it would not be valid). A cluster that has
/// not been read keeps its entry, and comes later if it has none; `None` while nothing can be said of any.
fn entries(ready: &[&str], seen: &Seen, former: &Value) -> Option<Vec<Value>> {
    let entry = |name: &&str| {
        let empty = || json!({"loadBalancer": {}});
        let status = match seen.get(*name) {
            Some(Sighting::Shown(glimpse) | Sighting::Unread(Some(glimpse))) => glimpse
                .status()
                .and_then(|status| serde_json::from_slice(&status.json).ok())
                .unwrap_or_else(empty),
            Some(Sighting::Absent | Sighting::Statusless) => empty(),
            Some(Sighting::Unread(None)) | None => {
                let mut former = former.as_array().into_iter().flatten();
                former.find(|former| former["clusterName"] == **name)?["status"].clone()
            }
        };
        Some(json!({"clusterName": name, "status": status}))
    };
    let entries: Vec<_> = ready.iter().filter_map(entry).collect();
    (!entries.is_empty() || ready.is_empty()).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::super::glimpse::Glimpse;
    use super::*;

    fn shown(status: Value) -> Sighting<Glimpse> {
        let service = ApiResource {
            group: String::new(),
            version: "v1".into(),
            api_version: "v1".into(),
            kind: "Service".into(),
            plural: "services".into(),
        };
        let shown = serde_json::from_value(json!({"metadata": {"name": "web"}, "status": status})).unwrap();
        Sighting::Shown(Glimpse::raw(&service, &shown))
    }

    /// `spec/kubefed.md §6 (30)`.
    #[test]
    fn every_ready_cluster_has_an_entry_with_a_status() {
        let address = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}});
        let seen: Seen = [
            ("a".into(), shown(address.clone())),
            ("b".into(), Sighting::Absent),
            ("c".into(), shown(Value::Null)),
        ]
        .into();
        let empty = json!({"loadBalancer": {}});
        assert_eq!(
            entries(&["a", "b", "c"], &seen, &Value::Null).unwrap(),
            [
                json!({"clusterName": "a", "status": address}),
                json!({"clusterName": "b", "status": empty}),
                json!({"clusterName": "c", "status": empty}),
            ]
        );
    }

    #[test]
    fn what_is_not_known_yet_is_left_as_it_was() {
        let former =
            json!([{"clusterName": "a", "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}]);
        let seen: Seen = [("a".into(), Sighting::Unread(None))].into();
        assert_eq!(entries(&["a"], &seen, &former).map(Value::from), Some(former));
        assert_eq!(entries(&["a"], &seen, &Value::Null), None);
    }
}
