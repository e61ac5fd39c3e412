//! What is applied on a cluster so that its agent joins: one manifest, made of an [`Invitation`] and nothing else.

use hansa_api::names;
use serde_json::{Value, json};

use super::Token;

/// Where the agent looks for what it joins with, each time it dials.
const JOIN_DIRECTORY: &str = "/var/run/hansa/agent-join";

/// Everything an agent needs to join, and how it is to run.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// The name of the cluster in the federation.
    pub cluster: String,
    /// The URL of the tower.
    pub server: String,
    /// The authority of the tower's certificate, PEM. The agent trusts no other.
    pub ca: String,
    /// The one-time token.
    pub token: Token,
    /// The image the agent runs from.
    pub image: String,
    /// How many agents run; any of them serves.
    pub replicas: u32,
    /// A ClusterRole on the cluster that the agent gets in place of the one that management needs.
    pub role: Option<String>,
}

/// The image of this program's own version.
pub fn default_image() -> String {
    format!("hansa:v{}", env!("CARGO_PKG_VERSION"))
}

/// The objects to apply, in their order.
pub fn manifest(invitation: &Invitation) -> Vec<Value> {
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": names::AGENT_NAMESPACE,
                "labels": {
                    names::LABEL_KUBESPHERE_MANAGED: "true", "pod-security.kubernetes.io/enforce": "restricted",
                },
            },
        }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": within(names::AGENT) }),
    ];
    objects.extend(rights(invitation.role.as_deref()));
    objects.push(join_secret(invitation));
    objects.push(deployment(invitation));
    objects
}

/// [`manifest`] as YAML, with the reasons for what it grants.
pub fn yaml(invitation: &Invitation) -> String {
    let mut text = format!(
        "# Joins this cluster to a federation as {:?}: apply it with kubectl. It holds a token that is good once; keep it to yourself.\n",
        invitation.cluster
    );
    for object in manifest(invitation) {
        text.push_str("---\n");
        if object["kind"] == "ClusterRole" {
            for line in WHY.lines() {
                text.push_str("# ");
                text.push_str(line);
                text.push('\n');
            }
        }
        // JSON is YAML, so that what could not be written as YAML would still be right.
        text.push_str(&serde_saphyr::to_string(&object).unwrap_or_else(|_| format!("{object}\n")));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

/// Why the agent gets the rights it gets.
const WHY: &str = "\
What the federation may do here. Objects of any type are propagated, also those that are defined later, and Roles among them, which only
somebody may write who has the rights in them. Requests of people are made in their names (impersonation), so that this cluster's own RBAC
decides on them; the agent never impersonates system:masters.
To grant less: hansa join NAME --agent --agent-role CLUSTERROLE. Types that the role leaves out are not propagated here, and people have no
access through the host unless the role may impersonate them.";

fn labels() -> Value {
    json!({ names::LABEL_KUBESPHERE_MANAGED: "true", "app.kubernetes.io/name": names::AGENT })
}

fn within(name: &str) -> Value {
    json!({ "name": name, "namespace": names::AGENT_NAMESPACE, "labels": labels() })
}

fn rights(role: Option<&str>) -> Vec<Value> {
    let group = "rbac.authorization.k8s.io";
    let version = "rbac.authorization.k8s.io/v1";
    let wide = |name: &str| json!({ "name": name, "labels": labels() });
    let agent =
        json!([{ "kind": "ServiceAccount", "name": names::AGENT, "namespace": names::AGENT_NAMESPACE }]);
    let binding = json!({
        "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": wide(names::AGENT_ROLE),
        "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": role.unwrap_or(names::AGENT_ROLE) },
        "subjects": agent,
    });
    match role {
        None => vec![
            json!({
                "apiVersion": version, "kind": "ClusterRole", "metadata": wide(names::AGENT_ROLE),
                "rules": [
                    { "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] },
                    { "nonResourceURLs": ["*"], "verbs": ["*"] },
                ],
            }),
            binding,
            // As a cluster has it that joined directly: the host's administrators are people with names, and no request needs system:masters.
            json!({
                "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": wide(names::AGENT_ADMINS_BINDING),
                "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin" },
                "subjects": [{ "apiGroup": group, "kind": "Group", "name": names::ADMINS_GROUP }],
            }),
        ],
        // Whoever may do less may still keep its own credential. The administrators' binding is left out: with it, a role that may impersonate would be all
        // rights.
        Some(_) => vec![
            binding,
            json!({
                "apiVersion": version, "kind": "Role", "metadata": within(names::AGENT),
                "rules": [
                    { "apiGroups": [""], "resources": ["secrets"], "verbs": ["create"] },
                    {
                        "apiGroups": [""], "resources": ["secrets"], "resourceNames": [names::AGENT_CREDENTIAL],
                        "verbs": ["get", "update"],
                    },
                ],
            }),
            json!({
                "apiVersion": version, "kind": "RoleBinding", "metadata": within(names::AGENT),
                "roleRef": { "apiGroup": group, "kind": "Role", "name": names::AGENT }, "subjects": agent,
            }),
        ],
    }
}

fn join_secret(invitation: &Invitation) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": within(names::AGENT_JOIN),
        "stringData": {
            "cluster": invitation.cluster, "tower": invitation.server,
            "ca.crt": invitation.ca, "token": invitation.token.reveal(),
        },
    })
}

fn deployment(invitation: &Invitation) -> Value {
    let selector = json!({ "app.kubernetes.io/name": names::AGENT });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": within(names::AGENT),
        "spec": {
            "replicas": invitation.replicas,
            "selector": { "matchLabels": selector },
            // The former agents stay until the new ones are there.
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
            "template": {
                "metadata": {
                    "labels": labels(),
                    // A new token is a new template, so that agents that run already take it.
                    "annotations": { names::ANNOTATION_JOIN_TOKEN: invitation.token.digest() },
                },
                "spec": {
                    "serviceAccountName": names::AGENT,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                        "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [{
                        "name": "agent",
                        "image": invitation.image,
                        "args": ["agent"],
                        "resources": {
                            "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "memory": "64Mi" },
                        },
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "capabilities": { "drop": ["ALL"] },
                        },
                        "volumeMounts": [{ "name": "join", "mountPath": JOIN_DIRECTORY, "readOnly": true }],
                    }],
                    "volumes": [{
                        "name": "join",
                        "secret": { "secretName": names::AGENT_JOIN, "defaultMode": 0o440 },
                    }],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::Record;
    use super::super::record::LIFETIME;
    use super::*;

    fn invitation(role: Option<&str>) -> Invitation {
        let now = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        let token = Record::new("u").mint(now, LIFETIME, &mut rand::rngs::StdRng::seed_from_u64(7));
        Invitation {
            cluster: "m2".into(),
            server: "https://tower.example.org:8443".into(),
            ca: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
            token,
            image: "hansa:v1".into(),
            replicas: 1,
            role: role.map(str::to_owned),
        }
    }

    fn of<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
        objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    #[test]
    fn the_manifest_is_what_it_was() {
        assert_eq!(yaml(&invitation(None)), include_str!("../../tests/golden/agent.yaml"));
        assert_eq!(yaml(&invitation(Some("edge"))), include_str!("../../tests/golden/agent-with-role.yaml"));
    }

    #[test]
    fn what_is_read_from_the_yaml_is_what_was_meant() {
        let now = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        for seed in 0..200 {
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
            let token = Record::new("u").mint(now, LIFETIME, &mut rng);
            let invitation = Invitation { token, cluster: "1e3".into(), ..invitation(None) };
            let read: Vec<Value> = serde_saphyr::from_multiple(&yaml(&invitation)).unwrap();
            assert_eq!(read, manifest(&invitation));
        }
    }

    #[test]
    fn the_token_stands_in_one_place_and_no_credential_of_the_cluster_in_any() {
        let invitation = invitation(None);
        assert_eq!(yaml(&invitation).matches(invitation.token.reveal()).count(), 1);
        let objects = manifest(&invitation);
        let secret = of(&objects, "Secret", names::AGENT_JOIN).unwrap();
        let keys: Vec<_> = secret["stringData"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["ca.crt", "cluster", "token", "tower"]);
        assert!(!format!("{invitation:?}").contains(invitation.token.reveal()));
    }

    #[test]
    fn a_new_token_is_a_new_template() {
        let (one, mut other) = (invitation(None), invitation(None));
        let now = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        other.token = Record::new("u").mint(now, LIFETIME, &mut rand::rngs::StdRng::seed_from_u64(8));
        let template = |invitation: &Invitation| {
            let objects = manifest(invitation);
            of(&objects, "Deployment", names::AGENT).unwrap()["spec"]["template"].clone()
        };
        assert_eq!(template(&one), template(&one));
        assert_ne!(template(&one), template(&other));
    }

    #[test]
    fn a_role_that_was_chosen_is_the_only_one() {
        let objects = manifest(&invitation(Some("edge")));
        assert!(of(&objects, "ClusterRole", names::AGENT_ROLE).is_none());
        assert!(of(&objects, "ClusterRoleBinding", names::AGENT_ADMINS_BINDING).is_none());
        let binding = of(&objects, "ClusterRoleBinding", names::AGENT_ROLE).unwrap();
        assert_eq!(binding["roleRef"]["name"], "edge");
        // Names of objects never depend on the token, so that joining again replaces what is there.
        let again: Vec<_> = objects.iter().map(|object| object["metadata"]["name"].clone()).collect();
        assert!(!format!("{again:?}").contains("m2"));
    }

    #[test]
    fn the_agent_runs_with_no_rights_on_its_node_and_listens_nowhere() {
        let objects = manifest(&invitation(None));
        let pod = &of(&objects, "Deployment", names::AGENT).unwrap()["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert!(container["ports"].is_null() && of(&objects, "Service", names::AGENT).is_none());
    }
}
