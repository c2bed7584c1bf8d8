//! Telling a packet's sender why it did not go on (RFC 792; RFC 1812, section 4.3.2; RFC 4443).
//!
//! Owns: when an error may be sent, how many, and its bytes. Must not know: why a packet was
//! stopped.

use std::net::IpAddr;

use weir_sdk::bucket::{Buckets, Rate};
use weir_sdk::checksum;
use weir_sdk::flow::Hasher;
use weir_sdk::parse::{protocol, quoted};
use weir_sdk::prelude::*;

use crate::config::{Address, ErrorRates};
use crate::forward::ETHERNET;

/// What an error says: type, code and the word behind the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) word: u32,
}

/// Bytes of an error over IPv4, IP header included (RFC 1812, section 4.3.2.3).
const ERROR_V4: usize = 576;
/// The same over IPv6: the smallest MTU (RFC 4443, section 2.4 (c)).
const ERROR_V6: usize = 1280;
const HOP_LIMIT: u8 = 64;
const IPV6: usize = 40;
const SECOND: u64 = 1_000_000_000;
/// Errors at once after a silence, as Linux has it (`icmp_msgs_burst`).
pub(crate) const BURST: u64 = 50;
/// Of these, to one sender at least: a traceroute sends three probes for each router, and more than
/// one may run.
pub(crate) const BURST_OF_SOURCE: u64 = 10;
/// Senders whose latest errors are remembered.
const SOURCES: usize = 4096;

impl Problem {
    /// Whether the sender learns from it how large packets may be (RFC 1191, RFC 8201): without
    /// that, whole connections stand still.
    fn is_too_big(self) -> bool {
        matches!((self.kind, self.code), (3, 4) | (2, 0))
    }
}

/// Sends errors, within limits (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4 (f)).
#[derive(Debug)]
pub(crate) struct Errors {
    /// For what is too big: a flood of others takes nothing of it.
    too_big: Limit,
    others: Limit,
    hasher: Hasher,
    /// Of the next IPv4 packet.
    identification: u16,
    sent: host::Counter,
    suppressed: host::Counter,
}

impl Errors {
    pub(crate) fn new(seed: u64, rates: ErrorRates) -> Result<Self, String> {
        Ok(Self {
            too_big: Limit::new(rates)?,
            others: Limit::new(rates)?,
            hasher: Hasher::new(seed),
            identification: 1,
            sent: host::counter("icmp_sent"),
            suppressed: host::counter("icmp_suppressed"),
        })
    }

    /// Tells the sender of the IP packet at `l3` of a packet, from the address on the port that it
    /// came in by.
    pub(crate) fn tell(
        &mut self,
        packet: &Packet<'_>,
        l3: usize,
        problem: Problem,
        addresses: &[Address],
        now: u64,
    ) {
        let (frame, port) = (packet.data(), packet.port());
        let v4 = frame[l3] >> 4 == 4;
        let end = if v4 { end_of_v4(frame, l3) } else { end_of_v6(frame, l3) };
        // Where a packet that a function made came from is not known.
        let Some(end) = end.filter(|_| !packet.made()) else { return };
        let own = || addresses.iter().filter(|address| address.ip.is_ipv4() == v4);
        let source = own().find(|a| a.port == Some(port)).or_else(|| own().next());
        let Some(source) = source else { return };
        let sender = self.hasher.hash(&sender(frame, l3, v4));
        let limit = if problem.is_too_big() { &mut self.too_big } else { &mut self.others };
        if !limit.allows(sender, now) {
            self.suppressed.add(1);
            return;
        }
        let message = match source.ip {
            IpAddr::V4(source) => {
                self.identification = self.identification.wrapping_add(1);
                error_v4(frame, (l3, end), source.into(), self.identification, problem)
            }
            IpAddr::V6(source) => error_v6(frame, (l3, end), source.into(), problem),
        };
        match host::send_copy(&message, Verdict::Reply) {
            Ok(()) => self.sent.add(1),
            Err(_) => self.suppressed.add(1),
        }
    }
}

/// Who is told about the packet at `l3`. Who has an IPv6 address has all that share its first 64
/// bits (RFC 4291, section 2.5.4).
fn sender(frame: &[u8], l3: usize, v4: bool) -> [u8; 8] {
    let mut sender = [0; 8];
    if v4 {
        sender[..4].copy_from_slice(&frame[l3 + 12..l3 + 16]);
    } else {
        sender.copy_from_slice(&frame[l3 + 8..l3 + 16]);
    }
    sender
}

/// How many errors of a kind may be sent: to each sender, and of that to all, so that one does not
/// use up the others' (RFC 4443, section 2.4 (f)).
#[derive(Debug)]
struct Limit {
    sources: Buckets,
    of_source: Rate,
    all: Bucket,
}

impl Limit {
    fn new(rates: ErrorRates) -> Result<Self, String> {
        let (all, source) = (u64::from(rates.all).max(1), u64::from(rates.source));
        let interval = (SECOND / source).max(1);
        let burst = (BURST * source / all).clamp(BURST_OF_SOURCE, BURST);
        Ok(Self {
            sources: Buckets::new(&mut StateRegion::heap(), SOURCES)?,
            of_source: Rate { interval, burst },
            all: Bucket::new(rates.all),
        })
    }

    /// Whether a sender, by its hash, is told; then it is counted.
    fn allows(&mut self, sender: u64, now: u64) -> bool {
        let place = self.sources.place(sender, now);
        let answer = self.sources.ask(place, self.of_source, now);
        let allowed = answer.allowed && self.all.allowed(now);
        if allowed {
            self.sources.take(place, answer, now);
        }
        allowed
    }
}

/// A token bucket that holds [`BURST`] errors.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Nanoseconds that an error costs; 0 for no errors.
    cost: u64,
    /// Nanoseconds saved up, and when they were counted.
    credit: u64,
    counted: u64,
}

impl Bucket {
    fn new(per_second: u32) -> Self {
        let cost = SECOND.checked_div(per_second.into()).unwrap_or(0);
        Self { cost, credit: cost * BURST, counted: 0 }
    }

    fn allowed(&mut self, now: u64) -> bool {
        let earned = now.saturating_sub(self.counted);
        self.counted = now;
        self.credit = self.credit.saturating_add(earned).min(self.cost * BURST);
        let allowed = self.cost > 0 && self.credit >= self.cost;
        if allowed {
            self.credit -= self.cost;
        }
        allowed
    }
}

/// Where an IPv4 packet ends, if its sender may be told about it: nothing about ICMP errors and
/// later fragments (RFC 1812, section 4.3.2.7). Addresses and lengths were checked.
fn end_of_v4(frame: &[u8], l3: usize) -> Option<usize> {
    let header = frame.get(l3..)?.first_chunk::<20>()?;
    let end = l3 + usize::from(u16::from_be_bytes([header[2], header[3]]));
    let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    let kind = frame.get(l3 + usize::from(header[0] & 0xf) * 4);
    let error = header[9] == protocol::ICMP && matches!(kind, None | Some(3 | 4 | 5 | 11 | 12));
    (!later && !error && end <= frame.len()).then_some(end)
}

/// The same for IPv6: nothing about ICMP errors and redirects (RFC 4443, section 2.4 (e)). Later
/// fragments of anything else are no exception there. Whatever else is wrong behind the header is
/// its receiver's business: of what cannot be followed, the next header counts.
fn end_of_v6(frame: &[u8], l3: usize) -> Option<usize> {
    let packet = frame.get(l3..)?;
    let header = packet.first_chunk::<IPV6>()?;
    let end = IPV6 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let packet = packet.get(..end)?;
    let (protocol, l4, later) = match quoted(packet) {
        Some(headers) => (headers.protocol, headers.l4, headers.is_later_fragment()),
        None => (header[6], IPV6, false),
    };
    let error = protocol == protocol::ICMPV6
        && (later || matches!(packet.get(l4), None | Some(0..128 | 137)));
    (!error).then_some(l3 + end)
}

/// An error about the IPv4 packet between two places of a frame; goes back to the MAC it came from.
fn error_v4(
    frame: &[u8],
    (l3, end): (usize, usize),
    source: u32,
    identification: u16,
    problem: Problem,
) -> Vec<u8> {
    let quoted = &frame[l3..end.min(l3 + ERROR_V4 - 28)];
    let mut packet = back(frame, l3);
    let length = (28 + quoted.len()) as u16;
    // The type of service it had, with the precedence of internetwork control (RFC 1812, section
    // 4.3.2.5).
    packet.extend_from_slice(&[0x45, 0xc0 | frame[l3 + 1] & 0x1e]);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&identification.to_be_bytes());
    packet.extend_from_slice(&[0, 0, HOP_LIMIT, protocol::ICMP, 0, 0]);
    packet.extend_from_slice(&source.to_be_bytes());
    packet.extend_from_slice(&frame[l3 + 12..l3 + 16]);
    let sum = checksum::internet(&packet[l3..]);
    packet[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    let at = packet.len();
    message(&mut packet, problem, quoted);
    let sum = checksum::internet(&packet[at..]);
    packet[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// An error about the IPv6 packet between two places of a frame.
fn error_v6(frame: &[u8], (l3, end): (usize, usize), source: u128, problem: Problem) -> Vec<u8> {
    let quoted = &frame[l3..end.min(l3 + ERROR_V6 - 48)];
    let mut target = [0; 16];
    target.copy_from_slice(&frame[l3 + 8..l3 + 24]);
    let mut body = Vec::with_capacity(8 + quoted.len());
    message(&mut body, problem, quoted);
    packet_v6(back(frame, l3), source, u128::from_be_bytes(target), HOP_LIMIT, &body)
}

fn message(packet: &mut Vec<u8>, problem: Problem, quoted: &[u8]) {
    packet.extend_from_slice(&[problem.kind, problem.code, 0, 0]);
    packet.extend_from_slice(&problem.word.to_be_bytes());
    packet.extend_from_slice(quoted);
}

/// A link layer's header, with the frame's tags, back to where it came from.
pub(crate) fn back(frame: &[u8], l3: usize) -> Vec<u8> {
    let mut header = Vec::with_capacity(ETHERNET + 8 + ERROR_V6);
    header.extend_from_slice(&frame[6..12]);
    header.extend_from_slice(&frame[..6]);
    header.extend_from_slice(&frame[12..l3]);
    header
}

/// Adds an ICMPv6 message, its checksum 0 so far, to a link layer's header.
pub(crate) fn packet_v6(
    mut packet: Vec<u8>,
    source: u128,
    target: u128,
    hops: u8,
    body: &[u8],
) -> Vec<u8> {
    packet.extend_from_slice(&[0x60, 0, 0, 0]);
    packet.extend_from_slice(&(body.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[protocol::ICMPV6, hops]);
    packet.extend_from_slice(&source.to_be_bytes());
    packet.extend_from_slice(&target.to_be_bytes());
    let at = packet.len();
    let pseudo = checksum::pseudo_v6(source, target, protocol::ICMPV6, body.len() as u32);
    packet.extend_from_slice(body);
    let sum = checksum::transport(pseudo, body);
    packet[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
    packet
}
