//! Server-side apply: merging what a manager applies into what is there, and the record of who owns which field.
//!
//! The behaviour is that of Kubernetes' structured merge and field managers
//! (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>), with one schema for all versions of a type.

mod managed;
mod merge;
mod typed;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Value, json};

use self::{
    managed::{Entry, Identity, Managed, is_reset},
    merge::{Changes, merge, remove, same},
    typed::{Type, check, field_set, with_named_fields},
};
use crate::{
    fields::{Element, Set, path_to_string},
    schema::Schema,
    status::{Cause, Status},
};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who writes, through what, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// `fieldManager` of the request, or what its user agent says.
    pub name: String,
    /// `status`, `scale`, …; empty for the object itself.
    pub subresource: String,
    /// The version the request is made in, such as `apps/v1`.
    pub api_version: String,
    /// Now, in RFC 3339 with seconds.
    pub time: String,
    /// Whether the type has a status subresource: its status is then owned through that alone.
    pub has_status: bool,
}

impl Manager {
    /// The fields that a write through this subresource does not change, whatever it says about them.
    fn ignored(&self) -> Set {
        match self.subresource.as_str() {
            "status" => Set::of_fields(&[
                &["spec"],
                &["metadata", "labels"],
                &["metadata", "deletionTimestamp"],
                &["metadata", "ownerReferences"],
            ]),
            _ if self.has_status => Set::of_fields(&[&["status"]]),
            _ => Set::default(),
        }
    }
}

/// What nobody owns: the object's identity and what the server itself keeps.
static NEVER_OWNED: LazyLock<Set> = LazyLock::new(|| {
    const METADATA: &[&str] = &[
        "clusterName",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    let mut set = Set::of_fields(&[&["apiVersion"], &["kind"], &["metadata"]]);
    for name in METADATA {
        set.insert(&[Element::field("metadata"), Element::field(*name)]);
    }
    set
});

/// Applies `applied` as `manager`: the object as it is to be stored, before defaulting, with `managedFields`.
///
/// A conflict is a 409 that names each field another manager has a different mind about; `force` takes those over.
/// If nothing changes, the result is `live` in everything, so that writing it is no change.
pub fn apply(
    schema: Option<&Schema>,
    live: Option<&Value>,
    applied: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Value, Status> {
    let of = Type::Root(schema.cloned());
    let version = applied["apiVersion"].as_str().unwrap_or_default();
    if version != manager.api_version {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            manager.api_version
        )));
    }
    if !applied["metadata"]["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let errors = check(&of, applied);
    if !errors.is_empty() {
        return Err(untypable(applied, &errors));
    }

    let (bare, recorded) = split(live.cloned().unwrap_or_else(|| json!({})));
    let before = Managed::decode(&recorded)
        .map_err(|e| Status::internal(format!("failed to decode managed fields: {e}")))?;
    let mut managed = before.clone();
    if managed.0.is_empty() && live.is_some() {
        // What was there before anybody applied belongs to somebody unknown, not to the first who applies.
        let nobody = Manager { name: "before-first-apply".to_owned(), ..manager.clone() };
        record(&of, &json!({}), &bare, &mut managed, &nobody);
    }

    let applying = Applying { of: &of, live: &bare, applied, manager };
    let result = applying.run(managed.clone(), force).or_else(|conflicts| {
        // What kubectl applied from the client's side is its own to apply from the server's side.
        let allowed = (manager.name == "kubectl").then(|| last_applied(&of, &bare, manager)).flatten();
        let left = match &allowed {
            Some(allowed) => conflicts.into_iter().map(|(who, set)| (who, set.difference(allowed))).collect(),
            None => conflicts,
        };
        let left: Conflicts = left.into_iter().filter(|(_, set)| !set.is_empty()).collect();
        if left.is_empty() { applying.run(managed, true) } else { Err(left) }
    });
    let (mut object, mut managed) = result.map_err(|conflicts| conflict(&conflicts))?;

    if manager.name == "kubectl" && object["metadata"]["annotations"].get(LAST_APPLIED).is_some() {
        object["metadata"]["annotations"][LAST_APPLIED] = remembered(applied).into();
    }
    let changed = !same(&object, &bare);
    if let Some(entry) = managed.0.get_mut(&Identity::new(manager, true))
        && (changed || entry.time.is_none())
    {
        entry.time = Some(manager.time.clone());
    }
    Ok(join(object, &managed, &before, &recorded, changed))
}

/// Records a write other than an apply: `new` with the `managedFields` it is to be stored with.
pub fn update(schema: Option<&Schema>, live: Option<&Value>, new: Value, manager: &Manager) -> Value {
    let of = Type::Root(schema.cloned());
    let (old, recorded) = split(live.cloned().unwrap_or_else(|| json!({})));
    let (new, given) = split(new);
    let of_given = Managed::decode(&given).ok().filter(|given| !given.0.is_empty());
    let (source, mut managed) = match of_given {
        _ if is_reset(&given) && manager.subresource.is_empty() => (Value::Null, Managed::default()),
        Some(managed) if manager.subresource.is_empty() => (given, managed),
        // Clients that know nothing of managedFields, or send nonsense, must not destroy them.
        _ => (recorded.clone(), Managed::decode(&recorded).unwrap_or_default()),
    };
    let before = managed.clone();
    // Nobody is tracked on an object whose owners were forgotten, until somebody applies.
    if live.is_some() && managed.0.is_empty() {
        return join(new, &managed, &before, &Value::Null, true);
    }
    record(&of, &old, &new, &mut managed, manager);
    managed.cap();
    let changed = !same(&new, &old);
    join(new, &managed, &before, &source, changed)
}

/// Takes `managedFields` out of an object.
fn split(mut object: Value) -> (Value, Value) {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let managed = metadata.and_then(|metadata| metadata.remove("managedFields")).unwrap_or_default();
    (object, managed)
}

/// Puts `managedFields` into an object: as they were in the `source` if nothing but times would differ.
fn join(mut object: Value, managed: &Managed, before: &Managed, source: &Value, changed: bool) -> Value {
    let timeless = |managed: &Managed| {
        let mut managed = managed.clone();
        managed.0.values_mut().for_each(|entry| entry.time = None);
        managed
    };
    let entries = match source {
        Value::Array(_) if !changed && timeless(managed) == timeless(before) => source.clone(),
        _ => managed.encode(),
    };
    if entries.as_array().is_some_and(|entries| !entries.is_empty())
        && let Some(object) = object.as_object_mut()
        && let Some(metadata) = object.entry("metadata").or_insert_with(|| json!({})).as_object_mut()
    {
        metadata.insert("managedFields".to_owned(), entries);
    }
    object
}

type Conflicts = BTreeMap<Identity, Set>;

struct Applying<'a> {
    of: &'a Type,
    live: &'a Value,
    applied: &'a Value,
    manager: &'a Manager,
}

impl Applying<'_> {
    fn run(&self, mut managed: Managed, force: bool) -> Result<(Value, Managed), Conflicts> {
        let identity = Identity::new(self.manager, true);
        let ignored = self.manager.ignored();
        let fields = field_set(self.of, self.applied).recursive_difference(&ignored);
        let previous = managed.0.get(&identity).cloned();
        let time = previous.as_ref().and_then(|entry| entry.time.clone());
        let entry = Entry { fields, api_version: self.manager.api_version.clone(), time };
        managed.0.insert(identity.clone(), entry);

        let mut object = merge(self.of, self.live, self.applied);
        if let Some(previous) = previous {
            object = prune(self.of, &object, &managed, &previous.fields);
            // An empty list or object that is applied is owned by nobody, and there all the same.
            object = merge(self.of, &object, self.applied);
        }
        let changes = Changes::between(self.of, self.live, &object).without(&ignored);
        take_over(&mut managed, &changes, &identity, force)?;
        disown(&mut managed, &identity);
        Ok((object, managed))
    }
}

/// Removes what the manager applied last time, does not apply any more, and nobody else owns.
fn prune(of: &Type, merged: &Value, managed: &Managed, last: &Set) -> Value {
    if last.is_empty() {
        return merged.clone();
    }
    // An empty list is not a field of its own, while the place of one that lost its items is: hence null.
    let removed = |set: &Set| remove(of, merged, set, &Value::Null);
    let last = with_named_fields(of, last);
    let owned = managed.0.values().fold(Set::default(), |all, entry| all.union(entry.fields.clone()));
    let owned = with_named_fields(of, &owned);
    let all = with_named_fields(of, &field_set(of, merged));
    let fields_of = |value: &Value| with_named_fields(of, &field_set(of, value));

    let without_last = removed(&last);
    let without_unowned = removed(&all.difference(&fields_of(&without_last).union(owned)));
    // What nobody owns, or was never this manager's, stays.
    remove(of, merged, &all.difference(&fields_of(&without_unowned)).intersection(&last), &json!([]))
}

/// Takes from all other managers what changed or is gone. Without `force`, a change of theirs is a conflict.
fn take_over(
    managed: &mut Managed,
    changes: &Changes,
    this: &Identity,
    force: bool,
) -> Result<(), Conflicts> {
    let changed = changes.modified.clone().union(changes.added.clone());
    let others = || managed.0.iter().filter(|(identity, _)| *identity != this);
    if !force {
        let conflicts: Conflicts = others()
            .map(|(identity, entry)| (identity.clone(), entry.fields.intersection(&changed)))
            .filter(|(_, set)| !set.is_empty())
            .collect();
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
    }
    let lost = changed.union(changes.removed.clone());
    for (_, entry) in managed.0.iter_mut().filter(|(identity, _)| *identity != this) {
        entry.fields = entry.fields.difference(&lost);
    }
    managed.0.retain(|_, entry| !entry.fields.is_empty());
    Ok(())
}

/// Takes from `identity` what nobody owns.
fn disown(managed: &mut Managed, identity: &Identity) {
    if let Some(entry) = managed.0.get_mut(identity) {
        entry.fields = entry.fields.difference(&NEVER_OWNED);
        if entry.fields.is_empty() {
            managed.0.remove(identity);
        }
    }
}

/// Records an update from `old` to `new` by `manager`.
fn record(of: &Type, old: &Value, new: &Value, managed: &mut Managed, manager: &Manager) {
    let changes = Changes::between(of, old, new).without(&manager.ignored());
    let changed = changes.modified.clone().union(changes.added.clone());
    let lost = changed.clone().union(changes.removed);
    for entry in managed.0.values_mut() {
        entry.fields = entry.fields.difference(&lost);
    }
    let gained = changed.difference(&NEVER_OWNED);
    if !gained.is_empty() {
        let identity = Identity::new(manager, false);
        let kept = managed.0.remove(&identity).map(|entry| entry.fields).unwrap_or_default();
        let entry = Entry {
            fields: kept.union(gained),
            api_version: manager.api_version.clone(),
            time: Some(manager.time.clone()),
        };
        managed.0.insert(identity, entry);
    }
    managed.0.retain(|_, entry| !entry.fields.is_empty());
}

/// The fields that kubectl applied from the client's side and that still are as it applied them.
fn last_applied(of: &Type, live: &Value, manager: &Manager) -> Option<Set> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    let last: Value = serde_json::from_str(text).ok()?;
    if last["apiVersion"] != manager.api_version.as_str() || !check(of, &last).is_empty() {
        return None;
    }
    let Changes { removed, modified, added } = Changes::between(of, &last, live);
    Some(field_set(of, &last).difference(&modified).difference(&added).difference(&removed))
}

/// What the annotation of client-side apply is to say after a server-side apply by kubectl.
fn remembered(applied: &Value) -> String {
    let mut applied = applied.clone();
    if let Some(annotations) = applied.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    format!("{applied}\n")
}

fn conflict(conflicts: &Conflicts) -> Status {
    let paths: Vec<_> = conflicts
        .iter()
        .flat_map(|(who, set)| {
            set.paths().into_iter().map(move |path| (who.describe(), path_to_string(&path)))
        })
        .collect();
    let message = match paths.as_slice() {
        [(who, path)] => format!("Apply failed with 1 conflict: conflict with {who}: {path}"),
        paths => {
            let mut lines = Vec::new();
            let mut last = None;
            for (who, path) in paths {
                if last.replace(who) != Some(who) {
                    lines.push(format!("conflicts with {who}:"));
                }
                lines.push(format!("- {path}"));
            }
            format!("Apply failed with {} conflicts: {}", paths.len(), lines.join("\n"))
        }
    };
    let causes = paths.into_iter().map(|(who, field)| Cause {
        reason: "FieldManagerConflict",
        field,
        message: format!("conflict with {who}"),
    });
    Status { causes: causes.collect(), ..Status::new(409, "Conflict", message) }
}

/// The applied object does not fit its schema. Kubernetes answers 500 here, which makes clients try again; what is
/// wrong is the request.
fn untypable(applied: &Value, errors: &[String]) -> Status {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&applied["apiVersion"]), text(&applied["kind"]));
    let version = if version.contains('/') { version } else { format!("/{version}") };
    let (namespace, name) = (text(&applied["metadata"]["namespace"]), text(&applied["metadata"]["name"]));
    let errors = match errors {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    Status::bad_request(format!(
        "failed to create typed patch object ({namespace}/{name}; {version}, Kind={kind}): {errors}"
    ))
}
