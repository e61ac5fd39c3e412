//! Admission webhooks, called as kube-apiserver calls them: mutating ones one after the other before an object is validated,
//! validating ones all at once before it is stored. `rules` decides who is asked, `review` knows question and answer, `caller`
//! reaches them; here stands the order of things.

mod caller;
mod hook;
mod review;
mod rules;
mod service;

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use futures::future;
use hansa_machinery::{Status, json_patch, status::Cause, structural::Condition};
use serde_json::{Value, json};

pub(crate) use self::rules::Operation;
use self::{
    caller::{Caller, Target},
    hook::{Hook, Hooks, Kind, Place},
    review::{Answer, Name},
    rules::Subject,
};
use crate::{
    api::{call::Call, convert, metadata, options::DeleteOptions},
    registry::Resource,
    store::Key,
};

/// The group of the configurations, which no webhook is asked about: a broken one could not be repaired.
const EXEMPT: &str = "admissionregistration.k8s.io";

/// Put into the extensions of a request, keeps webhooks from being asked about it. It cannot come over a network: it is for
/// what a host writes before it serves, when whoever would have to repair a broken webhook cannot reach it yet.
#[derive(Clone, Copy, Debug)]
pub struct Unasked;

/// The webhooks of one server.
#[derive(Debug, Default)]
pub(crate) struct Webhooks {
    hooks: Hooks,
    caller: Caller,
}

/// One request in the eyes of webhooks.
pub(crate) struct Admission<'a> {
    call: &'a Call,
    operation: Operation,
    subresource: &'a str,
    name: &'a str,
    options: Value,
    dry_run: bool,
}

/// A webhook that is asked, and the version in which it sees the request.
struct Asked<'a> {
    hook: &'a Hook,
    version: String,
}

/// Why there is no answer that admits the request.
enum Failure {
    /// The webhook could not be asked; its failure policy says what follows.
    Calling(String),
    /// The request fails.
    Refused(Status),
}

impl<'a> Admission<'a> {
    /// The creation of an object, whose name may still be to be made up.
    pub(crate) fn create(call: &'a Call, name: &'a str, dry_run: bool) -> Self {
        let options = write_options(call, "CreateOptions", dry_run);
        Self { call, operation: Operation::Create, subresource: &call.subresource, name, options, dry_run }
    }

    /// A change of an object, or of what a subresource shows of it.
    pub(crate) fn update(call: &'a Call, subresource: &'a str, dry_run: bool) -> Self {
        let options = write_options(call, "UpdateOptions", dry_run);
        Self { call, operation: Operation::Update, subresource, name: &call.name, options, dry_run }
    }

    /// The deletion of an object.
    pub(crate) fn delete(call: &'a Call, name: &'a str, options: &DeleteOptions) -> Self {
        let dry_run = options.dry_run;
        Self {
            call,
            operation: Operation::Delete,
            subresource: "",
            name,
            options: options.to_value(),
            dry_run,
        }
    }

    /// What mutating webhooks make of `object`; of a deletion, whether they allow it.
    pub(crate) async fn mutate(
        &self,
        mut object: Option<Value>,
        old: Option<&Value>,
    ) -> Result<Option<Value>, Status> {
        let hooks = self.hooks(Kind::Mutating)?;
        let (mut seen, mut repeat) = (BTreeSet::new(), BTreeSet::new());
        for round in 0..2 {
            for (index, hook) in hooks.iter().enumerate() {
                let Some(asked) = self.asked(hook, object.as_ref(), old)? else { continue };
                if round == 1 && !repeat.remove(&index) {
                    continue;
                }
                let answer = self.ask(&asked, object.as_ref(), old, Kind::Mutating).await;
                let Some(answer) = self.settle(hook, answer)? else { continue };
                if !answer.patch.is_empty() {
                    let Some(before) = object.take() else { return Err(unpatchable(hook)) };
                    let after = self.patched(&asked, &before, &answer.patch)?;
                    if after != before {
                        // Who saw it before is to see it again.
                        repeat.append(&mut seen);
                    }
                    object = Some(after);
                }
                if hook.again {
                    seen.insert(index);
                }
            }
            if repeat.is_empty() {
                break;
            }
        }
        Ok(object)
    }

    /// Asks the validating webhooks, all at once; the first refusal, in their order, is the answer.
    pub(crate) async fn validate(&self, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let hooks = self.hooks(Kind::Validating)?;
        let mut all = Vec::new();
        for hook in hooks.iter() {
            all.extend(self.asked(hook, object, old)?);
        }
        let answers = all.iter().map(|asked| self.ask(asked, object, old, Kind::Validating));
        let answers = future::join_all(answers).await;
        let settled = all.iter().zip(answers).map(|(asked, answer)| self.settle(asked.hook, answer));
        settled.collect::<Vec<_>>().into_iter().try_for_each(|settled| settled.map(drop))
    }

    fn hooks(&self, kind: Kind) -> Result<Arc<[Hook]>, Status> {
        if self.call.resource.group == EXEMPT || self.call.unasked {
            return Ok(Arc::new([]));
        }
        self.call.server.inner().webhooks.hooks.current(self.call.server.store(), kind)
    }

    /// Whether and how a webhook is asked.
    fn asked<'h>(
        &self,
        hook: &'h Hook,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Option<Asked<'h>>, Status> {
        let resource = &self.call.resource;
        let equivalents: Vec<String> = if hook.equivalent {
            self.versions()
                .filter(|other| other.version != resource.version)
                .map(|o| o.version.clone())
                .collect()
        } else {
            Vec::new()
        };
        let subject = Subject {
            operation: self.operation,
            group: &resource.group,
            version: &resource.version,
            resource: &resource.name,
            subresource: self.subresource,
            namespaced: resource.namespaced,
            equivalents: &equivalents,
        };
        let Some(version) = rules::version(hook, &subject) else { return Ok(None) };
        let labels = self.namespace_labels(hook, object)?;
        if !rules::selected(hook, labels.as_ref(), object, old) {
            return Ok(None);
        }
        if let Some(why) = &hook.unusable {
            let why = format!("admission webhook {:?}: {why}", hook.name);
            return Err(Status::forbidden(&resource.group, &resource.name, self.name, &why));
        }
        let asked = Asked { hook, version: version.to_owned() };
        Ok(self.meets_conditions(&asked, object, old)?.then_some(asked))
    }

    /// Whether a webhook's match conditions hold. One that does not settles it; one that cannot be decided counts as the
    /// failure policy says.
    fn meets_conditions(
        &self,
        asked: &Asked<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<bool, Status> {
        let hook = asked.hook;
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let shown = |object: Option<&Value>| {
            object.map(|object| self.converted(&asked.version, object).into_owned()).unwrap_or_default()
        };
        let (object, old, request) = (shown(object), shown(old), self.request("", asked, None, None));
        let variables = [("object", &object), ("oldObject", &old), ("request", &request)];
        let mut undecided = Vec::new();
        for condition in &hook.conditions {
            match condition.holds(&variables) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => undecided.push(why),
            }
        }
        if undecided.is_empty() || hook.ignores_failure {
            return Ok(undecided.is_empty());
        }
        let resource = &self.call.resource;
        Err(Status::forbidden(&resource.group, &resource.name, self.name, &undecided.join(", ")))
    }

    /// The labels that a namespace selector is about, where it is about any.
    fn namespace_labels(
        &self,
        hook: &Hook,
        object: Option<&Value>,
    ) -> Result<Option<std::collections::BTreeMap<String, String>>, Status> {
        let is_namespace = &*self.call.resource.storage == "namespaces";
        if hook.namespaces.is_everything() || !(self.call.resource.namespaced || is_namespace) {
            return Ok(None);
        }
        if let (true, "", Some(object)) = (is_namespace, self.subresource, object) {
            let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
            let labels =
                labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()));
            return Ok(Some(labels.collect()));
        }
        let name = self.namespace();
        let entry = self.call.server.store().get(&Key::new("namespaces", "", name));
        let entry = entry.ok_or_else(|| Status::not_found("", "namespaces", name))?;
        Ok(Some(entry.facts.labels.clone()))
    }

    /// The namespace as webhooks are told it: a Namespace is its own.
    fn namespace(&self) -> &str {
        if &*self.call.resource.storage == "namespaces" { self.name } else { &self.call.namespace }
    }

    /// The versions the objects are served in.
    fn versions(&self) -> impl Iterator<Item = &Arc<Resource>> {
        let resource = &self.call.resource;
        let groups = self.call.catalogue.groups.iter().filter(|group| group.name == resource.group);
        groups.flat_map(|group| &group.versions).filter_map(|(_, resources)| resources.get(&resource.name))
    }

    async fn ask(
        &self,
        asked: &Asked<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
        kind: Kind,
    ) -> Result<Answer, Failure> {
        let hook = asked.hook;
        if self.dry_run && !hook.dry {
            let why = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Failure::Refused(Status::bad_request(why)));
        }
        let version = hook.version.ok_or_else(|| {
            Failure::Calling("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)".into())
        })?;
        let uid = uuid::Uuid::new_v4().to_string();
        let question = review::question(version, &self.request(&uid, asked, object, old));
        let target = self.target(hook).map_err(Failure::Calling)?;
        let caller = &self.call.server.inner().webhooks.caller;
        let body = caller.post(&target, question, hook.timeout).await.map_err(Failure::Calling)?;
        review::answer(&hook.name, &body, version, &uid, kind == Kind::Mutating).map_err(Failure::Calling)
    }

    fn target(&self, hook: &Hook) -> Result<Target, String> {
        match &hook.place {
            Place::Url(url) => Target::of_url(url, hook.authorities.clone())
                .map_err(|why| format!("could not get REST client: {why}")),
            Place::Service { namespace, name, path, port } => {
                let url = format!("https://{name}.{namespace}.svc:{port}/{}", path.trim_start_matches('/'));
                let dial =
                    service::resolve(self.call.server.store(), namespace, name, *port).map_err(|why| {
                        let asked = format!("{url}?timeout={}s", hook.timeout.as_secs());
                        format!("failed to call webhook: Post {asked:?}: {why}")
                    })?;
                let server_name = format!("{name}.{namespace}.svc");
                Ok(Target { dial, server_name, url, authorities: hook.authorities.clone() })
            }
        }
    }

    /// The request as `AdmissionReview` has it.
    fn request(&self, uid: &str, asked: &Asked<'_>, object: Option<&Value>, old: Option<&Value>) -> Value {
        let resource = &self.call.resource;
        let name = |version: &str, what: &str| Name {
            group: resource.group.clone(),
            version: version.to_owned(),
            what: what.to_owned(),
        };
        let kind = |version: &str| match resource.subresource(self.subresource) {
            Some(sub) => Name {
                group: sub.group.clone().unwrap_or_else(|| resource.group.clone()),
                version: match &sub.version {
                    Some(own) => own.clone(),
                    None => version.to_owned(),
                },
                what: sub.kind.clone(),
            },
            None => name(version, &resource.kind),
        };
        let shown = |object: Option<&Value>| {
            object.map(|object| self.converted(&asked.version, object).into_owned()).unwrap_or_default()
        };
        let mut request = json!({
            "uid": uid,
            "kind": kind(&asked.version).to_value("kind"),
            "resource": name(&asked.version, &resource.name).to_value("resource"),
            "requestKind": kind(&resource.version).to_value("kind"),
            "requestResource": name(&resource.version, &resource.name).to_value("resource"),
            "operation": self.operation.name(),
            "userInfo": self.call.user.to_value(),
            "object": shown(object),
            "oldObject": shown(old),
            "dryRun": self.dry_run,
            "options": self.options,
        });
        let texts = [
            ("name", self.name),
            ("namespace", self.namespace()),
            ("subResource", self.subresource),
            ("requestSubResource", self.subresource),
        ];
        for (field, text) in texts {
            if !text.is_empty() {
                request[field] = text.into();
            }
        }
        request
    }

    /// The object in another version.
    fn converted<'o>(&self, version: &str, object: &'o Value) -> Cow<'o, Value> {
        if version == self.call.resource.version || !self.is_whole() {
            return Cow::Borrowed(object);
        }
        let Some(other) = self.versions().find(|other| other.version == version) else {
            return Cow::Borrowed(object);
        };
        let mut object = object.clone();
        convert::convert(other, &mut object);
        Cow::Owned(object)
    }

    /// Whether the request is about the object itself rather than about something a subresource shows.
    fn is_whole(&self) -> bool {
        !matches!(self.subresource, "scale" | "binding" | "eviction" | "token")
    }

    /// The object after a webhook's patch: decoded and defaulted again, and with what only the server writes as it was.
    fn patched(
        &self,
        asked: &Asked<'_>,
        before: &Value,
        patch: &[json_patch::Operation],
    ) -> Result<Value, Status> {
        let mut object = self.converted(&asked.version, before).into_owned();
        json_patch::apply(&mut object, patch).map_err(Status::internal)?;
        if !self.is_whole() {
            return Ok(object);
        }
        let call = self.call;
        if asked.version != call.resource.version && object.is_object() {
            convert::convert(&call.resource, &mut object);
        }
        let refit = |object: &mut Value| {
            call.check_kind(object, &call.resource.kind, &call.resource.api_version())?;
            call.conform(object)
        };
        refit(&mut object).map_err(|status| Status::internal(status.message))?;
        call.default(&mut object);
        let kept = [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "generation",
            "resourceVersion",
            "managedFields",
        ];
        let metadata = metadata::of(&mut object);
        for field in kept {
            match before["metadata"].get(field) {
                Some(value) => drop(metadata.insert(field.to_owned(), value.clone())),
                None => drop(metadata.remove(field)),
            }
        }
        metadata::match_namespace(&mut object, &call.namespace)?;
        Ok(object)
    }

    /// What follows from an answer or from there being none: `None` where the webhook is to be passed over.
    fn settle(&self, hook: &Hook, answer: Result<Answer, Failure>) -> Result<Option<Answer>, Status> {
        match answer {
            Ok(answer) => {
                answer.warnings.iter().for_each(|warning| self.call.warn(warning));
                match answer.denial {
                    Some(denial) => Err(denial),
                    None => Ok(Some(answer)),
                }
            }
            Err(Failure::Refused(status)) => Err(status),
            Err(Failure::Calling(why)) => {
                let why = format!("failed calling webhook {:?}: {why}", hook.name);
                if hook.ignores_failure {
                    tracing::warn!("{why}; its failure policy is Ignore");
                    return Ok(None);
                }
                let causes = vec![Cause { reason: "", field: String::new(), message: why.clone() }];
                Err(Status { causes, ..Status::internal(why) })
            }
        }
    }
}

fn unpatchable(hook: &Hook) -> Status {
    Status::internal(format!(
        "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
        hook.name
    ))
}

/// The options of a create or update as an object.
fn write_options(call: &Call, kind: &str, dry_run: bool) -> Value {
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    for field in ["fieldManager", "fieldValidation"] {
        let text = call.query.text(field);
        if !text.is_empty() {
            options[field] = text.into();
        }
    }
    if dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

/// What is wrong with the match conditions of a webhook configuration: an expression that does not compile would decide
/// nothing.
pub(crate) fn problems(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if resource.group != EXEMPT {
        return causes;
    }
    for (index, webhook) in object["webhooks"].as_array().into_iter().flatten().enumerate() {
        let conditions = webhook["matchConditions"].as_array().into_iter().flatten();
        for (number, condition) in conditions.enumerate() {
            let path = format!("webhooks[{index}].matchConditions[{number}]");
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            if text("name").is_empty() {
                causes.push(Cause::required(format!("{path}.name"), ""));
            }
            match text("expression") {
                "" => causes.push(Cause::required(format!("{path}.expression"), "")),
                expression => {
                    if let Err(why) = Condition::compile(expression) {
                        causes.push(Cause::invalid(format!("{path}.expression"), expression, why));
                    }
                }
            }
        }
    }
    causes
}
