//! The difference of two texts, as `diff -u` shows it.

/// Lines before and after a change that are shown with it.
const CONTEXT: usize = 3;
/// Above this many pairs of lines no common lines are looked for.
const LIMIT: usize = 25_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    New(&'a str),
}

/// A unified diff; empty if the texts are the same.
pub fn unified(before: &str, after: &str, names: [&str; 2]) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    if old == new {
        return String::new();
    }
    let lines = compare(&old, &new);
    let changed = |line: &Line<'_>| !matches!(line, Line::Same(_));
    let mut text = format!("--- {}\n+++ {}\n", names[0], names[1]);
    let (mut at, mut from, mut to) = (0, 1, 1);
    while let Some(first) = lines[at..].iter().position(changed).map(|offset| at + offset) {
        let start = first.saturating_sub(CONTEXT).max(at);
        let mut end = first;
        // Changes that are near to each other share a hunk.
        while let Some(next) = lines[end..].iter().take(2 * CONTEXT + 1).position(changed) {
            end += next + 1;
        }
        let end = (end + CONTEXT).min(lines.len());
        for line in &lines[at..start] {
            advance(line, &mut from, &mut to);
        }
        let hunk = &lines[start..end];
        let olds = hunk.iter().filter(|line| !matches!(line, Line::New(_))).count();
        let news = hunk.iter().filter(|line| !matches!(line, Line::Gone(_))).count();
        let place = |line: usize, count: usize| match count {
            0 => format!("{},0", line - 1),
            1 => line.to_string(),
            count => format!("{line},{count}"),
        };
        text += &format!("@@ -{} +{} @@\n", place(from, olds), place(to, news));
        for line in hunk {
            let (mark, content) = match line {
                Line::Same(content) => (' ', content),
                Line::Gone(content) => ('-', content),
                Line::New(content) => ('+', content),
            };
            text.push(mark);
            text += content;
            text.push('\n');
            advance(line, &mut from, &mut to);
        }
        at = end;
    }
    text
}

fn advance(line: &Line<'_>, from: &mut usize, to: &mut usize) {
    *from += usize::from(!matches!(line, Line::New(_)));
    *to += usize::from(!matches!(line, Line::Gone(_)));
}

/// Both texts as one list, by their longest common subsequence.
fn compare<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_mid, new_mid) = (&old_rest[..old_rest.len() - tail], &new_rest[..new_rest.len() - tail]);
    let mut lines: Vec<Line<'a>> = old[..head].iter().map(|line| Line::Same(line)).collect();
    if old_mid.len().saturating_mul(new_mid.len()) > LIMIT {
        lines.extend(old_mid.iter().map(|line| Line::Gone(line)));
        lines.extend(new_mid.iter().map(|line| Line::New(line)));
    } else {
        common(old_mid, new_mid, &mut lines);
    }
    lines.extend(old_rest[old_mid.len()..].iter().map(|line| Line::Same(line)));
    lines
}

fn common<'a>(old: &[&'a str], new: &[&'a str], lines: &mut Vec<Line<'a>>) {
    let width = new.len() + 1;
    // lengths[i * width + j]: of the longest common subsequence of old[i..] and new[j..].
    let mut lengths = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i * width + j] = if old[i] == new[j] {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(Line::Same(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len()
            || (i < old.len() && lengths[(i + 1) * width + j] >= lengths[i * width + j + 1])
        {
            lines.push(Line::Gone(old[i]));
            i += 1;
        } else {
            lines.push(Line::New(new[j]));
            j += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn diff(before: &str, after: &str) -> String {
        unified(before, after, ["a", "b"])
    }

    #[test]
    fn the_same_text_has_no_difference() {
        assert_eq!(diff("a\nb\n", "a\nb\n"), "");
    }

    #[test]
    fn a_change_is_shown_with_three_lines_around_it() {
        let text = |middle: &str| format!("1\n2\n3\n4\n{middle}\n6\n7\n8\n9\n");
        let expected = "--- a\n+++ b\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n";
        assert_eq!(diff(&text("5"), &text("five")), expected);
    }

    #[test]
    fn what_is_new_or_gone_as_a_whole_is_counted_as_diff_does() {
        assert_eq!(diff("", "x\ny\n"), "--- a\n+++ b\n@@ -0,0 +1,2 @@\n+x\n+y\n");
        assert_eq!(diff("x\n", ""), "--- a\n+++ b\n@@ -1 +0,0 @@\n-x\n");
    }

    #[test]
    fn changes_far_from_each_other_have_hunks_of_their_own() {
        let numbers = |skip: [u32; 2]| {
            (1..30).filter(|n| !skip.contains(n)).map(|n| format!("{n}\n")).collect::<String>()
        };
        assert_eq!(diff(&numbers([0, 0]), &numbers([5, 20])).matches("@@ -").count(), 2);
        assert_eq!(diff(&numbers([0, 0]), &numbers([5, 9])).matches("@@ -").count(), 1);
    }

    /// Applies a unified diff, as `patch` does.
    fn patched(before: &str, diff: &str) -> String {
        let old: Vec<&str> = before.lines().collect();
        let (mut out, mut at) = (Vec::new(), 0);
        for line in diff.lines().skip(2) {
            if let Some(place) = line.strip_prefix("@@ -") {
                let (start, count) = place
                    .split_once(' ')
                    .unwrap()
                    .0
                    .split_once(',')
                    .unwrap_or((place.split_once(' ').unwrap().0, "1"));
                let start: usize = start.parse().unwrap();
                let start = if count == "0" { start } else { start - 1 };
                out.extend(&old[at..start]);
                at = start;
                continue;
            }
            match line.split_at(1) {
                (" ", rest) => {
                    assert_eq!(old[at], rest);
                    out.push(rest);
                    at += 1;
                }
                ("-", rest) => {
                    assert_eq!(old[at], rest);
                    at += 1;
                }
                (_, rest) => out.push(rest),
            }
        }
        out.extend(&old[at.min(old.len())..]);
        out.iter().map(|line| format!("{line}\n")).collect()
    }

    proptest! {
        #[test]
        fn a_diff_turns_the_one_text_into_the_other(before in "([a-d]\n){0,24}", after in "([a-d]\n){0,24}") {
            prop_assert_eq!(patched(&before, &diff(&before, &after)), after);
        }
    }
}
