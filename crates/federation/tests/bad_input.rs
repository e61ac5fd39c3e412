//! Bad input, made from the schemas: each field of each object is given what it should not hold. It is refused with the name of the
//! field, or it is taken and harmless: the control plane goes on, nobody else notices, and nothing is deleted that was not asked for.
//!
//! The host here has no webhooks, so that what they would refuse reaches the control plane all the same; that the rules name the
//! field is looked at beside it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hansa_api::{settings::Settings, validation};
use http::Method;
use serde_json::{Map, Value, json};
use support::{World, federated, on};

mod support;

const CORE: &str = "/apis/core.kubefed.io/v1beta1/namespaces/kube-federation-system";
/// The versions and the statuses of Services.
const OLD: &str = "/apis/core.kubefed.io/v1alpha1";
const TYPES: &str = "/apis/types.kubefed.io/v1beta1/namespaces/hostile";

/// What a field is set to; `None` takes it away. The last one is made from `seed`, the same each time.
fn hostile(seed: u64) -> Vec<Option<Value>> {
    let deep = (0..16).fold(json!(null), |inner, _| json!({ "a": [inner] }));
    let mut values: Vec<Option<Value>> = vec![None, Some(deep), Some("x".repeat(10_000).into())];
    values.extend(
        json!([
            null, true, -1, [], {}, i64::MIN, u64::MAX, 0.5, "", "NaN", "../../x?y#z%00", "é\u{202e}\u{1f480}\u{0}\n",
            [null, null], {"": null},
        ])
        .as_array()
        .unwrap()
        .iter()
        .cloned()
        .map(Some),
    );
    let mut state = seed | 1;
    values.extend((0..1).map(|_| Some(any(&mut state, 0))));
    values
}

/// Some JSON.
fn any(state: &mut u64, depth: u32) -> Value {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let word =
        |n: u64| ["name", "m1", "*", "", "spec", "/metadata/name", "0", "-"][(n % 8) as usize].to_owned();
    match (*state >> 8) % if depth > 3 { 4 } else { 6 } {
        0 => Value::Null,
        1 => (*state as i64).into(),
        2 => word(*state >> 16).into(),
        3 => (*state & 1 == 0).into(),
        4 => (0..*state % 4).map(|_| any(state, depth + 1)).collect(),
        _ => {
            let mut object = Map::new();
            for n in 0..*state % 4 {
                object.insert(word((*state >> 16) + n), any(state, depth + 1));
            }
            object.into()
        }
    }
}

/// The fields that a schema has, as JSON pointers; where it lets anything pass, those that the object has.
fn fields(schema: &Value, object: &Value, at: &str, into: &mut Vec<String>) {
    if matches!(at, "/apiVersion" | "/kind") {
        return;
    }
    if !at.is_empty() && at != "/metadata" {
        into.push(at.to_owned());
        assert!(!object.is_null(), "the object to start from has no {at}: give it one");
    }
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    match object {
        Value::Object(members) => {
            for name in schema["properties"].as_object().into_iter().flat_map(Map::keys) {
                assert!(
                    at.is_empty() || members.contains_key(name),
                    "the object has no {at}/{name}: give it one"
                );
            }
            for (name, value) in members {
                let below = &schema["properties"][name];
                let below = if below.is_null() { &schema["additionalProperties"] } else { below };
                let metadata = at == "/metadata" && name != "annotations";
                if (open || !below.is_null() || at.starts_with("/metadata")) && !metadata {
                    fields(below_or_open(below, open), value, &format!("{at}/{}", escape(name)), into);
                }
            }
        }
        Value::Array(items) => {
            let below = below_or_open(&schema["items"], open);
            items.first().into_iter().for_each(|item| fields(below, item, &format!("{at}/0"), into));
        }
        _ => {}
    }
}

fn below_or_open(below: &Value, open: bool) -> &Value {
    static OPEN: LazyLock<Value> = LazyLock::new(|| json!({"x-kubernetes-preserve-unknown-fields": true}));
    if open { &OPEN } else { below }
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The object with one field changed.
fn with(base: &Value, pointer: &str, value: Option<&Value>) -> Value {
    let mut object = base.clone();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let last = last.replace("~1", "/").replace("~0", "~");
    match (object.pointer_mut(parent).unwrap(), value) {
        (Value::Object(parent), Some(value)) => drop(parent.insert(last, value.clone())),
        (Value::Object(parent), None) => drop(parent.remove(&last)),
        (Value::Array(parent), Some(value)) => parent[last.parse::<usize>().unwrap()] = value.clone(),
        (Value::Array(parent), None) => drop(parent.remove(last.parse().unwrap())),
        _ => panic!("{pointer} leads nowhere"),
    }
    object
}

/// `/spec/overrides/0/path` as Kubernetes writes it.
fn dotted(pointer: &str) -> String {
    pointer.trim_start_matches('/').split('/').fold(String::new(), |path, step| match step.parse::<usize>() {
        Ok(index) => format!("{path}[{index}]"),
        Err(_) if path.is_empty() => step.to_owned(),
        Err(_) => format!("{path}.{}", step.replace("~1", "/")),
    })
}

/// Whether what was said is about a field: it names it, or something in it. A name in a map stands for the map, and KubeFed's own
/// rules leave out which item of a list it is.
fn is_about(said: &str, pointer: &str) -> bool {
    let field = dotted(pointer);
    let parent = field.rsplit_once('.').map_or("", |(parent, _)| parent);
    if pointer.starts_with("/metadata/annotations") {
        return said.contains("ObjectMeta.annotations") || said.contains("metadata.annotations");
    }
    // The name of a FederatedTypeConfig holds the group: whichever of the two is wrong.
    if field == "spec.targetType.group" && said.contains("TARGET_GROUP_NAME") {
        return true;
    }
    said.contains(&field)
        || (parent.contains('.') && said.contains(parent))
        || said.contains(&field.replace("[0]", ""))
}

/// A kind, what a good object of it looks like, and where they are.
struct Kind {
    crd: &'static str,
    base: Value,
    collection: String,
    /// The name of one of them.
    name: fn(usize) -> String,
}

impl Kind {
    fn object(&self, number: usize) -> Value {
        let mut object = self.base.clone();
        object["metadata"]["name"] = (self.name)(number).into();
        if self.crd.starts_with("federatedtypeconfigs") {
            object["spec"]["targetType"]["pluralName"] = format!("victims{number}").into();
        }
        object
    }

    /// Its only version.
    fn version(&self) -> &'static Value {
        static CRDS: LazyLock<Vec<Value>> = LazyLock::new(hansa_api::crds);
        let crd = CRDS.iter().find(|crd| crd["metadata"]["name"] == self.crd).unwrap();
        &crd["spec"]["versions"][0]
    }

    fn fields(&self) -> Vec<String> {
        let mut found = Vec::new();
        fields(&self.version()["schema"]["openAPIV3Schema"], &self.base, "", &mut found);
        if self.crd.starts_with("federateddeployments") {
            // The rest is the same for every federated type.
            found.retain(|field| field.starts_with("/spec/template") || field == "/spec/retainReplicas");
        }
        found
    }

    fn has_status(&self) -> bool {
        !self.version()["subresources"]["status"].is_null()
    }

    /// Writes the part of an object that a field is in.
    async fn write(
        &self,
        world: &World,
        number: usize,
        pointer: &str,
        object: &Value,
    ) -> Result<Value, kube::Error> {
        let top = pointer.split('/').nth(1).unwrap();
        let part = if top == "metadata" { "metadata/annotations" } else { top };
        let value = object.pointer(&format!("/{part}"));
        let patch = match value {
            Some(value) => json!([{"op": "add", "path": format!("/{part}"), "value": value}]),
            // It is there: nobody else takes it away.
            None => json!([{"op": "remove", "path": format!("/{part}")}]),
        };
        let status = if top == "status" && self.has_status() { "/status" } else { "" };
        let path = format!("{}/{}{status}", self.collection, (self.name)(number));
        world.host.send(Method::PATCH, &path, "application/json-patch+json", Some(&patch)).await
    }

    /// Waits until the control plane has looked at federated objects as they are now.
    async fn mended(&self, world: &World, numbers: &[usize]) {
        if !self.crd.ends_with("types.kubefed.io") {
            return;
        }
        for number in numbers {
            let path = format!("{}/{}", self.collection, (self.name)(*number));
            world.propagated(&path).await;
        }
    }

    /// What the webhook would say of an object, if there is one for its kind.
    fn judged(&self, object: &Value, pointer: &str) -> Option<String> {
        let status = pointer.starts_with("/status");
        let (shape, causes) = match (self.crd, status) {
            ("kubefedclusters.core.kubefed.io", false) => {
                (validation::cluster_shape(object), validation::cluster(object))
            }
            ("kubefedclusters.core.kubefed.io", true) => {
                (validation::cluster_shape(object), validation::cluster_status(object))
            }
            ("kubefedconfigs.core.kubefed.io", _) => {
                (validation::config_shape(object), validation::config(object, None))
            }
            ("federatedtypeconfigs.core.kubefed.io", false) => {
                (validation::type_config_shape(object), validation::type_config(object))
            }
            ("federatedtypeconfigs.core.kubefed.io", true) => {
                (validation::type_config_shape(object), validation::type_config_status(object))
            }
            _ => return None,
        };
        match shape {
            Err(error) => Some(error.to_string()),
            Ok(()) => (!causes.is_empty()).then(|| validation::summary(&causes)),
        }
    }
}

fn federated_base(kind: &str, template: Value) -> Value {
    let mut base = federated(
        kind,
        "hostile",
        "",
        json!({
            "template": template,
            "placement": {"clusters": [{"name": "m1"}, {"name": "m2"}], "clusterSelector": {
                "matchLabels": {"x": "y"}, "matchExpressions": [{"key": "name", "operator": "In", "values": ["m1"]}],
            }},
            "overrides": [
                {"clusterName": "m1", "clusterOverrides": [{"op": "add", "path": "/metadata/labels/l", "value": "1"}]},
                {"clusterSelector": {"matchLabels": {"name": "m2"}},
                 "strategicMergePatch": {"metadata": {"labels": {"l": "2"}}}},
            ],
        }),
    );
    // One entry has it all, so that each field of an entry is there to be set. It says whom it is for in two ways and is refused,
    // which is why it is for nobody that there is.
    base["spec"]["overrides"].as_array_mut().unwrap().insert(0, json!({
        "clusterName": "nobody",
        "clusterSelector": {"matchLabels": {"x": "y"}, "matchExpressions": [{"key": "name", "operator": "In", "values": ["x"]}]},
        "clusterOverrides": [{"op": "replace", "path": "/data", "value": {"a": "b"}}],
        "strategicMergePatch": {"data": {"a": "b"}},
    }));
    base["metadata"]["annotations"] = json!({
        "kubefed.io/orphan": "false", "kubefed.io/deleteoption": r#"{"propagationPolicy":"Background"}"#,
        "kubefed.io/recreate": "false",
    });
    base["status"] = json!({
        "observedGeneration": 1,
        "conditions": [{"type": "Propagation", "status": "True", "reason": "", "message": "", "observedGeneration": 1,
            "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "clusters": [{"name": "m1", "status": "OK", "message": "", "remoteStatus": {"a": 1}, "conditions": [
            {"type": "Available", "status": "True", "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}],
    });
    base
}

fn kinds() -> Vec<Kind> {
    let victim = |n: usize| format!("victim-{n}");
    let pod =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": pod}});
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"},
        "metadata": {"name": "x", "namespace": "y", "labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["a/b"]}});
    let mut deployments = federated_base("Deployment", deployment);
    deployments["spec"]["retainReplicas"] = false.into();
    let versions = json!({"templateVersion": "t", "overridesVersion": "o",
        "clusterVersions": [{"clusterName": "m1", "version": "gen:1"}]});
    let system = |kind: &str, spec: Value, status: Value| {
        json!({"apiVersion": "core.kubefed.io/v1beta1", "kind": kind,
        "metadata": {"namespace": "kube-federation-system"}, "spec": spec, "status": status})
    };
    let time = "2026-01-01T00:00:00Z";
    let api = |kind: &str| json!({"group": "example.com", "version": "v1", "kind": kind, "pluralName": "victims", "scope": "Namespaced"});
    let mut config_of_kubefed = json!({"apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedConfig",
        "metadata": {"namespace": "kube-federation-system"}, "spec": {"scope": "Cluster"}});
    config_of_kubefed["spec"] = validation::defaulted(&config_of_kubefed).unwrap();
    vec![
        Kind {
            crd: "federatedconfigmaps.types.kubefed.io",
            base: federated_base("ConfigMap", config),
            collection: format!("{TYPES}/federatedconfigmaps"),
            name: victim,
        },
        Kind {
            crd: "federateddeployments.types.kubefed.io",
            base: deployments,
            collection: format!("{TYPES}/federateddeployments"),
            name: victim,
        },
        Kind {
            crd: "propagatedversions.core.kubefed.io",
            base: json!({"apiVersion": "core.kubefed.io/v1alpha1", "kind": "PropagatedVersion",
                "metadata": {"namespace": "hostile"}, "status": versions}),
            collection: format!("{OLD}/namespaces/hostile/propagatedversions"),
            name: |n| format!("configmap-victim-{n}"),
        },
        Kind {
            crd: "clusterpropagatedversions.core.kubefed.io",
            base: json!({"apiVersion": "core.kubefed.io/v1alpha1", "kind": "ClusterPropagatedVersion",
                "metadata": {}, "status": versions}),
            collection: format!("{OLD}/clusterpropagatedversions"),
            name: |n| format!("clusterrole-victim-{n}"),
        },
        Kind {
            crd: "federatedservicestatuses.core.kubefed.io",
            base: json!({"apiVersion": "core.kubefed.io/v1alpha1", "kind": "FederatedServiceStatus",
                "metadata": {"namespace": "hostile"}, "clusterStatus": [{"clusterName": "m1", "status": {"loadBalancer": {}}}]}),
            collection: format!("{OLD}/namespaces/hostile/federatedservicestatuses"),
            name: victim,
        },
        Kind {
            crd: "replicaschedulingpreferences.scheduling.kubefed.io",
            base: json!({"apiVersion": "scheduling.kubefed.io/v1alpha1", "kind": "ReplicaSchedulingPreference",
                "metadata": {"namespace": "hostile"}, "status": {}, "spec": {"targetKind": "FederatedDeployment", "totalReplicas": 4,
                "rebalance": false, "intersectWithClusterSelector": false,
                "clusters": {"*": {"minReplicas": 1, "maxReplicas": 9, "weight": 1}}}}),
            collection:
                "/apis/scheduling.kubefed.io/v1alpha1/namespaces/hostile/replicaschedulingpreferences".into(),
            name: victim,
        },
        Kind {
            crd: "kubefedclusters.core.kubefed.io",
            base: system(
                "KubeFedCluster",
                json!({"apiEndpoint": "https://victim.test", "caBundle": "YQ==", "proxyURL": "",
                "disabledTLSValidations": ["*"], "secretRef": {"name": "victim"}}),
                json!({"kubernetesVersion": "v1.30.0", "region": "r", "zones": ["z"], "conditions": [{"type": "Ready",
                "status": "True", "reason": "", "message": "", "lastProbeTime": time, "lastTransitionTime": time}]}),
            ),
            collection: format!("{CORE}/kubefedclusters"),
            name: victim,
        },
        Kind {
            crd: "federatedtypeconfigs.core.kubefed.io",
            base: system(
                "FederatedTypeConfig",
                json!({"targetType": api("Victim"), "federatedType": api("FederatedVictim"),
                "statusType": api("VictimStatus"), "propagation": "Enabled", "statusCollection": "Enabled"}),
                json!({"observedGeneration": 1, "propagationController": "Running", "statusController": "NotRunning"}),
            ),
            collection: format!("{CORE}/federatedtypeconfigs"),
            name: |n| format!("victims{n}.example.com"),
        },
        Kind {
            crd: "kubefedconfigs.core.kubefed.io",
            base: config_of_kubefed,
            collection: format!("{CORE}/kubefedconfigs"),
            name: victim,
        },
    ]
}

/// Whether a field says that copies are to go.
fn may_delete(kind: &Kind, pointer: &str) -> bool {
    match kind.crd.split_once('.').unwrap() {
        (_, "types.kubefed.io") => pointer == "/spec" || pointer.starts_with("/spec/placement"),
        // Where nothing runs there is nothing: to name other clusters, or none, is to ask for it.
        (_, "scheduling.kubefed.io") => pointer.starts_with("/spec"),
        _ => false,
    }
}

/// A federated ConfigMap reaches both members: whatever was done to others, the control plane goes on.
async fn goes_on(world: &World, round: usize) {
    let said = round.to_string();
    let patch = json!({"spec": {"template": {"data": {"round": said}}}});
    world.host.patch(&format!("{TYPES}/federatedconfigmaps/canary"), patch).await;
    for member in world.members.values() {
        member
            .until("/api/v1/namespaces/hostile/configmaps/canary", |copy| {
                copy["data"]["round"] == said.as_str()
            })
            .await;
    }
}

/// `spec/kubefed.md §1`: each field of each object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_field_should_hold_is_refused_by_name_or_harmless() {
    let mut world = World::start(2).await;
    world.namespace("hostile").await;
    let config = |name: &str| {
        federated(
            "ConfigMap",
            "hostile",
            name,
            json!({"template": {"data": {"a": "b"}}, "placement": on(&["m1", "m2"])}),
        )
    };
    world.host.create(&config("canary")).await;
    world.host.create(&config("bystander")).await;
    let bystander = world.propagated(&format!("{TYPES}/federatedconfigmaps/bystander")).await;
    let copy = "/api/v1/namespaces/hostile/configmaps/bystander";
    let copies = [world.member("m1").get(copy).await, world.member("m2").get(copy).await];
    let (mut round, mut refused, mut taken, mut unnamed) = (0, 0, 0, Vec::new());
    for kind in kinds() {
        let count = hostile(0).len();
        for number in 0..count {
            world.host.ensure(&kind.object(number)).await;
        }
        let all = kind.fields();
        for pointer in &all {
            round += 1;
            let mut changed = Vec::new();
            let values = hostile((round as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for (number, value) in values.iter().enumerate() {
                let object = with(&kind.object(number), pointer, value.as_ref());
                let what = format!("{} {pointer} = {:.80}", kind.crd, json!(value).to_string());
                if let Some(said) = kind.judged(&object, pointer) {
                    unnamed.extend((!is_about(&said, pointer)).then(|| format!("{what}: {said:.300}")));
                }
                match kind.write(&world, number, pointer, &object).await {
                    Ok(_) => changed.push(number),
                    Err(kube::Error::Api(status)) if matches!(status.code, 400..=422) => {
                        refused += 1;
                        let said = &status.message;
                        unnamed.extend((!is_about(said, pointer)).then(|| format!("{what}: {said:.300}")));
                    }
                    Err(error) => panic!("{what}: {error}"),
                }
                if kind.crd.starts_with("kubefedconfigs") {
                    // What the process would read at its start: an answer, whichever.
                    let _: Result<Settings, _> =
                        hansa_api::kubefed::KubeFedConfigSpec::read(&object).and_then(|spec| spec.settings());
                }
            }
            taken += changed.len();
            goes_on(&world, round).await;
            for number in &changed {
                kind.write(&world, *number, pointer, &kind.object(*number)).await.unwrap();
            }
            let asked_for = may_delete(&kind, pointer);
            if asked_for || pointer == all.last().unwrap() {
                kind.mended(&world, &changed).await;
            }
            for (name, member) in &world.members {
                let deleted = member.door.writes().into_iter().find(|write| write.starts_with("DELETE"));
                assert!(asked_for || deleted.is_none(), "{} {pointer}: {name}: {deleted:?}", kind.crd);
            }
        }
        // Each object stays behind with something wrong.
        for (number, value) in hostile(1).iter().enumerate() {
            let pointer = &all[number * 7 % all.len()];
            let object = with(&kind.object(number), pointer, value.as_ref());
            let _ = kind.write(&world, number, pointer, &object).await;
        }
    }
    assert!(unnamed.is_empty(), "these answers do not name the field:\n{}", unnamed.join("\n"));
    assert!(refused > 500 && taken > 300, "{refused} refused, {taken} taken");
    goes_on(&world, 0).await;
    let after = [world.member("m1").get(copy).await, world.member("m2").get(copy).await];
    assert_eq!(after, copies, "a copy of another object was written");
    assert_eq!(world.host.get(&format!("{TYPES}/federatedconfigmaps/bystander")).await.unwrap(), bystander);
    // With all that lying about, nothing is tried without end.
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    world.host.door.answer(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        None
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked < 1000, "{asked} requests to the host in two idle seconds");
    println!("{refused} refused, {taken} taken, {asked} requests while idle");
    world.stop().await;
}
