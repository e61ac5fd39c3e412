//! The `SetDefaults_*` functions of `k8s.io/kubernetes/pkg/apis`, by type.

use serde_json::{Value, json};

use super::{Fields, Object, is_zero};

/// The defaults of a type, named as `core.v1.Probe`.
pub(super) fn defaults_of(name: &str) -> Option<fn(&mut Object)> {
    let set: fn(&mut Object) = match name {
        "admissionregistration.v1.MatchResources" => |o| {
            o.absent("matchPolicy", "Equivalent");
            o.absent("namespaceSelector", json!({}));
            o.absent("objectSelector", json!({}));
        },
        "admissionregistration.v1.MutatingAdmissionPolicySpec"
        | "admissionregistration.v1.ValidatingAdmissionPolicySpec" => |o| o.absent("failurePolicy", "Fail"),
        "admissionregistration.v1.MutatingWebhook" => |o| {
            webhook(o);
            o.absent("reinvocationPolicy", "Never");
        },
        "admissionregistration.v1.ValidatingWebhook" => webhook,
        "admissionregistration.v1.RuleWithOperations"
        | "admissionregistration.v1.NamedRuleWithOperations" => |o| o.absent("scope", "*"),
        "admissionregistration.v1.ServiceReference" | "apiextensions.v1.ServiceReference" => {
            |o| o.absent("port", 443)
        }
        "apiextensions.v1.CustomResourceDefinition" => custom_resource_definition,
        "apps.v1.DaemonSetSpec" => daemon_set,
        "apps.v1.DeploymentSpec" => deployment,
        "apps.v1.ReplicaSetSpec" => |o| o.absent("replicas", 1),
        "apps.v1.StatefulSetSpec" => stateful_set,
        "autoscaling.v2.HorizontalPodAutoscalerSpec" => autoscaler,
        "batch.v1.CronJobSpec" => |o| {
            o.zero("concurrencyPolicy", "Allow");
            o.absent("suspend", false);
            o.absent("successfulJobsHistoryLimit", 3);
            o.absent("failedJobsHistoryLimit", 1);
        },
        "batch.v1.Job" => job,
        "batch.v1.PodFailurePolicyOnPodConditionsPattern" => |o| o.zero("status", "True"),
        "core.v1.ConfigMapVolumeSource"
        | "core.v1.DownwardAPIVolumeSource"
        | "core.v1.ProjectedVolumeSource"
        | "core.v1.SecretVolumeSource" => |o| o.absent("defaultMode", 0o644),
        "core.v1.Container" | "core.v1.EphemeralContainer" => container,
        "core.v1.EndpointPort" => |o| o.zero("protocol", "TCP"),
        "core.v1.HTTPGetAction" => |o| {
            o.zero("path", "/");
            o.zero("scheme", "HTTP");
        },
        "core.v1.HostPathVolumeSource" => |o| o.absent("type", ""),
        "core.v1.ImageVolumeSource" => |o| {
            let policy = pull_policy(o.text("reference"));
            o.zero("pullPolicy", policy);
        },
        "core.v1.LimitRangeItem" => limit_range,
        "core.v1.Namespace" => namespace,
        "core.v1.NamespaceStatus" => |o| o.zero("phase", "Active"),
        "core.v1.NodeStatus" => |o| {
            if let Some(capacity) = o.get("capacity").cloned() {
                o.absent("allocatable", capacity);
            }
        },
        "core.v1.ObjectFieldSelector" => |o| o.zero("apiVersion", "v1"),
        "core.v1.PersistentVolumeClaimSpec" => |o| o.absent("volumeMode", "Filesystem"),
        "core.v1.PersistentVolumeClaimStatus" | "core.v1.PersistentVolumeStatus" => {
            |o| o.zero("phase", "Pending")
        }
        "core.v1.PersistentVolumeSpec" => |o| {
            o.zero("persistentVolumeReclaimPolicy", "Retain");
            o.absent("volumeMode", "Filesystem");
        },
        "core.v1.Pod" => pod,
        "core.v1.PodSpec" => pod_spec,
        "core.v1.PodStatus" => pod_status,
        "core.v1.Probe" => |o| {
            o.zero("timeoutSeconds", 1);
            o.zero("periodSeconds", 10);
            o.zero("successThreshold", 1);
            o.zero("failureThreshold", 3);
        },
        "core.v1.ReplicationController" => replication_controller,
        "core.v1.Secret" => |o| o.zero("type", "Opaque"),
        "core.v1.Service" => service,
        "core.v1.ServiceAccountTokenProjection" => |o| o.absent("expirationSeconds", 3600),
        "core.v1.Volume" => |o| {
            if o.keys().all(|key| key == "name") {
                o.insert("emptyDir".into(), json!({}));
            }
        },
        "discovery.v1.EndpointPort" => |o| {
            o.absent("name", "");
            o.absent("protocol", "TCP");
        },
        "flowcontrol.v1.ExemptPriorityLevelConfiguration" => |o| {
            o.absent("nominalConcurrencyShares", 0);
            o.absent("lendablePercent", 0);
        },
        "flowcontrol.v1.FlowSchemaSpec" => |o| o.zero("matchingPrecedence", 1000),
        "flowcontrol.v1.LimitedPriorityLevelConfiguration" => |o| {
            o.absent("nominalConcurrencyShares", 30);
            o.absent("lendablePercent", 0);
        },
        "flowcontrol.v1.QueuingConfiguration" => |o| {
            o.zero("handSize", 8);
            o.zero("queues", 64);
            o.zero("queueLengthLimit", 50);
        },
        "networking.v1.IngressClassParametersReference" => |o| o.absent("scope", "Cluster"),
        "networking.v1.NetworkPolicyPort" => |o| o.absent("protocol", "TCP"),
        "networking.v1.NetworkPolicySpec" => |o| {
            let egress = !is_zero(o.get("egress"));
            o.zero("policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
        },
        "rbac.v1.RoleRef" => |o| o.zero("apiGroup", "rbac.authorization.k8s.io"),
        "rbac.v1.Subject" => |o| {
            if matches!(o.text("kind"), "User" | "Group") {
                o.zero("apiGroup", "rbac.authorization.k8s.io");
            }
        },
        "scheduling.v1.PriorityClass" => |o| o.absent("preemptionPolicy", "PreemptLowerPriority"),
        "storage.v1.CSIDriverSpec" => |o| {
            o.absent("attachRequired", true);
            o.absent("podInfoOnMount", false);
            o.absent("storageCapacity", false);
            o.absent("fsGroupPolicy", "ReadWriteOnceWithFSType");
            o.zero("volumeLifecycleModes", json!(["Persistent"]));
            o.absent("requiresRepublish", false);
            o.absent("seLinuxMount", false);
            o.absent("preventPodSchedulingIfMissing", false);
        },
        "storage.v1.StorageClass" => |o| {
            o.absent("reclaimPolicy", "Delete");
            o.absent("volumeBindingMode", "Immediate");
        },
        _ => return None,
    };
    Some(set)
}

fn webhook(o: &mut Object) {
    o.absent("failurePolicy", "Fail");
    o.absent("matchPolicy", "Equivalent");
    o.absent("namespaceSelector", json!({}));
    o.absent("objectSelector", json!({}));
    o.absent("timeoutSeconds", 10);
}

fn custom_resource_definition(o: &mut Object) {
    let spec = o.object("spec");
    let names = spec.object("names");
    let kind = names.text("kind").to_owned();
    names.zero("singular", kind.to_lowercase());
    if !kind.is_empty() {
        names.zero("listKind", format!("{kind}List"));
    }
    spec.absent("conversion", json!({"strategy": "None"}));
    let storage = spec.each("versions").find(|v| v.get("storage") == Some(&Value::Bool(true)));
    if let Some(stored) = storage.map(|v| v.text("name").to_owned()) {
        o.object("status").zero("storedVersions", json!([stored]));
    }
}

fn deployment(o: &mut Object) {
    o.absent("replicas", 1);
    let strategy = o.object("strategy");
    strategy.zero("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.object("rollingUpdate");
        rolling.absent("maxUnavailable", "25%");
        rolling.absent("maxSurge", "25%");
    }
    o.absent("revisionHistoryLimit", 10);
    o.absent("progressDeadlineSeconds", 600);
}

fn daemon_set(o: &mut Object) {
    let strategy = o.object("updateStrategy");
    strategy.zero("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.object("rollingUpdate");
        rolling.absent("maxUnavailable", 1);
        rolling.absent("maxSurge", 0);
    }
    o.absent("revisionHistoryLimit", 10);
}

fn stateful_set(o: &mut Object) {
    o.zero("podManagementPolicy", "OrderedReady");
    let strategy = o.object("updateStrategy");
    if strategy.text("type").is_empty() {
        strategy.zero("type", "RollingUpdate");
        strategy.absent("rollingUpdate", json!({}));
    }
    if strategy.text("type") == "RollingUpdate" && strategy.contains_key("rollingUpdate") {
        let rolling = strategy.object("rollingUpdate");
        rolling.absent("partition", 0);
        rolling.absent("maxUnavailable", 1);
    }
    let retention = o.object("persistentVolumeClaimRetentionPolicy");
    retention.zero("whenDeleted", "Retain");
    retention.zero("whenScaled", "Retain");
    o.absent("replicas", 1);
    o.absent("revisionHistoryLimit", 10);
    // A claim template is written as a whole claim.
    for claim in o.each("volumeClaimTemplates") {
        claim.zero("apiVersion", "v1");
        claim.zero("kind", "PersistentVolumeClaim");
    }
}

fn autoscaler(o: &mut Object) {
    o.absent("minReplicas", 1);
    o.zero(
        "metrics",
        json!([{"type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
    );
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    if o.contains_key("behavior") {
        let behavior = o.object("behavior");
        let up = behavior.object("scaleUp");
        up.absent("stabilizationWindowSeconds", 0);
        up.absent("selectPolicy", "Max");
        up.absent("policies", json!([pods, percent]));
        let down = behavior.object("scaleDown");
        down.absent("selectPolicy", "Max");
        down.absent("policies", json!([percent]));
    }
}

fn job(o: &mut Object) {
    let spec = o.object("spec");
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.absent("completions", 1);
    }
    spec.absent("parallelism", 1);
    let per_index = spec.contains_key("backoffLimitPerIndex");
    spec.absent("backoffLimit", if per_index { i32::MAX } else { 6 });
    spec.absent("completionMode", "NonIndexed");
    spec.absent("suspend", false);
    let policy = if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    spec.absent("podReplacementPolicy", policy);
    spec.absent("manualSelector", false);
    take_labels_of_template(o);
}

/// Labels of the template become those of an object without labels.
fn take_labels_of_template(o: &mut Object) -> Option<Value> {
    let labels = o.get("spec")?.get("template")?.get("metadata")?.get("labels")?.clone();
    o.object("metadata").zero("labels", labels.clone());
    Some(labels)
}

fn replication_controller(o: &mut Object) {
    if let Some(labels) = take_labels_of_template(o) {
        o.object("spec").zero("selector", labels);
    }
}

fn limit_range(o: &mut Object) {
    if o.text("type") != "Container" {
        return;
    }
    let mut copy = |from: &str, to: &str| {
        let limits = o.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
        let target = o.object(to);
        limits.into_iter().for_each(|(key, value)| target.absent(&key, value));
    };
    copy("max", "default");
    copy("default", "defaultRequest");
    copy("min", "defaultRequest");
}

fn namespace(o: &mut Object) {
    let metadata = o.object("metadata");
    let name = metadata.text("name").to_owned();
    // A generated name is not known yet.
    if !name.is_empty() {
        metadata.object("labels").insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

fn container(o: &mut Object) {
    let policy = pull_policy(o.text("image"));
    o.zero("imagePullPolicy", policy);
    o.zero("terminationMessagePath", "/dev/termination-log");
    o.zero("terminationMessagePolicy", "File");
}

/// `Always` for the tag `latest`, given or implied.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let (_, tag) = last.split_once(':').map_or((last, None), |(name, tag)| (name, Some(tag)));
    // An image name that cannot be parsed has no tag.
    let repository = name.strip_suffix(&format!(":{}", tag.unwrap_or_default())).unwrap_or(name);
    let path = repository
        .split_once('/')
        .filter(|(host, _)| host.contains(['.', ':']))
        .map_or(repository, |(_, p)| p);
    let parses = !path.is_empty() && !path.contains(|c: char| c.is_ascii_uppercase() || c.is_whitespace());
    match (tag, digest) {
        _ if !parses => "IfNotPresent",
        (None, None) | (Some("latest"), _) => "Always",
        _ => "IfNotPresent",
    }
}

fn pod(o: &mut Object) {
    let spec = o.object("spec");
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds".into(), 1.into());
    }
    spec.absent("enableServiceLinks", true);
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers"] {
        for container in spec.each(list) {
            let limits =
                container.get("resources").and_then(|r| r.get("limits")).and_then(Value::as_object).cloned();
            for (key, value) in limits.unwrap_or_default() {
                container.object("resources").object("requests").absent(&key, value);
            }
            for port in container.each("ports").filter(|_| host_network) {
                if let Some(number) = port.get("containerPort").cloned() {
                    port.zero("hostPort", number);
                }
            }
        }
    }
}

fn pod_spec(o: &mut Object) {
    let account = o.text("serviceAccount").to_owned();
    if !account.is_empty() {
        o.zero("serviceAccountName", account);
    }
    let account = o.text("serviceAccountName").to_owned();
    if !account.is_empty() {
        o.insert("serviceAccount".into(), account.into());
    }
    o.zero("dnsPolicy", "ClusterFirst");
    o.zero("restartPolicy", "Always");
    o.absent("securityContext", json!({}));
    o.absent("terminationGracePeriodSeconds", 30);
    o.zero("schedulerName", "default-scheduler");
}

fn pod_status(o: &mut Object) {
    let ip = o.text("podIP").to_owned();
    let first = o.get("podIPs").and_then(|ips| ips[0]["ip"].as_str()).map(str::to_owned);
    match first {
        Some(first) if ip.is_empty() => o.zero("podIP", first),
        first if !ip.is_empty() && first.as_ref() != Some(&ip) => {
            o.insert("podIPs".into(), json!([{"ip": ip}]));
        }
        _ => {}
    }
}

fn service(o: &mut Object) {
    let spec = o.object("spec");
    spec.zero("sessionAffinity", "None");
    match spec.text("sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            spec.object("sessionAffinityConfig").object("clientIP").absent("timeoutSeconds", 10_800)
        }
        _ => {}
    }
    spec.zero("type", "ClusterIP");
    let kind = spec.text("type").to_owned();
    for port in spec.each("ports") {
        port.zero("protocol", "TCP");
        if let Some(number) = port.get("port").cloned() {
            port.zero("targetPort", number);
        }
    }
    let external = matches!(kind.as_str(), "LoadBalancer" | "NodePort")
        || (kind == "ClusterIP" && !is_zero(spec.get("externalIPs")));
    if external {
        spec.zero("externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        spec.absent("internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.absent("allocateLoadBalancerNodePorts", true);
        for ingress in o.object("status").object("loadBalancer").each("ingress") {
            if !ingress.text("ip").is_empty() {
                ingress.absent("ipMode", "VIP");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_pulled_by_their_tags() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("reg.example:5000/a/b", "Always"),
            ("reg.example:5000/a/b:2", "IfNotPresent"),
            ("nginx@sha256:0000", "IfNotPresent"),
            ("Nginx", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
