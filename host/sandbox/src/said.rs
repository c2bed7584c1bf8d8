//! What functions say, made fit to be shown: whoever reads it reads it on a terminal, and among
//! other lines.

use std::borrow::Cow;

/// Bytes that are kept of a text.
const TEXT_MAX: usize = 4096;

/// A text that a function decided about, as one line: a space for each control character, and no
/// more than 4,096 bytes.
#[must_use]
pub fn one_line(text: &str) -> Cow<'_, str> {
    let text = &text[..text.floor_char_boundary(TEXT_MAX)];
    if text.contains(char::is_control) {
        Cow::Owned(text.replace(char::is_control, " "))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_that_moves_no_cursor_and_has_an_end() {
        assert_eq!(one_line("plain: \u{e4}"), "plain: \u{e4}");
        assert_eq!(one_line("a\nb\x1b[2J\u{9b}1m"), "a b [2J 1m");
        assert_eq!(one_line(&"\u{e4}".repeat(10_000)).len(), TEXT_MAX);
    }
}
