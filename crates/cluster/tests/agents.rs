//! Clusters that are connected by agent, from the invitation to the farewell. The tower is the tests' own; everything else is real.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;
#[path = "support/tower.rs"]
mod tower;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hansa_api::cluster::{Cluster, condition};
use hansa_api::kubefed::KubeFedCluster;
use hansa_api::names;
use hansa_api::time::ByteString;
use hansa_cluster::agents::{
    self, AgentError, Closed, Invitation, InviteError, Redeemed, Refusal, Terms, announcement, invite,
};
use hansa_cluster::unjoin;
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use support::{Host, Instance, until};
use tower::{Tower, allowed, apply};

const WAIT: Duration = Duration::from_secs(30);

fn system<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE)
}

async fn merge<K>(api: &Api<K>, name: &str, patch: Value)
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

/// A condition, as status, reason and message.
async fn said(host: &Host, name: &str, kind: &str) -> (String, String, String) {
    let cluster = host.clusters().get(name).await.unwrap();
    let found = cluster.condition(kind);
    found.map(|c| (c.status.clone(), c.reason.clone(), c.message.clone())).unwrap_or_default()
}

async fn until_said(host: &Host, name: &str, kind: &str, status: &str, reason: &str) {
    until(&format!("{name} says {kind} {status} {reason}"), async || {
        let (found, why, _) = said(host, name, kind).await;
        found == status && why == reason
    })
    .await;
}

async fn invited(host: &Host, name: &str) -> Result<Invitation, InviteError> {
    let labels = BTreeMap::from([("tier".to_owned(), "edge".to_owned())]);
    let mut rng = StdRng::from_os_rng();
    invite(&host.client(), name, labels, &Terms::default(), Timestamp::now(), &mut rng).await
}

/// A member behind the tower that is ready.
async fn joined(host: &Host, tower: &Tower, name: &str, member: &Instance) -> Invitation {
    let invitation = invited(host, name).await.unwrap();
    apply(&member.client, agents::manifest(&invitation)).await;
    tower.connect(name, &member.server).await;
    until_said(host, name, condition::READY, "True", "Ready").await;
    invitation
}

async fn started() -> (Host, Arc<Tower>) {
    let host = Host::start().await;
    let tower = Arc::new(Tower::start(&host.client()).await);
    tower.announce().await;
    tower.keep();
    (host, tower)
}

/// Everything on the host that belongs to the joining of a cluster by agent.
async fn remains(host: &Client, name: &str) -> Vec<String> {
    let mut there = Vec::new();
    let secrets: Api<Secret> = system(host);
    for secret in ["agent", "tunnel", "secret", "kubeconfig"] {
        let secret = format!("{name}-{secret}");
        if secrets.get_opt(&secret).await.unwrap().is_some() {
            there.push(format!("secret/{secret}"));
        }
    }
    if system::<ServiceAccount>(host).get_opt(&names::tunnel_account(name)).await.unwrap().is_some() {
        there.push("serviceaccount".to_owned());
    }
    let role = names::tunnel_role(name);
    if Api::<ClusterRole>::all(host.clone()).get_opt(&role).await.unwrap().is_some() {
        there.push("clusterrole".to_owned());
    }
    if Api::<ClusterRoleBinding>::all(host.clone()).get_opt(&role).await.unwrap().is_some() {
        there.push("clusterrolebinding".to_owned());
    }
    if system::<KubeFedCluster>(host).get_opt(name).await.unwrap().is_some() {
        there.push("kubefedcluster".to_owned());
    }
    there
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_waits_for_a_tower_and_then_for_an_agent() {
    let host = Host::start().await;
    let tower = Tower::start(&host.client()).await;
    // Nobody is invited to nowhere, and nothing is made for it.
    assert!(matches!(invited(&host, "m2").await, Err(InviteError::NoTower)));
    assert!(host.clusters().get_opt("m2").await.unwrap().is_none());

    let made = json!({
        "apiVersion": "cluster.kubesphere.io/v1alpha1", "kind": "Cluster", "metadata": { "name": "m2" },
        "spec": { "joinFederation": true, "connection": { "type": "proxy" } },
    });
    let made: Cluster = serde_json::from_value(made).unwrap();
    host.clusters().create(&PostParams::default(), &made).await.unwrap();
    until_said(&host, "m2", condition::INITIALIZED, "False", "NoTower").await;
    let (_, _, message) = said(&host, "m2", condition::INITIALIZED).await;
    assert!(message.contains("hansa tower"), "{message}");

    tower.announce().await;
    until_said(&host, "m2", condition::INITIALIZED, "True", "Initialized").await;
    until_said(&host, "m2", condition::AGENT_AVAILABLE, "False", "NoAgent").await;
    until_said(&host, "m2", condition::READY, "False", "AgentAwaited").await;
    let cluster = host.clusters().get("m2").await.unwrap();
    assert_eq!(cluster.finalizers(), [names::FINALIZER_CLUSTER]);
    assert_eq!(
        cluster.spec.connection.kubernetes_api_endpoint,
        format!("{}/clusters/m2", tower.announced.server)
    );
    let there = remains(&host.client(), "m2").await;
    assert_eq!(
        there,
        ["secret/m2-agent", "secret/m2-tunnel", "serviceaccount", "clusterrole", "clusterrolebinding"]
    );
}

/// `spec/security-checklist.md`, line 12.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_host_reaches_a_cluster_with_is_good_for_that_cluster_and_for_nothing_else() {
    let (host, tower) = started().await;
    let (m1, m2) = (Instance::start("m1").await, Instance::start("m2").await);
    joined(&host, &tower, "m1", &m1).await;
    joined(&host, &tower, "m2", &m2).await;
    let user = UserInfo {
        username: Some("system:serviceaccount:kube-federation-system:m1-tunnel".to_owned()),
        groups: Some(
            [
                "system:serviceaccounts",
                "system:serviceaccounts:kube-federation-system",
                "system:authenticated",
            ]
            .map(str::to_owned)
            .into(),
        ),
        ..UserInfo::default()
    };
    let group = "cluster.kubesphere.io";
    for (group, resource, subresource, verb, name, expected) in [
        (group, "clusters", "tunnel", "get", "m1", true),
        (group, "clusters", "tunnel", "impersonate", "m1", true),
        (group, "clusters", "tunnel", "get", "m2", false),
        (group, "clusters", "tunnel", "impersonate", "m2", false),
        (group, "clusters", "tunnel", "get", "", false),
        (group, "clusters", "proxy", "get", "m1", false),
        (group, "clusters", "", "get", "m1", false),
        ("", "secrets", "", "get", "m1-agent", false),
        ("", "secrets", "", "list", "", false),
        ("", "configmaps", "", "get", "hansa-tower", false),
        ("", "serviceaccounts", "token", "create", "m1-tunnel", false),
        ("", "users", "", "impersonate", "root", false),
        ("coordination.k8s.io", "leases", "", "update", "hansa-tower-a", false),
    ] {
        let found = allowed(&host.client(), &user, group, resource, subresource, verb, name).await;
        assert_eq!(found, expected, "{verb} {resource}/{subresource} {name}");
    }
    // It is the token of the registration, and it is let in where it should be and nowhere else.
    let secret = system::<Secret>(&host.client()).get("m1-secret").await.unwrap();
    let token = String::from_utf8(secret.data.unwrap()["token"].0.clone()).unwrap();
    for (cluster, expected) in [("m1", None), ("m2", Some(403))] {
        let target = tower.announced.target(cluster, &token).unwrap();
        let client = hansa_transport::Transport::new(target, hansa_transport::Limits::default())
            .unwrap()
            .client("default");
        let outcome = Api::<Namespace>::all(client).get("default").await;
        let code = outcome.err().map(|error| match error {
            kube::Error::Api(status) => status.code,
            other => panic!("{other}"),
        });
        assert_eq!(code, expected, "{cluster}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_behind_the_tower_is_a_member_like_any_other_and_leaves_no_trace() {
    let (host, tower) = started().await;
    let member = Instance::start("m2").await;
    joined(&host, &tower, "m2", &member).await;

    let cluster = host.clusters().get("m2").await.unwrap();
    let status = cluster.status.clone().unwrap();
    let kube_system = Api::<Namespace>::all(member.client.clone()).get("kube-system").await.unwrap();
    assert_eq!(Some(status.uid), kube_system.uid());
    assert!(status.kubernetes_version.starts_with('v'));
    for kind in [condition::INITIALIZED, condition::AGENT_AVAILABLE, condition::FEDERATED] {
        assert_eq!(said(&host, "m2", kind).await.0, "True", "{kind}");
    }
    let registered: Api<KubeFedCluster> = system(&host.client());
    let endpoint = format!("{}/clusters/m2", tower.announced.server);
    let kubefed = registered.get("m2").await.unwrap();
    assert_eq!(kubefed.spec.api_endpoint, endpoint);
    assert_eq!(kubefed.labels()["tier"], "edge");
    let client = host.registry.member("m2").unwrap().client.clone().unwrap();
    let mut map = ConfigMap::default();
    map.metadata.name = Some("kept".to_owned());
    Api::namespaced(client, "default").create(&PostParams::default(), &map).await.unwrap();

    // No credential of the member is on the host, nor a token in any clear place.
    let secrets = system::<Secret>(&host.client()).list(&ListParams::default()).await.unwrap();
    let accounts = system::<Secret>(&member.client).list(&ListParams::default()).await.unwrap();
    assert!(accounts.items.is_empty(), "nothing of ours but the agent is on the member");
    assert!(secrets.items.iter().all(|secret| secret.name_any() != "m2-kubeconfig"));

    // It goes and comes back.
    let before = host.clusters().get("m2").await.unwrap();
    tower.disconnect("m2").await;
    until_said(&host, "m2", condition::AGENT_AVAILABLE, "False", "AgentDisconnected").await;
    until_said(&host, "m2", condition::READY, "False", "AgentUnavailable").await;
    let (_, _, message) = said(&host, "m2", condition::AGENT_AVAILABLE).await;
    assert!(message.contains("seen last at 20"), "{message}");
    tower.connect("m2", &member.server).await;
    until_said(&host, "m2", condition::AGENT_AVAILABLE, "True", "AgentConnected").await;
    until_said(&host, "m2", condition::READY, "True", "Ready").await;
    let moment = |cluster: &Cluster| {
        cluster.condition(condition::INITIALIZED).unwrap().last_transition_time.clone().unwrap()
    };
    assert_eq!(moment(&before), moment(&host.clusters().get("m2").await.unwrap()));

    // The tower moves, and the registration with it.
    let moved = tower.announced.server.replace("127.0.0.1", "localhost");
    let announced = agents::Announcement { internal: moved.clone(), ..tower.announced.clone() };
    announcement::publish(&host.client(), &announced).await.unwrap();
    until("the registration follows the tower", async || {
        registered.get("m2").await.unwrap().spec.api_endpoint == format!("{moved}/clusters/m2")
    })
    .await;
    until("the Cluster says so", async || {
        host.clusters().get("m2").await.unwrap().spec.connection.kubernetes_api_endpoint
            == format!("{moved}/clusters/m2")
    })
    .await;
    until("it is ready there", async || host.registry.member("m2").unwrap().ready).await;

    unjoin(host.client(), "m2", WAIT).await.unwrap();
    assert_eq!(remains(&host.client(), "m2").await, Vec::<String>::new());
    let (roles, bindings): (Api<ClusterRole>, Api<ClusterRoleBinding>) =
        (Api::all(member.client.clone()), Api::all(member.client.clone()));
    assert!(bindings.get_opt(names::AGENT_ADMINS_BINDING).await.unwrap().is_none());
    let namespaces: Api<Namespace> = Api::all(member.client.clone());
    until("the agent's namespace and its rights are gone", async || {
        namespaces.get_opt(names::AGENT_NAMESPACE).await.unwrap().is_none()
            && roles.get_opt(names::AGENT_ROLE).await.unwrap().is_none()
            && bindings.get_opt(names::AGENT_ROLE).await.unwrap().is_none()
    })
    .await;
    // The binding of the member's own administrators is not ours, and its workloads stay.
    assert!(bindings.get_opt(names::ADMINS_BINDING).await.unwrap().is_some());
    let maps: Api<ConfigMap> = Api::namespaced(member.client.clone(), "default");
    assert!(maps.get_opt("kept").await.unwrap().is_some());
    // And it can come back.
    tower.disconnect("m2").await;
    joined(&host, &tower, "m2", &member).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tower_that_falls_silent_takes_its_agents_with_it() {
    let host = Host::start().await;
    let tower = Tower::start(&host.client()).await;
    tower.announce().await;
    let member = Instance::start("m2").await;
    joined(&host, &tower, "m2", &member).await;
    tower.renew(1).await;
    until_said(&host, "m2", condition::AGENT_AVAILABLE, "False", "AgentDisconnected").await;
    until_said(&host, "m2", condition::READY, "False", "AgentUnavailable").await;
    // Its Lease was there all the time.
    let leases: Api<Lease> = system(&host.client());
    assert!(leases.get_opt("hansa-tower-a").await.unwrap().is_some());
    tower.renew(10).await;
    until_said(&host, "m2", condition::AGENT_AVAILABLE, "True", "AgentConnected").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_a_member_already_or_the_host_itself_is_not_taken_in_by_its_agent() {
    let (host, tower) = started().await;
    let member = Instance::start("m1").await;
    host.join("m1", &member).await.unwrap();
    for (name, instance, reason) in
        [("again", &member, "AlreadyMember"), ("itself", &host.instance, "IsHost")]
    {
        let invitation = invited(&host, name).await.unwrap();
        apply(&instance.client, agents::manifest(&invitation)).await;
        tower.connect(name, &instance.server).await;
        until_said(&host, name, condition::READY, "False", reason).await;
        assert!(!remains(&host.client(), name).await.contains(&"kubefedcluster".to_owned()));
        unjoin(host.client(), name, WAIT).await.unwrap();
        assert_eq!(remains(&host.client(), name).await, Vec::<String>::new());
        // What belongs to the other member, or to the host, was not touched.
        assert!(Api::<Namespace>::all(instance.client.clone()).get("hansa-agent").await.is_ok());
    }
    assert!(host.registry.member("m1").unwrap().ready);
    // And a name that is in use is in use.
    assert!(matches!(invited(&host, "m1").await, Err(InviteError::Direct(name)) if name == "m1"));
    assert!(matches!(invited(&host, "host").await, Err(InviteError::Direct(_))));
    assert!(matches!(invited(&host, "M 1").await, Err(InviteError::Name(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_agent_is_dead_can_be_removed_and_it_is_said_what_remains() {
    let (host, tower) = started().await;
    let member = Instance::start("m2").await;
    joined(&host, &tower, "m2", &member).await;
    tower.disconnect("m2").await;
    until_said(&host, "m2", condition::AGENT_AVAILABLE, "False", "AgentDisconnected").await;
    unjoin(host.client(), "m2", WAIT).await.unwrap();
    assert_eq!(remains(&host.client(), "m2").await, Vec::<String>::new());
    let events: Api<Event> = Api::namespaced(host.client(), "default");
    until("what remains is told", async || {
        let told = events.list(&ListParams::default()).await.unwrap();
        told.items.iter().any(|event| {
            event.reason.as_deref() == Some("LeftBehind")
                && event
                    .message
                    .as_deref()
                    .is_some_and(|message| message.contains("delete namespace hansa-agent"))
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_writes_nothing_that_is_right() {
    let (mut host, tower) = started().await;
    let (m1, m2) = (Instance::start("m1").await, Instance::start("m2").await);
    joined(&host, &tower, "m1", &m1).await;
    joined(&host, &tower, "m2", &m2).await;
    tower.disconnect("m2").await;
    until_said(&host, "m2", condition::READY, "False", "AgentUnavailable").await;
    let versions = async |host: &Host| {
        let mut seen = Vec::new();
        let client = host.client();
        let mut see = |kind: &str, name: String, version: Option<String>| {
            seen.push((format!("{kind}/{name}"), version));
        };
        for object in host.clusters().list(&ListParams::default()).await.unwrap() {
            see("cluster", object.name_any(), object.resource_version());
        }
        for object in system::<Secret>(&client).list(&ListParams::default()).await.unwrap() {
            see("secret", object.name_any(), object.resource_version());
        }
        for object in system::<ServiceAccount>(&client).list(&ListParams::default()).await.unwrap() {
            see("account", object.name_any(), object.resource_version());
        }
        for object in Api::<ClusterRole>::all(client.clone()).list(&ListParams::default()).await.unwrap() {
            see("role", object.name_any(), object.resource_version());
        }
        // The status of a KubeFedCluster moves while a member is lost; what we register does not.
        for object in system::<KubeFedCluster>(&client).list(&ListParams::default()).await.unwrap() {
            see("registration", object.name_any(), object.metadata.generation.map(|g| g.to_string()));
        }
        seen
    };
    // Whatever was set off has come to rest when it has been still for a while.
    let mut before = versions(&host).await;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = versions(&host).await;
        if std::mem::replace(&mut before, now) == before {
            break;
        }
    }
    host.restart().await;
    until("the registry is synced", async || host.registry.members().synced).await;
    assert!(host.registry.member("m1").unwrap().ready);
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(versions(&host).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_changes_over_to_an_agent_and_back() {
    let (host, tower) = started().await;
    let member = Instance::start("m1").await;
    host.join("m1", &member).await.unwrap();
    let kind = async |kind: &str| {
        merge(&host.clusters(), "m1", json!({ "spec": { "connection": { "type": kind } } })).await
    };
    kind("proxy").await;
    // The former way is used until the agent is there.
    until_said(&host, "m1", condition::AGENT_AVAILABLE, "False", "NoAgent").await;
    assert_eq!(said(&host, "m1", condition::READY).await.0, "True");
    assert!(host.registry.member("m1").unwrap().ready);
    joined(&host, &tower, "m1", &member).await;
    let registered: Api<KubeFedCluster> = system(&host.client());
    until("it is reached through the tower", async || {
        registered.get("m1").await.unwrap().spec.api_endpoint.ends_with("/clusters/m1")
    })
    .await;
    // The host gives up the credential it had.
    merge(
        &host.clusters(),
        "m1",
        json!({ "metadata": { "annotations": { names::ANNOTATION_SYNC_AT: "1" } } }),
    )
    .await;
    until("the kubeconfig is gone", async || {
        !remains(&host.client(), "m1").await.contains(&"secret/m1-kubeconfig".to_owned())
    })
    .await;
    let accounts: Api<ServiceAccount> = system(&member.client);
    assert!(accounts.get_opt("m1-kubesphere").await.unwrap().is_none());

    let kubeconfig = ByteString(member.kubeconfig.clone().into_bytes());
    merge(
        &host.clusters(),
        "m1",
        json!({ "spec": { "connection": { "type": "direct", "kubeconfig": kubeconfig } } }),
    )
    .await;
    let endpoint = format!("https://127.0.0.1:{}", member.port);
    until("it is reached directly", async || {
        registered.get("m1").await.unwrap().spec.api_endpoint == endpoint
    })
    .await;
    until_said(&host, "m1", condition::READY, "True", "Ready").await;
    merge(
        &host.clusters(),
        "m1",
        json!({ "metadata": { "annotations": { names::ANNOTATION_SYNC_AT: "2" } } }),
    )
    .await;
    until("nothing of the agent remains on the host", async || {
        remains(&host.client(), "m1").await == ["secret/m1-secret", "secret/m1-kubeconfig", "kubefedcluster"]
    })
    .await;
    until("nor on the member", async || {
        Api::<Namespace>::all(member.client.clone()).get_opt(names::AGENT_NAMESPACE).await.unwrap().is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_redeemed_by_one_of_many_and_a_thief_is_told_of() {
    let (host, _tower) = started().await;
    let invitation = invited(&host, "m2").await.unwrap();
    let token = invitation.token.reveal().to_owned();
    let client = host.client();
    // All at once, each with a key of its own: one gets in.
    let attempts = (0..6u8).map(|key| {
        let (client, token) = (client.clone(), token.clone());
        async move { (key, agents::redeem(&client, "m2", &token, &[key], Timestamp::now()).await) }
    });
    let outcomes = futures::future::join_all(attempts).await;
    let winners: Vec<u8> =
        outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(key, _)| *key).collect();
    let [winner] = winners[..] else { panic!("{outcomes:?}") };
    for (_, outcome) in outcomes.iter().filter(|(key, _)| *key != winner) {
        assert!(
            matches!(outcome, Err(AgentError::Token(Refusal::Replayed) | AgentError::Busy)),
            "{outcome:?}"
        );
    }
    assert!(matches!(
        agents::redeem(&client, "m2", &token, &[winner], Timestamp::now()).await,
        Ok(Redeemed::Before)
    ));
    agents::accepts(&client, "m2", &[winner]).await.unwrap();
    assert!(matches!(
        agents::accepts(&client, "m2", &[winner + 1]).await,
        Err(AgentError::Closed(Closed::Replaced))
    ));
    // It is told once, and without the token.
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let told = async || {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        all.into_iter()
            .filter(|event| event.reason.as_deref() == Some("JoinTokenReplayed"))
            .collect::<Vec<_>>()
    };
    until("the replay is told", async || told().await.len() == 1).await;
    let again = agents::redeem(&client, "m2", &token, &[99], Timestamp::now()).await;
    assert!(matches!(again, Err(AgentError::Token(Refusal::Replayed))));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(told().await.len(), 1);
    let shown = serde_json::to_string(&events.list(&ListParams::default()).await.unwrap()).unwrap()
        + &serde_json::to_string(&host.clusters().get("m2").await.unwrap()).unwrap();
    assert!(!shown.contains(&token));
    let record = system::<Secret>(&client).get("m2-agent").await.unwrap();
    assert_eq!(record.type_.as_deref(), Some("hansa.io/agent"));
    assert!(!String::from_utf8(record.data.unwrap()["record"].0.clone()).unwrap().contains(&token));

    // Whether there is such a cluster is nothing to learn for who has no token.
    for name in ["m2", "absent", "host"] {
        let guess = agents::redeem(&client, name, "guess", &[1], Timestamp::now()).await;
        assert!(matches!(guess, Err(AgentError::Token(Refusal::Unknown))), "{guess:?}");
    }

    // A Cluster that is made anew under the name knows neither key nor token.
    let unused = invited(&host, "m2").await.unwrap();
    unjoin(client.clone(), "m2", WAIT).await.unwrap();
    assert!(matches!(agents::accepts(&client, "m2", &[winner]).await, Err(AgentError::Closed(Closed::Gone))));
    invited(&host, "m2").await.unwrap();
    for token in [token.as_str(), unused.token.reveal()] {
        let late = agents::redeem(&client, "m2", token, &[winner], Timestamp::now()).await;
        assert!(matches!(late, Err(AgentError::Token(Refusal::Unknown))), "{late:?}");
    }
    assert!(agents::accepts(&client, "m2", &[winner]).await.is_err());
}
