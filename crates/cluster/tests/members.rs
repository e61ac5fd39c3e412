//! Clusters that join, ail, come back and leave, with everything real but the machines.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hansa_api::cluster::{Cluster, ClusterSpec, condition};
use hansa_api::kubefed::KubeFedCluster;
use hansa_api::names;
use hansa_api::time::ByteString;
use hansa_cluster::identity::Conflict;
use hansa_cluster::{JoinError, Lookup, UnjoinError, connect, join, unjoin};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use support::{Host, Instance, request, until};

const WAIT: Duration = Duration::from_secs(30);

async fn merge<K>(api: &Api<K>, name: &str, patch: serde_json::Value)
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

fn system<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE)
}

/// The condition `Ready`, as status, reason and message.
async fn readiness(host: &Host, name: &str) -> (String, String, String) {
    let cluster = host.clusters().get(name).await.unwrap();
    cluster
        .condition(condition::READY)
        .map(|ready| (ready.status.clone(), ready.reason.clone(), ready.message.clone()))
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_joins_is_used_and_leaves() {
    let (host, member) = (Host::start().await, Instance::start("m1").await);
    let joined = host.join("m1", &member).await.unwrap();

    let status = joined.status.clone().unwrap();
    let kube_system: Api<Namespace> = Api::all(member.client.clone());
    assert_eq!(status.uid, kube_system.get("kube-system").await.unwrap().uid().unwrap());
    assert!(status.kubernetes_version.starts_with('v'), "{status:?}");
    for kind in [condition::INITIALIZED, condition::FEDERATED, condition::READY] {
        assert_eq!(joined.condition(kind).unwrap().status, "True", "{kind}");
    }
    assert_eq!(joined.spec.connection.kubernetes_api_endpoint, format!("https://127.0.0.1:{}", member.port));

    // The kubeconfig is in a Secret and nowhere else.
    assert!(joined.spec.connection.kubeconfig.is_none());
    let secrets: Api<Secret> = system(&host.client());
    assert!(secrets.get("m1-kubeconfig").await.unwrap().data.unwrap().contains_key("kubeconfig"));

    // What others look at says the same.
    let registered: Api<KubeFedCluster> = system(&host.client());
    let kubefed = registered.get("m1").await.unwrap();
    assert!(kubefed.is_ready());
    assert_eq!(kubefed.labels()["tier"], "edge");
    let listed = host.registry.member("m1").unwrap();
    assert!(listed.ready && listed.uid == status.uid && listed.version == status.kubernetes_version);

    // The member's client is the ServiceAccount's, with all rights.
    let maps: Api<ConfigMap> = Api::namespaced(listed.client.clone().unwrap(), "default");
    let mut map = ConfigMap::default();
    map.metadata.name = Some("kept".to_owned());
    maps.create(&PostParams::default(), &map).await.unwrap();

    // Labels follow, and so do those that go.
    merge(&host.clusters(), "m1", json!({ "metadata": { "labels": { "tier": null, "zone": "a" } } })).await;
    until("labels follow", async || {
        let labels = host.registry.member("m1").unwrap().labels.clone();
        labels == BTreeMap::from([("zone".to_owned(), "a".to_owned())])
    })
    .await;

    unjoin(host.client(), "m1", WAIT).await.unwrap();
    assert!(host.clusters().get_opt("m1").await.unwrap().is_none());
    assert!(registered.get_opt("m1").await.unwrap().is_none());
    for name in ["m1-secret", "m1-kubeconfig"] {
        assert!(secrets.get_opt(name).await.unwrap().is_none(), "{name}");
    }
    until("the registry forgets it", async || host.registry.member("m1").is_none()).await;
    let accounts: Api<ServiceAccount> = system(&member.client);
    assert!(accounts.get_opt("m1-kubesphere").await.unwrap().is_none());
    let (roles, bindings): (Api<ClusterRole>, Api<ClusterRoleBinding>) =
        (Api::all(member.client.clone()), Api::all(member.client.clone()));
    let role = names::cluster_role("m1");
    assert!(
        roles.get_opt(&role).await.unwrap().is_none() && bindings.get_opt(&role).await.unwrap().is_none()
    );
    // Its workloads stay.
    let maps: Api<ConfigMap> = Api::namespaced(member.client.clone(), "default");
    assert!(maps.get_opt("kept").await.unwrap().is_some());
    // And it can come back.
    host.join("m1", &member).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_join_is_refused_before_anything_is_written() {
    let (host, member) = (Host::start().await, Instance::start("m1").await);
    host.join("m1", &member).await.unwrap();
    let gone = {
        let gone = Instance::start("gone").await;
        gone.cut();
        gone.kubeconfig.clone()
    };
    let objects = async || {
        let clusters = host.clusters().list(&ListParams::default()).await.unwrap().items.len();
        let secrets: Api<Secret> = system(&host.client());
        (clusters, secrets.list(&ListParams::default()).await.unwrap().items.len())
    };
    let before = objects().await;
    let attempt = async |name: &str, kubeconfig: &str| {
        join(host.client(), &connect(), request(name, kubeconfig), |_| {}).await.map(|_| ()).unwrap_err()
    };
    assert!(matches!(attempt("m2", "{").await, JoinError::Kubeconfig(_)));
    assert!(matches!(attempt("M 2", &member.kubeconfig).await, JoinError::Name(_)));
    assert!(matches!(attempt("m1", &member.kubeconfig).await, JoinError::Exists(_)));
    assert!(matches!(attempt("m2", &host.instance.kubeconfig).await, JoinError::Conflict(Conflict::IsHost)));
    let again = attempt("m2", &member.kubeconfig).await;
    assert!(matches!(&again, JoinError::Conflict(Conflict::AlreadyMember(name)) if name == "m1"), "{again}");
    let dead = attempt("m2", &gone).await;
    assert!(matches!(&dead, JoinError::Member(problem) if problem.reason == "Unreachable"), "{dead}");
    let token = format!("m1-{}", "0123456789abcdef".repeat(4));
    let stranger = attempt("m2", &member.kubeconfig.replace(&token, "another")).await;
    assert!(
        matches!(&stranger, JoinError::Member(problem) if problem.reason == "Unauthorized"),
        "{stranger}"
    );
    assert_eq!(objects().await, before);
    assert!(matches!(unjoin(host.client(), "m9", WAIT).await, Err(UnjoinError::NotFound(_))));
    assert!(matches!(unjoin(host.client(), "host", WAIT).await, Err(UnjoinError::IsHost(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_made_by_hand_says_what_is_wrong_with_it_and_hides_its_kubeconfig() {
    let (host, member) = (Host::start().await, Instance::start("m1").await);
    host.join("m1", &member).await.unwrap();
    let make = async |name: &str, kubeconfig: &str| {
        let mut spec = ClusterSpec { join_federation: true, ..ClusterSpec::default() };
        spec.connection.kubeconfig = Some(ByteString(kubeconfig.as_bytes().to_vec()));
        let mut cluster = Cluster::new(name, spec);
        let applied = serde_json::to_string(&cluster).unwrap();
        cluster.metadata.annotations =
            Some(BTreeMap::from([("kubectl.kubernetes.io/last-applied-configuration".to_owned(), applied)]));
        host.clusters().create(&PostParams::default(), &cluster).await.unwrap();
    };
    for (name, kubeconfig, reason) in [
        ("broken", "users: [{name: u, user: {token: s3cret", "InvalidKubeconfig"),
        ("itself", host.instance.kubeconfig.as_str(), "IsHost"),
        ("twice", member.kubeconfig.as_str(), "AlreadyMember"),
    ] {
        make(name, kubeconfig).await;
        until(&format!("{name} says {reason}"), async || readiness(&host, name).await.1 == reason).await;
        let shown = serde_json::to_string(&host.clusters().get(name).await.unwrap()).unwrap();
        let secret: Api<Secret> = system(&host.client());
        assert!(secret.get(&names::kubeconfig_secret(name)).await.is_ok());
        assert!(!shown.contains("s3cret") && !shown.contains("last-applied"), "{shown}");
        assert_eq!(host.clusters().get(name).await.unwrap().spec.connection.kubeconfig, None);
        // Nothing was registered, and it can be removed.
        let registered: Api<KubeFedCluster> = system(&host.client());
        assert!(registered.get_opt(name).await.unwrap().is_none());
        unjoin(host.client(), name, WAIT).await.unwrap();
    }
    // The member that is there already was left alone.
    assert!(host.registry.member("m1").unwrap().ready);
    let accounts: Api<ServiceAccount> = system(&member.client);
    assert!(accounts.get_opt("m1-kubesphere").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_noticed_costs_the_others_nothing_and_can_be_removed() {
    let (host, m1, m2) = (Host::start().await, Instance::start("m1").await, Instance::start("m2").await);
    host.join("m1", &m1).await.unwrap();
    host.join("m2", &m2).await.unwrap();
    let version = host.registry.member("m1").unwrap().version.clone();
    m1.cut();
    until("m1 is not ready", async || !host.registry.member("m1").unwrap().ready).await;
    until("the Cluster says so", async || readiness(&host, "m1").await.0 == "False").await;
    let registered: Api<KubeFedCluster> = system(&host.client());
    until("the KubeFedCluster says so", async || {
        let status = registered.get("m1").await.unwrap().status.unwrap();
        status.conditions.iter().any(|c| c.r#type == "Offline" && c.status == "True")
            && status.conditions.iter().all(|c| c.r#type != "Ready")
    })
    .await;
    // Its version is not forgotten, and the other member is as it was.
    assert_eq!(host.clusters().get("m1").await.unwrap().status.unwrap().kubernetes_version, version);
    assert_eq!(
        registered.get("m1").await.unwrap().status.unwrap().kubernetes_version.as_ref(),
        Some(&version)
    );
    assert!(host.registry.member("m2").unwrap().ready);
    // It can be edited and removed like any other.
    merge(&host.clusters(), "m1", json!({ "spec": { "provider": "x" } })).await;
    unjoin(host.client(), "m1", WAIT).await.unwrap();
    assert!(host.registry.member("m2").unwrap().ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_under_the_same_address_is_not_taken_for_the_member() {
    let (host, member) = (Host::start().await, Instance::start("m1").await);
    let recorded = host.join("m1", &member).await.unwrap().status.unwrap().uid;
    let port = member.port;
    member.cut();
    until("m1 is not ready", async || !host.registry.member("m1").unwrap().ready).await;
    let imposter = Instance::start_at("imposter", port).await;
    // Its owner gives a kubeconfig that works, for the wrong cluster.
    merge(
        &host.clusters(),
        "m1",
        json!({ "spec": { "connection": { "kubeconfig": ByteString(imposter.kubeconfig.clone().into_bytes()) } } }),
    )
    .await;
    until("the identity is doubted", async || readiness(&host, "m1").await.1 == "IdentityChanged").await;
    assert_eq!(host.clusters().get("m1").await.unwrap().status.unwrap().uid, recorded);
    assert!(!host.registry.member("m1").unwrap().ready);
    let accounts: Api<ServiceAccount> = system(&imposter.client);
    assert!(
        accounts
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .iter()
            .all(|a| a.name_any() != "m1-kubesphere")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hosts_own_cluster_is_there_and_comes_back() {
    let host = Host::start().await;
    until("the host is ready", async || {
        host.clusters().get_opt("host").await.unwrap().is_some() && readiness(&host, "host").await.0 == "True"
    })
    .await;
    let first = host.clusters().get("host").await.unwrap();
    assert!(first.is_host());
    assert_eq!(first.status.clone().unwrap().uid.len(), 36);
    host.clusters().delete("host", &DeleteParams::default()).await.unwrap();
    until("the host comes back", async || {
        host.clusters().get_opt("host").await.unwrap().is_some_and(|again| again.uid() != first.uid())
    })
    .await;
    merge(&host.clusters(), "host", json!({ "metadata": { "labels": { names::LABEL_HOST: null } } })).await;
    until("its label comes back", async || host.clusters().get("host").await.unwrap().is_host()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_replaced_and_a_new_secret_is_used_at_once() {
    let (host, member) = (Host::start().await, Instance::start("m1").await);
    host.join("m1", &member).await.unwrap();
    let connection = host.registry.member("m1").unwrap().connection;
    let secrets: Api<Secret> = system(&host.client());
    merge(&secrets, "m1-secret", json!({ "data": { "token": ByteString(b"wrong".to_vec()) } })).await;
    until("the wrong token is noticed", async || {
        let member = host.registry.member("m1").unwrap();
        !member.ready && member.problem.as_deref().is_some_and(|problem| problem.contains("401"))
    })
    .await;
    let right: Api<Secret> = system(&member.client);
    let token = right.get("m1-kubesphere").await.unwrap().data.unwrap().remove("token").unwrap();
    merge(&secrets, "m1-secret", json!({ "data": { "token": token } })).await;
    until("the right token is used", async || host.registry.member("m1").unwrap().ready).await;
    assert_eq!(host.registry.member("m1").unwrap().connection, connection);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_writes_nothing() {
    let (mut host, m1) = (Host::start().await, Instance::start("m1").await);
    host.join("m1", &m1).await.unwrap();
    until("the host is ready", async || readiness(&host, "host").await.0 == "True").await;
    let versions = async |host: &Host| {
        let mut seen = Vec::new();
        for cluster in host.clusters().list(&ListParams::default()).await.unwrap() {
            seen.push((cluster.name_any(), cluster.resource_version()));
        }
        let registered: Api<KubeFedCluster> = system(&host.client());
        seen.push(("kfc".to_owned(), registered.get("m1").await.unwrap().resource_version()));
        for client in [host.client(), m1.client.clone()] {
            let secrets: Api<Secret> = system(&client);
            for secret in secrets.list(&ListParams::default()).await.unwrap() {
                seen.push((secret.name_any(), secret.resource_version()));
            }
        }
        let accounts: Api<ServiceAccount> = system(&m1.client);
        seen.push(("sa".to_owned(), accounts.get("m1-kubesphere").await.unwrap().resource_version()));
        seen
    };
    // Whatever the join set off has come to rest when it has been still for a while.
    let mut before = versions(&host).await;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = versions(&host).await;
        if std::mem::replace(&mut before, now) == before {
            break;
        }
    }
    host.restart().await;
    until("the registry is synced", async || host.registry.members().synced).await;
    assert!(
        host.registry.member("m1").unwrap().ready,
        "a member that is well is ready when the registry is synced"
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(versions(&host).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn informers_show_what_members_have_and_outlive_an_interruption() {
    let (host, m1) = (Host::start().await, Instance::start("m1").await);
    host.join("m1", &m1).await.unwrap();
    let maps = ApiResource::erase::<ConfigMap>(&());
    let informers = host.registry.informers(&maps, None);
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = told.clone();
    let _subscription = informers.subscribe(Arc::new(move |change| {
        if let hansa_cluster::Change::Object { key, .. } = change {
            log.lock().unwrap().push(key.to_string());
        }
    }));
    until("the informer is synced", async || informers.synced("m1")).await;
    assert_eq!(informers.get("m1", "default", "a"), Lookup::Absent);
    assert_eq!(informers.get("m9", "default", "a"), Lookup::Unknown(None));

    let api: Api<ConfigMap> = Api::namespaced(m1.client.clone(), "default");
    let mut map = ConfigMap::default();
    map.metadata.name = Some("a".to_owned());
    map.metadata.labels = Some(BTreeMap::from([("kubefed.io/managed".to_owned(), "true".to_owned())]));
    let made = api.create(&PostParams::default(), &map).await.unwrap();
    until("the object is seen", async || {
        matches!(informers.get("m1", "default", "a"), Lookup::Present(seen)
            if seen.uid.to_string() == made.uid().unwrap()
                && seen.resource_version.to_string() == made.resource_version().unwrap()
                && seen.managed == Some(true))
    })
    .await;
    assert_eq!(informers.holders("default", "a"), ["m1".into()]);

    // The same watch serves whoever asks for the same.
    let again = host.registry.informers(&maps, None);
    assert!(again.synced("m1"));

    // An object that loses the label is no longer seen.
    merge(&api, "a", json!({ "metadata": { "labels": { "kubefed.io/managed": null } } })).await;
    until("the object is gone", async || informers.get("m1", "default", "a") == Lookup::Absent).await;
    assert!(told.lock().unwrap().iter().filter(|key| *key == "default/a").count() >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_others_registered_works_without_a_cluster() {
    let (host, m1) = (Host::start().await, Instance::start("m1").await);
    let registered: Api<KubeFedCluster> = system(&host.client());
    let kubefed: KubeFedCluster = serde_json::from_value(json!({
        "metadata": { "name": "m1" },
        "spec": {
            "apiEndpoint": format!("127.0.0.1:{}", m1.port),
            "caBundle": ByteString(m1.server.ca_pem().into_bytes()),
            "secretRef": { "name": "m1-abc" },
        },
    }))
    .unwrap();
    registered.create(&PostParams::default(), &kubefed).await.unwrap();
    until("the missing Secret is named", async || {
        let status = registered.get("m1").await.unwrap().status.unwrap_or_default();
        status.conditions.iter().any(|c| {
            c.r#type == "ConfigMalformed"
                && c.message.as_deref().is_some_and(|message| message.contains("m1-abc"))
        })
    })
    .await;
    let secrets: Api<Secret> = system(&host.client());
    let token = format!("m1-{}", "0123456789abcdef".repeat(4));
    let secret: Secret =
        serde_json::from_value(json!({ "metadata": { "name": "m1-abc" }, "stringData": { "token": token } }))
            .unwrap();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    until("it is ready", async || registered.get("m1").await.unwrap().is_ready()).await;
    assert!(host.registry.member("m1").unwrap().ready);
    // The same cluster does not join a second time under another name.
    let again = host.join("m2", &m1).await.unwrap_err();
    assert!(again.to_string().contains("already a member under the name \"m1\""), "{again}");
    unjoin(host.client(), "m1", WAIT).await.unwrap();
    assert!(secrets.get_opt("m1-abc").await.unwrap().is_none());
}
