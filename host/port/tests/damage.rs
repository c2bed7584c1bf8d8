//! Captures that are broken, of the wrong kind, or hostile: everything before the damage is
//! delivered, the error says what and where, and nothing panics.

mod common;

use std::io;
use std::path::Path;

use common::{Endian, file, read};
use proptest::prelude::*;
use tempfile::tempdir;
use weir_port::PortError;
use weir_port::pcap::{CaptureReader, PcapConfig, PcapPort, scan};

const LITTLE: Endian = Endian { big: false };

/// Three packets in each format, and where each record ends.
fn intact() -> [(Vec<u8>, Vec<usize>); 2] {
    let classic = [
        LITTLE.classic(0xa1b2_c3d4, 1),
        LITTLE.record(1, 0, &[1; 60], 60),
        LITTLE.record(2, 0, &[2; 61], 61),
        LITTLE.record(3, 0, &[3; 62], 62),
    ];
    let ng = [
        [LITTLE.section(), LITTLE.interface(1, 0, None, 0)].concat(),
        LITTLE.enhanced(0, 1, &[1; 60], 60),
        [LITTLE.block(0xbad, &[9; 40]), LITTLE.enhanced(0, 2, &[2; 61], 61)].concat(),
        LITTLE.simple(&[3; 62], 62),
    ];
    [classic, ng].map(|parts| {
        let ends = parts.iter().scan(0, |end, part| {
            *end += part.len();
            Some(*end)
        });
        (parts.concat(), ends.collect())
    })
}

/// Reads from memory: the packets' number, and how it ended.
fn count(bytes: &[u8]) -> (u64, Result<(), PortError>) {
    let mut packets = 0;
    let mut reader = match CaptureReader::new(bytes, Path::new("mem")) {
        Ok(reader) => reader,
        Err(error) => return (0, Err(error)),
    };
    loop {
        match reader.next() {
            Ok(Some(packet)) => assert_eq!(packet.length as usize, reader.data().len()),
            Ok(None) => return (packets, Ok(())),
            Err(error) => {
                assert_eq!(reader.next().expect("the end"), None);
                return (packets, Err(error));
            }
        }
        reader.pass();
        packets += 1;
    }
}

#[test]
fn whatever_is_before_a_truncation_is_delivered() {
    for (bytes, ends) in intact() {
        for length in 0..=bytes.len() {
            let (packets, result) = count(&bytes[..length]);
            let whole = ends.iter().filter(|&&end| end <= length).count().saturating_sub(1);
            assert_eq!(packets, whole as u64, "{length} bytes");
            match result {
                // The unknown block in front of the second pcapng packet is an end, too.
                Ok(()) => assert!(ends.contains(&length) || length == ends[1] + 52 || length == 28),
                Err(PortError::Damaged { packet, offset, .. }) => {
                    assert_eq!(packet, packets + 1);
                    assert!(offset as usize <= length);
                }
                Err(PortError::NotACapture { .. }) => assert!(length < ends[0]),
                Err(other) => panic!("{length}: {other}"),
            }
        }
    }
}

#[test]
fn damage_is_told_with_its_place() {
    let directory = tempdir().expect("directory");
    let [(mut classic, ends), (mut ng, ng_ends)] = intact();
    // A length that cannot be, in the second packet.
    classic[ends[1] + 8..ends[1] + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    let path = file(&directory, "classic.pcap", &classic);
    let (packets, error) = read(&path);
    assert_eq!(packets.len(), 1);
    let message = error.expect("damage").to_string();
    for part in [
        path.display().to_string().as_str(),
        &format!("byte {}", ends[1]),
        "packet 2",
        "4294967295 bytes",
        "the 1 packets before it were read",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    let info = scan(&path).expect("scan");
    assert_eq!((info.packets, info.damage.map(|damage| damage.to_string())), (1, Some(message)));

    // A block whose two lengths disagree.
    let at = ng_ends[3] - 4;
    ng[at] ^= 0x40;
    let (packets, error) = read(&file(&directory, "ng.pcapng", &ng));
    assert_eq!(packets.len(), 2);
    let message = error.expect("damage").to_string();
    assert!(message.contains("at its start") && message.contains("packet 3"), "{message}");
}

/// The error of opening a port on these bytes, or of its first packet.
fn refused(bytes: &[u8]) -> String {
    count(bytes).1.expect_err("refused").to_string()
}

#[test]
fn what_is_no_ethernet_capture_is_refused() {
    for (link_type, name) in [(101, "raw IP"), (113, "Linux cooked"), (999, "not named")] {
        let message = refused(&LITTLE.classic(0xa1b2_c3d4, link_type));
        assert!(message.contains(&link_type.to_string()) && message.contains(name), "{message}");
        let ng = [
            LITTLE.section(),
            LITTLE.interface(link_type as u16, 0, None, 0),
            LITTLE.enhanced(0, 0, &[0; 20], 20),
        ];
        assert_eq!(refused(&ng.concat()), message);
    }
    // What is above the type's 16 bits says how long frame check sequences are.
    assert!(count(&LITTLE.classic(0xa1b2_c3d4, 0x2400_0001)).1.is_ok());

    for (bytes, part) in [
        (&b""[..], "empty"),
        (b"\x1f\x8b\x08\x00rest", "gunzip"),
        (b"\x28\xb5\x2f\xfdrest", "unzstd"),
        (b"hello, world", "neither pcap nor pcapng"),
        (b"\xd4\xc3\xb2\xa1\x02\x00", "the file header is 24 bytes long, 6 are there"),
    ] {
        let message = refused(bytes);
        assert!(message.contains(part) && message.contains("mem"), "{message}");
    }
    let mut old = LITTLE.classic(0xa1b2_c3d4, 1);
    old[4] = 1;
    assert!(refused(&old).contains("version 1.4"));
}

#[test]
fn blocks_that_lie_are_refused() {
    let start = [LITTLE.section(), LITTLE.interface(1, 0, None, 0)].concat();
    let with = |block: &[u8]| refused(&[&start, block].concat());
    for (block, part) in [
        (LITTLE.u32s(&[6, 0, 0]), "multiple of 4 and at least 12"),
        (LITTLE.u32s(&[6, 33, 0]), "multiple of 4"),
        (LITTLE.u32s(&[6, 1 << 30, 0]), "not plausible"),
        (LITTLE.u32s(&[0xbad, u32::MAX - 3, 0]), "file ends inside a block"),
        (LITTLE.block(6, &[]), "only 12 bytes"),
        (LITTLE.block(6, &[0; 8]), "only 20 bytes"),
        (LITTLE.block(2, &[]), "only 12 bytes"),
        (LITTLE.block(3, &[]), "only 12 bytes"),
        (LITTLE.enhanced(7, 0, &[], 0), "interface 7, but 1 were described"),
        (
            LITTLE.block(6, &LITTLE.u32s(&[0, 0, 0, 1000, 1000])),
            "1000 bytes in a block that has room",
        ),
        (LITTLE.block(3, &LITTLE.u32s(&[100])), "100 bytes in a block"),
        (LITTLE.u32s(&[0x0a0d_0d0a, 28, 0x1234_5678]), "byte-order magic"),
        (LITTLE.block(1, &[]), "malformed interface"),
        // The type that pcap-parser subtracts too much from.
        (LITTLE.u32s(&[0x8000_0001, 4, 4]), "at least 12"),
    ] {
        let message = with(&block);
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn files_that_cannot_be_are_refused() {
    let directory = tempdir().expect("directory");
    let path = file(&directory, "in.pcap", &LITTLE.classic(0xa1b2_c3d4, 1));
    let open = |input: Option<&Path>, output: Option<&Path>| {
        let (input, output) = (input.map(Path::to_owned), output.map(Path::to_owned));
        let opened = PcapPort::open("lan", &PcapConfig { input, output, ..PcapConfig::default() });
        opened.map(drop).expect_err("refused").to_string()
    };
    assert!(open(None, None).contains("port \"lan\""));
    let link = directory.path().join("link.pcap");
    std::fs::hard_link(&path, &link).expect("link");
    assert!(open(Some(&path), Some(&link)).contains("same file"));
    assert!(path.metadata().expect("still there").len() > 0);
    assert!(open(Some(&directory.path().join("none")), None).contains("none"));
    assert!(open(None, Some(Path::new("/proc/none/out.pcap"))).contains("/proc/none/out.pcap"));
    assert!(open(Some(directory.path()), None).contains("directory"));
}

/// A file that breaks in the middle.
struct Broken<'a>(&'a [u8]);

impl io::Read for Broken<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::Error::other("the disk is gone"));
        }
        self.0.read(&mut into[..1])
    }
}

#[test]
fn a_failing_disk_is_told() {
    for (bytes, ends) in intact() {
        let mut reader = CaptureReader::new(Broken(&bytes), Path::new("disk")).expect("header");
        for _ in 0..3 {
            assert!(reader.next().expect("a packet").is_some());
            reader.pass();
        }
        let message = reader.next().expect_err("failure").to_string();
        assert!(message.contains("the disk is gone"), "{message}");
        assert!(message.contains(&format!("byte {}", ends[3])), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any change of any bytes of a real file, any truncation: an end or an error, never a panic.
    #[test]
    fn damaged_files_never_panic(
        which in 0..2_usize,
        big: bool,
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        keep in any::<prop::sample::Index>(),
    ) {
        let endian = Endian { big };
        let mut bytes = if which == 0 {
            [endian.classic(0xa1b2_3c4d, 1), endian.record(1, 2, &[1; 60], 60).repeat(5)].concat()
        } else {
            [
                endian.section(),
                endian.interface(1, 64, Some(0x8a), -1),
                endian.enhanced(0, u64::MAX, &[1; 61], 99),
                endian.simple(&[2; 62], 62),
                endian.obsolete(0, 7, &[3; 63]),
                endian.block(0xbad, &[4; 64]),
                endian.section(),
                endian.interface(1, 0, Some(19), i64::MAX),
                endian.enhanced(0, u64::MAX, &[1; 61], 99),
            ]
            .concat()
        };
        let keep = keep.index(bytes.len()) + 1;
        if hits.len() % 2 == 0 {
            bytes.truncate(keep);
        }
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let (packets, _) = count(&bytes);
        prop_assert!(packets <= bytes.len() as u64 / 16);
    }

    /// Any bytes behind a right beginning.
    #[test]
    fn noise_never_panics(start in 0..3_usize, noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let start = match start {
            0 => LITTLE.classic(0xa1b2_c3d4, 1),
            1 => [LITTLE.section(), LITTLE.interface(1, 0, None, 0)].concat(),
            _ => Vec::new(),
        };
        let _ = count(&[start, noise].concat());
    }
}
