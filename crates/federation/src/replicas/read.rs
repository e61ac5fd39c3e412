//! Reads what a member knows of a copy and its Pods.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hansa_api::names;
use hansa_cluster::{Informers, Lookup, Member};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, Request};
use serde::Deserialize;
use tokio::time::{self, Instant};

use super::capacity::{Count, Pod, Target};
use crate::key::Key;

/// How long a member may take to say what runs there.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a member that did not answer in time is not asked again, so that its silence is not waited for with every object.
const REST: Duration = Duration::from_secs(10);
/// How many Pods are read at once.
const PAGE: u32 = 500;

/// What is known of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// The member has no copy.
    Absent,
    /// It has this one.
    Counted {
        /// `metadata.resourceVersion` of the copy.
        version: String,
        /// Whether the Pods were counted, which come and go without the copy changing.
        pods: bool,
        /// How many replicas run.
        count: Count,
    },
    /// That cannot be said, and why.
    Unknown(String),
}

/// Asks members.
pub(super) struct Reader {
    resting: Mutex<BTreeMap<String, Instant>>,
    timeout: Duration,
}

impl Default for Reader {
    fn default() -> Self {
        Self { resting: Mutex::default(), timeout: TIMEOUT }
    }
}

impl Reader {
    /// What runs of a copy in a member; it is asked only for what its watch does not show and was not read before.
    pub(super) async fn read(
        &self,
        member: &Member,
        informers: &Informers,
        target: &ApiResource,
        key: &Key,
        former: Option<&Reading>,
    ) -> Reading {
        let Some(client) = member.client.clone().filter(|_| member.ready) else {
            return Reading::Unknown(member.problem.clone().unwrap_or_else(|| "it is not ready".to_owned()));
        };
        match (informers.get(&member.name, &key.namespace, &key.name), former) {
            (Lookup::Absent, _) => return Reading::Absent,
            (Lookup::Present(observed), Some(former @ Reading::Counted { version, pods: false, .. }))
                if observed.resource_version.to_string() == *version =>
            {
                return former.clone();
            }
            _ => {}
        }
        if self.lock().get(&member.name).is_some_and(|until| *until > Instant::now()) {
            return Reading::Unknown(format!("it did not answer within {:?}", self.timeout));
        }
        match time::timeout(self.timeout, ask(client, target, key)).await {
            Ok(Ok(reading)) => {
                self.lock().remove(&member.name);
                reading
            }
            Ok(Err(error)) => Reading::Unknown(error.to_string()),
            Err(_) => {
                self.lock().insert(member.name.clone(), Instant::now() + REST);
                Reading::Unknown(format!("it did not answer within {:?}", self.timeout))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(client: Client, target: &ApiResource, key: &Key) -> kube::Result<Reading> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, target);
    let Some(copy) = api.get_opt(&key.name).await? else { return Ok(Reading::Absent) };
    let managed = copy.metadata.labels.as_ref().and_then(|labels| labels.get(names::LABEL_MANAGED));
    if managed.is_none_or(|managed| managed != names::MANAGED_TRUE) {
        return Ok(Reading::Absent);
    }
    let version = copy.metadata.resource_version.clone().unwrap_or_default();
    let target = Target::of(&copy.data);
    let pods = !target.is_complete();
    let count = match &target.selector {
        None => Count { current: target.ready, ..Count::default() },
        Some(_) if !pods => target.complete(),
        Some(selector) => {
            Count::of(&target, &list(client, &key.namespace, selector).await?, Timestamp::now())
        }
    };
    Ok(Reading::Counted { version, pods, count })
}

/// A page of Pods, of which only that is read which is counted.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default)]
    items: Vec<Pod>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(default)]
    r#continue: Option<String>,
}

async fn list(client: Client, namespace: &str, selector: &str) -> kube::Result<Vec<Pod>> {
    let api: Api<ApiPod> = Api::namespaced(client.clone(), namespace);
    let mut params = ListParams::default().labels(selector).limit(PAGE);
    let mut pods = Vec::new();
    loop {
        let request = Request::new(api.resource_url()).list(&params).map_err(kube::Error::BuildRequest)?;
        let page: Page = client.request(request).await?;
        pods.extend(page.items);
        match page.metadata.r#continue.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(pods),
        }
    }
}
