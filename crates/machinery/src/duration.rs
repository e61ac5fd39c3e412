//! Ages as kubectl shows them, and Go's durations as configuration writes them.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};

/// Text that is no duration in Go's form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a duration.
    #[error("invalid duration {0:?}: write it like \"1h30m\", \"15s\" or \"250ms\"")]
    Invalid(String),
    /// A number without a unit.
    #[error("missing unit in duration {0:?}: write it like \"15s\"")]
    MissingUnit(String),
}

/// A span of time in two or three significant figures (apimachinery `HumanDuration`).
pub fn human(span: SignedDuration) -> String {
    const DAYS: i64 = 24;
    const YEARS: i64 = 365 * DAYS;
    let seconds = span.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |major: i64, unit: &str, minor: i64, minor_unit: &str| {
        if minor == 0 { format!("{major}{unit}") } else { format!("{major}{unit}{minor}{minor_unit}") }
    };
    match seconds {
        // Clocks of two machines may differ by so much.
        ..-1 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 8 * DAYS => two(hours / DAYS, "d", hours % DAYS, "h"),
        _ if hours < 2 * YEARS => format!("{}d", hours / DAYS),
        _ if hours < 8 * YEARS => two(hours / YEARS, "y", hours / DAYS % 365, "d"),
        _ => format!("{}y", hours / YEARS),
    }
}

/// How long ago an RFC 3339 time is, as a table cell: `<unknown>` for none, `<invalid>` for one that cannot be read.
pub fn age(time: &str, now: Timestamp) -> String {
    if time.is_empty() {
        return "<unknown>".into();
    }
    time.parse().map_or_else(|_| "<invalid>".into(), |time: Timestamp| human(now.duration_since(time)))
}

/// Reads Go's `time.ParseDuration` form: `1h15m30.5s`, `-1.5h`, `100ms`, `0`.
pub fn parse(text: &str) -> Result<SignedDuration, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, after) = rest.split_at(end);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(DurationError::MissingUnit(text.to_owned())),
            _ => return Err(invalid()),
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        // More digits than these say nothing about nanoseconds.
        let fraction = fraction.get(..18).unwrap_or(fraction);
        let part = match fraction.parse::<i128>() {
            Ok(digits) => digits * scale / 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(18)),
            Err(_) => 0,
        };
        total = whole
            .checked_mul(scale)
            .and_then(|w| w.checked_add(part))
            .and_then(|w| w.checked_add(total))
            .ok_or_else(invalid)?;
        rest = after;
    }
    let nanos = i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())?;
    Ok(SignedDuration::from_nanos(nanos))
}

/// Writes Go's `time.Duration` form, as `metav1.Duration` is stored: `1h0m0s`, `1.5s`, `0s`.
pub fn format(span: SignedDuration) -> String {
    let nanos = span.as_nanos();
    let mut out = String::from(if nanos < 0 { "-" } else { "" });
    let nanos = nanos.unsigned_abs();
    let decimal = |value: u128, digits: u32| {
        let unit = 10_u128.pow(digits);
        let fraction = format!("{:0width$}", value % unit, width = digits as usize);
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() { (value / unit).to_string() } else { format!("{}.{fraction}", value / unit) }
    };
    let seconds = nanos / 1_000_000_000;
    match nanos {
        0 => out.push_str("0s"),
        1..1_000 => {
            let _ = write!(out, "{nanos}ns");
        }
        1_000..1_000_000 => {
            let _ = write!(out, "{}µs", decimal(nanos, 3));
        }
        1_000_000..1_000_000_000 => {
            let _ = write!(out, "{}ms", decimal(nanos, 6));
        }
        _ => {
            if seconds >= 3600 {
                let _ = write!(out, "{}h", seconds / 3600);
            }
            if seconds >= 60 {
                let _ = write!(out, "{}m", seconds / 60 % 60);
            }
            let _ = write!(out, "{}s", decimal(nanos % 60_000_000_000, 9));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ages_read_like_those_of_kubectl() {
        let (minute, hour, day, year) = (60, 3600, 86400, 365 * 86400);
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (10 * minute - 1, "9m59s"),
            (10 * minute, "10m"),
            (3 * hour - 1, "179m"),
            (3 * hour, "3h"),
            (3 * hour + 90, "3h1m"),
            (8 * hour, "8h"),
            (2 * day - 1, "47h"),
            (2 * day, "2d"),
            (2 * day + hour, "2d1h"),
            (8 * day, "8d"),
            (2 * year - 1, "729d"),
            (2 * year, "2y"),
            (2 * year + 3 * day, "2y3d"),
            (8 * year, "8y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human(SignedDuration::from_secs(seconds)), text);
        }
        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        assert_eq!(age("2026-01-01T00:00:00Z", now), "5m");
        assert_eq!(age("2026-01-01T00:04:59.999999Z", now), "0s");
        assert_eq!(age("", now), "<unknown>");
        assert_eq!(age("yesterday", now), "<invalid>");
    }

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        let cases = [
            ("0", 0, "0s"),
            ("5s", 5_000_000_000, "5s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("-1m30.25s", -90_250_000_000, "-1m30.25s"),
            ("100ms", 100_000_000, "100ms"),
            ("1500us", 1_500_000, "1.5ms"),
            ("1.5µs", 1_500, "1.5µs"),
            (".5s", 500_000_000, "500ms"),
            ("+7ns", 7, "7ns"),
            ("1h0m0s", 3_600_000_000_000, "1h0m0s"),
        ];
        for (text, nanos, written) in cases {
            let span = parse(text).unwrap();
            assert_eq!((span.as_nanos(), format(span).as_str()), (nanos, written), "{text}");
        }
        for bad in [
            "",
            "-",
            "s",
            "1",
            "1.",
            ".",
            "1x",
            "1h1",
            "1 s",
            "9999999h",
            "99999999999999999999999999999999999999999s",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn every_duration_reads_back(nanos in any::<i64>(), small in -100_000_000_000_i64..100_000_000_000) {
            for nanos in [nanos, small] {
                let span = SignedDuration::from_nanos(nanos);
                prop_assert_eq!(parse(&format(span)), Ok(span));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "([0-9.]{0,40}(ns|us|µs|ms|s|m|h|x|\\PC)?){0,3}") {
            let _ = parse(&text);
        }
    }
}
