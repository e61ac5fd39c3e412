//! The order of API versions: `v2` before `v1` before `v1beta2` before `v1alpha1` before anything else.

use std::cmp::Ordering;

/// `v1beta2` as (stability, major, minor); `None` for a name that does not follow the convention.
fn parse(version: &str) -> Option<(u8, u64, u64)> {
    let digits = version.strip_prefix('v')?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let major = digits[..end].parse().ok()?;
    let rest = &digits[end..];
    if rest.is_empty() {
        return Some((2, major, 0));
    }
    let (stability, minor) = match rest.strip_prefix("beta") {
        Some(minor) => (1, minor),
        None => (0, rest.strip_prefix("alpha")?),
    };
    Some((stability, major, minor.parse().ok()?))
}

/// Kubernetes' version priority; the greater is preferred. Names outside the convention come last, in alphabetical
/// order.
pub(crate) fn compare_versions(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// Whether `a` is preferred to `b`.
pub(crate) fn prefers(a: &str, b: &str) -> bool {
    compare_versions(a, b) == Ordering::Greater
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_kubernetes_does() {
        let mut versions = vec![
            "foo1",
            "v1",
            "v3beta1",
            "foo10",
            "v11alpha2",
            "v10",
            "v12alpha1",
            "v2",
            "v10beta3",
            "v11beta2",
        ];
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]
        );
    }
}
