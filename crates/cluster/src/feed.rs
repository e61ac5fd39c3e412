//! List and watch: tells what a collection holds and what becomes of it, object by object, and keeps nothing.
//!
//! It does what client-go's reflector does (Kubernetes API concepts, "Efficient detection of changes"), on the encoded objects: whoever
//! listens reads from them what it needs, and a watch at rest holds no buffer. A thousand of them are open at once.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use hansa_transport::explain;
use http::Request;
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use kube::core::Status;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a watch goes on; somewhat less for each, so that a thousand do not begin anew together.
const WATCH: Duration = Duration::from_secs(290);
/// How much later than asked a watch may end before it is taken for dead, although its connection lives.
const GRACE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A watch that ended sooner was not ended for its age.
const BRIEF: Duration = Duration::from_secs(1);
/// The largest page or line that is read; a server's own limit for one object is far below.
const LARGEST: usize = 256 << 20;

/// A collection of objects to be followed.
#[derive(Clone)]
pub struct Feed {
    client: kube::Client,
    path: String,
    selector: String,
    only_metadata: bool,
    page: u32,
}

/// What is told.
#[derive(Debug)]
pub enum Step<'a> {
    /// Everything is listed from the beginning.
    Begin,
    /// One of the objects there are.
    Listed(&'a Object<'a>),
    /// All there are have been listed.
    Complete,
    /// An object came or changed.
    Put(&'a Object<'a>),
    /// An object went, or left the selection.
    Gone(&'a Object<'a>),
    /// It does not work; it is tried again after a pause.
    Failed(&'a FeedError),
}

/// One object.
#[derive(Debug)]
pub struct Object<'a> {
    /// What nearly everybody needs of it.
    pub meta: Meta<'a>,
    /// The whole of it, as JSON.
    pub raw: &'a str,
}

/// `metadata`, without what is large.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta<'a> {
    /// `name`.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// `namespace`; empty if there is none.
    #[serde(borrow)]
    pub namespace: Cow<'a, str>,
    /// `uid`.
    #[serde(borrow)]
    pub uid: Cow<'a, str>,
    /// `resourceVersion`.
    #[serde(borrow)]
    pub resource_version: Cow<'a, str>,
    /// `generation`; 0 if there is none.
    pub generation: i64,
    deletion_timestamp: Option<IgnoredAny>,
    #[serde(borrow)]
    managed_fields: Option<Vec<Managed<'a>>>,
    #[serde(borrow)]
    labels: Option<Pairs<'a>>,
    #[serde(borrow)]
    annotations: Option<Pairs<'a>>,
}

impl Meta<'_> {
    /// Whether there is a `deletionTimestamp`.
    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// Whether `manager` has applied the object, by server-side apply.
    pub fn is_applied_by(&self, manager: &str) -> bool {
        let applied = |entry: &Managed<'_>| {
            entry.operation == "Apply" && entry.manager == manager && entry.subresource.is_none()
        };
        self.managed_fields.as_ref().is_some_and(|entries| entries.iter().any(applied))
    }

    /// `labels`.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        Pairs::iter(self.labels.as_ref())
    }

    /// `annotations`.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        Pairs::iter(self.annotations.as_ref())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Managed<'a> {
    #[serde(borrow)]
    manager: Cow<'a, str>,
    #[serde(borrow)]
    operation: Cow<'a, str>,
    subresource: Option<IgnoredAny>,
}

#[derive(Debug)]
struct Pairs<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl Pairs<'_> {
    fn iter(pairs: Option<&Self>) -> impl Iterator<Item = (&str, &str)> {
        pairs.into_iter().flat_map(|pairs| &pairs.0).map(|(key, value)| (&**key, &**value))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::with_capacity(map.size_hint().unwrap_or_default());
                while let Some((Text(key), Text(value))) = map.next_entry()? {
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// A string that is borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Why a collection cannot be followed at the moment.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The request did not get through.
    #[error("{}", explain(.0))]
    Request(#[from] kube::Error),
    /// The server refused.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
    /// The answer broke off.
    #[error("the answer broke off: {0}")]
    Lost(String),
    /// The answer is not what the API says.
    #[error("the answer cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The connection lives, and the watch does not end when it should.
    #[error("the watch went silent")]
    Silent,
}

impl FeedError {
    /// Whether the server no longer knows what happened since: everything must be listed again.
    fn is_expired(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code == 410 || status.reason == "Expired")
    }
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    metadata: PageMeta<'a>,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta<'a> {
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
    #[serde(borrow, rename = "continue")]
    next: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

fn object(raw: &RawValue) -> Result<Object<'_>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Whole<'a> {
        #[serde(borrow)]
        metadata: Meta<'a>,
    }
    let raw = raw.get();
    Ok(Object { meta: serde_json::from_str::<Whole<'_>>(raw)?.metadata, raw })
}

impl Feed {
    /// The collection at `path`, as `/apis/apps/v1/deployments`; all of it.
    pub fn new(client: kube::Client, path: impl Into<String>) -> Self {
        Self { client, path: path.into(), selector: String::new(), only_metadata: false, page: 100 }
    }

    /// Where the collection is.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Only objects that a label selector matches.
    #[must_use]
    pub fn selecting(self, selector: impl Into<String>) -> Self {
        Self { selector: selector.into(), ..self }
    }

    /// Only the metadata of the objects.
    #[must_use]
    pub fn only_metadata(self) -> Self {
        Self { only_metadata: true, page: 500, ..self }
    }

    /// Tells of the collection for as long as it is polled. What it cannot find out it tries again, each time later.
    pub async fn follow(&self, mut tell: impl FnMut(Step<'_>)) {
        let mut version: Option<String> = None;
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let mut heard = false;
            let outcome = match version.take() {
                None => Box::pin(self.list(&mut tell)).await.map(|listed| {
                    heard = true;
                    version = Some(listed);
                }),
                Some(from) => {
                    let mut at = from;
                    let outcome = self.watch(&mut at, &mut heard, &mut tell).await;
                    if !matches!(&outcome, Err(error) if error.is_expired()) {
                        version = Some(at);
                    }
                    outcome
                }
            };
            if heard {
                failures = 0;
            }
            match outcome {
                Ok(()) if heard || began.elapsed() >= BRIEF => continue,
                Ok(()) => {}
                Err(error) if error.is_expired() && failures == 0 => {
                    failures = 1;
                    continue;
                }
                Err(error) => tell(Step::Failed(&error)),
            }
            sleep(pause(failures)).await;
            failures = failures.saturating_add(1);
        }
    }

    async fn list(&self, tell: &mut impl FnMut(Step<'_>)) -> Result<String, FeedError> {
        let mut next = String::new();
        tell(Step::Begin);
        loop {
            let page = match next.as_str() {
                "" => format!("limit={}", self.page),
                next => format!("limit={}&continue={}", self.page, encoded(next)),
            };
            let body = self.ask(&page).await?;
            let body = Limited::new(body, LARGEST).collect().await;
            let body = body.map_err(|error| FeedError::Lost(error.to_string()))?.to_bytes();
            let page: Page<'_> = serde_json::from_slice(&body)?;
            for raw in page.items.into_iter().flatten() {
                tell(Step::Listed(&object(raw)?));
            }
            if page.metadata.next.is_empty() {
                tell(Step::Complete);
                return Ok(page.metadata.resource_version.into_owned());
            }
            next = page.metadata.next.into_owned();
        }
    }

    async fn watch(
        &self,
        version: &mut String,
        heard: &mut bool,
        tell: &mut impl FnMut(Step<'_>),
    ) -> Result<(), FeedError> {
        let lasts = WATCH - WATCH.mul_f64(random() / 4.0);
        let end = Instant::now() + lasts + GRACE;
        let query = format!(
            "watch=true&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
            lasts.as_secs(),
            encoded(version)
        );
        // What asking takes is much, and a watch at rest is to be little.
        let mut body = Box::pin(self.ask(&query)).await?;
        let mut rest = Vec::new();
        loop {
            let frame = timeout_at(end, body.frame()).await.map_err(|_| FeedError::Silent)?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| FeedError::Lost(error.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            lines(&mut rest, &data, |line| {
                *heard = true;
                heed(line, version, tell)
            })?;
        }
        if rest.is_empty() { Ok(()) } else { heed(&rest, version, tell) }
    }

    async fn ask(&self, query: &str) -> Result<Body, FeedError> {
        let selector = match self.selector.as_str() {
            "" => String::new(),
            selector => format!("&labelSelector={}", encoded(selector)),
        };
        let accept = match (self.only_metadata, query.starts_with("watch")) {
            (false, _) => "application/json",
            (true, true) => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            (true, false) => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        };
        let request = Request::get(format!("{}?{query}{selector}", self.path)).header("accept", accept);
        let request = request.body(Body::empty()).map_err(|error| FeedError::Lost(error.to_string()))?;
        let response = self.client.send(request).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let code = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| FeedError::Lost(error.to_string()))?.to_bytes();
        let status = serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&body);
            Status::failure(&format!("{code}: {}", text.trim()), "").with_code(code.as_u16())
        });
        Err(FeedError::Refused(Box::new(status)))
    }
}

/// Takes in one line of a watch.
fn heed(line: &[u8], version: &mut String, tell: &mut impl FnMut(Step<'_>)) -> Result<(), FeedError> {
    let line: Line<'_> = serde_json::from_slice(line)?;
    if line.r#type == "ERROR" {
        return Err(FeedError::Refused(Box::new(serde_json::from_str(line.object.get())?)));
    }
    let object = object(line.object)?;
    match &*line.r#type {
        "ADDED" | "MODIFIED" => tell(Step::Put(&object)),
        "DELETED" => tell(Step::Gone(&object)),
        _ => {}
    }
    version.clear();
    version.push_str(&object.meta.resource_version);
    Ok(())
}

/// Cuts data into lines. What is left of the last one is kept in `rest`, which holds nothing where nothing is left.
fn lines<E>(rest: &mut Vec<u8>, data: &Bytes, mut line: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut data = data.as_ref();
    while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
        let (head, tail) = data.split_at(end);
        data = tail.get(1..).unwrap_or_default();
        if rest.is_empty() {
            if !head.is_empty() {
                line(head)?;
            }
        } else {
            rest.extend_from_slice(head);
            line(&std::mem::take(rest))?;
        }
    }
    rest.extend_from_slice(data);
    Ok(())
}

fn pause(failures: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
    pause.mul_f64(0.75 + random() / 2.0)
}

/// Between 0 and 1.
fn random() -> f64 {
    let hash = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(hash >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meta(text: &str) -> Result<Object<'_>, serde_json::Error> {
        object(serde_json::from_str(text)?)
    }

    #[test]
    fn what_is_needed_of_an_object_is_read_and_the_rest_passed_over() {
        let text = r#"{"kind":"X","metadata":{"name":"a\"b","namespace":"n","uid":"u","resourceVersion":"7",
            "generation":3,"labels":{"k":"v","esc\u0061pe":"\n"},"annotations":null,"managedFields":[{"manager":"k","operation":"Apply","fieldsV1":{"f:x":{}}}],
            "deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{"deep":[{"a":[]}]}}"#;
        let object = meta(text).unwrap();
        assert_eq!((&*object.meta.name, &*object.meta.namespace, object.meta.generation), ("a\"b", "n", 3));
        assert!(object.meta.is_deleting());
        assert!(object.meta.is_applied_by("k") && !object.meta.is_applied_by("x"));
        assert_eq!(object.meta.labels().collect::<Vec<_>>(), [("k", "v"), ("escape", "\n")]);
        assert_eq!(object.meta.annotations().count(), 0);
        assert!(object.raw.starts_with(r#"{"kind":"X""#));
        assert!(meta("{}").is_err());
    }

    #[test]
    fn a_line_moves_the_version_on_and_an_error_ends_the_watch() {
        let mut version = "1".to_owned();
        let mut told = Vec::new();
        let mut tell = |step: Step<'_>| match step {
            Step::Put(object) => told.push(format!("+{}", object.meta.name)),
            Step::Gone(object) => told.push(format!("-{}", object.meta.name)),
            _ => unreachable!(),
        };
        for (kind, at) in [("ADDED", "2"), ("MODIFIED", "3"), ("BOOKMARK", "9"), ("DELETED", "10")] {
            let line = format!(
                r#"{{"type":"{kind}","object":{{"metadata":{{"name":"a","resourceVersion":"{at}"}}}}}}"#
            );
            heed(line.as_bytes(), &mut version, &mut tell).unwrap();
            assert_eq!(version, at);
        }
        let gone = br#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","message":"too old","reason":"Expired","code":410}}"#;
        assert!(heed(gone, &mut version, &mut tell).unwrap_err().is_expired());
        assert_eq!((version.as_str(), told), ("10", vec!["+a".to_owned(), "+a".to_owned(), "-a".to_owned()]));
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_are_cut(text in "([a-c]{0,5}\n){0,8}[a-c]{0,4}", cuts in proptest::collection::vec(0usize..40, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let (mut rest, mut found) = (Vec::new(), Vec::new());
            for pair in cuts.windows(2) {
                let data = Bytes::copy_from_slice(&text.as_bytes()[pair[0]..pair[1]]);
                lines::<()>(&mut rest, &data, |line| { found.push(String::from_utf8(line.to_vec()).unwrap()); Ok(()) }).unwrap();
            }
            let (whole, last) = text.rsplit_once('\n').unwrap_or(("", &text));
            let expected: Vec<&str> = whole.split('\n').filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(rest, last.as_bytes());
        }

        #[test]
        fn any_bytes_are_read_without_harm(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = heed(&line, &mut String::new(), &mut |_| {});
        }

        #[test]
        fn pauses_grow_and_stay_within_bounds(failures in 0u32..100) {
            prop_assert!(pause(failures) <= LONGEST_PAUSE * 5 / 4);
            prop_assert!(pause(failures) >= FIRST_PAUSE / 2);
        }
    }
}
