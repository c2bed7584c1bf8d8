//! Wall-clock time as the API shows it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Now, RFC 3339.
pub(crate) fn now() -> String {
    text(milliseconds())
}

/// Nanoseconds since 1970 as RFC 3339, for [`crate::engine::LogLine`].
#[must_use]
pub fn rfc3339(nanoseconds: u64) -> String {
    text(nanoseconds / 1_000_000)
}

/// A time in RFC 3339, in UTC, so much earlier, as all others are written; none if it is none.
#[must_use]
pub fn before(time: &str, by: Duration) -> Option<String> {
    let since = humantime::parse_rfc3339(time).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(text(u64::try_from(since.saturating_sub(by).as_millis()).ok()?))
}

/// Milliseconds since 1970 as RFC 3339.
pub(crate) fn text(milliseconds: u64) -> String {
    // The formatter ends with the year 9999.
    let time = UNIX_EPOCH + Duration::from_millis(milliseconds.min(253_402_300_799_999));
    humantime::format_rfc3339_millis(time).to_string()
}
