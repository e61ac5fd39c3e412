//! The manifest of a member's agent over HTTP, under the two paths it has in KubeSphere (`spec/kubesphere-multicluster.md §1.8`).
//!
//! Each request mints a token, so whoever asks must be one who may change the Cluster, and no answer is kept by anybody in between.

use hansa_access::{Identity, Question, Reviews, answer};
use hansa_cluster::{
    agents::{self, AgentError, InviteError, Terms},
    valid_name,
};
use hansa_machinery::Status;
use hansa_transport::Body;
use http::{HeaderValue, Method, Response, Uri, header};
use jiff::Timestamp;
use kube::Client;
use rand::SeedableRng;

const GROUP: &str = "cluster.kubesphere.io";

/// The cluster whose agent's manifest is asked for at `path` on the host; `None` where something else is.
pub(crate) fn asked<'a>(path: &'a str, uri: &'a Uri) -> Option<&'a str> {
    if path == "/kapis/tower.kubesphere.io/v1alpha1/deployment" {
        let pairs = uri.query().unwrap_or_default().split('&');
        // A name needs no escapes; one that has them is none.
        return Some(pairs.filter_map(|pair| pair.strip_prefix("cluster=")).next().unwrap_or_default());
    }
    path.strip_prefix("/kapis/cluster.kubesphere.io/v1alpha1/clusters/")?
        .strip_suffix("/agent/deployment")
        .filter(|name| !name.contains('/'))
}

/// Invites the agent of `cluster` on behalf of `identity`.
pub(crate) async fn manifest(
    host: &Client,
    reviews: &Reviews,
    identity: &Identity,
    method: &Method,
    cluster: &str,
) -> Result<Response<Body>, Status> {
    if method != Method::GET {
        return Err(Status::new(
            405,
            "MethodNotAllowed",
            "the manifest of an agent can be got, and nothing else",
        ));
    }
    if !valid_name(cluster) {
        return Err(Status::bad_request("the request names no cluster: say whose agent the manifest is for"));
    }
    let question = Question {
        verb: "update".to_owned(),
        group: GROUP,
        resource: "clusters".to_owned(),
        subresource: String::new(),
        namespace: String::new(),
        name: cluster.to_owned(),
    };
    if !reviews.allows(identity, question).await? {
        let why = format!(
            "User {:?} cannot update resource \"clusters\" in API group {GROUP:?}, which inviting its agent needs",
            identity.name
        );
        return Err(Status::forbidden(GROUP, "clusters", cluster, &why));
    }
    let mut rng = rand::rngs::StdRng::from_os_rng();
    let invited = agents::invite_again(host, cluster, &Terms::default(), Timestamp::now(), &mut rng).await;
    let invitation = invited.map_err(|error| refusal(&error, cluster))?;
    // The answer of a text is one that nobody keeps.
    let mut response = answer::text(&agents::yaml(&invitation));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
    Ok(response)
}

fn refusal(error: &InviteError, cluster: &str) -> Status {
    match error {
        InviteError::Name(_)
        | InviteError::Absent(_)
        | InviteError::Direct(_)
        | InviteError::Leaving(_)
        | InviteError::Agent(AgentError::Token(_) | AgentError::Closed(_)) => {
            Status::not_found(GROUP, "clusters", cluster)
        }
        InviteError::NoTower
        | InviteError::Host(_)
        | InviteError::Agent(AgentError::Host(_) | AgentError::Busy) => {
            tracing::warn!(cluster, %error, "no agent could be invited");
            Status { retry_after_seconds: 5, ..Status::unavailable(error.to_string()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_paths_ask_for_a_manifest() {
        let asked = |text: &str| {
            let uri: Uri = text.parse().unwrap();
            super::asked(uri.path(), &uri).map(str::to_owned)
        };
        let prefix = "/kapis/cluster.kubesphere.io/v1alpha1/clusters";
        let tower = "/kapis/tower.kubesphere.io/v1alpha1/deployment";
        assert_eq!(asked(&format!("{prefix}/m2/agent/deployment")).as_deref(), Some("m2"));
        assert_eq!(asked(&format!("{tower}?a=b&cluster=m2")).as_deref(), Some("m2"));
        assert_eq!(asked(tower).as_deref(), Some(""));
        for other in [
            format!("{prefix}/m2"),
            format!("{prefix}/m2/x/agent/deployment"),
            format!("{prefix}/m2/agent/deployment/"),
            format!("{tower}s?cluster=m2"),
            "/apis/cluster.kubesphere.io/v1alpha1/clusters/m2/agent/deployment".to_owned(),
        ] {
            assert_eq!(asked(&other), None, "{other}");
        }
    }
}
