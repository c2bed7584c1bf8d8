//! Reads a capture through once to know what is in it, before a replay sizes its rooms.

use std::path::Path;

use crate::PortError;

use super::reader::CaptureReader;

/// What a capture holds.
#[derive(Debug)]
pub struct CaptureInfo {
    /// Packets that can be read.
    pub packets: u64,
    /// Captured bytes of all of them.
    pub bytes: u64,
    /// Captured bytes of the longest.
    pub longest: u32,
    /// Packets whose end was not captured.
    pub truncated: u64,
    /// Earliest and latest time, in nanoseconds since 1970; `None` without packets.
    pub span: Option<(u64, u64)>,
    /// True when timestamps are finer than microseconds.
    pub nanoseconds: bool,
    /// True for pcapng, false for the classic format.
    pub is_ng: bool,
    /// What is wrong with the file behind the last of these packets.
    pub damage: Option<PortError>,
}

/// Reads a whole capture.
///
/// # Errors
/// When it cannot be opened, is no capture, or its packets are known not to be Ethernet. Damage
/// further on is not an error here but noted in the answer.
pub fn scan(path: &Path) -> Result<CaptureInfo, PortError> {
    let mut reader = CaptureReader::open(path)?;
    let mut info = CaptureInfo {
        packets: 0,
        bytes: 0,
        longest: 0,
        truncated: 0,
        span: None,
        nanoseconds: false,
        is_ng: reader.is_ng(),
        damage: None,
    };
    loop {
        match reader.next() {
            Ok(Some(packet)) => {
                info.packets += 1;
                info.bytes += u64::from(packet.length);
                info.longest = info.longest.max(packet.length);
                info.truncated += u64::from(packet.cut > 0);
                let (first, last) = info.span.unwrap_or((packet.time, packet.time));
                info.span = Some((first.min(packet.time), last.max(packet.time)));
                reader.pass();
            }
            Ok(None) => break,
            Err(error) => {
                info.damage = Some(error);
                break;
            }
        }
    }
    info.nanoseconds = reader.nanoseconds();
    Ok(info)
}
