//! The preview itself: the plan for each object, and what each member says to a dry run of it. A member that does not answer is reported
//! as such, and is waited for once.

use std::collections::BTreeMap;

use futures::future::join_all;
use futures::{StreamExt, stream};
use hansa_api::names;
use hansa_cluster::Marks;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::host::{Host, HostError, NamespacePlacement};
use super::reach::{Link, Reach, Trouble};
use super::{Effect, Outlook, Preview};
use crate::dispatch;
use crate::federated::Federated;
use crate::key::Key;
use crate::overrides::{Cluster, Overrides};
use crate::placement::Placement;
use crate::plan::{
    self, Action, Copy, Goal, Ignored, Knowledge, Member, Observation, Plan, Situation, Step, Work,
};
use crate::status::{Reason, Word};
use crate::template;
use crate::types::TypeConfig;

/// How many objects are looked at side by side.
const SIDE_BY_SIDE: usize = 8;

/// A federated object whose outlook is asked for.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Its type.
    pub types: TypeConfig,
    /// Its name.
    pub key: Key,
    /// What is to be applied; `None` for the object as it stands on the host.
    pub wanted: Option<Value>,
}

/// What is to become of each object in each member. The objects are one change: a FederatedNamespace among them counts for the others.
pub async fn preview(host: &Host, reach: &Reach, proposals: Vec<Proposal>) -> Vec<Preview> {
    let ready = host.clusters().iter().filter(|(_, cluster)| cluster.is_ready());
    let links = join_all(ready.map(async |(name, cluster)| (name.clone(), Link::new(reach, cluster).await)));
    let objects = stream::iter(&proposals).map(|proposal| object(host, proposal)).buffered(SIDE_BY_SIDE);
    let (links, objects) = tokio::join!(links, objects.collect::<Vec<_>>());
    let links: BTreeMap<String, Link> = links.into_iter().collect();
    let mut namespaces: BTreeMap<&str, NamespacePlacement> = BTreeMap::new();
    for (proposal, object) in proposals.iter().zip(&objects) {
        if let (true, Ok((object, _))) = (proposal.types.is_namespaces(), object) {
            namespaces.insert(&proposal.key.name, Some(Placement::parse(object)));
        }
    }
    let looks = proposals.iter().zip(objects).map(|(proposal, object)| {
        let subject = Subject { host, links: &links, types: &proposal.types, key: &proposal.key };
        let namespace = namespaces.get(&*proposal.key.namespace).filter(|_| proposal.types.target_namespaced);
        subject.preview(object, namespace)
    });
    stream::iter(looks).buffered(SIDE_BY_SIDE).collect().await
}

async fn object(host: &Host, proposal: &Proposal) -> Result<(Value, Option<String>), HostError> {
    match &proposal.wanted {
        Some(wanted) => host.applied(&proposal.types, &proposal.key, wanted).await,
        None => host.federated(&proposal.types, &proposal.key).await.map(|object| (object, None)),
    }
}

/// One federated object, and where to look for its copies.
#[derive(Clone, Copy)]
struct Subject<'a> {
    host: &'a Host,
    links: &'a BTreeMap<String, Link>,
    types: &'a TypeConfig,
    key: &'a Key,
}

/// What a member has under the name of a copy.
type Found = Result<Option<Value>, String>;

impl Subject<'_> {
    async fn preview(
        self,
        object: Result<(Value, Option<String>), HostError>,
        namespace: Option<&NamespacePlacement>,
    ) -> Preview {
        let mut preview = Preview {
            kind: self.types.target.kind.clone(),
            namespace: if self.types.target_namespaced {
                self.key.namespace.to_string()
            } else {
                String::new()
            },
            name: self.key.name.to_string(),
            notes: Vec::new(),
            failed: false,
            clusters: Vec::new(),
        };
        let outlook = async {
            let (object, note) = object?;
            preview.notes.extend(note);
            self.outlook(&object, namespace, &mut preview.notes).await
        };
        match outlook.await {
            Ok(clusters) => preview.clusters = clusters,
            Err(error) => {
                preview.notes.push(error.to_string());
                preview.failed = true;
            }
        }
        preview
    }

    async fn outlook(
        self,
        object: &Value,
        namespace: Option<&NamespacePlacement>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Outlook>, HostError> {
        let Self { host, links, types, key } = self;
        if !self.is_propagated() {
            notes.push(format!("nothing happens: propagation of {} is turned off", types.name));
            return Ok(Vec::new());
        }
        let federated = Federated::project(types, object);
        let from_host = async {
            match namespace {
                Some(namespace) => Ok(namespace.clone()),
                None => host.namespace_placement(types, key).await,
            }
        };
        let found = join_all(links.iter().map(async |(name, link)| (name.clone(), self.read(link).await)));
        let (namespace, record, host_namespace, found) =
            tokio::join!(from_host, host.record(types, key), host.host_namespace(types, key), found);
        let (namespace, record, host_namespace) = (namespace?, record?, host_namespace?);
        let found: BTreeMap<String, Found> = found.into_iter().collect();
        let members: BTreeMap<String, Member<'_>> = host
            .clusters()
            .iter()
            .map(|(name, cluster)| {
                let copy = found.get(name).map_or(Observation::Unsynced(None), observed);
                (name.clone(), Member { labels: cluster.labels(), ready: links.contains_key(name), copy })
            })
            .collect();
        let plan = plan::plan(&Situation {
            types,
            key,
            system_namespace: &host.system_namespace,
            federated: Knowledge::Known(Some(&federated)),
            gate: host.gate(types, &namespace),
            record: Knowledge::Known(record.as_ref()),
            members: Knowledge::Known(&members),
            host_namespace: Knowledge::Known(host_namespace.as_deref()),
            debt: None,
            is_overdue: false,
        });
        let work = match plan {
            Plan::Work(work) => work,
            Plan::Wait(_) => {
                notes.push(format!(
                    "nothing happens: the placement of FederatedNamespace {0}/{0} cannot be understood",
                    key.namespace
                ));
                return Ok(Vec::new());
            }
            Plan::Ignore(ignored) => {
                notes.push(format!(
                    "nothing happens: {}",
                    match ignored {
                        Ignored::SystemNamespace => "the namespace is one of the system's own",
                        Ignored::InvalidName => "a FederatedNamespace must have the name of its namespace",
                        Ignored::NotHeld => "the object is being deleted and is no longer held",
                    }
                ));
                return Ok(Vec::new());
            }
        };
        notes.extend(work.reason.map(|reason| match (reason, &federated.placement) {
            (Reason::NamespaceNotFederated, _) => {
                format!("there is no FederatedNamespace {0}/{0}", key.namespace)
            }
            (_, Err(error)) => format!("nothing happens: {error}"),
            (reason, Ok(_)) => reason.as_str().to_owned(),
        }));
        let source = Source {
            object,
            overrides: Overrides::parse(object),
            host_namespace,
            recreate: object["metadata"]["annotations"][names::ANNOTATION_RECREATE] == "true",
        };
        let mut outlooks =
            join_all(work.steps.iter().map(|step| self.step(&work, step, &found, &source))).await;
        // Where the placement was not understood, nothing can be said of who is selected.
        if work.reason != Some(Reason::ComputePlacementFailed) {
            let others = members.keys().filter(|name| !work.steps.iter().any(|step| step.member == **name));
            outlooks.extend(others.map(|name| Outlook::new(name, Effect::Nothing, "not selected")));
        }
        outlooks.sort_by(|a, b| a.cluster.cmp(&b.cluster));
        Ok(outlooks)
    }

    fn is_propagated(self) -> bool {
        let namespaced = self.types.target_namespaced;
        let is_served = if namespaced {
            self.host.only_namespace.is_some() || self.host.namespaces().is_some()
        } else {
            self.host.only_namespace.is_none()
        };
        self.types.enabled && self.host.propagates && is_served
    }

    fn api(self, client: Client, api_version: Option<&str>) -> Api<DynamicObject> {
        let mut resource = self.types.target.clone();
        if let Some(api_version) = api_version {
            resource.version = api_version.rsplit('/').next().unwrap_or(api_version).to_owned();
            resource.api_version = api_version.to_owned();
        }
        match self.types.target_namespaced {
            true => Api::namespaced_with(client, &self.key.namespace, &resource),
            false => Api::all_with(client, &resource),
        }
    }

    async fn read(self, link: &Link) -> Found {
        let found = link.ask(async |client| self.api(client, None).get_opt(&self.key.name).await).await;
        match found {
            Ok(found) => found
                .map(|object| serde_json::to_value(object).map_err(|error| error.to_string()))
                .transpose(),
            Err(trouble) => Err(trouble.told()),
        }
    }

    async fn step(
        self,
        work: &Work,
        step: &Step,
        found: &BTreeMap<String, Found>,
        source: &Source<'_>,
    ) -> Outlook {
        let say = |effect, message: &str| Outlook::new(&step.member, effect, message);
        let live = match found.get(&step.member) {
            Some(Err(why)) => return say(Effect::Unknown, why),
            Some(Ok(live)) => live.as_ref(),
            None => None,
        };
        match step.action {
            Action::Create | Action::Update => self.write(step, live, source).await,
            Action::Delete => {
                let why = if work.goal == Goal::Remove {
                    "the federated object is being deleted"
                } else {
                    "no longer selected"
                };
                say(Effect::Delete, why).comparing(live, None)
            }
            Action::Unlabel => say(Effect::Release, "the managed label is taken off; the object stays"),
            Action::Confirm => say(Effect::Nothing, "its copy is gone already"),
            Action::Owe => say(Effect::Delete, "it is away; its copy is deleted when it is back"),
            Action::None => match step.word {
                None => say(Effect::Nothing, "as it should be"),
                Some(Word::ClusterNotReady | Word::WaitingForRemoval | Word::ClusterNotFound) => {
                    say(Effect::Wait, &step.message)
                }
                Some(_) => say(Effect::Unknown, &step.message),
            },
        }
    }

    /// What the member would make of its copy.
    async fn write(self, step: &Step, live: Option<&Value>, source: &Source<'_>) -> Outlook {
        let say = |effect, message: String| Outlook::new(&step.member, effect, message);
        let effect = match live.map(|live| &live["metadata"]["labels"][names::LABEL_MANAGED]) {
            None => Effect::Create,
            Some(label) if label == names::MANAGED_TRUE => Effect::Change,
            Some(label) if label == names::MANAGED_FALSE => {
                return say(
                    Effect::Refused,
                    format!(
                        "the object in the cluster has the label {}=false, which forbids taking it over",
                        names::LABEL_MANAGED
                    ),
                );
            }
            Some(_)
                if self.host.adopt
                    || live.is_some_and(|live| {
                        source.host_namespace.as_deref() == live["metadata"]["uid"].as_str()
                    }) =>
            {
                Effect::Adopt
            }
            Some(_) => {
                return say(Effect::Refused, "an object of this name exists in the cluster and KubeFedConfig's adoptResources is Disabled".to_owned());
            }
        };
        let empty = BTreeMap::new();
        let labels = self.host.clusters().get(&step.member).map_or(&empty, |cluster| cluster.labels());
        let cluster = Cluster { name: &step.member, labels };
        let retained = live.filter(|_| template::needs_live(self.types, source.object));
        let body = match template::for_member(self.types, source.object, &source.overrides, cluster, retained)
        {
            Ok(body) => body,
            Err(error) => return say(Effect::Refused, error.to_string()),
        };
        let Some(link) = self.links.get(&step.member) else {
            return say(Effect::Unknown, "the cluster is not ready".to_owned());
        };
        let params =
            PatchParams { dry_run: true, force: true, ..PatchParams::apply(names::FIELD_MANAGER_FEDERATION) };
        let answer = link
            .ask(async |client| {
                self.api(client, body["apiVersion"].as_str())
                    .patch(&self.key.name, &params, &Patch::Apply(&body))
                    .await
            })
            .await;
        match answer {
            Ok(object) => match serde_json::to_value(object) {
                Ok(after) => say(effect, String::new()).comparing(live, Some(&after)),
                Err(error) => say(Effect::Unknown, error.to_string()),
            },
            Err(Trouble::Answer(status)) if status.code == 404 && self.lacks_namespace(link).await => say(
                effect,
                "its namespace is not there yet, so that the cluster has not checked it".to_owned(),
            )
            .comparing(live, Some(&body)),
            Err(Trouble::Answer(status)) if source.recreate && live.is_some() && is_immutable(&status) => {
                say(Effect::Recreate, status.message.clone()).comparing(live, Some(&body))
            }
            Err(Trouble::Answer(status)) if status.code < 500 && !is_callers(&status) => {
                say(Effect::Refused, status.message.clone())
            }
            Err(trouble) => say(Effect::Unknown, trouble.told()),
        }
    }

    async fn lacks_namespace(self, link: &Link) -> bool {
        if !self.types.target_namespaced {
            return false;
        }
        let namespaces = async |client| {
            Api::<k8s_openapi::api::core::v1::Namespace>::all(client)
                .get_metadata_opt(&self.key.namespace)
                .await
        };
        matches!(link.ask(namespaces).await, Ok(None))
    }
}

/// What copies are made from.
struct Source<'a> {
    object: &'a Value,
    overrides: Overrides,
    host_namespace: Option<String>,
    recreate: bool,
}

/// What the watch of the controllers would show: objects without the managed label are not seen by it.
fn observed(found: &Found) -> Observation {
    let live = match found {
        Err(why) => return Observation::Unsynced(Some(why.clone())),
        Ok(None) => return Observation::Absent,
        Ok(Some(live)) => live,
    };
    let metadata = &live["metadata"];
    if metadata["labels"][names::LABEL_MANAGED] != names::MANAGED_TRUE {
        return Observation::Absent;
    }
    let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
    Observation::Present(Copy {
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        generation: metadata["generation"].as_i64().unwrap_or_default(),
        deleting: !metadata["deletionTimestamp"].is_null(),
        applied: true,
        marks: Marks::of(live),
    })
}

/// Whether it is the caller who may not ask, which says nothing of what the control plane may do.
fn is_callers(status: &kube::core::Status) -> bool {
    status.code == 401 || (status.code == 403 && status.message.contains("cannot patch resource"))
}

fn is_immutable(status: &kube::core::Status) -> bool {
    dispatch::immutable(status).is_some_and(|immutable| immutable.only)
}
