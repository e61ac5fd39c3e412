//! The policy as it stands in the store, at the moment of each decision.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;

use super::rbac::{GROUP, Kind, Policy};
use crate::store::{Compacted, Event, EventKind, Store, Watch, WatchError};

/// Keeps a [`Policy`] in step with the store by reading what was committed since the last decision.
#[derive(Debug)]
pub(crate) struct Index {
    store: Store,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The policy is exactly that of this revision.
    revision: u64,
    /// Empty before the first decision, and when history was lost.
    watches: Vec<(Kind, Watch)>,
    policy: Arc<Policy>,
}

impl Index {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, state: Mutex::default() }
    }

    /// The policy as of the newest write that is visible now.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.watches.is_empty() || state.revision < self.store.revision() {
            if !state.watches.is_empty() && state.advance(&self.store).is_ok() {
                break;
            }
            // The first decision, or the history was lost.
            state.watches.clear();
            if let Err(error) = state.rebuild(&self.store) {
                tracing::error!(%error, "roles and bindings cannot be read: everything is refused");
                state.policy = Arc::default();
                break;
            }
        }
        state.policy.clone()
    }
}

impl State {
    /// Applies what was committed, as a whole: never a part of it together with what came later.
    fn advance(&mut self, store: &Store) -> Result<(), WatchError> {
        loop {
            let revision = store.revision();
            let mut newest = 0;
            for (kind, watch) in &mut self.watches {
                while let Some(event) = watch.next().now_or_never() {
                    let event = event?;
                    newest = newest.max(event.revision());
                    apply(Arc::make_mut(&mut self.policy), *kind, &event);
                }
            }
            if newest <= revision {
                self.revision = revision;
                return Ok(());
            }
        }
    }

    fn rebuild(&mut self, store: &Store) -> Result<(), Compacted> {
        let mut policy = Policy::default();
        let mut watches = Vec::with_capacity(Kind::ALL.len());
        let revision = store.revision();
        for kind in Kind::ALL {
            let resource = format!("{}.{GROUP}", kind.resource());
            let page = store.list(&resource, None, None, Some(revision), 0)?;
            for entry in page.entries {
                put(&mut policy, kind, &entry);
            }
            watches.push((kind, store.watch(resource, None, revision)?));
        }
        *self = Self { revision, watches, policy: Arc::new(policy) };
        Ok(())
    }
}

fn apply(policy: &mut Policy, kind: Kind, event: &Event) {
    match event.kind {
        EventKind::Put { .. } => put(policy, kind, &event.entry),
        EventKind::Delete => policy.remove(kind, &event.entry.key.namespace, &event.entry.key.name),
    }
}

fn put(policy: &mut Policy, kind: Kind, entry: &crate::store::Entry) {
    let key = &entry.key;
    if let Err(error) = policy.put(kind, &key.namespace, &key.name, &entry.object) {
        tracing::error!(%key, %error, "does not parse and grants nothing");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        auth::{
            User,
            rbac::{Attributes, Target},
        },
        store::{Draft, Expect, Facts, Key, Limits, Op},
    };

    fn key(resource: &str, name: &str) -> Key {
        Key::new(format!("{resource}.{GROUP}"), "", name)
    }

    async fn create(store: &Store, key: Key, object: Value) {
        let draft = Draft::new(&object, Facts::default());
        store.write(Op::Put { key, expect: Expect::Absent, draft }).await.unwrap();
    }

    async fn delete(store: &Store, key: Key) {
        let expect = Expect::Revision(store.get(&key).unwrap().revision);
        store
            .write(Op::Delete { key, expect, last: Draft::new(&json!({}), Facts::default()) })
            .await
            .unwrap();
    }

    fn role() -> Value {
        json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]})
    }

    fn binding() -> Value {
        json!({"roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "User", "name": "bob"}]})
    }

    fn allowed(index: &Index) -> bool {
        let user = User::new("bob", ["dev"]);
        let target =
            Target::Resource { group: "", resource: "pods", subresource: "", namespace: "a", name: "p" };
        index.policy().authorize(&Attributes { user: &user, verb: "get", target }).allowed
    }

    #[tokio::test]
    async fn a_decision_sees_every_write_that_was_acknowledged_before_it() {
        let store = Store::memory();
        let index = Index::new(store.clone());
        assert!(!allowed(&index));
        create(&store, key("clusterroles", "r"), role()).await;
        assert!(!allowed(&index));
        create(&store, key("clusterrolebindings", "b"), binding()).await;
        assert!(allowed(&index));
        delete(&store, key("clusterroles", "r")).await;
        assert!(!allowed(&index));
        create(&store, key("clusterroles", "r"), role()).await;
        assert!(allowed(&index));
        delete(&store, key("clusterrolebindings", "b")).await;
        assert!(!allowed(&index));
    }

    #[tokio::test]
    async fn a_decision_is_right_after_the_history_was_lost() {
        let store = Store::memory_with(Limits { events: 4, ..Limits::default() });
        let index = Index::new(store.clone());
        create(&store, key("clusterroles", "r"), role()).await;
        assert!(!allowed(&index));
        create(&store, key("clusterrolebindings", "b"), binding()).await;
        for n in 0..64 {
            create(&store, key("clusterroles", &format!("x{n}")), role()).await;
        }
        delete(&store, key("clusterrolebindings", "b")).await;
        assert!(!allowed(&index));
    }

    #[tokio::test]
    async fn an_object_that_does_not_parse_grants_nothing() {
        let store = Store::memory();
        let index = Index::new(store.clone());
        create(&store, key("clusterrolebindings", "b"), binding()).await;
        create(&store, key("clusterroles", "r"), json!({"rules": [{"verbs": "get"}]})).await;
        assert!(!allowed(&index));
    }
}
