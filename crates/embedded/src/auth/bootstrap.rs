//! The roles and bindings every cluster starts with, brought up to date without taking anything away.

use std::{collections::HashMap, io::Read};

use hansa_machinery::Status;
use serde_json::{Value, json};

use super::{
    aggregation,
    rbac::{GROUP, Kind, Rule, rules_of},
    rules::uncovered,
};

/// Kubernetes' own, as data from its source (`cargo xtask openapi` regenerates it).
static DATA: &[u8] = include_bytes!("../../data/rbac.json.gz");

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What to do about one object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// It does not exist.
    Create(Value),
    /// It lacks something.
    Update(Value),
    /// It binds another role, which cannot be changed: delete it, then create this.
    Recreate(Value),
}

/// What must be written so that `existing` objects grant at least what every cluster should grant. Nothing when all is
/// right. Users' additions stay, and so does all of an object annotated `autoupdate: "false"`.
///
/// # Errors
/// When the data or an existing object does not parse.
pub(crate) fn changes(
    existing: &HashMap<(Kind, String, String), Value>,
) -> Result<Vec<(Kind, Change)>, Status> {
    let mut changes = Vec::new();
    for mut expected in defaults()? {
        let kind = kind_of(&expected)?;
        let text = |field: &str| expected["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (kind, text("namespace"), text("name"));
        if !expected["aggregationRule"].is_null() {
            // Gathered below; an existing role keeps what it has gathered.
            expected["rules"] = json!([]);
        }
        let change = match existing.get(&key) {
            None => Some(Change::Create(expected)),
            Some(found) if found["metadata"]["annotations"][AUTO_UPDATE] == "false" => None,
            Some(found) => match kind {
                Kind::ClusterRole | Kind::Role => role(found, &expected)?.map(Change::Update),
                Kind::ClusterRoleBinding | Kind::RoleBinding => binding(found, &expected),
            },
        };
        changes.extend(change.map(|change| (kind, change)));
    }
    gather(existing, &mut changes);
    Ok(changes)
}

/// The default objects.
fn defaults() -> Result<Vec<Value>, Status> {
    let mut json = Vec::new();
    let read = flate2::read::GzDecoder::new(DATA).read_to_end(&mut json);
    read.map_err(|e| Status::internal(format!("the default roles cannot be read: {e}")))?;
    serde_json::from_slice(&json)
        .map_err(|e| Status::internal(format!("the default roles do not parse: {e}")))
}

fn kind_of(object: &Value) -> Result<Kind, Status> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let resource = format!("{}s", kind.to_lowercase());
    Kind::of(GROUP, &resource).ok_or_else(|| Status::internal(format!("{kind:?} is no kind of RBAC")))
}

/// The roles that are created get what they gather at once, so that they are written once and are good from the start.
fn gather(existing: &HashMap<(Kind, String, String), Value>, changes: &mut [(Kind, Change)]) {
    let object = |change: &Change| match change {
        Change::Create(object) | Change::Update(object) | Change::Recreate(object) => object.clone(),
    };
    let mut roles: HashMap<String, Value> = HashMap::new();
    for ((kind, _, name), role) in existing {
        if *kind == Kind::ClusterRole {
            roles.insert(name.clone(), role.clone());
        }
    }
    for (_, change) in changes.iter().filter(|(kind, _)| *kind == Kind::ClusterRole) {
        let role = object(change);
        roles.insert(role["metadata"]["name"].as_str().unwrap_or_default().to_owned(), role);
    }
    let outdated: HashMap<String, Vec<Rule>> =
        aggregation::outdated(roles.values().filter_map(aggregation::Role::read).collect())
            .into_iter()
            .collect();
    for (kind, change) in changes {
        if let (Kind::ClusterRole, Change::Create(role)) = (*kind, change)
            && let Some(rules) = role["metadata"]["name"].as_str().and_then(|name| outdated.get(name))
        {
            role["rules"] = json!(rules);
        }
    }
}

/// Adds the labels and annotations that are missing.
fn merge_metadata(object: &mut Value, expected: &Value) {
    for field in ["labels", "annotations"] {
        for (key, value) in expected["metadata"][field].as_object().into_iter().flatten() {
            let target = &mut object["metadata"][field];
            if target[key].is_null() {
                if !target.is_object() {
                    *target = json!({});
                }
                target[key] = value.clone();
            }
        }
    }
}

fn role(found: &Value, expected: &Value) -> Result<Option<Value>, Status> {
    let mut new = found.clone();
    merge_metadata(&mut new, expected);
    let parse = |role: &Value| rules_of(role).map_err(|e| Status::internal(format!("rules of a role: {e}")));
    let mut rules = parse(found)?;
    let missing =
        uncovered(&rules.iter().collect::<Vec<_>>(), &parse(expected)?).map_err(Status::internal)?;
    if !missing.is_empty() {
        rules.extend(missing);
        new["rules"] = json!(rules);
    }
    let selectors = |role: &Value| role["aggregationRule"]["clusterRoleSelectors"].as_array().cloned();
    match (selectors(found), selectors(expected)) {
        (Some(_), None) => {
            // It was never meant to gather.
            new.as_object_mut().map(|role| role.remove("aggregationRule"));
        }
        (have, Some(want)) => {
            let mut all = have.unwrap_or_default();
            let missing: Vec<Value> = want.into_iter().filter(|selector| !all.contains(selector)).collect();
            if !missing.is_empty() {
                all.extend(missing);
                new["aggregationRule"] = json!({"clusterRoleSelectors": all});
            }
        }
        (None, None) => {}
    }
    Ok((new != *found).then_some(new))
}

fn binding(found: &Value, expected: &Value) -> Option<Change> {
    if found["roleRef"] != expected["roleRef"] {
        return Some(Change::Recreate(expected.clone()));
    }
    let mut new = found.clone();
    merge_metadata(&mut new, expected);
    let mut subjects = found["subjects"].as_array().cloned().unwrap_or_default();
    let missing = expected["subjects"].as_array().into_iter().flatten().filter(|s| !subjects.contains(s));
    let missing: Vec<Value> = missing.cloned().collect();
    if !missing.is_empty() {
        subjects.extend(missing);
        new["subjects"] = subjects.into();
    }
    (new != *found).then_some(Change::Update(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{
        User,
        rbac::{Attributes, Policy, Target},
    };

    type Objects = HashMap<(Kind, String, String), Value>;

    fn apply(existing: &mut Objects, changes: Vec<(Kind, Change)>) {
        for (kind, change) in changes {
            let (Change::Create(object) | Change::Update(object) | Change::Recreate(object)) = change;
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            existing.insert((kind, text("namespace"), text("name")), object);
        }
    }

    fn started() -> Objects {
        let mut objects = HashMap::new();
        let changes = changes(&objects).unwrap();
        apply(&mut objects, changes);
        objects
    }

    fn object<'a>(objects: &'a mut Objects, kind: Kind, name: &str) -> &'a mut Value {
        objects.get_mut(&(kind, String::new(), name.to_owned())).unwrap()
    }

    #[test]
    fn a_new_cluster_gets_everything_in_its_final_form() {
        let mut objects = started();
        assert_eq!(changes(&objects).unwrap(), []);
        let roles = objects.iter().filter(|((kind, ..), _)| *kind == Kind::ClusterRole);
        let roles: Vec<_> = roles.filter_map(|(_, role)| aggregation::Role::read(role)).collect();
        assert!(aggregation::outdated(roles).is_empty(), "the controller finds nothing to do");
        assert!(object(&mut objects, Kind::ClusterRole, "view")["rules"].as_array().unwrap().len() > 5);
    }

    #[test]
    fn the_default_roles_mean_what_their_names_say() {
        let mut policy = Policy::default();
        for ((kind, namespace, name), object) in started() {
            policy.put(kind, &namespace, &name, object.to_string().as_bytes()).unwrap();
        }
        for (name, role) in [("v", "view"), ("e", "edit"), ("a", "admin")] {
            let binding = json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": name}]});
            policy.put(Kind::RoleBinding, "ns", name, binding.to_string().as_bytes()).unwrap();
        }
        let may = |user: &str, verb, group, resource| {
            let user = User::new(user, ["system:authenticated"]);
            let target = Target::Resource { group, resource, subresource: "", namespace: "ns", name: "" };
            policy.authorize(&Attributes { user: &user, verb, target }).allowed
        };
        for (verb, group, resource, users) in [
            ("list", "", "pods", "vea"),
            ("list", "apps", "deployments", "vea"),
            ("create", "apps", "deployments", "ea"),
            ("get", "", "secrets", "ea"),
            ("create", "rbac.authorization.k8s.io", "rolebindings", "a"),
            ("list", "", "nodes", ""),
            ("create", "authorization.k8s.io", "selfsubjectaccessreviews", "veax"),
        ] {
            for user in ["v", "e", "a", "x"] {
                assert_eq!(
                    may(user, verb, group, resource),
                    users.contains(user),
                    "{user} {verb} {resource}"
                );
            }
        }
        let anonymous = User::anonymous();
        let path = |path| {
            policy.authorize(&Attributes { user: &anonymous, verb: "get", target: Target::Path(path) })
        };
        assert!(path("/version").allowed && path("/readyz").allowed);
        assert!(!path("/api").allowed && !path("/metrics").allowed);
    }

    #[test]
    fn what_users_added_stays_and_what_is_missing_comes_back() {
        let mut objects = started();
        let own = json!({"apiGroups": ["x"], "resources": ["y"], "verbs": ["get"]});
        let role = object(&mut objects, Kind::ClusterRole, "system:discovery");
        role["rules"] = json!([own]);
        role["metadata"]["labels"]["mine"] = json!("yes");
        let bound = object(&mut objects, Kind::ClusterRoleBinding, "cluster-admin");
        bound["subjects"] = json!([{"kind": "User", "name": "root"}]);
        let changes = changes(&objects).unwrap();
        assert_eq!(changes.len(), 2);
        apply(&mut objects, changes);
        let role = object(&mut objects, Kind::ClusterRole, "system:discovery");
        assert_eq!((&role["rules"][0], &role["metadata"]["labels"]["mine"]), (&own, &json!("yes")));
        assert!(role["rules"].as_array().unwrap().len() > 1);
        let bound = object(&mut objects, Kind::ClusterRoleBinding, "cluster-admin");
        assert_eq!(bound["subjects"][0]["name"], "root");
        assert_eq!(bound["subjects"][1]["name"], "system:masters");
        assert_eq!(super::changes(&objects).unwrap(), []);
    }

    #[test]
    fn an_object_that_opted_out_is_left_alone() {
        let mut objects = started();
        for kind in [Kind::ClusterRole, Kind::ClusterRoleBinding] {
            let found = object(&mut objects, kind, "system:discovery");
            found["rules"] = json!([]);
            found["subjects"] = json!([]);
            found["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
        }
        assert_eq!(changes(&objects).unwrap(), []);
    }

    #[test]
    fn a_binding_of_another_role_is_made_anew() {
        let mut objects = started();
        object(&mut objects, Kind::ClusterRoleBinding, "system:discovery")["roleRef"]["name"] =
            json!("cluster-admin");
        let changes = changes(&objects).unwrap();
        assert!(matches!(&changes[..], [(Kind::ClusterRoleBinding, Change::Recreate(_))]), "{changes:?}");
    }
}
