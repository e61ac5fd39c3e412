//! Whether a name is an image reference (the grammar of the OCI distribution specification and its `reference` package).

/// `[registry/]path[:tag][@digest]`.
pub(crate) fn is_reference(image: &str) -> bool {
    let (image, digest) = match image.split_once('@') {
        Some((image, digest)) => (image, Some(digest)),
        None => (image, None),
    };
    // A colon after the last slash starts the tag; one before it belongs to the registry's port.
    let (name, tag) = match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, None),
    };
    is_name(name) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest)
}

fn is_name(name: &str) -> bool {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        _ => (None, name),
    };
    registry.is_none_or(is_registry) && name.len() <= 255 && path.split('/').all(is_component)
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = registry.rsplit_once(':').unwrap_or((registry, "0"));
    let label = |label: &str| {
        label.starts_with(|c: char| c.is_ascii_alphanumeric())
            && label.ends_with(|c: char| c.is_ascii_alphanumeric())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    host.split('.').all(label) && !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit())
}

/// Lower-case words, with one dot, one or two underscores or any dashes between them.
fn is_component(component: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut gap = String::new();
    let mut after_word = false;
    for c in component.chars() {
        if is_word(c) {
            let allowed =
                gap.is_empty() || gap == "." || gap == "_" || gap == "__" || gap.chars().all(|c| c == '-');
            if !allowed || (!after_word && !gap.is_empty()) {
                return false;
            }
            gap.clear();
            after_word = true;
        } else {
            gap.push(c);
        }
    }
    after_word && gap.is_empty()
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&tag.len())
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
            && algorithm.chars().all(|c| c.is_ascii_alphanumeric() || "-_+.".contains(c))
            && hex.len() >= 32
            && hex.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_told_from_what_is_none() {
        for good in [
            "nginx",
            "nginx:1.27-alpine",
            "library/nginx",
            "registry.example.com:5000/team/app_x/web-server:v1.0",
            "localhost/app",
            "ghcr.io/a/b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ] {
            assert!(is_reference(good), "{good}");
        }
        for bad in [
            "",
            "Nginx",
            "nginx:",
            "nginx:-x",
            "nginx:a b",
            "a//b",
            "-a",
            "a-",
            "a..b",
            "nginx@sha256:12",
            "http://x/y",
        ] {
            assert!(!is_reference(bad), "{bad}");
        }
    }
}
