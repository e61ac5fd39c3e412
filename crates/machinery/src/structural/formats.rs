//! The string formats a CRD may ask for, each as `k8s.io/kube-openapi/pkg/validation/strfmt` understands it.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::LazyLock,
};

use regex::Regex;

/// Says whether a text has a format.
pub(super) type Check = fn(&str) -> bool;

/// The check of `format`; `None` for a format Kubernetes ignores. Dashes in the name do not count.
pub(super) fn named(format: &str) -> Option<Check> {
    Some(match format.replace('-', "").as_str() {
        "bsonobjectid" => |s| s.len() == 24 && s.bytes().all(|b| b.is_ascii_hexdigit()),
        "uri" => is_request_uri,
        "email" => is_email,
        "hostname" => is_hostname,
        "ipv4" => |s| s.contains('.') && parse_ip(s).is_some(),
        "ipv6" => |s| s.contains(':') && s.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr,
        "mac" => is_mac,
        "uuid" => |s| is_uuid(s, None, false),
        "uuid3" => |s| is_uuid(s, Some(b'3'), false),
        "uuid4" => |s| is_uuid(s, Some(b'4'), true),
        "uuid5" => |s| is_uuid(s, Some(b'5'), true),
        "isbn" => |s| is_isbn10(s) || is_isbn13(s),
        "isbn10" => is_isbn10,
        "isbn13" => is_isbn13,
        "creditcard" => is_credit_card,
        "ssn" => |s| s.len() == 11 && SSN.is_match(s),
        "hexcolor" => |s| HEX_COLOR.is_match(s),
        "rgbcolor" => |s| RGB_COLOR.is_match(s),
        "byte" => |s| BASE64.is_match(s),
        "password" => |_| true,
        "date" => is_date,
        "duration" => is_duration,
        "datetime" => is_date_time,
        "k8sshortname" => |s| s.len() <= 63 && is_short_name(s),
        "k8slongname" => |s| s.len() <= 253 && s.split('.').all(is_short_name),
        _ => return None,
    })
}

macro_rules! patterns {
    ($($name:ident = $pattern:expr;)*) => {$(
        // A constant of the program, compiled by a test.
        #[allow(clippy::expect_used)]
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("a constant pattern"));
    )*};
}

patterns! {
    SSN = r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$";
    HEX_COLOR = r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = concat!(
        r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,",
        r"\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,",
        r"\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*\)$",
    );
    BASE64 = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$";
    CREDIT_CARD = concat!(
        r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}",
        r"|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$",
    );
    HOSTNAME = concat!(
        r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)",
        r"|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$",
    );
    TIME = r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$";
    GO_DURATION = r"^[-+]?(0|((([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(ns|us|µs|μs|ms|s|m|h))+)$";
    LOOSE_DURATION = r"[0-9]+\s*([A-Za-zµ]+)";
    SCHEME = r"^[A-Za-z][A-Za-z0-9+.-]*:";
}

/// Go's `url.ParseRequestURI`: an absolute URI or an absolute path.
fn is_request_uri(text: &str) -> bool {
    if text.is_empty() || text.chars().any(char::is_control) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let rest = match SCHEME.find(text) {
        Some(scheme) => &text[scheme.end()..],
        None if text.starts_with('/') => text,
        None => return false,
    };
    let path = rest.split('?').next().unwrap_or_default();
    let Some(authority) = path.strip_prefix("//") else { return has_valid_escapes(path) };
    let (host, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    let port =
        if host.starts_with('[') { host.split(']').nth(1) } else { host.find(':').map(|at| &host[at..]) };
    let bad_port = port.is_some_and(|p| {
        !p.is_empty() && !p.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
    });
    !bad_port
        && !host.contains([' ', '<', '>', '"', '\\', '^', '`', '{', '}', '|'])
        && has_valid_escapes(path)
}

fn has_valid_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let mut bytes = after.bytes();
        (0..2).all(|_| bytes.next().is_some_and(|b| b.is_ascii_hexdigit()))
    })
}

/// Go's `mail.ParseAddress`: `local@domain`, or that in angle brackets after a name.
fn is_email(text: &str) -> bool {
    let text = text.trim();
    let address = match text.strip_suffix('>') {
        Some(inner) => match inner.rsplit_once('<') {
            Some((_, address)) => address,
            None => return false,
        },
        None => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let is_atom = |s: &str| {
        let special = |c: char| c.is_control() || c.is_whitespace() || "()<>[]:;@\\,\"".contains(c);
        !s.is_empty() && s.split('.').all(|part| !part.is_empty() && !part.contains(special))
    };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']'));
    (quoted || is_atom(local)) && literal.map_or_else(|| is_atom(domain), |d| parse_ip(d).is_some())
}

fn is_hostname(text: &str) -> bool {
    text.len() <= 255 && text.split('.').all(|part| part.len() <= 63) && HOSTNAME.is_match(text)
}

/// An IP address whose IPv4 parts may have leading zeros, as before Go 1.17.
fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let parts: Vec<u8> = text
        .split('.')
        .map(|part| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten())
        .collect::<Option<_>>()?;
    Some(IpAddr::from(<[u8; 4]>::try_from(parts).ok()?))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match parse_ip(address) {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
        None => return false,
    };
    length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u16>().is_ok_and(|length| length <= most)
}

/// 6, 8 or 20 bytes in pairs (`:` or `-`) or in fours (`.`).
fn is_mac(text: &str) -> bool {
    let Some(separator) = text.chars().find(|c| !c.is_ascii_hexdigit()) else { return false };
    let width = match separator {
        ':' | '-' => 2,
        '.' => 4,
        _ => return false,
    };
    let groups: Vec<&str> = text.split(separator).collect();
    let well_formed = groups.iter().all(|g| g.len() == width && g.bytes().all(|b| b.is_ascii_hexdigit()));
    well_formed && [6, 8, 20].contains(&(groups.len() * width / 2))
}

fn is_uuid(text: &str, version: Option<u8>, rfc_variant: bool) -> bool {
    let mut digits = Vec::with_capacity(32);
    for byte in text.bytes() {
        match byte {
            // A dash may stand between groups only, once each.
            b'-' if [8, 12, 16, 20].contains(&digits.len()) && digits.last() != Some(&b'-') => {}
            b if b.is_ascii_hexdigit() && digits.len() < 32 => digits.push(b.to_ascii_lowercase()),
            _ => return false,
        }
    }
    digits.len() == 32
        && !text.contains("--")
        && version.is_none_or(|v| digits[12] == v)
        && (!rfc_variant || b"89ab".contains(&digits[16]))
}

fn isbn_digits(text: &str) -> Vec<u32> {
    let kept = text.chars().filter(|c| !c.is_ascii_whitespace() && *c != '-');
    kept.map(|c| if c == 'X' { 10 } else { c.to_digit(10).unwrap_or(99) }).collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = isbn_digits(text);
    let shape = digits.len() == 10 && digits[..9].iter().all(|d| *d < 10) && digits[9] <= 10;
    shape && digits.iter().zip(1..).map(|(digit, weight)| digit * weight).sum::<u32>() % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let digits = isbn_digits(text);
    let shape = digits.len() == 13 && digits.iter().all(|d| *d < 10);
    shape
        && digits.iter().zip([1, 3].into_iter().cycle()).map(|(digit, weight)| digit * weight).sum::<u32>()
            % 10
            == 0
}

fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let doubled = |(index, digit): (usize, u32)| match digit * 2 {
        _ if index % 2 == 0 => digit,
        twice if twice >= 10 => twice - 9,
        twice => twice,
    };
    let values = digits.chars().rev().filter_map(|c| c.to_digit(10)).enumerate();
    CREDIT_CARD.is_match(&digits) && values.map(doubled).sum::<u32>() % 10 == 0
}

fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 10
        && bytes
            .iter()
            .enumerate()
            .all(|(i, b)| if i == 4 || i == 7 { *b == b'-' } else { b.is_ascii_digit() })
        && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    is_date(date) && TIME.captures(time).is_some_and(|m| &m[1] <= "23" && &m[2] <= "59" && &m[3] <= "59")
}

/// Go's duration, or numbers with spelled-out units somewhere in the text.
fn is_duration(text: &str) -> bool {
    const SHORT: [&str; 12] = ["ns", "us", "µs", "ms", "s", "m", "h", "d", "w", "wk", "hr", "nano"];
    const LONG: [&str; 8] =
        ["nanosecond", "microsecond", "millisecond", "second", "minute", "hour", "day", "week"];
    GO_DURATION.is_match(text)
        || LOOSE_DURATION.captures_iter(text).any(|found| {
            let unit = found[1].to_lowercase();
            SHORT.contains(&unit.as_str())
                || ["micro", "milli", "sec", "min"].contains(&unit.as_str())
                || LONG.iter().any(|long| unit.starts_with(long))
        })
}

fn is_short_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_and_refuse_what_kubernetes_does() {
        let table: &[(&str, &[&str], &[&str])] = &[
            (
                "uri",
                &["http://a.b/c?d=%20", "/path", "mailto:x", "https://[::1]:80/"],
                &["", "a/b", "http://a:b/", "/%zz"],
            ),
            ("email", &["a@b.c", "Jo <jo@x.y>", "\"a b\"@c"], &["a", "a@", "@b", "a b@c", "a@b..c"]),
            ("hostname", &["a", "a.example", "1and1.com"], &["", "-a", "a_b", "a.b."]),
            ("ipv4", &["1.2.3.4", "01.02.03.04"], &["1.2.3", "256.1.1.1", "::1"]),
            ("ipv6", &["::1", "fe80::1"], &["1.2.3.4", "::1%eth0"]),
            ("cidr", &["10.0.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33", "x/8", "1.1.1.1/+8"]),
            (
                "mac",
                &["01:23:45:67:89:ab", "0123.4567.89ab", "01-23-45-67-89-ab-cd-ef"],
                &["0123456789ab", "01:23"],
            ),
            (
                "uuid",
                &["123e4567-e89b-12d3-a456-426614174000", "123E4567e89b12d3a456426614174000"],
                &["123", "-123e4567e89b12d3a456426614174000"],
            ),
            ("uuid4", &["123e4567-e89b-42d3-a456-426614174000"], &["123e4567-e89b-12d3-a456-426614174000"]),
            ("isbn", &["0321751043", "978-0321751041"], &["0321751044", "abc"]),
            ("creditcard", &["4111-1111-1111-1111"], &["4111-1111-1111-1112"]),
            ("ssn", &["123-45-6789"], &["123456789"]),
            ("hexcolor", &["#fff", "ABCDEF"], &["#ffff"]),
            ("rgbcolor", &["rgb(0, 255,1)"], &["rgb(0,256,1)"]),
            ("byte", &["aGk="], &["", "aGk", "a?k="]),
            ("date", &["2024-02-29"], &["2023-02-29", "2024-2-9", "20240229"]),
            (
                "date-time",
                &["2024-02-29T12:00:00Z", "2024-02-29t12:00:00.5+01:00"],
                &["2024-02-29", "2024-02-29T24:00:00Z", "2024-02-29T12:00:00"],
            ),
            ("duration", &["1h30m", "-1.5s", "0", "22 ns", "3 weeks"], &["", "1", "h"]),
            ("k8s-short-name", &["a-1"], &["A", "-a", ""]),
            ("k8s-long-name", &["a.b-c.d"], &["a..b", "a.B"]),
            ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f"]),
        ];
        for (format, good, bad) in table {
            let check = named(format).unwrap();
            good.iter().for_each(|text| assert!(check(text), "{format} accepts {text:?}"));
            bad.iter().for_each(|text| assert!(!check(text), "{format} refuses {text:?}"));
        }
        assert!(named("made-up").is_none());
    }
}
