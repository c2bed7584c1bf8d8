//! Whether functions may have left what lies in a room.

use std::ops::Range;

use http::StatusCode;
use weir_layout::message::{Head, Part};

use super::take::{new_authority, request_line};
use super::{Broken, broken};

/// Whether functions may have left these entries in a head's table; who takes the head over looks
/// at the rest, and at all of it once more. Costs a look at each byte, where taking it over makes a
/// map of it.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check_fields(head: &Head<&[u8]>, entries: Range<usize>) -> Result<(), Broken> {
    for entry in entries {
        let Some((name, value)) = head.entry(entry) else {
            return broken(format!("field {entry} does not lie within the room"));
        };
        // Without a way out in the middle: good ones are what counts.
        if !name.iter().fold(true, |good, byte| good & NAME[usize::from(*byte)]) {
            let name = String::from_utf8_lossy(name);
            return broken(format!(
                "field {entry} is named {name:?}: allowed are lower-case tokens"
            ));
        }
        let visible = |byte: u8| (byte >= 0x20) & (byte != 0x7f) | (byte == b'\t');
        if !value.iter().fold(true, |good, byte| good & visible(*byte)) {
            let name = String::from_utf8_lossy(name);
            return broken(format!("field {name} has a control character in its value"));
        }
    }
    Ok(())
}

/// Characters of a field's name: those of a token (RFC 9110 section 5.6.2) without upper case.
const NAME: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        allowed[byte] = c.is_ascii_lowercase()
            || c.is_ascii_digit()
            || matches!(
                c,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    allowed
};

/// The status, if functions may have left it where this was: what a server says is no fault of
/// theirs.
pub(super) fn check_status(room: &[u8], before: u16) -> Result<StatusCode, Broken> {
    let status = head(room)?.status();
    match StatusCode::from_u16(status) {
        Ok(code) if status == before || (200..600).contains(&status) => Ok(code),
        _ => broken(format!("its status is {status}, allowed are 200 to 599")),
    }
}

/// Whether functions may have left this as the status of a response that was laid out as `before`.
pub(crate) fn check_status_line(room: &[u8], before: &[u8]) -> Result<(), Broken> {
    check_status(room, head(before)?.status()).map(drop)
}

/// Whether functions may have left this as method, target and authority of a request that was laid
/// out as `before`.
pub(crate) fn check_request_line(room: &[u8], before: &[u8]) -> Result<(), Broken> {
    let (now, before) = (head(room)?, head(before)?);
    let same = |part| now.part(part).is_some_and(|now| before.part(part) == Some(now));
    if ![Part::Method, Part::Path].into_iter().all(same) {
        request_line(room)?;
    }
    if !same(Part::Authority) {
        new_authority(room)?;
    }
    Ok(())
}

/// What is used of a room with a head in it.
pub(crate) fn used(room: &[u8]) -> Result<&[u8], Broken> {
    Ok(&room[..head(room)?.used()])
}

/// A view of the head that lies there.
pub(super) fn head(bytes: &[u8]) -> Result<Head<&[u8]>, Broken> {
    match Head::new(bytes) {
        Some(head) => Ok(head),
        None => broken("there are too few bytes for one"),
    }
}
