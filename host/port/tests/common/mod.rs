//! What the tests of captures share: pools, captures made by scapy, and what tshark reads in them.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of this")]

use std::path::{Path, PathBuf};
use std::process::Command;

use weir_pool::{Accounting, HugePages, Packet, Pool, PoolConfig};
use weir_port::pcap::{PcapConfig, PcapPort};
use weir_port::{Port, PortError, Received};

/// A pool of rooms that hold the longest packet a test makes.
pub fn pool(rooms: u32, room_bytes: u32) -> Pool {
    let config = PoolConfig { rooms, room_bytes, huge: HugePages::Never };
    Pool::new("test", &config).expect("pool")
}

/// Checks that no buffer was lost.
pub fn all_free(pool: &Pool) {
    let total = pool.rooms();
    assert_eq!(pool.accounting(), Accounting { total, free: total, out: 0 });
}

/// A packet as read from a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub time: u64,
    pub data: Vec<u8>,
    pub cut: u32,
}

/// Reads everything a port receives, giving the buffers back.
pub fn drain(port: &mut dyn Port, pool: &mut Pool) -> (Vec<Read>, Option<PortError>) {
    let mut packets = Vec::with_capacity(256);
    let mut all = Vec::new();
    loop {
        let received = port.receive(pool, &mut packets, 32);
        for Packet { descriptor, time, buffer, cut, .. } in packets.drain(..) {
            let data = pool.bytes(descriptor).expect("a packet in its room").to_vec();
            all.push(Read { time, data, cut });
            pool.give(buffer);
        }
        match received {
            Ok(Received::Packets) => {}
            Ok(Received::Idle { next }) => std::thread::sleep(next.expect("a time")),
            Ok(Received::Waiting) => panic!("files have nothing that could wake anybody"),
            Ok(Received::End) => return (all, None),
            Err(error) => {
                let after = port.receive(pool, &mut packets, 32);
                assert!(matches!(after, Ok(Received::End)) && packets.is_empty(), "{after:?}");
                return (all, Some(error));
            }
        }
    }
}

/// Reads a capture through a port.
pub fn read(path: &Path) -> (Vec<Read>, Option<PortError>) {
    let config = PcapConfig { input: Some(path.to_owned()), ..PcapConfig::default() };
    let mut port = PcapPort::open("in", &config).expect("an intact file header");
    let mut pool = pool(64, 65_536);
    let read = drain(&mut port, &mut pool);
    all_free(&pool);
    read
}

/// Sends a whole capture through a port into another capture.
pub fn replay(input: &Path, output: &Path) {
    let config = PcapConfig {
        input: Some(input.to_owned()),
        output: Some(output.to_owned()),
        ..PcapConfig::default()
    };
    let mut port = PcapPort::open("both", &config).expect("port");
    let mut pool = pool(64, 65_536);
    let mut packets = Vec::with_capacity(256);
    while port.receive(&mut pool, &mut packets, 32).expect("packets") != Received::End {
        port.send(&mut pool, &mut packets).expect("sent");
    }
    port.finish(&mut pool).expect("written");
    let counts = port.statistics().counts();
    assert_eq!((counts.rx_packets, counts.rx_bytes), (counts.tx_packets, counts.tx_bytes));
    all_free(&pool);
}

/// Runs a program that `scripts/setup` installs, and gives what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run scripts/setup to install it"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a scapy script with these arguments.
pub fn scapy(script: &str, arguments: &[&Path]) {
    let has_scapy = |python: &&str| {
        let check = Command::new(python).args(["-c", "import scapy"]).output();
        check.is_ok_and(|output| output.status.success())
    };
    // Distributions install scapy for their own interpreter, which need not be the first one.
    let python = ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(has_scapy)
        .expect("a python3 with scapy; run scripts/setup to install it");
    run(Command::new(python).args(["-c", script]).args(arguments));
}

/// What tshark reads: for each packet time in nanoseconds, length on the wire, captured length.
pub fn tshark(path: &Path) -> Vec<(u64, u32, u32)> {
    let fields = ["frame.time_epoch", "frame.len", "frame.cap_len"];
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(path).args(["-T", "fields"]);
    fields.iter().for_each(|field| _ = command.args(["-e", field]));
    let parse = |line: &str| {
        let mut fields = line.split('\t');
        let mut field = || fields.next().expect("a field");
        let time = nanoseconds(field());
        (time, field().parse().expect("length"), field().parse().expect("length"))
    };
    run(&mut command).lines().map(parse).collect()
}

/// Seconds with up to nine decimals, or none at all (a simple packet block), as nanoseconds.
fn nanoseconds(epoch: &str) -> u64 {
    let (seconds, fraction) = epoch.split_once('.').unwrap_or((epoch, ""));
    let seconds: u64 = if seconds.is_empty() { 0 } else { seconds.parse().expect("seconds") };
    let fraction: u64 = format!("{fraction:0<9}").parse().expect("fraction");
    seconds * 1_000_000_000 + fraction
}

/// The packets' bytes as tshark prints them.
pub fn tshark_bytes(path: &Path) -> String {
    run(Command::new("tshark").arg("-n").arg("-x").arg("-r").arg(path))
}

/// A file of this directory's, written with these bytes.
pub fn file(directory: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).expect("write");
    path
}

/// Builds captures by hand, in either byte order.
#[derive(Clone, Copy)]
pub struct Endian {
    pub big: bool,
}

impl Endian {
    pub fn u16(self, value: u16) -> Vec<u8> {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }.to_vec()
    }

    pub fn u32(self, value: u32) -> Vec<u8> {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }.to_vec()
    }

    pub fn u32s(self, values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|&value| self.u32(value)).collect()
    }

    /// A classic file header.
    pub fn classic(self, magic: u32, link_type: u32) -> Vec<u8> {
        let version = [self.u16(2), self.u16(4)].concat();
        [self.u32(magic), version, self.u32s(&[0, 0, 65_535, link_type])].concat()
    }

    /// A classic record.
    pub fn record(self, seconds: u32, fraction: u32, data: &[u8], original: u32) -> Vec<u8> {
        let header = self.u32s(&[seconds, fraction, data.len() as u32, original]);
        [&header, data].concat()
    }

    /// A pcapng block with this body, which is padded.
    pub fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
        let total = self.u32((12 + body.len() + padding.len()) as u32);
        [&self.u32(kind), &total, body, &padding, &total].concat()
    }

    pub fn section(self) -> Vec<u8> {
        let version = [self.u16(1), self.u16(0)].concat();
        let body = [self.u32(0x1a2b_3c4d), version, self.u32s(&[u32::MAX; 2])].concat();
        self.block(0x0a0d_0d0a, &body)
    }

    /// An option with its padding.
    pub fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
        [&self.u16(code), &self.u16(value.len() as u16), value, &padding].concat()
    }

    pub fn interface(
        self,
        link_type: u16,
        snap: u32,
        resolution: Option<u8>,
        offset: i64,
    ) -> Vec<u8> {
        let mut body = [self.u16(link_type), self.u16(0), self.u32(snap)].concat();
        body.extend(self.option(2, b"eth0"));
        if let Some(resolution) = resolution {
            body.extend(self.option(9, &[resolution]));
        }
        if offset != 0 {
            let offset = if self.big { offset.to_be_bytes() } else { offset.to_le_bytes() };
            body.extend(self.option(14, &offset));
        }
        body.extend(self.option(0, &[]));
        self.block(1, &body)
    }

    /// An enhanced packet block with a comment.
    pub fn enhanced(self, interface: u32, ticks: u64, data: &[u8], original: u32) -> Vec<u8> {
        let (high, low) = ((ticks >> 32) as u32, ticks as u32);
        let mut body = self.u32s(&[interface, high, low, data.len() as u32, original]);
        body.extend(data);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend(self.option(1, b"a comment"));
        body.extend(self.option(0, &[]));
        self.block(6, &body)
    }

    pub fn simple(self, data: &[u8], original: u32) -> Vec<u8> {
        self.block(3, &[&self.u32(original), data].concat())
    }

    pub fn obsolete(self, interface: u16, ticks: u64, data: &[u8]) -> Vec<u8> {
        let (high, low) = ((ticks >> 32) as u32, ticks as u32);
        let length = data.len() as u32;
        let head = [self.u16(interface), self.u16(0), self.u32s(&[high, low, length, length])];
        self.block(2, &[&head.concat(), data].concat())
    }
}
