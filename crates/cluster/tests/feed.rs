//! What is told of a collection when lists break off, watches end, history is lost and connections fall silent: a server that answers as
//! a script says, under paused time.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail so

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use hansa_cluster::feed::{Feed, Step};
use hansa_transport::{Body, Transport, boxed};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use serde_json::{Value, json};

/// An answer.
enum Answer {
    /// The objects of a list, and whether there are more.
    Page(&'static [&'static str], bool),
    /// A refusal.
    Refusal(u16),
    /// The first lines of a watch, and how it goes on.
    Watch(Vec<String>, Then),
}

enum Then {
    Ends,
    Breaks,
    IsSilent,
}

fn status(code: u16) -> Value {
    let reason = if code == 410 { "Expired" } else { "InternalError" };
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": format!("no: {code}"),
    })
}

fn line(r#type: &str, name: &str, version: u64) -> String {
    let object = json!({"metadata": {"name": name, "resourceVersion": version.to_string()}});
    format!("{}\n", json!({"type": r#type, "object": object}))
}

fn answer(answer: Answer) -> Response<Body> {
    let whole = |code: u16, value: Value| {
        Response::builder().status(code).body(boxed(Full::from(value.to_string()))).unwrap()
    };
    match answer {
        Answer::Page(names, more) => {
            let items: Vec<Value> = names
                .iter()
                .map(|name| json!({"metadata": {"name": name, "resourceVersion": "1"}}))
                .collect();
            let next = if more { "more" } else { "" };
            whole(200, json!({"metadata": {"resourceVersion": "5", "continue": next}, "items": items}))
        }
        Answer::Refusal(code) => whole(code, status(code)),
        Answer::Watch(lines, then) => {
            let lines = stream::iter(lines).map(|line| Ok(Frame::data(Bytes::from(line))));
            let broken = Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
            let rest = match then {
                Then::Ends => stream::empty().boxed(),
                Then::Breaks => stream::iter([broken]).boxed(),
                Then::IsSilent => stream::pending().boxed(),
            };
            Response::new(boxed(StreamBody::new(lines.chain(rest))))
        }
    }
}

/// What is told while a server gives these answers, and then none; and what it was asked, in short.
async fn told(script: impl IntoIterator<Item = Answer>) -> (Vec<String>, Vec<String>) {
    let script: Arc<Mutex<VecDeque<Answer>>> = Arc::new(Mutex::new(script.into_iter().collect()));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let server = tower::service_fn(move |request: Request<Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key));
        let short = match (value("resourceVersion="), value("continue=")) {
            (Some(version), _) => format!("watch from {version}"),
            (None, Some(_)) => "next page".to_owned(),
            (None, None) => "list".to_owned(),
        };
        let next = script.lock().unwrap().pop_front();
        if next.is_some() {
            log.lock().unwrap().push(short);
        }
        async move {
            match next {
                Some(next) => Ok::<_, std::convert::Infallible>(answer(next)),
                None => std::future::pending().await,
            }
        }
    });
    let feed = Feed::new(Transport::in_process(server).client("default"), "/api/v1/configmaps");
    let mut told = Vec::new();
    let follow = feed.follow(|step| {
        told.push(match step {
            Step::Begin => "begin".to_owned(),
            Step::Listed(object) => object.meta.name.to_string(),
            Step::Complete => "complete".to_owned(),
            Step::Put(object) => format!("+{}", object.meta.name),
            Step::Gone(object) => format!("-{}", object.meta.name),
            Step::Failed(error) => format!("failed: {error}"),
        });
    });
    let _ = tokio::time::timeout(Duration::from_secs(3_600), follow).await;
    let asked = std::mem::take(&mut *asked.lock().unwrap());
    (told, asked)
}

#[tokio::test(start_paused = true)]
async fn a_list_is_complete_only_when_its_last_page_was_read() {
    let (told, asked) = told([
        Answer::Page(&["a"], true),
        Answer::Refusal(500),
        Answer::Page(&["a"], true),
        Answer::Refusal(410),
        Answer::Page(&["a"], true),
        Answer::Page(&["b"], false),
    ])
    .await;
    assert_eq!(
        told,
        ["begin", "a", "failed: no: 500", "begin", "a", "failed: no: 410", "begin", "a", "b", "complete"]
    );
    assert_eq!(asked, ["list", "next page", "list", "next page", "list", "next page"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_or_breaks_goes_on_after_the_last_thing_it_told() {
    let half = r#"{"type":"DELETED","object":{"metadata":{"name":"a""#.to_owned();
    let (told, asked) = told([
        Answer::Page(&["a"], false),
        Answer::Watch(vec![line("ADDED", "b", 7)], Then::Ends),
        Answer::Watch(vec![line("BOOKMARK", "", 9), half], Then::Breaks),
        Answer::Refusal(500),
        Answer::Watch(vec![line("MODIFIED", "a", 11), line("DELETED", "b", 12)], Then::Ends),
        Answer::Watch(vec![], Then::IsSilent),
    ])
    .await;
    assert_eq!(told[..4], ["begin", "a", "complete", "+b"]);
    assert!(told[4].starts_with("failed: the answer broke off"), "{told:?}");
    assert_eq!(told[5..8], ["failed: no: 500", "+a", "-b"]);
    assert_eq!(
        asked,
        ["list", "watch from 5", "watch from 7", "watch from 9", "watch from 9", "watch from 12"]
    );
}

#[tokio::test(start_paused = true)]
async fn lost_history_means_a_new_list_and_nothing_else() {
    let gone = format!("{}\n", json!({"type": "ERROR", "object": status(410)}));
    let (told, asked) = told([
        Answer::Page(&["a", "b"], false),
        Answer::Refusal(410),
        Answer::Page(&["a", "b"], false),
        Answer::Watch(vec![line("ADDED", "c", 7), gone], Then::IsSilent),
        Answer::Page(&["a", "c"], false),
    ])
    .await;
    let list = |names: [&'static str; 2]| ["begin", names[0], names[1], "complete"];
    let expected = [list(["a", "b"]).as_slice(), &list(["a", "b"]), &["+c"], &list(["a", "c"])].concat();
    assert_eq!(told, expected);
    assert_eq!(asked, ["list", "watch from 5", "list", "watch from 5", "list"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fell_silent_is_noticed_and_begun_again_where_it_was() {
    let (told, asked) = told([
        Answer::Page(&["a"], false),
        Answer::Watch(vec![line("ADDED", "b", 7)], Then::IsSilent),
        Answer::Watch(vec![line("DELETED", "a", 8)], Then::IsSilent),
    ])
    .await;
    let silent = "failed: the watch went silent";
    assert_eq!(told, ["begin", "a", "complete", "+b", silent, "-a", silent]);
    assert_eq!(asked, ["list", "watch from 5", "watch from 7"]);
}
