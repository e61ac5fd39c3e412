//! Regular expressions written for Go.

use regex::{Regex, RegexBuilder};

/// Compiles a pattern written for Go's `regexp`.
pub(crate) fn compile_pattern(pattern: &str) -> Result<Regex, String> {
    // The limit keeps a schema from taking the server's memory; Go bounds repetition instead.
    RegexBuilder::new(&from_go(pattern)).size_limit(1 << 20).build().map_err(|error| error.to_string())
}

/// Rewrites what Go's regular expressions and those of the `regex` crate understand differently: `[` and set operators
/// inside a class are literal in Go, a `{` that counts nothing is literal, and `\d`, `\w`, `\s`, `\b` mean ASCII.
fn from_go(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.char_indices().peekable();
    let (mut in_class, mut class_start) = (false, false);
    while let Some((at, c)) = chars.next() {
        let rest = &pattern[at..];
        let starts_class = std::mem::take(&mut class_start);
        match c {
            '\\' => {
                let Some((_, escaped)) = chars.next() else {
                    out.push('\\');
                    break;
                };
                match (escaped, in_class) {
                    ('d', true) => out.push_str("0-9"),
                    ('w', true) => out.push_str("0-9A-Za-z_"),
                    ('s', true) => out.push_str(r"\t\n\f\r "),
                    ('d', false) => out.push_str("[0-9]"),
                    ('w', false) => out.push_str("[0-9A-Za-z_]"),
                    ('s', false) => out.push_str(r"[\t\n\f\r ]"),
                    ('D', _) => out.push_str("[^0-9]"),
                    ('W', _) => out.push_str("[^0-9A-Za-z_]"),
                    ('S', _) => out.push_str(r"[^\t\n\f\r ]"),
                    ('b', false) => out.push_str(r"(?-u:\b)"),
                    (other, _) => out.extend(['\\', other]),
                }
            }
            '[' if !in_class => {
                (in_class, class_start) = (true, true);
                out.push('[');
                if let Some((_, '^')) = chars.peek() {
                    chars.next();
                    out.push('^');
                }
            }
            ']' if in_class && !starts_class => {
                in_class = false;
                out.push(']');
            }
            ']' if in_class => out.push_str(r"\]"),
            '[' if rest.starts_with("[:") && rest.contains(":]") => {
                let end = rest.find(":]").map_or(rest.len(), |end| end + 2);
                out.push_str(&rest[..end]);
                while chars.next_if(|(next, _)| *next < at + end).is_some() {}
            }
            '[' | '&' | '~' if in_class => out.extend(['\\', c]),
            '-' if in_class && rest.starts_with("--") => out.push_str(r"\-"),
            '{' if !in_class && !counts(rest) => out.push_str(r"\{"),
            _ => out.push(c),
        }
    }
    out
}

/// Whether a text starts with `{n}`, `{n,}` or `{n,m}`.
fn counts(text: &str) -> bool {
    let Some((inner, _)) = text[1..].split_once('}') else { return false };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    match inner.split_once(',') {
        Some((least, most)) => !least.is_empty() && digits(least) && digits(most),
        None => !inner.is_empty() && digits(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, yes, no) in [
            (r"^\d+$", "12", "١٢"),
            (r"^[\w-]+$", "a-b", "ä"),
            (r"^[[]$", "[", "]"),
            (r"^[]]$", "]", "["),
            (r"^[^]]$", "[", "]"),
            (r"^{a}$", "{a}", "a"),
            (r"^a{2}$", "aa", "a"),
            (r"^[a&&b]$", "&", "c"),
            (r"^[[:alpha:]\s]+$", "a b", "1"),
            (r"^\D$", "a", "1"),
            (r"^a\/b$", "a/b", "ab"),
        ] {
            let regex = compile_pattern(pattern).unwrap();
            assert!(regex.is_match(yes), "{pattern} {yes}");
            assert!(!regex.is_match(no), "{pattern} {no}");
        }
        assert!(compile_pattern("(").is_err());
    }
}
