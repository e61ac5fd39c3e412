//! `watch`: changes as a stream of JSON frames, with bookmarks and streaming lists.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use hansa_machinery::Status;
use rand::Rng;
use serde_json::{Value, json};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, MissedTickBehavior},
};

use super::{
    accept::Shape,
    call::{Answer, Call, Payload},
    convert,
    list::{Selection, expired, resource_version, too_new},
    render::Renderer,
};
use crate::{
    registry::Resource,
    server::Server,
    store::{Entry, Event, EventKind, Watch, WatchError},
};

/// How often a watch that asked for bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// How long a watch lasts when the caller does not say: this and up to as much again, as in Kubernetes.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);

/// The annotation of the bookmark that ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What one frame of a watch says.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame {
    Added(Arc<Entry>),
    Modified(Arc<Entry>),
    Deleted(Arc<Entry>),
    /// The object left the selection: its former state, and the revision at which it did.
    Left(Arc<Entry>, u64),
}

/// What a change means for a watcher that sees only some objects.
pub(crate) fn transition(event: &Event, matches: impl Fn(&Entry) -> bool) -> Option<Frame> {
    let before = event.previous.as_ref().filter(|previous| matches(previous));
    match event.kind {
        EventKind::Delete => {
            let seen =
                event.previous.as_ref().map_or_else(|| matches(&event.entry), |previous| matches(previous));
            seen.then(|| Frame::Deleted(event.entry.clone()))
        }
        EventKind::Put { .. } => match (before, matches(&event.entry)) {
            (None, true) => Some(Frame::Added(event.entry.clone())),
            (Some(_), true) => Some(Frame::Modified(event.entry.clone())),
            (Some(previous), false) => Some(Frame::Left(previous.clone(), event.revision())),
            (None, false) => None,
        },
    }
}

/// A watch under way.
pub(crate) struct Watching {
    server: Server,
    resource: Arc<Resource>,
    selection: Selection,
    watch: Option<Watch>,
    initial: VecDeque<Arc<Entry>>,
    /// The revision of the initial events, if the caller wants to know when it has them all.
    initial_end: Option<u64>,
    bookmarks: bool,
    ticks: tokio::time::Interval,
    deadline: Instant,
    changes: tokio::sync::watch::Receiver<u64>,
    /// Told once, then the stream ends.
    failure: Option<Status>,
    ended: bool,
    /// Counts among the watches that may be open.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Call {
    /// Answers `GET …?watch=true`.
    pub(crate) fn watch(&self) -> Result<Answer, Status> {
        let selection = Selection::parse(&self.query, &self.resource)?;
        let store = self.server.store();
        let asked = resource_version(&self.query)?;
        let streaming = self.query.flag("sendInitialEvents");
        self.check_streaming(streaming)?;
        let now = store.revision();
        let bookmarks = self.query.flag("allowWatchBookmarks").unwrap_or_default();
        let scope = self.scope();
        let mut failure = None;
        let mut initial = VecDeque::new();
        let mut initial_end = None;
        let from = match (streaming, asked) {
            (_, Some(asked)) if asked > now => return Err(too_new(asked, now)),
            (Some(false), None) => now,
            (None | Some(false), Some(asked)) => asked,
            (Some(true), _) | (None, None) => {
                let page = store
                    .list(&self.resource.storage, scope, None, None, 0)
                    .map_err(|gone| expired(gone.requested, gone.oldest))?;
                initial.extend(
                    page.entries.into_iter().filter(|entry| selection.matches(&self.resource, entry)),
                );
                initial_end = (streaming == Some(true) && bookmarks).then_some(page.revision);
                page.revision
            }
        };
        let watch = match store.watch(self.resource.storage.clone(), scope, from) {
            Ok(watch) => Some(watch),
            Err(gone) => {
                failure = Some(expired(from, gone.oldest));
                None
            }
        };
        let timeout =
            match self.query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok()) {
                Some(seconds) if seconds > 0 => Duration::from_secs(seconds.min(86_400)),
                _ => MIN_TIMEOUT.mul_f64(1.0 + rand::rng().random::<f64>()),
            };
        let mut ticks = tokio::time::interval_at(Instant::now() + BOOKMARK_INTERVAL, BOOKMARK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Answer::Watch(Box::new(Watching {
            server: self.server.clone(),
            resource: self.resource.clone(),
            selection,
            watch,
            initial,
            initial_end,
            bookmarks,
            ticks,
            deadline: Instant::now() + timeout,
            changes: self.server.registry().changes(),
            failure,
            ended: false,
            permit: None,
        })))
    }

    fn check_streaming(&self, streaming: Option<bool>) -> Result<(), Status> {
        let refuse = |message: &str| {
            let causes = vec![hansa_machinery::status::Cause {
                reason: "FieldValueForbidden",
                field: "resourceVersionMatch".into(),
                message: format!("Forbidden: {message}"),
            }];
            Err(Status::invalid("meta.k8s.io", "ListOptions", "", causes))
        };
        match (streaming, self.query.text("resourceVersionMatch")) {
            (Some(_), "NotOlderThan") | (None, "") => Ok(()),
            (Some(_), _) => refuse("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
            (None, _) => {
                refuse("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
            }
        }
    }
}

enum Next {
    Event(Result<Event, WatchError>),
    Bookmark,
    Timeout,
    Changed,
    Shutdown,
}

impl Watching {
    /// The next frame, encoded with its line end; `None` at the end of the stream.
    pub(crate) async fn next(&mut self, renderer: &mut Renderer) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(entry) = self.initial.pop_front() {
                return Some(self.encode(renderer, Frame::Added(entry)));
            }
            if let Some(revision) = self.initial_end.take() {
                return Some(self.bookmark(renderer, revision, true));
            }
            let (Some(watch), None) = (&mut self.watch, &self.failure) else {
                self.ended = true;
                return self.failure.take().map(|status| error_frame(&status));
            };
            let next = tokio::select! {
                biased;
                event = watch.next() => Next::Event(event),
                () = self.server.stopping() => Next::Shutdown,
                _ = self.changes.changed() => Next::Changed,
                () = tokio::time::sleep_until(self.deadline) => Next::Timeout,
                _ = self.ticks.tick(), if self.bookmarks => Next::Bookmark,
            };
            match next {
                Next::Event(Ok(event)) => {
                    let (selection, resource) = (&self.selection, &self.resource);
                    let frame = transition(&event, |entry| selection.matches(resource, entry));
                    if let Some(frame) = frame {
                        return Some(self.encode(renderer, frame));
                    }
                }
                Next::Event(Err(WatchError::Compacted(gone))) => {
                    self.failure = Some(expired(gone.requested, gone.oldest))
                }
                Next::Event(Err(WatchError::Closed)) | Next::Shutdown => self.ended = true,
                Next::Bookmark => {
                    if let Ok(revision) = watch.progress() {
                        return Some(self.bookmark(renderer, revision, false));
                    }
                }
                Next::Timeout => {
                    self.ended = true;
                    let last = if self.bookmarks { watch.progress().ok() } else { None };
                    return last.map(|revision| self.bookmark(renderer, revision, false));
                }
                Next::Changed => {
                    // A resource whose definition went away or changed is watched no longer: clients come back and find out.
                    let catalogue = self.server.registry().catalogue();
                    let found =
                        catalogue.resource(&self.resource.group, &self.resource.version, &self.resource.name);
                    self.ended = !found.is_some_and(|now| now.is_same_as(&self.resource));
                }
            }
        }
    }

    fn encode(&self, renderer: &mut Renderer, frame: Frame) -> Bytes {
        let (kind, payload) = match frame {
            Frame::Added(entry) => ("ADDED", convert::show(&self.resource, &entry)),
            Frame::Modified(entry) => ("MODIFIED", convert::show(&self.resource, &entry)),
            Frame::Deleted(entry) => ("DELETED", convert::show(&self.resource, &entry)),
            Frame::Left(entry, revision) => {
                let last = convert::show_value(&self.resource, &entry).map(|mut object| {
                    object["metadata"]["resourceVersion"] = revision.to_string().into();
                    Payload::Made(object)
                });
                ("DELETED", last)
            }
        };
        match payload.and_then(|payload| renderer.object(payload)) {
            Ok(object) => frame_of(kind, &object),
            Err(status) => error_frame(&status),
        }
    }

    fn bookmark(&self, renderer: &Renderer, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let object = match renderer.shape() {
            Shape::Whole => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
            Shape::Metadata(version) => json!({
                "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
            }),
            Shape::Table(version) => {
                let object = json!({
                    "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
                });
                json!({
                    "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": {"resourceVersion": revision.to_string()}, "columnDefinitions": [],
                    "rows": [{"cells": [], "object": object}],
                })
            }
        };
        frame_of("BOOKMARK", object.to_string().as_bytes())
    }
}

fn frame_of(kind: &str, object: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(object.len() + 32);
    frame.extend_from_slice(b"{\"type\":\"");
    frame.extend_from_slice(kind.as_bytes());
    frame.extend_from_slice(b"\",\"object\":");
    frame.extend_from_slice(object);
    frame.extend_from_slice(b"}\n");
    frame.into()
}

fn error_frame(status: &Status) -> Bytes {
    let value: Value = status.to_value();
    frame_of("ERROR", value.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use crate::store::{Facts, Key};

    use super::*;

    fn entry(revision: u64, visible: bool) -> Arc<Entry> {
        let labels = visible.then(|| ("visible".to_owned(), "yes".to_owned())).into_iter().collect();
        let facts = Facts { labels, ..Facts::default() };
        Arc::new(Entry { key: Key::new("pods", "a", "b"), revision, object: Bytes::new(), facts })
    }

    #[test]
    fn an_object_that_leaves_the_selection_is_deleted_for_the_watcher() {
        let visible = |entry: &Entry| entry.facts.labels.contains_key("visible");
        let put = |before: Option<bool>, after| Event {
            kind: EventKind::Put { created: before.is_none() },
            previous: before.map(|visible| entry(1, visible)),
            entry: entry(2, after),
        };
        assert!(matches!(transition(&put(None, true), visible), Some(Frame::Added(_))));
        assert!(matches!(transition(&put(Some(false), true), visible), Some(Frame::Added(_))));
        assert!(matches!(transition(&put(Some(true), true), visible), Some(Frame::Modified(_))));
        assert!(matches!(transition(&put(Some(true), false), visible), Some(Frame::Left(_, 2))));
        assert_eq!(transition(&put(Some(false), false), visible), None);
        let delete = |visible| Event {
            kind: EventKind::Delete,
            previous: Some(entry(1, visible)),
            entry: entry(2, true),
        };
        assert!(matches!(transition(&delete(true), visible), Some(Frame::Deleted(_))));
        assert_eq!(transition(&delete(false), visible), None);
    }
}
