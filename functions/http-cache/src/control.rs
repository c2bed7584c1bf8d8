//! What `cache-control` says (RFC 9111, section 5.2; RFC 5861), and what follows from a response's
//! fields.
//!
//! Owns: freshness and whether a response may be stored. Must not know: where it is stored.

use weir_sdk::message::Head;

use crate::date;

/// Directives. Numbers are seconds; of one that is there twice, the smaller counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<u64>,
    pub(crate) shared_max_age: Option<u64>,
    pub(crate) min_fresh: Option<u64>,
    /// Without a number, any staleness.
    pub(crate) max_stale: Option<u64>,
    pub(crate) stale_while_revalidate: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
}

/// The longest time that is told apart (RFC 9111, section 1.2.2).
const LONG: u64 = 1 << 31;

impl Control {
    /// Reads all `cache-control` fields. A directive whose number is none counts as 0: stale.
    pub(crate) fn read<'a>(values: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut control = Self::default();
        for value in values {
            for directive in directives(value) {
                control.directive(directive);
            }
        }
        control
    }

    /// Whether a response to a request with `authorization` is for others, too (RFC 9111, section
    /// 3.5).
    pub(crate) fn for_all(&self) -> bool {
        self.public || self.shared_max_age.is_some() || self.must_revalidate
    }

    fn directive(&mut self, directive: &[u8]) {
        let equals = directive.iter().position(|c| *c == b'=');
        let (name, value) = match equals {
            Some(at) => (&directive[..at], Some(&directive[at + 1..])),
            None => (directive, None),
        };
        let is = |other: &[u8]| name.trim_ascii().eq_ignore_ascii_case(other);
        let seconds = || value.and_then(number).unwrap_or(0);
        let least = |known: &mut Option<u64>, new: u64| {
            *known = Some(known.map_or(new, |known| known.min(new)));
        };
        if is(b"no-store") {
            self.no_store = true;
        } else if is(b"no-cache") {
            // Also of single fields: those could be left out, to ask is always right.
            self.no_cache = true;
        } else if is(b"private") {
            self.private = true;
        } else if is(b"public") {
            self.public = true;
        } else if is(b"must-revalidate") || is(b"proxy-revalidate") {
            self.must_revalidate = true;
        } else if is(b"only-if-cached") {
            self.only_if_cached = true;
        } else if is(b"max-age") {
            least(&mut self.max_age, seconds());
        } else if is(b"s-maxage") {
            least(&mut self.shared_max_age, seconds());
        } else if is(b"min-fresh") {
            self.min_fresh = Some(seconds());
        } else if is(b"max-stale") {
            self.max_stale = Some(value.map_or(u64::MAX, |value| number(value).unwrap_or(0)));
        } else if is(b"stale-while-revalidate") {
            least(&mut self.stale_while_revalidate, seconds());
        } else if is(b"stale-if-error") {
            least(&mut self.stale_if_error, seconds());
        }
    }
}

/// The parts of a list, which may have quoted texts in it.
fn directives(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    value
        .split(move |c| {
            quoted ^= *c == b'"';
            *c == b',' && !quoted
        })
        .map(<[u8]>::trim_ascii)
}

fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\"")).unwrap_or(text);
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = text.iter().fold(0u64, |n, d| (n * 10 + u64::from(d - b'0')).min(LONG));
    Some(value)
}

/// What a cache has to know of a response's age and freshness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Freshness {
    pub(crate) control: Control,
    /// Seconds that it is fresh for.
    pub(crate) lifetime: u64,
    /// Its age when it came, in seconds (RFC 9111, section 4.2.3).
    pub(crate) initial_age: u64,
    /// When it came.
    pub(crate) received: u64,
}

impl Freshness {
    /// Reads a response's fields; `asked` is when the request left, `now` when the response came. A
    /// heuristic lifetime is `percent` of its age since it was changed, and `most` seconds.
    pub(crate) fn of(head: &Head<'_>, asked: u64, now: u64, percent: u64, most: u64) -> Self {
        let control = Control::read(head.all("cache-control"));
        let date_of = |name: &str| head.field(name).and_then(|text| date::read(text, now));
        let date = date_of("date").unwrap_or(now);
        let expires = head.field("expires").map(|text| date::read(text, now).unwrap_or(0));
        let lifetime = match (control.shared_max_age.or(control.max_age), expires) {
            (Some(seconds), _) => seconds,
            (None, Some(at)) => at.saturating_sub(date),
            (None, None) => match date_of("last-modified") {
                Some(changed) => (date.saturating_sub(changed) * percent / 100).min(most),
                None => 0,
            },
        };
        let apparent = now.saturating_sub(date);
        let told = head.field("age").and_then(number).unwrap_or(0);
        let corrected = told + now.saturating_sub(asked);
        Self { control, lifetime, initial_age: apparent.max(corrected), received: now }
    }

    /// Its age in seconds.
    pub(crate) fn age(&self, now: u64) -> u64 {
        self.initial_age + now.saturating_sub(self.received)
    }
}

/// Statuses that are stored without being told how long (RFC 9110, section 15.1).
pub(crate) fn is_heuristic(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Control {
        Control::read([text.as_bytes()].into_iter())
    }

    #[test]
    fn directives_are_read() {
        let control = read(
            "Public, MAX-AGE=60 , s-maxage=\"30\", private=\"a, no-store\", stale-while-revalidate=5",
        );
        assert_eq!((control.max_age, control.shared_max_age), (Some(60), Some(30)));
        assert!(control.public && control.private && !control.no_store);
        assert_eq!(control.stale_while_revalidate, Some(5));
        assert_eq!(read("max-age=60, max-age=10").max_age, Some(10), "the smaller");
        assert_eq!(read("max-age=x").max_age, Some(0), "what is no number is stale");
        assert_eq!(read("max-age=-1").max_age, Some(0));
        assert_eq!(read("max-age=99999999999999999999").max_age, Some(LONG));
        assert_eq!(read("max-stale").max_stale, Some(u64::MAX));
        assert_eq!(read(""), Control::default());
        let two = Control::read([&b"no-cache"[..], b"no-store"].into_iter());
        assert!(two.no_cache && two.no_store);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~]{0,60}") {
            read(&text);
        }
    }
}
