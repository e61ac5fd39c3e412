//! Deletions that are owed: a federated object is gone, and a member that was away may still have its copy.
//!
//! KubeFed kept a federated object for ever while a member was away (kubefed#1254). Here the deletion ends after a while, and what is owed is
//! written down on the host first, so that it outlives this process: one `PropagatedVersion` without an owner per object, in the system
//! namespace, which unlike the object's own cannot be deleted meanwhile. It is settled when the member returns, and forgotten when it is removed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hansa_api::{PropagatedVersion, names};
use hansa_machinery::gojson;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::key::Key;

/// Marks a debt, and in an annotation says what it is.
const OWED: &str = "kubefed.io/owed";

/// Who owes: the name of a FederatedTypeConfig, and a federated object of that type.
pub(crate) type Debtor = (Arc<str>, Key);

/// The members in which the copy of an object is to go, and the UID of each copy where it was known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debt {
    /// The members, by name.
    pub clusters: BTreeMap<Arc<str>, Option<String>>,
}

/// Every debt there is.
pub(crate) struct Debts {
    host: Client,
    namespace: String,
    known: Mutex<HashMap<Debtor, Arc<Debt>>>,
}

impl Debts {
    /// Nothing is known yet: [`Debts::learn`] is told of what the host has.
    pub(crate) fn new(host: Client, namespace: &str) -> Self {
        Self { host, namespace: namespace.to_owned(), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Debtor, Arc<Debt>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a `PropagatedVersion` if it is a debt; says whether it is. Only the control plane writes in the system namespace: what a tenant
    /// labels in a namespace of their own has nothing deleted.
    pub(crate) fn learn(&self, object: &impl ResourceExt) -> bool {
        if !object.labels().contains_key(OWED) || object.namespace().as_deref() != Some(&*self.namespace) {
            return false;
        }
        match object.annotations().get(OWED).and_then(|text| read(text)) {
            Some((debtor, debt)) => drop(self.known().insert(debtor, Arc::new(debt))),
            None => {
                tracing::warn!(name = %object.name_any(), "a deletion that is owed cannot be read; it is left alone")
            }
        }
        true
    }

    /// What is owed for an object.
    pub(crate) fn of(&self, r#type: &str, key: &Key) -> Option<Arc<Debt>> {
        self.known().get(&(r#type.into(), key.clone())).cloned()
    }

    /// The objects of a type for which something is owed.
    pub(crate) fn keys(&self, r#type: &str) -> Vec<Key> {
        self.known().keys().filter(|(name, _)| **name == *r#type).map(|(_, key)| key.clone()).collect()
    }

    /// Adds to what is owed for an object; once this succeeds it is on the host.
    pub(crate) async fn owe(&self, r#type: &str, key: &Key, debt: Debt) -> kube::Result<()> {
        let mut all = self.of(r#type, key).map(|debt| Debt::clone(&debt)).unwrap_or_default();
        all.clusters.extend(debt.clusters);
        self.write(r#type, key, all).await
    }

    /// Forgets what is owed for an object in some members.
    pub(crate) async fn settle(
        &self,
        r#type: &str,
        key: &Key,
        is_settled: impl Fn(&str) -> bool,
    ) -> kube::Result<()> {
        let Some(before) = self.of(r#type, key) else { return Ok(()) };
        let mut debt = Debt::clone(&before);
        debt.clusters.retain(|member, _| !is_settled(member));
        if debt == *before { Ok(()) } else { self.write(r#type, key, debt).await }
    }

    async fn write(&self, r#type: &str, key: &Key, debt: Debt) -> kube::Result<()> {
        let api: Api<PropagatedVersion> = Api::namespaced(self.host.clone(), &self.namespace);
        let name = name(r#type, key);
        let debtor = (r#type.into(), key.clone());
        if debt.clusters.is_empty() {
            match api.delete(&name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other?),
            }
            self.known().remove(&debtor);
            return Ok(());
        }
        let object = json!({
            "apiVersion": "core.kubefed.io/v1alpha1", "kind": "PropagatedVersion",
            "metadata": {"name": name, "labels": {OWED: "true"}, "annotations": {OWED: written(r#type, key, &debt).to_string()}},
        });
        api.patch(&name, &PatchParams::apply(names::FIELD_MANAGER).force(), &Patch::Apply(&object)).await?;
        self.known().insert(debtor, Arc::new(debt));
        Ok(())
    }
}

fn name(r#type: &str, key: &Key) -> String {
    format!("owed-{}", gojson::md5_hex(&json!([r#type, &*key.namespace, &*key.name])))
}

fn written(r#type: &str, key: &Key, debt: &Debt) -> Value {
    let clusters = debt.clusters.iter().map(|(name, uid)| (name.to_string(), json!(uid)));
    json!({
        "type": r#type, "namespace": &*key.namespace, "name": &*key.name,
        "clusters": clusters.collect::<serde_json::Map<_, _>>(),
    })
}

fn read(text: &str) -> Option<(Debtor, Debt)> {
    let debt: Value = serde_json::from_str(text).ok()?;
    let key = Key::new(debt["namespace"].as_str()?, debt["name"].as_str()?);
    let clusters = debt["clusters"].as_object()?.iter();
    let clusters = clusters.map(|(name, uid)| (name.as_str().into(), uid.as_str().map(str::to_owned)));
    Some(((debt["type"].as_str()?.into(), key), Debt { clusters: clusters.collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_debt_reads_back_as_written() {
        let key = Key::new("shop", "web");
        let debt = Debt { clusters: [("m1".into(), Some("u".to_owned())), ("m2".into(), None)].into() };
        let text = written("deployments.apps", &key, &debt).to_string();
        assert_eq!(read(&text), Some((("deployments.apps".into(), key), debt)));
    }

    #[test]
    fn objects_of_one_name_in_two_types_or_namespaces_owe_apart() {
        let names = [("a", "n", "x"), ("b", "n", "x"), ("a", "m", "x"), ("a", "", "n/x")]
            .map(|(r#type, namespace, object)| name(r#type, &Key::new(namespace, object)));
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
    }

    proptest! {
        #[test]
        fn any_annotation_is_read_without_harm(text in ".{0,40}") {
            let _ = read(&text);
        }
    }
}
