//! Rates and bursts as an operator writes them.
//!
//! Owns: the units. Must not know: what is limited.

/// What a bucket's tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes of the IP packet, as in RFC 2697.
    Bytes,
    /// Packets.
    Packets,
}

/// Suffixes of rates, what they count, and how many eighths of a token one is.
const RATES: [(&str, Unit, u64); 11] = [
    ("gbit", Unit::Bytes, 1_000_000_000),
    ("mbit", Unit::Bytes, 1_000_000),
    ("kbit", Unit::Bytes, 1_000),
    ("bit", Unit::Bytes, 1),
    ("mpps", Unit::Packets, 8_000_000),
    ("kpps", Unit::Packets, 8_000),
    ("pps", Unit::Packets, 8),
    ("gb", Unit::Bytes, 8_000_000_000),
    ("mb", Unit::Bytes, 8_000_000),
    ("kb", Unit::Bytes, 8_000),
    ("b", Unit::Bytes, 8),
];

/// Suffixes of bursts.
const BURSTS: [(&str, Unit, u64); 9] = [
    ("packets", Unit::Packets, 1),
    ("kib", Unit::Bytes, 1 << 10),
    ("mib", Unit::Bytes, 1 << 20),
    ("gib", Unit::Bytes, 1 << 30),
    ("kb", Unit::Bytes, 1_000),
    ("mb", Unit::Bytes, 1_000_000),
    ("gb", Unit::Bytes, 1_000_000_000),
    ("bytes", Unit::Bytes, 1),
    ("b", Unit::Bytes, 1),
];

/// Reads a rate such as `10Mbit` or `1000pps` (`/s` may follow) as tokens per second.
pub(crate) fn rate(text: &str) -> Result<(u64, Unit), String> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("/s").unwrap_or(&lower);
    let wrong = || {
        format!(
            "rate: \"{text}\" is not a rate such as \"10Mbit\", \"2.5Gbit\", \"64KB/s\" or \"1000pps\""
        )
    };
    let (eighths, unit) = suffixed(lower, &RATES).ok_or_else(wrong)?;
    match eighths / 8 {
        0 => Err(format!("rate: \"{text}\" is less than one byte or packet a second")),
        tokens => Ok((tokens, unit)),
    }
}

/// Reads a burst such as `64KiB` or `100 packets`; a bare number counts what the rate counts.
pub(crate) fn burst(text: &str, unit: Unit) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower.parse().ok().map(|number| (number, unit));
    match bare.or_else(|| suffixed(&lower, &BURSTS)) {
        Some((tokens, of)) if of == unit => Ok(tokens),
        Some(_) => Err(format!(
            "burst: \"{text}\" and the rate count different things; a rate in bits or bytes needs a \
             burst in bytes, a rate in packets a burst in packets"
        )),
        None => Err(format!(
            "burst: \"{text}\" is not a number of bytes or packets such as \"64KiB\" or 100"
        )),
    }
}

/// Splits number and suffix; up to three decimals.
fn suffixed(text: &str, suffixes: &[(&str, Unit, u64)]) -> Option<(u64, Unit)> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, suffix) = text.split_at(digits);
    let &(_, unit, scale) = suffixes.iter().find(|(name, ..)| *name == suffix.trim_start())?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if decimals.is_empty() || decimals.len() > 3 {
        return None;
    }
    let thousandths: u64 = format!("{decimals:0<3}").parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    let fraction = scale.checked_mul(thousandths)? / 1000;
    Some((whole.checked_mul(scale)?.checked_add(fraction)?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        for (text, tokens, unit) in [
            ("10Mbit", 1_250_000, Unit::Bytes),
            ("10 mbit/s", 1_250_000, Unit::Bytes),
            ("2.5Gbit", 312_500_000, Unit::Bytes),
            ("64KB/s", 64_000, Unit::Bytes),
            ("8bit", 1, Unit::Bytes),
            ("1000pps", 1_000, Unit::Packets),
            ("1.25Mpps", 1_250_000, Unit::Packets),
        ] {
            assert_eq!(rate(text).unwrap(), (tokens, unit), "{text}");
        }
        for text in ["", "10", "Mbit", "-1Mbit", "1e3pps", "10Xbit", "1..5bit", "1.bit", ".5pps"] {
            assert!(rate(text).unwrap_err().contains("is not a rate such as"), "{text}");
        }
        assert!(rate("99999999999999999999Gbit").is_err());
        assert!(rate("18446744073709551615Gbit").is_err());
        assert!(rate("7bit").unwrap_err().contains("less than one"));
    }

    #[test]
    fn bursts_are_read() {
        assert_eq!(burst("64KiB", Unit::Bytes).unwrap(), 65_536);
        assert_eq!(burst("1.5 MB", Unit::Bytes).unwrap(), 1_500_000);
        assert_eq!(burst("100 packets", Unit::Packets).unwrap(), 100);
        assert_eq!(burst("100", Unit::Packets).unwrap(), 100);
        assert!(burst("64KiB", Unit::Packets).unwrap_err().contains("different things"));
        assert!(burst("lots", Unit::Bytes).unwrap_err().contains("is not a number"));
    }
}
