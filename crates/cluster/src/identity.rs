//! Who a cluster is: the UID of its `kube-system` namespace. The same cluster twice, the host as its own member, or another cluster under
//! an old name are never taken in silently (`spec/kubesphere-multicluster.md §1.2, §1.6`).

/// What is known of a `Cluster` that bears on identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) name: String,
    /// The recorded UID; empty if none.
    pub(crate) uid: String,
    /// When the object was made, and its name: the earlier one has the better claim.
    pub(crate) created: Option<i64>,
}

/// Why a cluster cannot be taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// It is the host.
    #[error(
        "the kubeconfig points at the host cluster itself, which is registered already; give the kubeconfig of another cluster"
    )]
    IsHost,
    /// It is a member already.
    #[error(
        "this cluster is already a member under the name {0:?}; use that name, or remove it first (hansa unjoin {0})"
    )]
    AlreadyMember(String),
    /// It is not the cluster that has this name.
    #[error(
        "the kubeconfig now points at another cluster (identity {found}) than the one that joined under this name (identity {recorded}); give a \
         kubeconfig of that cluster, or remove this one (hansa unjoin) and join the other anew"
    )]
    Changed {
        /// Who joined.
        recorded: String,
        /// Who answers.
        found: String,
    },
}

impl Conflict {
    /// The word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::IsHost => "IsHost",
            Self::AlreadyMember(_) => "AlreadyMember",
            Self::Changed { .. } => "IdentityChanged",
        }
    }
}

/// Whether the cluster with UID `found` may be `me`.
pub(crate) fn check(found: &str, me: &Known, host: &str, others: &[Known]) -> Result<(), Conflict> {
    if !me.uid.is_empty() && me.uid != found {
        return Err(Conflict::Changed { recorded: me.uid.clone(), found: found.to_owned() });
    }
    if found == host {
        return Err(Conflict::IsHost);
    }
    let claim = |known: &Known| (known.created.unwrap_or(i64::MAX), known.name.clone());
    let other = others
        .iter()
        .filter(|other| other.name != me.name && other.uid == found)
        // Of two that recorded the same identity at the same time, the elder keeps it.
        .find(|other| me.uid.is_empty() || claim(other) < claim(me));
    other.map_or(Ok(()), |other| Err(Conflict::AlreadyMember(other.name.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, uid: &str, created: i64) -> Known {
        Known { name: name.to_owned(), uid: uid.to_owned(), created: Some(created) }
    }

    #[test]
    fn identities_are_told_apart() {
        let new = known("new", "", 5);
        let others = [known("old", "u-old", 1), known("blank", "", 1)];
        let already = |name: &str| Err(Conflict::AlreadyMember(name.to_owned()));
        for (found, me, expected) in [
            ("u-new", &new, Ok(())),
            ("u-host", &new, Err(Conflict::IsHost)),
            ("u-old", &new, already("old")),
            ("u-old", &others[0], Ok(())),
            ("u-x", &others[0], Err(Conflict::Changed { recorded: "u-old".into(), found: "u-x".into() })),
            // Being older gives no claim to a cluster that has joined under another name.
            ("u-old", &known("elder", "", 0), already("old")),
        ] {
            assert_eq!(check(found, me, "u-host", &others), expected, "{found} as {}", me.name);
        }
    }

    #[test]
    fn of_two_that_joined_at_once_exactly_one_stays() {
        let (a, b) = (known("a", "u", 3), known("b", "u", 3));
        let all = [a.clone(), b.clone()];
        assert_eq!(check("u", &a, "h", &all), Ok(()));
        assert_eq!(check("u", &b, "h", &all), Err(Conflict::AlreadyMember("a".into())));
    }
}
