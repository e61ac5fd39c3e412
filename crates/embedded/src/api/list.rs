//! `list`: pages of objects at one revision, selected by labels and fields.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hansa_machinery::{
    Status,
    selector::{FieldSelector, LabelSelector},
    status::Cause,
};
use serde::{Deserialize, Serialize};

use super::{
    call::{Answer, Call, List},
    query::Query,
};
use crate::{
    registry::{Resource, policy},
    store::{Entry, Page},
};

/// How many entries are taken from the store at a time while a selective list fills its page.
const CHUNK: usize = 1000;

/// Which objects a list, a watch or a deletecollection is about.
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads the selectors of a request and checks that the fields can be selected.
    pub(crate) fn parse(query: &Query, resource: &Resource) -> Result<Self, Status> {
        let labels = LabelSelector::parse(query.text("labelSelector"))?;
        let fields = FieldSelector::parse(query.text("fieldSelector"))?;
        for field in fields.terms().iter().map(|term| term.field.as_str()) {
            let known = matches!(field, "metadata.name" | "metadata.namespace" if field == "metadata.name" || resource.namespaced || resource.custom.is_none())
                || policy::selectable_fields(&resource.storage).contains(&field)
                || resource.custom.as_ref().is_some_and(|c| c.selectable.iter().any(|path| path == field));
            if !known {
                return Err(policy::unknown_field(resource, field));
            }
        }
        Ok(Self { labels, fields })
    }

    /// Whether every object is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The one name that can be selected, if the fields say so.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// Whether the entry is selected.
    pub(crate) fn matches(&self, resource: &Resource, entry: &Entry) -> bool {
        if !self.labels.is_everything() && !self.labels.matches(&entry.facts.labels) {
            return false;
        }
        if self.fields.is_everything() {
            return true;
        }
        let custom = match &resource.custom {
            Some(custom) if self.fields.terms().iter().any(|f| custom.selectable.contains(&f.field)) => {
                custom_fields(&custom.selectable, entry)
            }
            _ => BTreeMap::new(),
        };
        self.fields.matches(|field| match field {
            "metadata.name" => Some(entry.key.name.clone()),
            "metadata.namespace" => Some(entry.key.namespace.clone()),
            field => {
                Some(entry.facts.fields.get(field).or_else(|| custom.get(field)).cloned().unwrap_or_default())
            }
        })
    }
}

/// The selectable fields of a custom resource, which only its definition knows.
fn custom_fields(paths: &[String], entry: &Entry) -> BTreeMap<String, String> {
    let Ok(object) = serde_json::from_slice::<serde_json::Value>(&entry.object) else {
        return BTreeMap::new();
    };
    let value = |path: &String| {
        let found = path.split('.').try_fold(&object, |value, name| value.get(name))?;
        let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        Some((path.clone(), text))
    };
    paths.iter().filter_map(value).collect()
}

/// A place in a list to go on from. The format is Kubernetes' own, so that its tests of tokens hold here.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: u64,
    start: String,
}

impl Token {
    fn new(revision: u64, last: &Entry) -> Self {
        let start = match last.key.namespace.as_str() {
            "" => format!("{}\0", last.key.name),
            namespace => format!("{namespace}/{}\0", last.key.name),
        };
        Self { v: "meta.k8s.io/v1".into(), rv: revision, start }
    }

    fn encode(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let invalid = |why: String| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|e| invalid(e.to_string()))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(invalid("server does not recognize this encoded version".into()));
        }
        if token.start.is_empty() || token.rv == 0 {
            return Err(invalid("encoded start key or resource version empty".into()));
        }
        Ok(token)
    }

    /// The namespace and name of the last object the caller has.
    fn after(&self) -> (&str, &str) {
        let last = self.start.strip_suffix('\0').unwrap_or(&self.start);
        last.split_once('/').unwrap_or(("", last))
    }
}

/// The resource version a request names; `None` for none and for `0`, which mean "any" and so the newest here.
pub(crate) fn resource_version(query: &Query) -> Result<Option<u64>, Status> {
    match query.text("resourceVersion") {
        "" | "0" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {text:?}: \
                 strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}

/// 504: a resource version that was not given out yet. Clients know the reason and the cause and try again.
pub(crate) fn too_new(asked: u64, now: u64) -> Status {
    let mut status =
        Status::new(504, "Timeout", format!("Timeout: Too large resource version: {asked}, current: {now}"));
    status.retry_after_seconds = 1;
    status.causes = vec![Cause {
        reason: "ResourceVersionTooLarge",
        field: String::new(),
        message: "Too large resource version".into(),
    }];
    status
}

/// 410: the revision is no longer known.
pub(crate) fn expired(revision: u64, oldest: u64) -> Status {
    Status::expired(format!("too old resource version: {revision} ({oldest})"))
}

fn invalid_match(message: &str, value: &str) -> Status {
    let causes = vec![Cause {
        reason: "FieldValueForbidden",
        field: "resourceVersionMatch".into(),
        message: format!("Forbidden: {message}"),
    }];
    let _ = value;
    Status::invalid("meta.k8s.io", "ListOptions", "", causes)
}

impl Call {
    /// The namespace to list; `None` for all.
    pub(crate) fn scope(&self) -> Option<&str> {
        (self.resource.namespaced && !self.namespace.is_empty()).then_some(self.namespace.as_str())
    }

    /// Answers `GET` of a collection.
    pub(crate) fn list(&self) -> Result<Answer, Status> {
        let selection = Selection::parse(&self.query, &self.resource)?;
        let limit = self.query.number("limit")?.unwrap_or(0);
        let limit = usize::try_from(limit).unwrap_or(0);
        let (entries, revision, next, remaining) = self.select(&selection, limit)?;
        let items = entries.iter().map(|entry| self.show(entry)).collect::<Result<_, _>>()?;
        Ok(Answer::List(List { items, revision, next, remaining }))
    }

    /// The revision to list at: `None` for now.
    fn list_revision(&self, paged: bool) -> Result<Option<u64>, Status> {
        let asked = resource_version(&self.query)?;
        let given = self.query.text("resourceVersion");
        let now = self.server.store().revision();
        if let Some(asked) = asked.filter(|asked| *asked > now) {
            return Err(too_new(asked, now));
        }
        match self.query.text("resourceVersionMatch") {
            // With a limit and no match, an exact revision was always meant.
            "" => Ok(asked.filter(|_| paged)),
            _ if given.is_empty() => Err(invalid_match(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
                given,
            )),
            _ if !self.query.text("continue").is_empty() => {
                Err(invalid_match("resourceVersionMatch is forbidden when continue is provided", given))
            }
            "NotOlderThan" => Ok(None),
            "Exact" if asked.is_none() => Err(invalid_match(
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                given,
            )),
            "Exact" => Ok(asked),
            other => {
                let causes = vec![Cause {
                    reason: "FieldValueNotSupported",
                    field: "resourceVersionMatch".into(),
                    message: format!(
                        "Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
                    ),
                }];
                Err(Status::invalid("meta.k8s.io", "ListOptions", "", causes))
            }
        }
    }

    /// The selected entries of one page, its revision, where to go on, and how many are left.
    #[allow(clippy::type_complexity)]
    pub(crate) fn select(
        &self,
        selection: &Selection,
        limit: usize,
    ) -> Result<(Vec<Arc<Entry>>, u64, Option<String>, Option<u64>), Status> {
        let store = self.server.store();
        let token = match self.query.text("continue") {
            "" => None,
            text => {
                if !matches!(self.query.text("resourceVersion"), "" | "0") {
                    return Err(Status::bad_request(
                        "specifying resource version is not allowed when using continue",
                    ));
                }
                Some(Token::decode(text)?)
            }
        };
        let at = match &token {
            Some(token) => Some(token.rv),
            None => self.list_revision(limit > 0)?,
        };
        // One named object needs no walk through the others.
        if at.is_none()
            && let (Some(name), true) =
                (selection.name(), self.scope().is_some() || !self.resource.namespaced)
        {
            let revision = store.revision();
            let found =
                store.get(&self.key_of(name)).filter(|entry| selection.matches(&self.resource, entry));
            return Ok((found.into_iter().collect(), revision, None, None));
        }
        let storage = &self.resource.storage;
        let mut chosen: Vec<Arc<Entry>> = Vec::new();
        let mut last: Option<Arc<Entry>> = None;
        let mut at = at;
        loop {
            let after = match (&last, &token) {
                (Some(last), _) => Some((last.key.namespace.as_str(), last.key.name.as_str())),
                (None, Some(token)) => Some(token.after()),
                (None, None) => None,
            };
            let chunk = match (limit, selection.is_everything()) {
                (0, _) => 0,
                (limit, true) => limit - chosen.len(),
                (_, false) => CHUNK,
            };
            let page: Page = store.list(storage, self.scope(), after, at, chunk).map_err(|gone| match &token {
                // Clients that meet this start over, as Kubernetes tells them to.
                Some(_) => Status::expired(
                    "The provided continue parameter is too old to display a consistent list result. You must start a \
                     new list without the continue parameter.",
                ),
                None => expired(gone.requested, gone.oldest),
            })?;
            at = Some(page.revision);
            let mut more = page.more;
            let mut left = page.remaining;
            let taken = page.entries.len();
            for (index, entry) in page.entries.into_iter().enumerate() {
                last = Some(entry.clone());
                if selection.is_everything() || selection.matches(&self.resource, &entry) {
                    chosen.push(entry);
                    if limit > 0 && chosen.len() == limit && index + 1 < taken {
                        more = true;
                        left += (taken - index - 1) as u64;
                        break;
                    }
                }
            }
            if !more {
                return Ok((chosen, page.revision, None, None));
            }
            if limit > 0 && chosen.len() >= limit {
                let next = last.as_ref().map(|last| Token::new(page.revision, last).encode());
                // The number left is known only when nothing is filtered out.
                return Ok((chosen, page.revision, next, selection.is_everything().then_some(left)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_carries_the_place_and_the_revision() {
        let token = Token { v: "meta.k8s.io/v1".into(), rv: 7, start: "ns/name\0".into() };
        let decoded = Token::decode(&token.encode()).expect("our own token");
        assert_eq!(decoded, token);
        assert_eq!(decoded.after(), ("ns", "name"));
        for bad in ["%%%", "e30", "eyJ2IjoieCIsInJ2IjoxLCJzdGFydCI6ImEifQ"] {
            assert_eq!(Token::decode(bad).expect_err(bad).code, 400);
        }
    }
}
