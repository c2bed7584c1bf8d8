//! What can go wrong at a port, told so that the operator knows which file, where in it, and what
//! to do.

use std::io;
use std::path::PathBuf;

use crate::pcap::link_type_name;

/// Why a port cannot be made or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The configuration asks for something impossible.
    #[error("port \"{port}\": {problem}")]
    Configuration {
        /// The port's name.
        port: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The device behind the port went away or does not work any more.
    #[error("port \"{port}\": {problem}")]
    Device {
        /// The port's name.
        port: String,
        /// What happened, and what to do.
        problem: String,
    },
    /// The capture to read cannot be opened.
    #[error("cannot open the capture {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The capture to write cannot be made.
    #[error("cannot create the capture {}: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Reading failed in the middle.
    #[error("reading the capture {} failed at byte {offset}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Bytes from the file's start.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Writing failed, a full disk for example.
    #[error("writing the capture {} failed after {packets} packets: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Packets written before.
        packets: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a capture: {problem}", path.display())]
    NotACapture {
        /// The file.
        path: PathBuf,
        /// What it is or lacks, and what to do.
        problem: String,
    },
    /// Packet functions see Ethernet frames; this capture holds something else.
    #[error(
        "the capture {} holds packets of link type {link_type} ({}), packet functions need Ethernet (1): \
         capture on an Ethernet or veth interface (not on \"any\" or a tunnel), or convert the file",
        path.display(), link_type_name(*link_type)
    )]
    LinkType {
        /// The file.
        path: PathBuf,
        /// The type's number, <https://www.tcpdump.org/linktypes.html>.
        link_type: u16,
    },
    /// The capture breaks off or contradicts itself. Everything before was delivered.
    #[error(
        "the capture {} is damaged at byte {offset}, where packet {packet} should be: {problem}; \
         the {} packets before it were read",
        path.display(), packet - 1
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged record begins, in bytes from the file's start.
        offset: u64,
        /// Number of the packet that cannot be read, counted from 1 as tshark does.
        packet: u64,
        /// What was wrong.
        problem: String,
    },
}
