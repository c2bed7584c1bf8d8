//! Reading a TOML file into a model, and saying where in the file something is wrong, in the manner
//! of rustc.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::PortKind;
use crate::invalid::{Check, Invalid, Segment, among, explain};

/// A model with the file it was read from.
#[derive(Clone, Debug)]
pub struct Document<T> {
    /// What the file says.
    pub value: T,
    file: String,
    text: String,
}

/// What is wrong with a file, and where. Reads as [`Problem`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DocumentError(Box<Problem>);

impl std::ops::Deref for DocumentError {
    type Target = Problem;

    fn deref(&self) -> &Problem {
        &self.0
    }
}

/// What a [`DocumentError`] consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// What is wrong.
    pub message: String,
    /// What is allowed, or what to do.
    pub help: Option<String>,
    /// Line from 1; 0 when the file could not be read.
    pub line: usize,
    /// Column from 1, in characters.
    pub column: usize,
    /// The key, such as `function[0].version`; empty for the whole file.
    pub key: String,
    /// The line's text, or of a long one what is around the place.
    source_line: String,
    /// Characters of that before what is underlined.
    indent: usize,
    /// Characters to underline.
    width: usize,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.line == 0 {
            write!(f, "\n --> {}", self.file)?;
        } else {
            let number = self.line.to_string();
            let gutter = " ".repeat(number.len());
            let indent = " ".repeat(self.indent);
            let carets = "^".repeat(self.width.max(1));
            write!(f, "\n{gutter}--> {}:{}:{}", self.file, self.line, self.column)?;
            write!(f, "\n{gutter} |\n{number} | {}", self.source_line)?;
            write!(f, "\n{gutter} | {indent}{carets}")?;
            if !self.key.is_empty() {
                write!(f, "\n{gutter} = key: {}", self.key)?;
            }
            if let Some(help) = &self.help {
                write!(f, "\n{gutter} = {help}")?;
            }
        }
        Ok(())
    }
}

/// What is said of `[function]` where `[[function]]` is meant.
const A_TABLE_FOR_MANY: &str = "wrong type: map, expected an array";

impl<T: DeserializeOwned + Check> Document<T> {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is no TOML, or does not say what a `T` needs.
    pub fn read(path: &Path) -> Result<Self, DocumentError> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            let (file, message) = (file.clone(), format!("cannot read the file: {error}"));
            DocumentError(Box::new(Problem { file, message, ..Problem::default() }))
        })?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(&file, text),
            Err(error) => {
                let start = error.valid_up_to();
                let text = String::from_utf8_lossy(&bytes);
                let wrong = Invalid::whole("this is no UTF-8").help("save the file as UTF-8");
                // What cannot be read is shown as one character of three bytes.
                Err(place(&file, &text, start..start + 3, wrong))
            }
        }
    }

    /// Reads text; `file` is its name in errors.
    ///
    /// # Errors
    /// When it is no TOML, or does not say what a `T` needs.
    pub fn parse(file: &str, text: &str) -> Result<Self, DocumentError> {
        let value = match toml::from_str::<T>(text) {
            Ok(value) => value,
            Err(error) => {
                let (message, help) = explain(error.message());
                let span = error.span().unwrap_or(0..0);
                // A key that is missing at the top has no place.
                let table = if span.is_empty() { None } else { DeTable::parse(text).ok() };
                let path = table.as_ref().map(|table| path_at(table, &span));
                let path = path.unwrap_or_default();
                let help = match &table {
                    Some(table) if message.starts_with("unknown key") => {
                        keys_of_its_kind(table, &path).or(help)
                    }
                    _ => help,
                };
                let entries = match path.last() {
                    Some(Segment::Key(key)) if message == A_TABLE_FOR_MANY => {
                        Some(format!("each entry begins with `[[{key}]]`"))
                    }
                    _ => None,
                };
                let invalid = Invalid { path, message, help: help.or(entries) };
                return Err(place(file, text, span, invalid));
            }
        };
        let document = Self { value, file: file.to_owned(), text: text.to_owned() };
        match document.value.check() {
            Ok(()) => Ok(document),
            Err(invalid) => Err(document.locate(invalid)),
        }
    }

    /// Finds the place in the file of something that turned out to be wrong with the value.
    #[must_use]
    pub fn locate(&self, invalid: Invalid) -> DocumentError {
        let table = DeTable::parse(&self.text).ok();
        let span = table.map(|table| {
            let key = wrong_key(&invalid).and_then(|path| span_of(&table, &path, true));
            key.or_else(|| span_of(&table, &invalid.path, false))
        });
        let span = span.flatten().unwrap_or(0..0);
        place(&self.file, &self.text, span, invalid)
    }
}

fn place(file: &str, text: &str, span: Range<usize>, invalid: Invalid) -> DocumentError {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.floor_char_boundary(span.end.min(text.len()));
    let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
    let column = text[line_start..start].chars().count();
    let width = text[start..end.clamp(start, line_end)].trim_end().chars().count();
    let (source_line, indent, width) =
        excerpt(text[line_start..line_end].trim_end(), column, width);
    DocumentError(Box::new(Problem {
        file: file.to_owned(),
        line: text[..start].matches('\n').count() + 1,
        column: column + 1,
        key: invalid.key(),
        message: invalid.message,
        help: invalid.help,
        source_line,
        indent,
        width,
    }))
}

/// What is shown of a line of which so many characters behind a column are underlined, with how
/// many stand before those, and how many they are.
fn excerpt(line: &str, column: usize, width: usize) -> (String, usize, usize) {
    /// Characters of a line that are shown.
    const SHOWN: usize = 160;
    /// Those before what is underlined, if not all are shown.
    const BEFORE: usize = 40;
    let shown = |text: &str| text.replace('\t', " ");
    let length = line.chars().count();
    if length <= SHOWN {
        return (shown(line), column, width);
    }
    let left_out = column.saturating_sub(BEFORE);
    let part: String = line.chars().skip(left_out).take(SHOWN).collect();
    let begins = if left_out > 0 { "..." } else { "" };
    let ends = if length > left_out + SHOWN { "..." } else { "" };
    let before = column - left_out;
    (format!("{begins}{}{ends}", shown(&part)), begins.len() + before, width.min(SHOWN - before))
}

/// What is allowed in place of a key that no kind of port has: the keys of the kind that this one
/// is.
fn keys_of_its_kind(table: &Spanned<DeTable<'_>>, path: &[Segment]) -> Option<String> {
    let [Segment::Key(ports), Segment::Index(index), Segment::Key(key)] = path else { return None };
    if ports != "port" {
        return None;
    }
    let port = table.get_ref().get("port")?.get_ref().as_array()?.get(*index)?;
    let kind = port.get_ref().as_table()?.get("kind")?.get_ref().as_str()?;
    Some(among(key, &PortKind::named(kind)?.keys()))
}

/// The path of the innermost key or value that the span touches.
fn path_at(table: &Spanned<DeTable<'_>>, span: &Range<usize>) -> Vec<Segment> {
    let mut path = Vec::new();
    descend_table(table.get_ref(), span, &mut path);
    path
}

fn covers(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn descend_table(table: &DeTable<'_>, span: &Range<usize>, path: &mut Vec<Segment>) -> bool {
    for (key, value) in table {
        path.push(Segment::Key(key.get_ref().to_string()));
        if descend_value(value, span, path) || covers(&key.span(), span) {
            return true;
        }
        path.pop();
    }
    false
}

/// A table that is spread over several headers is not covered by one span, so inner values are
/// looked at first.
fn descend_value(
    value: &Spanned<DeValue<'_>>,
    span: &Range<usize>,
    path: &mut Vec<Segment>,
) -> bool {
    let inside = match value.get_ref() {
        DeValue::Table(table) => descend_table(table, span, path),
        DeValue::Array(array) => array.iter().enumerate().any(|(index, value)| {
            path.push(Segment::Index(index));
            let found = descend_value(value, span, path);
            if !found {
                path.pop();
            }
            found
        }),
        _ => false,
    };
    inside || covers(&value.span(), span)
}

/// The path of the key that is wrong, if it is that and not a value: a function's words lead to the
/// key, or to its table and name it.
fn wrong_key(invalid: &Invalid) -> Option<Vec<Segment>> {
    let (_, rest) = invalid.message.split_once("unknown key")?;
    let mut path = invalid.path.clone();
    if let Some((name, _)) = rest.strip_prefix(" `").and_then(|rest| rest.split_once('`')) {
        let key = Segment::Key(name.to_owned());
        if path.last() != Some(&key) {
            path.push(key);
        }
    }
    Some(path)
}

/// The span of the value at a path, or of what is nearest to it: the table that misses the key.
/// With `key`, that of the last key of the path, if it leads to one.
fn span_of(table: &Spanned<DeTable<'_>>, path: &[Segment], key: bool) -> Option<Range<usize>> {
    let (mut spans, mut at) = (None, None::<&Spanned<DeValue<'_>>>);
    for (place, segment) in path.iter().enumerate() {
        let next = match (segment, at.map(Spanned::get_ref)) {
            (Segment::Key(key), None) => table.get_ref().get_key_value(key.as_str()),
            (Segment::Key(key), Some(DeValue::Table(table))) => table.get_key_value(key.as_str()),
            (Segment::Index(index), Some(DeValue::Array(array))) => {
                let Some(value) = array.get(*index) else { break };
                (spans, at) = (Some((place, None, value.span())), Some(value));
                continue;
            }
            _ => None,
        };
        let Some((name, value)) = next else { break };
        (spans, at) = (Some((place, Some(name.span()), value.span())), Some(value));
    }
    let (place, name, value) = spans?;
    if key { name.filter(|_| place + 1 == path.len()) } else { Some(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;

    #[test]
    fn of_a_long_line_is_shown_what_is_around_the_place() {
        let long = "x".repeat(100_000);
        for text in [
            format!("description = \"{long}\"\n"),
            format!("layout = \"{long}\"\n"),
            format!("description = \"\" # {long}\nlayout = [\"{long}\"]\n"),
        ] {
            let error = Document::<Manifest>::parse("function.toml", &text).unwrap_err();
            let shown = error.to_string();
            assert!(shown.len() < 1000, "{}", shown.len());
            let lines: Vec<&str> = shown.lines().collect();
            assert!(lines[3].ends_with("..."), "{shown}");
            let caret = lines[4].find('^').unwrap();
            assert_eq!(
                lines[3].as_bytes()[caret],
                text.lines().nth(error.line - 1).unwrap().as_bytes()[error.column - 1]
            );
        }
        let error = Document::<Manifest>::parse("f", &format!("a = \"{long}\"; b")).unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains(" | ...xxx") && shown.ends_with('^'), "{shown}");
    }
}
