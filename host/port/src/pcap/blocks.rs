//! Blocks of pcapng (`draft-ietf-opsawg-pcapng`) for a stream of packets from several interfaces,
//! with what is known of each packet beside its bytes. [`super::CaptureWriter`] writes files, of
//! one interface.

use super::ETHERNET;
use super::ng::{BLOCK_FRAME, ENHANCED_PACKET, INTERFACE_DESCRIPTION, SECTION_HEADER};
use super::writer::words;

const INTERFACE_STATISTICS: u32 = 5;
/// In a block of statistics, as [`Blocks::statistics`] writes it, where the packets that were lost
/// are: behind type, length, interface, time, and the option before.
const DROPPED_AT: usize = 36;

/// Options, by the block that has them; `COMMENT` is in all.
const COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
const EPB_PACKETID: u16 = 5;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;

/// Which way a packet went, as its interface saw it (`epb_flags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    Inbound = 1,
    /// It went out.
    Outbound = 2,
}

/// A packet, for [`Blocks::packet`].
#[derive(Clone, Copy, Debug)]
pub struct PacketBlock<'a> {
    /// Number of its interface.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Which way it went.
    pub direction: Direction,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
    /// Bytes that it had.
    pub length: u32,
    /// The same for packets that are one packet at different places; 0 says nothing.
    pub id: u64,
    /// Packets that were lost between the one before and this one.
    pub lost: u64,
    /// What to say of it; nothing if empty.
    pub comment: &'a str,
}

/// Blocks that were made and wait to be written.
#[derive(Debug, Default)]
pub struct Blocks(Vec<u8>);

impl Blocks {
    /// A section of Ethernet interfaces with these names, by a program of this name. Times are
    /// nanoseconds; packets have at most `snap_length` bytes.
    pub fn section(&mut self, program: &str, interfaces: &[String], snap_length: u32) {
        self.block(SECTION_HEADER, |body| {
            body.extend(words::<4, 16>([0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
            option(body, SHB_USERAPPL, program.as_bytes());
            end_of_options(body);
        });
        for name in interfaces {
            self.block(INTERFACE_DESCRIPTION, |body| {
                body.extend(words::<2, 8>([u32::from(ETHERNET), snap_length]));
                option(body, IF_NAME, name.as_bytes());
                option(body, IF_TSRESOL, &[9]);
                end_of_options(body);
            });
        }
    }

    /// A packet.
    pub fn packet(&mut self, packet: &PacketBlock<'_>) {
        self.block(ENHANCED_PACKET, |body| {
            let [high, low] = halves(packet.time);
            let captured = packet.bytes.len() as u32;
            body.extend(words::<5, 20>([packet.interface, high, low, captured, packet.length]));
            padded(body, packet.bytes);
            if !packet.comment.is_empty() {
                option(body, COMMENT, packet.comment.as_bytes());
            }
            option(body, EPB_FLAGS, &(packet.direction as u32).to_le_bytes());
            if packet.lost > 0 {
                option(body, EPB_DROPCOUNT, &packet.lost.to_le_bytes());
            }
            if packet.id > 0 {
                option(body, EPB_PACKETID, &packet.id.to_le_bytes());
            }
            end_of_options(body);
        });
    }

    /// What an interface has had in all: packets that it was shown, and those of them that were
    /// lost.
    pub fn statistics(&mut self, interface: u32, time: u64, received: u64, dropped: u64) {
        self.block(INTERFACE_STATISTICS, |body| {
            let [high, low] = halves(time);
            body.extend(words::<3, 12>([interface, high, low]));
            option(body, ISB_IFRECV, &received.to_le_bytes());
            option(body, ISB_IFDROP, &dropped.to_le_bytes());
            end_of_options(body);
        });
    }

    /// Takes what was made.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend(words::<2, 8>([kind, 0]));
        body(&mut self.0);
        let length = (self.0.len() - start + 4) as u32;
        self.0[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        self.0.extend(length.to_le_bytes());
    }
}

/// What is in a stream of [`Blocks`], counted as it arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Packets.
    pub packets: u64,
    /// Packets that were lost, by the interfaces' statistics.
    pub lost: u64,
}

impl BlockCounts {
    /// Counts the blocks that are there from end to end; the answer is where the last one ends.
    pub fn count(&mut self, bytes: &[u8]) -> usize {
        let word = |at: usize| {
            bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes)
        };
        let mut at = 0;
        while let (Some(kind), Some(length)) = (word(at), word(at + 4)) {
            let length = length as usize;
            if length < BLOCK_FRAME || bytes.len() - at < length {
                break;
            }
            match kind {
                ENHANCED_PACKET => self.packets += 1,
                INTERFACE_STATISTICS => self.lost += u64::from(word(at + DROPPED_AT).unwrap_or(0)),
                _ => {}
            }
            at += length;
        }
        at
    }
}

fn halves(time: u64) -> [u32; 2] {
    [(time >> 32) as u32, (time & 0xffff_ffff) as u32]
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    // What does not fit an option's length is not said.
    let value = &value[..value.len().min(u16::MAX.into())];
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    padded(body, value);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len() + bytes.len().next_multiple_of(4) - bytes.len(), 0);
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::pcap::CaptureReader;

    #[test]
    fn others_read_what_is_written() {
        let mut blocks = Blocks::default();
        blocks.section("weir", &["wan".to_owned(), "lan".to_owned()], 60);
        let frame: Vec<u8> = (0..61).collect();
        let packet = PacketBlock {
            interface: 0,
            time: 1_700_000_000_123_456_789,
            direction: Direction::Inbound,
            bytes: &frame[..60],
            length: 61,
            id: 7,
            lost: 0,
            comment: "",
        };
        blocks.packet(&packet);
        let out = Direction::Outbound;
        blocks.packet(&PacketBlock {
            interface: 1,
            direction: out,
            lost: 3,
            comment: "drop 1",
            bytes: &frame[..59],
            ..packet
        });
        blocks.statistics(0, packet.time, 2, 3);

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.pcapng");
        std::fs::write(&file, blocks.take()).unwrap();
        let mut reader = CaptureReader::open(&file).unwrap();
        for bytes in [60, 59] {
            let captured = reader.next().unwrap().unwrap();
            assert_eq!((captured.time, captured.cut), (packet.time, 61 - bytes));
            assert_eq!(reader.data(), &frame[..bytes as usize]);
            reader.pass();
        }
        assert!(reader.next().unwrap().is_none());

        let mut tshark = Command::new("tshark");
        tshark.args(["-T", "fields", "-e", "frame.interface_name", "-e", "frame.time_epoch"]);
        tshark.args([
            "-e",
            "frame.len",
            "-e",
            "frame.packet_flags_direction",
            "-e",
            "frame.packet_id",
        ]);
        tshark.args(["-e", "frame.drop_count", "-e", "frame.comment", "-r"]).arg(&file);
        let output = tshark.output().expect("tshark is installed where tests are run");
        let text = String::from_utf8(output.stdout).unwrap();
        let time = "1700000000.123456789";
        let expected = format!(
            "wan\t{time}\t61\t0x00000001\t7\t\t\nlan\t{time}\t61\t0x00000002\t7\t3\tdrop 1\n"
        );
        assert_eq!(text, expected, "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn blocks_are_counted_when_they_are_whole() {
        let mut blocks = Blocks::default();
        blocks.section("weir", &["in".to_owned()], 65_536);
        let packet = PacketBlock {
            interface: 0,
            time: 1,
            direction: Direction::Inbound,
            bytes: &[1; 61],
            length: 61,
            id: 0,
            lost: 0,
            comment: "",
        };
        blocks.packet(&packet);
        blocks.statistics(0, 1, 8, 7);
        let bytes = blocks.take();
        // However they arrive, each is counted once.
        for step in [1, 7, 64, bytes.len()] {
            let (mut seen, mut rest, mut written) = (BlockCounts::default(), Vec::new(), 0);
            for part in bytes.chunks(step) {
                rest.extend_from_slice(part);
                let whole = seen.count(&rest);
                rest.drain(..whole);
                written += whole;
            }
            assert_eq!((seen.packets, seen.lost, written), (1, 7, bytes.len()));
        }
    }
}
