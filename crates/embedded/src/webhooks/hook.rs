//! What a webhook configuration says, read once for each state of the configurations.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hansa_machinery::{Status, selector::LabelSelector, structural::Condition};
use serde_json::Value;

use super::rules::Rule;
use crate::store::Store;

/// How long a webhook may take unless its configuration says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The two kinds of admission webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// They may change the object.
    Mutating,
    /// They see what is about to be stored.
    Validating,
}

impl Kind {
    fn storage(self) -> &'static str {
        match self {
            Self::Mutating => "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            Self::Validating => "validatingwebhookconfigurations.admissionregistration.k8s.io",
        }
    }
}

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At a URL.
    Url(String),
    /// Behind a Service of this cluster.
    Service { namespace: String, name: String, path: String, port: u16 },
}

/// One webhook.
#[derive(Debug)]
pub(crate) struct Hook {
    /// The name that messages tell.
    pub(crate) name: String,
    /// Where it is called.
    pub(crate) place: Place,
    /// The authorities, PEM, that its certificate must come from; those of the system without.
    pub(crate) authorities: Option<Vec<u8>>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) namespaces: LabelSelector,
    pub(crate) objects: LabelSelector,
    /// The match conditions, all of which must hold.
    pub(crate) conditions: Vec<Condition>,
    /// `Equivalent`: rules about another version of a resource apply as well.
    pub(crate) equivalent: bool,
    /// `Ignore`: a webhook that cannot be asked is no obstacle.
    pub(crate) ignores_failure: bool,
    pub(crate) timeout: Duration,
    /// Whether it promises to do nothing when asked about a dry run.
    pub(crate) dry: bool,
    /// `IfNeeded`: asked again when later webhooks changed what it saw.
    pub(crate) again: bool,
    /// The version of `AdmissionReview` to speak; `None` if it knows none that is known here.
    pub(crate) version: Option<&'static str>,
    /// Why the configuration cannot be followed; such a webhook refuses whatever it is about.
    pub(crate) unusable: Option<String>,
}

impl Hook {
    pub(super) fn read(webhook: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let config = &webhook["clientConfig"];
        let service = &config["service"];
        let place = match config["url"].as_str() {
            Some(url) => Place::Url(url.to_owned()),
            None => Place::Service {
                namespace: text(&service["namespace"]),
                name: text(&service["name"]),
                path: text(&service["path"]),
                port: service["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or(443),
            },
        };
        let mut unusable = None;
        let mut selector = |field: &str| match &webhook[field] {
            Value::Null => LabelSelector::everything(),
            value => LabelSelector::from_value(value).unwrap_or_else(|error| {
                unusable = Some(format!("{field}: {error}"));
                LabelSelector::everything()
            }),
        };
        let (namespaces, objects) = (selector("namespaceSelector"), selector("objectSelector"));
        let conditions = webhook["matchConditions"].as_array().into_iter().flatten();
        let conditions = conditions.filter_map(|condition| {
            let compiled = Condition::compile(condition["expression"].as_str().unwrap_or_default());
            compiled.map_err(|why| unusable = Some(format!("matchConditions: {why}"))).ok()
        });
        let conditions = conditions.collect();
        let versions = webhook["admissionReviewVersions"].as_array().into_iter().flatten();
        Self {
            name: text(&webhook["name"]),
            place,
            authorities: config["caBundle"].as_str().and_then(|bundle| STANDARD.decode(bundle).ok()),
            rules: webhook["rules"].as_array().into_iter().flatten().map(Rule::read).collect(),
            namespaces,
            objects,
            conditions,
            equivalent: webhook["matchPolicy"] != "Exact",
            ignores_failure: webhook["failurePolicy"] == "Ignore",
            timeout: webhook["timeoutSeconds"].as_u64().map_or(TIMEOUT, Duration::from_secs),
            dry: matches!(webhook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            again: webhook["reinvocationPolicy"] == "IfNeeded",
            version: versions.filter_map(Value::as_str).find_map(|version| match version {
                "v1" => Some("v1"),
                "v1beta1" => Some("v1beta1"),
                _ => None,
            }),
            unusable,
        }
    }
}

type Read = (Vec<u64>, Arc<[Hook]>);

/// The webhooks there are, in the order of their configurations' names.
#[derive(Debug, Default)]
pub(crate) struct Hooks(Mutex<BTreeMap<Kind, Read>>);

impl Hooks {
    /// The webhooks of a kind as the store has them at this moment.
    pub(crate) fn current(&self, store: &Store, kind: Kind) -> Result<Arc<[Hook]>, Status> {
        let page = store.list(kind.storage(), None, None, None, 0);
        let entries = page.map_err(|gone| Status::internal(gone.to_string()))?.entries;
        let revisions: Vec<u64> = entries.iter().map(|entry| entry.revision).collect();
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, hooks)) = read.get(&kind)
            && *seen == revisions
        {
            return Ok(hooks.clone());
        }
        let mut hooks = Vec::new();
        for entry in &entries {
            let configuration = crate::api::call::parse(&entry.object)?;
            hooks.extend(configuration["webhooks"].as_array().into_iter().flatten().map(Hook::read));
        }
        let hooks: Arc<[Hook]> = hooks.into();
        read.insert(kind, (revisions, hooks.clone()));
        Ok(hooks)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_configuration_leaves_out_is_as_kubernetes_has_it() {
        let hook = Hook::read(&json!({"name": "a.b.c", "admissionReviewVersions": ["v2", "v1beta1", "v1"],
            "sideEffects": "None", "clientConfig": {"service": {"namespace": "n", "name": "s"}}}));
        let place =
            Place::Service { namespace: "n".into(), name: "s".into(), path: String::new(), port: 443 };
        assert_eq!(hook.place, place);
        assert_eq!((hook.timeout, hook.version), (TIMEOUT, Some("v1beta1")));
        assert!(hook.equivalent && hook.dry && !hook.ignores_failure && !hook.again);
        assert!(hook.namespaces.is_everything() && hook.objects.is_everything());
    }

    #[test]
    fn what_cannot_be_followed_is_kept_as_a_refusal() {
        let hook = Hook::read(&json!({"matchConditions": [{"name": "x", "expression": "tr("}]}));
        assert!(hook.unusable.is_some());
        let odd = json!({"objectSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}});
        assert!(Hook::read(&odd).unusable.is_some());
    }
}
