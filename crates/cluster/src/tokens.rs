//! The tokens that KubeFedClusters name, from the Secrets of the host.
//!
//! They are watched where that is allowed. KubeFed's own chart allows only `get` (`spec/kubefed.md §0 (12)`): then exactly the Secrets that are
//! named are read, and read again from time to time, so that a token that was rotated is still picked up (`spec/kubefed.md §6 (3)`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use hansa_transport::explain;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::{mpsc, watch};

use crate::listed::Listed;

/// How many Secrets are read at once.
const AT_ONCE: usize = 8;
/// How long reading one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of the token in a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// There is one.
    Given(String),
    /// There is no such Secret, or it has no key `token`.
    Absent,
    /// The Secret cannot be read, and never could.
    Unreadable(String),
}

/// The tokens as far as they are known.
#[derive(Default)]
pub(crate) struct Tokens {
    listed: Listed<String>,
    read: Option<BTreeMap<String, Token>>,
}

/// What the source of the tokens says.
pub(crate) enum Said {
    Event(Box<watcher::Event<Secret>>),
    /// From now on Secrets are read one by one.
    OneByOne,
    Read(String, Result<Option<String>, String>),
}

impl Tokens {
    /// Returns whether something that is known changed.
    pub(crate) fn apply(&mut self, said: Said) -> bool {
        match said {
            Said::Event(event) => self.listed.apply(*event, |secret| token(&secret)),
            Said::OneByOne => {
                // What the watch showed, if it ever did, is as good as read.
                let known = std::mem::take(&mut self.listed.known).into_iter();
                self.read
                    .get_or_insert_with(|| known.map(|(name, token)| (name, Token::Given(token))).collect());
                true
            }
            Said::Read(name, found) => {
                let read = self.read.get_or_insert_default();
                let found = match (found, read.get(&name)) {
                    (Ok(Some(token)), _) => Token::Given(token),
                    (Ok(None), _) => Token::Absent,
                    // A token that was good a moment ago is not forgotten because the host has a bad one.
                    (Err(_), Some(known @ (Token::Given(_) | Token::Absent))) => known.clone(),
                    (Err(why), _) => Token::Unreadable(why),
                };
                read.insert(name, found.clone()) != Some(found)
            }
        }
    }

    /// Forgets what was read of Secrets that are no longer named.
    pub(crate) fn keep(&mut self, named: &BTreeSet<String>) {
        if let Some(read) = &mut self.read {
            read.retain(|name, _| named.contains(name));
        }
    }

    /// `None` means that it is not known yet, which says nothing about the Secret.
    pub(crate) fn get(&self, secret: &str) -> Option<Token> {
        match &self.read {
            Some(read) => read.get(secret).cloned(),
            None if !self.listed.synced => None,
            None => Some(self.listed.known.get(secret).cloned().map_or(Token::Absent, Token::Given)),
        }
    }
}

/// The token in a Secret; of other Secrets nothing is kept.
fn token(secret: &Secret) -> Option<String> {
    let token = secret.data.as_ref()?.get("token")?;
    String::from_utf8(token.0.clone()).ok()
}

/// Tells of the Secrets that are `named`, until nobody listens.
pub(crate) async fn follow(
    secrets: Api<Secret>,
    named: watch::Receiver<BTreeSet<String>>,
    again: Duration,
    tell: mpsc::Sender<Said>,
) {
    let mut events = watcher(secrets.clone(), watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        let said = match event {
            Ok(event) => Said::Event(Box::new(event)),
            Err(error) if is_forbidden(&error) => {
                tracing::info!(
                    "Secrets may not be watched on the host; those that clusters name are read every {again:?}"
                );
                break;
            }
            Err(error) => {
                tracing::warn!(%error, "the Secrets of the host cannot be watched; trying again");
                continue;
            }
        };
        if tell.send(said).await.is_err() {
            return;
        }
    }
    drop(events);
    if tell.send(Said::OneByOne).await.is_ok() {
        read_all(secrets, named, again, tell).await;
    }
}

async fn read_all(
    secrets: Api<Secret>,
    mut named: watch::Receiver<BTreeSet<String>>,
    again: Duration,
    tell: mpsc::Sender<Said>,
) {
    loop {
        let names = named.borrow_and_update().clone();
        let mut found = futures::stream::iter(names)
            .map(|name| async {
                let found = match tokio::time::timeout(PATIENCE, secrets.get_opt(&name)).await {
                    Ok(Ok(secret)) => Ok(secret.as_ref().and_then(token)),
                    Ok(Err(error)) => Err(explain(&error)),
                    Err(_) => Err(format!("the host did not answer within {PATIENCE:?}")),
                };
                (name, found)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((name, found)) = found.next().await {
            if let Err(error) = &found {
                tracing::debug!(secret = name, error, "a Secret cannot be read");
            }
            if tell.send(Said::Read(name, found)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(again) => {}
            changed = named.changed() => if changed.is_err() { return },
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code == 403,
        watcher::Error::WatchError(status) => status.code == 403,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tokens: &mut Tokens, found: Result<Option<&str>, &str>) -> bool {
        tokens
            .apply(Said::Read("s".into(), found.map(|token| token.map(str::to_owned)).map_err(str::to_owned)))
    }

    #[test]
    fn nothing_is_known_before_the_secrets_were_looked_at() {
        let mut tokens = Tokens::default();
        assert_eq!(tokens.get("s"), None);
        tokens.apply(Said::OneByOne);
        assert_eq!(tokens.get("s"), None);
        read(&mut tokens, Ok(None));
        assert_eq!(tokens.get("s"), Some(Token::Absent));
    }

    #[test]
    fn a_token_outlives_a_host_that_does_not_answer() {
        let mut tokens = Tokens::default();
        assert!(read(&mut tokens, Err("refused")));
        assert_eq!(tokens.get("s"), Some(Token::Unreadable("refused".into())));
        assert!(read(&mut tokens, Ok(Some("a"))));
        assert!(!read(&mut tokens, Err("refused")));
        assert_eq!(tokens.get("s"), Some(Token::Given("a".into())));
        assert!(read(&mut tokens, Ok(Some("b"))), "a token that was rotated is picked up");
        assert!(read(&mut tokens, Ok(None)));
        assert!(!read(&mut tokens, Err("refused")));
        assert_eq!(tokens.get("s"), Some(Token::Absent));
    }

    #[test]
    fn a_watch_that_ends_takes_nothing_with_it() {
        let mut tokens = Tokens::default();
        tokens.listed.known.insert("s".into(), "a".into());
        tokens.listed.synced = true;
        assert_eq!(tokens.get("t"), Some(Token::Absent));
        tokens.apply(Said::OneByOne);
        assert_eq!(tokens.get("s"), Some(Token::Given("a".into())));
        assert_eq!(tokens.get("t"), None);
    }
}
