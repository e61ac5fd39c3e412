//! Where an API server is, and the proxy on the way.

use std::fmt;

use http::Uri;

/// The address of an API server: scheme, host, port and a path that goes before every request's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path, without a slash at its end.
    pub path: String,
}

/// Why an address cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given:?} is not the address of an API server: {reason}; give it as https://HOST:PORT")]
pub struct EndpointError {
    given: String,
    reason: &'static str,
}

impl Endpoint {
    /// Reads an address as client-go's `DefaultServerURL` does: a host, `host:port`, or a URL with `http` or `https`, which may have a path
    /// (`spec/kubefed.md §1.1`).
    pub fn parse(given: &str) -> Result<Self, EndpointError> {
        // What was given is repeated without a password that may stand in it.
        let shown = given.rsplit_once('@').map_or(given, |(_, host)| host);
        let fail = |reason| EndpointError { given: shown.chars().take(256).collect(), reason };
        let text = given.trim();
        if text.is_empty() {
            return Err(fail("it is empty"));
        }
        let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let uri: Uri = url.parse().map_err(|_| fail("it does not parse"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(fail("its scheme is neither http nor https")),
        };
        let authority = uri.authority().ok_or_else(|| fail("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(fail("it contains a user name"));
        }
        if uri.query().is_some() || url.contains('#') {
            return Err(fail("it contains a query or a fragment"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(fail("it has no host"));
        }
        let rest = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => {
                port.parse().ok().filter(|port| *port > 0).ok_or_else(|| fail("its port is not a port"))?
            }
            None => return Err(fail("its port is not a port")),
        };
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { tls, host, port, path })
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// A proxy on the way to an API server.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(crate) kind: ProxyKind,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyKind {
    Http,
    Https,
    Socks5,
}

impl Proxy {
    /// Reads `http://`, `https://` or `socks5://[user:password@]host[:port]`.
    pub fn parse(given: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = given.trim().split_once("://").ok_or(ProxyError("it has no scheme"))?;
        let (kind, default_port) = match scheme {
            "http" => (ProxyKind::Http, 80),
            "https" => (ProxyKind::Https, 443),
            "socks5" | "socks5h" => (ProxyKind::Socks5, 1080),
            _ => return Err(ProxyError("its scheme is not http, https or socks5")),
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, address) = match rest.rsplit_once('@') {
            Some((user, address)) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                (Some((decode(name), decode(password))), address)
            }
            None => (None, rest),
        };
        let scheme = if kind == ProxyKind::Http { "http" } else { "https" };
        let with_port = if address.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']')) {
            address.to_owned()
        } else {
            format!("{address}:{default_port}")
        };
        let endpoint = Endpoint::parse(&format!("{scheme}://{with_port}"))
            .map_err(|_| ProxyError("its host or port does not parse"))?;
        Ok(Self { kind, host: endpoint.host, port: endpoint.port, user })
    }
}

impl Proxy {
    /// The URL with its credentials, for writing it down where they belong.
    pub fn url(&self) -> String {
        let shown = self.to_string();
        match (&self.user, shown.split_once("://")) {
            (Some((user, password)), Some((scheme, rest))) => {
                format!("{scheme}://{}:{}@{rest}", encode(user), encode(password))
            }
            _ => shown,
        }
    }
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Percent-decoding of a URL's user part; what is not an escape stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = (*first == b'%').then(|| tail.get(..2)).flatten();
        let value = escape
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match value {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl fmt::Display for Proxy {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            ProxyKind::Http => "http",
            ProxyKind::Https => "https",
            ProxyKind::Socks5 => "socks5",
        };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{scheme}://{host}:{}", self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Why a proxy URL cannot be used. It does not repeat the URL, which may hold a password.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the proxy URL cannot be used: {0}; give it as http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"
)]
pub struct ProxyError(&'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_client_go_reads_them() {
        for (given, expected) in [
            ("10.0.0.1", "https://10.0.0.1:443"),
            ("10.0.0.1:6443", "https://10.0.0.1:6443"),
            ("api.example.com:6443/k8s/c1/", "https://api.example.com:6443/k8s/c1"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("https://[::1]:6443", "https://[::1]:6443"),
            ("https://api.example.com", "https://api.example.com:443"),
        ] {
            assert_eq!(Endpoint::parse(given).map(|e| e.to_string()), Ok(expected.to_owned()), "{given}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_passwords() {
        for given in [
            "",
            "ftp://a",
            "https://",
            "https://a:0",
            "https://a:99999",
            "https://a?x=1",
            "https://u:secret@a",
            "a b",
            "https://a:",
        ] {
            let error = Endpoint::parse(given).map(|e| e.to_string()).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn proxies_are_read_and_shown_without_credentials() {
        let proxy = Proxy::parse("http://user:p%40ss@proxy.example.com:3128/").unwrap();
        assert_eq!(proxy.user, Some(("user".to_owned(), "p@ss".to_owned())));
        assert_eq!(
            format!("{proxy} {proxy:?}"),
            "http://proxy.example.com:3128 Proxy(http://proxy.example.com:3128)"
        );
        assert_eq!(Proxy::parse(&proxy.url()).unwrap(), proxy);
        assert_eq!(Proxy::parse("socks5://[::1]").unwrap().url(), "socks5://[::1]:1080");
        assert!(Proxy::parse("ftp://a").is_err() && Proxy::parse("a:1").is_err());
    }
}
