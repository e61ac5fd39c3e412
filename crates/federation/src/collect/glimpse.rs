//! What is kept of a copy's status: some thirty bytes of a copy that is available, and its text if statuses are collected as they are.

use hansa_cluster::{Shown, Sighting};
use kube::core::ApiResource;
use serde_json::Value;

use super::health::{self, Subject};
use super::normal;
use crate::status::{Availability, RawStatus, Remote, Sight};
use crate::version::Version;

/// The status of a copy, projected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glimpse {
    /// `metadata.resourceVersion`, 0 if it is no number.
    resource_version: u64,
    /// `metadata.generation`, 0 without one.
    generation: u32,
    pub(crate) availability: Availability,
    more: Option<Box<More>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    detail: Box<str>,
    status: Option<RawStatus>,
}

impl Glimpse {
    /// What is kept where only the availability matters.
    pub(crate) fn of(target: &ApiResource, shown: &Shown) -> Self {
        let metadata = &shown.metadata;
        let subject = Subject {
            generation: metadata.generation.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            spec: &shown.spec,
            status: shown.status.as_ref().unwrap_or(&Value::Null),
        };
        let (availability, detail) = health::of(target, subject);
        let version = metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
        Self {
            resource_version: version.unwrap_or_default(),
            generation: saturated(subject.generation),
            availability,
            more: (!detail.is_empty()).then(|| Box::new(More { detail: detail.into(), status: None })),
        }
    }

    /// What is kept where the status is collected as it is.
    pub(crate) fn raw(target: &ApiResource, shown: &Shown) -> Self {
        let mut glimpse = Self::of(target, shown);
        if let Some(status) = shown.status.as_ref().filter(|status| status.is_object())
            && let Ok(json) = serde_json::to_vec(status)
        {
            let status = RawStatus { json: json.into(), hash: normal::hash_of(status) };
            glimpse.more.get_or_insert_default().status = Some(status);
        }
        glimpse
    }

    pub(crate) fn detail(&self) -> &str {
        self.more.as_ref().map_or("", |more| &more.detail)
    }

    pub(crate) fn status(&self) -> Option<&RawStatus> {
        self.more.as_ref().and_then(|more| more.status.as_ref())
    }

    /// Whether this shows the copy at a version or later.
    fn shows(&self, version: &Version) -> bool {
        match version {
            Version::Generation(generation) => self.generation >= saturated(*generation),
            Version::Resource(version) => {
                version.number().is_some_and(|version| self.resource_version >= version)
                    || self.resource_version == 0
            }
            Version::Chosen(chosen) => self.shows(&chosen.0),
        }
    }
}

fn saturated(generation: i64) -> u32 {
    u32::try_from(generation.max(0)).unwrap_or(u32::MAX)
}

/// How a copy is that was last right at a version: what the member shows of that version or a later one. A glimpse of an earlier one says
/// nothing of the present template.
pub(crate) fn sight(sighting: Option<&Sighting<Glimpse>>, version: Option<&Version>) -> Sight {
    let seen = |glimpse: &Glimpse| Sight::Seen(glimpse.availability, crate::intern::intern(glimpse.detail()));
    match sighting {
        Some(Sighting::Shown(glimpse)) if version.is_none_or(|version| glimpse.shows(version)) => {
            seen(glimpse)
        }
        Some(Sighting::Statusless) => Sight::Seen(Availability::Available, "".into()),
        Some(Sighting::Absent) => Sight::Seen(Availability::NotObserved, "".into()),
        Some(Sighting::Shown(_) | Sighting::Unread(_)) | None => Sight::Unheard,
    }
}

/// The status of a copy, to be passed on as it is; the last that was known of a member that is away.
pub(crate) fn remote(sighting: Option<&Sighting<Glimpse>>) -> Remote {
    match sighting {
        Some(Sighting::Shown(glimpse) | Sighting::Unread(Some(glimpse))) => match glimpse.status() {
            Some(status) => Remote::Known(Some(status.clone())),
            None => Remote::Missing,
        },
        Some(Sighting::Absent) => Remote::Missing,
        // It may have one all the same: then that was shown.
        Some(Sighting::Statusless) => Remote::Known(None),
        Some(Sighting::Unread(None)) | None => Remote::Unheard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> ApiResource {
        ApiResource {
            group: String::new(),
            version: "v1".into(),
            api_version: "v1".into(),
            kind: "Pod".into(),
            plural: "pods".into(),
        }
    }

    fn shown(object: Value) -> Shown {
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_copy_that_is_available_takes_a_few_words() {
        assert!(size_of::<(u32, Glimpse)>() <= 32);
        let pod = shown_pod(7);
        assert_eq!((pod.availability, pod.detail()), (Availability::Available, ""));
        assert!(pod.more.is_none());
    }

    fn shown_pod(version: u64) -> Glimpse {
        let pod_shown = shown(json!({
            "metadata": {"name": "p", "generation": 2, "resourceVersion": version.to_string()}, "status": {"phase": "Succeeded"},
        }));
        Glimpse::of(&pod(), &pod_shown)
    }

    #[test]
    fn a_glimpse_of_an_earlier_version_says_nothing() {
        let sighting = Sighting::Shown(shown_pod(7));
        let see = |version: Version| sight(Some(&sighting), Some(&version));
        let available = Sight::Seen(Availability::Available, "".into());
        assert_eq!(see(Version::Generation(2)), available);
        assert_eq!(see(Version::Generation(3)), Sight::Unheard);
        assert_eq!(see(Version::of(0, "7")), available);
        assert_eq!(see(Version::of(0, "8")), Sight::Unheard);
        assert_eq!(sight(None, None), Sight::Unheard);
        assert_eq!(sight(Some(&Sighting::Unread(Some(shown_pod(7)))), None), Sight::Unheard);
    }

    #[test]
    fn what_a_member_said_last_is_kept_while_it_is_away() {
        let glimpse =
            Glimpse::raw(&pod(), &shown(json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}})));
        let Remote::Known(Some(status)) = remote(Some(&Sighting::Unread(Some(glimpse)))) else {
            panic!("it is kept")
        };
        assert_eq!(&*status.json, br#"{"phase":"Running"}"#);
        let none = Glimpse::raw(&pod(), &shown(json!({"metadata": {"name": "p"}})));
        assert_eq!(remote(Some(&Sighting::Shown(none))), Remote::Missing);
        assert_eq!(remote(Some(&Sighting::Statusless)), Remote::Known(None));
        assert_eq!(remote(None), Remote::Unheard);
    }

    /// `spec/kubefed.md §2.8`: an empty status is a status.
    #[test]
    fn an_empty_status_is_a_status() {
        let empty = Glimpse::raw(&pod(), &shown(json!({"metadata": {"name": "p"}, "status": {}})));
        assert!(matches!(remote(Some(&Sighting::Shown(empty))), Remote::Known(Some(_))));
    }
}
