//! Texts with variables and captures, as an operator writes them.
//!
//! Owns: reading and filling them. Must not know: what they are for.

use std::net::IpAddr;

use regex::bytes::CaptureLocations;
use weir_sdk::message::Head;

/// A text whose variables are filled in for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    Capture(usize),
    Variable(Variable),
}

/// What a variable stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    Client,
    Host,
    Authority,
    Path,
    Query,
    Scheme,
    Method,
    ServerName,
}

const VARIABLES: [(&str, Variable); 8] = [
    ("client", Variable::Client),
    ("host", Variable::Host),
    ("authority", Variable::Authority),
    ("path", Variable::Path),
    ("query", Variable::Query),
    ("scheme", Variable::Scheme),
    ("method", Variable::Method),
    ("server-name", Variable::ServerName),
];

/// What a rule's condition on the path found in it.
#[derive(Clone, Copy)]
pub(crate) struct Captured<'a> {
    /// The path without its query.
    pub(crate) path: &'a [u8],
    /// The part that matched.
    pub(crate) matched: (usize, usize),
    /// Groups, if the condition is an expression.
    pub(crate) groups: Option<&'a CaptureLocations>,
}

impl<'a> Captured<'a> {
    /// 0: what matched; an expression's groups; of others, 1: what follows.
    fn group(&self, group: usize) -> &'a [u8] {
        let (start, end) = match (self.groups, group) {
            (_, 0) => self.matched,
            (Some(groups), _) => groups.get(group).unwrap_or_default(),
            (None, _) => (self.matched.1, self.path.len()),
        };
        &self.path[start..end]
    }
}

impl Template {
    /// Reads a template: `$0` to `$9` are captures (at most `groups`), `${name}` variables, `$$` a
    /// dollar sign.
    pub(crate) fn read(text: &str, groups: usize) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            literal.extend_from_slice(before.as_bytes());
            let part;
            match after.chars().next() {
                Some('$') => {
                    literal.push(b'$');
                    rest = &after[1..];
                    continue;
                }
                Some(digit @ '0'..='9') => {
                    let group = digit as usize - '0' as usize;
                    if group >= groups {
                        return Err(format!(
                            "\"{text}\" names ${group}, but there are {} groups here; `$$` is a dollar sign",
                            groups.saturating_sub(1)
                        ));
                    }
                    part = Part::Capture(group);
                    rest = &after[1..];
                }
                Some('{') => {
                    let (name, behind) = after[1..]
                        .split_once('}')
                        .ok_or_else(|| format!("\"{text}\": the brace of `${{` is not closed"))?;
                    let known = VARIABLES.iter().find(|(known, _)| *known == name);
                    let (_, variable) = known.ok_or_else(|| {
                        let names = VARIABLES.map(|(name, _)| name).join(", ");
                        format!("\"{text}\": no variable is named `{name}`; there are {names}")
                    })?;
                    part = Part::Variable(*variable);
                    rest = behind;
                }
                _ => {
                    return Err(format!(
                        "\"{text}\": after `$` comes a digit, `{{` or another `$`"
                    ));
                }
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }

    /// The text, if there is nothing to be filled in.
    pub(crate) fn literal(&self) -> Option<&[u8]> {
        match &self.0[..] {
            [] => Some(&[]),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The parts that are the same for each request.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(|part| match part {
            Part::Literal(text) => Some(&text[..]),
            _ => None,
        })
    }

    /// The text: as it is if there is nothing to be filled in, else written to `out`.
    pub(crate) fn filled<'a>(
        &'a self,
        out: &'a mut Vec<u8>,
        head: &Head<'_>,
        captured: &Captured<'_>,
    ) -> &'a [u8] {
        match self.literal() {
            Some(text) => text,
            None => {
                out.clear();
                self.fill(out, head, captured);
                out
            }
        }
    }

    /// Appends the text to `out`.
    pub(crate) fn fill(&self, out: &mut Vec<u8>, head: &Head<'_>, captured: &Captured<'_>) {
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Capture(group) => out.extend_from_slice(captured.group(*group)),
                Part::Variable(variable) => fill(*variable, out, head),
            }
        }
    }
}

fn fill(variable: Variable, out: &mut Vec<u8>, head: &Head<'_>) {
    let (path, query) = split_query(head.path());
    match variable {
        Variable::Client => write_address(out, head.client()),
        Variable::Host => out.extend_from_slice(without_port(head.authority())),
        Variable::Authority => out.extend_from_slice(head.authority()),
        Variable::Path => out.extend_from_slice(path),
        Variable::Query => out.extend_from_slice(query),
        Variable::Scheme if head.tls() => out.extend_from_slice(b"https"),
        Variable::Scheme => out.extend_from_slice(b"http"),
        Variable::Method => out.extend_from_slice(head.method()),
        Variable::ServerName => out.extend_from_slice(head.server_name()),
    }
}

fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    use std::io::Write;
    write!(out, "{address}").expect("a vector takes everything");
}

/// The host of an authority, without its port.
pub(crate) fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|c| *c == b':') {
        Some(colon) if authority[colon + 1..].iter().all(u8::is_ascii_digit) => &authority[..colon],
        _ => authority,
    }
}

/// Path, and query with its question mark.
pub(crate) fn split_query(target: &[u8]) -> (&[u8], &[u8]) {
    target.split_at(target.iter().position(|c| *c == b'?').unwrap_or(target.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("a$", "after `$`"),
            ("$x", "after `$`"),
            ("${host", "not closed"),
            ("${hots}", "`hots`"),
            ("$2", "$2"),
        ] {
            let error = Template::read(text, 2).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(Template::read("5$$ $$", 0).unwrap().literal(), Some(&b"5$ $"[..]));
        assert_eq!(Template::read("", 0).unwrap().literal(), Some(&b""[..]));
        assert_eq!(Template::read("a$1", 2).unwrap().literal(), None);
    }
}
