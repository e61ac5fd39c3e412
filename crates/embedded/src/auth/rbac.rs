//! RBAC: whether the rules bound to a user allow a request. Pure; [`super::index`] keeps a [`Policy`] up to date.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use hansa_machinery::Status;
use serde::Deserialize;
use serde_json::Value;

use super::user::{MASTERS, User, service_account_name};

/// The API group of RBAC.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// What an authorizer decides on.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a User,
    /// `get`, `list`, …; for paths the lower-case HTTP method.
    pub verb: &'a str,
    /// What is asked for.
    pub target: Target<'a>,
}

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// An API resource.
    Resource {
        /// The API group; empty for the core group.
        group: &'a str,
        /// The plural resource name.
        resource: &'a str,
        /// `status`, `log`, … or empty.
        subresource: &'a str,
        /// Empty for cluster-scoped resources and requests across namespaces.
        namespace: &'a str,
        /// Empty for requests about no single object.
        name: &'a str,
    },
    /// Any other path, such as `/healthz`.
    Path(&'a str),
}

impl<'a> Attributes<'a> {
    /// Why the request is refused, in Kubernetes' words.
    fn refusal(&self) -> String {
        let (user, verb) = (&self.user.name, self.verb);
        match self.target {
            Target::Path(path) => format!("User {user:?} cannot {verb} path {path:?}"),
            Target::Resource { group, resource, subresource, namespace, .. } => {
                let slash = if subresource.is_empty() { "" } else { "/" };
                let scope = match namespace {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {namespace:?}"),
                };
                format!(
                    "User {user:?} cannot {verb} resource \"{resource}{slash}{subresource}\" in API group {group:?} {scope}"
                )
            }
        }
    }

    /// The answer to a refused request.
    pub fn forbidden(&self, reason: &str) -> Status {
        let colon = if reason.is_empty() { "" } else { ": " };
        let message = format!("{}{colon}{reason}", self.refusal());
        match self.target {
            Target::Path(_) => Status::new(403, "Forbidden", format!("forbidden: {message}")),
            Target::Resource { group, resource, name, .. } => {
                Status::forbidden(group, resource, name, &message)
            }
        }
    }
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// One `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// The API groups; `*` for all.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Paths outside the API; a trailing `*` stands for any rest.
    #[serde(
        rename = "nonResourceURLs",
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub non_resource_urls: Vec<String>,
    /// The only objects it is about; empty for all.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Resources: `pods`, `pods/log`, `*/scale` or `*`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// The verbs; `*` for all.
    #[serde(deserialize_with = "or_default")]
    pub verbs: Vec<String>,
}

fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|entry| entry == item)
}

/// Whether `pattern` of `nonResourceURLs` means `path`.
pub(super) fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*'))
}

impl Rule {
    /// Whether the rule allows `verb` on `target`.
    pub fn allows(&self, verb: &str, target: &Target<'_>) -> bool {
        if !has(&self.verbs, verb) && !has(&self.verbs, "*") {
            return false;
        }
        match *target {
            Target::Path(path) => self.non_resource_urls.iter().any(|pattern| path_matches(pattern, path)),
            Target::Resource { group, resource, subresource, name, .. } => {
                self.api_groups.iter().any(|g| g == "*" || g == group)
                    && self.resources.iter().any(|r| resource_matches(r, resource, subresource))
                    && (self.resource_names.is_empty() || has(&self.resource_names, name))
            }
        }
    }
}

fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    if subresource.is_empty() {
        return pattern == resource;
    }
    let parent = pattern.strip_suffix(subresource).and_then(|rest| rest.strip_suffix('/'));
    parent.is_some_and(|parent| parent == "*" || parent == resource)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RoleObject {
    #[serde(deserialize_with = "or_default")]
    rules: Vec<Rule>,
}

/// A reference to a Role or ClusterRole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub kind: String,
    /// The API group, as written.
    pub api_group: String,
    /// Its name.
    pub name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    #[serde(deserialize_with = "or_default")]
    namespace: String,
}

/// A RoleBinding or ClusterRoleBinding.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Binding {
    role_ref: RoleRef,
    #[serde(deserialize_with = "or_default")]
    subjects: Vec<Subject>,
}

/// Bindings by the name of a user or group that they bind, then by their own.
type BySubject = HashMap<String, BTreeMap<String, Arc<Binding>>>;

/// The bindings of one namespace, or those of the cluster.
#[derive(Clone, Debug, Default)]
struct Bindings {
    all: BTreeMap<String, Arc<Binding>>,
    users: BySubject,
    groups: BySubject,
}

impl Bindings {
    /// The user or group that a subject of a binding in `namespace` names.
    fn subject(&mut self, subject: &Subject, namespace: &str) -> Option<(&mut BySubject, String)> {
        match subject.kind.as_str() {
            "User" => Some((&mut self.users, subject.name.clone())),
            "Group" => Some((&mut self.groups, subject.name.clone())),
            "ServiceAccount" => {
                let namespace = if subject.namespace.is_empty() { namespace } else { &subject.namespace };
                (!namespace.is_empty())
                    .then(|| (&mut self.users, service_account_name(namespace, &subject.name)))
            }
            _ => None,
        }
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        let Some(binding) = self.all.remove(name) else { return };
        for subject in &binding.subjects {
            let Some((map, key)) = self.subject(subject, namespace) else { continue };
            if let Some(bindings) = map.get_mut(&key) {
                bindings.remove(name);
                if bindings.is_empty() {
                    map.remove(&key);
                }
            }
        }
    }

    fn put(&mut self, namespace: &str, name: &str, binding: Binding) {
        self.remove(namespace, name);
        let binding = Arc::new(binding);
        for subject in &binding.subjects {
            if let Some((map, key)) = self.subject(subject, namespace) {
                map.entry(key).or_default().insert(name.to_owned(), binding.clone());
            }
        }
        self.all.insert(name.to_owned(), binding);
    }

    /// The bindings that apply to `user`, each at least once, with the subject that makes them apply.
    fn of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = (&'a str, &'a Binding, Bound<'a>)> {
        let groups = user.groups.iter().map(|g| (self.groups.get(g), Bound::Group(g)));
        let found = std::iter::once((self.users.get(&user.name), Bound::User(&user.name))).chain(groups);
        found.flat_map(|(bindings, by)| {
            bindings.into_iter().flatten().map(move |(name, binding)| (name.as_str(), &**binding, by))
        })
    }
}

/// The subject through which a binding applies.
#[derive(Clone, Copy, Debug)]
enum Bound<'a> {
    User(&'a str),
    Group(&'a str),
}

impl fmt::Display for Bound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => match super::user::split_service_account_name(name) {
                Some((namespace, name)) => write!(f, "ServiceAccount \"{name}/{namespace}\""),
                None => write!(f, "User {name:?}"),
            },
            Self::Group(name) => write!(f, "Group {name:?}"),
        }
    }
}

/// The outcome of [`Policy::authorize`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may proceed. Nothing that is not allowed by a rule is.
    pub allowed: bool,
    /// The binding that allows it, or what could not be resolved.
    pub reason: String,
}

/// All roles and bindings of a cluster, found by the subject they bind.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    cluster_roles: HashMap<String, Arc<[Rule]>>,
    roles: HashMap<String, HashMap<String, Arc<[Rule]>>>,
    cluster: Bindings,
    namespaced: HashMap<String, Bindings>,
}

/// The four kinds that make up a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `clusterroles`
    ClusterRole,
    /// `clusterrolebindings`
    ClusterRoleBinding,
    /// `roles`
    Role,
    /// `rolebindings`
    RoleBinding,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ClusterRole, Self::ClusterRoleBinding, Self::Role, Self::RoleBinding];

    /// The plural resource name.
    pub fn resource(self) -> &'static str {
        match self {
            Self::ClusterRole => "clusterroles",
            Self::ClusterRoleBinding => "clusterrolebindings",
            Self::Role => "roles",
            Self::RoleBinding => "rolebindings",
        }
    }

    /// The kind of this resource, if it is one of RBAC's.
    pub fn of(group: &str, resource: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| group == GROUP && kind.resource() == resource)
    }
}

impl Policy {
    /// Takes an object as it is now.
    ///
    /// # Errors
    /// When the object is not of its kind's form. It then grants nothing.
    pub fn put(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
        object: &[u8],
    ) -> Result<(), serde_json::Error> {
        self.remove(kind, namespace, name);
        let rules = || serde_json::from_slice(object).map(|role: RoleObject| role.rules.into());
        match kind {
            Kind::ClusterRole => drop(self.cluster_roles.insert(name.to_owned(), rules()?)),
            Kind::Role => {
                let rules = rules()?;
                self.roles.entry(namespace.to_owned()).or_default().insert(name.to_owned(), rules);
            }
            Kind::ClusterRoleBinding => self.cluster.put("", name, serde_json::from_slice(object)?),
            Kind::RoleBinding => {
                let binding = serde_json::from_slice(object)?;
                self.namespaced.entry(namespace.to_owned()).or_default().put(namespace, name, binding);
            }
        }
        Ok(())
    }

    /// Forgets an object.
    pub fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        match kind {
            Kind::ClusterRole => drop(self.cluster_roles.remove(name)),
            Kind::ClusterRoleBinding => self.cluster.remove("", name),
            Kind::Role => {
                if let Some(roles) = self.roles.get_mut(namespace) {
                    roles.remove(name);
                    if roles.is_empty() {
                        self.roles.remove(namespace);
                    }
                }
            }
            Kind::RoleBinding => {
                if let Some(bindings) = self.namespaced.get_mut(namespace) {
                    bindings.remove(namespace, name);
                    if bindings.all.is_empty() {
                        self.namespaced.remove(namespace);
                    }
                }
            }
        }
    }

    /// The rules a reference from a binding in `namespace` leads to; the error says what is missing.
    pub fn resolve(&self, reference: &RoleRef, namespace: &str) -> Result<&Arc<[Rule]>, String> {
        let name = &reference.name;
        match reference.kind.as_str() {
            "ClusterRole" => {
                self.cluster_roles.get(name).ok_or_else(|| format!("clusterrole.{GROUP} {name:?} not found"))
            }
            "Role" => self
                .roles
                .get(namespace)
                .and_then(|roles| roles.get(name))
                .ok_or_else(|| format!("role.{GROUP} {name:?} not found")),
            kind => Err(format!("unsupported role reference kind: {kind:?}")),
        }
    }

    /// Whether the request is allowed. Members of `system:masters` may do everything.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let allowed = |reason| Decision { allowed: true, reason };
        if attributes.user.is_in(MASTERS) {
            return allowed(String::new());
        }
        let namespace = match attributes.target {
            Target::Resource { namespace, .. } => namespace,
            Target::Path(_) => "",
        };
        let mut missing: Vec<String> = Vec::new();
        for (scope, bindings) in self.scopes(namespace) {
            for (name, binding, by) in bindings.of(attributes.user) {
                match self.resolve(&binding.role_ref, scope) {
                    Ok(rules) if rules.iter().any(|r| r.allows(attributes.verb, &attributes.target)) => {
                        let RoleRef { kind, name: role, .. } = &binding.role_ref;
                        let source = match scope {
                            "" => format!("ClusterRoleBinding {name:?}"),
                            scope => format!("RoleBinding \"{name}/{scope}\""),
                        };
                        return allowed(format!("RBAC: allowed by {source} of {kind} {role:?} to {by}"));
                    }
                    Ok(_) => {}
                    Err(why) if missing.contains(&why) => {}
                    Err(why) => missing.push(why),
                }
            }
        }
        let reason = match missing.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        };
        Decision { allowed: false, reason }
    }

    /// All rules that apply to `user` in `namespace`, and what could not be resolved.
    pub fn rules(&self, user: &User, namespace: &str) -> (Vec<&Rule>, Vec<String>) {
        let mut rules = Vec::new();
        let mut missing = Vec::new();
        for (scope, bindings) in self.scopes(namespace) {
            // A binding applies once however many of its subjects mean the user.
            let applying: BTreeMap<&str, &Binding> =
                bindings.of(user).map(|(name, b, _)| (name, b)).collect();
            for binding in applying.values() {
                match self.resolve(&binding.role_ref, scope) {
                    Ok(found) => rules.extend(found.iter()),
                    Err(why) => missing.push(why),
                }
            }
        }
        (rules, missing)
    }

    fn scopes(&self, namespace: &str) -> impl Iterator<Item = (&str, &Bindings)> {
        let local = self.namespaced.get_key_value(namespace).filter(|(namespace, _)| !namespace.is_empty());
        std::iter::once(("", &self.cluster))
            .chain(local.map(|(namespace, bindings)| (namespace.as_str(), bindings)))
    }
}

/// The `roleRef` of a binding.
pub fn role_ref(binding: &Value) -> RoleRef {
    RoleRef::deserialize(&binding["roleRef"]).unwrap_or_default()
}

/// The `rules` of a role.
///
/// # Errors
/// When they are not of the form of rules.
pub fn rules_of(role: &Value) -> Result<Vec<Rule>, serde_json::Error> {
    RoleObject::deserialize(role).map(|role| role.rules)
}

#[cfg(test)]
mod tests;
