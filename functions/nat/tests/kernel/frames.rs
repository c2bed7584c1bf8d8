//! Packets as hosts send them, made with etherparse.

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, Ipv4Header, Ipv4Options, TcpHeader, TcpOptionElement, UdpHeader};

/// An address and a port.
pub(crate) type End = ([u8; 4], u16);

/// Where the IPv4 header begins.
pub(crate) const L3: usize = 14;

/// An IPv4 packet in an Ethernet frame.
pub(crate) fn ipv4(from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len().try_into().unwrap();
    let mut header = Ipv4Header::new(length, 64, IpNumber(protocol), from, to).unwrap();
    header.identification = 77;
    header.dont_fragment = true;
    frame(&header, payload)
}

fn frame(header: &Ipv4Header, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0xa, 1, 8, 0];
    let mut header = header.clone();
    header.header_checksum = header.calc_header_checksum();
    frame.extend_from_slice(&header.to_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The same packet with another IPv4 header.
pub(crate) fn changed(bytes: &[u8], change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let (mut header, payload) = Ipv4Header::from_slice(&bytes[L3..]).unwrap();
    change(&mut header);
    header.set_payload_len(payload.len()).unwrap();
    frame(&header, payload)
}

/// Three options that say nothing, and the end of the list.
pub(crate) fn with_options(bytes: &[u8]) -> Vec<u8> {
    changed(bytes, |header| header.options = Ipv4Options::from([1, 1, 1, 0]))
}

/// The same packet in pieces of so many bytes.
pub(crate) fn fragments(bytes: &[u8], size: u16) -> Vec<Vec<u8>> {
    let (header, payload) = Ipv4Header::from_slice(&bytes[L3..]).unwrap();
    let pieces = payload.chunks(size.into());
    let last = pieces.len() - 1;
    let made = pieces.enumerate().map(|(n, piece)| {
        let mut header = header.clone();
        header.dont_fragment = false;
        header.more_fragments = n != last;
        header.fragment_offset = (n as u16 * size / 8).try_into().unwrap();
        header.set_payload_len(piece.len()).unwrap();
        frame(&header, piece)
    });
    made.collect()
}

fn pseudo(from: End, to: End, protocol: IpNumber) -> Ipv4Header {
    Ipv4Header::new(0, 64, protocol, from.0, to.0).unwrap()
}

pub(crate) fn udp(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let header = pseudo(from, to, IpNumber::UDP);
    let udp = UdpHeader::with_ipv4_checksum(from.1, to.1, &header, payload).unwrap();
    ipv4(from.0, to.0, 17, &[&udp.to_bytes(), payload].concat())
}

/// A segment of a connection; flags are those of "SARFP" that are named.
pub(crate) struct Segment<'a> {
    pub(crate) flags: &'a str,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// One without a payload.
    pub(crate) fn bare(flags: &'a str, sequence: u32) -> Self {
        Self { flags, sequence, acknowledged: 0, payload: &[] }
    }
}

pub(crate) fn tcp(from: End, to: End, segment: &Segment<'_>) -> Vec<u8> {
    let Segment { flags, sequence, acknowledged, payload } = *segment;
    let mut tcp = TcpHeader::new(from.1, to.1, sequence, 30_000);
    (tcp.syn, tcp.ack) = (flags.contains('S'), flags.contains('A'));
    (tcp.rst, tcp.fin) = (flags.contains('R'), flags.contains('F'));
    tcp.psh = flags.contains('P');
    tcp.acknowledgment_number = if tcp.ack { acknowledged } else { 0 };
    let times = TcpOptionElement::Timestamp(sequence, acknowledged);
    let options: &[TcpOptionElement] = if tcp.syn {
        use TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted};
        &[
            MaximumSegmentSize(1460),
            SelectiveAcknowledgementPermitted,
            times,
            Noop,
            TcpOptionElement::WindowScale(7),
        ]
    } else {
        &[TcpOptionElement::Noop, TcpOptionElement::Noop, times]
    };
    tcp.set_options(options).unwrap();
    let header = pseudo(from, to, IpNumber::TCP);
    tcp.checksum = tcp.calc_checksum_ipv4(&header, payload).unwrap();
    ipv4(from.0, to.0, 6, &[&tcp.to_bytes(), payload].concat())
}

/// An ICMP message: type, code, the four bytes after the checksum, and what follows.
pub(crate) fn icmp(
    from: [u8; 4],
    to: [u8; 4],
    kind: (u8, u8),
    word: [u8; 4],
    body: &[u8],
) -> Vec<u8> {
    let mut message = vec![kind.0, kind.1, 0, 0];
    message.extend_from_slice(&word);
    message.extend_from_slice(body);
    let sum = Sum16BitWords::new().add_slice(&message).ones_complement().to_be();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(from, to, 1, &message)
}

/// A query with this identifier, or an answer to one.
pub(crate) fn query(from: [u8; 4], to: [u8; 4], kind: u8, id: u16, body: &[u8]) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    icmp(from, to, (kind, 0), [a, b, 0, 9], body)
}

/// An ICMP error about a packet, of which it quotes so many bytes, as a router has seen it: with a
/// TTL of its own.
pub(crate) fn error(
    from: [u8; 4],
    to: [u8; 4],
    kind: (u8, u8),
    about: &[u8],
    quoted: usize,
) -> Vec<u8> {
    let seen = changed(about, |header| header.time_to_live = 1);
    let quoted = &seen[L3..seen.len().min(L3 + quoted)];
    let word = if kind == (3, 4) { 1400u32.to_be_bytes() } else { [0; 4] };
    icmp(from, to, kind, word, quoted)
}

/// Source and destination address.
pub(crate) fn addresses(frame: &[u8]) -> ([u8; 4], [u8; 4]) {
    let (header, _) = Ipv4Header::from_slice(&frame[L3..]).unwrap();
    (header.source, header.destination)
}

/// Whom a TCP or UDP packet is from.
pub(crate) fn source(frame: &[u8]) -> End {
    ends(frame).0
}

/// Whom a TCP or UDP packet is for.
pub(crate) fn destination(frame: &[u8]) -> End {
    ends(frame).1
}

/// Of ICMP, what lies where ports would is of no use, but there.
fn ends(frame: &[u8]) -> (End, End) {
    let (header, payload) = Ipv4Header::from_slice(&frame[L3..]).unwrap();
    let port = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    ((header.source, port(0)), (header.destination, port(2)))
}
