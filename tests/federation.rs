//! The main job, as a user does it with kubectl, on embedded clusters and on real ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use serde_json::{Value, json};
use support::{Federation, embedded::Embedded, eventually, real::Real, same};

const MEMBERS: [&str; 2] = ["member1", "member2"];

#[test]
fn on_embedded_clusters() {
    all_scenarios(&Embedded::start());
}

#[test]
fn on_real_clusters() {
    if let Some(federation) = Real::start() {
        all_scenarios(&federation);
    }
}

/// The same, where the host reaches no member and every member's agent dials the host.
#[test]
fn on_embedded_clusters_with_agents() {
    all_scenarios(&Embedded::start_with_agents());
}

#[test]
fn on_real_clusters_with_agents() {
    if let Some(federation) = Real::start_with_agents() {
        all_scenarios(&federation);
    }
}

type Scenario = (&'static str, fn(&dyn Federation));

fn all_scenarios(f: &dyn Federation) {
    let scenarios: [Scenario; 10] = [
        ("the guestbook reaches both members", guestbook),
        ("a change on the host changes the members", changes_follow),
        ("what somebody does to a member is repaired", drift_is_repaired),
        ("leaving the placement removes, deleting removes everywhere", removal),
        ("all ten default types propagate", ten_types),
        ("a custom resource propagates", custom_resource),
        ("mistakes stay small and are explained", mistakes),
        ("an orphaned object stays on the members", orphaning),
        ("the gateway gives each caller their own rights", own_rights),
        ("a member that leaves keeps its workloads", unjoin),
    ];
    for (name, scenario) in scenarios {
        let started = std::time::Instant::now();
        eprintln!("  {name} …");
        scenario(f);
        eprintln!("  {name}: ok in {:.1} s", started.elapsed().as_secs_f64());
    }
}

fn guestbook(f: &dyn Federation) {
    let k = f.kubectl();
    k.ok("host", &["apply", "-f", "examples/guestbook/"]);
    let expected = [("member1", "2", "nginx:1.27-alpine"), ("member2", "3", "nginx:1.28")];
    for (member, replicas, image) in expected {
        let field = |object: &str, path: &str| k.field(member, "guestbook", object, path);
        eventually("the frontend has its replicas", || {
            same(field("deploy/frontend", ".spec.replicas")?, replicas.to_owned())
        });
        assert_eq!(field("deploy/frontend", ".spec.template.spec.containers[0].image").unwrap(), image);
        for object in [
            "deploy/redis",
            "deploy/entries",
            "svc/frontend",
            "svc/redis",
            "svc/entries",
            "cm/guestbook",
            "secret/redis",
        ] {
            eventually("the rest arrives", || {
                field(object, ".metadata.labels.kubefed\\.io/managed").and_then(|l| same(l, "true".into()))
            });
        }
        eventually("the Deployments become available", || {
            f.run_pods(member, "guestbook");
            k.try_run(
                member,
                &["wait", "--for=condition=Available", "deploy", "--all", "-n", "guestbook", "--timeout=2s"],
            )
        });
        assert!(
            k.ok(member, &["get", "deploy,svc,cm", "-n", "guestbook"]).contains("deployment.apps/frontend")
        );
    }
    assert_eq!(k.field("member1", "guestbook", "cm/guestbook", ".data.greeting").unwrap(), "Welcome");
    assert_eq!(k.field("member2", "guestbook", "cm/guestbook", ".data.greeting").unwrap(), "Willkommen");
    eventually("the host tells each cluster's state", || {
        let list = k.json("host", &["get", "federateddeployments", "-n", "guestbook"])?;
        let states = list["items"].as_array().unwrap().iter().map(propagated);
        same(
            states.collect::<Result<Vec<_>, _>>()?,
            vec![vec!["member1".to_owned(), "member2".to_owned()]; 3],
        )
    });
}

/// The clusters an object has reached, once its `Propagation` condition is true.
fn propagated(object: &Value) -> Result<Vec<String>, String> {
    let status = &object["status"];
    let condition =
        status["conditions"].as_array().and_then(|c| c.iter().find(|c| c["type"] == "Propagation"));
    let fine = |c: &Value| c["status"].as_str().unwrap_or_default().is_empty();
    match (condition, status["clusters"].as_array()) {
        (Some(c), Some(clusters)) if c["status"] == "True" && clusters.iter().all(fine) => {
            Ok(clusters.iter().map(|c| c["name"].as_str().unwrap_or_default().to_owned()).collect())
        }
        _ => Err(format!("{} is not propagated: {status}", object["metadata"]["name"])),
    }
}

/// A namespace of its own for a scenario, on both members.
fn namespace(f: &dyn Federation, name: &str) {
    let both: Vec<Value> = MEMBERS.iter().map(|m| json!({"name": m})).collect();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    f.kubectl().apply("host", &namespace.to_string());
    federate(f, "FederatedNamespace", name, name, json!({}), json!({"clusters": both}), json!([]));
    for member in MEMBERS {
        eventually("the namespace arrives", || f.kubectl().try_run(member, &["get", "namespace", name]));
    }
}

fn federate(
    f: &dyn Federation,
    kind: &str,
    namespace: &str,
    name: &str,
    template: Value,
    placement: Value,
    overrides: Value,
) {
    let object = json!({
        "apiVersion": "types.kubefed.io/v1beta1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": template, "placement": placement, "overrides": overrides},
    });
    f.kubectl().apply("host", &object.to_string());
}

fn on(clusters: &[&str]) -> Value {
    json!({"clusters": clusters.iter().map(|c| json!({"name": c})).collect::<Vec<_>>()})
}

fn deployment(replicas: u32) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}, "annotations": {"example.org/team": "blue"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "nginx:1.27"}]},
            },
        },
    })
}

fn changes_follow(f: &dyn Federation) {
    let k = f.kubectl();
    namespace(f, "changes");
    federate(f, "FederatedDeployment", "changes", "web", deployment(1), on(&MEMBERS), json!([]));
    let replicas = |member: &str, wanted: &str| {
        let wanted = wanted.to_owned();
        eventually("the replicas follow", || {
            k.field(member, "changes", "deploy/web", ".spec.replicas")
                .and_then(|found| same(found, wanted.clone()))
        });
    };
    replicas("member1", "1");
    replicas("member2", "1");
    assert_eq!(
        k.field("member1", "changes", "deploy/web", ".metadata.annotations.example\\.org/team").unwrap(),
        "blue"
    );

    k.merge("host", "changes", "federateddeployment/web", r#"{"spec":{"template":{"spec":{"replicas":4}}}}"#);
    replicas("member1", "4");
    replicas("member2", "4");

    let overrides = r#"{"spec":{"overrides":[{"clusterName":"member2","clusterOverrides":[{"path":"/spec/replicas","value":2}]}]}}"#;
    k.merge("host", "changes", "federateddeployment/web", overrides);
    replicas("member2", "2");
    replicas("member1", "4");

    // A field that leaves the template leaves the members.
    k.merge(
        "host",
        "changes",
        "federateddeployment/web",
        r#"{"spec":{"template":{"metadata":{"annotations":null}}}}"#,
    );
    eventually("the annotation goes", || {
        k.field("member1", "changes", "deploy/web", ".metadata.annotations.example\\.org/team")
            .and_then(|a| same(a, String::new()))
    });

    k.merge(
        "host",
        "changes",
        "federateddeployment/web",
        r#"{"spec":{"placement":{"clusters":[{"name":"member2"}]}}}"#,
    );
    eventually("member1 loses it", || k.absent("member1", "changes", "deploy/web"));
    k.merge(
        "host",
        "changes",
        "federateddeployment/web",
        r#"{"spec":{"placement":{"clusters":[{"name":"member1"},{"name":"member2"}]}}}"#,
    );
    replicas("member1", "4");
}

fn drift_is_repaired(f: &dyn Federation) {
    let k = f.kubectl();
    let direct = f.direct("member1");
    namespace(f, "drift");
    federate(f, "FederatedDeployment", "drift", "web", deployment(3), on(&MEMBERS), json!([]));
    eventually("it arrives", || k.try_run("member1", &["get", "-n", "drift", "deploy/web"]));
    let replicas = || direct.field("", "drift", "deploy/web", ".spec.replicas");

    direct.ok("", &["scale", "-n", "drift", "deploy/web", "--replicas=7"]);
    eventually("an edit is undone", || replicas().and_then(|r| same(r, "3".into())));

    // What others add beside the template stays: that is theirs.
    direct.ok("", &["label", "-n", "drift", "deploy/web", "example.org/owner=them"]);
    direct.ok("", &["set", "image", "-n", "drift", "deploy/web", "web=evil:1"]);
    eventually("the image is back", || {
        direct
            .field("", "drift", "deploy/web", ".spec.template.spec.containers[0].image")
            .and_then(|i| same(i, "nginx:1.27".into()))
    });
    assert_eq!(
        direct.field("", "drift", "deploy/web", ".metadata.labels.example\\.org/owner").unwrap(),
        "them"
    );

    let uid = direct.field("", "drift", "deploy/web", ".metadata.uid").unwrap();
    direct.ok("", &["delete", "-n", "drift", "deploy/web"]);
    eventually("a deleted object comes back", || {
        let now = direct.field("", "drift", "deploy/web", ".metadata.uid")?;
        if now == uid { Err("still the old one".to_owned()) } else { Ok(()) }
    });

    direct.ok("", &["label", "-n", "drift", "deploy/web", "kubefed.io/managed-"]);
    eventually("the label comes back", || {
        direct
            .field("", "drift", "deploy/web", ".metadata.labels.kubefed\\.io/managed")
            .and_then(|l| same(l, "true".into()))
    });
}

fn removal(f: &dyn Federation) {
    let k = f.kubectl();
    namespace(f, "removal");
    federate(
        f,
        "FederatedConfigMap",
        "removal",
        "settings",
        json!({"data": {"a": "1"}}),
        on(&MEMBERS),
        json!([]),
    );
    f.direct("member1").ok("", &["create", "configmap", "-n", "removal", "bystander", "--from-literal=a=b"]);
    for member in MEMBERS {
        eventually("it arrives", || k.try_run(member, &["get", "-n", "removal", "cm/settings"]));
    }
    k.merge(
        "host",
        "removal",
        "federatedconfigmap/settings",
        r#"{"spec":{"placement":{"clusters":[{"name":"member2"}]}}}"#,
    );
    eventually("it leaves member1", || k.absent("member1", "removal", "cm/settings"));
    k.ok("member2", &["get", "-n", "removal", "cm/settings"]);

    k.ok("host", &["delete", "-n", "removal", "federatedconfigmap/settings", "--timeout=60s"]);
    k.absent("member2", "removal", "cm/settings").unwrap();
    // What was never ours is never touched.
    k.ok("member1", &["get", "-n", "removal", "cm/bystander"]);

    // A namespace that leaves takes its contents along; the host's own namespace stays.
    k.ok("host", &["delete", "-n", "removal", "federatednamespace/removal", "--timeout=60s"]);
    for member in MEMBERS {
        eventually("the namespace goes", || k.absent(member, "", "ns/removal"));
    }
    assert_eq!(k.field("host", "", "ns/removal", ".status.phase").unwrap(), "Active");
}

fn ten_types(f: &dyn Federation) {
    let k = f.kubectl();
    namespace(f, "ten");
    let pod = || json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "x", "image": "busybox:1.37"}]}});
    let job_pod =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "busybox:1.37"}]}});
    let types = [
        ("FederatedConfigMap", "configmap", json!({"data": {"k": "v"}})),
        ("FederatedSecret", "secret", json!({"stringData": {"k": "v"}})),
        ("FederatedServiceAccount", "serviceaccount", json!({})),
        ("FederatedService", "service", json!({"spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}})),
        ("FederatedDeployment", "deployment", deployment(1)),
        (
            "FederatedReplicaSet",
            "replicaset",
            json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"app": "x"}}, "template": pod()}}),
        ),
        ("FederatedJob", "job", json!({"spec": {"template": job_pod}})),
        (
            "FederatedIngress",
            "ingress",
            json!({"spec": {"defaultBackend": {"service": {"name": "one", "port": {"number": 80}}}}}),
        ),
    ];
    for (kind, _, template) in &types {
        federate(f, kind, "ten", "one", template.clone(), on(&MEMBERS), json!([]));
    }
    let role = json!({
        "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedClusterRole", "metadata": {"name": "one"},
        "spec": {"template": {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}, "placement": on(&MEMBERS)},
    });
    k.apply("host", &role.to_string());
    for member in MEMBERS {
        for (_, resource, _) in &types {
            let object = format!("{resource}/one");
            eventually(&format!("{object} reaches {member}"), || {
                k.try_run(member, &["get", "-n", "ten", &object])
            });
        }
        eventually("the cluster role arrives", || k.try_run(member, &["get", "clusterrole/one"]));
    }
    for (kind, _, _) in &types {
        let object = format!("{}/one", kind.to_lowercase());
        eventually(&format!("{object} is propagated"), || {
            propagated(&k.json("host", &["get", "-n", "ten", &object])?)
        });
    }
    let versions = k.json("host", &["get", "propagatedversions", "-n", "ten", "deployment-one"]).unwrap();
    assert_eq!(versions["status"]["clusterVersions"].as_array().unwrap().len(), 2, "{versions}");
    for (kind, resource, _) in &types {
        k.ok("host", &["delete", "-n", "ten", &format!("{}/one", kind.to_lowercase()), "--timeout=60s"]);
        for member in MEMBERS {
            eventually("gone", || k.absent(member, "ten", &format!("{resource}/one")));
        }
    }
    k.ok("host", &["delete", "federatedclusterrole/one", "--timeout=60s"]);
    for member in MEMBERS {
        k.absent(member, "", "clusterrole/one").unwrap();
    }
}

fn custom_resource(f: &dyn Federation) {
    let k = f.kubectl();
    let crd = |kind: &str, plural: &str, group: &str, schema: Value| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {
                "group": group, "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
                "versions": [{"name": if group == "types.kubefed.io" { "v1beta1" } else { "v1" }, "served": true, "storage": true,
                    "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}],
            },
        })
    };
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let backup = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["schedule"], "properties": {
        "schedule": {"type": "string", "pattern": "^.+ .+ .+ .+ .+$"}, "keep": {"type": "integer", "default": 7}}}}});
    let federated = json!({"type": "object", "properties": {"spec": open, "status": open}});
    for cluster in ["host", "member1", "member2"] {
        k.apply(cluster, &crd("Backup", "backups", "example.org", backup.clone()).to_string());
        k.ok(cluster, &["wait", "--for=condition=Established", "crd/backups.example.org", "--timeout=30s"]);
    }
    k.apply("host", &crd("FederatedBackup", "federatedbackups", "types.kubefed.io", federated).to_string());
    k.ok(
        "host",
        &["wait", "--for=condition=Established", "crd/federatedbackups.types.kubefed.io", "--timeout=30s"],
    );
    let config = json!({
        "apiVersion": "core.kubefed.io/v1beta1", "kind": "FederatedTypeConfig",
        "metadata": {"name": "backups.example.org", "namespace": "kube-federation-system"},
        "spec": {
            "propagation": "Enabled",
            "targetType": {"group": "example.org", "version": "v1", "kind": "Backup", "pluralName": "backups", "scope": "Namespaced"},
            "federatedType": {"group": "types.kubefed.io", "version": "v1beta1", "kind": "FederatedBackup", "pluralName": "federatedbackups", "scope": "Namespaced"},
        },
    });
    k.apply("host", &config.to_string());
    eventually("the type is propagated", || {
        k.field(
            "host",
            "kube-federation-system",
            "federatedtypeconfig/backups.example.org",
            ".status.propagationController",
        )
        .and_then(|s| same(s, "Running".into()))
    });
    namespace(f, "custom");
    let overrides =
        json!([{"clusterName": "member2", "clusterOverrides": [{"path": "/spec/keep", "value": 30}]}]);
    federate(
        f,
        "FederatedBackup",
        "custom",
        "nightly",
        json!({"spec": {"schedule": "0 3 * * *"}}),
        on(&MEMBERS),
        overrides,
    );
    for (member, keep) in [("member1", "7"), ("member2", "30")] {
        eventually("the custom resource arrives", || {
            k.field(member, "custom", "backups.example.org/nightly", ".spec.keep")
                .and_then(|found| same(found, keep.into()))
        });
    }
    k.ok("host", &["delete", "-n", "custom", "federatedbackup/nightly", "--timeout=60s"]);
    for member in MEMBERS {
        k.absent(member, "custom", "backups.example.org/nightly").unwrap();
    }
    k.ok(
        "host",
        &[
            "delete",
            "-n",
            "kube-federation-system",
            "federatedtypeconfig/backups.example.org",
            "--timeout=60s",
        ],
    );
}

fn mistakes(f: &dyn Federation) {
    let k = f.kubectl();
    namespace(f, "mistakes");
    let clusters =
        |object: &str| k.json("host", &["get", "-n", "mistakes", object]).map(|o| o["status"].clone());
    let events = |object: &str| k.ok("host", &["events", "-n", "mistakes", "--for", object]);

    // One member's bad override is that member's trouble alone.
    let bad = json!([{"clusterName": "member1", "clusterOverrides": [{"op": "remove", "path": "/data/absent/deeper"}]}]);
    federate(f, "FederatedConfigMap", "mistakes", "half", json!({"data": {"a": "1"}}), on(&MEMBERS), bad);
    eventually("the other member gets it", || k.try_run("member2", &["get", "-n", "mistakes", "cm/half"]));
    eventually("the bad one is named", || {
        let status = clusters("federatedconfigmap/half")?;
        let member1 =
            status["clusters"].as_array().and_then(|c| c.iter().find(|c| c["name"] == "member1")).cloned();
        same(member1.map(|c| c["status"].clone()), Some(json!("ApplyOverridesFailed")))
    });
    eventually("an event says why", || {
        let said = events("federatedconfigmap/half");
        if said.contains("/data/absent/deeper") { Ok(()) } else { Err(said) }
    });
    k.absent("member1", "mistakes", "cm/half").unwrap();

    // A cluster nobody knows does not keep the known ones from their copy, and is not passed over in silence.
    federate(
        f,
        "FederatedConfigMap",
        "mistakes",
        "unknown",
        json!({"data": {}}),
        on(&["member1", "atlantis"]),
        json!([]),
    );
    eventually("the known member gets it", || k.try_run("member1", &["get", "-n", "mistakes", "cm/unknown"]));
    eventually("the unknown cluster is named", || {
        let said = events("federatedconfigmap/unknown");
        if said.contains("atlantis") { Ok(()) } else { Err(said) }
    });

    // A member refuses what is invalid; the reason reaches the host.
    federate(
        f,
        "FederatedService",
        "mistakes",
        "broken",
        json!({"spec": {"ports": [{"port": 99999}]}}),
        on(&MEMBERS),
        json!([]),
    );
    eventually("the refusal is told", || {
        let said = events("federatedservice/broken");
        if said.contains("99999") || said.contains("65535") { Ok(()) } else { Err(said) }
    });

    // Outside a federated namespace nothing moves, and the object says so.
    k.apply("host", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"alone"}}"#);
    federate(f, "FederatedConfigMap", "alone", "stuck", json!({"data": {}}), on(&MEMBERS), json!([]));
    eventually("it says that its namespace is not federated", || {
        let object = k.json("host", &["get", "-n", "alone", "federatedconfigmap/stuck"])?;
        same(object["status"]["conditions"][0]["reason"].clone(), json!("NamespaceNotFederated"))
    });
}

fn orphaning(f: &dyn Federation) {
    let k = f.kubectl();
    namespace(f, "orphans");
    federate(
        f,
        "FederatedConfigMap",
        "orphans",
        "kept",
        json!({"data": {"a": "1"}}),
        on(&MEMBERS),
        json!([]),
    );
    for member in MEMBERS {
        eventually("it arrives", || k.try_run(member, &["get", "-n", "orphans", "cm/kept"]));
    }
    k.ok("host", &["annotate", "-n", "orphans", "federatedconfigmap/kept", "kubefed.io/orphan=true"]);
    k.ok("host", &["delete", "-n", "orphans", "federatedconfigmap/kept", "--timeout=60s"]);
    for member in MEMBERS {
        eventually("it stays without the label", || {
            k.field(member, "orphans", "cm/kept", ".metadata.labels.kubefed\\.io/managed")
                .and_then(|l| same(l, String::new()))
        });
        assert_eq!(k.field(member, "orphans", "cm/kept", ".data.a").unwrap(), "1");
    }
}

fn own_rights(f: &dyn Federation) {
    let k = f.kubectl();
    let whoami = k.ok("member1", &["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
    assert_eq!(whoami, "admin", "the member knows the caller by name");

    // A ServiceAccount of the host: the gateway knows it, but it may reach no member.
    k.apply(
        "host",
        r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"tenant","namespace":"default"}}"#,
    );
    let token = k.ok("host", &["create", "token", "tenant"]);
    let token = token.trim();
    let server = |context: &str| {
        let path = format!("jsonpath={{.clusters[?(@.name==\"{context}\")].cluster.server}}");
        k.ok("", &["config", "view", "--raw", "-o", &path])
    };
    let as_tenant = |context: &str, args: &[&str]| {
        let config: Value =
            serde_json::from_str(&k.ok("", &["config", "view", "--raw", "-o", "json"])).unwrap();
        let cluster =
            &config["clusters"].as_array().unwrap().iter().find(|c| c["name"] == context).unwrap()["cluster"];
        assert_eq!(cluster["server"], server(context).as_str());
        let tenant = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {"token": token}}],
        });
        let file = k.kubeconfig.with_extension(format!("tenant-{context}"));
        std::fs::write(&file, tenant.to_string()).unwrap();
        support::Kubectl::new(&file).try_run("", args)
    };
    let refused = as_tenant("member1", &["get", "pods"]).unwrap_err();
    assert!(refused.contains("Forbidden") || refused.contains("forbidden"), "{refused}");
    assert!(
        as_tenant("host", &["get", "pods"]).unwrap_err().contains("system:serviceaccount:default:tenant")
    );

    // Allowed to reach member1, it still has only what member1 itself grants.
    k.apply("host", &json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "reach-member1"},
         "rules": [{"apiGroups": ["cluster.kubesphere.io"], "resources": ["clusters/proxy"], "resourceNames": ["member1"], "verbs": ["*"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "reach-member1"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reach-member1"},
         "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": "default"}]},
    ]}).to_string());
    eventually("the member itself decides", || {
        let answer = as_tenant("member1", &["get", "configmaps"]).unwrap_err();
        if answer.contains("cannot list resource \"configmaps\"") { Ok(()) } else { Err(answer) }
    });
    k.ok(
        "member1",
        &["create", "rolebinding", "tenant", "--clusterrole=view", "--serviceaccount=default:tenant"],
    );
    eventually("its own grant counts", || as_tenant("member1", &["get", "configmaps"]));
    // A cluster that is forbidden and one that does not exist look the same.
    let text = |cluster: &str| as_tenant(cluster, &["get", "pods"]).unwrap_err().replace(cluster, "X");
    assert!(text("member2").contains("orbidden"), "{}", text("member2"));
}

fn unjoin(f: &dyn Federation) {
    let k = f.kubectl();
    namespace(f, "staying");
    federate(f, "FederatedDeployment", "staying", "web", deployment(1), on(&MEMBERS), json!([]));
    eventually("it arrives", || k.try_run("member2", &["get", "-n", "staying", "deploy/web"]));
    let left = f.hansa(&["unjoin", "member2"]);
    assert!(left.status.success(), "{left:?}");
    let direct = f.direct("member2");
    assert_eq!(direct.field("", "staying", "deploy/web", ".spec.replicas").unwrap(), "1");
    k.absent("host", "", "clusters.cluster.kubesphere.io/member2").unwrap();
    eventually("the gateway no longer knows it", || match k.try_run("member2", &["get", "pods"]) {
        Err(_) => Ok(()),
        Ok(answer) => Err(answer),
    });
    // The federation goes on without it, and deleting a federated object no longer reaches it.
    k.ok("host", &["delete", "-n", "staying", "federateddeployment/web", "--timeout=60s"]);
    eventually("member1 is cleaned", || k.absent("member1", "staying", "deploy/web"));
    assert_eq!(direct.field("", "staying", "deploy/web", ".spec.replicas").unwrap(), "1");
    let clusters = f.hansa(&["get", "clusters", "-o", "json"]);
    let listed: Value = serde_json::from_slice(&clusters.stdout).unwrap();
    let names: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|c| c["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["host", "member1"]);
}
