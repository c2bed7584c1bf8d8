//! The Internet checksum (RFC 1071), and how to change it with the bytes that it covers (RFC 1624).
//!
//! Owns: arithmetic only. Checksums and 16-bit words are numbers as in a header: write them with
//! `to_be_bytes`.
//!
//! ```
//! use weir_sdk::checksum;
//!
//! // An IPv4 header with its checksum field 0.
//! let header = [
//!     0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7,
//! ];
//! assert_eq!(checksum::internet(&header), 0xb861);
//! ```

/// The one's complement sum of bytes, as 16-bit words, for [`fold`]; sums of parts can be added, if
/// all but the last part have an even length.
#[must_use]
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    // Byte order does not matter until the end (RFC 1071, section 2 (B)), nor does the width of
    // words (section 2 (C)); in this form the compiler uses vectors.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum = words.iter().fold(0_u64, |sum, word| sum + u64::from(u32::from_le_bytes(*word)));
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_le_bytes(last));
    u64::from(fold(sum).swap_bytes())
}

/// A sum in 16 bits, not complemented.
#[must_use]
#[inline]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The checksum of bytes whose checksum field is 0; 0 for bytes whose field is right.
#[must_use]
#[inline]
pub fn internet(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Whether the checksum of an IPv4 header without options is right; as `internet(header) == 0`, for
/// a fourth of the instructions.
#[must_use]
#[inline]
pub fn is_right(header: &[u8; 20]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_le_bytes(*word))).sum();
    // Folding keeps the remainder by 2^16 - 1, and only a header of zeros sums up to 0.
    sum != 0 && sum.is_multiple_of(0xffff)
}

/// The sum of the pseudo header of TCP and UDP over IPv4 (RFC 9293, section 3.1), for a segment of
/// so many bytes.
#[must_use]
#[inline]
pub fn pseudo_v4(source: u32, destination: u32, protocol: u8, length: u16) -> u64 {
    u64::from(source) + u64::from(destination) + u64::from(protocol) + u64::from(length)
}

/// The sum of the pseudo header of protocols over IPv6 (RFC 8200, section 8.1), for a segment of so
/// many bytes.
#[must_use]
#[inline]
pub fn pseudo_v6(source: u128, destination: u128, protocol: u8, length: u32) -> u64 {
    let words = |address: u128| {
        [address >> 96, address >> 64, address >> 32, address]
            .into_iter()
            .fold(0, |sum, word| sum + u64::from(word as u32))
    };
    words(source) + words(destination) + u64::from(protocol) + u64::from(length)
}

/// The checksum of a segment, whose checksum field is 0, with a pseudo header's sum. For UDP see
/// [`udp`].
#[must_use]
#[inline]
pub fn transport(pseudo: u64, segment: &[u8]) -> u16 {
    !fold(pseudo + sum(segment))
}

/// A checksum as UDP writes it: 0 would mean that there is none (RFC 768).
#[must_use]
#[inline]
pub fn udp(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The checksum after a word changed (RFC 1624, equation 3). Never do this to a UDP checksum of 0.
#[must_use]
#[inline]
pub fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    update(checksum, u64::from(!old) + u64::from(new))
}

/// The checksum after two adjacent words changed, such as an IPv4 address; it must lie at an even
/// offset.
#[must_use]
#[inline]
pub fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    update(checksum, u64::from(!old) + u64::from(new))
}

/// The checksum after an IPv6 address changed.
#[must_use]
#[inline]
pub fn update128(checksum: u16, old: u128, new: u128) -> u16 {
    let difference = [0, 32, 64, 96].into_iter().fold(0, |sum, shift| {
        sum + u64::from(!((old >> shift) as u32)) + u64::from((new >> shift) as u32)
    });
    update(checksum, difference)
}

/// The checksum after any words changed, by the sum of the complements of the old words and of the
/// new ones. Computed once per flow, it translates packets of that flow with one addition.
#[must_use]
#[inline]
pub fn update(checksum: u16, difference: u64) -> u16 {
    !fold(u64::from(!checksum) + difference)
}

/// As [`update`], of a difference that was folded before: a handful of instructions.
#[must_use]
#[inline]
pub fn adjust(checksum: u16, difference: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(difference);
    !((sum + (sum >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, section 4.1, line by line.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
    }

    #[test]
    fn a_header_of_zeros_is_wrong() {
        assert_eq!((is_right(&[0; 20]), internet(&[0; 20])), (false, 0xffff));
    }

    #[test]
    fn the_examples_of_rfc_1624() {
        // Section 4: the header's sum was 0xCD7A and 0x5555 becomes 0x3285.
        assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..3000), cut in any::<prop::sample::Index>()) {
            let expected = reference(&bytes);
            prop_assert_eq!(fold(sum(&bytes)), expected);
            let (a, b) = bytes.split_at(cut.index(bytes.len() + 1) & !1);
            prop_assert_eq!(fold(sum(a) + sum(b)), expected);
        }

        #[test]
        fn a_header_is_right_or_not(mut header: [u8; 20], right: bool) {
            if right {
                header[10..12].fill(0);
                let sum = internet(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            prop_assert_eq!(is_right(&header), internet(&header) == 0);
        }

        #[test]
        fn updates_give_what_a_new_sum_gives(
            mut packet in prop::array::uniform32(any::<u8>()), new in any::<[u8; 16]>(),
        ) {
            // A header with an address has a version, so that its sum is not 0 (RFC 1624, section
            // 3).
            packet[31] |= 1;
            let before = internet(&packet);
            let mut after = packet;
            after[6..8].copy_from_slice(&new[..2]);
            let word = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
            prop_assert_eq!(update16(before, word(&packet[6..]), word(&new)), internet(&after));
            let mut after = packet;
            after[2..6].copy_from_slice(&new[..4]);
            let words = |bytes: &[u8]| u32::from_be_bytes(*bytes.first_chunk().unwrap());
            prop_assert_eq!(update32(before, words(&packet[2..]), words(&new)), internet(&after));
            let mut after = packet;
            after[8..24].copy_from_slice(&new);
            let address = |bytes: &[u8]| u128::from_be_bytes(*bytes.first_chunk().unwrap());
            prop_assert_eq!(update128(before, address(&packet[8..]), address(&new)), internet(&after));
        }

        #[test]
        fn pseudo_headers(
            source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(),
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let four = |a: [u8; 16]| [a[0], a[1], a[2], a[3]];
            let header = etherparse::UdpHeader::with_ipv4_checksum(
                7, 8, &etherparse::Ipv4Header::new(0, 1, etherparse::IpNumber::UDP, four(source), four(destination)).unwrap(),
                &payload,
            ).unwrap();
            let mut segment = header.to_bytes().to_vec();
            segment[6..8].fill(0);
            segment.extend_from_slice(&payload);
            let pseudo = pseudo_v4(
                u32::from_be_bytes(four(source)), u32::from_be_bytes(four(destination)), 17, segment.len() as u16);
            prop_assert_eq!(udp(transport(pseudo, &segment)), header.checksum);

            let expected = header.calc_checksum_ipv6_raw(source, destination, &payload).unwrap();
            let pseudo = pseudo_v6(
                u128::from_be_bytes(source), u128::from_be_bytes(destination), 17, segment.len() as u32);
            prop_assert_eq!(udp(transport(pseudo, &segment)), expected);
        }
    }
}
