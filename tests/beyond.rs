//! What goes beyond KubeFed (`spec/kubefed.md §5` (4)(5), §6 (14)(20)): overrides by selector and by merge patch, the plan before a change,
//! and the explanation of a placement. On embedded clusters and on real ones.

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

type Scenario = (&'static str, fn(&dyn Federation));

fn all_scenarios(f: &dyn Federation) {
    let scenarios: [Scenario; 6] = [
        ("a member that is relabelled is given other overrides", relabelling),
        ("a container is overridden by its name", merge_patch),
        ("an override that is wrong hurts only those it may be for", wrong_overrides),
        ("a plan tells what will be, and afterwards that nothing is left to do", plan),
        ("a dry run changes nothing anywhere", dry_run),
        ("the placement is explained for each cluster", explain),
    ];
    for (name, scenario) in scenarios {
        let started = std::time::Instant::now();
        eprintln!("  {name} …");
        scenario(f);
        eprintln!("  {name}: ok in {:.1} s", started.elapsed().as_secs_f64());
    }
}

fn object(
    kind: &str,
    namespace: &str,
    name: &str,
    template: Value,
    placement: Value,
    overrides: Value,
) -> Value {
    json!({
        "apiVersion": "types.kubefed.io/v1beta1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": template, "placement": placement, "overrides": overrides},
    })
}

fn on(clusters: &[&str]) -> Value {
    json!({"clusters": clusters.iter().map(|c| json!({"name": c})).collect::<Vec<_>>()})
}

/// A namespace of its own for a scenario, on both members.
fn namespace(f: &dyn Federation, name: &str) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    f.kubectl().apply("host", &namespace.to_string());
    let federated = object("FederatedNamespace", name, name, json!({}), on(&MEMBERS), json!([]));
    f.kubectl().apply("host", &federated.to_string());
    for member in MEMBERS {
        eventually("the namespace arrives", || f.kubectl().try_run(member, &["get", "namespace", name]));
    }
}

fn deployment() -> Value {
    json!({"spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "nginx:1.27", "args": ["-q"]}, {"name": "log", "image": "busybox:1.37"}]},
        },
    }})
}

fn relabelling(f: &dyn Federation) {
    let k = f.kubectl();
    namespace(f, "relabelling");
    let gold = json!({"matchLabels": {"tier": "gold"}});
    let overrides = json!([
        {"clusterName": "member2", "clusterOverrides": [{"path": "/data/name", "value": "the second"}]},
        {"clusterSelector": gold, "strategicMergePatch": {"data": {"tier": "gold", "name": "golden"}, "metadata": {"annotations": {"tier": "gold"}}}},
    ]);
    let template =
        json!({"data": {"tier": "plain", "name": "nobody"}, "metadata": {"annotations": {"tier": "plain"}}});
    k.apply(
        "host",
        &object("FederatedConfigMap", "relabelling", "settings", template, on(&MEMBERS), overrides.clone())
            .to_string(),
    );
    let overrides =
        json!([{"clusterSelector": gold, "clusterOverrides": [{"path": "/spec/replicas", "value": 3}]}]);
    k.apply(
        "host",
        &object("FederatedDeployment", "relabelling", "web", deployment(), on(&MEMBERS), overrides)
            .to_string(),
    );
    let are = |member: &str, tier: &str, name: &str, replicas: &str| {
        let found = || -> Result<_, String> {
            let settings = |path| k.field(member, "relabelling", "cm/settings", path);
            Ok([
                settings(".data.tier")?,
                settings(".metadata.annotations.tier")?,
                settings(".data.name")?,
                k.field(member, "relabelling", "deploy/web", ".spec.replicas")?,
            ])
        };
        eventually(&format!("{member} is {tier}"), || {
            found().and_then(|found| same(found, [tier, tier, name, replicas].map(str::to_owned)))
        });
    };
    are("member1", "plain", "nobody", "1");
    are("member2", "plain", "the second", "1");
    k.ok("host", &["label", "clusters.cluster.kubesphere.io", "member1", "member2", "tier=gold"]);
    are("member1", "gold", "golden", "3");
    // What is for the cluster by name comes last, wherever it stands.
    are("member2", "gold", "the second", "3");
    k.ok("host", &["label", "clusters.cluster.kubesphere.io", "member1", "tier-"]);
    are("member1", "plain", "nobody", "1");
    are("member2", "gold", "the second", "3");
    k.ok("host", &["label", "clusters.cluster.kubesphere.io", "member2", "tier-"]);
    are("member2", "plain", "the second", "1");
}

fn merge_patch(f: &dyn Federation) {
    let k = f.kubectl();
    namespace(f, "merging");
    let containers = json!([{"name": "web", "image": "nginx:1.28"}, {"name": "log", "$patch": "delete"}]);
    let overrides = json!([{"clusterName": "member2", "strategicMergePatch": {"spec": {"template": {"spec": {"containers": containers}}}}}]);
    k.apply(
        "host",
        &object("FederatedDeployment", "merging", "web", deployment(), on(&MEMBERS), overrides).to_string(),
    );
    for (member, expected) in
        [("member1", "web=nginx:1.27[\"-q\"] log=busybox:1.37 "), ("member2", "web=nginx:1.28[\"-q\"] ")]
    {
        eventually("the containers are as wanted", || {
            let path = "{range .spec.template.spec.containers[*]}{.name}={.image}{.args} {end}";
            let found = k.try_run(
                member,
                &["get", "-n", "merging", "deploy/web", "-o", &format!("jsonpath={path}")],
            )?;
            same(found, expected.to_owned())
        });
    }
}

fn wrong_overrides(f: &dyn Federation) {
    let k = f.kubectl();
    namespace(f, "wrong");
    let overrides = json!([{"clusterName": "member2", "clusterSelector": {"matchLabels": {"no": "body"}}}]);
    k.apply(
        "host",
        &object("FederatedConfigMap", "wrong", "both", json!({"data": {}}), on(&MEMBERS), overrides)
            .to_string(),
    );
    let overrides = json!([{"clusterOverrides": [{"path": "/data", "value": {"a": "b"}}]}]);
    k.apply(
        "host",
        &object("FederatedConfigMap", "wrong", "neither", json!({"data": {}}), on(&MEMBERS), overrides)
            .to_string(),
    );
    let overrides =
        json!([{"clusterName": "member2", "strategicMergePatch": {"metadata": {"name": "other"}}}]);
    k.apply(
        "host",
        &object("FederatedConfigMap", "wrong", "identity", json!({"data": {}}), on(&MEMBERS), overrides)
            .to_string(),
    );
    for (name, bad, says) in [
        ("both", &["member2"][..], "spec.overrides[0] has both clusterName and clusterSelector"),
        ("neither", &MEMBERS[..], "spec.overrides[0] must have a clusterName or a clusterSelector"),
        (
            "identity",
            &["member2"][..],
            "spec.overrides[0].strategicMergePatch: \"metadata.name\" must not be overridden",
        ),
    ] {
        eventually("the mistake is told", || {
            let found = k.json("host", &["get", "-n", "wrong", &format!("federatedconfigmap/{name}")])?;
            let clusters = found["status"]["clusters"].as_array().cloned().unwrap_or_default();
            let failed: Vec<&str> = clusters
                .iter()
                .filter(|c| c["status"] == "ApplyOverridesFailed")
                .filter_map(|c| c["name"].as_str())
                .collect();
            same(failed, bad.to_vec())?;
            let told =
                clusters.iter().filter_map(|c| c["message"].as_str()).any(|message| message.contains(says));
            if told { Ok(()) } else { Err(format!("{clusters:?}")) }
        });
        for member in MEMBERS {
            let cm = format!("cm/{name}");
            match bad.contains(&member) {
                true => k.absent(member, "wrong", &cm).unwrap(),
                false => {
                    _ = eventually("the others have it", || k.try_run(member, &["get", "-n", "wrong", &cm]))
                }
            }
        }
    }
}

/// `hansa` with a file; its exit code, and what it printed.
fn hansa(f: &dyn Federation, args: &[&str], file: Option<&Value>) -> (i32, String) {
    let path = f.kubectl().kubeconfig.with_extension("plan.json");
    let mut args = args.to_vec();
    if let Some(content) = file {
        std::fs::write(&path, content.to_string()).unwrap();
        args.extend(["-f", path.to_str().unwrap()]);
    }
    let output = f.hansa(&args);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), text)
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn plan(f: &dyn Federation) {
    let k = f.kubectl();
    let overrides =
        json!([{"clusterName": "member2", "clusterOverrides": [{"path": "/spec/replicas", "value": 2}]}]);
    let web = |placement| {
        object("FederatedDeployment", "planned", "web", deployment(), placement, overrides.clone())
    };
    let secret = |value: &str| {
        object(
            "FederatedSecret",
            "planned",
            "key",
            json!({"stringData": {"key": value}}),
            on(&MEMBERS),
            json!([]),
        )
    };
    let all = |value| {
        list(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "planned"}}),
            object("FederatedNamespace", "planned", "planned", json!({}), on(&MEMBERS), json!([])),
            web(on(&MEMBERS)),
            secret(value),
        ])
    };

    // Before anything is there: the namespace that the file brings counts for what lies in it.
    let (code, text) = hansa(f, &["plan"], Some(&all("first")));
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("+++ member2 Deployment planned/web (planned)") && text.contains("+  replicas: 2"),
        "{text}"
    );
    assert!(text.contains("Namespace planned: not a federated object"), "{text}");
    assert!(!text.contains("first") && text.contains("*** (after)"), "secrets are hidden: {text}");
    k.absent("host", "", "ns/planned").unwrap();

    k.apply("host", &all("first").to_string());
    for member in MEMBERS {
        eventually("it arrives", || k.try_run(member, &["get", "-n", "planned", "deploy/web", "secret/key"]));
    }
    for args in [&["plan"][..], &["plan", "--direct"]] {
        eventually("nothing is left to do", || {
            let (code, text) = hansa(f, args, Some(&all("first")));
            if code == 0 { Ok(()) } else { Err(format!("{code}: {text}")) }
        });
    }
    assert_eq!(hansa(f, &["plan", "fdeploy", "web", "-n", "planned"], None).0, 0);

    // A change, and a placement that shrinks; by a member's own defaulting nothing else differs.
    let changed = |image: &str| {
        let mut web = web(on(&["member1"]));
        web["spec"]["template"]["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
        list(&[web, secret("second")])
    };
    for args in [&["plan", "-o", "json"][..], &["plan", "-o", "json", "--direct"]] {
        let (code, text) = hansa(f, args, Some(&changed("nginx:1.28")));
        assert_eq!(code, 1, "{text}");
        let plan: Value = serde_json::from_str(&text).unwrap();
        let effects: Vec<Value> = (0..2)
            .map(|i| {
                plan["items"][i]["clusters"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|c| json!([c["name"], c["effect"]]))
                    .collect()
            })
            .collect();
        assert_eq!(
            json!(effects),
            json!([
                [["member1", "change"], ["member2", "delete"]],
                [["member1", "change"], ["member2", "change"]]
            ])
        );
        let changes: Vec<&str> = plan["items"][0]["clusters"][0]["diff"]
            .as_str()
            .unwrap()
            .lines()
            .skip(2)
            .filter(|line| line.starts_with(['+', '-']))
            .map(str::trim_end)
            .collect();
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert!(
            changes[0].starts_with('-')
                && changes[0].ends_with("image: nginx:1.27")
                && changes[1].ends_with("image: nginx:1.28"),
            "{changes:?}"
        );
        assert!(
            !text.contains("c2Vjb25k") && !text.contains("second") && text.contains("*** (before)"),
            "{text}"
        );
    }
    for member in MEMBERS {
        let image =
            k.field(member, "planned", "deploy/web", ".spec.template.spec.containers[0].image").unwrap();
        assert_eq!(image, "nginx:1.27", "a plan changes nothing");
    }

    // What a member refuses is seen before it refuses it.
    let mut bad = web(on(&MEMBERS));
    bad["spec"]["template"]["spec"]["selector"]["matchLabels"]["app"] = "other".into();
    bad["spec"]["template"]["spec"]["template"]["metadata"]["labels"]["app"] = "other".into();
    let (code, text) = hansa(f, &["plan"], Some(&bad));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("refused") && text.contains("immutable"), "{text}");
    bad["metadata"]["annotations"] = json!({"kubefed.io/recreate": "true"});
    let (code, text) = hansa(f, &["plan"], Some(&bad));
    assert_eq!((code, text.matches("recreate").count() >= 2), (1, true), "{text}");
    let unknown = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    assert_eq!(hansa(f, &["plan"], Some(&unknown)).0, 0);
    let (code, text) = hansa(f, &["plan", "deployment", "nobody", "-n", "planned"], None);
    assert!(code == 2 && text.contains("there is no FederatedDeployment planned/nobody"), "{code} {text}");
}

fn dry_run(f: &dyn Federation) {
    let k = f.kubectl();
    namespace(f, "dry");
    let settings = |data: &str| {
        object("FederatedConfigMap", "dry", "settings", json!({"data": {"a": data}}), on(&MEMBERS), json!([]))
    };
    let applied_dry = |object: &Value| {
        let output = k.run("host", &["apply", "--dry-run=server", "-f", "-"], &object.to_string());
        assert!(output.status.success(), "{output:?}");
    };
    applied_dry(&settings("1"));
    k.absent("host", "dry", "federatedconfigmap/settings").unwrap();
    k.apply("host", &settings("1").to_string());
    for member in MEMBERS {
        eventually("it arrives", || {
            k.field(member, "dry", "cm/settings", ".data.a").and_then(|a| same(a, "1".into()))
        });
    }
    applied_dry(&settings("2"));
    // Whatever the dry run set off would have been done before what comes after it.
    k.apply(
        "host",
        &object("FederatedConfigMap", "dry", "later", json!({"data": {}}), on(&MEMBERS), json!([]))
            .to_string(),
    );
    for member in MEMBERS {
        eventually("what comes later arrives", || k.try_run(member, &["get", "-n", "dry", "cm/later"]));
        assert_eq!(k.field(member, "dry", "cm/settings", ".data.a").unwrap(), "1");
    }
}

fn explain(f: &dyn Federation) {
    let k = f.kubectl();
    namespace(f, "explained");
    k.ok("host", &["label", "clusters.cluster.kubesphere.io", "member1", "zone=a"]);
    let selector = json!({"clusterSelector": {"matchLabels": {"zone": "a"}}});
    k.apply(
        "host",
        &object("FederatedConfigMap", "explained", "chosen", json!({"data": {}}), selector, json!([]))
            .to_string(),
    );
    let told = |name: &str| -> Vec<(String, Value, String)> {
        let (code, text) =
            hansa(f, &["explain", "placement", "fcm", name, "-n", "explained", "-o", "json"], None);
        assert_eq!(code, 0, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        answer["clusters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| (text(&c["cluster"]), c["chosen"].clone(), text(&c["message"])))
            .filter(|(name, ..)| name != "host")
            .collect()
    };
    eventually("the label counts", || {
        let told = told("chosen");
        let found: Vec<_> = told
            .iter()
            .map(|(cluster, chosen, message)| (cluster.as_str(), chosen.clone(), message.as_str()))
            .collect();
        same(
            found,
            vec![
                ("member1", json!(true), "its labels match spec.placement.clusterSelector (zone=a)"),
                (
                    "member2",
                    json!(false),
                    "it has no label zone, but spec.placement.clusterSelector requires zone=a",
                ),
            ],
        )
    });
    k.apply(
        "host",
        &object(
            "FederatedConfigMap",
            "explained",
            "listed",
            json!({"data": {}}),
            on(&["member2", "typo"]),
            json!([]),
        )
        .to_string(),
    );
    let listed = told("listed");
    assert_eq!(
        listed.iter().map(|(name, chosen, _)| json!([name, chosen])).collect::<Vec<_>>(),
        [json!(["member1", false]), json!(["member2", true]), json!(["typo", false])]
    );
    assert!(listed[2].2.contains("no cluster of this name is registered"), "{listed:?}");

    // The namespace narrows what lies in it, and without it nothing is anywhere.
    k.merge(
        "host",
        "explained",
        "federatednamespace/explained",
        &json!({"spec": {"placement": on(&["member1"])}}).to_string(),
    );
    assert!(
        told("listed")[1].2.contains("but not by FederatedNamespace explained/explained: not listed"),
        "{:?}",
        told("listed")
    );
    k.ok("host", &["delete", "-n", "explained", "federatednamespace/explained", "--timeout=60s"]);
    assert!(told("chosen")[0].2.contains("its namespace is not federated"), "{:?}", told("chosen"));
    let (code, text) = hansa(f, &["explain", "placement", "nonsense", "x"], None);
    assert!(
        code == 1
            && text.contains("no federated type is called \"nonsense\"")
            && text.contains("deployments.apps"),
        "{text}"
    );
    k.ok("host", &["label", "clusters.cluster.kubesphere.io", "member1", "zone-"]);
}
