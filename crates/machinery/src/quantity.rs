//! Resource quantities: `250m`, `1.5Gi`, `12e6` (apimachinery `resource.Quantity`).

use std::{cmp::Ordering, fmt};

use serde_json::Value;

/// Units of the smallest amount, one nano.
const ONE: i128 = 1_000_000_000;

/// Why text is not a quantity, in the words of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The form is wrong.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is wrong, or larger than any resource.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is none.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// How a quantity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `12M`.
    Decimal,
    /// `12Mi`.
    Binary,
    /// `12e6`.
    Exponent,
}

/// A fixed-point number with the suffix style it was written in. Comparison is by amount alone.
#[derive(Clone, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
    /// The text as given, where Kubernetes keeps it because it takes it for canonical.
    text: Option<String>,
}

impl Quantity {
    /// So many whole units.
    pub fn new(units: i64, format: Format) -> Self {
        Self { nanos: i128::from(units) * ONE, format, text: None }
    }

    /// So many thousandths.
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (ONE / 1000), format: Format::Decimal, text: None }
    }

    /// Reads a quantity as JSON carries it: a string or a bare number.
    pub fn from_value(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => text.trim().parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError::Format),
        }
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The amount in whole units, rounded away from zero.
    pub fn as_units(&self) -> i128 {
        round_away(self.nanos, ONE)
    }

    /// The amount in thousandths, rounded away from zero.
    pub fn as_millis(&self) -> i128 {
        round_away(self.nanos, ONE / 1000)
    }

    /// The amount as a float, for shares and ratios.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / ONE as f64
    }

    /// Whether the amount is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether the amount is below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// The sum, in the format of `self` unless that is zero; [`None`] if it is out of range.
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        let format = if self.is_zero() { other.format } else { self.format };
        Some(Self { nanos: self.nanos.checked_add(other.nanos)?, format, text: None })
    }

    /// The difference, in the format of `self` unless that is zero; [`None`] if it is out of range.
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        let format = if self.is_zero() { other.format } else { self.format };
        Some(Self { nanos: self.nanos.checked_sub(other.nanos)?, format, text: None })
    }
}

fn round_away(value: i128, unit: i128) -> i128 {
    value / unit + (value % unit).signum()
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// What a suffix multiplies with: 10 or 2 to a power.
fn suffix(text: &str) -> Option<(Format, i32)> {
    const DECIMAL: &[(&str, i32)] = &[
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    const BINARY: &[(&str, i32)] = &[("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
    let find = |table: &[(&str, i32)]| table.iter().find(|(name, _)| *name == text).map(|(_, power)| *power);
    if let Some(power) = find(DECIMAL) {
        return Some((Format::Decimal, power));
    }
    if let Some(power) = find(BINARY) {
        return Some((Format::Binary, power));
    }
    let exponent = text.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((Format::Exponent, exponent))
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let digits_end = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        // As in Kubernetes, a sign or suffix without digits is zero.
        let (whole, rest) = unsigned.split_at(digits_end(unsigned));
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits_end(rest)),
            None => ("", rest),
        };
        let letters = rest.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
        let exponent = letters.strip_prefix(['-', '+']).unwrap_or(letters);
        if !exponent.chars().all(|c| c.is_ascii_digit()) || text.is_empty() {
            return Err(QuantityError::Format);
        }
        let (mut format, power) = suffix(rest).ok_or(QuantityError::Suffix)?;

        let whole = whole.trim_start_matches('0');
        let places = i32::try_from(fraction.len()).map_err(|_| QuantityError::Numeric)?;
        let digits = format!("{whole}{fraction}");
        let nanos = match format {
            Format::Binary => {
                let scaled = nanos(&digits, 9 - places, 1_i128 << power)?;
                // Kubernetes caps here and here only.
                scaled.min(i128::from(i64::MAX) * ONE)
            }
            _ => nanos(&digits, power.saturating_sub(places).saturating_add(9), 1)?,
        };
        if format == Format::Binary && nanos > 0 && nanos < ONE {
            format = Format::Decimal;
        }
        let kept = is_kept(whole, fraction, format, power).then(|| text.to_owned());
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format, text: kept })
    }
}

/// `digits` × `factor` × 10^`scale`, rounded up.
fn nanos(digits: &str, scale: i32, factor: i128) -> Result<i128, QuantityError> {
    let number = |digits: &str| -> Result<i128, QuantityError> {
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() { Ok(0) } else { digits.parse().map_err(|_| QuantityError::Numeric) }
    };
    let power = |scale: u32| 10_i128.checked_pow(scale).ok_or(QuantityError::Numeric);
    let nonzero = digits.contains(|c| c != '0');
    if !nonzero {
        return Ok(0);
    }
    let places = scale.unsigned_abs();
    if scale >= 0 {
        return number(digits)?
            .checked_mul(factor)
            .and_then(|value| value.checked_mul(power(places).ok()?))
            .ok_or(QuantityError::Numeric);
    }
    // Digits far beyond a nano only decide whether to round up.
    let spare = (places as usize).saturating_sub(18).min(digits.len());
    let (kept, rest) = digits.split_at(digits.len() - spare);
    let places = places - u32::try_from(spare).map_err(|_| QuantityError::Numeric)?;
    if places > 37 {
        return Ok(1);
    }
    let value = number(kept)?.checked_mul(factor).ok_or(QuantityError::Numeric)?;
    let exact = !rest.contains(|c| c != '0');
    let (quotient, remainder) = (value / power(places)?, value % power(places)?);
    Ok(quotient + i128::from(remainder != 0 || !exact))
}

/// Whether Kubernetes writes the text back as it came: its fast path takes such numbers for canonical, even those with
/// a needless fraction (`1.500`).
fn is_kept(whole: &str, fraction: &str, format: Format, power: i32) -> bool {
    let whole = if whole.is_empty() { "0" } else { whole };
    let digits = format!("{whole}{fraction}");
    let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    match format {
        Format::Binary => {
            let room = 15 - length - power * 3 / 10 - 1;
            let odd = digits.parse::<i64>().is_ok_and(|value| value & 7 != 0);
            fraction.is_empty() && room >= 0 && odd
        }
        _ => {
            let scale = power.saturating_sub(i32::try_from(fraction.len()).unwrap_or(i32::MAX));
            length <= 18
                && scale >= -9
                && scale % 3 == 0
                && !digits.ends_with("000")
                && !digits.starts_with('0')
        }
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that loses nothing.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return out.write_str(text);
        }
        if self.nanos == 0 {
            return out.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * ONE;
        if self.format == Format::Binary && !small && self.nanos % ONE == 0 {
            const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let (mut value, mut index) = (self.nanos / ONE, 0);
            while value % 1024 == 0 && index + 1 < SUFFIXES.len() {
                (value, index) = (value / 1024, index + 1);
            }
            return write!(out, "{value}{}", SUFFIXES[index]);
        }
        let (mut value, mut power) = (self.nanos, -9);
        while value % 1000 == 0 && (power < 18 || self.format == Format::Exponent) {
            (value, power) = (value / 1000, power + 3);
        }
        match (self.format, power) {
            (Format::Exponent, 0) => write!(out, "{value}"),
            (Format::Exponent, power) => write!(out, "{value}e{power}"),
            (_, power) => {
                const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
                let index = usize::try_from(power / 3 + 3).unwrap_or_default();
                write!(out, "{value}{}", SUFFIXES.get(index).unwrap_or(&""))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn quantities_are_written_in_canonical_form() {
        let cases = [
            ("0", "0"),
            ("0Ki", "0"),
            ("1", "1"),
            ("1.5", "1500m"),
            ("0.1m", "100u"),
            ("0.1n", "1n"),
            ("1.0000000001", "1000000001n"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("100m", "100m"),
            ("2048Ki", "2Mi"),
            ("1.5Gi", "1536Mi"),
            ("1Gi", "1Gi"),
            ("0.5Ki", "512"),
            ("0.5Mi", "512Ki"),
            ("0.3Ki", "307200m"),
            ("16Ei", "9223372036854775807"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("1000000", "1M"),
            ("1500000", "1500k"),
            ("12e6", "12e6"),
            ("1e3", "1e3"),
            ("1e1", "10"),
            ("12000e6", "12e9"),
            ("1E", "1E"),
            ("-1.5", "-1500m"),
            ("-2048Ki", "-2Mi"),
            ("1.500", "1.500"),
            (".5", "500m"),
            ("5.", "5."),
            ("007", "007"),
            ("-", "0"),
            ("Gi", "0"),
        ];
        for (text, canonical) in cases {
            assert_eq!(q(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn amounts_are_compared_across_formats() {
        assert_eq!(q("1024Mi"), q("1Gi"));
        assert_eq!(q("1000m"), q("1"));
        assert!(q("999M") < q("1Gi") && q("-1") < q("0") && q("1e3") > q("999"));
        assert_eq!((q("1500m").as_units(), q("1500m").as_millis(), q("1n").as_millis()), (2, 1500, 1));
        assert_eq!((q("-1500m").as_units(), q("-1n").as_units()), (-2, -1));
        assert_eq!(q("1Gi").checked_add(&q("1Gi")).unwrap().to_string(), "2Gi");
        assert_eq!(q("1").checked_sub(&q("250m")).unwrap().to_string(), "750m");
        assert_eq!(Quantity::from_value(&serde_json::json!(0.5)).unwrap().to_string(), "500m");
        assert_eq!(Quantity::from_value(&serde_json::json!(2)).unwrap().to_string(), "2");
        assert_eq!(Quantity::from_millis(1500).to_string(), "1500m");
        assert_eq!(Quantity::new(3, Format::Binary).to_string(), "3");
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1,5", QuantityError::Format),
            ("1Gb", QuantityError::Format),
            ("1i", QuantityError::Suffix),
            ("1KI", QuantityError::Format),
            ("1e", QuantityError::Suffix),
            ("1mm", QuantityError::Suffix),
            ("1e99999", QuantityError::Numeric),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_canonical_form_reads_back(text in "[-+]?[0-9]{0,14}(\\.[0-9]{0,14})?(n|u|m||k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[-+]?[0-9]{1,2})") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                let written = quantity.to_string();
                let again: Quantity = written.parse().unwrap_or_else(|e| panic!("{text} -> {written}: {e}"));
                prop_assert_eq!(&again, &quantity);
                let forced = Quantity { text: None, ..quantity.clone() }.to_string();
                prop_assert_eq!(&forced.parse::<Quantity>().unwrap_or_else(|e| panic!("{text} -> {forced}: {e}")), &quantity);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,12}|[-+0-9.eEinumkKMGTP]{0,60}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
