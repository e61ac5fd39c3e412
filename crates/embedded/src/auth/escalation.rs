//! Nobody grants what they do not hold: writes of roles and bindings.

use std::sync::Arc;

use hansa_machinery::Status;
use serde_json::Value;

use super::{
    rbac::{Attributes, GROUP, Kind, Policy, Rule, Target, role_ref, rules_of},
    rules::{describe, uncovered},
    user::{MASTERS, User},
};

/// A write of an object, as admission sees it.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Who writes.
    pub user: &'a User,
    /// The API group of the resource.
    pub group: &'a str,
    /// The plural resource name.
    pub resource: &'a str,
    /// `status`, `approval`, … or empty.
    pub subresource: &'a str,
    /// The namespace in the URL.
    pub namespace: &'a str,
    /// The name in the URL; empty on create.
    pub name: &'a str,
    /// The object as it is to be.
    pub new: &'a Value,
    /// The object as it is, unless it is created.
    pub old: Option<&'a Value>,
}

/// Refuses a role or binding that would give away more than the writer holds
/// (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>).
///
/// # Errors
/// 403 with what is missing; 404 when a binding refers to a role that does not exist.
pub fn check(policy: &Policy, write: &Write<'_>) -> Result<(), Status> {
    let Some(kind) = Kind::of(write.group, write.resource) else { return Ok(()) };
    if write.user.is_in(MASTERS) || write.old.is_some_and(|old| changes_only_what_gc_does(write.new, old)) {
        return Ok(());
    }
    let name = write.new["metadata"]["name"].as_str().unwrap_or(write.name);
    let forbidden = |why: &str| Status::forbidden(GROUP, kind.resource(), name, why);
    let allowed = |verb, resource, namespace, name| {
        let target = Target::Resource { group: GROUP, resource, subresource: "", namespace, name };
        policy.authorize(&Attributes { user: write.user, verb, target }).allowed
    };
    let holds = |rules: &[Rule]| {
        let (held, _) = policy.rules(write.user, write.namespace);
        let missing = uncovered(&held, rules).map_err(|error| forbidden(&error.to_string()))?;
        if missing.is_empty() {
            return Ok(());
        }
        let User { name, groups, .. } = write.user;
        let groups = groups.iter().map(|g| format!("{g:?}")).collect::<Vec<_>>().join(" ");
        Err(forbidden(&format!(
            "user {name:?} (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n{}",
            describe(missing)
        )))
    };
    match kind {
        Kind::Role | Kind::ClusterRole => {
            if allowed("escalate", kind.resource(), write.namespace, write.name) {
                return Ok(());
            }
            holds(
                &rules_of(write.new)
                    .map_err(|e| Status::bad_request(format!("rules cannot be read: {e}")))?,
            )?;
            let aggregates = |role: &Value| !role["aggregationRule"]["clusterRoleSelectors"][0].is_null();
            let aggregates = aggregates(write.new) || write.old.is_some_and(aggregates);
            if kind == Kind::ClusterRole && aggregates && holds(&everything()).is_err() {
                return Err(forbidden("must have cluster-admin privileges to use the aggregationRule"));
            }
            Ok(())
        }
        Kind::RoleBinding | Kind::ClusterRoleBinding => {
            let reference = role_ref(write.new);
            let resource = match reference.kind.as_str() {
                "ClusterRole" => "clusterroles",
                "Role" if kind == Kind::RoleBinding => "roles",
                other => return Err(forbidden(&format!("unsupported role reference kind: {other:?}"))),
            };
            if reference.api_group == GROUP && allowed("bind", resource, write.namespace, &reference.name) {
                return Ok(());
            }
            let rules: Arc<[Rule]> = policy
                .resolve(&reference, write.namespace)
                .map_err(|_| Status::not_found(GROUP, resource, &reference.name))?
                .clone();
            holds(&rules)
        }
    }
}

/// All there is to grant.
fn everything() -> [Rule; 2] {
    let star = || vec!["*".to_owned()];
    [
        Rule { api_groups: star(), resources: star(), verbs: star(), ..Rule::default() },
        Rule { non_resource_urls: star(), verbs: star(), ..Rule::default() },
    ]
}

/// Whether only fields change that the garbage collector writes.
fn changes_only_what_gc_does(new: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in ["ownerReferences", "finalizers", "managedFields"] {
                metadata.remove(field);
            }
        }
        object
    };
    rest(new) == rest(old)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        let mut policy = Policy::default();
        let mut put = |kind, namespace: &str, name: &str, object: Value| {
            policy.put(kind, namespace, name, object.to_string().as_bytes()).unwrap();
        };
        let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        let bind = |kind: &str, role: &str, user: &str| json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": [{"kind": "User", "name": user}]});
        put(Kind::ClusterRole, "", "reader", json!({"rules": [rule("", "pods", &["get", "list"])]}));
        put(Kind::ClusterRole, "", "writer", json!({"rules": [rule("", "pods", &["get", "update"])]}));
        put(
            Kind::ClusterRole,
            "",
            "all",
            json!({"rules": [rule("*", "*", &["*"]), {"nonResourceURLs": ["*"], "verbs": ["*"]}]}),
        );
        put(
            Kind::ClusterRole,
            "",
            "escalator",
            json!({"rules": [rule(GROUP, "roles", &["escalate"]), rule(GROUP, "clusterroles", &["bind"])]}),
        );
        put(Kind::ClusterRoleBinding, "", "admin", bind("ClusterRole", "all", "admin"));
        put(Kind::RoleBinding, "a", "bob", bind("ClusterRole", "reader", "bob"));
        put(Kind::RoleBinding, "a", "esc", bind("ClusterRole", "escalator", "esc"));
        policy
    }

    fn run(
        user: &User,
        resource: &str,
        namespace: &str,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let write = Write { user, group: GROUP, resource, subresource: "", namespace, name: "", new, old };
        check(&policy(), &write)
    }

    fn role(verbs: &[&str]) -> Value {
        json!({"metadata": {"name": "x"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]})
    }

    fn binding(kind: &str, name: &str) -> Value {
        json!({"metadata": {"name": "x"}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": name}})
    }

    #[test]
    fn a_role_grants_at_most_what_its_writer_holds_there() {
        let bob = User::new("bob", ["dev"]);
        run(&bob, "roles", "a", &role(&["get"]), None).unwrap();
        let status = run(&bob, "roles", "a", &role(&["get", "delete"]), None).unwrap_err();
        assert_eq!(status.code, 403);
        assert_eq!(
            status.message,
            "roles.rbac.authorization.k8s.io \"x\" is forbidden: user \"bob\" (groups=[\"dev\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
        );
        assert!(run(&bob, "roles", "b", &role(&["get"]), None).is_err(), "held in another namespace only");
        assert!(run(&bob, "clusterroles", "", &role(&["get"]), None).is_err(), "held in one namespace only");
        run(&User::new("admin", [""; 0]), "clusterroles", "", &role(&["*"]), None).unwrap();
        run(&User::local(), "clusterroles", "", &role(&["*"]), None).unwrap();
    }

    #[test]
    fn the_verbs_escalate_and_bind_lift_the_bound_where_they_are_held() {
        let esc = User::new("esc", [""; 0]);
        run(&esc, "roles", "a", &role(&["*"]), None).unwrap();
        assert!(run(&esc, "roles", "b", &role(&["*"]), None).is_err());
        run(&esc, "rolebindings", "a", &binding("ClusterRole", "all"), None).unwrap();
        assert!(run(&esc, "rolebindings", "b", &binding("ClusterRole", "all"), None).is_err());
        assert!(run(&esc, "clusterrolebindings", "", &binding("ClusterRole", "all"), None).is_err());
    }

    #[test]
    fn a_binding_grants_at_most_what_its_writer_holds_there() {
        let bob = User::new("bob", [""; 0]);
        run(&bob, "rolebindings", "a", &binding("ClusterRole", "reader"), None).unwrap();
        assert_eq!(
            run(&bob, "rolebindings", "a", &binding("ClusterRole", "writer"), None).unwrap_err().code,
            403
        );
        assert_eq!(
            run(&bob, "clusterrolebindings", "", &binding("ClusterRole", "reader"), None).unwrap_err().code,
            403
        );
        assert_eq!(
            run(&bob, "rolebindings", "a", &binding("ClusterRole", "none"), None).unwrap_err().code,
            404
        );
        assert_eq!(run(&bob, "clusterrolebindings", "", &binding("Role", "x"), None).unwrap_err().code, 403);
    }

    #[test]
    fn aggregation_needs_everything() {
        let mut new = role(&["get"]);
        new["aggregationRule"] = json!({"clusterRoleSelectors": [{}]});
        let mut reader = policy();
        let all_pods = json!({"roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "User", "name": "eve"}]});
        reader.put(Kind::ClusterRoleBinding, "", "eve", all_pods.to_string().as_bytes()).unwrap();
        let eve = User::new("eve", [""; 0]);
        let write = |new, old| Write {
            user: &eve,
            group: GROUP,
            resource: "clusterroles",
            subresource: "",
            namespace: "",
            name: "x",
            new,
            old,
        };
        let plain = role(&["get"]);
        check(&reader, &write(&plain, None)).unwrap();
        assert!(check(&reader, &write(&new, None)).unwrap_err().message.contains("aggregationRule"));
        assert!(check(&reader, &write(&plain, Some(&new))).is_err(), "nor may aggregation be taken away");
        run(&User::new("admin", [""; 0]), "clusterroles", "", &new, None).unwrap();
    }

    #[test]
    fn the_garbage_collector_s_fields_may_always_change() {
        let bob = User::new("bob", [""; 0]);
        let old = role(&["*"]);
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["x"]);
        run(&bob, "clusterroles", "", &new, Some(&old)).unwrap();
        new["metadata"]["labels"] = json!({"a": "b"});
        assert!(run(&bob, "clusterroles", "", &new, Some(&old)).is_err());
    }
}
