//! Hardware addresses in messages of IPv6's neighbour discovery (RFC 4861).

use crate::neighbours::Mac;

/// Where options begin, by type: router solicitation, router advertisement, neighbour solicitation,
/// neighbour advertisement, redirect.
const OPTIONS: [(u8, usize); 5] = [(133, 8), (134, 16), (135, 24), (136, 24), (137, 40)];
/// Options with a hardware address: of the source, of the target.
const WITH_ADDRESS: [u8; 2] = [1, 2];

/// The places of hardware addresses in a message.
fn places(message: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let begin = OPTIONS.iter().find(|(kind, _)| message.first() == Some(kind)).map(|found| found.1);
    let mut places = [None; 2];
    let mut at = begin.unwrap_or(message.len());
    for _ in 0..16 {
        let Some([kind, units]) = message.get(at..at + 2).and_then(|b| <[u8; 2]>::try_from(b).ok())
        else {
            break;
        };
        let length = usize::from(units) * 8;
        if length == 0 || message.len() < at + length {
            break;
        }
        if let Some(place) = WITH_ADDRESS.iter().position(|with| *with == kind) {
            places[place].get_or_insert(at + 2);
        }
        at += length;
    }
    places.into_iter().flatten()
}

/// The first hardware address in a message.
pub(crate) fn address(message: &[u8]) -> Option<Mac> {
    places(message).next().and_then(|at| message.get(at..at + 6)?.try_into().ok())
}

/// Puts an address in place of those in a message that `is` says, and keeps the checksum right.
pub(crate) fn replace(message: &mut [u8], with: Mac, is: impl Fn(Mac) -> bool) {
    for at in places(message) {
        let Some(old) = message.get(at..at + 6).and_then(|bytes| Mac::try_from(bytes).ok()) else {
            continue;
        };
        if !is(old) {
            continue;
        }
        message[at..at + 6].copy_from_slice(&with);
        let sum = u16::from_be_bytes([message[2], message[3]]);
        // Options lie at even places.
        message[2..4].copy_from_slice(&updated(sum, old, with).to_be_bytes());
    }
}

/// A checksum after some of what it is over was changed (RFC 1624, equation 3).
fn updated(sum: u16, old: Mac, new: Mac) -> u16 {
    let words = |mac: Mac| [0, 2, 4].map(|n| u16::from_be_bytes([mac[n], mac[n + 1]]));
    let mut total = u32::from(!sum);
    for (old, new) in words(old).into_iter().zip(words(new)) {
        total += u32::from(!old) + u32::from(new);
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}
