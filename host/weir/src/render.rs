//! Writing results: tables for people, JSON for programs, on standard output; everything else on
//! standard error.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::{Color, Format, Global};
use crate::patience;

/// How to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) quiet: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Self { format: global.output, quiet: global.quiet }
    }

    /// Writes a result: JSON as it is, or what `text` makes of it.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub(crate) fn result<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        let mut text = match self.format {
            Format::Json => serde_json::to_string_pretty(value)?,
            Format::Table => plain(&text(value)).into_owned(),
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        print(text.as_bytes())
    }

    /// Writes what came of a change; with `-q` only the exit status says it, unless JSON is asked
    /// for.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub(crate) fn outcome<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        if self.quiet && self.format == Format::Table {
            return Ok(());
        }
        self.result(value, text)
    }

    /// Says what was done, when nothing else is the result. In JSON, and with `-q`, silence says
    /// it.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub(crate) fn done(&self, text: &str) -> Result<()> {
        if self.quiet || self.format == Format::Json {
            return Ok(());
        }
        print(format!("{}\n", plain(text)).as_bytes())
    }

    /// Shows that something takes its time, on a terminal only, until the answer is dropped.
    pub(crate) fn wait(&self, message: impl Into<String>) -> Waiting {
        if self.quiet || !io::stderr().is_terminal() {
            return Waiting(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner().with_message(message.into());
        bar.set_style(
            ProgressStyle::with_template("{spinner} {msg} {elapsed}")
                .expect("the template is right"),
        );
        bar.enable_steady_tick(Duration::from_millis(100));
        Waiting(bar)
    }
}

/// Cleared when dropped.
pub(crate) struct Waiting(ProgressBar);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A text in which nothing moves a cursor or colours a terminal: what hosts tell comes from authors
/// of functions, too.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(commands) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if commands(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Writes to standard output.
///
/// # Errors
/// When that does not take it.
pub(crate) fn print(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// How long an error is waited for that whoever reads standard error does not take.
const LAST: Duration = Duration::from_secs(5);

/// Says on standard error why it failed.
pub(crate) fn complain(error: &anyhow::Error, color: Color) {
    let colored = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        }
    };
    let (on, off) = if colored { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    let text = format!("{on}error:{off} {}\n", plain(&causes(error)));
    // Nobody is left to be told when this fails.
    patience::within(LAST, move || drop(io::stderr().write_all(text.as_bytes())));
}

/// An error with its causes; many say what their cause said, which is not said twice.
fn causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// A table without lines, in the manner of kubectl; columns whose names begin with `#` are numbers.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.map(|name| Cell::new(name.trim_start_matches('#').to_uppercase())));
    for row in rows {
        table.add_row(row);
    }
    for (index, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if name.starts_with('#') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A time in its two largest units.
pub(crate) fn age(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let largest = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(3);
    let mut text = String::new();
    let mut rest = seconds;
    for (unit, name) in units.iter().skip(largest).take(2) {
        if rest / unit > 0 || text.is_empty() {
            let gap = if text.is_empty() { "" } else { " " };
            text.push_str(&format!("{gap}{}{name}", rest / unit));
        }
        rest %= unit;
    }
    text
}

/// Keys and values, one a line.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
    let line = |(key, value): &(&str, String)| {
        format!("{:width$}  {value}\n", format!("{key}:")).trim_end().to_owned() + "\n"
    };
    facts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_have_no_trailing_spaces() {
        let rows = [["fw".to_owned(), "7".to_owned()], ["ratelimit".to_owned(), "12".to_owned()]];
        assert_eq!(
            table(["name", "#packets"], rows),
            "NAME       PACKETS\nfw               7\nratelimit       12\n"
        );
        assert_eq!(table(["name"], []), "NAME\n");
    }

    #[test]
    fn what_is_shown_commands_no_terminal() {
        assert_eq!(plain("two\nlines\tand \u{e4}"), "two\nlines\tand \u{e4}");
        assert_eq!(plain("a\x1b[2Jb\r\u{9b}"), "a\\u{1b}[2Jb\\u{d}\\u{9b}");
    }

    #[test]
    fn causes_are_said_once() {
        let cause = io::Error::from(io::ErrorKind::NotFound);
        let text = cause.to_string();
        let plain = anyhow::Error::new(cause).context("reading x");
        assert_eq!(causes(&plain), format!("reading x: {text}"));
        let said = anyhow::anyhow!(text.clone()).context(format!("x: {text} (make it)"));
        assert_eq!(causes(&said), format!("x: {text} (make it)"));
    }

    #[test]
    fn ages_are_short() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (3725, "1h 2m"), (86_400 * 3 + 59, "3d")]
        {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn facts_are_aligned() {
        let text = facts(&[("name", "fw".into()), ("versions", String::new())]);
        assert_eq!(text, "name:      fw\nversions:\n");
    }
}
