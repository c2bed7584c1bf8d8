//! Bodies of requests, taken apart.
//!
//! Owns: forms, JSON and plain texts. Must not know: rules. What is broken is read as far as it
//! goes, and said to be: an application may be more tolerant than any standard, and take it for
//! something else.

use weir_sdk::config::is_token;

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

/// Charsets in which ASCII is what it is in all others of these.
const CHARSETS: [&[u8]; 6] =
    [b"utf-8", b"utf8", b"iso-8859-1", b"iso-8859-15", b"us-ascii", b"windows-1252"];

impl Kind {
    /// What a `content-type` announces, none for what is not looked into; and whether all readers
    /// will see the same in it. What they may not is looked at at least as a text.
    pub(crate) fn of(content_type: &[u8]) -> (Option<Self>, bool) {
        let text = content_type.trim_ascii();
        // Tolerant readers end the type at any of these.
        let end = text.iter().position(|c| matches!(c, b';' | b',' | b' ' | b'\t'));
        let (essence, parameters) = text.split_at(end.unwrap_or(text.len()));
        let parameters = parameters.trim_ascii_start();
        let mut halves = essence.split(|c| *c == b'/');
        let sound = halves.by_ref().take(2).filter(|half| is_token(half)).count() == 2
            && halves.next().is_none()
            && matches!(parameters.first(), None | Some(b';'));
        let essence = String::from_utf8_lossy(essence).to_ascii_lowercase();
        let kind = match &essence[..] {
            "" => return (Some(Self::Text), text.is_empty()),
            "application/x-www-form-urlencoded" => Self::Form,
            "application/json"
            | "application/graphql"
            | "application/x-json"
            | "application/jsonrequest"
            | "application/csp-report"
            | "application/x-ndjson"
            | "application/jsonl" => Self::Json,
            "application/xml"
            | "application/yaml"
            | "application/x-yaml"
            | "application/javascript"
            | "application/x-javascript"
            | "application/sql" => Self::Text,
            other if other.starts_with("multipart/") => match boundary(parameters) {
                Some(boundary) => Self::Multipart(boundary.to_vec()),
                None => return (Some(Self::Text), false),
            },
            other if other.ends_with("+json") => Self::Json,
            other if other.ends_with("+xml") || other.starts_with("text/") => Self::Text,
            _ => return ((!sound).then_some(Self::Text), sound),
        };
        (Some(kind), sound && has_plain_charset(parameters))
    }
}

/// Whether all that some reader may take for a charset is one of [`CHARSETS`]: of others, what is
/// looked for is not seen. Readers look for a parameter, or for the text `charset=` wherever it
/// stands.
fn has_plain_charset(mut text: &[u8]) -> bool {
    const NAME: &[u8] = b"charset";
    while let Some(at) = text.windows(NAME.len()).position(|w| w.eq_ignore_ascii_case(NAME)) {
        text = &text[at + NAME.len()..];
        let Some(value) = text.trim_ascii_start().strip_prefix(b"=") else { return false };
        let value = value.trim_ascii_start();
        let value = value.strip_prefix(b"\"").or(value.strip_prefix(b"'")).unwrap_or(value);
        let end = value.iter().position(|c| b"\"';, \t".contains(c)).unwrap_or(value.len());
        if !CHARSETS.iter().any(|charset| value[..end].eq_ignore_ascii_case(charset)) {
            return false;
        }
    }
    true
}

/// The boundary among the parameters of a `content-type` (RFC 2046, section 5.1.1). None if there
/// is not just one, or if some readers take another: that behind the first text `boundary`,
/// wherever it stands.
fn boundary(text: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"boundary";
    let has_name = |text: &[u8]| text.windows(NAME.len()).any(|w| w.eq_ignore_ascii_case(NAME));
    let mut all = parameters(text)?.into_iter();
    let mut find = || all.find(|(name, value)| has_name(name) || has_name(value));
    let (name, value) = find()?;
    let only = name.eq_ignore_ascii_case(NAME) && find().is_none();
    (only && (1..=70).contains(&value.len())).then_some(value)
}

/// The parameters of a field's value, each behind a semicolon: names and values (RFC 9110, section
/// 5.6.6). None for what readers divide differently.
fn parameters(text: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut all = Vec::new();
    let mut rest = text.trim_ascii();
    while !rest.is_empty() {
        rest = rest.strip_prefix(b";")?.trim_ascii_start();
        if matches!(rest.first(), None | Some(b';')) {
            continue;
        }
        let equals = rest.iter().position(|c| *c == b'=')?;
        let (name, value) = (&rest[..equals], &rest[equals + 1..]);
        let (value, after) = match value.strip_prefix(b"\"") {
            Some(quoted) => {
                let end = quoted.iter().position(|c| *c == b'"')?;
                // For some, a quote behind a backslash ends nothing.
                if quoted[..end].ends_with(b"\\") {
                    return None;
                }
                (&quoted[..end], &quoted[end + 1..])
            }
            None => {
                let end = value.iter().position(|c| *c == b';').unwrap_or(value.len());
                (value[..end].trim_ascii_end(), &value[end..])
            }
        };
        let bare = !rest[equals + 1..].starts_with(b"\"");
        if !is_token(name) || bare && value.iter().any(|c| b"\", \t".contains(c)) {
            return None;
        }
        all.push((name, value));
        rest = after.trim_ascii_start();
    }
    Some(all)
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

/// Gives the pairs of a query or a form to `each`: name and value, still encoded. How many there
/// are.
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

/// Gives all strings of a JSON text to `each`; `buffer` is for those with escapes. How deep it is
/// nested.
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

/// Gives the parts of a form to `each`: values of fields, names of files; what is in files is not
/// looked at. How many there are, and whether all readers will see the same parts (RFC 2046,
/// section 5.1.1, as browsers write it). `whole`: this is not only the beginning of a longer text.
pub(crate) fn multipart<'a>(
    text: &'a [u8],
    boundary: &[u8],
    whole: bool,
    mut each: impl FnMut(Part<'a>),
) -> (usize, bool) {
    let line = [b"--", boundary].concat();
    let (mut count, mut sound, mut ended) = (0, true, false);
    let mut next = find(text, &line);
    outside(&text[..next.unwrap_or(text.len())], &mut each);
    while let Some(at) = next {
        sound &= !ended && (at == 0 || text[..at].ends_with(b"\r\n"));
        let start = at + line.len();
        next = find(&text[start..], &line).map(|length| start + length);
        let part = &text[start..next.unwrap_or(text.len())];
        if let Some(rest) = part.strip_prefix(b"--") {
            ended = true;
            outside(rest, &mut each);
            continue;
        }
        count += 1;
        let Some((names, value)) = taken_apart(part) else {
            sound &= !whole && next.is_none();
            outside(part, &mut each);
            continue;
        };
        let Names { name, file, file_of_any_language } = names;
        if let Some(name) = name {
            each(Part::Name(name));
        }
        for file in [file, file_of_any_language].into_iter().flatten() {
            each(Part::File(file));
        }
        // To some, one without a name is no file, and to others one that has only the other name.
        // Where it is not clear what the parts are, none is known to be a file.
        if !sound || file.is_none_or(<[u8]>::is_empty) {
            let value = value.strip_suffix(b"\r\n").unwrap_or(value);
            each(Part::Value(value, name.unwrap_or_default()));
        }
    }
    (count, sound && (ended || !whole || text.is_empty()))
}

/// Gives what is no part's value to `each`, if it is something.
fn outside<'a>(text: &'a [u8], each: &mut impl FnMut(Part<'a>)) {
    if !text.trim_ascii().is_empty() {
        each(Part::Value(text, b""));
    }
}

/// What `content-disposition` calls a part (RFC 7578, section 4.2): `name`, `filename` and
/// `filename*`.
#[derive(Clone, Copy, Debug, Default)]
struct Names<'a> {
    name: Option<&'a [u8]>,
    file: Option<&'a [u8]>,
    file_of_any_language: Option<&'a [u8]>,
}

/// A part's names, and what is in it; none if readers may take it for something else.
fn taken_apart(part: &[u8]) -> Option<(Names<'_>, &[u8])> {
    let end = find(part, b"\r\n\r\n")?;
    let mut head =
        part[..end].strip_prefix(b"\r\n").or(part.starts_with(b"\r\n").then_some(b""))?;
    let (mut disposition, mut plain_charset) = (None, true);
    while !head.is_empty() {
        let end = find(head, b"\r\n").unwrap_or(head.len());
        let line = &head[..end];
        head = head.get(end + 2..).unwrap_or_default();
        let colon = line.iter().position(|c| *c == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if !is_token(name) || value.iter().any(|c| matches!(c, b'\r' | b'\n')) {
            return None;
        }
        if name.eq_ignore_ascii_case(b"content-disposition") && disposition.replace(value).is_some()
        {
            return None;
        }
        if name.eq_ignore_ascii_case(b"content-type") {
            plain_charset &= has_plain_charset(value);
        }
        // Others are decoded by some.
        let plain = [&b"7bit"[..], b"8bit", b"binary"];
        if name.eq_ignore_ascii_case(b"content-transfer-encoding")
            && !plain.iter().any(|coding| value.eq_ignore_ascii_case(coding))
        {
            return None;
        }
    }
    let mut names = Names::default();
    let value = disposition.unwrap_or_default();
    let semicolon = value.iter().position(|c| *c == b';').unwrap_or(value.len());
    for (parameter, value) in parameters(&value[semicolon..])? {
        let place = match &parameter.to_ascii_lowercase()[..] {
            b"name" => &mut names.name,
            b"filename" => &mut names.file,
            b"filename*" => &mut names.file_of_any_language,
            _ => continue,
        };
        if place.replace(value).is_some() {
            return None;
        }
    }
    // What is in files is not looked at.
    let is_file = names.file.is_some_and(|file| !file.is_empty());
    (plain_charset || is_file).then_some((names, &part[end + 4..]))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
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

    /// What is seen of a form with boundary `b`, and whether it is sound.
    fn parts(body: &[u8], whole: bool) -> (Vec<String>, bool) {
        let mut parts = Vec::new();
        let (_, sound) = multipart(body, b"b", whole, |part| parts.push(seen(part)));
        (parts, sound)
    }

    #[test]
    fn parts_of_forms_are_values_and_names_of_files() {
        let body = b"preamble\r\n--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nvalue\r\n\
            --b\r\ncontent-disposition: form-data; NAME=f; FileName=\"../x.php\"\r\nContent-Type: x/y\r\n\r\n<script>\r\n--b--\r\n";
        let seen = ["=preamble\r\n", "name a", "a=value", "name f", "file ../x.php"];
        assert_eq!(parts(body, true), (seen.map(String::from).to_vec(), true));
        for end in 0..body.len() {
            assert!(parts(&body[..end], false).1, "the beginning of a sound one is sound: {end}");
        }
        for end in 1..body.len() - 4 {
            assert!(!parts(&body[..end], true).1, "one without an end is not: {end}");
        }
        assert_eq!(parts(b"--b--\r\n", true), (vec![], true));
        assert_eq!(parts(b"--b\r\n\r\nx\r\n--b--", true), (vec!["=x".into()], true));
    }

    #[test]
    fn what_readers_take_for_different_things_is_looked_at_and_not_sound() {
        for body in [
            // Of which some end the head, or a part, elsewhere.
            "--b\r\nContent-Disposition: form-data; name=q\n\nATTACK\r\n\r\n\r\n--b--\r\n",
            "--b\nContent-Disposition: form-data; name=q; filename=z\n\nATTACK\n--b--\n",
            "--b\r\nContent-Disposition: form-data; name=q\r\n\r\nx--b\r\nContent-Disposition: form-data; name=f; filename=z\r\n\r\nATTACK\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=q\r\n\r\nx\r\n--b-- ATTACK\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=q\r\n\r\nx\r\n--bc\r\nContent-Disposition: form-data; name=f; filename=z\r\n\r\nATTACK\r\n--b--\r\n",
            // Which is a file to some only.
            "--b\r\nContent-Disposition: form-data; name=q; filename=z; filename=\"\"\r\n\r\nATTACK\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=q\r\nContent-Disposition: form-data; name=q; filename=z\r\n\r\nATTACK\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=\"q\\\"; filename=\"z\"\r\n\r\nATTACK\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=q; filename =z\r\n\r\nATTACK\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=q\r\n ; filename=z\r\n\r\nATTACK\r\n--b--\r\n",
            // Which some decode.
            "--b\r\nContent-Disposition: form-data; name=q\r\nContent-Transfer-Encoding: base64\r\n\r\nATTACK\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=q\r\nContent-Type: text/plain; charset=utf-7\r\n\r\nATTACK\r\n--b--\r\n",
            // Which has another boundary.
            "--c\r\nContent-Disposition: form-data; name=q\r\n\r\nATTACK\r\n--c--\r\n",
        ] {
            let (parts, sound) = parts(body.as_bytes(), true);
            let looked_at = parts.iter().any(|part| part.contains("=") && part.contains("ATTACK"));
            assert!(looked_at && !sound, "{body}: {parts:?}");
        }
        for body in [
            "--b\r\nContent-Disposition: form-data; name=\"q\"\r\nX: y; filename=z\r\n\r\nATTACK\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=\"q; filename=z\"\r\n\r\nATTACK\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=q; filename=\"\"\r\n\r\nATTACK\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=q; filename*=utf-8''z\r\n\r\nATTACK\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=q\r\nContent-Type: text/plain; charset=\"UTF-8\"\r\n\r\nATTACK\r\n--b--\r\n",
        ] {
            let (parts, sound) = parts(body.as_bytes(), true);
            assert!(
                parts.iter().any(|part| part.ends_with("=ATTACK")) && sound,
                "{body}: {parts:?}"
            );
        }
    }

    #[test]
    fn kinds_come_from_the_content_type() {
        let of_b = || Some(Kind::Multipart(b"b".to_vec()));
        for (text, kind, sound) in [
            ("Application/JSON; charset=utf-8", Some(Kind::Json), true),
            ("application/vnd.api+json", Some(Kind::Json), true),
            ("text/plain", Some(Kind::Text), true),
            ("", Some(Kind::Text), true),
            ("image/png", None, true),
            ("application/octet-stream;", None, true),
            ("multipart/form-data; boundary=\"A b\"", Some(Kind::Multipart(b"A b".to_vec())), true),
            (
                "multipart/form-data; Boundary=AbC; x=y",
                Some(Kind::Multipart(b"AbC".to_vec())),
                true,
            ),
            ("multipart/mixed;boundary=b", of_b(), true),
            ("application/x-www-form-urlencoded, x", Some(Kind::Form), false),
            ("application/x-www-form-urlencoded x", Some(Kind::Form), false),
            ("multipart/form-data, boundary=b", Some(Kind::Text), false),
            ("x, application/json", Some(Kind::Text), false),
            ("json", Some(Kind::Text), false),
            ("image/png/x", Some(Kind::Text), false),
            ("; application/json", Some(Kind::Text), false),
            ("multipart/form-data", Some(Kind::Text), false),
            ("multipart/form-data; xboundary=a; boundary=b", Some(Kind::Text), false),
            ("multipart/form-data; x=\"boundary\"; y=a; boundary=b", Some(Kind::Text), false),
            ("multipart/form-data; boundary=a; boundary=b", Some(Kind::Text), false),
            ("multipart/form-data; x=\"; boundary=a\"; boundary=b", Some(Kind::Text), false),
            ("multipart/form-data; boundary=b,c", Some(Kind::Text), false),
            ("multipart/form-data; boundary=\"\"", Some(Kind::Text), false),
            ("multipart/form-data; charset=utf-16; boundary=b", of_b(), false),
            ("application/x-www-form-urlencoded; Charset = \"ibm037\"", Some(Kind::Form), false),
            ("text/xml; charset=utf-7", Some(Kind::Text), false),
            ("image/png; charset=binary", None, true),
        ] {
            assert_eq!(Kind::of(text.as_bytes()), (kind, sound), "{text}");
        }
    }

    #[test]
    fn charsets_are_those_in_which_ascii_is_plain() {
        for text in [
            "",
            ";charset=utf-8",
            "; charset=UTF8; x=y",
            "; charset = \"Iso-8859-15\" ; action=\"urn:x\"",
            "; charset='us-ascii'",
            "; charset=windows-1252; charset=utf-8",
            "; x=\"text/xml; charset=utf-8\"",
        ] {
            assert!(has_plain_charset(text.as_bytes()), "{text}");
        }
        for text in [
            "; charset=ibm037",
            "; charset=utf-8; CHARSET=utf-7",
            "; x=\"; charset=utf-7\"; charset=utf-8",
            "; charset*=utf-8''ibm037",
            "; charset*0=ibm; charset*1=037",
            "; charset=\"ibm\\037\"",
            "; charset=utf-8\\",
            "; charset=\"\"",
            "; charset",
        ] {
            assert!(!has_plain_charset(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_type_panics(before in prop::collection::vec(any::<u8>(), 0..40), after in prop::collection::vec(any::<u8>(), 0..20)) {
            Kind::of(&before);
            has_plain_charset(&[b"charset", &before[..], b"charset=\"", &after].concat());
            for middle in [&b" boundary="[..], b"; boundary=\"", b""] {
                Kind::of(&[&b"multipart/form-data;"[..], &before, middle, &after].concat());
            }
        }

        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200), json_like in "[{}\\[\\]\":\\\\u0-9a-f, ]{0,60}", form_like in "(\r\n|--b|--|name|filename|[=:;\" \n]|content-disposition){0,40}") {
            pairs(&body, |_| {});
            json(&body, &mut Vec::new(), |_| {});
            json(json_like.as_bytes(), &mut Vec::new(), |_| {});
            multipart(&body, b"b", true, |_| {});
            multipart(form_like.as_bytes(), b"b", true, |_| {});
        }
    }
}
