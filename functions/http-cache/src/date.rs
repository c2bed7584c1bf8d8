//! Dates of HTTP (RFC 9110, section 5.6.7), in seconds since 1970.
//!
//! Owns: reading all three forms. The calendar is Hinnant's (`days_from_civil`).

const MONTHS: [&[u8]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// Reads a date: `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT` or `Sun Nov 6
/// 08:49:37 1994`. Years of two digits are within 50 years of `now`.
pub(crate) fn read(text: &[u8], now: u64) -> Option<u64> {
    let mut words = [&b""[..]; 6];
    let mut count = 0;
    for word in text.split(|c| matches!(c, b' ' | b'-')).filter(|word| !word.is_empty()) {
        *words.get_mut(count)? = word;
        count += 1;
    }
    let (day, month, year, time) = match words {
        [_, day, month, year, time, b"GMT"] => (day, month, year, time),
        [_, month, day, time, year, b""] if count == 5 => (day, month, year, time),
        _ => return None,
    };
    let number = |text: &[u8], most: u64| {
        let digits = (1..=4).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
        let value = text.iter().fold(0, |n, digit| n * 10 + u64::from(digit.wrapping_sub(b'0')));
        (digits && value <= most).then_some(value)
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year = match year.len() {
        2 => {
            let this = civil(now / 86_400).0;
            let year = this / 100 * 100 + number(year, 99)?;
            if year > this + 50 { year - 100 } else { year }
        }
        4 => number(year, 9999)?,
        _ => return None,
    };
    let mut parts = time.split(|c| *c == b':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?);
    // A leap second is the next one here.
    let time = number(hour, 23)? * 3600 + number(minute, 59)? * 60 + number(second, 60)?;
    let day = number(day, 31).filter(|day| *day > 0)?;
    if year < 1970 {
        return Some(0);
    }
    Some(days(year, month, day) * 86_400 + time)
}

/// Days since 1970 of a day in the calendar, from 1970 on.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The calendar's year, month and day.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

    /// Writes a date.
    fn write(seconds: u64) -> String {
        let (year, month, day) = civil(seconds / 86_400);
        let name = DAYS[(seconds / 86_400 % 7) as usize];
        let month = String::from_utf8_lossy(MONTHS[month as usize - 1]);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        format!("{name}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
    }

    #[test]
    fn the_rfcs_examples() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(read(text.as_bytes(), 1_700_000_000), Some(784_111_777), "{text}");
        }
        assert_eq!(write(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "Sun, 06 Nov 1994",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 08:49:37 GMT x y",
        ] {
            assert_eq!(read(text.as_bytes(), 1_700_000_000), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0u64..250_000_000_000) {
            prop_assert_eq!(read(write(seconds).as_bytes(), 0), Some(seconds));
        }

        #[test]
        fn no_text_panics(text in "[ -~]{0,40}") {
            read(text.as_bytes(), 1_700_000_000);
        }
    }
}
