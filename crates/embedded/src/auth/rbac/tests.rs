//! The evaluator against a reference that reads Kubernetes' rules off the objects in the plainest way, over generated
//! policies and every request a small world has.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::json;

use super::*;

type Object = (Kind, &'static str, &'static str, Value);

const NAMESPACES: [&str; 3] = ["", "a", "b"];
const NAMES: [&str; 3] = ["", "x", "y"];

fn users() -> Vec<User> {
    vec![
        User::new("alice", ["dev"]),
        User::new("bob", ["dev", "ops"]),
        User::new("dev", [""; 0]),
        User::service_account("a", "sa", "u"),
        User::service_account("b", "sa", "u"),
        User::anonymous(),
    ]
}

fn targets() -> Vec<Target<'static>> {
    let mut targets = vec![Target::Path("/healthz"), Target::Path("/logs/a"), Target::Path("/")];
    for (group, resource) in [("", "pods"), ("apps", "deployments"), ("", "nodes")] {
        for subresource in ["", "log", "scale"] {
            for namespace in NAMESPACES {
                for name in NAMES {
                    targets.push(Target::Resource { group, resource, subresource, namespace, name });
                }
            }
        }
    }
    targets
}

fn some(items: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    vec(select(items), 0..3)
}

fn rule() -> impl Strategy<Value = Value> {
    let resources =
        some(&["pods", "pods/log", "deployments", "deployments/scale", "*/scale", "*/log", "*", "nodes"]);
    let urls = prop_oneof![4 => Just(vec![]), 1 => some(&["/healthz", "/logs/*", "*", "/*", "/"])];
    (some(&["get", "list", "*"]), some(&["", "apps", "*"]), resources, some(&["x", "y"]), urls).prop_map(
        |(verbs, groups, resources, names, urls)| {
            json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names, "nonResourceURLs": urls})
        },
    )
}

fn subject() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(&["alice", "bob", "dev", "system:anonymous", "system:serviceaccount:a:sa"][..])
            .prop_map(|name| json!({"kind": "User", "name": name})),
        select(&["dev", "ops", "system:authenticated", "system:serviceaccounts:b"][..])
            .prop_map(|name| json!({"kind": "Group", "name": name})),
        select(&["", "a", "b"][..])
            .prop_map(|ns| json!({"kind": "ServiceAccount", "name": "sa", "namespace": ns})),
        Just(json!({"kind": "Alien", "name": "alice"})),
    ]
}

fn object() -> impl Strategy<Value = Object> {
    let names = || select(&["r", "s"][..]);
    let spaces = || select(&["a", "b"][..]);
    let role = || vec(rule(), 0..3).prop_map(|rules| json!({"rules": rules}));
    let binding = || {
        (select(&["Role", "ClusterRole"][..]), select(&["r", "s", "none"][..]), vec(subject(), 0..3)).prop_map(
            |(kind, name, subjects)| json!({"roleRef": {"kind": kind, "name": name}, "subjects": subjects}),
        )
    };
    prop_oneof![
        (names(), role()).prop_map(|(name, role)| (Kind::ClusterRole, "", name, role)),
        (spaces(), names(), role()).prop_map(|(ns, name, role)| (Kind::Role, ns, name, role)),
        (names(), binding()).prop_map(|(name, b)| (Kind::ClusterRoleBinding, "", name, b)),
        (spaces(), names(), binding()).prop_map(|(ns, name, b)| (Kind::RoleBinding, ns, name, b)),
    ]
}

/// The reference: every binding in scope, every subject, every rule, one after the other.
fn naive(objects: &[Object], user: &User, verb: &str, target: &Target<'_>) -> bool {
    let namespace = match target {
        Target::Resource { namespace, .. } => *namespace,
        Target::Path(_) => "",
    };
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let lists =
        |list: &Value, any: &dyn Fn(&str) -> bool| items(list).iter().any(|i| any(i.as_str().unwrap()));
    objects.iter().any(|(kind, scope, _, binding)| {
        let in_scope = match kind {
            Kind::ClusterRoleBinding => true,
            Kind::RoleBinding => !namespace.is_empty() && *scope == namespace,
            _ => false,
        };
        let applies = items(&binding["subjects"]).iter().any(|subject| {
            let name = subject["name"].as_str().unwrap();
            match subject["kind"].as_str().unwrap() {
                "User" => user.name == name,
                "Group" => user.groups.iter().any(|g| g == name),
                "ServiceAccount" => {
                    let of = subject["namespace"].as_str().filter(|ns| !ns.is_empty()).unwrap_or(scope);
                    !of.is_empty() && user.name == format!("system:serviceaccount:{of}:{name}")
                }
                _ => false,
            }
        });
        let reference = &binding["roleRef"];
        let grants = objects.iter().any(|(kind, role_scope, name, role)| {
            let referred = match reference["kind"].as_str() {
                Some("ClusterRole") => *kind == Kind::ClusterRole,
                _ => *kind == Kind::Role && role_scope == scope && !scope.is_empty(),
            };
            referred
                && reference["name"] == *name
                && items(&role["rules"]).iter().any(|rule| {
                    let verb_matches = lists(&rule["verbs"], &|v| v == "*" || v == verb);
                    verb_matches
                        && match *target {
                            Target::Path(path) => {
                                lists(&rule["nonResourceURLs"], &|url| match url.strip_suffix('*') {
                                    Some(prefix) => path.starts_with(prefix),
                                    None => url == path,
                                })
                            }
                            Target::Resource { group, resource, subresource, name, .. } => {
                                let combined = match subresource {
                                    "" => resource.to_owned(),
                                    sub => format!("{resource}/{sub}"),
                                };
                                lists(&rule["apiGroups"], &|g| g == "*" || g == group)
                                    && lists(&rule["resources"], &|r| {
                                        r == "*"
                                            || r == combined
                                            || !subresource.is_empty() && r == format!("*/{subresource}")
                                    })
                                    && (items(&rule["resourceNames"]).is_empty()
                                        || lists(&rule["resourceNames"], &|n| n == name))
                            }
                        }
                })
        });
        in_scope && applies && grants
    })
}

fn apply(policy: &mut Policy, (kind, namespace, name, object): &Object) {
    policy.put(*kind, namespace, name, object.to_string().as_bytes()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_user_may_do_exactly_what_the_rules_say(
        mut objects in vec(object(), 0..12),
        gone in vec(object(), 0..4),
    ) {
        // Objects of one name are one object: the last counts.
        let mut policy = Policy::default();
        for object in gone.iter().chain(&objects) {
            apply(&mut policy, object);
        }
        for (kind, namespace, name, _) in &gone {
            policy.remove(*kind, namespace, name);
            objects.retain(|(k, ns, n, _)| (k, ns, n) != (kind, namespace, name));
        }
        let mut seen = Vec::new();
        objects.reverse();
        objects.retain(|(kind, ns, name, _)| {
            let new = !seen.contains(&(*kind, *ns, *name));
            seen.push((*kind, *ns, *name));
            new
        });
        for user in users() {
            for verb in ["get", "list", "delete"] {
                for target in targets() {
                    let decision = policy.authorize(&Attributes { user: &user, verb, target });
                    let expected = naive(&objects, &user, verb, &target);
                    prop_assert_eq!(decision.allowed, expected, "{:?} {} {:?}", user.name, verb, target);
                }
            }
        }
    }

    #[test]
    fn what_covers_allows_all_that_the_covered_rules_allow(held in vec(rule(), 0..4), wanted in rule()) {
        let read = |value: &Value| Rule::deserialize(value).unwrap();
        let (held, wanted): (Vec<Rule>, _) = (held.iter().map(read).collect(), read(&wanted));
        let held: Vec<&Rule> = held.iter().collect();
        let covered = super::super::rules::uncovered(&held, std::slice::from_ref(&wanted)).unwrap().is_empty();
        for verb in ["get", "list", "delete"] {
            for target in targets() {
                if covered && wanted.allows(verb, &target) {
                    prop_assert!(held.iter().any(|rule| rule.allows(verb, &target)), "{} {:?}", verb, target);
                }
            }
        }
    }
}

#[test]
fn nothing_is_allowed_where_there_are_no_rules() {
    let policy = Policy::default();
    for user in users() {
        for target in targets() {
            assert!(!policy.authorize(&Attributes { user: &user, verb: "get", target }).allowed);
        }
    }
    let target = Target::Path("/");
    assert!(policy.authorize(&Attributes { user: &User::local(), verb: "get", target }).allowed);
}

#[test]
fn a_refusal_reads_as_kubernetes_writes_it() {
    let mut policy = Policy::default();
    let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "gone"}, "subjects": [{"kind": "User", "name": "bob"}]});
    apply(&mut policy, &(Kind::ClusterRoleBinding, "", "b", binding));
    let message = |user: &str, verb, target| {
        let user = User::new(user, [""; 0]);
        let attributes = Attributes { user: &user, verb, target };
        let status = attributes.forbidden(&policy.authorize(&attributes).reason);
        assert_eq!((status.code, status.reason), (403, "Forbidden"));
        status.message
    };
    let pods = |namespace, subresource, name| Target::Resource {
        group: "",
        resource: "pods",
        subresource,
        namespace,
        name,
    };
    assert_eq!(
        message("al", "list", pods("default", "", "")),
        "pods is forbidden: User \"al\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(
        message("al", "get", pods("", "log", "x")),
        "pods \"x\" is forbidden: User \"al\" cannot get resource \"pods/log\" in API group \"\" at the cluster scope"
    );
    assert_eq!(message("al", "get", Target::Path("/x")), "forbidden: User \"al\" cannot get path \"/x\"");
    assert_eq!(
        message("bob", "get", Target::Path("/x")),
        "forbidden: User \"bob\" cannot get path \"/x\": RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found"
    );
}
