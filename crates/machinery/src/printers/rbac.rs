//! Role bindings. Roles have no columns of their own.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Heading, NAME, Sheet, age, list, text};
use crate::table::{Row, name_of};

pub(super) static ROLE_BINDING: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Role", "rbac.v1.RoleBinding", "roleRef"),
        AGE,
        Heading::new("Users", "Users in the roleBinding").wide(),
        Heading::new("Groups", "Groups in the roleBinding").wide(),
        Heading::new("ServiceAccounts", "ServiceAccounts in the roleBinding").wide(),
    ],
    binding,
);

pub(super) static CLUSTER_ROLE_BINDING: Sheet = Sheet::new(
    &[
        NAME,
        Heading::of("Role", "rbac.v1.ClusterRoleBinding", "roleRef"),
        AGE,
        Heading::new("Users", "Users in the clusterRoleBinding").wide(),
        Heading::new("Groups", "Groups in the clusterRoleBinding").wide(),
        Heading::new("ServiceAccounts", "ServiceAccounts in the clusterRoleBinding").wide(),
    ],
    binding,
);

fn binding(object: &Value, now: Timestamp) -> Row {
    let subjects = |kind: &str| -> Value {
        let of_kind = list(object, "/subjects").iter().filter(|subject| subject["kind"] == kind);
        let name = |subject: &Value| match (kind, text(subject, "/name"), text(subject, "/namespace")) {
            ("ServiceAccount", name, namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
            (_, name, _) => name.to_owned(),
        };
        of_kind.map(name).collect::<Vec<_>>().join(", ").into()
    };
    let role = format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    let (users, groups) = (subjects("User"), subjects("Group"));
    vec![name_of(object), role.into(), age(object, now), users, groups, subjects("ServiceAccount")].into()
}
