//! Who is asking: the user a request runs as, and the names Kubernetes gives a meaning to.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A request without a credential.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of every authenticated user.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of requests without a credential.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that may do everything, whatever RBAC says. Only in-process callers and client certificates carry it.
pub const MASTERS: &str = "system:masters";
/// What the user name of every ServiceAccount starts with.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// A user as Kubernetes describes it (`authentication.k8s.io/v1` `UserInfo`). It holds no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The name RBAC binds.
    pub name: String,
    /// Tells users of the same name apart over time; may be empty.
    pub uid: String,
    /// The groups RBAC binds.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user in `groups`, without uid or extra.
    pub fn new<G: Into<String>>(name: impl Into<String>, groups: impl IntoIterator<Item = G>) -> Self {
        Self { name: name.into(), groups: groups.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The user of a request without a credential.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, [UNAUTHENTICATED])
    }

    /// The in-process caller, which may do everything.
    pub fn local() -> Self {
        Self::new("system:apiserver", [MASTERS, AUTHENTICATED])
    }

    /// The ServiceAccount `name` of `namespace`, with the groups every ServiceAccount is in.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let groups = service_account_groups(namespace).into_iter().chain([AUTHENTICATED.to_owned()]);
        Self { uid: uid.to_owned(), ..Self::new(service_account_name(namespace, name), groups) }
    }

    /// Whether the user is a member of `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Adds `system:authenticated`, which every accepted credential brings.
    #[must_use]
    pub fn authenticated(mut self) -> Self {
        if !self.is_in(AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }

    /// The user as `UserInfo` in reviews, admission requests and events.
    pub fn to_value(&self) -> Value {
        let mut info = json!({"username": self.name});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        if !self.groups.is_empty() {
            info["groups"] = self.groups.as_slice().into();
        }
        if !self.extra.is_empty() {
            info["extra"] = self.extra.iter().map(|(k, v)| (k.clone(), Value::from(v.as_slice()))).collect();
        }
        info
    }
}

/// The user name of a ServiceAccount.
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// The groups of the ServiceAccounts of `namespace`.
pub fn service_account_groups(namespace: &str) -> [String; 2] {
    ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// The namespace and name in a ServiceAccount's user name; `None` when it is not one.
pub fn split_service_account_name(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let label = |s: &str| {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        s.len() <= 63
            && s.bytes().all(|c| inner(c) || c == b'-')
            && s.bytes().next().is_some_and(inner)
            && s.bytes().last().is_some_and(inner)
    };
    (label(namespace) && name.len() <= 253 && name.split('.').all(label)).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_name_splits_only_when_both_parts_are_valid() {
        let split = split_service_account_name;
        assert_eq!(split("system:serviceaccount:kube-system:a.b"), Some(("kube-system", "a.b")));
        for bad in
            ["system:serviceaccount:x", "system:serviceaccount:a:b:c", "system:serviceaccount::b", "bob"]
        {
            assert_eq!(split(bad), None, "{bad}");
        }
        assert_eq!(split("system:serviceaccount:A:b"), None);
    }

    #[test]
    fn authenticated_is_added_once() {
        let user = User::new("bob", ["dev"]).authenticated().authenticated();
        assert_eq!(user.groups, ["dev", AUTHENTICATED]);
    }
}
