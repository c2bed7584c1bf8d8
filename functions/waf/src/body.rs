//! Bodies of requests, taken apart.
//!
//! Owns: forms, JSON and plain texts. Must not know: rules. What is broken is read as far as it goes: an application may be
//! more tolerant than any standard.

/// What a body is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `application/json` and the like.
    Json,
    /// `multipart/form-data`, with its boundary.
    Multipart(Vec<u8>),
    /// Texts and XML.
    Text,
}

impl Kind {
    /// What a `content-type` announces; none for what is not looked into.
    pub(crate) fn of(content_type: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(content_type).to_ascii_lowercase();
        let essence = text.split(';').next().unwrap_or_default().trim();
        match essence {
            "application/x-www-form-urlencoded" => Some(Self::Form),
            "multipart/form-data" => {
                let at = text.find("boundary=")? + "boundary=".len();
                let rest = &content_type[at..];
                let boundary = match rest.strip_prefix(b"\"") {
                    Some(quoted) => quoted.split(|c| *c == b'"').next()?,
                    None => rest.split(|c| matches!(c, b';' | b' ')).next()?,
                };
                // RFC 2046, section 5.1.1.
                (1..=70).contains(&boundary.len()).then(|| Self::Multipart(boundary.to_vec()))
            }
            "application/json" | "application/graphql" => Some(Self::Json),
            "application/xml" | "application/soap+xml" | "" => Some(Self::Text),
            other if other.ends_with("+json") => Some(Self::Json),
            other if other.ends_with("+xml") || other.starts_with("text/") => Some(Self::Text),
            _ => None,
        }
    }
}

/// A part of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// An argument's name.
    Name(&'a [u8]),
    /// An argument's value, and its name.
    Value(&'a [u8], &'a [u8]),
    /// A file's name.
    File(&'a [u8]),
}

/// Gives the pairs of a query or a form to `each`: name and value, still encoded. How many there are.
pub(crate) fn pairs<'a>(text: &'a [u8], mut each: impl FnMut(Part<'a>)) -> usize {
    let mut count = 0;
    for pair in text.split(|c| *c == b'&').filter(|pair| !pair.is_empty()) {
        count += 1;
        let equals = pair.iter().position(|c| *c == b'=');
        let (name, value) = match equals {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &pair[..0]),
        };
        each(Part::Name(name));
        each(Part::Value(value, name));
    }
    count
}

/// Gives all strings of a JSON text to `each`; `buffer` is for those with escapes. How deep it is nested.
pub(crate) fn json(text: &[u8], buffer: &mut Vec<u8>, mut each: impl FnMut(Part<'_>)) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    let mut name = (0, 0);
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'"' => {
                let start = at + 1;
                let mut end = start;
                let mut escaped = false;
                while end < text.len() && text[end] != b'"' {
                    if text[end] == b'\\' {
                        escaped = true;
                        end += 1;
                    }
                    end += 1;
                }
                let end = end.min(text.len());
                at = end + 1;
                let string = if escaped {
                    unescape(&text[start..end], buffer);
                    &buffer[..]
                } else {
                    &text[start..end]
                };
                let next = text[at.min(text.len())..].iter().find(|c| !c.is_ascii_whitespace());
                if next == Some(&b':') {
                    name = (start, end);
                    each(Part::Name(string));
                } else {
                    each(Part::Value(string, &text[name.0..name.1]));
                }
            }
            _ => at += 1,
        }
    }
    deepest
}

/// RFC 8259, section 7. Characters beyond ASCII become UTF-8, halves of pairs a question mark.
fn unescape(text: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut at = 0;
    while at < text.len() {
        let (byte, taken) = match text[at..] {
            [b'\\', b'u', a, b, c, d, ..] => {
                let code = [a, b, c, d].iter().try_fold(0u32, |code, digit| {
                    Some(code << 4 | char::from(*digit).to_digit(16)?)
                });
                let Some(code) = code else {
                    out.push(b'\\');
                    at += 1;
                    continue;
                };
                let character = char::from_u32(code).unwrap_or('?');
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                at += 6;
                continue;
            }
            [b'\\', b'n', ..] => (b'\n', 2),
            [b'\\', b'r', ..] => (b'\r', 2),
            [b'\\', b't', ..] => (b'\t', 2),
            [b'\\', b'b', ..] => (8, 2),
            [b'\\', b'f', ..] => (12, 2),
            [b'\\', other, ..] => (other, 2),
            [other, ..] => (other, 1),
            [] => break,
        };
        out.push(byte);
        at += taken;
    }
}

/// Gives the parts of a form to `each`: values of fields, names of files; what is in files is not looked at. How many
/// there are.
pub(crate) fn multipart<'a>(
    text: &'a [u8],
    boundary: &[u8],
    mut each: impl FnMut(Part<'a>),
) -> usize {
    let mut count = 0;
    let line = [b"--", boundary].concat();
    let mut rest = text;
    while let Some(at) = find(rest, &line) {
        let part = &rest[at + line.len()..];
        if part.starts_with(b"--") {
            break;
        }
        let end = find(part, &line).unwrap_or(part.len());
        let (part, after) = part.split_at(end);
        rest = after;
        let (head, value) = match (find(part, b"\r\n\r\n"), find(part, b"\n\n")) {
            (Some(at), _) => (&part[..at], &part[at + 4..]),
            (None, Some(at)) => (&part[..at], &part[at + 2..]),
            (None, None) => (&part[..0], part),
        };
        count += 1;
        let name = parameter(head, b"name=");
        if let Some(name) = name {
            each(Part::Name(name));
        }
        match parameter(head, b"filename=").or_else(|| parameter(head, b"filename*=")) {
            Some(file) => each(Part::File(file)),
            None => {
                let value = value.strip_suffix(b"\r\n").unwrap_or(value);
                each(Part::Value(value, name.unwrap_or_default()));
            }
        }
    }
    count
}

/// A parameter of `content-disposition` (RFC 7578, section 4.2).
fn parameter<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut rest = head;
    loop {
        let at = rest.len() - find_lower(rest, name)?.len();
        let before = at.checked_sub(1).map(|at| rest[at]);
        let value = &rest[at + name.len()..];
        if matches!(before, Some(b' ' | b';' | b'\t')) {
            return match value.strip_prefix(b"\"") {
                Some(quoted) => quoted.split(|c| *c == b'"').next(),
                None => value.split(|c| matches!(c, b';' | b'\r' | b'\n')).next(),
            };
        }
        rest = value;
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// The rest of the text from where this is, whatever its case.
fn find_lower<'a>(text: &'a [u8], what: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(what.len()).position(|window| window.eq_ignore_ascii_case(what))?;
    Some(&text[at..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn seen(part: Part<'_>) -> String {
        match part {
            Part::Name(name) => format!("name {}", text(name)),
            Part::Value(value, name) => format!("{}={}", text(name), text(value)),
            Part::File(name) => format!("file {}", text(name)),
        }
    }

    #[test]
    fn forms_are_pairs() {
        let mut parts = Vec::new();
        assert_eq!(pairs(b"a=1&&b&c=d=e&=f", |part| parts.push(seen(part))), 4);
        assert_eq!(parts, ["name a", "a=1", "name b", "b=", "name c", "c=d=e", "name ", "=f"]);
    }

    #[test]
    fn json_is_its_strings() {
        let mut parts = Vec::new();
        let body = br#"{"a": "x\u003cy\n\"z", "b": [1, "c", {"d\t" : "e"}], "f": "open"#;
        let depth = json(body, &mut Vec::new(), |part| parts.push(seen(part)));
        assert_eq!(depth, 3);
        assert_eq!(
            parts,
            ["name a", "a=x<y\n\"z", "name b", "b=c", "name d\t", "d\\t=e", "name f", "f=open"]
        );
    }

    #[test]
    fn parts_of_forms_are_values_and_names_of_files() {
        let body = b"preamble\r\n--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nvalue\r\n\
            --b\r\ncontent-disposition: form-data; NAME=f; FileName=\"../x.php\"\r\nContent-Type: x/y\r\n\r\n<script>\r\n--b--\r\n";
        let mut parts = Vec::new();
        assert_eq!(multipart(body, b"b", |part| parts.push(seen(part))), 2);
        assert_eq!(parts, ["name a", "a=value", "name f", "file ../x.php"]);
    }

    #[test]
    fn kinds_come_from_the_content_type() {
        assert_eq!(Kind::of(b"Application/JSON; charset=utf-8"), Some(Kind::Json));
        assert_eq!(Kind::of(b"application/vnd.api+json"), Some(Kind::Json));
        assert_eq!(Kind::of(b"text/plain"), Some(Kind::Text));
        assert_eq!(Kind::of(b"image/png"), None);
        assert_eq!(
            Kind::of(b"multipart/form-data; boundary=\"A b\""),
            Some(Kind::Multipart(b"A b".to_vec()))
        );
        assert_eq!(
            Kind::of(b"multipart/form-data; Boundary=AbC; x=y"),
            Some(Kind::Multipart(b"AbC".to_vec()))
        );
        assert_eq!(Kind::of(b"multipart/form-data"), None);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200), json_like in "[{}\\[\\]\":\\\\u0-9a-f, ]{0,60}") {
            pairs(&body, |_| {});
            json(&body, &mut Vec::new(), |_| {});
            json(json_like.as_bytes(), &mut Vec::new(), |_| {});
            multipart(&body, b"b", |_| {});
            multipart([&b"--b"[..], &body, b"\n\n--b filename=", &body].concat().as_slice(), b"b", |_| {});
        }
    }
}
