//! CustomResourceDefinitions: names accepted or in conflict, established, served, and cleaned up when they go.

use std::{collections::BTreeSet, time::Duration};

use hansa_machinery::Status;
use serde_json::{Value, json};

use crate::{
    DeleteOptions, Server,
    api::metadata,
    local::{Local, Select},
    registry::custom::{self, CLEANUP_FINALIZER, DEFINITIONS},
};

/// Serves what the established definitions in the store define.
pub(crate) fn load(server: &Server) -> Result<(), Status> {
    let page = server
        .store()
        .list(DEFINITIONS, None, None, None, 0)
        .map_err(|gone| Status::internal(gone.to_string()))?;
    let mut resources = Vec::new();
    for entry in page.entries {
        let definition: Value = serde_json::from_slice(&entry.object).map_err(|e| {
            Status::internal(format!("the definition {} does not parse: {e}", entry.key.name))
        })?;
        resources.extend(custom::resources(&definition));
    }
    server.registry().set_custom(resources);
    Ok(())
}

/// The same after a change, when the former catalogue is still good enough if it fails.
pub(crate) fn reload(server: &Server) {
    if let Err(error) = load(server) {
        tracing::error!(%error, "custom resource definitions cannot be read");
    }
}

/// Follows the definitions.
pub(crate) async fn run(server: Server) {
    let local = server.local().as_manager("kube-apiserver");
    let mut delay = Duration::from_millis(100);
    loop {
        match follow(&local).await {
            Ok(()) => delay = Duration::from_millis(100),
            Err(error) => {
                tracing::warn!(%error, "custom resource definitions: trying again");
                delay = (delay * 2).min(Duration::from_secs(10));
            }
        }
        tokio::time::sleep(delay).await;
    }
}

async fn follow(local: &Local) -> Result<(), Status> {
    let everything = Select::default();
    loop {
        let list = local.list(DEFINITIONS, "", &everything)?;
        let mut changed = false;
        for definition in &list.items {
            match sync(local, definition, &list.items).await {
                Ok(wrote) => changed |= wrote,
                // Somebody else wrote it or removed it: the next round sees how it is now.
                Err(status) if matches!(status.code, 404 | 409) => changed = true,
                Err(status) => return Err(status),
            }
        }
        reload(local.server());
        if changed {
            // Others get their turn, should a definition never come to rest.
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        let mut changes = local.watch(DEFINITIONS, "", &everything, list.revision)?;
        if changes.next().await.is_err() {
            return Ok(());
        }
    }
}

/// Brings one definition a step further; tells whether it was written.
async fn sync(local: &Local, definition: &Value, all: &[Value]) -> Result<bool, Status> {
    if metadata::is_deleting(definition) {
        return clean_up(local, definition).await;
    }
    let updated = establish(definition, all, &metadata::now());
    if updated == *definition {
        return Ok(false);
    }
    local.update_status(DEFINITIONS, "", updated).await?;
    reload(local.server());
    Ok(true)
}

/// The definition with its names accepted as far as others leave them free, and established if all are
/// (`calculateNamesAndConditions`).
fn establish(definition: &Value, all: &[Value], now: &str) -> Value {
    let group = &definition["spec"]["group"];
    let others = || {
        all.iter().filter(|o| {
            o["spec"]["group"] == *group && o["metadata"]["name"] != definition["metadata"]["name"]
        })
    };
    let taken = |fields: &[&str]| -> BTreeSet<String> {
        let names = others().flat_map(|other| {
            let accepted = &other["status"]["acceptedNames"];
            fields.iter().flat_map(move |field| match &accepted[*field] {
                Value::Array(list) => list.clone(),
                one => vec![one.clone()],
            })
        });
        names.filter_map(|name| name.as_str().map(str::to_owned)).filter(|n| !n.is_empty()).collect()
    };
    let (resources, kinds) = (taken(&["plural", "singular", "shortNames"]), taken(&["kind", "listKind"]));
    let wanted = &definition["spec"]["names"];
    let mut accepted = definition["status"]["acceptedNames"].clone();
    if !accepted.is_object() {
        accepted = json!({"plural": "", "kind": ""});
    }
    let mut conflict: Option<(String, String)> = None;
    for (field, reason, used) in [
        ("plural", "PluralConflict", &resources),
        ("singular", "SingularConflict", &resources),
        ("kind", "KindConflict", &kinds),
        ("listKind", "ListKindConflict", &kinds),
    ] {
        let name = wanted[field].as_str().unwrap_or_default();
        if accepted[field] == wanted[field] || !used.contains(name) {
            accepted[field] = wanted[field].clone();
        } else {
            conflict = Some((reason.into(), format!("{name:?} is already in use")));
        }
    }
    let short = |names: &Value| -> Vec<Value> { names["shortNames"].as_array().cloned().unwrap_or_default() };
    let in_use: Vec<String> = short(wanted)
        .iter()
        .filter(|name| !short(&accepted).contains(name))
        .filter_map(Value::as_str)
        .filter(|name| resources.contains(*name))
        .map(|name| format!("{name:?} is already in use"))
        .collect();
    if in_use.is_empty() {
        set(&mut accepted, "shortNames", &wanted["shortNames"]);
    } else {
        conflict = Some(("ShortNamesConflict".into(), in_use.join(", ")));
    }
    set(&mut accepted, "categories", &wanted["categories"]);
    let mut updated = definition.clone();
    if !updated["status"].is_object() {
        updated["status"] = json!({});
    }
    updated["status"]["acceptedNames"] = accepted;
    let accepted_names = match &conflict {
        None => ("True", "NoConflicts", "no conflicts found"),
        Some((reason, message)) => ("False", reason.as_str(), message.as_str()),
    };
    set_condition(&mut updated, "NamesAccepted", accepted_names, now);
    // Once served, always served: a later conflict only concerns the new names.
    if conflict.is_none() && !custom::is_established(definition) {
        set_condition(
            &mut updated,
            "Established",
            ("True", "InitialNamesAccepted", "the initial names have been accepted"),
            now,
        );
    } else if conflict.is_some() && custom::condition(definition, "Established").is_none() {
        set_condition(
            &mut updated,
            "Established",
            ("False", "NotAccepted", "not all names are accepted"),
            now,
        );
    }
    updated
}

fn set(object: &mut Value, field: &str, value: &Value) {
    if let Value::Object(map) = object {
        match value {
            Value::Null => drop(map.remove(field)),
            value => drop(map.insert(field.to_owned(), value.clone())),
        }
    }
}

/// Sets a condition; its time moves only with its status.
fn set_condition(
    definition: &mut Value,
    kind: &str,
    (status, reason, message): (&str, &str, &str),
    now: &str,
) {
    let mut conditions = definition["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter().find(|c| c["type"] == kind);
    let since = before.filter(|c| c["status"] == status).map(|c| c["lastTransitionTime"].clone());
    let condition = json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| now.into()),
    });
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(slot) => *slot = condition,
        None => conditions.push(condition),
    }
    definition["status"]["conditions"] = conditions.into();
}

/// Removes the objects of a definition that is going away, then lets it go.
async fn clean_up(local: &Local, definition: &Value) -> Result<bool, Status> {
    if !metadata::finalizers(definition).contains(&CLEANUP_FINALIZER) {
        return Ok(false);
    }
    let now = metadata::now();
    let mut updated = definition.clone();
    if custom::is_established(definition) {
        set_condition(
            &mut updated,
            "Terminating",
            ("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress"),
            &now,
        );
        if updated != *definition {
            updated = local.update_status(DEFINITIONS, "", updated).await?;
            reload(local.server());
        }
        let name = updated["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let left = delete_all(local, &name).await?;
        if left > 0 {
            // Their finalizers are somebody else's to remove; each removal is a change that does not show here, so look
            // again.
            tokio::time::sleep(Duration::from_millis(200)).await;
            return Ok(true);
        }
    }
    let finalizers = metadata::finalizers(&updated).into_iter().filter(|f| *f != CLEANUP_FINALIZER);
    updated["metadata"]["finalizers"] = finalizers.map(Value::from).collect::<Vec<_>>().into();
    // The finalizer is no part of the status: a write of its own takes it away, and the definition with it.
    local.update(DEFINITIONS, "", updated).await?;
    reload(local.server());
    Ok(true)
}

/// Deletes all objects of a resource; tells how many are still there.
pub(super) async fn delete_all(local: &Local, resource: &str) -> Result<usize, Status> {
    let (entries, _) = match local.entries(resource, "", &Select::default()) {
        Ok(found) => found,
        Err(status) if status.code == 404 => return Ok(0),
        Err(status) => return Err(status),
    };
    let mut left = 0;
    for entry in entries {
        if !entry.facts.deleting {
            let options = DeleteOptions { uid: Some(entry.facts.uid.clone()), ..DeleteOptions::default() };
            match local.delete(resource, &entry.key.namespace, &entry.key.name, &options).await {
                Ok(_) => {}
                Err(status) if matches!(status.code, 404 | 409) => {}
                Err(status) => return Err(status),
            }
        }
        if local.server().store().get(&entry.key).is_some() {
            left += 1;
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, kind: &str) -> Value {
        json!({
            "metadata": {"name": format!("{name}.example.com")},
            "spec": {"group": "example.com", "names": {"plural": name, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")}},
        })
    }

    #[test]
    fn free_names_are_accepted_and_the_definition_established() {
        let crd = definition("widgets", "Widget");
        let done = establish(&crd, std::slice::from_ref(&crd), "now");
        assert!(custom::is_established(&done));
        assert_eq!(done["status"]["acceptedNames"]["plural"], "widgets");
        assert_eq!(establish(&done, std::slice::from_ref(&done), "later"), done);
    }

    #[test]
    fn a_kind_in_use_is_a_conflict() {
        let first = definition("widgets", "Widget");
        let first = establish(&first, std::slice::from_ref(&first), "now");
        let second = definition("gadgets", "Widget");
        let second = establish(&second, &[first.clone(), second.clone()], "now");
        assert!(!custom::is_established(&second));
        let condition = custom::condition(&second, "NamesAccepted").expect("told");
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!("ListKindConflict"))
        );
    }
}
