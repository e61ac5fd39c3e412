//! The proxy on the way to the tower, as the environment names it: `HTTPS_PROXY` and `NO_PROXY`, read as Go programs read them.

use std::net::IpAddr;

use hansa_transport::{Endpoint, Proxy, ProxyError};

/// What the environment says about proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    https: Option<Proxy>,
    not_for: Vec<Exempt>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Exempt {
    All,
    Network { address: IpAddr, bits: u8 },
    Host { name: String, itself: bool, port: Option<u16> },
}

impl Proxies {
    /// Reads the environment through `get`. Of two spellings the one in capitals goes first.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let either = |capital: &str, small: &str| {
            get(capital)
                .filter(|text| !text.is_empty())
                .or_else(|| get(small).filter(|text| !text.is_empty()))
        };
        let https = either("HTTPS_PROXY", "https_proxy").map(|given| {
            let given = if given.contains("://") { given } else { format!("http://{given}") };
            Proxy::parse(&given)
        });
        let not_for = either("NO_PROXY", "no_proxy").unwrap_or_default();
        let not_for = not_for.split(',').map(str::trim).filter(|text| !text.is_empty()).map(exempt).collect();
        Ok(Self { https: https.transpose()?, not_for })
    }

    /// The proxy on the way to `endpoint`, if there is one.
    pub fn on_the_way_to(&self, endpoint: &Endpoint) -> Option<&Proxy> {
        let host = endpoint.host.trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        // What is on this machine is never behind a proxy.
        let local = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        let spared = self.not_for.iter().any(|each| each.covers(&host, address, endpoint.port));
        self.https.as_ref().filter(|_| !local && !spared)
    }
}

fn exempt(text: &str) -> Exempt {
    if text == "*" {
        return Exempt::All;
    }
    if let Some((address, bits)) = text.split_once('/')
        && let (Ok(address), Ok(bits)) = (address.parse(), bits.parse())
    {
        return Exempt::Network { address, bits };
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
        _ => (text, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let (name, itself) = match host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
        Some(below) => (below.to_owned(), false),
        None => (host.clone(), true),
    };
    Exempt::Host { name, itself, port }
}

impl Exempt {
    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Network { address: network, bits } => {
                address.is_some_and(|address| is_within(address, *network, *bits))
            }
            Self::Host { name, itself, port: only } => {
                let same = match (address, name.parse::<IpAddr>()) {
                    (Some(address), Ok(named)) => address == named,
                    (Some(_), Err(_)) => false,
                    (None, _) => {
                        (*itself && host == name)
                            || host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'))
                    }
                };
                same && only.is_none_or(|only| only == port)
            }
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (a, b, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32_u8),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let Some(rest) = width.checked_sub(bits) else { return false };
    (a ^ b).checked_shr(rest.into()).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(environment: &[(&str, &str)]) -> Proxies {
        let get = |name: &str| {
            environment.iter().find(|(each, _)| *each == name).map(|(_, value)| (*value).to_owned())
        };
        Proxies::from_environment(get).unwrap()
    }

    fn way(environment: &[(&str, &str)], to: &str) -> Option<String> {
        let endpoint = Endpoint::parse(to).unwrap();
        proxies(environment).on_the_way_to(&endpoint).map(ToString::to_string)
    }

    #[test]
    fn the_environment_names_the_proxy() {
        let to = "https://tower.example.org:7444";
        let proxy = Some("http://p:3128".to_owned());
        assert_eq!(way(&[], to), None);
        assert_eq!(way(&[("HTTPS_PROXY", "http://p:3128")], to), proxy);
        assert_eq!(way(&[("https_proxy", "p:3128")], to), proxy);
        assert_eq!(way(&[("HTTPS_PROXY", "p:3128"), ("https_proxy", "q:1")], to), proxy);
        assert_eq!(way(&[("HTTPS_PROXY", ""), ("https_proxy", "u:s3cret@p:3128")], to), proxy);
        assert_eq!(way(&[("HTTP_PROXY", "http://p:3128")], to), None, "that one is for plain HTTP");
        let bad =
            Proxies::from_environment(|name| (name == "HTTPS_PROXY").then(|| "ftp://u:s3cret@p".into()));
        assert!(!bad.unwrap_err().to_string().contains("s3cret"));
    }

    #[test]
    fn what_is_exempt_is_dialled_directly() {
        for (list, to, direct) in [
            ("*", "https://a.example.org", true),
            ("example.org", "https://example.org", true),
            ("example.org", "https://a.EXAMPLE.org", true),
            ("example.org", "https://badexample.org", false),
            (".example.org", "https://example.org", false),
            (".example.org", "https://a.b.example.org", true),
            ("*.example.org", "https://a.example.org", true),
            ("example.org:7444", "https://example.org:7444", true),
            ("example.org:7444", "https://example.org", false),
            ("x, 10.0.0.0/8 ,y", "https://10.20.30.40", true),
            ("10.0.0.0/8", "https://11.0.0.1", false),
            ("10.0.0.0/33", "https://10.0.0.1", false),
            ("0.0.0.0/0", "https://11.0.0.1", true),
            ("10.0.0.1", "https://10.0.0.1:1", true),
            ("fd00::/8", "https://[fd12::1]:443", true),
            ("fd00::/8", "https://[fe80::1]", false),
            ("::1", "https://[fe80::1]", false),
            ("[fd00::1]:7444", "https://[fd00::1]:7444", true),
            ("10.0.0.0/8", "https://a.example.org", false),
            ("", "https://localhost:7444", true),
            ("", "https://127.0.0.1:7444", true),
            ("", "https://[::1]:7444", true),
        ] {
            let environment = [("HTTPS_PROXY", "http://p:3128"), ("NO_PROXY", list)];
            assert_eq!(way(&environment, to).is_none(), direct, "{list:?} {to}");
        }
    }
}
