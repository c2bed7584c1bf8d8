//! What is wrong with a model, and where: as a path of keys, which a file turns into a line and a
//! column ([`crate::Document`]) and the API into a problem document.

use std::fmt;

/// A step on the way to a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// Into a table, by key.
    Key(String),
    /// Into an array, by index from 0.
    Index(usize),
}

/// A value that cannot be, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// Where; empty for the whole.
    pub path: Vec<Segment>,
    /// What is wrong, with the value.
    pub message: String,
    /// What is allowed, or what to do.
    pub help: Option<String>,
}

impl Invalid {
    /// Something is wrong at a key of the outermost table.
    pub fn at(key: &str, message: impl Into<String>) -> Self {
        Self { path: vec![Segment::Key(key.into())], message: message.into(), help: None }
    }

    /// Something is wrong with the whole.
    pub fn whole(message: impl Into<String>) -> Self {
        Self { path: Vec::new(), message: message.into(), help: None }
    }

    /// Says what is allowed, or what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same, seen from the table in which it lies under this key.
    #[must_use]
    pub fn within(mut self, key: &str) -> Self {
        self.path.insert(0, Segment::Key(key.into()));
        self
    }

    /// The same, seen from the array under this key in which it lies at this index.
    #[must_use]
    pub fn within_array(mut self, key: &str, index: usize) -> Self {
        self.path.splice(0..0, [Segment::Key(key.into()), Segment::Index(index)]);
        self
    }

    /// Reads a path such as [`Self::key`] writes.
    #[must_use]
    pub fn path_of(text: &str) -> Option<Vec<Segment>> {
        let mut path = Vec::new();
        for part in text.split('.') {
            let (key, indices) = part.split_at(part.find('[').unwrap_or(part.len()));
            if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == ']') {
                return None;
            }
            path.push(Segment::Key(key.into()));
            let mut rest = indices;
            while !rest.is_empty() {
                let (index, after) = rest.strip_prefix('[')?.split_once(']')?;
                path.push(Segment::Index(index.parse().ok()?));
                rest = after;
            }
        }
        Some(path)
    }

    /// The path as text, such as `function[0].config.rules`; empty for the whole.
    #[must_use]
    pub fn key(&self) -> String {
        let mut text = String::new();
        for segment in &self.path {
            match segment {
                Segment::Key(key) if text.is_empty() => text.push_str(key),
                Segment::Key(key) => text.extend([".", key]),
                Segment::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.key())?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// Models with rules that their types alone do not express.
pub trait Check {
    /// Looks at those rules.
    ///
    /// # Errors
    /// The first rule that is broken.
    fn check(&self) -> Result<(), Invalid>;
}

/// Turns serde's words into ours: the message, and what is allowed, with a guess at what was meant.
#[must_use]
pub fn explain(serde: &str) -> (String, Option<String>) {
    let serde = serde.trim_end();
    for (theirs, ours) in
        [("unknown field ", "unknown key "), ("unknown variant ", "unknown value ")]
    {
        let Some(rest) = serde.strip_prefix(theirs) else { continue };
        let Some((found, expected)) = rest.split_once(", ") else { continue };
        let allowed: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        if allowed.is_empty() {
            return (format!("{ours}{found}"), Some("no keys are allowed here".into()));
        }
        return (format!("{ours}{found}"), Some(among(found.trim_matches('`'), &allowed)));
    }
    if let Some(rest) = serde.strip_prefix("missing field ") {
        return (format!("missing key {rest}"), None);
    }
    for (theirs, ours) in [("invalid type: ", "wrong type: "), ("invalid value: ", "wrong value: ")]
    {
        let Some((found, expected)) =
            serde.strip_prefix(theirs).and_then(|rest| rest.rsplit_once(", expected "))
        else {
            continue;
        };
        return (format!("{ours}{found}, expected {}", plain(expected)), None);
    }
    match serde.split_once("; ") {
        Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
        None => (serde.to_owned(), None),
    }
}

/// A type of Rust's in words of those who write files.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        // Functions have 32 bits for it, and nothing else has it.
        "u32" | "usize" => "a whole number from 0 to 4294967295",
        "u64" => "a whole number, not negative",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "an array",
        "a map" => "a table",
        "path string" => "a path",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

/// What is allowed in place of this, and which of it was meant, as help.
pub(crate) fn among(found: &str, allowed: &[&str]) -> String {
    let help = format!("allowed: {}", allowed.join(", "));
    match did_you_mean(found, allowed) {
        Some(meant) => format!("{meant} {help}"),
        None => help,
    }
}

/// A guess at what was meant by a name that is not among those that there are, as help.
#[must_use]
pub fn did_you_mean(name: &str, there: &[&str]) -> Option<String> {
    nearest(name, there).map(|meant| format!("did you mean `{meant}`?"))
}

/// What somebody probably meant.
fn nearest<'a>(found: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let best = allowed.iter().map(|a| (strsim::damerau_levenshtein(found, a), *a)).min()?;
    (best.0 <= 2 && best.0 < best.1.len()).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        for text in ["a", "function[0].config.rules[12][3].dport", "on-fault"] {
            let path = Invalid::path_of(text).unwrap();
            assert_eq!(Invalid { path, message: String::new(), help: None }.key(), text);
        }
        for text in ["", ".", "a..b", "a[", "a[]", "a[x]", "a[1]b", "no path", "[1]"] {
            assert_eq!(Invalid::path_of(text), None, "{text}");
        }
    }
}
