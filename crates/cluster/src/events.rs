//! Events: what happened, told beside the object it happened to.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Resource};

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// KubeFed's own name for the source of these events (`spec/kubefed.md §2.2`).
const COMPONENT: &str = "kubefedcluster-controller";

/// Tells an event, without making the caller wait. It is told on transitions only, so it needs no counting; failure to tell it changes nothing
/// else.
pub(crate) fn emit<K>(client: &kube::Client, about: &K, severity: Severity, reason: &str, message: &str)
where
    K: Resource<DynamicType = ()>,
{
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let reference: ObjectReference = about.object_ref(&());
    // Events about cluster-scoped objects are kept in `default`, as kubectl expects.
    let namespace = reference.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let event = Event {
        metadata: ObjectMeta {
            // As client-go names events.
            name: Some(format!(
                "{}.{:x}",
                reference.name.as_deref().unwrap_or("event"),
                now.0.as_nanosecond()
            )),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: reference,
        type_: Some(if severity == Severity::Normal { "Normal" } else { "Warning" }.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.chars().take(1024).collect()),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: COMPONENT.to_owned().into(),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    };
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    tokio::spawn(async move {
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            tracing::debug!(reason = ?event.reason, error = %hansa_transport::explain(&error), "an event could not be told");
        }
    });
}
