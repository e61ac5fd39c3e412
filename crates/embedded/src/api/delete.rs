//! `delete` and `deletecollection`: grace, finalizers, propagation.

use std::sync::Arc;

use hansa_machinery::Status;
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use super::{
    call::{Answer, Call, List, Payload},
    convert,
    list::Selection,
    metadata,
    options::{DeleteOptions, Propagation},
    render::success,
    write::Rejected,
};
use crate::{
    admission,
    registry::policy::{self, Propagation as Default_},
    store::{Entry, Expect},
    webhooks::Admission,
};

/// The finalizer that makes dependents go first.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that makes dependents lose their owner.
pub(crate) const ORPHAN: &str = "orphan";

/// How often a deletion is tried again when others write the object in between.
const MAX_ATTEMPTS: usize = 32;

/// What deleting an object means in its present state.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// It goes now.
    Remove,
    /// It stays for the time being, in this state.
    Update(Value),
    /// Deletion is under way already; nothing changes.
    Pending,
}

/// The finalizers of the garbage collector that `options` ask for, with the others the object has.
fn finalizers(storage: &str, live: &Value, options: &DeleteOptions) -> Vec<Value> {
    let has = |name: &str| metadata::finalizers(live).contains(&name);
    let fallback = policy::default_propagation(storage);
    let wanted = match (fallback, options.orphan_dependents, options.propagation) {
        (Default_::Unsupported, ..) => None,
        (_, Some(true), _) | (_, None, Some(Propagation::Orphan)) => Some(ORPHAN),
        (_, Some(false), _) | (_, None, Some(Propagation::Background)) => None,
        (_, None, Some(Propagation::Foreground)) => Some(FOREGROUND),
        (_, None, None) if has(ORPHAN) => Some(ORPHAN),
        (_, None, None) if has(FOREGROUND) => Some(FOREGROUND),
        (Default_::Orphan, None, None) => Some(ORPHAN),
        (_, None, None) => None,
    };
    let others = metadata::finalizers(live).into_iter().filter(|f| *f != ORPHAN && *f != FOREGROUND);
    let mut all: Vec<Value> = others.map(Value::from).collect();
    all.extend(wanted.map(Value::from));
    all
}

/// The time a Pod may take to stop, if it takes any (`podStrategy.CheckGracefulDelete`).
fn grace(storage: &str, live: &Value, options: &DeleteOptions) -> Option<i64> {
    if storage != "pods" {
        return None;
    }
    let specified = live["spec"]["terminationGracePeriodSeconds"].as_i64();
    let mut grace = options.grace_period_seconds.or(specified).unwrap_or(30);
    if live["spec"]["nodeName"].as_str().unwrap_or_default().is_empty()
        || matches!(live["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
    {
        grace = 0;
    }
    Some(grace)
}

fn decide(storage: &str, live: &Value, options: &DeleteOptions, now: Timestamp) -> Verdict {
    let mut object = live.clone();
    let deleting = metadata::is_deleting(live);
    let period = live["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let mut graceful = false;
    if let Some(grace) = grace(storage, live, options) {
        if deleting && period > 0 {
            // A deletion under way can only be made shorter.
            let Some(asked) = options.grace_period_seconds.filter(|asked| *asked < period) else {
                return Verdict::Pending;
            };
            let since =
                live["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
            let at =
                since.and_then(|t| t.checked_add((asked - period).seconds()).ok()).unwrap_or(now).max(now);
            object["metadata"]["deletionTimestamp"] = metadata::rfc3339(at).into();
            object["metadata"]["deletionGracePeriodSeconds"] = asked.into();
            graceful = asked > 0;
        } else if !deleting && grace > 0 {
            let at = now.checked_add(grace.min(1 << 31).seconds()).unwrap_or(now);
            object["metadata"]["deletionTimestamp"] = metadata::rfc3339(at).into();
            object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            bump(&mut object);
            graceful = true;
        }
    }
    let finalizers = finalizers(storage, live, options);
    let pending = !finalizers.is_empty();
    match pending {
        true => object["metadata"]["finalizers"] = finalizers.into(),
        false => drop(metadata::of(&mut object).remove("finalizers")),
    }
    if graceful {
        return Verdict::Update(object);
    }
    let namespace_content =
        storage == "namespaces" && live["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    if !pending && !namespace_content {
        return Verdict::Remove;
    }
    if !deleting {
        object["metadata"]["deletionTimestamp"] = metadata::rfc3339(now).into();
        bump(&mut object);
    }
    if namespace_content {
        object["status"]["phase"] = "Terminating".into();
    } else {
        object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
    }
    if object == *live { Verdict::Pending } else { Verdict::Update(object) }
}

/// Controllers of an object that is going away must see that its desired state changed.
fn bump(object: &mut Value) {
    let generation = metadata::generation(object);
    if generation > 0 {
        object["metadata"]["generation"] = (generation + 1).into();
    }
}

/// What became of an object that was to be deleted.
pub(crate) struct Deleted {
    /// Its last state, or the state it has while it waits.
    pub(crate) object: Value,
    /// Whether it is gone.
    pub(crate) gone: bool,
}

impl Call {
    /// Answers `DELETE` of one object.
    pub(crate) async fn delete(&self, options: &DeleteOptions) -> Result<Answer, Status> {
        admission::admit_delete(self, &self.name)?;
        let Deleted { object, gone } = self.delete_one(&self.name, options, true).await?;
        let code = if !gone && options.orphan_dependents == Some(false) { 202 } else { 200 };
        if gone && !policy::returns_deleted(&self.resource.storage) {
            let value = success(&self.resource, &self.name, &object["metadata"]["uid"]);
            return Ok(Answer::Plain { code, value });
        }
        Ok(Answer::made(code, object))
    }

    /// Deletes one object; `asks` says whether admission webhooks are asked first.
    pub(crate) async fn delete_one(
        &self,
        name: &str,
        options: &DeleteOptions,
        asks: bool,
    ) -> Result<Deleted, Status> {
        for _ in 0..MAX_ATTEMPTS {
            let entry = self.server.store().get(&self.key_of(name)).ok_or_else(|| self.not_found(name))?;
            match self.delete_entry(&entry, options, asks).await {
                Ok(deleted) => return Ok(deleted),
                Err(Rejected::Failed(status)) => return Err(status),
                Err(Rejected::Raced) => {}
            }
        }
        Err(Status::conflict(&self.resource.group, &self.resource.name, name, super::write::MODIFIED))
    }

    async fn delete_entry(
        &self,
        entry: &Arc<Entry>,
        options: &DeleteOptions,
        asks: bool,
    ) -> Result<Deleted, Rejected> {
        let live = convert::show_value(&self.resource, entry)?;
        self.check_preconditions(&live, options)?;
        let now: Timestamp = metadata::now().parse().unwrap_or(Timestamp::UNIX_EPOCH);
        let verdict = decide(&self.resource.storage, &live, options, now);
        if asks && verdict != Verdict::Pending {
            let webhooks = Admission::delete(self, &entry.key.name, options);
            webhooks.mutate(None, Some(&live)).await?;
            webhooks.validate(None, Some(&live)).await?;
        }
        match verdict {
            Verdict::Pending => Ok(Deleted { object: live, gone: false }),
            Verdict::Remove => {
                self.remove(entry, &live, options.dry_run).await?;
                Ok(Deleted { object: live, gone: true })
            }
            Verdict::Update(object) => {
                let expect = Expect::Revision(entry.revision);
                let stored = self.commit(entry.key.clone(), expect, &object, options.dry_run).await?;
                if !options.dry_run {
                    admission::written(self);
                }
                Ok(Deleted { object: convert::show_value(&self.resource, &stored)?, gone: false })
            }
        }
    }

    fn check_preconditions(&self, live: &Value, options: &DeleteOptions) -> Result<(), Status> {
        let text = |field: &str| live["metadata"][field].as_str().unwrap_or_default();
        let refuse =
            |why: &str| Err(Status::conflict(&self.resource.group, &self.resource.name, text("name"), why));
        if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != text("uid")) {
            return refuse(&format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
                 deleted and then recreated",
                text("uid")
            ));
        }
        if let Some(version) = options.resource_version.as_deref().filter(|v| *v != text("resourceVersion")) {
            return refuse(&format!(
                "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). \
                 The object might have been modified",
                text("resourceVersion")
            ));
        }
        Ok(())
    }

    /// Answers `DELETE` of a collection: every selected object, one after the other.
    pub(crate) async fn delete_collection(&self, options: &DeleteOptions) -> Result<Answer, Status> {
        let selection = Selection::parse(&self.query, &self.resource)?;
        let limit = self.query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
        let (entries, revision, next, remaining) = self.select(&selection, limit)?;
        let mut items = Vec::with_capacity(entries.len());
        for entry in entries {
            admission::admit_delete(self, &entry.key.name)?;
            let call = self.at(&entry.key.namespace, &entry.key.name);
            match call.delete_one(&entry.key.name, options, true).await {
                Ok(deleted) => items.push(Payload::Made(deleted.object)),
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        Ok(Answer::List(List { items, revision, next, remaining }))
    }

    /// Deletes the object that an eviction names, unless a disruption budget forbids it.
    pub(crate) async fn evict(&self, body: &Value) -> Result<Answer, Status> {
        let options = &body["deleteOptions"];
        let mut options =
            DeleteOptions::parse(Some(options).filter(|o| o.is_object()), &super::query::Query::default())?;
        options.dry_run |= self.query.all("dryRun").any(|d| d == "All");
        let entry = self.entry()?;
        let pod = convert::show_value(&self.resource, &entry)?;
        let done = matches!(pod["status"]["phase"].as_str(), Some("Pending" | "Succeeded" | "Failed"));
        if !done && !metadata::is_deleting(&pod) {
            self.spend_disruption(&entry, options.dry_run).await?;
        }
        self.delete_one(&self.name, &options, false).await?;
        Ok(Answer::Plain {
            code: 201,
            value: json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        })
    }

    /// Takes one disruption from the budget that covers the Pod.
    async fn spend_disruption(&self, pod: &Entry, dry_run: bool) -> Result<(), Status> {
        let Some(budgets) = self.catalogue.stored("poddisruptionbudgets.policy") else { return Ok(()) };
        let page = self.server.store().list(&budgets.storage, Some(&pod.key.namespace), None, None, 0);
        let page = page.map_err(|gone| Status::internal(gone.to_string()))?;
        let mut covering = Vec::new();
        for entry in page.entries {
            let budget = convert::show_value(budgets, &entry)?;
            let selector = hansa_machinery::selector::LabelSelector::from_value(&budget["spec"]["selector"])?;
            if selector.matches(&pod.facts.labels) {
                covering.push((entry, budget));
            }
        }
        match covering.as_slice() {
            [] => Ok(()),
            [(entry, budget)] => {
                let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
                if allowed <= 0 {
                    let mut status = Status::too_many_requests(
                        "Cannot evict pod as it would violate the pod's disruption budget.",
                        10,
                    );
                    status.causes = vec![hansa_machinery::status::Cause {
                        reason: "DisruptionBudget",
                        field: String::new(),
                        message: format!(
                            "The disruption budget {} needs {} healthy pods and has {} currently",
                            entry.key.name,
                            budget["status"]["desiredHealthy"],
                            budget["status"]["currentHealthy"]
                        ),
                    }];
                    return Err(status);
                }
                let mut budget = budget.clone();
                budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
                budget["status"]["disruptedPods"][&pod.key.name] = metadata::now().into();
                let call =
                    Call { resource: budgets.clone(), ..self.at(&entry.key.namespace, &entry.key.name) };
                let expect = Expect::Revision(entry.revision);
                match call.commit(entry.key.clone(), expect, &budget, dry_run).await {
                    Ok(_) => Ok(()),
                    Err(Rejected::Raced) => {
                        Err(Status::too_many_requests("the pod's disruption budget is being updated", 1))
                    }
                    Err(Rejected::Failed(status)) => Err(status),
                }
            }
            _ => Err(Status::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            )),
        }
    }

    /// The same call about another object of the resource.
    pub(crate) fn at(&self, namespace: &str, name: &str) -> Self {
        Self {
            server: self.server.clone(),
            user: self.user.clone(),
            catalogue: self.catalogue.clone(),
            resource: self.resource.clone(),
            subresource: String::new(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            query: self.query.clone(),
            user_agent: self.user_agent.clone(),
            unasked: self.unasked,
            warnings: Default::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2030-01-01T00:00:10Z".parse().expect("a time")
    }

    fn options(propagation: Option<Propagation>) -> DeleteOptions {
        DeleteOptions { propagation, ..DeleteOptions::default() }
    }

    #[test]
    fn propagation_sets_the_finalizers_of_the_garbage_collector() {
        let live = json!({"metadata": {"name": "a", "generation": 1, "finalizers": ["x"]}});
        let Verdict::Update(object) =
            decide("deployments.apps", &live, &options(Some(Propagation::Foreground)), now())
        else {
            panic!("it waits for its finalizers");
        };
        assert_eq!(object["metadata"]["finalizers"], json!(["x", FOREGROUND]));
        assert_eq!(object["metadata"]["generation"], 2);
        assert_eq!(object["metadata"]["deletionTimestamp"], "2030-01-01T00:00:10Z");
        let bare = json!({"metadata": {"name": "a"}});
        assert_eq!(decide("deployments.apps", &bare, &options(None), now()), Verdict::Remove);
        assert!(
            matches!(decide("jobs.batch", &bare, &options(None), now()), Verdict::Update(o) if o["metadata"]["finalizers"] == json!([ORPHAN]))
        );
        assert_eq!(decide("events", &bare, &options(Some(Propagation::Foreground)), now()), Verdict::Remove);
    }

    #[test]
    fn a_running_pod_gets_its_grace_and_a_shorter_one_when_asked() {
        let pod = json!({"metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
        let Verdict::Update(stopping) = decide("pods", &pod, &options(None), now()) else {
            panic!("graceful")
        };
        assert_eq!(stopping["metadata"]["deletionTimestamp"], "2030-01-01T00:00:40Z");
        assert_eq!(decide("pods", &stopping, &options(None), now()), Verdict::Pending);
        let at_once = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        assert_eq!(decide("pods", &stopping, &at_once, now()), Verdict::Remove);
        let unscheduled = json!({"metadata": {}, "spec": {}});
        assert_eq!(decide("pods", &unscheduled, &options(None), now()), Verdict::Remove);
    }

    #[test]
    fn a_namespace_terminates_before_it_goes() {
        let live =
            json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Verdict::Update(object) = decide("namespaces", &live, &options(None), now()) else {
            panic!("terminating")
        };
        assert_eq!(object["status"]["phase"], "Terminating");
        assert_eq!(decide("namespaces", &object, &options(None), now()), Verdict::Pending);
    }
}
