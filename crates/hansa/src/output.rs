//! How answers are printed: tables for people, JSON and YAML for programs, progress on the error stream.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use serde_json::Value;

use crate::cli::Format;

/// Rows under headers; the last `wide` columns show only when asked for.
pub(crate) struct Table {
    pub(crate) headers: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) wide: usize,
}

impl Table {
    pub(crate) fn empty() -> Self {
        Self { headers: Vec::new(), rows: Vec::new(), wide: 0 }
    }
}

/// Prints `value` in the form asked for; `table` and `name` are what people read instead.
pub(crate) fn print(
    format: Format,
    value: &Value,
    name: impl Fn() -> String,
    table: impl Fn() -> Table,
) -> Result<()> {
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(value)?),
        Format::Yaml => yaml(value)?,
        Format::Name => name(),
        Format::Table | Format::Wide => render(&table(), format == Format::Wide, colours(&io::stdout())),
    };
    say(&text)
}

/// Writes to the output stream; somebody who closed it, such as `head`, wanted no more.
pub(crate) fn say(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

pub(crate) fn yaml(value: &Value) -> Result<String> {
    Ok(serde_saphyr::to_string(value)?)
}

/// Colours are for terminals whose owner did not decline (<https://no-color.org>).
fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

fn render(table: &Table, wide: bool, colours: bool) -> String {
    let columns = table.headers.len() - if wide { 0 } else { table.wide };
    let headers: Vec<String> = table.headers.iter().map(|h| (*h).to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&headers).chain(&table.rows).collect();
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (column, width) in widths.iter().enumerate() {
            let cell = &line[column];
            let padding = if column + 1 == columns { 0 } else { width + 3 - cell.chars().count() };
            match cell.as_str() {
                "True" if colours => text.push_str("\x1b[32mTrue\x1b[0m"),
                "False" if colours => text.push_str("\x1b[31mFalse\x1b[0m"),
                _ => text.push_str(cell),
            }
            text.extend(std::iter::repeat_n(' ', padding));
        }
        text.push('\n');
    }
    text
}

/// One line about what is being awaited: rewritten in place on a terminal, a new line a change elsewhere.
pub(crate) struct Progress {
    last: String,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { last: String::new(), terminal: io::stderr().is_terminal() }
    }

    pub(crate) fn set(&mut self, message: &str) {
        if message != self.last {
            let _ = if self.terminal {
                write!(io::stderr(), "\r\x1b[K{message}")
            } else {
                writeln!(io::stderr(), "{message}")
            };
            message.clone_into(&mut self.last);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && !self.last.is_empty() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            headers: vec!["NAME", "READY", "ENDPOINT"],
            rows: vec![
                vec!["host".into(), "True".into(), "https://a".into()],
                vec!["member10".into(), "False".into(), "https://b".into()],
            ],
            wide: 1,
        }
    }

    #[test]
    fn columns_line_up_and_wide_ones_wait_to_be_asked_for() {
        assert_eq!(render(&table(), false, false), "NAME       READY\nhost       True\nmember10   False\n");
        assert!(render(&table(), true, false).contains("member10   False   https://b\n"));
    }

    #[test]
    fn colour_does_not_move_the_columns() {
        let coloured = render(&table(), true, true);
        assert!(coloured.contains("\x1b[32mTrue\x1b[0m    https://a"));
        assert!(coloured.contains("\x1b[31mFalse\x1b[0m   https://b"));
    }
}
