//! A router for IPv4 (RFC 1812) and IPv6 (RFC 8200).
//!
//! Owns: whether a packet may go on, where to, and telling its sender when it may not. Must not know: how routes and
//! neighbours were learnt.

mod config;
mod icmp;

use std::net::IpAddr;

use weir_sdk::checksum;
use weir_sdk::parse::{Addresses, Headers, ethertype, parse, protocol};
use weir_sdk::prelude::*;

pub use config::{AddressConfig, Config, HopConfig};
use config::{Address, Routes};
use icmp::Problem;

#[cfg(test)]
mod tests;

weir_sdk::export!(Router);

/// Reasons for drops, as counted by the host (`router:NUMBER`).
pub mod reason {
    /// A header contradicts itself, or its checksum is wrong.
    pub const MALFORMED: u32 = 1;
    /// No prefix matches.
    pub const NO_ROUTE: u32 = 2;
    /// TTL or hop limit has run out.
    pub const EXPIRED: u32 = 3;
    /// From or for an address that is not forwarded.
    pub const MARTIAN: u32 = 4;
    /// Larger than the hop's MTU.
    pub const TOO_BIG: u32 = 5;
    /// Neither IP nor something for the router itself.
    pub const NOT_IP: u32 = 6;
}

/// ICMP errors a second, and at once (Linux has the same limits: `icmp_msgs_per_sec`, `icmp_msgs_burst`).
const ERRORS_PER_SECOND: u64 = 1000;
const ERRORS_BURST: u64 = 50;
const SECOND: u64 = 1_000_000_000;

/// The function.
#[derive(Debug)]
pub struct Router {
    routes: Routes,
    counters: Counters,
    /// Nanoseconds of credit for ICMP errors, and when it was counted.
    credit: u64,
    counted: u64,
}

#[derive(Debug)]
struct Counters {
    forwarded: host::Counter,
    sent: host::Counter,
    suppressed: host::Counter,
    local: host::Counter,
}

/// Why a packet does not go on; `Problem` where its sender is told.
enum Stop {
    Drop(u32, Option<Problem>),
    Local,
}

impl Function for Router {
    type Config = Config;

    fn configure(setup: Setup, config: Config) -> Result<Self, String> {
        Ok(Self {
            routes: config.compile(&setup)?,
            counters: Counters {
                forwarded: host::counter("forwarded"),
                sent: host::counter("icmp_sent"),
                suppressed: host::counter("icmp_suppressed"),
                local: host::counter("local"),
            },
            credit: SECOND * ERRORS_BURST / ERRORS_PER_SECOND,
            counted: 0,
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        let now = burst.now();
        let mut forwarded = 0;
        for i in 0..burst.len() {
            let mut packet = burst.packet(i);
            let frame = packet.data_mut();
            let way = if frame.get(12..15) == Some(&[8, 0, 0x45]) && frame.len() >= 34 {
                self.forward_v4(frame, 14)
            } else {
                self.any(frame)
            };
            match way {
                Ok(hop) => {
                    let hop = &self.routes.hops[hop];
                    frame[..12].copy_from_slice(&hop.macs);
                    forwarded += 1;
                    if let Some(port) = hop.port {
                        packet.set_verdict(Verdict::Forward(port));
                    }
                }
                Err(Stop::Drop(reason, problem)) => {
                    if let Some(problem) = problem {
                        self.tell(&packet, problem, now);
                    }
                    packet.set_verdict(Verdict::Drop(reason));
                }
                Err(Stop::Local) => {
                    let verdict = self.local(&mut packet);
                    packet.set_verdict(verdict);
                }
            }
        }
        if forwarded > 0 {
            self.counters.forwarded.add(forwarded);
        }
    }
}

const MALFORMED: Stop = Stop::Drop(reason::MALFORMED, None);
const MARTIAN: Stop = Stop::Drop(reason::MARTIAN, None);

impl Router {
    /// Checks the IPv4 header at `l3` (at least 20 bytes are there), counts its TTL down and finds its hop.
    #[inline]
    fn forward_v4(&self, frame: &mut [u8], l3: usize) -> Result<usize, Stop> {
        let available = frame.len() - l3;
        let header = &mut frame[l3..];
        let length = usize::from(header[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || length < 20 || total < length || total > available {
            return Err(MALFORMED);
        }
        if checksum::internet(&header[..length]) != 0 {
            return Err(MALFORMED);
        }
        let address = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (source, destination) = (address(12), address(16));
        if !unicast_v4(source) {
            return Err(MARTIAN);
        }
        let Some(hop) = self.routes.v4.lookup(destination) else {
            return Err(self.no_way_v4(destination));
        };
        if self.is_own(IpAddr::V4(destination.into())) {
            return Err(Stop::Local);
        }
        if !unicast_v4(destination) || destination >> 16 == 0xa9fe {
            return Err(MARTIAN);
        }
        if header[8] <= 1 {
            let expired = Problem { kind: 11, code: 0, word: 0 };
            return Err(Stop::Drop(reason::EXPIRED, Some(expired)));
        }
        let mtu = self.routes.hops[hop as usize].mtu;
        if total > mtu as usize {
            let needed = Problem { kind: 3, code: 4, word: mtu.min(0xffff) };
            let told = (header[6] & 0x40 != 0).then_some(needed);
            return Err(Stop::Drop(reason::TOO_BIG, told));
        }
        let old = u16::from_be_bytes([header[8], header[9]]);
        header[8] -= 1;
        let new = u16::from_be_bytes([header[8], header[9]]);
        let sum = u16::from_be_bytes([header[10], header[11]]);
        header[10..12].copy_from_slice(&checksum::update16(sum, old, new).to_be_bytes());
        Ok(hop as usize)
    }

    fn no_way_v4(&self, destination: u32) -> Stop {
        if self.is_own(IpAddr::V4(destination.into())) {
            Stop::Local
        } else if unicast_v4(destination) {
            Stop::Drop(reason::NO_ROUTE, Some(Problem { kind: 3, code: 0, word: 0 }))
        } else {
            MARTIAN
        }
    }

    /// The IPv6 header at `l3`, of which 40 bytes are there.
    fn forward_v6(&self, frame: &mut [u8], l3: usize) -> Result<usize, Stop> {
        let available = frame.len() - l3;
        let header = &mut frame[l3..];
        let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if header[0] >> 4 != 6 || total > available {
            return Err(MALFORMED);
        }
        let address = |at: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&header[at..at + 16]);
            u128::from_be_bytes(bytes)
        };
        let (source, destination) = (address(8), address(24));
        // Unspecified, loopback or multicast sources (RFC 4291, sections 2.5.2, 2.5.3 and 2.7).
        if source <= 1 || source >> 120 == 0xff {
            return Err(MARTIAN);
        }
        if self.is_own(IpAddr::V6(destination.into())) || self.is_solicited(destination) {
            return Err(Stop::Local);
        }
        let link_local = |a: u128| a >> 118 == 0xfe80 >> 6;
        if destination <= 1 || destination >> 120 == 0xff || link_local(destination) || link_local(source) {
            return Err(MARTIAN);
        }
        let Some(hop) = self.routes.v6.lookup(destination) else {
            return Err(Stop::Drop(reason::NO_ROUTE, Some(Problem { kind: 1, code: 0, word: 0 })));
        };
        if header[7] <= 1 {
            let expired = Problem { kind: 3, code: 0, word: 0 };
            return Err(Stop::Drop(reason::EXPIRED, Some(expired)));
        }
        let mtu = self.routes.hops[hop as usize].mtu;
        if total > mtu as usize {
            let too_big = Problem { kind: 2, code: 0, word: mtu };
            return Err(Stop::Drop(reason::TOO_BIG, Some(too_big)));
        }
        header[7] -= 1;
        Ok(hop as usize)
    }

    /// Frames with tags, options, or of other kinds.
    fn any(&self, frame: &mut [u8]) -> Result<usize, Stop> {
        let (kind, l3) = link(frame).ok_or(MALFORMED)?;
        match kind {
            ethertype::IPV4 if frame.len() >= l3 + 20 => self.forward_v4(frame, l3),
            ethertype::IPV6 if frame.len() >= l3 + 40 => self.forward_v6(frame, l3),
            ethertype::IPV4 | ethertype::IPV6 => Err(MALFORMED),
            ethertype::ARP => Err(Stop::Local),
            _ => Err(Stop::Drop(reason::NOT_IP, None)),
        }
    }

    #[inline]
    fn is_own(&self, ip: IpAddr) -> bool {
        self.routes.addresses.iter().any(|address| address.ip == ip)
    }

    fn own_v6(&self, ip: u128) -> Option<&Address> {
        self.routes.addresses.iter().find(|address| address.ip == IpAddr::V6(ip.into()))
    }

    /// Whether this is the solicited-node address of one of ours (RFC 4291, section 2.7.1).
    fn is_solicited(&self, destination: u128) -> bool {
        destination >> 24 == 0x00ff_0200_0000_0000_0000_0000_01ff
            && self.routes.addresses.iter().any(|address| match address.ip {
                IpAddr::V6(ip) => (u128::from(ip) ^ destination) & 0xff_ffff == 0,
                IpAddr::V4(_) => false,
            })
    }

    /// Tells a packet's sender why it did not go on, unless the RFCs say not to.
    fn tell(&mut self, packet: &Packet<'_>, problem: Problem, now: u64) {
        let frame = packet.data();
        let Ok(headers) = parse(frame) else { return };
        if !may_be_told(frame, &headers) {
            return;
        }
        let own = |v4: bool| {
            let all = self.routes.addresses.iter().filter(|a| a.ip.is_ipv4() == v4);
            all.clone().find(|a| a.port == Some(packet.port())).or_else(|| all.clone().next())
        };
        let message = match headers.addresses {
            Addresses::V4 { .. } => match own(true).map(|a| a.ip) {
                Some(IpAddr::V4(source)) => {
                    icmp::error_v4(frame, headers.l3, headers.end, source.into(), problem)
                }
                _ => return,
            },
            Addresses::V6 { .. } => match own(false).map(|a| a.ip) {
                Some(IpAddr::V6(source)) => {
                    icmp::error_v6(frame, headers.l3, headers.end, source.into(), problem)
                }
                _ => return,
            },
        };
        let most = SECOND * ERRORS_BURST / ERRORS_PER_SECOND;
        self.credit = self.credit.saturating_add(now.saturating_sub(self.counted)).min(most);
        self.counted = now;
        let cost = SECOND / ERRORS_PER_SECOND;
        if self.credit < cost {
            self.counters.suppressed.add(1);
            return;
        }
        self.credit -= cost;
        match host::send_copy(&message, Verdict::Forward(packet.port())) {
            Ok(()) => self.counters.sent.add(1),
            Err(_) => self.counters.suppressed.add(1),
        }
    }

    /// A packet for the router itself.
    fn local(&self, packet: &mut Packet<'_>) -> Verdict {
        self.counters.local.add(1);
        let port = packet.port();
        let frame = packet.data_mut();
        if frame.get(12..14) == Some(&ethertype::ARP.to_be_bytes()) {
            return self.answer_arp(frame);
        }
        let Ok(headers) = parse(frame) else { return Verdict::ToKernel };
        let Headers { l3, l4, end, .. } = headers;
        let kind = frame.get(l4).copied();
        match (headers.addresses, headers.protocol, kind) {
            (Addresses::V4 { .. }, protocol::ICMP, Some(8)) if end >= l4 + 8 && headers.fragment.is_none() => {
                let (a, b) = frame[l3 + 12..l3 + 20].split_at_mut(4);
                a.swap_with_slice(b);
                let old = u16::from_be_bytes([frame[l3 + 8], frame[l3 + 9]]);
                frame[l3 + 8] = 64;
                update(frame, l3 + 10, old, u16::from_be_bytes([64, frame[l3 + 9]]));
                frame[l4] = 0;
                update(frame, l4 + 2, 0x0800, 0);
                swap_macs(frame);
                Verdict::Reply
            }
            (Addresses::V6 { destination, .. }, protocol::ICMPV6, Some(128))
                if end >= l4 + 8 && self.own_v6(destination).is_some() =>
            {
                let (a, b) = frame[l3 + 8..l3 + 40].split_at_mut(16);
                a.swap_with_slice(b);
                frame[l3 + 7] = 64;
                frame[l4] = 129;
                update(frame, l4 + 2, 0x8000, 0x8100);
                swap_macs(frame);
                Verdict::Reply
            }
            (Addresses::V6 { source, .. }, protocol::ICMPV6, Some(135))
                if end >= l4 + 24 && frame[l3 + 7] == 255 =>
            {
                let mut target = [0; 16];
                target.copy_from_slice(&frame[l4 + 8..l4 + 24]);
                let target = u128::from_be_bytes(target);
                let Some(own) = self.own_v6(target) else { return Verdict::Drop(reason::MARTIAN) };
                let answer = icmp::advertisement(frame, target, own.mac, source);
                match host::send_copy(&answer, Verdict::Forward(port)) {
                    Ok(()) => Verdict::Drop(0),
                    Err(_) => Verdict::ToKernel,
                }
            }
            _ => Verdict::ToKernel,
        }
    }

    /// Answers an ARP request for one of our addresses (RFC 826).
    fn answer_arp(&self, frame: &mut [u8]) -> Verdict {
        let Some(arp) = frame.get(14..42) else { return Verdict::Drop(reason::MALFORMED) };
        if arp[..8] != [0, 1, 8, 0, 6, 4, 0, 1] {
            return Verdict::ToKernel;
        }
        let target = std::net::Ipv4Addr::new(arp[24], arp[25], arp[26], arp[27]);
        let own = self.routes.addresses.iter().find(|address| address.ip == IpAddr::V4(target));
        let Some(own) = own else { return Verdict::Drop(reason::MARTIAN) };
        let mut asker = [0; 10];
        asker.copy_from_slice(&arp[8..18]);
        frame[..6].copy_from_slice(&asker[..6]);
        frame[6..12].copy_from_slice(&own.mac);
        frame[21] = 2;
        frame[22..28].copy_from_slice(&own.mac);
        frame[28..32].copy_from_slice(&target.octets());
        frame[32..42].copy_from_slice(&asker);
        Verdict::Reply
    }
}

/// Whether packets may come from and go to an IPv4 address (RFC 1812, section 5.3.7): not 0/8, 127/8, multicast,
/// reserved or broadcast.
#[inline]
fn unicast_v4(address: u32) -> bool {
    let first = address >> 24;
    first != 0 && first != 127 && first < 224
}

/// Type of what follows Ethernet's header and up to two tags, and where it begins.
fn link(frame: &[u8]) -> Option<(u16, usize)> {
    let kind_at = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let mut at = 12;
    for _ in 0..2 {
        match kind_at(at)? {
            ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD => at += 4,
            kind => return Some((kind, at + 2)),
        }
    }
    Some((kind_at(at)?, at + 2))
}

/// RFC 1812, section 4.3.2.7, and RFC 4443, section 2.4 (e): nothing about ICMP errors, later fragments, or frames and
/// packets for many.
fn may_be_told(frame: &[u8], headers: &Headers) -> bool {
    let kind = frame.get(headers.l4).copied().unwrap_or(0);
    let error = match headers.protocol {
        protocol::ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
        protocol::ICMPV6 => kind < 128,
        _ => false,
    };
    let many = match headers.addresses {
        Addresses::V4 { destination, .. } => !unicast_v4(destination),
        Addresses::V6 { destination, .. } => destination >> 120 == 0xff,
    };
    !error && !many && !headers.is_later_fragment() && frame[0] & 1 == 0
}

/// Changes a checksum for a word that changed.
fn update(frame: &mut [u8], at: usize, old: u16, new: u16) {
    let sum = u16::from_be_bytes([frame[at], frame[at + 1]]);
    frame[at..at + 2].copy_from_slice(&checksum::update16(sum, old, new).to_be_bytes());
}

fn swap_macs(frame: &mut [u8]) {
    let (a, b) = frame[..12].split_at_mut(6);
    a.swap_with_slice(b);
}
