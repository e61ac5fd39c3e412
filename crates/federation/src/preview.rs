//! What would change on which member, before it does (`hansa plan`). The decision is the controllers' own ([`crate::plan`],
//! [`crate::template`]); what a member would make of a copy it says itself, in a dry run.

mod apply;
pub mod diff;
mod host;
mod members;
mod reach;

use serde_json::{Map, Value, json};

pub use host::{Host, HostError};
pub use members::{Proposal, preview};
pub use reach::{Connect, Reach};

/// What is to become of an object in one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is made.
    Create,
    /// An object that is there already is taken over.
    Adopt,
    /// It is changed.
    Change,
    /// It is deleted and made anew, as the member refuses to change it and the federated object allows that.
    Recreate,
    /// It is deleted.
    Delete,
    /// The managed label is taken off it.
    Release,
    /// It stays as it is.
    Nothing,
    /// Something is awaited first.
    Wait,
    /// It cannot be done: the copy cannot be computed, or the member refuses it.
    Refused,
    /// The member could not be asked.
    Unknown,
}

impl Effect {
    /// The word for programs and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Adopt => "adopt",
            Self::Change => "change",
            Self::Recreate => "recreate",
            Self::Delete => "delete",
            Self::Release => "release",
            Self::Nothing => "none",
            Self::Wait => "wait",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }

    /// Whether something would change.
    pub fn is_change(self) -> bool {
        matches!(
            self,
            Self::Create | Self::Adopt | Self::Change | Self::Recreate | Self::Delete | Self::Release
        )
    }

    /// Whether the answer is one that somebody has to look into.
    pub fn is_trouble(self) -> bool {
        matches!(self, Self::Refused | Self::Unknown)
    }
}

/// What is to become of one object in one member.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// The member.
    pub cluster: String,
    /// What is to become of it.
    pub effect: Effect,
    /// Why, or what is to be known of it; may be empty.
    pub message: String,
    /// The object as it is, without what the server gives and with secrets hidden.
    pub before: Option<Value>,
    /// The object as it would be.
    pub after: Option<Value>,
}

impl Outlook {
    fn new(cluster: &str, effect: Effect, message: impl Into<String>) -> Self {
        Self { cluster: cluster.to_owned(), effect, message: message.into(), before: None, after: None }
    }

    /// Compares what is with what would be; where nothing differs nothing changes.
    fn comparing(self, before: Option<&Value>, after: Option<&Value>) -> Self {
        let (before, after) = shown(before, after);
        let effect = match self.effect {
            Effect::Change | Effect::Adopt if before == after => Effect::Nothing,
            effect => effect,
        };
        Self { effect, before, after, ..self }
    }
}

/// The outlook for one federated object.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// The kind of the copies.
    pub kind: String,
    /// The namespace of the federated object; empty if it has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What is to be known of the object as a whole.
    pub notes: Vec<String>,
    /// Whether nothing could be said of it.
    pub failed: bool,
    /// Each registered member, sorted by name, and each name that the placement has besides.
    pub clusters: Vec<Outlook>,
}

impl Preview {
    /// The preview for programs.
    pub fn to_value(&self) -> Value {
        let cluster = |outlook: &Outlook| {
            let mut out = json!({"name": outlook.cluster, "effect": outlook.effect.as_str()});
            if !outlook.message.is_empty() {
                out["message"] = outlook.message.clone().into();
            }
            for (field, value) in [("before", &outlook.before), ("after", &outlook.after)] {
                if let Some(value) = value.as_ref().filter(|_| outlook.effect.is_change()) {
                    out[field] = value.clone();
                }
            }
            out
        };
        json!({
            "kind": self.kind, "namespace": self.namespace, "name": self.name, "notes": self.notes,
            "clusters": self.clusters.iter().map(cluster).collect::<Vec<_>>(),
        })
    }
}

/// What a server gives to each object; nobody asked for a change of it.
const SERVER_GIVEN: [&str; 6] =
    ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"];
/// Where kubectl keeps a copy of what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Both sides as they are shown: without what the server gives, and with what must not be read by whoever looks over a shoulder hidden.
fn shown(before: Option<&Value>, after: Option<&Value>) -> (Option<Value>, Option<Value>) {
    let tidy = |value: &Value| {
        let mut value = value.clone();
        if let Some(object) = value.as_object_mut() {
            object.remove("status");
        }
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|field, _| !SERVER_GIVEN.contains(&field.as_str()));
        }
        value
    };
    let (mut before, mut after) = (before.map(tidy), after.map(tidy));
    let is_secret = |value: &Option<Value>| {
        value.as_ref().is_some_and(|v| v["kind"] == "Secret" && v["apiVersion"] == "v1")
    };
    if is_secret(&before) || is_secret(&after) {
        for path in ["/data", "/stringData", "/metadata/annotations"] {
            let only = (path == "/metadata/annotations").then_some(LAST_APPLIED);
            hide(
                before.as_mut().and_then(|v| v.pointer_mut(path)),
                after.as_mut().and_then(|v| v.pointer_mut(path)),
                only,
            );
        }
    }
    (before, after)
}

/// Hides the values of a map, so that it is still seen which of them differ, as `kubectl diff` does.
fn hide(before: Option<&mut Value>, after: Option<&mut Value>, only: Option<&str>) {
    let mut none = (Map::new(), Map::new());
    let before = before.and_then(Value::as_object_mut).unwrap_or(&mut none.0);
    let after = after.and_then(Value::as_object_mut).unwrap_or(&mut none.1);
    let concerned = |key: &String| only.is_none_or(|only| only == key);
    let same: Vec<String> = before
        .iter()
        .filter(|(key, value)| after.get(*key) == Some(value))
        .map(|(key, _)| key.clone())
        .collect();
    for (map, side) in [(before, "*** (before)"), (after, "*** (after)")] {
        for (key, value) in map.iter_mut().filter(|(key, _)| concerned(key)) {
            *value = if same.contains(key) { "***".into() } else { side.into() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_gives_is_no_change() {
        let with = |version: &str, data: &str| json!({"kind": "ConfigMap", "metadata": {"name": "n", "resourceVersion": version, "uid": version}, "status": version, "data": {"a": data}});
        let change = |after: &Value| {
            Outlook::new("c1", Effect::Change, "").comparing(Some(&with("1", "x")), Some(after))
        };
        assert_eq!(change(&with("2", "x")).effect, Effect::Nothing);
        let changed = change(&with("2", "y"));
        assert_eq!(
            (changed.effect, &changed.after.unwrap()),
            (Effect::Change, &json!({"kind": "ConfigMap", "metadata": {"name": "n"}, "data": {"a": "y"}}))
        );
    }

    #[test]
    fn secrets_show_that_they_differ_and_not_how() {
        let secret = |data: Value, applied: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"annotations": {LAST_APPLIED: applied, "a": "b"}}, "data": data});
        let (before, after) = shown(
            Some(&secret(json!({"a": "MQ==", "b": "Mg==", "c": "Mw=="}), "x")),
            Some(&secret(json!({"a": "MQ==", "b": "NA==", "d": "NQ=="}), "y")),
        );
        let text = format!("{before:?}{after:?}");
        assert!(!["MQ==", "Mg==", "Mw==", "NA==", "NQ=="].iter().any(|value| text.contains(value)), "{text}");
        assert_eq!(
            before.as_ref().unwrap()["data"],
            json!({"a": "***", "b": "*** (before)", "c": "*** (before)"})
        );
        assert_eq!(
            after.as_ref().unwrap()["data"],
            json!({"a": "***", "b": "*** (after)", "d": "*** (after)"})
        );
        assert_eq!(after.unwrap()["metadata"]["annotations"], json!({LAST_APPLIED: "*** (after)", "a": "b"}));
        let (none, made) = shown(None, Some(&secret(json!({"a": "MQ=="}), "")));
        assert_eq!((none, &made.unwrap()["data"]["a"]), (None, &json!("*** (after)")));
    }
}
