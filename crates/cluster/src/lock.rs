//! The object that is the leader's lock, and the record in it, as client-go keeps both (`spec/kubefed.md §2.1`): a KubeFed controller manager and
//! ours can stand for the same lock.

use hansa_api::kubefed::ResourceLock;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, ObjectMeta, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};

/// Where the record is in a ConfigMap or an Endpoints object.
pub(crate) const ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

/// Who leads. The order and the names of the fields are those that client-go writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Record {
    /// Who has the lock; nobody, if it is empty.
    pub(crate) holder_identity: String,
    /// How long it holds from when it was last seen to change.
    pub(crate) lease_duration_seconds: i32,
    #[serde(with = "seconds")]
    pub(crate) acquire_time: Option<Timestamp>,
    #[serde(with = "seconds")]
    pub(crate) renew_time: Option<Timestamp>,
    /// How often it changed hands.
    pub(crate) leader_transitions: i32,
}

/// Times as Go's `metav1.Time` writes them: whole seconds, or null.
mod seconds {
    use k8s_openapi::jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        time.and_then(|time| Timestamp::from_second(time.as_second()).ok())
            .map(|time| time.to_string())
            .serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        // When it was renewed is for people; a time that cannot be read keeps nobody from leading.
        Ok(Option::<String>::deserialize(from)?.and_then(|text| text.parse().ok()))
    }
}

/// What was read of the lock.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) record: Record,
    /// The record as it stands there: whether it changes is what tells whether its holder lives.
    pub(crate) raw: String,
    object: Object,
}

#[derive(Clone, Debug, PartialEq)]
enum Object {
    Annotated(DynamicObject),
    Lease(Lease),
}

/// The lock of one name.
#[derive(Clone)]
pub(crate) struct Lock {
    name: String,
    api: Kind,
}

#[derive(Clone)]
enum Kind {
    Annotated(Api<DynamicObject>, ApiResource),
    Lease(Api<Lease>),
}

impl Lock {
    pub(crate) fn new(client: Client, kind: ResourceLock, namespace: &str, name: &str) -> Self {
        let annotated = |resource: ApiResource| {
            Kind::Annotated(Api::namespaced_with(client.clone(), namespace, &resource), resource)
        };
        let api = match kind {
            ResourceLock::ConfigMaps => annotated(ApiResource::erase::<ConfigMap>(&())),
            ResourceLock::Endpoints => annotated(ApiResource::erase::<Endpoints>(&())),
            ResourceLock::Leases => Kind::Lease(Api::namespaced(client, namespace)),
        };
        Self { name: name.to_owned(), api }
    }

    /// What is there; `None` if there is no such object.
    pub(crate) async fn read(&self) -> Result<Option<Held>, kube::Error> {
        Ok(match &self.api {
            Kind::Annotated(api, _) => api.get_opt(&self.name).await?.map(of_annotated),
            Kind::Lease(api) => api.get_opt(&self.name).await?.map(of_lease),
        })
    }

    /// Makes the object, with `record` in it.
    pub(crate) async fn create(&self, record: &Record) -> Result<Held, kube::Error> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let parameters = PostParams::default();
        match &self.api {
            Kind::Annotated(api, resource) => {
                let mut object = DynamicObject::new(&self.name, resource);
                object.metadata = metadata;
                annotate(&mut object, record)?;
                api.create(&parameters, &object).await.map(of_annotated)
            }
            Kind::Lease(api) => {
                let lease = Lease { metadata, spec: Some(spec(record, None)) };
                api.create(&parameters, &lease).await.map(of_lease)
            }
        }
    }

    /// Writes `record` into the object that was read. It carries the version it was read with, so that of two who try one fails.
    pub(crate) async fn write(&self, held: &Held, record: &Record) -> Result<Held, kube::Error> {
        let parameters = PostParams::default();
        match (&self.api, &held.object) {
            (Kind::Annotated(api, _), Object::Annotated(object)) => {
                let mut object = object.clone();
                annotate(&mut object, record)?;
                api.replace(&self.name, &parameters, &object).await.map(of_annotated)
            }
            (Kind::Lease(api), Object::Lease(lease)) => {
                let spec = spec(record, lease.spec.clone());
                let lease = Lease { spec: Some(spec), ..lease.clone() };
                api.replace(&self.name, &parameters, &lease).await.map(of_lease)
            }
            // A lock is of one kind from its beginning, so this does not come up; making the object anew is refused where there is one.
            _ => self.create(record).await,
        }
    }
}

fn of_annotated(object: DynamicObject) -> Held {
    let raw = object.annotations().get(ANNOTATION).cloned().unwrap_or_default();
    Held { record: parse(&raw), raw, object: Object::Annotated(object) }
}

/// A record that cannot be read counts as held by somebody unknown, who may live.
fn parse(raw: &str) -> Record {
    if raw.is_empty() {
        return Record::default();
    }
    let object = serde_json::from_str::<serde_json::Map<_, _>>(raw);
    let record = object.and_then(|object| serde_json::from_value(serde_json::Value::Object(object)));
    record.unwrap_or_else(|_| Record { holder_identity: "?".to_owned(), ..Record::default() })
}

fn of_lease(lease: Lease) -> Held {
    let spec = lease.spec.clone().unwrap_or_default();
    let record = Record {
        holder_identity: spec.holder_identity.clone().unwrap_or_default(),
        lease_duration_seconds: spec.lease_duration_seconds.unwrap_or_default(),
        acquire_time: spec.acquire_time.as_ref().map(|time| time.0),
        renew_time: spec.renew_time.as_ref().map(|time| time.0),
        leader_transitions: spec.lease_transitions.unwrap_or_default(),
    };
    Held { record, raw: format!("{spec:?}"), object: Object::Lease(lease) }
}

fn annotate(object: &mut DynamicObject, record: &Record) -> Result<(), kube::Error> {
    let text = serde_json::to_string(record).map_err(kube::Error::SerdeError)?;
    object.annotations_mut().insert(ANNOTATION.to_owned(), text);
    Ok(())
}

fn spec(record: &Record, former: Option<LeaseSpec>) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(record.holder_identity.clone()),
        lease_duration_seconds: Some(record.lease_duration_seconds),
        acquire_time: record.acquire_time.map(MicroTime),
        renew_time: record.renew_time.map(MicroTime),
        lease_transitions: Some(record.leader_transitions),
        ..former.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::ToSpan;

    use super::*;

    const KUBEFED: &str = r#"{"holderIdentity":"host-1_7e0b","leaseDurationSeconds":15,"acquireTime":"2022-08-10T07:00:01Z","renewTime":"2022-08-10T07:00:31Z","leaderTransitions":2}"#;

    #[test]
    fn a_record_is_read_and_written_as_client_go_does() {
        let record = parse(KUBEFED);
        assert_eq!(record.holder_identity, "host-1_7e0b");
        assert_eq!((record.lease_duration_seconds, record.leader_transitions), (15, 2));
        assert_eq!(serde_json::to_string(&record).unwrap(), KUBEFED);
    }

    #[test]
    fn fractions_of_a_second_and_fields_of_newer_versions_do_no_harm() {
        let mut record = parse(KUBEFED);
        record.renew_time = record.renew_time.map(|time| time + 400.milliseconds());
        assert_eq!(serde_json::to_string(&record).unwrap(), KUBEFED);
        let newer = KUBEFED.replace("{\"holder", "{\"strategy\":\"OldestEmulationVersion\",\"holder");
        assert_eq!(parse(&newer), parse(KUBEFED));
        let released = parse(
            r#"{"holderIdentity":"","leaseDurationSeconds":1,"acquireTime":null,"renewTime":null,"leaderTransitions":3}"#,
        );
        assert_eq!((released.holder_identity.as_str(), released.acquire_time), ("", None));
    }

    #[test]
    fn what_cannot_be_read_is_held_by_somebody() {
        assert_eq!(parse("").holder_identity, "");
        for broken in ["x", "[]", "{\"holderIdentity\":7}"] {
            assert_ne!(parse(broken).holder_identity, "", "{broken}");
        }
    }
}
