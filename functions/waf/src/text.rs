//! Texts as an attack's target would come to understand them.
//!
//! Owns: transformations. Must not know: rules. Attackers encode; what is searched is decoded,
//! lower case, with simple white space, without comments.

use serde::Deserialize;

/// So often, percent-encoding is taken off.
const LAYERS: usize = 3;
/// Named entities that matter in attacks, and what they stand for (HTML, section 13.5).
const ENTITIES: [(&[u8], u8); 18] = [
    (b"lt", b'<'),
    (b"gt", b'>'),
    (b"quot", b'"'),
    (b"apos", b'\''),
    (b"amp", b'&'),
    (b"nbsp", b' '),
    (b"tab", b'\t'),
    (b"newline", b'\n'),
    (b"colon", b':'),
    (b"lpar", b'('),
    (b"rpar", b')'),
    (b"sol", b'/'),
    (b"bsol", b'\\'),
    (b"num", b'#'),
    (b"equals", b'='),
    (b"grave", b'`'),
    (b"dollar", b'$'),
    (b"period", b'.'),
];

/// A transformation that a rule can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transform {
    /// Takes percent-encoding off, once.
    UrlDecode,
    /// Takes HTML's entities off.
    HtmlEntityDecode,
    /// ASCII only.
    Lowercase,
    /// Runs of white space become one space, or one line's end if there is one among them.
    CompressWhitespace,
    /// Resolves `.` and `..`, doubled slashes and backslashes.
    NormalisePath,
    /// Takes bytes 0 out.
    RemoveNulls,
    /// `/* ... */` becomes a space; what stands in `/*! ... */`, MySQL runs, so that stays.
    ReplaceComments,
}

/// Whether a text is plain: its canonical form is the same in lower case.
#[inline]
pub(crate) fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|c| PLAIN[usize::from(*c)])
}

/// Whether a path has `..` in it, however it is encoded, or with what servers of Java take for a
/// parameter.
pub(crate) fn climbs(path: &[u8]) -> bool {
    let mut text = path.to_vec();
    overlong(&mut text);
    for _ in 0..LAYERS {
        if !url_decode(&mut text) {
            break;
        }
    }
    text.split(|c| matches!(c, b'/' | b'\\'))
        .any(|part| part.strip_prefix(b"..").is_some_and(|rest| matches!(rest, [] | [b';', ..])))
}

const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut c = 0;
    while c < 256 {
        table[c] = (c as u8).is_ascii_alphanumeric()
            || matches!(c as u8, b'_' | b'-' | b'.' | b',' | b':' | b'@' | b'=');
        c += 1;
    }
    table
};

/// What becomes of `/* comments */`, which are those of SQL and some other languages: to HTML, a
/// shell or a template they are text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comments {
    /// They are white space.
    Replaced,
    /// They are text.
    Kept,
}

/// Everything at once, into `out`: what built-in rules are asked about. `plus`: a plus sign is a
/// space. Whether something stood in comments that is not in it.
pub(crate) fn canonical(
    text: &[u8],
    plus: bool,
    comments: Comments,
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
) -> bool {
    out.clear();
    out.extend_from_slice(text);
    // Most texts have nothing that calls for more than the last step.
    let marks = text.iter().fold(0, |marks, c| marks | MARKS[usize::from(*c)]);
    let hidden = marks != 0 && decode(out, marks, plus, comments, scratch);
    simplify(out);
    hidden
}

const PLUS: u8 = 1;
const PERCENT: u8 = 2;
const AMPERSAND: u8 = 4;
const STAR: u8 = 8;
const NULL: u8 = 16;
const OVERLONG: u8 = 32;

/// Bytes that call for a transformation.
const MARKS: [u8; 256] = {
    let mut table = [0; 256];
    table[b'+' as usize] = PLUS;
    table[b'%' as usize] = PERCENT;
    table[b'&' as usize] = AMPERSAND;
    table[b'*' as usize] = STAR;
    table[0] = NULL;
    let mut n = 0;
    while n < OVERLONG_LEADS.len() {
        table[OVERLONG_LEADS[n] as usize] = OVERLONG;
        n += 1;
    }
    table
};

fn decode(
    out: &mut Vec<u8>,
    marks: u8,
    plus: bool,
    comments: Comments,
    scratch: &mut Vec<u8>,
) -> bool {
    if plus && marks & PLUS != 0 {
        out.iter_mut().filter(|c| **c == b'+').for_each(|c| *c = b' ');
    }
    let long = marks & OVERLONG != 0 && overlong(out);
    // What was encoded may be anything.
    let all = long || marks & (PERCENT | AMPERSAND) != 0;
    for _ in 0..LAYERS {
        if !long && marks & PERCENT == 0 || !out.contains(&b'%') || !url_decode(out) {
            break;
        }
    }
    if all && out.contains(&b'&') {
        html_decode(out);
    }
    let mut hidden = false;
    let may_have_comments = comments == Comments::Replaced && (all || marks & STAR != 0);
    if may_have_comments && out.windows(2).any(|pair| pair == b"/*") {
        scratch.clear();
        hidden = replace_comments(out, scratch);
        std::mem::swap(out, scratch);
    }
    if all || marks & NULL != 0 {
        remove_nulls(out);
    }
    hidden
}

/// Applies one transformation in place.
pub(crate) fn apply(transform: Transform, text: &mut Vec<u8>) {
    match transform {
        Transform::UrlDecode => {
            url_decode(text);
        }
        Transform::HtmlEntityDecode => html_decode(text),
        Transform::Lowercase => text.make_ascii_lowercase(),
        Transform::CompressWhitespace => compress(text),
        Transform::NormalisePath => normalise_path(text),
        Transform::RemoveNulls => remove_nulls(text),
        Transform::ReplaceComments => {
            let mut out = Vec::with_capacity(text.len());
            replace_comments(text, &mut out);
            *text = out;
        }
    }
}

/// Takes one layer of percent-encoding off; also IIS's `%uXXXX`, and the overlong forms of ASCII
/// that old decoders accepted. Whether there was any.
pub(crate) fn url_decode(text: &mut Vec<u8>) -> bool {
    let (mut from, mut to) = (0, 0);
    while from < text.len() {
        let rest = &text[from..];
        let (byte, taken) = match rest {
            [b'%', b'u' | b'U', a, b, c, d, ..] => {
                let code = [a, b, c, d].iter().try_fold(0u32, |n, d| Some(n << 4 | hex(**d)?));
                // Full-width forms are what they look like.
                match code {
                    Some(code @ 0xff01..=0xff5e) => ((code - 0xfee0) as u8, 6),
                    Some(code) if code < 0x100 => (code as u8, 6),
                    Some(_) => (b'?', 6),
                    None => (b'%', 1),
                }
            }
            [b'%', a, b, ..] => match (hex(*a), hex(*b)) {
                (Some(high), Some(low)) => ((high << 4 | low) as u8, 3),
                _ => (b'%', 1),
            },
            [byte, ..] => (*byte, 1),
            [] => break,
        };
        text[to] = byte;
        (from, to) = (from + taken, to + 1);
    }
    let decoded = to < text.len();
    text.truncate(to);
    if decoded {
        overlong(text);
    }
    decoded
}

/// First bytes of the overlong forms of ASCII (RFC 2279 had them of up to 6 bytes).
const OVERLONG_LEADS: [u8; 6] = [0xc0, 0xc1, 0xe0, 0xf0, 0xf8, 0xfc];

/// Takes overlong forms off: `c0 ae` is an overlong `.`, `c1 9c` and `e0 81 9c` are an overlong
/// `\`. Whether there were any.
fn overlong(text: &mut Vec<u8>) -> bool {
    if !text.iter().any(|c| OVERLONG_LEADS.contains(c)) {
        return false;
    }
    let (mut from, mut to) = (0, 0);
    while from < text.len() {
        let (byte, taken) = overlong_form(&text[from..]).unwrap_or((text[from], 1));
        text[to] = byte;
        (from, to) = (from + taken, to + 1);
    }
    let any = to < text.len();
    text.truncate(to);
    any
}

/// What the overlong form at the beginning stands for, and its length.
fn overlong_form(text: &[u8]) -> Option<(u8, usize)> {
    let length = match text.first()? {
        0xc0 | 0xc1 => 2,
        0xe0 => 3,
        0xf0 => 4,
        0xf8 => 5,
        0xfc => 6,
        _ => return None,
    };
    // Of what is overlong, only the last two bytes have bits of the character.
    let (first, [high, last]) = text.get(..length)?.split_last_chunk()?;
    let is_ascii = (length == 2 || matches!(high, 0x80 | 0x81))
        && first.iter().skip(1).all(|c| *c == 0x80)
        && matches!(last, 0x80..=0xbf);
    is_ascii.then_some((high << 6 | last & 0x3f, length))
}

fn hex(digit: u8) -> Option<u32> {
    char::from(digit).to_digit(16)
}

/// Takes entities off: decimal, hexadecimal, and named, the semicolon may be missing.
pub(crate) fn html_decode(text: &mut Vec<u8>) {
    let (mut from, mut to) = (0, 0);
    while from < text.len() {
        let entity = if text[from] == b'&' { entity(&text[from + 1..]) } else { None };
        let (byte, taken) = entity.map_or((text[from], 1), |(byte, taken)| (byte, taken + 1));
        text[to] = byte;
        (from, to) = (from + taken, to + 1);
    }
    text.truncate(to);
}

/// What an entity stands for, and its length without the ampersand.
fn entity(text: &[u8]) -> Option<(u8, usize)> {
    let semicolon = |taken: usize| taken + usize::from(text.get(taken) == Some(&b';'));
    if let Some(number) = text.strip_prefix(b"#") {
        let (digits, radix, before) = match number {
            [b'x' | b'X', digits @ ..] => (digits, 16, 2),
            digits => (digits, 10, 1),
        };
        let count = digits.iter().take(10).take_while(|d| char::from(**d).is_digit(radix)).count();
        let value = digits[..count].iter().try_fold(0u32, |n, d| {
            n.checked_mul(radix)?.checked_add(char::from(*d).to_digit(radix)?)
        })?;
        let byte = u8::try_from(value).unwrap_or(b'?');
        return (count > 0).then(|| (byte, semicolon(before + count)));
    }
    let length = text.iter().take(8).take_while(|c| c.is_ascii_alphabetic()).count();
    let (_, byte) = ENTITIES.iter().find(|(name, _)| text[..length].eq_ignore_ascii_case(name))?;
    Some((*byte, semicolon(length)))
}

fn remove_nulls(text: &mut Vec<u8>) {
    if text.contains(&0) {
        text.retain(|c| *c != 0);
    }
}

/// Whether anything stood in one.
fn replace_comments(text: &[u8], out: &mut Vec<u8>) -> bool {
    let (mut at, mut hidden) = (0, false);
    while at < text.len() {
        if !text[at..].starts_with(b"/*") {
            out.push(text[at]);
            at += 1;
            continue;
        }
        let inside = at + 2;
        let length = text[inside..].windows(2).position(|pair| pair == b"*/");
        match (text.get(inside), length) {
            (Some(b'!'), _) => {
                let digits = text[inside + 1..].iter().take_while(|c| c.is_ascii_digit()).count();
                out.push(b' ');
                at = inside + 1 + digits;
            }
            (_, Some(length)) => {
                out.push(b' ');
                at = inside + length + 2;
                hidden |= length > 0;
            }
            // One that is not closed hides what the query has behind.
            (_, None) => {
                out.extend_from_slice(&text[at..]);
                at = text.len();
            }
        }
    }
    hidden
}

/// Lower case and compressed white space in one pass.
fn simplify(text: &mut Vec<u8>) {
    let mut to = 0;
    let mut space = None;
    for from in 0..text.len() {
        let byte = text[from].to_ascii_lowercase();
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c) {
            let kind = if matches!(byte, b'\r' | b'\n') { b'\n' } else { b' ' };
            match space {
                Some(at) if kind == b'\n' => text[at] = kind,
                Some(_) => {}
                None => {
                    text[to] = kind;
                    space = Some(to);
                    to += 1;
                }
            }
            continue;
        }
        space = None;
        text[to] = byte;
        to += 1;
    }
    text.truncate(to);
}

fn compress(text: &mut Vec<u8>) {
    let mut before = 0;
    text.retain_mut(|c| {
        let space = c.is_ascii_whitespace() || *c == 0x0b;
        if space {
            *c = b' ';
        }
        let keep = !(space && before == b' ');
        before = *c;
        keep
    });
}

fn normalise_path(text: &mut Vec<u8>) {
    let absolute = matches!(text.first(), Some(b'/' | b'\\'));
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in text.split(|c| matches!(c, b'/' | b'\\')) {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|part| part != b"..") => {
                parts.pop();
            }
            b".." if absolute => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b"/"[..]);
    let end = matches!(text.last(), Some(b'/' | b'\\')) && !joined.is_empty();
    let mut out = Vec::with_capacity(text.len());
    if absolute {
        out.push(b'/');
    }
    out.extend_from_slice(&joined);
    if end {
        out.push(b'/');
    }
    *text = out;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canon(text: &str) -> String {
        let (mut out, mut scratch) = (Vec::new(), Vec::new());
        canonical(text.as_bytes(), true, Comments::Replaced, &mut out, &mut scratch);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn layers_of_encoding_come_off() {
        for (from, to) in [
            ("a+b%20C", "a b c"),
            ("%253Cscript%253E", "<script>"),
            ("%2525253C", "%3c"),
            ("%u003cB%uff1e", "<b>"),
            ("..%c0%af..%c1%9c", "../..\\"),
            ("%e0%80%af%f0%80%81%9C%f8%80%80%80%ae%fc%80%80%80%80%ae", "/\\.."),
            ("%25e0%2580%25af", "/"),
            ("%e0%80%a52e", "."),
            ("\u{e01}\u{915}\u{1f600}%", "\u{e01}\u{915}\u{1f600}%"),
            ("&lt;&#x53;&#99ript&#62;&Tab;", "<script> "),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("un/**/ion/*x*/se%00lect", "un ion select"),
            ("/*!50000union*/", " union*/"),
            ("a /* never closed", "a /* never closed"),
            ("a\t \r\n b", "a\nb"),
            ("&nosuch; &", "&nosuch; &"),
        ] {
            assert_eq!(canon(from), to, "{from}");
        }
    }

    #[test]
    fn overlong_forms_come_off_without_percent_signs() {
        for (from, to) in [
            (&b"..\xc0\xaf..\xe0\x80\xafX"[..], &b"../../x"[..]),
            (b"\xe0\x80\xbcscript\xc0\xbe", b"<script>"),
            (b"\xc0\xa53c", b"<"),
            (b"\xc0\xa6lt;", b"<"),
            (b"a\xc0\xaf*x*/b", b"a b"),
            // None, or none that is whole.
            (b"\xe0\x80\xc0\xf0\x80\x82\x80\xe0\x81", b"\xe0\x80\xc0\xf0\x80\x82\x80\xe0\x81"),
        ] {
            let (mut out, mut scratch) = (Vec::new(), Vec::new());
            canonical(from, true, Comments::Replaced, &mut out, &mut scratch);
            assert_eq!(out.escape_ascii().to_string(), to.escape_ascii().to_string());
        }
        assert!(climbs(b"/a/\xc0\xae.\xe0\x80\xafb") && !climbs(b"/a/\xe0\xb8\x81"));
    }

    #[test]
    fn paths_are_normalised() {
        for (from, to) in [
            ("/a/./b//c/../d/", "/a/b/d/"),
            ("/../../etc", "/etc"),
            ("../x\\..\\y", "../y"),
            ("", ""),
            ("/", "/"),
            ("a/..", ""),
        ] {
            let mut text = from.as_bytes().to_vec();
            apply(Transform::NormalisePath, &mut text);
            assert_eq!(String::from_utf8_lossy(&text), to, "{from}");
        }
    }

    #[test]
    fn words_and_numbers_are_plain() {
        assert!(is_plain(b"abc-1.2_3:4,5@x=") && is_plain(b""));
        for text in ["a b", "<", "a'b", "a/b", "%41", "a+b"] {
            assert!(!is_plain(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_or_grows(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let (mut out, mut scratch) = (Vec::new(), Vec::new());
            canonical(&text, true, Comments::Replaced, &mut out, &mut scratch);
            prop_assert!(out.len() <= text.len());
            for transform in [Transform::UrlDecode, Transform::HtmlEntityDecode, Transform::CompressWhitespace,
                Transform::NormalisePath, Transform::RemoveNulls, Transform::ReplaceComments] {
                let mut changed = text.clone();
                apply(transform, &mut changed);
                prop_assert!(changed.len() <= text.len());
            }
        }

        #[test]
        fn a_plain_text_is_its_canonical_form_in_lower_case(text in "[a-zA-Z0-9_.,:@=-]{0,30}") {
            prop_assert!(is_plain(text.as_bytes()));
            prop_assert_eq!(canon(&text), text.to_ascii_lowercase());
        }

        #[test]
        fn entities_and_escapes_in_any_order(text in "[%&#;/*! x0-9a-fu<']{0,40}") {
            canon(&text);
        }
    }
}
