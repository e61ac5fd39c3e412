//! The address of an API server, read as client-go reads it (`rest.DefaultServerURL` with TLS as the default).

use hansa_machinery::{field::Path, status::Cause};

/// The parts of a URL that matter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: String,
    pub(super) host: String,
    pub(super) port: String,
    pub(super) path: String,
}

impl Url {
    /// Reads a URL as Go's `url.Parse` does, as strictly where hosts and ports are concerned.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("parse {text:?}: {why}"));
        if text.chars().any(|c| c.is_ascii_control()) {
            return refuse("net/url: invalid control character in URL");
        }
        let (scheme, rest) = match text.split_once(':') {
            Some(("", _)) => return refuse("missing protocol scheme"),
            Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
            Some((first, _)) if !first.contains(['/', '?', '#']) => {
                return refuse("first path segment in URL cannot contain colon");
            }
            _ => (String::new(), text),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let rest = rest.split('?').next().unwrap_or_default();
        let Some(rest) = rest.strip_prefix("//") else {
            return Ok(Self { scheme, host: String::new(), port: String::new(), path: rest.to_owned() });
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match authority.strip_prefix('[') {
            Some(literal) => match literal.split_once(']') {
                Some((host, "")) => (host, ""),
                Some((host, port)) if port.starts_with(':') => (host, &port[1..]),
                Some((_, _)) => return refuse("invalid port after host"),
                None => return refuse("missing ']' in host"),
            },
            None => authority.rsplit_once(':').unwrap_or((authority, "")),
        };
        if !port.bytes().all(|digit| digit.is_ascii_digit()) {
            return refuse(&format!("invalid port {:?} after host", format!(":{port}")));
        }
        if let Some(odd) =
            host.chars().find(|c| matches!(c, ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}'))
        {
            return refuse(&format!("invalid character {:?} in host name", odd.to_string()));
        }
        let part = |text: &str| text.to_owned();
        Ok(Self { scheme, host: part(host), port: part(port), path: part(path) })
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.'))
}

/// The URL an endpoint stands for.
fn url(endpoint: &str) -> Result<Url, String> {
    if let Ok(url) = Url::parse(endpoint)
        && !url.scheme.is_empty()
        && !(url.host.is_empty() && url.port.is_empty())
    {
        return Ok(url);
    }
    let url = Url::parse(&format!("https://{endpoint}"))?;
    match url.path.as_str() {
        "" | "/" => Ok(url),
        _ => Err(format!("host must be a URL or a host:port pair: {endpoint:?}")),
    }
}

/// What is wrong with an endpoint.
pub(super) fn check(path: &Path<'_>, endpoint: &str, found: &mut Vec<Cause>) {
    if endpoint.is_empty() {
        found.push(Cause::required(path, ""));
        return;
    }
    let url = match url(endpoint) {
        Ok(url) => url,
        Err(why) => {
            found.push(Cause::invalid(path, endpoint, why));
            return;
        }
    };
    super::one_of(path, &url.scheme.as_str().into(), &["http", "https"], found);
    match url.port.parse::<u64>() {
        _ if url.port.is_empty() => {}
        Ok(1..=65_535) => {}
        Ok(port) => found.push(Cause::invalid(path, port, "must be between 1 and 65535, inclusive")),
        Err(_) => found.push(Cause::invalid(path, url.port, "error converting port to integer")),
    }
}
