//! The way of every write: decode → admit → record field managers → validate → store. Create, update and patch differ
//! only in where the new object comes from.

use std::sync::Arc;

use hansa_machinery::{
    Status,
    apply::{self, Manager},
    defaults, rules,
    status::Cause,
    structural,
};
use serde_json::Value;

use super::{
    call::{Answer, Call, Payload},
    convert, metadata,
    options::WriteOptions,
    strategy,
};
use crate::{
    admission,
    registry::policy,
    services::Lease,
    store::{Draft, Entry, Expect, Key, Op, WriteError},
    webhooks::{self, Admission},
};

/// The largest object that is stored, as etcd has it.
pub(crate) const MAX_OBJECT: usize = 1_572_864;

/// How often a write without a resource version is tried again when others write the same object in between.
const MAX_ATTEMPTS: usize = 32;

/// Why the store did not take a write.
pub(crate) enum Rejected {
    /// Somebody else was first.
    Raced,
    /// The request fails.
    Failed(Status),
}

impl From<Status> for Rejected {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// How the desired state of an object is computed from its live one.
pub(crate) trait Change: Sync {
    /// The new object; `live` is `None` when there is none.
    fn desired(&self, call: &Call, live: Option<&Value>) -> Result<Value, Status>;
    /// Whether the change records its own field managers.
    fn manages_fields(&self) -> bool {
        false
    }
    /// Whether an absent object is created.
    fn creates(&self, call: &Call) -> bool;
    /// Whether losing a race means to compute again rather than to fail.
    fn retries(&self) -> bool;
    /// Whether the rules for updates of the kind apply; a binding sets what no update may.
    fn obeys_update_rules(&self) -> bool {
        true
    }
    /// Whether admission webhooks are asked about it as an update; a binding is a creation of its own.
    fn asks_webhooks(&self) -> bool {
        true
    }
    /// What a subresource shows of an object in place of the object itself, with the name of the subresource.
    fn shown(&self, _: &Value) -> Option<(&str, Value)> {
        None
    }
    /// Takes over what webhooks changed in what they were shown.
    fn absorb(&self, _shown: Value, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }
}

impl Call {
    /// Who is recorded as the manager of the fields this request writes.
    pub(crate) fn manager(&self, options: &WriteOptions) -> Manager {
        Manager {
            name: options.manager.clone(),
            subresource: self.subresource.clone(),
            api_version: self.resource.api_version(),
            time: metadata::now(),
            has_status: match &self.resource.custom {
                Some(custom) => custom.status,
                None => self.resource.subresource("status").is_some(),
            },
        }
    }

    /// Creates `object`, which was decoded and conforms to the schema.
    pub(crate) async fn insert(
        &self,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Entry>, Status> {
        let generates = object["metadata"]["generateName"].as_str().is_some_and(|base| !base.is_empty())
            && object["metadata"]["name"].as_str().unwrap_or_default().is_empty();
        let lease = self.prepare_new(&mut object, options, true).await?;
        let mut attempts = if generates { 8 } else { 1 };
        loop {
            attempts -= 1;
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            match self.commit(self.key_of(&name), Expect::Absent, &object, options.dry_run).await {
                Ok(entry) => {
                    self.keep(lease, options);
                    return Ok(entry);
                }
                Err(Rejected::Raced) if attempts > 0 => {
                    let base = object["metadata"]["generateName"].as_str().unwrap_or_default();
                    object["metadata"]["name"] = metadata::generate_name(base).into();
                }
                Err(Rejected::Raced) => {
                    return Err(Status::already_exists(&self.resource.group, &self.resource.name, &name));
                }
                Err(Rejected::Failed(status)) => return Err(status),
            }
        }
    }

    /// Makes a decoded object ready to be stored for the first time.
    async fn prepare_new(
        &self,
        object: &mut Value,
        options: &WriteOptions,
        record: bool,
    ) -> Result<Option<Lease<'_>>, Status> {
        let resource = &self.resource;
        if let Some(version) = object["metadata"]["resourceVersion"].as_str()
            && !matches!(version, "" | "0")
        {
            return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        metadata::of(object).remove("resourceVersion");
        metadata::match_namespace(object, if resource.namespaced { &self.namespace } else { "" })?;
        self.default(object);
        admission::check_create(self, object)?;
        if record {
            *object =
                apply::update(resource.schema.as_ref(), None, std::mem::take(object), &self.manager(options));
        }
        let named = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let webhooks = Admission::create(self, &named, options.dry_run);
        *object = webhooks.mutate(Some(std::mem::take(object)), None).await?.unwrap_or_default();
        if !self.name.is_empty() {
            self.match_name(object)?;
        }
        metadata::fill_new(object);
        self.name_new(object)?;
        let lease = admission::prepare_create(self, object)?;
        strategy::prepare_create(self, object);
        admission::admit(self, object, None)?;
        self.validate(object, None)?;
        webhooks.validate(Some(object), None).await?;
        Ok(lease)
    }

    /// What was reserved for an object stays with it once it is stored.
    fn keep(&self, lease: Option<Lease<'_>>, options: &WriteOptions) {
        if !options.dry_run {
            if let Some(lease) = lease {
                lease.keep();
            }
            admission::written(self);
        }
    }

    /// The name of a new object: as given, or generated.
    fn name_new(&self, object: &mut Value) -> Result<(), Status> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (name, base) = (text("name"), text("generateName"));
        if name.is_empty() && !base.is_empty() {
            object["metadata"]["name"] = metadata::generate_name(&base).into();
        } else if name.is_empty() {
            return Err(self.invalid(
                "",
                vec![Cause {
                    reason: "FieldValueRequired",
                    field: "metadata.name".into(),
                    message: "Required value: name or generateName is required".into(),
                }],
            ));
        }
        Ok(())
    }

    /// Fills in defaults.
    pub(crate) fn default(&self, object: &mut Value) {
        match (&self.resource.custom, &self.resource.schema) {
            (None, _) => defaults::apply(&self.resource.group, &self.resource.kind, object),
            (Some(_), Some(schema)) => structural::default(schema, object),
            (Some(_), None) => {}
        }
    }

    /// Checks an object against its schema and the rules of its kind.
    pub(crate) fn validate(&self, object: &Value, live: Option<&Value>) -> Result<(), Status> {
        let resource = &self.resource;
        let mut causes = rules::validate(&resource.group, &resource.kind, object, live);
        if let (Some(_), Some(schema)) = (&resource.custom, &resource.schema) {
            causes.extend(structural::validate_update(schema, object, live));
        }
        causes.extend(webhooks::problems(resource, object));
        if let Some(paths) = resource.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
            causes.extend(paths.validate(object, self.subresource == "status"));
        }
        if causes.is_empty() {
            Ok(())
        } else {
            Err(self.invalid(object["metadata"]["name"].as_str().unwrap_or_default(), causes))
        }
    }

    pub(crate) fn invalid(&self, name: &str, causes: Vec<Cause>) -> Status {
        Status::invalid(&self.resource.group, &self.resource.kind, name, causes)
    }

    /// Stores `object`. A dry run goes all the way but for the write itself.
    pub(crate) async fn commit(
        &self,
        key: Key,
        expect: Expect,
        object: &Value,
        dry_run: bool,
    ) -> Result<Arc<Entry>, Rejected> {
        let facts = crate::server::facts(&key, object);
        let draft = Draft::new(object, facts);
        if draft.size() > MAX_OBJECT {
            return Err(Status::too_large(format!("Request entity too large: limit is {MAX_OBJECT}")).into());
        }
        if dry_run {
            return self.rehearse(key, &expect, object);
        }
        match self.server.store().write(Op::Put { key, expect, draft }).await {
            Ok(entry) => Ok(entry),
            Err(WriteError::Exists(_) | WriteError::Changed { .. }) => Err(Rejected::Raced),
            Err(error) => Err(unwritten(&error).into()),
        }
    }

    /// What a dry run answers: the object as it would be stored, with the resource version it has now.
    fn rehearse(&self, key: Key, expect: &Expect, object: &Value) -> Result<Arc<Entry>, Rejected> {
        let live = self.server.store().get(&key);
        let revision = match (expect, &live) {
            (Expect::Absent, Some(_)) => return Err(Rejected::Raced),
            (Expect::Absent, None) => 0,
            (Expect::Revision(revision), _) => *revision,
        };
        let facts = crate::server::facts(&key, object);
        Ok(Arc::new(Entry { key, revision, object: object.to_string().into(), facts }))
    }

    /// Applies a change to the object the URL names, trying again when others are faster and the caller did not insist
    /// on a resource version. Tells whether the object was created.
    pub(crate) async fn modify(
        &self,
        change: &dyn Change,
        options: &WriteOptions,
    ) -> Result<(Payload, bool), Status> {
        for _ in 0..MAX_ATTEMPTS {
            let live = self.server.store().get(&self.key());
            let outcome = match live {
                Some(entry) => {
                    self.modify_live(change, &entry, options).await.map(|payload| (payload, false))
                }
                None if change.creates(self) && self.subresource.is_empty() => {
                    self.modify_absent(change, options).await.map(|payload| (payload, true))
                }
                None => return Err(self.not_found(&self.name)),
            };
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(Rejected::Failed(status)) => return Err(status),
                Err(Rejected::Raced) if change.retries() => {}
                Err(Rejected::Raced) => return Err(self.conflict(MODIFIED)),
            }
        }
        Err(self.conflict(MODIFIED))
    }

    async fn modify_absent(&self, change: &dyn Change, options: &WriteOptions) -> Result<Payload, Rejected> {
        let mut object = change.desired(self, None)?;
        if object["metadata"]["uid"].as_str().is_some_and(|uid| !uid.is_empty()) {
            let why = format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: ",
                object["metadata"]["uid"].as_str().unwrap_or_default()
            );
            return Err(self.conflict(&why).into());
        }
        metadata::of(&mut object).remove("resourceVersion");
        self.match_name(&mut object)?;
        let lease = self.prepare_new(&mut object, options, !change.manages_fields()).await?;
        let entry = self.commit(self.key(), Expect::Absent, &object, options.dry_run).await?;
        self.keep(lease, options);
        Ok(self.show(&entry)?)
    }

    async fn modify_live(
        &self,
        change: &dyn Change,
        entry: &Arc<Entry>,
        options: &WriteOptions,
    ) -> Result<Payload, Rejected> {
        let resource = &self.resource;
        let live = convert::show_value(resource, entry)?;
        let mut object = change.desired(self, Some(&live))?;
        metadata::match_namespace(&mut object, if resource.namespaced { &self.namespace } else { "" })?;
        self.match_name(&mut object)?;
        self.check_version(&object, &live)?;
        self.default(&mut object);
        metadata::keep_identity(&mut object, &live);
        metadata::of(&mut object)
            .insert("resourceVersion".into(), live["metadata"]["resourceVersion"].clone());
        if !change.manages_fields() {
            object = apply::update(resource.schema.as_ref(), Some(&live), object, &self.manager(options));
        }
        if change.asks_webhooks() {
            self.mutate_live(change, &mut object, &live, options).await?;
        }
        let lease = admission::prepare_update(self, &mut object, &live)?;
        strategy::prepare_update(self, &mut object, &live);
        admission::admit(self, &object, Some(&live))?;
        if change.obeys_update_rules() {
            self.validate(&object, Some(&live))?;
        }
        if change.asks_webhooks() {
            self.judge_live(change, &object, &live, options).await?;
        }
        let is_done = metadata::is_deleting(&live)
            && live["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
            && admission::may_vanish(self, &object);
        if is_done {
            // The last finalizer is gone: the update completes the deletion.
            self.remove(entry, &object, options.dry_run).await?;
            return Ok(Payload::Made(object));
        }
        if metadata::same_but_managed_times(&object, &live) {
            return Ok(Payload::Made(live));
        }
        let stored = self
            .commit(entry.key.clone(), Expect::Revision(entry.revision), &object, options.dry_run)
            .await?;
        self.keep(lease, options);
        if !options.dry_run {
            admission::freed(self, &live, Some(&object));
        }
        Ok(self.show(&stored)?)
    }

    /// Lets mutating webhooks change an update.
    async fn mutate_live(
        &self,
        change: &dyn Change,
        object: &mut Value,
        live: &Value,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        match (change.shown(object), change.shown(live)) {
            (Some((subresource, shown)), Some((_, old))) => {
                let webhooks = Admission::update(self, subresource, options.dry_run);
                if let Some(changed) = webhooks.mutate(Some(shown.clone()), Some(&old)).await?
                    && changed != shown
                {
                    change.absorb(changed, object)?;
                }
            }
            _ => {
                let webhooks = Admission::update(self, &self.subresource, options.dry_run);
                let changed = webhooks.mutate(Some(std::mem::take(object)), Some(live)).await?;
                *object = changed.unwrap_or_default();
                self.match_name(object)?;
                metadata::keep_identity(object, live);
            }
        }
        Ok(())
    }

    /// Asks the validating webhooks about an update.
    async fn judge_live(
        &self,
        change: &dyn Change,
        object: &Value,
        live: &Value,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        match (change.shown(object), change.shown(live)) {
            (Some((subresource, shown)), Some((_, old))) => {
                Admission::update(self, subresource, options.dry_run).validate(Some(&shown), Some(&old)).await
            }
            _ => {
                let webhooks = Admission::update(self, &self.subresource, options.dry_run);
                webhooks.validate(Some(object), Some(live)).await
            }
        }
    }

    /// Removes the object at exactly the revision of `entry`; `last` is the state that watchers see.
    pub(crate) async fn remove(
        &self,
        entry: &Arc<Entry>,
        last: &Value,
        dry_run: bool,
    ) -> Result<Option<Arc<Entry>>, Rejected> {
        if dry_run {
            return Ok(None);
        }
        let draft = Draft::new(last, crate::server::facts(&entry.key, last));
        let op = Op::Delete { key: entry.key.clone(), expect: Expect::Revision(entry.revision), last: draft };
        match self.server.store().write(op).await {
            Ok(entry) => {
                admission::freed(self, last, None);
                admission::written(self);
                Ok(Some(entry))
            }
            Err(WriteError::Exists(_) | WriteError::Changed { .. }) => Err(Rejected::Raced),
            Err(error) => Err(unwritten(&error).into()),
        }
    }

    /// The object's name is the URL's.
    fn match_name(&self, object: &mut Value) -> Result<(), Status> {
        match object["metadata"]["name"].as_str().unwrap_or_default() {
            "" => {
                object["metadata"]["name"] = self.name.clone().into();
                Ok(())
            }
            name if name == self.name => Ok(()),
            name => Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.name
            ))),
        }
    }

    /// Optimistic concurrency: the version and identity the caller saw must be the live ones.
    fn check_version(&self, object: &Value, live: &Value) -> Result<(), Status> {
        let text =
            |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (uid, live_uid) = (text(object, "uid"), text(live, "uid"));
        if !uid.is_empty() && uid != live_uid {
            let why =
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {live_uid}");
            return Err(self.conflict(&why));
        }
        let version = text(object, "resourceVersion");
        if matches!(version.as_str(), "" | "0") {
            if policy::updates_unconditionally(&self.resource) {
                return Ok(());
            }
            return Err(Status::invalid(
                &self.resource.group,
                &self.resource.name,
                &self.name,
                vec![Cause {
                    reason: "FieldValueInvalid",
                    field: "metadata.resourceVersion".into(),
                    message: "Invalid value: 0: must be specified for an update".into(),
                }],
            ));
        }
        if version.parse::<u64>().is_err() {
            return Err(self.invalid(
                &self.name,
                vec![Cause {
                    reason: "FieldValueInvalid",
                    field: "metadata.resourceVersion".into(),
                    message: format!(
                        "Invalid value: {version:?}: strconv.ParseUint: parsing {version:?}: invalid syntax"
                    ),
                }],
            ));
        }
        if version != text(live, "resourceVersion") { Err(self.conflict(MODIFIED)) } else { Ok(()) }
    }
}

/// Why an update that was based on an older state is refused.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// The store's failures as the API reports them.
pub(crate) fn unwritten(error: &WriteError) -> Status {
    match error {
        WriteError::Full => Status::new(507, "InsufficientStorage", error.to_string()),
        WriteError::Closed => Status::unavailable(error.to_string()),
        other => Status::internal(other),
    }
}

/// The answer to a write that stored an object.
pub(crate) fn written(payload: Payload, created: bool) -> Answer {
    Answer::Object { code: if created { 201 } else { 200 }, object: payload }
}
