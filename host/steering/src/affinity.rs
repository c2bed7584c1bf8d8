//! Which packets have to be seen by the same instance of a function: those of a flow, and those
//! that are about it.

use crate::Key;
use crate::frame::Flow;
use crate::hash::of_flow;

pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
/// Bytes of an ICMP header in front of what it quotes (RFC 792, RFC 4443).
const ICMP_HEADER: usize = 8;

/// As [`crate::flow_hash`], for choosing the instance that has a flow's state: the same for both
/// directions, never 0.
///
/// It differs for ICMP alone. An error has the hash of the flow that it quotes, so that it comes to
/// where that flow is known. A query and its reply have one by addresses and identifier, as if that
/// were a port: a translation keeps pings of different hosts apart by nothing else (RFC 5508,
/// section 3.1).
#[must_use]
#[inline]
pub fn affinity_hash(frame: &[u8], seed: u64) -> u32 {
    affinity(frame, seed).0
}

/// [`affinity_hash`], and whether that is of what an ICMP error quotes.
#[must_use]
#[inline]
pub fn affinity(frame: &[u8], seed: u64) -> (u32, bool) {
    match Flow::of(frame) {
        Flow::V4 { protocol: ICMP, .. } | Flow::V6 { protocol: ICMPV6, .. } => of_icmp(frame, seed),
        flow => (of_flow(flow, frame.len(), seed), false),
    }
}

#[cold]
fn of_icmp(frame: &[u8], seed: u64) -> (u32, bool) {
    let (flow, payload) = Flow::with_payload(frame);
    let quoted = quotation(flow, payload);
    let (named, payload) = quoted.unwrap_or((flow, payload));
    (of_flow(with_identifier(named, payload), frame.len(), seed), quoted.is_some())
}

/// The flow that an ICMP error quotes, as its packets come in by this port where the error does:
/// those of the other direction, for an error goes to who sent what it quotes. As [`Key::plain`]
/// has it. None: it is no error, or quotes nothing that can be read.
#[must_use]
pub fn quoted(frame: &[u8], port: u16) -> Option<Key> {
    let (flow, payload) = Flow::with_payload(frame);
    let (quoted, _) = quotation(flow, payload)?;
    Some(Key::read(frame, port).of(quoted).reversed(port).plain())
}

/// What an ICMP error quotes: flow and payload.
fn quotation(flow: Flow, payload: &[u8]) -> Option<(Flow, &[u8])> {
    let is_error = match (flow, payload.first()?) {
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        (Flow::V4 { protocol: ICMP, .. }, kind) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        // RFC 4443, section 2.1: the upper half is not about errors.
        (Flow::V6 { protocol: ICMPV6, .. }, kind) => *kind < 128,
        _ => false,
    };
    Flow::of_packet(payload.get(ICMP_HEADER..).filter(|_| is_error)?)
}

/// A query's or reply's identifier stands for both ports.
fn with_identifier(flow: Flow, payload: &[u8]) -> Flow {
    let Some(&[kind, _, _, _, a, b]) = payload.first_chunk::<6>() else { return flow };
    let identifier = u16::from_be_bytes([a, b]);
    match flow {
        // Echo, timestamp, information, address mask: each with its reply.
        Flow::V4 { source, destination, protocol: ICMP, .. } if matches!(kind, 0 | 8 | 13..=18) => {
            Flow::V4 { source, destination, ports: (identifier, identifier), protocol: ICMP }
        }
        Flow::V6 { source, destination, protocol: ICMPV6, .. } if matches!(kind, 128 | 129) => {
            Flow::V6 { source, destination, ports: (identifier, identifier), protocol: ICMPV6 }
        }
        flow => flow,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
    use proptest::prelude::*;

    use super::{affinity, affinity_hash, quoted};
    use crate::{Key, flow_hash};

    const A: [u8; 4] = [10, 0, 0, 1];
    const B: [u8; 4] = [192, 0, 2, 1];
    const ROUTER: [u8; 4] = [172, 16, 0, 1];

    fn udp(from: [u8; 4], to: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        let ip = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64);
        let mut frame = Vec::new();
        ip.udp(ports.0, ports.1).write(&mut frame, &[7; 20]).unwrap();
        frame
    }

    fn icmp(from: [u8; 4], to: [u8; 4], kind: Icmpv4Type, payload: &[u8]) -> Vec<u8> {
        let ip = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64);
        let mut frame = Vec::new();
        ip.icmpv4(kind).write(&mut frame, payload).unwrap();
        frame
    }

    #[test]
    fn an_error_comes_to_the_flow_that_it_quotes() {
        let unreachable = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
        let flow = udp(A, B, (1000, 53));
        // From the other end, and from a router on the way; of the quoted packet only eight bytes
        // behind its header.
        for from in [B, ROUTER] {
            let error = icmp(from, A, unreachable.clone(), &flow[14..14 + 28]);
            assert_eq!(affinity(&error, 1), (flow_hash(&flow, 1), true));
            assert_ne!(flow_hash(&error, 1), flow_hash(&flow, 1));
            // It comes in where the flow's answers do.
            let answer = udp(B, A, (53, 1000));
            assert_eq!(quoted(&error, 1), Some(Key::read(&answer, 1).plain()));
        }
        assert_eq!((affinity(&flow, 1).1, quoted(&flow, 1)), (false, None));
        let other = icmp(B, A, unreachable, &udp(A, B, (1001, 53))[14..]);
        assert_ne!(affinity_hash(&other, 1), flow_hash(&flow, 1));
    }

    #[test]
    fn pings_are_told_apart_by_their_identifier() {
        let echo = |id, seq| IcmpEchoHeader { id, seq };
        let request = icmp(A, B, Icmpv4Type::EchoRequest(echo(7, 1)), &[0; 8]);
        let reply = icmp(B, A, Icmpv4Type::EchoReply(echo(7, 2)), &[0; 8]);
        let other = icmp(A, B, Icmpv4Type::EchoRequest(echo(8, 1)), &[0; 8]);
        assert_eq!(affinity_hash(&request, 1), affinity_hash(&reply, 1));
        assert_ne!(affinity_hash(&request, 1), affinity_hash(&other, 1));
        // An error about a ping comes to where the ping is.
        let exceeded = Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit);
        let error = icmp(ROUTER, A, exceeded, &request[14..14 + 28]);
        assert_eq!(affinity_hash(&error, 1), affinity_hash(&request, 1));
        assert_eq!(quoted(&error, 0), Some(Key::read(&reply, 0).plain()));
        assert_eq!(quoted(&request, 0), None);
    }

    #[test]
    fn the_same_for_ipv6() {
        let ip = |from: u8, to: u8| {
            let address = |n| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n];
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(address(from), address(to), 64)
        };
        let mut flow = Vec::new();
        ip(1, 2).udp(1000, 53).write(&mut flow, &[7; 20]).unwrap();
        let mut error = Vec::new();
        let kind = Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded);
        ip(9, 1).icmpv6(kind).write(&mut error, &flow[14..]).unwrap();
        assert_eq!(affinity_hash(&error, 1), flow_hash(&flow, 1));
        let echo = |from, to, kind| {
            let mut frame = Vec::new();
            ip(from, to).icmpv6(kind).write(&mut frame, &[0; 8]).unwrap();
            affinity_hash(&frame, 1)
        };
        let header = |id| IcmpEchoHeader { id, seq: 1 };
        let request = echo(1, 2, Icmpv6Type::EchoRequest(header(7)));
        assert_eq!(request, echo(2, 1, Icmpv6Type::EchoReply(header(7))));
        assert_ne!(request, echo(1, 2, Icmpv6Type::EchoRequest(header(8))));
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_hash(frame in prop::collection::vec(any::<u8>(), 0..120), seed: u64) {
            prop_assert_ne!(affinity_hash(&frame, seed), 0);
        }

        #[test]
        fn any_icmp_has_a_hash(
            payload in prop::collection::vec(any::<u8>(), 0..80),
            version in prop_oneof![Just((0x45u8, 9usize, 1u8)), Just((0x60, 6, 58))],
        ) {
            let mut frame = vec![0; 14 + 40];
            frame[12..14].copy_from_slice(if version.0 == 0x45 { &[8, 0] } else { &[0x86, 0xdd] });
            frame[14] = version.0;
            frame[14 + version.1] = version.2;
            frame.truncate(if version.0 == 0x45 { 34 } else { 54 });
            frame.extend(payload);
            let (hash, error) = affinity(&frame, 1);
            prop_assert_ne!(hash, 0);
            prop_assert_eq!(quoted(&frame, 0).is_some(), error);
        }

        #[test]
        fn of_what_is_not_icmp_it_is_the_flow_hash(a: [u8; 4], b: [u8; 4], ports: (u16, u16), seed: u64) {
            let frame = udp(a, b, ports);
            prop_assert_eq!(affinity_hash(&frame, seed), flow_hash(&frame, seed));
        }
    }
}
