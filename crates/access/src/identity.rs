//! Who is asking, as the host established it.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The group whose members pass every authorisation check of a cluster. It is never impersonated.
pub const SYSTEM_MASTERS: &str = "system:masters";

/// An authenticated user (`authentication.k8s.io` UserInfo).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user's name.
    pub name: String,
    /// The user's unique id; may be empty.
    pub uid: String,
    /// Groups, without duplicates.
    pub groups: Vec<String>,
    /// What the authenticator added.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// Writes the impersonation headers of the Kubernetes API for this user.
    ///
    /// `system:authenticated` is left to the cluster, which adds it itself; `system:masters` is never said.
    pub fn impersonate(&self, headers: &mut HeaderMap) {
        let mut put = |name: &str, value: &str| {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
                headers.append(name, value);
            }
        };
        put("impersonate-user", &self.name);
        let said =
            |group: &&String| group.as_str() != SYSTEM_MASTERS && group.as_str() != "system:authenticated";
        for group in self.groups.iter().filter(said) {
            put("impersonate-group", group);
        }
        if !self.uid.is_empty() {
            put("impersonate-uid", &self.uid);
        }
        for (key, values) in &self.extra {
            for value in values {
                put(&format!("impersonate-extra-{}", percent_encode(key)), value);
            }
        }
    }

    /// Whether every part can be said in a header; a user whose name cannot is refused rather than cut short.
    pub fn is_expressible(&self) -> bool {
        // A space at either end may be trimmed on the way, which would make it another name.
        let fits = |s: &String| HeaderValue::from_bytes(s.as_bytes()).is_ok() && s.trim() == s;
        !self.name.is_empty()
            && fits(&self.name)
            && fits(&self.uid)
            && self.groups.iter().all(fits)
            && self.extra.values().flatten().all(fits)
    }
}

/// Keys of extra fields travel in header names, which are case-insensitive tokens; Kubernetes decodes them again.
fn percent_encode(key: &str) -> String {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._~".contains(b);
    key.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02x}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_identity_is_said_and_no_more() {
        let extra = BTreeMap::from([("example.org/Scope".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        let groups = vec!["dev".into(), "system:authenticated".into(), SYSTEM_MASTERS.into()];
        let identity = Identity { name: "alice".into(), uid: "7".into(), groups, extra };
        let mut headers = HeaderMap::new();
        identity.impersonate(&mut headers);
        let mut said: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        said.sort();
        assert_eq!(
            said,
            [
                "impersonate-extra-example.org%2f%53cope: a",
                "impersonate-extra-example.org%2f%53cope: b",
                "impersonate-group: dev",
                "impersonate-uid: 7",
                "impersonate-user: alice",
            ]
        );
    }

    #[test]
    fn a_name_that_would_split_a_header_is_refused() {
        let identity =
            Identity { name: "a\r\nImpersonate-Group: system:masters".into(), ..Identity::default() };
        assert!(!identity.is_expressible());
        assert!(!Identity::default().is_expressible());
        let group =
            |name: &str| Identity { name: "a".into(), groups: vec![name.into()], ..Identity::default() };
        assert!(group("dev").is_expressible() && !group(" system:masters").is_expressible());
    }
}
