//! `metadata.managedFields`: who owns which fields, by which kind of write, since when.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::fields::Set;

/// At most this many entries of updates are kept apart (Kubernetes' `DefaultMaxUpdateManagers`).
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that older updates are put together under.
const ANCIENT: &str = "ancient-changes";

/// Whose entry it is. The version is part of it for updates only, so that one applier keeps one entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) manager: String,
    pub(super) applied: bool,
    pub(super) update_version: String,
    pub(super) subresource: String,
}

/// What one manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) fields: Set,
    pub(super) api_version: String,
    pub(super) time: Option<String>,
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managed(pub(super) BTreeMap<Identity, Entry>);

impl Identity {
    pub(super) fn new(manager: &super::Manager, applied: bool) -> Self {
        let name = if manager.name.is_empty() { "unknown" } else { &manager.name };
        Self {
            manager: name.to_owned(),
            applied,
            update_version: if applied { String::new() } else { manager.api_version.clone() },
            subresource: manager.subresource.clone(),
        }
    }

    /// As a conflict names it: `"kubectl-client-side-apply" using apps/v1`.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if !self.applied {
            text += &format!(" using {}", self.update_version);
        }
        text
    }
}

impl Managed {
    /// Reads `metadata.managedFields`; the error says which entry is wrong.
    pub(super) fn decode(entries: &Value) -> Result<Self, String> {
        let mut managed = BTreeMap::new();
        if entries.is_null() {
            return Ok(Self::default());
        }
        for (position, entry) in entries.as_array().ok_or("managedFields must be a list")?.iter().enumerate()
        {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let applied = match entry["operation"].as_str() {
                Some("Apply") => true,
                Some("Update") => false,
                _ => return Err("operation must be `Apply` or `Update`".to_owned()),
            };
            if text("apiVersion").is_empty() {
                return Err("apiVersion must not be empty".to_owned());
            }
            match entry["fieldsType"].as_str() {
                Some("FieldsV1") => {}
                None | Some("") => {
                    return Err(format!("missing fieldsType in managed fields entry {position}"));
                }
                Some(other) => {
                    return Err(format!("invalid fieldsType {other:?} in managed fields entry {position}"));
                }
            }
            let fields = match &entry["fieldsV1"] {
                Value::Null => Set::default(),
                fields => Set::decode(fields).map_err(|e| format!("managed fields entry {position}: {e}"))?,
            };
            let identity = Identity {
                manager: text("manager"),
                applied,
                update_version: if applied { String::new() } else { text("apiVersion") },
                subresource: text("subresource"),
            };
            let time = entry["time"].as_str().map(str::to_owned);
            managed.insert(identity, Entry { fields, api_version: text("apiVersion"), time });
        }
        Ok(Self(managed))
    }

    /// Writes `metadata.managedFields`: appliers first, then by time.
    pub(super) fn encode(&self) -> Value {
        let mut entries: Vec<_> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            let order = |identity: &Identity, entry: &Entry| {
                (!identity.applied, entry.time.clone(), identity.manager.clone(), entry.api_version.clone())
            };
            order(a, x).cmp(&order(b, y)).then_with(|| a.subresource.cmp(&b.subresource))
        });
        let entries = entries.into_iter().map(|(identity, entry)| {
            let mut out = Map::new();
            let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
            put("manager", identity.manager.as_str().into());
            put("operation", if identity.applied { "Apply" } else { "Update" }.into());
            put("apiVersion", entry.api_version.as_str().into());
            if let Some(time) = &entry.time {
                put("time", time.as_str().into());
            }
            put("fieldsType", "FieldsV1".into());
            put("fieldsV1", entry.fields.encode());
            if !identity.subresource.is_empty() {
                put("subresource", identity.subresource.as_str().into());
            }
            Value::Object(out)
        });
        entries.collect()
    }

    /// Puts the oldest updates together until not too many are left; only those of one version can be.
    pub(super) fn cap(&mut self) {
        let mut updates: Vec<_> = self.0.iter().filter(|(identity, _)| !identity.applied).collect();
        let mut count = updates.len();
        updates.sort_by(|(a, x), (b, y)| x.time.cmp(&y.time).then_with(|| a.cmp(b)));
        let updates: Vec<Identity> = updates.into_iter().map(|(identity, _)| identity.clone()).collect();
        let mut first_of: BTreeMap<String, Identity> = BTreeMap::new();
        for identity in updates {
            if count <= MAX_UPDATE_MANAGERS {
                break;
            }
            let version = identity.update_version.clone();
            let Some(first) = first_of.get(&version) else {
                first_of.insert(version, identity);
                continue;
            };
            let bucket = Identity {
                manager: ANCIENT.to_owned(),
                applied: false,
                update_version: version.clone(),
                subresource: String::new(),
            };
            let Some(entry) = self.0.remove(&identity) else { continue };
            let gathered = self.0.remove(&bucket).or_else(|| self.0.remove(first));
            let older = gathered.map(|gathered| gathered.fields).unwrap_or_default();
            self.0.insert(bucket, Entry { fields: older.union(entry.fields), ..entry });
            count -= 1;
        }
    }
}

/// Whether `managedFields` as given in a request asks to forget all owners: `[]` or `[{}]`.
pub(super) fn is_reset(entries: &Value) -> bool {
    match entries.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => *one == json!({}),
        _ => false,
    }
}
